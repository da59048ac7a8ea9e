//! A buffer in memory, entries made by hand, and a replay task behind a link of its own.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lab::Link;
use pgoutpost::buffer::log::{Answer, Claim, LeaseBlock, Log, LogError, Quarantined, Record, within};
use pgoutpost::buffer::{Buffer, BufferConfig, Draft};
use pgoutpost::catalog::Catalog;
use pgoutpost::cluster::MainRecord;
use pgoutpost::entry::{Effect, Entry, EntryColumn, EntryTable, FORMAT, Seq, TableName, Value};
use pgoutpost::replay::{self, ReplayConfig, ReplayStatus};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OwnedRwLockWriteGuard, RwLock, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::cluster::Database;

/// A log that forgets when the process ends.
pub struct Memory {
    records: Mutex<BTreeMap<Seq, Record>>,
    quarantined: Mutex<BTreeMap<Seq, Quarantined>>,
    main: Mutex<Option<MainRecord>>,
    /// Locked for writing: nothing gets into quarantine.
    gate: Arc<RwLock<()>>,
    /// Told when something is to go there.
    asked: Notify,
    /// How many records of quarantined entries were read, or their sizes asked for.
    asides_read: AtomicUsize,
    /// The next record is written, and nobody hears of it.
    answer_lost: AtomicBool,
    /// How many bytes of entries were read.
    bytes_read: AtomicU64,
    /// The process dies at the write after so many: it hears of nothing any more. Negative: it lives.
    writes_left: AtomicI64,
}

impl Memory {
    /// Whether the process is dead.
    fn dead(&self) -> bool {
        let count = |left: i64| (left > 0).then(|| left - 1);
        match self.writes_left.fetch_update(SeqCst, SeqCst, count) {
            Ok(_) => false,
            Err(left) => left == 0,
        }
    }
}

impl Default for Memory {
    fn default() -> Memory {
        Memory {
            records: Mutex::default(),
            quarantined: Mutex::default(),
            main: Mutex::default(),
            gate: Arc::default(),
            asked: Notify::new(),
            asides_read: AtomicUsize::new(0),
            answer_lost: AtomicBool::new(false),
            bytes_read: AtomicU64::new(0),
            writes_left: AtomicI64::new(-1),
        }
    }
}

fn done<T: Send + 'static>(value: T) -> Answer<'static, T> {
    Box::pin(std::future::ready(Ok(value)))
}

impl Log for Memory {
    fn claim(&self, _takeover: bool, floor: Seq) -> Answer<'_, Claim> {
        let found = self.records.lock().unwrap().keys().next_back().copied().unwrap_or(Seq::ZERO);
        done(Claim { found, last: found.max(floor) })
    }

    fn append<'a>(&'a self, records: &'a [Record]) -> Answer<'a, ()> {
        if self.dead() {
            return Box::pin(std::future::pending());
        }
        self.records.lock().unwrap().extend(records.iter().map(|record| (record.seq(), record.clone())));
        done(())
    }

    fn read(&self, after: Seq, limit: usize, bytes: u64) -> Answer<'_, Vec<Record>> {
        let records = self.records.lock().unwrap();
        let found = within(records.range(after.next()..).map(|(_, record)| record.clone()), limit, bytes);
        self.bytes_read.fetch_add(found.iter().map(Record::bytes).sum(), SeqCst);
        done(found)
    }

    fn probe(&self) -> Answer<'_, Seq> {
        done(self.records.lock().unwrap().keys().next_back().copied().unwrap_or(Seq::ZERO))
    }

    fn trim(&self, upto: Seq) -> Answer<'_, ()> {
        self.records.lock().unwrap().retain(|&seq, _| seq > upto);
        done(())
    }

    fn quarantine<'a>(&'a self, quarantined: &'a Quarantined) -> Answer<'a, ()> {
        if self.dead() {
            return Box::pin(std::future::pending());
        }
        Box::pin(async move {
            self.asked.notify_one();
            let _open = self.gate.read().await;
            self.quarantined.lock().unwrap().insert(quarantined.seq, quarantined.clone());
            if self.answer_lost.swap(false, SeqCst) { Err(LogError::Doubtful("no answer".into())) } else { Ok(()) }
        })
    }

    fn quarantine_index(&self) -> Answer<'_, Vec<(Seq, u64)>> {
        let quarantined = self.quarantined.lock().unwrap();
        self.asides_read.fetch_add(quarantined.len(), SeqCst);
        done(quarantined.keys().map(|seq| (*seq, 0)).collect())
    }

    fn quarantined<'a>(&'a self, seqs: &'a [Seq]) -> Answer<'a, Vec<Quarantined>> {
        let quarantined = self.quarantined.lock().unwrap();
        self.asides_read.fetch_add(seqs.len(), SeqCst);
        done(seqs.iter().filter_map(|seq| quarantined.get(seq).cloned()).collect())
    }

    fn release(&self, seq: Seq) -> Answer<'_, ()> {
        self.quarantined.lock().unwrap().remove(&seq);
        done(())
    }

    fn leases(&self) -> Answer<'_, BTreeMap<String, LeaseBlock>> {
        done(BTreeMap::new())
    }

    fn store_lease<'a>(&'a self, _sequence: &'a str, _block: &'a LeaseBlock) -> Answer<'a, ()> {
        done(())
    }

    fn main_record(&self) -> Answer<'_, Option<MainRecord>> {
        done(self.main.lock().unwrap().clone())
    }

    fn store_main_record<'a>(&'a self, record: &'a MainRecord) -> Answer<'a, ()> {
        *self.main.lock().unwrap() = Some(record.clone());
        done(())
    }
}

/// A table as entries describe it: `"name type"` for each column; the first `key` columns are the key.
pub fn table(name: &str, columns: &[&str], key: usize) -> EntryTable {
    let column = |text: &&str| {
        let (name, type_name) = text.split_once(' ').unwrap();
        EntryColumn { name: name.into(), type_name: type_name.into(), shape: None }
    };
    EntryTable {
        name: TableName { schema: "public".into(), name: name.into() },
        columns: columns.iter().map(column).collect(),
        via: None,
        key: (0..key).collect(),
        fingerprint: 0,
        origin: None,
    }
}

pub fn values(texts: &[&str]) -> Vec<Value> {
    texts.iter().map(|&text| (text != "NULL").then(|| text.into())).collect()
}

pub fn insert(row: &[&str]) -> Effect {
    Effect::Insert { table: 0, row: values(row) }
}

pub fn update(key: &[&str], set: &[(usize, &str)]) -> Effect {
    let set = set.iter().map(|&(place, text)| (place, values(&[text]).remove(0))).collect();
    Effect::Update { table: 0, key: values(key), set, old: Vec::new(), row: None, own: Vec::new() }
}

pub fn delete(key: &[&str]) -> Effect {
    Effect::Delete { table: 0, key: values(key), old: Vec::new() }
}

pub fn entry(role: &str, tables: Vec<EntryTable>, effects: Vec<Effect>) -> Entry {
    Entry {
        format: FORMAT,
        seq: Seq::ZERO,
        uuid: uuid::Uuid::now_v7(),
        database: String::new(),
        role: role.to_owned(),
        application_name: String::new(),
        created_at: "2026-11-21T22:00:00.000000Z".to_owned(),
        statements: Vec::new(),
        tables,
        effects,
        actions: Vec::new(),
        retry_of: None,
    }
}

async fn open(memory: &Arc<Memory>, shutdown: &CancellationToken) -> Buffer {
    let log: Arc<dyn Log> = Arc::<Memory>::clone(memory);
    let (config, catalog) = (BufferConfig::default(), Arc::new(Catalog::default()));
    // What is forgotten, the replica has.
    let confirmed = memory.records.lock().unwrap().keys().next().map_or(Seq::ZERO, |oldest| Seq(oldest.0 - 1));
    Buffer::open_log(log, &config, catalog, confirmed, shutdown.clone()).await.unwrap().0
}

/// A site without clients: entries go in by hand.
pub struct Outpost {
    pub database: Database,
    pub buffer: Buffer,
    pub link: Arc<Link>,
    pub config: ReplayConfig,
    memory: Arc<Memory>,
    shutdown: CancellationToken,
}

/// A replay task.
pub struct Replayer {
    pub status: watch::Receiver<ReplayStatus>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Outpost {
    pub async fn start(label: &str, schema: &str) -> Outpost {
        let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "off".into());
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
        Outpost::over(Database::set_up(label).await, schema).await
    }

    /// As [`Outpost::start`], over a database with our schema.
    pub async fn over(database: Database, schema: &str) -> Outpost {
        database.main().await.batch_execute(schema).await.unwrap();
        let (memory, shutdown) = (Arc::new(Memory::default()), CancellationToken::new());
        let buffer = open(&memory, &shutdown).await;
        let link = Link::start(lab::port::free_port().unwrap(), database.main_port).unwrap();
        let config = ReplayConfig {
            retry_delay: Duration::from_millis(20),
            retry_delay_max: Duration::from_millis(200),
            ..ReplayConfig::default()
        };
        Outpost { database, buffer, link: Arc::new(link), config, memory, shutdown }
    }

    /// From now on main's answers arrive byte by byte.
    pub async fn answers_come_in_crumbs(&mut self) {
        let (listener, main) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), self.database.main_port);
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let mut far = TcpStream::connect(("127.0.0.1", main)).await.unwrap();
                near.set_nodelay(true).unwrap();
                tokio::spawn(async move {
                    let ((mut from_near, mut to_near), (mut from_far, mut to_far)) = (near.split(), far.split());
                    let crumbs = async {
                        while let Ok(byte) = from_far.read_u8().await {
                            to_near.write_u8(byte).await?;
                            tokio::task::yield_now().await;
                        }
                        Ok(())
                    };
                    // Either side's end is the connection's.
                    let _: io::Result<()> = tokio::select! {
                        copied = tokio::io::copy(&mut from_near, &mut to_far) => copied.map(drop),
                        ended = crumbs => ended,
                    };
                });
            }
        });
        self.link = Arc::new(Link::start(lab::port::free_port().unwrap(), port).unwrap());
    }

    /// The process dies at its write to the log after `writes`.
    pub fn dies_after(&self, writes: i64) {
        self.memory.writes_left.store(writes, SeqCst);
    }

    /// How many records of quarantined entries were read so far.
    pub fn lose_next_answer(&self) {
        self.memory.answer_lost.store(true, SeqCst);
    }

    pub fn asides_read(&self) -> usize {
        self.memory.asides_read.load(SeqCst)
    }

    /// How many bytes of entries were read from the log so far.
    pub fn bytes_read(&self) -> u64 {
        self.memory.bytes_read.load(SeqCst)
    }

    /// As long as this is kept, what is put aside does not get there.
    pub async fn hold_quarantine(&self) -> OwnedRwLockWriteGuard<()> {
        Arc::clone(&self.memory.gate).write_owned().await
    }

    /// Waits until something is to be put aside.
    pub async fn put_aside(&self) {
        self.memory.asked.notified().await;
    }

    /// The log lets go of old entries.
    pub fn forget_upto(&self, upto: Seq) {
        self.memory.records.lock().unwrap().retain(|&seq, _| seq > upto);
    }

    /// A new process over the same log.
    pub async fn restart(&mut self) {
        self.shutdown.cancel();
        self.shutdown = CancellationToken::new();
        self.memory.writes_left.store(-1, SeqCst);
        self.buffer = open(&self.memory, &self.shutdown).await;
    }

    pub async fn commit(&self, entry: Entry) -> Seq {
        self.buffer.commit(Draft { entry, changes: Vec::new() }).await.unwrap()
    }

    pub fn replay(&self) -> Replayer {
        self.replay_as("postgres")
    }

    pub fn replay_as(&self, user: &str) -> Replayer {
        let mut main = self.database.main.clone();
        let (stop, status) = (CancellationToken::new(), watch::Sender::new(ReplayStatus::default()));
        // Only the port differs: through the link.
        let mut through = tokio_postgres::Config::new();
        through.host("127.0.0.1").port(self.link.port()).user(user).dbname(main.get_dbname().unwrap());
        main = through;
        let config = self.config.clone();
        let receiver = status.subscribe();
        let task = tokio::spawn(replay::run(self.buffer.clone(), main, "s".to_owned(), config, stop.clone(), status));
        Replayer { status: receiver, stop, task }
    }

    /// Waits until everything that is in the buffer is applied.
    pub async fn drained(&self) {
        let last = self.buffer.progress().borrow().last;
        let mut progress = self.buffer.progress();
        let wait = progress.wait_for(|progress| progress.applied >= last);
        let waited = tokio::time::timeout(Duration::from_secs(60), wait).await;
        assert!(waited.is_ok(), "not drained: {:?}", *self.buffer.progress().borrow());
    }

    pub async fn texts(&self, query: &str) -> Vec<String> {
        let main = self.database.main().await;
        main.query(query, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
    }

    pub async fn ledger(&self) -> i64 {
        let main = self.database.main().await;
        main.query_one("SELECT seq FROM pgoutpost.ledger WHERE site = 's'", &[]).await.unwrap().get(0)
    }
}

impl Replayer {
    pub async fn stop(self) -> ReplayStatus {
        self.stop.cancel();
        self.task.await.unwrap();
        self.status.borrow().clone()
    }

    /// Ends it in the middle of whatever it does.
    pub fn kill(self) {
        self.task.abort();
    }

    pub async fn until(&mut self, what: impl Fn(&ReplayStatus) -> bool) -> ReplayStatus {
        let seen = tokio::time::timeout(Duration::from_secs(30), self.status.wait_for(|status| what(status))).await;
        seen.unwrap_or_else(|_| panic!("never came")).unwrap().clone()
    }
}
