//! `completions` and `man`: what a shell and `man` are told of the commands, the classic names among them.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap_complete::Shell;
use clap_mangen::Man;

use super::{help, links};
use crate::failure::{Doing, Failure};
use crate::vpopmail::create_dirs;

/// Print completions for a shell
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The shell
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(["bash", "zsh", "fish"]))]
    shell: String,
}

/// Write the manual pages of all commands
#[derive(Debug, clap::Args)]
pub struct ManArgs {
    /// Directory for the pages, of section 1; made if it is not there
    dir: PathBuf,
}

/// The program, and each classic name as a program of its own.
fn programs() -> Vec<clap::Command> {
    let mut whole = help::command();
    whole.build();
    let classic = links::NAMES.iter().filter_map(|&name| {
        let command = whole.find_subcommand(name)?.clone();
        Some(command.name(name).bin_name(name).display_name(name))
    });
    std::iter::once(help::command()).chain(classic).collect()
}

/// Prints them for all programs.
pub fn run(args: &Args) -> ExitCode {
    let shell = match args.shell.as_str() {
        "zsh" => Shell::Zsh,
        "fish" => Shell::Fish,
        _ => Shell::Bash,
    };
    for mut program in programs() {
        let name = program.get_name().to_owned();
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut program, name, &mut text);
        crate::output::raw(&text);
    }
    ExitCode::SUCCESS
}

/// Writes them.
pub fn man(args: &ManArgs) -> ExitCode {
    match pages(&args.dir) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report("mailtree man"),
    }
}

fn pages(dir: &Path) -> Result<(), Failure> {
    create_dirs(dir)?;
    for mut program in programs() {
        program.build();
        page(&program, program.get_name(), dir)?;
    }
    Ok(())
}

/// The page of a command, and those of its subcommands, `mailtree-queue-list.1`.
fn page(command: &clap::Command, name: &str, dir: &Path) -> Result<(), Failure> {
    for below in command.get_subcommands().filter(|below| !below.is_hide_set() && below.get_name() != "help")
    {
        page(below, &format!("{name}-{}", below.get_name()), dir)?;
    }
    let source = concat!("mailtree ", env!("CARGO_PKG_VERSION"));
    let titled = command.clone().display_name(name.to_owned());
    let (mut text, path) = (Vec::new(), dir.join(format!("{name}.1")));
    Man::new(titled).title(name).source(source).render(&mut text).doing("write to", &path)?;
    // clap_mangen's word for what follows the options: examples and exit codes.
    let text = String::from_utf8_lossy(&text).replacen(".SH EXTRA\n", ".SH EXAMPLES\n", 1);
    std::fs::write(&path, text).doing("write to", &path)
}
