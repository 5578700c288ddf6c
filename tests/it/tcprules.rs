//! `tcprules` and `tcprulescheck`: an administrator of tcpserver is at home, and ucspi-tcp reads and writes the same.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use mailtree_protocols::cdb::Cdb;
use mailtree_tests::host::{Host, Ran, Setup, binary};
use mailtree_tests::wait::wait_until;

/// Runs a program with rules as its standard input.
fn fed(program: &Path, args: &[&Path], rules: &[u8]) -> Ran {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|cause| panic!("{command:?}: {cause}"));
    child.stdin.take().unwrap().write_all(rules).unwrap();
    let output = child.wait_with_output().unwrap();
    Ran {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// The programs through their classic names, and a directory for their files.
fn classic() -> (tempfile::TempDir, impl Fn(&str) -> std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let bin = dir.path().join("bin");
    Ran::new(Command::new(binary()).arg("links").arg(&bin)).expect(0);
    (dir, move |name: &str| bin.join(name))
}

#[test]
fn rules_are_compiled_and_checked_under_their_classic_names() {
    let (dir, program) = classic();
    let [cdb, tmp] = ["cdb", "tmp"].map(|name| dir.path().join(name));
    let rules = "127.:allow,RELAYCLIENT=\"\",A=/x y/\n=.bad.test:deny\n2001:db8::/32:allow,V6=\"1\"\n";
    fed(&program("tcprules"), &[&cdb, &tmp], rules.as_bytes()).expect(0);
    assert!(!tmp.exists());
    for (env, said) in [
        (vec![], "default:\nallow connection\n"),
        (
            vec![("TCPREMOTEIP", "127.0.0.1")],
            "rule 127.:\nset environment variable RELAYCLIENT=\nset environment variable A=x y\nallow connection\n",
        ),
        (
            vec![("TCPREMOTEIP", "2001:db8::7")],
            "rule 2001:db8::\nset environment variable V6=1\nallow connection\n",
        ),
        (
            vec![("TCPREMOTEIP", "192.0.2.1"), ("TCPREMOTEHOST", "a.bad.test")],
            "rule =.bad.test:\ndeny connection\n",
        ),
    ] {
        let ran = Ran::new(Command::new(program("tcprulescheck")).arg(&cdb).envs(env)).expect(0);
        assert_eq!(ran.stdout, said);
    }
}

#[test]
fn usage_and_missing_files() {
    let (dir, program) = classic();
    let cdb = dir.path().join("cdb");
    let ran = fed(&program("tcprules"), &[&cdb], b"").expect(100);
    assert_eq!(ran.stderr, "tcprules: usage: tcprules rules.cdb rules.tmp\n");
    let ran = Ran::new(&mut Command::new(program("tcprulescheck"))).expect(100);
    assert_eq!(ran.stderr, "tcprulescheck: usage: tcprulescheck rules.cdb\n");
    let ran = Ran::new(Command::new(program("tcprulescheck")).arg(&cdb)).expect(111);
    let expected = format!("tcprulescheck: fatal: unable to read {}: file does not exist\n", cdb.display());
    assert_eq!(ran.stderr, expected);
}

#[test]
fn a_bad_line_keeps_the_old_database() {
    let (dir, program) = classic();
    let [cdb, tmp] = ["cdb", "tmp"].map(|name| dir.path().join(name));
    fed(&program("tcprules"), &[&cdb, &tmp], b":allow\n").expect(0);
    let before = fs::read(&cdb).unwrap();
    for line in ["1.2.3.4:Deny", "1.:allow,A", "1.2.3.0/40:deny", "1.:allow,A=\"b", "1-x.:deny"] {
        let ran =
            fed(&program("tcprules"), &[&cdb, &tmp], format!(":deny\n\n{line}\n").as_bytes()).expect(100);
        let mut said = ran.stderr.lines();
        assert_eq!(said.next(), Some(&*format!("tcprules: fatal: unable to parse this line: {line}")));
        let place = said.next().unwrap();
        assert!(place.starts_with("tcprules: fatal: line 3; allowed: "), "{place}");
        assert_eq!(fs::read(&cdb).unwrap(), before, "{line}");
    }
    let nowhere = dir.path().join("missing/tmp");
    let ran = fed(&program("tcprules"), &[&cdb, &nowhere], b":deny\n").expect(111);
    assert!(ran.stderr.starts_with("tcprules: fatal: unable to create "), "{}", ran.stderr);
    assert_eq!(fs::read(&cdb).unwrap(), before);
}

#[test]
fn who_reads_meanwhile_reads_the_old_or_the_new_database() {
    let (dir, program) = classic();
    let [cdb, tmp] = ["cdb", "tmp"].map(|name| dir.path().join(name));
    let compile = |address: &str| {
        let rules: String = (0..5000).map(|n| format!("{address}.{}.{}:deny\n", n / 250, n % 250)).collect();
        fed(&program("tcprules"), &[&cdb, &tmp], rules.as_bytes()).expect(0);
    };
    let databases = ["10.0", "10.1"].map(|address| {
        compile(address);
        fs::read(&cdb).unwrap()
    });
    assert_ne!(databases[0], databases[1]);
    let (done, seen) = (std::sync::atomic::AtomicBool::new(false), std::sync::Mutex::new([0_u32; 2]));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                let read = fs::read(&cdb).unwrap();
                let which = databases.iter().position(|database| *database == read);
                seen.lock().unwrap()[which.expect("a database that is neither the old nor the new one")] += 1;
            }
        });
        for n in 0..30 {
            compile(["10.0", "10.1"][n % 2]);
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    let seen = *seen.lock().unwrap();
    assert!(seen[0] > 0 && seen[1] > 0, "the reader saw {seen:?}");
}

#[test]
fn newmrh_and_qmailctl_cdb_compile() {
    let setup = Setup::new();
    setup.write();
    fs::write(setup.home().join("control/morercpthosts"), "More.test\n").unwrap();
    setup.run(&["qmail-newmrh"]).expect(0);
    let more = Cdb::new(fs::read(setup.home().join("control/morercpthosts.cdb")).unwrap()).unwrap();
    assert_eq!(more.get(b"more.test"), Some(&b""[..]));
    let source = setup.home().join("tcp.smtp");
    fs::write(&source, "192.0.2.:deny\n").unwrap();
    let ran = setup.run(&["qmailctl", "cdb"]).expect(0);
    assert_eq!(ran.stdout, format!("Reloaded {}.\n", source.display()));
    let compiled = || fs::read(setup.home().join("tcp.smtp.cdb")).unwrap();
    let before = compiled();
    assert_eq!(Cdb::new(&before).unwrap().get(b"192.0.2."), Some(&b"D\0"[..]));
    fs::write(&source, "192.0.2.:Deny\n").unwrap();
    let ran = setup.run(&["qmailctl", "cdb"]).expect(100);
    assert!(ran.stdout.is_empty() && ran.stderr.contains("192.0.2.:Deny"), "{ran:#?}");
    assert_eq!(compiled(), before);
}

#[test]
fn qmailctl_steers_the_host() {
    let host = Host::start();
    let up = |service: &str, up: bool| {
        wait_until(&format!("{service} {up}"), mailtree_tests::host::PATIENCE, || host.is_up(service) == up);
    };
    assert_eq!(host.ask(&["qmailctl", "stop"]), "Stopping qmail...\n  qmail-smtpd\n  qmail-send\n");
    up("smtpd", false);
    up("send", false);
    let said = host.ask(&["qmailctl", "stat"]);
    let lines: Vec<_> = said.lines().collect();
    for (n, start) in [
        (0, "/service/qmail-send: down "),
        (1, "/service/qmail-send/log: up (pid "),
        (2, "/service/qmail-smtpd: down "),
        (3, "/service/qmail-smtpd/log: up (pid "),
        (4, "messages in queue: 0"),
        (5, "messages in queue but not yet preprocessed: 0"),
    ] {
        assert!(lines[n].starts_with(start), "{said}");
    }
    assert_eq!(host.ask(&["qmailctl", "start"]), "Starting qmail\n");
    up("smtpd", true);
    up("send", true);
    assert_eq!(host.ask(&["qmailctl", "pause"]), "Pausing qmail-send\nPausing qmail-smtpd\n");
    assert!(host.ask(&["svstat", "smtpd"]).contains(", paused"));
    assert_eq!(host.ask(&["qmailctl", "cont"]), "Continuing qmail-send\nContinuing qmail-smtpd\n");
    assert!(!host.ask(&["svstat", "send"]).contains("paused"));
    for name in ["doqueue", "alrm", "flush"] {
        assert_eq!(host.ask(&["qmailctl", name]), "Sending ALRM signal to qmail-send.\n");
    }
    for name in ["reload", "hup"] {
        assert_eq!(host.ask(&["qmailctl", name]), "Sending HUP signal to qmail-send.\n");
    }
    assert_eq!(
        host.ask(&["qmailctl", "restart"]),
        "Restarting qmail:\n* Stopping qmail-smtpd.\n* Sending qmail-send SIGTERM and restarting.\n\
         * Restarting qmail-smtpd.\n"
    );
    up("smtpd", true);
    up("send", true);
    assert!(host.ask(&["qmailctl", "queue"]).starts_with("messages in queue: 0\n"));
    assert!(host.ask(&["qmailctl", "help"]).contains("cdb -- "));
    for wrong in [&["qmailctl"][..], &["qmailctl", "explode"]] {
        let ran = host.run(wrong).expect(1);
        let usage =
            "Usage: qmailctl {start|stop|restart|doqueue|flush|reload|stat|pause|cont|cdb|queue|help}\n";
        assert_eq!(ran.stdout, usage);
    }
}

mod needs_ucspi {
    use mailtree_protocols::tcprules::{Client, compile, lookup, parse, tcprulescheck};
    use mailtree_tests::chance::Chance;

    use super::*;

    const HOSTS: [&str; 6] = ["a.example", "b.a.example", "example", "a-b.test", ".x", "mail.test"];
    const INFOS: [&str; 3] = ["joe", "a-b", ""];

    /// An address near those of the others, so that rules hit.
    fn ip(chance: &mut Chance) -> String {
        let octet = |chance: &mut Chance| chance.pick(&[0, 1, 2, 9, 10, 127, 254, 255]).to_string();
        [10.to_string(), octet(chance), octet(chance), octet(chance)].join(".")
    }

    /// Everything that 0.88 knows; of addresses with a colon and networks it knows nothing.
    fn address(chance: &mut Chance) -> String {
        let ip = ip(chance);
        let octets: Vec<&str> = ip.split('.').collect();
        let host = *chance.pick(&HOSTS);
        let info = *chance.pick(&INFOS);
        let (low, high) = (chance.between(0, 260), chance.between(0, 300));
        match chance.between(0, 12) {
            0 | 1 => ip,
            2 | 3 => octets[..chance.between(1, 4) as usize].join(".") + ".",
            4 => format!("{info}@{ip}"),
            5 => format!("{info}@={host}"),
            6 => format!("={host}"),
            7 => format!("=.{}", host.split_once('.').map_or(host, |(_, rest)| rest)),
            8 => (*chance.pick(&["=", "", "=.", "@", "user@1.2.3.", "..", "10"])).to_owned(),
            9 => format!("{}.{}.{low}-{high}.", octets[0], octets[1]),
            10 => format!("{}.{}.{}.{low}-{high}", octets[0], octets[1], octets[2]),
            _ => format!("{}.{low}-{high}.{}.", octets[0], octets[2]),
        }
    }

    fn instructions(chance: &mut Chance) -> String {
        let mut text = (*chance.pick(&["allow", "deny"])).to_owned();
        for _ in 0..chance.between(0, 4) {
            let name = *chance.pick(&["RELAYCLIENT", "A", "B", "A,B", "", "RBLSMTPD"]);
            let value = *chance.pick(&["", "x", "-text, with: a colon", "a=b", "\u{fc}", ":allow", "%d"]);
            let quote = *chance.pick(&['"', '/', '\'', '|', '~', 'q']);
            text.push_str(&format!(",{name}={quote}{value}{quote}"));
        }
        text + *chance.pick(&["", "", " ", "\t "])
    }

    fn rules(chance: &mut Chance) -> String {
        let mut text = String::new();
        for _ in 0..chance.between(0, 12) {
            match chance.between(0, 12) {
                0 => text.push_str(chance.pick::<&str>(&["# comment: deny\n", "\n", "no colon\n", " \t\n"])),
                _ => text.push_str(&format!("{}:{}\n", address(chance), instructions(chance))),
            }
        }
        // The last line may have no newline.
        if chance.between(0, 4) == 0 { text.trim_end_matches('\n').to_owned() } else { text }
    }

    /// What both say of one client, in the words of tcprulescheck; the words.
    fn same_verdict(chance: &mut Chance, cdb: &Path, bytes: &[u8], text: &str) -> String {
        let ip = ip(chance);
        let some = chance.between(0, 3) > 0;
        let host = some.then(|| *chance.pick(&HOSTS));
        let some = chance.between(0, 2) > 0;
        let info = some.then(|| *chance.pick(&INFOS));
        let mut theirs = Command::new("tcprulescheck");
        theirs.arg(cdb).env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("TCPREMOTEIP", &ip);
        host.map(|host| theirs.env("TCPREMOTEHOST", host));
        info.map(|info| theirs.env("TCPREMOTEINFO", info));
        let theirs = theirs.output().unwrap().stdout;
        let client =
            Client { info: info.map(str::as_bytes), ip: ip.parse().unwrap(), host: host.map(str::as_bytes) };
        let hit = lookup(&Cdb::new(bytes).unwrap(), &client).unwrap();
        let ours = tcprulescheck(hit.as_ref());
        assert_eq!(ours, theirs, "{client:?}\n{text}\n{}", String::from_utf8_lossy(&theirs));
        String::from_utf8_lossy(&ours).into_owned()
    }

    #[test]
    fn a_thousand_sets_of_rules_mean_the_same_to_both() {
        let mut chance = Chance::from_seed(77);
        let dir = tempfile::tempdir().unwrap();
        let [theirs, tmp, ours] = ["theirs", "tmp", "ours"].map(|name| dir.path().join(name));
        let (mut default, mut deny, mut sets) = (0, 0, 0);
        for _ in 0..1000 {
            let text = rules(&mut chance);
            fed(Path::new("tcprules"), &[&theirs, &tmp], text.as_bytes()).expect(0);
            let their_bytes = fs::read(&theirs).unwrap();
            let our_bytes = compile(&parse(text.as_bytes()).unwrap()).unwrap();
            assert!(our_bytes == their_bytes, "another database of\n{text}");
            fs::write(&ours, &our_bytes).unwrap();
            for _ in 0..4 {
                let said = same_verdict(&mut chance, &ours, &their_bytes, &text);
                default += u32::from(said.starts_with("default:"));
                deny += u32::from(said.ends_with("deny connection\n"));
                sets += u32::from(said.contains("set environment variable"));
            }
        }
        println!("of 4000 verdicts {default} by default, {deny} deny, {sets} set variables");
        assert!(default > 100 && deny > 100 && sets > 100, "the sets prove little");
    }

    #[test]
    fn lines_that_one_refuses_the_other_refuses() {
        let dir = tempfile::tempdir().unwrap();
        let [cdb, tmp] = ["cdb", "tmp"].map(|name| dir.path().join(name));
        let mut chance = Chance::from_seed(78);
        let mut refused = 0;
        for _ in 0..300 {
            // One byte of a good line is lost, doubled or another. Digits, colons and slashes stay as they are: they
            // could make an address that only one of the two knows.
            let mut line = format!("{}:{}", address(&mut chance), instructions(&mut chance)).into_bytes();
            let at = chance.between(0, line.len() as u64) as usize;
            match (line[at], chance.between(0, 3)) {
                (b':' | b'/' | b'0'..=b'9', _) => (),
                (_, 0) => drop(line.remove(at)),
                (byte, 1) => line.insert(at, byte),
                _ => line[at] = *chance.pick(b",=\"-.Dx@ "),
            }
            let theirs = fed(Path::new("tcprules"), &[&cdb, &tmp], &line);
            match parse(&line).and_then(|rules| compile(&rules)) {
                Ok(ours) => {
                    assert_eq!(
                        theirs.code,
                        Some(0),
                        "{:?}: {}",
                        String::from_utf8_lossy(&line),
                        theirs.stderr
                    );
                    assert!(fs::read(&cdb).unwrap() == ours, "{:?}", String::from_utf8_lossy(&line));
                }
                Err(error) => {
                    refused += 1;
                    assert_eq!(theirs.code, Some(100), "{:?}", String::from_utf8_lossy(&line));
                    let said = format!("tcprules: fatal: {}\n", error.to_string().lines().next().unwrap());
                    assert_eq!(theirs.stderr, said);
                }
            }
        }
        assert!(refused > 30, "only {refused} lines were bad");
    }

    #[test]
    fn networks_of_ipv4_are_understood_by_tcprulescheck() {
        let dir = tempfile::tempdir().unwrap();
        let cdb = dir.path().join("cdb");
        let rules = b"192.0.2.0/25:deny\n172.16.0.0/12:deny\n2001:db8::/33:deny\n:allow\n";
        fs::write(&cdb, compile(&parse(rules).unwrap()).unwrap()).unwrap();
        for (ip, said) in [
            ("192.0.2.127", "rule 192.0.2.127:\ndeny connection\n"),
            ("192.0.2.128", "rule :\nallow connection\n"),
            ("172.31.9.9", "rule 172.31.:\ndeny connection\n"),
            ("172.32.0.0", "rule :\nallow connection\n"),
        ] {
            let ran = Ran::new(Command::new("tcprulescheck").arg(&cdb).env("TCPREMOTEIP", ip)).expect(0);
            assert_eq!(ran.stdout, said, "{ip}");
        }
    }
}
