//! Deliveries by `.qmail` files of local users: every line, exit code and variable, the order of the search, and what is
//! refused. The expected texts are those of qmail-local.8, dot-qmail.5 and qmail-command.8.

use std::fs;

use mailtree_tests::host::{Host, PATIENCE, Setup};
use mailtree_tests::local_users::{DOMAIN, LocalUser, LocalUsers};
use mailtree_tests::maildir::Maildir;
use mailtree_tests::wait::{wait_for, wait_until};

/// What the log says of the first delivery to an address that has ended.
fn report(host: &Host, address: &str) -> String {
    let to = format!(" to local {address}");
    wait_for(&format!("a delivery to {address}"), PATIENCE, || {
        let lines = host.log_lines();
        let start =
            lines.iter().find(|line| line.starts_with("starting delivery ") && line.ends_with(&to))?;
        let number = start.split([' ', ':']).nth(2)?.to_owned();
        let end = format!("delivery {number}: ");
        lines.iter().find_map(|line| line.strip_prefix(&end)).map(str::to_owned)
    })
}

/// Sends a message to a local user and tells what became of it.
fn deliver(host: &Host, name: &str) -> String {
    let address = format!("{name}@{DOMAIN}");
    host.send("sender@mx.test", &[&address], "Subject: hello\n\nFrom here\nto there\n");
    report(host, &address)
}

fn count(user: &LocalUser, maildir: &str) -> usize {
    Maildir::new(user.home.join(maildir)).count()
}

#[test]
fn every_kind_of_line_does_what_dot_qmail_5_says() {
    let setup = Setup::new();
    let mut users = LocalUsers::of(&setup);
    let cases = [
        ("comment", "# nothing\n", "success: did_0+0+0/"),
        ("maildir", "./M/\n", "success: did_1+0+0/"),
        ("mbox", "./box\n", "success: did_1+0+0/"),
        ("both", "./M/\n./box\n# x\n\n./M/\n", "success: did_3+0+0/"),
        ("program", "|cat > got\n", "success: did_0+0+1/"),
        ("says", "|echo said; echo too >&2\n|echo more\n", "success: said/too/more/did_0+0+2/"),
        ("silent", "|cat > /dev/null\n|exec >&- 2>&-; cat > got\n", "success: did_0+0+2/"),
        ("reads-nothing", "|true\n|cat > got\n", "success: did_0+0+2/"),
        ("forward", "&bob@mx.test\n", "success: did_0+1+0/qp_*/"),
        ("bare", "bob@mx.test\n", "success: did_0+1+0/qp_*/"),
        ("all", "./M/\n|cat > got\n&bob@mx.test\n./box\n", "success: did_2+1+1/qp_*/"),
        ("blank-end", "./M/   \n|cat > got \t\n", "success: did_1+0+1/"),
        ("no-end", "# old enough?\n./M/\n", "success: did_1+0+0/"),
        ("list", "+list\n&bob@mx.test\n", "success: did_0+1+0/qp_*/"),
        ("plus", "+other\n./M/\n", "success: did_1+0+0/"),
        (
            "list-file",
            "+list\n./M/\n",
            "deferral: Uh-oh:_.qmail_has_file_delivery_but_has_x_bit_set._(#4.7.0)/",
        ),
        (
            "list-prog",
            "+list\n|true\n",
            "deferral: Uh-oh:_.qmail_has_prog_delivery_but_has_x_bit_set._(#4.7.0)/",
        ),
        ("blank", "\n./M/\n", "deferral: Uh-oh:_first_line_of_.qmail_file_is_blank._(#4.2.1)/"),
        ("no-dir", "./nowhere/\n", "deferral: Unable_to_chdir_to_maildir._(#4.2.1)/"),
        ("no-box", "./nowhere/box\n", "deferral: Unable_to_open_*nowhere/box:_No_such_file_*_(#4.2.1)/"),
        ("box-is-dir", "./M\n", "deferral: Unable_to_open_*/M:_not_a_regular_file._(#4.2.1)/"),
        ("no-program", "|/nonexistent/program\n", "deferral: */nonexistent/program:*not_found/"),
        ("killed", "|kill -9 $$\n", "deferral: Aack,_child_crashed._(#4.3.0)/"),
    ];
    let made: Vec<LocalUser> = cases
        .iter()
        .map(|(name, dotqmail, _)| {
            let user = users.add(name, &[(".qmail", dotqmail)]);
            user.maildir("M");
            user
        })
        .collect();
    users.compile();
    let host = setup.start();
    for (name, _, expected) in &cases {
        let said = deliver(&host, name);
        assert!(mailtree_tests::smtp::like(expected, &said), "{name}: {said}, not {expected}");
    }
    let user = |name: &str| &made[cases.iter().position(|(case, ..)| *case == name).unwrap()];
    let head = |name: &str| format!("Return-Path: <sender@mx.test>\nDelivered-To: {name}@{DOMAIN}\n");
    let text = "Subject: hello\n\nFrom here\nto there\n";
    let delivered = Maildir::new(user("maildir").home.join("M")).texts().remove(0);
    assert!(delivered.starts_with(&head("maildir")) && delivered.ends_with(text), "{delivered}");
    let mbox = user("mbox").read("box");
    assert!(
        mbox.starts_with("From sender@mx.test ") && mbox.ends_with("\n\n>From here\nto there\n\n"),
        "{mbox}"
    );
    assert_eq!(mbox.lines().skip(1).take(2).collect::<Vec<_>>(), head("mbox").lines().collect::<Vec<_>>());
    for name in ["program", "silent", "reads-nothing", "blank-end"] {
        let got = user(name).read("got");
        assert!(got.starts_with("Received: ") && got.ends_with(text), "{name}: {got}");
    }
    assert_eq!(
        (count(user("both"), "M"), user("both").read("box").matches("\n\n>From here").count()),
        (2, 1)
    );
    // bob has what was sent on: by forward, bare, all and list.
    let forwarded = host.maildir("bob").wait(4, PATIENCE);
    assert!(forwarded.iter().all(|one| one.starts_with("Return-Path: <sender@mx.test>\n")), "{forwarded:#?}");
}

#[test]
fn the_exit_code_of_a_program_decides() {
    let setup = Setup::new();
    let mut users = LocalUsers::of(&setup);
    let codes: Vec<u8> =
        vec![0, 1, 2, 63, 64, 65, 66, 70, 71, 75, 76, 77, 78, 79, 99, 100, 101, 111, 112, 126, 127, 255];
    let mut made = Vec::new();
    for code in &codes {
        let text =
            format!("&bob@mx.test\n|echo code {code}; exit {code}\n|echo on > went\n&postmaster@mx.test\n");
        made.push(users.add(&format!("c{code}"), &[(".qmail", &text)]));
    }
    users.compile();
    let host = setup.start();
    for (code, user) in codes.iter().zip(&made) {
        let said = deliver(&host, &format!("c{code}"));
        let expected = match code {
            0 => "success: code_0/did_0+2+2/qp_*/".to_owned(),
            99 => "success: code_99/did_0+1+1/qp_*/".to_owned(),
            64 | 65 | 70 | 76 | 77 | 78 | 100 | 112 => format!("failure: code_{code}/"),
            _ => format!("deferral: code_{code}/"),
        };
        assert!(mailtree_tests::smtp::like(&expected, &said), "{code}: {said}, not {expected}");
        assert_eq!(user.home.join("went").exists(), *code == 0, "{code}");
    }
    // Addresses on lines before 99 get the message, those behind it do not, and none do if it fails.
    assert_eq!(host.maildir("bob").wait(2, PATIENCE).len(), 2);
    assert_eq!(host.maildir("postmaster").wait(1, PATIENCE).len(), 1);
    // What failed for ever bounced.
    assert_eq!(host.maildir("sender").wait(8, PATIENCE).len(), 8);
}

#[test]
fn programs_see_the_variables_of_qmail_command_8_and_nothing_else() {
    let setup = Setup::new().env("SECRET", "of the host");
    let mut users = LocalUsers::of(&setup);
    let text = "|env -0 | LC_ALL=C sort -z | tr '\\n\\0' '|\\n' > env; ls /proc/self/fd > fds; umask > umask; pwd > pwd; \
                ulimit -c > core; id -u > id; id -G >> id\n";
    let joe = users.add("joe", &[(".qmail-list-default", text)]);
    users.compile();
    let host = setup.start();
    let said = deliver(&host, "joe-list-A-b.C");
    assert_eq!(said, "success: did_0+0+1/");
    let home = joe.home.display();
    let ufline =
        joe.read("env").lines().find(|line| line.starts_with("UFLINE=")).unwrap_or_default().to_owned();
    assert!(ufline.starts_with("UFLINE=From sender@mx.test ") && ufline.ends_with('|'), "{ufline}");
    let mut expected = [
        "DEFAULT=A-b.C".to_owned(),
        format!("DTLINE=Delivered-To: joe-list-A-b.C@{DOMAIN}|"),
        "EXT=list-A-b.C".to_owned(),
        "EXT2=A-b.C".to_owned(),
        "EXT3=b.C".to_owned(),
        "EXT4=".to_owned(),
        format!("HOME={home}"),
        format!("HOST={DOMAIN}"),
        "HOST2=local".to_owned(),
        "HOST3=local".to_owned(),
        "HOST4=local".to_owned(),
        "LOCAL=joe-list-A-b.C".to_owned(),
        "NEWSENDER=sender@mx.test".to_owned(),
        format!("PWD={home}"),
        format!("RECIPIENT=joe-list-A-b.C@{DOMAIN}"),
        "RPLINE=Return-Path: <sender@mx.test>|".to_owned(),
        "SENDER=sender@mx.test".to_owned(),
        ufline,
        "USER=joe".to_owned(),
    ];
    let env = joe.read("env");
    let seen: Vec<&str> =
        env.lines().filter(|line| !line.starts_with("PATH=") && !line.starts_with("_=")).collect();
    expected.sort();
    assert_eq!(seen, expected);
    assert_eq!(joe.read("fds"), "0\n1\n2\n3\n", "3 is the directory that ls reads");
    assert_eq!((joe.read("umask").trim(), joe.read("core").trim()), ("0077", "0"));
    assert_eq!(joe.read("pwd").trim(), home.to_string());
    assert_eq!(joe.read("id"), format!("{0}\n{0}\n", joe.uid));
}

#[test]
fn the_search_for_a_dot_qmail_file_is_qmail_locals() {
    let setup = Setup::new();
    let mut users = LocalUsers::of(&setup);
    let line = |name: &str| format!("|echo \"{name} default=$DEFAULT\"\n");
    let names = ["", "-a", "-a-b", "-a-default", "-default", "-x:y", "-list-owner"];
    let joe = users.add("joe", &[]);
    for name in names {
        joe.write(&format!(".qmail{name}"), &line(name));
    }
    let ann = users.add("ann", &[(".qmail-default", "")]);
    ann.maildir("Maildir");
    let bare = users.add("bare", &[]);
    bare.maildir("Maildir");
    users.compile();
    let host = setup.start();
    for (address, said) in [
        ("joe", "success: _default=/did_0+0+1/"),
        ("JOE", "success: _default=/did_0+0+1/"),
        ("joe-a", "success: -a_default=/did_0+0+1/"),
        ("joe-A", "success: -a_default=/did_0+0+1/"),
        ("joe-a-b", "success: -a-b_default=/did_0+0+1/"),
        ("joe-a-b-c", "success: -a-default_default=b-c/did_0+0+1/"),
        ("joe-a-", "success: -a-default_default=/did_0+0+1/"),
        ("joe-a-Zz", "success: -a-default_default=Zz/did_0+0+1/"),
        ("joe-default", "success: -default_default=default/did_0+0+1/"),
        ("joe-b-c", "success: -default_default=b-c/did_0+0+1/"),
        ("joe-X.y", "success: -x:y_default=/did_0+0+1/"),
        ("joe-../../etc/passwd", "success: -default_default=../../etc/passwd/did_0+0+1/"),
        ("ann-anything", "success: did_1+0+0/"),
        ("bare", "success: did_1+0+0/"),
        ("bare-x", "failure: Sorry,_no_mailbox_here_by_that_name._(#5.1.1)/"),
        ("nobody-at-all-of-that-name", "failure: Sorry,_no_mailbox_here_by_that_name._(#5.1.1)/"),
    ] {
        assert_eq!(deliver(&host, address), said, "{address}");
    }
    assert_eq!((count(&ann, "Maildir"), count(&bare, "Maildir")), (1, 1));
}

#[test]
fn what_anybody_may_change_is_not_obeyed() {
    let setup = Setup::new();
    let mut users = LocalUsers::of(&setup);
    let add = |users: &mut LocalUsers, name: &str, line: &str| {
        let user = users.add(name, &[(".qmail", line)]);
        user.maildir("M");
        user
    };
    add(&mut users, "home", "./M/\n").mode(".", 0o777);
    add(&mut users, "sticky", "./M/\n").mode(".", 0o1700);
    add(&mut users, "file", "./M/\n").mode(".qmail", 0o666);
    add(&mut users, "exec-file", "./M/\n").mode(".qmail", 0o700);
    add(&mut users, "exec-prog", "|true\n").mode(".qmail", 0o700);
    let list = add(&mut users, "exec-list", "&bob@mx.test\n");
    list.mode(".qmail", 0o700);
    users.compile();
    let host = setup.start();
    for (address, said) in [
        ("home", "deferral: Uh-oh:_home_directory_is_writable._(#4.7.0)/"),
        ("sticky", "deferral: Home_directory_is_sticky:_user_is_editing_his_.qmail_file._(#4.2.1)/"),
        ("file", "deferral: Uh-oh:_.qmail_file_is_writable._(#4.7.0)/"),
        ("exec-file", "deferral: Uh-oh:_.qmail_has_file_delivery_but_has_x_bit_set._(#4.7.0)/"),
        ("exec-prog", "deferral: Uh-oh:_.qmail_has_prog_delivery_but_has_x_bit_set._(#4.7.0)/"),
        ("exec-list", "success: did_0+1+0/qp_*/"),
    ] {
        let found = deliver(&host, address);
        assert!(mailtree_tests::smtp::like(said, &found), "{address}: {found}");
    }
    host.maildir("bob").wait(1, PATIENCE);
}

#[test]
fn the_owner_of_a_list_gets_its_bounces() {
    let setup = Setup::new();
    let mut users = LocalUsers::of(&setup);
    users.add(
        "joe",
        &[
            (".qmail-plain", "&bob@mx.test\n|echo \"$NEWSENDER\" > plain\n"),
            (".qmail-owned", "&bob@mx.test\n|echo \"$NEWSENDER\" > owned\n"),
            (".qmail-owned-owner", "&sender@mx.test\n"),
            (".qmail-verp", "&bob@mx.test\n&nobody-here@mx.test\n"),
            (".qmail-verp-owner", "&sender@mx.test\n"),
            (".qmail-verp-owner-default", "&sender@mx.test\n"),
        ],
    );
    users.compile();
    let host = setup.start();
    for (nth, (list, from)) in [
        ("plain", "<sender@mx.test>"),
        ("owned", "<joe-owned-owner@local.test>"),
        ("verp", "<joe-verp-owner-mx.test-bob=mx.test@local.test>"),
    ]
    .into_iter()
    .enumerate()
    {
        assert!(deliver(&host, &format!("joe-{list}")).starts_with("success: "));
        let texts = host.maildir("bob").wait(nth + 1, PATIENCE);
        let line = format!("Return-Path: {from}\n");
        assert!(texts.iter().any(|text| text.starts_with(&line)), "{list}: {texts:#?}");
    }
    // What bounces while it is in this queue goes to the list's owner as such.
    let bounce = host.maildir("sender").wait(1, PATIENCE).remove(0);
    let to = format!("Delivered-To: joe-verp-owner-@{DOMAIN}\n");
    assert!(bounce.contains(&to), "{bounce}");
}

#[test]
fn a_message_that_has_been_there_is_looping() {
    let setup = Setup::new();
    let mut users = LocalUsers::of(&setup);
    users.add("round", &[(".qmail", &format!("&round@{DOMAIN}\n"))]);
    users.compile();
    let host = setup.start();
    assert!(deliver(&host, "round").starts_with("success: did_0+1+0/"));
    host.wait_log(
        "delivery *: failure: This_message_is_looping:_it_already_has_my_Delivered-To_line._(#5.4.6)/",
    );
    host.maildir("sender").wait(1, PATIENCE);
}

#[test]
fn an_address_of_alias_is_a_domain_of_its_own_by_virtualdomains() {
    let host = Setup::new().control("virtualdomains", "mx.test:mx.test\nex.test:alias-ex\n").start();
    fs::write(host.home().join("alias/.qmail-ex-default"), "&bob@mx.test\n").unwrap();
    host.send("sender@mx.test", &["info@ex.test"], "Subject: x\n\nx\n");
    host.maildir("bob").wait(1, PATIENCE);
}

#[test]
fn a_program_that_hangs_holds_nobody_elses_mail_and_ends_in_time() {
    let setup = Setup::new().field("programs", "(delivery: \"2s\")");
    let mut users = LocalUsers::of(&setup);
    let slow =
        users.add("slow", &[(".qmail", "|echo $$ >> pids; sleep 1000 & echo $! >> pids; sleep 1000\n")]);
    let quick = users.add("quick", &[(".qmail", "|cat >> got\n")]);
    users.compile();
    let host = setup.start();
    for n in 0..30 {
        host.send("sender@mx.test", &[&format!("slow@{DOMAIN}")], &format!("Subject: {n}\n\nx\n"));
    }
    wait_until("a program that hangs", PATIENCE, || slow.home.join("pids").exists());
    host.send("sender@mx.test", &[&format!("quick@{DOMAIN}")], "Subject: quick\n\nx\n");
    wait_until("the others' mail", PATIENCE, || quick.home.join("got").exists());
    host.wait_log("delivery *: deferral: Program_did_not_end_within_2_seconds._(#4.3.0)/");
    wait_until("the end of all deliveries", PATIENCE, || {
        host.log_lines().iter().filter(|line| line.contains(": deferral: ")).count() == 30
    });
    // Nothing that it has started is left.
    let pids = slow.read("pids");
    wait_until("the end of its processes", PATIENCE, || {
        pids.lines().all(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists())
    });
}
