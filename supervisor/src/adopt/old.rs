//! The old host's files, wherever they lie.

use std::ffi::OsString;
use std::io;
use std::path::{Component, Path, PathBuf};

use mailtree_config::regular;
use mailtree_protocols::runscript::Question;

use crate::failure::{Doing, Failure};

/// A longer file is not read: 64 MiB.
const SIZE_MAX: u64 = 64 << 20;

/// What a script asks for is not longer than this.
const ANSWER_MAX: usize = 16 * 1024;

/// Links on the way to a file.
const LINKS_MAX: usize = 40;

/// A host that runs qmail, or a copy of its files.
#[derive(Debug)]
pub(crate) struct Old {
    root: PathBuf,
    /// qmail's directory.
    pub(super) qmail: PathBuf,
    /// vpopmail's directory.
    pub(super) vpopmail: PathBuf,
}

impl Old {
    /// The host whose paths begin at `root`; `qmail` and `vpopmail` are paths of that host.
    pub(crate) fn new(root: &Path, qmail: &Path, vpopmail: &Path) -> Result<Self, Failure> {
        let root = std::fs::canonicalize(root).doing("find", root)?;
        for (name, path) in [("--qmail-home", qmail), ("--vpopmail-home", vpopmail)] {
            if !path.is_absolute() {
                let path = path.display();
                return Err(Failure::permanent(format!("{name} {path}; allowed: an absolute path")));
            }
        }
        let mut old = Self { root, qmail: PathBuf::new(), vpopmail: PathBuf::new() };
        old.qmail = old.at(qmail);
        old.vpopmail = old.at(vpopmail);
        Ok(old)
    }

    /// Whether this is the machine it runs on, not a copy.
    pub(super) fn is_live(&self) -> bool {
        self.root == Path::new("/")
    }

    /// A directory that the host will use and that is not in the copy: by a link in it, the live one.
    pub(super) fn outside(&self) -> Option<(PathBuf, PathBuf)> {
        let own = ["control", "queue", "users", "alias"].map(|name| self.qmail.join(name));
        let all =
            [self.qmail.clone(), self.vpopmail.clone(), self.vpopmail.join("domains")].into_iter().chain(own);
        let mut real = all.filter_map(|path| std::fs::canonicalize(&path).ok().map(|there| (path, there)));
        real.find(|(_, there)| !there.starts_with(&self.root))
    }

    pub(super) fn control(&self) -> PathBuf {
        self.qmail.join("control")
    }

    /// Where a path of the host lies here. `..` leads nowhere outside.
    pub(super) fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        if self.is_live() {
            return path.to_owned();
        }
        let path = path.strip_prefix(&self.root).unwrap_or(path);
        let mut found = self.root.clone();
        for part in path.components() {
            match part {
                Component::Normal(name) => found.push(name),
                Component::ParentDir if found != self.root => drop(found.pop()),
                Component::ParentDir | Component::CurDir | Component::RootDir | Component::Prefix(_) => (),
            }
        }
        found
    }

    /// What the host itself calls a path.
    pub(super) fn original(&self, path: &Path) -> PathBuf {
        Path::new("/").join(path.strip_prefix(&self.root).unwrap_or(path))
    }

    /// Where a path lies without links: those of a copy, also on the way, lead to places of the copy.
    pub(super) fn follow(&self, path: &Path) -> PathBuf {
        let parts = |path: &Path| -> Vec<OsString> {
            path.components().rev().map(|part| part.as_os_str().to_owned()).collect()
        };
        let (mut found, mut links) = (self.root.clone(), 0);
        let mut left = parts(&self.original(path));
        while let Some(part) = left.pop() {
            match Path::new(&part).components().next() {
                Some(Component::ParentDir) if found != self.root => drop(found.pop()),
                Some(Component::RootDir) => found.clone_from(&self.root),
                Some(Component::Normal(name)) => match std::fs::read_link(found.join(name)) {
                    Ok(target) if links < LINKS_MAX => {
                        links += 1;
                        left.extend(parts(&target));
                    }
                    Ok(_) | Err(_) => found.push(name),
                },
                Some(Component::ParentDir | Component::CurDir | Component::Prefix(_)) | None => (),
            }
        }
        found
    }

    /// A whole file; `None`: there is none. Whatever is no regular file is not waited for.
    pub(super) fn read(&self, path: &Path) -> Result<Option<Vec<u8>>, Failure> {
        let path = self.follow(path);
        let bytes = regular::read(&path, SIZE_MAX).doing("read", &path)?;
        if bytes.as_ref().is_some_and(|bytes| bytes.len() as u64 > SIZE_MAX) {
            return Err(Failure::io(
                "read",
                &path,
                &io::Error::other(format!("longer than {SIZE_MAX} bytes")),
            ));
        }
        Ok(bytes)
    }

    /// The same for what is only looked at: what cannot be read is not there.
    pub(super) fn look(&self, path: &Path) -> Option<Vec<u8>> {
        self.read(path).ok().flatten()
    }

    /// The names in a directory, sorted; none if it cannot be read.
    pub(super) fn names(&self, dir: &Path) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.follow(dir)) else { return Vec::new() };
        let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    /// What a run script asks.
    pub(super) fn answer(&self, question: &Question) -> Option<String> {
        match question {
            Question::Cat(file) => self.text(file),
            Question::FirstLine(file) => self.text(file)?.lines().next().map(str::to_owned),
            Question::Uid(name) => self.account(name, 2),
            Question::Gid(name) => self.account(name, 3),
            Question::Home(name) => self.account(name, 5),
            Question::Hostname => self.hostname(),
        }
    }

    fn text(&self, file: &str) -> Option<String> {
        let path = Path::new(file);
        let bytes = path.is_absolute().then(|| self.look(&self.at(path))).flatten()?;
        String::from_utf8(bytes).ok().filter(|text| text.len() <= ANSWER_MAX)
    }

    /// A field of an account in `/etc/passwd`.
    fn account(&self, name: &str, field: usize) -> Option<String> {
        let passwd = self.look(&self.at("/etc/passwd"))?;
        let passwd = String::from_utf8_lossy(&passwd);
        let mut lines = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
        let line = lines.find(|line| line.first() == Some(&name))?;
        line.get(field).map(|field| (*field).to_owned())
    }

    /// The name of an account, or its number.
    pub(super) fn owner(&self, uid: u32) -> String {
        let passwd = self.look(&self.at("/etc/passwd")).unwrap_or_default();
        let passwd = String::from_utf8_lossy(&passwd);
        let uid = uid.to_string();
        let mut lines = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
        let name = lines.find(|line| line.get(2) == Some(&uid.as_str())).map(|line| line[0].to_owned());
        name.unwrap_or(uid)
    }

    fn hostname(&self) -> Option<String> {
        if self.is_live() {
            return rustix::system::uname().nodename().to_str().ok().map(str::to_owned);
        }
        self.text("/etc/hostname")
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn no_link_of_a_copy_leads_out_of_it() {
        let around = tempfile::tempdir().unwrap();
        let root = around.path().join("copy");
        std::fs::create_dir_all(root.join("var/qmail/control")).unwrap();
        std::fs::create_dir_all(root.join("etc")).unwrap();
        std::fs::write(around.path().join("secret"), "outside").unwrap();
        std::fs::write(root.join("secret"), "inside").unwrap();
        let old = Old::new(&root, Path::new("/var/qmail"), Path::new("/home/vpopmail")).unwrap();
        let control = old.control();
        let text = |name: &str| old.look(&control.join(name)).map(|text| String::from_utf8(text).unwrap());
        let absolute = around.path().join("secret");
        for target in [
            "../../../../../../../../secret",
            "../../../secret",
            "/secret",
            "/../secret",
            "../control/../../../secret",
        ] {
            symlink(target, control.join("link")).unwrap();
            assert_eq!(text("link").as_deref(), Some("inside"), "{target}");
            std::fs::remove_file(control.join("link")).unwrap();
        }
        symlink(&absolute, control.join("link")).unwrap();
        assert_eq!(text("link"), None);
        // A link on the way, and a loop.
        symlink("../../../../..", control.join("up")).unwrap();
        assert_eq!(text("up/secret").as_deref(), Some("inside"));
        assert_eq!(old.names(&control.join("up")), ["etc", "secret", "var"]);
        symlink("loop", control.join("loop")).unwrap();
        assert_eq!(text("loop"), None);
    }
}
