//! The end of data: what ends it, what never does, and the way from one side to the other.

use mailtree_protocols::smtp::server::Policy;
use mailtree_protocols::smtp::stuff::DotStuffer;
use proptest::prelude::*;

use crate::host::{ACCEPT, Event, Host, policy};

fn in_data(data: &[u8]) -> Host {
    let mut host = Host::new(policy(), ACCEPT);
    host.feed(b"MAIL FROM:<a@b.example>\r\nRCPT TO:<a@example.com>\r\nDATA\r\n");
    host.feed(data);
    host
}

/// Endings other servers have taken for the end of data; behind each stands a second message.
#[test]
fn endings_used_for_smuggling() {
    let cases: &[&[u8]] = &[
        b"\n.\n",
        b"\n.\r\n",
        b"\r\n.\n",
        b"\r.\r",
        b"\r.\r\n",
        b"\r\n.\r",
        b"\r\n.\r\r\n",
        b"\r\r\n.\r\r\n",
        b"\n\n.\r\n",
        b"\r\n\n.\n",
        b"\0\n.\0\n",
        b"\r\0\n.\r\n",
        b"\n.\0\r\n",
    ];
    for ending in cases {
        let attack = b"MAIL FROM:<evil@b.example>\r\nRCPT TO:<a@example.com>\r\nDATA\r\nevil\r\n.\r\n";
        let host = in_data(&[b"good", *ending, attack].concat());
        let name = ending.escape_ascii().to_string();
        assert!(host.messages().is_empty(), "{name} ended the data");
        assert_eq!(host.last_reply(), "451 See https://cr.yp.to/docs/smtplf.html.", "{name}");
        assert_eq!(host.events.last(), Some(&Event::Close), "{name}");
    }
}

#[test]
fn a_stray_newline_closes_a_refused_message_too() {
    let mut host = Host::new(Policy { databytes: 3, ..policy() }, ACCEPT);
    host.feed(b"MAIL FROM:<>\r\nRCPT TO:<a@example.com>\r\nDATA\r\n12345\n.\r\n");
    assert_eq!(host.last_reply(), "451 See https://cr.yp.to/docs/smtplf.html.");
    assert_eq!(host.events.last(), Some(&Event::Close));
}

#[test]
fn what_is_stored() {
    let cases: &[(&[u8], &[u8])] = &[
        (b".\r\n", b""),
        (b"\r\n.\r\n", b"\n"),
        (b"a\r\n.\r\n", b"a\n"),
        (b"..\r\n.\r\n", b".\n"),
        (b".a\r\n..b\r\n...c\r\n.\r\n", b"a\n.b\n..c\n"),
        (b". \r\n.\r\n", b" \n"),
        (b"a.\r\n.b.\r\n.\r\n", b"a.\nb.\n"),
        (b"\0\x01\xff\r\n.\0\r\n.\r\n", b"\0\x01\xff\n\0\n"),
    ];
    for (wire, stored) in cases {
        let host = in_data(wire);
        assert_eq!(host.messages(), [*stored], "{}", wire.escape_ascii());
    }
}

proptest! {
    #[test]
    fn what_is_stuffed_is_stored_again(lines in prop::collection::vec("[.a\u{0}\u{e9}]{0,5}", 0..20)) {
        let mess: Vec<u8> = lines.iter().flat_map(|line| [line.as_bytes(), b"\n"].concat()).collect();
        let (mut stuffer, mut wire) = (DotStuffer::new(), Vec::new());
        stuffer.push(&mess, &mut wire);
        stuffer.finish(&mut wire).unwrap();
        wire.extend_from_slice(b".\r\n");
        let host = in_data(&wire);
        prop_assert_eq!(host.messages(), [mess.as_slice()]);
    }

    #[test]
    fn only_crlf_dot_crlf_ends_data(data in "[a.\r\n]{0,30}") {
        let host = in_data(data.as_bytes());
        let whole = ["\r\n", data.as_str()].concat();
        let end = whole.find("\r\n.\r\n").map(|at| &whole[2.min(at)..at + 2]);
        let ended_clean = end.map(|text| !text.replace("\r\n", "").contains(['\r', '\n']));
        prop_assert_eq!(!host.messages().is_empty(), ended_clean == Some(true), "{:?}", data);
    }
}
