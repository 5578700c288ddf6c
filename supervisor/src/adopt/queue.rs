//! The queue of the old host: how it is divided, what is in it, whose it is.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use mailtree_actors::queue::disk::layout;
use mailtree_protocols::queue::{Dir, Layout};

use super::{Old, Report, shown};

/// Rows for the queue.
pub(super) fn examine(old: &Old, report: &mut Report) {
    let queue = old.qmail.join("queue");
    let from = queue.display().to_string();
    let layout = match layout(&queue) {
        Ok(layout) => layout,
        Err(error) => {
            report.next(format!("mend the queue: {}", shown(&error.to_string())));
            return report.not_yet("queue", from, shown(&error.to_string()));
        }
    };
    let count = |dir: Dir| count(&queue, layout, dir);
    let (all, todo) = (count(Dir::Mess), count(Dir::Todo));
    let big = if layout.big_todo { ", big-todo" } else { "" };
    report.taken(
        "queue",
        from.clone(),
        format!("{all} messages, {todo} of them not preprocessed; conf-split {}{big}", layout.split),
    );
    let owner = |name: &str| std::fs::metadata(queue.join(name)).map(|dir| old.owner(dir.uid()));
    if let (Ok(of_queue), Ok(of_send)) = (owner("mess"), owner("info")) {
        let text = format!("mess {}, info {}: new files get them", shown(&of_queue), shown(&of_send));
        report.taken("owners of the queue", from, text);
    }
}

fn count(queue: &Path, layout: Layout, dir: Dir) -> usize {
    let directories = layout.directories(dir);
    let files = directories.iter().filter_map(|name| std::fs::read_dir(queue.join(name)).ok());
    files.map(|entries| entries.flatten().count()).sum()
}

/// Whether somebody holds qmail-send's lock, as the kernel tells: the file itself is not touched.
pub(super) fn is_locked(old: &Old) -> bool {
    let Ok(lock) = std::fs::metadata(old.qmail.join("queue/lock/sendmutex")) else { return false };
    let held = std::fs::read_to_string("/proc/locks").unwrap_or_default();
    let inode = lock.ino().to_string();
    // `1: FLOCK ADVISORY WRITE PID MAJOR:MINOR:INODE 0 EOF`; the numbers of a device may be those of a layer below.
    held.lines().any(|line| {
        let place = line.split_whitespace().find(|word| word.matches(':').count() == 2);
        place.is_some_and(|place| place.rsplit(':').next() == Some(&inode))
    })
}
