//! Rows as a whole, `tableoid`, names with and without schema: over pending rows, and over the tables that hold them.

use pgoutpost::overlay::Overlay;

use crate::site::Site;

const SCHEMA: &str = "
    CREATE TABLE unit(id int PRIMARY KEY, gone int, name text, unit2 int);
    ALTER TABLE unit DROP COLUMN gone;
    CREATE SCHEMA other; CREATE TABLE other.unit(id int PRIMARY KEY, x text);
    CREATE TABLE obs(id int PRIMARY KEY, unit int, status text);
    CREATE TABLE shadow(shadow int PRIMARY KEY, v text);
    CREATE FUNCTION label(unit) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT $1.id || ''/'' || $1.name';
    CREATE FUNCTION public.first(unit, int) RETURNS unit LANGUAGE sql IMMUTABLE AS 'SELECT $1';
    CREATE VIEW wide AS SELECT u.*, o.status, o AS obs FROM unit u JOIN obs o ON o.unit = u.id;
    CREATE VIEW renamed(a, b) AS SELECT id, name FROM unit WHERE id > 1;
    CREATE VIEW nested AS SELECT r.a, w.status FROM renamed r LEFT JOIN wide w ON w.id = r.a;
    CREATE VIEW barrier WITH (security_barrier) AS SELECT * FROM unit WHERE id < 3;
    INSERT INTO unit SELECT i, 'unit ' || i, i FROM generate_series(1, 5) i;
    INSERT INTO other.unit SELECT i, 'other ' || i FROM generate_series(1, 3) i;
    INSERT INTO obs SELECT i, i, 'old' FROM generate_series(1, 4) i;
    INSERT INTO shadow VALUES (1, 'one');";

const WRITES: [&str; 8] = [
    "UPDATE unit SET name = 'renamed' WHERE id = 2",
    "DELETE FROM unit WHERE id = 3",
    "INSERT INTO unit VALUES (10, 'ten', 1), (11, NULL, NULL)",
    "UPDATE other.unit SET x = 'changed' WHERE id = 1",
    "INSERT INTO other.unit VALUES (10, NULL)",
    "UPDATE obs SET unit = 10 WHERE id = 1",
    "INSERT INTO obs VALUES (7, 77, NULL)",
    "INSERT INTO shadow VALUES (2, 'two')",
];

const QUERIES: &[&str] = &[
    "SELECT unit FROM unit ORDER BY id",
    "SELECT pg_typeof(u), u FROM unit u ORDER BY 2",
    "SELECT u::text, (u), u.* FROM unit u ORDER BY u",
    "SELECT row_to_json(u), to_jsonb(u.*) FROM unit u ORDER BY id",
    "SELECT count(u), count(u.*), count(o), count(*) FROM unit u LEFT JOIN obs o ON o.unit = u.id",
    "SELECT u.id FROM obs o LEFT JOIN unit u ON o.unit = u.id WHERE u IS NULL ORDER BY 1",
    "SELECT o.id, u FROM obs o LEFT JOIN unit u ON o.unit = u.id ORDER BY 1",
    "SELECT o.id, u IS NULL, u IS NOT NULL, u IS DISTINCT FROM NULL FROM obs o FULL JOIN unit u ON o.unit = u.id ORDER BY 1, u.id",
    "SELECT ROW(u.*), ROW(u, 1), ROW(u.*, 1) FROM unit u ORDER BY u.id",
    "SELECT (u).name, ((u)).id FROM unit u ORDER BY 2",
    "SELECT label(u), label(u.*), u.label FROM unit u ORDER BY u.id",
    "SELECT (first(u, 1)).name FROM unit u ORDER BY u.id",
    "SELECT array_agg(u ORDER BY id) FROM unit u",
    "SELECT array_agg(unit ORDER BY id) FROM obs",
    "SELECT shadow, pg_typeof(shadow) FROM shadow ORDER BY 1",
    "SELECT s.shadow, pg_typeof(s) FROM shadow s ORDER BY 1",
    "SELECT q.u, pg_typeof(q.u) FROM (SELECT u FROM unit u) q ORDER BY q.u",
    "SELECT (q.unit).name FROM (SELECT unit FROM unit) q ORDER BY 1",
    "SELECT DISTINCT u FROM unit u ORDER BY u",
    "SELECT u, count(*) FROM unit u GROUP BY u ORDER BY u",
    "SELECT id AS u FROM unit u ORDER BY u DESC",
    "SELECT (SELECT u.name FROM obs o WHERE o.unit = u.id LIMIT 1), (SELECT u) FROM unit u ORDER BY u.id",
    "SELECT u FROM unit u WHERE u = ROW(2, 'renamed', 2)::unit",
    "SELECT u FROM unit u WHERE (u.*) = (2, 'renamed', 2)",
    "SELECT u FROM unit AS u(a, b) ORDER BY a",
    "SELECT row_to_json(u) FROM unit AS u(a, b) ORDER BY a",
    "SELECT u FROM unit u, LATERAL (SELECT u.id AS x) q WHERE q.x > 3 ORDER BY 1",
    "SELECT q.l FROM unit u, LATERAL (SELECT label(u) AS l) q ORDER BY u.id",
    "WITH u AS (SELECT * FROM unit) SELECT row_to_json(u) FROM u ORDER BY id",
    "SELECT tableoid::regclass, id FROM unit ORDER BY id",
    "SELECT unit.tableoid::regclass, * FROM unit ORDER BY id",
    "SELECT tableoid::regclass, unit.*, unit FROM unit ORDER BY id",
    "SELECT u.tableoid::regclass, * FROM unit u, generate_series(1, 2) g ORDER BY u.id, g",
    "SELECT o.id, u.tableoid::regclass FROM obs o LEFT JOIN unit u ON o.unit = u.id ORDER BY 1",
    "SELECT public.unit.name, other.unit.x FROM public.unit, other.unit WHERE public.unit.id = other.unit.id ORDER BY 1",
    "SELECT public.unit.*, x FROM public.unit JOIN other.unit ON public.unit.id = other.unit.id ORDER BY 1",
    "SELECT * FROM public.unit JOIN other.unit USING (id) ORDER BY 1",
    "SELECT * FROM public.unit NATURAL JOIN other.unit ORDER BY 1",
    "SELECT public.unit, other.unit FROM public.unit, other.unit WHERE public.unit.id = other.unit.id ORDER BY 1",
    "SELECT id, (SELECT x FROM other.unit WHERE other.unit.id = public.unit.id) FROM public.unit ORDER BY 1",
    "SELECT id, (SELECT max(unit.id) FROM other.unit WHERE unit.id < public.unit.id) FROM public.unit ORDER BY 1",
    "SELECT a, b, unit2 FROM unit AS u(a, b) ORDER BY a",
    "SELECT * FROM unit u JOIN obs o(oid, id) USING (id) ORDER BY 1, 4",
    "SELECT j.id, u.name FROM unit u JOIN other.unit x USING (id) AS j ORDER BY 1",
    "SELECT id, unit.id FROM unit JOIN shadow ON id = shadow ORDER BY 1",
    "WITH unit AS (SELECT 5 AS id) SELECT unit.id, p.name FROM unit JOIN public.unit p USING (id)",
    "WITH RECURSIVE r AS (SELECT id, name FROM unit WHERE id = 1 UNION ALL SELECT u.id, u.name FROM r JOIN unit u ON u.id = r.id * 10) SELECT r, r.* FROM r ORDER BY 2",
    "SELECT u.id, l.status FROM unit u LEFT JOIN LATERAL (SELECT status FROM obs o WHERE o.unit = u.id LIMIT 1) l ON true ORDER BY 1",
    "SELECT * FROM wide ORDER BY id",
    "SELECT w, pg_typeof(w) FROM wide w ORDER BY id",
    "SELECT (w.obs).status, pg_typeof(w.obs) FROM wide w ORDER BY id",
    "SELECT * FROM renamed ORDER BY a",
    "SELECT renamed FROM renamed ORDER BY a",
    "SELECT x.k, x.b FROM renamed x(k) ORDER BY 1",
    "SELECT * FROM nested ORDER BY 1, 2",
    "SELECT * FROM barrier ORDER BY 1",
    "SELECT v.* FROM (SELECT unit.* FROM unit) v ORDER BY 1",
    "SELECT id FROM unit ORDER BY unit.name NULLS FIRST, unit",
    "SELECT CASE WHEN u.id > 3 THEN u END FROM unit u ORDER BY u.id",
    "SELECT coalesce(u, NULL) FROM unit u ORDER BY id",
    "SELECT u.id FROM unit u WHERE EXISTS (SELECT u.* FROM obs WHERE obs.unit = u.id) ORDER BY 1",
    "SELECT EXISTS (SELECT unit FROM unit WHERE id = 10)",
    "SELECT max(u.name) FROM unit u GROUP BY u.tableoid",
];

#[test]
fn names_and_rows_mean_what_they_mean_in_postgres() {
    compare("relations", SCHEMA, &WRITES, QUERIES);
}

fn compare(label: &str, schema: &str, writes: &[&str], queries: &[&str]) {
    let mut site = Site::new(label, schema);
    for write in writes {
        site.client(write, &[]).unwrap_or_else(|error| panic!("{error:?} in {write}"));
    }
    let merged: Vec<_> = queries.iter().map(|query| (site.client(query, &[]), site.sent.clone())).collect();
    for write in writes {
        site.bare(write, &[]).unwrap();
    }
    site.overlay = Overlay::default();
    let mut wrong = Vec::new();
    for (query, (ours, sent)) in queries.iter().zip(merged) {
        let theirs = site.bare(query, &[]);
        if ours != theirs {
            wrong.push(format!("{query}\n   ours   {ours:?}\n   theirs {theirs:?}\n   sent   {sent}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
