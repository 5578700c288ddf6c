//! AUTH: what is offered where, the dialogue, what a user may do afterwards, and real clients.

use mailtree_tests::dialogue::{Dialogue, base64};
use mailtree_tests::host::{Host, PATIENCE, Setup};

const SECRET: &str = "secret-of-the-test";

/// A host that believes the load balancer of the tests, and these rules. Nobody may relay but by AUTH.
fn host(fields: &str, rules: &str) -> Host {
    let setup = Setup::new().smtpd(&format!("proxies: [\"127.0.0.1\"], {fields}"));
    std::fs::write(setup.home().join("tcp.smtp"), rules).unwrap();
    setup.write();
    setup.run(&["qmailctl", "cdb"]).expect(0);
    setup.start()
}

fn in_clear() -> Host {
    host("environment: {\"SMTPAUTH\": \"+cram\"}, auth_in_clear: true", ":allow\n")
}

/// A client that has said EHLO.
fn client(host: &Host, ip: &str) -> Dialogue {
    let mut client = Dialogue::proxied(host.address().get(), ip, 25).unwrap();
    client.say("EHLO client.test", 250);
    client
}

#[test]
fn in_clear_text_auth_is_neither_offered_nor_taken() {
    let host = host("environment: {\"SMTPAUTH\": \"+cram\"}", ":allow\n");
    let mut client = Dialogue::proxied(host.address().get(), "192.0.2.1", 25).unwrap();
    assert!(!client.say("EHLO client.test", 250).text().contains("AUTH"));
    let refusal = "538 5.7.11 auth not available without TLS (#5.7.11)";
    for mechanism in ["PLAIN", "LOGIN", "CRAM-MD5"] {
        assert_eq!(client.say(&format!("AUTH {mechanism}"), 538).text(), refusal);
    }
    assert_eq!(client.auth_plain("bob@mx.test", SECRET).unwrap().text(), refusal);
    assert_eq!(client.relay_code(), 553);
}

#[test]
fn the_forms_of_smtpauth() {
    let rules = "192.0.2.1:allow,SMTPAUTH=\"\"\n192.0.2.2:allow,SMTPAUTH=\"+cram\"\n\
         192.0.2.3:allow,SMTPAUTH=\"cram\"\n192.0.2.4:allow,SMTPAUTH=\"-\"\n192.0.2.5:allow,SMTPAUTH=\"!\"\n\
         192.0.2.6:allow,SMTPAUTH=\"!cram\"\n192.0.2.7:allow,SMTPAUTH=\"yes\"\n:allow\n";
    let host = host("auth_in_clear: true", rules);
    // What is offered, then the answers to PLAIN with the right password and, in a new session, to MAIL.
    for (ip, offered, plain, mail) in [
        ("192.0.2.1", "AUTH LOGIN PLAIN", 235, 250),
        ("192.0.2.2", "AUTH LOGIN PLAIN CRAM-MD5", 235, 250),
        ("192.0.2.3", "AUTH CRAM-MD5", 504, 250),
        ("192.0.2.4", "", 502, 250),
        ("192.0.2.5", "AUTH LOGIN PLAIN", 235, 530),
        ("192.0.2.6", "AUTH CRAM-MD5", 504, 530),
        ("192.0.2.7", "", 504, 530),
        ("192.0.2.8", "", 502, 250),
    ] {
        let mut client = Dialogue::proxied(host.address().get(), ip, 25).unwrap();
        let reply = client.say("EHLO client.test", 250);
        let found = reply.lines.iter().map(|line| &line[4..]).find(|line| line.starts_with("AUTH"));
        assert_eq!(found.unwrap_or_default(), offered, "{ip}");
        assert_eq!(client.auth_plain("bob@mx.test", SECRET).unwrap().code, plain, "{ip}");
        let mut client = Dialogue::proxied(host.address().get(), ip, 25).unwrap();
        client.say("EHLO client.test", 250);
        assert_eq!(client.command("MAIL FROM:<bob@mx.test>").unwrap().code, mail, "{ip}");
    }
    host.wait_log("alert: SMTPAUTH is `yes`; allowed: *");
}

#[test]
fn only_a_user_may_relay_and_stands_in_the_header() {
    let host = in_clear();
    let mut user = client(&host, "192.0.2.1");
    assert_eq!(user.relay_code(), 553);
    assert_eq!(
        user.auth_plain("bob@mx.test", "wrong").unwrap().text(),
        "535 5.7.8 authentication failed (#5.7.8)"
    );
    assert_eq!(user.relay_code(), 553);
    assert_eq!(user.auth_plain("bob@mx.test", SECRET).unwrap().text(), "235 2.7.0 ok, go ahead (#2.0.0)");
    assert_eq!(user.relay_code(), 250);
    assert!(!user.say("EHLO client.test", 250).text().contains("AUTH"));
    assert_eq!(user.relay_code(), 250);
    let again = user.auth_plain("bob@mx.test", SECRET).unwrap();
    assert_eq!(again.text(), "503 5.5.1 you're already authenticated (#5.5.1)");
    user.deliver("bob@mx.test", "bob@mx.test", "Subject: x\n\nx\n");
    let message = host.maildir("bob").wait(1, PATIENCE).remove(0);
    let header =
        "Received: from unknown (HELO client.test) (bob@mx.test@192.0.2.1)\n  by mx.test with ESMTPA; ";
    assert!(message.contains(header), "{message}");
}

#[test]
fn login_asks_twice_and_both_can_be_broken_off() {
    let host = in_clear();
    let mut client = client(&host, "192.0.2.1");
    let (user, secret) = (base64(b"bob@mx.test"), base64(SECRET.as_bytes()));
    assert_eq!(client.say("AUTH LOGIN", 334).text(), "334 VXNlcm5hbWU6");
    assert_eq!(client.say(&user, 334).text(), "334 UGFzc3dvcmQ6");
    assert_eq!(client.say("*", 501).text(), "501 5.7.0 auth exchange canceled (#5.7.0)");
    client.say("AUTH LOGIN", 334);
    assert_eq!(client.say("no*base64", 501).text(), "501 5.5.2 malformed auth input (#5.5.2)");
    client.say("MAIL FROM:<bob@mx.test>", 250);
    let refusal = "503 5.5.1 no auth during mail transaction (#5.5.1)";
    assert_eq!(client.say("AUTH LOGIN", 503).text(), refusal);
    client.say("RSET", 250);
    client.say("AUTH GSSAPI", 504);
    // The name may come with the command; a name without a domain is one of the host's own.
    client.say(&format!("AUTH LOGIN {}", base64(b"bob")), 334);
    client.say(&secret, 235);
    assert_eq!(client.relay_code(), 250);
}

#[test]
fn commands_behind_a_line_of_auth_end_the_session() {
    let host = in_clear();
    for start in ["AUTH LOGIN\r\n", "AUTH PLAIN AGJvYkBteC50ZXN0AHdyb25n\r\n"] {
        let mut client = client(&host, "192.0.2.1");
        client.send(format!("{start}MAIL FROM:<bob@mx.test>\r\n").as_bytes()).unwrap();
        let said: Vec<_> = std::iter::from_fn(|| client.reply().ok()).collect();
        assert_eq!(said.last().unwrap().text(), "554 5.5.1 SMTP protocol violation", "{said:?}");
        assert!(said.iter().all(|reply| reply.code != 250 && reply.code != 235), "{said:?}");
    }
}

mod needs_openssl {
    use super::*;

    #[test]
    fn submission_wants_tls_then_auth_then_takes_mail() {
        let services = "{ \"smtpd\": smtpd(listen: [\"127.0.0.1:0\"]), \"submission\": smtpd(listen: \
            [\"127.0.0.1:0\"], environment: {\"SMTPAUTH\": \"!\", \"FORCETLS\": \"1\"}) }";
        let host = Setup::new().field("services", services).start();
        let address = host.listens("submission");
        let mut clear = mailtree_tests::smtp::Client::connect(address).unwrap();
        clear.say("EHLO client.test", 250);
        clear.say("AUTH PLAIN", 538);
        clear.say("MAIL FROM:<bob@mx.test>", 530);
        let mut client = Dialogue::starttls(address, &[]).unwrap();
        assert!(client.say("EHLO client.test", 250).text().contains("\n250-AUTH LOGIN PLAIN\n"));
        let refusal = "530 5.7.0 Authorization required (#5.7.0)";
        assert_eq!(client.say("MAIL FROM:<bob@mx.test>", 530).text(), refusal);
        client.auth_plain("bob@mx.test", SECRET).unwrap().expect(235);
        client.deliver("bob@mx.test", "sender@mx.test", "Subject: x\n\nx\n");
        let message = host.maildir("sender").wait(1, PATIENCE).remove(0);
        let header =
            "(bob@mx.test@127.0.0.1)\n  by mx.test with (TLS_AES_256_GCM_SHA384 encrypted) ESMTPSA; ";
        assert!(message.contains(header), "{message}");
    }
}

/// A host for clients that know nothing of load balancers.
fn plain_host() -> Host {
    let setup = Setup::new().smtpd("environment: {\"SMTPAUTH\": \"+cram\"}, auth_in_clear: true");
    std::fs::write(setup.home().join("tcp.smtp"), ":allow\n").unwrap();
    setup.write();
    setup.run(&["qmailctl", "cdb"]).expect(0);
    let host = setup.start();
    super::auth_users::keep_in_clear(&host, "bob", SECRET);
    host
}

/// `count` messages came with AUTH, as vchkpw's log says too.
fn arrived(host: &Host, words: &[&str]) {
    for message in host.maildir("bob").wait(words.len(), PATIENCE) {
        let protocol = [" with ESMTPA; ", " encrypted) ESMTPSA; "].iter().any(|with| message.contains(with));
        assert!(protocol && message.contains(" (bob@mx.test@127.0.0.1)\n"), "{message}");
    }
    let port = host.address().get().port();
    let expected: Vec<_> = words
        .iter()
        .map(|word| format!("vchkpw-{port}: ({word}) login success bob@mx.test:127.0.0.1"))
        .collect();
    assert_eq!(super::auth_users::logged(host, expected.len()), expected);
}

mod needs_swaks {
    use std::process::Command;

    use mailtree_tests::host::Ran;

    use super::*;

    #[test]
    fn swaks_knows_all_mechanisms() {
        let host = plain_host();
        let swaks = |mechanism: &str, password: &str| {
            let mut swaks = Command::new("swaks");
            swaks.args(["--server", &host.address().get().to_string(), "--from", "bob@mx.test"]);
            swaks.args(["--to", "bob@mx.test", "--auth", mechanism, "--auth-user", "bob@mx.test"]);
            Ran::new(swaks.args(["--auth-password", password]))
        };
        for mechanism in ["PLAIN", "LOGIN", "CRAM-MD5"] {
            swaks(mechanism, SECRET).expect(0);
        }
        arrived(&host, &["PLAIN", "PLAIN", "CRAM-MD5"]);
        // 28: authentication failed.
        for mechanism in ["PLAIN", "LOGIN", "CRAM-MD5"] {
            swaks(mechanism, "wrong").expect(28);
        }
    }
}

mod needs_curl {
    use std::process::Command;

    use mailtree_tests::host::Ran;

    use super::*;

    #[test]
    fn curl_knows_all_mechanisms() {
        let host = plain_host();
        let letter = host.home().join("letter");
        std::fs::write(&letter, "Subject: x\n\nx\n").unwrap();
        let curl = |mechanism: &str, password: &str| {
            let mut curl = Command::new("curl");
            curl.args(["--silent", "--show-error", "--crlf", "--mail-from", "bob@mx.test"]);
            curl.args(["--mail-rcpt", "bob@mx.test", "--user", &format!("bob@mx.test:{password}")]);
            curl.args(["--login-options", &format!("AUTH={mechanism}"), "--upload-file"]).arg(&letter);
            Ran::new(curl.arg(format!("smtp://{}/client.test", host.address().get())))
        };
        for mechanism in ["PLAIN", "LOGIN", "CRAM-MD5"] {
            curl(mechanism, SECRET).expect(0);
        }
        arrived(&host, &["PLAIN", "PLAIN", "CRAM-MD5"]);
        // CURLE_LOGIN_DENIED.
        curl("PLAIN", "wrong").expect(67);
    }
}

mod needs_python3 {
    use std::process::Command;

    use mailtree_tests::host::Ran;

    use super::*;

    fn python(host: &Host, script: &str) -> String {
        let port = host.address().get().port();
        let open =
            format!("import smtplib\ndef dial(): return smtplib.SMTP('127.0.0.1', {port}, timeout=30)\n");
        Ran::new(Command::new("python3").args(["-c", &(open + script)])).expect(0).stdout
    }

    #[test]
    fn smtplib_knows_all_mechanisms() {
        let host = plain_host();
        let script = format!(
            "for name in 'plain', 'login', 'cram_md5':\n\
             \x20   s = dial(); s.ehlo(); s.user, s.password = 'bob@mx.test', '{SECRET}'\n\
             \x20   print(s.auth(name.upper().replace('_', '-'), getattr(s, 'auth_' + name))[0])\n\
             \x20   s.sendmail('bob@mx.test', ['bob@mx.test'], 'Subject: x\\r\\n\\r\\nx\\r\\n'); s.quit()\n"
        );
        assert_eq!(python(&host, &script), "235\n235\n235\n");
        arrived(&host, &["PLAIN", "PLAIN", "CRAM-MD5"]);
    }

    #[test]
    fn who_authenticated_before_starttls_is_nobody_after_it() {
        let host = plain_host();
        let script = format!(
            "s = dial(); s.login('bob@mx.test', '{SECRET}')\n\
             s.mail('bob@mx.test'); print(s.rcpt('x@far.test')[0]); s.rset()\n\
             s.starttls(); s.ehlo(); print(s.esmtp_features.get('auth'))\n\
             s.mail('bob@mx.test'); print(s.rcpt('x@far.test')[0])\n"
        );
        assert_eq!(python(&host, &script), "250\n LOGIN PLAIN CRAM-MD5\n553\n");
    }
}

mod needs_msmtp {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn msmtp_knows_all_mechanisms() {
        let host = plain_host();
        let letter = host.home().join("letter");
        std::fs::write(&letter, "From: <bob@mx.test>\nSubject: x\n\nx\n").unwrap();
        for mechanism in ["plain", "login", "cram-md5"] {
            let mut msmtp = Command::new("msmtp");
            msmtp.args(["--host=127.0.0.1", &format!("--port={}", host.address().get().port())]);
            msmtp.args([&format!("--auth={mechanism}"), "--user=bob@mx.test", "--from=bob@mx.test"]);
            msmtp.args([&format!("--passwordeval=echo {SECRET}"), "--tls=on", "--tls-certcheck=off"]);
            msmtp.args(["--file=/dev/null", "bob@mx.test"]);
            let output = msmtp.stdin(Stdio::from(std::fs::File::open(&letter).unwrap())).output().unwrap();
            assert!(output.status.success(), "{mechanism}: {output:?}");
        }
        arrived(&host, &["PLAIN", "PLAIN", "CRAM-MD5"]);
    }
}
