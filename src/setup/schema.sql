-- The schema of pgoutpost on main; replication carries it to the replicas. Running it again changes nothing.

SELECT pg_advisory_xact_lock(5788620161146746740);

CREATE SCHEMA IF NOT EXISTS pgoutpost;
GRANT USAGE ON SCHEMA pgoutpost TO PUBLIC;

-- What of each site's history main has. Updated with every replayed transaction: room for updates within the page.
CREATE TABLE IF NOT EXISTS pgoutpost.ledger (
    site text PRIMARY KEY,
    seq bigint NOT NULL CHECK (seq >= 0),
    entry uuid,
    applied_at timestamptz NOT NULL DEFAULT now(),
    -- The server process of the one connection that replays now; NULL: none has taken over yet.
    replayer integer
) WITH (fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
DO $$
BEGIN
    -- As of version 4.
    IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'pgoutpost.ledger'::regclass AND attname = 'replayer') THEN
        ALTER TABLE pgoutpost.ledger ADD COLUMN replayer integer;
    END IF;
END $$;

-- One row. Its version changes with every transaction that changes a definition.
CREATE TABLE IF NOT EXISTS pgoutpost.catalog (version bigint NOT NULL) WITH (fillfactor = 10);
CREATE UNIQUE INDEX IF NOT EXISTS catalog_one_row ON pgoutpost.catalog ((true));
INSERT INTO pgoutpost.catalog (version) VALUES (1) ON CONFLICT DO NOTHING;

-- Transactions that changed a definition and have not committed yet.
CREATE TABLE IF NOT EXISTS pgoutpost.definition_change (transaction xid8 PRIMARY KEY);

REVOKE ALL ON pgoutpost.ledger, pgoutpost.catalog, pgoutpost.definition_change FROM PUBLIC;
GRANT SELECT ON pgoutpost.ledger, pgoutpost.catalog TO PUBLIC;

CREATE OR REPLACE FUNCTION pgoutpost.schema_version() RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE AS 'SELECT 6';

-- Replay calls this first in each transaction: it commits together with the entries, or neither does. A duplicate, a
-- gap or what follows a failed entry raises PO001; a connection that is not the site's replayer any more, 57PO5 (of the class
-- that every version of replay takes for trouble that passes).
CREATE OR REPLACE FUNCTION pgoutpost.advance(site text, from_seq bigint, to_seq bigint, entry uuid) RETURNS void
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found_seq bigint;
    found_replayer integer;
BEGIN
    UPDATE pgoutpost.ledger l SET seq = advance.to_seq, entry = advance.entry, applied_at = clock_timestamp()
     WHERE l.site = advance.site AND l.seq = advance.from_seq AND advance.to_seq > advance.from_seq
       AND (l.replayer IS NULL OR l.replayer = pg_backend_pid());
    IF NOT FOUND THEN
        SELECT l.seq, l.replayer INTO found_seq, found_replayer FROM pgoutpost.ledger l WHERE l.site = advance.site;
        IF found_replayer <> pg_backend_pid() THEN
            RAISE EXCEPTION 'process % replays for site "%" now', found_replayer, advance.site
                USING ERRCODE = '57PO5', HINT = 'A daemon of before version 4 of the schema has to be brought up to date.';
        END IF;
        RAISE EXCEPTION 'ledger of site "%" is at %, not at %',
            advance.site, coalesce(found_seq::text, 'no entry at all'), advance.from_seq
            USING ERRCODE = 'PO001', DETAIL = coalesce(found_seq::text, '');
    END IF;
END $$;
REVOKE ALL ON FUNCTION pgoutpost.advance(text, bigint, bigint, uuid) FROM PUBLIC;

-- Makes the calling connection the only one that advances the site's ledger: it waits for the transaction that does so just now,
-- and what others still have under way fails by 57PO5. Gives the ledger as it is then. Whoever may advance may take over.
CREATE OR REPLACE FUNCTION pgoutpost.take_over(site text) RETURNS TABLE (seq bigint, entry uuid)
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT has_function_privilege(session_user, 'pgoutpost.advance(text, bigint, bigint, uuid)', 'EXECUTE') THEN
        RAISE EXCEPTION 'only replay takes the ledger over' USING ERRCODE = '42501';
    END IF;
    RETURN QUERY UPDATE pgoutpost.ledger l SET replayer = pg_backend_pid()
        WHERE l.site = take_over.site RETURNING l.seq, l.entry;
END $$;

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
    LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    SELECT pg_catalog.nextval($1)
      FROM pg_catalog.pg_sequence s, pg_catalog.generate_series(1, CASE WHEN s.seqcycle THEN $2 ELSE
           -- What is left of it; at least one, for Postgres' own error when that is none.
           least($2, greatest(1, div((CASE WHEN s.seqincrement > 0 THEN s.seqmax ELSE s.seqmin END)::numeric
               - coalesce(pg_catalog.pg_sequence_last_value(s.seqrelid), s.seqstart - s.seqincrement), s.seqincrement)))::integer
           END)
     WHERE s.seqrelid = $1 $$;

-- Says that this transaction changes definitions. The version moves at commit, so that its row is locked only then. Only for
-- who could change one as well: each change makes the open transactions of all sites fail.
CREATE OR REPLACE FUNCTION pgoutpost.definitions_changed() RETURNS void
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    -- Within this function current_user is its owner.
    caller text := coalesce(nullif(current_setting('role'), 'none'), session_user);
BEGIN
    IF NOT has_database_privilege(caller, current_database(), 'CREATE')
       AND NOT EXISTS (SELECT FROM pg_namespace n WHERE n.nspname !~ '^pg_temp_' AND has_schema_privilege(caller, n.oid, 'CREATE'))
       AND NOT EXISTS (SELECT FROM (SELECT DISTINCT relowner FROM pg_class) c WHERE pg_has_role(caller, c.relowner, 'USAGE')) THEN
        RAISE EXCEPTION 'role "%" owns nothing and may create nothing: it changes no definitions', caller
            USING ERRCODE = '42501';
    END IF;
    INSERT INTO pgoutpost.definition_change VALUES (pg_current_xact_id()) ON CONFLICT DO NOTHING;
END $$;

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
        INSERT INTO pgoutpost.definition_change VALUES (pg_current_xact_id()) ON CONFLICT DO NOTHING;
    END IF;
END $$;

CREATE OR REPLACE FUNCTION pgoutpost.on_sql_drop() RETURNS event_trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM pg_event_trigger_dropped_objects() o WHERE NOT o.is_temporary) THEN
        INSERT INTO pgoutpost.definition_change VALUES (pg_current_xact_id()) ON CONFLICT DO NOTHING;
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
