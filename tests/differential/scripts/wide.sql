-- Tables with more columns than a function takes arguments.
---- schema
DO $$ BEGIN
    EXECUTE (SELECT 'CREATE TABLE wide (id int PRIMARY KEY, ' || string_agg(format('c%s int NOT NULL DEFAULT %s', n, n), ', ')
        || ', CHECK (c1 < 1000), UNIQUE (c150))' FROM generate_series(1, 250) n);
    EXECUTE (SELECT 'CREATE TABLE parted (id int, ' || string_agg(format('c%s text', n), ', ')
        || ', PRIMARY KEY (id)) PARTITION BY RANGE (id)' FROM generate_series(1, 120) n);
END $$;
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (10);
INSERT INTO wide (id, c150) VALUES (1, 1001);
---- run
INSERT INTO wide (id) VALUES (2) RETURNING *;
INSERT INTO wide (id, c150) VALUES (3, 3), (4, 4);
INSERT INTO wide (id, c1, c150) VALUES (5, 1000, 5);
INSERT INTO wide (id, c250, c150) VALUES (5, NULL, 5);
INSERT INTO wide (id) VALUES (6);
INSERT INTO wide (id, c150) SELECT id + 10, c150 + 10 FROM wide WHERE id < 5;
INSERT INTO wide (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET c250 = 7, c1 = excluded.c1 + 1 RETURNING id, c1, c250;
INSERT INTO wide (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET c1 = 5000;
UPDATE wide SET c200 = c100 + c1, c150 = -id WHERE id IN (1, 2);
UPDATE wide SET c1 = 2000 WHERE id = 1;
MERGE INTO wide USING (VALUES (1), (30)) s (id) ON s.id = wide.id WHEN MATCHED THEN UPDATE SET c99 = 1 WHEN NOT MATCHED THEN INSERT (id, c150) VALUES (s.id, 30);
COPY wide (id, c150) FROM STDIN;
40	40
\.
DELETE FROM wide WHERE id = 3 RETURNING *;
SELECT * FROM wide ORDER BY id;
INSERT INTO parted (id) VALUES (1);
INSERT INTO parted (id) VALUES (11);
UPDATE parted SET c120 = 'x';
SELECT * FROM parted;
