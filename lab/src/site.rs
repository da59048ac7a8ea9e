//! A whole lab, and the sites (one database each) in it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tokio::sync::OnceCell;

use crate::folder::Folder;
use crate::link::Link;
use crate::port::free_port;
use crate::postgres::{Postgres, connect, url};
use crate::process::RunAs;
use crate::redis::Redis;

/// How long replication may take on a busy machine before a test is told that it does not happen.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(30);

/// What a lab may be told.
#[derive(Clone, Debug, Default)]
pub struct LabOptions {
    /// Round-trip time of the link, from the start on (making the replica pays it, too).
    pub round_trip: Duration,
}

/// Main, replica, Redis and the link between main and the rest.
///
/// Dropping it stops everything and removes its folder. The fields are in the order in which they are to be dropped.
#[derive(Debug)]
pub struct Lab {
    replica: Postgres,
    link: Link,
    main: Postgres,
    redis: Redis,
    run_as: RunAs,
    folder: Folder,
}

impl Lab {
    /// Starts all servers, each on a free port of 127.0.0.1.
    pub async fn start(options: LabOptions) -> Result<Lab> {
        let run_as = RunAs::detect()?;
        let folder = Folder::create(&run_as)?;
        let within = |name: &str| folder.path().join(name);
        let main = Postgres::start_main(&within("main"), free_port()?, &run_as).await?;
        let link = Link::start(free_port()?, main.port())?;
        link.delay(options.round_trip)?;
        let replica = Postgres::start_replica(&within("replica"), free_port()?, link.port(), &run_as).await?;
        let redis = Redis::start(&within("redis"), free_port()?, &run_as).await?;
        let lab = Lab { replica, link, main, redis, run_as, folder };
        // For whoever runs this, so that plain `psql` gets in. `postgres` is there from initdb.
        lab.role(&os_user()?).await?;
        Ok(lab)
    }

    /// The lab that all tests of this process share, started by the first.
    ///
    /// It is never dropped, as statics are not: its servers die with the process (their death signal), and the next lab
    /// on this machine removes its folder. Tests that cut the link or freeze the replica need a lab of their own.
    /// Under `cargo nextest` each test is a process, so that nothing is shared there.
    pub async fn shared() -> Result<&'static Lab> {
        static SHARED: OnceCell<Lab> = OnceCell::const_new();
        SHARED.get_or_try_init(|| Lab::start(LabOptions::default())).await
    }

    /// Creates a database on main, waits until the replica has it, and says where everything is. The site is named as
    /// the database; a name can be used once.
    pub async fn database(&self, name: &str) -> Result<Site> {
        let main = self.main.connect("postgres").await?;
        main.batch_execute(&format!("CREATE DATABASE {}", quoted(name)))
            .await
            .with_context(|| format!("creating {name}"))?;
        self.wait_replica_caught_up().await?;
        Ok(self.site(name, "postgres"))
    }

    /// A superuser of that name, unless there is one.
    pub async fn role(&self, name: &str) -> Result<()> {
        let main = self.main.connect("postgres").await?;
        if main.query_opt("SELECT FROM pg_roles WHERE rolname = $1", &[&name]).await?.is_none() {
            main.batch_execute(&format!("CREATE ROLE {} SUPERUSER LOGIN", quoted(name))).await?;
        }
        Ok(())
    }

    /// Where the parts are for an existing database and a role.
    pub fn site(&self, name: &str, role: &str) -> Site {
        Site {
            name: name.to_owned(),
            role: role.to_owned(),
            main_url: self.main.url(role, name),
            main_link_url: url(self.link.port(), role, name),
            replica_url: self.replica.url(role, name),
            redis_url: self.redis.url(),
            buffer_url: self.redis.url(),
            folder: self.folder.path().to_owned(),
        }
    }

    pub fn link(&self) -> &Link {
        &self.link
    }

    pub fn main(&self) -> &Postgres {
        &self.main
    }

    pub fn replica(&self) -> &Postgres {
        &self.replica
    }

    pub fn redis(&self) -> &Redis {
        &self.redis
    }

    pub fn run_as(&self) -> &RunAs {
        &self.run_as
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Database `postgres` of main, past the link.
    pub fn main_url(&self) -> String {
        self.main.url("postgres", "postgres")
    }

    /// Database `postgres` of main, through the link.
    pub fn main_through_link_url(&self) -> String {
        url(self.link.port(), "postgres", "postgres")
    }

    pub fn replica_url(&self) -> String {
        self.replica.url("postgres", "postgres")
    }

    pub fn redis_url(&self) -> String {
        self.redis.url()
    }

    /// Pauses the replica's replay: WAL still arrives, but nothing new becomes visible. Returns when it has paused.
    pub async fn freeze(&self) -> Result<()> {
        let replica = self.replica.connect("postgres").await?;
        replica.batch_execute("SELECT pg_wal_replay_pause()").await?;
        let deadline = Instant::now() + CATCH_UP_LIMIT;
        while self.replay_state().await? != "paused" {
            ensure!(Instant::now() < deadline, "replay did not pause within {CATCH_UP_LIMIT:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// Resumes replay after [`Lab::freeze`].
    pub async fn thaw(&self) -> Result<()> {
        Ok(self.replica.connect("postgres").await?.batch_execute("SELECT pg_wal_replay_resume()").await?)
    }

    /// `not paused`, `pause requested` or `paused`.
    pub async fn replay_state(&self) -> Result<String> {
        let replica = self.replica.connect("postgres").await?;
        Ok(replica.query_one("SELECT pg_get_wal_replay_pause_state()", &[]).await?.try_get(0)?)
    }

    /// Waits until the replica shows everything that main has committed by now.
    pub async fn wait_replica_caught_up(&self) -> Result<()> {
        wait_caught_up(&self.main_url(), &self.replica_url()).await
    }

    /// WAL that main has written and the replica has not replayed, in bytes.
    pub async fn replica_lag_bytes(&self) -> Result<i64> {
        let (main, replica) = (self.main.connect("postgres").await?, self.replica.connect("postgres").await?);
        let replayed: String = replica.query_one("SELECT pg_last_wal_replay_lsn()::text", &[]).await?.try_get(0)?;
        let question = format!("SELECT greatest(0, pg_current_wal_flush_lsn() - '{replayed}'::pg_lsn)::bigint");
        Ok(main.query_one(&question, &[]).await?.try_get(0)?)
    }

    pub fn kill_main(&self) -> Result<()> {
        self.main.kill()
    }

    pub async fn restart_main(&self) -> Result<()> {
        self.main.restart().await
    }

    pub fn kill_replica(&self) -> Result<()> {
        self.replica.kill()
    }

    pub async fn restart_replica(&self) -> Result<()> {
        self.replica.restart().await
    }

    pub fn kill_redis(&self) -> Result<()> {
        self.redis.kill()
    }

    pub async fn restart_redis(&self) -> Result<()> {
        self.redis.restart().await
    }

    /// The pids of all servers that run.
    pub fn pids(&self) -> Vec<u32> {
        [self.main.pid(), self.replica.pid(), self.redis.pid()].into_iter().flatten().collect()
    }
}

/// One database of a lab with everything a daemon needs to serve it.
#[derive(Clone, Debug)]
pub struct Site {
    /// The site's name, and the database's.
    pub name: String,
    /// The role in the URLs.
    pub role: String,
    /// Straight to main, for looking at the truth.
    pub main_url: String,
    /// To main through the link, for the daemon.
    pub main_link_url: String,
    pub replica_url: String,
    pub redis_url: String,
    /// Where the daemon keeps its buffer: the Redis, unless a test puts it elsewhere.
    pub buffer_url: String,
    /// Where logs go.
    pub folder: PathBuf,
}

impl Site {
    /// Waits until the replica shows everything that main has committed by now.
    pub async fn wait_replica_caught_up(&self) -> Result<()> {
        wait_caught_up(&self.main_url, &self.replica_url).await
    }

    /// A connection straight to main.
    pub async fn main(&self) -> Result<tokio_postgres::Client> {
        connect(&self.main_url).await
    }

    /// A connection straight to the replica.
    pub async fn replica(&self) -> Result<tokio_postgres::Client> {
        connect(&self.replica_url).await
    }
}

/// Flushed and not inserted WAL: everything committed is flushed, and only what is flushed is sent to a replica.
async fn wait_caught_up(main_url: &str, replica_url: &str) -> Result<()> {
    let (main, mut replica) = (connect(main_url).await?, connect_patiently(replica_url).await?);
    let lsn: String = main.query_one("SELECT pg_current_wal_flush_lsn()::text", &[]).await?.try_get(0)?;
    let question = format!("SELECT pg_last_wal_replay_lsn() >= '{lsn}'::pg_lsn");
    let deadline = Instant::now() + CATCH_UP_LIMIT;
    loop {
        match replica.query_one(&question, &[]).await {
            Ok(row) if row.try_get::<_, Option<bool>>(0)? == Some(true) => return Ok(()),
            Ok(_) => {}
            // What it replays may end a connection (a conflict with recovery).
            Err(error) if Instant::now() > deadline => return Err(error.into()),
            Err(_) => replica = connect_patiently(replica_url).await?,
        }
        if Instant::now() > deadline {
            bail!("the replica has not replayed {lsn} after {CATCH_UP_LIMIT:?}");
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// The replica may not have the database yet.
async fn connect_patiently(url: &str) -> Result<tokio_postgres::Client> {
    let deadline = Instant::now() + CATCH_UP_LIMIT;
    loop {
        match connect(url).await {
            Err(_) if Instant::now() < deadline => tokio::time::sleep(Duration::from_millis(5)).await,
            outcome => return outcome,
        }
    }
}

/// The name of the user who runs this: the one that libpq takes by default.
pub fn os_user() -> Result<String> {
    let output = std::process::Command::new("id").arg("-un").output().context("running `id -un`")?;
    ensure!(output.status.success(), "`id -un` ended with {}", output.status);
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// An SQL identifier.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
