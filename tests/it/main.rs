//! Black-box tests: one scenario family a file.
//!
//! Tests in a module `needs_X` need X, which may be missing; `tests/run` leaves those out and counts them as skipped.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod adopt;
mod auth;
mod auth_guessing;
mod auth_users;
mod backpressure;
mod bad_input;
mod badlists;
mod chaos;
mod chkuser;
mod clients;
mod command_line;
mod config;
mod crash;
mod delivery_programs;
mod explain;
mod front;
mod full_disk;
mod hanging;
mod harness;
mod inject;
mod journal;
mod local;
mod memory;
mod metrics;
mod migration;
mod mx;
mod packaging;
mod power_cut;
mod qmailqueue;
mod queue_as_found;
mod queue_tools;
mod rblsmtpd;
mod reading;
mod receive;
mod rehearsal;
mod relay;
mod resolver;
mod retry_bounce;
mod rights;
mod senders;
mod simscan;
mod smuggling;
mod spf;
mod spf_suite;
mod spp;
mod stop;
mod svc;
mod tampered;
mod tcprules;
mod tls;
mod tls_clients;
mod tls_files;
mod upgrade;
