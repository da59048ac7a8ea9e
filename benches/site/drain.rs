//! What clients of the site feel while a long backlog drains at 150 ms: beside the same inserts over the same link without it.
//! The backlog is of transactions that are dear to replay, so that it is still draining when the clients are done.
//!
//! Main and replica stand on the same machine here and work for the drain, which they do not at a site. So there is a second
//! yardstick: one of main's own clients writes as many rows a second there, with no backlog at the site.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

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
/// Rows of a transaction of the backlog.
const DRAINED_ROWS: f64 = 10.0;
/// Rows of a transaction of main's own client: about what replay puts into one.
const OTHERS_ROWS: u32 = 2_560;

pub(crate) fn measure(stand: &mut Stand, effort: &Effort, section: &mut Section) -> Result<()> {
    section.text(format!(
        "Single-row inserts (`pgbench -M prepared`) over a link of 150 ms round trip: with nothing else in the buffer, and while {} \
         transactions of ten updated rows drain that were buffered with the link cut, on the same cores. A turn that outlasts the drain is \
         marked. *Others*: nothing in the buffer, but one of main's own clients updates as many rows there as the drain did, in transactions \
         of {OTHERS_ROWS} rows, so main and replica are as busy, less what a statement for each row costs them. The drain's rate, in transactions a \
         second, beside the inserts and (yardstick) after them.",
        whole(effort.dear as f64)
    ));
    let mut table = Table::new(&[
        "buffer",
        "clients",
        "alone: tps",
        "p50 ms",
        "p99 ms",
        "slowest ms",
        "others: p50 ms",
        "p99 ms",
        "slowest ms",
        "others' rows/s ÷ the drain's",
        "draining: tps",
        "p50 ms",
        "÷ alone",
        "÷ others",
        "p99 ms",
        "÷ alone",
        "÷ others",
        "slowest ms",
        "÷ alone",
        "÷ others",
        "drained beside",
        "drained after",
        "beside ÷ after",
    ]);
    for store in [Store::Redis, Store::Files] {
        stand.begin(store)?;
        // A daemon that has just started has not touched the memory that clients make it touch once.
        stand.load(&insert(8, 1), Contender::Pgoutpost)?;
        for clients in [1, 8] {
            let mut turns = Turns::default();
            for _ in 0..effort.rounds {
                stand.drain()?;
                stand.heal(ROUND_TRIP)?;
                turns.alone.push(stand.load(&insert(clients, 2 * effort.turn_s), Contender::Pgoutpost)?);
                let draining = draining(stand, effort, clients)?;
                stand.drain()?;
                stand.heal(ROUND_TRIP)?;
                turns.others.push(among_others(stand, effort, clients, draining.beside_tps)?);
                turns.beside.push(draining);
            }
            table.row(turns.row(store, clients));
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
    let filling = Load { script, protocol: Protocol::Prepared, clients: FILLING_CLIENTS, length, rate: None };
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

/// A turn of the clients while somebody else writes on main.
struct Others {
    turn: Outcome,
    rows_per_drained: f64,
}

fn among_others(stand: &Stand, effort: &Effort, clients: u32, drain_tps: f64) -> Result<Others> {
    let wanted = drain_tps * DRAINED_ROWS;
    let (items, rows) = (effort.items, OTHERS_ROWS);
    let script = format!(
        "\\set value random(1, 1000000) / 1000.0\n\
         UPDATE item SET value = :value WHERE id IN (SELECT 2 * (1 + (random() * {})::bigint) FROM generate_series(1, {rows}));\n",
        items - 1
    );
    // Begun before the clients and ended after them.
    let length = Length::Seconds(effort.turn_s + 1);
    let rate = Some(wanted / f64::from(rows));
    let writing = Load { script: Some(script), protocol: Protocol::Prepared, clients: 1, length, rate };
    let (turn, wrote) = std::thread::scope(|scope| {
        let others = scope.spawn(|| stand.load(&writing, Contender::Main));
        std::thread::sleep(Duration::from_millis(500));
        let turn = stand.load(&insert(clients, effort.turn_s), Contender::Pgoutpost);
        (turn, others.join())
    });
    let wrote = wrote.map_err(|_| anyhow!("the other writer panicked"))??;
    Ok(Others { turn: turn?, rows_per_drained: wrote.tps * f64::from(rows) / wanted })
}

fn insert(clients: u32, seconds: u32) -> Load {
    let length = Length::Seconds(seconds);
    Load { script: Some(INSERT.to_owned()), protocol: Protocol::Prepared, clients, length, rate: None }
}

/// What was measured for one buffer and number of clients.
#[derive(Default)]
struct Turns {
    alone: Vec<Outcome>,
    others: Vec<Others>,
    beside: Vec<Beside>,
}

impl Turns {
    fn row(&self, store: Store, clients: u32) -> Vec<String> {
        let of_others: Vec<Outcome> = self.others.iter().map(|one| one.turn).collect();
        let during: Vec<Outcome> = self.beside.iter().map(|one| one.turn).collect();
        let slowest = |turns: &[Outcome]| turns.iter().map(|turn| turn.max_ms).fold(0.0, f64::max);
        let [calm, others, busy] = [&self.alone, &of_others, &during].map(|turns| (medians(turns), slowest(turns)));
        let mark = if self.beside.iter().all(|one| one.busy) { "" } else { " (the drain ended before)" };
        let beside_tps = median(self.beside.iter().map(|one| one.beside_tps));
        let after_tps = median(self.beside.iter().map(|one| one.after_tps));
        let mut row = vec![store.name().to_owned(), format!("{clients}{mark}")];
        row.extend([whole(calm.0.tps), ms(calm.0.p50_ms), ms(calm.0.p99_ms), ms(calm.1)]);
        row.extend([ms(others.0.p50_ms), ms(others.0.p99_ms), ms(others.1)]);
        row.push(ratio(median(self.others.iter().map(|one| one.rows_per_drained)), 1.0));
        row.push(whole(busy.0.tps));
        let latencies = [
            (busy.0.p50_ms, calm.0.p50_ms, others.0.p50_ms),
            (busy.0.p99_ms, calm.0.p99_ms, others.0.p99_ms),
            (busy.1, calm.1, others.1),
        ];
        for (busy, calm, others) in latencies {
            row.extend([ms(busy), ratio(busy, calm), ratio(busy, others)]);
        }
        row.extend([whole(beside_tps), whole(after_tps), ratio(beside_tps, after_tps)]);
        row
    }
}
