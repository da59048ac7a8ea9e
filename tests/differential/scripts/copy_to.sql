-- COPY … TO STDOUT of tables and queries whose rows are pending.
---- schema
CREATE TABLE t (id int PRIMARY KEY, name text, n numeric(6,2), tags text[], at timestamptz, g int GENERATED ALWAYS AS (id * 2) STORED, b bytea);
CREATE TABLE "Odd name" ("a b" int PRIMARY KEY, "Q""x" text);
CREATE VIEW v AS SELECT id, name FROM t WHERE id > 1;
INSERT INTO t (id, name, n, tags, at, b) VALUES (1, 'one', 1.5, '{a,b}', '2026-01-01 00:00:00Z', '\x00ff');
---- run
INSERT INTO t (id, name, n, tags, at, b) VALUES (2, E'tab\there, "quoted"\nnew \\ line', NULL, '{"x y",NULL}', '2026-02-01 00:00:00Z', '\x01'), (3, '', 2, NULL, NULL, NULL), (4, NULL, 3, '{}', NULL, '\x');
UPDATE t SET name = 'eins' WHERE id = 1;
DELETE FROM t WHERE id = 3;
INSERT INTO "Odd name" VALUES (1, 'x'), (2, NULL);
COPY (SELECT * FROM t ORDER BY id) TO STDOUT;
COPY (SELECT * FROM t ORDER BY id) TO STDOUT (FORMAT csv, HEADER);
COPY (SELECT * FROM t ORDER BY id) TO STDOUT (FORMAT csv, FORCE_QUOTE *, NULL 'nil', DELIMITER ';', QUOTE '''', ESCAPE '\');
COPY (SELECT id, name FROM t ORDER BY id) TO STDOUT (FORMAT binary);
COPY (SELECT name, count(*) FROM t GROUP BY name ORDER BY name) TO STDOUT WITH CSV HEADER;
COPY t TO STDOUT;
COPY t (name, id) TO STDOUT (FORMAT csv);
COPY t (id, g) TO STDOUT;
COPY "Odd name" TO STDOUT (FORMAT csv, HEADER);
COPY "Odd name" ("Q""x", "a b") TO STDOUT WITH CSV HEADER;
COPY (SELECT * FROM v ORDER BY id) TO STDOUT;
COPY (VALUES (1, 'a'), (2, NULL)) TO STDOUT;
COPY (WITH x AS (SELECT * FROM t WHERE id > 1) SELECT name FROM x ORDER BY id) TO STDOUT;
COPY t (nope) TO STDOUT;
COPY nope TO STDOUT;
COPY v TO STDOUT;
COPY t TO STDOUT (FORMAT xyz);
COPY (SELECT 1/0 FROM t) TO STDOUT;
BEGIN;
DELETE FROM t WHERE id = 2;
COPY (SELECT id FROM t ORDER BY id) TO STDOUT;
ROLLBACK;
COPY (SELECT id FROM t ORDER BY id) TO STDOUT;
