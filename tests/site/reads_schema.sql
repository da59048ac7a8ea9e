-- What reads.sql reads: on main before, so on the replica.
CREATE TABLE unit (id int PRIMARY KEY, name text, kind varchar(10), weight numeric(10, 2), parent int, active boolean DEFAULT true);
CREATE TABLE observation (id uuid PRIMARY KEY, unit_id int REFERENCES unit, started timestamptz, ended timestamptz, tags text[], info jsonb);
CREATE TABLE reading (device int, at timestamp, value float8, quality smallint, PRIMARY KEY (device, at));
CREATE TABLE log_line (at int, line text);
CREATE TABLE untouched (id int PRIMARY KEY, label text);
CREATE TABLE "Odd Table" ("Id" int PRIMARY KEY, "sel ect" text, "quo""te" int);
CREATE SCHEMA other;
CREATE TABLE other.unit (id int PRIMARY KEY, name text);
CREATE TABLE other.lonely (id bigint PRIMARY KEY, c char(5), b bytea, d date, iv interval);
CREATE VIEW heavy AS SELECT id, name, weight FROM unit WHERE weight > 20;
CREATE VIEW unit_readings AS SELECT u.name, r.value FROM unit u JOIN reading r ON r.device = u.id;
CREATE INDEX ON reading (at);
INSERT INTO unit SELECT i, 'unit ' || i, CASE WHEN i % 2 = 0 THEN 'even' ELSE 'odd' END, i * 5.25, NULLIF(i / 3, 0), i % 5 <> 0 FROM generate_series(1, 20) i;
INSERT INTO observation SELECT md5(i::text)::uuid, 1 + i % 20, '2026-01-01Z'::timestamptz + i * interval '1 h',
    CASE WHEN i % 3 > 0 THEN '2026-01-02Z'::timestamptz + i * interval '1 h' END, ARRAY['t' || i % 4, 'all'], jsonb_build_object('n', i)
    FROM generate_series(1, 40) i;
INSERT INTO reading SELECT 1 + i % 5, '2026-01-01'::timestamp + i * interval '1 min', i * 1.5, i % 4 FROM generate_series(1, 60) i;
INSERT INTO log_line SELECT i, 'line ' || i FROM generate_series(1, 5) i;
INSERT INTO untouched SELECT i, 'u' || i FROM generate_series(1, 10) i;
INSERT INTO "Odd Table" VALUES (1, 'one', 1), (2, 'two', NULL), (3, NULL, 3);
INSERT INTO other.unit VALUES (1, 'other 1'), (2, 'other 2');
INSERT INTO other.lonely VALUES (1, 'a', '\x00ff', '2026-02-28', '1 mon'), (2, NULL, NULL, NULL, NULL);
