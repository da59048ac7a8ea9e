//! What an operator does about rejected transactions: by console and by command line, and what clients see meanwhile.

use std::process::Output;

use super::stage::{Stage, binary, eventually, execute, repository, rows, run, succeeded, try_rows, value};

const SCHEMA: &str =
    "CREATE TABLE t(id int PRIMARY KEY, n int, twice int GENERATED ALWAYS AS (n * 2) STORED, note text)";

async fn pgoutpost(stage: &Stage, arguments: &[&str]) -> Output {
    let mut command = tokio::process::Command::new(binary());
    command.args(arguments).arg("--config").arg(repository("proxy.toml")).current_dir(std::env::temp_dir());
    let address = stage.outpost.url();
    let address = address.split('@').next_back().unwrap().split('/').next().unwrap().to_owned();
    command.env("PGOUTPOST__LISTEN__ADDRESS", address).env("USER", "anna").kill_on_drop(true);
    command.output().await.unwrap()
}

/// Two transactions that main rejects, as long as its trigger is there; and one that depends on the first.
async fn rejected(stage: &Stage) {
    stage.cut();
    // Triggers act on main only.
    let trigger = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF NEW.n >= 100 THEN RAISE 'too large' USING ERRCODE = 'check_violation', CONSTRAINT = 'small'; END IF;
        RETURN NEW; END $$; CREATE TRIGGER small BEFORE INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION refuse()";
    execute(&stage.main().await, trigger).await;
    let client = stage.client().await;
    execute(&client, "INSERT INTO t (id, n, note) VALUES (1, 700, 'it''s \\ a -- \"note\"')").await;
    execute(&client, "UPDATE t SET n = n + 1 WHERE id = 1").await;
    execute(&client, "INSERT INTO t (id, n) VALUES (2, 800)").await;
    execute(&client, "INSERT INTO t (id, n) VALUES (3, 5)").await;
    stage.heal();
    stage.replayed().await;
}

#[tokio::test]
async fn an_operator_looks_retries_skips_and_exports() {
    let stage = Stage::shared("quarantine", SCHEMA).await;
    rejected(&stage).await;
    let (console, client, main) = (stage.console().await, stage.client().await, stage.main().await);
    let listed = rows(&console, "SHOW QUARANTINE").await;
    assert_eq!(listed.iter().map(|row| row[0].as_deref().unwrap()).collect::<Vec<_>>(), ["1", "2", "3"]);
    // Hidden.
    eventually("reads show main", async || value(&client, "SELECT string_agg(id::text, ' ') FROM t").await == "3")
        .await;

    let full = rows(&console, "SHOW QUARANTINE 1").await;
    let field = |name: &str| full.iter().find(|row| row[0].as_deref() == Some(name)).and_then(|row| row[1].clone());
    assert_eq!(field("error.constraint").as_deref(), Some("small"));
    assert!(field("statement").unwrap().contains("700") && field("row_on_main").is_some(), "{full:?}");
    // What describes a statement must not do it: the extended protocol.
    assert!(console.prepare("SKIP 1").await.unwrap().columns().is_empty());
    let sql = succeeded(&pgoutpost(&stage, &["quarantine", "export", "2"]).await);
    assert!(sql.contains("UPDATE \"public\".\"t\" SET \"n\" = (\"n\" OPERATOR(pg_catalog.+) '1'::integer)"), "{sql}");
    for (arguments, told) in [
        (vec!["quarantine", "retry", "2"], "waits for entry 1"),
        (vec!["quarantine", "skip", "99"], "not in quarantine"),
        (vec!["quarantine", "retry", "x"], "expected the number"),
    ] {
        let output = pgoutpost(&stage, &arguments).await;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains(told), "{arguments:?}: {text}");
    }

    // Exported, run by hand on main, given up here.
    execute(&main, "DROP TRIGGER small ON t").await;
    let file = std::env::temp_dir().join(format!("pgoutpost-export-{}.sql", std::process::id()));
    std::fs::write(&file, succeeded(&pgoutpost(&stage, &["quarantine", "export", "3"]).await)).unwrap();
    let psql = lab::postgres::binary("psql").unwrap();
    let by_hand = ["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", &stage.site.main_url, "-f", file.to_str().unwrap()];
    succeeded(&run(&psql, &by_hand).await);
    std::fs::remove_file(&file).unwrap();
    succeeded(&pgoutpost(&stage, &["quarantine", "skip", "3"]).await);
    assert!(try_rows(&console, "SKIP 3").await.is_err());

    // The others are sent again; they show at once, and then on main.
    let sent = succeeded(&pgoutpost(&stage, &["quarantine", "retry", "all"]).await);
    assert!(sent.contains("sent_again_as_seq"), "{sent}");
    let wanted = "1:701:1402 2:800:1600 3:5:10";
    let all = "SELECT string_agg(concat_ws(':', id, n, twice), ' ' ORDER BY id) FROM t";
    stage.drain().await;
    assert_eq!(value(&main, all).await, wanted);
    assert_eq!(value(&client, all).await, wanted);
    assert_eq!(value(&main, "SELECT note FROM t WHERE id = 1").await, "it's \\ a -- \"note\"");
    let mut audit = rows(&console, "SHOW AUDIT").await;
    // What is about main itself names no entry.
    audit.retain(|row| row[3].is_some());
    let said: Vec<(&str, &str)> =
        audit.iter().map(|row| (row[2].as_deref().unwrap(), row[3].as_deref().unwrap())).collect();
    assert_eq!(said, [("skip", "3"), ("retry", "1"), ("retry", "2")]);
    assert!(audit.iter().all(|row| row[1].as_deref().unwrap().starts_with("anna@")), "{audit:?}");
}

#[tokio::test]
async fn quarantined_rows_are_still_shown_when_that_is_wanted() {
    let settings = |options: lab::outpost::OutpostOptions| options.setting("REPLAY__QUARANTINED_READS", "show");
    let stage = Stage::shared_with("quarantine_show", SCHEMA, settings).await;
    rejected(&stage).await;
    let (client, console) = (stage.client().await, stage.console().await);
    let replica = stage.site.replica().await.unwrap();
    eventually("the replica has every entry", async || stage.ledger(&replica).await >= 4).await;
    let all = "SELECT string_agg(id || ':' || n, ' ' ORDER BY id) FROM t";
    assert_eq!(value(&client, all).await, "1:701 2:800 3:5");
    execute(&client, "UPDATE t SET note = 'seen' WHERE id = 1").await;
    assert_eq!(value(&client, "SELECT note FROM t WHERE id = 1").await, "seen");
    stage.replayed().await;
    eventually("it waits as well", async || rows(&console, "SHOW QUARANTINE").await.len() == 4).await;
    for seq in [1, 2, 3, 5] {
        execute(&console, &format!("SKIP {seq}")).await;
    }
    eventually("given up, and gone", async || value(&client, all).await == "3:5").await;
}
