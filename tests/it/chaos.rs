//! Any part may die while mail flows.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use mailtree_tests::chance::Chance;
use mailtree_tests::host::{Host, Setup};
use mailtree_tests::load::{Load, Plan};
use mailtree_tests::maildir::Arrivals;
use mailtree_tests::probe::{descriptors, resident};
use mailtree_tests::wait::{tick, wait_until};

/// Kills a random actor below a service, as a bug in it would; `false` if there was none or the host could not be asked.
fn kill_inside(host: &Host, service: &str) -> bool {
    let answer = || {
        let mut socket = UnixStream::connect(host.home().join("run/control.sock"))?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        writeln!(socket, "{{\"chaos\":{{\"service\":\"{service}\"}}}}")?;
        let mut line = String::new();
        BufReader::new(socket).read_line(&mut line)?;
        Ok::<_, std::io::Error>(line)
    };
    answer().is_ok_and(|line| line.contains("killed"))
}

fn services(host: &Host) -> Vec<String> {
    host.status().iter().map(|row| row["service"].as_str().unwrap().to_owned()).collect()
}

/// Sends 2,000 letters while `strike` is called every 50 ms; then all have arrived. A host that is done before ten
/// strikes have struck gets 2,000 more.
fn survive(host: &Host, prefix: &str, mut strike: impl FnMut() -> bool) {
    let start = Instant::now();
    let (mut strikes, mut loads) = (0, 0);
    let mut accepted = BTreeSet::new();
    while loads == 0 || strikes < 10 {
        loads += 1;
        let plan = Plan { sessions: 20, ..Plan::to("bob@mx.test", &format!("{prefix}{loads}"), 2000) };
        let load = Load::start(host.address(), &plan);
        while !load.is_finished() {
            let next = Instant::now() + Duration::from_millis(50);
            strikes += usize::from(strike());
            assert!(
                start.elapsed() < Duration::from_secs(240),
                "{} of 2000 accepted in load {loads} after {strikes} strikes; last refusals {:?}",
                load.count(),
                load.refusals()
            );
            tick(next.saturating_duration_since(Instant::now()));
        }
        accepted.extend(load.stop());
    }
    println!("{strikes} strikes in {:?}, {loads} loads", start.elapsed());
    wait_arrived(host, &accepted);
}

fn wait_arrived(host: &Host, accepted: &BTreeSet<String>) {
    let mut bob = Arrivals::new(host.maildir("bob"));
    let mut asked = Instant::now();
    wait_until("all accepted letters to arrive", Duration::from_secs(120), || {
        bob.look();
        if asked.elapsed() > Duration::from_secs(1) {
            host.run(&["svc", "-a", "send"]);
            asked = Instant::now();
        }
        bob.missing(accepted).is_empty()
    });
    wait_until("all services up again", Duration::from_secs(90), || {
        let rows = host.status();
        !rows.is_empty() && rows.iter().all(|row| row["state"] == "up")
    });
    host.wait_queue_empty(Duration::from_secs(60));
}

/// Permits and gauges are at zero; descriptors and memory are where they were.
fn at_rest(host: &Host, descriptors_before: usize, resident_before: u64) {
    wait_until("permits in use to return to zero", Duration::from_secs(30), || {
        host.metrics().series("mailtree_permits_in_use").values().all(|value| *value == 0.0)
    });
    wait_until("an empty queue in the metrics", Duration::from_secs(30), || {
        host.metrics().series("mailtree_queue_messages").values().all(|value| *value == 0.0)
    });
    wait_until(&format!("{descriptors_before} file descriptors"), Duration::from_secs(30), || {
        descriptors(host.pid()) <= descriptors_before + 3
    });
    let resident = resident(host.pid());
    assert!(resident < resident_before + (24 << 10), "memory grew from {resident_before} to {resident} KiB");
}

/// A host that has worked, so that its buffers and threads are there.
fn warm() -> (Host, usize, u64) {
    let host = Setup::new().env("MAILTREE_CHAOS", "1").start();
    let accepted =
        Load::start(host.address(), &Plan { sessions: 20, ..Plan::to("bob@mx.test", "warm", 2000) });
    wait_arrived(&host, &accepted.finish(Duration::from_secs(60)));
    wait_until("sessions to end", Duration::from_secs(30), || {
        host.metrics().series("mailtree_permits_in_use").values().all(|value| *value == 0.0)
    });
    let (descriptors, resident) = (descriptors(host.pid()), resident(host.pid()));
    (host, descriptors, resident)
}

#[test]
fn sessions_and_deliveries_killed_every_50_ms() {
    let (host, descriptors, resident) = warm();
    let mut chance = Chance::new();
    survive(&host, "inside", || kill_inside(&host, if chance.between(0, 2) == 0 { "smtpd" } else { "send" }));
    at_rest(&host, descriptors, resident);
}

#[test]
fn any_actor_killed_every_50_ms() {
    let (host, descriptors, resident) = warm();
    let services = services(&host);
    let mut chance = Chance::new();
    survive(&host, "any", || kill_inside(&host, chance.pick(services.as_slice()).as_str()));
    at_rest(&host, descriptors, resident);
}

#[test]
fn each_service_killed_by_svc_while_mail_flows() {
    let (host, descriptors, resident) = warm();
    // The control service cannot be killed through itself and answer.
    let services: Vec<_> = services(&host).into_iter().filter(|name| name != "control").collect();
    let mut turn = services.iter().cycle();
    survive(&host, "svc", || {
        host.run(&["svc", "-k", turn.next().unwrap()]);
        true
    });
    at_rest(&host, descriptors, resident);
}

#[test]
fn a_service_killed_once_is_back_within_two_seconds_and_nothing_else_notices() {
    let host = Host::start();
    for service in services(&host) {
        let others = |host: &Host| -> Vec<_> {
            let rows = host.status();
            rows.into_iter()
                .filter(|row| row["service"] != service.as_str())
                .map(|row| (row["service"].clone(), row["restarts"].clone()))
                .collect()
        };
        let before = others(&host);
        let restarts = host.service(&service).unwrap()["restarts"].as_u64().unwrap();
        host.run(&["svc", "-k", &service]);
        wait_until(&format!("{service} up again"), Duration::from_secs(5), || {
            host.service(&service)
                .is_some_and(|row| row["state"] == "up" && row["restarts"].as_u64() > Some(restarts))
        });
        assert_eq!(others(&host), before, "when {service} was killed");
    }
    host.wait_up();
    host.send("sender@mx.test", &["bob@mx.test"], &mailtree_tests::letter::letter("after", 300));
    host.maildir("bob").wait(1, Duration::from_secs(30));
}
