//! What installs the host, and what keeps it: service managers, run scripts, fail2ban, the Debian package.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;

use mailtree_tests::host::{PATIENCE, Ran, Setup};
use mailtree_tests::letter::letter;
use mailtree_tests::wait::wait_until;
use rustix::process::Signal;

/// A file below `config/` of this repository.
fn config(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../config").join(name)
}

fn write_program(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// A service manager's end of sd_notify.
struct Manager {
    dir: tempfile::TempDir,
    socket: UnixDatagram,
}

impl Manager {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(dir.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        // As systemd's.
        mailtree_tests::maildir::open_to_all(&dir.path().join("notify"));
        Self { dir, socket }
    }

    /// A host that is its service, and gives a sign of life every 50 ms.
    fn service(&self, setup: Setup) -> Setup {
        let path = self.dir.path().join("notify");
        setup.env("NOTIFY_SOCKET", path.to_str().unwrap()).env("WATCHDOG_USEC", "100000")
    }

    /// Messages up to the first like `pattern`.
    #[track_caller]
    fn hear(&self, pattern: &str) -> Vec<String> {
        let mut heard: Vec<String> = Vec::new();
        while !heard.last().is_some_and(|last| mailtree_tests::smtp::like(pattern, last)) {
            let mut buffer = [0; 4096];
            let length = self.socket.recv(&mut buffer).unwrap_or_else(|cause| {
                panic!("{pattern} was not heard: {cause}: {heard:#?}");
            });
            let text = str::from_utf8(&buffer[..length]).unwrap();
            heard.push(text.trim_end().to_owned());
        }
        heard
    }
}

#[test]
fn the_service_manager_hears_when_the_host_is_up_that_it_lives_and_that_it_stops() {
    let manager = Manager::new();
    let mut host = manager.service(Setup::new()).launch();
    manager.hear("READY=1");
    let rows = host.status();
    assert!(!rows.is_empty() && rows.iter().all(|row| row["state"] == "up"), "{rows:#?}");
    for _ in 0..3 {
        manager.hear("WATCHDOG=1");
    }
    host.ask(&["svc", "-d", "smtpd"]);
    manager.hear("STATUS=* of * services up; not: smtpd");
    host.ask(&["svc", "-u", "smtpd"]);
    manager.hear("STATUS=* services up");
    host.signal(Signal::TERM);
    manager.hear("STOPPING=1");
    assert_eq!(host.wait_exit(PATIENCE).code(), Some(0), "{}", host.log_tail());
}

#[test]
fn a_service_that_fails_at_first_is_named_and_does_not_keep_the_host_from_being_ready() {
    let manager = Manager::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let services = format!(
        "{{ \"smtpd\": smtpd(listen: [\"{}\"]), \"metrics\": metrics(listen: \"127.0.0.1:0\") }}",
        taken.local_addr().unwrap()
    );
    let _host = manager.service(Setup::new().field("services", services)).launch();
    let heard = manager.hear("READY=1");
    let not_up = |text: &String| mailtree_tests::smtp::like("STATUS=* services up; not: *smtpd", text);
    if !heard.iter().any(not_up) {
        manager.hear("STATUS=* services up; not: smtpd");
    }
}

#[test]
fn a_service_manager_that_is_gone_is_named_and_holds_up_nothing() {
    let mut host = Setup::new().env("NOTIFY_SOCKET", "/nonexistent/notify").start();
    host.wait_log("notify: warning: unable to tell the service manager: *");
    host.send("sender@mx.test", &["bob@mx.test"], &letter("alone", 300));
    host.maildir("bob").wait(1, PATIENCE);
    host.stop();
}

#[test]
fn programs_know_nothing_of_the_service_manager() {
    let manager = Manager::new();
    let dir = tempfile::tempdir().unwrap();
    mailtree_tests::maildir::open_to_all(dir.path());
    let [program, found] = ["qq", "environment"].map(|name| dir.path().join(name));
    write_program(&program, &format!("#!/bin/sh\nenv >'{}'\ncat >/dev/null\n", found.display()));
    let rule = format!(":allow,QMAILQUEUE=\"{}\"\n", program.display());
    let host = manager.service(Setup::new().rules(&rule)).start();
    let mut client = host.smtp();
    client.say("HELO client.test", 250);
    client.transact("sender@mx.test", &["bob@mx.test"], &letter("program", 300)).unwrap().expect(250);
    let environment = fs::read_to_string(found).unwrap();
    assert!(environment.contains("QMAILQUEUE="), "{environment}");
    assert!(!environment.contains("NOTIFY") && !environment.contains("WATCHDOG"), "{environment}");
}

#[test]
fn the_run_scripts_are_scripts() {
    for name in ["daemontools", "runit", "s6", "debian"] {
        let scripts: &[&str] =
            if name == "debian" { &["postinst", "prerm", "postrm"] } else { &["run", "log/run"] };
        for script in scripts {
            Ran::new(Command::new("sh").arg("-n").arg(config(name).join(script))).expect(0);
        }
    }
}

mod needs_systemd {
    use mailtree_tests::host::binary;

    use super::*;

    #[test]
    fn the_unit_is_one_and_lets_the_host_do_little() {
        let dir = tempfile::tempdir().unwrap();
        let unit = dir.path().join("mailtree.service");
        let text = fs::read_to_string(config("systemd/mailtree.service")).unwrap();
        // What verify would miss here is there once the package is installed.
        let installed = "ExecStart=/usr/bin/mailtree up";
        assert!(text.contains(installed));
        fs::write(&unit, text.replace(installed, &format!("ExecStart={} up", binary().display()))).unwrap();
        let verified =
            Ran::new(Command::new("systemd-analyze").arg("verify").arg("--man=no").arg(&unit)).expect(0);
        assert_eq!(verified.stderr, "");
        // Of 100; a unit without any protection has 96.
        let mut security = Command::new("systemd-analyze");
        security.args(["security", "--offline=true", "--threshold=25", "--no-pager"]).arg(&unit);
        Ran::new(&mut security).expect(0);
    }

    #[test]
    fn the_user_can_be_made() {
        let root = tempfile::tempdir().unwrap();
        let mut sysusers = Command::new("systemd-sysusers");
        sysusers.arg("--dry-run").arg("--root").arg(root.path()).arg(config("systemd/mailtree.sysusers"));
        let ran = Ran::new(&mut sysusers).expect(0);
        assert!((ran.stdout + &ran.stderr).contains("Creating user 'mailtree'"));
    }
}

mod needs_fail2ban {
    use std::io::Write;

    use mailtree_tests::dialogue::base64;
    use mailtree_tests::host::Host;
    use mailtree_tests::proxy::dial_as;
    use mailtree_tests::smtp::Client;

    use super::*;

    /// Whom the filter would have banned for these lines, once for each line.
    fn found(filter: &str, log: &str) -> Vec<String> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(log.as_bytes()).unwrap();
        let mut regex = Command::new("fail2ban-regex");
        regex.args(["-o", "<ip>"]).arg(file.path());
        regex.arg(config(&format!("fail2ban/filter.d/{filter}.conf")));
        let ran = Ran::new(&mut regex).expect(0);
        ran.stdout.lines().map(str::to_owned).filter(|line| !line.is_empty()).collect()
    }

    /// A client that has an address of its own, and says this, whatever is answered.
    fn client(host: &Host, ip: &str, lines: &[&str]) {
        let mut client = Client::greeted(dial_as(host.address().get(), ip)).unwrap();
        for line in lines {
            client.command(line).unwrap();
        }
    }

    fn plain(user: &str, password: &str) -> String {
        format!("AUTH PLAIN {}", base64(format!("\0{user}\0{password}").as_bytes()))
    }

    /// A host that believes the load balancer of the tests.
    fn host(fields: &str, format: &str, rules: &str) -> Host {
        let fields = format!("proxies: [\"127.0.0.1\"], auth_in_clear: true, {fields}");
        Setup::new().smtpd(&fields).field("log", format!("(format: {format})")).rules(rules).start()
    }

    const VARIABLES: &str = "CHKUSER_START=\"ALWAYS\",SMTPAUTH=\"\"";

    fn who_is_found(format: &str) {
        let rules = format!(
            "192.0.2.66:deny\n192.0.2.67:allow,RBLSMTPD=\"-go away, vchkpw-smtp: password fail a@b:10.0.0.1\"\n\
             192.0.2.68:allow,SMTPD_GREETDELAY=\"1\"\n2001:db8::66:deny\n\
             192.0.2.69:allow,{VARIABLES},CHKUSER_LOGLAYOUT=\"named\"\n:allow,{VARIABLES}\n"
        );
        let host = host("", format, &rules);
        // Each tries to have 10.0.0.1 banned in his place. A name with a line end is not even looked at.
        let forged = "x\r\n@400000006b07311a0be4e533 vchkpw-smtp: password fail a@b:10.0.0.1";
        client(
            &host,
            "192.0.2.1",
            &[
                "EHLO 10.0.0.1",
                &plain("bob@mx.test", "wrong"),
                &plain("nobody:10.0.0.1@mx.test", "wrong"),
                &plain(forged, "wrong"),
                &plain("x\",\"line\":\"vchkpw-smtp: password fail a@b:10.0.0.1\"", "wrong"),
            ],
        );
        client(&host, "2001:db8::7", &["EHLO x", &plain("10.0.0.1@mx.test", "wrong")]);
        // He may, and what he says of himself makes no difference.
        client(
            &host,
            "192.0.2.2",
            &[
                "EHLO a:10.0.0.1>_rcpt_<x>_:_y",
                &plain("bob@mx.test", "secret-of-the-test"),
                "MAIL FROM:<>",
                "RCPT TO:<bob@mx.test>",
            ],
        );
        for ip in ["192.0.2.3", "192.0.2.69", "2001:db8::3"] {
            client(
                &host,
                ip,
                &[
                    "EHLO a:b:10.0.0.1>_rcpt_<>",
                    "MAIL FROM:<\"a::> remote <b:c:10.0.0.1> rcpt <>\"@far.test>",
                    "MAIL FROM:<>",
                    "RCPT TO:<\"nobody> remote <b:c:10.0.0.1>\"@mx.test>",
                    "RCPT TO:<x:10.0.0.1@mx.test>",
                    "RCPT TO:<nobody@mx.test>",
                ],
            );
        }
        client(&host, "192.0.2.67", &["EHLO x", "MAIL FROM:<a@far.test>", "RCPT TO:<bob@mx.test>", "QUIT"]);
        drop(dial_as(host.address().get(), "192.0.2.66"));
        drop(dial_as(host.address().get(), "2001:db8::66"));
        let mut hasty = dial_as(host.address().get(), "192.0.2.68");
        hasty.write_all(b"EHLO x\r\n").unwrap();
        let smtpd = [
            "192.0.2.3",
            "192.0.2.66",
            "192.0.2.67",
            "192.0.2.68",
            "192.0.2.69",
            "2001:db8::3",
            "2001:db8::66",
        ];
        let mut last = Vec::new();
        wait_until(&format!("all that is wrong to be found; {}", host.log_tail()), PATIENCE, || {
            last = found("mailtree-smtpd", &host.log());
            let mut once = last.clone();
            once.sort();
            once.dedup();
            once == smtpd
        });
        for ip in ["192.0.2.3", "192.0.2.69", "2001:db8::3"] {
            let lines = last.iter().filter(|found| *found == ip).count();
            assert_eq!(lines, 4, "{ip} in {}", host.log());
        }
        let mut auth = found("mailtree-auth", &host.log());
        auth.sort();
        assert_eq!(auth, [&["192.0.2.1"; 3][..], &["2001:db8::7"]].concat(), "{}", host.log());
    }

    #[test]
    fn who_guesses_or_is_turned_away_is_found_and_nobody_he_names() {
        who_is_found("classic");
    }

    #[test]
    fn the_same_in_json() {
        who_is_found("json");
    }

    #[test]
    fn who_guesses_at_a_checkpassword_program_is_found() {
        for format in ["classic", "json"] {
            let host = host("checkpassword: [\"/bin/false\"]", format, &format!(":allow,{VARIABLES}\n"));
            let names = ["bob@mx.test", "x at 10.0.0.1", "x at 10.0.0.1\",\"name\":\"", "x at 10.0.0.1\\"];
            let lines: Vec<_> = names.iter().map(|name| plain(name, "wrong")).collect();
            client(&host, "192.0.2.1", &["EHLO x"]);
            for line in &lines {
                client(&host, "192.0.2.1", &["EHLO x", line]);
            }
            wait_until("all to be found", PATIENCE, || {
                let found = found("mailtree-auth", &host.log());
                assert!(found.iter().all(|ip| ip == "192.0.2.1"), "{found:?} in {}", host.log());
                found.len() == names.len()
            });
        }
    }

    #[test]
    fn lines_that_only_quote_a_line_find_nobody() {
        let quoted = [
            "vchkpw-smtp: password fail a@b:10.0.0.1",
            "CHKUSER rejected rcpt: from <a::> remote <b:c:10.0.0.1> rcpt <> : not existing recipient",
            "rblsmtpd: 10.0.0.1 pid 7: 553 x",
            "tcpserver: deny 7 :192.0.2.1:25 :10.0.0.1::4711",
            "qmail-smtpd: pid 7 early talker 10.0.0.1",
            "qmail-smtpd: pid 7 auth failed x at 10.0.0.1",
        ];
        let mut log = String::new();
        for quoted in quoted {
            for line in [
                format!("delivery 1: failure: 192.0.2.1_said:_550_{quoted}"),
                format!("info msg 1: bytes 1 from <{quoted}> qp 1 uid 0"),
                format!("simscan:[7]:SPAM DROPPED (9.00/5.00/5.00):T:{quoted}:192.0.2.1:a@b:c@d"),
                format!("qmail-smtpd: warning: too many wrong passwords for {quoted} or from 192.0.2.1"),
                format!("tcpserver: warning: dropping connection, {quoted}"),
                format!("vchkpw-smtp: (PLAIN) login success {quoted}:192.0.2.1"),
                format!("CHKUSER accepted rcpt: from <{quoted}::> remote <a:b:192.0.2.1> rcpt <> : x"),
            ] {
                log.push_str(&format!("@400000006b07311a0be4e533 {line}\n"));
                log.push_str(&format!("vm mailtree[12]: @400000006b07311a0be4e533 {line}\n"));
                let json =
                    serde_json::json!({ "error": line, "line": line, "name": quoted, "unix": 1795719827 });
                log.push_str(&format!("{json}\n"));
            }
            // The line itself is known in each dress, or the test above shows nothing.
            let filters = ["mailtree-auth", "mailtree-smtpd"];
            let json = serde_json::json!({ "line": quoted, "pid": 7, "unix": 1795719827 });
            for dressed in [
                format!("@400000006b07311a0be4e533 {quoted}\n"),
                format!("vm mailtree[12]: @400000006b07311a0be4e533 {quoted}\n"),
                format!("{json}\n"),
                format!("vm mailtree[12]: {json}\n"),
            ] {
                let found: Vec<_> = filters.iter().flat_map(|filter| found(filter, &dressed)).collect();
                assert_eq!(found, ["10.0.0.1"], "{dressed}");
            }
        }
        for filter in ["mailtree-auth", "mailtree-smtpd"] {
            assert_eq!(found(filter, &log), Vec::<String>::new());
        }
    }
}

/// A supervisor of others keeps the host with our run scripts.
mod supervised {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Stdio};

    use mailtree_tests::host::binary;
    use mailtree_tests::smtp::Client;
    use mailtree_tests::wait::wait_for;
    use rustix::process::{Pid, kill_process, kill_process_group};
    use serde_json::Value;

    use super::*;

    /// Who the log is for here: nobody in the place of a user that this machine may not have, or ourselves.
    fn user_of_the_log() -> [String; 2] {
        if rustix::process::geteuid().is_root() {
            return ["nobody", "nogroup"].map(str::to_owned);
        }
        [rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()].map(|id| id.to_string())
    }

    /// The `log/run` of `name` as `script`, whose directory is made as it says itself.
    fn for_the_log(name: &str, logs: &Path, script: &Path) {
        let text = fs::read_to_string(config(name).join("log/run")).unwrap();
        let make = text.lines().find_map(|line| line.strip_prefix("#   ")).unwrap();
        let words: Vec<&str> = make.split(' ').collect();
        let ["install", "-d", "-o", user, "-g", _, "-m", mode, _] = words[..] else { panic!("{make}") };
        let [own, group] = user_of_the_log();
        let mut install = Command::new("install");
        Ran::new(install.args(["-d", "-o", &own, "-g", &group, "-m", mode]).arg(logs)).expect(0);
        write_program(script, &text.replace(&format!(" {user} "), &format!(" {own} ")));
    }

    /// Nobody but root can become another user.
    fn without_root(bin: &Path) {
        if rustix::process::geteuid().is_root() {
            return;
        }
        for become_user in ["setuidgid", "s6-setuidgid"] {
            write_program(&bin.join(become_user), "#!/bin/sh\nshift\nexec \"$@\"\n");
        }
        write_program(&bin.join("chpst"), "#!/bin/sh\nshift 2\nexec \"$@\"\n");
    }

    /// What the logger of `name` makes of the lines of each service.
    pub(super) fn every_service_has_its_lines(name: &str) {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let [bin, logs, script] = ["bin", "log", "run"].map(|name| dir.path().join(name));
        fs::create_dir(&bin).unwrap();
        for_the_log(name, &logs, &script);
        without_root(&bin);
        let login = |port: &str| format!("vchkpw-{port}: (PLAIN) login success bob@mx.test:192.0.2.1");
        let lines = [login("smtp"), login("submission"), login("smtps"), "new msg 7".to_owned()];
        let stamped = lines.clone().map(|line| format!("@400000006b07311a0be4e533 {line}\n")).concat();
        let input = dir.path().join("input");
        fs::write(&input, stamped).unwrap();
        let mut logger = Command::new("sh");
        logger.args(["-c", "\"$0\" <\"$1\""]).args([&script, &input]);
        logger
            .env("PATH", format!("{}:{}", bin.display(), std::env::var("PATH").unwrap()))
            .env("LOGS", &logs);
        Ran::new(&mut logger).expect(0);
        for (name, expected) in [
            ("all", &[0, 1, 2, 3][..]),
            ("smtpd", &[0, 1, 2]),
            ("submission", &[1]),
            ("smtps", &[2]),
            ("send", &[3]),
        ] {
            let text = fs::read_to_string(logs.join(name).join("current")).unwrap();
            let found: Vec<&str> = text.lines().map(|line| line.split_once(' ').unwrap().1).collect();
            assert_eq!(found, expected.iter().map(|at| lines[*at].as_str()).collect::<Vec<_>>(), "{name}");
        }
    }

    pub(super) struct Supervised {
        setup: Setup,
        dir: tempfile::TempDir,
        scan: Child,
    }

    impl Supervised {
        /// The scripts of `name` under `scan`, which is given the directory of services.
        pub(super) fn start(name: &str, scan: &str) -> Self {
            let setup = Setup::new();
            setup.write();
            let dir = tempfile::tempdir().unwrap();
            let [bin, services] = ["bin", "services"].map(|name| dir.path().join(name));
            fs::create_dir_all(&bin).unwrap();
            fs::create_dir_all(services.join("mailtree/log")).unwrap();
            fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
            for_the_log(name, &dir.path().join("log"), &services.join("mailtree/log/run"));
            fs::copy(config(name).join("run"), services.join("mailtree/run")).unwrap();
            std::os::unix::fs::symlink(binary(), bin.join("mailtree")).unwrap();
            without_root(&bin);
            let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
            let scan = Command::new(scan)
                .arg(&services)
                .env("PATH", path)
                .env("MAILTREE_HOME", setup.home())
                .env("LOGS", dir.path().join("log"))
                .stdin(Stdio::null())
                .process_group(0)
                .spawn()
                .unwrap();
            Self { setup, dir, scan }
        }

        fn rows(&self) -> Vec<Value> {
            let rows = self.setup.run(&["svstat", "--json"]).stdout;
            serde_json::from_str(&rows).unwrap_or_default()
        }

        fn pid(&self) -> Option<Pid> {
            self.rows().first().and_then(|row| Pid::from_raw(i32::try_from(row["pid"].as_i64()?).ok()?))
        }

        /// One message goes through it.
        pub(super) fn delivers(&self) {
            let rows = wait_for("the host to be up", PATIENCE, || {
                let rows = self.rows();
                (!rows.is_empty() && rows.iter().all(|row| row["state"] == "up")).then_some(rows)
            });
            let smtpd = rows.iter().find(|row| row["service"] == "smtpd").unwrap();
            let mut client = Client::connect(smtpd["listen"][0].as_str().unwrap().parse().unwrap()).unwrap();
            client.say("EHLO client.test", 250);
            client.transact("sender@mx.test", &["bob@mx.test"], &letter("run", 300)).unwrap().expect(250);
            client.say("QUIT", 221);
        }

        /// Waits until the log in this directory has `wanted`, and checks that it has nothing of `others`.
        pub(super) fn logs(&self, name: &str, wanted: &[&str], others: &[&str]) {
            let path = self.dir.path().join("log").join(name).join("current");
            wait_until(&format!("{wanted:?} in {}", path.display()), PATIENCE, || {
                let text = fs::read_to_string(&path).unwrap_or_default();
                for other in others {
                    assert!(!text.contains(other), "{other} in {name}:\n{text}");
                }
                wanted.iter().all(|wanted| text.contains(wanted))
            });
        }

        /// Stops the host in order by a command of its supervisor, then the rest by another.
        pub(super) fn stop(&mut self, down: &[&str], exit: &[&[&str]]) {
            let service = self.dir.path().join("services/mailtree");
            let tell = |words: &[&str]| {
                let [program, words @ ..] = words else { panic!("no program") };
                let mut command = Command::new(program);
                for word in words {
                    let services = service.parent().unwrap().to_str().unwrap();
                    command.arg(word.replace("SERVICES", services));
                }
                Ran::new(&mut command).expect(0);
            };
            tell(down);
            wait_until("the host to be down", PATIENCE, || self.rows().is_empty());
            self.logs_somewhere("svscan: stopping all services, the last one first");
            exit.iter().for_each(|words| tell(words));
        }

        fn logs_somewhere(&self, line: &str) {
            let log = self.dir.path().join("log");
            wait_until(line, PATIENCE, || {
                ["current", "all/current"]
                    .iter()
                    .any(|name| fs::read_to_string(log.join(name)).unwrap_or_default().contains(line))
            });
        }
    }

    impl Drop for Supervised {
        fn drop(&mut self) {
            let scan = Pid::from_raw(i32::try_from(self.scan.id()).unwrap()).unwrap();
            // Whoever has ended already cannot be killed.
            kill_process_group(scan, Signal::KILL).unwrap_or(());
            drop(self.scan.wait());
            // s6 gives each service a session of its own.
            if let Some(pid) = self.pid() {
                kill_process(pid, Signal::KILL).unwrap_or(());
            }
        }
    }

    /// The logs of multilog and s6-log: everything, what concerns clients, what concerns deliveries.
    pub(super) fn three_logs(host: &Supervised) {
        host.logs("all", &["supervise: smtpd: up", "new msg ", "tcpserver: ok "], &[]);
        host.logs("smtpd", &["tcpserver: ok ", "tcpserver: end "], &["new msg ", "supervise: "]);
        host.logs(
            "send",
            &["new msg ", "delivery 1: success", "end msg "],
            &["tcpserver: ok ", "supervise: "],
        );
    }
}

mod needs_daemontools {
    use super::supervised::{Supervised, every_service_has_its_lines, three_logs};

    #[test]
    fn multilog_keeps_the_lines_of_every_service() {
        every_service_has_its_lines("daemontools");
    }

    /// README has the script of config/.
    #[test]
    fn the_lines_in_readme_are_those_of_the_script() {
        let read = |name: &str| std::fs::read_to_string(super::config(name)).unwrap();
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let script = read("daemontools/log/run");
        let lines = words(&script[script.find("exec setuidgid").unwrap()..]);
        let readme = words(&read("../README.md"));
        assert!(
            readme.windows(lines.len()).any(|window| window == lines),
            "README has other lines than {lines:?}"
        );
        let make = words(script.lines().find_map(|line| line.strip_prefix("#   ")).unwrap());
        assert!(readme.windows(make.len()).any(|window| window == make), "README does not say {make:?}");
    }

    #[test]
    fn supervise_and_multilog_keep_the_host() {
        let mut host = Supervised::start("daemontools", "svscan");
        host.delivers();
        three_logs(&host);
        let exit = ["svc", "-dx", "SERVICES/mailtree", "SERVICES/mailtree/log"];
        host.stop(&["svc", "-d", "SERVICES/mailtree"], &[&exit]);
    }
}

mod needs_runit {
    use super::supervised::Supervised;

    #[test]
    fn runsv_and_svlogd_keep_the_host() {
        let mut host = Supervised::start("runit", "runsvdir");
        host.delivers();
        host.logs(".", &["supervise: smtpd: up", "end msg ", "tcpserver: ok "], &[]);
        host.stop(&["sv", "down", "SERVICES/mailtree"], &[&["sv", "exit", "SERVICES/mailtree"]]);
    }
}

mod needs_s6 {
    use super::supervised::{Supervised, every_service_has_its_lines, three_logs};

    #[test]
    fn s6_log_keeps_the_lines_of_every_service() {
        every_service_has_its_lines("s6");
    }

    #[test]
    fn s6_supervise_and_s6_log_keep_the_host() {
        let mut host = Supervised::start("s6", "s6-svscan");
        host.delivers();
        three_logs(&host);
        host.stop(&["s6-svc", "-d", "SERVICES/mailtree"], &[&["s6-svscanctl", "-t", "SERVICES"]]);
    }
}

mod needs_cargodeb {
    use super::*;

    /// The package of the binary as it was built.
    fn package(dir: &Path) -> PathBuf {
        let deb = dir.join("mailtree.deb");
        let mut cargo = Command::new("cargo");
        cargo.args(["deb", "-p", "mailtree", "--no-build", "--no-strip", "--fast", "--output"]).arg(&deb);
        Ran::new(cargo.current_dir(config(".."))).expect(0);
        deb
    }

    fn field(deb: &Path, name: &str) -> String {
        Ran::new(Command::new("dpkg-deb").arg("-I").arg(deb).arg(name)).expect(0).stdout
    }

    #[test]
    fn the_package_has_all_that_the_unit_names() {
        let dir = tempfile::tempdir().unwrap();
        let deb = package(dir.path());
        let root = dir.path().join("root");
        Ran::new(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(&root)).expect(0);
        let unit = fs::read_to_string(root.join("usr/lib/systemd/system/mailtree.service")).unwrap();
        assert!(unit.contains("\nExecStart=/usr/bin/mailtree up\n"), "{unit}");
        let version = Ran::new(Command::new(root.join("usr/bin/mailtree")).arg("--version")).expect(0);
        assert_eq!(version.stdout, format!("mailtree {}\n", env!("CARGO_PKG_VERSION")));
        assert_eq!(field(&deb, "conffiles"), "/etc/mailtree/home\n");
        assert_eq!(fs::read_to_string(root.join("etc/mailtree/home")).unwrap(), "/var/lib/mailtree\n");
        let doc = root.join("usr/share/doc/mailtree");
        for name in ["copyright", "README.md", "fail2ban/filter.d/mailtree-auth.conf", "daemontools/log/run"]
        {
            assert!(doc.join(name).is_file(), "{name}");
        }
    }

    mod needs_root {
        use super::*;

        #[test]
        fn the_package_is_installed_makes_its_user_and_leaves_the_mail() {
            let dir = tempfile::tempdir().unwrap();
            let deb = package(dir.path());
            let root = dir.path().join("root");
            for name in ["etc", "var/lib/dpkg/info", "var/lib/dpkg/updates", "var/lib/dpkg/triggers"] {
                fs::create_dir_all(root.join(name)).unwrap();
            }
            for name in ["var/lib/dpkg/status", "etc/passwd", "etc/group", "etc/shadow", "etc/gshadow"] {
                fs::write(root.join(name), "").unwrap();
            }
            // The scratch root has no shell: the scripts run outside and keep to DPKG_ROOT.
            let dpkg = |words: &[&str]| {
                let mut dpkg = Command::new("dpkg");
                dpkg.arg("--root").arg(&root).args(["--force-script-chrootless", "--force-depends"]);
                Ran::new(dpkg.args(words)).expect(0);
            };
            dpkg(&["-i", deb.to_str().unwrap()]);
            let users = fs::read_to_string(root.join("etc/passwd")).unwrap();
            assert!(users.starts_with("mailtree:") && users.contains(":/var/lib/mailtree:"), "{users}");
            let home = root.join("var/lib/mailtree");
            // An empty one is initialised by `up`.
            assert_eq!(fs::read_dir(&home).unwrap().count(), 0);
            Ran::new(Command::new(root.join("usr/bin/mailtree")).args(["init", "--home"]).arg(&home))
                .expect(0);
            // An upgrade finds the user.
            dpkg(&["-i", deb.to_str().unwrap()]);
            assert_eq!(fs::read_to_string(root.join("etc/passwd")).unwrap(), users);
            dpkg(&["--purge", "mailtree"]);
            assert!(!root.join("usr/bin/mailtree").exists());
            assert!(home.join("host.ron").is_file(), "the home is gone");
        }
    }
}
