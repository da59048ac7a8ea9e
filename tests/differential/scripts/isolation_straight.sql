-- A transaction that keeps one state goes to main only where main is in the state that it has seen.
---- schema
CREATE TABLE t (id int PRIMARY KEY, v int);
CREATE VIEW view_of_t AS SELECT * FROM t;
CREATE TABLE keyless (v int);
INSERT INTO t VALUES (1, 1), (2, 2);
INSERT INTO keyless VALUES (1);
---- run
---- only live: what is straight needs main, and what comes after it the replica
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT v FROM t WHERE id = 1;
@2 UPDATE view_of_t SET v = 100 WHERE id = 1;
---- refused 40001: main is not in the state that it saw
UPDATE view_of_t SET v = 2 WHERE id = 1;
ROLLBACK;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT sum(v) FROM t;
@2 UPDATE t SET v = 200 WHERE id = 2;
---- refused 40001: the same of what another has buffered
DO $$BEGIN UPDATE t SET v = 3 WHERE id = 2; END$$;
ROLLBACK;
-- Nothing was seen before.
BEGIN ISOLATION LEVEL REPEATABLE READ;
SET LOCAL work_mem = '5MB';
@2 UPDATE t SET v = 201 WHERE id = 2;
UPDATE view_of_t SET v = v + 1 WHERE id = 2 RETURNING v;
@2 INSERT INTO keyless VALUES (2);
SELECT * FROM t ORDER BY id;
SELECT * FROM keyless;
COMMIT;
-- READ COMMITTED goes on from statement to statement.
BEGIN;
SELECT v FROM t WHERE id = 1;
@2 UPDATE t SET v = 300 WHERE id = 1;
UPDATE view_of_t SET v = v + 1 WHERE id = 1 RETURNING v;
COMMIT;
SELECT * FROM t ORDER BY id;
