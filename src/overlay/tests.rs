use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const KEYED: TableId = TableId(1);
const KEYLESS: TableId = TableId(2);
const COLUMNS: i16 = 3;

fn value(text: impl Into<Arc<str>>) -> Value {
    Some(text.into())
}

fn key(number: u8) -> RowId {
    RowId::Key(Arc::new([number.to_string().into()]))
}

/// A whole row: its key in column 1, then the same value in the others.
fn insert(number: u8, content: u8) -> Change {
    let mut values = vec![(AttNum(1), value(number.to_string()))];
    values.extend((2..=COLUMNS).map(|attnum| (AttNum(attnum), value(content.to_string()))));
    Change::Insert { row: key(number), values }
}

fn patch(number: u8, attnum: i16, content: u8) -> Change {
    Change::Update { row: key(number), set: vec![(AttNum(attnum), value(content.to_string()))] }
}

fn delete(number: u8) -> Change {
    Change::Delete { row: key(number) }
}

/// A table as Postgres holds it: rows by identity, with all their columns.
type State = BTreeMap<RowId, BTreeMap<AttNum, Value>>;

/// Runs a change as main would: an update or delete of a row that is not there does nothing.
fn run(state: &mut State, change: &Change) {
    match change {
        Change::Insert { row, values } => {
            state.insert(row.clone(), values.iter().cloned().collect());
        }
        Change::Update { row, set } => {
            if let Some(there) = state.get_mut(row) {
                there.extend(set.iter().cloned());
            }
        }
        Change::Delete { row } => {
            state.remove(row);
        }
        Change::Truncate => state.clear(),
        Change::Defined { .. } => {}
    }
}

/// What a merged read answers over a replica in this state, at ledger value `ledger`: the rule of the module's page.
fn merged(replica: &State, view: View<'_>, table: TableId, ledger: Seq) -> State {
    let mut answer = State::new();
    let nothing = State::new();
    let replica = if view.truncated(table).is_some_and(|seq| seq > ledger) { &nothing } else { replica };
    for (row, columns) in replica {
        let hidden = view.row(table, row).is_some_and(|pending| pending.newest() > ledger);
        if !hidden {
            answer.insert(row.clone(), columns.clone());
        }
    }
    for (row, pending) in view.rows(table) {
        if pending.newest() <= ledger {
            continue;
        }
        let shown = match pending.existence.filter(|&(_, seq)| seq > ledger) {
            Some((Existence::Inserted, _)) => {
                Some(pending.columns.iter().map(|column| (column.attnum, column.value.map(Arc::from))).collect())
            }
            Some((Existence::Deleted, _)) => None,
            None => replica.get(row).map(|there| {
                let mut there = there.clone();
                let newer = pending.columns.iter().filter(|column| column.seq > ledger);
                there.extend(newer.map(|column| (column.attnum, column.value.map(Arc::from))));
                there
            }),
        };
        if let Some(shown) = shown {
            assert!(answer.insert(row.clone(), shown).is_none(), "{row:?} twice");
        }
    }
    answer
}

fn all_tables() -> [TableId; 2] {
    [KEYED, KEYLESS]
}

fn states(start: &State, entries: &[Vec<(TableId, Change)>]) -> BTreeMap<TableId, State> {
    let mut states = BTreeMap::from([(KEYED, start.clone()), (KEYLESS, State::new())]);
    for (table, change) in entries.iter().flatten() {
        run(states.get_mut(table).unwrap(), change);
    }
    states
}

/// Asserts that for every trim point and every ledger value from there on, a merged read equals the whole history.
fn check(start: &State, entries: &[Vec<(TableId, Change)>], own: &[(TableId, Change)]) {
    let mut overlay = Overlay::starting_at(Seq::ZERO);
    for (number, changes) in entries.iter().enumerate() {
        overlay.apply(Seq(number as u64 + 1), changes);
    }
    let mut uncommitted = Overlay::default();
    for (table, change) in own {
        uncommitted.apply_uncommitted(*table, change);
    }
    let everything: Vec<Vec<_>> = entries.iter().cloned().chain([own.to_vec()]).collect();
    let expected = states(start, &everything);
    let last = entries.len();
    for trimmed in 0..=last {
        overlay.trim(Seq(trimmed as u64));
        let view = View { base: &overlay, own: &uncommitted };
        for ledger in trimmed..=last {
            let replica = states(start, &entries[..ledger]);
            for table in all_tables() {
                let answer = merged(&replica[&table], view, table, Seq(ledger as u64));
                assert_eq!(answer, expected[&table], "{table:?}, trimmed {trimmed}, ledger {ledger}");
                assert!(view.has_pending(table) || view.rows(table).next().is_none());
            }
        }
    }
    assert!(overlay.is_empty() && overlay.row_count() == 0 && overlay.touched.is_empty());
    assert_eq!((overlay.last(), overlay.trimmed()), (Seq(last as u64), Seq(last as u64)));
}

fn start() -> State {
    let mut state = State::new();
    for number in [0, 1] {
        run(&mut state, &insert(number, 100));
    }
    state
}

#[test]
fn delete_and_insert_again_while_pending() {
    let entries = [insert(5, 1), patch(5, 2, 2), delete(5), insert(5, 3), patch(5, 3, 4), delete(5)];
    let entries: Vec<_> = entries.into_iter().map(|change| vec![(KEYED, change)]).collect();
    for length in 0..=entries.len() {
        check(&start(), &entries[..length], &[]);
    }
}

#[test]
fn several_changes_of_one_row_in_one_entry() {
    let changes = [patch(0, 2, 1), delete(0), insert(0, 2), patch(0, 3, 3)].map(|change| (KEYED, change));
    check(&start(), &[changes.to_vec()], &[]);
    check(&start(), &[vec![(KEYED, patch(0, 3, 9))], changes.to_vec()], &[(KEYED, patch(0, 2, 8))]);
}

#[test]
fn another_sites_column_shows_through_a_patch() {
    let mut overlay = Overlay::default();
    overlay.apply(Seq(1), &[(KEYED, patch(0, 2, 1))]);
    overlay.apply(Seq(2), &[(KEYED, patch(0, 3, 2))]);
    let mut replica = start();
    run(&mut replica, &patch(0, 2, 77));
    // Entry 1 is on the replica, and a newer value of its column from elsewhere on top.
    let own = Overlay::default();
    let answer = merged(&replica, View { base: &overlay, own: &own }, KEYED, Seq(1));
    assert_eq!(answer[&key(0)][&AttNum(2)], value("77"));
    assert_eq!(answer[&key(0)][&AttNum(3)], value("2"));
}

#[test]
fn a_clone_stays_as_it_was() {
    let mut overlay = Overlay::default();
    overlay.apply(Seq(1), &[(KEYED, insert(5, 1))]);
    let frozen = overlay.clone();
    overlay.apply(Seq(2), &[(KEYED, patch(5, 2, 2))]);
    overlay.trim(Seq(2));
    assert_eq!(frozen.row(KEYED, &key(5)).unwrap().column(AttNum(2)).unwrap().value, Some("1"));
    assert!(overlay.row(KEYED, &key(5)).is_none());
}

#[test]
fn a_ledger_ahead_of_the_log_is_the_new_start() {
    let mut overlay = Overlay::starting_at(Seq(7));
    overlay.trim(Seq(9));
    overlay.apply(Seq(10), &[(KEYED, insert(5, 1))]);
    overlay.trim(Seq(8));
    assert_eq!((overlay.trimmed(), overlay.last()), (Seq(9), Seq(10)));
    assert!(overlay.row(KEYED, &key(5)).is_some());
}

/// What clients may do to a row, given whether it is there: they see it merged, so they never patch a missing row.
fn action(present: &mut [bool; 4], number: u8, choice: u8, attnum: i16, content: u8) -> Change {
    if choice > 235 {
        *present = [false; 4];
        return Change::Truncate;
    }
    let there = &mut present[usize::from(number)];
    match (*there, choice % 3) {
        (true, 0) => {
            *there = false;
            delete(number)
        }
        (true, _) => patch(number, attnum, content),
        (false, _) => {
            *there = true;
            insert(number, content)
        }
    }
}

type Choice = (u8, u8, i16, u8, bool);

/// Entries out of raw choices: changes of the keyed table, and rows of the keyless one.
fn history(choices: &[Vec<Choice>]) -> Vec<Vec<(TableId, Change)>> {
    let mut present = [true, true, false, false];
    let mut entries = Vec::new();
    for (number, choices) in choices.iter().enumerate() {
        let mut changes = Vec::new();
        for &(row, choice, attnum, content, keyless) in choices {
            if keyless {
                let seq = if number + 1 == entries.len() { Seq::UNCOMMITTED } else { Seq(number as u64 + 1) };
                let row = RowId::Anonymous(seq, changes.len() as u32);
                changes.push((KEYLESS, Change::Insert { row, values: vec![(AttNum(1), value(content.to_string()))] }));
            } else {
                changes.push((KEYED, action(&mut present, row, choice, attnum, content)));
            }
        }
        entries.push(changes);
    }
    entries
}

proptest! {
    #[test]
    fn folding_equals_the_history(
        choices in prop::collection::vec(
            prop::collection::vec((0..4_u8, any::<u8>(), 2..=COLUMNS, any::<u8>(), prop::bool::weighted(0.2)), 0..5),
            1..9,
        ),
        own in any::<bool>(),
    ) {
        let mut entries = history(&choices);
        let open = if own { entries.pop().unwrap_or_default() } else { Vec::new() };
        check(&start(), &entries, &open);
    }
}

#[test]
fn columns_come_back_as_they_were() {
    let column = |attnum, seq, value| PendingColumn { attnum: AttNum(attnum), seq, value };
    let written = [
        column(1, Seq::ZERO, None),
        column(2, Seq(1), Some("")),
        column(3, Seq(u64::from(u32::MAX) + 77), Some("Zürich, 東京 🛰")),
        column(1600, Seq::HELD, Some("x")),
        column(i16::MAX, Seq::UNCOMMITTED, None),
    ];
    let long = "ä".repeat(100_000);
    for columns in
        [written.to_vec(), vec![column(7, Seq(128), Some(&long)), column(8, Seq(127), Some("after"))], vec![]]
    {
        let packed: Columns = columns.iter().copied().collect();
        assert_eq!(packed.iter().collect::<Vec<_>>(), columns);
        assert_eq!(packed.is_empty(), columns.is_empty());
    }
}

#[test]
fn readers_keep_what_is_trimmed() {
    let mut overlay = Overlay::default();
    for number in 0..100 {
        overlay.apply(Seq(u64::from(number) + 1), &[(KEYED, insert(number, 1))]);
    }
    let readers = overlay.for_readers();
    overlay.trim(Seq(60));
    assert_eq!((overlay.row_count(), readers.row_count()), (40, 100));
    assert_eq!((overlay.trimmed(), readers.trimmed()), (Seq(60), Seq::ZERO));
    let mut own = Overlay::default();
    own.apply_uncommitted(KEYED, &patch(70, 2, 9));
    let view = View { base: &readers, own: &own };
    assert_eq!(view.row(KEYED, &key(70)).unwrap().column(AttNum(2)).unwrap().value, Some("9"));
    assert_eq!(view.rows(KEYED).count(), 100);
}
