//! From a new socket to a session: what the client wants, whether it may, and its connection to the replica.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::failure::{End, Failure};
use super::owed::Pipeline;
use super::statements::Names;
use super::transaction::Transaction;
use super::trust::{self, Judged};
use super::{Session, Shared, Who, console};
use crate::entry::Seq;
use crate::report::Report;
use crate::setup::literal;
use crate::sqlstate;
use crate::status::{ClientGuard, ClientInfo};
use crate::upstream::raw::{self, ConnectError, Raw};
use crate::wire::error::{self, Severity};
use crate::wire::link::{Link, Stream};
use crate::wire::startup::{self, Opening};
use crate::wire::{HEADER, MESSAGE_MAX, build};

use super::cancel::{Registered, Target};

/// Rights that a session remembers.
const PERMITTED: std::num::NonZeroUsize = std::num::NonZeroUsize::new(64).expect("not zero");

/// How often a replica that has gone back is asked whether it has caught up.
const CURRENT_POLL: Duration = Duration::from_millis(20);

/// The virtual database that is the console.
pub(super) const CONSOLE: &str = "pgoutpost";

/// Serves one client until it leaves or must.
pub async fn run(stream: TcpStream, shared: Arc<Shared>) {
    let address = stream.peer_addr().map(|peer| peer.to_string()).unwrap_or_default();
    let mut link = Link::new(Stream::Tcp(stream));
    let opening = timeout(shared.limits.handshake, open(&mut link));
    let opened = tokio::select! {
        opened = opening => opened,
        () = shared.shutdown.cancelled() => return,
    };
    let (minor, parameters) = match opened {
        Ok(Ok(Opening::Start { minor, parameters })) => (minor, parameters),
        Ok(Ok(Opening::Cancel(key))) => return shared.cancels.cancel(key).await,
        Ok(Ok(Opening::Unsupported { major, minor })) => {
            let message = format!("unsupported frontend protocol {major}.{minor}: server supports 3.0 to 3.0");
            return refuse(link, &Report::new(sqlstate::FEATURE_NOT_SUPPORTED, message)).await;
        }
        Ok(Ok(Opening::Tls | Opening::Gss)) | Err(_) => return,
        Ok(Err(end)) => {
            debug!(%address, %end, "no session");
            if let End::Fatal(report) = end {
                refuse(link, &report).await;
            }
            return;
        }
    };
    // The permit is held for as long as the client stays.
    let Ok(_slot) = Arc::clone(&shared.slots).try_acquire_owned() else {
        let report = Report::new(sqlstate::TOO_MANY_CONNECTIONS, "sorry, too many clients already");
        return refuse(link, &report).await;
    };
    negotiate(&mut link, minor, &parameters);
    let who = match Who::read(&shared, parameters) {
        Ok(who) => who,
        Err(report) => return refuse(link, &report).await,
    };
    // The client's process is that of its session on the replica, which pg_backend_pid() tells, too.
    let register = |process: Option<i32>| {
        let registered = shared.cancels.register(process);
        let guard = shared.status.clients().register(ClientInfo {
            pid: registered.key.process,
            user: who.user.clone(),
            database: who.database.clone(),
            application_name: who.parameter("application_name").unwrap_or_default().to_owned(),
            address: address.clone(),
        });
        (registered, guard)
    };
    if who.database == CONSOLE {
        let name = format!("{}@{address}", who.user);
        let (registered, guard) = register(None);
        return console::serve(link, &registered, &shared, &guard, name).await;
    }
    let connecting = raw::connect(&shared.replica, &who.parameters, shared.limits.connect_replica);
    let replica = tokio::select! {
        connected = connecting => connected,
        () = shared.shutdown.cancelled() => return refuse(link, &stopping()).await,
    };
    match replica {
        Ok(replica) => {
            let (registered, guard) = register(replica.key.map(|key| key.process));
            let mut session = Session::new(shared, who, link, replica, registered, guard);
            let end = match session.replica_is_current().await {
                Ok(()) => {
                    session.greet();
                    session.serve().await
                }
                Err(end) => end,
            };
            session.farewell(&end).await;
        }
        Err(ConnectError::Refused(message)) => {
            link.output.extend_from_slice(&message);
            let _ = link.drain().await;
        }
        Err(error) => {
            warn!(%error, "no connection to the replica for a client");
            refuse(link, &unreachable(&error)).await;
        }
    }
}

/// Reads what the client opens with; encryption is declined, and what was sent ahead of the answer is refused.
async fn open(link: &mut Link) -> Result<Opening, End> {
    loop {
        let length = loop {
            if let Some(length) = startup::length(&link.input)?
                && link.input.len() >= length
            {
                break length;
            }
            if link.fill().await.map_err(End::ClientIo)? == 0 {
                return Err(End::Client);
            }
        };
        let packet = link.input.split_to(length);
        match startup::read(&packet)? {
            Opening::Tls | Opening::Gss => {
                if !link.input.is_empty() {
                    let message = "received unencrypted data after an encryption request";
                    return Err(End::Fatal(Box::new(Report::new(sqlstate::PROTOCOL_VIOLATION, message))));
                }
                link.output.extend_from_slice(b"N");
                link.drain().await.map_err(End::ClientIo)?;
            }
            opening => return Ok(opening),
        }
    }
}

/// Tells a client that asked for more than protocol 3.0 what it gets.
fn negotiate(link: &mut Link, minor: u16, parameters: &[(String, String)]) {
    let unknown: Vec<&str> =
        parameters.iter().map(|(name, _)| name.as_str()).filter(|name| name.starts_with("_pq_.")).collect();
    if minor > 0 || !unknown.is_empty() {
        build::negotiate(&mut link.output, &unknown);
    }
}

async fn refuse(mut link: Link, report: &Report) {
    error::report(&mut link.output, Severity::Fatal, report);
    let _ = link.drain().await;
}

pub(super) fn stopping() -> Report {
    Report::new(sqlstate::ADMIN_SHUTDOWN, "terminating connection due to administrator command")
}

fn unreachable(error: &ConnectError) -> Report {
    let report = |code| Report::new(code, format!("the site's replica is not available: {error}"));
    match error {
        ConnectError::Unreachable(_) | ConnectError::Timeout(_) => report(sqlstate::CANNOT_CONNECT_NOW)
            .hint("Start the replica, or correct [replica] url; then connect again."),
        ConnectError::NoPassword { .. } | ConnectError::Method(_) => {
            report(sqlstate::INVALID_AUTHORIZATION_SPECIFICATION)
                .hint("Let the replica's pg_hba.conf trust the daemon's address for this role.")
        }
        ConnectError::Refused(_) | ConnectError::Protocol(_) => report(sqlstate::CONNECTION_FAILURE),
    }
}

impl Who {
    /// Judges the startup parameters.
    fn read(shared: &Shared, parameters: Vec<(String, String)>) -> Result<Who, Report> {
        let find = |wanted: &str| {
            let mut found = parameters.iter().filter(|(name, value)| name == wanted && !value.is_empty());
            found.next_back().map(|(_, value)| value.clone())
        };
        let user = find("user").ok_or_else(|| {
            let message = "no PostgreSQL user name specified in startup packet";
            Report::new(sqlstate::INVALID_AUTHORIZATION_SPECIFICATION, message)
        })?;
        if find("replication").is_some_and(|value| !matches!(value.as_str(), "false" | "off" | "no" | "0")) {
            let message = "replication connections are not available through pgoutpost";
            return Err(Report::new(sqlstate::FEATURE_NOT_SUPPORTED, message).hint("Connect to the replica itself."));
        }
        let database = find("database").unwrap_or_else(|| user.clone());
        if database != shared.database && database != CONSOLE {
            let message = format!("database \"{database}\" does not exist");
            let hint = format!("This site serves database \"{}\"; \"{CONSOLE}\" is the console.", shared.database);
            return Err(Report::new(sqlstate::INVALID_CATALOG_NAME, message).hint(hint));
        }
        // Merged queries look dear to the planner, and compiling one took seconds where running it takes milliseconds.
        let own_jit = find("options").is_some_and(|options| options.contains("jit"));
        let own_options = find("options").is_some_and(|options| options.contains("pgoutpost."));
        let ours = |name: &str| matches!(name, "database" | "replication") || name.starts_with("_pq_.");
        let mut kept: Vec<_> = parameters.into_iter().filter(|(name, _)| !ours(name)).collect();
        kept.push(("database".into(), database.clone()));
        if !own_jit && !kept.iter().any(|(given, _)| given == "jit") {
            kept.push(("jit".into(), "off".into()));
        }
        if !own_options {
            // So that SHOW finds them.
            for (name, value) in [("pgoutpost.commit", "buffered"), ("pgoutpost.read", "merged")] {
                if !kept.iter().any(|(given, _)| given == name) {
                    kept.push((name.into(), value.into()));
                }
            }
        }
        Ok(Who { user, database, parameters: kept })
    }

    pub(super) fn parameter(&self, wanted: &str) -> Option<&str> {
        self.parameters.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str())
    }
}

impl Session {
    fn new(
        shared: Arc<Shared>,
        who: Who,
        client: Link,
        replica: Raw,
        registered: Registered,
        guard: ClientGuard,
    ) -> Session {
        let locks = shared.locks.holder();
        let seat = shared.sides.seat(locks.id());
        // What it may trust `replica_is_current` finds.
        let trusted = CancellationToken::new();
        let stopping = trust::end_of(&shared.shutdown, &trusted);
        let session = Session {
            shared,
            who,
            client,
            replica,
            main: None,
            resident: false,
            expected: VecDeque::new(),
            passing: 0,
            discarding: 0,
            skipping: false,
            unsynced: false,
            reads_first: false,
            replica_skips: false,
            held: false,
            retry: None,
            names: Names::default(),
            transaction: Transaction::default(),
            locks,
            seat,
            settings: None,
            settings_before: None,
            binds_setter: false,
            settings_changed: false,
            local_settings: false,
            own_settings: std::collections::BTreeSet::new(),
            registered,
            stopping,
            trusted,
            described_at: 0,
            guard,
            batch: false,
            tries: 0,
            begun_again: 0,
            planned_with: 0,
            pinned: None,
            binds: 0,
            only_bind: None,
            permitted: lru::LruCache::new(PERMITTED),
            one_snapshot: super::with::OneSnapshot::No,
            unread: lru::LruCache::new(PERMITTED),
            pipeline: Pipeline::default(),
            behind: None,
            unseen_truncate: Seq::ZERO,
            last_tag: bytes::BytesMut::new(),
            tags: Vec::new(),
            asked: None,
            remembered: super::ids::Remembered::default(),
            spare: super::ids::Spare::default(),
        };
        session.aim_at_replica();
        session
    }

    /// A replica that was killed accepts connections before it has replayed all that it showed before; what it showed
    /// may have been dropped from the overlay. It can go back only by a restart, which ends every connection, so looking
    /// once for each connection is enough. Waits until it has caught up, or the tracker has brought the overlay back.
    async fn replica_is_current(&mut self) -> Result<(), End> {
        let deadline = Instant::now() + self.shared.limits.replica_current;
        let question = format!(
            "SELECT (SELECT seq FROM pgoutpost.ledger WHERE site = {}), {}",
            literal(&self.shared.site),
            "extract(epoch FROM pg_catalog.pg_postmaster_start_time())::text"
        );
        let mut mild = false;
        loop {
            // In this order: a replica that has not gone back has all that was confirmed before it is asked.
            let confirmed = self.shared.buffer.progress().borrow().confirmed;
            let rows = match self.question(&question).await {
                Ok(rows) => rows,
                Err(Failure::End(end)) => return Err(end),
                // Serializable by default: a standby does nothing then.
                Err(Failure::Server(error) | Failure::Inner(error))
                    if !mild && error::code(&error[HEADER..]) == sqlstate::FEATURE_NOT_SUPPORTED =>
                {
                    mild = true;
                    self.connect_mildly().await?;
                    continue;
                }
                // What is wrong with it the client's first statement will be told, too.
                Err(_) => return self.sync().await,
            };
            self.sync().await?;
            let column = |place: usize| {
                let value = rows.first().and_then(|row| row.get(place)?.as_deref());
                value.and_then(|text| std::str::from_utf8(text).ok())
            };
            let current = column(0).map_or(Seq::ZERO, |text| Seq(text.parse().unwrap_or(0))) >= confirmed;
            match self.shared.trust.judged(column(1).unwrap_or_default()) {
                Judged::Refused(report) => return Err(End::Fatal(report)),
                Judged::Trusted(trusted) if current => {
                    self.stopping = trust::end_of(&self.shared.shutdown, &trusted);
                    self.trusted = trusted;
                    return Ok(());
                }
                Judged::Trusted(_) | Judged::NotYet => {}
            }
            if Instant::now() >= deadline {
                let (message, hint) = match current {
                    false => (
                        "the site's replica is at an older state than before",
                        "It is catching up after a restart, or was replaced by an older copy. Connect again later.",
                    ),
                    true => (
                        "it is not known yet whether the site's replica belongs to main",
                        "It was started anew, and the daemon could not look at it. Connect again later.",
                    ),
                };
                return Err(End::Fatal(Box::new(Report::new(sqlstate::CANNOT_CONNECT_NOW, message).hint(hint))));
            }
            tokio::time::sleep(CURRENT_POLL).await;
        }
    }

    /// Connects to the replica anew, with an isolation level that it grants unless the client asks for another.
    async fn connect_mildly(&mut self) -> Result<(), End> {
        let mut parameters = self.who.parameters.clone();
        parameters.push(("default_transaction_isolation".into(), "repeatable read".into()));
        let connected = raw::connect(&self.shared.replica, &parameters, self.shared.limits.connect_replica).await;
        self.replica = connected.map_err(|error| End::Fatal(Box::new(unreachable(&error))))?;
        self.aim_at_replica();
        Ok(())
    }

    /// Cancel requests go to the replica from now on.
    pub(super) fn aim_at_replica(&self) {
        let target = self.replica.key.map(|key| Target { address: self.replica.address.clone(), key });
        self.registered.running.set(target);
    }

    fn greet(&mut self) {
        let out = &mut self.client.output;
        build::authentication_ok(out);
        for (name, value) in &self.replica.parameters {
            // Clients that look for a writable server find one here.
            let value = if name == "in_hot_standby" { "off" } else { value };
            build::parameter_status(out, name, value);
        }
        build::backend_key(out, self.registered.key);
        build::ready(out, b'I');
        debug_assert!(out.len() < MESSAGE_MAX);
    }

    /// Tells the client why its session ends, when it does not know.
    async fn farewell(&mut self, end: &End) {
        let report = match end {
            End::Client | End::ClientIo(_) => None,
            End::ReplicaSaid => None,
            End::Protocol(malformed) => Some(super::failure::malformed_report(*malformed)),
            End::Replica(why) => Some(
                Report::new(sqlstate::ADMIN_SHUTDOWN, "terminating connection: the site's replica has gone")
                    .detail(why.clone())
                    .hint("Connect again. What was committed is safe in the buffer."),
            ),
            End::Stopping => Some(stopping()),
            End::Fatal(report) => Some((**report).clone()),
        };
        if let Some(report) = report {
            error::report(&mut self.client.output, Severity::Fatal, &report);
        }
        match end {
            End::Client => debug!(user = self.who.user, "client left"),
            End::ClientIo(_) | End::Stopping => debug!(user = self.who.user, %end, "session ended"),
            End::ReplicaSaid | End::Protocol(_) | End::Replica(_) | End::Fatal(_) => {
                info!(user = self.who.user, %end, "session ended");
            }
        }
        let wait = Duration::from_secs(2);
        let _ = timeout(wait, self.client.drain()).await;
        // The replica ends its side at once instead of when it next writes.
        build::message(&mut self.replica.link.output, b'X', |_| {});
        let _ = timeout(wait, self.replica.link.drain()).await;
    }
}
