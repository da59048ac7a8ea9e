//! Merged reads: point, range and aggregate queries over a table with pending rows, against the bare replica.

use anyhow::{Result, ensure};

use crate::effort::Effort;
use crate::load::{Length, Load, Protocol};
use crate::report::{Section, Table};
use crate::stand::{Contender, Stand};
use crate::stats::{median, ms, ratio, whole};

const FILLING_CLIENTS: u64 = 8;

/// What is pending while the queries run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pending {
    Nothing,
    Inserted(u64),
    Patched(u64),
    /// Half of each.
    Mixed(u64),
}

impl Pending {
    fn label(self) -> String {
        match self {
            Pending::Nothing => "0".to_owned(),
            Pending::Inserted(rows) => format!("{} inserted", whole(rows as f64)),
            Pending::Patched(rows) => format!("{} patched", whole(rows as f64)),
            Pending::Mixed(rows) => format!("{} of both", whole(rows as f64)),
        }
    }

    fn inserted(self) -> u64 {
        match self {
            Pending::Nothing | Pending::Patched(_) => 0,
            Pending::Inserted(rows) => rows,
            Pending::Mixed(rows) => rows / 2,
        }
    }

    fn patched(self) -> u64 {
        match self {
            Pending::Nothing | Pending::Inserted(_) => 0,
            Pending::Patched(rows) => rows,
            Pending::Mixed(rows) => rows - rows / 2,
        }
    }
}

/// Which ids a state's pending rows have: every `stride`th, from `offset` on, inserted ones odd and patched ones even.
/// Each state has an offset of its own, since the rows of the states before are in main by then.
#[derive(Debug, Clone, Copy)]
struct Ids {
    stride: u64,
    offset: u64,
}

pub(crate) fn measure(stand: &Stand, effort: &Effort, section: &mut Section) -> Result<()> {
    section.text(format!(
        "Table `item` with {} rows; the link is cut, so that what is pending stays. Single-row transactions made it, \
         spread evenly over the table. One client, `pgbench -M prepared`: median milliseconds on the replica alone \
         (which does not show the pending rows) and through pgoutpost.",
        whole(effort.items as f64)
    ));
    let mut table = Table::new(&["pending", "query", "replica ms", "pgoutpost ms", "÷ replica"]);
    let mut states = vec![Pending::Nothing];
    for &rows in effort.pending {
        states.extend([Pending::Inserted(rows), Pending::Patched(rows), Pending::Mixed(rows)]);
    }
    for (number, &state) in states.iter().enumerate() {
        let rows = (state.inserted() + state.patched()).max(1);
        let ids = Ids { stride: effort.items / rows, offset: number as u64 + 1 };
        stand.cut()?;
        make(stand, state, ids)?;
        answers_agree(stand, state)?;
        for (name, script) in queries(effort, state, ids) {
            let length = Length::Seconds(effort.turn_s.div_ceil(2));
            let load = Load { script: Some(script), protocol: Protocol::Prepared, clients: 1, length, rate: None };
            let (replica_ms, outpost_ms) = cell(stand, &load, effort.rounds)?;
            table.row([state.label(), name.to_owned(), ms(replica_ms), ms(outpost_ms), ratio(outpost_ms, replica_ms)]);
        }
        stand.drain()?;
    }
    section.table(&table);
    Ok(())
}

/// Makes the pending rows through us, as clients do: one transaction each.
fn make(stand: &Stand, state: Pending, ids: Ids) -> Result<()> {
    let Ids { stride, offset } = ids;
    for (rows, odd) in [(state.inserted(), 1), (state.patched(), 0)] {
        if rows == 0 {
            continue;
        }
        let clients = FILLING_CLIENTS.min(rows);
        let share = rows / clients;
        let key =
            format!("\\set k :k + 1\n\\set id 2 * ({stride} * (:client_id * {share} + :k - 1) + {offset}) + {odd}\n");
        let statement = if odd == 1 {
            "INSERT INTO item VALUES (:id, now(), :id % 1000, :id / 7.0, 'new');\n"
        } else {
            "UPDATE item SET value = -value WHERE id = :id;\n"
        };
        let length = Length::Transactions(share);
        let script = Some(key + statement);
        let load = Load { script, protocol: Protocol::Prepared, clients: u32::try_from(clients)?, length, rate: None };
        stand.load(&load, Contender::Pgoutpost)?;
    }
    Ok(())
}

/// A wrong answer's speed is no figure.
fn answers_agree(stand: &Stand, state: Pending) -> Result<()> {
    let ours = stand.connect(Contender::Pgoutpost)?;
    let count = "SELECT count(*) FROM item";
    let (through, alone) = (ours.number(count)?, stand.replica.number(count)?);
    // Each client makes the same number of rows, so a few may be missing from the round number.
    let inserted = state.inserted() - state.inserted() % FILLING_CLIENTS.min(state.inserted().max(1));
    ensure!(through == alone + inserted, "{through} rows through pgoutpost, {alone} + {inserted} expected");
    Ok(())
}

fn queries(effort: &Effort, state: Pending, ids: Ids) -> Vec<(&'static str, String)> {
    let items = effort.items;
    let any = format!("\\set n random(1, {items} - 100)\n\\set id 2 * :n\n");
    let mut queries = vec![("point, any key", format!("{any}SELECT * FROM item WHERE id = :id;\n"))];
    let rows = state.inserted().max(state.patched());
    if rows > 0 {
        let Ids { stride, offset } = ids;
        let odd = u8::from(state.patched() == 0);
        let share = rows - rows % FILLING_CLIENTS;
        queries.push((
            "point, pending key",
            format!(
                "\\set k random(0, {share} - 1)\n\\set id 2 * ({stride} * :k + {offset}) + {odd}\n\
                 SELECT * FROM item WHERE id = :id;\n"
            ),
        ));
    }
    queries.extend([
        ("range of 100 keys", format!("{any}SELECT * FROM item WHERE id BETWEEN :id AND :id + 198;\n")),
        ("newest 20", "SELECT id, at, value FROM item ORDER BY at DESC LIMIT 20;\n".to_owned()),
        (
            "aggregate of 1 in 1,000",
            "\\set kind random(0, 999)\nSELECT count(*), avg(value) FROM item WHERE kind = :kind;\n".to_owned(),
        ),
        ("aggregate of all", "SELECT count(*), sum(value) FROM item;\n".to_owned()),
    ]);
    queries
}

/// Median latencies on the replica and through us, in milliseconds.
fn cell(stand: &Stand, load: &Load, rounds: usize) -> Result<(f64, f64)> {
    let (mut replica, mut outpost) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        replica.push(stand.load(load, Contender::Replica)?.p50_ms);
        outpost.push(stand.load(load, Contender::Pgoutpost)?.p50_ms);
    }
    Ok((median(replica), median(outpost)))
}
