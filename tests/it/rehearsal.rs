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
    // It is held, and says so, after every start.
    host.ask(&["svc", "-t", "send"]);
    wait_until("send to be paused again", PATIENCE, || {
        let send = host.service("send").unwrap_or_default();
        send["state"] == "up" && send["restarts"] == 1 && send["paused"] == true
    });
    host.ask(&["svc", "-a", "send"]);
    assert_eq!(host.maildir("bob").count(), 0);
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
    let advice = format!("mailtree --home {0} relocate {1} {0}", copy.display(), home.display());
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

/// Whatever of a held copy would leave it is said before anything is delivered.
#[test]
fn a_held_host_says_what_would_leave_it() {
    let elsewhere = tempfile::tempdir().unwrap();
    let setup = Setup::new().field("hold", "true");
    let bob = setup.home().join("domains/mx.test/bob");
    std::fs::write(bob.join(".qmail"), format!("{}/Maildir/\n", elsewhere.path().display())).unwrap();
    std::fs::rename(bob.join("Maildir"), elsewhere.path().join("Maildir")).unwrap();
    std::os::unix::fs::symlink(elsewhere.path().join("Maildir"), bob.join("Maildir")).unwrap();
    let setup = setup.rules(":allow,QMAILQUEUE=\"/opt/scan\"\n");
    let said = [
        "/bob/.qmail: mail goes to ",
        "/bob/Maildir: leads to ",
        "/tcp.smtp.cdb: QMAILQUEUE runs /opt/scan, which may hand mail to another queue",
    ];
    let checked = setup.run(&["check"]).stdout;
    for said in said {
        assert!(
            checked.lines().any(|line| line.starts_with("outside: ") && line.contains(said)),
            "{checked}"
        );
    }
    let host = setup.start();
    for said in said {
        host.wait_log(&format!("warning: *{said}*"));
    }
}

/// What `relocate` rewrites, and when it does not.
#[test]
fn relocate_takes_every_path_of_this_home_and_no_other_home() {
    let dir = tempfile::tempdir().unwrap();
    let (home, copy) = (dir.path().join("home"), dir.path().join("copy"));
    let original = Setup::at(&home);
    original.write();
    let to_bob = format!("{}/domains/mx.test/bob/Maildir/\n", home.display());
    std::fs::write(home.join("alias/.qmail-ops"), &to_bob).unwrap();
    std::fs::write(home.join("domains/mx.test/.qmail-sales"), format!("|cat > {to_bob}")).unwrap();
    std::fs::write(home.join("domains/mx.test/bob/.qmail"), &to_bob).unwrap();
    // Neither is there in the copy, but both lie beside what is.
    let assign = std::fs::read_to_string(home.join("users/assign")).unwrap();
    let more = format!("=joe:joe:1000:1000:{0}/users/joe:::\n.\n", home.display());
    std::fs::write(home.join("users/assign"), assign.replace(".\n", &more)).unwrap();
    Ran::new(Command::new("cp").arg("-a").arg(&home).arg(&copy)).expect(0);
    let setup = Setup::existing(&copy).field("hold", "true");
    setup.write();

    let checked = setup.run(&["check"]).expect(100).stderr;
    for named in [
        "/domains/mx.test, but this home has ",
        "/users/joe, but this home has ",
        "/copy/alias/.qmail-ops: names ",
        "/copy/domains/mx.test/.qmail-sales: names ",
        "/copy/domains/mx.test/bob/.qmail: names ",
    ] {
        assert_eq!(checked.matches(named).count(), 1, "{named}: {checked}");
    }

    let (old, new) = (home.to_str().unwrap(), copy.to_str().unwrap());
    let refused = original.run(&["relocate", old, new]).expect(100).stderr;
    assert!(refused.contains("allowed: where the home"), "{refused}");
    assert!(setup.run(&["relocate", old, &format!("{new}/gone")]).expect(100).stderr.contains("NEW "));
    let said = setup.run(&["relocate", old, new]).expect(0).stdout;
    assert!(said.ends_with("6 files rewritten\n"), "{said}");
    let own = std::fs::read_to_string(copy.join("domains/mx.test/bob/.qmail")).unwrap();
    assert_eq!(own, to_bob.replace(old, new));
    let ops = std::fs::read_to_string(copy.join("alias/.qmail-ops")).unwrap();
    assert_eq!(ops, to_bob.replace(old, new));
    let checked = setup.run(&["check"]);
    assert!(!checked.stderr.contains("relocate"), "{}", checked.stderr);

    let host = setup.start();
    let refused = host.run(&["relocate", old, new]).expect(111).stderr;
    assert!(refused.contains("another mailtree runs here"), "{refused}");
}
