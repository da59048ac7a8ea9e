//! All chance of a run, from its seed.
//!
//! Several dice: the order in which tokio wakes those who watch one value is its own secret. They must not throw the same.

use std::sync::Mutex;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

pub struct Dice(Mutex<StdRng>);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(Mutex::new(StdRng::seed_from_u64(seed)))
    }

    /// Less than `limit`.
    pub fn below(&self, limit: usize) -> usize {
        self.0.lock().unwrap().random_range(0..limit.max(1))
    }

    /// So many times out of a thousand.
    pub fn happens(&self, in_thousand: u32) -> bool {
        self.0.lock().unwrap().random_range(0..1000) < in_thousand
    }

    pub fn bits(&self) -> u128 {
        self.0.lock().unwrap().random()
    }

    /// Up to so long, in whole milliseconds: what tokio's timers do with parts of them depends on when they were made. Mostly
    /// short: what is interesting happens close together.
    pub fn pause(&self, max: Duration) -> Duration {
        let mut rng = self.0.lock().unwrap();
        let part: f64 = rng.random();
        Duration::from_millis(max.mul_f64(part * part * part).as_millis() as u64)
    }
}
