//! Free TCP ports on 127.0.0.1.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Result, bail};

/// Ports are taken from below the kernel's ephemeral range (32768 and up on Linux), so that no outgoing connection of a
/// busy test machine takes one between our look and the server's bind.
const FIRST: u16 = 15_000;
const LAST: u16 = 32_000;

/// Whether 127.0.0.1:`port` can be bound now.
pub fn is_free(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok()
}

/// Ports each process begins its search apart from the next one's.
const APART: u32 = 64;

/// A port that is free now, and that nobody else in this process has been given: two labs that start at once do not meet
/// between the look and the bind. Other processes begin their search elsewhere.
pub fn free_port() -> Result<u16> {
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    let span = u32::from(LAST - FIRST);
    for _ in 0..1000 {
        let given = GIVEN.fetch_add(1, Ordering::Relaxed);
        let offset = u16::try_from(std::process::id().wrapping_mul(APART).wrapping_add(given) % span)?;
        if is_free(FIRST + offset) {
            return Ok(FIRST + offset);
        }
    }
    bail!("no free port between {FIRST} and {LAST} on 127.0.0.1")
}

/// `preferred` when it is free, else another.
pub fn free_port_preferring(preferred: u16) -> Result<u16> {
    if is_free(preferred) { Ok(preferred) } else { free_port() }
}
