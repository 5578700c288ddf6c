//! Somebody works in the queue's directories while the host runs, and kills it whenever he likes: nothing that was accepted is
//! lost, and nothing comes twice.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use mailtree_tests::host::{Host, PATIENCE, Setup};
use mailtree_tests::letter::letter;
use mailtree_tests::load::{Load, Plan};
use mailtree_tests::maildir::Arrivals;
use mailtree_tests::smtp::like;
use mailtree_tests::wait::{holds_for, wait_for, wait_until};

const SENDER: &str = "sender@mx.test";
const BOB: &str = "bob@mx.test";
const LIMIT: Duration = Duration::from_secs(60);

/// A host that accepts and delivers nothing, with this journal.
fn held(journal: &str) -> Host {
    let queue = format!("({journal})");
    Setup::new().field("queue", queue).control("concurrencylocal", "0\n").start()
}

fn release(host: &Host) {
    host.control("concurrencylocal", "20\n");
    host.ask(&["svc", "-t", "send"]);
}

/// Letters of this size to bob: all are taken.
fn send(host: &Host, prefix: &str, count: usize, size: usize) -> BTreeSet<String> {
    let plan = Plan { size, reuse: 100, ..Plan::to(BOB, prefix, count) };
    Load::start(host.address(), &plan).finish(LIMIT)
}

fn files(directory: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    let ours = entries.filter(|entry| entry.file_name().to_str().unwrap().starts_with(prefix));
    ours.map(|entry| entry.path()).collect()
}

fn all_came_once(host: &Host, accepted: &BTreeSet<String>, doubtful: &BTreeSet<String>) {
    host.wait_queue_empty(LIMIT);
    let mut bob = Arrivals::new(host.maildir("bob"));
    bob.look_everywhere();
    let lost = bob.missing(accepted);
    assert!(lost.is_empty(), "{} of {} are lost: {lost:?}", lost.len(), accepted.len());
    assert_eq!(bob.doubles(doubtful), []);
}

#[test]
fn numbers_of_messages_to_come_may_be_removed() {
    let mut host = held("segment: \"4MiB\"");
    let pid = host.home().join("queue/pid");
    let mut accepted = send(&host, "before", 20, 1000);
    wait_until("spare numbers", PATIENCE, || !files(&pid, "spare.").is_empty());
    for spare in files(&pid, "spare.") {
        fs::remove_file(spare).unwrap();
    }
    // Into the journal, and into files, which could get the numbers.
    accepted.append(&mut send(&host, "small", 30, 1000));
    accepted.append(&mut send(&host, "large", 60, 300 << 10));
    accepted.append(&mut send(&host, "more", 200, 1000));
    host.kill();
    host.restart();
    accepted.append(&mut send(&host, "after", 60, 300 << 10));
    release(&host);
    all_came_once(&host, &accepted, &BTreeSet::new());
    host.stop();
}

/// Whoever removes the journal has accepted mail go: not what is accepted afterwards.
#[test]
fn a_journal_that_is_removed_is_begun_anew() {
    let mut host = held("segment: \"4MiB\"");
    let journal = host.home().join("queue/journal");
    let mut accepted = send(&host, "before", 50, 1000);
    for segment in files(&journal, "") {
        fs::remove_file(segment).unwrap();
    }
    // What lives is in memory still.
    accepted.append(&mut send(&host, "after", 50, 1000));
    host.wait_log("alert: the journal's disk has failed; another segment is begun");
    wait_until("a new journal", LIMIT, || {
        host.is_up("queue") && host.run(&["qmail-qstat"]).code == Some(0) && !files(&journal, "").is_empty()
    });
    accepted.append(&mut send(&host, "later", 50, 1000));
    host.kill();
    host.restart();
    release(&host);
    all_came_once(&host, &accepted, &BTreeSet::new());
    host.stop();
    assert_eq!(files(&journal, ""), [] as [PathBuf; 0]);
}

#[test]
fn a_full_journal_leaves_mail_to_the_files() {
    let mut host = held("segment: \"4MiB\", segments: 2");
    let accepted = send(&host, "large", 300, 100 << 10);
    assert!(!host.log().contains("unable to queue"), "{}", host.log_tail());
    release(&host);
    all_came_once(&host, &accepted, &BTreeSet::new());
    host.stop();
}

#[test]
fn what_lies_among_the_segments_and_is_none_does_no_harm() {
    let setup = Setup::new();
    let journal = setup.home().join("queue/journal");
    fs::create_dir_all(&journal).unwrap();
    fs::write(journal.join("99999999.seg"), "").unwrap();
    fs::create_dir(journal.join("00000003.new")).unwrap();
    fs::create_dir(journal.join("00000001.new")).unwrap();
    setup.give(&journal);
    let mut host = setup.start();
    let mut accepted = BTreeSet::new();
    for round in 0..4 {
        accepted.append(&mut send(&host, &format!("round-{round}"), 50, 1000));
        host.kill();
        host.restart();
    }
    all_came_once(&host, &accepted, &BTreeSet::new());
    host.stop();
}

/// Each start says what it has found done, so that the next one need not look for it.
#[test]
fn one_kill_behind_the_other_repeats_nothing() {
    let mut host = Setup::new().start();
    let (mut accepted, mut doubtful) = (BTreeSet::new(), BTreeSet::new());
    for round in 0..3 {
        let load = Load::start(host.address(), &Plan::to(BOB, &format!("round-{round}"), 2000));
        load.wait_accepted(400, LIMIT);
        host.kill();
        let doubts = load.doubts();
        accepted.append(&mut load.stop());
        doubtful.append(&mut doubts.names());
        for _ in 0..2 {
            host.relaunch();
            host.wait_up();
            host.kill();
        }
        host.restart();
    }
    all_came_once(&host, &accepted, &doubtful);
    let renumbered = host.log_lines().iter().filter(|line| like("*of the journal goes on as*", line)).count();
    assert_eq!(renumbered, 0, "{}", host.log_tail());
    host.stop();
}

/// Of a message to two the one has got it, and the file waits for a checkpoint.
#[test]
fn what_was_removed_does_not_come_back_for_those_who_had_not_got_it() {
    let setup = Setup::new();
    setup.user("carol@mx.test");
    let mut host = setup.start();
    let bob = host.maildir("bob").path().to_owned();
    fs::remove_dir_all(&bob).unwrap();
    fs::write(&bob, "").unwrap();
    host.send(SENDER, &[BOB], &letter("warm-up", 300));
    for round in 0..5 {
        host.send(SENDER, &[BOB, "carol@mx.test"], &letter(&format!("removed-{round}"), 300));
        host.maildir("carol").wait(round + 1, PATIENCE);
        let id = wait_for("its number", PATIENCE, || {
            let lines = host.log_lines();
            let ids: Vec<_> = lines.iter().filter_map(|line| line.strip_prefix("new msg ")).collect();
            (ids.len() == round + 2).then(|| ids[round + 1].to_owned())
        });
        host.run(&["queue", "remove", &id]).expect(0);
    }
    host.kill();
    fs::remove_file(&bob).unwrap();
    host.restart();
    host.ask(&["svc", "-a", "send"]);
    host.wait_queue_empty(LIMIT);
    let mut arrivals = Arrivals::new(host.maildir("bob"));
    arrivals.look();
    assert!(arrivals.copies.keys().all(|name| name == "warm-up"), "{:?}", arrivals.copies);
}

mod needs_root {
    use mailtree_tests::disk::Disk;

    use super::*;

    #[test]
    fn a_journal_without_room_for_a_segment_leaves_mail_to_the_files() {
        let disk = Disk::new(32);
        let setup = Setup::new().field("queue", "(segment: \"64MiB\")");
        let journal = setup.home().join("queue/journal");
        fs::create_dir_all(&journal).unwrap();
        fs::remove_dir(&journal).unwrap();
        std::os::unix::fs::symlink(disk.path(), &journal).unwrap();
        let mut host = setup.start();
        host.wait_log("alert: */journal: no room for the journal: *");
        let accepted = send(&host, "files", 20, 1000);
        all_came_once(&host, &accepted, &BTreeSet::new());
        host.stop();
    }

    /// Each user's mail is on another file system than the queue.
    #[test]
    fn kills_with_users_on_several_file_systems_repeat_nothing() {
        let (ext4, tmpfs) = (Disk::new(64), Disk::tmpfs(64));
        let setup = Setup::new();
        for (user, disk) in [("bob", &ext4), ("sender", &tmpfs)] {
            let link = setup.home().join("domains/mx.test").join(user).join("Maildir");
            mailtree_tests::maildir::make(&disk.path().join("Maildir"));
            fs::remove_dir_all(&link).unwrap();
            std::os::unix::fs::symlink(disk.path().join("Maildir"), link).unwrap();
        }
        let mut host = setup.start();
        let (mut accepted, mut doubtful) = (BTreeSet::new(), BTreeSet::new());
        for round in 0..5 {
            let to = |_: &str| vec![BOB.to_owned(), SENDER.to_owned()];
            let plan = Plan { to: std::sync::Arc::new(to), ..Plan::to(BOB, &format!("round-{round}"), 2000) };
            let load = Load::start(host.address(), &plan);
            load.wait_accepted(200, LIMIT);
            host.kill();
            let doubts = load.doubts();
            accepted.append(&mut load.stop());
            doubtful.append(&mut doubts.names());
            host.restart();
        }
        all_came_once(&host, &accepted, &doubtful);
        let mut other = Arrivals::new(host.maildir("sender"));
        other.look();
        assert_eq!(other.missing(&accepted), [] as [&String; 0]);
        assert_eq!(other.doubles(&doubtful), []);
        host.stop();
    }

    /// What a user makes of his own directories is his own trouble.
    #[test]
    fn whatever_is_in_the_place_of_cur_harms_its_owner_alone() {
        type Make = fn(&Path);
        let makes: [(&str, Make); 4] = [
            ("fifo", |cur| {
                let mode = rustix::fs::Mode::from_raw_mode(0o644);
                rustix::fs::mknodat(rustix::fs::CWD, cur, rustix::fs::FileType::Fifo, mode, 0).unwrap();
            }),
            ("proc", |cur| std::os::unix::fs::symlink("/proc/self/task", cur).unwrap()),
            ("file", |cur| fs::write(cur, "").unwrap()),
            ("loop", |cur| std::os::unix::fs::symlink("cur", cur).unwrap()),
        ];
        for (kind, make) in makes {
            let setup = Setup::new().field("queue", "(segment: \"4MiB\", segments: 4)");
            setup.user("sick@mx.test");
            let mut host = setup.start();
            let cur = host.maildir("sick").path().join("cur");
            fs::remove_dir_all(&cur).unwrap();
            make(&cur);
            host.send(SENDER, &["sick@mx.test"], &letter("to-sick", 300));
            let accepted = send(&host, kind, 1500, 1000);
            // The log leaves lines out when there are too many.
            let attempts = || host.metrics().sum("mailtree_deliveries_total", &["channel=\"local\""]);
            wait_until("a delivery of each letter", LIMIT, || attempts() >= 1501.0);
            // At several checkpoints.
            holds_for("no more attempts than the sick user's", Duration::from_secs(3), || {
                attempts() <= 1504.0
            });
            let mut bob = Arrivals::new(host.maildir("bob"));
            bob.look();
            assert_eq!(bob.missing(&accepted), [] as [&String; 0], "{kind}");
            assert_eq!(bob.doubles(&BTreeSet::new()), [], "{kind}");
            host.stop();
        }
    }

    mod needs_bindfs {
        use mailtree_tests::sick::Served;

        use super::*;

        /// Copies of the last seconds are looked for at a start: those that can be.
        #[test]
        fn a_maildir_that_hangs_at_a_start_brings_nobody_elses_mail_back() {
            let served = Served::new();
            mailtree_tests::maildir::make(&served.back().join("Maildir"));
            let setup = Setup::new();
            setup.user("sick@mx.test");
            let link = setup.home().join("domains/mx.test/sick/Maildir");
            fs::remove_dir_all(&link).unwrap();
            std::os::unix::fs::symlink(served.front().join("Maildir"), &link).unwrap();
            let mut host = setup.start();
            send(&host, "warm-up", 20, 300);
            host.wait_queue_empty(LIMIT);
            let mut both = BTreeSet::new();
            for number in 0..60 {
                let name = format!("both-{number}");
                host.send(SENDER, &[BOB, "sick@mx.test"], &letter(&name, 300));
                both.insert(name);
            }
            let delivered = || {
                let mut bob = Arrivals::new(host.maildir("bob"));
                bob.look();
                bob.missing(&both).is_empty()
                    && fs::read_dir(served.back().join("Maildir/new")).unwrap().count() == 60
            };
            wait_until("all letters", PATIENCE, delivered);
            // Read and deleted at once.
            for file in files(&host.maildir("bob").path().join("new"), "") {
                fs::remove_file(file).unwrap();
            }
            host.kill();
            let halted = served.halt();
            host.restart();
            host.wait_log("qmail-queue: * messages in the journal are to be delivered");
            holds_for("no mail that bob has deleted", Duration::from_secs(1), || {
                host.maildir("bob").count() == 0
            });
            drop(halted);
            host.wait_queue_empty(LIMIT);
            assert_eq!(host.maildir("bob").count(), 0, "{}", host.log_tail());
            assert_eq!(fs::read_dir(served.back().join("Maildir/new")).unwrap().count(), 60);
        }
    }
}

/// An editor or a generator that has emptied `.qmail-default`: what is accepted meanwhile waits, and lies nowhere else.
#[test]
fn an_emptied_qmail_default_makes_no_maildir() {
    let host = Host::start();
    let domain = host.home().join("domains/mx.test");
    let default = domain.join(".qmail-default");
    let text = fs::read_to_string(&default).unwrap();
    let mut writer = fs::File::create(&default).unwrap();
    for name in ["young", "old"] {
        host.send("sender@mx.test", &["bob@mx.test"], &letter(name, 300));
        host.wait_log("delivery *: deferral: *");
        writer.set_modified(SystemTime::now() - LIMIT).unwrap();
    }
    wait_until("both deferrals", PATIENCE, || host.log().matches(": deferral: ").count() >= 2);
    assert!(!domain.join("Maildir").exists());
    writer.write_all(text.as_bytes()).unwrap();
    drop(writer);
    host.ask(&["svc", "-a", "send"]);
    host.maildir("bob").wait(2, PATIENCE);
}
