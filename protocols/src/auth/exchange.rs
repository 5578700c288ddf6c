//! The exchange of one AUTH command (RFC 4954 4) as a value: a line of the client in, the next step out.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::smtpauth::{Mechanism, SmtpAuth};
use super::{Credentials, Proof, cram};
use crate::reply::Refusal;

/// The longest line of an exchange, in bytes of base64. RFC 4954 4.5 allows mechanisms up to 12288; what ours send fits.
pub const LINE_MAX: usize = 1024;
/// The longest name, in bytes.
pub const NAME_MAX: usize = 255;

/// base64 of `Username:`.
const USERNAME: &[u8] = b"VXNlcm5hbWU6";
/// base64 of `Password:`.
const PASSWORD: &[u8] = b"UGFzc3dvcmQ6";

/// What comes next.
#[derive(Debug)]
pub enum Step {
    /// `334 ` and this text goes out, which may be empty; the client's next line belongs to the exchange.
    Challenge(Vec<u8>, Exchange),
    /// The exchange is over: these are to be verified.
    Done(Credentials),
    /// The exchange is over.
    Refused(Refusal),
}

/// An exchange that waits for a line of the client.
#[derive(Debug)]
pub struct Exchange(Awaited);

#[derive(Debug)]
enum Awaited {
    Plain,
    Username,
    Password { user: Vec<u8> },
    Cram { challenge: Vec<u8> },
}

impl Exchange {
    /// Begins: `AUTH MECHANISM [INITIAL]`. `challenge` is for CRAM-MD5 and must never be used twice:
    /// `<unique.time@host>`.
    pub fn start(mechanism: &[u8], initial: Option<&[u8]>, offered: &SmtpAuth, challenge: &[u8]) -> Step {
        let mechanism = Mechanism::parse(mechanism).filter(|&mechanism| offered.offers(mechanism));
        let (text, exchange) = match mechanism {
            None => return Step::Refused(Refusal::auth_type_unimplemented()),
            Some(Mechanism::Plain) => (Vec::new(), Self(Awaited::Plain)),
            Some(Mechanism::Login) => (USERNAME.to_vec(), Self(Awaited::Username)),
            // The server speaks first, so an initial response is an error (RFC 4954 4).
            Some(Mechanism::CramMd5) if initial.is_some() => return malformed(),
            Some(Mechanism::CramMd5) => (
                STANDARD.encode(challenge).into_bytes(),
                Self(Awaited::Cram { challenge: challenge.to_vec() }),
            ),
        };
        match initial {
            None => Step::Challenge(text, exchange),
            // An empty initial response (RFC 4954 4).
            Some(b"=") => exchange.response(Zeroizing::new(Vec::new())),
            Some(initial) => exchange.line(initial),
        }
    }

    /// Takes the client's line, without its CR LF.
    pub fn line(self, line: &[u8]) -> Step {
        if line == b"*" {
            return Step::Refused(Refusal::auth_canceled());
        }
        if line.len() > LINE_MAX {
            return malformed();
        }
        match STANDARD.decode(line) {
            Ok(response) => self.response(Zeroizing::new(response)),
            Err(_) => malformed(),
        }
    }

    fn response(self, response: Zeroizing<Vec<u8>>) -> Step {
        match self.0 {
            Awaited::Plain => plain(&response),
            Awaited::Username if is_name(&response) => {
                Step::Challenge(PASSWORD.to_vec(), Self(Awaited::Password { user: response.to_vec() }))
            }
            Awaited::Username => malformed(),
            Awaited::Password { user } => password(&user, &response),
            Awaited::Cram { challenge } => cram_md5(challenge, &response),
        }
    }
}

/// `authorization NUL authentication NUL password` (RFC 4616 2).
fn plain(response: &[u8]) -> Step {
    let mut parts = response.splitn(3, |&b| b == 0);
    let (Some(authorization), Some(user), Some(secret)) = (parts.next(), parts.next(), parts.next()) else {
        return malformed();
    };
    // Nobody may act for another.
    if !authorization.is_empty() && authorization != user {
        return if is_name(authorization) { Step::Refused(Refusal::auth_failed()) } else { malformed() };
    }
    password(user, secret)
}

fn password(user: &[u8], password: &[u8]) -> Step {
    if !is_name(user) || password.is_empty() || password.contains(&0) {
        return malformed();
    }
    let proof = Proof::Password(Zeroizing::new(password.to_vec()));
    Step::Done(Credentials { user: user.to_vec(), proof })
}

/// `user SP digest`; the name may hold spaces (RFC 2195 2).
fn cram_md5(challenge: Vec<u8>, response: &[u8]) -> Step {
    let space = memchr::memrchr(b' ', response).unwrap_or(0);
    let (user, rest) = response.split_at(space);
    match rest.strip_prefix(b" ").and_then(cram::digest) {
        Some(digest) if is_name(user) => {
            Step::Done(Credentials { user: user.to_vec(), proof: Proof::Cram { challenge, digest } })
        }
        _ => malformed(),
    }
}

fn is_name(name: &[u8]) -> bool {
    (1..=NAME_MAX).contains(&name.len()) && !name.iter().any(u8::is_ascii_control)
}

fn malformed() -> Step {
    Step::Refused(Refusal::auth_malformed())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CHALLENGE: &[u8] = b"<1.2@mx.example>";

    fn encoded(text: &str) -> String {
        STANDARD.encode(text)
    }

    fn shown(step: &Step) -> String {
        match step {
            Step::Challenge(text, _) => format!("334 {}", String::from_utf8_lossy(text)),
            Step::Refused(refusal) => format!("{} {}", refusal.code(), refusal.text()),
            Step::Done(Credentials { user, proof }) => match proof {
                Proof::Password(password) => {
                    format!("{} / {}", String::from_utf8_lossy(user), String::from_utf8_lossy(password))
                }
                Proof::Cram { digest, .. } => {
                    let hex = cram::hex(digest);
                    format!("{} / {}", String::from_utf8_lossy(user), String::from_utf8_lossy(&hex))
                }
            },
        }
    }

    /// The answers to `AUTH …` and to the lines behind it.
    fn dialogue(offered: &str, lines: &[&str]) -> Vec<String> {
        let offered = SmtpAuth::parse(offered.as_bytes()).unwrap();
        let (mechanism, initial) = match lines[0].split_once(' ') {
            Some((mechanism, initial)) => (mechanism, Some(initial.as_bytes())),
            None => (lines[0], None),
        };
        let mut step = Exchange::start(mechanism.as_bytes(), initial, &offered, CHALLENGE);
        let mut answers = vec![shown(&step)];
        for line in &lines[1..] {
            let Step::Challenge(_, exchange) = step else { panic!("over before {line}: {answers:?}") };
            step = exchange.line(line.as_bytes());
            answers.push(shown(&step));
        }
        answers
    }

    const MALFORMED: &str = "501 malformed auth input (#5.5.2)";
    const CANCELED: &str = "501 auth exchange canceled (#5.7.0)";
    const FAILED: &str = "535 authentication failed (#5.7.8)";
    const UNIMPLEMENTED: &str = "504 auth type unimplemented (#5.5.4)";
    const ASK_USER: &str = "334 VXNlcm5hbWU6";
    const ASK_PASSWORD: &str = "334 UGFzc3dvcmQ6";
    const ASK_CRAM: &str = "334 PDEuMkBteC5leGFtcGxlPg==";

    #[test]
    fn mechanisms_that_are_not_offered() {
        for (offered, line) in
            [("", "CRAM-MD5"), ("cram", "PLAIN"), ("cram", "LOGIN"), ("-", "PLAIN"), ("", "GSSAPI"), ("", "")]
        {
            assert_eq!(dialogue(offered, &[line]), [UNIMPLEMENTED], "{offered} {line}");
        }
    }

    #[test]
    fn plain() {
        let message = |text: &str| encoded(text);
        for (text, expected) in [
            ("\0joe@d\0secret", "joe@d / secret"),
            ("joe@d\0joe@d\0secret", "joe@d / secret"),
            ("\0jo e\0 s\u{e9}cret ", "jo e /  s\u{e9}cret "),
            ("max@d\0joe@d\0secret", FAILED),
            ("ma\nx\0joe@d\0secret", MALFORMED),
            ("JOE@d\0joe@d\0secret", FAILED),
            ("", MALFORMED),
            ("joe", MALFORMED),
            ("\0joe", MALFORMED),
            ("\0joe\0", MALFORMED),
            ("\0\0secret", MALFORMED),
            ("\0joe\0sec\0ret", MALFORMED),
            ("\0jo\ne\0secret", MALFORMED),
            ("\0jo\x7fe\0secret", MALFORMED),
        ] {
            let message = message(text);
            assert_eq!(dialogue("", &["plain", &message]), ["334 ", expected], "{text:?}");
            if !text.is_empty() {
                assert_eq!(dialogue("", &[&format!("PLAIN {message}")]), [expected], "{text:?}");
            }
        }
        for line in ["=", "==", "joe", "AGpvZQBzZWNyZXQ ", " AGpvZQBzZWNyZXQ=", "AGpv*"] {
            assert_eq!(dialogue("", &[&format!("PLAIN {line}")]), [MALFORMED], "{line}");
        }
    }

    #[test]
    fn login() {
        let (joe, secret, empty) = (encoded("joe@d"), encoded("secret"), "");
        let nul = encoded("se\0cret");
        for (lines, expected) in [
            (vec!["LOGIN", &joe, &secret], vec![ASK_USER, ASK_PASSWORD, "joe@d / secret"]),
            (vec!["LOGIN", &joe, empty], vec![ASK_USER, ASK_PASSWORD, MALFORMED]),
            (vec!["LOGIN", &joe, &nul], vec![ASK_USER, ASK_PASSWORD, MALFORMED]),
            (vec!["LOGIN", &joe, "*"], vec![ASK_USER, ASK_PASSWORD, CANCELED]),
            (vec!["LOGIN", "*"], vec![ASK_USER, CANCELED]),
            (vec!["LOGIN", empty], vec![ASK_USER, MALFORMED]),
            (vec!["LOGIN", &nul], vec![ASK_USER, MALFORMED]),
            (vec!["LOGIN ="], vec![MALFORMED]),
        ] {
            assert_eq!(dialogue("", &lines), expected, "{lines:?}");
        }
        let initial = format!("LOGIN {joe}");
        assert_eq!(dialogue("", &[&initial, &secret]), [ASK_PASSWORD, "joe@d / secret"]);
    }

    #[test]
    fn cram_md5() {
        let digest = "6adfaf93d175ef0dfda61d4d0e47eec9";
        for (text, expected) in [
            (format!("joe@d {digest}"), format!("joe@d / {digest}")),
            (format!("jo e {digest}"), format!("jo e / {digest}")),
            (format!(" {digest}"), MALFORMED.to_owned()),
            (digest.to_owned(), MALFORMED.to_owned()),
            ("joe@d".to_owned(), MALFORMED.to_owned()),
            (format!("joe@d {digest} "), MALFORMED.to_owned()),
            (format!("joe@d {digest}0"), MALFORMED.to_owned()),
            (format!("jo\0e {digest}"), MALFORMED.to_owned()),
        ] {
            let line = encoded(&text);
            assert_eq!(dialogue("+cram", &["cram-md5", &line]), [ASK_CRAM.to_owned(), expected], "{text:?}");
        }
        assert_eq!(dialogue("cram", &["CRAM-MD5", "*"]), [ASK_CRAM, CANCELED]);
        assert_eq!(dialogue("cram", &[&format!("CRAM-MD5 {}", encoded("joe x"))]), [MALFORMED]);
        let sent = cram::digest(digest.as_bytes()).unwrap();
        assert!(cram::verify(b"secret", CHALLENGE, &sent));
    }

    #[test]
    fn long_lines_and_names() {
        let name = |len| encoded(&"x".repeat(len));
        assert_eq!(dialogue("", &["LOGIN", &name(NAME_MAX)]), [ASK_USER, ASK_PASSWORD]);
        assert_eq!(dialogue("", &["LOGIN", &name(NAME_MAX + 1)]), [ASK_USER, MALFORMED]);
        let joe = encoded("joe");
        assert_eq!(dialogue("", &["LOGIN", &joe, &name(768)]).len(), 3);
        assert_eq!(dialogue("", &["LOGIN", &joe, &name(769)]), [ASK_USER, ASK_PASSWORD, MALFORMED]);
    }

    #[test]
    fn debug_shows_the_user_only() {
        let offered = SmtpAuth::parse(b"").unwrap();
        let step = Exchange::start(b"PLAIN", Some(encoded("\0joe\0secret").as_bytes()), &offered, b"");
        let shown = format!("{step:?}");
        assert!(shown.contains("joe") && !shown.contains("secret") && !shown.contains("115"), "{shown}");
    }

    proptest! {
        #[test]
        fn a_password_arrives_as_it_was_sent(user in "[!-~]{1,64}", password in "[^\0]{1,60}") {
            let message = encoded(&format!("\0{user}\0{password}"));
            prop_assert_eq!(dialogue("", &["PLAIN", &message]), ["334 ".to_owned(), format!("{user} / {password}")]);
        }

        #[test]
        fn no_line_panics(line in prop::collection::vec(any::<u8>(), 0..80), mechanism in 0..3_usize) {
            let offered = SmtpAuth::parse(b"+cram").unwrap();
            let mechanism = [&b"PLAIN"[..], b"LOGIN", b"CRAM-MD5"][mechanism];
            for line in [line.clone(), STANDARD.encode(&line).into_bytes()] {
                if let Step::Challenge(_, exchange) = Exchange::start(mechanism, None, &offered, CHALLENGE) {
                    exchange.line(&line);
                }
            }
        }
    }
}
