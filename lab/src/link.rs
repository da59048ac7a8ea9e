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

use anyhow::{Context, Result, bail};
use rustix::net::{self, sockopt};
use tokio::net::{TcpListener, TcpStream};
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
    /// Where new connections lead.
    main: SocketAddr,
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

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;

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
        let weather = Weather { mode: Mode::Open, delay: Duration::ZERO, main: local(main_port) };
        // Orders are rare and each is waited for: the queue holds one per calling thread.
        let (orders, queue) = async_mpsc::unbounded_channel();
        let counters = Arc::new(Counters::default());
        let (ready, started) = mpsc::sync_channel(1);
        let shared = Arc::clone(&counters);
        std::thread::Builder::new().name("link".into()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            match runtime {
                Ok(runtime) => runtime.block_on(Exchange::run(port, weather, shared, queue, &ready)),
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

    /// Leads new connections to 127.0.0.1:`main_port` from now on, as after a failover. The present ones stay: [`Link::cut`]
    /// ends them.
    pub fn aim(&self, main_port: u16) -> Result<()> {
        self.order(|weather| weather.main = local(main_port))
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
    door: Door,
    weather: watch::Sender<Weather>,
    counters: Arc<Counters>,
    tunnels: JoinSet<()>,
}

/// The listening port. One socket for its whole life, bound also while it is closed: nobody else can take the port, and
/// it never has to be bound a second time, which a copy of the socket in a program that is just being started would
/// forbid.
#[derive(Debug)]
enum Door {
    Open(TcpListener),
    /// Not known to the runtime, which would keep in mind that it was shut down.
    Closed(std::net::TcpListener),
    /// Between the two, or out of order after an error.
    Gone,
}

impl Door {
    /// Refuses from now on; what was accepted by the kernel alone is reset. Linux: a listening socket that is shut down
    /// keeps its address, and can listen again.
    fn close(&mut self) -> Result<()> {
        if let Door::Open(listener) = std::mem::replace(self, Door::Gone) {
            let listener = listener.into_std()?;
            net::shutdown(&listener, net::Shutdown::Both).context("closing the link")?;
            // Two sockets that both allow reuse may be bound to one port while neither listens: not to this one.
            sockopt::set_socket_reuseaddr(&listener, false)?;
            *self = Door::Closed(listener);
        }
        Ok(())
    }

    fn open(&mut self) -> Result<()> {
        if let Door::Closed(listener) = std::mem::replace(self, Door::Gone) {
            // Accepted connections inherit it, and what is left of them (TIME_WAIT) must not keep the next link away.
            sockopt::set_socket_reuseaddr(&listener, true)?;
            net::listen(&listener, BACKLOG).context("listening for the link")?;
            *self = Door::Open(TcpListener::from_std(listener)?);
        }
        Ok(())
    }
}

impl Exchange {
    async fn run(
        port: u16,
        weather: Weather,
        counters: Arc<Counters>,
        mut orders: async_mpsc::UnboundedReceiver<Order>,
        ready: &mpsc::SyncSender<Result<()>>,
    ) {
        let address = local(port);
        let listener = match TcpListener::bind(address).await {
            Ok(listener) => listener,
            Err(error) => {
                let error = anyhow::Error::new(error).context(format!("binding the link to {address}"));
                return drop(ready.send(Err(error)));
            }
        };
        let (weather, _) = watch::channel(weather);
        let door = Door::Open(listener);
        let mut exchange = Exchange { door, weather, counters, tunnels: JoinSet::new() };
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
        match (&self.door, weather.mode == Mode::Cut) {
            (Door::Open(_), true) => {
                self.door.close()?;
                self.tunnels.shutdown().await;
            }
            (Door::Closed(_), false) => self.door.open()?,
            (Door::Open(_), false) | (Door::Closed(_), true) => {}
            (Door::Gone, _) => bail!("the link could not be opened or closed before"),
        }
        Ok(())
    }

    fn connect(&mut self, site: TcpStream) {
        self.counters.accepted.fetch_add(1, Ordering::Relaxed);
        let (weather, counters) = (self.weather.subscribe(), Arc::clone(&self.counters));
        let main = weather.borrow().main;
        self.tunnels.spawn(async move {
            let _open = OpenGuard::new(&counters);
            if let Err(error) = tunnel::run(site, main, weather, &counters).await {
                tracing::debug!(%error, "a connection over the link ended");
            }
        });
    }
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
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
