//! The users of a domain: its `vpasswd.cdb`, made anew from `vpasswd` at the next look-up when it is missing or older, as
//! vpopmail does. So an administrator may edit `vpasswd` and remove the database.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use mailtree_config::changes::{EMPTY, QUIET, is_within, is_younger};
use mailtree_config::regular;
use mailtree_protocols::cdb::Cdb;
use mailtree_protocols::vpasswd;

use crate::cdb_files::{CdbFiles, about};
use crate::durable::{self, Owner};
use crate::lock_file::LockFile;

/// A longer `vpasswd` is not read, in bytes: a million users.
const MAX_SIZE: u64 = 256 << 20;

/// How long a look-up waits for another one that makes the database.
const PATIENCE: Duration = Duration::from_secs(5);

/// Domains whose bad `vpasswd` is remembered.
const MAX_BAD: usize = 1000;

/// The databases of all domains.
#[derive(Clone, Default)]
pub(crate) struct Vpasswd {
    files: CdbFiles,
    making: Arc<Making>,
}

#[derive(Default)]
struct Making {
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Default)]
struct State {
    /// Directories whose database is being made by a thread of this process.
    busy: HashSet<PathBuf>,
    /// What is wrong with the `vpasswd` of which time.
    bad: HashMap<PathBuf, (SystemTime, String)>,
}

/// A directory in which nobody else of this process makes the database.
struct Turn<'a> {
    making: &'a Making,
    dir: &'a Path,
}

impl Vpasswd {
    /// The users of the domain in `dir`.
    ///
    /// # Errors
    /// When the database is damaged, or missing and cannot be made now.
    pub(crate) fn users(&self, dir: &Path) -> io::Result<Arc<Cdb<Vec<u8>>>> {
        let (source, compiled) = (dir.join("vpasswd"), dir.join("vpasswd.cdb"));
        let (changed, made) = (modified(&source)?, modified(&compiled)?);
        match (changed, made) {
            (Some(changed), None) => self.make(dir, changed, &compiled)?,
            (Some(changed), Some(made)) if made < changed && !is_within(changed, QUIET) => {
                // The old one counts until the new one can be made.
                if let Err(error) = self.remake(dir, changed, &compiled) {
                    tracing::error!("alert: unable to make {} anew: {error}", compiled.display());
                }
            }
            // Young, or as it should be.
            (Some(changed), Some(made)) if made < changed => (),
            (Some(_), Some(_)) | (None, _) => self.making.forget(dir),
        }
        let missing = || io::Error::new(io::ErrorKind::NotFound, "no such file");
        self.files
            .open(&compiled)
            .and_then(|users| users.ok_or_else(missing))
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", compiled.display())))
    }

    /// What is wrong with the `vpasswd` of domains that were asked for. Answers from memory.
    pub(crate) fn troubles(&self) -> Vec<String> {
        self.making.lock().bad.values().map(|(_, error)| error.clone()).collect()
    }

    /// Makes a database where there is none; waits for whoever does.
    fn make(&self, dir: &Path, changed: SystemTime, compiled: &Path) -> io::Result<()> {
        let _turn = self.making.wait(dir)?;
        if modified(compiled)?.is_some() {
            return Ok(());
        }
        if let Some(error) = self.making.known(dir, changed) {
            return Err(io::Error::other(error));
        }
        match self.compile(dir, compiled) {
            Ok(true) => Ok(()),
            Ok(false) => Err(about(compiled, &"missing, and its vpasswd is being changed")),
            Err(error) => {
                self.making.remember(dir, changed, &error);
                Err(error)
            }
        }
    }

    /// Makes a database anew unless somebody is about it. An error is told once.
    fn remake(&self, dir: &Path, changed: SystemTime, compiled: &Path) -> io::Result<()> {
        if self.making.known(dir, changed).is_some() {
            return Ok(());
        }
        let Some(_turn) = self.making.enter(dir) else { return Ok(()) };
        self.compile(dir, compiled).map(drop).inspect_err(|error| self.making.remember(dir, changed, error))
    }

    /// Whether it was made: false while another program holds the lock.
    fn compile(&self, dir: &Path, compiled: &Path) -> io::Result<bool> {
        let source = dir.join("vpasswd");
        let owner = Owner::of(&source)?;
        let Some(_lock) = LockFile::try_take(&dir.join(".vpasswd.lock"), owner)? else { return Ok(false) };
        let Some((file, metadata)) = regular::open_with_metadata(&source)? else { return Ok(false) };
        if metadata.len() > MAX_SIZE {
            return Err(about(&source, &format!("longer than {MAX_SIZE} bytes")));
        }
        let mut text = Vec::new();
        file.take(MAX_SIZE).read_to_end(&mut text)?;
        let changed = metadata.modified()?;
        // Somebody is in the middle of it, or has emptied it to fill it.
        if !text.ends_with(b"\n") && is_younger(&metadata, EMPTY) {
            return Ok(false);
        }
        let bad = |error: &dyn std::fmt::Display| about(&source, error);
        let entries = vpasswd::parse(&text).map_err(|error| bad(&error))?;
        let cdb = vpasswd::compile(&entries).map_err(|error| bad(&error))?;
        // As old as what it was made from: a change from now on is newer.
        let as_old = |file: &File| file.set_modified(changed);
        durable::replace_with(compiled, &cdb, metadata.mode() & 0o777, owner, as_old)?;
        tracing::info!("vpopmail: {} made anew from vpasswd", compiled.display());
        Ok(true)
    }
}

impl Making {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// None: another thread is about it.
    fn enter<'a>(&'a self, dir: &'a Path) -> Option<Turn<'a>> {
        // A turn that ends locks: none may be made, not even for a moment, by who has none, or under the lock.
        let first = self.lock().busy.insert(dir.to_owned());
        first.then(|| Turn { making: self, dir })
    }

    fn wait<'a>(&'a self, dir: &'a Path) -> io::Result<Turn<'a>> {
        let end = Instant::now() + PATIENCE;
        let mut state = self.lock();
        while state.busy.contains(dir) {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("{}: its vpasswd.cdb is being made", dir.display()),
                ));
            }
            state = self.ended.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.busy.insert(dir.to_owned());
        Ok(Turn { making: self, dir })
    }

    fn known(&self, dir: &Path, changed: SystemTime) -> Option<String> {
        let state = self.lock();
        state.bad.get(dir).filter(|(when, _)| *when == changed).map(|(_, error)| error.clone())
    }

    /// Its database is as new as it.
    fn forget(&self, dir: &Path) {
        self.lock().bad.remove(dir);
    }

    /// What cannot be read or written may work the next time; a text is bad until it changes.
    fn remember(&self, dir: &Path, changed: SystemTime, error: &io::Error) {
        if error.kind() != io::ErrorKind::Other {
            return;
        }
        let mut state = self.lock();
        if state.bad.len() >= MAX_BAD {
            state.bad.clear();
        }
        state.bad.insert(dir.to_owned(), (changed, error.to_string()));
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.making.lock().busy.remove(self.dir);
        self.making.ended.notify_all();
    }
}

fn modified(path: &Path) -> io::Result<Option<SystemTime>> {
    match std::fs::metadata(path) {
        Ok(metadata) => metadata.modified().map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(about(path, &error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Domain(tempfile::TempDir);

    impl Domain {
        fn with(users: &[&str]) -> Self {
            let domain = Self(tempfile::tempdir().unwrap());
            domain.write(users, 3600);
            domain
        }

        /// `vpasswd` of these users, changed so many seconds ago.
        fn write(&self, users: &[&str], ago: u64) {
            let lines: Vec<String> = users.iter().map(|user| line(user)).collect();
            self.write_text(&lines.concat(), ago);
        }

        fn write_text(&self, text: &str, ago: u64) {
            let path = self.0.path().join("vpasswd");
            std::fs::write(&path, text).unwrap();
            File::open(&path).unwrap().set_modified(SystemTime::now() - Duration::from_secs(ago)).unwrap();
        }

        fn cdb(&self) -> PathBuf {
            self.0.path().join("vpasswd.cdb")
        }

        fn has(&self, vpasswd: &Vpasswd, user: &str) -> bool {
            vpasswd::lookup(&vpasswd.users(self.0.path()).unwrap(), user.as_bytes()).unwrap().is_some()
        }
    }

    fn line(user: &str) -> String {
        format!("{user}:$1$x$y:1:0:{user}:/home/{user}:NOQUOTA\n")
    }

    #[test]
    fn a_missing_database_is_made_and_an_older_one_made_anew() {
        let domain = Domain::with(&["bob"]);
        let vpasswd = Vpasswd::default();
        assert!(domain.has(&vpasswd, "bob") && !domain.has(&vpasswd, "ann"));
        domain.write(&["ann", "bob"], 60);
        assert!(domain.has(&vpasswd, "ann"), "edited");
        std::fs::remove_file(domain.cdb()).unwrap();
        domain.write(&["ann"], 0);
        assert!(domain.has(&vpasswd, "ann") && !domain.has(&vpasswd, "bob"), "the notes' procedure");
        let before = std::fs::metadata(domain.cdb()).unwrap().ino();
        assert!(domain.has(&vpasswd, "ann"));
        assert_eq!(std::fs::metadata(domain.cdb()).unwrap().ino(), before, "not made again and again");
        std::fs::remove_file(domain.0.path().join("vpasswd")).unwrap();
        assert!(domain.has(&vpasswd, "ann"), "the database alone counts, too");
    }

    #[test]
    fn a_vpasswd_from_the_future_is_compiled_once() {
        let domain = Domain::with(&[]);
        let path = domain.0.path().join("vpasswd");
        std::fs::write(&path, line("bob")).unwrap();
        File::open(&path).unwrap().set_modified(SystemTime::now() + Duration::from_secs(86_400)).unwrap();
        let vpasswd = Vpasswd::default();
        assert!(domain.has(&vpasswd, "bob"));
        let made = std::fs::metadata(domain.cdb()).unwrap().ino();
        assert!(domain.has(&vpasswd, "bob"));
        assert_eq!(std::fs::metadata(domain.cdb()).unwrap().ino(), made);
    }

    #[test]
    fn what_is_being_written_or_is_bad_leaves_the_old_one_in_force() {
        let domain = Domain::with(&["bob"]);
        let vpasswd = Vpasswd::default();
        assert!(domain.has(&vpasswd, "bob"));
        domain.write_text("", 0);
        assert!(domain.has(&vpasswd, "bob"), "an editor has just emptied it");
        for half in [String::new(), format!("{}{}", line("ann"), &line("bob")[..20])] {
            domain.write_text(&half, 5);
            assert!(domain.has(&vpasswd, "bob"), "what fills it takes its time: {half}");
        }
        domain.write_text(&format!("{}no user at all\n", line("ann")), 60);
        assert!(domain.has(&vpasswd, "bob") && !domain.has(&vpasswd, "ann"));
        std::fs::remove_file(domain.cdb()).unwrap();
        let error = vpasswd.users(domain.0.path()).unwrap_err().to_string();
        assert!(error.contains("/vpasswd: line 2: "), "{error}");
        domain.write(&["ann"], 30);
        assert!(domain.has(&vpasswd, "ann"), "mended");
    }

    #[test]
    fn while_another_program_holds_the_lock_nothing_is_made() {
        let domain = Domain::with(&["bob"]);
        let vpasswd = Vpasswd::default();
        let path = domain.0.path().join(".vpasswd.lock");
        let held = LockFile::take(&path, Owner::own()).unwrap();
        let error = vpasswd.users(domain.0.path()).unwrap_err().to_string();
        assert!(error.contains("missing, and its vpasswd is being changed"), "{error}");
        drop(held);
        assert!(domain.has(&vpasswd, "bob"));
        let held = LockFile::take(&path, Owner::own()).unwrap();
        domain.write(&["ann"], 60);
        assert!(domain.has(&vpasswd, "bob"), "the old one");
        drop(held);
        assert!(domain.has(&vpasswd, "ann"));
    }

    #[test]
    fn many_look_ups_at_once_make_it_together() {
        let domain = Domain::with(&["bob"]);
        let vpasswd = Vpasswd::default();
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| assert!(domain.has(&vpasswd, "bob")));
            }
        });
    }

    /// The old database counts meanwhile: nobody waits for whoever is about it, or for another program's lock.
    #[test]
    fn many_look_ups_at_once_make_it_anew_together() {
        let domain = Domain::with(&["bob"]);
        let vpasswd = Vpasswd::default();
        let all_look = || {
            std::thread::scope(|scope| {
                for _ in 0..16 {
                    scope.spawn(|| (0..50).for_each(|_| assert!(domain.has(&vpasswd, "bob"))));
                }
            });
        };
        all_look();
        for round in 0..20 {
            domain.write(&["bob", &format!("user{round}")], 3000 - round);
            all_look();
        }
        domain.write_text(&format!("{}no line\n", line("bob")), 1000);
        all_look();
        domain.write(&["bob", "eve"], 900);
        let owner = Owner::of(&domain.0.path().join("vpasswd")).unwrap();
        let _lock = LockFile::try_take(&domain.0.path().join(".vpasswd.lock"), owner).unwrap().unwrap();
        all_look();
        assert!(!domain.has(&vpasswd, "eve"));
    }
}
