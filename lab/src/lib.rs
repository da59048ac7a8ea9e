//! Real servers for tests, benches and the demo: main, replica, Redis, and the link between site and main.
//!
//! | module | what it holds |
//! |---|---|
//! | [`process`] | one child process: own user, own log, dies with its parent |
//! | [`folder`] | the temporary folder of a lab, and the removal of what crashed labs left behind |
//! | [`link`] | the TCP link to main: delay, cut, heal, black hole |
//! | [`postgres`], [`redis`] | the servers |
//! | [`site`] | [`Lab`] (all of them together) and [`Site`] (one database of it) |
//! | [`outpost`] | the `pgoutpost` daemon under test |
//! | [`standing`] | a lab that is left running for people: `make up`, `make demo` |
//!
//! Nothing here is a mock, and nothing here may outlive the process that started it, except a standing lab, which
//! `lab down` ends. Only 127.0.0.1 and Unix sockets are used.

pub mod folder;
pub mod link;
pub mod outpost;
pub mod port;
pub mod postgres;
pub mod process;
pub mod redis;
pub mod site;
pub mod standing;

pub use link::Link;
pub use outpost::Outpost;
pub use site::{Lab, LabOptions, Site};
