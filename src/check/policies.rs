//! Whether each table that `[replay.conflicts]` names is there: a name that is misspelt would be a policy of no table.

use tokio_postgres::Config;

use super::Finding;
use crate::catalog::{Catalog, RelationKind};
use crate::upstream::own;

const WHAT: &str = "tables of [replay.conflicts]";
const MEND: &str = "Correct the name (\"schema.table\", as in the catalog, without quotes), or drop the line. Other tables keep last-write-wins.";

/// Those of these names that no table has.
pub fn unknown<'a>(catalog: &Catalog, names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let is_table =
        |table: &crate::catalog::Table| matches!(table.kind, RelationKind::Table | RelationKind::Partitioned);
    let known =
        |wanted: &str| catalog.relations.values().any(|table| is_table(table) && table.name.to_string() == wanted);
    names.filter(|name| !known(name)).collect()
}

/// Asks the replica. Nothing is found where there are no policies.
pub async fn policies(replica: &Config, names: Vec<String>) -> Option<Finding> {
    if names.is_empty() {
        return None;
    }
    let asked = async {
        let client = own::connect(replica).await?;
        let missing = "SELECT coalesce(string_agg(name, ', ' ORDER BY name), '') FROM unnest($1::text[]) name
            WHERE NOT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                WHERE n.nspname || '.' || c.relname = name AND c.relkind IN ('r', 'p'))";
        Ok::<String, own::Error>(client.query_one(missing, &[&names]).await?.try_get(0)?)
    };
    Some(match asked.await {
        Ok(missing) if missing.is_empty() => Finding::ok(WHAT, format!("{} are there", names.len())),
        Ok(missing) => Finding::warn(WHAT, format!("not there: {missing}"), MEND),
        Err(error) => Finding::warn(WHAT, format!("could not be looked at: {error}"), "Run the check again."),
    })
}
