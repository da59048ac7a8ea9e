//! Connections to the replica and to main.
//!
//! [`own`] is for this program's questions (catalog, tracker, setup, replay). Nothing above this module reads
//! `tokio_postgres::Error`: it becomes an [`own::Error`] here, once.

pub mod own;
