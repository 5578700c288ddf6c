//! The actors of the mailtree mail host.

pub mod answer;
pub mod cdb_files;
pub mod clean;
pub mod clock;
pub mod exporter;
pub mod filter;
pub mod listen;
pub mod log;
pub mod lspawn;
pub mod permit;
pub mod pid;
pub mod program;
pub mod qmail_send;
pub mod qmail_start;
pub mod queue;
pub mod resolver;
pub mod rspawn;
pub mod service;
pub mod simscan;
pub mod smtpd;
pub mod tcpserver;
pub mod tls;
pub mod users;
pub mod vpopmail;
pub mod wire;
