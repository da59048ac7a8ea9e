-- A value that comes from a column of another collation has the collation of the column that it is written to.
---- schema
CREATE DOMAIN code AS varchar(8) CHECK (VALUE <> 'bad');
CREATE TABLE icu (id int PRIMARY KEY, v text COLLATE "und-x-icu", w text COLLATE "C");
CREATE TABLE t (id int PRIMARY KEY, c code, x text, i text COLLATE "und-x-icu", f varchar(9)[], g boolean GENERATED ALWAYS AS (x < 'b') STORED, k boolean GENERATED ALWAYS AS (i < 'b') STORED, CONSTRAINT after_b CHECK (x IS NULL OR x <> 'a' OR 'Ä' > 'b' COLLATE "C"));
CREATE TABLE checked (id int PRIMARY KEY, x text CHECK (x > 'b'), i text COLLATE "und-x-icu" CHECK (i < 'b'));
INSERT INTO icu VALUES (1, 'Ä', 'Ä'), (2, 'a', 'B'), (3, 'c', 'c');
---- run
INSERT INTO t (id, c, x, i, f) SELECT id, v, v, w, ARRAY[v] FROM icu RETURNING id, greatest(c, 'b'), greatest(x, 'b'), greatest(i, 'b'), c < 'b', f < ARRAY['b']::varchar[], g, k;
INSERT INTO t (id, x, i) SELECT 4, v, w FROM icu WHERE id = 1 ON CONFLICT (id) DO NOTHING RETURNING x < 'b', i < 'b', g, k;
INSERT INTO t (id, x, i) SELECT 4, v, w FROM icu WHERE id = 1 ON CONFLICT (id) DO UPDATE SET x = excluded.i, i = excluded.x RETURNING x < 'b', i < 'b', g, k;
UPDATE t SET x = v, i = w, c = v FROM icu WHERE icu.id = t.id RETURNING t.id, x < 'b', i < 'b', c < 'b', g, k;
MERGE INTO t USING icu ON t.id = icu.id + 3 WHEN MATCHED THEN UPDATE SET x = icu.v WHEN NOT MATCHED THEN INSERT (id, x, i) VALUES (icu.id + 3, icu.v, icu.w);
INSERT INTO checked SELECT id, v, v FROM icu WHERE id = 1;
INSERT INTO checked SELECT id, v, v FROM icu WHERE id = 2;
INSERT INTO checked VALUES (5, 'Ä' COLLATE "und-x-icu", 'Ä' COLLATE "C");
UPDATE checked SET x = i, i = x RETURNING *;
UPDATE t SET x = upper(x || ('é' COLLATE "C")) WHERE id = 1 RETURNING x;
UPDATE t SET x = upper('é' COLLATE "C" || x), i = lower(i || ('É' COLLATE "C")) WHERE id = 2 RETURNING x, i;
SELECT *, x < 'b' AS l, i < 'b' AS m FROM t ORDER BY id;
