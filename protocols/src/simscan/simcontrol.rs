//! `control/simcontrol` and `simcontrol.cdb` (simscan.c, simscanmk.c): what is scanned for whom.
//!
//! A line is `KEY:option=value,option=value…`; KEY is `user@domain`, `domain`, or empty for everybody. What stands
//! behind another key than the empty one is in lower case, whatever the file says. Of several lines for one key the
//! first counts, as in a database.

use std::collections::HashMap;

use super::hits::Hits;
use super::regex;
use crate::cdb::{self, Cdb, CdbMake};

/// Suffixes or patterns in one value (MAX_ATTACH, MAX_REGEX of simscan.c).
const MAX_LIST: usize = 100;

/// Between options: blanks, commas, quotes.
const SEPARATORS: &[char] = &[' ', '\t', ',', '"', '\'', '\r'];

/// One option of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Setting {
    Clam(bool),
    Spam(bool),
    SpamHits(Hits),
    SpamPassthru(bool),
    Attach(Vec<String>),
    Regex(Vec<String>),
    QmailQueue(String),
    SpamUser(String),
}

/// The scans by key.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Simcontrol {
    records: Vec<(String, String)>,
    settings: HashMap<Vec<u8>, Vec<Setting>>,
    warnings: Vec<String>,
}

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// An option nobody knows, or a value it does not take.
    #[error("line {line}: `{text}` is not allowed; allowed: {allowed}")]
    Line {
        /// Number of the line, of a database number of the record; counted from 1.
        line: usize,
        /// What is not allowed.
        text: String,
        /// What is.
        allowed: &'static str,
    },
    /// The database is damaged, or cannot hold the lines.
    #[error(transparent)]
    Cdb(#[from] cdb::Error),
}

impl Simcontrol {
    /// Reads the text. Empty lines and lines that begin with `#` are skipped.
    ///
    /// # Errors
    /// [`Error::Line`] for the first bad line.
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        let mut control = Self::default();
        for (n, bytes) in text.split(|&b| b == b'\n').enumerate() {
            let lossy = String::from_utf8_lossy(bytes);
            let line = lossy.trim_matches(['\r', ' ', '\t']);
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (key, data) = line
                .split_once([':', ' ', '\t'])
                .ok_or_else(|| refused(n + 1, line, "`KEY:option=value,option=value…`, UTF-8"))?;
            if key.is_empty() {
                control.add(n + 1, "", data)?;
            } else {
                control.add(n + 1, &key.to_ascii_lowercase(), &data.to_ascii_lowercase())?;
            }
        }
        Ok(control)
    }

    /// Reads `simcontrol.cdb`.
    ///
    /// # Errors
    /// [`Error::Cdb`] if it is damaged, [`Error::Line`] for the first bad record.
    pub fn read<B: AsRef<[u8]>>(cdb: &Cdb<B>) -> Result<Self, Error> {
        let mut control = Self::default();
        for (n, record) in cdb.iter().enumerate() {
            let (key, data) = record?;
            control.add(n + 1, &String::from_utf8_lossy(key), &String::from_utf8_lossy(data))?;
        }
        Ok(control)
    }

    /// The bytes of `simcontrol.cdb`.
    ///
    /// # Errors
    /// [`Error::Cdb`] beyond 4 GiB.
    pub fn compile(&self) -> Result<Vec<u8>, Error> {
        let mut make = CdbMake::new();
        for (key, data) in &self.records {
            make.add(key.as_bytes(), data.as_bytes())?;
        }
        Ok(make.finish())
    }

    /// What is taken without effect, for the log.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Number of keys.
    #[must_use]
    pub fn len(&self) -> usize {
        self.settings.len()
    }

    /// Whether there is no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.settings.is_empty()
    }

    /// Whether clamd is asked about any message.
    #[must_use]
    pub fn asks_clamd(&self) -> bool {
        self.all_settings().any(|setting| *setting == Setting::Clam(true))
    }

    /// Whether a spam scanner is asked about any message.
    #[must_use]
    pub fn asks_for_spam(&self) -> bool {
        self.all_settings().any(|setting| *setting == Setting::Spam(true))
    }

    pub(super) fn settings(&self, key: &[u8]) -> Option<&[Setting]> {
        self.settings.get(key).map(Vec::as_slice)
    }

    pub(super) fn all_settings(&self) -> impl Iterator<Item = &Setting> {
        self.settings.values().flatten()
    }

    fn add(&mut self, line: usize, key: &str, data: &str) -> Result<(), Error> {
        if [key, data].iter().any(|text| text.contains(['\u{fffd}', '\0'])) {
            return Err(refused(line, data, "UTF-8 without NUL"));
        }
        let mut settings = Vec::new();
        let mut rest = data.trim_start_matches(SEPARATORS);
        while !rest.is_empty() {
            let form = "option=value, separated by blanks, commas or quotes";
            let (name, value) = rest.split_once('=').ok_or_else(|| refused(line, rest, form))?;
            // Quotes separate: `attach=".a"` is `attach=.a`, but `attach=,spam=yes` has an empty value.
            let value = value.strip_prefix(['"', '\'']).unwrap_or(value);
            let end = value.find(SEPARATORS).unwrap_or(value.len());
            let (value, after) = value.split_at(end);
            rest = after.trim_start_matches(SEPARATORS);
            match setting(&name.to_ascii_lowercase(), value) {
                Ok(Some(setting)) => settings.push(setting),
                Ok(None) => self.warnings.push(format!("line {line}: `{name}={value}` has no effect")),
                Err(allowed) => return Err(refused(line, &format!("{name}={value}"), allowed)),
            }
        }
        self.records.push((key.to_owned(), data.to_owned()));
        self.settings.entry(key.as_bytes().to_vec()).or_insert(settings);
        Ok(())
    }
}

fn refused(line: usize, text: &str, allowed: &'static str) -> Error {
    Error::Line { line, text: text.to_owned(), allowed }
}

/// The setting, `None` for an option without effect, or what is allowed.
fn setting(name: &str, value: &str) -> Result<Option<Setting>, &'static str> {
    let yes = || match value {
        _ if value.eq_ignore_ascii_case("yes") => Ok(true),
        _ if value.eq_ignore_ascii_case("no") => Ok(false),
        _ => Err("yes, no"),
    };
    Ok(Some(match name {
        "clam" => Setting::Clam(yes()?),
        "spam" => Setting::Spam(yes()?),
        "spam_passthru" => Setting::SpamPassthru(yes()?),
        "spam_hits" => Setting::SpamHits(Hits::parse(value).ok_or("a decimal such as 10 or 7.5")?),
        "attach" => Setting::Attach(list(&value.to_lowercase())?),
        "regex" => {
            let patterns = list(value)?;
            regex::Patterns::new(&patterns).map_err(|_| {
                "at most 100 patterns separated by colons, in the syntax of the Rust crate regex: neither \
                 look-around nor back-references, compiled at most 1 MiB"
            })?;
            Setting::Regex(patterns)
        }
        "qmailqueue" if value.starts_with('/') => Setting::QmailQueue(value.to_owned()),
        "qmailqueue" => return Err("the absolute path of a program"),
        "spamuser" if (1..=255).contains(&value.len()) && value.bytes().all(|b| b.is_ascii_graphic()) => {
            Setting::SpamUser(value.to_owned())
        }
        "spamuser" => return Err("1 to 255 printable ASCII characters"),
        "trophie" | "avira" => return Ok(None),
        _ => {
            return Err("clam, spam, spam_hits, spam_passthru, attach, regex, qmailqueue, spamuser, trophie");
        }
    }))
}

/// The parts between colons; of an empty value none. An empty part would match everything.
fn list(value: &str) -> Result<Vec<String>, &'static str> {
    if value.is_empty() {
        return Ok(Vec::new());
    }
    let parts: Vec<_> = value.split(':').map(str::to_owned).collect();
    let fits = parts.len() <= MAX_LIST && parts.iter().all(|part| !part.is_empty());
    fits.then_some(parts).ok_or("1 to 100 parts separated by colons, none of them empty; or nothing at all")
}

/// `control/ssattach`: one suffix a line, for hosts without `simcontrol`. What follows a blank or a colon is ignored.
#[must_use]
pub fn ssattach(text: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(text);
    let words =
        text.lines().filter_map(|line| line.split([' ', ':', '\t', '\r']).find(|word| !word.is_empty()));
    words.take(MAX_LIST).map(str::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bad_lines_name_line_value_and_what_is_allowed() {
        for (text, bad) in [
            ("a.example", "a.example"),
            (":clam", "clam"),
            (":clam=maybe", "clam=maybe"),
            (":clam=", "clam="),
            (":clam = yes", "clam ="),
            (":spam_hits=ten", "spam_hits=ten"),
            (":virus=yes", "virus=yes"),
            (":attach=.a::.b", "attach=.a::.b"),
            (":attach=.a:", "attach=.a:"),
            (":regex=(", "regex=("),
            (":regex=(?=x)", "regex=(?=x)"),
            (":regex=\\w{9999}{9999}", "regex=\\w{9999}{9999}"),
            (":qmailqueue=bin/x", "qmailqueue=bin/x"),
            (":spamuser=", "spamuser="),
            (":spamuser=\u{e9}", "spamuser=\u{e9}"),
        ] {
            let error = Simcontrol::parse(format!(":clam=yes\n#\n{text}\n").as_bytes()).unwrap_err();
            let Error::Line { line, text, allowed } = error else { panic!("{text}: {error}") };
            assert_eq!((line, text.as_str()), (3, bad));
            assert!(!allowed.is_empty());
        }
        assert!(Simcontrol::parse(b":clam=yes,spamuser=\xff").is_err());
    }

    #[test]
    fn trophie_is_taken_with_a_warning() {
        let control = Simcontrol::parse(b"\n:clam=yes,trophie=yes\r\n").unwrap();
        assert_eq!(control.warnings(), ["line 2: `trophie=yes` has no effect"]);
        assert_eq!(control.settings(b"").unwrap(), [Setting::Clam(true)]);
    }

    #[test]
    fn values() {
        let text = ":CLAM=Yes , spam=no,attach=.EXE:.Vbs regex='\\S=x'\nA.example:regex=\\S,attach=,spam=YES";
        let control = Simcontrol::parse(text.as_bytes()).unwrap();
        assert_eq!(
            control.settings(b"").unwrap(),
            [
                Setting::Clam(true),
                Setting::Spam(false),
                Setting::Attach(vec![".exe".into(), ".vbs".into()]),
                Setting::Regex(vec!["\\S=x".into()]),
            ]
        );
        assert_eq!(
            control.settings(b"a.example").unwrap(),
            [Setting::Regex(vec!["\\s".into()]), Setting::Attach(vec![]), Setting::Spam(true)]
        );
    }

    #[test]
    fn the_database_is_simscanmks() {
        let text = "Joe@A.example:Clam=no\n:clam=yes,attach=.Vbs:.exe\r\njoe@a.example:clam=yes\n";
        let control = Simcontrol::parse(text.as_bytes()).unwrap();
        let cdb = Cdb::new(control.compile().unwrap()).unwrap();
        let records: Vec<_> = cdb.iter().map(Result::unwrap).collect();
        assert_eq!(
            records,
            [
                (&b"joe@a.example"[..], &b"clam=no"[..]),
                (b"", b"clam=yes,attach=.Vbs:.exe"),
                (b"joe@a.example", b"clam=yes")
            ]
        );
        assert_eq!(Simcontrol::read(&cdb).unwrap(), control);
        assert_eq!(control.settings(b"joe@a.example").unwrap(), [Setting::Clam(false)]);
    }

    #[test]
    fn suffixes_of_ssattach() {
        assert_eq!(ssattach(b".EXE\n\n .vbs  no\r\n.com:x\n"), [".exe", ".vbs", ".com"]);
    }

    proptest! {
        #[test]
        fn anything_is_read_without_panic(text in "[a-z@:=., \"\n#\\\\(*0-9]{0,80}") {
            if let Ok(control) = Simcontrol::parse(text.as_bytes()) {
                let cdb = Cdb::new(control.compile().unwrap()).unwrap();
                prop_assert_eq!(Simcontrol::read(&cdb).unwrap().settings, control.settings);
            }
        }
    }
}
