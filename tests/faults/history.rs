//! The records of all clients against the one history that main tells.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::appends::{Fate, Record, Seen, Written};

/// What is on main at the end.
pub struct Truth {
    pub lists: BTreeMap<i32, Vec<i64>>,
    pub journal: Vec<i64>,
    pub tags: Vec<i64>,
}

/// What was checked, for the report.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Checked {
    pub acknowledged: usize,
    pub refused: usize,
    pub unanswered: usize,
    pub reads: usize,
}

/// Every promise that the records can be held to. The error says what is broken.
pub fn check(records: &[Record], truth: &Truth) -> Result<Checked, String> {
    let mut checked = Checked::default();
    let written: HashMap<i64, &Written> =
        records.iter().flat_map(|record| &record.written).map(|written| (written.writer, written)).collect();
    written.values().try_for_each(|one| once_or_not_at_all(one, truth, &mut checked))?;
    let known = |writer: &i64| written.contains_key(writer);
    if let Some(stranger) = truth.lists.values().flatten().chain(&truth.journal).find(|writer| !known(writer)) {
        return Err(format!("main has {stranger}, which nobody wrote"));
    }
    for record in records {
        reads_of_a_client(record, &written, truth)?;
        checked.reads += record.seen.len();
    }
    acyclic(records, truth)?;
    Ok(checked)
}

/// Acknowledged: there once and wholly. Refused: not there. Unanswered: either.
fn once_or_not_at_all(one: &Written, truth: &Truth, checked: &mut Checked) -> Result<(), String> {
    let count = |items: &[i64]| items.iter().filter(|writer| **writer == one.writer).count();
    let mut counts: Vec<usize> =
        one.keys.iter().map(|key| truth.lists.get(key).map_or(0, |list| count(list))).collect();
    counts.extend([count(&truth.journal), count(&truth.tags)]);
    let (once, never) = (counts.iter().all(|n| *n == 1), counts.iter().all(|n| *n == 0));
    let right = match one.fate {
        Fate::Acknowledged => {
            checked.acknowledged += 1;
            once
        }
        Fate::Refused => {
            checked.refused += 1;
            never
        }
        Fate::Unanswered => {
            checked.unanswered += 1;
            once || never
        }
    };
    if right { Ok(()) } else { Err(format!("{one:?} is there {counts:?} times")) }
}

/// A prefix of each list; no torn transaction; the client's own writes; never less than before.
fn reads_of_a_client(record: &Record, written: &HashMap<i64, &Written>, truth: &Truth) -> Result<(), String> {
    let mut before: Option<&Seen> = None;
    for seen in &record.seen {
        for (key, list) in &seen.lists {
            let all = truth.lists.get(key).map_or(&[][..], Vec::as_slice);
            if !all.starts_with(list) {
                return Err(format!("a read saw list {key} as {list:?}, which is no beginning of {all:?}"));
            }
            let earlier = before.and_then(|before| before.lists.get(key)).map_or(0, Vec::len);
            if list.len() < earlier {
                return Err(format!("a client saw {earlier} items of list {key}, and {} later", list.len()));
            }
        }
        let visible = |writer: i64, key: i32| seen.lists.get(&key).is_some_and(|list| list.contains(&writer));
        let shown: HashSet<i64> = seen.lists.values().flatten().copied().collect();
        for writer in shown {
            let Some(one) = written.get(&writer) else {
                return Err(format!("a read saw {writer}, which nobody wrote"));
            };
            if !one.keys.iter().all(|key| visible(writer, *key)) {
                return Err(format!("a read saw half of {one:?}: {:?}", seen.lists));
            }
        }
        let own = record.written[..seen.own_acknowledged].iter().filter(|one| one.fate == Fate::Acknowledged);
        if let Some(missed) = own.into_iter().find(|one| !one.keys.iter().all(|key| visible(one.writer, *key))) {
            return Err(format!("a client did not see its own {missed:?}"));
        }
        before = Some(seen);
    }
    Ok(())
}

/// Transactions and reads have one order: who appends after whom (ww), who sees whom (wr), and who does not see whom
/// yet (rw) make no circle. A client's own order belongs to it.
fn acyclic(records: &[Record], truth: &Truth) -> Result<(), String> {
    let mut edges: HashMap<String, HashSet<String>> = HashMap::new();
    let mut edge = |from: String, to: String| {
        edges.entry(to.clone()).or_default();
        edges.entry(from).or_default().insert(to);
    };
    let name = |writer: i64| format!("w{writer}");
    for list in truth.lists.values() {
        list.windows(2).for_each(|pair| edge(name(pair[0]), name(pair[1])));
    }
    for (client, record) in records.iter().enumerate() {
        for (number, seen) in record.seen.iter().enumerate() {
            let reader = format!("r{client}.{number}");
            for (key, list) in &seen.lists {
                if let Some(last) = list.last() {
                    edge(name(*last), reader.clone());
                }
                if let Some(next) = truth.lists.get(key).and_then(|all| all.get(list.len())) {
                    edge(reader.clone(), name(*next));
                }
            }
            if number > 0 {
                edge(format!("r{client}.{}", number - 1), reader.clone());
            }
        }
    }
    let mut incoming: HashMap<&str, usize> = edges.keys().map(|node| (node.as_str(), 0)).collect();
    edges.values().flatten().for_each(|to| *incoming.entry(to).or_default() += 1);
    let mut open: Vec<&str> = incoming.iter().filter(|(_, count)| **count == 0).map(|(node, _)| *node).collect();
    let mut done = 0;
    while let Some(node) = open.pop() {
        done += 1;
        for to in &edges[node] {
            let count = incoming.entry(to).or_default();
            *count -= 1;
            if *count == 0 {
                open.push(to);
            }
        }
    }
    if done == edges.len() {
        return Ok(());
    }
    let circle: Vec<&str> =
        incoming.into_iter().filter(|(_, count)| *count > 0).map(|(node, _)| node).take(12).collect();
    Err(format!("transactions and reads have no order: {circle:?} are in a circle"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lists that a read saw, and how many writes went before it.
    type Reading<'a> = (&'a [(i32, &'a [i64])], usize);

    fn record(written: &[(i64, &[i32], Fate)], seen: &[Reading<'_>]) -> Record {
        Record {
            written: written
                .iter()
                .map(|(writer, keys, fate)| Written { writer: *writer, keys: keys.to_vec(), fate: *fate })
                .collect(),
            seen: seen
                .iter()
                .map(|(lists, own)| Seen {
                    lists: lists.iter().map(|(key, items)| (*key, items.to_vec())).collect(),
                    own_acknowledged: *own,
                })
                .collect(),
        }
    }

    fn truth(lists: &[(i32, &[i64])], all: &[i64]) -> Truth {
        let lists = lists.iter().map(|(key, items)| (*key, items.to_vec())).collect();
        Truth { lists, journal: all.to_vec(), tags: all.to_vec() }
    }

    use Fate::{Acknowledged, Refused, Unanswered};

    /// The checker itself: each kind of damage is found.
    #[test]
    fn every_kind_of_damage_is_found() {
        let good = record(&[(1, &[1, 2], Acknowledged), (2, &[1], Unanswered)], &[(&[(1, &[1]), (2, &[1])], 1)]);
        assert!(check(&[good], &truth(&[(1, &[1, 2]), (2, &[1])], &[1, 2])).is_ok());
        let damaged = |record: Record, truth: Truth, word: &str| {
            let error = check(&[record], &truth).unwrap_err();
            assert!(error.contains(word), "{error}");
        };
        let one = || record(&[(1, &[1], Acknowledged)], &[]);
        damaged(one(), truth(&[(1, &[])], &[]), "times");
        damaged(one(), truth(&[(1, &[1, 1])], &[1]), "times");
        damaged(one(), truth(&[(1, &[1])], &[1, 1]), "times");
        damaged(record(&[(1, &[1], Refused)], &[]), truth(&[(1, &[1])], &[1]), "times");
        damaged(record(&[(1, &[1, 2], Unanswered)], &[]), truth(&[(1, &[1]), (2, &[])], &[1]), "times");
        damaged(one(), truth(&[(1, &[1, 9])], &[1]), "nobody wrote");
        let two = |seen: &[Reading<'_>]| record(&[(1, &[1, 2], Acknowledged), (2, &[1], Acknowledged)], seen);
        let whole = || truth(&[(1, &[1, 2]), (2, &[1])], &[1, 2]);
        damaged(two(&[(&[(1, &[2]), (2, &[])], 0)]), whole(), "no beginning");
        damaged(two(&[(&[(1, &[1]), (2, &[])], 0)]), whole(), "half of");
        damaged(two(&[(&[(1, &[]), (2, &[])], 1)]), whole(), "its own");
        damaged(two(&[(&[(1, &[1, 2]), (2, &[1])], 0), (&[(1, &[1]), (2, &[1])], 0)]), whole(), "later");
    }

    #[test]
    fn orders_that_contradict_each_other_are_found() {
        let writers = [(1, &[1, 2][..], Acknowledged), (2, &[1, 2][..], Acknowledged)];
        let error = check(&[record(&writers, &[])], &truth(&[(1, &[1, 2]), (2, &[2, 1])], &[1, 2])).unwrap_err();
        assert!(error.contains("circle"), "{error}");
        // Two readers who see two independent writers in different orders.
        let writers = record(&[(1, &[1], Acknowledged), (2, &[2], Acknowledged)], &[(&[(1, &[1]), (2, &[])], 0)]);
        let other = record(&[], &[(&[(1, &[]), (2, &[2])], 0)]);
        let error = check(&[writers, other], &truth(&[(1, &[1]), (2, &[2])], &[1, 2])).unwrap_err();
        assert!(error.contains("circle"), "{error}");
    }
}
