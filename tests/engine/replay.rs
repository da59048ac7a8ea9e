//! Replay: order, exactly once through every kind of failure, roles, types, rejection, and speed over a slow link.

use std::time::{Duration, Instant};

use pgoutpost::entry::{Effect, Seq};
use pgoutpost::replay::ReplayState;

use crate::cluster::role;
use crate::harness::{Outpost, delete, entry, insert, table, update, values};

const T: &str = "CREATE TABLE t(id int PRIMARY KEY, n int NOT NULL CHECK (n >= 0), note varchar(5));
    CREATE TABLE history(id int, n int, at bigserial)";

fn t() -> pgoutpost::entry::EntryTable {
    table("t", &["id integer", "n integer", "note character varying(5)"], 1)
}

/// A table without a key: applied twice, it has a row twice.
fn history() -> pgoutpost::entry::EntryTable {
    table("history", &["id integer", "n integer"], 0)
}

#[tokio::test]
async fn effects_arrive_in_order_and_once() {
    let outpost = Outpost::start("order", T).await;
    let replayer = outpost.replay();
    for n in 0..300 {
        let id = n.to_string();
        outpost.commit(entry("postgres", vec![t()], vec![insert(&[&id, "0", "NULL"])])).await;
        outpost.commit(entry("postgres", vec![history()], vec![insert(&[&id, "1"])])).await;
        outpost
            .commit(entry(
                "postgres",
                vec![t()],
                vec![update(&[&id], &[(1, "7"), (2, "x")]), insert(&["-1", "1", "a"]), delete(&["-1"])],
            ))
            .await;
    }
    outpost.drained().await;
    assert_eq!(outpost.texts("SELECT count(*) || ' ' || sum(n) || ' ' || min(note) FROM t").await, ["300 2100 x"]);
    assert_eq!(
        outpost.texts("SELECT (array_agg(id ORDER BY at) = array_agg(id ORDER BY id))::text FROM history").await,
        ["true"]
    );
    assert_eq!(outpost.ledger().await, 900);
    let status = replayer.stop().await;
    assert_eq!((status.applied_total, status.conflicts_total, status.rejected_total), (900, 0, 0));
    assert!(
        status.main_lsn.is_some() && status.system_identifier.is_some() && status.timeline == Some(1),
        "{status:?}"
    );
    assert_eq!(status.state, ReplayState::Stopped);
}

#[tokio::test]
async fn a_link_cut_at_any_moment_neither_loses_nor_repeats() {
    let outpost = Outpost::start("cuts", T).await;
    outpost.link.delay(Duration::from_millis(6)).unwrap();
    let replayer = outpost.replay();
    let link = std::sync::Arc::clone(&outpost.link);
    let cutter = tokio::spawn(async move {
        for round in 0..40u64 {
            tokio::time::sleep(Duration::from_millis(3 + (round * 37) % 41)).await;
            link.cut().unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
            link.heal().unwrap();
        }
    });
    for n in 0..1500 {
        outpost.commit(entry("postgres", vec![history()], vec![insert(&[&n.to_string(), "1"])])).await;
        if n % 4 == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    cutter.await.unwrap();
    outpost.drained().await;
    assert_eq!(outpost.texts("SELECT count(*) || ' ' || count(DISTINCT id) FROM history").await, ["1500 1500"]);
    let status = replayer.stop().await;
    assert!(status.retries_total >= 10, "the link was really cut: {status:?}");
    assert_eq!(status.rejected_total, 0);
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_not_repeated() {
    let outpost = Outpost::start("lostack", T).await;
    // The answer takes 300 ms: main has committed, we do not know.
    outpost.link.delay(Duration::from_millis(600)).unwrap();
    let mut replayer = outpost.replay();
    replayer.until(|status| status.state == ReplayState::Idle).await;
    outpost.commit(entry("postgres", vec![history()], vec![insert(&["1", "1"])])).await;
    let begun = Instant::now();
    while outpost.ledger().await == 0 {
        assert!(begun.elapsed() < Duration::from_secs(10));
    }
    assert_eq!(outpost.buffer.progress().borrow().applied, Seq(0));
    outpost.link.cut().unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    outpost.link.delay(Duration::ZERO).unwrap();
    outpost.link.heal().unwrap();
    outpost.drained().await;
    assert_eq!(outpost.texts("SELECT count(*)::text FROM history").await, ["1"]);
    replayer.stop().await;
}

#[tokio::test]
async fn two_replayers_at_once_and_killed_ones_apply_once() {
    let outpost = Outpost::start("two", T).await;
    outpost.link.delay(Duration::from_millis(2)).unwrap();
    let mut replayers = vec![outpost.replay(), outpost.replay()];
    for n in 0..800 {
        outpost.commit(entry("postgres", vec![history()], vec![insert(&[&n.to_string(), "1"])])).await;
        if n % 100 == 50 {
            replayers.remove(0).kill();
            replayers.push(outpost.replay());
        }
    }
    outpost.drained().await;
    assert_eq!(outpost.texts("SELECT count(*) || ' ' || count(DISTINCT id) FROM history").await, ["800 800"]);
    for replayer in replayers {
        replayer.stop().await;
    }
}

#[tokio::test]
async fn a_rejected_entry_goes_aside_whole_and_the_rest_goes_on() {
    let outpost = Outpost::start("reject", T).await;
    let good = |n: i32| entry("postgres", vec![t()], vec![insert(&[&n.to_string(), "1", "NULL"])]);
    for n in 0..50 {
        outpost.commit(good(n)).await;
    }
    let bad = [
        ("23514", vec![insert(&["1000", "1", "NULL"]), insert(&["1001", "-1", "NULL"])]),
        ("23505", vec![insert(&["1002", "1", "NULL"]), insert(&["3", "1", "NULL"])]),
        ("22001", vec![insert(&["1003", "1", "too long"])]),
        ("22P02", vec![insert(&["1004", "x", "NULL"])]),
    ];
    for (number, (_, effects)) in bad.iter().enumerate() {
        outpost.commit(entry("postgres", vec![t()], effects.clone())).await;
        outpost.commit(good(100 + number as i32)).await;
    }
    let unknown = entry("postgres", vec![table("no such", &["id integer"], 1)], vec![insert(&["1"])]);
    outpost.commit(unknown).await;
    outpost.commit(good(500)).await;
    let replayer = outpost.replay();
    outpost.drained().await;
    assert_eq!(outpost.texts("SELECT count(*) || ' ' || count(*) FILTER (WHERE id >= 1000) FROM t").await, ["55 0"]);
    let quarantined = outpost.buffer.quarantined().await.unwrap();
    let codes: Vec<&str> = quarantined.iter().map(|one| one.error["code"].as_str().unwrap()).collect();
    assert_eq!(codes, ["23514", "23505", "22001", "22P02", "PO004"]);
    assert_eq!(quarantined[1].error["constraint"], "t_pkey");
    assert_eq!(quarantined[1].error["detail"], "Key (id)=(3) already exists.");
    assert_eq!(quarantined[1].error["effect"], 0);
    assert_eq!(outpost.ledger().await, 60);
    let status = replayer.stop().await;
    assert_eq!(status.rejected_total, 5);
    // Another process takes over: nothing comes back.
    outpost.replay().stop().await;
    outpost.commit(good(600)).await;
    let replayer = outpost.replay();
    outpost.drained().await;
    assert_eq!(outpost.texts("SELECT count(*)::text FROM t").await, ["56"]);
    replayer.stop().await;
}

#[tokio::test]
async fn a_deferred_constraint_rejects_at_commit() {
    let schema = "CREATE TABLE a(id int PRIMARY KEY); CREATE TABLE t(id int PRIMARY KEY, a int REFERENCES a DEFERRABLE INITIALLY DEFERRED)";
    let outpost = Outpost::start("deferred", schema).await;
    let t = table("t", &["id integer", "a integer"], 1);
    outpost.commit(entry("postgres", vec![t.clone()], vec![insert(&["1", "7"])])).await;
    outpost.commit(entry("postgres", vec![t], vec![insert(&["2", "NULL"])])).await;
    let replayer = outpost.replay();
    outpost.drained().await;
    assert_eq!(outpost.texts("SELECT id::text FROM t").await, ["2"]);
    assert_eq!(outpost.buffer.quarantined().await.unwrap()[0].error["code"], "23503");
    replayer.stop().await;
}

#[tokio::test]
async fn trouble_that_passes_is_waited_out() {
    let outpost = Outpost::start("trouble", T).await;
    outpost.commit(entry("postgres", vec![t()], vec![insert(&["1", "1", "NULL"])])).await;
    let mut replayer = outpost.replay();
    outpost.drained().await;
    let main = outpost.database.main().await;
    // Killed over and over, and a row that is locked meanwhile.
    main.batch_execute("BEGIN; SELECT FROM t WHERE id = 1 FOR UPDATE").await.unwrap();
    for n in 0..20 {
        outpost.commit(entry("postgres", vec![t()], vec![update(&["1"], &[(1, &n.to_string())])])).await;
    }
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(60)).await;
        main.batch_execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database() AND query ~ 'UPDATE|COMMIT'").await.unwrap();
    }
    main.batch_execute("COMMIT").await.unwrap();
    outpost.drained().await;
    replayer.until(|status| status.last_error.is_none()).await;
    assert_eq!(outpost.texts("SELECT n::text FROM t").await, ["19"]);
    assert!(outpost.buffer.quarantined().await.unwrap().is_empty());
    let status = replayer.stop().await;
    assert!(status.retries_total > 0, "{status:?}");
}

#[tokio::test]
async fn a_main_that_forgot_commits_gets_them_again_and_another_history_halts() {
    let outpost = Outpost::start("forgot", T).await;
    let replayer = outpost.replay();
    for n in 0..20 {
        outpost.commit(entry("postgres", vec![t()], vec![insert(&[&n.to_string(), "1", "NULL"])])).await;
    }
    outpost.drained().await;
    replayer.stop().await;
    let main = outpost.database.main().await;
    let entry_at = |seq: u64| outpost.buffer.read(Seq(seq - 1), 1);
    let uuid = entry_at(10).await.unwrap()[0].uuid;
    main.execute("UPDATE pgoutpost.ledger SET seq = 10, entry = $1", &[&uuid]).await.unwrap();
    main.batch_execute("DELETE FROM t WHERE id >= 10").await.unwrap();
    let replayer = outpost.replay();
    let mut progress = outpost.buffer.progress();
    outpost.commit(entry("postgres", vec![t()], vec![insert(&["20", "1", "NULL"])])).await;
    progress.wait_for(|progress| progress.applied == Seq(21)).await.unwrap();
    assert_eq!(outpost.texts("SELECT count(*)::text FROM t").await, ["21"]);
    replayer.stop().await;

    main.batch_execute("UPDATE pgoutpost.ledger SET seq = 15, entry = gen_random_uuid()").await.unwrap();
    let mut replayer = outpost.replay();
    let status = replayer.until(|status| status.state == ReplayState::Halted).await;
    assert!(status.last_error.unwrap().contains("two daemons"));
    main.batch_execute("UPDATE pgoutpost.ledger SET seq = 99").await.unwrap();
    replayer.until(|status| status.last_error.as_deref().unwrap_or_default().contains("buffer ends at 21")).await;
    main.batch_execute("DELETE FROM pgoutpost.ledger").await.unwrap();
    replayer.until(|status| status.last_error.as_deref().unwrap_or_default().contains("pgoutpost setup")).await;
    replayer.stop().await;
}

#[tokio::test]
async fn acts_as_the_clients_role() {
    let schema = "CREATE TABLE audit(id int PRIMARY KEY, who text); ALTER TABLE audit ENABLE ROW LEVEL SECURITY;
        CREATE POLICY mine ON audit USING (who = current_user) WITH CHECK (who = current_user);
        CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.who := current_user; RETURN NEW; END';
        CREATE TRIGGER stamp BEFORE INSERT ON audit FOR EACH ROW EXECUTE FUNCTION stamp()";
    let outpost = Outpost::start("roles", schema).await;
    let main = outpost.database.main().await;
    for name in ["alice", "bob", "eve", "carrier"] {
        role(&main, name).await;
    }
    main.batch_execute(
        "GRANT ALL ON audit TO alice, bob; GRANT alice, bob TO carrier;
        GRANT EXECUTE ON FUNCTION pgoutpost.advance(text, bigint, bigint, uuid) TO carrier",
    )
    .await
    .unwrap();
    let audit = || table("audit", &["id integer", "who text"], 1);
    for (n, name) in ["alice", "bob", "bob", "alice"].iter().enumerate() {
        outpost.commit(entry(name, vec![audit()], vec![insert(&[&n.to_string(), "?"])])).await;
    }
    let mut replayer = outpost.replay_as("carrier");
    outpost.drained().await;
    assert_eq!(outpost.texts("SELECT string_agg(who, ' ' ORDER BY id) FROM audit").await, ["alice bob bob alice"]);
    // Row security hides another's row: a conflict, not a change.
    outpost.commit(entry("bob", vec![audit()], vec![update(&["0"], &[(1, "bob")])])).await;
    outpost.drained().await;
    assert_eq!(replayer.until(|status| status.conflicts_total > 0).await.conflicts_total, 1);
    // A missing grant is the operator's to mend, and puts nothing into quarantine.
    main.batch_execute("GRANT ALL ON audit TO eve").await.unwrap();
    outpost.commit(entry("eve", vec![audit()], vec![insert(&["9", "?"])])).await;
    let status = replayer.until(|status| status.state == ReplayState::Halted).await;
    assert!(status.last_error.unwrap().contains("GRANT"));
    main.batch_execute("GRANT eve TO carrier").await.unwrap();
    outpost.drained().await;
    assert_eq!(outpost.texts("SELECT who FROM audit WHERE id = 9").await, ["eve"]);
    replayer.stop().await;
}

#[tokio::test]
async fn rows_gone_on_main_are_counted_and_passed_over() {
    let outpost = Outpost::start("gone", T).await;
    outpost
        .commit(entry(
            "postgres",
            vec![t()],
            vec![update(&["1"], &[(1, "5")]), delete(&["2"]), insert(&["3", "1", "NULL"])],
        ))
        .await;
    let replayer = outpost.replay();
    outpost.drained().await;
    assert_eq!(outpost.texts("SELECT id::text FROM t").await, ["3"]);
    assert_eq!(replayer.stop().await.conflicts_total, 2);
}

#[tokio::test]
async fn every_type_comes_through_as_it_was() {
    let types = [
        ("numeric", vec!["123456789012345678901234567890.123456789", "NaN", "Infinity"]),
        ("numeric(6,2)", vec!["1234.50"]),
        ("float8", vec!["0.1", "5e-324", "-Infinity", "NaN"]),
        ("timestamptz", vec!["2026-11-21 22:00:00.123456+00", "infinity", "0044-03-15 12:00:00+00 BC"]),
        ("timestamp(3)", vec!["2026-11-21 22:00:00.123"]),
        ("time(3) with time zone", vec!["22:00:00.5+02"]),
        ("interval", vec!["1 year 2 mons -3 days +04:05:06.789", "-00:00:01"]),
        ("interval day to second(3)", vec!["3 days 04:05:06.789"]),
        ("date", vec!["2026-11-21", "-infinity"]),
        ("bytea", vec!["\\x00ff10", "\\x"]),
        ("text", vec!["", "o'brien \\ \"x\" \n\t ü 🦀 $1", "NULL "]),
        ("character(3)", vec!["ab "]),
        ("\"char\"", vec!["x"]),
        ("varchar(5)", vec!["ab  "]),
        ("bit(3)", vec!["101"]),
        ("bit varying(9)", vec!["10101"]),
        ("boolean", vec!["t"]),
        ("uuid", vec!["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"]),
        ("jsonb", vec!["{\"a\": [1, null, \"x\"], \"b\": 1.50}"]),
        ("json", vec!["{\"a\" :  1, \"a\":2}"]),
        ("xml", vec!["<a>b</a>"]),
        ("inet", vec!["10.0.0.1/8"]),
        ("macaddr", vec!["08:00:2b:01:02:03"]),
        ("point", vec!["(1.5,-2)"]),
        ("int4range", vec!["[1,5)", "empty"]),
        ("tstzrange", vec!["[\"2026-11-21 22:00:00+00\",)"]),
        ("int4multirange", vec!["{[1,3),[5,7)}"]),
        ("tsvector", vec!["'a':1 'b':2A"]),
        ("oid", vec!["4294967295"]),
        ("name", vec!["some name"]),
        ("money", vec!["$12.34"]),
        ("mood", vec!["very happy"]),
        ("pair", vec!["(1,\"a,\"\"b\")", "(,)"]),
        ("small", vec!["12.50"]),
        ("tags", vec!["{a,b}"]),
        ("int4[]", vec!["{1,NULL,3}", "{{1,2},{3,4}}", "[0:1]={7,8}", "{}"]),
        ("text[]", vec!["{\"a,b\",\"\",\"NULL\",NULL,\"\\\"q\\\\\"}"]),
        ("mood[]", vec!["{sad,\"very happy\"}"]),
        ("pair[]", vec!["{\"(1,a)\",\"(2,\\\"b c\\\")\"}"]),
        ("numeric(6,2)[]", vec!["{1.50,2.25}"]),
        ("character(3)[]", vec!["{\"a  \",abc}"]),
        ("timestamptz[]", vec!["{\"2026-11-21 22:00:00+00\"}"]),
    ];
    let columns: Vec<String> = types.iter().enumerate().map(|(n, (name, _))| format!("c{n} {name}")).collect();
    let schema = format!(
        "CREATE TYPE mood AS ENUM ('sad', 'very happy'); CREATE TYPE pair AS (a int, b text);
         CREATE DOMAIN small AS numeric(6,2) CHECK (VALUE > 0); CREATE DOMAIN tags AS text[];
         CREATE TABLE every(id int PRIMARY KEY, {}, twice int GENERATED ALWAYS AS (id * 2) STORED, ident int GENERATED ALWAYS AS IDENTITY)",
        columns.join(", ")
    );
    let outpost = Outpost::start("types", &schema).await;
    let main = outpost.database.main().await;
    // The entry's types are as `format_type` prints them under an empty search path.
    main.batch_execute("SET search_path = ''").await.unwrap();
    let printed = main
        .query("SELECT attname || ' ' || format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'public.every'::regclass AND attnum > 0 ORDER BY attnum", &[])
        .await
        .unwrap();
    main.batch_execute("RESET search_path").await.unwrap();
    let printed: Vec<String> = printed.iter().map(|row| row.get(0)).collect();
    let every = || table("every", &printed.iter().map(String::as_str).collect::<Vec<_>>(), 1);
    let rows = types.iter().map(|(_, texts)| texts.len()).max().unwrap();
    let text = |column: usize, row: usize| types[column].1.get(row).copied();
    let mut effects = Vec::new();
    for row in 0..rows {
        let mut one = values(&[&row.to_string()]);
        one.extend((0..types.len()).map(|column| text(column, row).map(Into::into)));
        one.extend(values(&["0", &(100 + row).to_string()]));
        effects.push(Effect::Insert { table: 0, row: one });
    }
    // Alone, several at once, and as updates.
    outpost.commit(entry("postgres", vec![every()], vec![effects[0].clone()])).await;
    outpost.commit(entry("postgres", vec![every()], effects[1..].to_vec())).await;
    for column in 0..types.len() {
        let (id, blank) = (1000 + column, values(&["NULL"; 99]));
        let mut row = values(&[&id.to_string()]);
        row.extend(blank.into_iter().take(types.len()));
        row.extend(values(&["0", &id.to_string()]));
        let set = vec![(column + 1, text(column, 0).map(Into::into))];
        let patch = Effect::Update { table: 0, key: values(&[&id.to_string()]), set, old: Vec::new(), row: None };
        outpost.commit(entry("postgres", vec![every()], vec![Effect::Insert { table: 0, row }, patch])).await;
    }
    let replayer = outpost.replay();
    outpost.drained().await;
    let quarantined = outpost.buffer.quarantined().await.unwrap();
    assert!(quarantined.is_empty(), "{:?}", quarantined.iter().map(|one| &one.error).collect::<Vec<_>>());
    for (column, (name, texts)) in types.iter().enumerate() {
        let query = format!("SELECT pgoutpost.canonical_text(c{column}) FROM every WHERE id < 1000 ORDER BY id");
        let found = main.query(&query, &[]).await.unwrap();
        for (row, expected) in texts.iter().enumerate() {
            let found: Option<String> = found[row].get(0);
            assert_eq!(found.as_deref(), Some(*expected), "{name} inserted");
        }
        let query = format!("SELECT pgoutpost.canonical_text(c{column}) FROM every WHERE id = {}", 1000 + column);
        let found: Option<String> = main.query_one(&query, &[]).await.unwrap().get(0);
        assert_eq!(found.as_deref(), Some(texts[0]), "{name} updated");
    }
    assert_eq!(outpost.texts("SELECT bool_and(twice = id * 2 AND ident = CASE WHEN id < 1000 THEN 100 + id ELSE id END)::text FROM every").await, ["true"]);
    replayer.stop().await;
}

#[tokio::test]
async fn keys_of_many_types_find_their_rows() {
    let schema = "CREATE TABLE k(a uuid, b varchar(9), c timestamptz, d numeric, e character(4), v int, PRIMARY KEY (a, b, c, d, e))";
    let outpost = Outpost::start("keys", schema).await;
    let k = || {
        table(
            "k",
            &[
                "a uuid",
                "b character varying(9)",
                "c timestamp with time zone",
                "d numeric",
                "e character(4)",
                "v integer",
            ],
            5,
        )
    };
    let key = ["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "x'y", "2026-11-21 22:00:00+00", "1.50", "ab  "];
    let row: Vec<&str> = key.iter().copied().chain(["1"]).collect();
    let rekeyed = Effect::Update {
        table: 0,
        key: values(&key),
        set: vec![(1, Some("new".into()))],
        old: Vec::new(),
        row: Some(values(&row)),
    };
    outpost.commit(entry("postgres", vec![k()], vec![insert(&row), update(&key, &[(5, "2")]), rekeyed])).await;
    let replayer = outpost.replay();
    outpost.drained().await;
    assert_eq!(outpost.texts("SELECT b || v FROM k").await, ["new2"]);
    assert_eq!(replayer.stop().await.conflicts_total, 0);
}

/// Replays `count` pgbench-like entries (three updates and an insert) over a link; returns the entries per second.
async fn measured(label: &str, round_trip: Duration, count: usize) -> f64 {
    let outpost = Outpost::start(label, T).await;
    outpost
        .database
        .main()
        .await
        .batch_execute("INSERT INTO t SELECT g, 0, NULL FROM generate_series(0, 999) g")
        .await
        .unwrap();
    for n in 0..count {
        let id = (n * 7 % 1000).to_string();
        let other = (n * 13 % 1000).to_string();
        let effects = vec![
            update(&[&id], &[(1, "5")]),
            update(&[&other], &[(1, "6")]),
            update(&["1"], &[(1, &n.to_string())]),
            Effect::Insert { table: 1, row: values(&[&id, "1"]) },
        ];
        outpost.commit(entry("postgres", vec![t(), history()], effects)).await;
    }
    outpost.link.delay(round_trip).unwrap();
    let mut replayer = outpost.replay();
    let begun = Instant::now();
    outpost.drained().await;
    let rate = count as f64 / begun.elapsed().as_secs_f64();
    replayer.until(|status| status.applied_total == count as u64).await;
    assert_eq!(outpost.texts("SELECT count(*)::text FROM history").await, [count.to_string()]);
    replayer.stop().await;
    rate
}

#[tokio::test]
async fn round_trips_do_not_add_up() {
    let slow = measured("slow", Duration::from_millis(150), 4_000).await;
    eprintln!("150 ms round trip: {slow:.0} entries/s");
    // One at a time would be 1.5 to 7 a second.
    assert!(slow > 400.0, "{slow}");
}

#[tokio::test]
#[ignore = "a measurement"]
async fn speed() {
    for (label, millis) in [("speed_a", 0), ("speed_b", 150)] {
        let rate = measured(label, Duration::from_millis(millis), 20_000).await;
        eprintln!("{millis} ms round trip: {rate:.0} entries/s");
    }
}
