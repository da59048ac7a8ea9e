
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

-- As of version 5: deletes the oldest lines of a site, of at most so many, when they are older than that. By id, which is the order in which
-- they came: so it does not look at those that stay.
CREATE OR REPLACE FUNCTION pgoutpost.trim_conflicts(site text, older_than interval, most integer) RETURNS bigint
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    lines bigint;
BEGIN
    PERFORM pgoutpost.may_log();
    WITH oldest AS (
        SELECT c.id, c.logged_at FROM pgoutpost.conflict c WHERE c.site = trim_conflicts.site ORDER BY c.id LIMIT most
    )
    DELETE FROM pgoutpost.conflict c USING oldest o
     WHERE c.id = o.id AND o.logged_at < clock_timestamp() - older_than;
    GET DIAGNOSTICS lines = ROW_COUNT;
    RETURN lines;
END $$;
