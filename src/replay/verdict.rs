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
    /// Asking whether main's definitions are still those that the transaction was made for.
    Definitions,
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
    /// Main's tables may have changed: ask about them, and try again at once.
    ReadDefinitions,
    /// This entry will never succeed as it is.
    Reject,
    /// Nothing will succeed until somebody acts; the advice says how.
    Halt(&'static str),
}

/// The row on main is not what the client saw, and the table's policy is to reject.
pub(super) const CONFLICT: &str = "PO003";

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
        ("PO002", StepKind::Definitions) => Verdict::ReadDefinitions,
        // The schema, the function or the right to it is missing.
        ("42P01" | "3F000" | "42883", StepKind::Advance) => Verdict::Halt(NO_SCHEMA),
        ("42501", StepKind::Advance) => Verdict::Halt(NO_RIGHT),
        // One missing grant must not put a whole night into quarantine.
        (_, StepKind::Role) if matches!(code.class(), "22" | "42") => Verdict::Halt(NO_ROLE),
        // We are logged in: a trigger said so, of the entry.
        (_, StepKind::Effect { .. } | StepKind::Commit) if matches!(code.class(), "28" | "3D") => rejected(grouped),
        _ => by_code(code, grouped),
    }
}

/// What an error is about, when it comes from the entry's own statements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// It may pass: never a rejection, however often it comes.
    Passing,
    /// It may pass, and is less likely in a smaller transaction.
    Crowded,
    /// The entry's fault, when it was alone.
    Entry,
    /// Everybody's.
    Everything,
}

/// The table: a code or the beginning of one, the first that fits; and what an operator should know
/// (<https://www.postgresql.org/docs/15/errcodes-appendix.html>).
const TABLE: [(&str, Kind, &str); 29] = [
    ("XX001", Kind::Everything, DAMAGED),
    ("XX002", Kind::Everything, DAMAGED),
    ("55P03", Kind::Passing, "somebody holds a lock on main: look at pg_locks and pg_stat_activity there"),
    (
        "55006",
        Kind::Entry,
        "its own transaction still uses the table, a trigger on main perhaps: mend that and RETRY, or SKIP",
    ),
    ("25006", Kind::Passing, "main takes no writes: it is a standby, or read only; [main] url must name the primary"),
    ("25P02", Kind::Passing, "the reason came before it: look at main's log"),
    ("25P03", Kind::Passing, "main waited too long for the link; it is tried again"),
    (
        "26",
        Kind::Passing,
        "main forgot prepared statements: is a pooler in front of it? [main] url must name the server itself",
    ),
    ("72", Kind::Passing, "main's old_snapshot_threshold is too short"),
    ("HV00N", Kind::Passing, "a foreign server that main needs cannot be reached"),
    ("08", Kind::Passing, "the link to main broke; it is tried again"),
    ("40", Kind::Crowded, "another transaction on main was in the way; it is tried again"),
    ("53", Kind::Passing, "main lacks disk, memory or connections: look at it"),
    ("57PO5", Kind::Passing, "another connection replays for this site: an older one of ours, or a second daemon"),
    ("57", Kind::Passing, "main is starting, stopping, or canceled the statement; it is tried again"),
    ("58", Kind::Passing, "main's system reports an error: look at its log and disks"),
    ("28", Kind::Everything, NO_LOGIN),
    ("3D", Kind::Everything, NO_LOGIN),
    (
        CONFLICT,
        Kind::Entry,
        "[replay.conflicts] says \"reject\": decide whose values are right; SKIP it, or EXPORT and correct it",
    ),
    ("22", Kind::Entry, "a value does not fit main: mend the table there and RETRY, or EXPORT, correct it and SKIP"),
    (
        "23505",
        Kind::Entry,
        "main has the value already, perhaps from another site: decide which is right; then RETRY or SKIP",
    ),
    ("23503", Kind::Entry, "the row it refers to is not on main: add it there and RETRY, or SKIP"),
    ("23", Kind::Entry, "main's constraint refuses the row: mend the data or the constraint and RETRY, or SKIP"),
    ("42501", Kind::Entry, "the client's role lost its right on main: GRANT it there and RETRY, or SKIP"),
    ("42", Kind::Entry, "main's table is not what it was: mend it and RETRY, or EXPORT, correct it and SKIP"),
    ("44", Kind::Entry, "a view's or policy's check on main refuses the row: mend it and RETRY, or SKIP"),
    ("P0", Kind::Entry, "a trigger on main refuses it: mend the cause and RETRY, or SKIP"),
    ("54", Kind::Entry, "it is too large for main: EXPORT, split it and SKIP"),
    ("", Kind::Entry, "look at main's log; mend the cause and RETRY, or SKIP"),
];

fn looked_up(code: SqlState) -> (Kind, &'static str) {
    let found = TABLE.iter().find(|(prefix, ..)| code.as_str().starts_with(prefix));
    found.map_or((Kind::Entry, ""), |&(_, kind, advice)| (kind, advice))
}

/// What an operator should know about an error of main; nothing, when it says it all.
pub(super) fn advice(error: &Error) -> &'static str {
    match error {
        Error::Server(report) => looked_up(report.code).1,
        Error::Connection(_) | Error::Unexpected(_) => "",
    }
}

fn by_code(code: SqlState, grouped: bool) -> Verdict {
    match looked_up(code) {
        // Smaller transactions hold fewer locks.
        (Kind::Crowded, _) if grouped => Verdict::RetryWithoutGroup,
        (Kind::Passing | Kind::Crowded, _) => Verdict::Retry,
        (Kind::Everything, advice) => Verdict::Halt(advice),
        (Kind::Entry, _) => rejected(grouped),
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
        for code in [
            "08006", "08P01", "40001", "40P01", "53100", "53300", "55P03", "57014", "57P01", "57P03", "58030", "25006",
            "72000", "26000",
        ] {
            assert_eq!(judge(code, EFFECT, false), Verdict::Retry, "{code}");
        }
        assert_eq!(verdict(EFFECT, &Error::Connection("gone".into()), true), Verdict::Retry);
    }

    #[test]
    fn bad_data_is_rejected_when_it_was_alone() {
        for code in [
            "22001", "22P02", "23502", "23503", "23505", "23514", "23P01", "42P01", "42703", "42501", "44000", "P0001",
            "0A000", "54000", "55006", "28000", "3D000",
        ] {
            assert_eq!(judge(code, EFFECT, false), Verdict::Reject, "{code}");
            assert_eq!(judge(code, EFFECT, true), Verdict::RetryWithoutGroup, "{code}");
            assert_eq!(judge(code, StepKind::Commit, false), Verdict::Reject, "{code} deferred");
        }
    }

    #[test]
    fn every_line_of_the_table_can_be_reached_and_advises() {
        for (at, (prefix, kind, advice)) in TABLE.iter().enumerate() {
            let code = SqlState::parse(&format!("{prefix}00000")[..5]);
            assert_eq!(looked_up(code), (*kind, *advice), "line {at}: {prefix}");
            assert!(advice.len() > 20, "{prefix}");
        }
    }

    #[test]
    fn the_ledger_decides_and_the_operator_acts() {
        assert_eq!(judge("PO001", StepKind::Advance, true), Verdict::ReadLedger);
        assert_eq!(judge("PO002", StepKind::Definitions, false), Verdict::ReadDefinitions);
        assert!(matches!(judge("42501", StepKind::Role, true), Verdict::Halt(_)));
        assert!(matches!(judge("22023", StepKind::Role, false), Verdict::Halt(_)));
        assert!(matches!(judge("42883", StepKind::Advance, false), Verdict::Halt(_)));
        assert!(matches!(judge("28P01", StepKind::Begin, false), Verdict::Halt(_)));
    }
}
