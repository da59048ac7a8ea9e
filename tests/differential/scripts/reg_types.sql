-- Values of reg… types are what they were, whatever the search path is when they are read.
---- schema
CREATE SCHEMA s2;
CREATE TABLE q (id int PRIMARY KEY);
CREATE TABLE s2.q (id int PRIMARY KEY);
CREATE TABLE s2.alone (id int PRIMARY KEY);
CREATE FUNCTION s2.f(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1';
CREATE TABLE r (id int PRIMARY KEY, t regclass, ts regclass[], p regproc, y regtype DEFAULT 'int4', o regoper, n regnamespace, u regrole);
CREATE TABLE k (t regclass PRIMARY KEY, v int);
---- run
SET search_path = s2, public;
INSERT INTO r VALUES (1, 'q', '{q,alone}', 'f', 's2.q', '||/', 's2', 'postgres') RETURNING t, ts, p, y, o, n, u;
INSERT INTO r (id, t) VALUES (2, 'alone'), (3, NULL);
INSERT INTO k VALUES ('q', 1), ('alone', 2), ('public.q', 3);
SELECT * FROM r ORDER BY id;
SET search_path = public;
SELECT * FROM r ORDER BY id;
UPDATE r SET ts = ts || 'q'::regclass, t = 'q' WHERE id IN (1, 2) RETURNING *;
UPDATE k SET v = v + 10 WHERE t = 's2.q'::regclass RETURNING *;
UPDATE k SET t = 'pg_class' WHERE t = 's2.alone'::regclass RETURNING *;
DELETE FROM k WHERE t = 'q'::regclass RETURNING *;
INSERT INTO k VALUES ('s2.q', 5) ON CONFLICT (t) DO UPDATE SET v = excluded.v RETURNING *;
---- differs: Postgres' btree knows the key as oid, and prints it so in the detail
INSERT INTO k VALUES ('s2.q', 5);
SELECT t::oid = 's2.q'::regclass, v FROM k ORDER BY v;
