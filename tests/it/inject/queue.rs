//! qmail-queue: its descriptors, its exit codes, its socket and the files it writes without a host.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use mailtree_tests::host::{Host, PATIENCE, Setup};
use mailtree_tests::letter::{self, letter};
use mailtree_tests::local::Local;
use mailtree_tests::wait::wait_until;

/// A line that hands in the files `m` and `e`, and says how it ended.
const HAND_IN: &str = "qmail-queue <m 1<e; echo $? >&2";

fn hand_in(local: &Local, message: &[u8], envelope: &[u8]) -> String {
    local.write("m", message);
    local.write("e", envelope);
    let ran = local.run(HAND_IN, "");
    assert_eq!(ran.stdout, "", "qmail-queue never prints: {ran:#?}");
    ran.stderr.trim_end().to_owned()
}

#[test]
fn a_message_goes_to_the_host_with_its_users_number() {
    let host = Host::start();
    let local = Local::of(&host);
    let mode = |name: &str| std::fs::metadata(host.home().join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("run"), mode("run/qmail-queue.sock"), mode("run/control.sock")), (0o711, 0o666, 0o600));
    let large = letter("large", 3_000_000);
    for text in [&letter("small", 300), &large] {
        assert_eq!(hand_in(&local, text.as_bytes(), b"Fsender@mx.test\0Tbob@mx.test\0\0"), "0");
    }
    let texts = host.maildir("bob").wait(2, PATIENCE);
    let mut names: Vec<_> = texts.iter().map(|text| letter::read(text.as_bytes()).unwrap()).collect();
    names.sort();
    assert_eq!(names, ["large", "small"]);
    let uid = rustix::process::getuid().as_raw();
    assert!(texts.iter().all(|text| text.contains(&format!(" invoked by uid {uid}); "))), "{texts:#?}");
    assert!(texts.iter().all(|text| text.starts_with("Return-Path: <sender@mx.test>\n")), "{texts:#?}");
    host.wait_log(&format!("info msg *: bytes * from <sender@mx.test> qp * uid {uid}"));
    host.wait_queue_empty(PATIENCE);
}

#[test]
fn exit_codes_are_qmails() {
    let host = Host::start();
    let local = Local::of(&host);
    let long = |len: usize| [&b"Fsender@mx.test\0T"[..], &vec![b'a'; len - 8], b"@mx.test\0\0"].concat();
    for (envelope, code) in [
        (&b""[..], "54"),
        (b"Fa@b", "54"),
        (b"Fa@b\0", "54"),
        (b"Fa@b\0Tc@d\0", "54"),
        (b"Tc@d\0\0", "91"),
        (b"Fa@b\0Xc@d\0\0", "91"),
        (&long(1003), "11"),
        (b"F\0\0", "0"),
        (b"Fsender@mx.test\0\0", "0"),
        (b"Fsender@mx.test\0Tbob@mx.test\0\0ignored", "0"),
    ] {
        assert_eq!(hand_in(&local, b"Subject: x\n\n", envelope), code, "{envelope:?}");
    }
    host.maildir("bob").wait(1, PATIENCE);
    host.wait_queue_empty(PATIENCE);
    // What cannot be read is no message.
    assert_eq!(local.run("qmail-queue </ 1<e; echo $? >&2", "").stderr, "54\n");
    // Another home, and one whose host.ron cannot be read.
    let ran = local.run("MAILTREE_HOME=/nonexistent qmail-queue <m 1<e; echo $? >&2", "");
    assert_eq!(ran.stderr, "61\n");
    std::fs::create_dir(local.file("bad")).unwrap();
    local.write("bad/host.ron", "(");
    let ran = local.run("MAILTREE_HOME=bad qmail-queue <m 1<e; echo $? >&2", "");
    assert_eq!(ran.stderr, "55\n");
}

#[test]
fn without_a_host_the_files_wait_for_one() {
    let setup = Setup::new();
    setup.write();
    let local = Local::before(&setup);
    for (name, size) in [("one", 100), ("two", 400_000)] {
        assert_eq!(
            hand_in(&local, letter(name, size).as_bytes(), b"Fsender@mx.test\0Tbob@mx.test\0\0"),
            "0",
            "{name}"
        );
    }
    assert_eq!(hand_in(&local, b"x\n", b"Xsender\0\0"), "91");
    let mut host = setup.start();
    assert_eq!(host.maildir("bob").wait(2, PATIENCE).len(), 2);
    host.wait_queue_empty(PATIENCE);
    // A socket that nobody answers is no host.
    host.kill();
    assert!(host.home().join("run/qmail-queue.sock").exists());
    assert_eq!(hand_in(&local, letter("three", 100).as_bytes(), b"Fsender@mx.test\0Tbob@mx.test\0\0"), "0");
    host.restart();
    host.maildir("bob").wait(3, PATIENCE);
    // qmail-send is woken through the trigger.
    std::fs::rename(host.home().join("run/qmail-queue.sock"), local.file("away")).unwrap();
    assert_eq!(hand_in(&local, letter("four", 100).as_bytes(), b"Fsender@mx.test\0Tbob@mx.test\0\0"), "0");
    host.maildir("bob").wait(4, PATIENCE);
}

#[test]
fn a_host_that_dies_has_taken_nothing_or_all() {
    let mut host = Setup::new().start();
    let local = Local::of(&host);
    local.write("e", "Fsender@mx.test\0Tbob@mx.test\0\0");
    // Half a message is with the host.
    let mut child = local.start("exec qmail-queue 1<e");
    let mut stdin = child.stdin.take().unwrap();
    let text = letter("half", 2_000_000);
    stdin.write_all(&text.as_bytes()[..1_500_000]).unwrap();
    wait_until("the host to have some of it", PATIENCE, || {
        std::fs::read_dir(host.home().join("queue/pid"))
            .unwrap()
            .any(|entry| entry.unwrap().metadata().is_ok_and(|meta| meta.len() > 100_000))
    });
    host.kill();
    // Whether or not the process is there to be written to.
    stdin.write_all(&text.as_bytes()[1_500_000..]).unwrap_or(());
    drop(stdin);
    let code = child.wait().unwrap().code();
    assert_eq!(code, Some(74));

    // Whatever was accepted is there after kills at any moment.
    let mut accepted = Vec::new();
    host.restart();
    for round in 0..5 {
        let children: Vec<_> = (0..8)
            .map(|n| {
                let name = format!("r{round}n{n}");
                local.write(&name, letter(&name, if n % 4 == 0 { 300_000 } else { 500 }));
                (local.start(&format!("exec qmail-queue <{name} 1<e")), name)
            })
            .collect();
        host.kill();
        for (mut child, name) in children {
            match child.wait().unwrap().code() {
                Some(0) => accepted.push(name),
                code => assert!(matches!(code, Some(52 | 62..=66 | 71..=74)), "{name}: {code:?}"),
            }
        }
        host.restart();
    }
    wait_until("what was accepted", PATIENCE, || host.maildir("bob").count() >= accepted.len());
    host.wait_queue_empty(PATIENCE);
    let messages = host.maildir("bob").messages();
    let copies = letter::count(messages.iter().map(Vec::as_slice));
    for name in &accepted {
        assert!(copies.contains_key(name), "{name} was accepted and is lost: {copies:?}");
    }
    assert!(!copies.contains_key("half"));
}

#[test]
fn who_goes_before_the_end_has_handed_in_nothing() {
    let host = Host::start();
    let local = Local::of(&host);
    local.write("e", "Fsender@mx.test\0Tbob@mx.test\0\0");
    let mut child = local.start("exec qmail-queue 1<e");
    child.stdin.take().unwrap().write_all(&vec![b'x'; 1_000_000]).unwrap_or(());
    // Its input is whole, and its envelope is, too: it must be gone before it has said so.
    let mut child_without_end = local.start("exec qmail-queue <m 1</dev/null");
    local.write("m", "x\n");
    child.kill().unwrap();
    child.wait().unwrap();
    child_without_end.wait().unwrap();
    host.wait_queue_empty(PATIENCE);
}

mod needs_root {
    use std::os::unix::net::UnixStream;
    use std::process::{Child, Command, Stdio};

    use mailtree_tests::wait::wait_for;

    use super::*;

    #[test]
    fn every_user_may_hand_in_and_none_without_a_host() {
        let mut host = Host::start();
        let local = Local::of(&host);
        local.write("m", "Subject: x\n\nx\n");
        local.write("e", "Fsender@mx.test\0Tbob@mx.test\0\0");
        assert_eq!(local.run_as(54_321, HAND_IN, "").stderr, "0\n");
        let texts = host.maildir("bob").wait(1, PATIENCE);
        assert!(texts[0].contains(" invoked by uid 54321); "), "{texts:#?}");
        host.wait_log("info msg *: bytes * from <sender@mx.test> qp * uid 54321");
        let ran = local.run_as(54_321, "USER=sender sendmail -t", "To: bob@mx.test\n\nx\n");
        assert_eq!((ran.code, &*ran.stderr), (Some(0), ""));
        host.maildir("bob").wait(2, PATIENCE);
        host.stop();
        let ran = local.run_as(54_321, "sendmail bob@mx.test", "\n");
        let said = "qmail-inject: fatal: qq trouble creating files in queue (#4.3.0)\n";
        assert_eq!((ran.code, &*ran.stderr), (Some(111), said));
        assert_eq!(local.run_as(54_321, HAND_IN, "").stderr, "62\n");
        // The owner of the queue's directories gets what root writes there.
        for dir in ["mess", "todo", "intd", "pid"] {
            let path = host.home().join("queue").join(dir);
            Command::new("chown").args(["-R", "54322:54323"]).arg(path).status().unwrap();
        }
        assert_eq!(local.run(HAND_IN, "").stderr, "0\n");
        let find = Command::new("find")
            .arg(host.home().join("queue"))
            .args(["-type", "f", "-path", "*/queue/[mt]*/*", "-printf", "%U:%G %m\n"])
            .output()
            .unwrap();
        assert_eq!(String::from_utf8(find.stdout).unwrap(), "54322:54323 644\n54322:54323 644\n");
    }

    /// Processes of one user that connect and say nothing until they are killed.
    struct Silent(Child);

    impl Silent {
        fn start(host: &Host, uid: u32, count: u32) -> Self {
            let script = "import socket,sys,resource\n\
                 resource.setrlimit(resource.RLIMIT_NOFILE,(20000,20000))\n\
                 n=0; kept=[]\n\
                 while n<int(sys.argv[2]):\n \
                   s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); kept.append(s); n+=1\n\
                 print('connected',flush=True); sys.stdin.read()\n";
            let mut child = Command::new("prlimit")
                .args(["--nofile=20000:20000", "setpriv", "--clear-groups", "--reuid"])
                .args([uid.to_string(), "--regid".into(), uid.to_string()])
                .args(["python3", "-c", script])
                .arg(host.home().join("run/qmail-queue.sock"))
                .arg(count.to_string())
                .env("PATH", "/usr/bin:/bin")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut line = [0; 10];
            std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut line).unwrap();
            Self(child)
        }
    }

    impl Drop for Silent {
        fn drop(&mut self) {
            self.0.kill().unwrap_or(());
            self.0.wait().unwrap();
        }
    }

    fn resident(host: &Host) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", host.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    #[test]
    fn those_who_say_nothing_hold_no_memory_and_no_place_of_others() {
        let host = Host::start();
        let local = Local::of(&host);
        local.write("m", "Subject: x\n\nx\n");
        local.write("e", "Fsender@mx.test\0Tbob@mx.test\0\0");
        assert_eq!(local.run_as(54_321, HAND_IN, "").stderr, "0\n");
        let before = resident(&host);
        let silent = Silent::start(&host, 54_322, 10_000);
        let grown = resident(&host).saturating_sub(before);
        assert!(grown < 16 << 20, "{grown} bytes for connections that say nothing");
        for _ in 0..20 {
            assert_eq!(local.run_as(54_321, HAND_IN, "").stderr, "0\n");
        }
        // The silent user's own mail waits for its place, and has it when the silent ones are gone.
        drop(silent);
        assert_eq!(local.run_as(54_322, HAND_IN, "").stderr, "0\n");
        host.maildir("bob").wait(22, PATIENCE);
    }

    #[test]
    fn a_hundred_at_once_of_one_user_are_all_taken_and_keep_nobody_out() {
        let host = Host::start();
        let local = Local::of(&host);
        local.write("m", "Subject: x\n\nx\n");
        local.write("e", "Fsender@mx.test\0Tbob@mx.test\0\0");
        let large = local.write("large", letter("large", 300_000));
        assert!(large.exists());
        // Some have begun a large message and do not go on.
        let mut slow: Vec<_> = (0..30).map(|_| local.start_as(54_322, "exec qmail-queue 1<e")).collect();
        let mut inputs: Vec<_> = slow.iter_mut().map(|child| child.stdin.take().unwrap()).collect();
        for input in &mut inputs {
            input.write_all(&letter("slow", 100_000).into_bytes()[..64 * 1024]).unwrap();
        }
        let many: Vec<_> = (0..100).map(|_| local.start_as(54_323, "exec qmail-queue <large 1<e")).collect();
        for _ in 0..10 {
            assert_eq!(local.run_as(54_321, HAND_IN, "").stderr, "0\n");
        }
        for mut child in many {
            assert_eq!(child.wait().unwrap().code(), Some(0));
        }
        host.maildir("bob").wait(110, PATIENCE);
        drop(inputs);
        for mut child in slow {
            assert_eq!(child.wait().unwrap().code(), Some(0));
        }
        wait_until("the slow ones' mail", PATIENCE, || host.maildir("bob").count() == 140);
    }

    #[test]
    fn a_host_that_stands_still_does_not_lose_what_it_answers_for() {
        let host = Host::start();
        let local = Local::of(&host);
        local.write("m", "Subject: x\n\nx\n");
        local.write("e", "Fsender@mx.test\0Tbob@mx.test\0\0");
        host.signal(rustix::process::Signal::STOP);
        let mut child = local.start_as(54_321, "exec qmail-queue <m 1<e");
        // It is connected, for the kernel takes connections.
        let socket = host.home().join("run/qmail-queue.sock");
        drop(wait_for("the socket", PATIENCE, || UnixStream::connect(&socket).ok()));
        host.signal(rustix::process::Signal::CONT);
        assert_eq!(child.wait().unwrap().code(), Some(0));
        host.maildir("bob").wait(1, Duration::from_secs(30));
    }
}
