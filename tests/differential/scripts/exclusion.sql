-- Exclusion constraints: rows of the table, of the statement and of other sessions.
---- schema
CREATE EXTENSION btree_gist;
CREATE TABLE booking (id int PRIMARY KEY, room int, during int4range, note text,
  CONSTRAINT apart EXCLUDE USING gist (room WITH =, during WITH &&));
CREATE TABLE disc (id int PRIMARY KEY, shape circle, live boolean DEFAULT true, EXCLUDE USING gist (shape WITH &&) WHERE (live));
CREATE TABLE late (id int PRIMARY KEY, during int4range, CONSTRAINT late_apart EXCLUDE USING gist (during WITH &&) DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE soon (id int PRIMARY KEY, lo int, hi int, EXCLUDE USING gist (int4range(lo, hi) WITH &&) DEFERRABLE);
INSERT INTO booking VALUES (1, 1, '[1,5)'), (2, 2, '[1,5)'), (3, 1, '[10,20)');
INSERT INTO disc VALUES (1, '<(0,0),1>', true), (2, '<(0,0),1>', false);
INSERT INTO late VALUES (1, '[1,5)'), (2, '[5,9)');
INSERT INTO soon VALUES (1, 1, 5), (2, 5, 9);
CREATE TABLE both_ways (id int PRIMARY KEY, u int, during int4range, EXCLUDE USING gist (during WITH &&));
CREATE UNIQUE INDEX both_ways_u ON both_ways (u);
INSERT INTO both_ways VALUES (1, 1, '[1,5)');
---- run
-- Indexes are looked at in the order in which they were made.
INSERT INTO both_ways VALUES (1, 1, '[1,5)');
INSERT INTO both_ways VALUES (2, 1, '[1,5)');
INSERT INTO both_ways VALUES (2, 1, '[5,9)');
INSERT INTO booking VALUES (4, 1, '[4,6)');
INSERT INTO booking VALUES (4, 1, '[5,10)') RETURNING *;
INSERT INTO booking VALUES (5, 1, '[7,8)');
INSERT INTO booking VALUES (5, NULL, '[7,8)'), (6, 1, NULL), (7, 1, 'empty');
INSERT INTO booking VALUES (8, 9, '[1,5)'), (9, 9, '[4,6)');
INSERT INTO booking SELECT 10 + i, 5, int4range(i * 10, i * 10 + 10) FROM generate_series(1, 4) i;
UPDATE booking SET during = '[3,11)' WHERE id = 3;
UPDATE booking SET during = '[12,13)' WHERE id = 3;
UPDATE booking SET note = 'same' WHERE room = 5;
UPDATE booking SET during = int4range(lower(during) - 10, upper(during) - 10) WHERE room = 5;
UPDATE booking SET room = 6 WHERE room = 5;
UPDATE booking SET room = 1 WHERE id = 2;
DELETE FROM booking WHERE id = 1;
UPDATE booking SET room = 1, during = '[1,3)' WHERE id = 2;
UPDATE booking SET id = id + 100 WHERE room = 6;
MERGE INTO booking b USING (VALUES (2, 50), (60, 50)) q(i, r) ON b.id = i WHEN MATCHED THEN UPDATE SET room = r WHEN NOT MATCHED THEN INSERT VALUES (i, r, '[2,3)');
MERGE INTO booking b USING (VALUES (2, 50), (60, 51)) q(i, r) ON b.id = i WHEN MATCHED THEN UPDATE SET room = r WHEN NOT MATCHED THEN INSERT VALUES (i, r, '[2,3)');
MERGE INTO booking b USING (VALUES (60)) q(i) ON b.id = i WHEN MATCHED THEN DELETE;
SELECT * FROM booking ORDER BY id;
INSERT INTO disc VALUES (3, '<(1,0),0.5>');
INSERT INTO disc VALUES (3, '<(1,0),0.5>', false), (4, '<(9,9),1>');
UPDATE disc SET live = true WHERE id = 3;
UPDATE disc SET live = false WHERE id = 1;
UPDATE disc SET live = true WHERE id = 3;
SELECT * FROM disc ORDER BY id;
INSERT INTO late VALUES (3, '[8,10)');
BEGIN;
INSERT INTO late VALUES (3, '[8,10)');
UPDATE late SET during = '[5,8)' WHERE id = 2;
COMMIT;
BEGIN;
INSERT INTO late VALUES (4, '[9,12)');
SELECT count(*) FROM late;
SET CONSTRAINTS late_apart IMMEDIATE;
ROLLBACK;
BEGIN;
INSERT INTO late VALUES (4, '[9,12)');
DELETE FROM late WHERE id = 4;
COMMIT;
SELECT * FROM late ORDER BY id;
UPDATE soon SET lo = lo + 4, hi = hi + 4;
INSERT INTO soon VALUES (3, 10, 20);
INSERT INTO soon VALUES (3, 20, 30), (4, 25, 26);
SELECT * FROM soon ORDER BY id;
BEGIN;
INSERT INTO booking VALUES (70, 70, '[1,5)');
@2& INSERT INTO booking VALUES (71, 70, '[4,6)');
COMMIT;
@2?;
BEGIN;
DELETE FROM booking WHERE id = 70;
@2& INSERT INTO booking VALUES (72, 70, '[4,6)');
COMMIT;
@2?;
SELECT * FROM booking ORDER BY id;
-- COPY tells the line.
COPY soon FROM STDIN;
50	100	105
51	104	110
\.
COPY soon FROM STDIN;
50	100	105
51	2	3
\.
COPY both_ways FROM STDIN;
50	50	[100,105)
51	51	[105,110)
52	52	[109,112)
53	53	[101,102)
\.
---- differs: the line is not told (COPY … WHERE)
COPY both_ways FROM STDIN WHERE id <> 50;
50	50	[100,105)
51	51	[105,110)
52	52	[111,112)
\.
COPY late FROM STDIN;
50	[100,105)
51	[104,110)
\.
BEGIN;
COPY late FROM STDIN;
50	[100,105)
51	[104,110)
\.
UPDATE late SET during = 'empty' WHERE id = 51;
COMMIT;
SELECT * FROM both_ways ORDER BY id;
SELECT * FROM late ORDER BY id;
