//! The same SELECTs on an ordinary Postgres and through the daemon: rows, column names, types, tags and errors agree,
//! whether the writes before them are pending, on main but not on the replica, or everywhere.
//!
//! The statements are in `reads.sql`; add to them there.

use tokio_postgres::{Client, SimpleQueryMessage};

use super::stage::{Stage, execute, value};

const SCHEMA: &str = include_str!("reads_schema.sql");
const WRITES: &str = include_str!("reads_writes.sql");
const READS: &str = include_str!("reads.sql");

/// The statements of a file: each ends with a semicolon at the end of a line.
fn statements(file: &str) -> Vec<String> {
    let lines: Vec<&str> = file.lines().filter(|line| !line.starts_with("--")).collect();
    lines
        .join("\n")
        .split(";\n")
        .map(|sql| sql.trim().trim_end_matches(';').to_owned())
        .filter(|sql| !sql.is_empty())
        .collect()
}

/// What a client sees of a statement, in both protocols.
#[derive(Debug, PartialEq)]
struct Seen {
    /// Names and types, as the extended protocol describes them; or the error.
    columns: Result<Vec<(String, String)>, String>,
    rows: Vec<Vec<Option<String>>>,
    /// The number in the command tag; or the error.
    tag: Result<u64, String>,
}

fn error(error: &tokio_postgres::Error) -> String {
    let Some(report) = error.as_db_error() else { return format!("{error:?}") };
    format!("{} {} {:?}", report.code().code(), report.message(), report.position())
}

async fn see(client: &Client, sql: &str) -> Seen {
    let described = client.prepare(sql).await.map_err(|e| error(&e));
    let columns = described.as_ref().map_err(Clone::clone).map(|statement| {
        statement.columns().iter().map(|column| (column.name().to_owned(), column.type_().to_string())).collect()
    });
    let mut seen = Seen { columns, rows: Vec::new(), tag: Ok(0) };
    match client.simple_query(sql).await {
        Err(e) => seen.tag = Err(error(&e)),
        Ok(messages) => {
            for message in messages {
                match message {
                    SimpleQueryMessage::Row(row) => {
                        seen.rows.push((0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect());
                    }
                    SimpleQueryMessage::CommandComplete(count) => seen.tag = Ok(count),
                    _ => {}
                }
            }
        }
    }
    // Again in the extended protocol: there it is a count (types differ), which must be the same.
    if let (Ok(statement), Ok(_)) = (&described, &seen.tag) {
        match client.query(statement, &[]).await {
            Ok(rows) => assert_eq!(rows.len(), seen.rows.len(), "the protocols disagree about {sql}"),
            Err(e) => panic!("{sql}: only in the extended protocol: {}", error(&e)),
        }
    }
    if !sql.to_uppercase().rsplit(')').next().unwrap_or_default().contains("ORDER BY") {
        seen.rows.sort();
    }
    seen
}

/// All differences at once: one at a time would be a slow way to mend them.
async fn compare(state: &str, ordinary: &Client, through: &Client) {
    let mut differences = Vec::new();
    for sql in statements(READS) {
        let (expected, got) = (see(ordinary, &sql).await, see(through, &sql).await);
        if expected != got {
            differences.push(format!("{sql}\n  expected {expected:?}\n  got      {got:?}"));
        }
    }
    assert!(differences.is_empty(), "{state}: {} differ\n{}", differences.len(), differences.join("\n"));
}

#[tokio::test]
async fn selects_answer_as_on_an_ordinary_postgres() {
    let stage = Stage::own("reads", SCHEMA).await;
    let plain = stage.lab().database("reads_plain").await.unwrap();
    let ordinary = plain.main().await.unwrap();
    execute(&ordinary, SCHEMA).await;
    let through = stage.client().await;
    compare("nothing is pending", &ordinary, &through).await;

    stage.cut();
    for write in statements(WRITES) {
        execute(&ordinary, &write).await;
        execute(&through, &write).await;
    }
    assert_eq!(
        value(&stage.site.replica().await.unwrap(), "SELECT count(*) FROM unit").await,
        "20",
        "the link was not cut"
    );
    compare("everything is pending", &ordinary, &through).await;
    for search_path in ["other, public", "public, other", "\"$user\", other"] {
        let set = format!("SET search_path = {search_path}");
        execute(&ordinary, &set).await;
        execute(&through, &set).await;
        for sql in [
            "SELECT * FROM unit ORDER BY id",
            "SELECT u.name FROM unit u WHERE u.id = 1",
            "SELECT count(*) FROM lonely",
            "SELECT * FROM log_line ORDER BY 1, 2",
        ] {
            assert_eq!(see(&through, sql).await, see(&ordinary, sql).await, "{search_path}: {sql}");
        }
    }
    execute(&ordinary, "RESET search_path").await;
    execute(&through, "RESET search_path").await;

    // Inside of transactions, after further writes of the transaction itself.
    for level in ["READ COMMITTED", "REPEATABLE READ"] {
        for client in [&ordinary, &through] {
            execute(client, &format!("BEGIN ISOLATION LEVEL {level}")).await;
            execute(client, "UPDATE unit SET weight = 1 WHERE id IN (1, 2, 30)").await;
            execute(client, "INSERT INTO log_line VALUES (99, 'mine')").await;
            execute(client, "DELETE FROM reading WHERE device IN (1, 6)").await;
        }
        for sql in statements(READS) {
            for client in [&ordinary, &through] {
                execute(client, "SAVEPOINT before").await;
                if client.simple_query(&sql).await.is_err() {
                    execute(client, "ROLLBACK TO before").await;
                }
            }
        }
        for sql in statements(READS).into_iter().filter(|sql| !is_error(sql)) {
            let (expected, got) = (see(&ordinary, &sql).await, see(&through, &sql).await);
            assert_eq!(got, expected, "{level}: {sql}");
        }
        execute(&ordinary, "ROLLBACK").await;
        execute(&through, "ROLLBACK").await;
    }

    // Everything is on main, and the replica stands still.
    stage.lab().freeze().await.unwrap();
    stage.heal();
    stage.replayed().await;
    compare("on main, not on the replica", &ordinary, &through).await;
    stage.lab().thaw().await.unwrap();
    stage.drain().await;
    compare("everywhere", &ordinary, &through).await;
    compare("main itself", &ordinary, &stage.main().await).await;
}

#[tokio::test]
async fn grouping_by_a_key_covers_the_other_columns() {
    let stage = Stage::shared("reads_group", SCHEMA).await;
    stage.cut();
    let client = stage.client().await;
    execute(&client, "UPDATE unit SET name = 'patched' WHERE id = 1").await;
    let sql = "SELECT u.name, count(o.id) FROM unit u LEFT JOIN observation o ON o.unit_id = u.id GROUP BY u.id ORDER BY u.id LIMIT 1";
    assert_eq!(see(&client, sql).await.rows, [[Some("patched".to_owned()), Some("2".to_owned())]]);
}

/// The statements at the end of the file, which fail.
fn is_error(sql: &str) -> bool {
    let all = statements(READS);
    let first = all.iter().position(|sql| sql == "SELECT nothing FROM unit").unwrap();
    all[first..].iter().any(|other| other == sql)
}
