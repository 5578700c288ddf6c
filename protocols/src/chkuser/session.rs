//! What chkuser keeps of one SMTP session: how many recipients it has seen, and how patient it still is.

use std::time::Duration;

use super::event::Event;
use super::settings::{Settings, Start};
use crate::reply::Refusal;

/// How long the first refusal of a session waits.
const DELAY: Duration = Duration::from_millis(1000);

/// How much longer each further one does.
const DELAY_INCREASE: Duration = Duration::from_millis(300);

/// The longest wait of one refusal.
pub const MAX_DELAY: Duration = Duration::from_secs(10);

/// The counters of a session; they outlive its transactions.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Session {
    recipients: u32,
    wrong_recipients: u32,
    over_threshold: bool,
    refusals: u32,
}

/// What is done about an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// What is logged, in this order; the event itself among them.
    pub events: Vec<Event>,
    /// The answer; `None` where mail is taken.
    pub refusal: Option<Refusal>,
    /// How long the client waits for it, at most [`MAX_DELAY`].
    pub delay: Duration,
}

impl Session {
    /// A session without recipients.
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts a recipient before it is looked at. An event is its refusal.
    pub fn admit(&mut self, settings: &Settings) -> Option<Event> {
        if settings.mustauth {
            return Some(Event::MustAuth);
        }
        if settings.start == Start::Never {
            return None;
        }
        if self.over_threshold {
            return Some(Event::Intrusion);
        }
        self.recipients = self.recipients.saturating_add(1);
        // As in chkuser the recipient that reaches the limit is already refused.
        (settings.rcptlimit > 0 && self.recipients >= settings.rcptlimit).then_some(Event::MaxRecipients)
    }

    /// Settles the event that a sender or a recipient came to.
    pub fn conclude(&mut self, settings: &Settings, event: Event) -> Outcome {
        let mut events = vec![event];
        match event {
            Event::MaxRecipients => {
                self.over_threshold = true;
                events.insert(0, Event::RcptThreshold);
            }
            Event::NoRecipient | Event::NoDomain => {
                self.wrong_recipients = self.wrong_recipients.saturating_add(1);
                let limit = settings.wrongrcptlimit;
                if !self.over_threshold && limit > 0 && self.wrong_recipients >= limit {
                    self.over_threshold = true;
                    events.push(Event::InvalidThreshold);
                }
            }
            _ => {}
        }
        let refusal = event.refusal();
        let mut delay = Duration::ZERO;
        if refusal.is_some() {
            delay = DELAY_INCREASE.saturating_mul(self.refusals).saturating_add(DELAY).min(MAX_DELAY);
            self.refusals = self.refusals.saturating_add(1);
        }
        Outcome { events, refusal, delay }
    }
}

#[cfg(test)]
mod tests {
    use super::super::settings::tests::settings;
    use super::*;

    /// The events logged for recipients that come to `events` if they are looked at.
    fn logged(variables: &str, events: &[Event]) -> Vec<Vec<Event>> {
        let (mut session, settings) = (Session::new(), settings(variables));
        let conclude = |&event: &Event| {
            let event = session.admit(&settings).unwrap_or(event);
            session.conclude(&settings, event).events
        };
        events.iter().map(conclude).collect()
    }

    #[test]
    fn limits() {
        use Event::{FoundRecipient as Ok, *};
        for (variables, events, expected) in [
            ("CHKUSER_START=ALWAYS", vec![Ok, NoRecipient, Ok], vec![vec![Ok], vec![NoRecipient], vec![Ok]]),
            (
                "CHKUSER_START=ALWAYS CHKUSER_RCPTLIMIT=3",
                vec![Ok; 5],
                vec![
                    vec![Ok],
                    vec![Ok],
                    vec![RcptThreshold, MaxRecipients],
                    vec![Intrusion],
                    vec![Intrusion],
                ],
            ),
            (
                "CHKUSER_START=ALWAYS CHKUSER_WRONGRCPTLIMIT=2",
                vec![NoRecipient, Ok, RcptFormat, NoDomain, Ok],
                vec![
                    vec![NoRecipient],
                    vec![Ok],
                    vec![RcptFormat],
                    vec![NoDomain, InvalidThreshold],
                    vec![Intrusion],
                ],
            ),
            ("CHKUSER_RCPTLIMIT=1", vec![AnyRecipient; 2], vec![vec![AnyRecipient]; 2]),
            ("CHKUSER_MUSTAUTH=1", vec![Ok; 2], vec![vec![MustAuth]; 2]),
        ] {
            assert_eq!(logged(variables, &events), expected, "{variables}");
        }
    }

    #[test]
    fn each_refusal_waits_longer_up_to_the_bound() {
        let (mut session, settings) = (Session::new(), settings(""));
        let mut wait = |event| session.conclude(&settings, event).delay.as_millis();
        assert_eq!(wait(Event::NoRecipient), 1000);
        assert_eq!(wait(Event::FoundRecipient), 0);
        assert_eq!(wait(Event::SenderFormat), 1300);
        assert_eq!(wait(Event::RcptMxTemporary), 1600);
        let waits: Vec<u128> = (0..100).map(|_| wait(Event::NoRecipient)).collect();
        assert_eq!((waits[0], waits[26], waits[27], waits[99]), (1900, 9700, 10_000, 10_000));
    }

    #[test]
    fn a_refusal_comes_with_its_reply() {
        let outcome = Session::new().conclude(&settings(""), Event::NoRecipient);
        assert_eq!(outcome.refusal, Event::NoRecipient.refusal());
        assert_eq!(Session::new().conclude(&settings(""), Event::Relaying).refusal, None);
    }
}
