use super::*;
use crate::catalog::{Column, RelationKind};
use crate::entry::TableName;

fn table() -> Table {
    let column = |attnum, name: &str| Column {
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
    };
    Table {
        id: TableId(1),
        name: TableName { schema: "public".into(), name: "t".into() },
        kind: RelationKind::Table,
        columns: vec![column(1, "id"), column(3, "v")],
        key: vec![AttNum(1)],
        checks: vec![],
        unique: vec![],
        exclusions: Vec::new(),
        references: vec![],
        referenced_by: vec![],
        row_security: false,
        has_triggers: false,
        parents: vec![],
        root: TableId(1),
        kin: None,
        family: vec![],
        partition: None,
        partition_key: None,
        policies: vec![],
        children: vec![],
        view: None,
        security_invoker: false,
        fingerprint: 0,
    }
}

fn value(text: &str) -> Value {
    Some(text.into())
}

fn insert(id: &str) -> Outcome {
    Outcome::Insert { row: vec![value(id), value("x")] }
}

fn key(id: &str) -> RowId {
    RowId::Key([Arc::from(id)].into())
}

#[test]
fn rolling_back_to_a_savepoint_undoes_only_what_came_after() {
    let (table, mut transaction) = (table(), Transaction::default());
    transaction.begin(None, None);
    transaction.work.add(&table, None, insert("1")).unwrap();
    transaction.save("s", 1);
    transaction.work.add(&table, None, insert("2")).unwrap();
    transaction.save("inner", 2);
    transaction.phase = Phase::Failed;
    assert_eq!(transaction.roll_back_to("s"), Some(1));
    assert_eq!(transaction.phase, Phase::Open);
    assert_eq!(transaction.work.effects.len(), 1);
    assert!(transaction.work.own.row(table.id, &key("1")).is_some());
    assert!(transaction.work.own.row(table.id, &key("2")).is_none());
    assert_eq!(transaction.roll_back_to("inner"), None);
    assert_eq!(transaction.roll_back_to("s"), Some(1), "the savepoint itself stays");
}

#[test]
fn releasing_a_savepoint_keeps_its_work() {
    let (table, mut transaction) = (table(), Transaction::default());
    transaction.save("s", 0);
    transaction.work.add(&table, None, insert("1")).unwrap();
    transaction.release("s");
    assert_eq!((transaction.savepoints.len(), transaction.work.effects.len()), (0, 1));
}

#[test]
fn a_new_key_is_a_delete_and_an_insert() {
    let (table, mut work) = (table(), Work::default());
    let row = Some(vec![value("2"), value("x")]);
    let (set, old) = (vec![(AttNum(1), value("2"))], vec![(AttNum(1), value("1"))]);
    work.add(&table, None, Outcome::Update { key: vec![value("1")], set, old, row, own: Vec::new() }).unwrap();
    let Change::Defined { definition, rekeys: false } = &work.changes[0].1 else { panic!() };
    assert!(definition.is_of(&table));
    assert_eq!(work.changes[1].1, Change::Delete { row: key("1") });
    assert_eq!(work.changes[2].1.row(), Some(&key("2")));
    assert_eq!(work.changes[3].1, Change::Defined { definition: Arc::clone(definition), rekeys: true });
    assert_eq!(work.effects.len(), 1);
}

#[test]
fn columns_are_numbered_by_place_in_entries_and_by_attnum_in_the_overlay() {
    let (table, mut work) = (table(), Work::default());
    let (set, old) = (vec![(AttNum(3), value("y"))], vec![(AttNum(3), value("x"))]);
    work.add(&table, None, Outcome::Update { key: vec![value("1")], set, old, row: None, own: Vec::new() }).unwrap();
    let Effect::Update { set, .. } = &work.effects[0] else { panic!() };
    assert_eq!(set, &[(1, value("y"))]);
    assert!(work.own.row(table.id, &key("1")).unwrap().column(AttNum(3)).is_some());
}

#[test]
fn a_chained_transaction_keeps_its_kind_and_nothing_else() {
    let mut transaction = Transaction::default();
    transaction.begin(Some(Isolation::RepeatableRead), Some(true));
    transaction.save("s", 0);
    transaction.end(true);
    assert_eq!((transaction.phase, transaction.read_only), (Phase::Open, Some(true)));
    assert!(transaction.savepoints.is_empty());
    transaction.end(false);
    assert_eq!((transaction.phase, transaction.isolation), (Phase::Idle, None));
}

#[test]
fn rows_from_before_and_after_a_change_of_the_definition_are_described_apart() {
    let (before, mut after) = (table(), table());
    let mut added = after.columns[1].clone();
    (added.attnum, added.name) = (AttNum(4), "w".into());
    after.columns.push(added);
    after.fingerprint = 1;
    let mut work = Work::default();
    work.add(&before, None, insert("1")).unwrap();
    work.add(&after, None, Outcome::Insert { row: vec![value("2"), value("x"), value("y")] }).unwrap();
    let widths: Vec<usize> = work.effects.iter().map(|effect| work.tables[effect.table()].columns.len()).collect();
    assert_eq!(widths, [2, 3]);
}
