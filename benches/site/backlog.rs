//! A long backlog, over both kinds of buffer: does a write grow dearer with what is pending, what do clients feel while it
//! drains, what does it cost in memory before, meanwhile and afterwards, and how long does a restart take?

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::commits::{INSERT, ROUND_TRIP, medians};
use crate::effort::Effort;
use crate::load::{Length, Load, Outcome, Protocol};
use crate::process::{folder_bytes, resident_bytes, wait_until};
use crate::report::{Section, Table};
use crate::stand::{Contender, Stand, Store};
use crate::stats::{ms, ratio, whole};

const FILLING_CLIENTS: u32 = 32;
const COUNT: &str = "SELECT count(*) FROM reading";
/// However many there are.
const DRAIN_LIMIT: Duration = Duration::from_secs(1200);
const MEGABYTE: f64 = 1e6;

pub(crate) fn measure(stand: &mut Stand, effort: &Effort, section: &mut Section) -> Result<()> {
    let mut figures = Vec::new();
    section.text(format!(
        "{} single-row inserts are buffered by {FILLING_CLIENTS} clients (`pgbench -M prepared`) with the link cut. Then the daemon is \
         killed and started again, and the link heals with 150 ms round trip. What clients feel who insert meanwhile; \
         yardstick: the empty buffer with the link cut.",
        whole(effort.backlog as f64)
    ));
    let mut latencies = Table::new(&[
        "buffer",
        "clients",
        "state",
        "tps",
        "p50 ms",
        "÷ empty",
        "p99 ms",
        "÷ empty",
        "slowest ms",
        "÷ empty",
    ]);
    for store in [Store::Redis, Store::Files] {
        figures.push((store, backlog(stand, effort, store, &mut latencies).with_context(|| format!("{store:?}"))?));
    }
    stand.begin(Store::Redis)?;
    section.table(&latencies);
    let mut memory = Table::new(&[
        "buffer",
        "pending rows",
        "MB resident before",
        "with the backlog",
        "bytes a row",
        "after a restart",
        "bytes a row",
        "most while draining",
        "÷ after the restart",
        "after the drain",
        "buffer's own bytes a row",
    ]);
    let heap = stand.main.number("SELECT pg_total_relation_size('reading') / greatest(count(*), 1) FROM reading")?;
    for (store, of) in &figures {
        let mb = |bytes: f64| format!("{:.0}", bytes / MEGABYTE);
        memory.row([
            store.name().to_owned(),
            whole(of.entries),
            mb(of.before),
            mb(of.filled),
            whole((of.filled - of.before) / of.entries),
            mb(of.restarted),
            whole((of.restarted - of.before) / of.entries),
            mb(of.most),
            ratio(of.most, of.restarted),
            mb(of.after),
            whole(of.stored / of.entries),
        ]);
    }
    section.text(format!(
        "Memory of the daemon. Yardstick: the same row in Postgres, with its index, takes {heap} bytes on disk."
    ));
    section.table(&memory);
    let mut times = Table::new(&[
        "buffer",
        "entries",
        "drained at 150 ms, tps",
        "restart: until clients are served, s",
        "yardstick: with an empty buffer, s",
    ]);
    for (store, of) in &figures {
        let drained = whole(of.drained_tps);
        let [restart, empty] = [of.restart, of.empty_start].map(|time| format!("{:.2}", time.as_secs_f64()));
        times.row([store.name().to_owned(), whole(of.entries), drained, restart, empty]);
    }
    section.text("The drain has the machine's cores in common with the inserts above.");
    section.table(&times);
    Ok(())
}

/// What one backlog cost. Memory in bytes.
#[derive(Debug)]
struct Figures {
    entries: f64,
    before: f64,
    filled: f64,
    restarted: f64,
    most: f64,
    after: f64,
    stored: f64,
    drained_tps: f64,
    restart: Duration,
    empty_start: Duration,
}

fn backlog(stand: &mut Stand, effort: &Effort, store: Store, latencies: &mut Table) -> Result<Figures> {
    stand.begin(store)?;
    let empty_start = stand.restart()?;
    // A daemon that has just started has not touched the memory that clients make it touch once.
    stand.load(&insert(8, Length::Seconds(1)), Contender::Pgoutpost)?;
    stand.drain()?;
    let mut tell = Tell { store, table: latencies, empty: Vec::new() };
    stand.cut()?;
    let before = resident_bytes(pid(stand)?)?;
    let stored_before = stored_bytes(stand, store)?;
    let (first, shown_before) = (stand.last_seq()?, stand.connect(Contender::Pgoutpost)?.number(COUNT)?);
    tell.rows(stand, effort, "link cut, nothing pending")?;
    let pending = stand.last_seq()? - first;
    let missing = effort.backlog.saturating_sub(pending) / u64::from(FILLING_CLIENTS);
    if missing > 0 {
        stand.load(&insert(FILLING_CLIENTS, Length::Transactions(missing)), Contender::Pgoutpost)?;
    }
    let entries = stand.last_seq()? - first;
    let filled = resident_bytes(pid(stand)?)?;
    let stored = stored_bytes(stand, store)? - stored_before;
    let shown = stand.connect(Contender::Pgoutpost)?.number(COUNT)?;
    ensure!(shown - shown_before == entries, "{shown} rows are shown, {shown_before} + {entries} expected");
    tell.rows(stand, effort, &format!("link cut, {} pending", whole(entries as f64)))?;

    let restart = stand.restart()?;
    let restarted = resident_bytes(pid(stand)?)?;
    let rebuilt = stand.connect(Contender::Pgoutpost)?.number(COUNT)?;
    ensure!(rebuilt >= shown, "{rebuilt} rows are shown after a restart, {shown} before");
    let most = Most::watch(pid(stand)?);
    stand.heal(ROUND_TRIP)?;
    let begun = stand.ledger(&stand.main)?;
    wait_until("the first entry to reach main", DRAIN_LIMIT, || Ok(stand.ledger(&stand.main)? > begun))?;
    let (from, since) = (stand.ledger(&stand.main)?, Instant::now());
    let backlog_end = first + entries;
    for clients in [8, 1] {
        let turn = stand.load(&insert(clients, Length::Seconds(2 * effort.turn_s)), Contender::Pgoutpost)?;
        let busy = stand.ledger(&stand.main)? < backlog_end;
        let state = if busy { "draining at 150 ms" } else { "draining at 150 ms (done meanwhile)" };
        tell.row(clients, state, &turn);
    }
    wait_until("the backlog to reach main", DRAIN_LIMIT, || Ok(stand.ledger(&stand.main)? >= backlog_end))?;
    let drained_tps = (backlog_end - from) as f64 / since.elapsed().as_secs_f64();
    stand.drain_within(DRAIN_LIMIT)?;
    let most = most.end();
    let after = resident_bytes(pid(stand)?)?;
    stand.heal(ROUND_TRIP)?;
    tell.rows(stand, effort, "link up at 150 ms, nothing pending")?;
    stand.drain()?;
    let there = stand.replica.number(COUNT)?;
    ensure!(there >= rebuilt, "{there} rows on the replica at the end, {rebuilt} acknowledged");
    let entries = entries as f64;
    Ok(Figures { entries, before, filled, restarted, most, after, stored, drained_tps, restart, empty_start })
}

fn insert(clients: u32, length: Length) -> Load {
    Load { script: Some(INSERT.to_owned()), protocol: Protocol::Prepared, clients, length, rate: None }
}

fn pid(stand: &Stand) -> Result<u32> {
    stand.pid(Contender::Pgoutpost).context("pgoutpost does not run")
}

/// What the buffer takes: in Redis' memory, or on the disk.
fn stored_bytes(stand: &Stand, store: Store) -> Result<f64> {
    match store {
        Store::Redis => stand.redis_bytes(),
        Store::Files => folder_bytes(&stand.buffer_folder()),
    }
}

/// Writes rows of the table of latencies.
struct Tell<'a> {
    store: Store,
    table: &'a mut Table,
    /// The first state's p50, p99 and slowest, by number of clients: the yardstick.
    empty: Vec<(u32, [f64; 3])>,
}

impl Tell<'_> {
    fn rows(&mut self, stand: &Stand, effort: &Effort, state: &str) -> Result<()> {
        for clients in [8, 1] {
            let mut turns = Vec::new();
            for _ in 0..effort.rounds {
                turns.push(stand.load(&insert(clients, Length::Seconds(effort.turn_s)), Contender::Pgoutpost)?);
            }
            let middle = medians(&turns);
            let max_ms = turns.iter().map(|turn| turn.max_ms).fold(0.0, f64::max);
            let (tps, p50_ms, p99_ms) = (middle.tps, middle.p50_ms, middle.p99_ms);
            self.row(clients, state, &Outcome { transactions: 0, tps, p50_ms, p99_ms, max_ms });
        }
        Ok(())
    }

    fn row(&mut self, clients: u32, state: &str, of: &Outcome) {
        let ours = [of.p50_ms, of.p99_ms, of.max_ms];
        let known = self.empty.iter().find(|(known, _)| *known == clients).map(|(_, figures)| *figures);
        let empty = known.unwrap_or_else(|| {
            self.empty.push((clients, ours));
            ours
        });
        let head = [self.store.name().to_owned(), clients.to_string(), state.to_owned(), whole(of.tps)];
        let compared = ours.into_iter().zip(empty).flat_map(|(ours, empty)| [ms(ours), ratio(ours, empty)]);
        self.table.row(head.into_iter().chain(compared));
    }
}

/// Watches what a process has resident.
struct Most {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<f64>,
}

impl Most {
    fn watch(pid: u32) -> Most {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut most: f64 = 0.0;
            while !told.load(Ordering::Relaxed) {
                most = most.max(resident_bytes(pid).unwrap_or(f64::NAN));
                std::thread::sleep(Duration::from_millis(20));
            }
            most
        });
        Most { stop, thread }
    }

    /// In bytes.
    fn end(self) -> f64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or(f64::NAN)
    }
}
