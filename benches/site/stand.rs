//! What is measured: the lab's servers, a PgBouncer and the daemon, one database, and the tables in it.
//!
//! Everything here is synchronous; the lab's runtime is inside.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::outpost::OutpostOptions;
use lab::process::{Process, Program};
use lab::{Lab, LabOptions, Outpost, Site};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::effort::Effort;
use crate::load::{Load, Outcome};
use crate::process::{self, say, wait_until};
use crate::sql::Sql;

const SITE: &str = "bench";

/// How long the replica may take to show everything that is pending.
const DRAIN_LIMIT: Duration = Duration::from_secs(240);

/// Where the daemon keeps what it has acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Store {
    Redis,
    Files,
}

impl Store {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Store::Redis => "Redis",
            Store::Files => "files",
        }
    }
}

/// Who is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contender {
    /// Straight, with durable commits.
    Main,
    Replica,
    /// In front of the replica.
    PgBouncer,
    Pgoutpost,
}

// The fields are in the order in which they are to be dropped.
#[derive(Debug)]
pub(crate) struct Stand {
    outpost: Option<Outpost>,
    store: Store,
    bouncer: Bouncer,
    pub(crate) main: Sql,
    pub(crate) replica: Sql,
    pub(crate) site: Site,
    lab: Lab,
    scratch: TempDir,
    pgbench: PathBuf,
    runtime: Arc<Runtime>,
}

impl Stand {
    /// Starts all servers and fills the tables. The daemon is started by [`Stand::refresh`].
    pub(crate) fn start(effort: &Effort) -> Result<Stand> {
        let runtime = Arc::new(Runtime::new()?);
        let lab = runtime.block_on(Lab::start(LabOptions::default()))?;
        let site = runtime.block_on(lab.database(SITE))?;
        let pgbench = lab::postgres::binary("pgbench")?;
        fill(&Sql::connect(&runtime, &site.main_url)?, &site, &pgbench, effort)?;
        runtime.block_on(site.wait_replica_caught_up())?;
        let bouncer = Bouncer::start(&lab, &site)?;
        let main = Sql::connect(&runtime, &site.main_url)?;
        let replica = Sql::connect(&runtime, &site.replica_url)?;
        let scratch = tempfile::tempdir()?;
        Ok(Stand { outpost: None, store: Store::Redis, bouncer, main, replica, site, lab, scratch, pgbench, runtime })
    }

    /// The state that every part starts from: the daemon runs, the link is up without delay, nothing is pending.
    ///
    /// When the part before left a daemon that cannot come to that state, it and its buffer are thrown away.
    pub(crate) fn refresh(&mut self) -> Result<()> {
        self.heal(Duration::ZERO)?;
        if self.outpost.is_some() && self.drain().is_ok() {
            return Ok(());
        }
        self.begin(Store::Redis)
    }

    /// A new daemon with an empty buffer of this kind.
    pub(crate) fn begin(&mut self, store: Store) -> Result<()> {
        self.heal(Duration::ZERO)?;
        self.outpost = None;
        self.store = store;
        let folder = self.buffer_folder();
        let url = match store {
            Store::Redis => {
                self.redis(&["FLUSHALL"])?;
                self.site.redis_url.clone()
            }
            Store::Files => {
                if folder.exists() {
                    std::fs::remove_dir_all(&folder)?;
                }
                format!("file://{}", folder.display())
            }
        };
        let options = OutpostOptions::new(env!("CARGO_BIN_EXE_pgoutpost"))
            .setting("BUFFER__URL", url)
            // Out of the way: the long backlog is to be measured, not refused.
            .setting("BUFFER__MAX_TRANSACTIONS", "10000000")
            .setting("BUFFER__MAX_BYTES", "16GiB")
            .setting("REPLAY__RETRY_DELAY", "100ms")
            .setting("REPLAY__RETRY_DELAY_MAX", "500ms")
            .setting("LOG__LEVEL", "warn");
        self.outpost = Some(self.runtime.block_on(Outpost::start_with(&self.site, options)).context("pgoutpost")?);
        Ok(())
    }

    /// Where the files are of a buffer in files.
    pub(crate) fn buffer_folder(&self) -> PathBuf {
        self.site.folder.join("bench-buffer")
    }

    pub(crate) fn outpost(&self) -> Result<&Outpost> {
        self.outpost.as_ref().context("pgoutpost does not run")
    }

    /// Changes a setting of the daemon, and starts it again.
    pub(crate) fn restart_with(&mut self, settings: &[(&str, &str)]) -> Result<Duration> {
        let outpost = self.outpost.as_mut().context("pgoutpost does not run")?;
        settings.iter().for_each(|(key, value)| outpost.set(key, *value));
        self.restart()
    }

    /// Kills the daemon and starts it again; returns how long it takes until clients are served.
    pub(crate) fn restart(&self) -> Result<Duration> {
        let outpost = self.outpost()?;
        outpost.kill9()?;
        let started = Instant::now();
        self.runtime.block_on(outpost.restart())?;
        Ok(started.elapsed())
    }

    pub(crate) fn url(&self, contender: Contender) -> Result<String> {
        Ok(match contender {
            Contender::Main => self.site.main_url.clone(),
            Contender::Replica => self.site.replica_url.clone(),
            Contender::PgBouncer => self.bouncer.url.clone(),
            Contender::Pgoutpost => self.outpost()?.url(),
        })
    }

    /// The process of a contender that is one process.
    pub(crate) fn pid(&self, contender: Contender) -> Option<u32> {
        match contender {
            Contender::Main | Contender::Replica => None,
            Contender::PgBouncer => Some(self.bouncer.process.pid()),
            Contender::Pgoutpost => self.outpost.as_ref().and_then(Outpost::pid),
        }
    }

    pub(crate) fn load(&self, load: &Load, contender: Contender) -> Result<Outcome> {
        self.load_at(load, &self.url(contender)?).with_context(|| format!("{contender:?}"))
    }

    pub(crate) fn load_at(&self, load: &Load, url: &str) -> Result<Outcome> {
        load.run(&self.pgbench, url, self.scratch.path())
    }

    pub(crate) fn connect(&self, contender: Contender) -> Result<Sql> {
        Sql::connect(&self.runtime, &self.url(contender)?)
    }

    pub(crate) fn cut(&self) -> Result<()> {
        self.lab.link().cut()
    }

    /// Opens the link, with that round trip.
    pub(crate) fn heal(&self, round_trip: Duration) -> Result<()> {
        self.lab.link().delay(round_trip)?;
        self.lab.link().heal()
    }

    /// Waits until the replica has everything that main committed.
    pub(crate) fn wait_replica(&self) -> Result<()> {
        self.runtime.block_on(self.site.wait_replica_caught_up())
    }

    /// The newest seq in the buffer: Redis' own word, so that the daemon is not the judge of itself. Files have none but
    /// the daemon's.
    pub(crate) fn last_seq(&self) -> Result<u64> {
        if self.store == Store::Files {
            let said = process::get(&self.outpost()?.http_url(), "/buffer-stats")?;
            let (_, rest) = said.split_once("\"last_seq\":").context("/buffer-stats names no last_seq")?;
            return Ok(rest.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default().parse()?);
        }
        let key = format!("site:{SITE}:transaction_buffer");
        if self.redis(&["EXISTS", &key])? == "0" {
            return Ok(0);
        }
        let said = self.redis(&["XINFO", "STREAM", &key])?;
        let mut lines = said.lines().skip_while(|line| *line != "last-generated-id");
        let id = lines.nth(1).context("XINFO STREAM names no last-generated-id")?;
        let (seq, _) = id.split_once('-').with_context(|| format!("stream id {id}"))?;
        Ok(seq.parse()?)
    }

    /// The site's seq in the ledger of main or replica.
    pub(crate) fn ledger(&self, of: &Sql) -> Result<u64> {
        of.number(&format!("SELECT coalesce(max(seq), 0) FROM pgoutpost.ledger WHERE site = '{SITE}'"))
    }

    /// Heals the link and waits until nothing is pending.
    pub(crate) fn drain(&self) -> Result<()> {
        self.drain_within(DRAIN_LIMIT)
    }

    /// The same, for long backlogs.
    pub(crate) fn drain_within(&self, limit: Duration) -> Result<()> {
        self.heal(Duration::ZERO)?;
        let last = self.last_seq()?;
        wait_until("the buffer to drain", limit, || Ok(self.ledger(&self.replica)? >= last))?;
        self.wait_replica()?;
        // The tracker looks every 100 ms; then the daemon knows what the replica's ledger says.
        std::thread::sleep(Duration::from_millis(500));
        Ok(())
    }

    /// Redis' own figure of its memory, in bytes.
    pub(crate) fn redis_bytes(&self) -> Result<f64> {
        let said = self.redis(&["INFO", "memory"])?;
        let figure = said.lines().find_map(|line| line.strip_prefix("used_memory:")).context("used_memory")?;
        Ok(figure.trim().parse()?)
    }

    /// What Redis alone can do: durable XADDs a second, and their median milliseconds.
    pub(crate) fn redis_floor(&self, clients: u32) -> Result<(f64, f64)> {
        const KEY: &str = "bench:floor";
        let mut command = Command::new("redis-benchmark");
        // Over TCP, as the daemon's URL says.
        let (_, port) = self.site.redis_url.rsplit_once(':').context("Redis' URL has no port")?;
        command.args(["-p", port, "-c", &clients.to_string()]);
        command.args(["-n", "20000", "-q", "XADD", KEY, "*", "entry", &"x".repeat(600)]);
        let said = say(&command)?;
        self.redis(&["DEL", KEY])?;
        // Its progress is overwritten with carriage returns; the last line is the result.
        let last = said.rsplit('\r').next().unwrap_or_default();
        let figure = |after: &str, before: &str| -> Option<f64> {
            let (rest, _) = last.split_once(before)?;
            let (_, number) = rest.rsplit_once(after)?;
            number.trim().parse().ok()
        };
        let rate = figure(": ", " requests per second").with_context(|| format!("redis-benchmark said {last}"))?;
        let p50_ms = figure("p50=", " msec").with_context(|| format!("redis-benchmark said {last}"))?;
        Ok((rate, p50_ms))
    }

    fn redis(&self, arguments: &[&str]) -> Result<String> {
        say(Command::new("redis-cli").args(["-u", &self.site.redis_url]).args(arguments))
    }
}

/// pgbench's own tables, and two of ours: `item`, with even ids only so that new rows fall between old ones, and
/// `reading`, which grows.
fn fill(main: &Sql, site: &Site, pgbench: &Path, effort: &Effort) -> Result<()> {
    let scale = effort.scale.to_string();
    say(Command::new(pgbench).args(["-i", "-q", "-s", &scale, &site.main_url]))?;
    main.run(&format!(
        "CREATE TABLE reading (
             id uuid DEFAULT gen_random_uuid() PRIMARY KEY,
             at timestamptz NOT NULL DEFAULT now(),
             sensor integer NOT NULL,
             value double precision NOT NULL
         );
         CREATE TABLE item (
             id bigint PRIMARY KEY,
             at timestamptz NOT NULL,
             kind integer NOT NULL,
             value double precision NOT NULL,
             note text
         );
         INSERT INTO item
             SELECT 2 * n, '2026-01-01Z'::timestamptz + n * interval '1 second', n % 1000, n / 7.0, 'item ' || n
             FROM generate_series(1, {}) n;
         CREATE INDEX ON item (at);
         CREATE INDEX ON item (kind);",
        effort.items
    ))?;
    main.run("VACUUM ANALYZE")?;
    main.run("CHECKPOINT")?;
    ensure!(main.text("SHOW fsync")?.as_deref() == Some("on"), "the yardstick needs fsync");
    ensure!(main.text("SHOW synchronous_commit")?.as_deref() == Some("on"), "the yardstick needs synchronous_commit");
    Ok(())
}

/// PgBouncer in front of the replica, in session pooling: what a connection proxy costs that changes nothing.
#[derive(Debug)]
struct Bouncer {
    process: Process,
    url: String,
}

impl Bouncer {
    fn start(lab: &Lab, site: &Site) -> Result<Bouncer> {
        let port = lab::port::free_port()?;
        let Site { name, role, folder, .. } = site;
        let (users, config) = (folder.join("bouncer-users.txt"), folder.join("bouncer.ini"));
        std::fs::write(&users, format!("\"{role}\" \"\"\n"))?;
        let replica_port = lab.replica().port();
        std::fs::write(
            &config,
            format!(
                "[databases]\n{name} = host=127.0.0.1 port={replica_port}\n[pgbouncer]\n\
                 listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
                 auth_type = trust\nauth_file = {}\npool_mode = session\nmax_client_conn = 200\n\
                 default_pool_size = 64\nlog_connections = 0\nlog_disconnections = 0\n",
                users.display()
            ),
        )?;
        let debian = Path::new("/usr/sbin/pgbouncer");
        ensure!(debian.exists(), "PgBouncer is not installed (apt-get install pgbouncer)");
        let process = Program::new("pgbouncer", debian, folder, &folder.join("bouncer.log"))
            .argument(config.display().to_string())
            .run_as(lab.run_as())
            .start()?;
        let bouncer = Bouncer { process, url: format!("postgres://{role}@127.0.0.1:{port}/{name}") };
        wait_until("PgBouncer to listen", Duration::from_secs(10), || {
            Ok(std::net::TcpStream::connect(("127.0.0.1", port)).is_ok())
        })?;
        Ok(bouncer)
    }
}
