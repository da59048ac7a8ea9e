//! COPY FROM STDIN through the daemon, as drivers do it: in binary, in pieces, given up, too much.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::SinkExt;
use tokio_postgres::Client;
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::types::Type;

use super::{alone, code, connect, fails, outpost, value};

const SCHEMA: &str = "CREATE TABLE t (id int PRIMARY KEY, name text UNIQUE, n numeric(10,2), at timestamptz, u int);
    CREATE TABLE lists (id int PRIMARY KEY, tags text[])";

async fn copy(client: &Client, sql: &str, data: String) -> Result<u64, tokio_postgres::Error> {
    let sink = client.copy_in::<_, Bytes>(sql).await?;
    let mut sink = std::pin::pin!(sink);
    let data = Bytes::from(data);
    for start in (0..data.len()).step_by(8000) {
        sink.send(data.slice(start..data.len().min(start + 8000))).await?;
    }
    sink.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn binary_rows_are_taken_as_they_are() {
    let (_site, outpost) = outpost("session_copy_binary", SCHEMA).await;
    let client = connect(&outpost.url()).await;
    let sink = client.copy_in("COPY t (id, name, u) FROM STDIN (FORMAT binary)").await.unwrap();
    let mut writer = std::pin::pin!(BinaryCopyInWriter::new(sink, &[Type::INT4, Type::TEXT, Type::INT4]));
    for id in 0..2500i32 {
        let name = (id % 2 == 0).then(|| format!("name {id}"));
        writer.as_mut().write(&[&id, &name, &(id * 2)]).await.unwrap();
    }
    assert_eq!(writer.finish().await.unwrap(), 2500);
    assert_eq!(value(&client, "SELECT sum(u) || ' ' || count(name) FROM t").await, "6247500 1250");

    let sink = client.copy_in("COPY lists FROM STDIN (FORMAT binary)").await.unwrap();
    let mut writer = std::pin::pin!(BinaryCopyInWriter::new(sink, &[Type::INT4, Type::TEXT_ARRAY]));
    for id in 0..3i32 {
        writer.as_mut().write(&[&id, &vec![format!("a {id}"), "b,c".to_owned()]]).await.unwrap();
    }
    assert_eq!(writer.finish().await.unwrap(), 3);
    assert_eq!(
        value(&client, "SELECT string_agg(tags::text, ' ' ORDER BY id) FROM lists WHERE id > 0").await,
        "{\"a 1\",\"b,c\"} {\"a 2\",\"b,c\"}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_fails_leaves_nothing_and_the_connection_usable() {
    let (_site, outpost) = outpost("session_copy_fails", SCHEMA).await;
    let client = connect(&outpost.url()).await;
    // A duplicate of the first batch in a later one.
    let mut data = String::new();
    for id in 0..5000 {
        writeln!(data, "{id}\tname {id}\t1.5\t2026-01-01 00:00:00Z\t{id}").unwrap();
    }
    data.push_str("7\tother\t1\t\\N\t1\n");
    let failed = copy(&client, "COPY t FROM STDIN", data.clone()).await.unwrap_err();
    assert_eq!(code(&failed), "23505");
    assert_eq!(failed.as_db_error().unwrap().where_(), Some("COPY t, line 5001"));
    assert_eq!(value(&client, "SELECT count(*) FROM t").await, "0");
    let data = data.replace("7\tother", "5000\tname 7");
    let failed = copy(&client, "COPY t FROM STDIN", data.clone()).await.unwrap_err();
    assert_eq!(failed.as_db_error().unwrap().constraint(), Some("t_name_key"));
    assert_eq!(copy(&client, "COPY t FROM STDIN", data.replace("5000\tname 7", "5000\tlast")).await.unwrap(), 5001);
    // A driver that gives up sends CopyFail.
    client.batch_execute("BEGIN; INSERT INTO lists VALUES (1, '{}')").await.unwrap();
    drop(client.copy_in::<_, Bytes>("COPY lists FROM STDIN").await.unwrap());
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(code(&client.batch_execute("SELECT 1").await.unwrap_err()), "25P02");
    client.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(value(&client, "SELECT count(*) FROM t").await, "5001");
}

#[tokio::test(flavor = "multi_thread")]
async fn twice_the_rows_take_about_twice_the_time() {
    let (site, outpost) = outpost("session_copy_speed", SCHEMA).await;
    let (client, main) = (connect(&outpost.url()).await, connect(&site.main_url).await);
    main.batch_execute("CREATE TABLE plain (LIKE t INCLUDING ALL)").await.unwrap();
    let rows = |from: usize, count: usize| {
        let mut data = String::new();
        for id in from..from + count {
            writeln!(data, "{id}\tname {id}\t{}.25\t2026-01-01 00:00:00Z\t{}", id % 1000, id % 7).unwrap();
        }
        data
    };
    let begun = Instant::now();
    copy(&main, "COPY plain FROM STDIN", rows(0, 100_000)).await.unwrap();
    let plain = begun.elapsed();
    let mut times = Vec::new();
    for part in 0..2 {
        let (begun, count) = (Instant::now(), 10_000 << part);
        client.batch_execute("BEGIN").await.unwrap();
        copy(&client, "COPY t FROM STDIN", rows(0, count)).await.unwrap();
        client.batch_execute("ROLLBACK").await.unwrap();
        times.push(begun.elapsed());
    }
    eprintln!("100,000 rows on main {plain:?}; through the daemon 10,000 {:?}, 20,000 {:?}", times[0], times[1]);
    assert!(times[1] < times[0] * 4, "twice the rows: {times:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_cast_from_text_reads_otherwise_goes_straight() {
    let schema = "CREATE TABLE odd (id int PRIMARY KEY, m interval minute, c regclass);
        CREATE TYPE pair AS (a int, b int);
        CREATE FUNCTION pair_of(text) RETURNS pair LANGUAGE sql IMMUTABLE AS 'SELECT ROW(length($1), 0)::pair';
        CREATE CAST (text AS pair) WITH FUNCTION pair_of(text);
        CREATE TABLE pairs (id int PRIMARY KEY, p pair)";
    let (lab, _site, outpost) = alone("session_copy_casts", schema).await;
    let client = connect(&outpost.url()).await;
    assert_eq!(copy(&client, "COPY odd FROM STDIN", "1\t5\t1259\n2\t1:30\tpg_proc\n".into()).await.unwrap(), 2);
    let rows = "SELECT string_agg(concat_ws(' ', id, m, c), ', ' ORDER BY id) FROM odd";
    assert_eq!(value(&client, rows).await, "1 00:05:00 pg_class, 2 01:30:00 pg_proc");
    assert_eq!(copy(&client, "COPY pairs FROM STDIN", "1\t(2,3)\n".into()).await.unwrap(), 1);
    assert_eq!(value(&client, "SELECT p FROM pairs").await, "(2,3)");
    assert_eq!(copy(&client, "COPY odd (id) FROM STDIN", "3\n".into()).await.unwrap(), 1);
    lab.link().cut().unwrap();
    let cut = copy(&client, "COPY odd FROM STDIN", "4\t5\t1259\n".into()).await.unwrap_err();
    assert_eq!(code(&cut), "57P03");
    let client = connect(&outpost.url()).await;
    assert_eq!(copy(&client, "COPY odd (id) FROM STDIN", "4\n".into()).await.unwrap(), 1);
    assert_eq!(value(&client, "SELECT count(*) FROM odd").await, "4");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_needs_rights_and_fits_into_a_pipeline() {
    let schema = format!(
        "{SCHEMA}; DROP ROLE IF EXISTS copyist; CREATE ROLE copyist LOGIN;
         GRANT SELECT ON t TO copyist; GRANT SELECT, INSERT ON lists TO copyist; GRANT INSERT (id, name) ON t TO copyist"
    );
    let (_site, outpost) = outpost("session_copy_rights", &schema).await;
    let client = connect(&outpost.url()).await;
    // tokio-postgres is out of step after a COPY that was refused at once, with an ordinary Postgres as well: a new one.
    let again = || async { connect(&outpost.url().replace("postgres@", "copyist@")).await };
    let copyist = again().await;
    assert_eq!(value(&copyist, "SELECT current_user").await, "copyist");
    assert_eq!(code(&copy(&copyist, "COPY t FROM STDIN", "1\n".into()).await.unwrap_err()), "42501");
    let copyist = again().await;
    assert_eq!(copy(&copyist, "COPY t (id, name) FROM STDIN", "1\tone\n".into()).await.unwrap(), 1);
    assert_eq!(code(&copy(&copyist, "COPY t (id, u) FROM STDIN", "2\t2\n".into()).await.unwrap_err()), "42501");
    let copyist = again().await;
    assert_eq!(copy(&copyist, "COPY lists FROM STDIN", "1\t{a}\n".into()).await.unwrap(), 1);
    // One after the other on the wire, nobody waits for an answer.
    let (before, copied, after, last) = tokio::join!(
        client.execute("INSERT INTO lists VALUES (2, '{b}')", &[]),
        copy(&client, "COPY lists FROM STDIN", "3\t{c}\n4\t{d}\n".into()),
        client.query("SELECT id FROM lists", &[]),
        client.execute("UPDATE lists SET tags = tags || 'x'::text WHERE id > 1", &[]),
    );
    assert_eq!((before.unwrap(), copied.unwrap()), (1, 2));
    assert!(after.unwrap().len() >= 2);
    assert!(last.unwrap() >= 1);
    let failed = copy(&client, "COPY lists FROM STDIN", "3\t{again}\n".into()).await;
    assert_eq!(code(&failed.unwrap_err()), "23505");
    assert_eq!(value(&client, "SELECT count(*) FROM lists").await, "4");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_beyond_the_limit_of_a_transaction_leaves_the_connection_usable() {
    let (_site, outpost) = outpost("session_copy_limit", SCHEMA).await;
    let client = connect(&outpost.url()).await;
    let sink = client.copy_in::<_, Bytes>("COPY lists FROM STDIN").await.unwrap();
    let mut sink = std::pin::pin!(sink);
    let long = "x".repeat(24 << 20);
    for id in 1..=11 {
        if sink.send(Bytes::from(format!("{id}\t{{{long}}}\n"))).await.is_err() {
            break;
        }
    }
    assert_eq!(code(&sink.finish().await.unwrap_err()), "53400");
    assert_eq!(value(&client, "SELECT count(*) FROM lists").await, "0");
    assert_eq!(copy(&client, "COPY lists FROM STDIN", "1\t{a}\n".into()).await.unwrap(), 1);
    assert_eq!(fails(&client, "INSERT INTO lists VALUES (1)").await, "23505");
}

type Tags = Option<Vec<Option<String>>>;

#[tokio::test(flavor = "multi_thread")]
async fn writes_in_with_take_parameters() {
    let (_site, outpost) = outpost("session_with_parameters", SCHEMA).await;
    let client = connect(&outpost.url()).await;
    let moved = "WITH gone AS (DELETE FROM t WHERE id = ANY ($1) RETURNING id, name, u),
        kept AS (INSERT INTO lists SELECT id, ARRAY[name, $2] FROM gone WHERE u > $3 RETURNING id, tags)
        SELECT g.id, k.tags, $4::text AS given FROM gone g LEFT JOIN kept k USING (id) ORDER BY 1";
    let statement = client.prepare(moved).await.unwrap();
    for round in 1..3i32 {
        client
            .batch_execute("INSERT INTO t (id, name, u) VALUES (1, 'one', 1), (2, 'two', 2), (3, NULL, 9)")
            .await
            .unwrap();
        let (second, none): (&str, Option<&str>) = ("a \"quoted\", {one}", None);
        let rows = client.query(&statement, &[&vec![1, 2, 3, 77], &second, &round, &none]).await.unwrap();
        let got: Vec<(i32, Tags, Option<String>)> =
            rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
        let tags = |name: Option<&str>| Some(vec![name.map(str::to_owned), Some(second.to_owned())]);
        let two = if round == 1 { tags(Some("two")) } else { None };
        assert_eq!(got, [(1, None, None), (2, two, None), (3, tags(None), None)]);
        client.batch_execute("DELETE FROM lists").await.unwrap();
    }
    let counted = client
        .query(
            "WITH x AS (INSERT INTO t (id, n, at) VALUES ($1, $2::float8::numeric, $3) RETURNING id, n)
             UPDATE lists SET tags = ARRAY[x.n::text] FROM x WHERE lists.id = x.id + $4 RETURNING lists.id",
            &[&5i32, &1.25f64, &std::time::SystemTime::UNIX_EPOCH, &1i32],
        )
        .await
        .unwrap();
    assert_eq!(counted.len(), 0);
    assert_eq!(value(&client, "SELECT n || ' ' || extract(epoch FROM at)::int FROM t").await, "1.25 0");
}
