//! Prepared statements of one connection, by their text, and what main says about tables.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use futures_util::future::try_join_all;
use serde::Deserialize;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Statement};

use super::Policy;
use super::held::Tables;
use super::steps::{MainTable, Parameters, Reference, Step};
use crate::entry::{Entry, TableName};
use crate::setup::identifier;
use crate::upstream::own;

/// Main forgets nothing by itself: beyond this many, all are closed and made anew.
const STATEMENTS_MAX: usize = 1_000;

/// Caches of one connection.
#[derive(Default)]
pub(super) struct Statements {
    prepared: HashMap<String, Statement>,
    tables: Arc<Tables>,
    policies: BTreeMap<String, Policy>,
}

/// A statement could not be prepared.
#[derive(Debug)]
pub(super) struct Unprepared {
    /// The place of the entry that needs it.
    pub(super) entry: usize,
    pub(super) effect: usize,
    pub(super) error: own::Error,
}

impl Statements {
    pub(super) fn new(policies: BTreeMap<String, Policy>) -> Statements {
        Statements { policies, ..Statements::default() }
    }

    /// What is known of the entries' tables, asking main about those not seen before.
    pub(super) async fn tables(&mut self, client: &Client, entries: &[Arc<Entry>]) -> Result<Arc<Tables>, own::Error> {
        let named = entries.iter().flat_map(|entry| &entry.tables).map(|table| &table.name);
        let missing: BTreeSet<&TableName> = named.filter(|name| !self.tables.contains_key(*name)).collect();
        let asked = missing.into_iter().map(async |name| Ok((name.clone(), ask(client, name).await?)));
        let answers: Result<Vec<_>, own::Error> = try_join_all(asked).await;
        let answers = answers?;
        if !answers.is_empty() {
            let said = |name: &TableName| self.policies.get(&name.to_string()).copied();
            let told = answers.into_iter().map(|(name, (table, parents))| {
                // Of a partition: its own, or of the next table above it that has one.
                let policy = said(&name).or_else(|| parents.iter().find_map(said)).unwrap_or_default();
                (name, Arc::new(MainTable { policy, ..table }))
            });
            Arc::make_mut(&mut self.tables).extend(told);
        }
        Ok(Arc::clone(&self.tables))
    }

    /// Prepares what is not prepared yet, all at once.
    pub(super) async fn prepare(&mut self, client: &Client, steps: &[Step]) -> Result<(), Unprepared> {
        if self.prepared.len() > STATEMENTS_MAX {
            self.prepared.clear();
        }
        let mut missing: BTreeMap<&str, &Step> = BTreeMap::new();
        for step in steps.iter().filter(|step| !self.prepared.contains_key(&step.sql)) {
            missing.entry(&step.sql).or_insert(step);
        }
        let prepare = missing.into_iter().map(async |(sql, step)| {
            let (parameter, count) = match &step.parameters {
                Parameters::Row(values) => (Type::TEXT, values.len()),
                Parameters::Columns(columns) => (Type::TEXT_ARRAY, columns.len()),
            };
            let statement = client.prepare_typed(sql, &vec![parameter; count]).await;
            let failed = |error: tokio_postgres::Error| Unprepared {
                entry: step.entry,
                effect: step.effect,
                error: error.into(),
            };
            statement.map(|statement| (sql.to_owned(), statement)).map_err(failed)
        });
        self.prepared.extend(try_join_all(prepare).await?);
        Ok(())
    }

    /// A statement that was prepared.
    pub(super) fn get(&self, sql: &str) -> Option<&Statement> {
        self.prepared.get(sql)
    }

    /// Forgets everything: main's tables may have changed.
    pub(super) fn clear(&mut self) {
        self.prepared.clear();
        self.tables = Arc::default();
    }
}

/// What main says about a table, as JSON.
#[derive(Deserialize)]
struct Told {
    generated: Vec<String>,
    has_triggers: bool,
    has_rules: bool,
    has_late_triggers: bool,
    has_children: bool,
    refers_to_itself: bool,
    unique: Vec<Vec<Arc<str>>>,
    references: Vec<ToldReference>,
    deferrable: Vec<TableName>,
    parents: Vec<TableName>,
}

#[derive(Deserialize)]
struct ToldReference {
    columns: Vec<Arc<str>>,
    referenced: Vec<Arc<str>>,
    #[serde(flatten)]
    table: TableName,
}

const ASK: &str = "SELECT pg_catalog.jsonb_build_object(
    'generated', ARRAY(SELECT a.attname FROM pg_catalog.pg_attribute a
        WHERE a.attrelid = c.oid AND a.attgenerated <> '' AND NOT a.attisdropped),
    'has_triggers', EXISTS (SELECT FROM pg_catalog.pg_trigger t WHERE t.tgrelid = c.oid AND NOT t.tgisinternal)
        OR c.relhasrules,
    'has_rules', c.relhasrules,
    'has_late_triggers', EXISTS (SELECT FROM pg_catalog.pg_trigger t
        WHERE t.tgrelid = c.oid AND t.tgdeferrable AND NOT t.tgisinternal),
    'has_children', c.relkind = 'r' AND EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE i.inhparent = c.oid),
    'refers_to_itself', EXISTS (SELECT FROM pg_catalog.pg_constraint k
        WHERE k.contype = 'f' AND k.conrelid = c.oid
          AND (k.confrelid = c.oid
            OR k.confrelid IN (SELECT a.relid FROM pg_catalog.pg_partition_ancestors(c.oid) AS a (relid)))),
    'unique', coalesce((SELECT pg_catalog.jsonb_agg(ARRAY(
            SELECT a.attname FROM pg_catalog.generate_series(0, i.indnkeyatts - 1) n
              JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = i.indkey[n]
             ORDER BY a.attname COLLATE \"C\"))
        FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND i.indisunique AND 0 <> ALL (i.indkey)), '[]'),
    'references', coalesce((SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
            'schema', rn.nspname, 'name', r.relname,
            'columns', ARRAY(SELECT a.attname FROM pg_catalog.unnest(k.conkey) WITH ORDINALITY u(attnum, n)
                JOIN pg_catalog.pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.attnum ORDER BY u.n),
            'referenced', ARRAY(SELECT a.attname FROM pg_catalog.unnest(k.confkey) WITH ORDINALITY u(attnum, n)
                JOIN pg_catalog.pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.attnum ORDER BY u.n)))
        FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_class r ON r.oid = k.confrelid
        JOIN pg_catalog.pg_namespace rn ON rn.oid = r.relnamespace
       WHERE k.conrelid = c.oid AND k.contype = 'f'), '[]'),
    'deferrable', coalesce((SELECT pg_catalog.jsonb_agg(
            pg_catalog.jsonb_build_object('schema', kn.nspname, 'name', k.conname))
        FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_namespace kn ON kn.oid = k.connamespace
       WHERE k.conrelid = c.oid AND k.condeferrable), '[]'),
    'parents', coalesce((SELECT pg_catalog.jsonb_agg(
            pg_catalog.jsonb_build_object('schema', pn.nspname, 'name', p.relname) ORDER BY a.n)
        FROM pg_catalog.pg_partition_ancestors(c.oid) WITH ORDINALITY a(oid, n)
        JOIN pg_catalog.pg_class p ON p.oid = a.oid JOIN pg_catalog.pg_namespace pn ON pn.oid = p.relnamespace
       WHERE c.relispartition), '[]'))::text
  FROM pg_catalog.pg_class c WHERE c.oid = pg_catalog.to_regclass($1)";

/// The table, and if it is a partition, it and the tables above it, the next first. A table that main does not have:
/// preparing a statement upon it gives the error.
async fn ask(client: &Client, name: &TableName) -> Result<(MainTable, Vec<TableName>), own::Error> {
    let relation = format!("{}.{}", identifier(&name.schema), identifier(&name.name));
    let rows = client.query_typed(ASK, &[(&relation, Type::TEXT)]).await?;
    let Some(row) = rows.first() else { return Ok(Default::default()) };
    let text: &str = row.try_get(0)?;
    let told: Told = serde_json::from_str(text).map_err(|error| own::Error::Unexpected(error.to_string()))?;
    let reference =
        |told: ToldReference| Reference { columns: told.columns, table: told.table, referenced: told.referenced };
    let table = MainTable {
        generated: told.generated,
        has_triggers: told.has_triggers,
        has_rules: told.has_rules,
        has_late_triggers: told.has_late_triggers,
        has_children: told.has_children,
        refers_to_itself: told.refers_to_itself,
        unique: told.unique,
        references: told.references.into_iter().map(reference).collect(),
        deferrable: told.deferrable,
        policy: Policy::default(),
    };
    Ok((table, told.parents))
}
