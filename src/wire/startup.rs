//! What a client says before anything else.

use super::Malformed;
use super::read::Body;

/// The longest startup packet, as in Postgres. Bytes.
pub const STARTUP_MAX: usize = 10_000;

/// The first message of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opening {
    Tls,
    Gss,
    Cancel(Key),
    Start {
        /// Of protocol version 3.
        minor: u16,
        /// In the order they came, `user` and `database` included. Options of the protocol (`_pq_.…`) among them.
        parameters: Vec<(String, String)>,
    },
    /// Another major version of the protocol.
    Unsupported {
        major: u16,
        minor: u16,
    },
}

/// What a CancelRequest shows to be obeyed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    pub process: i32,
    pub secret: i32,
}

/// The length of the opening packet at the head of `buffer`, its length field included; `None`: has not come yet.
pub fn length(buffer: &[u8]) -> Result<Option<usize>, Malformed> {
    let Some((&length, _)) = buffer.split_first_chunk::<4>() else { return Ok(None) };
    match usize::try_from(i32::from_be_bytes(length)) {
        Ok(length) if (8..=STARTUP_MAX).contains(&length) => Ok(Some(length)),
        Ok(_) | Err(_) => Err(Malformed::StartupLength),
    }
}

/// Reads a whole opening packet.
pub fn read(packet: &[u8]) -> Result<Opening, Malformed> {
    let mut body = Body::new(packet);
    body.i32()?;
    let (major, minor) = (body.i16()?.cast_unsigned(), body.i16()?.cast_unsigned());
    match (major, minor) {
        (1234, 5679) => Ok(Opening::Tls),
        (1234, 5680) => Ok(Opening::Gss),
        (1234, 5678) => Ok(Opening::Cancel(Key { process: body.i32()?, secret: body.i32()? })),
        (3, minor) => Ok(Opening::Start { minor, parameters: parameters(body)? }),
        (major, minor) => Ok(Opening::Unsupported { major, minor }),
    }
}

fn parameters(mut body: Body<'_>) -> Result<Vec<(String, String)>, Malformed> {
    let mut parameters = Vec::new();
    loop {
        let name = body.string().map_err(|_| Malformed::StartupLayout)?;
        if name.is_empty() {
            return if body.rest().is_empty() { Ok(parameters) } else { Err(Malformed::StartupLayout) };
        }
        let value = body.string().map_err(|_| Malformed::StartupLayout)?;
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map_err(|_| Malformed::Text);
        parameters.push((text(name)?, text(value)?));
    }
}
