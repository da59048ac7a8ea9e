//! Buffered single-row commits, with the link down and at 150 ms round trip, against durable commits on main.

use std::time::Duration;

use anyhow::Result;

use crate::effort::Effort;
use crate::load::{Length, Load, Outcome, Protocol};
use crate::report::{Section, Table};
use crate::stand::{Contender, Stand};
use crate::stats::{median, ms, ratio, whole};

/// The link at its usual worst.
pub(crate) const ROUND_TRIP: Duration = Duration::from_millis(150);

/// Inserts one row; main makes its key.
pub(crate) const INSERT: &str = "\
\\set sensor random(1, 1000)
\\set value random(1, 1000000) / 1000.0
INSERT INTO reading (sensor, value) VALUES (:sensor, :value);
";

/// Updates one row, found by its key.
pub(crate) fn update(items: u64) -> String {
    format!(
        "\\set n random(1, {items})\n\\set id 2 * :n\n\\set value random(1, 1000000) / 1000.0\n\
         UPDATE item SET value = :value WHERE id = :id;\n"
    )
}

pub(crate) fn measure(stand: &Stand, effort: &Effort, section: &mut Section) -> Result<()> {
    section.text(
        "Single-row transactions in autocommit (`pgbench -M prepared`). Yardstick: durable commits on main itself, on \
         the same disk and without the link. In the last columns the link has a round trip of 150 ms and replay goes \
         on meanwhile, on the same cores.",
    );
    let mut table = Table::new(&[
        "statement",
        "clients",
        "main tps",
        "p50 ms",
        "p99 ms",
        "link down: tps",
        "p50 ms",
        "p99 ms",
        "÷ main, tps",
        "150 ms: tps",
        "p50 ms",
        "p99 ms",
        "÷ main, tps",
    ]);
    for (name, script) in [("insert", INSERT.to_owned()), ("update", update(effort.items))] {
        for &clients in effort.clients {
            let length = Length::Seconds(effort.turn_s);
            let load = Load { script: Some(script.clone()), protocol: Protocol::Prepared, clients, length, rate: None };
            let [main, down, slow] = cell(stand, &load, effort.rounds)?;
            let figures = |of: &Medians| [whole(of.tps), ms(of.p50_ms), ms(of.p99_ms)];
            let mut row = vec![name.to_owned(), clients.to_string()];
            row.extend(figures(&main));
            for of in [&down, &slow] {
                row.extend(figures(of));
                row.push(ratio(of.tps, main.tps));
            }
            table.row(row);
        }
    }
    section.table(&table);
    section.text("What the buffer's Redis takes of that: XADD of 600 bytes with fsync, by `redis-benchmark`.");
    let mut table = Table::new(&["clients", "XADD/s", "p50 ms"]);
    for &clients in effort.clients {
        let (rate, p50_ms) = stand.redis_floor(clients)?;
        table.row([clients.to_string(), whole(rate), ms(p50_ms)]);
    }
    section.table(&table);
    Ok(())
}

/// One contender's medians over its turns.
#[derive(Debug)]
pub(crate) struct Medians {
    pub(crate) tps: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
}

pub(crate) fn medians(turns: &[Outcome]) -> Medians {
    let of = |figure: fn(&Outcome) -> f64| median(turns.iter().map(figure));
    Medians { tps: of(|turn| turn.tps), p50_ms: of(|turn| turn.p50_ms), p99_ms: of(|turn| turn.p99_ms) }
}

fn cell(stand: &Stand, load: &Load, rounds: usize) -> Result<[Medians; 3]> {
    let mut turns: [Vec<Outcome>; 3] = Default::default();
    for _ in 0..rounds {
        stand.cut()?;
        turns[0].push(stand.load(load, Contender::Main)?);
        turns[1].push(stand.load(load, Contender::Pgoutpost)?);
        // What piled up is drained first: the next turn is about the link, not about a backlog.
        stand.drain()?;
        stand.heal(ROUND_TRIP)?;
        turns[2].push(stand.load(load, Contender::Pgoutpost)?);
        stand.drain()?;
    }
    Ok(turns.map(|turns| medians(&turns)))
}
