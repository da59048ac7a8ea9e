-- Row security: who sees which pending rows. Written by a role that row security does not apply to.
---- schema
DO $$
BEGIN
  CREATE ROLE rs_alice; 
EXCEPTION WHEN OTHERS THEN NULL;
END $$;
DO $$
BEGIN
  CREATE ROLE rs_bob;
EXCEPTION WHEN OTHERS THEN NULL;
END $$;
DO $$
BEGIN
  CREATE ROLE rs_staff;
EXCEPTION WHEN OTHERS THEN NULL;
END $$;
DO $$
BEGIN
  CREATE ROLE rs_owner;
EXCEPTION WHEN OTHERS THEN NULL;
END $$;
DO $$
BEGIN
  CREATE ROLE rs_all BYPASSRLS;
EXCEPTION WHEN OTHERS THEN NULL;
END $$;
DO $$
BEGIN
  GRANT rs_staff TO rs_bob;
EXCEPTION WHEN OTHERS THEN NULL;
END $$;
CREATE TABLE doc(id int PRIMARY KEY, who text, level int, body text);
CREATE TABLE forced(id int PRIMARY KEY, who text, body text);
CREATE TABLE team(name text, member text, PRIMARY KEY (name, member));
CREATE TABLE shared(id int PRIMARY KEY, team text, body text);
CREATE TABLE plain(id int PRIMARY KEY, doc int REFERENCES doc, note text);
CREATE TABLE part(id int, who text, body text, PRIMARY KEY (id, who)) PARTITION BY LIST (who);
CREATE TABLE part_alice PARTITION OF part FOR VALUES IN ('rs_alice');
CREATE TABLE part_rest PARTITION OF part DEFAULT;
CREATE TABLE closed(id int PRIMARY KEY, body text);
CREATE TABLE setting(id int PRIMARY KEY, tenant text);
INSERT INTO doc SELECT i, (ARRAY['rs_alice', 'rs_bob', 'rs_owner'])[i % 3 + 1], i, 'doc ' || i FROM generate_series(1, 9) i;
INSERT INTO forced SELECT i, (ARRAY['rs_alice', 'rs_owner'])[i % 2 + 1], 'forced ' || i FROM generate_series(1, 4) i;
INSERT INTO team VALUES ('red', 'rs_alice'), ('blue', 'rs_bob');
INSERT INTO shared VALUES (1, 'red', 'one'), (2, 'blue', 'two');
INSERT INTO plain VALUES (1, 1, 'one'), (2, 2, 'two');
INSERT INTO part VALUES (1, 'rs_alice', 'one'), (2, 'rs_bob', 'two');
INSERT INTO closed VALUES (1, 'one');
INSERT INTO setting VALUES (1, 'a'), (2, 'b');
GRANT ALL ON doc, forced, team, shared, plain, part, part_alice, part_rest, closed, setting TO rs_alice, rs_bob, rs_staff, rs_all, rs_owner;
ALTER TABLE doc OWNER TO rs_owner;
ALTER TABLE forced OWNER TO rs_owner;
ALTER TABLE doc ENABLE ROW LEVEL SECURITY;
ALTER TABLE forced ENABLE ROW LEVEL SECURITY;
ALTER TABLE forced FORCE ROW LEVEL SECURITY;
ALTER TABLE shared ENABLE ROW LEVEL SECURITY;
ALTER TABLE part ENABLE ROW LEVEL SECURITY;
ALTER TABLE closed ENABLE ROW LEVEL SECURITY;
ALTER TABLE setting ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON doc USING (who = current_user);
CREATE POLICY staff ON doc FOR SELECT TO rs_staff USING (level <= 5);
CREATE POLICY writing ON doc FOR UPDATE USING (true);
CREATE POLICY low ON doc AS RESTRICTIVE USING (level < 100);
CREATE POLICY staff_low ON doc AS RESTRICTIVE FOR SELECT TO rs_staff USING (id <> 4);
CREATE POLICY own ON forced USING (who = current_user);
CREATE POLICY member ON shared USING (EXISTS (SELECT FROM team t WHERE t.name = shared.team AND t.member = current_user));
CREATE POLICY own ON part USING (who = current_user);
CREATE POLICY tenant ON setting USING (tenant = current_setting('app.tenant', true));
CREATE VIEW invoked WITH (security_invoker) AS SELECT id, who, body FROM doc;
CREATE VIEW owned AS SELECT id, who, body FROM doc;
CREATE VIEW mixed AS SELECT p.id, d.who FROM plain p JOIN doc d ON d.id = p.doc;
GRANT SELECT ON invoked, owned, mixed TO rs_alice;
---- run
---- only buffered
-- Before anything of these tables is pending.
SET ROLE rs_alice;
SELECT * FROM doc ORDER BY id;
SELECT * FROM owned ORDER BY id;
RESET ROLE;
INSERT INTO doc VALUES (10, 'rs_alice', 1, 'new'), (11, 'rs_bob', 2, 'new'), (12, 'rs_owner', 3, 'new'), (13, 'rs_alice', 200, 'high'), (14, 'rs_alice', NULL, 'null');
UPDATE doc SET body = body || '!' WHERE id IN (1, 2, 3, 10);
DELETE FROM doc WHERE id IN (5, 6);
INSERT INTO forced VALUES (10, 'rs_alice', 'new'), (11, 'rs_owner', 'new');
INSERT INTO closed VALUES (2, 'two');
INSERT INTO setting VALUES (3, 'a'), (4, 'b');
INSERT INTO part VALUES (3, 'rs_alice', 'three'), (4, 'rs_bob', 'four');
UPDATE part SET body = 'changed' WHERE id = 1;
INSERT INTO shared VALUES (3, 'red', 'three'), (4, 'blue', 'four');
SELECT * FROM doc ORDER BY id;
SET ROLE rs_alice;
SELECT * FROM doc ORDER BY id;
SELECT count(*), max(level), string_agg(body, ',' ORDER BY id) FROM doc;
SELECT * FROM doc WHERE id = 11;
SELECT * FROM doc WHERE id = 10;
SELECT a.id, b.id FROM doc a JOIN doc b ON a.id < b.id AND a.who = b.who ORDER BY 1, 2;
SELECT d FROM doc d ORDER BY id;
SELECT * FROM forced ORDER BY id;
SELECT * FROM closed ORDER BY id;
SELECT * FROM shared ORDER BY id;
SELECT * FROM setting ORDER BY id;
SET app.tenant = 'a';
SELECT * FROM setting ORDER BY id;
SET app.tenant = 'b';
SELECT * FROM setting ORDER BY id;
SELECT * FROM part ORDER BY id;
SELECT * FROM part_rest ORDER BY id;
SELECT * FROM invoked ORDER BY id;
---- refused 0A000: the owner's policies, not the reader's, apply under a view
SELECT * FROM owned ORDER BY id;
---- refused 0A000: the same of a join under a view
SELECT * FROM mixed ORDER BY id;
COPY doc TO STDOUT;
COPY doc (id, body) TO STDOUT;
COPY (SELECT id FROM doc ORDER BY id) TO STDOUT;
SELECT id FROM doc EXCEPT SELECT 1 ORDER BY 1;
SELECT id, 1 / (id - 11) FROM doc WHERE body <> 'zzz' ORDER BY id;
SET row_security = off;
SELECT * FROM doc;
SELECT * FROM plain ORDER BY id;
RESET row_security;
-- A role that is in another.
SET ROLE rs_bob;
SELECT * FROM doc ORDER BY id;
SET ROLE rs_staff;
SELECT * FROM doc ORDER BY id;
-- Roles that see all.
SET ROLE rs_owner;
SELECT * FROM doc ORDER BY id;
SELECT * FROM forced ORDER BY id;
COPY doc TO STDOUT;
SET ROLE rs_all;
SELECT * FROM doc ORDER BY id;
SELECT * FROM closed ORDER BY id;
INSERT INTO doc VALUES (20, 'rs_alice', 1, 'by rs_all');
DELETE FROM closed WHERE id = 1;
SELECT * FROM closed;
-- Prepared before, executed as another.
PREPARE mine AS SELECT id, body FROM doc WHERE id < $1 ORDER BY id;
EXECUTE mine(12);
SET ROLE rs_alice;
EXECUTE mine(12);
SET ROLE rs_bob;
EXECUTE mine(12);
RESET ROLE;
EXECUTE mine(12);
BEGIN;
SET LOCAL ROLE rs_alice;
SELECT id FROM doc ORDER BY id;
COMMIT;
SELECT id FROM doc ORDER BY id;
-- Foreign keys to a table whose rows the role does not see.
INSERT INTO plain VALUES (3, 11, 'three');
INSERT INTO plain VALUES (4, 99, 'four');
SET ROLE rs_alice;
SELECT p.id, d.body FROM plain p LEFT JOIN doc d ON d.id = p.doc ORDER BY 1;
---- refused 57P03: straight: the check of the foreign key would not see all rows
INSERT INTO plain VALUES (5, 11, 'five');
---- refused 57P03: straight: row security applies
INSERT INTO doc VALUES (21, 'rs_alice', 1, 'mine');
---- refused 57P03: straight: row security applies
UPDATE doc SET body = 'mine' WHERE id = 1;
---- refused 57P03: straight: row security applies
DELETE FROM doc;
UPDATE team SET member = member WHERE false;
RESET ROLE;
-- A row that is seen before the change, and one that is seen after it.
UPDATE doc SET who = 'rs_bob' WHERE id = 9;
SELECT id, who FROM doc ORDER BY id;
SET ROLE rs_owner;
SELECT id, who FROM doc ORDER BY id;
SET ROLE rs_alice;
---- refused 0A000: the replica shows the rows that its own values allow
SELECT id, who FROM doc ORDER BY id;
---- refused 0A000: the same by COPY
COPY doc TO STDOUT;
SELECT id, who FROM doc WHERE id = 1;
SELECT * FROM plain ORDER BY id;
-- A policy that looks at another table, of which rows are pending.
RESET ROLE;
INSERT INTO team VALUES ('blue', 'rs_alice');
SELECT * FROM shared ORDER BY id;
SET ROLE rs_alice;
---- refused 0A000: the replica judges by the rows that it has
SELECT * FROM shared ORDER BY id;
---- refused 0A000: the same within a join
SELECT * FROM plain p JOIN shared s USING (id);
SELECT * FROM team ORDER BY name, member;
