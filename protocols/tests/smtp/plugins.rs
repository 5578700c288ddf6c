//! What the driver may answer to HELO and QUIT, and change at MAIL, because of a plugin.

use mailtree_protocols::reply::Refusal;
use mailtree_protocols::smtp::server::{Next, Sender, Session};

use crate::host::policy;

fn said(session: &mut Session, line: &str) -> (Next, String) {
    let (mut out, mut body) = (Vec::new(), Vec::new());
    let input = format!("{line}\r\n");
    let (read, next) = session.receive(input.as_bytes(), &mut out, &mut body);
    assert_eq!(read, input.len());
    (next, String::from_utf8(out).unwrap())
}

fn written(answer: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut out = Vec::new();
    answer(&mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn a_refused_helo_leaves_the_session_where_it_was() {
    let mut session = Session::new(policy());
    assert_eq!(said(&mut session, "HELO one.test"), (Next::Helo, String::new()));
    assert_eq!((session.name(), session.helo()), (Some(&b"one.test"[..]), None));
    assert_eq!(written(|out| session.greeted(Ok(()), out)), "250 mx.example.com\r\n");
    assert_eq!((session.name(), session.helo()), (None, Some(&b"one.test"[..])));
    assert_eq!(said(&mut session, "MAIL FROM:<a@far.test>").0, Next::Sender);
    session.sender(Sender::Accepted, &mut Vec::new());
    assert_eq!(said(&mut session, "EHLO two.test").0, Next::Helo);
    let refused = written(|out| session.greeted(Err(Refusal::temporary(7, 1, "not now")), out));
    assert_eq!(refused, "451 not now\r\n", "a client of HELO still");
    assert_eq!(session.helo(), Some(&b"one.test"[..]));
    assert!(session.transaction().is_some());
    assert_eq!(written(|out| session.greeted(Ok(()), out)), "", "nothing was asked");
}

#[test]
fn the_sender_is_changed_while_it_is_looked_at_and_not_later() {
    let mut session = Session::new(policy());
    session.change_reverse_path(b"early@far.test".to_vec());
    assert!(session.transaction().is_none());
    assert_eq!(said(&mut session, "MAIL FROM:<a@far.test>").0, Next::Sender);
    session.change_reverse_path(b"b@far.test".to_vec());
    session.sender(Sender::Accepted, &mut Vec::new());
    session.change_reverse_path(b"late@far.test".to_vec());
    assert_eq!(session.transaction().unwrap().reverse_path, b"b@far.test");
}

#[test]
fn a_session_ends_with_221_with_a_refusal_or_with_nothing() {
    let mut session = Session::new(policy());
    assert_eq!(said(&mut session, "QUIT"), (Next::Quit, String::new()));
    assert_eq!(written(|out| session.left(out)), "221 mx.example.com\r\n");
    assert_eq!(written(|out| session.left(out)), "");
    let mut session = Session::new(policy());
    assert_eq!(written(|out| session.turn_away(&Refusal::temporary(7, 1, "no"), out)), "451 no\r\n");
    assert_eq!(session.receive(b"NOOP\r\n", &mut Vec::new(), &mut Vec::new()), (0, Next::Close));
    let mut session = Session::new(policy());
    session.hang_up();
    assert_eq!(session.receive(b"NOOP\r\n", &mut Vec::new(), &mut Vec::new()), (0, Next::Close));
}
