//! COPY FROM STDIN through the daemon, as drivers do it: in binary, in pieces, given up, too much.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::SinkExt;
use tokio_postgres::Client;
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::types::Type;

use super::{code, connect, outpost, value};

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
