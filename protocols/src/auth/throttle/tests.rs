use proptest::prelude::*;

use super::Verdict::{Go, Refuse, Wait};
use super::*;

const JOE: &str = "joe@example.org";
const MAX: &str = "max@example.org";
const HOME: &str = "192.0.2.1";
const AWAY: &str = "198.51.100.7";

/// What happens at a time.
#[derive(Debug, Clone)]
enum Event {
    /// A wrong password.
    Wrong(&'static str),
    /// So many wrong passwords, all different.
    Guesses(u32),
    /// A wrong response of CRAM-MD5.
    WrongCram,
    Right,
    Expect(Verdict),
}
use Event::{Expect, Guesses, Right, Wrong, WrongCram};

fn attempt<'a>(minute: u64, account: &'a str, client: &str) -> Attempt<'a> {
    let client = client.parse().unwrap();
    Attempt { account: account.as_bytes(), client, allowed: false, now: minute * 60_000 }
}

/// Plays a timeline: minute, account, client, event.
fn play(timeline: &[(u64, &str, &str, Event)]) {
    let mut throttle = Throttle::new(Limits::default(), [7; 16]);
    let mut guess = 0_u64;
    for (n, (minute, account, client, event)) in timeline.iter().enumerate() {
        let attempt = attempt(*minute, account, client);
        match event {
            Wrong(password) => throttle.failed(&attempt, Some(password.as_bytes())),
            WrongCram => throttle.failed(&attempt, None),
            Guesses(times) => (0..*times).for_each(|_| {
                guess += 1;
                throttle.failed(&attempt, Some(&guess.to_le_bytes()));
            }),
            Right => throttle.succeeded(&attempt),
            Expect(verdict) => {
                let before = throttle.before(&attempt);
                assert_eq!(before, *verdict, "line {n}: {minute} {account} {client}");
                if before != Refuse {
                    throttle.over(&attempt);
                }
            }
        }
    }
}

#[test]
fn waits_double_and_end_in_refusal() {
    play(&[
        (0, JOE, HOME, Expect(Go)),
        (0, JOE, HOME, Guesses(3)),
        (0, JOE, HOME, Expect(Go)),
        (0, JOE, HOME, Guesses(1)),
        (0, JOE, HOME, Expect(Wait(1_000))),
        (0, JOE, HOME, Guesses(1)),
        (0, JOE, HOME, Expect(Wait(2_000))),
        (0, JOE, HOME, Guesses(1)),
        (0, JOE, HOME, Expect(Wait(4_000))),
        (0, JOE, HOME, Guesses(1)),
        (0, JOE, HOME, Expect(Wait(8_000))),
        (0, JOE, HOME, Guesses(1)),
        (0, JOE, HOME, Expect(Wait(16_000))),
        (0, JOE, HOME, Guesses(1)),
        (0, JOE, HOME, Expect(Wait(30_000))),
        (0, JOE, HOME, Guesses(7)),
        (0, JOE, HOME, Expect(Wait(30_000))),
        (0, JOE, HOME, Guesses(1)),
        (0, JOE, HOME, Expect(Refuse)),
        // Whoever he is, from a network that is nobody's yet he gets in.
        (0, JOE, AWAY, Expect(Wait(30_000))),
    ]);
}

#[test]
fn failures_are_forgotten_one_by_one() {
    play(&[
        (100, JOE, HOME, Guesses(10)),
        (100, JOE, HOME, Expect(Wait(30_000))),
        (104, JOE, HOME, Expect(Wait(30_000))),
        (105, JOE, HOME, Expect(Wait(30_000))),
        (110, JOE, HOME, Expect(Wait(16_000))),
        (130, JOE, HOME, Expect(Wait(1_000))),
        (135, JOE, HOME, Expect(Go)),
        (149, JOE, HOME, Guesses(4)),
        (149, JOE, HOME, Expect(Wait(2_000))),
        (500, JOE, HOME, Guesses(3)),
        (500, JOE, HOME, Expect(Go)),
    ]);
}

#[test]
fn the_heaviest_attack_is_forgotten_in_three_hours() {
    play(&[
        (0, JOE, HOME, Guesses(100_000)),
        (0, JOE, HOME, Expect(Refuse)),
        (164, JOE, AWAY, Expect(Wait(1_000))),
        (165, JOE, AWAY, Expect(Go)),
        (180, JOE, HOME, Expect(Go)),
    ]);
}

#[test]
fn accounts_and_networks_are_counted_apart() {
    play(&[
        (0, JOE, HOME, Guesses(10)),
        (0, "JOE@Example.org", AWAY, Expect(Wait(30_000))),
        (0, MAX, AWAY, Expect(Go)),
        (0, MAX, HOME, Expect(Go)),
        (0, MAX, HOME, Guesses(1)),
        (0, "zoe@example.org", HOME, Expect(Wait(1_000))),
        (0, "zoe@example.org", "192.0.2.2", Expect(Go)),
        (0, "zoe@example.org", "::ffff:192.0.2.1", Expect(Wait(1_000))),
        (0, "a@d", "2001:db8:0:1::1", Guesses(6)),
        (0, "b@d", "2001:db8:0:1:ffff::2", Guesses(5)),
        (0, "c@d", "2001:db8:0:1:aaaa::3", Expect(Wait(1_000))),
        (0, "c@d", "2001:db8:0:2::1", Expect(Go)),
    ]);
}

#[test]
fn the_same_wrong_password_counts_once() {
    let mut timeline = vec![(0, JOE, HOME, Guesses(2))];
    timeline.extend((0..40).map(|minute| (minute / 10, JOE, HOME, Wrong("old password"))));
    timeline.push((4, JOE, HOME, Expect(Go)));
    // Elsewhere it is another guess.
    timeline.push((4, JOE, AWAY, Wrong("old password")));
    timeline.push((4, JOE, HOME, Expect(Wait(1_000))));
    // For another account too.
    timeline.extend((0..4).map(|_| (4, MAX, HOME, Wrong("old password"))));
    timeline.push((4, MAX, HOME, Expect(Go)));
    play(&timeline);
}

#[test]
fn wrong_responses_of_cram_md5_count_each() {
    let mut timeline = vec![(0, JOE, HOME, WrongCram); 4];
    timeline.push((0, JOE, HOME, Expect(Wait(1_000))));
    play(&timeline);
}

#[test]
fn guessing_elsewhere_does_not_lock_out_a_network_of_success() {
    let month = 30 * 24 * 60;
    play(&[
        (0, JOE, HOME, Right),
        (1, JOE, AWAY, Guesses(1000)),
        (1, JOE, AWAY, Expect(Refuse)),
        (1, JOE, HOME, Expect(Go)),
        (1, JOE, "203.0.113.5", Expect(Wait(30_000))),
        // It vouches for no other account, and other accounts' failures do not count against it.
        (1, MAX, "203.0.113.5", Guesses(10)),
        (1, MAX, HOME, Expect(Wait(30_000))),
        (1, MAX, HOME, Guesses(11)),
        (1, JOE, HOME, Expect(Go)),
        (1, JOE, HOME, Guesses(4)),
        (1, JOE, HOME, Expect(Wait(1_000))),
        // Trust ends.
        (month - 1, JOE, AWAY, Guesses(4)),
        (month - 1, JOE, HOME, Expect(Go)),
        (month, JOE, HOME, Expect(Wait(1_000))),
    ]);
}

#[test]
fn a_success_clears_nothing() {
    play(&[
        (0, JOE, AWAY, Guesses(17)),
        (0, MAX, AWAY, Right),
        // His own account is his; it opens no other.
        (0, MAX, AWAY, Expect(Go)),
        (0, JOE, AWAY, Expect(Refuse)),
        (0, JOE, HOME, Right),
        (0, JOE, "203.0.113.5", Expect(Wait(30_000))),
    ]);
}

#[test]
fn the_allow_list_always_wins() {
    let mut throttle = Throttle::new(Limits::default(), [7; 16]);
    for password in 0..100_u8 {
        throttle.failed(&attempt(0, JOE, HOME), Some(&[password]));
    }
    let allowed = Attempt { allowed: true, ..attempt(0, JOE, HOME) };
    assert_eq!(throttle.before(&attempt(0, JOE, HOME)), Refuse);
    assert_eq!(throttle.before(&allowed), Go);
    for password in 0..100_u8 {
        throttle.failed(&Attempt { allowed: true, ..attempt(0, MAX, AWAY) }, Some(&[password]));
    }
    assert_eq!(throttle.before(&attempt(0, MAX, AWAY)), Go);
}

#[test]
fn debug_tells_no_key() {
    let shown = format!("{:?}", Throttle::new(Limits::default(), [173; 16]));
    assert!(shown.contains("limits") && !shown.contains("173"), "{shown}");
}

#[test]
fn odd_limits_and_times() {
    let zero = Limits {
        account_free: 0,
        network_free: 0,
        site_free: 0,
        first_wait: 0,
        longest_wait: 0,
        forget: 0,
        remembered: 0,
        trust: 0,
    };
    let most = Limits {
        account_free: 0,
        network_free: 0,
        site_free: 0,
        first_wait: u64::MAX,
        longest_wait: u64::MAX,
        forget: u64::MAX,
        remembered: u32::MAX,
        trust: u64::MAX,
    };
    for limits in [zero, most] {
        for now in [0, 1, u64::MAX] {
            let mut throttle = Throttle::new(limits.clone(), [0; 16]);
            let attempt = Attempt { now, ..attempt(0, JOE, HOME) };
            throttle.succeeded(&attempt);
            for password in 0..50 {
                throttle.failed(&attempt, Some(&[password]));
                throttle.before(&attempt);
            }
        }
    }
}

/// A flood from thousands of networks at thousands of accounts, with successes among them.
fn flood(throttle: &mut Throttle, seed: u64, times: u64) {
    for n in 0..times {
        let mixed = (n ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let account = format!("u{}@example.net", mixed >> 50);
        let client = format!("2001:db8:{:x}:{:x}::1", mixed >> 16 & 0xffff, mixed & 0xffff);
        let attempt = attempt(0, &account, &client);
        if n % 16 == 0 { throttle.succeeded(&attempt) } else { throttle.failed(&attempt, Some(&[0])) }
    }
}

#[test]
fn a_flood_neither_takes_memory_nor_flushes_a_record() {
    let mut throttle = Throttle::new(Limits::default(), [7; 16]);
    let sizes = |throttle: &Throttle| {
        let sketches = [&throttle.accounts, &throttle.networks].map(Sketch::capacity);
        (sketches, [&throttle.trusted, &throttle.counted].map(Recent::capacity))
    };
    let before = sizes(&throttle);
    for password in 0..17 {
        throttle.failed(&attempt(0, JOE, HOME), Some(&[password]));
    }
    flood(&mut throttle, 1, 40_000);
    assert_eq!(sizes(&throttle), before);
    assert_eq!(throttle.before(&attempt(0, JOE, AWAY)), Wait(30_000));
    assert_eq!(throttle.before(&attempt(0, MAX, HOME)), Refuse);
    // And strangers are let in.
    let strangers = (0..1000).filter(|n| {
        let (account, client) = (format!("s{n}@example.com"), format!("203.0.{}.{}", n / 250, n % 250));
        throttle.before(&attempt(0, &account, &client)) == Go
    });
    assert!(strangers.count() > 990);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn what_others_do_makes_no_record_smaller(failures in 0..20_u8, seed in any::<u64>(), key in any::<[u8; 16]>()) {
        let mut throttle = Throttle::new(Limits::default(), key);
        for password in 0..failures {
            throttle.failed(&attempt(0, JOE, HOME), Some(&[password]));
        }
        let rank = |verdict| match verdict {
            Go => 0,
            Wait(time) => time,
            Refuse => u64::MAX,
        };
        let before = rank(throttle.before(&attempt(0, JOE, HOME)));
        flood(&mut throttle, seed, 1000);
        prop_assert!(rank(throttle.before(&attempt(0, JOE, HOME))) >= before);
    }
}

#[test]
fn one_site_cannot_raise_all_networks() {
    let mut throttle = Throttle::new(Limits::default(), [7; 16]);
    let from = |n: u32| format!("2001:db8:1:{n:x}::1");
    for n in 0..200 {
        let client = from(n % 60_000);
        if throttle.before(&attempt(0, JOE, &client)) == Refuse {
            break;
        }
        throttle.failed(&attempt(0, &format!("user{n}@x.test"), &client), Some(&n.to_le_bytes()));
    }
    assert_eq!(throttle.before(&attempt(0, MAX, &from(50_000))), Refuse, "the site is over");
    assert_eq!(throttle.before(&attempt(0, MAX, "2001:db8:2::1")), Go, "the next one is not");
}

#[test]
fn whoever_was_right_before_is_held_to_his_own_failures() {
    play(&[
        (0, JOE, HOME, Right),
        // Others guess at the account from elsewhere, and at others from this network.
        (1, JOE, AWAY, Guesses(40)),
        (1, MAX, HOME, Guesses(40)),
        (1, JOE, HOME, Expect(Go)),
        (1, MAX, HOME, Expect(Refuse)),
        (1, JOE, HOME, Guesses(40)),
        (1, JOE, HOME, Expect(Refuse)),
    ]);
}

#[test]
fn attempts_under_way_count_until_they_are_over() {
    let mut throttle = Throttle::new(Limits::default(), [7; 16]);
    let joe = attempt(0, JOE, HOME);
    let verdicts: Vec<_> = (0..8).map(|_| throttle.before(&joe)).collect();
    assert_eq!(verdicts[..6], [Go, Go, Go, Go, Wait(1_000), Wait(2_000)]);
    // Many users of one address at once are no guessers.
    assert_eq!(throttle.before(&attempt(0, MAX, HOME)), Go);
    (0..8).for_each(|_| throttle.over(&joe));
    assert_eq!(throttle.before(&joe), Go);
    throttle.over(&joe);
    throttle.over(&attempt(0, MAX, HOME));
    assert!(throttle.under_way.is_empty());
    // Once somebody there has failed, those under way may fail as well.
    throttle.failed(&attempt(0, MAX, HOME), Some(b"no"));
    let accounts: Vec<_> = (0..20).map(|n| format!("u{n}@example.org")).collect();
    let let_in = accounts.iter().filter(|account| throttle.before(&attempt(0, account, HOME)) != Refuse);
    assert_eq!(let_in.count(), 16);
}

#[test]
fn what_is_refused_after_its_wait_was_not_before() {
    let mut throttle = Throttle::new(Limits::default(), [7; 16]);
    let waiting = attempt(0, JOE, HOME);
    assert_eq!(throttle.before(&waiting), Go);
    for password in 0..17 {
        throttle.failed(&attempt(0, MAX, HOME), Some(&[password]));
    }
    assert!(throttle.is_refused(&waiting));
}

#[test]
fn trust_outlives_the_host() {
    let mut throttle = Throttle::new(Limits::default(), [7; 16]);
    assert_eq!(throttle.trusted(0), None);
    throttle.succeeded(&attempt(0, JOE, HOME));
    let (key, kept) = throttle.trusted(0).unwrap();
    assert_eq!((kept.len(), throttle.trusted(0)), (1, None), "told once");
    throttle.succeeded(&attempt(1, JOE, HOME));
    assert_eq!(throttle.trusted(0), None, "nothing new");
    let mut restored = Throttle::restored(Limits::default(), key, kept);
    for password in 0..40 {
        restored.failed(&attempt(2, JOE, AWAY), Some(&[password]));
    }
    assert_eq!(restored.before(&attempt(2, JOE, HOME)), Go);
    assert_eq!(restored.before(&attempt(2, JOE, "203.0.113.5")), Wait(30_000));
}
