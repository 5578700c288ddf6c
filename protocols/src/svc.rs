//! What `svc` says and what `svstat` shows.
//!
//! Source: daemontools 0.76 `svc.c`, `svstat.c`, `supervise.c`.

use std::fmt;

use crate::policy::Want;

/// One letter of `svc`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Letter {
    /// `u`: want it up; start it if it is down.
    Up,
    /// `d`: want it down; stop it if it is up.
    Down,
    /// `o`: start it if it is down, and do not start it again.
    Once,
    /// `x`: its supervise leaves the tree as soon as the service is down.
    Exit,
    /// `p`: stop accepting or starting work.
    Pause,
    /// `c`: go on after a pause.
    Continue,
    /// `h`: read configuration again.
    Hup,
    /// `a`: do now what waits for its time.
    Alarm,
    /// `i`: stop politely, as `t`.
    Interrupt,
    /// `t`: stop politely; it is started again if it is wanted up.
    Term,
    /// `k`: end at once; it is started again if it is wanted up.
    Kill,
}

impl Letter {
    /// All letters, in the order of the usage line.
    pub const ALL: [Self; 11] = [
        Self::Up,
        Self::Down,
        Self::Once,
        Self::Exit,
        Self::Pause,
        Self::Continue,
        Self::Hup,
        Self::Alarm,
        Self::Interrupt,
        Self::Term,
        Self::Kill,
    ];

    /// The letter as `svc` takes it.
    pub const fn as_char(self) -> char {
        match self {
            Self::Up => 'u',
            Self::Down => 'd',
            Self::Once => 'o',
            Self::Exit => 'x',
            Self::Pause => 'p',
            Self::Continue => 'c',
            Self::Hup => 'h',
            Self::Alarm => 'a',
            Self::Interrupt => 'i',
            Self::Term => 't',
            Self::Kill => 'k',
        }
    }

    /// The letter for a character, if `svc` knows it.
    pub fn from_char(letter: char) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.as_char() == letter)
    }
}

/// `svc`'s usage line; it goes with exit code 100.
pub const USAGE: &str = "svc options: u up, d down, o once, x exit, p pause, c continue, h hup, a alarm, i interrupt, \
                         t term, k kill";

/// The letters of `text` in order, each once, as `svc` writes them; `None` if one is unknown.
pub fn letters(text: &str) -> Option<Vec<Letter>> {
    let mut letters = Vec::new();
    for letter in text.chars() {
        let letter = Letter::from_char(letter)?;
        if !letters.contains(&letter) {
            letters.push(letter);
        }
    }
    Some(letters)
}

/// The service an argument of `svc`, `svstat` or `svok` means: the last part of the path, without `qmail-`, so
/// `/service/qmail-smtpd` is `smtpd` and `/service/qmail-send/log` is `log`.
pub fn service_name(argument: &str) -> &str {
    let last = argument.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    last.strip_prefix("qmail-").filter(|rest| !rest.is_empty()).unwrap_or(last)
}

/// What `svstat` says after the name: `up (pid 7) 3 seconds, paused`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Svstat {
    /// Process id while the service is up.
    pub pid: Option<u32>,
    /// Whole seconds since it came up or went down.
    pub seconds: u64,
    /// There is no `down` file.
    pub normally_up: bool,
    /// `svc -p` was the last of `p` and `c`.
    pub paused: bool,
    /// The administrator's wish.
    pub want: Want,
}

impl fmt::Display for Svstat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pid, seconds, normally_up, paused, want } = *self;
        match pid {
            Some(pid) => write!(f, "up (pid {pid}) ")?,
            None => f.write_str("down ")?,
        }
        write!(f, "{seconds} seconds")?;
        let marks = [
            (pid.is_some() && !normally_up, "normally down"),
            (pid.is_none() && normally_up, "normally up"),
            (pid.is_some() && paused, "paused"),
            (pid.is_none() && want == Want::Up, "want up"),
            (pid.is_some() && want == Want::Down, "want down"),
        ];
        for (_, mark) in marks.iter().filter(|(set, _)| *set) {
            write!(f, ", {mark}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_kept_in_order_and_once() {
        use Letter::{Down, Exit, Term, Up};
        assert_eq!(letters("dx"), Some(vec![Down, Exit]));
        assert_eq!(letters("xdxd"), Some(vec![Exit, Down]));
        assert_eq!(letters("tu"), Some(vec![Term, Up]));
        assert_eq!(letters(""), Some(vec![]));
        assert_eq!(letters("dz"), None);
        for letter in Letter::ALL {
            assert_eq!(Letter::from_char(letter.as_char()), Some(letter));
        }
    }

    #[test]
    fn usage_names_every_letter() {
        for letter in Letter::ALL {
            assert!(USAGE.contains(&format!(" {} ", letter.as_char())), "{letter:?}");
        }
        assert_eq!(
            USAGE,
            "svc options: u up, d down, o once, x exit, p pause, c continue, h hup, a alarm, i interrupt, t term, k kill"
        );
    }

    #[test]
    fn argument_is_a_service_directory() {
        for (argument, service) in [
            ("smtpd", "smtpd"),
            ("/service/qmail-smtpd", "smtpd"),
            ("/service/qmail-smtpd/", "smtpd"),
            ("/service/qmail-send/log", "log"),
            ("./send", "send"),
            ("qmail-", "qmail-"),
            ("/", ""),
            ("", ""),
        ] {
            assert_eq!(service_name(argument), service, "{argument}");
        }
    }

    #[test]
    fn line_of_svstat() {
        let row = |pid, normally_up, paused, want| {
            Svstat { pid, seconds: 3, normally_up, paused, want }.to_string()
        };
        for (line, expected) in [
            (row(Some(7), true, false, Want::Up), "up (pid 7) 3 seconds"),
            (row(Some(7), false, false, Want::Up), "up (pid 7) 3 seconds, normally down"),
            (row(Some(7), true, true, Want::Once), "up (pid 7) 3 seconds, paused"),
            (row(Some(7), false, true, Want::Down), "up (pid 7) 3 seconds, normally down, paused, want down"),
            (row(None, false, false, Want::Down), "down 3 seconds"),
            (row(None, true, true, Want::Down), "down 3 seconds, normally up"),
            (row(None, true, false, Want::Up), "down 3 seconds, normally up, want up"),
            (row(None, false, false, Want::Up), "down 3 seconds, want up"),
            (row(None, true, false, Want::Once), "down 3 seconds, normally up"),
        ] {
            assert_eq!(line, expected);
        }
    }
}
