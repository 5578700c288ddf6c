//! The configuration of stunnel, as far as mail hosts have it (stunnel.8).

use super::chain::{Program, chain};
use super::{WORDS_MAX, Word};

/// What `stunnel.conf` says. A setting that stands more than once counts the first time.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stunnel {
    settings: Vec<(String, String)>,
}

impl Stunnel {
    /// Reads it: lines `NAME = VALUE`; comments and names of sections are passed over.
    #[must_use]
    pub fn parse(text: &[u8]) -> Self {
        /// More settings stunnel does not have.
        const MOST: usize = 1000;
        let text = String::from_utf8_lossy(text);
        let lines = text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';', '[']));
        let pairs = lines.filter_map(|line| line.split_once('='));
        let settings = pairs.map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()));
        Self { settings: settings.take(MOST).collect() }
    }

    /// The value of a setting.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.settings.iter().find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The programs it runs (`exec`, `execargs`): the first word of `execargs` is but the name of the first.
    #[must_use]
    pub fn chain(&self) -> Vec<Program> {
        let Some(exec) = self.get("exec") else { return Vec::new() };
        let arguments = self.get("execargs").unwrap_or_default().split_whitespace().skip(1);
        let words: Vec<Word> =
            std::iter::once(exec).chain(arguments).take(WORDS_MAX).map(Word::from).collect();
        chain(&words)
    }
}
