//! `qmail-inject`, `datemail`'s and `mailsubj`'s work too: completes a message and hands it to the queue
//! (qmail-inject.8, datemail.1, mailsubj.1).

use std::collections::HashSet;
use std::ffi::OsString;
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::Path;
use std::process::ExitCode;

use jiff::{Timestamp, Zoned};
use mailtree_config::{Control, Host, control, regular};
use mailtree_protocols::inject::getopt::Unknown;
use mailtree_protocols::inject::{Controls, Envelope, Fatal, Inject, Occasion, Options};

use crate::failure::{Doing as _, Failure};
use crate::output;
use crate::qmail_open;

/// Bytes read at once.
const CHUNK: usize = 64 * 1024;

/// Bytes of `$QMAILMFTFILE`.
const LISTS_MAX: u64 = 16 << 20;

/// What is set in the environment beside what the process has: `None` where it is not to be.
pub(super) type Overlay = Vec<(&'static str, Option<Vec<u8>>)>;

/// `qmail-inject`.
pub(super) fn run(home: &Path, arguments: &[OsString]) -> ExitCode {
    inject(home, &words(arguments), &Overlay::new(), stdin())
}

/// `mailsubj`: the first word is the subject, the others are recipients.
pub(super) fn mailsubj(home: &Path, arguments: &[OsString]) -> ExitCode {
    let Some((subject, recipients)) = arguments.split_first() else {
        errln!("mailsubj: usage: mailsubj subject recip ...");
        return ExitCode::from(100);
    };
    // A subject is one line, whatever a script put into it.
    let one_line = |word: &OsString| -> Vec<u8> {
        word.as_bytes().iter().map(|&byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { byte }).collect()
    };
    let recipients: Vec<_> = recipients.iter().map(one_line).collect();
    let head = [b"Subject: ", &one_line(subject)[..], b"\nTo: ", &recipients.join(&b' '), b"\n\n"].concat();
    inject(home, &[], &Overlay::new(), io::Cursor::new(head).chain(stdin()))
}

/// The line that `datemail` puts on top: now, by the clock of this place.
pub(super) fn date() -> Vec<u8> {
    Zoned::now().strftime("Date: %-d %b %Y %H:%M:%S %z\n").to_string().into_bytes()
}

pub(super) fn words(arguments: &[OsString]) -> Vec<Vec<u8>> {
    arguments.iter().map(|word| word.clone().into_vec()).collect()
}

/// Standard input, as it is.
pub(super) fn stdin() -> impl Read {
    struct Stdin;
    impl Read for Stdin {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            Ok(rustix::io::read(io::stdin(), buffer)?)
        }
    }
    Stdin
}

/// Injects what `input` gives.
pub(super) fn inject(home: &Path, words: &[Vec<u8>], overlay: &Overlay, input: impl Read) -> ExitCode {
    let variable = |name: &str| match overlay.iter().find(|(over, _)| *over == name) {
        Some((_, value)) => value.clone(),
        None => std::env::var_os(name).map(OsString::into_vec),
    };
    let options = match Options::read(words, variable) {
        Ok(options) => options,
        Err(Unknown(text)) => {
            errln!("qmail-inject: {text}");
            return ExitCode::from(100);
        }
    };
    match message(home, &options, input) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report("qmail-inject"),
    }
}

fn message(home: &Path, options: &Options, mut input: impl Read) -> Result<(), Failure> {
    let followup = lists(std::env::var_os("QMAILMFTFILE"))?;
    let occasion = Occasion { now: Timestamp::now(), pid: std::process::id() };
    let mut inject = Inject::new(options, &controls(home)?, followup, occasion).map_err(fatal)?;
    let mut sink = if options.show { Sink::Shown } else { Sink::Later };
    let (mut buffer, mut out) = (vec![0; CHUNK], Vec::new());
    loop {
        let read = match input.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Failure::temporary(format!("read error: {error}"))),
        };
        inject.push(&buffer[..read], &mut out).map_err(fatal)?;
        if inject.is_in_body() {
            sink.put(home, &mut out)?;
        }
    }
    let envelope = inject.finish(&mut out).map_err(fatal)?;
    sink.put(home, &mut out)?;
    sink.end(envelope)
}

/// Where the message goes.
enum Sink {
    /// To standard output (`-n`).
    Shown,
    /// To the queue, which is not called before the header is known to be good.
    Later,
    Queue(qmail_open::Message),
}

impl Sink {
    fn put(&mut self, home: &Path, bytes: &mut Vec<u8>) -> Result<(), Failure> {
        if let Self::Later = self {
            let queue = qmail_open::open(home);
            *self = Self::Queue(queue.map_err(|_| Failure::temporary("unable to run qmail-queue"))?);
        }
        match self {
            Self::Queue(queue) => queue.put(bytes),
            Self::Shown | Self::Later => {
                output::raw(bytes);
            }
        }
        bytes.clear();
        Ok(())
    }

    fn end(self, Envelope { sender, recipients }: Envelope) -> Result<(), Failure> {
        let Self::Queue(queue) = self else { return Ok(()) };
        let mut envelope = queue.from(&sender);
        recipients.iter().for_each(|recipient| envelope.to(recipient));
        envelope.close().map_err(|refusal| {
            let text = refusal.text().to_owned();
            if refusal.is_permanent() { Failure::permanent(text) } else { Failure::temporary(text) }
        })
    }
}

fn fatal(Fatal(text): Fatal) -> Failure {
    Failure::permanent(String::from_utf8_lossy(&text))
}

fn controls(home: &Path) -> Result<Controls, Failure> {
    let control::Inject { defaultdomain, defaulthost, plusdomain, idhost, .. } = read_controls(home)?;
    Ok(Controls {
        defaultdomain: defaultdomain.into(),
        defaulthost: defaulthost.into(),
        plusdomain: plusdomain.into(),
        idhost: idhost.into(),
    })
}

/// The control files of the host of `home`.
pub(super) fn read_controls(home: &Path) -> Result<control::Inject, Failure> {
    Ok(Control::new(Host::load(home)?.paths().control).inject()?)
}

/// The lines of `$QMAILMFTFILE`, if there is one.
fn lists(file: Option<OsString>) -> Result<Option<HashSet<Vec<u8>>>, Failure> {
    let Some(file) = file else { return Ok(None) };
    let path = Path::new(&file);
    let text = regular::read(path, LISTS_MAX).doing("read", path)?;
    Ok(text.map(|text| {
        let lines = text.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii_end);
        lines
            .filter(|line| !line.is_empty() && !line.starts_with(b"#"))
            .map(<[u8]>::to_ascii_lowercase)
            .collect()
    }))
}
