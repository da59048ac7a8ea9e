//! The questions to Postgres' catalog (<https://www.postgresql.org/docs/15/catalogs.html>).
//!
//! `to_jsonb(i) ->> 'column'` reads a column which older servers do not have.

/// Every relation a query can name.
pub(super) const RELATIONS: &str = r"
SELECT c.oid, n.nspname::text, c.relname::text, c.relkind, c.relrowsecurity,
       (c.relhastriggers AND EXISTS (SELECT FROM pg_catalog.pg_trigger t
            WHERE t.tgrelid = c.oid AND NOT t.tgisinternal AND t.tgenabled <> 'D'))
       OR (c.relhasrules AND EXISTS (SELECT FROM pg_catalog.pg_rewrite r
            WHERE r.ev_class = c.oid AND r.rulename <> '_RETURN' AND r.ev_enabled <> 'D')),
       CASE WHEN c.relkind = 'v' THEN pg_catalog.pg_get_viewdef(c.oid) END,
       coalesce((SELECT o.option_value::boolean FROM pg_catalog.pg_options_to_table(c.reloptions) o
            WHERE o.option_name = 'security_invoker'), false),
       c.relispartition, CASE WHEN c.relispartition THEN pg_catalog.pg_get_partition_constraintdef(c.oid) END,
       (SELECT p.partattrs FROM pg_catalog.pg_partitioned_table p WHERE p.partrelid = c.oid),
       (SELECT pg_catalog.pg_get_expr(p.partexprs, c.oid) FROM pg_catalog.pg_partitioned_table p WHERE p.partrelid = c.oid),
       CASE WHEN c.relkind = 'S' THEN pg_catalog.format('%I.%I', n.nspname, c.relname) END, c.relfilenode
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND c.relpersistence <> 't'
   AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'pgoutpost')
 ORDER BY c.oid";

/// Their live columns, with the base type under all layers of domains, and the sequence that feeds them.
pub(super) const COLUMNS: &str = r"
WITH RECURSIVE
base(oid, base, typmod) AS (
    SELECT t.oid, t.typbasetype, t.typtypmod FROM pg_catalog.pg_type t WHERE t.typtype = 'd'
    UNION ALL
    SELECT base.oid, t.typbasetype, t.typtypmod
      FROM base JOIN pg_catalog.pg_type t ON t.oid = base.base WHERE t.typtype = 'd'
),
ground AS (
    SELECT base.oid, base.base, base.typmod
      FROM base JOIN pg_catalog.pg_type t ON t.oid = base.base WHERE t.typtype <> 'd'
),
owned AS (
    SELECT d.refobjid AS relation, d.refobjsubid AS attnum,
           min(pg_catalog.format('%I.%I', n.nspname, s.relname)) AS sequence
      FROM pg_catalog.pg_depend d
      JOIN pg_catalog.pg_class s ON s.oid = d.objid AND s.relkind = 'S'
      JOIN pg_catalog.pg_namespace n ON n.oid = s.relnamespace
     WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.refclassid = 'pg_catalog.pg_class'::regclass
       AND d.refobjsubid > 0 AND d.deptype = 'i'
     GROUP BY 1, 2
),
used AS (
    SELECT d.objid AS attrdef, pg_catalog.format('%I.%I', n.nspname, s.relname) AS sequence
      FROM pg_catalog.pg_depend d
      JOIN pg_catalog.pg_class s ON s.oid = d.refobjid AND s.relkind = 'S'
      JOIN pg_catalog.pg_namespace n ON n.oid = s.relnamespace
     WHERE d.classid = 'pg_catalog.pg_attrdef'::regclass AND d.refclassid = 'pg_catalog.pg_class'::regclass
       AND d.deptype = 'n'
),
column_of AS (
    SELECT a.attrelid, a.attnum, a.attname, a.atttypid, a.atttypmod, a.attnotnull, a.attgenerated, a.attidentity,
           a.attcollation, CASE WHEN a.atthasmissing THEN pg_catalog.array_to_string(a.attmissingval, '') END AS missing,
           d.oid AS attrdef, pg_catalog.pg_get_expr(d.adbin, d.adrelid) AS expression
      FROM pg_catalog.pg_attribute a
      JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
      LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
     WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.relpersistence <> 't' AND a.attnum > 0 AND NOT a.attisdropped
       AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'pgoutpost')
)
SELECT a.attrelid, a.attnum, a.attname::text, a.atttypid, a.atttypmod,
       pg_catalog.format_type(a.atttypid, -1), pg_catalog.format_type(a.atttypid, a.atttypmod),
       b.oid, coalesce(g.typmod, a.atttypmod), pg_catalog.format_type(b.oid, -1),
       g.oid IS NOT NULL, b.typtype = 'c', b.typtype = 'e', b.typelem <> 0 AND b.typlen = -1,
       EXISTS (SELECT 1 FROM pg_catalog.pg_cast w WHERE w.oid >= 16384 AND w.castmethod = 'f'
                  AND w.castsource = 'pg_catalog.text'::regtype AND w.casttarget IN (b.oid, b.typelem)),
       a.attnotnull, coalesce(a.expression, pg_catalog.pg_get_expr(t.typdefaultbin, 0)), a.attgenerated <> '', a.missing, a.attidentity,
       CASE WHEN a.attidentity <> '' THEN (SELECT o.sequence FROM owned o
                 WHERE o.relation = a.attrelid AND o.attnum = a.attnum)
            WHEN a.attgenerated = '' AND a.expression LIKE 'nextval(%' THEN (SELECT u.sequence FROM used u
                 WHERE u.attrdef = a.attrdef AND a.expression = pg_catalog.format('nextval(%L::regclass)', u.sequence))
       END,
       CASE WHEN a.attcollation <> t.typcollation THEN (
                SELECT pg_catalog.format('%I.%I', cn.nspname, co.collname)
                  FROM pg_catalog.pg_collation co JOIN pg_catalog.pg_namespace cn ON cn.oid = co.collnamespace
                 WHERE co.oid = a.attcollation) END,
       a.attcollation = (SELECT oid FROM pg_catalog.pg_collation WHERE collname = 'default' AND collprovider = 'd')
  FROM column_of a
  JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
  LEFT JOIN ground g ON g.oid = a.atttypid
  JOIN pg_catalog.pg_type b ON b.oid = coalesce(g.base, a.atttypid)
 ORDER BY a.attrelid, a.attnum";

/// What their types are made of, as JSON.
pub(super) fn types() -> String {
    let seed = "SELECT DISTINCT a.atttypid
          FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
          JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.relpersistence <> 't' AND a.attnum > 0 AND NOT a.attisdropped
           AND a.atttypid >= 16384 AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'pgoutpost')";
    format!("SELECT {}::text", crate::catalog::shapes::query(seed))
}

/// Unique indexes that Postgres enforces (also those still invalid), and exclusion constraints.
pub(super) const INDEXES: &str = r"
SELECT i.indrelid, c.relname::text,
       coalesce((WITH RECURSIVE up(oid) AS (
                     SELECT h.inhparent FROM pg_catalog.pg_inherits h WHERE h.inhrelid = i.indexrelid
                     UNION ALL SELECT h.inhparent FROM up JOIN pg_catalog.pg_inherits h ON h.inhrelid = up.oid)
                 SELECT up.oid FROM up
                  WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_inherits h WHERE h.inhrelid = up.oid)), i.indexrelid),
       ARRAY(SELECT i.indkey[n] FROM pg_catalog.generate_series(0, i.indnkeyatts - 1) n ORDER BY n),
       ARRAY(SELECT CASE WHEN o.oid IS NOT NULL AND (i.indkey[n] = 0 OR o.oid <> a.attcollation)
                         THEN pg_catalog.format('(%s) COLLATE %I.%I', CASE WHEN i.indkey[n] = 0
                              THEN pg_catalog.pg_get_indexdef(i.indexrelid, n + 1, false) ELSE pg_catalog.quote_ident(a.attname) END,
                              (SELECT on_.nspname FROM pg_catalog.pg_namespace on_ WHERE on_.oid = o.collnamespace), o.collname)
                         WHEN i.indkey[n] = 0 THEN pg_catalog.pg_get_indexdef(i.indexrelid, n + 1, false) END
               FROM pg_catalog.generate_series(0, i.indnkeyatts - 1) n
               LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[n]
               LEFT JOIN pg_catalog.pg_collation o ON o.oid = i.indcollation[n] AND NOT o.collisdeterministic
              ORDER BY n),
       ARRAY(SELECT a.atttypid FROM pg_catalog.pg_attribute a
              WHERE a.attrelid = i.indexrelid AND a.attnum BETWEEN 1 AND i.indnkeyatts ORDER BY a.attnum),
       ARRAY(SELECT EXISTS (SELECT FROM pg_catalog.pg_collation o WHERE o.oid = i.indcollation[n] AND NOT o.collisdeterministic)
               FROM pg_catalog.generate_series(0, i.indnkeyatts - 1) n ORDER BY n),
       ARRAY(SELECT pg_catalog.pg_get_indexdef(i.indexrelid, n, true)
               FROM pg_catalog.generate_series(1, i.indnkeyatts) n ORDER BY n),
       pg_catalog.pg_get_expr(i.indpred, i.indrelid),
       coalesce((pg_catalog.to_jsonb(i) ->> 'indnullsnotdistinct')::boolean, false),
       i.indisprimary, k.oid IS NOT NULL, coalesce(k.condeferrable, false), coalesce(k.condeferred, false),
       i.indisvalid, i.indisexclusion,
       (SELECT pg_catalog.array_agg(pg_catalog.format('OPERATOR(%I.%s)', n.nspname, o.oprname) ORDER BY e.n)
          FROM pg_catalog.unnest(k.conexclop) WITH ORDINALITY e(operator, n)
          JOIN pg_catalog.pg_operator o ON o.oid = e.operator
          JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace)
  FROM pg_catalog.pg_index i
  JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_catalog.pg_constraint k ON k.conindid = i.indexrelid AND k.contype IN ('p', 'u', 'x')
 WHERE (i.indisunique OR i.indisexclusion) AND i.indislive AND (i.indisready OR c.relkind = 'I')
   AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'pgoutpost')
 ORDER BY i.indexrelid";

/// CHECK and FOREIGN KEY constraints. A foreign key upon a partitioned table has a shadow for each partition, and one of a
/// partitioned table is repeated for each of its partitions.
pub(super) const CONSTRAINTS: &str = r"
SELECT k.conrelid, k.conname::text, k.contype, pg_catalog.pg_get_expr(k.conbin, k.conrelid),
       k.confrelid, k.conkey, k.confkey, k.confdeltype, k.confupdtype,
       (SELECT pg_catalog.array_agg(e::int2) FROM pg_catalog.jsonb_array_elements_text(
            pg_catalog.jsonb_strip_nulls(pg_catalog.to_jsonb(k)) -> 'confdelsetcols') e),
       k.confmatchtype = 'f',
       k.condeferrable, k.condeferred,
       p.conrelid IS NOT NULL AND p.conrelid = k.conrelid, p.conrelid IS NOT NULL AND p.conrelid <> k.conrelid,
       EXISTS (SELECT FROM pg_catalog.pg_trigger t WHERE t.tgconstraint = k.oid AND t.tgrelid = k.conrelid AND t.tgenabled = 'D'),
       EXISTS (SELECT FROM pg_catalog.pg_trigger t WHERE t.tgconstraint = k.oid AND t.tgrelid = k.confrelid AND t.tgenabled = 'D')
  FROM pg_catalog.pg_constraint k
  LEFT JOIN pg_catalog.pg_constraint p ON p.oid = k.conparentid
  JOIN pg_catalog.pg_namespace n ON n.oid = k.connamespace
 WHERE k.contype IN ('c', 'f') AND k.conrelid <> 0
   AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'pgoutpost')
 ORDER BY k.oid";

/// Partitions and inheriting tables with their parents.
pub(super) const PARENTS: &str = r"
SELECT i.inhrelid, i.inhparent FROM pg_catalog.pg_inherits i ORDER BY i.inhrelid, i.inhseqno";

/// Row security policies.
pub(super) const POLICIES: &str = "
SELECT p.polrelid, p.polname::text, p.polpermissive, p.polcmd, p.polroles,
       pg_catalog.pg_get_expr(p.polqual, p.polrelid), pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid)
  FROM pg_catalog.pg_policy p ORDER BY p.polrelid, p.polname COLLATE pg_catalog.\"C\"";

/// Names that may mean something else than what is built in. Operators: upon the types of `sql::write::own`, or any.
pub(super) const OVERLOADED: &str = r"
SELECT DISTINCT o.oprname::text FROM pg_catalog.pg_operator o
 WHERE o.oprnamespace <> 'pg_catalog'::regnamespace
   AND o.oprleft = ANY ('{0,16,20,21,23,25,700,701,1042,1043,1700,3802,1009,2276,2277,2283,2776,5077,5078,5079}'::oid[])
   AND o.oprright = ANY ('{16,20,21,23,25,700,701,1042,1043,1700,3802,1009,2276,2277,2283,2776,5077,5078,5079}'::oid[])
UNION
SELECT p.proname::text FROM pg_catalog.pg_proc p
 WHERE p.pronamespace <> 'pg_catalog'::regnamespace
   AND EXISTS (SELECT FROM pg_catalog.pg_proc b WHERE b.proname = p.proname AND b.pronamespace = 'pg_catalog'::regnamespace)
";

/// Whether `pg_proc p`, of `pg_namespace n` and `pg_language l`, is neither built in nor immutable. C code of an extension does
/// not read tables behind our back.
const OPAQUE: &str = "n.nspname NOT IN ('pg_catalog', 'information_schema', 'pgoutpost') AND p.provolatile <> 'i'
            AND NOT (l.lanname = 'c' AND EXISTS (SELECT FROM pg_catalog.pg_depend d
                     WHERE d.classid = 'pg_catalog.pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'))";

/// Functions that may look at tables, and volatile ones.
pub(super) fn functions() -> String {
    format!(
        "SELECT DISTINCT p.proname::text, n.nspname::text, p.provolatile = 'v', f.opaque
           FROM pg_catalog.pg_proc p
           JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
           JOIN pg_catalog.pg_language l ON l.oid = p.prolang,
                LATERAL (SELECT {OPAQUE}) f(opaque)
          WHERE f.opaque OR p.provolatile = 'v'
          ORDER BY 1, 2, 3"
    )
}

/// Operators and casts by such functions, with the names that their types can have in a statement.
pub(super) fn indirect() -> String {
    format!(
        "SELECT p.proname::text, u.operator, u.implicit, u.assigned, u.names,
                ARRAY(SELECT t.typname::text FROM pg_catalog.pg_type t
                       WHERE t.oid = ANY (u.types) AND t.typnamespace <> 'pg_catalog'::regnamespace ORDER BY 1)
           FROM (SELECT o.oprcode::oid, true, false, false, ARRAY[o.oprname::text], ARRAY[o.oprleft, o.oprright]
                   FROM pg_catalog.pg_operator o
                  UNION ALL
                 SELECT c.castfunc, false, c.castcontext = 'i', c.castcontext <> 'e',
                        ARRAY[t.typname::text, pg_catalog.format_type(t.oid, NULL), CASE t.typname
                              WHEN 'int4' THEN 'int' WHEN 'numeric' THEN 'decimal' WHEN 'float8' THEN 'float'
                              ELSE t.typname::text END],
                        ARRAY[c.castsource, c.casttarget]
                   FROM pg_catalog.pg_cast c JOIN pg_catalog.pg_type t ON t.oid = c.casttarget)
                u(function, operator, implicit, assigned, names, types)
           JOIN pg_catalog.pg_proc p ON p.oid = u.function
           JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
           JOIN pg_catalog.pg_language l ON l.oid = p.prolang
          WHERE {OPAQUE}
          ORDER BY 1, 2, 3, 4, 5, 6"
    )
}
