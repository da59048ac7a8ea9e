//! One client: what it asks is planned, run and answered.
//!
//! A session is one task with a link to the client, one to the replica and, when something goes straight, one to main.
//! Both directions are served in the same task, so neither can block the other, and no queue is without a bound: a
//! session takes nothing more from a client while its answers are not taken.
//!
//! - What needs nothing of us is forwarded byte by byte, and so are its answers (`relay`).
//! - Reads of tables with pending rows get another text on their way (`read`).
//! - Writes are evaluated by the replica, locked, collected and at the end of the transaction committed to the buffer
//!   (`write`, `control`).
//! - What cannot be buffered goes to main (`straight`).
//!
//! Never here: deciding what SQL means (`sql`), what is durable (`buffer`), or anything of replay.

use std::collections::{HashMap, VecDeque};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::BytesMut;
use tokio::sync::Semaphore;
use tokio_postgres::Config;
use tokio_util::sync::CancellationToken;

use crate::buffer::Buffer;
use crate::catalog::CatalogHandle;
use crate::entry::Seq;
use crate::ids::Leases;
use crate::overlay::Overlay;
use crate::status::{ClientGuard, Status};
use crate::upstream::raw::Raw;
use crate::wire::link::{Link, OUTPUT_HIGH, READ};

use cancel::{Cancels, Registered};
use crossing::Pinned;
use enter::Main;
use failure::End;
use locks::{Holder, Locks};
use owed::Pipeline;
use processes::Processes;
use relay::{Expect, Retry};
use settings::Settings;
use sides::{Seat, Sides};
use statements::{Lone, Names, Statements};
use transaction::Transaction;
use trust::Trust;

mod access;
mod after;
pub mod cancel;
mod carry;
mod commit;
mod console;
pub mod constraints;
mod control;
mod converse;
mod copy;
mod crossing;
pub mod deferred;
mod enter;
mod exchange;
mod execute;
mod extended;
mod failure;
mod hand_over;
mod ids;
mod isolation;
pub mod locks;
mod main_pipeline;
mod mirror;
mod owed;
mod patience;
mod portals;
pub mod processes;
mod queued;
mod read;
mod relay;
mod resident;
mod rows;
mod script;
mod serve;
pub mod settings;
mod settle;
mod show;
pub mod sides;
mod simple;
mod startup;
pub mod statements;
mod straight;
pub mod transaction;
mod truncate;
pub mod trust;
mod whole;
mod with;
mod write;

pub use startup::run;

/// Bounds on clients and on waiting.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How many clients at a time.
    pub clients: usize,
    /// From the first byte to the first query.
    pub handshake: Duration,
    pub connect_replica: Duration,
    /// How long a new session waits for a replica that has gone back by a restart.
    pub replica_current: Duration,
    pub connect_main: Duration,
    /// How long an idle session keeps a connection to main that it has not used.
    pub keep_main: Duration,
    /// How long a straight statement waits for the buffer to drain, and then for the replica.
    pub straight: Duration,
    /// How long it waits for the buffer while replay is at work.
    pub drain: Duration,
    /// How long COMMIT waits for main (`applied`) or the replica (`visible`).
    pub commit: Duration,
    /// The longest message that is taken from a client. Bytes.
    pub message: usize,
    /// The rows that one write may evaluate to. Bytes.
    pub evaluation: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            clients: 500,
            handshake: Duration::from_secs(60),
            connect_replica: Duration::from_secs(5),
            replica_current: Duration::from_secs(20),
            connect_main: Duration::from_secs(3),
            keep_main: Duration::from_secs(60),
            straight: Duration::from_secs(5),
            drain: Duration::from_secs(60),
            commit: Duration::from_secs(30),
            message: crate::wire::MESSAGE_MAX,
            evaluation: 256 << 20,
        }
    }
}

/// What all sessions share.
#[derive(Debug)]
pub struct Shared {
    pub site: String,
    /// The one database that is served.
    pub database: String,
    pub catalog: CatalogHandle,
    pub buffer: Buffer,
    pub leases: Leases,
    pub replica: Config,
    pub main: Config,
    pub locks: Locks,
    pub sides: Sides,
    pub cancels: Cancels,
    pub processes: Processes,
    pub statements: Statements,
    pub status: Status,
    pub limits: Limits,
    /// Whether rows of a table are compared with main's before they are written there, by its name, and those of partitions
    /// that are not named themselves.
    pub compared: HashMap<String, bool>,
    pub slots: Arc<Semaphore>,
    pub shutdown: CancellationToken,
    pub trust: Trust,
}

/// Who the client is.
#[derive(Debug, Clone)]
struct Who {
    user: String,
    database: String,
    /// All startup parameters for an upstream, `user` and `database` among them.
    parameters: Vec<(String, String)>,
}

/// One client at work.
struct Session {
    shared: Arc<Shared>,
    who: Who,
    client: Link,
    replica: Raw,
    main: Option<Main>,
    /// Something that is the client's alone is in main's session.
    resident: bool,
    /// Answers that the replica owes to forwarded messages.
    expected: VecDeque<Expect>,
    /// What is left of a message of the replica's that passes in pieces. Bytes.
    passing: usize,
    /// What is left of a message of the client's that is too long. Bytes.
    discarding: usize,
    /// A message of the extended protocol failed: everything up to Sync is skipped.
    skipping: bool,
    /// The replica has had messages of ours since its last ReadyForQuery.
    unsynced: bool,
    /// What is asked now is what the client wrote, for the first time: a warning about its text is to be told.
    reads_first: bool,
    /// A message of the replica's has failed, so that it answers nothing before a Sync.
    replica_skips: bool,
    /// The client's answers wait for the commit of its implicit transaction.
    held: bool,
    retry: Option<Retry>,
    names: Names,
    transaction: Transaction,
    locks: Holder,
    seat: Seat,
    settings: Option<Arc<Settings>>,
    /// Those before a statement that may have changed them.
    settings_before: Option<Arc<Settings>>,
    /// The transaction changed settings, which end with it.
    settings_changed: bool,
    /// Some of them perhaps for itself only, as SET LOCAL does.
    local_settings: bool,
    /// Names with a dot that the client may have set.
    own_settings: std::collections::BTreeSet<String>,
    registered: Registered,
    stopping: Pin<Box<dyn Future<Output = ()> + Send + Sync>>,
    /// The replica that was looked at when the session began may still be shown.
    trusted: CancellationToken,
    /// The catalog's version that descriptions were made with.
    described_at: i64,
    guard: ClientGuard,
    /// The client has begun a pipeline and not ended it with Sync.
    batch: bool,
    /// How often the current simple query has been tried again.
    tries: usize,
    /// How often the replica's implicit transaction was ended to evaluate something again.
    begun_again: u64,
    /// The catalog that the last plan was made with.
    planned_with: i64,
    pinned: Option<Pinned>,
    one_snapshot: with::OneSnapshot,
    /// The pipeline has bound a query that may change settings when it is executed.
    binds_setter: bool,
    /// How many portals the pipeline has bound.
    binds: usize,
    /// The only portal of the pipeline, when the replica runs it as it came.
    only_bind: Option<Lone>,
    /// What the replica has said a role may do: role, catalog version, question.
    permitted: lru::LruCache<(String, i64, String), tokio::time::Instant>,
    /// What a role may not read of tables, likewise.
    unread: lru::LruCache<(String, i64, Vec<crate::catalog::TableId>), (tokio::time::Instant, access::Unread)>,
    pipeline: Pipeline,
    /// The WAL position of a straight commit that the replica did not have when its bound was over.
    behind: Option<String>,
    /// The last TRUNCATE of this session that the replica did not have soon.
    unseen_truncate: Seq,
    /// The CommandComplete of a query string that is still to be committed.
    last_tag: BytesMut,
    /// The tags of what main has run in the last exchange.
    tags: Vec<String>,
    /// What main answered to a question of ours.
    asked: Option<String>,
    remembered: ids::Remembered,
    spare: ids::Spare,
}

/// Whom a session waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wants {
    /// Whoever speaks first, or the daemon's end.
    All,
    /// As `All`, but the client has an open batch: the daemon's end waits.
    Both,
    Replica,
    /// Main, and the client (COPY data).
    Main,
}

impl Session {
    /// Everything acknowledged, as this moment has it.
    fn overlay(&self) -> Arc<Overlay> {
        self.shared.buffer.overlay()
    }

    /// Moves bytes on all links until somebody whom we wait for has spoken, or there is room for output again.
    async fn pump(&mut self, wants: Wants) -> Result<(), End> {
        if wants == Wants::Main {
            self.at_work();
        }
        poll_fn(|cx| {
            // COPY data of the client waits for room on its way to main, too.
            let to_main = |main: &Option<Main>| main.as_ref().map_or(0, |main| main.raw.link.output.len());
            let had = to_main(&self.main);
            let full = self.client.output.len() >= OUTPUT_HIGH || self.replica.link.output.len() >= OUTPUT_HIGH;
            let mut moved = false;
            let unsent = !self.client.output.is_empty();
            if (!self.held || self.client.output.len() >= OUTPUT_HIGH)
                && let Poll::Ready(Err(error)) = self.client.poll_drain(cx)
            {
                return Poll::Ready(Err(End::ClientIo(error)));
            }
            if let Poll::Ready(Err(error)) = self.replica.link.poll_drain(cx) {
                return Poll::Ready(Err(End::Replica(error.to_string())));
            }
            if let Some(main) = &mut self.main
                && matches!(main.raw.link.poll_drain(cx), Poll::Ready(Err(_)))
            {
                main.raw.link.ended = true;
            }
            let room = self.client.output.len() < OUTPUT_HIGH && self.replica.link.output.len() < OUTPUT_HIGH;
            moved |= (full && room) || (had >= OUTPUT_HIGH && to_main(&self.main) < OUTPUT_HIGH);
            // With its last answer gone the client is idle, and hears of the daemon's end from now on.
            moved |= wants == Wants::Both && unsent && self.client.output.is_empty();
            if !self.client.ended
                && self.client.input.len() < self.input_bound()
                && let Poll::Ready(filled) = self.client.poll_fill(cx)
            {
                match filled {
                    Ok(0) => return Poll::Ready(Err(End::Client)),
                    Ok(_) => moved |= wants != Wants::Replica,
                    Err(error) => return Poll::Ready(Err(End::ClientIo(error))),
                }
            }
            if self.client.output.len() < OUTPUT_HIGH
                && let Poll::Ready(filled) = self.replica.link.poll_fill(cx)
            {
                match filled {
                    Ok(0) => return Poll::Ready(Err(End::Replica("it closed the connection".into()))),
                    Ok(_) => moved |= wants != Wants::Main,
                    Err(error) => return Poll::Ready(Err(End::Replica(error.to_string()))),
                }
            }
            // It may say something that nobody has asked for, but no more than is taken at once.
            let unasked = |main: &Main| !main.raw.link.ended && main.raw.link.input.len() < READ;
            if self.client.output.len() < OUTPUT_HIGH
                && let Some(main) = &mut self.main
                && (wants == Wants::Main || (self.resident && unasked(main)))
            {
                match main.raw.link.poll_fill(cx) {
                    Poll::Ready(Ok(count)) => moved |= count > 0 || main.raw.link.ended,
                    Poll::Ready(Err(_)) => {
                        main.raw.link.ended = true;
                        moved = true;
                    }
                    Poll::Pending => {}
                }
            }
            if wants == Wants::All && self.stopping.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(self.stopped()));
            }
            if moved { Poll::Ready(Ok(())) } else { Poll::Pending }
        })
        .await
    }

    /// How much of the client's input is kept: the message at its head, and some more.
    fn input_bound(&self) -> usize {
        let head = self.client.header().ok().flatten().map_or(0, |header| header.length);
        head.min(self.shared.limits.message) + 2 * READ
    }

    /// Waits for something within the daemon, while the client may leave or cancel.
    async fn wait<T>(&mut self, waited: impl Future<Output = T>) -> Result<Waited<T>, End> {
        self.at_work();
        let mut waited = std::pin::pin!(waited);
        let running = Arc::clone(&self.registered.running);
        let mut woken = std::pin::pin!(running.woken.notified());
        woken.as_mut().enable();
        loop {
            tokio::select! {
                biased;
                value = &mut waited => return Ok(Waited::Done(value)),
                () = &mut woken => return Ok(Waited::Cancelled),
                pumped = self.pump(Wants::Both) => pumped?,
            }
            // More input than we keep: just wait.
        }
    }
}

/// How waiting ended.
enum Waited<T> {
    Done(T),
    Cancelled,
}
