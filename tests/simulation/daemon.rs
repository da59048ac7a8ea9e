//! One life of the daemon: the real parts, put together as `server` does it, in a process that can die at any step.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::SeqCst};
use std::time::Duration;

use pgoutpost::buffer::{Buffer, BufferConfig, BufferError, LogError, Which};
use pgoutpost::catalog::{Catalog, CatalogHandle};
use pgoutpost::ids::{IdsConfig, Leases};
use pgoutpost::replay::{self, ReplayConfig, ReplayStatus};
use pgoutpost::session::locks::Locks;
use pgoutpost::tracker::{self, TrackerConfig, TrackerStatus};
use pgoutpost::upstream::own::{Config, Server};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::backend::Target;
use crate::link::Way;
use crate::log::SimulatedLog;
use crate::main_db::TABLES;
use crate::run::Fault;
use crate::sequences::{self, LEASE, Sequences};
use crate::tables;
use crate::world::{Bug, World};

const SITE: &str = "north";

/// What dies in a crash. Everything that leaves the process, or comes in, goes through [`Process::step`].
pub struct Process {
    pub id: u64,
    /// How many steps it has to live; negative: no end in sight.
    left: AtomicI64,
    dead: CancellationToken,
}

impl Process {
    pub fn new(id: u64) -> Arc<Process> {
        Arc::new(Process { id, left: AtomicI64::new(-1), dead: CancellationToken::new() })
    }

    /// A step of the process; its last one never ends.
    pub async fn step(&self) {
        if self.left.load(SeqCst) >= 0 && self.left.fetch_sub(1, SeqCst) == 0 {
            self.dead.cancel();
        }
        if self.dead.is_cancelled() {
            std::future::pending::<()>().await;
        }
    }

    /// It dies after so many steps.
    pub fn doom(&self, steps: usize) {
        self.left.store(steps as i64, SeqCst);
    }

    /// Now.
    pub fn die(&self) {
        self.dead.cancel();
    }

    pub fn is_dead(&self) -> bool {
        self.dead.is_cancelled()
    }
}

/// The parts of a running daemon.
pub struct Daemon {
    pub process: Arc<Process>,
    pub buffer: Buffer,
    pub catalog: Arc<Catalog>,
    pub locks: Locks,
    pub leases: Leases,
    /// Versions of the quarantine when it started.
    pub asides: usize,
    quiet: AtomicBool,
    pub replay: watch::Receiver<ReplayStatus>,
}

impl Daemon {
    /// Its clients begin no more transactions.
    pub fn quiet(&self) {
        self.quiet.store(true, SeqCst);
    }

    pub fn is_quiet(&self) -> bool {
        self.quiet.load(SeqCst)
    }
}

/// Starts a daemon, tells about it, and ends when it does: by a crash, or because it lost its log.
pub async fn live(world: Arc<World>, process: Arc<Process>, running: watch::Sender<Option<Arc<Daemon>>>) {
    let mut tasks = JoinSet::new();
    let id = process.id;
    world.note(|| format!("process {id} starts"));
    let died = process.dead.clone();
    let life = async {
        let Some(ended) = start(&world, &process, &running, &mut tasks).await else { return };
        ended.await;
        // Fenced out, or stopped for a reason: until somebody ends it.
        let least = Duration::from_secs(if world.needs(Fault::TwoDaemons) { 60 } else { 0 });
        sleep(least + world.dice.pause(Duration::from_secs(10))).await;
    };
    tokio::select! {
        biased;
        () = died.cancelled() => {}
        () = life => {}
    }
    process.dead.cancel();
    running.send_if_modified(|daemon| {
        let ours = daemon.as_ref().is_some_and(|daemon| daemon.process.id == id);
        if ours {
            *daemon = None;
        }
        ours
    });
    world.note(|| format!("process {id} is gone"));
    if world.planted(Bug::LostTail) {
        let mut disk = world.disk.lock().unwrap();
        disk.records.pop_last();
        disk.last = disk.records.keys().next_back().copied().unwrap_or_default();
    }
    world.left_behind(&process);
    world.sever(false, |_, process| process == id);
    tasks.abort_all();
}

async fn start(
    world: &Arc<World>,
    process: &Arc<Process>,
    running: &watch::Sender<Option<Arc<Daemon>>>,
    tasks: &mut JoinSet<()>,
) -> Option<impl Future<Output = ()> + use<>> {
    let shutdown = CancellationToken::new();
    let catalog = CatalogHandle::fixed(tables::catalog());
    let confirmed = loop {
        process.step().await;
        sleep(world.latency(Target::Replica)).await;
        let (up, ledger) = {
            let replica = world.replica.lock().unwrap();
            (replica.up, replica.shown.ledger.0)
        };
        if up {
            sleep(world.latency(Target::Replica)).await;
            break ledger;
        }
        sleep(Duration::from_secs(1)).await;
    };
    let asides = world.oracle.lock().unwrap().asides();
    let config = BufferConfig { retention: Duration::from_secs(3600), ..BufferConfig::default() };
    let (buffer, committer) = loop {
        let log = Arc::new(SimulatedLog::new(world, process));
        match Buffer::open_log(log, &config, catalog.current(), confirmed, shutdown.clone()).await {
            Ok(opened) => break opened,
            Err(BufferError::Log(LogError::Refused(_) | LogError::Doubtful(_))) => sleep(Duration::from_secs(1)).await,
            Err(error) => {
                world.note(|| format!("process {}: the buffer does not open: {error}", process.id));
                return None;
            }
        }
    };
    let to = |target| {
        let mut config = Config::new();
        config.user("replicator").dbname("observatory");
        let way = Way { world: Arc::clone(world), process: Arc::clone(process), target };
        Server::simulated(config, Arc::new(way))
    };
    let tracking = TrackerConfig { poll_interval: Duration::from_millis(400), ..TrackerConfig::default() };
    let (tell, _) = watch::channel(TrackerStatus::default());
    let (replica, site) = (to(Target::Replica), SITE.to_owned());
    tasks.spawn(tracker::run(buffer.clone(), replica, site, catalog.clone(), tracking, shutdown.clone(), tell));
    let replaying = ReplayConfig {
        retry_delay_max: Duration::from_secs(5),
        group: [1, 3, 256][world.dice.below(3)],
        window: [1, 4, 64][world.dice.below(3)],
        conflicts: TABLES.iter().map(|table| format!("public.{table}")).zip(*world.policies.lock().unwrap()).collect(),
        ..ReplayConfig::default()
    };
    let (tell, replay) = watch::channel(ReplayStatus::default());
    let main = to(Target::Main);
    tasks.spawn(replay::run(buffer.clone(), main, SITE.to_owned(), replaying, shutdown, tell));
    let leases = loop {
        let source = Sequences { world: Arc::clone(world), process: Arc::clone(process) };
        match Leases::open(IdsConfig { lease_size: LEASE }, buffer.clone(), source).await {
            Ok(leases) => break leases,
            Err(_) => sleep(Duration::from_secs(1)).await,
        }
    };
    tasks.spawn(sequences::verify(replay.clone(), leases.clone()));
    let daemon = Arc::new(Daemon {
        leases,
        process: Arc::clone(process),
        buffer,
        catalog: catalog.current(),
        locks: Locks::default(),
        asides,
        quiet: AtomicBool::new(false),
        replay,
    });
    running.send_if_modified(|there| {
        let newest = there.as_ref().is_none_or(|there| there.process.id < process.id);
        if newest {
            *there = Some(Arc::clone(&daemon));
        }
        newest
    });
    let clients = if world.is_crowded() { 3 } else { world.dice.below(3) + 1 };
    for _ in 0..clients {
        tasks.spawn(crate::client::run(Arc::clone(world), Arc::clone(&daemon)));
    }
    Some(async move { drop(committer.await) })
}

/// An operator looks at the quarantine, and acts.
pub async fn operate(world: &World, daemon: &Daemon) {
    let Ok(records) = daemon.buffer.quarantined().await else { return };
    if records.is_empty() || daemon.process.is_dead() {
        return;
    }
    let seq = records[world.dice.below(records.len())].seq;
    let what = world.dice.below(3);
    let done = match what {
        0 => daemon.buffer.skip(seq, "anna").await.map(|()| 1),
        1 => daemon.buffer.retry(Which::One(seq), "anna").await.map(|done| done.len()),
        _ => daemon.buffer.retry(Which::All, "anna").await.map(|done| done.len()),
    };
    world.note(|| format!("operator: {} {seq}: {done:?}", ["skip", "retry", "retry all"][what]));
}
