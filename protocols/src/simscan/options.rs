//! What is scanned in one message: the options of everybody, of the sender, then of each recipient (simscan.c:
//! set_per_domain, per_domain_email_lookup). What comes later overrides what came earlier.

use std::collections::BTreeMap;

use super::hits::Hits;
use super::simcontrol::{Setting, Simcontrol};
use crate::address::split;

/// Beginnings of one local part that are looked up, at most; the whole address always is.
const MAX_EXTENSIONS: usize = 32;

/// The scans of one message. By default there are none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Options {
    /// Look for viruses.
    pub clam: bool,
    /// Ask SpamAssassin.
    pub spam: bool,
    /// Points at which spam is refused; `None`: as SpamAssassin decides.
    pub spam_hits: Option<Hits>,
    /// Without [`Self::spam_hits`]: let spam through.
    pub spam_passthru: bool,
    /// Refused ends of attachments' names, in lower case.
    pub attach: Vec<String>,
    /// Refused lines: patterns, numbered from 0. Those of all keys together, as in simscan; `regex=` without a value
    /// forgets the earlier ones.
    pub regex: Vec<String>,
    /// The program that takes the message after the scans, in place of the queue; absolute.
    pub qmailqueue: Option<String>,
    /// The user whose preferences SpamAssassin takes; for messages with one recipient.
    pub spamuser: Option<String>,
}

/// [`Options`] with their origin.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Evaluation {
    /// The options.
    pub options: Options,
    /// By option, the key of `simcontrol` that gave it last; empty: everybody's.
    pub keys: BTreeMap<&'static str, String>,
}

impl Simcontrol {
    /// The scans of a message; addresses as the queue stores them, the null sender empty.
    #[must_use]
    pub fn evaluate<'a>(&self, sender: &[u8], recipients: impl IntoIterator<Item = &'a [u8]>) -> Evaluation {
        let mut evaluation = Evaluation::default();
        self.apply(b"", &mut evaluation);
        self.apply_address(sender, &mut evaluation);
        for recipient in recipients {
            self.apply_address(recipient, &mut evaluation);
        }
        evaluation
    }

    /// Largest message in bytes that can pass, 0 for any, where `databytes` may be received (0: any) and `looked_at` be
    /// looked at: it counts if every message is looked at, whoever sends it to whomever.
    #[must_use]
    pub fn size_limit(&self, databytes: u64, looked_at: u64) -> u64 {
        if !self.looks_at_all() {
            databytes
        } else if databytes == 0 {
            looked_at
        } else {
            databytes.min(looked_at)
        }
    }

    /// Whether names of attachments or patterns are for everybody, and no key takes them back.
    fn looks_at_all(&self) -> bool {
        let Options { attach, regex, .. } = self.evaluate(b"", []).options;
        let taken_back = |kind: fn(&Setting) -> bool| self.all_settings().any(kind);
        !attach.is_empty()
            && !taken_back(|setting| matches!(setting, Setting::Attach(list) if list.is_empty()))
            || !regex.is_empty()
                && !taken_back(|setting| matches!(setting, Setting::Regex(list) if list.is_empty()))
    }

    fn apply_address(&self, address: &[u8], evaluation: &mut Evaluation) {
        let address = address.to_ascii_lowercase();
        let (local, Some(domain)) = split(&address) else { return };
        if domain.is_empty() {
            return;
        }
        self.apply(domain, evaluation);
        let dashes = (0..local.len()).filter(|&at| local[at] == b'-').take(MAX_EXTENSIONS);
        for end in dashes {
            self.apply(&[&local[..end], b"@", domain].concat(), evaluation);
        }
        self.apply(&address, evaluation);
    }

    fn apply(&self, key: &[u8], evaluation: &mut Evaluation) {
        for setting in self.settings(key).unwrap_or_default() {
            let Evaluation { options, keys } = evaluation;
            let name = match setting.clone() {
                Setting::Clam(yes) => {
                    options.clam = yes;
                    "clam"
                }
                Setting::Spam(yes) => {
                    options.spam = yes;
                    "spam"
                }
                Setting::SpamHits(hits) => {
                    options.spam_hits = Some(hits);
                    "spam_hits"
                }
                Setting::SpamPassthru(yes) => {
                    options.spam_passthru = yes;
                    "spam_passthru"
                }
                Setting::Attach(suffixes) => {
                    options.attach = suffixes;
                    "attach"
                }
                Setting::Regex(patterns) => {
                    if patterns.is_empty() {
                        options.regex.clear();
                    }
                    for pattern in patterns {
                        // A pattern twice would match where it matches first.
                        if !options.regex.contains(&pattern) {
                            options.regex.push(pattern);
                        }
                    }
                    "regex"
                }
                Setting::QmailQueue(path) => {
                    options.qmailqueue = Some(path);
                    "qmailqueue"
                }
                Setting::SpamUser(user) => {
                    options.spamuser = Some(user);
                    "spamuser"
                }
            };
            keys.insert(name, String::from_utf8_lossy(key).into_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTROL: &str = "\
        :clam=yes,spam=yes,spam_hits=10,attach=.vbs:.exe,regex=one\n\
        a.example:clam=no,attach=.mp3\n\
        joe@a.example:clam=yes,spam=no,regex=two:one\n\
        joe-list@a.example:spam_passthru=yes\n\
        b.example:attach=,spamuser=b,qmailqueue=/bin/q,regex=\n";

    fn shown(sender: &str, recipients: &[&str]) -> String {
        let control = Simcontrol::parse(CONTROL.as_bytes()).unwrap();
        let recipients = recipients.iter().map(|recipient| recipient.as_bytes());
        let Evaluation { options: o, keys } = control.evaluate(sender.as_bytes(), recipients);
        let keys: Vec<_> = keys.iter().map(|(option, key)| format!("{option}<{key}")).collect();
        format!(
            "clam={} spam={} passthru={} attach={} regex={} | {}",
            o.clam,
            o.spam,
            o.spam_passthru,
            o.attach.join(":"),
            o.regex.join(":"),
            keys.join(" ")
        )
    }

    #[test]
    fn later_keys_override_earlier_ones() {
        for (sender, recipients, expected) in [
            (
                "",
                &["x@other.example"][..],
                "clam=true spam=true passthru=false attach=.vbs:.exe regex=one | attach< clam< regex< spam< spam_hits<",
            ),
            (
                "Any@A.Example",
                &["x@other.example"],
                "clam=false spam=true passthru=false attach=.mp3 regex=one | attach<a.example clam<a.example regex< \
                 spam< spam_hits<",
            ),
            (
                "x@a.example",
                &["joe@a.example"],
                "clam=true spam=false passthru=false attach=.mp3 regex=one:two | attach<a.example \
                 clam<joe@a.example regex<joe@a.example spam<joe@a.example spam_hits<",
            ),
            (
                "",
                &["joe-list-owner@a.example", "\"odd@local\"@b.example"],
                "clam=true spam=false passthru=true attach= regex= | attach<b.example clam<joe@a.example \
                 qmailqueue<b.example regex<b.example spam<joe@a.example spam_hits< \
                 spam_passthru<joe-list@a.example spamuser<b.example",
            ),
            (
                "",
                &["joe-li@a.example", "joe", "@"],
                "clam=true spam=false passthru=false attach=.mp3 regex=one:two | attach<a.example \
                 clam<joe@a.example regex<joe@a.example spam<joe@a.example spam_hits<",
            ),
        ] {
            assert_eq!(shown(sender, recipients), expected, "{sender} {recipients:?}");
        }
    }

    #[test]
    fn what_must_be_looked_at_is_no_larger_than_what_can_be() {
        for (control, databytes, expected) in [
            ("", 0, 0),
            (":clam=yes,spam=yes,attach=", 50, 50),
            (":attach=.exe", 0, 32),
            (":attach=.exe", 50, 32),
            (":attach=.exe", 20, 20),
            (":regex=x\na.example:attach=.exe:.com", 50, 32),
            ("a.example:attach=.exe", 50, 50),
            (":attach=.exe\na.example:clam=no,regex=", 50, 32),
            (":attach=.exe\na.example:attach=", 50, 50),
            (":attach=.exe,regex=x\na.example:attach=", 50, 32),
            (":attach=.exe,regex=x\na.example:attach=\njoe@a.example:regex=", 0, 0),
        ] {
            let rules = Simcontrol::parse(control.as_bytes()).unwrap();
            assert_eq!(rules.size_limit(databytes, 32), expected, "{control:?} {databytes}");
        }
    }

    #[test]
    fn without_a_match_there_is_no_scan() {
        let control = Simcontrol::parse(b"a.example:clam=yes").unwrap();
        assert_eq!(control.evaluate(b"x@b.example", [&b"y@c.example"[..]]), Evaluation::default());
    }

    #[test]
    fn an_address_of_dashes_costs_little_and_is_still_found() {
        let address = format!("{}@a.example", "-".repeat(800));
        let control = Simcontrol::parse(format!("{address}:clam=yes").as_bytes()).unwrap();
        assert!(control.evaluate(b"", [address.as_bytes()]).options.clam);
    }
}
