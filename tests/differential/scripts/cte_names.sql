-- CTEs with the names of tables, and where they are seen: in each arm of UNION, INTERSECT, EXCEPT, in ORDER BY, in parentheses.
---- schema
CREATE TABLE obs(id int PRIMARY KEY, n int, status text);
CREATE TABLE archive(id int PRIMARY KEY, n int);
INSERT INTO obs SELECT i, i, CASE WHEN i % 2 = 0 THEN 'done' ELSE 'open' END FROM generate_series(1, 10) i;
---- run
---- only buffered
INSERT INTO obs VALUES (11, 11, 'open'), (12, 12, 'done');
UPDATE obs SET status = 'done' WHERE id = 1;
WITH obs AS (SELECT * FROM obs WHERE status = 'done') SELECT id FROM obs WHERE n > 5 UNION ALL SELECT id FROM obs WHERE n <= 5;
WITH obs AS (SELECT * FROM obs WHERE status = 'done') SELECT id FROM obs EXCEPT SELECT id FROM obs WHERE n > 5 ORDER BY 1;
WITH obs AS (SELECT * FROM obs WHERE status = 'done') SELECT id FROM obs INTERSECT SELECT id FROM obs WHERE n > 5 UNION SELECT -count(*) FROM obs ORDER BY 1;
WITH obs AS (SELECT 7 AS other) SELECT 1 AS o UNION ALL SELECT other FROM obs UNION ALL (SELECT other + 1 FROM obs);
WITH obs AS (SELECT * FROM obs WHERE status = 'done') (SELECT id FROM obs WHERE n > 5) UNION ALL (SELECT count(*) FROM obs);
WITH obs AS (SELECT * FROM obs WHERE id < 3) VALUES (1) UNION ALL SELECT count(*) FROM obs;
WITH obs AS (SELECT * FROM obs WHERE id < 3) TABLE obs UNION ALL TABLE obs;
(WITH obs AS (SELECT * FROM obs WHERE id < 3) SELECT count(*) FROM obs) UNION ALL SELECT count(*) FROM obs;
SELECT count(*) FROM obs UNION ALL (WITH obs AS (SELECT * FROM obs WHERE id < 3) SELECT count(*) FROM obs) UNION ALL SELECT count(*) FROM obs;
SELECT count(*) FROM obs UNION ALL (WITH obs AS (SELECT * FROM obs WHERE id < 3) SELECT count(*) FROM obs UNION ALL SELECT count(*) FROM obs);
((WITH obs AS (SELECT * FROM obs WHERE id < 3) SELECT count(*) FROM obs UNION ALL SELECT 10 * count(*) FROM obs) UNION ALL SELECT 100 * count(*) FROM obs) UNION ALL SELECT 1000 * count(*) FROM obs;
WITH obs AS (SELECT * FROM obs WHERE id < 3) SELECT * FROM (SELECT count(*) FROM obs UNION ALL SELECT count(*) FROM obs) s;
SELECT * FROM (WITH obs AS (SELECT * FROM obs WHERE id < 3) SELECT count(*) FROM obs UNION ALL SELECT count(*) FROM obs) s, (SELECT count(*) FROM obs) o;
WITH obs AS (SELECT * FROM obs WHERE id < 3) SELECT id FROM obs UNION ALL SELECT id FROM public.obs WHERE id > 11 ORDER BY 1;
WITH obs AS (SELECT * FROM obs WHERE id < 5 UNION ALL SELECT * FROM obs WHERE id > 10) SELECT count(*) FROM obs UNION ALL SELECT sum(id) FROM obs;
WITH RECURSIVE obs AS (SELECT 1 AS id UNION ALL SELECT id + 1 FROM obs WHERE id < 3) SELECT id FROM obs UNION ALL SELECT -id FROM obs;
WITH a AS (SELECT count(*) FROM obs UNION ALL SELECT count(*) FROM obs), obs AS (SELECT 1) SELECT * FROM a UNION ALL SELECT * FROM obs;
WITH obs AS (SELECT * FROM obs WHERE id < 3) SELECT id FROM obs UNION ALL SELECT obs.id * 100 FROM obs ORDER BY 1 LIMIT (SELECT count(*) FROM obs);
WITH obs AS (SELECT * FROM obs WHERE id < 3) SELECT id FROM obs ORDER BY (SELECT max(n) FROM obs) - id LIMIT (SELECT count(*) FROM obs);
WITH obs AS (SELECT 1 AS x) SELECT obs FROM obs UNION ALL SELECT obs FROM obs;
INSERT INTO archive WITH obs AS (SELECT * FROM obs WHERE status = 'done') SELECT id, n FROM obs WHERE n > 5 UNION ALL SELECT id, n FROM obs WHERE n <= 5;
SELECT * FROM archive ORDER BY 1;
INSERT INTO archive WITH obs AS (SELECT id + 100 AS a, n AS b FROM obs WHERE id < 3) TABLE obs;
INSERT INTO archive WITH obs AS (SELECT id + 200 AS a, n AS b FROM obs WHERE id < 3) SELECT * FROM obs UNION ALL SELECT a + 100, b FROM obs;
INSERT INTO archive WITH obs AS (SELECT id + 500 AS a FROM obs WHERE id < 3) SELECT a FROM obs UNION ALL SELECT * FROM obs WHERE false;
INSERT INTO archive (SELECT 900, 1 UNION ALL SELECT 901, count(*)::int FROM obs);
WITH obs AS (SELECT id FROM obs WHERE id < 3) INSERT INTO archive SELECT id + 600, 1 FROM obs UNION ALL SELECT id + 700, 2 FROM obs RETURNING *;
WITH d AS (DELETE FROM archive WHERE id >= 600 RETURNING id), obs AS (SELECT 1 AS id FROM d) SELECT count(*) FROM obs UNION ALL SELECT count(*) FROM obs;
DELETE FROM archive WHERE id IN (WITH obs AS (SELECT id FROM obs WHERE id < 3) SELECT id + 100 FROM obs UNION ALL SELECT id + 200 FROM obs) RETURNING *;
SELECT * FROM archive ORDER BY 1;
WITH obs AS (SELECT 2 AS id) UPDATE obs SET n = obs.n - 5 FROM obs AS c WHERE obs.id = c.id RETURNING obs.*, public.obs.n, c.id;
WITH archive AS (SELECT 950 AS a, 1 AS b) INSERT INTO archive SELECT * FROM archive RETURNING archive, archive.n, tableoid::regclass;
WITH archive AS (SELECT 950 AS a, 1 AS b) INSERT INTO archive SELECT * FROM archive UNION ALL SELECT a + 1, b FROM archive ON CONFLICT (id) DO UPDATE SET n = archive.n + 1 RETURNING archive;
WITH archive AS (SELECT 950 AS a) DELETE FROM archive USING archive AS c WHERE archive.id = c.a RETURNING archive.*, public.archive.id;
---- refused 0A000: whether obs is a row or a column of the CTE
WITH obs AS (SELECT 2 AS id) UPDATE obs SET n = 0 FROM obs AS c WHERE obs.id = c.id RETURNING obs;
WITH obs AS (SELECT 2 AS id) MERGE INTO obs USING obs AS c ON obs.id = c.id WHEN MATCHED THEN UPDATE SET n = obs.n + 1;
SELECT * FROM obs ORDER BY id;
