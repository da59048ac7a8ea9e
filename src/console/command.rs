//! Text to command. No SQL parser: the console has a handful of fixed phrases.

use super::quarantine::Deed;
use super::show::Topic;
use crate::entry::Seq;

/// What was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Command {
    Empty,
    Show(Topic),
    Do(Deed),
    /// Nothing to do, but drivers expect the tag.
    Acknowledge(&'static str),
    /// `SELECT 1` and the like.
    Constant {
        column: &'static str,
        value: String,
    },
    /// A run-time parameter that drivers ask for.
    Parameter {
        name: &'static str,
        value: &'static str,
    },
}

/// The parameters that drivers look at when they connect.
const PARAMETERS: [(&str, &str); 10] = [
    ("client_encoding", "UTF8"),
    ("datestyle", "ISO, MDY"),
    ("default_transaction_read_only", "off"),
    ("integer_datetimes", "on"),
    ("is_superuser", "off"),
    ("server_encoding", "UTF8"),
    ("server_version", env!("CARGO_PKG_VERSION")),
    ("standard_conforming_strings", "on"),
    ("timezone", "UTC"),
    ("transaction_read_only", "on"),
];

/// First words that need no answer but their tag.
const ACKNOWLEDGED: [(&str, &str); 10] = [
    ("set", "SET"),
    ("reset", "RESET"),
    ("begin", "BEGIN"),
    ("start", "START TRANSACTION"),
    ("commit", "COMMIT"),
    ("end", "COMMIT"),
    ("rollback", "ROLLBACK"),
    ("abort", "ROLLBACK"),
    ("discard", "DISCARD ALL"),
    ("deallocate", "DEALLOCATE ALL"),
];

/// Case, space, comments and a semicolon at the end make no difference.
pub(super) fn parse(sql: &str) -> Result<Command, ()> {
    let text = without_comments(sql).to_ascii_lowercase();
    let text = text.trim_end_matches(|c: char| c == ';' || c.is_whitespace());
    let words: Vec<&str> = text.split_whitespace().collect();
    if words.iter().any(|word| word.contains(';')) {
        return Err(());
    }
    if let Some(deed) = Deed::parse(&words) {
        return Ok(Command::Do(deed));
    }
    match words.as_slice() {
        [] => Ok(Command::Empty),
        ["show", name] => show(name),
        ["show", "quarantine", "after", number] => {
            let after = number.parse().map_err(|_| ())?;
            Ok(Command::Show(Topic::Quarantine(Some(Seq(after)))))
        }
        ["show", "transaction", "isolation", "level"] => {
            Ok(Command::Parameter { name: "transaction_isolation", value: "read committed" })
        }
        ["select", rest @ ..] => select(&rest.join(" ")),
        [first, ..] => {
            let (_, tag) = ACKNOWLEDGED.iter().find(|(word, _)| word == first).ok_or(())?;
            Ok(Command::Acknowledge(tag))
        }
    }
}

fn show(name: &str) -> Result<Command, ()> {
    if let Some(topic) = Topic::ALL.into_iter().find(|topic| topic.name().eq_ignore_ascii_case(name)) {
        return Ok(Command::Show(topic));
    }
    let (name, value) = PARAMETERS.into_iter().find(|(known, _)| *known == name).ok_or(())?;
    Ok(Command::Parameter { name, value })
}

fn select(what: &str) -> Result<Command, ()> {
    let function = what.strip_prefix("pg_catalog.").unwrap_or(what);
    let (column, value) = match function {
        "version()" => ("version", format!("pgoutpost {} console", env!("CARGO_PKG_VERSION"))),
        "current_database()" => ("current_database", crate::config::CONSOLE_DATABASE.to_owned()),
        "current_schema" | "current_schema()" => ("current_schema", "pgoutpost".to_owned()),
        "pg_is_in_recovery()" => ("pg_is_in_recovery", "t".to_owned()),
        number if !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()) => {
            ("?column?", number.to_owned())
        }
        _ => return Err(()),
    };
    Ok(Command::Constant { column, value })
}

/// `-- …` to the end of the line and `/* … */`, which pools put before their statements.
fn without_comments(sql: &str) -> String {
    let mut out = String::with_capacity(sql.len());
    let mut rest = sql;
    loop {
        let line = rest.find("--");
        let block = rest.find("/*");
        let (start, close) = match (line, block) {
            (None, None) => break,
            (Some(line), Some(block)) if block < line => (block, "*/"),
            (Some(line), _) => (line, "\n"),
            (None, Some(block)) => (block, "*/"),
        };
        out.push_str(&rest[..start]);
        out.push(' ');
        let after = &rest[start + 2..];
        rest = after.find(close).map_or("", |end| &after[end + close.len()..]);
    }
    out.push_str(rest);
    out
}
