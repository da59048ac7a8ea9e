//! The simulated tables as the daemon knows them, and effects upon them.

use std::collections::HashMap;
use std::sync::Arc;

use pgoutpost::catalog::{AttNum, Catalog, Column, RelationKind, Table, TableId};
use pgoutpost::entry::{Effect, Entry, EntryColumn, EntryTable, FORMAT, Origin, Seq, TableName};
use uuid::Uuid;

use crate::main_db::{COLUMNS, TABLES};

/// The first table's; the others follow.
pub const FIRST: u32 = 16384;
/// The system identifier of main and replica.
pub const CLUSTER: u64 = 7_000_000_000_000_000_001;

pub fn id(table: usize) -> TableId {
    TableId(FIRST + table as u32)
}

fn name(table: usize) -> TableName {
    TableName { schema: "public".into(), name: TABLES[table].into() }
}

pub fn catalog() -> Catalog {
    let tables = (0..TABLES.len()).map(table);
    let relations: HashMap<TableId, Arc<Table>> = tables.map(|table| (table.id, Arc::new(table))).collect();
    let by_name = relations.values().map(|table| (table.name.clone(), table.id)).collect();
    Catalog { version: 1, cluster: Some(CLUSTER), by_name, relations, ..Catalog::default() }
}

fn table(place: usize) -> Table {
    let columns = COLUMNS.iter().zip(1..).map(|(name, attnum)| column(attnum, name));
    Table {
        id: id(place),
        name: name(place),
        kind: RelationKind::Table,
        columns: columns.collect(),
        key: vec![AttNum(1)],
        checks: Vec::new(),
        unique: Vec::new(),
        exclusions: Vec::new(),
        references: Vec::new(),
        referenced_by: Vec::new(),
        row_security: false,
        has_triggers: false,
        parents: Vec::new(),
        root: id(place),
        kin: None,
        family: Vec::new(),
        partition: None,
        partition_key: None,
        policies: Vec::new(),
        children: Vec::new(),
        view: None,
        security_invoker: false,
        fingerprint: 1,
    }
}

fn column(attnum: i16, name: &str) -> Column {
    Column {
        attnum: AttNum(attnum),
        name: name.into(),
        type_oid: 25,
        typmod: -1,
        type_name: "text".into(),
        full_type_name: "text".into(),
        shape: None,
        base_type_oid: 25,
        base_typmod: -1,
        base_type_name: "text".into(),
        is_domain: false,
        is_composite: false,
        is_enum: false,
        is_array: false,
        has_text_cast: false,
        not_null: false,
        default: None,
        generated: false,
        missing: None,
        identity: None,
        sequence: None,
        collation: None,
        collates_by_default: true,
    }
}

/// A transaction with these effects.
pub fn entry(uuid: Uuid, role: &str, created_at: String, effects: Vec<Effect>) -> Entry {
    let columns = || COLUMNS.map(|name| EntryColumn { name: name.into(), type_name: "text".into(), shape: None });
    let described = |table| EntryTable {
        name: name(table),
        columns: columns().into(),
        via: None,
        key: vec![0],
        fingerprint: 1,
        origin: Some(Origin { cluster: CLUSTER, table: id(table).0, attnums: Vec::new() }),
    };
    Entry {
        format: FORMAT,
        seq: Seq::ZERO,
        uuid,
        database: "observatory".into(),
        role: role.into(),
        application_name: "simulation".into(),
        created_at,
        statements: Vec::new(),
        tables: (0..TABLES.len()).map(described).collect(),
        effects,
        actions: Vec::new(),
        retry_of: None,
    }
}
