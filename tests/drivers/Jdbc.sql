-- The tables of Jdbc.java.
CREATE TABLE part (
    id     serial PRIMARY KEY,
    name   text NOT NULL UNIQUE,
    price  numeric(10, 2) NOT NULL CHECK (price >= 0),
    made   date,
    serial uuid,
    tags   text[]
);

CREATE TABLE stock (
    part  integer REFERENCES part,
    place integer,
    n     bigint,
    PRIMARY KEY (part, place)
);
