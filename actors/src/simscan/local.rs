//! What needs no scanner: the subject, the patterns, the names of attachments.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use mailtree_protocols::simscan::attachment::{TooComplex, blocked};
use mailtree_protocols::simscan::log::subject;
use mailtree_protocols::simscan::regex::Patterns;
use mailtree_protocols::simscan::verdict::Failure;

use super::{Message, Trouble};

/// Bytes in which the subject is looked for when nothing else is wanted.
const SUBJECT_WITHIN: u64 = 64 * 1024;

/// What was found.
pub(super) struct Local {
    pub(super) subject: String,
    pub(super) regex: Option<Result<Option<usize>, Failure>>,
    pub(super) attachment: Option<Result<Option<String>, Failure>>,
}

/// Looks, on a thread where that may take long. A message of more than `limit` bytes is not looked at.
pub(super) async fn look(message: &Message, limit: u64) -> Result<Local, Trouble> {
    let message = message.clone();
    // The message brings its permit: nobody waits any more after the deadline, but the thread is still at work.
    let looked = tokio::task::spawn_blocking(move || look_now(&message, limit)).await;
    looked.unwrap_or_else(|error| Err(Trouble::Message(error.to_string())))
}

fn look_now(message: &Message, limit: u64) -> Result<Local, Trouble> {
    let Message { options, size, .. } = message;
    let wanted = !options.regex.is_empty() || !options.attach.is_empty();
    if wanted && *size > limit {
        return Err(Trouble::Large { size: *size, limit });
    }
    let size = if wanted { *size } else { (*size).min(SUBJECT_WITHIN) };
    let mut file = File::open(&message.file).map_err(Trouble::message)?;
    file.seek(SeekFrom::Start(message.skip)).map_err(Trouble::message)?;
    let mut text = Vec::new();
    file.take(size).read_to_end(&mut text).map_err(Trouble::message)?;
    if text.len() as u64 != size {
        return Err(Trouble::Message("it is shorter than it should be".to_owned()));
    }
    let regex = (!options.regex.is_empty()).then(|| {
        let patterns = Patterns::new(&options.regex)
            .map_err(|error| Failure::Trouble(Trouble::Patterns(error.to_string()).to_string()))?;
        Ok(patterns.search(&text))
    });
    let attachment = (!options.attach.is_empty()).then(|| {
        // More than can be looked at may hide anything.
        Ok(blocked(&text, &options.attach)
            .unwrap_or_else(|too_complex: TooComplex| Some(too_complex.to_string())))
    });
    Ok(Local { subject: subject(&text), regex, attachment })
}
