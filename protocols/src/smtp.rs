//! SMTP (RFC 5321): both sides of the dialogue, without sockets.
//!
//! - [`server`]: qmail-smtpd's side: commands and data in, replies, body and decisions to be taken out.
//! - [`client`]: qmail-remote's side: one mail transaction over one connection.
//! - [`stuff`]: a stored message made ready for the wire.

mod command;
mod data;
mod line;

pub mod client;
pub mod server;
pub mod stuff;
