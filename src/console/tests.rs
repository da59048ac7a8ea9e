use super::*;
use crate::sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE;
use crate::status::tests::Plain;
use crate::status::{ClientInfo, Lease, StatementKind};

fn nobody() -> Operator<'static> {
    Operator { buffer: None, name: String::new() }
}

async fn ask(sql: &str) -> Result<Reply, Report> {
    let (status, _) = Plain::healthy().status();
    run(sql, &status, &nobody()).await
}

/// The value in this column of the first row.
fn value(reply: &Reply, column: &str) -> Option<String> {
    let at = reply.columns.iter().position(|name| *name == column).unwrap_or_else(|| panic!("no column {column}"));
    reply.rows[0][at].clone()
}

#[tokio::test]
async fn every_topic_answers_rectangular_rows_and_is_in_the_help() {
    let help = ask("SHOW HELP").await.unwrap();
    assert_eq!(help.rows.len(), show::Topic::ALL.len() + quarantine::HELP.len());
    for topic in
        ["HELP", "BUFFER", "ENTRIES", "QUARANTINE", "CONFLICTS", "LAG", "CLIENTS", "STATS", "VERSION", "CONFIG"]
    {
        let command = format!("SHOW {topic}");
        let reply = ask(&command).await.unwrap();
        assert!(!reply.columns.is_empty() && reply.tag == "SHOW", "{reply:?}");
        assert!(reply.rows.iter().all(|row| row.len() == reply.columns.len()), "{reply:?}");
        assert!(help.rows.iter().any(|row| row[0].as_deref() == Some(command.as_str())), "{topic}");
    }
}

#[tokio::test]
async fn case_space_comments_and_semicolons_make_no_difference() {
    let plain = ask("SHOW HELP").await.unwrap();
    for sql in ["show help", "  Show\n\tHelp ; ; ", "/* pool */ SHOW HELP -- please", "-- first\nSHOW HELP;"] {
        assert_eq!(ask(sql).await.unwrap(), plain, "{sql:?}");
    }
}

#[tokio::test]
async fn the_unknown_is_a_syntax_error_with_the_way_to_help() {
    for sql in [
        "SHOW",
        "SHOW NOTHING",
        "SHOW HELP LAG",
        "DROP TABLE x",
        "SELECT * FROM t",
        "SELECT 1; SELECT 2",
        "SHOW HELP; SHOW LAG",
        "SHOW QUARANTINE AFTER",
        "SHOW QUARANTINE AFTER x",
        "hej",
    ] {
        let report = ask(sql).await.unwrap_err();
        assert_eq!(report.code, SYNTAX_ERROR, "{sql:?}");
        assert!(report.hint.unwrap().contains("SHOW HELP"), "{sql:?}");
    }
}

#[tokio::test]
async fn what_drivers_send_by_themselves_does_not_fail() {
    for (sql, tag) in [
        ("", ""),
        (" ; ", ""),
        ("-- ping", ""),
        ("SET extra_float_digits = 3", "SET"),
        ("SET application_name = 'psql'", "SET"),
        ("BEGIN", "BEGIN"),
        ("ROLLBACK", "ROLLBACK"),
        ("COMMIT;", "COMMIT"),
        ("DISCARD ALL", "DISCARD ALL"),
        ("SELECT 1", "SELECT 1"),
        ("select pg_catalog.version()", "SELECT 1"),
        ("SHOW TRANSACTION ISOLATION LEVEL", "SHOW"),
        ("show standard_conforming_strings", "SHOW"),
    ] {
        assert_eq!(ask(sql).await.unwrap().tag, tag, "{sql:?}");
    }
}

#[tokio::test]
async fn figures_are_those_of_the_site() {
    let mut site = Plain::healthy();
    site.buffer.pending = 7;
    site.buffer.oldest_pending = Some(std::time::Duration::from_millis(1500));
    site.progress.last = crate::entry::Seq(9);
    site.progress.confirmed = crate::entry::Seq(2);
    site.tracker.lag_bytes = Some(42);
    site.leases = vec![Lease { sequence: "public.s".to_owned(), remaining: 12 }];
    let (status, _) = site.status();
    let guard = status.clients().register(ClientInfo { pid: 77, user: "anna".to_owned(), ..ClientInfo::default() });
    guard.statement(StatementKind::Merged);
    let buffer = run("SHOW BUFFER", &status, &nobody()).await.unwrap();
    assert_eq!(
        (value(&buffer, "pending").as_deref(), value(&buffer, "oldest_ms").as_deref()),
        (Some("7"), Some("1500"))
    );
    let lag = run("SHOW LAG", &status, &nobody()).await.unwrap();
    assert_eq!((value(&lag, "to_confirm").as_deref(), value(&lag, "lag_bytes").as_deref()), (Some("7"), Some("42")));
    assert_eq!(value(&lag, "lag_ms"), None);
    let clients = run("SHOW CLIENTS", &status, &nobody()).await.unwrap();
    assert_eq!(
        (value(&clients, "pid").as_deref(), value(&clients, "statement").as_deref()),
        (Some("77"), Some("merged"))
    );
    let stats = run("SHOW STATS", &status, &nobody()).await.unwrap();
    assert!(stats.rows.contains(&vec![Some("lease_remaining public.s".to_owned()), Some("12".to_owned())]));
}

#[tokio::test]
async fn passwords_are_masked_and_a_buffer_that_is_away_says_so() {
    let config = ask("SHOW CONFIG").await.unwrap();
    let shown = format!("{config:?}");
    assert!(shown.contains("postgres://u:***@far/observatory") && !shown.contains("geheim"), "{shown}");
    let (status, _) = Plain { broken: true, ..Plain::healthy() }.status();
    let report = run("SHOW ENTRIES", &status, &nobody()).await.unwrap_err();
    assert_eq!((report.code, report.detail.as_deref()), (OBJECT_NOT_IN_PREREQUISITE_STATE, Some("buffer is away")));
}
