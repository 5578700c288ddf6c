//! simscan: shows a received message to the scanners its options name and says what is to become of it.
//!
//! Types only: whoever has received a message asks, holding a permit. Asks: clamd, spamd. After a crash nothing is left
//! but, rarely, a copy in quarantine whose message comes again.

mod address;
pub mod clamd;
mod local;
mod quarantine;
pub mod spamd;
mod trouble;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mailtree_protocols::simscan::log::{self, Envelope, Scanner, State, Versions};
use mailtree_protocols::simscan::options::Options;
use mailtree_protocols::simscan::verdict::{Entry, Findings, Rules, SpamCheck, Verdict, decide, spam_check};

use crate::permit::Permit;
pub use address::Address;
use local::Local;
pub use trouble::Trouble;

/// What the host says about scanning.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where clamd listens.
    pub clamd: Address,
    /// Where spamd listens.
    pub spamd: Address,
    /// For all of a scan. What the patterns and names take beyond it goes on unheard.
    pub deadline: Duration,
    /// A message passes, with a warning, when a scanner fails or it is larger than [`Self::mime_limit`]; otherwise it
    /// is to come again.
    pub fail_open: bool,
    /// Spam and viruses are taken and thrown away in place of being refused.
    pub drop: bool,
    /// A directory that gets a copy of what is refused or dropped as spam or virus.
    pub quarantine: Option<PathBuf>,
    /// Largest message whose lines and attachments are looked at, in bytes; it is read into memory as a whole.
    pub mime_limit: u64,
    /// For the trace field.
    pub versions: Versions,
}

/// Usual [`Settings::mime_limit`].
pub const MIME_LIMIT: u64 = 32 * 1024 * 1024;

/// A message to be scanned.
#[derive(Clone)]
pub struct Message {
    /// A file with header and body, lines ended by LF.
    pub file: PathBuf,
    /// Bytes before the header.
    pub skip: u64,
    /// Bytes of header and body.
    pub size: u64,
    /// The sender as the queue stores it; the null sender is empty.
    pub sender: Vec<u8>,
    /// The recipients.
    pub recipients: Vec<Vec<u8>>,
    /// The client.
    pub ip: Option<IpAddr>,
    /// The client may relay.
    pub relayclient: bool,
    /// The number of the client's connection, as in other lines of the log.
    pub pid: u64,
    /// What is scanned.
    pub options: Options,
    /// The right to scan it, as long as anybody is at work on it.
    pub permit: Option<Arc<Permit>>,
}

/// What came out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan {
    /// What becomes of the message.
    pub verdict: Verdict,
    /// Lines for the log.
    pub log: Vec<String>,
    /// For a message that passes: the trace field and SpamAssassin's fields, to be written above its header.
    pub header: Vec<u8>,
}

/// Scans a message. The patterns first; then, at the same time, spamd and, unless a name is refused, clamd: so one that
/// hangs takes no time from the other.
pub async fn scan(settings: &Settings, message: Message) -> Scan {
    let begun = Instant::now();
    let options = &message.options;
    let looks = !options.regex.is_empty() || !options.attach.is_empty();
    if looks && !settings.fail_open && message.size > settings.mime_limit {
        let trouble = Trouble::Large { size: message.size, limit: settings.mime_limit };
        let log = vec![format!("simscan:[{}]: warning: {trouble}; refused", message.pid)];
        return Scan { verdict: Verdict::TooLarge, log, header: Vec::new() };
    }
    let looked = in_time(settings.deadline, local::look(&message, settings.mime_limit)).await;
    let Local { subject, regex, attachment } = looked.unwrap_or_else(|trouble| Local {
        subject: String::new(),
        regex: (!options.regex.is_empty()).then(|| Err(named(Scanner::Regex, &trouble))),
        attachment: (!options.attach.is_empty()).then(|| Err(named(Scanner::Attach, &trouble))),
    });
    count(Scanner::Regex, regex.as_ref().map(|found| result(found, |n| n.is_some())));
    count(Scanner::Attach, attachment.as_ref().map(|found| result(found, |name| name.is_some())));

    let matched = matches!(regex, Some(Ok(Some(_))));
    let refused = matches!(attachment, Some(Ok(Some(_))));
    let check = spam_check(options, message.relayclient, message.size);
    let left = settings.deadline.saturating_sub(begun.elapsed());
    let spam = async {
        let asked = check == SpamCheck::Asked && !matched;
        if asked { Some(in_time(left, spamd::ask(&settings.spamd, &message)).await) } else { None }
    };
    let virus = async {
        let asked = options.clam && !matched && !refused;
        if asked { Some(in_time(left, clamd::ask(&settings.clamd, &message)).await) } else { None }
    };
    let (spam, virus) = tokio::join!(spam, virus);
    count(Scanner::Spam, spam.as_ref().map(|found| result(found, |(score, _)| score.spam)));
    let infected = |answer: &clamd::Answer| *answer != clamd::Answer::Clean;
    count(Scanner::Clamav, virus.as_ref().map(|found| result(found, infected)));

    let scanners = [
        (Scanner::Regex, matches!(regex, Some(Ok(_)))),
        (Scanner::Attach, matches!(attachment, Some(Ok(_)))),
        (Scanner::Clamav, matches!(virus, Some(Ok(_)))),
        (Scanner::Spam, matches!(spam, Some(Ok(_)))),
    ];
    let scanners: Vec<_> = scanners.into_iter().filter_map(|(scanner, ran)| ran.then_some(scanner)).collect();
    let (spam, fields) = match spam {
        Some(Ok((score, fields))) => (Some(Ok(score)), fields),
        Some(Err(trouble)) => (Some(Err(named(Scanner::Spam, &trouble))), Vec::new()),
        None => (None, Vec::new()),
    };
    let virus = virus.map(|found| found.map_err(|trouble| named(Scanner::Clamav, &trouble)));
    let findings = Findings { regex, relayclient: check == SpamCheck::Relayclient, spam, attachment, virus };
    let rules = Rules { drop: settings.drop, fail_open: settings.fail_open };
    let (mut verdict, entries) = decide(findings, options, rules);

    let envelope = Envelope {
        pid: message.pid,
        ip: message.ip,
        sender: &message.sender,
        recipients: &message.recipients,
    };
    let elapsed = begun.elapsed();
    let mut log: Vec<_> = entries
        .into_iter()
        .map(|entry| match entry {
            Entry::Spam(state, score, reject) => {
                log::line(state, Some((score, reject)), elapsed, &subject, envelope)
            }
            Entry::Found(state, what) => log::line(state, None, elapsed, &what, envelope),
            Entry::Warning(trouble) => {
                format!("simscan:[{}]: warning: {trouble}; passed without it", message.pid)
            }
        })
        .collect();
    if let Verdict::Temporary(trouble) = &verdict {
        log.push(format!("simscan:[{}]: warning: {trouble}; refused for now", message.pid));
    }
    let kept = matches!(verdict, Verdict::Drop(_) | Verdict::Reject(State::Virus | State::SpamReject, _));
    if let Some(directory) = settings.quarantine.as_ref().filter(|_| kept) {
        let copied =
            quarantine::copy(directory.clone(), message.file.clone(), message.skip, message.size).await;
        match copied {
            Ok(path) => log.push(format!("simscan:[{}]: quarantine: {}", message.pid, path.display())),
            Err(error) => {
                log.push(format!("simscan:[{}]: warning: no copy in quarantine: {error}", message.pid));
                // A refused message stays with its sender; a dropped one would be nowhere.
                if let Verdict::Drop(_) = verdict {
                    verdict = Verdict::Temporary(format!("no copy in quarantine: {error}"));
                }
            }
        }
    }
    let header = if verdict == Verdict::Pass {
        let received = log::received(
            &settings.versions,
            message.pid,
            std::process::id().into(),
            begun.elapsed(),
            &scanners,
        );
        [received.into_bytes(), fields].concat()
    } else {
        Vec::new()
    };
    Scan { verdict, log, header }
}

async fn in_time<T>(left: Duration, scan: impl Future<Output = Result<T, Trouble>>) -> Result<T, Trouble> {
    tokio::time::timeout(left, scan).await.unwrap_or(Err(Trouble::Deadline))
}

fn named(scanner: Scanner, trouble: &Trouble) -> String {
    format!("{}: {trouble}", scanner.as_str())
}

fn result<T, E>(found: &Result<T, E>, is_found: impl Fn(&T) -> bool) -> &'static str {
    match found {
        Ok(found) if is_found(found) => "found",
        Ok(_) => "clean",
        Err(_) => "failed",
    }
}

fn count(scanner: Scanner, result: Option<&'static str>) {
    if let Some(result) = result {
        let scanner = scanner.as_str();
        metrics::counter!("mailtree_simscan_scans_total", "scanner" => scanner, "result" => result)
            .increment(1);
    }
}

#[cfg(test)]
mod tests;
