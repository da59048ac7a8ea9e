-- Where BETWEEN ends: which rows are asked for hangs on it, and so does whether a statement can be read at all.
---- schema
CREATE TABLE t (id int PRIMARY KEY, a int, b int, "set" int, rows int, between boolean);
INSERT INTO t SELECT n, n, 10 - n, n % 3, n, n % 2 = 0 FROM generate_series(1, 6) n;
CREATE VIEW v AS SELECT * FROM t WHERE a BETWEEN 2 AND 5 OR b IS NOT DISTINCT FROM 100;
---- run
INSERT INTO t VALUES (7, 1, 3, 0, 0, true), (8, 7, 100, 1, 2, false);
UPDATE t SET a = a + 1 WHERE id IN (2, 3);
SELECT * FROM t WHERE a BETWEEN 1 AND 2 OR b = 3 AND id = 5 ORDER BY id;
SELECT * FROM t WHERE a BETWEEN 1 AND 2 OR id = 5 ORDER BY id;
SELECT * FROM t WHERE a BETWEEN 1 AND 2 AND id = 7 ORDER BY id;
SELECT * FROM t WHERE a NOT BETWEEN 2 AND 100 OR b IS NOT DISTINCT FROM 100 ORDER BY id;
SELECT * FROM t WHERE a BETWEEN SYMMETRIC 2 AND 1 OR b IN (100) AND id = 3 ORDER BY id;
SELECT id, a BETWEEN 1 AND 2 = between, NOT a BETWEEN 1 AND 2 OR between AS x FROM t ORDER BY id;
SELECT id, sum(a) OVER (ORDER BY id ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) FROM t WHERE rows BETWEEN 0 AND 2 OR between IS NULL ORDER BY id;
SELECT * FROM t between WHERE between.between AND id = 7;
SELECT * FROM v ORDER BY id;
SELECT * FROM v WHERE a BETWEEN 1 AND 3 OR b = 100 AND id = 1 ORDER BY id;
UPDATE t SET b = 0 WHERE a BETWEEN 1 AND 2 OR b IS NOT DISTINCT FROM 100 RETURNING *; SELECT count(*) FROM t WHERE b = 0;
DELETE FROM t WHERE a BETWEEN 1 AND 2 OR b = 3 AND id = 5 RETURNING *;
INSERT INTO t SELECT 20, a, b FROM t WHERE a BETWEEN 7 AND 7 OR b IS DISTINCT FROM b AND id = 1 RETURNING *;
INSERT INTO t VALUES (20, 1) ON CONFLICT (id) DO UPDATE SET a = excluded.a WHERE t.a BETWEEN 1 AND 7 OR t.id IS NULL RETURNING *;
MERGE INTO t USING (VALUES (20)) s(id) ON t.id = s.id WHEN MATCHED AND t.a BETWEEN 1 AND 2 OR t.b IS NOT DISTINCT FROM 4 THEN UPDATE SET a = 4;
SELECT * FROM t WHERE a BETWEEN 1 AND 2 OR;
SELECT * FROM t ORDER BY id;
-- Names that make it ambiguous: not read, and never answered wrongly.
---- refused 0A000: not read by our parser
SELECT * FROM t WHERE a BETWEEN set AND b OR b = 3 AND id = 5;
---- refused 0A000: not read by our parser
UPDATE t SET a = 1 WHERE a BETWEEN set AND b;
