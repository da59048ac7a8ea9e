-- What is wrong with a statement's first row by itself is said before another session's row or unique value is waited for.
---- schema
CREATE DOMAIN small AS int CHECK (VALUE < 100);
CREATE TABLE t (id serial PRIMARY KEY, n int CHECK (n > 0), u int UNIQUE NOT NULL, s small);
CREATE TABLE parted (id int PRIMARY KEY, n int CHECK (n > 0)) PARTITION BY RANGE (id);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (10);
CREATE TABLE src (id int PRIMARY KEY, n int);
INSERT INTO t VALUES (1, 1, 1, 1), (2, 2, 2, 2);
INSERT INTO src VALUES (1, 0), (2, 1);
SELECT setval('t_id_seq', 100);
---- run
BEGIN;
INSERT INTO t VALUES (3, 3, 3);
INSERT INTO parted VALUES (3, 3);
@2& INSERT INTO t VALUES (3, 0, 7);
@2?;
@2& INSERT INTO t VALUES (3, 1, NULL);
@2?;
@2& INSERT INTO t VALUES (3, 1, 7, 100);
@2?;
ROLLBACK;
-- Values of sequences that it took are gone.
BEGIN;
INSERT INTO t VALUES (3, 3, 3);
INSERT INTO parted VALUES (3, 3);
@2& INSERT INTO t (n, u) VALUES (0, 3);
@2?;
@2& INSERT INTO t VALUES (3, 0, 7) ON CONFLICT DO NOTHING;
@2?;
@2& INSERT INTO t VALUES (3, 0, 7) ON CONFLICT (id) DO UPDATE SET n = 5;
@2?;
@2& INSERT INTO t SELECT 3, n, 7 FROM src ORDER BY id;
@2?;
@2& INSERT INTO parted VALUES (3, 0);
@2?;
@2& WITH w AS (INSERT INTO t VALUES (3, 0, 7) RETURNING *) SELECT * FROM w;
@2?;
-- The first row by itself: also when it is passed over, whatever is wrong with the next.
INSERT INTO parted VALUES (2, 2);
INSERT INTO parted VALUES (2, 0), (20, 1) ON CONFLICT DO NOTHING;
INSERT INTO parted VALUES (2, 1), (20, 1) ON CONFLICT DO NOTHING;
INSERT INTO parted VALUES (2, 1), (2, 0) ON CONFLICT DO NOTHING;
-- Without a partition, nothing else is looked at.
UPDATE parted SET id = NULL WHERE id = 2;
UPDATE parted SET id = NULL, n = 0 WHERE id = 2;
UPDATE parted SET id = 20, n = 0 WHERE id = 2;
UPDATE parted SET n = 0 WHERE id = 2;
-- In a transaction that has read before: nothing of it is in the way afterwards.
@2 BEGIN ISOLATION LEVEL REPEATABLE READ;
@2 SELECT count(*) FROM t;
@2& INSERT INTO t VALUES (3, -1, 3);
@2?;
@2 ROLLBACK;
-- A later row of it is not looked at until the first is in.
@2& INSERT INTO t VALUES (3, 1, 7), (9, 0, 9);
COMMIT;
@2?;
-- The first is in, and the second is wrong by itself.
BEGIN;
INSERT INTO t VALUES (5, 5, 5);
@2& INSERT INTO t VALUES (5, 1, 8), (6, 0, 9);
ROLLBACK;
@2?;
BEGIN;
INSERT INTO t VALUES (5, 5, 5);
@2& INSERT INTO t VALUES (5, 1, 8);
ROLLBACK;
@2?;
@2 INSERT INTO t (n, u) VALUES (1, 10) RETURNING id;
SELECT * FROM t ORDER BY id;
-- UPDATE and MERGE: before the row itself is waited for, at both levels.
BEGIN;
UPDATE t SET n = n + 10 WHERE id <= 2;
UPDATE parted SET n = n + 10;
@2& UPDATE t SET n = 0 WHERE id = 1;
@2?;
@2& UPDATE t SET u = NULL WHERE id = 1;
@2?;
@2& UPDATE t SET n = s.n FROM src s WHERE s.id = t.id AND t.id = 1;
@2?;
@2& UPDATE parted SET n = 0 WHERE id = 3;
@2?;
@2& MERGE INTO t USING src s ON s.id = t.id AND s.id = 1 WHEN MATCHED AND t.u > 100 THEN DELETE WHEN MATCHED THEN UPDATE SET n = s.n;
@2?;
@2& MERGE INTO t USING src s ON s.id = t.id AND s.id = 2 WHEN MATCHED THEN UPDATE SET n = s.n;
COMMIT;
@2?;
BEGIN;
UPDATE t SET n = 0 - n + 100 WHERE id = 1;
@2 BEGIN ISOLATION LEVEL REPEATABLE READ;
@2 SELECT count(*) FROM t;
@2& UPDATE t SET n = 0 WHERE id = 1;
@2?;
@2 ROLLBACK;
-- What is wrong only with the row as the other leaves it.
@2& UPDATE t SET n = n - 50 WHERE id = 1;
ROLLBACK;
@2?;
BEGIN;
UPDATE t SET n = 1 WHERE id = 1;
@2& UPDATE t SET n = n - 5 WHERE id = 1;
COMMIT;
@2?;
SELECT * FROM t ORDER BY id;
