//! TRUNCATE: which tables, and whether their foreign keys allow it
//! (<https://www.postgresql.org/docs/15/sql-truncate.html>).

use std::sync::Arc;

use squawk_syntax::{SyntaxKind as K, SyntaxNode};

use super::syntax::{child, path_of};
use super::{Lock, Report};
use crate::catalog::{Catalog, RelationKind, Table, TableId};
use crate::sqlstate::{FEATURE_NOT_SUPPORTED, SqlState};

/// The upper half of a table's lock: the hashes of rows are spread over all 64 bits.
const TABLES: u64 = 0x7472_756e;

/// A TRUNCATE as the client wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Truncate {
    /// Names, perhaps with a schema; an empty one could not be read.
    tables: Vec<Vec<String>>,
    restart: bool,
    cascade: bool,
}

/// What it comes to.
#[derive(Debug)]
pub struct Truncated {
    /// Each once, those of CASCADE last.
    pub tables: Vec<Arc<Table>>,
    /// What CASCADE has to tell.
    pub notices: Vec<String>,
    /// Why it cannot be buffered.
    pub obstacle: Option<Report>,
    /// Why it cannot be done at all, if nobody uses the tables: 0A000 for rows that others refer to.
    pub refused: Option<Report>,
}

impl Truncate {
    pub(super) fn read(node: &SyntaxNode) -> Truncate {
        let names = node.descendants().filter(|inner| matches!(inner.kind(), K::RELATION_NAME_REF | K::TABLE_NAME_REF));
        Truncate {
            tables: names.map(|name| path_of(&name).unwrap_or_default()).collect(),
            restart: child(node, K::RESTART_IDENTITY).is_some(),
            cascade: child(node, K::CASCADE).is_some(),
        }
    }

    /// # Errors
    /// 42P01, 42809.
    pub fn plan(&self, catalog: &Catalog, search_path: &[Arc<str>]) -> Result<Truncated, Report> {
        let mut tables: Vec<Arc<Table>> = Vec::new();
        for path in &self.tables {
            let table = find(path, catalog, search_path)?;
            if tables.iter().all(|known| known.id != table.id) {
                tables.push(table);
            }
        }
        let mut notices = Vec::new();
        let next = |tables: &[Arc<Table>]| if self.cascade { referring(tables, catalog) } else { Vec::new() };
        let mut more = next(&tables);
        while !more.is_empty() {
            notices.extend(more.iter().map(|table| format!("truncate cascades to table \"{}\"", table.name.name)));
            tables.append(&mut more);
            more = next(&tables);
        }
        let restarts = self.restart && tables.iter().any(|table| sequences(table).next().is_some());
        let obstacle = tables.iter().find_map(obstacle).or_else(|| restarts.then(leased));
        let refused = if obstacle.is_none() { unreferred(&tables, catalog).err() } else { None };
        Ok(Truncated { tables, notices, obstacle, refused })
    }

    /// The sequences that begin anew.
    pub fn restarted(&self, catalog: &Catalog, search_path: &[Arc<str>]) -> Vec<Arc<str>> {
        let plan = if self.restart { self.plan(catalog, search_path).ok() } else { None };
        plan.iter().flat_map(|plan| &plan.tables).flat_map(|table| sequences(table)).collect()
    }
}

impl Truncated {
    /// A query that tells in one row, for each table, whether the session's role may do this.
    pub fn permission(&self, catalog: &Catalog, site: &str) -> String {
        let may = self
            .tables
            .iter()
            .map(|table| format!("pg_catalog.has_table_privilege({}::pg_catalog.oid, 'TRUNCATE')", table.id.0));
        format!("SELECT {} WHERE {} >= 0", may.collect::<Vec<_>>().join(", "), super::gate(site, catalog))
    }

    /// Nobody else may write the tables.
    pub fn locks(&self) -> Vec<Lock> {
        self.tables.iter().map(|table| table_lock(table.id, false)).collect()
    }
}

/// Whether it is a lock upon a whole table.
pub fn is_table_lock(lock: Lock) -> bool {
    lock.hash >> 32 == TABLES
}

/// Held shared by who writes rows of the table, alone by who truncates it.
pub fn table_lock(table: TableId, shared: bool) -> Lock {
    Lock { hash: TABLES << 32 | u64::from(table.0), shared }
}

fn find(path: &[String], catalog: &Catalog, search_path: &[Arc<str>]) -> Result<Arc<Table>, Report> {
    if path.is_empty() {
        return Err(Report::new(FEATURE_NOT_SUPPORTED, "a name with Unicode escapes cannot be used in TRUNCATE")
            .hint("Write the name itself."));
    }
    let (schema, name) = match path {
        [.., schema, name] => (Some(schema.as_str()), name.as_str()),
        [name] => (None, name.as_str()),
        [] => (None, ""),
    };
    let table = catalog.resolve(schema, name, search_path).ok_or_else(|| {
        let message = format!("relation \"{}\" does not exist", path.join("."));
        Report::new(SqlState(*b"42P01"), message)
    })?;
    match table.kind {
        RelationKind::Table | RelationKind::Partitioned | RelationKind::Foreign => Ok(Arc::clone(table)),
        RelationKind::View | RelationKind::MaterializedView | RelationKind::Sequence => {
            Err(Report::new(SqlState(*b"42809"), format!("\"{name}\" is not a table")))
        }
    }
}

fn sequences(table: &Table) -> impl Iterator<Item = Arc<str>> {
    table.columns.iter().filter_map(|column| column.sequence.clone())
}

fn leased() -> Report {
    let message = "TRUNCATE with RESTART IDENTITY cannot be buffered: values of the sequences are leased to sites";
    Report::new(FEATURE_NOT_SUPPORTED, message).hint("Use CONTINUE IDENTITY.")
}

fn obstacle(table: &Arc<Table>) -> Option<Report> {
    let plain = table.kind == RelationKind::Table && table.parents.is_empty() && table.children.is_empty();
    let message = || format!("TRUNCATE of \"{}\" cannot be buffered: it is not one table by itself", table.name.name);
    (!plain).then(|| Report::new(FEATURE_NOT_SUPPORTED, message()).hint("Delete its rows, or connect to main for it."))
}

/// The tables, none of these, with foreign keys upon these: by OID, as Postgres goes through them.
fn referring(tables: &[Arc<Table>], catalog: &Catalog) -> Vec<Arc<Table>> {
    let mut found: Vec<TableId> = tables.iter().flat_map(|table| &table.referenced_by).map(|key| key.table).collect();
    found.sort_unstable();
    found.dedup();
    found.retain(|id| tables.iter().all(|table| table.id != *id));
    found.iter().filter_map(|id| catalog.relations.get(id).cloned()).collect()
}

fn unreferred(tables: &[Arc<Table>], catalog: &Catalog) -> Result<(), Report> {
    for table in tables {
        let others = referring(std::slice::from_ref(table), catalog);
        let other = others.iter().find(|other| tables.iter().all(|table| table.id != other.id));
        if let Some(other) = other {
            let (name, theirs) = (&table.name.name, &other.name.name);
            let message = "cannot truncate a table referenced in a foreign key constraint";
            return Err(Report::new(FEATURE_NOT_SUPPORTED, message)
                .detail(format!("Table \"{theirs}\" references \"{name}\"."))
                .hint(format!("Truncate table \"{theirs}\" at the same time, or use TRUNCATE ... CASCADE.")));
        }
    }
    Ok(())
}
