//! The order of the questions and what their answers mean.

use std::cell::RefCell;

use super::super::settings::tests::settings;
use super::*;

/// A host with what its list of words says, which writes down what it was asked.
struct Host {
    has: &'static [&'static str],
    broken: &'static str,
    asked: RefCell<Vec<String>>,
}

impl Host {
    fn ask(&self, question: &str, name: &[u8]) -> Result<bool, Unavailable> {
        let question = format!("{question} {}", String::from_utf8_lossy(name));
        let broken = !self.broken.is_empty() && question.starts_with(self.broken);
        let found = self.has.contains(&question.as_str());
        self.asked.borrow_mut().push(question);
        if broken { Err(Unavailable("I/O error".to_owned())) } else { Ok(found) }
    }
}

impl Facts for Host {
    fn in_rcpthosts(&self, domain: &[u8]) -> Result<bool, Unavailable> {
        self.ask("rcpthosts", domain)
    }

    fn assigned(&self, domain: &[u8]) -> Result<Option<Domain>, Unavailable> {
        let found = self.ask("assigned", domain)?;
        Ok(found.then(|| Domain { name: b"real.example".to_vec(), dir: b"/d".to_vec() }))
    }

    fn qmail_default(&self, domain: &Domain) -> Result<Vec<u8>, Unavailable> {
        let line: &[u8] = b"| /v/bin/vdelivermail '' bounce-no-mailbox\n";
        let bounces = self.ask("bounces", &domain.name)?;
        Ok(if bounces { line.to_vec() } else { b"| /v/bin/vdelivermail '' delete\n".to_vec() })
    }

    fn valias(&self, domain: &Domain, user: &[u8]) -> Result<bool, Unavailable> {
        assert_eq!(domain.name, b"real.example");
        self.ask("valias", user)
    }

    fn dotqmail(&self, _: &Domain, file: &[u8]) -> Result<bool, Unavailable> {
        self.ask("file", file)
    }

    fn vpasswd(&self, _: &Domain, user: &[u8]) -> Result<Option<Entry>, Unavailable> {
        let found = self.ask("user", user)?;
        let flags = if user == b"locked" { flag::BOUNCE } else { 0 };
        let quota = if user == b"free" { "NoQuota" } else { "1000S" };
        let record = format!("x:1:{flags}:g:/d/u:{quota}");
        Ok(found.then(|| Entry::from_record(user, record.as_bytes()).unwrap()))
    }

    fn usage(&self, entry: &Entry) -> Result<u32, Unavailable> {
        self.ask("usage", &entry.name)?;
        Ok(90)
    }

    fn ezmlm(&self, _: &Domain, list: &[u8]) -> Result<bool, Unavailable> {
        self.ask("list", list)
    }
}

const VIRTUAL: &[&str] = &[
    "rcpthosts v.example",
    "assigned v.example",
    "bounces real.example",
    "valias db",
    "file .qmail-joe:x",
    "file .qmail-info-default",
    "user max",
    "user free",
    "user locked",
    "list my-list",
];

fn asked(
    variables: &str,
    has: &'static [&'static str],
    recipient: &str,
    mx: Option<Mx>,
) -> (Result<Step, Unavailable>, Vec<String>) {
    let host = Host { has, broken: "", asked: RefCell::default() };
    let step = check(&settings(variables), recipient.as_bytes(), false, mx, &host);
    (step, host.asked.into_inner())
}

#[test]
fn recipients_of_a_virtual_domain() {
    use Event::*;
    for (recipient, expected, questions) in [
        ("db@v.example", FoundRecipient, "valias db"),
        ("Joe.X@V.Example", FoundRecipient, "valias joe.x, file .qmail-joe:x"),
        (
            "info-a-b@v.example",
            FoundRecipient,
            "valias info-a-b, file .qmail-info-a-b, file .qmail-info-a-default, file .qmail-info-default",
        ),
        ("max@v.example", FoundRecipient, "valias max, file .qmail-max, user max"),
        ("locked@v.example", NoRecipient, "valias locked, file .qmail-locked, user locked"),
        (
            "my-list-return-1@v.example",
            FoundRecipient,
            "valias my-list-return-1, file .qmail-my-list-return-1, file .qmail-my-list-return-default, \
             file .qmail-my-list-default, file .qmail-my-default, user my-list-return-1, \
             list my-list-return, list my-list",
        ),
        (
            "no-body@v.example",
            NoRecipient,
            "valias no-body, file .qmail-no-body, file .qmail-no-default, user no-body, list no",
        ),
        ("nobody@v.example", NoRecipient, "valias nobody, file .qmail-nobody, user nobody"),
        // `.qmail-default` is there for everybody: neither it nor its name makes a recipient.
        ("default@v.example", NoRecipient, "valias default, user default"),
        ("a/../b@v.example", NoRecipient, "valias a/../b, user a/../b"),
    ] {
        for start in ["DOMAIN", "ALWAYS"] {
            let (step, asked) = asked(&format!("CHKUSER_START={start}"), VIRTUAL, recipient, None);
            assert_eq!(step, Ok(Step::Done(expected)), "{recipient}");
            let domain = if start == "DOMAIN" { "bounces real.example, " } else { "" };
            let questions = format!("rcpthosts v.example, assigned v.example, {domain}{questions}");
            assert_eq!(asked.join(", "), questions, "{recipient}");
        }
    }
}

#[test]
fn what_is_settled_before_the_user_is_looked_up() {
    use Event::*;
    let (domain, always) = ("CHKUSER_START=DOMAIN", "CHKUSER_START=ALWAYS");
    let open: &[&str] = &["rcpthosts v.example", "assigned v.example", "rcpthosts plain.example"];
    let relay = "CHKUSER_START=ALWAYS RELAYCLIENT=";
    let (found, none, temporary) = (Some(Mx::Found), Some(Mx::NotFound), Some(Mx::Temporary));
    for (variables, recipient, mx, expected) in [
        (always, "nodomain", None, NoDomain),
        (always, "joe@", None, NoDomain),
        (always, "a b@v.example", None, RcptFormat),
        (always, "joe@plain.example", None, FoundRecipient),
        (domain, "joe@v.example", None, AnyRecipientOfDomain),
        (always, "joe@v.example", None, NoRecipient),
        (always, "joe@far.example", found, NotRelaying),
        (always, "joe@far.example", none, RcptMx),
        (always, "joe@far.example", temporary, RcptMxTemporary),
        (relay, "joe@far.example", found, Relaying),
        (relay, "joe@far.example", none, RcptMx),
        (relay, "joe@v.example", None, NoRecipient),
        ("CHKUSER_START=ALWAYS CHKUSER_RCPT_MX_NOCHECK=1", "joe@far.example", None, NotRelaying),
        ("CHKUSER_START=ALWAYS CHKUSER_RCPT_FORMAT_NOCHECK=1", "a b@v.example", None, NoRecipient),
        ("", "joe@v.example", None, AnyRecipient),
        ("", "nodomain", None, AnyRecipient),
        ("", "joe@far.example", None, NotRelaying),
        ("RELAYCLIENT=", "joe@far.example", None, Relaying),
        ("RELAYCLIENT=", "joe@v.example", None, AnyRecipient),
    ] {
        let (step, _) = asked(variables, open, recipient, mx);
        assert_eq!(step, Ok(Step::Done(expected)), "{variables} {recipient} {mx:?}");
    }
    let (step, _) = asked(always, open, "Joe@Far.Example", None);
    assert_eq!(step, Ok(Step::Mx(b"far.example".to_vec())));
}

#[test]
fn full_mailboxes() {
    for (variables, user, expected) in [
        ("", "max", Event::FoundRecipient),
        ("CHKUSER_MBXQUOTA=90", "max", Event::OverQuota),
        ("CHKUSER_MBXQUOTA=91", "max", Event::FoundRecipient),
        ("CHKUSER_MBXQUOTA=1", "free", Event::FoundRecipient),
        ("CHKUSER_MBXQUOTA=1", "locked", Event::NoRecipient),
    ] {
        let variables = format!("CHKUSER_START=ALWAYS {variables}");
        let (step, questions) = asked(&variables, VIRTUAL, &format!("{user}@v.example"), None);
        assert_eq!(step, Ok(Step::Done(expected)), "{variables} {user}");
        let looked = questions.iter().any(|question| question.starts_with("usage"));
        assert_eq!(looked, user == "max" && variables.contains("QUOTA"), "{variables} {user}");
    }
}

#[test]
fn a_question_without_answer_is_never_a_verdict() {
    for broken in ["rcpthosts", "assigned", "bounces", "valias", "file", "user", "usage", "list"] {
        let host = Host { has: VIRTUAL, broken, asked: RefCell::default() };
        let recipient: &[u8] = if broken == "usage" { b"max@v.example" } else { b"no-body@v.example" };
        let settings = settings("CHKUSER_START=DOMAIN CHKUSER_MBXQUOTA=50");
        let step = check(&settings, recipient, false, None, &host);
        assert_eq!(step, Err(Unavailable("I/O error".to_owned())), "{broken}");
    }
}

#[test]
fn only_the_beginning_of_qmail_default_counts() {
    let line = b"bounce-no-mailbox";
    for (before, expected) in [(0, true), (1006, true), (1007, false)] {
        let text = [vec![b'#'; before], line.to_vec()].concat();
        assert_eq!(bounces(&text), expected, "{before}");
    }
}

#[test]
fn a_hostile_name_costs_a_bounded_number_of_questions() {
    let recipient = "-".repeat(880) + "@v.example";
    let (step, asked) = asked("CHKUSER_START=ALWAYS", VIRTUAL, &recipient, None);
    assert_eq!(step, Ok(Step::Done(Event::NoRecipient)));
    assert!(asked.len() < 500, "{}", asked.len());
}
