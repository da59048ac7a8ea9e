use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};

use proptest::prelude::*;

use super::*;

mod ahead;

/// What survives a crash. Writes fail with or without effect, as told.
#[derive(Clone, Default)]
struct Disk {
    blocks: Arc<Mutex<BTreeMap<String, LeaseBlock>>>,
    /// Outcomes of the next writes; none left: fine.
    faults: Arc<Mutex<VecDeque<Fault>>>,
    /// Writes that got lost on their way, and may arrive later.
    late: Arc<Mutex<Vec<(String, LeaseBlock)>>>,
    /// Which process may write, and which one holds this handle: the buffer fences.
    owner: Arc<AtomicI64>,
    process: i64,
}

#[derive(Debug, Clone, Copy)]
enum Fault {
    None,
    NotStored,
    StoredWithoutAnswer,
    StoredLater,
}

impl Disk {
    /// A handle for a new process; older ones can write no more.
    fn claim(&self) -> Disk {
        lock(&self.late).clear();
        let process = self.owner.fetch_add(1, Ordering::Relaxed) + 1;
        Disk { process, ..self.clone() }
    }

    fn write(&self, sequence: &str, block: &LeaseBlock) {
        let mut blocks = lock(&self.blocks);
        let there = blocks.entry(sequence.to_owned()).or_default();
        if there.version < block.version {
            *there = block.clone();
        }
    }

    fn deliver_late(&self) {
        for (sequence, block) in std::mem::take(&mut *lock(&self.late)) {
            self.write(&sequence, &block);
        }
    }
}

impl LeaseStore for Disk {
    fn load(&self) -> BoxFuture<'_, Result<BTreeMap<String, LeaseBlock>, String>> {
        Box::pin(async move { Ok(lock(&self.blocks).clone()) })
    }

    fn store<'a>(&'a self, sequence: &'a str, block: &'a LeaseBlock) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            tokio::task::yield_now().await;
            if self.owner.load(Ordering::Relaxed) != self.process {
                return Err("fenced".into());
            }
            let fault = lock(&self.faults).pop_front().unwrap_or(Fault::None);
            match fault {
                Fault::None => self.write(sequence, block),
                Fault::NotStored => return Err("not stored".into()),
                Fault::StoredWithoutAnswer => {
                    self.write(sequence, block);
                    return Err("no answer".into());
                }
                Fault::StoredLater => {
                    lock(&self.late).push((sequence.to_owned(), block.clone()));
                    return Err("no answer".into());
                }
            }
            Ok(())
        })
    }
}

/// Main's sequences: each value once.
#[derive(Clone)]
struct Main {
    next: Arc<AtomicI64>,
    increment: i64,
    reachable: Arc<AtomicBool>,
    file: Arc<AtomicU32>,
}

impl Main {
    fn new(increment: i64) -> Main {
        Main {
            next: Arc::new(AtomicI64::new(1)),
            increment,
            reachable: Arc::new(AtomicBool::new(true)),
            file: Arc::new(AtomicU32::new(1)),
        }
    }

    fn made(&self) -> SequenceId {
        SequenceId { oid: 1, file: self.file.load(Ordering::Relaxed) }
    }

    /// ALTER SEQUENCE … RESTART
    fn restart(&self, at: i64) {
        self.next.store(at, Ordering::Relaxed);
        self.file.fetch_add(1, Ordering::Relaxed);
    }
}

impl LeaseSource for Main {
    fn lease<'a>(&'a self, _: &'a str, count: u32) -> BoxFuture<'a, Result<Drawn, String>> {
        Box::pin(async move {
            tokio::task::yield_now().await;
            if !self.reachable.load(Ordering::Relaxed) {
                return Err("main cannot be reached".into());
            }
            let draw = |_| self.next.fetch_add(self.increment, Ordering::Relaxed);
            Ok(Drawn { values: (0..count).map(draw).collect(), of: self.made() })
        })
    }

    fn position<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Position, String>> {
        Box::pin(async move {
            if !self.reachable.load(Ordering::Relaxed) {
                return Err("main cannot be reached".into());
            }
            let last = self.next.load(Ordering::Relaxed) - self.increment;
            Ok(Position { of: self.made(), last, increment: self.increment, cycles: false })
        })
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap()
}

async fn open(lease_size: u32, disk: &Disk, main: &Main) -> Leases {
    Leases::open(IdsConfig { lease_size }, disk.claim(), main.clone()).await.unwrap()
}

#[test]
fn values_come_in_mains_order() {
    runtime().block_on(async {
        let leases = open(10, &Disk::default(), &Main::new(5)).await;
        assert_eq!(leases.take("s", None, 3).await.unwrap(), [1, 6, 11]);
        assert_eq!(leases.take("s", None, 25).await.unwrap(), (3..28).map(|n| 1 + 5 * n).collect::<Vec<_>>());
    });
}

#[test]
fn a_lease_outlives_the_link_and_a_restart() {
    runtime().block_on(async {
        let (disk, main) = (Disk::default(), Main::new(1));
        let leases = open(100, &disk, &main).await;
        leases.prepare(vec![("s".into(), main.made())]).await;
        assert_eq!(leases.remaining()["s"], 100);
        main.reachable.store(false, Ordering::Relaxed);
        assert_eq!(leases.take("s", None, 10).await.unwrap().len(), 10);
        let restarted = open(100, &disk, &main).await;
        assert_eq!(restarted.take("s", None, 1).await.unwrap(), [11]);
    });
}

#[test]
fn used_up_is_55000_within_two_seconds() {
    runtime().block_on(async {
        let (disk, main) = (Disk::default(), Main::new(1));
        main.reachable.store(false, Ordering::Relaxed);
        let leases = open(10, &disk, &main).await;
        let started = Instant::now();
        let error = leases.take("public.s", None, 1).await.unwrap_err();
        assert!(started.elapsed() <= DEMAND_WAIT);
        let report = error.report();
        assert_eq!(report.code, sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE);
        assert_eq!(report.detail.as_deref(), Some("main cannot be reached"));
        assert!(report.hint.is_some());
        main.reachable.store(true, Ordering::Relaxed);
        tokio::time::sleep(REFILL_PAUSE).await;
        assert_eq!(leases.take("public.s", None, 1).await.unwrap(), [1]);
    });
}

#[test]
fn concurrent_takers_share_nothing() {
    runtime().block_on(async {
        let leases = open(8, &Disk::default(), &Main::new(1)).await;
        let tasks: Vec<_> = (0..50)
            .map(|n| {
                let leases = leases.clone();
                tokio::spawn(async move { leases.take("s", None, n % 7 + 1).await.unwrap() })
            })
            .collect();
        let mut seen = HashSet::new();
        for task in tasks {
            for value in task.await.unwrap() {
                assert!(seen.insert(value), "{value} twice");
            }
        }
    });
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        4 => Just(Fault::None),
        1 => Just(Fault::NotStored),
        1 => Just(Fault::StoredWithoutAnswer),
        1 => Just(Fault::StoredLater),
    ]
}

#[derive(Debug, Clone)]
enum Step {
    Take(usize),
    Crash,
    DeliverLate,
    Link(bool),
    Wait,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1..12_usize).prop_map(Step::Take),
        1 => Just(Step::Crash),
        1 => Just(Step::DeliverLate),
        1 => any::<bool>().prop_map(Step::Link),
        1 => Just(Step::Wait),
    ]
}

proptest! {
    #[test]
    fn never_the_same_value_twice(
        lease_size in 1..300_u32,
        increment in prop_oneof![Just(1), Just(-3), Just(50)],
        faults in prop::collection::vec(fault(), 0..40),
        steps in prop::collection::vec(step(), 0..60),
    ) {
        runtime().block_on(async {
            let (disk, main) = (Disk::default(), Main::new(increment));
            lock(&disk.faults).extend(faults);
            let mut leases = open(lease_size, &disk, &main).await;
            let mut seen = HashSet::new();
            for step in steps {
                match step {
                    Step::Take(count) => for value in leases.take("s", None, count).await.unwrap_or_default() {
                        assert!(seen.insert(value), "{value} twice");
                    },
                    Step::Crash => leases = open(lease_size, &disk, &main).await,
                    Step::DeliverLate => disk.deliver_late(),
                    Step::Link(up) => main.reachable.store(up, Ordering::Relaxed),
                    Step::Wait => tokio::time::sleep(Duration::from_secs(2)).await,
                }
            }
        });
    }

    #[test]
    fn ranges_keep_all_values_in_order(
        values in prop::collection::vec(prop_oneof![0..20_i64, any::<i64>()], 0..50),
        parts in prop::collection::vec(0..8_u64, 0..20),
    ) {
        let mut ranges = Vec::new();
        compress(&mut ranges, &values);
        let mut out = Vec::new();
        for part in parts {
            out.extend(split_front(&mut ranges, part));
        }
        out.extend(split_front(&mut ranges, u64::MAX));
        let out: Vec<i64> = out.into_iter().flat_map(ranges::values).collect();
        prop_assert_eq!(out, values);
    }
}

#[test]
fn values_of_a_lease_that_was_given_up_do_not_come_back() {
    runtime().block_on(async {
        let leases = open(10, &Disk::default(), &Main::new(1)).await;
        let renewals = leases.renewals();
        assert_eq!(leases.take("s", None, 2).await.unwrap(), [1, 2]);
        leases.give_back("s", &[2], renewals);
        assert_eq!(leases.take("s", None, 2).await.unwrap(), [2, 3]);
        leases.renew("s").await.unwrap();
        leases.give_back("s", &[2, 3], renewals);
        assert!(leases.take("s", None, 1).await.unwrap()[0] > 3);
    });
}

#[test]
fn a_main_that_went_back_gives_no_value_twice() {
    for increment in [1, -3] {
        runtime().block_on(async {
            let (disk, main) = (Disk::default(), Main::new(increment));
            let config = IdsConfig { lease_size: 100 };
            let leases = Leases::open(config, disk.claim(), main.clone()).await.unwrap();
            let mut given: HashSet<i64> = leases.take("s", None, 30).await.unwrap().into_iter().collect();
            // Restored to before the lease; others draw from it before anybody here notices.
            main.next.store(1 + 5 * increment, Ordering::Relaxed);
            let others: HashSet<i64> = main.lease("s", 60).await.unwrap().values.into_iter().collect();
            let renewals = leases.renewals();
            leases.verify().await;
            while leases.renewals() == renewals {
                tokio::task::yield_now().await;
            }
            let ours = leases.take("s", None, 150).await.unwrap();
            assert!(ours.iter().all(|value| given.insert(*value) && !others.contains(value)), "{ours:?}");
            // Also a process that begins only now, and only when it needs more.
            main.next.store(1, Ordering::Relaxed);
            let leases = Leases::open(config, disk.claim(), main.clone()).await.unwrap();
            let ours = leases.take("s", None, 400).await.unwrap();
            assert!(ours.iter().all(|value| given.insert(*value)), "{ours:?}");
            // Nothing to do: the lease is kept.
            let before = leases.renewals();
            leases.verify().await;
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert_eq!(leases.renewals(), before);
        });
    }
}

#[test]
fn a_sequence_that_was_restarted_gives_none_of_its_old_values() {
    runtime().block_on(async {
        let (disk, main) = (Disk::default(), Main::new(1));
        let leases = open(100, &disk, &main).await;
        let first = main.made();
        assert_eq!(leases.take("s", Some(first), 2).await.unwrap(), [1, 2]);
        main.restart(5000);
        let second = main.made();
        // The catalog does not know it yet, and nothing has been drawn since.
        assert_eq!(leases.take("s", Some(first), 1).await.unwrap(), [3]);
        main.reachable.store(false, Ordering::Relaxed);
        assert!(leases.take("s", Some(second), 1).await.is_err(), "those left are of another sequence");
        let leases = open(100, &disk, &main).await;
        assert!(leases.take("s", Some(second), 1).await.is_err(), "also after a restart of ours");
        main.reachable.store(true, Ordering::Relaxed);
        tokio::time::sleep(REFILL_PAUSE).await;
        let renewals = leases.renewals();
        assert_eq!(leases.take("s", Some(second), 1).await.unwrap(), [5000], "not moved on past what the old one gave");
        assert!(leases.renewals() > renewals);
        // Who still has the older catalog takes of what is there now, and nothing is drawn again for it.
        assert_eq!(leases.take("s", Some(first), 1).await.unwrap(), [5001]);
        assert_eq!(leases.take("s", Some(second), 1).await.unwrap(), [5002]);
        leases.verify().await;
        assert_eq!(leases.take("s", Some(second), 1).await.unwrap(), [5003]);
    });
}

#[test]
fn a_catalog_that_lags_behind_main_costs_one_lease() {
    runtime().block_on(async {
        let (disk, main) = (Disk::default(), Main::new(1));
        let leases = open(100, &disk, &main).await;
        let lagging = main.made();
        main.restart(1);
        assert_eq!(leases.take("s", Some(lagging), 1).await.unwrap(), [1]);
        assert_eq!(leases.take("s", Some(lagging), 1).await.unwrap(), [2]);
        assert_eq!(leases.take("s", Some(main.made()), 1).await.unwrap(), [3]);
        assert_eq!(main.next.load(Ordering::Relaxed), 101, "drawn once");
    });
}

/// Comes back at its beginning, once, right after it has said where it is.
struct FailsOver {
    main: Main,
    armed: Arc<AtomicBool>,
}

impl LeaseSource for FailsOver {
    fn lease<'a>(&'a self, sequence: &'a str, count: u32) -> BoxFuture<'a, Result<Drawn, String>> {
        self.main.lease(sequence, count)
    }

    fn position<'a>(&'a self, sequence: &'a str) -> BoxFuture<'a, Result<Position, String>> {
        Box::pin(async move {
            let position = self.main.position(sequence).await;
            if self.armed.swap(false, Ordering::Relaxed) {
                self.main.next.store(1, Ordering::Relaxed);
            }
            position
        })
    }
}

#[test]
fn a_main_that_goes_back_while_it_is_asked_gives_no_value_twice() {
    for increment in [1, -3] {
        runtime().block_on(async {
            let (main, armed) = (Main::new(increment), Arc::new(AtomicBool::new(false)));
            let source = FailsOver { main, armed: Arc::clone(&armed) };
            let leases = Leases::open(IdsConfig { lease_size: 10 }, Disk::default().claim(), source).await.unwrap();
            let mut given: HashSet<i64> = leases.take("s", None, 25).await.unwrap().into_iter().collect();
            armed.store(true, Ordering::Relaxed);
            let renewals = leases.renewals();
            for _ in 0..10 {
                let ours = leases.take("s", None, 5).await.unwrap();
                assert!(ours.iter().all(|value| given.insert(*value)), "{ours:?}");
            }
            assert!(!armed.load(Ordering::Relaxed) && leases.renewals() > renewals, "what was left is given up");
        });
    }
}
