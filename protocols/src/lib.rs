//! The grammars, formats and decisions of a qmail-style mail host.
//!
//! The law of this crate: bytes or values in, values out. No runtime, no socket, no file, no clock; time and DNS
//! answers come in as arguments. So everything here is tested without a host.

#![warn(missing_docs)]
#![forbid(unsafe_code)]

pub mod inject;
pub mod journal;
mod logfield;

pub mod address;
pub mod assign;
pub mod auth;
pub mod badlist;
pub mod bounce;
pub mod cdb;
pub mod chkuser;
pub mod domains;
pub mod dotqmail;
pub mod envelope;
pub mod lspawn;
pub mod maildir;
pub mod maildirsize;
pub mod mbox;
pub mod netstring;
pub mod ownership;
pub mod policy;
pub mod proxy;
pub mod qmail_local;
pub mod qmail_queue;
pub mod queue;
pub mod rblsmtpd;
pub mod rcpthosts;
pub mod received;
pub mod reply;
pub mod report;
pub mod route;
pub mod runscript;
pub mod schedule;
pub mod simscan;
pub mod smtp;
pub mod smtproutes;
pub mod spf;
pub mod spp;
pub mod svc;
pub mod tai64;
pub mod tcprules;
pub mod tcpserver;
pub mod tcpto;
pub mod utmp;
pub mod validrcptto;
pub mod variable;
pub mod virtualdomains;
pub mod visible;
pub mod vpasswd;
