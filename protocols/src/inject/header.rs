//! The header of a message that is injected: what is taken from it, and what is added.

use std::collections::HashSet;

use super::addresses::{self, Rewriting};
use super::field::{self, Field};
use super::options::Options;
use super::quote::quoted;
use super::token::{self, Token};
use super::{Controls, Envelope, Fatal, MAX_ADDRESSES, MAX_HEADER, Occasion};
use crate::received;

/// A header on its way.
#[derive(Debug)]
pub(super) struct Header {
    options: Options,
    rewriting: Rewriting,
    idhost: Vec<u8>,
    followup: Option<HashSet<Vec<u8>>>,
    occasion: Occasion,
    /// The field that may still go on.
    field: Vec<u8>,
    saved: Vec<u8>,
    seen: Vec<Field>,
    sender: Option<Vec<u8>>,
    /// Of the command line.
    arguments: Vec<Vec<u8>>,
    /// Of To, Cc, Bcc and Apparently-To.
    recipients: Vec<Vec<u8>>,
    /// Of To and Cc.
    public: Vec<Vec<u8>>,
    /// Of the Resent- fields.
    resent: Vec<Vec<u8>>,
    /// Bytes of all of them.
    size: usize,
}

/// Whose addresses a field has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    Public,
    Hidden,
    Resent,
    ReturnPath,
    Nobody,
}

impl Header {
    pub(super) fn new(
        options: &Options,
        controls: &Controls,
        followup: Option<HashSet<Vec<u8>>>,
        occasion: Occasion,
    ) -> Result<Self, Fatal> {
        let tokens = |sign: &[u8], value: &Option<Vec<u8>>, control: &[u8]| {
            let text = [sign, value.as_deref().unwrap_or(control)].concat();
            token::parse(&text).ok_or_else(|| Fatal::line(&text))
        };
        let rewriting = Rewriting {
            domain: tokens(b".", &options.defaultdomain, &controls.defaultdomain)?,
            host: tokens(b"@", &options.defaulthost, &controls.defaulthost)?,
            plus: tokens(b".", &options.plusdomain, &controls.plusdomain)?,
        };
        let sender = match &options.sender {
            Some(sender) => Some(rewriting.lone(sender).ok_or_else(|| Fatal::line(&quoted(sender)))?),
            None => None,
        };
        let mut arguments = Vec::new();
        if options.sources().0 {
            for address in &options.arguments {
                arguments.push(rewriting.lone(address).ok_or_else(|| Fatal::address(address))?);
            }
        }
        Ok(Self {
            idhost: options.idhost.clone().unwrap_or_else(|| controls.idhost.clone()),
            options: options.clone(),
            rewriting,
            followup,
            occasion,
            field: Vec::new(),
            saved: Vec::new(),
            seen: Vec::new(),
            sender,
            arguments,
            recipients: Vec::new(),
            public: Vec::new(),
            resent: Vec::new(),
            size: 0,
        })
    }

    /// The next line with its newline; false if it is not the header's.
    pub(super) fn line(&mut self, line: &[u8]) -> Result<bool, Fatal> {
        if !self.field.is_empty() && matches!(line[0], b' ' | b'\t') {
            self.field.extend_from_slice(line);
            return Ok(true);
        }
        self.end_field()?;
        if line.starts_with(b"From ") {
            self.field = [b"MBOX-Line: ", line].concat();
        } else if line != b"\n" && field::is_field(line) {
            self.field = line.to_vec();
        } else {
            return Ok(false);
        }
        Ok(true)
    }

    fn end_field(&mut self) -> Result<(), Fatal> {
        let mut text = std::mem::take(&mut self.field);
        if text.is_empty() {
            return Ok(());
        }
        let field = field::known(&text);
        let letters = self.options.letters;
        match field {
            Some(Field::From(false)) if letters.no_from => return Ok(()),
            Some(Field::MessageId(false)) if letters.no_message_id => return Ok(()),
            Some(Field::ReturnPath) if letters.no_return_path => return Ok(()),
            Some(field) if !self.seen.contains(&field) => self.seen.push(field),
            Some(_) | None => (),
        }
        let whose = match field {
            Some(Field::To(false) | Field::Cc(false)) => Some(Whose::Public),
            Some(Field::Bcc(false) | Field::ApparentlyTo) => Some(Whose::Hidden),
            Some(Field::To(true) | Field::Cc(true) | Field::Bcc(true)) => Some(Whose::Resent),
            Some(Field::ReturnPath) => Some(Whose::ReturnPath),
            Some(
                Field::Sender(_)
                | Field::From(_)
                | Field::ReplyTo(_)
                | Field::ReturnReceiptTo
                | Field::ErrorsTo,
            ) => Some(Whose::Nobody),
            Some(Field::Date(_) | Field::MessageId(_) | Field::ContentLength | Field::MailFollowupTo)
            | None => None,
        };
        if let Some(whose) = whose {
            match self.addresses(&text, whose)? {
                Some(rewritten) => text = rewritten,
                None if matches!(whose, Whose::ReturnPath | Whose::Nobody) => {
                    return Err(Fatal::line(&text));
                }
                // A field that others wrote is left as it is.
                None => (),
            }
        }
        let dropped = matches!(field, Some(Field::Bcc(_) | Field::ReturnPath | Field::ContentLength));
        if !dropped {
            self.saved.extend_from_slice(&text);
            if self.saved.len() > 2 * MAX_HEADER {
                return Err(Fatal::too_long("header", MAX_HEADER));
            }
        }
        Ok(())
    }

    /// The field with its addresses completed, which are noted; none if it cannot be read.
    fn addresses(&mut self, text: &[u8], whose: Whose) -> Result<Option<Vec<u8>>, Fatal> {
        let Some(tokens) = token::parse(text) else { return Ok(None) };
        let each_recipient = self.options.letters.each_recipient;
        let mut too_long = false;
        let rewritten = addresses::each(tokens, &mut |address| {
            self.rewriting.complete(address);
            if whose == Whose::Nobody {
                return;
            }
            let unquoted = token::unquote(address);
            self.size += unquoted.len() + 1;
            if self.size > MAX_ADDRESSES {
                too_long = true;
                return;
            }
            match whose {
                Whose::Public => {
                    if self.followup.is_some() {
                        self.public.push(unquoted.clone());
                    }
                    self.recipients.push(unquoted);
                }
                Whose::Hidden => self.recipients.push(unquoted),
                Whose::Resent => self.resent.push(unquoted),
                Whose::ReturnPath if self.sender.is_none() => {
                    let verp: &[u8] = if each_recipient { b"-@[]" } else { b"" };
                    self.sender = Some([&unquoted, verp].concat());
                }
                Whose::ReturnPath | Whose::Nobody => (),
            }
        });
        if too_long {
            return Err(Fatal::too_long("addresses", MAX_ADDRESSES));
        }
        Ok(rewritten.map(|tokens| token::unparse(&tokens)))
    }

    /// The header is whole: it goes to `out`, what was missing first.
    pub(super) fn finish(mut self, out: &mut Vec<u8>) -> Result<Envelope, Fatal> {
        self.end_field()?;
        let resent = self.is_resent();
        let sender = match self.sender.take() {
            Some(sender) => sender,
            None => self.default_sender()?,
        };
        if self.options.show {
            out.extend_from_slice(b"Return-Path: <");
            out.extend_from_slice(&quoted(&sender));
            out.extend_from_slice(b">\n");
        }
        let Occasion { now, pid } = self.occasion;
        let prefix: &[u8] = if resent { b"Resent-" } else { b"" };
        let has = |field: fn(bool) -> Field| self.seen.contains(&field(resent));
        if !has(Field::Date) {
            out.extend_from_slice(prefix);
            out.extend_from_slice(format!("Date: {}\n", received::date(now)).as_bytes());
        }
        if !has(Field::MessageId) {
            let stamp = now.strftime("%Y%m%d%H%M%S");
            out.extend_from_slice(prefix);
            out.extend_from_slice(format!("Message-ID: <{stamp}.{pid}.qmail@").as_bytes());
            out.extend_from_slice(&self.idhost);
            out.extend_from_slice(b">\n");
        }
        if !has(Field::From) {
            out.extend_from_slice(prefix);
            out.extend_from_slice(&self.default_from()?);
        }
        if !has(Field::To) && !has(Field::Cc) {
            out.extend_from_slice(prefix);
            out.extend_from_slice(b"Cc: recipient list not shown: ;\n");
        }
        if !resent {
            self.mail_followup_to(out);
        }
        out.extend_from_slice(&self.saved);
        let mut recipients = self.arguments;
        if self.options.sources().1 {
            recipients.append(if resent { &mut self.resent } else { &mut self.recipients });
        }
        // It would end an address, and begin what nobody wrote.
        if sender.contains(&0) || recipients.iter().any(|recipient| recipient.contains(&0)) {
            return Err(Fatal(b"NUL in an address\n".to_vec()));
        }
        Ok(Envelope { sender, recipients })
    }

    fn is_resent(&self) -> bool {
        self.seen.iter().any(|field| {
            matches!(
                field,
                Field::Sender(true)
                    | Field::From(true)
                    | Field::ReplyTo(true)
                    | Field::To(true)
                    | Field::Cc(true)
                    | Field::Bcc(true)
                    | Field::Date(true)
                    | Field::MessageId(true)
            )
        })
    }

    /// A field of one address that is put together here, read again and completed.
    fn made(&self, tokens: &[Token]) -> Result<(Vec<u8>, Vec<u8>), Fatal> {
        let text = token::unparse(tokens);
        let mut address = Vec::new();
        let read = token::parse(&text).and_then(|tokens| {
            addresses::each(tokens, &mut |tokens| {
                self.rewriting.complete(tokens);
                address = token::unquote(tokens);
            })
        });
        let read = read.ok_or_else(|| Fatal::line(&text))?;
        Ok((token::unparse(&read), address))
    }

    fn default_sender(&self) -> Result<Vec<u8>, Fatal> {
        let Occasion { now, pid } = self.occasion;
        let letters = self.options.letters;
        let mut user = self.options.sender_user.clone();
        if letters.each_message {
            user.extend_from_slice(format!("-{}.{pid}", now.as_second()).as_bytes());
        }
        if letters.each_recipient {
            user.push(b'-');
        }
        let mut tokens = vec![Token::Atom(b"Return-Path".to_vec()), Token::Colon, Token::Quote(user)];
        if let Some(host) = &self.options.sender_host {
            tokens.extend([Token::At, Token::Atom(host.clone())]);
        }
        let (_, mut sender) = self.made(&tokens)?;
        if letters.each_recipient {
            sender.extend_from_slice(b"-@[]");
        }
        Ok(sender)
    }

    fn default_from(&self) -> Result<Vec<u8>, Fatal> {
        let options = &self.options;
        let comment = options.letters.comment;
        let user = options.user.clone();
        let mut tokens = vec![Token::Atom(b"From".to_vec()), Token::Colon];
        if let Some(name) = options.name.clone().filter(|_| !comment) {
            tokens.extend([Token::Quote(name), Token::Left]);
        }
        tokens.push(if options.is_user_quoted() { Token::Quote(user) } else { Token::Atom(user) });
        if let Some(host) = &options.host {
            tokens.extend([Token::At, Token::Atom(host.clone())]);
        }
        match &options.name {
            Some(name) if comment => tokens.push(Token::Comment(name.clone())),
            Some(_) => tokens.push(Token::Right),
            None => (),
        }
        Ok(self.made(&tokens)?.0)
    }

    /// Mail to one of the lists that `$QMAILMFTFILE` names asks for answers to all but the sender.
    fn mail_followup_to(&self, out: &mut Vec<u8>) {
        let Some(lists) = self.followup.as_ref().filter(|_| !self.seen.contains(&Field::MailFollowupTo))
        else {
            return;
        };
        if self.public.iter().any(|address| lists.contains(&address.to_ascii_lowercase())) {
            let addresses: Vec<_> = self.public.iter().rev().map(|address| quoted(address)).collect();
            out.extend_from_slice(b"Mail-Followup-To: ");
            out.extend_from_slice(&addresses.join(&b",\n  "[..]));
            out.push(b'\n');
        }
    }
}
