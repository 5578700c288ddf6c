//! `users/assign` and `users/cdb` (qmail-users, qmail-newu, qmail-lspawn): which user a local address belongs to.

use crate::cdb::{self, Cdb, CdbMake};

pub mod passwd;

/// The user who controls a local address, as qmail-local gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Controlled {
    /// Account name.
    pub user: Vec<u8>,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Home directory.
    pub home: Vec<u8>,
    /// What stands between `.qmail` and the extension: empty or `-`.
    pub dash: Vec<u8>,
    /// The extension.
    pub ext: Vec<u8>,
}

/// Which addresses a line is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pattern {
    /// `=LOCAL`: this local part.
    Exact(Vec<u8>),
    /// `+LOC`: every local part that begins so; the rest of it is appended to the extension.
    Prefix(Vec<u8>),
}

/// A line of `users/assign`: `=LOCAL:USER:UID:GID:HOME:DASH:EXT:` or `+LOC:USER:UID:GID:HOME:DASH:PRE:`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// Which addresses.
    pub pattern: Pattern,
    /// Whose they are; for a prefix `ext` is what the rest is appended to.
    pub controlled: Controlled,
}

/// What is wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Bad {
    /// Neither `=` nor `+` nor the final `.`.
    #[error(
        "allowed: `=local:user:uid:gid:home:dash:ext:`, `+local:user:uid:gid:home:dash:ext:` or the last line `.`"
    )]
    Start,
    /// Not seven fields, each ended by a colon.
    #[error("allowed: seven fields, each ended by a colon, the last for the extension")]
    Fields,
    /// A user or group id that is none.
    #[error("`{0}` is not a number; allowed: 0 to 4294967295")]
    Id(String),
    /// A NUL byte.
    #[error("NUL bytes are not allowed")]
    Nul,
    /// The file ends without a line `.`.
    #[error("the last line must be a dot")]
    NoDot,
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

impl Assignment {
    /// Reads a line, without its newline.
    pub fn parse(line: &[u8]) -> Result<Self, Bad> {
        if line.contains(&0) {
            return Err(Bad::Nul);
        }
        let (kind, rest) = line.split_first().ok_or(Bad::Start)?;
        if !b"=+".contains(kind) {
            return Err(Bad::Start);
        }
        // What follows the seventh colon is ignored, as by qmail-newu.
        let mut fields = rest.splitn(8, |&b| b == b':');
        let mut field = || fields.next().map(<[u8]>::to_vec).ok_or(Bad::Fields);
        let key = field()?;
        let user = field()?;
        let (uid, gid) = (id(&field()?)?, id(&field()?)?);
        let (home, dash, ext) = (field()?, field()?, field()?);
        field()?;
        let pattern = match kind {
            b'=' => Pattern::Exact(key),
            _ => Pattern::Prefix(key),
        };
        Ok(Self { pattern, controlled: Controlled { user, uid, gid, home, dash, ext } })
    }

    /// The line, without a newline. Fields must hold no colon, newline or NUL, as those that were parsed do.
    pub fn format(&self) -> Vec<u8> {
        let (kind, key) = match &self.pattern {
            Pattern::Exact(key) => (b"=", key),
            Pattern::Prefix(key) => (b"+", key),
        };
        let Controlled { user, uid, gid, home, dash, ext } = &self.controlled;
        let (uid, gid) = (uid.to_string(), gid.to_string());
        let fields: [&[u8]; 7] = [key, user, uid.as_bytes(), gid.as_bytes(), home, dash, ext];
        let mut line = kind.to_vec();
        for field in fields {
            line.extend_from_slice(field);
            line.push(b':');
        }
        line
    }
}

fn id(digits: &[u8]) -> Result<u32, Bad> {
    let text = std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
    text.and_then(|text| text.parse().ok())
        .ok_or_else(|| Bad::Id(String::from_utf8_lossy(digits).into_owned()))
}

/// Reads a file up to its line `.`.
pub fn parse(text: &[u8]) -> Result<Vec<Assignment>, Error> {
    let mut assignments = Vec::new();
    let mut lines = text.split(|&b| b == b'\n').zip(1..).peekable();
    let mut number = 1;
    while let Some((line, n)) = lines.next() {
        number = n;
        if line.starts_with(b".") {
            return Ok(assignments);
        }
        // What follows the last newline is no line.
        if !line.is_empty() || lines.peek().is_some() {
            assignments.push(Assignment::parse(line).map_err(|bad| Error { line: n, bad })?);
        }
    }
    Err(Error { line: number, bad: Bad::NoDot })
}

/// The file of these assignments, with its line `.`.
pub fn format(assignments: &[Assignment]) -> Vec<u8> {
    let mut text = Vec::new();
    for assignment in assignments {
        text.extend_from_slice(&assignment.format());
        text.push(b'\n');
    }
    text.extend_from_slice(b".\n");
    text
}

/// The bytes of `users/cdb` (qmail-newu).
pub fn compile(assignments: &[Assignment]) -> Result<Vec<u8>, cdb::Error> {
    let mut make = CdbMake::new();
    let mut wildchars = Vec::new();
    for Assignment { pattern, controlled } in assignments {
        let mut key = vec![b'!'];
        match pattern {
            Pattern::Exact(local) => {
                key.extend_from_slice(&local.to_ascii_lowercase());
                key.push(0);
            }
            Pattern::Prefix(start) => {
                key.extend_from_slice(&start.to_ascii_lowercase());
                // qmail-newu keeps the case here, and qmail-lspawn then never finds a prefix that ends in a capital.
                let last = start.last().map(u8::to_ascii_lowercase);
                wildchars.extend(last.filter(|last| !wildchars.contains(last)));
            }
        }
        let Controlled { user, uid, gid, home, dash, ext } = controlled;
        let (uid, gid) = (uid.to_string(), gid.to_string());
        let data: [&[u8]; 6] = [user, uid.as_bytes(), gid.as_bytes(), home, dash, ext];
        make.add(&key, &data.join(&0))?;
    }
    make.add(b"", &wildchars)?;
    Ok(make.finish())
}

/// Why a lookup failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// The database is damaged.
    #[error(transparent)]
    Cdb(#[from] cdb::Error),
    /// A record that holds no assignment.
    #[error("users/cdb: bad record for `{0}`")]
    Record(String),
    /// A database that qmail-newu did not make: it has no set of last characters.
    #[error("users/cdb: no record with an empty key")]
    NoWildchars,
}

/// The virtual domain that vpopmail has under this name: the entry of `+DOMAIN-:REAL:UID:GID:DIR:-::`. Its user is the
/// domain's real name, which differs for an alias domain.
pub fn domain<B: AsRef<[u8]>>(users: &Cdb<B>, domain: &[u8]) -> Result<Option<Controlled>, LookupError> {
    if domain.contains(&0) {
        return Ok(None);
    }
    let key = [b"!", domain.to_ascii_lowercase().as_slice(), b"-"].concat();
    users.find(&key)?.map(|data| record(data, b"", b"")).transpose()
}

/// The user who controls a local part: the exact entry, else the longest prefix (qmail-lspawn).
pub fn lookup<B: AsRef<[u8]>>(users: &Cdb<B>, local: &[u8]) -> Result<Option<Controlled>, LookupError> {
    // A NUL would end the key of an exact entry.
    if local.contains(&0) {
        return Ok(None);
    }
    let key = [b"!", local.to_ascii_lowercase().as_slice(), b"\0"].concat();
    if let Some(data) = users.find(&key)? {
        return record(data, local, b"").map(Some);
    }
    let wildchars = users.find(b"")?.ok_or(LookupError::NoWildchars)?;
    for end in (1..key.len()).rev() {
        if (end == 1 || wildchars.contains(&key[end - 1]))
            && let Some(data) = users.find(&key[..end])?
        {
            return record(data, local, &local[end - 1..]).map(Some);
        }
    }
    Ok(None)
}

/// Whom the database's entries are for, in the order of the file; those that are damaged are left out.
pub fn entries<B: AsRef<[u8]>>(users: &Cdb<B>) -> impl Iterator<Item = Controlled> {
    let entries = users.iter().flatten().filter(|(key, _)| key.starts_with(b"!"));
    entries.filter_map(|(_, data)| record(data, b"", b"").ok())
}

fn record(data: &[u8], local: &[u8], rest: &[u8]) -> Result<Controlled, LookupError> {
    let bad = || LookupError::Record(String::from_utf8_lossy(local).into_owned());
    let fields: Vec<&[u8]> = data.splitn(7, |&b| b == 0).collect();
    let &[user, uid, gid, home, dash, ext] = fields.as_slice() else { return Err(bad()) };
    Ok(Controlled {
        user: user.to_vec(),
        uid: id(uid).map_err(|_| bad())?,
        gid: id(gid).map_err(|_| bad())?,
        home: home.to_vec(),
        dash: dash.to_vec(),
        ext: [ext, rest].concat(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "\
=joe:joe:507:100:/home/joe:::
+joe-:joe:507:100:/home/joe:-::
+v.example-:v.example:89:89:/home/vpopmail/domains/v.example:-::
+JaneX:jane:508:100:/home/jane:-:pre-:
=joe-exact:other:1:2:/o:-:x:ignored
.
after the dot nothing counts";

    #[test]
    fn lookups() {
        let users = Cdb::new(compile(&parse(FILE.as_bytes()).unwrap()).unwrap()).unwrap();
        for (local, expected) in [
            ("joe", Some("joe 507 100 /home/joe  ")),
            ("JOE", Some("joe 507 100 /home/joe  ")),
            ("joe-Lists", Some("joe 507 100 /home/joe - Lists")),
            ("joe-", Some("joe 507 100 /home/joe - ")),
            ("joe-exact", Some("other 1 2 /o - x")),
            ("joe-exactly", Some("joe 507 100 /home/joe - exactly")),
            ("v.example-Info", Some("v.example 89 89 /home/vpopmail/domains/v.example - Info")),
            ("janexY", Some("jane 508 100 /home/jane - pre-Y")),
            ("joey", None),
            ("", None),
            ("jan\0e", None),
        ] {
            let found = lookup(&users, local.as_bytes()).unwrap().map(|found| {
                let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
                let Controlled { user, uid, gid, home, dash, ext } = &found;
                format!("{} {uid} {gid} {} {} {}", text(user), text(home), text(dash), text(ext))
            });
            assert_eq!(found.as_deref(), expected, "{local}");
        }
    }

    #[test]
    fn an_empty_prefix_is_for_everybody() {
        let users =
            Cdb::new(compile(&parse(b"+:alias:7790:2108:/var/qmail/alias:-::\n.\n").unwrap()).unwrap());
        let found = lookup(&users.unwrap(), b"Any-One").unwrap().unwrap();
        assert_eq!((found.user.as_slice(), found.ext.as_slice()), (&b"alias"[..], &b"Any-One"[..]));
    }

    #[test]
    fn the_bytes_of_qmail_newu() {
        let bytes =
            compile(&parse(b"=Joe:joe:507:100:/home/joe:::\n+joe-:joe:507:100:/home/joe:-::\n.\n").unwrap());
        let users = Cdb::new(bytes.unwrap()).unwrap();
        let records: Vec<_> = users.iter().map(Result::unwrap).collect();
        let expected: [(&[u8], &[u8]); 3] = [
            (b"!joe\0", b"joe\x00507\x00100\0/home/joe\0\0"),
            (b"!joe-", b"joe\x00507\x00100\0/home/joe\0-\0"),
            (b"", b"-"),
        ];
        assert_eq!(records, expected);
    }

    #[test]
    fn bad_files() {
        for (text, line, bad) in [
            ("", 1, Bad::NoDot),
            ("=a:a:1:1:/::x:\n", 2, Bad::NoDot),
            ("\n.\n", 1, Bad::Start),
            ("a:a:1:1:/::x:\n.\n", 1, Bad::Start),
            ("=a:a:1:1:/::x:\n=b:b:1:1:/:x\n.\n", 2, Bad::Fields),
            ("=a:a:1:1:/::x\n.\n", 1, Bad::Fields),
            ("=a:a:-1:1:/::x:\n.\n", 1, Bad::Id("-1".to_owned())),
            ("=a:a:1:4294967296:/::x:\n.\n", 1, Bad::Id("4294967296".to_owned())),
            ("=a:a\0:1:1:/::x:\n.\n", 1, Bad::Nul),
        ] {
            assert_eq!(parse(text.as_bytes()), Err(Error { line, bad }), "{text:?}");
        }
    }

    #[test]
    fn a_database_of_others_is_told_apart() {
        let empty = Cdb::new(CdbMake::new().finish()).unwrap();
        assert_eq!(lookup(&empty, b"joe"), Err(LookupError::NoWildchars));
        let mut make = CdbMake::new();
        make.add(b"!joe\0", b"joe\x00507\0").unwrap();
        let short = Cdb::new(make.finish()).unwrap();
        assert_eq!(lookup(&short, b"joe"), Err(LookupError::Record("joe".to_owned())));
    }
}
