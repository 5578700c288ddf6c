//! Header fields that qmail-inject knows (hfield.c).

/// A known field; a `Resent-` field is one with the second value true.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    Sender(bool),
    From(bool),
    ReplyTo(bool),
    To(bool),
    Cc(bool),
    Bcc(bool),
    Date(bool),
    MessageId(bool),
    ReturnReceiptTo,
    ErrorsTo,
    ApparentlyTo,
    ReturnPath,
    ContentLength,
    MailFollowupTo,
}

const NAMES: [(&[u8], Field); 22] = [
    (b"sender", Field::Sender(false)),
    (b"from", Field::From(false)),
    (b"reply-to", Field::ReplyTo(false)),
    (b"to", Field::To(false)),
    (b"cc", Field::Cc(false)),
    (b"bcc", Field::Bcc(false)),
    (b"date", Field::Date(false)),
    (b"message-id", Field::MessageId(false)),
    (b"resent-sender", Field::Sender(true)),
    (b"resent-from", Field::From(true)),
    (b"resent-reply-to", Field::ReplyTo(true)),
    (b"resent-to", Field::To(true)),
    (b"resent-cc", Field::Cc(true)),
    (b"resent-bcc", Field::Bcc(true)),
    (b"resent-date", Field::Date(true)),
    (b"resent-message-id", Field::MessageId(true)),
    (b"return-receipt-to", Field::ReturnReceiptTo),
    (b"errors-to", Field::ErrorsTo),
    (b"apparently-to", Field::ApparentlyTo),
    (b"return-path", Field::ReturnPath),
    (b"content-length", Field::ContentLength),
    (b"mail-followup-to", Field::MailFollowupTo),
];

/// The known field that `text` is.
pub(super) fn known(text: &[u8]) -> Option<Field> {
    let name = name(text)?;
    NAMES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, field)| *field)
}

/// Whether `text` begins as a field does.
pub(super) fn is_field(text: &[u8]) -> bool {
    name(text).is_some_and(|name| !name.is_empty() && name.iter().all(|byte| matches!(byte, 33..=126)))
}

/// What stands before the colon and the blanks before that.
pub(super) fn name(text: &[u8]) -> Option<&[u8]> {
    let name = &text[..memchr::memchr(b':', text)?];
    let end = name.iter().rposition(|byte| !matches!(byte, b' ' | b'\t')).map_or(0, |last| last + 1);
    Some(&name[..end])
}
