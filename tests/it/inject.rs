//! Mail that programs of the same machine hand in: qmail-queue, qmail-inject, sendmail and what calls them.

mod commands;
mod programs;
mod queue;
