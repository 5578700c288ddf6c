use proptest::prelude::*;

use super::*;

fn said(text: &str) -> Output {
    parse(text.as_bytes(), Section::Rcpt).unwrap()
}

fn wire(refusal: &Refusal, enhanced: bool) -> String {
    let mut out = Vec::new();
    refusal.write(enhanced, &mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn every_letter() {
    let output =
        said("Cspam@far.test\nHX-Spam-Flag: YES\nH\tand more\n\nSspam=1=2\nUham\nPhello\nA\nnonsense\n");
    assert_eq!(
        output.actions,
        [
            Action::Address(b"spam@far.test".to_vec()),
            Action::Header(b"X-Spam-Flag: YES\n\tand more".to_vec()),
            Action::Set(b"spam".to_vec(), b"1=2".to_vec()),
            Action::Unset(b"ham".to_vec()),
            Action::Print(b"hello".to_vec()),
        ]
    );
    assert_eq!(output.verdict, Verdict::Accept);
    for (text, verdict) in [
        ("", Verdict::None),
        ("N\n", Verdict::Next),
        ("N", Verdict::Next),
        ("O\r\n", Verdict::Unchecked),
        ("D\n", Verdict::Drop),
    ] {
        assert_eq!(said(text).verdict, verdict, "{text:?}");
    }
    let later = said("LM451 a\nLR550 b\nLD554 c\n").actions;
    let sections: Vec<_> =
        later.iter().map(|a| matches!(a, Action::Later(s, _) if s.has_address())).collect();
    assert_eq!(sections, [true, true, false]);
}

#[test]
fn a_reply_keeps_its_words_and_has_one_enhanced_code() {
    for (text, after_helo, after_ehlo) in [
        ("E550 no", "550 no", "550 5.7.1 no"),
        ("E550 5.1.1 nobody", "550 5.1.1 nobody", "550 5.1.1 nobody"),
        ("E451 GL (#4.3.0)", "451 GL (#4.3.0)", "451 4.3.0 GL (#4.3.0)"),
        ("E451 5.1.1 x", "451 5.1.1 x", "451 4.7.1 5.1.1 x"),
        ("R554", "554 ", "554 5.7.1 "),
        ("E550 a\tb\u{e9}", "550 a?b??", "550 5.7.1 a?b??"),
    ] {
        let (Verdict::Error(refusal) | Verdict::Reject(refusal)) = said(text).verdict else {
            panic!("{text}")
        };
        assert_eq!(wire(&refusal, false), format!("{after_helo}\r\n"));
        assert_eq!(wire(&refusal, true), format!("{after_ehlo}\r\n"));
    }
}

#[test]
fn what_is_no_command_is_named() {
    for text in [
        "X\n",
        "a\n",
        "Nope\n",
        "E\n",
        "E250 ok\n",
        "E55\n",
        "E550-no\n",
        "E5x0 no\n",
        "R no\n",
        "L550 x\n",
        "LX550 x\n",
        "S\n",
        "Sa\n",
        "S1=x\n",
        "Sa b=x\n",
        "S=x\n",
        "U\n",
        "Ua=b\n",
        "H\n",
        "H more\n",
        "Hno field\n",
        "H: x\n",
        "HX: y\nH \t\n",
        "C\n",
        "C<a@b.test>\n",
        "Ca b@c.test\n",
        "Ca@b.test> x\n",
        "SA=\0\n",
    ] {
        assert!(parse(text.as_bytes(), Section::Rcpt).is_err(), "{text:?}");
    }
    assert_eq!(
        parse(b"N\nX\n", Section::Rcpt).map(|output| output.verdict),
        Ok(Verdict::Next),
        "nothing is read behind the verdict"
    );
    let error = parse(b"Sa=1\n\nhello\n", Section::Rcpt).unwrap_err();
    assert_eq!((error.line, error.text.as_str()), (3, "hello"));
    assert!(parse(b"C\n", Section::Mail).is_ok(), "a sender may be empty");
    assert!(parse(b"Ca@b.test\n", Section::Data).is_err());
}

proptest! {
    #[test]
    fn nothing_breaks_out_of_its_line(text in proptest::collection::vec(any::<u8>(), 0..300)) {
        for section in Section::ALL {
            let Ok(output) = parse(&text, section) else { continue };
            for action in output.actions {
                match action {
                    Action::Header(field) => {
                        prop_assert!(!field.contains(&b'\r') && !field.contains(&0));
                        prop_assert!(field.split(|&b| b == b'\n').skip(1).all(|l| b" \t".contains(&l[0])));
                    }
                    Action::Address(path) => {
                        prop_assert!(section.has_address());
                        prop_assert!(!path.iter().any(u8::is_ascii_control));
                    }
                    Action::Set(name, value) => prop_assert!(is_name(&name) && !value.contains(&0)),
                    Action::Unset(name) => prop_assert!(is_name(&name)),
                    Action::Print(line) => prop_assert!(!line.contains(&b'\n')),
                    Action::Later(_, refusal) => prop_assert!((400..600).contains(&refusal.code())),
                }
            }
            if let Verdict::Error(refusal) | Verdict::Reject(refusal) = output.verdict {
                prop_assert!((400..600).contains(&refusal.code()));
                prop_assert_eq!(wire(&refusal, true).matches('\n').count(), 1);
            }
        }
    }

    #[test]
    fn commands_in_any_order(lines in proptest::collection::vec("[ANODERLSUHCP]([MRD]?[45][0-9]{2} x|[a-z]{1,3}[=:@][a-z]{0,3})?", 0..8)) {
        let text = lines.join("\n");
        if let Ok(output) = parse(text.as_bytes(), Section::Mail) {
            prop_assert!(output.actions.len() <= lines.len());
        }
    }
}
