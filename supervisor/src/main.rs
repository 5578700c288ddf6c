//! The `mailtree` program, and, through links, the classic programs it takes the place of.

use std::process::ExitCode;

fn main() -> ExitCode {
    mailtree::command::main(std::env::args_os().collect())
}
