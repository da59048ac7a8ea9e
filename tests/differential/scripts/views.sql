-- Views over pending rows.
---- schema
CREATE TABLE unit(id int PRIMARY KEY, name text, n int);
CREATE TABLE obs(id int PRIMARY KEY, unit int, status text);
CREATE VIEW wide AS SELECT u.*, o.status, o AS obs FROM unit u JOIN obs o ON o.unit = u.id;
CREATE VIEW renamed(a, b) AS SELECT id, name FROM unit WHERE id > 1;
CREATE VIEW nested AS SELECT r.a, w.status FROM renamed r LEFT JOIN wide w ON w.id = r.a;
CREATE VIEW barrier WITH (security_barrier) AS SELECT * FROM unit WHERE id < 3;
CREATE VIEW counted AS SELECT status, count(*) AS count FROM obs GROUP BY status;
CREATE VIEW tables AS SELECT tableoid::regclass AS t, id FROM unit;
CREATE MATERIALIZED VIEW kept AS SELECT count(*) FROM unit;
INSERT INTO unit SELECT i, 'unit ' || i, i FROM generate_series(1, 4) i;
INSERT INTO obs SELECT i, i, 'old' FROM generate_series(1, 4) i;
REFRESH MATERIALIZED VIEW kept;
---- run
---- only buffered
UPDATE unit SET name = upper(name) WHERE id = 2;
INSERT INTO unit VALUES (7, 'seven', 7);
DELETE FROM obs WHERE id = 3;
INSERT INTO obs VALUES (8, 7, 'new'), (9, 7, NULL);
SELECT * FROM wide ORDER BY id, status;
SELECT w, pg_typeof(w), (w.obs).id FROM wide w ORDER BY id, status;
SELECT * FROM renamed ORDER BY a;
SELECT renamed FROM renamed ORDER BY a;
SELECT x.k, x.b FROM renamed x(k) ORDER BY 1;
SELECT * FROM nested ORDER BY 1, 2;
SELECT * FROM barrier ORDER BY 1;
SELECT * FROM counted ORDER BY 1;
SELECT * FROM tables ORDER BY id;
SELECT * FROM kept;
SELECT u.id, (SELECT count(*) FROM wide w WHERE w.id = u.id) FROM unit u ORDER BY 1;
SELECT * FROM renamed a NATURAL JOIN renamed b ORDER BY 1;
INSERT INTO obs SELECT a + 100, a, b FROM renamed RETURNING *;
UPDATE obs SET status = r.b FROM renamed r WHERE r.a = obs.unit AND obs.id < 100 RETURNING *;
DELETE FROM obs WHERE unit IN (SELECT a FROM nested WHERE status IS NULL) RETURNING id;
