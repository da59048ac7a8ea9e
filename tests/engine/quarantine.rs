//! What becomes of entries that main rejected, and of those that build upon them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lab::Link;
use pgoutpost::buffer::{Fate, Quarantined, Which};
use pgoutpost::entry::{Effect, Entry, EntryTable, Seq};
use pgoutpost::replay::{OnReject, ReplayState};

use crate::harness::{Outpost, entry, insert, table, update, values};

/// `n` must be 0 or more; `history` tells what was done twice.
const SCHEMA: &str = "CREATE TABLE parent(id int PRIMARY KEY, n int CHECK (n >= 0), code text UNIQUE);
    CREATE TABLE child(id int PRIMARY KEY, parent int REFERENCES parent);
    CREATE TABLE history(id int)";

fn parent() -> EntryTable {
    table("parent", &["id integer", "n integer", "code text"], 1)
}

fn child() -> EntryTable {
    table("child", &["id integer", "parent integer"], 1)
}

fn of_parent(effects: Vec<Effect>) -> Entry {
    entry("postgres", vec![parent()], effects)
}

fn of_child(id: &str, parent: &str) -> Entry {
    entry("postgres", vec![child()], vec![insert(&[id, parent])])
}

/// A row of `parent` that counts how often it was made, too.
fn counted(id: &str, n: &str) -> Entry {
    let history = Effect::Insert { table: 1, row: values(&[id]) };
    entry("postgres", vec![parent(), table("history", &["id integer"], 0)], vec![insert(&[id, n, "NULL"]), history])
}

fn message(record: &Quarantined) -> &str {
    record.error["message"].as_str().unwrap()
}

#[tokio::test]
async fn what_depends_waits_and_says_for_whom_and_why() {
    let outpost = Outpost::start("depends", SCHEMA).await;
    let main = outpost.database.main().await;
    main.batch_execute("INSERT INTO parent VALUES (50, 1, 'old'), (60, 1, 'sixty'); INSERT INTO child VALUES (6, 60)")
        .await
        .unwrap();
    // 1: rejected. It makes parent 1, frees the code 'old', and takes child 6 away from parent 60.
    let freed = Effect::Update {
        table: 0,
        key: values(&["50"]),
        set: vec![(2, Some("new".into()))],
        old: vec![(2, Some("old".into()))],
        row: None,
        own: Vec::new(),
    };
    let unreferred = Effect::Update {
        table: 1,
        key: values(&["6"]),
        set: vec![(1, None)],
        old: vec![(1, Some("60".into()))],
        row: None,
        own: Vec::new(),
    };
    let bad = entry("postgres", vec![parent(), child()], vec![insert(&["1", "-5", "a"]), freed, unreferred]);
    outpost.commit(bad).await;
    outpost.commit(of_child("1", "1")).await; // 2: refers to its row
    outpost.commit(of_parent(vec![insert(&["2", "1", "old"])])).await; // 3: uses what it freed
    outpost.commit(of_child("2", "2")).await; // 4: refers to 3's row
    outpost.commit(of_parent(vec![update(&["1"], &[(1, "7")])])).await; // 5: writes its row
    let gone = Effect::Delete { table: 0, key: values(&["60"]), old: values(&["60", "1", "sixty"]) };
    outpost.commit(of_parent(vec![gone])).await; // 6: removes what it stopped referring to
    outpost.commit(of_parent(vec![insert(&["3", "1", "c"]), update(&["50"], &[(1, "2")])])).await; // 7: writes its row 50
    outpost.commit(of_parent(vec![insert(&["4", "1", "d"])])).await; // 8: nothing of the kind
    outpost.commit(of_child("4", "4")).await; // 9
    let replayer = outpost.replay();
    outpost.drained().await;
    let records = outpost.buffer.quarantined().await.unwrap();
    let waits: Vec<(u64, Option<u64>)> =
        records.iter().map(|record| (record.seq.0, record.waits_for.map(|seq| seq.0))).collect();
    assert_eq!(waits, [(1, None), (2, Some(1)), (3, Some(1)), (4, Some(3)), (5, Some(1)), (6, Some(1)), (7, Some(1))]);
    for (record, why) in records[1..].iter().zip([
        "it refers to (id)=(1) of public.parent, which entry 1, in quarantine, took or freed",
        "it uses (code)=(old) of public.parent, which entry 1, in quarantine, took or freed",
        "it refers to (id)=(2) of public.parent, which entry 3, in quarantine, took or freed",
        "it writes the row (1) of public.parent, which entry 1, in quarantine, wrote",
        "it removes (id)=(60) of public.parent, which entry 1, in quarantine, stopped referring to",
        "it writes the row (50) of public.parent, which entry 1, in quarantine, wrote",
    ]) {
        assert_eq!(message(record), why);
    }
    assert_eq!(outpost.texts("SELECT string_agg(id::text, ' ' ORDER BY id) FROM parent").await, ["4 50 60"]);
    // What an operator needs: main's error, and main's rows.
    let rejected = &records[0];
    assert_eq!((&rejected.error["code"], &rejected.error["constraint"]), (&"23514".into(), &"parent_n_check".into()));
    assert!(rejected.error["advice"].as_str().unwrap().contains("RETRY"));
    let row = |n: usize| &rejected.rows_on_main[n];
    assert_eq!((&row(0)["table"], &row(0)["rows"]), (&"public.parent".into(), &serde_json::json!([])));
    let found = rejected.rows_on_main.iter().find(|row| row["by"]["id"] == "50").unwrap();
    assert_eq!(found["rows"][0], serde_json::json!({"id": 50, "n": 1, "code": "old"}));

    // Mended on main, and all sent again in their order.
    main.batch_execute("ALTER TABLE parent DROP CONSTRAINT parent_n_check").await.unwrap();
    let again = outpost.buffer.retry(Which::One(Seq(1)), "anna").await.unwrap();
    assert_eq!(again.iter().map(|(old, _)| old.0).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6, 7]);
    outpost.drained().await;
    assert_eq!(
        outpost.texts("SELECT string_agg(id || ':' || n || ':' || code, ' ' ORDER BY id) FROM parent").await,
        ["1:7:a 2:1:old 3:1:c 4:1:d 50:2:new"]
    );
    assert_eq!(outpost.texts("SELECT string_agg(id::text, ' ' ORDER BY id) FROM child").await, ["1 2 4 6"]);
    replayer.stop().await;
    outpost.replay().stop().await;
    assert!(outpost.buffer.quarantined().await.unwrap().is_empty());
    let records = outpost.buffer.quarantine_records().await.unwrap();
    assert!(records.iter().all(|record| matches!(record.fate, Fate::Retried { .. })), "{records:?}");
    assert_eq!((&*records[0].acts[0].by, &*records[0].acts[0].what), ("anna", "retry"));
}

/// Transactions are under way that main refuses, while it is asked about the statements of the next: whoever waits for that
/// answer takes those before it.
#[tokio::test]
async fn what_is_asked_of_main_does_not_wait_behind_answers_that_nobody_takes() {
    let mut outpost = Outpost::start("behind", SCHEMA).await;
    outpost.answers_come_in_crumbs().await;
    for id in ["1", "2", "3"] {
        outpost.commit(of_parent(vec![insert(&[id, "-5", "a"]), update(&["50"], &[(1, "2")])])).await;
        outpost.commit(of_child(id, id)).await;
        outpost.commit(counted(id, "-1")).await;
    }
    let replayer = outpost.replay();
    outpost.drained().await;
    assert_eq!(outpost.buffer.quarantined().await.unwrap().len(), 9);
    assert_eq!(replayer.stop().await.connections_total, 1, "replay took main's silence for its end");
}

#[tokio::test]
async fn a_crash_between_any_two_steps_of_a_retry_repeats_and_loses_nothing() {
    let mut outpost = Outpost::start("retrykill", SCHEMA).await;
    let main = outpost.database.main().await;
    for round in 0..14 {
        let id = round.to_string();
        main.batch_execute("ALTER TABLE parent ADD CONSTRAINT positive CHECK (n >= 1000 OR n < 500) NOT VALID")
            .await
            .unwrap();
        outpost.commit(counted(&id, "700")).await;
        outpost.commit(of_parent(vec![update(&[&id], &[(1, "800")])])).await;
        let replayer = outpost.replay();
        outpost.drained().await;
        assert_eq!(outpost.buffer.quarantined().await.unwrap().len(), 2, "round {round}");
        main.batch_execute("ALTER TABLE parent DROP CONSTRAINT positive").await.unwrap();
        outpost.dies_after(round);
        let buffer = outpost.buffer.clone();
        let retry = tokio::spawn(async move { buffer.retry(Which::All, "anna").await });
        tokio::time::sleep(std::time::Duration::from_millis(120)).await;
        retry.abort();
        replayer.kill();
        outpost.restart().await;
        // Half of the time the operator asks again before replay looks.
        let early = round % 2 == 0;
        if early {
            outpost.buffer.retry(Which::All, "anna").await.unwrap();
        }
        let replayer = outpost.replay();
        outpost.drained().await;
        if !early {
            outpost.buffer.retry(Which::All, "anna").await.unwrap();
        }
        let mut tries = 0;
        while !outpost.buffer.quarantined().await.unwrap().is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            tries += 1;
            assert!(tries < 500, "round {round}: {:?}", outpost.buffer.quarantined().await.unwrap());
        }
        outpost.drained().await;
        let found = "SELECT count(*) || ' ' || (SELECT count(*) FROM history) || ' ' || count(*) FILTER (WHERE n = 800) FROM parent";
        let rows = round + 1;
        assert_eq!(outpost.texts(found).await, [format!("{rows} {rows} {rows}")], "round {round}");
        replayer.stop().await;
    }
}

/// What a daemon has under way when another takes its buffer over: main does not listen to it any more, so what the other
/// puts aside is not applied behind its back.
#[tokio::test]
async fn what_a_new_daemon_puts_aside_an_old_one_does_not_apply() {
    let mut outpost = Outpost::start(
        "takeover",
        "CREATE TABLE parent(id int PRIMARY KEY);
        CREATE TABLE visit(parent int REFERENCES parent); INSERT INTO parent VALUES (1)",
    )
    .await;
    let visit = |parent: &str| entry("postgres", vec![table("visit", &["parent integer"], 0)], vec![insert(&[parent])]);
    outpost.commit(visit("1")).await;
    let mut old = outpost.replay();
    outpost.drained().await;
    old.until(|status| status.state == ReplayState::Idle).await;
    // All it needs to know of main it knows: this is under way at once, and for long.
    let slow = Duration::from_secs(5);
    outpost.link.delay(slow * 2).unwrap();
    outpost.commit(visit("7")).await;
    let arrives = Instant::now() + slow;
    old.until(|status| status.state == ReplayState::Replaying).await;

    let new = Link::start(lab::port::free_port().unwrap(), outpost.database.main_port).unwrap();
    let _old = std::mem::replace(&mut outpost.link, Arc::new(new));
    outpost.restart().await;
    let held = outpost.hold_quarantine().await;
    let new = outpost.replay();
    let main = outpost.database.main().await;
    outpost.put_aside().await;
    main.batch_execute("INSERT INTO parent VALUES (7)").await.unwrap();
    tokio::time::sleep_until((arrives + Duration::from_secs(1)).into()).await;
    drop(held);
    outpost.drained().await;
    assert_eq!(outpost.buffer.quarantined().await.unwrap().len(), 1);
    assert_eq!(outpost.texts("SELECT count(*)::text FROM visit WHERE parent = 7").await, ["0"]);
    outpost.buffer.retry(Which::All, "anna").await.unwrap();
    outpost.drained().await;
    assert_eq!(outpost.texts("SELECT count(*)::text FROM visit WHERE parent = 7").await, ["1"]);
    old.kill();
    new.stop().await;
}

#[tokio::test]
async fn a_retry_that_fails_again_is_a_new_record_and_its_dependents_wait_in_order() {
    let outpost = Outpost::start("retryfails", SCHEMA).await;
    outpost.commit(of_parent(vec![insert(&["1", "-1", "a"])])).await;
    outpost.commit(of_parent(vec![update(&["1"], &[(2, "b")])])).await;
    outpost.commit(of_parent(vec![update(&["1"], &[(2, "c")])])).await;
    let replayer = outpost.replay();
    outpost.drained().await;
    // A dependent alone cannot go.
    let error = outpost.buffer.retry(Which::One(Seq(2)), "anna").await.unwrap_err();
    assert!(error.report().hint.unwrap().contains("RETRY 1"));
    let again = outpost.buffer.retry(Which::One(Seq(1)), "anna").await.unwrap();
    assert_eq!(again, [(Seq(1), Seq(4)), (Seq(2), Seq(5)), (Seq(3), Seq(6))]);
    outpost.drained().await;
    let open = outpost.buffer.quarantined().await.unwrap();
    let waits: Vec<_> =
        open.iter().map(|one| (one.seq.0, one.waits_for.map(|seq| seq.0), one.entry.place().0)).collect();
    assert_eq!(waits, [(4, None, 1), (5, Some(4), 2), (6, Some(4), 3)]);
    // The first is given up: then the second is refused by nobody, but finds nothing.
    outpost.buffer.skip(Seq(4), "berta").await.unwrap();
    assert!(outpost.buffer.skip(Seq(4), "berta").await.is_err());
    assert!(outpost.buffer.retry(Which::One(Seq(4)), "berta").await.is_err());
    assert!(outpost.buffer.retry(Which::One(Seq(99)), "berta").await.is_err());
    outpost.buffer.retry(Which::All, "berta").await.unwrap();
    outpost.drained().await;
    assert_eq!(replayer.stop().await.conflicts_total, 2);
    // Main restored to before all of it: what was decided stays decided.
    let main = outpost.database.main().await;
    main.batch_execute("UPDATE pgoutpost.ledger SET seq = 0, entry = NULL").await.unwrap();
    let replayer = outpost.replay();
    outpost.drained().await;
    assert_eq!(outpost.texts("SELECT count(*)::text FROM parent").await, ["0"]);
    assert!(outpost.buffer.quarantined().await.unwrap().is_empty());
    replayer.stop().await;
}

#[tokio::test]
async fn many_rejections_in_a_row_are_not_quadratic() {
    let outpost = Outpost::start("thousands", SCHEMA).await;
    let begun = std::time::Instant::now();
    for id in 0..800 {
        outpost.commit(of_parent(vec![insert(&[&id.to_string(), "-1", "NULL"])])).await;
    }
    outpost.commit(of_parent(vec![insert(&["5000", "1", "NULL"])])).await;
    let replayer = outpost.replay();
    outpost.drained().await;
    // Each is looked at when the ledger goes past it, and no other.
    let read = outpost.asides_read();
    assert!(read <= 1600, "800 rejections read {read} records");
    assert_eq!(outpost.buffer.quarantined().await.unwrap().len(), 800);
    assert_eq!(outpost.texts("SELECT count(*)::text FROM parent").await, ["1"]);
    assert_eq!(replayer.status.borrow().applied_total, 1, "rejected ones do not count");
    let took = begun.elapsed();
    eprintln!("800 rejections: {took:?}");
    assert!(took < std::time::Duration::from_secs(50), "{took:?}");
    // Nor are decisions: what is not decided is not looked at again.
    let read = outpost.asides_read();
    for seq in 1..=20 {
        outpost.buffer.skip(Seq(seq), "anna").await.unwrap();
        outpost.commit(of_parent(vec![insert(&[&(6000 + seq).to_string(), "1", "NULL"])])).await;
        outpost.drained().await;
    }
    let read = outpost.asides_read() - read;
    assert!(read <= 40, "20 decisions read {read} records");
    outpost.commit(of_parent(vec![update(&["5"], &[(1, "1")]), update(&["700"], &[(1, "1")])])).await;
    outpost.drained().await;
    let last = outpost.buffer.quarantined().await.unwrap().pop().unwrap();
    assert_eq!(message(&last), "it writes the row (700) of public.parent, which entry 701, in quarantine, wrote");
    replayer.stop().await;
}

/// The record says that it was skipped, and who skipped it heard nothing: the second time it is told, and counts.
#[tokio::test]
async fn a_skip_whose_answer_was_lost_counts_when_it_is_learned() {
    let outpost = Outpost::start("lost_skip", SCHEMA).await;
    outpost.commit(of_parent(vec![insert(&["1", "-1", "NULL"])])).await;
    let replayer = outpost.replay();
    outpost.drained().await;
    outpost.lose_next_answer();
    outpost.buffer.skip(Seq(1), "anna").await.unwrap_err();
    let second = outpost.buffer.skip(Seq(1), "anna").await.unwrap_err().to_string();
    assert!(second.contains("skipped already"), "{second}");
    outpost.commit(of_parent(vec![update(&["1"], &[(1, "5")])])).await;
    outpost.drained().await;
    assert_eq!(outpost.buffer.quarantined().await.unwrap(), [], "nothing waits for what was skipped");
    replayer.stop().await;
}

#[tokio::test]
async fn halting_instead_of_putting_aside() {
    let mut outpost = Outpost::start("onreject", SCHEMA).await;
    outpost.config.on_reject = OnReject::Halt;
    outpost.commit(of_parent(vec![insert(&["1", "1", "a"])])).await;
    outpost.commit(of_parent(vec![insert(&["2", "-1", "b"])])).await;
    outpost.commit(of_parent(vec![insert(&["3", "1", "c"])])).await;
    let mut replayer = outpost.replay();
    let status = replayer.until(|status| status.state == ReplayState::Halted).await;
    assert!(status.last_error.unwrap().contains("main rejected entry 2"));
    assert_eq!(outpost.texts("SELECT string_agg(id::text, ' ') FROM parent").await, ["1"]);
    assert!(outpost.buffer.quarantined().await.unwrap().is_empty());
    outpost.database.main().await.batch_execute("ALTER TABLE parent DROP CONSTRAINT parent_n_check").await.unwrap();
    outpost.drained().await;
    assert_eq!(outpost.texts("SELECT string_agg(id::text, ' ') FROM parent").await, ["1 2 3"]);
    replayer.stop().await;
}

#[tokio::test]
async fn what_may_pass_is_never_a_rejection_however_often() {
    // Two hundred times in a row, each kind in turn; a sequence counts on when its transaction is rolled back.
    let schema = "CREATE TABLE parent(id int PRIMARY KEY, n int, code text); CREATE SEQUENCE tries;
        CREATE FUNCTION busy() RETURNS trigger LANGUAGE plpgsql AS $$ DECLARE try int := nextval('tries'); BEGIN
            IF try <= 200 THEN
                RAISE 'busy' USING ERRCODE = (ARRAY['40P01', '55P03', '40001', '57014', '53300', '53100'])[1 + try % 6];
            END IF;
            RETURN NEW; END $$;
        CREATE TRIGGER busy BEFORE INSERT ON parent FOR EACH ROW EXECUTE FUNCTION busy()";
    let mut outpost = Outpost::start("passing", schema).await;
    outpost.config.retry_delay = std::time::Duration::from_millis(1);
    outpost.config.retry_delay_max = std::time::Duration::from_millis(2);
    for id in 0..5 {
        outpost.commit(of_parent(vec![insert(&[&id.to_string(), "1", "a"])])).await;
    }
    let mut replayer = outpost.replay();
    replayer.until(|status| status.last_error.as_deref().is_some_and(|error| error.contains("look at pg_locks"))).await;
    outpost.drained().await;
    assert_eq!(outpost.texts("SELECT count(*)::text FROM parent").await, ["5"]);
    assert!(outpost.buffer.quarantine_records().await.unwrap().is_empty());
    let status = replayer.stop().await;
    assert!(status.rejected_total == 0 && status.retries_total >= 100, "{status:?}");
}
