//! What main must offer: the schema, the ledger function, event triggers, and rights.

use tokio_postgres::Client;

use super::{Finding, ledger, one};
use crate::setup::{REPLAY_VERSION, SCHEMA_VERSION, TRIM_VERSION};
use crate::upstream::own;

pub(super) fn reachable(client: Result<Client, own::Error>, findings: &mut Vec<Finding>) -> Option<Client> {
    match client {
        Ok(client) => {
            findings.push(Finding::ok("main reachable", "yes"));
            Some(client)
        }
        Err(own::Error::Connection(why)) => {
            let mend =
                "Writes are buffered until it is back. Run the check again then: what concerns main was not looked at.";
            findings.push(Finding::warn("main reachable", why, mend));
            None
        }
        Err(error @ (own::Error::Server(_) | own::Error::Unexpected(_))) => {
            let mend = "Check user, password and database of [main] url, and pg_hba.conf on main.";
            findings.push(Finding::fail("main reachable", error.to_string(), mend));
            None
        }
    }
}

pub(super) async fn look(client: &Client, site: &str, findings: &mut Vec<Finding>) -> Result<(), own::Error> {
    if one::<bool>(client, "SELECT pg_is_in_recovery()").await? {
        findings.push(Finding::fail("main writable", "it is a standby", "Point [main] url to the primary."));
    } else {
        findings.push(Finding::ok("main writable", "yes"));
    }
    if !schema(client, site, findings).await? {
        return Ok(());
    }
    event_triggers(client, findings).await?;
    constraints(client, findings).await?;
    rights(client, findings).await
}

/// Whether there is enough of a schema to look further.
async fn schema(client: &Client, site: &str, findings: &mut Vec<Finding>) -> Result<bool, own::Error> {
    let mend = "Run `pgoutpost setup`.";
    let exists = "SELECT count(*) FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
        WHERE n.nspname = 'pgoutpost' AND p.proname IN ('schema_version', 'advance', 'take_over', 'gate', 'canonical_text', 'lease')";
    if one::<i64>(client, exists).await? < 5 {
        findings.push(Finding::fail("schema on main", "missing or not complete", mend));
        return Ok(false);
    }
    let version: i32 = one(client, "SELECT pgoutpost.schema_version()").await?;
    match version.cmp(&SCHEMA_VERSION) {
        std::cmp::Ordering::Equal => findings.push(Finding::ok("schema on main", format!("version {version}"))),
        std::cmp::Ordering::Less if version >= REPLAY_VERSION => {
            let lacks = if version < TRIM_VERSION { "the log of conflicts is not trimmed, and " } else { "" };
            let detail = format!(
                "version {version}, {SCHEMA_VERSION} is this program's: {lacks}anybody may say that definitions have changed"
            );
            findings.push(Finding::warn("schema on main", detail, mend));
        }
        std::cmp::Ordering::Less => {
            findings.push(Finding::fail(
                "schema on main",
                format!("version {version}, {SCHEMA_VERSION} is needed"),
                mend,
            ));
        }
        std::cmp::Ordering::Greater => {
            let detail = format!("version {version}, this program knows {SCHEMA_VERSION}");
            findings.push(Finding::warn("schema on main", detail, "Bring this site's pgoutpost up to date."));
        }
    }
    findings.push(match ledger(client, site).await? {
        Some(Some(seq)) => Finding::ok("ledger on main", format!("site \"{site}\" is at {seq}")),
        Some(None) => Finding::fail("ledger on main", format!("it has no row of site \"{site}\""), mend),
        None => Finding::fail("ledger on main", "missing", mend),
    });
    Ok(true)
}

async fn event_triggers(client: &Client, findings: &mut Vec<Finding>) -> Result<(), own::Error> {
    let what = "changes of definitions are noticed";
    let enabled = "SELECT count(*) FROM pg_event_trigger
        WHERE evtname IN ('pgoutpost_ddl', 'pgoutpost_drop') AND evtenabled IN ('O', 'A')";
    findings.push(if one::<i64>(client, enabled).await? == 2 {
        Finding::ok(what, "event triggers are there")
    } else {
        Finding::warn(
            what,
            "event triggers are missing or disabled: after DDL on main, reads of tables with pending rows may fail or miss columns until the daemon starts anew",
            "Run `pgoutpost setup` once as a superuser, or call pgoutpost.definitions_changed() in each transaction with DDL.",
        )
    });
    Ok(())
}

/// CHECKs that may be true when a row is written, and not when it is replayed.
async fn constraints(client: &Client, findings: &mut Vec<Finding>) -> Result<(), own::Error> {
    // What comes with Postgres is not in pg_depend; the tree names functions by their numbers.
    let moving = r"SELECT coalesce(string_agg(DISTINCT format('%s of %s', k.conname,
                CASE WHEN k.conrelid <> 0 THEN k.conrelid::regclass::text ELSE k.contypid::regtype::text END), ', '), '')
        FROM pg_constraint k JOIN pg_namespace n ON n.oid = k.connamespace
        WHERE k.contype = 'c' AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'pgoutpost')
          AND (k.conbin::text ~ 'SQLVALUEFUNCTION' OR EXISTS (
              SELECT FROM regexp_matches(k.conbin::text, ':(?:funcid|opfuncid) (\d+)', 'g') AS m JOIN pg_proc p ON p.oid = m[1]::oid
              WHERE p.provolatile <> 'i'))";
    let moving: String = one(client, moving).await?;
    if !moving.is_empty() {
        findings.push(Finding::warn(
            "CHECKs that replay can judge",
            format!("not what looks at the clock or the session: {moving}"),
            "Rows that are right when they are written, and not when they are replayed (later, in UTC), go into quarantine: let a trigger on main do this.",
        ));
    }
    Ok(())
}

async fn rights(client: &Client, findings: &mut Vec<Finding>) -> Result<(), own::Error> {
    let user: String = one(client, "SELECT session_user::text").await?;
    let may = "SELECT has_function_privilege('pgoutpost.advance(text, bigint, bigint, uuid)', 'EXECUTE')";
    findings.push(if one(client, may).await? {
        Finding::ok("may advance the ledger", format!("role \"{user}\""))
    } else {
        let mend = format!("GRANT EXECUTE ON FUNCTION pgoutpost.advance(text, bigint, bigint, uuid) TO \"{user}\"");
        Finding::fail("may advance the ledger", format!("role \"{user}\" may not"), mend)
    });
    let closed = "SELECT coalesce(string_agg(rolname, ', ' ORDER BY rolname), '') FROM pg_roles
        WHERE rolcanlogin AND rolname !~ '^pg_' AND NOT rolsuper AND NOT pg_has_role(oid, 'MEMBER')";
    let closed: String = one(client, closed).await?;
    findings.push(if closed.is_empty() {
        Finding::ok("may act as the clients' roles", "every login role")
    } else {
        let detail = format!("not as: {closed}. What these write here cannot be replayed");
        Finding::warn(
            "may act as the clients' roles",
            detail,
            format!("GRANT <role> TO \"{user}\" for each that writes at this site."),
        )
    });
    Ok(())
}
