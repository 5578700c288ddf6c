//! Numbered places at which a test stops the host as a power cut would (`MAILTREE_CRASH_POINT=NAME[:COUNT]`).

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

macro_rules! points {
    ($($point:ident = $name:literal, $what:literal;)*) => {
        /// A place in the queue's protocol, named after what has just been done.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Point { $(#[doc = $what] $point,)* }

        impl Point {
            /// All of them, in the order of a message's life.
            pub const ALL: &[Self] = &[$(Self::$point,)*];

            /// Its name for `MAILTREE_CRASH_POINT`.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$point => $name,)* }
            }
        }
    };
}

points! {
    MessWritten = "mess-written", "`pid/…` holds the message, nothing is durable.";
    MessLinked = "mess-linked", "`mess/ID` exists (S2).";
    IntdWritten = "intd-written", "`intd/ID` exists (S3).";
    CommitSynced = "commit-synced", "S3 is durable.";
    TodoLinked = "todo-linked", "`todo/ID` exists (S4), not yet durable.";
    TodoSynced = "todo-synced", "S4 is durable, nobody has been told.";
    InfoWritten = "info-written", "`info/ID` exists beside `todo/ID`.";
    ChannelsWritten = "channels-written", "`local/ID` and `remote/ID` exist beside `todo/ID`.";
    PreprocessSynced = "preprocess-synced", "They are durable.";
    TodoUnlinked = "todo-unlinked", "S5.";
    MaildirWritten = "maildir-written", "The message is in `Maildir/tmp`.";
    MaildirSynced = "maildir-synced", "It is durable there.";
    MaildirLinked = "maildir-linked", "It is in `Maildir/new`.";
    MaildirDurable = "maildir-durable", "It is durable there; the recipient is not marked done.";
    BounceWritten = "bounce-written", "`bounce/ID` has the failed recipient's paragraph.";
    RecipientMarked = "recipient-marked", "The recipient is marked done, or its file is gone.";
    BounceUnlinked = "bounce-unlinked", "The bounce is queued and `bounce/ID` is gone.";
    InfoUnlinked = "info-unlinked", "Only `mess/ID` is left (S2).";
    MessUnlinked = "mess-unlinked", "The message is gone (S1).";
}

/// Index of the armed point plus one; 0: none.
static ARMED: AtomicUsize = AtomicUsize::new(0);
static COUNTDOWN: AtomicU32 = AtomicU32::new(1);

/// Arms what the environment names.
///
/// # Errors
/// The name, when there is no such point or the count is not a positive number.
pub fn arm_from_env() -> Result<(), String> {
    let Ok(wish) = std::env::var("MAILTREE_CRASH_POINT") else { return Ok(()) };
    let (name, count) = wish.split_once(':').unwrap_or((&wish, "1"));
    let index = Point::ALL.iter().position(|point| point.name() == name);
    let (Some(index), Ok(count @ 1..)) = (index, count.parse()) else {
        return Err(format!(
            "MAILTREE_CRASH_POINT={wish}: not NAME[:COUNT] with a name from `mailtree crash-points`"
        ));
    };
    COUNTDOWN.store(count, Ordering::Relaxed);
    ARMED.store(index + 1, Ordering::Relaxed);
    Ok(())
}

/// The host has come to `point`.
pub(crate) fn reached(point: Point) {
    if ARMED.load(Ordering::Relaxed) == point as usize + 1 && COUNTDOWN.fetch_sub(1, Ordering::Relaxed) == 1 {
        std::process::abort();
    }
}
