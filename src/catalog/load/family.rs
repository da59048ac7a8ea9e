//! Tables and what stands below them. Pure.

use std::collections::HashMap;
use std::sync::Arc;

use crate::catalog::{Table, TableId};

/// The tables as they are shared: each with everything below it.
pub(super) fn shared(tables: HashMap<u32, Table>) -> HashMap<TableId, Arc<Table>> {
    let mut open: HashMap<TableId, Table> = tables.into_values().map(|table| (table.id, table)).collect();
    let mut done = HashMap::with_capacity(open.len());
    let ids: Vec<TableId> = open.keys().copied().collect();
    roots(&mut open);
    kin(&mut open);
    for id in ids {
        finish(id, &mut open, &mut done);
    }
    done
}

/// Says of each partition which partitioned table is at the top.
fn roots(tables: &mut HashMap<TableId, Table>) {
    let above: HashMap<TableId, TableId> = tables
        .values()
        .filter(|table| table.partition.is_some())
        .filter_map(|table| Some((table.id, *table.parents.first()?)))
        .collect();
    for table in tables.values_mut() {
        while let Some(parent) = above.get(&table.root) {
            table.root = *parent;
        }
    }
}

/// Says of each table of plain inheritance which is the first of all that are related to it.
fn kin(tables: &mut HashMap<TableId, Table>) {
    let is_plain = |table: &&Table| table.partition.is_none() && !table.parents.is_empty();
    let links: Vec<(TableId, TableId)> = tables
        .values()
        .filter(is_plain)
        .flat_map(|table| table.parents.iter().map(|parent| (table.id, *parent)))
        .collect();
    let mut first: HashMap<TableId, TableId> =
        links.iter().flat_map(|&(one, other)| [(one, one), (other, other)]).collect();
    loop {
        let mut changed = false;
        for (one, other) in &links {
            let least = first[one].min(first[other]);
            for member in [one, other] {
                changed |= first.insert(*member, least) != Some(least);
            }
        }
        if !changed {
            break;
        }
    }
    for (id, least) in first {
        if let Some(table) = tables.get_mut(&id) {
            table.kin = Some(least);
        }
    }
}

fn finish(id: TableId, open: &mut HashMap<TableId, Table>, done: &mut HashMap<TableId, Arc<Table>>) {
    let Some(mut table) = open.remove(&id) else { return };
    for child in table.children.clone() {
        finish(child, open, done);
        let Some(child) = done.get(&child) else { continue };
        for below in std::iter::once(child).chain(&child.family) {
            if !table.family.iter().any(|known| known.id == below.id) {
                table.family.push(Arc::clone(below));
            }
        }
    }
    done.insert(id, Arc::new(table));
}
