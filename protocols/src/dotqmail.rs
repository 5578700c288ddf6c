//! `.qmail` files: which one is asked, and what its lines say (qmail-local; vdelivermail for virtual domains).

mod shell;

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
    /// `| …/vdelivermail '' ACTION`, quoted as the shell allows: the virtual domain's users, then this for everybody else. The
    /// first argument is ignored, as vpopmail ignores it.
    Vdelivermail(UnknownUser),
    /// Any other `|command`, also one with vdelivermail in which the shell has more to do than to read words: variables, pipes.
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
    /// An address, with a host.
    Forward(Vec<u8>),
    /// A name without a host: that user of the same domain.
    User(Vec<u8>),
    /// A directory, a user's or a Maildir: from the root, or, ended by a slash, from the domain's directory.
    Directory(Vec<u8>),
}

impl UnknownUser {
    /// The address that gets the mail of a domain, `host`, if one does.
    #[must_use]
    pub fn forward(&self, host: &[u8]) -> Option<Vec<u8>> {
        match self {
            Self::Forward(to) => Some(to.clone()),
            Self::User(name) => Some([name, &b"@"[..], host].concat()),
            Self::Bounce | Self::Delete | Self::Directory(_) => None,
        }
    }
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
    let program = || Ok(Instruction::Program(command.to_vec()));
    let words = match shell::read(command) {
        shell::Command::Words(words) => words,
        shell::Command::Unclosed(words) if is_vdelivermail(&words) => return Err(Error::Vdelivermail),
        shell::Command::Unclosed(_) | shell::Command::More => return program(),
    };
    if !is_vdelivermail(&words) {
        return program();
    }
    let [_, _, action] = &words[..] else { return Err(Error::Vdelivermail) };
    action_of(action).map(Instruction::Vdelivermail).ok_or(Error::Vdelivermail)
}

fn is_vdelivermail(words: &[Vec<u8>]) -> bool {
    words.first().and_then(|name| name.rsplit(|byte| *byte == b'/').next()) == Some(b"vdelivermail")
}

/// None: a line of a `.qmail` file that is no action, such as an mbox file or a program.
fn action_of(action: &[u8]) -> Option<UnknownUser> {
    let bare = action.strip_prefix(b"&").unwrap_or(action);
    Some(match (action, action.first()?) {
        (b"bounce-no-mailbox", _) => UnknownUser::Bounce,
        (b"delete", _) => UnknownUser::Delete,
        (_, b'/') => UnknownUser::Directory(action.to_vec()),
        (_, b'.') if action.ends_with(b"/") => UnknownUser::Directory(action.to_vec()),
        (_, b'.' | b'|' | b'#') => return None,
        _ if bare.iter().any(|byte| byte.is_ascii_whitespace() || byte.is_ascii_control()) => return None,
        _ if bare.contains(&b'@') => UnknownUser::Forward(bare.to_vec()),
        _ if bare.is_empty() || bare.contains(&b'/') => return None,
        _ => UnknownUser::User(bare.to_vec()),
    })
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
    }

    #[test]
    fn vdelivermail_is_read_as_the_shell_reads_it() {
        use UnknownUser as U;
        let user = |name: &str| U::User(name.as_bytes().to_vec());
        for (line, expected) in [
            (r#"/v/vdelivermail "" delete"#, U::Delete),
            (r"/v/vdelivermail '' 'delete'", U::Delete),
            (r#"vdelivermail "" "delete""#, U::Delete),
            (r"'/home/vpopmail/bin/vdelivermail' '' bounce-no-mailbox", U::Bounce),
            (r#""/home/v pop/bin"/vdelivermail '' bounce-no-"mail"box"#, U::Bounce),
            (r"/home/v\ pop/vdelivermail   ''\tdelete   # catch-all", U::Delete),
            ("~vpopmail/bin/vdelivermail '' bob@x.test", U::Forward(b"bob@x.test".to_vec())),
            ("vdelivermail '' '&bob@x.test'", U::Forward(b"bob@x.test".to_vec())),
            ("vdelivermail '' postmaster", user("postmaster")),
            ("vdelivermail '' bob-list", user("bob-list")),
            ("vdelivermail '' Delete", user("Delete")),
            ("vdelivermail ignored delete", U::Delete),
            ("vdelivermail '' /v/d/x.test/bob", U::Directory(b"/v/d/x.test/bob".to_vec())),
            ("vdelivermail '' '/v/d/x.test/a b/'", U::Directory(b"/v/d/x.test/a b/".to_vec())),
            ("vdelivermail '' ./bob/Maildir/", U::Directory(b"./bob/Maildir/".to_vec())),
        ] {
            let line = line.replace("\\\\", "\\").replace("\\t", "\t");
            assert_eq!(
                parse(format!("| {line}\n").as_bytes()),
                Ok(vec![Instruction::Vdelivermail(expected)]),
                "{line}"
            );
        }
        for line in [
            "vdelivermail",
            "vdelivermail ''",
            "vdelivermail '' ''",
            "vdelivermail '' delete more",
            "vdelivermail '\" delete",
            "/v/vdelivermail '' 'delete",
            "vdelivermail '' ./mbox",
            "vdelivermail '' '|program'",
            "vdelivermail '' '#nothing'",
            "vdelivermail '' bob/Maildir",
            "vdelivermail '' 'two words'",
        ] {
            assert_eq!(parse(format!("|{line}\n").as_bytes()), Err(Error::Vdelivermail), "{line}");
        }
        for line in [
            "vdelivermail '' $DEFAULT",
            "vdelivermail '' \"$EXT@x.test\"",
            "vdelivermail '' delete; true",
            "spam | vdelivermail '' delete",
            "vdelivermail '' ~bob/Maildir",
            "EXT=x vdelivermail '' delete",
            "$HOME/bin/vdelivermail '' delete",
            "preline vdelivermail '' delete",
            "echo it's vdelivermail",
        ] {
            let program = Instruction::Program(line.as_bytes().to_vec());
            assert_eq!(parse(format!("|{line}\n").as_bytes()), Ok(vec![program]), "{line}");
        }
    }
}
