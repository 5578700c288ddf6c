//! SMTP dialogues as transcripts: what a peer says, and what it must hear.

#![allow(clippy::expect_used, clippy::unwrap_used)]

mod client;
mod data;
mod host;
mod plugins;
mod server;
