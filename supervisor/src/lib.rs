//! The tree, and the command line.

// They panic when nobody reads: output.rs.
#![cfg_attr(not(test), warn(clippy::print_stdout, clippy::print_stderr))]

#[macro_use]
mod output;

mod account;
mod adopt;
pub mod boot;
pub mod command;
pub mod control;
mod durable;
mod elsewhere;
pub mod failure;
pub mod notify;
mod offline;
mod password;
mod qmail_open;
pub mod queue_requests;
mod rules;
pub mod service;
pub mod signals;
pub mod status;
pub mod supervise;
pub mod svscan;
pub mod vpopmail;
