//! Keeps the current [`Catalog`]: everybody reads it without waiting, one loader replaces it.
//!
//! When the replica is away the last snapshot stays: it is still true of the replica's data, which stands still too.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;
use tokio_postgres::{Client, Config};
use tracing::info;

use super::Catalog;
use super::load::{self, LoadError};
use crate::upstream::own;

/// How long [`CatalogHandle::reload`] waits for the replica to reach a version.
const WAIT: Duration = Duration::from_secs(5);
/// How often it looks meanwhile.
const POLL: Duration = Duration::from_millis(20);

/// A shared, current catalog snapshot.
#[derive(Clone)]
pub struct CatalogHandle(Arc<Shared>);

struct Shared {
    current: ArcSwap<Catalog>,
    version: watch::Sender<i64>,
    /// How many loads have been started.
    started: AtomicU64,
    loader: Mutex<Loader>,
}

struct Loader {
    /// `None`: the snapshot was given and stays.
    replica: Option<Config>,
    connection: Option<Client>,
    /// The number (by `Shared::started`) of the load that gave the current snapshot.
    completed: u64,
}

impl CatalogHandle {
    /// Connects to the replica and reads the first snapshot.
    ///
    /// # Errors
    /// See [`load::load`].
    pub async fn open(replica: Config) -> Result<CatalogHandle, LoadError> {
        let handle = CatalogHandle::with(Some(replica), Catalog { version: -1, ..Catalog::default() });
        handle.reload(None).await?;
        Ok(handle)
    }

    /// A handle on a snapshot that never changes: for tests and tools without a server.
    pub fn fixed(catalog: Catalog) -> CatalogHandle {
        CatalogHandle::with(None, catalog)
    }

    fn with(replica: Option<Config>, catalog: Catalog) -> CatalogHandle {
        CatalogHandle(Arc::new(Shared {
            version: watch::Sender::new(catalog.version),
            current: ArcSwap::from_pointee(catalog),
            started: AtomicU64::new(0),
            loader: Mutex::new(Loader { replica, connection: None, completed: 0 }),
        }))
    }

    /// The current snapshot.
    pub fn current(&self) -> Arc<Catalog> {
        self.0.current.load_full()
    }

    /// Tells the version of each new snapshot.
    pub fn subscribe(&self) -> watch::Receiver<i64> {
        self.0.version.subscribe()
    }

    /// Makes sure that the snapshot is not older than this call (`None`), or not older than a version: then it waits,
    /// within bounds, until the replica has it. Callers at the same time share one load.
    ///
    /// # Errors
    /// [`LoadError::Behind`] when the replica did not get there in time; the server's or the connection's error. The
    /// last snapshot stays.
    pub async fn reload(&self, min_version: Option<i64>) -> Result<Arc<Catalog>, LoadError> {
        let asked_after = self.0.started.load(Ordering::SeqCst);
        let mut loader = self.0.loader.lock().await;
        let current = self.current();
        let fresh = match min_version {
            Some(version) => current.version >= version,
            None => loader.completed > asked_after,
        };
        if fresh || loader.replica.is_none() {
            return Ok(current);
        }
        let loaded = self.load(&mut loader, min_version).await;
        if matches!(loaded, Err(LoadError::Server(_))) {
            loader.connection = None;
        }
        loaded
    }

    /// Makes sure that the snapshot has the version that the replica has now. While that is so it only asks for the number.
    ///
    /// # Errors
    /// As [`CatalogHandle::reload`].
    pub async fn refresh(&self) -> Result<Arc<Catalog>, LoadError> {
        let mut loader = self.0.loader.lock().await;
        if loader.replica.is_none() {
            return Ok(self.current());
        }
        let refreshed = self.load_if_changed(&mut loader).await;
        if matches!(refreshed, Err(LoadError::Server(_))) {
            loader.connection = None;
        }
        refreshed
    }

    async fn load_if_changed(&self, loader: &mut Loader) -> Result<Arc<Catalog>, LoadError> {
        if let Some(client) = loader.connection.as_ref().filter(|client| !client.is_closed()) {
            let current = self.current();
            if load::version(client).await? == current.version {
                return Ok(current);
            }
        }
        self.load(loader, None).await
    }

    async fn load(&self, loader: &mut Loader, min_version: Option<i64>) -> Result<Arc<Catalog>, LoadError> {
        if loader.connection.as_ref().is_none_or(Client::is_closed) {
            let Some(replica) = &loader.replica else { return Ok(self.current()) };
            loader.connection = Some(own::connect(replica).await?);
        }
        let Some(client) = &loader.connection else { return Ok(self.current()) };
        if let Some(wanted) = min_version {
            wait_for(client, wanted).await?;
        }
        let number = self.0.started.fetch_add(1, Ordering::SeqCst) + 1;
        let begun = Instant::now();
        let catalog = Arc::new(load::load(client).await?);
        let (version, relations) = (catalog.version, catalog.relations.len());
        info!(version, relations, elapsed_ms = begun.elapsed().as_millis() as u64, "catalog read");
        self.0.current.store(Arc::clone(&catalog));
        loader.completed = number;
        self.0.version.send_replace(version);
        Ok(catalog)
    }
}

async fn wait_for(client: &Client, wanted: i64) -> Result<(), LoadError> {
    let until = Instant::now() + WAIT;
    loop {
        let found = load::version(client).await?;
        if found >= wanted {
            return Ok(());
        }
        if Instant::now() >= until {
            return Err(LoadError::Behind { wanted, found });
        }
        tokio::time::sleep(POLL).await;
    }
}

impl fmt::Debug for CatalogHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CatalogHandle").field("version", &self.0.current.load().version).finish_non_exhaustive()
    }
}
