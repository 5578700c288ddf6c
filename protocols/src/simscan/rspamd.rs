//! The protocol of rspamd (rspamd.com/doc/developers/protocol.html): the header fields of a request `POST /checkv2` and
//! the JSON of its answer.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::hits::Hits;
use super::opinion::{Action, Opinion, Score};
use super::printable;
use crate::address::quoted;

/// Longest answer that is read, in bytes.
pub const MAX_ANSWER: usize = 1024 * 1024;

/// Largest message that is shown to rspamd, in bytes: its `max_message` unless set. It closes on a larger one without a
/// word, the next time too.
pub const MAX_SIZE: u64 = 50 * 1024 * 1024;

/// Bytes of recipients that are told. rspamd closes without a word on a head of more than 80 KiB.
const MAX_RECIPIENTS: usize = 64 * 1024;

/// Recipients that are told: rspamd's `max_recipients` unless set.
const MAX_RECIPIENT_COUNT: usize = 1024;

/// Longest value of another field, in bytes.
const MAX_VALUE: usize = 1024;

/// Bytes of symbols' names that are passed on.
const MAX_SYMBOLS: usize = 4096;

/// Longest line of symbols, in bytes.
const MAX_LINE: usize = 76;

/// What rspamd is told of a message.
#[derive(Debug, Clone, Copy)]
pub struct Envelope<'a> {
    /// The sender as the queue stores it.
    pub sender: &'a [u8],
    /// The recipients.
    pub recipients: &'a [Vec<u8>],
    /// Whose settings rspamd takes.
    pub deliver_to: Option<&'a str>,
    /// The client.
    pub ip: Option<IpAddr>,
    /// Its HELO.
    pub helo: Option<&'a [u8]>,
    /// Its name in DNS, if it has one.
    pub host: Option<&'a str>,
    /// The user it has authenticated as.
    pub user: Option<&'a [u8]>,
    /// The number of the queueing.
    pub qp: u64,
}

impl Envelope<'_> {
    /// The fields of the request: names, and values without control characters. Of the recipients those that rspamd
    /// takes, 1024 or 64 KiB.
    #[must_use]
    pub fn fields(&self) -> Vec<(&'static str, Vec<u8>)> {
        let mut fields = vec![("From", path(self.sender))];
        let mut left = MAX_RECIPIENTS;
        for recipient in self.recipients.iter().take(MAX_RECIPIENT_COUNT) {
            let value = path(recipient);
            // `Rcpt: ` and CRLF.
            let Some(rest) = left.checked_sub(value.len() + 8) else { break };
            left = rest;
            fields.push(("Rcpt", value));
        }
        let ip = self.ip.map(|ip| ip.to_string());
        let qp = self.qp.to_string();
        let others = [
            ("Deliver-To", self.deliver_to.map(str::as_bytes)),
            ("IP", ip.as_deref().map(str::as_bytes)),
            ("Helo", self.helo),
            ("Hostname", self.host.map(str::as_bytes)),
            ("User", self.user),
            ("Queue-Id", Some(qp.as_bytes())),
        ];
        fields.extend(others.into_iter().filter_map(|(name, value)| Some((name, plain(value?)))));
        fields
    }
}

fn path(address: &[u8]) -> Vec<u8> {
    let wire = quoted(address).unwrap_or_else(|| address.to_vec());
    [b"<", &plain(&wire)[..], b">"].concat()
}

fn plain(value: &[u8]) -> Vec<u8> {
    value.iter().take(MAX_VALUE).map(|&b| if b.is_ascii_control() { b'?' } else { b }).collect()
}

/// What rspamd says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Of the message.
    pub opinion: Opinion,
    /// The rules that matched, printable ASCII, sorted.
    symbols: Vec<String>,
}

/// An answer that tells nothing about the message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// rspamd says that it failed.
    #[error("rspamd: {0}")]
    Failed(String),
    /// The message is larger than its `max_message`.
    #[error("rspamd: {0}")]
    TooLarge(String),
    /// Not an answer of rspamd.
    #[error("no answer of rspamd: {0}; allowed: JSON with `action`, `score`, `required_score`")]
    Unknown(String),
    /// An action of the host's own, or of a newer rspamd.
    #[error(
        "rspamd: unknown action `{0}`; allowed: no action, greylist, add header, rewrite subject, soft reject, reject, \
         quarantine, discard"
    )]
    Action(String),
}

#[derive(Deserialize)]
struct Json {
    action: String,
    score: f64,
    /// Points at which messages are refused; none if they are not.
    required_score: Option<f64>,
    #[serde(default)]
    messages: BTreeMap<String, serde_json::Value>,
    #[serde(default)]
    symbols: BTreeMap<String, IgnoredAny>,
}

/// Reads an answer with the status `200`; any other one is an error.
///
/// # Errors
/// Whenever there is no action in it that is known.
pub fn parse(status: u16, body: &[u8]) -> Result<Answer, Error> {
    match status {
        200 => {}
        413 => return Err(Error::TooLarge(printable(&[b"413 ", body].concat()))),
        _ => return Err(Error::Failed(printable(&[status.to_string().as_bytes(), b" ", body].concat()))),
    }
    let json: Json = serde_json::from_slice(body)
        .map_err(|error| Error::Unknown(printable(error.to_string().as_bytes())))?;
    let by_points = json.required_score.is_some_and(|required| json.score >= required);
    let action = match json.action.as_str() {
        // greylist is for a greylisting that did not happen: rspamd says `soft reject` when it wants the message again,
        // and takes this one itself (milter.c). Refused for now it would be refused for ever.
        "no action" | "greylist" => Action::Pass,
        "add header" | "rewrite subject" => Action::Mark,
        // Nothing is thrown away: the sender is to know.
        "reject" | "quarantine" | "discard" if by_points => Action::Reject,
        "reject" | "quarantine" | "discard" => Action::Forbid,
        "soft reject" => Action::Defer,
        other => return Err(Error::Action(printable(other.as_bytes()))),
    };
    let hits = |number| Hits::nearest(number).unwrap_or_default();
    let score = Score { hits: hits(json.score), required: hits(json.required_score.unwrap_or_default()) };
    let text = json.messages.get("smtp_message").and_then(serde_json::Value::as_str);
    let text = text.map(|text| printable(text.trim().as_bytes())).filter(|text| !text.is_empty());
    let symbols = json.symbols.into_keys().map(|name| name.replace([' ', ','], "?"));
    let symbols = symbols.map(|name| printable(name.as_bytes())).collect();
    Ok(Answer { opinion: Opinion { score, action, text }, symbols })
}

impl Answer {
    /// The fields for the header of a message that passes, lines ended by LF: what filters for SpamAssassin and for
    /// rspamd look for. The symbols up to 4 KiB.
    #[must_use]
    pub fn header(&self) -> Vec<u8> {
        let Opinion { score, .. } = &self.opinion;
        let bad = self.opinion.is_bad();
        let (marks, word) = if bad { ("X-Spam: Yes\nX-Spam-Flag: YES\n", "Yes") } else { ("", "No") };
        let mut header =
            format!("{marks}X-Spam-Status: {word}, score={} required={}", score.hits, score.required);
        let (mut left, mut line) = (MAX_SYMBOLS, usize::MAX);
        for (n, symbol) in self.symbols.iter().enumerate() {
            let Some(rest) = left.checked_sub(symbol.len() + 1) else { break };
            left = rest;
            header.push_str(if n == 0 { "" } else { "," });
            if line.saturating_add(symbol.len() + 1) > MAX_LINE {
                header.push_str("\n\t");
                line = 8;
            }
            header.push_str(if n == 0 { "tests=" } else { "" });
            header.push_str(symbol);
            line += symbol.len() + 1;
        }
        header.push('\n');
        header.into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(action: &str, score: f64, rest: &str) -> Result<Answer, Error> {
        let text = format!(
            "{{\"is_skipped\":false,\"score\":{score},\"action\":\"{action}\"{rest},\"time_real\":0.1}}"
        );
        parse(200, text.as_bytes())
    }

    #[test]
    fn actions() {
        let required = ",\"required_score\":15.0";
        for (action, score, rest, expected) in [
            ("no action", 0.0, required, Action::Pass),
            ("greylist", 5.0, required, Action::Pass),
            ("add header", 7.0, required, Action::Mark),
            ("rewrite subject", 12.5, required, Action::Mark),
            ("reject", 15.0, required, Action::Reject),
            ("discard", 15.0, required, Action::Reject),
            // A forced action, the virus that rspamd's antivirus found.
            ("reject", 14.999, required, Action::Forbid),
            ("quarantine", 0.0, required, Action::Forbid),
            ("reject", 99.0, ",\"required_score\":null", Action::Forbid),
            ("reject", 99.0, "", Action::Forbid),
            ("soft reject", 20.0, required, Action::Defer),
        ] {
            assert_eq!(
                answer(action, score, rest).unwrap().opinion.action,
                expected,
                "{action} {score} {rest}"
            );
        }
        assert_eq!(answer("spam it", 1.0, required), Err(Error::Action("spam it".to_owned())));
    }

    #[test]
    fn what_the_client_hears_is_one_line_of_ascii() {
        for (message, expected) in [
            ("\"come again\"", Some("come again")),
            ("\" a\\r\\n250 \u{e9} \"", Some("a??250 ??")),
            ("\" \\t\"", None),
            ("7", None),
        ] {
            let rest = format!(",\"messages\":{{\"smtp_message\":{message},\"other\":[1]}}");
            assert_eq!(
                answer("soft reject", 0.0, &rest).unwrap().opinion.text.as_deref(),
                expected,
                "{message}"
            );
        }
        let long = format!(",\"messages\":{{\"smtp_message\":\"{}\"}}", "x".repeat(1000));
        assert_eq!(answer("reject", 0.0, &long).unwrap().opinion.text.unwrap().len(), 200);
    }

    #[test]
    fn what_is_no_answer() {
        for (status, body, expected) in [
            (401, "Unauthorized\r\n", "rspamd: 401 Unauthorized??"),
            (413, "", "rspamd: 413 "),
            (200, "", "no answer of rspamd: EOF while parsing a value at line 1 column 0; allowed: *"),
            (200, "{\"error\":\"x\"}", "no answer of rspamd: missing field `action` *"),
            (200, "{\"action\":\"no action\"}", "no answer of rspamd: missing field `score` *"),
            (200, "{\"action\":\"no action\",\"score\":null}", "no answer of rspamd: invalid type: null*"),
            (200, "{\"action\":7,\"score\":1}", "no answer of rspamd: invalid type: integer `7`*"),
            (200, "{\"action\":\"no action\",\"score\":1}x", "no answer of rspamd: trailing characters*"),
        ] {
            let error = parse(status, body.as_bytes()).unwrap_err().to_string();
            let beginning = expected.split('*').next().unwrap();
            assert!(error.starts_with(beginning), "{error}");
        }
        assert!(matches!(parse(413, b"x"), Err(Error::TooLarge(_))));
        let deep =
            format!("{{\"action\":\"no action\",\"score\":1,\"symbols\":{}", "{\"a\":".repeat(100_000));
        assert!(matches!(parse(200, deep.as_bytes()), Err(Error::Unknown(_))));
    }

    #[test]
    fn fields_of_the_header() {
        let header = |action, rest: &str| {
            String::from_utf8(answer(action, 7.0, &format!(",\"required_score\":15{rest}")).unwrap().header())
                .unwrap()
        };
        assert_eq!(header("no action", ""), "X-Spam-Status: No, score=7.00 required=15.00\n");
        assert_eq!(
            header("add header", ",\"symbols\":{\"B\":{\"score\":1},\"A,\\r\\nX-Evil: \":{}}"),
            "X-Spam: Yes\nX-Spam-Flag: YES\nX-Spam-Status: Yes, score=7.00 required=15.00\n\ttests=A???X-Evil:?,B\n"
        );
        let many: Vec<_> = (0..2000).map(|n| format!("\"RULE_{n:04}\":{{}}")).collect();
        let header = header("no action", &format!(",\"symbols\":{{{}}}", many.join(",")));
        assert!(header.len() < 5000 && header.lines().all(|line| line.len() <= MAX_LINE), "{header}");
        assert_eq!(header.matches("RULE_").count(), 409);
    }

    #[test]
    fn fields_of_the_request() {
        let recipients =
            [b"b@x.example".to_vec(), b"odd \"x@x.example".to_vec(), b"a\r\nX: y@x.example".to_vec()];
        let envelope = Envelope {
            sender: b"",
            recipients: &recipients,
            deliver_to: Some("joe"),
            ip: Some("2001:db8::1".parse().unwrap()),
            helo: Some(b"a\r\nPassword: x\xff"),
            host: None,
            user: Some(b"joe@a.example"),
            qp: 7,
        };
        let shown = |envelope: Envelope<'_>| -> Vec<_> {
            let fields = envelope.fields().into_iter();
            fields.map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(&value))).collect()
        };
        assert_eq!(
            shown(envelope),
            [
                "From: <>",
                "Rcpt: <b@x.example>",
                "Rcpt: <\"odd \\\"x\"@x.example>",
                "Rcpt: <a??X: y@x.example>",
                "Deliver-To: joe",
                "IP: 2001:db8::1",
                "Helo: a??Password: x\u{fffd}",
                "User: joe@a.example",
                "Queue-Id: 7",
            ]
        );
        let bytes = |recipients: &[Vec<u8>]| -> usize {
            shown(Envelope { recipients, ..envelope }).iter().map(|line| line.len() + 2).sum()
        };
        let long = vec![[&[b'a'; 900][..], b"@x.example"].concat(); 2000];
        assert!(bytes(&long) < 66 * 1024);
        let short = vec![b"a@x.example".to_vec(); 2000];
        assert_eq!(shown(Envelope { recipients: &short, ..envelope }).len(), 1024 + 6);
        assert!(bytes(&[vec![b'a'; 10_000]]) < 2000);
    }
}
