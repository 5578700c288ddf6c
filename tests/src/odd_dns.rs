//! A name server that answers as no good one does: a function makes each answer from the question's bytes.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::{Arc, Mutex};
use std::thread;

/// A question as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Its name in lower case, without the trailing dot.
    pub name: String,
    /// Its type: 1 A, 15 MX, 16 TXT, 28 AAAA.
    pub kind: u16,
    /// Its id.
    pub id: u16,
    /// It has an OPT record (RFC 6891).
    pub edns: bool,
    /// It came by TCP.
    pub tcp: bool,
}

/// An answer: response code, whether it says that it is cut (TC), records as type and data.
pub struct Said {
    /// RCODE (RFC 1035 4.1.1).
    pub code: u8,
    /// TC.
    pub cut: bool,
    /// Records of the name that was asked for, each for a day.
    pub records: Vec<(u16, Vec<u8>)>,
}

/// The server; its threads end with the process.
pub struct OddDns {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl OddDns {
    /// Starts it at a port of its own, by UDP and TCP. `answer` says none to say nothing.
    pub fn start(answer: impl Fn(&Asked) -> Option<Said> + Send + Sync + 'static) -> Self {
        let (udp, tcp) = std::iter::repeat_with(|| {
            let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
            let tcp = TcpListener::bind(udp.local_addr().unwrap());
            tcp.map(|tcp| (udp, tcp))
        })
        .find_map(Result::ok)
        .unwrap();
        let server = Self { address: udp.local_addr().unwrap(), asked: Arc::default() };
        let answer = Arc::new(answer);
        let (by_udp, log) = (Arc::clone(&answer), Arc::clone(&server.asked));
        thread::spawn(move || {
            let mut question = [0; 4096];
            while let Ok((length, client)) = udp.recv_from(&mut question) {
                if let Some(answer) = answered(&question[..length], false, &log, &*by_udp) {
                    drop(udp.send_to(&answer, client));
                }
            }
        });
        let log = Arc::clone(&server.asked);
        thread::spawn(move || {
            for stream in tcp.incoming().map_while(Result::ok) {
                let (mut stream, answer, log) = (stream, Arc::clone(&answer), Arc::clone(&log));
                thread::spawn(move || {
                    let mut length = [0; 2];
                    while stream.read_exact(&mut length).is_ok() {
                        let mut question = vec![0; u16::from_be_bytes(length).into()];
                        stream.read_exact(&mut question).ok()?;
                        let answer = answered(&question, true, &log, &*answer)?;
                        let length = u16::try_from(answer.len()).unwrap();
                        stream.write_all(&[&length.to_be_bytes()[..], &answer].concat()).ok()?;
                    }
                    Some(())
                });
            }
        });
        server
    }

    /// Where it answers.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What was asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

/// An MX record's data: an exchanger below the name that was asked for.
pub fn exchanger(preference: u16, label: &str) -> (u16, Vec<u8>) {
    let label = [&[u8::try_from(label.len()).unwrap()], label.as_bytes()].concat();
    (15, [&preference.to_be_bytes()[..], &label, b"\xc0\x0c"].concat())
}

fn answered(
    question: &[u8],
    tcp: bool,
    log: &Mutex<Vec<Asked>>,
    answer: &dyn Fn(&Asked) -> Option<Said>,
) -> Option<Vec<u8>> {
    let (mut at, mut labels) = (12, Vec::new());
    while question[at] != 0 {
        let label = &question[at + 1..][..question[at].into()];
        labels.push(String::from_utf8_lossy(label).to_ascii_lowercase());
        at += 1 + label.len();
    }
    let number = |at: usize| u16::from_be_bytes([question[at], question[at + 1]]);
    let asked =
        Asked { name: labels.join("."), kind: number(at + 1), id: number(0), edns: number(10) > 0, tcp };
    log.lock().unwrap().push(asked.clone());
    let Said { code, cut, records } = answer(&asked)?;
    let flags = 0x8180 | u16::from(cut) << 9 | u16::from(code);
    let count = u16::try_from(records.len()).unwrap();
    let mut out = [asked.id, flags, 1, count, 0, 0].map(u16::to_be_bytes).concat();
    out.extend_from_slice(&question[12..at + 5]);
    for (kind, data) in records {
        out.extend_from_slice(b"\xc0\x0c");
        out.extend_from_slice(&[kind.to_be_bytes(), 1_u16.to_be_bytes()].concat());
        out.extend_from_slice(&86_400_u32.to_be_bytes());
        out.extend_from_slice(&u16::try_from(data.len()).unwrap().to_be_bytes());
        out.extend_from_slice(&data);
    }
    Some(out)
}
