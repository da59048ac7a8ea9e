//! Who is connected and what they have done.
//!
//! Sessions count on atomics of their own; the registry's lock is taken at connect, at disconnect and to look.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::metrics::Metrics;
use crate::sqlstate::SqlState;

/// What a client said of itself at startup.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientInfo {
    /// As in BackendKeyData.
    pub pid: i32,
    pub user: String,
    pub database: String,
    pub application_name: String,
    pub address: String,
}

/// What a session is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientState {
    Idle,
    Active,
    IdleInTransaction,
    FailedTransaction,
}

impl ClientState {
    const ALL: [ClientState; 4] =
        [ClientState::Idle, ClientState::Active, ClientState::IdleInTransaction, ClientState::FailedTransaction];

    /// As `pg_stat_activity.state` has it.
    pub fn as_str(self) -> &'static str {
        match self {
            ClientState::Idle => "idle",
            ClientState::Active => "active",
            ClientState::IdleInTransaction => "idle in transaction",
            ClientState::FailedTransaction => "idle in transaction (aborted)",
        }
    }
}

/// How a statement was carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatementKind {
    /// A read that went to the replica as it came.
    Untouched,
    /// A read that saw pending rows.
    Merged,
    /// A buffered write.
    Write,
    /// Sent to main.
    Straight,
    /// Transaction control.
    Transaction,
    /// SET, SHOW and the like.
    Settings,
}

impl StatementKind {
    pub const ALL: [StatementKind; 6] = [
        StatementKind::Untouched,
        StatementKind::Merged,
        StatementKind::Write,
        StatementKind::Straight,
        StatementKind::Transaction,
        StatementKind::Settings,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            StatementKind::Untouched => "untouched",
            StatementKind::Merged => "merged",
            StatementKind::Write => "write",
            StatementKind::Straight => "straight",
            StatementKind::Transaction => "transaction",
            StatementKind::Settings => "settings",
        }
    }
}

/// Sums over all clients since the daemon started, those that left included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    pub connections: u64,
    pub statements: u64,
    pub commits: u64,
    pub errors: u64,
}

/// One client at one moment.
#[derive(Debug, Clone)]
pub struct ClientSnapshot {
    pub info: ClientInfo,
    pub state: ClientState,
    /// The kind of the current or last statement.
    pub statement: Option<StatementKind>,
    pub connected: Duration,
    pub statements: u64,
    pub commits: u64,
    pub errors: u64,
}

/// All clients of the daemon. A cheap handle.
#[derive(Debug, Clone)]
pub struct Clients {
    registry: Arc<Mutex<Registry>>,
    metrics: Metrics,
}

#[derive(Debug, Default)]
struct Registry {
    next: u64,
    /// By order of arrival.
    connected: BTreeMap<u64, Arc<Client>>,
    /// Of clients that left, and the number that ever came.
    totals: Totals,
}

#[derive(Debug)]
struct Client {
    info: ClientInfo,
    since: Instant,
    state: AtomicU8,
    /// A place in [`StatementKind::ALL`]; past its end: none yet.
    statement: AtomicU8,
    statements: AtomicU64,
    commits: AtomicU64,
    errors: AtomicU64,
}

impl Clients {
    /// Nobody yet. What sessions tell of themselves is also counted in `metrics`.
    pub fn new(metrics: Metrics) -> Clients {
        Clients { registry: Arc::default(), metrics }
    }

    /// Lists a client until the guard goes.
    #[must_use]
    pub fn register(&self, info: ClientInfo) -> ClientGuard {
        let client = Arc::new(Client {
            info,
            since: Instant::now(),
            state: AtomicU8::new(ClientState::Idle as u8),
            statement: AtomicU8::new(u8::MAX),
            statements: AtomicU64::new(0),
            commits: AtomicU64::new(0),
            errors: AtomicU64::new(0),
        });
        let mut registry = self.lock();
        let place = registry.next;
        registry.next += 1;
        registry.totals.connections += 1;
        registry.connected.insert(place, Arc::clone(&client));
        ClientGuard { clients: self.clone(), place, client }
    }

    /// How many are connected.
    pub fn count(&self) -> usize {
        self.lock().connected.len()
    }

    /// Each connected client, by order of arrival.
    pub fn list(&self) -> Vec<ClientSnapshot> {
        self.lock().connected.values().map(|client| client.snapshot()).collect()
    }

    pub fn totals(&self) -> Totals {
        let registry = self.lock();
        registry.connected.values().fold(registry.totals, |totals, client| client.added_to(totals))
    }

    fn lock(&self) -> MutexGuard<'_, Registry> {
        // Counters stay sensible whatever panicked.
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Client {
    fn snapshot(&self) -> ClientSnapshot {
        ClientSnapshot {
            info: self.info.clone(),
            state: ClientState::ALL
                .get(usize::from(self.state.load(Ordering::Relaxed)))
                .copied()
                .unwrap_or(ClientState::Idle),
            statement: StatementKind::ALL.get(usize::from(self.statement.load(Ordering::Relaxed))).copied(),
            connected: self.since.elapsed(),
            statements: self.statements.load(Ordering::Relaxed),
            commits: self.commits.load(Ordering::Relaxed),
            errors: self.errors.load(Ordering::Relaxed),
        }
    }

    fn added_to(&self, totals: Totals) -> Totals {
        Totals {
            connections: totals.connections,
            statements: totals.statements + self.statements.load(Ordering::Relaxed),
            commits: totals.commits + self.commits.load(Ordering::Relaxed),
            errors: totals.errors + self.errors.load(Ordering::Relaxed),
        }
    }
}

/// A session's own line in the list of clients; goes with the session.
#[derive(Debug)]
pub struct ClientGuard {
    clients: Clients,
    place: u64,
    client: Arc<Client>,
}

impl ClientGuard {
    pub fn state(&self, state: ClientState) {
        self.client.state.store(state as u8, Ordering::Relaxed);
    }

    /// A statement begins.
    pub fn statement(&self, kind: StatementKind) {
        self.client.statement.store(kind as u8, Ordering::Relaxed);
        self.client.statements.fetch_add(1, Ordering::Relaxed);
        self.clients.metrics.statement(kind);
    }

    /// A buffered transaction was acknowledged, this long after its COMMIT came in.
    pub fn commit(&self, took: Duration) {
        self.client.commits.fetch_add(1, Ordering::Relaxed);
        self.clients.metrics.commit(took);
    }

    /// The client was sent an error.
    pub fn error(&self, code: SqlState) {
        self.client.errors.fetch_add(1, Ordering::Relaxed);
        self.clients.metrics.error(code);
    }
}

impl Drop for ClientGuard {
    fn drop(&mut self) {
        let mut registry = self.clients.lock();
        registry.connected.remove(&self.place);
        registry.totals = self.client.added_to(registry.totals);
    }
}
