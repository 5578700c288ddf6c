//! Whether something has changed in directories, without looking at each file (inotify(7)).

use std::cell::OnceCell;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::Metadata;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};

/// Files that were looked at are not looked at again for so long, unless a change was noticed. What nobody can notice (a
/// file behind a link, on a network's disk, a directory in place of another) is obeyed after it.
pub const REST: Duration = Duration::from_millis(100);

/// Events that are read at once.
const MAX_EVENTS: usize = 4096;

/// A file that was written into less than this ago may not be finished.
pub const QUIET: Duration = Duration::from_millis(250);

/// So long a file that was emptied is taken to be about to be filled.
pub const EMPTY: Duration = Duration::from_secs(10);

/// Whether a file was written into less than so long ago.
#[must_use]
pub fn is_younger(metadata: &Metadata, than: Duration) -> bool {
    metadata.modified().is_ok_and(|modified| is_within(modified, than))
}

/// Whether a time lies less than so far back. One that lies ahead says nothing.
#[must_use]
pub fn is_within(time: SystemTime, than: Duration) -> bool {
    SystemTime::now().duration_since(time).is_ok_and(|age| age < than)
}

/// Files that are written into and of which no end is known; beyond that all are forgotten.
const MAX_OPEN: usize = 1024;

/// Notices changes in the directories it watches.
#[derive(Debug, Default)]
pub struct Changes(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Made at the first look. `None`: the kernel gives us none (`fs.inotify.max_user_instances`).
    events: OnceCell<Option<OwnedFd>>,
    count: u64,
    /// By the numbers of their watches.
    dirs: HashMap<i32, PathBuf>,
    /// Files that somebody has written into and not closed since, and when he did.
    open: HashMap<PathBuf, Instant>,
}

/// A look at files in a directory.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    at: Instant,
    count: u64,
}

impl Changes {
    /// What is looked at in `dir` from now on is as new as this.
    pub fn look(&self, dir: &Path) -> Look {
        const CHANGES: WatchFlags = WatchFlags::MODIFY
            .union(WatchFlags::ATTRIB)
            .union(WatchFlags::CLOSE_WRITE)
            .union(WatchFlags::CREATE)
            .union(WatchFlags::DELETE)
            .union(WatchFlags::MOVED_FROM)
            .union(WatchFlags::MOVED_TO);
        let mut state = self.lock();
        let flags = CreateFlags::CLOEXEC | CreateFlags::NONBLOCK;
        // Again each time: another directory may be there by now. One that cannot be watched is looked at after REST.
        let events = state.events.get_or_init(|| inotify::init(flags).ok()).as_ref();
        if let Some(Ok(watch)) = events.map(|events| inotify::add_watch(events, dir, CHANGES)) {
            state.dirs.insert(watch, dir.to_owned());
        }
        Look { at: Instant::now(), count: state.count() }
    }

    /// How long ago somebody wrote into the file who has not closed it since; none: nobody did, or nobody can know.
    #[must_use]
    pub fn unfinished(&self, path: &Path) -> Option<Duration> {
        let mut state = self.lock();
        state.count();
        state.open.get(path).map(Instant::elapsed)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether what was seen at `look` still counts.
    pub fn hold(&self, look: Look) -> bool {
        look.at.elapsed() < REST && self.lock().count() == look.count
    }
}

impl State {
    /// How many times something was found to have changed.
    fn count(&mut self) -> u64 {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let Some(Some(events)) = self.events.get() else { return self.count };
        let mut reader = Reader::new(events, &mut buffer);
        // What is left of a flood is the next change.
        let mut read = 0;
        while read < MAX_EVENTS || !reader.is_buffer_empty() {
            let Ok(event) = reader.next() else { break };
            read += 1;
            self.count += 1;
            if event.events().contains(ReadFlags::QUEUE_OVERFLOW) || self.open.len() >= MAX_OPEN {
                self.open.clear();
            }
            if event.events().contains(ReadFlags::IGNORED) {
                self.dirs.remove(&event.wd());
            }
            let Some((dir, name)) = self.dirs.get(&event.wd()).zip(event.file_name()) else { continue };
            let path = dir.join(OsStr::from_bytes(name.to_bytes()));
            if event.events().contains(ReadFlags::MODIFY) {
                self.open.insert(path, Instant::now());
            } else if !event.events().contains(ReadFlags::ATTRIB) {
                // Closed, removed, or another file by now.
                self.open.remove(&path);
            }
        }
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_change_ends_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("a"), "1").unwrap();
        let changes = Changes::default();
        let unchanged = changes.look(dir.path());
        assert!(changes.hold(unchanged) || unchanged.at.elapsed() >= REST);
        let kinds: [(&str, &dyn Fn()); 5] = [
            ("written", &|| std::fs::write(path("a"), "2").unwrap()),
            ("made", &|| std::fs::write(path("b"), "2").unwrap()),
            ("renamed", &|| std::fs::rename(path("b"), path("c")).unwrap()),
            ("removed", &|| std::fs::remove_file(path("c")).unwrap()),
            ("its mode", &|| {
                let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
                std::fs::set_permissions(path("a"), mode).unwrap();
            }),
        ];
        for (kind, change) in kinds {
            let look = changes.look(dir.path());
            change();
            assert!(!changes.hold(look), "{kind}");
        }
    }

    #[test]
    fn without_a_change_a_look_holds_for_its_time_and_not_longer() {
        let dir = tempfile::tempdir().unwrap();
        let changes = Changes::default();
        let Look { at, count } = changes.look(dir.path());
        let earlier = |by| Look { at: at.checked_sub(by).unwrap(), count };
        assert!(!changes.hold(earlier(REST)));
        assert!(!changes.hold(Look { at, count: count + 1 }));
    }
}
