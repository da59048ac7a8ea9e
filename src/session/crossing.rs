//! Where a session's writes and those of the other side meet; see [`super::sides`].

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::failure::Failure;
use super::locks::LockError;
use super::settings::Settings;
use super::sides::{Entered, Moment, PATIENCE, Way};
use super::transaction::{Phase, Route};
use super::{Session, Waited};
use crate::catalog::TableId;
use crate::overlay::Overlay;
use crate::report::Report;
use crate::sql::{self, Class, LockedRelation, Plan, Statement, WriteKind, WritePlan, Writes};
use crate::sqlstate;
use crate::upstream::raw::ConnectError;

/// How often who waits looks whether main can still be reached.
const LOOK: Duration = Duration::from_millis(250);

/// What a write does to its table.
fn writes_of(plan: &WritePlan) -> (TableId, Writes) {
    (plan.target.id, Writes::of(&plan.target, plan.kind == WriteKind::Insert))
}

impl Session {
    /// Whether a write that could be evaluated here has to go to main, since a straight transaction is writing its table
    /// there, and has for a while. Waits for a short one.
    pub(super) async fn crossing(&mut self, statement: &Statement) -> Result<Option<Report>, Failure> {
        if !self.shared.sides.is_claimed() || self.transaction.route == Route::Straight {
            return Ok(None);
        }
        let settings = self.settings().await?;
        let began = Instant::now();
        let until = settings.lock_timeout().map(|limit| began + limit);
        for (table, writes) in self.to_be_written(statement, &settings) {
            loop {
                let changed = self.shared.sides.changed();
                match self.seat.way(table, writes, began.elapsed()) {
                    Way::Free => break,
                    _ if !self.main_answers() => self.seat.overtake(table),
                    Way::Wait => self.side_changes(changed, until).await?,
                    Way::Main if !self.may_cross(&settings).await? => break,
                    Way::Main => match self.reach_main().await? {
                        Ok(()) => {
                            let message = "a transaction that runs on main is writing the same table";
                            return Ok(Some(Report::new(sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE, message)));
                        }
                        Err(ConnectError::Unreachable(_) | ConnectError::Timeout(_)) => self.seat.overtake(table),
                        // Main is there, but not for this client: it waits.
                        Err(_) => break,
                    },
                }
            }
        }
        Ok(None)
    }

    fn to_be_written(&self, statement: &Statement, settings: &Settings) -> Vec<(TableId, Writes)> {
        let catalog = self.shared.catalog.current();
        if let Class::Truncate(truncate) = &statement.class {
            let tables = truncate.plan(&catalog, &settings.schemas).map(|plan| plan.tables).unwrap_or_default();
            return tables.iter().map(|table| (table.id, Writes::Rows)).collect();
        }
        match &*self.shared.statements.plan(statement, &catalog, &settings.schemas, &self.shared.site) {
            Ok(Plan::Write(plan)) => vec![writes_of(plan)],
            Ok(Plan::Copy(plan)) => vec![writes_of(&plan.insert)],
            Ok(Plan::With(plan)) => plan.writes_planned().iter().map(writes_of).collect(),
            Ok(Plan::Read(plan)) => plan.locking().iter().map(|relation| (relation.table.id, Writes::Rows)).collect(),
            Err(_) => Vec::new(),
        }
    }

    /// Whether the transaction can go on on main, at once.
    async fn may_cross(&mut self, settings: &Settings) -> Result<bool, Failure> {
        let mut progress = self.shared.buffer.progress();
        let last = progress.borrow_and_update().last;
        let drained = timeout_at(Instant::now() + PATIENCE, async move {
            progress.wait_for(|progress| progress.applied >= last).await.is_ok()
        });
        match self.wait(drained).await? {
            Waited::Done(Ok(true)) => {}
            Waited::Done(_) => return Ok(false),
            Waited::Cancelled => return Err(super::straight::canceled().into()),
        }
        if !self.reads_committed(settings) && self.transaction.phase == Phase::Open {
            // Its snapshot is the site's.
            return Ok(false);
        }
        if !self.transaction.work.is_empty() {
            return match self.may_hand_over().await {
                Ok(()) => Ok(true),
                Err(Failure::Own(_)) => Ok(false),
                Err(failure) => Err(failure),
            };
        }
        let in_pipeline = self.transaction.phase == Phase::Idle && self.batch;
        Ok(!in_pipeline || (self.binds <= 1 && self.ends_pipeline().await?.is_some()))
    }

    /// Whether main could be reached when replay last looked.
    pub(super) fn main_answers(&self) -> bool {
        self.shared.status.replay().link_up
    }

    /// To be asked before the replica takes the snapshot that a write is evaluated in, or told what it was then.
    pub(super) fn evaluated(&self, settings: &Settings) -> Moment {
        match &self.pinned {
            Some(pinned) => pinned.moment,
            None if self.transaction.phase == Phase::Open && !self.reads_committed(settings) => self.transaction.begun,
            None => self.shared.sides.moment(),
        }
    }

    /// Notes that the transaction has written what was evaluated, once its rows are locked. True: a straight transaction
    /// may have changed it since it was `evaluated`, so it has to be evaluated again.
    ///
    /// # Errors
    /// 40001 at REPEATABLE READ in that case; 55P03 after the client's `lock_timeout`.
    pub(super) async fn enter(
        &mut self,
        (table, writes): (TableId, Writes),
        evaluated: Moment,
        settings: &Settings,
    ) -> Result<bool, Failure> {
        let began = Instant::now();
        let until = settings.lock_timeout().map(|limit| began + limit);
        loop {
            let changed = self.shared.sides.changed();
            match self.seat.enter(table, writes, evaluated, began.elapsed()) {
                Entered::In => return Ok(false),
                Entered::Changed if self.reads_committed(settings) => return Ok(true),
                Entered::Changed => {
                    let detail = "A transaction that ran on main has written the same table since this one began.";
                    return Err(sql::concurrent("update").detail(detail).into());
                }
                Entered::Busy if !self.main_answers() => self.seat.overtake(table),
                Entered::Busy => self.side_changes(changed, until).await?,
            }
        }
    }

    /// The same for a planned write.
    pub(super) async fn enter_for(
        &mut self,
        plan: &WritePlan,
        evaluated: Moment,
        settings: &Settings,
    ) -> Result<bool, Failure> {
        self.enter(writes_of(plan), evaluated, settings).await
    }

    /// The same for rows that are locked and perhaps not written.
    pub(super) async fn enter_to_lock(
        &mut self,
        locking: &[LockedRelation],
        evaluated: Moment,
        settings: &Settings,
    ) -> Result<bool, Failure> {
        let mut again = false;
        for relation in locking {
            again |= self.enter((relation.table.id, Writes::Rows), evaluated, settings).await?;
            self.seat.keep(relation.table.id);
        }
        Ok(again)
    }

    /// Waits until something is over on one of the sides, or it is time to look again.
    async fn side_changes(&mut self, changed: impl Future<Output = ()>, until: Option<Instant>) -> Result<(), Failure> {
        let now = Instant::now();
        if until.is_some_and(|until| until <= now) {
            return Err(LockError::Timeout.report().into());
        }
        let look = until.map_or(now + LOOK, |until| until.min(now + LOOK));
        match self.wait(timeout_at(look, changed)).await? {
            Waited::Done(_) => Ok(()),
            Waited::Cancelled => Err(super::straight::canceled().into()),
        }
    }

    /// Claims the tables of straight statements, and waits until no open transaction of the site has them. Returns whether
    /// there is anything new.
    ///
    /// # Errors
    /// 55P03 when one has them for too long.
    pub(super) async fn claim(&mut self, statements: &[Statement]) -> Result<bool, Failure> {
        let settings = self.settings().await?;
        let mut tables = Vec::new();
        for statement in statements {
            let written = self.straightly_written(statement, &settings).await?;
            self.pipeline.unseen |= self.acts_unseen(statement, &written, &settings);
            tables.extend(written);
        }
        self.claim_tables(&tables, false, &settings).await
    }

    /// The same for these; `alone`: also against other straight transactions.
    pub(super) async fn claim_tables(
        &mut self,
        tables: &[(TableId, Writes)],
        alone: bool,
        settings: &Settings,
    ) -> Result<bool, Failure> {
        if self.seat.has_claimed(tables) {
            return Ok(false);
        }
        self.seat.claim(tables, alone);
        let granted = self.claims_granted(settings).await;
        self.locks.waits_no_more();
        granted
    }

    async fn claims_granted(&mut self, settings: &Settings) -> Result<bool, Failure> {
        let own = self.shared.limits.straight;
        let limit = settings.lock_timeout().map_or(own, |limit| limit.min(own));
        let until = Instant::now() + limit;
        loop {
            let changed = self.shared.sides.changed();
            if self.seat.granted() {
                return Ok(true);
            }
            if let Err(deadlock) = self.locks.waits_elsewhere(self.seat.waits_for().into_iter()) {
                self.seat.give_up();
                return Err(deadlock.report().into());
            }
            let waited = self.wait(timeout_at(until, changed)).await;
            match waited {
                Ok(Waited::Done(Ok(()))) => continue,
                Ok(Waited::Done(Err(_)) | Waited::Cancelled) | Err(_) => self.seat.give_up(),
            }
            return match waited? {
                Waited::Cancelled => Err(super::straight::canceled().into()),
                Waited::Done(_) => {
                    let message = "this statement goes straight to main, and another transaction of the site has \
                                   written the same table";
                    Err(Report::new(sqlstate::LOCK_NOT_AVAILABLE, message)
                        .detail(format!("It was waited for {} ms.", limit.as_millis()))
                        .hint("Try again when that transaction is over.")
                        .into())
                }
            };
        }
    }

    /// The tables that a straight statement writes, as far as its text tells.
    async fn straightly_written(
        &mut self,
        statement: &Statement,
        settings: &Settings,
    ) -> Result<Vec<(TableId, Writes)>, Failure> {
        let catalog = self.shared.catalog.current();
        // What the transaction has set on main is known at its end only.
        let path = (!self.pipeline.sets).then_some(&*settings.schemas);
        let Class::Execute { name } = &statement.class else {
            return Ok(sql::written(statement, &catalog, path));
        };
        let named = if self.transaction.phase == Phase::Failed { None } else { self.find_named(name).await? };
        let inner = named.map(|named| self.shared.statements.parse(&named.into_parse().0));
        let inner = inner.as_ref().and_then(|parsed| parsed.single());
        Ok(inner.map_or_else(Vec::new, |inner| sql::written(inner, &catalog, path)))
    }

    /// The connection to main is gone, and whatever was done there is over.
    pub(super) fn lose_main(&mut self) {
        self.main = None;
        self.seat.leave_main(true);
    }

    /// Whether a straight statement may write more tables than those that its text names.
    fn acts_unseen(&self, statement: &Statement, named: &[(TableId, Writes)], settings: &Settings) -> bool {
        let catalog = self.shared.catalog.current();
        let of_triggers = |id: &TableId| catalog.relations.get(id).is_some_and(|table| table.has_triggers);
        match &statement.class {
            Class::Query => !self.only_reads(statement, settings),
            Class::Straight { ddl: true, .. } => {
                let first = statement.text.split_whitespace().next().unwrap_or_default();
                first.eq_ignore_ascii_case("call") || first.eq_ignore_ascii_case("do")
            }
            Class::Execute { .. } => true,
            _ => named.iter().any(|(table, _)| of_triggers(table)),
        }
    }

    /// Claims what main has locked for the open straight transaction, as far as nobody has it here.
    pub(super) async fn claim_unseen(&mut self) -> Result<(), Failure> {
        if self.transaction.phase != Phase::Open || !std::mem::take(&mut self.pipeline.unseen) {
            return Ok(());
        }
        let locked = "SELECT pg_catalog.json_agg(DISTINCT l.relation::pg_catalog.int8) FROM pg_catalog.pg_locks l \
             WHERE l.pid = pg_catalog.pg_backend_pid() AND l.locktype = 'relation' AND l.mode <> 'AccessShareLock'";
        let asked = self.ask_main(locked).await?.unwrap_or_default();
        let oids: Vec<u32> = serde_json::from_str(&asked).unwrap_or_default();
        let catalog = self.shared.catalog.current();
        let tables = oids.into_iter().map(TableId).filter(|id| catalog.relations.contains_key(id));
        let tables: Vec<(TableId, Writes)> = tables.map(|table| (table, Writes::Rows)).collect();
        self.seat.claim(&tables, false);
        if !self.seat.granted() {
            self.seat.give_up();
        }
        Ok(())
    }

    /// Fails a straight transaction whose tables others have written here since, because main could not be reached.
    pub(super) fn not_overtaken(&mut self) -> Result<(), Report> {
        if !self.seat.is_overtaken() {
            return Ok(());
        }
        // With its connection main's transaction ends, too.
        self.lose_main();
        let message = "could not serialize access due to writes at the site while main could not be reached";
        Err(Report::new(sqlstate::SERIALIZATION_FAILURE, message).hint("Run the transaction again."))
    }
}

/// What all parts of a statement see.
#[derive(Debug, Clone)]
pub(super) struct Pinned {
    pub(super) overlay: Arc<Overlay>,
    pub(super) moment: Moment,
}
