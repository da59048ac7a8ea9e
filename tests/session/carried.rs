//! What a straight transaction does to the session: settings, rights, prepared statements.

use std::time::{Duration, Instant};

use super::{alone, code, connect, fails, outpost, value};

const SCHEMA: &str =
    "CREATE SCHEMA sx; CREATE TABLE sx.a (id int PRIMARY KEY, v text); CREATE TABLE a (id int PRIMARY KEY, v text);
    CREATE FUNCTION set_zone(text) RETURNS text LANGUAGE sql AS $$ SELECT set_config('TimeZone', $1, false) $$";

/// `schema;path timezone work_mem own role`.
async fn session(client: &tokio_postgres::Client) -> String {
    let sql = "SELECT concat_ws(' ', current_setting('search_path'), current_setting('TimeZone'), current_setting('work_mem'),
        current_setting('my.own', true), session_user = current_user)";
    value(client, sql).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_session_is_what_the_transaction_left() {
    let (site, outpost) = outpost("carried_settings", SCHEMA).await;
    let main = connect(&site.main_url).await;
    main.batch_execute("DROP ROLE IF EXISTS carried_less; CREATE ROLE carried_less; GRANT USAGE ON SCHEMA sx TO carried_less; GRANT SELECT ON sx.a TO carried_less")
        .await
        .unwrap();
    site.wait_replica_caught_up().await.unwrap();
    let statements = [
        "BEGIN",
        "SET my.own = 'before'",
        "SET LOCAL work_mem = '5MB'",
        "CREATE TABLE b (id int)",
        "SET search_path = sx, public",
        "SET TimeZone = 'Asia/Tokyo'",
        "SAVEPOINT s",
        "SET TimeZone = 'Europe/Rome'",
        "SET LOCAL my.own = 'lost'",
        "ROLLBACK TO s",
        "SET LOCAL IntervalStyle = 'iso_8601'",
        "PREPARE ps (int) AS SELECT $1 + 1 FROM b",
        "SET ROLE carried_less",
        "COMMIT",
    ];
    for one_by_one in [true, false] {
        let client = connect(&outpost.url()).await;
        let work_mem = value(&client, "SHOW work_mem").await;
        if one_by_one {
            for statement in statements {
                client.batch_execute(statement).await.expect(statement);
            }
        } else {
            client.batch_execute(&statements.join(";")).await.unwrap();
        }
        assert_eq!(session(&client).await, format!("sx, public Asia/Tokyo {work_mem} before f"));
        assert_eq!(value(&client, "SHOW IntervalStyle").await, "postgres");
        assert_eq!(value(&client, "SELECT current_user").await, "carried_less");
        assert_eq!(fails(&client, "INSERT INTO a VALUES (1, 'by less')").await, "42501", "it has the rights back");
        client.batch_execute("RESET ROLE").await.unwrap();
        client.batch_execute("INSERT INTO a VALUES (1, 'into sx')").await.unwrap();
        assert_eq!(value(&client, "SELECT v FROM sx.a").await, "into sx");
        client.batch_execute("DELETE FROM a; EXECUTE ps (1); DEALLOCATE ps").await.unwrap();
        assert_eq!(fails(&client, "EXECUTE ps (1)").await, "26000");
        // And RESET, and by a function, outside of a transaction.
        client.batch_execute("BEGIN; DROP TABLE public.b; RESET search_path; COMMIT").await.unwrap();
        assert_eq!(session(&client).await, format!("\"$user\", public Asia/Tokyo {work_mem} before t"));
        client.batch_execute("CREATE TABLE c (id int); SELECT set_zone('Europe/Paris'); DROP TABLE c").await.unwrap();
        assert_eq!(value(&client, "SHOW TimeZone").await, "Europe/Paris");
    }
    let client = connect(&outpost.url()).await;
    client
        .batch_execute("BEGIN; CREATE TABLE b (id int); SET SESSION AUTHORIZATION carried_less; COMMIT")
        .await
        .unwrap();
    assert_eq!(value(&client, "SELECT session_user || current_user").await, "carried_lesscarried_less");
    client.batch_execute("BEGIN").await.unwrap();
    // It is not the login's rights that are got back on main.
    assert_eq!(fails(&client, "RESET ROLE; DROP TABLE b").await, "42501");
    client.batch_execute("ROLLBACK; RESET SESSION AUTHORIZATION").await.unwrap();
    client.batch_execute("DROP TABLE b").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_rolled_back_is_not_carried_over() {
    let (_site, outpost) = outpost("carried_rollback", SCHEMA).await;
    let client = connect(&outpost.url()).await;
    client.batch_execute("SET my.own = 'old'; PREPARE old AS SELECT 1; PREPARE gone AS SELECT 2").await.unwrap();
    let before = session(&client).await;
    for statement in [
        "BEGIN",
        "SET my.own = 'new'",
        "CREATE TABLE b (id int)",
        "SET search_path = sx",
        "SET TimeZone = 'Asia/Tokyo'",
        "PREPARE ps AS SELECT 3",
        "DEALLOCATE gone",
        "EXECUTE old",
        "ROLLBACK",
    ] {
        client.batch_execute(statement).await.expect(statement);
    }
    assert_eq!(session(&client).await, before);
    // As Postgres: statements are not the transaction's.
    assert_eq!(value(&client, "EXECUTE ps").await, "3");
    assert_eq!(value(&client, "EXECUTE old").await, "1");
    assert_eq!(fails(&client, "EXECUTE gone").await, "26000");
    // A COMMIT that fails.
    client
        .batch_execute("BEGIN; CREATE TABLE b (id int); SET search_path = sx; SET TimeZone = 'Asia/Tokyo'")
        .await
        .unwrap();
    assert_eq!(fails(&client, "SELECT 1 / 0").await, "22012");
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(session(&client).await, before);
    // What was set before a savepoint, after it, and before the transaction went to main.
    for statement in [
        "BEGIN",
        "SET TimeZone = 'Asia/Tokyo'",
        "SAVEPOINT s",
        "SET TimeZone = 'Europe/Rome'",
        "CREATE TABLE b (id int)",
    ] {
        client.batch_execute(statement).await.expect(statement);
    }
    assert_eq!(value(&client, "SHOW TimeZone").await, "Europe/Rome");
    client.batch_execute("ROLLBACK TO s").await.unwrap();
    assert_eq!(value(&client, "SHOW TimeZone").await, "Asia/Tokyo", "on main");
    client.batch_execute("CREATE TABLE b (id int)").await.unwrap();
    client.batch_execute("COMMIT AND CHAIN").await.unwrap();
    client.batch_execute("SET TimeZone = 'UTC'; ROLLBACK").await.unwrap();
    assert_eq!(value(&client, "SHOW TimeZone").await, "Asia/Tokyo", "afterwards");
    assert_eq!(value(&client, "SELECT count(*) FROM b").await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_parsed_on_main_are_there_afterwards() {
    let (_site, outpost) = outpost("carried_parse", SCHEMA).await;
    let client = connect(&outpost.url()).await;
    client.batch_execute("PREPARE by_sql AS SELECT 7; BEGIN").await.unwrap();
    client.execute("CREATE TABLE z (id int PRIMARY KEY, v text)", &[]).await.unwrap();
    client.execute("SAVEPOINT s", &[]).await.unwrap();
    client.execute("SET TimeZone = 'Asia/Tokyo'", &[]).await.unwrap();
    let insert = client.prepare("INSERT INTO z VALUES ($1, $2)").await.unwrap();
    let read = client.prepare("SELECT v FROM z WHERE id = $1").await.unwrap();
    client.execute(&insert, &[&1, &"one"]).await.unwrap();
    client.execute("ROLLBACK TO s", &[]).await.unwrap();
    client.execute("RELEASE s", &[]).await.unwrap();
    client.execute(&insert, &[&2, &"two"]).await.unwrap();
    assert_eq!(client.query_one("EXECUTE by_sql", &[]).await.unwrap().get::<_, i32>(0), 7);
    client.execute("SET search_path = public, sx", &[]).await.unwrap();
    client.execute("DEALLOCATE by_sql", &[]).await.unwrap();
    client.execute("PREPARE by_sql (text) AS SELECT id FROM z WHERE v = $1", &[]).await.unwrap();
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(client.query_one(&read, &[&2]).await.unwrap().get::<_, &str>(0), "two");
    assert_eq!(client.query(&read, &[&1]).await.unwrap().len(), 0);
    client.execute(&insert, &[&3, &"three"]).await.unwrap();
    assert_eq!(client.query_one(&read, &[&3]).await.unwrap().get::<_, &str>(0), "three");
    assert_eq!(value(&client, "EXECUTE by_sql ('three')").await, "3");
    assert_eq!(value(&client, "SHOW search_path").await, "public, sx");
    assert_ne!(value(&client, "SHOW TimeZone").await, "Asia/Tokyo");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_carried_over_is_refused() {
    let (_site, outpost) = outpost("carried_refused", SCHEMA).await;
    let client = connect(&outpost.url()).await;
    for statement in
        ["SELECT pg_advisory_lock(1)", "SELECT pg_try_advisory_lock_shared(1)", "SET pgoutpost.commit = 'soon'"]
    {
        client.batch_execute("BEGIN; CREATE TABLE b (id int)").await.unwrap();
        let said = fails(&client, statement).await;
        assert!(said == "0A000" || said == "22023", "{statement}: {said}");
        client.batch_execute("COMMIT").await.unwrap();
        client.batch_execute("BEGIN; CREATE TABLE b (id int)").await.unwrap();
        let said = code(&client.execute(statement, &[]).await.expect_err(statement));
        assert!(said == "0A000" || said == "22023", "{statement}: {said}");
        client.batch_execute("COMMIT").await.unwrap();
        assert_eq!(value(&client, "SELECT to_regclass('b')").await, "NULL", "{statement}");
    }
    // Before the transaction is main's, the session has them, and keeps them.
    client.batch_execute("BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT 5; SELECT pg_advisory_lock(1)").await.unwrap();
    client.batch_execute("CREATE TABLE b (id int); COMMIT").await.unwrap();
    assert_eq!(value(&client, "FETCH c").await, "5");
    assert_eq!(value(&client, "SELECT pg_advisory_unlock(1)").await, "t");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_replica_that_lags_nothing_is_forgotten() {
    let (lab, _site, outpost) = alone("carried_late", SCHEMA).await;
    let (client, other) = (connect(&outpost.url()).await, connect(&outpost.url()).await);
    lab.freeze().await.unwrap();
    client.batch_execute("BEGIN; CREATE TABLE z (id int); PREPARE by_sql AS SELECT count(*) FROM z").await.unwrap();
    let read = client.prepare("SELECT count(*) FROM z").await.unwrap();
    client.batch_execute("COMMIT").await.unwrap();
    // Rights that the replica cannot give up: the session ends.
    other.batch_execute("BEGIN; CREATE ROLE carried_new").await.unwrap();
    other.batch_execute("SET ROLE carried_new").await.unwrap();
    let told = other.batch_execute("COMMIT").await.unwrap_err();
    assert!(code(&told) == "55000" || told.is_closed(), "{told:?}");
    assert!(other.batch_execute("SELECT 1").await.is_err(), "it goes on with the rights that it had given up");
    lab.thaw().await.unwrap();
    let until = Instant::now() + Duration::from_secs(20);
    while client.query_one(&read, &[]).await.is_err() {
        assert!(Instant::now() < until, "the statement is lost");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(value(&client, "EXECUTE by_sql").await, "0");
}

/// Main has been given for the session what was said for the transaction only.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_local_does_not_go_on_into_the_next_transaction_of_a_chain() {
    let (site, outpost) = outpost("carried_chain", "CREATE TABLE keyless (n int)").await;
    let main = connect(&site.main_url).await;
    main.batch_execute(
        "DROP ROLE IF EXISTS carried_chain; CREATE ROLE carried_chain; GRANT ALL ON keyless TO carried_chain",
    )
    .await
    .unwrap();
    site.wait_replica_caught_up().await.unwrap();
    let client = connect(&outpost.url()).await;
    let role = value(&client, "SELECT current_user").await;
    for end in ["COMMIT AND CHAIN", "ROLLBACK AND CHAIN"] {
        for simple in [true, false] {
            client.batch_execute("BEGIN; SET LOCAL ROLE carried_chain; SET LOCAL my.own = 'x'").await.unwrap();
            client.batch_execute("DELETE FROM keyless").await.unwrap();
            assert_eq!(value(&client, "SELECT current_user").await, "carried_chain");
            let error =
                if simple { fails(&client, end).await } else { code(&client.execute(end, &[]).await.unwrap_err()) };
            assert_eq!(error, "0A000", "{end}");
            assert_eq!(fails(&client, "SELECT 1").await, "25P02");
            client.batch_execute("ROLLBACK").await.unwrap();
            assert_eq!(value(&client, "SELECT current_user").await, role);
        }
    }
    // What main itself has set, main undoes.
    client.batch_execute("BEGIN; DELETE FROM keyless").await.unwrap();
    client.batch_execute("SET LOCAL ROLE carried_chain").await.unwrap();
    client.batch_execute("COMMIT AND CHAIN").await.unwrap();
    assert_eq!(value(&client, "SELECT current_user").await, role);
    client.batch_execute("COMMIT").await.unwrap();
}
