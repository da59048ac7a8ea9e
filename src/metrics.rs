//! Metrics, as handles: whoever counts holds a [`Metrics`]; only the page of `/metrics` holds an [`Exposition`].
//!
//! No global recorder and no macros: handles cost a fraction on hot paths, and each test has its own. What `status` knows
//! anyway is not counted twice: those figures are set when the page is asked for.

use std::sync::Arc;
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder, Unit};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use crate::sqlstate::SqlState;
use crate::status::{About, Health, ReplayState, Snapshot, StatementKind};

/// Seconds. From a group commit on a fast disk to a disk in trouble.
const COMMIT_BUCKETS: [f64; 14] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

/// The SQLSTATE classes that get a label of their own; everything else is `other`, so that labels stay bounded.
const CLASSES: [&str; 24] = [
    "08", "0A", "21", "22", "23", "25", "26", "28", "2B", "34", "3B", "3D", "3F", "40", "42", "44", "53", "54", "55",
    "57", "58", "P0", "XX", "other",
];

const METADATA: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, Some(module_path!()));

/// Handles for those who count. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    commits: Counter,
    commit_duration: Histogram,
    statements: Arc<[Counter]>,
    merged_reads: Counter,
    untouched_reads: Counter,
    errors: Arc<[Counter]>,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

impl Metrics {
    /// Handles and the page they appear on.
    pub fn new() -> (Metrics, Exposition) {
        let builder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_duration_seconds".to_owned()), &COMMIT_BUCKETS)
            .expect("the list of buckets is not empty");
        let registry = Registry(builder.build_recorder());
        let kinds = StatementKind::ALL.map(|kind| registry.labelled("statements_total", "kind", kind.as_str()));
        let errors = CLASSES.map(|class| registry.labelled("errors_total", "class", class));
        registry.describe("statements_total", "Statements of clients, by how they were carried out.");
        registry.describe("errors_total", "Errors sent to clients, by SQLSTATE class.");
        let metrics = Metrics {
            commits: registry.counter("commits_total", "Buffered transactions acknowledged."),
            commit_duration: registry
                .histogram("commit_duration_seconds", "From COMMIT to its acknowledgement, of buffered transactions."),
            statements: kinds.into(),
            merged_reads: registry.counter("merged_reads_total", "Reads answered from replica and pending rows."),
            untouched_reads: registry.counter("untouched_reads_total", "Reads passed to the replica as they came."),
            errors: errors.into(),
        };
        let gauges = Figures::new(&registry);
        let handle = registry.0.handle();
        (metrics, Exposition { registry, handle, figures: gauges })
    }

    /// A buffered transaction was acknowledged, this long after its COMMIT came in.
    pub fn commit(&self, took: Duration) {
        self.commits.increment(1);
        self.commit_duration.record(took.as_secs_f64());
    }

    /// A statement begins.
    pub fn statement(&self, kind: StatementKind) {
        if let Some(counter) = self.statements.get(kind as usize) {
            counter.increment(1);
        }
        match kind {
            StatementKind::Merged => self.merged_reads.increment(1),
            StatementKind::Untouched => self.untouched_reads.increment(1),
            StatementKind::Write | StatementKind::Straight | StatementKind::Transaction | StatementKind::Settings => {}
        }
    }

    /// A client was sent an error.
    pub fn error(&self, code: SqlState) {
        let place = CLASSES.iter().position(|class| *class == code.class()).unwrap_or(CLASSES.len() - 1);
        self.errors[place].increment(1);
    }
}

/// The page of `/metrics`.
pub struct Exposition {
    registry: Registry,
    handle: PrometheusHandle,
    figures: Figures,
}

impl std::fmt::Debug for Exposition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Exposition")
    }
}

impl Exposition {
    /// What `text/plain; version=0.0.4` calls for.
    pub const CONTENT_TYPE: &'static str = "text/plain; version=0.0.4; charset=utf-8";

    /// The page as of this snapshot.
    pub fn render(&self, now: &Snapshot, about: &About) -> String {
        self.figures.set(now);
        let info = [
            ("version", about.version.to_owned()),
            ("site", about.site.clone()),
            ("type", about.kind.as_str().to_owned()),
        ];
        self.registry.gauge_with("build_info", &info).set(1.0);
        for lease in &now.leases {
            let labels = [("sequence", lease.sequence.clone())];
            self.registry.gauge_with("lease_remaining", &labels).set(lease.remaining as f64);
        }
        for ((table, outcome), rows) in &now.replay.conflicts {
            let labels = [("table", table.clone()), ("outcome", outcome.as_str().to_owned())];
            self.registry.counter_with("conflicts_total", &labels).absolute(*rows);
        }
        self.handle.render()
    }

    /// Folds recorded samples into their buckets; without it a histogram nobody scrapes grows for ever.
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }
}

/// What `status` knows.
struct Figures {
    clients: Gauge,
    connections: Counter,
    pending_transactions: Gauge,
    pending_bytes: Gauge,
    oldest_pending_seconds: Gauge,
    quarantined: Gauge,
    buffer_up: Gauge,
    link_up: Gauge,
    replica_up: Gauge,
    replaying: Gauge,
    health: Gauge,
    replay_applied: Counter,
    replay_retries: Counter,
    replay_rejected: Counter,
    setbacks: Counter,
    replica_lag_bytes: Gauge,
    replica_lag_seconds: Gauge,
    uptime_seconds: Gauge,
    seq: [Gauge; 4],
}

impl Figures {
    fn new(registry: &Registry) -> Figures {
        registry.describe("conflicts_total", "Rows that main did not have as clients here saw them.");
        registry.describe_gauge("lease_remaining", "Values left of each leased sequence.");
        registry.describe_gauge("build_info", "Always 1; the labels say what runs.");
        registry.describe_gauge("seq", "The newest entry that has reached each place.");
        Figures {
            clients: registry.gauge("clients", "Clients connected."),
            connections: registry.counter("connections_total", "Clients that ever connected."),
            pending_transactions: registry.gauge("pending_transactions", "Entries not yet seen on the replica."),
            pending_bytes: registry.gauge("pending_bytes", "Bytes of those entries."),
            oldest_pending_seconds: registry
                .gauge("oldest_pending_seconds", "Age of the oldest of them; 0 without any."),
            quarantined: registry.gauge("quarantined", "Entries rejected by main, and those that wait for them."),
            buffer_up: registry.gauge("buffer_up", "1 when commits are accepted."),
            link_up: registry.gauge("link_up", "1 when main answers."),
            replica_up: registry.gauge("replica_up", "1 when the replica answers and belongs to main."),
            replaying: registry.gauge("replaying", "1 while entries are on their way to main."),
            health: registry.gauge("health", "2 ok, 1 degraded, 0 down."),
            replay_applied: registry.counter("replay_applied_total", "Entries committed on main."),
            replay_retries: registry
                .counter("replay_retries_total", "Attempts repeated after a broken connection or the like."),
            replay_rejected: registry.counter("replay_rejected_total", "Entries rejected by main."),
            setbacks: registry.counter("main_setbacks_total", "Times that main came back at an older state."),
            replica_lag_bytes: registry
                .gauge("replica_lag_bytes", "WAL of main the replica does not show; -1 when unknown."),
            replica_lag_seconds: registry.gauge("replica_lag_seconds", "Replay delay of the replica; -1 when unknown."),
            uptime_seconds: registry.gauge("uptime_seconds", "Since the daemon started."),
            seq: ["last", "sent", "applied", "confirmed"]
                .map(|place| registry.gauge_with("seq", &[("place", place.to_owned())])),
        }
    }

    fn set(&self, now: &Snapshot) {
        let flag = |on: bool| if on { 1.0 } else { 0.0 };
        self.clients.set(now.clients as f64);
        self.connections.absolute(now.totals.connections);
        self.pending_transactions.set(now.buffer.pending as f64);
        self.pending_bytes.set(now.buffer.pending_bytes as f64);
        self.oldest_pending_seconds.set(now.buffer.oldest_pending.unwrap_or_default().as_secs_f64());
        self.quarantined.set(now.buffer.quarantined as f64);
        self.buffer_up.set(flag(now.buffer.accepts()));
        self.link_up.set(flag(now.replay.link_up));
        self.replica_up.set(flag(now.tracker.replica_up));
        self.replaying.set(flag(now.replay.state == ReplayState::Replaying));
        self.health.set(match now.health() {
            Health::Ok => 2.0,
            Health::Degraded => 1.0,
            Health::Down => 0.0,
        });
        self.replay_applied.absolute(now.replay.applied_total);
        self.replay_retries.absolute(now.replay.retries_total);
        self.replay_rejected.absolute(now.replay.rejected_total);
        self.setbacks.absolute(now.replay.setbacks_total);
        self.replica_lag_bytes.set(now.tracker.lag_bytes.map_or(-1.0, |bytes| bytes as f64));
        self.replica_lag_seconds.set(now.tracker.lag.map_or(-1.0, |lag| lag.as_secs_f64()));
        self.uptime_seconds.set(now.uptime.as_secs_f64());
        let places = [now.progress.last, now.progress.sent, now.progress.applied, now.progress.confirmed];
        for (gauge, seq) in self.seq.iter().zip(places) {
            gauge.set(seq.0 as f64);
        }
    }
}

/// The recorder, with our prefix.
struct Registry(PrometheusRecorder);

impl Registry {
    fn counter(&self, name: &str, help: &'static str) -> Counter {
        self.describe(name, help);
        self.0.register_counter(&Key::from_name(prefixed(name)), &METADATA)
    }

    fn labelled(&self, name: &str, label: &'static str, value: &'static str) -> Counter {
        self.0.register_counter(&Key::from_parts(prefixed(name), vec![Label::new(label, value)]), &METADATA)
    }

    fn counter_with(&self, name: &str, labels: &[(&'static str, String)]) -> Counter {
        let labels: Vec<Label> = labels.iter().map(|(name, value)| Label::new(*name, value.clone())).collect();
        self.0.register_counter(&Key::from_parts(prefixed(name), labels), &METADATA)
    }

    fn gauge(&self, name: &str, help: &'static str) -> Gauge {
        self.describe_gauge(name, help);
        self.gauge_with(name, &[])
    }

    fn gauge_with(&self, name: &str, labels: &[(&'static str, String)]) -> Gauge {
        let labels: Vec<Label> = labels.iter().map(|(name, value)| Label::new(*name, value.clone())).collect();
        self.0.register_gauge(&Key::from_parts(prefixed(name), labels), &METADATA)
    }

    fn histogram(&self, name: &str, help: &'static str) -> Histogram {
        self.0.describe_histogram(prefixed(name).into(), Some(Unit::Seconds), help.into());
        self.0.register_histogram(&Key::from_name(prefixed(name)), &METADATA)
    }

    fn describe(&self, name: &str, help: &'static str) {
        self.0.describe_counter(prefixed(name).into(), None, help.into());
    }

    fn describe_gauge(&self, name: &str, help: &'static str) {
        self.0.describe_gauge(prefixed(name).into(), None, help.into());
    }
}

fn prefixed(name: &str) -> String {
    format!("pgoutpost_{name}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sqlstate;
    use crate::status::Lease;
    use crate::status::tests::Plain;

    fn page(metrics: impl Fn(&Metrics), site: Plain) -> String {
        let (handles, exposition) = Metrics::new();
        metrics(&handles);
        let (status, _) = site.status();
        exposition.render(&status.snapshot(), status.about())
    }

    #[test]
    fn counters_histograms_and_labels_come_out() {
        let text = page(
            |metrics| {
                metrics.commit(Duration::from_micros(300));
                metrics.statement(StatementKind::Merged);
                metrics.error(sqlstate::UNIQUE_VIOLATION);
                metrics.error(SqlState::parse("99999"));
            },
            Plain::healthy(),
        );
        for line in [
            "# TYPE pgoutpost_commit_duration_seconds histogram",
            "pgoutpost_commit_duration_seconds_bucket{le=\"0.00025\"} 0",
            "pgoutpost_commit_duration_seconds_bucket{le=\"0.0005\"} 1",
            "pgoutpost_commits_total 1",
            "pgoutpost_statements_total{kind=\"merged\"} 1",
            "pgoutpost_statements_total{kind=\"write\"} 0",
            "pgoutpost_merged_reads_total 1",
            "pgoutpost_untouched_reads_total 0",
            "pgoutpost_errors_total{class=\"23\"} 1",
            "pgoutpost_errors_total{class=\"other\"} 1",
            "pgoutpost_link_up 1",
            "pgoutpost_health 2",
        ] {
            assert!(text.lines().any(|found| found == line), "{line:?} is not in\n{text}");
        }
        let named = |line: &&str| !line.is_empty() && !line.starts_with('#');
        assert!(text.lines().filter(named).all(|line| line.starts_with("pgoutpost_")), "{text}");
    }

    #[test]
    fn figures_are_those_of_the_moment() {
        let mut site = Plain::healthy();
        site.buffer.pending = 5;
        site.replay.applied_total = 40;
        site.leases = vec![Lease { sequence: "public.s".to_owned(), remaining: 12 }];
        let text = page(|_| {}, site);
        for line in [
            "pgoutpost_pending_transactions 5",
            "pgoutpost_replay_applied_total 40",
            "pgoutpost_lease_remaining{sequence=\"public.s\"} 12",
            "pgoutpost_replica_lag_bytes -1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line:?} is not in\n{text}");
        }
    }
}
