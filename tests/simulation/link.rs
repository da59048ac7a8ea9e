//! The ways to main and replica: slow, and cut at any moment, in the middle of a message too, with what is under way
//! arriving or not.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::BytesMut;
use futures_util::future::BoxFuture;
use pgoutpost::upstream::own::Dial;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf, duplex, split};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::backend::{Backend, Target};
use crate::daemon::Process;
use crate::wire::{self, Frame};
use crate::world::World;

/// What is under way at most. All that is sent at once is read at once: the names of prepared statements count up through all
/// runs of this program, and how long they are must not matter.
const WINDOW: usize = 4 << 20;

/// What new connections meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Road {
    Open,
    /// Refused at once.
    Cut,
    /// Nobody says anything.
    BlackHole,
}

/// How a connection is to end before its time.
#[derive(Debug, Clone)]
pub struct Sever {
    now: CancellationToken,
    /// The client is not told.
    silent: CancellationToken,
    /// What is under way arrives not before this.
    arrives: Arc<Mutex<Instant>>,
}

impl Sever {
    fn new() -> Sever {
        let now = CancellationToken::new();
        Sever { now, silent: CancellationToken::new(), arrives: Arc::new(Mutex::new(Instant::now())) }
    }

    /// Whatever is sent from now on arrives after so long.
    pub fn stall(&self, pause: Duration) {
        *self.arrives.lock().unwrap() = Instant::now() + pause;
    }

    pub fn sever(&self, silent: bool) {
        if silent {
            self.silent.cancel();
        }
        self.now.cancel();
    }
}

/// A process' way to a server.
pub struct Way {
    pub world: Arc<World>,
    pub process: Arc<Process>,
    pub target: Target,
}

impl Dial for Way {
    fn dial(&self) -> BoxFuture<'static, io::Result<DuplexStream>> {
        let (world, process, target) = (Arc::clone(&self.world), Arc::clone(&self.process), self.target);
        Box::pin(async move {
            process.step().await;
            sleep(world.latency(target)).await;
            match world.road(target) {
                Road::Open => {}
                Road::Cut => return Err(io::Error::from(io::ErrorKind::ConnectionRefused)),
                Road::BlackHole => std::future::pending().await,
            }
            let (client, server) = duplex(WINDOW);
            let sever = Sever::new();
            world.connected(target, &process, sever.clone());
            let backend = Backend::new(&world, target);
            let (read, write) = split(server);
            let (answers, under_way) = mpsc::unbounded_channel();
            tokio::spawn(deliver(write, under_way, sever.clone(), Arc::clone(&world), target));
            tokio::spawn(serve(world, process, target, backend, read, answers, sever));
            Ok(client)
        })
    }
}

type Answers = mpsc::UnboundedSender<(Instant, BytesMut)>;

/// The server's side: takes what arrives, a latency after it was sent.
async fn serve(
    world: Arc<World>,
    process: Arc<Process>,
    target: Target,
    mut backend: Backend,
    mut read: ReadHalf<DuplexStream>,
    answers: Answers,
    sever: Sever,
) {
    let mut input = BytesMut::new();
    let mut open = true;
    while open {
        input.reserve(WINDOW);
        let arrived = tokio::select! {
            biased;
            () = sever.now.cancelled() => 0,
            read = read.read_buf(&mut input) => read.unwrap_or(0),
        };
        open = arrived > 0 && !process.is_dead();
        let mut frames = frames(&mut input, backend.greeted());
        let arrives = *sever.arrives.lock().unwrap();
        let cut = tokio::select! {
            biased;
            () = sever.now.cancelled() => true,
            () = async { sleep(world.latency(target)).await; sleep_until(arrives).await } => false,
        };
        if cut || process.is_dead() {
            // Some of it had got through, or all; or it stays under way, and comes behind what newer connections send.
            let dice = world.dice_of(target);
            if dice.happens(500) {
                frames.truncate(dice.below(frames.len() + 1));
            }
            if !frames.is_empty() && dice.happens(500) {
                sleep(dice.pause(Duration::from_secs(15))).await;
            }
            open = false;
        }
        let mut out = BytesMut::new();
        for frame in frames {
            if !backend.take(frame, &mut out).await {
                open = false;
                break;
            }
        }
        if !out.is_empty() {
            let _ = answers.send((Instant::now() + world.latency(target), out));
        }
        open &= backend.lives();
    }
    drop(answers);
    if sever.now.is_cancelled() && world.dice_of(target).happens(500) {
        // It takes a server some time to notice that a link is dead: it keeps its locks as long.
        sleep(world.dice_of(target).pause(Duration::from_secs(25))).await;
    }
    backend.end();
}

fn frames(input: &mut BytesMut, mut greeted: bool) -> VecDeque<Frame> {
    let mut frames = VecDeque::new();
    while let Some(frame) = wire::next(input, greeted) {
        greeted = true;
        frames.push_back(frame);
    }
    frames
}

/// The answers on their way back.
async fn deliver(
    mut write: WriteHalf<DuplexStream>,
    mut under_way: mpsc::UnboundedReceiver<(Instant, BytesMut)>,
    sever: Sever,
    world: Arc<World>,
    target: Target,
) {
    let pass_on = async {
        while let Some((at, mut bytes)) = under_way.recv().await {
            tokio::select! {
                biased;
                () = sever.now.cancelled() => {
                    bytes.truncate(world.dice_of(target).below(bytes.len() + 1));
                    let _ = write.write_all(&bytes).await;
                    return;
                }
                () = sleep_until(at) => {}
            }
            if write.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        biased;
        () = pass_on => {}
        () = async { sever.now.cancelled().await; sleep(Duration::from_millis(1)).await } => {}
    }
    if sever.silent.is_cancelled() {
        // Longer than anybody is patient.
        sleep(Duration::from_secs(3600)).await;
    }
    let _ = write.shutdown().await;
}
