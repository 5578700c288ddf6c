//! Lists of addresses in header fields (RFC 822 6; token822_addrlist), and what qmail makes of an address without host or
//! domain (qmail-header.5).

use super::token::{self, Token};

/// Goes through the addresses of a field, the last one first, as qmail does, and has `rewrite` change each, which has no
/// comments in it. The whole field; `None` if it is no list of addresses: those from its end to the fault have been seen.
///
/// The first two tokens are the field's name and its colon.
pub(super) fn each(tokens: Vec<Token>, rewrite: &mut dyn FnMut(&mut Vec<Token>)) -> Option<Vec<Token>> {
    let mut list = List { out: Vec::with_capacity(tokens.len() + 8), address: Vec::new(), rewrite };
    let mut before = tokens;
    let rest = before.split_off(2.min(before.len()));
    let mut rest = rest.into_iter().rev().peekable();
    let mut in_group = false;
    // A word may follow, that is stand before, what is gathered.
    let mut word_fits = true;
    while let Some(token) = rest.next() {
        match token {
            Token::Semi => {
                list.flush_comma();
                if in_group {
                    return None;
                }
                in_group = true;
                word_fits = true;
                list.out.push(Token::Semi);
            }
            Token::Colon => {
                list.flush();
                if !in_group {
                    return None;
                }
                in_group = false;
                list.out.push(Token::Colon);
                for name in rest.by_ref() {
                    let comma = name == Token::Comma;
                    list.out.push(name);
                    if comma {
                        break;
                    }
                }
                word_fits = true;
            }
            Token::Right => {
                list.flush_comma();
                list.out.push(Token::Right);
                let mut open = false;
                for part in rest.by_ref() {
                    if part == Token::Left {
                        open = true;
                        break;
                    }
                    list.address.push(part);
                }
                // Even an empty one is one: `<>`.
                list.take();
                if !open {
                    return None;
                }
                list.out.push(Token::Left);
                let is_phrase = |token: &Token| {
                    matches!(
                        token,
                        Token::Comment(_) | Token::Atom(_) | Token::Quote(_) | Token::At | Token::Dot
                    )
                };
                while let Some(phrase) = rest.next_if(is_phrase) {
                    list.out.push(phrase);
                }
                word_fits = false;
            }
            word @ (Token::Atom(_) | Token::Quote(_) | Token::Literal(_)) => {
                if !word_fits {
                    list.flush_comma();
                }
                word_fits = false;
                list.address.push(word);
            }
            comment @ Token::Comment(_) => list.out.push(comment),
            Token::Comma => {
                list.flush();
                word_fits = true;
                list.out.push(Token::Comma);
            }
            special @ (Token::At | Token::Dot | Token::Left) => {
                word_fits = true;
                list.address.push(special);
            }
        }
    }
    list.flush();
    let List { mut out, .. } = list;
    out.extend(before.into_iter().rev());
    out.reverse();
    Some(out)
}

/// Both are written from their ends.
struct List<'a> {
    out: Vec<Token>,
    address: Vec<Token>,
    rewrite: &'a mut dyn FnMut(&mut Vec<Token>),
}

impl List<'_> {
    fn take(&mut self) {
        let mut address = std::mem::take(&mut self.address);
        address.reverse();
        (self.rewrite)(&mut address);
        self.out.extend(address.into_iter().rev());
    }

    fn flush(&mut self) {
        if !self.address.is_empty() {
            self.take();
        }
    }

    /// An address that another follows without a comma gets one.
    fn flush_comma(&mut self) {
        if !self.address.is_empty() {
            self.take();
            self.out.push(Token::Comma);
        }
    }
}

/// What is put behind addresses that are not whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rewriting {
    /// `@defaulthost`.
    pub(super) host: Vec<Token>,
    /// `.defaultdomain`.
    pub(super) domain: Vec<Token>,
    /// `.plusdomain`.
    pub(super) plus: Vec<Token>,
}

impl Rewriting {
    /// An address without route, with host and domain. `<>` stays, and so does a host `[]`.
    pub(super) fn complete(&self, address: &mut Vec<Token>) {
        if address.is_empty()
            || matches!(&address[..], [.., Token::At, Token::Literal(text)] if text.is_empty())
        {
            return;
        }
        if address.first() == Some(&Token::At) {
            // A route, or nothing at all.
            let route = address.iter().position(|token| *token == Token::Colon);
            address.drain(..route.map_or(address.len(), |colon| colon + 1));
        }
        for extra in [Token::Dot, Token::At] {
            if address.last() == Some(&extra) {
                address.pop();
            }
        }
        if address.is_empty() {
            return;
        }
        if !address.contains(&Token::At) {
            address.extend_from_slice(&self.host);
        }
        if let Some(Token::Atom(text)) = address.last_mut()
            && text.last() == Some(&b'+')
        {
            text.pop();
            address.extend_from_slice(&self.plus);
        }
        let has = |wanted: fn(&Token) -> bool| {
            address.iter().rev().take_while(|token| **token != Token::At).any(wanted)
        };
        if !has(|token| *token == Token::Dot) && !has(|token| matches!(token, Token::Literal(_))) {
            address.extend_from_slice(&self.domain);
        }
    }

    /// An address that stands by itself, as an envelope has it; `None` if it cannot be taken apart.
    pub(super) fn lone(&self, address: &[u8]) -> Option<Vec<u8>> {
        let mut tokens = token::parse(&super::quote::quoted(address))?;
        self.complete(&mut tokens);
        Some(token::unquote(&tokens))
    }
}
