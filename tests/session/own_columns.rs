//! What an UPDATE computes from the row's own columns is computed again on main, from what others have written meanwhile.

use std::time::{Duration, Instant};

use tokio_postgres::Client;

use super::{alone, connect, value};

const SCHEMA: &str = "CREATE TABLE c (id int PRIMARY KEY, n int NOT NULL CHECK (n < 1000), v varchar(30), done boolean,
        doc jsonb, a int, b int, code int UNIQUE, amount numeric(10,2), twice int GENERATED ALWAYS AS (n * 2) STORED,
        at timestamptz DEFAULT '2026-01-01', \"odd $1\" float8 DEFAULT 1);
    INSERT INTO c (id, n, v, done, doc, a, b, code, amount)
        SELECT g, g, 'v', false, '{\"k\": {\"x\": 1}}', 1, 2, g * 10, 1 FROM generate_series(1, 12) g";

async fn until(client: &Client, sql: &str, expected: &str) {
    let end = Instant::now() + Duration::from_secs(30);
    while value(client, sql).await != expected {
        assert!(Instant::now() < end, "{sql}: {} and not {expected}", value(client, sql).await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn main_computes_again_what_the_row_alone_decides() {
    let (lab, site, outpost) = alone("own_columns", SCHEMA).await;
    let (one, two, main) =
        (connect(&outpost.url()).await, connect(&outpost.url()).await, connect(&site.main_url).await);
    // Prints values in a way of its own.
    two.batch_execute("SET datestyle = 'SQL'; SET extra_float_digits = 0").await.unwrap();
    lab.link().cut().unwrap();
    // Counters, from two clients, in both protocols.
    for _ in 0..3 {
        one.batch_execute("UPDATE c SET n = n + 1 WHERE id = 1").await.unwrap();
        two.execute("UPDATE c AS x SET n = (x.n) - $1 + 3 WHERE x.id = $2", &[&1, &1]).await.unwrap();
    }
    assert_eq!(value(&two, "SELECT n FROM c WHERE id = 1").await, "10", "the site shows its own");
    // Twice in one transaction, one of them undone.
    one.batch_execute(
        "BEGIN; UPDATE c SET n = n + 1 WHERE id = 2; SAVEPOINT s; UPDATE c SET n = n * 100 WHERE id = 2;
         ROLLBACK TO s; UPDATE c SET n = n * 3 WHERE id = 2; COMMIT",
    )
    .await
    .unwrap();
    // Other types; constants that the site evaluates.
    one.execute(
        "UPDATE c SET v = upper(v) || 'é''' || $1, done = NOT done,
             doc = (jsonb_set(doc, '{k,y}', '2') || jsonb_build_object('at', to_char(now(), 'YYYY')::int * 0) || '{\"z\": 3}') - 'gone',
             amount = round(amount * 1.5, 2) + abs(-2), \"odd $1\" = \"odd $1\" / 4 WHERE id = 3",
        &[&"$1"],
    )
    .await
    .unwrap();
    one.batch_execute("UPDATE c SET n = n - 2 * 3 - 1 + 10 % 4 WHERE id = 4").await.unwrap();
    two.batch_execute("UPDATE c SET (a, b) = (b, a + 10) WHERE id = 4").await.unwrap();
    two.batch_execute(
        "INSERT INTO c AS t (id, n) VALUES (5, 20), (6, 30) ON CONFLICT (id) DO UPDATE SET n = t.n + excluded.n",
    )
    .await
    .unwrap();
    // All that goes by its value.
    for by_value in [
        "UPDATE c SET code = code + 1 WHERE id = 7",
        "UPDATE c SET n = n + (SELECT 1) WHERE id = 8",
        "UPDATE c SET n = n + (random() * 0)::int WHERE id = 9",
        "UPDATE c SET n = c.n + x.one FROM (VALUES (1)) x(one) WHERE id = 10",
        "UPDATE c SET at = at + interval '1 day', n = 5 WHERE id = 11",
        "UPDATE c SET v = v || n WHERE id = 12",
    ] {
        one.batch_execute(by_value).await.unwrap();
    }
    // Meanwhile.
    main.batch_execute(
        "UPDATE c SET n = n + 100, v = v || '-main', done = true, doc = doc || '{\"main\": 1, \"gone\": 1}', a = 7, b = 8,
             code = code + 5, amount = 100, \"odd $1\" = 8, at = '2020-01-01'",
    )
    .await
    .unwrap();
    lab.link().heal().unwrap();
    until(&main, "SELECT v FROM c WHERE id = 12", "v12").await;
    let counters = "SELECT string_agg(n::text || '/' || twice, ' ' ORDER BY id) FROM c WHERE id <= 6";
    assert_eq!(value(&main, counters).await, "110/220 309/618 103/206 99/198 125/250 136/272");
    let others = "SELECT concat_ws(' ', v, done, doc, amount, \"odd $1\") FROM c WHERE id = 3";
    assert_eq!(
        value(&main, others).await,
        "V-MAINé'$1 f {\"k\": {\"x\": 1, \"y\": 2}, \"z\": 3, \"at\": 0, \"main\": 1} 152.00 2"
    );
    assert_eq!(value(&main, "SELECT concat_ws(' ', a, b) FROM c WHERE id = 4").await, "8 17");
    assert_eq!(value(&main, "SELECT code FROM c WHERE id = 7").await, "71");
    assert_eq!(
        value(&main, "SELECT string_agg(n::text, ' ' ORDER BY id) FROM c WHERE id IN (8, 9, 10, 11)").await,
        "9 9 11 5"
    );
    assert_eq!(value(&main, "SELECT at::date FROM c WHERE id = 11").await, "2026-01-02");
    // Computed values are no conflicts; the others are.
    let log = "SELECT string_agg(DISTINCT key ->> 'id', ' ') FROM pgoutpost.conflict WHERE outcome = 'overwritten'";
    assert_eq!(value(&main, log).await, "10 11 12 7 8 9");
    // What main has is seen here, too.
    until(&one, "SELECT n FROM c WHERE id = 1", "110").await;
    let console = connect(&outpost.console_url()).await;
    assert_eq!(value(&console, "SHOW CONFLICTS").await.len(), 27, "the replica has the log");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_main_cannot_compute_is_rejected_with_its_words() {
    let (lab, site, outpost) = alone("own_columns_rejected", SCHEMA).await;
    let (client, main) = (connect(&outpost.url()).await, connect(&site.main_url).await);
    lab.link().cut().unwrap();
    client.batch_execute("UPDATE c SET n = n + 500 WHERE id = 1").await.unwrap();
    client.batch_execute("UPDATE c SET a = 100 / a WHERE id = 2").await.unwrap();
    client.batch_execute("UPDATE c SET v = v || 'more' WHERE id = 3").await.unwrap();
    client.batch_execute("UPDATE c SET n = n + 1 WHERE id = 4").await.unwrap();
    main.batch_execute("UPDATE c SET n = 900, a = 0, v = repeat('x', 30)").await.unwrap();
    lab.link().heal().unwrap();
    until(&main, "SELECT n FROM c WHERE id = 4", "901").await;
    let console = connect(&outpost.console_url()).await;
    let rows = console.simple_query("SHOW QUARANTINE").await.unwrap();
    let codes: Vec<&str> = rows
        .iter()
        .filter_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get("sqlstate"),
            _ => None,
        })
        .collect();
    assert_eq!(codes, ["23514", "22012", "22001"]);
    let export = value(&console, "EXPORT 1").await;
    assert!(export.contains(r#"SET "n" = ("n" OPERATOR(pg_catalog.+) '500'::integer) WHERE"#), "{export}");
}

/// Somebody's own operator of the same name might be meant: then the value is all that is known.
#[tokio::test(flavor = "multi_thread")]
async fn operators_of_others_are_left_alone() {
    let schema = "CREATE FUNCTION public.away(int, int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 - $2';
        CREATE OPERATOR public.+ (FUNCTION = public.away, LEFTARG = int, RIGHTARG = int);
        CREATE FUNCTION public.abs(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 5';
        CREATE TABLE t (id int PRIMARY KEY, n int); INSERT INTO t VALUES (1, 10), (2, 10), (3, 10)";
    let (lab, site, outpost) = alone("own_operators", schema).await;
    let (client, main) = (connect(&outpost.url()).await, connect(&site.main_url).await);
    lab.link().cut().unwrap();
    client.batch_execute("SET search_path = public, pg_catalog").await.unwrap();
    client.batch_execute("UPDATE t SET n = n + 1 WHERE id = 1; UPDATE t SET n = abs(n) WHERE id = 2").await.unwrap();
    client.batch_execute("UPDATE t SET n = n * 2 WHERE id = 3").await.unwrap();
    main.batch_execute("UPDATE t SET n = 50").await.unwrap();
    lab.link().heal().unwrap();
    until(&main, "SELECT string_agg(n::text, ' ' ORDER BY id) FROM t", "9 5 100").await;
}

/// What is taken for immutable is, for every type that it may be used with.
#[tokio::test]
async fn all_that_is_computed_again_is_immutable() {
    let lab = lab::Lab::shared().await.unwrap();
    let main = connect(&lab.main_url()).await;
    let families = "ARRAY['int2', 'int4', 'int8', 'numeric', 'float4', 'float8', 'text', 'varchar', 'bpchar', 'bool', 'jsonb', 'text[]']::regtype[]::oid[]";
    let functions = pgoutpost::sql::COMPUTABLE_FUNCTIONS.join("', '");
    let changing = format!(
        "SELECT coalesce(string_agg(p.oid::regprocedure::text, ', '), 'none') FROM pg_proc p
          WHERE p.proname IN ('{functions}') AND p.pronamespace = 'pg_catalog'::regnamespace
            AND p.provolatile <> 'i' AND p.proargtypes::oid[] <@ {families}"
    );
    assert_eq!(value(&main, &changing).await, "none");
    let known =
        format!("SELECT count(DISTINCT proname) FROM pg_proc WHERE proname IN ('{functions}') AND prokind = 'f'");
    assert_eq!(value(&main, &known).await, pgoutpost::sql::COMPUTABLE_FUNCTIONS.len().to_string());
    let operators = format!(
        "SELECT coalesce(string_agg(o.oid::regoperator::text, ', '), 'none') FROM pg_operator o JOIN pg_proc p ON p.oid = o.oprcode
          WHERE o.oprname IN ('+', '-', '*', '/', '%', '^', '&', '|', '#', '<<', '>>', '||') AND p.provolatile <> 'i'
            AND ARRAY[o.oprleft, o.oprright] <@ (0::oid || {families})"
    );
    assert_eq!(value(&main, &operators).await, "none");
}
