//! `sender: own`: whom an authenticated client may name in MAIL.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use mailtree_protocols::assign;
use mailtree_tests::dialogue::Dialogue;
use mailtree_tests::host::{Host, Setup};

const SECRET: &str = "secret-of-the-test";

const OWN: &str =
    "proxies: [\"127.0.0.1\"], auth_in_clear: true, environment: {\"SMTPAUTH\": \"\"}, sender: own";

fn setup(fields: &str) -> Setup {
    Setup::new().smtpd(fields).rules(":allow\n")
}

/// A client that has shown that it is `user`.
fn client(host: &Host, user: &str) -> Dialogue {
    let mut client = Dialogue::proxied(host.address().get(), "192.0.2.1", 25).unwrap();
    client.say("EHLO client.test", 250);
    client.auth_plain(user, SECRET).unwrap().expect(235);
    client
}

/// The answer to MAIL.
fn mail(client: &mut Dialogue, sender: &str) -> String {
    let answer = client.command(&format!("MAIL FROM:<{sender}>")).unwrap().text();
    client.say("RSET", 250);
    answer
}

fn dotqmail(setup: &Setup, name: &str, text: &str) {
    fs::write(setup.home().join("domains/mx.test").join(format!(".qmail-{name}")), text).unwrap();
}

/// Makes `alias.test` a name of mx.test.
fn alias_domain(setup: &Setup) {
    let users = setup.home().join("users");
    let mut entries = assign::parse(&fs::read(users.join("assign")).unwrap()).unwrap();
    let mut entry = entries[0].clone();
    entry.pattern = assign::Pattern::Prefix(b"alias.test-".to_vec());
    entries.push(entry);
    fs::write(users.join("assign"), assign::format(&entries)).unwrap();
    fs::write(users.join("cdb"), assign::compile(&entries).unwrap()).unwrap();
    let file = setup.home().join("control/virtualdomains");
    fs::write(&file, format!("{}alias.test:alias.test\n", fs::read_to_string(&file).unwrap())).unwrap();
}

#[test]
fn a_user_sends_as_whoever_gets_mail_with_him() {
    let setup = setup(OWN);
    alias_domain(&setup);
    dotqmail(&setup, "info", "&sender@mx.test\n&bob@alias.test\n");
    dotqmail(&setup, "first:last", "&info@mx.test\n");
    dotqmail(&setup, "bob-list", "&sender@mx.test\n");
    fs::write(setup.home().join("alias/.qmail-webmaster"), "&bob@mx.test\n").unwrap();
    let host = setup.control("locals", "local.test\n").start();
    let mut bob = client(&host, "bob");
    for sender in [
        "",
        "bob@mx.test",
        "Bob@MX.test",
        "bob@alias.test",
        "bob-shop@mx.test",
        "info@mx.test",
        "info@alias.test",
        "first.last@mx.test",
        "webmaster@local.test",
    ] {
        assert_eq!(mail(&mut bob, sender), "250 2.1.0 ok", "{sender}");
    }
    let refused = "553 5.7.1 sorry, sender address rejected: not owned by user bob@mx.test (#5.7.1)";
    for sender in [
        "sender@mx.test",
        "sender@alias.test",
        "bob-list@mx.test",
        "postmaster@mx.test",
        "postmaster",
        "nobody@mx.test",
        "bob@far.test",
        "nobody@local.test",
        "#@[]",
    ] {
        assert_eq!(mail(&mut bob, sender), refused, "{sender}");
        let sender = sender.replace('<', "?");
        let line = format!("qmail-smtpd: sender: <{sender}> is not owned by user bob@mx.test at 192.0.2.1");
        host.wait_log(&line);
        assert_eq!(host.log_lines().iter().filter(|told| **told == line).count(), 1, "{line}");
    }
    // The session goes on, and nobody else is asked who he is.
    bob.deliver("bob@mx.test", "sender@mx.test", "Subject: x\n\nx\n");
    let mut stranger = Dialogue::proxied(host.address().get(), "192.0.2.1", 25).unwrap();
    stranger.say("EHLO client.test", 250);
    assert_eq!(mail(&mut stranger, "sender@mx.test"), "250 2.1.0 ok");
    // A new alias counts at once.
    fs::write(host.home().join("domains/mx.test/.qmail-sales"), "&bob@mx.test\n").unwrap();
    assert_eq!(mail(&mut bob, "sales@mx.test"), "250 2.1.0 ok");
}

#[test]
fn what_cannot_be_looked_up_is_put_off() {
    let setup = setup(OWN);
    dotqmail(&setup, "edited", "\n&bob@mx.test\n");
    dotqmail(&setup, "writable", "&bob@mx.test\n");
    let writable = setup.home().join("domains/mx.test/.qmail-writable");
    fs::set_permissions(&writable, PermissionsExt::from_mode(0o666)).unwrap();
    fs::create_dir(setup.home().join("domains/mx.test/.qmail-directory")).unwrap();
    let host = setup.start();
    let mut bob = client(&host, "bob@mx.test");
    for name in ["edited", "writable", "directory"] {
        let answer = mail(&mut bob, &format!("{name}@mx.test"));
        assert_eq!(answer, "451 4.3.0 unable to look up whose sender address this is (#4.3.0)", "{name}");
        host.wait_log(&format!("alert: unable to look up the addresses of bob@mx.test: */.qmail-{name}: *"));
    }
    assert_eq!(mail(&mut bob, "bob@mx.test"), "250 2.1.0 ok");
}

#[test]
fn without_the_word_any_sender_is_taken() {
    let host = setup(&OWN.replace(", sender: own", "")).start();
    assert_eq!(mail(&mut client(&host, "bob"), "sender@mx.test"), "250 2.1.0 ok");
    let any = host.ask(&["explain", "ip", "192.0.2.1"]);
    assert!(any.contains("\nsender      any, after AUTH (sender: any)\n"), "{any}");
}

#[test]
fn a_new_home_wants_own_senders_where_users_hand_in_mail() {
    let keep = tempfile::tempdir().unwrap();
    let setup = Setup::at(keep.path().join("home"));
    let settings = setup.run(&["check"]).expect(0).stdout;
    for (service, value) in [("smtpd", "any"), ("submission", "own"), ("smtps", "own")] {
        let start = format!("services.{service}.sender");
        let line = settings.lines().find(|line| line.starts_with(&start)).unwrap();
        assert!(line.contains(value), "{line}");
    }
    let told = setup.run(&["explain", "ip", "192.0.2.1", "--service", "submission"]).expect(0).stdout;
    let line = "\nsender      after AUTH an address of the user's own, or none (sender: own)\n";
    assert!(told.contains(line), "{told}");
}

mod needs_root {
    mod needs_bindfs {
        use mailtree_tests::sick::Served;

        use super::super::*;

        #[test]
        fn a_domain_whose_disk_hangs_holds_up_its_own_users() {
            let setup = setup(OWN);
            setup.run(&["vadddomain", "sick.test", SECRET]).expect(0);
            dotqmail(&setup, "info", "&bob@mx.test\n");
            let served = Served::new();
            let dir = setup.home().join("domains/sick.test");
            let moved = std::process::Command::new("cp").arg("-a").arg(&dir).arg(served.back()).status();
            assert!(moved.unwrap().success());
            fs::remove_dir_all(&dir).unwrap();
            std::os::unix::fs::symlink(served.front().join("sick.test"), &dir).unwrap();
            let host = setup.start();
            let (mut sick, mut bob) = (client(&host, "postmaster@sick.test"), client(&host, "bob@mx.test"));
            let halted = served.halt();
            sick.send(b"MAIL FROM:<info@sick.test>\r\n").unwrap();
            for _ in 0..20 {
                assert_eq!(mail(&mut bob, "info@mx.test"), "250 2.1.0 ok");
            }
            assert_eq!(mail(&mut client(&host, "sender"), "sender@mx.test"), "250 2.1.0 ok");
            sick.reply().unwrap().expect(451);
            // His own address needs no file.
            assert_eq!(mail(&mut sick, "postmaster@sick.test"), "250 2.1.0 ok");
            drop(halted);
        }
    }
}
