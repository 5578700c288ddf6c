//! Rules that are written, compiled, damaged and removed while the host runs.

use super::*;

/// What a client from 192.0.2.1 gets: its greeting, or `None` if it is closed without a word.
fn greeting(host: &Host) -> Option<Reply> {
    Client::greeted(dial_as(host.address().get(), "192.0.2.1")).ok().map(|client| client.greeting)
}

#[test]
fn changed_rules_count_from_the_next_connection_on() {
    let host = front(":allow\n").start();
    let mut old = client(&host, "192.0.2.1");
    for n in 0..20 {
        rules(host.home(), "192.0.2.1:deny\n:allow\n");
        assert_eq!(greeting(&host), None, "{n}");
        rules(host.home(), ":allow\n");
        assert_eq!(greeting(&host).unwrap().code, 220, "{n}");
    }
    old.say("NOOP", 250);
    let restarts = host.metrics().sum("mailtree_service_restarts_total", &[]);
    assert_eq!(restarts, 0.0);
}

#[test]
fn rules_that_are_not_compiled_do_not_count() {
    let host = front(":allow\n").start();
    fs::write(host.home().join("tcp.smtp"), "192.0.2.1:deny\n").unwrap();
    assert_eq!(greeting(&host).unwrap().code, 220);
}

#[test]
fn a_bad_line_is_named_and_the_old_rules_stay() {
    let host = front("192.0.2.1:deny\n:allow\n").start();
    let source = host.home().join("tcp.smtp");
    let bad = [
        "1.2.3.4:Allow",
        "1.2.3.4:allow,RELAYCLIENT",
        "1.2.3.4:allow,A=\"open",
        "1.2.3.4: deny",
        "1.2.3.4:allow RELAYCLIENT=\"\"",
    ];
    for line in bad {
        fs::write(&source, format!("# mine\n\n{line}\n:allow\n")).unwrap();
        let ran = host.run(&["qmailctl", "cdb"]).expect(100);
        let said = ran.stderr.lines().collect::<Vec<_>>();
        assert_eq!(
            said[0],
            format!("qmailctl: fatal: {}: unable to parse this line: {line}", source.display())
        );
        assert!(said[1].contains("line 3; allowed: "), "{}", ran.stderr);
        assert_eq!(ran.stdout, "");
        assert_eq!(greeting(&host), None, "{line}: the old rules are gone");
    }
    assert_eq!(fs::read_dir(host.home()).unwrap().filter(is_temporary).count(), 0);
}

fn is_temporary(entry: &std::io::Result<fs::DirEntry>) -> bool {
    let name = entry.as_ref().unwrap().file_name();
    let name = name.to_string_lossy();
    name.starts_with("tcp.smtp.") && name != "tcp.smtp.cdb"
}

/// What may become of `tcp.smtp.cdb`, and how, given where it is and what is in it.
type Harm = (&'static str, fn(&Path, &[u8]));

const HARMS: [Harm; 10] = [
    ("empty", |cdb, _| whole(cdb, b"")),
    ("text", |cdb, _| whole(cdb, b":allow\n")),
    ("the head alone", |cdb, good| whole(cdb, &good[..2048])),
    ("cut in the head", |cdb, good| whole(cdb, &good[..1000])),
    ("cut behind the records", |cdb, good| whole(cdb, &good[..good.len() - 40])),
    ("ones", |cdb, _| whole(cdb, &[0xff; 8192])),
    // Tables that point behind the end; records whose lengths reach behind the end.
    ("wild", |cdb, good| whole(cdb, &with_tables(good, 0..4))),
    ("endless", |cdb, good| whole(cdb, &with_tables(good, 4..8))),
    ("lengths", |cdb, good| {
        let mut bytes = good.to_vec();
        bytes[2048..2056].fill(0xff);
        whole(cdb, &bytes);
    }),
    ("a directory", |cdb, _| {
        fs::remove_file(cdb).unwrap();
        fs::create_dir(cdb).unwrap();
    }),
];

fn whole(cdb: &Path, bytes: &[u8]) {
    fs::remove_file(cdb).or_else(|_| fs::remove_dir(cdb)).unwrap();
    fs::write(cdb, bytes).unwrap();
}

fn with_tables(good: &[u8], part: std::ops::Range<usize>) -> Vec<u8> {
    let mut bytes = good.to_vec();
    bytes[..2048].chunks_mut(8).for_each(|pair| pair[part.clone()].copy_from_slice(&u32::MAX.to_le_bytes()));
    bytes
}

const RULES: &str = "192.0.2.1:allow,MARK=\"x\"\n10.:deny\n:allow\n";

#[test]
fn rules_that_become_bad_leave_the_old_ones_in_force() {
    let host = front(RULES).start();
    let cdb = host.home().join("tcp.smtp.cdb");
    let good = fs::read(&cdb).unwrap();
    for (what, harm) in HARMS {
        assert_eq!(greeting(&host).unwrap().code, 220, "{what}");
        harm(&cdb, &good);
        // What changed a moment ago may not be finished.
        wait_until(&format!("svstat to show {what}"), PATIENCE, || {
            assert_eq!(greeting(&host).unwrap().code, 220, "{what}");
            host.ask(&["svstat"]).contains("tcp.smtp.cdb: ")
        });
        host.wait_log("alert: *tcp.smtp.cdb: *; what was there before stays in force");
        whole(&cdb, &good);
        wait_until(&format!("svstat to forget {what}"), PATIENCE, || {
            assert_eq!(greeting(&host).unwrap().code, 220, "{what}");
            !host.ask(&["svstat"]).contains("tcp.smtp.cdb: ")
        });
    }
    // As tcpserver: an administrator who removes them wants nobody in.
    fs::remove_file(&cdb).unwrap();
    wait_until("nobody to come in", PATIENCE, || greeting(&host).unwrap().text() == UNREADABLE);
    fs::write(&cdb, &good).unwrap();
    wait_until("everybody to come in", PATIENCE, || greeting(&host).unwrap().code == 220);
}

const UNREADABLE: &str = "421 4.3.0 unable to read controls (#4.3.0)";

#[test]
fn without_rules_that_ever_could_be_read_nobody_comes_in_until_they_are_there() {
    for (what, harm) in HARMS {
        let setup = front(RULES);
        setup.write();
        let cdb = setup.home().join("tcp.smtp.cdb");
        let good = fs::read(&cdb).unwrap();
        harm(&cdb, &good);
        let host = setup.start();
        let reply = greeting(&host).unwrap_or_else(|| panic!("{what}: closed without a word"));
        assert_eq!(reply.text(), UNREADABLE, "{what}");
        let line = host.wait_log("tcpserver: warning: dropping connection, unable to read *tcp.smtp.cdb: *");
        assert!(line.contains(cdb.to_str().unwrap()), "{line}");
        whole(&cdb, &good);
        wait_until(&format!("{what} to be mended"), PATIENCE, || greeting(&host).unwrap().code == 220);
        assert_eq!(host.metrics().sum("mailtree_service_restarts_total", &[]), 0.0);
    }
}
