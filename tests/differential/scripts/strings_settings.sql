-- A string that fails takes its settings with it, whoever has found the error.
---- schema
DO $$ BEGIN CREATE ROLE differential_tenant; EXCEPTION WHEN duplicate_object OR unique_violation THEN END $$;
CREATE TABLE t (id int PRIMARY KEY, v int CHECK (v > 0));
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE child (id int PRIMARY KEY, p int REFERENCES parent DEFERRABLE INITIALLY DEFERRED);
GRANT ALL ON t TO differential_tenant;
INSERT INTO t VALUES (1, 1);
---- run
SET work_mem = '9MB'; INSERT INTO t VALUES (1, 1);
SHOW work_mem;
SET TIME ZONE 'Asia/Tokyo'; INSERT INTO t VALUES (2, -1);
SHOW TimeZone;
SET search_path = nowhere; INSERT INTO public.t VALUES (3, 1); INSERT INTO public.t VALUES (1, 1);
SELECT count(*) FROM t;
SELECT set_config('work_mem', '10MB', false); UPDATE t SET v = 0;
SHOW work_mem;
SET ROLE differential_tenant;
RESET ROLE; INSERT INTO t VALUES (1, 1);
SELECT current_user;
INSERT INTO parent VALUES (1);
RESET ROLE;
-- What is found at the string's end.
SET work_mem = '11MB'; INSERT INTO child VALUES (1, 7);
SHOW work_mem;
-- What was committed in the string stays.
SET work_mem = '12MB'; INSERT INTO t VALUES (4, 1); COMMIT; SET work_mem = '13MB'; INSERT INTO t VALUES (1, 1);
SHOW work_mem;
RESET work_mem;
DECLARE c CURSOR WITH HOLD FOR SELECT id FROM t ORDER BY id; INSERT INTO t VALUES (1, 1);
FETCH 1 FROM c;
SET work_mem = '9MB'; INSERT INTO t VALUES (5, 1);
SHOW work_mem;
SELECT * FROM t ORDER BY id;
