-- INSERT of queries of which only Postgres knows how many columns they have.
---- schema
CREATE TABLE w (id int PRIMARY KEY, a text DEFAULT 'a', b int DEFAULT 5, s serial, d timestamptz, arr int[] DEFAULT '{1}');
CREATE TABLE two (id int PRIMARY KEY, a text);
CREATE TABLE other (id int PRIMARY KEY, n int);
CREATE TYPE pair AS (id int, t text);
CREATE FUNCTION pairs(int) RETURNS SETOF pair IMMUTABLE LANGUAGE sql AS $$ SELECT $1 + i, 'f' || i FROM generate_series(1, 2) i $$;
CREATE TABLE fixed (a int, n information_schema.character_data, z int DEFAULT 9);
---- run
INSERT INTO two VALUES (1, 'one'), (2, 'two');
INSERT INTO other VALUES (1, 10), (2, 20);
INSERT INTO w SELECT * FROM (SELECT * FROM two) x RETURNING *;
INSERT INTO w SELECT * FROM (SELECT id + 10, a, 77 AS b FROM two ORDER BY id DESC) x;
INSERT INTO w SELECT * FROM generate_series(21, 23);
INSERT INTO w SELECT * FROM pairs(30);
INSERT INTO w SELECT x.* FROM pairs(40) x ORDER BY id DESC;
INSERT INTO w SELECT t.id + 50, x.* FROM two t NATURAL JOIN (SELECT id, n FROM other) o, LATERAL (SELECT t.a) x;
INSERT INTO w WITH q AS (SELECT id + 60, a FROM two) SELECT * FROM q;
INSERT INTO w SELECT * FROM (SELECT id + 70 AS id, a FROM two) t JOIN (SELECT id + 70 AS id, n FROM other) o USING (id) RETURNING id, a, b;
INSERT INTO w SELECT * FROM (VALUES (80, 'v', NULL::int), (81, NULL, 3)) v;
INSERT INTO w SELECT * FROM (VALUES (90, 'v', 1, 900, '2020-01-01 00:00+00'::timestamptz, '{3,4}'::int[])) v;
INSERT INTO w SELECT * FROM (VALUES (90, 'v', 1, 900, '2020-01-01 00:00+00'::timestamptz, '{3,4}'::int[], 7)) v;
INSERT INTO w SELECT * FROM (SELECT 1) x;
INSERT INTO w SELECT * FROM (SELECT 1) x ON CONFLICT (id) DO UPDATE SET a = excluded.a || w.b RETURNING *;
INSERT INTO w SELECT * FROM (SELECT 'x'::text) x;
INSERT INTO fixed SELECT * FROM (SELECT 1, 'YES'::information_schema.character_data) x;
INSERT INTO fixed SELECT * FROM (SELECT 2) x;
SELECT * FROM fixed ORDER BY a;
SELECT id, a, b, s, d, arr FROM w ORDER BY id;
