//! Reads a [`super::Catalog`] from the replica.
