//! The oracle: the same statements on a plain Postgres and through the daemon, with the replica's replay frozen, so that
//! every row they make lives in the overlay. Each answer is compared, then what all tables hold, through the daemon and,
//! when everything is drained, on main.
//!
//! # Scripts
//!
//! Each file `tests/differential/scripts/<area>….sql` is one script, found by itself. Run some of them with
//! `SCRIPT=upsert cargo test --test differential scripts` (any part of the file's name). A script is performed in the
//! simple and in the extended protocol, with the link cut and up, each time in a fresh database. The format:
//!
//! - Lines that start with `--` are comments; those that start with `----` are directives.
//! - `---- schema`: what follows runs on main and on the plain Postgres beforehand. `---- run`: what follows is compared.
//! - A statement ends with `;` at the end of a line (outside of `$$`). Several on one line are one query string.
//! - `@2 stmt;` runs in session 2 (default `@1`); sessions open on first use. `@2& stmt;` starts it without waiting;
//!   whether it is blocked must agree. `@2?;` waits for its answer.
//! - `COPY t FROM STDIN;` is followed by its data and `\.` on a line of its own.
//! - `---- differs: <reason>` before a statement: its answer is not compared.
//! - `---- any error` before a statement: several rows may fail, and which is first is the plan's affair; both sides must
//!   fail, with an error of a value or a constraint.
//! - `---- any value` before a statement: the same, but its rows have an order, so that only an error of a value may be told
//!   in the place of another.
//! - `---- refused <SQLSTATE>: <reason>` before a statement: through the daemon it must fail with that; the plain
//!   Postgres gets some statement that fails in its place, so that both sides go on from the same state.
//! - `---- only buffered`, `---- only up: <reason>`, after `---- run`: one state of the link only; `---- only live: <reason>`:
//!   the link up, and the replica not frozen.
//!
//! Compared are: rows (in order when there is a top-level ORDER BY, or a FETCH; else sorted), names, types and type
//! modifiers of columns, tags, of errors the SQLSTATE, message, detail, schema, table, column, datatype and constraint,
//! warnings, changed parameters, and the transaction's status. Not compared: hints, positions, contexts
//! (but the line and column of a COPY), notices.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr, unreachable_pub, dead_code)]

#[path = "differential/answer.rs"]
mod answer;
#[path = "differential/arena.rs"]
mod arena;
#[path = "differential/client.rs"]
mod client;
#[path = "differential/compare.rs"]
mod compare;
#[path = "differential/generate.rs"]
mod generate;
#[path = "differential/grounds.rs"]
mod grounds;
#[path = "differential/parameters.rs"]
mod parameters;
#[path = "differential/perform.rs"]
mod perform;
#[path = "differential/random.rs"]
mod random;
#[path = "differential/sabotaged.rs"]
mod sabotaged;
#[path = "differential/script.rs"]
mod script;
#[path = "differential/scripts.rs"]
mod scripts;
#[path = "differential/shrink.rs"]
mod shrink;
#[path = "site/stage.rs"]
mod stage;
