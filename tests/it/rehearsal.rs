//! A host is tried on a copy, and with deliveries held.

use std::process::Command;

use mailtree_tests::host::{PATIENCE, Ran, Setup};
use mailtree_tests::letter::letter;
use mailtree_tests::wait::wait_until;

#[test]
fn a_held_host_accepts_and_delivers_nothing_until_it_is_released() {
    let host = Setup::new().field("hold", "true").start();
    host.wait_log("status: held: no delivery begins until svc -c send");
    wait_until("svstat to say paused", PATIENCE, || host.ask(&["svstat"]).contains("paused"));
    host.send("sender@mx.test", &["bob@mx.test"], &letter("held", 300));
    host.wait_log("new msg *");
    // Whatever would begin a delivery has been asked, and was held.
    host.ask(&["svc", "-a", "send"]);
    assert_eq!(host.ask(&["qmail-qstat"]).lines().next(), Some("messages in queue: 1"));
    assert!(!host.log_lines().iter().any(|line| line.starts_with("starting delivery ")));
    host.ask(&["svc", "-c", "send"]);
    host.maildir("bob").wait(1, PATIENCE);
    // Released for good.
    host.ask(&["svc", "-t", "send"]);
    host.send("sender@mx.test", &["bob@mx.test"], &letter("free", 300));
    host.maildir("bob").wait(2, PATIENCE);
}

#[test]
fn a_copy_of_a_home_is_refused_by_name_until_its_paths_are_rewritten() {
    let dir = tempfile::tempdir().unwrap();
    let (home, copy) = (dir.path().join("home"), dir.path().join("copy"));
    let original = Setup::at(&home);
    original.write();
    Ran::new(Command::new("cp").arg("-a").arg(&home).arg(&copy)).expect(0);

    let mut refused = Setup::existing(&copy).launch();
    assert_eq!(
        refused.settles(PATIENCE).and_then(|status| status.code()),
        Some(100),
        "{}",
        refused.log_tail()
    );
    let advice = format!("mailtree relocate {} {}", home.display(), copy.display());
    assert!(refused.log().contains(&advice), "{}", refused.log_tail());
    drop(refused);
    let setup = Setup::existing(&copy);
    setup.write();
    let checked = setup.run(&["check"]).expect(100);
    assert!(checked.stderr.contains(&advice), "{}", checked.stderr);

    let words = advice.strip_prefix("mailtree ").unwrap().split(' ').collect::<Vec<_>>();
    setup.run(&words).expect(0);
    let host = setup.start();
    host.send("sender@mx.test", &["bob@mx.test"], &letter("rehearsed", 300));
    host.maildir("bob").wait(1, PATIENCE);
    let of_original = home.join("domains/mx.test/bob/Maildir/new");
    assert_eq!(std::fs::read_dir(of_original).unwrap().count(), 0);
}
