//! What the link does to connections: delay, cut, heal, black hole, without any server but an echo.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lab::Link;
use lab::link::Mode;
use lab::port::free_port;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(10);

/// A server that answers every byte with itself; returns its port.
async fn echo() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
                let _ = to.shutdown().await;
            });
        }
    });
    port
}

async fn echo_behind_link() -> Link {
    let main_port = echo().await;
    Link::start(free_port().unwrap(), main_port).unwrap()
}

async fn connect(link: &Link) -> TcpStream {
    TcpStream::connect(("127.0.0.1", link.port())).await.unwrap()
}

async fn ask(stream: &mut TcpStream) -> Duration {
    let start = Instant::now();
    stream.write_all(b"x").await.unwrap();
    assert_eq!(timeout(SOON, stream.read_u8()).await.unwrap().unwrap(), b'x');
    start.elapsed()
}

#[tokio::test]
async fn an_answer_takes_the_round_trip_and_a_new_connection_one_more() {
    let link = echo_behind_link().await;
    let mut stream = connect(&link).await;
    let fast = ask(&mut stream).await;
    assert!(fast < Duration::from_millis(100), "no delay was asked for, but an answer took {fast:?}");

    link.delay(Duration::from_millis(200)).unwrap();
    let slow = ask(&mut stream).await;
    assert!(slow >= Duration::from_millis(200) && slow < Duration::from_millis(400), "{slow:?}");
    let first = ask(&mut connect(&link).await).await;
    assert!(first >= Duration::from_millis(400) && first < Duration::from_millis(700), "{first:?}");
}

#[tokio::test]
async fn delay_does_not_narrow_the_link_and_keeps_the_order() {
    let link = echo_behind_link().await;
    link.delay(Duration::from_millis(200)).unwrap();
    let (mut from, mut to) = connect(&link).await.into_split();
    let sent: Vec<u8> = (0..4_000_000_u32).map(|n| (n % 251) as u8).collect();
    let copy = sent.clone();
    let start = Instant::now();
    tokio::spawn(async move {
        to.write_all(&copy).await.unwrap();
        to.shutdown().await.unwrap();
    });
    let mut received = Vec::new();
    timeout(SOON, from.read_to_end(&mut received)).await.unwrap().unwrap();
    assert!(received == sent, "bytes were lost or reordered");
    // With one 64 KiB chunk per round trip it would be 12 s.
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_shorter_delay_does_not_let_bytes_overtake() {
    let link = echo_behind_link().await;
    let mut stream = connect(&link).await;
    ask(&mut stream).await;
    link.delay(Duration::from_millis(400)).unwrap();
    stream.write_all(b"a").await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    link.delay(Duration::ZERO).unwrap();
    stream.write_all(b"b").await.unwrap();
    let mut received = [0; 2];
    timeout(SOON, stream.read_exact(&mut received)).await.unwrap().unwrap();
    assert_eq!(&received, b"ab");
}

#[tokio::test]
async fn a_cut_closes_and_refuses_until_healed() {
    let link = echo_behind_link().await;
    let mut stream = connect(&link).await;
    ask(&mut stream).await;
    assert_eq!(link.counts().open, 1);

    link.cut().unwrap();
    assert_eq!((link.mode(), link.counts().open), (Mode::Cut, 0));
    let end = timeout(SOON, stream.read(&mut [0; 1])).await.unwrap();
    assert!(matches!(end, Ok(0) | Err(_)), "the connection must be closed, not {end:?}");
    assert!(TcpStream::connect(("127.0.0.1", link.port())).await.is_err(), "a cut link must refuse");
    assert!(!lab::port::is_free(link.port()), "a cut link must keep its port");

    link.heal().unwrap();
    ask(&mut connect(&link).await).await;
}

#[tokio::test]
async fn a_black_hole_accepts_and_never_answers() {
    let link = echo_behind_link().await;
    let (mut busy, mut idle) = (connect(&link).await, connect(&link).await);
    ask(&mut busy).await;
    ask(&mut idle).await;

    link.black_hole().unwrap();
    busy.write_all(b"x").await.unwrap();
    let mut new = connect(&link).await;
    new.write_all(b"x").await.unwrap();
    let silence = Duration::from_millis(300);
    assert!(timeout(silence, busy.read(&mut [0; 1])).await.is_err(), "an answer, or an end, came out of a black hole");
    assert!(timeout(silence, new.read(&mut [0; 1])).await.is_err(), "an answer, or an end, came out of a black hole");
    assert_eq!(link.counts().swallowed_bytes, 1);

    // What lost bytes is closed; what lost none lives on.
    link.heal().unwrap();
    for lost in [&mut busy, &mut new] {
        let end = timeout(SOON, lost.read(&mut [0; 1])).await.unwrap();
        assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    }
    ask(&mut idle).await;
}

/// A program that is being started holds a copy of every descriptor until its exec, a listening one too: the link must
/// not need its port free to close it or to open it again.
#[tokio::test]
async fn the_port_stays_ours_while_programs_are_started() {
    let link = echo_behind_link().await;
    let stop = Arc::new(AtomicBool::new(false));
    let starters = [(); 2].map(|()| {
        let stop = Arc::clone(&stop);
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                std::process::Command::new("true").status().unwrap();
            }
        })
    });
    for _ in 0..500 {
        link.cut().unwrap();
        assert!(TcpStream::connect(("127.0.0.1", link.port())).await.is_err(), "a cut link must refuse");
        link.heal().unwrap();
        ask(&mut connect(&link).await).await;
    }
    stop.store(true, Ordering::Relaxed);
    for starter in starters {
        starter.join().unwrap();
    }
}
