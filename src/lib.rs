//! pgoutpost: plain PostgreSQL at the far end of a bad link.

pub mod catalog;
pub mod entry;
pub mod lsn;
pub mod overlay;
pub mod report;
pub mod setup;
pub mod sql;
pub mod sqlstate;
pub mod upstream;
