//! A client and its session: evaluates on merged rows, locks, collects, commits, in the order in which `session` does. What
//! Postgres would compute is made up here: the effects. The locks, the overlay and the commit are the real ones.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use pgoutpost::buffer::{CommitError, Draft};
use pgoutpost::entry::{Effect, Seq, Value};
use pgoutpost::overlay::{self, Existence, Overlay, RowId, View};
use pgoutpost::session::locks::{Holder, Taken};
use pgoutpost::sql::Lock;
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use crate::daemon::Daemon;
use crate::depends;
use crate::main_db::{Commit, Key, PARENT, REFERENCE, REFERRING, Row, Rows, TABLES};
use crate::oracle::{Told, key_of};
use crate::run::Fault;
use crate::sequences;
use crate::tables;
use crate::world::{Bug, World};

/// How long a transaction waits for one lock.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);
/// What a mistaken session takes for long enough for the replica to have it.
const OLD: Duration = Duration::from_secs(500);
/// How long COMMIT waits for `applied` and `visible`.
const LEVEL_TIMEOUT: Duration = Duration::from_secs(30);

/// The client has to connect again.
struct Lost;

struct Session {
    world: Arc<World>,
    daemon: Arc<Daemon>,
    /// Which start of the replica it is connected to.
    start: u64,
    locks: Holder,
    effects: Vec<Effect>,
    own: Overlay,
}

/// What the client is about to do.
struct Wish {
    table: usize,
    id: String,
    kind: usize,
}

/// Connects and works, again and again.
pub async fn run(world: Arc<World>, daemon: Arc<Daemon>) {
    loop {
        sleep(world.dice.pause(Duration::from_millis(800))).await;
        let start = world.replica.lock().unwrap().starts;
        let session = Session {
            locks: daemon.locks.holder(),
            world: Arc::clone(&world),
            daemon: Arc::clone(&daemon),
            start,
            effects: Vec::new(),
            own: Overlay::default(),
        };
        if session.work().await.is_err() {
            daemon.process.step().await;
        }
    }
}

impl Session {
    async fn work(mut self) -> Result<(), Lost> {
        self.replica_is_current().await?;
        for _ in 0..self.world.dice.below(8) + 1 {
            self.transaction().await?;
            let most = if self.world.is_crowded() { 300 } else { 2500 };
            sleep(self.world.dice.pause(Duration::from_millis(most))).await;
        }
        Ok(())
    }

    /// As `session::startup` does it.
    async fn replica_is_current(&mut self) -> Result<(), Lost> {
        let caught_up = async {
            loop {
                let confirmed = self.daemon.buffer.progress().borrow().confirmed;
                if self.snapshot().await?.ledger.0 >= confirmed || self.world.planted(Bug::PastReplica) {
                    return Ok(());
                }
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(Duration::from_secs(20), caught_up).await.unwrap_or(Err(Lost))
    }

    /// The replica's state when the question arrives there.
    async fn snapshot(&self) -> Result<Commit, Lost> {
        sleep(self.world.session_latency()).await;
        let shown = {
            let replica = self.world.replica.lock().unwrap();
            (replica.up && replica.starts == self.start).then(|| replica.shown.clone())
        };
        sleep(self.world.session_latency()).await;
        shown.ok_or(Lost)
    }

    /// All rows, as a statement sees them; and the overlay it was taken over.
    async fn read(&mut self) -> Result<(Rows, Seq), Lost> {
        let acknowledged = self.world.oracle.lock().unwrap().acknowledged();
        let mut base = self.daemon.buffer.overlay();
        let snapshot = self.snapshot().await?;
        if self.world.planted(Bug::LateOverlay) {
            base = self.daemon.buffer.overlay();
        }
        let old = self.world.planted(Bug::TrustsTheClock) && self.world.committed.lock().unwrap().elapsed() > OLD;
        let ledger = match self.world.bug() {
            Some(Bug::NoGate) => base.trimmed(),
            Some(Bug::TrustsTheClock) if old => base.last(),
            _ => snapshot.ledger.0,
        };
        let rows = merged(View { base: &base, own: &self.own }, &snapshot.known_rows(), ledger);
        if !self.daemon.process.is_dead() && self.world.is_owner(&self.daemon.process) {
            let since = self.daemon.asides;
            let mut oracle = self.world.oracle.lock().unwrap();
            let judged = oracle.read(&base, acknowledged, &snapshot, &self.effects, &rows, since);
            drop(oracle);
            if let Err(what) = judged {
                self.world.violation(what);
            }
        }
        Ok((rows, base.last()))
    }

    async fn transaction(&mut self) -> Result<(), Lost> {
        self.effects.clear();
        self.own = Overlay::default();
        for _ in 0..self.world.dice.below(3) + 1 {
            let (own, dice) = (self.world.dice.happens(700), &self.world.dice);
            let ids = if self.world.is_crowded() { 2 } else { 5 };
            let id = if own { format!("k{}", dice.below(ids)) } else { format!("s{}", dice.below(4)) };
            let wish = Wish { table: dice.below(TABLES.len()), id, kind: dice.below(10) };
            if dice.happens(250) {
                sequences::next(&self.world, &self.daemon.process, &self.daemon.leases).await;
            }
            if !self.statement(&wish).await? {
                self.locks.release(None);
                return Ok(());
            }
        }
        if self.effects.is_empty() || self.daemon.is_quiet() || self.world.dice.happens(50) {
            self.locks.release(None);
            return Ok(());
        }
        self.commit().await;
        Ok(())
    }

    /// `false`: the transaction has failed.
    async fn statement(&mut self, wish: &Wish) -> Result<bool, Lost> {
        for _ in 0..10 {
            let (rows, seen) = self.read().await?;
            let effects = self.evaluate(wish, &rows);
            let careless = self.world.planted(Bug::CarelessChildren);
            let wanted: Vec<Lock> = effects.iter().flat_map(locks).filter(|lock| !(careless && lock.shared)).collect();
            let taken = if self.world.planted(Bug::NoLocks) {
                Ok(Taken::Fresh)
            } else {
                self.locks.take(&wanted, seen, Some(LOCK_TIMEOUT)).await
            };
            match taken {
                Ok(Taken::Fresh) => {
                    self.collect(effects);
                    return Ok(true);
                }
                Ok(Taken::Stale) => {}
                Err(_) => return Ok(false),
            }
        }
        Ok(false)
    }

    /// What the statement does, as Postgres would say it.
    fn evaluate(&self, wish: &Wish, rows: &Rows) -> Vec<Effect> {
        let (dice, table) = (&self.world.dice, wish.table);
        if dice.happens(20) {
            // Who is referred to goes only with those that refer.
            let tables: &[usize] = [&[1][..], &[REFERRING], &[PARENT, REFERRING]][table];
            return tables.iter().map(|&table| Effect::Truncate { table }).collect();
        }
        let key = Key(TABLES[table].into(), wish.id.as_str().into());
        let value = || -> Value {
            let word = match dice.below(2000) < self.world.weather().bad as usize {
                // What one connection minds and another does not.
                true if self.world.needs(Fault::TwoDaemons) => "odd",
                true => ["bad", "late", "odd"][dice.below(3)],
                false => "v",
            };
            Some(format!("{word}{:x}", dice.bits() as u32).into())
        };
        // One that is there: of those that other sites write, or of those that they do not.
        let reference = || -> Value {
            let kind = wish.id.as_bytes()[0];
            let is_of_kind = |key: &&Key| &*key.0 == TABLES[PARENT] && key.1.as_bytes()[0] == kind;
            let parents: Vec<&Key> = rows.keys().filter(is_of_kind).collect();
            (!parents.is_empty() && dice.happens(800)).then(|| parents[dice.below(parents.len())].1.clone())
        };
        let in_column = |place: usize| if table == REFERRING && place == REFERENCE { reference() } else { value() };
        let Some(row) = rows.get(&key) else {
            return vec![Effect::Insert { table, row: vec![Some(key.1), in_column(1), in_column(2)] }];
        };
        if matches!(wish.kind, 1..=3) && depends::is_referred_to(rows, &key) {
            return Vec::new();
        }
        let id = vec![Some(key.1)];
        match wish.kind {
            0 => Vec::new(),
            1 | 2 => vec![Effect::Delete { table, key: id, old: row.clone() }],
            // A new key, when it is free.
            3 => {
                let new: Value = Some(format!("{}{}", &wish.id[..1], dice.below(5)).into());
                if rows.contains_key(&key_of(table, std::slice::from_ref(&new))) {
                    return Vec::new();
                }
                let set = vec![(0, new.clone()), (1, in_column(1))];
                let whole: Row = vec![new, set[1].1.clone(), row[2].clone()];
                let old = vec![(0, row[0].clone()), (1, row[1].clone())];
                vec![Effect::Update { table, key: id, set, old, row: Some(whole), own: Vec::new() }]
            }
            kind => {
                let places: &[usize] = [&[1][..], &[2], &[1, 2]][kind % 3];
                let set = places.iter().map(|&place| (place, in_column(place))).collect();
                let old = places.iter().map(|&place| (place, row[place].clone())).collect();
                vec![Effect::Update { table, key: id, set, old, row: None, own: Vec::new() }]
            }
        }
    }

    fn collect(&mut self, effects: Vec<Effect>) {
        let entry = tables::entry(Uuid::nil(), "", String::new(), effects);
        for (table, change) in overlay::bind(&entry, &self.daemon.catalog).0 {
            self.own.apply_uncommitted(table, &change);
        }
        self.effects.extend(entry.effects);
    }

    async fn commit(&mut self) {
        let (world, buffer) = (Arc::clone(&self.world), &self.daemon.buffer);
        let uuid = uuid::Builder::from_unix_timestamp_millis(
            world.wall_clock(),
            &world.dice.bits().to_le_bytes()[..10].try_into().expect("ten bytes"),
        );
        let uuid = uuid.into_uuid();
        let role = ["replicator", "observer"][world.dice.below(2)];
        let entry = tables::entry(uuid, role, world.wall_clock().to_string(), std::mem::take(&mut self.effects));
        let changes = overlay::bind(&entry, &self.daemon.catalog).0;
        world.oracle.lock().unwrap().submitted(uuid);
        let outcome = buffer.commit(Draft { entry, changes }).await;
        // Between the buffer's answer and the client's.
        self.daemon.process.step().await;
        world.note(|| format!("process {}: commit of {uuid}: {outcome:?}", self.daemon.process.id));
        let told = match &outcome {
            Ok(seq) => {
                *self.world.committed.lock().unwrap() = Instant::now();
                Told::Committed(*seq)
            }
            Err(CommitError::Unknown(_)) => Told::Nothing,
            Err(_) => Told::NotCommitted,
        };
        let judged = world.oracle.lock().unwrap().told(uuid, told);
        if let Err(what) = judged {
            world.violation(what);
        }
        match outcome {
            Ok(seq) => {
                self.locks.release(Some(seq));
                self.wait_for_level(seq).await;
            }
            Err(CommitError::Unknown(_)) => self.keep_locks_while_in_doubt(),
            Err(_) => self.locks.release(None),
        }
    }

    /// As `session::commit` does it.
    fn keep_locks_while_in_doubt(&mut self) {
        let mut holder = std::mem::replace(&mut self.locks, self.daemon.locks.holder());
        let buffer = self.daemon.buffer.clone();
        tokio::spawn(async move {
            while !buffer.status().available {
                sleep(Duration::from_millis(50)).await;
            }
            holder.release(Some(buffer.overlay().last()));
        });
    }

    /// `pgoutpost.commit` = 'applied' or 'visible', now and then.
    async fn wait_for_level(&mut self, seq: Seq) {
        let visible = match self.world.dice.below(12) {
            0 => false,
            1 => true,
            _ => return,
        };
        let before = (self.world.main.lock().unwrap().timeline, self.world.replica.lock().unwrap().starts);
        let progress = self.daemon.buffer.progress();
        // Not by waiting for a change, as the session does: see `dice`.
        let far = async {
            loop {
                let now = *progress.borrow();
                if seq <= if visible { now.confirmed } else { now.applied } {
                    return;
                }
                sleep(Duration::from_millis(20)).await;
            }
        };
        if timeout(LEVEL_TIMEOUT, far).await.is_err() || self.daemon.process.is_dead() {
            return;
        }
        let after = (self.world.main.lock().unwrap().timeline, self.world.replica.lock().unwrap().starts);
        let (main, replica) =
            (self.world.main.lock().unwrap().now().ledger.0, self.world.replica.lock().unwrap().shown.ledger.0);
        let reached = if visible { replica } else { main };
        if before == after && reached < seq {
            self.world.violation(format!("COMMIT of {seq} (visible: {visible}) was answered at {reached}"));
        }
    }
}

/// What an effect is locked by: its rows, their table (so that nobody truncates it), the keys that come and go, and those that
/// it refers to.
fn locks(effect: &Effect) -> Vec<Lock> {
    let lock = |what: &str, thing: &dyn Fn(&mut DefaultHasher), shared: bool| {
        let mut hasher = DefaultHasher::new();
        what.hash(&mut hasher);
        thing(&mut hasher);
        Lock { hash: hasher.finish(), shared }
    };
    let of = |what: &str, key: &Key, shared: bool| lock(what, &|hasher| key.hash(hasher), shared);
    let table = effect.table();
    let whole = lock("table", &|hasher| table.hash(hasher), !matches!(effect, Effect::Truncate { .. }));
    let (old, new) = match effect {
        Effect::Insert { row, .. } => (None, Some(key_of(table, row))),
        Effect::Update { key, row, .. } => {
            (Some(key_of(table, key)), Some(key_of(table, row.as_deref().unwrap_or(key))))
        }
        Effect::Delete { key, .. } => (Some(key_of(table, key)), None),
        Effect::Truncate { .. } => (None, None),
        Effect::Move { .. } => unreachable!("not simulated"),
    };
    let mut locks = vec![whole];
    if old != new {
        locks.extend(old.iter().chain(&new).map(|key| of("unique", key, false)));
    }
    locks.extend(old.iter().chain(&new).map(|key| of("row", key, false)));
    let (_, refers) = depends::references(effect);
    locks.extend(refers.and_then(|value| depends::parent(table, &value)).map(|key| of("unique", &key, true)));
    locks
}

/// The model that `overlay` describes and `sql` writes as SQL, in a snapshot whose ledger is at this place.
fn merged(view: View<'_>, snapshot: &Rows, ledger: Seq) -> Rows {
    let mut rows = snapshot.clone();
    for (place, table) in TABLES.iter().enumerate() {
        if view.truncated(tables::id(place)).is_some_and(|seq| seq > ledger) {
            rows = rows.into_iter().filter(|(key, _)| &*key.0 != *table).collect();
        }
    }
    let snapshot = rows.clone();
    for (place, table) in TABLES.iter().enumerate() {
        for (id, pending) in view.rows(tables::id(place)) {
            let RowId::Key(id) = id else { unreachable!("all simulated tables have a key") };
            let key = Key((*table).into(), Arc::clone(&id[0]));
            if pending.newest() <= ledger {
                continue;
            }
            let patched = |mut row: Row| {
                for column in pending.columns.iter().filter(|column| column.seq > ledger) {
                    row[column.attnum.0 as usize - 1] = column.value.map(Arc::from);
                }
                row
            };
            let shown = match pending.existence {
                Some((Existence::Deleted, seq)) if seq > ledger => None,
                Some((Existence::Inserted, seq)) if seq > ledger => Some(patched(vec![None; 3])),
                _ => snapshot.get(&key).cloned().map(patched),
            };
            match shown {
                Some(row) => drop(rows.insert(key, row)),
                None => drop(rows.remove(&key)),
            }
        }
    }
    rows
}
