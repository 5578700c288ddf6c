//! Whether something has changed in directories, without looking at each file (inotify(7)).

use std::cell::OnceCell;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

/// Files that were looked at are not looked at again for so long, unless a change was noticed. What nobody can notice (a
/// file behind a link, on a network's disk, a directory in place of another) is obeyed after it.
pub const REST: Duration = Duration::from_millis(100);

/// Notices changes in the directories it watches.
#[derive(Debug, Default)]
pub struct Changes(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Made at the first look. `None`: the kernel gives us none (`fs.inotify.max_user_instances`).
    events: OnceCell<Option<OwnedFd>>,
    count: u64,
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
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let flags = CreateFlags::CLOEXEC | CreateFlags::NONBLOCK;
        if let Some(events) = state.events.get_or_init(|| inotify::init(flags).ok()) {
            // Again each time: another directory may be there by now. One that cannot be watched is looked at after REST.
            let (Ok(_) | Err(_)) = inotify::add_watch(events, dir, CHANGES);
        }
        Look { at: Instant::now(), count: state.count() }
    }

    /// Whether what was seen at `look` still counts.
    pub fn hold(&self, look: Look) -> bool {
        look.at.elapsed() < REST
            && self.0.lock().unwrap_or_else(PoisonError::into_inner).count() == look.count
    }
}

impl State {
    /// How many times something was found to have changed.
    fn count(&mut self) -> u64 {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        if let Some(Some(events)) = self.events.get()
            && rustix::io::read(events, &mut buffer).is_ok_and(|(read, _)| !read.is_empty())
        {
            // What is left of the events is the next change.
            self.count += 1;
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
