//! Each state of the queue, as a crash leaves it on disk, and what a restart makes of it.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mailtree_protocols::queue::{Channel, Dir, MessageId, SPLIT};
use tempfile::TempDir;

use super::super::sync::DiskThreads;
use super::{Commit, Disk, End, Maildir, Preprocess, Preprocessed, Settle};
use crate::queue::Trigger;

const ID: MessageId = MessageId(928_119);

struct Queue {
    dir: TempDir,
    disk: Arc<Disk>,
    threads: DiskThreads,
}

impl Queue {
    fn empty() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["pid", "intd", "todo", "bounce"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        for name in ["mess", "info", "local", "remote"] {
            for n in 0..SPLIT {
                fs::create_dir_all(dir.path().join(name).join(n.to_string())).unwrap();
            }
        }
        let disk = Arc::new(Disk::open(dir.path()).unwrap());
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
        self.dir.path().join(dir.file(ID))
    }

    /// Names of the directories that hold a file of the message.
    fn files(&self) -> Vec<&'static str> {
        Dir::ALL.into_iter().filter(|dir| self.path(*dir).exists()).map(Dir::name).collect()
    }

    async fn preprocess(&self) -> Preprocessed {
        let route: super::Route = Arc::new(|address| match address.ends_with(b"@here") {
            true => (Channel::Local, address.to_vec()),
            false => (Channel::Remote, address.to_vec()),
        });
        let except = Arc::new(HashSet::new());
        self.threads
            .run(Preprocess { route, limit: 10, except, done: Preprocessed::default() })
            .await
            .unwrap()
    }
}

const MESS: (Dir, &str) = (Dir::Mess, "Subject: x\n\nx\n");
const TODO: (Dir, &str) = (Dir::Todo, "u1\0p2\0Fa@x\0Tb@here\0Tc@there\0");
const INFO: (Dir, &str) = (Dir::Info, "Fa@x\0");

#[test]
fn s2_and_s3_are_swept() {
    for files in [&[MESS][..], &[MESS, (Dir::Intd, "u1\0p2\0Fa@x\0Tb")], &[(Dir::Intd, "u1")]] {
        let queue = Queue::with(files);
        fs::write(queue.dir.path().join("pid/1.2.3"), "half a mess").unwrap();
        assert_eq!(
            queue.disk.sweep(Duration::from_secs(3600), false).unwrap(),
            0,
            "young files may be in use"
        );
        assert_eq!(queue.disk.sweep(Duration::ZERO, true).unwrap(), 2);
        assert!(queue.files().is_empty(), "{:?}", queue.files());
    }
}

#[tokio::test]
async fn s4_is_preprocessed_again_from_the_beginning() {
    let rests = [&[][..], &[INFO], &[INFO, (Dir::Local, "Told@here\0"), (Dir::Intd, "u1\0")]];
    for rest in rests {
        let queue = Queue::with(&[&[MESS, TODO][..], rest].concat());
        assert_eq!(queue.disk.sweep(Duration::ZERO, true).unwrap(), 0);
        assert!(queue.disk.survey().unwrap().messages.is_empty());
        let done = queue.preprocess().await;
        let message = &done.messages[0];
        assert_eq!((message.id, &*message.envelope.sender), (ID, &b"a@x"[..]));
        assert_eq!(queue.files(), ["mess", "info", "local", "remote"]);
        assert_eq!(fs::read(queue.path(Dir::Local)).unwrap(), b"Tb@here\0");
        assert_eq!(fs::read(queue.path(Dir::Remote)).unwrap(), b"Tc@there\0");
    }
}

#[tokio::test]
async fn s4_with_a_damaged_envelope_stays_and_is_named() {
    let queue = Queue::with(&[MESS, (Dir::Todo, "u1\0p2\0Fa@x\0Tb")]);
    let done = queue.preprocess().await;
    assert_eq!(done.failed[0].0, ID);
    assert_eq!(queue.files(), ["mess", "todo"]);
}

#[tokio::test]
async fn s5_is_found_with_who_is_left_and_settled_step_by_step() {
    let queue = Queue::with(&[MESS, INFO, (Dir::Local, "Da@here\0Tb@here\0"), (Dir::Remote, "Tc@there\0")]);
    assert_eq!(queue.disk.sweep(Duration::ZERO, true).unwrap(), 0);
    let found = queue.disk.survey().unwrap().messages.remove(0);
    assert_eq!((found.id, &*found.sender, found.bouncing), (ID, &b"a@x"[..], false));
    let local = queue.disk.recipients(ID, Channel::Local).unwrap();
    assert!(local[0].done && !local[1].done);
    let settle = |channel, done: Vec<u64>, finished, bounce: &[u8], retry| Settle {
        id: ID,
        channel,
        done,
        finished,
        bounce: bounce.to_vec(),
        retry,
    };
    queue.threads.run(settle(Channel::Remote, vec![0], false, b"<c@there>:\nno\n\n", None)).await.unwrap();
    assert_eq!(fs::read(queue.path(Dir::Remote)).unwrap(), b"Dc@there\0");
    assert_eq!(queue.disk.bounce(ID).unwrap().unwrap(), b"<c@there>:\nno\n\n");
    queue.threads.run(settle(Channel::Local, vec![], false, b"", Some(4_000_000_000))).await.unwrap();
    assert_eq!(queue.disk.look(ID).unwrap().unwrap().local, Some(4_000_000_000));
    queue.threads.run(settle(Channel::Local, vec![8], true, b"", None)).await.unwrap();
    assert_eq!(queue.files(), ["mess", "info", "remote", "bounce"]);
    queue.threads.run(End { id: ID }).await.unwrap();
    assert!(queue.files().is_empty());
}

#[test]
fn files_without_their_mess_are_left_alone() {
    let queue = Queue::with(&[TODO, INFO, (Dir::Local, "Tb@here\0")]);
    assert_eq!(queue.disk.sweep(Duration::ZERO, true).unwrap(), 0);
    assert!(queue.disk.survey().unwrap().messages.is_empty());
    assert_eq!(queue.files(), ["todo", "info", "local"]);
}

#[tokio::test]
async fn a_message_goes_from_s1_to_s4_under_the_number_of_its_inode() {
    use std::os::unix::fs::MetadataExt;
    let queue = Queue::empty();
    // The second one writes over the file of the first.
    for text in ["a long first message\n", "short\n"] {
        let commit = Commit {
            draft: None,
            bytes: text.as_bytes().to_vec(),
            envelope: TODO.1.as_bytes().to_vec(),
            id: None,
            trigger: Trigger::new(Arc::new(|| ())),
        };
        let id = queue.threads.run(commit).await.unwrap();
        let mess = queue.disk.mess(id);
        assert_eq!(fs::metadata(&mess).unwrap().ino(), id.0);
        assert_eq!(fs::read_to_string(&mess).unwrap(), text);
        assert_eq!(queue.disk.todo().unwrap(), [id]);
        queue.preprocess().await;
        queue.threads.run(End { id }).await.unwrap();
    }
}

#[tokio::test]
async fn a_queue_copied_from_another_filesystem_keeps_its_messages() {
    let queue = Queue::empty();
    let commit = || Commit {
        draft: None,
        bytes: b"new\n".to_vec(),
        envelope: TODO.1.as_bytes().to_vec(),
        id: None,
        trigger: Trigger::new(Arc::new(|| ())),
    };
    // The next inode's number stands on an older message: found out by making, and taking back, a file.
    let probe = queue.threads.run(commit()).await.unwrap();
    let mess = queue.disk.mess(probe);
    let held = queue.dir.path().join("held");
    fs::rename(&mess, &held).unwrap();
    fs::write(&mess, "old\n").unwrap();
    fs::remove_file(queue.dir.path().join(Dir::Todo.file(probe))).unwrap();
    fs::remove_file(&held).unwrap();
    for _ in 0..50 {
        let id = queue.threads.run(commit()).await.unwrap();
        assert_ne!(id, probe);
    }
    assert_eq!(fs::read(&mess).unwrap(), b"old\n");
}

#[tokio::test]
async fn a_maildir_delivery_is_whole_or_not_there() {
    let queue = Queue::with(&[MESS]);
    let maildir = queue.dir.path().join("Maildir");
    let deliver = |maildir: &Path| Maildir {
        id: ID,
        maildir: maildir.to_owned(),
        name: "1.M2P3Q4.mx.test".to_owned(),
        head: b"Return-Path: <>\n".to_vec(),
        file: None,
        _delivery: None,
    };
    assert!(queue.threads.run(deliver(&maildir)).await.is_err());
    for sub in ["tmp", "new"] {
        fs::create_dir_all(maildir.join(sub)).unwrap();
    }
    queue.threads.run(deliver(&maildir)).await.unwrap();
    let new = maildir.join("new/1.M2P3Q4.mx.test");
    assert_eq!(fs::read_to_string(&new).unwrap(), "Return-Path: <>\nSubject: x\n\nx\n");
    // The same name again is refused, and what was there stays.
    assert!(queue.threads.run(deliver(&maildir)).await.is_err());
    assert_eq!(fs::read_to_string(&new).unwrap(), "Return-Path: <>\nSubject: x\n\nx\n");
}
