//! Replay while others write the same rows on main: what each policy makes of it, row by row, and what the log says.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use pgoutpost::entry::{Effect, EntryTable, Expression, Own, Value};
use pgoutpost::replay::{Outcome, Policy};
use tokio_util::sync::CancellationToken;

use crate::cluster::Database;
use crate::harness::{Outpost, entry, table, values};

const ROWS: usize = 12;
const ENTRIES: usize = 400;

/// Each change of a row, in the order in which they were made.
const SCHEMA: &str = "CREATE TABLE t(id int PRIMARY KEY, note text NOT NULL);
    INSERT INTO t SELECT g, 'first' FROM generate_series(0, 11) g;
    CREATE TABLE history(n bigint GENERATED ALWAYS AS IDENTITY, id int, old text, new text);
    CREATE FUNCTION remember() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO history (id, old, new) VALUES (OLD.id, OLD.note, NEW.note); RETURN NULL; END $$;
    CREATE TRIGGER remember AFTER UPDATE ON t FOR EACH ROW EXECUTE FUNCTION remember()";

fn t() -> EntryTable {
    table("t", &["id integer", "note text"], 1)
}

fn value(text: &str) -> Value {
    values(&[text]).remove(0)
}

/// Writes pairs of rows in any order until told to stop; a deadlock is always replay's.
async fn writer(database: &Database, number: u64, stop: CancellationToken) -> u64 {
    let main = database.main().await;
    main.batch_execute("SET deadlock_timeout = '20s'").await.unwrap();
    let (mut count, mut seed) = (0, number * 7919 + 1);
    while !stop.is_cancelled() {
        seed = (seed * 48271) % 2_147_483_647;
        let (one, other) = (seed as usize % ROWS, (seed / 13) as usize % ROWS);
        let set = |id: usize| format!("UPDATE t SET note = 'main{number}.{count}' WHERE id = {id}");
        let both = format!("BEGIN; {}; SELECT pg_sleep(0.002); {}; COMMIT", set(one), set(other));
        if let Err(error) = main.batch_execute(&both).await {
            // With the other writer, at times.
            assert_eq!(error.code().map(tokio_postgres::error::SqlState::code), Some("40P01"), "{error:?}");
            main.batch_execute("ROLLBACK").await.unwrap();
        }
        count += 1;
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    count
}

/// What the site's clients saw and wrote, by the value that they wrote.
struct Played {
    outpost: Outpost,
    seen: HashMap<String, String>,
    rows: HashMap<String, usize>,
    counted: BTreeMap<Outcome, u64>,
    retries: u64,
}

async fn play(label: &str, policy: Policy) -> Played {
    let mut outpost = Outpost::start(label, SCHEMA).await;
    outpost.config.conflicts.insert("public.t".to_owned(), policy);
    let mut played = (HashMap::new(), HashMap::new());
    let mut last = vec!["first".to_owned(); ROWS];
    for n in 0..ENTRIES {
        let effects = [n * 5 % ROWS, (n * 7 + 3) % ROWS].map(|id| {
            let new = format!("site{n}.{id}");
            let old = std::mem::replace(&mut last[id], new.clone());
            let (set, seen) = (vec![(1, value(&new))], vec![(1, value(&old))]);
            played.0.insert(new.clone(), old);
            played.1.insert(new, id);
            Effect::Update { table: 0, key: values(&[&id.to_string()]), set, old: seen, row: None, own: Vec::new() }
        });
        outpost.commit(entry("postgres", vec![t()], effects.to_vec())).await;
    }
    let stop = CancellationToken::new();
    let writers =
        async { tokio::join!(writer(&outpost.database, 1, stop.clone()), writer(&outpost.database, 2, stop.clone())) };
    let main = outpost.database.main().await;
    let replay = async {
        // Others are at it first.
        while main.query_one("SELECT count(*) FROM history", &[]).await.unwrap().get::<_, i64>(0) < 20 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        outpost.link.delay(Duration::from_millis(10)).unwrap();
        let replayer = outpost.replay();
        outpost.drained().await;
        stop.cancel();
        replayer.stop().await
    };
    let (status, written) = tokio::join!(replay, writers);
    assert!(written.0 > 5 && written.1 > 5, "{written:?}");
    let mut counted = BTreeMap::new();
    for ((_, outcome), rows) in &status.conflicts {
        *counted.entry(*outcome).or_default() += rows;
    }
    Played { outpost, seen: played.0, rows: played.1, counted, retries: status.retries_total }
}

/// `(old, new)` of each change that replay made on main.
async fn made(outpost: &Outpost) -> Vec<(String, String)> {
    let main = outpost.database.main().await;
    let rows = main.query("SELECT old, new FROM history WHERE new LIKE 'site%' ORDER BY n", &[]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// `mine -> (theirs, outcome)` of the log; each once.
async fn logged(outpost: &Outpost) -> HashMap<String, (String, String)> {
    let main = outpost.database.main().await;
    let log = "SELECT mine ->> 'note', theirs ->> 'note', outcome, old ->> 'note' FROM pgoutpost.conflict";
    let rows = main.query(log, &[]).await.unwrap();
    let all: HashMap<_, _> = rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect();
    assert_eq!(all.len(), rows.len(), "a conflict was logged twice");
    all
}

/// Nothing that was there was overwritten but by what the history says.
async fn chain_holds(outpost: &Outpost) {
    let broken =
        "SELECT count(*)::text FROM (SELECT old, lag(new, 1, 'first') OVER (PARTITION BY id ORDER BY n) AS before
        FROM history) h WHERE old <> before";
    assert_eq!(outpost.texts(broken).await, ["0"]);
}

#[tokio::test]
async fn the_last_write_wins_and_each_row_overwritten_is_logged_once() {
    let played = play("besidelast", Policy::LastWriteWins).await;
    let (made, log) = (made(&played.outpost).await, logged(&played.outpost).await);
    assert_eq!(made.len(), 2 * ENTRIES, "each effect once");
    let overwritten: HashMap<_, _> = made
        .iter()
        .filter(|(old, new)| played.seen[new] != *old)
        .map(|(old, new)| (new.clone(), (old.clone(), "overwritten".to_owned())))
        .collect();
    assert!(overwritten.len() > 10, "others wrote too little: {}", overwritten.len());
    assert_eq!(log, overwritten);
    assert_eq!(played.counted, BTreeMap::from([(Outcome::Overwritten, overwritten.len() as u64)]));
    chain_holds(&played.outpost).await;
    assert!(played.outpost.buffer.quarantined().await.unwrap().is_empty());
    eprintln!("conflicts: {}, transactions tried again: {}", overwritten.len(), played.retries);
}

#[tokio::test]
async fn main_wins_and_each_row_kept_is_logged_once() {
    let played = play("besidemain", Policy::MainWins).await;
    let (made, log) = (made(&played.outpost).await, logged(&played.outpost).await);
    assert!(made.iter().all(|(old, new)| played.seen[new] == *old), "nothing of others is overwritten");
    assert_eq!(made.len() + log.len(), 2 * ENTRIES, "each effect is made or logged");
    assert!(made.iter().all(|(_, new)| !log.contains_key(new)));
    assert!(log.iter().all(|(mine, (theirs, outcome))| outcome == "kept" && played.seen[mine] != *theirs));
    assert_eq!(played.counted, BTreeMap::from([(Outcome::Kept, log.len() as u64)]));
    chain_holds(&played.outpost).await;
}

#[tokio::test]
async fn a_rejected_row_is_logged_once_and_what_follows_waits() {
    let played = play("besidereject", Policy::Reject).await;
    let (made, log) = (made(&played.outpost).await, logged(&played.outpost).await);
    assert!(made.iter().all(|(old, new)| played.seen[new] == *old), "nothing of others is overwritten");
    let quarantined = played.outpost.buffer.quarantined().await.unwrap();
    let (rejected, waiting): (Vec<_>, Vec<_>) = quarantined.iter().partition(|one| one.waits_for.is_none());
    assert_eq!(made.len() + 2 * quarantined.len(), 2 * ENTRIES, "whole entries only");
    assert_eq!(log.len(), rejected.len());
    assert!(log.iter().all(|(mine, (theirs, outcome))| outcome == "quarantined" && played.seen[mine] != *theirs));
    assert_eq!(played.counted, BTreeMap::from([(Outcome::Quarantined, rejected.len() as u64)]));
    // Once a row was refused, nothing that builds upon it arrives.
    let refused: Vec<usize> = log.keys().map(|mine| played.rows[mine]).collect();
    assert!(!refused.is_empty() && !waiting.is_empty());
    chain_holds(&played.outpost).await;
}

/// `n = n + 1`, as an entry holds it; the site believes whatever.
fn increment(id: usize) -> Effect {
    let one = Expression::Value("integer".into(), "1".into());
    let expression = Expression::Operator("+".into(), vec![Expression::Column(1), one]);
    Effect::Update {
        table: 0,
        key: values(&[&id.to_string()]),
        set: vec![(1, value("1"))],
        old: vec![(1, value("0"))],
        row: None,
        own: vec![Own { column: 1, expression }],
    }
}

#[tokio::test]
async fn increments_of_all_sites_add_up_whatever_breaks() {
    const INCREMENTS: i64 = 600;
    let outpost =
        Outpost::start("addup", "CREATE TABLE t(id int PRIMARY KEY, n int); INSERT INTO t VALUES (0, 0), (1, 0)").await;
    let t = || vec![table("t", &["id integer", "n integer"], 1)];
    for n in 0..INCREMENTS as usize / 3 {
        // A row twice in one transaction.
        let effects = vec![increment(n % 2), increment(1), increment(n % 2)];
        outpost.commit(entry("postgres", t(), effects)).await;
    }
    let stop = CancellationToken::new();
    let others = async {
        let (main, mut count) = (outpost.database.main().await, 0i64);
        while !stop.is_cancelled() {
            main.batch_execute("UPDATE t SET n = n + 1 WHERE id = 0; UPDATE t SET n = n + 1 WHERE id = 1")
                .await
                .unwrap();
            count += 2;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        count
    };
    let replay = async {
        outpost.link.delay(Duration::from_millis(6)).unwrap();
        for round in 0..30u64 {
            let replayer = outpost.replay();
            tokio::time::sleep(Duration::from_millis(20 + (round * 37) % 41)).await;
            if round % 3 == 0 {
                outpost.link.cut().unwrap();
                tokio::time::sleep(Duration::from_millis(10)).await;
                outpost.link.heal().unwrap();
            }
            replayer.kill();
        }
        let replayer = outpost.replay();
        outpost.drained().await;
        stop.cancel();
        replayer.stop().await
    };
    let (status, others) = tokio::join!(replay, others);
    assert!(others > 20, "{others}");
    assert_eq!(outpost.texts("SELECT sum(n)::text FROM t").await, [(INCREMENTS + others).to_string()]);
    assert_eq!(status.conflicts_total, 0, "what is computed anew is no conflict");
    assert_eq!(outpost.texts("SELECT count(*)::text FROM pgoutpost.conflict").await, ["0"]);
}

/// A counter under a policy that wants the row as the client saw it goes by its value.
#[tokio::test]
async fn other_policies_judge_the_value() {
    for (label, policy, n) in [("ownreject", Policy::Reject, "7"), ("ownmain", Policy::MainWins, "7")] {
        let schema = "CREATE TABLE t(id int PRIMARY KEY, n int); INSERT INTO t VALUES (0, 0), (1, 7)";
        let mut outpost = Outpost::start(label, schema).await;
        outpost.config.conflicts.insert("public.t".to_owned(), policy);
        for id in 0..2 {
            let t = table("t", &["id integer", "n integer"], 1);
            outpost.commit(entry("postgres", vec![t], vec![increment(id)])).await;
        }
        let replayer = outpost.replay();
        outpost.drained().await;
        assert_eq!(outpost.texts("SELECT n::text FROM t ORDER BY id").await, ["1", n], "{label}");
        assert_eq!(replayer.stop().await.conflicts_total, 1, "{label}");
    }
}

/// A row gone is logged with what would have been computed.
#[tokio::test]
async fn an_increment_of_a_row_gone_is_not_lost_from_sight() {
    let outpost = Outpost::start("owngone", "CREATE TABLE t(id int PRIMARY KEY, n int)").await;
    let t = table("t", &["id integer", "n integer"], 1);
    outpost.commit(entry("postgres", vec![t], vec![increment(3)])).await;
    let replayer = outpost.replay();
    outpost.drained().await;
    let log =
        "SELECT concat_ws(' ', key, outcome, mine #>> '{n,expression}', mine #> '{n,with}') FROM pgoutpost.conflict";
    let expected = r#"{"id": "3"} gone (t."n" OPERATOR(pg_catalog.+) $1::integer) ["1"]"#;
    assert_eq!(outpost.texts(log).await, [expected]);
    replayer.stop().await;
}
