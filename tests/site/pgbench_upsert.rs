//! Eight clients that upsert the same few keys with the link cut: nobody fails, and no increment is lost.

use super::stage::{Stage, run, succeeded, try_rows};

const SCHEMA: &str = "CREATE TABLE tally (k int PRIMARY KEY, n int NOT NULL, last text);
    CREATE TABLE named (id int PRIMARY KEY, name text UNIQUE, n int NOT NULL);";

const SCRIPT: &str = "\\set k random(1, 4)
\\set id random(1, 1000000000)
INSERT INTO tally AS t VALUES (:k, 1, 'c' || :client_id) ON CONFLICT (k) DO UPDATE SET n = t.n + excluded.n, last = excluded.last;
INSERT INTO named AS t VALUES (:id, 'name ' || :k, 1) ON CONFLICT (name) DO UPDATE SET n = t.n + 1;
INSERT INTO tally VALUES (100 + :k, 0, 'once') ON CONFLICT DO NOTHING;
MERGE INTO tally t USING (VALUES (200 + :k)) AS s(k) ON t.k = s.k WHEN MATCHED THEN UPDATE SET n = t.n + 1 WHEN NOT MATCHED THEN INSERT VALUES (s.k, 1, 'merged');
";

const SUMS: &str = "SELECT (SELECT sum(n) FROM tally WHERE k < 100), (SELECT sum(n) FROM named), (SELECT sum(n) FROM tally WHERE k > 200),
    (SELECT count(*) FROM tally WHERE k BETWEEN 100 AND 200), (SELECT count(*) FROM named)";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upserts_of_the_same_keys_lose_nothing() {
    let stage = Stage::own("pgbench_upsert", SCHEMA).await;
    let pgbench = lab::postgres::binary("pgbench").unwrap();
    let script = std::env::temp_dir().join(format!("upsert_{}.sql", std::process::id()));
    std::fs::write(&script, SCRIPT).unwrap();
    stage.cut();
    let mut done = 0;
    for mode in ["simple", "prepared"] {
        let file = script.to_str().unwrap();
        let arguments = ["-n", "-M", mode, "-c", "8", "-j", "2", "-t", "25", "-f", file, &stage.outpost.url()];
        let printed = succeeded(&run(&pgbench, &arguments).await);
        assert!(printed.contains("number of transactions actually processed: 200/200"), "{printed}");
        assert!(printed.contains("number of failed transactions: 0 "), "{printed}");
        done += 200;
    }
    let client = stage.client().await;
    let pending = try_rows(&client, SUMS).await.unwrap();
    let total = Some(done.to_string());
    assert_eq!(pending[0], [total.clone(), total.clone(), total, Some("4".into()), Some("4".into())]);
    stage.drain().await;
    assert_eq!(try_rows(&stage.main().await, SUMS).await.unwrap(), pending);
    std::fs::remove_file(script).unwrap();
}
