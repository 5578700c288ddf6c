//! The journal on a host: what is in its files when they are damaged.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use mailtree_tests::host::{Host, PATIENCE, Setup};
use mailtree_tests::letter::letter;
use mailtree_tests::maildir::Arrivals;
use mailtree_tests::peer::Peer;
use mailtree_tests::wait::wait_until;
use rustix::process::Signal;

/// The segment that holds `text`, and where in it.
fn segment_with(host: &Host, text: &str) -> Option<(PathBuf, usize)> {
    let segments =
        fs::read_dir(host.home().join("queue/journal")).unwrap().map(|entry| entry.unwrap().path());
    segments.into_iter().find_map(|path| {
        let bytes = fs::read(&path).unwrap();
        let at = bytes.windows(text.len()).position(|window| window == text.as_bytes())?;
        Some((path, at))
    })
}

/// A host that delivers nothing, and that puts messages into the journal: the first ones after a start, when no numbers are
/// at hand yet, go into files.
fn held() -> Host {
    let host = Setup::new().control("concurrencylocal", "0\n").start();
    wait_until("a letter in the journal", Duration::from_secs(30), || {
        host.send("sender@mx.test", &["bob@mx.test"], &letter("zeroth", 100));
        segment_with(&host, "X-Letter: zeroth").is_some()
    });
    host
}

#[test]
fn a_damaged_batch_is_named_and_kept_and_all_others_are_delivered() {
    let mut host = held();
    for name in ["first", "second", "third"] {
        host.send("sender@mx.test", &["bob@mx.test"], &letter(name, 100));
    }
    host.kill();
    let (segment, at) = segment_with(&host, "X-Letter: second").unwrap();
    let mut bytes = fs::read(&segment).unwrap();
    bytes[at] = b'x';
    fs::write(&segment, bytes).unwrap();

    host.control("concurrencylocal", "20\n");
    host.restart();
    host.wait_log("alert: journal: batches * are damaged or missing");
    let told = host.wait_log("alert: *: copied to *");
    let copy = told.split("copied to ").nth(1).unwrap().trim().to_owned();
    let mut bob = Arrivals::new(host.maildir("bob"));
    wait_until("the undamaged letters", Duration::from_secs(30), || {
        bob.look();
        ["first", "third"].iter().all(|name| bob.copies.contains_key(*name))
    });
    assert!(!bob.copies.contains_key("second"));
    let kept = fs::read(copy).unwrap();
    assert_eq!(&kept[at..at + 16], b"x-Letter: second", "what is damaged can still be read by a person");
}

#[test]
fn a_journal_whose_name_was_lost_is_not_taken_and_says_how_it_can_be() {
    let mut host = held();
    host.send("sender@mx.test", &["bob@mx.test"], &letter("nameless", 100));
    host.kill();
    let id = host.home().join("journal.id");
    let right = fs::read_to_string(&id).unwrap();
    fs::remove_file(&id).unwrap();
    host.relaunch();
    let name = right.lines().next().unwrap().to_owned();
    host.wait_log(&format!(
        "supervise: queue: down*/queue/journal/0*.seg: is of {name}, and journal.id of the home does not name that one: *"
    ));
    assert!(!id.exists(), "no other name is made up");
    // Whoever looks is told, and whoever goes back to qmail is warned.
    let told = host.run(&["qmail-qread"]).stderr;
    assert!(told.contains("queue/journal is not empty"), "{told}");
    host.signal(Signal::TERM);
    assert_eq!(host.wait_exit(PATIENCE).code(), Some(111));
    assert!(
        host.log().contains("the journal was not taken up, and may hold messages"),
        "{}",
        host.log_tail()
    );

    // As the message says.
    fs::write(&id, format!("{name}\nnewest 0\n")).unwrap();
    host.control("concurrencylocal", "20\n");
    host.restart();
    let mut bob = Arrivals::new(host.maildir("bob"));
    wait_until("the letter", PATIENCE, || {
        bob.look();
        bob.copies.contains_key("nameless")
    });
    host.stop();
}

#[test]
fn a_journal_that_vanished_refuses_the_start() {
    let mut host = held();
    host.send("sender@mx.test", &["bob@mx.test"], &letter("alone", 100));
    host.kill();
    let journal = host.home().join("queue/journal");
    let aside = host.home().join("aside");
    fs::rename(&journal, &aside).unwrap();
    host.relaunch();
    host.wait_log("supervise: queue: down*the journal is older than it was*");
    host.kill();
    fs::remove_dir_all(&journal).unwrap_or(());
    fs::rename(&aside, &journal).unwrap();
    host.control("concurrencylocal", "20\n");
    host.restart();
    let mut bob = Arrivals::new(host.maildir("bob"));
    wait_until("the letter", Duration::from_secs(30), || {
        bob.look();
        bob.copies.contains_key("alone")
    });
}

#[test]
fn what_was_written_of_a_message_before_one_crash_is_gone_after_the_next_one() {
    let peer = Peer::obliging();
    let setup =
        Setup::new().control("concurrencyremote", "0\n").control("smtproutes", &peer.route("far.test"));
    let mut host = setup.env("MAILTREE_CRASH_POINT", "channels-written").start();
    while host.ended().is_none() {
        // Whoever counts the queue has it written into files: mess and remote, and then no info.
        if segment_with(&host, "X-Letter: once").is_some() {
            host.run(&["qmail-qstat"]);
        } else {
            host.send("sender@mx.test", &["x@far.test"], &letter("once", 100));
        }
    }
    host.control("concurrencyremote", "20\n");
    // It is delivered and ends; the host dies before any of the files is gone.
    host.relaunch_with(&[("MAILTREE_CRASH_POINT", "todo-unlinked")]);
    wait_until("the second crash", PATIENCE, || host.ended().is_some());
    let taken = peer.received().len();
    assert!(taken >= 1);
    host.restart_with(&[]);
    host.wait_queue_empty(PATIENCE);
    assert_eq!(host.queue_files(), Vec::<PathBuf>::new());
}
