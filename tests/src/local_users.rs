//! Users of a host that are no vpopmail's: lines in users/assign, homes with `.qmail` files. As root each has a uid of his own,
//! which no account of the system has; otherwise all are whoever runs the tests.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use mailtree_protocols::assign;

use crate::host::Setup;

/// The domain in `locals`.
pub const DOMAIN: &str = "local.test";

/// The first uid.
const FIRST: u32 = 52_001;

/// Users being made.
pub struct LocalUsers {
    homes: PathBuf,
    users: PathBuf,
    lines: Vec<String>,
    is_root: bool,
}

/// One of them.
#[derive(Debug, Clone)]
pub struct LocalUser {
    /// His home.
    pub home: PathBuf,
    /// His uid, and his gid.
    pub uid: u32,
    is_root: bool,
}

impl LocalUsers {
    /// None yet. The host gets [`DOMAIN`] as its own.
    pub fn of(setup: &Setup) -> Self {
        let above = setup.home().parent().unwrap();
        fs::set_permissions(above, fs::Permissions::from_mode(0o711)).unwrap();
        fs::write(setup.home().join("control/locals"), format!("{DOMAIN}\n")).unwrap();
        let homes = above.join("homes");
        fs::create_dir(&homes).unwrap();
        let users = setup.home().join("users");
        let assign = fs::read_to_string(users.join("assign")).unwrap();
        let lines = assign.lines().filter(|line| *line != ".").map(str::to_owned).collect();
        Self { homes, users, lines, is_root: rustix::process::geteuid().is_root() }
    }

    /// A user, whose home has these files.
    pub fn add(&mut self, name: &str, files: &[(&str, &str)]) -> LocalUser {
        let home = self.homes.join(name);
        let number = u32::try_from(fs::read_dir(&self.homes).unwrap().count()).unwrap();
        let uid = if self.is_root { FIRST + number } else { rustix::process::geteuid().as_raw() };
        fs::create_dir(&home).unwrap();
        let user = LocalUser { home, uid, is_root: self.is_root };
        user.own(&user.home);
        for (file, text) in files {
            user.write(file, text);
        }
        for (first, rest) in [(format!("={name}"), "::"), (format!("+{name}-"), "-:")] {
            let home = user.home.display();
            self.lines.push(format!("{first}:{name}:{uid}:{uid}:{home}:{rest}:"));
        }
        user
    }

    /// Writes `users/assign` and `users/cdb`.
    pub fn compile(&self) {
        let text = format!("{}\n.\n", self.lines.join("\n"));
        fs::write(self.users.join("assign"), &text).unwrap();
        let assignments = assign::parse(text.as_bytes()).unwrap();
        let tmp = self.users.join("cdb.tmp");
        fs::write(&tmp, assign::compile(&assignments).unwrap()).unwrap();
        fs::rename(tmp, self.users.join("cdb")).unwrap();
    }
}

impl LocalUser {
    /// Writes a file in the home; it is his, and has been there for a minute.
    pub fn write(&self, file: &str, text: &str) {
        let path = self.home.join(file);
        fs::write(&path, text).unwrap();
        self.own(&path);
        let then = SystemTime::now() - Duration::from_secs(60);
        let times = fs::FileTimes::new().set_accessed(then).set_modified(then);
        fs::File::options().write(true).open(&path).unwrap().set_times(times).unwrap();
    }

    /// Makes a directory in the home, with `cur`, `new` and `tmp`; it is his.
    pub fn maildir(&self, name: &str) -> PathBuf {
        let path = self.home.join(name);
        for dir in ["", "cur", "new", "tmp"] {
            let dir = path.join(dir);
            fs::create_dir(&dir).unwrap();
            self.own(&dir);
        }
        path
    }

    /// Sets the mode of a file in the home.
    pub fn mode(&self, file: &str, mode: u32) {
        fs::set_permissions(self.home.join(file), fs::Permissions::from_mode(mode)).unwrap();
    }

    /// What a file in the home holds.
    pub fn read(&self, file: &str) -> String {
        let path = self.home.join(file);
        String::from_utf8_lossy(
            &fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())),
        )
        .into_owned()
    }

    /// Makes something his.
    fn own(&self, path: &Path) {
        if self.is_root {
            chown(path, Some(self.uid), Some(self.uid)).unwrap();
        }
    }
}
