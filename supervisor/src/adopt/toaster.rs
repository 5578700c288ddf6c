//! What a toaster may carry beyond qmail, and what becomes of it.

use super::{Old, Report};

/// Programs of qmail's directory by which a patch or an addition is known.
const PROGRAMS: [(&str, &str); 8] = [
    ("qmail-dk", "DomainKeys: runs only where QMAILQUEUE names it"),
    ("qmail-dkim", "DKIM: runs only where QMAILQUEUE names it"),
    ("surblfilter", "surblfilter: the links in messages are not looked up"),
    ("helodnscheck", "helodnscheck: names in HELO are not looked up"),
    ("rcptcheck", "rcptcheck: chkuser and validrcptto look at recipients"),
    ("rcptcheck-overlimit", "overlimit: users are not counted"),
    ("srsfilter", "SRS: senders of forwarded mail stay as they are"),
    ("spawn-filter", "spawn-filter: filterargs is not looked at, so nothing signs outgoing mail"),
];

/// Looks for those that lie in qmail's directory.
pub(super) fn examine(old: &Old, report: &mut Report) {
    for (name, why) in PROGRAMS {
        let place =
            [old.qmail.join("bin").join(name), old.qmail.join(name), old.qmail.join("plugins").join(name)];
        if let Some(path) = place.iter().find(|path| path.exists()) {
            report.not_yet(name, path.display().to_string(), why);
        }
    }
    for (name, why) in [
        ("open-smtp", "relaying after POP: use AUTH; the addresses in it are not read"),
        ("vpopmail.mysql", "users in MySQL: they can log in through vchkpw, and get no mail yet"),
        ("vpopmail.pgsql", "users in PostgreSQL: they can log in through vchkpw, and get no mail yet"),
    ] {
        let path = old.vpopmail.join("etc").join(name);
        if path.metadata().is_ok_and(|file| file.len() > 0) {
            report.not_yet(name, path.display().to_string(), why);
        }
    }
    for (name, why) in [
        (
            "qmail-inject",
            "mail from programs of this host: it goes through the old queue's todo/, which is listened to",
        ),
        ("sendmail", "mail from programs of this host: the same way"),
    ] {
        let path = old.qmail.join("bin").join(name);
        if path.exists() {
            report.ignored(name, path.display().to_string(), why);
        }
    }
}
