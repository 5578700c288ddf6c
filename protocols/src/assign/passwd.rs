//! What qmail-pw2u makes of the system's accounts: a `users/assign` that gives each what qmail-getpw would give him.

use std::collections::HashMap;

/// The user who has what nobody else has.
const ALIAS: &[u8] = b"alias";

/// The command line of qmail-pw2u.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Which homes count.
    pub homes: Homes,
    /// Names with upper-case letters count (`-u`).
    pub upper: bool,
    /// What ends the user's name in an address (`-c`); none: there are no extensions (`-C`).
    pub delimiter: Option<u8>,
    /// Extensions are in a directory: `.qmail-/` (`-/`).
    pub slash: bool,
}

/// Which homes count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Homes {
    /// Those that are there and their user's (`-o`).
    Own,
    /// All must be there; those that are their user's count (`-h`).
    Must,
    /// All (`-H`).
    All,
}

impl Default for Rules {
    fn default() -> Self {
        Self { homes: Homes::Own, upper: false, delimiter: Some(b'-'), slash: false }
    }
}

/// The files in `users/`, as they stand; none: there is no such file.
#[derive(Debug, Clone, Copy, Default)]
pub struct Files<'a> {
    /// The users who count.
    pub include: Option<&'a [u8]>,
    /// Those who do not.
    pub exclude: Option<&'a [u8]>,
    /// `user:name:name`: the names of a user in addresses, in place of his own.
    pub mailnames: Option<&'a [u8]>,
    /// `sub:user:pre:`: addresses beside them.
    pub subusers: Option<&'a [u8]>,
    /// Lines for the end.
    pub append: Option<&'a [u8]>,
}

/// Why there is no file.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Nobody would have what nobody else has.
    #[error("unable to find alias user")]
    NoAlias,
    /// A home that must be there is not, or nobody can say.
    #[error("unable to stat {0}")]
    Home(String),
    /// A subuser of nobody.
    #[error("unable to find {0} user for subuser")]
    NoUser(String),
}

/// The lines of `users/assign` for a `passwd`. `owner` says whose a directory is; none: it is not there.
///
/// # Errors
/// [`Error`]; `Err(())` of `owner` is [`Error::Home`].
pub fn assignments(
    passwd: &[u8],
    rules: &Rules,
    files: &Files<'_>,
    owner: impl Fn(&[u8]) -> Result<Option<u32>, ()>,
) -> Result<Vec<u8>, Error> {
    let dash: &[u8] = if rules.slash { b"-/" } else { b"-" };
    let include = files.include.map(|text| names(text, false));
    let exclude = files.exclude.map(|text| names(text, false));
    let mailnames = names(files.mailnames.unwrap_or_default(), true);
    let mut text = Text(Vec::new());
    let (mut users, mut has_alias) = (HashMap::new(), false);
    for account in passwd.split(|&b| b == b'\n').filter_map(Account::parse) {
        let Account { name, .. } = account;
        let listed = |list: &Option<HashMap<_, _>>| list.as_ref().map(|list| list.contains_key(&key(name)));
        let is_skipped = account.uid_number == 0
            || !rules.upper && name.iter().any(u8::is_ascii_uppercase)
            || listed(&include) == Some(false)
            || listed(&exclude) == Some(true)
            || !account.has_home(rules.homes, &owner)?;
        if is_skipped {
            continue;
        }
        let whose = account.whose();
        if name == ALIAS {
            has_alias = true;
            text.line(&[b"+", &whose, dash, b"::"]);
        }
        let own = mailnames.get(&key(name)).copied().unwrap_or(name);
        for mailname in own.split(|&b| b == b':').filter(|mailname| !mailname.is_empty()) {
            text.line(&[b"=", mailname, &whose, b"::"]);
            if let Some(delimiter) = rules.delimiter {
                text.line(&[b"+", mailname, &[delimiter], &whose, dash, b"::"]);
            }
        }
        users.insert(key(name), whose);
    }
    if !has_alias {
        return Err(Error::NoAlias);
    }
    for line in files.subusers.unwrap_or_default().split(|&b| b == b'\n') {
        let mut fields = line.splitn(4, |&b| b == b':');
        let (Some(sub), Some(user), Some(pre), Some(_)) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let whose =
            users.get(&key(user)).ok_or_else(|| Error::NoUser(String::from_utf8_lossy(user).into_owned()))?;
        text.line(&[b"=", sub, whose, dash, b":", pre, b":"]);
        if let Some(delimiter) = rules.delimiter {
            text.line(&[b"+", sub, &[delimiter], whose, dash, b":", pre, b"-:"]);
        }
    }
    let Text(mut text) = text;
    text.extend_from_slice(files.append.unwrap_or_default());
    if !text.ends_with(b"\n") {
        text.push(b'\n');
    }
    text.extend_from_slice(b".\n");
    Ok(text)
}

struct Text(Vec<u8>);

impl Text {
    fn line(&mut self, parts: &[&[u8]]) {
        parts.iter().for_each(|part| self.0.extend_from_slice(part));
        self.0.push(b'\n');
    }
}

/// A line of passwd.
struct Account<'a> {
    name: &'a [u8],
    uid: &'a [u8],
    /// 0 if it is no number.
    uid_number: u32,
    gid: &'a [u8],
    home: &'a [u8],
}

impl<'a> Account<'a> {
    fn parse(line: &'a [u8]) -> Option<Self> {
        if line.contains(&0) {
            return None;
        }
        let mut fields = line.splitn(7, |&b| b == b':');
        let mut field = || fields.next();
        let (name, _, uid, gid, _, home) = (field()?, field()?, field()?, field()?, field()?, field()?);
        field()?;
        let uid_number = std::str::from_utf8(uid).ok().and_then(|uid| uid.parse().ok()).unwrap_or(0);
        Some(Self { name, uid, uid_number, gid, home })
    }

    fn has_home(
        &self,
        homes: Homes,
        owner: impl Fn(&[u8]) -> Result<Option<u32>, ()>,
    ) -> Result<bool, Error> {
        if homes == Homes::All {
            return Ok(true);
        }
        let missing = || Error::Home(String::from_utf8_lossy(self.home).into_owned());
        match owner(self.home).map_err(|()| missing())? {
            None if homes == Homes::Must => Err(missing()),
            owner => Ok(owner == Some(self.uid_number)),
        }
    }

    /// The fields of an assignment from the user to the home, with the colons around them.
    fn whose(&self) -> Vec<u8> {
        let fields = [&b""[..], self.name, self.uid, self.gid, self.home, b""];
        fields.join(&b':')
    }
}

/// The lines of a control file, by their first field if they have `fields`, and then what is behind it; the last of a name
/// counts. Case does not.
fn names(text: &[u8], fields: bool) -> HashMap<Vec<u8>, &[u8]> {
    let trimmed = |line: &'_ [u8]| line.iter().rposition(|b| !b" \t".contains(b)).map_or(0, |at| at + 1);
    let lines = text.split(|&b| b == b'\n').map(|line| &line[..trimmed(line)]);
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with(b"#"));
    lines
        .filter_map(|line| match line.iter().position(|&b| b == b':').filter(|_| fields) {
            Some(colon) => Some((key(&line[..colon]), &line[colon + 1..])),
            None => (!fields).then(|| (key(line), &b""[..])),
        })
        .collect()
}

fn key(name: &[u8]) -> Vec<u8> {
    name.to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\n\
        alias:x:7790:2108::/var/qmail/alias:/bin/true\n\
        joe:x:507:100:Joe:/home/joe:/bin/sh\n\
        Jane:x:508:100::/home/jane:/bin/sh\n\
        gone:x:509:100::/gone:/bin/sh\n\
        daemon:x:1:1::/not/his:/bin/sh\n\
        broken:x:510\n\
        nul\0:x:511:1::/home/nul:/bin/sh\n\
        short:x:512:100::/home/short\n\
        odd:x:-5:100::/home/odd:/bin/sh";

    fn owner(home: &[u8]) -> Result<Option<u32>, ()> {
        match home {
            b"/var/qmail/alias" => Ok(Some(7790)),
            b"/home/joe" => Ok(Some(507)),
            b"/home/jane" => Ok(Some(508)),
            b"/gone" => Ok(None),
            b"/hangs" => Err(()),
            _ => Ok(Some(0)),
        }
    }

    fn made(rules: &Rules, files: &Files<'_>) -> Result<String, Error> {
        assignments(PASSWD, rules, files, owner).map(|text| String::from_utf8(text).unwrap())
    }

    #[test]
    fn who_would_get_mail_gets_it() {
        let text = made(&Rules::default(), &Files::default()).unwrap();
        assert_eq!(
            text,
            "+:alias:7790:2108:/var/qmail/alias:-::\n\
             =alias:alias:7790:2108:/var/qmail/alias:::\n\
             +alias-:alias:7790:2108:/var/qmail/alias:-::\n\
             =joe:joe:507:100:/home/joe:::\n\
             +joe-:joe:507:100:/home/joe:-::\n\
             .\n"
        );
        let parsed = super::super::parse(text.as_bytes()).unwrap();
        assert_eq!(super::super::format(&parsed), text.as_bytes());
    }

    #[test]
    fn options() {
        let rules = || Rules::default();
        let has = |rules: Rules, line: &str| {
            made(&rules, &Files::default()).unwrap().lines().any(|one| one == line)
        };
        assert!(has(Rules { upper: true, ..rules() }, "=Jane:Jane:508:100:/home/jane:::"));
        assert!(has(Rules { delimiter: Some(b'+'), ..rules() }, "+joe+:joe:507:100:/home/joe:-::"));
        assert!(has(Rules { slash: true, ..rules() }, "+joe-:joe:507:100:/home/joe:-/::"));
        assert!(has(Rules { slash: true, ..rules() }, "+:alias:7790:2108:/var/qmail/alias:-/::"));
        assert!(has(Rules { homes: Homes::All, ..rules() }, "=daemon:daemon:1:1:/not/his:::"));
        let none = made(&Rules { delimiter: None, ..rules() }, &Files::default()).unwrap();
        assert_eq!(none.lines().count(), 4, "{none}");
        assert_eq!(
            made(&Rules { homes: Homes::Must, ..rules() }, &Files::default()),
            Err(Error::Home("/gone".to_owned()))
        );
        let hangs = b"x:x:5:5::/hangs:/\n";
        assert_eq!(
            assignments(hangs, &rules(), &Files::default(), owner),
            Err(Error::Home("/hangs".to_owned()))
        );
        assert_eq!(assignments(b"", &rules(), &Files::default(), owner), Err(Error::NoAlias));
    }

    #[test]
    fn files() {
        let files = Files {
            include: Some(b"# who\n\nJOE \nalias\t\ngone"),
            mailnames: Some(b"joe:joe:Joseph::j\nalias:\nnobody:x\nno colon\n"),
            subusers: Some(b"sales:joe:s:rest\nignored:joe\n"),
            append: Some(b"+x-:alias:1:1:/x:-::"),
            ..Files::default()
        };
        let text = made(&Rules { delimiter: Some(b'-'), ..Rules::default() }, &files).unwrap();
        assert_eq!(
            text,
            "+:alias:7790:2108:/var/qmail/alias:-::\n\
             =joe:joe:507:100:/home/joe:::\n\
             +joe-:joe:507:100:/home/joe:-::\n\
             =Joseph:joe:507:100:/home/joe:::\n\
             +Joseph-:joe:507:100:/home/joe:-::\n\
             =j:joe:507:100:/home/joe:::\n\
             +j-:joe:507:100:/home/joe:-::\n\
             =sales:joe:507:100:/home/joe:-:s:\n\
             +sales-:joe:507:100:/home/joe:-:s-:\n\
             +x-:alias:1:1:/x:-::\n\
             .\n"
        );
        let excluded = Files { exclude: Some(b"Joe\n"), ..Files::default() };
        assert!(!made(&Rules::default(), &excluded).unwrap().contains("joe"));
        let nobody = Files { subusers: Some(b"x:gone:\ny:gone::\n"), ..Files::default() };
        assert_eq!(made(&Rules::default(), &nobody), Err(Error::NoUser("gone".to_owned())));
    }
}
