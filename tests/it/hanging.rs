//! One user's file system is his own trouble: it hangs, fails or cannot do what others can, and nobody else notices.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use mailtree_tests::dialogue::base64;
use mailtree_tests::host::{Host, PATIENCE, Setup};
use mailtree_tests::letter::letter;
use mailtree_tests::maildir::{self, Arrivals};
use mailtree_tests::smtp::{Client, dial_from, like};
use mailtree_tests::wait::wait_until;

const SENDER: &str = "sender@mx.test";

/// The directory of a user of the test's domain.
fn user_dir(home: &Path, user: &str) -> std::path::PathBuf {
    home.join("domains/mx.test").join(user)
}

#[test]
fn a_maildir_of_which_something_is_missing_is_made_and_gets_the_mail() {
    let host = Host::start();
    let missing = ["new", "cur", "tmp", ""];
    for (number, name) in missing.iter().enumerate() {
        let path = host.maildir("bob").path().join(name);
        fs::remove_dir_all(&path).unwrap();
        fs::create_dir_all(user_dir(host.home(), "bob")).unwrap();
        host.send(SENDER, &["bob@mx.test"], &letter(&format!("missing-{number}"), 300));
        wait_until(&format!("mail in a Maildir without {name}"), Duration::from_secs(10), || {
            host.maildir("bob")
                .texts()
                .iter()
                .any(|text| text.contains(&format!("letter missing-{number}\n")))
        });
        for name in ["new", "cur", "tmp"] {
            assert!(host.maildir("bob").path().join(name).is_dir(), "{name} was not made");
        }
        assert_eq!(host.maildir("bob").unfinished(), 0);
    }
    host.wait_queue_empty(PATIENCE);
}

#[test]
fn a_delivery_that_fails_leaves_nothing_in_tmp() {
    let host = Host::start();
    let maildir = host.maildir("bob");
    let new = maildir.path().join("new");
    type Spoil<'a> = Box<dyn Fn() + 'a>;
    let cases: [(&str, Spoil<'_>); 3] = [
        ("new is a file", Box::new(|| fs::write(&new, "").unwrap())),
        ("new leads nowhere", Box::new(|| std::os::unix::fs::symlink("nowhere/new", &new).unwrap())),
        ("new is a loop", Box::new(|| std::os::unix::fs::symlink("new", &new).unwrap())),
    ];
    for (number, (case, spoil)) in cases.iter().enumerate() {
        fs::remove_dir_all(&new).unwrap();
        spoil();
        let deferrals =
            || host.log_lines().iter().filter(|line| like("delivery *: deferral: *", line)).count();
        let before = deferrals();
        for size in [300, 600 << 10] {
            host.send(SENDER, &["bob@mx.test"], &letter(&format!("failing-{number}-{size}"), size));
        }
        wait_until(&format!("{case}: two deferrals"), PATIENCE, || deferrals() >= before + 2);
        host.ask(&["svc", "-a", "send"]);
        wait_until(&format!("{case}: two more"), PATIENCE, || deferrals() >= before + 4);
        assert_eq!(maildir.unfinished(), 0, "{case}");
        fs::remove_file(&new).unwrap();
        fs::create_dir(&new).unwrap();
        host.give(&new);
        host.ask(&["svc", "-a", "send"]);
        maildir.wait(2, PATIENCE);
        host.wait_queue_empty(PATIENCE);
        assert_eq!(maildir.unfinished(), 0, "{case}");
    }
}

mod needs_root {
    use std::collections::BTreeSet;

    use mailtree_tests::disk::{Disk, Frozen};
    use mailtree_tests::load::{Load, Plan};
    use mailtree_tests::maildir::Maildir;
    use mailtree_tests::sick::Thin;
    use mailtree_tests::wait::tick;
    use rustix::process::Signal;

    use super::*;

    /// A healthy user's mail is there within this time, whatever others' disks do.
    const PROMPT: Duration = Duration::from_secs(5);
    /// By then every delivery that hangs has been given up.
    const GIVEN_UP: Duration = Duration::from_secs(120);

    /// A host with users bob and sick, whose Maildir is `elsewhere`.
    fn host(elsewhere: &Path, grace: &str) -> Host {
        let setup = Setup::new().field("grace", format!("{grace:?}"));
        setup.user("sick@mx.test");
        let dir = user_dir(setup.home(), "sick");
        fs::remove_dir_all(dir.join("Maildir")).unwrap();
        std::os::unix::fs::symlink(elsewhere, dir.join("Maildir")).unwrap();
        setup.give(elsewhere);
        setup.start()
    }

    /// A letter to bob is taken and delivered within [`PROMPT`].
    #[track_caller]
    fn prompt(host: &Host, name: &str) {
        let start = Instant::now();
        let before = host.maildir("bob").count();
        host.send(SENDER, &["bob@mx.test"], &letter(name, 300));
        wait_until(&format!("{name}, to a healthy user"), PATIENCE, || host.maildir("bob").count() > before);
        assert!(start.elapsed() < PROMPT, "{name}, to a healthy user, took {:?}", start.elapsed());
    }

    /// How many local deliveries the host says it is at.
    fn at_work(host: &Host) -> Option<usize> {
        let lines = host.log_lines();
        let last = lines.iter().rev().find_map(|line| line.strip_prefix("status: local "))?;
        last.split('/').next()?.parse().ok()
    }

    /// Letters to the sick user: all are taken.
    fn letters(host: &Host, prefix: &str, count: usize) -> BTreeSet<String> {
        Load::start(host.address(), &Plan::to("sick@mx.test", prefix, count)).finish(Duration::from_secs(60))
    }

    /// What bob and everybody else see while there is mail for the sick user that cannot be delivered.
    fn nobody_else_notices(host: &Host) {
        let start = Instant::now();
        let mut number = 0;
        while start.elapsed() < Duration::from_secs(32) {
            prompt(host, &format!("beside-{number}"));
            number += 1;
            tick(Duration::from_millis(500));
        }
        wait_until("a deferral with a text", GIVEN_UP, || {
            host.log_lines().iter().any(|line| like("delivery *: deferral: *_*", line))
        });
        wait_until("the slots to be given back", GIVEN_UP, || at_work(host) == Some(0));
        prompt(host, "in-the-end");
        assert!(host.status().iter().all(|row| row["restarts"] == 0), "{:#?}", host.status());
        assert!(
            !host.log_lines().iter().any(|line| line.starts_with("supervise: ") && line.contains(": down"))
        );
    }

    /// All these letters are in the Maildir, each once, and nothing is left of any try.
    fn all_came_once(host: &Host, maildir: &Maildir, letters: &BTreeSet<String>) {
        let mut sick = Arrivals::new(maildir.clone());
        let mut asked = None::<Instant>;
        wait_until("the sick user's mail", Duration::from_secs(90), || {
            if asked.is_none_or(|asked| asked.elapsed() > Duration::from_secs(2)) {
                asked = Some(Instant::now());
                host.run(&["svc", "-a", "send"]);
            }
            sick.look();
            sick.missing(letters).is_empty()
        });
        host.wait_queue_empty(PATIENCE);
        sick.look();
        assert_eq!(sick.doubles(&BTreeSet::new()), []);
        assert_eq!(maildir.unfinished(), 0, "left in tmp/");
    }

    /// TERM while deliveries hang: the host is over in time.
    fn ends_in_time(host: &mut Host) {
        let start = Instant::now();
        host.signal(Signal::TERM);
        wait_until("the host to be over", PATIENCE, || host.is_over());
        // Grace is 5 s.
        assert!(
            start.elapsed() < Duration::from_secs(8),
            "it took {:?}\n{}",
            start.elapsed(),
            host.log_tail()
        );
    }

    fn frozen_disk() -> (Disk, std::path::PathBuf) {
        let disk = Disk::new(64);
        let maildir = disk.path().join("Maildir");
        maildir::make(&maildir);
        (disk, maildir)
    }

    #[test]
    fn a_frozen_maildir_holds_up_nobody_and_gets_its_mail_after_the_thaw() {
        let (disk, maildir) = frozen_disk();
        let host = host(&maildir, "10s");
        let mut sent = letters(&host, "before", 3);
        all_came_once(&host, &Maildir::new(&maildir), &sent);
        let frozen = disk.freeze();
        sent.extend(letters(&host, "frozen", 120));
        nobody_else_notices(&host);
        frozen.thaw();
        all_came_once(&host, &Maildir::new(&maildir), &sent);
    }

    #[test]
    fn a_directory_that_hangs_delays_no_login() {
        let (disk, directory) = frozen_disk();
        let setup = Setup::new().smtpd("environment: {\"SMTPAUTH\": \"\"}, auth_in_clear: true");
        setup.user("sick@mx.test");
        let own = user_dir(setup.home(), "sick");
        fs::remove_dir_all(&own).unwrap();
        std::os::unix::fs::symlink(&directory, &own).unwrap();
        setup.give(&directory);
        let host = setup.start();
        let login = |user: &str| {
            let mut client = host.smtp();
            client.say("EHLO client.test", 250);
            let secret = base64(format!("\0{user}\0secret-of-the-test").as_bytes());
            client.say(&format!("AUTH PLAIN {secret}"), 235);
        };
        login("sick@mx.test");
        let noted = directory.join("lastauth");
        wait_until("the first login", PATIENCE, || noted.exists());
        fs::remove_file(&noted).unwrap();
        let frozen = disk.freeze();
        let start = Instant::now();
        for _ in 0..20 {
            login("sick@mx.test");
        }
        prompt(&host, "beside-logins");
        login("bob@mx.test");
        assert!(start.elapsed() < 2 * PROMPT, "{:?}", start.elapsed());
        frozen.thaw();
        wait_until("a login that was noted late", PATIENCE, || noted.exists());
    }

    /// With the Maildir frozen, ten letters wait for it and two went to bob; the host gets TERM.
    fn ended_while_frozen(host: &mut Host, disk: &Disk) -> (Frozen, BTreeSet<String>) {
        let frozen = disk.freeze();
        let sent = letters(host, "frozen", 10);
        prompt(host, "beside-1");
        prompt(host, "beside-2");
        ends_in_time(host);
        (frozen, sent)
    }

    #[test]
    fn a_stop_while_a_maildir_is_frozen_takes_the_grace_and_loses_nothing() {
        let (disk, maildir) = frozen_disk();
        let mut host = host(&maildir, "5s");
        let (frozen, sent) = ended_while_frozen(&mut host, &disk);
        frozen.thaw();
        assert_eq!(host.wait_exit(PATIENCE).code(), Some(0), "{}", host.log_tail());
        host.restart();
        all_came_once(&host, &Maildir::new(&maildir), &sent);
        assert_eq!(host.maildir("bob").count(), 2);
    }

    /// The kernel keeps the process, with its open files, until its last thread has come back from the frozen disk: the
    /// locks must have been given up before.
    #[test]
    fn a_host_that_was_stopped_can_start_again_before_the_thaw() {
        let (disk, maildir) = frozen_disk();
        let mut host = host(&maildir, "5s");
        let (frozen, sent) = ended_while_frozen(&mut host, &disk);
        let mut before = host.restart_beside();
        prompt(&host, "after-the-restart");
        frozen.thaw();
        wait_until("the process before to be gone", PATIENCE, || before.try_wait().unwrap().is_some());
        all_came_once(&host, &Maildir::new(&maildir), &sent);
    }

    #[test]
    fn a_maildir_whose_sync_fails_costs_nobody_else_anything_and_keeps_what_it_gets_afterwards() {
        let thin = Thin::new();
        let mut host = host(&thin.maildir(), "10s");
        let seen = Maildir::new(thin.maildir());
        let mut sent = letters(&host, "before", 3);
        all_came_once(&host, &seen, &sent);
        thin.fill();
        sent.extend(letters(&host, "thin", 120));
        nobody_else_notices(&host);
        wait_until("nothing in tmp/ of deliveries that failed", PATIENCE, || seen.unfinished() == 0);
        thin.empty();
        all_came_once(&host, &seen, &sent);
        // What a failed sync left in memory proves nothing: it must have been written again.
        host.stop();
        thin.remount();
        let mut kept = Arrivals::new(seen);
        kept.look();
        assert_eq!(kept.missing(&sent), [] as [&String; 0]);
        assert_eq!(kept.doubles(&BTreeSet::new()), []);
    }

    mod needs_bindfs {
        use mailtree_tests::sick::Served;

        use super::*;

        /// A host with users bob and sick, whose whole directory is on another file system.
        fn host_with_directory(elsewhere: &Path, grace: &str) -> Host {
            let setup = Setup::new().field("grace", format!("{grace:?}"));
            setup.user("sick@mx.test");
            let dir = user_dir(setup.home(), "sick");
            fs::remove_dir_all(&dir).unwrap();
            maildir::make(&elsewhere.join("Maildir"));
            std::os::unix::fs::symlink(elsewhere, &dir).unwrap();
            setup.give(elsewhere);
            setup.start()
        }

        #[test]
        fn a_maildir_on_a_server_that_stopped_holds_up_nobody_and_gets_its_mail_when_it_is_back() {
            let served = Served::new();
            maildir::make(&served.back().join("Maildir"));
            let host = host(&served.front().join("Maildir"), "10s");
            let seen = Maildir::new(served.back().join("Maildir"));
            let mut sent = letters(&host, "before", 3);
            all_came_once(&host, &seen, &sent);
            let halted = served.halt();
            sent.extend(letters(&host, "halted", 120));
            nobody_else_notices(&host);
            drop(halted);
            all_came_once(&host, &seen, &sent);
        }

        /// Then not even his `.qmail` can be read.
        #[test]
        fn a_user_whose_directory_is_on_a_server_that_stopped_holds_up_nobody() {
            let served = Served::new();
            let host = host_with_directory(&served.front(), "10s");
            let seen = Maildir::new(served.back().join("Maildir"));
            let mut sent = letters(&host, "before", 3);
            all_came_once(&host, &seen, &sent);
            let halted = served.halt();
            sent.extend(letters(&host, "halted", 120));
            nobody_else_notices(&host);
            drop(halted);
            all_came_once(&host, &seen, &sent);
        }

        #[test]
        fn a_stop_while_a_server_of_maildirs_is_stopped_takes_the_grace_and_loses_nothing() {
            let served = Served::new();
            maildir::make(&served.back().join("Maildir"));
            let mut host = host(&served.front().join("Maildir"), "5s");
            let halted = served.halt();
            let sent = letters(&host, "halted", 10);
            prompt(&host, "beside");
            ends_in_time(&mut host);
            assert_eq!(host.wait_exit(Duration::from_secs(2)).code(), Some(0), "{}", host.log_tail());
            // It starts without the server, too.
            host.restart();
            prompt(&host, "after-the-restart");
            drop(halted);
            all_came_once(&host, &Maildir::new(served.back().join("Maildir")), &sent);
            assert_eq!(host.maildir("bob").count(), 2);
        }

        /// Two networks: of one, the logins under way slow others.
        const HERE: &str = "127.9.9.9";
        const THERE: &str = "127.0.0.2";

        /// Its users cannot be looked up, for RCPT or AUTH: others can, in any number, and so can they when it is back.
        #[test]
        fn a_domain_on_a_server_that_stopped_delays_nobody_elses_recipients_and_logins() {
            let mut served = Served::new();
            let setup = Setup::new().rules("127.0.0.1:allow,RELAYCLIENT=\"\"\n:allow\n").smtpd(
                "environment: {\"SMTPAUTH\": \"\", \"CHKUSER_START\": \"ALWAYS\"}, auth_in_clear: true",
            );
            setup.run(&["vadddomain", "sick.test", "secret-of-the-test"]).expect(0);
            served.take(&setup.home().join("domains/sick.test"));
            let host = setup.start();
            // A client that may relay is not checked.
            let stranger =
                |from: &str| Client::greeted(dial_from(from, host.address().get()).unwrap()).unwrap();
            let ask = |from: &str, to: &str| {
                let mut client = stranger(from);
                client.say("HELO client.test", 250);
                client.say("MAIL FROM:<>", 250);
                client.command(&format!("RCPT TO:<{to}>")).unwrap().code
            };
            let login = |from: &str, user: &str| {
                let mut client = stranger(from);
                client.say("EHLO client.test", 250);
                let secret = base64(format!("\0{user}\0secret-of-the-test").as_bytes());
                client.command(&format!("AUTH PLAIN {secret}")).unwrap().code
            };
            assert_eq!(
                (ask(THERE, "postmaster@sick.test"), login(THERE, "postmaster@sick.test")),
                (250, 235)
            );
            let halted = served.halt();
            std::thread::scope(|scope| {
                let ill: Vec<_> = (0..60)
                    .map(|n| (n % 2 == 0, format!("user{n}@sick.test")))
                    .map(|(rcpt, user)| {
                        scope.spawn(move || if rcpt { ask(THERE, &user) } else { login(THERE, &user) })
                    })
                    .collect();
                let start = Instant::now();
                while start.elapsed() < Duration::from_secs(8) {
                    let (asked, before) = (
                        ["bob", "sender", "nobody"].map(|user| ask(HERE, &format!("{user}@mx.test"))),
                        Instant::now(),
                    );
                    assert_eq!((asked, login(HERE, "bob@mx.test")), ([250, 250, 550], 235));
                    assert!(before.elapsed() < PROMPT, "{:?}", before.elapsed());
                    prompt(&host, "beside");
                }
                for one in ill {
                    let code = one.join().unwrap();
                    assert!([451, 454].contains(&code), "{code}");
                }
            });
            assert!(start_of_refusal(&|to| ask(THERE, to)) < PROMPT);
            drop(halted);
            wait_until("the domain's users", PATIENCE, || ask(THERE, "postmaster@sick.test") == 250);
            wait_until("their logins", PATIENCE, || login(THERE, "postmaster@sick.test") == 235);
        }

        /// How long a recipient takes of whom it is known that nobody can say.
        fn start_of_refusal(ask: &dyn Fn(&str) -> u16) -> Duration {
            let start = Instant::now();
            assert_eq!(ask("late@sick.test"), 451);
            start.elapsed()
        }

        #[test]
        fn a_file_system_without_unnamed_files_and_flags_of_rename_gets_its_mail() {
            let served = Served::new();
            maildir::make(&served.back().join("Maildir"));
            let mut host = host(&served.front().join("Maildir"), "10s");
            let seen = Maildir::new(served.back().join("Maildir"));
            let mut sent = letters(&host, "plain", 30);
            host.send(SENDER, &["sick@mx.test"], &letter("plain-large", 600 << 10));
            sent.insert("plain-large".to_owned());
            all_came_once(&host, &seen, &sent);
            // A host that dies while it delivers leaves nothing half done in new/.
            let load = Load::start(host.address(), &Plan::to("sick@mx.test", "killed", 200));
            load.wait_accepted(60, PATIENCE);
            host.kill();
            let accepted = load.stop();
            host.restart();
            let mut sick = Arrivals::new(seen);
            wait_until("all accepted letters", PATIENCE, || {
                sick.look();
                sick.missing(&accepted).is_empty()
            });
        }
    }
}
