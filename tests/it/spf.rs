//! SPF through the SMTP port: the official suite, what follows from a result, the local words, hostile records.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use mailtree_protocols::address::quoted;
use mailtree_protocols::spf::{Answer, Question};
use mailtree_tests::host::{Host, PATIENCE, Setup};
use mailtree_tests::smtp::{Reply, like};
use mailtree_tests::spf_dns::SpfDns;
use mailtree_tests::spf_suite::{Case, Scenario, scenarios};
use mailtree_tests::stranger::{PROXIES, connect, rcpt, talk};
use mailtree_tests::wait::wait_for;

/// Cases that do not come as far as SPF: name, the server's reply, why.
const NOT_CARRIED: &[(&str, &str, &str)] = &[];

/// What a client hears at RCPT, or what it is refused with before; a recipient that is accepted gets a message with this
/// subject.
fn visit(address: SocketAddr, case: &Case, subject: &str) -> Result<Reply, Reply> {
    let mut client = connect(address, case.host);
    // `@example.net` has an empty local part, and another one has a space: both need quotes.
    let from = quoted(case.mailfrom.as_bytes()).expect("an address that can be written");
    let from = String::from_utf8(from).unwrap();
    for line in [format!("HELO {}", case.helo), format!("MAIL FROM:<{from}>")] {
        let reply = client.command(&line).unwrap();
        if reply.code != 250 {
            return Err(reply);
        }
    }
    let reply = client.command("RCPT TO:<bob@mx.test>").unwrap();
    if reply.code == 250 {
        client.say("DATA", 354);
        client.send(format!("Subject: {subject}\r\n\r\n.\r\n").as_bytes()).unwrap();
        client.reply().unwrap().expect(250);
    }
    Ok(reply)
}

/// The result in the Received-SPF field of the message with this subject.
fn annotated(messages: &[String], subject: &str) -> String {
    let line = format!("\nSubject: {subject}\n");
    let message =
        messages.iter().find(|message| message.contains(&line)).expect("a message with the subject");
    let field = message.lines().nth(3).and_then(|field| field.strip_prefix("Received-SPF: "));
    field.and_then(|field| field.split(' ').next()).unwrap_or_else(|| panic!("{message}")).to_owned()
}

/// What is wrong with the replies of the service that refuses, if the result is `result`.
fn wrong_reply(case: &Case, result: &str, reply: &Reply) -> Option<String> {
    let text = reply.text();
    let right = match (result, &case.explanation) {
        ("fail", Some(explanation)) => text == format!("550 {explanation} (#5.7.1)"),
        ("fail", None) => like("550 * (#5.7.1)", &text),
        ("temperror", _) => text == "451 SPF lookup failure (#4.3.0)",
        _ => text == "250 ok",
    };
    (!right).then(|| format!("{:?} expected, heard {text:?}", case.explanation))
}

#[test]
fn the_suite_of_rfc_7208_through_the_port() {
    let dns = SpfDns::start(|_| Some(Answer::NoName));
    let service = |behavior: u8| {
        format!(
            "smtpd(listen: [\"127.0.0.1:0\"], {PROXIES}, environment: {{\"SPFBEHAVIOR\": \"{behavior}\"}})"
        )
    };
    let services = format!("{{ \"smtpd\": {}, \"strict\": {} }}", service(1), service(3));
    let host = Setup::new()
        .field("services", services)
        .resolver(dns.address())
        .control("spfexp", "DEFAULT\n")
        .start();
    let (annotates, refuses) = (host.address().get(), host.listens("strict"));

    let mut heard = Vec::new();
    let scenarios: Vec<Arc<Scenario>> = scenarios().into_iter().map(Arc::new).collect();
    for (number, scenario) in scenarios.iter().enumerate() {
        let zone = Arc::clone(scenario);
        dns.serve(move |question| Some(zone.answer(question)));
        std::thread::scope(|scope| {
            let visits: Vec<_> = scenario
                .tests
                .iter()
                .map(|(name, case)| {
                    let subject = format!("{number} {name}");
                    scope.spawn(move || {
                        let [kind, strict] = [annotates, refuses]
                            .map(|address| visit(address, case, &format!("{subject} {address}")));
                        (subject, name, case, kind, strict)
                    })
                })
                .collect();
            heard.extend(visits.into_iter().map(|visit| visit.join().unwrap()));
        });
    }
    assert_eq!(heard.len(), 203);

    let accepted = |reply: &Result<Reply, Reply>| reply.as_ref().is_ok_and(|reply| reply.code == 250);
    let messages =
        heard.iter().map(|(.., kind, strict)| usize::from(accepted(kind)) + usize::from(accepted(strict)));
    let messages = host.maildir("bob").wait(messages.sum(), PATIENCE);
    let (mut wrong, mut carried, mut named) = (Vec::new(), 0, 0);
    for (subject, name, case, kind, strict) in &heard {
        let entry = NOT_CARRIED.iter().find(|(not_carried, ..)| not_carried == name);
        match (kind, strict, entry) {
            (Ok(kind), Ok(strict), None) => {
                carried += 1;
                kind.clone().expect(250);
                let result = annotated(&messages, &format!("{subject} {annotates}"));
                if !case.result.each().any(|right| right == result) {
                    wrong.push(format!("{subject}: {:?} expected, annotated {result}", case.result));
                } else if let Some(reply) = wrong_reply(case, &result, strict) {
                    wrong.push(format!("{subject}: {reply}"));
                }
            }
            (Err(kind), Err(strict), Some((_, reply, _))) if kind.text() == *reply && kind == strict => {
                named += 1
            }
            _ => wrong.push(format!("{subject}: {kind:?}, {strict:?}; {case:?}")),
        }
    }
    assert!(wrong.is_empty(), "{} wrong\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!((carried + named, named), (203, NOT_CARRIED.len()));
}

/// Where the table's client is.
const CLIENT: &str = "192.0.2.1";

/// A record for every result, by name.
fn zone(question: &Question) -> Option<Answer> {
    let Question::Txt(name) = question else { return Some(Answer::NoName) };
    let record = match name.as_str() {
        "pass.test" => "v=spf1 ip4:192.0.2.1 -all",
        "fail.test" => "v=spf1 -all",
        "softfail.test" => "v=spf1 ~all",
        "neutral.test" => "v=spf1 ?all",
        "none.test" => "no SPF",
        "permerror.test" => "v=spf1 nonsense:x",
        "temperror.test" => return Some(Answer::Failed),
        "words.test" => "v=spf1 exp=why.words.test -all",
        "why.words.test" => "%{i} may not use %{d}",
        _ => return Some(Answer::NoName),
    };
    Some(Answer::Txt(vec![record.into()]))
}

/// A host that asks `dns`.
fn host(dns: &SpfDns) -> Setup {
    Setup::new().smtpd(PROXIES).resolver(dns.address())
}

/// The Received-SPF field of a message that a client sends, if it has one.
fn header_of(host: &Host, ip: &str, helo: &str, from: &str) -> Option<String> {
    let before = host.maildir("bob").count();
    let mut client = host.from(ip);
    talk(
        &mut client,
        &[
            (&format!("HELO {helo}"), "250 mx.test"),
            (&format!("MAIL FROM:<{from}>"), "250 ok"),
            ("RCPT TO:<bob@mx.test>", "250 ok"),
            ("DATA", "354 go ahead"),
            (".", "250 ok *"),
        ],
    );
    spf_field(&newest(host, before + 1))
}

/// The message that is the `count`th.
fn newest(host: &Host, count: usize) -> String {
    wait_for("the message", PATIENCE, || {
        let mut texts = host.maildir("bob").texts();
        (texts.len() == count).then(|| texts.pop().unwrap())
    })
}

/// The field, which must stand above the Received field that smtpd writes.
fn spf_field(message: &str) -> Option<String> {
    let field = message.lines().position(|line| line.starts_with("Received-SPF: "))?;
    let received = message.lines().position(|line| line.starts_with("Received: from ")).unwrap();
    assert_eq!(field + 1, received, "{message}");
    assert_eq!(message.matches("Received-SPF:").count(), 1, "{message}");
    message.lines().nth(field).map(str::to_owned)
}

#[test]
fn spfbehavior_says_which_results_are_refused_at_rcpt() {
    let dns = SpfDns::start(zone);
    let host = host(&dns).start();
    let refused = |result: &str| match result {
        "temperror" => "451 SPF lookup failure (#4.3.0)".to_owned(),
        "fail" => "550 a@fail.test does not designate 192.0.2.1 as permitted sender (#5.7.1)".to_owned(),
        "softfail" => {
            "550 transitioning a@softfail.test does not designate 192.0.2.1 as permitted sender (#5.7.1)"
                .to_owned()
        }
        "neutral" => "550 192.0.2.1 is neither permitted nor denied by a@neutral.test (#5.7.1)".to_owned(),
        "none" => "550 domain at none.test does not designate permitted sender hosts (#5.7.1)".to_owned(),
        _ => "550 SPF record of permerror.test: nonsense:x: no mechanism or modifier (#5.7.1)".to_owned(),
    };
    for behavior in 0..=6 {
        // The next connection obeys.
        host.control("spfbehavior", &format!("{behavior}\n"));
        for (result, refused_from) in [
            ("pass", 7),
            ("temperror", 2),
            ("fail", 3),
            ("softfail", 4),
            ("neutral", 5),
            ("none", 6),
            ("permerror", 6),
        ] {
            let heard = rcpt(host.from(CLIENT), &format!("a@{result}.test"), "bob@mx.test");
            let expected = if behavior < refused_from { "250 ok".to_owned() } else { refused(result) };
            assert_eq!(heard, expected, "{result} at spfbehavior {behavior}");
        }
    }
    host.wait_log(
        "qmail-smtpd: pid * spf fail 192.0.2.1: a@fail.test does not designate 192.0.2.1 as permitted sender (#5.7.1)",
    );
    assert_eq!(
        rcpt(host.from(CLIENT), "a@words.test", "bob@mx.test"),
        "550 192.0.2.1 may not use words.test (#5.7.1)"
    );
}

#[test]
fn every_recipient_of_a_refused_sender_hears_it_and_the_next_sender_may_be_welcome() {
    let dns = SpfDns::start(zone);
    let host = host(&dns).control("spfbehavior", "3\n").start();
    let refused = "550 5.7.1 a@fail.test does not designate 192.0.2.1 as permitted sender (#5.7.1)";
    talk(
        &mut host.from(CLIENT),
        &[
            ("EHLO client.test", "250-*"),
            ("MAIL FROM:<a@fail.test>", "250 2.1.0 ok"),
            ("RCPT TO:<bob@mx.test>", refused),
            ("RCPT TO:<sender@mx.test>", refused),
            ("DATA", "503 5.5.1 RCPT first (#5.5.1)"),
            ("RSET", "250 * flushed"),
            ("MAIL FROM:<a@pass.test>", "250 2.1.0 ok"),
            ("RCPT TO:<bob@mx.test>", "250 2.1.5 ok"),
            ("DATA", "354 *"),
            (".", "250 *"),
        ],
    );
    let message = host.maildir("bob").wait(1, PATIENCE).remove(0);
    assert!(spf_field(&message).unwrap().starts_with("Received-SPF: pass "), "{message}");
}

#[test]
fn the_header_field_has_the_words_of_each_result() {
    let dns = SpfDns::start(zone);
    let host = host(&dns).control("spfbehavior", "1\n").start();
    for (result, words) in [
        ("pass", "a@pass.test designates 192.0.2.1 as permitted sender"),
        ("fail", "a@fail.test does not designate 192.0.2.1 as permitted sender"),
        ("softfail", "transitioning a@softfail.test does not designate 192.0.2.1 as permitted sender"),
        ("neutral", "192.0.2.1 is neither permitted nor denied by a@neutral.test"),
        ("none", "domain at none.test does not designate permitted sender hosts"),
        ("permerror", "SPF record of permerror.test: nonsense:x: no mechanism or modifier"),
        (
            "temperror",
            "error in processing during lookup of temperror.test: no answer to the TXT question for temperror.test",
        ),
    ] {
        let header = header_of(&host, CLIENT, "client.test", &format!("a@{result}.test"));
        let expected = format!(
            "Received-SPF: {result} (mx.test: {words}) client-ip=192.0.2.1; envelope-from=a@{result}.test;"
        );
        assert_eq!(header.as_deref(), Some(&*expected));
    }
    host.control("spfbehavior", "0\n");
    assert_eq!(header_of(&host, CLIENT, "client.test", "a@fail.test"), None);
}

#[test]
fn the_null_sender_is_checked_by_the_name_in_helo() {
    let dns = SpfDns::start(zone);
    let host = host(&dns).control("spfbehavior", "3\n").start();
    assert_eq!(
        header_of(&host, CLIENT, "pass.test", "").as_deref(),
        Some(
            "Received-SPF: pass (mx.test: postmaster@pass.test designates 192.0.2.1 as permitted sender) \
             client-ip=192.0.2.1; helo=pass.test;"
        )
    );
    talk(
        &mut host.from(CLIENT),
        &[
            ("HELO fail.test", "250 mx.test"),
            ("MAIL FROM:<>", "250 ok"),
            (
                "RCPT TO:<bob@mx.test>",
                "550 postmaster@fail.test does not designate 192.0.2.1 as permitted sender (#5.7.1)",
            ),
            ("RSET", "250 flushed"),
            // With a sender its domain counts, not the name in HELO.
            ("MAIL FROM:<a@pass.test>", "250 ok"),
            ("RCPT TO:<bob@mx.test>", "250 ok"),
        ],
    );
    assert_eq!(header_of(&host, CLIENT, "[192.0.2.1]", "").unwrap().split(' ').nth(1), Some("none"));
}

#[test]
fn spfbehavior_in_the_rules_comes_before_the_file() {
    let dns = SpfDns::start(zone);
    let host = host(&dns)
        .control("spfbehavior", "3\n")
        .rules("192.0.2.2:allow,SPFBEHAVIOR=\"0\"\n192.0.2.4:allow,SPFBEHAVIOR=\"4\"\n192.0.2.9:allow,SPFBEHAVIOR=\"x\"\n:allow\n")
        .start();
    for (ip, from, code) in [
        ("192.0.2.1", "a@fail.test", "550"),
        ("192.0.2.1", "a@softfail.test", "250"),
        ("192.0.2.2", "a@fail.test", "250"),
        ("192.0.2.4", "a@softfail.test", "550"),
        ("192.0.2.9", "a@fail.test", "550"),
        ("192.0.2.9", "a@softfail.test", "250"),
    ] {
        let heard = rcpt(host.from(ip), from, "bob@mx.test");
        assert_eq!(&heard[..3], code, "{ip} {from}: {heard}");
    }
    assert_eq!(header_of(&host, "192.0.2.2", "client.test", "a@fail.test"), None);
    host.wait_log(
        "qmail-smtpd: warning: SPFBEHAVIOR for 192.0.2.9: spfbehavior: \"x\" is not a number from 0 to 6",
    );
}

#[test]
fn local_rules_guesses_and_words() {
    let dns = SpfDns::start(zone);
    let host = host(&dns).control("spfbehavior", "6\n").start();
    let heard = |from: &str| rcpt(host.from(CLIENT), from, "bob@mx.test");

    // Before the final `all` of the sender's record, and for senders without one.
    assert!(heard("a@fail.test").starts_with("550 "));
    host.control("spfrules", "ip4:192.0.2.0/24\n");
    assert_eq!(heard("a@fail.test"), "250 ok");
    assert_eq!(heard("a@none.test"), "250 ok");
    assert!(heard("a@permerror.test").starts_with("550 "));
    host.control("spfrules", "ip4:198.51.100.0/24\n");
    assert!(heard("a@fail.test").starts_with("550 "));
    assert!(heard("a@none.test").starts_with("550 domain at none.test "));

    host.control("spfguess", "v=spf1 ip4:192.0.2.0/28 -all\n");
    assert_eq!(heard("a@none.test"), "250 ok");
    assert_eq!(heard("a@nxdomain.test"), "250 ok");
    assert!(heard("a@fail.test").starts_with("550 "), "a guess is for those without a record");

    host.control("spfexp", "See http://spf.test/why?s=%{S}&i=%{I}&r=%{r}\n");
    assert_eq!(
        heard("a@fail.test"),
        "550 See http://spf.test/why?s=a%40fail.test&i=192.0.2.1&r=mx.test (#5.7.1)"
    );
    // The domain's own words come first.
    assert_eq!(heard("a@words.test"), "550 192.0.2.1 may not use words.test (#5.7.1)");
}

#[test]
fn clients_that_may_relay_are_not_checked() {
    let dns = SpfDns::start(zone);
    let host = Setup::new()
        .smtpd(&format!("{PROXIES}, auth_in_clear: true, environment: {{\"SMTPAUTH\": \"\"}}"))
        .resolver(dns.address())
        .control("spfbehavior", "6\n")
        .rules("192.0.2.5:allow,RELAYCLIENT=\"\"\n:allow\n")
        .start();
    assert!(rcpt(host.from(CLIENT), "a@fail.test", "bob@mx.test").starts_with("550 "));
    assert!(!dns.asked().is_empty());
    assert_eq!(header_of(&host, "192.0.2.5", "client.test", "a@fail.test"), None);

    let mut client = host.from(CLIENT);
    talk(
        &mut client,
        &[
            ("EHLO client.test", "250-*"),
            // bob@mx.test and his password
            ("AUTH PLAIN AGJvYkBteC50ZXN0AHNlY3JldC1vZi10aGUtdGVzdA==", "235 *"),
            ("MAIL FROM:<a@fail.test>", "250 *"),
            ("RCPT TO:<bob@mx.test>", "250 *"),
            ("DATA", "354 *"),
            (".", "250 *"),
        ],
    );
    let messages = host.maildir("bob").wait(2, PATIENCE);
    assert!(messages.iter().all(|message| spf_field(message).is_none()), "{messages:#?}");
    assert_eq!(dns.asked(), [], "DNS was asked for somebody who may relay");
}

#[test]
fn nothing_in_helo_or_sender_writes_into_the_header() {
    let dns = SpfDns::start(zone);
    let host = host(&dns).control("spfbehavior", "1\n").start();
    let evil_helo = r#"x) client-ip=10.0.0.1; (\"#;
    let evil_sender = r#""b) client-ip=10.0.0.1; helo=good; ( \" \\ x"@fail.test"#;
    let expected = "Received-SPF: fail (mx.test: b??client-ip=10.0.0.1??helo=good????????x@fail.test does not \
                    designate 192.0.2.1 as permitted sender) client-ip=192.0.2.1; \
                    envelope-from=b??client-ip=10.0.0.1??helo=good????????x@fail.test;";
    assert_eq!(header_of(&host, CLIENT, evil_helo, evil_sender).as_deref(), Some(expected));
    let header = header_of(&host, CLIENT, evil_helo, "").unwrap();
    assert!(header.ends_with(" client-ip=192.0.2.1; helo=x??client-ip=10.0.0.1????;"), "{header}");
    talk(
        &mut host.from(CLIENT),
        &[("HELO a\rReceived-SPF: pass", "501 *"), ("MAIL FROM:<\"a\rb\"@fail.test>", "555 *")],
    );
    // Long names are cut to a line that any mail system takes.
    let long = format!("{}@fail.test", "x".repeat(600));
    let header = header_of(&host, CLIENT, &"y".repeat(400), &long).unwrap();
    assert!(header.len() < 998, "{}", header.len());
}

#[test]
fn a_bad_file_is_named_by_check_and_the_log() {
    let dns = SpfDns::start(zone);
    let host = host(&dns).control("spfbehavior", "3\n").start();
    for (file, text, reason) in [
        ("spfrules", "inclde:x.test\n", ": spfrules: inclde:x.test: no mechanism or modifier"),
        ("spfrules", "a exp=x.test\n", ": spfrules: a exp=x.test: only mechanisms may stand here"),
        ("spfguess", "v=spf1 ip4:x\n", ": spfguess: ip4:x: *"),
        ("spfexp", "see %{x}\n", ": spfexp: \"see %{x}\" *"),
        ("spfbehavior", "7\n", ":1: `7` is not allowed; allowed: a whole number from 0 to 6"),
    ] {
        let path = host.home().join("control").join(file);
        let before = fs::read(&path).ok();
        host.control(file, text);
        let check = host.run(&["check"]).expect(100);
        let named = format!("mailtree check: fatal: {}{reason}", path.display());
        assert!(check.stderr.lines().any(|line| like(&named, line)), "{named:?} expected:\n{}", check.stderr);
        assert_eq!(host.from(CLIENT).greeting.code, 220, "what was there before counts");
        host.wait_log(&format!("alert: {}{reason}; what was there before stays in force", path.display()));
        match before {
            Some(before) => host.control(file, &String::from_utf8(before).unwrap()),
            None => host.without_control(file),
        }
        assert_eq!(host.from(CLIENT).greeting.code, 220, "{file} was mended");
    }
}

#[test]
fn records_without_end_are_given_up() {
    let txt = |text: String| Some(Answer::Txt(vec![text.into()]));
    let dns = SpfDns::start(move |question| match question {
        // Each name includes the next one, twice.
        Question::Txt(name) if name.ends_with("chain.test") => {
            txt(format!("v=spf1 include:a.{name} include:b.{name} -all"))
        }
        Question::Txt(name) if name.ends_with("circle.test") => txt(format!("v=spf1 redirect={name}")),
        // Ten mechanisms, each with ten hosts that are somebody else.
        Question::Txt(name) if name == "wide.test" => {
            let mechanisms: String = (0..10).map(|n| format!(" mx:{n}.wide.test")).collect();
            txt(format!("v=spf1{mechanisms} -all"))
        }
        Question::Mx(name) => Some(Answer::Mx((0..10).map(|n| (n, format!("{n}.{name}"))).collect())),
        Question::Addresses4(name) if name.ends_with("wide.test") => {
            Some(Answer::Addresses(vec!["198.51.100.1".parse().unwrap()]))
        }
        // Everything that exists, and nothing in it.
        Question::Txt(name) if name == "void.test" => {
            txt((0..9).fold("v=spf1".to_owned(), |record, n| format!("{record} a:{n}.void.test")) + " -all")
        }
        _ => Some(Answer::Addresses(Vec::new())),
    });
    let host = host(&dns).control("spfbehavior", "1\n").start();
    for (domain, result, most) in [
        ("chain.test", "permerror", 11),
        ("circle.test", "permerror", 11),
        ("wide.test", "fail", 111),
        ("void.test", "permerror", 4),
    ] {
        let header = header_of(&host, CLIENT, "client.test", &format!("a@{domain}")).unwrap();
        assert_eq!(header.split(' ').nth(1), Some(result), "{header}");
        let asked = dns.asked().len();
        assert!(asked <= most, "{asked} questions for {domain}");
    }
}

#[test]
fn a_name_server_that_is_silent_is_a_temporary_failure_in_bounded_time() {
    let dns = SpfDns::start(|_| None);
    let host = Setup::new()
        .smtpd(PROXIES)
        .field("resolver", format!("(servers: [\"{}\"], deadline: \"1s\")", dns.address()))
        .control("spfbehavior", "2\n")
        .start();
    let start = std::time::Instant::now();
    let heard = rcpt(host.from(CLIENT), "a@silent.test", "bob@mx.test");
    assert_eq!(heard, "451 SPF lookup failure (#4.3.0)");
    assert!(start.elapsed() < PATIENCE / 3, "{:?}", start.elapsed());
    assert!(!dns.asked().is_empty());
}

#[test]
fn clients_come_by_ipv6_too() {
    let dns = SpfDns::start(|question| {
        Some(match question {
            Question::Txt(name) if name == "six.test" => {
                Answer::Txt(vec!["v=spf1 a:mail.six.test -all".into()])
            }
            Question::Addresses6(name) if name == "mail.six.test" => {
                Answer::Addresses(vec![IpAddr::V6("2001:db8::25".parse().unwrap())])
            }
            _ => Answer::Addresses(Vec::new()),
        })
    });
    let host = host(&dns).control("spfbehavior", "3\n").start();
    assert_eq!(
        header_of(&host, "2001:db8::25", "client.test", "a@six.test").as_deref(),
        Some(
            "Received-SPF: pass (mx.test: a@six.test designates 2001:db8::25 as permitted sender) \
             client-ip=2001:db8::25; envelope-from=a@six.test;"
        )
    );
    assert!(rcpt(host.from("2001:db8::26"), "a@six.test", "bob@mx.test").starts_with("550 "));
}
