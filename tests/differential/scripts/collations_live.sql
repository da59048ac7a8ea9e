-- What a collation of an index, or of one side of a foreign key only, decides is left to main.
---- schema
CREATE COLLATION nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE TABLE un (id int PRIMARY KEY, name text);
CREATE UNIQUE INDEX ON un (name COLLATE nocase);
CREATE TABLE nd (name text COLLATE nocase PRIMARY KEY);
CREATE TABLE nc (id int PRIMARY KEY, name text REFERENCES nd);
---- run
---- only live: they go straight
INSERT INTO un VALUES (1, 'Abc');
INSERT INTO un VALUES (2, 'aBC') ON CONFLICT (name) DO NOTHING RETURNING *;
INSERT INTO un VALUES (3, 'abcd') ON CONFLICT (name) DO NOTHING RETURNING *;
INSERT INTO nd VALUES ('aBc'), ('x');
INSERT INTO nc VALUES (1, 'ABC');
DELETE FROM nd WHERE name = 'abC';
INSERT INTO nc VALUES (2, 'ABCD');
UPDATE nd SET name = 'y' WHERE name = 'x' RETURNING *;
UPDATE nd SET name = 'y' WHERE name = 'AbC';
DELETE FROM nc;
DELETE FROM nd WHERE name = 'abC';
SELECT * FROM nd;
