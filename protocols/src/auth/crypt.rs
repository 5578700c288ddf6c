//! crypt(3): whether a password belongs to a stored hash.
//!
//! The hash names its own cost, so a user who can write it could stop the host: costs have an upper limit, tested
//! before the work begins. A verification takes 0.1 ms (DES) to about a second (bcrypt at the limit).

use argon2::Argon2;
use argon2::password_hash::phc;
use sha_crypt::ShaCrypt;
use yescrypt::{PasswordVerifier, Yescrypt};

use crate::vpasswd::PASSWORD_MAX;

/// The longest hash, in bytes; `$6$` with rounds takes 120.
pub const HASH_MAX: usize = 256;
/// The most rounds of `$5$` and `$6$`; 5000 when the hash names none.
pub const SHA_ROUNDS_MAX: u32 = 1_000_000;
/// The highest cost of bcrypt, a power of two.
pub const BCRYPT_COST_MAX: u32 = 14;
/// The longest password bcrypt sees whole, in bytes.
pub const BCRYPT_PASSWORD_MAX: usize = 72;
/// The most memory of yescrypt, in bytes; libxcrypt's usual `j9T` takes 16 MiB.
pub const YESCRYPT_MEMORY_MAX: u64 = 64 << 20;
/// The most memory of argon2id, in KiB.
pub const ARGON2_MEMORY_MAX: u32 = 64 << 10;
/// The most work of argon2id: KiB of memory times passes.
pub const ARGON2_WORK_MAX: u64 = 4 * (64 << 10);
/// The most lanes of argon2id.
pub const ARGON2_LANES_MAX: u32 = 16;

/// A hash of the form and cost new users get, of a password that nobody knows: verified when there is no user, so that
/// the time does not tell, as far as users have such hashes.
pub const DUMMY: &[u8] = b"$6$zU.Qe5mQkbkCX5pl$8/RgqKbzxd2S2Uerd6WJWLt2LTZW3KIOHMKyxZ0VonMLJDr3MawJ8A8lQAlwGzc1zhf0j48C8EyaZfATDRUH2/";

/// A stored hash that cannot be verified. What the password is worth stays unknown, so the failure is temporary.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unsupported {
    /// A form that is not known.
    #[error("unknown form of password hash; allowed: DES, $1$, $2a$, $2b$, $2y$, $5$, $6$, $y$, $argon2id$")]
    Form,
    /// The form is known but not its content.
    #[error("damaged password hash of the form {0}")]
    Damaged(&'static str),
    /// The hash would cost too much.
    #[error("the password hash asks for {asked} {what}; allowed: {allowed}")]
    Cost {
        /// What is asked for.
        what: &'static str,
        /// How much of it.
        asked: u64,
        /// The limit.
        allowed: u64,
    },
}

/// Whether `password` is the one of which `stored` is the hash.
///
/// A password longer than [`PASSWORD_MAX`], for bcrypt than [`BCRYPT_PASSWORD_MAX`], or with a NUL byte is never right.
/// Neither is any for an empty hash or one that begins with `*` or `!`, which lock an account (shadow(5)).
pub fn verify(stored: &[u8], password: &[u8]) -> Result<bool, Unsupported> {
    if stored.is_empty() || stored.starts_with(b"*") || stored.starts_with(b"!") {
        return Ok(false);
    }
    let text = std::str::from_utf8(stored).ok().filter(|text| {
        text.len() <= HASH_MAX && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"./$=,+-".contains(&b))
    });
    let text = text.ok_or(Unsupported::Form)?;
    let Some(verify) = form(text) else { return Err(Unsupported::Form) };
    if password.len() > PASSWORD_MAX || password.contains(&0) {
        return Ok(false);
    }
    verify(text, password)
}

type Verify = fn(&str, &[u8]) -> Result<bool, Unsupported>;

fn form(text: &str) -> Option<Verify> {
    match text.strip_prefix('$') {
        None => (text.len() == 13 && text.bytes().all(is_itoa64)).then_some(des),
        Some(rest) => match rest.split_once('$')?.0 {
            "1" => Some(md5),
            "5" | "6" => Some(sha),
            "2a" | "2b" | "2y" => Some(bcrypt),
            "y" => Some(yescrypt),
            "argon2id" => Some(argon2id),
            _ => None,
        },
    }
}

/// The digits of crypt(3): `./0-9A-Za-z`.
fn is_itoa64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"./".contains(&byte)
}

fn des(stored: &str, password: &[u8]) -> Result<bool, Unsupported> {
    Ok(pwhash::unix_crypt::verify(password, stored))
}

fn md5(stored: &str, password: &[u8]) -> Result<bool, Unsupported> {
    let damaged = Unsupported::Damaged("$1$");
    match *stored.split('$').collect::<Vec<_>>() {
        [_, _, salt, hash] if salt.len() <= 8 && hash.len() == 22 && (salt.bytes().all(is_itoa64)) => {
            Ok(pwhash::md5_crypt::verify(password, stored))
        }
        _ => Err(damaged),
    }
}

fn sha(stored: &str, password: &[u8]) -> Result<bool, Unsupported> {
    let (name, len) = if stored.starts_with("$5$") { ("$5$", 43) } else { ("$6$", 86) };
    let damaged = Unsupported::Damaged(name);
    let (rounds, hash) = match *stored.split('$').collect::<Vec<_>>() {
        [_, _, _, hash] => (None, hash),
        [_, _, rounds, _, hash] => (Some(rounds), hash),
        _ => return Err(damaged),
    };
    if let Some(rounds) = rounds {
        let rounds = rounds.strip_prefix("rounds=").and_then(number).ok_or(damaged.clone())?;
        limit("rounds", rounds, SHA_ROUNDS_MAX)?;
    }
    if hash.len() != len {
        return Err(damaged);
    }
    found(ShaCrypt::default().verify_password(password, stored), damaged)
}

fn bcrypt(stored: &str, password: &[u8]) -> Result<bool, Unsupported> {
    let damaged = || Unsupported::Damaged("$2b$");
    let cost = stored.split('$').nth(2).and_then(number).ok_or_else(damaged)?;
    limit("as the cost of bcrypt", cost, BCRYPT_COST_MAX)?;
    if password.len() > BCRYPT_PASSWORD_MAX {
        return Ok(false);
    }
    ::bcrypt::verify(password, stored).map_err(|_| damaged())
}

fn yescrypt(stored: &str, password: &[u8]) -> Result<bool, Unsupported> {
    let damaged = Unsupported::Damaged("$y$");
    // The library compares as many bytes as the hash has, so a shorter hash would be easier to meet, and an empty one
    // met by every password.
    let parameters = match *stored.split('$').collect::<Vec<_>>() {
        [_, _, parameters, _, hash] if hash.len() == 43 => parameters,
        _ => return Err(damaged),
    };
    // As crypt_gensalt writes them: the flavour, then N and r as one digit each. Longer ones have the optional
    // parameters, which nobody uses.
    let digit =
        |byte: u8| b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijkl".iter().position(|&b| b == byte);
    let (log2, blocks) = match *parameters.as_bytes() {
        [b'j', n, r] => match (digit(n), digit(r)) {
            (Some(n @ 9..), Some(r @ 7..)) => (n as u64 + 1, r as u64 + 1),
            _ => return Err(damaged),
        },
        _ => return Err(damaged),
    };
    limit("bytes of memory", (128 * blocks) << log2, YESCRYPT_MEMORY_MAX)?;
    found(Yescrypt::default().verify_password(password, stored), damaged)
}

fn argon2id(stored: &str, password: &[u8]) -> Result<bool, Unsupported> {
    let damaged = Unsupported::Damaged("$argon2id$");
    let hash = phc::PasswordHash::new(stored).map_err(|_| damaged.clone())?;
    let parameters = argon2::Params::try_from(&hash).map_err(|_| damaged.clone())?;
    if hash.salt.is_none() || hash.hash.is_none() {
        return Err(damaged);
    }
    limit("KiB of memory", parameters.m_cost(), ARGON2_MEMORY_MAX)?;
    let work = u64::from(parameters.m_cost()) * u64::from(parameters.t_cost());
    limit("KiB of memory times passes", work, ARGON2_WORK_MAX)?;
    limit("lanes", parameters.p_cost(), ARGON2_LANES_MAX)?;
    found(Argon2::default().verify_password(password, &hash), damaged)
}

fn number(digits: &str) -> Option<u32> {
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
}

fn limit(what: &'static str, asked: impl Into<u64>, allowed: impl Into<u64>) -> Result<(), Unsupported> {
    let (asked, allowed) = (asked.into(), allowed.into());
    if asked > allowed { Err(Unsupported::Cost { what, asked, allowed }) } else { Ok(()) }
}

fn found(verified: yescrypt::password_hash::Result<()>, damaged: Unsupported) -> Result<bool, Unsupported> {
    match verified {
        Ok(()) => Ok(true),
        Err(yescrypt::password_hash::Error::PasswordInvalid) => Ok(false),
        Err(_) => Err(damaged),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LONG: &str = "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx";

    /// Made by libxcrypt and by the program of argon2's authors.
    const HASHES: &[(&str, &str)] = &[
        ("secret", "abNANd1rDfiNc"),
        ("wörd", "./1pEFoReoV6o"),
        (LONG, "zZ1cP1Y42z2tI"),
        ("secret", "$1$saltsalt$9xy1btjgzLYfb7hivXtC//"),
        ("pass: w\"rd%", "$1$Ab./09zZ$cgTKFw3qUB0KhIIa68R/P0"),
        ("wörd", "$1$a$5y/m2jptme4hNNn2Ty894/"),
        (LONG, "$1$./09AZaz$068buHiCmafwCVkHo1R0F1"),
        ("secret", "$5$saltstring$C3o4O1TC6aRHF4FI.QSZMXtHbaj2gSXr4sUc/3NcUi."),
        ("pass: w\"rd%", "$5$Ab./09zZ$/ENCC2IAax1ZxJ2Jy3MzZdfPqeNH87GjmeavwfemSv7"),
        (LONG, "$5$rounds=1000$saltstringsaltst$zt/PtcPlXPJxMUqwoZuoIztDWvhkW.1/oiV5a/4aLQ0"),
        (
            "wörd",
            "$6$saltstring$mfVNE1n3rc0ebwH5hwMjVQuDRbM600..B3JJZYZAoRVxYwpzXhF/106WxYURcRYei.IXzW/nAv1v85p3Jnzmd1",
        ),
        (
            "secret",
            "$6$rounds=1400$anotherlongsalts$Twf2eP6WMY29NT9yg1Nff0x6Ul/TWD9vkV2VVPyEX7uifmXI0FHGx3rX27ttfZtfB9phxv3003yyBPq3nGFb8.",
        ),
        ("", "$6$x$QSmr1Bx2g4O6BzKvdkgOcyU6H91X6I/XBv5pSalMhSPkwdH6Beo3F455xZJg0v//bxVK5F4OE5k1.0xuR26MK0"),
        ("secret", "$2b$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW"),
        ("wörd", "$2a$04$abcdefghijklmnopqrstuuR9tCjFsqsiJ.Pc2CEWuWexMSnQqQQTi"),
        (LONG, "$2y$04$abcdefghijklmnopqrstuubzadhGtS2zEF.gu0yd0opP6cVzb.e0i"),
        ("pass: w\"rd%", "$y$j75$F5Jx5fExrKuPp53xLKQ..1$LJZLJD4L2VluZcT6rrOqU02B8zcnv/UL.mMzGYHW1R0"),
        ("secret", "$y$j75$saltsalt$0gBD67sgmJgRX3RZ6wHHO7sHimQEWGCWN85o4Twogh2"),
        ("wörd", "$y$j9T$F5Jx5fExrKuPp53xLKQ..1$qTJhrO3Gp73QlfrCmHbzGfYBAa0OYAXURJTcngRei72"),
        (
            "secret",
            "$argon2id$v=19$m=64,t=1,p=1$c2FsdHNhbHRzYWx0c2FsdA$+v0rf6ETYAIpqJIjJyARZ3W3zqJlkf+0TRXzsLHmR6o",
        ),
        ("secret", "$argon2id$v=19$m=256,t=2,p=2$c2FsdHNhbHRzYWx0c2FsdA$f3GwN1d1nOwaiaEtnOP3sg"),
    ];

    #[test]
    fn hashes_of_other_programs() {
        for &(password, hash) in HASHES {
            assert_eq!(verify(hash.as_bytes(), password.as_bytes()), Ok(true), "{hash}");
            let wrong = format!("y{password}");
            assert_eq!(verify(hash.as_bytes(), wrong.as_bytes()), Ok(false), "{hash}");
        }
        assert_eq!(verify(DUMMY, b"secret"), Ok(false));
    }

    #[test]
    fn a_cut_hash_fits_no_password() {
        for &(password, hash) in HASHES {
            for len in hash.rfind('$').map_or(1, |dollar| dollar)..hash.len() {
                let verified = verify(&hash.as_bytes()[..len], password.as_bytes());
                assert!(!matches!(verified, Ok(true)), "{}", &hash[..len]);
            }
        }
    }

    #[test]
    fn passwords_that_are_never_right() {
        let (des, bcrypt) = (HASHES[2].1, HASHES[15].1);
        for (hash, password) in [
            (des, "x".repeat(PASSWORD_MAX + 1)),
            ("abNANd1rDfiNc", "secret\0".to_owned()),
            (bcrypt, format!("{LONG}x")),
            ("", String::new()),
            ("", "x".to_owned()),
            ("*", "*".to_owned()),
            ("!abNANd1rDfiNc", "secret".to_owned()),
            ("*0", String::new()),
        ] {
            assert_eq!(verify(hash.as_bytes(), password.as_bytes()), Ok(false), "{hash}");
        }
        assert_eq!(verify(des.as_bytes(), "x".repeat(PASSWORD_MAX).as_bytes()), Ok(true));
    }

    #[test]
    fn hashes_that_cannot_be_verified() {
        let cost = |what, asked, allowed| Unsupported::Cost { what, asked, allowed };
        let (sha, half) = ("x".repeat(86), "x".repeat(43));
        for (hash, expected) in [
            ("x".to_owned(), Unsupported::Form),
            ("secret".to_owned(), Unsupported::Form),
            ("abNANd1rDfiN".to_owned(), Unsupported::Form),
            ("abNANd1rDf-Nc".to_owned(), Unsupported::Form),
            ("{SSHA}abcdefg".to_owned(), Unsupported::Form),
            ("$".to_owned(), Unsupported::Form),
            ("$6".to_owned(), Unsupported::Form),
            ("$3$x$x".to_owned(), Unsupported::Form),
            ("$apr1$x$x".to_owned(), Unsupported::Form),
            ("$2x$04$x".to_owned(), Unsupported::Form),
            ("$argon2i$v=19$m=64,t=1,p=1$c2FsdHNhbHQ$AAAA".to_owned(), Unsupported::Form),
            ("\u{e9}bNANd1rDfiN".to_owned(), Unsupported::Form),
            (format!("$1$s$s{}", "x".repeat(300)), Unsupported::Form),
            ("$1$".to_owned(), Unsupported::Damaged("$1$")),
            ("$1$saltsaltx$9xy1btjgzLYfb7hivXtC//".to_owned(), Unsupported::Damaged("$1$")),
            ("$1$salt$9xy1btjgzLYfb7hivXtC//$".to_owned(), Unsupported::Damaged("$1$")),
            ("$6$salt$".to_owned(), Unsupported::Damaged("$6$")),
            (format!("$6$rounds=10$salt${sha}"), Unsupported::Damaged("$6$")),
            (format!("$6$rounds=+5000$salt${sha}"), Unsupported::Damaged("$6$")),
            (format!("$6$rounds=$salt${sha}"), Unsupported::Damaged("$6$")),
            (format!("$6$$${sha}"), Unsupported::Damaged("$6$")),
            (format!("$6$rounds=1000001$salt${sha}"), cost("rounds", 1_000_001, 1_000_000)),
            (format!("$5$rounds=999999999$salt${half}"), cost("rounds", 999_999_999, 1_000_000)),
            ("$2b$15$abc".to_owned(), cost("as the cost of bcrypt", 15, 14)),
            ("$2b$xx$abc".to_owned(), Unsupported::Damaged("$2b$")),
            ("$2b$04$abc".to_owned(), Unsupported::Damaged("$2b$")),
            ("$y$j9T$saltsalt$".to_owned(), Unsupported::Damaged("$y$")),
            (format!("$y$j9T$salt\u{24}salt${half}"), Unsupported::Damaged("$y$")),
            (format!("$y$$salt${half}"), Unsupported::Damaged("$y$")),
            (format!("$y$j/5$salt${half}"), Unsupported::Damaged("$y$")),
            (format!("$y$j953/2$salt${half}"), Unsupported::Damaged("$y$")),
            (format!("$y$jzz$salt${half}"), Unsupported::Damaged("$y$")),
            (format!("$y$jCT$salt${half}"), cost("bytes of memory", 128 << 20, 64 << 20)),
            (format!("$y$jll$salt${half}"), cost("bytes of memory", (128 * 50) << 50, 64 << 20)),
            ("$argon2id$v=19$m=64,t=1,p=1".to_owned(), Unsupported::Damaged("$argon2id$")),
            ("$argon2id$v=19$m=64,t=1,p=1$c2FsdHNhbHQ".to_owned(), Unsupported::Damaged("$argon2id$")),
            (
                "$argon2id$v=19$m=65537,t=1,p=1$c2FsdHNhbHQ$f3GwN1d1nOwaiaEtnOP3sg".to_owned(),
                cost("KiB of memory", 65537, 65536),
            ),
            (
                "$argon2id$v=19$m=65536,t=5,p=1$c2FsdHNhbHQ$f3GwN1d1nOwaiaEtnOP3sg".to_owned(),
                cost("KiB of memory times passes", 5 << 16, 4 << 16),
            ),
            (
                "$argon2id$v=19$m=65536,t=1,p=17$c2FsdHNhbHQ$f3GwN1d1nOwaiaEtnOP3sg".to_owned(),
                cost("lanes", 17, 16),
            ),
        ] {
            let error = verify(hash.as_bytes(), b"secret").unwrap_err();
            assert_eq!(error, expected, "{hash}");
            assert!(!error.to_string().contains("salt"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_hash_panics(
            form in prop::sample::select(vec!["", "$1$", "$2b$04$", "$5$", "$6$", "$y$j", "$y$j75$", "$argon2id$v=19$m=8,"]),
            rest in "[-./0-9A-Za-z$=,+]{0,70}",
            password in prop::collection::vec(any::<u8>(), 0..140),
        ) {
            let verified = verify(format!("{form}{rest}").as_bytes(), &password);
            prop_assert!(!matches!(verified, Ok(true)));
        }
    }
}
