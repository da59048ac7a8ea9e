-- Intervals of which the type takes some fields only: they say what a literal means.
---- schema
CREATE TABLE span (id int PRIMARY KEY, m interval minute, d interval day to second(2), p interval(1), y interval year DEFAULT '3');
CREATE DOMAIN minutes AS interval minute CHECK (value < '1 hour');
CREATE TABLE spanned (id int PRIMARY KEY, m minutes);
INSERT INTO span VALUES (1, '1', '1', '1.26');
---- run
INSERT INTO span VALUES (10, '5', '5', '5.55'), (11, interval '90', '1 2:03:04.567', NULL);
INSERT INTO span VALUES (13, '6', '7', '8.88', '9');
INSERT INTO span SELECT id + 100, m, d, p FROM span WHERE id = 10;
UPDATE span SET m = '8', d = '9' WHERE id = 11;
INSERT INTO span VALUES (1, '2') ON CONFLICT (id) DO UPDATE SET m = '4', d = excluded.m;
INSERT INTO spanned VALUES (2, '9');
INSERT INTO spanned VALUES (3, '90');
UPDATE spanned SET m = '3';
SELECT * FROM span ORDER BY id;
SELECT * FROM spanned ORDER BY id;
COPY spanned TO STDOUT;
