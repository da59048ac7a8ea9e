//! Replay: how fast a buffer that filled while the link was down reaches main.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::commits::{INSERT, ROUND_TRIP, update};
use crate::effort::Effort;
use crate::load::{Length, Load, Protocol};
use crate::process::wait_until;
use crate::report::{Section, Table};
use crate::stand::{Contender, Stand};
use crate::stats::{ratio, whole};

const LIMIT: Duration = Duration::from_secs(300);
const FILLING_CLIENTS: u32 = 8;

pub(crate) fn measure(stand: &Stand, effort: &Effort, section: &mut Section) -> Result<()> {
    section.text(format!(
        "The link is cut, {} single-row transactions are buffered, the link heals: transactions a second from the first \
         that main's ledger shows to the last. Yardsticks: the same statement by one client that waits for each commit, \
         over the link and on main itself, and by eight clients on main itself.",
        whole(effort.drained as f64)
    ));
    let mut table = Table::new(&[
        "round trip",
        "statement",
        "replay tps",
        "healed → first, s",
        "healed → all applied, s",
        "healed → all confirmed, s",
        "waiting over the link, tps",
        "÷ it",
        "1 client on main, tps",
        "÷ it",
        "8 clients on main, tps",
        "÷ it",
    ]);
    for round_trip in [ROUND_TRIP, Duration::ZERO] {
        for (name, script) in [("insert", INSERT.to_owned()), ("update", update(effort.items))] {
            let load =
                |clients, length| Load { script: Some(script.clone()), protocol: Protocol::Prepared, clients, length };
            let drain = drained(stand, effort, &load(FILLING_CLIENTS, Length::Seconds(0)), round_trip)?;
            stand.drain()?;
            stand.heal(round_trip)?;
            let seconds = Length::Seconds(effort.turn_s + 1);
            let waiting = stand.load_at(&load(1, seconds), &stand.site.main_link_url)?.tps;
            stand.heal(Duration::ZERO)?;
            let alone = stand.load(&load(1, seconds), Contender::Main)?.tps;
            let many = stand.load(&load(8, seconds), Contender::Main)?.tps;
            let mut row = vec![format!("{} ms", round_trip.as_millis()), name.to_owned(), whole(drain.tps)];
            row.extend([drain.first_s, drain.applied_s, drain.confirmed_s].map(|time| format!("{time:.2}")));
            row.extend([waiting, alone, many].into_iter().flat_map(|tps| [whole(tps), ratio(drain.tps, tps)]));
            table.row(row);
        }
    }
    section.table(&table);
    Ok(())
}

/// Times since the link was healed.
#[derive(Debug)]
struct Drain {
    tps: f64,
    first_s: f64,
    applied_s: f64,
    confirmed_s: f64,
}

fn drained(stand: &Stand, effort: &Effort, load: &Load, round_trip: Duration) -> Result<Drain> {
    stand.cut()?;
    let before = stand.last_seq()?;
    let length = Length::Transactions(effort.drained / u64::from(load.clients));
    let filled = stand.load(&Load { length, ..load.clone() }, Contender::Pgoutpost)?;
    let last = stand.last_seq()?;
    ensure!(last - before >= filled.transactions, "the buffer holds less than was acknowledged");
    let start = stand.ledger(&stand.main)?;
    stand.heal(round_trip)?;
    let healed = Instant::now();
    let mut first = (0.0, start);
    wait_until("the first entry to reach main", LIMIT, || {
        first = (healed.elapsed().as_secs_f64(), stand.ledger(&stand.main)?);
        Ok(first.1 > start)
    })?;
    wait_until("the last entry to reach main", LIMIT, || Ok(stand.ledger(&stand.main)? >= last))?;
    let applied_s = healed.elapsed().as_secs_f64();
    wait_until("the last entry to reach the replica", LIMIT, || Ok(stand.ledger(&stand.replica)? >= last))?;
    let confirmed_s = healed.elapsed().as_secs_f64();
    let (first_s, first_seq) = first;
    Ok(Drain { tps: (last - first_seq) as f64 / (applied_s - first_s), first_s, applied_s, confirmed_s })
}
