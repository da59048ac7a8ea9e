//! The figures of one moment, and what they mean for the site's health.

use std::time::Duration;

use serde::Serialize;

use super::clients::Totals;
use crate::buffer::{BufferStatus, Progress};
use crate::cluster::Standing;
use crate::config::SiteKind;
use crate::replay::{ReplayState, ReplayStatus};
use crate::tracker::TrackerStatus;

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
            SiteKind::Secondary
                if !self.buffer.accepts()
                    || self.buffer.quarantined > 0
                    || self.tracker.standing != Standing::Follows =>
            {
                Health::Degraded
            }
            SiteKind::Secondary => Health::Ok,
        }
    }
}
