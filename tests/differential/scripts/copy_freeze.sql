-- COPY FREEZE, as pgbench -i has it: only in the (sub)transaction that has truncated the table.
---- schema
CREATE TABLE fresh (id int PRIMARY KEY, v text);
CREATE TABLE other (id int PRIMARY KEY, v text);
INSERT INTO fresh VALUES (1, 'old');
---- run
COPY fresh FROM STDIN (FREEZE off);
2	two
\.
BEGIN;
TRUNCATE fresh, other;
COPY fresh FROM STDIN WITH (FREEZE on);
1	one
2	two
\.
COPY other FROM STDIN WITH (FREEZE);
1	one
\.
COMMIT;
SELECT * FROM fresh ORDER BY id;
SELECT * FROM other ORDER BY id;
