//! The power fails: a queue on an ext4 that goes dark without its journal being written.

mod needs_root {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use mailtree_tests::chance::Chance;
    use mailtree_tests::disk::{Disk, Switch};
    use mailtree_tests::host::{Host, Setup};
    use mailtree_tests::load::{Load, Plan};
    use mailtree_tests::maildir::Arrivals;
    use mailtree_tests::wait::{tick, wait_until};

    /// Cuts the power when `enough` letters are accepted, brings everything back, and gives what was accepted.
    fn dark(
        host: &mut Host,
        disk: &mut Disk,
        load: Load,
        enough: usize,
        delay: Duration,
    ) -> BTreeSet<String> {
        let switch = Switch::new(&disk.path());
        load.wait_accepted(enough, Duration::from_secs(30));
        tick(delay);
        switch.cut();
        host.kill();
        // Also what was acknowledged after the cut counts.
        let accepted = load.stop();
        disk.unmount();
        disk.mount();
        accepted
    }

    #[test]
    fn twenty_power_cuts_right_after_a_250_lose_nothing() {
        let mut chance = Chance::new();
        let mut disk = Disk::new(512);
        let mut host = Setup::at(disk.path().join("home")).start();
        let mut accepted = BTreeSet::new();
        for round in 1..=20 {
            let load = Load::start(host.address(), &Plan::to("bob@mx.test", &format!("cut-{round}"), 2000));
            let enough = chance.between(1, 150) as usize;
            accepted.extend(dark(
                &mut host,
                &mut disk,
                load,
                enough,
                Duration::from_micros(chance.between(0, 3000)),
            ));
            host.restart();
            let mut bob = Arrivals::new(host.maildir("bob"));
            let mut lost = Vec::new();
            let start = std::time::Instant::now();
            while start.elapsed() < Duration::from_secs(30) {
                bob.look();
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
    }

    /// Nothing is delivered before the cut, so all accepted letters are in the queue alone.
    #[test]
    fn a_power_cut_while_all_is_held_in_the_queue_loses_nothing() {
        let mut disk = Disk::new(512);
        let mut host = Setup::at(disk.path().join("home")).control("concurrencylocal", "0\n").start();
        let mut accepted = BTreeSet::new();
        for round in 1..=5 {
            let load = Load::start(host.address(), &Plan::to("bob@mx.test", &format!("held-{round}"), 2000));
            accepted.extend(dark(&mut host, &mut disk, load, 60, Duration::ZERO));
            host.restart();
        }
        assert_eq!(host.maildir("bob").count(), 0);
        host.control("concurrencylocal", "20\n");
        host.ask(&["svc", "-t", "send"]);
        let mut bob = Arrivals::new(host.maildir("bob"));
        wait_until("all accepted letters", Duration::from_secs(60), || {
            bob.look();
            bob.missing(&accepted).is_empty()
        });
    }
}
