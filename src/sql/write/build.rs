//! What all writes have in common: the parts of the SELECT, and its hidden outputs.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use squawk_syntax::{SyntaxKind as K, SyntaxNode};

use super::super::Report;
use super::super::merge::list;
use super::super::resolve::{Findings, Names, Text};
use super::super::slice;
use super::super::syntax::{child, quoted, range};
use super::super::template::Template;
use super::hashes::{self, existence, key_sets};
use super::own;
use super::windows::{Window, over_all_rows};
use super::{Conflict, Output};
use crate::catalog::{AttNum, Column, IndexItem, Table, UniqueIndex};

pub(super) type Make = fn(&Request<'_>, bool) -> Result<Built, Report>;

/// A statement to be rewritten.
#[derive(Clone, Copy)]
pub(super) struct Request<'a> {
    pub(super) statement: &'a SyntaxNode,
    pub(super) source: &'a Text<'a>,
    pub(super) target: &'a Arc<Table>,
    pub(super) names: Names<'a>,
    /// The ledger value within the query's own snapshot, as SQL.
    pub(super) gate: &'a str,
    /// Other writes of the same statement are evaluated beside it.
    pub(super) part: bool,
}

/// The rewritten statement.
pub(super) struct Built {
    pub(super) template: Template,
    pub(super) outputs: Vec<Output>,
    pub(super) findings: Findings,
    /// The columns that the statement assigns to.
    pub(super) assigned: Vec<AttNum>,
    /// The columns that each SET changes.
    pub(super) sets: Vec<Vec<AttNum>>,
    pub(super) computed: Vec<own::Computed>,
    /// The columns that are assigned to in rows that are there, by a statement that inserts as well.
    pub(super) updated: Vec<AttNum>,
    pub(super) conflict: Option<Conflict>,
    /// What a MERGE may do.
    pub(super) verbs: Vec<&'static str>,
}

/// The SELECT under construction.
pub(super) struct Builder<'a> {
    pub(super) request: Request<'a>,
    pub(super) table: &'a Arc<Table>,
    /// The name by which the client's expressions know the target.
    pub(super) alias: String,
    /// `ONLY`
    pub(super) only: bool,
    /// The table that has a row, or will have it, as SQL.
    pub(super) member: String,
    pub(super) canonical: bool,
    pub(super) findings: Findings,
    pub(super) outputs: Vec<Output>,
    select: Template,
    pub(super) from: Template,
    condition: Template,
    /// The columns that the statement assigns to.
    pub(super) assigned: Vec<AttNum>,
    pub(super) sets: Vec<Vec<AttNum>>,
    /// Columns of an UPDATE, or of ON CONFLICT DO UPDATE, that are computed from the row's own.
    pub(super) computed: Vec<own::Computed>,
    /// How many constants there are in these.
    pub(super) constants: usize,
    pub(super) updated: Vec<AttNum>,
    pub(super) conflict: Option<Conflict>,
    /// What a MERGE may do.
    pub(super) verbs: Vec<&'static str>,
    /// Set when the statement can have several rows that must not take the same unique value: their order.
    pub(super) row_order: Option<String>,
    windows: Vec<Window>,
}

/// A condition that is true, and keeps a lateral subselect from being memoized: its volatile expressions would be evaluated
/// once for all rows that are alike. It depends on a value that Postgres cannot hash.
pub(super) const AFRESH: &str = "\"pgoutpost.p\".\"pgoutpost.p\" IS NULL";

/// An expression for each column of a row.
pub(super) type Row = Vec<(AttNum, String)>;

impl<'a> Builder<'a> {
    pub(super) fn new(request: &Request<'a>, canonical: bool) -> Builder<'a> {
        let alias = slice::alias_of(request.statement).unwrap_or_else(|| request.target.name.name.to_string());
        Builder {
            request: *request,
            table: request.target,
            alias,
            only: child(request.statement, K::RELATION_NAME)
                .is_some_and(|name| super::super::syntax::has_token(&name, K::ONLY_KW)),
            member: format!("{}::pg_catalog.oid", request.target.id.0),
            canonical,
            findings: request.source.findings.clone(),
            outputs: Vec::new(),
            select: Template::default(),
            from: Template::default(),
            condition: Template::default(),
            assigned: Vec::new(),
            sets: Vec::new(),
            computed: Vec::new(),
            constants: 0,
            updated: Vec::new(),
            conflict: None,
            verbs: Vec::new(),
            row_order: None,
            windows: Vec::new(),
        }
    }

    /// A part of the client's text, with relations to be merged.
    pub(super) fn cut(&self, range: Range<usize>) -> Template {
        self.request.source.cut(range)
    }

    /// A hidden output from a template.
    pub(super) fn output(&mut self, output: Output, expression: &Template) {
        if !self.outputs.is_empty() {
            self.select.push(", ");
        }
        self.select.append(expression);
        self.outputs.push(output);
    }

    /// Adds what is known only when all rows of the statement are.
    pub(super) fn window(&mut self, window: Window) {
        if self.row_order.is_some() {
            self.windows.push(window);
        }
    }

    /// A column's value as canonical text.
    pub(super) fn value(&mut self, output: Output, column: &Column, expression: &str) {
        let expression = anywhere(column, expression);
        let text = match self.canonical || !depends_on_settings(column) {
            true => expression.into_owned(),
            false => format!("pgoutpost.canonical_text({expression})"),
        };
        self.output(output, &Template::text(text));
    }

    /// A column's value as canonical text, of type `text`.
    pub(super) fn text_of(&self, column: &Column, expression: &str) -> String {
        let expression = anywhere(column, expression);
        match self.canonical || !depends_on_settings(column) {
            true => format!("pg_catalog.concat({expression})"),
            false => format!("pgoutpost.canonical_text({expression})"),
        }
    }

    /// Adds `WHERE`.
    pub(super) fn condition(&mut self, condition: &Template) {
        self.condition.push(" WHERE (").append(condition).push(")");
    }

    /// Adds a condition on the new row.
    pub(super) fn filter(&mut self, row: &Row, filter: &Template) {
        let mut condition = Template::text("(SELECT ");
        condition.append(filter).push(&format!(" FROM {})", self.scope(row, &self.alias)));
        self.condition(&condition);
    }

    /// Adds [`AFRESH`]'s column to FROM.
    pub(super) fn afresh(&mut self) {
        if !self.from.pieces.is_empty() {
            self.from.push(", ");
        }
        self.from.push("(SELECT NULL::pg_catalog.point AS \"pgoutpost.p\" OFFSET 0) AS \"pgoutpost.p\"");
    }

    /// Adds a lateral subselect to FROM.
    pub(super) fn lateral(&mut self, subselect: &Template, alias: &str) {
        self.from.push(", LATERAL (").append(subselect).push(&format!(") AS {}", quoted(alias)));
    }

    /// Adds a lateral subselect to FROM whose row may be missing.
    pub(super) fn left_lateral(&mut self, subselect: &Template, alias: &str) {
        self.from.push(" LEFT JOIN LATERAL (").append(subselect).push(&format!(") AS {} ON true", quoted(alias)));
    }

    /// Adds the generated columns to the row, computed from it where `condition` holds.
    pub(super) fn generate(&mut self, row: &mut Row, alias: &str, condition: &str) {
        let generated: Vec<&Column> = self.table.columns.iter().filter(|column| column.generated).collect();
        if generated.is_empty() {
            return;
        }
        row.retain(|(attnum, _)| !generated.iter().any(|column| column.attnum == *attnum));
        let items = list(generated.iter().map(|column| {
            let expression = column.default.as_deref().unwrap_or("NULL");
            format!("({expression})::{} AS {}", column.full_type_name, hidden("g", column.attnum))
        }));
        let scope = self.scope(row, "t");
        match condition {
            "" => self.lateral(&Template::text(format!("SELECT {items} FROM {scope}")), alias),
            _ => {
                let items = format!("SELECT {items} FROM {scope} WHERE {condition} OFFSET 0");
                self.left_lateral(&Template::text(items), alias);
            }
        }
        for column in generated {
            row.push((column.attnum, format!("{}.{}", quoted(alias), hidden("g", column.attnum))));
        }
    }

    /// The row as a subselect under its columns' own names: what expressions over the table see.
    pub(super) fn scope(&self, row: &Row, alias: &str) -> String {
        self.scope_with(row, alias, None)
    }

    fn scope_with(&self, row: &Row, alias: &str, tableoid: Option<String>) -> String {
        let of = |column: &Column| Some(format!("{} AS {}", value_of(row, column.attnum)?, quoted(&column.name)));
        let items = self.table.columns.iter().filter_map(of).chain(tableoid);
        format!("(SELECT {}) AS {}", list(items), quoted(alias))
    }

    /// An expression over the table's columns, for this row.
    pub(super) fn over(&self, row: &Row, expression: &str) -> String {
        format!("(SELECT {expression} FROM {})", self.scope(row, "t"))
    }

    /// The values of an index's items for this row.
    pub(super) fn items(&self, index: &UniqueIndex, row: &Row) -> Vec<String> {
        let items = index.items.iter();
        items
            .map(|item| match item {
                IndexItem::Column(attnum) => value_of(row, *attnum).unwrap_or("NULL").to_owned(),
                IndexItem::Expression { text, .. } => self.over(row, &format!("({text})")),
            })
            .collect()
    }

    /// Locks for a row's key and its unique values, `only`: of indexes that pass.
    pub(super) fn locks(&mut self, row: &Row, with_key: bool, only: impl Fn(&UniqueIndex) -> bool) {
        self.locks_where("true", &Output::Lock, row, with_key, only);
    }

    /// The same for rows for which a condition holds.
    pub(super) fn locks_where(
        &mut self,
        condition: &str,
        output: &Output,
        row: &Row,
        with_key: bool,
        only: impl Fn(&UniqueIndex) -> bool,
    ) {
        let guarded = |hash: String| match condition {
            "true" => Template::text(hash),
            _ => Template::text(format!("CASE WHEN {condition} THEN {hash} END")),
        };
        let table = self.table;
        let salt = |index: &UniqueIndex| i64::from(index.root) << 8;
        let is_key = |index: &UniqueIndex| index.predicate.is_none() && hashes::by_key(table, &index.items);
        if with_key && !table.key.is_empty() {
            let values = table.key.iter().filter_map(|key| value_of(row, *key)).map(str::to_owned).collect();
            self.output(output.clone(), &guarded(hashes::row(table, values)));
        }
        for index in &table.unique {
            if !only(index) || (with_key && is_key(index)) {
                continue;
            }
            let items = self.items(index, row);
            // NULLs are distinct: they stand in nobody's way.
            let present = format!("pg_catalog.num_nulls({}) = 0", list(items.clone()));
            let mut hash = hashes::of_items(table, index, items, salt(index));
            if !index.nulls_not_distinct {
                hash = format!("CASE WHEN {present} THEN {hash} END");
            }
            self.output(output.clone(), &guarded(hash));
        }
        for exclusion in table.exclusions.iter().filter(|exclusion| only(&exclusion.index)) {
            // Whatever the operators compare: who writes waits for all others.
            let hash = 0x6578_636c_0000_0000 | i64::from(exclusion.index.root);
            let applies = super::unique::applies(self, &exclusion.index, row);
            let hash = format!("CASE WHEN {applies} THEN {hash}::pg_catalog.int8 END");
            self.output(output.clone(), &guarded(hash));
        }
    }

    /// Locks on the existence of the parents that the row refers to: shared, as any number of rows may refer to one.
    pub(super) fn parent_locks(&mut self, row: &Row, set: Option<&[AttNum]>) -> Result<(), Report> {
        let table = Arc::clone(self.table);
        for key in &table.references {
            if set.is_some_and(|set| !key.columns.iter().any(|column| set.contains(column))) {
                continue;
            }
            let parent = super::verdict::partner(self, key.referenced)?;
            let values = key.columns.iter().map(|column| value_of(row, *column).unwrap_or("NULL"));
            let lock = existence(&parent, &key.referenced_columns, &values.collect::<Vec<_>>());
            self.output(Output::SharedLock, &Template::text(lock));
        }
        Ok(())
    }

    /// Locks on the existence of the row as a parent, when it goes away or changes what others may refer to.
    pub(super) fn existence_locks(&mut self, row: &Row, set: Option<&[AttNum]>) {
        let table = Arc::clone(self.table);
        for columns in key_sets(&table) {
            if set.is_none_or(|set| columns.iter().any(|column| set.contains(column))) {
                let values: Vec<_> = columns.iter().map(|column| value_of(row, *column).unwrap_or("NULL")).collect();
                let lock = existence(&table, &columns, &values);
                self.output(Output::Lock, &Template::text(lock));
            }
        }
    }

    /// Adds RETURNING, its scope a row under the target's name.
    pub(super) fn returning(&mut self, row: &Row) {
        let Some(clause) = child(self.request.statement, K::RETURNING_CLAUSE) else { return };
        let Some(targets) = child(&clause, K::TARGET_LIST) else { return };
        let mut subselect = Template::text("SELECT ");
        let mut place = range(&targets).start;
        for target in targets.children().filter(|target| target.kind() == K::TARGET) {
            if super::super::syntax::has_token(&target, K::STAR) {
                let star = range(&target);
                subselect.append(&self.cut(place..star.start)).push(&self.star());
                place = star.end;
            }
        }
        subselect.append(&self.cut(place..range(&targets).end));
        subselect.push(" FROM ").push(&self.scope_with(row, &self.alias, super::tree::tableoid(self)));
        subselect.push(&format!(" WHERE {AFRESH}"));
        self.afresh();
        self.lateral(&subselect, "pgoutpost.r");
        self.select.push(", \"pgoutpost.r\".*");
    }

    /// What `*` means in RETURNING: the target's columns, then those of the FROM items.
    fn star(&self) -> String {
        let own = super::tree::all_columns(self);
        let items = self.request.statement.children().filter(|c| matches!(c.kind(), K::FROM_CLAUSE | K::USING_CLAUSE));
        let others = items.flat_map(|clause| clause.descendants().collect::<Vec<_>>()).filter_map(|item| {
            let from_item = matches!(
                item.kind(),
                K::RELATION_FROM_ITEM | K::PAREN_FROM_ITEM | K::FUNCTION_FROM_ITEM | K::ROWS_FROM_ITEM
            );
            let outermost = item.ancestors().skip(1).take_while(|above| above != self.request.statement).all(|above| {
                matches!(
                    above.kind(),
                    K::FROM_CLAUSE | K::USING_CLAUSE | K::JOIN | K::JOIN_EXPR | K::PAREN_EXPR | K::PAREN_FROM_ITEM
                )
            });
            if !from_item || !outermost {
                return None;
            }
            let name = slice::alias_of(&item).or_else(|| {
                let path = super::super::syntax::path_of(&child(&item, K::RELATION_NAME_REF)?)?;
                path.last().cloned()
            });
            name.map(|name| format!("{}.*", quoted(&name)))
        });
        std::iter::once(own).chain(others).collect::<Vec<_>>().join(", ")
    }

    /// The client's leading WITH.
    fn with(&self) -> Template {
        match child(self.request.statement, K::WITH_CLAUSE) {
            Some(with) => {
                let mut template = self.cut(range(&with));
                template.push(" ");
                template
            }
            None => Template::default(),
        }
    }

    pub(super) fn finish(mut self) -> Built {
        // In WHERE, so that a stale catalog is noticed (PO002) even when no row is found.
        self.condition.push(if self.condition.pieces.is_empty() { " WHERE " } else { " AND " });
        self.condition.push(self.request.gate).push(" >= 0");
        let mut template = self.with();
        let (around, outputs) = match &self.row_order {
            Some(order) => over_all_rows(&self.windows, order, self.outputs),
            None => (None, self.outputs),
        };
        let (before, inner, after) = around.unwrap_or_default();
        template.push(&before).push("SELECT ").push(&inner).append(&self.select);
        template.push(" FROM ").append(&self.from).append(&self.condition).push(&after);
        Built {
            template,
            outputs,
            findings: self.findings,
            assigned: self.assigned,
            sets: self.sets,
            computed: self.computed,
            updated: self.updated,
            conflict: self.conflict,
            verbs: self.verbs,
        }
    }
}

/// `"pgoutpost.n3"`: a column name that no table has.
pub(super) fn hidden(kind: &str, attnum: AttNum) -> String {
    format!("\"pgoutpost.{kind}{}\"", attnum.0)
}

/// The expression for a column of a row.
pub(super) fn value_of(row: &Row, attnum: AttNum) -> Option<&str> {
    row.iter().find(|(known, _)| *known == attnum).map(|(_, expression)| expression.as_str())
}

/// A value of a `reg…` type as it is read under every search path: by its number, or, since a cast from `text` to
/// `regclass` takes names only, by its qualified name.
fn anywhere<'e>(column: &Column, expression: &'e str) -> Cow<'e, str> {
    const REGCLASS: u32 = 2205;
    /// <https://www.postgresql.org/docs/15/datatype-oid.html>, and the arrays of all.
    const NAMED: [u32; 10] = [24, 2202, 2203, 2204, 2206, 3734, 3769, 4089, 4096, 4191];
    const ARRAYS: [u32; 11] = [1008, 2207, 2208, 2209, 2210, 2211, 3735, 3770, 4090, 4097, 4192];
    match column.base_type_oid {
        REGCLASS => Cow::Owned(format!(
            "(SELECT coalesce((SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) FROM pg_catalog.pg_class c \
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = k.v), k.v::pg_catalog.text) \
             FROM (SELECT ({expression})::pg_catalog.oid) AS k(v))"
        )),
        of if NAMED.contains(&of) => Cow::Owned(format!("({expression})::pg_catalog.oid")),
        of if ARRAYS.contains(&of) => Cow::Owned(format!("({expression})::pg_catalog.oid[]")),
        _ => Cow::Borrowed(expression),
    }
}

/// Whether the text of the type's values depends on settings of the session.
fn depends_on_settings(column: &Column) -> bool {
    const NEVER: [u32; 17] = [16, 18, 19, 20, 21, 23, 25, 26, 114, 829, 869, 1042, 1043, 1560, 1562, 1700, 2950];
    column.is_array || column.is_composite || !NEVER.contains(&column.base_type_oid)
}
