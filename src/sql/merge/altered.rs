//! Pending rows that were made for another definition of their table: what they hold now.
//!
//! They are shown as main will have them when replay has brought them there. What only main can tell is refused.

use std::collections::HashSet;

use squawk_syntax::{SyntaxKind as K, SyntaxNode};

use super::super::syntax::{has_token, literal, quoted};
use super::super::{Report, View, parse};
use super::branches::collated;
use super::{Row, Target, list};
use crate::catalog::{AttNum, Column, RelationKind, Table};
use crate::entry::{Lost, Terms, keeps_text};
use crate::overlay::Made;
use crate::sqlstate::FEATURE_NOT_SUPPORTED;

/// Definitions that pending rows were made for and that are not the present ones; mostly none.
pub(super) struct Altered<'a>(Vec<(&'a Table, &'a Made)>);

impl<'a> Altered<'a> {
    pub(super) fn of(target: Target<'a>, view: View<'a>) -> Altered<'a> {
        let made = target.members().flat_map(|member| view.made(member.id).map(move |made| (member, made)));
        Altered(made.filter(|(member, made)| !made.definition.is_of(member)).collect())
    }

    /// Whether all were made for the present one.
    pub(super) fn is_none(&self) -> bool {
        self.0.is_empty()
    }

    /// Refuses rows that cannot be told apart by the table's present key.
    pub(super) fn keys(&self) -> Result<(), Report> {
        for (member, made) in &self.0 {
            let same_text = |part: &AttNum| {
                let both = made.definition.column(*part).zip(member.attribute(*part));
                both.is_some_and(|(then, now)| match (&then.shape, &now.shape) {
                    (Some(_), Some(_)) => then.typed().stands_in(now.typed(), Terms::NUMBERS),
                    _ => keeps_text(&then.type_name, &now.full_type_name),
                })
            };
            if made.definition.key != member.key || !member.key.iter().all(same_text) {
                let name = &member.name.name;
                return Err(refused(format!("table \"{name}\" has pending rows from before its key was changed")));
            }
        }
        Ok(())
    }

    /// Whether the column is computed anew: it may not have been then what it is now.
    pub(super) fn computes(&self, column: &Column) -> bool {
        column.generated && !self.0.is_empty()
    }

    /// Who may read only some columns may not have those that others are computed from.
    pub(super) fn refuse_unread(&self, target: Target<'_>, unread: &[AttNum]) -> Result<(), Report> {
        match target.table.columns.iter().find(|column| self.computes(column) && !unread.is_empty()) {
            Some(column) => Err(added_since(target.table, column)),
            None => Ok(()),
        }
    }

    /// Refuses values of rows whose column has become one of another type.
    pub(super) fn check<'r>(
        &self,
        rows: impl Iterator<Item = &'r Row<'r>>,
        place: usize,
        column: &Column,
    ) -> Result<(), Report> {
        if self.0.is_empty() {
            return Ok(());
        }
        for row in rows {
            let number = row.number(place, column);
            let Some((seq, text)) = row.state.column(number).and_then(|pending| Some((pending.seq, pending.value?)))
            else {
                continue;
            };
            for then in self.made(row, seq).filter_map(|made| made.definition.column(number)) {
                let what = match then.typed().text_in(column.typed(), Terms::NUMBERS, Lost::Refused, text) {
                    Ok(now) if now == text => continue,
                    Ok(_) => "is of a type that was altered since".to_owned(),
                    Err(what) => what,
                };
                let (table, column) = (&row.member.name.name, &column.name);
                return Err(refused(format!("table \"{table}\" has pending rows of which column \"{column}\" {what}")));
            }
        }
        Ok(())
    }

    /// What rows that were inserted without this column have in it, as SQL; `None`: NULL.
    pub(super) fn added<'r>(
        &self,
        target: Target<'_>,
        column: &Column,
        rows: impl Iterator<Item = &'r Row<'r>>,
    ) -> Result<Option<String>, Report> {
        let of_members = || target.members().filter_map(|member| Some((member.kind, member.column(&column.name)?)));
        // A partitioned table has no rows of its own.
        let filed = of_members().filter(|(kind, _)| *kind != RelationKind::Partitioned);
        let missing: HashSet<Option<&str>> = filed.map(|(_, column)| column.missing.as_deref()).collect();
        let value = if let [Some(missing)] = missing.iter().copied().collect::<Vec<_>>()[..] {
            Some(literal(missing))
        } else {
            // By the table that the client named, or the one that has the row.
            let defaults: HashSet<Option<&str>> = of_members().map(|(_, column)| column.default.as_deref()).collect();
            let default = column.default.as_deref();
            let known = missing.iter().all(Option::is_none)
                && defaults.len() == 1
                && column.identity.is_none()
                && default.is_none_or(is_constant);
            if !known || (default.is_none() && column.not_null) {
                return Err(added_since(target.table, column));
            }
            default.map(|default| format!("({default})"))
        };
        for row in rows {
            let seq = row.state.existence.map(|(_, seq)| seq).unwrap_or_default();
            // A row that came from another key has what the row of that key had.
            if self.made(row, seq).any(|made| made.rekeys) {
                return Err(added_since(target.table, column));
            }
        }
        Ok(value.map(|value| format!("{value}::{}", column.full_type_name)))
    }

    /// The branch with its generated columns.
    pub(super) fn compute(&self, target: Target<'_>, branch: String, with_oid: bool) -> String {
        let columns = &target.table.columns;
        if !columns.iter().any(|column| self.computes(column)) {
            return branch;
        }
        let hidden =
            || ["\"pgoutpost.p\"".to_owned()].into_iter().chain(with_oid.then(|| "\"pgoutpost.o\"".to_owned()));
        let names = hidden().chain(columns.iter().map(|column| quoted(&column.name)));
        let values = hidden().chain(columns.iter().map(|column| match &column.default {
            Some(expression) if self.computes(column) => {
                collated(column, format!("({expression})::{}", column.full_type_name))
            }
            _ => quoted(&column.name),
        }));
        let alias = quoted(&target.table.name.name);
        format!("SELECT {} FROM ({branch}) AS {alias}({})", list(values), list(names))
    }

    /// What an entry's effects upon the table of this row may have been made for.
    fn made(&self, row: &Row<'_>, seq: crate::entry::Seq) -> impl Iterator<Item = &'a Made> {
        let member = row.member.id;
        let its = self.0.iter().filter(move |(table, made)| table.id == member && made.covers(seq));
        its.map(|(_, made)| *made)
    }
}

/// Only main knows what a row will hold in a column that was added after the row was written.
fn added_since(table: &Table, column: &Column) -> Report {
    let name = &table.name.name;
    refused(format!("table \"{name}\" has pending rows from before column \"{}\" was added", column.name))
}

fn refused(message: String) -> Report {
    Report::new(FEATURE_NOT_SUPPORTED, message)
        .hint("Wait until the pending rows have been replicated, or put aside: SHOW LAG and SHOW QUARANTINE in the console tell.")
}

/// Whether a default, as Postgres prints it, is the same value whenever and wherever it is evaluated.
fn is_constant(default: &str) -> bool {
    let text = format!("SELECT {default}");
    let read = parse::with_tree(&text, |root| {
        root.descendants()
            .find(|node| node.kind() == K::TARGET)
            .and_then(|target| target.first_child())
            .is_some_and(|it| constant(&it))
    });
    read.unwrap_or(false)
}

fn constant(node: &SyntaxNode) -> bool {
    match node.kind() {
        K::LITERAL => !has_token(node, K::POSITIONAL_PARAM),
        K::PAREN_EXPR => node.children().all(|inner| constant(&inner)),
        K::PREFIX_EXPR => has_token(node, K::MINUS) && node.children().all(|inner| constant(&inner)),
        K::ARRAY_EXPR => node.children().all(|inner| constant(&inner)),
        // Of a literal only, which Postgres has read when the default was made: `'today'::text::date` is read each time.
        K::CAST_EXPR => node.first_child().is_some_and(|inner| inner.kind() != K::CAST_EXPR && plain(&inner)),
        _ => false,
    }
}

fn plain(node: &SyntaxNode) -> bool {
    match node.kind() {
        K::PAREN_EXPR => node.first_child().is_some_and(|inner| inner.kind() != K::CAST_EXPR && plain(&inner)),
        _ => constant(node),
    }
}

#[cfg(test)]
mod tests {
    use super::is_constant;

    #[test]
    fn constants_are_told_from_what_is_evaluated() {
        for default in [
            "7",
            "1.5",
            "'-1'::integer",
            "(-1)",
            "true",
            "NULL::character varying",
            "'it''s'::character varying",
            "'2026-01-02 03:04:05+00'::timestamp with time zone",
            "'{1,2}'::integer[]",
            "ARRAY[1, 2]",
            "ARRAY[]::text[]",
            "ARRAY['a'::text, 'b'::text]",
            "'sad'::public.mood",
            "'{}'::jsonb",
        ] {
            assert!(is_constant(default), "{default}");
        }
        for default in [
            "now()",
            "CURRENT_TIMESTAMP",
            "CURRENT_USER",
            "nextval('public.t_c_seq'::regclass)",
            "('today'::text)::date",
            "('today'::text::date)",
            "'today'::text::date",
            "(random() * (10)::double precision)",
            "ARRAY[now()]",
            "('x'::text || 'y'::text)",
            "gen_random_uuid()",
        ] {
            assert!(!is_constant(default), "{default}");
        }
    }
}
