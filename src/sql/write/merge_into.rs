//! MERGE (<https://www.postgresql.org/docs/15/sql-merge.html>).
//!
//! ```sql
//! FROM <afresh>, <source> LEFT JOIN LATERAL (SELECT <columns> FROM <merged target> AS a WHERE <join condition>) AS "pgoutpost.f" ON true,
//!      LATERAL (SELECT <the first WHEN whose condition holds>) AS "pgoutpost.w"
//!      LEFT JOIN LATERAL (SELECT <values> WHERE <it is this WHEN> OFFSET 0) AS "pgoutpost.u0" ON true …
//! ```
//! The target's columns have hidden names outside of the scopes in which the client can see them: WHEN NOT MATCHED sees the
//! source only.

use std::sync::Arc;

use squawk_syntax::{SyntaxKind as K, SyntaxNode};

use super::super::Report;
use super::super::merge::key_columns;
use super::super::syntax::{child, has_token, quoted, range, token};
use super::super::template::Template;
use super::build::{AFRESH, Builder, Built, Request, Row, hidden, value_of};
use super::exclusion::excluded;
use super::unique::{group, index_touched, recheck, taken};
use super::update::{around, column, column_of, settings};
use super::windows::AS_FOUND;
use super::{Output, verdict};
use crate::catalog::{AttNum, Column, Table, UniqueIndex};
use crate::sqlstate::FEATURE_NOT_SUPPORTED;

const FOUND: &str = "\"pgoutpost.f\".\"pgoutpost.found\"";
const WHEN: &str = "\"pgoutpost.w\".\"pgoutpost.k\"";

/// What a WHEN clause does.
enum Then {
    /// The columns it assigns to, and those that change with them.
    Update {
        assigned: Vec<AttNum>,
    },
    Insert,
    Delete,
    Nothing,
}

struct When {
    matched: bool,
    condition: Option<Template>,
    then: Then,
    node: SyntaxNode,
}

pub(super) fn build(request: &Request<'_>, canonical: bool) -> Result<Built, Report> {
    let mut builder = Builder::new(request, canonical);
    if !builder.table.family.is_empty() {
        let message =
            format!("MERGE into \"{}\" cannot be buffered: other tables are below it", builder.table.name.name);
        return Err(Report::new(FEATURE_NOT_SUPPORTED, message).hint("Use INSERT, UPDATE and DELETE."));
    }
    builder.row_order = Some(AS_FOUND.into());
    if child(request.statement, K::RETURNING_CLAUSE).is_some() {
        return Err(unknown("RETURNING"));
    }
    let whens = whens(&builder, request.statement)?;
    let verbs = [
        ("INSERT", whens.iter().any(|when| matches!(when.then, Then::Insert))),
        ("UPDATE", whens.iter().any(|when| matches!(when.then, Then::Update { .. }))),
        ("DELETE", whens.iter().any(|when| matches!(when.then, Then::Delete))),
    ];
    builder.verbs = verbs.into_iter().filter_map(|(verb, does)| does.then_some(verb)).collect();
    join(&mut builder)?;
    choose(&mut builder, &whens);
    let mut merge = Merge { table: Arc::clone(builder.table), whens };
    let mut new = merge.values(&mut builder)?;
    let written = merge.is(|then| matches!(then, Then::Update { .. } | Then::Insert));
    builder.generate(&mut new, "pgoutpost.g", &written);
    merge.outputs(&mut builder, &new)?;
    Ok(builder.finish())
}

fn unknown(what: &str) -> Report {
    Report::new(FEATURE_NOT_SUPPORTED, format!("{what} of MERGE cannot be buffered"))
}

fn whens(builder: &Builder<'_>, statement: &SyntaxNode) -> Result<Vec<When>, Report> {
    if child(statement, K::MERGE_WHEN_NOT_MATCHED_SOURCE).is_some() {
        return Err(unknown("WHEN NOT MATCHED BY SOURCE"));
    }
    let clauses = statement.children().filter_map(|clause| match clause.kind() {
        K::MERGE_WHEN_MATCHED => Some((true, clause)),
        K::MERGE_WHEN_NOT_MATCHED_TARGET => Some((false, clause)),
        _ => None,
    });
    let read = |(matched, clause): (bool, SyntaxNode)| {
        let condition = child(&clause, K::MERGE_CONDITION).and_then(|condition| {
            let word = token(&condition, K::AND_KW)?;
            Some(builder.cut(word.text_range().end().into()..range(&condition).end))
        });
        let node = clause.children().find(|inner| inner.kind() != K::MERGE_CONDITION).unwrap_or_else(|| clause.clone());
        let then = match node.kind() {
            K::MERGE_UPDATE => Then::Update { assigned: Vec::new() },
            K::MERGE_INSERT => Then::Insert,
            K::MERGE_DELETE => Then::Delete,
            _ => Then::Nothing,
        };
        When { matched, condition, then, node }
    };
    Ok(clauses.map(read).collect())
}

/// FROM: the source, and to each of its rows those of the target.
fn join(builder: &mut Builder<'_>) -> Result<(), Report> {
    let using = child(builder.request.statement, K::USING_ON_CLAUSE).ok_or_else(|| unknown("this form"))?;
    let on = child(&using, K::ON_CLAUSE).ok_or_else(|| unknown("this form"))?;
    let (Some(using_word), Some(on_word)) = (token(&using, K::USING_KW), token(&on, K::ON_KW)) else {
        return Err(unknown("this form"));
    };
    let source = builder.cut(using_word.text_range().end().into()..range(&on).start);
    let condition = builder.cut(on_word.text_range().end().into()..range(&on).end);
    builder.afresh();
    builder.from.push(", ").append(&source);
    let table = Arc::clone(builder.table);
    let mut found = Template::text("SELECT true AS \"pgoutpost.found\"");
    for column in &table.columns {
        found.push(&format!(", {} AS {}", column_of(&builder.alias, column), hidden("o", column.attnum)));
    }
    found.push(" FROM ").table(&table, None).push(&format!(" AS {} WHERE (", quoted(&builder.alias)));
    found.append(&condition).push(")");
    builder.left_lateral(&found, "pgoutpost.f");
    Ok(())
}

/// The found row of the target, as it was.
fn found(table: &Table) -> Row {
    let of = |column: &Column| (column.attnum, format!("\"pgoutpost.f\".{}", hidden("o", column.attnum)));
    table.columns.iter().map(of).collect()
}

/// Which WHEN applies: its place.
fn choose(builder: &mut Builder<'_>, whens: &[When]) {
    let cases = |matched: bool| {
        let mut cases = Template::text("CASE");
        for (place, when) in whens.iter().enumerate().filter(|(_, when)| when.matched == matched) {
            cases.push(" WHEN (");
            match &when.condition {
                Some(condition) => cases.append(condition),
                None => cases.push("true"),
            };
            cases.push(&format!(") THEN {place}"));
        }
        let empty = whens.iter().all(|when| when.matched != matched);
        cases.push(if empty { " WHEN false THEN 0 END" } else { " END" });
        cases
    };
    let scope = builder.scope(&found(builder.table), &builder.alias);
    let mut chosen = Template::text(format!("SELECT CASE WHEN {FOUND} THEN (SELECT "));
    chosen.append(&cases(true)).push(&format!(" FROM {scope}) ELSE ")).append(&cases(false));
    chosen.push(" END AS \"pgoutpost.k\" WHERE ").push(AFRESH).push(" OFFSET 0");
    builder.lateral(&chosen, "pgoutpost.w");
}

/// The row where a condition holds, else NULLs.
fn only(row: &Row, condition: &str) -> Row {
    row.iter().map(|(attnum, value)| (*attnum, format!("CASE WHEN {condition} THEN {value} END"))).collect()
}

struct Merge {
    table: Arc<Table>,
    whens: Vec<When>,
}

impl Merge {
    /// Whether the row's WHEN does such a thing, as SQL.
    fn is(&self, does: impl Fn(&Then) -> bool) -> String {
        let places = self.whens.iter().enumerate().filter(|(_, when)| does(&when.then));
        let places: Vec<String> = places.map(|(place, _)| place.to_string()).collect();
        if places.is_empty() { "false".into() } else { format!("({WHEN} IN ({}))", places.join(", ")) }
    }

    /// The values of each WHEN, and the new row that they come to; generated columns come later.
    fn values(&mut self, builder: &mut Builder<'_>) -> Result<Row, Report> {
        let old = found(&self.table);
        let mut cases: Vec<(AttNum, String)> = old.iter().map(|(attnum, _)| (*attnum, String::new())).collect();
        for (place, when) in self.whens.iter_mut().enumerate() {
            let alias = format!("pgoutpost.u{place}");
            let (values, whole) = match &when.then {
                Then::Update { .. } => (settings(builder, &when.node, None)?, false),
                Then::Insert => (inserted(builder, &self.table, &when.node)?, true),
                Then::Delete | Then::Nothing => continue,
            };
            let mut subselect = Template::text("SELECT true AS \"pgoutpost.true\"");
            for (column, expression) in &values {
                let (before, after) = around(column);
                subselect.push(&format!(", {before}")).append(expression);
                subselect.push(&format!("{after} AS {}", hidden("n", column.attnum)));
            }
            if !whole {
                subselect.push(&format!(" FROM {}", builder.scope(&old, &builder.alias)));
            }
            subselect.push(&format!(" WHERE {WHEN} = {place} AND {AFRESH} OFFSET 0"));
            builder.left_lateral(&subselect, &alias);
            let mut set: Vec<AttNum> = values.iter().map(|(column, _)| column.attnum).collect();
            for ((attnum, case), (_, old)) in cases.iter_mut().zip(&old) {
                let value = match set.contains(attnum) {
                    true => format!("{}.{}", quoted(&alias), hidden("n", *attnum)),
                    false if whole => continue,
                    false => old.clone(),
                };
                case.push_str(&format!(" WHEN {place} THEN {value}"));
            }
            if let Then::Update { assigned } = &mut when.then {
                builder.updated.extend(set.iter().copied());
                set.extend(self.table.columns.iter().filter(|column| column.generated).map(|column| column.attnum));
                assigned.clone_from(&set);
                builder.sets.push(set);
            }
        }
        let of_type = |attnum| self.table.attribute(attnum).map_or("text", |column: &Column| &column.base_type_name);
        let new = cases.into_iter().map(|(attnum, case)| match case.is_empty() {
            true => (attnum, format!("NULL::{}", of_type(attnum))),
            false => (attnum, format!("CASE {WHEN}{case} END")),
        });
        Ok(new.collect())
    }

    fn outputs(&self, builder: &mut Builder<'_>, new: &Row) -> Result<(), Report> {
        let (updated, inserted) =
            (self.is(|then| matches!(then, Then::Update { .. })), self.is(|then| matches!(then, Then::Insert)));
        let deleted = self.is(|then| matches!(then, Then::Delete));
        let found = found(&self.table);
        let old = only(&found, &format!("({updated} OR {deleted})"));
        let written = format!("({updated} OR {inserted})");
        builder.output(Output::Action, &Template::text(self.action()));
        for column in key_columns(&self.table) {
            builder.value(Output::Key, column, value_of(&old, column.attnum).unwrap_or("NULL"));
        }
        for column in &self.table.columns {
            builder.value(Output::New(column.attnum), column, value_of(new, column.attnum).unwrap_or("NULL"));
            builder.value(Output::Old(column.attnum), column, value_of(&old, column.attnum).unwrap_or("NULL"));
        }
        verdict::row_rules(builder, new, None, 1, &written);
        let set: Vec<AttNum> = self.whens.iter().flat_map(When::assigned).collect();
        let inserts = self.whens.iter().any(|when| matches!(when.then, Then::Insert));
        for (place, index) in self.table.unique.iter().enumerate() {
            if inserts || index_touched(index, &set) {
                taken(builder, &self.table, place, new, Some(&old), None, &written);
                group(builder, Output::Group(place), index, &only(new, &written));
                recheck(builder, &self.table, place, &only(new, &written));
            }
        }
        excluded(builder, &only(new, &written), Some(&old), (!inserts).then_some(&set[..]), &written);
        let all: Vec<AttNum> = self.table.columns.iter().map(|column| column.attnum).collect();
        verdict::parents(builder, &only(new, &written), Some((&old, &all)), None)?;
        verdict::children(builder, &only(&found, &deleted), None)?;
        verdict::children(builder, &only(&found, &updated), Some((new, &set)))?;

        let touched = |index: &UniqueIndex| index_touched(index, &set);
        builder.locks_where(&inserted, &Output::Lock, new, true, |_| true);
        builder.locks_where(&deleted, &Output::Lock, &found, true, |_| true);
        builder.locks_where(&updated, &Output::Lock, &found, true, touched);
        builder.locks_where(&updated, &Output::Lock, new, false, touched);
        builder.existence_locks(&only(&found, &deleted), None);
        builder.existence_locks(&only(&found, &updated), Some(&set));
        builder.parent_locks(&only(new, &inserted), None)?;
        builder.parent_locks(&only(new, &updated), Some(&set))
    }

    fn action(&self) -> String {
        let mut updates = 0;
        let mut case = format!("CASE {WHEN}");
        for (place, when) in self.whens.iter().enumerate() {
            let action = match when.then {
                Then::Update { .. } => {
                    updates += 1;
                    format!("u{}", updates - 1)
                }
                Then::Insert => "i".into(),
                Then::Delete => "d".into(),
                Then::Nothing => "n".into(),
            };
            case.push_str(&format!(" WHEN {place} THEN '{action}'"));
        }
        case + " ELSE 'n' END"
    }
}

impl When {
    fn assigned(&self) -> Vec<AttNum> {
        match &self.then {
            Then::Update { assigned } => assigned.clone(),
            Then::Insert | Then::Delete | Then::Nothing => Vec::new(),
        }
    }
}

/// The value of every column of an inserted row.
fn inserted<'b>(
    builder: &mut Builder<'b>,
    table: &Table,
    node: &SyntaxNode,
) -> Result<Vec<(&'b Column, Template)>, Report> {
    let row = child(node, K::VALUES).and_then(|values| child(&values, K::ROW_LIST));
    let items: Vec<SyntaxNode> =
        row.and_then(|list| child(&list, K::ROW)).iter().flat_map(SyntaxNode::children).collect();
    let given: Vec<&Column> = match child(node, K::COLUMN_TARGET_LIST) {
        Some(targets) => {
            let targets = targets.children().filter(|target| target.kind() == K::COLUMN_TARGET);
            targets.map(|target| column(builder, &target)).collect::<Result<_, _>>()?
        }
        None => builder.table.columns.iter().take(items.len()).collect(),
    };
    // `VALUES (s.*)` stands for several columns.
    if items.iter().any(|item| item.text().to_string().trim_end().ends_with('*')) {
        return Err(unknown("VALUES with *").hint("Name the columns."));
    }
    builder.assigned.extend(given.iter().map(|column| column.attnum));
    let own_ids = child(node, K::OVERRIDING_USER_VALUE).is_some();
    let mut values = Vec::new();
    for place in (0..table.columns.len()).filter(|&place| !table.columns[place].generated) {
        let column = &builder.table.columns[place];
        let item = given.iter().position(|given| given.attnum == column.attnum).and_then(|place| items.get(place));
        let item = item.filter(|item| !(has_token(item, K::DEFAULT_KW) || own_ids && column.identity.is_some()));
        let expression = match item {
            Some(item) => builder.cut(range(item)),
            None => builder.default_of(column, true)?,
        };
        values.push((column, expression));
    }
    Ok(values)
}
