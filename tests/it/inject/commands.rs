//! The commands themselves: what comes to the queue, what is said, and how they end.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;

use mailtree_tests::host::{Host, PATIENCE, Ran, Setup};
use mailtree_tests::letter::{self, letter};
use mailtree_tests::local::Local;

/// A home that no host runs in, whose messages come to the file `got`: the message, a line `=`, and the envelope's records.
fn caught() -> (Setup, Local) {
    let setup = Setup::new();
    setup.write();
    let local = Local::before(&setup);
    script(&local, "qq", "exec 3<&1; { cat; echo =; cat <&3 | tr '\\0' '\\n'; } >\"$GOT\"");
    (setup, local)
}

fn script(local: &Local, name: &str, text: &str) {
    let path = local.write(name, format!("#!/bin/sh\n{text}\n"));
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// What came of a command line; the message first, then the envelope.
fn came(local: &Local, line: &str, input: &str) -> (Ran, String, String) {
    let got = local.file("got");
    std::fs::remove_file(&got).unwrap_or(());
    let ran = local.run(&format!("export QMAILQUEUE=$PWD/qq GOT=$PWD/got USER=me; {line}"), input);
    let text = std::fs::read_to_string(got).unwrap_or_default();
    let (message, envelope) = text.split_once("=\nF").unwrap_or_default();
    (ran, message.to_owned(), format!("F{envelope}").trim_end().replace('\n', " "))
}

#[test]
fn what_comes_to_the_queue_is_what_was_meant() {
    let (_setup, local) = caught();
    let message = "From: me@x.test\nTo: bob, \"A B\" <c@d.test>\nBcc: hidden\nSubject: s\n\nbody\n.\nend";
    for (line, envelope) in [
        ("qmail-inject", "Fme@mx.test Tc@d.test Tbob@mx.test Thidden@mx.test"),
        ("qmail-inject -f you@y.test x y+", "Fyou@y.test Tx@mx.test Ty+@mx.test"),
        ("QMAILINJECT=r qmail-inject", "Fme-@mx.test-@[] Tc@d.test Tbob@mx.test Thidden@mx.test"),
        ("sendmail x@y.test", "Fme@mx.test Tx@y.test"),
        ("sendmail -ti -fyou@y.test", "Fyou@y.test Tc@d.test Tbob@mx.test Thidden@mx.test"),
        ("sendmail -oi -t -f '<>' z", "F Tz@mx.test Tc@d.test Tbob@mx.test Thidden@mx.test"),
        ("sendmail -i -- -dash", "Fme@mx.test T-dash@mx.test"),
        ("datemail -t", "Fme@mx.test Tc@d.test Tbob@mx.test Thidden@mx.test"),
        ("mailtree sendmail -t", "Fme@mx.test Tc@d.test Tbob@mx.test Thidden@mx.test"),
    ] {
        let line = line.replace("mailtree", mailtree_tests::host::binary().to_str().unwrap());
        let line = if line.contains("/mailtree") {
            format!("MAILTREE_HOME={} {line}", local.home().display())
        } else {
            line
        };
        let (ran, text, came) = came(&local, &line, message);
        assert_eq!((ran.code, &*ran.stderr, &*came), (Some(0), "", envelope), "{line}: {text}");
        // A line of a dot is the message's own, and its last line gets an end.
        assert!(text.ends_with("Subject: s\n\nbody\n.\nend\n"), "{line}: {text}");
        assert!(!text.contains("hidden") && text.contains("To: bob@mx.test, \"A B\" <c@d.test>\n"), "{text}");
        let zone = text.lines().find(|line| line.starts_with("Date: ")).unwrap().ends_with(" -0000");
        assert_eq!(zone, !line.starts_with("datemail"), "{text}");
    }
    let line = "TZ=Asia/Tokyo datemail bob";
    assert!(came(&local, line, "\nx\n").1.contains(" +0900\n"));
    let (ran, text, envelope) = came(&local, "mailsubj 'a\nBcc: evil' bob carol@x.test", "text\n");
    assert_eq!((ran.code, &*envelope), (Some(0), "Fme@mx.test Tcarol@x.test Tbob@mx.test"), "{ran:#?}");
    assert!(text.ends_with("Subject: a Bcc: evil\nTo: bob@mx.test, carol@x.test\n\ntext\n"), "{text}");
    let (ran, text, _) = came(&local, "sendmail -FFull\\ Name -f u@h.test bob", "\nx\n");
    assert_eq!(ran.code, Some(0));
    assert!(text.contains("From: \"Full Name\" <u@h.test>\n"), "{text}");
    let (ran, text, _) = came(&local, "sendmail -t", "To: bob\r\nSubject: dos\r\n\r\nbody\r\n");
    assert_eq!(ran.code, Some(0));
    assert!(text.ends_with("To: bob@mx.test\nSubject: dos\n\nbody\n"), "{text:?}");
    // Shown, not queued.
    let (ran, text, _) = came(&local, "qmail-inject -n", message);
    assert!(ran.stdout.starts_with("Return-Path: <me@mx.test>\nDate: ") && text.is_empty(), "{ran:#?}");
    let lists = local.write("lists", "list@x.test\n");
    let line = format!("QMAILMFTFILE={} qmail-inject", lists.display());
    assert!(came(&local, &line, "To: list@x.test\n\n").1.contains("Mail-Followup-To: list@x.test\n"));
}

#[test]
fn what_is_wrong_is_said_with_qmails_words_and_codes() {
    let (setup, local) = caught();
    for (line, input, code, said) in [
        (
            "qmail-inject",
            "From: (\n\n",
            100,
            "qmail-inject: fatal: unable to parse this line:\nqmail-inject: fatal: From: (\n",
        ),
        ("qmail-inject 'a@b\"c'", "\n", 100, "qmail-inject: fatal: unable to parse address: a@b\"c\n"),
        ("qmail-inject -z", "\n", 100, "qmail-inject: illegal option -- z\n"),
        ("qmail-inject -f", "\n", 100, "qmail-inject: option requires an argument -- f\n"),
        ("qmail-inject </", "", 111, "qmail-inject: fatal: read error: Is a directory (os error 21)\n"),
        ("newaliases", "", 100, "sendmail: fatal: please use fastforward/newaliases instead\n"),
        (
            "sendmail -bd -q15m",
            "",
            100,
            "sendmail: usage: sendmail [ -t ] [ -fsender ] [ -Fname ] [ -bp ] [ -bs ] [ arg ... ]\n",
        ),
        ("mailsubj", "", 100, "mailsubj: usage: mailsubj subject recip ...\n"),
        (
            "QMAILQUEUE=/bin/false qmail-inject bob",
            "\n",
            111,
            "qmail-inject: fatal: qq temporary problem (#4.3.0)\n",
        ),
        ("QMAILQUEUE=$PWD/spam qmail-inject bob", "\n", 100, "qmail-inject: fatal: spam (#5.7.1)\n"),
        (
            "QMAILQUEUE=/nonexistent sendmail bob",
            "\n",
            111,
            "qmail-inject: fatal: unable to exec qq (#4.3.0)\n",
        ),
    ] {
        script(&local, "spam", "cat >/dev/null; cat <&1 >/dev/null; echo 'Dspam (#5.7.1)' >&6; exit 82");
        let (ran, text, _) = came(&local, line, input);
        assert_eq!((ran.code, &*ran.stderr, &*text), (Some(code), said, ""), "{line}");
    }
    // A control file that is none is named; one that is missing is me.
    std::fs::write(setup.home().join("control/defaulthost"), "a\u{1}b\n").unwrap();
    let (ran, ..) = came(&local, "qmail-inject bob", "\n");
    let file = setup.home().join("control/defaulthost").display().to_string();
    assert!(ran.code == Some(100) && ran.stderr.contains(&format!("{file}:1: ")), "{ran:#?}");
    std::fs::write(setup.home().join("control/defaulthost"), "dh\n").unwrap();
    std::fs::write(setup.home().join("control/defaultdomain"), "dd.test\n").unwrap();
    std::fs::write(setup.home().join("control/plusdomain"), "pd.test\n").unwrap();
    std::fs::write(setup.home().join("control/idhost"), "id.test\n").unwrap();
    let (ran, text, envelope) = came(&local, "qmail-inject bob a@b a@b+", "\n");
    assert_eq!((ran.code, &*envelope), (Some(0), "Fme@dh.dd.test Tbob@dh.dd.test Ta@b.dd.test Ta@b.pd.test"));
    assert!(text.contains(".qmail@id.test>\n"), "{text}");
}

#[test]
fn a_large_message_passes_through_in_pieces() {
    let host = Host::start();
    let local = Local::of(&host);
    let text = letter("huge", 40_000_000);
    local.write("huge", &text);
    // No process may have as much memory as the message has bytes.
    let ran = local.run("ulimit -v 700000; sendmail -f sender@mx.test bob@mx.test <huge", "");
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    let arrived = host.maildir("bob").wait(1, PATIENCE * 2);
    assert_eq!(letter::read(arrived[0].as_bytes()), Ok("huge".to_owned()));
}

#[test]
fn smtp_on_standard_input_is_for_programs_of_this_machine() {
    let host = Host::start();
    let local = Local::of(&host);
    let dialogue = "EHLO me\r\nMAIL FROM:<sender@mx.test>\r\nRCPT TO:<bob@mx.test>\r\nDATA\r\n\
                    Subject: bs\r\n\r\n..dot\r\n.\r\nMAIL FROM:<>\r\nRSET\r\nQUIT\r\n";
    let ran = local.run("sendmail -bs", dialogue);
    let codes: Vec<_> = ran.stdout.lines().map(|line| &line[..3]).collect();
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    assert!(codes.ends_with(&["250", "250", "354", "250", "250", "250", "221"]), "{ran:#?}");
    assert!(ran.stdout.starts_with("220 mx.test ESMTP\r\n"), "{ran:#?}");
    let texts = host.maildir("bob").wait(1, PATIENCE);
    assert!(
        texts[0].contains(
            "Received: from localhost (HELO me) (sendmail-bs@127.0.0.1)\n  by localhost with ESMTP; "
        ) && texts[0].ends_with("Subject: bs\n\n.dot\n"),
        "{}",
        texts[0]
    );
    // One that leaves in the middle leaves nothing behind.
    let ran = local.run("sendmail -bs", &dialogue[..dialogue.find(".\r\nMAIL").unwrap()]);
    assert_eq!(ran.code, Some(0));
    host.wait_queue_empty(PATIENCE);
    // A client of the network would be let send to anybody.
    let ran = local.run("PROTO=TCP TCPREMOTEIP=192.0.2.1 sendmail -bs", dialogue);
    assert_eq!((ran.code, &*ran.stdout), (Some(100), ""), "{ran:#?}");
    assert!(ran.stderr.starts_with("sendmail: fatal: -bs is for programs of this machine"), "{ran:#?}");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let socket = listener.accept().unwrap().0;
    let mut command = local.shell("sendmail -bs 2>/dev/null");
    command
        .stdin(std::os::fd::OwnedFd::from(socket.try_clone().unwrap()))
        .stdout(std::os::fd::OwnedFd::from(socket));
    let status = command.status().unwrap();
    drop(command);
    let mut said = String::new();
    client.read_to_string(&mut said).unwrap();
    assert_eq!((status.code(), &*said), (Some(100), ""));
}

#[test]
fn mailq_lists_and_sendmail_q_has_everything_tried() {
    let host = Host::start();
    let local = Local::of(&host);
    // Nobody answers for the domain: it waits.
    assert_eq!(local.run("sendmail -f sender@mx.test bob@far.test", "\nx\n").code, Some(0));
    host.wait_log("delivery *: deferral: *");
    // After a few seconds the message has its files.
    mailtree_tests::wait::wait_until("the queue's listing", PATIENCE, || {
        let listed = local.run("mailq", "");
        listed.stdout.contains("\tremote\tbob@far.test\n")
            && local.run("sendmail -bp", "").stdout == listed.stdout
    });
    let before = host.log().matches(": deferral: ").count();
    assert_eq!(local.run("sendmail -q", "").code, Some(0));
    mailtree_tests::wait::wait_until("another attempt", PATIENCE, || {
        host.log().matches(": deferral: ").count() > before
    });
}

/// One connection, served by qmail-qmqpd; the reply to what is said.
fn qmqp(local: &Local, said: &[u8]) -> (Option<i32>, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let socket = listener.accept().unwrap().0;
    let mut command =
        local.shell("TCPREMOTEIP=192.0.2.7 TCPREMOTEHOST=c.test TCPLOCALHOST=s.test exec qmail-qmqpd");
    command
        .stdin(std::os::fd::OwnedFd::from(socket.try_clone().unwrap()))
        .stdout(std::os::fd::OwnedFd::from(socket));
    let mut child = command.spawn().unwrap();
    drop(command);
    client.write_all(said).unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let mut reply = String::new();
    client.read_to_string(&mut reply).unwrap();
    (child.wait().unwrap().code(), reply)
}

fn netstring(bytes: &[u8]) -> Vec<u8> {
    [format!("{}:", bytes.len()).as_bytes(), bytes, b","].concat()
}

#[test]
fn qmqp_is_taken_in_as_qmail_qmqpd_takes_it() {
    let host = Host::start();
    let local = Local::of(&host);
    let message =
        |parts: &[&[u8]]| netstring(&parts.iter().flat_map(|part| netstring(part)).collect::<Vec<_>>());
    let (code, reply) = qmqp(&local, &message(&[b"Subject: q\n\nq\n", b"sender@mx.test", b"bob@mx.test"]));
    assert!(
        code == Some(0) && reply.contains(":Kok ") && reply.contains(" qp ") && reply.ends_with(','),
        "{reply}"
    );
    let texts = host.maildir("bob").wait(1, PATIENCE);
    assert!(
        texts[0].contains("Received: from c.test (192.0.2.7)\n  by s.test with QMQP; ")
            && texts[0].ends_with("Subject: q\n\nq\n"),
        "{}",
        texts[0]
    );
    let refused = "51:Dsorry, I can't accept addresses like that (#5.1.3),";
    for (parts, reply) in
        [(&[&b"x\n"[..], b"a@b", &[b'a'; 1000]][..], refused), (&[b"x\n", b"a\0b", b"bob@mx.test"], refused)]
    {
        assert_eq!(qmqp(&local, &message(parts)), (Some(0), reply.to_owned()));
    }
    for (said, code) in [
        (&b"x"[..], 100),
        (b"5:2:ab,", 100),
        (b"300000000000:", 111),
        (b"", 0),
        (b"20:3:abc,", 0),
        (b"7:3:abc:", 100),
    ] {
        assert_eq!(qmqp(&local, said), (Some(code), String::new()), "{said:?}");
    }
    host.wait_queue_empty(PATIENCE);
}

/// A QMQP server that answers each client so, and what it heard.
fn server(answer: &'static [u8], clients: usize) -> (std::net::SocketAddr, std::thread::JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let thread = std::thread::spawn(move || {
        let mut heard = Vec::new();
        for _ in 0..clients {
            let mut stream = listener.accept().unwrap().0;
            let mut length = Vec::new();
            let mut byte = [0];
            while stream.read(&mut byte).unwrap() == 1 && byte != *b":" {
                length.push(byte[0]);
            }
            let length: usize = String::from_utf8(length).unwrap().parse().unwrap();
            heard = vec![0; length + 1];
            stream.read_exact(&mut heard).unwrap();
            stream.write_all(answer).unwrap();
        }
        heard
    });
    (address, thread)
}

#[test]
fn qmail_qmqpc_stands_in_for_qmail_queue() {
    let (setup, local) = caught();
    let servers = setup.home().join("control/qmqpservers");
    let inject = "QMAILQUEUE=$PWD/bin/qmail-qmqpc USER=me qmail-inject bob";
    // No file, and no server.
    let said = |text: &str| format!("qmail-inject: fatal: {text}\n");
    assert_eq!(local.run(inject, "\nx\n").stderr, said("qq unable to read configuration (#4.3.0)"));
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    std::fs::write(&servers, format!("{nobody}\n")).unwrap();
    assert_eq!(local.run(inject, "\nx\n").stderr, said("connection to mail server rejected (#4.4.1)"));
    for (answer, said) in [
        (&b"9:Kok 1 qp 2,"[..], String::new()),
        (b"4:Dno!,", said("mail server permanently rejected message (#5.3.0)")),
        (b"3:Zno,", said("mail server temporarily rejected message (#4.3.0)")),
        (b"", said("communication with mail server failed (#4.4.2)")),
    ] {
        let (address, thread) = server(answer, 1);
        // One that does not listen is passed over.
        std::fs::write(&servers, format!("nonsense\n{nobody}\n{address}\n")).unwrap();
        assert_eq!(local.run(inject, "X: y\n\nx\n").stderr, said);
        let heard = String::from_utf8(thread.join().unwrap()).unwrap();
        assert!(heard.contains("X: y\n\nx\n,10:me@mx.test,11:bob@mx.test,,"), "{heard}");
    }
    // The two together.
    let host = Host::start();
    let other = Local::of(&host);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    std::fs::write(&servers, format!("{}\n", listener.local_addr().unwrap())).unwrap();
    let large = letter("large", 5_000_000);
    local.write("large", &large);
    let line = inject.replace(" bob", " -f sender@mx.test bob@mx.test <large");
    let child = local.start(&line);
    let socket = listener.accept().unwrap().0;
    let mut command = other.shell("exec qmail-qmqpd");
    command
        .stdin(std::os::fd::OwnedFd::from(socket.try_clone().unwrap()))
        .stdout(std::os::fd::OwnedFd::from(socket));
    let status = command.status().unwrap();
    drop(command);
    let output = child.wait_with_output().unwrap();
    assert_eq!((status.code(), output.status.code()), (Some(0), Some(0)), "{output:?}");
    let texts = host.maildir("bob").wait(1, PATIENCE);
    assert!(texts[0].ends_with(&large[large.find("\n\n").unwrap()..]));
}
