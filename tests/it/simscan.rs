//! simscan: `control/simcontrol` says what is scanned for whom, the scanners say what is in it.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mailtree_protocols::cdb::CdbMake;
use mailtree_tests::clamd::Standin;
use mailtree_tests::host::{Host, PATIENCE, Setup};
use mailtree_tests::letter::letter;
use mailtree_tests::probe::{peak_resident, resident};
use mailtree_tests::smtp::{Client, like};
use mailtree_tests::wait::{holds_for, wait_for, wait_until};

const SUSPECT: &str = "554 5.7.1 Your email was rejected because it contains a bad attachment: ";
const TOO_LARGE: &str = "552 5.3.4 sorry, that message is too large to be scanned (#5.3.4)";
const TEMPORARY: &str = "451 4.3.0 mail server temporarily rejected message (#4.3.0)";

/// A host that scans what clients send as `simcontrol` says, with these fields of `scanners`. Its clients may not relay.
fn setup(simcontrol: &str, scanners: &str) -> Setup {
    rules(":allow,QMAILQUEUE=\"/var/qmail/bin/simscan\"\n", scanners).control("simcontrol", simcontrol)
}

fn rules(rules: &str, scanners: &str) -> Setup {
    let setup = Setup::new().field("scanners", format!("({scanners})"));
    fs::write(setup.home().join("tcp.smtp"), rules).unwrap();
    setup.run(&["qmailctl", "cdb"]).expect(0);
    setup
}

fn greeted(host: &Host) -> Client {
    let mut client = host.smtp();
    client.say("EHLO client.test", 250);
    client
}

/// Sends one message to bob and gives the reply.
fn answer(host: &Host, text: &str) -> String {
    answer_from(host, "Sender@mx.test", &["bob@mx.test"], text)
}

fn answer_from(host: &Host, from: &str, to: &[&str], text: &str) -> String {
    greeted(host).transact(from, to, text).unwrap().text()
}

/// A message with an attachment whose part has these header fields.
fn attached(fields: &str) -> String {
    with_part(&format!("{fields}\n\nx\n"))
}

/// A message with a text and this part.
fn with_part(part: &str) -> String {
    format!(
        "From: <sender@mx.test>\nSubject: a file\nMIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b1\n\n\
         --b1\nContent-Type: text/plain\n\nlook\n--b1\n{part}--b1--\n"
    )
}

fn named(name: &str) -> String {
    attached(&format!("Content-Type: application/octet-stream; name=\"{name}\""))
}

/// What simscan has logged, the number of the connection and the time replaced where they must be: `simscan:[P]:`
/// and `:T:`.
fn said(host: &Host) -> Vec<String> {
    let lines = host.log_lines();
    lines.iter().filter_map(|line| line.strip_prefix("simscan:[")).map(without_numbers).collect()
}

fn without_numbers(line: &str) -> String {
    let (pid, rest) = line.split_once("]:").unwrap();
    assert!(!pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit()), "{line}");
    let timed = rest.split(':').map(|part| if is_time(part) { "T" } else { part });
    format!("simscan:[P]:{}", timed.collect::<Vec<_>>().join(":"))
}

/// Seconds with four decimals, such as `0.0123s`.
fn is_time(text: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let parts = text.strip_suffix('s').and_then(|text| text.split_once('.'));
    parts.is_some_and(|(whole, part)| digits(whole) && digits(part) && part.len() == 4)
}

/// Waits until simscan has said just this.
#[track_caller]
fn expect_said(host: &Host, lines: &[&str]) {
    wait_for(&format!("lines {lines:#?}"), PATIENCE, || (said(host).len() >= lines.len()).then_some(()));
    assert_eq!(said(host), lines);
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for (n, chunk) in bytes.chunks(3).enumerate() {
        let number = (0..3).fold(0_usize, |sum, at| sum << 8 | usize::from(*chunk.get(at).unwrap_or(&0)));
        for digit in 0..4 {
            let kept = digit <= chunk.len();
            text.push(if kept { DIGITS[number >> (18 - 6 * digit) & 63] } else { b'=' } as char);
        }
        if n % 19 == 18 {
            text.push('\n');
        }
    }
    text
}

#[test]
fn a_refused_attachment_in_the_words_of_simscan() {
    let host = setup(":attach=.VBS:.exe\n", "").start();
    host.play(&format!(
        "S: 220 mx.test ESMTP
         C: HELO client.test
         S: 250 mx.test
         C: MAIL FROM:<Sender@mx.test>
         S: 250 ok
         C: RCPT TO:<Bob@mx.test>
         S: 250 ok
         C: RCPT TO:<sender@mx.test>
         S: 250 ok
         C: DATA
         S: 354 go ahead
         {}
         C: .
         S: 554 Your email was rejected because it contains a bad attachment: love letter.txt.vbs
         C: QUIT
         S: 221 mx.test",
        named("LOVE letter.TXT.vbs").lines().map(|line| format!("C: {line}\n")).collect::<String>()
    ));
    let line = host.wait_log("simscan:*");
    assert_eq!(
        without_numbers(line.strip_prefix("simscan:[").unwrap()),
        "simscan:[P]:ATTACH:T:love letter.txt.vbs:127.0.0.1:sender@mx.test:bob@mx.test,sender@mx.test"
    );
    // The number is that of the connection in tcpserver's lines.
    let pid = line["simscan:[".len()..].split(']').next().unwrap();
    host.wait_log(&format!("tcpserver: ok {pid} *"));
    assert_eq!(host.queue_files(), Vec::<PathBuf>::new());
}

#[test]
fn names_of_attachments_are_found_however_they_are_written() {
    let host = setup(":attach=.exe\n", "").start();
    let mut client = greeted(&host);
    let mut sent = |text: &str| client.transact("sender@mx.test", &["bob@mx.test"], text).unwrap().text();
    let nested = named("deep.exe");
    let message = nested.replace("b1", "b2");
    for (text, name) in [
        (named("a.EXE"), "a.exe"),
        (named("a.exe. "), "a.exe"),
        (attached("Content-Type: text/plain\nContent-Disposition: attachment; filename=a.exe"), "a.exe"),
        (attached("content-disposition: inline;\n\tfilename=\"a \\\"b\\\".exe\""), "a \"b\".exe"),
        // RFC 2231: an encoded value, a value in pieces, both.
        (attached("Content-Disposition: attachment; filename*=utf-8'de'gr%C3%BCn%2Eexe"), "gr?n.exe"),
        (attached("Content-Disposition: attachment;\n filename*0=\"a.e\";\n filename*1=\"xe\""), "a.exe"),
        (attached("Content-Disposition: attachment;\n filename*1=xe;\n filename*0*=utf-8''a%2Ee"), "a.exe"),
        // RFC 2047 in a parameter, as many programs write it.
        (
            attached(&format!("Content-Type: application/x; name=\"=?utf-8?B?{}?=\"", base64(b"b.exe"))),
            "b.exe",
        ),
        (attached("Content-Type: application/x; name=\"=?iso-8859-1?Q?c_d=2Eexe?=\""), "c d.exe"),
        // Parts of parts, a message in a message, an encoded message, uuencode.
        (attached(&message[message.find("Content-Type").unwrap()..]), "deep.exe"),
        (attached(&format!("Content-Type: message/rfc822\n\n{message}")), "deep.exe"),
        (
            attached(&format!(
                "Content-Type: message/rfc822\nContent-Transfer-Encoding: base64\n\n{}",
                base64(message.as_bytes())
            )),
            "deep.exe",
        ),
        ("Subject: x\n\nbegin 644 old.exe\n#86)C\n`\nend\n".to_owned(), "old.exe"),
    ] {
        let reply = sent(&text);
        let shown = reply.strip_prefix(SUSPECT).unwrap_or_else(|| panic!("{reply}\n{text}"));
        // Where programs disagree the refusal names one of their readings.
        assert!(shown.ends_with(name), "{reply}\n{text}");
    }
    for text in [
        named("exe"),
        named("a.exe.txt"),
        "Subject: about a.exe\n\nname=\"a.exe\"\n".to_owned(),
        attached("Content-Type: text/plain\nX-Name: a.exe"),
    ] {
        let reply = sent(&text);
        assert!(reply.starts_with("250 "), "{reply}\n{text}");
    }
}

#[test]
fn a_line_that_matches_a_pattern_is_refused_by_its_number() {
    let host = setup(":regex=^never$:(?i)cheap.pills\\d\n", "").start();
    let refused = "554 5.7.1 Your email was rejected because it matches a filter (#1)";
    assert_eq!(answer(&host, "Subject: Cheap Pills7\n\nx\n"), refused);
    assert_eq!(answer(&host, "Subject: x\n\nold\nvery cheap-pills7, really\n"), refused);
    let zero = "554 5.7.1 Your email was rejected because it matches a filter (#0)";
    assert_eq!(answer(&host, "Subject: x\n\nnever\n"), zero);
    assert!(answer(&host, "Subject: x\n\nnever more\ncheap\npills7\n").starts_with("250 "));
    expect_said(
        &host,
        &[
            "simscan:[P]:REGEX:T:#1:127.0.0.1:sender@mx.test:bob@mx.test",
            "simscan:[P]:REGEX:T:#1:127.0.0.1:sender@mx.test:bob@mx.test",
            "simscan:[P]:REGEX:T:#0:127.0.0.1:sender@mx.test:bob@mx.test",
        ],
    );
}

#[test]
fn rules_of_domains_and_users_come_after_those_of_everybody() {
    let host = setup(
        "# each rule refuses a name of its own\n\
         :attach=.all\n\
         a.test:attach=.domain\n\
         joe@A.test:attach=.joe\n\
         joe-list@a.test:attach=.list\n\
         joe-list-owner@a.test:attach=.owner\n\
         free.test:attach=\n\
         bob@mx.test:attach=.bob\n",
        "",
    )
    .start();
    // Six files: the refusal names the one that the rule in force refuses.
    let files: String = ["all", "domain", "joe", "list", "owner", "bob"]
        .map(|end| format!("--b1\nContent-Type: a/b; name=x.{end}\n\nx\n"))
        .concat();
    let text = format!(
        "Subject: six\nMIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b1\n\n{files}--b1--\n"
    );
    let sender = "sender@mx.test";
    for (from, to, refused) in [
        ("", vec![sender], Some("x.all")),
        ("x@other.test", vec![sender], Some("x.all")),
        ("x@a.test", vec![sender], Some("x.domain")),
        ("JOE@a.TEST", vec![sender], Some("x.joe")),
        ("joe-x@a.test", vec![sender], Some("x.joe")),
        ("joe-list@a.test", vec![sender], Some("x.list")),
        ("joe-list-x@a.test", vec![sender], Some("x.list")),
        ("joe-list-owner@a.test", vec![sender], Some("x.owner")),
        ("joex@a.test", vec![sender], Some("x.domain")),
        ("x@sub.a.test", vec![sender], Some("x.all")),
        ("x@free.test", vec![sender], None),
        // Recipients come after the sender, the last of them last.
        ("joe@a.test", vec![sender, "bob@mx.test"], Some("x.bob")),
        ("x@free.test", vec!["BOB@mx.test"], Some("x.bob")),
        ("x@free.test", vec!["bob-list@mx.test"], Some("x.bob")),
    ] {
        let reply = answer_from(&host, from, &to, &text);
        match refused {
            Some(name) => assert_eq!(reply, format!("{SUSPECT}{name}"), "{from} {to:?}"),
            None => assert!(like("250 2.* ok * qp *", &reply), "{from} {to:?}: {reply}"),
        }
    }
}

#[test]
fn an_edited_simcontrol_is_obeyed_by_the_next_message() {
    let host = setup(":attach=.exe\n", "").start();
    // One session sees all of it.
    let mut client = greeted(&host);
    let mut refused = |name: &str| {
        let reply = client.transact("sender@mx.test", &["bob@mx.test"], &named(name)).unwrap().text();
        assert!(reply.starts_with("250 ") || reply == format!("{SUSPECT}{name}"), "{reply}");
        !reply.starts_with("250 ")
    };
    assert!(refused("a.exe") && !refused("a.com"));
    host.control("simcontrol", ":attach=.com\n");
    assert!(!refused("a.exe") && refused("a.com"));

    let source = host.home().join("control/simcontrol");
    let ran = host.run(&["qmailctl", "cdb"]).expect(0);
    assert!(ran.stdout.ends_with(&format!("Reloaded {}.\n", source.display())), "{}", ran.stdout);
    let database = host.home().join("control/simcontrol.cdb");
    assert!(database.exists());
    assert!(!refused("a.exe") && refused("a.com"));

    // Once there is a database the text waits until it is compiled.
    host.control("simcontrol", ":attach=.exe\n");
    assert!(!refused("a.exe") && refused("a.com"));
    host.run(&["qmailctl", "cdb"]).expect(0);
    assert!(refused("a.exe") && !refused("a.com"));

    // A text that cannot be compiled is named and changes nothing.
    host.control("simcontrol", ":attach=.com\nmx.test:spam_hits=many\n");
    let ran = host.run(&["qmailctl", "cdb"]).expect(100);
    assert!(
        ran.stderr.contains("simcontrol") && ran.stderr.contains("line 2: `spam_hits=many`"),
        "{}",
        ran.stderr
    );
    assert!(refused("a.exe") && !refused("a.com"));
}

#[test]
fn rules_that_cannot_be_read_leave_the_old_ones_in_force() {
    let host = setup(":attach=.exe\n", "").start();
    assert!(answer(&host, "x\n").starts_with("250 "));
    host.control("simcontrol", ":attach=.exe\n:clam=perhaps\n");
    assert!(answer(&host, "x\n").starts_with("250 "), "what was there before counts");
    host.wait_log("alert: *control/simcontrol*2*`clam=perhaps`*; what was there before stays in force");
    host.control("simcontrol", ":attach=.exe\n");
    assert!(answer(&host, "x\n").starts_with("250 "));
    host.control("simcontrol.cdb", "no database");
    assert!(answer(&host, "x\n").starts_with("250 "));
    host.wait_log("alert: *simcontrol.cdb*; what was there before stays in force");
}

#[test]
fn ssattach_counts_where_there_is_no_simcontrol() {
    let host = rules(":allow,QMAILQUEUE=\"/var/qmail/bin/simscan\"\n", "")
        .control("ssattach", ".EXE\n.com no\n")
        .start();
    assert_eq!(answer(&host, &named("a.exe")), format!("{SUSPECT}a.exe"));
    assert_eq!(answer(&host, &named("a.com")), format!("{SUSPECT}a.com"));
    host.control("simcontrol", ":clam=no\n");
    assert!(answer(&host, &named("a.exe")).starts_with("250 "));
}

#[test]
fn trophie_is_warned_of_once() {
    let host = setup("\n:clam=no,trophie=yes,attach=.exe\n", "").start();
    for _ in 0..2 {
        assert_eq!(answer(&host, &named("a.exe")), format!("{SUSPECT}a.exe"));
    }
    expect_said(&host, &["simscan:[P]:ATTACH:T:a.exe:127.0.0.1:sender@mx.test:bob@mx.test"; 2]);
    let warnings: Vec<_> = host.log_lines().into_iter().filter(|line| line.contains("trophie")).collect();
    assert_eq!(warnings, ["simscan: warning: line 2: `trophie=yes` has no effect"]);
}

/// The header that delivery and the queue put above `text`, from the trace of simscan on.
fn trace(delivered: &str, text: &str) -> Vec<String> {
    let head = delivered.strip_suffix(text).unwrap_or_else(|| panic!("not at the end: {delivered}"));
    let lines: Vec<_> = head.lines().map(str::to_owned).collect();
    assert!(like("Received: (qmail * invoked from network); * -0000", &lines[2]), "{head}");
    let end = &lines[lines.len() - 2..];
    assert!(like("Received: from unknown (HELO client.test) (127.0.0.1)", &end[0]), "{head}");
    assert!(like("  by mx.test with ESMTP; * -0000", &end[1]), "{head}");
    lines[3..lines.len() - 2].to_vec()
}

#[test]
fn what_passes_has_a_trace_of_what_looked_at_it() {
    let mut make = CdbMake::new();
    for (scanner, version) in [("clamav", "1.4.6/m:62/d:27000"), ("spam", "4.0.1")] {
        make.add(scanner.as_bytes(), version.as_bytes()).unwrap();
    }
    let clamd = Standin::start("stream: OK");
    let text = letter("trace", 5000);
    for (simcontrol, versions, scanners) in [
        (":clam=no\n", true, "none"),
        (":attach=.exe\n", false, "attach: V"),
        (":attach=.exe,regex=never\n", false, "regex: V attach: V"),
        // A scanner whose version nobody knows is not named, as in simscan.
        (":clam=yes,attach=.exe\n", false, "attach: V"),
        (":clam=yes,attach=.exe\n", true, "attach: V clamav: 1.4.6/m:62/d:27000"),
    ] {
        let setup = setup(simcontrol, &format!("clamd: \"{}\"", clamd.address()));
        if versions {
            fs::write(setup.home().join("control/simversions.cdb"), make.clone().finish()).unwrap();
        }
        let host = setup.start();
        assert!(answer(&host, &text).starts_with("250 "));
        let delivered = host.maildir("bob").wait(1, PATIENCE).remove(0);
        let trace = trace(&delivered, &text);
        let own =
            trace[0].strip_prefix("Received: by simscan ").expect(&delivered).split(' ').next().unwrap();
        let (pid, time) = (host.pid(), trace[0].rsplit(' ').next().unwrap());
        assert!(is_time(time), "{delivered}");
        assert!(
            like(&format!("Received: by simscan {own} ppid: *, pid: {pid}, t: *s"), &trace[0]),
            "{delivered}"
        );
        assert_eq!(trace[1..], [format!("\tscanners: {}", scanners.replace('V', own))], "{simcontrol}");
    }
    // The scanner saw what was delivered, without the lines that came later.
    let scanned = clamd.scanned();
    assert_eq!(scanned.len(), 2);
    for message in scanned {
        let message = String::from_utf8(message).unwrap();
        let head = message.strip_suffix(&text).unwrap();
        assert!(
            like("Received: from unknown (HELO client.test) (127.0.0.1)\n  by mx.test with ESMTP; *\n", head),
            "{head}"
        );
    }
}

#[test]
fn a_program_in_simcontrol_gets_what_has_passed() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    mailtree_tests::maildir::open_to_all(dir.path());
    let program = dir.path().join("program");
    let script = format!("#!/bin/sh\ncd {}\ncat >message\ncat <&1 >envelope\n", dir.path().display());
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let control = format!(
        ":attach=.exe,qmailqueue={}\nfree.test:qmailqueue=/var/qmail/bin/qmail-queue\n",
        program.display()
    );
    let host = setup(&control, "").start();
    assert_eq!(answer(&host, &named("a.exe")), format!("{SUSPECT}a.exe"));
    assert!(!dir.path().join("message").exists());
    assert!(like("250 2.* ok * qp *", &answer(&host, "Subject: x\n\nx\n")));
    let message = fs::read_to_string(dir.path().join("message")).unwrap();
    assert!(
        like(
            "Received: by simscan * ppid: *\n\tscanners: attach: *\nReceived: from unknown *\n  by mx.test with ESMTP; *\nSubject: x\n\nx\n",
            &message
        ),
        "{message}"
    );
    assert_eq!(fs::read_to_string(dir.path().join("envelope")).unwrap(), "FSender@mx.test\0Tbob@mx.test\0\0");
    assert_eq!(host.metrics().sum("mailtree_queue_accepted_messages_total", &[]), 0.0);
    // A rule that comes later gives the message back to the queue.
    assert!(answer_from(&host, "x@free.test", &["bob@mx.test"], "Subject: y\n\ny\n").starts_with("250 "));
    host.maildir("bob").wait(1, PATIENCE);
}

/// An address where nobody listens.
const NOBODY: &str = "127.0.0.1:1";

#[test]
fn without_its_scanner_a_message_is_to_come_again() {
    let nowhere = "/nonexistent/clamd.sock";
    for (simcontrol, scanners, trouble) in [
        (":clam=yes\n", format!("clamd: \"{NOBODY}\""), format!("clamav: unable to connect to {NOBODY}: *")),
        (
            ":clam=yes\n",
            format!("clamd: \"{nowhere}\""),
            format!("clamav: unable to connect to {nowhere}: *"),
        ),
        (":spam=yes\n", format!("spamd: \"{NOBODY}\""), format!("spam: unable to connect to {NOBODY}: *")),
        (":spam=yes\n", format!("rspamd: \"{NOBODY}\""), format!("rspamd: unable to connect to {NOBODY}: *")),
        (
            ":spam=yes\n",
            format!("rspamd: \"{NOBODY}\", rspamd_password: \"control/rspamd\""),
            "rspamd: password in */control/rspamd: No such file or directory (os error 2)".to_owned(),
        ),
    ] {
        let host = setup(simcontrol, &scanners).start();
        assert_eq!(answer(&host, "Subject: x\n\nx\n"), TEMPORARY);
        host.wait_log(&format!("simscan:[*]: warning: {trouble}; refused for now"));
        assert_eq!(host.queue_files(), Vec::<PathBuf>::new());
        assert_eq!(host.metrics().sum("mailtree_simscan_scans_total", &["result=\"failed\""]), 1.0);
    }
}

#[test]
fn a_host_that_fails_open_lets_it_pass_with_a_warning() {
    let scanners = format!("clamd: \"{NOBODY}\", spamd: \"{NOBODY}\", fail_open: true");
    let host = setup(":clam=yes,spam=yes,attach=.exe\n", &scanners).start();
    let text = letter("open", 1000);
    assert!(answer(&host, &text).starts_with("250 "));
    for scanner in ["spam", "clamav"] {
        host.wait_log(&format!(
            "simscan:[*]: warning: {scanner}: unable to connect to {NOBODY}: *; passed without it"
        ));
    }
    let delivered = host.maildir("bob").wait(1, PATIENCE).remove(0);
    assert!(like("\tscanners: attach: *", &trace(&delivered, &text)[1]), "{delivered}");
    // What can be checked is.
    assert_eq!(answer(&host, &named("a.exe")), format!("{SUSPECT}a.exe"));
}

#[test]
fn an_answer_that_says_nothing_of_the_message_is_no_answer() {
    for answered in ["stream: Can't allocate memory ERROR", "stream: ", "UNKNOWN COMMAND", ""] {
        let clamd = Standin::start(answered);
        let host = setup(":clam=yes\n", &format!("clamd: \"{}\"", clamd.address())).start();
        assert_eq!(answer(&host, "x\n"), TEMPORARY, "{answered}");
    }
}

#[test]
fn a_scanner_that_hangs_costs_its_message_the_deadline_and_the_others_nothing() {
    // Connections come into its backlog and stay there.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    for (scanner, wanted, name) in [
        (format!("clamd: \"{address}\""), "clam=yes", "clamav"),
        (format!("rspamd: \"{address}\""), "spam=yes", "rspamd"),
    ] {
        hangs(&silent, &scanner, wanted, name);
    }
}

fn hangs(silent: &TcpListener, scanner: &str, wanted: &str, name: &str) {
    let scanners = format!("{scanner}, deadline: \"2s\", at_once: 3");
    let host = setup(&format!("slow.test:{wanted}\n"), &scanners).start();
    let mut slow = greeted(&host);
    let begin = Instant::now();
    let waiting = std::thread::spawn(move || {
        slow.transact("x@slow.test", &["bob@mx.test"], "Subject: slow\n\nx\n").unwrap().text()
    });
    let _held = silent.accept().unwrap();
    for _ in 0..10 {
        assert!(answer(&host, "Subject: quick\n\nx\n").starts_with("250 "));
    }
    assert!(!waiting.is_finished(), "ten others took as long as the deadline");
    assert_eq!(waiting.join().unwrap(), TEMPORARY);
    let took = begin.elapsed();
    assert!(took >= Duration::from_secs(2) && took < Duration::from_secs(5), "{took:?}");
    host.wait_log(&format!("simscan:[*]: warning: {name}: no answer in time; refused for now"));
    host.maildir("bob").wait(10, PATIENCE);
}

#[test]
fn who_waits_for_a_free_scanner_waits_no_longer_than_the_deadline() {
    let clamd = Standin::closed("stream: OK");
    let scanners = format!("clamd: \"{}\", deadline: \"3s\", at_once: 1", clamd.address());
    let host = setup(":clam=yes\n", &scanners).start();
    let send = |subject: &'static str| {
        let mut client = greeted(&host);
        let text = format!("Subject: {subject}\n\nx\n");
        std::thread::spawn(move || client.transact("sender@mx.test", &["bob@mx.test"], &text).unwrap().text())
    };
    let first = send("first");
    clamd.wait_underway(1);
    let begin = Instant::now();
    let second = send("second");
    assert_eq!(second.join().unwrap(), TEMPORARY);
    assert!(begin.elapsed() < Duration::from_secs(6), "{:?}", begin.elapsed());
    assert_eq!(first.join().unwrap(), TEMPORARY);
    clamd.open();
    assert!(send("third").join().unwrap().starts_with("250 "));
}

#[test]
fn twenty_at_once_pass_two_scanners_two_by_two() {
    let clamd = Standin::closed("stream: OK");
    let host = setup(":clam=yes\n", &format!("clamd: \"{}\", at_once: 2", clamd.address())).start();
    let sent: Vec<_> = (0..20)
        .map(|number| {
            let mut client = greeted(&host);
            let text = letter(&format!("scanned-{number}"), 2000);
            std::thread::spawn(move || {
                client.transact("sender@mx.test", &["bob@mx.test"], &text).unwrap().text()
            })
        })
        .collect();
    clamd.wait_underway(2);
    holds_for("two at the scanner", Duration::from_millis(200), || clamd.underway() == 2);
    clamd.open();
    for sent in sent {
        let reply = sent.join().unwrap();
        assert!(reply.starts_with("250 "), "{reply}");
    }
    assert_eq!((clamd.most(), clamd.scanned().len()), (2, 20));
    let messages = host.maildir("bob").wait(20, PATIENCE);
    let copies = mailtree_tests::letter::count(messages.iter().map(String::as_bytes));
    assert!(copies.len() == 20 && copies.values().all(|&count| count == 1), "{copies:?}");
    assert_eq!(host.metrics().sum("mailtree_permits_limit", &["permit=\"scanners\""]), 2.0);
}

#[test]
fn scanned_messages_pass_when_as_many_are_received_as_may_be() {
    let clamd = Standin::closed("stream: OK");
    let host = setup(":clam=yes\n", &format!("clamd: \"{}\"", clamd.address()))
        .field("queue", "(receiving: 4)")
        .start();
    let sent: Vec<_> = (0..4)
        .map(|number| {
            let mut client = greeted(&host);
            let text = letter(&format!("full-{number}"), 2000);
            std::thread::spawn(move || {
                client.transact("sender@mx.test", &["bob@mx.test"], &text).unwrap().text()
            })
        })
        .collect();
    clamd.wait_underway(4);
    clamd.open();
    for sent in sent {
        let reply = sent.join().unwrap();
        assert!(reply.starts_with("250 "), "{reply}");
    }
}

#[test]
fn a_message_of_20_mb_is_streamed_to_the_scanner_not_held() {
    let clamd = Standin::start("stream: OK");
    let host = setup(":clam=yes\n", &format!("clamd: \"{}\"", clamd.address())).start();
    // What one small message takes is taken before.
    assert!(answer(&host, "x\n").starts_with("250 "));
    let before = resident(host.pid());
    let text = letter("large", 20_000_000);
    assert!(answer(&host, &text).starts_with("250 "));
    let grown = peak_resident(host.pid()).saturating_sub(before);
    assert!(grown < 8 * 1024, "{grown} KiB more for one message of 20 MB");
    assert!(clamd.scanned()[1].ends_with(text.as_bytes()));
    let delivered = host.maildir("bob").wait(2, PATIENCE);
    assert!(delivered.iter().any(|message| message.ends_with(&text)));
}

#[test]
fn a_client_that_may_relay_is_scanned_for_all_but_spam() {
    let host = rules(
        ":allow,RELAYCLIENT=\"\",QMAILQUEUE=\"/var/qmail/bin/simscan\"\n",
        &format!("spamd: \"{NOBODY}\""),
    )
    .control("simcontrol", ":spam=yes,attach=.exe\n")
    .start();
    assert!(answer(&host, "Subject: x\n\nx\n").starts_with("250 "));
    assert_eq!(answer(&host, &named("a.exe")), format!("{SUSPECT}a.exe"));
    expect_said(
        &host,
        &[
            "simscan:[P]:RELAYCLIENT:T:-:127.0.0.1:sender@mx.test:bob@mx.test",
            "simscan:[P]:RELAYCLIENT:T:-:127.0.0.1:sender@mx.test:bob@mx.test",
            "simscan:[P]:ATTACH:T:a.exe:127.0.0.1:sender@mx.test:bob@mx.test",
        ],
    );
}

/// Files in a quarantine, which need not exist.
fn quarantined(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    entries.map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap()).collect()
}

#[test]
fn a_virus_leaves_a_copy_in_quarantine_and_an_attachment_does_not() {
    let clamd = Standin::start("stream: Bad FOUND");
    let dir = tempfile::tempdir().unwrap();
    mailtree_tests::maildir::open_to_all(dir.path());
    let scanners = format!("clamd: \"{}\", quarantine: Some(\"{}\")", clamd.address(), dir.path().display());
    let host = setup(":clam=yes,attach=.exe\n", &scanners).start();
    assert_eq!(answer(&host, &named("a.exe")), format!("{SUSPECT}a.exe"));
    assert!(quarantined(dir.path()).is_empty());
    let text = letter("ill", 100_000);
    let refused = "554 5.7.1 Your email was rejected because it contains the Bad virus";
    assert_eq!(answer(&host, &text), refused);
    let copies = quarantined(dir.path());
    assert_eq!(copies.len(), 1);
    let head = copies[0].strip_suffix(&text).unwrap();
    assert!(
        like("Received: from unknown (HELO client.test) (127.0.0.1)\n  by mx.test with ESMTP; *\n", head),
        "{head}"
    );
    let line = host.wait_log("simscan:[*]: quarantine: *");
    let path = PathBuf::from(line.split_once("quarantine: ").unwrap().1);
    assert_eq!(path.parent(), Some(dir.path()));
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    // Without the directory the refusal stands.
    fs::remove_dir_all(dir.path()).unwrap();
    assert_eq!(answer(&host, &text), refused);
    host.wait_log("simscan:[*]: warning: no copy in quarantine: *");
}

mod needs_clamd;

#[test]
fn check_names_a_scanner_that_does_not_answer() {
    let closing = TcpListener::bind("127.0.0.1:0").unwrap();
    let scanners = format!("clamd: \"{NOBODY}\", spamd: \"{}\"", closing.local_addr().unwrap());
    let closed = std::thread::spawn(move || drop(closing.accept().unwrap()));
    let check = |scanners: &str| {
        let setup = setup(":clam=yes\nfree.test:spam=yes\n", scanners);
        setup.write();
        setup.run(&["check", "--changed"]).stderr
    };
    let said = check(&scanners);
    closed.join().unwrap();
    assert!(said.contains(&format!("scanners.clamd: unable to connect to {NOBODY}: ")), "{said}");
    assert!(said.contains("scanners.spamd: connection lost: "), "{said}");
    let said = check(&format!("spamd: \"{NOBODY}\", rspamd: \"{NOBODY}\""));
    assert!(said.contains("scanners.spamd is not asked: scanners.rspamd is"), "{said}");
    assert!(said.contains(&format!("scanners.rspamd: unable to connect to {NOBODY}: ")), "{said}");
    let said = check(&format!("rspamd: \"{NOBODY}\", rspamd_password: \"secret\""));
    assert!(said.contains("scanners.rspamd: password in ") && !said.contains("is not asked"), "{said}");
}

#[test]
fn ehlo_says_how_large_a_message_may_be_that_must_be_looked_at() {
    const MIB: u64 = 1 << 20;
    for (simcontrol, scanners, databytes, announced) in [
        (":attach=.exe\n", "", "0\n", Some(32 * MIB)),
        (":attach=.exe\n", "", "50000000\n", Some(32 * MIB)),
        (":attach=.exe\n", "", "5000\n", Some(5000)),
        (":clam=yes\n", "", "0\n", None),
        (":attach=.exe\nmx.test:attach=\n", "", "0\n", None),
        (":attach=.exe\n", "fail_open: true", "0\n", None),
    ] {
        let setup = setup(simcontrol, scanners).control("databytes", databytes);
        setup.write();
        let said = setup.run(&["explain", "ip", "192.0.2.1"]).expect(0).stdout;
        let size = said.lines().find(|line| line.starts_with("size ")).expect(&said);
        let looked_at = size.ends_with("simscan looks at every message and at no larger one");
        assert_eq!(looked_at, announced == Some(32 * MIB), "{size}");
        let host = setup.start();
        let mut client = host.smtp();
        let offered = client.say("EHLO client.test", 250);
        let line = announced.map_or("SIZE".to_owned(), |size| format!("SIZE {size}"));
        assert!(offered.lines.iter().any(|said| said[4..] == line), "{line}: {}", offered.text());
        if let Some(size) = announced {
            client.say(&format!("MAIL FROM:<a@a.test> SIZE={}", size + 1), 552);
        }
    }
    // Rules that are made while the host is up count for the next client.
    let host = setup("", "").control("databytes", "0\n").start();
    host.control("simcontrol", ":attach=.exe\n");
    wait_until("the new rules to be announced", PATIENCE, || {
        host.smtp().say("EHLO client.test", 250).text().contains("SIZE 33554432")
    });
}

mod needs_spamd;

mod needs_rspamd;
