//! Texts that others chose, as they may be shown: nothing in them steers a terminal, hides a part or turns it round.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Whether a character steers a terminal (C0, DEL, C1), ends a line where none ends, or is not seen and changes how
/// others are: zero width, marks of direction.
pub fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// One field: such characters as `\n`, `\u{202e}`.
pub fn visible(text: &str) -> Cow<'_, str> {
    replaced(text, steers, |c, out| out.extend(c.escape_default()))
}

/// Whole lines: newlines and tabs stay.
pub fn visible_lines(text: &str) -> Cow<'_, str> {
    replaced(text, |c| steers(c) && c != '\n' && c != '\t', |c, out| out.extend(c.escape_default()))
}

/// A JSON document: the same meaning without such characters in it.
pub fn visible_json(json: &str) -> Cow<'_, str> {
    let escape = |c: char, out: &mut String| {
        // All that steer are in the basic plane. Writing to a string does not fail.
        write!(out, "\\u{:04x}", u32::from(c)).unwrap_or_default();
    };
    replaced(json, |c| steers(c) && c != '\n', escape)
}

fn replaced(text: &str, bad: impl Fn(char) -> bool, put: impl Fn(char, &mut String)) -> Cow<'_, str> {
    if !text.chars().any(&bad) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if bad(c) { put(c, &mut out) } else { out.push(c) }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_steers_is_left() {
        let all = "a\u{1b}[2J\u{7f}\u{9b}\u{202e}\u{2066}\u{2028}\u{200f}\n\té";
        assert_eq!(visible(all), r"a\u{1b}[2J\u{7f}\u{9b}\u{202e}\u{2066}\u{2028}\u{200f}\n\té");
        assert_eq!(visible_lines("a\u{1b}\n\tb"), "a\\u{1b}\n\tb");
        assert!(matches!(visible("plain é 日"), Cow::Borrowed(_)));
        for c in '\0'..='\u{ffff}' {
            let shown = visible(c.encode_utf8(&mut [0; 4])).into_owned();
            assert!(!shown.chars().any(steers), "{c:?}");
        }
    }

    #[test]
    fn json_means_the_same() {
        let json = "\"\\u001b\u{7f}\u{9b}\u{202e}\\n\\t\\\"é\"\n";
        assert_eq!(visible_json(json), "\"\\u001b\\u007f\\u009b\\u202e\\n\\t\\\"é\"\n");
    }
}
