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
    JournalWritten = "journal-written", "A batch is in the journal, not yet durable.";
    JournalSynced = "journal-synced", "It is durable (J), nobody has been told.";
    MaildirWritten = "maildir-written", "A message is in the Maildir's file system, without its name in `new`.";
    MaildirLinked = "maildir-linked", "It is in `Maildir/new`.";
    MaildirSynced = "maildir-synced", "It is durable there, because no journal stands behind it; nobody was told.";
    RecipientNoted = "recipient-noted", "The journal was told that the recipient is done.";
    CheckpointBegun = "checkpoint-begun", "Some of a checkpoint's files are durable.";
    CheckpointWritten = "checkpoint-written", "A checkpoint is durable, no segment was freed yet.";
    MessPlaced = "mess-placed", "Written out: `mess/ID` exists (JW).";
    ChannelsWritten = "channels-written", "Written out: `local/ID` and `remote/ID` exist.";
    InfoWritten = "info-written", "Written out: `info/ID` exists.";
    Placed = "placed", "Written out: all is durable, the journal does not know yet, or `todo/ID` is still there.";
    TodoUnlinked = "todo-unlinked", "`todo/ID` is gone: S5, or S2.";
    WrittenOut = "written-out", "The journal knows, durably, that the message is in files (S5).";
    BounceWritten = "bounce-written", "`bounce/ID` has the failed recipient's paragraph.";
    RecipientMarked = "recipient-marked", "The recipient is marked done, or its file is gone.";
    BounceUnlinked = "bounce-unlinked", "The bounce is queued and `bounce/ID` is gone.";
    InfoUnlinked = "info-unlinked", "Only `mess/ID` is left (S2).";
    MessUnlinked = "mess-unlinked", "The message is gone (S1).";
    Replayed = "replayed", "The journal was replayed; nothing else has begun.";
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
