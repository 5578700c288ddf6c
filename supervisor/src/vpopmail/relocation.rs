//! Paths of a home that was moved or copied, rewritten where files name them.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use mailtree_protocols::assign::{self, Assignment, Pattern};
use mailtree_protocols::cdb::Cdb;
use mailtree_protocols::vpasswd::Entry;

use super::{Vpopmail, field, write_vpasswd};
use crate::durable::{self, Owner};
use crate::elsewhere::{self, real};
use crate::failure::{Doing, Failure};

/// What a rewriting did.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Relocated {
    /// Which files, and how many paths in each.
    pub(crate) files: Vec<(PathBuf, usize)>,
    /// Directories and links that were left as they are, and why.
    pub(crate) left: Vec<String>,
}

impl Vpopmail<'_> {
    /// Rewrites the paths that begin with `old`: in each domain's `vpasswd`, in its `.qmail` files, in its users' and in those of
    /// the user alias, and then in `users/assign`. With `dry_run` nothing is written.
    ///
    /// Nothing outside of the home is touched: what a copy links to is its original's. Only when `old` is gone, since the home was
    /// moved, links are followed out of it.
    pub(crate) fn relocate(&self, old: &Path, new: &Path, dry_run: bool) -> Result<Relocated, Failure> {
        let users = durable::owner_of(&self.paths.users)?;
        let _lock = durable::lock(&self.paths.users.join("assign.lock"), users)?;
        let mut relocation = Relocation {
            old: field(old)?,
            new: field(new)?,
            is_gone: old.symlink_metadata().is_err(),
            own: elsewhere::bases(self.paths),
            dry_run,
            done: Relocated::default(),
        };
        let mut assignments = self.assignments()?;
        let mut count = 0;
        let mut seen = std::collections::HashSet::new();
        for Assignment { pattern, controlled } in &mut assignments {
            count += relocation.field(&mut controlled.home);
            let dir = PathBuf::from(OsStr::from_bytes(&controlled.home));
            // Of a user of the system nothing is read.
            if matches!(pattern, Pattern::Prefix(_)) && seen.insert(dir.clone()) {
                relocation.domain(&dir)?;
            }
        }
        relocation.instructions(&self.paths.alias)?;
        let compiled = self.paths.users.join("cdb");
        let in_database =
            durable::read(&compiled)?.and_then(|bytes| Cdb::new(bytes).ok()).map_or(0, |users| {
                assign::entries(&users).filter(|entry| relocation.moved(&entry.home).is_some()).count()
            });
        if count + in_database > 0 && !dry_run {
            self.write_assignments(&assignments, users)?;
        }
        let Relocated { files, left } = &mut relocation.done;
        match (count, in_database) {
            (0, 0) => (),
            (0, stale) => files.push((compiled, stale)),
            (count, _) => files.push((self.paths.users.join("assign"), count)),
        }
        left.dedup();
        Ok(relocation.done)
    }
}

/// One rewriting.
struct Relocation {
    old: Vec<u8>,
    new: Vec<u8>,
    /// Whether there is nothing at `old` any more.
    is_gone: bool,
    /// Where the home's own directories really are.
    own: Vec<PathBuf>,
    dry_run: bool,
    done: Relocated,
}

impl Relocation {
    /// A path with `new` in place of `old` at its beginning; none if it does not begin so.
    fn moved(&self, path: &[u8]) -> Option<Vec<u8>> {
        let rest = path.strip_prefix(self.old.as_slice())?;
        (rest.is_empty() || rest.starts_with(b"/")).then(|| [&self.new, rest].concat())
    }

    /// Rewrites a field; how many paths it had.
    fn field(&self, path: &mut Vec<u8>) -> usize {
        self.moved(path).map_or(0, |moved| {
            *path = moved;
            1
        })
    }

    /// Whether this directory may be written into.
    fn may_write(&mut self, dir: &Path) -> bool {
        let Some(there) = real(dir).filter(|there| there.is_dir()) else { return false };
        let links = there != *dir;
        let may = self.own.iter().any(|own| there.starts_with(own)) || (self.is_gone && links);
        if !may {
            let (dir, there, old) = (dir.display(), there.display(), String::from_utf8_lossy(&self.old));
            self.done.left.push(if links {
                format!("{dir}: leads to {there}, outside of the home, and {old} is still there: nothing in it was rewritten")
            } else {
                format!("{dir}: outside of the home: nothing in it was rewritten")
            });
        }
        may
    }

    /// `vpasswd` with its database, and the `.qmail` files of the domain and of its users.
    fn domain(&mut self, dir: &Path) -> Result<(), Failure> {
        if !self.may_write(dir) {
            return Ok(());
        }
        let owner = durable::owner_of(dir)?;
        let file = dir.join("vpasswd");
        let mut users = Vec::new();
        if file.exists() {
            let _lock = durable::lock(&dir.join(".vpasswd.lock"), owner)?;
            let mut entries = super::entries(dir)?;
            let count = entries.iter_mut().map(|entry| self.field(&mut entry.dir)).sum::<usize>();
            let compiled = dir.join("vpasswd.cdb");
            let in_database =
                durable::read(&compiled)?.and_then(|bytes| Cdb::new(bytes).ok()).map_or(0, |users| {
                    let entries =
                        users.iter().flatten().filter_map(|(name, data)| Entry::from_record(name, data).ok());
                    entries.filter(|entry| self.moved(&entry.dir).is_some()).count()
                });
            if count + in_database > 0 && !self.dry_run {
                write_vpasswd(dir, &entries, owner)?;
            }
            match (count, in_database) {
                (0, 0) => (),
                (0, stale) => self.done.files.push((compiled, stale)),
                (count, _) => self.done.files.push((file, count)),
            }
            users = entries;
        }
        self.instructions(dir)?;
        for user in users {
            let own = PathBuf::from(OsStr::from_bytes(&user.dir));
            if own != dir {
                self.instructions(&own)?;
            }
        }
        Ok(())
    }

    /// The `.qmail` files in `dir`; each keeps owner and mode.
    fn instructions(&mut self, dir: &Path) -> Result<(), Failure> {
        if !self.may_write(dir) {
            return Ok(());
        }
        for entry in std::fs::read_dir(dir).doing("read", dir)? {
            let entry = entry.doing("read", dir)?;
            if !entry.file_name().as_bytes().starts_with(b".qmail") {
                continue;
            }
            let path = entry.path();
            let meta = entry.metadata().doing("stat", &path)?;
            if meta.is_symlink() {
                let there = std::fs::read_link(&path).doing("read", &path)?;
                if self.moved(there.as_os_str().as_bytes()).is_some() {
                    self.done.left.push(format!("{}: is a link to {}", path.display(), there.display()));
                }
            }
            if !meta.is_file() {
                continue;
            }
            let text = durable::read(&path)?.unwrap_or_default();
            let (text, count) = replaced(&text, &self.old, &self.new);
            if count > 0 {
                if !self.dry_run {
                    let owner = Owner { uid: meta.uid(), gid: meta.gid() };
                    durable::replace(&path, &text, meta.mode() & 0o7777, owner)?;
                }
                self.done.files.push((path, count));
            }
        }
        Ok(())
    }
}

/// A text with `new` in place of each path that begins with `old`, and how many there were.
fn replaced(text: &[u8], old: &[u8], new: &[u8]) -> (Vec<u8>, usize) {
    let part_of_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_./".contains(byte);
    let (mut out, mut rest, mut count) = (Vec::with_capacity(text.len()), text, 0);
    while let Some(first) = rest.first() {
        let begins = !out.last().is_some_and(part_of_name);
        let ends = |behind: &[u8]| behind.first().is_none_or(|byte| *byte == b'/' || !part_of_name(byte));
        match rest.strip_prefix(old) {
            Some(behind) if begins && ends(behind) => {
                out.extend_from_slice(new);
                rest = behind;
                count += 1;
            }
            _ => {
                out.push(*first);
                rest = &rest[1..];
            }
        }
    }
    (out, count)
}

#[cfg(test)]
mod tests {
    use mailtree_config::Host;
    use mailtree_config::host::Paths;

    use super::*;
    use crate::command::init::{Options, initialise};
    use crate::vpopmail::{NewDomain, NewUser, Unknown};

    /// A home with the domain virtual.example and its user bob, and a copy beside it.
    struct Copied {
        _dir: tempfile::TempDir,
        original: PathBuf,
        paths: Paths,
    }

    fn copied(change: impl FnOnce(&Path)) -> Copied {
        let dir = tempfile::tempdir().unwrap();
        let top = std::fs::canonicalize(dir.path()).unwrap();
        let (original, copy) = (top.join("home"), top.join("copy"));
        let options = Options { me: Some("mail.example.org".to_owned()), ..Options::default() };
        initialise(&original, &options).unwrap();
        let paths = Host::load(&original).unwrap().paths();
        let domain = NewDomain {
            name: "virtual.example".to_owned(),
            dir: None,
            uid: None,
            gid: None,
            unknown: Unknown::Bounce,
        };
        Vpopmail::new(&paths).add_domain(&domain, || Ok(())).unwrap();
        let user = NewUser {
            name: "bob".to_owned(),
            domain: domain.name,
            password: "$6$salt$hash".to_owned(),
            gecos: String::new(),
            quota: "NOQUOTA".to_owned(),
        };
        Vpopmail::new(&paths).add_user(&user).unwrap();
        change(&original);
        std::process::Command::new("cp").arg("-a").arg(&original).arg(&copy).status().unwrap();
        Copied { paths: Host::load(&copy).unwrap().paths(), original, _dir: dir }
    }

    impl Copied {
        fn relocate(&self, dry_run: bool) -> Relocated {
            Vpopmail::new(&self.paths).relocate(&self.original, &self.paths.home, dry_run).unwrap()
        }

        /// The names of the files below the home.
        fn names(&self, done: &Relocated) -> Vec<String> {
            let name = |(path, _): &(PathBuf, usize)| {
                path.strip_prefix(&self.paths.home).unwrap().display().to_string()
            };
            done.files.iter().map(name).collect()
        }
    }

    #[test]
    fn a_home_that_was_moved_is_noticed_and_put_right() {
        let copied = copied(|_| ());
        let (paths, new) = (&copied.paths, &copied.paths.home);
        let found = elsewhere::find(paths).unwrap();
        let said = found[0].to_string();
        let advice = format!("relocate {} {}", copied.original.display(), new.display());
        assert!(said.ends_with(&advice), "{said}");
        let would = copied.relocate(true);
        let expected = [
            "domains/mail.example.org/vpasswd",
            "domains/mail.example.org/.qmail-default",
            "domains/virtual.example/vpasswd",
            "domains/virtual.example/.qmail-default",
            "users/assign",
        ];
        assert_eq!(copied.names(&would), expected);
        assert!(!elsewhere::find(paths).unwrap().is_empty(), "a dry run changes nothing");
        assert_eq!(copied.relocate(false), would);
        assert_eq!(elsewhere::find(paths).unwrap(), []);
        assert_eq!(copied.relocate(false), Relocated::default());
        let line = std::fs::read_to_string(paths.domains.join("virtual.example/.qmail-default")).unwrap();
        assert!(line.starts_with(&format!("| {}/bin/vdelivermail", new.display())), "{line}");
    }

    #[test]
    fn users_have_instructions_of_their_own() {
        let copied = copied(|home| {
            let bob = home.join("domains/virtual.example/bob");
            std::fs::write(bob.join(".qmail"), format!("{}/Maildir/\n", bob.display())).unwrap();
            std::fs::write(bob.join(".qmail-ext"), format!("&x@y\n{}/ext/\n", bob.display())).unwrap();
        });
        let doubtful = elsewhere::doubtful(&copied.paths).unwrap().join("\n");
        assert!(doubtful.contains("copy/domains/virtual.example/bob/.qmail: names "), "{doubtful}");
        let done = copied.relocate(false);
        let names = copied.names(&done);
        for name in [".qmail", ".qmail-ext"] {
            assert!(names.contains(&format!("domains/virtual.example/bob/{name}")), "{names:?}");
        }
        let bob = copied.paths.domains.join("virtual.example/bob");
        let expected = format!("{}/Maildir/\n", bob.display());
        assert_eq!(std::fs::read_to_string(bob.join(".qmail")).unwrap(), expected);
        assert_eq!(elsewhere::doubtful(&copied.paths).unwrap(), Vec::<String>::new());
    }

    /// A copy whose directories are links to those of the original writes nothing there.
    #[test]
    fn links_out_of_a_copy_are_not_followed_while_the_original_is_there() {
        let copied = copied(|home| {
            let domain = home.join("domains/virtual.example");
            let disk = home.with_file_name("disk");
            std::fs::rename(&domain, &disk).unwrap();
            std::os::unix::fs::symlink(&disk, &domain).unwrap();
        });
        let disk = copied.original.with_file_name("disk");
        let before = std::fs::read_to_string(disk.join("vpasswd")).unwrap();
        let done = copied.relocate(false);
        assert_eq!(std::fs::read_to_string(disk.join("vpasswd")).unwrap(), before);
        let said = format!(
            "{}: leads to {}, outside of the home, and {} is still there: nothing in it was rewritten",
            copied.paths.domains.join("virtual.example").display(),
            disk.display(),
            copied.original.display()
        );
        assert_eq!(done.left, [said]);
        // Moved, the home has its other disk for itself.
        std::fs::remove_dir_all(&copied.original).unwrap();
        let done = copied.relocate(false);
        assert!(copied.names(&done).contains(&"domains/virtual.example/vpasswd".to_owned()), "{done:?}");
        assert_ne!(std::fs::read_to_string(disk.join("vpasswd")).unwrap(), before);
    }

    /// What the host looks into are the databases.
    #[test]
    fn databases_of_another_home_are_made_anew() {
        let copied = copied(|_| ());
        let [assign, vpasswd] =
            ["users/assign", "domains/virtual.example/vpasswd"].map(|name| copied.paths.home.join(name));
        for file in [&assign, &vpasswd] {
            let text = std::fs::read_to_string(file).unwrap();
            let [old, new] = [&copied.original, &copied.paths.home].map(|path| path.display().to_string());
            std::fs::write(file, text.replace(&old, &new)).unwrap();
        }
        let found = elsewhere::find(&copied.paths).unwrap();
        for name in ["users/cdb", "domains/virtual.example/vpasswd.cdb"] {
            let file = copied.paths.home.join(name);
            assert!(found.iter().any(|one| one.file == file), "{name}: {found:?}");
        }
        let names = copied.names(&copied.relocate(false));
        for name in ["users/cdb", "domains/virtual.example/vpasswd.cdb"] {
            assert!(names.contains(&name.to_owned()), "{name}: {names:?}");
        }
        assert_eq!(elsewhere::find(&copied.paths).unwrap(), []);
    }

    #[test]
    fn only_whole_paths_are_rewritten() {
        let text =
            b"| /old/bin/x '' /old/domains/y/z\n/older/Maildir/\n/a/old/Maildir/\n&bob@old\n\"/old\"\n";
        let (text, count) = replaced(text, b"/old", b"/new/place");
        let expected = "| /new/place/bin/x '' /new/place/domains/y/z\n/older/Maildir/\n/a/old/Maildir/\n&bob@old\n\"/new/place\"\n";
        assert_eq!((String::from_utf8(text).unwrap().as_str(), count), (expected, 3));
    }
}
