//! The `pgoutpost` daemon as a child process: the program under test.
//!
//! It is configured as a user would: the repository's own `proxy.toml`, and environment variables over it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use crate::port::free_port;
use crate::postgres::{connect, url};
use crate::process::{Process, Program, log_tail};
use crate::site::Site;

const SETUP_LIMIT: Duration = Duration::from_secs(60);
/// Long, since a restart rebuilds the overlay from the buffer.
const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// How a daemon is to be started.
#[derive(Clone, Debug)]
pub struct OutpostOptions {
    /// The `pgoutpost` program; tests have it as `env!("CARGO_BIN_EXE_pgoutpost")`.
    pub binary: PathBuf,
    pub config: PathBuf,
    /// Ports to listen on; free ones are found when absent.
    pub port: Option<u16>,
    pub http_port: Option<u16>,
    /// Further settings, as `("BUFFER__MAX_TRANSACTIONS", "10")`.
    pub settings: Vec<(String, String)>,
    /// Environment variables that are no settings.
    pub environment: Vec<(String, String)>,
}

impl OutpostOptions {
    /// The repository's `proxy.toml`, free ports.
    pub fn new(binary: impl Into<PathBuf>) -> OutpostOptions {
        let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proxy.toml");
        OutpostOptions {
            binary: binary.into(),
            config,
            port: None,
            http_port: None,
            settings: Vec::new(),
            environment: Vec::new(),
        }
    }

    #[must_use]
    pub fn setting(mut self, key: &str, value: impl Into<String>) -> OutpostOptions {
        self.settings.push((key.to_owned(), value.into()));
        self
    }

    #[must_use]
    pub fn environment(mut self, key: &str, value: impl Into<String>) -> OutpostOptions {
        self.environment.push((key.to_owned(), value.into()));
        self
    }
}

/// A daemon for one site; killed when dropped. When a test panics, the end of its log goes to stderr.
#[derive(Debug)]
pub struct Outpost {
    site: Site,
    options: OutpostOptions,
    port: u16,
    http_port: u16,
    log: PathBuf,
    process: Mutex<Option<Process>>,
}

impl Outpost {
    /// `pgoutpost setup`, then the daemon; returns when it accepts clients.
    pub async fn start(site: &Site, binary: impl Into<PathBuf>) -> Result<Outpost> {
        Outpost::start_with(site, OutpostOptions::new(binary)).await
    }

    /// As [`Outpost::start`], with options.
    pub async fn start_with(site: &Site, options: OutpostOptions) -> Result<Outpost> {
        let port = options.port.map_or_else(free_port, Ok)?;
        let http_port = options.http_port.map_or_else(free_port, Ok)?;
        let log = site.folder.join(format!("outpost-{}.log", site.name));
        let outpost = Outpost { site: site.clone(), options, port, http_port, log, process: Mutex::new(None) };
        outpost.command("setup").await?;
        site.wait_replica_caught_up().await?;
        outpost.restart().await?;
        Ok(outpost)
    }

    /// Runs another command of the daemon's program, as `setup` or `check`, with the same configuration.
    pub async fn command(&self, name: &str) -> Result<()> {
        self.program(name).finish(SETUP_LIMIT).await
    }

    /// Starts it again on the same ports, after killing it when it still runs; returns when it accepts clients.
    pub async fn restart(&self) -> Result<()> {
        self.launch()?;
        self.wait_until_it_accepts().await
    }

    /// Changes a setting; it counts from the next start on.
    pub fn set(&mut self, key: &str, value: impl Into<String>) {
        self.options.settings.retain(|(known, _)| known != key);
        self.options.settings.push((key.to_owned(), value.into()));
    }

    /// As [`Outpost::restart`] without waiting, for starts that must fail or must wait for something else.
    pub fn launch(&self) -> Result<()> {
        self.kill9()?;
        *self.lock() = Some(self.program("run").start()?);
        Ok(())
    }

    /// Waits until a client can log in.
    pub async fn wait_until_it_accepts(&self) -> Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            let Err(refused) = connect(&self.url()).await else { return Ok(()) };
            if let Some(status) = self.exited()? {
                bail!("pgoutpost ended with {status}; its log ends:\n{}", log_tail(&self.log));
            }
            if Instant::now() > deadline {
                let log = log_tail(&self.log);
                bail!("pgoutpost does not accept clients after {START_LIMIT:?} ({refused:#}); its log ends:\n{log}");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// How it ended, if it ended by itself.
    pub fn exited(&self) -> Result<Option<ExitStatus>> {
        self.lock().as_mut().map_or(Ok(None), Process::exited)
    }

    /// SIGKILL.
    pub fn kill9(&self) -> Result<()> {
        self.lock().take().map_or(Ok(()), |mut process| process.kill())
    }

    /// SIGTERM, and waits for it to end by itself.
    pub async fn terminate(&self) -> Result<ExitStatus> {
        let mut process = self.lock().take().context("pgoutpost does not run")?;
        process.signal(Signal::TERM)?;
        let deadline = Instant::now() + STOP_LIMIT;
        loop {
            if let Some(status) = process.exited()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("pgoutpost did not stop within {STOP_LIMIT:?}; its log ends:\n{}", process.log_tail());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// For SIGTERM without waiting, SIGSTOP and the like.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.lock().as_mut().context("pgoutpost does not run")?.signal(signal)
    }

    pub fn pid(&self) -> Option<u32> {
        self.lock().as_ref().map(Process::pid)
    }

    pub fn site(&self) -> &Site {
        &self.site
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where clients connect.
    pub fn url(&self) -> String {
        url(self.port, &self.site.role, &self.site.name)
    }

    /// The console.
    pub fn console_url(&self) -> String {
        url(self.port, &self.site.role, "pgoutpost")
    }

    /// Metrics, health and status; without a slash at the end.
    pub fn http_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.http_port)
    }

    /// The log's file; `setup` and every start append to it.
    pub fn log(&self) -> &Path {
        &self.log
    }

    fn program(&self, command: &str) -> Program {
        let name = format!("pgoutpost {command}");
        let config = self.options.config.display().to_string();
        let mut program = Program::new(&name, &self.options.binary, &self.site.folder, &self.log)
            .arguments([command, "--config", &config])
            .environment("PGOUTPOST__SITE__NAME", &self.site.name)
            .environment("PGOUTPOST__LISTEN__ADDRESS", &format!("127.0.0.1:{}", self.port))
            .environment("PGOUTPOST__HTTP__ADDRESS", &format!("127.0.0.1:{}", self.http_port))
            .environment("PGOUTPOST__MAIN__URL", &self.site.main_link_url)
            .environment("PGOUTPOST__REPLICA__URL", &self.site.replica_url)
            .environment("PGOUTPOST__BUFFER__URL", &self.site.buffer_url);
        for (key, value) in &self.options.environment {
            program = program.environment(key, value);
        }
        for (key, value) in &self.options.settings {
            program = program.environment(&format!("PGOUTPOST__{key}"), value);
        }
        program
    }

    fn lock(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Outpost {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = writeln!(std::io::stderr(), "pgoutpost's log ends:\n{}", log_tail(&self.log));
        }
    }
}
