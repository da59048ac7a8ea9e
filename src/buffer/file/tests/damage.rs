//! What is left of a folder after a crash, and after a disk that forgets or lies.

use std::os::unix::fs::FileExt;

use super::*;

const ONE: Sizes = Sizes { segment: 1 << 20, ahead: 4096 };

/// A folder with entries 1 and 2 alone and `batch` more in one batch, and where that batch stands in the only segment.
fn folder_with(batch: u64) -> (tempfile::TempDir, std::ops::Range<u64>) {
    faults::without_fsync();
    let folder = tempfile::tempdir().unwrap();
    let store = store_with(folder.path(), ONE);
    store.claim(true, Seq::ZERO).unwrap();
    for seq in 1..=2 {
        append(&store, &records(seq..=seq)).unwrap();
    }
    let end = || {
        let bytes = std::fs::read(segment_of(folder.path())).unwrap();
        segment::scan(&bytes, Seq(1)).unwrap().end as u64
    };
    let start = end();
    append(&store, &records(3..=2 + batch)).unwrap();
    let place = start..end();
    drop(store);
    (folder, place)
}

fn segment_of(folder: &Path) -> std::path::PathBuf {
    folder.join(segments(folder).pop().unwrap())
}

fn spoil(folder: &Path, at: u64, bytes: &[u8]) -> tempfile::TempDir {
    let copy = copied(folder);
    let file = std::fs::OpenOptions::new().write(true).open(segment_of(copy.path())).unwrap();
    file.write_all_at(bytes, at).unwrap();
    copy
}

/// The last batch is gone as a whole, the rest is there, and the log goes on.
#[track_caller]
fn torn(folder: &Path, what: &str) {
    let store = store_with(folder, ONE);
    let claim = claim_free(&store);
    assert_eq!(claim.last, Seq(2), "{what}");
    append(&store, &records(3..=4)).unwrap();
    assert_eq!(seqs(&store), [1, 2, 3, 4], "{what}");
    drop(store);
    assert_eq!(claimed(folder).1.last, Seq(4), "{what}");
}

#[test]
fn a_tail_cut_at_any_byte_costs_the_last_batch_only() {
    for batch in [1, 3] {
        let (folder, place) = folder_with(batch);
        // The padding at its end is no loss.
        let last = std::fs::read(segment_of(folder.path())).unwrap()[..place.end as usize]
            .iter()
            .rposition(|&byte| byte != 0)
            .unwrap() as u64;
        for cut in place.start..=last {
            let copy = copied(folder.path());
            let file = std::fs::OpenOptions::new().write(true).open(segment_of(copy.path())).unwrap();
            file.set_len(cut).unwrap();
            torn(copy.path(), &format!("cut at {cut} of {place:?}"));
        }
    }
}

#[test]
fn a_batch_that_lacks_sectors_is_dropped() {
    let (folder, place) = folder_with(4);
    let sectors: Vec<u64> = (place.start / 512..=(place.end - 1) / 512).collect();
    assert!(sectors.len() >= 3, "{place:?}");
    for missing in 1..1_u32 << sectors.len() {
        let copy = copied(folder.path());
        let file = std::fs::OpenOptions::new().write(true).open(segment_of(copy.path())).unwrap();
        for (bit, sector) in sectors.iter().enumerate() {
            if missing & (1 << bit) != 0 {
                let from = (sector * 512).max(place.start);
                let upto = ((sector + 1) * 512).min(place.end);
                file.write_all_at(&vec![0; (upto - from) as usize], from).unwrap();
            }
        }
        torn(copy.path(), &format!("without sectors {missing:b}"));
    }
}

#[test]
fn no_flipped_bit_is_replayed() {
    let (folder, place) = folder_with(2);
    let bytes = std::fs::read(segment_of(folder.path())).unwrap();
    let reference: Vec<Arc<str>> =
        store(folder.path()).read(Seq::ZERO, 99, u64::MAX).unwrap().into_iter().map(|record| record.json).collect();
    let mut harmless = 0;
    for at in 0..place.end {
        let copy = spoil(folder.path(), at, &[bytes[at as usize] ^ (1 << (at % 8))]);
        let store = store_with(copy.path(), ONE);
        let read = store.claim(true, Seq::ZERO).and_then(|_| store.read(Seq::ZERO, 99, u64::MAX));
        match read {
            Err(LogError::Corrupt(why)) => assert!(why.contains(".log"), "{why}"),
            Err(error) => panic!("byte {at}: {error}"),
            // In the padding.
            Ok(records) => {
                harmless += 1;
                assert_eq!(bytes[at as usize], 0, "byte {at}");
                assert_eq!(records.into_iter().map(|record| record.json).collect::<Vec<_>>(), reference);
            }
        }
    }
    assert!(harmless < 4 * HEADER_BYTES, "{harmless}");
}

const HEADER_BYTES: u64 = segment::HEADER as u64;

#[test]
fn a_hole_before_a_later_batch_is_reported_by_number() {
    let (folder, place) = folder_with(2);
    // Entry 1 stands at the beginning, entry 2 somewhere between; 3 and 4 came later.
    let zeros = vec![0; (place.start - HEADER_BYTES) as usize];
    let copy = spoil(folder.path(), HEADER_BYTES, &zeros);
    let error = store_with(copy.path(), ONE).claim(true, Seq::ZERO).unwrap_err();
    assert!(matches!(&error, LogError::Corrupt(why) if why.contains("entries 1 to 2")), "{error}");
    // Nothing was mended by looking.
    assert_eq!(std::fs::metadata(segment_of(copy.path())).unwrap().len(), {
        std::fs::metadata(segment_of(folder.path())).unwrap().len()
    });
}

#[test]
fn damage_in_an_older_segment_is_found_when_it_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = claimed(folder.path());
    for seq in 1..=30 {
        append(&store, &records(seq..=seq)).unwrap();
    }
    drop(store);
    let names = segments(folder.path());
    assert!(names.len() > 4);
    let first_of = |name: &str| Seq(name[..20].parse().unwrap());

    let copy = copied(folder.path());
    let path = copy.path().join(&names[1]);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let (store, _) = claimed(copy.path());
    assert!(matches!(store.read(Seq::ZERO, 99, u64::MAX), Err(LogError::Corrupt(_))));
    let after = Seq(first_of(&names[2]).0 - 1);
    assert!(store.read(after, 99, u64::MAX).is_ok(), "what is whole can be read");

    // Cut short, or gone.
    let copy = copied(folder.path());
    let file = std::fs::OpenOptions::new().write(true).open(copy.path().join(&names[1])).unwrap();
    file.set_len(HEADER_BYTES).unwrap();
    let lost = LogError::Lost { first: first_of(&names[1]), last: Seq(first_of(&names[2]).0 - 1) };
    assert_eq!(claimed(copy.path()).0.read(Seq::ZERO, 99, u64::MAX).unwrap_err(), lost);
    let copy = copied(folder.path());
    std::fs::remove_file(copy.path().join(&names[1])).unwrap();
    assert_eq!(claimed(copy.path()).0.read(Seq::ZERO, 99, u64::MAX).unwrap_err(), lost);

    let copy = copied(folder.path());
    std::fs::remove_file(copy.path().join(&names[0])).unwrap();
    let last = Seq(first_of(&names[1]).0 - 1);
    let error = self::store(copy.path()).claim(true, Seq::ZERO).unwrap_err();
    assert_eq!(error, LogError::Lost { first: Seq(1), last });
    // Nobody misses what the replica has.
    self::store(copy.path()).claim(true, last).unwrap();

    let copy = copied(folder.path());
    std::fs::remove_file(copy.path().join(names.last().unwrap())).unwrap();
    let error = self::store(copy.path()).claim(true, Seq::ZERO).unwrap_err();
    assert!(matches!(&error, LogError::Corrupt(why) if why.contains("is missing")), "{error}");
}

#[test]
fn small_files_are_checked_too() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = claimed(folder.path());
    append(&store, &records(1..=1)).unwrap();
    aside::store_lease(
        folder.path(),
        "public.s".into(),
        LeaseBlock { version: 1, leased_to: Some(7), ..LeaseBlock::default() },
    )
    .unwrap();
    drop(store);
    for name in ["meta", "leases"] {
        let path = folder.path().join(name);
        let whole = std::fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 4;
            std::fs::write(&path, &bytes).unwrap();
            let error = match name {
                "meta" => self::store(folder.path()).claim(true, Seq::ZERO).unwrap_err(),
                _ => aside::leases(folder.path()).unwrap_err(),
            };
            assert!(matches!(&error, LogError::Corrupt(why) if why.contains(name)), "byte {at}: {error}");
        }
        std::fs::write(&path, &whole).unwrap();
    }
    std::fs::remove_file(folder.path().join("meta")).unwrap();
    let error = self::store(folder.path()).claim(true, Seq::ZERO).unwrap_err();
    assert!(matches!(&error, LogError::Corrupt(why) if why.contains("no file `meta`")), "{error}");
}
