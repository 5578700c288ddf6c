//! Users who read what was delivered, as README tells them.

use std::process::Command;

use mailtree_tests::host::{Host, PATIENCE, Ran, Setup};

/// A host with a letter from sender in Bob's Maildir.
fn host() -> Host {
    let setup = Setup::new();
    let host = setup.start();
    host.send(
        "sender@mx.test",
        &["bob@mx.test"],
        "From: sender@mx.test\r\nSubject: hello Bob\r\n\r\nhello\r\n",
    );
    host.maildir("bob").wait(1, PATIENCE);
    host
}

mod needs_mutt {
    use super::*;

    /// mutt wants a terminal; `script` gives it one.
    #[test]
    fn mutt_shows_a_maildir_and_marks_what_was_read() {
        let host = host();
        let maildir = host.maildir("bob");
        let out = tempfile::NamedTempFile::new().unwrap();
        let keys = format!(
            "push '<pipe-message>tee {}<enter><display-message><exit><sync-mailbox><exit>'",
            out.path().display()
        );
        let line = format!(
            "mutt -n -F /dev/null -f {} -e \"unset wait_key; set folder=/\" -e \"{keys}\"",
            maildir.path().display()
        );
        let mut command = Command::new("timeout");
        command
            .args(["30", "script", "-qec", &line, "/dev/null"])
            .env("TERM", "xterm")
            .env("HOME", host.home());
        let ran = Ran::new(&mut command).expect(0);
        let piped = std::fs::read_to_string(out.path()).unwrap();
        assert!(piped.contains("Subject: hello Bob") && piped.ends_with("\nhello\n"), "{piped}{ran:#?}");
        assert_eq!(maildir.count(), 0, "the letter is still new");
        assert_eq!(std::fs::read_dir(maildir.path().join("cur")).unwrap().count(), 1);
    }
}

mod needs_dovecot {
    use std::fs;
    use std::net::TcpStream;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;
    use std::process::{Child, Stdio};

    use mailtree_tests::clamd::stop;
    use mailtree_tests::host::free_port;
    use mailtree_tests::wait::wait_for;

    use super::*;

    /// Who owns `domains`; Dovecot reads no mail as root.
    const OWNER: &str = "nobody";

    /// The lines of README for Dovecot, with this home and this owner.
    fn of_readme(home: &Path) -> String {
        let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md")).unwrap();
        let block =
            readme.split("```").find(|block| block.trim_start().starts_with("mail_location")).unwrap();
        block
            .replace("/home/you/mail/", &format!("{}/", home.display()))
            .replace("uid=mail gid=mail", &format!("uid={OWNER} gid=nogroup"))
    }

    struct Dovecot(Child);

    impl Drop for Dovecot {
        fn drop(&mut self) {
            stop(&mut self.0);
        }
    }

    mod needs_root {
        use super::*;

        #[test]
        fn dovecot_serves_the_users_with_the_lines_of_readme() {
            let mut host = host();
            host.stop();
            let home = host.home();
            let domains = home.join("domains");
            Ran::new(Command::new("chown").arg("-R").arg(format!("{OWNER}:nogroup")).arg(&domains)).expect(0);
            for dir in [home, &domains] {
                fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
            }
            let base = tempfile::tempdir().unwrap();
            fs::set_permissions(base.path(), fs::Permissions::from_mode(0o755)).unwrap();
            let (place, port) = (base.path().display(), free_port("127.0.0.1"));
            let conf = base.path().join("conf");
            let text = format!(
                "base_dir = {place}/run\nstate_dir = {place}/state\nlog_path = {place}/log\nprotocols = imap\nssl = no\n\
                 default_internal_user = {OWNER}\ndefault_internal_group = nogroup\ndefault_login_user = {OWNER}\n\
                 service anvil {{\n chroot =\n}}\nservice imap-login {{\n chroot =\n inet_listener imap {{\n  address = 127.0.0.1\n  port = {}\n }}\n \
                 inet_listener imaps {{\n  port = 0\n }}\n}}\n{}",
                port.port(),
                of_readme(home)
            );
            fs::write(&conf, text).unwrap();
            let mut command = Command::new("dovecot");
            command.arg("-F").arg("-c").arg(&conf).stdin(Stdio::null());
            let mut dovecot = Dovecot(command.spawn().unwrap());
            wait_for("dovecot to listen", PATIENCE, || {
                let log = fs::read_to_string(base.path().join("log")).unwrap_or_default();
                assert!(dovecot.0.try_wait().unwrap().is_none(), "dovecot has ended: {log}");
                TcpStream::connect(port).ok()
            });
            let ask = |password: &str| {
                let url = format!("imap://{port}/INBOX;MAILINDEX=1");
                let mut curl = Command::new("curl");
                curl.args(["-sS", "-m", "20", "-u", &format!("bob@mx.test:{password}"), &url]);
                Ran::new(&mut curl)
            };
            let log = || fs::read_to_string(base.path().join("log")).unwrap_or_default();
            let read = ask("secret-of-the-test");
            assert!(read.stdout.contains("Subject: hello Bob"), "{read:#?}\n{}", log());
            assert!(read.stdout.ends_with("\r\nhello\r\n"), "{read:#?}");
            assert_eq!(ask("another").code, Some(67), "curl: login denied");
        }
    }
}
