//! STARTTLS and TLS from the first byte: who is offered it, who must use it, and that nothing said before it counts.

use mailtree_tests::host::{Host, Setup};
use mailtree_tests::smtp::Client;

/// A host with these variables for every client, and these rules instead of those that let 127. relay.
fn host(environment: &str, rules: &str) -> Host {
    let setup = Setup::new().smtpd(&format!("environment: {{{environment}}}, proxies: [\"127.0.0.1\"]"));
    std::fs::write(setup.home().join("tcp.smtp"), rules).unwrap();
    setup.write();
    setup.run(&["qmailctl", "cdb"]).expect(0);
    setup.start()
}

/// What EHLO offers, without code and hyphen.
fn offers(client: &mut Client, keyword: &str) -> bool {
    let reply = client.say("EHLO client.test", 250);
    reply.lines.iter().any(|line| line[4..] == *keyword)
}

#[test]
fn a_new_host_offers_starttls() {
    let host = Host::start();
    let mut client = host.smtp();
    assert!(offers(&mut client, "STARTTLS"));
    assert_eq!(
        client.say("STARTTLS now", 501).text(),
        "501 5.5.4 Syntax error (no parameters allowed) (#5.5.4)"
    );
    assert_eq!(client.say("STARTTLS", 220).text(), "220 ready for tls");
}

#[test]
fn without_a_certificate_there_is_no_starttls() {
    let setup = Setup::new();
    std::fs::remove_file(setup.home().join("control/servercert.pem")).unwrap();
    let host = setup.start();
    let mut client = host.smtp();
    assert!(!offers(&mut client, "STARTTLS"));
    assert_eq!(client.say("STARTTLS", 502).text(), "502 5.5.1 unimplemented (#5.5.1)");
}

#[test]
fn mail_said_in_one_packet_with_starttls_ends_the_session() {
    let host = Host::start();
    let mut client = host.smtp();
    client.say("EHLO client.test", 250);
    client
        .send(b"STARTTLS\r\nMAIL FROM:<bob@mx.test>\r\nRCPT TO:<bob@mx.test>\r\nDATA\r\nSubject: x\r\n\r\nx\r\n.\r\n")
        .unwrap();
    let said = client.rest().unwrap_or_default();
    assert!(said.ends_with("554 5.5.1 SMTP protocol violation\r\n"), "{said:?}");
    assert!(!said.contains("250 "), "{said:?}");
    host.wait_log("tcpserver: end *");
    assert!(host.queue_files().is_empty());
    assert_eq!(host.maildir("bob").count(), 0);
}

#[test]
fn mail_said_in_clear_after_the_220_is_never_read_as_commands() {
    let host = Host::start();
    for after in [&b"RSET\r\n"[..], b"MAIL FROM:<bob@mx.test>\r\nRCPT TO:<bob@mx.test>\r\nDATA\r\n", b"\r\n"]
    {
        let mut client = host.smtp();
        client.say("EHLO client.test", 250);
        client.say("MAIL FROM:<bob@mx.test>", 250);
        client.say("STARTTLS", 220);
        client.send(after).unwrap();
        // What is left is an alert of TLS, or nothing; some systems reset a connection with unread input.
        let said = client.rest().unwrap_or_default();
        assert!(!said.contains("250 ") && !said.contains("354 "), "{said:?}");
    }
    host.wait_log("qmail-smtpd: pid * tls from 127.0.0.1 failed: *");
    assert!(host.queue_files().is_empty());
}

#[test]
fn a_client_that_hangs_up_in_the_handshake_frees_its_session() {
    let host = Host::start();
    let mut client = host.smtp();
    client.say("STARTTLS", 220);
    client.send(&[22, 3, 1, 2, 0]).unwrap();
    drop(client);
    host.wait_log("qmail-smtpd: pid * tls from 127.0.0.1 failed: connection lost: *");
    host.wait_log("tcpserver: end * status *");
}

mod needs_openssl {
    use mailtree_tests::dialogue::Dialogue;
    use mailtree_tests::host::{ME, PATIENCE};
    use mailtree_tests::smtp::like;

    use super::*;

    const SMTPS: &str = "{ \"smtpd\": smtpd(listen: [\"127.0.0.1:0\"]), \
        \"smtps\": smtpd(listen: [\"127.0.0.1:0\"], environment: {\"SMTPS\": \"1\", \"SMTPAUTH\": \"!\"}) }";

    /// The line with cipher and protocol of the only message that bob has.
    fn by(host: &Host) -> String {
        let message = host.maildir("bob").wait(1, PATIENCE).remove(0);
        let line = message.lines().find(|line| line.starts_with("  by ")).unwrap();
        line.split(';').next().unwrap().to_owned()
    }

    #[test]
    fn after_starttls_everything_is_said_anew_and_the_header_names_the_cipher() {
        let host = Host::start();
        let mut client = Dialogue::starttls(host.address().get(), &["-tls1_3"]).unwrap();
        assert_eq!(client.say("RCPT TO:<bob@mx.test>", 503).text(), "503 MAIL first (#5.5.1)");
        let reply = client.say("EHLO client.test", 250);
        assert!(!reply.text().contains("STARTTLS"), "{}", reply.text());
        assert_eq!(client.say("STARTTLS", 502).text(), "502 5.5.1 unimplemented (#5.5.1)");
        client.deliver("sender@mx.test", "bob@mx.test", "Subject: x\n\nx\n");
        client.say("QUIT", 221);
        assert_eq!(by(&host), format!("  by {ME} with (TLS_AES_256_GCM_SHA384 encrypted) ESMTPS"));
        assert_eq!(host.metrics().sum("mailtree_smtpd_tls_handshakes_total", &["result=\"ok\""]), 1.0);
    }

    #[test]
    fn after_helo_over_tls_the_protocol_is_still_esmtps() {
        let host = Host::start();
        let mut client = Dialogue::starttls(host.address().get(), &["-tls1_2"]).unwrap();
        client.say("HELO client.test", 250);
        client.deliver("sender@mx.test", "bob@mx.test", "Subject: x\n\nx\n");
        let expected = format!("  by {ME} with (ECDHE-ECDSA-*-GCM-SHA* encrypted) ESMTPS");
        assert!(like(&expected, &by(&host)), "{}", by(&host));
    }

    #[test]
    fn smtps_is_tls_from_the_first_byte() {
        let host = Setup::new().field("services", SMTPS).start();
        let mut client = Dialogue::smtps(host.listens("smtps"), &[]).unwrap();
        assert_eq!(client.greeting.text(), format!("220 {ME} ESMTP"));
        let reply = client.say("EHLO client.test", 250).text();
        assert!(reply.contains("\n250-AUTH LOGIN PLAIN\n") && !reply.contains("STARTTLS"), "{reply}");
        assert_eq!(
            client.say("MAIL FROM:<sender@mx.test>", 530).text(),
            "530 5.7.0 Authorization required (#5.7.0)"
        );
        client.auth_plain("bob@mx.test", "secret-of-the-test").unwrap().expect(235);
        client.deliver("sender@mx.test", "bob@mx.test", "Subject: x\n\nx\n");
        assert!(like("  by * with (TLS_* encrypted) ESMTPSA", &by(&host)), "{}", by(&host));
        let mut clear = mailtree_tests::smtp::dial(host.listens("smtps")).unwrap();
        std::io::Write::write_all(&mut clear, b"EHLO client.test\r\n").unwrap();
        let mut said = Vec::new();
        // An alert of TLS, or nothing.
        let read = std::io::Read::read_to_end(&mut clear, &mut said).map_err(|cause| cause.kind());
        assert!(read != Err(std::io::ErrorKind::WouldBlock), "the connection stays open");
        assert!(!said.windows(4).any(|bytes| bytes == b"220 " || bytes == b"250-"), "{said:?}");
    }

    #[test]
    fn forcetls_takes_no_mail_in_clear() {
        let host = Setup::new().smtpd("environment: {\"FORCETLS\": \"1\"}").start();
        let mut client = host.smtp();
        client.say("EHLO client.test", 250);
        let refusal = "530 5.7.0 Must issue a STARTTLS command first (#5.7.0)";
        assert_eq!(client.say("MAIL FROM:<sender@mx.test>", 530).text(), refusal);
        client.say("RCPT TO:<bob@mx.test>", 503);
        client.say("DATA", 503);
        client.say("NOOP", 250);
        let mut client = Dialogue::starttls(host.address().get(), &[]).unwrap();
        client.say("EHLO client.test", 250);
        client.deliver("sender@mx.test", "bob@mx.test", "Subject: x\n\nx\n");
        host.maildir("bob").wait(1, PATIENCE);
    }

    #[test]
    fn rules_force_or_forbid_tls_for_single_clients() {
        let rules = "192.0.2.1:allow,FORCETLS=\"1\"\n192.0.2.2:allow,DISABLETLS=\"1\"\n:allow\n";
        let host = host("", rules);
        let ask = |ip: &str| {
            let mut client = Dialogue::proxied(host.address().get(), ip, 25).unwrap();
            let offered = client.say("EHLO client.test", 250).text().contains("STARTTLS");
            let mail = client.command("MAIL FROM:<sender@far.test>").unwrap().code;
            (offered, mail, client.command("STARTTLS").unwrap().code)
        };
        assert_eq!(ask("192.0.2.1"), (true, 530, 220));
        assert_eq!(ask("192.0.2.2"), (false, 250, 502));
        assert_eq!(ask("192.0.2.3"), (true, 250, 220));
    }

    #[test]
    fn disabletls_of_the_service_forbids_starttls_to_all() {
        let host = Setup::new().smtpd("environment: {\"DISABLETLS\": \"1\"}").start();
        let mut client = host.smtp();
        assert!(!offers(&mut client, "STARTTLS"));
        client.say("STARTTLS", 502);
    }

    mod suites {
        use std::process::Command;

        use mailtree_tests::certificate::Workshop;
        use mailtree_tests::host::Ran;

        use super::*;

        const GOOD: [&str; 6] = [
            "ECDHE-ECDSA-AES256-GCM-SHA384",
            "ECDHE-ECDSA-AES128-GCM-SHA256",
            "ECDHE-ECDSA-CHACHA20-POLY1305",
            "ECDHE-RSA-AES256-GCM-SHA384",
            "ECDHE-RSA-AES128-GCM-SHA256",
            "ECDHE-RSA-CHACHA20-POLY1305",
        ];

        fn with_certificate(kind: &str) -> Host {
            let setup = Setup::new();
            let pem = Workshop::new().host(ME, kind);
            setup.control("servercert.pem", &pem).start()
        }

        /// A handshake; its protocol and suite.
        fn shake(host: &Host, args: &[&str]) -> Option<String> {
            let address = host.address().get().to_string();
            let mut openssl = Command::new("openssl");
            openssl.args(["s_client", "-connect", &address, "-starttls", "smtp"]).args(args);
            let ran = Ran::new(&mut openssl);
            let new = ran.stdout.lines().find(|line| line.starts_with("New, "));
            let new = new.unwrap_or_else(|| panic!("no handshake at all: {ran:#?}"));
            let agreed = (!new.starts_with("New, (NONE)")).then(|| new.to_owned());
            assert_eq!(agreed.is_some(), ran.code == Some(0), "{ran:#?}");
            agreed
        }

        #[test]
        fn tls_1_2_and_1_3_are_spoken_and_nothing_older() {
            let host = with_certificate("rsa:2048");
            let agreed = shake(&host, &["-tls1_3"]).unwrap();
            assert!(agreed.contains("TLSv1.3"), "{agreed}");
            let agreed = shake(&host, &["-tls1_2"]).unwrap();
            assert!(agreed.contains("ECDHE-RSA-"), "{agreed}");
            for old in ["-tls1", "-tls1_1"] {
                assert_eq!(shake(&host, &[old, "-cipher", "ALL:@SECLEVEL=0"]), None, "{old}");
            }
            host.wait_log("qmail-smtpd: pid * tls from 127.0.0.1 failed: *");
        }

        #[test]
        fn of_tls_1_2_only_suites_with_forward_secrecy_and_gcm_or_poly1305() {
            let all = ["ciphers", "-s", "-tls1_2", "ALL:COMPLEMENTOFALL:@SECLEVEL=0"];
            let all = Ran::new(Command::new("openssl").args(all)).expect(0).stdout;
            let bad: Vec<_> = all.trim().split(':').filter(|name| !GOOD.contains(name)).collect();
            for kind in
                ["AES128-SHA", "AES256-GCM-SHA384", "ECDHE-RSA-AES256-SHA384", "DHE-RSA-AES256-GCM-SHA384"]
            {
                assert!(bad.contains(&kind), "openssl does not know {kind}");
            }
            for (certificate, of) in [("rsa:2048", "-RSA-"), ("ec", "-ECDSA-")] {
                let host = with_certificate(certificate);
                let offer = |suites: &str| shake(&host, &["-tls1_2", "-cipher", suites]);
                assert_eq!(offer(&format!("{}:@SECLEVEL=0", bad.join(":"))), None, "{certificate}");
                for suite in GOOD {
                    assert_eq!(offer(suite).is_some(), suite.contains(of), "{certificate} {suite}");
                }
            }
        }
    }
}
