//! Cancel requests: which client they mean, and what that client is waiting for.
//!
//! A client gets a key of our own. A request reaches the upstream connection that executes for the client at that moment,
//! and wakes a session that waits for a lock. While a request is on its way upstream the session sends nothing new there,
//! so a request never hits a later statement than it was meant for.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;
use tracing::debug;
use uuid::Uuid;

use crate::upstream::raw::{self, Address};
use crate::wire::startup::Key;

/// Where a cancel request must go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub address: Address,
    pub key: Key,
}

/// The clients that can be cancelled; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Cancels {
    clients: Arc<Mutex<HashMap<Key, Arc<Running>>>>,
    last: Arc<AtomicI32>,
}

/// What one client is doing.
#[derive(Debug, Default)]
pub struct Running {
    target: Mutex<Option<Target>>,
    /// Wakes a session that waits within the daemon.
    pub woken: Notify,
    /// How many requests there have been.
    requests: AtomicU64,
    /// Held while a request is on its way upstream.
    upstream: tokio::sync::Mutex<()>,
}

/// A client's place in the registry.
#[derive(Debug)]
pub struct Registered {
    pub key: Key,
    pub running: Arc<Running>,
    cancels: Cancels,
}

impl Cancels {
    /// `process`: which number the client gets; `None`: any.
    pub fn register(&self, process: Option<i32>) -> Registered {
        let next = || self.last.fetch_add(1, Ordering::Relaxed).wrapping_add(1) & i32::MAX;
        let process = process.unwrap_or_else(next);
        // The secret keeps others from cancelling: it comes from the operating system's randomness.
        let [a, b, c, d, ..] = Uuid::new_v4().into_bytes();
        let key = Key { process, secret: i32::from_be_bytes([a, b, c, d]) };
        let running = Arc::new(Running::default());
        self.lock().insert(key, Arc::clone(&running));
        Registered { key, running, cancels: self.clone() }
    }

    /// Obeys a request; an unknown key is ignored, as Postgres does.
    pub async fn cancel(&self, key: Key) {
        let running = self.lock().get(&key).cloned();
        if let Some(running) = running {
            running.cancel().await;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Arc<Running>>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Running {
    /// Says what executes for the client from now on; `None`: nothing. Call it before sending.
    pub fn set(&self, target: Option<Target>) {
        *self.target.lock().unwrap_or_else(PoisonError::into_inner) = target;
    }

    /// Waits until no request is on its way.
    pub async fn settled(&self) {
        if self.upstream.try_lock().is_err() {
            drop(self.upstream.lock().await);
        }
    }

    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    async fn cancel(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let _on_its_way = self.upstream.lock().await;
        let target = self.target.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.woken.notify_waiters();
        if let Some(Target { address, key }) = target
            && let Err(error) = raw::cancel(&address, key).await
        {
            debug!(%error, "cancel request did not reach the server");
        }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.cancels.lock().remove(&self.key);
    }
}
