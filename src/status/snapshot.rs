//! The figures of one moment, and what they mean for the site's health.

use std::time::Duration;

use serde::Serialize;

use super::clients::Totals;
use crate::buffer::{BufferStatus, Progress};
use crate::config::SiteKind;
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
    /// Main is away or refused; waits before it tries again.
    Waiting,
    /// Somebody must act: `last_error` says what about.
    Halted,
    Stopped,
}

impl ReplayState {
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

/// Replay's figures since the daemon started.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ReplayStatus {
    pub state: ReplayState,
    /// Main answers.
    pub link_up: bool,
    pub applied_total: u64,
    pub retries_total: u64,
    pub conflicts_total: u64,
    pub rejected_total: u64,
    /// Entries per second over the last seconds.
    pub rate: f64,
    /// From sending an entry to its commit, averaged over the last entries.
    pub average: Option<Duration>,
    pub last_error: Option<String>,
}

/// What the tracker saw at its last poll.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrackerStatus {
    /// The replica answers.
    pub replica_up: bool,
    pub replay_lsn: Option<Lsn>,
    pub receive_lsn: Option<Lsn>,
    /// WAL of main that the replica does not show yet, as far as it is known here.
    pub lag_bytes: Option<u64>,
    pub lag: Option<Duration>,
    pub last_error: Option<String>,
}

/// What is left of the values of one sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    pub sequence: String,
    pub remaining: u64,
}

/// Whether the site serves its clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    Ok,
    /// Clients are served, but an operator should look: main is away, or entries were rejected.
    Degraded,
    /// Reads or writes fail.
    Down,
}

impl Health {
    pub fn as_str(self) -> &'static str {
        match self {
            Health::Ok => "ok",
            Health::Degraded => "degraded",
            Health::Down => "down",
        }
    }
}

/// Everything at one moment.
#[derive(Debug, Clone)]
pub struct Snapshot {
    pub uptime: Duration,
    pub kind: SiteKind,
    pub buffer: BufferStatus,
    pub progress: Progress,
    pub replay: ReplayStatus,
    pub tracker: TrackerStatus,
    pub leases: Vec<Lease>,
    pub clients: usize,
    pub totals: Totals,
}

impl Snapshot {
    /// A site without main is what we are for: it is degraded, not down.
    pub fn health(&self) -> Health {
        match self.kind {
            SiteKind::Main if self.replay.link_up => Health::Ok,
            SiteKind::Main => Health::Down,
            SiteKind::Secondary if !self.tracker.replica_up || !self.buffer.available => Health::Down,
            SiteKind::Secondary if self.replay.state == ReplayState::Stopped => Health::Down,
            SiteKind::Secondary if !self.replay.link_up || self.replay.state == ReplayState::Halted => Health::Degraded,
            SiteKind::Secondary if self.buffer.quarantined > 0 => Health::Degraded,
            SiteKind::Secondary => Health::Ok,
        }
    }
}
