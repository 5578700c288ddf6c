//! Checks against small zones: the limits, the local options, hostile records. The official suite runs elsewhere.

use super::*;

const SENDER: &[u8] = b"ann@a.example";

/// A name that is not here does not exist.
#[derive(Default)]
struct Zone(HashMap<Question, Answer>);

impl Zone {
    /// Each row `name TXT text`, `name A ip`, `name AAAA ip`, `name MX host` or `name FAILS` (its TXT, A and AAAA).
    fn new(rows: &[&str]) -> Self {
        let mut zone = Self::default();
        for row in rows {
            let mut words = row.splitn(3, ' ');
            let (name, kind, data) =
                (words.next().unwrap(), words.next().unwrap(), words.next().unwrap_or(""));
            let name = name.to_owned();
            match kind {
                "TXT" => zone.add(Question::Txt(name), Answer::Txt(vec![data.into()])),
                "A" => zone.add(Question::Addresses4(name), Answer::Addresses(vec![data.parse().unwrap()])),
                "AAAA" => {
                    zone.add(Question::Addresses6(name), Answer::Addresses(vec![data.parse().unwrap()]))
                }
                "MX" => zone.add(Question::Mx(name), Answer::Mx(vec![(0, data.to_owned())])),
                "FAILS" => {
                    for question in [Question::Txt, Question::Addresses4, Question::Addresses6] {
                        zone.add(question(name.clone()), Answer::Failed);
                    }
                }
                _ => panic!("{row}"),
            }
        }
        zone
    }

    fn add(&mut self, question: Question, answer: Answer) {
        match (self.0.get_mut(&question), answer) {
            (Some(Answer::Txt(old)), Answer::Txt(new)) => old.extend(new),
            (Some(Answer::Addresses(old)), Answer::Addresses(new)) => old.extend(new),
            (Some(Answer::Mx(old)), Answer::Mx(new)) => old.extend(new),
            (_, answer) => drop(self.0.insert(question, answer)),
        }
    }

    fn ask(&self, client: &Client<'_>, options: &Options) -> (Outcome, usize) {
        let mut answers = HashMap::new();
        for _ in 0..=MAX_QUESTIONS {
            match check(client, options, &answers) {
                Step::Done(outcome) => return (outcome, answers.len()),
                Step::Ask(question) => {
                    let answer = self.0.get(&question).cloned().unwrap_or(Answer::NoName);
                    assert_eq!(answers.insert(question, answer), None, "asked twice");
                }
            }
        }
        panic!("no end");
    }

    fn outcome(&self, options: &Options) -> Outcome {
        self.ask(&client("192.0.2.1", SENDER), options).0
    }

    /// `result matched` or `result problem`.
    fn says(&self, options: &Options) -> String {
        let outcome = self.outcome(options);
        format!("{} {}", outcome.result, outcome.matched.or(outcome.problem).unwrap_or_default())
    }
}

fn client<'a>(ip: &str, sender: &'a [u8]) -> Client<'a> {
    Client { ip: ip.parse().unwrap(), helo: b"h.example", sender, receiver: "mx.test", now: 812_090_814 }
}

fn record(text: &str) -> String {
    format!("a.example TXT v=spf1 {text}")
}

#[test]
fn which_domain_is_checked() {
    let zone = Zone::new(&["a.example TXT v=spf1 -all", "h.example TXT v=spf1 +all"]);
    for (sender, expected) in [
        ("ann@A.example", "fail a.example"),
        ("a@b@a.example", "fail a.example"),
        ("ann@a.example.", "fail a.example"),
        ("", "pass h.example"),
        ("ann", "pass h.example"),
        ("ann@", "none "),
        ("ann@example", "none example"),
        ("ann@[192.0.2.1]", "none [192.0.2.1]"),
        ("ann@\u{e4}.example", "none ??.example"),
    ] {
        let (outcome, _) = zone.ask(&client("192.0.2.1", sender.as_bytes()), &Options::default());
        assert_eq!(format!("{} {}", outcome.result, outcome.domain), expected, "{sender}");
    }
}

#[test]
fn an_include_matches_with_its_own_qualifier() {
    for (outer, middle, inner, expected) in [
        ("-include:b.example +all", "include:c.example", "+all", "fail -include:b.example"),
        ("include:b.example -all", "-include:c.example", "+all", "fail -all"),
        ("include:b.example -all", "?include:c.example +all", "+all", "fail -all"),
        ("~include:b.example -all", "include:c.example", "ip4:192.0.2.0/24", "softfail ~include:b.example"),
        ("include:b.example ?all", "include:c.example", "-all", "neutral ?all"),
        ("include:b.example ?all", "redirect=c.example", "a -all", "neutral ?all"),
        ("redirect=b.example", "redirect=c.example", "a ~all", "softfail ~all"),
        (
            "include:b.example",
            "include:c.example",
            "moo",
            "permerror SPF record of c.example: moo: no mechanism or modifier",
        ),
        ("include:x.example", "", "", "permerror x.example is included but has no SPF record"),
        (
            "redirect=x.example",
            "",
            "",
            "permerror redirect of a.example leads to x.example, which has no SPF record",
        ),
    ] {
        let zone = Zone::new(&[
            &record(outer),
            &format!("b.example TXT v=spf1 {middle}"),
            &format!("c.example TXT v=spf1 {inner}"),
        ]);
        assert_eq!(zone.says(&Options::default()), expected, "{outer} / {middle} / {inner}");
    }
}

#[test]
fn limits() {
    let includes: Vec<String> =
        (0..20).map(|n| format!("i{n}.example TXT v=spf1 include:i{}.example -all", n + 1)).collect();
    let many_mx: Vec<String> = (0..11).map(|n| format!("m.example MX h{n}.example")).collect();
    let mut rows = vec![
        "y.example A 198.51.100.1",
        "mf.example MX f.example",
        "f.example FAILS",
        "e.example TXT v=spf1",
    ];
    rows.extend(includes.iter().chain(&many_mx).map(String::as_str));
    for (text, expected) in [
        ("exists:n1.example exists:n2.example ?all", "neutral ?all"),
        (
            "exists:n1.example exists:n2.example a:n3.example ?all",
            "permerror more than 2 DNS questions without an answer",
        ),
        ("a mx -all", "fail -all"),
        (&format!("{}-all", "a:y.example ".repeat(10)), "fail -all"),
        (
            &format!("{}-all", "a:y.example ".repeat(11)),
            "permerror more than 10 mechanisms and redirects ask DNS",
        ),
        (&format!("{}-all", "ip4:198.51.100.1 ".repeat(400)), "fail -all"),
        ("include:i0.example", "permerror more than 10 mechanisms and redirects ask DNS"),
        ("include:a.example", "permerror more than 10 mechanisms and redirects ask DNS"),
        ("redirect=a.example", "permerror more than 10 mechanisms and redirects ask DNS"),
        ("mx:m.example", "permerror m.example has more than 10 mail exchangers"),
        ("mx:mf.example -all", "temperror no answer to the A question for f.example"),
        ("include:f.example -all", "temperror no answer to the TXT question for f.example"),
        ("include:e.example -all", "fail -all"),
        ("all moo", "permerror SPF record of a.example: moo: no mechanism or modifier"),
        (&"a".repeat(65_000), "permerror SPF record of a.example: 65007 bytes long, at most 8192 are read"),
    ] {
        let mut rows = rows.clone();
        let record = record(text);
        rows.push(&record);
        assert_eq!(Zone::new(&rows).says(&Options::default()), expected, "{text:.60}");
    }
    let two = Zone::new(&["a.example TXT v=spf1 -all", "a.example TXT v=spf1 +all"]);
    assert_eq!(two.says(&Options::default()), "permerror a.example has several SPF records");
}

#[test]
fn the_dearest_record_ends_in_bounded_questions() {
    let mut rows = vec![record(
        "mx:m0.example mx:m1.example mx:m2.example mx:m3.example mx:m4.example mx:m5.example mx:m6.example \
         mx:m7.example mx:m8.example mx:%{p}.m9.example exp=%{p}.a.example -all",
    )];
    for n in 0..10 {
        rows.extend((0..10).map(|h| format!("m{n}.example MX h{h}.m{n}.example")));
        rows.extend((0..10).map(|h| format!("h{h}.m{n}.example A 198.51.100.1")));
    }
    let mut zone = Zone::new(&rows.iter().map(String::as_str).collect::<Vec<_>>());
    zone.add(
        Question::Ptr("192.0.2.1".parse().unwrap()),
        Answer::Ptr((0..1000).map(|n| format!("p{n}.example")).collect()),
    );
    let (outcome, questions) = zone.ask(&client("192.0.2.1", SENDER), &Options::default());
    assert_eq!(outcome.result, SpfResult::Fail);
    assert!((100..=MAX_QUESTIONS).contains(&questions), "{questions}");
    // Local rules may ask on their own account, but not without end.
    let rules = (0..10).map(|n| format!("mx:m{n}.example ")).collect::<String>();
    let (outcome, _) = zone.ask(&client("192.0.2.1", SENDER), &Options::new(&rules, "", "").unwrap());
    assert_eq!(outcome.problem.as_deref(), Some("takes more than 128 DNS questions"));
}

#[test]
fn the_clients_own_names_cannot_spoil_the_record() {
    let mut zone =
        Zone::new(&[&record("ptr -all"), "good.a.example A 192.0.2.1", "bada.example A 192.0.2.1"]);
    let ptr = Question::Ptr("192.0.2.1".parse().unwrap());
    for (names, expected) in [
        (vec!["n1.a.example", "n2.a.example", "n3.a.example", "n4.a.example"], "fail -all"),
        (vec!["n1.a.example", "", "bad", "Good.A.example."], "pass ptr"),
        (vec!["good.a.example.evil.example"], "fail -all"),
        (vec!["bada.example"], "fail -all"),
    ] {
        zone.0.insert(ptr.clone(), Answer::Ptr(names.iter().map(|&name| name.to_owned()).collect()));
        assert_eq!(zone.says(&Options::default()), expected, "{names:?}");
    }
    zone.0.insert(ptr, Answer::Failed);
    assert_eq!(zone.says(&Options::default()), "fail -all");
}

#[test]
fn addresses_match_within_their_family() {
    let zone = Zone::new(&[
        &record("a ip4:0.0.0.0/0 -all"),
        "a.example AAAA ::ffff:192.0.2.1",
        "b.example TXT v=spf1 ip6:::/0 -all",
    ]);
    for (ip, sender, expected) in [
        ("192.0.2.1", "x@a.example", "ip4:0.0.0.0/0"),
        ("::ffff:192.0.2.1", "x@a.example", "ip4:0.0.0.0/0"),
        ("2001:db8::1", "x@a.example", "-all"),
        ("2001:db8::1", "x@b.example", "ip6:::/0"),
        ("::ffff:192.0.2.1", "x@b.example", "-all"),
    ] {
        let (outcome, _) = zone.ask(&client(ip, sender.as_bytes()), &Options::default());
        assert_eq!(outcome.matched.as_deref(), Some(expected), "{ip} {sender}");
    }
}

#[test]
fn local_rules_come_before_all_of_the_senders_own_record_only() {
    let options = Options::new("ip4:192.0.2.0/24", "", "").unwrap();
    let dear = format!("{}-all", "a:y.example ".repeat(10));
    for (text, rules, expected) in [
        ("-all", "ip4:192.0.2.0/24", "pass ip4:192.0.2.0/24"),
        ("-ip4:192.0.2.1 -all", "ip4:192.0.2.0/24", "fail -ip4:192.0.2.1"),
        ("", "ip4:192.0.2.0/24", "pass ip4:192.0.2.0/24"),
        ("redirect=b.example", "ip4:192.0.2.0/24", "pass ip4:192.0.2.0/24"),
        ("redirect=b.example", "ip4:198.51.100.1", "fail -all"),
        ("include:b.example ~all", "ip4:198.51.100.1", "softfail ~all"),
        ("include:b.example -all", "?include:c.example", "neutral ?include:c.example"),
        // The record may cost what it may; the rules cost on their own account.
        (&dear, "a:y.example a:n1.example a:n2.example", "fail -all"),
        ("-all", "include:f.example", "temperror no answer to the TXT question for f.example"),
    ] {
        let zone = Zone::new(&[
            &record(text),
            "b.example TXT v=spf1 -all",
            "c.example TXT v=spf1 +all",
            "f.example FAILS",
            "y.example A 198.51.100.1",
        ]);
        assert_eq!(zone.says(&Options::new(rules, "", "").unwrap()), expected, "{text} / {rules}");
    }
    assert_eq!(Zone::default().says(&options), "pass ip4:192.0.2.0/24");
}

#[test]
fn a_guess_stands_in_for_a_missing_record_and_does_no_harm() {
    for (row, guess, expected) in [
        ("a.example A 192.0.2.77", "v=spf1 a/24 mx/24 ptr ?all", "pass a/24"),
        ("a.example A 198.51.100.1", "v=spf1 a/24 mx/24 ptr ?all", "neutral ?all"),
        ("a.example A 198.51.100.1", "a/24", "none "),
        ("a.example TXT v=spf1 -all", "v=spf1 +all", "fail -all"),
        (
            "a.example TXT v=spf1 moo",
            "v=spf1 +all",
            "permerror SPF record of a.example: moo: no mechanism or modifier",
        ),
        ("a.example FAILS", "v=spf1 +all", "temperror no answer to the TXT question for a.example"),
        ("f.example FAILS", "a:f.example +all", "none "),
        ("f.example FAILS", "include:x.example +all", "none "),
    ] {
        assert_eq!(
            Zone::new(&[row]).says(&Options::new("", guess, "").unwrap()),
            expected,
            "{row} / {guess}"
        );
    }
}

#[test]
fn explanations() {
    let options = Options::new("-ip4:192.0.2.9", "", "%{i} is not %{d}, says %{r} at %{t}").unwrap();
    let local = "192.0.2.1 is not a.example, says mx.test at 812090814";
    let long = "%{s}".repeat(16_000);
    for (text, exp, expected) in [
        (
            "-all exp=e.example",
            "Go away, %{l} (%{c}, %{h}, %{d})",
            "Go away, ann (192.0.2.1, h.example, a.example)",
        ),
        ("-all exp=e.example", "", local),
        ("-all exp=e.example", "%{q}", local),
        ("-all exp=e.example", "no\r\n250 ok", local),
        ("-all exp=e.example", &long, local),
        ("-all exp=%{h}", "x", local),
        ("-all exp=%{l}.%{l}", "x", local),
        ("-all", "x", local),
        ("~all exp=e.example", "x", local),
        (
            "-ip4:192.0.2.1 redirect=e.example exp=e.example",
            "v=spf1 exp=e.example -all",
            "v=spf1 exp=e.example -all",
        ),
        ("redirect=e.example exp=x.example", "v=spf1 exp=e.example -all", "v=spf1 exp=e.example -all"),
        ("exp=e.example -all", &"%{s}".repeat(2000), &"ann@a.example".repeat(31)[..MAX_EXPLANATION]),
    ] {
        let zone = Zone::new(&[&record(text), &format!("e.example TXT {exp}")]);
        assert_eq!(zone.outcome(&options).explanation.as_deref(), Some(expected), "{text} / {exp:.60}");
    }
    let zone = Zone::new(&[&record("-all exp=e.example"), "e.example TXT bye"]);
    let (outcome, _) = zone.ask(&client("192.0.2.9", SENDER), &options);
    assert_eq!(outcome.explanation.as_deref(), Some("192.0.2.9 is not a.example, says mx.test at 812090814"));
    let outcome = Zone::new(&[&record("-all")]).outcome(&Options::default());
    assert_eq!(
        outcome.explanation.as_deref(),
        Some("ann@a.example does not designate 192.0.2.1 as permitted sender")
    );
}

#[test]
fn a_strangers_bytes_do_not_reach_the_texts() {
    let zone =
        Zone::new(&[&record("exists:%{l}.%{h}.x.example -all exp=e.example"), "e.example TXT %{s} %{h}"]);
    let client = Client { helo: b"h\r\nX: y\0", ..client("192.0.2.1", b"\r\nBcc: z\xff@a.example") };
    let (outcome, _) = zone.ask(&client, &Options::default());
    assert_eq!(outcome.explanation.as_deref(), Some("??Bcc: z?@a.example h??X: y?"));
    let zone = Zone::new(&["a.example TXT v=spf1 \r\nmoo\u{e9}"]);
    let outcome = zone.outcome(&Options::default());
    assert_eq!(outcome.problem.as_deref(), Some("SPF record of a.example: ??moo??: not printable ASCII"));
}

#[test]
fn an_answer_to_another_question_is_a_failure() {
    let mut zone = Zone::new(&[]);
    zone.add(Question::Txt("a.example".into()), Answer::Ptr(vec![]));
    assert_eq!(zone.says(&Options::default()), "temperror no answer to the TXT question for a.example");
}

proptest::proptest! {
    #[test]
    fn no_record_and_no_client_stops_the_check(
        text in "[ -~]{0,60}|(v=spf1( [-?~+]?(a|mx|ptr|include|exists|redirect=|exp=|ip4|ip6)[:/]?(%\\{[a-zA-Z][0-9]?r?[-.+]?\\}|[a-z0-9.:/%]{0,12})){0,8})",
        sender in proptest::collection::vec(proptest::num::u8::ANY, 0..80),
        helo in proptest::collection::vec(proptest::num::u8::ANY, 0..80),
    ) {
        let zone = Zone::new(&[&format!("a.example TXT {text}"), &format!("b.example TXT {text}")]);
        let sender = [&*sender, b"@a.example"].concat();
        let client = Client { helo: &helo, ..client("2001:db8::1", &sender) };
        let (outcome, _) = zone.ask(&client, &Options::default());
        let field = received_spf(&client, &outcome);
        proptest::prop_assert!(field.len() <= 998 && field.matches('\n').count() == 1);
        let text = outcome.explanation.unwrap_or_default();
        proptest::prop_assert!(text.len() <= MAX_EXPLANATION && text.bytes().all(|b| matches!(b, 32..=126)));
    }
}
