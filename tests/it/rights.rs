//! Whose rights a host has that root has started, and the process that keeps root's.

mod needs_root {
    use std::fs;
    use std::os::unix::fs::chown;
    use std::time::{Duration, Instant};

    use mailtree_tests::host::{Host, PATIENCE, Setup};
    use mailtree_tests::local_users::{DOMAIN, LocalUser, LocalUsers};
    use mailtree_tests::maildir::Maildir;
    use mailtree_tests::wait::{wait_for, wait_until};
    use rustix::process::{Pid, Signal, kill_process};

    /// The processes of this name that log where this host does, whoever has started them.
    fn processes(host: &Host, name: &str) -> Vec<u32> {
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let read = |file: &str| fs::read_to_string(entry.path().join(file)).unwrap_or_default();
            let log = fs::read_link(entry.path().join("fd/2")).unwrap_or_default();
            if read("comm").trim_end() == name && log == host.log_file() {
                found.push(entry.file_name().to_str().unwrap().parse().unwrap());
            }
        }
        found
    }

    fn process(host: &Host, name: &str) -> u32 {
        wait_for(&format!("the process {name}"), PATIENCE, || processes(host, name).first().copied())
    }

    fn status(pid: u32, field: &str) -> String {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find(|line| line.starts_with(field)).unwrap_or_default().to_owned();
        line.split_whitespace().skip(1).collect::<Vec<_>>().join(" ")
    }

    fn signal(pid: u32, signal: Signal) {
        kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), signal).unwrap();
    }

    /// A host with a local user whose mail comes into his Maildir, with his rights.
    fn host_with_joe() -> (Host, LocalUser, Maildir) {
        let setup = Setup::new();
        let mut users = LocalUsers::of(&setup);
        let joe = users.add("joe", &[(".qmail", "./M/\n")]);
        let maildir = Maildir::new(joe.maildir("M"));
        users.compile();
        (setup.start(), joe, maildir)
    }

    fn send(host: &Host, name: &str) {
        host.send("sender@mx.test", &[&format!("{name}@{DOMAIN}")], "Subject: x\n\nx\n");
    }

    #[test]
    fn the_host_has_no_rights_of_roots_and_its_process_for_deliveries_has() {
        let (host, joe, maildir) = host_with_joe();
        let owner = fs::metadata(host.home().join("run"))
            .map(|meta| std::os::unix::fs::MetadataExt::uid(&meta))
            .unwrap();
        assert!(owner != 0 && owner != joe.uid);
        let ids = format!("{owner} {owner} {owner} {owner}");
        assert_eq!((status(host.pid(), "Uid:"), status(host.pid(), "Gid:")), (ids.clone(), ids));
        assert_eq!(status(host.pid(), "CapEff:").trim_start_matches('0'), "");
        assert_eq!(status(host.pid(), "CapPrm:").trim_start_matches('0'), "");
        assert_eq!(status(process(&host, "lspawn"), "Uid:"), "0 0 0 0");
        send(&host, "joe");
        maildir.wait(1, PATIENCE);
        let file = fs::read_dir(joe.home.join("M/new")).unwrap().next().unwrap().unwrap();
        assert_eq!(std::os::unix::fs::MetadataExt::uid(&file.metadata().unwrap()), joe.uid);
    }

    #[test]
    fn the_processes_of_roots_come_back_within_a_second_killed_or_hung() {
        let (host, _, maildir) = host_with_joe();
        let mut sent = 0;
        for (name, how) in [
            ("lspawn", Signal::KILL),
            ("lspawn-guard", Signal::KILL),
            ("lspawn", Signal::STOP),
            ("lspawn", Signal::KILL),
            ("lspawn-guard", Signal::KILL),
        ] {
            let pid = process(&host, name);
            signal(pid, how);
            let begun = Instant::now();
            wait_until(&format!("another {name}"), PATIENCE, || {
                processes(&host, name).iter().any(|other| *other != pid)
            });
            // Not a measurement: a machine that is busy is given ten times what is promised.
            assert!(begun.elapsed() < Duration::from_secs(10), "{name}: {:?}", begun.elapsed());
            // Others' mail goes on, and what was deferred meanwhile comes with the next attempt.
            host.send("sender@mx.test", &["bob@mx.test"], "Subject: x\n\nx\n");
            send(&host, "joe");
            sent += 1;
            wait_until("joe's mail", PATIENCE, || {
                host.ask(&["svc", "-a", "send"]);
                maildir.count() == sent
            });
        }
        host.maildir("bob").wait(sent, PATIENCE);
    }

    #[test]
    fn the_processes_of_roots_end_with_the_host() {
        let (mut host, ..) = host_with_joe();
        let of_root = [process(&host, "lspawn"), process(&host, "lspawn-guard")];
        host.kill();
        wait_until("the end of all", PATIENCE, || {
            of_root.iter().all(|pid| !fs::exists(format!("/proc/{pid}")).unwrap())
        });
    }

    #[test]
    fn nobody_delivers_as_root_and_only_root_says_with_whose_rights() {
        let setup = Setup::new();
        let mut users = LocalUsers::of(&setup);
        let root = users.add("toor", &[(".qmail", "|id > got\n")]);
        chown(&root.home, Some(0), Some(0)).unwrap();
        let joe = users.add("joe", &[(".qmail", "|id > got\n")]);
        users.compile();
        // toor's line names root.
        let cdb = setup.home().join("users");
        let assign = fs::read_to_string(cdb.join("assign"))
            .unwrap()
            .replace(&format!(":toor:{}:{}:", root.uid, root.uid), ":toor:0:0:");
        fs::write(cdb.join("assign"), assign).unwrap();
        setup.run(&["qmail-newu"]).expect(0);
        let host = setup.start();
        send(&host, "toor");
        host.wait_log("delivery *: deferral: Not_allowed_to_perform_deliveries_as_root./");
        send(&host, "joe");
        wait_until("joe's program", PATIENCE, || joe.home.join("got").exists());
        assert!(!root.home.join("got").exists());
        // Whoever has taken over the host may write a database of his own, but root does not obey it.
        let owner = fs::metadata(host.home().join("run"))
            .map(|meta| std::os::unix::fs::MetadataExt::uid(&meta))
            .unwrap();
        chown(cdb.join("cdb"), Some(owner), Some(owner)).unwrap();
        send(&host, "joe");
        host.wait_log("delivery *: deferral: *users/cdb_is_not_obeyed_for_other_users:_*_belongs_to_uid_*");
    }
}
