//! Mail data: what is stored is what a plain reading of RFC 5321 4.5.2 gives, only CRLF.CRLF ends it, and what the
//! client side sends the server side stores.

#![no_main]

mod host;

use host::{Event, Host};
use libfuzzer_sys::fuzz_target;
use mailtree_protocols::smtp::stuff::DotStuffer;

const OPENING: &[u8] = b"EHLO x\r\nMAIL FROM:<a@b.c>\r\nRCPT TO:<a@e.c>\r\nDATA\r\n";

fuzz_target!(|data: &[u8]| {
    let Some((cuts, input)) = data.split_first_chunk::<4>() else { return };
    against_the_model(input, cuts);
    through_both_sides(input, cuts);
});

#[derive(Debug, PartialEq, Eq)]
enum End {
    Stored(Vec<u8>),
    Refused,
    Unfinished,
}

/// Line by line, with no state but the lines.
fn model(data: &[u8]) -> End {
    let mut stored = Vec::new();
    let mut rest = data;
    loop {
        match rest.iter().position(|&b| b == b'\r' || b == b'\n') {
            None => return End::Unfinished,
            Some(at) if rest[at..].starts_with(b"\r\n") => {
                let line = &rest[..at];
                rest = &rest[at + 2..];
                if line == b"." {
                    return End::Stored(stored);
                }
                stored.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
                stored.push(b'\n');
            }
            Some(at) if &rest[at..] == b"\r" => return End::Unfinished,
            Some(_) => return End::Refused,
        }
    }
}

fn against_the_model(input: &[u8], cuts: &[u8]) {
    let mut whole = Host::new(host::policy(0));
    whole.feed(&[OPENING, input].concat());
    let mut pieces = Host::new(host::policy(0));
    pieces.feed(OPENING);
    pieces.feed_in_pieces(input, cuts);
    assert_eq!(whole.out, pieces.out);
    assert_eq!(whole.events, pieces.events);
    host::check_replies(&whole.out);
    let hops = whole.events.get(1) == Some(&Event::Discard);
    match model(input) {
        End::Stored(body) if !hops => assert_eq!(whole.events.get(1), Some(&Event::Commit(body))),
        End::Stored(body) => assert!(body.len() > 100 * "received\n".len()),
        End::Refused => assert_eq!(whole.events.get(1), Some(&Event::Close)),
        End::Unfinished => assert_eq!(whole.events.len(), 1),
    }
}

/// Any message a queue may hold: sent and received again it is the same, line ends aside.
fn through_both_sides(mess: &[u8], cuts: &[u8]) {
    let (mut stuffer, mut wire) = (DotStuffer::new(), Vec::new());
    let mut rest = mess;
    for cut in cuts.iter().cycle().map(|&cut| usize::from(cut) + 1).take(mess.len()) {
        let (piece, tail) = rest.split_at(cut.min(rest.len()));
        stuffer.push(piece, &mut wire);
        rest = tail;
    }
    stuffer.push(rest, &mut wire);
    if stuffer.finish(&mut wire).is_err() {
        assert!(!mess.ends_with(b"\n"));
        return;
    }
    wire.extend_from_slice(b".\r\n");
    let mut host = Host::new(host::policy(0));
    host.feed(OPENING);
    host.feed(&wire);
    let lines = String::from_utf8_lossy(mess).replace("\r\n", "\n").replace('\r', "\n");
    match &host.events[1..] {
        [Event::Commit(body)] => assert_eq!(String::from_utf8_lossy(body), lines),
        [Event::Discard] => assert!(mess.len() > 100 * "received\n".len()),
        other => panic!("{other:?}"),
    }
}
