-- The tables that tests/drivers/*.py and tests/drivers/psql.sql write into. Loaded on main before the link is cut.
CREATE TYPE mood AS ENUM ('calm', 'gusty', 'storm');

CREATE TABLE unit (
    id      uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name    text NOT NULL UNIQUE,
    weight  integer CHECK (weight > 0),
    created timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE observation (
    id      uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    unit_id uuid NOT NULL REFERENCES unit (id),
    status  varchar(12) NOT NULL DEFAULT 'planned',
    started timestamptz,
    n       integer NOT NULL DEFAULT 0
);

CREATE TABLE every_type (
    id   integer PRIMARY KEY,
    b    boolean,
    i2   smallint,
    i4   integer,
    i8   bigint,
    n    numeric(20, 6),
    f4   real,
    f8   double precision,
    t    text,
    vc   varchar(40),
    c    char(6),
    u    uuid,
    d    date,
    tm   time,
    ts   timestamp,
    tz   timestamptz,
    iv   interval,
    j    json,
    jb   jsonb,
    ba   bytea,
    ia   integer[],
    ta   text[],
    ua   uuid[],
    m    mood,
    ip   inet
);

-- A composite key.
CREATE TABLE reading (
    device integer,
    at     timestamptz,
    value  double precision,
    PRIMARY KEY (device, at)
);

-- No key at all.
CREATE TABLE log_line (
    at   timestamptz DEFAULT now(),
    line text
);

INSERT INTO unit (name, weight) VALUES ('replicated-1', 1), ('replicated-2', 2), ('replicated-3', 3);
INSERT INTO observation (unit_id, status) SELECT id, 'old' FROM unit;
INSERT INTO reading SELECT d, '2026-01-01 00:00:00+00'::timestamptz + d * interval '1 s', d FROM generate_series(1, 20) d;
