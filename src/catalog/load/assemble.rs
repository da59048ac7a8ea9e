//! Puts the rows of the queries together. Pure.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::family;
use super::rows::{ColumnRow, ConstraintRow, IndexRow, IndirectRow, PolicyRow, RelationRow, Rows};
use crate::catalog::{
    AttNum, Catalog, Check, Column, Exclusion, ForeignKey, Identity, IndexItem, IndirectCall, OpaqueFunction,
    Partition, PartitionKey, Policy, PolicyCommand, ReferentialAction, RelationKind, SequenceId, Table, TableId,
    UniqueIndex,
};
use crate::entry::{Shape, TableName};

pub(super) fn assemble(version: i64, rows: Rows, shapes: &HashMap<u32, Arc<Shape>>) -> Catalog {
    let sequences = rows
        .relations
        .iter()
        .filter_map(|row| Some((row.sequence.as_deref()?.into(), SequenceId { oid: row.oid, file: row.file })));
    let sequences = sequences.collect();
    let mut tables: HashMap<u32, Table> = rows.relations.into_iter().filter_map(table).collect();
    for row in rows.columns {
        if let Some(table) = tables.get_mut(&row.relation) {
            let shape = shapes.get(&row.type_oid).cloned();
            table.columns.push(column(row, shape));
        }
    }
    for row in rows.indexes {
        if let Some(table) = tables.get_mut(&row.relation) {
            add_index(table, row);
        }
    }
    for row in rows.constraints {
        add_constraint(&mut tables, row);
    }
    for row in rows.policies {
        if let Some(table) = tables.get_mut(&row.relation) {
            table.policies.push(policy(row));
        }
    }
    for row in rows.parents {
        if let Some(child) = tables.get_mut(&row.child) {
            child.parents.push(TableId(row.parent));
        }
        if let Some(parent) = tables.get_mut(&row.parent) {
            parent.children.push(TableId(row.child));
        }
    }
    let names: HashMap<TableId, TableName> = tables.values().map(|table| (table.id, table.name.clone())).collect();
    for table in tables.values_mut() {
        // Postgres checks them in the order of their names, compared as bytes.
        table.checks.sort_by(|a, b| a.name.cmp(&b.name));
        table.fingerprint = fingerprint(table, &names);
    }
    let mut opaque_functions: HashMap<String, Vec<OpaqueFunction>> = HashMap::new();
    let mut volatile_functions = HashSet::new();
    for row in rows.functions {
        if row.volatile {
            volatile_functions.insert(row.name.clone());
        }
        if row.opaque {
            let function = OpaqueFunction { schema: row.schema, volatile: row.volatile };
            opaque_functions.entry(row.name).or_default().push(function);
        }
    }
    Catalog {
        version,
        sequences,
        by_name: names.into_iter().map(|(id, name)| (name, id)).collect(),
        relations: family::shared(tables),
        opaque_functions,
        volatile_functions,
        cluster: None,
        indirect_calls: rows.indirect.into_iter().map(indirect).collect(),
        overloaded: rows.overloaded.into_iter().map(|row| row.name).collect(),
    }
}

fn indirect(row: IndirectRow) -> IndirectCall {
    let IndirectRow { function, operator, implicit, assigned, names, types } = row;
    IndirectCall { function, operator, implicit, assigned, names, types }
}

fn table(row: RelationRow) -> Option<(u32, Table)> {
    let kind = match row.kind as u8 {
        b'r' => RelationKind::Table,
        b'p' => RelationKind::Partitioned,
        b'v' => RelationKind::View,
        b'm' => RelationKind::MaterializedView,
        b'f' => RelationKind::Foreign,
        b'S' => RelationKind::Sequence,
        _ => return None,
    };
    let table = Table {
        id: TableId(row.oid),
        name: TableName { schema: row.schema.into(), name: row.name.into() },
        kind,
        columns: Vec::new(),
        key: Vec::new(),
        checks: Vec::new(),
        unique: Vec::new(),
        exclusions: Vec::new(),
        references: Vec::new(),
        referenced_by: Vec::new(),
        row_security: row.row_security,
        has_triggers: row.has_triggers,
        parents: Vec::new(),
        children: Vec::new(),
        family: Vec::new(),
        root: TableId(row.oid),
        kin: None,
        partition: row.is_partition.then_some(Partition { constraint: row.partition_constraint }),
        partition_key: row.partition_columns.map(|columns| PartitionKey {
            columns: columns.into_iter().map(AttNum).collect(),
            expressions: row.partition_expressions,
        }),
        policies: Vec::new(),
        view: row.view,
        security_invoker: row.security_invoker,
        fingerprint: 0,
    };
    Some((row.oid, table))
}

fn policy(row: PolicyRow) -> Policy {
    Policy {
        name: row.name,
        permissive: row.permissive,
        command: match row.command as u8 {
            b'r' => PolicyCommand::Select,
            b'a' => PolicyCommand::Insert,
            b'w' => PolicyCommand::Update,
            b'd' => PolicyCommand::Delete,
            _ => PolicyCommand::All,
        },
        roles: row.roles,
        using: row.using,
        check: row.check,
    }
}

fn column(row: ColumnRow, shape: Option<Arc<Shape>>) -> Column {
    let identity = match row.identity as u8 {
        b'a' => Some(Identity::Always),
        b'd' => Some(Identity::ByDefault),
        _ => None,
    };
    Column {
        attnum: AttNum(row.attnum),
        name: row.name.into(),
        type_oid: row.type_oid,
        typmod: row.typmod,
        type_name: row.type_name.into(),
        full_type_name: row.full_type_name.into(),
        shape,
        base_type_oid: row.base_type_oid,
        base_typmod: row.base_typmod,
        base_type_name: row.base_type_name.into(),
        is_domain: row.is_domain,
        is_composite: row.is_composite,
        is_enum: row.is_enum,
        is_array: row.is_array,
        has_text_cast: row.has_text_cast,
        not_null: row.not_null,
        default: row.expression,
        generated: row.generated,
        missing: row.missing.map(Into::into),
        identity,
        sequence: row.sequence.map(Into::into),
        collation: row.collation.map(Into::into),
        collates_by_default: row.collates_by_default,
    }
}

/// Adds an index; it becomes the table's key when it is the primary key, or the first that can stand in for one.
fn add_index(table: &mut Table, row: IndexRow) {
    let kinds = row.types.into_iter().zip(row.odd);
    let items = row.attnums.iter().zip(row.expressions).zip(kinds);
    let items: Vec<IndexItem> = items
        .map(|((&attnum, expression), (type_oid, is_odd))| match expression {
            Some(text) => IndexItem::Expression { text, type_oid, is_odd },
            None => IndexItem::Column(AttNum(attnum)),
        })
        .collect();
    let columns: Vec<AttNum> = row.attnums.iter().map(|&attnum| AttNum(attnum)).collect();
    let exclusion = row.exclusion;
    let operators = row.operators.clone().unwrap_or_default();
    let not_null = |attnum: &AttNum| table.attribute(*attnum).is_some_and(|column| column.not_null);
    let stands_in = row.valid && row.predicate.is_none() && !row.deferrable && columns.iter().all(not_null);
    // Rows are told apart by a key that holds at every moment, if there is one.
    let is_key = |index: &UniqueIndex| index.items.len() == table.key.len() && key_of(index) == table.key;
    let holds = !table.key.is_empty() && table.unique.iter().any(|index| !index.deferrable && is_key(index));
    if !exclusion
        && ((row.primary && !row.deferrable) || (stands_in && !holds) || (row.primary && table.key.is_empty()))
    {
        table.key = columns;
    }
    let index = UniqueIndex {
        name: row.name,
        root: row.root,
        items,
        shown: row.shown.join(", "),
        predicate: row.predicate,
        nulls_not_distinct: row.nulls_not_distinct,
        primary: row.primary,
        constraint: row.constraint,
        deferrable: row.deferrable,
        initially_deferred: row.initially_deferred,
    };
    match exclusion {
        true => table.exclusions.push(Exclusion { index, operators }),
        false => table.unique.push(index),
    }
}

fn key_of(index: &UniqueIndex) -> Vec<AttNum> {
    let column = |item: &IndexItem| match item {
        IndexItem::Column(attnum) => Some(*attnum),
        IndexItem::Expression { .. } => None,
    };
    index.items.iter().filter_map(column).collect()
}

fn add_constraint(tables: &mut HashMap<u32, Table>, row: ConstraintRow) {
    if row.kind as u8 == b'c' {
        if let (Some(table), Some(expression)) = (tables.get_mut(&row.relation), row.expression) {
            table.checks.push(Check { name: row.name, expression });
        }
        return;
    }
    let attnums = |columns: Option<Vec<i16>>| columns.unwrap_or_default().into_iter().map(AttNum).collect();
    let key = ForeignKey {
        name: row.name,
        table: TableId(row.relation),
        columns: attnums(row.columns),
        referenced: TableId(row.referenced),
        referenced_columns: attnums(row.referenced_columns),
        on_delete: action(row.on_delete),
        on_update: action(row.on_update),
        set_columns: attnums(row.set_columns),
        match_full: row.match_full,
        deferrable: row.deferrable,
        initially_deferred: row.initially_deferred,
    };
    // The one upon the partitioned table finds the rows of all partitions, and the one of the partitioned table stands for
    // those of its partitions. ALTER TABLE … DISABLE TRIGGER ALL leaves the constraint, and nobody who checks it.
    if !row.repeated
        && !row.parents_unchecked
        && let Some(referenced) = tables.get_mut(&row.referenced)
    {
        referenced.referenced_by.push(key.clone());
    }
    if !row.shadow
        && !row.children_unchecked
        && let Some(table) = tables.get_mut(&row.relation)
    {
        table.references.push(key);
    }
}

fn action(letter: i8) -> ReferentialAction {
    match letter as u8 {
        b'r' => ReferentialAction::Restrict,
        b'c' => ReferentialAction::Cascade,
        b'n' => ReferentialAction::SetNull,
        b'd' => ReferentialAction::SetDefault,
        _ => ReferentialAction::NoAction,
    }
}

/// A number that changes when the table's definition does, and is the same on every server that has this definition:
/// OIDs and attribute numbers stay out of it, names and Postgres' own text go in.
pub fn fingerprint(table: &Table, names: &HashMap<TableId, TableName>) -> u64 {
    let mut hash = Fnv::new();
    hash.text(&format!("{} {:?} {}", table.name, table.kind, table.row_security));
    let named = |attnums: &[AttNum]| -> Vec<String> {
        attnums.iter().map(|&n| table.attribute(n).map_or_else(String::new, |column| column.name.to_string())).collect()
    };
    for column in &table.columns {
        hash.text(&column.name);
        hash.text(&column.full_type_name);
        let Column { not_null, generated, identity, .. } = column;
        hash.text(&format!("{not_null} {generated} {identity:?}"));
        hash.option(column.default.as_deref());
        hash.option(column.collation.as_deref());
    }
    hash.text(&format!("key {:?}", named(&table.key)));
    for check in &table.checks {
        hash.text(&format!("check {:?} {:?}", check.name, check.expression));
    }
    for index in &table.unique {
        let items = index.items.iter().map(|item| match item {
            IndexItem::Column(attnum) => named(&[*attnum]).concat(),
            IndexItem::Expression { text, .. } => text.clone(),
        });
        let UniqueIndex { name, predicate, nulls_not_distinct, initially_deferred, deferrable, .. } = index;
        hash.text(&format!("unique {name:?} {predicate:?} {nulls_not_distinct} {deferrable} {initially_deferred}"));
        items.for_each(|item| hash.text(&item));
    }
    for Exclusion { index, operators } in &table.exclusions {
        let UniqueIndex { name, shown, predicate, initially_deferred, deferrable, .. } = index;
        hash.text(&format!("exclude {name:?} {shown:?} {operators:?} {predicate:?} {deferrable} {initially_deferred}"));
    }
    for key in &table.references {
        let ForeignKey { name, on_delete, on_update, match_full, deferrable, initially_deferred, .. } = key;
        hash.text(&format!("references {name:?} {:?}", names.get(&key.referenced)));
        hash.text(&format!("{:?} {}", named(&key.columns), key.referenced_columns.len()));
        hash.text(&format!("{on_delete:?} {on_update:?} {match_full} {deferrable} {initially_deferred}"));
        if !key.set_columns.is_empty() {
            hash.text(&format!("{:?}", named(&key.set_columns)));
        }
    }
    hash.option(table.view.as_deref());
    hash.0
}

/// FNV-1a, 64 bits: fixed for ever, unlike the standard library's hasher.
struct Fnv(u64);

impl Fnv {
    fn new() -> Fnv {
        Fnv(0xcbf2_9ce4_8422_2325)
    }

    fn bytes(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    /// A text and its length, so that two texts never run together.
    fn text(&mut self, text: &str) {
        self.bytes(&(text.len() as u64).to_le_bytes());
        self.bytes(text.as_bytes());
    }

    fn option(&mut self, text: Option<&str>) {
        self.bytes(&[u8::from(text.is_some())]);
        self.text(text.unwrap_or_default());
    }
}
