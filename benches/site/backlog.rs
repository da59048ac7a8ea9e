//! A long backlog: does a write grow dearer with what is pending, what does a pending row cost in memory, how long does
//! a restart take, and what does a client feel while the backlog drains?

use anyhow::{Result, ensure};

use crate::commits::{INSERT, ROUND_TRIP, medians};
use crate::effort::Effort;
use crate::load::{Length, Load, Protocol};
use crate::process::resident_bytes;
use crate::report::{Section, Table};
use crate::stand::{Contender, Stand};
use crate::stats::{ms, ratio, whole};

const FILLING_CLIENTS: u32 = 32;

pub(crate) fn measure(stand: &Stand, effort: &Effort, section: &mut Section) -> Result<()> {
    let empty_start = stand.restart()?;
    // A daemon that has just started has not touched the memory that clients make it touch once.
    stand.load(&insert(8, Length::Seconds(1)), Contender::Pgoutpost)?;
    stand.drain()?;
    stand.cut()?;
    let before = Weights::of(stand)?;
    let first = stand.last_seq()?;
    let pending_before = stand.connect(Contender::Pgoutpost)?.number(COUNT)?;

    section
        .text("Inserts with the link down (`pgbench -M prepared`), as the buffer fills. Yardstick: the empty buffer.");
    let idle = growth(stand, effort, section, first)?;

    let entries = (stand.last_seq()? - first) as f64;
    let after = Weights::of(stand)?;
    let count = stand.connect(Contender::Pgoutpost)?.number(COUNT)?;
    ensure!(count - pending_before == entries as u64, "{count} rows are shown, {pending_before} + {entries} expected");
    let restart = stand.restart()?;
    let rebuilt = stand.connect(Contender::Pgoutpost)?.number(COUNT)?;
    ensure!(rebuilt == count, "{rebuilt} rows are shown after a restart, {count} before");
    let fresh = resident_bytes(pid(stand)?)?;

    draining(stand, effort, section, idle)?;
    stand.drain()?;
    let shown = stand.replica.number(COUNT)?;
    ensure!(shown >= count, "{shown} rows on the replica at the end, {count} acknowledged");

    let heap = stand.main.number("SELECT pg_total_relation_size('reading') / greatest(count(*), 1) FROM reading")?;
    let mut table = Table::new(&["memory for each pending row", "bytes"]);
    table.row(["pgoutpost, resident".to_owned(), whole((after.outpost - before.outpost) / entries)]);
    table.row(["pgoutpost, resident, after a restart".to_owned(), whole((fresh - before.outpost) / entries)]);
    table.row(["Redis, used memory".to_owned(), whole((after.redis - before.redis) / entries)]);
    table.row(["yardstick: the same row in Postgres, with its index, on disk".to_owned(), whole(heap as f64)]);
    section.table(&table);

    let mut table = Table::new(&["start, until clients are served", "s"]);
    table.row([format!("{} entries to rebuild", whole(entries)), format!("{:.2}", restart.as_secs_f64())]);
    table.row(["yardstick: an empty buffer".to_owned(), format!("{:.2}", empty_start.as_secs_f64())]);
    section.table(&table);
    Ok(())
}

const COUNT: &str = "SELECT count(*) FROM reading";

fn insert(clients: u32, length: Length) -> Load {
    Load { script: Some(INSERT.to_owned()), protocol: Protocol::Prepared, clients, length }
}

fn pid(stand: &Stand) -> Result<u32> {
    stand.pid(Contender::Pgoutpost).ok_or_else(|| anyhow::anyhow!("pgoutpost does not run"))
}

/// Memory in bytes.
#[derive(Debug)]
struct Weights {
    outpost: f64,
    redis: f64,
}

impl Weights {
    fn of(stand: &Stand) -> Result<Weights> {
        Ok(Weights { outpost: resident_bytes(pid(stand)?)?, redis: stand.redis_bytes()? })
    }
}

/// Median latency of one client, and of eight, in milliseconds.
#[derive(Debug, Clone, Copy)]
struct Latency {
    one_ms: f64,
    eight_ms: f64,
}

/// Fills the buffer in steps and measures inserts at each; returns the latencies at the last.
fn growth(stand: &Stand, effort: &Effort, section: &mut Section, first: u64) -> Result<Latency> {
    let mut table = Table::new(&[
        "pending rows",
        "1 client: tps",
        "p50 ms",
        "p99 ms",
        "÷ empty, p50",
        "8 clients: tps",
        "p50 ms",
        "p99 ms",
        "÷ empty, p50",
    ]);
    let mut empty = None;
    let mut last = Latency { one_ms: f64::NAN, eight_ms: f64::NAN };
    for level in [0, effort.backlog / 10, effort.backlog] {
        let pending = stand.last_seq()? - first;
        let missing = level.saturating_sub(pending) / u64::from(FILLING_CLIENTS);
        if missing > 0 {
            stand.load(&insert(FILLING_CLIENTS, Length::Transactions(missing)), Contender::Pgoutpost)?;
        }
        let pending = stand.last_seq()? - first;
        let turns = |clients| -> Result<_> {
            let mut turns = Vec::new();
            for _ in 0..effort.rounds {
                turns.push(stand.load(&insert(clients, Length::Seconds(1)), Contender::Pgoutpost)?);
            }
            Ok(medians(&turns))
        };
        let (one, eight) = (turns(1)?, turns(8)?);
        last = Latency { one_ms: one.p50_ms, eight_ms: eight.p50_ms };
        let empty = *empty.get_or_insert(last);
        let mut row = vec![whole(pending as f64)];
        for (of, yardstick) in [(&one, empty.one_ms), (&eight, empty.eight_ms)] {
            row.extend([whole(of.tps), ms(of.p50_ms), ms(of.p99_ms), ratio(of.p50_ms, yardstick)]);
        }
        table.row(row);
    }
    section.table(&table);
    Ok(last)
}

/// Inserts while the backlog drains over the link at 150 ms.
fn draining(stand: &Stand, effort: &Effort, section: &mut Section, idle: Latency) -> Result<()> {
    section
        .text("Inserts while that backlog drains at 150 ms round trip. Yardstick: the full buffer with the link down.");
    let mut table = Table::new(&["clients", "tps", "p50 ms", "p99 ms", "slowest ms", "÷ link down, p50"]);
    stand.heal(ROUND_TRIP)?;
    let drained_at = stand.last_seq()?;
    for (clients, yardstick) in [(1, idle.one_ms), (8, idle.eight_ms)] {
        let turn = stand.load(&insert(clients, Length::Seconds(effort.turn_s)), Contender::Pgoutpost)?;
        let busy = stand.ledger(&stand.main)? < drained_at;
        let note = if busy { "" } else { " (drained meanwhile)" };
        table.row([
            format!("{clients}{note}"),
            whole(turn.tps),
            ms(turn.p50_ms),
            ms(turn.p99_ms),
            ms(turn.max_ms),
            ratio(turn.p50_ms, yardstick),
        ]);
    }
    section.table(&table);
    Ok(())
}
