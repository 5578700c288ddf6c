//! The power fails: a queue on an ext4 that goes dark without its journal being written.

mod needs_root {
    use std::collections::BTreeSet;
    use std::time::{Duration, Instant};

    use mailtree_tests::chance::Chance;
    use mailtree_tests::disk::{Disk, Switch};
    use mailtree_tests::host::{Host, Setup, free_port};
    use mailtree_tests::load::{Load, Plan};
    use mailtree_tests::maildir::Arrivals;
    use mailtree_tests::wait::{tick, wait_until};

    /// Where the power goes: while a batch is written, a copy is delivered, a checkpoint is made, a message is written out, the
    /// journal is replayed.
    const STEPS: [&str; 12] = [
        "journal-written",
        "journal-synced",
        "maildir-linked",
        "recipient-noted",
        "checkpoint-begun",
        "checkpoint-written",
        "mess-placed",
        "channels-written",
        "info-written",
        "placed",
        "written-out",
        "replayed",
    ];

    mailtree_tests::with_and_without_journal!(
        twenty_power_cuts_right_after_a_250_lose_nothing,
        a_power_cut_while_all_is_held_in_the_queue_loses_nothing,
        a_power_cut_seconds_after_the_last_250_loses_and_tears_nothing,
    );

    /// Cuts the power when `enough` letters are accepted, brings everything back, and gives what was accepted,
    /// and what may rightly come twice.
    fn dark(
        host: &mut Host,
        disk: &mut Disk,
        load: Load,
        enough: usize,
        delay: Duration,
    ) -> (BTreeSet<String>, BTreeSet<String>) {
        let switch = Switch::new(&disk.path());
        load.wait_accepted(enough, Duration::from_secs(30));
        tick(delay);
        switch.cut();
        host.kill();
        // Also what was acknowledged after the cut counts.
        let doubts = load.doubts();
        let accepted = load.stop();
        disk.unmount();
        disk.mount();
        (accepted, doubts.names())
    }

    fn twenty_power_cuts_right_after_a_250_lose_nothing(journal: bool) {
        let mut chance = Chance::new();
        let mut disk = Disk::new(512);
        let mut host = Setup::at(disk.path().join("home")).journal(journal).start();
        let (mut accepted, mut doubtful) = (BTreeSet::new(), BTreeSet::new());
        for round in 1..=20 {
            let load = Load::start(host.address(), &Plan::to("bob@mx.test", &format!("cut-{round}"), 2000));
            let enough = chance.between(1, 150) as usize;
            let delay = Duration::from_micros(chance.between(0, 3000));
            let (these, unsure) = dark(&mut host, &mut disk, load, enough, delay);
            accepted.extend(these);
            doubtful.extend(unsure);
            host.restart();
            let mut bob = Arrivals::new(host.maildir("bob"));
            let mut lost = Vec::new();
            let start = Instant::now();
            while start.elapsed() < Duration::from_secs(30) {
                bob.look_after_power_cut();
                lost = bob.missing(&accepted);
                if lost.is_empty() {
                    break;
                }
                host.run(&["svc", "-a", "send"]);
                tick(Duration::from_millis(50));
            }
            assert!(
                lost.is_empty(),
                "round {round}: {} of {} accepted letters are lost: {lost:?}",
                lost.len(),
                accepted.len()
            );
        }
        println!("{} letters accepted over 20 power cuts", accepted.len());
        no_doubles(&host, journal, &doubtful);
    }

    /// Nothing is delivered before the cut, so all accepted letters are in the queue alone.
    fn a_power_cut_while_all_is_held_in_the_queue_loses_nothing(journal: bool) {
        let mut disk = Disk::new(512);
        let mut host =
            Setup::at(disk.path().join("home")).journal(journal).control("concurrencylocal", "0\n").start();
        let (mut accepted, mut doubtful) = (BTreeSet::new(), BTreeSet::new());
        for round in 1..=5 {
            let load = Load::start(host.address(), &Plan::to("bob@mx.test", &format!("held-{round}"), 2000));
            let (these, unsure) = dark(&mut host, &mut disk, load, 60, Duration::ZERO);
            accepted.extend(these);
            doubtful.extend(unsure);
            host.restart();
        }
        assert_eq!(host.maildir("bob").count(), 0);
        host.control("concurrencylocal", "20\n");
        host.ask(&["svc", "-t", "send"]);
        let mut bob = Arrivals::new(host.maildir("bob"));
        wait_until("all accepted letters", Duration::from_secs(60), || {
            bob.look_after_power_cut();
            bob.missing(&accepted).is_empty()
        });
        no_doubles(&host, journal, &doubtful);
    }

    /// All is quiet, every letter has been seen in the Maildir, and the file system has had the time to make names durable
    /// whose text it has not written yet.
    fn a_power_cut_seconds_after_the_last_250_loses_and_tears_nothing(journal: bool) {
        let mut disk = Disk::new(512);
        let mut host = Setup::at(disk.path().join("home")).journal(journal).start();
        let (mut accepted, mut doubtful) = (BTreeSet::new(), BTreeSet::new());
        for seconds in [7, 1, 5, 3, 7] {
            let plan = Plan::to("bob@mx.test", &format!("quiet-{}", accepted.len()), 200);
            let load = Load::start(host.address(), &plan);
            load.wait_accepted(200, Duration::from_secs(60));
            let last = Instant::now();
            let mut bob = Arrivals::new(host.maildir("bob"));
            wait_until("all letters in the Maildir", Duration::from_secs(30), || {
                bob.look();
                bob.copies.len() >= accepted.len() + 200
            });
            let delay = Duration::from_secs(seconds).saturating_sub(last.elapsed());
            let (these, unsure) = dark(&mut host, &mut disk, load, 200, delay);
            accepted.extend(these);
            doubtful.extend(unsure);
            host.restart();
            let mut bob = Arrivals::new(host.maildir("bob"));
            wait_until(
                &format!("all letters after a cut {seconds} s later"),
                Duration::from_secs(30),
                || {
                    bob.look_after_power_cut();
                    bob.missing(&accepted).is_empty()
                },
            );
        }
        no_doubles(&host, journal, &doubtful);
    }

    #[test]
    fn a_power_cut_at_any_step_of_the_journal_loses_and_tears_nothing() {
        let mut disk = Disk::new(512);
        let services = format!("{{ \"smtpd\": smtpd(listen: [\"{}\"]) }}", free_port("127.0.0.1"));
        let mut host = Setup::at(disk.path().join("home")).field("services", services).start();
        let (mut accepted, mut doubtful) = (BTreeSet::new(), BTreeSet::new());
        for step in STEPS {
            // A start replays once.
            let times = if step == "replayed" { 1 } else { 2 };
            host.kill();
            host.relaunch_with(&[("MAILTREE_CRASH_POINT", &format!("{step}:{times}"))]);
            let switch = Switch::new(&disk.path());
            let load = Load::start(host.address(), &Plan::to("bob@mx.test", &format!("step-{step}"), 100));
            let start = Instant::now();
            while host.ended().is_none() && start.elapsed() < Duration::from_secs(3) {
                // Whoever counts the queue has it written into files.
                host.run(&["qmail-qstat"]);
                tick(Duration::from_millis(20));
            }
            switch.cut();
            host.kill();
            doubtful.extend(load.doubts().names());
            accepted.extend(load.stop());
            disk.unmount();
            disk.mount();
        }
        host.restart_with(&[]);
        let mut bob = Arrivals::new(host.maildir("bob"));
        wait_until("all accepted letters", Duration::from_secs(60), || {
            bob.look_after_power_cut();
            bob.missing(&accepted).is_empty()
        });
        println!("{} letters accepted at {} steps", accepted.len(), STEPS.len());
        no_doubles(&host, true, &doubtful);
    }

    /// Nobody has moved or deleted anything: with a journal, what was repeated is there once.
    fn no_doubles(host: &Host, journal: bool, doubtful: &BTreeSet<String>) {
        host.wait_queue_empty(Duration::from_secs(60));
        let mut bob = Arrivals::new(host.maildir("bob"));
        bob.look();
        let doubles = bob.doubles(doubtful);
        println!("{} of {} letters more than once", doubles.len(), bob.copies.len());
        assert!(!journal || doubles.is_empty(), "came more than once: {doubles:?}");
    }
}
