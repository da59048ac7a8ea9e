-- What the generator has found, each shrunk to its statements.
---- schema
CREATE DOMAIN code AS varchar(3) DEFAULT 'dd';
CREATE TABLE of_domain (id int PRIMARY KEY, c code, n code DEFAULT NULL, o code DEFAULT 'own');
CREATE TABLE odd_names (id int PRIMARY KEY, "f g" int UNIQUE, "C" varchar(5));
CREATE UNIQUE INDEX odd_index ON odd_names (lower("C"), (id % 2));
CREATE TABLE ids_from (id int PRIMARY KEY, a text);
CREATE TABLE ids_to (id serial PRIMARY KEY, a text, b int DEFAULT 7);
CREATE SEQUENCE ids_seen;
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE parted (id int PRIMARY KEY, b text) PARTITION BY RANGE (id);
CREATE TABLE parted_low PARTITION OF parted FOR VALUES FROM (MINVALUE) TO (9);
---- run
-- The domain's default.
INSERT INTO of_domain (id) VALUES (1) RETURNING *;
INSERT INTO of_domain (id, c, n, o) VALUES (2, DEFAULT, DEFAULT, DEFAULT) RETURNING *;
UPDATE of_domain SET c = 'x', o = 'y', n = 'z';
UPDATE of_domain SET c = DEFAULT, n = DEFAULT, o = DEFAULT RETURNING *;
-- Details of duplicates name columns and expressions as they are to be written.
INSERT INTO odd_names VALUES (1, 1, 'A');
INSERT INTO odd_names VALUES (2, 1, 'b');
INSERT INTO odd_names VALUES (3, 3, 'a');
-- Rows that are alike, in which every value comes of a volatile expression.
INSERT INTO ids_from VALUES (1, 'x'), (2, 'x'), (3, 'y'), (4, 'y'), (5, 'y');
MERGE INTO ids_to AS t USING ids_from s ON t.id = s.id + 100 WHEN NOT MATCHED AND s.id > 2 THEN INSERT (a) VALUES (NULL);
SELECT * FROM ids_to ORDER BY id;
MERGE INTO ids_to AS t USING ids_from s ON t.id = s.id WHEN MATCHED THEN UPDATE SET b = nextval('ids_seen')
WHEN NOT MATCHED THEN INSERT (a) VALUES ('new');
SELECT id, a, b IS NULL FROM ids_to ORDER BY id;
SELECT count(DISTINCT b) FROM ids_to;
UPDATE ids_to SET a = 'one' RETURNING nextval('ids_seen') > 0, a, (a || nextval('ids_seen')) IS NULL;
SELECT nextval('ids_seen'), nextval('ids_to_id_seq');
-- The tag comes when the end of the transaction cannot fail any more.
COPY child FROM STDIN;
1	7
\.
WITH w AS (INSERT INTO child VALUES (1, 7) RETURNING id) INSERT INTO odd_names SELECT id + 10 FROM w;
INSERT INTO child VALUES (1, 7); TRUNCATE odd_names;
-- A row without a partition has its line told.
COPY parted FROM STDIN;
1	a
9	b
\.
