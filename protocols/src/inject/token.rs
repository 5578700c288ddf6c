//! Tokens of header fields with addresses: taking a field apart and putting it together again (RFC 822 3.3; token822.3).

/// A token. Atoms, quoted strings, domain literals and comments hold their text without quoting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    Atom(Vec<u8>),
    Quote(Vec<u8>),
    Literal(Vec<u8>),
    Comment(Vec<u8>),
    Left,
    Right,
    At,
    Comma,
    Semi,
    Colon,
    Dot,
}

/// A line of a field that was taken apart is folded between addresses to at most so many bytes, where that is possible.
const LINE: usize = 80;

impl Token {
    const fn special(byte: u8) -> Option<Self> {
        Some(match byte {
            b'<' => Self::Left,
            b'>' => Self::Right,
            b'@' => Self::At,
            b',' => Self::Comma,
            b';' => Self::Semi,
            b':' => Self::Colon,
            b'.' => Self::Dot,
            _ => return None,
        })
    }

    const fn is_word(&self) -> bool {
        matches!(self, Self::Atom(_) | Self::Quote(_) | Self::Literal(_) | Self::Comment(_))
    }

    /// Whether a space stands between it and `next`.
    const fn is_apart_from(&self, next: &Self) -> bool {
        matches!(self, Self::Colon | Self::Comma)
            || matches!(next, Self::Left)
            || self.is_word() && next.is_word()
    }

    fn write(&self, out: &mut Vec<u8>) {
        let (open, text, close) = match self {
            Self::Left => return out.push(b'<'),
            Self::Right => return out.push(b'>'),
            Self::At => return out.push(b'@'),
            Self::Comma => return out.push(b','),
            Self::Semi => return out.push(b';'),
            Self::Colon => return out.push(b':'),
            Self::Dot => return out.push(b'.'),
            Self::Atom(text) => (None, text, None),
            Self::Quote(text) => (Some(b'"'), text, Some(b'"')),
            Self::Literal(text) => (Some(b'['), text, Some(b']')),
            Self::Comment(text) => (Some(b'('), text, Some(b')')),
        };
        out.extend(open);
        for &byte in text {
            if matches!(byte, b'"' | b'[' | b']' | b'(' | b')' | b'\\' | b'\r' | b'\n') {
                out.push(b'\\');
            }
            out.push(byte);
        }
        out.extend(close);
    }
}

/// Takes text apart; `None` if something in it has no end, or an end and no beginning.
pub(super) fn parse(text: &[u8]) -> Option<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' => (),
            b')' | b']' => return None,
            b'(' => tokens.push(Token::Comment(enclosed(&mut rest, Some(b'('), b')')?)),
            b'"' => tokens.push(Token::Quote(enclosed(&mut rest, None, b'"')?)),
            b'[' => tokens.push(Token::Literal(enclosed(&mut rest, None, b']')?)),
            _ => match Token::special(byte) {
                Some(token) => tokens.push(token),
                None => {
                    let atom;
                    (atom, rest) = atom_of(byte, after);
                    tokens.push(atom);
                }
            },
        }
    }
    Some(tokens)
}

/// What stands before `close`, whose depth counts where `open` may stand within; those signs are no part of it.
fn enclosed(rest: &mut &[u8], open: Option<u8>, close: u8) -> Option<Vec<u8>> {
    let (mut text, mut level) = (Vec::new(), 1_usize);
    loop {
        let (&byte, after) = rest.split_first()?;
        *rest = after;
        match byte {
            byte if byte == close => level -= 1,
            byte if Some(byte) == open => level += 1,
            b'\\' => {
                let (&byte, after) = rest.split_first()?;
                *rest = after;
                text.push(byte);
            }
            byte => text.push(byte),
        }
        if level == 0 {
            return Some(text);
        }
    }
}

/// The atom that begins with `first`, and what follows it. One that would not be read again as it is counts as quoted.
fn atom_of(first: u8, mut rest: &[u8]) -> (Token, &[u8]) {
    let (mut text, mut byte) = (Vec::new(), first);
    loop {
        if byte == b'\\' {
            let Some((&next, after)) = rest.split_first() else { break };
            (byte, rest) = (next, after);
        }
        text.push(byte);
        match rest.split_first() {
            Some((&next, after)) if is_atom(next) => (byte, rest) = (next, after),
            _ => break,
        }
    }
    let plain = |&byte: &u8| matches!(byte, 32..=126) && !matches!(byte, b')' | b']' | b'\\');
    let is_plain = text.iter().all(plain);
    (if is_plain { Token::Atom(text) } else { Token::Quote(text) }, rest)
}

fn is_atom(byte: u8) -> bool {
    !matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | b'(' | b'[' | b'"') && Token::special(byte).is_none()
}

/// A field of these tokens with its newline, folded behind commas where it gets too long.
pub(super) fn unparse(tokens: &[Token]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut piece = Vec::new();
    // Bytes of the line so far; none before the first piece.
    let mut line: Option<usize> = None;
    let mut add = |piece: &mut Vec<u8>| {
        line = Some(match line {
            None => piece.len(),
            // The newline and the space that would stand here count, too.
            Some(len) if len + 2 + piece.len() <= LINE => len + piece.len(),
            Some(_) => {
                out.extend_from_slice(b"\n ");
                1 + piece.len()
            }
        });
        out.append(piece);
    };
    let mut last: Option<&Token> = None;
    for token in tokens {
        if last.is_some_and(|last| last.is_apart_from(token)) {
            piece.push(b' ');
        }
        token.write(&mut piece);
        last = Some(token);
        if *token == Token::Comma {
            add(&mut piece);
        }
    }
    add(&mut piece);
    out.push(b'\n');
    out
}

/// The address that these tokens are, as an envelope has it: without quoting and comments.
pub(super) fn unquote(tokens: &[Token]) -> Vec<u8> {
    let mut out = Vec::new();
    for token in tokens {
        match token {
            Token::Atom(text) | Token::Quote(text) => out.extend_from_slice(text),
            Token::Literal(text) => {
                out.push(b'[');
                out.extend_from_slice(text);
                out.push(b']');
            }
            Token::Comment(_) => (),
            special => special.write(&mut out),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text_is_taken_apart() {
        let atom = |text: &str| Token::Atom(text.into());
        for (text, tokens) in [
            ("a@b.c", Some(vec![atom("a"), Token::At, atom("b"), Token::Dot, atom("c")])),
            ("(a (b) \\) c)", Some(vec![Token::Comment(b"a b ) c".to_vec())])),
            ("\"a\\\"b\"[x y]", Some(vec![Token::Quote(b"a\"b".to_vec()), Token::Literal(b"x y".to_vec())])),
            ("a\\ b", Some(vec![Token::Atom(b"a b".to_vec())])),
            ("a)", Some(vec![Token::Quote(b"a)".to_vec())])),
            ("\u{e9}", Some(vec![Token::Quote("\u{e9}".into())])),
            ("a\\", Some(vec![atom("a")])),
            ("\\", Some(vec![atom("")])),
            (")", None),
            ("(a", None),
            ("\"a\\", None),
            ("[", None),
        ] {
            assert_eq!(parse(text.as_bytes()), tokens, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_put_together_is_taken_apart_to_the_same(text in "[ -~\u{e9}\r\n]{0,80}") {
            // An atom without text vanishes, and one with a bracket or a blank in it comes back quoted.
            if let Some(tokens) = parse(text.as_bytes()) {
                let again = parse(&unparse(&tokens));
                prop_assert!(again.is_some(), "{:?}", tokens);
                let words = |tokens: &[Token]| {
                    let kept = tokens.iter().filter(|token| !matches!(token, Token::Comment(_)));
                    unquote(&kept.cloned().collect::<Vec<_>>())
                };
                prop_assert_eq!(words(&again.unwrap()), words(&tokens));
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            drop(parse(&bytes).map(|tokens| unparse(&tokens)));
        }
    }
}
