//! The settings of a client's connection that planning and evaluation depend on, as the replica has them.
//!
//! `pgoutpost.commit` and `pgoutpost.read` live in the replica's session as well (Postgres keeps any dotted name), so
//! SET LOCAL, RESET, ROLLBACK and `options` do with them what they do with every other setting.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use crate::report::Report;
use crate::sql::Isolation;
use crate::sqlstate;

/// Asks for all of [`Settings`] as one JSON value.
pub const PROBE: &str = "SELECT pg_catalog.json_build_object(\
 'schemas', pg_catalog.to_json(pg_catalog.current_schemas(true)), 'role', current_user,\
 'search_path', pg_catalog.current_setting('search_path'),\
 'application_name', pg_catalog.current_setting('application_name'),\
 'date_style', pg_catalog.current_setting('DateStyle'), 'interval_style', pg_catalog.current_setting('IntervalStyle'),\
 'bytea_output', pg_catalog.current_setting('bytea_output'),\
 'extra_float_digits', pg_catalog.current_setting('extra_float_digits'),\
 'lc_monetary', pg_catalog.current_setting('lc_monetary'), 'time_zone', pg_catalog.current_setting('TimeZone'), 'encoding', pg_catalog.current_setting('client_encoding'),\
 'isolation', pg_catalog.current_setting('default_transaction_isolation'),\
 'running', pg_catalog.current_setting('transaction_isolation'),\
 'read_only', pg_catalog.current_setting('default_transaction_read_only'),\
 'lock_timeout_ms', (SELECT s.setting FROM pg_catalog.pg_settings s WHERE s.name = 'lock_timeout'),\
 'statement_timeout_ms', (SELECT s.setting FROM pg_catalog.pg_settings s WHERE s.name = 'statement_timeout'),\
 'array_nulls', pg_catalog.current_setting('array_nulls'), 'xmloption', pg_catalog.current_setting('xmloption'),\
 'commit', pg_catalog.current_setting('pgoutpost.commit', true),\
 'read', pg_catalog.current_setting('pgoutpost.read', true))::pg_catalog.text";

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Settings {
    /// `current_schemas(true)`.
    pub schemas: Arc<[Arc<str>]>,
    pub role: String,
    pub search_path: String,
    pub application_name: String,
    pub date_style: String,
    pub interval_style: String,
    pub bytea_output: String,
    pub extra_float_digits: String,
    pub time_zone: String,
    lc_monetary: String,
    pub encoding: String,
    isolation: String,
    /// The level of the transaction that was asked in.
    running: String,
    read_only: String,
    lock_timeout_ms: String,
    statement_timeout_ms: String,
    array_nulls: String,
    xmloption: String,
    commit: Option<String>,
    read: Option<String>,
}

/// What COMMIT waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommitLevel {
    Buffered,
    Applied,
    Visible,
}

/// What reads show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadLevel {
    Merged,
    Replica,
}

/// A setting in milliseconds, where 0 is for ever.
fn limit(setting: &str) -> Option<Duration> {
    let limit_ms = setting.parse().ok().filter(|&limit_ms| limit_ms > 0)?;
    Some(Duration::from_millis(limit_ms))
}

fn level(name: &str) -> Isolation {
    match name {
        "serializable" => Isolation::Serializable,
        "repeatable read" => Isolation::RepeatableRead,
        "read uncommitted" => Isolation::ReadUncommitted,
        _ => Isolation::ReadCommitted,
    }
}

impl Settings {
    /// The default of the session's transactions.
    pub fn isolation(&self) -> Isolation {
        level(&self.isolation)
    }

    /// The level of the transaction in which the replica was asked.
    pub fn running(&self) -> Isolation {
        level(&self.running)
    }

    pub fn read_only(&self) -> bool {
        self.read_only == "on"
    }

    /// Whether values are printed as the buffer keeps them.
    pub fn canonical(&self) -> bool {
        self.date_style.starts_with("ISO")
            && self.interval_style == "postgres"
            && matches!(self.time_zone.as_str(), "UTC" | "Etc/UTC" | "GMT")
            && self.bytea_output == "hex"
            && matches!(self.lc_monetary.as_str(), "C" | "POSIX" | "C.UTF-8" | "C.utf8")
            && self.extra_float_digits.parse::<i32>().is_ok_and(|digits| digits >= 1)
    }

    /// Whether every value that is printed is read back as the same: dates that say their zone, floats in full.
    pub fn reads_back(&self) -> bool {
        self.date_style.starts_with("ISO") && self.extra_float_digits.parse::<i32>().is_ok_and(|digits| digits >= 1)
    }

    pub fn lock_timeout(&self) -> Option<Duration> {
        limit(&self.lock_timeout_ms)
    }

    pub fn statement_timeout(&self) -> Option<Duration> {
        limit(&self.statement_timeout_ms)
    }

    pub fn commit(&self) -> CommitLevel {
        match self.commit.as_deref() {
            Some("applied") => CommitLevel::Applied,
            Some("visible") => CommitLevel::Visible,
            Some(_) | None => CommitLevel::Buffered,
        }
    }

    pub fn read(&self) -> ReadLevel {
        match self.read.as_deref() {
            Some("replica") => ReadLevel::Replica,
            Some(_) | None => ReadLevel::Merged,
        }
    }

    /// Text of the client is read by us, so it must be in an encoding that we read; and pending rows are read from their
    /// text by Postgres, as they were printed.
    ///
    /// # Errors
    /// 0A000 for other encodings than UTF-8, and where NULLs in arrays, or parts of XML documents, are not read as such.
    pub fn readable(&self) -> Result<(), Report> {
        let odd = [("array_nulls", &self.array_nulls, "on"), ("xmloption", &self.xmloption, "content")];
        if let Some((name, value, usual)) = odd.into_iter().find(|(_, value, usual)| value != usual) {
            let message = format!("{name} {value} is not available for rows that are still in the buffer");
            return Err(Report::new(sqlstate::FEATURE_NOT_SUPPORTED, message).hint(format!("SET {name} = {usual}.")));
        }
        if matches!(self.encoding.as_str(), "UTF8" | "SQL_ASCII") {
            return Ok(());
        }
        let message =
            format!("client_encoding {} is not available for rows that are still in the buffer", self.encoding);
        Err(Report::new(sqlstate::FEATURE_NOT_SUPPORTED, message).hint("SET client_encoding = 'UTF8'."))
    }

    /// What another connection must have to read a statement as this session does.
    pub fn to_carry_over(&self) -> [(&'static str, &str); 7] {
        [
            ("search_path", &self.search_path),
            ("DateStyle", &self.date_style),
            ("IntervalStyle", &self.interval_style),
            ("bytea_output", &self.bytea_output),
            ("extra_float_digits", &self.extra_float_digits),
            ("TimeZone", &self.time_zone),
            ("application_name", &self.application_name),
        ]
    }
}

/// Whether the text may change the modes of later transactions, and others may follow it in its own. (DISCARD is alone.)
pub fn may_set_modes(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    !lower.starts_with("discard") && (lower.contains("transaction") || lower.contains("all"))
}

/// What a standby is told in place of a SET that would have every transaction of the session be serializable, which it
/// refuses in each of them; `None`: the client's own text.
pub fn for_standby(text: &str) -> Option<String> {
    const WORD: &str = "serializable";
    let lower = text.to_ascii_lowercase();
    let place = lower.rfind(WORD)?;
    let whole = lower.split_whitespace().collect::<Vec<_>>().join(" ");
    let quoted = lower[..place].ends_with(['\'', '"']);
    let level = match (whole.contains("session characteristics"), whole.contains("default_transaction_isolation")) {
        (true, _) => "REPEATABLE READ",
        (_, true) if quoted => "repeatable read",
        (_, true) => "'repeatable read'",
        _ => return None,
    };
    Some(format!("{}{level}{}", &text[..place], &text[place + WORD.len()..]))
}

/// Judges `SET pgoutpost.name = value`, as Postgres would if it knew the names.
///
/// # Errors
/// 42704 for another name, 22023 for another value, 0A000 for what is not built yet.
pub fn check_own(name: &str, value: Option<&str>, show: bool) -> Result<(), Report> {
    let allowed: &[&str] = match name {
        "commit" => &["buffered", "applied", "visible"],
        "read" => &["merged", "replica", "main"],
        _ => {
            let message = format!("unrecognized configuration parameter \"pgoutpost.{name}\"");
            return Err(Report::new(sqlstate::SqlState(*b"42704"), message)
                .hint("There are pgoutpost.commit and pgoutpost.read."));
        }
    };
    match value {
        _ if show => Ok(()),
        Some("main") if name == "read" => {
            Err(Report::new(sqlstate::FEATURE_NOT_SUPPORTED, "pgoutpost.read = 'main' is not available yet")
                .hint("Use 'merged' or 'replica'."))
        }
        None => Ok(()),
        Some(value) if allowed.contains(&value) => Ok(()),
        Some(value) => {
            let message = format!("invalid value for parameter \"pgoutpost.{name}\": \"{value}\"");
            let hint = format!("Available values: {}.", allowed.join(", "));
            Err(Report::new(sqlstate::SqlState(*b"22023"), message).hint(hint))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standby_is_not_told_to_be_serializable() {
        for (given, told) in [
            (
                "SET default_transaction_isolation = serializable",
                Some("SET default_transaction_isolation = 'repeatable read'"),
            ),
            (
                "set DEFAULT_transaction_isolation to 'Serializable'",
                Some("set DEFAULT_transaction_isolation to 'repeatable read'"),
            ),
            (
                "SET SESSION  CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ WRITE",
                Some("SET SESSION  CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ WRITE"),
            ),
            ("SET default_transaction_isolation = 'read committed'", None),
            ("SET application_name = 'serializable'", None),
        ] {
            assert_eq!(for_standby(given).as_deref(), told);
        }
    }

    #[test]
    fn own_settings_take_only_their_values() {
        assert!(check_own("commit", Some("applied"), false).is_ok());
        assert!(check_own("commit", None, true).is_ok());
        let code = |name, value| check_own(name, Some(value), false).unwrap_err().code;
        assert_eq!(code("commit", "soon"), sqlstate::SqlState(*b"22023"));
        assert_eq!(code("colour", "red"), sqlstate::SqlState(*b"42704"));
        assert_eq!(code("read", "main"), sqlstate::FEATURE_NOT_SUPPORTED);
    }
}
