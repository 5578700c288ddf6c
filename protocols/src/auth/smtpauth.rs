//! `SMTPAUTH`: which mechanisms a service offers and whether it insists (the AUTH patches of qmail-smtpd).

/// A mechanism (RFC 4954).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mechanism {
    /// Name and password, each asked for.
    Login,
    /// RFC 4616.
    Plain,
    /// RFC 2195.
    CramMd5,
}

impl Mechanism {
    /// The mechanism of this name, in any case.
    pub fn parse(name: &[u8]) -> Option<Self> {
        [Self::Login, Self::Plain, Self::CramMd5]
            .into_iter()
            .find(|mechanism| mechanism.name().as_bytes().eq_ignore_ascii_case(name))
    }

    /// Its name in capitals.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Login => "LOGIN",
            Self::Plain => "PLAIN",
            Self::CramMd5 => "CRAM-MD5",
        }
    }
}

/// What `SMTPAUTH` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SmtpAuth {
    /// LOGIN and PLAIN are offered.
    pub password: bool,
    /// CRAM-MD5 is offered.
    pub cram: bool,
    /// No mail without authentication.
    pub required: bool,
}

/// A value of `SMTPAUTH` that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("SMTPAUTH is `{0}`; allowed: nothing, +cram, cram, each also with ! in front, and -")]
pub struct Error(pub String);

impl SmtpAuth {
    /// No AUTH at all: `-`.
    pub const OFF: Self = Self { password: false, cram: false, required: false };

    /// Reads the value: empty for LOGIN and PLAIN, `+cram` for these and CRAM-MD5, `cram` for CRAM-MD5 alone, `!` in
    /// front of these to insist, `-` for nothing.
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        if text == b"-" {
            return Ok(Self::OFF);
        }
        let (required, mechanisms) = match text.strip_prefix(b"!") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (password, cram) = match mechanisms {
            b"" => (true, false),
            b"+cram" => (true, true),
            b"cram" => (false, true),
            _ => return Err(Error(text.escape_ascii().take(80).map(char::from).collect())),
        };
        Ok(Self { password, cram, required })
    }

    /// Whether this mechanism is offered.
    pub const fn offers(&self, mechanism: Mechanism) -> bool {
        match mechanism {
            Mechanism::Login | Mechanism::Plain => self.password,
            Mechanism::CramMd5 => self.cram,
        }
    }

    /// The line of the answer to EHLO, without `250-`; nothing when AUTH is off.
    pub const fn capability(&self) -> Option<&'static str> {
        match (self.password, self.cram) {
            (true, true) => Some("AUTH LOGIN PLAIN CRAM-MD5"),
            (true, false) => Some("AUTH LOGIN PLAIN"),
            (false, true) => Some("AUTH CRAM-MD5"),
            (false, false) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        for (text, capability, required) in [
            ("", Some("AUTH LOGIN PLAIN"), false),
            ("+cram", Some("AUTH LOGIN PLAIN CRAM-MD5"), false),
            ("cram", Some("AUTH CRAM-MD5"), false),
            ("!", Some("AUTH LOGIN PLAIN"), true),
            ("!+cram", Some("AUTH LOGIN PLAIN CRAM-MD5"), true),
            ("!cram", Some("AUTH CRAM-MD5"), true),
            ("-", None, false),
        ] {
            let auth = SmtpAuth::parse(text.as_bytes()).unwrap();
            assert_eq!((auth.capability(), auth.required), (capability, required), "{text:?}");
        }
    }

    #[test]
    fn bad_values() {
        for text in ["!-", "-!", "-cram", "+", "!!", "CRAM", " ", "+cram "] {
            assert_eq!(SmtpAuth::parse(text.as_bytes()), Err(Error(text.to_owned())), "{text:?}");
        }
        assert_eq!(SmtpAuth::parse(&[b'\n'; 4000]).unwrap_err().0.len(), 80);
    }

    #[test]
    fn mechanisms() {
        let cram = SmtpAuth::parse(b"cram").unwrap();
        for (name, mechanism, offered) in [
            ("plain", Some(Mechanism::Plain), false),
            ("Login", Some(Mechanism::Login), false),
            ("CRAM-MD5", Some(Mechanism::CramMd5), true),
            ("CRAM", None, false),
            ("", None, false),
        ] {
            assert_eq!(Mechanism::parse(name.as_bytes()), mechanism, "{name}");
            assert_eq!(mechanism.is_some_and(|mechanism| cram.offers(mechanism)), offered, "{name}");
        }
    }
}
