//! Two transcripts side by side.

use std::collections::BTreeMap;

use super::answer::Answer;
use super::perform::{Seen, Tables, Transcript};
use super::script::{Action, Judged, Links, Script};

/// One thing that is not as on a plain Postgres.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Difference {
    /// The step's line in the script; absent for what shows only at the end.
    pub line: Option<usize>,
    /// What differs, in words that stay the same while a script is shrunk.
    pub kind: String,
    pub text: String,
}

impl Difference {
    /// By what two differences are taken for the same.
    pub fn signature(&self) -> String {
        self.kind.clone()
    }
}

/// All steps, and the tables as clients see them.
pub fn transcripts(script: &Script, plain: &Transcript, through: &Transcript) -> Vec<Difference> {
    let mut differences = Vec::new();
    let mut started = BTreeMap::new();
    // What the sessions have been told of their parameters.
    let mut told: BTreeMap<u32, [BTreeMap<String, String>; 2]> = BTreeMap::new();
    let live = script.links == Links::Live;
    for (number, step) in script.steps.iter().enumerate() {
        let sql = match &step.action {
            Action::Run { sql, .. } => sql.clone(),
            Action::Start { sql } => {
                started.insert(step.session, sql.clone());
                sql.clone()
            }
            Action::Finish => started.get(&step.session).cloned().unwrap_or_default(),
        };
        let (Some(expected), Some(got)) = (plain.seen.get(number), through.seen.get(number)) else { break };
        let kinds = match (&step.judged, expected, got) {
            (Judged::Differs(_), Seen::Answered(_), Seen::Answered(_)) => Vec::new(),
            (Judged::Refused(state, _), _, Seen::Answered(got)) => match got.sqlstate() {
                Some(is) if is == state => Vec::new(),
                is => vec![format!("refusal {state} became {}", is.unwrap_or("success"))],
            },
            (Judged::AnyError, Seen::Answered(expected), Seen::Answered(got))
                if of_some_row(expected) && of_some_row(got) =>
            {
                Vec::new()
            }
            (Judged::ValueFirst, Seen::Answered(expected), Seen::Answered(got))
                if of_some_row(expected) && of_a_value(got) =>
            {
                Vec::new()
            }
            (_, Seen::Answered(expected), Seen::Answered(got)) => {
                let mut kinds = expected.differences(got);
                if live {
                    // Main and the replica both say what has changed; of a block that fails on main the replica does when it is over.
                    kinds.retain(|kind| kind != "parameter status");
                    let [there, here] = told.entry(step.session).or_default();
                    there.extend(expected.settings.iter().cloned());
                    here.extend(got.settings.iter().cloned());
                    if expected.status != 'E' && there.iter().any(|(name, value)| here.get(name) != Some(value)) {
                        kinds.push("parameters".to_owned());
                    }
                }
                kinds
            }
            (_, Seen::Blocked, Seen::Blocked) => Vec::new(),
            (_, Seen::Blocked, Seen::Answered(got)) => {
                vec![format!("blocked became {}", got.sqlstate().unwrap_or("success"))]
            }
            (_, Seen::Answered(_), Seen::Blocked) => vec!["became blocked".to_owned()],
            (_, Seen::Lost(_), _) => vec!["the plain server gives no answer".to_owned()],
            (_, _, Seen::Lost(_)) => vec!["no answer".to_owned()],
        };
        if !kinds.is_empty() {
            let text = format!("{sql}\n    expected {}\n    got      {}", describe(expected), describe(got));
            differences.push(Difference { line: Some(step.line), kind: kinds.join(", "), text });
        }
    }
    differences.extend(tables("through the daemon", &plain.tables, &through.tables));
    differences
}

/// Tables of the plain server and of `whose`.
pub fn tables(whose: &str, plain: &Tables, others: &Tables) -> Vec<Difference> {
    let mut differences = Vec::new();
    for (name, expected) in plain {
        let got = others.get(name);
        if got == Some(expected) {
            continue;
        }
        let text = match (expected, got) {
            (Ok(expected), Some(Ok(got))) => {
                let only = |these: &[String], those: &[String]| {
                    let rows = these.iter().filter(|row| !those.contains(row)).take(10).cloned();
                    rows.collect::<Vec<_>>().join("\n      ")
                };
                format!(
                    "{name} {whose}: {} rows for {}\n    missing\n      {}\n    too many\n      {}",
                    got.len(),
                    expected.len(),
                    only(expected, got),
                    only(got, expected)
                )
            }
            (expected, got) => format!("{name} {whose}: expected {expected:?}, got {got:?}"),
        };
        differences.push(Difference { line: None, kind: format!("table {whose}"), text });
    }
    differences
}

/// An error that a row can cause: by its values, because somebody has changed it since, or because it comes twice.
fn of_some_row(answer: &Answer) -> bool {
    answer
        .sqlstate()
        .is_some_and(|state| state.starts_with("22") || state.starts_with("23") || ["40001", "21000"].contains(&state))
}

/// An error of a value, before it is in a row: of its cast, or of its domain.
fn of_a_value(answer: &Answer) -> bool {
    let of_domain = || answer.error().is_some_and(|fields| fields.contains_key(&'d'));
    answer.sqlstate().is_some_and(|state| state.starts_with("22") || (state.starts_with("23") && of_domain()))
}

fn describe(seen: &Seen) -> String {
    match seen {
        Seen::Answered(answer) => answer.describe(),
        Seen::Blocked => "blocked".to_owned(),
        Seen::Lost(why) => format!("no answer: {why}"),
    }
}
