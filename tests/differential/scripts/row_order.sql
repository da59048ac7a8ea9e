-- Rows come in the order in which they were written, as mostly in Postgres, also those that are found by their keys.
---- schema
CREATE TABLE t (id int PRIMARY KEY, v int);
---- run
INSERT INTO t SELECT n, 0 FROM generate_series(1, 30) n;
SELECT array_agg(id) FROM t WHERE id IN (3, 20, 11, 2, 1, 30);
SELECT array_agg(id) FROM t;
UPDATE t SET v = 1 WHERE id IN (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12);
SELECT array_agg(id) FROM t WHERE v = 1;
SELECT array_agg(id) FROM t;
