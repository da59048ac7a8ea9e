-- Domains over enums in keys, unique indexes and foreign keys: their values have no operators of their own.
---- schema
CREATE TYPE mood AS ENUM ('quiet', 'loud', 'odd');
CREATE DOMAIN moods AS mood CHECK (value <> 'odd');
CREATE DOMAIN deeper AS moods;
CREATE TABLE t (k moods PRIMARY KEY, v int);
CREATE TABLE u (id int PRIMARY KEY, m deeper UNIQUE, n int);
CREATE TABLE c (id int PRIMARY KEY, t moods REFERENCES t ON UPDATE CASCADE ON DELETE CASCADE);
CREATE TABLE p (a moods, b int, v text, PRIMARY KEY (a, b));
INSERT INTO t VALUES ('loud', 1);
INSERT INTO u VALUES (1, 'loud', 1);
INSERT INTO c VALUES (1, 'loud');
INSERT INTO p VALUES ('loud', 1, 'base'), ('loud', 2, 'base');
---- run
INSERT INTO t VALUES ('loud', 2);
INSERT INTO t VALUES ('quiet', 2);
INSERT INTO t VALUES ('quiet', 3);
INSERT INTO t VALUES ('odd', 3);
SELECT * FROM t ORDER BY v;
UPDATE t SET v = v + 10;
SELECT * FROM t ORDER BY v;
INSERT INTO t VALUES ('loud', 5) ON CONFLICT (k) DO UPDATE SET v = excluded.v RETURNING *;
INSERT INTO t VALUES ('quiet', 5) ON CONFLICT DO NOTHING;
SELECT * FROM t ORDER BY v;
INSERT INTO c VALUES (2, 'quiet'), (3, NULL);
INSERT INTO c VALUES (4, 'odd');
DELETE FROM t WHERE v = 12;
SELECT * FROM c ORDER BY id;
INSERT INTO c VALUES (5, 'quiet');
UPDATE t SET k = 'quiet' WHERE v = 5;
SELECT * FROM c ORDER BY id;
SELECT * FROM t ORDER BY v;
-- Unique.
INSERT INTO u VALUES (2, 'loud', 2);
INSERT INTO u VALUES (2, 'quiet', 2);
INSERT INTO u VALUES (3, 'quiet', 3);
INSERT INTO u VALUES (3, NULL, 3), (4, NULL, 4);
UPDATE u SET m = 'quiet' WHERE id = 1;
UPDATE u SET m = 'quiet' WHERE id = 2;
UPDATE u SET m = CASE WHEN id = 1 THEN 'quiet'::deeper ELSE NULL END WHERE id < 3;
INSERT INTO u VALUES (9, 'quiet', 9) ON CONFLICT (m) DO UPDATE SET n = u.n + 100 RETURNING id, n;
SELECT * FROM u ORDER BY id;
DELETE FROM u WHERE m::mood = 'quiet';
SELECT * FROM u ORDER BY id;
-- Two columns.
INSERT INTO p VALUES ('quiet', 1, 'new'), ('loud', 2, 'again');
INSERT INTO p VALUES ('quiet', 1, 'new'), ('quiet', 2, 'new');
UPDATE p SET v = v || '!' WHERE b = 1;
DELETE FROM p WHERE a::mood = 'loud' AND b = 2;
UPDATE p SET b = b + 10;
SELECT * FROM p ORDER BY a::mood, b;
BEGIN;
SELECT * FROM p WHERE b = 11 ORDER BY a::mood FOR UPDATE;
UPDATE p SET v = 'locked' WHERE b = 11;
ROLLBACK;
-- As Postgres itself says.
SELECT * FROM p WHERE a = 'quiet';
