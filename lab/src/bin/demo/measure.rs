//! What operations took.

use std::fmt;
use std::time::{Duration, Instant};

/// Durations of one kind of operation.
#[derive(Debug, Default)]
pub(crate) struct Latencies {
    taken: Vec<Duration>,
}

impl Latencies {
    /// Runs an operation and notes how long it took.
    pub(crate) async fn measure<T>(&mut self, operation: impl Future<Output = T>) -> T {
        let start = Instant::now();
        let result = operation.await;
        self.taken.push(start.elapsed());
        result
    }

    fn percentile(&self, percent: usize) -> Duration {
        let mut sorted = self.taken.clone();
        sorted.sort_unstable();
        let last = sorted.len().saturating_sub(1);
        sorted.get((sorted.len() * percent / 100).min(last)).copied().unwrap_or_default()
    }
}

impl fmt::Display for Latencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (p50, p99) = (millis(self.percentile(50)), millis(self.percentile(99)));
        write!(f, "{} × p50 {p50}, p99 {p99}", self.taken.len())
    }
}

pub(crate) fn millis(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1000.0)
}
