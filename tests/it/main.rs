//! Black-box tests: one scenario family a file.
//!
//! Tests in a module `needs_X` need X, which may be missing; `tests/run` leaves those out and counts them as skipped.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod backpressure;
mod bad_input;
mod chaos;
mod clients;
mod config;
mod crash;
mod explain;
mod harness;
mod metrics;
mod mx;
mod power_cut;
mod queue_tools;
mod receive;
mod relay;
mod retry_bounce;
mod spf_suite;
mod stop;
mod svc;
mod tcprules;
