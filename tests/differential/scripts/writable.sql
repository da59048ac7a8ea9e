-- A site looks like a server that can be written, and lets lock what readers and writers lock.
---- schema
CREATE TABLE t (id int PRIMARY KEY, n int);
---- run
SHOW transaction_read_only;
INSERT INTO t VALUES (1, 1);
BEGIN;
SHOW transaction_read_only;
LOCK TABLE t IN ACCESS SHARE MODE;
LOCK t IN ROW SHARE MODE;
LOCK TABLE t IN ROW EXCLUSIVE MODE NOWAIT;
INSERT INTO t VALUES (2, 2);
SHOW "transaction_read_only";
COMMIT;
BEGIN READ ONLY;
SHOW transaction_read_only;
LOCK t IN ACCESS SHARE MODE;
INSERT INTO t VALUES (3, 3);
SHOW transaction_read_only;
ROLLBACK;
SET default_transaction_read_only = on;
SHOW transaction_read_only;
INSERT INTO t VALUES (3, 3);
BEGIN READ WRITE;
SHOW transaction_read_only;
COMMIT;
RESET default_transaction_read_only;
LOCK t IN ACCESS SHARE MODE;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SHOW transaction_isolation;
SHOW TRANSACTION ISOLATION LEVEL;
COMMIT;
SHOW transaction_isolation;
BEGIN;
SET TRANSACTION ISOLATION LEVEL SERIALIZABLE;
SHOW transaction_isolation;
ROLLBACK;
SELECT * FROM t ORDER BY id;
