//! Tools that look into the queue and change it while the host runs.

use mailtree_tests::host::{Host, PATIENCE, Setup, free_port};
use mailtree_tests::letter::letter;
use mailtree_tests::peer::{Answer, Peer};
use mailtree_tests::smtp::like;
use mailtree_tests::wait::wait_until;

/// A host with one deferred message; its number.
fn deferred() -> (Host, String, std::net::SocketAddr) {
    let closed = free_port("127.0.0.1");
    let host =
        Setup::new().control("smtproutes", &format!("far.test:[127.0.0.1]:{}\n", closed.port())).start();
    host.send("sender@mx.test", &["x@far.test", "bob@mx.test", "y@far.test"], &letter("held", 2000));
    host.wait_log("delivery *: deferral: *");
    host.maildir("bob").wait(1, PATIENCE);
    let line = host.wait_log("info msg *: bytes *");
    let id = line.strip_prefix("info msg ").unwrap().split(':').next().unwrap().to_owned();
    (host, id, closed)
}

#[test]
fn qread_prints_what_qmail_qread_prints() {
    let (host, id, _) = deferred();
    let found = || {
        let said = host.ask(&["qmail-qread"]);
        (!said.contains("local")).then_some(said)
    };
    let said = mailtree_tests::wait::wait_for("nobody to be left on the local channel", PATIENCE, found);
    let lines: Vec<_> = said.lines().collect();
    assert!(like(&format!("* GMT  #{id}  *  <sender@mx.test> "), lines[0]), "{said:?}");
    let mut recipients = lines[1..].to_vec();
    recipients.sort_unstable();
    assert_eq!(recipients, ["\tremote\tx@far.test", "\tremote\ty@far.test"], "{said:?}");
}

#[test]
fn qstat_counts() {
    let (host, ..) = deferred();
    let said = host.ask(&["qmail-qstat"]);
    assert_eq!(said, "messages in queue: 1\nmessages in queue but not yet preprocessed: 0\n");
}

#[test]
fn the_tools_work_while_the_host_is_down() {
    let (mut host, id, _) = deferred();
    host.stop();
    assert_eq!(
        host.ask(&["qmail-qstat"]),
        "messages in queue: 1\nmessages in queue but not yet preprocessed: 0\n"
    );
    assert!(host.ask(&["qmail-qread"]).contains(&format!("#{id} ")));
}

#[test]
fn list_and_show_tell_the_message() {
    let (host, id, _) = deferred();
    let said = host.ask(&["queue", "list"]);
    assert!(said.contains(&id) && said.contains("sender@mx.test"), "{said}");
    let json = host.run(&["queue", "list", "--json"]).json().to_string();
    assert!(json.contains(&id) && json.contains("x@far.test"), "{json}");
    let said = host.ask(&["queue", "show", &id]);
    assert!(said.contains("X-Letter: held 2000"), "{said}");
    let json = host.run(&["queue", "show", &id, "--json"]).json().to_string();
    assert!(json.contains("sender@mx.test"), "{json}");
}

#[test]
fn retry_of_one_message_delivers_it() {
    let (host, id, address) = deferred();
    let peer = Peer::start(&address.to_string(), |_, _| Answer::Usual);
    host.ask(&["queue", "retry", &id]);
    assert_eq!(peer.wait(1, PATIENCE)[0].to, ["x@far.test", "y@far.test"]);
    host.wait_queue_empty(PATIENCE);
}

#[test]
fn retry_of_all_delivers_all() {
    let (host, _, address) = deferred();
    let peer = Peer::start(&address.to_string(), |_, _| Answer::Usual);
    host.ask(&["queue", "retry"]);
    peer.wait(1, PATIENCE);
}

#[test]
fn remove_takes_the_message_out_for_good_without_a_bounce() {
    let (mut host, id, _) = deferred();
    host.ask(&["queue", "remove", &id]);
    wait_until("an empty queue", PATIENCE, || host.queue_files().is_empty());
    assert_eq!(
        host.ask(&["qmail-qstat"]),
        "messages in queue: 0\nmessages in queue but not yet preprocessed: 0\n"
    );
    assert_eq!(host.maildir("sender").count(), 0);
    host.stop();
    host.restart();
    assert!(!host.ask(&["queue", "list"]).contains(&id));
}

#[test]
fn numbers_that_are_not_in_the_queue_are_told_apart_from_success() {
    let (host, ..) = deferred();
    for args in [
        ["queue", "show", "1"],
        ["queue", "remove", "1"],
        ["queue", "retry", "1"],
        ["queue", "show", "../../host.ron"],
    ] {
        let ran = host.run(&args);
        assert!(ran.code != Some(0) && !ran.stderr.is_empty(), "{args:?}: {ran:#?}");
    }
}
