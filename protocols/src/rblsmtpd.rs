//! rblsmtpd (ucspi-tcp): clients that DNS lists name get a limited SMTP conversation and nothing else.
//!
//! - [`arguments`]: the command line.
//! - [`source`]: the lists, what is asked of them and what their answers mean (RFC 5782).
//! - [`decision`]: `$RBLSMTPD`, then the answers in the order of the sources.
//! - [`conversation`]: what a rejected client hears.
//! - [`selftest`]: whether a list works at all (RFC 5782 5).

pub mod arguments;
pub mod conversation;
pub mod decision;
pub mod selftest;
pub mod source;
