//! `host.ron`, control files, `mailtree init` and `check`, and starts that cannot succeed.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use mailtree_tests::host::{Host, ME, PATIENCE, Ran, Setup, binary};
use mailtree_tests::letter::letter;
use mailtree_tests::peer::Peer;
use mailtree_tests::wait::wait_until;

fn check(setup: &Setup, ron: &str) -> Ran {
    fs::write(setup.home().join("host.ron"), ron).unwrap();
    setup.run(&["check"])
}

#[test]
fn a_bad_host_ron_is_refused_with_place_and_what_was_allowed() {
    let setup = Setup::new();
    let table = [
        ("(\n  grace: \"20s\",\n  colour: \"red\",\n)", "host.ron:3:", "colour"),
        ("(\n  services: { \"smtpd\": smtpd(listen: [\"127.0.0.1\"]) },\n)", "host.ron:2:", "listen"),
        ("(\n  services: { \"smtpd\": pop4() },\n)", "host.ron:2:", "pop4"),
        ("(\n  services: { \"smtpd\": smtpd(per_ip: 0) },\n)", "host.ron:2:", "per_ip"),
        ("(\n  grace: \"soon\",\n)", "host.ron:2:", "grace"),
        ("(\n  remote: (port: 70000),\n)", "host.ron:2:", "port"),
        ("(\n  grace: \"20s\"\n  log: ()\n)", "host.ron:3:", ""),
        ("", "host.ron:1:", ""),
    ];
    for (ron, place, word) in table {
        let ran = check(&setup, ron).expect(100);
        assert!(ran.stderr.contains(place) && ran.stderr.contains(word), "{ron}\n{ran:#?}");
        // `up` refuses it in the same words and starts nothing.
        let ran = Ran::new(&mut setup.command()).expect(100);
        assert!(ran.stderr.contains(place) && ran.stderr.contains(word), "{ron}\n{ran:#?}");
    }
}

#[test]
fn bad_control_files_are_all_named() {
    let setup = Setup::new().control("databytes", "much\n").control("concurrencylocal", "-1\n");
    fs::write(setup.home().join("control/rcpthosts"), b"mx.test\nbad\0host\n").unwrap();
    setup.write();
    let ran = setup.run(&["check"]).expect(100);
    for (file, text) in
        [("control/databytes", "much"), ("control/concurrencylocal", "-1"), ("control/rcpthosts", ":2")]
    {
        let named = ran
            .stderr
            .lines()
            .chain(ran.stdout.lines())
            .any(|line| line.contains(file) && line.contains(text));
        assert!(named, "{file} with {text:?} is not named: {ran:#?}");
    }
}

#[test]
fn check_prints_every_setting_with_its_origin() {
    let setup = Setup::new().control("databytes", "5000\n");
    setup.write();
    let ran = setup.run(&["check"]).expect(0);
    let line = |name: &str| {
        ran.stdout
            .lines()
            .find(|line| line.contains(name))
            .unwrap_or_else(|| panic!("no {name}: {ran:#?}"))
            .to_owned()
    };
    assert!(
        line("databytes").contains("5000") && line("databytes").contains("control/databytes"),
        "{}",
        line("databytes")
    );
    assert!(
        line("queuelifetime").contains("604800") && line("queuelifetime").contains("default"),
        "{}",
        line("queuelifetime")
    );
    assert!(line("grace").contains("10s") && line("grace").contains("host.ron"), "{}", line("grace"));
    assert!(line("resolver.in_flight").contains("default"), "{}", line("resolver.in_flight"));
    let json = setup.run(&["check", "--json"]).json();
    assert!(json.to_string().contains("queuelifetime"), "{json}");
}

#[test]
fn init_makes_a_home_that_check_likes_and_never_touches_one_that_exists() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("home");
    let init = || Ran::new(Command::new(binary()).args(["init", "--me", ME, "--home"]).arg(&home));
    let ran = init().expect(0);
    assert!(ran.stdout.contains("postmaster@mx.test"), "{ran:#?}");
    for name in [
        "host.ron",
        "control/me",
        "control/servercert.pem",
        "queue/mess/22",
        "queue/lock",
        "users",
        "alias",
        "tcp.smtp",
        "tcp.smtp.cdb",
    ] {
        assert!(home.join(name).exists(), "{name} is missing");
    }
    let secret = fs::metadata(home.join("control/servercert.pem")).unwrap().permissions().mode();
    assert_eq!(secret & 0o077, 0, "others may read the private key: {secret:o}");
    Ran::new(Command::new(binary()).arg("check").arg("--home").arg(&home)).expect(0);
    let before = fs::read(home.join("domains").join(ME).join("vpasswd")).unwrap();
    init().expect(100);
    assert_eq!(fs::read(home.join("domains").join(ME).join("vpasswd")).unwrap(), before);
    // A directory that holds something else is not ours to fill.
    let foreign = dir.path().join("foreign");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("diary"), "mine").unwrap();
    Ran::new(Command::new(binary()).args(["init", "--me", ME, "--home"]).arg(&foreign)).expect(100);
    assert_eq!(fs::read_dir(&foreign).unwrap().count(), 1);
}

#[test]
fn a_home_that_cannot_be_made_is_a_clear_error() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "x").unwrap();
    for command in ["up", "init", "check"] {
        let ran =
            Ran::new(Command::new(binary()).arg(command).arg("--home").arg(dir.path().join("file/home")));
        assert!(matches!(ran.code, Some(100 | 111)), "{ran:#?}");
        assert!(ran.stderr.contains("file/home") && ran.stderr.contains("fatal: "), "{ran:#?}");
        assert!(!ran.stderr.contains("panicked"), "{ran:#?}");
    }
}

#[test]
fn two_hosts_cannot_share_a_home() {
    let host = Host::start();
    let ran = Ran::new(Command::new(binary()).arg("up").arg("--home").arg(host.home()));
    assert!(matches!(ran.code, Some(100 | 111)), "{ran:#?}");
    assert!(ran.stderr.contains("fatal: "), "{ran:#?}");
    host.send("sender@mx.test", &["bob@mx.test"], &letter("still", 300));
    host.maildir("bob").wait(1, PATIENCE);
}

#[test]
fn a_port_in_use_keeps_one_service_down_and_the_rest_up() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let services = format!(
        "{{ \"smtpd\": smtpd(listen: [\"127.0.0.1:0\"]), \"second\": smtpd(listen: [\"127.0.0.1:{port}\"]), \"metrics\": metrics(listen: \"127.0.0.1:0\") }}"
    );
    let host = Setup::new().field("services", services).launch();
    wait_until("smtpd up", PATIENCE, || host.is_up("smtpd"));
    wait_until("the reason in the log", PATIENCE, || {
        host.log()
            .lines()
            .any(|line| line.contains(&port.to_string()) && line.to_lowercase().contains("in use"))
    });
    assert!(!host.is_up("second"), "{:#?}", host.status());
    drop(taken);
    wait_until("the second service up", PATIENCE, || host.is_up("second"));
    host.wait_up();
}

#[test]
fn a_control_file_gone_bad_leaves_in_force_what_was_there_and_is_said_once() {
    let host = Setup::new().control("databytes", "2000\n").start();
    host.smtp().greeting.expect(220);
    host.control("databytes", "lots\n");
    for _ in 0..3 {
        let mut session = host.smtp();
        assert!(session.command("EHLO x").unwrap().text().contains("SIZE 2000"), "the old one");
    }
    // A directory is unreadable even for root.
    fs::remove_file(host.home().join("control/databytes")).unwrap();
    fs::create_dir(host.home().join("control/databytes")).unwrap();
    host.smtp().greeting.expect(220);
    let tree = host.ask(&["svstat"]);
    let smtpd = tree.lines().find(|line| line.contains(" smtpd ")).unwrap();
    assert!(smtpd.contains("control/databytes: unable to read"), "{tree}");
    fs::remove_dir(host.home().join("control/databytes")).unwrap();
    host.control("databytes", "3000\n");
    let mut session = host.smtp();
    assert!(session.command("EHLO x").unwrap().text().contains("SIZE 3000"));
    host.wait_log("alert: *databytes: unable to read*");
    let alerts = host.log().lines().filter(|line| line.contains("databytes:1: `lots`")).count();
    assert_eq!(alerts, 1, "{}", host.log());
    assert!(!host.ask(&["svstat"]).contains("databytes"));
    assert!(
        host.status().iter().all(|row| row["state"] == "up" && row["restarts"] == 0),
        "{:#?}",
        host.status()
    );
}

/// What the original vadddomain leaves behind is obeyed without a word to anybody.
#[test]
fn a_domain_that_another_program_adds_is_obeyed_at_once() {
    let host = Host::start();
    host.control("rcpthosts", "mx.test\nnew.test\n");
    host.control("virtualdomains", "mx.test:mx.test\nnew.test:mx.test\n");
    host.send("sender@far.test", &["bob@new.test"], &letter("virtual", 300));
    host.maildir("bob").wait(1, PATIENCE);
    host.control("locals", "local.test\n");
    host.control("rcpthosts", "mx.test\nlocal.test\n");
    host.send("sender@far.test", &["mx.test-bob@local.test"], &letter("local", 300));
    host.maildir("bob").wait(2, PATIENCE);
}

#[test]
fn bad_virtualdomains_leave_the_old_ones_in_force() {
    let host = Host::start();
    host.control("virtualdomains", "mx.test:mx.test\nno colon\n");
    wait_until("the alert", PATIENCE, || host.log().contains("control/virtualdomains:2: no colon"));
    host.send("sender@far.test", &["bob@mx.test"], &letter("old", 300));
    host.maildir("bob").wait(1, PATIENCE);
    let tree = host.ask(&["svstat"]);
    assert!(tree.lines().any(|line| line.contains(" send ") && line.contains("virtualdomains:2")), "{tree}");
    host.control("virtualdomains", "mx.test:mx.test\n");
    wait_until("no trouble any more", PATIENCE, || !host.ask(&["svstat"]).contains("virtualdomains"));
}

/// A line that cannot be obeyed holds its own mail, which says why.
#[test]
fn a_bad_route_defers_what_it_concerns_and_nothing_else() {
    let host = Setup::new().control("smtproutes", "held.test:relay user secret\n").start();
    host.send("bob@mx.test", &["ann@held.test"], &letter("held", 300));
    wait_until("the deferral", PATIENCE, || {
        host.log().contains("deferral: The_route_to_held.test_is_not_known")
    });
    let tree = host.ask(&["svstat"]);
    assert!(tree.lines().any(|line| line.contains(" send ") && line.contains("smtproutes:1")), "{tree}");
    let queue = host.ask(&["queue", "list"]);
    assert!(
        queue.contains("ann@held.test") && queue.contains("no route: ") && queue.contains("smtproutes:1"),
        "{queue}"
    );
    let check = host.run(&["check"]);
    assert!(check.stderr.contains("warning: ") && check.stderr.contains("smtproutes:1"), "{check:#?}");
    for text in [&tree, &queue, &check.stderr, &check.stdout, &host.log()] {
        assert!(!text.contains("secret"), "{text}");
    }
    let sink = Peer::obliging();
    host.control("smtproutes", &sink.route(""));
    host.send("bob@mx.test", &["ann@other.test"], &letter("free", 300));
    sink.wait(1, PATIENCE);
    host.ask(&["queue", "retry"]);
    sink.wait(2, PATIENCE);
}

/// The administrator's notes: stop, edit vpasswd, remove vpasswd.cdb, start. And without a stop.
#[test]
fn vpasswd_by_hand() {
    let host = Host::start();
    let dir = host.home().join("domains/mx.test");
    let text = fs::read_to_string(dir.join("vpasswd")).unwrap();
    let bob = text.lines().find(|line| line.starts_with("bob:")).unwrap();
    fs::write(dir.join("vpasswd.new"), format!("{text}{}\n", bob.replacen("bob:", "robert:", 1))).unwrap();
    fs::rename(dir.join("vpasswd.new"), dir.join("vpasswd")).unwrap();
    fs::remove_file(dir.join("vpasswd.cdb")).unwrap();
    host.send("sender@far.test", &["robert@mx.test"], &letter("by hand", 300));
    host.maildir("bob").wait(1, PATIENCE);
    host.run(&["check"]).expect(0);
}

/// A line that is none: the users of before stay, which svstat shows until it is mended.
#[test]
fn a_bad_vpasswd_is_shown() {
    let host = Host::start();
    let file = host.home().join("domains/mx.test/vpasswd");
    let text = fs::read_to_string(&file).unwrap();
    let shown = |host: &Host| host.ask(&["svstat"]).contains("vpasswd: line ");
    fs::write(&file, format!("{text}no line of a vpasswd\n")).unwrap();
    wait_until("svstat to show it", PATIENCE, || {
        host.send("sender@far.test", &["bob@mx.test"], &letter("before", 300));
        shown(&host)
    });
    host.wait_log("alert: unable to make *vpasswd.cdb anew: *vpasswd: line *");
    fs::write(&file, text).unwrap();
    wait_until("svstat to forget it", PATIENCE, || {
        host.send("sender@far.test", &["bob@mx.test"], &letter("after", 300));
        !shown(&host)
    });
}

/// A word of `host.ron`, and a certificate, that are wrong: `svstat` shows it until they are mended.
#[test]
fn a_bad_host_ron_and_a_bad_certificate_are_shown() {
    let host = Setup::new().start();
    let line = |name: &str| {
        let tree = host.ask(&["svstat"]);
        tree.lines().find(|line| line.contains(&format!("─ {name} "))).unwrap().to_owned()
    };
    let (ron, cert) = (host.home().join("host.ron"), host.home().join("control/servercert.pem"));
    let (good, certificate) = (fs::read(&ron).unwrap(), fs::read(&cert).unwrap());
    fs::write(&ron, "(hostname: 1)\n").unwrap();
    fs::write(&cert, "no certificate\n").unwrap();
    host.ask(&["svc", "-t", "resolver"]);
    wait_until("both to be shown", PATIENCE, || {
        host.smtp();
        line("control").contains("host.ron") && line("smtpd").contains("servercert.pem")
    });
    fs::write(&ron, good).unwrap();
    fs::write(&cert, certificate).unwrap();
    host.ask(&["svc", "-t", "resolver"]);
    wait_until("both to be forgotten", PATIENCE, || {
        host.smtp();
        !line("control").contains("host.ron") && !line("smtpd").contains("servercert.pem")
    });
}

#[test]
fn hup_with_bad_files_keeps_the_old_configuration_and_says_so() {
    let host = Setup::new().control("locals", "alias.test\n").start();
    host.control("virtualdomains", "mx.test:mx.test\nbad\0line\n");
    host.signal(rustix::process::Signal::HUP);
    wait_until("a complaint in the log", PATIENCE, || {
        host.log().lines().any(|line| line.contains("virtualdomains"))
    });
    host.send("sender@mx.test", &["bob@mx.test"], &letter("old", 300));
    host.maildir("bob").wait(1, PATIENCE);
}

#[test]
fn hup_rereads_locals_and_virtualdomains() {
    let host = Host::start();
    let mail = |name: &str| host.send("sender@mx.test", &["bob@new.test"], &letter(name, 300));
    host.control("virtualdomains", "mx.test:mx.test\nnew.test:mx.test\n");
    host.ask(&["svc", "-h", "send"]);
    wait_until("mail for the new domain", PATIENCE, || {
        mail("hup");
        host.maildir("bob").count() > 0 || {
            mailtree_tests::wait::tick(std::time::Duration::from_millis(100));
            host.maildir("bob").count() > 0
        }
    });
}

#[test]
fn commands_without_a_home_say_which_home() {
    let dir = tempfile::tempdir().unwrap();
    for args in [&["check"][..], &["queue", "list"], &["qmail-qread"], &["vadduser", "a@b.test", "x"]] {
        let ran = Ran::new(Command::new(binary()).args(args).env("MAILTREE_HOME", dir.path().join("absent")));
        assert!(matches!(ran.code, Some(100 | 111)), "{args:?} {ran:#?}");
        assert!(ran.stderr.contains("absent"), "{args:?} {ran:#?}");
    }
}

mod needs_root {
    use mailtree_tests::disk::Disk;

    use super::*;

    /// What root may read, the host's own user may not: root's `check` says so.
    #[test]
    fn check_by_root_knows_whom_the_host_runs_as() {
        let setup = Setup::new();
        setup.write();
        let home = setup.home();
        Ran::new(Command::new("chown").args(["-R", "nobody:nogroup"]).arg(home)).expect(0);
        Ran::new(Command::new("chmod").arg("755").arg(home.parent().unwrap())).expect(0);
        let alias = home.join("domains/mx.test/.qmail-info");
        let key = home.join("control/serverkey.pem");
        fs::write(&alias, "&bob@mx.test\n").unwrap();
        let close = |path: &Path| {
            fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        };
        close(&alias);
        let place = tempfile::tempdir().unwrap();
        close(place.path());
        fs::write(place.path().join("key"), "").unwrap();
        std::os::unix::fs::symlink(place.path().join("key"), &key).unwrap();
        let said = setup.run(&["check"]).expect(100).stderr;
        for path in [&alias, &key] {
            let expected =
                format!("{}: nobody, whom the host runs as, may not read it: mode ", path.display());
            assert!(said.contains(&expected), "{said}");
        }
        assert_eq!(said.matches("may not read it").count(), 2, "{said}");
    }

    #[test]
    fn a_home_that_is_not_writable_is_a_clear_error() {
        let disk = Disk::new(24);
        let setup = Setup::at(disk.path().join("home"));
        setup.write();
        disk.remount("ro");
        let ran = Ran::new(&mut setup.command());
        assert!(matches!(ran.code, Some(100 | 111)), "{ran:#?}");
        assert!(ran.stderr.contains("Read-only file system"), "{ran:#?}");
        let ran = Ran::new(
            Command::new(binary()).args(["init", "--me", ME, "--home"]).arg(disk.path().join("new")),
        );
        assert!(matches!(ran.code, Some(100 | 111)), "{ran:#?}");
    }

    #[test]
    fn an_unreadable_control_file_is_named() {
        let setup = Setup::new().control("databytes", "5000\n");
        setup.write();
        Ran::new(Command::new("chmod").args(["-R", "go+rX"]).arg(setup.home().parent().unwrap())).expect(0);
        Ran::new(Command::new("chmod").arg("000").arg(setup.home().join("control/databytes"))).expect(0);
        let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups"];
        let public = tempfile::Builder::new().prefix("mailtree-bin-").tempdir().unwrap();
        fs::copy(binary(), public.path().join("mailtree")).unwrap();
        Ran::new(Command::new("chmod").args(["755"]).arg(public.path())).expect(0);
        let mut command = Command::new("setpriv");
        command.args(nobody).arg(public.path().join("mailtree")).args(["check", "--home"]).arg(setup.home());
        let ran = Ran::new(&mut command);
        assert!(matches!(ran.code, Some(100 | 111)), "{ran:#?}");
        let said = format!("{}{}", ran.stdout, ran.stderr);
        assert!(said.contains("databytes") && said.contains("ermission denied"), "{ran:#?}");
    }

    /// README's first command: an empty home is initialised and the whole tree starts, at the standard ports.
    #[test]
    fn up_initialises_an_empty_home_and_says_what_to_type() {
        let dir = tempfile::tempdir().unwrap();
        let setup = Setup::existing(dir.path().join("home"));
        let mut command = Command::new("unshare");
        let up = "ip link set lo up && exec \"$0\" up --home \"$1\"";
        command.args(["-n", "sh", "-c", up]).arg(binary()).arg(setup.home());
        let output = fs::File::create(dir.path().join("out")).unwrap();
        let mut child = command.stdout(output.try_clone().unwrap()).stderr(output).spawn().unwrap();
        let said = || fs::read_to_string(dir.path().join("out")).unwrap();
        wait_until("the tree", PATIENCE, || {
            let rows = setup.run(&["svstat", "--json"]).stdout;
            rows.contains("127.0.0.1:2525") && rows.contains("127.0.0.1:11600")
        });
        wait_until("the password", PATIENCE, || said().contains("postmaster@"));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(said().contains("2525"), "{}", said());
    }
}
