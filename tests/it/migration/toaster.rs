//! The toaster: its run scripts, control files, rules, domains with hundreds of users, and a queue in which mail waits.

use std::fs;
use std::os::unix::fs::{chown, symlink};
use std::path::Path;

use mailtree_protocols::cdb::CdbMake;
use mailtree_tests::dns::Dns;
use mailtree_tests::host::{Setup, free_port};
use mailtree_tests::letter::letter;
use mailtree_tests::maildir::Maildir;
use mailtree_tests::old_host::{OldHost, User};
use mailtree_tests::peer::Peer;
use mailtree_tests::qmail::{KINDS, Layout, Queue, write};
use tempfile::TempDir;

const SMTPD: &str = "\
#!/bin/sh
MAILHOSTNAME=`hostname`
QMAILDUID=`id -u vpopmail`
NOFILESGID=`id -g vpopmail`
MEMORYLIMIT=14680064 # 14MB
MAXSMTPD=`cat /var/qmail/control/concurrencyincoming`
PERIPLIMIT=16
BINDIPADDR=0 # 0 = any
BINDIPPORT=25
exec /usr/local/bin/softlimit -m $MEMORYLIMIT \\
  /usr/local/bin/tcpserver -v -H -R -l $MAILHOSTNAME -s $PERIPLIMIT \\
  -x /home/vpopmail/etc/tcp.smtp.cdb -c $MAXSMTPD \\
  -u $QMAILDUID -g $NOFILESGID $BINDIPADDR $BINDIPPORT \\
  /usr/local/bin/rblsmtpd -r bl.spamcop.net -r sbl.spamhaus.org -r cbl.abuseat.org \\
  /var/qmail/bin/qmail-smtpd /home/vpopmail/bin/vchkpw /bin/true 2>&1
";

const SUBMISSION: &str = "\
#!/bin/sh
export SMTPAUTH='!'
exec tcpserver -v -H -R -l 0 -c 20 -x /home/vpopmail/etc/tcp.smtp.cdb 0 587 \\
  /var/qmail/bin/qmail-smtpd /home/vpopmail/bin/vchkpw /bin/true 2>&1
";

const POP3S: &str = "\
#!/bin/sh
exec tcpserver -HRv 0 995 /usr/sbin/stunnel /var/qmail/control/pop3s.conf 2>&1
";

const STUNNEL: &str = "\
cert = /var/qmail/control/servercert.pem
exec = /var/qmail/bin/qmail-popup
execargs = qmail-popup mail.test /home/vpopmail/bin/vchkpw /var/qmail/bin/qmail-pop3d Maildir
";

/// The rules that are about somebody; thirty offices, and everybody, come behind them.
const RULES: &str = "\
# tcp.smtp
127.:allow,RELAYCLIENT=\"\",RBLSMTPD=\"\",QMAILQUEUE=\"/var/qmail/bin/qmail-queue\"
18.23.0.32:deny
203.0.113.10-20:deny
192.168.88.150:allow,RELAYCLIENT=\"\"
11.22.33.44:allow,SPFBEHAVIOR=\"0\",RBLSMTPD=\"\"
22.33.44.55:allow,RBLSMTPD=\"halt thy spam!\"
33.44.55.66:allow,RBLSMTPD=\"-halt thy spam!\"
44.55.66.77:allow,SPFBEHAVIOR=\"0\"
";

/// The password of every user, as crypt left it (MD5).
const HASH: &str = "$1$abcdefgh$xHQL1oI5V/zQUYw6.c68/1";
pub(super) const PASSWORD: &str = "old-password-1";

const QMAILQ: u32 = 7801;
const QMAILS: u32 = 7802;
pub(super) const QMAIL: u32 = 7803;
pub(super) const VPOPMAIL: u32 = 7889;

pub(super) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Who owns a directory of the queue in a qmail.
pub(super) fn owner(kind: &str) -> u32 {
    if ["info", "local", "remote", "bounce"].contains(&kind) { QMAILS } else { QMAILQ }
}

pub(super) fn rules(more: &str) -> String {
    let offices = (1..=30).map(|n| format!("198.51.100.{n}:allow,RELAYCLIENT=\"\"\n"));
    format!("{RULES}{}{more}:allow,QMAILQUEUE=\"/var/qmail/bin/simscan\"\n", offices.collect::<String>())
}

fn users(names: impl IntoIterator<Item = String>) -> Vec<User> {
    // The first hundred lie in the domain's directory, the next hundred in `0`, then in `1`: vpopmail's bigdir.
    let hashed = |(n, name): (usize, String)| {
        let dir = if n < 100 { name.clone() } else { format!("{}/{name}", n / 100 - 1) };
        User { name, password: HASH, dir }
    };
    names.into_iter().enumerate().map(hashed).collect()
}

/// A toaster, whose remote mail leaves by `smarthost`, but for some of it.
pub(super) struct Toaster {
    pub(super) old: OldHost,
    pub(super) queue: Queue,
    pub(super) smarthost: Peer,
    pub(super) example: Peer,
    dns: Dns,
    /// What waits, remote: their numbers.
    pub(super) deferred: Vec<u64>,
}

impl Toaster {
    pub(super) fn make() -> Self {
        let (old, smarthost, example) = (OldHost::empty(), Peer::obliging(), Peer::obliging());
        let domains = ["corp.test", "shop.test", "open.test", "small.test"];
        let names = |names: &[&str]| names.iter().map(|name| format!("{name}\n")).collect::<String>();
        let virtualdomains: Vec<_> =
            domains.iter().chain(&["alias.test"]).map(|name| format!("{name}:{name}")).collect();
        let virtualdomains: Vec<&str> = virtualdomains.iter().map(String::as_str).collect();
        let closed = free_port("127.0.0.1").port();
        let routes = format!(
            "{}{}.af.mil:\nclosed.test:[127.0.0.1]:{closed}\n",
            example.route("example.test"),
            smarthost.route("")
        );
        let more: String = (0..60).map(|n| format!("backup{n}.test\n")).collect();
        old.control(&[
            ("me", "mail.test\n"),
            ("defaultdomain", "test\n"),
            ("plusdomain", "test\n"),
            ("locals", "localhost\nmail.test\n"),
            ("rcpthosts", &names(&[&["localhost", "mail.test", "alias.test"][..], &domains].concat())),
            ("morercpthosts", &more),
            ("virtualdomains", &names(&virtualdomains)),
            ("smtproutes", &routes),
            ("concurrencyincoming", "30\n"),
            ("concurrencylocal", "20\n"),
            ("concurrencyremote", "40\n"),
            ("databytes", "20971520\n"),
            ("queuelifetime", "604800\n"),
            ("smtpgreeting", "mail.test\n"),
            ("spfbehavior", "3\n"),
            ("badmailfrom", "spammer@good.test\n@domain.tld\n"),
            ("badmailto", "u008@corp.test\n"),
            ("simcontrol", "shop.test:clam=yes,spam=no\n:clam=no,spam=no,attach=.vbs\n"),
            ("pop3s.conf", STUNNEL),
            ("defaultdelivery", "./Maildir/\n"),
        ]);
        let mut cdb = CdbMake::new();
        more.lines().try_for_each(|line| cdb.add(line.as_bytes(), b"")).unwrap();
        old.write("var/qmail/control/morercpthosts.cdb", cdb.finish());
        // A program of netqmail with chkuser says so somewhere in its texts.
        old.write("var/qmail/bin/qmail-smtpd", "\x7fELF\0sorry, no mailbox here by that name (chkuser)\0");
        for program in ["qmail-queue", "simscan", "qmail-inject", "sendmail"] {
            old.write(&format!("var/qmail/bin/{program}"), "\x7fELF\0");
        }
        old.write("var/qmail/rc", "#!/bin/sh\nexec env - PATH=\"/var/qmail/bin:$PATH\" qmail-start \"`cat /var/qmail/control/defaultdelivery`\"\n");
        old.service("qmail-smtpd", SMTPD);
        old.service("qmail-submission", SUBMISSION);
        old.service("qmail-pop3ds", POP3S);
        old.service("qmail-send", "#!/bin/sh\nexec /var/qmail/rc\n");
        old.rules(&rules(""));
        symlink("/home/vpopmail/etc/tcp.smtp", old.path("etc/tcp.smtp")).unwrap();
        let cdb = "tcprules /home/vpopmail/etc/tcp.smtp.cdb /home/vpopmail/etc/tcp.smtp.tmp < /etc/tcp.smtp";
        old.write("usr/bin/qmailctl", format!("#!/bin/sh\ncase \"$1\" in\n  cdb)\n    {cdb}\n  ;;\nesac\n"));

        let corp = (0..260).map(|n| format!("u{n:03}"));
        old.domain("corp.test", &users(corp), "bounce-no-mailbox");
        old.domain("shop.test", &users(["boss".to_owned()]), "bounce-no-mailbox");
        old.domain("open.test", &users(["boss".to_owned()]), "boss@open.test");
        old.domain("small.test", &users(["boss".to_owned()]), "delete");
        old.write(
            "home/vpopmail/domains/corp.test/.dir-control",
            "260\n0 3\n0 0 0\n61 61 61\n0 2 4\n1 0 0\n1\n",
        );
        for (name, text) in [
            ("corp.test/.qmail-sales", "&u003@corp.test\n"),
            ("corp.test/.qmail-first:last", "&u003@corp.test\n"),
            ("corp.test/.qmail-staff", "# everybody\n&u004@corp.test\n&u104@corp.test\nu204@corp.test\n"),
            ("corp.test/.qmail-away", "&someone@far.test\n"),
            ("corp.test/0/u199/.qmail", "&u003@corp.test\n"),
        ] {
            old.write(&format!("home/vpopmail/domains/{name}"), text);
        }
        for (name, text) in [
            ("postmaster", "&u006@corp.test\n"),
            ("mailer-daemon", "&postmaster\n"),
            ("root", "&postmaster\n"),
            ("list-default", "&u006@corp.test\n"),
        ] {
            old.write(&format!("var/qmail/alias/.qmail-{name}"), text);
        }
        if is_root() {
            own(&old.path("home/vpopmail"), VPOPMAIL, VPOPMAIL);
        }
        let assigned = domains.iter().map(|name| (*name, *name)).chain([("alias.test", "corp.test")]);
        old.assign(&assigned.collect::<Vec<_>>());

        let queue = Queue::make(old.path("var/qmail/queue"), Layout::QMAIL);
        let deferred = (0..5)
            .map(|n| {
                let to = format!("x@far{n}.test");
                queue.preprocessed(&letter(&format!("waits-{n}"), 900), "u001@corp.test", &[], &[&to])
            })
            .collect();
        queue.preprocessed(
            &letter("local", 300),
            "a@good.test",
            &["corp.test-u200@corp.test", "open.test-any@open.test"],
            &[],
        );
        // It has come as far as `alias.test`, and it was there when qmail-send was stopped.
        queue.inject(&letter("in-todo", 300), "a@good.test", &["u200@alias.test"]);
        let bouncing = queue.preprocessed(&letter("bouncing", 300), "u005@corp.test", &[], &["no@far.test"]);
        write(&queue.file("remote", bouncing), b"Dno@far.test\0", 0o600);
        write(&queue.file("bounce", bouncing), b"<no@far.test>:\nDoes not like recipient.\n\n", 0o600);
        if is_root() {
            for kind in KINDS.into_iter().chain(["pid", "lock"]) {
                own(&queue.path().join(kind), owner(kind), QMAIL);
            }
        }

        let dns = Dns::start();
        for list in ["bl.spamcop.net", "sbl.spamhaus.org", "cbl.abuseat.org"] {
            let name = format!("2.0.0.127.{list}");
            dns.address_of(&name, "127.0.0.2").txt(&name, "test");
        }
        for (reversed, list) in [
            ("66.2.0.192", "bl.spamcop.net"),
            ("44.33.22.11", "bl.spamcop.net"),
            ("67.2.0.192", "cbl.abuseat.org"),
        ] {
            let name = format!("{reversed}.{list}");
            dns.address_of(&name, "127.0.0.2").txt(&name, &format!("Blocked - see {list}"));
        }
        for name in ["good.test", "far.test", "spf.test", "broken.test", "domain.tld", "corp.test"] {
            dns.mx(name, 10, "mx.far.test");
        }
        dns.address_of("mx.far.test", "192.0.2.25").txt("spf.test", "v=spf1 ip4:192.0.2.1 -all");
        dns.txt("broken.test", "v=spf1 include:fails.test -all").fail("fails.test");
        Self { old, queue, smarthost, example, dns, deferred }
    }

    /// `adopt` into a home, as the README has it for a copy, and the home on ports of its own behind a load balancer.
    pub(super) fn adopt(&self) -> (Setup, TempDir) {
        self.adopt_with("clamd: \"127.0.0.1:1\"")
    }

    /// The same with these scanners.
    pub(super) fn adopt_with(&self, scanners: &str) -> (Setup, TempDir) {
        let parent = tempfile::tempdir().unwrap();
        let home = parent.path().join("home");
        self.old.adopt(&home, &["--listen", "127.0.0.1"]).expect(0);
        let mut text = fs::read_to_string(home.join("host.ron")).unwrap();
        for (from, to) in [
            ("127.0.0.1:25\"", "127.0.0.1:0\""),
            ("127.0.0.1:587\"", "127.0.0.1:0\""),
            ("127.0.0.1:11600\"", "127.0.0.1:0\""),
            (" smtpd(\n", " smtpd(\n            proxies: [\"127.0.0.1\"],\n"),
        ] {
            assert!(text.contains(from), "{from}: {text}");
            text = text.replace(from, to);
        }
        let dns = self.dns.address();
        let more = format!(
            "    grace: \"10s\",\n    queue: (segment: \"4MiB\"),\n    resolver: (servers: [\"{dns}\"], deadline: \"2s\"),\n    scanners: ({scanners}),\n\n    services:"
        );
        let text = text.replacen("    services:", &more, 1);
        let setup = Setup::existing(&home).host_ron(text, self.queue.path());
        setup.write();
        // A copy must not deliver to its original.
        let vpopmail = self.old.path("home/vpopmail").display().to_string();
        setup.run(&["relocate", "/home/vpopmail", &vpopmail]).expect(0);
        (setup, parent)
    }

    pub(super) fn maildir(&self, domain: &str, dir: &str) -> Maildir {
        Maildir::new(self.old.path(&format!("home/vpopmail/domains/{domain}/{dir}/Maildir")))
    }
}

/// Gives a directory and all in it to somebody.
pub(super) fn own(path: &Path, uid: u32, gid: u32) {
    chown(path, Some(uid), Some(gid)).unwrap();
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            own(&entry.unwrap().path(), uid, gid);
        }
    }
}
