//! The observatory's tables and the data that was there before the night.

/// Reference data is kept by people with integer keys; what the night produces has `uuid` keys, made where it is written.
pub(crate) const SCHEMA: &str = "
CREATE TABLE instruments (
    id   smallint PRIMARY KEY,
    name text NOT NULL UNIQUE
);
CREATE TABLE observation_units (
    id            integer PRIMARY KEY,
    instrument_id smallint NOT NULL REFERENCES instruments,
    target        text NOT NULL,
    phase         text NOT NULL DEFAULT 'ready'
);
CREATE TABLE executed_observations (
    id         uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    unit_id    integer NOT NULL REFERENCES observation_units,
    status     text NOT NULL DEFAULT 'running' CHECK (status IN ('running', 'completed', 'aborted')),
    start_time timestamptz NOT NULL DEFAULT now(),
    end_time   timestamptz,
    seeing     numeric(4, 2)
);
CREATE INDEX ON executed_observations (unit_id);
CREATE TABLE raw_data_packages (
    id             uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    observation_id uuid NOT NULL REFERENCES executed_observations,
    name           text NOT NULL UNIQUE,
    created_at     timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ON raw_data_packages (observation_id);
CREATE TABLE raw_data_files (
    id         uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    package_id uuid NOT NULL REFERENCES raw_data_packages,
    name       text NOT NULL,
    size_bytes bigint NOT NULL CHECK (size_bytes > 0),
    UNIQUE (package_id, name)
);

INSERT INTO instruments VALUES (1, 'CHAI'), (2, 'Prime-Cam'), (3, 'CryoSpec');
INSERT INTO observation_units
    SELECT n, 1 + n % 3, (ARRAY['Orion KL', 'NGC 253', 'M 17', 'Cep A', 'W 51', 'Circinus'])[1 + n % 6]
    FROM generate_series(1, 24) n;
";

/// The tables that the night writes, each with all its columns, the key first. Clients are told these columns with
/// RETURNING, and main is asked for the same ones afterwards.
pub(crate) const WRITTEN: [(&str, &str); 4] = [
    ("observation_units", "id, instrument_id, target, phase"),
    ("executed_observations", "id, unit_id, status, start_time, end_time, seeing"),
    ("raw_data_packages", "id, observation_id, name, created_at"),
    ("raw_data_files", "id, package_id, name, size_bytes"),
];
