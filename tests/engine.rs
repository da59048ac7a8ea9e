//! The parts between daemon and servers (set-up, catalog, check, replay, tracker) against real servers.
#![allow(clippy::unwrap_used, clippy::print_stderr, unreachable_pub)]

#[path = "engine/altered_types.rs"]
mod altered_types;
#[path = "engine/backlog.rs"]
mod backlog;
#[path = "engine/beside_others.rs"]
mod beside_others;
#[path = "engine/catalog.rs"]
mod catalog;
#[path = "engine/cluster.rs"]
mod cluster;
#[path = "engine/conflicts.rs"]
mod conflicts;
#[path = "engine/drift.rs"]
mod drift;
#[path = "engine/failover.rs"]
mod failover;
#[path = "engine/harness.rs"]
mod harness;
#[path = "engine/quarantine.rs"]
mod quarantine;
#[path = "engine/replay.rs"]
mod replay;
#[path = "engine/setup.rs"]
mod setup;
#[path = "engine/tracker.rs"]
mod tracker;
#[path = "engine/truncate.rs"]
mod truncate;
#[path = "engine/upgrade.rs"]
mod upgrade;
