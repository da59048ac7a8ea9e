//! What replay tells about itself.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::entry::Seq;
use crate::lsn::Lsn;

/// What replay is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ReplayState {
    #[default]
    Connecting,
    /// Connected, nothing to do.
    Idle,
    Replaying,
    /// Main is away or said no; waits before it tries again.
    Waiting,
    /// Somebody must act: `last_error` says what about.
    Halted,
    Stopped,
}

impl ReplayState {
    /// As console, metrics and HTTP say it.
    pub fn as_str(self) -> &'static str {
        match self {
            ReplayState::Connecting => "connecting",
            ReplayState::Idle => "idle",
            ReplayState::Replaying => "replaying",
            ReplayState::Waiting => "waiting",
            ReplayState::Halted => "halted",
            ReplayState::Stopped => "stopped",
        }
    }
}

/// What became of a row that was not on main as the client's statement saw it (`pgoutpost.conflict.outcome` there).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The site's values were written over main's.
    Overwritten,
    /// Main's row stayed.
    Kept,
    /// Main has no such row, or the role does not see it: passed over.
    Gone,
    /// A trigger on main kept the row from changing.
    Suppressed,
    /// The entry is in quarantine.
    Quarantined,
}

impl Outcome {
    /// As console, metrics and the log say it.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Overwritten => "overwritten",
            Outcome::Kept => "kept",
            Outcome::Gone => "gone",
            Outcome::Suppressed => "suppressed",
            Outcome::Quarantined => "quarantined",
        }
    }
}

/// Replay's figures since the daemon started.
#[derive(Debug, Clone, Default)]
pub struct ReplayStatus {
    pub state: ReplayState,
    /// Main answers.
    pub link_up: bool,
    /// Entries applied.
    pub applied_total: u64,
    /// Connections or transactions tried again.
    pub retries_total: u64,
    /// Rows that were not on main as the client's statement saw them.
    pub conflicts_total: u64,
    /// The same by table, and what became of them.
    pub conflicts: BTreeMap<(String, Outcome), u64>,
    /// Entries put into quarantine.
    pub rejected_total: u64,
    /// Entries per second, over about the last ten seconds.
    pub rate: f64,
    /// From sending an entry to its commit, averaged over the last ones.
    pub average: Option<Duration>,
    /// The last failure, while it lasts.
    pub last_error: Option<String>,
    /// Main's ledger, as last heard.
    pub ledger: Option<Seq>,
    /// Main's place in its log after the last commit heard of.
    pub main_lsn: Option<Lsn>,
    /// How often replay has found its place on main after connecting.
    pub connections_total: u64,
    /// How often main came back at an older state.
    pub setbacks_total: u64,
    /// The last of those.
    pub last_setback: Option<String>,
    pub system_identifier: Option<u64>,
    pub timeline: Option<u32>,
    /// Of the schema on main.
    pub schema_version: Option<i32>,
    /// When `rate` was last brought up to date.
    pub(crate) rated_at: Option<Instant>,
}

/// Over how many seconds the rate is averaged.
const RATE_SECONDS: f64 = 10.0;

impl ReplayStatus {
    /// Counts entries applied just now.
    pub(super) fn applied(&mut self, entries: u64, took: Duration) {
        self.applied_total += entries;
        self.rate(entries);
        let average = self.average.unwrap_or(took);
        self.average = Some(average.mul_f64(0.9) + took.mul_f64(0.1));
        self.last_error = None;
    }

    /// Counts rows that main did not have as the client saw them.
    pub(super) fn conflict(&mut self, table: &str, outcome: Outcome, rows: u64) {
        self.conflicts_total += rows;
        *self.conflicts.entry((table.to_owned(), outcome)).or_default() += rows;
    }

    /// Lets the rate decay, and adds entries to it.
    pub(super) fn rate(&mut self, entries: u64) {
        let now = Instant::now();
        if let Some(before) = self.rated_at {
            self.rate *= (-(now - before).as_secs_f64() / RATE_SECONDS).exp();
        }
        self.rate += entries as f64 / RATE_SECONDS;
        self.rated_at = Some(now);
    }
}
