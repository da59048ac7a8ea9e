//! Makes the `pgoutpost` schema on main: the ledger, the catalog version, and the functions that reads and replay call.
//!
//! One transaction, safe to repeat and to run twice at once. Never drops or empties anything, nor takes away what programs of
//! before call: several sites share a main, and are not brought up to date at once.

use tokio_postgres::Config;

use crate::upstream::own;

/// What [`script`] makes; [`crate::check`] compares it with what it finds.
pub const SCHEMA_VERSION: i32 = 6;
/// Replay works with this version, and with any later one.
pub const REPLAY_VERSION: i32 = 4;
/// As of this one the log of conflicts can be trimmed.
pub const TRIM_VERSION: i32 = 5;

const SCHEMA: &str = concat!(include_str!("setup/schema.sql"), include_str!("setup/conflicts.sql"));

/// What a set-up did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Done {
    /// What works less well than it could, for the operator.
    pub warnings: Vec<String>,
}

/// The SQL for one site, as `setup --print` shows it. `daemon_role`: who may replay, when it is not the role that runs
/// the script.
pub fn script(site: &str, daemon_role: Option<&str>) -> String {
    let site = literal(site);
    let mut script = format!("BEGIN;\n\n{SCHEMA}\n");
    if let Some(role) = daemon_role {
        let role = identifier(role);
        script.push_str(&format!(
            "GRANT EXECUTE ON FUNCTION pgoutpost.advance(text, bigint, bigint, uuid) TO {role};\n\
             GRANT SELECT ON pgoutpost.conflict TO {role};\n\n"
        ));
    }
    script.push_str(&format!(
        "INSERT INTO pgoutpost.ledger (site, seq) VALUES ({site}, 0) ON CONFLICT DO NOTHING;\n\nCOMMIT;\n"
    ));
    script
}

/// Runs [`script`] on main.
///
/// # Errors
/// The server's or the connection's; then nothing has changed.
pub async fn run(main: &Config, site: &str, daemon_role: Option<&str>) -> Result<Done, own::Error> {
    let client = own::connect(main).await?;
    client.batch_execute("SET client_min_messages = warning").await?;
    client.batch_execute(&script(site, daemon_role)).await?;
    let triggers = client
        .query_one("SELECT count(*) FROM pg_event_trigger WHERE evtname IN ('pgoutpost_ddl', 'pgoutpost_drop')", &[])
        .await?;
    let mut done = Done::default();
    if triggers.try_get::<_, i64>(0)? < 2 {
        done.warnings.push(
            "event triggers need a superuser: changes of definitions on main will not be noticed. Run setup once as a \
             superuser, or call pgoutpost.definitions_changed() in each transaction with DDL"
                .to_owned(),
        );
    }
    Ok(done)
}

/// A text as an SQL literal, whatever `standard_conforming_strings` says.
pub(crate) fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') { format!(" E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}

/// A name as an SQL identifier.
pub(crate) fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted() {
        let script = script("o'br\\ien", Some("we\"ird"));
        assert!(script.contains(r"VALUES ( E'o''br\\ien', 0)"), "{script}");
        assert!(script.contains("TO \"we\"\"ird\";"), "{script}");
    }
}
