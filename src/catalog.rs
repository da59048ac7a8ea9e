//! What the replica says about tables, as plain values.
//!
//! A [`Catalog`] is an immutable snapshot of one database. The pure modules (`sql`, `overlay`) are handed one; they
//! never ask a server. [`load`] reads it from the replica, [`handle`] keeps the current one.

pub mod handle;
pub mod load;
pub mod shapes;

pub use handle::CatalogHandle;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::entry::{Shape, TableName, Typed};

/// A table's `pg_class.oid`: the identity of a table within one catalog.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableId(pub u32);

/// A column's `pg_attribute.attnum`: never reused within a table, so it survives added and dropped columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttNum(pub i16);

/// One database as it was at one moment.
#[derive(Debug, Default)]
pub struct Catalog {
    /// `pgoutpost.catalog.version` in the same snapshot: changes with every DDL on main.
    pub version: i64,
    /// The system identifier of the cluster, which says what OIDs mean; `None`: the replica does not say.
    pub cluster: Option<u64>,
    pub relations: HashMap<TableId, Arc<Table>>,
    /// Every sequence by its name, quoted and qualified as Postgres prints it.
    pub sequences: HashMap<Arc<str>, SequenceId>,
    /// `relations` by schema and name.
    pub by_name: HashMap<TableName, TableId>,
    /// Functions that are not built in and not immutable, by name without schema: a query that calls one may read
    /// or write tables behind our back.
    pub opaque_functions: HashMap<String, Vec<OpaqueFunction>>,
    /// Operators and casts whose functions are such.
    pub indirect_calls: Vec<IndirectCall>,
    /// Names of all VOLATILE functions, built-in ones among them.
    pub volatile_functions: HashSet<String>,
    /// Operators upon built-in types, and functions named like built-in ones, that somebody has added.
    pub overloaded: HashSet<String>,
}

/// Which sequence, and since when: one that was dropped and made again has another OID, one that was restarted (or got
/// another increment, or other bounds) another file. `setval` changes neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct SequenceId {
    pub oid: u32,
    /// `pg_class.relfilenode`
    pub file: u32,
}

/// An operator or a cast of somebody's own that calls an [`OpaqueFunction`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndirectCall {
    pub function: String,
    pub operator: bool,
    /// Of a cast: it need not be written; not in assignments.
    pub implicit: bool,
    pub assigned: bool,
    /// The operator's; those of the type to which is cast.
    pub names: Vec<String>,
    /// Those of its operands' and results' types that are not built in.
    pub types: Vec<String>,
}

impl IndirectCall {
    /// Whether `name(…)` may be the cast to a type that is not built in.
    pub fn is_cast_to(&self, name: &str) -> bool {
        !self.operator && self.types.iter().any(|own| own == name) && self.names.iter().any(|target| target == name)
    }
}

/// A function whose body we do not look into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpaqueFunction {
    pub schema: String,
    pub volatile: bool,
}

/// `pg_class.relkind`, as far as a query can name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RelationKind {
    Table,
    Partitioned,
    View,
    MaterializedView,
    Foreign,
    Sequence,
}

/// A table, view or other relation. Expressions are printed by Postgres under an empty `search_path`, so that every
/// name in them is qualified.
#[derive(Debug, Clone)]
pub struct Table {
    pub id: TableId,
    pub name: TableName,
    pub kind: RelationKind,
    /// Live columns in `attnum` order.
    pub columns: Vec<Column>,
    /// The row's identity: the primary key, else the first unique, non-partial, non-deferrable index over plain
    /// NOT NULL columns. Empty: the table has no key and takes INSERT only.
    pub key: Vec<AttNum>,
    pub checks: Vec<Check>,
    /// Unique indexes in the order Postgres checks them (by OID).
    pub unique: Vec<UniqueIndex>,
    pub exclusions: Vec<Exclusion>,
    /// Constraints of this table upon others.
    pub references: Vec<ForeignKey>,
    /// Constraints of other tables (or itself) upon this one.
    pub referenced_by: Vec<ForeignKey>,
    pub row_security: bool,
    /// Has user triggers or rules, which act on main only.
    pub has_triggers: bool,
    /// The parent, of a partition or an inheriting table.
    pub parents: Vec<TableId>,
    pub children: Vec<TableId>,
    /// Everything below it, each table once: what a query of this table reads besides the table itself.
    pub family: Vec<Arc<Table>>,
    /// The uppermost partitioned table it is a part of; else itself.
    pub root: TableId,
    /// Of a table that others inherit from, or that inherits (no partition): one of them all. Whichever of them is named, a row
    /// of theirs is locked alike.
    pub kin: Option<TableId>,
    /// Of a partition.
    pub partition: Option<Partition>,
    /// Of a partitioned table.
    pub partition_key: Option<PartitionKey>,
    pub policies: Vec<Policy>,
    /// `pg_get_viewdef`, of a view.
    pub view: Option<String>,
    /// Of a view: the tables under it are read with the reader's rights, not the owner's.
    pub security_invoker: bool,
    /// Changes when the definition does: columns, types, key, constraints. Stable across servers.
    pub fingerprint: u64,
}

/// What a row must be to belong into a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// `pg_get_partition_constraintdef`: its own bounds and those of all above it. `None`: any row.
    pub constraint: Option<String>,
}

/// What rows of a partitioned table are told apart by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionKey {
    /// `pg_partitioned_table.partattrs`; 0 stands for an expression.
    pub columns: Vec<AttNum>,
    /// The expressions, joined by Postgres with commas.
    pub expressions: Option<String>,
}

/// A row security policy (`pg_policy`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    pub name: String,
    pub permissive: bool,
    pub command: PolicyCommand,
    /// OIDs; 0 is PUBLIC.
    pub roles: Vec<u32>,
    pub using: Option<String>,
    pub check: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PolicyCommand {
    All,
    Select,
    Insert,
    Update,
    Delete,
}

#[derive(Debug, Clone)]
pub struct Column {
    pub attnum: AttNum,
    pub name: Arc<str>,
    /// OID of the column's type (of the domain, for a domain).
    pub type_oid: u32,
    pub typmod: i32,
    /// `format_type(oid, -1)`: without modifier, safe to cast to (`"bit"`, `bpchar`).
    pub type_name: Arc<str>,
    /// `format_type(oid, typmod)`.
    pub full_type_name: Arc<str>,
    /// What its values' text depends on besides.
    pub shape: Option<Arc<Shape>>,
    /// The base type and modifier of a domain (through all layers); the type's own otherwise.
    pub base_type_oid: u32,
    pub base_typmod: i32,
    pub base_type_name: Arc<str>,
    pub is_domain: bool,
    /// `typtype = 'c'`, or 'e', or an array (`typelem <> 0 and typlen = -1`), of the base type.
    pub is_composite: bool,
    pub is_enum: bool,
    pub is_array: bool,
    /// There is a cast from text to the base type (or its elements) which somebody has written.
    pub has_text_cast: bool,
    pub not_null: bool,
    /// The default expression; of a generated column, its expression.
    pub default: Option<String>,
    pub generated: bool,
    /// What rows have in it that were there before the column, as text (`pg_attribute.attmissingval`); `None`: NULL, or each its own.
    pub missing: Option<Arc<str>>,
    pub identity: Option<Identity>,
    /// The sequence behind a serial or identity column, quoted and qualified, when the default is `nextval` of it.
    pub sequence: Option<Arc<str>>,
    /// The column's own collation, quoted and qualified, when it is not its type's default.
    pub collation: Option<Arc<str>>,
    /// Its collation is the database's own.
    pub collates_by_default: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identity {
    Always,
    ByDefault,
}

#[derive(Debug, Clone)]
pub struct Check {
    pub name: String,
    pub expression: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UniqueIndex {
    pub name: String,
    /// The OID of the index; of a partition's, that of the uppermost index it is a part of: what two statements that
    /// name different tables of one tree have in common.
    pub root: u32,
    pub items: Vec<IndexItem>,
    /// The items as a duplicate's detail names them.
    pub shown: String,
    pub predicate: Option<String>,
    pub nulls_not_distinct: bool,
    pub primary: bool,
    /// Backs a constraint (then errors name the constraint).
    pub constraint: bool,
    pub deferrable: bool,
    pub initially_deferred: bool,
}

/// An exclusion constraint: of any two rows, not all of its operators may hold between the items.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exclusion {
    pub index: UniqueIndex,
    /// `OPERATOR(schema.&&)`, for each item (`pg_constraint.conexclop`).
    pub operators: Vec<String>,
}

/// One key item of an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IndexItem {
    Column(AttNum),
    /// `pg_get_indexdef(index, n, false)`; also a column under a collation that may find different texts equal, when that is the
    /// index's and not the column's own.
    Expression {
        text: String,
        type_oid: u32,
        /// Its collation may find different texts equal.
        is_odd: bool,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignKey {
    pub name: String,
    pub table: TableId,
    pub columns: Vec<AttNum>,
    pub referenced: TableId,
    pub referenced_columns: Vec<AttNum>,
    pub on_delete: ReferentialAction,
    pub on_update: ReferentialAction,
    /// The columns that ON DELETE SET NULL and SET DEFAULT change; empty: all.
    pub set_columns: Vec<AttNum>,
    pub match_full: bool,
    pub deferrable: bool,
    pub initially_deferred: bool,
}

/// `confdeltype`, `confupdtype`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReferentialAction {
    NoAction,
    Restrict,
    Cascade,
    SetNull,
    SetDefault,
}

impl Catalog {
    /// The relation a possibly qualified name means, under this search path (`current_schemas(true)`).
    pub fn resolve(&self, schema: Option<&str>, name: &str, search_path: &[Arc<str>]) -> Option<&Arc<Table>> {
        let find = |schema: &str| {
            let key = TableName { schema: schema.into(), name: name.into() };
            self.by_name.get(&key).and_then(|id| self.relations.get(id))
        };
        match schema {
            Some(schema) => find(schema),
            None => search_path.iter().find_map(|schema| find(schema)),
        }
    }

    /// The relation with this qualified name.
    pub fn named(&self, name: &TableName) -> Option<&Arc<Table>> {
        self.by_name.get(name).and_then(|id| self.relations.get(id))
    }
}

impl Column {
    pub fn typed(&self) -> Typed<'_> {
        Typed { name: &self.full_type_name, shape: self.shape.as_ref() }
    }
}

impl Table {
    /// The column with this name.
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| &*column.name == name)
    }

    /// The column with this number.
    pub fn attribute(&self, attnum: AttNum) -> Option<&Column> {
        self.columns.iter().find(|column| column.attnum == attnum)
    }

    /// The place in `columns` of the column with this number.
    pub fn position(&self, attnum: AttNum) -> Option<usize> {
        self.columns.iter().position(|column| column.attnum == attnum)
    }
}
