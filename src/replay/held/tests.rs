//! What is held after any decisions is what would be held if it were read anew; and it stays small.

use proptest::prelude::*;

use super::*;
use crate::entry::{Effect, EntryColumn, EntryTable, FORMAT, RetryOf, Value};
use crate::replay::steps::Reference;

fn name(name: &str) -> TableName {
    TableName { schema: "s".into(), name: name.into() }
}

/// `child.parent` refers to `parent.id`; `parent.code` is unique.
fn tables() -> Tables {
    let unique = |columns: &[&str]| columns.iter().map(|&column| vec![column.into()]).collect();
    let reference = Reference { columns: vec!["parent".into()], table: name("parent"), referenced: vec!["id".into()] };
    let parent = MainTable { unique: unique(&["id", "code"]), ..MainTable::default() };
    let child = MainTable { unique: unique(&["id"]), references: vec![reference], ..MainTable::default() };
    HashMap::from([(name("parent"), Arc::new(parent)), (name("child"), Arc::new(child))])
}

fn table(table: &str, columns: [&str; 2]) -> EntryTable {
    let column = |name: &str| EntryColumn { name: name.into(), type_name: "integer".into(), shape: None };
    EntryTable {
        name: name(table),
        columns: columns.map(column).into(),
        via: None,
        key: vec![0],
        fingerprint: 0,
        origin: None,
    }
}

fn entry(seq: u64, effects: Vec<Effect>) -> Entry {
    Entry {
        format: FORMAT,
        seq: Seq(seq),
        uuid: uuid::Uuid::nil(),
        database: String::new(),
        role: String::new(),
        application_name: String::new(),
        created_at: String::new(),
        statements: Vec::new(),
        tables: vec![table("parent", ["id", "code"]), table("child", ["id", "parent"])],
        effects,
        actions: Vec::new(),
        retry_of: None,
    }
}

fn value(number: u8) -> Value {
    Some(number.to_string().into())
}

const PARENT: usize = 0;
const CHILD: usize = 1;

fn effect() -> impl Strategy<Value = Effect> {
    let row = || (0..2_usize, 0..4_u8, 0..4_u8);
    prop_oneof![
        4 => row().prop_map(|(table, key, other)| Effect::Insert { table, row: vec![value(key), value(other)] }),
        4 => (row(), 0..4_u8).prop_map(|((table, key, old), new)| Effect::Update {
            table,
            key: vec![value(key)],
            set: vec![(1, value(new))],
            old: vec![(1, value(old))],
            row: None,
            own: Vec::new(),
        }),
        3 => row().prop_map(|(table, key, old)| Effect::Delete {
            table,
            key: vec![value(key)],
            old: vec![value(key), value(old)],
        }),
        1 => (0..2_usize).prop_map(|table| Effect::Truncate { table }),
    ]
}

/// A new entry goes into quarantine, or one that is there is sent again (and is rejected again, later), or given up.
#[derive(Debug, Clone)]
enum Event {
    Aside(Vec<Effect>),
    Retry(usize),
    RejectedAgain(usize),
    Skip(usize),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => prop::collection::vec(effect(), 1..3).prop_map(Event::Aside),
        2 => any::<usize>().prop_map(Event::Retry),
        2 => any::<usize>().prop_map(Event::RejectedAgain),
        2 => any::<usize>().prop_map(Event::Skip),
    ]
}

fn open(records: &BTreeMap<Seq, Quarantined>) -> BTreeMap<Seq, Aside> {
    let open = records.iter().filter(|(_, record)| record.fate.is_open());
    open.map(|(seq, record)| (*seq, record.aside())).collect()
}

proptest! {
    #[test]
    fn following_decisions_is_as_good_as_reading_anew(
        events in prop::collection::vec(event(), 1..25),
        asked in prop::collection::vec(prop::collection::vec(effect(), 1..3), 1..6),
    ) {
        let tables = tables();
        let (mut held, mut records, mut last) = (Held::default(), BTreeMap::new(), 0);
        for event in events {
            let some = |at: usize, records: &BTreeMap<Seq, Quarantined>, wanted: fn(Fate) -> bool| {
                let open: Vec<Seq> = records.values().filter(|one| wanted(one.fate)).map(|one| one.seq).collect();
                (!open.is_empty()).then(|| open[at % open.len()])
            };
            let put_aside = |entry: Entry, records: &mut BTreeMap<Seq, Quarantined>, held: &mut Held| {
                let record = Quarantined::new(Arc::new(entry), serde_json::Value::Null);
                held.add(&record, &tables);
                records.insert(record.seq, record);
            };
            last += 1;
            match event {
                Event::Aside(effects) => put_aside(entry(last, effects), &mut records, &mut held),
                Event::Skip(at) => {
                    if let Some(seq) = some(at, &records, |fate| fate == Fate::Waiting) {
                        records.get_mut(&seq).unwrap().fate = Fate::Skipped;
                    }
                }
                Event::Retry(at) => {
                    if let Some(seq) = some(at, &records, |fate| fate == Fate::Waiting) {
                        records.get_mut(&seq).unwrap().fate = Fate::Retrying { after: Seq(last - 1), seq: Some(Seq(last)) };
                    }
                }
                Event::RejectedAgain(at) => {
                    if let Some(seq) = some(at, &records, |fate| matches!(fate, Fate::Retrying { .. })) {
                        let record = records.get_mut(&seq).unwrap();
                        let new = record.fate.sent_again_as().unwrap();
                        record.fate = Fate::Retried { seq: new };
                        let retry_of = Some(RetryOf { seq, place: record.entry.place() });
                        let again = Entry { seq: new, retry_of, ..(*record.entry).clone() };
                        put_aside(again, &mut records, &mut held);
                    }
                }
            }
            let missing = held.follow(&open(&records));
            prop_assert!(missing.is_empty(), "{missing:?}");
            let mut anew = Held::default();
            for seq in anew.follow(&open(&records)) {
                anew.add(&records[&seq], &tables);
            }
            prop_assert_eq!(held.things.len(), anew.things.len());
            for effects in &asked {
                let later = entry(last + 1, effects.clone());
                prop_assert_eq!(held.waits(&later, &tables), anew.waits(&later, &tables));
            }
        }
    }
}

fn many(change: impl Fn(u8) -> Effect) -> Quarantined {
    let effects = (0..60).map(change).collect();
    Quarantined::new(Arc::new(entry(1, effects)), serde_json::Value::Null)
}

fn insert(table: usize, key: u8, other: u8) -> Effect {
    Effect::Insert { table, row: vec![value(key), value(other)] }
}

fn delete(table: usize, key: u8, other: u8) -> Effect {
    Effect::Delete { table, key: vec![value(key)], old: vec![value(key), value(other)] }
}

#[test]
fn what_an_entry_did_to_very_many_rows_is_held_by_the_table() {
    let tables = tables();
    let why = |held: &Held, effect: Effect| Some(held.waits(&entry(2, vec![effect]), &tables)?.why);
    let mut exact = Held::within(100, 1_000);
    exact.add(&many(|key| insert(PARENT, key, key)), &tables);
    assert_eq!(why(&exact, insert(PARENT, 99, 99)), None);
    assert!(why(&exact, insert(PARENT, 59, 99)).unwrap().contains("the row (59) of s.parent"));
    let mut coarse = Held::within(50, 1_000);
    coarse.add(&many(|key| insert(PARENT, key, key)), &tables);
    assert!(coarse.things.len() < 10, "{}", coarse.things.len());
    let told = "it writes rows of s.parent, of which entry 1, in quarantine, wrote more than are kept one by one";
    assert_eq!(why(&coarse, insert(PARENT, 99, 99)).as_deref(), Some(told));
    assert!(why(&coarse, insert(CHILD, 1, 99)).unwrap().starts_with("it refers to rows of s.parent"));
    assert_eq!(why(&coarse, delete(CHILD, 1, 99)), None);
    // Children that went: their parents may only go when they have.
    let mut coarse = Held::within(50, 1_000);
    coarse.add(&many(|key| delete(CHILD, key, key)), &tables);
    assert!(why(&coarse, delete(PARENT, 99, 1)).unwrap().starts_with("it removes rows of s.parent"));
    assert_eq!(why(&coarse, insert(PARENT, 99, 1)), None);
    // Much is held already: the next is held by its tables, however small.
    let mut full = Held::within(100, 100);
    full.add(&many(|key| insert(PARENT, key, key)), &tables);
    let next = Quarantined::new(Arc::new(entry(2, vec![insert(CHILD, 1, 1)])), serde_json::Value::Null);
    let before = full.things.len();
    full.add(&next, &tables);
    assert!(full.things.len() - before < 10);
    assert!(full.waits(&entry(3, vec![insert(CHILD, 7, 99)]), &tables).unwrap().why.contains("rows of s.child"));
    // Decided: nothing is left of it.
    let mut empty = full;
    empty.follow(&BTreeMap::new());
    assert!(empty.things.is_empty() && empty.waits(&entry(3, vec![insert(PARENT, 1, 1)]), &tables).is_none());
}
