//! `make demo`: a night at an observatory whose link to the main database is cut, told step by step.
//!
//! Everything goes through the daemon as any client would; main itself is only looked at, to compare it row by row
//! with what clients were told. Any difference ends the demo with an error.

mod measure;
mod night;
mod schema;
mod told;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use lab::postgres::connect;
use lab::standing::client::{UpOptions, down, order, up_attached, up_detached};
use lab::standing::{Order, Status};
use tokio_postgres::Client;

use crate::measure::{Latencies, millis};
use crate::night::{Night, change_of_mind, mistakes};
use crate::told::{Told, rows};

/// How long a night may take to reach main, and then the replica.
const DRAIN_LIMIT: Duration = Duration::from_secs(120);

#[derive(Debug, Parser)]
#[command(about = "A night at an observatory, with the link to the main database cut.")]
struct Arguments {
    /// Stop everything at the end.
    #[arg(long)]
    once: bool,
    /// Observations made while the link is cut.
    #[arg(long, default_value_t = 120)]
    observations: usize,
    #[arg(long, default_value = "target/debug/pgoutpost")]
    daemon: PathBuf,
    #[arg(long, default_value = "proxy.toml")]
    config: PathBuf,
    /// The folder of the lab that is left running.
    #[arg(long, default_value = ".lab")]
    folder: PathBuf,
    /// The same story told to main itself, for work on the demo.
    #[arg(long, hide = true)]
    without_daemon: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "\nThe demo failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<()> {
    let lab = std::env::current_exe()?.with_file_name("lab");
    let daemon = (!arguments.without_daemon).then(|| arguments.daemon.clone());
    let (config, folder) = (arguments.config.clone(), arguments.folder.clone());
    let mut up = UpOptions { folder, lab, daemon, config, port: 6432, http_port: 8432 };
    step("Starting main, replica, Redis, the link and the daemon");
    if arguments.once {
        let place = tempfile::tempdir()?;
        up.folder = place.path().to_owned();
        let (mut process, status) = up_attached(&up).await?;
        let story = Story { up: &up, status, observations: arguments.observations };
        let outcome = story.tell().await;
        let stopped = down(&up.folder).await;
        process.exited()?;
        outcome?;
        stopped?;
        say("Everything is stopped; every comparison held.");
        return Ok(());
    }
    let status = up_detached(&up).await?;
    let story = Story { up: &up, status, observations: arguments.observations };
    let outcome = story.tell().await;
    step("It is all still running");
    let status = order(&up.folder, Order::Status).await?;
    say(status.how_to_connect().trim_end());
    outcome
}

/// The demo's acts, in order.
struct Story<'a> {
    up: &'a UpOptions,
    status: Status,
    observations: usize,
}

impl Story<'_> {
    async fn tell(&self) -> Result<()> {
        let version = rows(&connect(&self.status.url).await?, "SHOW server_version").await?;
        let version = version.into_iter().flatten().flatten().next().unwrap_or_default();
        say(&format!("Postgres {version}; clients connect to {}", self.status.url));
        let main = connect(&self.status.main_url).await?;

        step("An observatory's tables and reference data on main");
        main.batch_execute(schema::SCHEMA).await.context("making the tables")?;
        self.wait_for_replica().await?;
        let mut client = connect(&self.status.url).await?;
        let mut night = Night::default();
        night.begin_with(&client).await?;
        say(&format!("3 instruments, {} observation units", night.told.rows("observation_units")));

        self.evening(&main, &mut client, &mut night).await?;
        self.cut_off(&main, &mut client, &mut night).await?;
        self.read_back(&night.told).await?;
        self.reconnect(&main, &night).await?;
        self.compare(&main, &night.told).await
    }

    async fn evening(&self, main: &Client, client: &mut Client, night: &mut Night) -> Result<()> {
        step("Evening: the link is slow, 150 ms a round trip");
        order(&self.up.folder, Order::Delay(150)).await?;
        let far = connect_through(&self.status).await?;
        let mut round_trips = Latencies::default();
        for _ in 0..5 {
            round_trips.measure(far.batch_execute("SELECT 1")).await?;
        }
        say(&format!("a round trip to main      {round_trips}"));
        for _ in 0..10 {
            night.observe(client).await?;
        }
        say(&format!("COMMIT at the site        {}", night.commits));
        let behind = drained(main, &night.told).await?;
        say(&format!("main has all of it {} after the last", millis(behind)));
        Ok(())
    }

    async fn cut_off(&self, main: &Client, client: &mut Client, night: &mut Night) -> Result<()> {
        step("Night: the link is cut");
        order(&self.up.folder, Order::Cut).await?;
        ensure!(connect_through(&self.status).await.is_err(), "the link is cut, and yet main answers");
        let before = count_on_main(main).await?;
        night.measure_anew();
        let start = Instant::now();
        for _ in 0..self.observations {
            night.observe(client).await?;
        }
        let took = start.elapsed();
        say(&format!(
            "{} transactions acknowledged in {:.1} s, from one client",
            night.transactions,
            took.as_secs_f64()
        ));
        say(&format!("autocommit INSERT, UPDATE {}", night.autocommits));
        say(&format!("statement in transaction  {}", night.statements));
        say(&format!("COMMIT                    {}", night.commits));
        change_of_mind(client).await?;
        say("a transaction and a savepoint rolled back");
        let mistakes = mistakes(client).await?;
        say(&format!("{mistakes} bad writes refused at once, with Postgres' own SQLSTATE"));
        let (held, acknowledged) = (count_on_main(main).await?, night.rows_inserted());
        if self.status.daemon_pid.is_some() {
            ensure!(held == before, "main cannot have heard of the night, but it has {} more rows", held - before);
        }
        say(&format!("main has {held} of the {acknowledged} rows that clients inserted"));
        Ok(())
    }

    async fn read_back(&self, told: &Told) -> Result<()> {
        step("Read back at the site, the link still cut, by another client");
        let client = connect(&self.status.url).await?;
        let mut reads = Latencies::default();
        let query = "SELECT status, count(*) FROM executed_observations GROUP BY status ORDER BY status";
        for row in reads.measure(client.query(query, &[])).await? {
            let (status, count): (String, i64) = (row.try_get(0)?, row.try_get(1)?);
            let expected = told.column("executed_observations", 2).filter(|told| *told == status).count();
            ensure!(usize::try_from(count)? == expected, "{status}: told of {expected}, read {count}");
            say(&format!("{count:>5} observations {status}"));
        }
        let query = "
            SELECT i.name, count(DISTINCT o.id), count(f.id), coalesce(sum(f.size_bytes), 0)::bigint
            FROM instruments i
            JOIN observation_units u ON u.instrument_id = i.id
            JOIN executed_observations o ON o.unit_id = u.id
            JOIN raw_data_packages p ON p.observation_id = o.id
            JOIN raw_data_files f ON f.package_id = p.id
            WHERE o.status = $1
            GROUP BY i.name ORDER BY i.name";
        let (mut files, mut bytes) = (0, 0);
        for row in reads.measure(client.query(query, &[&"completed"])).await? {
            let (name, observations): (String, i64) = (row.try_get(0)?, row.try_get(1)?);
            let (count, size): (i64, i64) = (row.try_get(2)?, row.try_get(3)?);
            say(&format!("{name:>10}: {observations} completed, {count} files, {} MB", size / 1_000_000));
            (files, bytes) = (files + count, bytes + size);
        }
        let sizes: Vec<i64> = told.column("raw_data_files", 3).map(str::parse).collect::<Result<_, _>>()?;
        ensure!(usize::try_from(files)? == sizes.len(), "told of {} files, joined {files}", sizes.len());
        ensure!(bytes == sizes.iter().sum::<i64>(), "told of {} bytes, summed {bytes}", sizes.iter().sum::<i64>());
        point_reads(&client, told, &mut reads).await?;
        say(&format!("reads                     {reads}"));
        let compared = told.compare(&client).await.context("comparing the site with what clients were told")?;
        say(&format!("{compared} rows as clients were told, none twice, none missing, none too many"));
        Ok(())
    }

    async fn reconnect(&self, main: &Client, night: &Night) -> Result<()> {
        step("Morning: the link is mended, still 150 ms a round trip");
        let before = count_on_main(main).await?;
        let start = Instant::now();
        order(&self.up.folder, Order::Heal).await?;
        drained(main, &night.told).await?;
        let (took, rows) = (start.elapsed(), count_on_main(main).await? - before);
        say(&format!("{rows} more rows on main {} after mending", millis(took)));
        self.wait_for_replica().await?;
        say(&format!("the replica has all of it {} after mending", millis(start.elapsed())));
        Ok(())
    }

    async fn compare(&self, main: &Client, told: &Told) -> Result<()> {
        step("Comparing, row by row and column by column");
        let compared = told.compare(main).await.context("comparing main with what clients were told")?;
        say(&format!("main:    {compared} rows, equal"));
        let replica = connect(&self.status.replica_url).await?;
        let compared = told.compare(&replica).await.context("comparing the replica with what clients were told")?;
        say(&format!("replica: {compared} rows, equal"));
        let client = connect(&self.status.url).await?;
        let compared = told.compare(&client).await.context("comparing the site with what clients were told")?;
        say(&format!("site:    {compared} rows, equal"));
        Ok(())
    }

    async fn wait_for_replica(&self) -> Result<()> {
        let deadline = Instant::now() + DRAIN_LIMIT;
        while order(&self.up.folder, Order::Status).await?.replica_lag_bytes != Some(0) {
            ensure!(Instant::now() < deadline, "the replica is not up to date after {DRAIN_LIMIT:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}

/// Single rows by key, as an application's pages ask for them.
async fn point_reads(client: &Client, told: &Told, reads: &mut Latencies) -> Result<()> {
    let statement = client.prepare("SELECT status FROM executed_observations WHERE id = $1").await?;
    let expected: Vec<_> =
        told.column("executed_observations", 0).zip(told.column("executed_observations", 2)).collect();
    for (id, status) in expected.into_iter().take(50) {
        let row = reads.measure(client.query_one(&statement, &[&id.parse::<uuid::Uuid>()?])).await?;
        let read: String = row.try_get(0)?;
        ensure!(read == status, "{id}: told {status}, read {read}");
    }
    Ok(())
}

/// Waits until main holds what clients were told; returns how long it took. Differences that stay are for the
/// comparison at the end to name.
async fn drained(main: &Client, told: &Told) -> Result<Duration> {
    let start = Instant::now();
    while told.compare(main).await.is_err() && start.elapsed() < DRAIN_LIMIT {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(start.elapsed())
}

/// Rows of the night's tables on main.
async fn count_on_main(main: &Client) -> Result<usize> {
    let sql = "SELECT (SELECT count(*) FROM executed_observations) + (SELECT count(*) FROM raw_data_packages)
                    + (SELECT count(*) FROM raw_data_files)";
    let count: i64 = main.query_one(sql, &[]).await?.try_get(0)?;
    Ok(usize::try_from(count)?)
}

/// Main as the daemon sees it, through the link.
async fn connect_through(status: &Status) -> Result<Client> {
    connect(&status.main_link_url).await
}

fn step(title: &str) {
    say(&format!("\n== {title}"));
}

fn say(line: &str) {
    // Nobody reads any more: the comparisons go on, they decide the exit code.
    let _ = writeln!(std::io::stdout(), "{line}");
}
