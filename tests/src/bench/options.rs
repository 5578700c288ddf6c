//! The command line.

use std::path::PathBuf;

/// What the run was told.
#[derive(Debug, Clone)]
pub struct Options {
    /// Names of cells; none: all.
    pub cells: Vec<String>,
    /// Rounds of each cell.
    pub rounds: usize,
    /// Measurements of [`LONG`] seconds, ended when everything is synced.
    pub long: bool,
    /// Every number of messages, connections and so on, in percent of what it should be.
    pub percent: usize,
    /// Size of the disk under test.
    pub gib: u64,
    /// Directory for the image of that disk.
    pub store: PathBuf,
    /// Names the cells instead.
    pub list: bool,
}

/// A long measurement aims at this many seconds, so that it has 30.
const LONG: f64 = 36.0;

/// How it is called.
pub const USAGE: &str =
    "usage: tests/bench [CELL...] [--rounds N] [--short | --long] [--percent N] [--disk GIB] [--store DIR]
       tests/bench --list
       tests/bench front ...";

impl Options {
    /// Reads the words after the program's name.
    pub fn parse(words: impl IntoIterator<Item = String>) -> Result<Self, String> {
        let mut options = Self {
            cells: Vec::new(),
            rounds: 5,
            long: false,
            percent: 100,
            gib: 0,
            store: "/var/tmp".into(),
            list: false,
        };
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            match word.as_str() {
                "--list" => options.list = true,
                "--short" => options.long = false,
                "--long" => options.long = true,
                "--rounds" => options.rounds = number(&word, words.next())?,
                "--percent" => options.percent = number(&word, words.next())?,
                "--disk" => options.gib = number(&word, words.next())? as u64,
                "--store" => options.store = words.next().ok_or("--store wants a directory")?.into(),
                _ if word.starts_with('-') => return Err(format!("no option {word}")),
                _ => options.cells.push(word),
            }
        }
        if options.gib == 0 {
            options.gib = if options.long { 24 } else { 6 };
        }
        Ok(options)
    }

    /// What a long measurement aims at.
    pub fn seconds(&self) -> f64 {
        LONG * self.percent as f64 / 100.0
    }

    /// A number of things to do, by `--percent`, at least `least`.
    pub fn scaled(&self, count: usize, least: usize) -> usize {
        (count * self.percent / 100).max(least)
    }
}

fn number(option: &str, word: Option<String>) -> Result<usize, String> {
    let number = word.and_then(|word| word.parse().ok()).filter(|&number| number > 0);
    number.ok_or_else(|| format!("{option} wants a number above 0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, String> {
        Options::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn cells_and_options_come_in_any_order() {
        let options = parse("local --rounds 3 --long one").unwrap();
        assert_eq!(
            (options.cells, options.rounds, options.long),
            (vec!["local".into(), "one".into()], 3, true)
        );
        assert_eq!(options.gib, 24);
    }

    #[test]
    fn what_it_does_not_know_is_an_error() {
        assert_eq!(parse("--round 3").unwrap_err(), "no option --round");
        assert_eq!(parse("--rounds 0").unwrap_err(), "--rounds wants a number above 0");
    }
}
