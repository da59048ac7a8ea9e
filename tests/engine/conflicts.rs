//! Main written by others at the same time: what each policy makes of it.

use std::time::{Duration, Instant};

use pgoutpost::entry::{Effect, EntryTable, Value};
use pgoutpost::replay::{Outcome, Policy, ReplayStatus, keep_conflicts, trim_conflicts};
use tokio_util::sync::CancellationToken;

use crate::cluster::role;
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
    Effect::Update { table: 0, key: values(&[id]), set, old, row: None, own: Vec::new() }
}

fn delete(old: &[&str]) -> Effect {
    Effect::Delete { table: 0, key: values(&old[..1]), old: values(old) }
}

fn counted(status: &ReplayStatus, outcome: Outcome) -> u64 {
    status.conflicts.get(&("public.t".to_owned(), outcome)).copied().unwrap_or_default()
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

/// The log on main: `seq table key outcome | old | mine | theirs`.
const LOG: &str = "SELECT concat_ws(' | ', concat_ws(' ', seq, table_name, key, outcome), coalesce(old::text, '-'),
    coalesce(mine::text, '-'), coalesce(theirs::text, '-')) FROM pgoutpost.conflict ORDER BY seq, effect, key::text";

const ALL: &str = "SELECT string_agg(concat_ws(':', id, coalesce(n::text, 'NULL'), note), ' ' ORDER BY id) FROM t";

#[tokio::test]
async fn the_last_write_wins_unless_told_otherwise() {
    let outpost = play("lastwrite", None).await;
    let replayer = outpost.replay();
    outpost.drained().await;
    assert_eq!(outpost.texts(ALL).await, ["1:2.25:main 2:2.25:main 3:2.25:main 6:1.50:main 7:8:site"]);
    let quarantined = outpost.buffer.quarantined().await.unwrap();
    assert_eq!(quarantined.iter().map(|one| one.error["code"].as_str().unwrap()).collect::<Vec<_>>(), ["23505"]);
    let row = r#"{"n": "1.50", "id": "4", "doc": "{\"a\": 1}", "note": "main"}"#;
    assert_eq!(
        outpost.texts(LOG).await,
        [
            r#"2 t {"id": "2"} overwritten | {"n": "1.50"} | {"n": "2.25"} | {"n": "9"}"#.to_owned(),
            r#"3 t {"id": "3"} overwritten | {"n": "1.50"} | {"n": "2.25"} | {"n": null}"#.to_owned(),
            format!(r#"4 t {{"id": "4"}} overwritten | {row} | - | {}"#, row.replace("1.50", "9")),
            concat!(
                r#"6 t {"id": "6"} quarantined | - | {"n": "7", "id": "6", "doc": null, "note": "site"} | "#,
                r#"{"n": 1.5, "id": 6, "doc": {"a": 1}, "note": "main"}"#
            )
            .to_owned(),
        ]
    );
    let status = replayer.stop().await;
    assert_eq!((counted(&status, Outcome::Overwritten), counted(&status, Outcome::Quarantined)), (3, 1));
}

#[tokio::test]
async fn main_wins_where_it_is_told_to() {
    let outpost = play("mainwins", Some(Policy::MainWins)).await;
    let replayer = outpost.replay();
    outpost.drained().await;
    assert_eq!(outpost.texts(ALL).await, ["1:2.25:main 2:9:main 3:NULL:main 4:9:main 6:1.50:main 7:8:site"]);
    assert!(outpost.buffer.quarantined().await.unwrap().is_empty());
    let log = outpost.texts(LOG).await;
    assert_eq!(log[0], r#"2 t {"id": "2"} kept | {"n": "1.50"} | {"n": "2.25"} | {"n": "9"}"#);
    let insert =
        r#"6 t {"id": "6"} kept | {} | {"n": "7", "id": "6", "doc": null, "note": "site"} | {"n": "1.50", "id": "6", "#;
    assert!(log.len() == 4 && log[3].starts_with(insert), "{log:?}");
    let status = replayer.stop().await;
    assert_eq!((status.conflicts_total, counted(&status, Outcome::Kept)), (4, 4));
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
    let log = outpost.texts(LOG).await;
    assert_eq!(log[0], r#"2 t {"id": "2"} quarantined | {"n": "1.50"} | {"n": "2.25"} | {"n": "9"}"#);
    assert_eq!(log.len(), 4);
    assert_eq!(counted(&replayer.stop().await, Outcome::Quarantined), 4);
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

/// Values that are compared by what Postgres prints: nothing here has changed, whatever its type.
#[tokio::test]
async fn what_has_not_changed_is_no_conflict() {
    let long = "ü".repeat(300);
    let kinds = [
        ("character(5)", "ab   "),
        ("\"char\"", "x"),
        ("integer[]", "{1,NULL,3}"),
        ("public.pair", "(,)"),
        ("public.pair[]", "{\"(1,)\"}"),
        ("json", "{\"a\" :  1}"),
        ("double precision", "0.1"),
        ("bytea", "\\x00ff"),
        ("timestamp with time zone", "2026-11-21 22:00:00.5+00"),
        ("interval", "1 day 02:00:00"),
        ("text", long.as_str()),
        ("text", "NULL"),
        ("boolean", "t"),
        ("point", "(1,2)"),
    ];
    let columns: Vec<String> = kinds.iter().enumerate().map(|(n, (kind, _))| format!("c{n} {kind}")).collect();
    let schema =
        format!("CREATE TYPE pair AS (a int, b int); CREATE TABLE t(id int PRIMARY KEY, {})", columns.join(", "));
    let outpost = Outpost::start("unchanged", &schema).await;
    let other = format!("ALTER DATABASE \"{}\" SET bytea_output = 'escape'", outpost.database.name);
    outpost.database.main().await.batch_execute(&other).await.unwrap();
    let described: Vec<String> = std::iter::once("id integer".to_owned()).chain(columns).collect();
    let described: Vec<&str> = described.iter().map(String::as_str).collect();
    let row: Vec<&str> = std::iter::once("1").chain(kinds.iter().map(|(_, text)| *text)).collect();
    let all = || (1..row.len()).map(|place| (place, value(row[place]))).collect::<Vec<_>>();
    let t = || vec![table("t", &described, 1)];
    outpost.commit(entry("postgres", t(), vec![insert(&row)])).await;
    let update = Effect::Update { table: 0, key: values(&["1"]), set: all(), old: all(), row: None, own: Vec::new() };
    outpost.commit(entry("postgres", t(), vec![update])).await;
    outpost.commit(entry("postgres", t(), vec![delete(&row)])).await;
    // And a long value that has.
    outpost.commit(entry("postgres", t(), vec![insert(&row)])).await;
    let (set, old) = (vec![(11, value("mine"))], vec![(11, value(&"u".repeat(300)))]);
    let update = Effect::Update { table: 0, key: values(&["1"]), set, old, row: None, own: Vec::new() };
    outpost.commit(entry("postgres", t(), vec![update])).await;
    let replayer = outpost.replay();
    outpost.drained().await;
    assert!(outpost.buffer.quarantined().await.unwrap().is_empty());
    let differ =
        "SELECT concat_ws(' ', seq, o.key, o.value, theirs -> o.key) FROM pgoutpost.conflict, jsonb_each(old) o
        WHERE o.value <> theirs -> o.key AND o.key <> 'c10'";
    assert_eq!(outpost.texts(differ).await, Vec::<String>::new());
    let log = "SELECT concat_ws(' ', seq, length(old #>> '{c10,sha256}'), mine, length(theirs ->> 'c10')) FROM pgoutpost.conflict";
    assert_eq!(outpost.texts(log).await, ["5 64 {\"c10\": \"mine\"} 300"]);
    replayer.stop().await;
}

/// Rows of a table that refers to itself go in one statement, whatever the policy.
#[tokio::test]
async fn rows_that_refer_to_each_other_go_together_under_each_policy() {
    for (label, policy, expected) in [
        ("treelast", Policy::LastWriteWins, "10: 11:10"),
        ("treemain", Policy::MainWins, "10: 11:10"),
        ("treereject", Policy::Reject, "10: 11:10"),
    ] {
        let schema = "CREATE TABLE t(id int PRIMARY KEY, parent int REFERENCES t, note text);
            INSERT INTO t VALUES (1, NULL, 'a'), (2, 1, 'a'), (3, 2, 'a')";
        let mut outpost = Outpost::start(label, schema).await;
        outpost.config.conflicts.insert("public.t".to_owned(), policy);
        let t = || vec![table("t", &["id integer", "parent integer", "note text"], 1)];
        let gone = [["1", "NULL", "a"], ["2", "1", "a"], ["3", "2", "a"]].map(|row| delete(&row)).to_vec();
        outpost.commit(entry("postgres", t(), gone)).await;
        // The child comes first.
        let come = vec![insert(&["11", "10", "b"]), insert(&["10", "NULL", "b"])];
        outpost.commit(entry("postgres", t(), come)).await;
        let replayer = outpost.replay();
        outpost.drained().await;
        let rows = "SELECT string_agg(concat(id, ':', parent), ' ' ORDER BY id) FROM t";
        assert_eq!(outpost.texts(rows).await, [expected], "{label}");
        assert_eq!(replayer.stop().await.conflicts_total, 0, "{label}");
    }
}

/// Two of three rows were changed on main; the third goes its way, or waits with them.
#[tokio::test]
async fn of_rows_that_go_together_only_those_changed_are_in_conflict() {
    for (label, policy, rows, outcomes) in [
        ("splitlast", Policy::LastWriteWins, "", vec!["1 overwritten", "2 overwritten"]),
        ("splitmain", Policy::MainWins, "1:main 2:main", vec!["1 kept", "2 kept"]),
        ("splitreject", Policy::Reject, "1:main 2:main 3:a", vec!["1 quarantined"]),
    ] {
        let schema = "CREATE TABLE t(id int PRIMARY KEY, parent int REFERENCES t, note text);
            INSERT INTO t VALUES (1, NULL, 'main'), (2, 1, 'main'), (3, 2, 'a')";
        let mut outpost = Outpost::start(label, schema).await;
        outpost.config.conflicts.insert("public.t".to_owned(), policy);
        let t = vec![table("t", &["id integer", "parent integer", "note text"], 1)];
        let gone = [["1", "NULL", "a"], ["2", "1", "a"], ["3", "2", "a"]].map(|row| delete(&row)).to_vec();
        outpost.commit(entry("postgres", t, gone)).await;
        let replayer = outpost.replay();
        outpost.drained().await;
        let left = "SELECT coalesce(string_agg(concat(id, ':', note), ' ' ORDER BY id), '') FROM t";
        assert_eq!(outpost.texts(left).await, [rows], "{label}");
        let log = "SELECT concat_ws(' ', key ->> 'id', outcome) FROM pgoutpost.conflict ORDER BY 1";
        assert_eq!(outpost.texts(log).await, outcomes, "{label}");
        replayer.stop().await;
    }
}

/// A trigger that waits for the end of the transaction runs for its own entry: as its role, and before the next one.
#[tokio::test]
async fn late_triggers_run_as_the_role_of_their_entry() {
    let schema = "CREATE TABLE t(id int PRIMARY KEY, n int); CREATE TABLE audit(id int, who text, rows bigint);
        CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO audit SELECT NEW.id, current_user, count(*) FROM t; RETURN NULL; END $$;
        CREATE CONSTRAINT TRIGGER note AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION note()";
    let outpost = Outpost::start("late", schema).await;
    let main = outpost.database.main().await;
    role(&main, "late_a").await;
    role(&main, "late_b").await;
    main.batch_execute("GRANT ALL ON t, audit TO late_a, late_b").await.unwrap();
    for (id, role) in [("1", "late_a"), ("2", "late_b"), ("3", "late_b"), ("4", "late_a")] {
        let t = table("t", &["id integer", "n integer"], 1);
        outpost.commit(entry(role, vec![t], vec![insert(&[id, "0"])])).await;
    }
    let replayer = outpost.replay();
    outpost.drained().await;
    assert_eq!(
        outpost.texts("SELECT concat_ws(' ', id, who, rows) FROM audit ORDER BY id").await,
        ["1 late_a 1", "2 late_b 2", "3 late_b 3", "4 late_a 4"]
    );
    replayer.stop().await;
}

/// Nobody but replay's own sessions writes the log, under whatever role they act.
#[tokio::test]
async fn the_log_is_closed_to_others() {
    let outpost = Outpost::start("closedlog", "").await;
    role(&outpost.database.main().await, "nosy").await;
    let client = outpost.database.user("nosy").await;
    for sql in [
        "SELECT * FROM pgoutpost.conflict",
        "SELECT pgoutpost.trim_conflicts('s', interval '0', 1)",
        "SELECT pgoutpost.log_rejected('s', 1, 0, ARRAY['a', 'b'], '{}', NULL, NULL, NULL, 'x')",
        "SELECT pgoutpost.log_conflicts('s', ARRAY['a', 'b'], 'main-wins', '{}', '{\"1\": [\"1.0\"]}', '{\"1\": 1}', NULL, NULL)",
    ] {
        let error = client.batch_execute(sql).await.unwrap_err();
        assert_eq!(error.code().map(tokio_postgres::error::SqlState::code), Some("42501"), "{sql}");
    }
}

#[tokio::test]
async fn old_lines_of_the_site_go() {
    let outpost = Outpost::start("oldlines", "").await;
    let main = outpost.database.main().await;
    let lines =
        "INSERT INTO pgoutpost.conflict (site, seq, effect, table_schema, table_name, key, outcome, role, logged_at)
        SELECT CASE WHEN i % 2 = 0 THEN 's' ELSE 'other' END, i, 0, 'public', 't', '{}', 'gone', 'postgres',
            now() - interval '1 day' * (3000 - i) FROM generate_series(1, 3000) i";
    main.batch_execute(lines).await.unwrap();
    let days = |days: u64| Duration::from_secs(days * 24 * 60 * 60);
    // More than one batch.
    assert_eq!(trim_conflicts(&main, "s", days(90)).await.unwrap(), 1455);
    assert_eq!(trim_conflicts(&main, "s", days(90)).await.unwrap(), 0);
    let left = "SELECT concat_ws(' ', site, count(*), min(seq)) FROM pgoutpost.conflict GROUP BY site ORDER BY site";
    assert_eq!(outpost.texts(left).await, ["other 1500 1", "s 45 2912"]);
    // The daemon's part does it by itself, and not with zero.
    for (retention, left) in [(days(0), "45"), (days(10), "5")] {
        let stop = CancellationToken::new();
        let (config, site) = (outpost.database.main.clone(), "s".to_owned());
        let part = tokio::spawn(keep_conflicts(config, site, retention, stop.clone()));
        let count = "SELECT count(*)::text FROM pgoutpost.conflict WHERE site = 's'";
        let until = Instant::now() + Duration::from_secs(30);
        while outpost.texts(count).await != [left] {
            assert!(Instant::now() < until, "{:?}", outpost.texts(count).await);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        stop.cancel();
        part.await.unwrap();
    }
}
