//! The log: tracing events as multilog's lines or as JSON on standard output.
//!
//! Every event is one line. What an administrator's tools read is the event's message, byte for byte qmail's; its fields
//! say the same to machines. A full log never holds up mail: lines that find no place are counted and dropped.

mod output;
mod panics;

use std::fmt::Write as _;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use mailtree_protocols::tai64::Tai64n;
use mailtree_protocols::visible::steers;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

use crate::service::StartError;
use output::Output;

pub use panics::log_panics;

/// Lines that may wait for the writer.
const WAITING: usize = 16_384;

/// How long the writer rests after it has written: what comes meanwhile is one write. A line that comes to a quiet log is
/// written at once.
const REST: Duration = Duration::from_millis(5);

/// How long the last words may take when nobody reads them.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// A clock that goes back by less than this is not followed: stamps never go back. By more, somebody has set it.
const SET_BACK: Duration = Duration::from_secs(1);

/// Longest line, in bytes.
const MAX_LINE: usize = 16 * 1024;

/// How lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `@4000… MESSAGE`, as multilog's `t` writes them.
    Classic,
    /// One JSON object a line.
    Json,
    /// For a person at a terminal: local time, warnings and alerts in colour if that is wanted.
    Terminal {
        /// Whether it is.
        colour: bool,
    },
}

/// Where events go: install it once as a tracing layer, and start [`Log`] to write what it collects.
#[derive(Clone)]
pub struct Lines {
    format: Format,
    sender: Sender<String>,
    receiver: Receiver<String>,
    lost: Arc<AtomicU64>,
    output: Arc<Output>,
    /// The last stamp.
    last: Arc<Mutex<Duration>>,
}

impl Lines {
    /// An empty log.
    #[must_use]
    pub fn new(format: Format) -> Self {
        let (sender, receiver) = bounded(WAITING);
        let (lost, output, last) = Default::default();
        Self { format, sender, receiver, lost, output, last }
    }

    /// Writes what waits, now, from this thread: for the last words after the tree has stopped. Who does not read them in two
    /// seconds does not get them.
    ///
    /// # Errors
    /// When standard output does not take it.
    pub fn flush(&self) -> io::Result<()> {
        let deadline = Instant::now() + LAST_WORDS;
        let mut bytes = self.output.lock();
        for line in self.receiver.try_iter() {
            bytes.extend_from_slice(line.as_bytes());
        }
        output::write(&mut bytes, || Instant::now() < deadline)
    }

    /// Adds a line with its stamp: lines stand in the order of their stamps.
    fn stamped(&self, line: impl FnOnce(Duration) -> String) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let set_back = now + SET_BACK < *last;
        *last = if set_back { now } else { now.max(*last) };
        self.add(line(*last));
    }

    fn add(&self, line: String) {
        if self.sender.try_send(line).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
            metrics::counter!("mailtree_log_lines_dropped_total").increment(1);
        }
    }
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        match self.format {
            Format::Json => {
                let mut fields = Fields::default();
                event.record(&mut fields);
                self.stamped(|now| json(now, event, fields));
            }
            Format::Classic => {
                let mut line = Classic::begin(NO_STAMP);
                event.record(&mut line);
                let mut line = line.end();
                self.stamped(|now| {
                    line.replace_range(..STAMP, &String::from_iter(stamp(now)));
                    line
                });
            }
            Format::Terminal { colour } => {
                let mut line = Classic::begin("");
                event.record(&mut line);
                let (on, off) = match *event.metadata().level() {
                    Level::ERROR if colour => ("\x1b[31m", "\x1b[0m"),
                    Level::WARN if colour => ("\x1b[33m", "\x1b[0m"),
                    _ => ("", ""),
                };
                let line = line.end();
                self.stamped(|now| format!("{}{on}{}{off}\n", local(now), line.trim_end_matches('\n')));
            }
        }
    }
}

/// A line as it grows: what an event says, without its fields.
struct Classic {
    line: String,
    cut: bool,
}

impl Classic {
    fn begin(stamp: &str) -> Self {
        let mut line = String::with_capacity(160);
        line.push_str(stamp);
        line.push(' ');
        Self { line, cut: false }
    }

    fn end(mut self) -> String {
        if self.cut {
            self.line.push_str("...");
        }
        self.line.push('\n');
        self.line
    }
}

impl std::fmt::Write for Classic {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        // One event is one line, whatever a peer put into it.
        if self.line.len() + text.len() < MAX_LINE && !text.bytes().any(|byte| !(32..127).contains(&byte)) {
            self.line.push_str(text);
            return Ok(());
        }
        for c in text.chars() {
            if self.line.len() >= MAX_LINE {
                self.cut = true;
                break;
            }
            self.line.push(if steers(c) { '?' } else { c });
        }
        Ok(())
    }
}

impl Visit for Classic {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            // Writing into a line does not fail.
            write!(self, "{value:?}").unwrap_or(());
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.write_str(value).unwrap_or(());
        }
    }

    fn record_u64(&mut self, _: &Field, _: u64) {}

    fn record_i64(&mut self, _: &Field, _: i64) {}

    fn record_bool(&mut self, _: &Field, _: bool) {}
}

#[derive(Default)]
struct Fields {
    message: String,
    others: serde_json::Map<String, serde_json::Value>,
}

impl Fields {
    fn set(&mut self, field: &Field, value: serde_json::Value) {
        self.others.insert(field.name().to_owned(), value);
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        } else {
            self.set(field, format!("{value:?}").into());
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.set(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field, value.into());
    }
}

/// Characters of a stamp.
const STAMP: usize = 25;

/// Its place.
const NO_STAMP: &str = "@000000000000000000000000";

/// The time of day where the host is, to the millisecond, after the date.
fn local(now: Duration) -> String {
    let time = jiff::Timestamp::try_from(UNIX_EPOCH + now).unwrap_or_default();
    let zoned = time.to_zoned(jiff::tz::TimeZone::system());
    zoned.strftime("%Y-%m-%d %H:%M:%S%.3f").to_string()
}

/// `@4000…`, the time as TAI64N.
fn stamp(now: Duration) -> [char; STAMP] {
    let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    Tai64n::from_unix(seconds, now.subsec_nanos()).to_text().map(char::from)
}

fn json(now: Duration, event: &Event<'_>, fields: Fields) -> String {
    let mut object = serde_json::Map::new();
    // RFC 3339.
    let time = jiff::Timestamp::try_from(UNIX_EPOCH + now).unwrap_or_default();
    object.insert("time".into(), format!("{time:.6}").into());
    object.insert("unix".into(), now.as_secs_f64().into());
    object.insert("level".into(), event.metadata().level().as_str().to_ascii_lowercase().into());
    let target = event.metadata().target();
    object.insert("target".into(), target.into());
    object.insert("line".into(), fields.message.into());
    object.extend(fields.others);
    let mut line = String::new();
    if write!(line, "{}", serde_json::Value::Object(object)).is_err() {
        line.clear();
    }
    line.push('\n');
    line
}

/// The service: keeps a thread that writes the lines.
pub struct Log;

/// Its state.
pub struct State {
    stop: Stop,
}

/// Ends the thread, also when the actor is killed; what waits stays for the next one.
struct Stop(Arc<AtomicBool>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// What it hears.
pub enum Message {
    /// The thread could not write.
    Failed(String),
}

impl Actor for Log {
    type Msg = Message;
    type State = State;
    type Arguments = Lines;

    async fn pre_start(&self, myself: ActorRef<Message>, lines: Lines) -> Result<State, ActorProcessingErr> {
        let stop = Stop(Arc::default());
        let stopped = Arc::clone(&stop.0);
        std::thread::Builder::new()
            .name("log".into())
            .spawn(move || {
                if let Err(error) = write(&lines, &stopped) {
                    drop(myself.cast(Message::Failed(error.to_string())));
                }
            })
            .map_err(|error| StartError::Temporary(format!("unable to start the log thread: {error}")))?;
        Ok(State { stop })
    }

    async fn handle(
        &self,
        _: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let Message::Failed(cause) = message;
        state.stop.0.store(true, Ordering::Release);
        Err(format!("unable to write to standard output: {cause}").into())
    }
}

#[expect(clippy::disallowed_methods, reason = "what is waited for is that time passes")]
fn rest() {
    std::thread::sleep(REST);
}

fn write(lines: &Lines, stopped: &AtomicBool) -> io::Result<()> {
    let goes_on = || !stopped.load(Ordering::Acquire);
    while goes_on() {
        // What another thread had begun comes first.
        output::write(&mut lines.output.lock(), goes_on)?;
        match lines.receiver.recv_timeout(Duration::from_millis(200)) {
            Ok(line) => {
                let mut bytes = lines.output.lock();
                bytes.extend_from_slice(line.as_bytes());
                for line in lines.receiver.try_iter().take(1000) {
                    bytes.extend_from_slice(line.as_bytes());
                }
                let lost = lines.lost.swap(0, Ordering::Relaxed);
                if lost > 0 {
                    let told =
                        format!("log: warning: {lost} lines were lost: standard output was too slow\n");
                    bytes.extend_from_slice(told.as_bytes());
                }
                output::write(&mut bytes, goes_on)?;
                drop(bytes);
                rest();
            }
            Err(RecvTimeoutError::Timeout) => (),
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    Ok(())
}
