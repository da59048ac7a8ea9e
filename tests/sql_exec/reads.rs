//! The same queries over pending rows, and over a table that holds them.

use crate::site::Site;

const SCHEMA: &str = "
    CREATE TABLE unit(id int PRIMARY KEY, name text NOT NULL, \"Odd Name\" text COLLATE \"C\");
    CREATE TABLE obs(id uuid PRIMARY KEY DEFAULT gen_random_uuid(), unit int, status varchar(12), n numeric(8,2),
        at timestamptz, tags text[], day date, ok bool, double int GENERATED ALWAYS AS (unit * 2) STORED);
    CREATE TABLE pair(a int, b text, v int, PRIMARY KEY (a, b));
    CREATE TABLE log(line text, n int);
    CREATE SCHEMA other; CREATE TABLE other.unit(id int PRIMARY KEY, x text);
    CREATE VIEW named AS SELECT o.id, u.name, o.status FROM obs o JOIN unit u ON u.id = o.unit;
    CREATE FUNCTION peek() RETURNS bigint LANGUAGE sql STABLE AS 'SELECT count(*) FROM unit';
    INSERT INTO unit SELECT i, 'unit ' || i, 'x' || i FROM generate_series(1, 5) i;
    INSERT INTO obs(id, unit, status, n, at, tags, day, ok) SELECT ('00000000-0000-0000-0000-00000000000' || i)::uuid, i,
        'old', i * 1.5, '2026-01-01'::timestamptz + i * interval '1 hour', ARRAY['a', i::text], '2026-01-01', i % 2 = 0 FROM generate_series(1, 5) i;
    INSERT INTO pair SELECT i, 'b' || i, i FROM generate_series(1, 5) i;
    INSERT INTO log SELECT 'line', i FROM generate_series(1, 3) i;
    INSERT INTO other.unit VALUES (1, 'other');";

const WRITES: [&str; 12] = [
    "UPDATE unit SET name = 'renamed' WHERE id = 2",
    "DELETE FROM unit WHERE id = 3",
    "INSERT INTO unit VALUES (10, 'ten', 'ä'), (11, 'eleven', NULL)",
    "UPDATE unit SET name = name || '!' WHERE id IN (2, 10)",
    "UPDATE obs SET status = 'done', unit = 4 WHERE id = '00000000-0000-0000-0000-000000000002'",
    "INSERT INTO obs(id, unit, n, at, tags, day, ok) VALUES ('10000000-0000-0000-0000-000000000000', 1, 3.14159, '2026-05-05 05:05:05+02', '{x,NULL,\"y,z\"}', '2026-02-03', true)",
    "DELETE FROM obs WHERE unit = 5",
    "INSERT INTO pair VALUES (1, 'new', 100), (2, 'b''2', NULL)",
    "UPDATE pair SET v = v + 1 WHERE a = 1",
    "UPDATE pair SET a = 50 WHERE b = 'b4'",
    "INSERT INTO log VALUES ('line', 1), (NULL, 7)",
    "UPDATE other.unit SET x = 'changed'",
];

const QUERIES: &[&str] = &[
    "SELECT * FROM unit ORDER BY id",
    "SELECT * FROM unit WHERE id = 2",
    "SELECT * FROM unit WHERE id = 3",
    "SELECT * FROM unit WHERE unit.id = 10",
    "SELECT * FROM unit u WHERE 11 = u.id AND name > 'a'",
    "SELECT name FROM unit WHERE id IN (1, 2, 3, 10) ORDER BY 1",
    "SELECT name FROM unit WHERE id = ANY ('{1,2,3,10}') ORDER BY 1",
    "SELECT count(*), max(name), min(\"Odd Name\") FROM unit",
    "SELECT \"Odd Name\" FROM public.unit ORDER BY \"Odd Name\" DESC NULLS LAST LIMIT 2",
    "SELECT public.unit.name, unit.id FROM public.unit WHERE public.unit.id > 2 ORDER BY public.unit.id",
    "SELECT * FROM other.unit",
    "SELECT a.name, b.x FROM public.unit a, other.unit b WHERE a.id = b.id",
    "TABLE unit ORDER BY 1",
    "SELECT * FROM ONLY unit ORDER BY 1",
    "SELECT * FROM unit * ORDER BY 1",
    "SELECT * FROM obs ORDER BY id",
    "SELECT status, count(*) FROM obs GROUP BY 1 ORDER BY 1",
    "SELECT o.id, u.name FROM obs o LEFT JOIN unit u ON u.id = o.unit ORDER BY 1",
    "SELECT o.id, u.name FROM obs o FULL JOIN unit u ON u.id = o.unit ORDER BY 1, 2",
    "SELECT * FROM obs NATURAL JOIN (SELECT id AS unit FROM unit) q ORDER BY id",
    "SELECT name FROM unit u WHERE EXISTS (SELECT 1 FROM obs WHERE obs.unit = u.id) ORDER BY 1",
    "SELECT name, (SELECT count(*) FROM obs WHERE unit = u.id) FROM unit u ORDER BY 1",
    "SELECT * FROM unit WHERE id IN (SELECT unit FROM obs WHERE status = 'done')",
    "WITH w AS (SELECT * FROM unit) SELECT * FROM w WHERE id > 1 ORDER BY id",
    "WITH unit AS (SELECT 1 AS one) SELECT * FROM unit",
    "WITH unit AS (SELECT * FROM unit) SELECT count(*) FROM unit",
    "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r JOIN unit ON unit.id = r.n) SELECT * FROM r",
    "SELECT id FROM unit UNION SELECT a FROM pair ORDER BY 1",
    "(SELECT id FROM unit) EXCEPT SELECT unit FROM obs ORDER BY 1",
    "SELECT DISTINCT ok FROM obs ORDER BY 1",
    "SELECT id, row_number() OVER (ORDER BY name) FROM unit ORDER BY 1",
    "SELECT u.id, l.n FROM unit u, LATERAL (SELECT n FROM obs WHERE obs.unit = u.id ORDER BY n LIMIT 1) l ORDER BY 1",
    "SELECT x.b FROM unit AS x(a, b, c) WHERE x.a = 2",
    "SELECT * FROM (unit JOIN obs ON unit.id = obs.unit) ORDER BY 1, 4",
    "SELECT j.name FROM (unit u JOIN pair p ON u.id = p.a) j ORDER BY 1",
    "SELECT * FROM pair WHERE a = 1 AND b = 'new'",
    "SELECT * FROM pair WHERE a = 2 AND b = 'b''2'",
    "SELECT * FROM pair WHERE a = 50",
    "SELECT * FROM pair ORDER BY a, b",
    "SELECT * FROM log ORDER BY 1, 2",
    "SELECT count(*) FROM log",
    "SELECT row_to_json(u) FROM unit u ORDER BY id",
    "SELECT u FROM unit u ORDER BY id",
    "SELECT count(u) FROM unit u",
    "SELECT * FROM named ORDER BY 1",
    "SELECT named.name FROM named WHERE status = 'done'",
    "SELECT * FROM unit WHERE id = (SELECT max(a) FROM pair WHERE b = 'b5')",
    "COPY unit TO STDOUT",
    "COPY unit(name, id) TO STDOUT (FORMAT csv)",
    "COPY (SELECT * FROM obs ORDER BY id) TO STDOUT",
    "SELECT sum(double) FROM obs",
    "SELECT CASE WHEN ok THEN (SELECT max(name) FROM unit) END FROM obs ORDER BY id",
    "SELECT array(SELECT name FROM unit ORDER BY id)",
    "VALUES ((SELECT count(*) FROM unit))",
    "SELECT * FROM unit WHERE (id, name) = (2, 'renamed!')",
    "SELECT name FROM unit WHERE id = 2 OR id = 10 ORDER BY 1",
    "SELECT u.name FROM unit u LEFT JOIN obs o ON o.unit = u.id AND o.status = 'done' WHERE o.id IS NULL ORDER BY 1",
];

#[test]
fn merged_reads_answer_like_the_table() {
    let mut site = Site::new("reads", SCHEMA);
    for write in WRITES {
        site.client(write, &[]).unwrap_or_else(|error| panic!("{error:?} in {write}"));
    }
    let merged: Vec<_> = QUERIES.iter().map(|query| site.client(query, &[])).collect();
    let parameters = [
        ("SELECT name FROM unit WHERE id = $1", vec!["2"]),
        ("SELECT name FROM unit WHERE id = $1", vec!["10"]),
        ("SELECT name FROM unit WHERE id = ANY ($1) AND name <> $2 ORDER BY id", vec!["{1,10}", "x"]),
        ("SELECT status FROM obs WHERE id = $1::uuid", vec!["00000000-0000-0000-0000-000000000002"]),
        ("SELECT v FROM pair WHERE a = $2 AND b = $1", vec!["new", "1"]),
    ];
    let bound: Vec<_> = parameters.iter().map(|(query, values)| site.client(query, values)).collect();
    for write in WRITES {
        site.bare(write, &[]).unwrap();
    }
    site.overlay = pgoutpost::overlay::Overlay::default();
    for (query, merged) in QUERIES.iter().zip(merged) {
        assert_eq!(sorted(query, merged), sorted(query, site.bare(query, &[])), "{query}");
    }
    for ((query, values), merged) in parameters.iter().zip(bound) {
        assert_eq!(merged, site.bare(query, values), "{query}");
    }
}

fn sorted(query: &str, answer: crate::site::Answer) -> crate::site::Answer {
    answer.map(|mut rows| {
        if query.starts_with("COPY unit") {
            rows.sort();
        }
        rows
    })
}

#[test]
fn what_cannot_be_merged_is_refused() {
    let mut site = Site::new("refused", SCHEMA);
    for query in ["SELECT ctid FROM unit", "SELECT peek()", "SELECT * FROM unit TABLESAMPLE system (100)"] {
        site.client(query, &[]).unwrap();
    }
    site.client("UPDATE unit SET name = 'x' WHERE id = 1", &[]).unwrap();
    for query in [
        "SELECT ctid FROM unit",
        "SELECT peek()",
        "SELECT public.peek()",
        "SELECT * FROM unit TABLESAMPLE system (100)",
        "SELECT table_to_xml('unit', true, true, '')",
    ] {
        let (code, ..) = site.client(query, &[]).unwrap_err();
        assert_eq!(code, "0A000", "{query}");
    }
}

#[test]
fn a_point_read_of_an_untouched_row_stays_as_it_came() {
    let mut site = Site::new("slices", SCHEMA);
    site.client("UPDATE unit SET name = 'x' WHERE id = 1", &[]).unwrap();
    for (query, merged) in [
        ("SELECT * FROM unit WHERE id = 1", true),
        ("SELECT * FROM unit WHERE id = 2", false),
        ("SELECT * FROM unit u WHERE u.id = 2 AND name = 'x'", false),
        ("SELECT * FROM unit WHERE id = '2'", false),
        ("SELECT * FROM unit WHERE id = 2::bigint", false),
        ("SELECT * FROM unit WHERE id IN (2, 3)", false),
        ("SELECT * FROM unit WHERE id = 2 OR true", true),
        ("SELECT * FROM unit WHERE NOT id = 2", true),
        ("SELECT * FROM unit WHERE id = 2.0", true),
        ("SELECT * FROM unit u JOIN pair p ON true WHERE u.id = 2", false),
        ("SELECT * FROM pair, unit WHERE id = 2", true),
        ("SELECT * FROM (unit u JOIN pair p ON true) u WHERE u.id = 2", true),
    ] {
        site.client(query, &[]).unwrap();
        assert_eq!(site.sent != query, merged, "{query}");
    }
}

#[test]
fn cursors_and_explain_take_the_rows_as_parameters() {
    let mut site = Site::new("cursors", SCHEMA);
    site.client("UPDATE unit SET name = 'x' WHERE id = 1", &[]).unwrap();
    site.client("DECLARE c CURSOR FOR SELECT * FROM unit", &[]).unwrap();
    assert!(site.sent.contains("UNION ALL"), "{}", site.sent);
    assert!(!site.client("EXPLAIN SELECT * FROM unit", &[]).unwrap().is_empty());
    assert!(site.sent.contains("UNION ALL"), "{}", site.sent);
}

#[test]
fn statements_of_the_same_shape_have_the_same_text() {
    let mut site = Site::new("shapes", SCHEMA);
    let mut texts = std::collections::HashSet::new();
    for n in 1..=4 {
        site.client(&format!("UPDATE unit SET name = 'x{n}' WHERE id = {n}"), &[]).unwrap();
        site.client("SELECT * FROM unit WHERE id = $1", &[&n.to_string()]).unwrap();
        texts.insert(site.sent.clone());
    }
    assert_eq!(texts.len(), 1);
}

#[test]
fn sequences_are_drawn_from_the_ids_given() {
    let mut site = Site::new("sequences", "CREATE SEQUENCE s; CREATE SCHEMA other; CREATE SEQUENCE other.\"S\"");
    let text = |answer: crate::site::Answer| answer.unwrap()[0].clone();
    assert_eq!(text(site.client("SELECT nextval('s')", &[])), ["1000"]);
    assert_eq!(text(site.client("SELECT nextval('other.\"S\"'), nextval('s'::regclass)", &[])), ["1001", "1002"]);
    // Counted by Postgres: one value for each evaluation.
    let rows = site.client("SELECT 'x' || nextval('public.s') FROM generate_series(1, 2)", &[]).unwrap();
    assert_eq!(rows, [["x1003"], ["x1004"]]);
    assert_eq!(site.client("SELECT currval('s')", &[]).unwrap_err().0, "55000");
    assert_eq!(site.client("SELECT nextval('s' || '')", &[]).unwrap_err().0, "0A000");
}
