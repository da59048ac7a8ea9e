//! Reads: which overlay a statement sees, and the rewritten text that shows it.
//!
//! The overlay is taken *before* the statement is sent: whatever the replica's snapshot has on top of it is told apart
//! by the ledger gate in the statement itself. A repeatable read keeps the overlay of its first statement, as the
//! replica keeps the snapshot.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::Session;
use super::failure::{End, Failure};
use super::relay::{Expect, is_recovery_conflict};
use super::serve::TRIES;
use super::settings::{PROBE, ReadLevel, Settings};
use super::statements::{Description, Parsed, Place, Portal, PortalState, Prepared};
use super::transaction::Phase;
use super::with::OneSnapshot;
use crate::overlay::{Overlay, View};
use crate::report::Report;
use crate::sql::{Isolation, Parameters, Plan, Rendered, Statement};
use crate::sqlstate::{self, SqlState};
use crate::status::StatementKind;
use crate::wire::build::Argument;
use crate::wire::read::{Bind, data_row, expand, format_places};
use crate::wire::{HEADER, build, error};

/// The gate's own: the catalog is newer than the plan.
const CATALOG_CHANGED: SqlState = SqlState(*b"PO002");

/// The client's values in a Bind, as `sql` looks at them.
#[derive(Debug, Default)]
pub(super) struct Given<'a> {
    pub types: &'a [u32],
    pub binary: Vec<bool>,
    pub values: Vec<Option<&'a [u8]>>,
}

impl<'a> Given<'a> {
    pub(super) fn of(bind: &Bind<'a>, types: &'a [u32]) -> Given<'a> {
        Given { types, binary: bind.binary(), values: bind.values.clone() }
    }

    pub(super) fn parameters(&self) -> Parameters<'_> {
        Parameters { types: self.types, binary: &self.binary, values: &self.values }
    }

    /// The values of the rewritten statement: the client's, then ours.
    pub(super) fn with<'b>(&'b self, rendered: &'b Rendered) -> Vec<Argument<'b>> {
        let given = self.values.iter().zip(&self.binary);
        let given = given.map(|(&value, &binary)| Argument { binary, value });
        let extra = rendered.extra.iter().map(|extra| Argument { binary: true, value: Some(&extra.value[..]) });
        given.chain(extra).collect()
    }

    pub(super) fn types_with(&self, rendered: &Rendered) -> Vec<u32> {
        self.types.iter().copied().chain(rendered.extra.iter().map(|extra| extra.type_oid)).collect()
    }
}

/// What the error of a rewritten statement means for trying it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    /// With a newer catalog.
    Reload,
    /// As it is.
    Repeat,
    /// With a newer catalog, if there is one: what it names may have gone, or be of another type.
    Doubt,
    No,
}

/// How far an execution had come when it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Passed {
    Nothing,
    /// It was planned.
    Bound,
    /// The client has had something of its answer.
    Rows,
}

pub(super) fn again(message: &[u8]) -> Again {
    if is_recovery_conflict(&message[HEADER..]) {
        return Again::Repeat;
    }
    match error::code(&message[HEADER..]) {
        CATALOG_CHANGED => Again::Reload,
        // The last: "cached plan must not change result type".
        code if code.class() == "42" || [sqlstate::INTERNAL_ERROR, sqlstate::FEATURE_NOT_SUPPORTED].contains(&code) => {
            Again::Doubt
        }
        _ => Again::No,
    }
}

/// A RowDescription with the formats of a Bind; NoData when there are no columns.
pub(super) fn described(description: &Description, results: &[i16]) -> Result<BytesMut, Failure> {
    let mut message = BytesMut::new();
    let Some(columns) = &description.columns else {
        build::bare(&mut message, b'n');
        return Ok(message);
    };
    message.extend_from_slice(columns);
    let places = format_places(&columns[HEADER..])?;
    for (place, format) in places.iter().zip(expand(results, places.len())) {
        message[HEADER + place..HEADER + place + 2].copy_from_slice(&format.to_be_bytes());
    }
    Ok(message)
}

impl Session {
    /// Whether the statement, and its transaction, can see nothing of ours.
    pub(super) fn nothing_pending(&mut self) -> bool {
        let now = self.overlay();
        let empty = now.is_empty() && self.transaction.work.is_empty();
        if self.transaction.phase == Phase::Open {
            // Kept in case the transaction is a repeatable read.
            self.transaction.looked = true;
            return self.transaction.frozen(|| now).is_empty() && empty;
        }
        empty
    }

    /// Keeps the overlay before the replica takes a repeatable read's snapshot, which nearly everything makes it do, a
    /// question of ours, too: called wherever something is written to it. An overlay of later on may lack entries that this
    /// snapshot does not have.
    pub(super) fn freeze(&mut self) {
        if self.transaction.phase == Phase::Open && self.transaction.first.is_none() {
            let now = self.overlay();
            self.transaction.frozen(|| now);
        }
    }

    /// The overlay that the next statement sees.
    pub(super) fn base(&mut self, settings: &Settings) -> Arc<Overlay> {
        let now = self.overlay();
        match self.isolation(settings) {
            Isolation::ReadUncommitted | Isolation::ReadCommitted => {
                self.pinned.as_ref().map_or(now, |pinned| Arc::clone(&pinned.overlay))
            }
            Isolation::RepeatableRead | Isolation::Serializable => {
                self.transaction.looked = true;
                self.transaction.frozen(|| now)
            }
        }
    }

    /// A statement that may change settings is about to run.
    pub(super) fn changes_settings(&mut self, changes: bool) {
        if changes {
            self.settings = None;
            // Until it is known that it was not rolled back.
            self.settings_changed = true;
            self.names.forget_descriptions();
        }
    }

    /// A SET or its like is about to run.
    pub(super) fn sets(&mut self, text: &str) {
        self.local_settings |= text.to_ascii_lowercase().contains("local");
        self.changes_settings(true);
    }

    /// A statement that may change settings without saying SET is about to run, or has run: by `set_config`, or by a function of
    /// somebody's own that calls it. Returns whether it is one.
    pub(super) fn may_set(&mut self, parsed: &Parsed) -> bool {
        if parsed.sets_config {
            self.local_settings = true;
            self.changes_settings(true);
            return true;
        }
        let may = parsed.calls_own(&self.shared.catalog.current());
        self.local_settings |= may;
        if may {
            self.settings_may_differ();
        }
        may
    }

    /// Settings are asked for again; what hangs on them is forgotten if they differ.
    pub(super) fn settings_may_differ(&mut self) {
        self.settings_before = self.settings.take().or(self.settings_before.take());
        self.settings_changed = true;
    }

    /// The session's settings, as the replica has them.
    pub(super) async fn settings(&mut self) -> Result<Arc<Settings>, Failure> {
        if let Some(settings) = &self.settings {
            return Ok(Arc::clone(settings));
        }
        let rows = self.question(PROBE).await?;
        let text = rows.first().and_then(|row| row.first().cloned().flatten()).unwrap_or_default();
        let settings: Settings = serde_json::from_slice(&text)
            .map_err(|error| Report::new(sqlstate::INTERNAL_ERROR, format!("unexpected settings: {error}")))?;
        if self.transaction.phase == Phase::Open {
            self.transaction.defaults.isolation.get_or_insert(settings.running());
        }
        let settings = Arc::new(settings);
        if self.settings_before.take().is_some_and(|before| before != settings) {
            self.names.forget_descriptions();
        }
        self.settings = Some(Arc::clone(&settings));
        Ok(settings)
    }

    /// The rewritten text of a read for one execution; `None`: the client's own will do.
    pub(super) async fn render_read(
        &mut self,
        statement: &Statement,
        given: &Given<'_>,
    ) -> Result<Option<Rendered>, Failure> {
        let settings = self.settings().await?;
        if settings.read() == ReadLevel::Replica {
            return Ok(None);
        }
        let base = self.base(&settings);
        let plan = self.plan(statement, &settings).await;
        let view = View { base: &base, own: &self.transaction.work.own };
        let plan = match &*plan {
            Ok(Plan::Read(plan)) => plan,
            Ok(Plan::Write(_) | Plan::Copy(_) | Plan::With(_)) => return Ok(None),
            Err(_) if view.is_empty() => return Ok(None),
            Err(report) => return Err(report.clone().into()),
        };
        let pending = !view.is_empty();
        if pending {
            settings.readable()?;
        }
        self.may_draw(plan.sequences().iter().any(|sequence| sequence.takes), &settings)?;
        let mut ids = self.stock(plan.sequences(), &settings).await?;
        ids.secured = if pending { self.secured(plan.secured()).await? } else { Vec::new() };
        let view = View { base: &base, own: &self.transaction.work.own };
        if plan.tables().iter().any(|id| view.has_pending(*id)) {
            let text = (plan.query(), given.types);
            ids.unread = self.may_see(Some(text), plan.readers(), &base, &settings).await?;
        }
        let view = View { base: &base, own: &self.transaction.work.own };
        let rendered = plan.render_with_ids(view, given.parameters(), &ids)?;
        self.remember(plan.sequences(), plan.counted(), ids, &HashMap::new());
        let kind = if rendered.is_some() { StatementKind::Merged } else { StatementKind::Untouched };
        self.guard.statement(kind);
        Ok(rendered)
    }

    /// The statement's plan. What cannot be planned is tried with a newer catalog, if the replica has one.
    pub(super) async fn plan(&mut self, statement: &Statement, settings: &Settings) -> Arc<Result<Plan, Report>> {
        let shared = Arc::clone(&self.shared);
        let catalog = shared.catalog.current();
        let plan = |catalog| shared.statements.plan(statement, catalog, &settings.schemas, &shared.site);
        self.planned_with = catalog.version;
        let planned = plan(&catalog);
        if planned.is_ok() {
            return planned;
        }
        match shared.catalog.refresh().await {
            Ok(newer) if newer.version != catalog.version => {
                self.planned_with = newer.version;
                plan(&newer)
            }
            Ok(_) | Err(_) => planned,
        }
    }

    /// Makes sure that a rewritten statement is prepared on the replica; returns its name. Asks only when it is new.
    pub(super) async fn place(&mut self, rendered: &Rendered, types: &[u32]) -> Result<String, Failure> {
        match self.names.place(&rendered.sql, types) {
            Place::Known(name) => Ok(name),
            Place::New { name, evicted } => {
                let out = self.ask();
                if let Some(evicted) = &evicted {
                    build::close_statement(out, evicted.as_bytes());
                }
                build::parse(out, name.as_bytes(), rendered.sql.as_bytes(), types);
                build::flush(out);
                let prepared = self.reply_of(b'1').await;
                if prepared.is_err() {
                    self.names.forget(&rendered.sql, types);
                }
                prepared.map(|_| name)
            }
        }
    }

    /// Bind of a read while rows are pending. `show`: the client gets the BindComplete.
    pub(super) async fn bind_read(
        &mut self,
        prepared: &Arc<Prepared>,
        message: &BytesMut,
        show: bool,
    ) -> Result<(), Failure> {
        let bind = Bind::read(&message[HEADER..])?;
        let Some(statement) = prepared.parsed.single() else { return Ok(()) };
        let description = self.describe(prepared, bind.statement).await?;
        let given = Given::of(&bind, &description.types);
        // A wrong count of values is Postgres' to complain of.
        let rendered = match given.values.len() == description.types.len() {
            true => self.placed_read(statement, &given).await?,
            false => None,
        };
        let merged = rendered.is_some();
        match &rendered {
            None => self.forward(message),
            Some((rendered, name)) => {
                let out = &mut self.replica.link.output;
                build::bind(out, bind.portal, name.as_bytes(), &given.with(rendered), &bind.results);
            }
        }
        if show {
            self.expected.push_back(Expect::Bare);
        } else {
            build::flush(self.ask());
            self.reply_of(b'2').await?;
        }
        if merged {
            let portal = Portal {
                statement: Arc::clone(prepared),
                bind: message.clone(),
                state: PortalState::Merged { description, begun: false },
            };
            self.names.portals.insert(bind.portal.to_vec(), portal);
        }
        Ok(())
    }

    /// The rewritten read, and under which name it is prepared.
    async fn placed_read(
        &mut self,
        statement: &Statement,
        given: &Given<'_>,
    ) -> Result<Option<(Rendered, String)>, Failure> {
        let mut tries = 0;
        loop {
            let Some(rendered) = self.render_read(statement, given).await? else { return Ok(None) };
            let placed = self.place(&rendered, &given.types_with(&rendered)).await;
            if let Some(name) = self.or_again(placed, &mut tries).await? {
                return Ok(Some((rendered, name)));
            }
        }
    }

    /// Execute of a rewritten portal. Tried again when the catalog was too old and the client has seen nothing yet.
    /// `begun`: it is not the portal's first.
    pub(super) async fn execute_read(
        &mut self,
        prepared: &Arc<Prepared>,
        bind: &BytesMut,
        message: &BytesMut,
        begun: bool,
    ) -> Result<(), Failure> {
        for _ in 0..TRIES {
            self.ask().extend_from_slice(message);
            build::flush(self.ask());
            match self.pass_rows(None).await {
                Ok(tag) => {
                    self.client.output.extend_from_slice(&tag);
                    return Ok(());
                }
                Err((Failure::Inner(error), Passed::Nothing | Passed::Bound)) if !begun => {
                    self.prepare_again(&error).await?;
                    self.bind_read(prepared, bind, false).await?;
                }
                Err((failure, _)) => return Err(failure),
            }
        }
        Err(changed().into())
    }

    /// Passes rows on up to the end of an Execute, which is returned; `first` goes before them. An error says whether
    /// anything was passed.
    pub(super) async fn pass_rows(&mut self, first: Option<&[u8]>) -> Result<BytesMut, (Failure, Passed)> {
        let mut first = first;
        let mut passed = Passed::Nothing;
        loop {
            let (kind, message) = self.reply().await.map_err(|failure| (failure, passed))?;
            match kind {
                b'2' => {
                    passed = passed.max(Passed::Bound);
                    continue;
                }
                b'1' | b'3' | b'n' | b't' => continue,
                _ => {}
            }
            if let Some(first) = first.take() {
                self.client.output.extend_from_slice(first);
            }
            passed = Passed::Rows;
            if matches!(kind, b'C' | b's' | b'I') {
                return Ok(message);
            }
            self.client.output.extend_from_slice(&message);
        }
    }

    /// After a rewritten statement's error: makes the replica ready for another try, or says why there is none.
    pub(super) async fn prepare_again(&mut self, message: &BytesMut) -> Result<(), Failure> {
        if self.one_snapshot != OneSnapshot::No {
            // All that was evaluated in it has to begin again.
            return Err(Failure::Inner(message.clone()));
        }
        let what = match again(message) {
            Again::Doubt => match self.shared.catalog.refresh().await {
                Ok(catalog) if catalog.version != self.planned_with => Again::Reload,
                Ok(_) | Err(_) => Again::No,
            },
            what => what,
        };
        match (what, self.transaction.phase) {
            (Again::No | Again::Doubt, _) | (Again::Repeat, Phase::Open | Phase::Failed) => {
                return Err(Failure::Inner(message.clone()));
            }
            (Again::Reload, Phase::Open | Phase::Failed) => {
                // If it cannot be read now, the next statement reads it.
                let _ = self.reload().await;
                // The replica's transaction has failed with it, so there is nothing more to do there.
                let mut told = BytesMut::new();
                error::report(&mut told, error::Severity::Error, &changed());
                return Err(Failure::Server(told));
            }
            // The replica's implicit transaction would end, and with it what SET LOCAL has said in it, of rights perhaps.
            (Again::Reload | Again::Repeat, Phase::Idle) if self.settings_changed => {
                if what == Again::Reload {
                    let _ = self.reload().await;
                }
                let mut told = BytesMut::new();
                error::report(&mut told, error::Severity::Error, &changed());
                return Err(Failure::Server(told));
            }
            (Again::Reload | Again::Repeat, Phase::Idle) => {}
        }
        self.begun_again += 1;
        self.sync().await?;
        if what == Again::Reload {
            self.reload().await?;
        }
        Ok(())
    }

    /// What an evaluation gave; `None`: it has to be repeated.
    ///
    /// # Errors
    /// Its own, and that it has been tried too often.
    pub(super) async fn or_again<T>(
        &mut self,
        evaluated: Result<T, Failure>,
        tries: &mut usize,
    ) -> Result<Option<T>, Failure> {
        match evaluated {
            Err(Failure::Inner(error)) => {
                self.prepare_again(&error).await?;
                *tries += 1;
                if *tries > TRIES { Err(changed().into()) } else { Ok(None) }
            }
            evaluated => evaluated.map(Some),
        }
    }

    pub(super) async fn reload(&mut self) -> Result<(), Failure> {
        let reloaded = self.shared.catalog.reload(None).await;
        reloaded.map(drop).map_err(|error| {
            let message = format!("the definitions of the tables cannot be read from the replica: {error}");
            Report::new(sqlstate::CANNOT_CONNECT_NOW, message).into()
        })
    }
}

/// An error about the client's own text.
pub(super) fn as_clients(failure: Failure) -> Failure {
    match failure {
        Failure::Inner(message) => Failure::Server(message),
        other => other,
    }
}

/// The values of a DataRow message.
pub(super) fn values(message: BytesMut) -> Result<Vec<Option<Bytes>>, End> {
    let message = message.freeze();
    let body = message.slice(HEADER..);
    let values = data_row(&body).map_err(super::relay::broken)?;
    Ok(values.into_iter().map(|value| value.map(|value| body.slice_ref(value))).collect())
}

pub(super) fn changed() -> Report {
    Report::new(sqlstate::SERIALIZATION_FAILURE, "the definitions of the tables changed during the statement")
        .hint("Run the transaction again.")
}
