//! What the shell makes of a command that it need not run: words and quotes (POSIX.1-2017, Shell Command Language, 2.2 and 2.3).

/// A command.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// These words, as the program gets them.
    Words(Vec<Vec<u8>>),
    /// More than words: variables, other commands, files, patterns. Only the shell can say.
    More,
    /// A quote that is not closed, behind these words; the last may be half a one. The shell refuses it.
    Unclosed(Vec<Vec<u8>>),
}

/// Reads one line.
pub(super) fn read(command: &[u8]) -> Command {
    let (mut words, mut word): (Vec<Vec<u8>>, Option<Vec<u8>>) = (Vec::new(), None);
    let mut rest = command.iter().copied().peekable();
    while let Some(byte) = rest.next() {
        match byte {
            b' ' | b'\t' => words.extend(word.take()),
            b'#' if word.is_none() => break,
            // The path of the program itself may be somebody's home: what is beneath it is the same.
            b'~' if word.is_none() && !words.is_empty() => return Command::More,
            // `NAME=value program`.
            b'=' if words.is_empty() => return Command::More,
            b'$' | b'`' | b'|' | b'&' | b';' | b'<' | b'>' | b'(' | b')' | b'*' | b'?' | b'[' | b'{' => {
                return Command::More;
            }
            b'\'' | b'"' => {
                let word = word.get_or_insert_default();
                loop {
                    match rest.next() {
                        None => {
                            words.push(std::mem::take(word));
                            return Command::Unclosed(words);
                        }
                        Some(end) if end == byte => break,
                        Some(b'$' | b'`') if byte == b'"' => return Command::More,
                        Some(b'\\') if byte == b'"' => {
                            let escaped = rest.next_if(|next| matches!(next, b'$' | b'`' | b'"' | b'\\'));
                            word.push(escaped.unwrap_or(b'\\'));
                        }
                        Some(quoted) => word.push(quoted),
                    }
                }
            }
            b'\\' => word.get_or_insert_default().push(rest.next().unwrap_or(b'\\')),
            plain => word.get_or_insert_default().push(plain),
        }
    }
    words.extend(word);
    Command::Words(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_as_the_shell_reads_them() {
        for (line, expected) in [
            ("", Some(&[][..])),
            ("a  b\tc ", Some(&["a", "b", "c"])),
            ("a '' \"\"", Some(&["a", "", ""])),
            ("'/v pop'/bin/\"x\" y\\ z", Some(&["/v pop/bin/x", "y z"])),
            (r#"a "b\"c\\d\e" 'f\g'"#, Some(&["a", r#"b"c\d\e"#, r"f\g"])),
            ("a b#c # d 'e", Some(&["a", "b#c"])),
            ("#a", Some(&[])),
            ("a '#b' \\#c", Some(&["a", "#b", "#c"])),
            ("~v/bin/a b~c '~d'", Some(&["~v/bin/a", "b~c", "~d"])),
            ("a ~v/x", None),
            ("a x=y ''", Some(&["a", "x=y", ""])),
            ("X=y a", None),
            ("a $EXT", None),
            ("a \"$EXT\"", None),
            ("a '$EXT' \"\\$EXT\"", Some(&["a", "$EXT", "$EXT"])),
            ("a `b`", None),
            ("a; b", None),
            ("a | b", None),
            ("a 2>&1", None),
            ("a *.x", None),
            ("a {b,c}", None),
            ("a '*' '>'", Some(&["a", "*", ">"])),
            ("a b\\", Some(&["a", "b\\"])),
        ] {
            let expected = expected.map_or(Command::More, |words| {
                Command::Words(words.iter().map(|word| word.as_bytes().to_vec()).collect())
            });
            assert_eq!(read(line.as_bytes()), expected, "{line}");
        }
        for (line, words) in [("a 'b", &["a", "b"][..]), ("a\"", &["a"]), ("a \"b\\\"", &["a", "b\""])] {
            let words = words.iter().map(|word| word.as_bytes().to_vec()).collect();
            assert_eq!(read(line.as_bytes()), Command::Unclosed(words), "{line}");
        }
    }
}
