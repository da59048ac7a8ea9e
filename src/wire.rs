//! The PostgreSQL protocol, version 3, as bytes: framing, reading and building of messages.
//!
//! Pure (but for [`link`], the buffered socket that the rest is read from). Our own small codec rather than a crate's, because this is the one place that strangers
//! reach before they have said who they are: of the crates we measured, the best one panics on short Parse, Bind and
//! password frames, reads past a frame into the next and accepts what was sent ahead of a TLS handshake. Here every read
//! is bounded by its frame and every malformed message is an [`Malformed`] value. Most traffic is never decoded at all:
//! [`header`] is enough to pass a message on.

pub mod build;
pub mod error;
pub mod link;
pub mod read;
pub mod startup;
#[cfg(test)]
mod tests;

/// The longest message we take from a client or keep whole from a server. Rows and COPY data of a server stream
/// through in pieces and are not bounded by it. Bytes.
pub const MESSAGE_MAX: usize = 64 << 20;

/// A message's kind byte and length field.
pub const HEADER: usize = 5;

/// What a message begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub kind: u8,
    /// The whole message, kind byte and length field included. Bytes.
    pub length: usize,
}

/// A message does not have the form that the protocol gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("invalid message length {length} of a message of type {kind:#04x}")]
    Length { kind: u8, length: i32 },
    #[error("invalid message format")]
    Body,
    #[error("invalid string in message")]
    Text,
    #[error("invalid length of startup packet")]
    StartupLength,
    #[error("invalid startup packet layout: expected terminator as last byte")]
    StartupLayout,
}

/// The header of the message at the head of `buffer`; `None`: not all of it has come yet.
///
/// # Errors
/// A length below four, which no message has.
pub fn header(buffer: &[u8]) -> Result<Option<Header>, Malformed> {
    let Some((&[kind, a, b, c, d], _)) = buffer.split_first_chunk::<HEADER>() else {
        return Ok(None);
    };
    let length = i32::from_be_bytes([a, b, c, d]);
    match usize::try_from(length) {
        Ok(bytes) if bytes >= 4 => Ok(Some(Header { kind, length: bytes + 1 })),
        Ok(_) | Err(_) => Err(Malformed::Length { kind, length }),
    }
}
