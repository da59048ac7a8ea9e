//! Holds the buffer, main's ledger, the replica's ledger, quarantine and leases against each other. Changes nothing, and
//! may run beside the daemon: what follows is looked at before what it follows.

use std::collections::BTreeSet;

use tokio_postgres::{Client, Config};
use uuid::Uuid;

use super::Finding;
use crate::buffer::log::{Log, READ_BYTES};
use crate::buffer::{LeaseBlock, LeaseRange, LogError, Pages, Quarantined};
use crate::catalog::SequenceId;
use crate::entry::Seq;
use crate::upstream::own;

/// One site's row in a ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ledger {
    seq: Seq,
    entry: Option<Uuid>,
}

/// What the buffer holds.
#[derive(Debug, Default)]
struct Entries {
    first: Option<Seq>,
    last: Seq,
    /// Consecutive numbers that are not there.
    gaps: Vec<(Seq, Seq)>,
}

/// Looks at everything. A server that cannot be reached is a warning.
pub async fn run(main: &Config, replica: &Config, site: &str, log: &dyn Log) -> Vec<Finding> {
    let mut findings = Vec::new();
    // From the end of the way to its beginning, so that what moves meanwhile does not look wrong.
    let on_replica = ask(replica, site, "replica", &mut findings).await;
    let on_main = ask(main, site, "main", &mut findings).await;
    let aside = log.quarantine_index().await;
    let leases = log.leases().await;
    let entries = match walk(log, &mut findings).await {
        Ok(entries) => entries,
        Err(error) => {
            let mend = "Restore the buffer from a copy that is as new as main's ledger.";
            findings.push(Finding::fail("entries can be read", error.to_string(), mend));
            return findings;
        }
    };
    if let Some((_, ledger)) = &on_main {
        findings.extend(against("main", *ledger, &entries));
        findings.push(same_entry("main", *ledger, log).await);
    }
    if let Some((_, ledger)) = &on_replica {
        findings.extend(against("the replica", *ledger, &entries));
        findings.push(same_entry("the replica", *ledger, log).await);
        gaps(&entries, ledger.seq, &mut findings);
    }
    if let (Some((_, main)), Some((_, replica))) = (&on_main, &on_replica) {
        findings.push(order(*main, *replica));
    }
    match aside {
        Ok(index) => {
            let all = index.into_iter().map(|(seq, _)| seq).collect();
            if let Err(error) = quarantine(log, &all, entries.last, &mut findings).await {
                findings.push(Finding::fail("quarantine", error.to_string(), RESTORE));
            }
        }
        Err(error) => findings.push(Finding::fail("quarantine", error.to_string(), RESTORE)),
    }
    match leases {
        Ok(all) => {
            for (sequence, block) in &all {
                let client = on_main.as_ref().map(|(client, _)| client);
                findings.push(lease(client, sequence, block).await);
            }
        }
        Err(error) => findings.push(Finding::fail("leases", error.to_string(), RESTORE)),
    }
    findings
}

const RESTORE: &str = "Restore the buffer from a copy.";

/// The site's row in the ledger, and the connection it came by.
async fn ask(config: &Config, site: &str, what: &'static str, findings: &mut Vec<Finding>) -> Option<(Client, Ledger)> {
    let asked = async {
        let client = own::connect(config).await?;
        let row = client.query_opt("SELECT seq, entry FROM pgoutpost.ledger WHERE site = $1", &[&site]).await?;
        let ledger = row.map(|row| Ok::<_, own::Error>((row.try_get::<_, i64>(0)?, row.try_get(1)?))).transpose()?;
        Ok::<_, own::Error>((client, ledger))
    };
    let what = if what == "main" { "ledger on main" } else { "ledger on the replica" };
    match asked.await {
        Ok((client, Some((seq, entry)))) => Some((client, Ledger { seq: Seq(seq.max(0) as u64), entry })),
        Ok((_, None)) => {
            let mend = "Run `pgoutpost setup`, and wait for replication.";
            findings.push(Finding::fail(what, format!("it has no row of site \"{site}\""), mend));
            None
        }
        Err(own::Error::Connection(why)) => {
            findings.push(Finding::warn(what, format!("not looked at: {why}"), "Run it again when it is back."));
            None
        }
        Err(error @ (own::Error::Server(_) | own::Error::Unexpected(_))) => {
            findings.push(Finding::fail(what, error.to_string(), "Run `pgoutpost check`."));
            None
        }
    }
}

/// Reads every entry: checksums, form and numbers.
async fn walk(log: &dyn Log, findings: &mut Vec<Finding>) -> Result<Entries, LogError> {
    let (mut entries, mut count) = (Entries::default(), 0_u64);
    loop {
        let window = log.window(entries.last).await?;
        if window.is_empty() {
            break;
        }
        for record in &window {
            let seq = record.seq();
            if entries.first.is_some() && seq != entries.last.next() {
                entries.gaps.push((entries.last.next(), Seq(seq.0 - 1)));
            }
            entries.first.get_or_insert(seq);
            entries.last = seq;
            count += 1;
        }
    }
    let detail = entries.first.map_or("none".to_owned(), |first| format!("{count}, {first} to {}", entries.last));
    findings.push(Finding::ok("entries can be read", detail));
    Ok(entries)
}

/// Numbers that are missing, and who would need them.
fn gaps(entries: &Entries, confirmed: Seq, findings: &mut Vec<Finding>) {
    for (first, last) in &entries.gaps {
        let detail = format!("{first} to {last} are missing between others");
        findings.push(if *last <= confirmed {
            Finding::warn(
                "entries are complete",
                detail,
                "The replica has them; nobody needs them but after a failover.",
            )
        } else {
            Finding::fail("entries are complete", detail, RESTORE)
        });
    }
    if entries.gaps.is_empty() {
        findings.push(Finding::ok("entries are complete", "no gap"));
    }
}

/// A ledger must not be ahead of the buffer, and what follows it must be there.
fn against(server: &'static str, ledger: Ledger, entries: &Entries) -> Vec<Finding> {
    let what = if server == "main" { "buffer and main" } else { "buffer and replica" };
    let at = ledger.seq;
    let Some(first) = entries.first else {
        // An empty log may have dropped all it had: its numbers go on after the ledger.
        return vec![Finding::ok(what, format!("{server} is at {at}, nothing is kept"))];
    };
    vec![if at > entries.last {
        let detail = format!("{server} has entries up to {at}, the buffer ends at {}", entries.last);
        let mend = "Two daemons use this site's name, or the buffer is an older copy: restore the right one.";
        Finding::fail(what, detail, mend)
    } else if at < entries.last && first > at.next() {
        let detail = format!("{server} is at {at}, the buffer begins with {first}");
        Finding::fail(what, detail, "What lies between was dropped: mend that server by hand, or restore the buffer.")
    } else {
        Finding::ok(what, format!("{server} is at {at}, the buffer at {}", entries.last))
    }]
}

/// The entry at a ledger's place must be the one that the ledger names.
async fn same_entry(server: &'static str, ledger: Ledger, log: &dyn Log) -> Finding {
    let what = if server == "main" { "same entry on main" } else { "same entry on the replica" };
    let Some(theirs) = ledger.entry.filter(|_| ledger.seq > Seq::ZERO) else {
        return Finding::ok(what, "the ledger names none");
    };
    match entry_at(log, ledger.seq).await {
        Ok(Some(ours)) if ours == theirs => Finding::ok(what, format!("{} is {theirs}", ledger.seq)),
        Ok(Some(ours)) => {
            let detail = format!("{} is {theirs} on {server}, {ours} in the buffer", ledger.seq);
            Finding::fail(what, detail, "Two daemons wrote under this site's name: stop one, and compare their writes.")
        }
        Ok(None) => Finding::ok(what, format!("{} is not kept any more", ledger.seq)),
        Err(error) => Finding::fail(what, error.to_string(), RESTORE),
    }
}

async fn entry_at(log: &dyn Log, seq: Seq) -> Result<Option<Uuid>, LogError> {
    let there = log.read(Seq(seq.0.saturating_sub(1)), 1, READ_BYTES).await?.pop();
    Ok(there.filter(|record| record.seq() == seq).map(|record| record.entry.uuid))
}

fn order(main: Ledger, replica: Ledger) -> Finding {
    let what = "main and replica";
    if replica.seq > main.seq {
        let detail = format!("the replica is at {}, main only at {}", replica.seq, main.seq);
        Finding::fail(what, detail, "Main was restored to an older state, or the replica follows another main.")
    } else if replica.seq == main.seq && replica.entry != main.entry {
        Finding::fail(what, format!("both are at {}, with different entries", main.seq), "They are not one pair.")
    } else {
        Finding::ok(what, format!("the replica is at {}, main at {}", replica.seq, main.seq))
    }
}

async fn quarantine(
    log: &dyn Log,
    all: &BTreeSet<Seq>,
    last: Seq,
    findings: &mut Vec<Finding>,
) -> Result<(), LogError> {
    let what = "quarantine";
    let mut pages = Pages::of(log, all.iter().copied()).await?;
    while let Some(page) = pages.next(log).await? {
        for one in &page {
            if let Some(detail) = complaint(log, one, all, last).await {
                findings.push(Finding::fail(what, detail, "Look at the entry, and restore the buffer or take it off."));
            }
        }
    }
    findings.push(Finding::ok(what, format!("{} entries", all.len())));
    Ok(())
}

async fn complaint(log: &dyn Log, one: &Quarantined, all: &BTreeSet<Seq>, last: Seq) -> Option<String> {
    if one.seq > last && last > Seq::ZERO {
        Some(format!("entry {} is in quarantine, but the buffer ends at {last}", one.seq))
    } else if one.entry.seq != one.seq {
        Some(format!("entry {} in quarantine says it is entry {}", one.seq, one.entry.seq))
    } else if matches!(entry_at(log, one.seq).await, Ok(Some(uuid)) if uuid != one.entry.uuid) {
        Some(format!("entry {} in quarantine is not the one in the buffer", one.seq))
    } else {
        let waits = one.waits_for.filter(|other| one.fate.is_open() && !all.contains(other));
        waits.map(|other| format!("entry {} waits for {other}, which is not in quarantine", one.seq))
    }
}

/// A sequence as main has it.
struct Drawn {
    last: Option<i64>,
    increment: i64,
    id: SequenceId,
    cycles: bool,
}

/// Leased values must not overlap, and main must not give them out again.
async fn lease(main: Option<&Client>, sequence: &str, block: &LeaseBlock) -> Finding {
    let what = "lease";
    let Some(main) = main else {
        let twice = twice(&block.ranges).map(|twice| format!(", and {twice}, unless it cycles")).unwrap_or_default();
        return Finding::warn(what, format!("{sequence}: not held against main{twice}"), "");
    };
    let query =
        "SELECT pg_sequence_last_value(seqrelid), seqincrement, seqrelid, pg_relation_filenode(seqrelid), seqcycle
        FROM pg_sequence WHERE seqrelid = to_regclass($1)";
    let read = |row: tokio_postgres::Row| {
        let id = SequenceId { oid: row.try_get(2)?, file: row.try_get(3)? };
        Ok(Drawn { last: row.try_get(0)?, increment: row.try_get(1)?, id, cycles: row.try_get(4)? })
    };
    match main.query_opt(query, &[&sequence]).await.and_then(|row| row.map(read).transpose()) {
        Err(error) => Finding::warn(what, format!("{sequence}: {error}"), "The main user must be allowed to see it."),
        Ok(None) => Finding::warn(what, format!("{sequence}: main has no such sequence"), "It was dropped or renamed."),
        Ok(Some(drawn)) => leased(sequence, block, &drawn),
    }
}

fn leased(sequence: &str, block: &LeaseBlock, drawn: &Drawn) -> Finding {
    let what = "lease";
    let mend = "Stop the daemon and remove the lease, or move main's sequence on with setval.";
    if block.of.is_some_and(|of| of != drawn.id) {
        let detail = format!("{sequence}: leased before it was made anew or restarted on main");
        return Finding::warn(what, detail, "The daemon gives it up when it has that definition, too.");
    }
    // One that has gone round gives values again, and has still to come to those that are leased.
    if !drawn.cycles {
        if let Some(twice) = twice(&block.ranges) {
            return Finding::fail(what, format!("{sequence}: {twice}"), mend);
        }
        if let Some(range) = block.ranges.iter().find(|range| ahead(range, drawn.last, drawn.increment)) {
            let at = drawn.last.map_or("its start".to_owned(), |last| last.to_string());
            let end = end_of(range);
            let detail = format!("{sequence}: leased up to {end}, main's sequence is at {at} and gives them out again");
            return Finding::fail(what, detail, mend);
        }
    }
    Finding::ok(what, format!("{sequence}: {} values", block.ranges.iter().map(|it| it.count).sum::<u64>()))
}

fn end_of(range: &LeaseRange) -> i128 {
    i128::from(range.start) + i128::from(range.increment) * i128::from(range.count.saturating_sub(1))
}

/// Whether the sequence has still to come to values of this range.
fn ahead(range: &LeaseRange, last: Option<i64>, increment: i64) -> bool {
    if range.count == 0 {
        return false;
    }
    let Some(last) = last.map(i128::from) else { return true };
    let furthest =
        if increment > 0 { end_of(range).max(range.start.into()) } else { end_of(range).min(range.start.into()) };
    if increment > 0 { furthest > last } else { furthest < last }
}

/// Which values a sequence that does not cycle gives twice.
fn twice(ranges: &[LeaseRange]) -> Option<String> {
    let span = |range: &LeaseRange| {
        let (start, end) = (i128::from(range.start), end_of(range));
        (start.min(end), start.max(end))
    };
    let mut spans: Vec<(i128, i128)> = ranges.iter().filter(|range| range.count > 0).map(span).collect();
    spans.sort_unstable();
    let pair = spans.windows(2).find(|pair| pair[1].0 <= pair[0].1)?;
    let text = |(start, end): (i128, i128)| format!("{start} to {end}");
    Some(format!("{} and {} are leased twice", text(pair[0]), text(pair[1])))
}

#[cfg(test)]
mod tests;
