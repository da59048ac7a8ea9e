//! psql, psycopg 3 and asyncpg, unchanged, with the link cut; main then holds exactly what they were told.

use std::path::Path;

use super::stage::{Stage, execute, repository, rows, run, succeeded};

const SCHEMA: &str = include_str!("../drivers/schema.sql");
const TABLES: [&str; 5] = ["unit", "observation", "every_type", "reading", "log_line"];

/// Runs a driver's script with the link cut, reads back what it recorded over new connections, heals, and compares
/// main with the record.
async fn through_a_cut_link(name: &str, script: &str) {
    let stage = Stage::shared(name, SCHEMA).await;
    let record = stage.site.folder.join(format!("{name}.json"));
    let record = record.to_str().unwrap();
    let python = repository(".venv/bin/python");
    assert!(python.exists(), "no {}: scripts/python-env makes it", python.display());
    let script = repository("tests/drivers").join(script);
    let driver = async |action: &str, url: &str| {
        let arguments = [script.to_str().unwrap(), action, "--dsn", url, "--record", record];
        println!("{}", succeeded(&run(&python, &arguments).await));
    };

    stage.cut();
    driver("write", &stage.outpost.url()).await;
    driver("verify", &stage.outpost.url()).await;
    assert!(stage.last_seq().await > 10, "the driver's writes did not go through the buffer");
    assert_eq!(stage.ledger(&stage.main().await).await, 0, "something reached main over a cut link");

    stage.drain().await;
    driver("verify", &stage.site.main_url).await;
    driver("verify", &stage.outpost.url()).await;
}

#[tokio::test]
async fn psycopg_writes_and_reads_with_the_link_cut() {
    through_a_cut_link("drivers_psycopg", "psycopg3.py").await;
}

#[tokio::test]
async fn asyncpg_writes_and_reads_with_the_link_cut() {
    through_a_cut_link("drivers_asyncpg", "asyncpg_all.py").await;
}

/// What a program that only prints what it sees prints on an ordinary Postgres and through the daemon with the link cut:
/// the same, to the last byte. Then main holds what the ordinary one holds. `setup` is run with the link up.
async fn prints_the_same(name: &str, schema: &str, setup: Option<&[&str]>, run_it: &[&str], url: fn(&str) -> String) {
    let stage = Stage::shared(name, schema).await;
    let plain = stage.lab().database(&format!("{name}_plain")).await.unwrap();
    let ordinary = plain.main().await.unwrap();
    execute(&ordinary, schema).await;
    let print = async |command: &[&str], to: &str| {
        let to = url(to);
        let arguments: Vec<&str> = command[1..].iter().copied().chain([to.as_str()]).collect();
        succeeded(&run(Path::new(command[0]), &arguments).await)
    };
    let compare = async |command: &[&str]| {
        let expected = print(command, &plain.main_url).await;
        assert_same_lines(&expected, &print(command, &stage.outpost.url()).await);
    };
    if let Some(setup) = setup {
        compare(setup).await;
        stage.drain().await;
    }
    let before = stage.ledger(&stage.main().await).await;
    stage.cut();
    compare(run_it).await;
    assert_eq!(stage.ledger(&stage.main().await).await, before, "something reached main over a cut link");

    stage.drain().await;
    let main = stage.main().await;
    let tables = rows(&ordinary, TABLES_OF_THE_PROGRAM).await;
    assert!(!tables.is_empty());
    for table in tables.iter().map(|row| row[0].as_deref().unwrap()) {
        // Without what says when something was done, and salted hashes.
        let query = format!(
            "SELECT to_jsonb(t) - 'noted' - 'date_joined' - 'last_login' - 'password' FROM {table} t ORDER BY 1"
        );
        assert_eq!(rows(&main, &query).await, rows(&ordinary, &query).await, "{table}");
    }
}

/// Without those that Django's `migrate` fills while the link is up: its transactions go to main, where ids are other
/// ones than those the site has leased.
const TABLES_OF_THE_PROGRAM: &str = "
    SELECT quote_ident(tablename) FROM pg_tables
    WHERE schemaname = 'public' AND tablename !~ '^(django_.*|auth_permission|auth_group_permissions)$'";

#[tokio::test]
async fn sqlalchemy_sees_what_it_sees_on_an_ordinary_postgres() {
    through_python("sqlalchemy", "sqlalchemy_orm.py").await;
}

#[tokio::test]
async fn django_sees_what_it_sees_on_an_ordinary_postgres() {
    through_python("django", "django_orm.py").await;
}

async fn through_python(name: &str, script: &str) {
    let (python, script) = (repository(".venv/bin/python"), repository("tests/drivers").join(script));
    let (python, script) = (python.to_str().unwrap(), script.to_str().unwrap());
    let setup = [python, "-B", script, "setup"];
    prints_the_same(&format!("drivers_{name}"), "", Some(&setup), &[python, "-B", script, "run"], str::to_owned).await;
}

#[tokio::test]
async fn jdbc_sees_what_it_sees_on_an_ordinary_postgres() {
    const DRIVER: &str = "/usr/share/java/postgresql.jar";
    assert!(Path::new(DRIVER).exists(), "no {DRIVER}: scripts/install-deps test installs it");
    let program = repository("tests/drivers/Jdbc.java");
    // Its user is a parameter, not a part of the address.
    let url = |url: &str| {
        let (user, address) = url.trim_start_matches("postgres://").split_once('@').unwrap();
        format!("jdbc:postgresql://{address}?user={user}")
    };
    let run_it = ["java", "-cp", DRIVER, program.to_str().unwrap()];
    prints_the_same("drivers_jdbc", include_str!("../drivers/Jdbc.sql"), None, &run_it, url).await;
}

/// The same script into psql, once on an ordinary Postgres and once through the daemon with the link cut: what it
/// prints is the same to the last byte, errors included, and so is what main holds in the end.
#[tokio::test]
async fn psql_prints_what_it_prints_on_an_ordinary_postgres() {
    let stage = Stage::shared("drivers_psql", SCHEMA).await;
    let plain = stage.lab().database("drivers_psql_plain").await.unwrap();
    let ordinary = plain.main().await.unwrap();
    execute(&ordinary, SCHEMA).await;
    // Both start with the same generated values.
    for table in ["unit", "observation"] {
        let copied =
            rows(&stage.main().await, &format!("SELECT quote_literal({table}) || '::{table}' FROM {table}")).await;
        let values = copied.iter().map(|row| format!("(({}).*)", row[0].as_deref().unwrap())).collect::<Vec<_>>();
        let selects = values.iter().map(|value| format!("SELECT {value}")).collect::<Vec<_>>().join(" UNION ALL ");
        let emptied = if table == "unit" { "TRUNCATE unit CASCADE" } else { "SELECT" };
        execute(&ordinary, &format!("{emptied}; INSERT INTO {table} {selects}")).await;
    }

    stage.cut();
    let script = repository("tests/drivers/psql.sql");
    let script = script.to_str().unwrap();
    let psql = lab::postgres::binary("psql").unwrap();
    let print = async |url: &str| {
        let output = run(&psql, &["-X", "-a", "-d", url, "-f", script]).await;
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        (format!("{}\n{out}", output.status), err.into_owned())
    };
    let expected = print(&plain.main_url).await;
    let got = print(&stage.outpost.url()).await;
    assert_same_lines(&expected.0, &got.0);
    assert_same_lines(&expected.1, &got.1);

    stage.drain().await;
    let main = stage.main().await;
    for table in TABLES {
        let query = format!("SELECT t::text FROM {table} t ORDER BY 1");
        assert_eq!(rows(&main, &query).await, rows(&ordinary, &query).await, "{table}");
    }
}

#[track_caller]
fn assert_same_lines(expected: &str, got: &str) {
    for (number, (expected, got)) in expected.lines().zip(got.lines()).enumerate() {
        assert_eq!(got, expected, "line {}", number + 1);
    }
    assert_eq!(got.lines().count(), expected.lines().count(), "{got}");
}
