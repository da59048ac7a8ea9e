-- Type modifiers of computed columns: a plan may know more than the statement says.
---- schema
CREATE TABLE t (id int PRIMARY KEY, c char(4), v varchar(6), n numeric(8,2), x text, b boolean);
INSERT INTO t VALUES (1, 'a', 'b', 1.5, 'd', true), (2, 'aa', 'bb', 2.5, 'dd', false);
---- run
INSERT INTO t VALUES (3, 'aaa', 'bbb', 3.5, 'ddd', true) RETURNING CASE WHEN NULL THEN x ELSE c END, coalesce(c, 'zz'::char(8)), coalesce(NULL, v);
UPDATE t SET id = id + 10 WHERE id = 3 RETURNING coalesce(CASE WHEN t.b > NULL::boolean THEN t.c ELSE 'ab'::char(4) END, ''::char(4));
SELECT coalesce(CASE WHEN t.b > NULL::boolean THEN t.x ELSE t.c END, ''::char(4)), CASE WHEN false THEN n + 1 ELSE n END, CASE WHEN b THEN n END, CASE WHEN true THEN v ELSE x END, id, CASE WHEN true THEN id END FROM t ORDER BY id;
SELECT nullif(CASE WHEN id <= NULL::int THEN x ELSE c END, 'b'::varchar) FROM t WHERE id < 2 AND n = 1.50;
SELECT c, v, n, sum(n), count(*) FROM t GROUP BY 1, 2, 3 ORDER BY 1;
DELETE FROM t WHERE id = 13 RETURNING CASE WHEN 1 = 1 THEN v ELSE 'x'::varchar(9) END, CASE WHEN c = 'b' THEN v ELSE 'x'::varchar(9) END;
WITH w AS (INSERT INTO t VALUES (4, 'q') RETURNING *) SELECT CASE WHEN 1 > 2 THEN x ELSE c END FROM w;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT CASE WHEN 1 > 2 THEN x ELSE v END FROM t ORDER BY id;
@2 UPDATE t SET v = 'new' RETURNING CASE WHEN NULL THEN x ELSE v END;
SELECT CASE WHEN 1 > 2 THEN x ELSE v END FROM t ORDER BY id;
DECLARE cur CURSOR FOR SELECT CASE WHEN 1 > 2 THEN x ELSE v END FROM t ORDER BY id;
FETCH 2 FROM cur;
COMMIT;
SELECT CASE WHEN NULL THEN x ELSE v END, CASE WHEN 1 = 1 THEN 1 / 0 ELSE id END FROM t ORDER BY 1;
---- differs: what locks rows is not planned as the client wrote it, so the modifier is not told
SELECT CASE WHEN NULL THEN x ELSE v END FROM t ORDER BY 1 FOR UPDATE;
PREPARE p (int) AS SELECT CASE WHEN $1 > 2 THEN x ELSE v END FROM t ORDER BY 1;
EXECUTE p (1);
PREPARE q (boolean) AS UPDATE t SET b = true WHERE id = 1 RETURNING CASE WHEN $1 THEN x ELSE v END, CASE WHEN false THEN x ELSE v END;
EXECUTE q (false);
