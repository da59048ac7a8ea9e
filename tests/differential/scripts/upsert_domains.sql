-- The proposed row of ON CONFLICT is computed before it is looked for: what its domains, lengths, checks and generated
-- columns forbid is an error, whether or not the row would be passed over.
---- schema
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE TABLE t (id int PRIMARY KEY, p positive, code varchar(3), b int CHECK (b < 100), g int GENERATED ALWAYS AS (10 / b) STORED);
CREATE TABLE keyed (p positive PRIMARY KEY, v text);
INSERT INTO t VALUES (1, 1, 'a', 1), (4, 4, 'b', 4);
INSERT INTO keyed VALUES (1, 'one');
---- run
INSERT INTO t VALUES (4, 0, 'x', 1) ON CONFLICT DO NOTHING;
INSERT INTO t VALUES (4, 0, 'x', 1) ON CONFLICT (id) DO UPDATE SET p = 5;
INSERT INTO t VALUES (4, 1, 'long', 1) ON CONFLICT DO NOTHING;
INSERT INTO t VALUES (4, 1, 'x', 100) ON CONFLICT DO NOTHING;
INSERT INTO t VALUES (4, 1, 'x', 0) ON CONFLICT DO NOTHING;
INSERT INTO t VALUES (4, 1, 'x', 0) ON CONFLICT (id) DO UPDATE SET b = 2 RETURNING *;
INSERT INTO t VALUES (9, 9, 'x', 1), (4, 0, 'x', 1) ON CONFLICT DO NOTHING;
INSERT INTO t SELECT 4, v, 'x', 1 FROM (VALUES (0)) v(v) ON CONFLICT DO NOTHING;
INSERT INTO t VALUES (4, 9, 'x', 1), (5, 9, 'y', 5) ON CONFLICT DO NOTHING RETURNING *;
INSERT INTO t VALUES (5, 9, 'y', 5) ON CONFLICT (id) DO UPDATE SET p = 0;
INSERT INTO t VALUES (5, 9, 'y', 5) ON CONFLICT (id) DO UPDATE SET p = 0 WHERE t.id = 6;
INSERT INTO t VALUES (5, 9, 'y', 5) ON CONFLICT (id) DO UPDATE SET b = 0;
INSERT INTO t VALUES (5, 9, 'y', 5) ON CONFLICT (id) DO UPDATE SET b = 2 RETURNING *;
INSERT INTO keyed VALUES (0, 'x') ON CONFLICT DO NOTHING;
INSERT INTO keyed VALUES (1, 'x') ON CONFLICT DO NOTHING;
INSERT INTO keyed VALUES (1, 'x') ON CONFLICT (p) DO UPDATE SET p = 0;
INSERT INTO keyed VALUES (1, 'x') ON CONFLICT (p) DO UPDATE SET v = excluded.v || excluded.p RETURNING *;
SELECT * FROM t ORDER BY id;
-- What is wrong with the proposed row is said before anything is assigned to the row that is found.
INSERT INTO t VALUES (4, 9, 'x', 100) ON CONFLICT (id) DO UPDATE SET p = 0;
INSERT INTO t VALUES (4, 9, 'x', 100) ON CONFLICT (id) DO UPDATE SET b = 1 / 0;
INSERT INTO t VALUES (4, 9, 'x', 1) ON CONFLICT (id) DO UPDATE SET p = t.p - t.p;
SELECT * FROM t ORDER BY id;
