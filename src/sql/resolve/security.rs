//! Row security: the policies of a table as a condition upon its pending rows.
//! <https://www.postgresql.org/docs/15/ddl-rowsecurity.html>
//!
//! Which policies apply depends on the session's role, its memberships and its settings at the time of execution, so the
//! condition asks Postgres for them.

use std::collections::HashSet;
use std::sync::Arc;

use squawk_syntax::SyntaxKind as K;

use super::super::syntax::{child, range};
use super::super::template::{Security, Template};
use super::super::{Report, parse};
use super::{Names, Text};
use crate::catalog::{AttNum, Catalog, Policy, PolicyCommand, Table, TableId};
use crate::sqlstate::FEATURE_NOT_SUPPORTED;

/// Policies within policies that are followed: a table whose policies read the table itself has none that Postgres
/// would apply.
const POLICY_DEPTH_MAX: usize = 4;

/// Which rows of the table a command sees. `None`: the table has no row security, or the text is within too many policies.
pub(in super::super) fn of(
    table: &Arc<Table>,
    command: PolicyCommand,
    names: Names<'_>,
) -> Result<Option<Security>, Report> {
    if !table.row_security || names.policies >= POLICY_DEPTH_MAX {
        return Ok(None);
    }
    let mut commands = vec![command];
    if matches!(command, PolicyCommand::Update | PolicyCommand::Delete) {
        // Rows that are changed are read as well.
        commands.push(PolicyCommand::Select);
    }
    let applied: Vec<String> =
        commands.into_iter().map(|command| condition(table, command, |policy| policy.using.as_deref())).collect();
    let (condition, opaque) = template(table, &unless_exempt(table, &applied.join(" AND ")), names)?;
    let columns = mentioned(table, &applied.join(" AND "));
    Ok(Some(Security { command, condition, columns, opaque }))
}

/// The table's columns that the policies' text may mean; by words, so rather too many.
fn mentioned(table: &Table, policies: &str) -> Vec<AttNum> {
    let whole = policies.contains(".*");
    let is_word = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
    let words: HashSet<&str> = policies.split(|c: char| !is_word(c)).collect();
    let meant = |name: &str| whole || words.contains(name) || !name.chars().all(is_word);
    table.columns.iter().filter(|column| meant(&column.name)).map(|column| column.attnum).collect()
}

/// The tables with row security that a write of this one is about: itself, and those of its foreign keys, in which
/// Postgres sees all rows and an evaluation would not.
pub(in super::super) fn about(target: &Table, catalog: &Catalog) -> Vec<TableId> {
    let members = || std::iter::once(target).chain(target.family.iter().map(|table| &**table));
    let referenced = members().flat_map(|member| member.references.iter().map(|key| key.referenced));
    let referring = members().flat_map(|member| member.referenced_by.iter().map(|key| key.table));
    let found = std::iter::once(target.id).chain(referenced).chain(referring);
    found.filter(|id| catalog.relations.get(id).is_some_and(|table| table.row_security)).collect()
}

/// True for roles that row security does not apply to.
pub(in super::super) fn unless_exempt(table: &Table, condition: &str) -> String {
    format!("(NOT pg_catalog.row_security_active({}::pg_catalog.oid) OR ({condition}))", table.id.0)
}

/// The policies for one command: any of the permissive and all of the restrictive ones.
fn condition<'p>(table: &'p Table, command: PolicyCommand, of: impl Fn(&'p Policy) -> Option<&'p str>) -> String {
    let (mut any, mut all) = (Vec::new(), Vec::new());
    for policy in table.policies.iter().filter(|policy| [command, PolicyCommand::All].contains(&policy.command)) {
        let Some(expression) = of(policy) else { continue };
        match (policy.permissive, role(policy)) {
            (true, None) => any.push(format!("({expression})")),
            (true, Some(role)) => any.push(format!("({role} AND ({expression}))")),
            (false, None) => all.push(format!("({expression})")),
            (false, Some(role)) => all.push(format!("(NOT {role} OR ({expression}))")),
        }
    }
    let any = if any.is_empty() { "false".to_owned() } else { any.join(" OR ") };
    std::iter::once(format!("({any})")).chain(all).collect::<Vec<_>>().join(" AND ")
}

/// The condition that the session's role is one of the policy's; `None`: it is everybody's.
pub(in super::super) fn role(policy: &Policy) -> Option<String> {
    if policy.roles.contains(&0) {
        return None;
    }
    let member = |role: &u32| format!("pg_catalog.pg_has_role(current_user, {role}::pg_catalog.oid, 'USAGE')");
    Some(format!("({})", policy.roles.iter().map(member).collect::<Vec<_>>().join(" OR ")))
}

/// An expression over the table's columns as a template, and a function in it that may read tables behind our back.
pub(in super::super) fn template(
    table: &Table,
    expression: &str,
    names: Names<'_>,
) -> Result<(Template, Option<String>), Report> {
    let text = format!("SELECT {expression}");
    let names = Names { search_path: &[], policies: names.policies + 1, ..names };
    let read = parse::with_tree(&text, |root| {
        let source = Text::read(&text, root, names, 0)?;
        let targets = root.descendants().find(|node| node.kind() == K::SELECT_CLAUSE);
        let place = targets.and_then(|clause| child(&clause, K::TARGET_LIST)).map_or(0..0, |list| range(&list));
        Ok((source.cut(place), source.findings))
    });
    let (template, findings) = read.map_err(|error| {
        Report::new(FEATURE_NOT_SUPPORTED, format!("a policy of table \"{}\" is not understood", table.name.name))
            .detail(error.reason)
    })??;
    let system = findings.system_column.or(findings.unclear_row);
    Ok((template, findings.opaque.into_iter().next().or(system)))
}
