//! The schema on main: what bumps the catalog version, what the gate and the ledger function do.

use std::time::{Duration, Instant};

use crate::cluster::{Database, role};
use pgoutpost::setup;
use tokio_postgres::Client;

async fn version(client: &Client) -> i64 {
    client.query_one("SELECT version FROM pgoutpost.catalog", &[]).await.unwrap().get(0)
}

fn code(error: &tokio_postgres::Error) -> String {
    error.code().map_or_else(|| error.to_string(), |code| code.code().to_owned())
}

#[tokio::test]
async fn running_twice_changes_nothing_and_two_at_once_get_along() {
    let database = Database::new("twice").await;
    let runs = (0..4).map(|_| setup::run(&database.main, "s", None));
    for done in futures_util::future::join_all(runs).await {
        done.unwrap();
    }
    let main = database.main().await;
    main.batch_execute("SELECT pgoutpost.advance('s', 0, 5, NULL)").await.unwrap();
    setup::run(&database.main, "s", None).await.unwrap();
    setup::run(&database.main, "other", None).await.unwrap();
    let rows = main.query("SELECT site, seq FROM pgoutpost.ledger ORDER BY site", &[]).await.unwrap();
    let rows: Vec<(String, i64)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_eq!(rows, [("other".to_owned(), 0), ("s".to_owned(), 5)]);
}

#[tokio::test]
async fn a_role_without_superuser_gets_a_warning_and_a_working_ledger() {
    let database = Database::new("plain").await;
    let main = database.main().await;
    role(&main, "plain_owner").await;
    main.batch_execute(&format!("ALTER DATABASE {} OWNER TO plain_owner", database.name)).await.unwrap();
    let mut config = database.main.clone();
    config.user("plain_owner");
    let done = setup::run(&config, "s", None).await.unwrap();
    assert_eq!(done.warnings.len(), 1);
    let owner = database.user("plain_owner").await;
    owner.batch_execute("SELECT pgoutpost.advance('s', 0, 1, NULL)").await.unwrap();
    // The superuser mends it afterwards.
    assert!(setup::run(&database.main, "s", None).await.unwrap().warnings.is_empty());
    let before = version(&main).await;
    main.batch_execute("CREATE TABLE t(a int)").await.unwrap();
    assert_eq!(version(&main).await, before + 1);
}

#[tokio::test]
async fn ddl_of_any_role_bumps_the_version_once_at_commit() {
    let database = Database::set_up("bump").await;
    let main = database.main().await;
    role(&main, "bump_user").await;
    main.batch_execute("GRANT CREATE ON SCHEMA public TO bump_user").await.unwrap();
    let user = database.user("bump_user").await;
    let start = version(&main).await;
    user.batch_execute(
        "BEGIN; CREATE TABLE t(a int primary key); ALTER TABLE t ADD b text; DROP TABLE t; CREATE TABLE t(a int)",
    )
    .await
    .unwrap();
    assert_eq!(version(&main).await, start, "not before commit");
    user.batch_execute("COMMIT").await.unwrap();
    assert_eq!(version(&main).await, start + 1);
    user.batch_execute("BEGIN; CREATE TABLE gone(a int); ROLLBACK").await.unwrap();
    assert_eq!(version(&main).await, start + 1, "rolled back");
    user.batch_execute("DROP TABLE t").await.unwrap();
    assert_eq!(version(&main).await, start + 2);
    for quiet in [
        "CREATE TEMP TABLE tt(a int)",
        "DROP TABLE tt",
        "COMMENT ON SCHEMA public IS 'x'",
        "GRANT CREATE ON SCHEMA public TO bump_user",
    ] {
        let client = if quiet.contains("SCHEMA") { &main } else { &user };
        client.batch_execute(quiet).await.unwrap();
        assert_eq!(version(&main).await, start + 2, "{quiet}");
    }
    main.batch_execute("CREATE TABLE i(a int); CREATE EXTENSION IF NOT EXISTS plpgsql").await.unwrap();
    main.batch_execute("CREATE INDEX CONCURRENTLY i_a ON i(a)").await.unwrap();
    let now = version(&main).await;
    main.batch_execute("SET session_replication_role = replica; CREATE TABLE r(a int)").await.unwrap();
    assert_eq!(version(&main).await, now + 1, "also as pg_restore and logical replication do it");
    let left: i64 = main.query_one("SELECT count(*) FROM pgoutpost.definition_change", &[]).await.unwrap().get(0);
    assert_eq!(left, 0);
    assert!(user.batch_execute("DELETE FROM pgoutpost.ledger").await.is_err());
    assert!(user.batch_execute("SELECT pgoutpost.advance('s', 0, 1, NULL)").await.is_err());
}

/// What looks names up where its caller does may be given somebody else's function or operator, and the daemon's rights with it. The
/// others name all they use in full (the gate is asked in each read), or are to run with the caller's path.
#[tokio::test]
async fn functions_look_names_up_where_nobody_else_may_put_any() {
    let database = Database::set_up("paths").await;
    let main = database.main().await;
    let open = "SELECT proname::text FROM pg_proc WHERE pronamespace = 'pgoutpost'::regnamespace
                AND NOT coalesce(array_to_string(proconfig, ' ') LIKE '%search_path=pg_catalog, pg_temp%', false) ORDER BY 1";
    let open: Vec<String> = main.query(open, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    assert_eq!(open, ["canonical_text", "gate", "schema_version", "settle_conflict"]);
    main.batch_execute(
        "CREATE SEQUENCE s MAXVALUE 100; CREATE FUNCTION public.div(numeric, bigint) RETURNS numeric LANGUAGE sql AS 'SELECT 1/0.0'",
    )
    .await
    .unwrap();
    let leased = main.query("SELECT pgoutpost.lease('s', 3)", &[]).await.unwrap();
    assert_eq!(leased.iter().map(|row| row.get(0)).collect::<Vec<i64>>(), [1, 2, 3]);
}

/// Anybody could make the transactions of all sites fail, again and again.
#[tokio::test]
async fn who_can_change_no_definition_does_not_say_so_either() {
    let database = Database::set_up("saying").await;
    let main = database.main().await;
    role(&main, "says_nothing").await;
    role(&main, "says_owner").await;
    main.batch_execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC; CREATE TABLE only_one(a int)").await.unwrap();
    main.batch_execute("ALTER TABLE only_one OWNER TO says_owner; GRANT ALL ON only_one TO says_nothing")
        .await
        .unwrap();
    let (start, say) = (version(&main).await, "SELECT pgoutpost.definitions_changed()");
    let nobody = database.user("says_nothing").await;
    nobody.batch_execute("CREATE TEMP TABLE mine(a int)").await.unwrap();
    nobody.batch_execute("DROP TABLE mine").await.unwrap();
    for statement in [say.to_owned(), format!("BEGIN; {say}")] {
        assert_eq!(code(&nobody.batch_execute(&statement).await.unwrap_err()), "42501");
    }
    main.batch_execute(&format!("SET ROLE says_nothing; {say}")).await.unwrap_err();
    main.batch_execute("RESET ROLE").await.unwrap();
    assert_eq!(version(&main).await, start);
    let owner = database.user("says_owner").await;
    owner.batch_execute(say).await.unwrap();
    assert_eq!(version(&main).await, start + 1);
    // Afterwards it owns nothing.
    owner.batch_execute("DROP TABLE only_one").await.unwrap();
    assert_eq!(version(&main).await, start + 2);
    assert_eq!(code(&owner.batch_execute(say).await.unwrap_err()), "42501");
    main.batch_execute(say).await.unwrap();
    assert_eq!(version(&main).await, start + 3);
}

#[tokio::test]
async fn open_ddl_transactions_do_not_block_each_other() {
    let database = Database::set_up("parallel").await;
    let (one, two) = (database.main().await, database.main().await);
    let start = version(&one).await;
    one.batch_execute("BEGIN; CREATE TABLE a(x int)").await.unwrap();
    let begun = Instant::now();
    tokio::time::timeout(Duration::from_secs(5), two.batch_execute("BEGIN; CREATE TABLE b(x int); COMMIT"))
        .await
        .expect("not blocked")
        .unwrap();
    assert!(begun.elapsed() < Duration::from_secs(2));
    one.batch_execute("COMMIT").await.unwrap();
    assert_eq!(version(&one).await, start + 2);
    // As pg_restore --jobs does it.
    let jobs = (0..8).map(|job| {
        let database = &database;
        async move {
            let client = database.main().await;
            for n in 0..10 {
                let sql = format!("CREATE TABLE p{job}_{n}(a int primary key); CREATE INDEX ON p{job}_{n}(a)");
                client.batch_execute(&sql).await.unwrap();
            }
        }
    });
    futures_util::future::join_all(jobs).await;
    assert_eq!(version(&one).await, start + 2 + 80);
}

#[tokio::test]
async fn the_ledger_moves_only_from_where_it_is() {
    let database = Database::set_up("ledger").await;
    let main = database.main().await;
    main.batch_execute("SELECT pgoutpost.advance('s', 0, 3, NULL)").await.unwrap();
    for wrong in ["'s', 0, 4", "'s', 2, 4", "'s', 4, 5", "'s', 3, 3", "'s', 3, 2", "'unknown', 0, 1"] {
        let error = main.batch_execute(&format!("SELECT pgoutpost.advance({wrong}, NULL)")).await.unwrap_err();
        assert_eq!(code(&error), "PO001", "{wrong}");
    }
    let error = main.batch_execute("SELECT pgoutpost.advance('s', 2, 4, NULL)").await.unwrap_err();
    let error = error.as_db_error().unwrap();
    assert_eq!((error.message(), error.detail()), ("ledger of site \"s\" is at 3, not at 2", Some("3")));
}

#[tokio::test]
async fn the_gate_reads_the_querys_own_snapshot() {
    let database = Database::set_up("gate").await;
    let (main, old) = (database.main().await, database.main().await);
    let version = version(&main).await;
    let gate = format!("SELECT (SELECT pgoutpost.gate('s', {version}))");
    old.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ").await.unwrap();
    assert_eq!(old.query_one(&gate, &[]).await.unwrap().get::<_, i64>(0), 0);
    main.batch_execute("SELECT pgoutpost.advance('s', 0, 3, NULL)").await.unwrap();
    assert_eq!(main.query_one(&gate, &[]).await.unwrap().get::<_, i64>(0), 3);
    assert_eq!(old.query_one(&gate, &[]).await.unwrap().get::<_, i64>(0), 0);
    main.batch_execute("CREATE TABLE t(a int)").await.unwrap();
    assert_eq!(old.query_one(&gate, &[]).await.unwrap().get::<_, i64>(0), 0, "the old snapshot has the old version");
    let error = main.query_one(&gate, &[]).await.unwrap_err();
    assert_eq!(code(&error), "PO002");
    assert_eq!(error.as_db_error().unwrap().detail(), Some(&*(version + 1).to_string()));
    let unknown = format!("SELECT pgoutpost.gate('unknown', {})", version + 1);
    assert_eq!(main.query_one(&unknown, &[]).await.unwrap().get::<_, i64>(0), 0);
}

#[tokio::test]
async fn the_gate_runs_once_per_query_and_allows_parallel_plans_on_the_standby() {
    let database = Database::set_up("parallelgate").await;
    let main = database.main().await;
    main.batch_execute("CREATE TABLE big AS SELECT g AS id, g % 7 AS n FROM generate_series(1, 300000) g; ANALYZE big")
        .await
        .unwrap();
    let version = version(&main).await;
    let replica = database.replica().await;
    replica
        .batch_execute("SET max_parallel_workers_per_gather = 2; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET track_functions = 'all'")
        .await
        .unwrap();
    let query =
        format!("SELECT n, count(*) FROM big WHERE id > (SELECT pgoutpost.gate('s', {version})) GROUP BY n ORDER BY n");
    let plan = replica.query(&format!("EXPLAIN (ANALYZE, COSTS OFF) {query}"), &[]).await.unwrap();
    let plan: Vec<String> = plan.iter().map(|row| row.get(0)).collect();
    let plan = plan.join("\n");
    assert!(plan.contains("Workers Planned") && plan.contains("InitPlan 1"), "{plan}");
    let init = plan.lines().skip_while(|line| !line.contains("InitPlan 1")).nth(1).unwrap();
    assert!(init.contains("loops=1)"), "{plan}");
    let rows = replica.query(&query, &[]).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.get::<_, i64>(1)).sum::<i64>(), 300_000);
    // A parallel worker may also call canonical_text, settings and all.
    let canonical = "SELECT count(DISTINCT pgoutpost.canonical_text(now() + id * interval '1 day')) FROM big";
    replica.batch_execute("SET force_parallel_mode = on").await.unwrap();
    assert_eq!(replica.query_one(canonical, &[]).await.unwrap().get::<_, i64>(0), 300_000);
}

#[tokio::test]
async fn canonical_text_does_not_depend_on_settings() {
    let database = Database::set_up("canonical").await;
    let main = database.main().await;
    main.batch_execute(
        "SET datestyle = 'German'; SET timezone = 'Asia/Tokyo'; SET intervalstyle = 'iso_8601'; SET extra_float_digits = 0;
         SET bytea_output = 'escape'",
    )
    .await
    .unwrap();
    let row = main
        .query_one(
            "SELECT pgoutpost.canonical_text(ARRAY['2026-11-21 22:00:00+00'::timestamptz]),
                    pgoutpost.canonical_text('1 day 2 hours'::interval), pgoutpost.canonical_text(0.1::float8 + 0.2),
                    pgoutpost.canonical_text('\\x0102'::bytea), pgoutpost.canonical_text(NULL::int),
                    pgoutpost.canonical_text('ab'::char(3)), pgoutpost.canonical_text(ROW(NULL, true))",
            &[],
        )
        .await
        .unwrap();
    let texts: Vec<Option<String>> = (0..7).map(|n| row.get(n)).collect();
    let expected = ["{\"2026-11-21 22:00:00+00\"}", "1 day 02:00:00", "0.30000000000000004", "\\x0102"];
    assert_eq!(texts[..4], expected.map(|text| Some(text.to_owned())));
    assert_eq!(texts[4], None);
    assert_eq!(texts[5..], ["ab ", "(,t)"].map(|text| Some(text.to_owned())), "as the output function prints it");
}

#[tokio::test]
async fn a_lease_is_a_block_of_the_sequence() {
    let database = Database::set_up("lease").await;
    let main = database.main().await;
    main.batch_execute("CREATE SEQUENCE \"Odd.name\" INCREMENT 3").await.unwrap();
    let rows = main.query("SELECT pgoutpost.lease('public.\"Odd.name\"'::regclass, 3)", &[]).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.get(0)).collect::<Vec<i64>>(), [1, 4, 7]);
    assert_eq!(main.query_one("SELECT nextval('\"Odd.name\"')", &[]).await.unwrap().get::<_, i64>(0), 10);
}

#[tokio::test]
async fn the_schema_can_be_dropped_and_made_again() {
    let database = Database::set_up("dropped").await;
    let main = database.main().await;
    main.batch_execute("DROP SCHEMA pgoutpost CASCADE").await.unwrap();
    main.batch_execute("CREATE TABLE t(a int)").await.unwrap();
    setup::run(&database.main, "s", None).await.unwrap();
    let before = version(&main).await;
    main.batch_execute("DROP TABLE t").await.unwrap();
    assert_eq!(version(&main).await, before + 1);
}
