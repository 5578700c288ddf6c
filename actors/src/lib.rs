//! The actors of the mailtree mail host.

#![cfg_attr(not(test), warn(clippy::print_stdout, clippy::print_stderr))]

pub mod answer;
pub mod cdb_files;
pub mod clean;
pub mod clock;
pub mod delivery;
pub mod durable;
pub mod exporter;
pub mod filter;
pub mod listen;
pub mod lock_file;
pub mod log;
pub mod lspawn;
mod maildir;
pub mod permit;
pub mod pid;
pub mod pool;
pub mod program;
pub mod qmail_local;
pub mod qmail_queue;
pub mod qmail_send;
pub mod qmail_start;
pub mod queue;
pub mod resolver;
pub mod rights;
pub mod rspawn;
pub mod service;
pub mod simscan;
pub mod smtpd;
pub mod spawn;
pub mod tcpserver;
pub mod tls;
pub mod users;
pub mod vpopmail;
pub mod wire;
