//! What the replica must offer: a standby that follows, with our schema on it.

use tokio_postgres::Client;

use super::{Finding, ledger, one};
use crate::upstream::own;

pub(super) fn reachable(client: Result<Client, own::Error>, findings: &mut Vec<Finding>) -> Option<Client> {
    match client {
        Ok(client) => {
            findings.push(Finding::ok("replica reachable", "yes"));
            Some(client)
        }
        Err(error) => {
            let mend = "Start it, or check [replica] url and pg_hba.conf. Without it nothing can be read or written.";
            findings.push(Finding::fail("replica reachable", error.to_string(), mend));
            None
        }
    }
}

pub(super) async fn look(client: &Client, site: &str, findings: &mut Vec<Finding>) -> Result<(), own::Error> {
    findings.push(if one(client, "SELECT pg_is_in_recovery()").await? {
        Finding::ok("replica is a standby", "yes")
    } else {
        let mend = "Point [replica] url to a streaming standby of main.";
        Finding::fail("replica is a standby", "it is not in recovery: it accepts writes of its own", mend)
    });
    findings.push(match ledger(client, site).await? {
        Some(Some(seq)) => Finding::ok("ledger on replica", format!("site \"{site}\" is at {seq}")),
        Some(None) | None => {
            let mend = "Run `pgoutpost setup`, and wait until the replica has caught up.";
            Finding::fail("ledger on replica", format!("no row of site \"{site}\" yet"), mend)
        }
    });
    receiver(client, findings).await?;
    let feedback: bool = one(client, "SELECT current_setting('hot_standby_feedback')::bool").await?;
    let delay: String = one(client, "SELECT current_setting('max_standby_streaming_delay')").await?;
    findings.push(if feedback {
        Finding::ok("queries are not cancelled by replay", format!("hot_standby_feedback = on, max_standby_streaming_delay = {delay}"))
    } else {
        Finding::warn(
            "queries are not cancelled by replay",
            format!("hot_standby_feedback = off: main may remove rows that a long query here still reads; it is cancelled after {delay}"),
            "Set hot_standby_feedback = on in the replica's postgresql.conf and reload.",
        )
    });
    Ok(())
}

async fn receiver(client: &Client, findings: &mut Vec<Finding>) -> Result<(), own::Error> {
    // Without the right to see it, its status is empty.
    let row = client.query_opt("SELECT coalesce(status, 'hidden') FROM pg_stat_wal_receiver", &[]).await?;
    let status: Option<String> = row.map(|row| row.try_get(0)).transpose()?;
    findings.push(match status.as_deref() {
        Some("streaming") => Finding::ok("replication", "streaming"),
        Some("hidden") => Finding::ok("replication", "a receiver runs (GRANT pg_monitor to see more)"),
        Some(other) => Finding::warn("replication", format!("the receiver is {other}"), "Look at the replica's log."),
        None => Finding::warn(
            "replication",
            "no receiver runs: the link is down, or the replica is not set up to stream",
            "Check primary_conninfo on the replica, and its log.",
        ),
    });
    Ok(())
}
