-- A string whose later statement cannot be analysed: what stands before it is done, and a block that has begun has failed.
---- schema
CREATE SCHEMA other;
CREATE TABLE t (id int PRIMARY KEY, v int);
CREATE TABLE nk (a int);
CREATE TABLE other.only_there (id int PRIMARY KEY, v int);
INSERT INTO nk VALUES (1);
---- run
BEGIN; INSERT INTO nosuch VALUES (1);
INSERT INTO t VALUES (1, 1);
ROLLBACK;
BEGIN; INSERT INTO t VALUES (1, 1); DELETE FROM nosuch;
INSERT INTO t VALUES (2, 1);
COMMIT;
SELECT * FROM t ORDER BY id;
BEGIN; DELETE FROM nk WHERE nosuch = 1;
INSERT INTO t VALUES (3, 1);
ROLLBACK;
BEGIN; SAVEPOINT s; INSERT INTO t VALUES (4, 1); UPDATE nosuch SET a = 1;
ROLLBACK TO s;
INSERT INTO t VALUES (4, 2);
COMMIT;
BEGIN; COPY nosuch FROM STDIN;
INSERT INTO t VALUES (5, 1);
ROLLBACK;
BEGIN; TRUNCATE nosuch;
INSERT INTO t VALUES (5, 1);
ROLLBACK;
-- What was committed before it stays.
BEGIN;
INSERT INTO t VALUES (6, 1);
COMMIT; DELETE FROM nosuch;
BEGIN; INSERT INTO t VALUES (7, 1); COMMIT; DELETE FROM nosuch;
SELECT * FROM t ORDER BY id;
-- In an open block.
BEGIN;
INSERT INTO t VALUES (8, 1);
SAVEPOINT s;
INSERT INTO t VALUES (9, 1); ROLLBACK TO s; INSERT INTO t VALUES (10, 1); DELETE FROM nosuch;
SELECT 1;
ROLLBACK TO s;
COMMIT;
SELECT * FROM t ORDER BY id;
BEGIN;
INSERT INTO t VALUES (11, 1); ROLLBACK; BEGIN; DELETE FROM nk WHERE nosuch = 1;
INSERT INTO t VALUES (12, 1);
ROLLBACK;
-- Settings of a string are in force for what comes later in it.
SET work_mem = '9MB'; BEGIN; DELETE FROM nosuch;
SHOW work_mem;
ROLLBACK;
SHOW work_mem;
SET search_path = other, public; INSERT INTO only_there VALUES (1, 1); UPDATE only_there SET v = 2;
SELECT * FROM only_there;
RESET search_path;
BEGIN; SET LOCAL search_path = other; UPDATE only_there SET v = 3; SELECT * FROM only_there;
DELETE FROM nosuch;
ROLLBACK;
SELECT * FROM other.only_there;
SELECT * FROM t ORDER BY id;
