-- Settings that a query changes, within a transaction as well.
---- schema
CREATE SCHEMA x;
CREATE TABLE t (id serial PRIMARY KEY, v text);
CREATE TABLE x.t (id serial PRIMARY KEY, v text);
INSERT INTO t (v) VALUES ('public');
---- run
BEGIN;
SELECT set_config('search_path', 'x', true);
INSERT INTO t (v) VALUES ('local x');
SELECT v FROM t;
UPDATE t SET v = v || '!';
COMMIT;
SELECT v FROM t ORDER BY id;
BEGIN;
SELECT v FROM t ORDER BY id;
SELECT set_config('search_path', 'x', false), count(*) FROM t;
INSERT INTO t (v) VALUES ('x');
DELETE FROM t WHERE v = 'local x!' RETURNING v;
COMMIT;
SELECT v FROM t ORDER BY id;
BEGIN;
SELECT set_config('search_path', 'public', false);
INSERT INTO t (v) VALUES ('undone');
ROLLBACK;
INSERT INTO t (v) VALUES ('x again');
SELECT v FROM t ORDER BY id;
RESET search_path;
SELECT v FROM t ORDER BY id;
SELECT v FROM x.t ORDER BY id;
-- A standby's transactions are read-only in any case, so this would not be noticed.
BEGIN;
---- refused 0A000: transaction_read_only is set by SET TRANSACTION only
SELECT set_config('transaction_read_only', 'on', true);
ROLLBACK;
SELECT set_config('default_transaction_read_only', 'on', false);
INSERT INTO t (v) VALUES ('read only');
SELECT set_config('default_transaction_read_only', 'off', false);
INSERT INTO t (v) VALUES ('not any more');
