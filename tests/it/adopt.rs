//! A qmail host is taken over: read, said, written, and mail goes on.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use mailtree_tests::host::{PATIENCE, Setup, free_port};
use mailtree_tests::letter::letter;
use mailtree_tests::maildir::Maildir;
use mailtree_tests::old_host::{OldHost, User};
use mailtree_tests::qmail::{Layout, Queue};
use mailtree_tests::smtp::Client;
use serde_json::Value;

const SMTPD: &str = "\
#!/bin/sh
QMAILDUID=`id -u vpopmail`
NOFILESGID=`id -g vpopmail`
MAXSMTPD=`cat /var/qmail/control/concurrencyincoming`
PERIPLIMIT=16
exec /usr/local/bin/softlimit -m 14680064 \\
  /usr/local/bin/tcpserver -v -H -R -l `hostname` -s $PERIPLIMIT \\
  -x ~vpopmail/etc/tcp.smtp.cdb -c $MAXSMTPD -u $QMAILDUID -g $NOFILESGID 0 PORT \\
  /usr/local/bin/rblsmtpd -bt5 -r list.test \\
  /var/qmail/bin/qmail-smtpd /home/vpopmail/bin/vchkpw /bin/true 2>&1
";

const SUBMISSION: &str = "\
#!/bin/sh
export SMTPAUTH='!' FORCETLS=1 DKQUEUE=/var/qmail/bin/qmail-queue
exec sslserver -e -n -s -c 7 127.0.0.1 465 /var/qmail/bin/qmail-smtpd mail.test /bin/checkpassword true
";

const POP3: &str =
    "#!/bin/sh\nexec tcpserver -HRv 0 pop3 qmail-popup mail.test vchkpw qmail-pop3d Maildir 2>&1\n";

/// The old host, whose smtpd has a port that is free.
fn old_host() -> (OldHost, u16) {
    let port = free_port("127.0.0.1").port();
    let old = OldHost::empty();
    old.control(&[
        ("me", "mail.test\n"),
        ("locals", "localhost\n"),
        ("rcpthosts", "localhost\ncorp.test\n"),
        ("virtualdomains", "corp.test:corp.test\n"),
        ("concurrencyincoming", "30\n"),
        ("taps", "A:boss:spy\n"),
    ]);
    old.service("qmail-smtpd", &SMTPD.replace("PORT", &port.to_string()));
    old.service("qmail-pop3d", POP3);
    old.service("qmail-send", "#!/bin/sh\nexec /var/qmail/rc\n");
    old.write("var/qmail/rc", "#!/bin/sh\nexec env - PATH=\"/var/qmail/bin:$PATH\" qmail-start ./Maildir/\n");
    old.rules("127.:allow,RELAYCLIENT=\"\",RBLSMTPD=\"\"\n18.23.0.32:deny\n:allow\n");
    old.write("var/qmail/alias/.qmail-postmaster", "&bob@corp.test\n");
    let bob =
        User { name: "bob".to_owned(), password: "$1$abc$JBQcBQhT7sLJ3ffMmFyOA.", dir: "bob".to_owned() };
    old.domain("corp.test", &[bob], "bounce-no-mailbox");
    old.assign(&[("corp.test", "corp.test")]);
    let queue = Queue::make(old.path("var/qmail/queue"), Layout::QMAIL);
    queue.inject(&letter("old", 300), "sender@far.test", &["bob@corp.test"]);
    (old, port)
}

/// The row of a list of the JSON that begins so.
pub(crate) fn row<'a>(report: &'a Value, list: &str, what: &str) -> &'a Value {
    let rows = report[list].as_array().unwrap();
    let found = rows.iter().find(|row| row["what"].as_str().unwrap().starts_with(what));
    found.unwrap_or_else(|| panic!("{list}: no {what}: {report:#}"))
}

#[test]
fn a_copy_of_a_host_is_adopted_and_its_mail_goes_on() {
    let (old, port) = old_host();
    let parent = tempfile::tempdir().unwrap();
    let home = parent.path().join("home");
    let said = old.adopt(&home, &["--listen", "127.0.0.1"]).expect(0).stdout;
    for line in
        ["Taken over\n", "Ignored\n", "Not supported yet\n", "What to do next\n", "relocate", "up --hold"]
    {
        assert!(said.contains(line), "{line}: {said}");
    }
    let setup = Setup::existing(&home);
    // Every copy names its original's directories; the table has the command.
    let vpopmail = old.path("home/vpopmail").display().to_string();
    assert!(said.contains(&format!("relocate /home/vpopmail {vpopmail} ")), "{said}");
    setup.run(&["relocate", "/home/vpopmail", &vpopmail]).expect(0);
    let checked = setup.run(&["check"]).expect(0).stdout;
    assert!(checked.contains("services.smtpd.rblsmtpd = -b -t 5 -r list.test"), "{checked}");
    let explained = setup.run(&["explain", "ip", "18.23.0.32"]).expect(0).stdout;
    assert!(explained.contains("rule        18.23.0.32: deny"), "{explained}");

    // As it was written: no other host.ron is put in its place. Metrics have a port of their own.
    let text = fs::read_to_string(home.join("host.ron")).unwrap();
    let metrics = format!("\"metrics\": metrics(listen: \"{}\")", free_port("127.0.0.1"));
    let text = text.replace("\"metrics\": metrics(listen: \"127.0.0.1:11600\")", &metrics);
    fs::write(home.join("host.ron"), text).unwrap();
    let log = fs::File::create(parent.path().join("log")).unwrap();
    let mut up = setup.command();
    let mut running = up.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
    let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
    mailtree_tests::wait::wait_until("the new host to greet", PATIENCE, || {
        Client::connect(address).is_ok_and(|client| client.greeting.code == 220)
    });
    let mut client = Client::connect(address).unwrap();
    client.say("EHLO client.test", 250);
    client.transact("sender@far.test", &["bob@corp.test"], &letter("new", 300)).unwrap().expect(250);
    client.say("QUIT", 221);
    // The new message, and the one that the old host had accepted.
    Maildir::new(old.path("home/vpopmail/domains/corp.test/bob/Maildir")).wait(2, PATIENCE);
    running.kill().unwrap();
    running.wait().unwrap();
}

#[test]
fn every_part_is_named_with_what_becomes_of_it() {
    let (old, _) = old_host();
    old.service("qmail-smtps", SUBMISSION);
    old.write("var/qmail/control/locals", "localhost\nold.test\n");
    old.service("perl", "#!/usr/bin/perl\n");
    old.rules(":allow,QMAILQUEUE=\"/var/qmail/bin/simscan\",BADMIMETYPE=\"\"\n");
    old.write("etc/tcp.smtp", ":allow\n");
    let before = old.listing();
    let home = tempfile::tempdir().unwrap();
    let report =
        old.adopt(&home.path().join("home"), &["--dry-run", "--json", "--port-offset", "20000"]).json();
    assert_eq!(old.listing(), before, "the old host was changed");
    assert!(!home.path().join("home").exists());
    for (list, what, key, value) in [
        ("taken", "smtpd concurrency", "as", "control/concurrencyincoming (30)"),
        ("taken", "smtpd per_ip", "as", "16"),
        ("taken", "smtpd vchkpw", "as", "built in: the users of vpasswd"),
        ("taken", "smtpd environment", "as", "{\"SMTPAUTH\": \"\"}"),
        ("taken", "smtpd auth_in_clear", "as", "true"),
        ("taken", "smtps listen", "as", "[\"127.0.0.1:20465\"]"),
        ("taken", "smtps concurrency", "as", "7"),
        ("taken", "smtps reverse_dns", "as", "on"),
        ("taken", "smtps checkpassword", "as", "[\"/bin/checkpassword\", \"true\"]"),
        ("taken", "QMAILQUEUE in 1 rules", "as", "built in; control/simcontrol says what is scanned"),
        ("taken", "source of the rules", "as", "compiled by mailtree qmailctl cdb"),
        ("taken", "queue", "as", "1 messages, 1 of them not preprocessed; conf-split 23"),
        ("taken", "control/me", "as", "mail.test"),
        ("ignored", "rules", "why", "no run script names its database"),
        (
            "ignored",
            "log of smtpd",
            "why",
            "the log goes to standard output; README has the multilog lines that keep these files",
        ),
        (
            "not_yet",
            "smtpd softlimit -m 14680064",
            "why",
            "one process serves all; host.ron's programs: (memory: …) limits programs",
        ),
        ("not_yet", "smtps DKQUEUE", "why", "DomainKeys: no message is signed or verified"),
        ("not_yet", "BADMIMETYPE", "why", "badmimetypes: use attach in control/simcontrol"),
        (
            "not_yet",
            "local domains old.test",
            "why",
            "aliases get their mail; that of system users stays in the queue with a text that says so",
        ),
        ("not_yet", "control/taps", "why", "taps: no copies are sent"),
        ("not_yet", "pop3d", "why", "POP3; leave this service running: it reads the same Maildirs"),
        ("not_yet", "perl", "why", "`/usr/bin/perl` on the first line; allowed: #!/bin/sh, or another shell"),
    ] {
        assert_eq!(row(&report, list, what)[key], value, "{what}");
    }
    assert!(report["host_ron"].as_str().unwrap().contains("\"SMTPS\": \"1\""), "{report:#}");
    assert!(report["next"].as_array().unwrap().iter().any(|step| step.as_str().unwrap().contains(" check")));
}

#[test]
fn what_cannot_be_adopted_is_refused_by_name() {
    let (old, _) = old_host();
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("host.ron"), "(grace: \"1s\")").unwrap();
    let refused = old.adopt(home.path(), &[]).expect(100).stderr;
    assert!(
        refused.starts_with("adopt: fatal: ") && refused.contains("host.ron: there already"),
        "{refused}"
    );
    assert_eq!(fs::read_to_string(home.path().join("host.ron")).unwrap(), "(grace: \"1s\")");
    old.adopt(home.path(), &["--force"]).expect(0);
    let refused = old.adopt(home.path(), &["--qmail-home", "/opt/qmail", "--dry-run"]).expect(100).stderr;
    assert!(refused.contains("/opt/qmail/control/me: missing; allowed: a qmail's directory"), "{refused}");
    let refused = old.adopt(home.path(), &["--qmail-home", "qmail", "--dry-run"]).expect(100).stderr;
    assert_eq!(refused, "adopt: fatal: --qmail-home qmail; allowed: an absolute path\n");
}

#[test]
fn what_files_say_reaches_no_terminal_raw() {
    let (old, _) = old_host();
    old.service(
        "qmail-smtpd2",
        "exec tcpserver -c '\x1b[2J' 0 2626 evil$(printf x)\x1b]0x\x07 qmail-smtpd /bin/c",
    );
    old.write("var/qmail/control/\x1b[31mred", "x\n");
    old.write("var/qmail/control/smtproutes", ":relay.test user secret-of-the-smarthost\n");
    let ran = old.adopt(Path::new("/nonexistent/home"), &["--dry-run"]).expect(0);
    let all = format!("{}{}", ran.stdout, ran.stderr);
    assert!(all.chars().all(|c| c == '\n' || !c.is_control()), "{all:?}");
    assert!(all.contains("\\u{1b}[31mred"), "{all}");
    assert!(all.contains("smtproutes:1: mail that it concerns waits until then"), "{all}");
    assert!(!all.contains("secret-of-the-smarthost"), "{all}");
}
