//! The table at the end.

use std::fmt;

/// The same figure in each round.
#[derive(Debug, Clone, Default)]
pub struct Series(pub Vec<f64>);

impl Series {
    /// Of all rounds.
    pub fn of<T>(rounds: &[T], figure: impl Fn(&T) -> f64) -> Self {
        Self(rounds.iter().map(figure).collect())
    }

    /// The middle one.
    pub fn median(&self) -> f64 {
        let mut values = self.0.clone();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        match values.len() {
            0 => f64::NAN,
            length if length % 2 == 1 => values[middle],
            _ => f64::midpoint(values[middle - 1], values[middle]),
        }
    }
}

/// Median, and least and most where there are several rounds.
impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let median = self.median();
        let digits = if median >= 100.0 { 0 } else { 2 };
        write!(f, "{median:.digits$}")?;
        if self.0.len() > 1 {
            let low = self.0.iter().copied().fold(f64::MAX, f64::min);
            let high = self.0.iter().copied().fold(f64::MIN, f64::max);
            write!(f, " ({low:.digits$}-{high:.digits$})")?;
        }
        Ok(())
    }
}

/// One line.
#[derive(Debug, Default)]
pub struct Row {
    cell: String,
    unit: &'static str,
    postfix: Series,
    mailtree: Series,
    cpu: Option<(f64, f64)>,
    disk: Option<String>,
    wanted: Vec<(String, bool)>,
}

impl Row {
    /// What is in the line, the unit of its figures, and the figures; none where a server was not asked.
    pub fn new(cell: impl Into<String>, unit: &'static str, postfix: Series, mailtree: Series) -> Self {
        Self { cell: cell.into(), unit, postfix, mailtree, ..Self::default() }
    }

    /// How many times Postfix's figure mailtree's is.
    pub fn ratio(&self) -> f64 {
        self.mailtree.median() / self.postfix.median()
    }

    /// Mailtree's figure.
    pub fn mailtree(&self) -> f64 {
        self.mailtree.median()
    }

    /// Ratios of CPU: of the servers' own processes, and of the machine.
    pub fn cpu(mut self, own: f64, machine: f64) -> Self {
        self.cpu = Some((own, machine));
        self
    }

    /// What the figure is of the disk's limit.
    pub fn disk(mut self, text: String) -> Self {
        self.disk = Some(text);
        self
    }

    /// What is wanted, and whether it is so.
    pub fn want(mut self, text: impl fmt::Display, met: bool) -> Self {
        self.wanted.push((text.to_string(), met));
        self
    }

    fn columns(&self, judged: bool) -> [String; 6] {
        let figure = |series: &Series| match series.0.as_slice() {
            [] => "-".to_owned(),
            _ => format!("{series} {}", self.unit),
        };
        let ratio = self.ratio();
        let wanted = |(text, met): &(String, bool)| match (judged, met) {
            (false, _) => text.clone(),
            (true, true) => format!("{text}: yes"),
            (true, false) => format!("{text}: NO"),
        };
        [
            self.cell.clone(),
            figure(&self.postfix),
            figure(&self.mailtree),
            if ratio.is_finite() { format!("{ratio:.2} x") } else { "-".to_owned() },
            self.cpu.map_or("-".to_owned(), |(own, machine)| format!("{own:.2} own, {machine:.2} machine")),
            self.wanted.iter().map(wanted).collect::<Vec<_>>().join("; "),
        ]
    }
}

/// Prints all rows, whether what is wanted is so if the figures are worth it, and what mailtree's rates are of the
/// disk's limit.
pub fn print(rows: &[Row], judged: bool) {
    let head = ["cell", "postfix", "mailtree", "ratio", "cpu ratio", "wanted"].map(str::to_owned);
    let lines: Vec<_> = std::iter::once(head).chain(rows.iter().map(|row| row.columns(judged))).collect();
    let width =
        |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or_default();
    let widths = [0, 1, 2, 3, 4, 5].map(width);
    println!();
    for line in &lines {
        let cells = line.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        println!("{}", cells.collect::<Vec<_>>().join(" | ").trim_end());
    }
    println!(
        "\nfigures: median (least-most) of the rounds; ratio: mailtree / postfix\ncpu ratio: CPU seconds a message, \
         mailtree / postfix; own: the server's processes; machine: all that the machine did, kernel threads too, \
         without the load's processes"
    );
    for row in rows {
        if let Some(disk) = &row.disk {
            println!("{}: {disk}", row.cell);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_shows_its_median_and_its_ends() {
        assert_eq!(Series(vec![700.0, 900.0, 800.0]).to_string(), "800 (700-900)");
        assert_eq!(Series(vec![1.0, 2.0]).to_string(), "1.50 (1.00-2.00)");
        assert_eq!(Series(vec![1.234]).to_string(), "1.23");
    }

    #[test]
    fn a_row_of_one_server_has_no_ratio() {
        let row = Row::new("memory", "MiB", Series::default(), Series(vec![12.0])).want("≤ 16 MiB", true);
        assert_eq!(row.columns(true), ["memory", "-", "12.00 MiB", "-", "-", "≤ 16 MiB: yes"]);
    }
}
