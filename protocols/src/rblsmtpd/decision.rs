//! Whether a client is rejected: `$RBLSMTPD` first, then the sources in their order (rblsmtpd.c).

use super::source::{Answer, Kind, Source};

/// The text of a rejection because a list could not be asked (`-c`).
pub const LOOKUP_ERROR: &str = "temporary RBL lookup error";

/// The options of rblsmtpd.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Options {
    /// `-b`: a listed client gets 553; otherwise (`-B`) 451.
    pub bounce: bool,
    /// `-c`: a list that cannot be asked counts as a listing by `-r` and as none by `-a`; otherwise (`-C`) as none by
    /// `-r` and as one by `-a`.
    pub fail_closed: bool,
    /// The lists in the order in which they decide. Without any nobody is rejected: no list is implied.
    pub sources: Vec<Source>,
}

/// What is to be done with a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Nothing is known against it: mail is taken, unless a later check refuses it.
    Undecided,
    /// Mail is taken.
    Accept {
        /// The place of the list in [`Options::sources`]; `None` for `$RBLSMTPD`.
        source: Option<usize>,
    },
    /// Mail is refused.
    Reject {
        /// 553 if true, 451 if not.
        permanent: bool,
        /// For the client; as the list has it.
        text: Vec<u8>,
        /// The place of the list in [`Options::sources`]; `None` for `$RBLSMTPD`.
        source: Option<usize>,
    },
}

/// What `$RBLSMTPD` decides before any question: unset nothing, empty accepts, `-TEXT` rejects with 553 and `TEXT`, any
/// other text rejects with 451. Only [`Decision::Undecided`] lets the lists be asked.
pub fn from_env(rblsmtpd: Option<&[u8]>) -> Decision {
    match rblsmtpd {
        None => Decision::Undecided,
        Some(b"") => Decision::Accept { source: None },
        Some([b'-', text @ ..]) => Decision::Reject { permanent: true, text: text.to_vec(), source: None },
        Some(text) => Decision::Reject { permanent: false, text: text.to_vec(), source: None },
    }
}

/// The decision of the lists, as soon as it is certain: `answers` are in the order of [`Options::sources`], `None` or
/// missing for what is still under way. An answer decides only when all before it are known, so the decision is that of
/// asking one after the other. A lookup error before the decision forbids 553.
pub fn decide(options: &Options, answers: &[Option<Answer>]) -> Option<Decision> {
    let mut failed = false;
    for (n, source) in options.sources.iter().enumerate() {
        let reject = |permanent, text: &[u8]| {
            Some(Decision::Reject { permanent, text: text.to_vec(), source: Some(n) })
        };
        let accept = Some(Decision::Accept { source: Some(n) });
        match (source.kind(), answers.get(n)?.as_ref()?) {
            (Kind::Rbl, Answer::Listed(text)) => return reject(options.bounce && !failed, text),
            (Kind::Antirbl, Answer::Listed(_)) => return accept,
            (Kind::Rbl, Answer::Failed) if options.fail_closed => {
                return reject(false, LOOKUP_ERROR.as_bytes());
            }
            (Kind::Antirbl, Answer::Failed) if !options.fail_closed => return accept,
            (_, Answer::Failed) => failed = true,
            (_, Answer::NotListed | Answer::Odd(_)) => {}
        }
    }
    Some(Decision::Undecided)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_decides_before_the_lists() {
        let reject = |permanent, text: &str| Decision::Reject { permanent, text: text.into(), source: None };
        for (value, expected) in [
            (None, Decision::Undecided),
            (Some(""), Decision::Accept { source: None }),
            (Some("halt thy spam!"), reject(false, "halt thy spam!")),
            (Some("-halt thy spam!"), reject(true, "halt thy spam!")),
            (Some("--x"), reject(true, "-x")),
            (Some("-"), reject(true, "")),
        ] {
            assert_eq!(from_env(value.map(str::as_bytes)), expected, "{value:?}");
        }
    }

    /// Sources as `ra`, answers as `L` listed, `-` not, `O` odd, `F` failed, `.` under way; the decision as `N:code:text`.
    fn shown(flags: &str, sources: &str, answers: &str) -> String {
        let source = |kind| match kind {
            'r' => Source::rbl("r.example").unwrap(),
            _ => Source::antirbl("a.example").unwrap(),
        };
        let options = Options {
            bounce: flags.contains('b'),
            fail_closed: flags.contains('c'),
            sources: sources.chars().map(source).collect(),
        };
        let answer = |(n, letter)| match letter {
            'L' => Some(Answer::Listed(format!("t{n}").into_bytes())),
            '-' => Some(Answer::NotListed),
            'O' => Some(Answer::Odd([203, 0, 113, 7].into())),
            'F' => Some(Answer::Failed),
            _ => None,
        };
        let answers: Vec<_> = answers.chars().enumerate().map(answer).collect();
        match decide(&options, &answers) {
            None => "wait".to_owned(),
            Some(Decision::Undecided) => "undecided".to_owned(),
            Some(Decision::Accept { source }) => format!("{} accept", source.unwrap()),
            Some(Decision::Reject { permanent, text, source }) => {
                let code = if permanent { 553 } else { 451 };
                format!("{} {code} {}", source.unwrap(), String::from_utf8(text).unwrap())
            }
        }
    }

    #[test]
    fn the_lists_decide_in_their_order() {
        for (flags, sources, answers, expected) in [
            ("", "", "", "undecided"),
            ("", "r", "L", "0 451 t0"),
            ("b", "r", "L", "0 553 t0"),
            ("", "r", "-", "undecided"),
            ("b", "r", "O", "undecided"),
            ("", "a", "L", "0 accept"),
            ("", "ar", "LL", "0 accept"),
            ("", "ra", "LL", "0 451 t0"),
            ("", "ar", "-L", "1 451 t1"),
            ("", "ra", "-L", "1 accept"),
            ("", "a", "O", "undecided"),
        ] {
            assert_eq!(shown(flags, sources, answers), expected, "{flags} {sources} {answers}");
        }
    }

    #[test]
    fn a_later_answer_waits_for_the_earlier_ones() {
        for (sources, answers, expected) in [
            ("rr", ".L", "wait"),
            ("ar", ".L", "wait"),
            ("rr", "L.", "0 451 t0"),
            ("rrr", "-L.", "1 451 t1"),
            ("rr", "-.", "wait"),
            ("rr", "-", "wait"),
            ("r", "-L", "undecided"),
        ] {
            assert_eq!(shown("", sources, answers), expected, "{sources} {answers}");
        }
    }

    #[test]
    fn lookup_errors() {
        for (flags, sources, answers, expected) in [
            ("", "r", "F", "undecided"),
            ("c", "r", "F", "0 451 temporary RBL lookup error"),
            ("bc", "r", "F", "0 451 temporary RBL lookup error"),
            ("", "ar", "FL", "0 accept"),
            ("c", "ar", "FL", "1 451 t1"),
            // A lookup error forbids 553, but only one that was met on the way to the decision.
            ("b", "rr", "FL", "1 451 t1"),
            ("bc", "ar", "FL", "1 451 t1"),
            ("b", "rr", "LF", "0 553 t0"),
            ("b", "rr", "OL", "1 553 t1"),
        ] {
            assert_eq!(shown(flags, sources, answers), expected, "{flags} {sources} {answers}");
        }
    }
}
