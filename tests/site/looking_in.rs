//! Looking in from outside: HTTP and the console say what is the case, and change when it does.

use serde_json::Value;

use super::stage::{Stage, eventually, execute, fails_with, get, rows, run, succeeded};

const SCHEMA: &str = "CREATE TABLE item (id int PRIMARY KEY, label text); CREATE TABLE other (id int PRIMARY KEY)";

async fn json(stage: &Stage, path: &str) -> Value {
    let (code, head, body) = get(&stage.outpost.http_url(), path).await;
    assert_eq!(code, 200, "{path}: {body}");
    assert!(head.contains("content-type: application/json"), "{path}: {head}");
    serde_json::from_str(&body).unwrap_or_else(|error| panic!("{path}: {error}: {body}"))
}

/// Whether somewhere in it a key that contains `name` has this number.
fn says(value: &Value, name: &str, number: u64) -> bool {
    match value {
        Value::Object(fields) => fields
            .iter()
            .any(|(key, value)| (key.contains(name) && value.as_u64() == Some(number)) || says(value, name, number)),
        Value::Array(values) => values.iter().any(|value| says(value, name, number)),
        _ => false,
    }
}

/// The value of a metric, summed over its labels.
async fn metric(stage: &Stage, name: &str) -> Option<f64> {
    let (code, head, body) = get(&stage.outpost.http_url(), "/metrics").await;
    assert_eq!(code, 200, "{body}");
    assert!(head.contains("content-type: text/plain"), "{head}");
    let of_it = |line: &&str| line.split(['{', ' ']).next() == Some(name);
    let values: Vec<f64> =
        body.lines().filter(of_it).map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect();
    (!values.is_empty()).then(|| values.iter().sum())
}

#[tokio::test]
async fn http_says_how_the_site_is() {
    let stage = Stage::shared("looking_in_http", SCHEMA).await;
    let client = stage.client().await;
    // The first clients are let in a moment before the daemon has looked at everything.
    eventually("the site is well", async || get(&stage.outpost.http_url(), "/health").await.2.contains("\"ok\"")).await;
    let health = json(&stage, "/health").await;
    let info = json(&stage, "/api/site/info").await.to_string();
    assert!(info.contains("looking_in_http") && info.contains("secondary"), "{info}");
    assert!(says(&json(&stage, "/buffer-stats").await, "pending", 0));

    stage.cut();
    execute(&client, "INSERT INTO item VALUES (1, 'a')").await;
    execute(&client, "INSERT INTO item VALUES (2, 'b'); UPDATE item SET label = 'c' WHERE id = 1").await;
    let stats = json(&stage, "/buffer-stats").await;
    assert!(says(&stats, "pending", 2), "{stats}");
    eventually("health tells that main is away", async || json(&stage, "/health").await != health).await;
    let (_, _, metrics) = get(&stage.outpost.http_url(), "/metrics").await;
    let strangers: Vec<&str> =
        metrics.lines().filter(|line| !line.starts_with('#') && !line.starts_with("pgoutpost_")).collect();
    assert!(strangers.iter().all(|line| line.is_empty()), "{strangers:?}");
    let pending =
        metrics.lines().find(|line| line.starts_with("pgoutpost_") && line.contains("pending") && line.ends_with(" 2"));
    let pending = pending.unwrap_or_else(|| panic!("no metric says that two are pending:\n{metrics}"));
    let name = pending.split(['{', ' ']).next().unwrap().to_owned();

    stage.drain().await;
    eventually("nothing is pending", async || says(&json(&stage, "/buffer-stats").await, "pending", 0)).await;
    eventually("the metric follows", async || metric(&stage, &name).await == Some(0.0)).await;
    eventually("health is as before", async || json(&stage, "/health").await.get("status") == health.get("status"))
        .await;
    assert_eq!(get(&stage.outpost.http_url(), "/no-such-page").await.0, 404);
}

#[tokio::test]
async fn the_console_answers_show_commands() {
    let stage = Stage::shared("looking_in_console", SCHEMA).await;
    stage.cut();
    let client = stage.client().await;
    execute(&client, "INSERT INTO item VALUES (1, 'a')").await;
    execute(&client, "INSERT INTO other VALUES (1)").await;
    let psql = lab::postgres::binary("psql").unwrap();
    let port = stage.outpost.port().to_string();
    let arguments = ["-X", "-A", "-h", "127.0.0.1", "-p", &port, "-U", "postgres", "-d", "pgoutpost"];
    for word in ["HELP", "BUFFER", "ENTRIES", "QUARANTINE", "LAG", "CLIENTS", "STATS", "VERSION"] {
        let show = format!("SHOW {word}");
        let printed = succeeded(&run(&psql, &[arguments.as_slice(), &["-c", &show]].concat()).await);
        assert!(printed.lines().count() >= 2, "{show}: {printed}");
        let small = succeeded(&run(&psql, &[arguments.as_slice(), &["-c", &show.to_lowercase(), "-t"]].concat()).await);
        assert!(word == "QUARANTINE" || !small.trim().is_empty(), "{show}: {small}");
    }
    let console = stage.console().await;
    assert_eq!(rows(&console, "SHOW ENTRIES").await.len(), 2);
    assert!(rows(&console, "SHOW CLIENTS").await.len() >= 2);
    assert!(
        rows(&console, "SHOW VERSION").await[0].iter().flatten().any(|text| text.contains(env!("CARGO_PKG_VERSION")))
    );
    let refused = console.simple_query("SHOW NOTHING").await.map(|_| ());
    assert!(refused.as_ref().is_err_and(|error| error.as_db_error().is_some()), "{refused:?}");
    let refused = console.simple_query("DROP TABLE item").await.map(|_| ());
    assert!(refused.is_err());
    // It is usable after an error.
    assert_eq!(rows(&console, "SHOW ENTRIES;").await.len(), 2);
    stage.drain().await;
    eventually("no entry is left", async || rows(&console, "SHOW ENTRIES").await.is_empty()).await;
}

#[tokio::test]
async fn other_databases_are_refused_by_name() {
    let stage = Stage::shared("looking_in_other", SCHEMA).await;
    let url = stage.outpost.url().replace("/looking_in_other", "/elsewhere");
    let refused = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.map(|_| ());
    let report = fails_with(refused, &tokio_postgres::error::SqlState::INVALID_CATALOG_NAME);
    assert!(report.hint().is_some_and(|hint| hint.contains("looking_in_other")), "{report:?}");
}
