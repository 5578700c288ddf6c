//! mbox files as qmail writes them (mbox(5)): `From SENDER DATE`, the message with `>` before every line that could be taken for
//! such a one, a blank line.

mod quoting;

use jiff::Timestamp;
use jiff::civil::{Date, Time};
use jiff::tz::TimeZone;

pub use quoting::Quoting;

/// Whether a line, or the beginning of one, gets a `>` in front: `From ` behind any number of `>`.
fn is_quoted(line: &[u8]) -> bool {
    let arrows = line.iter().take_while(|byte| **byte == b'>').count();
    line[arrows..].starts_with(b"From ")
}

/// A line of an mbox file as it stood in the message: without one `>` if it got one.
#[must_use]
pub fn unquoted(line: &[u8]) -> &[u8] {
    line.strip_prefix(b">").filter(|rest| is_quoted(rest)).unwrap_or(line)
}

/// The line before a message that came at this time, with its newline. Its first line tells the sender if that is a Return-Path, as
/// qmail-local writes it; `XXX` if not, as with maildir2mbox.
#[must_use]
pub fn from_line(first: &[u8], came: Timestamp) -> Vec<u8> {
    let path =
        first.trim_ascii_end().strip_prefix(b"Return-Path: <").and_then(|path| path.strip_suffix(b">"));
    path.map_or_else(|| line_of(b"XXX", came), |path| from_line_of(path, came))
}

/// The same for a message of this sender; an empty one is MAILER-DAEMON.
#[must_use]
pub fn from_line_of(sender: &[u8], came: Timestamp) -> Vec<u8> {
    match sender {
        b"" => line_of(b"MAILER-DAEMON", came),
        sender => {
            let blank = |byte: &u8| if b" \t\n".contains(byte) { b'-' } else { *byte };
            line_of(&sender.iter().map(blank).collect::<Vec<u8>>(), came)
        }
    }
}

fn line_of(sender: &[u8], came: Timestamp) -> Vec<u8> {
    [b"From ", sender, b" ", date(came).as_bytes(), b"\n"].concat()
}

/// `Sat Nov 28 14:05:21 2026`, in UTC as qmail writes it.
fn date(time: Timestamp) -> String {
    time.to_zoned(TimeZone::UTC).strftime("%a %b %d %H:%M:%S %Y").to_string()
}

/// What the line before a message says.
#[derive(Debug, PartialEq, Eq)]
pub struct From<'a> {
    /// Who sent it: empty if that was MAILER-DAEMON; none if it is not known.
    pub sender: Option<&'a [u8]>,
    /// When it came, its time taken for UTC; none if there is none that can be read.
    pub came: Option<Timestamp>,
}

/// Reads the line before a message; none if it is no such line.
#[must_use]
pub fn parse_from_line(line: &[u8]) -> Option<From<'_>> {
    let rest = line.strip_prefix(b"From ")?;
    let end = rest.iter().position(u8::is_ascii_whitespace).unwrap_or(rest.len());
    let sender = match &rest[..end] {
        b"" | b"XXX" | b"-" => None,
        b"MAILER-DAEMON" => Some(&b""[..]),
        sender => Some(sender),
    };
    let came = std::str::from_utf8(&rest[end..]).ok().and_then(parse_date);
    Some(From { sender, came })
}

/// `Sat Nov 28 14:05:21 2026`, with or without a day of the week and the name of a zone.
fn parse_date(text: &str) -> Option<Timestamp> {
    const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
    let mut words = text.split_ascii_whitespace();
    let month = words.by_ref().take(2).find_map(|word| {
        let at = (word.len() == 3).then(|| MONTHS.find(word)).flatten()?;
        (at % 3 == 0).then_some(at / 3 + 1)
    })?;
    let month = i8::try_from(month).ok()?;
    let day: i8 = words.next()?.parse().ok()?;
    let mut clock = words.next()?.splitn(3, ':').map(|part| part.parse::<i8>().ok());
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next().unwrap_or(Some(0))?);
    let year: i16 =
        words.take(3).find_map(|word| word.parse().ok().filter(|year| (1970..=9999).contains(year)))?;
    // A leap second is the one before it.
    let time = Time::new(hour, minute, second.min(59), 0).ok()?;
    let date = Date::new(year, month, day).ok()?;
    Some(date.to_datetime(time).to_zoned(TimeZone::UTC).ok()?.timestamp())
}

/// The flags in a Maildir's file name for what mail readers note in the fields `Status` and `X-Status`; none: the message is new.
/// `fields` are those fields, names and all.
#[must_use]
pub fn maildir_flags(fields: &[u8]) -> Option<String> {
    let mut noted = false;
    let mut flags = [(b'F', false), (b'R', false), (b'S', false), (b'T', false)];
    let mut set = |flag: u8| flags.iter_mut().filter(|(own, _)| *own == flag).for_each(|own| own.1 = true);
    for field in fields.split(|byte| *byte == b'\n') {
        let colon = field.iter().position(|byte| *byte == b':').unwrap_or(field.len());
        let (name, value) = field.split_at(colon);
        let is_x = name.eq_ignore_ascii_case(b"X-Status");
        if !is_x && !name.eq_ignore_ascii_case(b"Status") {
            continue;
        }
        for letter in value {
            match (is_x, letter) {
                (false, b'R') => set(b'S'),
                (false, b'O') => noted = true,
                (true, b'A') => set(b'R'),
                (true, b'F') => set(b'F'),
                (true, b'D') => set(b'T'),
                _ => (),
            }
        }
    }
    let found: String = flags.iter().filter(|(_, set)| *set).map(|(flag, _)| char::from(*flag)).collect();
    (noted || !found.is_empty()).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: i64 = 1_795_874_721;

    fn time() -> Timestamp {
        Timestamp::from_second(TIME).unwrap()
    }

    #[test]
    fn lines_are_quoted_and_back() {
        for (line, quoted) in [
            ("From x", true),
            (">From ", true),
            (">>>From x", true),
            ("From:", false),
            ("from x", false),
            (">> From x", false),
            ("", false),
        ] {
            assert_eq!(is_quoted(line.as_bytes()), quoted, "{line}");
            let written = if quoted { format!(">{line}") } else { line.to_owned() };
            assert_eq!(unquoted(written.as_bytes()), line.as_bytes(), "{line}");
        }
        assert_eq!(unquoted(b">quoted"), b">quoted");
    }

    #[test]
    fn the_line_before_a_message() {
        for (first, expected) in [
            ("Return-Path: <a@x>\n", "From a@x Sat Nov 28 14:05:21 2026\n"),
            ("Return-Path: <>\n", "From MAILER-DAEMON Sat Nov 28 14:05:21 2026\n"),
            ("Return-Path: <\"a b\"@x>\n", "From \"a-b\"@x Sat Nov 28 14:05:21 2026\n"),
            ("Subject: x\n", "From XXX Sat Nov 28 14:05:21 2026\n"),
            ("", "From XXX Sat Nov 28 14:05:21 2026\n"),
        ] {
            let line = from_line(first.as_bytes(), time());
            assert_eq!(String::from_utf8(line).unwrap(), expected, "{first}");
        }
        assert_eq!(date(Timestamp::from_second(0).unwrap()), "Thu Jan 01 00:00:00 1970");
    }

    #[test]
    fn what_that_line_says() {
        let said = |sender, came: Option<Timestamp>| Some(From { sender, came });
        for (line, expected) in [
            ("From a@x Sat Nov 28 14:05:21 2026\n", said(Some(&b"a@x"[..]), Some(time()))),
            ("From a@x  Sat Nov 28 14:05:21 UTC 2026", said(Some(b"a@x"), Some(time()))),
            ("From a@x Sat Nov 28 14:05:21 2026 +0100", said(Some(b"a@x"), Some(time()))),
            ("From MAILER-DAEMON Nov 28 14:05:21 2026", said(Some(b""), Some(time()))),
            ("From XXX Sat Nov 28 25:05:21 2026", said(None, None)),
            ("From a@x Sat Feb 30 14:05:21 2026", said(Some(b"a@x"), None)),
            ("From a@x anFeb", said(Some(b"a@x"), None)),
            ("From a@x", said(Some(b"a@x"), None)),
            ("From ", said(None, None)),
            ("From: a@x", None),
            (">From a@x", None),
        ] {
            assert_eq!(parse_from_line(line.as_bytes()), expected, "{line}");
        }
    }

    #[test]
    fn what_readers_have_noted() {
        for (fields, flags) in [
            ("Subject: R\n", None),
            ("Status: \n", None),
            ("Status: O\n", Some("")),
            ("status: RO\nX-Status: A\n", Some("RS")),
            ("X-Status: FD\nStatus: R\n", Some("FST")),
        ] {
            assert_eq!(maildir_flags(fields.as_bytes()).as_deref(), flags, "{fields}");
        }
    }
}
