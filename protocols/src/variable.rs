//! The variables that rules of tcpserver and run scripts set: which this host obeys, which it does not, what they may be.

use crate::auth::smtpauth::SmtpAuth;
use crate::chkuser::settings::Settings;
use crate::spf::Behavior;

/// What becomes of a variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It does here what it did in qmail and its patches.
    Obeyed,
    /// Nothing here looks at it yet, and why.
    NotYet(&'static str),
    /// Of use to a run script alone.
    OfTheScript,
    /// Not known: programs of QMAILQUEUE and checkpassword get it.
    Stranger,
}

const OBEYED: [&str; 35] = [
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
    "CHKUSER_START",
    "CHKUSER_STARTING_VARIABLE",
    "CHKUSER_DISABLE_VARIABLE",
    "CHKUSER_RCPTLIMIT",
    "CHKUSER_WRONGRCPTLIMIT",
    "CHKUSER_MBXQUOTA",
    "CHKUSER_IDENTIFY",
    "CHKUSER_MUSTAUTH",
    "CHKUSER_DOUBLEBOUNCE",
    "CHKUSER_RCPT_FORMAT_NOCHECK",
    "CHKUSER_RCPT_MX_NOCHECK",
    "CHKUSER_SENDER_NOCHECK_VARIABLE",
    "CHKUSER_SENDER_FORMAT_NOCHECK",
    "CHKUSER_SENDER_MX_NOCHECK",
    "CHKUSER_EXTRA_MUSTAUTH_VARIABLE",
];

/// What other patches of toasters read, by the beginning of the name.
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
const OF_THE_SCRIPT: [&str; 18] = [
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "TERM", "PWD", "UID", "GID", "CERTFILE",
    "KEYFILE", "CAFILE", "CCAFILE", "CADIR", "DHFILE", "CIPHERS",
];

/// Variables that are whole numbers.
const NUMBERS: [&str; 3] = ["DATABYTES", "BRTLIMIT", "SMTPD_GREETDELAY"];

/// Letters that may be wrong in a name that is taken for another one; fewer in a short name.
const SLIPS: usize = 2;

/// What becomes of the variable of this name. Names are case-sensitive.
pub fn fate(name: &str) -> Fate {
    if OBEYED.contains(&name) {
        Fate::Obeyed
    } else if OF_THE_SCRIPT.contains(&name) {
        Fate::OfTheScript
    } else {
        let found = NOT_YET.iter().find(|(own, _)| name.starts_with(own));
        found.map_or(Fate::Stranger, |(_, why)| Fate::NotYet(why))
    }
}

/// The variable that was meant by a name that is none: the nearest one, if it is near. `custom`: names that mean something to
/// this host only, such as the variable that switches chkuser on.
pub fn meant<'a>(name: &str, custom: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if fate(name) != Fate::Stranger {
        return None;
    }
    let slips = |own: &str| strsim::damerau_levenshtein(&name.to_ascii_uppercase(), own);
    let near = |own: &&str| slips(own) <= SLIPS.min(own.len() / 4);
    let names = OBEYED.iter().copied().chain(custom);
    let mut names: Vec<&'a str> = names.collect();
    if names.contains(&name) {
        return None;
    }
    names.retain(near);
    names.into_iter().min_by_key(|own| slips(own))
}

/// What cannot be among the values of variables that are set together; `get` knows them.
pub fn bad_values(get: &dyn Fn(&str) -> Option<Vec<u8>>) -> Vec<String> {
    let mut bad = Vec::new();
    if let Some(value) = get("SMTPAUTH")
        && let Err(error) = SmtpAuth::parse(&value)
    {
        bad.push(error.to_string());
    }
    if let Some(value) = get("SPFBEHAVIOR")
        && String::from_utf8_lossy(&value).parse::<Behavior>().is_err()
    {
        bad.push(format!("SPFBEHAVIOR=\"{}\"; allowed: 0 to 6", value.escape_ascii()));
    }
    if let Err(error) = Settings::read(get, None) {
        bad.push(error.to_string());
    }
    for name in NUMBERS {
        if let Some(value) = get(name)
            && (value.is_empty() || !value.iter().all(u8::is_ascii_digit))
        {
            bad.push(format!("{name}=\"{}\"; allowed: a whole number", value.escape_ascii()));
        }
    }
    bad
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_nearly_one_is_named() {
        for (name, expected) in [
            ("RBLSMPTD", Some("RBLSMTPD")),
            ("CHKUSER_STRT", Some("CHKUSER_START")),
            ("relayclient", Some("RELAYCLIENT")),
            ("RELAYCLIENTS", Some("RELAYCLIENT")),
            ("QMAILQEUE", Some("QMAILQUEUE")),
            ("SPFBEHAVIOUR", Some("SPFBEHAVIOR")),
            ("SMTPSS", Some("SMTPS")),
            ("RBLSMTPD", None),
            ("DKQUEUE", None),
            ("PATH", None),
            ("OWN_FILTER_LEVEL", None),
            ("", None),
        ] {
            assert_eq!(meant(name, []), expected, "{name}");
        }
        assert_eq!(meant("MYCHKUSR", ["MYCHKUSER"]), Some("MYCHKUSER"));
        assert_eq!(meant("MYCHKUSER", ["MYCHKUSER"]), None);
    }

    #[test]
    fn values_that_cannot_be_are_named() {
        for (name, value, text) in [
            ("SPFBEHAVIOR", "x", "x"),
            ("SPFBEHAVIOR", "7", "7"),
            ("DATABYTES", "20MB", "DATABYTES=\"20MB\"; allowed: a whole number"),
            ("DATABYTES", "", "allowed: a whole number"),
            ("SMTPAUTH", "yes", "yes"),
            ("CHKUSER_START", "maybe", "CHKUSER_START"),
            ("CHKUSER_RCPTLIMIT", "many", "CHKUSER_RCPTLIMIT"),
        ] {
            let bad = bad_values(&|own| (own == name).then(|| value.as_bytes().to_vec()));
            assert!(matches!(&bad[..], [bad] if bad.contains(text)), "{name}={value}: {bad:?}");
        }
        for (name, value) in
            [("SPFBEHAVIOR", "3"), ("DATABYTES", "0"), ("SMTPAUTH", ""), ("CHKUSER_START", "DOMAIN")]
        {
            assert!(bad_values(&|own| (own == name).then(|| value.as_bytes().to_vec())).is_empty(), "{name}");
        }
    }
}
