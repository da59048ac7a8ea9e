//! The link between site and main: a TCP proxy that can be slowed, cut, healed and turned into a black hole.
//!
//! It runs on a thread and a runtime of its own, so a lab can be shared by tests that each have their own runtime.
//! It must never reorder bytes, and never hold more of them than its window.
//!
//! What it models: propagation delay (half the round trip each way, bandwidth unaffected), the round trip of a TCP
//! handshake, a reset link (`cut`), and a link that loses everything without telling anybody (`black_hole`). What was
//! lost in a black hole stays lost, so a connection that lost bytes is closed when the link heals.

mod tunnel;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc as async_mpsc, watch};
use tokio::task::JoinSet;

/// Whether bytes get through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Bytes arrive, late by the delay.
    Open,
    /// Connections are refused.
    Cut,
    /// Connections are accepted and stay, but nothing arrives and nothing answers.
    BlackHole,
}

/// How the link behaves now.
#[derive(Clone, Copy, Debug)]
struct Weather {
    mode: Mode,
    /// One way.
    delay: Duration,
}

#[derive(Debug, Default)]
struct Counters {
    accepted: AtomicU64,
    open: AtomicU64,
    to_main_bytes: AtomicU64,
    from_main_bytes: AtomicU64,
    swallowed_bytes: AtomicU64,
}

/// What went over the link since it was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkCounts {
    pub accepted: u64,
    pub open: u64,
    pub to_main_bytes: u64,
    pub from_main_bytes: u64,
    pub swallowed_bytes: u64,
}

type Order = (Weather, mpsc::SyncSender<Result<()>>);

/// A running link. Dropping it closes it.
///
/// The orders block the calling thread until they are carried out, some microseconds: when `cut()` returns, every
/// connection is closed and new ones are refused.
#[derive(Debug)]
pub struct Link {
    port: u16,
    orders: async_mpsc::UnboundedSender<Order>,
    weather: std::sync::Mutex<Weather>,
    counters: Arc<Counters>,
}

impl Link {
    /// A link that listens on 127.0.0.1:`port` and leads to 127.0.0.1:`main_port`.
    pub fn start(port: u16, main_port: u16) -> Result<Link> {
        let weather = Weather { mode: Mode::Open, delay: Duration::ZERO };
        // Orders are rare and each is waited for: the queue holds one per calling thread.
        let (orders, queue) = async_mpsc::unbounded_channel();
        let counters = Arc::new(Counters::default());
        let (ready, started) = mpsc::sync_channel(1);
        let shared = Arc::clone(&counters);
        std::thread::Builder::new().name("link".into()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            match runtime {
                Ok(runtime) => runtime.block_on(Exchange::run(port, main_port, weather, shared, queue, &ready)),
                Err(error) => drop(ready.send(Err(error.into()))),
            }
        })?;
        started.recv().context("the link's thread ended")??;
        Ok(Link { port, orders, weather: std::sync::Mutex::new(weather), counters })
    }

    /// The site's end of the link, on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Closes every connection and refuses new ones.
    pub fn cut(&self) -> Result<()> {
        self.order(|weather| weather.mode = Mode::Cut)
    }

    /// Opens the link again, after a cut or a black hole. The delay stays as it was.
    pub fn heal(&self) -> Result<()> {
        self.order(|weather| weather.mode = Mode::Open)
    }

    /// Swallows every byte from now on, and those under way. Connections stay, and new ones are accepted.
    pub fn black_hole(&self) -> Result<()> {
        self.order(|weather| weather.mode = Mode::BlackHole)
    }

    /// Sets the round-trip time; half of it is added each way to what enters the link from now on.
    pub fn delay(&self, round_trip: Duration) -> Result<()> {
        self.order(|weather| weather.delay = round_trip / 2)
    }

    pub fn mode(&self) -> Mode {
        self.lock().mode
    }

    /// The round-trip time that the link adds.
    pub fn round_trip(&self) -> Duration {
        self.lock().delay * 2
    }

    pub fn counts(&self) -> LinkCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        LinkCounts {
            accepted: read(&self.counters.accepted),
            open: read(&self.counters.open),
            to_main_bytes: read(&self.counters.to_main_bytes),
            from_main_bytes: read(&self.counters.from_main_bytes),
            swallowed_bytes: read(&self.counters.swallowed_bytes),
        }
    }

    fn order(&self, change: impl FnOnce(&mut Weather)) -> Result<()> {
        let mut weather = self.lock();
        change(&mut weather);
        let (done, carried_out) = mpsc::sync_channel(1);
        self.orders.send((*weather, done)).ok().context("the link's thread ended")?;
        carried_out.recv().context("the link's thread ended")?
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Weather> {
        self.weather.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// The link's thread: accepts connections and carries out orders.
#[derive(Debug)]
struct Exchange {
    address: SocketAddr,
    main: SocketAddr,
    door: Door,
    weather: watch::Sender<Weather>,
    counters: Arc<Counters>,
    tunnels: JoinSet<()>,
}

/// The listening port. Closed, it stays bound, so that nobody else can take the port while the link is cut.
#[derive(Debug)]
enum Door {
    Open(TcpListener),
    Closed(TcpSocket),
}

impl Exchange {
    async fn run(
        port: u16,
        main_port: u16,
        weather: Weather,
        counters: Arc<Counters>,
        mut orders: async_mpsc::UnboundedReceiver<Order>,
        ready: &mpsc::SyncSender<Result<()>>,
    ) {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let main = SocketAddr::from(([127, 0, 0, 1], main_port));
        let listener = match closed_door(address).and_then(open_door) {
            Ok(listener) => listener,
            Err(error) => return drop(ready.send(Err(error))),
        };
        let (weather, _) = watch::channel(weather);
        let door = Door::Open(listener);
        let mut exchange = Exchange { address, main, door, weather, counters, tunnels: JoinSet::new() };
        let _ = ready.send(Ok(()));
        loop {
            tokio::select! {
                biased;
                order = orders.recv() => {
                    let Some((weather, done)) = order else { return };
                    let _ = done.send(exchange.change(weather).await);
                }
                accepted = accept(&exchange.door) => exchange.connect(accepted),
                Some(_) = exchange.tunnels.join_next() => {}
            }
        }
    }

    async fn change(&mut self, weather: Weather) -> Result<()> {
        self.weather.send_replace(weather);
        let cut = weather.mode == Mode::Cut;
        match (&self.door, cut) {
            (Door::Open(_), true) => {
                // Closed first: the port can only be bound again when nobody listens on it.
                let placeholder = Door::Closed(TcpSocket::new_v4()?);
                drop(std::mem::replace(&mut self.door, placeholder));
                self.tunnels.shutdown().await;
                self.door = Door::Closed(closed_door(self.address)?);
            }
            (Door::Closed(_), false) => {
                let placeholder = Door::Closed(TcpSocket::new_v4()?);
                if let Door::Closed(socket) = std::mem::replace(&mut self.door, placeholder) {
                    self.door = Door::Open(open_door(socket)?);
                }
            }
            (Door::Open(_), false) | (Door::Closed(_), true) => {}
        }
        Ok(())
    }

    fn connect(&mut self, site: TcpStream) {
        self.counters.accepted.fetch_add(1, Ordering::Relaxed);
        let (main, weather, counters) = (self.main, self.weather.subscribe(), Arc::clone(&self.counters));
        self.tunnels.spawn(async move {
            let _open = OpenGuard::new(&counters);
            if let Err(error) = tunnel::run(site, main, weather, &counters).await {
                tracing::debug!(%error, "a connection over the link ended");
            }
        });
    }
}

fn closed_door(address: SocketAddr) -> Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address).with_context(|| format!("binding the link to {address}"))?;
    // Two sockets that both allow reuse may be bound to one port while neither listens: not to this one.
    socket.set_reuseaddr(false)?;
    Ok(socket)
}

fn open_door(socket: TcpSocket) -> Result<TcpListener> {
    // Accepted connections inherit it, and what is left of them (TIME_WAIT) must not keep us from binding after a cut.
    socket.set_reuseaddr(true)?;
    socket.listen(1024).context("listening for the link")
}

async fn accept(door: &Door) -> TcpStream {
    let Door::Open(listener) = door else { return std::future::pending().await };
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            // Out of file descriptors, or a client that left again: both pass.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

/// Counts a connection as open until it is dropped, also when its task is aborted.
struct OpenGuard<'a>(&'a Counters);

impl<'a> OpenGuard<'a> {
    fn new(counters: &'a Counters) -> OpenGuard<'a> {
        counters.open.fetch_add(1, Ordering::Relaxed);
        OpenGuard(counters)
    }
}

impl Drop for OpenGuard<'_> {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}
