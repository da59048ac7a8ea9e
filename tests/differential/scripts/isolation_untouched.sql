-- What another session's transaction has found, locked or judged, and left as it was, is not changed when it commits:
-- an older snapshot may write it.
---- schema
CREATE TABLE t (id int PRIMARY KEY, b int);
CREATE TABLE u (id int PRIMARY KEY, t int REFERENCES t, u int UNIQUE);
INSERT INTO t VALUES (0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (5, 5);
INSERT INTO u VALUES (1, 1, 1);
---- run
@2 BEGIN ISOLATION LEVEL REPEATABLE READ;
@2 SELECT count(*) FROM t;
INSERT INTO t VALUES (0, 5) ON CONFLICT DO NOTHING;
@2 UPDATE t SET b = 10 WHERE id = 0;
@2 COMMIT;
-- Beside something that is changed.
@2 BEGIN ISOLATION LEVEL REPEATABLE READ;
@2 SELECT count(*) FROM t;
INSERT INTO t VALUES (0, 5), (10, 10) ON CONFLICT DO NOTHING;
@2 UPDATE t SET b = 11 WHERE id = 0 RETURNING *;
@2 SELECT * FROM t ORDER BY id;
@2 COMMIT;
@2 BEGIN ISOLATION LEVEL REPEATABLE READ;
@2 SELECT count(*) FROM t;
INSERT INTO t VALUES (1, 5), (2, 2) ON CONFLICT (id) DO UPDATE SET b = excluded.b * 100 WHERE t.b = 2 RETURNING *;
@2 UPDATE t SET b = 12 WHERE id = 1 RETURNING *;
@2 UPDATE t SET b = 12 WHERE id = 2;
@2 ROLLBACK;
-- Locked with FOR UPDATE, another row written.
@2 BEGIN ISOLATION LEVEL REPEATABLE READ;
@2 SELECT count(*) FROM t;
BEGIN;
SELECT * FROM t WHERE id IN (3, 4) FOR UPDATE;
UPDATE t SET b = 40 WHERE id = 4;
COMMIT;
@2 UPDATE t SET b = 30 WHERE id = 3;
@2 UPDATE t SET b = 41 WHERE id = 4;
@2 ROLLBACK;
-- Written and undone.
@2 BEGIN ISOLATION LEVEL REPEATABLE READ;
@2 SELECT count(*) FROM t;
BEGIN;
SAVEPOINT s;
UPDATE t SET b = 50 WHERE id = 5;
ROLLBACK TO s;
UPDATE t SET b = 42 WHERE id = 4;
COMMIT;
@2 DELETE FROM t WHERE id = 5;
@2 COMMIT;
-- MERGE: rows that nothing is done to.
@2 BEGIN ISOLATION LEVEL REPEATABLE READ;
@2 SELECT count(*) FROM t;
MERGE INTO t USING (VALUES (1), (2)) s(id) ON t.id = s.id WHEN MATCHED AND t.id = 2 THEN UPDATE SET b = 22 WHEN MATCHED THEN DO NOTHING;
@2 UPDATE t SET b = 15 WHERE id = 1;
@2 DELETE FROM t WHERE id = 2;
@2 ROLLBACK;
-- A parent that has got a child: it may be updated, and not deleted.
@2 BEGIN ISOLATION LEVEL REPEATABLE READ;
@2 SELECT count(*) FROM t;
INSERT INTO u VALUES (2, 3, 2);
@2 UPDATE t SET b = 33 WHERE id = 3;
@2 DELETE FROM t WHERE id = 3;
@2 ROLLBACK;
-- Waited for, and then not changed: it does not match any more.
BEGIN;
UPDATE t SET b = 100 WHERE id = 1;
@3 BEGIN;
@3& UPDATE t SET b = 0 WHERE id = 1 AND b < 50;
@2 BEGIN ISOLATION LEVEL REPEATABLE READ;
COMMIT;
@3?;
@2 SELECT count(*) FROM t;
@3 UPDATE t SET b = 7 WHERE id = 4;
@3 COMMIT;
@2 UPDATE t SET b = 101 WHERE id = 1;
@2 UPDATE t SET b = 8 WHERE id = 4;
@2 ROLLBACK;
SELECT * FROM t ORDER BY id;
