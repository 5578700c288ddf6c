//! One command line (RFC 5321 4.1.1), without its CRLF.

use crate::address::{self, PathError};
use crate::reply::Refusal;

/// A command whose syntax is right; whether it is in sequence is the session's matter.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Command<'a> {
    Helo(&'a [u8]),
    Ehlo(&'a [u8]),
    Starttls,
    /// RFC 4954: the mechanism, and the initial response if there is one.
    Auth {
        mechanism: &'a [u8],
        initial: Option<&'a [u8]>,
    },
    Mail(Mail),
    Rcpt(Vec<u8>),
    Data,
    /// Not offered (RFC 3030); what follows it is a message, and never to be read as commands.
    Bdat,
    Rset,
    Noop,
    Vrfy,
    Help,
    Quit,
}

/// The reverse-path and the parameters of the extensions we offer.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Mail {
    pub(super) reverse_path: Vec<u8>,
    /// SIZE in bytes (RFC 1870).
    pub(super) size: Option<u64>,
    /// SMTPUTF8 (RFC 6531).
    pub(super) smtputf8: bool,
}

pub(super) fn parse(line: &[u8]) -> Result<Command<'_>, Refusal> {
    let end = memchr::memchr(b' ', line).unwrap_or(line.len());
    let (verb, argument) = (&line[..end], line[end..].trim_ascii());
    let command = match verb.to_ascii_uppercase().as_slice() {
        b"MAIL" => return mail(argument).map(Command::Mail),
        b"RCPT" => return rcpt(argument).map(Command::Rcpt),
        b"HELO" => Command::Helo(argument),
        b"EHLO" => Command::Ehlo(argument),
        b"STARTTLS" if argument.is_empty() => Command::Starttls,
        b"STARTTLS" => return Err(Refusal::starttls_parameters()),
        b"AUTH" => auth(argument),
        b"DATA" => Command::Data,
        b"BDAT" => Command::Bdat,
        b"RSET" => Command::Rset,
        b"NOOP" => Command::Noop,
        b"VRFY" => Command::Vrfy,
        b"HELP" => Command::Help,
        b"QUIT" => Command::Quit,
        _ if line.iter().any(u8::is_ascii_control) => return Err(Refusal::unrecognised()),
        _ => return Err(Refusal::unimplemented()),
    };
    if line.iter().any(u8::is_ascii_control) { Err(Refusal::control_character()) } else { Ok(command) }
}

fn auth(argument: &[u8]) -> Command<'_> {
    let end = memchr::memchr(b' ', argument).unwrap_or(argument.len());
    let (mechanism, rest) = argument.split_at(end);
    let initial = rest.trim_ascii();
    Command::Auth { mechanism, initial: (!initial.is_empty()).then_some(initial) }
}

fn mail(argument: &[u8]) -> Result<Mail, Refusal> {
    let (reverse_path, parameters) = path(argument, b"FROM")?;
    let mut mail = Mail { reverse_path, ..Mail::default() };
    for parameter in parameters {
        let (keyword, value) = match memchr::memchr(b'=', parameter) {
            Some(at) => (&parameter[..at], Some(&parameter[at + 1..])),
            None => (parameter, None),
        };
        match (keyword.to_ascii_uppercase().as_slice(), value) {
            (b"SIZE", Some(value)) => mail.size = Some(size(value)?),
            (b"SMTPUTF8", None) => mail.smtputf8 = true,
            (b"BODY", Some(v)) if v.eq_ignore_ascii_case(b"7BIT") || v.eq_ignore_ascii_case(b"8BITMIME") => {}
            // RFC 4954 5: who submitted it elsewhere; we trust nobody to know.
            (b"AUTH", Some(_)) => {}
            _ => return Err(Refusal::syntax()),
        }
    }
    allowed(&mail.reverse_path, mail.smtputf8)?;
    Ok(mail)
}

/// RFC 6531 3.5: beyond ASCII only with SMTPUTF8, and then UTF-8.
pub(super) fn allowed(path: &[u8], smtputf8: bool) -> Result<(), Refusal> {
    if path.is_ascii() || smtputf8 && std::str::from_utf8(path).is_ok() {
        Ok(())
    } else {
        Err(Refusal::address_not_ascii())
    }
}

fn rcpt(argument: &[u8]) -> Result<Vec<u8>, Refusal> {
    let (forward_path, mut parameters) = path(argument, b"TO")?;
    if forward_path.is_empty() || parameters.next().is_some() {
        Err(Refusal::syntax())
    } else {
        Ok(forward_path)
    }
}

/// `FROM:<path> parameters` or `TO:<path> parameters`, with spaces around the colon forgiven as qmail does.
fn path<'a>(argument: &'a [u8], word: &[u8]) -> Result<(Vec<u8>, impl Iterator<Item = &'a [u8]>), Refusal> {
    let (head, rest) = argument.split_at_checked(word.len()).ok_or_else(Refusal::syntax)?;
    let text = rest.trim_ascii_start().strip_prefix(b":").ok_or_else(Refusal::syntax)?.trim_ascii_start();
    if !head.eq_ignore_ascii_case(word) || argument.iter().any(u8::is_ascii_control) {
        return Err(Refusal::syntax());
    }
    let (path, after) = address::parse_path(text).map_err(|PathError| Refusal::syntax())?;
    if !after.is_empty() && !after.starts_with(b" ") {
        return Err(Refusal::syntax());
    }
    Ok((path, after.split(|&b| b == b' ').filter(|p| !p.is_empty())))
}

/// RFC 1870 5: up to twenty digits; what no u64 holds is larger than any limit.
fn size(value: &[u8]) -> Result<u64, Refusal> {
    if value.is_empty() || value.len() > 20 || !value.iter().all(u8::is_ascii_digit) {
        return Err(Refusal::syntax());
    }
    let digits = value.iter().map(|&b| u64::from(b - b'0'));
    Ok(digits.fold(0u64, |n, digit| n.saturating_mul(10).saturating_add(digit)))
}
