//! The cipher suites, and what `tlsserverciphers` says about them in OpenSSL's words (ciphers(1)).
//!
//! These nine are all there are. Each has forward secrecy and authenticated encryption; there is none with CBC, RC4,
//! 3DES, SHA-1, RSA key exchange or without authentication, so no word can bring one back.
//!
//! | TLS 1.3 | TLS 1.2 |
//! |---|---|
//! | `TLS_AES_256_GCM_SHA384` | `ECDHE-ECDSA-AES256-GCM-SHA384`, `ECDHE-RSA-AES256-GCM-SHA384` |
//! | `TLS_AES_128_GCM_SHA256` | `ECDHE-ECDSA-AES128-GCM-SHA256`, `ECDHE-RSA-AES128-GCM-SHA256` |
//! | `TLS_CHACHA20_POLY1305_SHA256` | `ECDHE-ECDSA-CHACHA20-POLY1305`, `ECDHE-RSA-CHACHA20-POLY1305` |

use tokio_rustls::rustls::CipherSuite;

use super::files;

/// A suite: its number, OpenSSL's name, and every other word that means it.
struct Suite(CipherSuite, &'static str, &'static [&'static str]);

const SUITES: [Suite; 9] = {
    use CipherSuite as C;
    [
        Suite(C::TLS13_AES_256_GCM_SHA384, "TLS_AES_256_GCM_SHA384", &[]),
        Suite(C::TLS13_AES_128_GCM_SHA256, "TLS_AES_128_GCM_SHA256", &[]),
        Suite(C::TLS13_CHACHA20_POLY1305_SHA256, "TLS_CHACHA20_POLY1305_SHA256", &[]),
        Suite(
            C::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
            "ECDHE-ECDSA-AES256-GCM-SHA384",
            &["aECDSA", "ECDSA", "AES", "AES256", "AESGCM", "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"],
        ),
        Suite(
            C::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
            "ECDHE-ECDSA-AES128-GCM-SHA256",
            &["aECDSA", "ECDSA", "AES", "AES128", "AESGCM", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"],
        ),
        Suite(
            C::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
            "ECDHE-ECDSA-CHACHA20-POLY1305",
            &["aECDSA", "ECDSA", "CHACHA20", "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"],
        ),
        Suite(
            C::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
            "ECDHE-RSA-AES256-GCM-SHA384",
            &["aRSA", "AES", "AES256", "AESGCM", "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"],
        ),
        Suite(
            C::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
            "ECDHE-RSA-AES128-GCM-SHA256",
            &["aRSA", "AES", "AES128", "AESGCM", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"],
        ),
        Suite(
            C::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
            "ECDHE-RSA-CHACHA20-POLY1305",
            &["aRSA", "CHACHA20", "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"],
        ),
    ]
};

/// Words that mean every suite of TLS 1.2.
const ALL: [&str; 9] = ["ALL", "DEFAULT", "HIGH", "ECDHE", "EECDH", "kECDHE", "kEECDH", "ECDH", "TLSv1.2"];

impl Suite {
    fn is_tls13(&self) -> bool {
        self.2.is_empty()
    }

    /// Whether `word`, or every word of `a+b`, means it. OpenSSL's classes mean no suite of TLS 1.3.
    fn is(&self, word: &str) -> bool {
        word.split('+')
            .all(|word| self.1 == word || self.2.contains(&word) || (!self.is_tls13() && ALL.contains(&word)))
    }
}

/// What `tlsserverciphers` chooses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ciphers {
    /// The suites that may be used; never none.
    pub(super) suites: Vec<CipherSuite>,
    /// Words that mean no suite there is.
    pub(super) unknown: Vec<String>,
}

impl Default for Ciphers {
    fn default() -> Self {
        Self { suites: SUITES.map(|suite| suite.0).into(), unknown: Vec::new() }
    }
}

impl Ciphers {
    /// The suites of TLS 1.3 alone: what is left when nobody can say which of TLS 1.2 were meant.
    pub(super) fn tls13() -> Self {
        let suites = SUITES.iter().filter(|suite| suite.is_tls13()).map(|suite| suite.0).collect();
        Self { suites, unknown: Vec::new() }
    }

    /// Reads `tlsserverciphers`: an OpenSSL cipher list, its words apart by `:`, `,`, `;`, white space or lines. `WORD`
    /// adds suites, `-WORD` takes them away, `!WORD` does so for good; `+WORD` and `@WORD` order a list, which has no
    /// order here: the client's decides. As in OpenSSL a list without a TLS 1.3 name leaves those suites as they are.
    /// A file without a word is no choice. Unlike in OpenSSL a word nobody knows is told.
    ///
    /// # Errors
    /// A list that means no suite there is.
    pub(super) fn parse(contents: &[u8]) -> Result<Self, &'static str> {
        let text = files::lines(contents).map(String::from_utf8_lossy).collect::<Vec<_>>().join(":");
        let separator = |c: char| matches!(c, ':' | ',' | ';') || c.is_whitespace();
        let words: Vec<&str> = text.split(separator).filter(|word| !word.is_empty()).collect();
        if words.is_empty() {
            return Ok(Self::default());
        }
        let tls13 = |word: &&str| SUITES.iter().any(|suite| suite.is_tls13() && suite.is(word));
        let names_tls13 = words.iter().any(tls13);
        let mut chosen = SUITES.each_ref().map(|suite| suite.is_tls13() && !names_tls13);
        let mut never = [false; SUITES.len()];
        let mut unknown = Vec::new();
        for word in words {
            let (sign, name) = match word.split_at_checked(1) {
                Some((sign @ ("!" | "-" | "+" | "@"), name)) => (sign, name),
                _ => ("", word),
            };
            let mut known = false;
            for ((suite, chosen), never) in SUITES.iter().zip(&mut chosen).zip(&mut never) {
                if !suite.is(name) {
                    continue;
                }
                known = true;
                match sign {
                    "" => *chosen = true,
                    "-" => *chosen = false,
                    "!" => *never = true,
                    _ => (),
                }
            }
            if sign.is_empty() && !known {
                unknown.push(word.to_owned());
            }
        }
        let left = SUITES.iter().zip(chosen).zip(never).filter(|((_, chosen), never)| *chosen && !never);
        let left: Vec<_> = left.map(|((suite, _), _)| suite).collect();
        if left.is_empty() || !(names_tls13 || left.iter().any(|suite| !suite.is_tls13())) {
            return Err("names no cipher suite there is");
        }
        Ok(Self { suites: left.into_iter().map(|suite| suite.0).collect(), unknown })
    }
}

/// OpenSSL's name of a suite, as the Received line shows it.
pub(super) fn name(suite: CipherSuite) -> &'static str {
    SUITES.iter().find(|known| known.0 == suite).map_or("unknown", |known| known.1)
}

#[cfg(test)]
mod tests {
    use tokio_rustls::rustls::crypto::aws_lc_rs::ALL_CIPHER_SUITES;

    use super::*;

    fn parsed(text: &str) -> Result<String, &'static str> {
        let ciphers = Ciphers::parse(text.as_bytes())?;
        let names: Vec<_> = ciphers.suites.into_iter().map(name).collect();
        Ok(format!("{} / {}", names.join(" "), ciphers.unknown.join(" ")))
    }

    #[test]
    fn the_suites_are_these_and_no_others() {
        let ours: Vec<_> = Ciphers::default().suites.into_iter().map(|suite| (name(suite), suite)).collect();
        let theirs: Vec<_> = ALL_CIPHER_SUITES.iter().map(|suite| suite.suite()).collect();
        assert_eq!(ours.iter().map(|(_, suite)| *suite).collect::<Vec<_>>(), theirs);
        for (name, _) in ours {
            assert!(name.starts_with("TLS_") || name.starts_with("ECDHE-"), "{name}");
            assert!(name.contains("GCM") || name.contains("CHACHA20"), "{name}");
        }
    }

    #[test]
    fn a_list_chooses() {
        const TLS13: &str = "TLS_AES_256_GCM_SHA384 TLS_AES_128_GCM_SHA256 TLS_CHACHA20_POLY1305_SHA256";
        let all = Ciphers::default().suites.into_iter().map(name).collect::<Vec<_>>().join(" ");
        let table = [
            ("", format!("{all} / ")),
            ("# none\n\n", format!("{all} / ")),
            ("HIGH:!aNULL:!MD5:@STRENGTH\n", format!("{all} / ")),
            ("DEFAULT", format!("{all} / ")),
            ("ECDHE-RSA-AES256-GCM-SHA384", format!("{TLS13} ECDHE-RSA-AES256-GCM-SHA384 / ")),
            ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", format!("{TLS13} ECDHE-RSA-AES128-GCM-SHA256 / ")),
            (
                "AES256-SHA:DES-CBC3-SHA\nECDHE-RSA-AES128-GCM-SHA256",
                format!("{TLS13} ECDHE-RSA-AES128-GCM-SHA256 / AES256-SHA DES-CBC3-SHA"),
            ),
            ("EECDH+AESGCM+aRSA, -AES128", format!("{TLS13} ECDHE-RSA-AES256-GCM-SHA384 / ")),
            ("!CHACHA20:ALL:-aECDSA:!AES256:HIGH", {
                format!("{TLS13} ECDHE-ECDSA-AES128-GCM-SHA256 ECDHE-RSA-AES128-GCM-SHA256 / ")
            }),
            ("TLS_AES_256_GCM_SHA384", "TLS_AES_256_GCM_SHA384 / ".into()),
            (
                "TLS_AES_256_GCM_SHA384:ECDHE-ECDSA-AES256-GCM-SHA384",
                "TLS_AES_256_GCM_SHA384 ECDHE-ECDSA-AES256-GCM-SHA384 / ".into(),
            ),
            (
                "ECDHE-RSA-CHACHA20-POLY1305:!TLS_AES_128_GCM_SHA256",
                "TLS_AES_256_GCM_SHA384 TLS_CHACHA20_POLY1305_SHA256 ECDHE-RSA-CHACHA20-POLY1305 / ".into(),
            ),
        ];
        for (text, expected) in table {
            assert_eq!(parsed(text), Ok(expected), "{text:?}");
        }
    }

    #[test]
    fn a_list_that_means_nothing_here_is_an_error() {
        let table = [
            "RC4-SHA",
            "AES256-SHA:DHE-RSA-AES256-SHA",
            "!aNULL",
            "HIGH:!ECDHE",
            "SHA1",
            "high",
            "+",
            "\u{e9}",
        ];
        for text in table {
            assert!(parsed(text).is_err(), "{text:?}");
        }
        assert!(Ciphers::parse(b"\xff\xfe").is_err());
    }

    #[test]
    fn without_a_list_that_can_be_read_only_tls13_is_left() {
        let names: Vec<_> = Ciphers::tls13().suites.into_iter().map(name).collect();
        assert_eq!(
            names,
            ["TLS_AES_256_GCM_SHA384", "TLS_AES_128_GCM_SHA256", "TLS_CHACHA20_POLY1305_SHA256"]
        );
    }
}
