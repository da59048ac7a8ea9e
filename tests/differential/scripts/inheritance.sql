-- Tables that inherit from others.
---- schema
CREATE TABLE base(id int PRIMARY KEY, v text, CHECK (id > 0));
CREATE TABLE sub(extra int, CONSTRAINT sub_pkey PRIMARY KEY (id)) INHERITS (base);
CREATE TABLE subsub(more text, PRIMARY KEY (id)) INHERITS (sub);
CREATE TABLE log(line text);
CREATE TABLE log_more(n int) INHERITS (log);
INSERT INTO base VALUES (1, 'one'), (2, 'two');
INSERT INTO sub VALUES (1, 'sub one', 10), (3, 'sub three', 30);
INSERT INTO subsub VALUES (1, 'subsub one', 10, 'm'), (4, 'subsub four', 40, 'n');
INSERT INTO log VALUES ('a');
INSERT INTO log_more VALUES ('b', 1);
---- run
---- only buffered
INSERT INTO base VALUES (5, 'five');
INSERT INTO base VALUES (5, 'five again');
INSERT INTO base VALUES (3, 'as in sub');
INSERT INTO sub VALUES (5, 'sub five', 50), (2, 'sub two', 20) RETURNING tableoid::regclass, *;
INSERT INTO sub VALUES (-1, 'x', 1);
INSERT INTO subsub VALUES (6, 'six', 60, 'z') RETURNING *;
SELECT tableoid::regclass, * FROM base ORDER BY id, tableoid::regclass::text;
SELECT * FROM ONLY base ORDER BY id;
SELECT * FROM base * ORDER BY id, v;
SELECT * FROM sub ORDER BY id, v;
SELECT base FROM base ORDER BY id, v;
UPDATE base SET v = v || '!' WHERE id = 1 RETURNING tableoid::regclass, *;
UPDATE ONLY base SET v = v || '?' WHERE id = 1 RETURNING *;
UPDATE sub SET extra = extra + 1 WHERE id IN (1, 2) RETURNING *;
UPDATE sub SET v = 'own' WHERE id = 5 RETURNING sub, tableoid::regclass;
SELECT tableoid::regclass, * FROM base WHERE id = 1 ORDER BY v;
DELETE FROM base WHERE id = 5 RETURNING tableoid::regclass, v;
DELETE FROM ONLY sub WHERE id = 1;
SELECT tableoid::regclass, * FROM base ORDER BY id, v;
SELECT * FROM subsub ORDER BY id;
INSERT INTO log VALUES ('c');
INSERT INTO log_more VALUES ('d', 2);
SELECT tableoid::regclass, * FROM log ORDER BY line;
SELECT count(*) FROM ONLY log;
COPY base TO STDOUT;
COPY sub (id, v) TO STDOUT (FORMAT csv);
