//! Options as getopt reads them, and what those of tcpserver mean (tcpserver.c, sslserver.c).

use super::Word;

/// The options of a command line in their order: letters, and the values of those that have one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Options(Vec<(char, Option<Word>)>);

impl Options {
    /// Reads the options at the front of `words`, and how many words they are. `letters` are those that there are, each
    /// with a colon behind it if it has a value, which stands in the same word or is the next one.
    #[must_use]
    pub fn read(letters: &str, words: &[Word]) -> (Self, usize) {
        let has_value = |letter: char| {
            let at = letters.find(letter).filter(|_| letter != ':');
            at.is_some_and(|at| letters[at + letter.len_utf8()..].starts_with(':'))
        };
        let mut options = Vec::new();
        let mut at = 0;
        while let Some(word) = words.get(at) {
            let Some(cluster) = word.text.strip_prefix('-').filter(|cluster| !cluster.is_empty()) else {
                break;
            };
            at += 1;
            if cluster == "-" {
                break;
            }
            for (place, letter) in cluster.char_indices() {
                if !has_value(letter) {
                    options.push((letter, None));
                    continue;
                }
                let value = match &cluster[place + letter.len_utf8()..] {
                    "" => {
                        at += 1;
                        words.get(at - 1).cloned()
                    }
                    rest => Some(Word { text: rest.to_owned(), ..word.clone() }),
                };
                options.push((letter, value));
                break;
            }
        }
        (Self(options), at.min(words.len()))
    }

    /// All of them in order.
    pub fn iter(&self) -> impl Iterator<Item = (char, Option<&Word>)> {
        self.0.iter().map(|(letter, value)| (*letter, value.as_ref()))
    }

    /// The value of an option; of several the last.
    #[must_use]
    pub fn value(&self, letter: char) -> Option<&Word> {
        self.iter().filter(|(own, _)| *own == letter).last().and_then(|(_, value)| value)
    }

    /// Which of these letters came last; `None`: none of them.
    #[must_use]
    pub fn last(&self, letters: &str) -> Option<char> {
        self.iter().map(|(letter, _)| letter).filter(|letter| letters.contains(*letter)).last()
    }
}

/// Whether the names of clients are looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Names {
    /// No (`-H`).
    Off,
    /// Yes (`-h`, the default).
    On,
    /// Yes, and a name whose addresses do not hold the client's is no name (`-p`).
    Paranoid,
}

/// The command line of `tcpserver`, or of `sslserver`, without the program that it runs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tcpserver {
    /// Its options.
    pub options: Options,
    /// The address it listens on; `0`: every one.
    pub host: Word,
    /// The port, a number or a name.
    pub port: Word,
}

impl Tcpserver {
    /// The letters of tcpserver with the patches in use: IPv6 (`-4 -6 -I`), limits of an address (`-s`) and of a network (`-S`).
    pub const LETTERS: &str = "1UXpPhHrRoOdDqQvc:x:B:g:u:b:l:t:46I:s:S:";

    /// The letters of sslserver.
    pub const SSL_LETTERS: &str = "13UXpPhHrRoOdDqQveEsSnNiIjJmMzZ46c:x:B:g:u:b:l:t:w:a:A:f:F:k:K:C:V:T:";

    pub(super) fn read(letters: &str, words: &[Word]) -> (Self, usize) {
        let (options, at) = Options::read(letters, words);
        let mut rest = words[at..].iter();
        let mut next = || rest.next().cloned().unwrap_or_default();
        let tcpserver = Self { options, host: next(), port: next() };
        (tcpserver, (at + 2).min(words.len()))
    }

    /// Connections at once (`-c`).
    #[must_use]
    pub fn concurrency(&self) -> Option<&Word> {
        self.options.value('c')
    }

    /// Connections from one address at once (`-s` of the patch; sslserver's means something else).
    #[must_use]
    pub fn per_ip(&self) -> Option<&Word> {
        self.options.value('s')
    }

    /// The compiled rules (`-x`).
    #[must_use]
    pub fn rules(&self) -> Option<&Word> {
        self.options.value('x')
    }

    /// Whether names of clients are looked up (`-H`, `-h`, `-p`, `-P`).
    #[must_use]
    pub fn names(&self) -> Names {
        match (self.options.last("hH"), self.options.last("pP")) {
            (Some('H'), _) => Names::Off,
            (_, Some('p')) => Names::Paranoid,
            _ => Names::On,
        }
    }

    /// Whether the client's ident server is asked (`-r`, the default; not with `-R`).
    #[must_use]
    pub fn ident(&self) -> bool {
        self.options.last("rR") != Some('R')
    }

    /// Letters that no tcpserver known here has.
    #[must_use]
    pub fn unknown(&self) -> Vec<char> {
        let known = |letter: char| Self::LETTERS.contains(letter) || Self::SSL_LETTERS.contains(letter);
        self.options.iter().map(|(letter, _)| letter).filter(|letter| !known(*letter)).collect()
    }
}
