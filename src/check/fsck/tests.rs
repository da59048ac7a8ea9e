use super::*;
use crate::check::Grade;

fn range(start: i64, increment: i64, count: u64) -> LeaseRange {
    LeaseRange { start, increment, count }
}

#[test]
fn leased_values_must_be_behind_the_sequence() {
    for (leased, last, increment, expected) in [
        (range(1, 1, 10), Some(10), 1, false),
        (range(1, 1, 10), Some(9), 1, true),
        (range(1, 1, 10), None, 1, true),
        (range(1, 1, 0), None, 1, false),
        (range(-1, -1, 10), Some(-10), -1, false),
        (range(-1, -1, 10), Some(-9), -1, true),
        (range(i64::MAX, i64::MAX, u64::MAX), Some(i64::MAX), 1, true),
    ] {
        assert_eq!(ahead(&leased, last, increment), expected, "{leased:?} {last:?}");
    }
}

#[test]
fn no_value_is_leased_twice() {
    assert!(twice(&[range(20, 1, 5), range(1, 1, 19)]).is_none());
    assert!(twice(&[range(20, 1, 5), range(1, 1, 20)]).is_some());
    assert!(twice(&[range(10, -1, 5), range(6, 1, 1)]).is_some());
    assert!(twice(&[range(10, 1, 0), range(10, 1, 1)]).is_none());
}

/// Ranges that a sequence from -5 to 5 gives when it goes round.
#[test]
fn a_sequence_that_cycles_gives_its_values_again() {
    let id = SequenceId { oid: 1, file: 1 };
    let block = LeaseBlock { ranges: vec![range(-5, 2, 4), range(-5, 2, 6)], of: Some(id), ..LeaseBlock::default() };
    let grade = |cycles| leased("q", &block, &Drawn { last: Some(1), increment: 2, id, cycles }).grade;
    assert_eq!((grade(true), grade(false)), (Grade::Ok, Grade::Fail));
    let anew = LeaseBlock { of: Some(SequenceId { oid: 1, file: 2 }), ..block.clone() };
    assert_eq!(leased("q", &anew, &Drawn { last: None, increment: 2, id, cycles: false }).grade, Grade::Warn);
}

#[test]
fn a_ledger_is_neither_ahead_nor_before_what_is_kept() {
    let grade = |ledger, first: u64, last| {
        let entries = Entries { first: (first > 0).then_some(Seq(first)), last: Seq(last), gaps: Vec::new() };
        crate::check::worst(&against("main", Ledger { seq: Seq(ledger), entry: None }, &entries))
    };
    assert_eq!(grade(5, 3, 9), Grade::Ok);
    assert_eq!(grade(2, 3, 9), Grade::Ok);
    assert_eq!(grade(9, 3, 9), Grade::Ok);
    assert_eq!(grade(1, 3, 9), Grade::Fail);
    assert_eq!(grade(10, 3, 9), Grade::Fail);
    assert_eq!(grade(10, 0, 0), Grade::Ok);
    let ledger = |seq, entry| Ledger { seq: Seq(seq), entry };
    let uuid = Some(Uuid::now_v7());
    assert_eq!(order(ledger(5, uuid), ledger(5, uuid)).grade, Grade::Ok);
    assert_eq!(order(ledger(5, uuid), ledger(5, None)).grade, Grade::Fail);
    assert_eq!(order(ledger(5, uuid), ledger(6, None)).grade, Grade::Fail);
}

#[test]
fn a_gap_matters_while_the_replica_lacks_it() {
    let grades = |confirmed| {
        let entries = Entries { first: Some(Seq(1)), last: Seq(9), gaps: vec![(Seq(3), Seq(4))] };
        let mut findings = Vec::new();
        gaps(&entries, Seq(confirmed), &mut findings);
        crate::check::worst(&findings)
    };
    assert_eq!((grades(4), grades(3)), (Grade::Warn, Grade::Fail));
}
