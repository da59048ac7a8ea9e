//! Connections to the replica and to main.
//!
//! [`own`] is for this program's questions (catalog, tracker, setup, replay). Nothing above this module reads
//! `tokio_postgres::Error`: it becomes an [`own::Error`] here, once. [`raw`] is for sessions: messages as they are, as
//! the client's role.

pub mod own;
pub mod raw;
