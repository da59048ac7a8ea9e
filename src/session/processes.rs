//! Which client a process of main works for. A notification names the process that has sent it, on main; who listens compares it
//! with what clients know of themselves: the process of BackendKeyData.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a process that is gone is remembered: what it has sent may still be on its way.
const REMEMBERED: Duration = Duration::from_secs(10);

/// Main's processes of the site's sessions; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Processes(Arc<Mutex<HashMap<i32, Served>>>);

#[derive(Debug)]
struct Served {
    client: i32,
    gone: Option<Instant>,
}

/// A session's connection to main. Its process is forgotten some time after this goes.
#[derive(Debug)]
pub struct Serves {
    processes: Processes,
    process: i32,
}

impl Processes {
    /// Notes that `process` of main works for `client`.
    pub fn serves(&self, process: i32, client: i32) -> Serves {
        let mut all = self.lock();
        all.retain(|_, served| served.gone.is_none_or(|gone| gone.elapsed() < REMEMBERED));
        all.insert(process, Served { client, gone: None });
        Serves { processes: self.clone(), process }
    }

    /// The client that a process of main works for, if it is one of the site's.
    pub fn client_of(&self, process: i32) -> Option<i32> {
        let all = self.lock();
        let served = all.get(&process)?;
        served.gone.is_none_or(|gone| gone.elapsed() < REMEMBERED).then_some(served.client)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<i32, Served>> {
        // Never left half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Serves {
    fn drop(&mut self) {
        if let Some(served) = self.processes.lock().get_mut(&self.process) {
            served.gone = Some(Instant::now());
        }
    }
}
