//! Sub-selects over many pending rows.

use std::time::{Duration, Instant};

use super::{connect, outpost, value};

const SCHEMA: &str = "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY, a int, n int);
    CREATE INDEX ON b (a); INSERT INTO a SELECT generate_series(1, 3000);
    INSERT INTO b SELECT g, g, g FROM generate_series(1, 20000) g; ANALYZE";

/// Each outer row looks at its own pending rows, and not at all of them.
#[tokio::test(flavor = "multi_thread")]
async fn each_outer_row_finds_its_own_by_a_look_up() {
    let (_site, outpost) = outpost("correlated", SCHEMA).await;
    let client = connect(&outpost.url()).await;
    client
        .batch_execute(
            "BEGIN; UPDATE b SET n = n + 1; INSERT INTO b SELECT g, g % 3000, -g FROM generate_series(20001, 30000) g",
        )
        .await
        .unwrap();
    for (sql, expected) in [
        ("SELECT sum((SELECT max(n) FROM b WHERE b.a = a.id)) FROM a", "4504500"),
        (
            "SELECT sum(x.n) FROM a CROSS JOIN LATERAL (SELECT n FROM b WHERE b.a = a.id ORDER BY n DESC LIMIT 1) x",
            "4504500",
        ),
    ] {
        let began = Instant::now();
        assert_eq!(value(&client, sql).await, expected, "{sql}");
        // 3,000 times 30,000 rows take a minute.
        assert!(began.elapsed() < Duration::from_secs(15), "{sql}: {:?}", began.elapsed());
        println!("{sql}: {:?}", began.elapsed());
    }
    // What Postgres makes a join of stays one.
    let exists = "EXPLAIN SELECT count(*) FROM a WHERE EXISTS (SELECT 1 FROM b WHERE b.a = a.id)";
    let plan: Vec<String> = client
        .simple_query(exists)
        .await
        .unwrap()
        .iter()
        .filter_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        })
        .collect();
    assert!(!plan.iter().any(|line| line.contains("jsonb")), "{plan:?}");
}
