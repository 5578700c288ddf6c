//! TERM stops in order; what was under way is finished or kept.

use std::io::Write;
use std::time::{Duration, Instant};

use mailtree_tests::host::{Host, PATIENCE, Setup};
use mailtree_tests::letter::{letter, read};
use mailtree_tests::load::{Load, Plan};
use mailtree_tests::maildir::Arrivals;
use mailtree_tests::peer::{Answer, Peer};
use mailtree_tests::wait::wait_until;
use rustix::process::Signal;

#[test]
fn sessions_are_told_421_and_the_exit_code_is_0() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut host = Host::start();
        let (mut idle, mut busy) = (host.smtp(), host.smtp());
        busy.say("EHLO client.test", 250);
        busy.say("MAIL FROM:<sender@mx.test>", 250);
        host.signal(signal);
        for client in [&mut idle, &mut busy] {
            let reply = client.reply().unwrap().expect(421).text();
            assert!(reply.starts_with("421 4.3.2 "), "{reply}");
            assert!(client.closed());
        }
        let status = host.wait_exit(PATIENCE);
        assert_eq!(status.code(), Some(0), "{}", host.log_tail());
        assert!(host.log_lines().iter().any(|line| line == "status: exiting"), "{}", host.log_tail());
    }
}

#[test]
fn a_stop_without_work_is_quick() {
    let mut host = Host::start();
    let start = Instant::now();
    host.stop();
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    assert!(!host.home().join("run/control.sock").exists());
}

#[test]
fn a_running_delivery_is_finished_within_the_grace_time() {
    let (open, gate) = std::sync::mpsc::channel::<()>();
    let gate = std::sync::Mutex::new(gate);
    let peer = Peer::start("127.0.0.1:0", move |_, line| {
        if line == "." {
            gate.lock().unwrap().recv_timeout(PATIENCE).ok();
        }
        Answer::Usual
    });
    let mut host = Setup::new().control("smtproutes", &peer.route("")).start();
    host.send("sender@mx.test", &["x@far.test"], &letter("running", 300));
    wait_until("the final dot", PATIENCE, || peer.commands().iter().any(|line| line == "DATA"));
    host.signal(Signal::TERM);
    host.wait_log("status: local * exitasap");
    open.send(()).unwrap();
    assert_eq!(host.wait_exit(PATIENCE).code(), Some(0));
    peer.wait(1, PATIENCE);
    host.restart();
    host.wait_queue_empty(PATIENCE);
    assert_eq!(peer.received().len(), 1, "delivered twice");
}

#[test]
fn a_delivery_that_hangs_is_deferred_when_the_grace_time_is_over() {
    let peer = Peer::start(
        "127.0.0.1:0",
        |connection, _| if connection == 1 { Answer::Hang } else { Answer::Usual },
    );
    let mut host = Setup::new().control("smtproutes", &peer.route("")).field("grace", "\"2s\"").start();
    host.send("sender@mx.test", &["x@far.test"], &letter("hanging", 300));
    wait_until("the connection", PATIENCE, || peer.connections() == 1);
    let start = Instant::now();
    host.signal(Signal::TERM);
    assert_eq!(host.wait_exit(PATIENCE).code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    host.restart();
    host.ask(&["svc", "-a", "send"]);
    assert_eq!(read(&peer.wait(1, PATIENCE)[0].data), Ok("hanging".to_owned()));
}

#[test]
fn a_second_term_ends_it_at_once() {
    let peer = Peer::start("127.0.0.1:0", |_, _| Answer::Hang);
    let mut host = Setup::new().control("smtproutes", &peer.route("")).field("grace", "\"60s\"").start();
    host.send("sender@mx.test", &["x@far.test"], &letter("stuck", 300));
    wait_until("the connection", PATIENCE, || peer.connections() == 1);
    host.signal(Signal::TERM);
    host.wait_log("status: local * exitasap");
    host.signal(Signal::TERM);
    host.wait_exit(Duration::from_secs(10));
}

#[test]
fn stops_and_starts_under_load_lose_and_double_nothing() {
    let mut host = Host::start();
    let plan = Plan::to("bob@mx.test", "rolling", 1500);
    let load = Load::start(host.address(), &plan);
    for round in 1..=4 {
        load.wait_accepted(round * 250, Duration::from_secs(60));
        host.stop();
        host.restart();
    }
    let accepted = load.finish(Duration::from_secs(60));
    let mut bob = Arrivals::new(host.maildir("bob"));
    wait_until("all accepted letters", Duration::from_secs(60), || {
        bob.look();
        host.run(&["svc", "-a", "send"]);
        bob.missing(&accepted).is_empty()
    });
    host.wait_queue_empty(PATIENCE);
    bob.look();
    // A client that saw the connection end before the 250 sends again, so only letters whose first copy was
    // acknowledged can be held to once; an orderly stop answers each final dot, so that is all of them.
    let twice: Vec<_> = bob.copies.iter().filter(|(_, copies)| **copies > 1).collect();
    assert!(twice.is_empty(), "came more than once: {twice:?}");
}

#[test]
fn a_reader_of_the_log_that_has_stopped_holds_up_no_stop() {
    let setup = Setup::new();
    setup.write();
    let (_unread, mut stdout) = std::io::pipe().unwrap();
    // As much as a pipe takes.
    stdout.write_all(&[b'x'; 65_536]).unwrap();
    let mut command = setup.command();
    command.stdout(stdout).stderr(std::process::Stdio::null());
    let mut host = command.spawn().unwrap();
    let ask = |args: &[&str]| setup.run(args).code == Some(0);
    wait_until("the host to be up", PATIENCE, || ask(&["svok", "smtpd"]) && ask(&["svstat"]));
    let threads = || {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", host.id())).unwrap();
        let names = tasks.filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).ok());
        names.filter(|name| name.trim() == "log").count()
    };
    for _ in 0..3 {
        assert!(ask(&["svc", "-t", "log"]));
        wait_until("the log's thread to be another's", PATIENCE, || threads() == 1);
    }
    drop(command);
    rustix::process::kill_process(rustix::process::Pid::from_child(&host), Signal::TERM).unwrap();
    wait_until("the end", PATIENCE, || host.try_wait().unwrap().is_some());
    assert_eq!(host.wait().unwrap().code(), Some(0));
}
