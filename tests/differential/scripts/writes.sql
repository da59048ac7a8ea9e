-- Plain INSERT, UPDATE, DELETE and SELECT over pending rows.
---- schema
CREATE TABLE unit (id int PRIMARY KEY, name text NOT NULL UNIQUE, weight numeric(6,2) DEFAULT 1, CHECK (weight >= 0));
CREATE TABLE log (id serial PRIMARY KEY, unit int REFERENCES unit, line varchar(10), at timestamptz);
INSERT INTO unit VALUES (1, 'one', 1), (2, 'two', 2), (3, 'three', NULL);
INSERT INTO log (unit, line) VALUES (1, 'a'), (2, 'b');
---- run
INSERT INTO unit VALUES (4, 'four', 4.005) RETURNING *;
INSERT INTO unit (id, name) SELECT id + 10, name || '!' FROM unit WHERE id < 3 RETURNING id, name, weight;
INSERT INTO log (unit, line, at) VALUES (4, 'c', '2026-01-02 03:04:05+02'), (11, 'd', NULL) RETURNING *;
SELECT * FROM unit ORDER BY id;
SELECT u.name, count(l.id), max(l.line) FROM unit u LEFT JOIN log l ON l.unit = u.id GROUP BY u.id ORDER BY u.id;
SELECT u.id, u.name, count(*), count(l.id) AS lines FROM unit u LEFT JOIN log l ON l.unit = u.id GROUP BY 1 ORDER BY 4, 1;
SELECT count(l.id), u.name, (u.id) FROM unit u LEFT JOIN log l ON l.unit = u.id GROUP BY (3), u.name ORDER BY u.name;
UPDATE unit SET weight = weight * 2, name = upper(name) WHERE id % 2 = 1 RETURNING id, name, weight;
UPDATE unit SET id = id + 100 WHERE id = 3 RETURNING *;
UPDATE log SET line = l.line || u.name FROM log l JOIN unit u ON u.id = l.unit WHERE log.id = l.id RETURNING log.id, log.line, u.name;
DELETE FROM log USING unit WHERE unit.id = log.unit AND unit.weight > 3 RETURNING log.*, unit.name;
DELETE FROM unit WHERE id = 11 RETURNING *;
BEGIN;
UPDATE unit SET name = 'x' || id;
SAVEPOINT s;
DELETE FROM log;
SELECT count(*) FROM log;
ROLLBACK TO s;
SELECT * FROM log ORDER BY id;
COMMIT;
SELECT name FROM unit ORDER BY name DESC LIMIT 2;
DELETE FROM log WHERE false;
INSERT INTO unit SELECT * FROM unit WHERE false;
BEGIN; INSERT INTO unit VALUES (50, 'fifty'); SELECT count(*) FROM unit; COMMIT;
INSERT INTO unit VALUES (51, 'a'); INSERT INTO unit VALUES (51, 'b'); INSERT INTO unit VALUES (52, 'c');
SELECT count(*) FROM unit;
COPY (SELECT id, name FROM unit ORDER BY id) TO STDOUT;
COPY unit (id, weight) TO STDOUT (FORMAT csv, HEADER);
