//! pgoutpost: plain PostgreSQL at the far end of a bad link.

pub mod buffer;
pub mod catalog;
pub mod check;
pub mod entry;
pub mod ids;
pub mod lsn;
pub mod overlay;
pub mod replay;
pub mod report;
pub mod setup;
pub mod sql;
pub mod sqlstate;
pub mod tracker;
pub mod upstream;
