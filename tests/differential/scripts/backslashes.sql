-- A warning about the client's own text is told once.
---- schema
CREATE TABLE t (id int PRIMARY KEY, v text);
INSERT INTO t VALUES (1, 'a');
---- run
SET standard_conforming_strings = off;
INSERT INTO t VALUES (2, 'a\\b');
---- refused 0A000: our parser does not know that the quote does not end it
INSERT INTO t VALUES (3, 'a\\b'), (4, 'c\'d') RETURNING v;
UPDATE t SET v = 'x\\y' WHERE v = 'a\\b';
SELECT * FROM t WHERE v = 'x\\y' ORDER BY id;
SELECT 1; SELECT * FROM t WHERE v = 'x\\y' ORDER BY id;
DELETE FROM t WHERE v = 'x\\y' RETURNING *, 'p\\q';
INSERT INTO t VALUES (1, 'y\\z') ON CONFLICT (id) DO UPDATE SET v = 'u\\v';
WITH w AS (UPDATE t SET v = 'w\\w' WHERE id = 1 RETURNING v) SELECT w.v, 'x\\x' FROM w;
BEGIN;
INSERT INTO t VALUES (9, 'a\\b');
SELECT v || '\\' FROM t ORDER BY id FOR UPDATE;
COMMIT;
SET escape_string_warning = off;
INSERT INTO t VALUES (10, 'a\\b');
RESET escape_string_warning;
PREPARE p AS INSERT INTO t VALUES (11, 'a\\b');
EXECUTE p;
SELECT * FROM t ORDER BY id;
