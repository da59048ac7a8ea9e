//! A socket with an input and an output buffer, for a task that serves both sides of a conversation at once.
//!
//! Nothing here waits by itself: [`Link::poll_fill`] and [`Link::poll_drain`] are polled together for all links of a
//! session, so that no direction can block the other. Both buffers are bounded by whoever fills them: [`READ`] bytes are
//! asked for at a time, and a session stops taking input while the other side's output is above [`OUTPUT_HIGH`].

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::AsyncWrite;
use tokio::net::{TcpStream, UnixStream};
use tokio_util::io::poll_read_buf;

use super::{Header, Malformed, header};

/// How much is read at a time. Bytes.
pub const READ: usize = 32 << 10;
/// Above this much unsent output nothing more is taken in that would add to it. Bytes.
pub const OUTPUT_HIGH: usize = 256 << 10;
/// A buffer that grew beyond this is given back when it is empty. Bytes.
const KEEP: usize = 256 << 10;

/// Where clients and servers are met.
#[derive(Debug)]
pub enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// One side of a conversation.
#[derive(Debug)]
pub struct Link {
    stream: Stream,
    pub input: BytesMut,
    pub output: BytesMut,
    /// The other side has sent its last byte.
    pub ended: bool,
}

impl Link {
    pub fn new(stream: Stream) -> Link {
        if let Stream::Tcp(stream) = &stream {
            // Without it a small message waits for the acknowledgement of the one before. Failing is no harm.
            let _ = stream.set_nodelay(true);
        }
        Link { stream, input: BytesMut::with_capacity(READ), output: BytesMut::with_capacity(READ), ended: false }
    }

    /// Writes what it can of the output. Ready when there is none left.
    pub fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.output.is_empty() {
            let written = match &mut self.stream {
                Stream::Tcp(stream) => ready!(Pin::new(stream).poll_write(cx, &self.output))?,
                Stream::Unix(stream) => ready!(Pin::new(stream).poll_write(cx, &self.output))?,
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.output.advance(written);
        }
        if self.output.capacity() > KEEP {
            self.output = BytesMut::with_capacity(READ);
        }
        Poll::Ready(Ok(()))
    }

    /// Reads once into the input. Ready with the count of bytes; zero: the other side has ended.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.input.is_empty() && self.input.capacity() > KEEP {
            self.input = BytesMut::with_capacity(READ);
        }
        self.input.reserve(READ / 2);
        let count = match &mut self.stream {
            Stream::Tcp(stream) => ready!(poll_read_buf(Pin::new(stream), cx, &mut self.input))?,
            Stream::Unix(stream) => ready!(poll_read_buf(Pin::new(stream), cx, &mut self.input))?,
        };
        self.ended |= count == 0;
        Poll::Ready(Ok(count))
    }

    /// The header of the next message in the input, if it has come.
    pub fn header(&self) -> Result<Option<Header>, Malformed> {
        header(&self.input)
    }

    /// Takes the next message off the input when all of it has come.
    pub fn take(&mut self) -> Result<Option<(u8, BytesMut)>, Malformed> {
        match self.header()? {
            Some(header) if self.input.len() >= header.length => {
                Ok(Some((header.kind, self.input.split_to(header.length))))
            }
            Some(_) | None => Ok(None),
        }
    }

    /// Writes what can be written at once. An error comes up again when somebody waits.
    pub async fn push(&mut self) {
        std::future::poll_fn(|cx| {
            let _ = self.poll_drain(cx);
            Poll::Ready(())
        })
        .await;
    }

    /// Reads what has come already, to learn whether the other side has ended. An error is an end, too.
    pub async fn look(&mut self) {
        std::future::poll_fn(|cx| {
            if let Poll::Ready(Err(_)) = self.poll_fill(cx) {
                self.ended = true;
            }
            Poll::Ready(())
        })
        .await;
        // A server says why before it closes.
        self.ended |= self.header().is_ok_and(|header| header.is_some_and(|header| header.kind == b'E'));
    }

    /// Waits until all output has been written.
    pub async fn drain(&mut self) -> io::Result<()> {
        std::future::poll_fn(|cx| self.poll_drain(cx)).await
    }

    /// Waits for more input.
    pub async fn fill(&mut self) -> io::Result<usize> {
        std::future::poll_fn(|cx| self.poll_fill(cx)).await
    }

    /// Waits for the next whole message; it must not be longer than `limit`.
    pub async fn next(&mut self, limit: usize) -> io::Result<(u8, BytesMut)> {
        self.drain().await?;
        loop {
            match self.take() {
                Ok(Some(message)) => return Ok(message),
                Ok(None) => {}
                Err(malformed) => return Err(io::Error::new(io::ErrorKind::InvalidData, malformed)),
            }
            if self.header().ok().flatten().is_some_and(|header| header.length > limit) {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "message too long"));
            }
            if self.fill().await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}
