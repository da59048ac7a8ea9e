//! A main that says nothing while a session waits for it: when the session goes on without.
//!
//! A link that loses everything without telling anybody looks like a statement that takes long. So main is given up only when
//! the client has cancelled its statement and replay, too, gets no answer from main. Whether the statement was done is not known then, and the client is told so.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::enter::Main;
use super::failure::End;
use super::straight::lost;
use super::{Session, Wants};
use crate::report::Report;
use crate::wire::build;
use crate::wire::link::OUTPUT_HIGH;

/// How long main may take to say that it has ended the statement.
const GRACE: Duration = Duration::from_secs(5);
/// How often is looked whether that is over.
const LOOK: Duration = Duration::from_millis(500);

/// One wait for main.
pub(super) struct Patience {
    heard: Instant,
    /// Cancel requests before it.
    requests: u64,
    cancelled: Option<Instant>,
}

impl Main {
    /// The client's idle time is the replica's to count: main's session may be idle while the client is not. Postgres
    /// counts from ReadyForQuery to the next message.
    pub(super) fn counts_no_idle_time(&mut self) {
        build::flush(&mut self.raw.link.output);
    }
}

impl Session {
    pub(super) fn patience(&self) -> Patience {
        Patience { heard: Instant::now(), requests: self.registered.running.requests(), cancelled: None }
    }

    /// Waits until something comes or goes. `Some`: main is given up.
    pub(super) async fn hear_main(&mut self, patience: &mut Patience) -> Result<Option<Report>, End> {
        let waiting = |session: &Session| session.main.as_ref().map(|main| main.raw.link.input.len());
        loop {
            let before = waiting(self);
            tokio::select! {
                biased;
                moved = self.pump(Wants::Main) => {
                    if waiting(self) != before {
                        patience.heard = Instant::now();
                    }
                    return moved.map(|()| None);
                }
                () = sleep(LOOK) => {}
            }
            if let Some(why) = self.is_in_vain(patience) {
                return Ok(Some(lost().detail(why)));
            }
        }
    }

    fn is_in_vain(&self, patience: &mut Patience) -> Option<String> {
        let now = Instant::now();
        if self.registered.running.requests() > patience.requests {
            patience.cancelled.get_or_insert(now);
        }
        // Who does not take its answers keeps us from hearing main.
        if self.main_answers() || self.client.output.len() >= OUTPUT_HIGH {
            return None;
        }
        let silent = now - patience.heard;
        if patience.cancelled.is_none_or(|cancelled| now - cancelled < GRACE) || silent < GRACE {
            return None;
        }
        let silent = silent.as_secs();
        Some(format!(
            "The statement was cancelled, and main has not answered for {silent} s. It may still run it, and keeps what it has locked until it notices that nobody is there."
        ))
    }
}
