//! Reads the rows of an evaluation: effects, or the first constraint that fails, worded as Postgres words it.

use std::sync::Arc;

use bytes::Bytes;

use super::super::Report;
use super::super::after::{Event, Rule, Versions};
use super::unique::{Before, is_key};
use super::verdict::{ACQUITTED, UNCHANGED};
use super::{Action, Conflict, Output, Setting, WriteKind, WritePlan};
use crate::catalog::{AttNum, Table, UniqueIndex};
use crate::entry::{Expression, Value};
use crate::overlay::{RowId, View};
use crate::report::About;
use crate::sqlstate::{
    CARDINALITY_VIOLATION, CHECK_VIOLATION, FEATURE_NOT_SUPPORTED, INTERNAL_ERROR, NOT_NULL_VIOLATION, SqlState,
};

/// What an evaluation says.
#[derive(Debug, Clone, Default)]
pub struct Judged {
    pub rows: Vec<Decoded>,
    /// In the order in which Postgres fires the triggers behind them.
    pub events: Vec<Event>,
}

/// One row of the evaluation, read.
#[derive(Debug, Clone)]
pub struct Decoded {
    /// The table that has the row: the target, or one below it.
    pub table: Arc<Table>,
    /// The partitioned table that the statement names, where that can stand for the row's own.
    pub via: Option<Arc<Table>>,
    /// The effect on the table, as values of columns.
    pub outcome: Outcome,
    /// The RETURNING columns, in the formats the client asked for.
    pub returning: Vec<Option<Bytes>>,
}

impl Decoded {
    /// The key of a row that is inserted; nothing else has one here.
    pub fn new_key(&self) -> Vec<Value> {
        let Outcome::Insert { row } = &self.outcome else { return Vec::new() };
        let value = |key: &AttNum| row.get(self.table.position(*key)?)?.clone();
        self.table.key.iter().map(value).collect()
    }
}

/// What happens to one row of the target.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// Values of all columns, in the table's order.
    Insert {
        row: Vec<Value>,
    },
    /// The row's key before; new and old values of the columns that were set; the whole new row when a key column
    /// changed its value.
    Update {
        key: Vec<Value>,
        set: Vec<Setting>,
        old: Vec<Setting>,
        row: Option<Vec<Value>>,
        /// How columns in `set` are computed from the row's own, by places in the row's own table.
        own: Vec<(AttNum, Expression)>,
    },
    /// An UPDATE that moves the row to another partition: `row` is in that one's columns.
    Move {
        key: Vec<Value>,
        set: Vec<Setting>,
        old: Vec<Setting>,
        to: Arc<Table>,
        row: Vec<Value>,
    },
    Delete {
        key: Vec<Value>,
        old: Vec<Value>,
    },
}

/// One row's hidden outputs.
pub(super) struct Hidden<'a> {
    pub(super) plan: &'a WritePlan,
    values: Vec<Value>,
}

/// Where values that are to be unique, or apart, are judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Values {
    Here,
    /// Over the state of now: they are free.
    Elsewhere,
}

pub(super) fn rows(
    plan: &WritePlan,
    view: View<'_>,
    rows: &[Vec<Option<Bytes>>],
    judged: Values,
) -> Result<Judged, Report> {
    let all = rows.iter().map(|row| read(plan, row)).collect::<Result<Vec<_>, _>>()?;
    let table = &*plan.target;
    let identity = |index: &UniqueIndex| index.deferrable && is_key(table, index);
    let mut before = Before::default();
    let mut crossed = false;
    let (mut hidden, mut kept) = (Vec::with_capacity(rows.len()), Vec::with_capacity(rows.len()));
    for (values, row) in all.into_iter().zip(rows) {
        values.routed()?;
        values.row_rules(0)?;
        if values.passed_over(&before, rows.len())? {
            continue;
        }
        values.row_rules(1)?;
        match judged {
            Values::Here => values.keeps_apart(view, &before)?,
            Values::Elsewhere => values.has_new_key(view, &before)?,
        }
        crossed |= judged == Values::Here && values.unique(view, &before, identity).is_err();
        before.add(&values);
        hidden.push(values);
        kept.push(row);
    }
    // At the end of the statement.
    let mut before = before.at_the_end();
    let mut events = Vec::new();
    let several = hidden.len() > 1;
    if judged == Values::Here {
        hidden.iter().for_each(|row| row.exclusion_events(several, false, &mut events));
    }
    for row in &hidden {
        if judged == Values::Elsewhere {
            row.foreign_keys(view, &mut events);
            continue;
        }
        row.unique(view, &before, identity)?;
        row.recheck(view, &before, true, &mut events);
        row.foreign_keys(view, &mut events);
        row.recheck(view, &before, false, &mut events);
        row.exclusion_events(several, true, &mut events);
        before.add(row);
    }
    if crossed {
        let message = format!("rows of \"{}\" cannot exchange their keys in one statement", table.name.name);
        return Err(Report::new(FEATURE_NOT_SUPPORTED, message)
            .hint("Use values in between, or give the table a key that is not deferrable."));
    }
    let decoded = hidden.iter().zip(kept).filter_map(|(values, row)| {
        let (outcome, returning) = (values.outcome()?, row[plan.outputs.len()..].to_vec());
        let table = match outcome {
            Outcome::Insert { .. } => values.table_after(),
            _ => values.table_before(),
        };
        Some(Decoded { table: Arc::clone(table), via: values.via(), outcome, returning })
    });
    Ok(Judged { rows: decoded.collect(), events })
}

pub(super) fn row_rules(plan: &WritePlan, rows: &[Vec<Option<Bytes>>]) -> Result<(), Report> {
    rows.iter().try_for_each(|row| {
        let values = read(plan, row)?;
        values.routed()?;
        values.row_rules(0)?;
        values.row_rules(1)
    })
}

pub(super) fn first_row(plan: &WritePlan, rows: &[Vec<Option<Bytes>>]) -> Result<(), Report> {
    if plan.kind == WriteKind::Insert {
        let Some(row) = rows.first() else { return Ok(()) };
        let values = read(plan, row)?;
        values.routed()?;
        // What ON CONFLICT makes of a row that is there is looked at when that row is locked.
        return values.row_rules(0);
    }
    let Some(row) = rows.iter().find(|row| acts(plan, row)) else { return Ok(()) };
    let values = read(plan, row)?;
    // A row that moves to another partition, if there is one for it, is deleted, and waited for, before that one's rules are
    // looked at.
    let stays = values.routed().is_ok() && values.table_before().id == values.table_after().id;
    if stays { values.row_rules(1) } else { Ok(()) }
}

/// Whether anything becomes of the row, as far as the statement itself says.
pub(super) fn acts(plan: &WritePlan, row: &[Option<Bytes>]) -> bool {
    let action = plan.outputs.iter().position(|output| *output == Output::Action);
    let said = |place: usize| row.get(place).is_some_and(|said| said.as_deref().is_some_and(|said| said != b"n"));
    action.is_none_or(said)
}

pub(super) fn read<'a>(plan: &'a WritePlan, row: &[Option<Bytes>]) -> Result<Hidden<'a>, Report> {
    let malformed = || Report::new(INTERNAL_ERROR, "the replica's answer to an evaluation is malformed");
    let own = row.get(..plan.outputs.len()).ok_or_else(malformed)?;
    let text = |value: &Option<Bytes>| -> Result<Value, Report> {
        match value {
            Some(bytes) => Ok(Some(Arc::from(std::str::from_utf8(bytes).map_err(|_| malformed())?))),
            None => Ok(None),
        }
    };
    Ok(Hidden { plan, values: own.iter().map(text).collect::<Result<_, _>>()? })
}

impl Hidden<'_> {
    pub(super) fn outputs(&self) -> impl Iterator<Item = (&Output, &Value)> {
        self.plan.outputs.iter().zip(&self.values)
    }

    pub(super) fn of(&self, wanted: impl Fn(&Output) -> bool) -> Vec<Value> {
        self.outputs().filter(|(output, _)| wanted(output)).map(|(_, value)| value.clone()).collect()
    }

    pub(super) fn key(&self) -> Vec<Value> {
        self.of(|output| *output == Output::Key)
    }

    pub(super) fn new_value(&self, attnum: AttNum) -> Option<&Value> {
        self.outputs().find(|(output, _)| **output == Output::New(attnum)).map(|(_, value)| value)
    }

    fn row_rules(&self, phase: usize) -> Result<(), Report> {
        let of = |wanted: Output| self.outputs().find(|(output, _)| **output == wanted).and_then(|(_, v)| v.clone());
        let Some(rule) = of(Output::RowRule(phase)) else { return Ok(()) };
        let (target, table) = (&*self.plan.target, &**self.table_after());
        let detail = format!("Failing row contains {}.", of(Output::FailingRow(phase)).unwrap_or_default());
        let (kind, number) = rule.split_at(1);
        let number: usize = number.parse().unwrap_or(usize::MAX);
        if kind == "n" {
            let column = target.columns.iter().find(|column| usize::try_from(column.attnum.0) == Ok(number));
            let name = column.map_or_else(String::new, |column| column.name.to_string());
            let message = format!(
                "null value in column \"{name}\" of relation \"{}\" violates not-null constraint",
                table.name.name
            );
            let about = About { column: Some(name), ..table_and(table, None) };
            return Err(Report::new(NOT_NULL_VIOLATION, message).detail(detail).about(about));
        }
        if kind == "p" {
            let message = format!("new row for relation \"{}\" violates partition constraint", table.name.name);
            return Err(about(table, CHECK_VIOLATION, message, None).detail(detail));
        }
        let name = target.checks.get(number).map_or("", |check| &check.name);
        let message = format!("new row for relation \"{}\" violates check constraint \"{name}\"", table.name.name);
        Err(about(table, CHECK_VIOLATION, message, Some(name)).detail(detail))
    }

    /// Postgres fires the triggers of a row by name: those of its keys as a parent come before those as a child.
    fn foreign_keys(&self, view: View<'_>, events: &mut Vec<Event>) {
        let table = &*self.plan.target;
        let values = |json: &str| serde_json::from_str::<Vec<Value>>(json).unwrap_or_default();
        let mut push = |rule: Rule, told: &str, versions: Versions| {
            let acquitted = told.starts_with([ACQUITTED, UNCHANGED]);
            let told = told.trim_start_matches([ACQUITTED, UNCHANGED]);
            let (old, new) = told.split_once('\n').unwrap_or((told, "[]"));
            let later = rule.deferrable().is_some();
            if !acquitted || later {
                let versions = if later { versions } else { Versions::default() };
                events.push(Event { rule, values: values(old), new: values(new), acquitted, versions });
            }
        };
        for (output, value) in self.outputs() {
            if let (Output::Child(place), Some(told)) = (output, value)
                && let Some(key) = table.referenced_by.get(*place)
            {
                let rule = Rule::Children { key: Arc::new(self.own_referrer(key)), updated: told.contains('\n') };
                push(rule, told, Versions::default());
            }
        }
        let rewrites = matches!(self.action(), Action::Update(_));
        for (output, value) in self.outputs() {
            if let (Output::Parent(place), Some(told)) = (output, value)
                && let Some(key) = table.references.get(*place)
                && (!told.starts_with(UNCHANGED) || (rewrites && self.is_of_transaction(view)))
            {
                let versions = Versions { was: if rewrites { self.key() } else { Vec::new() }, is: self.key_after() };
                push(Rule::Parent(Arc::new(self.own_reference(key))), told, versions);
            }
        }
    }

    /// Whether the transaction has written the row before this statement.
    fn is_of_transaction(&self, view: View<'_>) -> bool {
        let key: Option<Arc<[Arc<str>]>> = self.key().into_iter().collect();
        key.is_some_and(|key| view.own.row(self.table_before().id, &RowId::Key(key)).is_some())
    }

    /// Whether nothing becomes of the row, those before it being written.
    ///
    /// # Errors
    /// 21000: ON CONFLICT and MERGE write a row once only. 0A000: what ON CONFLICT finds after such changes is not known.
    fn passed_over(&self, before: &Before, rows: usize) -> Result<bool, Report> {
        let action = self.action();
        if self.outputs().any(|(output, value)| *output == Output::Moved && value.is_some()) && rows > 1 {
            let message =
                "ON CONFLICT of several rows cannot be buffered when it changes the values that are in conflict";
            return Err(Report::new(FEATURE_NOT_SUPPORTED, message).hint("Insert one row at a time."));
        }
        let again = match action {
            // The row is locked before its condition is judged.
            Action::Nothing if self.plan.conflict == Some(Conflict::Update) => {
                before.changed.contains(&self.identity())
            }
            Action::Nothing => return Ok(true),
            Action::Insert => before.proposed(self),
            Action::Update(_) | Action::Delete => before.changed.contains(&self.identity()),
        };
        match (again, self.plan.kind, self.plan.conflict) {
            (false, _, _) => Ok(action == Action::Nothing),
            (true, WriteKind::Insert, Some(Conflict::Update)) => {
                let message = "ON CONFLICT DO UPDATE command cannot affect row a second time";
                let hint = "Ensure that no rows proposed for insertion within the same command have duplicate constrained values.";
                Err(Report::new(CARDINALITY_VIOLATION, message).hint(hint))
            }
            (true, WriteKind::Merge, _) => {
                let message = "MERGE command cannot affect row a second time";
                let hint = "Ensure that not more than one source row matches any one target row.";
                Err(Report::new(CARDINALITY_VIOLATION, message).hint(hint))
            }
            // UPDATE … FROM and DELETE … USING can find a row more than once: the first time counts.
            (true, WriteKind::Insert | WriteKind::Update | WriteKind::Delete, _) => Ok(true),
        }
    }

    /// # Errors
    /// 23505, 23P01
    fn keeps_apart(&self, view: View<'_>, before: &Before) -> Result<(), Report> {
        match self.excluded(before) {
            Ok(()) => self.unique(view, before, |index| !index.deferrable),
            // Indexes are looked at in the order in which they were made.
            Err((made, report)) => {
                self.unique(view, before, |index| !index.deferrable && index.root < made)?;
                Err(*report)
            }
        }
    }

    /// What happens to this row.
    pub(super) fn action(&self) -> Action {
        let said = self.outputs().find(|(output, _)| **output == Output::Action);
        match (said.and_then(|(_, value)| value.as_deref()), self.plan.kind) {
            (Some("i"), _) | (None, WriteKind::Insert) => Action::Insert,
            (Some("d"), _) | (None, WriteKind::Delete) => Action::Delete,
            (None, WriteKind::Update) => Action::Update(0),
            (None, WriteKind::Merge) => Action::Nothing,
            (Some(text), _) => {
                let of = text.strip_prefix('u').and_then(|number| number.parse().ok());
                of.map_or(Action::Nothing, Action::Update)
            }
        }
    }

    fn outcome(&self) -> Option<Outcome> {
        let key = self.key();
        let (before, after) = (self.table_before(), self.table_after());
        let action = self.action();
        Some(match action {
            Action::Nothing => return None,
            Action::Insert => Outcome::Insert { row: self.whole(after) },
            Action::Delete => Outcome::Delete { key, old: self.old(before) },
            Action::Update(of) => {
                let assigned = self.plan.sets.get(of).map_or(&[][..], Vec::as_slice);
                let old: Vec<Setting> = self.settings(|output| match output {
                    Output::Old(attnum) => Some(*attnum).filter(|attnum| assigned.contains(attnum)),
                    _ => None,
                });
                let new = old.iter().map(|(attnum, _)| (*attnum, self.new_value(*attnum).cloned().flatten())).collect();
                let target = &self.plan.target.key;
                let moved =
                    target.iter().zip(&key).any(|(column, was)| self.new_value(*column).is_some_and(|v| v != was));
                let (set, old) = (self.renumbered(before, new), self.renumbered(before, old));
                if before.id != after.id {
                    return Some(Outcome::Move { key, set, old, to: Arc::clone(after), row: self.whole(after) });
                }
                // A row under another key is another row to those who come later.
                let own = if moved { Vec::new() } else { self.computed(before, assigned) };
                Outcome::Update { key, set, old, row: moved.then(|| self.whole(after)), own }
            }
        })
    }

    fn computed(&self, table: &Table, assigned: &[AttNum]) -> Vec<(AttNum, Expression)> {
        let plan = self.plan;
        let mine = plan.computed.iter().filter(|computed| assigned.contains(&computed.attnum));
        let constants = self.of(|output| matches!(output, Output::Constant(_)));
        let own = mine.filter_map(|computed| {
            let name = &plan.target.attribute(computed.attnum)?.name;
            let expression = computed.expression(&plan.target, table, &constants)?;
            Some((table.column(name)?.attnum, expression))
        });
        own.collect()
    }

    /// The new row in the columns of its own table.
    pub(super) fn whole(&self, table: &Table) -> Vec<Value> {
        self.in_columns_of(table, |attnum| self.new_value(attnum).cloned().flatten())
    }

    fn old(&self, table: &Table) -> Vec<Value> {
        let old = |attnum| self.of(|output| *output == Output::Old(attnum)).into_iter().next().flatten();
        self.in_columns_of(table, old)
    }

    fn in_columns_of(&self, table: &Table, value: impl Fn(AttNum) -> Value) -> Vec<Value> {
        let target = &self.plan.target;
        let of = |column: &crate::catalog::Column| match table.id == target.id {
            true => Some(column.attnum),
            false => target.column(&column.name).map(|column| column.attnum),
        };
        table.columns.iter().map(|column| value(of(column)?)).collect()
    }

    /// The target's columns by the numbers that the row's own table has for them.
    fn renumbered(&self, table: &Table, settings: Vec<Setting>) -> Vec<Setting> {
        let target = &self.plan.target;
        if table.id == target.id {
            return settings;
        }
        let number = |attnum| Some(table.column(&target.attribute(attnum)?.name)?.attnum);
        settings.into_iter().filter_map(|(attnum, value)| Some((number(attnum)?, value))).collect()
    }

    fn settings(&self, column: impl Fn(&Output) -> Option<AttNum>) -> Vec<Setting> {
        self.outputs().filter_map(|(output, value)| Some((column(output)?, value.clone()))).collect()
    }
}

pub(super) fn about(table: &Table, code: SqlState, message: String, constraint: Option<&str>) -> Report {
    Report::new(code, message).about(table_and(table, constraint))
}

fn table_and(table: &Table, constraint: Option<&str>) -> About {
    About {
        schema: Some(table.name.schema.to_string()),
        table: Some(table.name.name.to_string()),
        constraint: constraint.map(str::to_owned),
        ..About::default()
    }
}
