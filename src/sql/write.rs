//! Writes: INSERT, UPDATE and DELETE as one SELECT that a standby can run, which yields the effects, the verdict of
//! each constraint, and the RETURNING columns.
//!
//! The shape, which gives every expression of the client the scope it had in its own statement:
//! ```sql
//! SELECT <hidden outputs>, "pgoutpost.r".*
//! FROM <merged target> AS a, <the client's FROM items>,
//!      LATERAL (SELECT <assigned expressions>) AS "pgoutpost.n",
//!      LATERAL (SELECT <generated columns> FROM (SELECT <new row>) AS t) AS "pgoutpost.g",
//!      LATERAL (SELECT <RETURNING list> FROM (SELECT <new row>) AS a) AS "pgoutpost.r"
//! WHERE <the client's condition>
//! ```

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use squawk_syntax::{SyntaxKind as K, SyntaxNode};

use super::readers::Readers;
use super::resolve::{Findings, Names, Text, security};
use super::template::{Rendering, Template};
use super::{AttNum, Ids, LockedRelation, Parameters, Rendered, Report, SequenceUse, Table, TableId, Value, View};
use crate::entry::Seq;
use crate::overlay::Overlay;
use crate::sqlstate::FEATURE_NOT_SUPPORTED;

mod arbiter;
mod assign;
mod batch;
mod build;
mod decode;
mod default;
mod delete;
mod disturbed;
mod exclusion;
pub(super) mod hashes;
mod insert;
mod locked;
mod merge_into;
mod order;
mod output;
mod own;
mod rights;
mod target;
mod tree;
mod unique;
mod update;
mod upsert;
mod verdict;
mod windows;

pub(super) use assign::{assigned, has_fields};
pub use decode::{Decoded, Judged, Outcome};
pub use disturbed::{ByNow, concurrent, of_values};
use output::{Action, Conflict, Output, Setting};
pub use own::NAMES as COMPUTABLE_FUNCTIONS;
pub(super) use target::target_path;

/// A condition on new rows, and the functions in it that may look at tables.
pub(super) struct Filter {
    pub(super) template: Template,
    pub(super) opaque: Vec<String>,
}

/// Something that a transaction holds until its end, by hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lock {
    pub hash: u64,
    /// Exclusive locks come first, so that who wants both takes the stronger.
    pub shared: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteKind {
    Insert,
    Update,
    Delete,
    Merge,
}

impl WriteKind {
    /// The command, as tags and rights name it.
    pub fn verb(self) -> &'static str {
        match self {
            WriteKind::Insert => "INSERT",
            WriteKind::Update => "UPDATE",
            WriteKind::Delete => "DELETE",
            WriteKind::Merge => "MERGE",
        }
    }
}

/// The template of a write.
#[derive(Debug)]
pub struct WritePlan {
    pub kind: WriteKind,
    pub target: Arc<Table>,
    /// Whether the client's statement has RETURNING (its columns are the last of the evaluation's).
    pub returning: bool,
    /// For sessions whose settings print values canonically, and for others.
    canonical: Template,
    foreign: Template,
    outputs: Vec<Output>,
    /// Names of referenced and referencing tables, by foreign key name and side, for messages.
    findings: Findings,
    tables: Vec<TableId>,
    secured: Vec<TableId>,
    readers: Readers,
    gate: String,
    assigned: Vec<AttNum>,
    /// The columns that an update changes, generated ones among them: for each of the statement's SETs.
    sets: Vec<Vec<AttNum>>,
    computed: Vec<own::Computed>,
    /// The columns that an INSERT's ON CONFLICT, or a MERGE, assigns to in rows that are there.
    updated: Vec<AttNum>,
    conflict: Option<Conflict>,
    /// There is no query in it: what it proposes is the same whatever the tables hold.
    alone: bool,
    /// What a MERGE may do.
    verbs: Vec<&'static str>,
}

impl WritePlan {
    pub(super) fn new(text: &str, root: &SyntaxNode, names: Names<'_>, gate: &str) -> Result<WritePlan, Report> {
        WritePlan::make(text, root, names, gate, (None, false))
    }

    /// One of several writes in one statement, whose effects are not there when it is evaluated.
    pub(super) fn of_part(text: &str, root: &SyntaxNode, names: Names<'_>, gate: &str) -> Result<WritePlan, Report> {
        WritePlan::make(text, root, names, gate, (None, true))
    }

    /// With a condition on the new rows, which COPY … WHERE has.
    pub(super) fn of_copy(
        text: &str,
        root: &SyntaxNode,
        names: Names<'_>,
        gate: &str,
        filter: Option<Filter>,
    ) -> Result<WritePlan, Report> {
        WritePlan::make(text, root, names, gate, (filter, false))
    }

    fn make(
        text: &str,
        root: &SyntaxNode,
        names: Names<'_>,
        gate: &str,
        (filter, part): (Option<Filter>, bool),
    ) -> Result<WritePlan, Report> {
        let unsupported = |message: &str| Report::new(FEATURE_NOT_SUPPORTED, message);
        let statement = root.children().next().ok_or_else(|| unsupported("no statement"))?;
        let mut source = Text::read(text, root, names, 0)?;
        if let Some(filter) = filter {
            source.findings.opaque.extend(filter.opaque);
            source.filter = Some(filter.template);
        }
        let target = target::target(&statement, names)?;
        let (kind, build): (_, build::Make) = match statement.kind() {
            K::INSERT => (WriteKind::Insert, insert::build),
            K::UPDATE => (WriteKind::Update, update::build),
            K::DELETE => (WriteKind::Delete, delete::build),
            K::MERGE => (WriteKind::Merge, merge_into::build),
            other => return Err(unsupported(&format!("{other:?} is not a write that can be buffered"))),
        };
        target::writable(&target, kind, names.catalog)?;
        let make = |canonical| {
            let request = build::Request { statement: &statement, source: &source, target: &target, names, gate, part };
            build(&request, canonical)
        };
        let canonical = make(true)?;
        let foreign = make(false)?;
        let mut tables = vec![target.id];
        canonical.template.tables(&mut tables);
        let mut secured = security::about(&target, names.catalog);
        canonical.template.secured(&mut secured);
        let looks = canonical.outputs.iter().any(|output| matches!(output, Output::UniqueKey(_)));
        let looked_at = if looks { &*target.key } else { &[] };
        let readers = Readers::of(&canonical.template).and_target(target.id, looked_at);
        Ok(WritePlan {
            kind,
            returning: statement.children().any(|inner| inner.kind() == K::RETURNING_CLAUSE),
            target,
            canonical: canonical.template,
            foreign: foreign.template,
            outputs: canonical.outputs,
            findings: canonical.findings,
            assigned: canonical.assigned,
            sets: canonical.sets,
            computed: canonical.computed,
            updated: canonical.updated,
            conflict: canonical.conflict,
            alone: !statement.descendants().any(|inner| is_query(inner.kind())),
            verbs: canonical.verbs,
            tables,
            secured,
            readers,
            gate: gate.into(),
        })
    }

    /// Whether it may change one of these columns in rows that are there.
    pub(super) fn updates(&self, columns: &[AttNum]) -> bool {
        let of_updates = if self.kind == WriteKind::Update { &self.assigned } else { &self.updated };
        let sets = self.sets.iter().flatten();
        of_updates.iter().chain(sets).any(|attnum| columns.contains(attnum))
    }

    pub(super) fn is_upsert(&self) -> bool {
        self.conflict == Some(Conflict::Update)
    }

    /// Every table the evaluation reads, the target and those of foreign keys among them.
    pub fn tables(&self) -> &[TableId] {
        &self.tables
    }

    /// The tables with row security that the write, or a foreign key, is about: none of it may apply to the role.
    pub fn secured(&self) -> &[TableId] {
        &self.secured
    }

    /// By whose rights it reads.
    pub fn readers(&self) -> &Readers {
        &self.readers
    }

    /// Which sequences an execution takes values of.
    pub fn sequences(&self) -> &[SequenceUse] {
        &self.findings.sequences
    }

    /// The relations that sub-selects lock rows of.
    pub fn locking(&self) -> &[LockedRelation] {
        &self.findings.locking
    }

    /// Whether only the execution tells how many values it takes.
    pub fn counted(&self) -> bool {
        self.findings.counted
    }

    /// The evaluation for one execution. `ids` holds values for each of [`WritePlan::sequences`], in that order.
    /// `canonical_settings`: the session prints values as the buffer keeps them (DateStyle ISO, IntervalStyle postgres,
    /// TimeZone UTC, bytea_output hex, extra_float_digits at least 1).
    ///
    /// # Errors
    /// 0A000 when pending rows are involved that cannot be merged; 55000 when there are too few ids.
    pub fn render(
        &self,
        view: View<'_>,
        parameters: Parameters<'_>,
        ids: &Ids,
        canonical_settings: bool,
    ) -> Result<Rendered, Report> {
        self.findings.refuse_opaque(view)?;
        let mut rendering = Rendering::new(view, parameters, &self.gate, ids);
        rendering.counted = self.findings.counted;
        rendering.noted = self.findings.locking.iter().any(|relation| !relation.own);
        rendering.fill(if canonical_settings { &self.canonical } else { &self.foreign })?;
        if rendering.merged {
            self.findings.refuse_system_column()?;
        }
        Ok(rendering.finish())
    }

    /// How many columns of the evaluation come before those of RETURNING.
    pub fn hidden(&self) -> usize {
        self.outputs.len()
    }

    /// The result formats to ask for in Bind, given those the client wants for RETURNING (expanded: one each).
    pub fn formats(&self, returning: &[i16]) -> Vec<i16> {
        std::iter::repeat_n(0, self.outputs.len()).chain(returning.iter().copied()).collect()
    }

    /// What the rows of the evaluation take, free, or need to stay. To be locked before [`WritePlan::decode`]: what is wrong
    /// with a row may be right again when another transaction has ended.
    pub fn locks(&self, rows: &[Vec<Option<Bytes>>]) -> Vec<Lock> {
        locked::locks(self, rows)
    }

    /// The hashes of those that stand for what is changed: not those of rows that are found and left as they are.
    pub fn written(&self, rows: &[Vec<Option<Bytes>>]) -> HashSet<u64> {
        locked::written(self, rows)
    }

    /// The hashes of what one evaluation had to have locked, and the next one not.
    pub fn others(&self, before: &[Vec<Option<Bytes>>], rows: &[Vec<Option<Bytes>>]) -> Vec<u64> {
        let kept: HashSet<u64> = self.locks(rows).iter().map(|lock| lock.hash).collect();
        self.locks(before).iter().map(|lock| lock.hash).filter(|hash| !kept.contains(hash)).collect()
    }

    /// Those of them that are for the judgement only.
    pub fn passing(&self, rows: &[Vec<Option<Bytes>>]) -> Vec<u64> {
        locked::passing(self, rows)
    }

    /// NOT NULL and CHECK alone, of all rows: Postgres judges them before it looks at any unique index, when it inserts
    /// rows by the batch.
    ///
    /// # Errors
    /// 23502, 23514.
    pub fn row_rules(&self, rows: &[Vec<Option<Bytes>>]) -> Result<(), Report> {
        decode::row_rules(self, rows)
    }

    /// Of rows that are inserted by the batch, the first that cannot be written after those before it, and why.
    ///
    /// # Errors
    /// The answer cannot be read.
    pub fn first_refused(
        &self,
        view: View<'_>,
        rows: &[Vec<Option<Bytes>>],
    ) -> Result<Option<(usize, Report)>, Report> {
        batch::first_refused(self, view, rows)
    }

    /// What is wrong with the first row by itself: that it may not be there is said before the row that it replaces, or who
    /// has its unique values, is waited for.
    ///
    /// # Errors
    /// 23502, 23514.
    pub fn first_row(&self, rows: &[Vec<Option<Bytes>>]) -> Result<(), Report> {
        decode::first_row(self, rows)
    }

    /// Reads all rows of the evaluation, in order: each row's effect and what comes of it at the end of the statement, or the first constraint that fails, just as
    /// Postgres would have reported it. `view` is the one it was rendered with, or a later one.
    ///
    /// # Errors
    /// 23xxx as Postgres words them; 55000 when more ids are needed.
    pub fn decode(&self, view: View<'_>, rows: &[Vec<Option<Bytes>>]) -> Result<Judged, Report> {
        decode::rows(self, view, rows, decode::Values::Here)
    }

    /// The same when the state of now has been looked at ([`WritePlan::undisturbed`]).
    ///
    /// # Errors
    /// 23xxx; 40001
    pub fn decode_by_now(&self, view: View<'_>, rows: &[Vec<Option<Bytes>>], by_now: ByNow) -> Result<Judged, Report> {
        disturbed::judged(self, view, rows, by_now)
    }

    /// At REPEATABLE READ, when `stale` of the locks stand for what was changed after the snapshot: whether the statement
    /// may go on if it comes to the same over the state of now. `seen`: the newest entry in the snapshot's state.
    ///
    /// # Errors
    /// 40001
    pub fn disturbed(
        &self,
        rows: &[Vec<Option<Bytes>>],
        stale: &[u64],
        now: &Overlay,
        seen: Seq,
    ) -> Result<(), Report> {
        disturbed::disturbed(self, rows, stale, (now, seen))
    }

    /// Whether it has ON CONFLICT.
    pub fn looks_for_rows(&self) -> bool {
        self.conflict.is_some()
    }

    /// Whether the rows that ON CONFLICT finds are those of now, whatever the snapshot, and can be looked for there alone.
    pub fn finds_by_now(&self) -> bool {
        self.conflict.is_some() && self.alone
    }

    /// Reads the rows of such a statement, which was evaluated over `now` when it had been over the `snapshot`. `stale`: what it
    /// has locked and was changed since then; `seen`: the newest entry in the snapshot's state.
    ///
    /// # Errors
    /// 40001: it has found a row that the snapshot does not have so. 23xxx.
    pub fn decode_found_by_now(
        &self,
        snapshot: (View<'_>, &[Vec<Option<Bytes>>]),
        (now, rows): (View<'_>, &[Vec<Option<Bytes>>]),
        stale: &HashSet<u64>,
        seen: Seq,
    ) -> Result<Judged, Report> {
        disturbed::found(self, snapshot, rows, (stale, now.base, seen))?;
        self.decode(now, rows)
    }

    /// An INSERT of the rows that this one has evaluated to, with its parameters: its query may give others by now.
    pub fn of_rows(&self, rows: &[Vec<Option<Bytes>>]) -> Option<(String, Vec<String>)> {
        disturbed::of_rows(self, rows)
    }

    /// Then, whether it does. `rows`: the evaluation; `by_now` and `current`: the plan that was evaluated over `now`, and what
    /// it gave.
    ///
    /// # Errors
    /// 40001, and what is wrong with it now.
    pub fn undisturbed(
        &self,
        rows: &[Vec<Option<Bytes>>],
        stale: &[u64],
        now: View<'_>,
        (by_now, current): (&WritePlan, &[Vec<Option<Bytes>>]),
    ) -> Result<ByNow, Report> {
        disturbed::undisturbed(self, stale, rows, now, (by_now, current))
    }
}

fn is_query(kind: K) -> bool {
    matches!(kind, K::SELECT | K::COMPOUND_SELECT | K::PAREN_SELECT | K::TABLE)
}
