//! What panics says so in the log, in one line, like everything else.

use std::panic::{self, PanicHookInfo};

/// From now on every panic of this process is a line of the log, instead of text on standard error.
pub fn log_panics() {
    panic::set_hook(Box::new(said));
}

fn said(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let (name, what) =
        (thread.name().unwrap_or("without a name"), panic.payload_as_str().unwrap_or("no text"));
    match panic.location() {
        Some(place) => {
            let (file, line) = (place.file(), place.line());
            tracing::error!("alert: thread {name} panicked at {file}:{line}: {what}");
        }
        None => tracing::error!("alert: thread {name} panicked: {what}"),
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::super::{Format, Lines};
    use super::*;

    #[test]
    fn a_panic_is_one_line_that_names_thread_and_place() {
        let before = panic::take_hook();
        log_panics();
        let lines = Lines::new(Format::Classic);
        let subscriber = tracing_subscriber::registry().with(lines.clone());
        let thread = std::thread::Builder::new().name("worker 7".into());
        let panicked = thread.spawn(|| {
            tracing::subscriber::with_default(subscriber, || panic!("no {}\nthread", "new"));
        });
        assert!(panicked.unwrap().join().is_err());
        panic::set_hook(before);
        let said: Vec<String> = lines.receiver.try_iter().collect();
        assert_eq!(said.len(), 1, "{said:?}");
        let (said, expected) = (&said[0], "alert: thread worker 7 panicked at actors/src/log/panics.rs:");
        assert!(said.contains(expected) && said.lines().count() == 1 && said.contains("no new"), "{said}");
        assert!(!said.contains("backtrace"), "{said}");
    }
}
