//! What stays of the words of plugins: header fields and later answers for as long as what they were said about,
//! variables until the session ends. All of it is bounded.

use super::Section;
use super::output::{Action, Output, Verdict};
use crate::reply::{self, Refusal};
use crate::tcprules::Variables;

/// Bytes of header fields that plugins may add to a message.
pub const MAX_HEADER: usize = 16 * 1024;

/// Variables that plugins may set in a session.
pub const MAX_VARIABLES: usize = 64;

/// Lines that plugins may put before one reply.
pub const MAX_PRINTED: usize = 10;

/// A limit that a plugin went over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Excess {
    /// [`MAX_HEADER`].
    #[error("more than {MAX_HEADER} bytes of header fields")]
    Header,
    /// [`MAX_VARIABLES`].
    #[error("more than {MAX_VARIABLES} variables set")]
    Variables,
    /// [`MAX_PRINTED`].
    #[error("more than {MAX_PRINTED} lines for the client")]
    Printed,
}

/// What plugins have said in a session so far.
#[derive(Debug, Clone, Default)]
pub struct Kept {
    /// `A` was said.
    accepted: bool,
    header: Vec<(Section, Vec<u8>)>,
    later: Vec<(Section, Section, Refusal)>,
    variables: Vec<Vec<u8>>,
    printed: Vec<Vec<u8>>,
}

impl Kept {
    /// A command begins: what was said about an earlier one of its kind is over. MAIL ends all that was said of the message
    /// before, so RSET and HELO need not. Whether plugins are to be asked, or the answer that one has given before.
    ///
    /// # Errors
    /// The answer.
    pub fn begin(&mut self, section: Section) -> Result<bool, Refusal> {
        let over = |own: Section| match section {
            Section::Mail => matches!(own, Section::Mail | Section::Rcpt | Section::Data),
            // A message has many recipients.
            Section::Rcpt => false,
            _ => own == section,
        };
        self.header.retain(|(own, _)| !over(*own));
        self.later.retain(|(own, ..)| !over(*own));
        self.printed.clear();
        match self.later.iter().find(|(_, at, _)| *at == section) {
            Some((.., refusal)) => Err(refusal.clone()),
            None => Ok(!self.accepted),
        }
    }

    /// Does what a plugin wants and gives its verdict; a new address takes the place of `address`.
    ///
    /// # Errors
    /// It wants too much. What it said before that has happened.
    pub fn apply(
        &mut self,
        section: Section,
        output: Output,
        variables: &mut Variables,
        address: &mut Vec<u8>,
    ) -> Result<Verdict, Excess> {
        for action in output.actions {
            match action {
                Action::Header(field) => {
                    let bytes: usize = self.header.iter().map(|(_, field)| field.len() + 1).sum();
                    if bytes + field.len() >= MAX_HEADER {
                        return Err(Excess::Header);
                    }
                    self.header.push((section, field));
                }
                Action::Address(new) => *address = new,
                Action::Set(name, value) => {
                    if !self.variables.contains(&name) {
                        if self.variables.len() == MAX_VARIABLES {
                            return Err(Excess::Variables);
                        }
                        self.variables.push(name.clone());
                    }
                    variables.set(name, value);
                }
                Action::Unset(name) => variables.unset(&name),
                Action::Print(line) => {
                    if self.printed.len() == MAX_PRINTED {
                        return Err(Excess::Printed);
                    }
                    self.printed.push(line);
                }
                // The first one is the answer; more of them would only be kept.
                Action::Later(at, refusal) => {
                    if self.later.iter().all(|(own, other, _)| (*own, *other) != (section, at)) {
                        self.later.push((section, at, refusal));
                    }
                }
            }
        }
        self.accepted |= output.verdict == Verdict::Accept;
        Ok(output.verdict)
    }

    /// The header fields for the message, each with its newline.
    pub fn header(&self) -> Vec<u8> {
        self.header.iter().flat_map(|(_, field)| [field.as_slice(), b"\n"].concat()).collect()
    }

    /// Puts the lines for the client before the reply that stands at the end of `out`, from `at` on, and makes one
    /// reply of all: whatever code a plugin has written, a client that counts replies stays in step.
    pub fn print(&mut self, at: usize, out: &mut Vec<u8>) {
        let lines = std::mem::take(&mut self.printed);
        let Some(code) = out.get(at..at + 3).map(<[u8]>::to_vec) else { return };
        let mut before = Vec::new();
        for line in lines {
            before.extend_from_slice(&code);
            before.push(b'-');
            reply::text(&mut before, without_code(&line));
        }
        out.splice(at..at, before);
    }
}

/// A plugin of qmail-spp writes whole replies.
fn without_code(line: &[u8]) -> &[u8] {
    match line {
        [a, b, c, b' ' | b'-', rest @ ..] if [a, b, c].iter().all(|digit| digit.is_ascii_digit()) => rest,
        _ => line,
    }
}

#[cfg(test)]
mod tests {
    use super::super::output::parse;
    use super::*;

    fn say(
        kept: &mut Kept,
        section: Section,
        text: &str,
        variables: &mut Variables,
    ) -> Result<Verdict, Excess> {
        let mut address = b"a@b.test".to_vec();
        kept.apply(section, parse(text.as_bytes(), section).unwrap(), variables, &mut address)
    }

    #[test]
    fn what_was_said_of_a_message_ends_with_it() {
        let (mut kept, mut variables) = (Kept::default(), Variables::default());
        for (section, text) in [
            (Section::Connection, "HA: 1\n"),
            (Section::Helo, "HB: 1\n"),
            (Section::Mail, "HC: 1\n"),
            (Section::Rcpt, "HD: 1\nLD451 later\n"),
            (Section::Rcpt, "HD: 2\nSX=1\n"),
        ] {
            assert_eq!(kept.begin(section), Ok(true));
            say(&mut kept, section, text, &mut variables).unwrap();
        }
        assert_eq!(kept.header(), b"A: 1\nB: 1\nC: 1\nD: 1\nD: 2\n");
        assert_eq!(kept.begin(Section::Data).map_err(|refusal| refusal.code()), Err(451));
        assert_eq!(kept.begin(Section::Mail), Ok(true));
        assert_eq!(kept.header(), b"A: 1\nB: 1\n");
        assert_eq!(kept.begin(Section::Data), Ok(true));
        say(&mut kept, Section::Rcpt, "HD: 1\n", &mut variables).unwrap();
        assert_eq!(kept.begin(Section::Helo), Ok(true));
        assert_eq!(kept.header(), b"A: 1\nD: 1\n", "HELO may be refused, and the message goes on");
        assert_eq!(variables.get("X"), Some(&b"1"[..]));
    }

    #[test]
    fn a_ends_all_plugins_and_later_answers_stay() {
        let (mut kept, mut variables) = (Kept::default(), Variables::default());
        say(&mut kept, Section::Connection, "LM550 not you\nA\n", &mut variables).unwrap();
        assert_eq!(kept.begin(Section::Helo), Ok(false));
        assert_eq!(kept.begin(Section::Mail).map_err(|refusal| refusal.code()), Err(550));
    }

    #[test]
    fn nothing_grows_without_end() {
        let (mut kept, mut variables) = (Kept::default(), Variables::default());
        let field = format!("HX: {}\n", "x".repeat(900));
        let last = (0..100).find_map(|_| say(&mut kept, Section::Rcpt, &field, &mut variables).err());
        assert_eq!((last, kept.header().len() <= MAX_HEADER), (Some(Excess::Header), true));
        let last =
            (0..100).find_map(|n| say(&mut kept, Section::Rcpt, &format!("SV{n}=\n"), &mut variables).err());
        assert_eq!((last, variables.iter().count()), (Some(Excess::Variables), MAX_VARIABLES));
        assert_eq!(say(&mut kept, Section::Rcpt, "SV1=again\nUV2\n", &mut variables), Ok(Verdict::None));
        assert_eq!(variables.iter().count(), MAX_VARIABLES - 1);
        assert_eq!(say(&mut kept, Section::Rcpt, &"Px\n".repeat(11), &mut variables), Err(Excess::Printed));
        for _ in 0..100 {
            say(&mut kept, Section::Rcpt, "LD451 x\n", &mut variables).unwrap();
        }
        assert_eq!(kept.later.len(), 1);
    }

    #[test]
    fn lines_for_the_client_are_part_of_the_reply() {
        let (mut kept, mut variables) = (Kept::default(), Variables::default());
        say(&mut kept, Section::Mail, "P250 hello\nPa\rb\n", &mut variables).unwrap();
        let mut out = b"250 ok\r\n550 no\r\n".to_vec();
        kept.print(8, &mut out);
        assert_eq!(out, b"250 ok\r\n550-hello\r\n550-a?b\r\n550 no\r\n");
        kept.print(8, &mut out);
        assert_eq!(out.len(), 36, "said once");
    }
}
