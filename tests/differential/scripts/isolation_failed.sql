-- A transaction that has failed keeps nobody waiting: what it has written since the last savepoint is free at once.
---- schema
CREATE TABLE t (id int PRIMARY KEY, b int CHECK (b < 100), u int UNIQUE);
INSERT INTO t VALUES (1, 1, 1), (2, 2, 2), (3, 3, 3);
---- run
BEGIN;
UPDATE t SET b = 10 WHERE id = 1;
UPDATE t SET b = 100 WHERE id = 2;
@2& UPDATE t SET b = b + 1 WHERE id = 1 RETURNING *;
@2?;
SELECT 1;
ROLLBACK;
BEGIN;
UPDATE t SET b = 20 WHERE id = 1;
SAVEPOINT s;
UPDATE t SET b = 20 WHERE id = 2;
INSERT INTO t VALUES (9, 9, 9);
INSERT INTO t VALUES (9, 9, 10);
@2& UPDATE t SET b = b + 1 WHERE id = 2 RETURNING *;
@2?;
@2& INSERT INTO t VALUES (9, 90, 9) RETURNING *;
@2?;
@2& UPDATE t SET b = b + 1 WHERE id = 1 RETURNING *;
ROLLBACK TO s;
UPDATE t SET b = 30 WHERE id = 3;
COMMIT;
@2?;
BEGIN;
SAVEPOINT s;
UPDATE t SET b = 40 WHERE id = 3;
RELEASE s;
SELECT 1 / 0;
@2& UPDATE t SET b = b + 1 WHERE id = 3 RETURNING *;
@2?;
COMMIT;
SELECT * FROM t ORDER BY id;
