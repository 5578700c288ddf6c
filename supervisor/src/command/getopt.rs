//! Options of the programs that others call, as sgetopt(3) reads them: letters share a word, and a value stands behind its letter
//! or in the next word.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;

/// The options in their order, and the words behind them.
pub(super) type Read<'a> = (Vec<(u8, Option<&'a OsStr>)>, &'a [OsString]);

/// Reads `words` with these `letters`, each with a colon behind it if it has a value.
///
/// # Errors
/// What sgetopt prints behind the program's name.
pub(super) fn read<'a>(letters: &str, words: &'a [OsString]) -> Result<Read<'a>, String> {
    let (mut options, mut at) = (Vec::new(), 0);
    while let Some(cluster) = words.get(at).and_then(|word| word.as_bytes().strip_prefix(b"-")) {
        match cluster {
            b"" => break,
            [b'-', ..] => return Ok((options, &words[at + 1..])),
            _ => at += 1,
        }
        for (place, &letter) in cluster.iter().enumerate() {
            let shown = char::from(letter);
            let known = letters.bytes().position(|known| known == letter && known != b':');
            let Some(known) = known else { return Err(format!("illegal option -- {shown}")) };
            if letters.as_bytes().get(known + 1) != Some(&b':') {
                options.push((letter, None));
                continue;
            }
            let value = match &cluster[place + 1..] {
                b"" => {
                    at += 1;
                    words.get(at - 1).map(OsString::as_os_str)
                }
                rest => Some(OsStr::from_bytes(rest)),
            };
            let missing = || format!("option requires an argument -- {shown}");
            options.push((letter, Some(value.ok_or_else(missing)?)));
            break;
        }
    }
    Ok((options, &words[at..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_as_sgetopt_reads_them() {
        for (line, expected) in [
            ("-ab x -a", "ab|x -a"),
            ("-c+ -a x", "c=+ a|x"),
            ("-ac +", "ac=+|"),
            ("-a -- -b", "a|-b"),
            ("-a --b c", "a|c"),
            ("- -a", "|- -a"),
            ("x", "|x"),
            ("", "|"),
            ("-ax", "illegal option -- x"),
            ("-:", "illegal option -- :"),
            ("-ac", "option requires an argument -- c"),
        ] {
            let words: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
            let found = match read("abc:", &words) {
                Ok((options, rest)) => {
                    let mut shown = String::new();
                    for (letter, value) in options {
                        shown.push(char::from(letter));
                        shown.extend(value.map(|value| format!("={} ", value.display())));
                    }
                    let rest: Vec<_> = rest.iter().map(|word| word.display().to_string()).collect();
                    format!("{}|{}", shown.trim_end(), rest.join(" "))
                }
                Err(error) => error,
            };
            assert_eq!(found, expected, "{line}");
        }
    }
}
