-- REPEATABLE READ: INSERT … SELECT takes values that others have changed since the snapshot; what it reads is the snapshot's.
---- schema
CREATE TABLE t (id int PRIMARY KEY, u int UNIQUE, v text CHECK (v <> 'bad'));
INSERT INTO t VALUES (1, 1, 'a'), (2, 2, 'b');
---- run
-- Another row by now, of the query: the value that it takes was taken and is free again.
@2 BEGIN ISOLATION LEVEL REPEATABLE READ;
@2 SELECT count(*) FROM t;
INSERT INTO t VALUES (11, 11, 'x');
DELETE FROM t WHERE id = 11;
UPDATE t SET v = 'c' WHERE id = 1;
@2 INSERT INTO t SELECT id + 10, u + 10, v FROM t WHERE v = 'a' RETURNING *;
@2 COMMIT;
SELECT * FROM t ORDER BY id;
-- Rows of the query that are gone, or other ones by now.
@2 BEGIN ISOLATION LEVEL REPEATABLE READ;
@2 SELECT count(*) FROM t;
INSERT INTO t VALUES (21, 21, 'x'), (22, 22, 'y');
DELETE FROM t WHERE id IN (21, 22);
DELETE FROM t WHERE id = 1;
UPDATE t SET id = 5 WHERE id = 2;
@2 INSERT INTO t SELECT id + 20, u + 20, v FROM t WHERE id < 10 ORDER BY id RETURNING *;
@2 COMMIT;
SELECT * FROM t ORDER BY id;
-- Taken by now.
@2 BEGIN ISOLATION LEVEL REPEATABLE READ;
@2 SELECT count(*) FROM t;
INSERT INTO t VALUES (35, 35, 'x');
UPDATE t SET id = 6 WHERE id = 5;
@2 INSERT INTO t SELECT id + 30, u + 30, v FROM t WHERE id < 10 ORDER BY id RETURNING *;
@2 ROLLBACK;
@2 BEGIN ISOLATION LEVEL REPEATABLE READ;
@2 SELECT count(*) FROM t;
INSERT INTO t VALUES (40, 42, 'x');
UPDATE t SET id = 7 WHERE id = 6;
@2 INSERT INTO t SELECT id + 40, u + 40, v FROM t WHERE id < 10 ORDER BY id RETURNING *;
@2 ROLLBACK;
SELECT * FROM t ORDER BY id;
