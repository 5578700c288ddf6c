//! Clients that nobody here wrote.

use std::io::Write;
use std::process::Command;

use mailtree_tests::host::{Host, PATIENCE, Ran};

const TEXT: &str =
    "From: <sender@mx.test>\nTo: <bob@mx.test>\nSubject: a client\n\n.a line with a dot\nGr\u{fc}\u{df}e\n";

fn text_file() -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(TEXT.as_bytes()).unwrap();
    file
}

fn arrived(host: &Host) {
    let delivered = host.maildir("bob").wait(1, PATIENCE).remove(0);
    assert!(delivered.ends_with(TEXT), "{delivered}");
}

mod needs_swaks {
    use super::*;

    #[test]
    fn swaks_sends_a_file() {
        let host = Host::start();
        let file = text_file();
        let mut swaks = Command::new("swaks");
        swaks.args([
            "--server",
            &host.address().get().to_string(),
            "--from",
            "sender@mx.test",
            "--to",
            "bob@mx.test",
        ]);
        Ran::new(swaks.arg("--data").arg(format!("@{}", file.path().display()))).expect(0);
        let delivered = host.maildir("bob").wait(1, PATIENCE).remove(0);
        // swaks adds an empty line at the end.
        assert!(delivered.trim_end().ends_with(TEXT.trim_end()), "{delivered}");
    }

    #[test]
    fn swaks_pipelines() {
        let host = Host::start();
        let mut swaks = Command::new("swaks");
        swaks.args(["--server", &host.address().get().to_string(), "--from", "sender@mx.test", "--pipeline"]);
        Ran::new(swaks.args(["--to", "bob@mx.test,sender@mx.test", "--body", "piped"])).expect(0);
        for user in ["bob", "sender"] {
            let delivered = host.maildir(user).wait(1, PATIENCE).remove(0);
            assert!(delivered.contains("piped"), "{delivered}");
        }
    }
}

mod needs_curl {
    use super::*;

    #[test]
    fn curl_uploads_a_file() {
        let host = Host::start();
        let file = text_file();
        let mut curl = Command::new("curl");
        curl.args([
            "--silent",
            "--show-error",
            "--crlf",
            "--mail-from",
            "sender@mx.test",
            "--mail-rcpt",
            "bob@mx.test",
        ]);
        curl.arg("--upload-file")
            .arg(file.path())
            .arg(format!("smtp://{}/client.test", host.address().get()));
        Ran::new(&mut curl).expect(0);
        arrived(&host);
    }
}

mod needs_python3 {
    use super::*;

    fn smtplib(host: &Host, script: &str) -> Ran {
        let address = host.address().get();
        let connect =
            format!("import smtplib\ns = smtplib.SMTP('127.0.0.1', {}, timeout=30)\n", address.port());
        Ran::new(Command::new("python3").args(["-c", &format!("{connect}{script}")]))
    }

    #[test]
    fn smtplib_sends_a_message() {
        let host = Host::start();
        let bytes =
            TEXT.replace('\n', "\r\n").bytes().map(|byte| format!("\\x{byte:02x}")).collect::<String>();
        let script = format!(
            "print(s.sendmail('sender@mx.test', ['bob@mx.test'], b'{bytes}', ['BODY=8BITMIME']))\ns.quit()"
        );
        assert_eq!(smtplib(&host, &script).expect(0).stdout, "{}\n");
        arrived(&host);
    }

    #[test]
    fn smtplib_sends_an_international_address_with_smtputf8() {
        let host = Host::start();
        let script = "print(s.sendmail('gr\u{fc}n@mx.test', ['bob@mx.test'], 'Subject: x\\r\\n\\r\\nx\\r\\n', ['SMTPUTF8']))";
        assert_eq!(smtplib(&host, script).expect(0).stdout, "{}\n");
        let delivered = host.maildir("bob").wait(1, PATIENCE).remove(0);
        assert!(delivered.starts_with("Return-Path: <gr\u{fc}n@mx.test>\n"), "{delivered}");
    }

    #[test]
    fn smtplib_sends_a_hundred_messages_in_one_session() {
        let host = Host::start();
        let script = "for n in range(100): s.sendmail('sender@mx.test', ['bob@mx.test'], f'Subject: {n}\\r\\n\\r\\nx\\r\\n')";
        smtplib(&host, script).expect(0);
        let delivered = host.maildir("bob").wait(100, PATIENCE);
        for number in 0..100 {
            assert!(
                delivered.iter().any(|text| text.contains(&format!("\nSubject: {number}\n"))),
                "{number} is missing"
            );
        }
    }
}
