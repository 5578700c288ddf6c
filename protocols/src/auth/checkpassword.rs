//! The checkpassword interface (cr.yp.to/checkpwd/interface.html): what goes to descriptor 3 and what the exit code
//! means.

use zeroize::Zeroizing;

use super::{Credentials, Proof, cram};

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
