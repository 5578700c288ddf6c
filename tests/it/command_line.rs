//! The command line: pipes, help, one shape of JSON, what never reaches a terminal, and which home a command is for.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use mailtree_tests::dns::Dns;
use mailtree_tests::host::{ME, Ran, Setup, binary};

/// Runs a line of a shell; `mailtree` is the program, $MAILTREE_HOME the home.
fn sh(home: Option<&Path>, line: &str) -> Ran {
    let path = format!("{}:{}", binary().parent().unwrap().display(), std::env::var("PATH").unwrap());
    let mut command = Command::new("bash");
    command.args(["-c", line]).env("PATH", path).env_remove("MAILTREE_HOME");
    if let Some(home) = home {
        command.env("MAILTREE_HOME", home);
    }
    Ran::new(&mut command)
}

/// Every command of the program but those that stay in the foreground.
const COMMANDS: [&str; 42] = [
    "init",
    "adopt",
    "check",
    "explain",
    "svc",
    "svstat",
    "svok",
    "queue",
    "qmail-queue",
    "qmail-inject",
    "sendmail",
    "mailq",
    "newaliases",
    "datemail",
    "mailsubj",
    "qmail-qmqpc",
    "qmail-qmqpd",
    "qmail-qread",
    "qmail-qstat",
    "forward",
    "bouncesaying",
    "condredirect",
    "except",
    "preline",
    "predate",
    "qreceipt",
    "qbiff",
    "maildirmake",
    "maildir2mbox",
    "mbox2maildir",
    "qmail-newmrh",
    "qmail-newu",
    "qmail-pw2u",
    "qmailctl",
    "tcprules",
    "tcprulescheck",
    "vadddomain",
    "vadduser",
    "relocate",
    "links",
    "completions",
    "man",
];

#[test]
fn a_closed_pipe_ends_a_command_silently() {
    let setup = Setup::new();
    setup.write();
    for command in [
        "qmailctl stat",
        "qmailctl help",
        "qmail-qstat",
        "qmail-qread",
        "explain ip 192.0.2.1",
        "explain ip 192.0.2.1 --json",
        "explain rcpt bob@mx.test",
        "check",
        "check --json",
        "queue list --json",
        "links bin",
        "--help",
        "svc --help",
        "crash-points",
        "completions bash",
        "adopt --help",
    ] {
        // The reader has gone before the first byte, whatever the command is quick enough to write.
        let line = format!("cd $MAILTREE_HOME; {{ sleep 0.2; mailtree {command}; echo $? >&2; }} | true");
        let ran = sh(Some(setup.home()), &line);
        let last = ran.stderr.lines().last().unwrap_or_default().to_owned();
        assert!(
            !ran.stderr.contains("panicked") && !ran.stderr.contains("Broken pipe"),
            "{command}: {ran:#?}"
        );
        // A qread of nothing writes nothing.
        assert!(["141", "0"].contains(&&*last), "{command}: {ran:#?}");
        assert_eq!(last == "0", command == "qmail-qread", "{command}: {ran:#?}");
    }
    // The classic way; a disk that is full is said.
    let ran = sh(Some(setup.home()), "mailtree check | head -1").expect(0);
    assert!(ran.stdout.lines().count() == 1 && !ran.stderr.contains("panicked"), "{ran:#?}");
    let ran = sh(Some(setup.home()), "mailtree qmail-qstat > /dev/full").expect(111);
    assert_eq!(
        ran.stderr,
        "mailtree: fatal: unable to write to standard output: No space left on device (os error 28)\n"
    );
    let ran = sh(Some(setup.home()), "mailtree svok nonesuch 2>&- ; mailtree qmail-newmrh 2>&1 | true");
    assert!(!ran.stderr.contains("panicked"), "{ran:#?}");
}

#[test]
fn a_password_that_nobody_can_read_is_said() {
    let setup = Setup::new();
    setup.write();
    for command in ["vadduser -r carol@mx.test", "vadddomain -r far.test"] {
        let line = format!("{{ sleep 0.2; mailtree {command}; echo $? >&2; }} | true");
        let ran = sh(Some(setup.home()), &line);
        assert!(
            ran.stderr.contains("was added, but the password could not be written")
                && ran.stderr.ends_with("111\n"),
            "{ran:#?}"
        );
    }
    assert!(setup.home().join("domains").join(ME).join("carol/Maildir").is_dir());
}

#[test]
fn the_host_outlives_who_reads_it() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("home");
    // A first start prints a password and a greeting; nobody reads either.
    let line = "mailtree init --port-offset 21000 >/dev/null; { sleep 0.2; mailtree up & sleep 2; kill -0 $! && mailtree svok smtpd; \
                echo $? >$MAILTREE_HOME/said; kill $!; wait $!; echo $? >>$MAILTREE_HOME/said; } 2>&1 | true; cat $MAILTREE_HOME/said";
    let ran = sh(Some(&home), line);
    assert_eq!(ran.stdout, "0\n0\n", "{ran:#?}");
}

#[test]
fn every_command_has_help_in_one_form() {
    for command in COMMANDS {
        let ran = sh(None, &format!("mailtree {command} --help")).expect(0);
        let mut at = 0;
        let parts = ["Usage: ", "EXAMPLES\n  ", "EXIT CODES\n  0 ", "  100 ", "  111 "];
        // What stands where qmail-queue does has its codes.
        let own = matches!(command, "qmail-queue" | "qmail-qmqpc");
        for part in &parts[..if own { 3 } else { 5 }] {
            let found = ran.stdout[at..].find(part);
            at += found.unwrap_or_else(|| panic!("{command}: {part} is missing: {}", ran.stdout));
        }
        assert!(!ran.stdout.contains("<--home") && !ran.stdout.contains("--home <DIR> <"), "{}", ran.stdout);
    }
    // MAILTREE_HOME does not make --home look mandatory.
    let ran = sh(Some(Path::new("/nowhere")), "mailtree vadduser").expect(100);
    assert!(
        ran.stderr.contains("Usage: mailtree vadduser [OPTIONS] <ADDRESS>")
            || ran.stderr.contains("Usage: mailtree vadduser <ADDRESS>"),
        "{ran:#?}"
    );
    for (line, said) in [
        ("svok", "svok: usage: svok service\n"),
        ("tcprules", "tcprules: usage: tcprules rules.cdb rules.tmp\n"),
        ("tcprules -z", "tcprules: usage: tcprules rules.cdb rules.tmp\n"),
        ("tcprulescheck", "tcprulescheck: usage: tcprulescheck rules.cdb\n"),
        (
            "svc -z smtpd",
            "svc options: u up, d down, o once, x exit, p pause, c continue, h hup, a alarm, i interrupt, t term, k kill\n",
        ),
    ] {
        let ran = sh(None, &format!("mailtree {line}")).expect(100);
        assert_eq!((ran.stderr.as_str(), ran.stdout.as_str()), (said, ""), "{line}");
    }
}

#[test]
fn check_ends_with_its_verdict() {
    let setup = Setup::new();
    setup.write();
    let ran = setup.run(&["check"]).expect(0);
    assert!(ran.stdout.lines().last().unwrap().starts_with("check: "), "{}", ran.stdout);
    let changed = setup.run(&["check", "--changed"]).expect(0).stdout;
    assert!(changed.contains("control/me = mx.test") && !changed.contains("(default"), "{changed}");
    assert!(changed.lines().count() < ran.stdout.lines().count() / 2);
    let setup = setup.control("databytes", "much\n").control("timeoutremote", "-1\n");
    let both = sh(Some(setup.home()), "mailtree check --changed 2>&1").expect(100).stdout;
    let lines: Vec<_> = both.lines().rev().take(3).collect();
    assert!(lines[0].starts_with("check: 2 errors"), "{both}");
    assert!(lines[1..].iter().all(|line| line.starts_with("mailtree check: fatal: ")), "{both}");
}

#[test]
fn explain_knows_what_the_sender_would_hear() {
    let dns = Dns::start();
    dns.txt("strict.test", "v=spf1 ip4:192.0.2.7 -all");
    let setup = Setup::new()
        .resolver(dns.address())
        .control("spfbehavior", "3\n")
        .control("badmailfrom", "spammer@far.test\n@bad.test\n")
        .rules("127.:allow,RELAYCLIENT=\"\"\n:allow,COLOUR=\"red\"\n");
    let said = |args: &[&str]| setup.run(&[&["explain"][..], args].concat()).expect(0).stdout;
    for (args, expected) in [
        (
            &["ip", "192.0.2.1", "--from", "x@bad.test"][..],
            "badmailfrom line @bad.test: 553 sorry, your envelope sender is in my badmailfrom list",
        ),
        (&["ip", "192.0.2.7", "--from", "a@strict.test"], "spf         pass (behavior 3)\n"),
        (&["ip", "192.0.2.8", "--from", "<a@strict.test>"], "spf         fail (behavior 3): 550 "),
        (
            &["ip", "192.0.2.8", "--from", "a@strict.test"],
            "verdict     mail from this sender is answered 550 ",
        ),
        (
            &["rcpt", "bob@mx.test", "--from", "spammer@far.test"],
            "verdict     553 sorry, your envelope sender",
        ),
        (&["rcpt", "bob@mx.test", "--ip", "192.0.2.7", "--from", "a@strict.test"], "verdict     250 ok"),
        (&["ip", "127.0.0.1", "--from", "a@strict.test"], "spf         not checked: the client may relay"),
    ] {
        let said = said(args);
        assert!(said.contains(expected), "{args:?}: {expected}\nis not in\n{said}");
    }
    let json = setup.run(&["explain", "ip", "192.0.2.8", "--from", "a@strict.test", "--json"]).json();
    assert_eq!((json["service"].as_str(), json["client"].as_str()), (Some("smtpd"), Some("192.0.2.8")));
    assert_eq!(json["variables"]["COLOUR"], "red");
    for key in ["name", "rule", "rblsmtpd", "from", "badmailfrom", "chkuserfrom", "spf", "verdict"] {
        assert!(json[key].is_string(), "{key}: {json}");
    }
}

#[test]
fn what_steers_a_terminal_is_never_printed() {
    let setup = Setup::new()
        .control("helohost", "mx\u{1b}[2J\u{9b}\u{202e}.test\n")
        .rules(":allow,COLOUR=\"\u{1b}]0;x\u{7}\u{2066}\u{200f}\"\n");
    let bad = |text: &str| {
        text.chars().any(|c| c != '\n' && (c.is_control() || ('\u{200e}'..='\u{2069}').contains(&c)))
    };
    for args in [
        &["check"][..],
        &["check", "--json"],
        &["explain", "ip", "192.0.2.1"],
        &["explain", "ip", "192.0.2.1", "--json", "--from", "a\u{1b}[1m\u{85}@b"],
        &["explain", "rcpt", "bob\u{9b}\u{202e}@mx.test"],
        &["vadduser", "a\u{1b}\u{2028}@x", "y"],
    ] {
        let ran = setup.run(args);
        assert!(!bad(&ran.stdout) && !bad(&ran.stderr), "{args:?}: {ran:#?}");
    }
    let json = setup.run(&["explain", "ip", "192.0.2.1", "--json"]).json();
    assert_eq!(json["variables"]["COLOUR"], "\u{1b}]0;x\u{7}\u{2066}\u{200f}");
}

#[test]
fn queue_json_has_times_as_rfc_3339_says() {
    let host = Setup::new().start();
    host.ask(&["svc", "-p", "send"]);
    mailtree_tests::wait::wait_until("paused", mailtree_tests::host::PATIENCE, || {
        host.ask(&["svstat", "send"]).ends_with(", paused\n")
    });
    host.send("sender@mx.test", &["bob@mx.test"], &mailtree_tests::letter::letter("held", 300));
    let json = host.run(&["queue", "list", "--json"]).json();
    let birth = json[0]["birth"].as_str().unwrap_or_else(|| panic!("{json}"));
    assert!(birth.len() == 20 && birth.ends_with('Z') && birth.contains('T'), "{birth}");
    assert!(json[0]["id"].is_u64() && json[0]["bytes"].is_u64(), "{json}");
    // Of nothing there is nothing to say but the reason.
    let ran = host.run(&["queue", "remove", "1"]).expect(100);
    assert_eq!(ran.stdout, "");
    assert!(ran.stderr.contains("not among the preprocessed messages: 1"), "{}", ran.stderr);
}

#[test]
fn links_remember_the_home() {
    let setup = Setup::new();
    setup.write();
    let dir = tempfile::tempdir().unwrap();
    let bin = dir.path().join("bin");
    let home = fs::canonicalize(setup.home()).unwrap();
    setup.run(&["links", bin.to_str().unwrap()]).expect(0);
    assert_eq!(fs::read_to_string(bin.join(".mailtree-home")).unwrap(), format!("{}\n", home.display()));
    // By path and by $PATH, from anywhere.
    for line in [
        format!("cd / && {}/qmail-qstat", bin.display()),
        format!("cd / && PATH={}:$PATH qmail-qstat", bin.display()),
        format!("cd {} && ./qmail-qstat", bin.display()),
    ] {
        let ran = sh(None, &line).expect(0);
        assert_eq!(ran.stdout, "messages in queue: 0\nmessages in queue but not yet preprocessed: 0\n");
    }
    // $MAILTREE_HOME and --home come before; errors say what named the home.
    let ran = sh(Some(Path::new("/nowhere")), &format!("{}/qmail-qstat", bin.display())).expect(100);
    assert!(
        ran.stderr.ends_with("there is no host.ron in the home /nowhere: $MAILTREE_HOME names it\n"),
        "{ran:#?}"
    );
    let ran = sh(None, &format!("{}/qmail-qstat --home /else", bin.display())).expect(100);
    assert!(ran.stderr.ends_with("the home /else: --home names it\n"), "{ran:#?}");
    fs::write(bin.join(".mailtree-home"), "/gone\n").unwrap();
    let ran = sh(None, &format!("{}/qmail-qstat", bin.display())).expect(100);
    let expected = format!("the home /gone: {}/.mailtree-home names it\n", bin.display());
    assert!(ran.stderr.ends_with(&expected), "{ran:#?}");
    fs::write(bin.join(".mailtree-home"), "relative\n").unwrap();
    let ran = sh(None, &format!("{}/qmail-qstat", bin.display())).expect(100);
    assert!(ran.stderr.contains(".mailtree-home:1: relative; allowed: the home's absolute path"), "{ran:#?}");
}

#[test]
fn what_is_typed_wrong_does_not_steer_the_terminal() {
    let ran = sh(None, "mailtree queue show $'1\\u202e\\u009b\\u2028'");
    assert_eq!(ran.code, Some(100));
    assert!(ran.stderr.contains(r"1\u{202e}\u{9b}\u{2028}"), "{ran:#?}");
    assert!(!ran.stderr.chars().any(|c| c != '\n' && mailtree_protocols::visible::steers(c)), "{ran:#?}");
}

#[test]
fn bash_takes_the_completions() {
    let ran = sh(None, "mailtree completions bash | bash -n").expect(0);
    assert_eq!(ran.stderr, "");
    let line = "source <(mailtree completions bash); complete -p svstat tcprules mailtree >/dev/null || exit; \
                COMP_WORDS=(mailtree qmail-q); COMP_CWORD=1; _mailtree mailtree qmail-q mailtree; echo ${COMPREPLY[@]}; \
                COMP_WORDS=(vadduser --h); COMP_CWORD=1; _vadduser vadduser --h vadduser; echo ${COMPREPLY[@]}";
    assert_eq!(
        sh(None, line).expect(0).stdout,
        "qmail-queue qmail-qmqpc qmail-qmqpd qmail-qread qmail-qstat\n--home --help\n"
    );
    assert!(sh(None, "mailtree completions fish").expect(0).stdout.contains("complete -c svstat"));
}

#[test]
fn a_password_is_asked_for_on_a_terminal_and_not_shown() {
    let setup = Setup::new();
    setup.write();
    let ask = |user: &str, typed: &str| {
        let mut child = Command::new("script")
            .args(["-qec", &format!("{} vadduser {user}@mx.test", binary().display()), "/dev/null"])
            .env("MAILTREE_HOME", setup.home())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        for line in typed.lines() {
            // What is typed before echo is off would be shown by the terminal itself.
            mailtree_tests::wait::tick(std::time::Duration::from_millis(500));
            std::io::Write::write_all(&mut stdin, format!("{line}\n").as_bytes()).unwrap();
        }
        let output = child.wait_with_output().unwrap();
        drop(stdin);
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (code, said) = ask("dora", "hunter22\nhunter22\n");
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("password") && !said.contains("hunter22"), "{said}");
    assert!(setup.home().join("domains").join(ME).join("dora").is_dir());
    let (code, said) = ask("emil", "hunter22\nhunter23\n");
    assert_eq!(code, Some(100), "{said}");
    assert!(said.contains("the passwords are not the same"), "{said}");
    assert!(!setup.home().join("domains").join(ME).join("emil").exists());
}

mod needs_zsh {
    use super::*;

    /// A zsh on a terminal of its own, in which somebody types a part of a word and Tab.
    #[test]
    fn zsh_takes_the_completions() {
        let typed = r#"
            zmodload zsh/zpty
            comes() {
                zpty tab zsh -f -i
                zpty -w tab "PS1=; autoload -Uz compinit; compinit -u -D; source <(mailtree completions zsh); print REA''DY"
                zpty -r -m tab out '*READY*'
                zpty -w -n tab "$1"$'\t'
                zpty -r -m tab out "*$2*"
                zpty -d tab
            }
            comes 'mailtree complet' 'mailtree completions'
            comes 'svstat --js' 'svstat --json'
            comes 'mailtree qmailctl doq' 'qmailctl doqueue'
        "#;
        let script = tempfile::NamedTempFile::new().unwrap();
        fs::write(script.path(), typed).unwrap();
        sh(None, &format!("timeout 30 zsh -f {}", script.path().display())).expect(0);
    }
}

mod needs_man {
    use super::*;

    #[test]
    fn every_command_has_a_page() {
        let dir = tempfile::tempdir().unwrap();
        let pages = dir.path().join("man1");
        sh(None, &format!("mailtree man {}", pages.display())).expect(0);
        for page in [
            "mailtree-check",
            "mailtree-queue-list",
            "mailtree-explain-rcpt",
            "svc",
            "qmail-qread",
            "vadduser",
        ] {
            let page = pages.join(format!("{page}.1"));
            let ran = sh(None, &format!("LC_ALL=C.UTF-8 man -l {}", page.display())).expect(0);
            assert!(
                ran.stdout.contains("SYNOPSIS") && ran.stdout.contains("EXAMPLES") && ran.stderr.is_empty(),
                "{}: {ran:#?}",
                page.display()
            );
        }
    }
}

mod needs_root {
    use super::*;

    #[test]
    fn the_system_names_a_home() {
        let setup = Setup::new();
        setup.write();
        // A private /etc: nobody else sees the file.
        let line = format!(
            "unshare -m bash -c 'mount -t tmpfs none /etc && mkdir /etc/mailtree && echo {} >/etc/mailtree/home && cd / && mailtree qmail-qstat; \
             echo /gone >/etc/mailtree/home; mailtree qmail-qstat; echo $? >&2; rm /etc/mailtree/home; cd /etc; mailtree qmail-qstat; echo $? >&2'",
            setup.home().display()
        );
        let ran = sh(None, &line).expect(0);
        assert!(ran.stdout.starts_with("messages in queue: 0\n"), "{ran:#?}");
        assert!(ran.stderr.contains("the home /gone: /etc/mailtree/home names it\n100\n"), "{ran:#?}");
        assert!(
            ran.stderr
                .contains("the home ./mailtree-home: the default, since neither --home nor $MAILTREE_HOME"),
            "{ran:#?}"
        );
    }
}

#[test]
fn no_command_waits_for_a_pipe_in_the_place_of_a_file() {
    for file in [
        "host.ron",
        "control/me",
        "control/smtproutes",
        "tcp.smtp",
        "tcp.smtp.cdb",
        "users/assign",
        "users/cdb",
        "domains/mx.test/vpasswd",
        "domains/mx.test/vpasswd.cdb",
        "queue/lock/sendmutex",
        "queue/lock/tcpto",
        "run/lock",
        "control/simversions.cdb",
        "control/servercert.pem",
    ] {
        let setup = Setup::new();
        setup.write();
        let path = setup.home().join(file);
        fs::remove_file(&path).unwrap_or(());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)
            .unwrap();
        let ended = |command: &str| {
            // `timeout` ends with 124.
            let ran = sh(Some(setup.home()), &format!("timeout 20 mailtree {command}"));
            assert_ne!(ran.code, Some(124), "{file}: {command}: {ran:#?}");
            ran
        };
        let ran = ended("check");
        if !["run/lock", "control/simversions.cdb"].contains(&file) {
            assert!(ran.code != Some(0), "{file}: {ran:#?}");
            let said =
                ran.stderr.lines().any(|line| line.contains(file) && line.contains("not a regular file"));
            assert!(said, "{file}: {ran:#?}");
        }
        for command in
            ["vadduser carol@mx.test password", "qmailctl cdb", "explain rcpt bob@mx.test", "queue list"]
        {
            ended(command);
        }
        if ["host.ron", "control/me", "control/smtproutes", "queue/lock/sendmutex", "run/lock"]
            .contains(&file)
        {
            let ran = ended("up");
            assert!(ran.stderr.contains("not a regular file"), "{file}: {ran:#?}");
        }
    }
}

#[test]
fn check_tries_the_domains_of_spfrules_and_spfguess() {
    let dns = Dns::start();
    dns.txt("good.test", "v=spf1 include:inner.test -all")
        .txt("inner.test", "v=spf1 ip4:198.51.100.0/24 -all");
    dns.txt("broken.test", "v=spf1 include:nowhere.test -all").txt("textual.test", "nothing of the kind");
    dns.fail("silent.test");
    let setup = Setup::new()
        .resolver(dns.address())
        .control(
            "spfrules",
            "include:good.test include:gone.test include:broken.test include:%{d}.never.test\n",
        )
        .control("spfguess", "v=spf1 include:textual.test redirect=silent.test\n");
    setup.write();
    let ran = setup.run(&["check"]).expect(0);
    assert!(ran.stdout.contains("\ncontrol/spfrules: good.test works\n"), "{ran:#?}");
    for warning in [
        "spfrules: gone.test has no SPF record: senders become permerror",
        "spfrules: broken.test has a bad SPF record: senders become permerror: ",
        "spfguess: textual.test has no SPF record: senders become permerror",
        "spfguess: silent.test does not answer now",
    ] {
        let line = format!("mailtree check: warning: control/{warning}");
        assert!(ran.stderr.lines().any(|said| said.starts_with(&line)), "{line}: {ran:#?}");
    }
    assert!(!ran.stderr.contains("never.test"), "{ran:#?}");
}

#[test]
fn check_warns_of_a_relay_by_percenthack() {
    let setup = Setup::new()
        .control("rcpthosts", "mx.test\n.deep.test\n")
        .control("percenthack", "mx.test\na.deep.test\nother.test\n");
    setup.write();
    let ran = setup.run(&["check"]).expect(0);
    for domain in ["mx.test", "a.deep.test"] {
        let line = format!(
            "/control/percenthack: {domain} is in rcpthosts, too: anybody may relay through user%anywhere@{domain}\n"
        );
        assert!(ran.stderr.contains(&line), "{ran:#?}");
    }
    assert!(!ran.stderr.contains("other.test"), "{ran:#?}");
}

#[test]
fn check_says_where_the_host_may_not_listen() {
    let setup = Setup::new().smtpd("per_ip: 3");
    setup.write();
    // An address for documentation (RFC 5737), which no interface has.
    let ron = fs::read_to_string(setup.home().join("host.ron")).unwrap();
    let elsewhere = ron.replacen("127.0.0.1:0", "192.0.2.1:0", 1);
    fs::write(setup.home().join("host.ron"), &elsewhere).unwrap();
    let ran = setup.run(&["check"]).expect(0);
    let line = "warning: services.smtpd.listen: unable to bind 192.0.2.1:0: Cannot assign requested address (os error 99); no \
                interface of this machine has the address";
    assert!(ran.stderr.contains(line), "{ran:#?}");
    fs::write(setup.home().join("host.ron"), ron.replacen("127.0.0.1:0", "127.0.0.1:1", 1)).unwrap();
    // The same process without the right: `setpriv` takes it away, from root too.
    let low = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
    if low.trim().parse::<u32>().unwrap() > 1 {
        let line = "setpriv --bounding-set -net_bind_service --inh-caps -net_bind_service mailtree check";
        let ran = sh(Some(setup.home()), line);
        let warning = "warning: services.smtpd.listen: unable to bind 127.0.0.1:1: Permission denied (os error 13); a port below \
                       1024 needs root or CAP_NET_BIND_SERVICE; or listen on one above 1023";
        assert!(ran.stderr.contains(warning), "{ran:#?}");
    }
}

#[test]
fn a_password_typed_at_a_terminal_has_eight_characters() {
    let setup = Setup::new();
    setup.write();
    let typed = |user: &str, password: &str| {
        let line = format!(
            "printf '{password}\\n{password}\\n' | script -qec 'mailtree vadduser {user}@mx.test' /dev/null"
        );
        sh(Some(setup.home()), &line)
    };
    let ran = typed("carol", "seven77");
    assert!(ran.stdout.contains("soon guessed; allowed: 8 characters or more"), "{ran:#?}");
    assert!(!setup.home().join("domains/mx.test/carol").exists());
    let ran = typed("carol", "eight888");
    assert!(setup.home().join("domains/mx.test/carol").exists(), "{ran:#?}");
    // What a script says is obeyed, as vpopmail does, and remarked on.
    let ran = setup.run(&["vadduser", "dora@mx.test", "short"]).expect(0);
    assert_eq!(ran.stderr, "warning: a password of fewer than 8 characters is soon guessed\n");
}

#[test]
fn a_length_behind_r_is_never_a_domain() {
    let setup = Setup::new();
    setup.write();
    let ran = setup.run(&["vadddomain", "-r", "40", "long3.example"]).expect(0);
    assert_eq!(ran.stdout.trim_end().rsplit(' ').next().unwrap().len(), 40, "{ran:#?}");
    assert!(setup.home().join("domains/long3.example").is_dir());
    let ran = setup.run(&["vadddomain", "40", "secret-of-the-test"]).expect(100);
    assert_eq!(ran.stderr, "Error: Invalid domain name\n");
}
