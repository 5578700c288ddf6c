//! A disk that is full, at each step of a message's life. What was accepted before comes whole and once when there is room
//! again, and what cannot be kept is refused for now.

mod needs_root {
    use std::collections::BTreeSet;
    use std::fs::{self, File};
    use std::io::Write;
    use std::path::PathBuf;
    use std::time::{Duration, Instant};

    use mailtree_tests::disk::Disk;
    use mailtree_tests::host::{Host, ME, Setup};
    use mailtree_tests::letter::letter;
    use mailtree_tests::load::{Load, Plan};
    use mailtree_tests::maildir::{Arrivals, Maildir};
    use mailtree_tests::sick::Thin;
    use mailtree_tests::smtp::Client;
    use mailtree_tests::wait::{tick, wait_until};

    const LIMIT: Duration = Duration::from_secs(60);
    const SENDER: &str = "sender@mx.test";
    const BOB: &str = "bob@mx.test";

    mailtree_tests::with_and_without_journal!(
        a_disk_that_fills_again_and_again_under_load_loses_nothing,
        a_message_under_way_waits_for_room_in_the_queue,
        a_full_maildir_defers_and_gets_its_mail_once,
    );

    /// What leaves no room on a disk.
    struct Ballast(PathBuf);

    impl Ballast {
        /// Fills the disk to the last block, and its directory of names too.
        fn on(disk: &Disk) -> Self {
            let ballast = Self(disk.path().join("ballast"));
            ballast.fill();
            ballast
        }

        fn fill(&self) {
            let mut file = File::options().create(true).append(true).open(&self.0).unwrap();
            let mut piece = 1 << 20;
            while piece >= 1024 {
                if file.write_all(&vec![b'x'; piece]).is_err() {
                    piece /= 2;
                }
            }
        }
    }

    impl Drop for Ballast {
        fn drop(&mut self) {
            fs::remove_file(&self.0).unwrap_or(());
        }
    }

    /// A home on a disk that may be filled to the last byte: no floor keeps the host from trying.
    fn setup(disk: &Disk, journal: bool) -> Setup {
        let journal = if journal { "on" } else { "off" };
        let queue = format!("(journal: {journal}, segment: \"4MiB\", free_bytes: 0, free_inodes: 0)");
        Setup::at(disk.path().join("home")).field("queue", queue)
    }

    /// Bob's Maildir is on a disk of its own, which has room.
    fn bob_elsewhere(setup: &Setup, disk: &Disk) -> Maildir {
        let link = setup.home().join("domains").join(ME).join("bob/Maildir");
        let maildir = disk.path().join("Maildir");
        mailtree_tests::maildir::make(&maildir);
        fs::remove_dir_all(&link).unwrap_or(());
        std::os::unix::fs::symlink(&maildir, &link).unwrap();
        setup.give(&maildir);
        Maildir::new(maildir)
    }

    /// Sends one letter for all it is worth: the code of the last reply.
    fn offer(host: &Host, name: &str) -> u32 {
        let Ok(mut client) = Client::connect(host.address().get()) else { return 0 };
        client.say("EHLO client.test", 250);
        client.transact(SENDER, &[BOB], &letter(name, 3000)).map_or(0, |reply| u32::from(reply.code))
    }

    /// Letters until one is refused for now; those that were accepted.
    fn until_refused(host: &Host, prefix: &str) -> BTreeSet<String> {
        let mut accepted = BTreeSet::new();
        let start = Instant::now();
        for number in 0.. {
            let name = format!("{prefix}-{number}");
            match offer(host, &name) {
                250 => accepted.insert(name),
                code => {
                    assert!((400..500).contains(&code), "{name}: {code}");
                    return accepted;
                }
            };
            assert!(start.elapsed() < LIMIT, "{number} letters accepted on a full disk");
        }
        accepted
    }

    fn all_come_once(
        host: &Host,
        maildir: Maildir,
        accepted: &BTreeSet<String>,
        doubtful: &BTreeSet<String>,
    ) {
        host.wait_queue_empty(LIMIT);
        let mut arrivals = Arrivals::new(maildir);
        arrivals.look();
        let (lost, doubles) = (arrivals.missing(accepted), arrivals.doubles(doubtful));
        assert!(lost.is_empty(), "{} of {} are lost: {lost:?}", lost.len(), accepted.len());
        assert!(doubles.is_empty(), "came more than once: {doubles:?}");
        let known = |name: &&String| accepted.contains(*name) || doubtful.contains(*name);
        let refused: Vec<_> = arrivals.copies.keys().filter(|name| !known(name)).collect();
        assert!(refused.is_empty(), "came although they were refused: {refused:?}");
    }

    fn a_disk_that_fills_again_and_again_under_load_loses_nothing(journal: bool) {
        let disk = Disk::new(128);
        let mut host = setup(&disk, journal).start();
        let load = Load::start(host.address(), &Plan::to(BOB, "again", 3000));
        for round in 1..=5 {
            load.wait_accepted(100 * round, LIMIT);
            let ballast = Ballast::on(&disk);
            for _ in 0..20 {
                tick(Duration::from_millis(100));
                ballast.fill();
            }
        }
        let doubts = load.doubts();
        let accepted = load.finish(LIMIT);
        println!("{} letters accepted", accepted.len());
        all_come_once(&host, host.maildir("bob"), &accepted, &doubts.names());
        host.stop();
    }

    /// Accepted with room; delivered, counted, killed, replayed, stopped and started without.
    fn a_message_under_way_waits_for_room_in_the_queue(journal: bool) {
        let (disk, other) = (Disk::new(128), Disk::new(32));
        let setup = setup(&disk, journal).control("concurrencylocal", "0\n");
        let bob = bob_elsewhere(&setup, &other);
        let mut host = setup.start();
        let load = Load::start(host.address(), &Plan::to(BOB, "held", 300));
        let mut accepted = load.finish(LIMIT);

        let ballast = Ballast::on(&disk);
        // Whoever counts has the queue written out, for which there is no room.
        host.ask(&["qmail-qstat"]);
        accepted.append(&mut until_refused(&host, "full"));
        host.kill();
        host.restart();
        accepted.append(&mut until_refused(&host, "replayed"));
        host.signal(rustix::process::Signal::TERM);
        host.wait_exit(LIMIT);
        host.restart();
        assert_eq!(bob.count(), 0);
        // With a place for them, they are delivered all the same.
        // In its place: there is no room for another file.
        fs::write(host.home().join("control/concurrencylocal"), "20\n").unwrap();
        host.ask(&["svc", "-t", "send"]);
        wait_until("the letters in the other disk's Maildir", LIMIT, || {
            let mut arrivals = Arrivals::new(bob.clone());
            arrivals.look();
            arrivals.missing(&accepted).is_empty()
        });
        host.kill();
        host.restart();
        drop(ballast);
        all_come_once(&host, bob, &accepted, &BTreeSet::new());
        host.stop();
    }

    fn a_full_maildir_defers_and_gets_its_mail_once(journal: bool) {
        let (disk, other) = (Disk::new(128), Disk::new(32));
        let setup = setup(&disk, journal);
        let bob = bob_elsewhere(&setup, &other);
        let mut host = setup.start();
        let ballast = Ballast::on(&other);
        let load = Load::start(host.address(), &Plan::to(BOB, "wait", 200));
        let accepted = load.finish(LIMIT);
        host.wait_log("delivery *: deferral: *");
        host.kill();
        host.restart();
        drop(ballast);
        all_come_once(&host, bob, &accepted, &BTreeSet::new());
        host.stop();
    }

    /// The copies are whole, as far as this machine's memory goes; their disk cannot keep them.
    #[test]
    fn a_copy_that_cannot_be_synced_at_a_start_is_delivered_again() {
        let thin = Thin::new();
        let setup = Setup::new();
        let link = setup.home().join("domains").join(ME).join("bob/Maildir");
        fs::remove_dir_all(&link).unwrap();
        std::os::unix::fs::symlink(thin.maildir(), &link).unwrap();
        setup.give(&thin.maildir());
        let mut host = setup.env("MAILTREE_CRASH_POINT", "recipient-noted:30").start();
        let load = Load::start(host.address(), &Plan::to(BOB, "thin", 100));
        wait_until("the crash", LIMIT, || host.ended().is_some());
        let (doubts, bob) = (load.doubts(), Maildir::new(thin.maildir()));
        let accepted = load.stop();
        assert!(bob.count() > 0);
        thin.fill();
        host.restart_with(&[]);
        host.wait_log("warning: unable to sync * in *");
        let replayed = host.wait_log("qmail-queue: * messages in the journal are to be delivered");
        assert!(!replayed.starts_with("qmail-queue: 0 "), "{replayed}: all were believed");
        host.wait_log("warning: unable to sync a file in *");
        // Neither does what was withdrawn count as removed, nor what is found as whole, however often it dies now.
        for _ in 0..2 {
            host.kill();
            host.restart();
        }
        thin.empty();
        all_come_once(&host, bob.clone(), &accepted, &doubts.names());
        host.stop();
        thin.remount();
        let mut kept = Arrivals::new(bob);
        kept.look();
        assert_eq!(kept.missing(&accepted), [] as [&String; 0]);
    }
}
