//! What clients of the site feel while a long backlog drains at 150 ms: beside the same inserts over the same link without it.
//! The backlog is of transactions that are dear to replay, so that it is still draining when the clients are done.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::commits::{INSERT, ROUND_TRIP, medians};
use crate::effort::Effort;
use crate::load::{Length, Load, Outcome, Protocol};
use crate::process::wait_until;
use crate::replay::ten_updated;
use crate::report::{Section, Table};
use crate::stand::{Contender, Stand, Store};
use crate::stats::{median, ms, ratio, whole};

const FILLING_CLIENTS: u32 = 16;
const LIMIT: Duration = Duration::from_secs(600);

pub(crate) fn measure(stand: &mut Stand, effort: &Effort, section: &mut Section) -> Result<()> {
    section.text(format!(
        "Single-row inserts (`pgbench -M prepared`) over a link of 150 ms round trip: with nothing else in the buffer, and while {} \
         transactions of ten updated rows drain that were buffered with the link cut, on the same cores. A turn that outlasts the drain is \
         marked. The drain's rate, in transactions a second, beside the inserts and (yardstick) after them.",
        whole(effort.dear as f64)
    ));
    let mut table = Table::new(&[
        "buffer",
        "clients",
        "alone: tps",
        "p50 ms",
        "p99 ms",
        "slowest ms",
        "draining: tps",
        "÷ alone",
        "p50 ms",
        "÷ alone",
        "p99 ms",
        "÷ alone",
        "slowest ms",
        "÷ alone",
        "drained beside",
        "drained after",
        "beside ÷ after",
    ]);
    for store in [Store::Redis, Store::Files] {
        stand.begin(store)?;
        // A daemon that has just started has not touched the memory that clients make it touch once.
        stand.load(&insert(8, 1), Contender::Pgoutpost)?;
        for clients in [1, 8] {
            let (mut alone, mut beside) = (Vec::new(), Vec::new());
            for _ in 0..effort.rounds {
                stand.heal(ROUND_TRIP)?;
                stand.drain()?;
                alone.push(stand.load(&insert(clients, 2 * effort.turn_s), Contender::Pgoutpost)?);
                beside.push(draining(stand, effort, clients)?);
            }
            table.row(row(store, clients, &alone, &beside));
        }
    }
    stand.begin(Store::Redis)?;
    section.table(&table);
    Ok(())
}

/// A turn of the clients beside a drain.
struct Beside {
    turn: Outcome,
    /// It was still going on when they were done.
    busy: bool,
    beside_tps: f64,
    after_tps: f64,
}

fn draining(stand: &Stand, effort: &Effort, clients: u32) -> Result<Beside> {
    stand.cut()?;
    let first = stand.last_seq()?;
    let each = (effort.dear / u64::from(FILLING_CLIENTS)).max(1);
    let script = Some(ten_updated(effort.items));
    let length = Length::Transactions(each);
    let filling = Load { script, protocol: Protocol::Prepared, clients: FILLING_CLIENTS, length };
    stand.load(&filling, Contender::Pgoutpost)?;
    let last = stand.last_seq()?;
    stand.heal(ROUND_TRIP)?;
    let ledger = || stand.ledger(&stand.main);
    wait_until("the first entry to reach main", LIMIT, || Ok(ledger()? > first))?;
    let (from, since) = (ledger()?, Instant::now());
    let turn = stand.load(&insert(clients, effort.turn_s), Contender::Pgoutpost)?;
    let (at, then) = (ledger()?, Instant::now());
    wait_until("the backlog to reach main", LIMIT, || Ok(ledger()? >= last))?;
    let rate = |entries: u64, time: Duration| entries as f64 / time.as_secs_f64();
    let busy = at < last;
    let beside_tps = rate(at.min(last) - from, then - since);
    let after_tps = if busy { rate(last - at, then.elapsed()) } else { f64::NAN };
    Ok(Beside { turn, busy, beside_tps, after_tps })
}

fn insert(clients: u32, seconds: u32) -> Load {
    let length = Length::Seconds(seconds);
    Load { script: Some(INSERT.to_owned()), protocol: Protocol::Prepared, clients, length }
}

fn row(store: Store, clients: u32, alone: &[Outcome], beside: &[Beside]) -> Vec<String> {
    let slowest = |turns: &[&Outcome]| turns.iter().map(|turn| turn.max_ms).fold(0.0, f64::max);
    let during: Vec<Outcome> = beside.iter().map(|one| one.turn).collect();
    let (calm, busy) = (medians(alone), medians(&during));
    let [calm_max, busy_max] = [alone, &during].map(|turns| slowest(&turns.iter().collect::<Vec<_>>()));
    let mark = if beside.iter().all(|one| one.busy) { "" } else { " (the drain ended before)" };
    let [beside_tps, after_tps] =
        [median(beside.iter().map(|one| one.beside_tps)), median(beside.iter().map(|one| one.after_tps))];
    vec![
        store.name().to_owned(),
        format!("{clients}{mark}"),
        whole(calm.tps),
        ms(calm.p50_ms),
        ms(calm.p99_ms),
        ms(calm_max),
        whole(busy.tps),
        ratio(busy.tps, calm.tps),
        ms(busy.p50_ms),
        ratio(busy.p50_ms, calm.p50_ms),
        ms(busy.p99_ms),
        ratio(busy.p99_ms, calm.p99_ms),
        ms(busy_max),
        ratio(busy_max, calm_max),
        whole(beside_tps),
        whole(after_tps),
        ratio(beside_tps, after_tps),
    ]
}
