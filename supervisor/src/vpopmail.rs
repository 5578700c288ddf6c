//! Virtual domains and their users on disk, as vpopmail keeps them.
//!
//! A domain is a directory, a line of `users/assign` and of three control files; a user is a line of `vpasswd` and a
//! directory with a Maildir. Each file is replaced whole under a lock, in an order in which a stop at any point leaves
//! mail either refused or delivered, never accepted without a place to go.

mod relocation;

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use mailtree_config::host::Paths;
use mailtree_protocols::assign::{self, Assignment, Controlled, Pattern};
use mailtree_protocols::cdb::CdbMake;
use mailtree_protocols::vpasswd::{self, Entry};

use crate::durable::{self, Owner};
use crate::failure::{Doing, Failure};

pub(crate) use relocation::Relocated;

/// Once `rcpthosts` has this many lines, further domains go into `morercpthosts`.
const RCPTHOSTS_LINES: usize = 50;

/// The longest name of a domain, in bytes.
const DOMAIN_MAX: usize = 96;

/// What happens with mail for an unknown user of a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unknown {
    /// It bounces.
    Bounce,
    /// It goes to this address.
    Forward(String),
}

/// A domain to be added.
#[derive(Debug, Clone)]
pub struct NewDomain {
    /// Its name.
    pub name: String,
    /// Its directory; `None`: `domains/NAME`.
    pub dir: Option<PathBuf>,
    /// Owner of its files; `None`: whoever owns `domains/`.
    pub uid: Option<u32>,
    /// Group of its files.
    pub gid: Option<u32>,
    /// Mail for unknown users.
    pub unknown: Unknown,
}

/// A user to be added.
#[derive(Debug, Clone)]
pub struct NewUser {
    /// The part before the `@`.
    pub name: String,
    /// The domain.
    pub domain: String,
    /// Hash of the password, as crypt(3) makes it.
    pub password: String,
    /// Comment; empty: the name.
    pub gecos: String,
    /// Quota as text.
    pub quota: String,
}

impl NewUser {
    /// Whether the fields can stand in `vpasswd`.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        if !vpasswd::is_name(self.name.to_ascii_lowercase().as_bytes()) {
            return Err(Failure::permanent("Illegal username"));
        }
        for (what, text, max) in
            [("gecos", &self.gecos, vpasswd::GECOS_MAX), ("quota", &self.quota, vpasswd::QUOTA_MAX)]
        {
            if text.len() > max || text.contains(|c: char| c == ':' || c.is_control()) {
                let text = format!(
                    "{what} `{}` is not allowed; allowed: {max} bytes without colons",
                    text.escape_debug()
                );
                return Err(Failure::permanent(text));
            }
        }
        Ok(())
    }
}

/// The virtual domains of a host.
#[derive(Debug)]
pub struct Vpopmail<'a> {
    paths: &'a Paths,
}

impl<'a> Vpopmail<'a> {
    /// Of the host with these paths.
    pub fn new(paths: &'a Paths) -> Self {
        Self { paths }
    }

    /// Adds a domain without users. `reread` tells a running qmail-send of the new virtual domain; mail for the domain
    /// is accepted only after that.
    pub fn add_domain(
        &self,
        new: &NewDomain,
        reread: impl FnOnce() -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let name = domain_name(&new.name)?;
        let users = durable::owner_of(&self.paths.users)?;
        let _lock = durable::lock(&self.paths.users.join("assign.lock"), users)?;
        let mut assignments = self.assignments()?;
        let pattern = without(&assignments, &name)?;
        let domains = durable::owner_of(&self.paths.domains)?;
        let owner = Owner { uid: new.uid.unwrap_or(domains.uid), gid: new.gid.unwrap_or(domains.gid) };
        let dir = match &new.dir {
            Some(dir) => std::path::absolute(dir).doing("find", dir)?.join("domains").join(&name),
            None => std::path::absolute(self.paths.domains.join(&name)).doing("find", &self.paths.domains)?,
        };
        let home = field(&dir)?;
        self.create_domain_dir(&dir, owner, &new.unknown)?;
        assignments.push(Assignment {
            pattern,
            controlled: Controlled {
                user: name.clone().into_bytes(),
                uid: owner.uid,
                gid: owner.gid,
                home,
                dash: b"-".to_vec(),
                ext: Vec::new(),
            },
        });
        self.write_assignments(&assignments, users).inspect_err(|_| remove_unfinished(&dir))?;
        self.remove_from_locals(&name)?;
        self.append("virtualdomains", &format!("{name}:{name}"))?;
        reread().map_err(|failure| {
            failure.and(format!("once qmail-send runs, add {name} to control/rcpthosts"))
        })?;
        self.accept(&name)
    }

    /// Adds a user to a domain and makes the Maildir.
    pub fn add_user(&self, new: &NewUser) -> Result<(), Failure> {
        new.check()?;
        let name = new.name.to_ascii_lowercase();
        let (dir, owner) = self.domain(&new.domain)?;
        let _lock = durable::lock(&dir.join(".vpasswd.lock"), owner)?;
        let mut entries = entries_without(&dir, &name)?;
        let user_dir = dir.join(&name);
        create_maildir(&user_dir, owner)?;
        entries.push(Entry {
            password: new.password.clone().into_bytes(),
            uid: 1,
            flags: 0,
            gecos: if new.gecos.is_empty() { name.clone() } else { new.gecos.clone() }.into_bytes(),
            dir: field(&user_dir)?,
            quota: new.quota.clone().into_bytes(),
            clear: None,
            name: name.into_bytes(),
        });
        write_vpasswd(&dir, &entries, owner)
    }

    /// Whether a user may be added, before anybody is asked for his password.
    ///
    /// # Errors
    /// If the domain does not exist, the user does, or nobody can say.
    pub fn may_add_user(&self, name: &str, domain: &str) -> Result<(), Failure> {
        entries_without(&self.domain(domain)?.0, &name.to_ascii_lowercase()).map(drop)
    }

    /// Whether a domain may be added, before anybody is asked for its postmaster's password.
    ///
    /// # Errors
    /// If it exists, or nobody can say.
    pub fn may_add_domain(&self, name: &str) -> Result<(), Failure> {
        without(&self.assignments()?, name).map(drop)
    }

    /// Directory and owner of a domain, or of the domain that it is an alias of.
    fn domain(&self, name: &str) -> Result<(PathBuf, Owner), Failure> {
        let name = domain_name(name)?;
        let pattern = Pattern::Prefix(format!("{name}-").into_bytes());
        let found = self.assignments()?.into_iter().find(|assignment| assignment.pattern == pattern);
        let controlled = found.ok_or_else(|| Failure::permanent("Domain does not exist"))?.controlled;
        let dir = std::str::from_utf8(&controlled.home)
            .map(PathBuf::from)
            .map_err(|_| Failure::permanent("users/assign: the directory of the domain is not UTF-8"))?;
        Ok((dir, Owner { uid: controlled.uid, gid: controlled.gid }))
    }

    fn assignments(&self) -> Result<Vec<Assignment>, Failure> {
        let path = self.paths.users.join("assign");
        match durable::read(&path)? {
            Some(text) => assign::parse(&text)
                .map_err(|error| Failure::permanent(format!("{}: {error}", path.display()))),
            None => Ok(Vec::new()),
        }
    }

    /// Compiles `users/assign`, as qmail-newu does.
    pub fn newu(&self) -> Result<(), Failure> {
        let owner = durable::owner_of(&self.paths.users)?;
        // A domain that is being added at this moment must not be left out.
        let _lock = durable::lock(&self.paths.users.join("assign.lock"), owner)?;
        let missing = || Failure::temporary("unable to open users/assign: file does not exist");
        let text = durable::read(&self.paths.users.join("assign"))?.ok_or_else(missing)?;
        let bad = |error: &dyn std::fmt::Display| {
            Failure::permanent(format!("bad format in users/assign: {error}"))
        };
        let assignments = assign::parse(&text).map_err(|error| bad(&error))?;
        let cdb = assign::compile(&assignments).map_err(|error| bad(&error))?;
        durable::replace(&self.paths.users.join("cdb"), &cdb, 0o644, owner)
    }

    /// `cdb` as qmail-newu makes it, then `assign`: a domain that is in neither can be added again.
    fn write_assignments(&self, assignments: &[Assignment], owner: Owner) -> Result<(), Failure> {
        let cdb = assign::compile(assignments).map_err(|error| Failure::permanent(error.to_string()))?;
        durable::replace(&self.paths.users.join("cdb"), &cdb, 0o644, owner)?;
        durable::replace(&self.paths.users.join("assign"), &assign::format(assignments), 0o644, owner)
    }

    /// All of the domain's directory, or nothing: what was made is removed again when something fails.
    fn create_domain_dir(&self, dir: &Path, owner: Owner, unknown: &Unknown) -> Result<(), Failure> {
        if let Some(parent) = dir.parent().filter(|parent| !parent.exists()) {
            durable::create_dir(parent, 0o700, owner)?;
        }
        match std::fs::symlink_metadata(dir) {
            Ok(_) => return Err(Failure::permanent(format!("{}: directory exists already", dir.display()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Failure::io("stat", dir, &error)),
        }
        durable::create_dir(dir, 0o700, owner)?;
        let action = match unknown {
            Unknown::Bounce => "bounce-no-mailbox",
            Unknown::Forward(address) => address,
        };
        let vdelivermail = self.paths.domains.with_file_name("bin").join("vdelivermail");
        let line = format!("| {} '' {action}\n", vdelivermail.display());
        let made = durable::create(&dir.join(".qmail-default"), line.as_bytes(), 0o600, owner)
            .and_then(|()| write_vpasswd(dir, &[], owner));
        made.inspect_err(|_| remove_unfinished(dir))
    }

    /// A domain cannot be local and virtual. Without a file `me` is local.
    fn remove_from_locals(&self, name: &str) -> Result<(), Failure> {
        let path = self.paths.control.join("locals");
        let me = self.paths.control.join("me");
        let text = match durable::read(&path)? {
            Some(text) => text,
            None => {
                let me = durable::read(&me)?.unwrap_or_default();
                let me = me.split(|&b| b == b'\n').next().unwrap_or_default();
                [me.trim_ascii_end(), b"\n"].concat()
            }
        };
        let lines: Vec<&[u8]> = text.split_inclusive(|&b| b == b'\n').collect();
        let kept: Vec<&[u8]> = lines
            .iter()
            .copied()
            .filter(|line| !line.trim_ascii_end().eq_ignore_ascii_case(name.as_bytes()))
            .collect();
        if kept.len() == lines.len() {
            return Ok(());
        }
        durable::replace(&path, &kept.concat(), 0o644, durable::owner_of(&self.paths.control)?)
    }

    /// `rcpthosts`, or `morercpthosts` and its database once there are many.
    fn accept(&self, name: &str) -> Result<(), Failure> {
        let rcpthosts = durable::read(&self.paths.control.join("rcpthosts"))?.unwrap_or_default();
        if rcpthosts.split(|&b| b == b'\n').filter(|line| !line.is_empty()).count() < RCPTHOSTS_LINES {
            return self.append("rcpthosts", name);
        }
        self.append("morercpthosts", name)?;
        self.compile_morercpthosts()
    }

    /// Compiles `control/morercpthosts`, as qmail-newmrh does.
    pub fn newmrh(&self) -> Result<(), Failure> {
        // A domain that is being added at this moment must not be left out.
        let _lock =
            durable::lock(&self.paths.users.join("assign.lock"), durable::owner_of(&self.paths.users)?)?;
        self.compile_morercpthosts()
    }

    fn compile_morercpthosts(&self) -> Result<(), Failure> {
        let source = self.paths.control.join("morercpthosts");
        let missing =
            || Failure::temporary(format!("unable to read {}: file does not exist", source.display()));
        let more = durable::read(&source)?.ok_or_else(missing)?;
        let mut make = CdbMake::new();
        for line in more.split(|&b| b == b'\n').map(<[u8]>::trim_ascii_end) {
            if !line.is_empty() && !line.starts_with(b"#") {
                make.add(&line.to_ascii_lowercase(), b"")
                    .map_err(|error| Failure::permanent(error.to_string()))?;
            }
        }
        let path = self.paths.control.join("morercpthosts.cdb");
        durable::replace(&path, &make.finish(), 0o644, durable::owner_of(&self.paths.control)?)
    }

    /// Appends a line to a control file unless it stands there already.
    fn append(&self, file: &str, line: &str) -> Result<(), Failure> {
        let path = self.paths.control.join(file);
        let mut text = durable::read(&path)?.unwrap_or_default();
        let lines = text.split(|&b| b == b'\n');
        if lines.map(<[u8]>::trim_ascii_end).any(|old| old.eq_ignore_ascii_case(line.as_bytes())) {
            return Ok(());
        }
        if text.last().is_some_and(|&b| b != b'\n') {
            text.push(b'\n');
        }
        text.extend_from_slice(line.as_bytes());
        text.push(b'\n');
        durable::replace(&path, &text, 0o644, durable::owner_of(&self.paths.control)?)
    }
}

/// Removes the directory of a domain that was not finished. The failure before it is the one to report; what could not
/// be removed is named by the next attempt.
fn remove_unfinished(dir: &Path) {
    std::fs::remove_dir_all(dir).unwrap_or_default();
}

/// The database last: who finds a user there finds the Maildir too.
fn write_vpasswd(dir: &Path, entries: &[Entry], owner: Owner) -> Result<(), Failure> {
    let cdb = vpasswd::compile(entries).map_err(|error| Failure::permanent(error.to_string()))?;
    durable::replace(&dir.join("vpasswd"), &vpasswd::format(entries), 0o600, owner)?;
    durable::replace(&dir.join("vpasswd.cdb"), &cdb, 0o600, owner)
}

/// `USER/Maildir/{cur,new,tmp}`; what an interrupted attempt left is taken over.
fn create_maildir(user_dir: &Path, owner: Owner) -> Result<(), Failure> {
    let maildir = user_dir.join("Maildir");
    let below = ["cur", "new", "tmp"].map(|name| maildir.join(name));
    for dir in [user_dir.to_owned(), maildir.clone()].iter().chain(&below) {
        match std::fs::symlink_metadata(dir) {
            // Never through a link: its target would become the user's.
            Ok(old) if !old.is_dir() => {
                return Err(Failure::permanent(format!("{}: not a directory", dir.display())));
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => durable::create_dir(dir, 0o700, owner)?,
            Err(error) => return Err(Failure::io("stat", dir, &error)),
        }
    }
    Ok(())
}

/// The name of a domain in lower case, if it can be one (RFC 5321 2.3.5, RFC 1035 2.3.1).
pub(crate) fn domain_name(name: &str) -> Result<String, Failure> {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    // No top-level domain is a number (RFC 3696 2): it would be an address, or the argument of an option.
    let number = name.rsplit('.').next().is_some_and(|top| top.bytes().all(|b| b.is_ascii_digit()));
    if name.len() > DOMAIN_MAX || number || !name.split('.').all(label) {
        return Err(Failure::permanent("Invalid domain name"));
    }
    Ok(name.to_ascii_lowercase())
}

/// A path as a field of `assign` and `vpasswd`.
fn field(path: &Path) -> Result<Vec<u8>, Failure> {
    let bytes = path.as_os_str().as_encoded_bytes();
    if path.to_str().is_none() || bytes.iter().any(|&b| b == b':' || b.is_ascii_control()) {
        let text = format!(
            "{}: allowed here: a path in UTF-8 without colons and control characters",
            path.display()
        );
        return Err(Failure::permanent(text));
    }
    Ok(bytes.to_vec())
}

/// Makes a directory and those above it.
pub(crate) fn create_dirs(path: &Path) -> Result<(), Failure> {
    DirBuilder::new().recursive(true).mode(0o755).create(path).doing("create", path)
}

/// The pattern of a domain that is not there.
fn without(assignments: &[Assignment], name: &str) -> Result<Pattern, Failure> {
    let pattern = Pattern::Prefix(format!("{name}-").into_bytes());
    if assignments.iter().any(|assignment| assignment.pattern == pattern) {
        return Err(Failure::permanent("Domain already exists"));
    }
    Ok(pattern)
}

/// The users in a domain's directory, as `vpasswd` names them; none without it.
fn entries(dir: &Path) -> Result<Vec<Entry>, Failure> {
    let file = dir.join("vpasswd");
    let Some(text) = durable::read(&file)? else { return Ok(Vec::new()) };
    vpasswd::parse(&text).map_err(|error| Failure::permanent(format!("{}: {error}", file.display())))
}

/// The same, of whom none has this name.
fn entries_without(dir: &Path, name: &str) -> Result<Vec<Entry>, Failure> {
    let entries = entries(dir)?;
    if entries.iter().any(|entry| entry.name.eq_ignore_ascii_case(name.as_bytes())) {
        return Err(Failure::permanent("Username exists"));
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use mailtree_config::{Control, Host};
    use mailtree_protocols::cdb::Cdb;

    use super::*;
    use crate::command::init::{Options, initialise};

    struct Home {
        _dir: tempfile::TempDir,
        paths: Paths,
    }

    fn home() -> Home {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { me: Some("mail.example.org".to_owned()), ..Options::default() };
        let report = initialise(dir.path(), &options).unwrap();
        Home { paths: Host::load(&report.home).unwrap().paths(), _dir: dir }
    }

    impl Home {
        fn read(&self, file: &str) -> String {
            String::from_utf8(std::fs::read(self.paths.home.join(file)).unwrap()).unwrap()
        }

        fn write(&self, file: &str, text: &str) {
            std::fs::write(self.paths.home.join(file), text).unwrap();
        }

        fn add_domain(&self, name: &str) -> Result<(), Failure> {
            Vpopmail::new(&self.paths).add_domain(&domain(name), || Ok(()))
        }

        fn add_user(&self, name: &str, domain: &str) -> Result<(), Failure> {
            Vpopmail::new(&self.paths).add_user(&user(name, domain))
        }
    }

    fn domain(name: &str) -> NewDomain {
        NewDomain { name: name.to_owned(), dir: None, uid: None, gid: None, unknown: Unknown::Bounce }
    }

    fn user(name: &str, domain: &str) -> NewUser {
        NewUser {
            name: name.to_owned(),
            domain: domain.to_owned(),
            password: "$6$salt$hash".to_owned(),
            gecos: String::new(),
            quota: "NOQUOTA".to_owned(),
        }
    }

    #[test]
    fn a_domain_is_entered_everywhere() {
        let home = home();
        home.write("control/locals", "localhost\nVirtual.example\n# kept\nother.example");
        home.add_domain("Virtual.Example").unwrap();
        let dir = home.paths.domains.join("virtual.example");
        let Owner { uid, gid } = Owner::of(&home.paths.domains).unwrap();
        let line = format!("+virtual.example-:virtual.example:{uid}:{gid}:{}:-::\n.\n", dir.display());
        assert!(home.read("users/assign").ends_with(&line), "{}", home.read("users/assign"));
        assert_eq!(home.read("control/locals"), "localhost\n# kept\nother.example");
        assert!(home.read("control/virtualdomains").ends_with("virtual.example:virtual.example\n"));
        assert!(home.read("control/rcpthosts").ends_with("virtual.example\n"));
        assert!(
            home.read("domains/virtual.example/.qmail-default")
                .ends_with("vdelivermail '' bounce-no-mailbox\n")
        );
        let users = Cdb::new(std::fs::read(home.paths.users.join("cdb")).unwrap()).unwrap();
        let found = assign::lookup(&users, b"virtual.example-joe").unwrap().unwrap();
        assert_eq!(found.home, dir.as_os_str().as_encoded_bytes());
        let control = Control::new(&home.paths.control);
        assert_eq!(control.smtpd().unwrap().rcpthosts.allows(b"virtual.example"), Ok(true));
        assert_eq!(
            control.send().unwrap().virtualdomains.prepend(b"joe@virtual.example", 3),
            Some(&b"virtual.example"[..])
        );
    }

    #[test]
    fn a_domain_twice() {
        let home = home();
        home.add_domain("v.example").unwrap();
        let before = home.read("users/assign");
        assert_eq!(home.add_domain("V.example").unwrap_err().to_string(), "Domain already exists");
        assert_eq!(home.read("users/assign"), before);
    }

    #[test]
    fn mail_is_accepted_only_after_send_knows_the_domain() {
        let home = home();
        let vpopmail = Vpopmail::new(&home.paths);
        vpopmail
            .add_domain(&domain("v.example"), || {
                assert!(home.read("control/virtualdomains").contains("v.example:v.example"));
                assert!(!home.read("control/rcpthosts").contains("v.example"));
                Ok(())
            })
            .unwrap();
        let refused =
            vpopmail.add_domain(&domain("w.example"), || Err(Failure::temporary("send does not answer")));
        let failure = refused.unwrap_err();
        assert!(!failure.is_permanent());
        assert_eq!(
            failure.to_string(),
            "send does not answer; once qmail-send runs, add w.example to control/rcpthosts"
        );
        assert!(!home.read("control/rcpthosts").contains("w.example"));
    }

    #[test]
    fn me_ceases_to_be_local_without_a_locals_file() {
        let home = home();
        std::fs::remove_file(home.paths.control.join("locals")).unwrap();
        home.write("control/me", "new.example \n");
        home.add_domain("new.example").unwrap();
        assert_eq!(home.read("control/locals"), "");
    }

    #[test]
    fn many_domains_go_into_morercpthosts() {
        let home = home();
        let lines: Vec<String> = (0..50).map(|n| format!("d{n}.example\n")).collect();
        home.write("control/rcpthosts", &lines.concat());
        home.add_domain("v.example").unwrap();
        assert_eq!(home.read("control/rcpthosts"), lines.concat());
        assert_eq!(home.read("control/morercpthosts"), "v.example\n");
        let hosts = &Control::new(&home.paths.control).smtpd().unwrap().rcpthosts;
        assert_eq!((hosts.allows(b"v.example"), hosts.allows(b"w.example")), (Ok(true), Ok(false)));
    }

    #[test]
    fn a_user_gets_a_line_and_a_maildir() {
        let home = home();
        home.add_user("Joe", "MAIL.example.org").unwrap();
        home.add_user("ann", "mail.example.org").unwrap();
        let dir = home.paths.domains.join("mail.example.org");
        let text = home.read("domains/mail.example.org/vpasswd");
        let names: Vec<&str> = text.lines().filter_map(|line| line.split(':').next()).collect();
        assert_eq!(names, ["ann", "joe", "postmaster"]);
        let line = format!("joe:$6$salt$hash:1:0:joe:{}:NOQUOTA", dir.join("joe").display());
        assert!(text.contains(&line), "{text}");
        let users = Cdb::new(std::fs::read(dir.join("vpasswd.cdb")).unwrap()).unwrap();
        assert_eq!(vpasswd::lookup(&users, b"joe").unwrap().unwrap().format(), line.as_bytes());
        for sub in ["cur", "new", "tmp"] {
            let mode = std::fs::metadata(dir.join("joe/Maildir").join(sub)).unwrap().mode();
            assert_eq!(mode & 0o7777, 0o700, "{sub}");
        }
    }

    #[test]
    fn users_that_cannot_be_added() {
        let home = home();
        for (name, domain, expected) in [
            ("postmaster", "mail.example.org", "Username exists"),
            ("PostMaster", "mail.example.org", "Username exists"),
            ("joe", "elsewhere.example", "Domain does not exist"),
            ("../joe", "mail.example.org", "Illegal username"),
            ("joe:x", "mail.example.org", "Illegal username"),
            ("", "mail.example.org", "Illegal username"),
            ("joe", "../..", "Invalid domain name"),
        ] {
            let failure = home.add_user(name, domain).unwrap_err();
            assert_eq!(
                (failure.to_string().as_str(), failure.is_permanent()),
                (expected, true),
                "{name}@{domain}"
            );
        }
        let gecos = NewUser { gecos: "a:b".to_owned(), ..user("joe", "mail.example.org") };
        Vpopmail::new(&home.paths).add_user(&gecos).unwrap_err();
        assert!(!home.paths.domains.join("mail.example.org/joe").exists());
    }

    #[test]
    fn a_link_in_the_place_of_a_user_is_not_followed() {
        let home = home();
        let target = home.paths.home.join("target");
        std::fs::create_dir(&target).unwrap();
        std::os::unix::fs::symlink(&target, home.paths.domains.join("mail.example.org/joe")).unwrap();
        let failure = home.add_user("joe", "mail.example.org").unwrap_err();
        assert!(failure.to_string().contains("not a directory"), "{failure}");
        assert_eq!(std::fs::read_dir(&target).unwrap().count(), 0);
    }

    #[test]
    fn many_at_once_lose_nobody() {
        let home = home();
        std::thread::scope(|scope| {
            for n in 0..16 {
                let home = &home;
                scope.spawn(move || home.add_user(&format!("user{n}"), "mail.example.org").unwrap());
            }
        });
        assert_eq!(home.read("domains/mail.example.org/vpasswd").lines().count(), 17);
    }

    #[test]
    fn names_of_domains() {
        for (name, expected) in [
            ("Example.ORG", Some("example.org")),
            ("localhost", Some("localhost")),
            ("xn--bcher-kva.example", Some("xn--bcher-kva.example")),
            ("", None),
            (".", None),
            ("a..b", None),
            ("example.org.", None),
            ("-a.example", None),
            ("a-.example", None),
            ("a_b.example", None),
            ("a/b", None),
            ("a:b", None),
        ] {
            assert_eq!(domain_name(name).ok().as_deref(), expected, "{name}");
        }
        assert!(domain_name(&format!("{}.example", "a".repeat(64))).is_err());
        assert!(domain_name(&["abcdefghi"; 10].join(".")).is_err());
    }
}
