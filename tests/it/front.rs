//! The front door: what `tcp.smtp` says of a client decides about its session, whoever brings it.

use std::collections::HashSet;
use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use mailtree_tests::dns::Dns;
use mailtree_tests::host::{Host, PATIENCE, Setup, binary};
use mailtree_tests::letter::{letter, read};
use mailtree_tests::proxy::{MAGIC, PORT, dial_as, dial_with, v1, v2};
use mailtree_tests::smtp::{Client, Reply, dial, dial_from, like, play_on};
use mailtree_tests::wait::{holds_for, wait_until};

/// Beside `listen`: clients from 127.0.0.1 say for whom they connect.
const PROXIES: &str = "proxies: [\"127.0.0.1\"]";

/// The examples of qmail's own documentation, as they stand there.
const EXAMPLES: &str = "\
# tcp.smtp
127.:allow,RELAYCLIENT=\"\"
:allow,QMAILQUEUE=\"/var/qmail/bin/simscan\"
# whitelist
11.22.33.44:allow,SPFBEHAVIOR=\"0\",RBLSMTPD=\"\"
# blacklist; error code 451
22.33.44.55:allow,RBLSMTPD=\"halt thy spam!\"
# blacklist; error code 553
33.44.55.66:allow,RBLSMTPD=\"-halt thy spam!\"
";

/// Writes `tcp.smtp` and compiles it as an administrator does.
#[track_caller]
fn rules(home: &Path, text: &str) {
    fs::write(home.join("tcp.smtp"), text).unwrap();
    let compile = ["--home", home.to_str().unwrap(), "qmailctl", "cdb"];
    let ran = mailtree_tests::host::Ran::new(std::process::Command::new(binary()).args(compile)).expect(0);
    assert_eq!(ran.stdout, format!("Reloaded {}.\n", home.join("tcp.smtp").display()));
}

/// A home with a proxy in front of it and these rules.
fn front(text: &str) -> Setup {
    let setup = Setup::new().smtpd(PROXIES);
    rules(setup.home(), text);
    setup
}

/// The client at this address, greeted.
#[track_caller]
fn client(host: &Host, ip: &str) -> Client {
    Client::greeted(dial_as(host.address().get(), ip)).unwrap_or_else(|cause| panic!("{ip}: {cause}"))
}

/// What this client hears to `MAIL` and `RCPT`, at the latter.
#[track_caller]
fn rcpt(host: &Host, ip: &str, from: &str, to: &str) -> String {
    let mut client = client(host, ip);
    client.say("HELO client.test", 250);
    client.say(&format!("MAIL FROM:<{from}>"), 250);
    client.command(&format!("RCPT TO:<{to}>")).unwrap().text()
}

const NO_RELAY: &str = "553 sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)";

mod examples {
    use super::*;

    #[test]
    fn clients_at_127_may_relay_and_others_may_not() {
        let host = front(EXAMPLES).start();
        for ip in ["127.0.0.2", "127.200.3.4"] {
            let mut client = Client::greeted(dial_from(ip, host.address().get()).unwrap()).unwrap();
            client.say("HELO client.test", 250);
            client.say("MAIL FROM:<sender@mx.test>", 250);
            client.say("RCPT TO:<anyone@far.test>", 250);
        }
        assert_eq!(rcpt(&host, "128.0.0.1", "a@far.test", "anyone@far.test"), NO_RELAY);
        assert_eq!(rcpt(&host, "128.0.0.1", "a@far.test", "bob@mx.test"), "250 ok");
    }

    #[test]
    fn simscan_that_has_nothing_to_scan_lets_mail_through() {
        // No scanner is there: who asked one would answer 451.
        let scanners = "(clamd: \"127.0.0.1:1\", spamd: \"127.0.0.1:1\")";
        let host = front(EXAMPLES).field("scanners", scanners).start();
        let mut client = client(&host, "192.0.2.1");
        client.say("EHLO client.test", 250);
        client.transact("a@far.test", &["bob@mx.test"], &letter("unscanned", 3000)).unwrap().expect(250);
        let delivered = host.maildir("bob").wait(1, PATIENCE).remove(0);
        assert_eq!(read(delivered.as_bytes()), Ok("unscanned".to_owned()));
        host.wait_queue_empty(PATIENCE);
    }

    #[test]
    fn the_whitelisted_client_meets_neither_spf_nor_block_lists() {
        let dns = Dns::start();
        dns.txt("far.test", "v=spf1 -all");
        for reversed in ["44.33.22.11", "9.2.0.192"] {
            dns.address_of(&format!("{reversed}.list.test"), "127.0.0.2");
            dns.txt(&format!("{reversed}.list.test"), "listed");
        }
        let setup = Setup::new()
            .smtpd(&format!("{PROXIES}, rblsmtpd: [\"-r\", \"list.test\"]"))
            .control("spfbehavior", "3\n")
            .resolver(dns.address());
        rules(setup.home(), EXAMPLES);
        let host = setup.start();
        let refused = rcpt(&host, "192.0.2.1", "a@far.test", "bob@mx.test");
        assert!(refused.starts_with("550 "), "{refused}");
        assert_eq!(rcpt(&host, "192.0.2.9", "a@far.test", "bob@mx.test"), "451 listed");
        let asked = dns.asked("far.test", "TXT");
        assert_eq!(rcpt(&host, "11.22.33.44", "a@far.test", "bob@mx.test"), "250 ok");
        assert_eq!(dns.asked("far.test", "TXT"), asked);
        assert_eq!(dns.asked("44.33.22.11.list.test", "A"), 0);
    }

    #[test]
    fn halt_thy_spam_with_451_and_with_553() {
        let host = front(EXAMPLES).start();
        for (ip, code) in [("22.33.44.55", 451), ("33.44.55.66", 553)] {
            play_on(
                dial_as(host.address().get(), ip),
                &format!(
                    "S: 220 rblsmtpd.local
                     C: HELO client.test
                     S: 250 rblsmtpd.local
                     C: MAIL FROM:<a@far.test>
                     S: 250 rblsmtpd.local
                     C: RCPT TO:<bob@mx.test>
                     S: {code} halt thy spam!
                     C: QUIT
                     S: 221 rblsmtpd.local
                     S: (closes)"
                ),
            );
        }
    }
}

/// The lines of tcpserver and rblsmtpd.
fn door_lines(host: &Host) -> Vec<String> {
    let ours = |line: &String| line.starts_with("tcpserver: ") || line.starts_with("rblsmtpd: ");
    let listening = |line: &String| line.starts_with("tcpserver: listening");
    host.log_lines().into_iter().filter(|line| ours(line) && !listening(line)).collect()
}

/// Waits until the log has what the door says as it opens; how many lines that are.
fn opened(host: &Host) -> usize {
    host.wait_log("tcpserver: status: 0/*");
    door_lines(host).len()
}

/// Waits for so many lines of the door after the first `from`, and gives them.
fn story(host: &Host, from: usize, count: usize) -> Vec<String> {
    wait_until("the lines of a connection", PATIENCE, || door_lines(host).len() >= from + count);
    door_lines(host).split_off(from)
}

/// The number in `tcpserver: pid NUMBER from …`.
fn pid_of(line: &str) -> String {
    line.split(' ').nth(2).unwrap().to_owned()
}

mod log {
    use super::*;

    #[test]
    fn a_refused_client_is_logged_as_tcpserver_and_rblsmtpd_log_it() {
        let host = front(EXAMPLES).control("concurrencyincoming", "20\n").start();
        let from = opened(&host);
        let mut client = client(&host, "22.33.44.55");
        client.say("QUIT", 221);
        let said = story(&host, from, 6);
        let pid = pid_of(&said[1]);
        assert_eq!(
            said,
            [
                "tcpserver: status: 1/20".to_owned(),
                format!("tcpserver: pid {pid} from 22.33.44.55"),
                format!("tcpserver: ok {pid} mx.test:198.51.100.25:25 :22.33.44.55::{PORT}"),
                format!("rblsmtpd: 22.33.44.55 pid {pid}: 451 halt thy spam!"),
                format!("tcpserver: end {pid} status 0"),
                "tcpserver: status: 0/20".to_owned(),
            ]
        );
    }

    #[test]
    fn deny_closes_without_a_word() {
        let host = front("192.0.2.:deny\n:allow\n").control("concurrencyincoming", "7\n").start();
        let from = opened(&host);
        let mut heard = Vec::new();
        let mut stream = dial_as(host.address().get(), "192.0.2.77");
        std::io::Read::read_to_end(&mut stream, &mut heard).unwrap();
        assert_eq!(heard, b"");
        let said = story(&host, from, 5);
        let pid = pid_of(&said[1]);
        assert_eq!(
            said,
            [
                "tcpserver: status: 1/7".to_owned(),
                format!("tcpserver: pid {pid} from 192.0.2.77"),
                format!("tcpserver: deny {pid} mx.test:198.51.100.25:25 :192.0.2.77::{PORT}"),
                format!("tcpserver: end {pid} status 25600"),
                "tcpserver: status: 0/7".to_owned(),
            ]
        );
        client(&host, "192.0.3.77").say("QUIT", 221);
        let metrics = host.metrics();
        assert_eq!(metrics.sum("mailtree_smtpd_connections_total", &["verdict=\"deny\""]), 1.0);
    }

    #[test]
    fn a_direct_client_is_logged_with_its_own_port() {
        let host = Host::start();
        let mut client = host.smtp();
        let (ours, theirs) = (client.stream().local_addr().unwrap(), client.stream().peer_addr().unwrap());
        client.say("QUIT", 221);
        let line = host.wait_log("tcpserver: ok *");
        let pid = pid_of(&line);
        let expected =
            format!("tcpserver: ok {pid} mx.test:127.0.0.1:{} :127.0.0.1::{}", theirs.port(), ours.port());
        assert_eq!(line, expected);
    }

    #[test]
    fn each_session_has_a_number_of_its_own_and_each_begins_and_ends() {
        let host = front(":allow\n").start();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let host = &host;
                scope.spawn(move || {
                    for n in 0..25 {
                        client(host, &format!("192.0.{thread}.{n}")).say("QUIT", 221);
                    }
                });
            }
        });
        let with = |word: &str| -> Vec<String> {
            let start = format!("tcpserver: {word} ");
            door_lines(&host)
                .into_iter()
                .filter(|line| line.starts_with(&start))
                .map(|l| pid_of(&l))
                .collect()
        };
        wait_until("100 sessions to end", PATIENCE, || with("end").len() == 100);
        let unique: HashSet<_> = with("pid").into_iter().collect();
        assert_eq!(unique.len(), 100);
        for word in ["ok", "end"] {
            assert_eq!(with(word).into_iter().collect::<HashSet<_>>(), unique, "{word}");
        }
        for pid in unique {
            let lines = door_lines(&host);
            let at = |word: &str| {
                lines.iter().position(|line| line.starts_with(&format!("tcpserver: {word} {pid} "))).unwrap()
            };
            assert!(at("pid") < at("ok") && at("ok") < at("end"), "{pid}");
        }
    }

    #[test]
    fn a_client_that_just_goes_is_exit_code_1() {
        let host = front(":allow\n").start();
        drop(client(&host, "192.0.2.1"));
        let pid = pid_of(&host.wait_log("tcpserver: pid * from 192.0.2.1"));
        let end = host.wait_log(&format!("tcpserver: end {pid} status *"));
        assert!([0, 256].iter().any(|status| end.ends_with(&format!("status {status}"))), "{end}");
    }

    #[test]
    fn sessions_at_once_never_exceed_the_limit_and_all_are_served() {
        let host = Setup::new().smtpd("concurrency: 3").start();
        let address = host.address().get();
        std::thread::scope(|scope| {
            for _ in 0..12 {
                scope.spawn(move || {
                    for _ in 0..5 {
                        let mut client = Client::connect(address).unwrap();
                        client.say("HELO client.test", 250);
                        client.say("QUIT", 221);
                    }
                });
            }
        });
        wait_until("60 sessions to end", PATIENCE, || {
            host.log().matches("tcpserver: end ").count() == 60 && host.log().contains("status: 0/3\n")
        });
        let counts: Vec<u32> = host
            .log_lines()
            .iter()
            .filter_map(|line| line.strip_prefix("tcpserver: status: ")?.strip_suffix("/3")?.parse().ok())
            .collect();
        assert_eq!(counts.iter().max(), Some(&3), "{counts:?}");
        assert_eq!(counts.last(), Some(&0), "{counts:?}");
    }

    #[test]
    fn at_the_limit_clients_wait_for_the_next_place() {
        let host = Setup::new().smtpd("concurrency: 2").start();
        let address = host.address().get();
        let mut first = Client::connect(address).unwrap();
        let _second = Client::connect(address).unwrap();
        let waiting = dial(address).unwrap();
        waiting.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        assert!(waiting.peek(&mut [0]).is_err(), "a third client was served");
        first.say("QUIT", 221);
        waiting.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(Client::greeted(waiting).unwrap().greeting.code, 220);
    }
}

mod files;

mod variables {
    use super::*;

    #[test]
    fn the_value_of_relayclient_is_appended_to_each_recipient() {
        let host = front("192.0.2.1:allow,RELAYCLIENT=\"@mx.test\"\n:allow\n").start();
        let mut client = client(&host, "192.0.2.1");
        client.say("HELO client.test", 250);
        client.transact("sender@mx.test", &["bob", "sender"], &letter("appended", 300)).unwrap().expect(250);
        for user in ["bob", "sender"] {
            let delivered = host.maildir(user).wait(1, PATIENCE).remove(0);
            assert!(delivered.contains(&format!("Delivered-To: {user}@mx.test\n")), "{delivered}");
        }
    }

    #[test]
    fn databytes_of_a_client_stands_before_the_control_file() {
        let host = front("192.0.2.1:allow,DATABYTES=\"2000\"\n192.0.2.2:allow,DATABYTES=\"0\"\n:allow\n")
            .control("databytes", "5000\n")
            .start();
        let table = [
            ("192.0.2.1", "SIZE 2000", 1500, 250),
            ("192.0.2.1", "SIZE 2000", 3000, 552),
            ("192.0.2.2", "SIZE", 20_000, 250),
            ("192.0.2.3", "SIZE 5000", 3000, 250),
            ("192.0.2.3", "SIZE 5000", 20_000, 552),
        ];
        for (ip, size, bytes, code) in table {
            let mut client = client(&host, ip);
            let offered = client.say("EHLO client.test", 250);
            assert!(offered.lines.iter().any(|line| line[4..] == *size), "{ip}: {}", offered.text());
            let reply =
                client.transact("a@far.test", &["bob@mx.test"], &letter("size", bytes)).unwrap().expect(code);
            if code == 552 {
                let text = "552 5.3.4 sorry, that message size exceeds my databytes limit (#5.3.4)";
                assert_eq!(reply.text(), text);
                client.say("RSET", 250);
                client.say(&format!("MAIL FROM:<a@far.test> SIZE={bytes}"), 552);
            }
        }
        host.maildir("bob").wait(3, PATIENCE);
    }

    #[test]
    fn a_value_that_is_no_number_is_named_and_the_control_file_counts() {
        let host = front(":allow,DATABYTES=\"20k\"\n").control("databytes", "5000\n").start();
        let offered = client(&host, "192.0.2.1").say("EHLO client.test", 250);
        assert!(offered.lines.iter().any(|line| line[4..] == *"SIZE 5000"), "{}", offered.text());
        host.wait_log("qmail-smtpd: warning: DATABYTES=\"20k\" for 192.0.2.1: allowed: a whole number");
    }

    #[test]
    fn bad_names_and_bad_senders_are_forgiven_by_rule() {
        let host =
            front("192.0.2.1:allow,NOBADHELO=\"\"\n192.0.2.2:allow,DISABLE_BADMAILFROM=\"\"\n:allow\n")
                .control("badhelo", "client.test\n")
                .control("badmailfrom", "bad@far.test\n")
                .start();
        let helo = "553 sorry, your HELO host name has been denied (#5.7.1)";
        let sender = "553 sorry, your envelope sender is in my badmailfrom list (#5.7.1)";
        for (ip, from, said) in [
            ("192.0.2.1", "good@far.test", "250 ok"),
            ("192.0.2.1", "bad@far.test", sender),
            ("192.0.2.2", "good@far.test", helo),
            ("192.0.2.3", "good@far.test", helo),
        ] {
            assert_eq!(rcpt(&host, ip, from, "bob@mx.test"), said, "{ip} {from}");
        }
        let mut other = client(&host, "192.0.2.2");
        other.say("HELO other.test", 250);
        other.say("MAIL FROM:<bad@far.test>", 250);
        other.say("RCPT TO:<bob@mx.test>", 250);
    }

    #[test]
    fn the_environment_of_the_service_holds_unless_the_rule_says_otherwise() {
        let setup = Setup::new().smtpd(&format!(
            "{PROXIES}, environment: {{\"DATABYTES\": \"3000\", \"RBLSMTPD\": \"all closed\"}}"
        ));
        rules(setup.home(), "192.0.2.1:allow,RBLSMTPD=\"\"\n:allow\n");
        let host = setup.start();
        assert_eq!(rcpt(&host, "192.0.2.2", "a@far.test", "bob@mx.test"), "451 all closed");
        let offered = client(&host, "192.0.2.1").say("EHLO client.test", 250);
        assert!(offered.lines.iter().any(|line| line[4..] == *"SIZE 3000"), "{}", offered.text());
    }

    #[test]
    fn names_set_by_rule_show_in_received() {
        let host =
            front("192.0.2.1:allow,TCPREMOTEHOST=\"named.test\",TCPREMOTEINFO=\"joe\"\n:allow\n").start();
        for (ip, from) in [
            ("192.0.2.1", "Received: from named.test (HELO client.test) (joe@192.0.2.1)"),
            ("192.0.2.2", "Received: from unknown (HELO client.test) (192.0.2.2)"),
            ("2001:db8::7", "Received: from unknown (HELO client.test) (2001:db8::7)"),
        ] {
            let mut client = client(&host, ip);
            client.say("HELO client.test", 250);
            client.transact("a@far.test", &["sender@mx.test"], &letter(ip, 300)).unwrap_or_else(|cause| {
                panic!("{ip}: {cause}");
            });
            let found = |text: &String| text.contains(from) && text.contains("\n  by mx.test with SMTP; ");
            wait_until(from, PATIENCE, || host.maildir("sender").texts().iter().any(found));
        }
    }

    #[test]
    fn a_client_that_talks_before_it_is_greeted_is_refused() {
        let host = front("192.0.2.:allow,SMTPD_GREETDELAY=\"1\"\n:allow\n").start();
        let address = host.address().get();
        let mut hasty = dial_as(address, "192.0.2.1");
        hasty.write_all(b"EHLO client.test\r\n").unwrap();
        let mut hasty = Client::greeted(hasty).unwrap();
        assert_eq!(hasty.greeting.text(), "554 SMTP protocol violation");
        assert!(hasty.closed());
        let pid = pid_of(&host.wait_log("tcpserver: pid * from 192.0.2.1"));
        host.wait_log(&format!("qmail-smtpd: pid {pid} early talker 192.0.2.1"));
        host.wait_log(&format!("tcpserver: end {pid} status 256"));
        let begin = Instant::now();
        let mut patient = client(&host, "192.0.2.2");
        assert!(begin.elapsed() >= Duration::from_secs(1), "no delay");
        assert_eq!(patient.greeting.text(), "220 mx.test ESMTP");
        patient.say("QUIT", 221);
    }

    #[test]
    fn a_stop_does_not_wait_for_a_greeting_delay() {
        let mut host = front(":allow,SMTPD_GREETDELAY=\"60\"\n").start();
        let mut stream = dial_as(host.address().get(), "192.0.2.1");
        host.wait_log("tcpserver: ok *");
        let begin = Instant::now();
        host.stop();
        assert!(begin.elapsed() < Duration::from_secs(8), "the stop took {:?}", begin.elapsed());
        let mut heard = String::new();
        std::io::Read::read_to_string(&mut stream, &mut heard).unwrap_or_default();
        assert!(!heard.contains("250"), "{heard}");
    }
}

mod names {
    use super::*;

    /// Three clients: one whose name is true, one whose name is not, one without.
    fn dns() -> Dns {
        let dns = Dns::start();
        dns.name_of("192.0.2.1", "true.far.test").address_of("true.far.test", "192.0.2.1");
        dns.name_of("192.0.2.2", "false.far.test").address_of("false.far.test", "198.51.100.99");
        dns.name_of("2001:db8::7", "six.far.test").address_of("six.far.test", "2001:db8::7");
        dns
    }

    fn host(reverse_dns: &str, dns: &Dns) -> Host {
        let setup =
            Setup::new().smtpd(&format!("{PROXIES}, reverse_dns: {reverse_dns}")).resolver(dns.address());
        let text = "=true.far.test:allow,RBLSMTPD=\"exact\"\n=.far.test:allow,RBLSMTPD=\"suffix\"\n\
                    =:allow,RBLSMTPD=\"named\"\n:allow\n";
        rules(setup.home(), text);
        setup.start()
    }

    #[test]
    fn rules_for_names_hold_where_names_are_looked_up() {
        let dns = dns();
        dns.name_of("192.0.2.4", "else.where.test");
        let host = host("on", &dns);
        for (ip, said) in [
            ("192.0.2.1", "451 exact"),
            ("192.0.2.2", "451 suffix"),
            ("2001:db8::7", "451 suffix"),
            ("192.0.2.4", "451 named"),
            ("192.0.2.3", "250 ok"),
        ] {
            assert_eq!(rcpt(&host, ip, "a@far.test", "bob@mx.test"), said, "{ip}");
        }
        host.wait_log(&format!("tcpserver: ok * mx.test:198.51.100.25:25 true.far.test:192.0.2.1::{PORT}"));
        host.wait_log(&format!("tcpserver: ok * mx.test:198.51.100.25:25 :192.0.2.3::{PORT}"));
    }

    #[test]
    fn paranoid_believes_a_name_only_if_it_leads_back() {
        let dns = dns();
        dns.name_of("192.0.2.5", "failing.far.test").fail("failing.far.test");
        let host = host("paranoid", &dns);
        for (ip, said) in [
            ("192.0.2.1", "451 exact"),
            ("192.0.2.2", "250 ok"),
            ("2001:db8::7", "451 suffix"),
            ("192.0.2.5", "250 ok"),
        ] {
            assert_eq!(rcpt(&host, ip, "a@far.test", "bob@mx.test"), said, "{ip}");
        }
        host.wait_log(&format!("tcpserver: ok * mx.test:198.51.100.25:25 :192.0.2.2::{PORT}"));
    }

    #[test]
    fn off_asks_nobody() {
        let dns = dns();
        let host = host("off", &dns);
        assert_eq!(rcpt(&host, "192.0.2.1", "a@far.test", "bob@mx.test"), "250 ok");
        assert_eq!(dns.asked("1.2.0.192.in-addr.arpa", "PTR"), 0);
    }

    #[test]
    fn a_name_that_is_no_name_harms_nothing() {
        let dns = Dns::start();
        dns.name_of("192.0.2.1", "a b%c:d\n.far.test");
        let host = host("on", &dns);
        rcpt(&host, "192.0.2.1", "a@far.test", "bob@mx.test");
        let line = host.wait_log("tcpserver: ok *");
        assert_eq!(line.split(' ').count(), 5, "{line}");
        assert!(!line.contains('%'), "{line}");
    }

    #[test]
    fn a_name_server_that_is_silent_delays_and_does_not_refuse() {
        let dns = Dns::start();
        dns.hold();
        let setup = Setup::new()
            .smtpd(&format!("{PROXIES}, reverse_dns: on"))
            .field("resolver", format!("(servers: [\"{}\"], deadline: \"1s\")", dns.address()));
        let host = setup.start();
        assert_eq!(client(&host, "192.0.2.1").greeting.code, 220);
        assert!(dns.asked("1.2.0.192.in-addr.arpa", "PTR") > 0);
    }
}

mod behind_a_proxy {
    use super::*;

    const NO_ROOM: &str = "421 4.7.0 too many connections, try again later";

    #[test]
    fn both_versions_and_both_families_say_who_the_client_is() {
        let host = front(":allow\n").start();
        for (ip, to) in [("192.0.2.1", "198.51.100.25"), ("2001:db8::7", "2001:db8:25::25")] {
            for header in [v1(ip), v2(ip)] {
                let mut client = Client::greeted(dial_with(host.address().get(), &header)).unwrap();
                client.say("QUIT", 221);
            }
            let ok = |line: &String| {
                line.starts_with("tcpserver: ok ")
                    && line.ends_with(&format!(" mx.test:{to}:25 :{ip}::{PORT}"))
            };
            wait_until(ip, PATIENCE, || host.log_lines().iter().filter(|line| ok(line)).count() == 2);
        }
    }

    #[test]
    fn a_header_in_single_bytes_is_understood() {
        let host = front("192.0.2.1:allow,RBLSMTPD=\"found\"\n:allow\n").start();
        for header in [v1("192.0.2.1"), v2("192.0.2.1")] {
            let mut stream = dial(host.address().get()).unwrap();
            for byte in header {
                stream.write_all(&[byte]).unwrap();
            }
            let client = Client::greeted(stream).unwrap();
            assert_eq!(client.greeting.text(), "220 rblsmtpd.local");
        }
    }

    #[test]
    fn a_proxy_that_speaks_for_itself_is_itself() {
        let host = front("127.0.0.1:allow,RBLSMTPD=\"the proxy\"\n:allow\n").start();
        let local = [MAGIC, &[0x20, 0, 0, 0]].concat();
        for header in [local.as_slice(), b"PROXY UNKNOWN\r\n"] {
            let client = Client::greeted(dial_with(host.address().get(), header)).unwrap();
            assert_eq!(client.greeting.text(), "220 rblsmtpd.local");
        }
    }

    #[test]
    fn a_client_with_the_address_of_a_proxy_is_served() {
        let host = Setup::new().smtpd("proxies: [\"127.0.0.1\", \"192.0.2.0/24\"]").start();
        assert_eq!(client(&host, "192.0.2.1").greeting.text(), "220 mx.test ESMTP");
    }

    #[test]
    fn one_client_gets_its_share_whatever_brings_it() {
        let setup = Setup::new().smtpd(&format!("{PROXIES}, per_ip: 2"));
        rules(setup.home(), ":allow\n");
        let host = setup.start();
        let hear = |ip: &str| {
            let client = client(&host, ip);
            let text = client.greeting.text();
            (client, text)
        };
        let (first, _) = hear("192.0.2.1");
        let (_second, _) = hear("192.0.2.1");
        assert_eq!(hear("192.0.2.1").1, NO_ROOM);
        assert_eq!(hear("192.0.2.2").1, "220 mx.test ESMTP");
        host.wait_log("tcpserver: warning: dropping connection, too many from 192.0.2.1");
        drop(first);
        wait_until("the place to be free", PATIENCE, || hear("192.0.2.1").1.starts_with("220 "));
        // A client of IPv6 has a /64.
        let _third = hear("2001:db8::1");
        let _fourth = hear("2001:db8::ffff:1");
        assert_eq!(hear("2001:db8::2").1, NO_ROOM);
        assert_eq!(hear("2001:db8:0:1::2").1, "220 mx.test ESMTP");
        let refused = host.metrics().sum("mailtree_smtpd_connections_total", &["verdict=\"per-ip\""]);
        assert!(refused >= 2.0, "{refused}");
    }

    #[test]
    fn one_address_gets_its_share_without_a_proxy() {
        let host = Setup::new().smtpd("per_ip: 2, unlimited: [\"127.0.0.3\"]").start();
        let address = host.address().get();
        let hear = |ip: &str| Client::greeted(dial_from(ip, address).unwrap()).unwrap();
        let _held = [hear("127.0.0.2"), hear("127.0.0.2")];
        let mut third = hear("127.0.0.2");
        assert_eq!(third.greeting.text(), NO_ROOM);
        assert!(third.closed());
        assert_eq!(hear("127.0.0.4").greeting.code, 220);
        let many: Vec<Client> = (0..5).map(|_| hear("127.0.0.3")).collect();
        assert!(many.iter().all(|client| client.greeting.code == 220));
    }

    #[test]
    fn who_is_no_proxy_says_for_nobody_else() {
        let host = front("192.0.2.1:allow,RELAYCLIENT=\"\"\n127.:allow\n:allow\n").start();
        let mut client = Client::greeted(dial_from("127.0.0.2", host.address().get()).unwrap()).unwrap();
        client.say("PROXY TCP4 192.0.2.1 198.51.100.25 40000 25", 502);
        client.say("HELO client.test", 250);
        client.say("MAIL FROM:<a@far.test>", 250);
        assert_eq!(client.command("RCPT TO:<x@far.test>").unwrap().text(), NO_RELAY);
        let line = host.wait_log("tcpserver: ok *");
        assert!(line.contains(" :127.0.0.2::"), "{line}");
        assert!(!host.log().contains("192.0.2.1"));
    }

    #[test]
    fn what_is_no_header_is_dropped_without_a_word() {
        let host = front(":allow\n").start();
        let long_v2 = [MAGIC, &[0x21, 0x11, 0xff, 0xff], &[b'x'; 4000]].concat();
        let torn_v2 = [MAGIC, &[0x21, 0x11, 0, 4], b"\x01\x02\x03\x04EHLO a\r\n"].concat();
        let garbage: [&[u8]; 12] = [
            b"EHLO client.test\r\n",
            b"PROXX TCP4 1.2.3.4 5.6.7.8 1 2\r\n",
            b"PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n",
            b"PROXY TCP4 1.2.3.4 5.6.7.8 1 99999\r\n",
            b"PROXY TCP4 ::1 ::2 1 2\r\n",
            b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n",
            b"PROXY TCP4 1.2.3.999 5.6.7.8 1 2\r\n",
            b"\0\0\0\0",
            &[b'\r'; 100],
            &[&b"PROXY TCP4 "[..], &[b'1'; 4000]].concat(),
            &long_v2,
            &torn_v2,
        ];
        for bytes in garbage {
            let mut stream = dial_with(host.address().get(), bytes);
            let shown = bytes[..bytes.len().min(40)].escape_ascii();
            let heard = read_all(&mut stream);
            assert!(heard.is_empty(), "{shown}: {:?}", String::from_utf8_lossy(&heard));
        }
        host.wait_log("tcpserver: warning: dropping connection, 127.0.0.1:* sent no PROXY header: *");
        wait_until("all to end", PATIENCE, || host.log().matches("tcpserver: end ").count() == garbage.len());
        assert_eq!(client(&host, "192.0.2.1").greeting.code, 220);
    }

    /// What comes until the end, in whatever way the end comes.
    fn read_all(stream: &mut TcpStream) -> Vec<u8> {
        let (mut heard, mut buffer) = (Vec::new(), [0; 1024]);
        while let Ok(read @ 1..) = std::io::Read::read(stream, &mut buffer) {
            heard.extend_from_slice(&buffer[..read]);
        }
        heard
    }

    #[test]
    fn a_proxy_that_does_not_come_to_the_point_is_dropped() {
        let host = front(":allow\n").start();
        let begin = Instant::now();
        let beginnings: [&[u8]; 4] = [b"", b"P", &v1("192.0.2.1")[..20], &v2("192.0.2.1")[..20]];
        let mut hanging: Vec<TcpStream> =
            beginnings.iter().map(|bytes| dial_with(host.address().get(), bytes)).collect();
        // Meanwhile others are served.
        assert_eq!(client(&host, "192.0.2.1").greeting.code, 220);
        for stream in &mut hanging {
            assert_eq!(read_all(stream), b"");
        }
        assert!(begin.elapsed() < Duration::from_secs(15), "{:?}", begin.elapsed());
        wait_until("all to end", PATIENCE, || host.log().matches("tcpserver: end ").count() == 5);
    }

    #[test]
    fn what_the_client_says_right_behind_the_header_is_not_lost() {
        let setup = Setup::new().smtpd(PROXIES);
        rules(setup.home(), "192.0.2.1:allow,RBLSMTPD=\"no\"\n:allow\n");
        let host = setup.start();
        // In the limited conversation early talk is answered, not punished.
        let header = [v2("192.0.2.1"), b"NOOP\r\nQUIT\r\n".to_vec()].concat();
        let heard = read_all(&mut dial_with(host.address().get(), &header));
        assert_eq!(
            String::from_utf8_lossy(&heard),
            "220 rblsmtpd.local\r\n250 rblsmtpd.local\r\n221 rblsmtpd.local\r\n"
        );
    }

    #[test]
    fn an_address_of_ipv4_in_ipv6_clothes_is_one_of_ipv4() {
        let host = front("192.0.2.1:allow,RBLSMTPD=\"found\"\n:allow\n").start();
        let client = client(&host, "::ffff:192.0.2.1");
        assert_eq!(client.greeting.text(), "220 rblsmtpd.local");
        let line = host.wait_log("tcpserver: ok *");
        assert!(like("tcpserver: ok * :192.0.2.1::40000", &line), "{line}");
    }
}

#[test]
fn the_door_stays_open_while_rules_change_all_the_time() {
    let host = front(":allow\n").start();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut n = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                rules(host.home(), &format!("192.0.2.1:allow,N=\"{n}\"\n:allow\n"));
                n += 1;
            }
        });
        holds_for("every client is greeted", Duration::from_secs(2), || {
            client(&host, "192.0.2.1").greeting.code == 220
        });
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}
