-- Definitions that only Postgres can read go to main as others do, also while rows are pending and within a block; what
-- Postgres cannot read either is its own error.
---- schema
CREATE TABLE during (id serial PRIMARY KEY, r int4range);
---- run
---- only live: definitions go to main
INSERT INTO during (r) VALUES ('[1,2)'), ('[5,6)');
ALTER TABLE during ADD CONSTRAINT apart EXCLUDE USING gist (r range_ops WITH -|-);
INSERT INTO during (r) VALUES ('[2,3)');
BEGIN;
INSERT INTO during (r) VALUES ('[10,11)');
ALTER TABLE during DROP CONSTRAINT apart;
ALTER TABLE during ADD CONSTRAINT not_over EXCLUDE USING gist (r range_ops WITH &&);
COMMIT;
INSERT INTO during (r) VALUES ('[2,3)');
INSERT INTO during (r) VALUES ('[2,7)');
ALTER TABEL during ADD v int;
CREATE TABLE oops (;
SELECT r FROM during ORDER BY r;
