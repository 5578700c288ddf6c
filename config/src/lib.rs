//! Configuration: `host.ron` and qmail's control files as typed values.
//!
//! Everything is parsed once into values that cannot be out of range; what cannot be parsed is an error that names
//! file, line, the value found and what is allowed. Every value can be asked for its origin: a file and line, or the
//! default.

#![warn(missing_docs)]
#![cfg_attr(not(test), warn(clippy::print_stdout, clippy::print_stderr))]

pub mod changes;
pub mod control;
pub mod default;
pub mod error;
pub mod host;
pub mod network;
pub mod regular;
pub mod setting;

mod place;
mod read;
mod unit;

pub use control::Control;
pub use error::{Error, Problem};
pub use host::Host;
pub use setting::{Origin, Setting};
