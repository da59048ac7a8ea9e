//! A run: a seed decides what happens, until all is calm; then everything has to come to an end.

use std::cell::RefCell;
use std::sync::{Arc, Once};
use std::time::Duration;

use pgoutpost::entry::Value;
use pgoutpost::replay::Policy;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::backend::Target;
use crate::daemon::{self, Daemon, Process};
use crate::drift::Change;
use crate::link::Road;
use crate::main_db::{Key, REFERRING, Row, TABLES, place_of};
use crate::world::{Bug, Weather, World};

/// How long it may take until everything is on the replica once the faults have stopped.
const PATIENCE: Duration = Duration::from_secs(300);

/// What happens in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Link,
    Crash,
    Log,
    Errors,
    OtherWriters,
    Rejections,
    ReplicaStops,
    ReplicaGoesBack,
    Failover,
    TwoDaemons,
    Clock,
    LostTail,
    /// Columns change on main.
    Drift,
    /// Tables have policies about what others wrote.
    Policies,
}

pub const FAULTS: [Fault; 14] = [
    Fault::Link,
    Fault::Crash,
    Fault::Log,
    Fault::Errors,
    Fault::OtherWriters,
    Fault::Rejections,
    Fault::ReplicaStops,
    Fault::ReplicaGoesBack,
    Fault::Failover,
    Fault::TwoDaemons,
    Fault::Clock,
    Fault::LostTail,
    Fault::Drift,
    Fault::Policies,
];

/// What a run came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub broken: Option<String>,
    /// The hash of all that happened.
    pub told: (u32, u64),
    pub acknowledged: usize,
    pub reads: u64,
    pub faults: Vec<Fault>,
}

thread_local! {
    /// A panic in any task of this thread's run.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Has panics of tasks told: tokio keeps them to itself.
fn watch_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            PANIC.with_borrow_mut(|first| _ = first.get_or_insert_with(|| panic.to_string()));
            before(panic);
        }));
    });
    PANIC.take();
}

/// Runs one seed.
pub fn run(seed: u64, bug: Option<Bug>, aloud: bool) -> Report {
    watch_panics();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let world = World::new(seed, bug, aloud);
        let mut stage = Stage::new(Arc::clone(&world));
        tokio::select! {
            biased;
            () = world.broken.notified() => {}
            () = stage.play() => {}
        }
        let oracle = world.oracle.lock().unwrap();
        Report {
            broken: PANIC.take().or_else(|| oracle.violation.clone()),
            told: world.told(),
            acknowledged: oracle.acknowledgements(),
            reads: oracle.reads,
            faults: stage.faults.clone(),
        }
    })
}

struct Stage {
    world: Arc<World>,
    faults: Vec<Fault>,
    running: watch::Sender<Option<Arc<Daemon>>>,
    processes: u64,
    newest: Arc<Process>,
}

impl Stage {
    fn new(world: Arc<World>) -> Stage {
        // What a planted mistake shows by happens, and little else gets into its way.
        let often = if world.is_choosy() { 150 } else { 450 };
        let mut faults: Vec<Fault> =
            FAULTS.into_iter().filter(|&fault| world.dice.happens(often) || world.needs(fault)).collect();
        let stops = if world.files.is_some() && faults.contains(&Fault::Crash) { 40 } else { 0 };
        world.change_weather(|weather| weather.stops = stops);
        if faults.contains(&Fault::LostTail) && world.files.is_none() && !world.is_choosy() && world.dice.happens(300) {
            // The log owes its entries to the daemon's memory then: who needs them must not die, nor main forget them.
            let in_the_way = [Fault::Crash, Fault::TwoDaemons, Fault::Failover, Fault::ReplicaGoesBack];
            faults.retain(|fault| !in_the_way.contains(fault));
            world.change_weather(|weather| weather.tail = true);
        } else {
            faults.retain(|fault| *fault != Fault::LostTail);
        }
        if faults.contains(&Fault::Policies) {
            let any = [Policy::LastWriteWins, Policy::MainWins, Policy::Reject];
            *world.policies.lock().unwrap() = std::array::from_fn(|_| any[world.dice.below(3)]);
        }
        Stage { world, faults, running: watch::channel(None).0, processes: 0, newest: Process::new(0) }
    }

    fn may(&self, fault: Fault, in_thousand: u32) -> bool {
        let often = if self.world.needs(fault) { 3 } else { 1 };
        self.faults.contains(&fault) && self.world.dice.happens(in_thousand * often)
    }

    async fn play(&mut self) {
        let world = Arc::clone(&self.world);
        world.note(|| format!("{:?}", self.faults));
        self.launch();
        let latencies = [Duration::from_millis(800), Duration::from_millis(400)].map(|max| world.dice.pause(max));
        let stalls = match self.faults.contains(&Fault::TwoDaemons) {
            true if world.needs(Fault::TwoDaemons) => 1000,
            true => 300,
            false => 0,
        };
        world.change_weather(|weather| {
            [weather.latency, weather.replica_latency] = latencies;
            weather.stalls = stalls;
        });
        for _ in 0..world.dice.below(30) + 10 {
            self.step().await;
            if !self.faults.contains(&Fault::LostTail) {
                world.check();
            }
        }
        self.calm().await;
    }

    fn launch(&mut self) {
        self.processes += 1;
        self.newest = Process::new(self.processes);
        tokio::spawn(daemon::live(Arc::clone(&self.world), Arc::clone(&self.newest), self.running.clone()));
    }

    fn daemon(&self) -> Option<Arc<Daemon>> {
        self.running.borrow().clone()
    }

    async fn step(&mut self) {
        let world = Arc::clone(&self.world);
        sleep(world.dice.pause(Duration::from_secs(2))).await;
        {
            let main = world.main.lock().unwrap();
            let mut replica = world.replica.lock().unwrap();
            replica.follow(&main, world.dice.below(6));
            if world.planted(Bug::TornReplica)
                && let Some(next) = main.commits.get(replica.at)
            {
                replica.shown.ledger = next.ledger;
            }
        }
        if self.newest.is_dead() {
            if world.dice.happens(400) {
                self.launch();
            }
        } else if self.may(Fault::Crash, 100) {
            self.newest.doom(world.dice.below(60));
        } else if self.may(Fault::TwoDaemons, 60) {
            let old = Arc::clone(&self.newest);
            let wanted = world.needs(Fault::TwoDaemons);
            if wanted || world.dice.happens(600) {
                // In between, clients commit what the old one sends, and what is late then.
                let least = Duration::from_secs(if wanted { 6 } else { 0 });
                world.stall(&old, least + world.dice.pause(Duration::from_secs(40) - least));
                sleep(world.dice.pause(Duration::from_secs(4))).await;
            }
            self.launch();
            if !wanted && world.dice.happens(700) {
                old.doom(world.dice.below(300));
            }
        }
        self.link();
        self.main();
        self.replica();
        if self.faults.contains(&Fault::Log) {
            let chance = if world.dice.happens(200) { world.dice.below(300) as u32 } else { 0 };
            world.change_weather(|weather| weather.log = chance);
        }
        if self.may(Fault::Clock, 60) {
            // Nothing ran meanwhile: everything is late at once.
            let jump = Duration::from_secs([1, 30, 1000][world.dice.below(3)]);
            world.note(|| format!("the clock jumps by {jump:?}"));
            world.jump_wall_clock();
            tokio::time::advance(jump).await;
        }
        if self.may(Fault::Rejections, 100)
            && let Some(daemon) = self.daemon()
        {
            world.main.lock().unwrap().mended = world.dice.happens(500);
            let world = Arc::clone(&world);
            tokio::spawn(async move { daemon::operate(&world, &daemon).await });
        }
    }

    fn link(&mut self) {
        let world = &self.world;
        if self.may(Fault::Link, 150) {
            let road = [Road::Open, Road::Open, Road::Cut, Road::BlackHole][world.dice.below(4)];
            world.note(|| format!("the link: {road:?}"));
            world.change_weather(|weather| weather.road = road);
            world.sever(road == Road::BlackHole, |target, _| target == Target::Main);
        } else if world.dice.happens(300) {
            world.change_weather(|weather| weather.road = Road::Open);
        }
    }

    fn main(&mut self) {
        let world = &self.world;
        if self.faults.contains(&Fault::Errors) {
            let chance = if world.dice.happens(300) { world.dice.below(200) as u32 } else { 0 };
            world.change_weather(|weather| weather.errors = chance);
        }
        if self.faults.contains(&Fault::Rejections) {
            let often = if world.needs(Fault::Rejections) { 1000 } else { 100 };
            let chance = [0, 0, 0, 0, often, 100, 1000][world.dice.below(7)];
            world.change_weather(|weather| weather.bad = chance);
        }
        if self.may(Fault::OtherWriters, 200) {
            world.main.lock().unwrap().draw(1);
        }
        if self.may(Fault::OtherWriters, 500) {
            let key = Key(TABLES[world.dice.below(TABLES.len())].into(), format!("s{}", world.dice.below(4)).into());
            let mut main = world.main.lock().unwrap();
            let value = || Some(format!("other{:x}", world.dice.bits() as u32).into());
            let first = || match &*key.0 == TABLES[REFERRING] {
                true => Some(format!("s{}", world.dice.below(4)).into()),
                false => value(),
            };
            let definition = Arc::clone(&main.now().definitions.tables[place_of(&key.0)]);
            // In the columns that there are.
            let written = |mut row: Row, first: Option<(Value, Value)>, last: Value| {
                let mut put = |place: usize, value: Value| {
                    if definition.columns.iter().any(|column| column.place() == place) {
                        row[place] = value;
                    }
                };
                first.into_iter().for_each(|(id, first)| {
                    put(0, id);
                    put(1, first);
                });
                put(2, last);
                row
            };
            let row = match main.now().rows.get(&key) {
                Some(_) if world.dice.happens(300) => None,
                Some(row) => Some(written(row.clone(), None, value())),
                None => Some(written(definition.row(), Some((Some(key.1.clone()), first())), value())),
            };
            world.note(|| format!("another site writes {key:?}: {row:?}"));
            main.write(key, row);
        }
        if self.may(Fault::Drift, 80) {
            use Change::{Add, Drop, Exchange, Narrow, Rename, Replace, Widen};
            let change = [Add, Drop, Exchange, Narrow, Rename, Replace, Widen, Rename, Exchange][world.dice.below(9)];
            let (table, mut main) = (world.dice.below(TABLES.len()), world.main.lock().unwrap());
            if main.alter(table, change, &world.dice) {
                let now = &main.now().definitions;
                world.note(|| format!("main alters {}: {change:?}: {:?}", TABLES[table], now.tables[table].columns));
                world.oracle.lock().unwrap().defined(now);
            }
        }
        if self.may(Fault::Failover, 40) {
            self.fail_over();
        }
    }

    /// Main comes back without its last commits, or with all of them.
    fn fail_over(&self) {
        let world = &self.world;
        let mut main = world.main.lock().unwrap();
        let mut replica = world.replica.lock().unwrap();
        // As far back as the log holds what is needed then.
        let oldest = world.disk.lock().unwrap().records.keys().next().map_or(0, |seq| seq.0 - 1);
        let first = main.commits.iter().position(|commit| commit.ledger.0.0 >= oldest).unwrap_or(0) + 1;
        let most = main.commits.len();
        let keep = most - world.dice.below((most - first + 1).min(12));
        world.note(|| format!("main fails over to {keep} of {most} commits"));
        main.restart(keep);
        if replica.at > keep {
            replica.diverged = true;
        }
    }

    fn replica(&mut self) {
        let world = &self.world;
        let main = world.main.lock().unwrap();
        let mut replica = world.replica.lock().unwrap();
        let mut severed = true;
        if !replica.up || replica.diverged {
            if !world.dice.happens(300) {
                return;
            }
            let at = main.commits.len() - world.dice.below(main.commits.len().min(4));
            replica.restart(&main, at);
        } else if self.may(Fault::ReplicaStops, 60) {
            replica.up = false;
        } else if self.may(Fault::ReplicaGoesBack, 60) {
            let back = world.dice.below(replica.at.min(10));
            let at = replica.at - back;
            replica.restart(&main, at);
        } else {
            severed = false;
        }
        if severed {
            world.note(|| format!("the replica: up {} at {} of {}", replica.up, replica.at, main.commits.len()));
        }
        drop((main, replica));
        if severed {
            world.sever(false, |target, _| target == Target::Replica);
        }
    }

    /// No more faults: all that was acknowledged has to arrive.
    async fn calm(&mut self) {
        let world = Arc::clone(&self.world);
        world.note(|| "calm".to_owned());
        world.change_weather(|weather| *weather = Weather::calm());
        let begun = Instant::now();
        let settled = async {
            loop {
                sleep(Duration::from_millis(500)).await;
                if self.newest.is_dead() {
                    self.launch();
                }
                {
                    let main = world.main.lock().unwrap();
                    let mut replica = world.replica.lock().unwrap();
                    if !replica.up || replica.diverged {
                        replica.restart(&main, 1);
                        world.note(|| "the replica is made anew".to_owned());
                        world.sever(false, |target, _| target == Target::Replica);
                    }
                    replica.follow(&main, usize::MAX / 2);
                }
                world.check();
                let Some(daemon) = self.daemon() else { continue };
                if begun.elapsed() < Duration::from_secs(4) {
                    continue;
                }
                // Nothing new from here on.
                daemon.quiet();
                let progress = *daemon.buffer.progress().borrow();
                let status = daemon.buffer.status();
                let done = progress.confirmed == progress.last && status.pending == 0 && status.available;
                if done && progress.last >= world.oracle.lock().unwrap().acknowledged() {
                    return;
                }
            }
        };
        if timeout(PATIENCE, settled).await.is_err() {
            let daemon = self.daemon();
            let state = daemon.map(|daemon| {
                let replay = daemon.replay.borrow();
                format!("{:?}, replay {:?} {:?}", daemon.buffer.progress().borrow(), replay.state, replay.last_error)
            });
            world.violation(format!("no progress once all is calm: {state:?}"));
            return;
        }
        world.check();
        let serial = world.oracle.lock().unwrap().serial();
        if let Err(what) = serial {
            world.violation(what);
        }
    }
}
