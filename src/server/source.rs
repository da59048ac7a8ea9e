//! The running parts, as `status` asks for them. What has not been started yet answers with nothing.

use std::sync::{Arc, OnceLock};

use tokio::sync::watch;

use crate::buffer::{Buffer, BufferStatus, Progress, Quarantined};
use crate::entry::{Entry, Seq};
use crate::ids::Leases;
use crate::replay;
use crate::status::{Answer, Conflict, Lease, ReplayStatus, Source, TrackerStatus};
use crate::upstream::own;

/// Filled while the daemon starts.
#[derive(Default)]
pub(super) struct Running {
    buffer: OnceLock<Buffer>,
    leases: OnceLock<Leases>,
    replay: OnceLock<watch::Receiver<ReplayStatus>>,
    tracker: OnceLock<watch::Receiver<TrackerStatus>>,
    /// The replica, and the site's name there.
    replica: OnceLock<(own::Config, String)>,
}

impl Running {
    pub(super) fn set_buffer(&self, buffer: Buffer) {
        let _ = self.buffer.set(buffer);
    }

    pub(super) fn set_replica(&self, replica: own::Config, site: String) {
        let _ = self.replica.set((replica, site));
    }

    pub(super) fn set_leases(&self, leases: Leases) {
        let _ = self.leases.set(leases);
    }

    pub(super) fn set_replay(&self, replay: watch::Receiver<ReplayStatus>) {
        let _ = self.replay.set(replay);
    }

    pub(super) fn set_tracker(&self, tracker: watch::Receiver<TrackerStatus>) {
        let _ = self.tracker.set(tracker);
    }
}

impl Running {
    /// What the tracker says; nothing before it was started.
    pub(super) fn tracker(&self) -> watch::Receiver<TrackerStatus> {
        self.tracker.get().cloned().unwrap_or_else(|| watch::channel(TrackerStatus::default()).1)
    }
}

/// [`Running`] as a [`Source`].
pub(super) struct Shown(pub(super) Arc<Running>);

impl Source for Shown {
    fn buffer(&self) -> BufferStatus {
        self.0.buffer.get().map(Buffer::status).unwrap_or_default()
    }

    fn progress(&self) -> Progress {
        self.0.buffer.get().map(|buffer| *buffer.progress().borrow()).unwrap_or_default()
    }

    fn replay(&self) -> ReplayStatus {
        self.0.replay.get().map(|replay| replay.borrow().clone()).unwrap_or_default()
    }

    fn tracker(&self) -> TrackerStatus {
        self.0.tracker.get().map(|tracker| tracker.borrow().clone()).unwrap_or_default()
    }

    fn leases(&self) -> Vec<Lease> {
        let remaining = self.0.leases.get().map(Leases::remaining).unwrap_or_default();
        remaining.into_iter().map(|(sequence, remaining)| Lease { sequence, remaining }).collect()
    }

    fn entries(&self, after: Seq, limit: usize) -> Answer<Vec<Arc<Entry>>> {
        let buffer = self.0.buffer.get().cloned();
        Box::pin(async move {
            let buffer = buffer.ok_or(NOT_OPEN)?;
            buffer.read(after, limit).await.map_err(|error| error.to_string())
        })
    }

    fn quarantine(&self, after: Option<Seq>, limit: usize) -> Answer<Vec<Quarantined>> {
        let buffer = self.0.buffer.get().cloned();
        Box::pin(async move {
            let buffer = buffer.ok_or(NOT_OPEN)?;
            buffer.quarantine_heads(after, limit).await.map_err(|error| error.to_string())
        })
    }

    fn conflicts(&self, limit: usize) -> Answer<Vec<Conflict>> {
        let replica = self.0.replica.get().cloned();
        Box::pin(async move {
            let Some((replica, site)) = replica else { return Ok(Vec::new()) };
            replay::newest_conflicts(&replica, &site, limit).await
        })
    }
}

const NOT_OPEN: &str = "the buffer is not open yet";
