//! Many generated scripts in one daemon's database: each in a schema of its own; those that are not [`Links::Live`] in one
//! freeze of the replica.
//!
//! A script goes through the daemon first. What is refused there by design is noted, and fails on the plain server as
//! well, so that both sides go on from the same state.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_postgres::Client;

use super::answer::Answer;
use super::client::Protocol;
use super::compare::{self, Difference};
use super::grounds;
use super::perform::{self, Place, Seen, Transcript};
use super::script::{Judged, Links, Script};
use super::stage::{self, Stage};

/// Scripts performed at the same time.
const WORKERS: usize = 4;
/// Main did not get everything: the difference of all scripts of that side. The arena is of no further use.
pub const STUCK: &str = "main does not get everything";
const WARM: &str = "CREATE TABLE public.warm (id int PRIMARY KEY)";

/// What the daemon may refuse in generated scripts, in its words. Any other 0A000, 55000, 57P03 or 40001 is a difference.
const BY_DESIGN: [&str; 11] = [
    "a statement that pgoutpost cannot read cannot be used while rows are pending",
    "ON CONFLICT of several rows cannot be buffered when it changes the values that are in conflict",
    "cannot exchange their keys in one statement",
    "is that of a row that the transaction's snapshot still has",
    "cannot be buffered under these settings",
    "cannot be used while rows are pending: it may read them",
    "and its transaction has buffered writes already",
    "and its transaction has an open cursor here",
    "must be alone in its pipeline",
    "A transaction that ran on main has written the same table since",
    "The transaction has read at the site, and main is not, or may not be, in the state that it saw",
];

/// One script and how it is performed.
#[derive(Clone, Debug)]
pub struct Trial {
    pub script: Script,
    pub protocol: Protocol,
    pub cut: bool,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    pub differences: Vec<Difference>,
    /// What the daemon refused, in its words.
    pub refusals: Vec<String>,
    /// The schema cannot be made: there was nothing to compare.
    pub invalid: Option<String>,
    pub transactions: usize,
}

pub struct Arena {
    plain: Place,
    client: Client,
    cut: Side,
    up: Side,
    number: usize,
    /// How long main and replica took to have everything, for each of the calls.
    pub drained: Vec<Duration>,
}

struct Side {
    place: Place,
    stage: Stage,
    main: Client,
    /// What stood in quarantine before.
    quarantine: BTreeSet<String>,
}

impl Arena {
    /// Its databases bear that name.
    pub async fn new(name: &str) -> Arena {
        Arena::broken(name, "").await
    }

    /// With one of the mistakes of `src/sabotage.rs`.
    pub async fn broken(name: &str, sabotage: &str) -> Arena {
        let (plain, client) = grounds::plain(&format!("{name}_plain"), WARM).await.unwrap();
        let (cut, up) =
            tokio::join!(Side::new(format!("{name}_cut"), sabotage), Side::new(format!("{name}_up"), sabotage));
        Arena { plain, client, cut, up, number: 0, drained: Vec::new() }
    }

    /// Performs all of them; a verdict for each, in their order.
    pub async fn perform(&mut self, trials: Vec<Trial>) -> Vec<Verdict> {
        let mut verdicts = vec![Verdict::default(); trials.len()];
        let mut names = Vec::new();
        for (trial, verdict) in trials.iter().zip(&mut verdicts) {
            self.number += 1;
            let schema = format!("s{}", self.number);
            verdict.invalid = self.make(&schema, trial).await.err();
            names.push(schema);
        }
        self.plain = grounds::place(self.plain.port, &self.plain.database, &self.client).await;
        for side in [&mut self.cut, &mut self.up] {
            side.get_ready().await;
        }
        // What is straight needs a replica that follows.
        let live = |trial: &&Trial| trial.script.links == Links::Live;
        let mut transcripts = self.run_all(&trials, &names, &verdicts, true).await;
        if trials.iter().any(|trial| !live(&trial)) {
            grounds::lab().await.freeze().await.unwrap();
            self.cut.stage.cut();
            let frozen = self.run_all(&trials, &names, &verdicts, false).await;
            self.cut.stage.heal();
            grounds::lab().await.thaw().await.unwrap();
            transcripts = transcripts.into_iter().zip(frozen).map(|(live, frozen)| live.or(frozen)).collect();
        }

        let begun = Instant::now();
        let quarantined = [self.cut.drain().await, self.up.drain().await];
        self.drained.push(begun.elapsed());
        for (place, (trial, performed)) in trials.iter().zip(transcripts).enumerate() {
            let Some((script, plain, through)) = performed else { continue };
            let (verdict, side) = (&mut verdicts[place], self.side(trial.cut));
            let schema = &names[place];
            verdict.refusals = refusals(&script, &through);
            verdict.transactions = transactions(&through);
            verdict.differences = compare::transcripts(&script, &plain, &through);
            let main = Place { port: grounds::lab().await.main().port(), ..side.place.within(schema) };
            let tables: Vec<_> = plain.tables.keys().cloned().collect();
            let on_main = perform::tables(&main, &tables).await;
            verdict.differences.extend(compare::tables("on main", &plain.tables, &on_main));
            let mine = match &quarantined[usize::from(!trial.cut)] {
                Ok(texts) => texts.iter().filter(|text| text.contains(&format!("{schema}."))).cloned().collect(),
                Err(stuck) => vec![stuck.clone()],
            };
            let kind = if quarantined[usize::from(!trial.cut)].is_ok() { "quarantine" } else { STUCK };
            let all = mine.into_iter().map(|text| Difference { line: None, kind: kind.to_owned(), text });
            verdict.differences.extend(all);
        }
        for schema in names {
            let drop = format!("DROP SCHEMA IF EXISTS {schema} CASCADE");
            for client in [&self.client, &self.cut.main, &self.up.main] {
                client.batch_execute(&drop).await.unwrap();
            }
        }
        verdicts
    }

    fn side(&self, cut: bool) -> &Side {
        if cut { &self.cut } else { &self.up }
    }

    /// The script's tables on both sides, in one transaction each: leases are taken when all rows are there.
    async fn make(&self, schema: &str, trial: &Trial) -> Result<(), String> {
        let statements: String = trial.script.schema.iter().map(|statement| format!("{statement};\n")).collect();
        let text = format!("CREATE SCHEMA {schema}; SET LOCAL search_path = {schema};\n{statements}");
        for client in [&self.client, &self.side(trial.cut).main] {
            client.batch_execute(&text).await.map_err(|error| stage::describe(&error))?;
        }
        Ok(())
    }

    async fn run_all(
        &self,
        trials: &[Trial],
        names: &[String],
        verdicts: &[Verdict],
        live: bool,
    ) -> Vec<Option<(Script, Transcript, Transcript)>> {
        let (mut running, workers) = (JoinSet::new(), Arc::new(Semaphore::new(WORKERS)));
        let is_meant = |number: usize, trial: &Trial| {
            verdicts[number].invalid.is_none() && live == (trial.script.links == Links::Live)
        };
        for (number, trial) in trials.iter().enumerate().filter(|(number, trial)| is_meant(*number, trial)) {
            let (trial, workers) = (trial.clone(), Arc::clone(&workers));
            let plain = self.plain.within(&names[number]);
            let site = self.side(trial.cut).place.within(&names[number]);
            running.spawn(async move {
                let _one = workers.acquire().await;
                (number, both(trial, &plain, site).await)
            });
        }
        let mut done: Vec<_> = trials.iter().map(|_| None).collect();
        while let Some(finished) = running.join_next().await {
            let (number, performed) = finished.unwrap();
            done[number] = Some(performed);
        }
        done
    }
}

/// Through the daemon, then on the plain server.
async fn both(trial: Trial, plain: &Place, mut site: Place) -> (Script, Transcript, Transcript) {
    let url = format!("postgres://postgres@127.0.0.1:{}/{}", plain.port, plain.database);
    let watcher = lab::postgres::connect(&url).await.unwrap();
    let names = perform::table_names(&watcher, plain.schema.as_deref()).await;
    let schema = plain.schema.as_deref().unwrap_or_default();
    let question =
        "SELECT format('%I.%I', schemaname, sequencename) FROM pg_sequences WHERE schemaname = $1 ORDER BY 1";
    site.sequences = watcher.query(question, &[&schema]).await.unwrap().iter().map(|row| row.get(0)).collect();
    let through = perform::through(&trial.script, trial.protocol, &site, None, &names).await;
    let mut script = trial.script;
    for (step, seen) in script.steps.iter_mut().zip(&through.seen) {
        if let Seen::Answered(answer) = seen
            && let Some(state) = answer.sqlstate().filter(|_| is_by_design(answer))
        {
            step.judged = Judged::Refused(state.to_owned(), "by design".to_owned());
        }
    }
    let plain = perform::on_plain_with(&script, trial.protocol, plain, &watcher, &through).await;
    (script, plain, through)
}

impl Side {
    async fn new(name: String, sabotage: &str) -> Side {
        let (place, stage) = grounds::broken_site(&name, WARM, sabotage).await;
        let main = stage.main().await;
        Side { place, stage, main, quarantine: BTreeSet::new() }
    }

    /// Waits until the daemon knows the new tables and has leases for their sequences.
    async fn get_ready(&mut self) {
        self.place = grounds::place(self.place.port, &self.place.database, &self.main).await;
        self.stage.site.wait_replica_caught_up().await.unwrap();
        // Evaluated with the old definitions, it makes the daemon load the new ones.
        stage::execute(&self.stage.client().await, "DELETE FROM public.warm").await;
        let missing = format!(
            "SELECT count(*) FROM pg_sequences WHERE schemaname ~ '^s[0-9]' AND coalesce(last_value, 0) < {}",
            grounds::LEASE
        );
        let deadline = Instant::now() + Duration::from_secs(10);
        while stage::value(&self.main, &missing).await != "0" {
            assert!(Instant::now() < deadline, "the daemon takes no leases");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // The answer is on its way.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    /// Waits until main has everything; what is new in quarantine.
    async fn drain(&mut self) -> Result<Vec<String>, String> {
        if let Err(error) = grounds::caught_up(&self.stage).await {
            return Err(format!(
                "{error}; the daemon's log ends:\n{}",
                lab::process::log_tail(self.stage.outpost.log())
            ));
        }
        let rows = stage::rows(&self.stage.console().await, "SHOW QUARANTINE").await;
        let rows: Vec<_> = rows.into_iter().map(|row| format!("{row:?}")).collect();
        Ok(rows.into_iter().filter(|row| self.quarantine.insert(row.clone())).collect())
    }
}

/// Whether the daemon refuses it for one of the reasons that docs/SQL_SUPPORT.md gives.
fn is_by_design(answer: &Answer) -> bool {
    let refused = matches!(answer.sqlstate(), Some("0A000" | "55000" | "57P03" | "40001"));
    let words: String = answer.error().into_iter().flat_map(BTreeMap::values).cloned().collect();
    refused && BY_DESIGN.iter().any(|reason| words.contains(reason))
}

fn refusals(script: &Script, through: &Transcript) -> Vec<String> {
    let refused = script.steps.iter().zip(&through.seen).filter_map(|(step, seen)| match (&step.judged, seen) {
        (Judged::Refused(..), Seen::Answered(answer)) => {
            let message = answer.error()?.get(&'M')?;
            // What our parser cannot read is to be seen.
            let text = if message.contains("cannot read") { step.action.text() } else { "" };
            Some(format!("{message} {text}"))
        }
        _ => None,
    });
    refused.collect()
}

/// How many transactions were ended: statements after which the session is in none.
fn transactions(through: &Transcript) -> usize {
    let idle = |seen: &&Seen| matches!(seen, Seen::Answered(answer) if answer.status == 'I');
    through.seen.iter().filter(idle).count()
}
