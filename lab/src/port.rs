//! Free TCP ports on 127.0.0.1.

use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Result, bail};

/// Ports are taken from below the kernel's ephemeral range (32768 and up on Linux), so that no outgoing connection of a
/// busy test machine takes one between our look and the server's bind.
const FIRST: u16 = 15_000;
const LAST: u16 = 32_000;

/// Whether 127.0.0.1:`port` can be bound now.
pub fn is_free(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok()
}

/// How far apart processes begin their search.
const APART: u32 = 64;

/// Whether no other process has been given the port. As long as this one lives none will be: a name in the kernel stands for it,
/// which needs no file and goes with the process.
fn is_ours(port: u16) -> bool {
    static HELD: Mutex<Vec<UnixListener>> = Mutex::new(Vec::new());
    let name = SocketAddr::from_abstract_name(format!("pgoutpost-lab-port-{port}"));
    let held = name.and_then(|name| UnixListener::bind_addr(&name));
    held.map(|held| HELD.lock().unwrap_or_else(PoisonError::into_inner).push(held)).is_ok()
}

/// A port that is free now, and that nobody else has been given, here or in another process: two labs that start at once do not
/// meet between the look and the bind.
pub fn free_port() -> Result<u16> {
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    let span = u32::from(LAST - FIRST);
    for _ in 0..1000 {
        let given = GIVEN.fetch_add(1, Ordering::Relaxed);
        let offset = u16::try_from(std::process::id().wrapping_mul(APART).wrapping_add(given) % span)?;
        if is_free(FIRST + offset) && is_ours(FIRST + offset) {
            return Ok(FIRST + offset);
        }
    }
    bail!("no free port between {FIRST} and {LAST} on 127.0.0.1")
}

/// `preferred` when it is free, else another.
pub fn free_port_preferring(preferred: u16) -> Result<u16> {
    if is_free(preferred) { Ok(preferred) } else { free_port() }
}
