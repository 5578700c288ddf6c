//! A toaster is taken over: notqmail, vpopmail and daemontools, hundreds of users, mail that waits. What its administrator
//! typed goes on, what his files say is in force, and what he gets back is a qmail's.

mod toaster;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::Command;
use std::time::SystemTime;

use mailtree_tests::dialogue::base64;
use mailtree_tests::host::{Host, PATIENCE, Ran, binary, free_port};
use mailtree_tests::letter::{letter, read};
use mailtree_tests::old_host::OldHost;
use mailtree_tests::peer::Peer;
use mailtree_tests::proxy::dial_as;
use mailtree_tests::smtp::{Client, like, play_on};
use mailtree_tests::stranger::{connect, rcpt};
use mailtree_tests::wait::wait_until;

use self::toaster::{PASSWORD, QMAIL, Toaster, VPOPMAIL, is_root, own, owner, rules};
use crate::adopt::row;

/// One message in a session of its own; the reply to its end, or the first that is no success.
#[track_caller]
fn send(host: &Host, ip: &str, from: &str, to: &str, name: &str) -> String {
    let mut client = host.from(ip);
    client.say("EHLO client.test", 250);
    client.transact(from, &[to], &letter(name, 600)).unwrap().text()
}

/// A session that has logged in with the old password.
fn logged_in(mut client: Client, helo: &str) -> Client {
    let hello = client.say(&format!("EHLO {helo}"), 250).text();
    assert!(hello.contains("\n250-AUTH LOGIN PLAIN\n"), "{hello}");
    client.say(&format!("AUTH PLAIN {}", base64(format!("\0u150@corp.test\0{PASSWORD}").as_bytes())), 235);
    client
}

/// Names of the letters that a peer has taken.
fn names(peer: &Peer) -> BTreeSet<String> {
    peer.received().iter().map(|received| read(&received.data).unwrap()).collect()
}

/// Every path of the old host with its mode and owner; a file that only administrators change with its size and time, too.
fn paths(old: &OldHost) -> BTreeMap<PathBuf, String> {
    let mut find = Command::new("find");
    find.arg(old.root()).args(["-type", "f", "-not", "-path", "*/queue/lock/*"]);
    find.args(["-printf", "%P\t%m %U %G %s %T@\n", "-o", "-printf", "%P\t%y %m %U %G\n"]);
    let listed = Ran::new(&mut find).expect(0).stdout;
    let row = |line: &str| line.split_once('\t').map(|(path, rest)| (path.into(), rest.to_owned())).unwrap();
    listed.lines().map(row).collect()
}

#[test]
fn what_adopt_says_of_a_toaster() {
    let toaster = Toaster::make();
    let before = toaster.old.listing();
    let home = tempfile::tempdir().unwrap();
    let report = toaster
        .old
        .adopt(&home.path().join("home"), &["--listen", "127.0.0.1", "--dry-run", "--json"])
        .json();
    assert_eq!(toaster.old.listing(), before, "the old host was changed");
    for (list, what, key, value) in [
        ("taken", "smtpd listen", "as", "[\"127.0.0.1:25\"]"),
        ("taken", "smtpd concurrency", "as", "control/concurrencyincoming (30)"),
        ("taken", "smtpd per_ip", "as", "16"),
        ("taken", "smtpd reverse_dns", "as", "off"),
        (
            "taken",
            "smtpd rblsmtpd",
            "as",
            "[\"-r\", \"bl.spamcop.net\", \"-r\", \"sbl.spamhaus.org\", \"-r\", \"cbl.abuseat.org\"]",
        ),
        ("taken", "smtpd vchkpw", "as", "built in: the users of vpasswd"),
        ("taken", "smtpd environment", "as", "{\"SMTPAUTH\": \"\", \"CHKUSER_START\": \"DOMAIN\"}"),
        ("taken", "smtpd auth_in_clear", "as", "true"),
        ("taken", "submission listen", "as", "[\"127.0.0.1:587\"]"),
        ("taken", "submission concurrency", "as", "20"),
        ("taken", "submission environment", "as", "{\"SMTPAUTH\": \"!\", \"CHKUSER_START\": \"DOMAIN\"}"),
        ("taken", "rules", "as", "49 rules, 12 of them deny"),
        ("taken", "source of the rules", "as", "compiled by mailtree qmailctl cdb"),
        (
            "taken",
            "QMAILQUEUE in 1 rules: /var/qmail/bin/simscan",
            "as",
            "built in; control/simcontrol says what is scanned",
        ),
        ("taken", "QMAILQUEUE in 1 rules: /var/qmail/bin/qmail-queue", "as", "the queue of this host"),
        ("taken", "control/databytes", "as", "20971520"),
        ("taken", "control/morercpthosts", "as", "the source of morercpthosts.cdb"),
        ("taken", "control/smtproutes", "as", "4 routes"),
        ("taken", "control/spfbehavior", "as", "3"),
        ("taken", "users/assign", "as", "5 virtual domains"),
        ("taken", "users", "as", "5 virtual domains"),
        ("taken", "queue", "as", "8 messages, 1 of them not preprocessed; conf-split 23"),
        ("not_yet", "pop3ds", "why", "POP3; leave this service running: it reads the same Maildirs"),
        (
            "not_yet",
            "smtpd softlimit -m 14680064",
            "why",
            "one process serves all; host.ron's programs: (memory: …) limits programs",
        ),
    ] {
        assert_eq!(row(&report, list, what)[key], value, "{what}");
    }
    let people = report["taken"].as_array().unwrap().iter().find(|row| row["what"] == "users").unwrap();
    assert_eq!(people["as"], "263 in 4 directories");
}

#[test]
fn mail_goes_on_both_ways_and_the_tree_stays_a_qmails() {
    let toaster = Toaster::make();
    let (setup, _parent) = toaster.adopt();
    let checked = setup.run(&["check"]).expect(0).stdout;
    assert!(checked.contains("services.smtpd.per_ip = 16"), "{checked}");
    let before = paths(&toaster.old);
    let mut host = setup.start();

    // What the old host had accepted.
    toaster.maildir("corp.test", "1/u200").wait(2, PATIENCE);
    toaster.maildir("open.test", "boss").wait(1, PATIENCE);
    let bounce = toaster.maildir("corp.test", "u005").wait(1, PATIENCE).remove(0);
    assert!(bounce.contains("<no@far.test>:\nDoes not like recipient.\n"), "{bounce}");
    toaster.smarthost.wait(toaster.deferred.len(), PATIENCE);
    host.wait_queue_empty(PATIENCE);
    let waited: BTreeSet<String> = (0..5).map(|n| format!("waits-{n}")).collect();
    assert_eq!(names(&toaster.smarthost), waited);

    // In.
    for (to, domain, dir, count) in [
        ("u150@corp.test", "corp.test", "0/u150", 1),
        ("U250@Alias.Test", "corp.test", "1/u250", 1),
        ("u000@corp.test", "corp.test", "u000", 1),
        ("sales@corp.test", "corp.test", "u003", 1),
        ("first.last@alias.test", "corp.test", "u003", 2),
        ("u199@corp.test", "corp.test", "u003", 3),
        ("staff@corp.test", "corp.test", "1/u204", 1),
        ("whoever@open.test", "open.test", "boss", 2),
        ("postmaster@mail.test", "corp.test", "u006", 1),
        ("list-owner-x@mail.test", "corp.test", "u006", 2),
    ] {
        assert!(send(&host, "192.0.2.1", "a@good.test", to, to).starts_with("250 "), "{to}");
        let texts = toaster.maildir(domain, dir).wait(count, PATIENCE);
        assert!(texts.iter().any(|text| text.contains(&format!("X-Letter: {to} "))), "{to}: {texts:#?}");
    }
    toaster.maildir("corp.test", "u004").wait(1, PATIENCE);
    toaster.maildir("corp.test", "0/u104").wait(1, PATIENCE);
    assert!(send(&host, "192.0.2.1", "a@good.test", "anybody@small.test", "gone").starts_with("250 "));
    assert_eq!(
        send(&host, "192.0.2.1", "a@good.test", "nobody@alias.test", "nobody"),
        "550 5.1.1 sorry, no mailbox here by that name (chkuser)"
    );
    assert_eq!(
        send(&host, "192.0.2.1", "a@good.test", "u008@corp.test", "trap"),
        "553 5.7.1 sorry, your envelope recipient has been denied (#5.7.1)"
    );
    // For whom it is a backup, through the smarthost as everything that is not here.
    assert!(send(&host, "192.0.2.1", "a@good.test", "x@backup59.test", "backup").starts_with("250 "));

    // Out.
    assert!(send(&host, "192.0.2.1", "a@good.test", "away@corp.test", "forwarded").starts_with("250 "));
    assert!(send(&host, "192.168.88.150", "a@good.test", "x@far.test", "by-address").starts_with("250 "));
    let mut user = logged_in(connect(host.listens("submission"), "192.0.2.1".parse().unwrap()), "laptop");
    user.transact("u150@corp.test", &["x@far.test"], &letter("by-login", 600)).unwrap().expect(250);
    toaster.smarthost.wait(toaster.deferred.len() + 4, PATIENCE);
    let sent = names(&toaster.smarthost);
    for name in ["backup", "forwarded", "by-address", "by-login"] {
        assert!(sent.contains(name), "{name}: {sent:?}");
    }

    // Each form of a route: a host, everything below a domain by its own exchangers, which are none, a closed port.
    send(&host, "198.51.100.1", "u007@corp.test", "x@example.test", "routed");
    toaster.example.wait(1, PATIENCE);
    assert_eq!(names(&toaster.example), ["routed".to_owned()].into());
    send(&host, "198.51.100.30", "u007@corp.test", "x@base.af.mil", "looked-up");
    let bounce = toaster.maildir("corp.test", "u007").wait(1, PATIENCE).remove(0);
    assert!(bounce.contains("I couldn't find any host named base.af.mil. (#5.1.2)"), "{bounce}");
    send(&host, "198.51.100.30", "u007@corp.test", "x@closed.test", "stays");
    host.wait_log("delivery *: deferral: Sorry,_I_wasn't_able_to_establish_an_SMTP_connection._(#4.4.1)/");

    host.stop();
    // One message is left, in qmail's own files with their owners and modes.
    let left: Vec<_> = toaster.queue.files();
    let kinds: Vec<_> = left.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds, ["mess", "info", "remote"], "{left:#?}");
    assert_eq!(toaster.queue.misplaced(), Vec::<PathBuf>::new());
    for (kind, path) in &left {
        let found = fs::metadata(path).unwrap();
        let mode = if *kind == "mess" { 0o644 } else { 0o600 };
        assert_eq!(found.permissions().mode() & 0o777, mode, "{}", path.display());
        if is_root() {
            assert_eq!((found.uid(), found.gid()), (owner(kind), QMAIL), "{}", path.display());
        }
    }
    // Nothing is new but mail, and the times of logins.
    let after = paths(&toaster.old);
    for (path, data) in &before {
        let gone = path.starts_with("var/qmail/queue") && !after.contains_key(path);
        assert!(
            gone || after.get(path) == Some(data),
            "{}: {data}, now {:?}",
            path.display(),
            after.get(path)
        );
    }
    let new: Vec<_> = after.into_keys().filter(|path| !before.contains_key(path)).collect();
    let known = |path: &PathBuf| {
        let text = path.to_string_lossy();
        text.contains("/Maildir/new/")
            || text.ends_with("/lastauth")
            || text == "var/qmail/queue/journal"
            || left.iter().any(|(_, left)| left.ends_with(path))
    };
    let strange: Vec<_> = new.iter().filter(|path| !known(path)).collect();
    assert!(strange.is_empty(), "{strange:#?}");
    if is_root() {
        for path in new.iter().filter(|path| path.starts_with("home/vpopmail")) {
            let found = fs::metadata(toaster.old.root().join(path)).unwrap();
            assert_eq!((found.uid(), found.gid()), (VPOPMAIL, VPOPMAIL), "{}", path.display());
        }
    }
}

/// A client says this to smtpd, hears that, and these lines are in the log.
const CLIENTS: &[(&str, &str, &[&str])] = &[
    // tcp.smtp: deny.
    (
        "18.23.0.32",
        "S: (closes)",
        &["tcpserver: deny * mail.test:198.51.100.25:25 :18.23.0.32::40000", "tcpserver: end * status 25600"],
    ),
    ("203.0.113.10", "S: (closes)", &["tcpserver: deny * mail.test:198.51.100.25:25 :203.0.113.10::40000"]),
    ("203.0.113.20", "S: (closes)", &["tcpserver: deny * mail.test:198.51.100.25:25 :203.0.113.20::40000"]),
    (
        "203.0.113.21",
        "S: 220 mail.test ESMTP",
        &["tcpserver: ok * mail.test:198.51.100.25:25 :203.0.113.21::40000"],
    ),
    // RBLSMTPD, and the lists in the script.
    (
        "22.33.44.55",
        "S: 220 rblsmtpd.local
         C: HELO client.test
         S: 250 rblsmtpd.local
         C: MAIL FROM:<a@good.test>
         S: 250 rblsmtpd.local
         C: RCPT TO:<u001@corp.test>
         S: 451 halt thy spam!
         C: QUIT
         S: 221 rblsmtpd.local",
        &["rblsmtpd: 22.33.44.55 pid *: 451 halt thy spam!"],
    ),
    (
        "33.44.55.66",
        "S: 220 rblsmtpd.local
         C: RCPT TO:<u001@corp.test>
         S: 553 halt thy spam!",
        &["rblsmtpd: 33.44.55.66 pid *: 553 halt thy spam!"],
    ),
    (
        "192.0.2.66",
        "S: 220 rblsmtpd.local
         C: RCPT TO:<u001@corp.test>
         S: 451 Blocked - see bl.spamcop.net",
        &["rblsmtpd: 192.0.2.66 pid *: 451 Blocked - see bl.spamcop.net"],
    ),
    (
        "192.0.2.67",
        "S: 220 rblsmtpd.local
         C: RCPT TO:<u001@corp.test>
         S: 451 Blocked - see cbl.abuseat.org",
        &[],
    ),
    // A mail host that is never refused: it is on a list, and SPF says fail.
    (
        "11.22.33.44",
        "S: 220 mail.test ESMTP
         C: HELO client.test
         S: 250 mail.test
         C: MAIL FROM:<a@spf.test>
         S: 250 ok
         C: RCPT TO:<u001@corp.test>
         S: 250 ok",
        &[],
    ),
    // spfbehavior 3, and 0 for one.
    (
        "192.0.2.8",
        "S: 220 mail.test ESMTP
         C: HELO client.test
         S: 250 mail.test
         C: MAIL FROM:<a@spf.test>
         S: 250 ok
         C: RCPT TO:<u001@corp.test>
         S: 550 * (#5.7.1)",
        &[],
    ),
    (
        "44.55.66.77",
        "S: 220 mail.test ESMTP
         C: HELO client.test
         S: 250 mail.test
         C: MAIL FROM:<a@spf.test>
         S: 250 ok
         C: RCPT TO:<u001@corp.test>
         S: 250 ok",
        &[],
    ),
    (
        "192.0.2.9",
        "S: 220 mail.test ESMTP
         C: HELO client.test
         S: 250 mail.test
         C: MAIL FROM:<x@Domain.tld>
         S: 250 ok
         C: RCPT TO:<u001@corp.test>
         S: 553 sorry, your envelope sender is in my badmailfrom list (#5.7.1)
         C: RCPT TO:<u002@corp.test>
         S: 553 sorry, your envelope sender is in my badmailfrom list (#5.7.1)",
        &["qmail-smtpd: badmailfrom: <x@Domain.tld> at 192.0.2.9"],
    ),
    // A message comes in.
    (
        "192.0.2.10",
        "S: 220 mail.test ESMTP
         C: HELO [192.168.88.150]
         S: 250 mail.test
         C: MAIL FROM:<a@good.test>
         S: 250 ok
         C: RCPT TO:<any@open.test>
         S: 250 ok
         C: DATA
         S: 354 go ahead
         C: Subject: Test attachment
         C:
         C: .
         S: 250 ok *
         C: QUIT
         S: 221 mail.test",
        &[
            "tcpserver: ok * mail.test:198.51.100.25:25 :192.0.2.10::40000",
            "CHKUSER accepted sender: from <a@good.test::> remote <[192.168.88.150]:unknown:192.0.2.10> rcpt <> : sender accepted",
            "CHKUSER accepted any rcpt: from <a@good.test::> remote <[192.168.88.150]:unknown:192.0.2.10> rcpt <any@open.test> : accepted any recipient for this domain",
        ],
    ),
    // A scanner is down for those that want one.
    (
        "192.0.2.11",
        "S: 220 mail.test ESMTP
         C: HELO client.test
         S: 250 mail.test
         C: MAIL FROM:<a@good.test>
         S: 250 ok
         C: RCPT TO:<boss@shop.test>
         S: 250 ok
         C: DATA
         S: 354 go ahead
         C: .
         S: 451 mail server temporarily rejected message (#4.3.0)",
        &["simscan:[*]: warning: clamav: unable to connect to 127.0.0.1:1: *; refused for now"],
    ),
    // But not of this machine, which is not scanned.
    (
        "127.0.0.5",
        "S: 220 mail.test ESMTP
         C: MAIL FROM:<a@good.test>
         S: 250 ok
         C: RCPT TO:<boss@shop.test>
         S: 250 ok
         C: DATA
         S: 354 go ahead
         C: .
         S: 250 ok *",
        &[],
    ),
    // Relaying by address.
    (
        "192.0.2.12",
        "S: 220 mail.test ESMTP
         C: HELO HELO
         S: 250 mail.test
         C: MAIL FROM:<a@good.test>
         S: 250 ok
         C: RCPT TO:<x@far.test>
         S: 553 5.7.1 sorry, that domain isn't in my list of allowed rcpthosts (chkuser)",
        &[
            "CHKUSER rejected relaying: from <a@good.test::> remote <HELO:unknown:192.0.2.12> rcpt <x@far.test> : client not allowed to relay",
        ],
    ),
    (
        "192.168.88.150",
        "S: 220 mail.test ESMTP
         C: MAIL FROM:<a@spf.test>
         S: 250 ok
         C: RCPT TO:<x@far.test>
         S: 250 ok",
        &[
            "CHKUSER relaying rcpt: from <a@spf.test::> remote <:unknown:192.168.88.150> rcpt <x@far.test> : client allowed to relay",
        ],
    ),
];

#[test]
fn clients_meet_what_the_old_files_say() {
    let toaster = Toaster::make();
    let (setup, _parent) = toaster.adopt();
    let host = setup.start();
    host.wait_log("tcpserver: status: 0/30");
    for (ip, transcript, lines) in CLIENTS {
        play_on(dial_as(host.address().get(), ip), transcript);
        for line in *lines {
            host.wait_log(line);
        }
    }
    // Relaying by login, with the password of the old host, on port 25 and on 587.
    for (address, helo) in [(host.address().get(), "[HELO]"), (host.listens("submission"), "[587]")] {
        let mut client = logged_in(connect(address, "192.0.2.20".parse().unwrap()), helo);
        client.say("MAIL FROM:<u150@corp.test>", 250);
        client.say("RCPT TO:<x@far.test>", 250);
        let who = format!("from <u150@corp.test:u150@corp.test:> remote <{helo}:unknown:192.0.2.20>");
        host.wait_log(&format!("CHKUSER accepted sender: {who} rcpt <> : sender accepted"));
        host.wait_log(&format!("CHKUSER relaying rcpt: {who} rcpt <x@far.test> : client allowed to relay"));
    }
    let mut wrong = host.from("192.0.2.21");
    wrong.say("EHLO client.test", 250);
    wrong.say(&format!("AUTH PLAIN {}", base64(b"\0u150@corp.test\0wrong")), 535);
    // On 587 nobody sends without it.
    let mut client = connect(host.listens("submission"), "192.0.2.22".parse().unwrap());
    client.say("EHLO client.test", 250);
    client.say("MAIL FROM:<u150@corp.test>", 530);

    // PERIPLIMIT.
    let open: Vec<Client> = (0..16).map(|_| host.from("192.0.2.30")).collect();
    assert!(open.iter().all(|client| client.greeting.code == 220));
    assert_eq!(host.from("192.0.2.30").greeting.code, 421);

    // spfbehavior is read for each session: 0 is off, 1 annotates, 2 wants an answer, 3 refuses; the last one stays.
    for (behavior, from, reply) in [
        ("0", "a@spf.test", "250 ok"),
        ("2", "a@broken.test", "451 SPF lookup failure (#4.3.0)"),
        ("3", "a@spf.test", "550 *"),
        ("1", "a@spf.test", "250 ok"),
    ] {
        toaster.old.control(&[("spfbehavior", &format!("{behavior}\n"))]);
        wait_until(&format!("spfbehavior {behavior}"), PATIENCE, || {
            like(reply, &rcpt(host.from("192.0.2.31"), from, "u001@corp.test"))
        });
    }
    assert_eq!(rcpt(host.from("192.0.2.31"), "a@broken.test", "u001@corp.test"), "250 ok");
    assert!(send(&host, "192.0.2.31", "a@spf.test", "u009@corp.test", "annotated").starts_with("250 "));
    assert!(send(&host, "44.55.66.77", "a@spf.test", "u010@corp.test", "plain").starts_with("250 "));
    let annotated = toaster.maildir("corp.test", "u009").wait(1, PATIENCE).remove(0);
    assert!(annotated.contains("\nReceived-SPF: fail "), "{annotated}");
    let plain = toaster.maildir("corp.test", "u010").wait(1, PATIENCE).remove(0);
    assert!(!plain.contains("Received-SPF"), "{plain}");
}

#[test]
fn the_administrator_types_what_he_typed() {
    let toaster = Toaster::make();
    // The smarthost is down, so that the queue is looked at at leisure.
    toaster.old.control(&[("smtproutes", &format!(":[127.0.0.1]:{}\n", free_port("127.0.0.1").port()))]);
    let (setup, _parent) = toaster.adopt();
    let host = setup.start();
    let tree = host.ask(&["svstat"]);
    for service in ["queue", "send", "smtpd", "submission", "metrics"] {
        assert!(tree.lines().any(|line| like(&format!("*─ {service} * up *"), line)), "{service}: {tree}");
    }
    let said = host.ask(&["svstat", "/service/qmail-smtpd"]);
    assert!(like("/service/qmail-smtpd: up (pid *) * seconds*", said.trim_end()), "{said}");

    // Lines have stamps that tai64nlocal reads: seconds since 1970 TAI, ten more than UTC had then.
    let log = host.log();
    let stamp = log.lines().find_map(|line| line.strip_prefix('@')).unwrap();
    let seconds = u64::from_str_radix(&stamp[..16], 16).unwrap() - (1 << 62) - 10;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    assert!(now.abs_diff(seconds) < 600, "{stamp}");

    // The queue, by number.
    toaster.maildir("corp.test", "u005").wait(1, PATIENCE);
    toaster.maildir("corp.test", "1/u200").wait(2, PATIENCE);
    wait_until("five messages", PATIENCE, || {
        host.ask(&["qmail-qstat"]).starts_with("messages in queue: 5\n")
    });
    let queue = host.ask(&["qmailctl", "queue"]);
    assert!(
        queue.starts_with("messages in queue: 5\nmessages in queue but not yet preprocessed: 0\n"),
        "{queue}"
    );
    assert!(queue.ends_with(&host.ask(&["qmail-qread"])), "{queue}");
    for id in &toaster.deferred {
        let rows: Vec<_> =
            queue.lines().skip_while(|line| !line.contains(&format!("#{id} "))).take(2).collect();
        assert!(like(&format!("* GMT  #{id}  *  <u001@corp.test> "), rows[0]), "{queue}");
        assert!(like("\tremote\tx@far*.test", rows[1]), "{queue}");
        let name = id.to_string();
        let found =
            Ran::new(Command::new("find").arg(toaster.queue.path()).args(["-name", &name])).expect(0).stdout;
        assert_eq!(found.lines().count(), 3, "{found}");
        assert!(host.ask(&["queue", "show", &name]).contains("X-Letter: waits-"));
    }

    // Purged, literally as the notes have it.
    let count =
        |count: usize| host.ask(&["qmail-qstat"]).starts_with(&format!("messages in queue: {count}\n"));
    host.ask(&["qmailctl", "stop"]);
    wait_until("all to be down", PATIENCE, || {
        ["send", "smtpd", "submission"].iter().all(|service| !host.is_up(service))
    });
    let purge = "find intd todo local remote mess info bounce -type f -print | xargs rm";
    Ran::new(Command::new("sh").args(["-c", purge]).current_dir(toaster.queue.path())).expect(0);
    host.ask(&["qmailctl", "start"]);
    wait_until("all to be up", PATIENCE, || {
        ["send", "smtpd", "submission"].iter().all(|service| host.is_up(service))
    });
    host.wait_up();
    assert!(count(0), "{}", host.ask(&["qmailctl", "queue"]));

    // A user, in the old way and in the new one.
    let dir = toaster.old.path("home/vpopmail/domains/corp.test");
    let text = fs::read_to_string(dir.join("vpasswd")).unwrap();
    let sarah = text.lines().next().unwrap().replace("u000", "sarah");
    mailtree_tests::maildir::make(&dir.join("sarah/Maildir"));
    if is_root() {
        own(&dir.join("sarah"), VPOPMAIL, VPOPMAIL);
    }
    fs::write(dir.join("vpasswd.new"), format!("{text}{sarah}\n")).unwrap();
    fs::copy(dir.join("vpasswd.new"), dir.join("vpasswd")).unwrap();
    fs::remove_file(dir.join("vpasswd.new")).unwrap();
    fs::remove_file(dir.join("vpasswd.cdb")).unwrap();
    host.ask(&["vadduser", "tom@alias.test", "password-of-tom"]);
    for user in ["sarah", "tom", "u003"] {
        let to = format!("{user}@corp.test");
        assert!(send(&host, "192.0.2.1", "a@good.test", &to, user).starts_with("250 "), "{to}");
        toaster.maildir("corp.test", user).wait(1, PATIENCE);
    }
    assert!(dir.join("vpasswd.cdb").exists());
    assert!(send(&host, "192.0.2.1", "a@good.test", "dick@corp.test", "dick").starts_with("550 "));
    if is_root() {
        for name in ["tom", "tom/Maildir", "tom/Maildir/new", "vpasswd", "vpasswd.cdb"] {
            let found = fs::metadata(dir.join(name)).unwrap();
            assert_eq!((found.uid(), found.gid()), (VPOPMAIL, VPOPMAIL), "{name}");
        }
    }

    // databytes.
    let mut client = host.from("192.0.2.1");
    assert!(client.say("EHLO client.test", 250).text().contains("250-SIZE 20971520"));
    toaster.old.control(&[("databytes", "2000\n")]);
    wait_until("databytes 2000", PATIENCE, || {
        let mut client = host.from("192.0.2.1");
        client.say("EHLO client.test", 250).text().contains("SIZE 2000\n")
    });
    let mut client = host.from("192.0.2.1");
    client.say("HELO client.test", 250);
    let refused = client.transact("a@good.test", &["u001@corp.test"], &letter("large", 4000)).unwrap();
    assert_eq!(refused.text(), "552 sorry, that message size exceeds my databytes limit (#5.3.4)");

    // The rules: the file in force is compiled, at once obeyed; what cannot be read is named and changes nothing.
    let source = toaster.old.path("home/vpopmail/etc/tcp.smtp");
    fs::write(&source, rules("192.0.2.77:deny\n")).unwrap();
    assert!(host.ask(&["qmailctl", "cdb"]).contains(&format!("Reloaded {}.\n", source.display())));
    let check = |ip: &str| {
        let mut command = Command::new(binary());
        command.arg("tcprulescheck").arg(source.with_extension("smtp.cdb")).env("TCPREMOTEIP", ip);
        Ran::new(&mut command).expect(0).stdout
    };
    assert_eq!(check("192.0.2.77"), "rule 192.0.2.77:\ndeny connection\n");
    assert_eq!(
        check("192.0.2.78"),
        "rule :\nset environment variable QMAILQUEUE=/var/qmail/bin/simscan\nallow connection\n"
    );
    assert_eq!(
        check("11.22.33.44"),
        "rule 11.22.33.44:\nset environment variable SPFBEHAVIOR=0\nset environment variable RBLSMTPD=\nallow connection\n"
    );
    play_on(dial_as(host.address().get(), "192.0.2.77"), "S: (closes)");
    for line in ["192.0.2.78:allow,SPFBEHAVIOR=0", "192.0.2.78:refuse"] {
        fs::write(&source, rules(&format!("{line}\n"))).unwrap();
        let refused = host.run(&["qmailctl", "cdb"]);
        assert_ne!(refused.code, Some(0));
        assert!(refused.stderr.contains(&format!("unable to parse this line: {line}")), "{refused:#?}");
    }
    play_on(dial_as(host.address().get(), "192.0.2.77"), "S: (closes)");
    assert_eq!(check("192.0.2.77"), "rule 192.0.2.77:\ndeny connection\n");
}

mod needs_spamd {
    use mailtree_tests::spamd::Spamd;

    use super::*;

    #[test]
    fn simscan_says_of_each_message_what_log_readers_know() {
        let toaster = Toaster::make();
        toaster.old.control(&[("simcontrol", ":clam=no,spam=yes,spam_passthru=yes\n")]);
        let spamd = Spamd::start();
        let (setup, _parent) = toaster.adopt_with(&format!("spamd: \"{}\"", spamd.port()));
        let host = setup.start();
        for (subject, state) in
            [("Test attachment", "CLEAN (0.00/5.00/5.00)"), ("seven", "PASSTHRU (7.00/5.00/5.00)")]
        {
            let mut client = host.from("192.0.2.10");
            client.say("HELO client.test", 250);
            let text = format!("Subject: {subject}\n\nx\n");
            client.transact("U@good.test", &["u001@corp.test"], &text).unwrap().expect(250);
            let line = format!("simscan:[*]:{state}:*s:{subject}:192.0.2.10:u@good.test:u001@corp.test");
            let pid = host.wait_log(&line)["simscan:[".len()..].split(']').next().unwrap().to_owned();
            host.wait_log(&format!("tcpserver: ok {pid} mail.test:*:25 :192.0.2.10::*"));
        }
        // The host itself is not scanned.
        let mut client = host.from("127.0.0.5");
        client.say("HELO client.test", 250);
        client.transact("a@good.test", &["u002@corp.test"], "Subject: seven\n\nx\n").unwrap().expect(250);
        let text = toaster.maildir("corp.test", "u002").wait(1, PATIENCE).remove(0);
        assert!(!text.contains("by simscan"), "{text}");
        let text = toaster.maildir("corp.test", "u001").wait(2, PATIENCE).remove(1);
        assert!(text.contains("by simscan"), "{text}");
    }
}
