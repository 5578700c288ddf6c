//! The host dies at any instant: what got `250` arrives, whole, at least once; with a journal, what is for users of the
//! host arrives once.

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mailtree_tests::chance::Chance;
use mailtree_tests::host::{Host, Setup, free_port};
use mailtree_tests::load::{Load, Plan};
use mailtree_tests::maildir::Arrivals;
use mailtree_tests::peer::Peer;
use mailtree_tests::wait::{tick, wait_until};

mailtree_tests::with_and_without_journal!(
    at_every_crash_point_nothing_accepted_is_lost,
    a_crash_during_recovery_does_no_harm,
    kill_nine_at_20_random_moments_during_2000_messages,
    after_a_crash_nothing_unfinished_is_left_for_ever,
    what_a_user_has_read_before_a_crash_does_not_come_again,
);

/// Waits until each of `accepted` is in a Maildir of bob, or, for letters of the kind named so, at the peer or
/// back at its sender as a bounce.
fn wait_arrived(host: &Host, peer: &Peer, accepted: &BTreeSet<String>, limit: Duration) {
    let mut bob = Arrivals::new(host.maildir("bob"));
    // A bounce carries the whole letter at its end.
    let mut sender = Arrivals::new(host.maildir("sender"));
    let start = Instant::now();
    loop {
        bob.look();
        sender.look();
        let far: BTreeSet<_> =
            peer.received().iter().map(|taken| mailtree_tests::letter::read(&taken.data).unwrap()).collect();
        let lost: Vec<_> = accepted
            .iter()
            .filter(|name| match kind(name) {
                Kind::Local => !bob.copies.contains_key(*name),
                Kind::Bounced => !sender.copies.contains_key(*name),
                Kind::Remote => !far.contains(*name),
                Kind::Both => !bob.copies.contains_key(*name) || !far.contains(*name),
            })
            .collect();
        if lost.is_empty() {
            return;
        }
        assert!(
            start.elapsed() < limit,
            "{} of {} accepted letters never came: {lost:?}",
            lost.len(),
            accepted.len()
        );
        host.run(&["svc", "-a", "send"]);
        tick(Duration::from_millis(100));
    }
}

/// What bob got came once, but for the `doubtful`, if there is a journal: a delivery that is repeated finds the first.
fn wait_no_doubles(host: &Host, journal: bool, doubtful: &BTreeSet<String>) {
    host.wait_queue_empty(Duration::from_secs(60));
    let mut bob = Arrivals::new(host.maildir("bob"));
    bob.look_everywhere();
    let doubles = bob.doubles(doubtful);
    println!(
        "{} of {} letters to bob more than once, {} doubtful",
        doubles.len(),
        bob.copies.len(),
        doubtful.len()
    );
    assert!(!journal || doubles.is_empty(), "came more than once: {doubles:?}");
}

#[derive(PartialEq)]
enum Kind {
    Local,
    Bounced,
    Remote,
    Both,
}

/// The kind of a letter follows from its number, so that every path through the queue is under load.
fn kind(name: &str) -> Kind {
    let number: usize = name.rsplit('-').next().unwrap().parse().unwrap();
    match number % 8 {
        0..=3 => Kind::Local,
        4 => Kind::Bounced,
        5 | 6 => Kind::Remote,
        _ => Kind::Both,
    }
}

/// Smtpd at a port that stays the same, so that clients find the host after each of its deaths.
fn setup(peer: &Peer, journal: bool) -> Setup {
    let services = format!("{{ \"smtpd\": smtpd(listen: [\"{}\"]) }}", free_port("127.0.0.1"));
    let setup = Setup::new().control("smtproutes", &peer.route("far.test")).field("services", services);
    setup.journal(journal)
}

fn plan(prefix: &str, count: usize) -> Plan {
    let to = |name: &str| match kind(name) {
        Kind::Local => vec!["bob@mx.test".to_owned()],
        // To two, so that with and without the journal there is a file that says who failed.
        Kind::Bounced => vec!["nobody@mx.test".to_owned(), "no-one@mx.test".to_owned()],
        Kind::Remote => vec!["x@far.test".to_owned()],
        Kind::Both => vec!["bob@mx.test".to_owned(), "x@far.test".to_owned()],
    };
    Plan { to: Arc::new(to), ..Plan::to("", prefix, count) }
}

/// Whether the host aborts within `limit`.
fn dies(host: &mut Host, load: &Load, limit: Duration) -> bool {
    let start = Instant::now();
    while start.elapsed() < limit {
        if let Some(status) = host.ended() {
            assert_eq!(status.signal(), Some(6), "the host ended with {status:?}\n{}", host.log_tail());
            return true;
        }
        // Whoever counts the queue has it written into files.
        host.run(&["qmail-qstat"]);
        if load.is_finished() {
            // Points of retries are reached when the queue is run.
            host.run(&["svc", "-ca", "send"]);
        }
        tick(Duration::from_millis(20));
    }
    false
}

/// The names in what `mailtree crash-points` prints: numbered lines.
fn names(points: &str) -> impl Iterator<Item = &str> {
    points.lines().filter_map(|line| line.split_whitespace().nth(1))
}

/// Points that lie on the other way through the queue: files in place of the journal, and the journal in place of files.
fn is_on_the_other_way(point: &str, journal: bool) -> bool {
    let journals = ["journal-", "checkpoint-", "recipient-noted", "mess-placed", "written-out"];
    let files = ["mess-written", "mess-linked", "intd-written", "commit-synced", "todo-", "maildir-synced"];
    let other = if journal { &files[..] } else { &journals };
    other.iter().any(|beginning| point.starts_with(beginning))
}

fn at_every_crash_point_nothing_accepted_is_lost(journal: bool) {
    let peer = Peer::obliging();
    let setup = setup(&peer, journal);
    let points = setup.run(&["crash-points"]).expect(0).stdout;
    let points: Vec<_> = names(&points).collect();
    assert!(points.len() >= 10, "crash points: {points:?}");
    let mut host = setup.start();
    let mut accepted = BTreeSet::new();
    let mut doubtful = BTreeSet::new();
    let mut unreached = Vec::new();
    for (number, point) in points.iter().enumerate() {
        // Under load at the third time; what is passed only once in a life, at the first, with a queue that is full and
        // goes through files because nothing is delivered until all is accepted.
        let elsewhere = is_on_the_other_way(point, journal);
        let tries = if elsewhere { &["3"][..] } else { &["3", "1", "1", "1"] };
        let reached = tries.iter().enumerate().any(|(nth, times)| {
            host.kill();
            host.relaunch_with(&[("MAILTREE_CRASH_POINT", &format!("{point}:{times}"))]);
            while nth > 0
                && host.ended().is_none()
                // What is told to a service that is still starting is not told to the one that is up.
                && !(host.is_up("send") && host.run(&["svc", "-p", "send"]).code == Some(0))
            {
                tick(Duration::from_millis(10));
            }
            let load = Load::start(host.address(), &plan(&format!("at-{number}-{nth}"), 48));
            let reached = dies(&mut host, &load, Duration::from_secs(6));
            let doubts = load.doubts();
            accepted.extend(load.stop());
            doubtful.extend(doubts.names());
            reached
        });
        if !reached && !elsewhere {
            unreached.push(*point);
        }
    }
    host.kill();
    host.restart_with(&[]);
    wait_arrived(&host, &peer, &accepted, Duration::from_secs(60));
    wait_no_doubles(&host, journal, &doubtful);
    println!("{} letters accepted at {} crash points", accepted.len(), points.len());
    assert!(unreached.is_empty(), "never reached: {unreached:?}");
}

fn a_crash_during_recovery_does_no_harm(journal: bool) {
    let peer = Peer::obliging();
    let setup = setup(&peer, journal);
    let points = setup.run(&["crash-points"]).expect(0).stdout;
    let mut host = setup.start();
    let load = Load::start(host.address(), &plan("recovery", 200));
    load.wait_accepted(50, Duration::from_secs(30));
    host.kill();
    let doubts = load.doubts();
    let accepted = load.stop();
    // Each point once more while the queue is full of what the first crash left; those of recovery fire at the start.
    for point in names(&points) {
        host.relaunch_with(&[("MAILTREE_CRASH_POINT", point)]);
        let start = Instant::now();
        while host.ended().is_none() && start.elapsed() < Duration::from_millis(700) {
            tick(Duration::from_millis(10));
        }
        if host.ended().is_none() {
            host.kill();
        }
    }
    host.restart_with(&[]);
    wait_arrived(&host, &peer, &accepted, Duration::from_secs(60));
    wait_no_doubles(&host, journal, &doubts.names());
}

fn kill_nine_at_20_random_moments_during_2000_messages(journal: bool) {
    let mut chance = Chance::new();
    let peer = Peer::obliging();
    let mut host = setup(&peer, journal).start();
    let load = Load::start(host.address(), &plan("kill", 2000));
    for round in 1..=20 {
        // About a hundred letters between two deaths, and the death at any moment after.
        load.wait_accepted(round * 90, Duration::from_secs(60));
        tick(Duration::from_micros(chance.between(0, 60_000)));
        host.kill();
        host.restart();
    }
    let doubts = load.doubts();
    let accepted = load.finish(Duration::from_secs(120));
    assert_eq!(accepted.len(), 2000);
    wait_arrived(&host, &peer, &accepted, Duration::from_secs(120));
    // A message that has one channel left goes on with that one; nothing that was delivered counts as undone.
    assert!(!host.log().contains("a delivery was not durable"));
    wait_no_doubles(&host, journal, &doubts.names());
}

fn after_a_crash_nothing_unfinished_is_left_for_ever(journal: bool) {
    let mut host = Setup::new().journal(journal).start();
    let load = Load::start(host.address(), &Plan::to("bob@mx.test", "rest", 300));
    load.wait_accepted(100, Duration::from_secs(30));
    host.kill();
    let accepted = load.stop();
    host.restart();
    let mut bob = Arrivals::new(host.maildir("bob"));
    wait_until("all accepted letters", Duration::from_secs(30), || {
        bob.look();
        bob.missing(&accepted).is_empty()
    });
    // What was accepted has gone; what was not may lie in mess/ and pid/ until it is 36 hours old (qmail-send).
    wait_until("an empty todo and info", Duration::from_secs(30), || {
        !host.queue_files().iter().any(|path| {
            ["todo", "info", "local", "remote", "bounce"]
                .iter()
                .any(|kind| path.components().any(|part| part.as_os_str() == *kind))
        })
    });
}

/// bob reads all that has come: his client moves it to `cur/` and marks it as seen.
fn read_all(host: &Host) {
    let maildir = host.maildir("bob").path().to_owned();
    let Ok(entries) = std::fs::read_dir(maildir.join("new")) else { return };
    for entry in entries {
        let entry = entry.unwrap();
        let name = format!("{}:2,S", entry.file_name().to_str().unwrap());
        std::fs::rename(entry.path(), maildir.join("cur").join(name)).unwrap();
    }
}

/// At every crash point, those between the delivery and what is written about it among them, and at the `kill -9` of a
/// host that is at work.
fn what_a_user_has_read_before_a_crash_does_not_come_again(journal: bool) {
    let peer = Peer::obliging();
    let setup = setup(&peer, journal);
    let points = setup.run(&["crash-points"]).expect(0).stdout;
    let mut host = setup.start();
    let (mut accepted, mut doubtful) = (BTreeSet::new(), BTreeSet::new());
    let environments = names(&points).map(|point| ("MAILTREE_CRASH_POINT", format!("{point}:3")));
    let environments: Vec<_> = environments.chain((0..5).map(|_| ("NO_POINT", String::new()))).collect();
    for (number, (name, value)) in environments.iter().enumerate() {
        host.kill();
        host.relaunch_with(&[(name, value)]);
        let load = Load::start(host.address(), &Plan::to("bob@mx.test", &format!("read-{number}"), 60));
        let start = Instant::now();
        // bob reads while mail comes in, and goes on reading what has come before the end.
        while host.ended().is_none() && start.elapsed() < Duration::from_secs(2) {
            read_all(&host);
            if *name == "NO_POINT" && load.count() >= 30 {
                host.kill();
            }
            tick(Duration::from_millis(2));
        }
        let doubts = load.doubts();
        accepted.extend(load.stop());
        doubtful.extend(doubts.names());
        read_all(&host);
    }
    host.kill();
    host.restart_with(&[]);
    let mut bob = Arrivals::new(host.maildir("bob"));
    wait_until("all accepted letters", Duration::from_secs(60), || {
        host.run(&["svc", "-a", "send"]);
        bob.look_everywhere();
        bob.missing(&accepted).is_empty()
    });
    host.wait_queue_empty(Duration::from_secs(60));
    bob.look_everywhere();
    let doubles = bob.doubles(&doubtful);
    assert!(doubles.is_empty(), "read before the crash, and there again: {doubles:?}");
}
