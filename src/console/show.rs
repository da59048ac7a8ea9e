//! What each SHOW answers.

use std::sync::Arc;
use std::time::Duration;

use super::{Reply, quarantine};
use crate::entry::{Entry, Seq};
use crate::report::Report;
use crate::sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE;
use crate::status::{Snapshot, Status};

/// Entries shown at once: enough to see what is stuck, too few to hurt.
const ENTRIES_MAX: usize = 200;

/// What can be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Topic {
    Help,
    Buffer,
    Entries,
    Quarantine(Option<Seq>),
    Conflicts,
    Lag,
    Clients,
    Stats,
    Config,
    Version,
}

impl Topic {
    pub(super) const ALL: [Topic; 10] = [
        Topic::Help,
        Topic::Buffer,
        Topic::Entries,
        Topic::Quarantine(None),
        Topic::Conflicts,
        Topic::Lag,
        Topic::Clients,
        Topic::Stats,
        Topic::Config,
        Topic::Version,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Topic::Help => "HELP",
            Topic::Buffer => "BUFFER",
            Topic::Entries => "ENTRIES",
            Topic::Quarantine(_) => "QUARANTINE",
            Topic::Conflicts => "CONFLICTS",
            Topic::Lag => "LAG",
            Topic::Clients => "CLIENTS",
            Topic::Stats => "STATS",
            Topic::Config => "CONFIG",
            Topic::Version => "VERSION",
        }
    }

    fn describe(self) -> &'static str {
        match self {
            Topic::Help => "this list",
            Topic::Buffer => "what is acknowledged here and not yet seen on the replica",
            Topic::Entries => "the oldest pending transactions",
            Topic::Quarantine(_) => "transactions that main rejected, and those that wait for them",
            Topic::Conflicts => {
                "the newest rows that main did not have as clients here saw them, and what became of them"
            }
            Topic::Lag => "how far replay and the replica are behind",
            Topic::Clients => "who is connected",
            Topic::Stats => "totals since the daemon started",
            Topic::Config => "every setting and where it came from; passwords are masked",
            Topic::Version => "version, site and uptime",
        }
    }
}

/// A row under construction: values in the order of the columns.
type Row = Vec<Option<String>>;

pub(super) async fn show(topic: Topic, status: &Status) -> Result<Reply, Report> {
    Ok(match topic {
        Topic::Help => help(),
        Topic::Buffer => buffer(&status.snapshot()),
        Topic::Entries => entries(status).await?,
        Topic::Quarantine(after) => quarantined(status, after).await?,
        Topic::Conflicts => conflicts(status).await?,
        Topic::Lag => lag(&status.snapshot()),
        Topic::Clients => clients(status),
        Topic::Stats => stats(&status.snapshot()),
        Topic::Config => config(status),
        Topic::Version => version(status),
    })
}

fn help() -> Reply {
    let row = |topic: Topic| vec![text(format!("SHOW {}", topic.name())), text(topic.describe())];
    let rows = Topic::ALL.into_iter().map(row);
    let deeds = quarantine::HELP.map(|(command, what)| vec![text(command), text(what)]);
    Reply::rows("SHOW", &["command", "shows"], rows.chain(deeds).collect())
}

fn buffer(now: &Snapshot) -> Reply {
    let columns = [
        "pending",
        "pending_bytes",
        "oldest_ms",
        "last_seq",
        "sent_seq",
        "applied_seq",
        "confirmed_seq",
        "quarantined",
        "available",
        "last_error",
    ];
    let row = vec![
        text(now.buffer.pending),
        text(now.buffer.pending_bytes),
        now.buffer.oldest_pending.map(ms),
        text(now.progress.last),
        text(now.progress.sent),
        text(now.progress.applied),
        text(now.progress.confirmed),
        text(now.buffer.quarantined),
        text(now.buffer.accepts()),
        now.buffer.error().cloned(),
    ];
    Reply::rows("SHOW", &columns, vec![row])
}

async fn entries(status: &Status) -> Result<Reply, Report> {
    let progress = status.snapshot().progress;
    let state = |seq: Seq| match seq {
        seq if seq <= progress.applied => "applied",
        seq if seq <= progress.sent => "sent",
        _ => "pending",
    };
    let row = |entry: &Arc<Entry>| {
        vec![
            text(entry.seq),
            text(state(entry.seq)),
            text(entry.uuid),
            text(&entry.role),
            text(&entry.application_name),
            text(&entry.created_at),
            text(entry.effects.len()),
            text(entry.statements.join("; ")),
        ]
    };
    let (mut rows, mut at) = (Vec::new(), progress.confirmed);
    while rows.len() < ENTRIES_MAX {
        let some = status.entries(at, ENTRIES_MAX - rows.len()).await.map_err(unreadable)?;
        let Some(last) = some.last() else { break };
        at = last.seq;
        rows.extend(some.iter().map(row));
    }
    let columns = ["seq", "state", "uuid", "role", "application_name", "created_at", "effects", "statements"];
    Ok(Reply::rows("SHOW", &columns, rows))
}

async fn quarantined(status: &Status, after: Option<Seq>) -> Result<Reply, Report> {
    let list = status.quarantine(after, ENTRIES_MAX).await.map_err(unreadable)?;
    let rows = list.into_iter().map(|rejected| {
        let of_error = |field: &str| rejected.error.get(field).and_then(|value| value.as_str()).map(str::to_owned);
        vec![
            text(rejected.seq),
            text(rejected.entry.uuid),
            text(&rejected.entry.role),
            text(&rejected.entry.created_at),
            of_error("code"),
            of_error("message"),
            of_error("advice"),
            rejected.waits_for.map(|seq| seq.to_string()),
            text(rejected.fate.as_str()),
            rejected.fate.sent_again_as().map(|seq| seq.to_string()),
            text(rejected.entry.statements.join("; ")),
        ]
    });
    let columns = [
        "seq",
        "uuid",
        "role",
        "created_at",
        "sqlstate",
        "message",
        "advice",
        "waits_for_seq",
        "state",
        "sent_again_as_seq",
        "statements",
    ];
    Ok(Reply::rows("SHOW", &columns, rows.collect()))
}

async fn conflicts(status: &Status) -> Result<Reply, Report> {
    let list = status.conflicts(ENTRIES_MAX).await.map_err(|reason| {
        Report::new(OBJECT_NOT_IN_PREREQUISITE_STATE, "the log of conflicts cannot be read from the replica")
            .detail(reason)
    })?;
    let rows = list.into_iter().map(|one| {
        vec![
            text(one.logged_at),
            text(one.seq),
            text(one.effect),
            text(one.table),
            text(one.key),
            one.old,
            one.mine,
            one.theirs,
            text(one.outcome),
            text(one.role),
        ]
    });
    let columns = ["logged_at", "seq", "effect", "table", "key", "old", "mine", "theirs", "outcome", "role"];
    Ok(Reply::rows("SHOW", &columns, rows.collect()))
}

fn lag(now: &Snapshot) -> Reply {
    let columns = [
        "link",
        "replay_state",
        "to_apply",
        "to_confirm",
        "replica",
        "replay_lsn",
        "receive_lsn",
        "lag_bytes",
        "lag_ms",
        "main_error",
        "replica_error",
        "main_system_identifier",
        "main_timeline",
        "replica_standing",
        "replica_timeline",
        "main_setbacks",
        "last_setback",
        "main_schema_version",
    ];
    let row = vec![
        text(if now.replay.link_up { "up" } else { "down" }),
        text(now.replay.state.as_str()),
        text(now.progress.last.0.saturating_sub(now.progress.applied.0)),
        text(now.progress.last.0.saturating_sub(now.progress.confirmed.0)),
        text(if now.tracker.replica_up { "up" } else { "down" }),
        now.tracker.replay_lsn.map(|lsn| lsn.to_string()),
        now.tracker.receive_lsn.map(|lsn| lsn.to_string()),
        now.tracker.lag_bytes.map(|bytes| bytes.to_string()),
        now.tracker.lag.map(ms),
        now.replay.last_error.clone(),
        now.tracker.last_error.clone(),
        now.replay.system_identifier.map(|identifier| identifier.to_string()),
        now.replay.timeline.map(|timeline| timeline.to_string()),
        text(now.tracker.standing.as_str()),
        now.tracker.timeline.map(|timeline| timeline.to_string()),
        text(now.replay.setbacks_total),
        now.replay.last_setback.clone(),
        now.replay.schema_version.map(|version| version.to_string()),
    ];
    Reply::rows("SHOW", &columns, vec![row])
}

fn clients(status: &Status) -> Reply {
    let columns = [
        "pid",
        "user",
        "database",
        "application_name",
        "address",
        "state",
        "statement",
        "connected_ms",
        "statements",
        "commits",
        "errors",
    ];
    let rows = status.clients().list().into_iter().map(|client| {
        vec![
            text(client.info.pid),
            text(client.info.user),
            text(client.info.database),
            text(client.info.application_name),
            text(client.info.address),
            text(client.state.as_str()),
            client.statement.map(|kind| kind.as_str().to_owned()),
            Some(ms(client.connected)),
            text(client.statements),
            text(client.commits),
            text(client.errors),
        ]
    });
    Reply::rows("SHOW", &columns, rows.collect())
}

fn stats(now: &Snapshot) -> Reply {
    let mut rows: Vec<Row> = [
        ("clients", now.clients as u64),
        ("connections_total", now.totals.connections),
        ("statements_total", now.totals.statements),
        ("commits_total", now.totals.commits),
        ("errors_total", now.totals.errors),
        ("replay_applied_total", now.replay.applied_total),
        ("replay_retries_total", now.replay.retries_total),
        ("replay_rejected_total", now.replay.rejected_total),
        ("conflicts_total", now.replay.conflicts_total),
    ]
    .map(|(name, value)| vec![text(name), text(value)])
    .to_vec();
    rows.push(vec![text("replay_per_second"), text(format!("{:.1}", now.replay.rate))]);
    for ((table, outcome), count) in &now.replay.conflicts {
        rows.push(vec![text(format!("conflicts {table} {}", outcome.as_str())), text(count)]);
    }
    for lease in &now.leases {
        rows.push(vec![text(format!("lease_remaining {}", lease.sequence)), text(lease.remaining)]);
    }
    Reply::rows("SHOW", &["name", "value"], rows)
}

fn config(status: &Status) -> Reply {
    let settings = status.about().settings.iter();
    let rows = settings.map(|setting| vec![text(&setting.key), text(&setting.value), text(&setting.origin)]);
    Reply::rows("SHOW", &["key", "value", "origin"], rows.collect())
}

fn version(status: &Status) -> Reply {
    let about = status.about();
    let row = vec![
        text(format!("pgoutpost {}", about.version)),
        text(&about.site),
        text(about.kind.as_str()),
        text(&about.database),
        Some(ms(status.snapshot().uptime)),
        text(&about.config_digest),
    ];
    Reply::rows("SHOW", &["version", "site", "type", "database", "uptime_ms", "config_digest"], vec![row])
}

#[expect(clippy::needless_pass_by_value, reason = "cells are written by the dozen, without borrowing each")]
fn text(value: impl ToString) -> Option<String> {
    Some(value.to_string())
}

fn ms(duration: Duration) -> String {
    duration.as_millis().to_string()
}

fn unreadable(reason: String) -> Report {
    Report::new(OBJECT_NOT_IN_PREREQUISITE_STATE, "the buffer cannot be read").detail(reason)
}
