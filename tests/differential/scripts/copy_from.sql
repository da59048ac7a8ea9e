-- COPY … FROM STDIN: values, options, constraints, errors.
---- schema
CREATE TABLE p (id int PRIMARY KEY);
INSERT INTO p VALUES (1), (2);
CREATE TABLE t (id int PRIMARY KEY, a int NOT NULL, b varchar(5), c text UNIQUE, d date, p int REFERENCES p, CHECK (a < 100));
CREATE TABLE g (id serial PRIMARY KEY, x int, y int GENERATED ALWAYS AS (x * 2) STORED, z int GENERATED ALWAYS AS IDENTITY);
CREATE DOMAIN pos AS int CHECK (VALUE > 0);
CREATE DOMAIN nn AS int NOT NULL;
CREATE TABLE dm (a pos, b pos NOT NULL);
CREATE TABLE dn (a nn);
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE TABLE wide (id int PRIMARY KEY, m mood, n numeric(6,2), j jsonb, arr int[], ts timestamptz, bits bit(3), ch char(4), f float8, by bytea, u uuid, iv interval, bo bool, words text[]);
CREATE TABLE tree (id int PRIMARY KEY, parent int REFERENCES tree);
CREATE TABLE ud (id int PRIMARY KEY, u uuid DEFAULT gen_random_uuid(), n int);
CREATE TABLE low (id int PRIMARY KEY, name text, at timestamptz DEFAULT '2020-01-01 00:00:00Z');
CREATE UNIQUE INDEX low_name ON low (lower(name));
CREATE VIEW v AS SELECT * FROM p;
---- run
COPY p FROM STDIN;
3
4
\.
SELECT * FROM p ORDER BY id;
COPY t (id, a, b) FROM STDIN;
1	1	x
2	2	\N
\.
SELECT * FROM t ORDER BY id;
COPY t (id, a, b) FROM STDIN;
11	1	x
12	zz	x
\.
COPY t (id, a, b) FROM STDIN;
11	1	x
12	1
\.
COPY t (id, a, b) FROM STDIN;
11	1	x	y
\.
COPY t (id, a, b) FROM STDIN;
11	1	xxxxxxx
\.
COPY t (id, a, b) FROM STDIN;
11	1	x
12	\N	x
\.
COPY t (id, a, b) FROM STDIN;
11	1	x
12	200	x
\.
COPY t (id, a, c) FROM STDIN;
11	1	x
12	2	x
13	3	y
\.
COPY t (id, a, c) FROM STDIN;
11	1	x
11	2	y
13	zz	y
\.
COPY t (id, a, c) FROM STDIN;
11	200	x
13	zz	y
\.
COPY t (id, a, c) FROM STDIN;
1	20	x
13	5	y
\.
COPY t (id, a, c) FROM STDIN;
1	20	x
13	500	y
\.
COPY t (id, a, p) FROM STDIN;
11	20	1
12	3	7
\.
COPY t (id, a, p) FROM STDIN;
11	20	1
12	3	4
\.
SELECT * FROM t ORDER BY id;
COPY nosuch FROM STDIN;
COPY t (nope) FROM STDIN;
COPY t (a, a) FROM STDIN;
COPY g (y) FROM STDIN;
COPY t FROM STDIN WHERE nope = 1;
COPY t FROM STDIN WHERE a;
COPY t FROM STDIN WHERE a IN (SELECT 1);
COPY t FROM STDIN (FORMAT xyz);
COPY t FROM STDIN (foo 1);
COPY t FROM STDIN (DELIMITER 'ab');
COPY t FROM STDIN (DELIMITER E'\n');
COPY t FROM STDIN (DELIMITER 'a');
COPY t FROM STDIN (QUOTE 'a');
COPY t FROM STDIN (ESCAPE 'a');
COPY t FROM STDIN (FORMAT csv, QUOTE 'ab');
COPY t FROM STDIN (FORMAT csv, QUOTE ',');
COPY t FROM STDIN (FORMAT csv, DELIMITER '"');
COPY t FROM STDIN (FORMAT csv, ESCAPE 'ab');
COPY t FROM STDIN (FORMAT csv, NULL E'\n');
COPY t FROM STDIN (NULL ',', DELIMITER ',');
COPY t FROM STDIN (FORMAT csv, NULL '"');
COPY t FROM STDIN (FORCE_NULL (a));
COPY t FROM STDIN (FORCE_NOT_NULL (a));
COPY t FROM STDIN (FORCE_QUOTE (a));
COPY t FROM STDIN (FORMAT csv, FORCE_QUOTE (a));
COPY t FROM STDIN (FORMAT csv, FORCE_NULL (nope));
COPY t (a) FROM STDIN (FORMAT csv, FORCE_NULL (b));
COPY t (a) FROM STDIN (FORMAT csv, FORCE_NULL (a, a));
COPY t FROM STDIN (FORMAT binary, DELIMITER ',');
COPY t FROM STDIN (FORMAT binary, NULL ',');
COPY t FROM STDIN (FORMAT binary, HEADER);
COPY t FROM STDIN (FORMAT csv, FORMAT csv);
COPY t FROM STDIN (HEADER 3);
COPY t FROM STDIN (HEADER foo);
COPY t FROM STDIN (FREEZE);
COPY t (id, a, c) FROM STDIN CSV HEADER;
id,a,c
21,"1
",2
22,"x
y",2
\.
COPY t (id, a, c) FROM STDIN CSV HEADER;
id,a,c
21,1,"two
lines, ""quoted"""
22,2,
23,3,""
\.
SELECT id, a, c FROM t WHERE id > 20 ORDER BY id;
COPY t (id, a, c) FROM STDIN (FORMAT csv, HEADER MATCH);
id,a,c
24,4,x
\.
COPY t (id, a, c) FROM STDIN (FORMAT csv, HEADER MATCH);
id,a,d
25,4,x
\.
COPY t (id, a, c) FROM STDIN (HEADER MATCH);
id	a
\.
COPY t (id, a, c) FROM STDIN (HEADER MATCH);
id	a	\N
\.
COPY t (id, a, c) FROM STDIN (FORMAT csv, DELIMITER ';', QUOTE '''', ESCAPE '\', NULL 'nil', FORCE_NULL (c), FORCE_NOT_NULL (b)) WHERE id < 40;
\.
COPY t (id, a, b, c) FROM STDIN (FORMAT csv, DELIMITER ';', QUOTE '''', ESCAPE '\', NULL 'nil', FORCE_NULL (c), FORCE_NOT_NULL (b)) WHERE id < 40 AND a > 1;
31;1;x;'it\'s'
32;2;nil;'nil'
33;3;nil;'\\;'
43;4;x;y
\.
SELECT id, a, b, c FROM t WHERE id > 30 ORDER BY id;
COPY t (id, a, b, c) FROM STDIN WITH DELIMITER '|' NULL AS 'none';
51|1|none|pipe
52|1|x|none
\.
COPY t (id, a, c) FROM STDIN WITH CSV QUOTE AS '"' FORCE NOT NULL c;
53,1,
\.
SELECT id, a, b, c FROM t WHERE id > 50 ORDER BY id;
COPY t (id, a, c) FROM STDIN;
61	1	a\tb\x41\101\\\q
62	2	\N
\.
SELECT id, c FROM t WHERE id > 60 ORDER BY id;
COPY g (x) FROM STDIN;
1
2
\.
SELECT x, y FROM g ORDER BY x;
COPY g (id, x, z) FROM STDIN;
100000	1	100
\.
SELECT * FROM g WHERE id = 100000;
COPY g (id, x, z) FROM STDIN WHERE x > 4;
100001	1	100
100002	5	100
\.
COPY g (id, x, z) FROM STDIN WHERE y > 4;
100003	7	100
\.
SELECT * FROM g WHERE id >= 100000 ORDER BY id;
COPY dm FROM STDIN;
1	-1
\.
COPY dm FROM STDIN;
1	\N
\.
COPY dn FROM STDIN;
\N
\.
COPY dm FROM STDIN;
\N	5
\.
SELECT * FROM dm;
COPY wide FROM STDIN;
1	happy	3.14159	{"a": [1, 2]}	{1,NULL,3}	2026-01-02 03:04:05+00	101	ab	1e10	\\xdeadbeef	a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11	1 day 02:00	t	{"a b","c,d"}
2	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N	\N
\.
SELECT * FROM wide ORDER BY id;
COPY wide (id, m) FROM STDIN;
3	angry
\.
COPY wide (id, n) FROM STDIN;
3	123456
\.
COPY wide (id, j) FROM STDIN;
3	{oops
\.
COPY wide (id, arr) FROM STDIN;
3	{1,x}
\.
COPY wide (id, bits) FROM STDIN;
3	10
\.
COPY wide (id, ch) FROM STDIN;
3	abcde
\.
COPY wide (id, ts) FROM STDIN;
3	2026-13-01
\.
COPY tree FROM STDIN;
1	2
2	\N
3	1
\.
COPY tree FROM STDIN;
4	9
\.
SELECT * FROM tree ORDER BY id;
COPY ud (id, n) FROM STDIN;
1	1
1	x
\.
COPY ud (id, n) FROM STDIN;
1	1
2	2
\.
SELECT id, n, u IS NOT NULL FROM ud ORDER BY id;
-- What is random must not be compared at the end.
UPDATE ud SET u = NULL;
COPY low (id, name) FROM STDIN;
1	Abc
2	xyz
\.
COPY low (id, name) FROM STDIN;
3	aBC
\.
SELECT * FROM low ORDER BY id;
COPY v TO STDOUT;
BEGIN;
COPY p FROM STDIN;
70
\.
INSERT INTO t (id, a, p) VALUES (70, 7, 70);
SAVEPOINT s;
COPY p FROM STDIN;
71
70
\.
SELECT 1;
ROLLBACK TO s;
COPY p FROM STDIN;
71
\.
COMMIT;
SELECT * FROM p ORDER BY id;
BEGIN READ ONLY;
COPY p FROM STDIN;
ROLLBACK;
COPY p FROM STDIN;
99999999999
\.
COPY p FROM STDIN;
\.
SELECT * FROM t ORDER BY id;
