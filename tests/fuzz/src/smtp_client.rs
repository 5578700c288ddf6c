//! Bytes of a server: the same commands and reports however they are cut, nothing said that is no command, every
//! recipient reported on.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mailtree_protocols::report::Class;
use mailtree_protocols::smtp::client::{Client, Mail, Outcome, Want};

fuzz_target!(|data: &[u8]| {
    let Some((&[cut, split], input)) = data.split_first_chunk::<2>() else { return };
    let (address, replies) = input.split_at(usize::from(split).min(input.len()));
    let whole = hear(address, replies, usize::MAX);
    assert_eq!(whole, hear(address, replies, usize::from(cut) + 1));
    check_said(&whole.0);
    assert_eq!(whole.1.recipients.len(), 2);
    for recipient in 0..2 {
        let report = whole.1.report(recipient).expect("a report");
        assert!(report.text.ends_with('\n') && !report.text.contains('\0'));
        assert!(report.class != Class::Success || whole.0.ends_with(b"<data>\r\n.\r\nQUIT\r\n"));
    }
});

fn hear(address: &[u8], replies: &[u8], cut: usize) -> (Vec<u8>, Outcome) {
    let mut client = Client::new(Mail {
        helo: "me.example".to_owned(),
        ip: "192.0.2.1".to_owned(),
        reverse_path: b"a@b.c".to_vec(),
        forward_paths: vec![address.to_vec(), b"b@e.c".to_vec()],
        eight_bit: true,
        size: 1000,
    });
    let (mut out, mut rest) = (Vec::new(), replies);
    loop {
        match client.poll(&mut out) {
            Want::Done => break,
            Want::SendData => {
                out.extend_from_slice(b"<data>\r\n");
                client.data_sent(Ok(()));
            }
            Want::Read(_) if rest.is_empty() => client.connection_died(),
            Want::Read(_) => {
                let read = client.step(&rest[..rest.len().min(cut)]);
                assert!(read > 0, "step stands still");
                rest = &rest[read..];
            }
        }
    }
    (out, client.outcome().expect("done without outcome"))
}

fn check_said(said: &[u8]) {
    assert!(said.is_empty() || said.ends_with(b"\r\n"));
    let mut data = 0;
    for line in said.split_inclusive(|&b| b == b'\n') {
        let text = line.strip_suffix(b"\r\n").expect("a line without CRLF");
        assert!(!text.iter().any(u8::is_ascii_control));
        data += usize::from(text == b"DATA");
        let known: [&[u8]; 5] =
            [b"EHLO me.example", b"HELO me.example", b"MAIL FROM:<a@b.c>", b"RCPT TO:<", b"QUIT"];
        assert!(known.iter().any(|k| text.starts_with(k)) || [&b"DATA"[..], b"<data>", b"."].contains(&text));
    }
    assert!(data <= 1);
}
