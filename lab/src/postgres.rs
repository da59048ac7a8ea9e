//! Postgres servers: a main, and a streaming replica made from it over the link.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use tokio_postgres::{Client, NoTls};

use crate::process::{Process, Program, RunAs};

/// Starting includes crash recovery after a kill, and a machine busy with other tests.
const START_LIMIT: Duration = Duration::from_secs(60);

/// The slot that keeps main's WAL for the replica while the link is cut, however long.
const REPLICATION_SLOT: &str = "lab_replica";

/// Appended to main's postgresql.conf, which pg_basebackup copies to the replica. `fsync` stays on: a lab is for tests
/// of durability too.
const SETTINGS: &str = "
listen_addresses = '127.0.0.1'
max_connections = 300
wal_level = replica
max_wal_senders = 10
max_replication_slots = 10
hot_standby = on
hot_standby_feedback = on
wal_receiver_status_interval = 1s
wal_retrieve_retry_interval = 100ms
wal_receiver_timeout = 10s
wal_sender_timeout = 10s
shared_buffers = 64MB
timezone = 'UTC'
log_line_prefix = '%m [%p] %q%u@%d %a '
cluster_name = 'main'
";

/// Trust: a lab listens on 127.0.0.1 only and holds nothing worth a password.
const HOST_ACCESS: &str = "
local all all trust
host all all 127.0.0.1/32 trust
local replication all trust
host replication all 127.0.0.1/32 trust
";

/// One Postgres server; stopped when dropped.
#[derive(Debug)]
pub struct Postgres {
    name: &'static str,
    folder: PathBuf,
    port: u16,
    run_as: RunAs,
    process: Mutex<Option<Process>>,
}

impl Postgres {
    /// Makes and starts a main server in `folder`.
    pub async fn start_main(folder: &Path, port: u16, run_as: &RunAs) -> Result<Postgres> {
        let main = Postgres::prepare("main", folder, port, run_as)?;
        let data = main.data().display().to_string();
        main.tool("initdb")?
            .arguments(["-D", &data, "-U", "postgres", "-A", "trust", "--no-sync"])
            .arguments(["-E", "UTF8", "--locale", "C.UTF-8"])
            .finish(START_LIMIT)
            .await?;
        let settings = main.data().join("postgresql.conf");
        let written = std::fs::read_to_string(&settings)?;
        std::fs::write(&settings, written + SETTINGS)?;
        std::fs::write(main.data().join("pg_hba.conf"), HOST_ACCESS)?;
        main.restart().await?;
        Ok(main)
    }

    /// Copies main over the link and starts the copy as a streaming replica; `link_port` is the site's end of the link.
    pub async fn start_replica(folder: &Path, port: u16, link_port: u16, run_as: &RunAs) -> Result<Postgres> {
        let replica = Postgres::prepare("replica", folder, port, run_as)?;
        replica.stream_from(link_port).await?;
        Ok(replica)
    }

    async fn stream_from(&self, link_port: u16) -> Result<()> {
        let main = connect(&url(link_port, "postgres", "postgres")).await?;
        let make = "SELECT pg_create_physical_replication_slot($1, true)
            WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = $1)";
        main.execute(make, &[&REPLICATION_SLOT]).await?;
        let data = self.data().display().to_string();
        self.tool("pg_basebackup")?
            .arguments(["-D", &data, "-R", "-S", REPLICATION_SLOT, "-X", "stream", "-c", "fast", "--no-sync"])
            .arguments(["-d", &format!("host=127.0.0.1 port={link_port} user=postgres application_name=replica")])
            .finish(START_LIMIT)
            .await?;
        self.restart().await
    }

    /// Makes a replica anew from whatever the link leads to now, with a slot of its own there.
    pub async fn rebuild(&self, link_port: u16) -> Result<()> {
        self.kill()?;
        let data = self.data();
        std::fs::remove_dir_all(&data).with_context(|| format!("removing {}", data.display()))?;
        self.stream_from(link_port).await
    }

    /// A standby of `main` beside it, for failovers: streams from main itself, asynchronously and without a slot.
    pub async fn start_standby(folder: &Path, port: u16, main: &Postgres) -> Result<Postgres> {
        let standby = Postgres::copy("standby", folder, port, main, &["-R"]).await?;
        standby.restart().await?;
        Ok(standby)
    }

    /// A copy of `main` as it is now, not started: what a restore begins with.
    pub async fn back_up(folder: &Path, port: u16, main: &Postgres) -> Result<Postgres> {
        Postgres::copy("restored", folder, port, main, &[]).await
    }

    async fn copy(name: &'static str, folder: &Path, port: u16, main: &Postgres, more: &[&str]) -> Result<Postgres> {
        let copy = Postgres::prepare(name, folder, port, &main.run_as)?;
        let data = copy.data().display().to_string();
        copy.tool("pg_basebackup")?
            .arguments(["-D", &data, "-X", "stream", "-c", "fast", "--no-sync"])
            .arguments(more.iter().copied())
            .arguments(["-d", &format!("host=127.0.0.1 port={} user=postgres", main.port)])
            .finish(START_LIMIT)
            .await?;
        Ok(copy)
    }

    /// Makes a standby a main, on a new timeline.
    pub async fn promote(&self) -> Result<()> {
        let client = self.connect("postgres").await?;
        let done: bool = client.query_one("SELECT pg_promote()", &[]).await?.try_get(0)?;
        if done { Ok(()) } else { bail!("{} was not promoted in time", self.name) }
    }

    fn prepare(name: &'static str, folder: &Path, port: u16, run_as: &RunAs) -> Result<Postgres> {
        std::fs::create_dir(folder).with_context(|| format!("making {}", folder.display()))?;
        run_as.own(folder)?;
        let (folder, run_as) = (folder.to_owned(), run_as.clone());
        Ok(Postgres { name, folder, port, run_as, process: Mutex::new(None) })
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The folder with its Unix socket, log and data.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn pid(&self) -> Option<u32> {
        self.lock().as_ref().map(Process::pid)
    }

    /// A connection URL over TCP, not through the link.
    pub fn url(&self, user: &str, database: &str) -> String {
        url(self.port, user, database)
    }

    /// A connection as `postgres`.
    pub async fn connect(&self, database: &str) -> Result<Client> {
        connect(&self.url("postgres", database)).await
    }

    /// SIGKILL to the postmaster and its children. Left to notice by themselves, busy ones can hold the shared memory,
    /// and with it the next start, for a minute.
    pub fn kill(&self) -> Result<()> {
        self.lock().take().map_or(Ok(()), |mut process| process.kill_family())
    }

    /// Starts it on the same port and data; returns when it accepts connections.
    pub async fn restart(&self) -> Result<()> {
        self.kill()?;
        let deadline = Instant::now() + START_LIMIT;
        loop {
            *self.lock() = Some(self.launch()?);
            let Err(error) = self.wait_until_it_accepts(deadline).await else { return Ok(()) };
            // After a kill the old backends hold the shared memory for a moment, and the new postmaster gives up.
            if Instant::now() > deadline || !error.to_string().contains("shared memory block") {
                return Err(error);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn launch(&self) -> Result<Process> {
        self.tool("postgres")?
            .death_signal("QUIT")
            .arguments(["-D", &self.data().display().to_string(), "-p", &self.port.to_string()])
            .arguments(["-k", &self.folder.display().to_string()])
            .arguments(["-c", &format!("cluster_name={}", self.name)])
            .start()
    }

    async fn wait_until_it_accepts(&self, deadline: Instant) -> Result<()> {
        loop {
            if self.connect("postgres").await.is_ok() {
                return Ok(());
            }
            if let Some(process) = self.lock().as_mut()
                && let Some(status) = process.exited()?
            {
                bail!("{} ended with {status}; its log ends:\n{}", self.name, process.log_tail());
            }
            if Instant::now() > deadline {
                let log = crate::process::log_tail(&self.folder.join("log"));
                bail!("{} does not accept connections after {START_LIMIT:?}; its log ends:\n{log}", self.name);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn tool(&self, name: &str) -> Result<Program> {
        let (binary, log) = (binary(name)?, self.folder.join("log"));
        let label = format!("{} {name}", self.name);
        Ok(Program::new(&label, &binary, &self.folder, &log).run_as(&self.run_as))
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn lock(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // Immediate shutdown: the data is thrown away, and a fast one would wait for a checkpoint.
        if let Some(mut process) = self.lock().take() {
            let _ = process.stop(Signal::QUIT, Duration::from_secs(10));
        }
    }
}

pub(crate) fn url(port: u16, user: &str, database: &str) -> String {
    format!("postgres://{}@127.0.0.1:{port}/{}", percent_encoded(user), percent_encoded(database))
}

/// A connection whose task runs on the caller's runtime.
pub async fn connect(url: &str) -> Result<Client> {
    let (client, connection) =
        tokio_postgres::connect(url, NoTls).await.with_context(|| format!("connecting to {url}"))?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a lab connection ended");
        }
    });
    Ok(client)
}

/// User and database names may hold what a URL may not.
fn percent_encoded(name: &str) -> String {
    name.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' | b'.' => char::from(byte).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect()
}

/// A Postgres program: from `PGOUTPOST_POSTGRES_BIN`, from the newest Debian package, or from the PATH. All from one
/// place, as client and server must fit together.
pub fn binary(name: &str) -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("PGOUTPOST_POSTGRES_BIN") {
        return Ok(Path::new(&folder).join(name));
    }
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = versions
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse::<u32>().ok()?, entry.path().join("bin"))))
        .filter(|(_, folder)| folder.join("initdb").exists())
        .max_by_key(|(version, _)| *version);
    if let Some((_, folder)) = newest
        && folder.join(name).exists()
    {
        return Ok(folder.join(name));
    }
    on_path(name).with_context(|| format!("Postgres' `{name}` is not installed (scripts/install-deps installs it)"))
}

/// The first executable of that name on the PATH.
pub(crate) fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.exists())
}
