-- ON CONFLICT ON CONSTRAINT with names of what is no unique constraint of the table.
---- schema
CREATE TABLE users(id int PRIMARY KEY, email text, age int, boss int REFERENCES users, CONSTRAINT users_adult CHECK (age > 17), CONSTRAINT users_age UNIQUE (age));
CREATE UNIQUE INDEX users_email_idx ON users (email);
CREATE TABLE other(id int CONSTRAINT other_key PRIMARY KEY);
INSERT INTO users VALUES (1, 'one@x', 20);
---- run
INSERT INTO users VALUES (2, 'one@x', 30) ON CONFLICT ON CONSTRAINT users_email_idx DO UPDATE SET age = excluded.age;
INSERT INTO users VALUES (2, 'one@x', 30) ON CONFLICT ON CONSTRAINT nosuch DO UPDATE SET age = excluded.age RETURNING *;
INSERT INTO users VALUES (2, 'one@x', 30) ON CONFLICT ON CONSTRAINT nosuch DO NOTHING;
INSERT INTO users VALUES (2, 'one@x', 30) ON CONFLICT ON CONSTRAINT "Users_Age" DO UPDATE SET age = 40;
INSERT INTO users VALUES (2, 'one@x', 30) ON CONFLICT ON CONSTRAINT users_adult DO UPDATE SET age = 40;
INSERT INTO users VALUES (2, 'one@x', 30) ON CONFLICT ON CONSTRAINT users_adult DO NOTHING;
INSERT INTO users VALUES (2, 'one@x', 30) ON CONFLICT ON CONSTRAINT users_boss_fkey DO UPDATE SET age = 40;
INSERT INTO users VALUES (2, 'one@x', 30) ON CONFLICT ON CONSTRAINT other_key DO UPDATE SET age = 40;
INSERT INTO users VALUES (2, 'two@x', 20) ON CONFLICT ON CONSTRAINT users_age DO UPDATE SET email = excluded.email RETURNING *;
WITH u AS (INSERT INTO users VALUES (3, 'one@x', 30) ON CONFLICT ON CONSTRAINT users_email_idx DO UPDATE SET age = 40 RETURNING id) SELECT * FROM u;
BEGIN;
INSERT INTO users VALUES (3, 'three@x', 30);
SAVEPOINT s;
INSERT INTO users VALUES (3, 'one@x', 31) ON CONFLICT ON CONSTRAINT users_email_idx DO UPDATE SET age = excluded.age;
SELECT 1;
ROLLBACK TO s;
INSERT INTO users VALUES (3, 'one@x', 31) ON CONFLICT ON CONSTRAINT users_pkey DO UPDATE SET age = excluded.age;
COMMIT;
SELECT * FROM users ORDER BY id;
