//! How much of everything a run does: the one place where `--quick` and a full run differ.

/// Sizes and lengths of one run.
#[derive(Debug, Clone)]
pub(crate) struct Effort {
    pub(crate) name: &'static str,
    /// How often each contender has its turn; medians are taken over the rounds.
    pub(crate) rounds: usize,
    /// Length of one turn, in seconds.
    pub(crate) turn_s: u32,
    pub(crate) clients: &'static [u32],
    /// pgbench's scale factor: 100,000 accounts each.
    pub(crate) scale: u32,
    /// Rows of the table that merged reads look at.
    pub(crate) items: u64,
    /// Transactions in the buffer when its drain is timed.
    pub(crate) drained: u64,
    /// How long replay is watched that sends one transaction at a time, in seconds.
    pub(crate) alone_s: u32,
    /// Transactions that are dear to replay in the backlog which drains beside clients.
    pub(crate) dear: u64,
    /// Entries in the long backlog.
    pub(crate) backlog: u64,
    /// Numbers of pending rows that merged reads meet.
    pub(crate) pending: &'static [u64],
}

impl Effort {
    pub(crate) fn full() -> Effort {
        Effort {
            name: "full",
            rounds: 3,
            turn_s: 2,
            clients: &[1, 8, 32],
            scale: 10,
            items: 1_000_000,
            drained: 20_000,
            alone_s: 5,
            dear: 40_000,
            backlog: 1_000_000,
            pending: &[100, 10_000],
        }
    }

    pub(crate) fn quick() -> Effort {
        Effort {
            name: "quick",
            rounds: 1,
            turn_s: 1,
            scale: 2,
            items: 100_000,
            drained: 3_000,
            alone_s: 3,
            dear: 8_000,
            backlog: 20_000,
            ..Effort::full()
        }
    }
}
