//! Every script in `scripts/`: in both protocols, with the link up and cut, each time in a fresh database.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::task::JoinSet;

use super::client::Protocol;
use super::compare::{self, Difference};
use super::grounds;
use super::perform::{self, Place, Transcript};
use super::script::{Judged, Links, Script};
use super::stage::{Stage, repository};

/// Databases per freeze: each has a daemon with connections to both servers.
const SITES_AT_ONCE: usize = 24;
/// Scripts performed at the same time.
const WORKERS: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Link {
    Cut,
    Up,
}

/// One script, one way.
struct Run {
    script: Arc<Script>,
    protocol: Protocol,
    link: Link,
    plain: Arc<Transcript>,
    place: Place,
    stage: Stage,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripts_answer_as_on_a_plain_postgres() {
    let _turn = grounds::alone().await;
    let (mut failures, mut performed) = (Vec::new(), 0);
    let (mut ways, mut reasons) = (Vec::new(), Vec::new());
    for script in scripts() {
        for step in &script.steps {
            match &step.judged {
                Judged::Compared | Judged::AnyError | Judged::ValueFirst => {}
                Judged::Differs(reason) => reasons.push(format!("{}:{} differs: {reason}", script.name, step.line)),
                Judged::Refused(state, reason) => {
                    reasons.push(format!("{}:{} refused {state}: {reason}", script.name, step.line));
                }
            }
        }
        for protocol in [Protocol::Simple, Protocol::Extended] {
            let links: &[Link] = match script.links {
                Links::Both => &[Link::Cut, Link::Up],
                Links::Cut => &[Link::Cut],
                Links::Up | Links::Live => &[Link::Up],
            };
            ways.push((Arc::clone(&script), protocol, links));
        }
    }
    let (live, frozen): (Vec<_>, Vec<_>) = ways.iter().cloned().partition(|(script, ..)| script.links == Links::Live);
    for (ways, freeze) in [(live, false), (frozen, true)] {
        for some in ways.chunks(SITES_AT_ONCE / 2) {
            let mut differences = batch(some, freeze).await;
            performed += differences.len();
            failures.append(&mut differences);
        }
    }
    for reason in &reasons {
        println!("{reason}");
    }
    println!("{performed} runs of {} scripts", ways.len() / 2);
    report(failures);
}

/// All files of `scripts/`, or those whose name contains `SCRIPT`.
fn scripts() -> Vec<Arc<Script>> {
    let wanted = std::env::var("SCRIPT").unwrap_or_default();
    let folder = std::fs::read_dir(repository("tests/differential/scripts")).unwrap();
    let mut files: Vec<PathBuf> = folder.map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "sql"));
    files.retain(|file| file.file_stem().is_some_and(|name| name.to_string_lossy().contains(&wanted)));
    files.sort();
    assert!(!files.is_empty(), "no script is called {wanted:?}");
    files.iter().map(|file| Arc::new(Script::read(file).unwrap())).collect()
}

type Outcome = (String, Vec<Difference>);

/// Performs these, all in one freeze of the replica, or without one.
async fn batch(ways: &[(Arc<Script>, Protocol, &[Link])], freeze: bool) -> Vec<Outcome> {
    let mut preparing = Vec::new();
    for (script, protocol, links) in ways {
        preparing.push(prepare(Arc::clone(script), *protocol, links.to_vec()));
    }
    let runs: Vec<Run> = in_parallel(preparing).await.into_iter().flatten().collect();

    if freeze {
        grounds::lab().await.freeze().await.unwrap();
    }
    let performing = runs.into_iter().map(|run| async move {
        if run.link == Link::Cut {
            run.stage.cut();
        }
        let names: Vec<_> = run.plain.tables.keys().cloned().collect();
        let through = perform::through(&run.script, run.protocol, &run.place, Some(&run.plain), &names).await;
        let differences = compare::transcripts(&run.script, &run.plain, &through);
        (run, differences)
    });
    let performed = in_parallel(performing.collect()).await;
    if freeze {
        grounds::lab().await.thaw().await.unwrap();
    }

    let mut outcomes = Vec::new();
    for (run, mut differences) in performed {
        run.stage.heal();
        if let Err(error) = grounds::drained(&run.stage).await {
            differences.push(Difference { line: None, kind: "draining".to_owned(), text: error });
        }
        let names: Vec<_> = run.plain.tables.keys().cloned().collect();
        let main = Place { port: grounds::lab().await.main().port(), ..run.place.clone() };
        differences.extend(compare::tables("on main", &run.plain.tables, &perform::tables(&main, &names).await));
        let way = format!("{} {:?}, link {:?}", run.script.name, run.protocol, run.link).to_lowercase();
        outcomes.push((way, differences));
    }
    outcomes
}

/// The plain server's transcript, and a site for each state of the link.
async fn prepare(script: Arc<Script>, protocol: Protocol, links: Vec<Link>) -> Vec<Run> {
    let schema = script.schema.iter().map(|statement| format!("{statement};\n")).collect::<String>();
    let name = |link: &str| format!("{}_{protocol:?}_{link}", script.name).to_lowercase();
    let (place, watcher) = grounds::plain(&name("plain"), &schema).await.unwrap_or_else(|error| {
        panic!("the schema of {}: {error}", script.name);
    });
    let plain = Arc::new(perform::on_plain(&script, protocol, &place, &watcher).await);
    let mut runs = Vec::new();
    for link in links {
        let (place, stage) = grounds::site(&name(&format!("{link:?}")), &schema).await;
        runs.push(Run { script: Arc::clone(&script), protocol, link, plain: Arc::clone(&plain), place, stage });
    }
    runs
}

/// Some at a time, in their order.
async fn in_parallel<F>(tasks: Vec<F>) -> Vec<F::Output>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    let (mut waiting, mut running) = (tasks.into_iter().enumerate(), JoinSet::new());
    let mut done = BTreeMap::new();
    loop {
        while running.len() < WORKERS
            && let Some((number, task)) = waiting.next()
        {
            running.spawn(async move { (number, task.await) });
        }
        let Some(finished) = running.join_next().await else { break };
        let (number, output) = finished.unwrap();
        done.insert(number, output);
    }
    done.into_values().collect()
}

/// Fails when anything differs; a difference that shows in several ways is told once.
fn report(outcomes: Vec<Outcome>) {
    let mut told: BTreeMap<(String, Difference), Vec<String>> = BTreeMap::new();
    for (way, differences) in outcomes {
        let script = way.split(' ').next().unwrap_or_default().to_owned();
        for difference in differences {
            told.entry((script.clone(), difference)).or_default().push(way.clone());
        }
    }
    let texts = told.iter().map(|((script, difference), ways)| {
        let line = difference.line.map_or("at the end".to_owned(), |line| line.to_string());
        let ways: Vec<_> = ways.iter().map(|way| way.trim_start_matches(script.as_str()).trim()).collect();
        format!("{script}.sql:{line}: {} ({})\n    {}", difference.kind, ways.join("; "), difference.text)
    });
    let texts: Vec<String> = texts.collect();
    assert!(texts.is_empty(), "{} differences from a plain Postgres\n\n{}\n", texts.len(), texts.join("\n\n"));
}
