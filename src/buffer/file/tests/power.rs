//! The machine stops in the middle of whatever it does, and what was not synced is lost in part.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::super::power;
use super::*;

fn on_any_disk(folder: &Path) -> Store {
    Store::new(folder.to_owned(), Uuid::now_v7().to_string(), false, SMALL)
}

/// Appends, trims and claims until the machine stops, again and again; says what is wrong after one of the stops.
fn lives(seed: u64, forgetful: bool) -> Result<usize, String> {
    let mut rng = StdRng::seed_from_u64(seed);
    // In memory, where the system has that: what is lost is decided here.
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let (mut acknowledged, mut trimmed, mut lost) = (Seq::ZERO, Seq::ZERO, 0);
    // Where the log ends, unless the answer to the last append was that nobody knows.
    let mut known = Some(Seq::ZERO);
    power::simulate(forgetful);
    for _ in 0..8 {
        power::fails_after(rng.random_range(0..60));
        let store = on_any_disk(folder.path());
        if let Ok(claim) = store.claim(true, Seq::ZERO) {
            if claim.last < acknowledged {
                return Err(format!("{acknowledged} was acknowledged, found is {}", claim.last));
            }
            if let Some(known) = known.filter(|known| *known != claim.last) {
                return Err(format!("refused, but found is {} behind {known}", claim.last));
            }
            let mut last = claim.last;
            while !power::is_gone() {
                let next = Seq(last.0 + rng.random_range(1..6));
                match rng.random_range(0..12) {
                    0 => faults::writes(&[Fault::Full(rng.random_range(0..2000))]),
                    1 => faults::writes(&[Fault::None, Fault::Full(rng.random_range(0..2000))]),
                    _ => {}
                }
                let answer = append(&store, &records(last.0 + 1..=next.0));
                faults::writes(&[]);
                known = Some(last);
                match answer {
                    Ok(()) => (acknowledged, last, known) = (next, next, Some(next)),
                    Err(LogError::Refused(_)) => {}
                    Err(_) => {
                        known = None;
                        break;
                    }
                }
                if rng.random_range(0..5) == 0 {
                    let upto = Seq(rng.random_range(trimmed.0..=last.0));
                    // Perhaps done when the machine stops.
                    trimmed = trimmed.max(upto);
                    drop(store.trim(store.epoch(), upto));
                }
            }
        }
        drop(store);
        let dice = std::cell::RefCell::new(&mut rng);
        lost += power::lose(|below| dice.borrow_mut().random_range(0..below));
    }
    let store = on_any_disk(folder.path());
    let claim = store.claim(true, Seq::ZERO).map_err(|error| error.to_string())?;
    if let Some(known) = known.filter(|known| *known != claim.last) {
        return Err(format!("refused, but found is {} behind {known}", claim.last));
    }
    let found: Vec<u64> = store
        .read(trimmed, usize::MAX, u64::MAX)
        .map_err(|error| error.to_string())?
        .iter()
        .map(|one| one.seq().0)
        .collect();
    if claim.last < acknowledged || found != (trimmed.0 + 1..=claim.last.0).collect::<Vec<_>>() {
        return Err(format!("{acknowledged} was acknowledged, {trimmed} dropped, found is {found:?}"));
    }
    Ok(lost)
}

#[test]
fn what_was_acknowledged_survives_that_the_power_goes() {
    let mut lost = 0;
    for seed in 0..400 {
        lost += lives(seed, false).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        power::stop();
    }
    assert!(lost > 400, "nothing much is lost: {lost}");
    let found = (0..20).find_map(|seed| lives(seed, true).err());
    power::stop();
    assert!(found.is_some(), "an fsync that does nothing is not noticed");
}
