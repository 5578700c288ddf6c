//! The checkpassword interface (cr.yp.to/checkpwd/interface.html): what goes to descriptor 3 and what the exit code
//! means.

use zeroize::Zeroizing;

use super::{Credentials, Proof, cram};
use crate::runscript::{self, Kind, Word};

/// The most bytes a checkpassword program reads.
pub const INPUT_MAX: usize = 512;

/// Credentials that cannot be told to a checkpassword program.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A NUL byte inside a part.
    #[error("NUL bytes are not allowed in what goes to checkpassword")]
    Nul,
    /// More than the program reads.
    #[error("{0} bytes for checkpassword; allowed: {INPUT_MAX}")]
    TooLong(usize),
}

/// `user\0pass\0timestamp\0`; with CRAM-MD5 the response in hexadecimal is `pass` and the challenge `timestamp`,
/// otherwise `timestamp` is the one given, which may be empty.
pub fn input(credentials: &Credentials, timestamp: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
    match &credentials.proof {
        Proof::Password(password) => parts([&credentials.user, password, timestamp]),
        Proof::Cram { challenge, digest } => parts([&credentials.user, &cram::hex(digest), challenge]),
    }
}

fn parts(parts: [&[u8]; 3]) -> Result<Zeroizing<Vec<u8>>, Error> {
    if parts.iter().any(|part| part.contains(&0)) {
        return Err(Error::Nul);
    }
    let len = parts.iter().map(|part| part.len() + 1).sum();
    if len > INPUT_MAX {
        return Err(Error::TooLong(len));
    }
    // Of its full size from the start: growing would leave copies of the password behind.
    let mut input = Zeroizing::new(Vec::with_capacity(len));
    for part in parts {
        input.extend_from_slice(part);
        input.push(0);
    }
    Ok(input)
}

/// What a checkpassword program found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// 0: the password is right.
    Accepted,
    /// 1, and every other code below 100 but 2: it is not. vchkpw has several for this.
    Rejected,
    /// 2 (misuse), 100 and more (111 among them), or no code because a signal ended the program: nothing was found out.
    Temporary,
}

/// The meaning of an exit code; nothing when a signal ended the program.
pub const fn answer(code: Option<i32>) -> Answer {
    match code {
        Some(0) => Answer::Accepted,
        Some(1 | 3..100) => Answer::Rejected,
        _ => Answer::Temporary,
    }
}

/// Programs that end with 0 whatever they are told, so that every password would be right.
const APPROVERS: [&str; 12] =
    ["true", "gtrue", ":", "echo", "printf", "cat", "tee", "sleep", "date", "pwd", "logger", "exit"];

/// Shells, whose `-c` is looked into.
const SHELLS: [&str; 8] = ["sh", "ash", "dash", "bash", "ksh", "mksh", "zsh", "rbash"];

/// The program by which these words approve every password, as far as the words tell: `true`, behind `env` and its like
/// too, or a shell whose command is nothing else. `None`: no such program is seen.
#[must_use]
pub fn approver(words: &[impl AsRef<str>]) -> Option<String> {
    let mut words: Vec<Word> = words.iter().map(|word| Word::from(word.as_ref())).collect();
    // Each turn has fewer words.
    loop {
        let programs = runscript::chain(&words);
        let own = programs.iter().position(|program| !program.wraps());
        let Some(own) = own else {
            // `env` alone prints and ends with 0; the others of its kind fail.
            let last = programs.last().filter(|last| matches!(last.kind, Kind::Env { .. }));
            return last.map(|last| last.path.text.clone());
        };
        let program = &programs[own].path;
        // The words of a wrapper may look the same: the last is the program with what follows it.
        let Kind::Other(arguments) = &programs[own].kind else { return None };
        let texts: Vec<&str> = arguments.iter().map(|word| word.text.as_str()).collect();
        return match program.base() {
            "busybox" | "toybox" if !texts.is_empty() => {
                words = arguments.clone();
                continue;
            }
            "exit" => texts.first().is_none_or(|code| *code == "0").then(|| program.text.clone()),
            name if APPROVERS.contains(&name) => Some(program.text.clone()),
            name if SHELLS.contains(&name) => {
                let option = texts.iter().position(|word| word.starts_with('-') && word.ends_with('c'))?;
                let script = texts.get(option + 1).copied().unwrap_or_default();
                says_yes(script).then(|| format!("{} -c {script}", program.text))
            }
            _ => None,
        };
    }
}

/// Whether a command of a shell ends with 0 whatever happens: nothing in it asks, or what asks is not heard.
fn says_yes(script: &str) -> bool {
    let approves = |command: &str| {
        let mut words =
            command.split_whitespace().map(|word| word.trim_matches(['\'', '"', '(', ')', '{', '}']));
        let first = words.find(|word| !word.is_empty() && *word != "exec" && !word.contains('='));
        let Some(first) = first else { return true };
        let name = first.rsplit('/').next().unwrap_or(first);
        match name {
            "exit" => words.next().is_none_or(|code| code.is_empty() || code == "0"),
            name => APPROVERS.contains(&name) || name == "read",
        }
    };
    // Descriptors end no command.
    let script = script.replace("<&", "<").replace(">&", ">");
    script
        .rsplit("||")
        .next()
        .is_some_and(|last| script.contains("||") && approves(last) && !last.contains([';', '&']))
        || script.split([';', '\n', '&', '|']).all(approves)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(user: &[u8], password: &[u8]) -> Credentials {
        Credentials { user: user.to_vec(), proof: Proof::Password(Zeroizing::new(password.to_vec())) }
    }

    #[test]
    fn inputs() {
        let cram = Credentials {
            user: b"joe".to_vec(),
            proof: Proof::Cram { challenge: b"<1.2@h>".to_vec(), digest: [0xa0; 16] },
        };
        for (credentials, timestamp, expected) in [
            (password(b"joe", b"x y"), "", Ok(&b"joe\0x y\0\0"[..])),
            (password(b"joe", b"x"), "<9@h>", Ok(&b"joe\0x\0<9@h>\0"[..])),
            (cram, "", Ok(&b"joe\0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0\0<1.2@h>\0"[..])),
            (password(b"jo\0e", b"x"), "", Err(Error::Nul)),
            (password(b"joe", b"x\0"), "", Err(Error::Nul)),
            (password(b"joe", b"x"), "\0", Err(Error::Nul)),
            (password(b"joe", &[b'x'; 507]), "", Err(Error::TooLong(513))),
        ] {
            let input = input(&credentials, timestamp.as_bytes());
            assert_eq!(input.as_deref().map(Vec::as_slice), expected.as_ref().copied(), "{credentials:?}");
        }
        assert_eq!(input(&password(b"joe", &[b'x'; 506]), b"").unwrap().len(), INPUT_MAX);
    }

    #[test]
    fn programs_that_approve_every_password() {
        let approves = |text: &str| approver(&text.split(' ').collect::<Vec<_>>()).is_some();
        for text in [
            "true",
            "/bin/true",
            "/usr/local/bin/gtrue x",
            ":",
            "/bin/echo checkpassword",
            "env",
            "env A=b /bin/true",
            "env - /bin/true",
            "setuidgid vpopmail /bin/true",
            "softlimit -m 1000 true",
            "nice -n 5 true",
            "sudo -u vpopmail /bin/true",
            "busybox true",
            "busybox sh -c :",
            "sh -c true",
            "sh -c exit",
            "/bin/bash -ec exit",
            "exit 0",
        ] {
            assert!(approves(text), "{text}");
        }
        for text in [
            "/bin/false",
            "vchkpw /bin/true",
            "/home/vpopmail/bin/vchkpw true",
            "/bin/checkpassword true",
            "/bin/checkpassword /bin/true",
            "setuidgid vpopmail /bin/checkpassword true",
            "sh /etc/checkpassword.sh",
            "/opt/true/checkpassword",
            "setuidgid vpopmail",
            "exit 1",
        ] {
            assert!(!approves(text), "{text}");
        }
        for (script, expected) in [
            ("", true),
            ("exit 0", true),
            ("cat <&3 >/dev/null; exit 0", true),
            ("A=b exec /bin/true", true),
            ("( : )", true),
            ("checkpassword /bin/true || true", true),
            ("exit 1", false),
            ("checkpassword /bin/true", false),
            ("exec checkpassword true && exit 0; exit 1", false),
            ("checkpassword true || exit 1", false),
        ] {
            assert_eq!(approver(&["sh", "-c", script]).is_some(), expected, "{script}");
        }
        assert_eq!(approver(&[""; 0]), None);
    }

    #[test]
    fn exit_codes() {
        for (code, expected) in [
            (Some(0), Answer::Accepted),
            (Some(1), Answer::Rejected),
            (Some(3), Answer::Rejected),
            (Some(20), Answer::Rejected),
            (Some(2), Answer::Temporary),
            (Some(100), Answer::Temporary),
            (Some(111), Answer::Temporary),
            (Some(-1), Answer::Temporary),
            (None, Answer::Temporary),
        ] {
            assert_eq!(answer(code), expected, "{code:?}");
        }
    }
}
