//! Connections to the replica and to main.

pub mod raw;
