//! Pending rows of tables whose definition changes under them: a read shows what main will have when they are replayed,
//! or says that it cannot; never a wrong value.
//!
//! The daemon's way to main is cut, the replica's is not: so entries wait while main's DDL comes in.

mod writes;

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::stage::{Stage, describe, eventually, execute, fails_with, rows, try_rows};

/// What is seen of a table before its entries are replayed.
#[derive(Clone, Copy, Debug)]
enum Seen {
    /// These rows, and main has them when the entries are replayed.
    Rows(&'static str),
    /// These rows, until replay puts the entries aside.
    UntilAside(&'static str),
    /// 0A000 with these words; replay knows.
    Refused(&'static str),
    /// The same, until replay puts the entries aside.
    RefusedUntilAside(&'static str),
}

use Seen::{Refused, RefusedUntilAside, Rows, UntilAside};

struct Case {
    /// Columns; rows that the replica has. `@` stands for the table, of which each case has one.
    table: &'static str,
    written: &'static str,
    changed: &'static str,
    /// Another query than of the whole table.
    look: Option<&'static str>,
    seen: Seen,
}

const fn case(table: &'static str, written: &'static str, changed: &'static str, seen: Seen) -> Case {
    Case { table, written, changed, look: None, seen }
}

const CASES: &[Case] = &[
    // Columns that were added.
    case("id int PRIMARY KEY", "INSERT INTO @ VALUES (1)", "ALTER TABLE @ ADD c text", Rows("1,NULL")),
    case(
        "id int PRIMARY KEY",
        "INSERT INTO @ VALUES (1); INSERT INTO @ VALUES (2)",
        "ALTER TABLE @ ADD c int NOT NULL DEFAULT 7, ADD d varchar(5) DEFAULT 'it''s', ADD e numeric(6,2) DEFAULT 1.5,
            ADD f timestamptz DEFAULT '2026-01-02 03:04:05+00', ADD g int[] DEFAULT '{1,2}', ADD h bool DEFAULT true,
            ADD i int DEFAULT -1, ADD j int[] DEFAULT ARRAY[1, 2], ADD k date DEFAULT '2026-01-02', ADD l bigint DEFAULT 5",
        Rows("1,7,it's,1.50,2026-01-02 03:04:05+00,{1,2},t,-1,{1,2},2026-01-02,5|\
              2,7,it's,1.50,2026-01-02 03:04:05+00,{1,2},t,-1,{1,2},2026-01-02,5"),
    ),
    case(
        "id int PRIMARY KEY",
        "INSERT INTO @ VALUES (1)",
        "ALTER TABLE @ ADD c timestamptz DEFAULT clock_timestamp()",
        Refused("before column \"c\" was added"),
    ),
    // What the rows of then have in it, whatever its default is by now.
    case(
        "id int PRIMARY KEY, n int; (10, 1)",
        "INSERT INTO @ VALUES (1, 2)",
        "ALTER TABLE @ ADD c int NOT NULL DEFAULT 1, ADD d text DEFAULT 'it''s \\', ADD e int DEFAULT 5, ADD f bigint DEFAULT length('abc');
         ALTER TABLE @ ALTER c DROP DEFAULT, ALTER d DROP DEFAULT, ALTER e SET DEFAULT 6",
        Rows("1,2,1,it's \\,5,3|10,1,1,it's \\,5,3"),
    ),
    case("id int PRIMARY KEY", "INSERT INTO @ VALUES (1)", "ALTER TABLE @ ADD c serial", Refused("before column \"c\"")),
    case(
        "id int PRIMARY KEY, n int",
        "INSERT INTO @ VALUES (1, 2)",
        "ALTER TABLE @ ADD c date DEFAULT ('2026-01-02'::text)::date",
        Rows("1,2,2026-01-02"),
    ),
    case(
        "id int PRIMARY KEY, n int; (10, 1)",
        "UPDATE @ SET n = 3 WHERE id = 10",
        "ALTER TABLE @ ADD c int NOT NULL DEFAULT 7; UPDATE @ SET c = 8",
        Rows("10,3,8"),
    ),
    // The row of the other key had its value of the column before it came to this one.
    case(
        "id int PRIMARY KEY, n int; (10, 1)",
        "UPDATE @ SET id = 11 WHERE id = 10",
        "ALTER TABLE @ ADD c int DEFAULT 7; UPDATE @ SET c = 8",
        Refused("before column \"c\" was added"),
    ),
    case(
        "id int PRIMARY KEY",
        "INSERT INTO @ VALUES (1)",
        "ALTER TABLE @ ADD c int; UPDATE @ SET c = 1; ALTER TABLE @ ALTER c SET NOT NULL",
        RefusedUntilAside("before column \"c\" was added"),
    ),
    // Dropped, and made again.
    case(
        "id int PRIMARY KEY, c text, n int",
        "INSERT INTO @ VALUES (1, NULL, 2)",
        "ALTER TABLE @ DROP c",
        Rows("1,2"),
    ),
    case(
        "id int PRIMARY KEY, c text, n int",
        "INSERT INTO @ VALUES (1, 'x', 2)",
        "ALTER TABLE @ DROP c",
        UntilAside("1,2"),
    ),
    case(
        "id int PRIMARY KEY, n int, c text",
        "INSERT INTO @ VALUES (1, 2, 'old')",
        "ALTER TABLE @ DROP c; ALTER TABLE @ ADD c text",
        UntilAside("1,2,NULL"),
    ),
    case(
        "id int PRIMARY KEY, n int, c text",
        "INSERT INTO @ VALUES (1, 2, NULL)",
        "ALTER TABLE @ DROP c; ALTER TABLE @ ADD c text DEFAULT 'new'",
        Rows("1,2,new"),
    ),
    case(
        "id int PRIMARY KEY, n int, c text; (10, 1)",
        "UPDATE @ SET c = 'old' WHERE id = 10",
        "ALTER TABLE @ DROP c; ALTER TABLE @ ADD c text DEFAULT 'new'",
        UntilAside("10,1,new"),
    ),
    // Other names.
    case(
        "id int PRIMARY KEY, c text; (10, 'q')",
        "INSERT INTO @ VALUES (1, 'x'); UPDATE @ SET c = 'y' WHERE id = 10",
        "ALTER TABLE @ RENAME c TO d; ALTER TABLE @ ADD c text",
        Rows("1,x,NULL|10,y,NULL"),
    ),
    case(
        "id int PRIMARY KEY, a text, b text",
        "INSERT INTO @ VALUES (1, 'x', 'y')",
        "ALTER TABLE @ RENAME a TO c; ALTER TABLE @ RENAME b TO a; ALTER TABLE @ RENAME c TO b",
        Rows("1,x,y"),
    ),
    Case {
        table: "id int PRIMARY KEY, c text",
        written: "INSERT INTO @ VALUES (1, 'x')",
        changed: "ALTER TABLE @ RENAME TO @_new; CREATE TABLE @ (id int PRIMARY KEY, c text); INSERT INTO @ VALUES (1, 'other')",
        look: Some("SELECT n.c, o.c FROM @_new n JOIN @ o USING (id) WHERE id = 1"),
        seen: Rows("x,other"),
    },
    Case {
        table: "id int PRIMARY KEY, c text",
        written: "INSERT INTO @ VALUES (1, 'x'); TRUNCATE @; INSERT INTO @ VALUES (2, 'y')",
        changed: "CREATE SCHEMA @_s; ALTER TABLE @ SET SCHEMA @_s",
        look: Some("SELECT id, c FROM @_s.@"),
        seen: Rows("2,y"),
    },
    // Types.
    case(
        "id int PRIMARY KEY, n int, v varchar(5), p numeric(6,2), t timestamp(0); (10, 1)",
        "INSERT INTO @ VALUES (1, 2, 'three', 4.5, '2026-01-02 03:04:05'); UPDATE @ SET n = 5, p = 6 WHERE id = 10",
        "ALTER TABLE @ ALTER id TYPE bigint, ALTER n TYPE bigint, ALTER v TYPE text, ALTER p TYPE numeric(9,3), ALTER t TYPE timestamp",
        Rows("1,2,three,4.500,2026-01-02 03:04:05|10,5,NULL,6.000,NULL"),
    ),
    case(
        "id numeric(6,2) PRIMARY KEY, n int; (10, 1)",
        "UPDATE @ SET n = 5 WHERE id = 10",
        "ALTER TABLE @ ALTER id TYPE numeric(9,3)",
        Refused("its key"),
    ),
    case(
        "id int PRIMARY KEY, c text",
        "INSERT INTO @ VALUES (1, 'x')",
        "ALTER TABLE @ ALTER c TYPE int USING 0",
        RefusedUntilAside("column \"c\" was text and is integer"),
    ),
    case(
        "id int PRIMARY KEY, c text; (10, 'q')",
        "UPDATE @ SET c = '5' WHERE id = 10",
        "ALTER TABLE @ ALTER c TYPE varchar(3)",
        RefusedUntilAside("column \"c\" was text and is character varying(3)"),
    ),
    case(
        "id int PRIMARY KEY, n int, c text; (10, 1, 'q')",
        "INSERT INTO @ VALUES (1, 2, NULL); UPDATE @ SET n = 3 WHERE id = 10",
        "ALTER TABLE @ ALTER c TYPE int USING 0",
        Rows("1,2,NULL|10,3,0"),
    ),
    case(
        "id text PRIMARY KEY, n int; ('10', 1)",
        "UPDATE @ SET n = 5 WHERE id = '10'",
        "ALTER TABLE @ ALTER id TYPE int USING 10",
        RefusedUntilAside("its key"),
    ),
    // Rules.
    case(
        "id int PRIMARY KEY, n int, c int",
        "INSERT INTO @ VALUES (1, NULL, NULL)",
        "UPDATE @ SET n = 0; ALTER TABLE @ ALTER n SET NOT NULL",
        UntilAside("1,NULL,NULL"),
    ),
    case(
        "id int PRIMARY KEY, n int NOT NULL",
        "INSERT INTO @ VALUES (1, 1)",
        "ALTER TABLE @ ALTER n DROP NOT NULL, ADD CHECK (n < 5), ADD UNIQUE (n), ALTER n SET DEFAULT 3",
        Rows("1,1"),
    ),
    // Columns that are computed.
    case(
        "id int PRIMARY KEY, n int; (10, 1)",
        "INSERT INTO @ VALUES (1, 2); UPDATE @ SET n = 5 WHERE id = 10",
        "ALTER TABLE @ ADD g int GENERATED ALWAYS AS (n * 2) STORED",
        Rows("1,2,4|10,5,10"),
    ),
    case(
        "id int PRIMARY KEY, n int, g int GENERATED ALWAYS AS (n * 2) STORED; (10, 1), (11, 1)",
        "INSERT INTO @ VALUES (1, 2); UPDATE @ SET n = 5 WHERE id = 10; UPDATE @ SET id = 12 WHERE id = 11",
        "ALTER TABLE @ DROP g; ALTER TABLE @ ADD g text COLLATE \"C\" GENERATED ALWAYS AS ('n' || n) STORED",
        Rows("1,2,n2|10,5,n5|12,1,n1"),
    ),
    case(
        "id int PRIMARY KEY, n int, g int GENERATED ALWAYS AS (n * 2) STORED; (10, 1)",
        "INSERT INTO @ VALUES (1, 2); UPDATE @ SET n = 5 WHERE id = 10",
        "ALTER TABLE @ ALTER g DROP EXPRESSION; UPDATE @ SET g = 77",
        Rows("1,2,4|10,5,10"),
    ),
    // Keys.
    case(
        "id int PRIMARY KEY, n int NOT NULL UNIQUE; (10, 1)",
        "INSERT INTO @ VALUES (1, 2); UPDATE @ SET n = 5 WHERE id = 10",
        "ALTER TABLE @ DROP CONSTRAINT @_pkey, ADD UNIQUE (id)",
        Refused("its key"),
    ),
    case(
        "id int PRIMARY KEY, n int NOT NULL; (10, 1)",
        "INSERT INTO @ VALUES (1, 2); UPDATE @ SET n = 5 WHERE id = 10",
        "ALTER TABLE @ DROP CONSTRAINT @_pkey, ADD UNIQUE (id)",
        Rows("1,2|10,5"),
    ),
    case(
        "a int, b int, c text, PRIMARY KEY (a, b); (10, 1, 'q')",
        "INSERT INTO @ VALUES (1, 2, 'x'); UPDATE @ SET c = 'y' WHERE a = 10",
        "ALTER TABLE @ DROP CONSTRAINT @_pkey, ADD PRIMARY KEY (b, a)",
        Rows("1,2,x|10,1,y"),
    ),
    case(
        "id int PRIMARY KEY, n int; (10, 1)",
        "UPDATE @ SET n = 5 WHERE id = 10",
        "ALTER TABLE @ DROP CONSTRAINT @_pkey",
        RefusedUntilAside("its key"),
    ),
    case(
        "id int PRIMARY KEY, n int; (10, 1), (11, 1)",
        "INSERT INTO @ VALUES (1, 2)",
        "ALTER TABLE @ DROP CONSTRAINT @_pkey",
        Rows("1,2|10,1|11,1"),
    ),
    case("id int, n int; (10, 1), (11, 1)", "INSERT INTO @ VALUES (1, 2)", "ALTER TABLE @ ADD PRIMARY KEY (id)", Rows("1,2|10,1|11,1")),
    // What types are made of.
    case(
        "id int PRIMARY KEY, c @_mood; (10, 'ok')",
        "INSERT INTO @ VALUES (1, 'sad'); UPDATE @ SET c = 'sad' WHERE id = 10",
        "ALTER TYPE @_mood ADD VALUE 'first' BEFORE 'sad'; ALTER TYPE @_mood RENAME VALUE 'ok' TO 'fine'",
        Rows("1,sad|10,sad"),
    ),
    case(
        "id int PRIMARY KEY, c @_felt[]; (10, '{ok}')",
        "INSERT INTO @ VALUES (1, '{sad,NULL}'); UPDATE @ SET c = '{sad}' WHERE id = 10",
        "ALTER TYPE @_mood RENAME VALUE 'sad' TO 'blue'",
        Refused("column \"c\" is of a type that was altered since"),
    ),
    case(
        "id @_mood PRIMARY KEY, n int; ('ok', 1)",
        "UPDATE @ SET n = 5 WHERE id = 'ok'",
        "ALTER TYPE @_mood RENAME VALUE 'ok' TO 'fine'",
        RefusedUntilAside("its key"),
    ),
    case(
        "id int PRIMARY KEY, c @_pair; (10, '(1,2)')",
        "INSERT INTO @ VALUES (1, '(20,2)'); UPDATE @ SET c = row(11, 3) WHERE id = 10",
        "ALTER TYPE @_pair DROP ATTRIBUTE b, ADD ATTRIBUTE d int",
        RefusedUntilAside("column \"c\" has a value for attribute \"b\" of its type which was dropped"),
    ),
    case(
        "id int PRIMARY KEY, c @_pair[]; (10, '{\"(1,2)\"}')",
        "INSERT INTO @ VALUES (1, '{\"(20,2)\"}'); UPDATE @ SET c = c || row(11, 3)::@_pair WHERE id = 10",
        "ALTER TYPE @_pair ADD ATTRIBUTE d int",
        Refused("column \"c\" is of a type that was altered since"),
    ),
    case(
        "id int PRIMARY KEY, c @_pair; (10, '(1,2)')",
        "INSERT INTO @ VALUES (1, '(20,2)')",
        "ALTER TYPE @_pair RENAME ATTRIBUTE a TO z; ALTER TYPE @_pair RENAME TO @_two",
        Rows("1,(20,2)|10,(1,2)"),
    ),
    // The table itself.
    case(
        "id int PRIMARY KEY, c text; (10, 'q')",
        "INSERT INTO @ VALUES (1, 'x'); DELETE FROM @ WHERE id = 10",
        "DROP TABLE @; CREATE TABLE @ (id int PRIMARY KEY, c text); INSERT INTO @ VALUES (10, 'new')",
        UntilAside("10,new"),
    ),
    case(
        "id int PRIMARY KEY, c text",
        "INSERT INTO @ VALUES (1, 'x')",
        "DROP TABLE @; CREATE VIEW @ AS SELECT 3 AS id, 'view' AS c",
        UntilAside("3,view"),
    ),
];

impl Case {
    fn sql(&self, number: usize, sql: &str) -> String {
        let name = format!("t{number}");
        match sql {
            "" => format!("SELECT * FROM {name} ORDER BY 1"),
            sql => sql.replace('@', &name),
        }
    }

    fn schema(&self, number: usize) -> String {
        let (columns, rows) = self.table.split_once("; ").unwrap_or((self.table, ""));
        let rows = if rows.is_empty() { String::new() } else { format!("INSERT INTO @ VALUES {rows};") };
        let types = "CREATE TYPE @_mood AS ENUM ('sad', 'ok'); CREATE DOMAIN @_felt AS @_mood; CREATE TYPE @_pair AS (a int, b int);";
        self.sql(number, &format!("{types} CREATE TABLE @ ({columns}); {rows}"))
    }

    async fn look(&self, number: usize, client: &Client) -> Result<String, tokio_postgres::Error> {
        let rows = try_rows(client, &self.sql(number, self.look.unwrap_or_default())).await?;
        let text = |row: Vec<Option<String>>| -> String {
            row.into_iter().map(|value| value.unwrap_or("NULL".into())).collect::<Vec<_>>().join(",")
        };
        Ok(rows.into_iter().map(text).collect::<Vec<_>>().join("|"))
    }

    /// What is seen while the entries wait; anything but that, or that it cannot be told yet, is wrong.
    async fn waits(&self, number: usize, client: &Client, when: &str) {
        eventually(&format!("{when}, case {number}: {}", self.changed), async || {
            let words = match (self.look(number, client).await, self.seen) {
                (Ok(found), Rows(expected) | UntilAside(expected)) => {
                    assert_eq!(found, expected, "{when}, case {number}: {}", self.changed);
                    return true;
                }
                (Ok(found), Refused(_) | RefusedUntilAside(_)) => {
                    panic!("{when}, case {number}: {}: {found}", self.changed)
                }
                (Err(error), _) => {
                    let report = fails_with::<()>(Err(error), &SqlState::FEATURE_NOT_SUPPORTED);
                    assert!(report.hint().is_some(), "{report:?}");
                    report.message().to_owned()
                }
            };
            match self.seen {
                Refused(expected) | RefusedUntilAside(expected) => words.contains(expected),
                Rows(_) | UntilAside(_) => false,
            }
        })
        .await;
    }

    fn put_aside(&self) -> bool {
        matches!(self.seen, UntilAside(_) | RefusedUntilAside(_))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pending_rows_are_shown_as_main_will_have_them() {
    let cases: Vec<(usize, &Case)> = CASES.iter().enumerate().collect();
    let schema: String = cases.iter().map(|(number, case)| case.schema(*number)).collect();
    let stage = Stage::shared("changed_tables", &schema).await;
    let (client, main) = (stage.client().await, stage.main().await);
    stage.cut();
    let mut first = Vec::new();
    for (number, case) in &cases {
        first.push(stage.last_seq().await + 1);
        for statement in case.written.split("; ") {
            execute(&client, &case.sql(*number, statement)).await;
        }
    }
    for (number, case) in &cases {
        for statement in case.changed.split("; ") {
            execute(&main, &case.sql(*number, statement)).await;
        }
    }
    stage.site.wait_replica_caught_up().await.unwrap();
    for (number, case) in &cases {
        case.waits(*number, &client, "at once").await;
    }
    stage.outpost.restart().await.unwrap();
    let client = stage.client().await;
    for (number, case) in &cases {
        case.waits(*number, &client, "after a restart").await;
    }
    stage.heal();
    stage.replayed().await;
    let console = stage.console().await;
    let aside = rows(&console, "SHOW QUARANTINE").await;
    let aside: Vec<i64> = aside.iter().map(|row| row[0].as_ref().unwrap().parse().unwrap()).collect();
    let (replica, last) = (stage.site.replica().await.unwrap(), stage.last_seq().await);
    eventually("the replica has every entry", async || stage.ledger(&replica).await >= last).await;
    for (number, case) in &cases {
        let end = first.get(number + 1).copied().unwrap_or(last + 1);
        let waits = aside.iter().any(|seq| (first[*number]..end).contains(seq));
        assert_eq!(waits, case.put_aside(), "case {number}: {}: aside are {aside:?}", case.changed);
        let on_main = case.look(*number, &main).await.unwrap_or_else(|error| panic!("{}", describe(&error)));
        eventually(&format!("case {number}: {}", case.changed), async || {
            case.look(*number, &client).await.is_ok_and(|found| found == on_main)
        })
        .await;
        if let Rows(expected) = case.seen {
            assert_eq!(on_main, expected, "case {number}: {}", case.changed);
        }
    }
}
