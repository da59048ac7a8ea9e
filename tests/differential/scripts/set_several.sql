-- SET (a, b) = (SELECT …): both values are of one row, whichever is found.
---- schema
CREATE TABLE u(id int PRIMARY KEY, k int, x int, y int);
CREATE INDEX u_kx ON u (k, x);
CREATE INDEX u_ky ON u (k, y);
CREATE TABLE t(id int PRIMARY KEY, a int, b int, c varchar(3), s int);
CREATE FUNCTION dice() RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RETURN (random() * 1e9)::int; END $$;
INSERT INTO u SELECT i, 5, i, 1000 - i FROM generate_series(1, 900) i;
INSERT INTO u SELECT 1000 + i, i, i, i FROM generate_series(1, 900) i WHERE i <> 5;
INSERT INTO t SELECT i, NULL, NULL, NULL, i FROM generate_series(1, 4) i;
---- run
---- only buffered
---- differs: some row is the first
UPDATE t SET (a, b) = (SELECT x, 1000 - x FROM (SELECT dice() AS x OFFSET 0) d LIMIT 1);
SELECT id, a + b FROM t ORDER BY id;
---- differs: some row is the first
UPDATE t SET (a, b) = (SELECT x + t.id, 1000 - x - t.id FROM (SELECT dice() AS x OFFSET 0) d LIMIT 1);
SELECT id, a + b FROM t ORDER BY id;
---- differs: some row is the first
UPDATE t SET (a, b) = (SELECT x, y FROM u WHERE k = 5 ORDER BY k OFFSET t.id LIMIT 1) WHERE id > 1;
SELECT id, a + b FROM t ORDER BY id;
UPDATE t SET (a, b) = (SELECT x, y FROM u WHERE k = 5 ORDER BY x LIMIT 1) RETURNING t.*;
UPDATE t SET (a, b) = (SELECT x, y FROM u WHERE k = 5 AND x > t.id ORDER BY x LIMIT 1), s = 7 WHERE id < 4 RETURNING t.*;
UPDATE t SET (a, b) = (SELECT x, y FROM u WHERE k = f.k ORDER BY x DESC LIMIT 1), (c, s) = (SELECT 'of ', sum(x) FROM u WHERE k = f.k) FROM (VALUES (1, 5), (2, 7)) f(id, k) WHERE f.id = t.id RETURNING t.*, f.*;
UPDATE t SET (a, b) = (SELECT x, y FROM u WHERE k = 5 ORDER BY x LIMIT 2) WHERE id = 1;
UPDATE t SET (a, b) = (SELECT x, y FROM u WHERE k = -1 LIMIT 1) WHERE id = 1 RETURNING t.*;
UPDATE t SET (a, c) = (SELECT x, 'too long' FROM u WHERE k = 5 ORDER BY x LIMIT 1) WHERE id = 2;
UPDATE t SET (a, b) = (SELECT DISTINCT ON (k) x, y FROM u WHERE k = t.id ORDER BY k) WHERE id <> 4 RETURNING t.*;
WITH l AS (SELECT 7 AS k) UPDATE t SET (a, b) = (SELECT u.x, y FROM u, l WHERE u.k = l.k ORDER BY 1 LIMIT 1) WHERE id = 4 RETURNING t.*;
INSERT INTO u VALUES (-1, 3, -1, -1);
UPDATE t SET (a, b) = (SELECT x, y FROM u WHERE k = 3 ORDER BY x LIMIT 1) WHERE id = 3 RETURNING t.*;
SELECT * FROM t ORDER BY id;
---- differs: any numbers
UPDATE t SET (a, b) = (0, 0);
