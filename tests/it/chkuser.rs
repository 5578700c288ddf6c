//! chkuser: who is a recipient and who can be a sender, as tcp.smtp steers it; its lines in the log.
//!
//! Each refusal makes its client wait a second and more, so the rows of a table are played side by side.

use std::fs;
use std::time::{Duration, Instant};

use mailtree_protocols::spf::{Answer, Question};
use mailtree_protocols::{assign, vpasswd};
use mailtree_tests::host::{Host, PATIENCE, Setup};
use mailtree_tests::smtp::like;
use mailtree_tests::spf_dns::SpfDns;
use mailtree_tests::stranger::{PROXIES, rcpt, talk};
use mailtree_tests::wait::{wait_for, wait_until};

const OK: &str = "250 ok";
const NO_MAILBOX: &str = "550 5.1.1 sorry, no mailbox here by that name (chkuser)";
const NOT_RELAYING: &str = "553 5.7.1 sorry, that domain isn't in my list of allowed rcpthosts (chkuser)";
const UNAVAILABLE: &str = "451 4.3.0 system temporary unavailable, try again later (chkuser)";
const FULL: &str = "552 5.2.2 sorry, recipient mailbox is full (chkuser)";
const INTRUSION: &str = "550 5.7.1 sorry, you are violating our security policies (chkuser)";
const SENDER_MX: &str = "550 5.1.8 sorry, can't find a valid MX for sender domain (chkuser)";
const RCPT_MX: &str = "550 5.1.2 sorry, can't find a valid MX for rcpt domain (chkuser)";
const DNS_FAILURE: &str = "451 4.4.0 DNS temporary failure (chkuser)";
const SENDER_FORMAT: &str = "553 5.1.7 sorry, sender syntax not allowed (chkuser)";
const RCPT_FORMAT: &str = "553 5.1.3 sorry, rcpt syntax not allowed (chkuser)";

/// AUTH of bob@mx.test with his password.
const AUTH: (&str, &str) = ("AUTH PLAIN AGJvYkBteC50ZXN0AHNlY3JldC1vZi10aGUtdGVzdA==", "235 *");

/// Sender, recipient, reply, title and description in the log: of the recipient, or of the sender that is refused.
type Row<'a> = (&'a str, &'a str, &'a str, &'a str, &'a str, &'a str);

/// Plays the rows, each in a session of its own, and looks for the line of each in the log.
#[track_caller]
fn play(host: &Host, rows: &[Row<'_>]) {
    let replies: Vec<String> = std::thread::scope(|scope| {
        let visits: Vec<_> =
            rows.iter().map(|(ip, from, to, ..)| scope.spawn(|| rcpt(host.from(ip), from, to))).collect();
        visits.into_iter().map(|visit| visit.join().unwrap()).collect()
    });
    for ((ip, from, to, expected, title, description), reply) in rows.iter().zip(replies) {
        assert_eq!(reply, *expected, "{from} to {to} from {ip}");
        let to = if title.ends_with("sender") || *title == "must auth" { "" } else { *to };
        let line = format!(
            "CHKUSER {title}: from <{from}::> remote <client.test:unknown:{ip}> rcpt <{to}> : {description}"
        );
        host.wait_log(&line);
    }
}

/// Sender domains of every kind; everything else does not exist.
fn zone(question: &Question) -> Option<Answer> {
    let address = || Answer::Addresses(vec!["192.0.2.200".parse().unwrap()]);
    Some(match question {
        Question::Mx(name) => match name.as_str() {
            "good.test" | "xn--bcher-kva.test" => Answer::Mx(vec![(10, "mail.good.test".into())]),
            "address.test" | "nothing.test" => Answer::Mx(Vec::new()),
            // RFC 7505
            "null.test" => Answer::Mx(vec![(0, String::new())]),
            // DNS fails for this host's own domain, too.
            "broken.test" | "mx.test" => Answer::Failed,
            _ => Answer::NoName,
        },
        Question::Addresses4(name) => match name.as_str() {
            "address.test" | "null.test" | "mail.good.test" => address(),
            "nothing.test" => Answer::Addresses(Vec::new()),
            "broken.test" => Answer::Failed,
            _ => Answer::NoName,
        },
        Question::Addresses6(name) if name == "nothing.test" || name == "address.test" => {
            Answer::Addresses(Vec::new())
        }
        Question::Ptr(ip) if ip.to_string() == "192.0.2.33" => Answer::Ptr(vec!["mail.good.test".into()]),
        _ => Answer::NoName,
    })
}

/// A home whose DNS is `dns` and whose rules are `rules`.
fn setup(dns: &SpfDns, rules: &str) -> Setup {
    Setup::new()
        .smtpd(&format!("{PROXIES}, auth_in_clear: true, environment: {{\"SMTPAUTH\": \"\"}}"))
        .resolver(dns.address())
        .rules(rules)
}

/// Writes a file of a domain.
fn write(setup: &Setup, domain: &str, name: &str, text: &str) {
    let path = setup.home().join("domains").join(domain).join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// Changes a user of mx.test.
fn change(setup: &Setup, user: &str, change: impl Fn(&mut vpasswd::Entry)) {
    let file = setup.home().join("domains/mx.test/vpasswd");
    let mut entries = vpasswd::parse(&fs::read(&file).unwrap()).unwrap();
    change(entries.iter_mut().find(|entry| entry.name == user.as_bytes()).expect("the user"));
    fs::write(&file, vpasswd::format(&entries)).unwrap();
    fs::write(file.with_extension("cdb"), vpasswd::compile(&entries).unwrap()).unwrap();
}

/// Makes `alias` a name of mx.test.
fn alias(setup: &Setup, alias: &str) {
    let users = setup.home().join("users");
    let mut entries = assign::parse(&fs::read(users.join("assign")).unwrap()).unwrap();
    let mut entry = entries[0].clone();
    entry.pattern = assign::Pattern::Prefix(format!("{alias}-").into_bytes());
    entries.push(entry);
    fs::write(users.join("assign"), assign::format(&entries)).unwrap();
    fs::write(users.join("cdb"), assign::compile(&entries).unwrap()).unwrap();
    let file = setup.home().join("control/virtualdomains");
    fs::write(&file, format!("{}{alias}:{alias}\n", fs::read_to_string(&file).unwrap())).unwrap();
}

#[test]
fn chkuser_start_says_for_which_domains_recipients_are_looked_up() {
    let dns = SpfDns::start(zone);
    let setup = setup(
        &dns,
        "192.0.2.1:allow,CHKUSER_START=\"ALWAYS\"\n192.0.2.2:allow,CHKUSER_START=\"DOMAIN\"\n\
         192.0.2.3:allow,CHKUSER_START=\"NONE\"\n192.0.2.5:allow,CHKUSER_START=\"ALWAYS\",RELAYCLIENT=\"\"\n:allow\n",
    );
    setup.run(&["vadddomain", "-e", "bob@mx.test", "open.test", "secret-of-the-test"]).expect(0);
    alias(&setup, "alias.test");
    let host = setup.control("rcpthosts", "mx.test\nopen.test\nalias.test\nplain.test\n").start();
    let found = ("accepted rcpt", "found existing recipient");
    let unknown = ("rejected rcpt", "not existing recipient");
    let domain = ("accepted any rcpt", "accepted any recipient for this domain");
    let any = ("accepted any rcpt", "accepted any recipient for any rcpt domain");
    let elsewhere = ("rejected relaying", "client not allowed to relay");
    let (always, domains, never, friend) = ("192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.5");
    let rows: Vec<Row<'_>> = [
        (always, "bob@mx.test", OK, found),
        (always, "BOB@MX.test", OK, found),
        (always, "nobody@mx.test", NO_MAILBOX, unknown),
        (always, "nobody@open.test", NO_MAILBOX, unknown),
        (always, "postmaster@open.test", OK, found),
        (always, "bob@alias.test", OK, found),
        (always, "nobody@alias.test", NO_MAILBOX, unknown),
        (always, "nobody@plain.test", OK, found),
        (always, "a@good.test", NOT_RELAYING, elsewhere),
        (domains, "bob@mx.test", OK, found),
        (domains, "nobody@mx.test", NO_MAILBOX, unknown),
        (domains, "nobody@open.test", OK, domain),
        (domains, "nobody@plain.test", OK, found),
        (never, "nobody@mx.test", OK, any),
        (never, "a@good.test", NOT_RELAYING, elsewhere),
        (friend, "nobody@mx.test", OK, any),
        (friend, "a@out.test", OK, ("relaying rcpt", "client allowed to relay")),
    ]
    .map(|(ip, to, reply, (title, description))| (ip, "a@good.test", to, reply, title, description))
    .into();
    play(&host, &rows);

    // Without any of its variables it is not there.
    assert_eq!(rcpt(host.from("192.0.2.9"), "a@out.test", "nobody@mx.test"), OK);
    let stock = "553 sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)";
    assert_eq!(rcpt(host.from("192.0.2.9"), "a@out.test", "a@good.test"), stock);

    // A mailbox that is made, and a default that takes everything, count at once.
    host.ask(&["vadduser", "nobody@mx.test", "secret-of-the-test"]);
    assert_eq!(rcpt(host.from(always), "a@good.test", "nobody@mx.test"), OK);
    fs::write(host.home().join("domains/mx.test/.qmail-default"), "&bob@mx.test\n").unwrap();
    assert_eq!(rcpt(host.from(domains), "a@good.test", "else@mx.test"), OK);
    host.wait_log("CHKUSER * rcpt <else@mx.test> : accepted any recipient for this domain");
    assert!(!host.log_lines().iter().any(|line| like("CHKUSER *:192.0.2.9> *", line)), "{}", host.log_tail());
}

#[test]
fn aliases_lists_and_locked_users() {
    let dns = SpfDns::start(zone);
    let setup = setup(&dns, ":allow,CHKUSER_START=\"ALWAYS\"\n");
    setup.user("locked@mx.test");
    change(&setup, "locked", |entry| entry.flags |= vpasswd::flag::BOUNCE);
    write(&setup, "mx.test", ".qmail-first:last", "&bob@mx.test\n");
    write(&setup, "mx.test", ".qmail-sales-default", "&bob@mx.test\n");
    write(&setup, "mx.test", "news/editor", "");
    write(&setup, "mx.test", "my-list/editor", "");
    let host = setup.start();
    let found = (OK, "accepted rcpt", "found existing recipient");
    let unknown = (NO_MAILBOX, "rejected rcpt", "not existing recipient");
    let format = (RCPT_FORMAT, "rejected rcpt", "invalid rcpt address format");
    let rows: Vec<Row<'_>> = [
        // Dots are colons in the name of the file.
        ("first.last@mx.test", found),
        ("First.Last@mx.test", found),
        ("first@mx.test", unknown),
        ("first-last@mx.test", unknown),
        ("sales-north@mx.test", found),
        ("sales-north-1@mx.test", found),
        ("sales@mx.test", unknown),
        ("locked@mx.test", unknown),
        ("news-subscribe@mx.test", found),
        ("my-list-return-7@mx.test", found),
        ("my-list@mx.test", unknown),
        // The last of the candidates is everybody's: it makes nobody a recipient.
        ("default@mx.test", unknown),
        ("default-x@mx.test", unknown),
        (".@mx.test", unknown),
        ("..@mx.test", unknown),
        ("a/../bob@mx.test", unknown),
        ("\"a|b\"@mx.test", format),
    ]
    .map(|(to, (reply, title, description))| ("192.0.2.1", "a@good.test", to, reply, title, description))
    .into();
    let (last, rest) = rows.split_last().unwrap();
    play(&host, rest);
    assert_eq!(rcpt(host.from("192.0.2.1"), "a@good.test", last.2), RCPT_FORMAT);
    host.wait_log("CHKUSER rejected rcpt: from <a@good.test::> remote <client.test:unknown:192.0.2.1> rcpt <a|b@mx.test> : invalid rcpt address format");
}

#[test]
fn senders_must_have_a_domain_that_takes_mail() {
    let dns = SpfDns::start(zone);
    let host = setup(
        &dns,
        "192.0.2.1:allow,CHKUSER_START=\"ALWAYS\"\n\
         192.0.2.2:allow,CHKUSER_START=\"ALWAYS\",CHKUSER_SENDER_MX_NOCHECK=\"1\"\n\
         192.0.2.3:allow,CHKUSER_START=\"ALWAYS\",CHKUSER_SENDER_FORMAT_NOCHECK=\"1\",CHKUSER_SENDER_MX_NOCHECK=\"1\"\n\
         192.0.2.4:allow,CHKUSER_START=\"NONE\"\n192.0.2.5:allow,CHKUSER_START=\"ALWAYS\",RELAYCLIENT=\"\"\n\
         192.0.2.6:allow,CHKUSER_START=\"ALWAYS\",X=\"\",CHKUSER_SENDER_NOCHECK_VARIABLE=\"X\"\n",
    )
    .start();
    let accepted = (OK, "accepted sender", "sender accepted");
    let any = (OK, "accepted sender", "accepted any sender always");
    let no_mx = (SENDER_MX, "rejected sender", "invalid sender MX domain");
    let bad = (SENDER_FORMAT, "rejected sender", "invalid sender address format");
    let rows: Vec<Row<'_>> = [
        ("192.0.2.1", "a@good.test", accepted),
        ("192.0.2.1", "A@GOOD.test", accepted),
        // RFC 5321 5.1: an address will do.
        ("192.0.2.1", "a@address.test", accepted),
        // DNS need not know where its mail goes: it comes here.
        ("192.0.2.1", "anybody@mx.test", accepted),
        ("192.0.2.1", "a@nothing.test", no_mx),
        ("192.0.2.1", "a@nowhere.test", no_mx),
        ("192.0.2.1", "a@null.test", no_mx),
        ("192.0.2.1", "a@broken.test", (DNS_FAILURE, "rejected sender", "temporary DNS problem")),
        ("192.0.2.1", "", (OK, "accepted sender", "accepted null sender always")),
        ("192.0.2.1", "a@localhost", bad),
        ("192.0.2.1", "nodomain", bad),
        ("192.0.2.1", "a!b@good.test", bad),
        ("192.0.2.1", "a@x..test", bad),
        ("192.0.2.1", "srs0+x=y=good.test=joe@good.test", accepted),
        ("192.0.2.2", "a@nowhere.test", accepted),
        ("192.0.2.2", "a!b@nowhere.test", bad),
        ("192.0.2.3", "a!b@nowhere.test", accepted),
        ("192.0.2.4", "a!b@nowhere.test", any),
        ("192.0.2.5", "a!b@nowhere.test", any),
        ("192.0.2.6", "a!b@nowhere.test", any),
    ]
    .map(|(ip, from, (reply, title, description))| (ip, from, "bob@mx.test", reply, title, description))
    .into();
    play(&host, &rows);

    // The next sender of the session may be better.
    let mut client = host.from("192.0.2.1");
    talk(
        &mut client,
        &[
            ("HELO client.test", "250 *"),
            ("MAIL FROM:<a@nowhere.test>", SENDER_MX),
            ("RCPT TO:<bob@mx.test>", "503 *"),
            ("MAIL FROM:<a@good.test>", OK),
            ("RCPT TO:<bob@mx.test>", OK),
        ],
    );
}

#[test]
fn a_sender_beyond_ascii_is_looked_up_by_its_name_in_dns() {
    let dns = SpfDns::start(zone);
    let host = setup(&dns, ":allow,CHKUSER_START=\"ALWAYS\"\n").start();
    talk(
        &mut host.from("192.0.2.1"),
        &[
            ("EHLO client.test", "250-*"),
            ("MAIL FROM:<jos\u{e9}@b\u{fc}cher.test> SMTPUTF8", "250 2.1.0 ok"),
            ("RCPT TO:<bob@mx.test>", "250 2.1.5 ok"),
        ],
    );
}

#[test]
fn recipients_elsewhere_must_have_a_domain_that_takes_mail() {
    let dns = SpfDns::start(zone);
    // The toasters' switch is off, so that clients who may relay are looked at too.
    let friend = "RELAYCLIENT=\"\",CHKUSER_DISABLE_VARIABLE=\"X\",CHKUSER_SENDER_NOCHECK_VARIABLE=\"X\"";
    let host = setup(
        &dns,
        &format!(
            "192.0.2.1:allow,CHKUSER_START=\"ALWAYS\"\n192.0.2.5:allow,CHKUSER_START=\"ALWAYS\",{friend}\n\
             192.0.2.6:allow,CHKUSER_START=\"ALWAYS\",CHKUSER_RCPT_MX_NOCHECK=\"1\",CHKUSER_RCPT_FORMAT_NOCHECK=\"1\",{friend}\n\
             192.0.2.7:allow,CHKUSER_START=\"ALWAYS\",{friend2}\n",
            friend2 = friend.replace("RELAYCLIENT=\"\"", "RELAYCLIENT=\".via.test\""),
        ),
    )
    .start();
    let relaying = (OK, "relaying rcpt", "client allowed to relay");
    let no_mx = (RCPT_MX, "rejected rcpt", "invalid rcpt MX domain");
    let unsure = (DNS_FAILURE, "rejected rcpt", "temporary DNS problem");
    let bad = (RCPT_FORMAT, "rejected rcpt", "invalid rcpt address format");
    let rows: Vec<Row<'_>> = [
        ("192.0.2.1", "a@good.test", (NOT_RELAYING, "rejected relaying", "client not allowed to relay")),
        ("192.0.2.1", "a@nowhere.test", no_mx),
        ("192.0.2.1", "a@broken.test", unsure),
        ("192.0.2.5", "a@good.test", relaying),
        ("192.0.2.5", "a@nowhere.test", no_mx),
        ("192.0.2.5", "a@null.test", no_mx),
        ("192.0.2.5", "a@broken.test", unsure),
        ("192.0.2.5", "a!b@good.test", bad),
        ("192.0.2.5", "a@[192.0.2.9]", bad),
        ("192.0.2.5", "nobody@mx.test", (NO_MAILBOX, "rejected rcpt", "not existing recipient")),
        ("192.0.2.5", "bob@mx.test", (OK, "accepted rcpt", "found existing recipient")),
        (
            "192.0.2.5",
            "nodomain",
            (
                "550 5.1.2 sorry, you must specify a domain (chkuser)",
                "rejected rcpt",
                "invalid rcpt address format",
            ),
        ),
        ("192.0.2.6", "a!b@nowhere.test", relaying),
        ("192.0.2.7", "a@good.test", relaying),
    ]
    .map(|(ip, to, (reply, title, description))| (ip, "a@good.test", to, reply, title, description))
    .into();
    play(&host, &rows);

    // The value of RELAYCLIENT is appended behind chkuser's back.
    talk(
        &mut host.from("192.0.2.7"),
        &[
            ("HELO client.test", "250 *"),
            ("MAIL FROM:<a@good.test>", OK),
            ("RCPT TO:<x@good.test>", OK),
            ("DATA", "354 *"),
            (".", "250 ok *"),
        ],
    );
    host.wait_log("starting delivery *: msg * to remote x@good.test.via.test");
}

#[test]
fn a_session_that_tries_too_many_recipients_is_cut_off() {
    let dns = SpfDns::start(zone);
    let host = setup(
        &dns,
        "192.0.2.1:allow,CHKUSER_START=\"ALWAYS\",CHKUSER_RCPTLIMIT=\"3\"\n\
         192.0.2.2:allow,CHKUSER_START=\"ALWAYS\",CHKUSER_WRONGRCPTLIMIT=\"2\"\n",
    )
    .start();
    let start = [("HELO client.test", "250 *"), ("MAIL FROM:<a@good.test>", OK)];
    let (bob, nobody) = ("RCPT TO:<bob@mx.test>", "RCPT TO:<nobody@mx.test>");
    let most = "550 5.5.3 sorry, reached maximum number of recipients allowed in one session (chkuser)";
    let (mut many, mut wrong) = (host.from("192.0.2.1"), host.from("192.0.2.2"));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            talk(&mut many, &start);
            talk(&mut many, &[(bob, OK), (bob, OK), (bob, most), (bob, INTRUSION)]);
        });
        scope.spawn(|| {
            talk(&mut wrong, &start);
            // Also in the transactions that follow.
            talk(&mut wrong, &[(nobody, NO_MAILBOX), (bob, OK), (nobody, NO_MAILBOX), ("RSET", "250 *")]);
            talk(&mut wrong, &[("MAIL FROM:<a@good.test>", OK), (bob, INTRUSION)]);
        });
    });
    let subject = |ip: &str, to: &str| {
        format!("from <a@good.test::> remote <client.test:unknown:{ip}> rcpt <{to}@mx.test>")
    };
    let told = said(&host, 0, 13);
    for (ip, story) in [
        (
            "192.0.2.1",
            [
                ("accepted rcpt", "bob", "found existing recipient"),
                ("accepted rcpt", "bob", "found existing recipient"),
                ("intrusion threshold", "bob", "max number of allowed rcpt"),
                ("rejected rcpt", "bob", "max number of recipients"),
                ("rejected intrusion", "bob", "rcpt ignored, session over intrusion threshold"),
            ],
        ),
        (
            "192.0.2.2",
            [
                ("rejected rcpt", "nobody", "not existing recipient"),
                ("accepted rcpt", "bob", "found existing recipient"),
                ("rejected rcpt", "nobody", "not existing recipient"),
                ("intrusion threshold", "nobody", "max number of allowed invalid rcpt"),
                ("rejected intrusion", "bob", "rcpt ignored, session over intrusion threshold"),
            ],
        ),
    ] {
        let expected: Vec<_> = story
            .iter()
            .map(|(title, to, description)| format!("CHKUSER {title}: {} : {description}", subject(ip, to)))
            .collect();
        let of = |line: &&String| line.contains(&format!(":{ip}>")) && !line.contains("accepted sender");
        let told: Vec<_> = told.iter().filter(of).cloned().collect();
        assert_eq!(told, expected);
    }
}

#[test]
fn each_refusal_of_a_session_comes_later() {
    let dns = SpfDns::start(zone);
    let host = setup(&dns, ":allow,CHKUSER_START=\"ALWAYS\"\n").start();
    let mut client = host.from("192.0.2.1");
    let mut wait = |line: (&str, &str)| {
        let start = Instant::now();
        talk(&mut client, &[line]);
        start.elapsed()
    };
    wait(("HELO client.test", "250 *"));
    let waited = [
        wait(("MAIL FROM:<a@nowhere.test>", SENDER_MX)),
        wait(("MAIL FROM:<a@good.test>", OK)),
        wait(("RCPT TO:<nobody@mx.test>", NO_MAILBOX)),
        wait(("RCPT TO:<bob@mx.test>", OK)),
    ];
    assert!(waited[0] >= Duration::from_millis(1000), "{waited:?}");
    assert!(waited[2] >= Duration::from_millis(1300), "{waited:?}");
    // Who is welcome does not wait for what was wrong before.
    assert!(waited[3] < waited[2], "{waited:?}");
}

#[test]
fn full_mailboxes_are_refused_by_their_percentage() {
    let dns = SpfDns::start(zone);
    let setup = setup(
        &dns,
        "192.0.2.1:allow,CHKUSER_START=\"ALWAYS\",CHKUSER_MBXQUOTA=\"90\"\n192.0.2.2:allow,CHKUSER_START=\"ALWAYS\"\n",
    );
    for (user, quota, maildirsize) in [
        ("full", "1000S", Some("1000S\n800 1\n150 1\n-50 -1\n")),
        ("roomy", "1000S", Some("1000S\n899 1\n")),
        ("many", "1000S,10C", Some("1000S,10C\n10 9\n")),
        ("unlimited", "NOQUOTA", Some("NOQUOTA\n99999999 9\n")),
        ("counted", "1000S", None),
        ("large", "10MB", Some("10485760S\n9000000 1\n")),
    ] {
        setup.run(&["vadduser", "-q", quota, &format!("{user}@mx.test"), "secret-of-the-test"]).expect(0);
        if let Some(text) = maildirsize {
            write(&setup, "mx.test", &format!("{user}/Maildir/maildirsize"), text);
        }
    }
    write(&setup, "mx.test", "counted/Maildir/new/1.2.mx,S=500", "");
    write(&setup, "mx.test", "counted/Maildir/cur/2.2.mx:2,S", &"x".repeat(400));
    let host = setup.start();
    let full = (FULL, "mbx overquota", "rcpt mailbox is overquota");
    let found = (OK, "accepted rcpt", "found existing recipient");
    let rows: Vec<Row<'_>> = [
        ("192.0.2.1", "full@mx.test", full),
        ("192.0.2.1", "roomy@mx.test", found),
        ("192.0.2.1", "many@mx.test", full),
        ("192.0.2.1", "unlimited@mx.test", found),
        ("192.0.2.1", "counted@mx.test", full),
        ("192.0.2.1", "large@mx.test", found),
        ("192.0.2.1", "bob@mx.test", found),
        ("192.0.2.2", "full@mx.test", found),
    ]
    .map(|(ip, to, (reply, title, description))| (ip, "a@good.test", to, reply, title, description))
    .into();
    play(&host, &rows);
    // Somebody has cleared it.
    fs::write(host.home().join("domains/mx.test/full/Maildir/maildirsize"), "1000S\n").unwrap();
    assert_eq!(rcpt(host.from("192.0.2.1"), "a@good.test", "full@mx.test"), OK);
}

#[test]
fn mustauth_refuses_everything_before_auth() {
    let dns = SpfDns::start(zone);
    let host = setup(
        &dns,
        "192.0.2.1:allow,CHKUSER_MUSTAUTH=\"1\"\n192.0.2.2:allow,CHKUSER_MUSTAUTH=\"1\",RELAYCLIENT=\"\"\n",
    )
    .start();
    let refused = "530 5.7.0 Authentication required (chkuser)";
    let title = ("must auth", "sender not authenticated/authorized");
    play(
        &host,
        &[
            ("192.0.2.1", "a@good.test", "bob@mx.test", refused, title.0, title.1),
            ("192.0.2.1", "", "bob@mx.test", refused, title.0, title.1),
        ],
    );
    assert_eq!(rcpt(host.from("192.0.2.2"), "a@good.test", "a@out.test"), OK);
    talk(
        &mut host.from("192.0.2.1"),
        &[
            ("EHLO client.test", "250-*"),
            ("MAIL FROM:<a@good.test>", refused),
            AUTH,
            ("MAIL FROM:<bob@mx.test>", "250 *"),
            ("RCPT TO:<a@out.test>", "250 *"),
        ],
    );
}

#[test]
fn the_sender_of_double_bounces_is_welcome_where_it_is_allowed() {
    let dns = SpfDns::start(zone);
    let host = setup(
        &dns,
        "192.0.2.1:allow,CHKUSER_START=\"ALWAYS\",CHKUSER_DOUBLEBOUNCE=\"1\"\n\
         192.0.2.2:allow,CHKUSER_START=\"ALWAYS\"\n",
    )
    .start();
    assert_eq!(rcpt(host.from("192.0.2.1"), "#@[]", "bob@mx.test"), OK);
    assert_eq!(rcpt(host.from("192.0.2.2"), "#@[]", "bob@mx.test"), SENDER_FORMAT);
    host.wait_log(
        "CHKUSER accepted doublebounce: from <#@[]::> remote <client.test:unknown:192.0.2.1> rcpt <> : \
         accepted qmail doublebounce #@[]",
    );
}

/// A host for the lines of the log: its clients' names are looked up.
fn logging_host(dns: &SpfDns) -> Host {
    // chkuser as it ships: no variable switches it off.
    let bare = "CHKUSER_DISABLE_VARIABLE=\"X\",CHKUSER_SENDER_NOCHECK_VARIABLE=\"X\"";
    let setup = Setup::new()
        .smtpd(&format!(
            "{PROXIES}, reverse_dns: on, auth_in_clear: true, environment: {{\"SMTPAUTH\": \"\"}}"
        ))
        .resolver(dns.address())
        .rules(&format!(
            "192.0.2.1:allow,CHKUSER_START=\"DOMAIN\",{bare}\n\
             192.0.2.5:allow,CHKUSER_START=\"ALWAYS\",{bare},RELAYCLIENT=\"\"\n\
             192.0.2.33:allow,CHKUSER_START=\"ALWAYS\",CHKUSER_IDENTIFY=\"office\"\n\
             192.0.2.34:allow,CHKUSER_START=\"ALWAYS\",CHKUSER_IDENTIFY=\"office\",CHKUSER_LOGLAYOUT=\"named\",{bare}\n"
        ));
    setup.run(&["vadddomain", "-e", "bob@mx.test", "open.test", "secret-of-the-test"]).expect(0);
    setup.start()
}

/// The lines of chkuser after the first `before`, which are `count`.
fn said(host: &Host, before: usize, count: usize) -> Vec<String> {
    let said = || -> Vec<_> {
        host.log_lines().into_iter().filter(|line| line.starts_with("CHKUSER ")).skip(before).collect()
    };
    wait_for("the lines of chkuser", PATIENCE, || Some(said()).filter(|said| said.len() >= count))
}

#[test]
fn the_classic_lines_are_those_that_log_readers_know() {
    let dns = SpfDns::start(zone);
    let host = logging_host(&dns);
    let mut told = 0;
    let mut log = |ip: &str, lines: &[(&str, &str)], expected: &[&str]| {
        talk(&mut host.from(ip), lines);
        assert_eq!(said(&host, told, expected.len()), expected);
        told += expected.len();
    };
    log(
        "192.0.2.1",
        &[
            ("HELO [192.168.88.150]", "250 *"),
            ("MAIL FROM:<u@good.test>", OK),
            ("RCPT TO:<any@open.test>", OK),
        ],
        &[
            "CHKUSER accepted sender: from <u@good.test::> remote <[192.168.88.150]:unknown:192.0.2.1> rcpt <> : sender accepted",
            "CHKUSER accepted any rcpt: from <u@good.test::> remote <[192.168.88.150]:unknown:192.0.2.1> rcpt <any@open.test> : accepted any recipient for this domain",
        ],
    );
    log(
        "192.0.2.1",
        &[("HELO HELO", "250 *"), ("MAIL FROM:<u@good.test>", OK), ("RCPT TO:<x@good.test>", NOT_RELAYING)],
        &[
            "CHKUSER accepted sender: from <u@good.test::> remote <HELO:unknown:192.0.2.1> rcpt <> : sender accepted",
            "CHKUSER rejected relaying: from <u@good.test::> remote <HELO:unknown:192.0.2.1> rcpt <x@good.test> : client not allowed to relay",
        ],
    );
    log(
        "192.0.2.5",
        &[("MAIL FROM:<u@good.test>", OK), ("RCPT TO:<x@good.test>", OK)],
        &[
            "CHKUSER accepted sender: from <u@good.test::> remote <:unknown:192.0.2.5> rcpt <> : sender accepted",
            "CHKUSER relaying rcpt: from <u@good.test::> remote <:unknown:192.0.2.5> rcpt <x@good.test> : client allowed to relay",
        ],
    );
    log(
        "192.0.2.1",
        &[
            ("EHLO [HELO]", "250-*"),
            AUTH,
            ("MAIL FROM:<bob@mx.test>", "250 *"),
            ("RCPT TO:<x@good.test>", "250 *"),
        ],
        &[
            "CHKUSER accepted sender: from <bob@mx.test:bob@mx.test:> remote <[HELO]:unknown:192.0.2.1> rcpt <> : sender accepted",
            "CHKUSER relaying rcpt: from <bob@mx.test:bob@mx.test:> remote <[HELO]:unknown:192.0.2.1> rcpt <x@good.test> : client allowed to relay",
        ],
    );
    // Names: what HELO says stands there only where it is another one.
    log(
        "192.0.2.33",
        &[("HELO mail.good.test", "250 *"), ("MAIL FROM:<>", OK), ("RCPT TO:<bob@mx.test>", OK)],
        &[
            "CHKUSER accepted sender: from <::office> remote <:mail.good.test:192.0.2.33> rcpt <> : accepted null sender always",
            "CHKUSER accepted rcpt: from <::office> remote <:mail.good.test:192.0.2.33> rcpt <bob@mx.test> : found existing recipient",
        ],
    );
    // Nobody forges a field or a line.
    log(
        "192.0.2.1",
        &[("HELO a> rcpt <b:c", "250 *"), ("MAIL FROM:<\"u:v> x\"@good.test>", SENDER_FORMAT)],
        &[
            "CHKUSER rejected sender: from <u?v??x@good.test::> remote <a??rcpt??b?c:unknown:192.0.2.1> rcpt <> : invalid sender address format",
        ],
    );
}

#[test]
fn the_named_layout_has_its_names() {
    let dns = SpfDns::start(zone);
    let host = logging_host(&dns);
    talk(
        &mut host.from("192.0.2.34"),
        &[
            ("EHLO client.test", "250-*"),
            ("MAIL FROM:<u@good.test>", "250 *"),
            ("RSET", "250 *"),
            AUTH,
            ("MAIL FROM:<bob@mx.test>", "250 *"),
            ("RCPT TO:<bob@mx.test>", "250 *"),
        ],
    );
    let start = "CHKUSER accepted sender: from <u@good.test|remoteinfo/auth:|chkuser-identify:office>";
    let remote = "remote <helo:client.test|remotehostname:unknown|remotehostip:192.0.2.34>";
    let auth = "from <bob@mx.test|remoteinfo/auth:bob@mx.test|chkuser-identify:office>";
    assert_eq!(
        said(&host, 0, 3),
        [
            format!("{start} {remote} rcpt <> : sender accepted"),
            format!("CHKUSER accepted sender: {auth} {remote} rcpt <> : sender accepted"),
            format!("CHKUSER accepted rcpt: {auth} {remote} rcpt <bob@mx.test> : found existing recipient"),
        ]
    );
}

#[test]
fn only_relayclient_itself_switches_chkuser_off() {
    let dns = SpfDns::start(zone);
    let host = setup(&dns, "192.0.2.1:allow,CHKUSER_START=\"ALWAYS\"\n").start();
    talk(
        &mut host.from("192.0.2.1"),
        &[
            ("EHLO [HELO]", "250-*"),
            AUTH,
            ("MAIL FROM:<bob@mx.test>", "250 *"),
            ("RCPT TO:<x@good.test>", "250 *"),
            ("RCPT TO:<nobody@mx.test>", NO_MAILBOX),
        ],
    );
    let who = "from <bob@mx.test:bob@mx.test:> remote <[HELO]:unknown:192.0.2.1>";
    assert_eq!(
        said(&host, 0, 3),
        [
            format!("CHKUSER accepted sender: {who} rcpt <> : sender accepted"),
            format!("CHKUSER relaying rcpt: {who} rcpt <x@good.test> : client allowed to relay"),
            format!("CHKUSER rejected rcpt: {who} rcpt <nobody@mx.test> : not existing recipient"),
        ]
    );
}

#[test]
fn users_that_cannot_be_read_are_refused_for_now() {
    let dns = SpfDns::start(zone);
    let setup = setup(&dns, ":allow,CHKUSER_START=\"ALWAYS\",CHKUSER_MBXQUOTA=\"90\"\n");
    for domain in ["damaged.test", "missing.test", "directory.test"] {
        setup.run(&["vadddomain", domain, "secret-of-the-test"]).expect(0);
        let cdb = setup.home().join("domains").join(domain).join("vpasswd.cdb");
        fs::rename(&cdb, cdb.with_extension("kept")).unwrap();
    }
    // From a vpasswd the database would be made anew.
    fs::remove_file(setup.home().join("domains/missing.test/vpasswd")).unwrap();
    write(&setup, "damaged.test", "vpasswd.cdb", "no database");
    write(&setup, "directory.test", "vpasswd.cdb/file", "");
    setup.user("odd@mx.test");
    change(&setup, "odd", |entry| entry.quota = b"much".to_vec());
    let host = setup.start();
    let rows: Vec<Row<'_>> =
        ["postmaster@damaged.test", "postmaster@missing.test", "postmaster@directory.test", "odd@mx.test"]
            .map(|to| {
                (
                    "192.0.2.1",
                    "a@good.test",
                    to,
                    UNAVAILABLE,
                    "no auth resource",
                    "no auth resource available",
                )
            })
            .into();
    play(&host, &rows);
    let file = |domain: &str| host.home().join("domains").join(domain).join("vpasswd.cdb");
    host.wait_log(&format!(
        "alert: unable to check a recipient: {}: no such file",
        file("missing.test").display()
    ));
    host.wait_log("alert: unable to check a recipient: the quota of odd is `much`; allowed: *");
    for domain in ["damaged.test", "directory.test"] {
        host.wait_log(&format!("alert: unable to check a recipient: {}*", file(domain).display()));
    }
    // Mended, and obeyed at once.
    let cdb = file("damaged.test");
    fs::rename(cdb.with_extension("kept"), &cdb).unwrap();
    assert_eq!(rcpt(host.from("192.0.2.1"), "a@good.test", "postmaster@damaged.test"), OK);

    let users = host.home().join("users/cdb");
    let good = fs::read(&users).unwrap();
    fs::write(&users, "no database").unwrap();
    wait_until("svstat to show users/cdb", PATIENCE, || {
        assert_eq!(rcpt(host.from("192.0.2.1"), "a@good.test", "bob@mx.test"), OK);
        host.ask(&["svstat"]).contains("users/cdb: ")
    });
    host.wait_log(&format!("alert: {}: *; what was there before stays in force", users.display()));
    // Gone, while users/assign names somebody.
    fs::remove_file(&users).unwrap();
    wait_until("nobody to know users", PATIENCE, || {
        rcpt(host.from("192.0.2.1"), "a@good.test", "bob@mx.test") == UNAVAILABLE
    });
    fs::write(&users, good).unwrap();
    wait_until("users to be known", PATIENCE, || {
        rcpt(host.from("192.0.2.1"), "a@good.test", "bob@mx.test") == OK
    });
    assert!(!host.ask(&["svstat"]).contains("users/cdb"));
}

#[test]
fn a_bad_value_is_named_and_lets_nobody_through() {
    let dns = SpfDns::start(zone);
    let host = setup(
        &dns,
        "192.0.2.1:allow,CHKUSER_START=\"SOMETIMES\"\n192.0.2.2:allow,CHKUSER_START=\"NONE\",CHKUSER_RCPTLIMIT=\"many\"\n\
         192.0.2.3:allow,CHKUSER_MBXQUOTA=\"-1\"\n192.0.2.4:allow,CHKUSER_START=\"MAYBE\",CHKUSER_MUSTAUTH=\"1\"\n",
    )
    .start();
    let rows: Vec<Row<'_>> = ["192.0.2.1", "192.0.2.2", "192.0.2.3"]
        .iter()
        .flat_map(|&ip| {
            [
                ("bob@mx.test", OK, "accepted rcpt", "found existing recipient"),
                ("nobody@mx.test", NO_MAILBOX, "rejected rcpt", "not existing recipient"),
                ("a@good.test", NOT_RELAYING, "rejected relaying", "client not allowed to relay"),
            ]
            .map(|(to, reply, title, description)| (ip, "a@good.test", to, reply, title, description))
        })
        .collect();
    play(&host, &rows);
    host.wait_log("alert: chkuser: CHKUSER_START=\"SOMETIMES\"; allowed: NONE, DOMAIN or ALWAYS");
    host.wait_log("alert: chkuser: CHKUSER_RCPTLIMIT=\"many\"; allowed: 0 to 4294967295, 0 for no limit");
    host.wait_log("alert: chkuser: CHKUSER_MBXQUOTA=\"-1\"; allowed: 0 to 4294967295, 0 for no limit");
    // Who asked for authentication gets it.
    let refused = "530 5.7.0 Authentication required (chkuser)";
    assert_eq!(rcpt(host.from("192.0.2.4"), "a@good.test", "bob@mx.test"), refused);
    // The message of a good recipient still comes through.
    let mut client = host.from("192.0.2.1");
    client.say("EHLO client.test", 250);
    client.transact("a@good.test", &["bob@mx.test"], "Subject: x\n\nx\n").unwrap().expect(250);
    host.maildir("bob").wait(1, PATIENCE);
}
