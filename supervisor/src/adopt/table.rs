//! What was found, for people and for machines.

use std::io::{self, Write};

use super::{Left, Report, escaped};

/// A wider first column is not aligned to.
const WIDTH: usize = 34;

/// Prints it: four lists.
pub(crate) fn print(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    let taken = report.taken.iter().map(|row| (row.what.as_str(), row.r#as.as_str(), row.from.as_str()));
    list("Taken over", taken.collect(), out)?;
    list("Ignored", report.ignored.iter().map(Left::row).collect(), out)?;
    list("Not supported yet", report.not_yet.iter().map(Left::row).collect(), out)?;
    writeln!(out, "What to do next")?;
    for (n, step) in report.next.iter().enumerate() {
        writeln!(out, "  {}. {}", n + 1, escaped(step))?;
    }
    out.flush()
}

impl Left {
    fn row(&self) -> (&str, &str, &str) {
        (&self.what, &self.why, &self.from)
    }
}

/// Rows under the file that they are from; behind each the part of the file.
fn list(title: &str, rows: Vec<(&str, &str, &str)>, out: &mut dyn Write) -> io::Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    let rows: Vec<(String, String, String)> =
        rows.into_iter().map(|(what, value, from)| (escaped(what), escaped(value), escaped(from))).collect();
    let width = |text: &str| text.chars().count();
    let wide = rows.iter().map(|(what, ..)| width(what)).filter(|wide| *wide <= WIDTH).max().unwrap_or(WIDTH);
    writeln!(out, "{title}")?;
    let mut last = "";
    for (what, value, from) in &rows {
        let (file, part) = from.split_once(": ").unwrap_or((from, ""));
        if file != last {
            writeln!(out, "  {file}")?;
            last = file;
        }
        let pad = wide.saturating_sub(width(what));
        let part = if part.is_empty() { String::new() } else { format!("  ({part})") };
        writeln!(out, "    {what}{:pad$}  {value}{part}", "")?;
    }
    writeln!(out)
}
