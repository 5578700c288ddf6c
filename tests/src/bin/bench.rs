//! Mailtree beside Postfix on one ext4 with a journal. `tests/bench` is its front.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark fails by panicking")]

use mailtree_tests::bench::cells::{CELLS, Cell};
use mailtree_tests::bench::ground::Bench;
use mailtree_tests::bench::options::{Options, USAGE};
use mailtree_tests::bench::{table, writer};

fn main() {
    let mut words = std::env::args().skip(1).peekable();
    if words.next_if(|word| word == writer::WORD).is_some() {
        writer::run(words.next().unwrap().as_ref());
    }
    let options = Options::parse(words).unwrap_or_else(|cause| usage(&cause));
    if options.list {
        for cell in &CELLS {
            println!("{:9} {}", cell.name, cell.what);
        }
        return;
    }
    let unknown = options.cells.iter().find(|name| CELLS.iter().all(|cell| cell.name != **name));
    if let Some(name) = unknown {
        usage(&format!("no cell {name}: --list names them"));
    }
    let chosen =
        |cell: &&Cell| options.cells.is_empty() || options.cells.iter().any(|name| name == cell.name);
    let cells: Vec<_> = CELLS.iter().filter(chosen).collect();
    println!(
        "{} rounds; {}; homes, spool and Maildirs on one new ext4 with a journal; TLS off; Postfix as Debian ships it, \
         mailtree as init makes it with concurrencyincoming 200",
        options.rounds,
        if options.long {
            "measurements of 30 s or more, ended when all mail is where it should be and the disk is synced"
        } else {
            "short measurements, ended when all mail is where it should be"
        }
    );
    if options.percent != 100 {
        println!("every number is {} % of what it should be: the figures mean little", options.percent);
    }
    let bench = Bench::new(options);
    let rows: Vec<_> = cells.into_iter().flat_map(|cell| cell.run(&bench)).collect();
    table::print(&rows, bench.options.percent == 100);
}

fn usage(cause: &str) -> ! {
    eprintln!("tests/bench: fatal: {cause}\n{USAGE}");
    std::process::exit(100)
}
