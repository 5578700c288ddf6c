//! Who may pass: vpasswd with every form of hash, flags of users, checkpassword programs; and what is logged of it.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use mailtree_protocols::vpasswd::{self, Entry};
use mailtree_tests::dialogue::{Dialogue, base64};
use mailtree_tests::host::{Host, PATIENCE, Setup};
use mailtree_tests::wait::wait_for;

/// `secret`, hashed by libxcrypt and by the program of argon2's authors.
const HASHES: [(&str, &str); 7] = [
    ("des", "abNANd1rDfiNc"),
    ("md5", "$1$saltsalt$9xy1btjgzLYfb7hivXtC//"),
    ("sha256", "$5$saltstring$C3o4O1TC6aRHF4FI.QSZMXtHbaj2gSXr4sUc/3NcUi."),
    (
        "sha512",
        "$6$rounds=1400$anotherlongsalts$Twf2eP6WMY29NT9yg1Nff0x6Ul/TWD9vkV2VVPyEX7uifmXI0FHGx3rX27ttfZtfB9phxv3003yyBPq3nGFb8.",
    ),
    ("bcrypt", "$2b$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW"),
    ("yescrypt", "$y$j75$saltsalt$0gBD67sgmJgRX3RZ6wHHO7sHimQEWGCWN85o4Twogh2"),
    (
        "argon2id",
        "$argon2id$v=19$m=64,t=1,p=1$c2FsdHNhbHRzYWx0c2FsdA$+v0rf6ETYAIpqJIjJyARZ3W3zqJlkf+0TRXzsLHmR6o",
    ),
];

/// Rewrites vpasswd and vpasswd.cdb of the first domain, as an administrator's own tools might.
fn edit(host: &Host, change: impl FnOnce(&mut Vec<Entry>)) {
    let dir = host.home().join("domains/mx.test");
    let mut users = vpasswd::parse(&fs::read(dir.join("vpasswd")).unwrap()).unwrap();
    change(&mut users);
    fs::write(dir.join("vpasswd"), vpasswd::format(&users)).unwrap();
    fs::write(dir.join("vpasswd.cdb.new"), vpasswd::compile(&users).unwrap()).unwrap();
    fs::rename(dir.join("vpasswd.cdb.new"), dir.join("vpasswd.cdb")).unwrap();
}

/// Keeps a user's password in clear too, as CRAM-MD5 needs it.
pub(crate) fn keep_in_clear(host: &Host, name: &str, password: &str) {
    edit(host, |users| {
        let user = users.iter_mut().find(|user| user.name == name.as_bytes()).unwrap();
        user.clear = Some(password.into());
    });
}

fn host(fields: &str) -> Setup {
    let setup = Setup::new().smtpd(&format!(
        "proxies: [\"127.0.0.1\"], environment: {{\"SMTPAUTH\": \"+cram\"}}, auth_in_clear: true, {fields}"
    ));
    fs::write(setup.home().join("tcp.smtp"), ":allow\n").unwrap();
    setup.write();
    setup.run(&["qmailctl", "cdb"]).expect(0);
    setup
}

fn client(host: &Host, port: u16) -> Dialogue {
    let mut client = Dialogue::proxied(host.address().get(), "192.0.2.7", port).unwrap();
    client.say("EHLO client.test", 250);
    client
}

/// What vchkpw has logged, in order, once there are `count` lines: the log is written behind the replies.
pub(crate) fn logged(host: &Host, count: usize) -> Vec<String> {
    wait_for(&format!("{count} lines of vchkpw"), PATIENCE, || {
        let lines = host.log_lines().into_iter().filter(|line| line.starts_with("vchkpw"));
        Some(lines.collect::<Vec<_>>()).filter(|lines| lines.len() >= count)
    })
}

#[test]
fn every_form_of_hash_is_verified() {
    let host = host("").start();
    edit(&host, |users| {
        for (name, hash) in HASHES {
            let line = format!("{name}:{hash}:1:0:{name}:/nowhere/{name}:NOQUOTA");
            users.push(Entry::parse(line.as_bytes()).unwrap());
        }
    });
    for (name, _) in HASHES {
        let user = format!("{name}@mx.test");
        let mut client = client(&host, 25);
        client.auth_plain(&user, &format!("not-{name}")).unwrap().expect(535);
        client.auth_plain(&user, "secret").unwrap().expect(235);
        assert_eq!(client.relay_code(), 250, "{name}");
    }
    let expected: Vec<_> = HASHES
        .iter()
        .flat_map(|(name, _)| ["password fail", "(PLAIN) login success"].map(|text| (name, text)))
        .map(|(name, text)| format!("vchkpw-smtp: {text} {name}@mx.test:192.0.2.7"))
        .collect();
    assert_eq!(logged(&host, expected.len()), expected);
}

#[test]
fn a_hash_nobody_can_verify_is_a_temporary_failure_and_named_in_the_log() {
    let host = host("").start();
    edit(&host, |users| users[0].password = b"{SSHA}abcdef".to_vec());
    edit(&host, |users| assert_eq!(users[0].name, b"bob"));
    let reply = client(&host, 25).auth_plain("bob@mx.test", "secret").unwrap();
    assert_eq!(reply.text(), "454 4.7.0 oops, problem with child and I can't auth (#4.7.0)");
    host.wait_log("alert: unable to check the password of bob@mx.test: unknown form of password hash; *");
    assert!(!host.log().contains("SSHA}abc"), "the hash is in the log");
}

#[test]
fn a_user_made_or_changed_needs_no_restart() {
    let host = host("").start();
    client(&host, 25).auth_plain("new@mx.test", "made-later").unwrap().expect(535);
    host.run(&["vadduser", "new@mx.test", "made-later"]).expect(0);
    client(&host, 25).auth_plain("NEW@mx.test", "made-later").unwrap().expect(235);
    edit(&host, |users| users.retain(|user| user.name != b"new"));
    client(&host, 25).auth_plain("new@mx.test", "made-later").unwrap().expect(535);
}

#[test]
fn a_login_is_noted_in_lastauth_and_what_is_in_its_place_harms_nobody() {
    let host = host("").start();
    let lastauth = |user: &str| host.home().join("domains/mx.test").join(user).join("lastauth");
    client(&host, 25).auth_plain("bob@mx.test", "wrong").unwrap().expect(535);
    client(&host, 587).auth_plain("sender@mx.test", "secret-of-the-test").unwrap().expect(235);
    let noted = |user: &str| wait_for("lastauth", PATIENCE, || fs::read_to_string(lastauth(user)).ok());
    assert_eq!(noted("sender"), "192.0.2.7");
    assert!(!lastauth("bob").exists(), "a wrong password was noted");
    fs::create_dir(lastauth("bob")).unwrap();
    client(&host, 587).auth_plain("bob@mx.test", "secret-of-the-test").unwrap().expect(235);
    host.wait_log("warning: unable to write */bob/lastauth: *");
    assert!(host.status().iter().all(|row| row["restarts"] == 0), "{:#?}", host.status());
}

#[test]
fn flags_forbid_auth_or_relaying() {
    let host = host("").start();
    let flags = |flags: u32| edit(&host, |users| users.iter_mut().for_each(|user| user.flags = flags));
    let try_it = || {
        let mut client = client(&host, 587);
        let code = client.auth_plain("bob@mx.test", "secret-of-the-test").unwrap().code;
        (code, client.relay_code())
    };
    flags(0);
    assert_eq!(try_it(), (235, 250));
    flags(vpasswd::flag::NO_RELAY);
    assert_eq!(try_it(), (235, 553));
    flags(vpasswd::flag::NO_SMTP);
    assert_eq!(try_it(), (535, 553));
    assert_eq!(logged(&host, 3)[2], "vchkpw-submission: smtp access denied bob@mx.test:192.0.2.7");
    flags(vpasswd::flag::NO_POP | vpasswd::flag::NO_IMAP | vpasswd::flag::NO_WEBMAIL);
    assert_eq!(try_it(), (235, 250));
}

#[test]
fn vchkpw_lines_are_what_fail2ban_reads_and_no_password_is_logged() {
    const SECRETS: [&str; 5] = [
        "secret-of-the-test",
        "Wrong-Password-1",
        "Wrong-Password-2",
        "Wrong-Password-3",
        "Wrong-Password-4",
    ];
    let mut host = host("").field("log", "(level: \"trace\")").start();
    let table = [
        (25, "bob@mx.test", 0, 235, "vchkpw-smtp: (PLAIN) login success bob@mx.test:192.0.2.7"),
        (465, "bob@mx.test", 1, 535, "vchkpw-smtps: password fail bob@mx.test:192.0.2.7"),
        (
            587,
            "nobody@mx.test",
            2,
            535,
            "vchkpw-submission: vpopmail user not found nobody@mx.test:192.0.2.7",
        ),
        (2525, "bob@far.test", 3, 535, "vchkpw-2525: vpopmail user not found bob@far.test:192.0.2.7"),
        (
            25,
            "../bob@mx.test",
            4,
            535,
            "vchkpw-smtp: invalid user/domain characters ../bob@mx.test:192.0.2.7",
        ),
        (
            25,
            "b:192.0.2.9 x%s",
            4,
            535,
            "vchkpw-smtp: invalid user/domain characters b?192.0.2.9?x?s:192.0.2.7",
        ),
    ];
    for (port, user, secret, code, _) in table {
        client(&host, port).auth_plain(user, SECRETS[secret]).unwrap().expect(code);
        let mut login = client(&host, port);
        login.say("AUTH LOGIN", 334);
        login.say(&base64(user.as_bytes()), 334);
        login.say(&base64(SECRETS[secret].as_bytes()), code);
    }
    let expected: Vec<_> = table.iter().flat_map(|row| [row.4; 2]).collect();
    // Then the log is whole.
    host.stop();
    assert_eq!(logged(&host, expected.len()), expected);
    let log = host.log();
    assert!(log.lines().count() > 20);
    for secret in SECRETS {
        let user = table.iter().map(|row| base64(format!("\0{}\0{secret}", row.1).as_bytes()));
        for form in user.chain([secret.to_owned(), base64(secret.as_bytes())]) {
            assert!(!log.contains(&form), "{form} is in the log");
        }
    }
}

#[test]
fn cram_md5_without_a_password_in_clear_lets_nobody_in() {
    let host = host("").start();
    let mut client = client(&host, 25);
    let challenge = client.say("AUTH CRAM-MD5", 334).text();
    let empty = format!("bob@mx.test {}", "0".repeat(32));
    client.say(&base64(empty.as_bytes()), 535);
    assert_ne!(client.say("AUTH CRAM-MD5", 334).text(), challenge, "a challenge came twice");
    client.say("*", 501);
    assert_eq!(logged(&host, 1), ["vchkpw-smtp: password fail bob@mx.test:192.0.2.7"]);
}

#[test]
fn a_checkpassword_program_decides() {
    let setup = Setup::new();
    let script = setup.home().join("checkpassword.sh");
    let text = "#!/bin/sh\n\
        read=$(tr '\\0' '|' <&3)\n\
        case \"$read\" in\n\
        good@far.test\\|right\\|*) exec \"$@\" ;;\n\
        later@*) exit 111 ;;\n\
        misused@*) exit 2 ;;\n\
        killed@*) kill -9 $$ ;;\n\
        hanging@*) exec sleep 600 ;;\n\
        esac\n\
        exit 1\n";
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
    let program = format!("checkpassword: [\"{}\", \"/bin/true\"]", script.display());
    let setup = setup.smtpd(&format!(
        "proxies: [\"127.0.0.1\"], environment: {{\"SMTPAUTH\": \"\"}}, auth_in_clear: true, {program}"
    ));
    fs::write(setup.home().join("tcp.smtp"), ":allow\n").unwrap();
    setup.write();
    setup.run(&["qmailctl", "cdb"]).expect(0);
    let host = setup.field("programs", "(deadline: \"1s\")").start();
    let mut client = client(&host, 25);
    for (user, password, code) in [
        ("good@far.test", "wrong", 535),
        ("bob@mx.test", "secret-of-the-test", 535),
        ("later@far.test", "right", 454),
        ("misused@far.test", "right", 454),
        ("killed@far.test", "right", 454),
        ("hanging@far.test", "right", 454),
    ] {
        assert_eq!(client.auth_plain(user, password).unwrap().code, code, "{user}");
        assert_eq!(client.relay_code(), 553, "{user}");
    }
    client.auth_plain("good@far.test", "right").unwrap().expect(235);
    assert_eq!(client.relay_code(), 250);
    for (result, user) in [("failed", "good"), ("deferred", "later"), ("success", "good")] {
        host.wait_log(&format!("qmail-smtpd: pid * auth {result} {user}@far.test at 192.0.2.7"));
    }
    assert!(!host.log().contains("secret-of-the-test"), "a password is in the log");
}
