use std::sync::Arc;

use super::*;
use crate::catalog::{ForeignKey, ReferentialAction, TableId};
use crate::sql::{Rule, Versions};

fn rule(name: &str) -> Rule {
    Rule::Parent(Arc::new(ForeignKey {
        name: name.into(),
        table: TableId(1),
        columns: vec![],
        referenced: TableId(2),
        referenced_columns: vec![],
        match_full: false,
        on_update: ReferentialAction::NoAction,
        on_delete: ReferentialAction::NoAction,
        set_columns: vec![],
        deferrable: true,
        initially_deferred: true,
    }))
}

/// A row's new version, in a constraint.
fn event(rule: &Rule, was: Option<usize>, is: usize) -> Event {
    let version = |number: usize| vec![Some(number.to_string().into())];
    let versions = Versions { was: was.map(version).unwrap_or_default(), is: version(is) };
    Event { rule: rule.clone(), values: version(is), new: vec![], acquitted: true, versions }
}

fn told(deferred: &Deferred) -> Vec<(String, String)> {
    let name = |event: &Event| event.rule.deferrable().map(|(_, name, _)| name.to_owned()).unwrap_or_default();
    deferred.iter().map(|event| (name(event), event.values[0].as_deref().unwrap_or_default().to_owned())).collect()
}

#[test]
fn what_rewrites_each_row_of_the_transaction_looks_at_each_event_once() {
    const ROWS: usize = 20_000;
    let keys: Vec<Rule> = ["a", "b", "c"].map(rule).into();
    let mut deferred = Deferred::default();
    let mut savepoints = Vec::new();
    let mut looked = 0;
    for row in 0..ROWS {
        looked += deferred.put_off(keys.iter().map(|key| event(key, None, row)).collect());
    }
    for row in 0..ROWS {
        savepoints.push(deferred.clone());
        looked += deferred.put_off(keys.iter().map(|key| event(key, Some(row), row)).collect());
    }
    assert_eq!(looked, ROWS * keys.len());
    assert_eq!(deferred.iter().count(), ROWS * keys.len());
    assert_eq!(told(&deferred)[..2], [("a".into(), "0".into()), ("b".into(), "0".into())]);
    assert_eq!(told(&savepoints[1])[..2], [("a".into(), "1".into()), ("b".into(), "1".into())]);
    assert_eq!(told(&savepoints[1]).last().unwrap(), &("c".into(), "0".into()));
}

#[test]
fn only_the_version_that_is_replaced_goes_and_the_order_stays() {
    let (a, b) = (rule("a"), rule("b"));
    let mut deferred = Deferred::default();
    deferred.put_off(vec![event(&a, None, 1), event(&b, None, 1), event(&a, None, 2), event(&a, None, 1)]);
    let savepoint = deferred.clone();
    // Of another constraint, of another row, and of none.
    assert_eq!(deferred.put_off(vec![event(&b, Some(2), 3), event(&a, Some(7), 8)]), 0);
    assert_eq!(deferred.put_off(vec![event(&a, Some(1), 9)]), 2);
    let of =
        |names: &[(&str, &str)]| names.iter().map(|(name, row)| ((*name).into(), (*row).into())).collect::<Vec<_>>();
    assert_eq!(told(&deferred), of(&[("b", "1"), ("a", "2"), ("b", "3"), ("a", "8"), ("a", "9")]));
    // SET CONSTRAINTS b IMMEDIATE
    let due = deferred.take(|event| event.rule != b);
    assert_eq!(due.len(), 2);
    assert_eq!(told(&deferred), of(&[("a", "2"), ("a", "8"), ("a", "9")]));
    assert_eq!(deferred.put_off(vec![event(&a, Some(8), 10)]), 1);
    assert_eq!(told(&deferred), of(&[("a", "2"), ("a", "9"), ("a", "10")]));
    // ROLLBACK TO
    deferred = savepoint;
    assert_eq!(deferred.put_off(vec![event(&a, Some(1), 1)]), 2);
    assert_eq!(told(&deferred), of(&[("b", "1"), ("a", "2"), ("a", "1")]));
    assert_eq!(deferred.take(|_| false).len(), 3);
    assert!(deferred.is_empty());
}
