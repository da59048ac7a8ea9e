//! Rows and messages that are very long.

use std::time::Duration;

use super::{connect, fails, outpost, value};

const SCHEMA: &str = "CREATE TABLE t (id int PRIMARY KEY, b bytea, v text)";

#[tokio::test(flavor = "multi_thread")]
async fn a_value_whose_text_is_longer_than_a_message_is_taken() {
    let (site, outpost) = outpost("large_value", SCHEMA).await;
    let client = connect(&outpost.url()).await;
    let bytes: Vec<u8> = (0..40_000_000_u32).map(|i| (i % 251) as u8).collect();
    assert_eq!(client.execute("INSERT INTO t VALUES (1, $1)", &[&bytes]).await.unwrap(), 1);
    let about = "SELECT length(b) || md5(b) FROM t";
    let written = value(&client, about).await;
    assert!(written.starts_with("40000000"), "{written}");
    let read: Vec<u8> = client.query_one("SELECT b FROM t", &[]).await.unwrap().get(0);
    assert!(read == bytes, "it is read as another");
    let main = connect(&site.main_url).await;
    for _ in 0..1200 {
        if value(&main, "SELECT count(*) FROM t").await == "1" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(value(&main, about).await, written);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_too_long_fails_its_statement_and_not_the_session() {
    let (_site, outpost) = outpost("large_row", SCHEMA).await;
    let client = connect(&outpost.url()).await;
    client.batch_execute("INSERT INTO t VALUES (1, '', 'short')").await.unwrap();
    let pid = value(&client, "SELECT pg_backend_pid()").await;
    // Written, and read along with pending rows; by both protocols.
    for (begin, sql) in [
        ("", "INSERT INTO t SELECT 2, '', repeat('x', 280000000)"),
        ("BEGIN; UPDATE t SET v = 'own'", "SELECT repeat(v, 93400000) FROM t"),
    ] {
        client.batch_execute(begin).await.unwrap();
        assert_eq!(fails(&client, sql).await, "54000", "{sql}");
        client.batch_execute("ROLLBACK").await.unwrap();
        client.batch_execute(begin).await.unwrap();
        let error = client.query(sql, &[]).await.unwrap_err();
        assert_eq!(error.code().map(tokio_postgres::error::SqlState::code), Some("54000"), "{sql}");
        client.batch_execute("ROLLBACK").await.unwrap();
        assert_eq!(value(&client, "SELECT count(*) FROM t").await, "1");
    }
    client.batch_execute("BEGIN; SAVEPOINT s").await.unwrap();
    assert_eq!(fails(&client, "UPDATE t SET v = repeat('x', 280000000)").await, "54000");
    assert_eq!(fails(&client, "SELECT 1").await, "25P02");
    client.batch_execute("ROLLBACK TO s; UPDATE t SET v = 'other'; COMMIT").await.unwrap();
    assert_eq!(value(&client, "SELECT v FROM t").await, "other");
    assert_eq!(value(&client, "SELECT pg_backend_pid()").await, pid);
}
