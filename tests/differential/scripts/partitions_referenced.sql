-- A row of a partition is the root's row to those that refer to it.
---- schema
CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id);
CREATE TABLE p_low PARTITION OF p FOR VALUES FROM (MINVALUE) TO (4);
CREATE TABLE p_high PARTITION OF p FOR VALUES FROM (4) TO (MAXVALUE);
CREATE TABLE ch (id int PRIMARY KEY, ref int REFERENCES p);
INSERT INTO p SELECT generate_series(0, 8);
INSERT INTO ch VALUES (1, 3), (3, NULL), (5, NULL);
---- run
BEGIN;
UPDATE ch SET ref = 2 WHERE id = 3;
@2& DELETE FROM p_low WHERE id = 2;
COMMIT;
@2?;
BEGIN;
UPDATE ch SET ref = 1 WHERE id = 5;
@2& DELETE FROM p_low WHERE id < 3;
ROLLBACK;
@2?;
BEGIN;
DELETE FROM p_low WHERE id = 0;
@2& UPDATE ch SET ref = 0 WHERE id = 5;
COMMIT;
@2?;
BEGIN;
DELETE FROM p WHERE id = 7;
@2& INSERT INTO ch VALUES (9, 7);
ROLLBACK;
@2?;
BEGIN;
INSERT INTO p_low VALUES (-5);
@2& INSERT INTO ch VALUES (10, -5);
COMMIT;
@2?;
SELECT * FROM p ORDER BY id;
SELECT * FROM ch ORDER BY id;
