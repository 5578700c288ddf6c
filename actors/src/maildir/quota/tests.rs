use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Command, Output};

use super::*;

struct Maildir(tempfile::TempDir);

fn quota(text: &str) -> Option<Quota> {
    Some(Quota::parse(text.as_bytes()).unwrap())
}

impl Maildir {
    fn new() -> Self {
        let maildir = Self(tempfile::tempdir().unwrap());
        maildir.folder("");
        maildir
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("Maildir")
    }

    /// Makes a folder, as others do: the Maildir itself has no name.
    fn folder(&self, name: &str) {
        for sub in ["new", "cur", "tmp"] {
            fs::create_dir_all(self.path().join(name).join(sub)).unwrap();
        }
        if !name.is_empty() {
            self.write(&format!("{name}/maildirfolder"), "");
        }
    }

    fn write(&self, file: &str, text: &str) {
        fs::write(self.path().join(file), text).unwrap();
    }

    fn size(&self) -> Option<String> {
        fs::read_to_string(self.path().join(NAME)).ok()
    }

    fn usage(&self) -> (u64, u64) {
        let usage = usage(&self.path()).unwrap();
        (usage.bytes, usage.messages)
    }

    fn admit(&self, text: &str, size: u64) -> Option<Admitted> {
        self.admit_in("", quota(text), size)
    }

    fn admit_in(&self, folder: &str, quota: Option<Quota>, size: u64) -> Option<Admitted> {
        match admit(&self.path().join(folder), quota, size).unwrap() {
            Admission::Admitted(admitted) => Some(admitted),
            Admission::Over => None,
        }
    }

    /// As if nobody had touched it for so long.
    fn age(&self, file: &str, seconds: u64) {
        let file = File::open(self.path().join(file)).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(seconds)).unwrap();
    }
}

#[test]
fn a_quota_is_kept_from_the_first_message_on() {
    let maildir = Maildir::new();
    maildir.write("new/1.a.mx,S=400", "");
    maildir.write("cur/2.b.mx:2,S", &"x".repeat(500));
    maildir.write("cur/3.c.mx,S=9000:2,ST", "");
    let first = maildir.admit("1000S,3C", 100).unwrap();
    assert_eq!(maildir.size().unwrap(), "1000S,3C\n900 2\n");
    assert_eq!(first.percent, 90);
    first.count().unwrap();
    assert_eq!(maildir.size().unwrap(), "1000S,3C\n900 2\n100 1\n");
    first.take_back().unwrap();
    assert_eq!(maildir.usage(), (900, 2));
    assert!(maildir.admit("1000S,3C", 100).is_some(), "it is full to the last byte");
    assert!(maildir.admit("1000S,3C", 101).is_none());
    // That was counted anew: it had more than one line.
    assert_eq!(maildir.size().unwrap(), "1000S,3C\n900 2\n");
    assert_eq!(fs::read_dir(maildir.path().join("tmp")).unwrap().count(), 0);
}

#[test]
fn who_is_over_quota_is_counted_once_in_fifteen_minutes() {
    let maildir = Maildir::new();
    maildir.write("new/1.a.mx,S=400", "");
    assert!(maildir.admit("500S", 101).is_none());
    fs::remove_file(maildir.path().join("new/1.a.mx,S=400")).unwrap();
    assert!(maildir.admit("500S", 101).is_none(), "what was counted is believed");
    maildir.age(NAME, 15 * 60 - 5);
    assert!(maildir.admit("500S", 101).is_none());
    maildir.age(NAME, 15 * 60 + 1);
    assert!(maildir.admit("500S", 101).is_some());
    assert_eq!(maildir.size().unwrap(), "500S\n0 0\n");
}

#[test]
fn a_file_that_is_long_or_of_another_quota_is_written_anew() {
    let maildir = Maildir::new();
    maildir.write("new/1.a.mx,S=400", "");
    let lines = "0 0\n".repeat(1280);
    maildir.write(NAME, &format!("500S\n1 1\n{lines}"));
    assert!(maildir.admit("500S", 1).is_some());
    assert_eq!(maildir.size().unwrap(), "500S\n400 1\n");
    assert!(maildir.admit("500S,7C", 1).is_some());
    assert_eq!(maildir.size().unwrap(), "500S,7C\n400 1\n");
    maildir.write(NAME, "500S,7C\n-5 1\n");
    assert!(maildir.admit("500S,7C", 101).is_none());
}

#[test]
fn folders_count_and_the_trash_does_not() {
    let maildir = Maildir::new();
    for folder in [".Sent", ".Trash", ".list.a"] {
        maildir.folder(folder);
        maildir.write(&format!("{folder}/cur/1.a.mx,S=100:2,S"), "");
    }
    // vpopmail makes its own so.
    fs::create_dir_all(maildir.path().join(".Junk/new")).unwrap();
    maildir.write(".Junk/new/1.a.mx,S=7", "");
    maildir.write(".file", "");
    let sent = maildir.admit_in(".Sent", quota("1000S"), 50).unwrap();
    assert_eq!(maildir.size().unwrap(), "1000S\n207 3\n");
    sent.count().unwrap();
    assert_eq!(maildir.usage(), (257, 4));
    assert!(!maildir.path().join(".Sent/maildirsize").exists());
    let trash = maildir.admit_in(".Trash", quota("1000S"), 5000).unwrap();
    trash.count().unwrap();
    assert_eq!(maildir.usage(), (257, 4));
    assert!(maildir.admit_in(".Sent", quota("1000S"), 794).is_none());
}

#[test]
fn without_a_quota_nothing_is_written_but_what_is_kept_is_kept() {
    let maildir = Maildir::new();
    for quota in [quota("NOQUOTA"), None] {
        maildir.admit_in("", quota, u64::MAX).unwrap().count().unwrap();
    }
    assert_eq!(maildir.size(), None);
    maildir.write(NAME, "100S\n90 1\n");
    maildir.write("new/1.a.mx,S=90", "");
    maildir.admit("NOQUOTA", 200).unwrap().count().unwrap();
    assert_eq!(maildir.size().unwrap(), "100S\n90 1\n200 1\n");
    // What a .qmail file names has the quota that its maildirsize says.
    assert!(maildir.admit_in("", None, 11).is_none());
    assert_eq!(maildir.size().unwrap(), "100S\n90 1\n");
    assert!(maildir.admit_in("", None, 10).is_some());
}

#[test]
fn a_maildir_that_is_not_there_yet_holds_nothing() {
    let maildir = Maildir(tempfile::tempdir().unwrap());
    let admitted = maildir.admit("100S", 100).unwrap();
    assert!(maildir.admit("100S", 101).is_none());
    admitted.count().unwrap();
    maildir.folder("");
    admitted.count().unwrap();
    assert_eq!(maildir.size(), None, "the next message is counted with it");
}

#[test]
fn links_lead_nowhere() {
    let maildir = Maildir::new();
    let elsewhere = Maildir::new();
    elsewhere.write("new/1.a.mx,S=400", "");
    elsewhere.write(NAME, "1000S\n400 1\n");
    symlink(elsewhere.path(), maildir.path().join(".Other")).unwrap();
    maildir.folder(".Sent");
    fs::remove_dir(maildir.path().join(".Sent/cur")).unwrap();
    symlink(elsewhere.path().join("new"), maildir.path().join(".Sent/cur")).unwrap();
    symlink(elsewhere.path().join(NAME), maildir.path().join(NAME)).unwrap();
    maildir.admit("1000S", 700).unwrap().count().unwrap();
    assert_eq!(maildir.size().unwrap(), "1000S\n0 0\n700 1\n");
    // Nor does a second name of a file.
    fs::remove_file(maildir.path().join(NAME)).unwrap();
    fs::hard_link(elsewhere.path().join(NAME), maildir.path().join(NAME)).unwrap();
    let admitted = maildir.admit("NOQUOTA", 5).unwrap();
    admitted.count().unwrap();
    assert_eq!(elsewhere.size().unwrap(), "1000S\n400 1\n");
    assert!(maildir.admit("1000S", 700).is_some());
    assert_eq!(
        (maildir.size().unwrap(), elsewhere.size().unwrap()),
        ("1000S\n0 0\n".into(), "1000S\n400 1\n".into())
    );
    // tmp is no way out.
    fs::remove_file(maildir.path().join(NAME)).unwrap();
    fs::remove_dir(maildir.path().join("tmp")).unwrap();
    symlink(elsewhere.path().join("tmp"), maildir.path().join("tmp")).unwrap();
    assert!(admit(&maildir.path(), quota("1000S"), 1).is_err());
    // A FIFO is not waited for.
    rustix::fs::mknodat(CWD, maildir.path().join(NAME), FileType::Fifo, Mode::RWXU, 0).unwrap();
    assert!(admit(&maildir.path(), quota("1000S"), 1).is_err(), "tmp is still a link");
    fs::remove_file(maildir.path().join("tmp")).unwrap();
    fs::create_dir(maildir.path().join("tmp")).unwrap();
    assert!(maildir.admit("1000S", 1).is_some());
    assert_eq!(maildir.size().unwrap(), "1000S\n0 0\n");
}

#[test]
fn deliveries_at_once_lose_no_line() {
    let maildir = Maildir::new();
    maildir.write(NAME, "9000S\n0 0\n");
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..20 {
                    maildir.admit("9000S", 50).unwrap().count().unwrap();
                }
            });
        }
    });
    assert_eq!(maildir.usage(), (8000, 160));
}

#[test]
fn counts_at_once_leave_one_whole_file() {
    let maildir = Maildir::new();
    maildir.write("new/1.a.mx,S=400", "");
    std::thread::scope(|scope| {
        for n in 0..8 {
            let maildir = &maildir;
            scope.spawn(move || maildir.admit(&format!("{}S", 1000 + n), 1).unwrap());
        }
    });
    assert_eq!(maildir.usage(), (400, 1));
    assert_eq!(fs::read_dir(maildir.path().join("tmp")).unwrap().count(), 0);
}

#[test]
fn a_user_is_warned_once_a_day() {
    let maildir = Maildir::new();
    let due = || warning_is_due(&maildir.path()).unwrap();
    assert_eq!((due(), due()), (true, false));
    maildir.age("quotawarn", 24 * 60 * 60 - 5);
    assert!(!due());
    maildir.age("quotawarn", 24 * 60 * 60);
    assert_eq!((due(), due()), (true, false));
    fs::remove_file(maildir.path().join("quotawarn")).unwrap();
    let target = maildir.0.path().join("target");
    symlink(&target, maildir.path().join("quotawarn")).unwrap();
    assert!(warning_is_due(&maildir.path()).is_err() && !target.exists());
}

#[test]
fn texts_of_the_domain_before_those_of_all() {
    let home = tempfile::tempdir().unwrap();
    let domain = home.path().join("v.test");
    fs::create_dir(&domain).unwrap();
    let found = |name: &str| text(&domain, home.path(), name).unwrap();
    assert_eq!(found(".over-quota.msg"), None);
    fs::write(home.path().join(".over-quota.msg"), "full\n").unwrap();
    assert_eq!(found(".over-quota.msg").unwrap(), b"full\n");
    fs::write(domain.join(".over-quota.msg"), "x".repeat(100_000)).unwrap();
    assert_eq!(found(".over-quota.msg").unwrap().len(), 65536);
}

fn output(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// Courier's programs in maildrop's package, and this host, on one Maildir.
mod needs_maildrop {
    use super::*;

    fn make(arguments: &[&str], maildir: &Maildir) {
        let made = output(Command::new("maildirmake.maildrop").args(arguments).arg(maildir.path()));
        assert!(made.status.success(), "{made:?}");
    }

    /// The exit code of its delivery of a message.
    fn deliver(maildir: &Maildir, folder: &str, size: usize) -> Option<i32> {
        let message = maildir.0.path().join("message");
        fs::write(&message, "x".repeat(size)).unwrap();
        let mut command = Command::new("/usr/sbin/deliverquota.maildrop");
        command.arg(maildir.path().join(folder)).stdin(File::open(&message).unwrap());
        output(&mut command).status.code()
    }

    #[test]
    fn courier_goes_on_where_this_host_has_written_and_back() {
        let maildir = Maildir(tempfile::tempdir().unwrap());
        make(&[], &maildir);
        make(&["-q", "1000S,9C"], &maildir);
        make(&["-f", "Sent"], &maildir);
        assert_eq!(deliver(&maildir, "", 300), Some(0));
        assert_eq!(deliver(&maildir, ".Sent", 200), Some(0));
        let theirs = maildir.size().unwrap();
        assert!(theirs.starts_with("1000S,9C\n") && theirs.lines().count() == 4, "{theirs}");
        // What it wrote is read as it means it, and nothing is counted.
        let admitted = maildir.admit("1000S,9C", 400).unwrap();
        assert_eq!((admitted.percent, maildir.size().unwrap()), (50, theirs));
        maildir.write("new/1.a.mx,S=400", &"x".repeat(400));
        admitted.count().unwrap();
        // It reads ours: 900 are used.
        assert_eq!(deliver(&maildir, "", 101), Some(77));
        assert_eq!(deliver(&maildir, "", 100), Some(0));
        // Its count and ours are the same.
        fs::remove_file(maildir.path().join(NAME)).unwrap();
        assert!(maildir.admit("1000S,9C", 1).is_none());
        let ours = maildir.size().unwrap();
        assert_eq!(deliver(&maildir, "", 1), Some(77));
        maildir.write(NAME, "1000S,9C\n1000 3\n0 1\n");
        assert_eq!(deliver(&maildir, "", 1), Some(77));
        let theirs = maildir.size().unwrap();
        let numbers = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(numbers(&ours), numbers(&theirs));
    }
}

/// Dovecot's quota backend `maildir`, as a user that is not root.
mod needs_dovecot {
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::process::CommandExt as _;

    use super::*;

    const NOBODY: u32 = 65534;

    /// What it says is used, bytes in KiB, after it was told to do something.
    fn doveadm(maildir: &Maildir, arguments: &[&str]) -> String {
        let home = maildir.0.path();
        let conf = home.join("conf");
        let text = format!(
            "base_dir = {0}/run\nstate_dir = {0}/state\nlog_path = /dev/stderr\nssl = no\n\
             mail_location = maildir:{0}/Maildir\nmail_plugins = quota\n\
             plugin {{\n quota = maildir:q\n quota_rule = *:bytes=100000:messages=9\n}}\n",
            home.display()
        );
        fs::write(&conf, text).unwrap();
        fs::set_permissions(home, fs::Permissions::from_mode(0o755)).unwrap();
        let mut command = Command::new("doveadm");
        command.arg("-c").arg(&conf).args(arguments).env("USER", "u").env("HOME", home);
        if rustix::process::geteuid().is_root() {
            output(Command::new("chown").arg("-R").arg(format!("{NOBODY}:{NOBODY}")).arg(maildir.path()));
            command.uid(NOBODY).gid(NOBODY);
        }
        let message = home.join("message");
        fs::write(&message, format!("Subject: x\n\n{}\n", "x".repeat(2988))).unwrap();
        let done = output(command.stdin(File::open(&message).unwrap()));
        assert!(done.status.success(), "{done:?}");
        String::from_utf8(done.stdout).unwrap()
    }

    fn used(maildir: &Maildir) -> Vec<String> {
        let table = doveadm(maildir, &["-f", "tab", "quota", "get"]);
        table.lines().skip(1).filter_map(|line| line.split('\t').nth(2).map(str::to_owned)).collect()
    }

    #[test]
    fn dovecot_goes_on_where_this_host_has_written_and_back() {
        let maildir = Maildir::new();
        maildir.write("new/1.a.mx,S=40960", &"x".repeat(40960));
        let admitted = maildir.admit("100000S,9C", 20480).unwrap();
        maildir.write("new/2.a.mx,S=20480", &"x".repeat(20480));
        admitted.count().unwrap();
        let ours = maildir.size().unwrap();
        assert_eq!(used(&maildir), ["60", "2"]);
        doveadm(&maildir, &["save"]);
        let theirs = maildir.size().unwrap();
        assert!(theirs.starts_with(&ours) && theirs.lines().count() == 4, "{theirs}");
        let (bytes, messages) = maildir.usage();
        assert!((64440..=64600).contains(&bytes) && messages == 3, "{bytes} {messages}");
        // It believes what it finds, and counts as this host does.
        maildir.write(NAME, "100000S,9C\n5120 1\n");
        assert_eq!(used(&maildir), ["5", "1"]);
        fs::remove_file(maildir.path().join(NAME)).unwrap();
        used(&maildir);
        let theirs = maildir.size().unwrap();
        fs::remove_file(maildir.path().join(NAME)).unwrap();
        maildir.admit("100000S,9C", 1).unwrap();
        assert_eq!(maildir.size().unwrap().trim_end(), theirs.trim_end());
    }
}
