//! Each state of the queue, as a crash leaves it on disk, and what a restart makes of it.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::Arc;
use std::time::Duration;

use mailtree_protocols::queue::{Channel, Dir, Layout, MessageId};
use tempfile::TempDir;

use super::super::sync::DiskThreads;
use super::spare::{MakeSpares, Spare};
use super::{Arriving, Commit, Content, Disk, End, Place, Settle, Stored, Strike};

const ID: MessageId = MessageId(928_119);

struct Queue {
    dir: TempDir,
    disk: Arc<Disk>,
    threads: DiskThreads,
}

impl Queue {
    fn empty() -> Self {
        Self::divided(Layout::default())
    }

    fn divided(layout: Layout) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for below in Dir::ALL.into_iter().flat_map(|dir| layout.directories(dir)).chain(["pid".to_owned()]) {
            fs::create_dir_all(dir.path().join(below)).unwrap();
        }
        let disk = Arc::new(Disk::open(dir.path()).unwrap());
        assert_eq!(disk.layout(), layout);
        let threads = DiskThreads::start(Arc::clone(&disk), 2, Arc::new(|cause| panic!("{cause}"))).unwrap();
        Self { dir, disk, threads }
    }

    /// With these files of one message.
    fn with(files: &[(Dir, &str)]) -> Self {
        let queue = Self::empty();
        for (dir, text) in files {
            fs::write(queue.path(*dir), text).unwrap();
        }
        queue
    }

    fn path(&self, dir: Dir) -> std::path::PathBuf {
        self.disk.path(dir, ID)
    }

    /// Names of the directories that hold a file of the message.
    fn files(&self) -> Vec<&'static str> {
        Dir::ALL.into_iter().filter(|dir| self.path(*dir).exists()).map(Dir::name).collect()
    }

    /// From S4 to S5.
    async fn place(&self, id: MessageId) {
        let content = Content::Preprocessed {
            sender: b"a@x".to_vec(),
            channels: [(vec![(b"b@here".to_vec(), false)], 7), (vec![(b"c@there".to_vec(), false)], 8)],
            bounce: Vec::new(),
        };
        self.threads.run(Place { id, birth: 5_000_006, mess: None, content }).await.unwrap();
    }

    fn sweep(&self, age: Duration) -> u64 {
        self.disk.sweep(age, &Default::default()).unwrap()
    }

    fn survey(&self) -> super::Survey {
        self.disk.survey(&HashSet::new()).unwrap()
    }
}

/// Nobody.
struct Nobody;

impl Arriving for Nobody {
    fn is_taken(&self, _: MessageId) -> bool {
        false
    }

    fn expect(&mut self, _: MessageId) {}
    fn stored(&mut self, _: Stored) {}
}

fn commit(text: &str) -> Commit {
    Commit {
        draft: None,
        bytes: text.as_bytes().to_vec(),
        envelope: TODO.1.as_bytes().to_vec(),
        stored: None,
        arriving: Box::new(Nobody),
    }
}

const MESS: (Dir, &str) = (Dir::Mess, "Subject: x\n\nx\n");
const TODO: (Dir, &str) = (Dir::Todo, "u1\0p2\0Fa@x\0Tb@here\0Tc@there\0");
const INFO: (Dir, &str) = (Dir::Info, "Fa@x\0");

#[test]
fn s2_and_s3_are_swept_unless_somebody_uses_them() {
    for files in [&[MESS][..], &[MESS, (Dir::Intd, "u1\0p2\0Fa@x\0Tb")], &[(Dir::Intd, "u1")]] {
        let queue = Queue::with(files);
        for name in ["1.2.3", "spare.5", "spare.6"] {
            fs::write(queue.dir.path().join("pid").join(name), "half a mess").unwrap();
        }
        assert_eq!(queue.sweep(Duration::from_secs(3600)), 0, "young files may be in use");
        let in_use = (HashSet::from([ID]), HashSet::from([5]));
        let swept = queue.disk.sweep(Duration::ZERO, &in_use).unwrap();
        // Spares are not counted: no message had them.
        assert_eq!(swept, if files[0].0 == Dir::Intd { 2 } else { 1 });
        assert_eq!(queue.sweep(Duration::ZERO), if files[0].0 == Dir::Intd { 0 } else { 1 });
        assert!(queue.files().is_empty(), "{:?}", queue.files());
    }
}

#[tokio::test]
async fn s4_is_placed_from_the_beginning() {
    let rests = [&[][..], &[INFO], &[INFO, (Dir::Local, "Told@here\0"), (Dir::Intd, "u1\0")]];
    for rest in rests {
        let queue = Queue::with(&[&[MESS, TODO][..], rest].concat());
        assert_eq!(queue.sweep(Duration::ZERO), 0);
        assert!(queue.survey().messages.is_empty());
        let (envelope, _, size) = queue.disk.envelope(ID).unwrap();
        assert_eq!((&*envelope.sender, size), (&b"a@x"[..], MESS.1.len() as u64));
        queue.place(ID).await;
        assert_eq!(queue.files(), ["mess", "info", "local", "remote"]);
        assert_eq!(fs::read(queue.path(Dir::Local)).unwrap(), b"Tb@here\0");
        assert_eq!(fs::read(queue.path(Dir::Remote)).unwrap(), b"Tc@there\0");
        let found = queue.survey().messages.remove(0);
        assert_eq!((found.birth, found.local, found.remote), (5_000_006, Some(7), Some(8)));
    }
}

#[tokio::test]
async fn two_names_of_one_inode_are_unlinked_and_the_inode_is_never_written_again() {
    let queue = Queue::with(&[MESS, TODO]);
    // As qmail-queue makes every message.
    fs::hard_link(queue.path(Dir::Todo), queue.path(Dir::Intd)).unwrap();
    let other = queue.dir.path().join("another name");
    fs::hard_link(queue.path(Dir::Todo), &other).unwrap();
    queue.place(ID).await;
    assert_eq!(queue.files(), ["mess", "info", "local", "remote"]);
    for _ in 0..20 {
        let stored = queue.threads.run(commit("new\n")).await.unwrap();
        queue.threads.run(End { id: stored.id }).await.unwrap();
    }
    assert_eq!(fs::read_to_string(other).unwrap(), TODO.1);
}

#[tokio::test]
async fn s5_is_found_with_who_is_left_and_settled_step_by_step() {
    let queue =
        Queue::with(&[MESS, INFO, (Dir::Local, "Da@here\0Tb@here\0"), (Dir::Remote, "Tc@there\0Td@")]);
    assert_eq!(queue.sweep(Duration::ZERO), 0);
    let found = queue.survey().messages.remove(0);
    assert_eq!((found.id, &*found.sender, found.bouncing), (ID, &b"a@x"[..], false));
    let local = queue.disk.recipients(ID, Channel::Local).unwrap();
    assert!(local[0].done && !local[1].done);
    assert_eq!(queue.disk.recipients(ID, Channel::Remote).unwrap().len(), 1, "the last record is cut");
    let settle = |channel, done: Vec<u64>, finished, bounce: &[u8], retry| Settle {
        id: ID,
        channel,
        done,
        finished,
        bounce: bounce.to_vec(),
        retry,
    };
    queue.threads.run(settle(Channel::Remote, vec![0], false, b"<c@there>:\nno\n\n", None)).await.unwrap();
    assert_eq!(fs::read(queue.path(Dir::Remote)).unwrap(), b"Dc@there\0Td@");
    assert_eq!(queue.disk.bounce(ID).unwrap().unwrap(), b"<c@there>:\nno\n\n");
    queue.threads.run(settle(Channel::Local, vec![], false, b"", Some(4_000_000_000))).await.unwrap();
    assert_eq!(queue.disk.look(ID).unwrap().unwrap().local, Some(4_000_000_000));
    queue.threads.run(settle(Channel::Local, vec![8], true, b"", None)).await.unwrap();
    assert_eq!(queue.files(), ["mess", "info", "remote", "bounce"]);
    queue.threads.run(End { id: ID }).await.unwrap();
    assert!(queue.files().is_empty());
}

#[tokio::test]
async fn a_message_that_is_struck_has_nobody_left_and_no_bounce() {
    let bounce = (Dir::Bounce, "<c@there>:\nno\n\n");
    let queue = Queue::with(&[MESS, INFO, (Dir::Remote, "Tc@there\0Dd@there\0"), bounce]);
    queue.threads.run(Strike { id: ID }).await.unwrap();
    assert_eq!(fs::read(queue.path(Dir::Remote)).unwrap(), b"Dc@there\0Dd@there\0");
    assert_eq!(queue.files(), ["mess", "info", "remote"]);
    let queue = Queue::with(&[MESS, TODO]);
    queue.threads.run(Strike { id: ID }).await.unwrap();
    assert_eq!(queue.files(), ["mess"]);
}

#[test]
fn files_without_their_mess_are_left_alone() {
    let queue = Queue::with(&[TODO, INFO, (Dir::Local, "Tb@here\0")]);
    assert_eq!(queue.sweep(Duration::ZERO), 0);
    assert!(queue.survey().messages.is_empty());
    assert_eq!(queue.files(), ["todo", "info", "local"]);
}

#[test]
fn what_is_no_regular_file_is_skipped() {
    let queue = Queue::empty();
    for dir in Dir::ALL {
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mkfifoat(rustix::fs::CWD, queue.path(dir), mode).unwrap();
    }
    assert!(queue.survey().messages.is_empty() && queue.disk.todo().unwrap().is_empty());
    assert!(queue.disk.envelope(ID).is_err() && queue.disk.recipients(ID, Channel::Local).is_err());
    assert_eq!(queue.sweep(Duration::ZERO), 0);
}

#[tokio::test]
async fn a_message_goes_from_s1_to_s4_under_the_number_of_its_inode() {
    let layouts =
        [Layout::default(), Layout { split: 7, big_todo: true }, Layout { split: 1, big_todo: false }];
    for layout in layouts {
        let queue = Queue::divided(layout);
        for text in ["a long first message\n", "short\n"] {
            let id = queue.threads.run(commit(text)).await.unwrap().id;
            let mess = queue.disk.mess(id);
            assert_eq!(fs::metadata(&mess).unwrap().ino(), id.0);
            assert_eq!(fs::read_to_string(&mess).unwrap(), text);
            assert_eq!(queue.disk.todo().unwrap(), [id]);
            queue.place(id).await;
            for (dir, mode) in [(Dir::Mess, 0o644), (Dir::Info, 0o600), (Dir::Remote, 0o600)] {
                let found = fs::metadata(queue.disk.path(dir, id)).unwrap().permissions().mode();
                assert_eq!(found & 0o777, mode, "{dir:?}");
            }
            queue.threads.run(End { id }).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_message_in_memory_becomes_the_file_that_holds_its_number() {
    let queue = Queue::empty();
    let making = MakeSpares { from: 3, count: 4, made: Vec::new(), taken: Vec::new() };
    let spares = queue.threads.run(making).await.unwrap();
    assert_eq!(spares.len(), 4);
    for ((spare, _held), present) in spares.into_iter().zip([true, true, false, true]) {
        if !present {
            Spare::discard(&queue.disk, spare.number).unwrap();
        }
        assert_eq!(spare.held(&queue.disk).is_some(), present);
        let placing = || Place {
            id: spare.id,
            birth: 9_000_001,
            mess: Some((b"Subject: x\n\nx\n"[..].into(), spare)),
            content: Content::Todo(TODO.1.as_bytes().to_vec()),
        };
        queue.threads.run(placing()).await.unwrap();
        let mess = queue.disk.mess(spare.id);
        assert!(!present || fs::metadata(&mess).unwrap().ino() == spare.id.0);
        assert_eq!(queue.disk.envelope(spare.id).unwrap().1, 9_000_001);
        // Again after a crash, whole or torn.
        queue.threads.run(placing()).await.unwrap();
        fs::write(&mess, "Subj").unwrap();
        queue.threads.run(placing()).await.unwrap();
        assert_eq!(fs::read_to_string(&mess).unwrap(), "Subject: x\n\nx\n");
        // What is not this message is not touched.
        fs::write(&mess, "Subject: y\n\n").unwrap();
        queue.threads.run(placing()).await.unwrap_err();
        assert_eq!(fs::read_to_string(&mess).unwrap(), "Subject: y\n\n");
    }
    assert_eq!(fs::read_dir(queue.dir.path().join("pid")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_queue_copied_from_another_filesystem_keeps_its_messages() {
    let queue = Queue::empty();
    // The next inode's number stands on an older message: found out by making, and taking back, a file.
    let probe = queue.threads.run(commit("new\n")).await.unwrap().id;
    let mess = queue.disk.mess(probe);
    let held = queue.dir.path().join("held");
    fs::rename(&mess, &held).unwrap();
    fs::write(&mess, "old\n").unwrap();
    fs::remove_file(queue.disk.path(Dir::Todo, probe)).unwrap();
    fs::remove_file(&held).unwrap();
    for _ in 0..50 {
        let id = queue.threads.run(commit("new\n")).await.unwrap().id;
        assert_ne!(id, probe);
    }
    let making = MakeSpares { from: 0, count: 50, made: Vec::new(), taken: Vec::new() };
    assert!(queue.threads.run(making).await.unwrap().iter().all(|(spare, _)| spare.id != probe));
    assert_eq!(fs::read(&mess).unwrap(), b"old\n");
}
