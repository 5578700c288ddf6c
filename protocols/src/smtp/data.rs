//! Mail data from the wire (RFC 5321 4.5.2): dots unstuffed, lines ended with LF, hops and bytes counted.
//!
//! CR LF . CR LF alone ends the data. A CR or LF that is not part of a CR LF is refused whatever surrounds it, so no two
//! hosts can disagree about where the message ends.

use crate::reply::Refusal;

/// Received and Delivered-To lines at which a message is looping (MAXHOPS in qmail-smtpd.c).
const MAX_HOPS: u32 = 100;

/// As much of a header line as tells whether it is a hop.
const HEAD: usize = 12;

/// What the bytes just read came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// All read, the data goes on.
    More,
    /// CRLF.CRLF was read.
    End,
    /// A CR or LF alone was read.
    StrayNewline,
}

#[derive(Debug)]
enum Place {
    LineStart,
    /// After a dot that began a line.
    Dot,
    /// After such a dot and CR.
    DotCr,
    Line,
    Cr,
}

#[derive(Debug)]
pub(super) struct DataReader {
    place: Place,
    /// Limit of stored bytes; 0 for none.
    databytes: u64,
    stored: u64,
    hops: u32,
    in_header: bool,
    head: [u8; HEAD],
    head_len: usize,
}

impl DataReader {
    pub(super) const fn new(databytes: u64) -> Self {
        Self {
            place: Place::LineStart,
            databytes,
            stored: 0,
            hops: 0,
            in_header: true,
            head: [0; HEAD],
            head_len: 0,
        }
    }

    /// Reads until the end of `input` or of the data; returns how much was read.
    pub(super) fn read(&mut self, input: &[u8], body: &mut Vec<u8>) -> (usize, Progress) {
        let mut at = 0;
        while at < input.len() {
            let byte = input[at];
            match (&self.place, byte) {
                (Place::Cr, b'\n') => {
                    self.place = Place::LineStart;
                    self.end_line(body);
                }
                (Place::DotCr, b'\n') => return (at + 1, Progress::End),
                (Place::Cr | Place::DotCr, _) | (_, b'\n') => return (at + 1, Progress::StrayNewline),
                (Place::Dot, b'\r') => self.place = Place::DotCr,
                (_, b'\r') => self.place = Place::Cr,
                (Place::LineStart, b'.') => self.place = Place::Dot,
                _ => {
                    let rest = &input[at..];
                    let run = &rest[..memchr::memchr2(b'\r', b'\n', rest).unwrap_or(rest.len())];
                    self.place = Place::Line;
                    self.text(run, body);
                    at += run.len();
                    continue;
                }
            }
            at += 1;
        }
        (at, Progress::More)
    }

    /// Whether the message that has ended may be kept.
    pub(super) const fn verdict(&self) -> Result<(), Refusal> {
        if self.hops >= MAX_HOPS {
            Err(Refusal::too_many_hops())
        } else if self.over_databytes() {
            Err(Refusal::databytes())
        } else {
            Ok(())
        }
    }

    const fn over_databytes(&self) -> bool {
        self.databytes != 0 && self.stored > self.databytes
    }

    fn text(&mut self, run: &[u8], body: &mut Vec<u8>) {
        if self.in_header {
            let fits = run.len().min(HEAD - self.head_len);
            self.head[self.head_len..self.head_len + fits].copy_from_slice(&run[..fits]);
            self.head_len += fits;
        }
        self.store(run, body);
    }

    fn end_line(&mut self, body: &mut Vec<u8>) {
        if self.in_header {
            let head = &self.head[..self.head_len];
            let begins = |name: &[u8]| head.get(..name.len()).is_some_and(|h| h.eq_ignore_ascii_case(name));
            if begins(b"received") || begins(b"delivered-to") {
                self.hops = self.hops.saturating_add(1);
            }
            self.in_header = self.head_len > 0;
            self.head_len = 0;
        }
        self.store(b"\n", body);
    }

    /// Once the message is refused its bytes are counted and dropped.
    fn store(&mut self, bytes: &[u8], body: &mut Vec<u8>) {
        self.stored = self.stored.saturating_add(bytes.len() as u64);
        if self.verdict().is_ok() {
            body.extend_from_slice(bytes);
        }
    }
}
