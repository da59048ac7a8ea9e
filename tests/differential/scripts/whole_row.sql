-- Rows as a whole, in reads and in writes.
---- schema
CREATE TABLE unit(id int PRIMARY KEY, gone int, name text, n int DEFAULT 7);
ALTER TABLE unit DROP COLUMN gone;
CREATE TABLE copy(id int PRIMARY KEY, kept text, was unit);
INSERT INTO unit VALUES (1, 'one', 1), (2, 'two', 2), (3, NULL, NULL);
---- run
---- only buffered
INSERT INTO unit VALUES (4, 'four', 4) RETURNING unit, unit.*, row_to_json(unit);
INSERT INTO unit AS u VALUES (5, 'five', 5) RETURNING u, u::text, tableoid::regclass;
UPDATE unit SET name = row_to_json(unit)::text WHERE id = 1 RETURNING unit;
UPDATE unit u SET n = (u).id * 10 WHERE u IS NOT NULL RETURNING u, (u).name;
DELETE FROM unit u WHERE u = ROW(5, 'five', 50)::unit RETURNING u, u.*;
INSERT INTO copy SELECT id, u::text, u FROM unit u RETURNING *;
SELECT unit FROM unit ORDER BY id;
SELECT count(u), count(c) FROM unit u LEFT JOIN copy c ON c.id = u.id + 1;
SELECT u.id, c, c IS NULL, c IS NOT NULL FROM unit u LEFT JOIN copy c ON c.id = u.id + 1 ORDER BY 1;
SELECT (was).name, was, pg_typeof(was), pg_typeof(c) FROM copy c ORDER BY id;
SELECT to_jsonb(u) - 'n' FROM unit u ORDER BY id;
UPDATE unit SET n = 1 FROM copy c WHERE c.id = unit.id AND (c.was).n IS NOT NULL RETURNING unit, c, c.*;
SELECT array_agg(u ORDER BY id) FROM unit u;
SELECT u FROM unit u ORDER BY u DESC;
SELECT DISTINCT u IS NULL FROM unit u;
SELECT u.tableoid::regclass, id FROM unit u JOIN copy c USING (id) ORDER BY 2;
SELECT id FROM unit u NATURAL JOIN copy c ORDER BY 1;
---- refused 0A000: tableoid is a column of both while rows are pending, and NATURAL would compare it
SELECT u.tableoid::regclass, id FROM unit u NATURAL JOIN copy c ORDER BY 2;
---- refused 0A000: the same
SELECT u.tableoid::regclass, id FROM unit u NATURAL LEFT JOIN copy c ORDER BY 2;
