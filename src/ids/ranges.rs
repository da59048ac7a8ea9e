//! Blocks of values as arithmetic ranges. Pure.

use crate::buffer::LeaseRange;

/// How many values there are.
pub(super) fn count<'a>(ranges: impl IntoIterator<Item = &'a LeaseRange>) -> u64 {
    ranges.into_iter().map(|range| range.count).sum()
}

/// The values of a range.
pub(super) fn values(range: LeaseRange) -> impl Iterator<Item = i64> {
    (0..range.count).map(move |n| range.start.wrapping_add(range.increment.wrapping_mul(n as i64)))
}

/// Appends values, in their order, as few ranges.
pub(super) fn compress(ranges: &mut Vec<LeaseRange>, values: &[i64]) {
    for &value in values {
        if let Some(last) = ranges.last_mut() {
            if last.count == 1 && last.start != value {
                if let Some(increment) = value.checked_sub(last.start) {
                    last.increment = increment;
                    last.count = 2;
                    continue;
                }
            } else if last.count > 1 && Some(value) == next(last) {
                last.count += 1;
                continue;
            }
        }
        ranges.push(LeaseRange { start: value, increment: 1, count: 1 });
    }
}

/// The value that would go on a range.
fn next(range: &LeaseRange) -> Option<i64> {
    let ahead = range.increment.checked_mul(i64::try_from(range.count).ok()?)?;
    range.start.checked_add(ahead)
}

/// Takes the first `wanted` values out (all, if there are fewer).
pub(super) fn split_front(ranges: &mut Vec<LeaseRange>, mut wanted: u64) -> Vec<LeaseRange> {
    let mut taken = Vec::new();
    let mut whole = 0;
    for range in ranges.iter_mut() {
        if wanted == 0 {
            break;
        }
        if range.count <= wanted {
            wanted -= range.count;
            taken.push(*range);
            whole += 1;
        } else {
            taken.push(LeaseRange { count: wanted, ..*range });
            range.start = range.start.wrapping_add(range.increment.wrapping_mul(wanted as i64));
            range.count -= wanted;
            wanted = 0;
        }
    }
    ranges.drain(..whole);
    taken
}
