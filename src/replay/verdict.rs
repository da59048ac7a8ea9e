//! What to do when something fails on main: the one table to read.
//!
//! A broken connection is not a bad transaction: only what the server says about the data or the statement itself may
//! reject an entry, and only when it was alone in its transaction.

use crate::sqlstate::SqlState;
use crate::upstream::own::Error;

/// Which step of a transaction failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StepKind {
    /// BEGIN, and preparing statements that are not about one table.
    Begin,
    /// The ledger function.
    Advance,
    /// SET LOCAL ROLE
    Role,
    /// An effect of the entry, by its place in the flight; and how many rows it should touch.
    Effect {
        entry: usize,
        effect: usize,
        rows: u64,
    },
    Commit,
    /// Asking for main's place in its log, after COMMIT.
    Place,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The same again, after a pause.
    Retry,
    /// The same again at once, each entry in a transaction of its own.
    RetryWithoutGroup,
    /// The ledger is not where we thought: read it and go on from there.
    ReadLedger,
    /// This entry will never succeed as it is.
    Reject,
    /// Nothing will succeed until somebody acts; the advice says how.
    Halt(&'static str),
}

pub(super) const NO_SCHEMA: &str = "main has no pgoutpost schema for this site: run `pgoutpost setup`";
const NO_ROLE: &str =
    "the main user may not act as the client's role: create the role on main and GRANT it to the main user";
const NO_RIGHT: &str =
    "the main user may not advance the ledger: run `pgoutpost setup` as it, or GRANT EXECUTE on pgoutpost.advance";
const NO_LOGIN: &str = "main refuses the login of [main] url: check user, password, database and pg_hba.conf";
const DAMAGED: &str = "main reports damaged data: look at its log";

/// Judges a failure. `grouped`: the transaction held more than one entry.
pub(super) fn verdict(step: StepKind, error: &Error, grouped: bool) -> Verdict {
    let code = match error {
        Error::Connection(_) => return Verdict::Retry,
        Error::Unexpected(_) => return rejected(grouped),
        Error::Server(report) => report.code,
    };
    match (code.as_str(), step) {
        ("PO001", StepKind::Advance) => Verdict::ReadLedger,
        // The schema, the function or the right to it is missing.
        ("42P01" | "3F000" | "42883", StepKind::Advance) => Verdict::Halt(NO_SCHEMA),
        ("42501", StepKind::Advance) => Verdict::Halt(NO_RIGHT),
        // One missing grant must not put a whole night into quarantine.
        (_, StepKind::Role) if matches!(code.class(), "22" | "42") => Verdict::Halt(NO_ROLE),
        _ => by_code(code, grouped),
    }
}

/// The table (<https://www.postgresql.org/docs/15/errcodes-appendix.html>).
fn by_code(code: SqlState, grouped: bool) -> Verdict {
    match code.as_str() {
        // lock_not_available, object_in_use, cannot_connect_now, read_only_sql_transaction (main became a standby),
        // in_failed_sql_transaction (the reason came before), idle_in_transaction_session_timeout, too_many_connections
        "55P03" | "55006" | "25006" | "25P02" | "25P03" => return Verdict::Retry,
        "XX001" | "XX002" => return Verdict::Halt(DAMAGED),
        _ => {}
    }
    match code.class() {
        // Smaller transactions hold fewer locks.
        "40" if grouped => Verdict::RetryWithoutGroup,
        // connection, rollback (deadlock, serialization), resources, operator intervention, system error
        "08" | "40" | "53" | "57" | "58" => Verdict::Retry,
        "28" | "3D" => Verdict::Halt(NO_LOGIN),
        // data (22), integrity (23), access rule and syntax (42), WITH CHECK OPTION (44), raised by a trigger (P0),
        // features (0A), limits (54), and whatever else a server says about a statement
        _ => rejected(grouped),
    }
}

fn rejected(grouped: bool) -> Verdict {
    if grouped { Verdict::RetryWithoutGroup } else { Verdict::Reject }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Report;

    fn judge(code: &str, step: StepKind, grouped: bool) -> Verdict {
        verdict(step, &Error::Server(Box::new(Report::new(SqlState::parse(code), "x"))), grouped)
    }

    const EFFECT: StepKind = StepKind::Effect { entry: 0, effect: 0, rows: 1 };

    #[test]
    fn what_may_pass_is_retried_for_ever() {
        for code in
            ["08006", "08P01", "40001", "40P01", "53100", "53300", "55P03", "57014", "57P01", "57P03", "58030", "25006"]
        {
            assert_eq!(judge(code, EFFECT, false), Verdict::Retry, "{code}");
        }
        assert_eq!(verdict(EFFECT, &Error::Connection("gone".into()), true), Verdict::Retry);
    }

    #[test]
    fn bad_data_is_rejected_when_it_was_alone() {
        for code in [
            "22001", "22P02", "23502", "23503", "23505", "23514", "23P01", "42P01", "42703", "42501", "44000", "P0001",
            "0A000", "54000",
        ] {
            assert_eq!(judge(code, EFFECT, false), Verdict::Reject, "{code}");
            assert_eq!(judge(code, EFFECT, true), Verdict::RetryWithoutGroup, "{code}");
            assert_eq!(judge(code, StepKind::Commit, false), Verdict::Reject, "{code} deferred");
        }
    }

    #[test]
    fn the_ledger_decides_and_the_operator_acts() {
        assert_eq!(judge("PO001", StepKind::Advance, true), Verdict::ReadLedger);
        assert!(matches!(judge("42501", StepKind::Role, true), Verdict::Halt(_)));
        assert!(matches!(judge("22023", StepKind::Role, false), Verdict::Halt(_)));
        assert!(matches!(judge("42883", StepKind::Advance, false), Verdict::Halt(_)));
        assert!(matches!(judge("28P01", StepKind::Begin, false), Verdict::Halt(_)));
    }
}
