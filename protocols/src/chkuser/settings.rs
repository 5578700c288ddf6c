//! The variables that steer chkuser, as tcp.smtp sets them for a client (chkuser_settings.h).

/// A variable by its name.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<Vec<u8>>;

/// `CHKUSER_START`: for which domains recipients are looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// `NONE`, empty or unset: chkuser checks nothing.
    Never,
    /// `DOMAIN`: for those whose `.qmail-default` has `bounce-no-mailbox`.
    Domain,
    /// `ALWAYS`: for all virtual domains.
    Always,
}

/// What the variables say. Read them at each MAIL: AUTH sets RELAYCLIENT in the middle of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `CHKUSER_START`; [`Start::Never`] where the disabling variable is set.
    pub start: Start,
    /// `CHKUSER_RCPTLIMIT`: the recipient of this number in a session, and all after it, are refused; 0 for no limit.
    pub rcptlimit: u32,
    /// `CHKUSER_WRONGRCPTLIMIT`: after so many that do not exist every further recipient is refused; 0 for no limit.
    pub wrongrcptlimit: u32,
    /// `CHKUSER_MBXQUOTA`: mailboxes used to this percentage are full; 0 for no check.
    pub mbxquota: u32,
    /// `CHKUSER_IDENTIFY`: a word for the client in the log; empty if unset.
    pub identify: Vec<u8>,
    /// `CHKUSER_MUSTAUTH` is set and RELAYCLIENT is not: everything is refused.
    pub mustauth: bool,
    /// `CHKUSER_DOUBLEBOUNCE`: the sender `#@[]` is accepted.
    pub doublebounce: bool,
    /// Recipients must be well formed; `CHKUSER_RCPT_FORMAT_NOCHECK` is not set.
    pub rcpt_format: bool,
    /// Domains that are not in rcpthosts must take mail; `CHKUSER_RCPT_MX_NOCHECK` is not set.
    pub rcpt_mx: bool,
    /// Senders are checked: the sender-nocheck variable is not set.
    pub check_sender: bool,
    /// Senders must be well formed; `CHKUSER_SENDER_FORMAT_NOCHECK` is not set.
    pub sender_format: bool,
    /// Domains of senders must take mail; `CHKUSER_SENDER_MX_NOCHECK` is not set.
    pub sender_mx: bool,
    /// RELAYCLIENT is set.
    pub relayclient: bool,
}

/// A variable that says nothing chkuser knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{variable}=\"{value}\"; allowed: {allowed}")]
pub struct Error {
    /// Its name.
    pub variable: &'static str,
    /// Its value.
    pub value: String,
    /// What it may be.
    pub allowed: &'static str,
}

impl Settings {
    /// Reads the variables. `CHKUSER_DISABLE_VARIABLE` and `CHKUSER_SENDER_NOCHECK_VARIABLE` name the variables that, set
    /// to anything, switch chkuser or its checks of senders off; where they are unset `switch` is that variable:
    /// `RELAYCLIENT` in the toasters that build it so, none in chkuser as it ships.
    pub fn read(env: Env<'_>, switch: Option<&str>) -> Result<Self, Error> {
        let set = |variable: &str| env(variable).is_some();
        let switched = |name: &str| match env(name) {
            Some(variable) => set(&String::from_utf8_lossy(&variable)),
            None => switch.is_some_and(set),
        };
        let relayclient = set("RELAYCLIENT");
        let start = start(env)?;
        Ok(Self {
            start: if switched("CHKUSER_DISABLE_VARIABLE") { Start::Never } else { start },
            rcptlimit: number(env, "CHKUSER_RCPTLIMIT")?,
            wrongrcptlimit: number(env, "CHKUSER_WRONGRCPTLIMIT")?,
            mbxquota: number(env, "CHKUSER_MBXQUOTA")?,
            identify: env("CHKUSER_IDENTIFY").unwrap_or_default(),
            mustauth: set("CHKUSER_MUSTAUTH") && !relayclient,
            doublebounce: set("CHKUSER_DOUBLEBOUNCE"),
            rcpt_format: !set("CHKUSER_RCPT_FORMAT_NOCHECK"),
            rcpt_mx: !set("CHKUSER_RCPT_MX_NOCHECK"),
            check_sender: !switched("CHKUSER_SENDER_NOCHECK_VARIABLE"),
            sender_format: !set("CHKUSER_SENDER_FORMAT_NOCHECK"),
            sender_mx: !set("CHKUSER_SENDER_MX_NOCHECK"),
            relayclient,
        })
    }
}

fn start(env: Env<'_>) -> Result<Start, Error> {
    let variable = "CHKUSER_START";
    let value = env(variable).unwrap_or_default();
    match value.to_ascii_uppercase().as_slice() {
        b"" | b"NONE" => Ok(Start::Never),
        b"DOMAIN" => Ok(Start::Domain),
        b"ALWAYS" => Ok(Start::Always),
        _ => Err(error(variable, &value, "NONE, DOMAIN or ALWAYS")),
    }
}

fn number(env: Env<'_>, variable: &'static str) -> Result<u32, Error> {
    let value = env(variable).unwrap_or_default();
    let digits = value.trim_ascii();
    if digits.is_empty() {
        return Ok(0);
    }
    let text = std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
    text.and_then(|text| text.parse().ok())
        .ok_or_else(|| error(variable, &value, "0 to 4294967295, 0 for no limit"))
}

fn error(variable: &'static str, value: &[u8], allowed: &'static str) -> Error {
    Error { variable, value: String::from_utf8_lossy(value).into_owned(), allowed }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The settings of `A=x B=y`, and what is wrong with them.
    fn read(variables: &str, switch: Option<&str>) -> Result<Settings, Error> {
        let env = |name: &str| {
            let mut pairs = variables.split(' ').filter_map(|pair| pair.split_once('='));
            pairs.find(|(variable, _)| *variable == name).map(|(_, value)| value.as_bytes().to_vec())
        };
        Settings::read(&env, switch)
    }

    pub(in crate::chkuser) fn settings(variables: &str) -> Settings {
        read(variables, None).unwrap()
    }

    #[test]
    fn without_variables_nothing_is_checked() {
        let expected = Settings {
            start: Start::Never,
            rcptlimit: 0,
            wrongrcptlimit: 0,
            mbxquota: 0,
            identify: Vec::new(),
            mustauth: false,
            doublebounce: false,
            rcpt_format: true,
            rcpt_mx: true,
            check_sender: true,
            sender_format: true,
            sender_mx: true,
            relayclient: false,
        };
        assert_eq!(settings(""), expected);
    }

    #[test]
    fn each_variable() {
        type Change = fn(&mut Settings);
        let rows: [(&str, Change); 16] = [
            ("CHKUSER_START=", |_| {}),
            ("CHKUSER_START=none", |_| {}),
            ("CHKUSER_START=domain", |s| s.start = Start::Domain),
            ("CHKUSER_START=ALWAYS", |s| s.start = Start::Always),
            ("CHKUSER_RCPTLIMIT=15", |s| s.rcptlimit = 15),
            ("CHKUSER_WRONGRCPTLIMIT=3", |s| s.wrongrcptlimit = 3),
            ("CHKUSER_MBXQUOTA=99", |s| s.mbxquota = 99),
            ("CHKUSER_MBXQUOTA=", |_| {}),
            ("CHKUSER_IDENTIFY=office", |s| s.identify = b"office".to_vec()),
            ("CHKUSER_MUSTAUTH=", |s| s.mustauth = true),
            ("CHKUSER_DOUBLEBOUNCE=1", |s| s.doublebounce = true),
            ("CHKUSER_RCPT_FORMAT_NOCHECK=1", |s| s.rcpt_format = false),
            ("CHKUSER_RCPT_MX_NOCHECK=1", |s| s.rcpt_mx = false),
            ("CHKUSER_SENDER_FORMAT_NOCHECK=1", |s| s.sender_format = false),
            ("CHKUSER_SENDER_MX_NOCHECK=1", |s| s.sender_mx = false),
            ("CHKUSER_MUSTAUTH=1 RELAYCLIENT=", |s| s.relayclient = true),
        ];
        for (variables, change) in rows {
            let mut expected = settings("");
            change(&mut expected);
            assert_eq!(settings(variables), expected, "{variables}");
        }
    }

    #[test]
    fn which_variables_switch_checks_off() {
        let relay = Some("RELAYCLIENT");
        for (variables, switch, start, check_sender) in [
            ("", relay, Start::Always, true),
            ("RELAYCLIENT=", relay, Start::Never, false),
            ("RELAYCLIENT=", None, Start::Always, true),
            ("CHKUSER_DISABLE_VARIABLE=OFF", None, Start::Always, true),
            ("CHKUSER_DISABLE_VARIABLE=OFF OFF=", None, Start::Never, true),
            ("CHKUSER_DISABLE_VARIABLE=OFF RELAYCLIENT=", relay, Start::Always, false),
            ("CHKUSER_SENDER_NOCHECK_VARIABLE=OFF OFF=", None, Start::Always, false),
            ("CHKUSER_SENDER_NOCHECK_VARIABLE=OFF RELAYCLIENT=", relay, Start::Never, true),
        ] {
            let settings = read(&format!("CHKUSER_START=ALWAYS {variables}"), switch).unwrap();
            assert_eq!((settings.start, settings.check_sender), (start, check_sender), "{variables}");
        }
    }

    #[test]
    fn bad_values_are_named() {
        for (variables, message) in [
            ("CHKUSER_START=1", "CHKUSER_START=\"1\"; allowed: NONE, DOMAIN or ALWAYS"),
            ("CHKUSER_RCPTLIMIT=x", "CHKUSER_RCPTLIMIT=\"x\"; allowed: 0 to 4294967295, 0 for no limit"),
            ("CHKUSER_MBXQUOTA=-1", "CHKUSER_MBXQUOTA=\"-1\"; allowed: 0 to 4294967295, 0 for no limit"),
            (
                "CHKUSER_WRONGRCPTLIMIT=4294967296",
                "CHKUSER_WRONGRCPTLIMIT=\"4294967296\"; allowed: 0 to 4294967295, 0 for no limit",
            ),
        ] {
            assert_eq!(read(variables, None).unwrap_err().to_string(), message);
        }
    }
}
