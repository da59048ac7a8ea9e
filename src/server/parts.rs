//! The tasks of the daemon, each with its own way to be told to stop.

use std::io;
use std::time::Duration;

use futures_util::future::select_all;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::workers;
use super::{PART_STOP_MAX, SESSIONS_STOP_MAX};

/// In the order in which they were started; they stop the other way round, so that nobody loses what it leans on.
#[derive(Default)]
pub(super) struct Parts {
    parts: Vec<Part>,
    /// Threads that end when all parts have.
    threads: Vec<DropGuard>,
}

struct Part {
    name: &'static str,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Parts {
    /// A token for a part that others must hear of too.
    pub(super) fn token(&self) -> CancellationToken {
        CancellationToken::new()
    }

    pub(super) fn add<F>(&mut self, name: &'static str, run: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.add_with(name, CancellationToken::new(), run);
    }

    pub(super) fn add_with<F>(
        &mut self,
        name: &'static str,
        stop: CancellationToken,
        run: impl FnOnce(CancellationToken) -> F,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let task = tokio::spawn(run(stop.clone()));
        self.adopt(name, stop, task);
    }

    /// A task that its part started itself.
    pub(super) fn adopt(&mut self, name: &'static str, stop: CancellationToken, task: JoinHandle<()>) {
        self.parts.push(Part { name, stop, task });
    }

    /// A thread that parts run on.
    pub(super) fn thread(&mut self, name: &str) -> io::Result<Handle> {
        let stop = CancellationToken::new();
        let handle = workers::thread(name.to_owned(), stop.clone())?;
        self.threads.push(stop.drop_guard());
        Ok(handle)
    }

    /// Waits until any part ends; none should.
    pub(super) async fn first_to_end(&mut self) -> &'static str {
        let (ended, at, _) = select_all(self.parts.iter_mut().map(|part| &mut part.task)).await;
        let part = self.parts.remove(at);
        match ended {
            Ok(()) => tracing::error!(part = part.name, "ended by itself"),
            Err(error) => tracing::error!(part = part.name, %error, "died"),
        }
        part.name
    }

    /// Stops one after the other, each within bounds.
    pub(super) async fn stop(mut self) {
        // Clients first, whenever their part was started: they lean on all others.
        self.parts.sort_by_key(|part| stage(part.name));
        for part in self.parts {
            part.stop.cancel();
            let limit = if stage(part.name) == 0 { SESSIONS_STOP_MAX + PART_STOP_MAX } else { PART_STOP_MAX };
            stop_one(part, limit).await;
        }
    }
}

/// The order of stopping.
fn stage(name: &str) -> usize {
    const ORDER: [&str; 5] = ["accept loop", "buffer", "replay", "tracker", "catalog follower"];
    ORDER.iter().position(|known| *known == name).unwrap_or(ORDER.len())
}

async fn stop_one(part: Part, limit: Duration) {
    let abort = part.task.abort_handle();
    match tokio::time::timeout(limit, part.task).await {
        Ok(Ok(())) => tracing::debug!(part = part.name, "stopped"),
        Ok(Err(error)) => tracing::error!(part = part.name, %error, "died while it stopped"),
        Err(_) => {
            tracing::warn!(
                part = part.name,
                limit_ms = limit.as_millis() as u64,
                "did not stop in time and is cut off"
            );
            abort.abort();
        }
    }
}
