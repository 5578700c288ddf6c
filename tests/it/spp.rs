//! qmail-spp: plugins of `control/smtpplugins`, programs that look at each command of a client; and `hide_client`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use mailtree_tests::dialogue::Dialogue;
use mailtree_tests::host::{Host, PATIENCE, Setup, is_running};
use mailtree_tests::smtp::like;
use mailtree_tests::wait::{wait_for, wait_until};
use rustix::process::Signal;

const SECRET: &str = "secret-of-the-test";

/// A home with these plugins, whose clients may not relay. `@` in front of a slash is the directory of the home.
fn with(plugins: &str) -> Setup {
    let setup = Setup::new();
    let plugins = plugins.replace("@/", &format!("{}/", setup.home().display()));
    setup.rules(":allow\n").control("smtpplugins", &plugins)
}

/// Adds the plugin `plugins/NAME`, a shell script.
fn script(setup: Setup, name: &str, text: &str) -> Setup {
    let dir = setup.home().join("plugins");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join(name), format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    setup
}

fn read(host: &Host, name: &str) -> String {
    fs::read_to_string(host.home().join(name)).unwrap_or_default()
}

#[test]
fn each_section_is_asked_in_its_turn_and_knows_the_session() {
    let plugins = "\
[connection]
:plugins/note connection
[helo]
:plugins/note helo
[mail]
:plugins/note mail
[rcpt]
:plugins/note rcpt
[data]
:plugins/note data
[quit]
:plugins/note quit
";
    let note = "echo \"$1 $TCPREMOTEIP helo=$SMTPHELOHOST from=$SMTPMAILFROM to=$SMTPRCPTTO \
                n=$SMTPRCPTCOUNT/$SMTPRCPTCOUNTALL ok=$SMTPRCPTHOSTSOK\" >>noted";
    let host = script(with(plugins), "note", note).start();
    host.play(
        "
        S: 220 mx.test ESMTP
        C: HELO client.test
        S: 250 mx.test
        C: MAIL FROM:<a@far.test>
        S: 250 ok
        C: RCPT TO:<bob@mx.test>
        S: 250 ok
        C: RCPT TO:<x@far.test>
        S: 553 sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)
        C: RCPT TO:<sender@mx.test>
        S: 250 ok
        C: DATA
        S: 354 go ahead
        C: .
        S: 250 ok * qp *
        C: QUIT
        S: 221 mx.test
        S: (closes)",
    );
    let noted = read(&host, "noted");
    let expected = [
        "connection 127.0.0.1 helo= from= to= n=/ ok=",
        "helo 127.0.0.1 helo=client.test from= to= n=/ ok=",
        "mail 127.0.0.1 helo=client.test from=a@far.test to= n=0/0 ok=",
        "rcpt 127.0.0.1 helo=client.test from=a@far.test to=bob@mx.test n=0/1 ok=1",
        "rcpt 127.0.0.1 helo=client.test from=a@far.test to=x@far.test n=1/2 ok=0",
        "rcpt 127.0.0.1 helo=client.test from=a@far.test to=sender@mx.test n=1/3 ok=1",
        "data 127.0.0.1 helo=client.test from=a@far.test to=sender@mx.test n=2/3 ok=1",
        "quit 127.0.0.1 helo=client.test from= to=sender@mx.test n=/ ok=1",
    ];
    assert_eq!(noted.lines().collect::<Vec<_>>(), expected);
    let metrics = host.metrics();
    assert_eq!(metrics.sum("mailtree_spp_plugin_runs_total", &["section=\"rcpt\"", "result=\"ok\""]), 3.0);
}

#[test]
fn a_plugin_refuses_a_command_in_its_own_words() {
    let host = with(
        "[helo]\n:case $SMTPHELOHOST in bad*) echo 'E550 no such name';; esac\n\
         [mail]\n:case $SMTPMAILFROM in spam@*) echo 'E550 5.7.1 go away';; esac\n\
         [rcpt]\n:case $SMTPRCPTTO in grey@*) echo 'E451 GL - temporary problem. Try again later (#4.3.0)';; esac\n\
         [data]\n:test $SMTPRCPTCOUNT = 1 || echo 'E554 one at a time'\n",
    )
    .start();
    host.play(
        "
        S: 220 mx.test ESMTP
        C: HELO bad.test
        S: 550 no such name
        C: EHLO client.test
        S: 250-mx.test
        S: 250-PIPELINING
        S: 250-8BITMIME
        S: 250-SIZE*
        S: 250-ENHANCEDSTATUSCODES
        S: 250-STARTTLS
        S: 250 SMTPUTF8
        C: EHLO bad.test
        S: 550 5.7.1 no such name
        C: MAIL FROM:<spam@far.test>
        S: 550 5.7.1 go away
        C: MAIL FROM:<ham@far.test>
        S: 250 2.1.0 ok
        C: RCPT TO:<grey@mx.test>
        S: 451 4.3.0 GL - temporary problem. Try again later (#4.3.0)
        C: RCPT TO:<bob@mx.test>
        S: 250 2.1.5 ok
        C: RCPT TO:<sender@mx.test>
        S: 250 2.1.5 ok
        C: DATA
        S: 554 5.7.1 one at a time
        C: MAIL FROM:<ham@far.test>
        S: 250 2.1.0 ok
        C: RCPT TO:<bob@mx.test>
        S: 250 2.1.5 ok
        C: DATA
        S: 354 go ahead
        C: .
        S: 250 2.0.0 ok * qp *",
    );
    host.wait_log("qmail-smtpd: pid * spp helo *:case* refuses 127.0.0.1: 550 no such name");
    assert_eq!(host.maildir("bob").wait(1, PATIENCE).len(), 1);
}

#[test]
fn a_client_is_turned_away_before_the_greeting() {
    for (plugin, transcript) in [
        (":echo 'E554 nobody here'", "S: 554 nobody here\nS: (closes)"),
        (":echo 'R421 later'", "S: 421 4.7.1 later\nS: (closes)"),
        (":echo D", "S: (closes)"),
        (":exit 120", "S: 421 4.3.0 qmail-spp failure (#4.3.0)\nS: (closes)"),
        (":echo 'Pwelcome'", "S: 220-welcome\nS: 220 mx.test ESMTP"),
    ] {
        with(&format!("[connection]\n{plugin}\n")).start().play(transcript);
    }
}

#[test]
fn r_and_d_end_the_connection() {
    let host = with(
        "[mail]\n:case $SMTPMAILFROM in r@*) echo 'R550 go away';; d@*) echo D;; esac\n\
         [rcpt]\n:case $SMTPRCPTTO in r@*) echo 'R550 go away';; d@*) echo D;; esac\n",
    )
    .start();
    for address in ["r@far.test", "d@far.test"] {
        let said = if address.starts_with('r') { "S: 550 go away\n" } else { "" };
        host.play(&format!("S: 220 *\nC: MAIL FROM:<{address}>\n{said}S: (closes)"));
        host.play(&format!(
            "S: 220 *\nC: MAIL FROM:<a@far.test>\nS: 250 ok\nC: RCPT TO:<{address}>\n{said}S: (closes)"
        ));
    }
    // What was said before is answered before.
    let mut client = host.smtp();
    client.send(b"NOOP\r\nMAIL FROM:<d@far.test>\r\nNOOP\r\n").unwrap();
    assert_eq!(client.rest().unwrap(), "250 ok\r\n");
}

#[test]
fn n_ends_the_section_and_a_ends_the_plugins_of_the_session() {
    let host = with(
        "[mail]\n:test $SMTPMAILFROM = n@far.test && echo N\n:test $SMTPMAILFROM = a@far.test && echo A\n\
         :echo 'E550 second'\n[rcpt]\n:echo 'E550 third'\n",
    )
    .start();
    host.play(
        "
        S: 220 mx.test ESMTP
        C: MAIL FROM:<x@far.test>
        S: 550 second
        C: MAIL FROM:<n@far.test>
        S: 250 ok
        C: RCPT TO:<bob@mx.test>
        S: 550 third
        C: RSET
        S: 250 flushed
        C: MAIL FROM:<a@far.test>
        S: 250 ok
        C: RCPT TO:<bob@mx.test>
        S: 250 ok
        C: RCPT TO:<x@far.test>
        S: 553 *rcpthosts*
        C: RSET
        S: 250 flushed
        C: MAIL FROM:<x@far.test>
        S: 250 ok",
    );
    // The next session has them again.
    host.play("S: 220 *\nC: MAIL FROM:<x@far.test>\nS: 550 second");
}

#[test]
fn o_leaves_out_what_the_host_would_look_at() {
    let host = with("[mail]\n:echo O\n[rcpt]\n:case $SMTPRCPTTO in o*) echo O;; esac\n")
        .control("badmailfrom", "bad@far.test\n")
        .control("badrcptto", "o-bob@mx.test\nbob@mx.test\n")
        .start();
    host.play(
        "
        S: 220 mx.test ESMTP
        C: MAIL FROM:<bad@far.test>
        S: 250 ok
        C: RCPT TO:<bob@mx.test>
        S: 553 sorry, your envelope recipient has been denied (#5.7.1)
        C: RCPT TO:<o-bob@mx.test>
        S: 250 ok
        C: RCPT TO:<o@elsewhere.test>
        S: 250 ok",
    );
}

#[test]
fn an_answer_may_come_later() {
    let host =
        with("[connection]\n:echo 'LD451 wait for it'\n[mail]\n:echo 'LR550 not to anybody'\n").start();
    host.play(
        "
        S: 220 mx.test ESMTP
        C: MAIL FROM:<a@far.test>
        S: 250 ok
        C: RCPT TO:<bob@mx.test>
        S: 550 not to anybody
        C: RCPT TO:<sender@mx.test>
        S: 550 not to anybody",
    );
    let host =
        with("[connection]\n:echo 'LD451 wait for it'\n[helo]\n:echo 'LM550 not with this name'; echo A\n")
            .start();
    host.play(
        "
        S: 220 mx.test ESMTP
        C: MAIL FROM:<a@far.test>
        S: 250 ok
        C: RCPT TO:<bob@mx.test>
        S: 250 ok
        C: DATA
        S: 451 wait for it
        C: HELO client.test
        S: 250 mx.test
        C: MAIL FROM:<a@far.test>
        S: 550 not with this name",
    );
}

#[test]
fn variables_reach_later_plugins_the_queue_program_and_the_policy() {
    let host = script(
        with(
            "[connection]\n:echo SDATABYTES=1234; echo SCOLOUR=red; echo SGONE=1\n\
             [mail]\n:test \"$COLOUR$GONE\" = red1 && echo SRELAYCLIENT= && echo UGONE\n\
             [rcpt]\n:test -z \"$GONE\" || echo 'E550 still there'\n\
             [data]\n:echo SQMAILQUEUE=@/plugins/qq\n",
        ),
        "qq",
        "cat >/dev/null; echo $COLOUR $SMTPMAILFROM ${RELAYCLIENT-none} >${0%/*}/../noted",
    )
    .start();
    host.play(
        "
        S: 220 mx.test ESMTP
        C: MAIL FROM:<a@far.test> SIZE=2000
        S: 552 sorry, that message size exceeds my databytes limit (#5.3.4)
        C: MAIL FROM:<a@far.test>
        S: 250 ok
        C: RCPT TO:<x@elsewhere.test>
        S: 250 ok
        C: DATA
        S: 354 go ahead
        C: .
        S: 250 ok *",
    );
    assert_eq!(read(&host, "noted"), "red a@far.test\n");
}

#[test]
fn header_fields_reach_the_maildir_and_a_recipient_is_another() {
    let host = with(
        "[connection]\n:echo 'HX-Connection: seen'\n\
         [mail]\n:test $SMTPMAILFROM = list@far.test && echo Clist-bounces@far.test\n\
         :echo \"HX-Sender: $SMTPMAILFROM\"\n\
         [rcpt]\n:case $SMTPRCPTTO in spam@*) echo Cbob@mx.test; echo 'HX-Spam: yes,'; printf 'H\\tvery\\n';; esac\n\
         :test $SMTPRCPTTO = bob@mx.test || echo 'E550 only bob'\n",
    )
    .start();
    host.play(
        "
        S: 220 mx.test ESMTP
        C: HELO client.test
        S: 250 mx.test
        C: MAIL FROM:<list@far.test>
        S: 250 ok
        C: RCPT TO:<spam@mx.test>
        S: 250 ok
        C: DATA
        S: 354 go ahead
        C: Subject: x
        C:
        C: x
        C: .
        S: 250 ok *
        C: MAIL FROM:<a@far.test>
        S: 250 ok
        C: RCPT TO:<bob@mx.test>
        S: 250 ok
        C: DATA
        S: 354 go ahead
        C: Subject: y
        C:
        C: y
        C: .
        S: 250 ok *",
    );
    let texts = host.maildir("bob").wait(2, PATIENCE);
    let pattern = "Return-Path: <list-bounces@far.test>\nDelivered-To: bob@mx.test\nReceived: *\nReceived: *\n  by *\n\
                   X-Connection: seen\nX-Sender: list-bounces@far.test\nX-Spam: yes,\n\tvery\nSubject: x\n\nx\n";
    let found = |pattern: &str| texts.iter().any(|text| like(pattern, text));
    assert!(found(pattern), "{texts:#?}");
    let second =
        "Return-Path: <a@far.test>\n*  by *\nX-Connection: seen\nX-Sender: a@far.test\nSubject: y\n\ny\n";
    assert!(found(second) && texts.iter().filter(|text| text.contains("X-Spam")).count() == 1, "{texts:#?}");
}

#[test]
fn a_recipient_is_not_changed_past_rcpthosts() {
    let host = with("[rcpt]\n:echo Cx@elsewhere.test\n").start();
    host.play("S: 220 *\nC: MAIL FROM:<a@far.test>\nS: 250 ok\nC: RCPT TO:<bob@mx.test>\nS: 553 *rcpthosts*");
}

#[test]
fn lines_for_the_client_are_part_of_the_answer() {
    let host =
        with("[mail]\n:echo 'P250 hello'; echo P550-there\n[rcpt]\n:echo Pwhy; echo 'E550 no'\n").start();
    host.play(
        "
        S: 220 mx.test ESMTP
        C: MAIL FROM:<a@far.test>
        S: 250-hello
        S: 250-there
        S: 250 ok
        C: RCPT TO:<bob@mx.test>
        S: 550-why
        S: 550 no",
    );
}

#[test]
fn a_plugin_that_fails_costs_451_and_a_line_of_the_log() {
    for (plugin, cause) in [
        ("plugins/missing", "can't execute"),
        (":exec /nonexistent/plugin", "can't execute"),
        (":exit 120", "can't execute"),
        (":echo A; kill -9 $$", "crashed"),
        (":exec yes", "more than 16384 bytes of output"),
        (":echo hello", "line 1: `hello` is not allowed; allowed: *"),
        (":echo 'E250 ok'", "line 1: `E250 ok` is not allowed; allowed: 400 to 599*"),
        (":echo A; exec sleep 1000", "/bin/sh did not end within 1s"),
    ] {
        let plugins = format!("[mail]\n:echo SCOLOUR=red\n{plugin}\n[helo]\n{plugin}\n");
        let host = with(&plugins).field("programs", "(deadline: \"1s\")").start();
        let begin = Instant::now();
        host.play(
            "
            S: 220 mx.test ESMTP
            C: HELO client.test
            S: 451 qmail-spp failure (#4.3.0)
            C: MAIL FROM:<a@far.test>
            S: 451 qmail-spp failure (#4.3.0)
            C: NOOP
            S: 250 ok",
        );
        assert!(begin.elapsed() < Duration::from_secs(8), "{plugin}");
        host.wait_log(&format!("qmail-smtpd: warning: pid * spp mail {plugin}: {cause}"));
        assert_eq!(host.metrics().sum("mailtree_permits_in_use", &["permit=\"programs\""]), 0.0);
    }
}

#[test]
fn plugins_are_run_under_the_permits_of_programs_and_hold_nobody_else() {
    let host = with("[mail]\n:case $SMTPMAILFROM in slow@*) touch begun; sleep 4;; esac\n")
        .field("programs", "(at_once: 1)")
        .start();
    let mut slow = host.smtp();
    let slow = std::thread::spawn(move || slow.command("MAIL FROM:<slow@far.test>").unwrap().code);
    mailtree_tests::wait::wait_until("the plugin to run", PATIENCE, || host.home().join("begun").exists());
    host.play("S: 220 *\nC: NOOP\nS: 250 ok\nC: MAIL FROM:<a@far.test>\nS: 451 qmail-spp failure (#4.3.0)");
    host.wait_log("qmail-smtpd: warning: pid * spp mail *: too many programs run");
    assert_eq!(slow.join().unwrap(), 250);
    host.play("S: 220 *\nC: MAIL FROM:<a@far.test>\nS: 250 ok");
}

#[test]
fn a_stop_ends_a_plugin_that_hangs_with_all_it_has_started() {
    // Neither listens to TERM, and one is a process that the plugin has started.
    let hang =
        "trap '' TERM\n(trap '' TERM; sleep 1000) & echo $! $$ >pids.new; mv pids.new pids; wait; sleep 1000";
    let mut host = script(with("[mail]\n:plugins/hang\n"), "hang", hang).field("grace", "\"3s\"").start();
    let mut client = host.smtp();
    client.say("HELO client.test", 250);
    client.send(b"MAIL FROM:<a@far.test>\r\n").unwrap();
    let pids = wait_for("the plugin", PATIENCE, || {
        let pids = read(&host, "pids");
        let pids: Vec<u32> = pids.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
        (pids.len() == 2).then_some(pids)
    });
    assert!(pids.iter().all(|pid| is_running(*pid)), "{pids:?}");
    let start = Instant::now();
    host.signal(Signal::TERM);
    host.wait_exit(PATIENCE);
    assert!(start.elapsed() < Duration::from_secs(6), "the stop took {:?}", start.elapsed());
    wait_until("the end of the plugin and its child", Duration::from_secs(5), || {
        !pids.iter().any(|pid| is_running(*pid))
    });
}

#[test]
fn nospp_and_another_file() {
    let setup = with("[mail]\n:echo 'E550 smtpplugins'\n");
    fs::write(setup.home().join("control/other"), "[mail]\n:echo 'E550 other'\n").unwrap();
    fs::write(setup.home().join("control/bad"), "[male]\n").unwrap();
    let host = setup
        .smtpd("proxies: [\"127.0.0.1\"]")
        .rules(
            "192.0.2.1:allow,NOSPP=\"\"\n192.0.2.2:allow,SPPCONFFILE=\"control/other\"\n\
             192.0.2.3:allow,SPPCONFFILE=\"control/bad\"\n192.0.2.4:allow,SPPCONFFILE=\"control/none\"\n:allow\n",
        )
        .start();
    let client = |ip| Dialogue::proxied(host.address().get(), ip, 25).unwrap();
    client("192.0.2.1").say("MAIL FROM:<a@far.test>", 250);
    assert_eq!(client("192.0.2.2").say("MAIL FROM:<a@far.test>", 550).text(), "550 other");
    assert_eq!(client("192.0.2.5").say("MAIL FROM:<a@far.test>", 550).text(), "550 smtpplugins");
    for ip in ["192.0.2.3", "192.0.2.4"] {
        assert_eq!(client(ip).greeting.text(), "421 4.3.0 unable to read controls (#4.3.0)");
    }
    host.wait_log("alert: unable to read controls: *control/bad:1: `[male]` is not allowed*");
}

#[test]
fn a_bad_file_is_named_with_its_line_and_lets_nobody_in() {
    let setup = with("# plugins\n[mail]\nplugins/x\n[rctp]\nplugins/y\n");
    setup.write();
    let check = setup.run(&["check"]);
    let said = format!("{}{}", check.stdout, check.stderr);
    assert!(like("*control/smtpplugins:4: `[rctp]` is not allowed; allowed: [connection]*", &said), "{said}");
    assert_ne!(check.code, Some(0));
}

#[test]
fn explain_names_the_plugins_that_would_run() {
    let setup =
        script(with("[rcpt]\nplugins/there\nplugins/gone\n[helo]\n:echo N\n"), "there", "").rules(":allow\n");
    let answer = setup.run(&["explain", "ip", "192.0.2.1"]).expect(0).stdout;
    assert!(
        like(
            "*\nplugins *helo: :echo N\nplugins *rcpt: plugins/there; plugins/gone, which is not there: 451\n*",
            &answer
        ),
        "{answer}"
    );
}

fn authenticated(host: &Host) -> Dialogue {
    let mut client = Dialogue::proxied(host.address().get(), "192.0.2.1", 25).unwrap();
    client.say("EHLO laptop.secret.test", 250);
    client
}

#[test]
fn auth_is_a_section() {
    let plugin = "[auth]\n:echo \"$SMTPAUTHUSER $SMTPAUTHMETHOD\" >>noted; \
                  test $SMTPAUTHUSER = bob@mx.test || echo 'E535 not you'\n";
    let host = with(plugin)
        .smtpd("proxies: [\"127.0.0.1\"], auth_in_clear: true, environment: {\"SMTPAUTH\": \"\"}")
        .rules(":allow\n")
        .start();
    let mut client = authenticated(&host);
    assert_eq!(client.auth_plain("sender@mx.test", SECRET).unwrap().text(), "535 5.7.1 not you");
    assert_eq!(client.relay_code(), 553);
    client.auth_plain("bob@mx.test", "wrong").unwrap().expect(535);
    client.auth_plain("bob@mx.test", SECRET).unwrap().expect(235);
    assert_eq!(client.relay_code(), 250);
    assert_eq!(read(&host, "noted"), "sender@mx.test PLAIN\nbob@mx.test PLAIN\n");
}

#[test]
fn hide_client_leaves_address_and_names_of_an_authenticated_client_out() {
    let fields =
        "proxies: [\"127.0.0.1\"], auth_in_clear: true, environment: {\"SMTPAUTH\": \"\"}, hide_client: true";
    let host = Setup::new().smtpd(fields).rules(":allow,TCPREMOTEHOST=\"home.secret.test\"\n").start();
    let mut client = authenticated(&host);
    client.auth_plain("sender@mx.test", SECRET).unwrap().expect(235);
    client.deliver("sender@mx.test", "bob@mx.test", "Subject: hidden\n\nx\n");
    let text = host.maildir("bob").wait(1, PATIENCE).remove(0);
    let trace = "*\nReceived: from unknown (HELO localhost) (sender@mx.test)\n  by mx.test with ESMTPA; * -0000\nSubject: hidden\n*";
    assert!(like(trace, &text), "{text}");
    assert!(!text.contains("secret.test") && !text.contains("192.0.2.1"), "{text}");
    // Whoever has not shown who he is stays named.
    authenticated(&host).deliver("a@far.test", "sender@mx.test", "Subject: named\n\nx\n");
    let text = host.maildir("sender").wait(1, PATIENCE).remove(0);
    assert!(
        like("*Received: from home.secret.test (HELO laptop.secret.test) (192.0.2.1)\n*", &text),
        "{text}"
    );
}

mod needs_openssl {
    use super::*;

    #[test]
    fn starttls_forgets_what_plugins_were_told_in_clear() {
        let host = with(
            "[connection]\n:echo SFIRST=1\n\
             [helo]\n:test $SMTPHELOHOST = clear.test && echo SRELAYCLIENT= && echo 'LM550 clear' && echo A\n\
             [mail]\n:echo \"$FIRST ${RELAYCLIENT-none}\" >noted\n",
        )
        .start();
        let mut client = host.smtp();
        client.say("HELO clear.test", 250);
        client.say("MAIL FROM:<a@far.test>", 550);
        // openssl says EHLO with a name of its own, then STARTTLS.
        let mut client = Dialogue::starttls(host.address().get(), &["-name", "clear.test"])
            .unwrap_or_else(|cause| panic!("{cause}"));
        client.say("EHLO client.test", 250);
        client.say("MAIL FROM:<a@far.test>", 250);
        client.say("RCPT TO:<x@elsewhere.test>", 553);
        assert_eq!(read(&host, "noted"), "1 none\n");
    }
}
