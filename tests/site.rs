//! The acceptance tests: real main, replica, Redis, link and daemon, and clients as users run them.
//!
//! Every promise of issue 2 has a test here that fails when it is broken. Nothing is a mock, nothing sleeps to
//! synchronise: tests poll with a deadline. `make test` prepares what they need (`.venv` with the drivers, servers).

#![allow(clippy::unwrap_used, clippy::print_stdout, unreachable_pub)]

mod site {
    mod atomicity;
    mod buffer_moves;
    mod changed_tables;
    mod cli;
    mod drivers;
    mod frozen;
    mod hostile;
    mod kill9;
    mod load;
    mod looking_in;
    mod pgbench;
    mod pgbench_mixed;
    mod pgbench_upsert;
    mod quarantine;
    mod reads;
    mod redis_gone;
    mod replica_back;
    mod sides;
    mod sigterm;
    mod stage;
    mod straight;
    mod two_clients;
    mod wrong_replica;
}
