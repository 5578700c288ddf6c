//! Scans against servers that answer, hang, close and talk rubbish.

use std::io::Write as _;

use mailtree_protocols::simscan::simcontrol::Simcontrol;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener};

use super::*;

const MAIL: &str = "Subject: a: b\n\nhello\n";

/// What a server does with its connection.
#[derive(Clone, Copy)]
enum Does {
    /// Reads clamd's stream or a request to its end, then says this.
    Answers(&'static str),
    /// Says this at once, and closes.
    Interrupts(&'static str),
    /// Reads a little, and says this.
    Hastens(&'static str),
    /// Reads, and says nothing.
    Hangs,
    /// Says more than anybody reads.
    Babbles,
}

async fn server(does: Does) -> Address {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, does));
        }
    });
    Address::Tcp(address)
}

async fn serve(mut stream: TcpStream, does: Does) {
    let mut read = Vec::new();
    match does {
        Does::Interrupts(text) => stream.write_all(text.as_bytes()).await.unwrap(),
        Does::Hastens(text) => {
            stream.read_buf(&mut read).await.unwrap();
            stream.write_all(text.as_bytes()).await.unwrap();
            std::future::pending().await
        }
        Does::Babbles => while stream.write_all(&[b'x'; 4096]).await.is_ok() {},
        Does::Answers(_) | Does::Hangs => {
            let mut buffer = [0; 4096];
            loop {
                let got = stream.read(&mut buffer).await.unwrap_or(0);
                read.extend_from_slice(&buffer[..got]);
                let done = got == 0
                    || is_whole_post(&read)
                    || read.starts_with(b"zINSTREAM\0") && read.len() > 18 && read.ends_with(&[0; 4]);
                match does {
                    Does::Answers(text) if done => {
                        stream.write_all(text.as_bytes()).await.unwrap();
                        return;
                    }
                    _ if got == 0 => std::future::pending().await,
                    _ => {}
                }
            }
        }
    }
}

/// Whether all of a request of HTTP has come.
fn is_whole_post(read: &[u8]) -> bool {
    let Some(head) = memchr::memmem::find(read, b"\r\n\r\n") else { return false };
    let fields = String::from_utf8_lossy(&read[..head]).to_ascii_lowercase();
    let length = fields.lines().find_map(|line| line.strip_prefix("content-length: "));
    fields.starts_with("post ")
        && length.is_some_and(|length| read.len() - head - 4 >= length.parse().unwrap())
}

struct Host {
    home: TempDir,
    settings: Settings,
}

impl Host {
    async fn new(clamd: Does, spamd: Does) -> Self {
        let home = tempfile::tempdir().unwrap();
        let settings = Settings {
            clamd: server(clamd).await,
            spam: SpamScanner::Spamd(server(spamd).await),
            deadline: Duration::from_millis(700),
            fail_open: false,
            drop: false,
            quarantine: None,
            mime_limit: MIME_LIMIT,
            versions: Versions {
                simscan: "1.4.0".into(),
                clamav: Some("0.103".into()),
                spam: Some("4.0".into()),
                rspamd: Some("3.4".into()),
            },
        };
        Self { home, settings }
    }

    /// One that asks rspamd for spam.
    async fn rspamd(does: Does) -> Self {
        let mut host = Self::new(CLEAN, Does::Hangs).await;
        host.settings.spam = SpamScanner::Rspamd(Rspamd { address: server(does).await, password: None });
        host
    }

    fn message(&self, mail: &str, control: &str) -> Message {
        let file = self.home.path().join("mess");
        let mut out = std::fs::File::create(&file).unwrap();
        out.write_all(b"skipped").unwrap();
        out.write_all(mail.as_bytes()).unwrap();
        let control = Simcontrol::parse(control.as_bytes()).unwrap();
        Message {
            file,
            skip: 7,
            size: mail.len() as u64,
            sender: b"Joe@a.example".to_vec(),
            recipients: vec![b"b@x.example".to_vec()],
            ip: Some("192.0.2.1".parse().unwrap()),
            helo: Some(b"client.example".to_vec()),
            host: Some("r.example".to_owned()),
            user: None,
            qp: 4711,
            relayclient: false,
            pid: 47,
            permit: None,
            options: control.evaluate(b"", []).options,
        }
    }

    async fn scan(&self, mail: &str, control: &str) -> Scan {
        scan(&self.settings, self.message(mail, control)).await
    }
}

const CLEAN: Does = Does::Answers("stream: OK\0");
const VIRUS: Does = Does::Answers("stream: Eicar FOUND\0");
const HAM: Does = Does::Answers(
    "SPAMD/1.1 0 EX_OK\r\nContent-length: 57\r\nSpam: False ; 1.5 / 5.0\r\n\r\nReceived: x\r\nX-Spam-Status: No,\r\n\tscore=1.5\r\nSubject: x\r\n",
);
const SPAM: Does =
    Does::Answers("SPAMD/1.1 0 EX_OK\r\nSpam: True ; 15.0 / 5.0\r\n\r\nX-Spam-Flag: YES\r\n\r\n");

/// The lines without what differs from run to run.
fn lines(scan: &Scan) -> Vec<String> {
    let took =
        |part: &str| part.len() >= 7 && part.ends_with('s') && part[..part.len() - 1].parse::<f64>().is_ok();
    let line = |line: &String| {
        line.split(':').map(|part| if took(part) { "T" } else { part }).collect::<Vec<_>>().join(":")
    };
    scan.log.iter().map(line).collect()
}

#[tokio::test]
async fn a_clean_message_passes_with_its_fields() {
    let host = Host::new(CLEAN, HAM).await;
    let scan = host.scan(MAIL, ":clam=yes,spam=yes,attach=.exe,regex=never").await;
    assert_eq!(scan.verdict, Verdict::Pass);
    assert_eq!(
        lines(&scan),
        ["simscan:[47]:CLEAN (1.50/5.00/5.00):T:a_ b:192.0.2.1:joe@a.example:b@x.example"]
    );
    let header = String::from_utf8(scan.header).unwrap();
    let (received, rest) = header.split_once('\n').unwrap();
    assert!(
        received
            .starts_with(&format!("Received: by simscan 1.4.0 ppid: 47, pid: {}, t: ", std::process::id()))
    );
    assert_eq!(
        rest,
        "\tscanners: regex: 1.4.0 attach: 1.4.0 clamav: 0.103 spam: 4.0\nX-Spam-Status: No,\n\tscore=1.5\n"
    );
}

#[tokio::test]
async fn what_is_found_is_refused() {
    let attachment = "Content-Disposition: attachment; filename=X.exe\nSubject: a\n\n";
    for (clamd, spamd, mail, text, line) in [
        (VIRUS, HAM, MAIL, "Your email was rejected because it contains the Eicar virus", "VIRUS:T:Eicar"),
        (
            CLEAN,
            SPAM,
            MAIL,
            "Your email is considered spam (15.00 spam-hits)",
            "SPAM REJECT (15.00/5.00/12.00):T:a_ b",
        ),
        (
            Does::Hangs,
            HAM,
            attachment,
            "Your email was rejected because it contains a bad attachment: x.exe",
            "ATTACH:T:x.exe",
        ),
        (
            Does::Hangs,
            Does::Hangs,
            "\nenlarge it\n",
            "Your email was rejected because it matches a filter (#1)",
            "REGEX:T:#1",
        ),
    ] {
        let host = Host::new(clamd, spamd).await;
        let scan = host.scan(mail, ":clam=yes,spam=yes,spam_hits=12,attach=.exe,regex=viagra:^enlarge").await;
        let Verdict::Reject(_, refused) = &scan.verdict else { panic!("{scan:?}") };
        assert_eq!(refused, text);
        let expected = format!("simscan:[47]:{line}:192.0.2.1:joe@a.example:b@x.example");
        assert_eq!(lines(&scan).last(), Some(&expected));
        assert_eq!(scan.header, b"");
    }
}

#[tokio::test]
async fn a_scanner_in_trouble_never_makes_a_message_clean() {
    // Bound, so that nobody else gets the port, and nobody listens.
    let bound = tokio::net::TcpSocket::new_v4().unwrap();
    bound.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let gone = bound.local_addr().unwrap();
    let control = ":clam=yes,spam=yes";
    for does in [
        Does::Hangs,
        Does::Babbles,
        Does::Interrupts(""),
        Does::Interrupts("stream: OK"),
        Does::Interrupts("SPAMD/1.1 0 EX_OK\r\n"),
        Does::Answers(""),
        Does::Answers("rubbish\r\n\r\n\0"),
        Does::Answers("stream: Can't allocate memory ERROR\0"),
        Does::Answers("SPAMD/1.1 79 EX_TIMEOUT\r\n\r\n"),
        Does::Answers("SPAMD/1.1 0 EX_OK\r\nContent-length: 999\r\nSpam: False ; 1 / 5\r\n\r\nshort"),
        Does::Answers("SPAMD/1.1 0 EX_OK\r\nContent-length: 99999999\r\nSpam: False ; 1 / 5\r\n\r\n"),
    ] {
        for clamd_fails in [true, false] {
            let mut host =
                if clamd_fails { Host::new(does, HAM).await } else { Host::new(CLEAN, does).await };
            // Longer than the buffers of a connection.
            let mail = format!("{MAIL}{}", "x".repeat(200_000));
            let answered = matches!(does, Does::Interrupts("stream: OK"));
            let scan = host.scan(&mail, control).await;
            assert!(matches!(scan.verdict, Verdict::Temporary(_)) || answered && clamd_fails, "{scan:?}");
            if !answered {
                host.settings.fail_open = true;
                let scan = host.scan(&mail, control).await;
                assert_eq!(scan.verdict, Verdict::Pass);
                assert!(scan.log.iter().any(|line| line.contains("warning")), "{scan:?}");
            }
        }
    }
    let mut host = Host::new(CLEAN, HAM).await;
    host.settings.clamd = Address::Tcp(gone);
    assert!(matches!(host.scan(MAIL, control).await.verdict, Verdict::Temporary(_)));
    host.settings.clamd = Address::Unix("/nonexistent".into());
    assert!(matches!(host.scan(MAIL, control).await.verdict, Verdict::Temporary(_)));
}

#[tokio::test]
async fn an_rspamd_in_trouble_never_makes_a_message_clean() {
    const PASSES: &str = "HTTP/1.1 200 OK\r\nContent-Length: 62\r\n\r\n\
        {\"action\":\"no action\",\"score\":1.5,\"required_score\":15.0}      ";
    assert_eq!(
        Host::rspamd(Does::Answers(PASSES)).await.scan(MAIL, ":spam=yes").await.verdict,
        Verdict::Pass
    );
    for does in [
        Does::Hangs,
        Does::Babbles,
        Does::Interrupts(""),
        Does::Interrupts("HTTP/1.1 200 OK\r\n"),
        // Before it has seen the message.
        Does::Interrupts(PASSES),
        Does::Hastens(PASSES),
        Does::Answers(""),
        Does::Answers("rubbish\r\n\r\n"),
        Does::Answers("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        Does::Answers("HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{\"action\":\"no action\",\"score\":1}"),
        Does::Answers("HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n{}"),
        Does::Answers("HTTP/1.1 200 OK\r\nContent-Length: 33\r\n\r\n{\"action\":\"other one\",\"score\":1}"),
        Does::Answers(
            "HTTP/1.1 401 Unauthorized\r\nContent-Length: 34\r\n\r\n{\"action\":\"no action\",\"score\":1.5}",
        ),
        Does::Answers("HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n"),
    ] {
        let mut host = Host::rspamd(does).await;
        // Longer than the buffers of a connection.
        let mail = format!("{MAIL}{}", "x".repeat(8_000_000));
        let scan = host.scan(&mail, ":spam=yes").await;
        assert!(matches!(scan.verdict, Verdict::Temporary(_)), "{scan:?}");
        host.settings.fail_open = true;
        let scan = host.scan(&mail, ":spam=yes").await;
        assert_eq!(scan.verdict, Verdict::Pass);
        assert!(scan.log[0].starts_with("simscan:[47]: warning: rspamd: "), "{scan:?}");
    }
}

#[tokio::test]
async fn an_answer_of_rspamd_without_end_is_given_up() {
    let address = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            // An answer before the question is another fault.
            stream.read_exact(&mut [0]).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            while stream.write_all(&[b' '; 4096]).await.is_ok() {}
        });
        Address::Tcp(address)
    };
    let mut host = Host::new(CLEAN, HAM).await;
    host.settings.deadline = Duration::from_secs(60);
    host.settings.spam = SpamScanner::Rspamd(Rspamd { address, password: None });
    let scan = host.scan(MAIL, ":spam=yes").await;
    assert_eq!(
        scan.verdict,
        Verdict::Temporary("rspamd: answer too long; allowed: 1048576 bytes".to_owned())
    );
}

/// What a server on a socket hears of the first message.
async fn heard_by_rspamd(host: &mut Host, password: Option<PathBuf>, message: Message) -> (Scan, String) {
    let path = host.home.path().join("rspamd.sock");
    let listener = UnixListener::bind(&path).unwrap();
    host.settings.spam = SpamScanner::Rspamd(Rspamd { address: Address::Unix(path), password });
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut read = Vec::new();
        while !is_whole_post(&read) {
            stream.read_buf(&mut read).await.unwrap();
        }
        let answer = "{\"action\":\"add header\",\"score\":7,\"required_score\":15,\"symbols\":{\"A\":{}}}";
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{answer}", answer.len());
        stream.write_all(answer.as_bytes()).await.unwrap();
        String::from_utf8(read).unwrap()
    });
    let scan = scan(&host.settings, message).await;
    (scan, server.await.unwrap())
}

#[tokio::test]
async fn rspamd_is_told_of_the_message_and_its_answer_is_shown() {
    let mut host = Host::new(CLEAN, HAM).await;
    let password = host.home.path().join("password");
    std::fs::write(&password, "secret word \n").unwrap();
    let message = Message { user: Some(b"joe".to_vec()), ..host.message(MAIL, ":spam=yes,spamuser=bob") };
    let (scan, heard) = heard_by_rspamd(&mut host, Some(password), message).await;
    let (head, body) = heard.split_once("\r\n\r\n").unwrap();
    let mut said: Vec<_> = head.lines().map(str::to_ascii_lowercase).collect();
    assert_eq!(said.remove(0), "post /checkv2 http/1.1");
    said.sort();
    let length = format!("content-length: {}", MAIL.len());
    let expected = [
        &length,
        "deliver-to: bob",
        "from: <joe@a.example>",
        "helo: client.example",
        "host: rspamd",
        "hostname: r.example",
        "ip: 192.0.2.1",
        "password: secret word",
        "queue-id: 4711",
        "rcpt: <b@x.example>",
        "user: joe",
    ];
    assert_eq!((said, body), (expected.map(str::to_owned).to_vec(), MAIL));
    assert_eq!(scan.verdict, Verdict::Pass);
    assert_eq!(
        lines(&scan),
        ["simscan:[47]:PASSTHRU (7.00/15.00/15.00):T:a_ b:192.0.2.1:joe@a.example:b@x.example"]
    );
    let header = String::from_utf8(scan.header).unwrap();
    assert!(
        header.ends_with(
            "\tscanners: rspamd: 3.4\nX-Spam: Yes\nX-Spam-Flag: YES\n\
             X-Spam-Status: Yes, score=7.00 required=15.00\n\ttests=A\n"
        ),
        "{header}"
    );
}

#[tokio::test]
async fn a_password_that_cannot_be_read_is_trouble_and_is_not_shown() {
    let mut host = Host::rspamd(Does::Hangs).await;
    let path = host.home.path().join("password");
    for (text, why) in [
        (None, "No such file or directory (os error 2)"),
        (Some("sec\x01ret"), "allowed: one line without control characters"),
    ] {
        if let Some(text) = text {
            std::fs::write(&path, text).unwrap();
        }
        let address = server(Does::Hangs).await;
        host.settings.spam = SpamScanner::Rspamd(Rspamd { address, password: Some(path.clone()) });
        let scan = host.scan(MAIL, ":spam=yes").await;
        let why = format!("rspamd: password in {}: {why}", path.display());
        assert_eq!(scan.verdict, Verdict::Temporary(why));
    }
}

#[tokio::test]
async fn a_hanging_spamd_takes_no_virus_through() {
    let mut host = Host::new(VIRUS, Does::Hangs).await;
    host.settings.fail_open = true;
    let scan = host.scan(MAIL, ":clam=yes,spam=yes").await;
    assert!(matches!(scan.verdict, Verdict::Reject(State::Virus, _)), "{scan:?}");
}

#[tokio::test]
async fn a_socket_in_the_filesystem() {
    let mut host = Host::new(CLEAN, HAM).await;
    let path = host.home.path().join("clamd.ctl");
    let listener = UnixListener::bind(&path).unwrap();
    host.settings.clamd = Address::Unix(path);
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut read = vec![0; 10 + 4 + MAIL.len() + 4];
        stream.read_exact(&mut read).await.unwrap();
        stream.write_all(b"stream: Eicar FOUND\0").await.unwrap();
        read
    });
    let scan = host.scan(MAIL, ":clam=yes").await;
    assert!(matches!(scan.verdict, Verdict::Reject(State::Virus, _)), "{scan:?}");
    let length = u32::try_from(MAIL.len()).unwrap().to_be_bytes();
    let expected = [b"zINSTREAM\0", &length[..], MAIL.as_bytes(), &[0; 4]].concat();
    assert_eq!(server.await.unwrap(), expected);
}

#[tokio::test]
async fn who_may_relay_is_not_asked_for_spam() {
    let host = Host::new(CLEAN, Does::Hangs).await;
    let message = Message { relayclient: true, ..host.message(MAIL, ":spam=yes") };
    let relayed = scan(&host.settings, message).await;
    assert_eq!(relayed.verdict, Verdict::Pass);
    assert_eq!(lines(&relayed), ["simscan:[47]:RELAYCLIENT:T:-:192.0.2.1:joe@a.example:b@x.example"]);
    let large = host.scan(&format!("{MAIL}{}", "x".repeat(250_000)), ":spam=yes").await;
    assert_eq!((large.verdict, large.log), (Verdict::Pass, vec![]));
}

#[tokio::test]
async fn a_message_too_large_to_look_at_is_refused_for_good() {
    let mut host = Host::new(CLEAN, HAM).await;
    host.settings.mime_limit = 10;
    let scan = host.scan(MAIL, ":attach=.exe").await;
    let expected = format!("attach: {} bytes are too many to look at; allowed: 10", MAIL.len());
    assert_eq!(scan.verdict, Verdict::TooLarge(expected.clone()), "{scan:?}");
    assert_eq!(scan.log, [format!("simscan:[47]: warning: {expected}; refused")]);
    assert_eq!(host.scan(MAIL, ":clam=yes").await.verdict, Verdict::Pass);
    host.settings.fail_open = true;
    let scan = host.scan(MAIL, ":attach=.exe").await;
    assert_eq!(scan.verdict, Verdict::Pass);
    assert!(scan.log[0].contains("warning"), "{scan:?}");
}

/// Nobody is asked about a message that cannot pass.
#[tokio::test]
async fn a_message_too_large_to_look_at_takes_nobodys_time() {
    let mut host = Host::new(Does::Hangs, Does::Hangs).await;
    host.settings.mime_limit = 10;
    let scan = host.scan(MAIL, ":clam=yes,spam=yes,attach=.exe").await;
    assert!(matches!(scan.verdict, Verdict::TooLarge(_)), "{scan:?}");
}

#[tokio::test]
async fn a_message_too_large_for_a_scanner_is_refused_for_good() {
    let clamd = Host::new(Does::Interrupts("INSTREAM size limit exceeded. ERROR\0"), HAM).await;
    let rspamd = Host::rspamd(Does::Hastens("HTTP/1.1 413 Too large\r\nContent-Length: 0\r\n\r\n")).await;
    for (mut host, control, why) in [
        (clamd, ":clam=yes", "clamav: clamd: INSTREAM size limit exceeded. ERROR"),
        (rspamd, ":spam=yes", "rspamd: rspamd: 413 "),
    ] {
        let mail = format!("{MAIL}{}", "x".repeat(8_000_000));
        let scan = host.scan(&mail, control).await;
        assert_eq!(scan.verdict, Verdict::TooLarge(why.to_owned()));
        assert_eq!(scan.log, [format!("simscan:[47]: warning: {why}; refused")]);
        host.settings.fail_open = true;
        assert_eq!(host.scan(&mail, control).await.verdict, Verdict::Pass);
    }
}

#[tokio::test]
async fn what_cannot_be_looked_through_counts_as_bad() {
    let host = Host::new(CLEAN, HAM).await;
    let scan = host.scan(&"Content-Type: message/rfc822\n\n".repeat(20_000), ":attach=.exe").await;
    assert!(matches!(scan.verdict, Verdict::Reject(State::Attach, _)), "{scan:?}");
}

#[tokio::test]
async fn a_short_file_is_temporary() {
    let host = Host::new(CLEAN, HAM).await;
    for control in [":clam=yes", ":spam=yes", ":regex=x"] {
        let mut message = host.message(MAIL, control);
        message.size += 1;
        let scan = scan(&host.settings, message).await;
        assert!(matches!(scan.verdict, Verdict::Temporary(_)), "{control} {scan:?}");
    }
}

#[tokio::test]
async fn spam_and_viruses_leave_a_copy() {
    use std::os::unix::fs::MetadataExt as _;
    for (clamd, spamd, drop) in [(VIRUS, HAM, false), (CLEAN, SPAM, true)] {
        let mut host = Host::new(clamd, spamd).await;
        let directory = host.home.path().join("quarantine");
        host.settings.quarantine = Some(directory.clone());
        host.settings.drop = drop;
        let lost = host.scan(MAIL, ":clam=yes,spam=yes").await;
        // Without its copy a message is not dropped, but may be refused.
        assert_eq!(matches!(lost.verdict, Verdict::Temporary(_)), drop, "{lost:?}");
        std::fs::create_dir(&directory).unwrap();
        let scan = host.scan(MAIL, ":clam=yes,spam=yes").await;
        assert_eq!(matches!(scan.verdict, Verdict::Drop(State::SpamDropped)), drop, "{scan:?}");
        let copies: Vec<_> =
            std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(copies.len(), 1);
        assert_eq!(std::fs::read_to_string(&copies[0]).unwrap(), MAIL);
        assert_eq!(std::fs::metadata(&copies[0]).unwrap().mode() & 0o777, 0o600);
    }
    let mut host = Host::new(CLEAN, HAM).await;
    host.settings.quarantine = Some(host.home.path().join("none"));
    assert_eq!(host.scan(MAIL, ":clam=yes,spam=yes").await.verdict, Verdict::Pass);
}
