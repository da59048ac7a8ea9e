//! Whether the replica may be shown to clients: it belongs to main, and it is the process that the tracker has looked at.
//!
//! A replica that was promoted, follows another main, or holds what main has lost would answer with a history that is not
//! main's. Sessions on it are ended, and new ones refused, until the tracker finds it right again.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::failure::End;
use super::{Session, startup};
use crate::report::Report;
use crate::sqlstate;
use crate::tracker::TrackerStatus;

/// A handle, cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Trust(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// The replica's process that was looked at; `None`: none yet.
    instance: Option<String>,
    refusal: Option<String>,
    sessions: CancellationToken,
}

/// What is known of the server that a session has connected to.
#[derive(Debug)]
pub(super) enum Judged {
    /// Until the token is cancelled.
    Trusted(CancellationToken),
    /// Nobody has looked at this process.
    NotYet,
    Refused(Box<Report>),
}

const HINT: &str = "Nothing that was committed is lost: it is in the buffer. Connect again when the replica is mended.";

impl Trust {
    /// Does as the tracker finds, until shutdown.
    pub async fn follow(self, mut tracker: watch::Receiver<TrackerStatus>, stop: CancellationToken) {
        loop {
            self.found(&tracker.borrow_and_update());
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                changed = tracker.changed() => if changed.is_err() { return },
            }
        }
    }

    fn found(&self, status: &TrackerStatus) {
        let mut state = self.state();
        if !status.instance.is_empty() && state.instance.as_ref() != Some(&status.instance) {
            state.instance = Some(status.instance.clone());
        }
        if status.standing.is_true() {
            state.refusal = None;
            if state.sessions.is_cancelled() {
                state.sessions = CancellationToken::new();
            }
        } else {
            state.refusal = status.standing.told();
            state.sessions.cancel();
        }
    }

    pub(super) fn judged(&self, instance: &str) -> Judged {
        let state = self.state();
        match &state.refusal {
            Some(why) => Judged::Refused(Box::new(Report::new(sqlstate::CANNOT_CONNECT_NOW, why.clone()).hint(HINT))),
            None if state.instance.as_deref() == Some(instance) => Judged::Trusted(state.sessions.clone()),
            None => Judged::NotYet,
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        // A panic cannot leave these values half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When a session has to end: with the daemon, or with the trust in the replica.
pub(super) fn end_of(
    shutdown: &CancellationToken,
    trusted: &CancellationToken,
) -> Pin<Box<dyn Future<Output = ()> + Send + Sync>> {
    let (shutdown, trusted) = (shutdown.clone(), trusted.clone());
    Box::pin(async move {
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = trusted.cancelled() => {}
        }
    })
}

impl Session {
    /// Why the session was told to stop.
    pub(super) fn stopped(&self) -> End {
        if self.shared.shutdown.is_cancelled() {
            return End::Stopping;
        }
        let why = self.shared.trust.state().refusal.clone();
        let report = match why {
            Some(why) => {
                Report::new(sqlstate::ADMIN_SHUTDOWN, "terminating connection: the site's replica is not right")
                    .detail(why)
                    .hint(HINT)
            }
            None => startup::stopping(),
        };
        End::Fatal(Box::new(report))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Standing;

    fn status(instance: &str, standing: Standing) -> TrackerStatus {
        TrackerStatus { instance: instance.to_owned(), standing, ..TrackerStatus::default() }
    }

    #[test]
    fn only_the_process_that_was_looked_at_is_trusted() {
        let trust = Trust::default();
        let not_yet = |instance: &str| matches!(trust.judged(instance), Judged::NotYet);
        let trusted = |instance: &str| match trust.judged(instance) {
            Judged::Trusted(token) => token,
            judged => panic!("{judged:?}"),
        };
        assert!(not_yet("1"));
        trust.found(&status("1", Standing::Follows));
        assert!(not_yet("2"));
        let session = trusted("1");
        trust.found(&status("1", Standing::LeftBehind { replica: 1, main: 2 }));
        assert!(!session.is_cancelled());
        trust.found(&status("1", Standing::Promoted));
        assert!(session.is_cancelled() && matches!(trust.judged("1"), Judged::Refused(_)));
        trust.found(&status("2", Standing::Follows));
        assert!(!trusted("2").is_cancelled(), "who is told that it is trusted is not ended for what was before");
    }
}
