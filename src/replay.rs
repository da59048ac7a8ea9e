//! Carries the buffer's entries to main: in order, each exactly once, many under way at a time.
//!
//! Each transaction on main first advances the ledger *from* the place where it must be; so a duplicate, a gap, a second
//! replayer and everything behind a failed transaction abort by themselves, and after any doubt the ledger says where
//! to go on. Nothing here decides by a timer or by memory that an entry has been applied.
//!
//! Never runs what clients wrote: only effects, by key.

mod ahead;
mod aside;
mod conflict_log;
mod conflict_trim;
mod drift;
mod export;
mod flight;
mod greeting;
mod held;
mod ledger;
mod session;
mod statements;
mod status;
mod steps;
mod verdict;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::buffer::Buffer;
use crate::upstream::own::Server;

pub use conflict_log::{Conflict, newest_conflicts};
pub use conflict_trim::{keep_conflicts, trim_conflicts};
pub use export::{CANONICAL, effects, export};
pub use status::{Outcome, ReplayState, ReplayStatus};

/// The `[replay]` section.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReplayConfig {
    /// The first pause after a failure; doubles with each that follows, except while main cannot be reached.
    #[serde(with = "crate::config::duration")]
    pub retry_delay: Duration,
    #[serde(with = "crate::config::duration")]
    pub retry_delay_max: Duration,
    /// How many entries share a transaction on main, at most.
    pub group: u32,
    /// How many transactions may be on their way to main at a time.
    pub window: u32,
    /// What becomes of an entry that main rejects.
    pub on_reject: OnReject,
    /// Whether reads at the site show what quarantined entries did.
    pub quarantined_reads: QuarantinedReads,
    /// How long the lines of the log of conflicts stay on main; zero: for ever.
    #[serde(with = "crate::config::duration")]
    pub conflict_retention: Duration,
    /// Whose row wins when main's is not what the client's statement saw, by `schema.table`.
    pub conflicts: BTreeMap<String, Policy>,
}

/// `replay.conflicts`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// The site's values, for the columns that its statement set.
    #[default]
    LastWriteWins,
    /// Nobody's: the entry goes into quarantine.
    Reject,
    /// Main's: the effect is passed over.
    MainWins,
}

impl Policy {
    /// Whether rows are compared with what the client saw before they are written.
    pub fn compares(self) -> bool {
        self != Policy::LastWriteWins
    }

    /// As the configuration says it.
    pub fn as_str(self) -> &'static str {
        match self {
            Policy::LastWriteWins => "last-write-wins",
            Policy::Reject => "reject",
            Policy::MainWins => "main-wins",
        }
    }
}

/// `replay.on_reject`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OnReject {
    /// It is put aside, and the rest goes on.
    #[default]
    Quarantine,
    /// Nothing goes on until somebody acts.
    Halt,
}

/// `replay.quarantined_reads`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum QuarantinedReads {
    /// Reads show what main has.
    #[default]
    Hide,
    /// Reads show what the clients were told is done, until an operator has decided.
    Show,
}

impl Default for ReplayConfig {
    fn default() -> ReplayConfig {
        ReplayConfig {
            retry_delay: Duration::from_millis(100),
            retry_delay_max: Duration::from_secs(10),
            group: 256,
            window: 64,
            on_reject: OnReject::default(),
            quarantined_reads: QuarantinedReads::default(),
            conflict_retention: Duration::from_secs(90 * 24 * 60 * 60),
            conflicts: BTreeMap::new(),
        }
    }
}

/// How often it is looked whether an operator has accepted another main.
const ACCEPTED_POLL: Duration = Duration::from_millis(200);

/// How a connection's life ended.
#[derive(Debug)]
enum Ending {
    Shutdown,
    /// Main cannot be reached, or the connection broke: try again steadily, so that work goes on when the link does.
    Away(String),
    /// Main (or the buffer) answers and says no for now: try again, ever more slowly.
    Refused(String),
    /// Going on could do harm or cannot succeed until somebody acts.
    Halted(String),
}

/// Replays until shutdown. Does not end on any error: it waits, tells, and tries again.
pub async fn run(
    buffer: Buffer,
    main: impl Into<Server>,
    site: String,
    config: ReplayConfig,
    shutdown: CancellationToken,
    status: watch::Sender<ReplayStatus>,
) {
    let main = main.into();
    let (mut failures, mut attempts) = (0, 0_u64);
    let mut patience = session::STALL;
    loop {
        let decided = || status.borrow().applied_total + status.borrow().rejected_total;
        let before = decided();
        status.send_modify(|status| status.state = ReplayState::Connecting);
        let mut session = session::Session::new(&buffer, &main, &site, &config, &status, &shutdown, &mut patience);
        let ending = session.run().await;
        buffer.no_main();
        if decided() > before {
            failures = 0;
        }
        let delay = match &ending {
            Ending::Shutdown => break,
            Ending::Away(why) => {
                note(&status, why, ReplayState::Waiting);
                config.retry_delay
            }
            Ending::Refused(why) => {
                failures += 1;
                warn!(error = %why, failures, "replay will try again");
                tell(&status, why, ReplayState::Waiting);
                backoff(&config, failures)
            }
            Ending::Halted(why) => {
                error!(reason = %why, "replay is halted; it looks again from time to time");
                tell(&status, why, ReplayState::Halted);
                config.retry_delay_max
            }
        };
        attempts += 1;
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            () = tokio::time::sleep(with_jitter(delay, &site, attempts)) => {}
            () = accepted(&buffer) => {}
        }
    }
    status.send_modify(|status| status.state = ReplayState::Stopped);
    info!("replay stopped");
}

/// Waits until a main that was refused has been accepted; for ever when none was.
async fn accepted(buffer: &Buffer) {
    if buffer.known_main().refused.is_none() {
        std::future::pending::<()>().await;
    }
    while buffer.known_main().refused.is_some() {
        tokio::time::sleep(ACCEPTED_POLL).await;
    }
}

/// Logs a lost link once, not with every attempt.
fn note(status: &watch::Sender<ReplayStatus>, why: &str, state: ReplayState) {
    if status.borrow().last_error.as_deref() != Some(why) {
        warn!(error = %why, "main cannot be reached; entries stay in the buffer");
    }
    status.send_modify(|status| status.link_up = false);
    tell(status, why, state);
}

fn tell(status: &watch::Sender<ReplayStatus>, why: &str, state: ReplayState) {
    status.send_modify(|status| {
        status.state = state;
        status.retries_total += 1;
        status.last_error = Some(why.to_owned());
    });
}

fn backoff(config: &ReplayConfig, failures: u32) -> Duration {
    let factor = 1u32 << failures.saturating_sub(1).min(16);
    config.retry_delay.saturating_mul(factor).min(config.retry_delay_max)
}

/// Between half and one and a half times the delay, so that sites do not knock in step. Follows from the site and the
/// attempt, so that what happens can be made to happen again.
fn with_jitter(delay: Duration, site: &str, attempt: u64) -> Duration {
    let mut hash = crc32fast::Hasher::new();
    hash.update(site.as_bytes());
    hash.update(&attempt.to_le_bytes());
    let varied = delay.mul_f64(0.5 + f64::from(hash.finalize()) / f64::from(u32::MAX));
    Duration::from_millis(varied.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_limit() {
        let config = ReplayConfig {
            retry_delay: Duration::from_millis(100),
            retry_delay_max: Duration::from_secs(1),
            ..ReplayConfig::default()
        };
        let pauses = [1, 2, 3, 4, 5, 40].map(|failures| backoff(&config, failures).as_millis());
        assert_eq!(pauses, [100, 200, 400, 800, 1000, 1000]);
        let delays =
            |site| (0..100).map(move |attempt| with_jitter(Duration::from_millis(100), site, attempt).as_millis());
        assert!(delays("north").all(|delay| (50..=150).contains(&delay)));
        assert!(delays("north").ne(delays("south")), "sites knock in step");
        assert!(delays("north").min() < Some(60) && delays("north").max() > Some(140));
    }
}
