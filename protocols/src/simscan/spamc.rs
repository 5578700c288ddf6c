//! The SPAMC protocol, 1.5 (spamd/PROTOCOL of SpamAssassin): a request `HEADERS` and its answer.

use super::hits::Hits;
use super::opinion::Score;
use super::printable;

/// Largest message that is shown to SpamAssassin, in bytes (simscan.c: MAX_SA_SIZE).
pub const MAX_SIZE: u64 = 249_999;

/// Longest head of an answer that is read, in bytes.
pub const MAX_HEAD: usize = 8192;

/// Bytes of SpamAssassin's header fields that are passed on.
const MAX_FIELDS: usize = 16 * 1024;

/// The head of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// It is spam.
    pub spam: bool,
    /// Its points.
    pub score: Score,
    /// Bytes that follow; `None`: up to the end of the connection.
    pub length: Option<usize>,
}

/// An answer that tells nothing about the message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// spamd says that it failed.
    #[error("spamd: {0}")]
    Failed(String),
    /// Not an answer of spamd.
    #[error("`{text}` is no answer of spamd; allowed: {allowed}")]
    Unknown {
        /// What came.
        text: String,
        /// What is allowed in its place.
        allowed: &'static str,
    },
}

/// The head of a request, its empty line included; `length` bytes of message follow. It asks for the header that
/// SpamAssassin would give the message.
#[must_use]
pub fn request(length: u64, user: Option<&str>) -> String {
    let user = user.filter(|user| user.bytes().all(|b| b.is_ascii_graphic()));
    let user = user.map(|user| format!("User: {user}\r\n")).unwrap_or_default();
    format!("HEADERS SPAMC/1.5\r\nContent-length: {length}\r\n{user}\r\n")
}

/// Bytes of the head at the beginning of an answer, its empty line included; `None` as long as it is not whole.
#[must_use]
pub fn head_end(answer: &[u8]) -> Option<usize> {
    memchr::memmem::find(answer, b"\r\n\r\n").map(|at| at + 4)
}

impl Head {
    /// Reads the head of an answer.
    ///
    /// # Errors
    /// When spamd failed, or there is no score in it.
    pub fn parse(head: &[u8]) -> Result<Self, Error> {
        let shown: String = String::from_utf8_lossy(&head[..head.len().min(MAX_HEAD)]).into_owned();
        let mut lines = shown.split("\r\n");
        let status = lines.next().unwrap_or_default();
        let unknown = |text: &str, allowed| Error::Unknown { text: printable(text.as_bytes()), allowed };
        let mut words = status.split(' ');
        let (version, code) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        if !version.starts_with("SPAMD/") || code.is_empty() || !code.bytes().all(|b| b.is_ascii_digit()) {
            return Err(unknown(status, "SPAMD/VERSION CODE TEXT"));
        }
        if code.bytes().any(|b| b != b'0') {
            return Err(Error::Failed(printable(status.as_bytes())));
        }
        let (mut found, mut length) = (None, None);
        for line in lines {
            let Some((name, value)) = line.split_once(':') else { continue };
            if name.eq_ignore_ascii_case("Spam") {
                let allowed = "Spam: True|False|Yes|No ; HITS / REQUIRED";
                found = Some(self::found(value).ok_or_else(|| unknown(line, allowed))?);
            } else if name.eq_ignore_ascii_case("Content-length") {
                length = Some(value.trim().parse().map_err(|_| unknown(line, "Content-length: NUMBER"))?);
            }
        }
        let (spam, score) = found.ok_or_else(|| unknown(status, "a line Spam: in the head"))?;
        Ok(Self { spam, score, length })
    }
}

/// `True ; 15.0 / 5.0`
fn found(value: &str) -> Option<(bool, Score)> {
    let (word, numbers) = value.split_once(';')?;
    let (hits, required) = numbers.split_once('/')?;
    let word = word.trim().to_ascii_lowercase();
    let spam = match word.as_str() {
        "true" | "yes" => true,
        "false" | "no" => false,
        _ => return None,
    };
    Some((spam, Score { hits: Hits::parse(hits.trim())?, required: Hits::parse(required.trim())? }))
}

/// The fields `X-Spam-…` of a header, with LF line ends: what SpamAssassin has added. At most 16 KiB, whole fields.
#[must_use]
pub fn fields(header: &[u8]) -> Vec<u8> {
    let mut fields = Vec::new();
    let (mut field, mut inside) = (Vec::new(), false);
    for line in header.split(|&b| b == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line)) {
        if !line.starts_with(b" ") && !line.starts_with(b"\t") {
            if fields.len() + field.len() <= MAX_FIELDS {
                fields.append(&mut field);
            }
            field.clear();
            inside = line.len() > 7 && line[..7].eq_ignore_ascii_case(b"x-spam-") && line.contains(&b':');
        }
        if line.is_empty() {
            break;
        }
        if inside && field.len() <= MAX_FIELDS {
            field.extend(line.iter().map(|&b| if b == 0 || b == b'\r' { b'?' } else { b }));
            field.push(b'\n');
        }
    }
    if fields.len() + field.len() <= MAX_FIELDS {
        fields.append(&mut field);
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests() {
        assert_eq!(request(7, None), "HEADERS SPAMC/1.5\r\nContent-length: 7\r\n\r\n");
        assert_eq!(
            request(0, Some("joe@a.example")),
            "HEADERS SPAMC/1.5\r\nContent-length: 0\r\nUser: joe@a.example\r\n\r\n"
        );
        assert_eq!(request(7, Some("joe\r\nCompress: zlib")), request(7, None));
    }

    #[test]
    fn heads() {
        let shown = |head: &str| match Head::parse(head.as_bytes()) {
            Ok(Head { spam, score, length }) => {
                format!("{spam} {} {} {length:?}", score.hits, score.required)
            }
            Err(Error::Failed(text)) => format!("failed: {text}"),
            Err(Error::Unknown { text, .. }) => format!("unknown: {text}"),
        };
        for (head, expected) in [
            (
                "SPAMD/1.1 0 EX_OK\r\nContent-length: 12\r\nSpam: True ; 15.0 / 5.0\r\n\r\n",
                "true 15.00 5.00 Some(12)",
            ),
            ("SPAMD/1.5 0 EX_OK\r\nspam: No ; -1.2 / 5\r\n\r\n", "false -1.20 5.00 None"),
            ("SPAMD/1.0 76 Bad header line\r\n\r\n", "failed: SPAMD/1.0 76 Bad header line"),
            ("SPAMD/1.1 0 EX_OK\r\n\r\n", "unknown: SPAMD/1.1 0 EX_OK"),
            ("SPAMD/1.1 0 EX_OK\r\nSpam: Maybe ; 1 / 5\r\n\r\n", "unknown: Spam: Maybe ; 1 / 5"),
            ("SPAMD/1.1 0 EX_OK\r\nSpam: True ; nan / 5\r\n\r\n", "unknown: Spam: True ; nan / 5"),
            (
                "SPAMD/1.1 0 EX_OK\r\nContent-length: -1\r\nSpam: True ; 1 / 5\r\n\r\n",
                "unknown: Content-length: -1",
            ),
            ("SPAMD/1.1 -1 x\r\n\r\n", "unknown: SPAMD/1.1 -1 x"),
            ("HTTP/1.1 400 Bad\u{7} Request\r\n\r\n", "unknown: HTTP/1.1 400 Bad? Request"),
            ("", "unknown: "),
        ] {
            assert_eq!(shown(head), expected, "{head:?}");
        }
        assert_eq!(head_end(b"SPAMD/1.1 0 EX_OK\r\n\r"), None);
        assert_eq!(head_end(b"SPAMD/1.1 0 EX_OK\r\n\r\nX"), Some(21));
    }

    #[test]
    fn only_spamassassins_fields_are_passed_on() {
        let header =
            b"Received: x\r\nX-Spam-Flag: YES\r\nX-Spam-Status: Yes,\r\n\tscore=15\r\n y\rz\r\nX-Spam-\r\n\
            Subject: x\r\n X-Spam-Not: 1\r\nx-spam-level: *\r\n\r\nX-Spam-Body: 1\r\n";
        assert_eq!(
            String::from_utf8_lossy(&fields(header)),
            "X-Spam-Flag: YES\nX-Spam-Status: Yes,\n\tscore=15\n y?z\nx-spam-level: *\n"
        );
        let long = [b"X-Spam-A: ".as_slice(), &[b'a'; MAX_FIELDS], b"\nX-Spam-B: b\n"].concat();
        assert_eq!(fields(&long), b"X-Spam-B: b\n");
    }
}
