-- Two sessions that wait for each other.
---- schema
CREATE TABLE counter (id int PRIMARY KEY, n bigint NOT NULL);
INSERT INTO counter SELECT i, 0 FROM generate_series(1, 3) i;
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
