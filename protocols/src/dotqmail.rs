//! `.qmail` files: which one is asked, and what its lines say (qmail-local; vdelivermail for virtual domains).

/// Largest `.qmail` file, in bytes.
pub const MAX_SIZE: u64 = 256 * 1024;

/// Where a local address is delivered from: the first of these files that exists, relative to the home directory.
/// `dash` and `ext` come from users/assign; with an empty dash only `.qmail` is asked.
#[must_use]
pub fn candidates(dash: &[u8], ext: &[u8]) -> Vec<Candidate> {
    let mut found = Vec::new();
    let safe: Vec<u8> =
        ext.to_ascii_lowercase().into_iter().map(|b| if b == b'.' { b':' } else { b }).collect();
    let base = [b".qmail", dash].concat();
    let default = safe.ends_with(b"default").then(|| ext[safe.len() - b"default".len()..].to_vec());
    found.push(Candidate { file: [&base[..], &safe].concat(), default });
    if dash.is_empty() {
        return found;
    }
    for at in (0..safe.len()).rev().filter(|at| safe[*at] == b'-') {
        found.push(Candidate {
            file: [&base[..], &safe[..=at], b"default"].concat(),
            default: Some(ext[at + 1..].to_vec()),
        });
    }
    found.push(Candidate { file: [&base[..], b"default"].concat(), default: Some(ext.to_vec()) });
    // A slash in an address must not lead out of the home directory: qmail-local finds no such file either.
    found.retain(|candidate| !candidate.file.contains(&b'/') && !candidate.file.contains(&0));
    found
}

/// A `.qmail` file that may control an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its name in the home directory.
    pub file: Vec<u8>,
    /// The part of the address that `default` stands for ($DEFAULT).
    pub default: Option<Vec<u8>>,
}

/// One line of a `.qmail` file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Instruction {
    /// `./Maildir/` or `/abs/Maildir/`: the path as written.
    Maildir(Vec<u8>),
    /// `./mbox` or `/abs/mbox`.
    Mbox(Vec<u8>),
    /// `&user@host`, or an address as such.
    Forward(Vec<u8>),
    /// `| …/vdelivermail '' ACTION`: the virtual domain's users, then this for everybody else.
    Vdelivermail(UnknownUser),
    /// Any other `|command`.
    Program(Vec<u8>),
    /// `+list`: from here on there are addresses only.
    List,
}

/// Refuses files and programs where there may be addresses only: behind `+list`, or anywhere if the file is executable.
///
/// # Errors
/// [`Error::FileInList`] and [`Error::ProgramInList`].
pub fn check_list(instructions: &[Instruction], executable: bool) -> Result<(), Error> {
    let mut list = executable;
    for instruction in instructions {
        match instruction {
            Instruction::List => list = true,
            Instruction::Maildir(_) | Instruction::Mbox(_) if list => return Err(Error::FileInList),
            Instruction::Program(_) | Instruction::Vdelivermail(_) if list => {
                return Err(Error::ProgramInList);
            }
            _ => (),
        }
    }
    Ok(())
}

/// What vdelivermail does with mail to a user that the domain does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UnknownUser {
    /// `bounce-no-mailbox`.
    Bounce,
    /// `delete`: success, and nothing is kept.
    Delete,
    /// An address.
    Forward(Vec<u8>),
    /// A directory: a user's, or a Maildir.
    Directory(Vec<u8>),
}

/// A `.qmail` file that cannot be obeyed. Mail waits until it is mended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Its first line is blank: probably being edited.
    #[error("Uh-oh: first line of .qmail file is blank. (#4.2.1)")]
    FirstLineBlank,
    /// A file where there may be addresses only.
    #[error("Uh-oh: .qmail has file delivery but has x bit set. (#4.7.0)")]
    FileInList,
    /// A program where there may be addresses only.
    #[error("Uh-oh: .qmail has prog delivery but has x bit set. (#4.7.0)")]
    ProgramInList,
    /// `vdelivermail` without its two arguments.
    #[error("Uh-oh: .qmail file calls vdelivermail without '' and an action. (#4.3.5)")]
    Vdelivermail,
}

/// Reads a `.qmail` file. An empty one has no instructions: the default delivery is meant.
///
/// # Errors
/// [`Error`].
pub fn parse(text: &[u8]) -> Result<Vec<Instruction>, Error> {
    let mut instructions = Vec::new();
    for (number, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let line = line.trim_ascii_end();
        let Some(first) = line.first() else {
            if number == 0 && !text.is_empty() {
                return Err(Error::FirstLineBlank);
            }
            continue;
        };
        instructions.push(match first {
            b'+' if line == b"+list" => Instruction::List,
            b'#' | b'+' => continue,
            b'|' => program(line[1..].trim_ascii_start())?,
            b'.' | b'/' if line.ends_with(b"/") => Instruction::Maildir(line.to_vec()),
            b'.' | b'/' => Instruction::Mbox(line.to_vec()),
            b'&' => Instruction::Forward(line[1..].trim_ascii_start().to_vec()),
            _ => Instruction::Forward(line.to_vec()),
        });
    }
    Ok(instructions)
}

fn program(command: &[u8]) -> Result<Instruction, Error> {
    let mut words = command.split(|byte| matches!(byte, b' ' | b'\t')).filter(|word| !word.is_empty());
    let name = words.next().unwrap_or_default();
    if name.rsplit(|byte| *byte == b'/').next() != Some(b"vdelivermail") {
        return Ok(Instruction::Program(command.to_vec()));
    }
    // The shell reads both as an empty word.
    let (Some(b"''" | b"\"\""), Some(action), None) = (words.next(), words.next(), words.next()) else {
        return Err(Error::Vdelivermail);
    };
    // A word in quotes is the same word.
    let quoted = |quote: &[u8]| action.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
    let action = quoted(b"'").or_else(|| quoted(b"\"")).unwrap_or(action);
    Ok(Instruction::Vdelivermail(match action {
        b"bounce-no-mailbox" => UnknownUser::Bounce,
        b"delete" => UnknownUser::Delete,
        action if action.starts_with(b"/") => UnknownUser::Directory(action.to_vec()),
        action if action.contains(&b'@') => UnknownUser::Forward(action.to_vec()),
        _ => return Err(Error::Vdelivermail),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_search_goes_from_the_whole_address_to_default() {
        let names = |dash: &str, ext: &str| -> Vec<String> {
            let found = candidates(dash.as_bytes(), ext.as_bytes());
            found.into_iter().map(|c| String::from_utf8(c.file).unwrap()).collect()
        };
        assert_eq!(names("", ""), [".qmail"]);
        assert_eq!(names("-", "Bob"), [".qmail-bob", ".qmail-default"]);
        assert_eq!(
            names("-", "list-Bob.Smith"),
            [".qmail-list-bob:smith", ".qmail-list-default", ".qmail-default"]
        );
        assert_eq!(names("-", "../../etc/x"), [".qmail-default"]);
        assert_eq!(candidates(b"-", b"list-Bob")[1].default.as_deref(), Some(&b"Bob"[..]));
        assert_eq!(candidates(b"-", b"list-Default")[0].default.as_deref(), Some(&b"Default"[..]));
    }

    #[test]
    fn lines_say_what_qmail_local_reads() {
        use Instruction as I;
        let bounce = || I::Vdelivermail(UnknownUser::Bounce);
        for (text, expected) in [
            ("", vec![]),
            ("# only a comment\n", vec![]),
            ("./Maildir/\n", vec![I::Maildir(b"./Maildir/".to_vec())]),
            ("/var/mail/bob \n", vec![I::Mbox(b"/var/mail/bob".to_vec())]),
            (
                "&a@x.test\nb@y.test\n\n",
                vec![I::Forward(b"a@x.test".to_vec()), I::Forward(b"b@y.test".to_vec())],
            ),
            ("|preline procmail", vec![I::Program(b"preline procmail".to_vec())]),
            ("| /home/vpopmail/bin/vdelivermail '' bounce-no-mailbox\n", vec![bounce()]),
            ("|~vpopmail/bin/vdelivermail  ''  delete", vec![I::Vdelivermail(UnknownUser::Delete)]),
        ] {
            assert_eq!(parse(text.as_bytes()), Ok(expected), "{text:?}");
        }
        assert_eq!(parse(b"\n./Maildir/\n"), Err(Error::FirstLineBlank));
        for same in [
            &b"| /v/vdelivermail \"\" delete\n"[..],
            b"| /v/vdelivermail '' 'delete'\n",
            b"| vdelivermail \"\" \"delete\"",
        ] {
            assert_eq!(parse(same), Ok(vec![I::Vdelivermail(UnknownUser::Delete)]));
        }
        assert_eq!(parse(b"| vdelivermail '\" delete\n"), Err(Error::Vdelivermail));
        assert_eq!(parse(b"| vdelivermail\n"), Err(Error::Vdelivermail));
        assert_eq!(parse(b"| vdelivermail '' nonsense\n"), Err(Error::Vdelivermail));
    }
}
