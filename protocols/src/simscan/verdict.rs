//! What becomes of a message (simscan.c: main, check_spam): patterns, then spam, then attachments, then viruses.

use super::clamd;
use super::hits::Hits;
use super::log::State;
use super::opinion::{Action, Opinion, Score};
use super::options::Options;

/// Whether the spam scanner is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpamCheck {
    /// It is.
    Asked,
    /// Nobody wants it, or the message is too large.
    Off,
    /// The client may relay.
    Relayclient,
}

/// Whether the spam scanner is asked about a message of `size` bytes, when the largest it is shown has `largest`. A
/// larger one passes unseen, as in simscan.
#[must_use]
pub const fn spam_check(options: &Options, relayclient: bool, size: u64, largest: u64) -> SpamCheck {
    match (options.spam && size <= largest, relayclient) {
        (false, _) => SpamCheck::Off,
        (true, true) => SpamCheck::Relayclient,
        (true, false) => SpamCheck::Asked,
    }
}

/// Why a scanner gave no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// It may be different the next time.
    Trouble(String),
    /// It does not look at so large a message: it is as large the next time.
    TooLarge(String),
}

/// What the scanners found. `None`: not asked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Findings {
    /// The number of the pattern that matched.
    pub regex: Option<Result<Option<usize>, Failure>>,
    /// Not asked for spam because the client may relay.
    pub relayclient: bool,
    /// What the spam scanner says.
    pub spam: Option<Result<Opinion, Failure>>,
    /// The name of a refused attachment, printable.
    pub attachment: Option<Result<Option<String>, Failure>>,
    /// What clamd says.
    pub virus: Option<Result<clamd::Answer, Failure>>,
}

/// What the host does where the options of a message say nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rules {
    /// Spam and viruses are taken with `250` and thrown away in place of being refused.
    pub drop: bool,
    /// A message passes when a scanner fails; otherwise it is to come again.
    pub fail_open: bool,
}

/// What becomes of the message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is queued.
    Pass,
    /// It is refused with `554` and this text, without code, printable ASCII.
    Reject(State, String),
    /// It is refused for good with `552`, for this reason, which is not for the client: larger than what can be looked
    /// at. Trying again would not make it smaller.
    TooLarge(String),
    /// It is taken with `250` and thrown away.
    Drop(State),
    /// It is refused with `451` and this text, without code, printable ASCII.
    Defer(String),
    /// It is refused with `451`, for this reason, which is not for the client.
    Temporary(String),
}

/// A line for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A line of [`super::log::line`] about the message's own subject, with its score.
    Spam(State, Score, Option<Hits>),
    /// One about something found in it.
    Found(State, String),
    /// A scanner failed and the message went on without it.
    Warning(String),
}

/// The verdict and what is logged on the way to it. The first finding that ends the matter counts.
#[must_use]
pub fn decide(findings: Findings, options: &Options, rules: Rules) -> (Verdict, Vec<Entry>) {
    let mut entries = Vec::new();
    let verdict = walk(findings, options, rules, &mut entries).err().unwrap_or(Verdict::Pass);
    (verdict, entries)
}

fn walk(
    findings: Findings,
    options: &Options,
    rules: Rules,
    entries: &mut Vec<Entry>,
) -> Result<(), Verdict> {
    if let Some(Some(number)) = answered(findings.regex, rules, entries)? {
        let number = format!("#{number}");
        let text = format!("Your email was rejected because it matches a filter ({number})");
        entries.push(Entry::Found(State::Regex, number));
        return Err(Verdict::Reject(State::Regex, text));
    }
    if findings.relayclient {
        entries.push(Entry::Found(State::Relayclient, "-".to_owned()));
    }
    if let Some(Opinion { score, action, text }) = answered(findings.spam, rules, entries)? {
        let state = spam(score, action, options, rules);
        entries.push(Entry::Spam(state, score, options.spam_hits));
        match state {
            State::SpamDropped => return Err(Verdict::Drop(state)),
            State::SpamReject => {
                let own = || format!("Your email is considered spam ({} spam-hits)", score.hits);
                return Err(Verdict::Reject(state, text.unwrap_or_else(own)));
            }
            State::SoftReject => {
                return Err(Verdict::Defer(text.unwrap_or_else(|| "try again later".to_owned())));
            }
            _ => {}
        }
    }
    if let Some(Some(name)) = answered(findings.attachment, rules, entries)? {
        let text = format!("Your email was rejected because it contains a bad attachment: {name}");
        entries.push(Entry::Found(State::Attach, name));
        return Err(Verdict::Reject(State::Attach, text));
    }
    if let Some(clamd::Answer::Virus(name)) = answered(findings.virus, rules, entries)? {
        let state = if rules.drop { State::VirusDropped } else { State::Virus };
        let text = format!("Your email was rejected because it contains the {name} virus");
        entries.push(Entry::Found(state, name));
        return Err(if rules.drop { Verdict::Drop(state) } else { Verdict::Reject(state, text) });
    }
    Ok(())
}

fn answered<T>(
    finding: Option<Result<T, Failure>>,
    rules: Rules,
    entries: &mut Vec<Entry>,
) -> Result<Option<T>, Verdict> {
    match finding {
        Some(Err(Failure::Trouble(why) | Failure::TooLarge(why))) if rules.fail_open => {
            entries.push(Entry::Warning(why));
            Ok(None)
        }
        Some(Err(Failure::Trouble(why))) => Err(Verdict::Temporary(why)),
        Some(Err(Failure::TooLarge(why))) => Err(Verdict::TooLarge(why)),
        Some(Ok(found)) => Ok(Some(found)),
        None => Ok(None),
    }
}

/// With points in the options they alone decide what is refused as spam; without, the scanner does, and `spam_passthru`
/// lets its spam through. What is no matter of points is the scanner's.
fn spam(score: Score, action: Action, options: &Options, rules: Rules) -> State {
    let refused = if rules.drop { State::SpamDropped } else { State::SpamReject };
    match (action, options.spam_hits) {
        (Action::Defer, _) => State::SoftReject,
        (Action::Forbid, _) => State::SpamReject,
        (_, Some(reject)) if score.hits >= reject => refused,
        (Action::Pass, _) => State::Clean,
        (Action::Mark | Action::Reject, Some(_)) => State::SpamPass,
        (Action::Reject, None) if !options.spam_passthru => refused,
        (Action::Mark | Action::Reject, None) => State::Passthru,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hits(text: &str) -> Hits {
        Hits::parse(text).unwrap()
    }

    /// What spamd says.
    fn opinion(points: &str) -> Opinion {
        let score = Score { hits: hits(points), required: hits("5") };
        let action = if score.hits >= score.required { Action::Reject } else { Action::Pass };
        Opinion { score, action, text: None }
    }

    #[test]
    fn states_of_spam() {
        use State::*;
        for (points, reject, passthru, drop, expected) in [
            ("1", None, false, false, Clean),
            ("7", None, false, false, SpamReject),
            ("7", None, false, true, SpamDropped),
            ("7", None, true, false, Passthru),
            ("7", None, true, true, Passthru),
            ("1", None, true, false, Clean),
            ("7", Some("10"), false, false, SpamPass),
            ("10", Some("10"), false, false, SpamReject),
            ("10", Some("10"), true, false, SpamReject),
            ("9.99", Some("10"), true, false, SpamPass),
            ("3", Some("2"), false, false, SpamReject),
            ("1", Some("2"), false, false, Clean),
        ] {
            let options =
                Options { spam_hits: reject.map(hits), spam_passthru: passthru, ..Options::default() };
            let rules = Rules { drop, fail_open: false };
            let Opinion { score, action, .. } = opinion(points);
            assert_eq!(
                spam(score, action, &options, rules),
                expected,
                "{points} {reject:?} {passthru} {drop}"
            );
        }
    }

    #[test]
    fn who_is_asked_for_spam() {
        let options = Options { spam: true, ..Options::default() };
        assert_eq!(spam_check(&options, false, 7, 7), SpamCheck::Asked);
        assert_eq!(spam_check(&options, false, 8, 7), SpamCheck::Off);
        assert_eq!(spam_check(&options, true, 0, 7), SpamCheck::Relayclient);
        assert_eq!(spam_check(&Options::default(), true, 0, 7), SpamCheck::Off);
    }

    #[test]
    fn patterns_then_spam_then_attachments_then_viruses() {
        let mut findings = Findings {
            regex: Some(Ok(Some(3))),
            relayclient: false,
            spam: Some(Ok(opinion("12.5"))),
            attachment: Some(Ok(Some("x.exe".into()))),
            virus: Some(Ok(clamd::Answer::Virus("Eicar".into()))),
        };
        let decided =
            |findings: &Findings| match decide(findings.clone(), &Options::default(), Rules::default()).0 {
                Verdict::Reject(_, text) => text,
                other => format!("{other:?}"),
            };
        assert_eq!(decided(&findings), "Your email was rejected because it matches a filter (#3)");
        findings.regex = Some(Ok(None));
        assert_eq!(decided(&findings), "Your email is considered spam (12.50 spam-hits)");
        findings.spam = Some(Ok(opinion("1")));
        assert_eq!(decided(&findings), "Your email was rejected because it contains a bad attachment: x.exe");
        findings.attachment = None;
        assert_eq!(decided(&findings), "Your email was rejected because it contains the Eicar virus");
        findings.virus = Some(Ok(clamd::Answer::Clean));
        assert_eq!(decided(&findings), "Pass");
    }

    #[test]
    fn a_scanner_that_fails_is_temporary_unless_the_host_fails_open() {
        let findings = Findings {
            relayclient: true,
            spam: Some(Err(Failure::Trouble("spamd: gone".into()))),
            virus: Some(Ok(clamd::Answer::Virus("Eicar".into()))),
            ..Findings::default()
        };
        let options = Options::default();
        let (verdict, entries) = decide(findings.clone(), &options, Rules::default());
        assert_eq!(verdict, Verdict::Temporary("spamd: gone".into()));
        assert_eq!(entries, [Entry::Found(State::Relayclient, "-".into())]);
        let (verdict, entries) = decide(findings, &options, Rules { drop: true, fail_open: true });
        assert_eq!(verdict, Verdict::Drop(State::VirusDropped));
        assert_eq!(entries[1], Entry::Warning("spamd: gone".into()));
        assert_eq!(entries[2], Entry::Found(State::VirusDropped, "Eicar".into()));
    }

    #[test]
    fn a_message_too_large_for_a_scanner_is_refused_for_good_unless_the_host_fails_open() {
        let findings = Findings {
            virus: Some(Err(Failure::TooLarge("clamav: too large".into()))),
            ..Findings::default()
        };
        let (verdict, entries) = decide(findings.clone(), &Options::default(), Rules::default());
        assert_eq!((verdict, entries), (Verdict::TooLarge("clamav: too large".into()), vec![]));
        let open = Rules { drop: false, fail_open: true };
        let (verdict, entries) = decide(findings, &Options::default(), open);
        assert_eq!((verdict, entries), (Verdict::Pass, vec![Entry::Warning("clamav: too large".into())]));
    }

    #[test]
    fn a_scanner_that_says_more_than_points_is_obeyed() {
        use State::*;
        for (action, points, hits_option, passthru, expected) in [
            (Action::Mark, "7", None, false, Passthru),
            (Action::Mark, "7", Some("10"), false, SpamPass),
            (Action::Mark, "7", Some("6"), true, SpamReject),
            (Action::Reject, "20", Some("30"), false, SpamPass),
            (Action::Reject, "20", None, true, Passthru),
            // What is no matter of points is none of points in the options.
            (Action::Forbid, "0", Some("10"), true, SpamReject),
            (Action::Forbid, "0", None, true, SpamReject),
            (Action::Defer, "0", None, true, SoftReject),
            (Action::Defer, "20", Some("10"), true, SoftReject),
        ] {
            let options =
                Options { spam_hits: hits_option.map(hits), spam_passthru: passthru, ..Options::default() };
            let score = Score { hits: hits(points), required: hits("15") };
            let found = Opinion { score, action, text: Some("said so".to_owned()) };
            let findings = Findings { spam: Some(Ok(found)), ..Findings::default() };
            let (verdict, entries) = decide(findings, &options, Rules::default());
            assert_eq!(entries, [Entry::Spam(expected, score, options.spam_hits)]);
            let said = match expected {
                SpamReject => Verdict::Reject(SpamReject, "said so".to_owned()),
                SoftReject => Verdict::Defer("said so".to_owned()),
                _ => Verdict::Pass,
            };
            assert_eq!(verdict, said, "{action:?} {points} {hits_option:?} {passthru}");
        }
    }
}
