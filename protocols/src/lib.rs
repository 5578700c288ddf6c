//! The grammars, formats and decisions of a qmail-style mail host.
//!
//! The law of this crate: bytes or values in, values out. No runtime, no socket, no file, no clock; time and DNS
//! answers come in as arguments. So everything here is tested without a host.

#![warn(missing_docs)]

pub mod queue;
