//! Main written by others at the same time: what each policy makes of it.

use pgoutpost::entry::{Effect, EntryTable, Value};
use pgoutpost::replay::Policy;

use crate::harness::{Outpost, entry, insert, table, values};

fn t() -> EntryTable {
    table("t", &["id integer", "n numeric", "doc json", "note text"], 1)
}

fn value(text: &str) -> Value {
    values(&[text]).remove(0)
}

/// `n` from one value to another.
fn patch(id: &str, old: &str, new: &str) -> Effect {
    let (set, old) = (vec![(1, value(new))], vec![(1, value(old))]);
    Effect::Update { table: 0, key: values(&[id]), set, old, row: None }
}

fn delete(old: &[&str]) -> Effect {
    Effect::Delete { table: 0, key: values(&old[..1]), old: values(old) }
}

/// Two writes that find what they saw, three that do not, one insert of a key that is there already, one of a new one.
async fn play(label: &str, policy: Option<Policy>) -> Outpost {
    let mut outpost = Outpost::start(label, "CREATE TABLE t(id int PRIMARY KEY, n numeric, doc json, note text)").await;
    outpost.config.conflicts.extend(policy.map(|policy| ("public.t".to_owned(), policy)));
    let rows = "INSERT INTO t SELECT g, 1.50, '{\"a\": 1}', 'main' FROM generate_series(1, 6) g;
        UPDATE t SET n = 9 WHERE id IN (2, 4); UPDATE t SET n = NULL WHERE id = 3";
    outpost.database.main().await.batch_execute(rows).await.unwrap();
    let row = |id| [id, "1.50", "{\"a\": 1}", "main"];
    for effect in [
        patch("1", "1.50", "2.25"),
        patch("2", "1.50", "2.25"),
        patch("3", "1.50", "2.25"),
        delete(&row("4")),
        delete(&row("5")),
        insert(&["6", "7", "NULL", "site"]),
        insert(&["7", "7", "NULL", "site"]),
        patch("7", "7", "8"),
    ] {
        outpost.commit(entry("postgres", vec![t()], vec![effect])).await;
    }
    outpost
}

const ALL: &str = "SELECT string_agg(concat_ws(':', id, coalesce(n::text, 'NULL'), note), ' ' ORDER BY id) FROM t";

#[tokio::test]
async fn the_last_write_wins_unless_told_otherwise() {
    let outpost = play("lastwrite", None).await;
    let replayer = outpost.replay();
    outpost.drained().await;
    assert_eq!(outpost.texts(ALL).await, ["1:2.25:main 2:2.25:main 3:2.25:main 6:1.50:main 7:8:site"]);
    let quarantined = outpost.buffer.quarantined().await.unwrap();
    assert_eq!(quarantined.iter().map(|one| one.error["code"].as_str().unwrap()).collect::<Vec<_>>(), ["23505"]);
    replayer.stop().await;
}

#[tokio::test]
async fn main_wins_where_it_is_told_to() {
    let outpost = play("mainwins", Some(Policy::MainWins)).await;
    let replayer = outpost.replay();
    outpost.drained().await;
    assert_eq!(outpost.texts(ALL).await, ["1:2.25:main 2:9:main 3:NULL:main 4:9:main 6:1.50:main 7:8:site"]);
    assert!(outpost.buffer.quarantined().await.unwrap().is_empty());
    let status = replayer.stop().await;
    assert_eq!((status.conflicts_total, status.conflicts["public.t"]), (4, 4));
}

#[tokio::test]
async fn conflicts_are_rejected_where_they_shall_be() {
    let outpost = play("rejectconflict", Some(Policy::Reject)).await;
    let replayer = outpost.replay();
    outpost.drained().await;
    assert_eq!(outpost.texts(ALL).await, ["1:2.25:main 2:9:main 3:NULL:main 4:9:main 6:1.50:main 7:8:site"]);
    let quarantined = outpost.buffer.quarantined().await.unwrap();
    let codes: Vec<(u64, &str)> =
        quarantined.iter().map(|one| (one.seq.0, one.error["code"].as_str().unwrap())).collect();
    assert_eq!(codes, [(2, "PO003"), (3, "PO003"), (4, "PO003"), (6, "23505")]);
    // Old and mine are in the effects, theirs is here.
    assert_eq!(quarantined[0].rows_on_main[0]["rows"][0]["n"], 9);
    assert_eq!(replayer.stop().await.conflicts["public.t"], 3);
}

/// Entries name the partition; people name the table.
#[tokio::test]
async fn the_policy_of_a_partitioned_table_is_that_of_its_partitions() {
    let schema = "CREATE TABLE t(id int PRIMARY KEY, n numeric) PARTITION BY RANGE (id);
        CREATE TABLE mid PARTITION OF t FOR VALUES FROM (0) TO (100) PARTITION BY RANGE (id);
        CREATE TABLE leaf PARTITION OF mid FOR VALUES FROM (0) TO (50);
        CREATE TABLE own PARTITION OF mid FOR VALUES FROM (50) TO (100);
        INSERT INTO t VALUES (1, 9), (50, 9)";
    let mut outpost = Outpost::start("parts", schema).await;
    let policies = [("public.t", Policy::Reject), ("public.own", Policy::LastWriteWins)];
    outpost.config.conflicts.extend(policies.map(|(name, policy)| (name.to_owned(), policy)));
    for (leaf, id) in [("leaf", "1"), ("own", "50")] {
        let mut table = table(leaf, &["id integer", "n numeric"], 1);
        table.via = Some(self::table("t", &[], 0).name);
        outpost.commit(entry("postgres", vec![table], vec![patch(id, "1", "2")])).await;
    }
    let replayer = outpost.replay();
    outpost.drained().await;
    assert_eq!(outpost.texts("SELECT string_agg(n::text, ' ' ORDER BY id) FROM t").await, ["9 2"]);
    assert_eq!(outpost.buffer.quarantined().await.unwrap().len(), 1);
    replayer.stop().await;
}
