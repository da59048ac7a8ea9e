//! The JSON answers, as values. Units stand in the names.

use serde::{Deserialize, Serialize};

use crate::status::{Health, ReplayState, Snapshot, Status};

/// `/health`
#[derive(Debug, Serialize)]
pub(super) struct HealthAnswer {
    status: Health,
    database: Server,
    main: Server,
    redis: Buffer,
    processor: ReplayState,
    uptime_seconds: u64,
}

#[derive(Debug, Serialize)]
struct Server {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Debug, Serialize)]
struct Buffer {
    status: &'static str,
    size: u64,
    failed: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// `/buffer-stats`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BufferStats {
    pub pending: u64,
    pub pending_bytes: u64,
    /// Rejected by main.
    pub failed: u64,
    pub oldest_ms: Option<u64>,
    /// Entries per second.
    pub processing_rate: f64,
    pub average_execution_time_ms: Option<f64>,
    pub applied_total: u64,
    pub last_seq: u64,
    pub sent_seq: u64,
    pub applied_seq: u64,
    pub confirmed_seq: u64,
    pub available: bool,
    pub replay_state: String,
    /// Why it does not go on, and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay_error: Option<String>,
    pub link_up: bool,
    pub replica_up: bool,
    pub replica_lag_bytes: Option<u64>,
    pub replica_lag_ms: Option<u64>,
}

/// `/api/site/info`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SiteInfo {
    pub name: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub database: String,
    pub version: String,
    pub uptime_seconds: u64,
    pub status: String,
    pub listen_address: String,
    pub http_address: String,
    pub main_address: String,
    pub replica_address: String,
    pub config_digest: String,
    pub clients: u64,
}

pub(super) fn health(now: &Snapshot) -> HealthAnswer {
    let up = |up: bool| if up { "up" } else { "down" };
    HealthAnswer {
        status: now.health(),
        database: Server { status: up(now.tracker.replica_up), error: now.tracker.last_error.clone() },
        main: Server { status: up(now.replay.link_up), error: now.replay.last_error.clone() },
        redis: Buffer {
            status: up(now.buffer.accepts()),
            size: now.buffer.pending,
            failed: now.buffer.quarantined,
            error: now.buffer.error().cloned(),
        },
        processor: now.replay.state,
        uptime_seconds: now.uptime.as_secs(),
    }
}

pub(super) fn buffer_stats(now: &Snapshot) -> BufferStats {
    let ms = |duration: std::time::Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    BufferStats {
        pending: now.buffer.pending,
        pending_bytes: now.buffer.pending_bytes,
        failed: now.buffer.quarantined,
        oldest_ms: now.buffer.oldest_pending.map(ms),
        processing_rate: now.replay.rate,
        average_execution_time_ms: now.replay.average.map(|average| average.as_secs_f64() * 1000.0),
        applied_total: now.replay.applied_total,
        last_seq: now.progress.last.0,
        sent_seq: now.progress.sent.0,
        applied_seq: now.progress.applied.0,
        confirmed_seq: now.progress.confirmed.0,
        available: now.buffer.accepts(),
        replay_state: now.replay.state.as_str().to_owned(),
        replay_error: now.replay.last_error.clone(),
        link_up: now.replay.link_up,
        replica_up: now.tracker.replica_up,
        replica_lag_bytes: now.tracker.lag_bytes,
        replica_lag_ms: now.tracker.lag.map(ms),
    }
}

pub(super) fn site_info(status: &Status) -> SiteInfo {
    let (about, now) = (status.about(), status.snapshot());
    SiteInfo {
        name: about.site.clone(),
        kind: about.kind.as_str().to_owned(),
        database: about.database.clone(),
        version: about.version.to_owned(),
        uptime_seconds: now.uptime.as_secs(),
        status: now.health().as_str().to_owned(),
        listen_address: about.listen_address.clone(),
        http_address: about.http_address.clone(),
        main_address: about.main_address.clone(),
        replica_address: about.replica_address.clone(),
        config_digest: about.config_digest.clone(),
        clients: now.clients as u64,
    }
}
