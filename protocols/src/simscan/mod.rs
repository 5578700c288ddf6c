//! simscan (Inter7): which messages are scanned by what, what the scanners say, and what becomes of the message.

pub mod attachment;
pub mod clamd;
mod decoders;
pub mod hits;
pub mod log;
mod names;
pub mod options;
pub mod regex;
pub mod simcontrol;
pub mod spamc;
pub mod verdict;
