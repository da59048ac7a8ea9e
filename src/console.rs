//! Stub until the console is merged.

use crate::report::Report;
use crate::sqlstate;
use crate::status::Status;

/// A console statement's answer.
#[derive(Debug)]
pub struct Reply {
    pub columns: Vec<&'static str>,
    pub rows: Vec<Vec<Option<String>>>,
    pub tag: String,
}

/// Runs a console statement.
pub async fn run(sql: &str, _status: &Status) -> Result<Reply, Report> {
    match sql.trim().trim_end_matches(';') {
        "SHOW VERSION" => Ok(Reply {
            columns: vec!["version"],
            rows: vec![vec![Some("stub".into())]],
            tag: "SHOW".into(),
        }),
        _ => Err(Report::new(sqlstate::FEATURE_NOT_SUPPORTED, "not built yet")),
    }
}
