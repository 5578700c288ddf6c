//! `svc`, `svstat`, `svok`: a daemontools administrator is at home.

use std::process::Command;
use std::time::Duration;

use mailtree_tests::host::{Host, PATIENCE, Ran, Setup, binary};
use mailtree_tests::smtp::{Client, dial, like};
use mailtree_tests::wait::{holds_for, wait_until};

fn line(host: &Host, service: &str) -> String {
    host.ask(&["svstat", service])
}

#[test]
fn svstat_prints_daemontools_line() {
    let host = Host::start();
    let said = line(&host, "smtpd");
    assert!(like(&format!("smtpd: up (pid {}) * seconds\n", host.pid()), &said), "{said:?}");
    let said = host.ask(&["svstat", "smtpd", "/service/qmail-smtpd", "send"]);
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines.len(), 3, "{said}");
    assert!(lines[1].starts_with("/service/qmail-smtpd: up (pid "), "{said}");
    assert!(lines[2].starts_with("send: up (pid "), "{said}");
}

#[test]
fn svstat_alone_shows_the_tree() {
    let host = Host::start();
    let said = host.ask(&["svstat"]);
    for service in ["log", "resolver", "queue", "send", "smtpd", "metrics", "control"] {
        assert!(said.contains(service), "{service} is not shown:\n{said}");
    }
}

#[test]
fn d_takes_a_service_down_and_u_brings_it_back() {
    let host = Host::start();
    let address = host.address().get();
    host.ask(&["svc", "-d", "smtpd"]);
    wait_until("smtpd down", PATIENCE, || {
        like("smtpd: down * seconds, normally up\n", &line(&host, "smtpd"))
    });
    assert!(dial(address).is_err(), "the port still answers");
    holds_for("smtpd stays down", Duration::from_secs(2), || !host.is_up("smtpd"));
    assert!(host.is_up("send"));
    host.ask(&["svc", "-u", "smtpd"]);
    wait_until("smtpd up", PATIENCE, || host.is_up("smtpd"));
    host.wait_up();
    host.wait_greeting();
}

#[test]
fn t_and_k_end_a_service_and_it_comes_back() {
    let host = Host::start();
    for (restarts, letter) in [(1, "-t"), (2, "-k")] {
        host.ask(&["svc", letter, "smtpd"]);
        wait_until(&format!("restart {restarts}"), PATIENCE, || {
            host.service("smtpd").is_some_and(|row| row["restarts"] == restarts && row["state"] == "up")
        });
    }
    host.wait_up();
    host.wait_greeting();
}

#[test]
fn nobody_takes_the_control_socket_down() {
    let host = Host::start();
    for letter in ["-d", "-o", "-x"] {
        let told = host.run(&["svc", letter, "control"]).stderr;
        assert!(told.contains("unable to control control: control hears what svc says; allowed: "), "{told}");
    }
    host.ask(&["svc", "-t", "control"]);
    wait_until("the control socket to come back", PATIENCE, || host.is_up("control"));
}

#[test]
fn o_starts_once() {
    let host = Host::start();
    host.ask(&["svc", "-d", "smtpd"]);
    wait_until("smtpd down", PATIENCE, || !host.is_up("smtpd"));
    host.ask(&["svc", "-o", "smtpd"]);
    wait_until("smtpd up", PATIENCE, || host.is_up("smtpd"));
    host.ask(&["svc", "-t", "smtpd"]);
    wait_until("smtpd down", PATIENCE, || !host.is_up("smtpd"));
    holds_for("smtpd stays down", Duration::from_secs(3), || !host.is_up("smtpd"));
}

#[test]
fn p_pauses_accepting_and_c_goes_on() {
    let host = Host::start();
    host.ask(&["svc", "-p", "smtpd"]);
    wait_until("paused", PATIENCE, || line(&host, "smtpd").ends_with(", paused\n"));
    // The kernel's backlog takes the connection; nobody greets.
    let waiting = dial(host.address().get()).unwrap();
    waiting.set_nonblocking(true).unwrap();
    let mut byte = [0];
    holds_for("no greeting", Duration::from_millis(700), || waiting.peek(&mut byte).is_err());
    host.ask(&["svc", "-c", "smtpd"]);
    wait_until("the greeting", PATIENCE, || waiting.peek(&mut byte).is_ok_and(|read| read == 1));
    assert!(!line(&host, "smtpd").contains("paused"));
}

#[test]
fn p_on_send_keeps_mail_in_the_queue() {
    let host = Host::start();
    host.ask(&["svc", "-p", "send"]);
    wait_until("paused", PATIENCE, || line(&host, "send").ends_with(", paused\n"));
    host.send("sender@mx.test", &["bob@mx.test"], &mailtree_tests::letter::letter("paused", 300));
    holds_for("nothing is delivered", Duration::from_secs(1), || host.maildir("bob").count() == 0);
    host.ask(&["svc", "-c", "send"]);
    host.maildir("bob").wait(1, PATIENCE);
}

#[test]
fn letters_combine_and_x_leaves_the_tree() {
    let host = Host::start();
    host.ask(&["svc", "-dx", "smtpd"]);
    wait_until("smtpd gone", PATIENCE, || !line(&host, "smtpd").contains(": up"));
    let said = line(&host, "smtpd");
    assert_eq!(said, "smtpd: supervise not running\n");
    host.run(&["svok", "smtpd"]).expect(100);
    host.run(&["svok", "send"]).expect(0);
}

#[test]
fn usage_and_warnings_are_daemontools() {
    let host = Host::start();
    let usage = "svc options: u up, d down, o once, x exit, p pause, c continue, h hup, a alarm, i interrupt, t term, k kill";
    let ran = host.run(&["svc", "-z", "smtpd"]).expect(100);
    assert_eq!(ran.stderr.trim_end(), usage);
    let ran = host.run(&["svc", "-u", "nothing"]).expect(0);
    assert_eq!(ran.stderr, "svc: warning: unable to chdir to nothing: file does not exist\n");
    let ran = host.run(&["svstat", "nothing"]).expect(0);
    assert_eq!(ran.stdout, "nothing: unable to chdir: file does not exist\n");
}

#[test]
fn without_a_host_the_tools_say_so() {
    let setup = Setup::new();
    setup.write();
    assert_eq!(setup.run(&["svstat", "smtpd"]).expect(0).stdout, "smtpd: supervise not running\n");
    let ran = setup.run(&["svc", "-u", "smtpd"]).expect(0);
    assert_eq!(ran.stderr, "svc: warning: unable to control smtpd: supervise not running\n");
    setup.run(&["svok", "smtpd"]).expect(100);
}

#[test]
fn the_binary_answers_to_the_classic_names() {
    let host = Host::start();
    let links = tempfile::tempdir().unwrap();
    Ran::new(Command::new(binary()).arg("links").arg(links.path())).expect(0);
    let run = |name: &str, args: &[&str]| {
        Ran::new(Command::new(links.path().join(name)).args(args).env("MAILTREE_HOME", host.home()))
    };
    assert!(run("svstat", &["smtpd"]).expect(0).stdout.starts_with("smtpd: up (pid "));
    run("svok", &["smtpd"]).expect(0);
    run("svc", &["-t", "smtpd"]).expect(0);
    assert!(run("qmail-qstat", &[]).expect(0).stdout.starts_with("messages in queue: 0\n"));
}

#[test]
fn the_control_socket_is_the_owners_alone_and_survives_nonsense() {
    use std::io::{Read, Write};
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;
    let host = Host::start();
    let path = host.home().join("run/control.sock");
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "{mode:o}");
    for nonsense in [&b"\n"[..], b"{}\n", b"{\"svc\":\n", b"\xff\xfe\n", b"[[[[[[[[\n", &b"a".repeat(200_000)]
    {
        let mut socket = UnixStream::connect(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
        // It may hang up in the middle.
        socket.write_all(nonsense).ok();
        socket.shutdown(std::net::Shutdown::Write).ok();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).ok();
        assert!(!answer.contains("done"), "{answer}");
    }
    // Chaos is for tests that ask for it.
    let mut socket = UnixStream::connect(&path).unwrap();
    socket.write_all(b"{\"chaos\":{\"service\":\"smtpd\"}}\n").unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    assert!(!answer.contains("killed"), "{answer}");
    assert_eq!(host.service("smtpd").unwrap()["restarts"], 0, "{answer}");
    assert!(host.is_up("control"));
    Client::connect(host.address().get()).unwrap().greeting.expect(220);
}
