//! The `mailtree` program, and, through links, the classic programs it takes the place of.

#![warn(clippy::print_stdout, clippy::print_stderr)]

use std::process::ExitCode;

/// Memory that is free goes back to the kernel, whatever the threads did with it (`.cargo/config.toml`).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    mailtree::command::main(std::env::args_os().collect())
}
