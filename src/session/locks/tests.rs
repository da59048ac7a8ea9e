use std::time::Duration;

use super::*;

const NOW: Seq = Seq(10);

#[tokio::test]
async fn free_locks_are_granted_at_once_and_kept() {
    let locks = Locks::default();
    let mut one = locks.holder();
    assert_eq!(one.take(&[1, 2, 1], NOW, None).await, Ok(Taken::Fresh));
    assert_eq!(one.take(&[2], NOW, None).await, Ok(Taken::Fresh));
    assert_eq!(one.mark(), 2);
}

#[tokio::test]
async fn what_was_changed_after_the_callers_state_is_stale() {
    let locks = Locks::default();
    let (mut one, mut two) = (locks.holder(), locks.holder());
    one.take(&[1, 2], NOW, None).await.unwrap();
    one.release(Some(Seq(11)));
    assert_eq!(two.take(&[1], NOW, None).await, Ok(Taken::Stale));
    assert_eq!(two.take(&[2], Seq(11), None).await, Ok(Taken::Fresh));
}

#[tokio::test]
async fn waiters_are_served_in_their_order() {
    let locks = Locks::default();
    let mut first = locks.holder();
    first.take(&[7], NOW, None).await.unwrap();
    let (told, mut order) = tokio::sync::mpsc::unbounded_channel();
    for number in 0..3 {
        let (mut holder, told) = (locks.holder(), told.clone());
        tokio::spawn(async move {
            assert_eq!(holder.take(&[7], NOW, None).await, Ok(Taken::Stale));
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
    one.take(&[1], NOW, None).await.unwrap();
    two.take(&[2], NOW, None).await.unwrap();
    let waiting = tokio::spawn(async move {
        let taken = one.take(&[2], NOW, None).await;
        (one, taken)
    });
    tokio::task::yield_now().await;
    assert_eq!(two.take(&[1], NOW, None).await, Err(LockError::Deadlock));
    drop(two);
    assert_eq!(waiting.await.unwrap().1, Ok(Taken::Stale));
}

#[tokio::test]
async fn who_gives_up_does_not_block_those_behind() {
    let locks = Locks::default();
    let (mut one, mut two, mut three) = (locks.holder(), locks.holder(), locks.holder());
    one.take(&[1], NOW, None).await.unwrap();
    let brief = Some(Duration::from_millis(5));
    assert_eq!(two.take(&[1], NOW, brief).await, Err(LockError::Timeout));
    let behind = tokio::spawn(async move { three.take(&[1], NOW, None).await });
    tokio::task::yield_now().await;
    drop(one);
    assert_eq!(behind.await.unwrap(), Ok(Taken::Stale));
    assert_eq!(two.take(&[1], NOW, None).await, Ok(Taken::Fresh));
}

#[tokio::test]
async fn rolling_back_to_a_mark_frees_what_came_after_it() {
    let locks = Locks::default();
    let (mut one, mut two) = (locks.holder(), locks.holder());
    one.take(&[1], NOW, None).await.unwrap();
    let mark = one.mark();
    one.take(&[2], NOW, None).await.unwrap();
    one.release_to(mark);
    let brief = Some(Duration::from_millis(5));
    assert_eq!(two.take(&[2], NOW, brief).await, Ok(Taken::Fresh));
    assert_eq!(two.take(&[1], NOW, brief).await, Err(LockError::Timeout));
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
                holder.take(&wanted, NOW, None).await.unwrap();
                tokio::task::yield_now().await;
                holder.release(Some(Seq(round + 11)));
            }
        });
    }
    tasks.join_all().await;
    let table = locks.table();
    assert!(table.waiting.is_empty() && table.locks.values().all(|lock| lock.owner.is_none()));
}
