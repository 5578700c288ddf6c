//! Guessing of passwords is slowed for the account and for the network it comes from, and slows nobody else.

use std::time::{Duration, Instant};

use mailtree_tests::dialogue::{Dialogue, base64};
use mailtree_tests::host::{Host, PATIENCE, Setup};
use mailtree_tests::wait::wait_until;

const SECRET: &str = "secret-of-the-test";
const TOO_MANY: &str = "454 4.7.0 oops, too many failures and I can't auth (#4.7.0)";

fn setup() -> Setup {
    Setup::new().smtpd(
        "proxies: [\"127.0.0.1\"], environment: {\"SMTPAUTH\": \"\"}, auth_in_clear: true, per_ip: 100",
    )
}

fn client(host: &Host, ip: &str) -> Dialogue {
    let mut client = Dialogue::proxied(host.address().get(), ip, 25).unwrap();
    client.say("EHLO client.test", 250);
    client
}

/// Many guesses at the same time: none sees how the others end, so none waits for them.
fn guess<'a>(
    host: &Host,
    ips: impl IntoIterator<Item = &'a str>,
    guess: impl Fn(usize) -> (String, String),
) -> Vec<u16> {
    let mut clients: Vec<_> = ips.into_iter().map(|ip| client(host, ip)).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        client.say("AUTH LOGIN", 334);
        client.say(&base64(guess(n).0.as_bytes()), 334);
    }
    for (n, client) in clients.iter_mut().enumerate() {
        client.send(format!("{}\r\n", base64(guess(n).1.as_bytes())).as_bytes()).unwrap();
    }
    clients.iter_mut().map(|client| client.reply().unwrap().code).collect()
}

fn at_bob(n: usize) -> (String, String) {
    ("bob@mx.test".to_owned(), format!("guess-{n}"))
}

fn count(host: &Host, result: &str) -> f64 {
    host.metrics().sum("mailtree_auth_attempts_total", &[&format!("result=\"{result}\"")])
}

#[test]
fn an_account_that_is_guessed_at_is_slow_for_strangers_and_as_ever_for_its_own_network() {
    let mut host = setup().start();
    client(&host, "198.51.100.1").auth_plain("bob@mx.test", SECRET).unwrap().expect(235);
    // Whom it trusts outlives the host.
    host.stop();
    host.restart();
    // From many networks, so that none of them is guilty by itself. Those under way count: the last ones wait already.
    let networks: Vec<_> = (1..=7).map(|network| format!("192.0.2.{network}")).collect();
    guess(&host, networks.iter().map(String::as_str), at_bob);
    assert!(count(&host, "slowed") >= 2.0);
    let slowed = count(&host, "slowed");
    client(&host, "198.51.100.1").auth_plain("bob@mx.test", SECRET).unwrap().expect(235);
    assert_eq!(count(&host, "slowed"), slowed);
    client(&host, "203.0.113.1").auth_plain("sender@mx.test", SECRET).unwrap().expect(235);
    assert_eq!(count(&host, "slowed"), slowed);
    // The owner on a journey: he waits, and gets in.
    client(&host, "203.0.113.1").auth_plain("bob@mx.test", SECRET).unwrap().expect(235);
    assert_eq!((count(&host, "slowed"), count(&host, "throttled")), (slowed + 1.0, 0.0));
}

#[test]
fn a_network_that_guesses_at_many_accounts_is_closed_to_all_of_them() {
    let host = setup().start();
    let codes = guess(&host, ["192.0.2.1"; 40], |n| (format!("user{n}@mx.test"), "x".to_owned()));
    assert!(codes.iter().all(|code| [535, 454].contains(code)), "{codes:?}");
    let reply = client(&host, "192.0.2.1").auth_plain("bob@mx.test", SECRET).unwrap();
    assert_eq!(reply.text(), TOO_MANY);
    client(&host, "192.0.2.2").auth_plain("bob@mx.test", SECRET).unwrap().expect(235);
}

#[test]
fn the_allow_list_always_wins() {
    let host = setup().field("auth", "(allow: [\"192.0.2.0/24\"])").start();
    let codes = guess(&host, ["192.0.2.1"; 30], at_bob);
    assert_eq!(codes, [535; 30]);
    // Neither are its wrong passwords counted against others.
    client(&host, "203.0.113.1").auth_plain("bob@mx.test", SECRET).unwrap().expect(235);
    // Nor others' against it.
    guess(&host, ["203.0.113.2"; 20], at_bob);
    let closed = client(&host, "203.0.113.2").auth_plain("bob@mx.test", SECRET).unwrap();
    assert_eq!(closed.text(), TOO_MANY);
    client(&host, "192.0.2.9").auth_plain("bob@mx.test", SECRET).unwrap().expect(235);
}

#[test]
fn a_device_with_an_old_password_is_not_slowed() {
    let host = setup().start();
    for _ in 0..3 {
        let mut device = client(&host, "192.0.2.1");
        for _ in 0..10 {
            device.auth_plain("bob@mx.test", "last-years-password").unwrap().expect(535);
        }
    }
    client(&host, "192.0.2.1").auth_plain("bob@mx.test", SECRET).unwrap().expect(235);
    assert_eq!((count(&host, "slowed"), count(&host, "throttled")), (0.0, 0.0));
    assert_eq!(count(&host, "refused"), 30.0);
}

#[test]
fn the_fourth_wrong_password_is_free_and_the_fifth_waits() {
    let host = setup().start();
    let mut client = client(&host, "192.0.2.1");
    for n in 0..4 {
        client.auth_plain("bob@mx.test", &format!("guess-{n}")).unwrap().expect(535);
    }
    assert_eq!(count(&host, "slowed"), 0.0);
    client.auth_plain("bob@mx.test", "guess-5").unwrap().expect(535);
    assert_eq!(count(&host, "slowed"), 1.0);
}

/// How long replies take: the one in the middle, and the slowest but for one in a hundred.
fn latency(client: &mut Dialogue, enough: &dyn Fn(usize) -> bool) -> [Duration; 2] {
    let mut times = Vec::new();
    while !enough(times.len()) {
        let start = Instant::now();
        client.say(["NOOP", "EHLO client.test"][times.len() % 2], 250);
        times.push(start.elapsed());
    }
    times.sort();
    [times[times.len() / 2], times[times.len() * 99 / 100]]
}

#[test]
fn a_flood_of_logins_leaves_other_sessions_alone() {
    const CLIENTS: usize = 12;
    let host = setup().start();
    let mut other = client(&host, "198.51.100.1");
    // The first replies come from a cold host.
    latency(&mut other, &|count| count >= 1000);
    let quiet = latency(&mut other, &|count| count >= 5000);
    let replies = std::sync::Mutex::new(Vec::new());
    let (host_, replies_) = (&host, &replies);
    let flooded = std::thread::scope(|scope| {
        let flood: Vec<_> = (0..CLIENTS)
            .map(|n| {
                scope.spawn(move || {
                    let mut client = client(host_, &format!("192.0.2.{n}"));
                    // As many as a network may get wrong without being slowed.
                    for guess in 0..10 {
                        let user = format!("user{n}x{guess}@mx.test");
                        let reply = client.auth_plain(&user, "guess").unwrap();
                        replies_.lock().unwrap().push(reply.code);
                    }
                })
            })
            .collect();
        latency(&mut other, &|count| count > 0 && flood.iter().all(|thread| thread.is_finished()))
    });
    for (which, n) in [("median", 0), ("99 %", 1)] {
        let ratio = flooded[n].as_secs_f64() / quiet[n].as_secs_f64();
        println!("{which}: {:?} quiet, {:?} flooded: {ratio:.1}", quiet[n], flooded[n]);
    }
    let replies = replies.into_inner().unwrap();
    assert_eq!(replies.len(), CLIENTS * 10);
    assert!(replies.iter().all(|code| [535, 454].contains(code)), "{replies:?}");
    wait_until("no password to wait", PATIENCE, || {
        host.metrics().sum("mailtree_permits_in_use", &["permit=\"passwords\""]) == 0.0
    });
    client(&host, "198.51.100.2").auth_plain("bob@mx.test", SECRET).unwrap().expect(235);
}
