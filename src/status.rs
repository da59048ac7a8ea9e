//! What runs, as plain values: the one place where console, HTTP and metrics look.
//!
//! Reads only. Nothing here changes a part, waits for a server or keeps a history.

mod clients;
mod snapshot;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use crate::config::{Config, Place, Setting, SiteKind};
use crate::entry::{Entry, Seq};

pub use crate::buffer::{BufferStatus, Progress, Quarantined};
pub use crate::replay::{Conflict, ReplayState, ReplayStatus};
pub use crate::tracker::TrackerStatus;
pub use clients::{ClientGuard, ClientInfo, ClientSnapshot, ClientState, Clients, StatementKind, Totals};
pub use snapshot::{Health, Lease, Snapshot};

/// A future of a [`Source`]; boxed, since the source is a trait object.
pub type Answer<T> = Pin<Box<dyn Future<Output = Result<T, String>> + Send>>;

/// The running parts, as status sees them. The composition root implements it over the real ones, tests over plain values.
pub trait Source: Send + Sync {
    fn buffer(&self) -> BufferStatus;
    fn progress(&self) -> Progress;
    fn replay(&self) -> ReplayStatus;
    fn tracker(&self) -> TrackerStatus;
    fn leases(&self) -> Vec<Lease>;
    /// Pending entries after `after`, oldest first.
    fn entries(&self, after: Seq, limit: usize) -> Answer<Vec<Arc<Entry>>>;
    /// Records behind this one, without what the entries do.
    fn quarantine(&self, after: Option<Seq>, limit: usize) -> Answer<Vec<Quarantined>>;
    /// The newest lines of the log of conflicts, newest first.
    fn conflicts(&self, limit: usize) -> Answer<Vec<Conflict>>;
}

/// What is told about the daemon itself.
#[derive(Debug, Clone)]
pub struct About {
    pub site: String,
    pub kind: SiteKind,
    pub database: String,
    pub version: &'static str,
    pub listen_address: String,
    pub http_address: String,
    /// `host:port` of main and replica, without user and password.
    pub main_address: String,
    pub replica_address: String,
    pub config_digest: String,
    pub settings: Vec<Setting>,
}

impl About {
    /// What a validated configuration says.
    pub fn new(config: &Config) -> About {
        let place =
            |url: &str| Place::of(url).unwrap_or_else(|_| Place { address: String::new(), database: String::new() });
        let (main, replica) = (place(&config.main.url), place(&config.replica.url));
        About {
            site: config.site.name.clone(),
            kind: config.site.kind,
            database: main.database,
            version: env!("CARGO_PKG_VERSION"),
            listen_address: config.listen.address.clone(),
            http_address: config.http.address.clone(),
            main_address: main.address,
            replica_address: replica.address,
            config_digest: config.digest(),
            settings: config.settings(),
        }
    }
}

/// A handle to everything worth telling.
#[derive(Clone)]
pub struct Status {
    shared: Arc<Shared>,
}

struct Shared {
    about: About,
    clients: Clients,
    source: Box<dyn Source>,
    started: Instant,
}

impl std::fmt::Debug for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Status").field("about", &self.shared.about).finish_non_exhaustive()
    }
}

impl Status {
    pub fn new(about: About, clients: Clients, source: Box<dyn Source>, started: Instant) -> Status {
        Status { shared: Arc::new(Shared { about, clients, source, started }) }
    }

    pub fn about(&self) -> &About {
        &self.shared.about
    }

    pub fn clients(&self) -> &Clients {
        &self.shared.clients
    }

    /// What replay is doing.
    pub fn replay(&self) -> ReplayStatus {
        self.shared.source.replay()
    }

    /// Everything at this moment. The parts are asked one after the other: figures may differ by what happens in between.
    pub fn snapshot(&self) -> Snapshot {
        let source = &self.shared.source;
        Snapshot {
            uptime: self.shared.started.elapsed(),
            kind: self.shared.about.kind,
            buffer: source.buffer(),
            progress: source.progress(),
            replay: source.replay(),
            tracker: source.tracker(),
            leases: source.leases(),
            clients: self.shared.clients.count(),
            totals: self.shared.clients.totals(),
        }
    }

    /// The oldest entries after this one, as many as are read at a time. None: that was all.
    ///
    /// # Errors
    /// The buffer's words for why it cannot be read.
    pub async fn entries(&self, after: Seq, limit: usize) -> Result<Vec<Arc<Entry>>, String> {
        self.shared.source.entries(after, limit).await
    }

    /// The oldest rejected entries.
    ///
    /// # Errors
    /// The buffer's words for why it cannot be read.
    pub async fn quarantine(&self, after: Option<Seq>, limit: usize) -> Result<Vec<Quarantined>, String> {
        self.shared.source.quarantine(after, limit).await
    }

    /// The newest conflicts, as far as the replica has the log.
    ///
    /// # Errors
    /// Why the replica does not tell.
    pub async fn conflicts(&self, limit: usize) -> Result<Vec<Conflict>, String> {
        self.shared.source.conflicts(limit).await
    }
}

#[cfg(test)]
pub(crate) mod tests;
