//! The harness against the programs of others: what it says of hosts must be true of those.

use mailtree_tests::letter::{letter, read};
use mailtree_tests::peer::Peer;
use mailtree_tests::smtp::{Client, like};

#[test]
fn a_letter_is_recognised_whole_and_not_when_cut() {
    let text = letter("whole", 3000);
    let delivered = format!("Return-Path: <a@b.test>\nReceived: x\n{text}");
    assert_eq!(read(delivered.as_bytes()), Ok("whole".to_owned()));
    assert!(read(&delivered.as_bytes()[..delivered.len() - 1]).is_err());
    assert!(read(delivered.replace("end of whole", "end of whale").as_bytes()).is_err());
}

#[test]
fn a_letter_survives_the_wire() {
    let peer = Peer::obliging();
    let mut client = Client::connect(peer.address()).unwrap();
    client.say("EHLO client.test", 250);
    let text = letter("wire", 3000);
    assert!(text.contains("\n.") && text.contains("\n.."), "letters test transparency");
    client.transact("a@b.test", &["c@d.test"], &text).unwrap().expect(250);
    assert_eq!(peer.received()[0].data, text.as_bytes());
}

#[test]
fn patterns_match_as_shells_do() {
    for (pattern, text, matches) in [
        ("a*c", "abc", true),
        ("a*c", "ac", true),
        ("a*c", "abd", false),
        ("*", "", true),
        ("a", "ab", false),
        ("*b*b", "abab", true),
    ] {
        assert_eq!(like(pattern, text), matches, "{pattern} {text}");
    }
}

mod needs_postfix {
    use std::time::Duration;

    use mailtree_tests::postfix::{Sink, source};

    use super::*;

    #[test]
    fn smtp_source_and_the_peer_agree() {
        let peer = Peer::obliging();
        source(peer.address(), "sender@mx.test", "bob@mx.test", 20, 500, 4);
        let received = peer.wait(20, Duration::from_secs(10));
        assert!(received.iter().all(|taken| taken.to == ["bob@mx.test"]));
    }

    #[test]
    fn smtp_sink_dumps_what_was_sent() {
        let sink = Sink::start(&[]);
        let mut client = Client::connect(sink.address()).unwrap();
        client.say("EHLO client.test", 250);
        client.transact("a@b.test", &["c@d.test"], &letter("dump", 3000)).unwrap().expect(250);
        let dump = sink.wait(1, Duration::from_secs(10)).remove(0);
        assert_eq!(read(dump.data.as_bytes()), Ok("dump".to_owned()));
        assert!(dump.notes.iter().any(|note| note == "X-Rcpt-Args: <c@d.test>"), "{:?}", dump.notes);
    }
}

mod needs_root {
    use std::fs::{self, File};
    use std::io::Write;
    use std::time::Duration;

    use mailtree_tests::disk::{Disk, Switch};
    use mailtree_tests::sick::Thin;
    use mailtree_tests::wait::{holds_for, wait_until};
    use rustix::io::Errno;

    mod needs_bindfs {
        use mailtree_tests::sick::Served;
        use rustix::fs::{CWD, Mode, OFlags, RenameFlags, openat, renameat_with};

        use super::*;

        #[test]
        fn a_served_directory_refuses_what_file_servers_refuse_and_hangs_when_halted() {
            let served = Served::new();
            let front = served.front();
            let unnamed = OFlags::TMPFILE | OFlags::WRONLY;
            assert_eq!(
                openat(CWD, &front, unnamed, Mode::from_raw_mode(0o600)).err(),
                Some(Errno::OPNOTSUPP)
            );
            fs::write(front.join("a"), "x").unwrap();
            let renamed = renameat_with(CWD, front.join("a"), CWD, front.join("b"), RenameFlags::NOREPLACE);
            assert_eq!(renamed, Err(Errno::INVAL));
            fs::hard_link(front.join("a"), front.join("b")).unwrap();
            fs::rename(front.join("b"), front.join("c")).unwrap();
            let halted = served.halt();
            let writer = std::thread::spawn({
                let path = front.join("late");
                move || fs::write(path, "x").unwrap()
            });
            let late = served.back().join("late");
            holds_for("nothing is written", Duration::from_millis(300), || !late.exists());
            drop(halted);
            writer.join().unwrap();
            assert!(late.exists());
        }
    }

    #[test]
    fn a_frozen_disk_takes_nothing_until_the_thaw() {
        let disk = Disk::new(64);
        let path = disk.path().join("late");
        let frozen = disk.freeze();
        let writer = std::thread::spawn({
            let path = path.clone();
            move || fs::write(path, "x").unwrap()
        });
        holds_for("nothing is written", Duration::from_millis(300), || !path.exists());
        frozen.thaw();
        wait_until("the file", Duration::from_secs(5), || path.exists());
        writer.join().unwrap();
    }

    #[test]
    fn a_thin_disk_that_is_full_fails_at_the_sync_and_loses_what_was_written() {
        let thin = Thin::new();
        let write = |name: &str| {
            let mut file = File::create(thin.maildir().join("new").join(name)).unwrap();
            file.write_all(b"text").unwrap();
            file.sync_all().map_err(|cause| Errno::from_io_error(&cause).unwrap())
        };
        assert_eq!(write("before"), Ok(()));
        thin.fill();
        for number in 0..50 {
            assert_eq!(write(&format!("full-{number}")), Err(Errno::NOSPC));
        }
        thin.empty();
        assert_eq!(write("after"), Ok(()));
        thin.remount();
        let read = |name: &str| fs::read(thin.maildir().join("new").join(name)).unwrap_or_default();
        assert_eq!(read("before"), b"text");
        assert_ne!(read("full-0"), b"text", "a failed sync that lost nothing proves nothing");
        assert_eq!(read("after"), b"text");
    }

    mod needs_postfix {
        use std::time::Duration;

        use mailtree_tests::postfix::{MAILBOX, Postfix, source};

        #[test]
        fn the_benchmarks_postfix_delivers() {
            let postfix = Postfix::start();
            source(postfix.address(), "sender@mx.test", MAILBOX, 10, 1024, 2);
            postfix.maildir().wait(10, Duration::from_secs(20));
        }
    }

    #[test]
    fn a_power_cut_loses_what_was_not_synced_and_keeps_what_was() {
        let mut disk = Disk::new(64);
        std::fs::write(disk.path().join("kept"), "x").unwrap();
        let kept = std::fs::File::open(disk.path().join("kept")).unwrap();
        kept.sync_all().unwrap();
        std::fs::File::open(disk.path()).unwrap().sync_all().unwrap();
        drop(kept);
        let switch = Switch::new(&disk.path());
        std::fs::write(disk.path().join("lost"), "x").unwrap();
        switch.cut();
        disk.unmount();
        disk.mount();
        assert!(disk.path().join("kept").exists());
        assert!(
            !disk.path().join("lost").exists(),
            "the power cut kept what nobody synced: it proves nothing"
        );
    }
}
