//! Which main the entries belong to: kept beside them, so that a restart of the daemon does not forget it.
//!
//! Entries never go to another cluster than the one that is known here, unless an operator has said so.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::log::LogError;
use super::{Buffer, BufferError};
use crate::cluster::{MainEvent, MainRecord, MainServer};
use crate::entry::Seq;
use crate::lsn::Lsn;
use crate::moment::rfc3339;
use crate::report::Report;
use crate::sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE;

/// What is known of main.
#[derive(Debug, Clone, Default)]
pub struct KnownMain {
    /// As in the log; `None`: replay has never talked to any.
    pub record: Option<MainRecord>,
    /// The server that replay is connected to; `None`: none, or it does not say who it is.
    pub server: Option<MainServer>,
    /// How often that server has answered.
    pub answers: u64,
    /// How often replay has found main without what the replica holds.
    pub older_than_replica: u64,
    /// What main had when that was found last.
    pub found_older: MainHas,
    /// Main turned out to be another cluster, and nobody has accepted it.
    pub refused: Option<MainServer>,
    /// How far the replica was when the tracker last looked; none while it is away.
    pub replayed: Option<Lsn>,
}

/// How far a server has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MainHas {
    pub ledger: Seq,
    /// `None`: not known.
    pub place: Option<Lsn>,
}

impl MainHas {
    /// Whether a replica that is there holds something else than what main has.
    pub fn lacks(&self, ledger: Option<Seq>, place: Option<Lsn>) -> bool {
        ledger.is_some_and(|ledger| ledger > self.ledger) || self.place.is_some_and(|main| place > Some(main))
    }
}

/// What the server that answers as main is to this site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meeting {
    /// The first that this site has seen.
    First,
    Same,
    /// The same cluster on another timeline: it was promoted, or restored.
    OtherTimeline {
        before: u32,
    },
    /// Another cluster, whose system identifier is not `known`.
    Other {
        known: u64,
    },
}

/// Between two notes of how far main is, while it goes on.
const NOTE_PERIOD: Duration = Duration::from_secs(10);

/// Shared by all handles of a buffer.
#[derive(Debug, Clone, Default)]
pub(super) struct Mains {
    known: Arc<Mutex<KnownMain>>,
    /// Whoever writes the record; and when it was noted last how far main is.
    writing: Arc<tokio::sync::Mutex<Option<Instant>>>,
}

impl Mains {
    pub(super) fn new(record: Option<MainRecord>) -> Mains {
        Mains { known: Arc::new(Mutex::new(KnownMain { record, ..KnownMain::default() })), writing: Arc::default() }
    }

    fn change<T>(&self, change: impl FnOnce(&mut KnownMain) -> T) -> T {
        // A panic cannot leave these values half changed.
        change(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Why a main was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    #[error("main is the server that this site knows; there is nothing to accept")]
    Nothing,
    #[error("main's system identifier is {found}, not {wanted}")]
    Another { found: u64, wanted: u64 },
    #[error(transparent)]
    Buffer(#[from] BufferError),
}

impl AcceptError {
    /// What the operator is told.
    pub fn report(&self) -> Report {
        let hint = match self {
            AcceptError::Nothing => "SHOW LAG says what replay waits for.",
            AcceptError::Another { .. } => "Main has changed once more: look again which server [main] url reaches.",
            AcceptError::Buffer(_) => "Give the command again when the buffer is back.",
        };
        Report::new(OBJECT_NOT_IN_PREREQUISITE_STATE, self.to_string()).hint(hint)
    }
}

impl Buffer {
    /// What is known of main.
    pub fn known_main(&self) -> KnownMain {
        self.mains.change(|known| known.clone())
    }

    /// Replay is connected to a server: says what it is to this site, and remembers it unless it is another cluster.
    ///
    /// # Errors
    /// When the first one cannot be remembered durably.
    pub async fn meet_main(&self, server: &MainServer) -> Result<Meeting, BufferError> {
        let record = self.known_main().record;
        let now = MainRecord {
            system_identifier: server.system_identifier,
            timeline: server.timeline,
            applied: record.as_ref().map(|record| record.applied).unwrap_or_default(),
            events: record.as_ref().map(|record| record.events.clone()).unwrap_or_default(),
        };
        let (meeting, what) = match record {
            None => (Meeting::First, format!("belongs to main {}", server.system_identifier)),
            Some(record) if record.system_identifier != server.system_identifier => {
                self.mains.change(|known| {
                    known.refused = Some(server.clone());
                    known.server = None;
                });
                return Ok(Meeting::Other { known: record.system_identifier });
            }
            Some(record) if record.timeline != server.timeline => {
                let what = format!("main went from timeline {} to {}", record.timeline, server.timeline);
                (Meeting::OtherTimeline { before: record.timeline }, what)
            }
            Some(_) => (Meeting::Same, String::new()),
        };
        if meeting != Meeting::Same {
            match self.remember_main(now, "replay", what).await {
                // A full disk must not keep entries from leaving: it is remembered the next time.
                Err(error) if meeting != Meeting::First => {
                    tracing::warn!(%error, "main's new timeline is not remembered");
                }
                remembered => remembered?,
            }
        }
        self.mains.change(|known| {
            known.server = Some(server.clone());
            known.answers += 1;
            known.refused = None;
        });
        Ok(meeting)
    }

    /// The server that replay is connected to is still there.
    pub fn main_answers(&self) {
        self.mains.change(|known| known.answers += 1);
    }

    /// Main has answered without saying who it is, or it is away.
    pub fn no_main(&self) {
        self.mains.change(|known| known.server = None);
    }

    /// Main has the site's entries up to this one, by its own word. Noted now and then, or at once: so that one which comes
    /// back older is noticed by the next process, too.
    pub async fn note_applied(&self, seq: Seq, at_once: bool) {
        let mut noted = self.mains.writing.lock().await;
        let Some(record) = self.known_main().record.filter(|record| record.applied != seq) else { return };
        let recently = !at_once && noted.is_some_and(|at| at.elapsed() < NOTE_PERIOD);
        if recently || self.published.away().is_some() {
            return;
        }
        *noted = Some(Instant::now());
        let record = MainRecord { applied: seq, ..record };
        match self.log.0.store_main_record(&record).await {
            Ok(()) => self.mains.change(|known| known.record = Some(record)),
            Err(error) => tracing::debug!(%error, "it is not noted how far main is"),
        }
    }

    /// Main turned out to be at an older state than before. `found`: when the replica held more.
    ///
    /// # Errors
    /// When the log does not answer; the event is lost then, and what follows from it is not.
    pub async fn main_went_back(&self, ledger: Seq, what: String, found: Option<MainHas>) -> Result<(), BufferError> {
        let record = self.mains.change(|known| {
            if let Some(found) = found {
                known.older_than_replica += 1;
                known.found_older = found;
            }
            // Also where that cannot be stored: it is told once.
            if let Some(record) = &mut known.record {
                record.applied = ledger;
            }
            known.record.clone()
        });
        match record {
            Some(record) => self.remember_main(record, "replay", what).await,
            None => Ok(()),
        }
    }

    /// Goes on with the main that was refused. `wanted`: only if it is this one.
    ///
    /// # Errors
    /// See [`AcceptError`].
    pub async fn accept_main(&self, wanted: Option<u64>, by: &str) -> Result<u64, AcceptError> {
        let known = self.known_main();
        let found = known.refused.ok_or(AcceptError::Nothing)?;
        let identifier = found.system_identifier;
        if let Some(wanted) = wanted
            && wanted != identifier
        {
            return Err(AcceptError::Another { found: identifier, wanted });
        }
        let record = known.record.unwrap_or_default();
        let what = format!("accepted main {identifier} in place of {}", record.system_identifier);
        tracing::warn!(by, what, "an operator accepted another main");
        // What the other one had says nothing about this one.
        let record =
            MainRecord { system_identifier: identifier, timeline: found.timeline, applied: Seq::ZERO, ..record };
        self.remember_main(record, by, what).await?;
        self.mains.change(|known| known.refused = None);
        // Replay looks when it wakes.
        self.published.count_decision();
        Ok(identifier)
    }

    /// How far the replica is, as the tracker sees it; `None`: it is away.
    pub fn replica_replayed(&self, place: Option<Lsn>) {
        self.mains.change(|known| known.replayed = place);
    }

    async fn remember_main(&self, mut record: MainRecord, by: &str, what: String) -> Result<(), BufferError> {
        let _alone = self.mains.writing.lock().await;
        record.remember(MainEvent { at: rfc3339(SystemTime::now()), by: by.to_owned(), what });
        let stored: Result<(), LogError> = self.log.0.store_main_record(&record).await;
        stored?;
        self.mains.change(|known| known.record = Some(record));
        Ok(())
    }
}
