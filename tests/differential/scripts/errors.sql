-- Errors of plain writes, with their fields, and what they leave of a transaction.
---- schema
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE TABLE unit (id int PRIMARY KEY, name varchar(5) NOT NULL, level positive, small smallint, CONSTRAINT even CHECK (small % 2 = 0));
CREATE UNIQUE INDEX unit_lower ON unit (lower(name)) WHERE small IS NULL;
CREATE TABLE child (id int PRIMARY KEY, unit int CONSTRAINT belongs REFERENCES unit);
INSERT INTO unit VALUES (1, 'one', 1, 2), (2, 'two', 2, NULL);
INSERT INTO child VALUES (1, 1);
---- run
INSERT INTO unit VALUES (1, 'again');
---- differs: the detail prints the index' expression with more parentheses (FINDINGS, upsert)
INSERT INTO unit VALUES (3, 'TWO');
INSERT INTO unit VALUES (3, NULL);
INSERT INTO unit VALUES (3, 'three', 0);
INSERT INTO unit VALUES (3, 'three', 1, 3);
INSERT INTO unit VALUES (3, 'much too long');
INSERT INTO unit VALUES (3, 'three', 1, 70000);
INSERT INTO unit VALUES (3, 'three', 1, 1 / (3 - 3));
INSERT INTO unit VALUES ('x', 'three');
INSERT INTO nowhere VALUES (1);
INSERT INTO unit (nothing) VALUES (1);
INSERT INTO child VALUES (2, 77);
INSERT INTO child VALUES (1, 1);
UPDATE unit SET name = NULL WHERE id = 1;
UPDATE unit SET id = 2 WHERE id = 1;
UPDATE unit SET small = 5 WHERE id = 2;
UPDATE child SET unit = 99;
DELETE FROM unit WHERE id = 1;
SELECT * FROM unit WHERE name = 5;
SELEC 1;
BEGIN;
INSERT INTO unit VALUES (10, 'ten');
INSERT INTO unit VALUES (10, 'ten');
SELECT 1;
INSERT INTO unit VALUES (11, 'x');
COMMIT;
SELECT count(*) FROM unit;
BEGIN;
SAVEPOINT a;
INSERT INTO child VALUES (5, 5);
ROLLBACK TO a;
INSERT INTO child VALUES (5, 2);
RELEASE a;
COMMIT;
COMMIT;
ROLLBACK TO nowhere;
BEGIN;
BEGIN;
ROLLBACK;
