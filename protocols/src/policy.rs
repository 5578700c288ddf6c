//! When a service runs: daemontools' `supervise` as a function of state, event and time.
//!
//! Source: daemontools 0.76 `supervise.c` for the letters and the second between two starts; the tally of deaths
//! follows s6-supervise. Time is the age of the host; chance is a number from 0 to 1. Starts and timers carry a
//! number, so what is heard late of an earlier child or timer changes nothing.

use std::collections::VecDeque;
use std::time::Duration;

use crate::svc::Letter;

/// The times and counts of restarting.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Least time between two starts; `deepsleep(1)` of supervise.c.
    pub apart: Duration,
    /// So many deaths in `window` are answered at once, as far as `apart` allows.
    pub eager: u32,
    /// Each further death makes the wait longer by this.
    pub step: Duration,
    /// So many deaths in `window` and the service rests.
    pub intensity: u32,
    /// The time over which deaths are counted; a service that lived as long is healthy again.
    pub window: Duration,
    /// Wait before each start of a service that rests.
    pub rest: Duration,
    /// The same after a permanent failure.
    pub long_rest: Duration,
    /// Waits grow by up to this part of themselves, by chance.
    pub jitter: f64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            apart: Duration::from_secs(1),
            eager: 5,
            step: Duration::from_secs(1),
            intensity: 10,
            window: Duration::from_secs(60),
            rest: Duration::from_secs(60),
            long_rest: Duration::from_secs(600),
            jitter: 0.25,
        }
    }
}

/// The administrator's wish; byte 17 of `supervise/status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// `u`: keep it up.
    Up,
    /// `d`: keep it down.
    Down,
    /// NUL: as it is, and no start after its end.
    Once,
}

/// Why a start waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// The last start was less than [`Limits::apart`] ago.
    Apart,
    /// It has died several times.
    BackOff,
    /// It died [`Limits::intensity`] times within [`Limits::window`] and has not lived for a window since.
    Resting,
    /// Its configuration does not let it start.
    Misconfigured,
}

/// Where a service is between down and up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Nothing runs and nothing is planned.
    Down,
    /// A start is planned.
    Waiting {
        /// Age of the host at the start.
        until: Duration,
        /// The timer that will say so.
        timer: u64,
        /// Why not now.
        wait: Wait,
    },
    /// Being started.
    Starting {
        /// Number of the start.
        generation: u64,
    },
    /// Running.
    Up {
        /// Number of its start.
        generation: u64,
    },
    /// Told to end.
    Stopping {
        /// Number of its start.
        generation: u64,
        /// Whether it was killed.
        killed: bool,
    },
    /// `svc -x`: over; there is no supervise any more.
    Left,
}

/// What happens to a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Its supervise has begun. After the death of an earlier supervise its child is dead too.
    Begin,
    /// A letter of `svc`.
    Svc(Letter),
    /// Something in it is about to be killed for a test: its end is not its own.
    Sabotaged,
    /// What is being started begins paused; comes before [`Event::Started`].
    Held,
    /// A start has succeeded.
    Started {
        /// Number of the start.
        generation: u64,
    },
    /// A start has failed, or was broken off.
    StartFailed {
        /// Number of the start.
        generation: u64,
        /// Trying again without a change of configuration is useless.
        permanent: bool,
        /// For the administrator.
        reason: String,
    },
    /// The child has ended, in whatever way.
    Exited {
        /// Number of its start.
        generation: u64,
        /// For the administrator.
        reason: String,
    },
    /// A timer has run out.
    Due {
        /// The timer's number.
        timer: u64,
    },
    /// A child told to stop has had its grace.
    GraceOver {
        /// Number of its start.
        generation: u64,
    },
}

/// What a running service is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// `h`
    Hup,
    /// `a`
    Alarm,
    /// `p`
    Pause,
    /// `c`
    Continue,
}

/// What is to be done, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Start it and report with this number.
    Start {
        /// Number of the start.
        generation: u64,
    },
    /// Tell it to stop; report [`Event::GraceOver`] when its grace is over.
    Stop {
        /// Number of its start.
        generation: u64,
    },
    /// Kill it, or break its start off.
    Kill {
        /// Number of its start.
        generation: u64,
    },
    /// Tell it.
    Tell(Word),
    /// Report [`Event::Due`] after this time. An earlier timer is void.
    Wake {
        /// The timer's number.
        timer: u64,
        /// Time from now.
        after: Duration,
    },
    /// The state has changed: show it.
    Announce,
    /// The supervise ends.
    Leave,
}

/// The moment of an event.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Moment {
    /// Age of the host.
    pub now: Duration,
    /// A number from 0 to 1, by chance.
    pub chance: f64,
}

/// One service: its state, and what its next state depends on.
#[derive(Debug, Clone, PartialEq)]
pub struct Service {
    limits: Limits,
    state: State,
    want: Want,
    normally_up: bool,
    paused: bool,
    leaving: bool,
    sabotaged: bool,
    /// Numbers of the latest start and the latest timer.
    generation: u64,
    timer: u64,
    begun: bool,
    last_start: Option<Duration>,
    up_since: Option<Duration>,
    /// Of the present child or, when there is none, the end of the last one.
    changed: Duration,
    /// Ages of the host at the service's own deaths; at most `limits.intensity`.
    deaths: VecDeque<Duration>,
    resting: bool,
    restarts: u64,
    reason: Option<String>,
    /// What was asked while it was being started; each word at most once.
    owed: Vec<Word>,
}

impl Service {
    /// A service nobody has begun to supervise.
    pub fn new(limits: Limits, normally_down: bool) -> Self {
        Self {
            limits,
            state: State::Down,
            want: if normally_down { Want::Down } else { Want::Up },
            normally_up: !normally_down,
            paused: false,
            leaving: false,
            sabotaged: false,
            generation: 0,
            timer: 0,
            begun: false,
            last_start: None,
            up_since: None,
            changed: Duration::ZERO,
            deaths: VecDeque::new(),
            resting: false,
            restarts: 0,
            reason: None,
            owed: Vec::new(),
        }
    }

    /// Where it is.
    pub const fn state(&self) -> State {
        self.state
    }

    /// The administrator's wish.
    pub const fn want(&self) -> Want {
        self.want
    }

    /// Whether `svc -p` was the last of `p` and `c`.
    pub const fn paused(&self) -> bool {
        self.paused
    }

    /// Whether it starts with the host.
    pub const fn normally_up(&self) -> bool {
        self.normally_up
    }

    /// Whether there is a child that has started.
    pub const fn is_up(&self) -> bool {
        self.up_since.is_some()
    }

    /// Successful starts after the first.
    pub const fn restarts(&self) -> u64 {
        self.restarts
    }

    /// Age of the host when it last came up or went down.
    pub const fn changed(&self) -> Duration {
        self.changed
    }

    /// Why the last child ended, or the last start failed.
    pub fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    /// What `event` makes of the service, and what is to be done.
    pub fn step(mut self, event: Event, moment: Moment) -> (Self, Vec<Effect>) {
        let effects = match event {
            Event::Begin => self.begin(moment),
            Event::Svc(letter) => self.svc(letter, moment),
            Event::Sabotaged => {
                self.sabotaged = matches!(self.state, State::Starting { .. } | State::Up { .. });
                Vec::new()
            }
            Event::Held => self.held(),
            Event::Started { generation } => self.started(generation, moment),
            Event::StartFailed { generation, permanent, reason } => match self.state {
                State::Starting { generation: current } | State::Stopping { generation: current, .. }
                    if current == generation =>
                {
                    self.gone(permanent, reason, moment)
                }
                State::Starting { .. } | State::Stopping { .. } => Vec::new(),
                State::Down | State::Waiting { .. } | State::Up { .. } | State::Left => Vec::new(),
            },
            Event::Exited { generation, reason } => match self.state {
                State::Up { generation: current } | State::Stopping { generation: current, .. }
                    if current == generation =>
                {
                    self.gone(false, reason, moment)
                }
                State::Up { .. } | State::Stopping { .. } => Vec::new(),
                State::Down | State::Waiting { .. } | State::Starting { .. } | State::Left => Vec::new(),
            },
            Event::Due { timer } => match self.state {
                State::Waiting { timer: current, .. } if current == timer => self.launch(moment),
                State::Waiting { .. } | State::Down | State::Left => Vec::new(),
                State::Starting { .. } | State::Up { .. } | State::Stopping { .. } => Vec::new(),
            },
            Event::GraceOver { generation } => match self.state {
                State::Stopping { generation: current, killed: false } if current == generation => {
                    self.kill(generation)
                }
                State::Stopping { .. } | State::Down | State::Waiting { .. } | State::Left => Vec::new(),
                State::Starting { .. } | State::Up { .. } => Vec::new(),
            },
        };
        (self, effects)
    }

    fn begin(&mut self, moment: Moment) -> Vec<Effect> {
        let first = !std::mem::replace(&mut self.begun, true);
        match self.state {
            State::Down if first && self.want == Want::Up => self.launch(moment),
            State::Down => vec![Effect::Announce],
            State::Waiting { until, wait, .. } => self.wait_until(until, wait, moment),
            State::Starting { .. } | State::Up { .. } | State::Stopping { .. } => {
                self.sabotaged = true;
                self.gone(false, "supervise died".to_owned(), moment)
            }
            State::Left => vec![Effect::Leave],
        }
    }

    fn svc(&mut self, letter: Letter, moment: Moment) -> Vec<Effect> {
        match letter {
            Letter::Up => self.wish(Want::Up, moment),
            Letter::Once => self.wish(Want::Once, moment),
            Letter::Down => {
                self.want = Want::Down;
                self.paused = false;
                match self.state {
                    State::Waiting { .. } => {
                        self.state = State::Down;
                        vec![Effect::Announce]
                    }
                    State::Starting { generation } => self.kill(generation),
                    State::Up { generation } => self.stop(generation),
                    State::Down | State::Stopping { .. } => vec![Effect::Announce],
                    State::Left => Vec::new(),
                }
            }
            Letter::Term | Letter::Interrupt => match self.state {
                State::Waiting { .. } => {
                    self.forgive();
                    self.launch(moment)
                }
                State::Starting { generation } => {
                    self.forgive();
                    self.kill(generation)
                }
                State::Up { generation } => {
                    self.forgive();
                    self.stop(generation)
                }
                State::Down | State::Stopping { .. } | State::Left => Vec::new(),
            },
            Letter::Kill => match self.state {
                State::Starting { generation }
                | State::Up { generation }
                | State::Stopping { generation, killed: false } => self.kill(generation),
                State::Down | State::Waiting { .. } | State::Stopping { .. } | State::Left => Vec::new(),
            },
            Letter::Hup => match self.state {
                State::Waiting { wait: Wait::Apart, .. } => Vec::new(),
                State::Waiting { .. } => {
                    self.forgive();
                    self.launch(moment)
                }
                State::Starting { .. } | State::Up { .. } => self.tell(Word::Hup),
                State::Down | State::Stopping { .. } | State::Left => Vec::new(),
            },
            Letter::Alarm => self.tell(Word::Alarm),
            Letter::Pause => self.pause(true),
            Letter::Continue => self.pause(false),
            Letter::Exit => {
                self.leaving = true;
                match self.state {
                    State::Down | State::Waiting { .. } => self.leave(),
                    State::Starting { .. } | State::Up { .. } | State::Stopping { .. } => {
                        vec![Effect::Announce]
                    }
                    State::Left => Vec::new(),
                }
            }
        }
    }

    /// `u` and `o`.
    fn wish(&mut self, want: Want, moment: Moment) -> Vec<Effect> {
        self.want = want;
        self.forgive();
        match self.state {
            State::Down | State::Waiting { .. } => self.launch(moment),
            State::Starting { .. } | State::Up { .. } | State::Stopping { .. } => vec![Effect::Announce],
            State::Left => Vec::new(),
        }
    }

    fn pause(&mut self, paused: bool) -> Vec<Effect> {
        if !matches!(self.state, State::Starting { .. } | State::Up { .. }) {
            return Vec::new();
        }
        self.paused = paused;
        let mut effects = self.tell(if paused { Word::Pause } else { Word::Continue });
        effects.push(Effect::Announce);
        effects
    }

    /// Tells a running service now, one that is being started as soon as it runs.
    fn tell(&mut self, word: Word) -> Vec<Effect> {
        match self.state {
            State::Up { .. } => vec![Effect::Tell(word)],
            State::Starting { .. } => {
                self.owed.retain(|owed| match word {
                    Word::Pause | Word::Continue => !matches!(owed, Word::Pause | Word::Continue),
                    Word::Hup | Word::Alarm => *owed != word,
                });
                self.owed.push(word);
                Vec::new()
            }
            State::Down | State::Waiting { .. } | State::Stopping { .. } | State::Left => Vec::new(),
        }
    }

    /// Whoever has asked for it to go on meanwhile is told to it first.
    fn held(&mut self) -> Vec<Effect> {
        if matches!(self.state, State::Starting { .. }) {
            self.paused = !self.owed.contains(&Word::Continue);
        }
        Vec::new()
    }

    fn started(&mut self, generation: u64, Moment { now, .. }: Moment) -> Vec<Effect> {
        if self.state != (State::Starting { generation }) {
            return Vec::new();
        }
        self.state = State::Up { generation };
        if self.up_since.is_none() {
            self.changed = now;
        }
        self.up_since = Some(now);
        if generation > 1 {
            self.restarts += 1;
        }
        let mut effects: Vec<_> = self.owed.drain(..).map(Effect::Tell).collect();
        effects.push(Effect::Announce);
        effects
    }

    /// The child has ended, or the start has failed.
    fn gone(&mut self, permanent: bool, reason: String, moment: Moment) -> Vec<Effect> {
        let own = !self.sabotaged && !matches!(self.state, State::Stopping { .. });
        let lived = self.up_since.take().map(|since| moment.now.saturating_sub(since));
        if lived.is_some() {
            self.changed = moment.now;
        }
        self.reason = Some(reason);
        self.sabotaged = false;
        self.paused = false;
        self.owed.clear();
        if self.leaving {
            return self.leave();
        }
        match self.want {
            Want::Down | Want::Once => {
                self.state = State::Down;
                vec![Effect::Announce]
            }
            Want::Up if own => {
                let (wait, pause) = self.died(permanent, lived, moment);
                let until = (moment.now + pause).max(self.earliest(moment));
                self.wait_until(until, wait, moment)
            }
            Want::Up => self.launch(moment),
        }
    }

    /// Counts a death of the service's own and says how long to wait, the second between two starts apart.
    fn died(
        &mut self,
        permanent: bool,
        lived: Option<Duration>,
        Moment { now, chance }: Moment,
    ) -> (Wait, Duration) {
        let Limits { eager, step, intensity, window, rest, long_rest, jitter, apart } = self.limits;
        if lived.is_some_and(|lived| lived >= window) {
            self.forgive();
        }
        self.deaths.push_back(now);
        while self.deaths.len() > intensity.max(1) as usize {
            self.deaths.pop_front();
        }
        let recent = self.deaths.iter().filter(|&&death| now.saturating_sub(death) <= window).count();
        let recent = u32::try_from(recent).unwrap_or(u32::MAX);
        self.resting |= recent >= intensity;
        let chance = if chance.is_finite() { chance.clamp(0.0, 1.0) } else { 0.0 };
        let spread = |wait: Duration| wait.mul_f64(1.0 + jitter * chance);
        if permanent {
            (Wait::Misconfigured, spread(long_rest))
        } else if self.resting {
            (Wait::Resting, spread(rest))
        } else if recent > eager {
            (Wait::BackOff, spread(apart + step.saturating_mul(recent - eager)))
        } else {
            (Wait::Apart, Duration::ZERO)
        }
    }

    fn forgive(&mut self) {
        self.deaths.clear();
        self.resting = false;
    }

    fn earliest(&self, Moment { now, .. }: Moment) -> Duration {
        self.last_start.map_or(now, |start| start + self.limits.apart)
    }

    /// Starts it, now or as soon as two starts may follow each other.
    fn launch(&mut self, moment: Moment) -> Vec<Effect> {
        self.wait_until(self.earliest(moment), Wait::Apart, moment)
    }

    fn wait_until(&mut self, until: Duration, wait: Wait, Moment { now, .. }: Moment) -> Vec<Effect> {
        if until > now {
            self.timer += 1;
            self.state = State::Waiting { until, timer: self.timer, wait };
            return vec![Effect::Wake { timer: self.timer, after: until - now }, Effect::Announce];
        }
        self.generation += 1;
        self.last_start = Some(now);
        self.sabotaged = false;
        self.paused = false;
        self.owed.clear();
        self.state = State::Starting { generation: self.generation };
        vec![Effect::Start { generation: self.generation }, Effect::Announce]
    }

    fn stop(&mut self, generation: u64) -> Vec<Effect> {
        self.state = State::Stopping { generation, killed: false };
        vec![Effect::Stop { generation }, Effect::Announce]
    }

    fn kill(&mut self, generation: u64) -> Vec<Effect> {
        self.state = State::Stopping { generation, killed: true };
        vec![Effect::Kill { generation }, Effect::Announce]
    }

    fn leave(&mut self) -> Vec<Effect> {
        self.state = State::Left;
        vec![Effect::Announce, Effect::Leave]
    }
}

#[cfg(test)]
mod tests;
