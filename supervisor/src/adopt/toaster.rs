//! What a toaster may carry beyond qmail, and what becomes of it.

use super::{Old, Report};

/// What becomes of a variable of the old host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It does here what it did there.
    Obeyed,
    /// Nothing here looks at it yet.
    NotYet(&'static str),
    /// Of use to the run script alone.
    OfTheScript,
    /// Not known: programs of QMAILQUEUE and checkpassword get it.
    Stranger,
}

const OBEYED: [&str; 20] = [
    "RELAYCLIENT",
    "RBLSMTPD",
    "SPFBEHAVIOR",
    "QMAILQUEUE",
    "DATABYTES",
    "BRTLIMIT",
    "SMTPAUTH",
    "SMTPS",
    "FORCETLS",
    "DISABLETLS",
    "SMTPD_GREETDELAY",
    "NOBADHELO",
    "DISABLE_BADMAILFROM",
    "DISABLE_MAXRCPT",
    "LOGREGEX",
    "TCPREMOTEIP",
    "TCPREMOTEHOST",
    "TCPREMOTEINFO",
    "NOSPP",
    "SPPCONFFILE",
];

/// By the beginning of the name.
const NOT_YET: [(&str, &str); 22] = [
    ("DKIM", "DKIM: no message is signed or verified"),
    ("DK", "DomainKeys: no message is signed or verified"),
    ("SURBL", "surblfilter: the links in messages are not looked up"),
    ("BADMIMETYPE", "badmimetypes: use attach in control/simcontrol"),
    ("BADLOADERTYPE", "badloadertypes: use attach in control/simcontrol"),
    ("GREYLIST", "greylisting"),
    ("JGREYLIST", "greylisting"),
    ("GREYLITE", "greylisting"),
    ("DNSBLLIST", "qmail-dnsbl: put the lists into rblsmtpd in host.ron"),
    ("DNSBLSKIP", "qmail-dnsbl"),
    ("HELO_DNS_CHECK", "helodnscheck: names in HELO are not looked up"),
    ("HELODNSCHECK", "helodnscheck: names in HELO are not looked up"),
    ("RCPTCHECK", "rcptcheck: chkuser and validrcptto look at recipients"),
    ("OVERLIMIT", "overlimit: users are not counted"),
    ("QHPSI", "scanning in qmail-queue: use simscan"),
    ("QS_", "qmail-scanner's own: its program gets it"),
    ("TLSCIPHERS", "use control/tlsserverciphers"),
    ("NODNSCHECK", "a MAIL with a domain that does not exist: chkuser looks at it"),
    ("REQUIRE_AUTH", "use SMTPAUTH=\"!\""),
    ("REQUIRE_SSLTLS", "use FORCETLS"),
    ("SRS", "SRS: senders of forwarded mail stay as they are"),
    ("TARPIT", "tarpitting"),
];

/// What no session needs.
const OF_THE_SCRIPT: [&str; 12] =
    ["PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "TERM", "PWD", "UID", "GID", "CERTFILE"];

pub(super) fn variable(name: &str) -> Fate {
    if OBEYED.contains(&name) || name.starts_with("CHKUSER_") {
        return Fate::Obeyed;
    }
    if OF_THE_SCRIPT.contains(&name)
        || ["KEYFILE", "CAFILE", "CCAFILE", "CADIR", "DHFILE", "CIPHERS"].contains(&name)
    {
        return Fate::OfTheScript;
    }
    let found = NOT_YET.iter().find(|(own, _)| name.starts_with(own));
    found.map_or(Fate::Stranger, |(_, why)| Fate::NotYet(why))
}

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
