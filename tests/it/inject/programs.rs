//! What calls sendmail on real machines: each delivers through the link, and the Maildir shows the mail.

use mailtree_tests::host::{Host, PATIENCE, Ran};
use mailtree_tests::local::Local;

/// A host, its links, and the path of `sendmail`.
fn machine() -> (Host, Local, String) {
    let host = Host::start();
    let local = Local::of(&host);
    let sendmail = local.link("sendmail").display().to_string();
    (host, local, sendmail)
}

/// Runs a line that must end well; the message that came to bob.
fn mailed(host: &Host, local: &Local, line: &str, input: &str) -> String {
    let before = host.maildir("bob").count();
    let ran: Ran = local.run(line, input);
    assert_eq!(ran.code, Some(0), "{line}: {ran:#?}");
    host.maildir("bob").wait(before + 1, PATIENCE).pop().unwrap()
}

#[track_caller]
fn has(text: &str, lines: &[&str]) {
    for line in lines {
        assert!(text.contains(line), "no {line:?} in:\n{text}");
    }
    assert!(!text.contains('\r'), "{text:?}");
}

#[test]
fn cron_and_mdadm_mail_as_they_do() {
    let (host, local, _) = machine();
    // Debian's cron: /usr/sbin/sendmail -FCronDaemon -i -B8BITMIME -oem, with the recipient behind it.
    let text = "From: root (Cron Daemon)\nTo: bob\nSubject: Cron <root@box> job\nMIME-Version: 1.0\n\
                Content-Type: text/plain; charset=UTF-8\nX-Cron-Env: <SHELL=/bin/sh>\n\nGr\u{fc}\u{df}e\n.\nmore\n";
    let line = "LOGNAME=sender USER=sender sendmail -FCronDaemon -i -B8BITMIME -oem bob@mx.test";
    let came = mailed(&host, &local, line, text);
    has(
        &came,
        &[
            "Return-Path: <sender@mx.test>\n",
            "From: root@mx.test (Cron Daemon)\n",
            "To: bob@mx.test\n",
            "\n\nGr\u{fc}\u{df}e\n.\nmore\n",
            "Message-ID: <",
        ],
    );
    // mdadm: popen("/usr/sbin/sendmail -t").
    let text = "From: mdadm monitoring <root>\nTo: bob@mx.test\nSubject: Fail event on /dev/md0:box\n\n\
                This is an automatically generated mail message from mdadm\nrunning on box\n";
    let came = mailed(&host, &local, "sendmail -t", text);
    has(&came, &["From: mdadm monitoring <root@mx.test>\n", "\nrunning on box\n"]);
}

mod needs_php {
    use super::*;

    #[test]
    fn php_mails() {
        let (host, local, sendmail) = machine();
        let program = r#"<?php exit(mail("bob@mx.test", "Grüße", "line\n.\nend\n",
            ["From" => "Shop <shop@mx.test>", "Bcc" => "sender@mx.test", "X-A" => "b"], "-fsender@mx.test") ? 0 : 1);"#;
        local.write("mail.php", program);
        let line = format!("php -d sendmail_path='{sendmail} -t -i' mail.php");
        let came = mailed(&host, &local, &line, "");
        has(
            &came,
            &[
                "Return-Path: <sender@mx.test>\n",
                "From: Shop <shop@mx.test>\n",
                "X-A: b\n",
                "\nline\n.\nend\n",
            ],
        );
        assert!(!came.contains("Bcc"), "{came}");
        assert!(host.maildir("sender").wait(1, PATIENCE)[0].contains("From: Shop"));
    }
}

mod needs_gitemail {
    use super::*;

    #[test]
    fn git_sends_patches() {
        let (host, local, sendmail) = machine();
        let git = "git -c user.name='A U Thor' -c user.email=sender@mx.test";
        let make = format!(
            "set -e; export HOME=$PWD; git init -q r; cd r; echo x >f; git add f; {git} commit -qm 'a change: ü'; \
             {git} format-patch -q --root -o ../out"
        );
        assert_eq!(local.run(&make, "").code, Some(0));
        let line = format!(
            "export HOME=$PWD; cd r; {git} send-email --quiet --confirm=never --from=sender@mx.test \
             --to=bob@mx.test --envelope-sender=sender@mx.test --smtp-server={sendmail} ../out/*.patch"
        );
        let came = mailed(&host, &local, &line, "");
        has(
            &came,
            &[
                "Return-Path: <sender@mx.test>\n",
                "Subject: [PATCH] =?UTF-8?q?a=20change:=20=C3=BC?=\n",
                "\ndiff --git a/f b/f\n",
                "X-Mailer: git-send-email",
            ],
        );
    }
}

mod needs_mutt {
    use super::*;

    #[test]
    fn mutt_mails() {
        let (host, local, sendmail) = machine();
        let line = format!(
            "HOME=$PWD mutt -n -F /dev/null -e 'set sendmail=\"{sendmail} -oem -oi\" from=sender@mx.test \
             use_envelope_from=yes copy=no' -s hello -b sender@mx.test -- bob@mx.test"
        );
        let came = mailed(&host, &local, &line, "a text\n.\nwith a dot\n");
        has(&came, &["Return-Path: <sender@mx.test>\n", "Subject: hello\n", "\na text\n.\nwith a dot\n"]);
        assert!(!came.contains("Bcc"), "{came}");
        host.maildir("sender").wait(1, PATIENCE);
    }
}

mod needs_snail {
    use super::*;

    #[test]
    fn s_nail_mails() {
        let (host, local, sendmail) = machine();
        let line = format!(
            "HOME=$PWD s-nail -:/ -S v15-compat -S mta={sendmail} -r sender@mx.test -s hello bob@mx.test"
        );
        let came = mailed(&host, &local, &line, "a text\n.\n");
        has(&came, &["Return-Path: <sender@mx.test>\n", "Subject: hello\n", "\na text\n"]);
    }
}

mod needs_bsdmailx {
    use super::*;

    #[test]
    fn bsd_mailx_mails() {
        let (host, local, sendmail) = machine();
        local.write("rc", format!("set sendmail={sendmail}\n"));
        let line = "HOME=$PWD USER=sender LOGNAME=sender MAILRC=$PWD/rc bsd-mailx -n -a 'X-A: b' -s hello bob@mx.test";
        let came = mailed(&host, &local, line, "a text\nmore\n");
        has(&came, &["Subject: hello\n", "X-A: b\n", "\na text\nmore\n"]);
    }
}

mod needs_python3 {
    use super::*;

    #[test]
    fn python_speaks_smtp_to_it() {
        let (host, local, sendmail) = machine();
        let program = "import smtplib,subprocess,sys,io\n\
            from email.message import EmailMessage\n\
            class Sock:\n \
              def __init__(s,p): s.p=p\n \
              def sendall(s,b): s.p.stdin.write(b); s.p.stdin.flush()\n \
              def makefile(s,*a): return s.p.stdout\n \
              def close(s): pass\n\
            class Local(smtplib.SMTP):\n \
              def _get_socket(s,*a):\n  \
                return Sock(subprocess.Popen([sys.argv[1],'-bs'],stdin=subprocess.PIPE,stdout=subprocess.PIPE))\n\
            m=EmailMessage(); m['From']='sender@mx.test'; m['To']='bob@mx.test'; m['Subject']='Grüße'\n\
            m.set_content('a text\\n.\\nend\\n')\n\
            with Local('local') as s: s.send_message(m); s.send_message(m)\n";
        local.write("smtp.py", program);
        let ran = local.run(&format!("/usr/bin/python3 smtp.py {sendmail}"), "");
        assert_eq!(ran.code, Some(0), "{ran:#?}");
        let came = host.maildir("bob").wait(2, PATIENCE);
        has(&came[1], &["Return-Path: <sender@mx.test>\n", "\na text\n.\nend\n", "(sendmail-bs@127.0.0.1)"]);
    }
}
