use std::sync::Mutex;

use super::*;
use crate::metrics::Metrics;

/// A site of plain values, for the tests of everything that reads status.
#[derive(Debug, Clone, Default)]
pub(crate) struct Plain {
    pub(crate) buffer: BufferStatus,
    pub(crate) progress: Progress,
    pub(crate) replay: ReplayStatus,
    pub(crate) tracker: TrackerStatus,
    pub(crate) leases: Vec<Lease>,
    pub(crate) entries: Vec<Arc<Entry>>,
    pub(crate) quarantine: Vec<Quarantined>,
    pub(crate) conflicts: Vec<Conflict>,
    pub(crate) broken: bool,
}

impl Plain {
    /// All is well and nothing is pending.
    pub(crate) fn healthy() -> Plain {
        Plain {
            buffer: BufferStatus { available: true, ..BufferStatus::default() },
            replay: ReplayStatus { state: ReplayState::Idle, link_up: true, ..ReplayStatus::default() },
            tracker: TrackerStatus { replica_up: true, ..TrackerStatus::default() },
            ..Plain::default()
        }
    }

    /// A status that reads these values, which the test may change.
    pub(crate) fn status(self) -> (Status, Arc<Mutex<Plain>>) {
        let values = Arc::new(Mutex::new(self));
        let config = Config {
            site: crate::config::SiteConfig { name: "kirkenes".to_owned(), kind: SiteKind::Secondary },
            main: crate::config::MainConfig {
                url: "postgres://u:geheim@far/observatory".to_owned(),
                ..crate::config::MainConfig::default()
            },
            ..Config::default()
        };
        let about = About::new(&config);
        let source = Box::new(Shown(Arc::clone(&values)));
        (Status::new(about, Clients::new(Metrics::new().0), source, Instant::now()), values)
    }
}

struct Shown(Arc<Mutex<Plain>>);

impl Shown {
    fn now(&self) -> Plain {
        self.0.lock().unwrap().clone()
    }
}

impl Source for Shown {
    fn buffer(&self) -> BufferStatus {
        self.now().buffer
    }

    fn progress(&self) -> Progress {
        self.now().progress
    }

    fn replay(&self) -> ReplayStatus {
        self.now().replay
    }

    fn tracker(&self) -> TrackerStatus {
        self.now().tracker
    }

    fn leases(&self) -> Vec<Lease> {
        self.now().leases
    }

    fn entries(&self, after: Seq, limit: usize) -> Answer<Vec<Arc<Entry>>> {
        let now = self.now();
        let entries = now.entries.into_iter().filter(|entry| entry.seq > after).take(limit).collect();
        Box::pin(async move { if now.broken { Err("buffer is away".to_owned()) } else { Ok(entries) } })
    }

    fn quarantine(&self, after: Option<Seq>, limit: usize) -> Answer<Vec<Quarantined>> {
        let behind = |one: &Quarantined| Some(one.seq) > after;
        let list = self.now().quarantine.into_iter().filter(behind).take(limit).collect();
        Box::pin(async move { Ok(list) })
    }

    fn conflicts(&self, limit: usize) -> Answer<Vec<Conflict>> {
        let list = self.now().conflicts.into_iter().take(limit).collect();
        Box::pin(async move { Ok(list) })
    }
}

fn client(user: &str) -> ClientInfo {
    ClientInfo { user: user.to_owned(), ..ClientInfo::default() }
}

#[test]
fn a_client_is_listed_while_its_guard_lives_and_counted_for_ever() {
    let clients = Clients::new(Metrics::new().0);
    let first = clients.register(client("anna"));
    let second = clients.register(client("bengt"));
    first.statement(StatementKind::Write);
    first.commit(std::time::Duration::from_millis(1));
    second.statement(StatementKind::Merged);
    second.error(crate::sqlstate::UNIQUE_VIOLATION);
    second.state(ClientState::FailedTransaction);
    let list = clients.list();
    assert_eq!(list.iter().map(|client| client.info.user.as_str()).collect::<Vec<_>>(), ["anna", "bengt"]);
    assert_eq!((list[0].state, list[0].statement), (ClientState::Idle, Some(StatementKind::Write)));
    assert_eq!((list[1].state, list[1].statement), (ClientState::FailedTransaction, Some(StatementKind::Merged)));
    let all = clients.totals();
    assert_eq!((all.connections, all.statements, all.commits, all.errors), (2, 2, 1, 1));
    drop(first);
    assert_eq!((clients.count(), clients.totals()), (1, all));
}

#[test]
fn health_is_down_only_when_clients_are_not_served() {
    type Change = fn(&mut Plain);
    let cases: [(&str, Change, Health); 8] = [
        ("all well", |_| {}, Health::Ok),
        ("link cut", |site| site.replay.link_up = false, Health::Degraded),
        ("rejected entries", |site| site.buffer.quarantined = 1, Health::Degraded),
        ("replica away", |site| site.tracker.replica_up = false, Health::Down),
        ("commits refused", |site| site.buffer.refusing = Some("the disk is full".to_owned()), Health::Degraded),
        ("buffer away", |site| site.buffer.available = false, Health::Down),
        ("replay gone", |site| site.replay.state = ReplayState::Stopped, Health::Down),
        (
            "link cut and replica away",
            |site| {
                site.replay.link_up = false;
                site.tracker.replica_up = false;
            },
            Health::Down,
        ),
    ];
    for (name, change, health) in cases {
        let mut site = Plain::healthy();
        change(&mut site);
        assert_eq!(site.status().0.snapshot().health(), health, "{name}");
    }
}
