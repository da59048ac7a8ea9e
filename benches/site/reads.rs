//! Untouched reads: `pgbench -S` through us, through PgBouncer, and without anybody between.

use anyhow::Result;

use crate::effort::Effort;
use crate::load::{Length, Load, Protocol};
use crate::process::cpu_us;
use crate::report::{Section, Table};
use crate::stand::{Contender, Stand};
use crate::stats::{median, ratio, whole};

const CONTENDERS: [Contender; 3] = [Contender::Replica, Contender::PgBouncer, Contender::Pgoutpost];

pub(crate) fn measure(stand: &Stand, effort: &Effort, section: &mut Section) -> Result<()> {
    section.text(
        "`pgbench -S` on the replica, nothing pending: transactions a second, without anybody between, through \
         PgBouncer (session pooling) and through pgoutpost; then the proxy's own processor time for a transaction.",
    );
    let mut table = Table::new(&[
        "protocol",
        "clients",
        "direct tps",
        "PgBouncer tps",
        "pgoutpost tps",
        "PgBouncer ÷ direct",
        "pgoutpost ÷ direct",
        "pgoutpost ÷ PgBouncer",
        "PgBouncer CPU µs",
        "pgoutpost CPU µs",
    ]);
    for protocol in Protocol::ALL {
        for &clients in effort.clients {
            let load = Load { script: None, protocol, clients, length: Length::Seconds(effort.turn_s), rate: None };
            let [direct, bouncer, outpost] = cell(stand, &load, effort.rounds)?;
            table.row([
                protocol.to_string(),
                clients.to_string(),
                whole(direct.tps),
                whole(bouncer.tps),
                whole(outpost.tps),
                ratio(bouncer.tps, direct.tps),
                ratio(outpost.tps, direct.tps),
                ratio(outpost.tps, bouncer.tps),
                whole(bouncer.cpu_us),
                whole(outpost.cpu_us),
            ]);
        }
    }
    section.table(&table);
    Ok(())
}

/// One contender's medians.
#[derive(Debug, Clone, Copy)]
struct Figures {
    tps: f64,
    cpu_us: f64,
}

fn cell(stand: &Stand, load: &Load, rounds: usize) -> Result<[Figures; 3]> {
    let mut turns: [Vec<Figures>; 3] = Default::default();
    for round in 0..rounds {
        for turn in 0..CONTENDERS.len() {
            // Nobody always goes first.
            let place = (round + turn) % CONTENDERS.len();
            turns[place].push(turn_of(stand, load, CONTENDERS[place])?);
        }
    }
    Ok(turns.map(|turns| Figures {
        tps: median(turns.iter().map(|turn| turn.tps)),
        cpu_us: median(turns.iter().map(|turn| turn.cpu_us)),
    }))
}

fn turn_of(stand: &Stand, load: &Load, contender: Contender) -> Result<Figures> {
    let pid = stand.pid(contender);
    let before = pid.map(cpu_us).transpose()?;
    let outcome = stand.load(load, contender)?;
    let after = pid.map(cpu_us).transpose()?;
    let spent = before.zip(after).map_or(f64::NAN, |(before, after)| after - before);
    Ok(Figures { tps: outcome.tps, cpu_us: spent / outcome.transactions as f64 })
}
