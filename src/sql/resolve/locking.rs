//! `FOR UPDATE | NO KEY UPDATE | SHARE | KEY SHARE`: a standby takes no row locks, so the query yields the hashes of
//! the rows it returns, and the session takes the site's locks on them.
//!
//! A statement's own rows carry the hashes in columns after the client's. A sub-select notes those of the rows that it
//! has returned in a setting ([`LOCKED`]). Rows that others have locked are skipped within the query (`SKIP LOCKED`), so a
//! LIMIT counts what is left.
//! <https://www.postgresql.org/docs/15/explicit-locking.html#LOCKING-ROWS>

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use squawk_syntax::{SyntaxKind as K, SyntaxNode};

use super::super::merge::key_columns;
use super::super::syntax::{child, dotted, name_of, path_of, quoted, range, token};
use super::super::template::Piece;
use super::super::truncate::table_lock;
use super::super::write::hashes;
use super::super::{Lock, Report, classify, slice};
use super::scope::is_cte;
use super::{Names, Text};
use crate::catalog::{RelationKind, Table};
use crate::sqlstate::FEATURE_NOT_SUPPORTED;

/// The setting that holds what sub-selects have locked: `place:number:hash`, separated by commas.
pub const LOCKED: &str = "pgoutpost.locked";

/// How strong a lock is, weakest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Strength {
    KeyShare,
    Share,
    NoKeyUpdate,
    Update,
}

/// What to do about a row that another session has locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Patience {
    Wait,
    Skip,
    NoWait,
}

/// A relation whose rows are locked.
#[derive(Debug, Clone)]
pub struct LockedRelation {
    pub table: Arc<Table>,
    pub strength: Strength,
    pub patience: Patience,
    /// Its hashes are columns of the statement's own rows.
    pub own: bool,
    /// For each hash whether the lock is shared.
    pub shared: Vec<bool>,
}

impl Strength {
    fn of(clause: &SyntaxNode) -> Option<Strength> {
        clause.children().find_map(|inner| match inner.kind() {
            K::FOR_UPDATE => Some(Strength::Update),
            K::FOR_NO_KEY_UPDATE => Some(Strength::NoKeyUpdate),
            K::FOR_SHARE => Some(Strength::Share),
            K::FOR_KEY_SHARE => Some(Strength::KeyShare),
            _ => None,
        })
    }

    /// As the clause is written.
    pub fn words(self) -> &'static str {
        match self {
            Strength::Update => "FOR UPDATE",
            Strength::NoKeyUpdate => "FOR NO KEY UPDATE",
            Strength::Share => "FOR SHARE",
            Strength::KeyShare => "FOR KEY SHARE",
        }
    }
}

fn refuse(what: &str) -> Report {
    Report::new(FEATURE_NOT_SUPPORTED, format!("{what} cannot be locked at the site"))
        .hint("Lock ordinary tables with a key, named in the FROM of the query itself.")
}

impl Text<'_> {
    /// Rewrites a SELECT with locking clauses.
    pub(super) fn locking(&mut self, select: &SyntaxNode, names: Names<'_>) -> Result<(), Report> {
        let clauses: Vec<SyntaxNode> = select.children().filter(|inner| inner.kind() == K::LOCKING_CLAUSE).collect();
        if clauses.is_empty() {
            return Ok(());
        }
        if select.kind() != K::SELECT {
            return Err(refuse("the rows of a query in parentheses"));
        }
        let own = select.parent().is_none_or(|above| matches!(above.kind(), K::SOURCE_FILE | K::EXPLAIN));
        let items = locked_items(select, &clauses, names)?;
        let mut hidden = Vec::new();
        let mut skipped: Vec<Piece> = Vec::new();
        for item in items {
            let (shared, hashes): (Vec<bool>, Vec<String>) = hashes_of(&item).into_iter().unzip();
            if item.patience == Patience::Skip {
                for (shared, hash) in shared.iter().zip(&hashes) {
                    skipped.push(Piece::Text(format!("coalesce({hash} <> ALL (")));
                    skipped.push(Piece::Busy { shared: *shared });
                    skipped.push(Piece::Text("), true) AND ".into()));
                }
            }
            hidden.push((self.findings.locking.len(), hashes));
            self.findings.locking.push(LockedRelation {
                table: item.table,
                strength: item.strength,
                patience: item.patience,
                own,
                shared,
            });
        }
        for clause in &clauses {
            self.edits.push((range(clause), vec![Piece::Text(" ".into())]));
        }
        self.skip(select, skipped);
        if own {
            let columns: Vec<String> = hidden.into_iter().flat_map(|(_, hashes)| hashes).collect();
            self.add_columns(select, &columns);
            return Ok(());
        }
        self.note(select, &hidden, names)
    }

    /// Columns after the client's own.
    fn add_columns(&mut self, select: &SyntaxNode, columns: &[String]) {
        let Some(clause) = child(select, K::SELECT_CLAUSE) else { return };
        let comma = if child(&clause, K::TARGET_LIST).is_some() { ", " } else { "" };
        let end = child(&clause, K::TARGET_LIST).map_or(range(&clause).end, |list| range(&list).end);
        if !columns.is_empty() {
            self.edits.push((end..end, vec![Piece::Text(format!("\n{comma}{}", columns.join(", ")))]));
        }
    }

    /// Leaves out what others have locked.
    fn skip(&mut self, select: &SyntaxNode, mut conditions: Vec<Piece>) {
        if conditions.is_empty() {
            return;
        }
        match child(select, K::WHERE_CLAUSE) {
            Some(clause) => {
                let Some(word) = token(&clause, K::WHERE_KW) else { return };
                let (start, end) = (word.text_range().end().into(), range(&clause).end);
                conditions.insert(0, Piece::Text(" ".into()));
                conditions.push(Piece::Text("(".into()));
                self.edits.push((start..start, conditions));
                self.edits.push((end..end, vec![Piece::Text("\n)".into())]));
            }
            None => {
                let Some(from) = child(select, K::FROM_CLAUSE) else { return };
                let end = range(&from).end;
                conditions.insert(0, Piece::Text("\nWHERE ".into()));
                conditions.push(Piece::Text("true ".into()));
                self.edits.push((end..end, conditions));
            }
        }
    }

    /// A sub-select that notes what it has returned.
    fn note(&mut self, select: &SyntaxNode, hidden: &[(usize, Vec<String>)], names: Names<'_>) -> Result<(), Report> {
        let columns = output_names(select, names).ok_or_else(|| refuse("the rows of such a sub-select"))?;
        let notes = hidden.iter().flat_map(|(place, hashes)| {
            hashes.iter().enumerate().map(move |(number, hash)| format!("'{place}:{number}:' || {hash}"))
        });
        self.add_columns(select, &[format!("pg_catalog.concat_ws(',', {})", notes.collect::<Vec<_>>().join(", "))]);
        let inner = |place: usize| format!("\"pgoutpost.c{place}\"");
        let shown = columns.iter().enumerate().map(|(place, name)| format!("{} AS {}", inner(place), quoted(name)));
        let given = (0..columns.len()).map(inner).chain(["\"pgoutpost.l\"".to_owned()]);
        let limited =
            select.children().any(|part| matches!(part.kind(), K::LIMIT_CLAUSE | K::OFFSET_CLAUSE | K::FETCH_CLAUSE));
        let before = format!("SELECT {} FROM (", shown.collect::<Vec<_>>().join(", "));
        // OFFSET keeps the planner from noting rows that the sub-select's own conditions leave out.
        let after = format!(
            "\n{}) AS \"pgoutpost.s\"({}) WHERE pg_catalog.set_config('{LOCKED}', \
             pg_catalog.concat_ws(',', nullif(pg_catalog.current_setting('{LOCKED}'), ''), \"pgoutpost.l\"), true) IS NOT NULL",
            if limited { "" } else { "OFFSET 0" },
            given.collect::<Vec<_>>().join(", ")
        );
        let place = range(select);
        self.edits.push((place.start..place.start, vec![Piece::Text(before)]));
        self.edits.push((place.end..place.end, vec![Piece::Text(after)]));
        Ok(())
    }
}

/// The locks on what an execution has returned, each with the place of its relation. `visible`: how many columns are the
/// client's; `noted`: what [`LOCKED`] held after it.
pub fn row_locks(
    locking: &[LockedRelation],
    rows: &[Vec<Option<Bytes>>],
    visible: usize,
    noted: Option<&str>,
) -> Vec<(usize, Lock)> {
    let columns = locking.iter().enumerate().filter(|(_, relation)| relation.own);
    let columns: Vec<(usize, bool)> =
        columns.flat_map(|(place, relation)| relation.shared.iter().map(move |shared| (place, *shared))).collect();
    let mut found = Vec::new();
    for row in rows {
        for ((place, shared), value) in columns.iter().zip(row.iter().skip(visible)) {
            let text = value.as_ref().and_then(|value| std::str::from_utf8(value).ok());
            if let Some(hash) = text.and_then(|text| text.parse::<i64>().ok()) {
                found.push((*place, Lock { hash: hash as u64, shared: *shared }));
            }
        }
    }
    for note in noted.unwrap_or_default().split(',') {
        let mut parts = note.split(':').map(str::parse::<i64>);
        if let (Some(Ok(place)), Some(Ok(number)), Some(Ok(hash))) = (parts.next(), parts.next(), parts.next())
            && let Some(relation) = locking.get(place as usize)
            && let Some(shared) = relation.shared.get(number as usize)
        {
            found.push((place as usize, Lock { hash: hash as u64, shared: *shared }));
        }
    }
    // Not truncated meanwhile, either.
    let tables: BTreeSet<usize> = found.iter().map(|(place, _)| *place).collect();
    found.extend(tables.into_iter().map(|place| (place, table_lock(locking[place].table.id, true))));
    found
}

/// An item of FROM that is to be locked.
struct Item {
    table: Arc<Table>,
    visible: String,
    strength: Strength,
    patience: Patience,
}

fn locked_items(select: &SyntaxNode, clauses: &[SyntaxNode], names: Names<'_>) -> Result<Vec<Item>, Report> {
    let mut found = Vec::new();
    let level = |item: &SyntaxNode| item.ancestors().skip(1).find(|above| classify::is_select(above.kind()));
    let from = child(select, K::FROM_CLAUSE);
    let items = from
        .iter()
        .flat_map(SyntaxNode::descendants)
        .filter(|item| matches!(item.kind(), K::RELATION_FROM_ITEM | K::PAREN_FROM_ITEM));
    for item in items.filter(|item| level(item).as_ref() == Some(select)) {
        let visible = slice::alias_of(&item).or_else(|| {
            let path = path_of(&child(&item, K::RELATION_NAME_REF)?)?;
            path.last().cloned()
        });
        let mut lock: Option<(Strength, Patience)> = None;
        for clause in clauses {
            let named = child(clause, K::LOCKING_OF).map(|of| of.children().filter_map(|name| dotted(&name)).collect());
            let applies = named.is_none_or(|named: Vec<Vec<String>>| {
                named.iter().any(|path| path.last().is_some() && path.last() == visible.as_ref())
            });
            let Some(strength) = Strength::of(clause).filter(|_| applies) else { continue };
            let has = |kind| clause.descendants().any(|inner| inner.kind() == kind);
            let patience = match (has(K::NOWAIT), has(K::SKIP_LOCKED)) {
                (true, _) => Patience::NoWait,
                (_, true) => Patience::Skip,
                _ => Patience::Wait,
            };
            lock = Some(lock.map_or((strength, patience), |(s, p)| (s.max(strength), p.max(patience))));
        }
        let Some((strength, patience)) = lock else { continue };
        match item.kind() {
            K::RELATION_FROM_ITEM => {}
            K::PAREN_FROM_ITEM if item.descendants().any(|inner| classify::is_select(inner.kind())) => {
                return Err(refuse("a sub-select in FROM"));
            }
            _ => continue,
        }
        let Some(path) = child(&item, K::RELATION_NAME_REF).and_then(|name| path_of(&name)) else { continue };
        if let [name] = path.as_slice()
            && is_cte(&item, name)
        {
            continue;
        }
        // What is not known here Postgres refuses, or it is a system table.
        let Some(table) = names.relation(&path) else { continue };
        if table.kind != RelationKind::Table || !table.children.is_empty() || table.key.is_empty() || table.row_security
        {
            return Err(refuse(&format!("rows of \"{}\"", table.name.name)));
        }
        if nullable(&item, select) {
            let message = format!("{} cannot be applied to the nullable side of an outer join", strength.words());
            return Err(Report::new(FEATURE_NOT_SUPPORTED, message));
        }
        let visible = visible.unwrap_or_default();
        found.push(Item { table: Arc::clone(table), visible, strength, patience });
    }
    Ok(found)
}

/// Anything that stands in FROM.
fn from_item(kind: K) -> bool {
    matches!(
        kind,
        K::RELATION_FROM_ITEM
            | K::PAREN_FROM_ITEM
            | K::FUNCTION_FROM_ITEM
            | K::ROWS_FROM_ITEM
            | K::EXPR_FROM_ITEM
            | K::XML_TABLE_FROM_ITEM
            | K::JSON_TABLE_FROM_ITEM
            | K::GRAPH_TABLE_FROM_ITEM
    )
}

/// Whether an outer join can put NULLs in place of the item.
fn nullable(item: &SyntaxNode, select: &SyntaxNode) -> bool {
    let mut below = item.clone();
    for above in item.ancestors().skip(1).take_while(|above| above != select) {
        let join = match above.kind() {
            // The right side is within the join itself, the left one beside it.
            K::JOIN => Some((above.clone(), true)),
            K::JOIN_EXPR => child(&above, K::JOIN).filter(|join| *join != below).map(|join| (join, false)),
            _ => None,
        };
        if let Some((join, right)) = join {
            let has = |word| join.descendants_with_tokens().take(12).any(|part| part.kind() == word);
            if has(K::FULL_KW) || (right && has(K::LEFT_KW)) || (!right && has(K::RIGHT_KW)) {
                return true;
            }
        }
        below = above;
    }
    false
}

/// What has to be locked for a row, each with whether it is shared: the row itself, against writers; its keys, against
/// who would take them away.
fn hashes_of(item: &Item) -> Vec<(bool, String)> {
    let table = &item.table;
    let value = |name: &str| format!("{}.{}", quoted(&item.visible), quoted(name));
    let row = || {
        let values = key_columns(table).into_iter().map(|column| value(&column.name)).collect();
        hashes::row(table, values)
    };
    let keys = |shared: bool| {
        let sets = hashes::key_sets(table).into_iter();
        let of = |columns: Vec<_>| {
            let values: Vec<String> = columns
                .iter()
                .map(|column| table.attribute(*column).map_or_else(|| "NULL".to_owned(), |column| value(&column.name)))
                .collect();
            let values: Vec<&str> = values.iter().map(String::as_str).collect();
            (shared, hashes::existence(table, &columns, &values))
        };
        sets.map(of).collect::<Vec<_>>()
    };
    match item.strength {
        Strength::Update => std::iter::once((false, row())).chain(keys(false)).collect(),
        Strength::NoKeyUpdate => vec![(false, row())],
        Strength::Share => vec![(true, row())],
        Strength::KeyShare => keys(true),
    }
}

/// The names of a query's columns; `None`: not known here.
fn output_names(select: &SyntaxNode, names: Names<'_>) -> Option<Vec<String>> {
    let list = child(select, K::SELECT_CLAUSE).and_then(|clause| child(&clause, K::TARGET_LIST))?;
    let mut found = Vec::new();
    for target in list.children().filter(|target| target.kind() == K::TARGET) {
        if target.text().to_string().trim_end().ends_with('*') && child(&target, K::AS_NAME).is_none() {
            found.extend(of_star(&target, select, names)?);
            continue;
        }
        let given =
            child(&target, K::AS_NAME).and_then(|name| name.descendants().last()).and_then(|name| name_of(&name));
        found.push(given.or_else(|| column_name(&target.children().next()?)).unwrap_or_else(|| "?column?".into()));
    }
    Some(found)
}

fn column_name(expression: &SyntaxNode) -> Option<String> {
    match expression.kind() {
        K::CALL_EXPR | K::CAST_EXPR | K::PAREN_EXPR => column_name(&expression.children().next()?),
        _ => dotted(expression)?.pop(),
    }
}

/// `*`, `t.*`: the columns of tables that stand in FROM, one after the other.
fn of_star(target: &SyntaxNode, select: &SyntaxNode, names: Names<'_>) -> Option<Vec<String>> {
    let from = child(select, K::FROM_CLAUSE)?;
    let text = target.text().to_string();
    let of = text.trim().trim_end_matches('*').trim_end().trim_end_matches('.').trim().to_owned();
    let wanted = if of.is_empty() { None } else { Some(super::super::syntax::name_of_text(&of)?) };
    if from.descendants().any(|part| part.kind() == K::JOIN_USING_CLAUSE || classify::is_select(part.kind())) {
        return None;
    }
    let mut found = Vec::new();
    for item in from.descendants().filter(|item| from_item(item.kind())) {
        let path = child(&item, K::RELATION_NAME_REF).and_then(|name| path_of(&name))?;
        if matches!(path.as_slice(), [name] if is_cte(&item, name)) {
            return None;
        }
        let table = names.relation(&path)?;
        let visible = slice::alias_of(&item).unwrap_or_else(|| table.name.name.to_string());
        if wanted.as_ref().is_none_or(|wanted| *wanted == visible) {
            found.extend(table.columns.iter().map(|column| column.name.to_string()));
        }
    }
    Some(found)
}
