//! What a server answers to one statement, and in which ways two answers differ.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;

/// An error's or notice's fields by their letter.
pub type Fields = BTreeMap<char, String>;

/// Everything up to ReadyForQuery.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    pub outcomes: Vec<Outcome>,
    pub notices: Vec<Fields>,
    /// Parameters that the server reported as changed.
    pub settings: Vec<(String, String)>,
    /// The transaction's: I, T or E.
    pub status: char,
}

/// One statement's part of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    pub columns: Option<Vec<Column>>,
    pub rows: Vec<Vec<Option<String>>>,
    /// The body of CopyInResponse or CopyOutResponse: formats.
    pub copy: Vec<u8>,
    pub end: End,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub enum End {
    Tag(String),
    Error(Fields),
    Empty,
    Suspended,
    #[default]
    Missing,
}

/// A column of a row description. The table it comes from is left out: a merged query's columns come from a subquery.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    pub name: String,
    /// The type's OID, or its name once that is looked up (user-made types have other OIDs in other databases).
    pub kind: String,
    pub modifier: i32,
}

/// What of an error is compared. Not the hint, position, context and source place: a statement that is evaluated as
/// another one has others.
const COMPARED: [char; 9] = ['V', 'C', 'M', 'D', 's', 't', 'c', 'd', 'n'];

impl Answer {
    pub fn error(&self) -> Option<&Fields> {
        self.outcomes.iter().find_map(|outcome| match &outcome.end {
            End::Error(fields) => Some(fields),
            _ => None,
        })
    }

    /// The SQLSTATE of its error.
    pub fn sqlstate(&self) -> Option<&str> {
        self.error().and_then(|fields| fields.get(&'C')).map(String::as_str)
    }

    /// Puts the types' names in the place of their OIDs.
    pub fn name_types(&mut self, names: &HashMap<String, String>) {
        let columns = self.outcomes.iter_mut().filter_map(|outcome| outcome.columns.as_mut()).flatten();
        for column in columns {
            if let Some(name) = names.get(&column.kind) {
                column.kind.clone_from(name);
            }
        }
    }

    /// Sorts the rows of statements whose rows come in any order.
    pub fn sort_rows(&mut self, ordered: &[bool]) {
        for (number, outcome) in self.outcomes.iter_mut().enumerate() {
            if !ordered.get(number).copied().unwrap_or_default() {
                outcome.rows.sort();
            }
        }
    }

    /// In which respects the other answer is not this one; in words that stay the same while a script is shrunk.
    pub fn differences(&self, other: &Answer) -> Vec<String> {
        let mut differences = Vec::new();
        match (self.sqlstate(), other.sqlstate()) {
            (expected, got) if expected == got => {}
            (expected, got) => {
                let name = |state: Option<&str>| state.unwrap_or("success").to_owned();
                return vec![format!("{} became {}", name(expected), name(got))];
            }
        }
        if self.outcomes.len() != other.outcomes.len() {
            differences.push("number of results".to_owned());
        }
        for (expected, got) in self.outcomes.iter().zip(&other.outcomes) {
            match (&expected.end, &got.end) {
                (End::Error(expected), End::Error(got)) => {
                    // A session's temporary schema is any one of many.
                    let text = |fields: &Fields, field: &char| match fields.get(field) {
                        Some(text) if text.starts_with("pg_temp_") => Some("pg_temp".to_owned()),
                        text => text.cloned(),
                    };
                    let unequal = COMPARED.iter().filter(|field| text(expected, field) != text(got, field));
                    differences.extend(unequal.map(|field| format!("error field {field}")));
                    let place = |fields: &Fields| fields.get(&'W').filter(|text| text.contains("COPY ")).cloned();
                    if place(expected) != place(got) {
                        differences.push("place in COPY".to_owned());
                    }
                }
                (expected, got) if expected != got => differences.push("tag".to_owned()),
                _ => {}
            }
            // Whether a query fails while it is planned (constants are folded then) or when it runs is the plan's affair.
            let failed = matches!(expected.end, End::Error(_));
            if expected.columns != got.columns && !failed {
                differences.push("row description".to_owned());
            }
            if expected.rows != got.rows && !failed {
                differences.push("rows".to_owned());
            }
            if expected.copy != got.copy {
                differences.push("copy formats".to_owned());
            }
        }
        if self.status != other.status {
            differences.push("transaction status".to_owned());
        }
        if self.warnings() != other.warnings() {
            differences.push("warnings".to_owned());
        }
        if self.changed_settings() != other.changed_settings() {
            differences.push("parameter status".to_owned());
        }
        differences
    }

    /// What a user is warned of. Severities below come and go with the plan (and `client_min_messages`).
    fn warnings(&self) -> Vec<(Option<&String>, Option<&String>)> {
        let loud = self.notices.iter().filter(|notice| notice.get(&'V').is_some_and(|v| v == "WARNING"));
        loud.map(|notice| (notice.get(&'C'), notice.get(&'M'))).collect()
    }

    fn changed_settings(&self) -> Vec<&(String, String)> {
        // A standby's own, which the daemon hides in its own way.
        self.settings.iter().filter(|(name, _)| name != "in_hot_standby").collect()
    }

    /// For people.
    pub fn describe(&self) -> String {
        let mut out = String::new();
        for outcome in &self.outcomes {
            if let Some(columns) = &outcome.columns {
                let names = columns.iter().map(|column| match column.modifier {
                    -1 => format!("{} {}", column.name, column.kind),
                    modifier => format!("{} {}({modifier})", column.name, column.kind),
                });
                let _ = write!(out, "[{}] ", names.collect::<Vec<_>>().join(", "));
            }
            for (number, row) in outcome.rows.iter().enumerate() {
                if number == 12 {
                    let _ = write!(out, "… {} rows ", outcome.rows.len());
                    break;
                }
                let values = row.iter().map(|value| value.as_deref().unwrap_or("NULL"));
                let _ = write!(out, "({}) ", values.collect::<Vec<_>>().join(", "));
            }
            match &outcome.end {
                End::Tag(tag) => out.push_str(tag),
                End::Error(fields) => {
                    // Severity, routine and place in the source say nothing about the case.
                    let told = fields.iter().filter(|(field, _)| !"SVFLR".contains(**field));
                    let told: Vec<_> = told.map(|(field, value)| format!("{field}={value}")).collect();
                    let _ = write!(out, "ERROR {}", told.join(" | "));
                }
                other => {
                    let _ = write!(out, "{other:?}");
                }
            }
            out.push_str("; ");
        }
        for (code, message) in self.warnings() {
            let _ = write!(out, "WARNING {} {}; ", code.map_or("", |c| c), message.map_or("", |m| m));
        }
        let _ = write!(out, "then {}", self.status);
        out
    }
}
