//! `pgoutpost status`: asks the running daemon over its HTTP address and prints a table.

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use pgoutpost::config::{Config, duration, size};
use pgoutpost::http::{BufferStats, SiteInfo};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const TIMEOUT: Duration = Duration::from_secs(5);
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// Fails when the daemon does not answer; exits with 1 when it says that it does not serve.
pub(super) async fn show(config: &Config) -> Result<ExitCode> {
    let address = &config.http.address;
    if address.is_empty() {
        bail!("http.address is empty, so the daemon cannot be asked");
    }
    let info: SiteInfo = ask(address, "/api/site/info").await?;
    let stats: BufferStats = ask(address, "/buffer-stats").await?;
    super::say(&mut io::stdout(), &table(&info, &stats));
    Ok(if info.status == "down" { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn ask<T: DeserializeOwned>(address: &str, path: &str) -> Result<T> {
    let answer = tokio::time::timeout(TIMEOUT, get(address, path))
        .await
        .unwrap_or_else(|_| bail!("no answer within {}", duration::format(TIMEOUT)))
        .with_context(|| format!("the daemon does not answer at http://{address}{path}"))?;
    serde_json::from_str(&answer).with_context(|| format!("unexpected answer from http://{address}{path}"))
}

/// HTTP/1.0, so that the answer comes whole and the connection ends with it.
async fn get(address: &str, path: &str) -> Result<String> {
    let mut socket = TcpStream::connect(address).await?;
    socket.write_all(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    socket.take(ANSWER_BYTES_MAX).read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").context("the answer is not HTTP")?;
    match head.split(' ').nth(1) {
        Some("200") => Ok(body.to_owned()),
        code => bail!("HTTP status {}", code.unwrap_or("unknown")),
    }
}

fn table(info: &SiteInfo, stats: &BufferStats) -> String {
    let time = |ms: Option<u64>| ms.map_or_else(|| "-".to_owned(), |ms| duration::format(Duration::from_millis(ms)));
    let up = |up: bool| if up { "up" } else { "down" };
    let lag = stats.replica_lag_bytes.map_or_else(|| "-".to_owned(), size::format);
    [
        ("site", format!("{} ({})", info.name, info.kind)),
        ("status", info.status.clone()),
        ("version", info.version.clone()),
        ("up for", time(Some(info.uptime_seconds * 1000))),
        ("database", info.database.clone()),
        ("clients", format!("{} at {}", info.clients, info.listen_address)),
        ("main", format!("{} at {}", up(stats.link_up), info.main_address)),
        (
            "replica",
            format!(
                "{} at {}, behind by {lag}, {}",
                up(stats.replica_up),
                info.replica_address,
                time(stats.replica_lag_ms)
            ),
        ),
        ("buffer", if stats.available { "available" } else { "not available" }.to_owned()),
        (
            "pending",
            format!("{} ({}), oldest {}", stats.pending, size::format(stats.pending_bytes), time(stats.oldest_ms)),
        ),
        ("quarantined", stats.failed.to_string()),
        (
            "replay",
            match &stats.replay_error {
                Some(error) => format!("{}: {error}", stats.replay_state),
                None => format!("{}, {:.1} per second", stats.replay_state, stats.processing_rate),
            },
        ),
        (
            "entries",
            format!("last {}, applied {}, confirmed {}", stats.last_seq, stats.applied_seq, stats.confirmed_seq),
        ),
        ("config", info.config_digest.clone()),
    ]
    .map(|(name, value)| format!("{name:<12} {value}"))
    .join("\n")
}
