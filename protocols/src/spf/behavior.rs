//! What follows from a result: `control/spfbehavior` (qmail-smtpd's SPF patch).

use std::str::FromStr;

use super::{Outcome, SpfResult};

/// How strict the host is; each level does what those before it do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Behavior {
    /// 0: SPF is not checked.
    #[default]
    Off,
    /// 1: only the header field is written.
    Annotate,
    /// 2: a DNS failure is refused for now.
    DeferTemperror,
    /// 3: fail is refused.
    RejectFail,
    /// 4: softfail is refused.
    RejectSoftfail,
    /// 5: neutral is refused.
    RejectNeutral,
    /// 6: none and permerror are refused.
    RejectNone,
}

/// A value of `spfbehavior` that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("spfbehavior: {0:?} is not a number from 0 to 6")]
pub struct BehaviorError(String);

impl FromStr for Behavior {
    type Err = BehaviorError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text.trim() {
            "0" => Self::Off,
            "1" => Self::Annotate,
            "2" => Self::DeferTemperror,
            "3" => Self::RejectFail,
            "4" => Self::RejectSoftfail,
            "5" => Self::RejectNeutral,
            "6" => Self::RejectNone,
            other => return Err(BehaviorError(other.to_owned())),
        })
    }
}

/// What is done with the message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Nothing.
    None,
    /// It goes on, with the header field.
    Annotate,
    /// `451 SPF lookup failure (#4.3.0)`
    RejectTemporary,
    /// `550 TEXT (#5.7.1)`: the text, one line of printable ASCII.
    Reject(String),
}

/// What `behavior` makes of a result.
#[must_use]
pub fn decide(behavior: Behavior, outcome: &Outcome) -> Decision {
    let refused_from = match outcome.result {
        _ if behavior == Behavior::Off => return Decision::None,
        SpfResult::Pass => return Decision::Annotate,
        SpfResult::Temperror => Behavior::DeferTemperror,
        SpfResult::Fail => Behavior::RejectFail,
        SpfResult::Softfail => Behavior::RejectSoftfail,
        SpfResult::Neutral => Behavior::RejectNeutral,
        SpfResult::None | SpfResult::Permerror => Behavior::RejectNone,
    };
    if behavior < refused_from {
        Decision::Annotate
    } else if outcome.result == SpfResult::Temperror {
        Decision::RejectTemporary
    } else {
        let reason = outcome.explanation.as_ref().or(outcome.problem.as_ref());
        Decision::Reject(reason.cloned().unwrap_or_else(|| format!("SPF {}", outcome.result)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_refused_at_which_level() {
        use SpfResult::{Fail, Neutral, None, Pass, Permerror, Softfail, Temperror};
        // . nothing, a annotated, t refused for now, r refused
        for (result, expected) in [
            (Pass, ".aaaaaa"),
            (Temperror, ".attttt"),
            (Fail, ".aarrrr"),
            (Softfail, ".aaarrr"),
            (Neutral, ".aaaarr"),
            (None, ".aaaaar"),
            (Permerror, ".aaaaar"),
        ] {
            let outcome = Outcome {
                result,
                domain: String::new(),
                matched: Option::None,
                explanation: Some("why".into()),
                problem: Option::None,
            };
            let shown: String = (0..=6)
                .map(|level: u8| match decide(level.to_string().parse().unwrap(), &outcome) {
                    Decision::None => '.',
                    Decision::Annotate => 'a',
                    Decision::RejectTemporary => 't',
                    Decision::Reject(text) => {
                        assert_eq!(text, "why");
                        'r'
                    }
                })
                .collect();
            assert_eq!(shown, expected, "{result}");
        }
    }

    #[test]
    fn levels() {
        assert_eq!(" 3\n".parse(), Ok(Behavior::RejectFail));
        for text in ["", "7", "-1", "three", "03"] {
            let error = text.parse::<Behavior>().unwrap_err();
            assert_eq!(error.to_string(), format!("spfbehavior: {text:?} is not a number from 0 to 6"));
        }
    }
}
