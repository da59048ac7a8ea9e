-- What people type into psql. Nothing printed here may depend on the time or on chance: the output through the daemon
-- is compared with that of an ordinary Postgres.
\set SHOW_CONTEXT never
\pset null '(null)'
INSERT INTO unit (id, name, weight, created) VALUES ('00000000-0000-0000-0000-00000000000a', 'Ä unit', 3, '2026-01-01 00:00:00Z');
INSERT INTO unit (id, name, weight, created) VALUES ('00000000-0000-0000-0000-00000000000b', 'b', NULL, '2026-01-02 00:00:00Z') RETURNING name, weight, created;
SELECT name, weight FROM unit ORDER BY name;
SELECT * FROM unit WHERE id = '00000000-0000-0000-0000-00000000000a';
\gx
UPDATE unit SET weight = coalesce(weight, 0) + 1 WHERE name = 'b' RETURNING name, weight;
DELETE FROM observation WHERE unit_id = (SELECT id FROM unit WHERE name = 'replicated-1');
SELECT u.name, count(o.id) FROM unit u LEFT JOIN observation o ON o.unit_id = u.id GROUP BY u.name ORDER BY u.name;
\echo :ROW_COUNT :SQLSTATE :ERROR
INSERT INTO unit (name) VALUES ('b');
\echo :LAST_ERROR_SQLSTATE :LAST_ERROR_MESSAGE
INSERT INTO unit VALUES ('00000000-0000-0000-0000-00000000000c', 'w', -1, '2026-01-01 00:00:00Z');
INSERT INTO unit VALUES ('00000000-0000-0000-0000-00000000000c', NULL, 1, '2026-01-01 00:00:00Z');
INSERT INTO observation (unit_id) VALUES ('00000000-0000-0000-0000-0000000000ff');
INSERT INTO observation (unit_id, status) VALUES ('00000000-0000-0000-0000-00000000000a', 'thirteen chars');
DELETE FROM unit WHERE name = 'replicated-2';
SELECT 1 / 0;
SELEKT 1;
INSERT INTO unit (name, weight) VALUES ('x', 'heavy');
UPDATE unit SET wait = 1;
SELECT * FROM nowhere;
BEGIN;
INSERT INTO log_line VALUES ('2026-01-01 00:00:00Z', 'one');
SAVEPOINT a;
INSERT INTO log_line VALUES ('2026-01-01 00:00:01Z', 'two');
ROLLBACK TO a;
INSERT INTO log_line VALUES ('2026-01-01 00:00:02Z', 'three');
RELEASE a;
SELECT * FROM log_line ORDER BY at;
COMMIT;
BEGIN;
INSERT INTO log_line VALUES ('2026-01-01 00:00:03Z', 'lost');
SELECT nothing;
SELECT 1;
COMMIT;
SELECT count(*) FROM log_line;
BEGIN; INSERT INTO log_line VALUES ('2026-01-01 00:00:04Z', 'undone'); ROLLBACK;
SELECT count(*) FROM log_line;
COMMIT;
ROLLBACK;
SAVEPOINT outside;
-- Several statements in one message.
INSERT INTO log_line VALUES ('2026-01-01 00:00:05Z', 'four')\; SELECT line FROM log_line ORDER BY at\; UPDATE reading SET value = 0 WHERE false;
SELECT 2 AS two\; INSERT INTO unit (name) VALUES ('b')\; SELECT 3 AS three;
;
INSERT INTO reading SELECT 300, '2026-01-01 00:00:00Z'::timestamptz + i * interval '1 min', i FROM generate_series(1, 5) i;
UPDATE reading SET device = device + 1 WHERE device = 300;
TABLE reading ORDER BY device, at LIMIT 3;
SELECT device, max(value), count(*) OVER () FROM reading WHERE device > 18 GROUP BY device ORDER BY device;
COPY (SELECT device, value FROM reading WHERE device > 300 ORDER BY at) TO STDOUT;
\copy (SELECT device, value FROM reading WHERE device > 300 ORDER BY at) to stdout csv header
COPY reading (device, at, value) FROM STDIN;
310	2026-01-01 00:00:00Z	1.5
310	2026-01-01 00:01:00Z	\N
\.
\copy reading from stdin with (format csv, header)
device,at,value
311,2026-01-01 00:00:00Z,2.5
"311","2026-01-01 00:02:00Z",
\.
\echo :ROW_COUNT :SQLSTATE
\copy reading (device, at) from stdin csv
310,2026-01-01 00:00:00Z
\.
COPY unit (name, weight) FROM STDIN;
copied	4
worse	heavy
\.
COPY unit (name) FROM STDIN;
one	two
\.
COPY nowhere FROM STDIN;
\.
BEGIN;
COPY log_line FROM STDIN WHERE line <> 'b';
2026-01-02 00:00:00Z	a
2026-01-02 00:00:01Z	b
\.
SELECT line FROM log_line WHERE at >= '2026-01-02';
ROLLBACK;
\copy (SELECT device, value FROM reading WHERE device >= 310 ORDER BY device, at) to stdout
\copy (SELECT name, weight FROM unit ORDER BY name) to stdout csv header
PREPARE find(int) AS SELECT device, value FROM reading WHERE device = $1 ORDER BY at LIMIT 2;
DEALLOCATE find;
DEALLOCATE find;
BEGIN;
DECLARE c CURSOR FOR SELECT device, value FROM reading WHERE device >= 300 ORDER BY at;
FETCH 2 FROM c;
FETCH ALL FROM c;
CLOSE c;
COMMIT;
\set FETCH_COUNT 2
SELECT device, value FROM reading WHERE device >= 300 ORDER BY at;
\set FETCH_COUNT 0
SET timezone = 'Asia/Kolkata';
INSERT INTO log_line VALUES ('2026-01-01 00:00:00', 'local time');
SELECT * FROM log_line ORDER BY at, line;
SET datestyle = 'SQL, DMY';
SELECT * FROM log_line ORDER BY at, line;
INSERT INTO log_line VALUES ('13/01/2026 00:00:00', 'day first');
RESET datestyle;
RESET timezone;
SELECT * FROM log_line ORDER BY at, line;
SHOW transaction_isolation;
BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
SHOW transaction_isolation;
INSERT INTO log_line VALUES ('2026-01-01 00:00:00', 'read only');
ROLLBACK;
\d unit
\dt
\dT mood
SELECT id, name, weight FROM unit
\gdesc
SELECT name, weight FROM unit WHERE weight IS NOT NULL ORDER BY name
;
VALUES (1, 'a'), (2, NULL);
