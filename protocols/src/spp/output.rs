//! What a plugin says on its standard output: a command a line, its letter first (qmail-spp.sourceforge.net/doc).

#[cfg(test)]
mod tests;

use super::Section;
use crate::address;
use crate::reply::Refusal;

/// Bytes that a plugin may say; one that goes on is ended.
pub const MAX_OUTPUT: usize = 16 * 1024;

/// Longest line of a header field in bytes (RFC 5322 2.1.1).
const MAX_LINE: usize = 998;

/// Longest name and longest value of a variable in bytes, as in `host.ron`.
const MAX_NAME: usize = 64;
const MAX_VALUE: usize = 4096;

/// What a plugin wants beside its verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// `H`: a header field, perhaps folded, without the newline at its end.
    Header(Vec<u8>),
    /// `C`: the address that was said is this one instead.
    Address(Vec<u8>),
    /// `S`: a variable is set.
    Set(Vec<u8>, Vec<u8>),
    /// `U`: a variable is not set.
    Unset(Vec<u8>),
    /// `P`: a line for the client.
    Print(Vec<u8>),
    /// `LM`, `LR`, `LD`: the answer to every MAIL, RCPT or DATA from now on.
    Later(Section, Refusal),
}

/// What becomes of the command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing was said: the next plugin is asked.
    None,
    /// `A`: no plugin is asked any more in this session.
    Accept,
    /// `N`: no other plugin is asked about this command.
    Next,
    /// `O`: as `N`, and the host does not look at the address either.
    Unchecked,
    /// `E`: the command is answered so.
    Error(Refusal),
    /// `R`: as `E`, and the connection is closed.
    Reject(Refusal),
    /// `D`: the connection is closed without a word.
    Drop,
}

/// All that a plugin has said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// In their order.
    pub actions: Vec<Action>,
    /// The last word: what comes after it is not read.
    pub verdict: Verdict,
}

/// A line that is no command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: `{text}` is not allowed; allowed: {allowed}")]
pub struct Malformed {
    /// From 1.
    pub line: usize,
    /// Its beginning.
    pub text: String,
    /// What may stand there.
    pub allowed: &'static str,
}

const LETTERS: &str =
    "A, N, O, D, Ereply, Rreply, LMreply, LRreply, LDreply, SNAME=value, UNAME, Hfield, Caddress, Ptext";
const REPLY: &str = "400 to 599, a space and a text";
const NAME: &str = "the name of a variable, 1 to 64 of A-Z a-z 0-9 _, and up to 4096 bytes without NUL";
const FIELD: &str = "a name, a colon and text of up to 998 bytes, or a space and more of the field before";
const ADDRESS: &str = "in [mail] and [rcpt] an ASCII address, without angle brackets";

/// Reads what a plugin of a section has said.
///
/// # Errors
/// The first line that is no command; nothing of what stands before it counts.
pub fn parse(text: &[u8], section: Section) -> Result<Output, Malformed> {
    let mut output = Output { actions: Vec::new(), verdict: Verdict::None };
    for (line, number) in text.split(|&b| b == b'\n').zip(1..) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            continue;
        }
        command(line, section, &mut output).map_err(|allowed| Malformed {
            line: number,
            text: line[..line.len().min(100)].escape_ascii().to_string(),
            allowed,
        })?;
        if output.verdict != Verdict::None {
            break;
        }
    }
    Ok(output)
}

/// One line; an error says what is allowed.
fn command(line: &[u8], section: Section, output: &mut Output) -> Result<(), &'static str> {
    let rest = &line[1..];
    let action = match line[0] {
        // Whoever writes more behind these has something else in mind.
        b'A' | b'N' | b'O' | b'D' if !rest.is_empty() => return Err(LETTERS),
        b'A' => return verdict(output, Verdict::Accept),
        b'N' => return verdict(output, Verdict::Next),
        b'O' => return verdict(output, Verdict::Unchecked),
        b'D' => return verdict(output, Verdict::Drop),
        b'E' => return verdict(output, Verdict::Error(reply(rest)?)),
        b'R' => return verdict(output, Verdict::Reject(reply(rest)?)),
        b'L' => match rest.split_first() {
            Some((b'M', text)) => Action::Later(Section::Mail, reply(text)?),
            Some((b'R', text)) => Action::Later(Section::Rcpt, reply(text)?),
            Some((b'D', text)) => Action::Later(Section::Data, reply(text)?),
            _ => return Err(LETTERS),
        },
        b'S' => set(rest).ok_or(NAME)?,
        b'U' if is_name(rest) => Action::Unset(rest.to_vec()),
        b'U' => return Err(NAME),
        b'H' => return header(rest, output),
        b'C' => Action::Address(changed(rest, section).ok_or(ADDRESS)?),
        b'P' => Action::Print(rest.to_vec()),
        _ => return Err(LETTERS),
    };
    output.actions.push(action);
    Ok(())
}

fn verdict(output: &mut Output, verdict: Verdict) -> Result<(), &'static str> {
    output.verdict = verdict;
    Ok(())
}

/// A refusal in a plugin's words. The enhanced code (RFC 3463) is taken from where it stands, in front or behind in
/// parentheses as qmail has it; without one it is X.7.1. What is no visible ASCII becomes `?` when it is sent.
fn reply(line: &[u8]) -> Result<Refusal, &'static str> {
    let (code, text) = line.split_at_checked(3).ok_or(REPLY)?;
    if !matches!(code[0], b'4' | b'5') || !code.iter().all(u8::is_ascii_digit) {
        return Err(REPLY);
    }
    let text = match text {
        [] => text,
        [b' ', text @ ..] => text,
        // A dash would begin a reply of several lines, and nobody would end it.
        _ => return Err(REPLY),
    };
    let code = code.iter().fold(0, |code, digit| code * 10 + u16::from(digit - b'0'));
    let text = String::from_utf8_lossy(text.trim_ascii()).into_owned();
    if let Some((first, rest)) = text.split_once(' ')
        && let Some(status) = enhanced(first, code)
    {
        return Ok(Refusal::quoted(code, status, rest.to_owned(), true));
    }
    let behind = text.strip_suffix(')').and_then(|text| text.rsplit_once("(#")).map(|(_, status)| status);
    let status = behind.and_then(|status| enhanced(status, code)).unwrap_or((7, 1));
    Ok(Refusal::quoted(code, status, text, false))
}

/// Subject and detail of an enhanced code of the class of `code`.
fn enhanced(text: &str, code: u16) -> Option<(u16, u16)> {
    let mut numbers = text.split('.').map(|part| {
        Some(part).filter(|part| part.len() <= 3 && part.bytes().all(|b| b.is_ascii_digit()))?.parse().ok()
    });
    let [class, subject, detail]: [u16; 3] = [numbers.next()??, numbers.next()??, numbers.next()??];
    (numbers.next().is_none() && class == code / 100).then_some((subject, detail))
}

fn is_name(name: &[u8]) -> bool {
    (1..=MAX_NAME).contains(&name.len())
        && name.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'_')
        && !name[0].is_ascii_digit()
}

fn set(text: &[u8]) -> Option<Action> {
    let equals = memchr::memchr(b'=', text)?;
    let (name, value) = (&text[..equals], &text[equals + 1..]);
    let fits = is_name(name) && value.len() <= MAX_VALUE && !value.contains(&0);
    fits.then(|| Action::Set(name.to_vec(), value.to_vec()))
}

fn header(line: &[u8], output: &mut Output) -> Result<(), &'static str> {
    if line.len() > MAX_LINE || line.iter().any(|b| b.is_ascii_control() && *b != b'\t') {
        return Err(FIELD);
    }
    if line.starts_with(b" ") || line.starts_with(b"\t") {
        let Some(Action::Header(field)) = output.actions.last_mut() else { return Err(FIELD) };
        // A line of nothing but space would look like the end of the header.
        if line.trim_ascii().is_empty() {
            return Err(FIELD);
        }
        field.push(b'\n');
        field.extend_from_slice(line);
        return Ok(());
    }
    let colon = memchr::memchr(b':', line).ok_or(FIELD)?;
    // RFC 5322 2.2.
    if colon == 0 || !line[..colon].iter().all(u8::is_ascii_graphic) {
        return Err(FIELD);
    }
    output.actions.push(Action::Header(line.to_vec()));
    Ok(())
}

/// An address that could have been said by a client; nothing but a sender may be empty.
fn changed(text: &[u8], section: Section) -> Option<Vec<u8>> {
    let fits = section.has_address() && text.is_ascii() && !text.iter().any(u8::is_ascii_control);
    if !fits || text.is_empty() && section == Section::Rcpt || text.starts_with(b"<") {
        return None;
    }
    let bracketed = [b"<", text, b">"].concat();
    let (path, after) = address::parse_path(&bracketed).ok()?;
    after.is_empty().then_some(path)
}
