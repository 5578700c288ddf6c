//! rblsmtpd: DNS lists decide who gets a real conversation.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mailtree_tests::dns::Dns;
use mailtree_tests::host::{Host, PATIENCE, Setup};
use mailtree_tests::proxy::dial_as;
use mailtree_tests::smtp::{Client, play_on};
use mailtree_tests::wait::{holds_for, wait_until};

/// A host whose smtpd runs behind rblsmtpd with these arguments, and asks `dns`.
fn setup(arguments: &[&str], dns: SocketAddr) -> Setup {
    let words: Vec<String> = arguments.iter().map(|word| format!("{word:?}")).collect();
    Setup::new().smtpd(&format!("proxies: [\"127.0.0.1\"], rblsmtpd: [{}]", words.join(", "))).resolver(dns)
}

fn host(arguments: &[&str], dns: SocketAddr) -> Host {
    setup(arguments, dns).start()
}

/// What a client hears to RCPT for a user of this host.
#[track_caller]
fn rcpt(host: &Host, ip: &str) -> String {
    let mut client = Client::greeted(dial_as(host.address().get(), ip)).unwrap();
    for line in ["HELO client.test", "MAIL FROM:<a@far.test>"] {
        client.say(line, 250);
    }
    client.command("RCPT TO:<bob@mx.test>").unwrap().text()
}

const WELCOME: &str = "250 ok";

/// A mock of lists: each lists 192.0.2.1, and 127.0.0.2 as all lists must.
fn lists(names: &[&str]) -> Dns {
    let dns = Dns::start();
    for name in names {
        for reversed in ["1.2.0.192", "2.0.0.127"] {
            dns.address_of(&format!("{reversed}.{name}"), "127.0.0.2");
            dns.txt(&format!("{reversed}.{name}"), &format!("listed by {name}"));
        }
    }
    dns
}

/// Nothing answers here.
fn nobody() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 1))
}

#[test]
fn the_limited_conversation() {
    let dns = lists(&["list.test"]);
    let host = host(&["-r", "list.test"], dns.address());
    play_on(
        dial_as(host.address().get(), "192.0.2.1"),
        "S: 220 rblsmtpd.local
         C: EHLO client.test
         S: 250 rblsmtpd.local
         C: helo client.test
         S: 250 rblsmtpd.local
         C: MAIL FROM:<a@far.test>
         S: 250 rblsmtpd.local
         C: RCPT TO:<bob@mx.test>
         S: 451 listed by list.test
         C: RCPT TO:<postmaster@mx.test>
         S: 451 listed by list.test
         C: DATA
         S: 451 listed by list.test
         C: RSET
         S: 250 rblsmtpd.local
         C: NOOP
         S: 250 rblsmtpd.local
         C: VRFY bob
         S: 451 listed by list.test
         C: STARTTLS
         S: 451 listed by list.test
         C: AUTH PLAIN
         S: 451 listed by list.test
         C:
         S: 451 listed by list.test
         C: Quit
         S: 221 rblsmtpd.local
         S: (closes)",
    );
    let pid = host.wait_log("tcpserver: pid * from 192.0.2.1").split(' ').nth(2).unwrap().to_owned();
    host.wait_log(&format!("rblsmtpd: 192.0.2.1 pid {pid}: 451 listed by list.test"));
    host.wait_log(&format!("tcpserver: end {pid} status 0"));
    assert_eq!(host.queue_files(), Vec::<std::path::PathBuf>::new());
    let metrics = host.metrics();
    assert_eq!(metrics.sum("mailtree_smtpd_connections_total", &["verdict=\"rblsmtpd\""]), 1.0);
    let listed = ["source=\"list.test\"", "result=\"listed\""];
    assert_eq!(metrics.sum("mailtree_rblsmtpd_answers_total", &listed), 1.0);
}

#[test]
fn a_thousand_commands_at_once_are_answered_one_by_one() {
    let dns = lists(&["list.test"]);
    let host = host(&["-r", "list.test"], dns.address());
    let mut stream = dial_as(host.address().get(), "192.0.2.1");
    stream.write_all(&[b"RCPT TO:<bob@mx.test>\r\n".repeat(1000), b"QUIT\r\n".to_vec()].concat()).unwrap();
    let mut heard = String::new();
    stream.read_to_string(&mut heard).unwrap();
    assert_eq!(heard.matches("451 listed by list.test\r\n").count(), 1000);
    assert!(heard.ends_with("\r\n221 rblsmtpd.local\r\n"));
}

#[test]
fn a_text_is_cut_at_200_bytes_and_made_harmless() {
    let dns = Dns::start();
    let text = format!("a\r\n250 b\u{fc}{}", "x".repeat(240));
    dns.address_of("1.2.0.192.list.test", "127.0.0.2").txt("1.2.0.192.list.test", &text[..250]);
    let host = host(&["-r", "list.test"], dns.address());
    let expected = format!("451 a??250 b??{}", "x".repeat(190));
    assert_eq!(rcpt(&host, "192.0.2.1"), expected);
    host.wait_log(&format!("rblsmtpd: 192.0.2.1 pid *: {expected}"));
}

#[test]
fn with_t_0_the_refusal_is_said_once() {
    let dns = lists(&["list.test"]);
    let host = host(&["-t", "0", "-b", "-r", "list.test"], dns.address());
    let mut heard = String::new();
    dial_as(host.address().get(), "192.0.2.1").read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "553 listed by list.test\r\n");
    host.wait_log("rblsmtpd: 192.0.2.1 pid *: 553 listed by list.test");
    assert_eq!(rcpt(&host, "192.0.2.2"), WELCOME);
}

#[test]
fn with_t_2_the_conversation_ends_after_two_seconds_however_lively() {
    let dns = lists(&["list.test"]);
    let host = host(&["-t2", "-r", "list.test"], dns.address());
    let begin = Instant::now();
    let mut silent = Client::greeted(dial_as(host.address().get(), "192.0.2.1")).unwrap();
    let mut lively = Client::greeted(dial_as(host.address().get(), "192.0.2.1")).unwrap();
    while lively.command("NOOP").is_ok() {
        assert!(begin.elapsed() < Duration::from_secs(8), "still talking");
    }
    assert!(silent.closed());
    let took = begin.elapsed();
    assert!(took >= Duration::from_secs(2) && took < Duration::from_secs(8), "{took:?}");
}

#[test]
fn the_variable_decides_before_any_list() {
    let dns = lists(&["list.test"]);
    let setup = setup(&["-r", "list.test"], dns.address());
    let rules = "192.0.2.1:allow\n192.0.2.2:allow,RBLSMTPD=\"go away\"\n192.0.2.3:allow,RBLSMTPD=\"-go away\"\n\
                 192.0.2.4:allow,RBLSMTPD=\"\"\n192.0.2.5:allow,RBLSMTPD=\"-\"\n:allow\n";
    std::fs::write(setup.home().join("tcp.smtp"), rules).unwrap();
    setup.run(&["qmailctl", "cdb"]).expect(0);
    dns.address_of("4.2.0.192.list.test", "127.0.0.2").txt("4.2.0.192.list.test", "listed");
    let host = setup.start();
    for (ip, said, asked) in [
        ("192.0.2.1", "451 listed by list.test", 1),
        ("192.0.2.2", "451 go away", 0),
        ("192.0.2.3", "553 go away", 0),
        ("192.0.2.4", WELCOME, 0),
        ("192.0.2.5", "553 ", 0),
        ("192.0.2.6", WELCOME, 1),
    ] {
        assert_eq!(rcpt(&host, ip), said, "{ip}");
        let last = ip.rsplit('.').next().unwrap();
        assert_eq!(dns.asked(&format!("{last}.2.0.192.list.test"), "A"), asked, "{ip}");
    }
}

#[test]
fn without_a_list_only_the_variable_counts() {
    let setup = Setup::new().smtpd("proxies: [\"127.0.0.1\"]");
    std::fs::write(setup.home().join("tcp.smtp"), "192.0.2.2:allow,RBLSMTPD=\"go away\"\n:allow\n").unwrap();
    setup.run(&["qmailctl", "cdb"]).expect(0);
    let host = setup.start();
    assert_eq!(rcpt(&host, "192.0.2.1"), WELCOME);
    assert_eq!(rcpt(&host, "192.0.2.2"), "451 go away");
}

#[test]
fn all_lists_are_asked_before_the_first_answers_and_decide_in_their_order() {
    let names = ["one.test", "two.test", "three.test", "four.test"];
    let dns = lists(&names[1..]);
    let arguments: Vec<&str> = names.iter().flat_map(|name| ["-r", name]).collect();
    let host = host(&arguments, dns.address());
    dns.hold();
    std::thread::scope(|scope| {
        let answer = scope.spawn(|| rcpt(&host, "192.0.2.1"));
        wait_until("a question to every list", PATIENCE, || {
            names.iter().all(|name| dns.asked(&format!("1.2.0.192.{name}"), "A") > 0)
        });
        holds_for("no decision without an answer", Duration::from_millis(100), || !answer.is_finished());
        dns.release();
        assert_eq!(answer.join().unwrap(), "451 listed by two.test");
    });
}

#[test]
fn a_white_list_in_front_saves_and_behind_is_too_late() {
    let dns = lists(&["good.test", "bad.test"]);
    for (arguments, said) in [
        (["-a", "good.test", "-r", "bad.test"], WELCOME),
        (["-r", "bad.test", "-a", "good.test"], "451 listed by bad.test"),
        (["-a", "none.test", "-r", "bad.test"], "451 listed by bad.test"),
    ] {
        assert_eq!(rcpt(&host(&arguments, dns.address()), "192.0.2.1"), said, "{arguments:?}");
    }
}

#[test]
fn b_is_553_unless_a_list_before_could_not_be_asked() {
    let dns = lists(&["list.test"]);
    dns.fail("1.2.0.192.broken.test");
    for (arguments, said) in [
        (&["-b", "-r", "list.test"][..], "553 listed by list.test"),
        (&["-b", "-B", "-r", "list.test"], "451 listed by list.test"),
        (&["-b", "-r", "broken.test", "-r", "list.test"], "451 listed by list.test"),
        (&["-b", "-r", "list.test", "-r", "broken.test"], "553 listed by list.test"),
        (&["-b", "-c", "-r", "broken.test", "-r", "list.test"], "451 temporary RBL lookup error"),
        (&["-b", "-c", "-a", "broken.test", "-r", "list.test"], "451 listed by list.test"),
        (&["-b", "-C", "-a", "broken.test", "-r", "list.test"], WELCOME),
    ] {
        assert_eq!(rcpt(&host(arguments, dns.address()), "192.0.2.1"), said, "{arguments:?}");
    }
}

#[test]
fn with_a_dead_server_c_refuses_and_otherwise_mail_goes_on() {
    for (arguments, said) in [
        (&["-r", "list.test"][..], WELCOME),
        (&["-C", "-r", "list.test"], WELCOME),
        (&["-c", "-r", "list.test"], "451 temporary RBL lookup error"),
        (&["-c", "-r", "list.test:you, %IP%"], "451 temporary RBL lookup error"),
    ] {
        let host = setup(arguments, nobody())
            .field("resolver", "(servers: [\"127.0.0.1:1\"], deadline: \"1s\")")
            .start();
        assert_eq!(rcpt(&host, "192.0.2.1"), said, "{arguments:?}");
        let failed = ["source=\"list.test\"", "result=\"failed\""];
        assert_eq!(host.metrics().sum("mailtree_rblsmtpd_answers_total", &failed), 1.0);
    }
}

#[test]
fn a_list_of_texts_alone_lists_too() {
    let dns = Dns::start();
    dns.txt("1.2.0.192.list.test", "text alone");
    let host = host(&["-r", "list.test"], dns.address());
    assert_eq!(rcpt(&host, "192.0.2.1"), "451 text alone");
}

#[test]
fn bad_arguments_are_named() {
    for (arguments, said) in [
        ("\"-x\"", "`-x` is not allowed"),
        ("\"-r\"", "`-r` is the last word"),
        ("\"-t\", \"soon\"", "`-t soon` is not allowed"),
        ("\"-r\", \"not a domain\"", "`not a domain` is no base of a list"),
    ] {
        let host = Setup::new().smtpd(&format!("rblsmtpd: [{arguments}]")).launch();
        let line = host.wait_log("*services.smtpd.rblsmtpd: *");
        assert!(line.contains(said), "{line}");
    }
}

mod needs_rbldnsd {
    use mailtree_tests::rbldnsd::{Rbldnsd, Zone};

    use super::*;

    const SPAMMERS: &str = "\
:127.0.0.2:Blocked, see https://list.test/?$
127.0.0.2
192.0.2.1
198.51.100.0/24
!198.51.100.7
192.0.2.3 :127.0.0.4:Open relay
";

    const FRIENDS: &str = ":127.0.0.2:\n127.0.0.2\n192.0.2.1\n";

    const SIX: &str = "\
2001:db8:bad::/48 :127.0.0.2:Blocked $
::ffff:7f00:2 :127.0.0.2:test
";

    const ZONES: [Zone<'static>; 4] = [
        ("spam.test", "ip4set", SPAMMERS),
        ("trie.test", "ip4trie", "127.0.0.2 :127.0.0.2:test\n203.0.113.0/25 :127.0.0.3:Dial-up $\n"),
        ("good.test", "ip4set", FRIENDS),
        ("six.test", "ip6trie", SIX),
    ];

    #[test]
    fn clients_on_a_list_hear_its_text() {
        let lists = Rbldnsd::start(&ZONES);
        let host = host(&["-r", "spam.test", "-r", "trie.test"], lists.address());
        for (ip, said) in [
            ("192.0.2.1", "451 Blocked, see https://list.test/?192.0.2.1"),
            ("192.0.2.2", WELCOME),
            ("192.0.2.3", "451 Open relay"),
            ("198.51.100.6", "451 Blocked, see https://list.test/?198.51.100.6"),
            ("198.51.100.7", WELCOME),
            ("203.0.113.5", "451 Dial-up 203.0.113.5"),
            ("203.0.113.130", WELCOME),
            ("::ffff:192.0.2.3", "451 Open relay"),
        ] {
            assert_eq!(rcpt(&host, ip), said, "{ip}");
        }
        host.wait_log("rblsmtpd: 192.0.2.1 pid *: 451 Blocked, see https://list.test/?192.0.2.1");
        let answers = |source: &str, result: &str| {
            let labels = [format!("source=\"{source}\""), format!("result=\"{result}\"")];
            host.metrics().sum("mailtree_rblsmtpd_answers_total", &[&labels[0], &labels[1]])
        };
        assert_eq!((answers("spam.test", "listed"), answers("trie.test", "listed")), (4.0, 1.0));
        assert_eq!(answers("spam.test", "not-listed"), 4.0);
    }

    #[test]
    fn a_message_of_our_own_names_the_client() {
        let lists = Rbldnsd::start(&ZONES);
        let host = host(&["-b", "-r", "spam.test:Your address %IP% is bad: %IP%"], lists.address());
        assert_eq!(rcpt(&host, "192.0.2.1"), "553 Your address 192.0.2.1 is bad: 192.0.2.1");
        assert_eq!(rcpt(&host, "192.0.2.2"), WELCOME);
    }

    #[test]
    fn a_friend_on_a_white_list_is_let_in() {
        let lists = Rbldnsd::start(&ZONES);
        let host = host(&["-a", "good.test", "-r", "spam.test"], lists.address());
        assert_eq!(rcpt(&host, "192.0.2.1"), WELCOME);
        assert_eq!(rcpt(&host, "192.0.2.3"), "451 Open relay");
    }

    #[test]
    fn clients_of_ipv6_are_looked_for_by_nibbles() {
        let lists = Rbldnsd::start(&ZONES);
        let host = host(&["-r", "spam.test", "-r", "six.test"], lists.address());
        assert_eq!(rcpt(&host, "2001:db8:bad::1"), "451 Blocked 2001:db8:bad::1");
        assert_eq!(rcpt(&host, "2001:db8:900d::1"), WELCOME);
        host.wait_log("rblsmtpd: 2001:db8:bad::1 pid *: 451 Blocked 2001:db8:bad::1");
    }

    /// A domain that was sold answers everything with its web server; a list that refuses a resolver has codes for it.
    const NO_LISTINGS: [Zone<'static>; 3] = [
        ("sold.test", "ip4trie", "0/0 :198.51.100.80:Buy this domain\n"),
        ("closed.test", "ip4trie", "0/0 :127.255.255.254:Error: open resolver\n"),
        ("spam.test", "ip4set", SPAMMERS),
    ];

    #[test]
    fn an_answer_that_is_no_listing_never_refuses_and_is_told() {
        let lists = Rbldnsd::start(&NO_LISTINGS);
        let arguments =
            ["-c", "-b", "-r", "sold.test", "-r", "closed.test:no", "-a", "sold.test", "-r", "spam.test"];
        let host = host(&arguments, lists.address());
        assert_eq!(rcpt(&host, "192.0.2.2"), WELCOME);
        assert_eq!(rcpt(&host, "192.0.2.3"), "553 Open relay");
        host.wait_log("rblsmtpd: warning: sold.test answers 198.51.100.80, which is no listing");
        host.wait_log("rblsmtpd: warning: closed.test answers 127.255.255.254, which is no listing");
        let odd = |source: &str| {
            host.metrics()
                .sum("mailtree_rblsmtpd_answers_total", &[&format!("source=\"{source}\""), "result=\"odd\""])
        };
        assert_eq!((odd("sold.test"), odd("closed.test")), (4.0, 2.0));
    }

    #[test]
    fn check_tells_which_lists_work() {
        let more = [
            ("empty.test", "ip4set", "192.0.2.1 :127.0.0.2:x\n"),
            ("all.test", "ip4trie", "0/0 :127.0.0.2:x\n"),
        ];
        let lists = Rbldnsd::start(&[&ZONES[..], &NO_LISTINGS[..2], &more[..]].concat());
        let bases =
            ["spam.test", "trie.test", "six.test", "empty.test", "all.test", "sold.test", "closed.test"];
        let mut arguments: Vec<&str> = bases.iter().flat_map(|base| ["-r", base]).collect();
        arguments.extend(["-a", "good.test"]);
        let setup = setup(&arguments, lists.address());
        setup.write();
        let ran = setup.run(&["check"]).expect(0);
        for base in ["spam.test", "trie.test", "six.test", "good.test"] {
            let line = format!("services.smtpd.rblsmtpd: {base} works");
            assert!(ran.stdout.lines().any(|said| said == line), "{line}\n{ran:#?}");
        }
        for (base, why) in [
            ("empty.test", "does not list 127.0.0.2"),
            ("all.test", "lists 127.0.0.1"),
            ("sold.test", "answers 198.51.100.80"),
            ("closed.test", "answers the error code 127.255.255.254"),
        ] {
            let line = format!("mailtree check: warning: services.smtpd.rblsmtpd: {base} {why}");
            assert!(ran.stderr.lines().any(|said| said.starts_with(&line)), "{line}\n{ran:#?}");
        }
        drop(lists);
        let ran = setup.run(&["check"]).expect(0);
        let line = "mailtree check: warning: services.smtpd.rblsmtpd: spam.test does not answer now";
        assert!(ran.stderr.lines().any(|said| said == line), "{ran:#?}");
    }
}
