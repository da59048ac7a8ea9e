//! pgoutpost: plain PostgreSQL at the far end of a bad link.

pub mod buffer;
pub mod catalog;
pub mod check;
pub mod cluster;
pub mod config;
pub mod console;
pub mod entry;
pub mod http;
pub mod ids;
pub mod logging;
pub mod lsn;
pub mod metrics;
pub mod moment;
pub mod overlay;
pub mod replay;
pub mod report;
pub(crate) mod sabotage;
pub mod server;
pub mod session;
pub mod setup;
pub mod sql;
pub mod sqlstate;
pub mod status;
pub mod tracker;
pub mod upstream;
pub mod wire;
