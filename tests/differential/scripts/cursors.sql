-- Cursors over pending rows.
---- schema
CREATE TABLE t (id int PRIMARY KEY, v text);
INSERT INTO t SELECT g, 'base ' || g FROM generate_series(1, 5) g;
---- run
INSERT INTO t SELECT g, 'new ' || g FROM generate_series(6, 10) g;
UPDATE t SET v = 'changed' WHERE id = 2;
DELETE FROM t WHERE id = 4;
BEGIN;
DECLARE c SCROLL CURSOR FOR SELECT * FROM t ORDER BY id;
FETCH c;
FETCH NEXT FROM c;
FETCH 2 FROM c;
FETCH PRIOR FROM c;
FETCH BACKWARD 2 FROM c;
FETCH FIRST IN c;
FETCH LAST FROM c;
FETCH ABSOLUTE 3 FROM c;
FETCH ABSOLUTE -2 FROM c;
FETCH RELATIVE -2 FROM c;
FETCH RELATIVE 0 FROM c;
FETCH FORWARD ALL FROM c;
FETCH BACKWARD ALL FROM c;
MOVE 3 FROM c;
MOVE BACKWARD 1 IN c;
FETCH 1 FROM c;
MOVE LAST FROM c;
MOVE FORWARD ALL IN c;
FETCH 0 FROM c;
MOVE ABSOLUTE 0 FROM c;
FETCH ALL FROM c;
CLOSE c;
FETCH 1 FROM c;
ROLLBACK;
-- Names.
BEGIN;
FETCH 1 FROM nope;
ROLLBACK;
BEGIN;
CLOSE nope;
ROLLBACK;
DECLARE c CURSOR FOR SELECT * FROM t;
FETCH 1 FROM c;
BEGIN;
DECLARE c CURSOR FOR SELECT id FROM t ORDER BY id;
DECLARE c CURSOR FOR SELECT id FROM t ORDER BY id;
ROLLBACK;
BEGIN;
DECLARE "C d" NO SCROLL CURSOR FOR SELECT id FROM t ORDER BY id;
FETCH 3 FROM "C d";
FETCH PRIOR FROM "C d";
ROLLBACK;
BEGIN;
DECLARE c NO SCROLL CURSOR FOR SELECT id FROM t ORDER BY id;
FETCH 3 FROM c;
FETCH BACKWARD 1 FROM c;
ROLLBACK;
-- It does not see what its own transaction writes later.
BEGIN;
INSERT INTO t VALUES (11, 'own');
DECLARE c CURSOR FOR SELECT id FROM t ORDER BY id;
FETCH 2 FROM c;
INSERT INTO t VALUES (12, 'later');
DELETE FROM t WHERE id = 3;
UPDATE t SET id = 100 WHERE id = 5;
FETCH ALL FROM c;
SELECT id FROM t ORDER BY id;
CLOSE ALL;
ROLLBACK;
BEGIN;
DECLARE c INSENSITIVE CURSOR FOR SELECT count(*), max(v) FROM t;
DELETE FROM t;
FETCH c;
ROLLBACK;
-- WITH HOLD.
DECLARE h CURSOR WITH HOLD FOR SELECT * FROM t ORDER BY id;
INSERT INTO t VALUES (13, 'after h');
FETCH 3 FROM h;
DELETE FROM t WHERE id = 13;
FETCH ALL FROM h;
CLOSE h;
BEGIN;
INSERT INTO t VALUES (14, 'in the block');
DECLARE h SCROLL CURSOR WITH HOLD FOR SELECT id FROM t WHERE id > 8 ORDER BY id;
FETCH 1 FROM h;
COMMIT;
FETCH ALL FROM h;
FETCH ABSOLUTE 1 FROM h;
CLOSE h;
BEGIN;
INSERT INTO t VALUES (15, 'never');
DECLARE h CURSOR WITH HOLD FOR SELECT id FROM t WHERE id > 8 ORDER BY id;
ROLLBACK;
FETCH ALL FROM h;
-- Savepoints.
BEGIN;
SAVEPOINT a;
DECLARE c CURSOR FOR SELECT id FROM t ORDER BY id;
FETCH 1 FROM c;
ROLLBACK TO a;
FETCH 1 FROM c;
ROLLBACK;
BEGIN;
DECLARE c CURSOR FOR SELECT id FROM t ORDER BY id;
SAVEPOINT a;
INSERT INTO t VALUES (16, 'undone');
FETCH 1 FROM c;
ROLLBACK TO a;
FETCH 1 FROM c;
COMMIT;
-- Joins, aggregates, parameters.
BEGIN;
DECLARE j CURSOR FOR SELECT a.id, b.v FROM t a JOIN t b ON b.id = a.id + 1 WHERE a.id < 9 ORDER BY 1;
FETCH ALL FROM j;
DECLARE g CURSOR FOR SELECT left(v, 3), count(*) FROM t GROUP BY 1 ORDER BY 1;
FETCH ALL FROM g;
---- differs: our own portal of the query itself is listed, and a merged query can be scrolled more often
SELECT name, is_holdable, is_scrollable FROM pg_cursors ORDER BY name;
COMMIT;
SELECT count(*) FROM pg_cursors WHERE name <> '';
-- FOR UPDATE and WHERE CURRENT OF.
BEGIN;
DECLARE u CURSOR FOR SELECT id FROM t ORDER BY id;
FETCH 1 FROM u;
---- refused 0A000: WHERE CURRENT OF
UPDATE t SET v = 'current' WHERE CURRENT OF u;
ROLLBACK;
BEGIN;
DECLARE u CURSOR FOR SELECT id FROM t ORDER BY id;
FETCH 1 FROM u;
---- refused 0A000: WHERE CURRENT OF
DELETE FROM t WHERE CURRENT OF u;
ROLLBACK;
BEGIN;
---- refused 0A000: WHERE CURRENT OF
UPDATE t SET v = 'x' WHERE CURRENT OF unknown;
ROLLBACK;
-- EXPLAIN.
---- differs: the plan is that of the rewritten statement
EXPLAIN (COSTS OFF) SELECT * FROM t WHERE id = 7;
---- differs: the plan is that of the rewritten statement
EXPLAIN (ANALYZE, FORMAT JSON) SELECT * FROM t WHERE id = 7;
---- differs: the plan is that of the evaluation
EXPLAIN INSERT INTO t VALUES (50, 'x');
PREPARE q (int) AS SELECT v FROM t WHERE id = $1;
EXECUTE q (7);
---- differs: the plan is that of the rewritten statement
EXPLAIN (COSTS OFF) EXECUTE q (7);
EXECUTE q (2);
SELECT v FROM t WHERE id = 7;
-- DISCARD.
DISCARD PLANS;
EXECUTE q (8);
DISCARD TEMP;
EXECUTE q (8);
BEGIN;
DISCARD ALL;
ROLLBACK;
SET work_mem = '2MB';
DECLARE h CURSOR WITH HOLD FOR SELECT id FROM t ORDER BY id;
DISCARD ALL;
FETCH 1 FROM h;
EXECUTE q (8);
SHOW work_mem;
SELECT v FROM t WHERE id = 8;
INSERT INTO t VALUES (60, 'after discard');
-- Advisory locks.
SELECT pg_advisory_lock(1);
@2 SELECT pg_try_advisory_lock(1);
@2& SELECT pg_advisory_lock(1);
SELECT pg_advisory_unlock(1);
@2?;
SELECT pg_try_advisory_lock(1);
@2 SELECT pg_advisory_unlock(1);
@2 SELECT pg_advisory_unlock(1);
BEGIN;
SELECT pg_advisory_xact_lock(2, 3);
INSERT INTO t VALUES (61, 'locked');
@2& SELECT pg_advisory_xact_lock(2, 3);
COMMIT;
@2?;
@2 BEGIN;
@2 SELECT pg_try_advisory_xact_lock(5), count(*) FROM t;
SELECT pg_try_advisory_xact_lock(5);
@2 ROLLBACK;
SELECT pg_try_advisory_xact_lock(5);
SELECT pg_advisory_unlock_all();
SELECT * FROM t ORDER BY id;
