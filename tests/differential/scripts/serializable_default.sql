-- A standby refuses to do anything when its default isolation level is SERIALIZABLE.
---- schema
CREATE TABLE t (id int PRIMARY KEY, n int);
INSERT INTO t VALUES (1, 1);
---- run
SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE;
INSERT INTO t VALUES (2, 2);
BEGIN;
UPDATE t SET n = n + 1;
SELECT * FROM t ORDER BY id;
COMMIT;
SET default_transaction_isolation TO 'serializable';
SELECT * FROM t ORDER BY id;
BEGIN ISOLATION LEVEL READ COMMITTED;
INSERT INTO t VALUES (3, 3);
COMMIT;
RESET default_transaction_isolation;
SELECT * FROM t ORDER BY id;
