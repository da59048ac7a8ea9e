//! Where and with what a run was made.

use std::process::Command;

use anyhow::Result;

use crate::effort::Effort;
use crate::process::say;
use crate::report::Table;
use crate::stand::{Contender, Stand};

pub(crate) fn describe(stand: &Stand, effort: &Effort) -> Result<Table> {
    let mut table = Table::new(&["", ""]);
    let mut row = |name: &str, value: String| table.row([name.to_owned(), value]);
    let command = |program: &str, arguments: &[&str]| say(Command::new(program).args(arguments));
    row("date", command("date", &["--utc", "+%Y-%m-%d %H:%M UTC"])?);
    // A checkout without Git's files is no reason not to measure.
    let commit = command("git", &["describe", "--always", "--dirty"]).unwrap_or_else(|_| "unknown".to_owned());
    row("pgoutpost", format!("{} at {commit}, {}", env!("CARGO_PKG_VERSION"), command("rustc", &["--version"])?));
    row(
        "processor",
        format!("{}, {} cores", field("/proc/cpuinfo", "model name"), std::thread::available_parallelism()?),
    );
    let memory_kb: f64 = field("/proc/meminfo", "MemTotal").trim_end_matches(" kB").parse().unwrap_or(f64::NAN);
    row("memory", format!("{:.0} GiB", memory_kb / 1_048_576.0));
    row("kernel", command("uname", &["-sr"])?);
    let postgres = stand.main.text("SHOW server_version")?.unwrap_or_default();
    row("Postgres", format!("{postgres}, fsync and synchronous_commit on"));
    row("Redis", format!("{}, appendfsync always", version(&command("redis-server", &["--version"])?, "v=")));
    row(
        "PgBouncer",
        format!("{}, session pooling", version(&command("/usr/sbin/pgbouncer", &["--version"])?, "PgBouncer ")),
    );
    row("fsync", format!("{:.0} µs a durable 8 KiB write", fsync_us(stand)?));
    row("load before", field_of(&std::fs::read_to_string("/proc/loadavg")?, 0));
    let Effort { rounds, turn_s, items, scale, .. } = effort;
    row("effort", format!("{}: {rounds} rounds of {turn_s} s, {items} items, pgbench scale {scale}", effort.name));
    row("client", format!("pgbench on the same machine, TCP, {}", stand.url(Contender::Main).map(|_| "127.0.0.1")?));
    Ok(table)
}

/// The value of `name: value` in a file of /proc.
fn field(file: &str, name: &str) -> String {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
    line.split_once(':').map_or("unknown", |(_, value)| value.trim()).to_owned()
}

fn field_of(line: &str, place: usize) -> String {
    line.split_whitespace().nth(place).unwrap_or_default().to_owned()
}

/// The word after a label.
fn version(said: &str, label: &str) -> String {
    said.split_once(label).map_or_else(String::new, |(_, rest)| field_of(rest, 0))
}

/// Median time of a small write and fdatasync in the lab's folder: what every durable commit pays at least.
fn fsync_us(stand: &Stand) -> Result<f64> {
    use std::io::Write;
    let mut file = tempfile::tempfile_in(&stand.site.folder)?;
    let mut times = Vec::new();
    for _ in 0..200 {
        let started = std::time::Instant::now();
        file.write_all(&[7; 8192])?;
        file.sync_data()?;
        times.push(started.elapsed().as_secs_f64() * 1e6);
    }
    Ok(crate::stats::median(times))
}
