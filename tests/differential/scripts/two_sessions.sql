-- Two sessions that wait for each other.
---- schema
CREATE TABLE counter (id int PRIMARY KEY, n bigint NOT NULL);
INSERT INTO counter SELECT i, 0 FROM generate_series(1, 3) i;
CREATE TYPE mood AS ENUM ('sad', 'ok', 'so happy');
CREATE TABLE feeling (id int, m mood, d mood UNIQUE, v int, PRIMARY KEY (id, m));
CREATE TABLE felt (id int PRIMARY KEY, f int, m mood, FOREIGN KEY (f, m) REFERENCES feeling);
INSERT INTO feeling VALUES (1, 'sad', 'sad', 0), (1, 'ok', NULL, 0);
---- run
BEGIN;
UPDATE counter SET n = 10 WHERE id = 1;
@2 SELECT n FROM counter ORDER BY id;
@2& UPDATE counter SET n = n + 1 WHERE id = 1 RETURNING n;
@3 UPDATE counter SET n = 7 WHERE id = 3;
COMMIT;
@2?;
SELECT n FROM counter ORDER BY id;
@2 BEGIN ISOLATION LEVEL REPEATABLE READ;
@2 SELECT sum(n) FROM counter;
UPDATE counter SET n = 100 WHERE id = 2;
@2 SELECT sum(n) FROM counter;
@2 UPDATE counter SET n = n + 1 WHERE id = 2;
@2 SELECT 1;
@2 COMMIT;
INSERT INTO counter VALUES (4, 4);
BEGIN;
INSERT INTO counter VALUES (5, 5);
@2& INSERT INTO counter VALUES (5, 6);
ROLLBACK;
@2?;
SELECT * FROM counter ORDER BY id;
-- Keys with an enum: only what is equal waits.
BEGIN;
UPDATE feeling SET v = 1 WHERE m = 'sad';
INSERT INTO feeling VALUES (2, 'so happy', 'ok');
@2 UPDATE feeling SET v = 2 WHERE m = 'ok';
@2 INSERT INTO feeling VALUES (3, 'sad', 'so happy');
@2 INSERT INTO felt VALUES (1, 1, 'ok');
@2& INSERT INTO feeling VALUES (4, 'sad', 'ok');
@3& UPDATE feeling SET v = 3 WHERE m = 'sad';
COMMIT;
@2?;
@3?;
SELECT * FROM feeling ORDER BY id, m;
