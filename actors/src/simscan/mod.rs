//! simscan: shows a received message to the scanners its options name and says what is to become of it.
//!
//! Types only: whoever has received a message asks, holding a permit. Asks: clamd, spamd, rspamd. After a crash nothing is left
//! but, rarely, a copy in quarantine whose message comes again.

mod address;
pub mod clamd;
mod local;
mod probe;
mod quarantine;
pub mod rspamd;
pub mod spamd;
mod trouble;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mailtree_protocols::simscan::log::{self, Envelope, Scanner, State, Versions};
use mailtree_protocols::simscan::opinion::Opinion;
use mailtree_protocols::simscan::options::Options;
use mailtree_protocols::simscan::verdict::{
    Entry, Failure, Findings, Rules, SpamCheck, Verdict, decide, spam_check,
};
use mailtree_protocols::simscan::{rspamd as rspamd_protocol, spamc};

use crate::permit::Permit;
pub use address::Address;
use local::Local;
pub use rspamd::Rspamd;
pub use trouble::Trouble;

/// What the host says about scanning.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where clamd listens.
    pub clamd: Address,
    /// Who is asked for spam.
    pub spam: SpamScanner,
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

/// A scanner of spam.
#[derive(Debug, Clone)]
pub enum SpamScanner {
    /// spamd, at this address.
    Spamd(Address),
    /// rspamd.
    Rspamd(Rspamd),
}

impl SpamScanner {
    /// Largest message that is shown to it, in bytes.
    const fn largest(&self) -> u64 {
        match self {
            Self::Spamd(_) => spamc::MAX_SIZE,
            Self::Rspamd(_) => rspamd_protocol::MAX_SIZE,
        }
    }

    const fn name(&self) -> Scanner {
        match self {
            Self::Spamd(_) => Scanner::Spam,
            Self::Rspamd(_) => Scanner::Rspamd,
        }
    }

    /// What it says, and the fields for the header of a message that passes.
    async fn ask(&self, message: &Message) -> Result<(Opinion, Vec<u8>), Trouble> {
        match self {
            Self::Spamd(address) => spamd::ask(address, message).await,
            Self::Rspamd(rspamd) => {
                let answer = rspamd.ask(message).await?;
                let header = answer.header();
                Ok((answer.opinion, header))
            }
        }
    }
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
    /// Its HELO.
    pub helo: Option<Vec<u8>>,
    /// Its name in DNS, if it has one.
    pub host: Option<String>,
    /// The user it has authenticated as.
    pub user: Option<Vec<u8>>,
    /// The number of the queueing.
    pub qp: u64,
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
    /// For a message that passes: the trace field and those of the spam scanner, to be written above its header.
    pub header: Vec<u8>,
}

/// Scans a message. The patterns first; then, at the same time, the spam scanner and, unless a name is refused, clamd: so one that
/// hangs takes no time from the other.
pub async fn scan(settings: &Settings, message: Message) -> Scan {
    let begun = Instant::now();
    let options = &message.options;
    let looked = in_time(settings.deadline, local::look(&message, settings.mime_limit)).await;
    // Then the matter is settled, whatever the scanners would say.
    let too_large = !settings.fail_open && matches!(&looked, Err(trouble) if trouble.is_large());
    let Local { subject, regex, attachment } = looked.unwrap_or_else(|trouble| Local {
        subject: String::new(),
        regex: (!options.regex.is_empty()).then(|| Err(failure(Scanner::Regex, &trouble))),
        attachment: (!options.attach.is_empty()).then(|| Err(failure(Scanner::Attach, &trouble))),
    });
    count(Scanner::Regex, regex.as_ref().map(|found| result(found, |n| n.is_some())));
    count(Scanner::Attach, attachment.as_ref().map(|found| result(found, |name| name.is_some())));

    let matched = matches!(regex, Some(Ok(Some(_))));
    let refused = matches!(attachment, Some(Ok(Some(_))));
    let check = spam_check(options, message.relayclient, message.size, settings.spam.largest());
    let left = settings.deadline.saturating_sub(begun.elapsed());
    let spam = async {
        let asked = check == SpamCheck::Asked && !matched && !too_large;
        if asked { Some(in_time(left, settings.spam.ask(&message)).await) } else { None }
    };
    let virus = async {
        let asked = options.clam && !matched && !refused && !too_large;
        if asked { Some(in_time(left, clamd::ask(&settings.clamd, &message)).await) } else { None }
    };
    let (spam, virus) = tokio::join!(spam, virus);
    let spam_scanner = settings.spam.name();
    count(spam_scanner, spam.as_ref().map(|found| result(found, |(opinion, _)| opinion.is_bad())));
    let infected = |answer: &clamd::Answer| *answer != clamd::Answer::Clean;
    count(Scanner::Clamav, virus.as_ref().map(|found| result(found, infected)));

    let scanners = [
        (Scanner::Regex, matches!(regex, Some(Ok(_)))),
        (Scanner::Attach, matches!(attachment, Some(Ok(_)))),
        (Scanner::Clamav, matches!(virus, Some(Ok(_)))),
        (spam_scanner, matches!(spam, Some(Ok(_)))),
    ];
    let scanners: Vec<_> = scanners.into_iter().filter_map(|(scanner, ran)| ran.then_some(scanner)).collect();
    let (spam, fields) = match spam {
        Some(Ok((opinion, fields))) => (Some(Ok(opinion)), fields),
        Some(Err(trouble)) => (Some(Err(failure(spam_scanner, &trouble))), Vec::new()),
        None => (None, Vec::new()),
    };
    let virus = virus.map(|found| found.map_err(|trouble| failure(Scanner::Clamav, &trouble)));
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
    match &verdict {
        Verdict::Temporary(why) => {
            log.push(format!("simscan:[{}]: warning: {why}; refused for now", message.pid));
        }
        Verdict::TooLarge(why) => log.push(format!("simscan:[{}]: warning: {why}; refused", message.pid)),
        _ => {}
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

fn failure(scanner: Scanner, trouble: &Trouble) -> Failure {
    let why = format!("{}: {trouble}", scanner.as_str());
    if trouble.is_large() { Failure::TooLarge(why) } else { Failure::Trouble(why) }
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
