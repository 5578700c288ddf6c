//! SPF: whatever the records and the answers are, a check ends within its questions, and what it says is printable,
//! bounded, and one line.
//!
//! The input is lines: the client's address, its HELO, the sender, `spfrules`, `spfguess`, `spfexp`, then answers, one
//! for each question, from the first again after the last. An answer is `!` (failed), `?` (no such name), empty (no
//! records), `^` and an answer of another kind, or records with `|` between; `xN` in front of a record repeats it.

#![no_main]

use std::collections::HashMap;
use std::net::IpAddr;

use libfuzzer_sys::fuzz_target;
use mailtree_protocols::reply::Refusal;
use mailtree_protocols::spf::{
    self, Answer, Behavior, Client, Decision, MAX_EXPLANATION, MAX_QUESTIONS, Options, Outcome, Question,
    SpfResult, Step,
};

fuzz_target!(|data: &[u8]| {
    let lines: Vec<&[u8]> = data.split(|&b| b == b'\n').collect();
    let Some((&[ip, helo, sender, rules, guess, explanation], answers)) = lines.split_first_chunk::<6>()
    else {
        return;
    };
    let text = |line| String::from_utf8_lossy(line);
    let client = Client {
        ip: address(ip).unwrap_or(IpAddr::from([192, 0, 2, 1])),
        helo,
        sender,
        receiver: "mx.example.com",
        now: 1_000_000_000,
    };
    let options = match Options::new(&text(rules), &text(guess), &text(explanation)) {
        Ok(options) => options,
        Err(error) => {
            assert!(error.to_string().starts_with("spf"));
            Options::default()
        }
    };
    let mut answers = answers.iter().cycle();
    let mut known = HashMap::new();
    let outcome = loop {
        match spf::check(&client, &options, &known) {
            Step::Done(outcome) => break outcome,
            Step::Ask(question) => {
                check_question(&question);
                let answer = answer(&question, answers.next().copied().unwrap_or(b"!"));
                assert_eq!(known.insert(question, answer), None, "asked again");
                assert!(known.len() <= MAX_QUESTIONS, "asks without end");
            }
        }
    };
    check_outcome(&client, &outcome);
    assert_eq!(spf::check(&client, &options, &known), Step::Done(outcome));
});

fn address(text: &[u8]) -> Option<IpAddr> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn answer(question: &Question, line: &[u8]) -> Answer {
    let records = || line.split(|&b| b == b'|').filter(|_| !line.is_empty());
    let names = || records().map(|name| String::from_utf8_lossy(name).into_owned());
    match (line, question) {
        (b"!", _) => Answer::Failed,
        (b"?", _) => Answer::NoName,
        ([b'^', rest @ ..], Question::Txt(_)) => {
            Answer::Ptr(vec![String::from_utf8_lossy(rest).into_owned()])
        }
        ([b'^', rest @ ..], _) => Answer::Txt(vec![rest.to_vec()]),
        (_, Question::Txt(_)) => Answer::Txt(records().map(repeated).collect()),
        (_, Question::Addresses4(_) | Question::Addresses6(_)) => {
            Answer::Addresses(records().filter_map(address).collect())
        }
        (_, Question::Mx(_)) => Answer::Mx(names().map(|name| (10, name)).collect()),
        (_, Question::Ptr(_)) => Answer::Ptr(names().collect()),
    }
}

/// `xNTEXT` is `v=spf1` and the text as often as the digit's square says.
fn repeated(record: &[u8]) -> Vec<u8> {
    match record {
        [b'x', digit, text @ ..] => {
            let number = usize::from(digit & 31).pow(2).min(9000 / text.len().max(1));
            [b"v=spf1 ", text.repeat(number).as_slice()].concat()
        }
        _ => record.to_vec(),
    }
}

fn check_question(question: &Question) {
    if let Question::Txt(name)
    | Question::Addresses4(name)
    | Question::Addresses6(name)
    | Question::Mx(name) = question
    {
        assert!((1..=253).contains(&name.len()) && !name.ends_with('.'));
        assert!(name.bytes().all(|b| matches!(b, 32..=126) && b != b'\\' && !b.is_ascii_uppercase()));
        assert!(name.split('.').all(|label| (1..=63).contains(&label.len())));
    }
}

fn check_outcome(client: &Client<'_>, outcome: &Outcome) {
    let Outcome { result, domain, matched, explanation, problem } = outcome;
    let printable = |text: &str, max| text.len() <= max && text.bytes().all(|b| matches!(b, 32..=126));
    assert!(printable(domain, 255));
    assert!(matched.as_ref().is_none_or(|text| printable(text, 128)));
    assert!(explanation.as_ref().is_none_or(|text| printable(text, MAX_EXPLANATION)));
    assert!(problem.as_ref().is_none_or(|text| printable(text, MAX_EXPLANATION)));
    let failed = matches!(result, SpfResult::Temperror | SpfResult::Permerror);
    assert_eq!(problem.is_some(), failed);
    assert_eq!(explanation.is_none(), failed || *result == SpfResult::Pass);

    let field = spf::received_spf(client, outcome);
    let line = field.strip_suffix('\n').expect("a line");
    assert!(line.starts_with(&format!("Received-SPF: {result} (")) && printable(line, 997), "{line}");
    assert_eq!(line.matches(['(', ')']).count(), 2, "{line}");

    for level in ["0", "1", "2", "3", "4", "5", "6"] {
        let behavior: Behavior = level.parse().expect("a level");
        match spf::decide(behavior, outcome) {
            Decision::Reject(text) => {
                let mut out = Vec::new();
                Refusal::spf_failed(&text).write(true, &mut out);
                assert!(printable(&text, MAX_EXPLANATION));
                assert!(out.len() <= 512 && out.ends_with(b" (#5.7.1)\r\n"));
            }
            Decision::None => assert_eq!(behavior, Behavior::Off),
            Decision::Annotate | Decision::RejectTemporary => {}
        }
    }
}
