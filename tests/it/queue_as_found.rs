//! A queue as it is found: what qmail's programs, other builds of qmail and accidents leave in it, and what qmail finds
//! when it gets the queue back.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use mailtree_tests::host::{Host, PATIENCE, Setup, free_port};
use mailtree_tests::letter::{letter, read};
use mailtree_tests::load::{Load, Plan};
use mailtree_tests::maildir::Arrivals;
use mailtree_tests::peer::{Answer, Peer, say};
use mailtree_tests::qmail::{KINDS, Layout, Queue, envelope, fifo, write};
use mailtree_tests::wait::{holds_for, wait_until};

const BOB: &str = "bob@mx.test";
const SENDER: &str = "sender@mx.test";
/// bob, as qmail-send has him in `local/` when it has been through `virtualdomains`.
const LOCAL_BOB: &str = "mx.test-bob@mx.test";

/// A message on disk may wait this long for its files.
const WRITTEN_OUT: Duration = Duration::from_secs(20);

/// A host's queue where `init` makes it, and one of a qmail.
fn both_places() -> [(Setup, Queue); 2] {
    let own = Setup::new();
    let queue = own.queue();
    [(own, queue), Setup::new().on_qmail(Layout::QMAIL)]
}

/// What is sent to `far.test` is tried, and stays: `gone@` is refused for good, everybody else for now.
fn refusing() -> Peer {
    Peer::start("127.0.0.1:0", |_, line| {
        if line.starts_with("RCPT TO:<gone@") {
            say("550 nobody here by that name")
        } else if line.starts_with("RCPT") {
            say("450 come back later")
        } else {
            Answer::Usual
        }
    })
}

fn names_of(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| format!("{}\n", path.display())).collect()
}

/// Everything in bob's Maildir came once, and `count` letters did.
fn came_once(host: &Host, count: usize) {
    let mut bob = Arrivals::new(host.maildir("bob"));
    wait_until(&format!("{count} letters to bob"), PATIENCE, || {
        bob.look();
        bob.copies.len() >= count
    });
    host.wait_queue_empty(PATIENCE);
    bob.look();
    assert_eq!(bob.doubles(&Default::default()), []);
    assert_eq!(bob.copies.len(), count);
}

// --- intd and todo are two names of one file ---

#[test]
fn a_message_of_the_original_qmail_queue_is_delivered_once_and_both_its_names_go() {
    for (setup, queue) in both_places() {
        let id = queue.inject(&letter("linked", 300), SENDER, &[BOB]);
        assert_eq!(queue.names_of(fs::metadata(queue.file("todo", id)).unwrap().ino()).len(), 2);
        let host = setup.start();
        came_once(&host, 1);
        assert!(!queue.file("intd", id).exists() && !queue.file("todo", id).exists());
    }
}

#[test]
fn files_that_others_have_made_are_never_used_again_while_new_mail_comes() {
    for (setup, queue) in both_places() {
        let kept = setup.home().join("kept");
        fs::create_dir(&kept).unwrap();
        // Each file has one more name, outside of the queue: whoever writes over it is seen.
        let mut others = Vec::new();
        let mut inject = |number: usize| {
            let text = letter(&format!("linked-{number}"), 300);
            let id = queue.mess(&text);
            let envelope = envelope(SENDER, &[BOB]);
            write(&queue.file("intd", id), envelope.as_bytes(), 0o644);
            for (kind, content) in [("mess", text), ("intd", envelope)] {
                let name = kept.join(format!("{kind}.{id}"));
                fs::hard_link(queue.file(kind, id), &name).unwrap();
                others.push((name, content.into_bytes()));
            }
            // From now on it is the host's.
            fs::hard_link(queue.file("intd", id), queue.file("todo", id)).unwrap();
        };
        (0..8).for_each(&mut inject);
        let host = setup.start();
        let load = Load::start(host.address(), &Plan::to(BOB, "new", 400));
        for number in 8..16 {
            load.wait_accepted((number - 7) * 40, Duration::from_secs(30));
            inject(number);
            host.ask(&["svc", "-a", "send"]);
        }
        load.finish(Duration::from_secs(60));
        host.ask(&["svc", "-a", "send"]);
        came_once(&host, 416);
        for (name, content) in others {
            assert!(fs::read(&name).unwrap() == content, "{} was written over", name.display());
            let inode = fs::metadata(&name).unwrap().ino();
            assert_eq!(queue.names_of(inode), [] as [PathBuf; 0], "still in the queue");
        }
    }
}

// --- layouts ---

/// Mail that is taken, tried and kept by a host with this layout; it stops in order, and everything lies in its place.
fn keeps_its_layout(layout: Layout) {
    let peer = refusing();
    let (setup, queue) = Setup::new().control("smtproutes", &peer.route("")).on_qmail(layout);
    let before = queue.directories();
    // One that waits for qmail-send, and one that has been through it.
    queue.inject(&letter("in-todo", 300), SENDER, &[BOB]);
    queue.preprocessed(&letter("in-info", 300), SENDER, &[LOCAL_BOB], &[]);
    let mut host = setup.start();
    came_once(&host, 2);
    // New mail that must go into files: because it cannot be delivered, because it is large, because of both.
    host.send(SENDER, &["x@far.test"], &letter("small", 300));
    host.send(SENDER, &["gone@far.test", "y@far.test"], &letter("half-failed", 300));
    host.send(SENDER, &["z@far.test"], &letter("large", 600 << 10));
    host.wait_log("delivery *: deferral: *");
    // Nobody preprocesses this one.
    host.ask(&["svc", "-d", "send"]);
    wait_until("send to be down", PATIENCE, || !host.is_up("send"));
    host.send(SENDER, &["x@far.test"], &letter("not-preprocessed", 600 << 10));
    host.stop();
    let files = queue.files();
    let messages = files.iter().filter(|(kind, _)| *kind == "mess").count();
    assert_eq!(messages, 4, "{files:#?}");
    let misplaced = queue.misplaced();
    assert!(misplaced.is_empty(), "{layout:?}: in the wrong place: {}", names_of(&misplaced));
    assert_eq!(queue.directories(), before, "{layout:?}: other directories than before");
    // And it finds what it has written.
    host.restart();
    assert!(host.ask(&["qmail-qstat"]).starts_with("messages in queue: 4\n"));
}

#[test]
fn the_layout_of_qmail_as_it_comes_is_kept() {
    keeps_its_layout(Layout::QMAIL);
}

#[test]
fn the_big_todo_layout_is_read_and_kept() {
    keeps_its_layout(Layout::BIG_TODO);
}

#[test]
fn the_split_is_what_the_directories_say() {
    for split in [7, 1, 101] {
        keeps_its_layout(Layout::split(split));
    }
}

#[test]
fn big_todo_goes_with_any_split() {
    keeps_its_layout(Layout { split: 7, big_todo: true });
}

#[test]
fn a_layout_that_is_none_is_refused_by_check_and_at_the_start() {
    let remove = |queue: &Queue, name: &str| fs::remove_dir(queue.path().join(name)).unwrap();
    let make = |queue: &Queue, name: &str| fs::create_dir(queue.path().join(name)).unwrap();
    type Spoil<'a> = Box<dyn Fn(&Queue) + 'a>;
    let cases: [(&str, &[&str], Spoil<'_>); 5] = [
        (
            "mess has 23 and info has 7",
            &["queue/info", "queue/mess"],
            Box::new(|queue| (7..23).for_each(|number| remove(queue, &format!("info/{number}")))),
        ),
        ("a gap in local", &["queue/local"], Box::new(|queue| remove(queue, "local/11"))),
        (
            "the same gap everywhere",
            &["queue/mess", "queue/info", "queue/local", "queue/remote"],
            Box::new(|queue| {
                ["mess", "info", "local", "remote"]
                    .iter()
                    .for_each(|kind| remove(queue, &format!("{kind}/5")));
            }),
        ),
        (
            "todo is split and intd is not",
            &["queue/todo", "queue/intd"],
            Box::new(|queue| (0..23).for_each(|number| make(queue, &format!("todo/{number}")))),
        ),
        (
            "half of todo is split",
            &["queue/todo", "queue/intd"],
            Box::new(|queue| {
                for kind in ["todo", "intd"] {
                    (0..11).for_each(|number| make(queue, &format!("{kind}/{number}")));
                }
            }),
        ),
    ];
    for (case, directories, spoil) in &cases {
        let (setup, queue) = Setup::new().on_qmail(Layout::QMAIL);
        // A number whose directories are there in every case.
        let id = 46;
        write(&queue.file("mess", id), letter("waiting", 300).as_bytes(), 0o644);
        write(&queue.file("todo", id), envelope(SENDER, &[BOB]).as_bytes(), 0o644);
        spoil(&queue);
        setup.write();
        let ran = setup.run(&["check"]);
        let said = format!("{}{}", ran.stdout, ran.stderr);
        let names = |text: &str| directories.iter().any(|dir| text.contains(dir));
        assert_eq!(ran.code, Some(100), "{case}: check said {said}");
        assert!(names(&said), "{case}: check said {said}");
        let mut host = setup.launch();
        let status = host.settles(PATIENCE);
        assert_eq!(status.and_then(|status| status.code()), Some(100), "{case}: {}", host.log_tail());
        assert!(names(&host.log()), "{case}: {}", host.log_tail());
        assert!(queue.file("mess", id).exists(), "{case}: the message is gone");
    }
}

// --- the sweep ---

/// Makes a file look as if nobody had touched it for two days.
fn age(path: &Path) {
    let old = SystemTime::now() - Duration::from_secs(48 * 3600);
    let times = fs::FileTimes::new().set_accessed(old).set_modified(old);
    fs::File::options().write(true).open(path).unwrap().set_times(times).unwrap();
}

#[test]
fn a_message_that_has_an_envelope_anywhere_is_never_swept_away() {
    let text = envelope(SENDER, &[BOB]);
    type Place<'a> = Box<dyn Fn(&Queue, u64) + 'a>;
    // In what layout, under what name, how the envelope lies.
    let other = |queue: &Queue, kind: &str, id: u64| {
        let dir = queue.path().join(kind).join((id % 23).to_string());
        fs::create_dir_all(&dir).unwrap();
        dir.join(id.to_string())
    };
    let cases: [(&str, Layout, Place<'_>); 7] = [
        (
            "todo, flat",
            Layout::QMAIL,
            Box::new(|queue, id| write(&queue.file("todo", id), text.as_bytes(), 0o644)),
        ),
        (
            "todo and intd, two files",
            Layout::QMAIL,
            Box::new(|queue, id| {
                ["intd", "todo"].iter().for_each(|kind| write(&queue.file(kind, id), text.as_bytes(), 0o644));
            }),
        ),
        (
            "todo as big-todo has it, where todo is flat",
            Layout::QMAIL,
            Box::new(|queue, id| write(&other(queue, "todo", id), text.as_bytes(), 0o644)),
        ),
        (
            "todo and intd as big-todo has them, where both are flat",
            Layout::QMAIL,
            Box::new(|queue, id| {
                ["intd", "todo"].iter().for_each(|kind| {
                    write(&other(queue, kind, id), text.as_bytes(), 0o644);
                });
            }),
        ),
        (
            "todo flat, where it is split",
            Layout::BIG_TODO,
            Box::new(|queue, id| {
                write(&queue.path().join(format!("todo/{id}")), text.as_bytes(), 0o644);
            }),
        ),
        (
            "info and local",
            Layout::QMAIL,
            Box::new(|queue, id| {
                write(&queue.file("info", id), format!("F{SENDER}\0").as_bytes(), 0o600);
                write(&queue.file("local", id), format!("T{LOCAL_BOB}\0").as_bytes(), 0o600);
            }),
        ),
        (
            "info and local of another split",
            Layout::QMAIL,
            Box::new(|queue, id| {
                let foreign = |kind: &str| queue.path().join(format!("{kind}/{}/{id}", (id + 1) % 23));
                write(&foreign("info"), format!("F{SENDER}\0").as_bytes(), 0o600);
                write(&foreign("local"), format!("T{LOCAL_BOB}\0").as_bytes(), 0o600);
            }),
        ),
    ];
    for (case, layout, place) in &cases {
        let (setup, queue) = Setup::new().on_qmail(*layout);
        // Held, so that the message is still there when the sweep has been.
        fs::write(setup.home().join("qmail/control/concurrencylocal"), "0\n").unwrap();
        let id = queue.mess(&letter("has-an-envelope", 300));
        place(&queue, id);
        let orphan = queue.mess("Subject: nobody knows for whom\n\nx\n");
        age(&queue.file("mess", id));
        age(&queue.file("mess", orphan));
        let mut host = setup.launch();
        // A host that does not like this queue may say so; it must not take anything away then.
        if host.settles(PATIENCE).is_none() {
            wait_until(&format!("{case}: the sweep"), PATIENCE, || !queue.file("mess", orphan).exists());
        }
        assert!(queue.file("mess", id).exists(), "{case}: the message is gone\n{}", host.log_tail());
    }
}

// --- the trigger ---

/// One byte into the FIFO, as qmail-queue's triggerpull does it: whoever listens looks into todo.
fn pull(trigger: &Path) {
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let opened = fs::File::options().write(true).custom_flags(nonblocking).open(trigger);
    let mut fifo = opened.unwrap_or_else(|cause| panic!("nobody listens at {}: {cause}", trigger.display()));
    fifo.write_all(&[0]).unwrap();
}

#[test]
fn the_trigger_wakes_an_idle_host() {
    for (setup, queue) in both_places() {
        let host = setup.start();
        host.send(SENDER, &[SENDER], &letter("warm", 300));
        host.maildir("sender").wait(1, PATIENCE);
        host.wait_queue_empty(PATIENCE);
        for count in 1..=3 {
            queue.inject(&letter(&format!("by-hand-{count}"), 300), SENDER, &[BOB]);
            pull(&queue.path().join("lock/trigger"));
            host.maildir("bob").wait(count, Duration::from_secs(5));
        }
        came_once(&host, 3);
    }
}

#[test]
fn a_trigger_that_is_missing_is_made_with_qmails_modes() {
    for (setup, queue) in both_places() {
        let trigger = queue.path().join("lock/trigger");
        fs::remove_file(&trigger).unwrap();
        let host = setup.start();
        let made = fs::symlink_metadata(&trigger).unwrap();
        assert!(made.file_type().is_fifo());
        assert_eq!(made.permissions().mode() & 0o7777, 0o622);
        queue.inject(&letter("by-hand", 300), SENDER, &[BOB]);
        pull(&trigger);
        host.maildir("bob").wait(1, Duration::from_secs(5));
    }
}

#[test]
fn a_directory_that_is_missing_is_made_or_named() {
    for name in ["pid", "intd", "todo", "bounce", "lock", "mess", "info", "local", "remote"] {
        let (setup, queue) = Setup::new().on_qmail(Layout::QMAIL);
        let dir = queue.path().join(name);
        fs::remove_dir_all(&dir).unwrap();
        let mut host = setup.launch();
        match host.settles(PATIENCE) {
            None => {
                host.send(SENDER, &[BOB], &letter("made", 300));
                host.send(SENDER, &[BOB], &letter("made-large", 600 << 10));
                came_once(&host, 2);
                assert!(dir.is_dir(), "{name} was not made");
            }
            Some(status) => {
                assert!(matches!(status.code(), Some(100 | 111)), "{name}: {status:?}");
                assert!(host.log().contains(&format!("queue/{name}")), "{name}: {}", host.log_tail());
            }
        }
    }
}

// --- what is damaged, and what is no file ---

/// Whether a line names a file of the queue, `local/13/45`; without the number of the split will do.
fn mentions(line: &str, file: &str) -> bool {
    let parts: Vec<_> = file.split('/').collect();
    line.contains(file) || line.contains(&format!("{}/{}", parts[0], parts[parts.len() - 1]))
}

/// Waits for an alert that names this file.
fn alerted(host: &Host, file: &str) {
    wait_until(&format!("an alert that names {file}"), PATIENCE, || {
        host.log_lines().iter().any(|line| line.starts_with("alert: ") && mentions(line, file))
    });
}

#[test]
fn a_last_record_that_is_cut_off_keeps_nobody_before_it_from_his_mail() {
    let peer = Peer::obliging();
    let (setup, queue) = Setup::new().control("smtproutes", &peer.route("")).on_qmail(Layout::QMAIL);
    let cut = |kind: &str, id: u64| {
        let path = queue.file(kind, id);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() - 4]).unwrap();
        queue.short(kind, id)
    };
    let local = ["mx.test-bob@mx.test", "mx.test-sender@mx.test"];
    let here = queue.preprocessed(&letter("here", 300), SENDER, &local, &[]);
    let far = queue.preprocessed(&letter("far", 300), SENDER, &[], &["x@far.test", "y@far.test"]);
    let (here, far) = (cut("local", here), cut("remote", far));
    let host = setup.start();
    assert_eq!(read(&host.maildir("bob").wait(1, PATIENCE)[0].clone().into_bytes()), Ok("here".to_owned()));
    wait_until("the first recipient's mail", PATIENCE, || !peer.received().is_empty());
    assert_eq!(peer.received()[0].to, ["x@far.test"]);
    alerted(&host, &here);
    alerted(&host, &far);
    // What is left of the last one is nobody's address.
    host.ask(&["svc", "-a", "send"]);
    holds_for("nothing goes to half an address", Duration::from_secs(2), || {
        peer.received().len() == 1 && host.maildir("sender").count() == 0
    });
}

/// Starts a host on a queue with these odd things in it. It is up in time, names each, and does its work.
fn goes_on(setup: Setup, odd: &[String]) {
    let peer = Peer::obliging();
    fs::write(setup.home().join("qmail/control/smtproutes"), peer.route("")).unwrap();
    let start = Instant::now();
    let host = setup.start();
    assert!(start.elapsed() < Duration::from_secs(10), "the start took {:?}", start.elapsed());
    host.send(SENDER, &[BOB, "x@far.test"], &letter("goes-on", 300));
    host.send(SENDER, &[BOB, "x@far.test"], &letter("goes-on-large", 600 << 10));
    wait_until("both letters here and there", PATIENCE, || {
        host.maildir("bob").count() == 2 && peer.received().len() == 2
    });
    host.ask(&["svc", "-a", "send"]);
    for name in odd {
        wait_until(&format!("{name} in the log"), PATIENCE, || {
            host.log_lines().iter().any(|line| mentions(line, name))
        });
    }
    host.send(SENDER, &[SENDER], &letter("still-goes-on", 300));
    host.maildir("sender").wait(1, PATIENCE);
    assert!(host.status().iter().all(|row| row["restarts"] == 0), "{:#?}", host.status());
}

#[test]
fn pipes_and_directories_in_the_queue_are_named_and_passed_over() {
    let make_dir = |path: &Path| fs::create_dir(path).unwrap();
    let make_pipe = |path: &Path| fifo(path, 0o644);
    let kinds: [&dyn Fn(&Path); 2] = [&make_pipe, &make_dir];
    for make in kinds {
        let (setup, queue) = Setup::new().on_qmail(Layout::QMAIL);
        let mut odd = Vec::new();
        let mut put = |kind: &str, id: u64| {
            make(&queue.file(kind, id));
            odd.push(queue.short(kind, id));
        };
        // In place of an envelope, of a sender, of a text; each with the rest of its message as it should be.
        put("todo", queue.mess(&letter("odd-todo", 300)));
        put("info", queue.mess(&letter("odd-info", 300)));
        let id = queue.preprocessed(&letter("odd-local", 300), SENDER, &[LOCAL_BOB], &[]);
        fs::remove_file(queue.file("local", id)).unwrap();
        put("local", id);
        // Who fails is told through it.
        let id = queue.preprocessed(&letter("odd-bounce", 300), SENDER, &["mx.test-nobody@mx.test"], &[]);
        put("bounce", id);
        // The last: its number is free again, and another message's file might get it.
        let id = queue.inject(&letter("odd-mess", 300), SENDER, &[BOB]);
        fs::remove_file(queue.file("mess", id)).unwrap();
        put("mess", id);
        goes_on(setup, &odd);
    }
}

#[test]
fn a_tcpto_that_is_a_pipe_or_a_directory_holds_up_nobody() {
    for is_pipe in [true, false] {
        let (setup, queue) = Setup::new().on_qmail(Layout::QMAIL);
        let tcpto = queue.path().join("lock/tcpto");
        fs::remove_file(&tcpto).unwrap();
        if is_pipe {
            fifo(&tcpto, 0o644);
        } else {
            fs::create_dir(&tcpto).unwrap();
        }
        goes_on(setup, &["lock/tcpto".to_owned()]);
    }
}

// --- queue remove ---

/// A message is removed while the other host is about to take it; then the host dies. `written` says whether the
/// message has its files by then.
fn removed_while_under_way(written: bool) {
    let peer = Peer::start("127.0.0.1:0", |connection, line| match (connection, line) {
        (1, ".") => Answer::Hang,
        _ => Answer::Usual,
    });
    let setup = Setup::new().control("smtproutes", &peer.route(""));
    let queue = setup.queue();
    let mut host = setup.start();
    host.send(SENDER, &["x@far.test", "y@far.test"], &letter("removed", 300));
    wait_until("the final dot", PATIENCE, || peer.commands().iter().any(|line| line == "DATA"));
    let line = host.wait_log("info msg *: bytes *");
    let id = line.strip_prefix("info msg ").unwrap().split(':').next().unwrap().to_owned();
    if written {
        wait_until("the message's files", WRITTEN_OUT, || {
            queue.files().iter().any(|(kind, path)| *kind == "info" && path.ends_with(&id))
        });
    }
    host.ask(&["queue", "remove", &id]);
    host.kill();
    host.restart();
    host.ask(&["svc", "-a", "send"]);
    holds_for("nothing more is sent of what was removed", Duration::from_secs(2), || {
        peer.connections() == 1 && peer.received().is_empty()
    });
    assert!(!host.ask(&["queue", "list"]).contains(&id));
    host.wait_queue_empty(PATIENCE);
    assert_eq!(host.maildir("sender").count(), 0, "a bounce for what was removed");
}

#[test]
fn what_was_removed_at_once_while_it_was_under_way_does_not_come_back() {
    removed_while_under_way(false);
}

#[test]
fn what_was_removed_from_the_files_while_it_was_under_way_does_not_come_back() {
    removed_while_under_way(true);
}

mod needs_root {
    use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

    use super::*;

    const QMAILQ: u32 = 7791;
    const QMAILS: u32 = 7792;
    const QMAIL: u32 = 7793;

    /// Who owns a directory of the queue in a qmail.
    fn owner(kind: &str) -> u32 {
        if ["mess", "intd", "todo", "pid", "lock"].contains(&kind) { QMAILQ } else { QMAILS }
    }

    /// What a file of the queue may do, by qmail-queue and qmail-send.
    fn mode(kind: &str) -> u32 {
        if ["mess", "intd", "todo"].contains(&kind) { 0o644 } else { 0o600 }
    }

    fn give(path: &Path, uid: u32) {
        std::os::unix::fs::lchown(path, Some(uid), Some(QMAIL)).unwrap();
    }

    fn owners_and_modes_are_qmails(layout: Layout) {
        let peer = refusing();
        let (setup, queue) = Setup::new()
            .control(
                "smtproutes",
                &format!(
                    "{}closed.test:[127.0.0.1]:{}\n",
                    peer.route("far.test"),
                    free_port("127.0.0.1").port()
                ),
            )
            // Local mail is taken, and nobody gets it.
            .control("concurrencylocal", "0\n")
            .on_qmail(layout);
        for kind in KINDS.into_iter().chain(["pid", "lock"]) {
            give(&queue.path().join(kind), owner(kind));
        }
        for dir in queue.directories() {
            let kind =
                dir.strip_prefix(queue.path()).unwrap().iter().next().unwrap().to_str().unwrap().to_owned();
            give(&dir, owner(&kind));
        }
        // What is missing is made as qmail would have it.
        let remade = [
            ("lock/trigger", QMAILS, 0o622),
            ("lock/sendmutex", QMAILS, 0o600),
            ("bounce", QMAILS, 0o700),
            ("pid", QMAILQ, 0o700),
        ];
        for (name, ..) in remade {
            let path = queue.path().join(name);
            if path.is_dir() { fs::remove_dir(&path).unwrap() } else { fs::remove_file(&path).unwrap() }
        }
        let mut host = setup.start();
        for (name, size) in [("small", 300), ("large", 600 << 10)] {
            host.send(SENDER, &[BOB, SENDER], &letter(&format!("held-{name}"), size));
            host.send(SENDER, &["x@closed.test"], &letter(&format!("deferred-{name}"), size));
            // One recipient has failed, the bounce waits for the other.
            host.send(
                SENDER,
                &["gone@far.test", "x@far.test"],
                &letter(&format!("half-failed-{name}"), size),
            );
        }
        wait_until("two failures and four deferrals", PATIENCE, || {
            let lines = host.log_lines();
            let count = |word: &str| {
                lines.iter().filter(|line| line.starts_with("delivery ") && line.contains(word)).count()
            };
            count(": failure: ") >= 2 && count(": deferral: ") >= 4
        });
        host.ask(&["svc", "-d", "send"]);
        wait_until("send to be down", PATIENCE, || !host.is_up("send"));
        host.send(SENDER, &[BOB], &letter("not-preprocessed", 600 << 10));
        host.stop();
        let mut wrong = Vec::new();
        for (kind, path) in queue.files() {
            let data = fs::metadata(&path).unwrap();
            let found = (data.uid(), data.gid(), data.mode() & 0o7777);
            let right = (owner(kind), QMAIL, mode(kind));
            if found != right {
                wrong.push(format!(
                    "{}: {}:{} {:o}, not {}:{} {:o}",
                    path.display(),
                    found.0,
                    found.1,
                    found.2,
                    right.0,
                    right.1,
                    right.2
                ));
            }
        }
        assert!(wrong.is_empty(), "{layout:?}:\n{}", wrong.join("\n"));
        for (name, owner, mode) in remade {
            let data = fs::symlink_metadata(queue.path().join(name)).unwrap();
            assert_eq!((data.uid(), data.gid(), data.mode() & 0o7777), (owner, QMAIL, mode), "{name}");
        }
        // There was something to look at.
        for (kind, count) in [("mess", 7), ("info", 6), ("local", 2), ("remote", 4), ("bounce", 2)] {
            let found = queue.files().into_iter().filter(|(found, _)| *found == kind).count();
            assert!(found >= count, "{layout:?}: {found} files in {kind}, not {count}");
        }
        assert_eq!(names_of(&queue.misplaced()), "", "{layout:?}");
        let journal = fs::read_dir(queue.path().join("journal"));
        let segments: Vec<_> = journal.into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(names_of(&segments), "", "the journal after a stop in order");
    }

    #[test]
    fn files_have_the_owners_of_their_directories_and_qmails_modes() {
        owners_and_modes_are_qmails(Layout::QMAIL);
    }

    #[test]
    fn files_have_the_owners_of_their_directories_with_big_todo() {
        owners_and_modes_are_qmails(Layout::BIG_TODO);
    }

    #[test]
    fn files_have_the_owners_of_their_directories_with_another_split() {
        owners_and_modes_are_qmails(Layout::split(7));
    }

    /// `/dev/zero` never ends, and whoever takes it for a file reads for ever.
    #[test]
    fn devices_in_the_queue_are_named_and_passed_over() {
        let (setup, queue) = Setup::new().on_qmail(Layout::QMAIL);
        let mut odd = Vec::new();
        let mut put = |kind: &str, id: u64| {
            let path = queue.file(kind, id);
            mknodat(CWD, &path, FileType::CharacterDevice, Mode::from_raw_mode(0o644), makedev(1, 5))
                .unwrap();
            odd.push(queue.short(kind, id));
        };
        put("todo", queue.mess(&letter("odd-todo", 300)));
        put("info", queue.mess(&letter("odd-info", 300)));
        let id = queue.inject(&letter("odd-mess", 300), SENDER, &[BOB]);
        fs::remove_file(queue.file("mess", id)).unwrap();
        put("mess", id);
        let tcpto = queue.path().join("lock/tcpto");
        fs::remove_file(&tcpto).unwrap();
        mknodat(CWD, &tcpto, FileType::CharacterDevice, Mode::from_raw_mode(0o644), makedev(1, 5)).unwrap();
        odd.push("lock/tcpto".to_owned());
        goes_on(setup, &odd);
    }
}
