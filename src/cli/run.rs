//! `pgoutpost run`: signals around the server.

use std::process::ExitCode;

use anyhow::{Context, Result};
use pgoutpost::config::Config;
use pgoutpost::server;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Serves until SIGTERM or SIGINT; a second one ends the process at once, which loses nothing acknowledged.
pub(super) async fn run(config: Config) -> Result<ExitCode> {
    let listener = TcpListener::bind(&config.listen.address)
        .await
        .with_context(|| format!("cannot listen on listen.address = {:?}", config.listen.address))?;
    let shutdown = CancellationToken::new();
    let mut signals =
        Signals { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? };
    let told = shutdown.clone();
    tokio::spawn(async move {
        let name = signals.next().await;
        tracing::info!(signal = name, "stopping; once more stops at once");
        told.cancel();
        let name = signals.next().await;
        tracing::warn!(signal = name, "stopped at once");
        std::process::exit(1);
    });
    server::run(config, listener, shutdown).await?;
    Ok(ExitCode::SUCCESS)
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
