//! The receipt that a message asks for with the field `Notice-Requested-Upon-Delivery-To` (qreceipt).

use mail_parser::{Address, MessageParser};

/// The field, in lower case.
const FIELD: &[u8] = b"notice-requested-upon-delivery-to";

/// What a header asks for.
#[derive(Debug, PartialEq, Eq)]
pub struct Asked {
    /// The message's own field `Message-ID`, with its name and newline; the last one.
    pub message_id: Option<Vec<u8>>,
}

/// What a header asks for, if it asks for a receipt of a delivery to `address`.
///
/// # Errors
/// With the field, if it holds no address that can be read.
pub fn asked(header: &[u8], address: &[u8]) -> Result<Option<Asked>, Vec<u8>> {
    let (mut is_asked, mut message_id) = (false, None);
    for (name, field) in fields(header) {
        if name.eq_ignore_ascii_case(b"message-id") {
            message_id = Some(field.to_vec());
        } else if name.eq_ignore_ascii_case(FIELD) {
            let addresses = addresses(&field[name.len()..]).ok_or(field)?;
            is_asked |= addresses.iter().any(|one| unquoted(one.as_bytes()) == address);
        }
    }
    Ok(is_asked.then_some(Asked { message_id }))
}

/// The receipt for a message from `sender`, which was delivered to `address`.
#[must_use]
pub fn message(sender: &[u8], address: &[u8], asked: &Asked) -> Vec<u8> {
    let to = crate::address::quoted(sender).unwrap_or_else(|| sender.to_vec());
    let mut text = [b"From: DELIVERY NOTICE SYSTEM <", &*to, b">\nTo: <", &*to, b">\n"].concat();
    text.extend_from_slice(
        b"Subject: success notice\n\n\
          Hi! This is the qreceipt program. Your message was delivered to the\n\
          following address: ",
    );
    text.extend_from_slice(address);
    text.extend_from_slice(b". Thanks for asking.\n");
    if let Some(message_id) = &asked.message_id {
        text.extend_from_slice(b"Your ");
        text.extend_from_slice(message_id);
    }
    text
}

/// The value of a field `Subject`, from behind its colon to its last newline.
#[must_use]
pub fn subject(header: &[u8]) -> Option<&[u8]> {
    let found = fields(header).find(|(name, _)| name.eq_ignore_ascii_case(b"subject"))?.1;
    let colon = found.iter().position(|byte| *byte == b':')?;
    Some(&found[colon + 1..])
}

/// How many bytes at the front of a message are its header, as qmail reads it: up to the blank line, or to the first line that is no
/// field.
#[must_use]
pub fn header_len(message: &[u8]) -> usize {
    fields(message).map(|(_, field)| field.len()).sum()
}

/// The fields of a header in their order: names, and all of each with the lines that continue it. The line of an mbox file is one.
fn fields(header: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut rest = header;
    std::iter::from_fn(move || {
        let line = |text: &[u8]| text.iter().position(|byte| *byte == b'\n').map_or(text.len(), |at| at + 1);
        let mut end = line(rest);
        let name = name(&rest[..end])?;
        while rest.get(end).is_some_and(|byte| b" \t".contains(byte)) {
            end += line(&rest[end..]);
        }
        let field;
        (field, rest) = rest.split_at(end);
        Some((name, field))
    })
}

/// The name of a field (hfield.c); none if the line is not the first of one.
fn name(line: &[u8]) -> Option<&[u8]> {
    if line.starts_with(b"From ") {
        return Some(b"");
    }
    let name = line[..line.iter().position(|byte| *byte == b':')?].trim_ascii_end();
    (!name.is_empty() && name.iter().all(u8::is_ascii_graphic)).then_some(name)
}

/// The addresses behind a field's name. None: there is something, and it is no address.
fn addresses(value: &[u8]) -> Option<Vec<String>> {
    let colon = value.iter().position(|byte| *byte == b':')?;
    let value = &value[colon + 1..];
    let text = [b"To:", value, b"\n"].concat();
    let message = MessageParser::new().with_address_headers().parse_headers(&text);
    let found: Vec<String> = match message.as_ref().and_then(|message| message.to()) {
        Some(Address::List(list)) => list.iter().filter_map(|one| one.address()).map(str::to_owned).collect(),
        Some(Address::Group(groups)) => {
            let all = groups.iter().flat_map(|group| &group.addresses);
            all.filter_map(|one| one.address()).map(str::to_owned).collect()
        }
        None => Vec::new(),
    };
    (!found.is_empty() || value.trim_ascii().is_empty()).then_some(found)
}

/// An address without the quotes of its local part.
fn unquoted(address: &[u8]) -> Vec<u8> {
    let mut bytes = address.iter().copied();
    let mut plain = Vec::with_capacity(address.len());
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => (),
            b'\\' => plain.extend(bytes.next()),
            byte => plain.push(byte),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receipt_is_for_those_who_asked() {
        let id = || Some(Asked { message_id: Some(b"Message-Id: <1@x>\n".to_vec()) });
        for (header, expected) in [
            ("Message-Id: <1@x>\nNotice-Requested-Upon-Delivery-To: me@y\n\n", Ok(id())),
            (
                "notice-requested-upon-delivery-to : You <you@y>,\n\tMe <me@y> (I)\nMessage-Id: <1@x>\n",
                Ok(id()),
            ),
            (
                "Notice-Requested-Upon-Delivery-To: all: \"me\"@y, b@y;\n\n",
                Ok(Some(Asked { message_id: None })),
            ),
            ("Notice-Requested-Upon-Delivery-To: Me@y\n\n", Ok(None)),
            ("Notice-Requested-Upon-Delivery-To:\n\n", Ok(None)),
            ("Notice-Requested-Upon-Delivery-To: ,\n\n", Err("Notice-Requested-Upon-Delivery-To: ,\n")),
            ("Subject: x\n\nNotice-Requested-Upon-Delivery-To: me@y\n", Ok(None)),
            ("no field\nNotice-Requested-Upon-Delivery-To: me@y\n", Ok(None)),
            (
                "From a@x Sat Nov 28\nNotice-Requested-Upon-Delivery-To: me@y\n",
                Ok(Some(Asked { message_id: None })),
            ),
        ] {
            let found = asked(header.as_bytes(), b"me@y");
            assert_eq!(found, expected.map_err(|field| field.as_bytes().to_vec()), "{header}");
        }
    }

    #[test]
    fn the_receipt() {
        let asked = Asked { message_id: Some(b"Message-ID: <1@x>\n".to_vec()) };
        let text = message(b"a b@x", b"me@y", &asked);
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "From: DELIVERY NOTICE SYSTEM <\"a b\"@x>\nTo: <\"a b\"@x>\nSubject: success notice\n\n\
             Hi! This is the qreceipt program. Your message was delivered to the\n\
             following address: me@y. Thanks for asking.\nYour Message-ID: <1@x>\n"
        );
    }

    #[test]
    fn headers_end_as_qmail_ends_them() {
        for (text, len, subject_is) in [
            ("Subject: a\n b\nX: y\n\nbody", 19, Some(" a\n b\n")),
            ("X: y\nbody: no\n", 14, None),
            ("X: y\nbody\nSubject: x\n", 5, None),
            ("Subject: x", 10, Some(" x")),
            ("\nSubject: x\n", 0, None),
            ("", 0, None),
        ] {
            let found = (header_len(text.as_bytes()), subject(text.as_bytes()));
            assert_eq!(found, (len, subject_is.map(str::as_bytes)), "{text:?}");
        }
    }
}
