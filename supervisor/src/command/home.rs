//! Which home a command is for: `--home`, `$MAILTREE_HOME`, what `links` noted beside the link that the program was
//! called by, `/etc/mailtree/home`, `./mailtree-home`; the first that names one.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use mailtree_config::regular;

use crate::failure::Failure;

/// The file that `links` puts beside its links; its first line is the home, absolute.
pub(super) const BESIDE_LINKS: &str = ".mailtree-home";

/// The file that names the home of the system.
const OF_SYSTEM: &str = "/etc/mailtree/home";

/// The home where nothing names one.
const DEFAULT: &str = "./mailtree-home";

/// The home, and what named it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Home {
    pub(super) path: PathBuf,
    pub(super) by: By,
}

/// What names a home.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum By {
    Option,
    Variable,
    File(PathBuf),
    Default,
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Option => f.write_str("--home names it"),
            Self::Variable => f.write_str("$MAILTREE_HOME names it"),
            Self::File(path) => write!(f, "{} names it", path.display()),
            Self::Default => write!(
                f,
                "the default, since neither --home nor $MAILTREE_HOME, {BESIDE_LINKS} beside a link, {OF_SYSTEM} names one"
            ),
        }
    }
}

impl Home {
    /// The home of a program that was called as `program`.
    pub(super) fn find(option: Option<PathBuf>, program: Option<&OsStr>) -> Result<Self, Failure> {
        if let Some(path) = option {
            return Ok(Self { path, by: By::Option });
        }
        if let Some(path) = std::env::var_os("MAILTREE_HOME").filter(|path| !path.is_empty()) {
            return Ok(Self { path: path.into(), by: By::Variable });
        }
        let beside = program.and_then(|program| directory(program, std::env::var_os("PATH")));
        for file in beside.map(|dir| dir.join(BESIDE_LINKS)).into_iter().chain([OF_SYSTEM.into()]) {
            if let Some(path) = named_in(&file)? {
                return Ok(Self { path, by: By::File(file) });
            }
        }
        Ok(Self { path: DEFAULT.into(), by: By::Default })
    }

    /// Says where the home was looked for and why, if there is none.
    pub(super) fn note_if_missing(&self, program: &str) {
        if let Ok(false) = self.path.join(mailtree_config::host::FILE).try_exists() {
            let Self { path, by } = self;
            errln!("{program}: there is no host.ron in the home {}: {by}", path.display());
        }
    }
}

/// The directory of the file that the shell found for `program`, links not followed.
fn directory(program: &OsStr, search: Option<OsString>) -> Option<PathBuf> {
    if program.as_bytes().contains(&b'/') {
        return Path::new(program).parent().map(Path::to_owned);
    }
    let own = std::env::current_exe().ok()?;
    std::env::split_paths(&search?)
        .find(|dir| std::fs::canonicalize(dir.join(program)).is_ok_and(|found| found == own))
}

/// Bytes of a file that names a home.
const SIZE_MAX: u64 = 1 << 16;

/// The first line of a file; `None`: the file is not there, or empty.
fn named_in(file: &Path) -> Result<Option<PathBuf>, Failure> {
    let text = match regular::read(file, SIZE_MAX) {
        Ok(Some(text)) => text,
        Ok(None) => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Ok(None),
        Err(error) => return Err(Failure::io("read", file, &error)),
    };
    let line = text.split(|&b| b == b'\n').next().unwrap_or_default().trim_ascii();
    let path = Path::new(OsStr::from_bytes(line));
    match (line.is_empty(), path.is_absolute()) {
        (true, _) => Ok(None),
        (false, true) => Ok(Some(path.to_owned())),
        (false, false) => Err(Failure::permanent(format!(
            "{}:1: {}; allowed: the home's absolute path",
            file.display(),
            path.display()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_names_a_home_by_its_first_line() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("home");
        assert_eq!(named_in(&file).unwrap(), None);
        assert_eq!(named_in(&file.join("below")).unwrap(), None);
        for (text, expected) in
            [("", None), ("\n/later\n", None), ("/srv/mail tree\n# no\n", Some("/srv/mail tree"))]
        {
            std::fs::write(&file, text).unwrap();
            assert_eq!(named_in(&file).unwrap(), expected.map(PathBuf::from), "{text:?}");
        }
        std::fs::write(&file, "srv\n").unwrap();
        let failure = named_in(&file).unwrap_err();
        assert!(
            failure.is_permanent()
                && failure.to_string().ends_with("home:1: srv; allowed: the home's absolute path")
        );
    }

    #[test]
    fn the_directory_is_that_of_the_link() {
        assert_eq!(directory(OsStr::new("/usr/local/bin/svc"), None), Some("/usr/local/bin".into()));
        assert_eq!(directory(OsStr::new("./svc"), None), Some(".".into()));
        let dir = tempfile::tempdir().unwrap();
        let [other, own] = ["other", "own"].map(|name| dir.path().join(name));
        for dir in [&other, &own] {
            std::fs::create_dir(dir).unwrap();
        }
        std::fs::write(other.join("svc"), "daemontools").unwrap();
        std::os::unix::fs::symlink(std::env::current_exe().unwrap(), own.join("svc")).unwrap();
        let search = std::env::join_paths([&other, &own]).unwrap();
        assert_eq!(directory(OsStr::new("svc"), Some(search)), Some(own));
    }
}
