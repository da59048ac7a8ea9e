//! What must agree between main and the replica.

use tokio_postgres::{Client, Config};

use super::{Finding, one};
use crate::upstream::own;

/// More than this between the two clocks is worth a word, seconds: `now()` of buffered writes comes from the replica.
const CLOCK_SKEW_MAX: f64 = 2.0;

pub(super) fn urls(main: &Config, replica: &Config) -> Vec<Finding> {
    let name = |config: &Config| config.get_dbname().or(config.get_user()).unwrap_or_default().to_owned();
    let (on_main, on_replica) = (name(main), name(replica));
    vec![if on_main == on_replica {
        Finding::ok("same database", format!("\"{on_main}\""))
    } else {
        let detail = format!("main: \"{on_main}\", replica: \"{on_replica}\"");
        Finding::fail("same database", detail, "Name the same database in [main] url and [replica] url.")
    }]
}

pub(super) async fn look(main: &Client, replica: &Client, findings: &mut Vec<Finding>) -> Result<(), own::Error> {
    identity(main, replica, findings).await;
    let version = "SELECT current_setting('server_version_num')::int / 10000";
    let (ours, theirs): (i32, i32) = (one(replica, version).await?, one(main, version).await?);
    findings.push(if ours != theirs {
        Finding::fail("same major version", format!("main: {theirs}, replica: {ours}"), "Upgrade one of them.")
    } else if ours < 14 {
        Finding::warn("same major version", format!("{ours}"), "Tested on 15; use 14 or later.")
    } else {
        Finding::ok("same major version", format!("{ours}"))
    });
    let clock = "SELECT extract(epoch FROM clock_timestamp())::float8";
    let (before, there, after): (f64, f64, f64) =
        (one(replica, clock).await?, one(main, clock).await?, one(replica, clock).await?);
    // The best guess is that main answered half-way; the doubt is half the time it took.
    let skew = there - f64::midpoint(before, after);
    let doubt = (after - before) / 2.0;
    findings.push(if skew.abs() - doubt > CLOCK_SKEW_MAX {
        let detail = format!("main is {skew:+.1} s off the replica (± {doubt:.1} s)");
        Finding::warn("clocks", detail, "Run a time service (chrony) on both.")
    } else {
        Finding::ok("clocks", format!("{skew:+.2} s apart (± {doubt:.2} s)"))
    });
    Ok(())
}

async fn identity(main: &Client, replica: &Client, findings: &mut Vec<Finding>) {
    let query = "SELECT system_identifier::text FROM pg_control_system()";
    let (ours, theirs) = (one::<String>(replica, query).await, one::<String>(main, query).await);
    findings.push(match (ours, theirs) {
        (Ok(ours), Ok(theirs)) if ours == theirs => {
            Finding::ok("replica is a copy of main", format!("system identifier {ours}"))
        }
        (Ok(ours), Ok(theirs)) => Finding::fail(
            "replica is a copy of main",
            format!("system identifier of main: {theirs}, of the replica: {ours}"),
            "Point both URLs to servers of one replication pair, or make the replica anew with pg_basebackup.",
        ),
        (Err(error), _) | (_, Err(error)) => {
            let mend = "GRANT EXECUTE ON FUNCTION pg_control_system() to both users. Without it replay knows main's columns by their names only, \
                 which ALTER TABLE … RENAME changes under entries that are on their way.";
            Finding::warn("replica is a copy of main", format!("cannot be told: {error}"), mend)
        }
    });
}
