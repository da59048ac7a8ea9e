//! What everybody sees of the buffer: the overlay, the progress, the counts.
//!
//! One mutex guards all changes and is never held across an await; readers of the overlay do not take it. Only what is
//! durable gets here.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio::time::Instant;

use super::log::{LogError, Record, within};
use super::quarantine::{Aside, Fate};
use super::{BufferStatus, Progress};
use crate::catalog::TableId;
use crate::entry::Seq;
use crate::overlay::{Change, Overlay, RowId};

/// How many bytes the newest entries may take in memory, where they stay for replay and to mend a log that lost its tail.
const RECENT_BYTES_MAX: u64 = 32 << 20;
/// How long a record of quarantine that was refused is told: replay tries again sooner, an operator perhaps never.
const REFUSAL_TOLD: Duration = Duration::from_secs(60);
/// How many entries are trimmed from the overlay at a time, so that commits get in between.
const TRIM_STEP: u64 = 64;

/// How often trimming lets a commit go first, between two steps.
const YIELDS_MAX: usize = 100;

/// The state shared between the committer and the handles.
#[derive(Debug)]
pub(super) struct Published {
    overlay: ArcSwap<Overlay>,
    state: Mutex<State>,
    progress: watch::Sender<Progress>,
    /// The committer waits for the state: whoever works on it for long lets it in between.
    publishing: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    overlay: Overlay,
    tally: Tally,
    /// Entries that replay passes over.
    aside: BTreeMap<Seq, Aside>,
    /// Those of which the log may say something else, since its answer was lost: what was to be written.
    doubtful: BTreeMap<Seq, Fate>,
    /// How many of them are not decided.
    quarantined: u64,
    show_quarantined: bool,
    decisions: u64,
    /// How often the overlay was replaced.
    generation: u64,
    available: bool,
    last_error: Option<String>,
    refusing: Option<String>,
    /// The same of what stands beside the entries, which may have room when they have none, and the other way round.
    refusing_aside: Option<(Instant, String)>,
    appended: u64,
}

/// The pending entries counted, and the newest ones kept.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Entries that are not confirmed, oldest first.
    pending: VecDeque<Pending>,
    pending_bytes: u64,
    /// The newest entries, without gaps up to the last one.
    recent: VecDeque<Record>,
    recent_bytes: u64,
}

#[derive(Debug, Clone, Copy)]
struct Pending {
    seq: Seq,
    bytes: u64,
    /// Since the epoch.
    since: Duration,
}

/// A pending row's table and what happens to it.
pub(super) type Changes = Vec<(TableId, Change)>;

impl Published {
    /// The state of a buffer whose last entry is `last`, all up to `confirmed` being on the replica.
    pub(super) fn new(last: Seq, confirmed: Seq, aside: BTreeMap<Seq, Aside>) -> Published {
        let overlay = Overlay::starting_at(confirmed);
        let quarantined = aside.values().filter(|aside| aside.fate.is_open()).count() as u64;
        Published {
            overlay: ArcSwap::from_pointee(overlay.for_readers()),
            state: Mutex::new(State { overlay, aside, quarantined, available: true, ..State::default() }),
            progress: watch::Sender::new(Progress { last, sent: confirmed, applied: confirmed, confirmed }),
            publishing: AtomicBool::new(false),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change below leaves a usable state at each step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn overlay(&self) -> Arc<Overlay> {
        self.overlay.load_full()
    }

    pub(super) fn progress(&self) -> Progress {
        *self.progress.borrow()
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// Shows durable entries to everybody, in order.
    pub(super) fn publish(&self, entries: Vec<(Record, Changes)>) {
        let Some(last) = entries.last().map(|(record, _)| record.seq()) else { return };
        self.publishing.store(true, Ordering::Relaxed);
        let mut state = self.state();
        self.publishing.store(false, Ordering::Relaxed);
        state.refusing = None;
        for (record, mut changes) in entries {
            let seq = record.seq();
            name_anonymous(&mut changes, seq);
            state.overlay.apply(seq, &changes);
            state.appended += 1;
            state.tally.add(record);
        }
        self.overlay.store(Arc::new(state.overlay.for_readers()));
        drop(state);
        self.progress.send_modify(|progress| progress.last = last);
    }

    /// Replaces the overlay by one that was rebuilt from the log. `restart`: the replica's place and the pending entries
    /// from there on, counted anew.
    pub(super) fn replace_overlay(&self, mut overlay: Overlay, restart: Option<(Seq, Tally)>) {
        let mut state = self.state();
        let restart = restart.map(|(confirmed, tally)| {
            state.tally = tally;
            confirmed
        });
        overlay.trim(restart.unwrap_or(self.progress().confirmed));
        state.overlay = overlay;
        state.generation += 1;
        self.overlay.store(Arc::new(state.overlay.for_readers()));
        // Last: whoever finds the replica at this place takes the overlay that goes with it.
        if let Some(confirmed) = restart {
            self.progress.send_modify(|progress| progress.confirmed = confirmed);
        }
    }

    /// The replica has all entries up to this one.
    pub(super) fn confirm(&self, seq: Seq) {
        let progress = self.progress();
        let seq = seq.min(progress.last);
        if seq <= progress.confirmed {
            return;
        }
        let mut at = progress.confirmed;
        while at < seq {
            at = Seq(at.0 + TRIM_STEP).min(seq);
            // A mutex knows no turns: whoever frees it and asks again at once has it again.
            for _ in 0..YIELDS_MAX {
                if !self.publishing.load(Ordering::Relaxed) {
                    break;
                }
                std::thread::yield_now();
            }
            let mut state = self.state();
            state.overlay.trim(at);
            state.tally.forget_pending(at);
            self.overlay.store(Arc::new(state.overlay.for_readers()));
        }
        self.progress.send_modify(|progress| {
            progress.confirmed = progress.confirmed.max(seq);
            progress.applied = progress.applied.max(seq);
            progress.sent = progress.sent.max(seq);
        });
    }

    pub(super) fn set_sent(&self, seq: Seq) {
        self.progress.send_if_modified(|progress| std::mem::replace(&mut progress.sent, seq) != seq);
    }

    pub(super) fn set_applied(&self, seq: Seq) {
        self.progress.send_if_modified(|progress| std::mem::replace(&mut progress.applied, seq) != seq);
    }

    /// How many entries and bytes are pending.
    pub(super) fn pending(&self) -> (u64, u64) {
        let state = self.state();
        (state.tally.pending.len() as u64, state.tally.pending_bytes)
    }

    /// The entries after `after`, as [`Log::read`](super::log::Log::read) has them, if all of them are in memory.
    pub(super) fn recent_after(&self, after: Seq, limit: usize, bytes: u64) -> Option<Vec<Record>> {
        let state = self.state();
        let first = state.tally.recent.front()?.seq();
        let skip = (after.0 + 1).checked_sub(first.0)?;
        Some(within(state.tally.recent.iter().skip(usize::try_from(skip).ok()?).cloned(), limit, bytes))
    }

    /// The oldest entry that is still in memory.
    pub(super) fn oldest_recent(&self) -> Option<Seq> {
        self.state().tally.recent.front().map(Record::seq)
    }

    pub(super) fn is_quarantined(&self, seq: Seq) -> bool {
        self.state().aside.contains_key(&seq)
    }

    /// What is aside, and whether it is shown.
    pub(super) fn aside(&self) -> (BTreeMap<Seq, Aside>, bool) {
        let state = self.state();
        (state.aside.clone(), state.show_quarantined)
    }

    /// What the log has of an entry. Gives what was known before.
    pub(super) fn set_aside(&self, seq: Seq, aside: Aside) -> Option<Aside> {
        let mut state = self.state();
        state.doubtful.remove(&seq);
        let known = state.aside.insert(seq, aside);
        let before = known.is_some_and(|before| before.fate.is_open());
        state.quarantined = (state.quarantined + u64::from(aside.fate.is_open())).saturating_sub(u64::from(before));
        known
    }

    /// The log has nothing of this entry. What is aside here stays so: it may have got there after the log was asked.
    pub(super) fn not_doubtful(&self, seq: Seq) {
        self.state().doubtful.remove(&seq);
    }

    pub(super) fn doubt_aside(&self, seq: Seq, fate: Fate) {
        self.state().doubtful.insert(seq, fate);
    }

    /// The log must keep what comes after this: there may be the entry that brings a quarantined one again, of which its
    /// record does not know yet.
    pub(super) fn looked_for_after(&self) -> Option<Seq> {
        let state = self.state();
        let known = state.aside.values().map(|aside| match aside.fate {
            Fate::Retrying { after, seq: None } => Some(after),
            Fate::Waiting | Fate::Retrying { .. } | Fate::Retried { .. } | Fate::Skipped => None,
        });
        let doubtful = state.doubtful.values().map(|fate| match fate {
            Fate::Retrying { after, .. } => Some(*after),
            Fate::Waiting | Fate::Retried { .. } | Fate::Skipped => None,
        });
        known.chain(doubtful).flatten().min()
    }

    /// What is being sent again, and what may be.
    pub(super) fn half_done(&self) -> BTreeSet<Seq> {
        let state = self.state();
        let retrying = state.aside.iter().filter(|(_, aside)| matches!(aside.fate, Fate::Retrying { .. }));
        retrying.map(|(seq, _)| *seq).chain(state.doubtful.keys().copied()).collect()
    }

    /// Whether this is new.
    pub(super) fn show_quarantined(&self, show: bool) -> bool {
        std::mem::replace(&mut self.state().show_quarantined, show) != show
    }

    pub(super) fn shows_quarantined(&self) -> bool {
        self.state().show_quarantined
    }

    pub(super) fn count_decision(&self) {
        self.state().decisions += 1;
        // Replay looks when it wakes.
        self.progress.send_modify(|_| {});
    }

    pub(super) fn decisions(&self) -> u64 {
        self.state().decisions
    }

    pub(super) fn generation(&self) -> u64 {
        self.state().generation
    }

    pub(super) fn set_available(&self) {
        let mut state = self.state();
        state.available = true;
        state.last_error = None;
    }

    pub(super) fn set_away(&self, why: String) {
        let mut state = self.state();
        state.available = false;
        state.last_error = Some(why);
    }

    /// The log answers, and does not take what it was given.
    pub(super) fn set_refusing(&self, why: String) {
        self.state().refusing = Some(why);
    }

    /// What the log said to a record of quarantine, or to a lease.
    pub(super) fn answered_aside(&self, answer: &Result<(), LogError>) {
        match answer {
            Ok(()) => self.state().refusing_aside = None,
            Err(LogError::Refused(why)) => self.state().refusing_aside = Some((Instant::now(), why.clone())),
            Err(_) => {}
        }
    }

    /// Says why commits fail, when they do.
    pub(super) fn away(&self) -> Option<String> {
        let state = self.state();
        (!state.available).then(|| state.last_error.clone().unwrap_or_default())
    }

    pub(super) fn status(&self) -> BufferStatus {
        let state = self.state();
        BufferStatus {
            pending: state.tally.pending.len() as u64,
            pending_bytes: state.tally.pending_bytes,
            oldest_pending: state.tally.pending.front().map(|pending| now().saturating_sub(pending.since)),
            pending_rows: state.overlay.row_count() as u64,
            quarantined: state.quarantined,
            available: state.available,
            last_error: state.last_error.clone(),
            refusing: state.refusing.clone().or_else(|| {
                let (since, why) = state.refusing_aside.as_ref()?;
                (since.elapsed() < REFUSAL_TOLD).then(|| why.clone())
            }),
            appended: state.appended,
        }
    }
}

impl Tally {
    /// Counts the next entry as pending.
    pub(super) fn add(&mut self, record: Record) {
        let (seconds, nanos) = record.entry.uuid.get_timestamp().map_or((0, 0), |time| time.to_unix());
        let since = if seconds == 0 { now() } else { Duration::new(seconds, nanos) };
        self.pending.push_back(Pending { seq: record.seq(), bytes: record.bytes(), since });
        self.pending_bytes += record.bytes();
        self.keep_recent(record);
    }

    fn forget_pending(&mut self, upto: Seq) {
        while let Some(oldest) = self.pending.front().copied().filter(|pending| pending.seq <= upto) {
            self.pending.pop_front();
            self.pending_bytes -= oldest.bytes;
        }
    }

    fn keep_recent(&mut self, record: Record) {
        if self.recent.back().is_some_and(|last| last.seq().next() != record.seq()) {
            self.recent.clear();
            self.recent_bytes = 0;
        }
        self.recent_bytes += held_bytes(&record);
        self.recent.push_back(record);
        while self.recent_bytes > RECENT_BYTES_MAX && self.recent.len() > 1 {
            let dropped = self.recent.pop_front().map_or(0, |record| held_bytes(&record));
            self.recent_bytes -= dropped;
        }
    }
}

/// What a record takes in memory, about: its JSON, and the same once more as an entry, of many small pieces.
fn held_bytes(record: &Record) -> u64 {
    5 * record.bytes()
}

/// Rows without a key are named after their entry, which only now has its number.
fn name_anonymous(changes: &mut Changes, seq: Seq) {
    for (_, change) in changes {
        match change {
            Change::Insert { row, .. } | Change::Update { row, .. } | Change::Delete { row } => {
                if let RowId::Anonymous(entry, _) = row {
                    *entry = seq;
                }
            }
            Change::Truncate | Change::Defined { .. } => {}
        }
    }
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
