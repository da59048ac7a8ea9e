//! In which order main gets the effects of parts: it judges foreign keys at the end of each statement of replay, where
//! the client's own had one end for all parts.

use std::collections::HashSet;

use super::super::{Report, WriteKind, WritePlan};
use super::unsupported;
use crate::catalog::{Catalog, ForeignKey, Table, TableId};

/// The places of the parts in an order in which each of them leaves no foreign key broken, if they do together; one that
/// deletes rows comes after those that take others away from them, so that its referential actions find none.
///
/// # Errors
/// 0A000 when two parts write one table, and when there is no such order.
pub(super) fn order(parts: &[WritePlan], catalog: &Catalog) -> Result<Vec<usize>, Report> {
    let trees: Vec<HashSet<TableId>> = parts.iter().map(|part| tree(&part.target, catalog)).collect();
    for (place, tree) in trees.iter().enumerate() {
        if trees[..place].iter().any(|other| !other.is_disjoint(tree)) {
            let message = format!("two parts of a statement that write \"{}\"", parts[place].target.name.name);
            return Err(unsupported(&format!("{message} cannot be buffered")));
        }
    }
    let mut edges = HashSet::new();
    for (child, part) in parts.iter().enumerate() {
        let reached = reached(&trees[child], catalog);
        for (parent, other) in parts.iter().enumerate().filter(|&(parent, _)| parent != child) {
            let keys: Vec<&ForeignKey> =
                reached.iter().filter(|key| trees[parent].contains(&key.referenced)).copied().collect();
            if keys.is_empty() {
                continue;
            }
            if child_first(part, other, &keys)? {
                edges.insert((child, parent));
            } else {
                edges.insert((parent, child));
            }
        }
    }
    sorted(parts.len(), &edges)
        .ok_or_else(|| unsupported("parts of a statement whose foreign keys go round in a circle cannot be buffered"))
}

/// Whether the part that writes rows which refer to others comes before the one that writes those.
fn child_first(child: &WritePlan, parent: &WritePlan, keys: &[&ForeignKey]) -> Result<bool, Report> {
    let moves = keys.iter().any(|key| parent.updates(&key.referenced_columns));
    match (child.kind, parent.kind) {
        (WriteKind::Merge, _) | (_, WriteKind::Merge) => {}
        _ if child.is_upsert() || (parent.is_upsert() && moves) => {}
        (WriteKind::Delete, _) | (_, WriteKind::Delete) => return Ok(true),
        (_, WriteKind::Insert) => return Ok(false),
        (_, WriteKind::Update) if !moves => return Ok(false),
        _ => {}
    }
    let (child, parent) = (&child.target.name.name, &parent.target.name.name);
    Err(unsupported(&format!(
        "parts of a statement that write \"{parent}\" and \"{child}\", which refers to it, cannot be buffered in this form"
    )))
}

/// The table, and all that have rows of it or whose rows it has.
fn tree(table: &Table, catalog: &Catalog) -> HashSet<TableId> {
    let mut found: HashSet<TableId> = table.family.iter().map(|below| below.id).collect();
    let mut above = vec![table.id];
    while let Some(id) = above.pop() {
        if found.insert(id) {
            above.extend(catalog.relations.get(&id).iter().flat_map(|table| &table.parents));
        }
    }
    found
}

/// The foreign keys by which rows of these tables refer to others, over any number of tables between.
fn reached<'c>(tables: &HashSet<TableId>, catalog: &'c Catalog) -> Vec<&'c ForeignKey> {
    let mut seen: HashSet<TableId> = tables.clone();
    let mut open: Vec<TableId> = tables.iter().copied().collect();
    let mut keys = Vec::new();
    while let Some(id) = open.pop() {
        for key in catalog.relations.get(&id).iter().flat_map(|table| &table.references) {
            keys.push(key);
            if seen.insert(key.referenced) {
                open.push(key.referenced);
            }
        }
    }
    keys
}

/// The places so that the first of each edge comes before its second; else as they are.
fn sorted(count: usize, edges: &HashSet<(usize, usize)>) -> Option<Vec<usize>> {
    let mut rest: Vec<usize> = (0..count).collect();
    let mut order = Vec::with_capacity(count);
    while !rest.is_empty() {
        let free = |place: &usize| !rest.iter().any(|other| edges.contains(&(*other, *place)));
        let next = rest.iter().position(free)?;
        order.push(rest.remove(next));
    }
    Some(order)
}

#[cfg(test)]
mod tests {
    use super::sorted;

    #[test]
    fn what_has_to_come_first_does() {
        assert_eq!(sorted(3, &[].into()), Some(vec![0, 1, 2]));
        assert_eq!(sorted(3, &[(2, 0), (1, 2)].into()), Some(vec![1, 2, 0]));
        assert_eq!(sorted(2, &[(1, 0), (0, 1)].into()), None);
    }
}
