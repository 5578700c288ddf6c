//! What qmail-inject makes of a message: its envelope, and the fields that are missing (qmail-inject.8, qmail-header.5).

mod addresses;
mod field;
pub mod fields;
pub mod getopt;
mod header;
mod options;
mod quote;
pub mod receipt;
mod token;

use std::collections::HashSet;

use jiff::Timestamp;

use header::Header;
pub use options::{Options, Recipients};

/// Longest header, in bytes, as it comes and as it goes.
pub const MAX_HEADER: usize = 1 << 20;

/// Bytes of addresses that one message may have.
const MAX_ADDRESSES: usize = 16 << 20;

/// Why a message is not taken: what to say behind `qmail-inject: fatal: `, and exit code 100.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fatal(pub Vec<u8>);

impl Fatal {
    fn line(line: &[u8]) -> Self {
        Self([b"unable to parse this line:\n", line].concat())
    }

    fn address(address: &[u8]) -> Self {
        Self([b"unable to parse address: ", address, b"\n"].concat())
    }

    fn too_long(what: &str, max: usize) -> Self {
        Self(format!("{what} longer than {max} bytes\n").into_bytes())
    }
}

/// The control files that matter, each one line.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Controls {
    /// `defaultdomain`.
    pub defaultdomain: Vec<u8>,
    /// `defaulthost`.
    pub defaulthost: Vec<u8>,
    /// `plusdomain`.
    pub plusdomain: Vec<u8>,
    /// `idhost`.
    pub idhost: Vec<u8>,
}

/// When and by which process a message is injected.
#[derive(Debug, Clone, Copy)]
pub struct Occasion {
    /// Now.
    pub now: Timestamp,
    /// The process.
    pub pid: u32,
}

/// Sender and recipients of a message, as qmail-queue takes them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// Without angle brackets.
    pub sender: Vec<u8>,
    /// In qmail's order: those of the command line, then those of the header, each field from its end.
    pub recipients: Vec<Vec<u8>>,
}

/// A message on its way through qmail-inject.
#[derive(Debug)]
pub struct Inject {
    header: Option<Header>,
    envelope: Option<Envelope>,
    /// The line that is not whole yet; in the body, a carriage return that may belong to a line's end.
    pending: Vec<u8>,
    lines: Lines,
    /// The last byte of the body.
    last: u8,
    /// Bytes of the header so far.
    size: usize,
}

/// How lines end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lines {
    /// It is not known yet.
    Unknown,
    /// In LF.
    Lf,
    /// In CR LF: so ended the first one. They come to end in LF.
    CrLf,
}

impl Inject {
    /// A message for `options`; `followup` are the lines of `$QMAILMFTFILE`, if there is one.
    ///
    /// # Errors
    /// An address on the command line, or a control file, that cannot be read.
    pub fn new(
        options: &Options,
        controls: &Controls,
        followup: Option<HashSet<Vec<u8>>>,
        occasion: Occasion,
    ) -> Result<Self, Fatal> {
        Ok(Self {
            header: Some(Header::new(options, controls, followup, occasion)?),
            envelope: None,
            pending: Vec::new(),
            lines: Lines::Unknown,
            last: b'\n',
            size: 0,
        })
    }

    /// More of the message, in pieces of any size. What is to go to the queue is put behind `out`: nothing before the header
    /// is whole.
    ///
    /// # Errors
    /// A field that cannot be read, or a header that is too long.
    pub fn push(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Fatal> {
        while self.header.is_some() {
            let Some(end) = memchr::memchr(b'\n', bytes) else {
                self.pending.extend_from_slice(bytes);
                return if self.size + self.pending.len() > MAX_HEADER {
                    Err(self.too_long())
                } else {
                    Ok(())
                };
            };
            let (line, rest) = bytes.split_at(end + 1);
            bytes = rest;
            let mut line = if self.pending.is_empty() {
                line.to_vec()
            } else {
                self.pending.extend_from_slice(line);
                std::mem::take(&mut self.pending)
            };
            self.unix(&mut line);
            self.line(line, out)?;
        }
        self.body(bytes, out);
        Ok(())
    }

    /// The message is whole.
    ///
    /// # Errors
    /// As [`Inject::push`].
    pub fn finish(mut self, out: &mut Vec<u8>) -> Result<Envelope, Fatal> {
        if self.header.is_some() && !self.pending.is_empty() {
            let mut line = std::mem::take(&mut self.pending);
            line.push(b'\n');
            self.unix(&mut line);
            self.line(line, out)?;
        }
        self.end_header(out)?;
        out.extend_from_slice(&self.pending);
        if self.pending.last().is_some_and(|&byte| byte != b'\n') || self.last != b'\n' {
            out.push(b'\n');
        }
        self.envelope.ok_or_else(|| Fatal(b"internal bug\n".to_vec()))
    }

    /// Whether the header is whole, and the queue may be called.
    #[must_use]
    pub fn is_in_body(&self) -> bool {
        self.header.is_none()
    }

    fn too_long(&self) -> Fatal {
        Fatal::too_long("header", MAX_HEADER)
    }

    /// How the first line ends, all lines end that end so.
    fn unix(&mut self, line: &mut Vec<u8>) {
        let crlf = line.ends_with(b"\r\n");
        if self.lines == Lines::Unknown {
            self.lines = if crlf { Lines::CrLf } else { Lines::Lf };
        }
        if crlf && self.lines == Lines::CrLf {
            line.truncate(line.len() - 2);
            line.push(b'\n');
        }
    }

    /// One line of the header, or the first of the body.
    fn line(&mut self, line: Vec<u8>, out: &mut Vec<u8>) -> Result<(), Fatal> {
        let Some(header) = &mut self.header else {
            self.body(&line, out);
            return Ok(());
        };
        self.size += line.len();
        if self.size > MAX_HEADER {
            return Err(self.too_long());
        }
        if header.line(&line)? {
            return Ok(());
        }
        self.end_header(out)?;
        if line != b"\n" {
            out.push(b'\n');
        }
        out.extend_from_slice(&line);
        Ok(())
    }

    fn end_header(&mut self, out: &mut Vec<u8>) -> Result<(), Fatal> {
        if let Some(header) = self.header.take() {
            self.envelope = Some(header.finish(out)?);
        }
        Ok(())
    }

    fn body(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        let Some(&last) = bytes.last() else { return };
        if self.lines != Lines::CrLf {
            self.last = last;
            out.extend_from_slice(bytes);
            return;
        }
        for &byte in bytes {
            if byte != b'\n' {
                out.append(&mut self.pending);
            }
            self.pending.clear();
            if byte == b'\r' {
                self.pending.push(byte);
            } else {
                out.push(byte);
            }
        }
        self.last = last;
    }
}

#[cfg(test)]
mod tests;
