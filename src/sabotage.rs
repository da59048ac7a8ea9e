//! Deliberate mistakes, by which `tests/differential` proves that it would find such.
//!
//! One at a time, named by the environment variable `PGOUTPOST_SABOTAGE`, and only in debug builds: a release build has
//! no code for it. Never call [`on`] where the mistake could outlive the process (the buffer's format, main's schema).

/// What can be broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sabotage {
    /// A merged read shows the replica's version of a changed row as well.
    Rewrite,
    /// Duplicates are let in.
    Constraint,
    /// A lease hands out the same value again.
    Lease,
}

/// Whether that is broken in this process.
#[cfg(debug_assertions)]
pub(crate) fn on(what: Sabotage) -> bool {
    use std::sync::OnceLock;

    static NAMED: OnceLock<Option<Sabotage>> = OnceLock::new();
    let named = NAMED.get_or_init(|| match std::env::var("PGOUTPOST_SABOTAGE").ok()?.as_str() {
        "rewrite" => Some(Sabotage::Rewrite),
        "constraint" => Some(Sabotage::Constraint),
        "lease" => Some(Sabotage::Lease),
        _ => None,
    });
    *named == Some(what)
}

/// Never in a release build.
#[cfg(not(debug_assertions))]
pub(crate) const fn on(_: Sabotage) -> bool {
    false
}
