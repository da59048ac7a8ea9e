//! `kill -9` of the daemon, again and again, under load: nothing acknowledged is lost, nothing is applied twice.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rand::Rng;

use super::load::{Load, SCHEMA};
use super::stage::{Kept, PATIENCE, Stage, over_both_buffers};

over_both_buffers!(fifty_kills_under_load_lose_nothing_and_repeat_nothing);

const KILLS: usize = 50;
const CLIENTS: usize = 4;

async fn fifty_kills_under_load_lose_nothing_and_repeat_nothing(kept: Kept) {
    let stage = Stage::own_on(kept, "kill9", SCHEMA).await;
    let load = Load::start(&stage.outpost.url(), CLIENTS);
    for kill in 0..KILLS {
        // Some work is done between two kills, and the kill hits at any moment of it.
        let goal = load.acknowledged.load(Ordering::Relaxed) + rand::rng().random_range(1..40);
        let deadline = Instant::now() + PATIENCE;
        while load.acknowledged.load(Ordering::Relaxed) < goal {
            assert!(Instant::now() < deadline, "no progress before kill {kill}: {}", load.last_failure());
            tokio::time::sleep(Duration::from_micros(rand::rng().random_range(50..3000))).await;
        }
        // Now and then the link is away while the daemon dies, so that entries pile up over a restart.
        if kill % 10 == 5 {
            stage.cut();
        } else if kill % 10 == 8 {
            stage.heal();
        }
        stage.outpost.kill9().unwrap();
        stage.outpost.restart().await.unwrap();
    }
    let outcome = load.stop().await;
    println!("{outcome}");
    assert!(outcome.unanswered() > 0, "no kill hit a transaction under way: {outcome}");
    outcome.must_be_in(&stage.client().await).await;
    stage.drain().await;
    outcome.must_be_in(&stage.main().await).await;
    outcome.must_be_in(&stage.client().await).await;
}
