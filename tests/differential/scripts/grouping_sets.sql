-- GROUP BY of a table's key, whose other columns may be used; beside grouping sets: what only some of them group by is NULL in the others.
---- schema
CREATE TABLE gr (id int PRIMARY KEY, g int, v int, w text);
CREATE TABLE gk (a int, b int, c int, d text, PRIMARY KEY (a, b));
INSERT INTO gr VALUES (9, 10, 1, 'there');
CREATE TABLE gt (id int PRIMARY KEY, g int, v int, s lseg, l line, p jsonpath, r refcursor, t txid_snapshot, j json[], x xml[], o point[], y json);
---- run
INSERT INTO gt (id, g, v, j, y) VALUES (1, 10, 5, '{}', '1'), (2, 10, 6, NULL, '{"a": 1}'), (3, 20, 7, NULL, NULL);
-- Columns under other names.
SELECT id, count(*) FROM gt AS t(g, id, v) GROUP BY id ORDER BY 1;
SELECT id, count(*) FROM gt AS t(x, id) GROUP BY id ORDER BY 1;
-- Types without equality, that are not asked for.
SELECT id, count(*) FROM gt GROUP BY id ORDER BY 1;
SELECT id, v, count(*) FROM gt GROUP BY id HAVING g < 20 ORDER BY v DESC;
SELECT t.id, upper(t.v::text) FROM gt t GROUP BY t.id ORDER BY t.g, t.v;
SELECT id, sum(v) OVER (ORDER BY g, id) FROM gt GROUP BY id ORDER BY 1;
SELECT id, (SELECT max(v) FROM gr WHERE gr.id = gt.g) FROM gt GROUP BY id ORDER BY 1;
SELECT gr FROM gr GROUP BY id ORDER BY id;
SELECT gr.*, count(*) FROM gr GROUP BY id ORDER BY id;
SELECT *, count(*) FROM gr GROUP BY id ORDER BY id;
SELECT count(*) FROM gt GROUP BY id;
INSERT INTO gr VALUES (1, 10, 5, 'x'), (2, 20, 6, 'y'), (3, NULL, 7, NULL);
INSERT INTO gk VALUES (1, 1, 5, 'x'), (1, 2, NULL, 'y');
SELECT id, g, grouping(g), count(*) FROM gr GROUP BY id, rollup(g) ORDER BY 1, 3, 2;
SELECT id, g, w, grouping(g), count(*) FROM gr GROUP BY id, cube(g) ORDER BY 1, 4, 2;
SELECT id, g, v, count(*) FROM gr GROUP BY id, grouping sets ((g), ()) ORDER BY 1, 2;
SELECT id, g, v, grouping(g, v), w FROM gr GROUP BY id, rollup(g, v) ORDER BY 1, 4, 2, 3;
SELECT id, g AS x, grouping(g), v FROM gr GROUP BY id, rollup(x) ORDER BY 1, 3, 2;
SELECT id, g, grouping(g), v FROM gr GROUP BY 1, rollup(2) ORDER BY 1, 3, 2;
SELECT t.id, t.g, grouping(t.g), t.v FROM gr t GROUP BY t.id, rollup(t.g) ORDER BY 1, 3, 2;
SELECT id, g + 1 AS h, grouping(g + 1), v FROM gr GROUP BY id, rollup(g + 1) ORDER BY 1, 3, 2;
SELECT a, b, c, grouping(c), d FROM gk GROUP BY a, b, rollup(c) ORDER BY 1, 2, 4, 3;
SELECT a, b, c, grouping(c), d FROM gk GROUP BY a, b, grouping sets (rollup(c), cube(d)) ORDER BY 1, 2, 4, 3, 5;
SELECT t.id, t.v, k.c, grouping(k.c), count(*) FROM gr t JOIN gk k ON k.a = t.id GROUP BY t.id, rollup(k.c) ORDER BY 1, 4, 3;
SELECT id, g, v, w FROM gr GROUP BY id ORDER BY id;
UPDATE gr SET v = s.n FROM (SELECT id, max(grouping(g)) * 100 + count(*) AS n FROM (SELECT 1) o, gr GROUP BY id, rollup(g)) s WHERE s.id = gr.id AND s.n > 100;
SELECT * FROM gr ORDER BY id;
