-- Members of WITH that several parts read, whose result depends on the order of rows: evaluated once.
---- schema
CREATE TABLE queue(id int, batch int, payload text, PRIMARY KEY (id, batch)) WITH (fillfactor = 100);
CREATE TABLE done(id int, batch int, payload text, PRIMARY KEY (id, batch));
CREATE TABLE lot(ids int[] PRIMARY KEY);
CREATE TABLE lots(ids int[] PRIMARY KEY, n numeric(8,2), at timestamptz, who text COLLATE "C", j jsonb);
CREATE FUNCTION dice() RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RETURN (random() * 1e9)::int; END $$;
CREATE TABLE left_of(id int PRIMARY KEY);
CREATE TABLE right_of(id int PRIMARY KEY);
CREATE TABLE t(id int PRIMARY KEY, n int);
CREATE VIEW few AS SELECT * FROM queue ORDER BY batch LIMIT 7;
INSERT INTO queue SELECT i, i % 3, repeat('x', 10) FROM generate_series(1, 300) i;
INSERT INTO t SELECT i, i FROM generate_series(1, 10) i;
---- run
---- only buffered
INSERT INTO queue SELECT i, 7, 'pending' FROM generate_series(1, 5) i;
---- differs: some of them
WITH s AS (SELECT dice() AS id LIMIT 1), two AS (SELECT id FROM s), i AS (INSERT INTO left_of SELECT id FROM two) INSERT INTO right_of SELECT id FROM s;
SELECT count(*) > 0, (SELECT count(*) FROM left_of FULL JOIN right_of USING (id)) - count(*) FROM left_of JOIN right_of USING (id);
---- differs: as many as there were
DELETE FROM left_of;
---- differs: as many as there were
DELETE FROM right_of;
WITH batch AS (SELECT id, batch, payload FROM queue LIMIT 20), d AS (DELETE FROM queue WHERE (id, batch) IN (SELECT id, batch FROM batch)) INSERT INTO done SELECT * FROM batch;
SELECT count(*), count(DISTINCT (id, batch)) FROM (SELECT id, batch FROM done UNION ALL SELECT id, batch FROM queue) s;
WITH batch AS (SELECT id, batch, payload FROM queue ORDER BY payload LIMIT 20), d AS (DELETE FROM queue USING batch WHERE queue.id = batch.id AND queue.batch = batch.batch RETURNING queue.id), i AS (INSERT INTO done SELECT * FROM batch RETURNING id) SELECT (SELECT count(*) FROM d JOIN batch USING (id)), (SELECT count(*) FROM i);
WITH few AS (SELECT * FROM few), d AS (DELETE FROM queue WHERE EXISTS (SELECT FROM few WHERE few.id = queue.id AND few.batch = queue.batch)) INSERT INTO done(id, batch) SELECT id, batch FROM few;
WITH b AS (SELECT DISTINCT ON (batch) * FROM queue ORDER BY batch), c(one, two) AS (SELECT * FROM b), d AS (DELETE FROM queue USING c WHERE queue.id = one AND queue.batch = two) INSERT INTO done SELECT * FROM c;
WITH a AS (SELECT array_agg(id) AS ids FROM t WHERE id < 6), i AS (INSERT INTO lot SELECT ids FROM a) INSERT INTO lots SELECT ids, 1.5, '2026-01-01', 'ä', '{"a": [1]}' FROM a RETURNING n, at;
WITH a AS (SELECT n, at, who, j, NULL::int AS none, 'lit' AS lit FROM lots LIMIT 1), i AS (INSERT INTO done SELECT 1000, none + 1, lit FROM a), j AS (INSERT INTO t SELECT 1000, n FROM a RETURNING *) SELECT a.*, pg_typeof(n), pg_typeof(lit) FROM a, j;
WITH a AS (SELECT id FROM t ORDER BY id DESC FETCH FIRST 3 ROWS ONLY), d AS (DELETE FROM t WHERE id IN (SELECT id FROM a)) SELECT * FROM a;
WITH a AS (SELECT id, row_number() OVER (ORDER BY n) AS r FROM t), d AS (DELETE FROM t USING a WHERE a.id = t.id AND r = 2 RETURNING t.id) SELECT a.id FROM a, d WHERE r = 3;
WITH a AS (SELECT id FROM t WHERE false LIMIT 1), d AS (DELETE FROM t WHERE id IN (SELECT id FROM a)) SELECT count(*) FROM a;
WITH a AS (SELECT 1 / (id - 3) AS x FROM t ORDER BY id LIMIT 5), d AS (DELETE FROM t WHERE id IN (SELECT x FROM a)) SELECT * FROM a;
BEGIN;
WITH a AS (SELECT id FROM t ORDER BY n LIMIT 2), d AS (DELETE FROM t WHERE id IN (SELECT id FROM a)) SELECT * FROM a ORDER BY id;
WITH a AS (SELECT id FROM t ORDER BY n LIMIT 2), d AS (DELETE FROM t WHERE id IN (SELECT id FROM a)) SELECT * FROM a ORDER BY id;
ROLLBACK;
BEGIN ISOLATION LEVEL REPEATABLE READ;
WITH a AS (SELECT id FROM t ORDER BY n LIMIT 2), d AS (DELETE FROM t WHERE id IN (SELECT id FROM a)) SELECT * FROM a ORDER BY id;
COMMIT;
WITH x AS (SELECT 1 AS i), y AS (WITH x AS (SELECT 5 AS i) DELETE FROM t USING x WHERE t.id = x.i RETURNING t.id) SELECT * FROM y;
WITH x AS (SELECT 1 AS i), y AS (WITH x AS (SELECT 6 AS i) DELETE FROM t USING x WHERE t.id = x.i RETURNING t.id) SELECT * FROM x, y;
SELECT id, n FROM t ORDER BY id;
SELECT count(*), count(DISTINCT (id, batch)) FROM (SELECT id, batch FROM done UNION ALL SELECT id, batch FROM queue) s;
---- differs: which rows
DELETE FROM lot;
---- differs: which rows
DELETE FROM lots;
---- differs: which rows
DELETE FROM queue;
---- differs: which rows
DELETE FROM done;
