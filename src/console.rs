//! The console, in PgBouncer's manner: `psql -p 6432 pgoutpost`.
//!
//! Reads `status` and answers with text columns whose names carry their units. Acts upon quarantined entries only, and only
//! when told to. What drivers send by
//! themselves when they connect gets a harmless answer, so that any client can look in.

mod command;
mod quarantine;
mod show;

use crate::report::Report;
use crate::sqlstate::SYNTAX_ERROR;
use crate::status::Status;

use command::Command;
pub use quarantine::Operator;

/// A result set; for a command without one, only a tag. An empty query has neither (EmptyQueryResponse).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reply {
    pub columns: Vec<&'static str>,
    /// Text values, one for each column; `None` is NULL.
    pub rows: Vec<Vec<Option<String>>>,
    /// As in CommandComplete.
    pub tag: String,
}

impl Reply {
    fn tag(tag: impl Into<String>) -> Reply {
        Reply { tag: tag.into(), ..Reply::default() }
    }

    fn rows(tag: &str, columns: &[&'static str], rows: Vec<Vec<Option<String>>>) -> Reply {
        // Postgres counts rows for SELECT, not for SHOW.
        let tag = if tag == "SELECT" { format!("SELECT {}", rows.len()) } else { tag.to_owned() };
        Reply { columns: columns.to_vec(), rows, tag }
    }
}

/// Answers one command.
///
/// # Errors
/// 42601 for what the console does not know, with the way to its help; 55000 when the buffer cannot be read.
pub async fn run(sql: &str, status: &Status, operator: &Operator<'_>) -> Result<Reply, Report> {
    match command::parse(sql).map_err(|()| unknown(sql))? {
        Command::Empty => Ok(Reply::default()),
        Command::Acknowledge(tag) => Ok(Reply::tag(tag)),
        Command::Constant { column, value } => Ok(Reply::rows("SELECT", &[column], vec![vec![Some(value)]])),
        Command::Parameter { name, value } => Ok(Reply::rows("SHOW", &[name], vec![vec![Some(value.to_owned())]])),
        Command::Show(topic) => show::show(topic, status).await,
        Command::Do(deed) => deed.run(operator).await,
    }
}

/// The columns of a command's answer, when they are known without doing anything.
///
/// # Errors
/// 42601 for what the console does not know.
pub fn columns(sql: &str) -> Result<Option<&'static [&'static str]>, Report> {
    match command::parse(sql).map_err(|()| unknown(sql))? {
        Command::Do(deed) => Ok(Some(deed.columns())),
        _ => Ok(None),
    }
}

fn unknown(sql: &str) -> Report {
    let text: String = sql.trim().chars().take(60).collect();
    Report::new(SYNTAX_ERROR, format!("unknown console command: {text:?}"))
        .hint("One command at a time. SHOW HELP lists them.")
}

#[cfg(test)]
mod tests;
