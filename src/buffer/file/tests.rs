use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use proptest::prelude::*;

use super::faults::{self, Fault};
use super::*;
use crate::buffer::contract::{record, records};
use crate::buffer::log::within;

mod crash;
mod damage;
mod power;

/// Small, so that there are many segments.
const SMALL: Sizes = Sizes { segment: 2048, ahead: 1024 };

fn store_with(folder: &Path, sizes: Sizes) -> Store {
    Store::new(folder.to_owned(), Uuid::now_v7().to_string(), true, sizes)
}

fn store(folder: &Path) -> Store {
    store_with(folder, SMALL)
}

fn claimed(folder: &Path) -> (Store, Claim) {
    let store = store(folder);
    let claim = claim_free(&store);
    (store, claim)
}

/// Claims a folder that nobody uses: a child that another test starts holds our lock between its fork and its exec.
#[track_caller]
fn claim_free(store: &Store) -> Claim {
    let started = Instant::now();
    loop {
        match store.claim(true, Seq::ZERO) {
            Ok(claim) => return claim,
            Err(LogError::Doubtful(why)) if why.contains("in use") => {
                assert!(started.elapsed() < Duration::from_secs(10), "{why}");
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(error) => panic!("{error}"),
        }
    }
}

fn append(store: &Store, records: &[Record]) -> Result<(), LogError> {
    store.append(store.epoch(), records)
}

fn seqs(store: &Store) -> Vec<u64> {
    store.read(Seq::ZERO, usize::MAX, u64::MAX).unwrap().iter().map(|record| record.seq().0).collect()
}

fn segments(folder: &Path) -> Vec<String> {
    disk::names(folder).unwrap().into_iter().filter(|name| name.ends_with(".log")).collect()
}

#[test]
fn a_folder_has_one_owner() {
    let folder = tempfile::tempdir().unwrap();
    let (first, _) = claimed(folder.path());
    append(&first, &records(1..=2)).unwrap();
    let second = store(folder.path());
    let error = second.claim(true, Seq::ZERO).unwrap_err();
    let pid = std::process::id().to_string();
    assert!(matches!(&error, LogError::Doubtful(why) if why.contains("in use by process") && why.contains(&pid)));
    append(&first, &records(3..=3)).unwrap();

    // A lock that is not there any more keeps nobody out; the epoch does.
    std::fs::remove_file(folder.path().join("lock")).unwrap();
    second.claim(true, Seq::ZERO).unwrap();
    for error in [append(&first, &records(4..=4)).unwrap_err(), first.claim(false, Seq::ZERO).unwrap_err()] {
        assert!(matches!(error, LogError::Fenced(_)), "{error}");
    }
    assert!(first.owned(first.epoch(), || Ok(())).is_err());
    append(&second, &records(4..=4)).unwrap();
    assert_eq!(seqs(&second), [1, 2, 3, 4]);
    drop(second);
    // Whoever comes next has the lock again.
    claimed(folder.path());
}

#[test]
fn a_lock_that_vanishes_is_taken_again() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = claimed(folder.path());
    std::fs::remove_file(folder.path().join("lock")).unwrap();
    assert!(matches!(append(&store, &records(1..=1)), Err(LogError::Doubtful(_))));
    store.claim(false, Seq::ZERO).unwrap();
    append(&store, &records(1..=1)).unwrap();
    assert_eq!(seqs(&store), [1]);
}

#[test]
fn a_folder_in_memory_is_refused() {
    let memory = Path::new("/dev/shm");
    if !memory.exists() || disk::forgetful(memory).unwrap().is_none() {
        eprintln!("this machine has no folder in memory to try");
        return;
    }
    let folder = tempfile::tempdir_in(memory).unwrap();
    let error = store(folder.path()).claim(true, Seq::ZERO).unwrap_err();
    assert!(matches!(&error, LogError::NotDurable(why) if why.contains("tmpfs")), "{error}");
    assert!(matches!(store(folder.path()).look(), Err(LogError::NotDurable(_))));
    let careless = Store::new(folder.path().to_owned(), "me".into(), false, SMALL);
    careless.claim(true, Seq::ZERO).unwrap();
}

#[test]
fn what_cannot_be_used_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = store(&file.join("site")).claim(true, Seq::ZERO).unwrap_err();
    assert!(matches!(&error, LogError::Refused(why) if why.contains("file")), "{error}");
    assert!(store(&file.join("site")).look().is_err());
    // Looking makes nothing.
    let missing = folder.path().join("a/b");
    store(&missing).look().unwrap();
    assert!(!missing.exists());

    let (store, _) = claimed(folder.path());
    let meta = Meta::load(folder.path()).unwrap().unwrap();
    drop(store);
    let newer = serde_json::to_string(&Meta { format: 99, ..meta }).unwrap().replace("owner", "writer");
    disk::replace(&folder.path().join("meta"), &newer).unwrap();
    let error = self::store(folder.path()).claim(true, Seq::ZERO).unwrap_err();
    assert!(matches!(&error, LogError::Corrupt(why) if why.contains("format 99.")), "{error}");
}

#[test]
fn a_url_names_the_folder_as_it_is() {
    let folder = |url: &str| store::folder_of(url, "s");
    assert_eq!(folder("file:///tmp/buf two").unwrap(), Path::new("/tmp/buf two/s"));
    assert_eq!(folder("file:///tmp/100% mine").unwrap(), Path::new("/tmp/100% mine/s"));
    for url in ["file:///tmp/buf%20two", "file:///tmp/caf%C3%a9", "file://tmp", "file:///"] {
        assert!(matches!(folder(url), Err(LogError::Refused(_))), "{url}");
    }
}

#[cfg(unix)]
#[test]
fn only_the_owner_may_read_what_clients_wrote() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let site = folder.path().join("buffer/site");
    let (store, _) = claimed(&site);
    append(&store, &records(1..=1)).unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&site), 0o700);
    for name in disk::names(&site).unwrap() {
        assert!(name.starts_with("reserve") || name == "quarantine" || mode(&site.join(&name)) == 0o600, "{name}");
    }
}

#[test]
fn a_full_disk_is_a_definite_no_and_room_lets_it_go_on() {
    for written in [0, 1, 40, 600, 5000] {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = claimed(folder.path());
        append(&store, &records(1..=1)).unwrap();
        for faults in [vec![Fault::Full(written)], vec![Fault::None, Fault::Full(written)]] {
            faults::writes(&faults);
            // Large enough for another segment: what fails is its head, its records, or the zeros behind them.
            let error = append(&store, &records(2..=9)).unwrap_err();
            assert!(matches!(error, LogError::Refused(_)), "{written}: {error}");
            faults::writes(&[]);
            assert_eq!(seqs(&store), [1]);
            assert_eq!(store.probe(), Ok(Seq(1)));
        }
        let copy = copied(folder.path());
        assert_eq!(claimed(copy.path()).1.last, Seq(1));
        append(&store, &records(2..=9)).unwrap();
        drop(store);
        let (store, claim) = claimed(folder.path());
        assert_eq!((claim.last, seqs(&store)), (Seq(9), (1..=9).collect()));
    }
}

#[test]
fn a_full_disk_can_be_drained() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = claimed(folder.path());
    for seq in 1..=20 {
        append(&store, &records(seq..=seq)).unwrap();
    }
    let before = segments(folder.path()).len();
    // The reserve is what the new `meta` is written into.
    assert!(folder.path().join("reserve").exists());
    store.trim(store.epoch(), Seq(20)).unwrap();
    assert_eq!((segments(folder.path()).len(), before > 3), (1, true));
    assert!(seqs(&store).is_empty());
    append(&store, &records(21..=21)).unwrap();
    drop(store);
    assert_eq!(claimed(folder.path()).1.last, Seq(21));
}

/// Replay needs to put entries aside that main rejects, and sessions need leases, while no commit is taken.
#[test]
fn on_a_full_disk_there_is_room_beside_the_entries() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = claimed(folder.path());
    append(&store, &records(1..=2)).unwrap();
    let reserve = |name| std::fs::metadata(folder.path().join(name)).unwrap().len();
    let whole = (reserve("reserve"), reserve("reserve.aside"));
    let put = |seq| aside::put(folder.path(), &Quarantined::new(record(seq).entry, serde_json::json!({})));
    // As if nothing of it were free again: what is given up is filled up after each, so a full disk has to say no for long.
    faults::replaces(&[Fault::Full(0)]);
    put(1).unwrap();
    assert_eq!(aside::index(folder.path()).unwrap().len(), 1);
    assert_eq!((reserve("reserve"), reserve("reserve.aside")), whole, "filled again, since there was room");
    faults::replaces(&[Fault::Full(0), Fault::Full(0)]);
    assert!(matches!(put(2), Err(LogError::Refused(_))), "not even with the reserve");
    assert!((1..whole.1).contains(&reserve("reserve.aside")), "only what was needed is given up");
    assert_eq!(reserve("reserve"), whole.0, "what `meta` needs is for nobody else");
    faults::replaces(&[Fault::Full(0)]);
    aside::store_main_record(folder.path(), &MainRecord::default()).unwrap();
    faults::replaces(&[]);
    put(2).unwrap();
    assert_eq!((aside::index(folder.path()).unwrap().len(), reserve("reserve.aside")), (2, whole.1));
}

#[test]
fn after_a_failed_fsync_nothing_is_believed() {
    for faults in [vec![Fault::Sync], vec![Fault::None, Fault::Sync], vec![Fault::None, Fault::None, Fault::Sync]] {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = claimed(folder.path());
        append(&store, &records(1..=1)).unwrap();
        faults::syncs(&faults);
        let batch = records(2..=9);
        assert!(matches!(append(&store, &batch), Err(LogError::Doubtful(_))));
        faults::syncs(&[]);
        assert!(matches!(append(&store, &batch), Err(LogError::Doubtful(_))), "without a claim");
        assert_eq!(seqs(&store), [1]);
        // The claim's own fsync has to succeed, too.
        faults::syncs(&[Fault::Sync]);
        assert!(matches!(store.claim(false, Seq::ZERO), Err(LogError::Doubtful(_))));
        faults::syncs(&[]);
        let claim = store.claim(false, Seq::ZERO).unwrap();
        assert!([Seq(1), Seq(9)].contains(&claim.last), "all or nothing: {claim:?}");
        append(&store, &batch).unwrap();
        assert_eq!(seqs(&store), (1..=9).collect::<Vec<_>>());
    }
}

#[test]
fn a_write_that_breaks_off_is_in_doubt_until_the_next_claim() {
    for written in [0, 20, 33, 700, 100_000] {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = claimed(folder.path());
        append(&store, &records(1..=1)).unwrap();
        faults::writes(&[Fault::Broken(written)]);
        let batch = records(2..=3);
        assert!(matches!(append(&store, &batch), Err(LogError::Doubtful(_))));
        faults::writes(&[]);
        let last = store.claim(false, Seq::ZERO).unwrap().last;
        assert_eq!(last, if written == 100_000 { Seq(3) } else { Seq(1) });
        append(&store, &batch).unwrap();
        append(&store, &records(4..=4)).unwrap();
        assert_eq!(seqs(&store), [1, 2, 3, 4]);
    }
}

/// A copy, as a crash leaves it: without anybody holding the lock.
fn copied(folder: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for name in disk::names(folder).unwrap() {
        if folder.join(&name).is_file() {
            std::fs::copy(folder.join(&name), copy.path().join(&name)).unwrap();
        }
    }
    copy
}

#[derive(Debug, Clone)]
enum Step {
    Append(u64),
    /// So many again that are there already.
    Repeat(u64),
    Full(usize),
    Broken(usize),
    Unsynced,
    /// After an entry, so many, and so many bytes.
    Read(u64, usize, u64),
    Trim(u64),
    Reopen,
    Floor(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1..9_u64).prop_map(Step::Append),
        1 => (1..4_u64).prop_map(Step::Repeat),
        1 => (0..3000_usize).prop_map(Step::Full),
        1 => (0..3000_usize).prop_map(Step::Broken),
        1 => Just(Step::Unsynced),
        2 => (0..200_u64, 0..20_usize, 0..9000_u64).prop_map(|(after, limit, bytes)| Step::Read(after, limit, bytes)),
        1 => (0..200_u64).prop_map(Step::Trim),
        2 => Just(Step::Reopen),
        1 => (0..10_u64).prop_map(Step::Floor),
    ]
}

/// What must be there.
#[derive(Default)]
struct Model {
    records: BTreeMap<Seq, Record>,
    last: Seq,
    trimmed: Seq,
}

impl Model {
    fn next(&self, count: u64) -> Vec<Record> {
        records(self.last.0 + 1..=self.last.0 + count)
    }

    fn add(&mut self, records: &[Record]) {
        self.last = records.last().map_or(self.last, Record::seq);
        self.records.extend(records.iter().map(|record| (record.seq(), record.clone())));
    }

    fn must_equal(&self, store: &Store, after: Seq, limit: usize, bytes: u64) {
        let found = store.read(after, limit, bytes).unwrap().into_iter().map(|record| record.json);
        let there = self.records.range(after.max(self.trimmed).next()..).map(|(_, record)| record.clone());
        let there = within(there, limit, bytes).into_iter().map(|record| record.json);
        assert_eq!(found.collect::<Vec<Arc<str>>>(), there.collect::<Vec<_>>());
    }
}

fn simulate(steps: Vec<Step>) {
    faults::without_fsync();
    let folder = tempfile::tempdir().unwrap();
    let mut model = Model::default();
    let mut store = claimed(folder.path()).0;
    for step in steps {
        match step {
            Step::Append(count) => {
                let batch = model.next(count);
                append(&store, &batch).unwrap();
                model.add(&batch);
            }
            Step::Repeat(count) => {
                let from = Seq(model.last.0.saturating_sub(count)).max(model.trimmed);
                let there: Vec<Record> = model.records.range(from.next()..).map(|(_, record)| record.clone()).collect();
                // Consecutive ones only: a floor leaves a gap.
                if there.first().is_some_and(|first| first.seq().0 + there.len() as u64 == model.last.0 + 1) {
                    append(&store, &there).unwrap();
                }
            }
            Step::Full(written) => {
                faults::writes(&[Fault::Full(written)]);
                assert!(matches!(append(&store, &model.next(3)), Err(LogError::Refused(_))));
            }
            Step::Broken(_) | Step::Unsynced => {
                let batch = model.next(3);
                match step {
                    Step::Broken(written) => faults::writes(&[Fault::Broken(written)]),
                    _ => faults::syncs(&[Fault::Sync]),
                }
                assert!(matches!(append(&store, &batch), Err(LogError::Doubtful(_))));
                faults::writes(&[]);
                faults::syncs(&[]);
                let last = store.claim(false, Seq::ZERO).unwrap().last;
                if last != model.last {
                    assert_eq!(last, batch[2].seq(), "all or nothing");
                    model.add(&batch);
                }
            }
            Step::Read(after, limit, bytes) => model.must_equal(&store, Seq(after), limit, bytes),
            Step::Trim(upto) => {
                model.trimmed = model.trimmed.max(Seq(upto).min(model.last));
                store.trim(store.epoch(), Seq(upto)).unwrap();
            }
            Step::Reopen | Step::Floor(_) => {
                let floor = if let Step::Floor(ahead) = step { Seq(model.last.0 + ahead) } else { Seq::ZERO };
                drop(store);
                store = self::store(folder.path());
                claim_free(&store);
                let claim = store.claim(true, floor).unwrap();
                assert_eq!((claim.found, claim.last), (model.last, model.last.max(floor)));
                model.last = claim.last;
            }
        }
        faults::writes(&[]);
        assert_eq!(store.probe(), Ok(model.last));
        model.must_equal(&store, Seq::ZERO, usize::MAX, u64::MAX);
    }
    let copy = copied(folder.path());
    model.must_equal(&self::store(copy.path()), Seq::ZERO, usize::MAX, u64::MAX);
}

proptest! {
    #[test]
    fn it_is_what_a_list_would_be(steps in prop::collection::vec(step(), 0..40)) {
        simulate(steps);
    }
}

/// Prints how fast batches are appended: `cargo test --lib append_rate -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
#[allow(clippy::print_stdout)]
fn append_rate() {
    let folder = tempfile::tempdir().unwrap();
    let store = store_with(folder.path(), SIZES);
    store.claim(true, Seq::ZERO).unwrap();
    let mut next = 1;
    for (batch, rounds) in [(1, 3000), (16, 1000), (256, 200)] {
        let batches: Vec<Vec<Record>> =
            (0..rounds).map(|round| records(next + round * batch..=next + round * batch + batch - 1)).collect();
        next += rounds * batch;
        let (started, mut times) = (Instant::now(), Vec::new());
        for records in &batches {
            let at = Instant::now();
            append(&store, records).unwrap();
            times.push(at.elapsed());
        }
        let rate = (rounds * batch) as f64 / started.elapsed().as_secs_f64();
        times.sort();
        let at = |part: f64| times[(times.len() as f64 * part) as usize];
        println!(
            "batches of {batch} ({} bytes): {rate:.0}/s, p50 {:?}, p99 {:?}",
            record(1).bytes(),
            at(0.5),
            at(0.99)
        );
    }
}
