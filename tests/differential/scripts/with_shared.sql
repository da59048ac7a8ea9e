-- Members of WITH that several parts read: what is evaluated once must be the same for each of them.
---- schema
CREATE TABLE parent(id uuid PRIMARY KEY);
CREATE TABLE child(parent uuid PRIMARY KEY REFERENCES parent);
CREATE TABLE tick(v float PRIMARY KEY);
CREATE TABLE tock(v float PRIMARY KEY);
CREATE TABLE t(id int PRIMARY KEY, n int);
CREATE TABLE u(id int PRIMARY KEY);
CREATE VIEW dice AS SELECT random() AS v;
CREATE VIEW diced AS SELECT * FROM dice;
INSERT INTO t SELECT i, i FROM generate_series(1, 10) i;
---- run
---- only buffered
---- refused 57P03: volatile, by way of another member: straight
WITH ids AS (SELECT gen_random_uuid() AS id), one AS (SELECT id FROM ids), p AS (INSERT INTO parent SELECT id FROM one) INSERT INTO child(parent) SELECT id FROM one;
---- refused 57P03: straight
WITH ids AS (SELECT gen_random_uuid() AS id), a AS (SELECT id FROM ids), b AS (SELECT id FROM ids), p AS (INSERT INTO parent SELECT id FROM a) INSERT INTO child(parent) SELECT id FROM b;
---- refused 57P03: volatile in a view: straight
WITH d AS (SELECT v FROM dice), i AS (INSERT INTO tick SELECT v FROM d) INSERT INTO tock SELECT v FROM d;
---- refused 57P03: straight
WITH d AS (SELECT v FROM public.diced), i AS (INSERT INTO tick SELECT v FROM d), j AS (INSERT INTO tock SELECT v FROM d) SELECT count(*) FROM t;
---- refused 57P03: an inner name that hides an outer one that it reads: straight
WITH x AS (SELECT 1 AS id), z AS (SELECT id FROM x), y AS (WITH x AS (SELECT id + 1 AS i FROM x) DELETE FROM t USING x WHERE t.id = x.i RETURNING t.id) SELECT * FROM y, z;
---- refused 57P03: in RECURSIVE: straight
WITH RECURSIVE x AS (SELECT id FROM t LIMIT 2), y AS (DELETE FROM t USING x WHERE t.id = x.id) SELECT * FROM x;
---- refused 57P03: SET of several columns in ON CONFLICT: straight
INSERT INTO t VALUES (1) ON CONFLICT (id) DO UPDATE SET (n, id) = (SELECT id, n FROM t ORDER BY 1 LIMIT 1);
SELECT * FROM t ORDER BY 1;
