//! `qmail-qread` and `qmail-qstat`: the queue, as qmail's programs of these names tell it.

use std::path::Path;
use std::process::ExitCode;

use jiff::Timestamp;

use super::queue::{Listed, open, preprocessed};
use crate::failure::Failure;

/// Lists messages and their recipients.
pub fn run(home: &Path) -> ExitCode {
    match qread(home) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report("qmail-qread"),
    }
}

fn qread(home: &Path) -> Result<(), Failure> {
    let disk = open(home)?;
    let messages = preprocessed(&disk, |id, error| errln!("warning: trouble with #{id}: {error}"));
    let messages =
        messages.map_err(|error| Failure::temporary(format!("unable to read the queue: {error}")))?;
    for message in messages {
        out!("{}", text(&message));
    }
    Ok(())
}

fn text(message: &Listed) -> String {
    let birth = i64::try_from(message.birth).ok().and_then(|birth| Timestamp::from_second(birth).ok());
    let date = birth.unwrap_or_default().strftime("%-d %b %Y %H:%M:%S GMT").to_string();
    let bouncing = if message.bouncing { " bouncing" } else { "" };
    let mut text =
        format!("{date}  #{}  {}  <{}> {bouncing}\n", message.id, message.bytes, printable(&message.sender));
    for recipient in &message.recipients {
        let done = if recipient.done { "  done" } else { "" };
        text.push_str(&format!("{done}\t{}\t{}\n", recipient.channel, printable(&recipient.address)));
    }
    text
}

fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_graphic() { c } else { '_' }).collect()
}

/// Counts messages: all, and those not yet preprocessed.
pub fn qstat(home: &Path) -> ExitCode {
    let counts = open(home).and_then(|disk| {
        let failed = |error| Failure::temporary(format!("unable to read the queue: {error}"));
        Ok((disk.count().map_err(failed)?, disk.todo().map_err(failed)?.len()))
    });
    match counts {
        Ok((messages, todo)) => {
            outln!("messages in queue: {messages}\nmessages in queue but not yet preprocessed: {todo}");
            ExitCode::SUCCESS
        }
        Err(failure) => failure.report("qmail-qstat"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::queue::ListedRecipient;

    #[test]
    fn a_message_is_told_as_qmail_qread_tells_it() {
        let message = Listed {
            id: 928_119,
            state: "preprocessed",
            birth: 1_462_867_425,
            bytes: 1221,
            sender: "x@x".into(),
            bouncing: true,
            recipients: vec![
                ListedRecipient {
                    channel: "local",
                    address: "a b@y".into(),
                    done: true,
                    next: 0,
                    held: None,
                },
                ListedRecipient {
                    channel: "remote",
                    address: "c@z".into(),
                    done: false,
                    next: 0,
                    held: None,
                },
            ],
        };
        assert_eq!(
            text(&message),
            "10 May 2016 08:03:45 GMT  #928119  1221  <x@x>  bouncing\n  done\tlocal\ta_b@y\n\tremote\tc@z\n"
        );
    }
}
