//! The seeded source of every choice: one seed gives one script, on every machine.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

#[derive(Debug)]
pub struct Dice {
    random: StdRng,
}

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice { random: StdRng::seed_from_u64(seed) }
    }

    /// From 0 to below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        self.random.random_range(0..end)
    }

    /// Both ends included.
    pub fn between(&mut self, low: i64, high: i64) -> i64 {
        self.random.random_range(low..=high)
    }

    /// True so many times of a hundred.
    pub fn chance(&mut self, percent: u32) -> bool {
        self.random.random_range(0..100) < percent
    }

    pub fn one<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    /// Some of them, at least one, in their order.
    pub fn some<T: Clone>(&mut self, of: &[T]) -> Vec<T> {
        let mut taken: Vec<T> = of.iter().filter(|_| self.random.random_bool(0.5)).cloned().collect();
        if taken.is_empty() {
            taken.push(self.one(of).clone());
        }
        taken
    }
}
