//! Mailtree beside Postfix, and beside what the disk allows: what `tests/bench` measures.
//!
//! A cell is one question. Its rounds give each server the same work in turn, so that noise of a shared machine hits
//! both: only ratios inside one run mean anything.

pub mod arrivals;
pub mod cells;
pub mod deferred;
pub mod down;
pub mod flow;
pub mod ground;
pub mod limit;
pub mod lone;
pub mod memory;
pub mod options;
pub mod server;
pub mod table;
pub mod usage;
pub mod writer;
