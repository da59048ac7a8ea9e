-- Transactions on main and transactions here wait for each other as those of one server do. Whatever writes `view_of_t` is
-- straight, as is the DO.
---- schema
CREATE TABLE t (id int PRIMARY KEY, u int UNIQUE, v int);
CREATE TABLE ch (id int PRIMARY KEY, t_id int REFERENCES t);
CREATE TABLE gone (id int PRIMARY KEY, v int);
CREATE TABLE keyless (v int);
CREATE VIEW view_of_t AS SELECT * FROM t;
INSERT INTO t SELECT g, g, 0 FROM generate_series(1, 9) g;
INSERT INTO keyless VALUES (1);
---- run
---- only live: what is straight needs main, and what comes after it the replica
-- A unique value.
BEGIN;
DELETE FROM keyless;
INSERT INTO t VALUES (20, 20, 0);
@2& INSERT INTO t VALUES (20, 21, 1);
COMMIT;
@2?;
BEGIN;
INSERT INTO view_of_t VALUES (22, 22, 0);
@2& INSERT INTO t VALUES (23, 22, 1);
ROLLBACK;
@2?;
-- A lost update.
BEGIN;
UPDATE view_of_t SET v = 10 WHERE id = 1;
@2& UPDATE t SET v = v * 2 + 1 WHERE id = 1 AND v = 0 RETURNING v;
COMMIT;
@2?;
-- The other way round.
@2 BEGIN;
@2 UPDATE t SET v = v + 1 WHERE id = 2;
& UPDATE view_of_t SET v = v * 10 WHERE id = 2;
@2 COMMIT;
?;
SELECT * FROM t WHERE id < 3 ORDER BY id;
@2 BEGIN;
@2 UPDATE t SET v = 100 WHERE id = 3;
& DO $$BEGIN UPDATE t SET v = v + 1 WHERE id = 3; END$$;
@2 COMMIT;
?;
SELECT v FROM t WHERE id = 3;
-- A foreign key's row.
BEGIN;
DELETE FROM view_of_t WHERE id = 4;
@2& INSERT INTO ch VALUES (1, 4);
COMMIT;
@2?;
-- Handed over: who waits is not let go before the replica has the row.
BEGIN;
INSERT INTO t VALUES (30, 30, 0);
CREATE TABLE made (a int);
@2& INSERT INTO t VALUES (30, 31, 0);
COMMIT;
@2?;
BEGIN;
UPDATE t SET v = 7 WHERE id = 5;
@2& UPDATE t SET v = v + 1 WHERE id = 5 RETURNING v;
DROP TABLE made;
COMMIT;
@2?;
-- A queue of jobs.
BEGIN;
DELETE FROM keyless;
SELECT id FROM t WHERE id = 6 FOR UPDATE;
@2 SELECT id FROM t WHERE id = 6 FOR UPDATE NOWAIT;
@2 SELECT id FROM t WHERE id IN (6, 7) ORDER BY id FOR UPDATE SKIP LOCKED;
@2 UPDATE t SET v = 70 WHERE id = 7 RETURNING v;
COMMIT;
-- At REPEATABLE READ.
@2 BEGIN ISOLATION LEVEL REPEATABLE READ;
@2 SELECT count(*) FROM t;
UPDATE view_of_t SET v = 80 WHERE id = 8;
---- refused 40001: the detail says what is known of it here
@2 UPDATE t SET v = v + 1 WHERE id = 8;
@2 ROLLBACK;
-- A table that is dropped while it is written.
@2 BEGIN;
@2 INSERT INTO gone VALUES (1, 1);
& DROP TABLE gone;
@2 COMMIT;
?;
SELECT * FROM t ORDER BY id;
SELECT * FROM ch;
