//! Rewritten statements executed on a real Postgres: what merged reads and evaluated writes answer, compared with what
//! Postgres answers when the table holds everything.
#![allow(clippy::unwrap_used, clippy::print_stderr, unreachable_pub, dead_code)]

#[path = "engine/cluster.rs"]
mod cluster;
#[path = "sql_exec/documented.rs"]
mod documented;
#[path = "sql_exec/history.rs"]
mod history;
#[path = "sql_exec/reads.rs"]
mod reads;
#[path = "sql_exec/relations.rs"]
mod relations;
#[path = "sql_exec/site.rs"]
mod site;
#[path = "sql_exec/timing.rs"]
mod timing;
#[path = "sql_exec/wire.rs"]
mod wire;
#[path = "sql_exec/writes.rs"]
mod writes;
