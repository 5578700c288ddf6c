//! Clients that nobody here wrote, over TLS. Those that can verify the host's certificate do.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use mailtree_tests::host::{Host, PATIENCE, Ran, Setup};

const TEXT: &str = "From: <sender@mx.test>\nTo: <bob@mx.test>\nSubject: a client\n\nover TLS\n";

/// A host with the two doors, and its certificate alone in a file.
fn host() -> (Host, PathBuf) {
    let services = "{ \"smtpd\": smtpd(listen: [\"127.0.0.1:0\"], environment: {\"FORCETLS\": \"1\"}), \
        \"smtps\": smtpd(listen: [\"127.0.0.1:0\"], environment: {\"SMTPS\": \"1\"}) }";
    let host = Setup::new().field("services", services).start();
    let pem = fs::read_to_string(host.home().join("control/servercert.pem")).unwrap();
    let certificate = host.home().join("trusted.pem");
    fs::write(&certificate, pem.split_inclusive("-----END CERTIFICATE-----\n").next().unwrap()).unwrap();
    (host, certificate)
}

/// Both messages arrived, each over TLS.
fn arrived(host: &Host, count: usize) {
    for message in host.maildir("bob").wait(count, PATIENCE) {
        assert!(message.contains(" encrypted) ESMTPS;") && message.contains("over TLS"), "{message}");
    }
}

mod needs_swaks {
    use super::*;

    #[test]
    fn swaks_uses_starttls_and_smtps() {
        let (host, _) = host();
        for (service, option) in [("smtpd", "--tls"), ("smtps", "--tls-on-connect")] {
            let mut swaks = Command::new("swaks");
            swaks.args([
                "--server",
                "127.0.0.1",
                "--port",
                &host.listens(service).port().to_string(),
                option,
            ]);
            swaks.args(["--from", "sender@mx.test", "--to", "bob@mx.test", "--body", "over TLS"]);
            Ran::new(&mut swaks).expect(0);
        }
        arrived(&host, 2);
    }
}

mod needs_curl {
    use super::*;

    #[test]
    fn curl_verifies_the_certificate() {
        let (host, certificate) = host();
        let letter = host.home().join("letter");
        fs::write(&letter, TEXT).unwrap();
        let send = |service: &str, scheme: &str, name: &str| {
            let port = host.listens(service).port();
            let mut curl = Command::new("curl");
            curl.args(["--silent", "--show-error", "--crlf", "--ssl-reqd"]);
            curl.args(["--mail-from", "sender@mx.test", "--mail-rcpt", "bob@mx.test"]);
            curl.args(["--resolve", &format!("{name}:{port}:127.0.0.1")]);
            curl.arg("--cacert").arg(&certificate).arg("--upload-file").arg(&letter);
            Ran::new(curl.arg(format!("{scheme}://{name}:{port}/client.test")))
        };
        send("smtpd", "smtp", "mx.test").expect(0);
        send("smtps", "smtps", "mx.test").expect(0);
        // CURLE_PEER_FAILED_VERIFICATION.
        send("smtpd", "smtp", "other.test").expect(60);
        arrived(&host, 2);
    }
}

mod needs_python3 {
    use super::*;

    #[test]
    fn smtplib_uses_starttls_and_smtps() {
        let (host, certificate) = host();
        let [clear, tls] = ["smtpd", "smtps"].map(|service| host.listens(service).port());
        let script = format!(
            "import smtplib, ssl\n\
             text = 'Subject: x\\r\\n\\r\\nover TLS\\r\\n'\n\
             trust = ssl.create_default_context(cafile='{}')\n\
             trust.check_hostname = False\n\
             s = smtplib.SMTP('127.0.0.1', {clear}, timeout=30)\n\
             print(s.mail('sender@mx.test')[0])\n\
             s.starttls(context=trust)\n\
             print(s.sendmail('sender@mx.test', ['bob@mx.test'], text))\n\
             s.quit()\n\
             s = smtplib.SMTP_SSL('127.0.0.1', {tls}, timeout=30, context=trust)\n\
             print(s.sendmail('sender@mx.test', ['bob@mx.test'], text), s.sock.version())\n\
             s.quit()\n",
            certificate.display()
        );
        let ran = Ran::new(Command::new("python3").args(["-c", &script])).expect(0);
        assert_eq!(ran.stdout, "530\n{}\n{} TLSv1.3\n");
        arrived(&host, 2);
    }
}

mod needs_msmtp {
    use std::process::Stdio;

    use super::*;

    #[test]
    fn msmtp_verifies_the_certificate() {
        let (host, certificate) = host();
        let letter = host.home().join("letter");
        fs::write(&letter, TEXT).unwrap();
        for (service, starttls) in [("smtpd", "on"), ("smtps", "off")] {
            let mut msmtp = Command::new("msmtp");
            msmtp.args(["--host=127.0.0.1", &format!("--port={}", host.listens(service).port())]);
            msmtp.args(["--tls=on", &format!("--tls-starttls={starttls}"), "--tls-host-override=mx.test"]);
            msmtp.arg(format!("--tls-trust-file={}", certificate.display()));
            msmtp.args(["--file=/dev/null", "--from=sender@mx.test", "bob@mx.test"]);
            let output = msmtp.stdin(Stdio::from(fs::File::open(&letter).unwrap())).output().unwrap();
            assert!(output.status.success(), "{output:?}");
        }
        arrived(&host, 2);
    }
}
