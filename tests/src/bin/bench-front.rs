//! The front door under load: sessions that wait for DNS, and a flood of wrong passwords.
//!
//! Usage: `mailtree-bench-front [--messages N] [--sessions N] [--rtt MILLISECONDS] [--domains N]`.
//!
//! 1. Every session comes from an address of its own, is looked up in two lists, and its sender in SPF, at a name server
//!    that answers after RTT. One session after the other cannot do better than a message in two RTTs; N of them at once
//!    not better than N in two RTTs, as far as no answer is known yet. The ratio to that limit is printed, and memory.
//! 2. One session sends mail and NOOPs, alone and beside 200 wrong logins a second. The ratio of its waits is printed.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark fails by panicking")]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hickory_server::proto::op::{Message, ResponseCode};
use hickory_server::proto::rr::rdata::TXT;
use hickory_server::proto::rr::{RData, Record, RecordType};
use mailtree_tests::host::Setup;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpSocket, UdpSocket};

/// Wrong logins a second.
const FLOOD: u32 = 200;

struct Work {
    messages: usize,
    sessions: usize,
    rtt: u64,
    domains: usize,
}

fn main() {
    let work = arguments();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(lookups(&work));
    runtime.block_on(flood());
}

fn arguments() -> Work {
    let mut work = Work { messages: 6000, sessions: 200, rtt: 200, domains: 500 };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value: Option<usize> = words.next().and_then(|value| value.parse().ok());
        let value = value.unwrap_or_else(|| usage());
        match word.as_str() {
            "--messages" => work.messages = value,
            "--sessions" => work.sessions = value,
            "--rtt" => work.rtt = value as u64,
            "--domains" => work.domains = value,
            _ => usage(),
        }
    }
    work
}

fn usage() -> ! {
    eprintln!("usage: mailtree-bench-front [--messages N] [--sessions N] [--rtt MILLISECONDS] [--domains N]");
    std::process::exit(100)
}

async fn lookups(work: &Work) {
    let (dns, asked) = name_server(Duration::from_millis(work.rtt)).await;
    let host = Setup::new()
        .smtpd(&format!(
            "concurrency: {}, rblsmtpd: [\"-r\", \"one.test\", \"-r\", \"two.test\"]",
            work.sessions * 2
        ))
        .control("spfbehavior", "3\n")
        .field("resolver", format!("(servers: [\"{dns}\"], deadline: \"10s\", in_flight: 4096)"))
        .rules(":allow\n")
        .start();
    let address = host.address().get();
    println!(
        "{} messages from {} sessions at once, a session a message, {} sender domains, name server {} ms away",
        work.messages, work.sessions, work.domains, work.rtt
    );
    let next = Arc::new(AtomicUsize::new(0));
    let (messages, domains) = (work.messages, work.domains);
    let begin = Instant::now();
    let third = Arc::new(AtomicUsize::new(0));
    let sessions: Vec<_> = (0..work.sessions)
        .map(|_| {
            let (next, third) = (Arc::clone(&next), Arc::clone(&third));
            let pid = host.pid();
            tokio::spawn(async move {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= messages {
                        return;
                    }
                    if n == messages / 3 {
                        third.store(resident(pid), Ordering::Relaxed);
                    }
                    let mut client = Client::from(client_address(n), address).await;
                    client.expect("220").await;
                    client.ask("EHLO client.test", "250").await;
                    client.ask(&format!("MAIL FROM:<a@d{}.test>", n % domains), "250").await;
                    client.ask("RCPT TO:<bob@mx.test>", "250").await;
                    client.ask("DATA", "354").await;
                    client.ask("Subject: x\r\n\r\nx\r\n.", "250").await;
                    client.ask("QUIT", "221").await;
                }
            })
        })
        .collect();
    for session in sessions {
        session.await.unwrap();
    }
    let elapsed = begin.elapsed().as_secs_f64();
    let rate = messages as f64 / elapsed;
    let limit = work.sessions as f64 / (2.0 * work.rtt as f64 / 1000.0);
    println!(
        "accepted {rate:.0}/s; {:.2} x the {limit:.0}/s of two waits a message; one after the other would be {:.1}/s",
        rate / limit,
        500.0 / work.rtt as f64
    );
    println!(
        "{} questions; memory {} MiB after a third, {} MiB at the end",
        asked.load(Ordering::Relaxed),
        third.load(Ordering::Relaxed) / 1024,
        resident(host.pid()) / 1024
    );
}

async fn flood() {
    let host = Setup::new()
        .smtpd("concurrency: 400, environment: {\"SMTPAUTH\": \"\"}, auth_in_clear: true")
        .start();
    let address = host.address().get();
    // Warm: files read, threads started.
    for _ in 0..2 {
        watch(address, 100).await;
    }
    let quiet = watch(address, 400).await;
    let stop = Arc::new(AtomicBool::new(false));
    let wrong = Arc::new(AtomicUsize::new(0));
    let flooding = {
        let (stop, wrong) = (Arc::clone(&stop), Arc::clone(&wrong));
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(Duration::from_secs(1) / FLOOD);
            let mut n = 0;
            let mut logins = tokio::task::JoinSet::new();
            while !stop.load(Ordering::Relaxed) {
                ticks.tick().await;
                n += 1;
                let wrong = Arc::clone(&wrong);
                logins.spawn(async move {
                    let mut client = Client::from(client_address(n), address).await;
                    client.expect("220").await;
                    client.ask("EHLO client.test", "250").await;
                    // From everywhere and for everybody, as a botnet does it: nothing of it is slowed or refused, and
                    // each costs a hash, for that of nobody takes as long as that of a user.
                    let secret = base64(&format!("\0user{n}@mx.test\0wrong{n}"));
                    let reply = client.say(&format!("AUTH PLAIN {secret}")).await;
                    if reply.starts_with("535") {
                        wrong.fetch_add(1, Ordering::Relaxed);
                    }
                    client.ask("QUIT", "221").await;
                });
            }
            logins.join_all().await;
        })
    };
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (begin, before) = (Instant::now(), wrong.load(Ordering::Relaxed));
    let loaded = watch(address, 400).await;
    let rate = (wrong.load(Ordering::Relaxed) - before) as f64 / begin.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    flooding.await.unwrap();
    println!("wrong logins: {FLOOD}/s begun, {rate:.0}/s answered with 535 at once");
    for (what, quiet, loaded) in
        [("NOOP", &quiet.noop, &loaded.noop), ("message", &quiet.message, &loaded.message)]
    {
        println!(
            "{what:8} median {:7.2} ms alone, {:7.2} ms beside them: {:.2} x; of the slowest tenth {:7.2} and {:7.2} ms: {:.2} x",
            part(quiet, 0.5),
            part(loaded, 0.5),
            part(loaded, 0.5) / part(quiet, 0.5),
            part(quiet, 0.9),
            part(loaded, 0.9),
            part(loaded, 0.9) / part(quiet, 0.9)
        );
    }
}

/// Waits in milliseconds.
struct Waits {
    noop: Vec<f64>,
    message: Vec<f64>,
}

/// One session's waits for replies.
async fn watch(address: SocketAddr, count: usize) -> Waits {
    let mut client = Client::from(Ipv4Addr::LOCALHOST, address).await;
    client.expect("220").await;
    client.ask("EHLO client.test", "250").await;
    let mut waits = Waits { noop: Vec::new(), message: Vec::new() };
    let since = |begin: Instant| begin.elapsed().as_secs_f64() * 1000.0;
    for _ in 0..count {
        let begin = Instant::now();
        client.ask("NOOP", "250").await;
        waits.noop.push(since(begin));
        let begin = Instant::now();
        client.ask("MAIL FROM:<sender@mx.test>", "250").await;
        client.ask("RCPT TO:<bob@mx.test>", "250").await;
        client.ask("DATA", "354").await;
        client.ask("Subject: x\r\n\r\nx\r\n.", "250").await;
        waits.message.push(since(begin));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    client.ask("QUIT", "221").await;
    waits
}

fn part(values: &[f64], part: f64) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * part) as usize]
}

fn client_address(n: usize) -> Ipv4Addr {
    let [_, a, b, c] = u32::try_from(n + 256).unwrap().to_be_bytes();
    Ipv4Addr::new(127, a + 1, b, c)
}

/// Resident memory in KiB.
fn resident(pid: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

struct Client {
    lines: BufReader<tokio::net::tcp::OwnedReadHalf>,
    out: OwnedWriteHalf,
}

impl Client {
    async fn from(ip: Ipv4Addr, to: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from((ip, 0))).unwrap();
        let stream = socket.connect(to).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (read, out) = stream.into_split();
        Self { lines: BufReader::new(read), out }
    }

    async fn reply(&mut self) -> String {
        loop {
            let mut line = String::new();
            self.lines.read_line(&mut line).await.unwrap();
            if line.as_bytes().get(3) != Some(&b'-') {
                return line;
            }
        }
    }

    async fn expect(&mut self, code: &str) {
        let reply = self.reply().await;
        assert!(reply.starts_with(code), "{code} expected, not {reply:?}");
    }

    async fn say(&mut self, line: &str) -> String {
        self.out.write_all(format!("{line}\r\n").as_bytes()).await.unwrap();
        self.reply().await
    }

    async fn ask(&mut self, line: &str, code: &str) {
        let reply = self.say(line).await;
        assert!(reply.starts_with(code), "{line}: {code} expected, not {reply:?}");
    }
}

fn base64(text: &str) -> String {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in text.as_bytes().chunks(3) {
        let bits =
            chunk.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for n in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * n) & 63) as usize];
            out.push(if n <= chunk.len() { char::from(letter) } else { '=' });
        }
    }
    out
}

/// A name server that takes its time: nobody is listed, and every other name permits this host in SPF.
async fn name_server(rtt: Duration) -> (SocketAddr, Arc<AtomicUsize>) {
    let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
    let address = socket.local_addr().unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    tokio::spawn(async move {
        let mut buffer = [0; 1500];
        loop {
            let Ok((length, from)) = socket.recv_from(&mut buffer).await else { continue };
            let Ok(question) = Message::from_vec(&buffer[..length]) else { continue };
            counted.fetch_add(1, Ordering::Relaxed);
            let socket = Arc::clone(&socket);
            tokio::spawn(async move {
                tokio::time::sleep(rtt).await;
                let answer = answer(&question).to_vec().unwrap();
                socket.send_to(&answer, from).await.ok();
            });
        }
    });
    (address, asked)
}

fn answer(question: &Message) -> Message {
    let query = question.queries.first().unwrap().clone();
    let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
    answer.metadata.recursion_available = true;
    let name = query.name().clone();
    let listed = ["one.test.", "two.test."].iter().any(|list| name.to_string().ends_with(list));
    if listed {
        answer.metadata.response_code = ResponseCode::NXDomain;
    } else if query.query_type() == RecordType::TXT {
        let text = TXT::new(vec!["v=spf1 ip4:127.0.0.0/8 -all".to_owned()]);
        answer.answers.push(Record::from_rdata(name, 300, RData::TXT(text)));
    }
    answer.queries.push(query);
    answer
}
