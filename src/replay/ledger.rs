//! Main's word on how far this site's history has come, and what follows from it.

use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row};
use uuid::Uuid;

use super::verdict::NO_SCHEMA;
use crate::entry::Seq;
use crate::upstream::own;

/// The site's row of `pgoutpost.ledger`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ledger {
    pub(super) seq: Seq,
    /// The last entry applied, when there was one.
    pub(super) entry: Option<Uuid>,
}

/// Why there is no ledger to go by.
#[derive(Debug)]
pub(super) enum NoLedger {
    Missing(&'static str),
    Failed(own::Error),
}

/// Reads the site's row.
pub(super) async fn read(client: &Client, site: &str) -> Result<Ledger, NoLedger> {
    of(client.query_typed_opt("SELECT seq, entry FROM pgoutpost.ledger WHERE site = $1", &[(&site, Type::TEXT)]).await)
}

/// Makes this connection the only one that advances the ledger, and reads it. What connections of before still have under way
/// is decided by then: it is in this ledger, or it will not be in any.
pub(super) async fn take_over(client: &Client, site: &str) -> Result<Ledger, NoLedger> {
    let site = (&site as &(dyn ToSql + Sync), Type::TEXT);
    let (begun, row, committed) = tokio::join!(
        client.batch_execute("BEGIN READ WRITE"),
        client.query_typed_opt("SELECT seq, entry FROM pgoutpost.take_over($1)", std::slice::from_ref(&site)),
        client.batch_execute("COMMIT"),
    );
    let done = begun.and_then(|()| row.and_then(|row| committed.map(|()| row)));
    of(done)
}

fn of(row: Result<Option<Row>, tokio_postgres::Error>) -> Result<Ledger, NoLedger> {
    let row = match row.map_err(own::Error::from) {
        Ok(Some(row)) => row,
        Ok(None) => return Err(NoLedger::Missing(NO_SCHEMA)),
        Err(error) => {
            let missing = error.code().is_some_and(|code| matches!(code.as_str(), "42P01" | "3F000"));
            return Err(if missing { NoLedger::Missing(NO_SCHEMA) } else { NoLedger::Failed(error) });
        }
    };
    let read = || Ok(Ledger { seq: Seq(row.try_get::<_, i64>(0)?.max(0) as u64), entry: row.try_get(1)? });
    read().map_err(|error: tokio_postgres::Error| NoLedger::Failed(error.into()))
}

/// What this site knows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known {
    /// The newest entry in the buffer.
    pub(super) last: Seq,
    /// The entry in the buffer at the ledger's place, if it is still there.
    pub(super) at_ledger: Option<Uuid>,
    /// Whether the buffer has the entry that follows the ledger's place.
    pub(super) next_is_there: bool,
}

/// Why replay cannot go on from main's ledger; `None`: it can.
pub(super) fn obstacle(ledger: Ledger, known: Known) -> Option<String> {
    let Ledger { seq, entry } = ledger;
    let last = known.last;
    if seq > last {
        return Some(format!(
            "main has entries of this site up to {seq}, but the buffer ends at {last}: another daemon writes under this \
             site's name, or the buffer was replaced by an older one"
        ));
    }
    if let (Some(theirs), Some(ours)) = (entry, known.at_ledger)
        && theirs != ours
    {
        return Some(format!(
            "entry {seq} on main is {theirs}, in our buffer it is {ours}: two daemons write under this site's name"
        ));
    }
    if seq < last && !known.next_is_there {
        return Some(format!(
            "main's ledger is at {seq} (a failover or restore lost what came after), and the buffer no longer holds \
             entry {}: main must be mended by hand",
            seq.next()
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(last: u64, at_ledger: Option<Uuid>, next_is_there: bool) -> Known {
        Known { last: Seq(last), at_ledger, next_is_there }
    }

    #[test]
    fn goes_on_only_where_the_histories_agree() {
        let (a, b) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let ledger = |seq| Ledger { seq: Seq(seq), entry: Some(a) };
        assert_eq!(obstacle(ledger(5), known(9, Some(a), true)), None);
        assert_eq!(obstacle(ledger(5), known(9, None, true)), None, "trimmed");
        assert_eq!(obstacle(ledger(9), known(9, Some(a), false)), None, "all applied");
        assert!(obstacle(ledger(5), known(9, Some(b), true)).is_some(), "another history");
        assert!(obstacle(ledger(10), known(9, None, false)).is_some(), "ahead of the buffer");
        assert!(obstacle(ledger(5), known(9, Some(a), false)).is_some(), "the next entry is gone");
    }
}
