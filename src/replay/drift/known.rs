//! What main says about the tables that entries speak of, all of one catalog version.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, LazyLock};

use futures_util::future::try_join_all;
use serde::Deserialize;
use tokio_postgres::Client;
use tokio_postgres::types::Type;

use super::Difference;
use super::fit;
use crate::catalog::shapes::{self, TypeRow};
use crate::entry::{Entry, EntryTable, Shape, TableName, Terms, Typed};
use crate::setup::identifier;
use crate::upstream::own;

/// How often all is asked again when definitions change while they are asked for.
const TRIES: usize = 5;

/// A table on main.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Definition {
    pub(super) oid: u32,
    #[serde(flatten)]
    pub(super) name: TableName,
    /// `pg_class.relkind`
    pub(super) kind: String,
    pub(super) columns: Vec<Column>,
    /// The columns of unique indexes over all rows.
    pub(super) unique: Vec<Vec<Arc<str>>>,
    /// The tables that it is a partition of, however far up.
    pub(super) partition_of: Vec<TableName>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Column {
    pub(super) attnum: i16,
    pub(super) name: Arc<str>,
    #[serde(rename = "type")]
    pub(super) type_name: Arc<str>,
    /// A row that does not mention it is refused.
    pub(super) required: bool,
    pub(super) generated: bool,
    /// What rows have in it that were there before the column.
    #[serde(default)]
    pub(super) missing: Option<Arc<str>>,
    #[serde(rename = "of")]
    type_oid: u32,
    #[serde(skip)]
    pub(super) shape: Option<Arc<Shape>>,
}

impl Column {
    pub(super) fn typed(&self) -> Typed<'_> {
        Typed { name: &self.type_name, shape: self.shape.as_ref() }
    }
}

/// As main tells it.
#[derive(Deserialize)]
struct Answer {
    #[serde(flatten)]
    definition: Definition,
    types: Vec<TypeRow>,
}

/// A table by its number, where that means something, and by its name.
type Asked = (TableName, Option<u32>);

/// One connection's knowledge.
#[derive(Debug, Default)]
pub(in crate::replay) struct Definitions {
    /// The system identifier of main, when it is known.
    pub(in crate::replay) cluster: Option<u64>,
    version: Option<i64>,
    tables: HashMap<Asked, Option<Arc<Definition>>>,
}

impl Definitions {
    /// The catalog version that all of it is of.
    pub(in crate::replay) fn version(&self) -> Option<i64> {
        self.version
    }

    pub(in crate::replay) fn clear(&mut self) {
        *self = Definitions { cluster: self.cluster, ..Definitions::default() };
    }

    /// Asks main about tables not seen before. Answers whether what was known before is out of date.
    pub(in crate::replay) async fn learn(
        &mut self,
        client: &Client,
        entries: &[Arc<Entry>],
    ) -> Result<bool, own::Error> {
        let mut changed = false;
        for _ in 0..TRIES {
            let named = entries.iter().flat_map(|entry| entry.tables.iter().map(|table| self.asked(entry, table)));
            let missing: BTreeSet<Asked> = named.filter(|asked| !self.tables.contains_key(asked)).collect();
            if missing.is_empty() {
                return Ok(changed);
            }
            let asked = missing.into_iter().map(async |asked| {
                let (version, definition) = ask(client, &asked).await?;
                Ok::<_, own::Error>((asked, version, definition))
            });
            let answers = try_join_all(asked).await?;
            let versions: HashSet<i64> = answers.iter().map(|(_, version, _)| *version).chain(self.version).collect();
            if versions.len() > 1 {
                self.clear();
                changed = true;
                continue;
            }
            self.version = versions.into_iter().next();
            self.tables.extend(answers.into_iter().map(|(asked, _, definition)| (asked, definition.map(Arc::new))));
        }
        Err(own::Error::Connection("main's definitions change faster than they can be read".to_owned()))
    }

    /// The entry in main's present names, when they are others; or why it does not fit.
    pub(in crate::replay) fn fit(&self, entry: &Entry) -> Result<Option<Entry>, Difference> {
        let mut tables = Vec::with_capacity(entry.tables.len());
        for (place, table) in entry.tables.iter().enumerate() {
            let asked = self.asked(entry, table);
            let definition = self.tables.get(&asked).and_then(Option::as_deref);
            let same_cluster = table.origin.as_ref().is_some_and(|origin| Some(origin.cluster) == self.cluster);
            let terms = Terms { same_cluster, by_name: entry.retry_of.is_some() };
            tables.push(fit::table(entry, place, definition, (asked.1, terms))?);
        }
        fit::entry(entry, &tables)
    }

    /// What to ask about a table of an entry.
    fn asked(&self, entry: &Entry, table: &EntryTable) -> Asked {
        let origin =
            table.origin.as_ref().filter(|origin| entry.retry_of.is_none() && Some(origin.cluster) == self.cluster);
        (table.name.clone(), origin.map(|origin| origin.table))
    }
}

/// Names of types are printed as entries have them: under an empty `search_path`, which ends with the statement.
static ASK: LazyLock<String> = LazyLock::new(|| {
    let types = shapes::query(
        "SELECT a.atttypid FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped",
    );
    format!(
        "WITH bare AS MATERIALIZED (SELECT pg_catalog.set_config('search_path', '', true))
SELECT (SELECT v.version FROM pgoutpost.catalog v), pg_catalog.jsonb_build_object(
    'oid', c.oid::int8, 'schema', n.nspname, 'name', c.relname, 'kind', c.relkind::text,
    'columns', coalesce((SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
            'attnum', a.attnum, 'name', a.attname, 'type', pg_catalog.format_type(a.atttypid, a.atttypmod),
            'required', a.attnotnull AND NOT a.atthasdef AND a.attidentity = '' AND t.typdefault IS NULL,
            'generated', a.attgenerated <> '',
            'missing', CASE WHEN a.atthasmissing THEN pg_catalog.array_to_string(a.attmissingval, '') END, 'of', a.atttypid::int8) ORDER BY a.attnum)
        FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
       WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped), '[]'),
    'types', {types},
    'unique', coalesce((SELECT pg_catalog.jsonb_agg(ARRAY(
            SELECT a.attname FROM pg_catalog.generate_series(0, i.indnkeyatts - 1) n
              JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = i.indkey[n]))
        FROM pg_catalog.pg_index i
       WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND 0 <> ALL (i.indkey)), '[]'),
    'partition_of', coalesce((SELECT pg_catalog.jsonb_agg(
            pg_catalog.jsonb_build_object('schema', pn.nspname, 'name', p.relname))
        FROM pg_catalog.pg_partition_ancestors(c.oid) a(oid)
        JOIN pg_catalog.pg_class p ON p.oid = a.oid JOIN pg_catalog.pg_namespace pn ON pn.oid = p.relnamespace
       WHERE c.relispartition), '[]'))::text, c.oid IS NULL
  FROM bare LEFT JOIN (pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace)
    ON c.oid = coalesce((SELECT o.oid FROM pg_catalog.pg_class o WHERE o.oid::int8 = $2), pg_catalog.to_regclass($1))"
    )
});

async fn ask(client: &Client, (name, oid): &Asked) -> Result<(i64, Option<Definition>), own::Error> {
    let relation = format!("{}.{}", identifier(&name.schema), identifier(&name.name));
    let oid = i64::from(oid.unwrap_or(0));
    let row = client.query_typed_one(ASK.as_str(), &[(&relation, Type::TEXT), (&oid, Type::INT8)]).await?;
    let version = row.try_get(0)?;
    if row.try_get(2)? {
        return Ok((version, None));
    }
    let text: &str = row.try_get(1)?;
    let answer = serde_json::from_str(text).map_err(|error| own::Error::Unexpected(error.to_string()))?;
    let Answer { mut definition, types } = answer;
    let shapes = shapes::shapes(types);
    for column in &mut definition.columns {
        column.shape = shapes.get(&column.type_oid).cloned();
    }
    Ok((version, Some(definition)))
}
