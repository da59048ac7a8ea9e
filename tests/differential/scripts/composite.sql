-- Columns of composite types: a value of NULLs only is not NULL, though it "IS NULL".
---- schema
CREATE TYPE pair AS (a int, b text);
CREATE DOMAIN pairs AS pair;
CREATE TABLE p (id int PRIMARY KEY, c pair UNIQUE, d pair NOT NULL DEFAULT '(,)', e pairs);
CREATE TABLE ch (id int PRIMARY KEY, c pair REFERENCES p (c) ON DELETE CASCADE, f pair REFERENCES p (c) DEFERRABLE INITIALLY DEFERRED);
CREATE UNIQUE INDEX p_e ON p (e) WHERE id > 5;
INSERT INTO p VALUES (1, '(1,x)'), (2, '(2,)');
---- run
INSERT INTO p VALUES (3, '(,)') RETURNING *, c IS NULL, d IS NOT NULL;
INSERT INTO p VALUES (4, '(,)');
INSERT INTO p VALUES (4, NULL), (5, NULL);
INSERT INTO p (id, d) VALUES (6, NULL);
UPDATE p SET c = '(,)' WHERE id = 4;
UPDATE p SET d = NULL WHERE id = 4;
UPDATE p SET d = '(,)' WHERE id = 4 RETURNING *;
INSERT INTO p VALUES (6, NULL, '(3,z)', '(,)');
INSERT INTO p VALUES (7, NULL, '(3,z)', '(,)');
INSERT INTO p VALUES (3, '(,)') ON CONFLICT (c) DO UPDATE SET d = '(9,nine)' RETURNING *;
INSERT INTO ch VALUES (1, '(,)', '(,)'), (2, '(1,x)', NULL);
INSERT INTO ch VALUES (3, '(,x)', NULL);
INSERT INTO ch VALUES (3, NULL, '(7,)');
DELETE FROM p WHERE id = 3;
DELETE FROM ch WHERE f IS NULL;
BEGIN;
UPDATE ch SET f = NULL;
DELETE FROM p WHERE id = 3;
SELECT * FROM ch ORDER BY id;
COMMIT;
COPY p (id, c, d) FROM STDIN;
20	(,)	(,"a b")
21	\N	(5,)
\.
SELECT * FROM p WHERE c IS NULL ORDER BY id;
SELECT * FROM p WHERE c IS NOT DISTINCT FROM NULL ORDER BY id;
SELECT (c).a, (d).b, e FROM p ORDER BY id;
