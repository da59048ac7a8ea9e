//! A small table and drafts upon it, for the tests of this module.

use std::collections::HashMap;
use std::sync::Arc;

use uuid::Uuid;

use super::Draft;
use crate::catalog::{AttNum, Catalog, Column, RelationKind, Table, TableId};
use crate::entry::{Effect, Entry, EntryColumn, EntryTable, FORMAT, Seq, TableName};
use crate::overlay::{Change, RowId};

/// `public.numbers(number integer primary key, note text)`
pub(super) const BY_NUMBER: TableId = TableId(16384);

fn name() -> TableName {
    TableName { schema: "public".into(), name: "numbers".into() }
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
        collates_by_default: false,
    }
}

pub(super) fn catalog() -> Catalog {
    let table = Table {
        id: BY_NUMBER,
        name: name(),
        kind: RelationKind::Table,
        columns: vec![column(1, "number"), column(2, "note")],
        key: vec![AttNum(1)],
        checks: Vec::new(),
        unique: Vec::new(),
        exclusions: Vec::new(),
        references: Vec::new(),
        referenced_by: Vec::new(),
        row_security: false,
        has_triggers: false,
        parents: Vec::new(),
        root: BY_NUMBER,
        kin: None,
        family: Vec::new(),
        partition: None,
        partition_key: None,
        policies: Vec::new(),
        children: Vec::new(),
        view: None,
        security_invoker: false,
        fingerprint: 1,
    };
    Catalog {
        by_name: HashMap::from([(name(), BY_NUMBER)]),
        relations: HashMap::from([(BY_NUMBER, Arc::new(table))]),
        ..Catalog::default()
    }
}

/// A transaction that inserts this number.
pub(super) fn draft(number: u32) -> Draft {
    let row = vec![Some(number.to_string().into()), Some("note".into())];
    let entry = Entry {
        format: FORMAT,
        seq: Seq::ZERO,
        uuid: Uuid::now_v7(),
        database: "observatory".into(),
        role: "observer".into(),
        application_name: "psql".into(),
        created_at: "2026-11-21T22:00:00.000000Z".into(),
        statements: vec![format!("INSERT INTO numbers VALUES ({number}, 'note')")],
        tables: vec![EntryTable {
            name: name(),
            columns: ["number", "note"]
                .map(|name| EntryColumn { name: name.into(), type_name: "text".into(), shape: None })
                .into(),
            via: None,
            key: vec![0],
            fingerprint: 1,
            origin: None,
        }],
        effects: vec![Effect::Insert { table: 0, row: row.clone() }],
        actions: Vec::new(),
        retry_of: None,
    };
    let key = RowId::Key(Arc::new([number.to_string().into()]));
    let values = vec![(AttNum(1), row[0].clone()), (AttNum(2), row[1].clone())];
    Draft { entry, changes: vec![(BY_NUMBER, Change::Insert { row: key, values })] }
}
