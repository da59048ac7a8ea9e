//! The log as a Redis stream.
//!
//! Keys of site NAME: the stream `site:NAME:transaction_buffer` (ids `<seq>-0`), and the hashes `site:NAME:meta` (owner,
//! epoch, last, format), `site:NAME:quarantine` and `site:NAME:leases`. Everything that must happen together is one Lua
//! script: one round trip, one unit of the append-only file, one fsync. It never repeats a command, and never reconnects
//! the writing connection behind the committer's back: a Redis that was away has to be claimed again.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, ErrorKind, FromRedisValue, RedisError, Script, ServerErrorKind, cmd};
use uuid::Uuid;

use super::log::{Answer, Claim, LeaseBlock, Log, LogError, Quarantined, Record};
use crate::cluster::MainRecord;
use crate::entry::{FORMAT, Seq};

#[cfg(test)]
pub(super) mod tests;

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long an answer may take: longer than a slow fsync, shorter than a client's patience.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(3);

/// The settings without which Redis may forget what it has acknowledged. The second: while a child saves or rewrites, it
/// does not fsync, whatever `appendfsync` says.
const DURABLE: [(&str, &str); 3] =
    [("appendfsync", "always"), ("no-appendfsync-on-rewrite", "no"), ("maxmemory-policy", "noeviction")];

/// How many entries are trimmed at a time.
const TRIM_STEP: u64 = 1_000;
/// How many questions go out together.
const PIPELINED: usize = 1_000;

/// One site's log in a Redis.
#[derive(Debug)]
pub struct RedisLog {
    client: Client,
    require_durable: bool,
    keys: Keys,
    scripts: Scripts,
    owner: String,
    /// The epoch of the last claim that succeeded.
    epoch: Mutex<u64>,
    /// Appends only. Made by `claim`, gone after any failure.
    writer: Mutex<Option<MultiplexedConnection>>,
    /// Everything else: a long read does not hold up a commit. Made when needed.
    reader: Mutex<Option<MultiplexedConnection>>,
}

#[derive(Debug)]
struct Keys {
    stream: String,
    meta: String,
    quarantine: String,
    leases: String,
}

#[derive(Debug)]
struct Scripts {
    append: Script,
    claim: Script,
    owned: Script,
    read: Script,
}

impl Keys {
    fn of(site: &str) -> Keys {
        Keys {
            stream: format!("site:{site}:transaction_buffer"),
            meta: format!("site:{site}:meta"),
            quarantine: format!("site:{site}:quarantine"),
            leases: format!("site:{site}:leases"),
        }
    }

    fn all(&self) -> [&str; 4] {
        [&self.stream, &self.meta, &self.quarantine, &self.leases]
    }

    /// What the owner's connection is called.
    fn name(&self) -> String {
        format!("pgoutpost:{}", self.meta)
    }
}

impl RedisLog {
    /// A log at this URL. Connects when claimed.
    ///
    /// # Errors
    /// [`LogError::Refused`] when the URL cannot be read.
    pub fn new(url: &str, site: &str, require_durable: bool) -> Result<RedisLog, LogError> {
        let client = Client::open(url)
            .map_err(|error| LogError::Refused(format!("the URL {:?}: {error}", crate::config::mask(url))))?;
        Ok(RedisLog {
            client,
            require_durable,
            keys: Keys::of(site),
            scripts: Scripts {
                append: Script::new(include_str!("redis/append.lua")),
                claim: Script::new(include_str!("redis/claim.lua")),
                owned: Script::new(include_str!("redis/owned.lua")),
                read: Script::new(include_str!("redis/read.lua")),
            },
            owner: Uuid::now_v7().to_string(),
            epoch: Mutex::new(0),
            writer: Mutex::new(None),
            reader: Mutex::new(None),
        })
    }

    /// Connects and looks whether this Redis keeps what it acknowledges; claims and changes nothing.
    ///
    /// # Errors
    /// [`LogError::NotDurable`]; [`LogError::Doubtful`] when it does not answer.
    pub async fn look(&self) -> Result<(), LogError> {
        let mut connection = self.connect().await?;
        self.check_durable(&mut connection).await
    }

    /// Whether nobody has it open.
    ///
    /// # Errors
    /// [`LogError::Refused`] when somebody has.
    pub async fn vacant(&self) -> Result<(), LogError> {
        let clients: String = self.ask(cmd("CLIENT").arg("LIST")).await?;
        let name = format!("name={}", self.keys.name());
        let Some(client) = clients.lines().find(|client| client.split(' ').any(|word| word == name)) else {
            return Ok(());
        };
        let address = client.split(' ').find_map(|word| word.strip_prefix("addr=")).unwrap_or("unknown");
        Err(LogError::Refused(format!("a daemon at {address} uses it; stop that first")))
    }

    /// Removes all that is kept.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub async fn clear(&self) -> Result<(), LogError> {
        self.ask(cmd("DEL").arg(&self.keys.all()[..])).await
    }

    /// Takes the place of the other, in one step.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub async fn replace(&self, other: &RedisLog) -> Result<(), LogError> {
        let script = Script::new(include_str!("redis/replace.lua"));
        let mut connection = self.reader().await?;
        let mut call = script.prepare_invoke();
        for key in self.keys.all().into_iter().chain(other.keys.all()) {
            call.key(key);
        }
        let answer: Result<(), RedisError> = call.invoke_async(&mut connection).await;
        answer.map_err(|error| self.reader_failed(&error))
    }

    async fn connect(&self) -> Result<MultiplexedConnection, LogError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(RESPONSE_TIMEOUT));
        let connection = self.client.get_multiplexed_async_connection_with_config(&config);
        connection.await.map_err(|error| LogError::Doubtful(error.to_string()))
    }

    async fn reader(&self) -> Result<MultiplexedConnection, LogError> {
        if let Some(connection) = lock(&self.reader).clone() {
            return Ok(connection);
        }
        let connection = self.connect().await?;
        *lock(&self.reader) = Some(connection.clone());
        Ok(connection)
    }

    /// Runs a command on the reading connection, which is forgotten when it fails.
    async fn ask<T: FromRedisValue>(&self, command: &redis::Cmd) -> Result<T, LogError> {
        let mut connection = self.reader().await?;
        let answer = command.query_async(&mut connection).await;
        answer.map_err(|error| self.reader_failed(&error))
    }

    async fn ask_all<T: FromRedisValue>(&self, commands: &redis::Pipeline) -> Result<T, LogError> {
        let mut connection = self.reader().await?;
        let answer = commands.query_async(&mut connection).await;
        answer.map_err(|error| self.reader_failed(&error))
    }

    fn reader_failed(&self, error: &RedisError) -> LogError {
        if !matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension) {
            *lock(&self.reader) = None;
        }
        self.translate(error)
    }

    /// A small write that only the owner may make.
    async fn owned(&self, key: &str, what: &str, field: &str, value: &str) -> Result<(), LogError> {
        let mut connection = self.reader().await?;
        let mut call = self.scripts.owned.prepare_invoke();
        call.key(key).key(&self.keys.meta).arg(&self.owner).arg(what).arg(field).arg(value);
        let answer: Result<(), RedisError> = call.invoke_async(&mut connection).await;
        answer.map_err(|error| self.reader_failed(&error))
    }

    /// What an error says about the command: done, not done, or unknown.
    fn translate(&self, error: &RedisError) -> LogError {
        let detail = error.detail().unwrap_or_default();
        match error.code() {
            Some("FENCED") if detail == self.owner => LogError::Doubtful("claimed again meanwhile".into()),
            Some("FENCED") => LogError::Fenced(detail.into()),
            Some("BEHIND") => LogError::Doubtful(format!("the log came back without its tail, at entry {detail}")),
            Some("CONFLICT") => LogError::Conflict(Seq(detail.parse().unwrap_or(0))),
            Some("FORMAT") => LogError::Corrupt(format!("written in format {detail}, this program knows {FORMAT}")),
            Some(_) | None => match error.kind() {
                // Certainly not executed, but the server is not the one that was checked: claim it again, then repeat.
                ErrorKind::Server(
                    ServerErrorKind::NoScript
                    | ServerErrorKind::BusyLoading
                    | ServerErrorKind::ReadOnly
                    | ServerErrorKind::MasterDown
                    | ServerErrorKind::TryAgain,
                ) => LogError::Doubtful(error.to_string()),
                ErrorKind::Server(_) | ErrorKind::Extension => LogError::Refused(error.to_string()),
                // The kinds of the client are open-ended: whatever is not the server's own word is unknown.
                _ => LogError::Doubtful(error.to_string()),
            },
        }
    }

    /// Refuses a Redis that would lose what it acknowledged.
    async fn check_durable(&self, connection: &mut MultiplexedConnection) -> Result<(), LogError> {
        let replication: String = cmd("INFO")
            .arg("replication")
            .query_async(connection)
            .await
            .map_err(|error| LogError::Doubtful(error.to_string()))?;
        if !replication.lines().any(|line| line.trim() == "role:master") {
            return Err(LogError::NotDurable("it is a replica of another Redis".into()));
        }
        if !self.require_durable {
            return Ok(());
        }
        let persistence: String = cmd("INFO")
            .arg("persistence")
            .query_async(connection)
            .await
            .map_err(|error| LogError::Doubtful(error.to_string()))?;
        if !persistence.lines().any(|line| line.trim() == "aof_enabled:1") {
            return Err(LogError::NotDurable("appendonly is no; set `appendonly yes`".into()));
        }
        for (name, wanted) in DURABLE {
            let found: Result<Vec<String>, RedisError> =
                cmd("CONFIG").arg("GET").arg(name).query_async(connection).await;
            let found = match found {
                Ok(pair) => pair.into_iter().nth(1).unwrap_or_default(),
                Err(error) if matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension) => {
                    return Err(LogError::NotDurable(format!("{name} cannot be read: {error}")));
                }
                Err(error) => return Err(LogError::Doubtful(error.to_string())),
            };
            if found != wanted {
                return Err(LogError::NotDurable(format!("{name} is {found:?}; set `{name} {wanted}`")));
            }
        }
        Ok(())
    }

    async fn claim_now(&self, takeover: bool, floor: Seq) -> Result<Claim, LogError> {
        *lock(&self.writer) = None;
        // What broke the one has likely broken the other; a broken one is noticed only by the next command.
        *lock(&self.reader) = None;
        let mut connection = self.connect().await?;
        self.check_durable(&mut connection).await?;
        for script in [&self.scripts.append, &self.scripts.owned] {
            let loaded = script.load_async(&mut connection).await;
            loaded.map_err(|error| self.translate(&error))?;
        }
        // So that `vacant` sees who is here.
        let named: Result<(), RedisError> =
            cmd("CLIENT").arg("SETNAME").arg(self.keys.name()).query_async(&mut connection).await;
        if let Err(error) = named {
            tracing::warn!(%error, "the connection to Redis has no name: export and import cannot see this daemon");
        }
        let mut call = self.scripts.claim.prepare_invoke();
        call.key(&self.keys.stream).key(&self.keys.meta);
        call.arg(if takeover { "take" } else { "renew" }).arg(&self.owner).arg(*lock(&self.epoch));
        call.arg(floor.0).arg(FORMAT);
        let answer: Result<(u64, u64, u64), RedisError> = call.invoke_async(&mut connection).await;
        let (epoch, found, last) = answer.map_err(|error| self.translate(&error))?;
        *lock(&self.epoch) = epoch;
        *lock(&self.writer) = Some(connection);
        Ok(Claim { found: Seq(found), last: Seq(last) })
    }

    async fn append_now(&self, records: &[Record]) -> Result<(), LogError> {
        let Some(first) = records.first() else { return Ok(()) };
        let writer = lock(&self.writer).clone();
        let Some(mut connection) = writer else {
            return Err(LogError::Doubtful("not connected".into()));
        };
        let mut call = cmd("EVALSHA");
        call.arg(self.scripts.append.get_hash()).arg(2).arg(&self.keys.stream).arg(&self.keys.meta);
        call.arg(&self.owner).arg(*lock(&self.epoch)).arg(first.seq().0);
        for Record { entry, json } in records {
            call.arg(entry.uuid.to_string()).arg(&entry.role).arg(&entry.created_at);
            call.arg(entry.statements.len()).arg(json.as_bytes());
        }
        let answer: Result<(), RedisError> = call.query_async(&mut connection).await;
        answer.map_err(|error| {
            let error = self.translate(&error);
            if matches!(error, LogError::Doubtful(_)) {
                *lock(&self.writer) = None;
            }
            error
        })
    }

    async fn read_now(&self, after: Seq, limit: usize, bytes: u64) -> Result<Vec<Record>, LogError> {
        let mut connection = self.reader().await?;
        let mut call = self.scripts.read.prepare_invoke();
        call.key(&self.keys.stream).arg(after.next().0).arg(limit).arg(bytes);
        let answer: Result<Vec<(String, Option<String>)>, RedisError> = call.invoke_async(&mut connection).await;
        let rows = answer.map_err(|error| self.reader_failed(&error))?;
        rows.into_iter().map(|(id, json)| decode(&id, json)).collect()
    }

    /// By steps: Redis does nothing else meanwhile, and commits wait.
    async fn trim_now(&self, upto: Seq) -> Result<(), LogError> {
        loop {
            let mut oldest = cmd("XRANGE");
            oldest.arg(&self.keys.stream).arg("-").arg("+").arg("COUNT").arg(1);
            let rows: Vec<(String, Vec<(String, String)>)> = self.ask(&oldest).await?;
            let Some(first) = rows.first().map(|(id, _)| seq_of(id)).transpose()?.filter(|first| *first <= upto) else {
                return Ok(());
            };
            let end = Seq(first.0.saturating_add(TRIM_STEP)).min(upto.next());
            self.owned(&self.keys.stream, "trim", &format!("{end}-0"), "").await?;
        }
    }

    async fn hash(&self, key: &str) -> Result<Vec<(String, String)>, LogError> {
        let pairs: BTreeMap<String, String> = self.ask(cmd("HGETALL").arg(key)).await?;
        Ok(pairs.into_iter().collect())
    }
}

impl Log for RedisLog {
    fn claim(&self, takeover: bool, floor: Seq) -> Answer<'_, Claim> {
        Box::pin(self.claim_now(takeover, floor))
    }

    fn append<'a>(&'a self, records: &'a [Record]) -> Answer<'a, ()> {
        Box::pin(self.append_now(records))
    }

    fn read(&self, after: Seq, limit: usize, bytes: u64) -> Answer<'_, Vec<Record>> {
        Box::pin(self.read_now(after, limit, bytes))
    }

    fn probe(&self) -> Answer<'_, Seq> {
        Box::pin(async move {
            // On the writing connection: it is the one whose death must be noticed.
            let writer = lock(&self.writer).clone();
            let Some(mut connection) = writer else {
                return Err(LogError::Doubtful("not connected".into()));
            };
            let mut command = cmd("HMGET");
            command.arg(&self.keys.meta).arg("owner").arg("epoch").arg("last");
            type Meta = (Option<String>, Option<u64>, Option<u64>);
            let answer: Result<Meta, RedisError> = command.query_async(&mut connection).await;
            let (owner, epoch, last) = answer.map_err(|error| LogError::Doubtful(error.to_string()))?;
            if owner.as_deref() != Some(&self.owner) || epoch != Some(*lock(&self.epoch)) {
                return Err(LogError::Doubtful("the log no longer names this process as its writer".into()));
            }
            // Somebody may have set it otherwise since.
            self.check_durable(&mut connection).await?;
            Ok(Seq(last.unwrap_or(0)))
        })
    }

    fn trim(&self, upto: Seq) -> Answer<'_, ()> {
        Box::pin(self.trim_now(upto))
    }

    fn quarantine<'a>(&'a self, quarantined: &'a Quarantined) -> Answer<'a, ()> {
        Box::pin(async move {
            let json = serde_json::to_string(quarantined).map_err(|error| LogError::Corrupt(error.to_string()))?;
            self.owned(&self.keys.quarantine, "set", &quarantined.seq.to_string(), &json).await
        })
    }

    fn quarantine_index(&self) -> Answer<'_, Vec<(Seq, u64)>> {
        Box::pin(async move {
            let mut seqs: Vec<u64> = self.ask(cmd("HKEYS").arg(&self.keys.quarantine)).await?;
            seqs.sort_unstable();
            let mut index = Vec::with_capacity(seqs.len());
            for some in seqs.chunks(PIPELINED) {
                let mut lengths = redis::pipe();
                for seq in some {
                    lengths.cmd("HSTRLEN").arg(&self.keys.quarantine).arg(*seq);
                }
                let lengths: Vec<u64> = self.ask_all(&lengths).await?;
                index.extend(some.iter().map(|seq| Seq(*seq)).zip(lengths));
            }
            Ok(index)
        })
    }

    fn quarantined<'a>(&'a self, seqs: &'a [Seq]) -> Answer<'a, Vec<Quarantined>> {
        Box::pin(async move {
            if seqs.is_empty() {
                return Ok(Vec::new());
            }
            let mut command = cmd("HMGET");
            command.arg(&self.keys.quarantine);
            for seq in seqs {
                command.arg(seq.0);
            }
            let found: Vec<Option<String>> = self.ask(&command).await?;
            let found = seqs.iter().zip(found).filter_map(|(seq, json)| Some((seq, json?)));
            found.map(|(seq, json)| from_json(&seq.to_string(), &json)).collect()
        })
    }

    fn release(&self, seq: Seq) -> Answer<'_, ()> {
        Box::pin(async move { self.owned(&self.keys.quarantine, "delete", &seq.to_string(), "").await })
    }

    fn leases(&self) -> Answer<'_, BTreeMap<String, LeaseBlock>> {
        Box::pin(async move {
            let pairs = self.hash(&self.keys.leases).await?;
            let blocks = pairs.into_iter().map(|(sequence, json)| {
                let block = from_json(&sequence, &json)?;
                Ok((sequence, block))
            });
            blocks.collect()
        })
    }

    fn store_lease<'a>(&'a self, sequence: &'a str, block: &'a LeaseBlock) -> Answer<'a, ()> {
        Box::pin(async move {
            let json = serde_json::to_string(block).map_err(|error| LogError::Corrupt(error.to_string()))?;
            self.owned(&self.keys.leases, "newer", sequence, &json).await
        })
    }

    fn main_record(&self) -> Answer<'_, Option<MainRecord>> {
        Box::pin(async move {
            let json: Option<String> = self.ask(cmd("HGET").arg(&self.keys.meta).arg("main")).await?;
            json.map(|json| from_json("main", &json)).transpose()
        })
    }

    fn store_main_record<'a>(&'a self, record: &'a MainRecord) -> Answer<'a, ()> {
        Box::pin(async move {
            let json = serde_json::to_string(record).map_err(|error| LogError::Corrupt(error.to_string()))?;
            self.owned(&self.keys.meta, "set", "main", &json).await
        })
    }
}

fn decode(id: &str, json: Option<String>) -> Result<Record, LogError> {
    let seq = seq_of(id)?;
    let json = json.ok_or_else(|| LogError::Corrupt(format!("entry {seq} has no field `entry`")))?;
    Record::decode(seq, &json)
}

fn seq_of(id: &str) -> Result<Seq, LogError> {
    let seq = id.strip_suffix("-0").and_then(|seq| seq.parse().ok()).map(Seq);
    seq.ok_or_else(|| LogError::Corrupt(format!("an entry has the foreign id {id:?}")))
}

fn from_json<T: serde::de::DeserializeOwned>(field: &str, json: &str) -> Result<T, LogError> {
    serde_json::from_str(json).map_err(|error| LogError::Corrupt(format!("{field}: {error}")))
}

/// A panic cannot leave these values half changed.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
