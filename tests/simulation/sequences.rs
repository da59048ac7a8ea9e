//! Main's sequence, as a daemon leases from it: it goes back with main, answers get lost, others draw as well.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use pgoutpost::catalog::SequenceId;
use pgoutpost::ids::{Drawn, LeaseSource, Leases, Position};
use pgoutpost::replay::ReplayStatus;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::backend::Target;
use crate::daemon::Process;
use crate::link::Road;
use crate::world::{Bug, World};

/// The only one.
pub const SEQUENCE: &str = "\"public\".\"ids\"";
/// Values per block: few, so that they are used up often.
pub const LEASE: u32 = 6;
const MADE: SequenceId = SequenceId { oid: 1, file: 1 };
/// How long main may take over one lease.
const LIMIT: Duration = Duration::from_secs(10);

pub struct Sequences {
    pub world: Arc<World>,
    pub process: Arc<Process>,
}

impl Sequences {
    /// On the way there or back.
    async fn travel(&self) -> Result<(), String> {
        self.process.step().await;
        sleep(self.world.latency(Target::Main)).await;
        match self.world.road(Target::Main) {
            Road::Open if self.world.main_dice.happens(self.world.weather().errors) => Err("simulated".to_owned()),
            Road::Open => Ok(()),
            Road::Cut => Err("main cannot be reached".to_owned()),
            Road::BlackHole => {
                sleep(LIMIT).await;
                Err("main does not answer".to_owned())
            }
        }
    }
}

impl LeaseSource for Sequences {
    fn lease<'a>(&'a self, _: &'a str, count: u32) -> BoxFuture<'a, Result<Drawn, String>> {
        Box::pin(async move {
            self.travel().await?;
            let first = self.world.main.lock().unwrap().draw(i64::from(count));
            self.world.note(|| format!("process {} draws {count} values from {first} on", self.process.id));
            self.travel().await?;
            Ok(Drawn { values: (first..first + i64::from(count)).collect(), of: MADE })
        })
    }

    fn position<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Position, String>> {
        Box::pin(async move {
            self.travel().await?;
            let drawn = self.world.main.lock().unwrap().now().drawn;
            self.travel().await?;
            Ok(Position { of: MADE, last: drawn, increment: 1, cycles: self.world.planted(Bug::CyclingSequence) })
        })
    }
}

/// As `server` does it.
pub async fn verify(mut replay: watch::Receiver<ReplayStatus>, leases: Leases) {
    let mut seen = 0;
    while let Ok(connections) =
        replay.wait_for(|status| status.connections_total > seen).await.map(|status| status.connections_total)
    {
        seen = connections;
        leases.verify().await;
    }
}

/// `nextval`: nobody at this site has had it before.
pub async fn next(world: &World, process: &Process, leases: &Leases) -> Option<i64> {
    let taken = leases.take(SEQUENCE, Some(MADE), 1).await;
    process.step().await;
    let value = *taken.ok()?.first()?;
    world.note(|| format!("process {} hands {value} out", process.id));
    let judged = world.oracle.lock().unwrap().handed_out(value);
    if let Err(what) = judged {
        world.violation(what);
    }
    Some(value)
}
