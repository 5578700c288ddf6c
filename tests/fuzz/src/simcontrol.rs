//! simscan: the database of `simcontrol` says what its text says; attachments of any message are walked in bounded time;
//! whatever clamd, spamd and rspamd answer is read without harm.
//!
//! The first byte of the input says what follows: a sender, recipients and a text, each in lines; suffixes in a
//! line and a message; an answer of spamd; one of clamd; one of rspamd.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mailtree_protocols::cdb::Cdb;
use mailtree_protocols::simscan::hits::Hits;
use mailtree_protocols::simscan::regex::Patterns;
use mailtree_protocols::simscan::simcontrol::{Simcontrol, ssattach};
use mailtree_protocols::simscan::{attachment, clamd, log, rspamd, spamc};

/// Bytes of a message with its repetitions.
const MAX_MESSAGE: usize = 512 * 1024;

fuzz_target!(|data: &[u8]| {
    let Some((kind, data)) = data.split_first() else { return };
    match kind & 7 {
        0 => control(data),
        1 => attachments(data),
        2 => spamd(data),
        4 => rspam(data),
        _ => clam(data),
    }
});

fn control(data: &[u8]) {
    let mut lines = data.splitn(3, |&b| b == b'\n');
    let [sender, recipients, text] = std::array::from_fn(|_| lines.next().unwrap_or_default());
    let suffixes = ssattach(text);
    assert!(suffixes.len() <= 100 && suffixes.iter().all(|suffix| !suffix.is_empty()));
    let control = match Simcontrol::parse(text) {
        Ok(control) => control,
        Err(error) => {
            assert!(error.to_string().contains("allowed: "));
            return;
        }
    };
    let cdb = Cdb::new(control.compile().expect("a text that compiles")).expect("a database");
    let read = Simcontrol::read(&cdb).expect("records that are read");
    assert_eq!((control.len(), control.is_empty()), (read.len(), read.is_empty()));
    assert_eq!(control.warnings().len(), read.warnings().len());
    let mut recipients: Vec<_> = recipients.split(|&b| b == b' ').take(8).collect();
    let evaluation = control.evaluate(sender, recipients.iter().copied());
    assert_eq!(evaluation, read.evaluate(sender, recipients.iter().copied()));
    let keys = text
        .split(|&b| b == b'\n')
        .map(|line| line.split(|b| b": \t".contains(b)).next().unwrap_or_default());
    recipients.extend(keys.take(8));
    for &address in &recipients {
        let within = [b"x@", address].concat();
        for address in [address, &within] {
            assert_eq!(control.evaluate(address, [address]), read.evaluate(address, [address]));
        }
    }
    // Each value compiles by itself; those of several keys may be too large together.
    if let Ok(patterns) = Patterns::new(&evaluation.options.regex) {
        let found = patterns.search(text);
        assert!(found.is_none_or(|number| number < evaluation.options.regex.len()));
    }
}

fn attachments(data: &[u8]) {
    let mut lines = data.splitn(2, |&b| b == b'\n');
    let [suffixes, text] = std::array::from_fn(|_| lines.next().unwrap_or_default());
    let message = message(text);
    let mut suffixes = ssattach(&suffixes.split(|&b| b == b':').collect::<Vec<_>>().join(&b'\n'));
    suffixes.push(".exe".to_owned());
    let (mut names, mut refused) = (0, false);
    let walked = attachment::names(&message, &mut |name| {
        names += 1;
        // Three bytes for each that is no UTF-8, one byte of some charset may be as many; twice as many zeros in uuencode.
        assert!(name.len() <= 6 * message.len() + 16 * 1024, "a name longer than the message");
        refused |= name.to_ascii_lowercase().ends_with(".exe");
    });
    // What is decoded holds names again: at most eight times as much as the message.
    assert!(names <= 160 * (8 * message.len()).min(10_000), "more names than a message can hold");
    match (walked, attachment::blocked(&message, &suffixes)) {
        (Ok(()), Ok(blocked)) => {
            assert!(blocked.is_some() || !refused);
            let printable = |name: &str| name.len() <= 100 && name.bytes().all(|b| matches!(b, 32..=126));
            assert!(blocked.is_none_or(|name| !name.is_empty() && printable(&name)));
        }
        (Err(_), Err(_)) => {}
        other => panic!("{other:?}"),
    }
    assert!(!log::subject(&message).chars().any(|c| c.is_control() || c == ':'));
}

/// Every second part between 0x1e is repeated, 2 to the power of its first byte's low digit times: costs show that grow
/// faster than the message.
fn message(text: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    for (n, part) in text.split(|&b| b == 0x1e).enumerate() {
        match part.split_first() {
            Some((&power, part)) if n % 2 == 1 && !part.is_empty() => {
                let room = MAX_MESSAGE.saturating_sub(message.len()) / part.len();
                message.extend(part.repeat(room.min(1 << (power & 15))));
            }
            _ => message.extend_from_slice(part),
        }
    }
    message
}

fn spamd(answer: &[u8]) {
    if let Some(end) = spamc::head_end(answer) {
        assert!(answer[..end].ends_with(b"\r\n\r\n"));
    }
    match spamc::Head::parse(answer) {
        Ok(head) => {
            for hits in [head.score.hits, head.score.required] {
                assert_eq!(Hits::parse(&hits.to_string()), Some(hits));
            }
        }
        Err(spamc::Error::Failed(text) | spamc::Error::Unknown { text, .. }) => {
            assert!(text.len() <= 200 && text.bytes().all(|b| matches!(b, 32..=126)));
        }
    }
    let fields = spamc::fields(answer);
    assert!(fields.len() <= 16 * 1024 && !fields.contains(&0) && !fields.contains(&b'\r'));
    assert!(fields.is_empty() || fields.ends_with(b"\n"));
    for (n, line) in fields.split_inclusive(|&b| b == b'\n').enumerate() {
        let folded = n > 0 && (line.starts_with(b" ") || line.starts_with(b"\t"));
        assert!(
            folded || line.len() > 8 && line[..7].eq_ignore_ascii_case(b"x-spam-") && line.contains(&b':')
        );
    }
}

fn clam(answer: &[u8]) {
    let printable = |text: &str| text.len() <= 200 && text.bytes().all(|b| matches!(b, 32..=126));
    match clamd::parse(answer) {
        Ok(clamd::Answer::Clean) => assert!(answer.trim_ascii_start().starts_with(b"stream: OK")),
        Ok(clamd::Answer::Virus(name)) => {
            assert!(!name.is_empty() && !name.contains(' ') && printable(&name))
        }
        Err(
            clamd::Error::Failed(text) | clamd::Error::TooLarge(text) | clamd::Error::Unknown(text),
        ) => assert!(printable(&text)),
    }
}

fn rspam(answer: &[u8]) {
    let printable = |text: &str| text.len() <= 200 && text.bytes().all(|b| matches!(b, 32..=126));
    match rspamd::parse(200, answer) {
        Ok(answer) => {
            assert!(answer.opinion.text.as_ref().is_none_or(|text| !text.is_empty() && printable(text)));
            let header = String::from_utf8(answer.header()).expect("ASCII");
            assert!(header.len() <= 8 * 1024 && header.ends_with('\n'));
            assert!(header.lines().all(|line| line.starts_with("X-Spam") || line.starts_with('\t')));
            assert!(header.chars().all(|c| matches!(c, ' '..='~' | '\n' | '\t')));
        }
        Err(
            rspamd::Error::Failed(text)
            | rspamd::Error::TooLarge(text)
            | rspamd::Error::Unknown(text)
            | rspamd::Error::Action(text),
        ) => assert!(printable(&text)),
    }
}
