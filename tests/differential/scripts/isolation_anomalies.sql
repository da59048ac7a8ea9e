-- What two and three sessions see of each other, at READ COMMITTED and REPEATABLE READ.
---- schema
CREATE TABLE a (id int PRIMARY KEY, v int NOT NULL, u text UNIQUE);
INSERT INTO a VALUES (1, 10, 'x'), (2, 20, 'y');
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE child (id int PRIMARY KEY, parent int NOT NULL REFERENCES parent (id));
INSERT INTO parent SELECT g FROM generate_series(1, 6) g;
---- run
INSERT INTO a VALUES (3, 30, 'z');
-- Dirty read: none.
BEGIN;
UPDATE a SET v = 11 WHERE id = 1;
@2 SELECT v FROM a WHERE id = 1;
ROLLBACK;
-- Dirty write: the second waits.
BEGIN;
UPDATE a SET v = 100 WHERE id = 3;
@2& UPDATE a SET v = v + 1 WHERE id = 3 RETURNING v;
COMMIT;
@2?;
-- Non-repeatable read and phantom at READ COMMITTED, neither at REPEATABLE READ.
@2 BEGIN;
@2 SELECT sum(v), count(*) FROM a;
@3 BEGIN ISOLATION LEVEL REPEATABLE READ;
@3 SELECT sum(v), count(*) FROM a;
UPDATE a SET v = 0 WHERE id = 2;
INSERT INTO a VALUES (4, 40, 'w');
@2 SELECT sum(v), count(*) FROM a;
@3 SELECT sum(v), count(*) FROM a;
@2 COMMIT;
@3 COMMIT;
@3 SELECT sum(v), count(*) FROM a;
-- Lost update: at READ COMMITTED the last one wins, at REPEATABLE READ it fails.
BEGIN;
@2 BEGIN;
SELECT v FROM a WHERE id = 1;
@2 SELECT v FROM a WHERE id = 1;
UPDATE a SET v = 12 WHERE id = 1;
@2& UPDATE a SET v = 13 WHERE id = 1;
COMMIT;
@2?;
@2 COMMIT;
SELECT v FROM a WHERE id = 1;
BEGIN ISOLATION LEVEL REPEATABLE READ;
@2 BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT v FROM a WHERE id = 1;
@2 SELECT v FROM a WHERE id = 1;
UPDATE a SET v = 14 WHERE id = 1;
@2& UPDATE a SET v = 15 WHERE id = 1;
COMMIT;
@2?;
@2 SELECT 1;
@2 COMMIT;
-- The first rolls back: the second goes on, at REPEATABLE READ too.
BEGIN;
UPDATE a SET v = 16 WHERE id = 1;
@2 BEGIN ISOLATION LEVEL REPEATABLE READ;
@2& UPDATE a SET v = v + 1 WHERE id = 1 RETURNING v;
ROLLBACK;
@2?;
@2 COMMIT;
-- Read skew.
@2 BEGIN ISOLATION LEVEL REPEATABLE READ;
@2 SELECT v FROM a WHERE id = 1;
UPDATE a SET v = v - 5 WHERE id = 1; UPDATE a SET v = v + 5 WHERE id = 2;
@2 SELECT v FROM a WHERE id = 2;
@2 DELETE FROM a WHERE id = 2;
@2 ROLLBACK;
-- Write skew: allowed at REPEATABLE READ.
BEGIN ISOLATION LEVEL REPEATABLE READ;
@2 BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT sum(v) FROM a;
@2 SELECT sum(v) FROM a;
UPDATE a SET v = 1 WHERE id = 1;
@2 UPDATE a SET v = 1 WHERE id = 2;
COMMIT;
@2 COMMIT;
-- A row that is gone meanwhile.
BEGIN;
DELETE FROM a WHERE id = 4;
@2& UPDATE a SET v = 41 WHERE id = 4;
@3& DELETE FROM a WHERE id = 4;
COMMIT;
@2?;
@3?;
@2 BEGIN ISOLATION LEVEL REPEATABLE READ;
@2 SELECT count(*) FROM a;
DELETE FROM a WHERE id = 3;
@2 UPDATE a SET v = 1 WHERE id = 3;
@2 ROLLBACK;
-- The key changes meanwhile.
BEGIN;
UPDATE a SET id = 5 WHERE id = 2;
@2& UPDATE a SET v = 22 WHERE id = 2;
COMMIT;
@2?;
SELECT * FROM a ORDER BY id;
-- Insert against insert.
BEGIN;
INSERT INTO a VALUES (6, 60, 'six');
@2& INSERT INTO a VALUES (6, 61, 'sixty');
COMMIT;
@2?;
BEGIN;
INSERT INTO a VALUES (7, 70, 'seven');
@2& INSERT INTO a VALUES (8, 70, 'seven');
ROLLBACK;
@2?;
BEGIN;
DELETE FROM a WHERE id = 8;
@2& INSERT INTO a VALUES (9, 90, 'seven');
COMMIT;
@2?;
BEGIN;
DELETE FROM a WHERE id = 9;
@2& INSERT INTO a VALUES (10, 90, 'seven');
ROLLBACK;
@2?;
-- A child arrives while its parent leaves, both orders and both outcomes.
BEGIN;
DELETE FROM parent WHERE id = 1;
@2& INSERT INTO child VALUES (1, 1);
COMMIT;
@2?;
BEGIN;
DELETE FROM parent WHERE id = 2;
@2& INSERT INTO child VALUES (2, 2);
ROLLBACK;
@2?;
BEGIN;
INSERT INTO child VALUES (3, 3);
@2& DELETE FROM parent WHERE id = 3;
COMMIT;
@2?;
BEGIN;
INSERT INTO child VALUES (4, 4);
@2& DELETE FROM parent WHERE id = 4;
ROLLBACK;
@2?;
-- Savepoints free what was locked after them; what was locked before stays.
BEGIN;
UPDATE a SET v = 1 WHERE id = 1;
SAVEPOINT s;
UPDATE a SET v = 1 WHERE id = 5;
SAVEPOINT s;
UPDATE a SET v = 1 WHERE id = 6;
@2& UPDATE a SET v = 65 WHERE id = 6;
ROLLBACK TO s;
@2?;
@2& UPDATE a SET v = 55 WHERE id = 5;
RELEASE s;
ROLLBACK TO s;
@2?;
@2& UPDATE a SET v = 15 WHERE id = 1;
COMMIT;
@2?;
-- Three, one behind the other (in Postgres either of the waiting ones may be next).
BEGIN;
UPDATE a SET v = 1 WHERE id = 1;
@2& UPDATE a SET v = v + 1 WHERE id = 1;
@3& UPDATE a SET v = v + 10 WHERE id = 1;
COMMIT;
@2?;
@3?;
SELECT v FROM a WHERE id = 1;
-- Deadlock: here the one who closes the circle is told, in Postgres who waits long enough.
BEGIN;
@2 BEGIN;
UPDATE a SET v = 2 WHERE id = 5;
@2 UPDATE a SET v = 3 WHERE id = 6;
@2& UPDATE a SET v = 3 WHERE id = 5;
---- differs: which of the two is the victim
UPDATE a SET v = 2 WHERE id = 6;
ROLLBACK;
---- differs: which of the two is the victim
@2?;
@2 ROLLBACK;
-- Timeouts while waiting.
BEGIN;
UPDATE a SET v = 4 WHERE id = 1;
@2 SET statement_timeout = '150ms';
@2 UPDATE a SET v = 5 WHERE id = 1;
@2 SET statement_timeout = 0; SET lock_timeout = '150ms';
@2 UPDATE a SET v = 5 WHERE id = 1;
@2 RESET lock_timeout;
COMMIT;
SELECT * FROM a ORDER BY id;
SELECT * FROM parent ORDER BY id;
SELECT * FROM child ORDER BY id;
