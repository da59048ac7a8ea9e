//! pgbench as the client of every contender: the same program, script and protocol for ours and the yardstick's.

use std::fmt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::process;
use crate::stats::percentile;

/// How pgbench sends its statements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Simple,
    Extended,
    Prepared,
}

impl Protocol {
    pub(crate) const ALL: [Protocol; 3] = [Protocol::Simple, Protocol::Extended, Protocol::Prepared];
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Simple => "simple",
            Protocol::Extended => "extended",
            Protocol::Prepared => "prepared",
        })
    }
}

/// How long a load goes on.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Length {
    Seconds(u32),
    /// Of each client.
    Transactions(u64),
}

/// A load for pgbench.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    /// pgbench's script, whose variable `k` begins with 0 for each client; `None`: its own select-only one (`-S`).
    pub(crate) script: Option<String>,
    pub(crate) protocol: Protocol,
    pub(crate) clients: u32,
    pub(crate) length: Length,
    /// Transactions a second; `None`: as fast as they are answered.
    pub(crate) rate: Option<f64>,
}

/// What a load met.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outcome {
    pub(crate) transactions: u64,
    /// Transactions a second, without the time to connect.
    pub(crate) tps: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) max_ms: f64,
}

impl Load {
    /// Runs the load against the server of a URL. `scratch` is a folder for its files.
    ///
    /// # Errors
    /// When pgbench reports any error, or goes on for a minute longer than asked.
    pub(crate) fn run(&self, pgbench: &Path, url: &str, scratch: &Path) -> Result<Outcome> {
        let folder = tempfile::tempdir_in(scratch)?;
        let mut command = Command::new(pgbench);
        command.current_dir(folder.path()).args(["-n", "-M", &self.protocol.to_string()]);
        command
            .args(["-D", "k=0"])
            .arg("-c")
            .arg(self.clients.to_string())
            .arg("-j")
            .arg(self.clients.min(2).to_string());
        let limit = match self.length {
            Length::Seconds(seconds) => {
                command.arg("-T").arg(seconds.to_string());
                Duration::from_secs(u64::from(seconds) + 60)
            }
            Length::Transactions(number) => {
                command.arg("-t").arg(number.to_string());
                Duration::from_secs(1200)
            }
        };
        if let Some(rate) = self.rate {
            command.arg("-R").arg(rate.to_string());
        }
        match &self.script {
            None => command.arg("-S"),
            Some(script) => {
                std::fs::write(folder.path().join("script.sql"), script)?;
                command.args(["-f", "script.sql"])
            }
        };
        // One log line for each transaction; the select-only load is too fast for that to go unnoticed.
        let logged = self.script.is_some();
        if logged {
            command.args(["-l", "--log-prefix=latency"]);
        }
        let output = process::output_within(command.arg(url), limit).context("pgbench")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        let complaint = errors.lines().filter(|line| line.contains("error")).collect::<Vec<_>>().join("; ");
        if !output.status.success() {
            bail!("pgbench ({}): {complaint}", output.status);
        }
        let latencies = if logged { latencies_ms(folder.path())? } else { Vec::new() };
        Ok(Outcome {
            transactions: figure(&text, "number of transactions actually processed: ")? as u64,
            tps: figure(&text, "tps = ")?,
            p50_ms: percentile(latencies.iter().copied(), 50.0),
            p99_ms: percentile(latencies.iter().copied(), 99.0),
            max_ms: percentile(latencies.iter().copied(), 100.0),
        })
    }
}

/// The number that follows a label in pgbench's summary.
fn figure(summary: &str, label: &str) -> Result<f64> {
    let (_, rest) = summary.split_once(label).with_context(|| format!("pgbench did not say “{label}”"))?;
    let number: String = rest.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
    number.parse().with_context(|| format!("pgbench's “{label}”"))
}

/// The latencies in pgbench's per-transaction logs, whose third field is in microseconds.
fn latencies_ms(folder: &Path) -> Result<Vec<f64>> {
    let mut latencies = Vec::new();
    for file in std::fs::read_dir(folder)? {
        let path = file?.path();
        if !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("latency.")) {
            continue;
        }
        for line in std::fs::read_to_string(&path)?.lines() {
            let field = line.split(' ').nth(2).with_context(|| format!("a line of pgbench's log: {line}"))?;
            // "failed" or "skipped" instead of a time cannot occur without retries and a limit of latency.
            let time_us: f64 = field.parse().with_context(|| format!("a line of pgbench's log: {line}"))?;
            latencies.push(time_us / 1000.0);
        }
    }
    Ok(latencies)
}
