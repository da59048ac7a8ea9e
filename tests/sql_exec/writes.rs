//! Writes evaluated by SELECT, and the same writes done by Postgres.
