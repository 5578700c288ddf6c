//! A qmail host is taken over: read, said, written, and mail goes on.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;

use mailtree_tests::host::{PATIENCE, Ran, Setup, free_port};
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
            "one log for all services, on standard output: README has the multilog lines for it; what concerns clients is in \
             smtpd, logins by submission and smtps are in files of their own, too",
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
    assert!(all.contains("smtproutes:1: until mailtree can log in at a relay"), "{all}");
    assert!(!all.contains("secret-of-the-smarthost"), "{all}");
}

const STUNNEL: &str =
    "#!/bin/sh\nexec tcpserver -c 20 0 465 /usr/sbin/stunnel /var/qmail/control/smtps.conf 2>&1\n";

/// An old host with SMTP behind a stunnel that runs this.
fn behind_stunnel(exec: &str, execargs: &str) -> OldHost {
    let (old, _) = old_host();
    old.service("qmail-smtpsd", STUNNEL);
    old.control(&[("smtps.conf", &format!("cert = /c.pem\nexec = {exec}\nexecargs = {execargs}\n"))]);
    old
}

fn dry_run(old: &OldHost) -> Value {
    old.adopt(Path::new("/nonexistent/home"), &["--dry-run", "--json"]).json()
}

#[test]
fn what_a_stunnel_runs_is_taken_as_in_a_run_script() {
    let built_in = "built in: the users of vpasswd";
    let old = behind_stunnel("/var/qmail/bin/qmail-smtpd", "qmail-smtpd vchkpw /bin/true");
    let report = dry_run(&old);
    assert_eq!(row(&report, "taken", "smtpsd vchkpw")["as"], built_in);
    assert_eq!(row(&report, "taken", "smtpsd environment")["as"], "{\"SMTPAUTH\": \"\", \"SMTPS\": \"1\"}");
    let ron = report["host_ron"].as_str().unwrap();
    assert!(!ron.contains("checkpassword:"), "{ron}");
    assert_eq!(row(&report, "taken", "control/smtps.conf")["as"], "read for smtpsd: see its rows");

    let old = behind_stunnel(
        "/usr/local/bin/rblsmtpd",
        "rblsmtpd -r list.test /var/qmail/bin/qmail-smtpd /home/vpopmail/bin/vchkpw /bin/true",
    );
    let report = dry_run(&old);
    assert_eq!(row(&report, "taken", "smtpsd rblsmtpd")["as"], "[\"-r\", \"list.test\"]");
    assert_eq!(row(&report, "taken", "smtpsd vchkpw")["as"], built_in);
    let ron = report["host_ron"].as_str().unwrap();
    assert!(!ron.contains("checkpassword:"), "{ron}");
}

#[test]
fn a_program_that_says_yes_to_everybody_is_not_taken_over() {
    let old = behind_stunnel("/usr/bin/env", "env SMTPAUTH= /var/qmail/bin/qmail-smtpd /opt/yes");
    old.service(
        "qmail-submission",
        "#!/bin/sh\nSMTPAUTH=! exec tcpserver 0 587 /var/qmail/bin/qmail-smtpd mail.test /bin/true\n",
    );
    fs::create_dir_all(old.path("opt")).unwrap();
    std::os::unix::fs::symlink("/bin/true", old.path("opt/yes")).unwrap();
    let report = dry_run(&old);
    for what in ["submission checkpassword /bin/true", "smtpsd checkpassword /opt/yes"] {
        let why = row(&report, "not_yet", what)["why"].as_str().unwrap();
        assert!(why.contains("true says yes to every password: everybody could send to everywhere"), "{why}");
    }
    let ron = report["host_ron"].as_str().unwrap();
    // The one of smtpd, whose program asks.
    assert!(!ron.contains("checkpassword:") && ron.matches("SMTPAUTH").count() == 1, "{ron}");

    let setup = Setup::new();
    for program in ["/bin/true", "env A=b /bin/true"] {
        let words: Vec<_> = program.split(' ').collect();
        fs::write(
            setup.home().join("host.ron"),
            format!("(services: {{\n  \"smtpd\": smtpd(checkpassword: {words:?}),\n}})"),
        )
        .unwrap();
        for command in ["check", "up"] {
            let said = setup.run(&[command]).expect(100).stderr;
            assert!(
                said.contains("host.ron:2:") && said.contains("says yes to every password; allowed: "),
                "{said}"
            );
        }
    }
    // By a link its name is no other.
    let link = setup.home().join("yes");
    std::os::unix::fs::symlink("/bin/true", &link).unwrap();
    fs::write(
        setup.home().join("host.ron"),
        format!(
            "(services: {{\n  \"smtpd\": smtpd(listen: [\"127.0.0.1:0\"], checkpassword: [{link:?}]),\n}})"
        ),
    )
    .unwrap();
    let said = setup.run(&["check"]).expect(100).stderr;
    assert!(said.contains("services.smtpd.checkpassword: leads to ") && said.contains("says yes"), "{said}");
    let host = setup.host_ron(
        format!("(services: {{ \"smtpd\": smtpd(listen: [\"127.0.0.1:0\"], checkpassword: [{link:?}]) }})"),
        link.with_file_name("queue"),
    );
    host.launch().wait_log("*services.smtpd.checkpassword: leads to * which says yes to every password*");
}

/// What is told to be typed is what helps, wherever it is typed.
#[test]
fn the_command_of_the_refusal_rewrites_a_copy_that_was_not_relocated() {
    let (old, _) = old_host();
    let bob = "home/vpopmail/domains/corp.test/bob";
    old.write(&format!("{bob}/.qmail"), format!("/{bob}/Maildir/\n"));
    let parent = tempfile::tempdir().unwrap();
    let home = parent.path().join("new home");
    old.adopt(&home, &["--listen", "127.0.0.1", "--port-offset", "20000"]).expect(0);
    let relative = |args: &[&str]| {
        let mut command = Command::new(mailtree_tests::host::binary());
        Ran::new(command.current_dir(parent.path()).args(["--home", "new home"]).args(args))
    };
    let command = |said: &str| {
        let at = said.find("run mailtree ").unwrap_or_else(|| panic!("{said}")) + "run mailtree ".len();
        said[at..].lines().next().unwrap().to_owned()
    };
    let vpopmail = old.path("home/vpopmail").display().to_string();
    let refused = relative(&["up", "--hold"]).expect(100).stderr;
    let typed = command(&refused);
    assert_eq!(typed, format!("--home '{}' relocate /home/vpopmail {vpopmail}", home.display()));
    let checked = relative(&["check"]).expect(100).stderr;
    assert!(checked.contains(&typed) && checked.contains("/bob/.qmail: names "), "{checked}");

    // What no file names.
    let refused = relative(&["relocate", "/nowhere", &vpopmail, "--dry-run"]).expect(100);
    assert_eq!(refused.stdout, "0 files would be rewritten\n");
    let expected =
        format!("no path begins with /nowhere; the files name /home/vpopmail; run mailtree {typed}\n");
    assert!(refused.stderr.ends_with(&expected), "{}", refused.stderr);
    let refused = relative(&["relocate", "/", &vpopmail]).expect(100).stderr;
    assert!(refused.contains("OLD /; allowed: an absolute path other than /"), "{refused}");

    let mut shell = Command::new("sh");
    let line = format!("'{}' {typed}", mailtree_tests::host::binary().display());
    let said = Ran::new(shell.arg("-c").arg(line)).expect(0).stdout;
    assert!(said.contains("/bob/.qmail: 1 paths\n"), "{said}");
    assert_eq!(
        fs::read_to_string(old.path(&format!("{bob}/.qmail"))).unwrap(),
        format!("{vpopmail}/domains/corp.test/bob/Maildir/\n")
    );
    let checked = relative(&["check"]);
    assert!(!checked.stderr.contains("relocate"), "{}", checked.stderr);
    let again = relative(&["relocate", "/home/vpopmail/", &vpopmail]).expect(0);
    assert!(
        again.stderr.contains(&format!("no path begins with /home/vpopmail; the files name {vpopmail}\n")),
        "{again:#?}"
    );
}

#[test]
fn a_copy_that_leads_to_its_original_is_refused() {
    let (old, _) = old_host();
    let live = tempfile::tempdir().unwrap();
    fs::rename(old.path("var/qmail/queue"), live.path().join("queue")).unwrap();
    std::os::unix::fs::symlink(live.path().join("queue"), old.path("var/qmail/queue")).unwrap();
    let refused = old.adopt(Path::new("/nonexistent/home"), &["--dry-run"]).expect(100).stderr;
    assert!(
        refused.contains("/var/qmail/queue: leads to ") && refused.contains("not in the copy"),
        "{refused}"
    );
}

#[test]
fn what_is_missing_is_said_with_what_makes_it() {
    let (old, _) = old_host();
    fs::remove_file(old.path("var/qmail/users/cdb")).unwrap();
    fs::remove_file(old.path("home/vpopmail/domains/corp.test/vpasswd.cdb")).unwrap();
    old.control(&[("smtproutes", "a.test:relay.test user secret\n")]);
    let report = dry_run(&old);
    let next = report["next"].as_array().unwrap();
    let next: Vec<_> = next.iter().map(|step| step.as_str().unwrap()).collect();
    assert!(next.contains(&"users/cdb is missing in the copy: relocate makes it, too"), "{next:#?}");
    assert!(
        !next.iter().any(|step| step.contains("qmail-newu") || step.contains("vpasswd.cdb")),
        "{next:#?}"
    );
    let why = row(&report, "ignored", "vpasswd.cdb of 1 domains")["why"].as_str().unwrap();
    assert_eq!(why, "missing: the running host makes it from vpasswd when it next looks for a user");
    let why = row(&report, "not_yet", "control/smtproutes:1")["why"].as_str().unwrap();
    assert!(why.contains("authenticated relaying is not supported yet") && !why.contains("secret"), "{why}");
    assert!(
        next.iter().any(|step| step.contains("smtproutes:1: until mailtree can log in at a relay")),
        "{next:#?}"
    );

    // And it is so.
    let home = tempfile::tempdir().unwrap();
    old.adopt(home.path(), &["--listen", "127.0.0.1", "--port-offset", "20000"]).expect(0);
    let setup = Setup::existing(home.path());
    let vpopmail = old.path("home/vpopmail").display().to_string();
    setup.run(&["relocate", "/home/vpopmail", &vpopmail]).expect(0);
    assert!(old.path("var/qmail/users/cdb").exists());
    setup.run(&["check"]).expect(0);
}
