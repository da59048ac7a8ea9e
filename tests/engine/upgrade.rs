//! A main that an older program set up, with what it holds, and programs that meet a schema which is not theirs.

use std::time::Duration;

use pgoutpost::buffer::Draft;
use pgoutpost::check;
use pgoutpost::entry::{Entry, EntryTable, Seq};
use pgoutpost::replay::{ReplayState, trim_conflicts};
use pgoutpost::setup::{self, SCHEMA_VERSION};
use tokio_postgres::Client;

use crate::cluster::{Database, role};
use crate::harness::{Outpost, entry, insert, table};

/// As setup made it then, to the letter.
const SCHEMA_3: &str = include_str!("schema_3.sql");
/// The role by which an older program replays, as its setup allowed it to.
const DAEMON: &str = "upgrade_daemon";

fn t() -> EntryTable {
    table("t", &["id integer"], 1)
}

fn row(id: &str) -> Entry {
    entry(DAEMON, vec![t()], vec![insert(&[id])])
}

/// Of version 3, in use for a while: two sites, of which one has applied two entries, and a log of conflicts.
async fn aged(label: &str) -> Outpost {
    let database = Database::new(label).await;
    let main = database.main().await;
    role(&main, DAEMON).await;
    main.batch_execute(&format!("BEGIN; {SCHEMA_3}; COMMIT")).await.unwrap();
    let outpost = Outpost::over(
        database,
        &format!(
            "CREATE TABLE t(id int PRIMARY KEY); GRANT ALL ON t TO {DAEMON}; REVOKE UPDATE ON t FROM PUBLIC;
            GRANT EXECUTE ON FUNCTION pgoutpost.advance(text, bigint, bigint, uuid) TO {DAEMON};
            INSERT INTO pgoutpost.ledger (site, seq, entry) VALUES ('other', 7, '00000000-0000-0000-0000-000000000007');
            INSERT INTO pgoutpost.conflict (site, seq, effect, table_schema, table_name, key, outcome, role, logged_at)
                SELECT 's', i, 0, 'public', 't', '{{}}', 'gone', 'postgres', now() - interval '200 days' FROM generate_series(1, 3) i"
        ),
    )
    .await;
    for id in 1..=5 {
        outpost.commit(row(&id.to_string())).await;
    }
    // What the older program has applied of them.
    let second = outpost.buffer.read(Seq(1), 1).await.unwrap().remove(0).uuid;
    let applied =
        format!("BEGIN; SELECT pgoutpost.advance('s', 0, 2, '{second}'); INSERT INTO t VALUES (1), (2); COMMIT");
    main.batch_execute(&applied).await.unwrap();
    outpost
}

async fn schema_on_main(outpost: &Outpost) -> (check::Grade, String) {
    let database = &outpost.database;
    database.site.wait_replica_caught_up().await.unwrap();
    let findings = check::run(&database.main, &database.replica, "s", Vec::new()).await;
    let found = findings.into_iter().find(|finding| finding.what == "schema on main").unwrap();
    (found.grade, found.detail)
}

async fn ledgers(outpost: &Outpost) -> Vec<String> {
    outpost.texts("SELECT site || ' ' || seq FROM pgoutpost.ledger ORDER BY site").await
}

async fn advance(client: &Client, from: u64) -> Result<(), tokio_postgres::Error> {
    let to = from + 1;
    client.batch_execute(&format!("SELECT pgoutpost.advance('s', {from}, {to}, NULL)")).await
}

#[tokio::test]
async fn an_older_schema_is_brought_up_to_date_with_all_it_holds() {
    let outpost = aged("upgrade").await;
    let older = outpost.database.user(DAEMON).await;
    assert_eq!(schema_on_main(&outpost).await.0, check::Grade::Fail);
    let mut replayer = outpost.replay_as(DAEMON);
    let status = replayer.until(|status| status.state == ReplayState::Halted).await;
    let told = status.last_error.unwrap();
    assert!(told.contains("version 3") && told.contains("pgoutpost setup"), "{told}");
    assert_eq!((ledgers(&outpost).await, status.rejected_total), (vec!["other 7".to_owned(), "s 2".to_owned()], 0));

    // Twice, as an operator does who is not sure.
    setup::run(&outpost.database.main, "s", None).await.unwrap();
    setup::run(&outpost.database.main, "s", None).await.unwrap();
    outpost.drained().await;
    assert_eq!(ledgers(&outpost).await, ["other 7", "s 5"]);
    assert_eq!(outpost.texts("SELECT string_agg(id::text, ' ' ORDER BY id) FROM t").await, ["1 2 3 4 5"]);
    assert_eq!(outpost.texts("SELECT string_agg(seq::text, ' ' ORDER BY id) FROM pgoutpost.conflict").await, ["1 2 3"]);
    assert!(outpost.buffer.quarantined().await.unwrap().is_empty());
    assert_eq!(schema_on_main(&outpost).await.0, check::Grade::Ok);
    assert_eq!(replayer.stop().await.schema_version, Some(SCHEMA_VERSION));

    // The older program is not listened to any more, and is told why; the way back is in OPERATIONS.md.
    let error = advance(&older, 5).await.unwrap_err();
    let error = error.as_db_error().unwrap();
    assert_eq!(error.code().code(), "57PO5");
    assert!(error.hint().unwrap().contains("up to date"), "{error:?}");
    let main = outpost.database.main().await;
    main.batch_execute("UPDATE pgoutpost.ledger SET replayer = NULL WHERE site = 's'").await.unwrap();
    advance(&older, 5).await.unwrap();
    advance(&older, 6).await.unwrap();
    assert_eq!(ledgers(&outpost).await, ["other 7", "s 7"]);
}

/// While the older program's transaction is open, and has the ledger's row.
#[tokio::test]
async fn setup_waits_for_what_an_older_program_has_under_way() {
    let outpost = aged("upgradebusy").await;
    let older = outpost.database.user(DAEMON).await;
    let third = outpost.buffer.read(Seq(2), 1).await.unwrap().remove(0).uuid;
    let under_way = format!("BEGIN; SELECT pgoutpost.advance('s', 2, 3, '{third}'); INSERT INTO t VALUES (3)");
    older.batch_execute(&under_way).await.unwrap();
    let config = outpost.database.main.clone();
    let setup = tokio::spawn(async move { setup::run(&config, "s", None).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!setup.is_finished());
    older.batch_execute("COMMIT").await.unwrap();
    setup.await.unwrap().unwrap();
    let replayer = outpost.replay_as(DAEMON);
    outpost.drained().await;
    assert_eq!(outpost.texts("SELECT string_agg(id::text, ' ' ORDER BY id) FROM t").await, ["1 2 3 4 5"]);
    replayer.stop().await;
}

#[tokio::test]
async fn versions_that_replay_works_with_are_told_and_nothing_more() {
    let outpost = aged("versions").await;
    setup::run(&outpost.database.main, "s", None).await.unwrap();
    let main = outpost.database.main().await;
    let be = |version: i32| {
        format!(
            "CREATE OR REPLACE FUNCTION pgoutpost.schema_version() RETURNS integer LANGUAGE sql IMMUTABLE PARALLEL SAFE AS 'SELECT {version}'"
        )
    };
    let ages = Duration::from_secs(90 * 24 * 60 * 60);
    // Version 4 could not trim the log of conflicts.
    let trim = "DROP FUNCTION pgoutpost.trim_conflicts(text, interval, integer)";
    main.batch_execute(&format!("{}; {trim}", be(4))).await.unwrap();
    let (grade, detail) = schema_on_main(&outpost).await;
    assert!(grade == check::Grade::Warn && detail.contains("not trimmed"), "{detail}");
    let refused = trim_conflicts(&main, "s", ages).await.unwrap_err().to_string();
    assert!(refused.contains("version 4") && refused.contains("pgoutpost setup"), "{refused}");
    let replayer = outpost.replay_as(DAEMON);
    outpost.drained().await;
    assert_eq!(replayer.stop().await.schema_version, Some(4));
    setup::run(&outpost.database.main, "s", None).await.unwrap();
    assert_eq!(trim_conflicts(&main, "s", ages).await.unwrap(), 3);
    // One that is not known yet.
    main.batch_execute(&be(SCHEMA_VERSION + 1)).await.unwrap();
    let (grade, detail) = schema_on_main(&outpost).await;
    assert!(grade == check::Grade::Warn && detail.contains("this program knows"), "{detail}");
    let draft = Draft { entry: row("6"), changes: Vec::new() };
    outpost.buffer.commit(draft).await.unwrap();
    let replayer = outpost.replay_as(DAEMON);
    outpost.drained().await;
    assert_eq!(replayer.stop().await.schema_version, Some(SCHEMA_VERSION + 1));
    assert_eq!(outpost.texts("SELECT count(*)::text FROM t").await, ["6"]);
}
