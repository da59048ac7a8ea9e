//! Processes: what they cost, what they say, and waiting for what they do.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// Kernel clock ticks in `/proc/PID/stat`: 100 a second on every Linux that Debian ships.
const TICK_US: f64 = 10_000.0;

/// Processor time of a process so far, in microseconds (in steps of 10 ms).
pub(crate) fn cpu_us(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).context("the process is gone")?;
    // The command's name, in parentheses, may hold spaces; utime and stime are the 12th and 13th fields after it.
    let (_, fields) = stat.rsplit_once(')').context("/proc/PID/stat")?;
    let ticks: Vec<f64> = fields.split_whitespace().skip(11).take(2).map(str::parse).collect::<Result<_, _>>()?;
    Ok(ticks.iter().sum::<f64>() * TICK_US)
}

/// Resident memory of a process in bytes.
pub(crate) fn resident_bytes(pid: u32) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).context("the process is gone")?;
    let (_, rest) = status.split_once("VmRSS:").context("/proc/PID/status has no VmRSS")?;
    let kilobytes: f64 = rest.split_whitespace().next().context("VmRSS")?.parse()?;
    Ok(kilobytes * 1024.0)
}

/// What a server on this machine answers to a GET.
pub(crate) fn get(server: &str, path: &str) -> Result<String> {
    let address = server.strip_prefix("http://").context("not an http:// URL")?;
    let mut stream = std::net::TcpStream::connect(address)?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// What the files in a folder and below take on the disk, in bytes.
pub(crate) fn folder_bytes(folder: &Path) -> Result<f64> {
    let said = say(Command::new("du").args(["-s", "-B1"]).arg(folder))?;
    Ok(said.split_whitespace().next().context("du says nothing")?.parse()?)
}

/// Runs a command to its end, which must come within the limit.
pub(crate) fn output_within(command: &Command, limit: Duration) -> Result<Output> {
    let mut guarded = Command::new("timeout");
    guarded.args(["--kill-after=5", &limit.as_secs().to_string()]).arg(command.get_program()).args(command.get_args());
    if let Some(folder) = command.get_current_dir() {
        guarded.current_dir(folder);
    }
    let output = guarded.stdin(Stdio::null()).output().context("cannot run timeout(1)")?;
    let program = command.get_program().display();
    ensure!(output.status.code() != Some(124), "{program} did not end within {} s", limit.as_secs());
    Ok(output)
}

/// What a command prints, when it succeeds.
pub(crate) fn say(command: &Command) -> Result<String> {
    let output = output_within(command, Duration::from_secs(300))?;
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let program = command.get_program().display();
    ensure!(output.status.success(), "{program} ({}): {said}{complained}", output.status);
    Ok(said.trim().to_owned())
}

/// Asks again and again until the answer is yes; returns how long that took.
///
/// # Errors
/// When it is not yes within the limit, or the question itself fails.
pub(crate) fn wait_until(what: &str, limit: Duration, mut done: impl FnMut() -> Result<bool>) -> Result<Duration> {
    let started = Instant::now();
    while !done()? {
        if started.elapsed() > limit {
            bail!("waited {} s for {what}", limit.as_secs());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(started.elapsed())
}
