//! The threads that serve clients, each with a runtime of its own.
//!
//! A session and its connection to the replica stay on one thread: what wakes it wakes that thread and no other, and
//! nothing of it moves between cores. A relayed read is little more than its system calls, so this is felt. The buffer
//! has such a thread too, for every commit waits for it. Everything else stays on the daemon's own runtime.
//!
//! Nothing here may block: a session that computes for long holds up those who share its thread.

use std::future::Future;
use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::runtime::{Builder, Handle};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// One thread for each core. Dropped, the threads end, and with them what still runs there.
pub(super) struct Workers {
    workers: Vec<Worker>,
    _running: DropGuard,
}

struct Worker {
    runtime: Handle,
    /// Held by each client of the thread, so that its count says how many there are.
    clients: Arc<()>,
}

impl Workers {
    /// # Errors
    /// When the system has no more threads.
    pub(super) fn start() -> io::Result<Workers> {
        let stop = CancellationToken::new();
        let count = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let start = |number| {
            let runtime = thread(format!("clients-{number}"), stop.clone())?;
            Ok(Worker { runtime, clients: Arc::new(()) })
        };
        let workers = (0..count).map(start).collect::<io::Result<_>>()?;
        Ok(Workers { workers, _running: stop.drop_guard() })
    }

    /// Serves a client on the thread that has the fewest.
    ///
    /// # Errors
    /// When the client is gone already.
    pub(super) fn serve<F>(
        &self,
        inside: &TaskTracker,
        socket: TcpStream,
        serve: impl FnOnce(TcpStream) -> F + Send + 'static,
    ) -> io::Result<()>
    where
        F: Future<Output = ()> + Send,
    {
        // A socket is woken by the runtime that it is registered with.
        let socket = socket.into_std()?;
        let Some(worker) = self.workers.iter().min_by_key(|worker| Arc::strong_count(&worker.clients)) else {
            return Ok(());
        };
        let client = Arc::clone(&worker.clients);
        let served = async move {
            match TcpStream::from_std(socket) {
                Ok(socket) => serve(socket).await,
                Err(error) => tracing::warn!(%error, "a client cannot be served"),
            }
            drop(client);
        };
        inside.spawn_on(served, &worker.runtime);
        Ok(())
    }
}

/// A thread with a runtime of its own, until it is told to stop.
///
/// # Errors
/// When the system has no more threads.
pub(super) fn thread(name: String, stop: CancellationToken) -> io::Result<Handle> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    std::thread::Builder::new().name(name).spawn(move || runtime.block_on(stop.cancelled_owned()))?;
    Ok(handle)
}
