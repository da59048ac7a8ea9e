-- Names: schemas, aliases, joins, CTEs.
---- schema
CREATE SCHEMA other;
CREATE TABLE unit(id int PRIMARY KEY, name text, tag int);
CREATE TABLE other.unit(id int PRIMARY KEY, x text);
CREATE TABLE obs(id int PRIMARY KEY, unit int, status text);
INSERT INTO unit SELECT i, 'unit ' || i, i FROM generate_series(1, 4) i;
INSERT INTO other.unit SELECT i, 'other ' || i FROM generate_series(1, 3) i;
INSERT INTO obs SELECT i, i, 'old' FROM generate_series(1, 4) i;
---- run
---- only buffered
UPDATE other.unit SET x = x || '!' WHERE other.unit.id = 1 RETURNING other.unit.*;
INSERT INTO other.unit VALUES (10, 'ten') RETURNING other.unit.id;
INSERT INTO unit VALUES (10, 'ten', 10);
DELETE FROM unit WHERE id = 3 RETURNING public.unit.name;
UPDATE obs SET unit = 10 WHERE id = 1;
SELECT public.unit.name, other.unit.x FROM public.unit, other.unit WHERE public.unit.id = other.unit.id ORDER BY 1;
SELECT public.unit.*, x FROM public.unit JOIN other.unit ON public.unit.id = other.unit.id ORDER BY 1;
SELECT * FROM public.unit JOIN other.unit USING (id) ORDER BY 1;
SELECT * FROM public.unit NATURAL FULL JOIN other.unit ORDER BY 1;
SELECT id, (SELECT x FROM other.unit WHERE other.unit.id = public.unit.id) FROM public.unit ORDER BY 1;
SELECT id, (SELECT max(unit.id) FROM other.unit WHERE unit.id < public.unit.id) FROM public.unit ORDER BY 1;
UPDATE unit SET name = other.unit.x FROM other.unit WHERE other.unit.id = public.unit.id RETURNING public.unit.*, other.unit.x;
SELECT a, b, tag FROM unit AS u(a, b) ORDER BY a;
SELECT j.id, u.name FROM unit u JOIN other.unit x USING (id) AS j ORDER BY 1;
WITH unit AS (SELECT 2 AS id) SELECT unit.id, p.name FROM unit JOIN public.unit p USING (id);
WITH RECURSIVE r AS (SELECT id, name FROM unit WHERE id = 1 UNION ALL SELECT u.id, u.name FROM r JOIN unit u ON u.id = r.id * 10) SELECT r, r.* FROM r ORDER BY 2;
SELECT u.id, l.status FROM unit u LEFT JOIN LATERAL (SELECT status FROM obs o WHERE o.unit = u.id LIMIT 1) l ON true ORDER BY 1;
SELECT v.* FROM (SELECT unit.* FROM unit) v ORDER BY 1;
SELECT * FROM (unit u JOIN obs o ON o.unit = u.id) q(a, b, c, d, e, f) ORDER BY a, d;
SELECT nosuch FROM unit;
SELECT unit.nosuch FROM unit;
SELECT x.id FROM unit;
SELECT id FROM unit, other.unit;
