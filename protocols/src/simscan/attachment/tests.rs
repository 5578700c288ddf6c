//! What hostile messages hide, and that looking for it costs little.

use std::fmt::Write as _;

use proptest::prelude::*;

use super::*;

pub(super) fn exe(message: &str) -> Result<Option<String>, TooComplex> {
    blocked(message.as_bytes(), &[".exe".to_owned()])
}

pub(super) fn is_found(message: &str) -> bool {
    matches!(exe(message), Ok(Some(_)))
}

#[test]
fn a_field_hides_no_name() {
    for field in [
        "Content-Disposition: attachment; filename=a.exe",
        "content-disposition : attachment; FILENAME = \"A.ExE\"",
        "Content-Type: application/octet-stream; name=a.exe",
        "Content-Type: application/octet-stream; name=\"a.txt\"\nContent-Disposition: attachment; filename=\"a.exe\"",
        "Content-Disposition: attachment; filename=\"a.exe\"\nContent-Type: x/y; name=\"a.txt\"",
        // Both of two.
        "Content-Disposition: attachment; filename=a.exe; filename=a.txt",
        "Content-Disposition: attachment; filename=a.txt; filename=a.exe",
        "Content-Disposition: attachment\nContent-Disposition: attachment; filename=a.exe",
        // Windows strips the end.
        "Content-Disposition: attachment; filename=\"a.exe. . .\"",
        "Content-Disposition: attachment; filename=a.exe.",
        "Content-Disposition: attachment; filename=\"a.exe\0.txt\"",
        "Content-Disposition: attachment; filename=\"a.e\0xe\"",
        // Quotes, escapes, comments, blanks.
        "Content-Disposition: attachment; filename=\"a.exe",
        "Content-Disposition: attachment; filename=\"a.e\\xe\"",
        "Content-Disposition: attachment; filename=\"c:\\temp\\a.exe\"",
        "Content-Disposition: attachment; filename=\"a.exe\\\"; x=\"y\"",
        "Content-Disposition: attachment; filename=\"a\".exe",
        "Content-Disposition: attachment; filename=\"a\"\".exe\"",
        "Content-Disposition: attachment; filename=\"a.txt;.exe\"",
        "Content-Disposition: attachment; filename=a.exe (harmless)",
        "Content-Disposition: attachment; filename=(a.txt) \"a.exe\"",
        "Content-Disposition: attachment; filename=a.e(x)xe",
        "Content-Disposition: attachment; filename=a b.exe",
        "Content-Disposition: attachment; filename='a.exe'",
        "Content-Disposition: attachment filename=a.exe",
        "Content-Disposition: attachment, filename=a.exe",
        "Content-Disposition: filename=a.exe",
        "Content-Disposition: ;;; (\"; filename=a.exe",
        // Folding.
        "Content-Disposition: attachment;\n filename=a.exe",
        "Content-Disposition: attachment;\n\tfilename\n =\n \"a.exe\"",
        "Content-Disposition: attachment; filename=\"a.e\n xe\"",
        "Content-Disposition: attachment; filename=\"a.\n exe\"",
        "Content-Disposition:\n \n attachment; filename=a.exe",
        "Content-Disposition: attachment;\rfilename=a.exe",
        "X: y\rContent-Disposition: attachment; filename=a.exe",
        "X: y\r\r\nContent-Disposition: attachment; filename=a.exe",
        "no colon\nContent-Disposition: attachment; filename=a.exe",
        // A line that is not indented, after a semicolon.
        "Content-Type: application/zip; x-unix-mode=0600;\nname=\"a.exe\"",
        "Content-Type: application/zip; \t\nname = a.exe\nContent-Transfer-Encoding: base64",
        "Content-Type: application/zip;\nname=\"C:\\a.exe\"",
        "Content-Type: application/zip;\nx=y;\n z=w;\nname=a.exe",
        "Content-Type: application/zip;\nname=\"a\n .exe\"",
        "Content-Type: application/zip;\nname*0=\"a.\";\nname*1=exe",
        "Content-Disposition: attachment;\nfilename=a.exe\nX: y",
        "Content-Disposition: attachment;\nfilename=\n\"a.exe\"",
        "Content-Disposition: attachment\n; filename=a.exe",
        "Content-Disposition: attachment;\nContent-Type: x/y; name=a.exe",
        // RFC 2557.
        "Content-Location: a.exe",
        "content-location : http://files.example/a.exe",
        "Content-Location: http://files.example/a%2Eexe",
        "Content-Location: http://files.example/a.exe?x=/y",
        "Content-Location: http://files.example/a.exe#part",
        "Content-Location: http://files.example/b/\n a.exe",
        "Content-Location: \"file:///C:\\temp\\a.exe\"",
        "Content-Location: C:\\temp\\a.exe",
        "Content-Location: <http://files.example/a.exe>",
        "Content-Location: =?utf-8?q?http=3A//files.example/a=2Eexe?=",
        "Content-Location: thismessage:/a.exe (comment)",
        "Content-Location: a.txt\nContent-Location: a.exe",
        "Content-Type: x/y; name=\"\"\nContent-Location: a.exe",
        // RFC 2231.
        "Content-Disposition: attachment; filename*=utf-8''a%2eexe",
        "Content-Disposition: attachment; filename*=utf-8'en'a.exe; filename=a.txt",
        "Content-Disposition: attachment; filename*=a.exe",
        "Content-Disposition: attachment; filename*=\"utf-8''a%2Eexe\"",
        "Content-Disposition: attachment; filename*0=\"a.e\"; filename*1=\"xe\"",
        "Content-Disposition: attachment; filename*1=\"xe\"; filename*0=\"a.e\"",
        "Content-Disposition: attachment; filename*0*=utf-8''a%2e; filename*1*=%65xe",
        "Content-Disposition: attachment; filename*0*=utf-8''a%2e; filename*1=exe",
        "Content-Disposition: attachment; filename*0=a.; filename*1=txt; filename*1=exe",
        "Content-Disposition: attachment; filename*1=a.; filename*2=exe",
        "Content-Disposition: attachment; filename*=utf-16le''a%00.%00e%00x%00e%00",
        "Content-Type: x/y;\n name*0*=utf-8''a;\n name*1=.e;\n name*2=xe",
        "Content-Disposition: attachment; filename*0=a.exe; filename*2=.txt",
        "Content-Disposition: attachment; filename*=utf-16''%FE%FF%00a%00.%00e%00x%00e",
        "Content-Disposition: attachment; filename*=utf-16''a%00.%00e%00x%00e%00",
        "Content-Disposition: attachment; filename*=UTF-16''%00a%00.%00e%00x%00e",
        "Content-Disposition: attachment; filename*0*=utf-16be''%00a%00; filename*1*=.%00e%00x%00e",
        "Content-Disposition: attachment; filename*0*=utf-16le''a%00.%00e%00x; filename*1*=%00e%00",
        "Content-Disposition: attachment; filename*=utf-16''%54%0D%00.%00e%00x%00e",
        "Content-Disposition: attachment; filename*=utf-32''%00%01%00%00.%00%00%00e%00%00%00x%00%00%00e%00%00%00",
        "Content-Disposition: attachment; filename*=utf-32''%FF%FE%00%00a%00%00%00.%00%00%00e%00%00%00x%00%00%00e%00%00%00",
        "Content-Disposition: attachment; filename*=utf-32be''%00%00%00a%00%00%00.%00%00%00e%00%00%00x%00%00%00e",
        "Content-Disposition: attachment; filename*=utf-7''a+AC4-exe",
        "Content-Disposition: attachment; filename*=utf-7''a+AC4AZQB4AGU",
        "Content-Disposition: attachment; filename*=utf-7''+AGE.exe",
        "Content-Disposition: attachment; filename*=iso-2022-kr''a.e%0e%0fxe",
        "Content-Disposition: attachment; filename*=hz-gb-2312''a%2eexe",
        "Content-Disposition: attachment; filename*=ibm037''%81%4b%85%a7%85",
        "Content-Disposition: attachment; filename=\"=?utf-16?b?AGEALgBlAHgAZQ==?=\"",
        // RFC 2047, where it does not belong.
        "Content-Disposition: attachment; filename=\"=?utf-8?Q?a=2Eexe?=\"",
        "Content-Disposition: attachment; filename==?utf-8?b?YS5leGU=?=",
        "Content-Disposition: attachment; filename=\"=?utf-8?b?YS5leGU?=\"",
        "Content-Disposition: attachment; filename=\"=?utf-8?q?a.e?= =?utf-8?q?xe?=\"",
        "Content-Disposition: attachment; filename=\"=?utf-8?q?a.e?=\n =?utf-8?q?xe?=\"",
        "Content-Disposition: attachment; filename=\"a=?utf-8?q?.ex?=e\"",
        "Content-Disposition: attachment; filename=\"=?utf-8?q?a b.exe?=\"",
        "Content-Disposition: attachment; filename=\"=?utf-8?q?a.exe\"",
        "Content-Disposition: attachment; filename=\"=?no such charset?q?a=2eexe?=\"",
        "Content-Disposition: attachment; filename=\"a%2Eexe\"",
    ] {
        assert!(is_found(&format!("Subject: x\n{field}\n\nbody\n")), "{field:?}");
        let crlf = format!("Subject: x\n{field}\n\nbody\n").replace("\r\n", "\n").replace('\n', "\r\n");
        assert!(is_found(&crlf), "{crlf:?}");
        let part = format!("Content-Type: multipart/mixed; boundary=b\n\n--b\n{field}\n\nbody\n--b--\n");
        assert!(is_found(&part), "{part:?}");
    }
}

#[test]
fn a_structure_hides_no_part() {
    let part = "Content-Disposition: attachment; filename=a.exe\n\nMZ\n";
    let mixed = "Content-Type: multipart/mixed; boundary=b\n";
    let nested = format!("{mixed}\n--b\n{part}--b--\n");
    for message in [
        format!("{mixed}\npreamble\n--b\n\ntext\n--b  \n{part}"),
        format!("{mixed}\n--b\n\ntext\n--b--\nepilogue\n--b\n{part}"),
        format!("{mixed}\n--b\n\ntext\n--b--\n{part}"),
        format!("{mixed}\n--bc\n{part}--bc--\n"),
        format!("{mixed}\n--b\r{part}"),
        format!("{mixed}\n--b\n{}", part.trim_end()),
        format!("{mixed}\n--b\nContent-Disposition: attachment; filename=a.exe"),
        format!("Content-Type: multipart/mixed\n\n--any\n{part}--any--\n"),
        format!("Content-Type: multipart/mixed; boundary=\n\n--any\n{part}"),
        format!("Content-Type: multipart/mixed; boundary=a; boundary=b\n\n--b\n{part}"),
        format!("Content-Type: multipart/mixed; boundary=b; boundary=a\n\n--b\n{part}"),
        format!("Content-Type: text/plain\n{mixed}\n--b\n{part}"),
        format!("{mixed}Content-Type: text/plain\n\n--b\n{part}"),
        format!("Content-Type: multipart/mixed boundary=\"b\"\n\n--b\n{part}"),
        format!("Content-Type: multipart/mixed; boundary=\"a b\"\n\n--a b\n{part}"),
        format!("Content-Type: multipart/mixed; boundary*0=a; boundary*=us-ascii''b\n\n--b\n{part}"),
        format!("Content-Type: (x) multipart / mixed;\n boundary=b (y)\n\n--b\n{part}"),
        format!("Content-Type: MULTIPART/unknown; boundary=b\n\n--b\n{part}"),
        // A level whose end is missing, the same boundary twice, a boundary that begins like another.
        format!("Content-Type: multipart/mixed; boundary=o\n\n--o\n{mixed}\n--b\n\nx\n--o\n{part}"),
        format!("{mixed}\n--b\n{mixed}\n--b\n\nx\n--b--\n--b\n{part}"),
        format!(
            "{mixed}\n--b\nContent-Type: multipart/mixed; boundary=b-in\n\n--b-in\n{part}--b-in--\n--b--\n"
        ),
        format!("{mixed}\n--b\nContent-Type: multipart/mixed; boundary=in\n--bX\n\n--in\n{part}"),
        // Messages in messages.
        format!("Content-Type: message/rfc822\n\n{nested}"),
        format!("{mixed}\n--b\nContent-Type: message/rfc822\n\nSubject: x\n{part}--b--\n"),
        format!("{mixed}\n--b\nContent-Type: message/global\n\n{}", nested.replace("b\n", "c\n")),
        format!("Content-Type: multipart/digest; boundary=d\n\n--d\n\n{nested}\n--d--\n"),
        "Content-Type: message/external-body; access-type=URL; name=a.exe\n\n".to_owned(),
        // Encoded: c29..: `Content-Disposition: x; filename=a.exe`.
        "Content-Type: message/rfc822\nContent-Transfer-Encoding: base64\n\n\
         Q29udGVudC1EaXNwb3NpdGlvbjog\n eDsgZmlsZW5hbWU9YS5leGU=\n"
            .to_owned(),
        "Content-Type: message/rfc822\nContent-Transfer-Encoding: quoted-printable\n\n\
         Content-Disposition: x; file=\nname=3Da=2Eexe\n"
            .to_owned(),
        "Content-Type: multipart/mixed; boundary=b\nContent-Transfer-Encoding: base64\n\n\
         LS1iCkNvbnRlbnQtRGlzcG9zaXRpb246IHg7IGZpbGVuYW1lPWEuZXhlCg==\n"
            .to_owned(),
        // uuencode.
        "\nhello\nbegin 644 a.exe\nM35J0``,````$````__\\``+@`````````0```````````````````````````\n`\nend\n"
            .to_owned(),
    ] {
        assert!(is_found(&message), "{message}");
        assert!(is_found(&message.replace('\n', "\r\n")), "with CRLF: {message}");
    }
}

#[test]
fn harmless_messages_pass() {
    for message in [
        "Subject: a.exe\n\nContent-Disposition: attachment; filename=a.exe\n",
        "Content-Type: text/plain; name=exe\n\n",
        "Content-Type: text/plain; name=\"a.exe.txt\"\n\n",
        "Content-Type: multipart/mixed; boundary=b\n\n--b\n\nfilename=a.exe\n--b--\n",
        "Content-Type: text/plain\n\n--b\nContent-Disposition: attachment; filename=a.exe\n",
        "\nwe begin 644 a.exe\nbegin 644 a.exe\nis how uuencode begins\n",
        "X-Name: x; name=a.exe\n\n",
        // RFC 2045 5.1: what stands in quotes is a value, what stands in parentheses a comment.
        "Content-Disposition: attachment; filename=\"www.a.exe;Rechnung.pdf\"\n\n",
        "Content-Disposition: attachment; filename=\"www.a.exe;\n Rechnung.pdf\"\n\n",
        "Content-Disposition: attachment; filename=\"a.exe\\\"b.txt\"\n\n",
        "Content-Disposition: attachment; filename=\"a.exe\\\".txt\"; size=3\n\n",
        "Content-Type: text/plain; x-url=\"http://files.example/?name=setup.exe\"\n\n",
        "Content-Type: text/plain; x-url=\"http://files.example/?x; name=setup.exe\"; charset=utf-8\n\n",
        "Content-Type: text/plain; x-note=\"say \\\"; name=setup.exe; \\\" please\"\n\n",
        "Content-Type: text/plain; x-url=http://files.example/?name=setup.exe\n\n",
        "Content-Type: text/plain; x-url=http://files.example/?a=b&name=setup.exe; charset=\"utf-8\n\n",
        "Content-Type: text/plain; x-name=setup.exe; x.name=\"setup.exe\"; rename=setup.exe\n\n",
        "Content-Type: text/plain (name=setup.exe); charset=us-ascii (not name=setup.exe)\n\n",
        "Content-Disposition: attachment; filename*0=\"www.a.exe\"; filename*1=\"-Rechnung.pdf\"\n\n",
        "Content-Disposition: attachment; filename*=utf-16''a%00.%00e%00x%00e%00.%00t%00x%00t%00\n\n",
        "Content-Type: text/plain\nname=a.exe\n\n",
        "Content-Type: text/plain;\nX-Name: name=a.exe\n\n",
        // The name of a host, a query, an address are no file's. A part with a name has no other.
        "Content-Location: http://www.a.exe\n\n",
        "Content-Location: http://www.a.exe/\n\n",
        "Content-Location: http://files.example/get.html?name=/a.exe\n\n",
        "Content-Location: http://files.example/page.html#a.exe\n\n",
        "Content-Location: cid:part1.0815@www.a.exe\n\n",
        "Content-Type: image/gif; name=logo.gif\nContent-Location: http://files.example/a.exe\n\n",
        "Content-Base: http://files.example/a.exe\n\n",
        "",
        "\n",
        ":",
        "--\n\n",
    ] {
        assert_eq!(exe(message), Ok(None), "{message}");
    }
    // A bounce of qmail-send quotes the message as text.
    let bounce = "Subject: failure notice\n\n--- Below this line is a copy of the message.\n\n\
        Content-Disposition: attachment; filename=a.exe\n\n";
    assert_eq!(exe(bounce), Ok(None));
}

#[test]
fn a_name_is_shown_safely() {
    let suffixes = [".exe".to_owned(), String::new()];
    let message = "Content-Disposition: x; filename=\"R\u{e9}sum\u{e9}\t.EXE \"\n\n";
    assert_eq!(blocked(message.as_bytes(), &suffixes), Ok(Some("r?sum??.exe".to_owned())));
    let message = format!("Content-Disposition: x; filename={}.exe\n\n", "a".repeat(3000));
    let shown = blocked(message.as_bytes(), &suffixes).unwrap().unwrap();
    assert!(shown.len() == 100 && shown.ends_with("a.exe"));
}

#[test]
fn bombs_are_refused_soon() {
    let name = "Content-Disposition: x; filename=a.txt\n";
    let mut deep = String::new();
    for n in 0..100 {
        writeln!(deep, "Content-Type: multipart/mixed; boundary=b{n}\n\n--b{n}").unwrap();
    }
    let mut encoded = "Content-Disposition: x; filename=a.exe\n\n".to_owned();
    for _ in 0..MAX_ENCODED + 1 {
        encoded = format!(
            "Content-Type: message/rfc822\nContent-Transfer-Encoding: quoted-printable\n\n{}",
            encoded.replace('=', "=3D")
        );
    }
    let multipart =
        "Content-Type: multipart/mixed; boundary=never\nContent-Transfer-Encoding: base64\n\n--b\n";
    for message in [
        deep,
        encoded,
        "Content-Type: message/rfc822\n\n".repeat(100_000),
        name.repeat(20_000),
        format!("Content-Type: multipart/mixed; boundary=b\n\n{}", "--b\n".repeat(200_000)),
        format!("Content-Type: multipart/mixed; boundary=b\n\n--b\n{}", multipart.repeat(100_000)),
        format!("Content-Disposition: x; {}\n\n", "name=\"".repeat(10_001)),
        format!("Content-Disposition: x; filename={}\n\n", "a".repeat(5000)),
        format!("Content-Disposition: x;{}\n\n", "\n a=b".repeat(50_000)),
        format!(
            "Content-Type: multipart/mixed; {}\n\n",
            "boundary=b; ".repeat(5_000) + &"boundary=c".repeat(900)
        ),
    ] {
        assert_eq!(exe(&message), Err(TooComplex), "{}", &message[..60]);
    }
    let many =
        format!("Content-Type: multipart/mixed; boundary=b\n\n{}", format!("--b\n{name}\n").repeat(2000));
    assert_eq!(exe(&many), Ok(None));
}

#[test]
fn one_boundary_that_can_be_read_in_every_way_is_not_too_much() {
    let message = "Content-Type: multipart/mixed; boundary=b\n name=(\";";
    assert_eq!(exe(message), Ok(None));
}

proptest! {
    #[test]
    fn anything_is_read_without_panic(
        parts in proptest::collection::vec(proptest::sample::select(vec![
            "Content-Type: multipart/mixed; boundary=b\n", "Content-Type: message/rfc822\n", "--b", "--b--\n", "\n", "\r",
            "Content-Transfer-Encoding: base64\n", "name=", "filename*0*=", "\"", "=?utf-7?b?", "?=", "%2", "'", ";", "\0",
            "(", " ", "=?", "\u{e9}", "begin 644 x\n", "Content-Disposition:",
        ]), 0..60)
    ) {
        let message = parts.concat();
        // What can be read in too many ways is refused.
        let (Ok(()) | Err(TooComplex)) = names(message.as_bytes(), &mut |_| ());
    }

    #[test]
    fn any_bytes_are_read_without_panic(message in proptest::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(names(&message, &mut |_| ()).is_ok());
    }
}

/// Bare CRs stand in a message that is encoded as a whole; each piece may begin a file, and all have the same line behind.
#[test]
fn many_beginnings_of_uuencode_cost_no_more_than_their_bytes() {
    let text = ["begin 644 a\r".repeat(9_000), "A".repeat(8_000_000), "a".to_owned()].concat();
    let message = format!("Subject: x\n\n{text}");
    assert_eq!(blocked(message.as_bytes(), &[".exe".to_owned()]), Ok(None));
    let more = format!("Subject: x\n\n{}", "begin 644 a\r".repeat(11_000));
    assert_eq!(blocked(more.as_bytes(), &[".exe".to_owned()]), Err(TooComplex));
}
