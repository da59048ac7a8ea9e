-- REPEATABLE READ: what ON CONFLICT would find in the snapshot is gone, or another row by now.
---- schema
CREATE TABLE t (id int PRIMARY KEY, u int UNIQUE, v text);
CREATE TABLE s (id serial PRIMARY KEY, u int UNIQUE);
INSERT INTO s (u) VALUES (1), (2);
INSERT INTO t SELECT g, g, 'v' || g FROM generate_series(1, 9) g;
---- run
@2 BEGIN ISOLATION LEVEL REPEATABLE READ;
@2 SELECT count(*) FROM t;
DELETE FROM t WHERE id = 1;
@2 INSERT INTO t VALUES (11, 1, 'x11') ON CONFLICT DO NOTHING RETURNING *;
@2 ROLLBACK;
@2 BEGIN ISOLATION LEVEL REPEATABLE READ;
@2 SELECT count(*) FROM t;
DELETE FROM t WHERE id = 2;
@2 INSERT INTO t VALUES (12, 2, 'x12') ON CONFLICT (u) DO UPDATE SET v = 'z' RETURNING *;
@2 ROLLBACK;
@2 BEGIN ISOLATION LEVEL REPEATABLE READ;
@2 SELECT count(*) FROM t;
UPDATE t SET u = 103 WHERE id = 3;
@2 INSERT INTO t VALUES (13, 3, 'x13') ON CONFLICT (u) DO UPDATE SET v = 'z' RETURNING *;
@2 ROLLBACK;
@2 BEGIN ISOLATION LEVEL REPEATABLE READ;
@2 SELECT count(*) FROM t;
DELETE FROM t WHERE id = 4;
---- refused 40001: two rows with one key cannot be shown
@2 INSERT INTO t VALUES (4, 1, 'x4') ON CONFLICT (id) DO NOTHING RETURNING *;
@2 ROLLBACK;
@2 BEGIN ISOLATION LEVEL REPEATABLE READ;
@2 SELECT count(*) FROM t;
DELETE FROM t WHERE id = 6;
---- refused 40001: two rows with one key cannot be shown
@2 INSERT INTO t VALUES (6, 1, 'x4'), (5, 5, 'x5') ON CONFLICT (id) DO UPDATE SET v = excluded.v RETURNING *;
@2 ROLLBACK;
-- Gone, and another row has the value by now.
@2 BEGIN ISOLATION LEVEL REPEATABLE READ;
@2 SELECT count(*) FROM t;
DELETE FROM t WHERE id = 7;
INSERT INTO t VALUES (17, 7, 'x17');
@2 INSERT INTO t VALUES (27, 7, 'x27') ON CONFLICT (u) DO NOTHING;
@2 ROLLBACK;
-- Two rows of one statement take what is free; the one who waits takes it as well.
@2 BEGIN ISOLATION LEVEL REPEATABLE READ;
@2 SELECT count(*) FROM t;
BEGIN;
DELETE FROM t WHERE id IN (8, 9);
@2& INSERT INTO t VALUES (18, 8, 'x18'), (19, 9, 'x19'), (5, 5, 'x5') ON CONFLICT (u) DO UPDATE SET v = excluded.v || t.v RETURNING *;
COMMIT;
@2?;
@2 INSERT INTO t VALUES (20, 8, 'x20') ON CONFLICT (u) DO UPDATE SET v = excluded.v || t.v RETURNING *;
@2 COMMIT;
SELECT * FROM t ORDER BY id;
-- What the transaction has taken and given up again is free, though the snapshot has a row with it.
@2 BEGIN ISOLATION LEVEL REPEATABLE READ;
@2 SELECT count(*) FROM t;
UPDATE t SET u = 117 WHERE id = 17;
@2 INSERT INTO t VALUES (31, 7, 'x31') RETURNING *;
@2 UPDATE t SET u = 131 WHERE id = 31;
@2 INSERT INTO t VALUES (32, 7, 'x32') ON CONFLICT (u) DO NOTHING RETURNING *;
@2 DELETE FROM t WHERE id = 32;
@2 INSERT INTO t SELECT 33, 33, 'x33' ON CONFLICT (u) DO NOTHING RETURNING *;
@2 COMMIT;
SELECT * FROM t ORDER BY id;
-- With a sequence.
@2 BEGIN ISOLATION LEVEL REPEATABLE READ;
@2 SELECT count(*) FROM s;
DELETE FROM s WHERE u = 1;
@2 INSERT INTO s (u) VALUES (1), (2) ON CONFLICT (u) DO UPDATE SET u = s.u RETURNING *;
@2 COMMIT;
INSERT INTO s (u) VALUES (3) RETURNING *;
