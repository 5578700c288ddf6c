//! Transcripts of qmail-inject (notqmail, `control/me` mx.example.org) in `tests/inject.json`, and what is ours.

use std::collections::HashMap;

use proptest::prelude::*;
use serde::Deserialize;

use super::*;

#[derive(Deserialize)]
struct Case {
    args: Vec<String>,
    env: HashMap<String, String>,
    input: String,
    code: u8,
    stdout: String,
    stderr: String,
}

/// Bytes as the file has them: a character each.
fn bytes(text: &str) -> Vec<u8> {
    text.chars().map(|char| u8::try_from(u32::from(char)).unwrap()).collect()
}

fn controls() -> Controls {
    let me = b"mx.example.org".to_vec();
    Controls { defaultdomain: me.clone(), defaulthost: me.clone(), plusdomain: me.clone(), idhost: me }
}

const OCCASION: Occasion = Occasion { now: Timestamp::UNIX_EPOCH, pid: 1 };

/// Exit code, what goes to the queue with the envelope behind it, and what is said.
fn inject(
    args: &[Vec<u8>],
    variable: impl Fn(&str) -> Option<Vec<u8>>,
    input: &[u8],
    piece: usize,
    followup: Option<HashSet<Vec<u8>>>,
) -> (u8, Vec<u8>, Vec<u8>) {
    let said = |text: &[u8]| [b"qmail-inject: ", text].concat();
    let options = match Options::read(args, variable) {
        Ok(options) => options,
        Err(Unknown(text)) => return (100, Vec::new(), said(format!("{text}\n").as_bytes())),
    };
    let (mut out, show) = (Vec::new(), options.show);
    let injected = Inject::new(&options, &controls(), followup, OCCASION).and_then(|mut inject| {
        for piece in input.chunks(piece) {
            inject.push(piece, &mut out)?;
        }
        inject.finish(&mut out)
    });
    match injected {
        Err(Fatal(text)) => (100, Vec::new(), said(&[b"fatal: ", &text[..]].concat())),
        Ok(Envelope { .. }) if show => (0, out, Vec::new()),
        Ok(Envelope { sender, recipients }) => {
            out.extend_from_slice(b"=envelope\nF");
            out.extend_from_slice(&sender);
            out.push(b'\n');
            for recipient in recipients {
                out.push(b'T');
                out.extend_from_slice(&recipient);
                out.push(b'\n');
            }
            out.push(b'\n');
            (0, out, Vec::new())
        }
    }
}

use getopt::Unknown;

#[test]
fn everything_is_as_notqmail_does_it() {
    let cases: Vec<Case> = serde_json::from_str(include_str!("../../tests/inject.json")).unwrap();
    let mut wrong = Vec::new();
    for case in &cases {
        let args: Vec<_> = case.args.iter().map(|word| bytes(word)).collect();
        let variable = |name: &str| case.env.get(name).map(|value| bytes(value));
        let followup = ["list@x.y", "other@mx.example.org"].map(|list| list.as_bytes().to_vec());
        for piece in [1, 7, 4096] {
            let followup = case.env.contains_key("QMAILMFTFILE").then(|| HashSet::from(followup.clone()));
            let (code, out, said) = inject(&args, variable, &bytes(&case.input), piece, followup);
            let expected = (case.code, bytes(&case.stdout), bytes(&case.stderr));
            if (code, &out, &said) != (expected.0, &expected.1, &expected.2) {
                let shown = String::from_utf8_lossy;
                wrong.push(format!(
                    "{:?} {:?} {:?} by {piece}:\n{code} {:?} {:?}\nnot\n{} {:?} {:?}\n",
                    case.args,
                    case.env,
                    case.input,
                    shown(&out),
                    shown(&said),
                    expected.0,
                    shown(&expected.1),
                    shown(&expected.2)
                ));
                break;
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {} are wrong:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    assert!(cases.len() > 250);
}

fn message(input: &str, piece: usize) -> String {
    let user = |name: &str| (name == "USER").then(|| b"me".to_vec());
    let (code, out, said) = inject(&[], user, input.as_bytes(), piece, None);
    assert_eq!(code, 0, "{}", String::from_utf8_lossy(&said));
    String::from_utf8(out).unwrap()
}

#[test]
fn a_message_whose_first_line_ends_in_cr_lf_comes_to_end_its_lines_in_lf() {
    let unix =
        message("Date: d\nMessage-ID: <i>\nFrom: f@g.h\nTo: a,\n b\nSubject: x\n y\n\nbody\n\nend\n", 99);
    let dos = "Date: d\r\nMessage-ID: <i>\r\nFrom: f@g.h\r\nTo: a,\r\n b\r\nSubject: x\r\n y\r\n\r\nbody\r\n\nend\r\n";
    for piece in [1, 2, 3, 50, 999] {
        assert_eq!(message(dos, piece), unix);
        // Other carriage returns are the message's own.
        let own = "To: a\r\n\r\na\rb\r\r\nc\r";
        assert!(message(own, piece).contains("\n\na\rb\r\nc\r\n=envelope"), "{:?}", message(own, piece));
        let lf = "To: a\n\na\r\nb";
        assert!(message(lf, piece).contains("\n\na\r\nb\n=envelope"), "{:?}", message(lf, piece));
    }
}

#[test]
fn a_header_without_an_end_is_refused() {
    for input in ["X: ".to_owned() + &"y".repeat(MAX_HEADER), "X: y\n".repeat(MAX_HEADER / 5 + 1)] {
        for piece in [1000, 1 << 16] {
            let (code, _, said) = inject(&[], |_| None, input.as_bytes(), piece, None);
            assert_eq!(
                (code, &said[..]),
                (100, &b"qmail-inject: fatal: header longer than 1048576 bytes\n"[..])
            );
        }
    }
    // A body may be of any size, and is not gathered.
    let options = Options::default();
    let mut inject = Inject::new(&options, &controls(), None, OCCASION).unwrap();
    let mut out = Vec::new();
    inject.push(b"To: a\n\n", &mut out).unwrap();
    assert!(inject.is_in_body());
    for _ in 0..100 {
        out.clear();
        inject.push(&[b'x'; 1 << 16], &mut out).unwrap();
        assert_eq!(out.len(), 1 << 16);
    }
    // Addresses that grow by what is put behind them are bounded, too.
    let input = "To: ".to_owned() + &"a,".repeat(500_000) + "\n";
    let long = |name: &str| (name == "QMAILDEFAULTHOST").then(|| vec![b'h'; 250]);
    let (code, _, said) = super::tests::inject(&[], long, input.as_bytes(), 1 << 16, None);
    assert_eq!((code, &said[..]), (100, &b"qmail-inject: fatal: addresses longer than 16777216 bytes\n"[..]));
}

proptest! {
    #[test]
    fn no_message_makes_it_panic(input: Vec<u8>, piece in 1_usize..9) {
        drop(inject(&[], |_| None, &input, piece, None));
        drop(inject(&[], |_| None, &[b"To: ", &input[..]].concat(), piece, None));
    }
}
