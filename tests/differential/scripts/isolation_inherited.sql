-- One row, named by way of the table that it is in and of those above.
---- schema
CREATE TABLE base(id int PRIMARY KEY, v int);
CREATE TABLE derived(more text, PRIMARY KEY (id)) INHERITS (base);
INSERT INTO base VALUES (1, 1);
INSERT INTO derived VALUES (7, 1, 'm'), (8, 1, 'n'), (9, 1, 'o');
---- run
---- only buffered
BEGIN;
UPDATE base SET v = v + 1 WHERE id = 7;
@2& UPDATE derived SET v = v * 10 WHERE id = 7;
COMMIT;
@2?;
SELECT * FROM base ORDER BY id;
BEGIN;
UPDATE derived SET v = v + 1 WHERE id = 7;
@2& UPDATE base SET v = v * 10 WHERE id = 7 RETURNING *;
COMMIT;
@2?;
SELECT * FROM base ORDER BY id;
BEGIN;
DELETE FROM base WHERE id = 8;
@2& UPDATE derived SET v = 5 WHERE id = 8;
COMMIT;
@2?;
BEGIN;
DELETE FROM base WHERE id = 9;
@2& SELECT id FROM derived WHERE id >= 7 ORDER BY id FOR UPDATE;
COMMIT;
@2?;
SELECT * FROM derived ORDER BY id;
