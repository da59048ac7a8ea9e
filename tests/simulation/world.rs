//! Everything outside of the daemon, and the weather.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pgoutpost::buffer::log::{LogError, Record};
use pgoutpost::buffer::memory::{self, Disk};
use pgoutpost::replay::Policy;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::backend::{Advance, Target};
use crate::daemon::Process;
use crate::dice::Dice;
use crate::files::Files;
use crate::link::{Road, Sever};
use crate::main_db::{Key, Main, Replica, Row, TABLES};
use crate::oracle::Oracle;
use crate::run::Fault;

/// A mistake planted into the simulated pieces: the simulation has to find it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// Main's ledger moves from anywhere.
    BlindLedger,
    /// The disk says that it has what it can still lose.
    IdleFsync,
    /// The log says that it has what it never got.
    AnswerBeforeDurable,
    /// What follows a BEGIN that failed is done statement by statement.
    WritesWithoutBegin,
    /// A session uses a replica that has gone back.
    PastReplica,
    /// A read takes its overlay after the replica's snapshot.
    LateOverlay,
    /// A read does not ask what its own snapshot holds.
    NoGate,
    /// Clients do not lock what they write.
    NoLocks,
    /// Main's ledger is advanced by whoever comes: also by connections of before.
    NoTakeOver,
    /// The log does not tell who has lost it.
    BlindProbe,
    /// Whoever has lost the log goes on writing to it.
    NoFence,
    /// What was sent to the log under an earlier claim still counts when it arrives.
    LateArrivals,
    /// The log loses its last entry when the daemon dies.
    LostTail,
    /// The replica shows a ledger that is ahead of its rows.
    TornReplica,
    /// Main keeps the lock on the ledger now and then.
    StuckLedger,
    /// Main does not tell of its foreign keys.
    SecretForeignKeys,
    /// The log does not say what it has in quarantine.
    BlankQuarantine,
    /// The log says that it has stored a lease, and has not.
    ForgottenLease,
    /// Main says that its sequence begins again at its end: then nobody minds where it is.
    CyclingSequence,
    /// Clients do not lock what they refer to, nor the table against TRUNCATE.
    CarelessChildren,
    /// A read takes for granted that the replica has what is old.
    TrustsTheClock,
    /// Main writes over what others wrote, whatever the table's policy.
    DeafToPolicies,
    /// Main does not say that its definitions have changed.
    SilentDrift,
    /// Main says that its columns are the first, the second and so on, whatever was dropped before.
    RenumberedColumns,
}

impl Bug {
    /// Shows only where several clients want the same rows.
    fn is_about_clients(self) -> bool {
        matches!(self, Bug::NoLocks | Bug::CarelessChildren)
    }

    /// What has to go wrong for it to show: happens in each of its runs, and often.
    fn needs(self) -> &'static [Fault] {
        match self {
            Bug::IdleFsync => &[Fault::Crash],
            Bug::TrustsTheClock => &[Fault::Clock],
            Bug::LateArrivals => &[Fault::Log],
            Bug::ForgottenLease => &[Fault::Crash],
            Bug::CyclingSequence => &[Fault::Failover],
            Bug::SecretForeignKeys => &[Fault::Rejections],
            Bug::BlankQuarantine => &[Fault::Rejections, Fault::Crash],
            Bug::BlindProbe => &[Fault::TwoDaemons, Fault::Rejections, Fault::Link],
            Bug::NoTakeOver => &[Fault::TwoDaemons, Fault::Rejections],
            Bug::DeafToPolicies => &[Fault::Policies, Fault::OtherWriters],
            Bug::SilentDrift | Bug::RenumberedColumns => &[Fault::Drift],
            _ => &[],
        }
    }
}

/// What may go wrong now. Figures are chances out of a thousand.
#[derive(Debug, Clone)]
pub struct Weather {
    /// Of an error that passes, for each statement on main.
    pub errors: u32,
    /// Of an operation of the log to get lost.
    pub log: u32,
    /// Whether the log may lose its newest entries then.
    pub tail: bool,
    /// Of the machine to stop in the middle of an operation of the log in files.
    pub stops: u32,
    /// Of a link to main that stands still for a while when an entry is put aside.
    pub stalls: u32,
    pub latency: Duration,
    pub replica_latency: Duration,
    pub road: Road,
    /// Values that main rejects, for each written value.
    pub bad: u32,
}

impl Weather {
    pub fn calm() -> Weather {
        Weather {
            errors: 0,
            log: 0,
            tail: false,
            stops: 0,
            stalls: 0,
            latency: Duration::from_millis(5),
            replica_latency: Duration::from_millis(3),
            road: Road::Open,
            bad: 0,
        }
    }
}

pub struct World {
    pub dice: Dice,
    pub main_dice: Dice,
    pub replica_dice: Dice,
    pub log_dice: Dice,
    /// The log is in files.
    pub files: Option<Files>,
    pub main: Mutex<Main>,
    pub replica: Mutex<Replica>,
    pub disk: Arc<Mutex<Disk>>,
    pub oracle: Mutex<Oracle>,
    /// Of each table, when main's row is not as the client saw it.
    pub policies: Mutex<[Policy; TABLES.len()]>,
    /// What arrives at the log after it was claimed again.
    pub late: Mutex<Vec<Record>>,
    /// When a client was last told that it has committed.
    pub committed: Mutex<Instant>,
    weather: Mutex<Weather>,
    connections: Mutex<Vec<(Target, u64, Sever)>>,
    trace: Mutex<Trace>,
    bug: Option<Bug>,
    /// Something is wrong: the run is over.
    pub broken: Notify,
    began: Instant,
    /// The process that claimed the log last: others do not know what this one acknowledges.
    owner: AtomicU64,
    /// What people's clocks say, in milliseconds.
    wall_clock: AtomicU64,
}

#[derive(Default)]
struct Trace {
    hash: crc32fast::Hasher,
    aloud: bool,
    lines: u64,
}

impl World {
    pub fn new(seed: u64, bug: Option<Bug>, aloud: bool) -> Arc<World> {
        Arc::new(World {
            dice: Dice::new(seed),
            main_dice: Dice::new(!seed),
            replica_dice: Dice::new(!seed ^ 1 << 40),
            log_dice: Dice::new(!seed ^ 1 << 41),
            files: match bug {
                None => Dice::new(seed ^ 1 << 42).happens(300).then(|| Files::new(false)),
                Some(bug) => (bug == Bug::IdleFsync).then(|| Files::new(true)),
            },
            main: Mutex::new(Main::new()),
            replica: Mutex::new(Replica::new()),
            disk: Arc::default(),
            oracle: Mutex::default(),
            policies: Mutex::default(),
            late: Mutex::default(),
            committed: Mutex::new(Instant::now()),
            weather: Mutex::new(Weather::calm()),
            connections: Mutex::default(),
            trace: Mutex::new(Trace { aloud, ..Trace::default() }),
            bug,
            broken: Notify::new(),
            began: Instant::now(),
            owner: AtomicU64::new(0),
            wall_clock: AtomicU64::new(1_780_000_000_000),
        })
    }

    pub fn bug(&self) -> Option<Bug> {
        self.bug
    }

    pub fn planted(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    /// Whether the planted mistake shows by this.
    pub fn needs(&self, fault: Fault) -> bool {
        self.bug.is_some_and(|bug| bug.needs().contains(&fault))
    }

    /// Whether the planted mistake needs some faults.
    pub fn is_choosy(&self) -> bool {
        self.bug.is_some_and(|bug| !bug.needs().is_empty())
    }

    /// Whether clients are to get into each other's way.
    pub fn is_crowded(&self) -> bool {
        self.bug.is_some_and(Bug::is_about_clients)
    }

    pub fn weather(&self) -> Weather {
        self.weather.lock().unwrap().clone()
    }

    pub fn change_weather(&self, change: impl FnOnce(&mut Weather)) {
        change(&mut self.weather.lock().unwrap());
    }

    /// Tells what happens: the same seed must tell the same.
    pub fn note(&self, what: impl Fn() -> String) {
        let mut trace = self.trace.lock().unwrap();
        let mut line = String::new();
        let what = self.files.as_ref().map_or_else(&what, |files| files.told(&what()));
        let _ = writeln!(line, "{:>10.4} {what}", self.began.elapsed().as_secs_f64());
        trace.hash.update(line.as_bytes());
        trace.lines += 1;
        if trace.aloud {
            let _ = std::io::stderr().write_all(line.as_bytes());
        }
    }

    /// What was told, as a number; and how much.
    pub fn told(&self) -> (u32, u64) {
        let trace = self.trace.lock().unwrap();
        (trace.hash.clone().finalize(), trace.lines)
    }

    /// A promise is broken.
    pub fn violation(&self, what: String) {
        self.note(|| format!("VIOLATION: {what}"));
        self.oracle.lock().unwrap().violation.get_or_insert(what);
        self.broken.notify_one();
    }

    /// Of a connection to this server.
    pub fn dice_of(&self, target: Target) -> &Dice {
        match target {
            Target::Main => &self.main_dice,
            Target::Replica => &self.replica_dice,
        }
    }

    pub fn latency(&self, target: Target) -> Duration {
        let max = match target {
            Target::Main => self.weather().latency,
            Target::Replica => self.weather().replica_latency,
        };
        self.dice_of(target).pause(max)
    }

    /// Of a session's connection to the replica.
    pub fn session_latency(&self) -> Duration {
        self.dice.pause(self.weather().replica_latency)
    }

    pub fn owned_by(&self, process: &Process) {
        self.owner.store(process.id, SeqCst);
    }

    pub fn is_owner(&self, process: &Process) -> bool {
        self.owner.load(SeqCst) == process.id
    }

    /// Milliseconds since 1970, as far as anybody knows.
    pub fn wall_clock(&self) -> u64 {
        self.wall_clock.fetch_add(1, SeqCst)
    }

    /// Forward or back, by up to some years.
    pub fn jump_wall_clock(&self) {
        let years = 1_700_000_000_000 + self.dice.below(200_000_000_000) as u64;
        self.wall_clock.store(years, SeqCst);
    }

    pub fn disk_latency(&self) -> Duration {
        self.log_dice.pause(Duration::from_millis(4))
    }

    pub fn road(&self, target: Target) -> Road {
        match target {
            Target::Main => self.weather().road,
            Target::Replica if self.replica.lock().unwrap().up => Road::Open,
            Target::Replica => Road::Cut,
        }
    }

    pub fn log_fails(&self) -> bool {
        self.log_dice.happens(self.weather().log)
    }

    /// What becomes of an append.
    pub fn log_fault(&self) -> memory::Fault {
        use memory::Fault;
        if !self.log_fails() {
            return Fault::None;
        }
        match self.log_dice.below(if self.weather().tail || self.files.is_some() { 5 } else { 4 }) {
            0 => Fault::Lost,
            1 => Fault::Executed,
            2 => Fault::Late,
            3 => Fault::Refused,
            _ => Fault::TailLost(self.log_dice.below(4) as u64),
        }
    }

    /// What was sent to the log long ago gets there.
    pub fn arrive_late(&self) {
        let mut late = self.late.lock().unwrap();
        if !late.is_empty() && self.log_dice.happens(300) {
            drop(self.force(&std::mem::take(&mut *late)));
        }
    }

    /// A process is gone.
    pub fn left_behind(&self, process: &Process) {
        if let Some(files) = self.files.as_ref().filter(|files| self.is_owner(process) || files.stopped()) {
            let lost = files.left_behind(&self.log_dice);
            self.note(|| format!("the disk loses {lost} changes"));
        }
    }

    /// Puts records into the log, whatever is there and whoever may.
    pub fn force(&self, records: &[Record]) -> Result<(), LogError> {
        let mut disk = self.disk.lock().unwrap();
        disk.records.extend(records.iter().map(|record| (record.seq(), record.clone())));
        disk.last = disk.records.keys().next_back().copied().unwrap_or_default();
        Ok(())
    }

    pub fn connected(&self, target: Target, process: &Process, sever: Sever) {
        self.connections.lock().unwrap().push((target, process.id, sever));
    }

    /// Breaks connections.
    pub fn sever(&self, silent: bool, which: impl Fn(Target, u64) -> bool) {
        let mut connections = self.connections.lock().unwrap();
        for (_, _, sever) in connections.extract_if(.., |(target, process, _)| which(*target, *process)) {
            sever.sever(silent);
        }
    }

    /// A process has put an entry aside: what it tells main about that may take long.
    pub fn put_aside(&self, process: &Process) {
        if self.log_dice.happens(self.weather().stalls) {
            let least = Duration::from_secs(if self.needs(Fault::TwoDaemons) { 20 } else { 0 });
            self.stall(process, least + self.log_dice.pause(Duration::from_secs(40)));
        }
    }

    /// What a process sends to main arrives late.
    pub fn stall(&self, process: &Process, pause: Duration) {
        self.note(|| format!("what process {} sends to main takes {pause:?}", process.id));
        let connections = self.connections.lock().unwrap();
        let theirs = connections.iter().filter(|(target, id, _)| *target == Target::Main && *id == process.id);
        theirs.for_each(|(_, _, sever)| sever.stall(pause));
    }

    /// A transaction commits on main.
    pub fn apply(&self, writes: BTreeMap<Key, Option<Row>>, advance: Option<Advance>, replayer: Option<u64>) {
        let mut main = self.main.lock().unwrap();
        let before = main.now().clone();
        let mut next = before.clone();
        for (key, row) in writes {
            match row {
                Some(row) => drop(next.rows.insert(key, row)),
                None => drop(next.rows.remove(&key)),
            }
        }
        next.replayer = replayer.unwrap_or(next.replayer);
        if let Some(Advance { from, to, entry }) = advance {
            self.note(|| format!("main commits entries after {from} up to {to}"));
            next.ledger = (to, entry);
            let judged =
                self.oracle.lock().unwrap().commit(&before, &mut next, (from, to), *self.policies.lock().unwrap());
            if let Err(what) = judged {
                self.violation(what);
            }
        }
        main.commit(next);
    }

    /// The log may hold something new.
    pub fn stored(&self) {
        let disk = self.disk.lock().unwrap();
        let learned = self.oracle.lock().unwrap().learn(&disk, self.main.lock().unwrap().now());
        drop(disk);
        if let Err(what) = learned {
            self.violation(what);
        }
    }

    /// Nothing acknowledged is gone.
    pub fn check(&self) {
        let disk = self.disk.lock().unwrap();
        let kept = self.oracle.lock().unwrap().kept(&disk, self.main.lock().unwrap().now());
        drop(disk);
        if let Err(what) = kept {
            self.violation(what);
        }
    }
}
