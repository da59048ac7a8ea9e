//! The process that holds a standing lab.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};

use super::{Answer, Order, Status};
use crate::link::Mode;
use crate::outpost::{Outpost, OutpostOptions};
use crate::port::free_port_preferring;
use crate::site::{Lab, LabOptions, Site, os_user};

/// What `lab serve` is told.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// Where the control socket is made; the folder exists.
    pub folder: PathBuf,
    /// The daemon; none means a lab without one, whose clients talk to main.
    pub daemon: Option<PathBuf>,
    pub config: PathBuf,
    /// The ports to listen on when they are free.
    pub port: u16,
    pub http_port: u16,
}

#[derive(Debug)]
struct Standing {
    outpost: Option<Outpost>,
    site: Site,
    lab: Lab,
}

/// How often it is looked whether the daemon runs.
const LOOK: Duration = Duration::from_millis(500);

/// Starts everything, then takes orders until `down`, SIGTERM or SIGINT; then stops everything.
pub async fn serve(options: ServeOptions) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let standing = tokio::select! {
        standing = Standing::start(&options) => standing?,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    let control = options.folder.join("control");
    // A socket left by a killed process; `up` made sure that nobody listens on it.
    let _ = std::fs::remove_file(&control);
    let listener = UnixListener::bind(&control).with_context(|| format!("listening on {}", control.display()))?;
    let mut look = tokio::time::interval(LOOK);
    let waiting = loop {
        tokio::select! {
            _ = look.tick() => standing.revive(),
            accepted = listener.accept() => {
                if let Some(waiting) = standing.attend(accepted?.0).await {
                    break Some(waiting);
                }
            }
            _ = terminate.recv() => break None,
            _ = interrupt.recv() => break None,
        }
    };
    let _ = std::fs::remove_file(&control);
    standing.stop().await;
    // Whoever asked for it waits for the end of the stream, and gets it when nothing runs any more.
    drop(waiting);
    Ok(())
}

impl Standing {
    async fn start(options: &ServeOptions) -> Result<Standing> {
        let lab = Lab::start(LabOptions::default()).await?;
        // What libpq takes for a plain `psql`: the user's name, and the user's name again as the database.
        let from_environment = |key| std::env::var(key).ok().filter(|value| !value.is_empty());
        let role = from_environment("PGUSER").map_or_else(os_user, Ok)?;
        let database = from_environment("PGDATABASE").unwrap_or_else(|| role.clone());
        lab.role(&role).await?;
        if database != "postgres" {
            lab.database(&database).await?;
        }
        let site = lab.site(&database, &role);
        let outpost = match &options.daemon {
            None => None,
            Some(binary) => {
                let mut daemon = OutpostOptions::new(binary);
                daemon.config.clone_from(&options.config);
                daemon.port = Some(free_port_preferring(options.port)?);
                daemon.http_port = Some(free_port_preferring(options.http_port)?);
                Some(Outpost::start_with(&site, daemon).await?)
            }
        };
        Ok(Standing { outpost, site, lab })
    }

    /// Starts a daemon that died, as a service manager would: `kill -9` is something to play with.
    fn revive(&self) {
        let Some(outpost) = &self.outpost else { return };
        if let Ok(Some(status)) = outpost.exited() {
            tracing::warn!(%status, "the daemon ended; it is started again");
            if let Err(error) = outpost.launch() {
                tracing::warn!(%error, "the daemon does not start");
            }
        }
    }

    /// Answers one asker. `down` is not answered here: its stream is returned.
    async fn attend(&self, stream: UnixStream) -> Option<UnixStream> {
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        // An asker that says nothing must not keep the others out for ever.
        let read = tokio::time::timeout(Duration::from_secs(5), stream.read_line(&mut line)).await;
        if !matches!(read, Ok(Ok(1..))) {
            return None;
        }
        let answer = match Order::parse(&line) {
            Some(Order::Down) => return Some(stream.into_inner()),
            None => Answer::Failed(format!("unknown order: {}", line.trim())),
            Some(order) => match self.carry_out(order).await {
                Ok(status) => Answer::Done(Box::new(status)),
                Err(error) => Answer::Failed(format!("{error:#}")),
            },
        };
        let mut text = serde_json::to_string(&answer).unwrap_or_else(|error| error.to_string());
        text.push('\n');
        // An asker that left does not want its answer.
        let _ = stream.get_mut().write_all(text.as_bytes()).await;
        None
    }

    async fn carry_out(&self, order: Order) -> Result<Status> {
        match order {
            Order::Status | Order::Down => {}
            Order::Cut => self.lab.link().cut()?,
            Order::Heal => self.lab.link().heal()?,
            Order::BlackHole => self.lab.link().black_hole()?,
            Order::Delay(ms) => self.lab.link().delay(Duration::from_millis(ms))?,
            Order::Freeze => self.lab.freeze().await?,
            Order::Thaw => self.lab.thaw().await?,
        }
        Ok(self.status().await)
    }

    async fn status(&self) -> Status {
        let (link, site, outpost) = (self.lab.link(), &self.site, self.outpost.as_ref());
        let mode = match link.mode() {
            Mode::Open => "open",
            Mode::Cut => "cut",
            Mode::BlackHole => "black hole",
        };
        Status {
            pid: std::process::id(),
            folder: self.lab.folder().display().to_string(),
            database: site.name.clone(),
            role: site.role.clone(),
            port: outpost.map_or(self.lab.main().port(), Outpost::port),
            url: outpost.map_or_else(|| site.main_url.clone(), Outpost::url),
            console_url: outpost.map(Outpost::console_url),
            http_url: outpost.map(Outpost::http_url),
            daemon_pid: outpost.and_then(Outpost::pid),
            daemon_log: outpost.map(|outpost| outpost.log().display().to_string()),
            main_url: site.main_url.clone(),
            main_link_url: site.main_link_url.clone(),
            replica_url: site.replica_url.clone(),
            redis_url: site.redis_url.clone(),
            link: mode.to_owned(),
            round_trip_ms: u64::try_from(link.round_trip().as_millis()).unwrap_or(u64::MAX),
            link_connections: link.counts().open,
            replay: self.lab.replay_state().await.unwrap_or_else(|error| format!("unknown ({error:#})")),
            replica_lag_bytes: self.lab.replica_lag_bytes().await.ok(),
        }
    }

    /// The daemon first, and in peace, so that it can finish what clients are in the middle of.
    async fn stop(self) {
        if let Some(outpost) = &self.outpost
            && let Err(error) = outpost.terminate().await
        {
            tracing::warn!(%error, "the daemon did not stop by itself");
        }
    }
}
