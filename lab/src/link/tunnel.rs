//! One connection over the link: two delay lines, one each way.
//!
//! Everything of a tunnel runs inside one future, so that aborting it closes both sockets at once.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::Instant;

use super::{Counters, Mode, Weather};

/// Bytes under way in one direction. More than bandwidth × delay of any link we model, else it would be a brake.
const WINDOW_BYTES: usize = 32 << 20;
const CHUNK_BYTES: usize = 64 << 10;
/// What a parcel takes besides its bytes: charged as well, so that a stream of single bytes is bounded too.
const PARCEL_BYTES: usize = 64;

/// A piece of the stream and when it reaches the other end; no bytes mean the end of the stream.
struct Parcel {
    due: Instant,
    bytes: Vec<u8>,
}

/// Carries one connection until it ends, the link is cut (the task is aborted), or it turns out to have lost bytes.
pub(super) async fn run(
    site: TcpStream,
    main: SocketAddr,
    mut weather: watch::Receiver<Weather>,
    counters: &Counters,
) -> Result<()> {
    let accepted = Instant::now();
    if weather.borrow().mode == Mode::BlackHole {
        // Nobody at the other end knows of this connection. It dies with the black hole.
        weather.wait_for(|now| now.mode != Mode::BlackHole).await?;
        bail!("accepted in a black hole");
    }
    // The handshake of a connection takes a round trip before its first byte can leave.
    let round_trip = weather.borrow().delay * 2;
    tokio::time::sleep_until(accepted + round_trip).await;
    let main = TcpStream::connect(main).await?;
    // Small messages must not wait for each other's acknowledgement: the delay is the link's business.
    site.set_nodelay(true)?;
    main.set_nodelay(true)?;
    let (from_site, to_site) = site.into_split();
    let (from_main, to_main) = main.into_split();
    let lost = AtomicBool::new(false);
    let up = Line { weather: weather.clone(), lost: &lost, counters, counter: &counters.to_main_bytes };
    let down = Line { weather: weather.clone(), lost: &lost, counters, counter: &counters.from_main_bytes };
    tokio::select! {
        both = async { tokio::try_join!(up.carry(from_site, to_main), down.carry(from_main, to_site)) } => {
            both?;
            Ok(())
        }
        broken = broken_by_loss(weather, &lost) => broken,
    }
}

/// Returns when the link works again after bytes were lost: the stream has a hole and cannot go on.
async fn broken_by_loss(mut weather: watch::Receiver<Weather>, lost: &AtomicBool) -> Result<()> {
    loop {
        weather.wait_for(|now| now.mode == Mode::BlackHole).await?;
        weather.wait_for(|now| now.mode != Mode::BlackHole).await?;
        if lost.load(Ordering::Relaxed) {
            bail!("bytes were lost in a black hole");
        }
    }
}

/// One direction of a tunnel.
struct Line<'a> {
    weather: watch::Receiver<Weather>,
    lost: &'a AtomicBool,
    counters: &'a Counters,
    counter: &'a AtomicU64,
}

impl Line<'_> {
    async fn carry(self, from: OwnedReadHalf, to: OwnedWriteHalf) -> Result<()> {
        let window = Semaphore::new(WINDOW_BYTES);
        // Bounded by the window: every parcel is charged to it before it is queued.
        let (sender, parcels) = mpsc::unbounded_channel();
        tokio::try_join!(self.take_in(from, sender, &window), self.hand_out(parcels, to, &window))?;
        Ok(())
    }

    async fn take_in(
        &self,
        mut from: OwnedReadHalf,
        parcels: mpsc::UnboundedSender<Parcel>,
        window: &Semaphore,
    ) -> Result<()> {
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            let count = from.read(&mut chunk).await?;
            let arrived = Instant::now();
            if self.in_black_hole() {
                self.swallow(count);
                if count == 0 {
                    // The other end is not told that this one has gone. The broken tunnel is closed after healing.
                    return std::future::pending().await;
                }
                continue;
            }
            window.acquire_many(u32::try_from(count + PARCEL_BYTES)?).await?.forget();
            let due = arrived + self.weather.borrow().delay;
            let end = parcels.send(Parcel { due, bytes: chunk[..count].to_vec() }).is_err() || count == 0;
            if end {
                return Ok(());
            }
        }
    }

    async fn hand_out(
        &self,
        mut parcels: mpsc::UnboundedReceiver<Parcel>,
        mut to: OwnedWriteHalf,
        window: &Semaphore,
    ) -> Result<()> {
        while let Some(Parcel { due, bytes }) = parcels.recv().await {
            if due.saturating_duration_since(Instant::now()) > Duration::ZERO {
                tokio::time::sleep_until(due).await;
            }
            if self.in_black_hole() {
                self.swallow(bytes.len());
                window.add_permits(bytes.len() + PARCEL_BYTES);
                continue;
            }
            if bytes.is_empty() {
                to.shutdown().await?;
                return Ok(());
            }
            to.write_all(&bytes).await?;
            self.counter.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            window.add_permits(bytes.len() + PARCEL_BYTES);
        }
        // Only an end of stream that was swallowed leaves a line without its last parcel.
        std::future::pending().await
    }

    fn in_black_hole(&self) -> bool {
        self.weather.borrow().mode == Mode::BlackHole
    }

    /// Loses bytes, or the end of the stream when there are none.
    fn swallow(&self, count: usize) {
        self.lost.store(true, Ordering::Relaxed);
        self.counters.swallowed_bytes.fetch_add(count as u64, Ordering::Relaxed);
    }
}
