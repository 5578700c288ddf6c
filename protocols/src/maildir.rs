//! Names in a Maildir.

use crate::queue::MessageId;

/// The name of a message's file for one recipient: a function of the message and the recipient alone, so that a delivery
/// that is repeated after a crash finds the file of the first one.
///
/// `birth` is when the message was accepted, in microseconds since 1970; with its number, `id`, no other message of this
/// host has it. `record` tells the recipient, `nth` the Maildir where one recipient has several; `size` is the file's, in
/// bytes, for those who count quota (Maildir++).
#[must_use]
pub fn name(birth: u64, id: MessageId, record: u64, nth: usize, host: &str, size: u64) -> String {
    let host = host_in_name(host);
    let (seconds, micros) = (birth / 1_000_000, birth % 1_000_000);
    let nth = if nth == 0 { String::new() } else { format!("_{nth}") };
    format!("{seconds}.M{micros}P{id}Q{record}{nth}.{host},S={size}")
}

/// The host's name as a part of a file's. A slash or a colon would end it (cr.yp.to/proto/maildir.html).
#[must_use]
pub fn host_in_name(host: &str) -> String {
    host.replace('/', "\\057").replace(':', "\\072")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_message_recipient_and_size() {
        let name = |nth, host| name(12_000_034, MessageId(56), 78, nth, host, 90);
        assert_eq!(name(0, "mx.test"), "12.M34P56Q78.mx.test,S=90");
        assert_eq!(name(1, "mx.test"), "12.M34P56Q78_1.mx.test,S=90");
        assert_eq!(name(0, "a/b:c"), "12.M34P56Q78.a\\057b\\072c,S=90");
    }
}
