use super::*;

fn classes(text: &str) -> Vec<Class> {
    script(text).unwrap().statements.into_iter().map(|statement| statement.class).collect()
}

#[track_caller]
fn check(text: &str, expected: Class) {
    assert_eq!(classes(text), [expected], "{text}");
}

#[track_caller]
fn check_refused(text: &str) {
    assert!(matches!(classes(text).as_slice(), [Class::Refused(_)]), "{text}");
}

const QUERY: Class = Class::Query;
const STRAIGHT: Class = Class::Straight { ddl: false, outside_transaction: false };
const DDL: Class = Class::Straight { ddl: true, outside_transaction: false };
const SETTINGS: Class = Class::Settings { discard_all: false };

#[test]
fn reads() {
    for text in [
        "SELECT 1",
        "VALUES (1)",
        "TABLE t",
        "(SELECT 1)",
        "WITH x AS (SELECT 1) SELECT * FROM x",
        "SELECT 1 UNION SELECT 2",
        "EXPLAIN SELECT 1",
        "EXPLAIN (ANALYZE, BUFFERS) SELECT 1",
        "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
        "COPY t TO STDOUT",
        "COPY (SELECT 1) TO STDOUT (FORMAT csv)",
        "SELECT pg_advisory_lock(1)",
    ] {
        check(text, QUERY);
    }
    check("SELECT * FROM t FOR UPDATE", QUERY);
    check("SELECT * FROM (SELECT * FROM t FOR SHARE SKIP LOCKED) s", QUERY);
    check("DECLARE c CURSOR FOR SELECT * FROM t FOR UPDATE", STRAIGHT);
    check("EXPLAIN ANALYZE SELECT * FROM t FOR UPDATE", STRAIGHT);
    check("SELECT setval('s', 1)", STRAIGHT);
}

#[test]
fn writes() {
    check("WITH x AS (DELETE FROM t RETURNING *) SELECT * FROM x", Class::With);
    check("WITH x AS (DELETE FROM t RETURNING *) INSERT INTO u SELECT * FROM x", Class::With);
    check("COPY t FROM STDIN", Class::CopyIn);
    for text in [
        "INSERT INTO t VALUES (1)",
        "UPDATE t SET a = 1",
        "DELETE FROM t",
        "WITH x AS (SELECT 1) INSERT INTO t SELECT * FROM x",
        "INSERT INTO t VALUES (1) ON CONFLICT DO NOTHING",
        "MERGE INTO t USING u ON true WHEN MATCHED THEN DELETE",
        "WITH x AS (SELECT 1) DELETE FROM t USING x",
        "UPDATE t SET a = 1 WHERE id = (SELECT id FROM t FOR UPDATE SKIP LOCKED LIMIT 1)",
    ] {
        check(text, Class::Write);
    }
    check("UPDATE t SET a = setval('s', 1)", Class::Straight { ddl: false, outside_transaction: false });
    for text in [
        "COPY t TO '/tmp/x'",
        "DELETE FROM t WHERE CURRENT OF c",
        "PREPARE TRANSACTION 'x'",
        "LOCK TABLE t",
        "LOCK TABLE t IN SHARE ROW EXCLUSIVE MODE",
        "LOCK t IN SHARE MODE NOWAIT",
        "LOCK t IN ACCESS EXCLUSIVE MODE",
    ] {
        check_refused(text);
    }
}

#[test]
fn what_lives_on_main() {
    for text in [
        "CREATE TEMP TABLE t (a int)",
        "create local temporary table t as select 1",
        "SELECT * INTO TEMP t FROM u",
        "CREATE OR REPLACE TEMP VIEW v AS SELECT 1",
    ] {
        check(text, DDL);
    }
    for text in [
        "LISTEN x",
        "NOTIFY x, 'y'",
        "SELECT pg_notify('x', 'y')",
        "SELECT lo_create(0)",
        "INSERT INTO t VALUES (lo_from_bytea(0, 'x'))",
        "WITH x AS (SELECT pg_catalog.lo_unlink(1)) SELECT * FROM x",
    ] {
        check(text, STRAIGHT);
    }
    check("UNLISTEN *", Class::Replica);
    for text in ["SELECT pg_notify('x', 'y')", "SELECT LO_creat(-1)", "SELECT loread(0, 1)", "SELECT lowrite(0, 'x')"] {
        assert!(!crate::sql::plainly_reads(text), "{text}");
    }
}

#[test]
fn transactions() {
    let begin =
        |isolation, read_only| Class::Transaction(TransactionCommand::Begin { isolation, read_only, start: false });
    check("BEGIN", begin(None, None));
    let started = TransactionCommand::Begin { isolation: None, read_only: None, start: true };
    check("START TRANSACTION", Class::Transaction(started));
    let read_only = TransactionCommand::Characteristics { isolation: None, read_only: Some(true) };
    check("SET LOCAL transaction_read_only TO 'on'", Class::Transaction(read_only));
    check("begin work isolation level serializable, read only", begin(Some(Isolation::Serializable), Some(true)));
    check("BEGIN ISOLATION LEVEL READ UNCOMMITTED READ WRITE", begin(Some(Isolation::ReadUncommitted), Some(false)));
    check("END", Class::Transaction(TransactionCommand::Commit { chain: false }));
    check("COMMIT AND CHAIN", Class::Transaction(TransactionCommand::Commit { chain: true }));
    check("ABORT", Class::Transaction(TransactionCommand::Rollback { chain: false }));
    check("SAVEPOINT A", Class::Transaction(TransactionCommand::Savepoint("a".into())));
    check("ROLLBACK TO \"A b\"", Class::Transaction(TransactionCommand::RollbackTo("A b".into())));
    check("RELEASE SAVEPOINT a", Class::Transaction(TransactionCommand::Release("a".into())));
    let isolation = Some(Isolation::RepeatableRead);
    check(
        "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",
        Class::Transaction(TransactionCommand::Characteristics { isolation, read_only: None }),
    );
}

#[test]
fn settings() {
    check("SET search_path TO x, y", SETTINGS);
    check("SET LOCAL x.y = 1", SETTINGS);
    check("RESET ALL", SETTINGS);
    check("SET ROLE bob", SETTINGS);
    check("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", SETTINGS);
    check("DISCARD ALL", Class::Settings { discard_all: true });
    check("DISCARD PLANS", SETTINGS);
    check("SHOW search_path", Class::Replica);
    check("show TRANSACTION_read_only", Class::ShowMode(Mode::ReadOnly));
    check("SHOW transaction_isolation", Class::ShowMode(Mode::Isolation));
    check("show transaction  isolation level", Class::ShowMode(Mode::Isolation));
    check("LOCK TABLE public.t, \"In\" IN ACCESS SHARE MODE", Class::Replica);
    check("lock t in row exclusive mode nowait", Class::Replica);
    let own =
        |value: Option<&str>, show| Class::OwnSetting { name: "commit".into(), value: value.map(str::to_owned), show };
    check("SET pgoutpost.commit = 'Visible'", own(Some("Visible"), false));
    check("SET LOCAL pgoutpost.commit TO applied", own(Some("applied"), false));
    check("SET pgoutpost.commit TO DEFAULT", own(None, false));
    check("SHOW pgoutpost.commit", own(None, true));
    check("RESET pgoutpost.commit", own(None, false));
}

#[test]
fn the_rest() {
    check("PREPARE p (int) AS SELECT $1", Class::Prepare { name: "p".into() });
    check("EXECUTE \"P\"(1)", Class::Execute { name: "P".into() });
    check("DEALLOCATE ALL", Class::Replica);
    check("FETCH 5 FROM c", Class::Replica);
    check("EXPLAIN INSERT INTO t VALUES (1)", Class::Replica);
    check("CREATE TABLE t (a int)", DDL);
    check("CREATE TABLE t AS SELECT 1", DDL);
    check("SELECT 1 INTO t", DDL);
    check("CALL p()", DDL);
    check("VACUUM t", Class::Straight { ddl: false, outside_transaction: true });
    check("CREATE DATABASE x", Class::Straight { ddl: true, outside_transaction: true });
    check("CREATE INDEX CONCURRENTLY ON t (a)", Class::Straight { ddl: true, outside_transaction: true });
}

#[test]
fn scripts_are_split() {
    let split = script(
        "-- first\nSELECT ';' ; ; /* a ; b */ INSERT INTO t VALUES ($$;$$);;
         CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; SELECT 2; END; SELECT 2 -- last",
    )
    .unwrap();
    let texts: Vec<&str> = split.statements.iter().map(|statement| &*statement.text).collect();
    let function = "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; SELECT 2; END";
    assert_eq!(texts, ["SELECT ';'", "INSERT INTO t VALUES ($$;$$)", function, "SELECT 2"]);
    assert_eq!(script(" ; -- nothing\n").unwrap().statements.len(), 0);
    assert!(script("SELEC 1").is_err());
}

#[test]
fn a_glance_sees_reads_only() {
    for text in ["SELECT 1", " select\tabalance FROM pgbench_accounts WHERE aid = 7;", "SELECT 'x' -- y"] {
        assert!(plainly_reads(text), "{text}");
        assert_eq!(class_of_only(text), QUERY, "{text}");
    }
    let longer_ways = [
        "",
        "SELECTION",
        "SELECT 1; SELECT 2",
        "SELECT * FROM t FOR UPDATE",
        "SELECT 1FOR SHARE",
        "SELECT * INTO u FROM t",
        "SELECT NextVal('s')",
        "SELECT set_config('search_path', 'x', false)",
        "WITH x AS (DELETE FROM t RETURNING *) SELECT * FROM x",
        "SELECT * FROM (WITH x AS (INSERT INTO t VALUES (1) RETURNING *) SELECT * FROM x) y",
        "UPDATE t SET a = 1",
    ];
    for text in longer_ways {
        assert!(!plainly_reads(text), "{text}");
    }
}

fn class_of_only(text: &str) -> Class {
    let mut script = script(text).unwrap();
    assert_eq!(script.statements.len(), 1, "{text}");
    script.statements.remove(0).class
}
