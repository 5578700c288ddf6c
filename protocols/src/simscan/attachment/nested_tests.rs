//! What a decoded part holds: mails, TNEF, uuencode, in each other.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;

use super::tests::{exe, is_found};
use super::*;

/// In lines of 76 digits, as programs write it.
fn b64(bytes: impl AsRef<[u8]>) -> String {
    let digits = STANDARD.encode(bytes);
    digits.as_bytes().chunks(76).map(|line| format!("{}\n", String::from_utf8_lossy(line))).collect()
}

/// A message with a text and this part.
fn mixed(part: &str) -> String {
    format!(
        "From: a@b\nSubject: t\nMIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b1\n\n\
         --b1\nContent-Type: text/plain\n\nlook\n--b1\n{part}\n--b1--\n"
    )
}

/// A message with two texts.
fn text(body: &str) -> String {
    mixed(&format!("\n{body}"))
}

/// Bytes in base64 as a part with these header fields.
fn coded(fields: &str, bytes: impl AsRef<[u8]>) -> String {
    mixed(&format!("{fields}\nContent-Transfer-Encoding: base64\n\n{}", b64(bytes)))
}

/// A mail with a forbidden file.
fn mail(name: &str) -> String {
    mixed(&format!("Content-Type: application/x; name={name}\n\nMZ")).replace("b1", "b2")
}

fn little(number: usize) -> [u8; 4] {
    u32::try_from(number).unwrap().to_le_bytes()
}

fn attribute(level: u8, id: u32, data: &[u8]) -> Vec<u8> {
    let sum = data.iter().fold(0_u16, |sum, &b| sum.wrapping_add(b.into()));
    [&[level], &id.to_le_bytes()[..], &little(data.len()), data, &sum.to_le_bytes()].concat()
}

fn property(kind: u16, id: u16, data: &[u8]) -> Vec<u8> {
    let padding = vec![0; data.len().wrapping_neg() % 4];
    [&kind.to_le_bytes()[..], &id.to_le_bytes(), &little(1), &little(data.len()), data, &padding].concat()
}

fn properties(list: &[Vec<u8>]) -> Vec<u8> {
    attribute(2, 0x0006_9005, &[&little(list.len())[..], &list.concat()].concat())
}

fn unicode(text: &str) -> Vec<u8> {
    text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect()
}

/// winmail.dat with these attributes.
fn tnef(attributes: &[Vec<u8>]) -> Vec<u8> {
    [&[0x78, 0x9f, 0x3e, 0x22, 1, 0][..], &attribute(1, 0x0008_9006, &[0, 0, 1, 0]), &attributes.concat()]
        .concat()
}

fn rendering() -> Vec<u8> {
    attribute(2, 0x0006_9002, &[&[1, 0][..], &[0xff; 4], &[0; 8]].concat())
}

fn title(name: &str) -> Vec<u8> {
    attribute(2, 0x0001_8010, format!("{name}\0").as_bytes())
}

fn data(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    attribute(2, 0x0006_800f, bytes.as_ref())
}

fn uu(name: &str, bytes: impl AsRef<[u8]>) -> String {
    let digit = |value: u32| char::from(if value & 63 == 0 { b'`' } else { (value & 63) as u8 + b' ' });
    let mut text = format!("begin 644 {name}\n");
    for line in bytes.as_ref().chunks(45) {
        text.push(digit(line.len() as u32));
        for three in line.chunks(3) {
            let byte = |at: usize| u32::from(*three.get(at).unwrap_or(&0));
            let number = byte(0) << 16 | byte(1) << 8 | byte(2);
            text.extend([18, 12, 6, 0].map(|shift| digit(number >> shift)));
        }
        text.push('\n');
    }
    text + "`\nend\n"
}

#[test]
fn a_part_that_is_a_mail_is_looked_into() {
    let inner = mail("a.exe");
    let quoted = inner.replace('=', "=3D");
    let qp = "Content-Transfer-Encoding: quoted-printable";
    for message in [
        coded("Content-Type: application/octet-stream; name=mail.eml", &inner),
        coded("Content-Type: application/octet-stream", &inner),
        coded("Content-Type: application/octet-stream", inner.replace('\n', "\r\n")),
        coded("Content-Type: application/octet-stream", format!("\n\n{inner}")),
        coded(
            "Content-Type: application/octet-stream",
            format!("From a@b Thu Jan  1 00:00:00 1970\n{inner}"),
        ),
        coded("Content-Type: application/octet-stream", format!("\u{feff}{inner}")),
        coded("Content-Type: message/rfc822", &inner),
        coded("Content-Type: message/rfc822", format!("\r\n{inner}")),
        coded("Content-Type: text/plain; name=\"mail.EML\"", &inner),
        coded("Content-Type: text/plain; name=mail.txt", &inner),
        coded("Content-Disposition: attachment; filename*=utf-8''m%2eeml", &inner),
        coded("Content-Type: x/y; name=a.eml", "Content-Type: application/x; name=a.exe\n\n"),
        mixed(&format!("Content-Type: application/octet-stream\n{qp}\n\n{quoted}")),
        mixed(&format!("Content-Type: application/octet-stream\nContent-Transfer-Encoding: 8bit\n\n{inner}")),
        mixed(&format!("Content-Type: application/octet-stream\n\n\n{inner}")),
        mixed(&format!("Content-Type: message/rfc822\n\n\n{inner}")),
        // Two encodings: each is somebody's.
        mixed(&format!("Content-Type: x/y\nContent-Transfer-Encoding: base64\n{qp}\n\n{quoted}")),
        // In each other, and without a multipart around.
        coded("Content-Type: x/y", coded("Content-Type: x/y", coded("Content-Type: x/y", &inner))),
        format!("Content-Type: x/y\nContent-Transfer-Encoding: base64\n\n{}", b64(&inner)),
        coded("Content-Type: x/y", format!("{inner}{}", "x\n".repeat(100_000))),
    ] {
        assert!(is_found(&message), "{message}");
        assert!(is_found(&message.replace('\n', "\r\n")), "with CRLF: {message}");
    }
}

#[test]
fn a_part_that_only_quotes_a_mail_is_not() {
    let inner = mail("a.exe");
    for message in [
        coded("Content-Type: text/plain", &inner),
        coded("Content-Type: text/plain; name=log.txt", format!("the mail was:\n\n{inner}")),
        coded("Content-Type: application/octet-stream", format!("the mail was:\n\n{inner}")),
        coded("Content-Type: application/octet-stream", "note: x\nContent-Type: a/b; name=a.exe\n\n"),
        coded("Content-Type: application/octet-stream; name=a.eml", mail("a.txt")),
        mixed(&format!("Content-Type: text/plain\n\n{inner}")),
    ] {
        assert_eq!(exe(&message), Ok(None), "{message}");
    }
}

#[test]
fn tnef_is_looked_into() {
    let file = |name| [rendering(), title(name), data("MZ")].concat();
    let long = |kind, name: &[u8]| {
        let mut named = [rendering(), title("A~1.TXT"), data("MZ")].concat();
        let guid = [0; 16];
        let by_name = [
            &[0x1e, 0, 0, 0x80][..],
            &guid,
            &little(1),
            &little(6),
            b"a\0b\0\0\0",
            &[0; 2],
            &little(1),
            &little(3),
            b"xy\0\0",
        ];
        let others = [
            // A boolean, a time, several numbers, a property with a name.
            vec![0x0b, 0, 1, 0x0e, 1, 0, 0, 0],
            [&[0x40, 0, 7, 0x30][..], &[0; 8]].concat(),
            [&[3, 0x10, 1, 0x66][..], &little(2), &[0; 8]].concat(),
            by_name.concat(),
        ];
        named.extend(properties(&[&others[..], &[property(kind, 0x3707, name)]].concat()));
        named
    };
    let embedded = |inner: &[u8]| {
        let object = property(0x0d, 0x3701, &[&[0; 16], inner].concat());
        tnef(&[rendering(), title("a mail"), properties(&[object])])
    };
    let typed = "Content-Type: application/ms-tnef; name=winmail.dat";
    let evil = tnef(&[file("a.exe")]);
    for message in [
        coded(typed, &evil),
        coded("Content-Type: application/octet-stream", &evil),
        coded("Content-Type: text/plain", &evil),
        coded(typed, tnef(&[file("a.txt"), file("b.txt"), file("A.EXE")])),
        coded(typed, tnef(&[long(0x1e, b"a.exe\0")])),
        coded(typed, tnef(&[long(0x1f, &unicode("a long name.exe"))])),
        coded(typed, tnef(&[file("a.txt"), long(0x1f, &unicode("b.exe"))])),
        // A name at the end of what is cut off.
        coded(typed, &evil[..evil.len() - 3]),
        // TNEF and mails in each other.
        coded(typed, embedded(&evil)),
        coded(typed, embedded(&embedded(&evil))),
        coded(typed, tnef(&[rendering(), title("m.eml"), data(mail("a.exe"))])),
        coded(typed, tnef(&[rendering(), title("m"), data(coded(typed, &evil))])),
        coded("Content-Type: x/y", coded(typed, tnef(&[rendering(), title("m"), data(coded(typed, &evil))]))),
        coded(typed, tnef(&[rendering(), title("w.dat"), data(&evil)])),
        text(&uu("winmail.dat", &evil)),
        coded(typed, tnef(&[rendering(), title("w.txt"), data(uu("a.exe", "MZ"))])),
        // Only a name that is shown.
        coded(typed, tnef(&[rendering(), properties(&[property(0x1e, 0x3001, b"a.exe\0")]), data("MZ")])),
    ] {
        assert!(is_found(&message), "{message}");
    }
    for message in [
        coded(typed, tnef(&[file("a.txt")])),
        coded(typed, tnef(&[rendering(), title("a.txt"), data("a.exe")])),
        // The subject of a mail is shown, and is no file.
        coded(
            typed,
            tnef(&[properties(&[
                property(0x1e, 0x3001, b"about a.exe\0"),
                property(0x0d, 0x3701, &[&[0; 16][..], &tnef(&[])].concat()),
            ])]),
        ),
        coded(typed, b"a.exe\0"),
    ] {
        assert_eq!(exe(&message), Ok(None), "{message}");
    }
    let bytes = ["Content-Type: x/y\nContent-Transfer-Encoding: binary\n\n".as_bytes(), &evil].concat();
    assert_eq!(blocked(&bytes, &[".exe".to_owned()]), Ok(Some("a.exe".to_owned())));
}

#[test]
fn old_encodings_are_looked_into() {
    let evil = uu("a.exe", "MZ and more of it");
    for message in [
        text(&evil),
        mixed(&format!("Content-Type: x/y\nContent-Transfer-Encoding: x-uuencode\n\n{evil}")),
        // Where a header is expected.
        mixed(&format!("Content-Type: message/rfc822\nContent-Transfer-Encoding: x-uuencode\n\n{evil}")),
        mixed(&format!(
            "Content-Type: message/rfc822\nContent-Transfer-Encoding: x-uue\n\n{}",
            uu("m", mail("a.exe"))
        )),
        mixed(&format!(
            "Content-Type: x/y; name=x.eml\nContent-Transfer-Encoding: uuencode\n\n{}",
            uu("x.eml", mail("a.exe"))
        )),
        mixed(&format!("Content-Type: multipart/digest; boundary=b2\n\n--b2\n\n{evil}--b2--\n")),
        mixed("Content-Type: message/rfc822\n\n=ybegin line=128 size=2 name=a.exe\nw\u{84}\n=yend size=2\n"),
        coded("Content-Type: text/plain", &evil),
        coded("Content-Type: text/plain", format!("{}{evil}", "look\r\n".repeat(5000))),
        mixed(&format!("Content-Transfer-Encoding: quoted-printable\n\n{}", evil.replace("644", "6=344"))),
        text(&uu("a.txt", &evil)),
        text(&uu("a.eml", mail("a.exe"))),
        text(&uu("a", uu("b", uu("c", mail("a.exe"))))),
        text(&format!("{}{evil}", uu("a.txt", "x"))),
        text("begin-base64 644 a.exe\nTVo=\n====\n"),
        text("=ybegin line=128 size=2 name=a.exe\nw\u{84}\n=yend size=2\n"),
        text("=ybegin part=1 total=2 line=128 size=9 name=my a.exe\n=ypart begin=1 end=2\nw\n"),
        coded("Content-Type: x/y", "=ybegin line=128 size=2 name=a.exe\r\nw\r\n"),
        // `a.exe` with its length before it.
        text("(This file must be converted with BinHex 4.0)\n\n:\"@%ZCAKP!!!!!!!!!!!\n:"),
        coded(
            "Content-Type: x/y",
            "(This file must be converted with BinHex 4.0)\r\n\r\n:\"@%ZCAKP!!!!!!!!!!!\r\n:",
        ),
    ] {
        assert!(is_found(&message), "{message}");
        assert!(is_found(&message.replace("\r\n", "\n").replace('\n', "\r\n")), "with CRLF: {message}");
    }
    for message in [
        coded("Content-Type: text/plain", "begin 644 a.exe\nis how it begins\n"),
        coded("Content-Type: text/plain", "to begin 644 a.exe\nM123\n"),
        text("=ybegin name=a.exe\nis how yEnc begins\n"),
        text("(This file must be converted with BinHex 4.0) is what stands before a.exe\n"),
        coded("Content-Type: text/plain", "begin \n".repeat(30_000)),
    ] {
        assert_eq!(exe(&message), Ok(None), "{message}");
    }
}

#[test]
fn bombs_of_encoded_parts_are_refused_soon() {
    let mut deep = mail("a.exe");
    let mut deep_tnef = tnef(&[]);
    let mut deep_uu = uu("w", "x");
    for _ in 0..=MAX_ENCODED {
        deep = coded("Content-Type: x/y", &deep);
        deep_tnef = tnef(&[rendering(), title("w"), data(&deep_tnef)]);
        deep_uu = uu("w", &deep_uu);
    }
    // Each encoded body holds the ones behind it, as the boundary is only alike.
    let alike = "Content-Type: x/y\nContent-Transfer-Encoding: base64\n\n--bx\n".repeat(3000);
    let alike =
        format!("Content-Type: multipart/mixed; boundary=b\n\n--bx\n{alike}{}", b64("A".repeat(2_000_000)));
    for message in [
        deep,
        coded("Content-Type: x/y", deep_tnef),
        text(&deep_uu),
        alike,
        coded("Content-Type: x/y", tnef(&[title("a").repeat(20_000)])),
        text(&uu("a", "x").repeat(20_000)),
        text(&format!("begin 644 a.eml\n{}", "M!\n".repeat(10_000)).repeat(300)),
        coded("Content-Type: x/y", uu("a", "x").repeat(20_000)),
    ] {
        assert_eq!(exe(&message), Err(TooComplex), "{}", &message[..60]);
    }
    // Much that holds nothing.
    let much = coded("Content-Type: x/y", "Subject: x\nDate: y\n\n begin 644\n".repeat(500_000));
    assert_eq!(exe(&much), Ok(None));
    let mails = format!("Content-Type: x/y; name=m.eml\n\n{}", mail("a.txt"));
    assert_eq!(exe(&mixed(&format!("{mails}\n--b1\n").repeat(1000))), Ok(None));
}

proptest! {
    #[test]
    fn any_tnef_is_read_without_panic(
        parts in proptest::collection::vec(
            prop_oneof![
                Just(rendering()), Just(title("a.txt")), Just(data(tnef(&[title("b")]))),
                Just(properties(&[property(0x1f, 0x3707, &unicode("c")), property(0x0d, 0x3701, &[0; 20])])),
                proptest::collection::vec(any::<u8>(), 0..12),
                Just(little(usize::from(u16::MAX)).to_vec()), Just(vec![0xff; 4]),
            ],
            0..20,
        ),
        cut in 0_usize..200,
    ) {
        let mut text = tnef(&parts);
        let looked = |text: &[u8]| names(coded("Content-Type: x/y", text).as_bytes(), &mut |_| ());
        prop_assert!(looked(&text).is_ok());
        text.truncate(text.len().saturating_sub(cut));
        prop_assert!(looked(&text).is_ok());
    }

    #[test]
    fn nested_parts_are_read_without_panic(
        layers in proptest::collection::vec(0_u8..6, 0..12),
        noise in proptest::collection::vec(any::<u8>(), 0..40),
    ) {
        let mut text = noise;
        for layer in &layers {
            text = match layer {
                0 => coded("Content-Type: x/y", &text).into_bytes(),
                1 => tnef(&[rendering(), title("w"), data(&text)]),
                2 => uu("w", &text).into_bytes(),
                3 => coded("Content-Type: message/rfc822", &text).into_bytes(),
                4 => [b"Subject: x\nContent-Type: x/y; name=x.eml\n\n", text.as_slice()].concat(),
                _ => tnef(&[properties(&[property(0x0d, 0x3701, &[&[0; 16], text.as_slice()].concat())])]),
            };
        }
        let looked = names(&text, &mut |_| ());
        prop_assert!(looked.is_ok() || layers.len() > 4, "{looked:?}");
    }
}
