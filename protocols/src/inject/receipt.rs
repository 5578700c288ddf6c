//! The receipt that a message asks for with the field `Notice-Requested-Upon-Delivery-To` (qreceipt).

use super::fields::fields;
use super::quote::quoted;
use super::token;

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
/// With the field, if it is no list of addresses.
pub fn asked(header: &[u8], address: &[u8]) -> Result<Option<Asked>, Vec<u8>> {
    let (mut is_asked, mut message_id) = (false, None);
    for (name, field) in fields(header) {
        if name.eq_ignore_ascii_case(b"message-id") {
            message_id = Some(field.to_vec());
        } else if name.eq_ignore_ascii_case(FIELD) {
            is_asked |= addresses(field).ok_or(field)?.iter().any(|one| one == address);
        }
    }
    Ok(is_asked.then_some(Asked { message_id }))
}

/// The receipt for a message from `sender`, which was delivered to `address`.
#[must_use]
pub fn message(sender: &[u8], address: &[u8], asked: &Asked) -> Vec<u8> {
    let to = quoted(sender);
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

/// The addresses in a field. None: it is no list of addresses.
fn addresses(field: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut found = Vec::new();
    super::addresses::each(token::parse(field)?, &mut |address| found.push(token::unquote(address)))?;
    Some(found)
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
            ("Notice-Requested-Upon-Delivery-To: (a\n\n", Err("Notice-Requested-Upon-Delivery-To: (a\n")),
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
}
