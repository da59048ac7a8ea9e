//! `pgoutpost fsck`, `export` and `import`: a buffer looked at, and carried elsewhere, on real servers.

use std::path::Path;
use std::process::Output;

use super::stage::{
    Kept, PATIENCE, Stage, binary, eventually, execute, over_both_buffers, repository, rows, succeeded, value,
};

over_both_buffers!(fsck_agrees_and_finds_what_disagrees, a_buffer_moves_and_loses_nothing);

const SCHEMA: &str = "CREATE TABLE item (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, label text NOT NULL UNIQUE);";

/// The program with the site's configuration, `buffer` being its buffer.
async fn pgoutpost(stage: &Stage, buffer: &str, arguments: &[&str]) -> Output {
    let site = &stage.site;
    let mut command = tokio::process::Command::new(binary());
    command.args(arguments).arg("--config").arg(repository("proxy.toml"));
    for (key, value) in [
        ("SITE__NAME", site.name.as_str()),
        ("MAIN__URL", &site.main_url),
        ("REPLICA__URL", &site.replica_url),
        ("BUFFER__URL", buffer),
    ] {
        command.env(format!("PGOUTPOST__{key}"), value);
    }
    tokio::time::timeout(PATIENCE, command.output()).await.expect("it does not end").unwrap()
}

/// What it printed, when it failed.
#[track_caller]
fn failed(output: &Output) -> String {
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{text}");
    text
}

async fn fsck_agrees_and_finds_what_disagrees(kept: Kept) {
    let stage = Stage::shared_on(kept, "fsck", SCHEMA).await;
    let client = stage.client().await;
    for label in ["a", "b", "c"] {
        execute(&client, &format!("INSERT INTO item (label) VALUES ('{label}')")).await;
    }
    stage.drain().await;
    stage.cut();
    execute(&client, "INSERT INTO item (label) VALUES ('d')").await;
    let url = stage.site.buffer_url.clone();
    // Beside the running daemon, with an entry pending.
    let text = succeeded(&pgoutpost(&stage, &url, &["fsck"]).await);
    assert!(text.contains("4, 1 to 4") && text.contains("main is at 3") && text.contains("lease"), "{text}");
    stage.outpost.kill9().unwrap();

    let main = stage.main().await;
    let set = async |seq: i64, entry: &str| {
        let sql =
            format!("UPDATE pgoutpost.ledger SET seq = {seq}, entry = {entry} WHERE site = '{}'", stage.site.name);
        main.batch_execute(&sql).await.unwrap();
        stage.site.wait_replica_caught_up().await.unwrap();
    };
    let entry = value(&main, &format!("SELECT entry FROM pgoutpost.ledger WHERE site = '{}'", stage.site.name)).await;
    set(9, "NULL").await;
    let text = failed(&pgoutpost(&stage, &url, &["fsck"]).await);
    assert!(text.contains("main has entries up to 9, the buffer ends at 4"), "{text}");
    set(3, "gen_random_uuid()").await;
    let text = failed(&pgoutpost(&stage, &url, &["fsck"]).await);
    assert!(text.contains("FAIL  same entry on main") && text.contains("same entry on the replica"), "{text}");
    set(3, &format!("'{entry}'")).await;
    succeeded(&pgoutpost(&stage, &url, &["fsck"]).await);
    main.batch_execute("SELECT setval('item_id_seq', 1)").await.unwrap();
    let text = failed(&pgoutpost(&stage, &url, &["fsck"]).await);
    assert!(text.contains("FAIL  lease") && text.contains("gives them out again"), "{text}");
    // What is leased of it is no more the sequence's, and is not handed out.
    main.batch_execute("ALTER SEQUENCE item_id_seq RESTART").await.unwrap();
    let text = succeeded(&pgoutpost(&stage, &url, &["fsck"]).await);
    assert!(text.contains("leased before it was made anew or restarted"), "{text}");
}

async fn a_buffer_moves_and_loses_nothing(kept: Kept) {
    let stage = Stage::shared_on(kept, "moves", SCHEMA).await;
    let client = stage.client().await;
    execute(&client, "INSERT INTO item (label) VALUES ('replayed')").await;
    stage.drain().await;
    stage.cut();
    for label in ["pending", "too"] {
        execute(&client, &format!("INSERT INTO item (label) VALUES ('{label}')")).await;
    }
    let folder = stage.site.folder.clone();
    let (file, url) = (folder.join(format!("{}.export", stage.site.name)), stage.site.buffer_url.clone());
    let path = file.to_str().unwrap();
    let text = failed(&pgoutpost(&stage, &url, &["export", path]).await);
    assert!(text.contains("in use") && !Path::new(path).exists(), "{text}");

    stage.outpost.kill9().unwrap();
    // Redis may take a moment to notice that the daemon's connection is gone.
    eventually("the buffer is free", async || pgoutpost(&stage, &url, &["export", path]).await.status.success()).await;
    let text = failed(&pgoutpost(&stage, &url, &["export", path]).await);
    assert!(text.contains("cannot make"), "overwritten: {text}");
    let text = failed(&pgoutpost(&stage, &url, &["import", path]).await);
    assert!(text.contains("not empty"), "{text}");

    let elsewhere = format!("file://{}/elsewhere", folder.display());
    let text = succeeded(&pgoutpost(&stage, &elsewhere, &["import", path]).await);
    assert!(text.contains("3 entries, the last is 3") && text.contains("leases of 1"), "{text}");
    succeeded(&pgoutpost(&stage, &elsewhere, &["fsck"]).await);
    succeeded(&pgoutpost(&stage, &elsewhere, &["check"]).await);

    // The daemon goes on there: what was pending is shown, new numbers follow, and all of it goes to main once.
    stage.heal();
    let mut site = stage.site.clone();
    site.buffer_url = elsewhere;
    let outpost = lab::Outpost::start(&site, binary()).await.unwrap();
    let client = lab::postgres::connect(&outpost.url()).await.unwrap();
    let labels = "SELECT string_agg(label, ' ' ORDER BY id) FROM item";
    assert_eq!(value(&client, labels).await, "replayed pending too");
    execute(&client, "INSERT INTO item (label) VALUES ('new')").await;
    let main = site.main().await.unwrap();
    eventually("main has it", async || value(&main, labels).await == "replayed pending too new").await;
    assert!(rows(&client, "SELECT 1 FROM item GROUP BY label HAVING count(*) > 1").await.is_empty());
}
