//! The policy state by state, over simulated time, and under events in any order.

use proptest::prelude::*;

use super::*;
use crate::svc::letters;

const SECOND: Duration = Duration::from_secs(1);

fn at(seconds: u64) -> Moment {
    Moment { now: Duration::from_secs(seconds), chance: 0.0 }
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn run(service: Service, events: impl IntoIterator<Item = (u64, Event)>) -> (Service, Vec<Effect>) {
    let mut effects = Vec::new();
    let service = events.into_iter().fold(service, |service, (second, event)| {
        let (service, more) = service.step(event, at(second));
        effects = more;
        service
    });
    (service, effects)
}

fn svc(letter: char) -> Event {
    Event::Svc(Letter::from_char(letter).unwrap())
}

fn exited(generation: u64) -> Event {
    Event::Exited { generation, reason: "panic".to_owned() }
}

fn failed(generation: u64) -> Event {
    Event::StartFailed { generation, permanent: false, reason: "in use".to_owned() }
}

fn misconfigured(generation: u64) -> Event {
    Event::StartFailed { generation, permanent: true, reason: "no file".to_owned() }
}

fn new() -> Service {
    Service::new(Limits::default(), false)
}

/// A service in each state, reached at second 100.
fn in_state(name: &str) -> Service {
    let begin = (0, Event::Begin);
    let started = (0, Event::Started { generation: 1 });
    let mut resting: Vec<_> = vec![begin.clone()];
    let events = match name {
        "down" => vec![begin, started, (100, svc('d')), (100, exited(1))],
        "waiting" => vec![begin, (100, failed(1)), (100, failed(2))],
        "resting" => {
            let mut service = run(new(), resting.drain(..)).0;
            let mut second = 0;
            while !matches!(service.state(), State::Waiting { wait: Wait::Resting, .. }) {
                second = match service.state() {
                    State::Starting { generation } => {
                        service = run(service, [(second, failed(generation))]).0;
                        second
                    }
                    State::Waiting { timer, until, .. } => {
                        service = run(service, [(until.as_secs(), Event::Due { timer })]).0;
                        until.as_secs()
                    }
                    other => panic!("{other:?}"),
                };
            }
            return service;
        }
        "misconfigured" => vec![begin, (99, misconfigured(1))],
        "starting" => vec![(100, Event::Begin)],
        "up" => vec![begin, started],
        "stopping" => vec![begin, started, (100, svc('t'))],
        "killed" => vec![begin, started, (100, svc('k'))],
        "left" => vec![begin, started, (100, svc('d')), (100, svc('x')), (100, exited(1))],
        other => panic!("no state {other}"),
    };
    run(new(), events).0
}

/// A state and effects in few letters.
fn sketch(service: &Service, effects: &[Effect]) -> String {
    let state = match service.state() {
        State::Down => "down".to_owned(),
        State::Waiting { until, wait: Wait::Apart, .. } => format!("waiting@{}", until.as_secs()),
        State::Waiting { until, wait: Wait::BackOff, .. } => format!("backoff@{}", until.as_secs()),
        State::Waiting { until, wait: Wait::Resting, .. } => format!("resting@{}", until.as_secs()),
        State::Waiting { until, wait: Wait::Misconfigured, .. } => {
            format!("misconfigured@{}", until.as_secs())
        }
        State::Starting { generation } => format!("starting{generation}"),
        State::Up { generation } => format!("up{generation}"),
        State::Stopping { generation, killed: false } => format!("stopping{generation}"),
        State::Stopping { generation, killed: true } => format!("killed{generation}"),
        State::Left => "left".to_owned(),
    };
    let effects = effects.iter().filter(|effect| **effect != Effect::Announce).map(|effect| match effect {
        Effect::Start { generation } => format!(" start{generation}"),
        Effect::Stop { generation } => format!(" stop{generation}"),
        Effect::Kill { generation } => format!(" kill{generation}"),
        Effect::Tell(word) => format!(" {word:?}"),
        Effect::Wake { after, .. } => format!(" wake+{}", after.as_secs()),
        Effect::Leave => " leave".to_owned(),
        Effect::Announce => String::new(),
    });
    std::iter::once(state).chain(effects).collect()
}

#[test]
fn each_letter_in_each_state() {
    // "resting" rests from second 19 to 79 and its last start was at 19.
    let states =
        ["down", "waiting", "resting", "misconfigured", "starting", "up", "stopping", "killed", "left"];
    let table: &[(char, [&str; 9])] = &[
        (
            'u',
            [
                "starting2 start2",
                "waiting@101 wake+1",
                "starting11 start11",
                "starting2 start2",
                "starting1",
                "up1",
                "stopping1",
                "killed1",
                "left",
            ],
        ),
        (
            'd',
            [
                "down",
                "down",
                "down",
                "down",
                "killed1 kill1",
                "stopping1 stop1",
                "stopping1",
                "killed1",
                "left",
            ],
        ),
        (
            'o',
            [
                "starting2 start2",
                "waiting@101 wake+1",
                "starting11 start11",
                "starting2 start2",
                "starting1",
                "up1",
                "stopping1",
                "killed1",
                "left",
            ],
        ),
        (
            'x',
            [
                "left leave",
                "left leave",
                "left leave",
                "left leave",
                "starting1",
                "up1",
                "stopping1",
                "killed1",
                "left",
            ],
        ),
        (
            'p',
            [
                "down",
                "waiting@101",
                "resting@79",
                "misconfigured@699",
                "starting1",
                "up1 Pause",
                "stopping1",
                "killed1",
                "left",
            ],
        ),
        (
            'c',
            [
                "down",
                "waiting@101",
                "resting@79",
                "misconfigured@699",
                "starting1",
                "up1 Continue",
                "stopping1",
                "killed1",
                "left",
            ],
        ),
        (
            'h',
            [
                "down",
                "waiting@101",
                "starting11 start11",
                "starting2 start2",
                "starting1",
                "up1 Hup",
                "stopping1",
                "killed1",
                "left",
            ],
        ),
        (
            'a',
            [
                "down",
                "waiting@101",
                "resting@79",
                "misconfigured@699",
                "starting1",
                "up1 Alarm",
                "stopping1",
                "killed1",
                "left",
            ],
        ),
        (
            'i',
            [
                "down",
                "waiting@101 wake+1",
                "starting11 start11",
                "starting2 start2",
                "killed1 kill1",
                "stopping1 stop1",
                "stopping1",
                "killed1",
                "left",
            ],
        ),
        (
            't',
            [
                "down",
                "waiting@101 wake+1",
                "starting11 start11",
                "starting2 start2",
                "killed1 kill1",
                "stopping1 stop1",
                "stopping1",
                "killed1",
                "left",
            ],
        ),
        (
            'k',
            [
                "down",
                "waiting@101",
                "resting@79",
                "misconfigured@699",
                "killed1 kill1",
                "killed1 kill1",
                "killed1 kill1",
                "killed1",
                "left",
            ],
        ),
    ];
    assert_eq!(table.len(), Letter::ALL.len());
    for (letter, row) in table {
        for (state, expected) in states.iter().zip(row) {
            let (service, effects) = run(in_state(state), [(100, svc(*letter))]);
            assert_eq!(sketch(&service, &effects), *expected, "svc -{letter} in {state}");
        }
    }
}

#[test]
fn each_report_in_each_state() {
    let table: &[(&str, Event, &str)] = &[
        ("down", Event::Begin, "down"),
        ("down", exited(1), "down"),
        ("down", failed(1), "down"),
        ("down", Event::Started { generation: 1 }, "down"),
        ("down", Event::Due { timer: 0 }, "down"),
        ("down", Event::GraceOver { generation: 1 }, "down"),
        ("waiting", Event::Begin, "waiting@101 wake+1"),
        ("waiting", Event::Due { timer: 1 }, "waiting@101 wake+1"),
        ("waiting", Event::Due { timer: 0 }, "waiting@101"),
        ("waiting", exited(2), "waiting@101"),
        ("waiting", failed(2), "waiting@101"),
        ("waiting", Event::Started { generation: 2 }, "waiting@101"),
        ("waiting", Event::GraceOver { generation: 2 }, "waiting@101"),
        ("resting", Event::Begin, "starting11 start11"),
        ("misconfigured", Event::Due { timer: 1 }, "starting2 start2"),
        ("starting", Event::Begin, "waiting@101 wake+1"),
        ("starting", Event::Started { generation: 1 }, "up1"),
        ("starting", Event::Started { generation: 0 }, "starting1"),
        ("starting", failed(1), "waiting@101 wake+1"),
        ("starting", failed(0), "starting1"),
        ("starting", misconfigured(1), "misconfigured@700 wake+600"),
        ("starting", exited(1), "starting1"),
        ("starting", Event::Due { timer: 0 }, "starting1"),
        ("starting", Event::GraceOver { generation: 1 }, "starting1"),
        ("up", Event::Begin, "starting2 start2"),
        ("up", exited(1), "starting2 start2"),
        ("up", exited(0), "up1"),
        ("up", failed(1), "up1"),
        ("up", Event::Started { generation: 1 }, "up1"),
        ("up", Event::Due { timer: 0 }, "up1"),
        ("up", Event::GraceOver { generation: 1 }, "up1"),
        ("stopping", Event::Begin, "starting2 start2"),
        ("stopping", exited(1), "starting2 start2"),
        ("stopping", failed(1), "starting2 start2"),
        ("stopping", exited(0), "stopping1"),
        ("stopping", Event::Started { generation: 1 }, "stopping1"),
        ("stopping", Event::Due { timer: 0 }, "stopping1"),
        ("stopping", Event::GraceOver { generation: 1 }, "killed1 kill1"),
        ("stopping", Event::GraceOver { generation: 0 }, "stopping1"),
        ("killed", exited(1), "starting2 start2"),
        ("killed", Event::GraceOver { generation: 1 }, "killed1"),
        ("left", Event::Begin, "left leave"),
        ("left", exited(1), "left"),
        ("left", failed(1), "left"),
        ("left", Event::Started { generation: 1 }, "left"),
        ("left", Event::Due { timer: 0 }, "left"),
        ("left", Event::GraceOver { generation: 1 }, "left"),
    ];
    for (state, event, expected) in table {
        let (service, effects) = run(in_state(state), [(100, event.clone())]);
        assert_eq!(sketch(&service, &effects), *expected, "{event:?} in {state}");
    }
}

#[test]
fn words_for_a_starting_service_are_kept_for_it() {
    let events = |text: &str| letters(text).unwrap().into_iter().map(|letter| (0, Event::Svc(letter)));
    let service = run(new(), [(0, Event::Begin)]).0;
    let service = run(service, events("hapc")).0;
    let service = run(service, events("hp")).0;
    assert!(service.paused());
    let (service, effects) = run(service, [(1, Event::Started { generation: 1 })]);
    assert_eq!(sketch(&service, &effects), "up1 Alarm Hup Pause");

    let service = run(service, [(5, exited(1)), (6, Event::Started { generation: 2 })]).0;
    assert!(!service.paused(), "a new process is not paused");
}

#[test]
fn what_begins_paused_is_shown_so_after_each_start_until_it_may_go_on() {
    let service = run(new(), [(0, Event::Begin), (0, Event::Held), (1, Event::Started { generation: 1 })]).0;
    assert!(service.paused());
    let service = run(service, [(5, exited(1))]).0;
    let service = run(service, [(6, Event::Held), (6, Event::Started { generation: 2 })]).0;
    assert!(service.paused());
    let service = run(service, [(7, exited(2)), (8, svc('c'))]).0;
    let (service, effects) = run(service, [(8, Event::Held), (9, Event::Started { generation: 3 })]);
    assert_eq!((sketch(&service, &effects).as_str(), service.paused()), ("up3 Continue", false));
}

#[test]
fn seconds_are_those_since_the_last_change_of_pid() {
    let service = run(new(), [(3, Event::Begin)]).0;
    assert_eq!((service.changed(), service.is_up()), (secs(0), false));
    let service = run(service, [(4, Event::Started { generation: 1 })]).0;
    assert_eq!((service.changed(), service.is_up()), (secs(4), true));
    let service = run(service, [(7, svc('p')), (8, svc('t'))]).0;
    assert_eq!((service.changed(), service.is_up()), (secs(4), true));
    let service = run(service, [(9, exited(1)), (10, failed(2)), (11, svc('d'))]).0;
    assert_eq!((service.changed(), service.is_up()), (secs(9), false));
    assert_eq!((service.restarts(), service.reason()), (0, Some("in use")));
}

/// A host in simulated time with one service that fails or dies in a given way.
struct Host {
    service: Service,
    now: Duration,
    wake: Option<(Duration, u64)>,
    running: Option<u64>,
    starts: Vec<Duration>,
    chance: f64,
}

impl Host {
    fn boot(chance: f64) -> Self {
        let now = Duration::ZERO;
        let mut host = Self { service: new(), now, wake: None, running: None, starts: vec![], chance };
        host.tell(Event::Begin);
        host
    }

    fn tell(&mut self, event: Event) {
        let moment = Moment { now: self.now, chance: self.chance };
        let (service, effects) = self.service.clone().step(event, moment);
        self.service = service;
        for effect in effects {
            match effect {
                Effect::Start { generation } => {
                    assert_eq!(self.running.replace(generation), None, "two at a time");
                    if let Some(last) = self.starts.last() {
                        assert!(self.now - *last >= SECOND, "starts at {last:?} and {:?}", self.now);
                    }
                    self.starts.push(self.now);
                }
                Effect::Wake { timer, after } => self.wake = Some((self.now + after, timer)),
                Effect::Stop { .. }
                | Effect::Kill { .. }
                | Effect::Tell(_)
                | Effect::Announce
                | Effect::Leave => {}
            }
        }
    }

    /// The start fails at once, or the child dies after `life`.
    fn die(&mut self, life: Option<Duration>) {
        let generation = self.running.expect("something runs");
        match life {
            None => {
                self.running = None;
                self.tell(failed(generation));
            }
            Some(life) => {
                self.tell(Event::Started { generation });
                self.now += life;
                self.running = None;
                self.tell(exited(generation));
            }
        }
    }

    fn wait_for_start(&mut self) {
        while self.running.is_none() {
            let (at, timer) = self.wake.take().expect("a start is planned");
            self.now = at;
            self.tell(Event::Due { timer });
        }
    }

    fn rests(&self) -> bool {
        matches!(self.service.state(), State::Waiting { wait: Wait::Resting, .. })
    }
}

#[test]
fn start_that_always_fails() {
    let mut host = Host::boot(0.0);
    for _ in 0..12 {
        host.wait_for_start();
        host.die(None);
    }
    let starts: Vec<u64> = host.starts.iter().map(Duration::as_secs).collect();
    // One a second, then slower, then one a minute.
    assert_eq!(starts, [0, 1, 2, 3, 4, 5, 7, 10, 14, 19, 79, 139]);
    assert!(host.rests());

    host.tell(svc('u'));
    assert_eq!(host.starts.len(), 12, "the last start was this very moment");
    host.wait_for_start();
    assert_eq!(host.starts.last().unwrap().as_secs(), 140);
    host.die(None);
    assert!(!host.rests(), "the administrator has wiped the slate");
}

#[test]
fn chance_only_ever_makes_waits_longer() {
    for chance in [0.5, 1.0, 7.0, -1.0, f64::NAN] {
        let mut host = Host::boot(chance);
        while !host.rests() {
            host.wait_for_start();
            host.die(None);
        }
        assert_eq!(host.starts.len(), 10);
        assert!((secs(19)..=secs(24)).contains(&host.now), "{chance}: {:?}", host.now);
    }
}

#[test]
fn deaths_far_apart_are_forgotten() {
    let mut host = Host::boot(0.0);
    for _ in 0..50 {
        host.wait_for_start();
        host.die(Some(secs(7)));
        assert!(!host.rests());
    }
    for _ in 0..50 {
        host.wait_for_start();
        host.die(Some(secs(61)));
        assert_eq!(host.running.is_some(), host.service.want() == Want::Up, "started again at once");
    }
}

#[test]
fn service_that_rested_is_healthy_after_a_whole_window() {
    let mut host = Host::boot(0.0);
    while !host.rests() {
        host.wait_for_start();
        host.die(None);
    }
    host.wait_for_start();
    host.die(Some(secs(59)));
    assert!(host.rests());
    host.wait_for_start();
    host.die(Some(secs(60)));
    assert!(!host.rests());
}

#[test]
fn ends_by_command_are_no_deaths() {
    let mut host = Host::boot(0.0);
    for nth in 0..100 {
        host.wait_for_start();
        let generation = host.running.unwrap();
        host.tell(Event::Started { generation });
        host.tell([svc('k'), svc('t'), Event::Sabotaged, svc('i')][nth % 4].clone());
        host.now += Duration::from_millis(50);
        host.running = None;
        host.tell(exited(generation));
        assert!(!host.rests());
    }
    assert!(host.now <= secs(101), "back within a second each time: {:?}", host.now);
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => proptest::sample::select(Letter::ALL.to_vec()).prop_map(Event::Svc),
        1 => Just(Event::Begin),
        1 => Just(Event::Sabotaged),
        1 => Just(Event::Held),
        4 => (0u64..20).prop_map(|generation| Event::Started { generation }),
        2 => (0u64..20, any::<bool>()).prop_map(|(generation, permanent)| {
            Event::StartFailed { generation, permanent, reason: String::new() }
        }),
        4 => (0u64..20).prop_map(exited),
        4 => (0u64..20).prop_map(|timer| Event::Due { timer }),
        1 => (0u64..20).prop_map(|generation| Event::GraceOver { generation }),
    ]
}

proptest! {
    #[test]
    fn whatever_happens(events in proptest::collection::vec((any_event(), 0u64..3000, 0.0..1.0), 0..200)) {
        let mut service = new();
        let mut now = Duration::ZERO;
        let mut last_start: Option<(Duration, u64)> = None;
        let mut last_wake = None;
        for (event, pause, chance) in events {
            now += Duration::from_millis(pause);
            let before = service.clone();
            let (next, effects) = service.step(event.clone(), Moment { now, chance });
            for effect in &effects {
                match *effect {
                    Effect::Start { generation } => {
                        if let Some((start, former)) = last_start {
                            prop_assert!(now >= start + SECOND, "{start:?} {now:?}");
                            prop_assert!(generation > former);
                        }
                        // The former child's end was heard before.
                        let was_running = matches!(before.state(), State::Starting { .. } | State::Up { .. });
                        let has_ended =
                            matches!(event, Event::Begin | Event::Exited { .. } | Event::StartFailed { .. });
                        prop_assert!(!was_running || has_ended);
                        prop_assert_ne!(next.want(), Want::Down);
                        last_start = Some((now, generation));
                    }
                    Effect::Wake { timer, .. } => last_wake = Some(timer),
                    Effect::Stop { generation } | Effect::Kill { generation } => {
                        prop_assert_eq!(Some(generation), last_start.map(|(_, generation)| generation));
                    }
                    Effect::Tell(_) => prop_assert!(next.is_up()),
                    Effect::Leave => prop_assert_eq!(next.state(), State::Left),
                    Effect::Announce => {}
                }
            }
            if let State::Waiting { timer, until, .. } = next.state() {
                prop_assert_eq!(Some(timer), last_wake, "nobody would wake it");
                prop_assert!(until >= last_start.map_or(Duration::ZERO, |(start, _)| start + SECOND));
            }
            if before.state() == State::Left {
                prop_assert_eq!(next.state(), State::Left);
            }
            service = next;
        }
    }
}
