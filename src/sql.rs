//! SQL: parse, classify, resolve names, rewrite.
//!
//! Pure: text, a catalog snapshot and an overlay go in, plain values come out. The only user of the SQL parser.
//!
//! The way of a statement:
//! 1. [`parse()`] splits and classifies the text; needs no catalog.
//! 2. [`plan`] resolves names and makes a [`Plan`]: a template of text pieces and relations. Depends on text, catalog
//!    and search path only, so it is cached and shared.
//! 3. [`ReadPlan::render`] / [`WritePlan::render`] fill the template for one execution: relations that have pending
//!    rows which the statement can see become subqueries, and the pending rows travel as array parameters.
//!
//! What must never happen here: evaluating SQL. Types, casts, operators and NULLs are Postgres' business.

// A report is what the client is told: errors are rare, and boxing them would only make each reader unbox.
#![allow(clippy::result_large_err)]

use std::sync::Arc;

use bytes::Bytes;

use crate::catalog::{AttNum, Catalog, Table, TableId};
use crate::entry::Value;
use crate::overlay::View;
use crate::report::Report;

/// The statements of one query string.
#[derive(Debug)]
pub struct Script {
    /// Empty for an empty query string.
    pub statements: Vec<Statement>,
    /// Only Postgres can read it; what it is, is told by its first words.
    pub guessed: bool,
}

/// One statement, classified.
#[derive(Debug)]
pub struct Statement {
    /// As the client wrote it, without the separating semicolon.
    pub text: Arc<str>,
    pub class: Class,
}

/// What has to be done with a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Class {
    Transaction(TransactionCommand),
    /// Reads: SELECT, VALUES, TABLE, WITH; EXPLAIN of anything; DECLARE CURSOR; COPY … TO STDOUT. To be planned.
    Query,
    /// INSERT, UPDATE, DELETE. To be planned.
    Write,
    /// One of the writes of a [`Class::With`], its main statement among them.
    Part,
    /// With writes in WITH. To be planned.
    With,
    /// COPY … FROM STDIN. To be planned.
    CopyIn,
    /// SET, RESET, DISCARD: goes to the replica (and to an open main connection); the session's settings may change.
    Settings {
        discard_all: bool,
    },
    Truncate(Truncate),
    /// SET CONSTRAINTS: as [`Class::Settings`], and the session's own as well.
    Constraints(SetConstraints),
    /// `SET pgoutpost.name = value` / `SHOW pgoutpost.name` are the session's own.
    OwnSetting {
        name: String,
        value: Option<String>,
        show: bool,
    },
    /// SHOW of what a standby is told something else about: it takes neither READ WRITE nor SERIALIZABLE.
    ShowMode(Mode),
    /// SHOW, FETCH, MOVE, CLOSE, DEALLOCATE: goes to the replica as it is.
    Replica,
    /// SQL-level PREPARE: the inner statement decides.
    Prepare {
        name: String,
    },
    /// SQL-level EXECUTE of a statement that PREPARE made.
    Execute {
        name: String,
    },
    /// DDL and whatever else cannot be buffered: goes straight to main. `ddl`: the catalog may change.
    /// `outside_transaction`: Postgres refuses it in a transaction block (VACUUM, CREATE DATABASE …).
    Straight {
        ddl: bool,
        outside_transaction: bool,
    },
    /// Cannot be done through pgoutpost.
    Refused(Report),
}

/// SET CONSTRAINTS
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetConstraints {
    /// Names, perhaps with a schema; none: ALL.
    pub names: Vec<Vec<String>>,
    pub deferred: bool,
}

/// A mode of the transaction that SHOW shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// `transaction_read_only`
    ReadOnly,
    /// `transaction_isolation`
    Isolation,
}

/// Transaction control.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TransactionCommand {
    /// BEGIN, START TRANSACTION. `None`: not said.
    Begin {
        isolation: Option<Isolation>,
        read_only: Option<bool>,
        /// Written START TRANSACTION: the tag says so.
        start: bool,
    },
    Commit {
        chain: bool,
    },
    Rollback {
        chain: bool,
    },
    Savepoint(String),
    Release(String),
    RollbackTo(String),
    /// SET TRANSACTION
    Characteristics {
        isolation: Option<Isolation>,
        read_only: Option<bool>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// In Postgres another name for READ COMMITTED, which only SHOW tells.
    ReadUncommitted,
    ReadCommitted,
    RepeatableRead,
    Serializable,
}

/// The text is not SQL as our parser knows it. Postgres judges: either it reports a syntax error, or it knows more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unparsed {
    pub reason: String,
}

/// A statement's template under one catalog and search path.
#[derive(Debug)]
pub enum Plan {
    Read(Box<ReadPlan>),
    Write(Arc<WritePlan>),
    Copy(Arc<CopyPlan>),
    With(Arc<WithPlan>),
}

/// A client's Bind, as far as rewriting looks at it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Parameters<'a> {
    /// Type OIDs as the server inferred them (ParameterDescription of the client's own statement).
    pub types: &'a [u32],
    /// Format of each parameter: true is binary.
    pub binary: &'a [bool],
    pub values: &'a [Option<&'a [u8]>],
}

/// A statement ready for the replica. Its parameters are the client's own, followed by `extra`.
#[derive(Debug, Clone, PartialEq)]
pub struct Rendered {
    pub sql: String,
    pub extra: Vec<ExtraParameter>,
    /// Settings (local to the transaction) that must have these values before it is run, and are read after it.
    pub registers: Vec<(String, String)>,
}

impl Rendered {
    /// A text that needs nothing of ours.
    pub fn plain(sql: &str) -> Rendered {
        Rendered { sql: sql.to_owned(), extra: Vec::new(), registers: Vec::new() }
    }
}

/// A parameter after the client's own, in binary format.
#[derive(Debug, Clone, PartialEq)]
pub struct ExtraParameter {
    pub type_oid: u32,
    pub value: Bytes,
}

pub use crate::catalog::ReferentialAction;
pub use after::{Event, Rule, Versions, arguments, judge as judge_events, violation};
pub use copy::{BATCH_BYTES as COPY_BATCH_BYTES, Broken, CopyPlan, Options, Reader, Row};
pub use ids::{Busy, Ids, LAST, Stock, counter};
pub use read::ReadPlan;
pub use readers::Readers;
pub use resolve::{LOCKED, LockedRelation, Patience, SequenceUse, Strength, row_locks};
pub use truncate::{Truncate, Truncated, is_table_lock, table_lock};
pub use with::{Returned, WithPlan};
pub use write::{
    ByNow, COMPUTABLE_FUNCTIONS, Decoded, Judged, Lock, Outcome, WriteKind, WritePlan, concurrent, of_values,
};
pub use written::Writes;

mod after;
mod arrays;
mod classify;
mod copy;
mod ids;
mod merge;
mod parse;
mod read;
mod readers;
mod repeated;
mod resolve;
mod slice;
mod syntax;
mod template;
mod truncate;
mod with;
mod write;
mod written;

/// Splits a query string into statements and classifies each. Bounded: hostile nesting is an error, never a crash.
///
/// # Errors
/// The text is not SQL as our parser knows it, or nested too deeply.
pub fn parse(text: &str) -> Result<Script, Unparsed> {
    classify::script(text).or_else(|why| classify::definition(text).ok_or(why))
}

/// Where the statements of a text stand that [`parse()`] cannot read.
pub fn statements(text: &str) -> Vec<std::ops::Range<usize>> {
    parse::statements(text)
}

/// The first parameter of a text, and the character where it stands, from 1.
pub fn first_parameter(text: &str) -> Option<(&str, usize)> {
    parse::first_parameter(text)
}

/// Whether a text is, at a glance and beyond doubt, one query that only reads. False says nothing: then [`parse()`] it.
pub fn plainly_reads(text: &str) -> bool {
    classify::plainly_reads(text)
}

/// The ledger value within a query's own snapshot, as SQL; raises when the catalog is another.
fn gate(site: &str, catalog: &Catalog) -> String {
    format!("(SELECT pgoutpost.gate({}, {}))", syntax::literal(site), catalog.version)
}

/// A query for the newest entry that the replica's snapshot has.
pub fn ledger(site: &str, catalog: &Catalog) -> String {
    format!("SELECT {}", gate(site, catalog))
}

/// A `text[]` parameter.
pub fn text_array(values: impl ExactSizeIterator<Item = Option<Bytes>>) -> Bytes {
    arrays::of_elements(25, values)
}

/// A text whose Parse says what Postgres has against the table and the columns of a COPY, which its own Parse does not.
pub fn judged_by(text: &str) -> Option<String> {
    copy::judged_by(text)
}

/// The statement within `PREPARE name AS …`; `text` may hold more statements than this.
pub fn prepared_text(text: &str, name: &str) -> Option<String> {
    classify::prepared_text(text, name)
}

/// The arguments of an EXECUTE, as written.
pub fn execute_arguments(text: &str) -> Vec<String> {
    classify::execute_arguments(text)
}

/// Whether a text may call a function of somebody's own that does more than compute; by its words.
pub fn calls_own(text: &str, catalog: &Catalog) -> bool {
    !catalog.opaque_functions.is_empty()
        && resolve::called(text).any(|name| catalog.opaque_functions.contains_key(&*name))
}

/// The functions that a text may call, and more: for [`calls_own`] of a text that comes again.
pub fn called(text: &str) -> Box<[Box<str>]> {
    let names: std::collections::BTreeSet<Box<str>> = resolve::called(text).map(Into::into).collect();
    names.into_iter().collect()
}

/// The tables that a straight statement writes, as far as its text tells, and those whose rows its foreign keys look at. Where
/// the search path is not known: those of the name in every schema.
pub fn written(statement: &Statement, catalog: &Catalog, search_path: Option<&[Arc<str>]>) -> Vec<(TableId, Writes)> {
    written::written(statement, catalog, search_path)
}

/// Tables whose rows a transaction that has written these may have looked at or acted upon, these among them.
pub fn concerned(catalog: &Catalog, written: &[TableId]) -> Vec<TableId> {
    written::concerned(catalog, written)
}

/// Makes the template of a [`Class::Query`] or [`Class::Write`] statement. `site` names the ledger's row by which
/// merged relations are judged.
///
/// # Errors
/// What cannot be merged or evaluated correctly: 0A000 with a hint. Unknown names are not an error here: Postgres
/// reports them when it parses the client's own text.
pub fn plan(statement: &Statement, catalog: &Catalog, search_path: &[Arc<str>], site: &str) -> Result<Plan, Report> {
    let names = resolve::Names { catalog, search_path, owners: false, policies: 0 };
    let gate = gate(site, catalog);
    let text = &*parse::without_brackets(&statement.text);
    let planned = parse::with_tree(text, |root| match statement.class {
        Class::Write => WritePlan::new(text, root, names, &gate).map(|plan| Plan::Write(Arc::new(plan))),
        Class::Part => WritePlan::of_part(text, root, names, &gate).map(|plan| Plan::Write(Arc::new(plan))),
        Class::With => WithPlan::new(text, root, names, &gate).map(|plan| Plan::With(Arc::new(plan))),
        Class::CopyIn => CopyPlan::new(text, root, names, &gate).map(|plan| Plan::Copy(Arc::new(plan))),
        _ => ReadPlan::new(text, root, names, &gate).map(|plan| Plan::Read(Box::new(plan))),
    });
    planned.map_err(|error| Report::new(crate::sqlstate::SYNTAX_ERROR, error.reason))?
}
