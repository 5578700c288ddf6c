//! QMAILQUEUE: a program gets the message in place of the queue, and its exit code is the answer.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mailtree_tests::dns::Dns;
use mailtree_tests::host::{Host, PATIENCE, Setup};
use mailtree_tests::letter::letter;
use mailtree_tests::smtp::{Client, like};
use mailtree_tests::wait::{wait_for, wait_until};
use rustix::process::Signal;

/// A directory with a shell script `qq` that has the directory in `$D`.
struct Script(tempfile::TempDir);

impl Script {
    fn new(text: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("mailtree-qq-").tempdir().unwrap();
        let path = dir.path().join("qq");
        fs::write(&path, format!("#!/bin/sh\nD='{}'\n{text}\n", dir.path().display())).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        mailtree_tests::maildir::open_to_all(dir.path());
        Self(dir)
    }

    fn path(&self) -> PathBuf {
        self.file("qq")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        String::from_utf8(fs::read(self.file(name)).unwrap()).unwrap()
    }

    /// The process numbers in the file `pids`, which a script moves there when it is whole.
    fn pids(&self) -> Vec<String> {
        let text =
            wait_for("the program's processes", PATIENCE, || fs::read_to_string(self.file("pids")).ok());
        text.split_whitespace().map(str::to_owned).collect()
    }

    /// A host whose clients' mail goes to the script, with these fields of `programs`.
    fn setup(&self, programs: &str) -> Setup {
        setup(&self.path(), "", programs)
    }
}

/// A host with one rule for all clients: this program, and these variables more.
fn setup(program: &Path, variables: &str, programs: &str) -> Setup {
    let setup = Setup::new().field("programs", format!("({programs})"));
    let rule = format!(":allow,QMAILQUEUE=\"{}\"{variables}\n", program.display());
    fs::write(setup.home().join("tcp.smtp"), rule).unwrap();
    setup.run(&["qmailctl", "cdb"]).expect(0);
    setup
}

fn greeted(host: &Host) -> Client {
    let mut client = host.smtp();
    client.say("HELO client.test", 250);
    client
}

/// One message in qmail's own dialogue; the reply to its end.
fn hand_in(client: &mut Client, to: &[&str], text: &str) -> String {
    client.say("MAIL FROM:<sender@mx.test>", 250);
    for mailbox in to {
        client.say(&format!("RCPT TO:<{mailbox}>"), 250);
    }
    client.say("DATA", 354);
    client.send(&mailtree_tests::smtp::wire(text)).unwrap();
    client.reply().unwrap().text()
}

fn answer(host: &Host) -> String {
    hand_in(&mut greeted(host), &["bob@mx.test"], "Subject: x\n\nx\n")
}

fn wait_gone(pid: &str) {
    wait_until(&format!("the end of process {pid}"), PATIENCE, || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'))
    });
}

#[test]
fn the_program_gets_the_message_and_the_envelope_and_the_queue_gets_nothing() {
    let script = Script::new("cat >$D/message && cat <&1 >$D/envelope");
    let host = script.setup("").start();
    let text = letter("program", 300_000);
    let reply = hand_in(&mut greeted(&host), &["bob@mx.test", "sender@mx.test"], &text);
    assert!(like("250 ok * qp *", &reply), "{reply}");
    let message = script.read("message");
    let head = message.strip_suffix(&text).expect("the message as it was sent, with LF line ends");
    let trace = "Received: from unknown (HELO client.test) (127.0.0.1)\n  by mx.test with SMTP; * -0000\n";
    assert!(like(trace, head), "{head}");
    assert_eq!(script.read("envelope"), "Fsender@mx.test\0Tbob@mx.test\0Tsender@mx.test\0\0");
    assert_eq!(host.queue_files(), Vec::<PathBuf>::new());
    assert_eq!(host.metrics().sum("mailtree_queue_accepted_messages_total", &[]), 0.0);
    assert_eq!(host.maildir("bob").count(), 0);
}

#[test]
fn a_message_from_nobody_with_an_empty_body() {
    let script = Script::new("cat >$D/message && cat <&1 >$D/envelope");
    let host = script.setup("").start();
    let mut client = greeted(&host);
    client.say("MAIL FROM:<>", 250);
    client.say("RCPT TO:<bob@mx.test>", 250);
    client.say("DATA", 354);
    client.say(".", 250);
    assert_eq!(script.read("message").lines().count(), 2, "only the trace field: {}", script.read("message"));
    assert_eq!(script.read("envelope"), "F\0Tbob@mx.test\0\0");
}

/// Variables of the program by name; what the shell sets for itself is left out.
fn variables(script: &Script) -> BTreeMap<String, String> {
    let text = script.read("env");
    let pairs = text.split_terminator('\0').filter_map(|pair| pair.split_once('='));
    let own = ["PATH", "PWD", "OLDPWD", "SHLVL", "_"];
    pairs.filter(|(name, _)| !own.contains(name)).map(|(name, value)| (name.into(), value.into())).collect()
}

fn set(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
}

#[test]
fn the_environment_is_the_clients_and_nothing_of_the_host() {
    let script = Script::new("env -0 >$D/env; grep -E '^Sig(Ign|Blk)' /proc/self/status >$D/signals");
    let setup = setup(&script.path(), ",RELAYCLIENT=\"\",COLOUR=\"blue green\"", "");
    let host = setup
        .smtpd("environment: {\"SERVICE\": \"set\", \"COLOUR\": \"red\"}")
        .env("SECRET_OF_THE_HOST", "x")
        .start();
    let mut client = greeted(&host);
    let port = client.stream().local_addr().unwrap().port().to_string();
    assert!(hand_in(&mut client, &["bob@far.test"], "Subject: x\n\nx\n").starts_with("250 "));
    let expected = set(&[
        ("SERVICE", "set"),
        ("COLOUR", "blue green"),
        ("RELAYCLIENT", ""),
        ("QMAILQUEUE", &script.path().display().to_string()),
        ("PROTO", "TCP"),
        ("TCPLOCALIP", "127.0.0.1"),
        ("TCPLOCALPORT", &host.address().get().port().to_string()),
        ("TCPLOCALHOST", "mx.test"),
        ("TCPREMOTEIP", "127.0.0.1"),
        ("TCPREMOTEPORT", &port),
    ]);
    assert_eq!(variables(&script), expected);
    // A program dies of SIGPIPE and TERM as its author expects, and hears of its children.
    for line in script.read("signals").lines() {
        let mask = u64::from_str_radix(line.rsplit('\t').next().unwrap(), 16).unwrap();
        for signal in [Signal::PIPE, Signal::TERM, Signal::CHILD] {
            assert_eq!(mask >> (signal.as_raw() - 1) & 1, 0, "{signal:?} {line}");
        }
    }
}

#[test]
fn the_program_learns_what_spf_says() {
    let dns = Dns::start();
    let script = Script::new("env -0 >$D/env; cat >$D/message");
    let host = script.setup("").resolver(dns.address()).control("spfbehavior", "1\n").start();
    assert!(answer(&host).starts_with("250 "));
    assert_eq!(variables(&script).get("SPFRESULT").map(String::as_str), Some("none"));
    assert!(!variables(&script).contains_key("RELAYCLIENT"));
    let message = script.read("message");
    assert!(message.starts_with("Received-SPF: none ("), "{message}");
}

#[test]
fn each_exit_code_has_its_reply() {
    // The number in the recipient is the code.
    let script = Script::new(
        "exec 5<&1
        code=$(tr '\\0' '\\n' <&5 | sed -n 's/^Tbob-\\([0-9]*\\)@.*/\\1/p')
        [ $code = 999 ] && kill -9 $$
        exit $code",
    );
    let host = script.setup("").start();
    let mut client = greeted(&host);
    for (code, reply) in [
        (0, "250 ok * qp *"),
        (1, "451 qq temporary problem (#4.3.0)"),
        (11, "554 envelope address too long for qq (#5.1.3)"),
        (12, "554 qq permanent problem (#5.3.0)"),
        (31, "554 mail server permanently rejected message (#5.3.0)"),
        (40, "554 qq permanent problem (#5.3.0)"),
        (41, "451 qq temporary problem (#4.3.0)"),
        (51, "451 qq out of memory (#4.3.0)"),
        (52, "451 qq timeout (#4.3.0)"),
        (53, "451 qq write error or disk full (#4.3.0)"),
        (54, "451 qq read error (#4.3.0)"),
        (55, "451 qq unable to read configuration (#4.3.0)"),
        (56, "451 qq trouble making network connection (#4.3.0)"),
        (61, "451 qq trouble in home directory (#4.3.0)"),
        (62, "451 qq trouble creating files in queue (#4.3.0)"),
        (66, "451 qq trouble creating files in queue (#4.3.0)"),
        (71, "451 mail server temporarily rejected message (#4.3.0)"),
        (72, "451 connection to mail server timed out (#4.4.1)"),
        (73, "451 connection to mail server rejected (#4.4.1)"),
        (74, "451 communication with mail server failed (#4.4.2)"),
        (81, "451 qq internal bug (#4.3.0)"),
        (82, "451 qq temporary problem (#4.3.0)"),
        (91, "451 qq internal bug (#4.3.0)"),
        (111, "451 qq temporary problem (#4.3.0)"),
        (115, "554 envelope address too long for qq (#5.1.3)"),
        (120, "451 unable to exec qq (#4.3.0)"),
        (999, "451 qq crashed (#4.3.0)"),
    ] {
        let said = hand_in(&mut client, &[&format!("bob-{code}@mx.test")], "Subject: x\n\nx\n");
        assert!(like(reply, &said), "{code}: {said}");
    }
    let mut client = host.smtp();
    client.say("EHLO client.test", 250);
    let said = client.transact("sender@mx.test", &["bob-31@mx.test"], "x\n").unwrap().text();
    assert_eq!(said, "554 5.3.0 mail server permanently rejected message (#5.3.0)");
    assert_eq!(host.queue_files(), Vec::<PathBuf>::new());
}

#[test]
fn with_82_the_program_has_the_word() {
    // A shell script named by the recipient writes the text.
    let script = Script::new(
        "exec 5<&1
        case $(tr '\\0' '\\n' <&5) in
        *Tbob-four@*) printf 'Dno sale (#5.7.1)' >&4;;
        *Tbob-six@*) printf 'Zcome again (#4.7.1)' >&6;;
        *Tbob-both@*) echo Zsix >&6; echo Dfour >&4;;
        *Tbob-short@*) printf Dx >&4;;
        *Tbob-odd@*) printf 'Xodd text' >&4;;
        *Tbob-lines@*) printf 'Done\\r\\n250 two' >&4;;
        *Tbob-long@*) printf 'D%0300d' 7 >&4;;
        *Tbob-31@*) printf 'Dunheard' >&4; exit 31;;
        esac
        exit 82",
    );
    let host = script.setup("").start();
    let mut client = greeted(&host);
    for (name, reply) in [
        ("four", "554 no sale (#5.7.1)"),
        ("six", "451 come again (#4.7.1)"),
        ("both", "451 six"),
        ("short", "451 qq temporary problem (#4.3.0)"),
        ("odd", "451 qq temporary problem (#4.3.0)"),
        ("lines", "554 one??250 two"),
        ("long", &format!("554 {}", "0".repeat(254))),
        ("31", "554 mail server permanently rejected message (#5.3.0)"),
        ("none", "451 qq temporary problem (#4.3.0)"),
    ] {
        let said = hand_in(&mut client, &[&format!("bob-{name}@mx.test")], "Subject: x\n\nx\n");
        assert_eq!(said, reply, "{name}");
    }
}

#[test]
fn what_cannot_be_run_is_said_so() {
    let script = Script::new("exit 0");
    fs::set_permissions(script.path(), fs::Permissions::from_mode(0o644)).unwrap();
    let interpreter = script.file("interpreter");
    fs::write(&interpreter, "#!/nonexistent/sh\n").unwrap();
    fs::set_permissions(&interpreter, fs::Permissions::from_mode(0o755)).unwrap();
    for program in [Path::new("/nonexistent/program"), &script.path(), script.0.path(), &interpreter] {
        let host = setup(program, "", "").start();
        assert_eq!(answer(&host), "451 unable to exec qq (#4.3.0)", "{}", program.display());
        assert_eq!(host.queue_files(), Vec::<PathBuf>::new());
    }
}

#[test]
fn a_path_to_qmail_queue_is_the_queue_of_this_host() {
    for value in ["/var/qmail/bin/qmail-queue", ""] {
        let host = setup(Path::new(value), "", "").start();
        assert!(like("250 ok * qp *", &answer(&host)));
        host.maildir("bob").wait(1, PATIENCE);
    }
}

#[test]
fn a_program_that_hangs_is_killed_with_its_children() {
    for trap in ["", "trap '' TERM"] {
        let script = Script::new(&format!(
            "{trap}
            (sleep 1000 & echo $! >$D/grandchild; wait) & child=$!
            until [ -s $D/grandchild ]; do :; done
            echo $$ $child $(cat $D/grandchild) >$D/pids.new; mv $D/pids.new $D/pids
            while :; do wait; done"
        ));
        let host = script.setup("deadline: \"2s\"").start();
        let mut client = greeted(&host);
        let begin = Instant::now();
        let waiting = std::thread::spawn(move || hand_in(&mut client, &["bob@mx.test"], "x\n"));
        let pids = script.pids();
        assert_eq!(pids.len(), 3, "{pids:?}");
        // The others do not wait for it.
        greeted(&host).say("MAIL FROM:<sender@mx.test>", 250);
        assert!(!waiting.is_finished());
        assert_eq!(waiting.join().unwrap(), "451 qq timeout (#4.3.0)");
        let took = begin.elapsed();
        assert!(took >= Duration::from_secs(2) && took < Duration::from_secs(6), "{took:?}");
        pids.iter().for_each(|pid| wait_gone(pid));
        host.wait_log(&format!("*warning: {} did not end within 2s*", script.path().display()));
    }
}

#[test]
fn what_a_program_leaves_in_the_background_ends_with_it() {
    let script = Script::new("sleep 1000 & echo $! >$D/pids.new; mv $D/pids.new $D/pids; exit 0");
    let host = script.setup("").start();
    assert!(answer(&host).starts_with("250 "));
    script.pids().iter().for_each(|pid| wait_gone(pid));
}

#[test]
fn a_stop_of_the_host_leaves_no_program() {
    let script = Script::new("sleep 1000 & echo $$ $! >$D/pids.new; mv $D/pids.new $D/pids; wait");
    let mut host = script.setup("").field("grace", "\"1s\"").start();
    let mut client = greeted(&host);
    for line in ["MAIL FROM:<sender@mx.test>", "RCPT TO:<bob@mx.test>"] {
        client.say(line, 250);
    }
    client.say("DATA", 354);
    client.send(b"x\r\n.\r\n").unwrap();
    let pids = script.pids();
    host.stop();
    pids.iter().for_each(|pid| wait_gone(pid));
    assert!(!client.reply().is_ok_and(|reply| reply.code == 250), "accepted, and nobody has it");
}

#[test]
fn a_program_need_not_read() {
    let text = letter("unread", 5_000_000);
    for (script, reply) in [("exit 0", "250 ok * qp *"), ("exec <&- 1<&-; exit 31", "554 mail server *")] {
        let script = Script::new(script);
        let host = script.setup("").start();
        let said = hand_in(&mut greeted(&host), &["bob@mx.test"], &text);
        assert!(like(reply, &said), "{said}");
    }
}

#[test]
fn what_the_program_says_on_descriptor_2_is_logged() {
    let script = Script::new("echo first >&2; printf 'second' >&2");
    let host = script.setup("").start();
    assert!(answer(&host).starts_with("250 "));
    host.wait_log("first");
    host.wait_log("second");
}

#[test]
fn more_programs_than_allowed_are_refused_for_now() {
    let script = Script::new("echo x >>$D/begun; until [ -e $D/go ]; do sleep 0.02; done; cat >>$D/taken");
    let host = script.setup("at_once: 2").start();
    let begun = || fs::read_to_string(script.file("begun")).unwrap_or_default().lines().count();
    let held: Vec<_> = (1..=2)
        .map(|count| {
            let mut client = greeted(&host);
            let held = std::thread::spawn(move || {
                hand_in(&mut client, &["bob@mx.test"], &format!("Subject: held {count}\n\nx\n"))
            });
            wait_until("the program to run", PATIENCE, || begun() == count);
            held
        })
        .collect();
    let mut client = greeted(&host);
    for _ in 0..3 {
        let said = hand_in(&mut client, &["bob@mx.test"], "Subject: too many\n\nx\n");
        assert_eq!(said, "451 qq temporary problem (#4.3.0)");
    }
    host.wait_log("qmail-smtpd: warning: too many programs run");
    assert_eq!(host.metrics().sum("mailtree_permits_in_use", &["permit=\"programs\""]), 2.0);
    fs::write(script.file("go"), "").unwrap();
    for held in held {
        let said = held.join().unwrap();
        assert!(like("250 ok * qp *", &said), "{said}");
    }
    let said = hand_in(&mut client, &["bob@mx.test"], "Subject: again\n\nx\n");
    assert!(like("250 ok * qp *", &said), "{said}");
    let taken = script.read("taken");
    for subject in ["held 1", "held 2", "again"] {
        assert_eq!(taken.matches(&format!("Subject: {subject}\n")).count(), 1, "{taken}");
    }
    assert!(!taken.contains("too many"), "{taken}");
    assert_eq!(host.metrics().sum("mailtree_permits_in_use", &["permit=\"programs\""]), 0.0);
}

#[test]
fn the_memory_of_a_program_is_limited_as_the_host_says() {
    // Each host's user is another one.
    let script = Script::new("rm -f $D/limit; ulimit -v >$D/limit");
    for (programs, kib) in [("memory: \"100MiB\"", 102_400), ("", 524_288)] {
        let host = script.setup(programs).start();
        assert!(answer(&host).starts_with("250 "));
        assert_eq!(script.read("limit").trim(), kib.to_string());
    }
}

#[test]
fn memory_0_is_no_limit() {
    let script = Script::new("ulimit -v >$D/limit");
    let host = script.setup("memory: 0").start();
    assert!(answer(&host).starts_with("250 "));
    let limit = script.read("limit");
    // Unlimited, or more than any machine has.
    assert!(
        limit.trim().parse::<u64>().is_ok_and(|kib| kib > 1 << 40) || limit.trim() == "unlimited",
        "{limit}"
    );
}

mod needs_python3 {
    use super::*;

    /// A filter as many hosts have one: reads both descriptors, changes the message, hands it on in its own way.
    #[test]
    fn a_forwarder_in_python_has_the_mail_and_the_queue_has_not() {
        let dir = tempfile::Builder::new().prefix("mailtree-qq-").tempdir().unwrap();
        mailtree_tests::maildir::open_to_all(dir.path());
        let path = dir.path().join("forward");
        let text = format!(
            r"#!/usr/bin/env python3
import os, sys
message = sys.stdin.buffer.read()
envelope = os.read(1, 100000)
assert envelope.endswith(b'\0\0'), envelope
sender, *to = envelope[:-2].split(b'\0')
with open('{}/out', 'wb') as out:
    out.write(b'X-From: ' + sender[1:] + b'\n')
    for mailbox in to:
        out.write(b'X-To: ' + mailbox[1:] + b'\n')
    out.write(message)
",
            dir.path().display()
        );
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let host = setup(&path, "", "").start();
        let text = letter("forwarded", 100_000);
        let said = hand_in(&mut greeted(&host), &["bob@mx.test", "sender@mx.test"], &text);
        assert!(like("250 ok * qp *", &said), "{said}\n{}", host.log_tail());
        let out = fs::read_to_string(dir.path().join("out")).unwrap();
        let head = "X-From: sender@mx.test\nX-To: bob@mx.test\nX-To: sender@mx.test\nReceived: from unknown ";
        assert!(out.starts_with(head) && out.ends_with(&text), "{out}");
        assert_eq!(host.metrics().sum("mailtree_queue_accepted_messages_total", &[]), 0.0);
        assert_eq!(host.maildir("bob").count(), 0);
    }
}
