//! The actors of the mailtree mail host.

pub mod answer;
pub mod clock;
pub mod exporter;
pub mod listen;
pub mod log;
pub mod permit;
pub mod pid;
pub mod queue;
pub mod resolver;
pub mod service;
pub mod smtpd;
pub mod tcpserver;
pub mod wire;
