-- What `pgoutpost setup` made on main as of version 3 of the schema (before main listened to one replayer only), as it was run for a site
-- called s. Not to be changed: such databases exist.

-- The schema of pgoutpost on main; replication carries it to the replicas. Running it again changes nothing.

SELECT pg_advisory_xact_lock(5788620161146746740);

CREATE SCHEMA IF NOT EXISTS pgoutpost;
GRANT USAGE ON SCHEMA pgoutpost TO PUBLIC;

-- What of each site's history main has. Updated with every replayed transaction: room for updates within the page.
CREATE TABLE IF NOT EXISTS pgoutpost.ledger (
    site text PRIMARY KEY,
    seq bigint NOT NULL CHECK (seq >= 0),
    entry uuid,
    applied_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

-- One row. Its version changes with every transaction that changes a definition.
CREATE TABLE IF NOT EXISTS pgoutpost.catalog (version bigint NOT NULL) WITH (fillfactor = 10);
CREATE UNIQUE INDEX IF NOT EXISTS catalog_one_row ON pgoutpost.catalog ((true));
INSERT INTO pgoutpost.catalog (version) VALUES (1) ON CONFLICT DO NOTHING;

-- Transactions that changed a definition and have not committed yet.
CREATE TABLE IF NOT EXISTS pgoutpost.definition_change (transaction xid8 PRIMARY KEY);

REVOKE ALL ON pgoutpost.ledger, pgoutpost.catalog, pgoutpost.definition_change FROM PUBLIC;
GRANT SELECT ON pgoutpost.ledger, pgoutpost.catalog TO PUBLIC;

CREATE OR REPLACE FUNCTION pgoutpost.schema_version() RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE AS 'SELECT 3';

-- Replay calls this first in each transaction: it commits together with the entries, or neither does. A duplicate, a
-- gap, a second replayer or what follows a failed entry raises PO001.
CREATE OR REPLACE FUNCTION pgoutpost.advance(site text, from_seq bigint, to_seq bigint, entry uuid) RETURNS void
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found_seq bigint;
BEGIN
    UPDATE pgoutpost.ledger l SET seq = advance.to_seq, entry = advance.entry, applied_at = clock_timestamp()
     WHERE l.site = advance.site AND l.seq = advance.from_seq AND advance.to_seq > advance.from_seq;
    IF NOT FOUND THEN
        SELECT l.seq INTO found_seq FROM pgoutpost.ledger l WHERE l.site = advance.site;
        RAISE EXCEPTION 'ledger of site "%" is at %, not at %',
            advance.site, coalesce(found_seq::text, 'no entry at all'), advance.from_seq
            USING ERRCODE = 'PO001', DETAIL = coalesce(found_seq::text, '');
    END IF;
END $$;
REVOKE ALL ON FUNCTION pgoutpost.advance(text, bigint, bigint, uuid) FROM PUBLIC;

-- The site's ledger in the snapshot of the calling query (STABLE), provided that the query was made under the current
-- catalog version; else PO002.
CREATE OR REPLACE FUNCTION pgoutpost.gate(site text, catalog_version bigint) RETURNS bigint
    LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$
DECLARE
    current_version bigint;
    ledger_seq bigint;
BEGIN
    SELECT c.version, (SELECT l.seq FROM pgoutpost.ledger l WHERE l.site OPERATOR(pg_catalog.=) gate.site)
      INTO current_version, ledger_seq FROM pgoutpost.catalog c;
    IF current_version IS NULL OR current_version OPERATOR(pg_catalog.<>) gate.catalog_version THEN
        RAISE EXCEPTION 'catalog version is %, not %', current_version, gate.catalog_version
            USING ERRCODE = 'PO002', DETAIL = current_version::pg_catalog.text;
    END IF;
    RETURN coalesce(ledger_seq, 0);
END $$;

-- What a value's output function prints (a cast to text would cut the blanks of a char(n)), whatever the session's
-- settings.
CREATE OR REPLACE FUNCTION pgoutpost.canonical_text(value anyelement) RETURNS text
    LANGUAGE sql STABLE STRICT PARALLEL SAFE
    SET datestyle = 'ISO, MDY' SET intervalstyle = 'postgres' SET timezone = 'UTC'
    SET extra_float_digits = 1 SET bytea_output = 'hex' SET lc_monetary = 'C'
    AS 'SELECT pg_catalog.format(''%s'', $1)';

-- The timelines that led to main's own: by them it is told whether a replica that has not followed a promotion holds what
-- main does not have. NULL on the first. Needs the right to read the file; without it that cannot be told.
CREATE OR REPLACE FUNCTION pgoutpost.timeline_history() RETURNS text
    LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT pg_read_file('pg_wal/' || left(pg_walfile_name(pg_current_wal_lsn()), 8) || '.history', 0, 1000000, true) $$;

-- A block of a sequence's values, for writes while the link is down.
CREATE OR REPLACE FUNCTION pgoutpost.lease(sequence regclass, count integer) RETURNS SETOF bigint
    LANGUAGE sql VOLATILE AS $$
    SELECT pg_catalog.nextval($1)
      FROM pg_catalog.pg_sequence s, pg_catalog.generate_series(1, CASE WHEN s.seqcycle THEN $2 ELSE
           -- What is left of it; at least one, for Postgres' own error when that is none.
           least($2, greatest(1, div((CASE WHEN s.seqincrement > 0 THEN s.seqmax ELSE s.seqmin END)::numeric
               - coalesce(pg_catalog.pg_sequence_last_value(s.seqrelid), s.seqstart - s.seqincrement), s.seqincrement)))::integer
           END)
     WHERE s.seqrelid = $1 $$;

-- Says that this transaction changes definitions. The version moves at commit, so that its row is locked only then.
CREATE OR REPLACE FUNCTION pgoutpost.definitions_changed() RETURNS void
    LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
    'INSERT INTO pgoutpost.definition_change VALUES (pg_current_xact_id()) ON CONFLICT DO NOTHING';

CREATE OR REPLACE FUNCTION pgoutpost.on_definition_change() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM pgoutpost.definition_change d WHERE d.transaction = NEW.transaction;
    UPDATE pgoutpost.catalog SET version = version + 1;
    RETURN NULL;
END $$;

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = 'pgoutpost.definition_change'::regclass
                   AND tgname = 'bump_version') THEN
        CREATE CONSTRAINT TRIGGER bump_version AFTER INSERT ON pgoutpost.definition_change
            DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION pgoutpost.on_definition_change();
        ALTER TABLE pgoutpost.definition_change ENABLE ALWAYS TRIGGER bump_version;
    END IF;
END $$;

CREATE OR REPLACE FUNCTION pgoutpost.on_ddl_command() RETURNS event_trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF tg_tag IN ('COMMENT', 'GRANT', 'REVOKE', 'ALTER DEFAULT PRIVILEGES', 'SECURITY LABEL',
                  'REFRESH MATERIALIZED VIEW') THEN
        RETURN;
    END IF;
    IF EXISTS (SELECT FROM pg_event_trigger_ddl_commands() c WHERE c.schema_name IS DISTINCT FROM 'pg_temp') THEN
        PERFORM pgoutpost.definitions_changed();
    END IF;
END $$;

CREATE OR REPLACE FUNCTION pgoutpost.on_sql_drop() RETURNS event_trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM pg_event_trigger_dropped_objects() o WHERE NOT o.is_temporary) THEN
        PERFORM pgoutpost.definitions_changed();
    END IF;
END $$;

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_event_trigger WHERE evtname = 'pgoutpost_ddl') THEN
        CREATE EVENT TRIGGER pgoutpost_ddl ON ddl_command_end EXECUTE FUNCTION pgoutpost.on_ddl_command();
    END IF;
    IF NOT EXISTS (SELECT FROM pg_event_trigger WHERE evtname = 'pgoutpost_drop') THEN
        CREATE EVENT TRIGGER pgoutpost_drop ON sql_drop EXECUTE FUNCTION pgoutpost.on_sql_drop();
    END IF;
    IF EXISTS (SELECT FROM pg_event_trigger WHERE evtname IN ('pgoutpost_ddl', 'pgoutpost_drop')
               AND evtenabled <> 'A') THEN
        ALTER EVENT TRIGGER pgoutpost_ddl ENABLE ALWAYS;
        ALTER EVENT TRIGGER pgoutpost_drop ENABLE ALWAYS;
    END IF;
EXCEPTION WHEN insufficient_privilege THEN
    RAISE WARNING 'event triggers need a superuser: changes of definitions on main will not be noticed'
        USING HINT = 'Run setup once as a superuser, or call pgoutpost.definitions_changed() in each transaction with DDL.';
END $$;

-- Rows that main did not have as the site's client saw them: one line for each, written in the transaction that replays
-- the effect (or passes over the rejected entry), so exactly once. Replication carries the log to the replicas.
CREATE TABLE IF NOT EXISTS pgoutpost.conflict (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    site text NOT NULL,
    seq bigint NOT NULL,
    -- The place of the effect in its entry.
    effect integer NOT NULL,
    table_schema text NOT NULL,
    table_name text NOT NULL,
    key jsonb NOT NULL,
    -- What the client's statement saw, what it wrote, and what main had; NULL: no such row.
    old jsonb,
    mine jsonb,
    theirs jsonb,
    outcome text NOT NULL,
    role text NOT NULL,
    logged_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX IF NOT EXISTS conflict_by_site ON pgoutpost.conflict (site, id);
REVOKE ALL ON pgoutpost.conflict FROM PUBLIC;

-- The values of a row of parameters, by names: `{"column": place}`, and for what is not the value itself
-- `{"column": {"sha256": place}}` or `{"column": {"expression": text, "with": [place, ...]}}`.
CREATE OR REPLACE FUNCTION pgoutpost.picked(parameters jsonb, places jsonb) RETURNS jsonb
    LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(jsonb_object_agg(p.key, CASE
        WHEN jsonb_typeof(p.value) = 'number' THEN $1 -> p.value::text::integer
        WHEN p.value ? 'sha256' THEN jsonb_build_object('sha256', $1 -> (p.value ->> 'sha256')::integer)
        ELSE jsonb_build_object('expression', p.value -> 'expression', 'with',
            (SELECT jsonb_agg($1 -> w.place::integer ORDER BY w.n)
               FROM jsonb_array_elements_text(p.value -> 'with') WITH ORDINALITY w(place, n)))
        END), '{}') FROM jsonb_each($2) p $$;

-- Only for the daemon's own sessions, under whatever role they act.
CREATE OR REPLACE FUNCTION pgoutpost.may_log() RETURNS void
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT has_function_privilege(session_user, 'pgoutpost.advance(text, bigint, bigint, uuid)', 'EXECUTE') THEN
        RAISE EXCEPTION 'only replay writes the log of conflicts' USING ERRCODE = '42501';
    END IF;
END $$;

-- `rows`: by number, the parameters of those that the first attempt did not find as the client saw them. `theirs`, `same`,
-- `done`: by the same numbers, what main has, whether that is what the client saw after all, and what was written.
-- Returns how many there were of each outcome.
CREATE OR REPLACE FUNCTION pgoutpost.log_conflicts(
    site text, relation text[], policy text, shape jsonb, rows jsonb, theirs jsonb, same jsonb, done jsonb
) RETURNS text
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    counts jsonb;
BEGIN
    PERFORM pgoutpost.may_log();
    WITH judged AS (
        SELECT r.v, coalesce(nullif(done -> r.n, 'true'), theirs -> r.n) AS theirs, CASE
                   WHEN shape ->> 'verb' = 'insert' THEN 'kept'
                   WHEN theirs -> r.n IS NULL AND done -> r.n IS NULL THEN 'gone'
                   WHEN policy = 'main-wins' THEN 'kept'
                   WHEN done -> r.n IS NULL THEN 'suppressed'
                   -- Somebody set it back before we looked again.
                   WHEN (same ->> r.n)::boolean THEN NULL
                   ELSE 'overwritten'
               END AS outcome
          FROM jsonb_each(rows) AS r(n, v)
    ), logged AS (
        INSERT INTO pgoutpost.conflict (site, seq, effect, table_schema, table_name, key, old, mine, theirs, outcome, role)
        SELECT log_conflicts.site, split_part(j.v ->> 0, '.', 1)::bigint, split_part(j.v ->> 0, '.', 2)::integer,
               relation[1], relation[2], pgoutpost.picked(j.v, shape -> 'key'), pgoutpost.picked(j.v, shape -> 'old'),
               CASE WHEN shape ? 'mine' THEN pgoutpost.picked(j.v, shape -> 'mine') END, j.theirs, j.outcome,
               coalesce(nullif(current_setting('role'), 'none'), session_user)
          FROM judged j WHERE j.outcome IS NOT NULL
        RETURNING outcome
    )
    SELECT jsonb_object_agg(c.outcome, c.count) INTO counts
      FROM (SELECT l.outcome, count(*) FROM logged l GROUP BY 1) c;
    RETURN counts::text;
END $$;

-- The second attempt, of rows that were not as the client saw them. Runs with the client's role and settings, as the first
-- one did, with a snapshot of now. `look` locks the rows and tells what is in them; `write`, where the policy is that the
-- last write wins, writes all the same.
CREATE OR REPLACE FUNCTION pgoutpost.settle_conflict(
    site text, relation text[], policy text, shape jsonb, look text, write text, rows jsonb
) RETURNS text
    LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    theirs jsonb;
    same jsonb;
    done jsonb;
BEGIN
    EXECUTE look INTO theirs, same USING rows;
    IF policy OPERATOR(pg_catalog.=) 'reject' THEN
        RAISE EXCEPTION 'conflict: the row on main is not what the client saw'
            USING ERRCODE = 'PO003', DETAIL = coalesce(theirs::pg_catalog.text, '{}');
    END IF;
    IF write IS NOT NULL THEN
        EXECUTE write INTO done USING rows;
    END IF;
    RETURN pgoutpost.log_conflicts(site, relation, policy, shape, rows, theirs, same, done);
END $$;

-- An entry that main rejected for what others wrote is in quarantine at the site; the ledger goes past it.
CREATE OR REPLACE FUNCTION pgoutpost.log_rejected(
    site text, seq bigint, effect integer, relation text[], key jsonb, old jsonb, mine jsonb, theirs jsonb, role text
) RETURNS void
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pgoutpost.may_log();
    INSERT INTO pgoutpost.conflict (site, seq, effect, table_schema, table_name, key, old, mine, theirs, outcome, role)
    VALUES (site, seq, effect, relation[1], relation[2], key, old, mine, theirs, 'quarantined', role);
END $$;

INSERT INTO pgoutpost.ledger (site, seq) VALUES ('s', 0) ON CONFLICT DO NOTHING;
