//! Real faults: real servers under load from several clients while daemon, Redis, main and replica are killed and started
//! again, and the link is cut, slowed and turned into a black hole, in random order.
//!
//! Each client keeps its own record of what was acknowledged, refused and never answered, and of what it read. At the
//! end main is compared with the records, and the reads with the one history that main tells.
//!
//! `FAULTS=20000 SEED=7 cargo test --test faults` (or `make soak`) goes on for hours. The seed decides the faults and
//! their order; when they hit is up to the machine.

#![allow(clippy::unwrap_used, clippy::print_stdout, unreachable_pub)]

mod faults {
    mod appends;
    mod history;
    #[path = "../site/stage.rs"]
    #[allow(dead_code)]
    mod stage;
    mod storm;
}
