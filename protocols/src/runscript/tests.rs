//! Run scripts as hosts have them.

use proptest::prelude::*;

use super::*;

fn answer(question: &Question) -> Option<String> {
    Some(
        match question {
            Question::Cat(file) if file == "/var/qmail/control/concurrencyincoming" => "30\n",
            Question::Cat(file) if file == "/var/qmail/control/blacklists" => {
                "-r zen.spamhaus.org -r bl.spamcop.net\n"
            }
            Question::FirstLine(file) if file == "/var/qmail/control/me" => "mail.example.org",
            Question::Uid(name) if name == "vpopmail" => "89",
            Question::Gid(name) if name == "vpopmail" => "89",
            Question::Home(name) if name == "vpopmail" => "/home/vpopmail",
            Question::Hostname => "mail.example.org",
            _ => return None,
        }
        .to_owned(),
    )
}

fn read(text: &str) -> RunScript {
    parse(text.as_bytes(), &answer).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The chain as `PROGRAM(ARGUMENTS)` in a row.
fn shown(script: &RunScript) -> String {
    let texts = |words: &[Word]| words.iter().map(|word| word.text.as_str()).collect::<Vec<_>>().join(" ");
    let options = |options: &Options| {
        let one = |(letter, value): (char, Option<&Word>)| {
            format!("-{letter}{}", value.map_or_else(String::new, |value| format!(" {}", value.text)))
        };
        options.iter().map(one).collect::<Vec<_>>().join(" ")
    };
    let program = |program: &Program| {
        let inner = match &program.kind {
            Kind::Env { clear, set } => {
                let set: Vec<_> = set.iter().map(|(name, value)| format!("{name}={}", value.text)).collect();
                format!("{}{}", if *clear { "- " } else { "" }, set.join(" "))
            }
            Kind::Softlimit(own) | Kind::Rblsmtpd(own) => options(own),
            Kind::Account(word) | Kind::Envdir(word) => word.text.clone(),
            Kind::Tcpserver(own) | Kind::Sslserver(own) => {
                format!("{} {} {}", options(&own.options), own.host.text, own.port.text)
            }
            Kind::QmailSmtpd { host, checkpassword } => {
                format!("{}; {}", host.clone().unwrap_or_default().text, texts(checkpassword))
            }
            Kind::QmailPopup(words)
            | Kind::QmailStart(words)
            | Kind::Multilog(words)
            | Kind::Stunnel(words)
            | Kind::Other(words) => texts(words),
        };
        format!("{}({inner})", program.path.base())
    };
    script.chain.iter().map(program).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_script_with_everything_in_variables() {
    let script = read(
        "#!/bin/sh\n\
         MAILHOSTNAME=`hostname` # Set the hostname for mail service.\n\
         QMAILDUID=`id -u vpopmail`\nNOFILESGID=$(id -g vpopmail)\nMEMORYLIMIT=14680064 # 14MB\n\
         MAXSMTPD=`cat /var/qmail/control/concurrencyincoming`\nPERIPLIMIT=16\nBINDIPADDR=0\nBINDIPPORT=25\n\
         exec /usr/local/bin/softlimit -m $MEMORYLIMIT \\\n\
         /usr/local/bin/tcpserver -v -H -R -l $MAILHOSTNAME -s $PERIPLIMIT \\\n\
         -x ~vpopmail/etc/tcp.smtp.cdb -c \"$MAXSMTPD\" \\\n\
         -u $QMAILDUID -g $NOFILESGID $BINDIPADDR $BINDIPPORT \\\n\
         /usr/local/bin/rblsmtpd -bt5 -r bl.spamcop.net -rsbl.spamhaus.org \\\n\
         /var/qmail/bin/qmail-smtpd \\\n\
         /home/vpopmail/bin/vchkpw /bin/true 2>&1\n",
    );
    assert_eq!(
        shown(&script),
        "softlimit(-m 14680064) tcpserver(-v -H -R -l mail.example.org -s 16 -x /home/vpopmail/etc/tcp.smtp.cdb \
         -c 30 -u 89 -g 89 0 25) rblsmtpd(-b -t 5 -r bl.spamcop.net -r sbl.spamhaus.org) \
         qmail-smtpd(; /home/vpopmail/bin/vchkpw /bin/true)"
    );
    let tcpserver = script.tcpserver().unwrap();
    assert_eq!((tcpserver.names(), tcpserver.ident()), (Names::Off, false));
    let asked = &tcpserver.concurrency().unwrap().asked;
    assert_eq!(*asked, [Question::Cat("/var/qmail/control/concurrencyincoming".to_owned())]);
    assert_eq!(script.line, 10);
    assert!(!script.conditional);
}

#[test]
fn chains() {
    for (text, expected) in [
        (
            "exec 2>&1\nexec tcpserver -vRHl0 -c100 0 smtp qmail-smtpd",
            "tcpserver(-v -R -H -l 0 -c 100 0 smtp) qmail-smtpd(; )",
        ),
        (
            "exec env - PATH=\"/var/qmail/bin:$PATH\" \\\nqmail-start \"`cat /x`\" splogger qmail",
            "env(- PATH=/var/qmail/bin:$PATH) qmail-start(`cat /x` splogger qmail)",
        ),
        (
            "RBL=`cat /var/qmail/control/blacklists`\nexec tcpserver 0 25 rblsmtpd $RBL qmail-smtpd",
            "tcpserver( 0 25) rblsmtpd(-r zen.spamhaus.org -r bl.spamcop.net) qmail-smtpd(; )",
        ),
        (
            "exec tcpserver 0 smtp spamdyke --config-file /etc/s.conf qmail-smtpd mail.example.org cmd5checkpw true",
            "tcpserver( 0 smtp) spamdyke(--config-file /etc/s.conf) qmail-smtpd(mail.example.org; cmd5checkpw true)",
        ),
        (
            "exec envdir ./env setuidgid qmaild fixcrio recordio rblsmtpd qmail-smtpd",
            "envdir(./env) setuidgid(qmaild) fixcrio() recordio() rblsmtpd() qmail-smtpd(; )",
        ),
        ("exec sslserver -e -s -n -R 0 465 /bin/qmail-smtpd", "sslserver(-e -s -n -R 0 465) qmail-smtpd(; )"),
        (
            "exec tcpserver 0 995 /usr/sbin/stunnel /c/pop3s.conf 2>&1 | cat",
            "tcpserver( 0 995) stunnel(/c/pop3s.conf)",
        ),
        (
            "exec chpst -u qmaill:nofiles -e ./env -m 9000 svlogd -tt /log",
            "chpst(qmaill:nofiles) chpst(./env) chpst(-u qmaill:nofiles -e ./env -m 9000) svlogd(-tt /log)",
        ),
        (
            "exec setuidgid qmaill multilog t '-*' '+* status: *' /log",
            "setuidgid(qmaill) multilog(t -* +* status: * /log)",
        ),
        // A default, a guard, and what stands behind `&&`.
        (
            "if [ -z \"$C\" ]; then\n C=7; exec false\nfi\n[ -n \"$D\" ] || D=8\nexec tcpserver -c ${C:-9} -b \"${D-1}\" ${H:=0} 25 x",
            "tcpserver(-c 7 -b 8 0 25) x()",
        ),
        ("if a; then exec tcpserver 0 25 x; else exec tcpserver 0 26 x; fi", "tcpserver( 0 25) x()"),
        ("tcpserver 0 25 x", "tcpserver( 0 25) x()"),
        ("cd /x; ulimit -n 5\ntrue", ""),
        ("exec tcpserver $(( 1 + 2 )) ${A%b} x y", "tcpserver( $(( 1 + 2 )) ${A%b}) x(y)"),
        ("exec tcpserver '' \"\" x", "tcpserver(  ) x()"),
        ("A='-v -R' ; exec tcpserver $A 0 \"$A\" x", "tcpserver(-v -R 0 -v -R) x()"),
        ("exec tcpserver -c", "tcpserver(-c  )"),
    ] {
        let shown = shown(&read(text));
        assert_eq!(shown.trim_end(), expected.trim_end(), "{text}");
    }
}

#[test]
fn the_environment_is_what_the_last_program_finds() {
    for (text, expected) in [
        ("A=1; export A\nB=2\nexport C=3 D\nD=4\nE=5 exec tcpserver 0 25 x", "A=1 C=3 D=4 E=5"),
        ("export A=1\nexec env - B=2 tcpserver 0 25 x", "B=2"),
        ("export A=1; A=2; export B='x y'\nunset C\nexec env B=3 tcpserver 0 25 x", "A=2 B=3"),
        ("export SMTPAUTH=\"!\" FORCETLS=\nexec tcpserver 0 25 x", "SMTPAUTH=! FORCETLS="),
    ] {
        let script = read(text);
        let shown = script.environment.iter().map(|(name, value)| format!("{name}={}", value.text));
        assert_eq!(shown.collect::<Vec<_>>().join(" "), expected, "{text}");
    }
}

#[test]
fn what_is_not_known_stays_as_it_is_written() {
    let script = read(". /etc/default/qmail\nexec tcpserver -c \"`awk x /f`\" $HOST `cat /x /y` x");
    assert_eq!(script.sourced, [Word::from("/etc/default/qmail")]);
    let tcpserver = script.tcpserver().unwrap();
    for (word, expected) in [
        (tcpserver.concurrency().unwrap(), "`awk x /f`"),
        (&tcpserver.host, "$HOST"),
        (&tcpserver.port, "`cat /x /y`"),
    ] {
        assert_eq!((word.text.as_str(), word.known()), (expected, None));
        assert_eq!(word.unresolved, [expected]);
    }
}

#[test]
fn what_is_no_script_is_refused() {
    for (text, expected) in [
        ("#!/usr/bin/perl\n", "`/usr/bin/perl` on the first line; allowed: #!/bin/sh, or another shell"),
        (
            "#!/command/execlineb -P\n",
            "`/command/execlineb -P` on the first line; allowed: #!/bin/sh, or another shell",
        ),
        ("\x7fELF\0", "a program and not a script; allowed: a script of sh"),
        ("a\nb 'c\n", "line 2: `'` is not closed"),
        ("a \"b", "line 1: `\"` is not closed"),
        ("a `b", "line 1: ``` is not closed"),
        ("a $(b", "line 1: `$(` is not closed"),
        ("a ${b", "line 1: `${` is not closed"),
        (
            "A=xxxxxxxxxxxxxxxx;A=$A$A$A$A$A$A$A$A;A=$A$A$A$A$A$A$A$A;A=$A$A$A$A$A$A$A$A;A=$A$A$A$A$A$A$A$A;A=$A$A$A$A$A$A$A$A",
            "line 1: a value or a command is too long",
        ),
    ] {
        assert_eq!(parse(text.as_bytes(), &answer).unwrap_err().to_string(), expected, "{text}");
    }
    let deep = format!("a {}", "${a:-".repeat(1000));
    assert_eq!(parse(deep.as_bytes(), &answer), Err(Error::Depth(1)));
    assert_eq!(parse(&vec![b'\n'; SIZE_MAX + 1], &answer), Err(Error::Size(SIZE_MAX + 1)));
}

#[test]
fn what_a_program_of_the_chain_runs_has_its_environment() {
    let mut script = read("export A=1 B=2\nexec /var/qmail/rc\n");
    script.follow(read("exec env - C=3 B=4 qmail-start ./Maildir/\n").chain);
    assert_eq!(shown(&script), "rc() env(- C=3 B=4) qmail-start(./Maildir/)");
    assert_eq!(script.environment, [("C".to_owned(), "3".into()), ("B".to_owned(), "4".into())]);
}

#[test]
fn stunnels_program_and_files() {
    let text = b"; pop3s\ncert = /c/servercert.pem\n[x]\nexec=/bin/qmail-popup\nexecargs = qmail-popup h vchkpw x\nCert = /d\n";
    let stunnel = Stunnel::parse(text);
    assert_eq!(stunnel.get("cert"), Some("/c/servercert.pem"));
    let run = |text: &[u8]| shown(&RunScript { chain: Stunnel::parse(text).chain(), ..RunScript::default() });
    assert_eq!(run(text), "qmail-popup(h vchkpw x)");
    assert_eq!(run(b"=\n\xff=\n"), "");
    assert_eq!(
        run(b"exec = /b/rblsmtpd\nexecargs = rblsmtpd -r bl.test /q/qmail-smtpd /v/vchkpw /bin/true\n"),
        "rblsmtpd(-r bl.test) qmail-smtpd(; /v/vchkpw /bin/true)"
    );
    assert_eq!(
        run(b"exec = /q/qmail-smtpd\nexecargs = qmail-smtpd vchkpw /bin/true"),
        "qmail-smtpd(; vchkpw /bin/true)"
    );
}

proptest! {
    #[test]
    fn no_script_is_too_much(text in proptest::collection::vec(any::<u8>(), 0..400)) {
        drop(parse(&text, &answer));
    }

    #[test]
    fn nor_one_of_shell_words(words in proptest::collection::vec(
        prop::sample::select(vec![
            "exec", "tcpserver", "-c", "\"", "'", "`", "$(", ")", "${A:-", "}", "A=", "$A", "\n", ";", "&&", "if",
            "fi", "<<", ">", "2>&1", "env", "-", "chpst", "-u", "rblsmtpd", "\\", "#", "~vpopmail", "cat", "é", " ",
        ]), 0..60)) {
        drop(parse(words.concat().as_bytes(), &answer));
        drop(parse(words.join(" ").as_bytes(), &answer));
    }
}
