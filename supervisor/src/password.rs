//! Passwords of new users: chosen by chance, hashed as crypt(3) does with `$6$`.

use sha_crypt::{PasswordHasher, ShaCrypt};

use mailtree_protocols::vpasswd::PASSWORD_MAX;

use crate::failure::Failure;

/// Characters of a password chosen by chance, without those that are mistaken for each other.
const CHARACTERS: &[u8] = b"abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789";

/// Length of a password chosen by chance: about 93 bits.
pub(crate) const LENGTH: usize = 16;

/// Characters of the shortest password that is taken on a terminal (NIST SP 800-63B 5.1.1.2).
pub(crate) const SHORTEST: usize = 8;

/// Bytes of salt, which become 16 characters.
const SALT: usize = 12;

/// A password of this many characters.
pub(crate) fn random(length: usize) -> String {
    (0..length).map(|_| char::from(CHARACTERS[rand::random_range(0..CHARACTERS.len())])).collect()
}

/// Whether a password can be used: 1 to 128 bytes without control characters, which no client could send.
pub(crate) fn check(password: &str) -> Result<(), Failure> {
    if !(1..=PASSWORD_MAX).contains(&password.len()) || password.chars().any(char::is_control) {
        let text = format!(
            "this password is not allowed; allowed: 1 to {PASSWORD_MAX} bytes without control characters"
        );
        return Err(Failure::permanent(text));
    }
    Ok(())
}

/// Whether it is shorter than whoever chooses one should be let.
pub(crate) fn is_short(password: &str) -> bool {
    password.chars().count() < SHORTEST
}

/// `$6$…` with a salt of its own.
pub(crate) fn hash(password: &str) -> Result<String, Failure> {
    let salt: [u8; SALT] = rand::random();
    let hash = ShaCrypt::SHA512.hash_password_with_salt(password.as_bytes(), &salt);
    hash.map(|hash| hash.to_string())
        .map_err(|error| Failure::temporary(format!("unable to hash the password: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha_crypt::{PasswordHash, PasswordVerifier};

    #[test]
    fn a_hash_is_verified_and_never_the_same_twice() {
        let hash = hash("secret").unwrap();
        assert!(hash.starts_with("$6$"), "{hash}");
        assert!(!hash.contains(':') && !hash.contains('\n'));
        let parsed = PasswordHash::new(&hash).unwrap();
        ShaCrypt::default().verify_password(b"secret", &parsed).unwrap();
        assert!(ShaCrypt::default().verify_password(b"Secret", &parsed).is_err());
        assert_ne!(hash, super::hash("secret").unwrap());
    }

    #[test]
    fn chance() {
        assert_eq!(random(LENGTH).len(), LENGTH);
        assert_ne!(random(LENGTH), random(LENGTH));
        check(&random(LENGTH)).unwrap();
    }

    #[test]
    fn passwords_that_cannot_be_used() {
        for password in ["", "a\nb", "a\0b", &"x".repeat(129)] {
            assert!(check(password).unwrap_err().is_permanent(), "{password:?}");
        }
        check("pass: wörd").unwrap();
    }
}
