//! Who runs the host when root has started it: `users.host` of `host.ron`, else whom `run/` or the home belongs to.

use std::ffi::CString;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, lchown};
use std::path::Path;

use mailtree_actors::rights::become_user;
use mailtree_config::Host;
use mailtree_config::host::Paths;
use nix::unistd::{Gid, Uid, User, getgrouplist};

use crate::durable::Owner;
use crate::failure::{Doing as _, Failure};

/// The account that packages make for the host.
const OWN: &str = "mailtree";

/// Numbers that no account of Debian's or systemd's gets (systemd's UIDS-GIDS.md: unused).
const FREE: std::ops::Range<u32> = 60_706..61_184;

/// Who runs a host, and is not root.
#[derive(Debug, Clone)]
pub(crate) struct Account {
    /// Its name, or its number if it has none.
    pub(crate) name: String,
    /// The user.
    pub(crate) user: Uid,
    /// The groups, his own first.
    pub(crate) groups: Vec<Gid>,
}

impl Account {
    /// The account of this name, or of a number that has none.
    ///
    /// # Errors
    /// Permanent: there is none, or it is root's.
    pub(crate) fn named(name: &str) -> Result<Self, Failure> {
        let unable = |why: &str| {
            Failure::permanent(format!(
                "users.host: {name:?} {why}; allowed: an account, or a number, that is not root's"
            ))
        };
        let number = name.parse::<u32>().ok().map(Uid::from_raw);
        let user = match number {
            Some(number) => User::from_uid(number),
            None => User::from_name(name),
        };
        let user = user.map_err(|error| Failure::temporary(format!("users.host: {name:?}: {error}")))?;
        let account = match (user, number) {
            (Some(user), _) => Self::of(user),
            (None, Some(number)) => {
                Self { name: name.to_owned(), user: number, groups: vec![Gid::from_raw(number.as_raw())] }
            }
            (None, None) => return Err(unable("is no account")),
        };
        if account.user.is_root() || account.group().as_raw() == 0 {
            return Err(unable("is root"));
        }
        Ok(account)
    }

    fn of(user: User) -> Self {
        let more = CString::new(user.name.as_str()).map_err(|_| nix::Error::EINVAL);
        let more = more.and_then(|name| getgrouplist(&name, user.gid)).unwrap_or_default();
        let groups =
            [user.gid].into_iter().chain(more.into_iter().filter(|group| *group != user.gid)).collect();
        Self { name: user.name, user: user.uid, groups }
    }

    /// Who runs this host if root, whom this process must be, starts it; none: whoever starts it.
    ///
    /// # Errors
    /// As [`Account::named`].
    pub(crate) fn of_host(host: &Host) -> Result<Option<Self>, Failure> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        if let Some(name) = &host.users.host {
            return Self::named(name).map(Some);
        }
        let paths = host.paths();
        let owner = |path: &Path| fs::metadata(path).map(|meta| meta.uid()).ok().filter(|uid| *uid != 0);
        match owner(&paths.run).or_else(|| owner(&paths.home)) {
            Some(uid) => Self::named(&uid.to_string()).map(Some),
            None => Ok(None),
        }
    }

    /// Who is to run a new host that root makes: the account that packages make, else a number that is nobody's. None: this
    /// process is not root, or neither could reach it.
    pub(crate) fn for_new_home(home: &Path) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let seed = home
            .as_os_str()
            .as_encoded_bytes()
            .iter()
            .fold(7_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(*byte)));
        let span = FREE.end - FREE.start;
        let numbers = (0..span).map(|n| FREE.start + (seed.wrapping_add(n)) % span);
        let free = |uid: &u32| matches!(User::from_uid(Uid::from_raw(*uid)), Ok(None));
        let account = match Self::named(OWN) {
            Ok(account) => Some(account),
            Err(_) => numbers.into_iter().find(free).and_then(|uid| Self::named(&uid.to_string()).ok()),
        };
        account.filter(|account| account.reaches(home))
    }

    /// Makes him a member of these groups, too.
    pub(crate) fn join(&mut self, groups: &[u32]) {
        for group in groups.iter().map(|group| Gid::from_raw(*group)) {
            if !self.groups.contains(&group) {
                self.groups.push(group);
            }
        }
    }

    /// Who owns what he makes.
    pub(crate) fn owner(&self) -> Owner {
        Owner { uid: self.user.as_raw(), gid: self.group().as_raw() }
    }

    /// His own group.
    pub(crate) fn group(&self) -> Gid {
        self.groups.first().copied().unwrap_or(Gid::from_raw(u32::MAX))
    }

    /// Whether the mode of a file gives him all of `bits` (4 read, 2 write, 1 search). Access lists are not asked.
    pub(crate) fn may(&self, metadata: &Metadata, bits: u32) -> bool {
        let shift = if metadata.uid() == self.user.as_raw() {
            6
        } else if self.groups.iter().any(|group| group.as_raw() == metadata.gid()) {
            3
        } else {
            0
        };
        metadata.mode() >> shift & bits == bits
    }

    /// Whether the way to this path, with its links followed, is open.
    pub(crate) fn reaches(&self, path: &Path) -> bool {
        path.canonicalize().is_ok_and(|real| {
            real.ancestors().skip(1).all(|dir| fs::metadata(dir).is_ok_and(|metadata| self.may(&metadata, 1)))
        })
    }

    /// Gives him what a host in this home writes, as far as it is root's; everything else stays root's, so that he cannot
    /// change what root obeys.
    ///
    /// # Errors
    /// When something cannot be given.
    pub(crate) fn take_over(&self, paths: &Paths) -> Result<(), Failure> {
        let Paths { home, control, queue, alias, domains, run, journal_id, trusted, .. } = paths;
        let inside = |path: &&Path| path.starts_with(home);
        for path in
            [queue, alias, domains, run, journal_id, trusted].into_iter().map(|path| &**path).filter(inside)
        {
            self.give(path).doing("give to the host's user", path)?;
        }
        // He may make files in it, and nobody's but his own can he rename.
        let meta = fs::metadata(home).doing("look at", home)?;
        if meta.uid() == 0 {
            lchown(home, None, Some(self.group().as_raw())).doing("chown", home)?;
            fs::set_permissions(home, fs::Permissions::from_mode(0o1775)).doing("chmod", home)?;
        }
        if inside(&&**control) {
            self.give_keys(control).doing("give to the host's user", control)?;
        }
        Ok(())
    }

    /// Gives a tree to him as far as it is root's. What another user may already change is not looked into: he could put there
    /// what is not his.
    fn give(&self, path: &Path) -> io::Result<()> {
        let meta = match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            found => found?,
        };
        if meta.uid() != 0 || meta.is_symlink() || (!meta.is_dir() && meta.nlink() != 1) {
            return Ok(());
        }
        if meta.is_dir() {
            if meta.mode() & 0o022 != 0 {
                return Ok(());
            }
            for entry in fs::read_dir(path)? {
                self.give(&entry?.path())?;
            }
        }
        lchown(path, Some(self.user.as_raw()), Some(self.group().as_raw()))?;
        // chown takes some bits away.
        if !meta.is_file() || meta.mode() & 0o6000 == 0 {
            Ok(())
        } else {
            fs::set_permissions(path, meta.permissions())
        }
    }

    /// Certificates with keys that root alone can read: he has to, and can change nothing else beside them.
    fn give_keys(&self, control: &Path) -> io::Result<()> {
        for entry in fs::read_dir(control)? {
            let path = entry?.path();
            let meta = fs::symlink_metadata(&path)?;
            if path.extension().is_some_and(|extension| extension == "pem") && meta.mode() & 0o077 == 0 {
                self.give(&path)?;
            }
        }
        Ok(())
    }

    /// Makes this process his, for good.
    ///
    /// # Errors
    /// Temporary: root could not be given up.
    pub(crate) fn become_him(&self) -> Result<(), Failure> {
        become_user(self.user, &self.groups)
            .map_err(|error| Failure::temporary(format!("unable to run as {}: {error}", self.name)))
    }
}
