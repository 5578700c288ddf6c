//! The control files: qmail's reading of them, and an error where qmail is silent.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use mailtree_config::Control;
use mailtree_config::control::Examined;
use mailtree_protocols::cdb::CdbMake;
use mailtree_protocols::smtproutes::{RelayHost, Route};

struct Dir(tempfile::TempDir);

impl Dir {
    /// A directory with these files; `me` unless it is among them.
    fn with(files: &[(&str, &str)]) -> Self {
        let dir = Self(tempfile::tempdir().unwrap());
        dir.write("me", "mail.example.org\n");
        files.iter().for_each(|(name, text)| dir.write(name, text));
        dir
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path().join(name), text).unwrap();
    }

    /// By renaming.
    fn replace(&self, name: &str, text: &str) {
        self.write("new", text);
        fs::rename(self.path().join("new"), self.path().join(name)).unwrap();
    }

    /// Makes a file look as if it had been changed long ago.
    fn age(&self, name: &str) {
        self.age_by(name, 3600);
    }

    fn age_by(&self, name: &str, seconds: u64) {
        let file = fs::File::open(self.path().join(name)).unwrap();
        let time = SystemTime::now() - Duration::from_secs(seconds);
        // Of the time of modification alone inotify says that the file was written into.
        file.set_times(fs::FileTimes::new().set_modified(time).set_accessed(time)).unwrap();
    }

    fn control(&self) -> Control {
        Control::new(self.path())
    }
}

#[test]
fn defaults() {
    let dir = Dir::with(&[]);
    let control = dir.control();
    let smtpd = control.smtpd().unwrap();
    assert_eq!(
        (smtpd.greeting.as_str(), smtpd.localiphost.as_str()),
        ("mail.example.org", "mail.example.org")
    );
    assert_eq!((smtpd.databytes, smtpd.timeoutsmtpd), (0, Duration::from_secs(1200)));
    assert!(smtpd.badmailfrom.matches(b"any@example.org").is_none());
    let send = control.send().unwrap();
    assert!(send.locals.contains(b"MAIL.example.org") && send.locals.len() == 1);
    assert!(send.virtualdomains.is_empty() && send.percenthack.is_empty());
    assert_eq!((send.concurrencylocal, send.concurrencyremote), (10, 20));
    assert_eq!(send.queuelifetime, Duration::from_secs(604_800));
    assert_eq!((send.bouncefrom.as_str(), send.bouncehost.as_str()), ("MAILER-DAEMON", "mail.example.org"));
    assert_eq!(
        (send.doublebounceto.as_str(), send.doublebouncehost.as_str()),
        ("postmaster", "mail.example.org")
    );
    assert_eq!(send.envnoathost, "mail.example.org");
    let remote = control.remote().unwrap();
    assert_eq!(remote.helohost, "mail.example.org");
    assert_eq!(
        (remote.timeoutconnect, remote.timeoutremote),
        (Duration::from_secs(60), Duration::from_secs(1200))
    );
    assert_eq!(*remote.smtproutes.lookup(b"example.net"), Route::Mx);
    assert_eq!(control.concurrencyincoming().unwrap(), 40);
}

#[test]
fn without_rcpthosts_nobody_is_relayed_for() {
    let dir = Dir::with(&[]);
    // qmail would accept mail for everybody here, and would not read morercpthosts.cdb.
    let mut more = CdbMake::new();
    more.add(b"example.net", b"").unwrap();
    fs::write(dir.path().join("morercpthosts.cdb"), more.finish()).unwrap();
    assert_eq!(dir.control().smtpd().unwrap().rcpthosts.allows(b"example.net"), Ok(false));
    dir.write("rcpthosts", "");
    assert_eq!(dir.control().smtpd().unwrap().rcpthosts.allows(b"example.net"), Ok(true));
    assert_eq!(dir.control().smtpd().unwrap().rcpthosts.allows(b"example.com"), Ok(false));
}

#[test]
fn every_file() {
    let dir = Dir::with(&[
        ("me", "host.example \t\nsecond line\n"),
        ("smtpgreeting", "host.example welcomes you\n"),
        ("databytes", "1000000 \n"),
        ("rcpthosts", "# comment\n\nexample.org  \n.example.net"),
        ("badmailfrom", "@bad.example\n"),
        ("timeoutsmtpd", "5"),
        ("localiphost", "ip.example\n"),
        ("locals", "a.example\nB.example\n"),
        ("virtualdomains", "v.example:v\n.w.example:w\n"),
        ("percenthack", "hack.example\n"),
        ("envnoathost", "noat.example\n"),
        ("bouncefrom", "daemon\n"),
        ("bouncehost", "bounce.example\n"),
        ("doublebounceto", "boss\n"),
        ("doublebouncehost", "double.example\n"),
        ("queuelifetime", "0\n"),
        ("concurrencylocal", "0\n"),
        ("concurrencyremote", "65000\n"),
        ("helohost", "helo.example\n"),
        ("smtproutes", "example.net:[127.0.0.1]:2600\n"),
        ("timeoutconnect", "1\n"),
        ("timeoutremote", "2\n"),
        ("concurrencyincoming", "100\n"),
    ]);
    let control = dir.control();
    let smtpd = control.smtpd().unwrap();
    assert_eq!((smtpd.me.as_str(), smtpd.greeting.as_str()), ("host.example", "host.example welcomes you"));
    assert_eq!((smtpd.databytes, smtpd.timeoutsmtpd.as_secs()), (1_000_000, 5));
    for (domain, expected) in [("example.org", true), ("a.example.net", true), ("example.net", false)] {
        assert_eq!(smtpd.rcpthosts.allows(domain.as_bytes()), Ok(expected), "{domain}");
    }
    assert!(smtpd.badmailfrom.matches(b"x@BAD.example").is_some());
    let send = control.send().unwrap();
    assert!(send.locals.contains(b"b.example") && !send.locals.contains(b"host.example"));
    assert_eq!(send.virtualdomains.prepend(b"joe@v.example", 3), Some(&b"v"[..]));
    assert!(send.percenthack.contains(b"hack.example"));
    assert_eq!((send.queuelifetime.as_secs(), send.concurrencylocal, send.concurrencyremote), (0, 0, 65000));
    assert_eq!((send.bouncefrom.as_str(), send.doublebounceto.as_str()), ("daemon", "boss"));
    let remote = control.remote().unwrap();
    let relay = Route::Relay { host: RelayHost::Address("127.0.0.1".parse().unwrap()), port: Some(2600) };
    assert_eq!(*remote.smtproutes.lookup(b"example.net"), relay);
    assert_eq!((remote.timeoutconnect.as_secs(), remote.timeoutremote.as_secs()), (1, 2));
    assert_eq!(control.concurrencyincoming().unwrap(), 100);
    let Examined { settings, problems, .. } = control.examine();
    assert_eq!(problems, []);
    for (name, value, origin) in [
        ("control/me", "host.example", "me:1"),
        ("control/rcpthosts", "example.org, .example.net", "rcpthosts"),
        ("control/databytes", "1000000", "databytes:1"),
        ("control/smtproutes", "example.net:[127.0.0.1]:2600", "smtproutes"),
    ] {
        let setting =
            settings.iter().find(|setting| setting.name == name).unwrap_or_else(|| panic!("{name}"));
        assert_eq!(setting.value, value, "{name}");
        assert!(setting.origin.to_string().ends_with(origin), "{name}: {}", setting.origin);
    }
    let mut names: Vec<&String> = settings.iter().map(|setting| &setting.name).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), settings.len(), "a setting stands there twice");
}

#[test]
fn bad_files_name_line_value_and_what_is_allowed() {
    for (name, text, parts) in [
        ("me", "", &["/me:1: ", "``", "allowed: one line"][..]),
        ("me", "two words\n", &["/me:1: `two words`", "allowed: one line"]),
        ("me", "b\u{fc}cher.example\n", &["/me:1: ", "visible ASCII"]),
        ("me", "host.example\r", &["/me:1: `host.example\\r`"]),
        ("me", "host.example\r\n", &["/me:1: the line ends in CR LF; allowed: plain text"]),
        (
            "me",
            "\u{feff}host.example\n",
            &["/me:1: the file begins with a byte order mark (ef bb bf); allowed:"],
        ),
        ("databytes", "10M\n", &["/databytes:1: `10M` is not allowed; allowed: a whole number from 0"]),
        ("databytes", "-1\n", &["/databytes:1: `-1`"]),
        ("databytes", "+1\n", &["/databytes:1: `+1`"]),
        ("databytes", "", &["/databytes:1: ``"]),
        ("databytes", "99999999999999999999\n", &["/databytes:1: ", "from 0 to 9223372036854775807"]),
        ("timeoutsmtpd", "0\n", &["/timeoutsmtpd:1: `0`", "from 1 to 86400"]),
        ("concurrencylocal", "65001\n", &["/concurrencylocal:1: `65001`", "from 0 to 65000"]),
        ("concurrencyincoming", "0\n", &["/concurrencyincoming:1: `0`", "from 1 to 65000"]),
        ("smtpgreeting", "a\u{7}b\n", &["/smtpgreeting:1: `a\\u{7}b`", "without control characters"]),
        ("virtualdomains", "a:b\n\nno colon\n", &["/virtualdomains:3: no colon"]),
        ("smtproutes", "a:b\n:c\r\n", &["/smtproutes:2: the line ends in CR LF"]),
        ("rcpthosts", "a\nb\r\n", &["/rcpthosts:2: the line ends in CR LF"]),
        ("rcpthosts", "a\nb\rc\n", &["/rcpthosts:2: the byte 0x0d is not allowed"]),
        ("virtualdomains", "\u{feff}a:b\n", &["/virtualdomains:1: the file begins with a byte order mark"]),
        ("locals", "\u{feff}", &["/locals:1: the file begins with a byte order mark"]),
        ("percenthack", "a\r\n", &["/percenthack:1: the line ends in CR LF"]),
        ("smtpgreeting", "a\r\n", &["/smtpgreeting:1: the line ends in CR LF"]),
        ("locals", "a\nb\0c\n", &["/locals:2: a NUL byte"]),
        ("morercpthosts.cdb", "junk", &["/morercpthosts.cdb: a cdb has at least 2048 bytes"]),
    ] {
        let dir = Dir::with(&[("rcpthosts", ""), (name, text)]);
        let control = dir.control();
        let Examined { settings, problems, .. } = control.examine();
        let [problem] = problems.as_slice() else { panic!("{name} {text:?}: {problems:#?}") };
        for part in parts {
            assert!(problem.to_string().contains(part), "{name} {text:?}: {problem} lacks {part}");
        }
        assert!(!problem.temporary);
        assert!(!format!("{problem} {settings:?}").contains("secret"), "{name}: a password is shown");
        let failed = [
            control.smtpd().err(),
            control.send().err(),
            control.remote().err(),
            control.concurrencyincoming().err(),
        ];
        assert!(failed.iter().any(Option::is_some), "{name} {text:?} is taken by all");
    }
}

#[test]
fn all_problems_are_named_at_once() {
    let dir = Dir::with(&[("databytes", "x"), ("timeoutsmtpd", "x")]);
    fs::remove_file(dir.path().join("me")).unwrap();
    let error = dir.control().smtpd().unwrap_err();
    let text = error.to_string();
    assert_eq!(error.problems.len(), 3, "{text}");
    assert!(text.contains("/me: missing; allowed: one line with the full name of this host"), "{text}");
    assert!(!error.is_temporary());
}

#[test]
fn a_change_is_seen_at_the_next_session() {
    let dir = Dir::with(&[("databytes", "1\n"), ("timeoutremote", "1\n")]);
    let control = dir.control();
    assert_eq!(control.smtpd().unwrap().databytes, 1);
    // By renaming, as qmail's and vpopmail's programs and most editors do.
    dir.replace("databytes", "2\n");
    assert_eq!(control.smtpd().unwrap().databytes, 2);
    // At once after that, within the same tick of the file system's clock.
    dir.replace("databytes", "3\n");
    assert_eq!(control.smtpd().unwrap().databytes, 3);
    // A new one.
    dir.write("smtpgreeting", "hello\n");
    assert_eq!(control.smtpd().unwrap().greeting, "hello");
    assert_eq!(control.remote().unwrap().timeoutremote.as_secs(), 1);
    dir.replace("timeoutremote", "9\n");
    assert_eq!(control.remote().unwrap().timeoutremote.as_secs(), 9);
    // In its place, when the writer has been quiet for a moment; of the same size.
    dir.write("databytes", "4\n");
    dir.age("databytes");
    assert_eq!(control.smtpd().unwrap().databytes, 4);
}

#[test]
fn what_is_being_written_is_not_obeyed_yet() {
    let dir = Dir::with(&[("rcpthosts", "a.example\nb.example\n")]);
    let control = dir.control();
    let takes = |domain: &str| control.smtpd().unwrap().rcpthosts.allows(domain.as_bytes()) == Ok(true);
    assert!(takes("a.example"));
    // Somebody has emptied the file and writes it anew, piece by piece.
    for text in ["", "c.example\n", "c.example\na.exam"] {
        dir.write("rcpthosts", text);
        assert!(takes("a.example") && takes("b.example") && !takes("c.example"), "{text:?}");
    }
    // Removed, to be made anew.
    fs::remove_file(dir.path().join("rcpthosts")).unwrap();
    assert!(takes("a.example"));
    // Made anew under its name, not whole yet.
    dir.write("rcpthosts", "c.example\na.exam");
    assert!(takes("b.example") && !takes("c.example"));
    dir.write("rcpthosts", "c.example\na.example\n");
    dir.age("rcpthosts");
    assert!(takes("a.example") && takes("c.example") && !takes("b.example"));
    // A file that stays away is missing.
    fs::remove_file(dir.path().join("rcpthosts")).unwrap();
    dir.age(".");
    assert!(!takes("a.example"));
}

/// A generator that takes its time: `make-them > control/virtualdomains`, or `rm` first.
#[test]
fn what_somebody_still_writes_is_not_obeyed_however_long_he_pauses() {
    let dir = Dir::with(&[
        ("virtualdomains", "a.example:a.example\n"),
        ("locals", "l.example\n"),
        ("databytes", "1\n"),
    ]);
    let control = dir.control();
    let has = |domain: &str| control.send().unwrap().virtualdomains.has_users(domain.as_bytes());
    let domain = |name: &str| format!("{name}:{name}\n");
    assert!(control.send().is_ok());
    let mut writer = fs::File::create(dir.path().join("virtualdomains")).unwrap();
    dir.age("virtualdomains");
    assert!(has("a.example"), "emptied, and open");
    writer.write_all(domain("b.example").as_bytes()).unwrap();
    dir.age("virtualdomains");
    assert!(has("a.example") && !has("b.example"), "a part, and open");
    writer.write_all(domain("c.example").as_bytes()).unwrap();
    drop(writer);
    dir.age("virtualdomains");
    assert!(!has("a.example") && has("b.example") && has("c.example"), "closed");
    // Emptied and closed; what fills it comes a few seconds later.
    dir.write("virtualdomains", "");
    dir.age_by("virtualdomains", 5);
    assert!(has("b.example"));
    fs::remove_file(dir.path().join("virtualdomains")).unwrap();
    dir.age_by(".", 5);
    assert!(has("b.example"));
    dir.write("virtualdomains", &domain("d.example"));
    dir.age("virtualdomains");
    assert!(has("d.example") && !has("b.example"));
    // One that stays empty is.
    dir.write("virtualdomains", "");
    dir.age("virtualdomains");
    assert!(!has("d.example"));
}

#[test]
fn what_has_not_changed_is_not_read_again() {
    let dir = Dir::with(&[("databytes", "1\n")]);
    dir.age("me");
    dir.age("databytes");
    let control = dir.control();
    let (first, second) = (control.smtpd().unwrap(), control.smtpd().unwrap());
    assert!(std::sync::Arc::ptr_eq(&first, &second));
}

#[test]
fn a_bad_change_leaves_in_force_what_was_there() {
    let dir = Dir::with(&[("databytes", "1\n"), ("locals", "a.example\n")]);
    let control = dir.control();
    control.smtpd().unwrap();
    control.send().unwrap();
    assert_eq!(control.problems_of_smtpd(), []);
    dir.replace("databytes", "lots\n");
    dir.replace("smtpgreeting", "never seen\n");
    assert_eq!(control.smtpd().unwrap().databytes, 1);
    assert_ne!(control.smtpd().unwrap().greeting, "never seen", "all or nothing");
    let [problem] = &control.problems_of_smtpd()[..] else { panic!("{:?}", control.problems_of_smtpd()) };
    assert!(problem.to_string().contains("/databytes:1: `lots`"), "{problem}");
    dir.replace("databytes", "5\n");
    assert_eq!(control.smtpd().unwrap().databytes, 5);
    assert_eq!(control.problems_of_smtpd(), []);
    // One that cannot be read for now.
    fs::remove_file(dir.path().join("databytes")).unwrap();
    fs::create_dir(dir.path().join("databytes")).unwrap();
    assert_eq!(control.smtpd().unwrap().databytes, 5);
    assert!(control.problems_of_smtpd()[0].temporary);

    dir.replace("locals", "b.example\r\n");
    assert!(control.send().unwrap().locals.contains(b"a.example"));
    assert!(control.send_anew().is_err(), "whoever asks for it hears of it");
    assert!(control.send().unwrap().locals.contains(b"a.example"));
    dir.write("locals", "b.example\n");
    assert!(control.send_anew().unwrap().locals.contains(b"b.example"), "at once");
}

#[test]
fn a_bad_route_concerns_its_domain_alone() {
    let text =
        ":relay.example\nbad.example:relay:user password\nno-colon.example relay\n.wild.example:a:b:c\n";
    let dir = Dir::with(&[("smtproutes", text)]);
    let control = dir.control();
    let remote = control.remote().unwrap();
    let cause = |domain: &str| match remote.smtproutes.lookup(domain.as_bytes()) {
        Route::Unknown { cause } => Some(cause.clone()),
        Route::Mx | Route::Relay { .. } => None,
    };
    for (domain, line) in [("bad.example", 2), ("no-colon.example", 3), ("x.wild.example", 4)] {
        let cause = cause(domain).unwrap();
        assert!(cause.contains(&format!("/smtproutes:{line}: ")), "{domain}: {cause}");
        assert!(!cause.contains("password"), "{cause}");
    }
    assert_eq!(cause("other.example"), None);
    let Examined { problems, warnings, .. } = control.examine();
    assert_eq!((problems.len(), warnings.len()), (0, 3), "{problems:?} {warnings:?}");
    assert_eq!(control.problems_of_send().len(), 3);
}

#[test]
fn percenthack_beside_rcpthosts_is_named() {
    let dir = Dir::with(&[
        ("rcpthosts", "a.example\n.b.example\n"),
        ("percenthack", "A.example\nx.b.example\nc.example\n"),
    ]);
    let Examined { problems, warnings, .. } = dir.control().examine();
    let texts: Vec<String> = warnings.iter().map(ToString::to_string).collect();
    assert!(problems.is_empty() && texts.len() == 2, "{problems:?} {texts:?}");
    assert!(
        texts[0].ends_with(
            "/percenthack: A.example is in rcpthosts, too: anybody may relay through user%anywhere@A.example"
        ),
        "{texts:?}"
    );
    assert!(texts[1].contains("x.b.example"), "{texts:?}");
}

#[test]
fn an_unreadable_file_is_temporary() {
    let dir = Dir::with(&[]);
    let control = dir.control();
    // A directory, since root may read every file.
    fs::create_dir(dir.path().join("databytes")).unwrap();
    let error = control.smtpd().unwrap_err();
    assert!(error.is_temporary() && error.to_string().contains("/databytes: unable to read"), "{error}");
    fs::remove_dir(dir.path().join("databytes")).unwrap();
    assert_eq!(control.smtpd().unwrap().databytes, 0);
    let loops = dir.path().join("rcpthosts");
    std::os::unix::fs::symlink(&loops, &loops).unwrap();
    assert_eq!(control.smtpd().unwrap().databytes, 0);
    assert!(control.problems_of_smtpd()[0].temporary);
}

#[test]
fn a_fifo_does_not_stop_the_reader() {
    let dir = Dir::with(&[]);
    let fifo = dir.path().join("rcpthosts");
    let made = std::process::Command::new("mkfifo").arg(&fifo).status().unwrap();
    assert!(made.success());
    assert!(dir.control().smtpd().unwrap_err().to_string().contains("not a regular file"));
}

#[test]
fn a_file_that_is_too_long() {
    let dir = Dir::with(&[]);
    let path = dir.path().join("locals");
    let file = fs::File::create(&path).unwrap();
    file.set_len((16 << 20) + 1).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(dir.control().send().unwrap_err().to_string().contains("/locals: the file is too long"));
}
