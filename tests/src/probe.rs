//! What a process uses, and what the host says of itself in its metrics.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::smtp::dial;

/// Open file descriptors of a process.
pub fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// Resident memory of a process, in KiB.
pub fn resident(pid: u32) -> u64 {
    status_field(pid, "VmRSS:")
}

/// The most resident memory the process ever had, in KiB.
pub fn peak_resident(pid: u32) -> u64 {
    status_field(pid, "VmHWM:")
}

fn status_field(pid: u32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// The body of an HTTP answer with status 200.
pub fn get(address: SocketAddr, path: &str) -> io::Result<String> {
    get_over(dial(address)?, path)
}

/// The same over a connection.
pub fn get_over(mut stream: TcpStream, path: &str) -> io::Result<String> {
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| io::Error::other("no end of header"))?;
    let status = head.split(' ').nth(1);
    if status == Some("200") { Ok(body.to_owned()) } else { Err(io::Error::other(head.to_owned())) }
}

/// A scrape in the Prometheus text format: series (name and labels as printed) and value.
#[derive(Debug, Clone)]
pub struct Metrics(pub BTreeMap<String, f64>);

impl Metrics {
    /// Parses a scrape; fails at a line that is neither comment nor sample.
    pub fn parse(text: &str) -> Self {
        let samples = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let sample = |line: &str| {
            let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("not a sample: {line:?}"));
            (series.to_owned(), value.parse().unwrap_or_else(|_| panic!("not a sample: {line:?}")))
        };
        Self(samples.map(sample).collect())
    }

    /// Whether a series of this name exists, whatever its labels.
    pub fn has(&self, name: &str) -> bool {
        self.0.keys().any(|series| name_of(series) == name)
    }

    /// The sum over all series of this name whose labels contain each of `labels` (`key="value"`).
    pub fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        let fits =
            |series: &str| name_of(series) == name && labels.iter().all(|label| series.contains(label));
        self.0.iter().filter(|(series, _)| fits(series)).map(|(_, value)| value).sum()
    }

    /// All series of this name.
    pub fn series(&self, name: &str) -> BTreeMap<&str, f64> {
        self.0
            .iter()
            .filter(|(series, _)| name_of(series) == name)
            .map(|(series, value)| (series.as_str(), *value))
            .collect()
    }
}

fn name_of(series: &str) -> &str {
    series.split('{').next().unwrap_or(series)
}
