//! The lines simscan logs and the trace field it writes (simscan.c: log_message).

use std::net::IpAddr;
use std::time::Duration;

use super::hits::Hits;
use super::opinion::Score;
use crate::cdb::Cdb;

/// Recipients in a line (MAX_RCPT_TO of simscan.c).
const MAX_RECIPIENTS: usize = 255;

/// Bytes of a subject in a line.
const MAX_SUBJECT: usize = 2048;

/// What became of a message, as its line in the log says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Refused for a virus.
    Virus,
    /// Dropped for a virus.
    VirusDropped,
    /// Refused for the name of an attachment.
    Attach,
    /// Refused for a line that matches a pattern.
    Regex,
    /// Not asked whether it is spam: the client may relay.
    Relayclient,
    /// No spam.
    Clean,
    /// Spam, let through.
    Passthru,
    /// Spam, below the points at which it is refused.
    SpamPass,
    /// Refused as spam.
    SpamReject,
    /// Dropped as spam.
    SpamDropped,
    /// To come again, because the spam scanner wants it so.
    SoftReject,
}

impl State {
    /// The word in the log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Virus => "VIRUS",
            Self::VirusDropped => "VIRUS DROPPED",
            Self::Attach => "ATTACH",
            Self::Regex => "REGEX",
            Self::Relayclient => "RELAYCLIENT",
            Self::Clean => "CLEAN",
            Self::Passthru => "PASSTHRU",
            Self::SpamPass => "SPAM PASS",
            Self::SpamReject => "SPAM REJECT",
            Self::SpamDropped => "SPAM DROPPED",
            Self::SoftReject => "SOFT REJECT",
        }
    }
}

/// What a line says of every message.
#[derive(Debug, Clone, Copy)]
pub struct Envelope<'a> {
    /// The number of the client's connection: in qmail the process of its qmail-smtpd.
    pub pid: u64,
    /// The client.
    pub ip: Option<IpAddr>,
    /// The sender.
    pub sender: &'a [u8],
    /// The recipients.
    pub recipients: &'a [Vec<u8>],
}

/// The line, without its end. `subject` is the subject of the message, the virus, the file or the pattern; `score`
/// comes with the points at which the message would have been refused, if they were given.
#[must_use]
pub fn line(
    state: State,
    score: Option<(Score, Option<Hits>)>,
    elapsed: Duration,
    subject: &str,
    envelope: Envelope<'_>,
) -> String {
    let score = score.map_or_else(String::new, |(score, reject)| {
        format!(" ({}/{}/{})", score.hits, score.required, reject.unwrap_or(score.required))
    });
    let Envelope { pid, ip, sender, recipients } = envelope;
    let ip = ip.map_or_else(|| "(null)".to_owned(), |ip| ip.to_string());
    let recipients: Vec<_> = recipients.iter().take(MAX_RECIPIENTS).map(|address| lower(address)).collect();
    format!(
        "simscan:[{pid}]:{}{score}:{:.4}s:{subject}:{ip}:{}:{}",
        state.as_str(),
        elapsed.as_secs_f64(),
        lower(sender),
        recipients.join(",")
    )
}

fn lower(address: &[u8]) -> String {
    safe(&String::from_utf8_lossy(address).to_ascii_lowercase())
}

fn safe(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// The subject of a message for its line: the first line of its last `Subject:`, colons made `_`. Empty without one.
#[must_use]
pub fn subject(message: &[u8]) -> String {
    let lines = message.split(|&b| b == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let header = lines.take_while(|line| !line.is_empty());
    let subjects = header.filter(|line| line.len() >= 8 && line[..8].eq_ignore_ascii_case(b"subject:"));
    let subject = subjects.last().map(|line| &line[8..]).unwrap_or_default();
    let subject = subject.strip_prefix(b" ").unwrap_or(subject);
    safe(&String::from_utf8_lossy(&subject[..subject.len().min(MAX_SUBJECT)]).replace(':', "_"))
}

/// A scanner that has looked at a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scanner {
    /// The patterns.
    Regex,
    /// The names of attachments.
    Attach,
    /// clamd.
    Clamav,
    /// SpamAssassin.
    Spam,
    /// rspamd.
    Rspamd,
}

impl Scanner {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Regex, Self::Attach, Self::Clamav, Self::Spam];

    /// Its key in `simversions.cdb`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Regex => "regex",
            Self::Attach => "attach",
            Self::Clamav => "clamav",
            Self::Spam => "spam",
            Self::Rspamd => "rspamd",
        }
    }
}

/// Versions for the trace field: simscan's own, and those of `simversions.cdb` (simscanmk -g).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Versions {
    /// simscan's, also that of the patterns and the names of attachments.
    pub simscan: String,
    /// clamd's, `VERSION/m:MAIN/d:DAILY`.
    pub clamav: Option<String>,
    /// SpamAssassin's.
    pub spam: Option<String>,
    /// rspamd's.
    pub rspamd: Option<String>,
}

impl Versions {
    /// Those of the others from the database.
    pub fn read<B: AsRef<[u8]>>(simscan: &str, cdb: &Cdb<B>) -> Self {
        let version = |scanner: Scanner| {
            let data = cdb.get(scanner.as_str().as_bytes())?;
            Some(safe(&String::from_utf8_lossy(&data[..data.len().min(100)])))
        };
        let simscan = simscan.to_owned();
        Self {
            simscan,
            clamav: version(Scanner::Clamav),
            spam: version(Scanner::Spam),
            rspamd: version(Scanner::Rspamd),
        }
    }

    fn of(&self, scanner: Scanner) -> Option<&str> {
        match scanner {
            Scanner::Regex | Scanner::Attach => Some(&self.simscan),
            Scanner::Clamav => self.clamav.as_deref(),
            Scanner::Spam => self.spam.as_deref(),
            Scanner::Rspamd => self.rspamd.as_deref(),
        }
    }
}

/// The trace field over a message that has passed, with the scanners that looked at it. A scanner without a known
/// version is left out, as in simscan.
#[must_use]
pub fn received(versions: &Versions, ppid: u64, pid: u64, elapsed: Duration, scanners: &[Scanner]) -> String {
    let known = scanners.iter().filter_map(|&scanner| Some((scanner.as_str(), versions.of(scanner)?)));
    let list: String = known.map(|(name, version)| format!(" {name}: {version}")).collect();
    let list = if list.is_empty() { " none" } else { &list };
    format!(
        "Received: by simscan {} ppid: {ppid}, pid: {pid}, t: {:.4}s\n\tscanners:{list}\n",
        versions.simscan,
        elapsed.as_secs_f64()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cdb::CdbMake;

    #[test]
    fn lines() {
        let recipients = [b"A@x.example".to_vec(), b"b\n@x.example".to_vec()];
        let envelope = Envelope {
            pid: 4711,
            ip: Some("192.0.2.1".parse().unwrap()),
            sender: b"Joe@a.example",
            recipients: &recipients,
        };
        let hits = |text| Hits::parse(text).unwrap();
        let score = Score { hits: hits("15.3"), required: hits("5") };
        let took = Duration::from_micros(123_456);
        for (state, score, subject, expected) in [
            (
                State::VirusDropped,
                None,
                "Eicar",
                "simscan:[4711]:VIRUS DROPPED:0.1235s:Eicar:192.0.2.1:joe@a.example:a@x.example,b?@x.example",
            ),
            (
                State::SpamReject,
                Some((score, Some(hits("12")))),
                "buy",
                "simscan:[4711]:SPAM REJECT (15.30/5.00/12.00):0.1235s:buy:192.0.2.1:joe@a.example:a@x.example,b?@x.example",
            ),
            (
                State::Passthru,
                Some((score, None)),
                "",
                "simscan:[4711]:PASSTHRU (15.30/5.00/5.00):0.1235s::192.0.2.1:joe@a.example:a@x.example,b?@x.example",
            ),
        ] {
            assert_eq!(line(state, score, took, subject, envelope), expected);
        }
        let local = Envelope { ip: None, sender: b"", ..envelope };
        let line = line(State::Relayclient, None, Duration::from_secs(1), "-", local);
        assert_eq!(line, "simscan:[4711]:RELAYCLIENT:1.0000s:-:(null)::a@x.example,b?@x.example");
    }

    #[test]
    fn subjects() {
        for (message, expected) in [
            ("Subject: Re: buy\t:\r\n now\r\n\r\nSubject: body", "Re_ buy?_"),
            ("subject:one\nSUBJECT: two\n\n", "two"),
            ("Subject:\n\n", ""),
            ("\nSubject: body", ""),
            ("X-Subject: x", ""),
        ] {
            assert_eq!(subject(message.as_bytes()), expected, "{message}");
        }
    }

    #[test]
    fn the_trace_field() {
        let mut make = CdbMake::new();
        make.add(b"clamav", b"0.103/m:62/d:26\n").unwrap();
        let versions = Versions::read("1.4.0", &Cdb::new(make.finish()).unwrap());
        let took = Duration::from_millis(4_700);
        assert_eq!(
            received(&versions, 1, 2, took, &[Scanner::Attach, Scanner::Clamav, Scanner::Spam]),
            "Received: by simscan 1.4.0 ppid: 1, pid: 2, t: 4.7000s\n\tscanners: attach: 1.4.0 clamav: 0.103/m:62/d:26?\n"
        );
        assert!(received(&versions, 1, 2, took, &[]).ends_with("\tscanners: none\n"));
    }
}
