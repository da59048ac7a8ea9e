use std::time::Duration;

use super::*;

const NOW: Seq = Seq(10);

fn exclusive(hashes: &[u64]) -> Vec<Wanted> {
    hashes.iter().map(|&hash| Wanted { hash, shared: false }).collect()
}

fn shared(hashes: &[u64]) -> Vec<Wanted> {
    hashes.iter().map(|&hash| Wanted { hash, shared: true }).collect()
}

#[tokio::test]
async fn free_locks_are_granted_at_once_and_kept() {
    let locks = Locks::default();
    let mut one = locks.holder();
    assert_eq!(one.take(&exclusive(&[1, 2, 1]), NOW, None).await, Ok(Taken::Fresh));
    assert_eq!(one.take(&exclusive(&[2]), NOW, None).await, Ok(Taken::Fresh));
    assert_eq!(one.mark(), 2);
}

#[tokio::test]
async fn what_was_changed_after_the_callers_state_is_stale() {
    let locks = Locks::default();
    let (mut one, mut two) = (locks.holder(), locks.holder());
    one.take(&exclusive(&[1, 2]), NOW, None).await.unwrap();
    one.release(Some(Seq(11)));
    assert_eq!(two.take(&exclusive(&[1]), NOW, None).await, Ok(Taken::Stale));
    assert_eq!(two.take(&exclusive(&[2]), Seq(11), None).await, Ok(Taken::Fresh));
}

#[tokio::test]
async fn what_was_locked_and_left_as_it_was_is_not_stale() {
    let locks = Locks::default();
    let (mut one, mut two) = (locks.holder(), locks.holder());
    one.take_read(&exclusive(&[1]), NOW, None).await.unwrap();
    let mark = one.mark();
    one.take_read(&exclusive(&[1, 2, 3]), NOW, None).await.unwrap();
    one.wrote(mark, [1, 2].into());
    // Undone, then done again.
    one.release_to(mark);
    one.take_read(&exclusive(&[4]), NOW, None).await.unwrap();
    one.wrote(mark, [4].into());
    one.release(Some(Seq(11)));
    assert_eq!(two.take(&exclusive(&[1, 2, 3]), NOW, None).await, Ok(Taken::Fresh));
    assert_eq!(two.take(&exclusive(&[4]), NOW, None).await, Ok(Taken::Stale));
    // What it held before is changed as well.
    let (mut one, mut two) = (locks.holder(), locks.holder());
    one.take_read(&exclusive(&[5]), NOW, None).await.unwrap();
    one.wrote(one.mark(), [5].into());
    one.release(Some(Seq(12)));
    assert_eq!(two.take(&exclusive(&[5]), NOW, None).await, Ok(Taken::Stale));
}

#[tokio::test]
async fn waiters_are_served_in_their_order() {
    let locks = Locks::default();
    let mut first = locks.holder();
    first.take(&exclusive(&[7]), NOW, None).await.unwrap();
    let (told, mut order) = tokio::sync::mpsc::unbounded_channel();
    for number in 0..3 {
        let (mut holder, told) = (locks.holder(), told.clone());
        tokio::spawn(async move {
            assert_eq!(holder.take(&exclusive(&[7]), NOW, None).await, Ok(Taken::Fresh));
            told.send(number).unwrap();
        });
        tokio::task::yield_now().await;
    }
    first.release(None);
    for number in 0..3 {
        assert_eq!(order.recv().await, Some(number));
    }
}

#[tokio::test]
async fn a_closed_circle_is_a_deadlock() {
    let locks = Locks::default();
    let (mut one, mut two) = (locks.holder(), locks.holder());
    one.take(&exclusive(&[1]), NOW, None).await.unwrap();
    two.take(&exclusive(&[2]), NOW, None).await.unwrap();
    let waiting = tokio::spawn(async move {
        let taken = one.take(&exclusive(&[2]), NOW, None).await;
        (one, taken)
    });
    tokio::task::yield_now().await;
    assert_eq!(two.take(&exclusive(&[1]), NOW, None).await, Err(LockError::Deadlock));
    drop(two);
    assert_eq!(waiting.await.unwrap().1, Ok(Taken::Fresh), "it was rolled back");
}

#[tokio::test]
async fn who_gives_up_does_not_block_those_behind() {
    let locks = Locks::default();
    let (mut one, mut two, mut three) = (locks.holder(), locks.holder(), locks.holder());
    one.take(&exclusive(&[1]), NOW, None).await.unwrap();
    let brief = Some(Duration::from_millis(5));
    assert_eq!(two.take(&exclusive(&[1]), NOW, brief).await, Err(LockError::Timeout));
    let behind = tokio::spawn(async move { three.take(&exclusive(&[1]), NOW, None).await });
    tokio::task::yield_now().await;
    drop(one);
    assert_eq!(behind.await.unwrap(), Ok(Taken::Fresh));
    assert_eq!(two.take(&exclusive(&[1]), NOW, None).await, Ok(Taken::Fresh));
}

#[tokio::test]
async fn rolling_back_to_a_mark_frees_what_came_after_it() {
    let locks = Locks::default();
    let (mut one, mut two) = (locks.holder(), locks.holder());
    one.take(&exclusive(&[1]), NOW, None).await.unwrap();
    let mark = one.mark();
    one.take(&exclusive(&[2]), NOW, None).await.unwrap();
    one.release_to(mark);
    let brief = Some(Duration::from_millis(5));
    assert_eq!(two.take(&exclusive(&[2]), NOW, brief).await, Ok(Taken::Fresh));
    assert_eq!(two.take(&exclusive(&[1]), NOW, brief).await, Err(LockError::Timeout));
}

#[tokio::test]
async fn many_sessions_on_few_locks_all_come_through() {
    let locks = Locks::default();
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..50u64 {
        let mut holder = locks.holder();
        tasks.spawn(async move {
            for round in 0..20 {
                let wanted = [(number + round) % 5, (number * 3 + round) % 5];
                holder.take(&exclusive(&wanted), NOW, None).await.unwrap();
                tokio::task::yield_now().await;
                holder.release(Some(Seq(round + 11)));
            }
        });
    }
    tasks.join_all().await;
    let table = locks.table();
    assert!(table.waiting.is_empty() && table.locks.values().all(|lock| lock.owners.is_empty()));
}

#[tokio::test]
async fn sharers_neither_wait_for_nor_disturb_each_other() {
    let locks = Locks::default();
    let (mut one, mut two, mut three) = (locks.holder(), locks.holder(), locks.holder());
    assert_eq!(one.take(&shared(&[1]), NOW, None).await, Ok(Taken::Fresh));
    assert_eq!(two.take(&shared(&[1]), NOW, None).await, Ok(Taken::Fresh));
    one.release(Some(Seq(11)));
    assert_eq!(three.take(&shared(&[1]), NOW, None).await, Ok(Taken::Fresh));
}

#[tokio::test]
async fn who_wants_it_gone_waits_for_all_sharers_and_looks_again() {
    let locks = Locks::default();
    let (mut one, mut two, mut three) = (locks.holder(), locks.holder(), locks.holder());
    one.take(&shared(&[1]), NOW, None).await.unwrap();
    two.take(&shared(&[1]), NOW, None).await.unwrap();
    let waiting = tokio::spawn(async move {
        let taken = three.take(&exclusive(&[1]), NOW, None).await;
        (three, taken)
    });
    tokio::task::yield_now().await;
    one.release(Some(Seq(11)));
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    two.release(None);
    let (three, taken) = waiting.await.unwrap();
    assert_eq!(taken, Ok(Taken::Stale));
    drop(three);
    // Also without waiting: the reference made by `one` must be seen.
    assert_eq!(two.take(&exclusive(&[1]), NOW, None).await, Ok(Taken::Stale));
}

#[tokio::test]
async fn a_share_becomes_exclusive_and_two_that_want_that_are_a_deadlock() {
    let locks = Locks::default();
    let (mut one, mut two) = (locks.holder(), locks.holder());
    let brief = Some(Duration::from_millis(5));
    one.take(&shared(&[1]), NOW, None).await.unwrap();
    assert_eq!(one.take(&exclusive(&[1]), NOW, None).await, Ok(Taken::Fresh));
    assert_eq!(two.take(&shared(&[1]), NOW, brief).await, Err(LockError::Timeout));
    one.release(None);
    one.take(&shared(&[1]), NOW, None).await.unwrap();
    two.take(&shared(&[1]), NOW, None).await.unwrap();
    let waiting = tokio::spawn(async move {
        let taken = one.take(&exclusive(&[1]), NOW, None).await;
        (one, taken)
    });
    tokio::task::yield_now().await;
    assert_eq!(two.take(&exclusive(&[1]), NOW, None).await, Err(LockError::Deadlock));
    drop(two);
    assert_eq!(waiting.await.unwrap().1, Ok(Taken::Fresh), "it was rolled back");
}

#[tokio::test]
async fn who_waits_for_a_table_closes_a_circle_with_who_waits_for_a_row() {
    let locks = Locks::default();
    let (mut one, mut two, mut three) = (locks.holder(), locks.holder(), locks.holder());
    one.take(&exclusive(&[1]), NOW, None).await.unwrap();
    two.take(&exclusive(&[2]), NOW, None).await.unwrap();
    // The table first, then the row; over a third one, too.
    one.waits_elsewhere([two.id()].into_iter()).unwrap();
    assert_eq!(two.take(&exclusive(&[1]), NOW, None).await, Err(LockError::Deadlock));
    one.waits_elsewhere([three.id()].into_iter()).unwrap();
    three.waits_elsewhere([two.id()].into_iter()).unwrap();
    assert_eq!(two.take(&exclusive(&[1]), NOW, None).await, Err(LockError::Deadlock));
    three.waits_no_more();
    one.waits_no_more();
    // The row first, then the table.
    let (id, mut waits) = (two.id(), std::pin::pin!(two.take(&[Wanted { hash: 1, shared: false }], NOW, None)));
    assert!(tokio::time::timeout(Duration::from_millis(20), &mut waits).await.is_err());
    assert_eq!(one.waits_elsewhere([id].into_iter()), Err(LockError::Deadlock));
    assert_eq!(one.waits_elsewhere([three.id()].into_iter()), Ok(()));
}
