//! Free TCP ports on 127.0.0.1.

use std::net::TcpListener;

use anyhow::{Result, bail};

/// Ports are taken from below the kernel's ephemeral range (32768 and up on Linux), so that no outgoing connection of a
/// busy test machine takes one between our look and the server's bind.
const FIRST: u16 = 15_000;
const LAST: u16 = 32_000;

/// Whether 127.0.0.1:`port` can be bound now.
pub fn is_free(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok()
}

/// A port that is free now. Another process may still take it first: labs that start at once begin their search at
/// random places.
pub fn free_port() -> Result<u16> {
    let random = uuid::Uuid::new_v4().as_u128();
    for step in 0..1000_u128 {
        let span = u128::from(LAST - FIRST);
        let offset = u16::try_from((random + step * 7) % span)?;
        let port = FIRST + offset;
        if is_free(port) {
            return Ok(port);
        }
    }
    bail!("no free port between {FIRST} and {LAST} on 127.0.0.1")
}

/// `preferred` when it is free, else another.
pub fn free_port_preferring(preferred: u16) -> Result<u16> {
    if is_free(preferred) { Ok(preferred) } else { free_port() }
}
