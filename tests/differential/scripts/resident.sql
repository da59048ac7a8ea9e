-- Sessions that live on main: temporary tables, views, sequences; cursors WITH HOLD; what comes of them in blocks.
---- schema
CREATE TABLE t (id int PRIMARY KEY, v text);
CREATE TABLE u (id int PRIMARY KEY, t_id int REFERENCES t);
INSERT INTO t VALUES (1, 'one'), (2, 'two');
---- run
---- only live: what is temporary is on main
INSERT INTO t VALUES (3, 'three');
CREATE TEMP TABLE tt (id int PRIMARY KEY, v text NOT NULL CHECK (v <> ''));
INSERT INTO tt SELECT * FROM t;
SELECT * FROM tt JOIN t USING (id) ORDER BY id;
INSERT INTO tt VALUES (1, 'again');
INSERT INTO tt VALUES (4, '');
INSERT INTO t VALUES (4, 'four');
SELECT count(*) FROM t;
@2 SELECT count(*) FROM t;
@2 UPDATE t SET v = v || '!' WHERE id = 1;
SELECT v FROM t WHERE id = 1;
@2 SELECT * FROM tt;
-- It hides the other.
CREATE TEMP TABLE t (id int, w int);
INSERT INTO t VALUES (1, 10) RETURNING *;
INSERT INTO t VALUES (1, 'x');
SELECT * FROM t;
SELECT * FROM public.t ORDER BY id;
SELECT relname, relpersistence FROM pg_class WHERE oid = 't'::regclass;
DROP TABLE t;
SELECT * FROM t ORDER BY id;
-- Blocks.
BEGIN;
CREATE TEMP TABLE b (i int) ON COMMIT DROP;
INSERT INTO b SELECT id FROM t;
SAVEPOINT s;
INSERT INTO b VALUES (1 / 0);
SELECT * FROM b;
ROLLBACK TO s;
UPDATE t SET v = 'b' WHERE id IN (SELECT i FROM b) AND id = 2;
COMMIT;
SELECT * FROM b;
SELECT * FROM t ORDER BY id;
BEGIN;
CREATE TEMP TABLE b (i int) ON COMMIT DELETE ROWS;
INSERT INTO b VALUES (1);
SELECT * FROM b;
COMMIT;
SELECT * FROM b;
BEGIN; INSERT INTO b VALUES (2); TABLE b; COMMIT; TABLE b;
ROLLBACK;
BEGIN;
SELECT 1 / 0;
SELECT 1;
COMMIT;
COPY tt FROM STDIN;
7	seven
8	eight
\.
COPY tt FROM STDIN;
7	again
\.
SELECT * FROM tt ORDER BY id;
COPY (SELECT * FROM tt ORDER BY id) TO STDOUT;
PREPARE p (int) AS SELECT v FROM tt WHERE id = $1;
EXECUTE p (7);
EXECUTE p ('x');
DEALLOCATE p;
EXECUTE p (7);
DECLARE c CURSOR WITH HOLD FOR SELECT id FROM tt ORDER BY id;
FETCH 2 FROM c;
DROP TABLE tt;
DROP TABLE b;
-- The cursor keeps it there.
FETCH 1 FROM c;
FETCH ALL FROM c;
CLOSE c;
FETCH 1 FROM c;
SELECT * INTO TEMP tt FROM t WHERE id < 3;
TABLE tt;
DISCARD TEMP;
TABLE tt;
CREATE TEMP VIEW tt AS SELECT v FROM t WHERE id = 1;
TABLE tt;
CREATE OR REPLACE TEMP VIEW tt AS SELECT v FROM t WHERE id = 2;
TABLE tt;
CREATE TEMP SEQUENCE s;
SELECT nextval('s'), nextval('s');
INSERT INTO u VALUES (1, 9);
INSERT INTO u VALUES (2, 1);
SET search_path = pg_catalog, public;
SHOW search_path;
DISCARD ALL;
SHOW search_path;
TABLE tt;
SELECT t_id FROM u;
-- Roles.
BEGIN;
CREATE TEMP TABLE tt (i int);
SET LOCAL work_mem = '5MB';
SHOW work_mem;
COMMIT;
SHOW work_mem;
SET work_mem = '6MB';
DROP TABLE tt;
SHOW work_mem;
RESET work_mem;
-- A row is waited for from both sides.
CREATE TEMP TABLE tt (i int);
BEGIN;
UPDATE t SET v = v || '1' WHERE id = 3;
@2& UPDATE t SET v = v || '2' WHERE id = 3;
COMMIT;
@2?;
@2 BEGIN;
@2 UPDATE t SET v = v || '3' WHERE id = 3;
& UPDATE t SET v = v || '4' WHERE id = 3;
@2 COMMIT;
?;
SELECT v FROM t WHERE id = 3;
LISTEN c;
UNLISTEN c;
NOTIFY c;
BEGIN;
NOTIFY c, 'x';
INSERT INTO t VALUES (5, 'five');
COMMIT;
DROP TABLE tt;
SELECT * FROM t ORDER BY id;
