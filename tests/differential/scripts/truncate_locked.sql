-- TRUNCATE waits for rows that another session has locked.
---- schema
CREATE TABLE t (id int PRIMARY KEY, n int);
INSERT INTO t VALUES (1, 1), (2, 2);
---- run
INSERT INTO t VALUES (3, 3);
BEGIN;
SELECT id FROM t WHERE id = 1 FOR UPDATE;
@2& TRUNCATE t;
UPDATE t SET n = 10 WHERE id = 1;
COMMIT;
@2?;
SELECT * FROM t;
BEGIN;
@2 INSERT INTO t VALUES (4, 4);
SELECT id FROM t WHERE id = 4 FOR KEY SHARE;
@2& TRUNCATE t;
SELECT count(*) FROM t;
COMMIT;
@2?;
SELECT count(*) FROM t;
-- The other way round; what does not wait for rows waits for the table.
INSERT INTO t VALUES (5, 5);
BEGIN;
TRUNCATE t;
@2& SELECT id FROM t FOR UPDATE SKIP LOCKED;
INSERT INTO t VALUES (6, 6);
COMMIT;
@2?;
-- Readers of rows do not keep each other's table busy, and writers do not make them stale.
BEGIN;
SELECT id FROM t FOR UPDATE;
@2 INSERT INTO t VALUES (7, 7);
@2 SELECT id FROM t WHERE id = 7 FOR UPDATE NOWAIT;
COMMIT;
@2 BEGIN ISOLATION LEVEL REPEATABLE READ;
@2 SELECT count(*) FROM t;
INSERT INTO t VALUES (8, 8);
@2 SELECT id FROM t WHERE id = 7 FOR UPDATE;
@2 COMMIT;
