//! The local words on SPF: `control/spfrules`, `control/spfguess`, `control/spfexp` (qmail-smtpd's SPF patch).

use super::macros::MacroString;
use super::record::{Directive, Mechanism, Record, Syntax};

/// Local policy; the default has none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Options {
    pub(super) rules: Vec<Directive>,
    pub(super) guess: Option<Record>,
    pub(super) explanation: Option<MacroString>,
}

/// A control file that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// `spfrules`
    #[error("spfrules: {0}")]
    Rules(Syntax),
    /// `spfguess`
    #[error("spfguess: {0}")]
    Guess(Syntax),
    /// `spfexp`
    #[error("spfexp: {0:?} is not printable ASCII with the macros of RFC 7208 7.2")]
    Explanation(String),
}

impl Options {
    /// Reads the three files' first lines; an empty one means that there is none.
    ///
    /// `rules`: mechanisms that are tried before the `all` of the sender's own record, or at its end. `guess`: the record
    /// of senders that have none, with or without `v=spf1`. `explanation`: the text for a refusal, with macros.
    ///
    /// # Errors
    /// [`OptionsError`].
    pub fn new(rules: &str, guess: &str, explanation: &str) -> Result<Self, OptionsError> {
        let [rules, guess, explanation] = [rules, guess, explanation].map(str::trim);
        Ok(Self {
            rules: mechanisms(rules).map_err(OptionsError::Rules)?,
            guess: some(guess, |guess| Record::parse(guess.as_bytes())).map_err(OptionsError::Guess)?,
            explanation: some(explanation, |text| {
                MacroString::parse(text.as_bytes()).ok_or_else(|| OptionsError::Explanation(text.to_owned()))
            })?,
        })
    }
}

impl Options {
    /// The domains whose records are asked for each sender, as they stand there: by `include`, or by a `redirect` of the guess;
    /// with the file that names them. Those with macros are another domain each time.
    pub fn included(&self) -> impl Iterator<Item = (&'static str, String)> {
        let of = |directives: &[Directive]| -> Vec<MacroString> {
            let included = directives.iter().filter_map(|directive| match &directive.mechanism {
                Mechanism::Include(domain) => Some(domain.clone()),
                _ => None,
            });
            included.collect()
        };
        let guess = self.guess.iter().flat_map(move |guess| {
            of(&guess.directives).into_iter().chain(guess.redirect.clone()).map(|domain| ("spfguess", domain))
        });
        let rules = of(&self.rules).into_iter().map(|domain| ("spfrules", domain));
        rules.chain(guess).filter_map(|(file, domain)| {
            Some((file, String::from_utf8_lossy(domain.literal()?).into_owned()))
        })
    }
}

fn some<T, E>(text: &str, read: impl FnOnce(&str) -> Result<T, E>) -> Result<Option<T>, E> {
    if text.is_empty() { Ok(None) } else { read(text).map(Some) }
}

fn mechanisms(text: &str) -> Result<Vec<Directive>, Syntax> {
    match Record::parse(text.as_bytes())? {
        Record { directives, redirect: None, exp: None } => Ok(directives),
        _ => Err(Syntax::Modifier(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_that_are_asked_for_each_sender() {
        let rules = "include:a.example ip4:192.0.2.1 a:b.example include:%{d}.example ~include:c.example";
        let options = Options::new(rules, "v=spf1 a/24 include:d.example redirect=e.example", "").unwrap();
        let expected = [
            ("spfrules", "a.example"),
            ("spfrules", "c.example"),
            ("spfguess", "d.example"),
            ("spfguess", "e.example"),
        ];
        let expected = expected.map(|(file, domain)| (file, domain.to_owned()));
        assert_eq!(options.included().collect::<Vec<_>>(), expected);
        assert_eq!(Options::default().included().count(), 0);
    }

    #[test]
    fn lines_that_are_refused() {
        for (rules, guess, explanation, expected) in [
            ("inclde:x.example", "", "", "spfrules: inclde:x.example: no mechanism or modifier"),
            ("a exp=x.example", "", "", "spfrules: a exp=x.example: only mechanisms may stand here"),
            (
                "",
                "v=spf1 ip4:x",
                "",
                "spfguess: ip4:x: takes an IP address and a prefix length up to 32 (IPv4) or 128 (IPv6)",
            ),
            (
                "",
                "",
                "see %{x}",
                "spfexp: \"see %{x}\" is not printable ASCII with the macros of RFC 7208 7.2",
            ),
        ] {
            assert_eq!(Options::new(rules, guess, explanation).unwrap_err().to_string(), expected);
        }
        assert_eq!(Options::new("", " \n", ""), Ok(Options::default()));
    }
}
