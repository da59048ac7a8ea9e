//! The log of conflicts, as the replica has it.

use crate::upstream::own;

/// One row that was not on main as the site's client saw it (`pgoutpost.conflict` there).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Conflict {
    pub logged_at: String,
    pub seq: String,
    pub effect: String,
    pub table: String,
    /// JSON, as all that follow.
    pub key: String,
    pub old: Option<String>,
    pub mine: Option<String>,
    pub theirs: Option<String>,
    pub outcome: String,
    pub role: String,
}

/// The newest of the site, first.
///
/// # Errors
/// The server's or the connection's, in words that say what to do.
pub async fn newest_conflicts(replica: &own::Config, site: &str, limit: usize) -> Result<Vec<Conflict>, String> {
    let query = "SELECT pg_catalog.to_char(logged_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), seq::text,
            effect::text, table_schema || '.' || table_name, key::text, old::text, mine::text, theirs::text, outcome, role
        FROM pgoutpost.conflict WHERE site = $1 ORDER BY id DESC LIMIT $2";
    let asked = async {
        let client = own::connect(replica).await?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = client.query(query, &[&site, &limit]).await?;
        let read = |row: &tokio_postgres::Row| {
            Ok(Conflict {
                logged_at: row.try_get(0)?,
                seq: row.try_get(1)?,
                effect: row.try_get(2)?,
                table: row.try_get(3)?,
                key: row.try_get(4)?,
                old: row.try_get(5)?,
                mine: row.try_get(6)?,
                theirs: row.try_get(7)?,
                outcome: row.try_get(8)?,
                role: row.try_get(9)?,
            })
        };
        rows.iter().map(read).collect::<Result<_, tokio_postgres::Error>>().map_err(own::Error::from)
    };
    asked.await.map_err(|error: own::Error| match error.code() {
        Some(code) if code.as_str() == "42501" => {
            format!("{error}: GRANT SELECT ON pgoutpost.conflict, on main, to the user of [replica] url")
        }
        Some(code) if code.as_str() == "42P01" => format!("{error}: run `pgoutpost setup`"),
        _ => error.to_string(),
    })
}
