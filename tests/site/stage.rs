//! What every test stands on: one database of a lab, a link of its own, a daemon, and connections to all of them.

use std::fmt::Debug;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, Instant};

use lab::outpost::OutpostOptions;
use lab::port::free_port;
use lab::{Lab, LabOptions, Link, Outpost, Site};
use pgoutpost::buffer::BufferConfig;
use pgoutpost::buffer::place::Place;
use pgoutpost::entry::Seq;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, SimpleQueryMessage};

/// For what must happen, but may take as long as a machine with two busy cores needs.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A site under test.
pub struct Stage {
    pub outpost: Outpost,
    pub site: Site,
    /// The daemon's way to main. In a lab of its own the replica's as well.
    link: Option<Link>,
    lab: LabOf,
}

/// What a site's buffer stands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    InRedis,
    InFiles,
}

/// A test for each kind of buffer, named after the function that takes it.
#[allow(unused_macros)] // Not every suite that stands on this stage has such tests.
macro_rules! over_both_buffers {
    ($($name:ident),* $(,)?) => {
        mod redis {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name(crate::site::stage::Kept::InRedis).await; })*
        }
        mod file {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name(crate::site::stage::Kept::InFiles).await; })*
        }
    };
}
#[allow(unused_imports)]
pub(crate) use over_both_buffers;

enum LabOf {
    Everybody(&'static Lab),
    Own(Box<Lab>),
}

impl Stage {
    /// A database in the lab that tests share, with a link of its own: cutting it leaves other tests alone. For tests that
    /// do not stop Redis or the replica's replay.
    pub async fn shared(name: &str, schema: &str) -> Stage {
        Stage::shared_with(name, schema, |options| options).await
    }

    /// The same, with further settings for the daemon.
    pub async fn shared_with(
        name: &str,
        schema: &str,
        settings: impl FnOnce(OutpostOptions) -> OutpostOptions,
    ) -> Stage {
        let lab = Lab::shared().await.unwrap();
        let link = Link::start(free_port().unwrap(), lab.main().port()).unwrap();
        let mut site = lab.database(name).await.unwrap();
        site.main_link_url = format!("postgres://{}@127.0.0.1:{}/{name}", site.role, link.port());
        Stage::begin(LabOf::Everybody(lab), Some(link), site, schema, settings).await
    }

    /// As [`Stage::shared`], with this kind of buffer.
    pub async fn shared_on(kept: Kept, name: &str, schema: &str) -> Stage {
        let lab = Lab::shared().await.unwrap();
        let link = Link::start(free_port().unwrap(), lab.main().port()).unwrap();
        let name = kept.name(name);
        let mut site = lab.database(&name).await.unwrap();
        site.main_link_url = format!("postgres://{}@127.0.0.1:{}/{name}", site.role, link.port());
        kept.place(&mut site);
        Stage::begin(LabOf::Everybody(lab), Some(link), site, schema, |options| options).await
    }

    /// As [`Stage::own`], with this kind of buffer.
    pub async fn own_on(kept: Kept, name: &str, schema: &str) -> Stage {
        let lab = Lab::start(LabOptions::default()).await.unwrap();
        let mut site = lab.database(&kept.name(name)).await.unwrap();
        kept.place(&mut site);
        Stage::begin(LabOf::Own(Box::new(lab)), None, site, schema, |options| options).await
    }

    /// A lab of its own: main, replica, Redis and a link that carries the replica's stream, too.
    pub async fn own(name: &str, schema: &str) -> Stage {
        Stage::own_with(name, schema, |options| options).await
    }

    /// The same, with further settings for the daemon.
    pub async fn own_with(name: &str, schema: &str, settings: impl FnOnce(OutpostOptions) -> OutpostOptions) -> Stage {
        let lab = Lab::start(LabOptions::default()).await.unwrap();
        let site = lab.database(name).await.unwrap();
        Stage::begin(LabOf::Own(Box::new(lab)), None, site, schema, settings).await
    }

    async fn begin(
        lab: LabOf,
        link: Option<Link>,
        site: Site,
        schema: &str,
        settings: impl FnOnce(OutpostOptions) -> OutpostOptions,
    ) -> Stage {
        site.main().await.unwrap().batch_execute(schema).await.unwrap();
        let outpost = Outpost::start_with(&site, settings(OutpostOptions::new(binary()))).await.unwrap();
        Stage { outpost, site, link, lab }
    }

    pub fn lab(&self) -> &Lab {
        match &self.lab {
            LabOf::Everybody(lab) => lab,
            LabOf::Own(lab) => lab,
        }
    }

    fn link(&self) -> &Link {
        self.link.as_ref().unwrap_or_else(|| self.lab().link())
    }

    pub fn cut(&self) {
        self.link().cut().unwrap();
    }

    /// The link loses everything, and tells nobody.
    pub fn black_hole(&self) {
        self.link().black_hole().unwrap();
    }

    pub fn heal(&self) {
        self.link().heal().unwrap();
    }

    /// A client of the daemon.
    pub async fn client(&self) -> Client {
        lab::postgres::connect(&self.outpost.url()).await.unwrap()
    }

    /// The same as another role.
    pub async fn client_as(&self, role: &str) -> Client {
        let mut config: tokio_postgres::Config = self.outpost.url().parse().unwrap();
        let (client, connection) = config.user(role).connect(tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    /// The console.
    pub async fn console(&self) -> Client {
        lab::postgres::connect(&self.outpost.console_url()).await.unwrap()
    }

    /// Main, past the daemon.
    pub async fn main(&self) -> Client {
        self.site.main().await.unwrap()
    }

    /// The seq of the last entry in the buffer, asked of Redis itself, or read from the files.
    pub async fn last_seq(&self) -> i64 {
        if self.site.buffer_url.starts_with("file:") {
            return last_in_files(&self.site).await;
        }
        let key = format!("site:{}:transaction_buffer", self.site.name);
        let answer = redis(&self.site.redis_url, &["XREVRANGE", &key, "+", "-", "COUNT", "1"]).await;
        let id = answer.split("\r\n").find_map(|line| line.strip_suffix("-0"));
        id.map_or(0, |id| id.parse().unwrap())
    }

    /// How far main (or the replica) has come, by its ledger.
    pub async fn ledger(&self, client: &Client) -> i64 {
        let row =
            client.query_opt("SELECT seq FROM pgoutpost.ledger WHERE site = $1", &[&self.site.name]).await.unwrap();
        row.map_or(0, |row| row.get(0))
    }

    /// Waits until main has every entry of the buffer.
    pub async fn replayed(&self) {
        let (main, last) = (self.main().await, self.last_seq().await);
        eventually("main has every entry", async || self.ledger(&main).await >= last).await;
    }

    /// Heals the link and waits until main and replica have every entry; then nothing may be in quarantine.
    pub async fn drain(&self) {
        self.heal();
        self.replayed().await;
        let (replica, last) = (self.site.replica().await.unwrap(), self.last_seq().await);
        eventually("the replica has every entry", async || self.ledger(&replica).await >= last).await;
        let quarantine = rows(&self.console().await, "SHOW QUARANTINE").await;
        assert!(quarantine.is_empty(), "in quarantine: {quarantine:?}");
    }

    /// Runs psql against the daemon.
    pub async fn psql(&self, arguments: &[&str]) -> Output {
        run(&lab::postgres::binary("psql").unwrap(), &[&["-X", "-d", &self.outpost.url()], arguments].concat()).await
    }
}

impl Kept {
    fn name(self, name: &str) -> String {
        match self {
            Kept::InRedis => name.to_owned(),
            Kept::InFiles => format!("{name}_file"),
        }
    }

    fn place(self, site: &mut Site) {
        if self == Kept::InFiles {
            site.buffer_url = format!("file://{}/buffer", site.folder.display());
        }
    }
}

/// A buffer in files can be read while the daemon writes it.
async fn last_in_files(site: &Site) -> i64 {
    let config = BufferConfig { url: site.buffer_url.clone(), ..BufferConfig::default() };
    let log = Place::of(&config, &site.name).unwrap().into_log();
    let mut last = Seq::ZERO;
    while let Some(record) = log.window(last).await.unwrap().last() {
        last = record.seq();
    }
    last.as_i64()
}

/// The program under test: the one just built, unless `PGOUTPOST_BINARY` names another (a release build, or a mere
/// forwarder to main, by which a test can be held against an ordinary Postgres).
pub fn binary() -> PathBuf {
    std::env::var_os("PGOUTPOST_BINARY").map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_pgoutpost")), PathBuf::from)
}

/// A file of this repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Runs a program to its end; it must end within our patience.
pub async fn run(program: &Path, arguments: &[&str]) -> Output {
    run_within(PATIENCE * 2, program, arguments).await
}

/// Runs a program to its end; it must end within the limit.
pub async fn run_within(limit: Duration, program: &Path, arguments: &[&str]) -> Output {
    let mut command = tokio::process::Command::new(program);
    command.args(arguments).kill_on_drop(true).stdin(std::process::Stdio::null());
    let output = tokio::time::timeout(limit, command.output());
    let output = output.await.unwrap_or_else(|_| panic!("{} {arguments:?} does not end", program.display()));
    output.unwrap_or_else(|error| panic!("{}: {error}", program.display()))
}

/// Its standard output, when it succeeded.
#[track_caller]
pub fn succeeded(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{out}\n{err}", output.status);
    out.into_owned()
}

/// Polls until it is true.
#[track_caller]
pub fn eventually(what: &str, mut check: impl AsyncFnMut() -> bool) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    async move {
        let deadline = Instant::now() + PATIENCE;
        while !check().await {
            assert!(Instant::now() < deadline, "{caller}: {what}: not within {PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// The rows of a query in the simple protocol, as text.
pub async fn rows(client: &Client, sql: &str) -> Vec<Vec<Option<String>>> {
    try_rows(client, sql).await.unwrap_or_else(|error| panic!("{sql}: {}", describe(&error)))
}

/// As [`rows`].
pub async fn try_rows(client: &Client, sql: &str) -> Result<Vec<Vec<Option<String>>>, tokio_postgres::Error> {
    let messages = client.simple_query(sql).await?;
    let row = |message| match message {
        SimpleQueryMessage::Row(row) => Some((0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect()),
        _ => None,
    };
    Ok(messages.into_iter().filter_map(row).collect())
}

/// The only value of a query in the simple protocol.
pub async fn value(client: &Client, sql: &str) -> String {
    let mut rows = rows(client, sql).await;
    assert!(rows.len() == 1 && rows[0].len() == 1, "{sql}: {rows:?}");
    rows.remove(0).remove(0).unwrap_or_else(|| "NULL".to_owned())
}

/// Runs statements that must succeed, in the simple protocol.
#[track_caller]
pub fn execute<'a>(client: &'a Client, sql: &'a str) -> impl Future<Output = ()> + 'a {
    let caller = std::panic::Location::caller();
    async move {
        client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{caller}: {sql}: {}", describe(&error)));
    }
}

/// The outcome must be this SQLSTATE; gives message, detail and hint.
#[track_caller]
pub fn fails_with<T: Debug>(
    outcome: Result<T, tokio_postgres::Error>,
    state: &SqlState,
) -> tokio_postgres::error::DbError {
    let error = outcome.expect_err("it should have failed");
    let Some(report) = error.as_db_error() else { panic!("expected {}, got {error:?}", state.code()) };
    assert_eq!(report.code(), state, "{report:?}");
    report.clone()
}

/// An error with everything it says.
pub fn describe(error: &tokio_postgres::Error) -> String {
    error.as_db_error().map_or_else(|| format!("{error:?}"), |report| format!("{report:?}"))
}

/// One command to Redis; its answer as it stands on the wire.
pub async fn redis(url: &str, words: &[&str]) -> String {
    let mut stream = TcpStream::connect(url.trim_start_matches("redis://")).await.unwrap();
    let mut command = format!("*{}\r\n", words.len());
    for word in words {
        command.push_str(&format!("${}\r\n{word}\r\n", word.len()));
    }
    // QUIT makes the server close the connection, which ends the answer.
    command.push_str("QUIT\r\n");
    stream.write_all(command.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

/// GET of the daemon's HTTP server: status code, headers and body.
pub async fn get(url: &str, path: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(url.trim_start_matches("http://")).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{path}: {answer}"));
    let code = head.split(' ').nth(1).unwrap().parse().unwrap();
    (code, head.to_lowercase(), body.to_owned())
}
