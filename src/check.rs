//! Looks at everything a site needs and says what is wrong and how to mend it. Changes nothing.

pub mod fsck;
mod main;
mod pair;
mod policies;
mod replica;

pub use policies::{policies, unknown};

use std::fmt;

use tokio_postgres::{Client, Config};

use crate::upstream::own;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grade {
    Ok,
    /// Works, but less well or less safely than it could.
    Warn,
    /// The site cannot do its job.
    Fail,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub what: &'static str,
    pub grade: Grade,
    /// What was found.
    pub detail: String,
    /// What to do about it; empty when nothing is to be done.
    pub mend: String,
}

impl Finding {
    pub fn ok(what: &'static str, detail: impl Into<String>) -> Finding {
        Finding { what, grade: Grade::Ok, detail: detail.into(), mend: String::new() }
    }

    pub fn warn(what: &'static str, detail: impl Into<String>, mend: impl Into<String>) -> Finding {
        Finding { what, grade: Grade::Warn, detail: detail.into(), mend: mend.into() }
    }

    pub fn fail(what: &'static str, detail: impl Into<String>, mend: impl Into<String>) -> Finding {
        Finding { what, grade: Grade::Fail, detail: detail.into(), mend: mend.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = match self.grade {
            Grade::Ok => "ok  ",
            Grade::Warn => "WARN",
            Grade::Fail => "FAIL",
        };
        write!(f, "{mark}  {}: {}", self.what, self.detail)?;
        if self.mend.is_empty() { Ok(()) } else { write!(f, "\n      → {}", self.mend) }
    }
}

/// The worst of them.
pub fn worst(findings: &[Finding]) -> Grade {
    findings.iter().map(|finding| finding.grade).max().unwrap_or(Grade::Ok)
}

/// Looks at main, at the replica and at both together. Main being away is a warning: that is what a site is for.
/// `others`: findings of other parts (the buffer's, the configuration's), put at the end.
pub async fn run(main: &Config, replica: &Config, site: &str, others: Vec<Finding>) -> Vec<Finding> {
    let mut findings = pair::urls(main, replica);
    let (main_client, replica_client) = tokio::join!(own::connect(main), own::connect(replica));
    let main_client = main::reachable(main_client, &mut findings);
    let replica_client = replica::reachable(replica_client, &mut findings);
    if let Some(client) = &main_client {
        looked("main", main::look(client, site, &mut findings).await, &mut findings);
    }
    if let Some(client) = &replica_client {
        looked("replica", replica::look(client, site, &mut findings).await, &mut findings);
    }
    if let (Some(main), Some(replica)) = (&main_client, &replica_client) {
        looked("main and replica", pair::look(main, replica, &mut findings).await, &mut findings);
    }
    findings.extend(others);
    findings
}

fn looked(what: &'static str, result: Result<(), own::Error>, findings: &mut Vec<Finding>) {
    if let Err(error) = result {
        findings.push(Finding::fail(what, format!("could not be looked at further: {error}"), "Run the check again."));
    }
}

/// One value of a one-row query.
async fn one<T: for<'a> tokio_postgres::types::FromSql<'a>>(client: &Client, query: &str) -> Result<T, own::Error> {
    Ok(client.query_one(query, &[]).await?.try_get(0)?)
}

/// The site's seq in the ledger. The outer `None`: there is no ledger; the inner: no row of this site.
async fn ledger(client: &Client, site: &str) -> Result<Option<Option<i64>>, own::Error> {
    if !one::<bool>(client, "SELECT to_regclass('pgoutpost.ledger') IS NOT NULL").await? {
        return Ok(None);
    }
    let row = client.query_opt("SELECT seq FROM pgoutpost.ledger WHERE site = $1", &[&site]).await?;
    Ok(Some(row.map(|row| row.try_get(0)).transpose()?))
}
