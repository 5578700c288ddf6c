//! `domains/DOMAIN/vpasswd` and `vpasswd.cdb` (vpopmail): the users of a virtual domain.

use crate::cdb::{self, Cdb, CdbMake};

/// Bits of [`Entry::flags`] (vpopmail's GID field).
pub mod flag {
    /// The password cannot be changed.
    pub const NO_PASSWORD_CHANGE: u32 = 0x01;
    /// No POP3.
    pub const NO_POP: u32 = 0x02;
    /// No webmail.
    pub const NO_WEBMAIL: u32 = 0x04;
    /// No IMAP.
    pub const NO_IMAP: u32 = 0x08;
    /// Mail bounces.
    pub const BOUNCE: u32 = 0x10;
    /// No relaying.
    pub const NO_RELAY: u32 = 0x20;
    /// No dialup.
    pub const NO_DIALUP: u32 = 0x40;
    /// No SMTP AUTH.
    pub const NO_SMTP: u32 = 0x800;
    /// Administrator of the domain.
    pub const QMAILADMIN: u32 = 0x1000;
    /// The domain's limits do not bind.
    pub const OVERRIDE_LIMITS: u32 = 0x2000;
    /// No spam check.
    pub const NO_SPAMASSASSIN: u32 = 0x4000;
    /// Spam is deleted.
    pub const DELETE_SPAM: u32 = 0x8000;
}

/// The longest name of a user, in bytes.
pub const NAME_MAX: usize = 64;
/// The longest comment, in bytes.
pub const GECOS_MAX: usize = 64;
/// The longest quota, in bytes of its text.
pub const QUOTA_MAX: usize = 20;
/// The longest password in clear, in bytes.
pub const PASSWORD_MAX: usize = 128;

/// A user: `name:crypt:uid:gid:gecos:dir:quota[:clear]`.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// The part before the `@`.
    pub name: Vec<u8>,
    /// Hash of the password.
    pub password: Vec<u8>,
    /// 1 plain POP, 2 APOP.
    pub uid: u32,
    /// Bits of [`flag`].
    pub flags: u32,
    /// Comment.
    pub gecos: Vec<u8>,
    /// Directory of the user; its `Maildir` takes the mail.
    pub dir: Vec<u8>,
    /// `NOQUOTA`, `10000000S`, `10000000S,1000C`, `10MB` …, as it stands.
    pub quota: Vec<u8>,
    /// The password in clear, on sites that keep it.
    pub clear: Option<Vec<u8>>,
}

// Passwords and their hashes reach no log.
impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entry")
            .field("name", &String::from_utf8_lossy(&self.name))
            .field("flags", &self.flags)
            .field("dir", &String::from_utf8_lossy(&self.dir))
            .finish_non_exhaustive()
    }
}

/// What is wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Bad {
    /// Not seven or eight fields.
    #[error("allowed: name:crypt:uid:gid:gecos:dir:quota and, if kept, :clear")]
    Fields,
    /// A number that is none.
    #[error("`{0}` is not a number; allowed: 0 to 4294967295")]
    Number(String),
    /// No name.
    #[error("the name is empty")]
    Name,
    /// A NUL byte or a newline in a field.
    #[error("NUL bytes are not allowed")]
    Nul,
}

/// A file that is refused, with the line, counted from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {bad}")]
pub struct Error {
    /// The line.
    pub line: usize,
    /// What is wrong with it.
    pub bad: Bad,
}

impl Entry {
    /// Reads a line, without its newline.
    pub fn parse(line: &[u8]) -> Result<Self, Bad> {
        let colon = memchr::memchr(b':', line).ok_or(Bad::Fields)?;
        Self::from_record(&line[..colon], &line[colon + 1..])
    }

    /// Reads a record of `vpasswd.cdb`: the name is the key, the rest of the line its data.
    pub fn from_record(name: &[u8], data: &[u8]) -> Result<Self, Bad> {
        if name.is_empty() {
            return Err(Bad::Name);
        }
        if [name, data].iter().any(|part| part.iter().any(|&b| b == 0 || b == b'\n')) {
            return Err(Bad::Nul);
        }
        // The password in clear comes last and may hold colons.
        let mut fields = data.splitn(7, |&b| b == b':');
        let mut field = || fields.next().map(<[u8]>::to_vec).ok_or(Bad::Fields);
        Ok(Self {
            name: name.to_vec(),
            password: field()?,
            uid: number(&field()?)?,
            flags: number(&field()?)?,
            gecos: field()?,
            dir: field()?,
            quota: field()?,
            clear: field().ok(),
        })
    }

    /// The data of the record in `vpasswd.cdb`. Fields must hold no colon, newline or NUL, as those that were parsed do.
    pub fn record(&self) -> Vec<u8> {
        let (uid, flags) = (self.uid.to_string(), self.flags.to_string());
        let fields: [&[u8]; 6] =
            [&self.password, uid.as_bytes(), flags.as_bytes(), &self.gecos, &self.dir, &self.quota];
        let mut data = fields.join(&b':');
        if let Some(clear) = &self.clear {
            data.push(b':');
            data.extend_from_slice(clear);
        }
        data
    }

    /// The line, without a newline.
    pub fn format(&self) -> Vec<u8> {
        [self.name.as_slice(), b":", &self.record()].concat()
    }
}

fn number(digits: &[u8]) -> Result<u32, Bad> {
    let text = std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
    text.and_then(|text| text.parse().ok())
        .ok_or_else(|| Bad::Number(String::from_utf8_lossy(digits).into_owned()))
}

/// Reads a file; empty lines are skipped.
pub fn parse(text: &[u8]) -> Result<Vec<Entry>, Error> {
    let lines = text.split(|&b| b == b'\n').enumerate().filter(|(_, line)| !line.is_empty());
    lines.map(|(n, line)| Entry::parse(line).map_err(|bad| Error { line: n + 1, bad })).collect()
}

/// The file of these users, sorted by name as vpopmail keeps it.
pub fn format(entries: &[Entry]) -> Vec<u8> {
    let mut lines: Vec<Vec<u8>> = sorted(entries).into_iter().map(Entry::format).collect();
    lines.iter_mut().for_each(|line| line.push(b'\n'));
    lines.concat()
}

/// The bytes of `vpasswd.cdb`.
pub fn compile(entries: &[Entry]) -> Result<Vec<u8>, cdb::Error> {
    let mut make = CdbMake::new();
    for entry in sorted(entries) {
        make.add(&entry.name, &entry.record())?;
    }
    Ok(make.finish())
}

fn sorted(entries: &[Entry]) -> Vec<&Entry> {
    let mut sorted: Vec<&Entry> = entries.iter().collect();
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    sorted
}

/// Why a lookup failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// The database is damaged.
    #[error(transparent)]
    Cdb(#[from] cdb::Error),
    /// A record that holds no user.
    #[error("vpasswd.cdb: bad record: {0}")]
    Record(#[from] Bad),
}

/// The user of this name; names are in lower case.
pub fn lookup<B: AsRef<[u8]>>(users: &Cdb<B>, name: &[u8]) -> Result<Option<Entry>, LookupError> {
    let name = name.to_ascii_lowercase();
    match users.find(&name)? {
        Some(data) => Ok(Some(Entry::from_record(&name, data)?)),
        None => Ok(None),
    }
}

/// Whether these bytes can name a user: 1 to [`NAME_MAX`] letters, digits and ``! # $ & ' * + - . / = ? ^ _ ` { | } ~``
/// as vpopmail allows, without a slash and not beginning with a dot, since the name is that of a directory.
pub fn is_name(name: &[u8]) -> bool {
    (1..=NAME_MAX).contains(&name.len())
        && !name.starts_with(b".")
        && name.iter().all(|b| b.is_ascii_alphanumeric() || b"!#$&'*+-.=?^_`{|}~".contains(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let line = b"joe:$6$salt$hash:1:2066:Joe: /x".to_vec();
        assert_eq!(Entry::parse(&line), Err(Bad::Fields));
        let line = b"joe:$6$salt$hash:1:18:Joe X:/v/domains/d/joe:NOQUOTA";
        let entry = Entry::parse(line).unwrap();
        assert_eq!((entry.uid, entry.flags, entry.clear.as_deref()), (1, flag::NO_POP | flag::BOUNCE, None));
        assert_eq!(
            (entry.dir.as_slice(), entry.quota.as_slice()),
            (&b"/v/domains/d/joe"[..], &b"NOQUOTA"[..])
        );
        assert_eq!(entry.format(), line);
        let clear = Entry::parse(b"joe:x:1:0::/d:10000000S,1000C:a:b").unwrap();
        assert_eq!(clear.clear.as_deref(), Some(&b"a:b"[..]));
        assert_eq!(clear.quota, b"10000000S,1000C");
        assert!(!format!("{clear:?}").contains("a:b"));
    }

    #[test]
    fn bad_lines() {
        for (line, bad) in [
            ("", Bad::Fields),
            ("joe", Bad::Fields),
            ("joe:x:1:0:g:/d", Bad::Fields),
            (":x:1:0:g:/d:q", Bad::Name),
            ("joe:x:one:0:g:/d:q", Bad::Number("one".to_owned())),
            ("joe:x:1:-1:g:/d:q", Bad::Number("-1".to_owned())),
            ("joe:x:1:0:g:/d\0:q", Bad::Nul),
        ] {
            assert_eq!(Entry::parse(line.as_bytes()), Err(bad), "{line:?}");
        }
        assert_eq!(parse(b"a:x:1:0::/d:q\n\nb:x\n"), Err(Error { line: 3, bad: Bad::Fields }));
    }

    #[test]
    fn lookups() {
        let entries = parse(b"zoe:z:1:0::/z:NOQUOTA\njoe:j:1:0::/j:NOQUOTA\n").unwrap();
        assert_eq!(format(&entries), b"joe:j:1:0::/j:NOQUOTA\nzoe:z:1:0::/z:NOQUOTA\n");
        let users = Cdb::new(compile(&entries).unwrap()).unwrap();
        assert_eq!(users.get(b"joe"), Some(&b"j:1:0::/j:NOQUOTA"[..]));
        assert_eq!(lookup(&users, b"ZOE"), Ok(Some(entries[0].clone())));
        assert_eq!(lookup(&users, b"max"), Ok(None));
    }

    #[test]
    fn names() {
        for (name, expected) in [
            ("joe", true),
            ("joe.x+y-z_1", true),
            ("", false),
            (".", false),
            ("..", false),
            (".joe", false),
            ("a/b", false),
            ("a:b", false),
            ("a b", false),
            ("a@b", false),
            ("jo\u{e9}", false),
            ("a\nb", false),
        ] {
            assert_eq!(is_name(name.as_bytes()), expected, "{name:?}");
        }
        assert!(is_name(&[b'a'; NAME_MAX]) && !is_name(&[b'a'; NAME_MAX + 1]));
    }
}
