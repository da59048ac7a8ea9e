-- Functions that are called without a call being written: attribute notation, operators, casts.
---- schema
CREATE TYPE level AS ENUM ('low', 'high');
CREATE TABLE users(id int PRIMARY KEY, name text, grade level);
CREATE TABLE orders(id int PRIMARY KEY, owner int, total int);
CREATE TABLE plain(id int PRIMARY KEY, who users, total int);
CREATE FUNCTION open_orders(users) RETURNS bigint STABLE LANGUAGE sql AS $$ SELECT count(*) FROM public.orders o WHERE o.owner = $1.id $$;
CREATE FUNCTION total(users) RETURNS bigint STABLE LANGUAGE sql AS $$ SELECT sum(total) FROM public.orders o WHERE o.owner = $1.id $$;
CREATE FUNCTION upper_name(users) RETURNS text IMMUTABLE LANGUAGE sql AS $$ SELECT upper($1.name) $$;
CREATE FUNCTION orders_of(int, int) RETURNS bigint STABLE LANGUAGE sql AS $$ SELECT count(*) + $2 FROM public.orders o WHERE o.owner = $1 $$;
CREATE OPERATOR @@# (LEFTARG = int, RIGHTARG = int, FUNCTION = orders_of);
CREATE FUNCTION more(users, int) RETURNS bigint STABLE LANGUAGE sql AS $$ SELECT count(*) + $2 FROM public.orders o WHERE o.owner = $1.id $$;
CREATE OPERATOR + (LEFTARG = users, RIGHTARG = int, FUNCTION = more);
CREATE FUNCTION of_level(level) RETURNS int STABLE LANGUAGE sql AS $$ SELECT count(*)::int FROM public.orders $$;
CREATE CAST (level AS int) WITH FUNCTION of_level(level);
CREATE FUNCTION to_level(bigint) RETURNS level STABLE LANGUAGE sql AS $$ SELECT CASE WHEN count(*) > 1 THEN 'high' ELSE 'low' END::public.level FROM public.orders $$;
CREATE CAST (bigint AS level) WITH FUNCTION to_level(bigint) AS ASSIGNMENT;
CREATE VIEW busy AS SELECT u.id, u.open_orders AS n FROM users u;
CREATE VIEW marked AS SELECT id @@# 0 AS n FROM orders;
INSERT INTO users VALUES (1, 'one', 'low'), (2, 'two', 'high');
INSERT INTO orders VALUES (1, 1, 5);
INSERT INTO plain VALUES (1, ROW(1, 'x', 'low'), 3);
---- run
---- only buffered
SELECT u.id, u.open_orders, u.upper_name FROM users u ORDER BY 1;
SELECT 1 @@# 1, (SELECT u + 1 FROM users u WHERE id = 1), 'low'::level::int, 1::bigint::level;
INSERT INTO orders VALUES (2, 1, 6), (3, 2, 7);
---- refused 0A000: open_orders(u)
SELECT u.id, u.open_orders FROM users u ORDER BY 1;
---- refused 0A000: the same
SELECT id FROM users WHERE users.open_orders > 1;
---- refused 0A000: the same
SELECT public.users.open_orders FROM public.users;
---- refused 0A000: the same
SELECT (u).open_orders FROM users u;
---- refused 0A000: the same
SELECT (who).open_orders FROM plain;
---- refused 0A000: the same, in a view
SELECT * FROM busy;
---- refused 0A000: the same, in a write
UPDATE users u SET name = u.open_orders::text WHERE id = 1;
---- refused 0A000: the same, in RETURNING
DELETE FROM users WHERE id = 2 RETURNING users.open_orders;
---- refused 0A000: the same, in ON CONFLICT
INSERT INTO users VALUES (1, 'x') ON CONFLICT (id) DO UPDATE SET name = users.open_orders::text;
---- refused 0A000: an operator
SELECT 1 @@# 1;
---- refused 0A000: an operator, qualified
SELECT 1 OPERATOR(public.@@#) 1;
---- refused 0A000: an operator, in a view
SELECT * FROM marked;
---- refused 0A000: an operator, in a write
UPDATE plain SET total = id @@# 1;
---- refused 0A000: an operator with a built-in's name
SELECT u + 1 FROM users u;
---- refused 0A000: a cast
SELECT grade::int FROM users;
---- refused 0A000: a cast
SELECT CAST('low'::level AS integer);
---- refused 0A000: a cast
SELECT 5::bigint::level;
---- refused 0A000: a cast by assignment
INSERT INTO users SELECT 5, 'five', 5::bigint;
SELECT u.id, u.upper_name, (u).name FROM users u ORDER BY 1;
SELECT plain.total, o.total, id * 2 FROM plain JOIN orders o USING (id);
---- refused 0A000: an operator of that name is of a type that the table has: by names, not by types
SELECT total + 1 FROM plain;
SELECT s.total, (s.who).name FROM (SELECT * FROM plain) s;
WITH c AS (SELECT * FROM orders) SELECT c.total, c.id + 1, id::int FROM c ORDER BY 2;
SELECT sum(total)::int, 1::bigint, '5'::text::int FROM orders;
UPDATE plain SET total = plain.total * 2 RETURNING plain.total;
INSERT INTO orders VALUES (3, 1, 1) ON CONFLICT (id) DO UPDATE SET total = excluded.total + orders.total RETURNING total;
MERGE INTO orders o USING plain p ON o.id = p.id WHEN MATCHED THEN UPDATE SET total = p.total * o.total;
SELECT * FROM orders ORDER BY 1;
