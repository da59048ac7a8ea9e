-- Postgres reads all of a query string before it does any of it; so do we, also what only Postgres cannot read.
---- schema
CREATE TABLE t (id int PRIMARY KEY, v text);
---- run
BEGIN; INSERT INTO t VALUES (1, 'a'); COMMIT; SET app.user = 'x';
SELECT * FROM t;
INSERT INTO t VALUES (1, 'a'); SET app.user = 'x'; INSERT INTO t VALUES (2, 'b');
SELECT 1; SET LOCAL app.user = 'x';
BEGIN; SET LOCAL app.user = 'bob'; INSERT INTO t VALUES (1, 'a'); COMMIT;
SELECT * FROM t;
-- What can be read is done up to what fails.
BEGIN; INSERT INTO t VALUES (1, 'a'); COMMIT; SELECT * FROM nowhere;
SELECT * FROM t;
-- In a block.
BEGIN;
INSERT INTO t VALUES (3, 'c');
SAVEPOINT a;
INSERT INTO t VALUES (4, 'd'); SELECT count(*) FROM t;
INSERT INTO t VALUES (5, 'e'); SET app.user = 'x';
SELECT 1;
ROLLBACK TO a;
INSERT INTO t VALUES (6, 'f'); UPDATE t SET v = 'ff' WHERE id = 6; SELECT * FROM t ORDER BY id;
INSERT INTO t VALUES (6, 'f'); SELECT 1;
ROLLBACK TO a; SET app.user = 'x';
ROLLBACK TO a; SELECT * FROM t ORDER BY id; COMMIT;
SELECT * FROM t ORDER BY id;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SET TRANSACTION READ ONLY; SELECT count(*) FROM t; SHOW transaction_read_only;
INSERT INTO t VALUES (7, 'g'); SELECT 1;
COMMIT; SELECT 2;
BEGIN; SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM t;
@2 INSERT INTO t VALUES (8, 'h'); UPDATE t SET v = 'hh' WHERE id = 8;
SELECT count(*) FROM t; SHOW transaction_isolation;
COMMIT;
-- The same string again.
INSERT INTO t VALUES (9, 'i'); DELETE FROM t WHERE id = 9;
INSERT INTO t VALUES (9, 'i'); DELETE FROM t WHERE id = 9;
SELECT * FROM t ORDER BY id;
