-- Sequences in COPY, writes in WITH, ON CONFLICT and MERGE.
---- schema
CREATE SEQUENCE s;
CREATE SEQUENCE w;
CREATE SEQUENCE r START 1000 INCREMENT 10;
CREATE TABLE t (id serial PRIMARY KEY, a int UNIQUE, b bigint DEFAULT nextval('s'), c bigint DEFAULT nextval('r'));
CREATE TABLE i (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, a int);
CREATE TABLE log (n serial PRIMARY KEY, what text, v bigint);
CREATE TABLE src (a int PRIMARY KEY, x int);
INSERT INTO src SELECT g, g * 10 FROM generate_series(1, 6) g;
CREATE SEQUENCE tiny MAXVALUE 2;
CREATE TABLE few (id int PRIMARY KEY DEFAULT nextval('tiny'), a int);
---- run
COPY t (a) FROM STDIN;
1
2
3
\.
SELECT * FROM t ORDER BY a;
SELECT currval('t_id_seq'), currval('s'), currval('r'), lastval();
COPY t (a, b) FROM STDIN;
4	400
5	500
\.
SELECT lastval(), currval('s'), currval('r');
COPY i (a) FROM STDIN;
1
2
\.
SELECT * FROM i ORDER BY id;
-- A duplicate: what was taken stays taken.
COPY t (a) FROM STDIN;
6
1
\.
INSERT INTO t (a) VALUES (7) RETURNING *;
-- Writes in WITH.
WITH n AS (INSERT INTO t (a) VALUES (10), (11) RETURNING id, a, b) INSERT INTO log (what, v) SELECT 'new ' || a, b FROM n ORDER BY a RETURNING *;
SELECT currval('t_id_seq'), currval('s'), currval('log_n_seq'), lastval();
WITH n AS (INSERT INTO t (a, b) SELECT a + 20, nextval('s') FROM src WHERE a < 3 ORDER BY a RETURNING *) SELECT count(*), min(b), max(b), max(c) FROM n;
WITH n AS (UPDATE t SET b = nextval('s') WHERE a = 10 RETURNING b), m AS (INSERT INTO log (what, v) SELECT 'upd', b FROM n RETURNING v) SELECT * FROM m;
WITH d AS (DELETE FROM log WHERE what = 'upd' RETURNING v) INSERT INTO t (a) SELECT v + 100 FROM d RETURNING *;
SELECT currval('s'), currval('r'), lastval();
-- ON CONFLICT: a row that is not inserted has taken its values all the same.
INSERT INTO t (a) VALUES (1) ON CONFLICT DO NOTHING;
INSERT INTO t (a) VALUES (50) RETURNING *;
INSERT INTO t (a) VALUES (1), (51), (2) ON CONFLICT (a) DO UPDATE SET b = excluded.b RETURNING *;
INSERT INTO t (a) VALUES (52) RETURNING *;
INSERT INTO t (a) VALUES (1) ON CONFLICT (a) DO UPDATE SET b = nextval('s') RETURNING *;
INSERT INTO t (a) VALUES (53), (54) ON CONFLICT (a) DO UPDATE SET b = nextval('s') RETURNING *;
INSERT INTO t (a) VALUES (55) RETURNING *;
INSERT INTO t (a, b) SELECT a, nextval('s') FROM src ORDER BY a ON CONFLICT (a) DO NOTHING RETURNING *;
SELECT currval('t_id_seq'), currval('s'), currval('r'), lastval();
-- MERGE.
MERGE INTO t USING (VALUES (90)) AS q (a) ON t.a = q.a WHEN NOT MATCHED THEN INSERT (a) VALUES (q.a);
SELECT currval('t_id_seq'), currval('s'), currval('r');
MERGE INTO t USING (VALUES (90)) AS q (a) ON t.a = q.a WHEN MATCHED THEN UPDATE SET b = nextval('s') WHEN NOT MATCHED THEN INSERT (a) VALUES (q.a);
SELECT currval('t_id_seq'), currval('s'), currval('r');
MERGE INTO t USING (SELECT a FROM src WHERE a = 6) AS q ON t.a = q.a WHEN MATCHED AND t.b < 0 THEN DELETE WHEN NOT MATCHED THEN INSERT (a, b) VALUES (q.a, nextval('s'));
SELECT * FROM t ORDER BY a;
INSERT INTO t (a) VALUES (91) RETURNING *;
-- Evaluated again after a wait: the values are those it has (Postgres computes the new row again, with another value).
BEGIN;
UPDATE src SET x = 11 WHERE a = 1;
@2& UPDATE src SET x = nextval('w') * 0 WHERE a = 1 RETURNING x;
COMMIT;
@2?;
---- differs: Postgres has taken another value when it evaluated the row again
@2 SELECT currval('w');
INSERT INTO t (a) VALUES (92) RETURNING id;
BEGIN;
INSERT INTO t (a) VALUES (200) RETURNING id;
@2& INSERT INTO t (a) VALUES (200) RETURNING id;
ROLLBACK;
@2?;
BEGIN;
INSERT INTO t (a) VALUES (201) RETURNING id;
@2& INSERT INTO t (a) VALUES (201) RETURNING id;
COMMIT;
@2?;
INSERT INTO t (a) VALUES (202) RETURNING id;
BEGIN;
INSERT INTO t (a) VALUES (210) RETURNING id;
@2& INSERT INTO t (a) VALUES (210) ON CONFLICT (a) DO UPDATE SET b = -1 RETURNING id, b;
COMMIT;
@2?;
INSERT INTO t (a) VALUES (211) RETURNING id;
-- None left.
INSERT INTO few (a) VALUES (1) RETURNING *;
---- differs: none left is 55000 here, as the lease is main's to give
INSERT INTO few (a) VALUES (2), (3) RETURNING *;
SELECT * FROM t ORDER BY a;
SELECT * FROM few ORDER BY a;
SELECT * FROM log ORDER BY n;
SELECT * FROM src ORDER BY a;
