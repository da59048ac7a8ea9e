//! Replay: how fast a buffer that filled while the link was down reaches main, over links of any length.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::commits::{INSERT, update};
use crate::effort::Effort;
use crate::load::{Length, Load, Protocol};
use crate::process::wait_until;
use crate::report::{Section, Table};
use crate::stand::{Contender, Stand};
use crate::stats::{median, ratio, whole};

const LIMIT: Duration = Duration::from_secs(300);
const FILLING_CLIENTS: u32 = 16;
const ROUND_TRIPS_MS: [u64; 4] = [0, 50, 150, 600];
/// Entries that replay meets which sends one at a time; without a delay it is through with them.
const ALONE_ENTRIES: u64 = 2_000;

pub(crate) fn measure(stand: &mut Stand, effort: &Effort, section: &mut Section) -> Result<()> {
    section.text(format!(
        "The link is cut, {} transactions of one row (of ten rows: {}) are buffered by {FILLING_CLIENTS} clients, the link heals: \
         transactions a second from the first that main's ledger shows to the last, and the time before that. Yardsticks: \
         the same replay with `[replay] group = 1, window = 1`; the same statement by pgbench writing on main over the \
         same link, each client waiting for its commits; and on main itself, without the link.",
        whole(effort.drained as f64),
        whole(effort.drained as f64 / 4.0),
    ));
    let mut rates = Table::new(&[
        "round trip",
        "transaction",
        "replay tps",
        "one at a time, tps",
        "÷ it",
        "pgbench over the link, 1 client, tps",
        "÷ it",
        "8 clients, tps",
        "÷ it",
        "8 clients on main, tps",
        "÷ it",
    ]);
    let mut times = Table::new(&[
        "round trip",
        "transaction",
        "healed → first applied, s",
        "÷ round trip",
        "first → all applied, s",
        "all applied → all confirmed, s",
    ]);
    for round_trip_ms in ROUND_TRIPS_MS {
        let round_trip = Duration::from_millis(round_trip_ms);
        for (name, script, rows) in statements(effort.items) {
            let load = |clients, length| Load {
                script: Some(script.clone()),
                protocol: Protocol::Prepared,
                clients,
                length,
                rate: None,
            };
            let entries = if rows > 1 { effort.drained / 4 } else { effort.drained };
            let mut drains = Vec::new();
            for _ in 0..effort.rounds {
                drains.push(drained(stand, entries, &load(FILLING_CLIENTS, Length::Seconds(0)), round_trip)?);
                stand.drain()?;
            }
            let drain = Drain::medians(&drains);
            let alone = one_at_a_time(stand, effort, &load(FILLING_CLIENTS, Length::Seconds(0)), round_trip)?;
            stand.heal(round_trip)?;
            // pgbench must get as far as some commits.
            let seconds = Length::Seconds(effort.turn_s + 2 + u32::try_from(round_trip_ms / 75)?);
            let waiting = stand.load_at(&load(1, seconds), &stand.site.main_link_url)?.tps;
            let eight = stand.load_at(&load(8, seconds), &stand.site.main_link_url)?.tps;
            stand.heal(Duration::ZERO)?;
            let many = stand.load(&load(8, seconds), Contender::Main)?.tps;
            let label = || [format!("{round_trip_ms} ms"), name.to_owned()];
            let yardsticks = [alone, waiting, eight, many].into_iter();
            let compared = yardsticks.flat_map(|tps| [whole(tps), ratio(drain.tps, tps)]);
            rates.row(label().into_iter().chain([whole(drain.tps)]).chain(compared));
            let trips = ratio(drain.first_s, round_trip.as_secs_f64());
            let later = [drain.applied_s - drain.first_s, drain.confirmed_s - drain.applied_s];
            let later = later.into_iter().map(|time| format!("{time:.2}"));
            times.row(label().into_iter().chain([format!("{:.2}", drain.first_s), trips]).chain(later));
        }
    }
    section.table(&rates);
    section.table(&times);
    Ok(())
}

/// Names, scripts, and the rows of a transaction.
fn statements(items: u64) -> [(&'static str, String, u32); 4] {
    let ten_inserted = "\\set sensor random(1, 1000)\n\\set value random(1, 1000000) / 1000.0\n\
         INSERT INTO reading (sensor, value) SELECT :sensor, :value + n::float8 FROM generate_series(1, 10) AS n;\n";
    [
        ("insert of a row", INSERT.to_owned(), 1),
        ("update of a row", update(items), 1),
        ("insert of ten rows", ten_inserted.to_owned(), 10),
        ("update of ten rows", ten_updated(items), 10),
    ]
}

/// Updates ten rows, found by their keys.
pub(crate) fn ten_updated(items: u64) -> String {
    let ids = (1..=10).map(|n| format!("\\set n{n} 2 * random(1, {items})\n")).collect::<String>();
    let list = (1..=10).map(|n| format!(":n{n}")).collect::<Vec<_>>().join(", ");
    format!("{ids}\\set value random(1, 1000000) / 1000.0\nUPDATE item SET value = :value WHERE id IN ({list});\n")
}

/// Times since the link was healed.
#[derive(Debug)]
struct Drain {
    tps: f64,
    first_s: f64,
    applied_s: f64,
    confirmed_s: f64,
}

impl Drain {
    fn medians(of: &[Drain]) -> Drain {
        let middle = |figure: fn(&Drain) -> f64| median(of.iter().map(figure));
        Drain {
            tps: middle(|drain| drain.tps),
            first_s: middle(|drain| drain.first_s),
            applied_s: middle(|drain| drain.applied_s),
            confirmed_s: middle(|drain| drain.confirmed_s),
        }
    }
}

/// Cuts the link and buffers transactions; returns the last of them.
fn filled(stand: &Stand, entries: u64, load: &Load) -> Result<u64> {
    stand.cut()?;
    let before = stand.last_seq()?;
    let length = Length::Transactions((entries / u64::from(load.clients)).max(1));
    let filled = stand.load(&Load { length, ..load.clone() }, Contender::Pgoutpost)?;
    let last = stand.last_seq()?;
    ensure!(last - before >= filled.transactions, "the buffer holds less than was acknowledged");
    Ok(last)
}

fn drained(stand: &Stand, entries: u64, load: &Load, round_trip: Duration) -> Result<Drain> {
    let last = filled(stand, entries, load)?;
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

/// The rate of a replay that sends a transaction, waits for it, and sends the next.
fn one_at_a_time(stand: &mut Stand, effort: &Effort, load: &Load, round_trip: Duration) -> Result<f64> {
    let last = filled(stand, ALONE_ENTRIES, load)?;
    stand.restart_with(&[("REPLAY__GROUP", "1"), ("REPLAY__WINDOW", "1")])?;
    let start = stand.ledger(&stand.main)?;
    stand.heal(round_trip)?;
    let ledger = || stand.ledger(&stand.main);
    wait_until("the first entry to reach main", LIMIT, || Ok(ledger()? > start))?;
    let (from, begun) = (ledger()?, Instant::now());
    while ledger()? < last && begun.elapsed() < Duration::from_secs(u64::from(effort.alone_s)) {
        std::thread::sleep(Duration::from_millis(5));
    }
    let tps = (ledger()? - from) as f64 / begun.elapsed().as_secs_f64();
    stand.cut()?;
    stand.restart_with(&[("REPLAY__GROUP", "256"), ("REPLAY__WINDOW", "64")])?;
    stand.drain()?;
    Ok(tps)
}
