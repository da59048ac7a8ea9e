use super::*;

const T: TableId = TableId(1);
const U: TableId = TableId(2);
const NOW: Duration = Duration::ZERO;

fn rows(table: TableId) -> [(TableId, Writes); 1] {
    [(table, Writes::Rows)]
}

/// A session's place, each of another number.
fn seat(sides: &Sides) -> Seat {
    static LAST: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    sides.seat(LAST.fetch_add(1, Ordering::Relaxed))
}

fn age(sides: &Sides) {
    let mut state = sides.state();
    for claim in state.tables.values_mut().flat_map(|writers| &mut writers.claims) {
        claim.since -= PATIENCE;
    }
}

#[test]
fn who_has_written_here_is_waited_for_and_others_wait_for_the_claim() {
    let sides = Sides::default();
    let (mut here, mut later, mut straight) = (seat(&sides), seat(&sides), seat(&sides));
    assert_eq!(here.enter(T, Writes::Rows, sides.moment(), NOW), Entered::In);
    straight.claim(&rows(T), false);
    assert!(!straight.granted());
    assert_eq!(later.way(T, Writes::Rows, NOW), Way::Wait);
    assert_eq!(later.enter(T, Writes::Rows, sides.moment(), NOW), Entered::Busy);
    assert_eq!(here.enter(T, Writes::Rows, sides.moment(), NOW), Entered::In, "what it has it keeps");
    here.leave_here();
    assert!(straight.granted());
    assert_eq!(later.enter(T, Writes::Rows, sides.moment(), NOW), Entered::Busy);
    assert_eq!(later.way(U, Writes::Rows, NOW), Way::Free);
}

#[test]
fn a_claim_that_waits_long_lets_others_pass_and_one_that_is_granted_sends_them_to_main() {
    let sides = Sides::default();
    let (mut here, mut later, mut straight) = (seat(&sides), seat(&sides), seat(&sides));
    here.enter(T, Writes::Rows, sides.moment(), NOW);
    straight.claim(&rows(T), false);
    age(&sides);
    assert_eq!(later.way(T, Writes::Rows, NOW), Way::Free);
    assert_eq!(later.enter(T, Writes::Rows, sides.moment(), NOW), Entered::In);
    here.leave_here();
    later.leave_here();
    assert!(straight.granted());
    assert_eq!(later.way(T, Writes::Rows, NOW), Way::Wait, "counted from the grant");
    age(&sides);
    assert_eq!(later.way(T, Writes::Rows, NOW), Way::Main);
    straight.leave_main(false);
    assert_eq!(later.way(T, Writes::Rows, NOW), Way::Free);
    assert!(!sides.is_claimed());
}

#[test]
fn who_has_waited_long_does_not_wait_for_new_ones() {
    let sides = Sides::default();
    let (mut here, mut straight, mut next) = (seat(&sides), seat(&sides), seat(&sides));
    straight.claim(&rows(T), false);
    assert!(straight.granted());
    assert_eq!(here.way(T, Writes::Rows, PATIENCE), Way::Main);
    straight.leave_main(false);
    next.claim(&rows(T), false);
    assert_eq!(here.way(T, Writes::Rows, NOW), Way::Wait);
    assert_eq!(here.enter(T, Writes::Rows, sides.moment(), PATIENCE), Entered::In, "it has not begun");
    assert!(!next.granted());
}

#[test]
fn what_was_evaluated_before_a_straight_transaction_ended_is_known_to_be_old() {
    let sides = Sides::default();
    let (mut here, mut straight) = (seat(&sides), seat(&sides));
    let before = sides.moment();
    straight.claim(&rows(T), false);
    assert!(straight.granted());
    straight.leave_main(true);
    assert_eq!(here.enter(T, Writes::Rows, before, NOW), Entered::Changed);
    assert_eq!(here.enter(U, Writes::Rows, before, NOW), Entered::In);
    assert_eq!(here.enter(T, Writes::Additions, before, NOW), Entered::In, "rows of others do not matter to it");
    assert_eq!(here.enter(T, Writes::Rows, before, NOW), Entered::Changed, "but to this");
    assert_eq!(here.enter(T, Writes::Rows, sides.moment(), NOW), Entered::In);
}

#[test]
fn a_rolled_back_claim_has_changed_nothing() {
    let sides = Sides::default();
    let (mut here, mut straight) = (seat(&sides), seat(&sides));
    let before = sides.moment();
    straight.claim(&rows(T), false);
    assert!(straight.granted());
    straight.leave_main(false);
    assert_eq!(here.enter(T, Writes::Rows, before, NOW), Entered::In);
}

#[test]
fn additions_bear_with_rows_and_not_with_another_definition() {
    let sides = Sides::default();
    let (mut here, mut straight, mut ddl) = (seat(&sides), seat(&sides), seat(&sides));
    straight.claim(&rows(T), false);
    assert!(straight.granted());
    assert_eq!(here.enter(T, Writes::Additions, sides.moment(), NOW), Entered::In);
    ddl.claim(&[(T, Writes::Definition)], false);
    assert!(!ddl.granted());
    ddl.give_up();
    assert!(!seat(&sides).has_claimed(&rows(T)));
    assert!(straight.has_claimed(&rows(T)), "another's giving up is not its own");
    here.leave_here();
    ddl.claim(&[(T, Writes::Definition)], false);
    assert!(ddl.granted(), "straight ones have main's locks between them");
    assert_eq!(here.way(T, Writes::Additions, NOW), Way::Wait);
}

#[test]
fn who_is_overtaken_knows_it_until_its_transaction_is_over() {
    let sides = Sides::default();
    let (mut here, mut straight) = (seat(&sides), seat(&sides));
    straight.claim(&[(T, Writes::Rows), (U, Writes::Rows)], false);
    assert!(straight.granted());
    here.overtake(T);
    assert!(straight.is_overtaken() && !sides.is_claimed());
    assert_eq!(here.enter(T, Writes::Rows, sides.moment(), NOW), Entered::In);
    assert_eq!(here.enter(U, Writes::Rows, sides.moment(), NOW), Entered::In);
    straight.leave_main(true);
    assert!(!straight.is_overtaken());
    straight.claim(&rows(T), false);
    assert!(!straight.granted(), "here has it now");
}

#[test]
fn who_is_overtaken_while_it_waits_for_more_is_not_granted_it_and_does_not_forget() {
    let sides = Sides::default();
    let (mut here, mut straight) = (seat(&sides), seat(&sides));
    straight.claim(&rows(T), false);
    assert!(straight.granted());
    here.enter(U, Writes::Rows, sides.moment(), NOW);
    straight.claim(&rows(U), false);
    assert!(!straight.granted());
    here.overtake(T);
    here.leave_here();
    assert!(!straight.granted());
    straight.give_up();
    assert!(straight.is_overtaken(), "what it has done on main must not be committed");
    straight.leave_main(false);
    assert!(!straight.is_overtaken());
    straight.claim(&rows(T), false);
    assert!(straight.granted());
}

#[test]
fn the_own_transaction_is_never_in_its_way() {
    let sides = Sides::default();
    let mut both = seat(&sides);
    both.enter(T, Writes::Rows, sides.moment(), NOW);
    both.claim(&rows(T), false);
    assert!(both.granted());
    assert_eq!(both.way(T, Writes::Rows, NOW), Way::Free);
}

#[test]
fn two_that_keep_rows_and_go_to_main_do_not_wait_for_each_other() {
    let sides = Sides::default();
    let (mut one, mut two) = (seat(&sides), seat(&sides));
    for seat in [&mut one, &mut two] {
        seat.enter(T, Writes::Rows, sides.moment(), NOW);
        seat.keep(T);
    }
    one.claim(&one.kept(), true);
    assert!(!one.granted() && one.waits_for() == [two.owner.0]);
    two.claim(&two.kept(), true);
    assert!(!two.granted() && two.waits_for() == [one.owner.0]);
    two.give_up();
    two.leave_here();
    assert!(one.granted() && one.waits_for().is_empty());
    one.hand_over(<[_]>::to_vec);
    assert_eq!(one.kept(), []);
    assert_eq!(two.way(T, Writes::Rows, PATIENCE), Way::Wait, "its rows are not locked on main");
    two.claim(&rows(T), false);
    assert!(!two.granted());
    one.leave_main(true);
    assert!(two.granted());
    one.claim(&rows(T), true);
    assert!(!one.granted(), "it is not alone");
}

#[test]
fn what_was_handed_over_is_in_nobodys_way_and_has_changed_when_it_is_over() {
    let sides = Sides::default();
    let (mut one, mut two, mut here) = (seat(&sides), seat(&sides), seat(&sides));
    one.enter(T, Writes::Rows, sides.moment(), NOW);
    two.enter(T, Writes::Rows, sides.moment(), NOW);
    one.claim(&rows(T), false);
    assert!(!one.granted());
    two.hand_over(<[_]>::to_vec);
    assert!(one.granted() && two.has_handed_over());
    let before = sides.moment();
    two.leave_main(true);
    one.leave_main(false);
    assert_eq!(here.enter(T, Writes::Rows, before, NOW), Entered::Changed);
    // Who was in already as well.
    assert_eq!(here.enter(T, Writes::Rows, sides.moment(), NOW), Entered::In);
    one.enter(T, Writes::Rows, sides.moment(), NOW);
    one.hand_over(<[_]>::to_vec);
    let before = sides.moment();
    one.leave_main(true);
    assert_eq!(here.enter(T, Writes::Rows, before, NOW), Entered::Changed);
    assert_eq!(here.enter(T, Writes::Rows, sides.moment(), NOW), Entered::In);
}

#[test]
fn a_claim_that_waits_for_more_keeps_what_it_has() {
    let sides = Sides::default();
    let (mut straight, mut adds, other) = (seat(&sides), seat(&sides), seat(&sides));
    adds.enter(T, Writes::Additions, sides.moment(), NOW);
    straight.claim(&rows(T), false);
    assert!(straight.granted());
    straight.claim(&[(T, Writes::Definition)], false);
    assert!(!straight.granted() && straight.has_claimed(&rows(T)));
    age(&sides);
    assert_eq!(other.way(T, Writes::Rows, NOW), Way::Main);
    assert_eq!(other.way(T, Writes::Additions, NOW), Way::Free);
    straight.give_up();
    assert!(straight.granted() && straight.has_claimed(&rows(T)));
    assert_eq!(other.way(T, Writes::Rows, NOW), Way::Main);
    let before = sides.moment();
    straight.leave_main(true);
    assert_eq!(other.way(T, Writes::Rows, NOW), Way::Free);
    assert_eq!(adds.enter(T, Writes::Rows, before, NOW), Entered::Changed);
}

#[test]
fn a_seat_that_is_dropped_gives_up_what_it_has() {
    let sides = Sides::default();
    let (mut here, mut straight) = (seat(&sides), seat(&sides));
    here.enter(T, Writes::Rows, sides.moment(), NOW);
    straight.claim(&rows(T), false);
    drop(here);
    assert!(straight.granted());
    let before = sides.moment();
    drop(straight);
    assert!(!sides.is_claimed());
    assert_eq!(seat(&sides).enter(T, Writes::Rows, before, NOW), Entered::Changed, "it may have been committed");
}
