//! One connection's life: keep transactions under way, judge what comes back. How it begins: [`super::greeting`].

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::ahead::Ahead;
use super::drift::Definitions;
use super::flight::{Cargo, Crashed, Flight, Frame, Landed, Surprise};
use super::held::{Held, Tables};
use super::statements::Statements;
use super::status::{ReplayState, ReplayStatus};
use super::verdict::{self, StepKind, Verdict};
use super::{Ending, ReplayConfig, flight, steps};
use crate::buffer::{Buffer, Quarantined};
use crate::entry::{Entry, Seq};
use crate::upstream::own::{self, Server};

/// With so many under way only whole groups follow: what comes meanwhile gathers into larger ones.
const FLIGHTS: usize = 32;
const FLIGHT_BYTES: usize = 32 << 20;
/// The patience to begin with, and for short questions.
pub(super) const STALL: Duration = Duration::from_secs(20);
const STALL_MAX: Duration = Duration::from_secs(600);
/// How often an idle connection is tried.
const IDLE_PROBE: Duration = Duration::from_secs(5);
/// How long shutdown waits for what is under way.
const FAREWELL: Duration = Duration::from_secs(2);

pub(super) struct Session<'a> {
    pub(super) buffer: &'a Buffer,
    pub(super) main: &'a Server,
    pub(super) site: &'a str,
    pub(super) config: &'a ReplayConfig,
    pub(super) status: &'a watch::Sender<ReplayStatus>,
    shutdown: &'a CancellationToken,
    /// How long main may be silent with something under way: then the link is dead although nobody said so. Doubles when
    /// it was for nothing, since a statement may take long.
    patience: &'a mut Duration,
    pub(super) statements: Statements,
    /// What is known of main's tables, to tell whether entries still fit them.
    pub(super) definitions: Definitions,
    pub(super) flights: VecDeque<Flight>,
    /// What has been read of the buffer.
    pub(super) ahead: Ahead,
    /// The last entry that has been sent on this connection, or that main has.
    pub(super) sent: Seq,
    /// Entries up to here go one by one: a group that held them failed.
    alone_until: Seq,
    /// How many transactions may be under way now: few after a rejection, for what follows it is sent in vain.
    window: usize,
    /// What quarantined entries did.
    pub(super) held: Held,
    /// How many decisions about quarantined entries `held` knows of.
    pub(super) held_since: u64,
    /// Quarantined entries that have been applied as new ones, and those.
    retried: Vec<(Seq, Seq)>,
}

/// A connection ready for work.
pub(super) struct Link {
    pub(super) client: Arc<Client>,
    pub(super) frame: Frame,
    pub(super) role: String,
}

impl<'a> Session<'a> {
    pub(super) fn new(
        buffer: &'a Buffer,
        main: &'a Server,
        site: &'a str,
        config: &'a ReplayConfig,
        status: &'a watch::Sender<ReplayStatus>,
        shutdown: &'a CancellationToken,
        patience: &'a mut Duration,
    ) -> Session<'a> {
        Session {
            buffer,
            main,
            site,
            config,
            status,
            shutdown,
            patience,
            statements: Statements::new(config.conflicts.clone()),
            definitions: Definitions::default(),
            flights: VecDeque::new(),
            ahead: Ahead::default(),
            sent: Seq::ZERO,
            alone_until: Seq::ZERO,
            window: config.window as usize,
            held: Held::default(),
            held_since: 0,
            retried: Vec::new(),
        }
    }

    /// Connects and replays until something ends it.
    pub(super) async fn run(&mut self) -> Ending {
        let shutdown = self.shutdown;
        let work = async {
            match self.connect().await {
                Ok(link) => match self.remember_held(&link).await {
                    Ok(()) => {
                        let ended = self.pump(&link).await;
                        self.note_applied(true).await;
                        ended
                    }
                    Err(ending) => Err(ending),
                },
                Err(ending) => Err(ending),
            }
        };
        let overdue = async {
            shutdown.cancelled().await;
            tokio::time::sleep(FAREWELL + Duration::from_millis(500)).await;
        };
        tokio::select! {
            biased;
            ended = work => ended.err().unwrap_or(Ending::Shutdown),
            () = overdue => Ending::Shutdown,
        }
    }

    /// Sends and receives until shutdown (`Ok`) or until the connection is of no more use.
    async fn pump(&mut self, link: &Link) -> Result<(), Ending> {
        let mut progress = self.buffer.progress();
        let mut answered = (self.sent, 0);
        let mut last_answer = Instant::now();
        loop {
            progress.borrow_and_update();
            self.fill(link).await?;
            let shutdown = self.shutdown;
            let Some(flight) = self.flights.front_mut() else {
                self.status.send_modify(|status| status.state = ReplayState::Idle);
                tokio::select! {
                    biased;
                    () = shutdown.cancelled() => return Ok(()),
                    _ = progress.changed() => {}
                    () = tokio::time::sleep(IDLE_PROBE) => self.probe(link).await?,
                }
                last_answer = Instant::now();
                continue;
            };
            let now = (flight.last, flight.answered());
            if now != answered {
                (answered, last_answer) = (now, Instant::now());
            }
            let landing = tokio::select! {
                biased;
                () = shutdown.cancelled() => return self.farewell().await,
                landing = flight.landing() => landing,
                () = tokio::time::sleep_until(last_answer + *self.patience) => {
                    if flight.answered() != answered.1 {
                        continue;
                    }
                    let silent = *self.patience;
                    *self.patience = (silent * 2).min(STALL_MAX);
                    return Err(Ending::Away(format!("main has not answered for {} s", silent.as_secs())));
                }
                // Last: commits that never cease keep none of the others from being looked at.
                _ = progress.changed() => continue,
            };
            last_answer = Instant::now();
            match landing {
                Ok(landed) => {
                    self.landed(&landed);
                    let retried = std::mem::take(&mut self.retried);
                    self.retries_decided(&retried).await?;
                    self.note_applied(false).await;
                }
                Err(crashed) => self.crashed(link, crashed).await?,
            }
        }
    }

    /// Sends what there is, as long as there is room.
    async fn fill(&mut self, link: &Link) -> Result<(), Ending> {
        loop {
            let bytes: usize = self.flights.iter().map(|flight| flight.bytes).sum();
            if self.flights.len() >= self.window || bytes >= FLIGHT_BYTES {
                return Ok(());
            }
            let limit = if self.sent < self.alone_until { 1 } else { self.config.group as usize };
            let waiting = self.buffer.progress().borrow().last.0.saturating_sub(self.sent.0);
            if self.flights.len() >= FLIGHTS && waiting < limit as u64 {
                return Ok(());
            }
            let (entries, bytes) = self.ahead.group(self.buffer, self.sent, limit).await?;
            if entries.is_empty() {
                return Ok(());
            }
            // After a failed preparation with nothing under way the place has been found anew: on from there.
            if !self.launch(link, entries, bytes).await? && !self.flights.is_empty() {
                return Ok(());
            }
        }
    }

    /// Sends one transaction. `false`: it could not be prepared, and what follows from it has been done.
    async fn launch(&mut self, link: &Link, mut entries: Vec<Arc<Entry>>, bytes: usize) -> Result<bool, Ending> {
        if self.held_since != self.buffer.quarantine_decisions() {
            self.remember_held(link).await?;
        }
        let fitting = self.fit(link, &entries).await?;
        entries.truncate(fitting.len());
        if entries.is_empty() {
            return Ok(false);
        }
        let tables = self.known_tables(link, &fitting).await?;
        if self.held.is_outdated(&tables) {
            self.held = Held::default();
            self.remember_held(link).await?;
        }
        self.hold_back(&entries, &fitting, &tables).await?;
        let dead = |_| Ending::Away("main does not answer".to_owned());
        let rejected = self.rejected(&entries).await?;
        let ground = steps::Ground { site: self.site, main: &tables };
        let mut made = Vec::new();
        let mut before: Option<(usize, &Entry)> = None;
        for (place, entry) in fitting.iter().enumerate() {
            // In quarantine: the ledger goes past it, nothing else happens.
            if self.buffer.is_quarantined(entry.seq) {
                let record = rejected.iter().find(|record| record.seq == entry.seq);
                made.extend(record.and_then(|record| steps::rejected::log(self.site, place, record)));
                continue;
            }
            let judged = before.is_some_and(|(place, before)| steps::judge(&mut made, place, before, ground));
            let join = !judged && before.is_some_and(|(_, before)| before.role == entry.role);
            steps::add(&mut made, place, entry, ground, join);
            before = Some((place, entry));
        }
        let (from, last) = (self.sent, entries.last().map_or(self.sent, |entry| entry.seq));
        let prepared = timeout(STALL, self.statements.prepare(&link.client, &made)).await.map_err(dead)?;
        if let Err(unprepared) = prepared {
            // Those before it go first: their failure may be the reason.
            if !self.flights.is_empty() {
                return Ok(false);
            }
            let step = StepKind::Effect { entry: unprepared.entry, effect: unprepared.effect, rows: 0 };
            self.failed(link, Crashed { step, error: unprepared.error }, &entries).await?;
            return Ok(false);
        }
        self.buffer.set_sent(last);
        let version = self.definitions.version().filter(|_| !made.is_empty());
        let cargo = Cargo { entries, steps: made, bytes, from, site: self.site, own_role: &link.role, version };
        let statements = &self.statements;
        self.flights.push_back(Flight::start(&link.client, &link.frame, cargo, |sql| statements.get(sql)));
        self.sent = last;
        self.status.send_modify(|status| status.state = ReplayState::Replaying);
        Ok(true)
    }

    /// What is known of those entries that are in quarantine.
    async fn rejected(&self, entries: &[Arc<Entry>]) -> Result<Vec<Quarantined>, Ending> {
        let aside = entries.iter().map(|entry| entry.seq).filter(|seq| self.buffer.is_quarantined(*seq));
        // At once, and by their numbers: the entries are one group, and an index of all of them is asked for in vain each time.
        let records = self.buffer.quarantined_of(&aside.collect::<Vec<_>>()).await;
        let mut records = records.map_err(|error| Ending::Refused(error.to_string()))?;
        records.retain(|record| record.fate.is_open());
        Ok(records)
    }

    /// What main says about the entries' tables.
    pub(super) async fn known_tables(&mut self, link: &Link, entries: &[Arc<Entry>]) -> Result<Arc<Tables>, Ending> {
        let asked = timeout(STALL, self.statements.tables(&link.client, entries)).await;
        let tables = asked.map_err(|_| Ending::Away("main does not answer".to_owned()))?;
        tables.map_err(|error| ended(StepKind::Begin, error))
    }

    fn landed(&mut self, landed: &Landed) {
        let Some(flight) = self.flights.pop_front() else { return };
        for surprise in &landed.surprises {
            conflict(&flight.entries[surprise.entry], surprise);
        }
        self.buffer.set_applied(flight.last);
        // The ledger goes past rejected ones.
        let applied = flight.entries.iter().filter(|entry| !self.buffer.is_quarantined(entry.seq)).count();
        self.ahead.forget_before(flight.last);
        self.retried.extend(flight.entries.iter().filter_map(|entry| Some((entry.retry_of?.seq, entry.seq))));
        *self.patience = STALL;
        self.window = (self.window * 2).min(self.config.window as usize);
        debug!(last = %flight.last, entries = flight.entries.len(), "applied");
        self.status.send_modify(|status| {
            status.applied(applied as u64, flight.begun.elapsed());
            for surprise in &landed.surprises {
                let entry = &flight.entries[surprise.entry];
                let table = entry.effects.get(surprise.effect).and_then(|effect| entry.tables.get(effect.table()));
                let table = table.map(|table| table.name.to_string()).unwrap_or_default();
                surprise.outcomes.iter().for_each(|(outcome, rows)| status.conflict(&table, *outcome, *rows));
            }
            status.ledger = Some(flight.last);
            status.main_lsn = landed.place.or(status.main_lsn);
        });
    }

    async fn crashed(&mut self, link: &Link, crashed: Crashed) -> Result<(), Ending> {
        let Some(flight) = self.flights.pop_front() else { return Ok(()) };
        let entries = flight.into_entries();
        // What was sent after it fails with it.
        self.flights.clear();
        self.failed(link, crashed, &entries).await
    }

    /// Decides what a failed transaction means. Whatever was sent after it fails by its ledger step.
    async fn failed(&mut self, link: &Link, crashed: Crashed, entries: &[Arc<Entry>]) -> Result<(), Ending> {
        let Crashed { step, error } = crashed;
        let last = entries.last().map_or(self.sent, |entry| entry.seq);
        let verdict = match verdict::verdict(step, &error, entries.len() > 1) {
            // What main refused may not be what the entry says: it was put into names and types that main has no more.
            Verdict::Reject if self.definitions_changed(link).await? => Verdict::ReadDefinitions,
            verdict => verdict,
        };
        match verdict {
            Verdict::Retry => return Err(ended(step, error)),
            Verdict::Halt(advice) => return Err(Ending::Halted(format!("{advice} ({error})"))),
            Verdict::ReadLedger => info!(%error, "reading main's ledger again"),
            Verdict::ReadDefinitions => {
                debug!(%error, "main's definitions have changed");
                self.definitions.clear();
                self.statements.clear();
            }
            Verdict::RetryWithoutGroup => {
                debug!(%error, ?step, upto = %last, "a group failed; its entries go one by one");
                self.alone_until = self.alone_until.max(last);
                // What we know of main's tables may be out of date.
                self.definitions.clear();
                self.statements.clear();
            }
            Verdict::Reject if self.alone_until < last => {
                // It was alone by chance: once more, with fresh knowledge of main's tables, before it is put aside.
                self.alone_until = last;
                self.statements.clear();
            }
            Verdict::Reject => {
                self.window = 1;
                self.reject(link, &entries[0], step, &error).await?;
            }
        }
        timeout(STALL, self.find_place(&link.client))
            .await
            .map_err(|_| Ending::Away("main does not answer".to_owned()))?
    }

    /// Whether main's definitions are not those any more that entries were fitted to.
    async fn definitions_changed(&self, link: &Link) -> Result<bool, Ending> {
        let Some(version) = self.definitions.version() else { return Ok(false) };
        let asked = timeout(STALL, flight::unchanged(&link.client, &link.frame, self.site, version)).await;
        match asked.map_err(|_| Ending::Away("main does not answer".to_owned()))? {
            Ok(()) => Ok(false),
            Err(error) => match verdict::verdict(StepKind::Definitions, &error, false) {
                Verdict::ReadDefinitions => Ok(true),
                _ => Err(ended(StepKind::Definitions, error)),
            },
        }
    }

    /// Tries an idle connection, and learns main's place.
    async fn probe(&self, link: &Link) -> Result<(), Ending> {
        let query = link.client.query_one("SELECT pg_catalog.pg_current_wal_insert_lsn()::text", &[]);
        let answer = timeout(STALL, query).await;
        let row = answer.map_err(|_| Ending::Away("main does not answer".to_owned()))?;
        let row = row.map_err(|error| ended(StepKind::Begin, error.into()))?;
        let place = row.try_get::<_, &str>(0).ok().and_then(|text| text.parse().ok());
        self.buffer.main_answers();
        self.note_applied(false).await;
        self.status.send_modify(|status| {
            status.main_lsn = place.or(status.main_lsn);
            status.rate(0);
        });
        Ok(())
    }

    /// Has the buffer remember how far main's ledger is.
    async fn note_applied(&self, at_once: bool) {
        let ledger = self.status.borrow().ledger;
        if let Some(ledger) = ledger {
            self.buffer.note_applied(ledger, at_once).await;
        }
    }

    /// Waits, within bounds, for what is under way; what is not heard of, the ledger will tell next time.
    async fn farewell(&mut self) -> Result<(), Ending> {
        let all = async {
            while let Some(flight) = self.flights.front_mut() {
                match flight.landing().await {
                    Ok(landed) => self.landed(&landed),
                    Err(_) => return,
                }
            }
        };
        let _ = timeout(FAREWELL, all).await;
        Ok(())
    }
}

/// How a failure that is no entry's fault ends the session.
pub(super) fn ended(step: StepKind, error: own::Error) -> Ending {
    match (verdict::verdict(step, &error, false), error) {
        (Verdict::Halt(advice), error) => Ending::Halted(format!("{advice} ({error})")),
        (_, own::Error::Connection(why)) => Ending::Away(why),
        (_, error @ (own::Error::Server(_) | own::Error::Unexpected(_))) => {
            let advice = verdict::advice(&error);
            Ending::Refused(if advice.is_empty() { error.to_string() } else { format!("{error}: {advice}") })
        }
    }
}

/// The log on main has the values; here, that there is something to look at.
fn conflict(entry: &Entry, surprise: &Surprise) {
    let effect = entry.effects.get(surprise.effect);
    let table = effect.and_then(|effect| entry.tables.get(effect.table())).map(|table| table.name.to_string());
    let outcomes: Vec<String> =
        surprise.outcomes.iter().map(|(outcome, rows)| format!("{} {rows}", outcome.as_str())).collect();
    info!(seq = %entry.seq, table, effect = surprise.effect, outcomes = outcomes.join(", "), "conflict");
}
