//! Options of the classic programs, which may stand together (subgetopt.3, sgetopt.3).

/// Goes through the options of a command line.
#[derive(Debug)]
pub struct Getopt<'a> {
    words: &'a [Vec<u8>],
    letters: &'a [u8],
    /// The next word, and the place within it; 0: at its beginning.
    at: (usize, usize),
}

/// An option that there is not, or that has no argument: what is said of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unknown(pub String);

impl<'a> Getopt<'a> {
    /// The options of `words`; a colon in `letters` stands behind each that has an argument.
    #[must_use]
    pub fn new(words: &'a [Vec<u8>], letters: &'a str) -> Self {
        Self { words, letters: letters.as_bytes(), at: (0, 0) }
    }

    /// The words behind the options.
    #[must_use]
    pub fn rest(self) -> &'a [Vec<u8>] {
        &self.words[self.at.0.min(self.words.len())..]
    }

    /// What is left of the word of the last option is its own.
    pub fn skip_word(&mut self) {
        if self.at.1 > 0 {
            self.at = (self.at.0 + 1, 0);
        }
    }

    /// The next option and its argument, which is empty if it has none.
    ///
    /// # Errors
    /// [`Unknown`].
    #[expect(clippy::should_implement_trait, reason = "an iterator could not be asked for its rest")]
    pub fn next(&mut self) -> Option<Result<(u8, &'a [u8]), Unknown>> {
        self.next_optional(b"")
    }

    /// The same, where the arguments of the letters `optional` may be missing: the next word is never theirs.
    ///
    /// # Errors
    /// [`Unknown`].
    pub fn next_optional(&mut self, optional: &[u8]) -> Option<Result<(u8, &'a [u8]), Unknown>> {
        let (word, place) = self.at;
        if place > 0 && self.words.get(word).is_some_and(|word| place == word.len()) {
            self.at = (word + 1, 0);
        }
        let (word, mut place) = self.at;
        let text: &'a [u8] = self.words.get(word)?;
        if place == 0 {
            match text {
                b"--" => {
                    self.at.0 += 1;
                    return None;
                }
                // As there, whatever follows the second hyphen.
                [b'-', b'-', ..] => {
                    self.at.0 += 1;
                    return None;
                }
                [b'-', _, ..] => place = 1,
                _ => return None,
            }
        }
        let letter = text[place];
        self.at = (word, place + 1);
        let at = self.letters.iter().position(|&known| known == letter).filter(|_| letter != b':');
        let Some(at) = at else {
            return Some(Err(Unknown(format!("illegal option -- {}", char::from(letter)))));
        };
        if self.letters.get(at + 1) != Some(&b':') {
            return Some(Ok((letter, b"")));
        }
        let own = &text[place + 1..];
        self.at = (word + 1, 0);
        if !own.is_empty() || optional.contains(&letter) {
            return Some(Ok((letter, own)));
        }
        match self.words.get(word + 1) {
            Some(argument) => {
                self.at = (word + 2, 0);
                Some(Ok((letter, argument)))
            }
            None => Some(Err(Unknown(format!("option requires an argument -- {}", char::from(letter))))),
        }
    }
}
