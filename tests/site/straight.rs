//! Statements that cannot be buffered go straight to main, and every session sees the result at once.

use tokio_postgres::error::SqlState;

use super::stage::{Stage, eventually, execute, fails_with, rows, succeeded, try_rows, value};

#[tokio::test]
async fn create_insert_select_one_after_the_other() {
    let stage = Stage::shared("straight_typed", "CREATE TABLE before (id int PRIMARY KEY)").await;
    // As somebody types it: each statement on its own, the next at once.
    let typed = [
        "CREATE TABLE star (id int PRIMARY KEY, name text NOT NULL, brightness numeric DEFAULT 1.5)",
        "INSERT INTO star (id, name) VALUES (1, 'Vega'), (2, 'Deneb')",
        "SELECT id, name, brightness FROM star ORDER BY id",
        "CREATE INDEX ON star (name)",
        "UPDATE star SET brightness = 0.03 WHERE name = 'Vega' RETURNING brightness",
        "CREATE VIEW bright AS SELECT name FROM star WHERE brightness < 1",
        "SELECT name FROM bright",
        "ALTER TABLE star ADD COLUMN seen date DEFAULT '2026-11-21'",
        "INSERT INTO star (id, name) VALUES (3, 'Altair') RETURNING seen",
        "SELECT count(*) FROM star WHERE seen = '2026-11-21'",
        "ALTER TABLE star RENAME COLUMN name TO title",
        "SELECT string_agg(title, ' ' ORDER BY id) FROM star",
    ];
    let arguments: Vec<&str> = typed.iter().flat_map(|sql| ["-c", *sql]).collect();
    let printed =
        succeeded(&stage.psql(&[&["-A", "-t", "-v", "ON_ERROR_STOP=1"], arguments.as_slice()].concat()).await);
    let expected = "CREATE TABLE\nINSERT 0 2\n1|Vega|1.5\n2|Deneb|1.5\nCREATE INDEX\n0.03\nUPDATE 1\nCREATE VIEW\nVega\n\
                    ALTER TABLE\n2026-11-21\nINSERT 0 1\n3\nALTER TABLE\nVega Deneb Altair\n";
    assert_eq!(printed, expected);
    stage.drain().await;
    let all = "SELECT id, title, brightness, seen FROM star ORDER BY id";
    assert_eq!(rows(&stage.main().await, all).await, rows(&stage.client().await, all).await);
}

#[tokio::test]
async fn another_session_sees_new_tables_and_columns_at_once() {
    let stage = Stage::shared("straight_others", "CREATE TABLE before (id int PRIMARY KEY, a int)").await;
    let (one, two) = (stage.client().await, stage.client().await);
    let select = two.prepare("SELECT id, a FROM before").await.unwrap();
    let insert = two.prepare("INSERT INTO before (id, a) VALUES ($1, $2)").await.unwrap();
    two.execute(&insert, &[&1, &1]).await.unwrap();

    for round in 0..5 {
        execute(&one, &format!("CREATE TABLE made_{round} (id int PRIMARY KEY, label text)")).await;
        // The session that did not create it: write, read back, at once.
        execute(&two, &format!("INSERT INTO made_{round} VALUES ({round}, 'by two')")).await;
        assert_eq!(value(&one, &format!("SELECT label FROM made_{round}")).await, "by two");
        assert_eq!(value(&stage.client().await, &format!("SELECT label FROM made_{round}")).await, "by two");
    }

    execute(&one, "ALTER TABLE before ADD COLUMN b text NOT NULL DEFAULT 'new'").await;
    // Prepared before, used after: by the session that prepared it.
    two.execute(&insert, &[&2, &2]).await.unwrap();
    assert_eq!(two.query(&select, &[]).await.unwrap().len(), 2);
    let both = "SELECT string_agg(id || b, ' ' ORDER BY id) FROM before";
    assert_eq!(value(&two, both).await, "1new 2new");
    fails_with(two.batch_execute("INSERT INTO before (id, b) VALUES (3, NULL)").await, &SqlState::NOT_NULL_VIOLATION);
    execute(&one, "ALTER TABLE before ADD CONSTRAINT positive CHECK (a > 0)").await;
    fails_with(two.batch_execute("INSERT INTO before (id, a) VALUES (4, -1)").await, &SqlState::CHECK_VIOLATION);
    execute(&one, "DROP TABLE made_0").await;
    fails_with(try_rows(&two, "SELECT * FROM made_0").await, &SqlState::UNDEFINED_TABLE);
    stage.drain().await;
    assert_eq!(value(&stage.main().await, both).await, "1new 2new");
}

/// Replay knows the old definitions when it comes to what was written with the new ones.
#[tokio::test]
async fn writes_after_a_column_was_renamed_name_it_as_it_is() {
    let stage = Stage::shared("straight_renamed", "CREATE TABLE r (id int PRIMARY KEY, v text, a int, b text)").await;
    let client = stage.client().await;
    execute(&client, "INSERT INTO r VALUES (1, 'a', 1, 'b')").await;
    stage.drain().await;
    execute(&client, "ALTER TABLE r RENAME v TO w").await;
    execute(&client, "UPDATE r SET w = 'changed'").await;
    execute(&client, "INSERT INTO r (id, w) VALUES (2, 'two'), (3, 'three')").await;
    execute(&client, "DELETE FROM r WHERE w = 'three'").await;
    stage.drain().await;
    execute(&client, "ALTER TABLE r RENAME id TO nr").await;
    execute(&client, "UPDATE r SET w = w || '!' WHERE nr = 2").await;
    stage.drain().await;
    execute(&client, "ALTER TABLE r RENAME a TO c; ALTER TABLE r RENAME b TO a; ALTER TABLE r RENAME c TO b").await;
    execute(&client, "UPDATE r SET a = 'text', b = 7").await;
    execute(&client, "ALTER TABLE r RENAME w TO x").await;
    execute(&client, "UPDATE r SET x = x || '?'").await;
    stage.drain().await;
    let all = "SELECT string_agg(concat_ws(' ', nr, x, a, b), ', ' ORDER BY nr) FROM r";
    assert_eq!(value(&stage.main().await, all).await, "1 changed? text 7, 2 two!? text 7");
}

/// What waits in quarantine holds back what builds upon it, and nothing of a table that only has its name.
#[tokio::test]
async fn a_table_made_anew_does_not_wait_for_what_was_written_to_the_old_one() {
    let stage = Stage::own("straight_anew", "CREATE TABLE t (id int PRIMARY KEY, v text)").await;
    let client = stage.client().await;
    stage.cut();
    execute(&client, "INSERT INTO t VALUES (1, 'site')").await;
    execute(&stage.main().await, "INSERT INTO t VALUES (1, 'main')").await;
    stage.heal();
    let console = stage.console().await;
    eventually("it is put aside", async || rows(&console, "SHOW QUARANTINE").await.len() == 1).await;
    execute(&client, "DROP TABLE t; CREATE TABLE t (id int PRIMARY KEY, v text)").await;
    execute(&client, "INSERT INTO t VALUES (1, 'new')").await;
    execute(&client, "UPDATE t SET v = 'newer'").await;
    let main = stage.main().await;
    eventually("main has it", async || value(&main, "SELECT max(v) FROM t").await == "newer").await;
    assert_eq!(rows(&console, "SHOW QUARANTINE").await.len(), 1);
}

#[tokio::test]
async fn a_straight_transaction_is_one_transaction_on_main() {
    let stage = Stage::shared("straight_block", "CREATE TABLE before (id int PRIMARY KEY)").await;
    let (client, main) = (stage.client().await, stage.main().await);
    execute(&client, "BEGIN").await;
    execute(&client, "CREATE TABLE rolled_back (id int)").await;
    assert_eq!(value(&main, "SELECT count(*) FROM pg_class WHERE relname = 'rolled_back'").await, "0");
    execute(&client, "ROLLBACK").await;
    fails_with(try_rows(&client, "SELECT * FROM rolled_back").await, &SqlState::UNDEFINED_TABLE);
    assert_eq!(value(&main, "SELECT count(*) FROM pg_class WHERE relname = 'rolled_back'").await, "0");

    execute(&client, "BEGIN").await;
    execute(&client, "CREATE TABLE first (id int PRIMARY KEY)").await;
    execute(&client, "CREATE TABLE second (id int REFERENCES first)").await;
    execute(&client, "COMMIT").await;
    execute(&client, "INSERT INTO first VALUES (1)").await;
    execute(&client, "INSERT INTO second VALUES (1)").await;
    fails_with(client.batch_execute("INSERT INTO second VALUES (2)").await, &SqlState::FOREIGN_KEY_VIOLATION);

    // A failed statement spoils it, as everywhere.
    execute(&client, "BEGIN").await;
    execute(&client, "CREATE TABLE third (id int)").await;
    fails_with(client.batch_execute("CREATE TABLE first (id int)").await, &SqlState::DUPLICATE_TABLE);
    execute(&client, "COMMIT").await;
    fails_with(try_rows(&client, "SELECT * FROM third").await, &SqlState::UNDEFINED_TABLE);

    // At REPEATABLE READ a block that has buffered rows cannot become straight: refused with a hint, and nothing is left.
    execute(&client, "BEGIN ISOLATION LEVEL REPEATABLE READ; INSERT INTO before VALUES (1)").await;
    let report =
        fails_with(client.batch_execute("CREATE TABLE fourth (id int)").await, &SqlState::FEATURE_NOT_SUPPORTED);
    assert!(report.hint().is_some(), "{report:?}");
    execute(&client, "ROLLBACK").await;
    assert_eq!(value(&client, "SELECT count(*) FROM before").await, "0");
    // VACUUM outside of a block goes straight as well.
    execute(&client, "VACUUM before").await;
    stage.drain().await;
    assert_eq!(value(&main, "SELECT count(*) FROM second").await, "1");
}

#[tokio::test]
async fn a_failed_straight_transaction_refuses_reads() {
    let stage = Stage::shared("straight_failed", "CREATE TABLE before (id int PRIMARY KEY)").await;
    let client = stage.client().await;
    execute(&client, "BEGIN").await;
    execute(&client, "CREATE TABLE third (id int)").await;
    fails_with(client.batch_execute("CREATE TABLE third (id int)").await, &SqlState::DUPLICATE_TABLE);
    fails_with(client.batch_execute("SELECT 1").await, &SqlState::IN_FAILED_SQL_TRANSACTION);
}

#[tokio::test]
async fn with_the_link_cut_straight_statements_say_so_and_the_rest_goes_on() {
    let stage = Stage::shared_with("straight_cut", "CREATE TABLE before (id int PRIMARY KEY)", |options| {
        options.setting("TRACKER__TIMEOUT", "5s")
    })
    .await;
    let client = stage.client().await;
    execute(&client, "CREATE TABLE early (id int PRIMARY KEY)").await;
    stage.cut();
    let report = fails_with(client.batch_execute("CREATE TABLE late (id int)").await, &SqlState::CANNOT_CONNECT_NOW);
    assert!(report.hint().is_some(), "{report:?}");
    execute(&client, "INSERT INTO early VALUES (1)").await;
    execute(&client, "BEGIN; INSERT INTO early VALUES (2); COMMIT").await;
    fails_with(client.batch_execute("VACUUM early").await, &SqlState::CANNOT_CONNECT_NOW);
    assert_eq!(value(&client, "SELECT count(*) FROM early").await, "2");
    stage.heal();
    eventually("straight statements work again", async || {
        client.batch_execute("CREATE TABLE IF NOT EXISTS late (id int)").await.is_ok()
    })
    .await;
    execute(&client, "INSERT INTO late VALUES (1)").await;
    stage.drain().await;
    assert_eq!(
        value(&stage.main().await, "SELECT (SELECT count(*) FROM early) + (SELECT count(*) FROM late)").await,
        "3"
    );
}

/// What was acknowledged before must be on main before a straight statement runs there.
#[tokio::test]
async fn a_straight_statement_finds_main_with_everything_written_before() {
    let stage = Stage::shared("straight_order", "CREATE TABLE before (id int PRIMARY KEY, a text)").await;
    let client = stage.client().await;
    for round in 0..10 {
        let values: Vec<String> = (0..20).map(|i| format!("({}, 'x')", round * 20 + i)).collect();
        execute(&client, &format!("INSERT INTO before VALUES {}", values.join(", "))).await;
        execute(&client, &format!("CREATE TABLE copy_{round} AS SELECT * FROM before")).await;
        let copied = value(&client, &format!("SELECT count(*) FROM copy_{round}")).await;
        assert_eq!(copied, ((round + 1) * 20).to_string());
    }
}

/// A link that loses everything and tells nobody: a session that waits for main is freed when its client wants that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_main_is_given_up_when_the_statement_is_cancelled_or_its_time_is_over() {
    let stage =
        Stage::shared("straight_silent", "CREATE TABLE seen (id int PRIMARY KEY); INSERT INTO seen VALUES (1)").await;
    let (simple, extended, commits) = (stage.client().await, stage.client().await, stage.client().await);
    let (timed, alone) = (stage.client().await, stage.client().await);
    execute(&timed, "SET statement_timeout = '2s'").await;
    execute(&alone, "SET statement_timeout = '2s'").await;
    execute(&alone, "CREATE TABLE before (id int)").await;
    for (client, table) in [(&simple, "a"), (&extended, "b"), (&commits, "c"), (&timed, "d")] {
        execute(client, &format!("BEGIN; CREATE TABLE hole_{table} (id int)")).await;
    }
    stage.black_hole();
    let begun = std::time::Instant::now();
    let query = "SELECT count(*) FROM seen";
    let after = std::time::Duration::from_millis(500);
    let cancelled = async |client: &tokio_postgres::Client, simple: bool, query: &str| {
        let token = client.cancel_token();
        let cancel = async {
            tokio::time::sleep(after).await;
            token.cancel_query(tokio_postgres::NoTls).await.unwrap();
        };
        let asked = async {
            if simple { client.batch_execute(query).await } else { client.execute(query, &[]).await.map(drop) }
        };
        tokio::join!(asked, cancel).0
    };
    let all = async {
        tokio::join!(
            cancelled(&simple, true, query),
            cancelled(&extended, false, query),
            cancelled(&commits, true, "COMMIT"),
            timed.batch_execute(query),
            alone.batch_execute("CREATE TABLE hole_e (id int)"),
        )
    };
    let freed = tokio::time::timeout(std::time::Duration::from_secs(40), all).await;
    let (one, two, doubtful, late, later) = freed.expect("somebody still waits");
    let elapsed = begun.elapsed();
    let (user, time) = ("The statement was cancelled", "The time of statement_timeout is over");
    let (not_done, unknown) = (SqlState::QUERY_CANCELED, SqlState::TRANSACTION_RESOLUTION_UNKNOWN);
    for (outcome, code, detail) in
        [(one, &not_done, user), (two, &not_done, user), (doubtful, &unknown, user), (late, &not_done, time)]
    {
        let report = fails_with(outcome, code);
        assert!(report.detail().unwrap().starts_with(detail), "{report:?}");
    }
    // What commits by itself may be done; or main was given up before it was sent.
    let code = later.unwrap_err().code().cloned().unwrap();
    assert!([unknown, not_done, SqlState::CANNOT_CONNECT_NOW].contains(&code), "{code:?}");
    assert!(elapsed < std::time::Duration::from_secs(20), "{elapsed:?}");
    // The site's own work goes on, in a session that was freed too.
    execute(&simple, "ROLLBACK").await;
    execute(&timed, "ROLLBACK").await;
    execute(&simple, "INSERT INTO seen VALUES (2)").await;
    assert_eq!(value(&simple, query).await, "2");
    stage.heal();
    stage.replayed().await;
    let left = "SELECT count(*) FROM pg_class WHERE relname LIKE 'hole_%'";
    let main = stage.main().await;
    eventually("main has rolled back what was not committed", async || value(&main, left).await == "0").await;
}
