//! Leases that are made ahead, and who needs values meanwhile.

use super::*;

/// A main that is asked over one connection and takes its time; sequences named "gone" it does not have.
#[derive(Clone)]
struct Slow(Main, Arc<tokio::sync::Mutex<()>>);

impl LeaseSource for Slow {
    fn lease<'a>(&'a self, sequence: &'a str, count: u32) -> BoxFuture<'a, Result<Drawn, String>> {
        Box::pin(async move {
            let _connection = self.1.lock().await;
            tokio::time::sleep(Duration::from_millis(300)).await;
            match sequence {
                "gone" if self.0.made().file == 1 => Err("relation \"gone\" does not exist".into()),
                _ => self.0.lease(sequence, count).await,
            }
        })
    }

    fn position<'a>(&'a self, sequence: &'a str) -> BoxFuture<'a, Result<Position, String>> {
        self.0.position(sequence)
    }
}

#[test]
fn who_needs_values_at_once_does_not_wait_for_those_that_are_leased_ahead() {
    runtime().block_on(async {
        let main = Slow(Main::new(1), Arc::default());
        let leases = Leases::open(IdsConfig { lease_size: 10 }, Disk::default().claim(), main.clone()).await.unwrap();
        let (ahead, made) = (leases.clone(), main.0.made());
        let names = (0..100).map(|n| (format!("s{n}").into(), made)).collect();
        let ahead = tokio::spawn(async move { ahead.prepare(names).await });
        tokio::time::sleep(Duration::from_millis(100)).await;
        for name in ["s50", "s99", "another"] {
            assert_eq!(leases.take(name, Some(made), 1).await.unwrap().len(), 1);
        }
        ahead.await.unwrap();
        assert!(leases.remaining().iter().all(|(name, left)| *left >= 9 && !name.is_empty()), "{leases:?}");
        assert_eq!(leases.remaining().len(), 101);
    });
}

#[test]
fn a_sequence_made_anew_does_not_wait_for_the_failure_of_its_former_self() {
    runtime().block_on(async {
        let main = Slow(Main::new(1), Arc::default());
        let leases = Leases::open(IdsConfig { lease_size: 10 }, Disk::default().claim(), main.clone()).await.unwrap();
        leases.prepare(vec![("gone".into(), main.0.made())]).await;
        assert!(leases.take("gone", Some(main.0.made()), 1).await.is_err());
        main.0.restart(1);
        assert_eq!(leases.take("gone", Some(main.0.made()), 1).await.unwrap(), [1]);
    });
}
