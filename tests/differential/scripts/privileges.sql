-- Rights: of tables, columns and schemas, for reads and each kind of write; of views over pending rows.
---- schema
DO $$
BEGIN
  CREATE ROLE pr_reader;
EXCEPTION WHEN OTHERS THEN NULL;
END $$;
DO $$
BEGIN
  CREATE ROLE pr_writer;
EXCEPTION WHEN OTHERS THEN NULL;
END $$;
DO $$
BEGIN
  CREATE ROLE pr_viewer;
EXCEPTION WHEN OTHERS THEN NULL;
END $$;
CREATE SCHEMA locked;
CREATE TABLE unit(id int PRIMARY KEY, name text, secret text);
CREATE TABLE obs(id serial PRIMARY KEY, unit int, status text DEFAULT 'new');
CREATE TABLE upserted(id int PRIMARY KEY, n int, note text);
CREATE TABLE locked.t(id int PRIMARY KEY, v int);
CREATE TABLE wide(id int PRIMARY KEY, a text NOT NULL, b text, secret text);
CREATE TABLE blind(id int PRIMARY KEY, n int);
CREATE TABLE keyless(line text, secret text);
CREATE TABLE nokey(id int PRIMARY KEY, a text, secret text);
CREATE SEQUENCE counter;
CREATE VIEW wider AS SELECT id, secret FROM wide;
CREATE VIEW shown AS SELECT id, name FROM unit;
CREATE VIEW hidden AS SELECT id, secret FROM unit;
CREATE VIEW nested AS SELECT id, name FROM shown;
CREATE VIEW invoked WITH (security_invoker) AS SELECT id, name FROM unit;
CREATE VIEW other AS SELECT id, v FROM locked.t;
INSERT INTO unit SELECT i, 'unit ' || i, 'secret ' || i FROM generate_series(1, 4) i;
INSERT INTO obs(unit) SELECT i FROM generate_series(1, 4) i;
INSERT INTO upserted VALUES (1, 1, 'one'), (2, 2, 'two');
INSERT INTO locked.t VALUES (1, 1);
INSERT INTO wide SELECT i, 'a' || i, 'b' || i, 'secret ' || i FROM generate_series(1, 4) i;
INSERT INTO keyless VALUES ('one', 'secret');
INSERT INTO nokey VALUES (1, 'a', 'secret');
GRANT SELECT (id, a) ON wide TO pr_reader;
GRANT SELECT (id, a, b), UPDATE (b), INSERT (id, a) ON wide TO pr_writer;
GRANT SELECT ON wider TO pr_viewer;
GRANT SELECT (id) ON wide TO pr_viewer;
GRANT INSERT ON blind, keyless TO pr_writer;
GRANT SELECT (a) ON nokey TO pr_reader;
GRANT SELECT ON unit TO pr_reader;
GRANT SELECT ON shown, nested TO pr_reader;
GRANT SELECT (id) ON hidden TO pr_reader;
GRANT ALL ON locked.t TO pr_reader;
GRANT SELECT ON unit, obs, upserted TO pr_writer;
GRANT INSERT (id, n), UPDATE (n) ON upserted TO pr_writer;
GRANT INSERT, UPDATE (status), DELETE ON obs TO pr_writer;
GRANT SELECT ON shown, invoked, other TO pr_viewer;
---- run
---- only buffered
UPDATE unit SET name = 'changed' WHERE id = 1;
INSERT INTO unit VALUES (9, 'nine', 'secret nine');
INSERT INTO locked.t VALUES (2, 2);
INSERT INTO upserted VALUES (3, 3, 'three');
INSERT INTO wide VALUES (9, 'a9', 'b9', 'secret 9');
UPDATE wide SET a = 'changed', secret = 'other' WHERE id = 1;
UPDATE wide SET id = 22 WHERE id = 2;
DELETE FROM wide WHERE id = 3;
UPDATE nokey SET a = 'changed';
-- Reads of tables and views.
SET ROLE pr_reader;
SELECT * FROM unit ORDER BY id;
SELECT * FROM obs;
SELECT * FROM locked.t;
SELECT * FROM shown ORDER BY id;
SELECT * FROM nested ORDER BY id;
SELECT id FROM hidden ORDER BY id;
SELECT * FROM hidden;
SELECT secret FROM hidden;
SELECT u.id FROM unit u JOIN hidden h ON h.id = u.id AND h.secret IS NOT NULL;
SELECT * FROM invoked;
SELECT * FROM other;
SELECT (SELECT count(*) FROM invoked);
WITH v AS (SELECT * FROM invoked) SELECT count(*) FROM v;
COPY (SELECT * FROM invoked) TO STDOUT;
COPY (SELECT * FROM shown ORDER BY id) TO STDOUT;
COPY obs TO STDOUT;
BEGIN;
DECLARE c CURSOR FOR SELECT * FROM invoked;
ROLLBACK;
BEGIN;
DECLARE c CURSOR FOR SELECT * FROM shown ORDER BY id;
FETCH ALL FROM c;
ROLLBACK;
PREPARE p AS SELECT name FROM shown WHERE id = $1;
EXECUTE p(9);
SET ROLE pr_writer;
EXECUTE p(9);
SET ROLE pr_reader;
EXECUTE p(1);
-- Of some columns.
SELECT id, a FROM wide ORDER BY id;
SELECT a FROM wide WHERE id = 9;
SELECT count(*) FROM wide;
SELECT max(id) FROM wide WHERE a LIKE 'a%';
SELECT b FROM wide;
SELECT * FROM wide;
SELECT id FROM wide WHERE secret = 'x';
SELECT wide FROM wide;
SELECT w.id, u.name FROM wide w JOIN unit u USING (id) ORDER BY 1;
SELECT count(*) FROM wide NATURAL JOIN unit;
SELECT id, (SELECT a FROM wide w WHERE w.id = unit.id) FROM unit ORDER BY id;
SELECT id, (SELECT b FROM wide w WHERE w.id = unit.id) FROM unit ORDER BY id;
SELECT id, a FROM wide GROUP BY id ORDER BY id;
COPY wide (id, a) TO STDOUT;
COPY wide TO STDOUT;
COPY (SELECT a FROM wide ORDER BY id) TO STDOUT;
EXPLAIN (COSTS OFF) SELECT secret FROM wide;
PREPARE one AS SELECT a FROM wide WHERE id = $1;
EXECUTE one(9);
EXECUTE one(1);
BEGIN;
DECLARE c CURSOR FOR SELECT id, a FROM wide ORDER BY id;
FETCH ALL FROM c;
SELECT b FROM wide;
ROLLBACK;
SELECT id FROM wide FOR SHARE;
SELECT count(*) FROM wider;
---- refused 0A000: the rows are told apart by a column that may not be read
SELECT a FROM nokey;
SELECT secret FROM nokey;
SELECT id FROM unit WHERE id = 1 FOR UPDATE;
INSERT INTO unit VALUES (10);
UPDATE unit SET name = 'x';
DELETE FROM unit;
TRUNCATE unit;
-- A view's reader without rights on the table below.
SET ROLE pr_viewer;
---- refused 57P03: the view is expanded while rows are pending, and main cannot be reached
SELECT * FROM shown ORDER BY id;
---- refused 57P03: the same by its schema
SELECT * FROM other;
SELECT * FROM invoked;
SELECT * FROM nested;
SELECT * FROM unit;
SELECT id FROM wide ORDER BY id;
---- refused 57P03: it may read a column of the table, and the view another
SELECT * FROM wider ORDER BY id;
-- Writes.
SET ROLE pr_writer;
INSERT INTO obs(id, unit) VALUES (100, 1) RETURNING *;
INSERT INTO obs(id, unit) SELECT id + 100, id FROM shown;
INSERT INTO obs(id, unit) VALUES (102, (SELECT max(id) FROM shown));
UPDATE obs SET status = s.name FROM shown s WHERE s.id = obs.unit;
DELETE FROM obs USING shown s WHERE s.id = obs.unit;
UPDATE obs SET status = 'done' WHERE id = 1;
UPDATE obs SET unit = 2 WHERE id = 1;
UPDATE obs SET status = 'x', unit = 2 WHERE id = 1;
DELETE FROM obs WHERE id = 2;
TRUNCATE obs;
INSERT INTO obs(unit) VALUES (3);
SELECT nextval('counter');
SELECT id FROM obs WHERE id = 1 FOR UPDATE;
SELECT id FROM unit WHERE id = 1 FOR UPDATE;
SELECT id FROM unit WHERE id = 1 FOR SHARE;
---- refused 57P03: replay names all columns of new rows
INSERT INTO upserted(id, n) VALUES (4, 4);
INSERT INTO upserted(id, n, note) VALUES (5, 5, 'five');
---- refused 57P03: replay names all columns of new rows
INSERT INTO upserted VALUES (5, 5);
---- refused 57P03: replay names all columns of new rows
INSERT INTO upserted(id, n) VALUES (1, 10) ON CONFLICT DO NOTHING;
---- refused 57P03: replay names all columns of new rows
INSERT INTO upserted(id, n) VALUES (1, 10) ON CONFLICT (id) DO UPDATE SET n = excluded.n RETURNING *;
INSERT INTO upserted(id, n) VALUES (1, 10) ON CONFLICT (id) DO UPDATE SET note = 'no';
DELETE FROM upserted WHERE id = 1;
---- refused 57P03: replay names all columns of new rows
MERGE INTO upserted t USING unit u ON u.id = t.id WHEN MATCHED THEN UPDATE SET n = t.n + 1 WHEN NOT MATCHED THEN INSERT (id, n) VALUES (u.id, 0);
MERGE INTO upserted t USING unit u ON u.id = t.id WHEN MATCHED THEN DELETE;
MERGE INTO upserted t USING unit u ON u.id = t.id WHEN MATCHED THEN UPDATE SET note = 'no';
MERGE INTO upserted t USING shown u ON u.id = t.id WHEN MATCHED THEN UPDATE SET n = 1;
WITH gone AS (DELETE FROM upserted RETURNING id) SELECT * FROM gone;
WITH gone AS (DELETE FROM obs WHERE id = 3 RETURNING id) SELECT gone.id, s.name FROM gone, shown s;
WITH gone AS (DELETE FROM obs WHERE id = 3 RETURNING id) SELECT * FROM gone;
COPY obs(id, unit, status) FROM STDIN;
106	6	copied
\.
INSERT INTO keyless VALUES ('two');
INSERT INTO keyless VALUES ('three') RETURNING line;
INSERT INTO keyless(line) SELECT a FROM wide WHERE id = 1;
INSERT INTO keyless(line) SELECT secret FROM wide WHERE id = 1;
INSERT INTO obs(unit) SELECT id FROM wide WHERE b IS NOT NULL;
UPDATE upserted SET n = n + 1 WHERE id = 2;
UPDATE upserted SET n = n + 1, note = 'no' WHERE id = 2;
MERGE INTO upserted t USING unit u ON u.id = t.id WHEN MATCHED THEN UPDATE SET n = t.n + 1;
---- refused 57P03: it may not read all of what is to be changed
UPDATE wide SET b = 'written' WHERE id = 9;
---- refused 57P03: replay names all columns of new rows
INSERT INTO wide(id, a) VALUES (10, 'ten');
---- refused 57P03: it may not read the key
INSERT INTO blind VALUES (1, 1);
UPDATE wide SET a = 'no' WHERE id = 9;
UPDATE wide SET b = secret WHERE id = 9;
INSERT INTO wide(id, a, b) VALUES (10, 'ten', 'b');
DELETE FROM wide WHERE id = 9;
SELECT * FROM upserted ORDER BY id;
RESET ROLE;
SELECT * FROM wide ORDER BY id;
SELECT * FROM keyless;
SELECT * FROM obs ORDER BY id;
