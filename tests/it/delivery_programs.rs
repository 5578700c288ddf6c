//! The programs for lines of `.qmail` files: run with an environment as qmail-local gives it, and what they print, how they end,
//! and what came to a QMAILQUEUE program.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use mailtree_tests::host::{Host, PATIENCE, Ran, Setup};
use mailtree_tests::local::Local;
use mailtree_tests::wait::wait_until;

/// The environment of a delivery.
const ENVIRONMENT: &str = "export SENDER='a b@x.test' NEWSENDER=owner-l@mx.test USER=bob LOCAL=bob HOST=mx.test \
    DTLINE='Delivered-To: bob@mx.test\n' RPLINE='Return-Path: <a b@x.test>\n' UFLINE='From a-b@x.test Sat Nov 28 14:05:21 2026\n'; ";

/// The links, and a QMAILQUEUE program that writes what it gets, and ends as `$QQ` says.
struct Programs {
    _setup: Setup,
    local: Local,
}

impl Programs {
    fn new() -> Self {
        let setup = Setup::new();
        setup.write();
        let local = Local::before(&setup);
        // As qmail-queue it takes no envelope without an end.
        let script = "#!/bin/sh\ncat >\"$OUT/m.$$\"; cat <&1 >\"$OUT/e.$$\"; \
            case \"$(tail -c 2 \"$OUT/e.$$\" | od -An -tx1)\" in ' 00 00') ;; *) exit 54 ;; esac; \
            [ -n \"$QQ_TEXT\" ] && echo \"$QQ_TEXT\" >&4; \
            mv \"$OUT/m.$$\" \"$OUT/message\"; tr '\\0' '\\n' <\"$OUT/e.$$\" >\"$OUT/envelope\"; exit ${QQ:-0}\n";
        let queue = local.write("qq", script);
        fs::set_permissions(queue, fs::Permissions::from_mode(0o755)).unwrap();
        Self { _setup: setup, local }
    }

    /// Runs a line with the environment and a message in a file, as qmail-local gives it.
    fn run(&self, line: &str, message: &str) -> Ran {
        self.local.write("m", message);
        let out = self.local.file("");
        let out = out.display();
        self.local.run(&format!("{ENVIRONMENT} export OUT={out} QMAILQUEUE={out}/qq; {{ {line}; }} <m"), "")
    }

    /// The message and the envelope, if something was queued since the last time.
    fn queued(&self) -> Option<(String, String)> {
        let take = |name: &str| {
            let text = fs::read_to_string(self.local.file(name)).ok()?;
            fs::remove_file(self.local.file(name)).unwrap();
            Some(text)
        };
        Some((take("message")?, take("envelope")?))
    }
}

const MESSAGE: &str = "Subject: x\n\nbody\n";

#[test]
fn what_each_program_says_and_how_it_ends() {
    let programs = Programs::new();
    // (line, exit code, standard output, standard error)
    for (line, code, stdout, stderr) in [
        ("bouncesaying", 100, "", "bouncesaying: usage: bouncesaying error [ program [ arg ... ] ]\n"),
        ("bouncesaying 'No such list. (#5.1.1)'", 100, "", "No such list. (#5.1.1)\n"),
        ("bouncesaying no grep -q ^body", 100, "", "no\n"),
        ("bouncesaying no grep -q ^nobody", 0, "", ""),
        ("bouncesaying no sh -c 'exit 100'", 0, "", ""),
        ("bouncesaying no sh -c 'exit 111'", 111, "", "bouncesaying: fatal: temporary child error\n"),
        ("bouncesaying no sh -c 'kill -9 $$'", 111, "", "bouncesaying: fatal: child crashed\n"),
        ("bouncesaying no nonesuch", 0, "", ""),
        ("except", 100, "", "except: usage: except program [ arg ... ]\n"),
        ("except true", 100, "", ""),
        ("except false", 0, "", ""),
        ("except sh -c 'exit 99'", 0, "", ""),
        ("except sh -c 'exit 111'", 111, "", "except: fatal: temporary child error\n"),
        ("except sh -c 'kill $$'", 111, "", "except: fatal: child crashed\n"),
        ("except nonesuch", 0, "", ""),
        ("condredirect", 100, "", "condredirect: usage: condredirect newaddress program [ arg ... ]\n"),
        ("condredirect c@y", 100, "", "condredirect: usage: condredirect newaddress program [ arg ... ]\n"),
        ("condredirect c@y false", 0, "", ""),
        ("condredirect c@y nonesuch", 0, "", ""),
        ("condredirect c@y sh -c 'exit 111'", 111, "", "condredirect: fatal: temporary child error\n"),
        ("unset SENDER; condredirect c@y true", 100, "", "condredirect: fatal: SENDER not set\n"),
        ("unset DTLINE; condredirect c@y true", 100, "", "condredirect: fatal: DTLINE not set\n"),
        (
            "cat m | condredirect c@y true",
            111,
            "",
            "condredirect: fatal: unable to rewind: unseekable descriptor\n",
        ),
        ("unset NEWSENDER; forward c@y", 100, "", "forward: fatal: NEWSENDER not set\n"),
        ("unset DTLINE; forward c@y", 100, "", "forward: fatal: DTLINE not set\n"),
        ("forward c@y </", 111, "", "forward: fatal: unable to read message: is a directory\n"),
        ("preline", 100, "", "preline: usage: preline cmd [ arg ... ]\n"),
        ("unset UFLINE; preline cat", 100, "", "preline: usage: preline cmd [ arg ... ]\n"),
        (
            "preline -x cat",
            100,
            "",
            "preline: illegal option -- x\npreline: usage: preline cmd [ arg ... ]\n",
        ),
        ("preline sh -c 'cat >/dev/null; exit 99'", 99, "", ""),
        ("preline sh -c 'cat >/dev/null; kill -9 $$'", 111, "", "preline: fatal: child crashed\n"),
        ("preline nonesuch", 100, "", "preline: fatal: unable to run nonesuch: file does not exist\n"),
        ("preline -frd cat", 0, MESSAGE, ""),
        ("preline -rdRf cat", 0, "Return-Path: <a b@x.test>\nSubject: x\n\nbody\n", ""),
        (
            "preline cat",
            0,
            "From a-b@x.test Sat Nov 28 14:05:21 2026\nReturn-Path: <a b@x.test>\nDelivered-To: bob@mx.test\n\
             Subject: x\n\nbody\n",
            "",
        ),
        (
            "head -c 3000000 /dev/zero | preline true",
            111,
            "",
            "preline: fatal: unable to copy input: broken pipe\n",
        ),
        ("predate", 100, "", "predate: usage: predate child\n"),
        ("predate nonesuch", 111, "", "predate: fatal: unable to run nonesuch: file does not exist\n"),
        ("predate sh -c 'cat >/dev/null; exit 7'", 7, "", ""),
        ("head -c 3000000 /dev/zero | predate sh -c 'exit 7'", 7, "", ""),
        ("maildirmake", 100, "", "maildirmake: usage: maildirmake name\n"),
        ("maildirmake new", 0, "", ""),
        ("maildirmake new", 111, "", "maildirmake: fatal: unable to mkdir new: file already exists\n"),
        ("maildirmake no/new", 111, "", "maildirmake: fatal: unable to mkdir no/new: file does not exist\n"),
        ("qreceipt", 100, "", "qreceipt: usage: qreceipt deliveryaddress\n"),
        ("unset SENDER; qreceipt a@b", 100, "", "qreceipt: usage: qreceipt deliveryaddress\n"),
        ("qreceipt bob@mx.test", 0, "", ""),
        ("qreceipt bob@mx.test </", 111, "", "qreceipt: fatal: read error\n"),
        ("qbiff", 0, "", ""),
        ("maildir2mbox", 111, "", "maildir2mbox: fatal: MAIL not set\n"),
        ("MAIL=x maildir2mbox", 111, "", "maildir2mbox: fatal: MAILTMP not set\n"),
        ("MAIL=x MAILTMP=y maildir2mbox", 111, "", "maildir2mbox: fatal: MAILDIR not set\n"),
        ("mbox2maildir x", 100, "", "mbox2maildir: usage: mbox2maildir mbox maildir\n"),
        ("qmail-pw2u -y", 100, "", "qmail-pw2u: illegal option -- y\n"),
        ("qmail-pw2u", 111, "", "qmail-pw2u: fatal: unable to find alias user\n"),
    ] {
        let ran = programs.run(line, MESSAGE);
        assert_eq!((ran.code, &*ran.stdout, &*ran.stderr), (Some(code), stdout, stderr), "{line}");
        assert_eq!(programs.queued(), None, "{line}");
    }
    let mode = |name: &str| fs::metadata(programs.local.file(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(["new", "new/tmp", "new/new", "new/cur"].map(mode), [0o700; 4]);
    let dated = programs.run("TZ=UTC-2 predate cat", MESSAGE).expect(0).stdout;
    let date = dated.strip_suffix(MESSAGE).unwrap().strip_prefix("Date: ").unwrap();
    assert!(date.ends_with(" +0200\n") && date.split(' ').count() == 5, "{date}");
}

#[test]
fn what_comes_to_the_queue() {
    let programs = Programs::new();
    let ran = programs.run("forward c@y.test d@z.test", MESSAGE).expect(0);
    let qp = ran.stderr.strip_prefix("forward: qp ").and_then(|qp| qp.strip_suffix('\n')).unwrap();
    assert!(qp.parse::<u32>().unwrap() > 0 && ran.stdout.is_empty(), "{ran:#?}");
    let delivered = format!("Delivered-To: bob@mx.test\n{MESSAGE}");
    let (message, envelope) = programs.queued().unwrap();
    assert_eq!((&*message, &*envelope), (&*delivered, "Fowner-l@mx.test\nTc@y.test\nTd@z.test\n\n"));

    // The program has read some of the message; all of it is redirected.
    let ran = programs.run("condredirect c@y.test grep -q ^Subject", MESSAGE).expect(99);
    assert!(ran.stderr.starts_with("condredirect: qp "), "{ran:#?}");
    let (message, envelope) = programs.queued().unwrap();
    assert_eq!((&*message, &*envelope), (&*delivered, "Fa b@x.test\nTc@y.test\n\n"));

    for (qq, code, text) in [
        ("31", 100, "mail server permanently rejected message (#5.3.0)"),
        ("53", 111, "qq write error or disk full (#4.3.0)"),
        ("82 QQ_TEXT='DNo. (#5.7.1)'", 100, "No. (#5.7.1)"),
    ] {
        for (program, line) in [("forward", "forward c@y"), ("condredirect", "condredirect c@y true")] {
            let ran = programs.run(&format!("export QQ={qq}; {line}"), MESSAGE).expect(code);
            assert_eq!(ran.stderr, format!("{program}: fatal: {text}\n"));
        }
    }
}

#[test]
fn receipts() {
    let programs = Programs::new();
    let asks = "Message-ID: <1@x.test>\nNotice-Requested-Upon-Delivery-To: Bob (me) <bob@mx.test>\n\nbody\n";
    assert_eq!(programs.run("qreceipt bob@mx.test", asks).expect(0).stderr, "");
    let (message, envelope) = programs.queued().unwrap();
    assert_eq!(
        message,
        "From: DELIVERY NOTICE SYSTEM <\"a b\"@x.test>\nTo: <\"a b\"@x.test>\nSubject: success notice\n\n\
         Hi! This is the qreceipt program. Your message was delivered to the\n\
         following address: bob@mx.test. Thanks for asking.\nYour Message-ID: <1@x.test>\n"
    );
    assert_eq!(envelope, "F\nTa b@x.test\n\n");
    for line in ["qreceipt al@mx.test", "SENDER= qreceipt bob@mx.test", "SENDER='#@[]' qreceipt bob@mx.test"]
    {
        programs.run(line, asks).expect(0);
        assert_eq!(programs.queued(), None, "{line}");
    }
    let ran = programs.run("qreceipt bob@mx.test", "Notice-Requested-Upon-Delivery-To: (bob\n\n").expect(100);
    assert_eq!(
        ran.stderr,
        "qreceipt: fatal: unable to parse this: Notice-Requested-Upon-Delivery-To: (bob\n"
    );
    let refused = |qq: u8| programs.run(&format!("export QQ={qq}; qreceipt bob@mx.test"), asks);
    assert_eq!(refused(31).expect(100).stderr, "qreceipt: fatal: permanent qmail-queue error\n");
    assert_eq!(refused(53).expect(111).stderr, "qreceipt: fatal: temporary qmail-queue error\n");
}

#[test]
fn a_running_host_delivers_what_is_forwarded() {
    let host = Host::start();
    let local = Local::of(&host);
    let line = format!("{ENVIRONMENT} DTLINE='Delivered-To: l@mx.test\n' forward bob@mx.test");
    local.run(&line, "Subject: forwarded\n\nbody\n").expect(0);
    let text = host.maildir("bob").wait(1, PATIENCE).remove(0);
    assert!(text.starts_with("Return-Path: <owner-l@mx.test>\n"), "{text}");
    assert!(text.ends_with("Delivered-To: l@mx.test\nSubject: forwarded\n\nbody\n"), "{text}");
    host.wait_queue_empty(PATIENCE);
}

#[test]
fn maildir_to_mbox_and_back() {
    let programs = Programs::new();
    let local = &programs.local;
    local.run("maildirmake Maildir", "").expect(0);
    for n in 0..3 {
        let text = format!("Return-Path: <a{n}@x>\nSubject: {n}\n\nFrom me\n\n>From you\n");
        local.write(&format!("Maildir/new/{n}"), text);
        local.run(&format!("touch -d @{} Maildir/new/{n}", 1000 + n), "").expect(0);
    }
    let line = "MAIL=mbox MAILTMP=mbox.tmp MAILDIR=Maildir maildir2mbox";
    let ran = local.run(line, "").expect(0);
    assert_eq!((&*ran.stdout, &*ran.stderr), ("", ""));
    let mbox = fs::read_to_string(local.file("mbox")).unwrap();
    assert!(mbox.starts_with("From a0@x Thu Jan 01 00:16:40 1970\nReturn-Path: <a0@x>\n"), "{mbox}");
    assert_eq!(fs::read_dir(local.file("Maildir/new")).unwrap().count(), 0);
    let ran = local.run("mbox2maildir mbox back; mbox2maildir mbox back", "").expect(0);
    assert_eq!((&*ran.stdout, &*ran.stderr), ("3 messages\n0 messages; 3 were there already\n", ""));
    local.run("mkdir copy; cd back/new; for f in *; do mv $f ../../Maildir/new/$f; done", "").expect(0);
    local.run(&line.replace("MAIL=mbox", "MAIL=again"), "").expect(0);
    assert_eq!(fs::read_to_string(local.file("again")).unwrap(), mbox);
    let ran = local.run("mbox2maildir m back", "").expect(111);
    assert_eq!(ran.stderr, "mbox2maildir: fatal: unable to read m: file does not exist\n");
    // On a terminal a line shows how far it is.
    let ran = local.run("script -qec 'mbox2maildir mbox shown' /dev/null", "").expect(0);
    assert!(
        ran.stdout.contains("\r[#############                           ]  33 %  1 messages\x1b[K"),
        "{ran:#?}"
    );
    assert!(ran.stdout.ends_with("\r\x1b[K3 messages\r\n"), "{ran:#?}");
}

/// Whoever is killed while he moves messages has lost none.
#[test]
fn whoever_moves_messages_may_be_killed() {
    let programs = Programs::new();
    let local = &programs.local;
    local.run("maildirmake Maildir", "").expect(0);
    const MESSAGES: usize = 400;
    for n in 0..MESSAGES {
        local.write(&format!("Maildir/new/{n}"), format!("Subject: message {n}.\n\n{}\n", "x".repeat(5000)));
    }
    local.run("touch -d @1000 Maildir/new/*", "").expect(0);
    let subjects = || {
        let ran = local.run("cat mbox Maildir/*/* 2>/dev/null | grep '^Subject: ' | sort -u | wc -l", "");
        ran.stdout.trim().parse::<usize>().unwrap()
    };
    let tmp = local.file("mbox.tmp");
    for at in [1, 200_000, 1_000_000, 1_900_000] {
        let mut child = local.start("MAIL=mbox MAILTMP=mbox.tmp MAILDIR=Maildir exec maildir2mbox");
        wait_until("it to be so far", PATIENCE, || {
            fs::metadata(&tmp).is_ok_and(|meta| meta.len() >= at) || child.try_wait().unwrap().is_some()
        });
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(subjects(), MESSAGES, "killed at {at}");
    }
    local.run("MAIL=mbox MAILTMP=mbox.tmp MAILDIR=Maildir maildir2mbox", "").expect(0);
    assert_eq!(fs::read_dir(local.file("Maildir/new")).unwrap().count(), 0);
    assert_eq!(subjects(), MESSAGES);
    for at in [1, 100, 300] {
        let mut child = local.start("exec mbox2maildir mbox back");
        wait_until("it to be so far", PATIENCE, || {
            fs::read_dir(local.file("back/new")).is_ok_and(|dir| dir.count() >= at)
                || child.try_wait().unwrap().is_some()
        });
        child.kill().unwrap();
        child.wait().unwrap();
    }
    local.run("mbox2maildir mbox back", "").expect(0);
    let count = |line: &str| local.run(line, "").stdout.trim().parse::<usize>().unwrap();
    // A kill between rename and unlink leaves some twice in the mbox file.
    let whole = count("grep -c '^Subject: ' mbox");
    assert!(whole >= MESSAGES);
    assert_eq!(count("ls back/new | wc -l"), whole);
    assert_eq!(count("cat back/new/* | grep '^Subject: ' | sort -u | wc -l"), MESSAGES);
    assert_eq!(count("ls back/tmp | wc -l"), 0);
}

/// Deliveries that wait for the lock of the old file are not lost with it.
#[test]
fn deliveries_beside_maildir2mbox_are_kept() {
    let programs = Programs::new();
    let local = &programs.local;
    local.run("maildirmake Maildir", "").expect(0);
    local.write("Maildir/new/1", "Subject: moved\n\n");
    local.run("touch -d @1000 Maildir/new/1", "").expect(0);
    // It holds the lock as qmail-local does, and another waits for it with the file open.
    let mut holder = local.start("exec flock mbox sh -c 'echo held; read x; echo first >>mbox'");
    let mut answer = [0; 5];
    std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut answer).unwrap();
    let file = format!(":{} ", fs::metadata(local.file("mbox")).unwrap().ino());
    let waiters = |n: usize| {
        wait_until("all to wait for the lock", PATIENCE, || {
            let locks = fs::read_to_string("/proc/locks").unwrap();
            locks.lines().filter(|line| line.contains("-> FLOCK") && line.contains(&file)).count() == n
        });
    };
    let mover = local.start("MAIL=mbox MAILTMP=mbox.tmp MAILDIR=Maildir exec maildir2mbox");
    waiters(1);
    let late = local.start("exec 3>>mbox; flock 3; echo late >&3");
    waiters(2);
    holder.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    for child in [holder, mover, late] {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
    let mbox = fs::read_to_string(local.file("mbox")).unwrap();
    let place = |text: &str| mbox.find(text).unwrap_or_else(|| panic!("no {text} in {mbox:?}"));
    assert!(
        place("first\n") < place("Subject: moved\n") && place("Subject: moved\n") < place("late\n"),
        "{mbox}"
    );
}

#[test]
fn accounts_of_the_system_become_assignments() {
    let programs = Programs::new();
    let local = &programs.local;
    let users = local.home().join("users");
    fs::write(users.join("mailnames"), "bob:robert\n").unwrap();
    let dir = local.file("");
    let uid = rustix::process::getuid().as_raw().max(1);
    // Root has no mail: homes are not asked for then.
    let passwd = format!("alias:x:{uid}:1::{0}:\nbob:x:{uid}:1::{0}:\nroot:x:0:0::/:\n", dir.display());
    let line = format!("qmail-pw2u -Hc+ >a && cat a && cp a {}/assign && qmail-newu", users.display());
    let ran = local.run(&line, &passwd).expect(0);
    let whose = format!("{uid}:1:{}", dir.display());
    assert_eq!(
        ran.stdout,
        format!(
            "+:alias:{whose}:-::\n=alias:alias:{whose}:::\n+alias+:alias:{whose}:-::\n\
             =robert:bob:{whose}:::\n+robert+:bob:{whose}:-::\n.\n"
        )
    );
    assert_eq!(ran.stderr, "");
    let cdb = fs::read(users.join("cdb")).unwrap();
    fs::write(users.join("assign"), "=x:x:1:1:/:::\n").unwrap();
    let ran = local.run("qmail-newu", "").expect(111);
    assert_eq!(
        ran.stderr,
        "qmail-newu: fatal: bad format in users/assign: line 2: the last line must be a dot\n"
    );
    fs::remove_file(users.join("assign")).unwrap();
    let ran = local.run("qmail-newu", "").expect(111);
    assert_eq!(ran.stderr, "qmail-newu: fatal: unable to open users/assign: file does not exist\n");
    assert_eq!(fs::read(users.join("cdb")).unwrap(), cdb);
}
