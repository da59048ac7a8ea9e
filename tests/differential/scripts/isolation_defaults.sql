-- The modes of a transaction are those that were the defaults when it began, whatever is set afterwards.
---- schema
CREATE TABLE t (id int PRIMARY KEY, v int);
INSERT INTO t VALUES (1, 1);
---- run
INSERT INTO t VALUES (2, 2);
SET default_transaction_isolation = 'repeatable read';
BEGIN;
SELECT * FROM t ORDER BY id;
SET default_transaction_isolation = 'read committed';
@2 INSERT INTO t VALUES (3, 3);
@2 UPDATE t SET v = 20 WHERE id = 2;
SELECT * FROM t ORDER BY id;
SHOW transaction_isolation;
UPDATE t SET v = v + 1 WHERE id = 2;
ROLLBACK;
-- And the other way round.
BEGIN;
SELECT count(*) FROM t;
SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL REPEATABLE READ;
SELECT v FROM t WHERE id = 2;
@2 UPDATE t SET v = 30 WHERE id = 2;
SELECT v FROM t WHERE id = 2;
UPDATE t SET v = v + 1 WHERE id = 2 RETURNING v;
SHOW transaction_isolation;
COMMIT AND CHAIN;
SELECT v FROM t WHERE id = 2;
SHOW transaction_isolation;
@2 UPDATE t SET v = 40 WHERE id = 2;
SELECT v FROM t WHERE id = 2;
COMMIT;
RESET default_transaction_isolation;
-- READ ONLY.
SET default_transaction_read_only = on;
BEGIN;
SET default_transaction_read_only = off;
SHOW transaction_read_only;
INSERT INTO t VALUES (4, 4);
ROLLBACK;
BEGIN;
SET default_transaction_read_only = on;
INSERT INTO t VALUES (5, 5);
SHOW transaction_read_only;
COMMIT;
SHOW transaction_read_only;
INSERT INTO t VALUES (6, 6);
BEGIN;
SET TRANSACTION READ WRITE;
INSERT INTO t VALUES (7, 7);
COMMIT;
-- SET TRANSACTION may still follow what is asked at BEGIN.
SET default_transaction_read_only = off;
BEGIN;
SET TRANSACTION ISOLATION LEVEL REPEATABLE READ;
SELECT v FROM t WHERE id = 2;
@2 UPDATE t SET v = 50 WHERE id = 2;
SELECT v FROM t WHERE id = 2;
COMMIT;
-- Within one string.
SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY; INSERT INTO t VALUES (8, 8);
INSERT INTO t VALUES (9, 9);
SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE; INSERT INTO t VALUES (10, 10);
SET default_transaction_read_only = on; BEGIN; INSERT INTO t VALUES (11, 11);
COMMIT;
RESET ALL; INSERT INTO t VALUES (12, 12);
RESET ALL;
INSERT INTO t VALUES (13, 13);
SELECT * FROM t ORDER BY id;
