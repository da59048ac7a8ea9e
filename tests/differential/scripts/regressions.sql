-- What the generator has found, each shrunk to its statements.
---- schema
CREATE DOMAIN code AS varchar(3) DEFAULT 'dd';
CREATE TABLE of_domain (id int PRIMARY KEY, c code, n code DEFAULT NULL, o code DEFAULT 'own');
CREATE TABLE odd_names (id int PRIMARY KEY, "f g" int UNIQUE, "C" varchar(5));
CREATE UNIQUE INDEX odd_index ON odd_names (lower("C"), (id % 2));
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
