//! Performs a script on one side and writes down what was answered.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::Client;

use super::answer::Answer;
use super::client::{Connection, PIPELINED, Protocol};
use super::script::{Action, Judged, Links, Script, Step, are_ordered};

/// Nothing that a script does takes so long, except on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(30);
/// In generated scripts nobody waits; a script that is being shrunk may have lost the COMMIT that ends a wait.
const SHORT_PATIENCE: Duration = Duration::from_secs(15);
/// How long a statement that should be blocked is watched.
const WATCHED: Duration = Duration::from_millis(300);
/// The same when nobody knows whether it should be.
const WATCHED_BLIND: Duration = Duration::from_secs(4);
/// What the plain server gets in the place of a statement that the daemon refuses: it fails as well.
const REFUSED: &str = "DO 'BEGIN RAISE EXCEPTION ''refused at the site''; END'";

/// Where a side is.
#[derive(Clone, Debug)]
pub struct Place {
    pub port: u16,
    pub database: String,
    /// The schema whose tables are meant; absent for all of the database.
    pub schema: Option<String>,
    /// Sequences that are to be kept alike ([`Sequences`]).
    pub sequences: Vec<String>,
    /// Type names by OID.
    pub types: HashMap<String, String>,
}

impl Place {
    /// The same with a schema of its database.
    pub fn within(&self, schema: &str) -> Place {
        Place { schema: Some(schema.to_owned()), ..self.clone() }
    }

    async fn open(&self) -> Result<Connection, String> {
        let mut connection = Connection::open(self.port, "postgres", &self.database).await?;
        if let Some(schema) = &self.schema {
            connection.send(Protocol::Simple, &format!("SET search_path = {schema}"), b"").await?;
            connection.answer_by(Instant::now() + PATIENCE).await?;
        }
        Ok(connection)
    }
}

/// One step's outcome.
#[derive(Clone, Debug)]
pub enum Seen {
    Answered(Answer),
    /// Started, and waiting for another session.
    Blocked,
    /// No answer, and never one.
    Lost(String),
}

/// What one side answered, step by step, and what its tables held in the end, as a client sees them.
#[derive(Clone, Debug, Default)]
pub struct Transcript {
    pub seen: Vec<Seen>,
    /// Where the daemon's sequences stood after a failed step.
    pub sequences: Sequences,
    pub tables: Tables,
}

/// The next values of sequences, by the step after which they were drawn.
///
/// A statement that fails may have used up more values at the site (all of its rows') than on a plain server (those of
/// the rows before the one that failed). No client can rely on either, so in generated scripts the plain server's
/// sequences are moved to where the daemon's are. Everywhere else ids are compared as they are.
pub type Sequences = BTreeMap<usize, Vec<(String, i64)>>;

/// Sorted rows by the table's name.
pub type Tables = BTreeMap<String, Result<Vec<String>, String>>;

/// On the plain server. `watcher` is a connection to it.
pub async fn on_plain(script: &Script, protocol: Protocol, place: &Place, watcher: &Client) -> Transcript {
    on_plain_with(script, protocol, place, watcher, &Transcript::default()).await
}

/// The same as it was done through the daemon: failed steps leave the sequences where they stood there, and in live scripts a
/// statement that had to wait there, and has not to here, comes later as well.
pub async fn on_plain_with(
    script: &Script,
    protocol: Protocol,
    place: &Place,
    watcher: &Client,
    through: &Transcript,
) -> Transcript {
    let mut stand = Stand::new(script, protocol, place);
    (stand.plain, stand.watcher) = (true, Some(watcher));
    stand.set = through.sequences.clone();
    if script.links == Links::Live {
        let blocked = through.seen.iter().enumerate().filter(|(_, seen)| matches!(seen, Seen::Blocked));
        stand.waited = blocked.map(|(number, _)| number).collect();
    }
    let hasty = |seen: &Seen| match seen {
        Seen::Answered(answer)
            if answer.error().is_some_and(|fields| fields[&'M'].contains("violates foreign key")) =>
        {
            Some(answer.clone())
        }
        Seen::Answered(_) | Seen::Blocked | Seen::Lost(_) => None,
    };
    let starts = script.steps.iter().zip(&through.seen).enumerate();
    let starts = starts.filter(|(_, (step, _))| matches!(step.action, Action::Start { .. }));
    stand.hasty = starts.filter_map(|(number, (_, seen))| Some((number, hasty(seen)?))).collect();
    let done = |seen: &Seen| match seen {
        Seen::Answered(answer) => answer.outcomes.len().saturating_sub(1),
        Seen::Blocked | Seen::Lost(_) => 0,
    };
    stand.done = through.seen.iter().map(done).collect();
    let seen = stand.perform().await;
    drop(stand);
    let names = table_names(watcher, place.schema.as_deref()).await;
    Transcript { seen, sequences: Sequences::new(), tables: tables(place, &names).await }
}

/// Through the daemon. The plain server's transcript, when there is one already, tells what to wait for.
pub async fn through(
    script: &Script,
    protocol: Protocol,
    place: &Place,
    guide: Option<&Transcript>,
    names: &[String],
) -> Transcript {
    let mut stand = Stand::new(script, protocol, place);
    stand.guide = guide;
    let seen = stand.perform().await;
    let sequences = std::mem::take(&mut stand.drawn);
    drop(stand);
    Transcript { seen, sequences, tables: tables(place, names).await }
}

struct Stand<'a> {
    script: &'a Script,
    protocol: Protocol,
    place: &'a Place,
    plain: bool,
    guide: Option<&'a Transcript>,
    watcher: Option<&'a Client>,
    open: BTreeMap<u32, Session>,
    /// For looking at sequences.
    aside: Option<Connection>,
    drawn: Sequences,
    set: Sequences,
    /// Steps of statements that waited through the daemon, where writers of a table on its two sides wait for each other,
    /// whichever rows they write.
    waited: Vec<usize>,
    /// Steps that broke a foreign key at once: a DELETE of a row does not wait for who is deleting those that refer to it.
    hasty: BTreeMap<usize, Answer>,
    /// How many statements of each step were answered there before one that was refused.
    done: Vec<usize>,
}

struct Session {
    connection: Connection,
    /// Its statement is to be sent when it is waited for.
    late: bool,
    /// What its statement under way is.
    sql: String,
}

impl<'a> Stand<'a> {
    fn new(script: &'a Script, protocol: Protocol, place: &'a Place) -> Stand<'a> {
        let (drawn, set) = (Sequences::new(), Sequences::new());
        let open = BTreeMap::new();
        let (aside, waited) = (None, Vec::new());
        Stand {
            script,
            protocol,
            place,
            plain: false,
            guide: None,
            watcher: None,
            open,
            aside,
            drawn,
            set,
            waited,
            hasty: BTreeMap::new(),
            done: Vec::new(),
        }
    }

    async fn perform(&mut self) -> Vec<Seen> {
        let mut seen = Vec::new();
        let script = self.script;
        for (number, step) in script.steps.iter().enumerate() {
            let outcome = self.step(number, step).await;
            let outcome = outcome.unwrap_or_else(Seen::Lost);
            let lost = matches!(outcome, Seen::Lost(_));
            let failed = matches!(&outcome, Seen::Answered(answer) if answer.error().is_some());
            seen.push(outcome);
            if lost {
                break;
            }
            if let Err(error) = self.align_sequences(number, failed).await {
                seen.push(Seen::Lost(format!("sequences: {error}")));
                break;
            }
        }
        seen
    }

    async fn step(&mut self, number: usize, step: &Step) -> Result<Seen, String> {
        if !self.open.contains_key(&step.session) {
            let connection = self.place.open().await?;
            self.open.insert(step.session, Session { connection, late: false, sql: String::new() });
        }
        let (plain, protocol) = (self.plain, self.protocol);
        let session = self.open.get_mut(&step.session).ok_or("no such session")?;
        match &step.action {
            Action::Run { sql, copy } => {
                let refused = plain && matches!(step.judged, Judged::Refused(..));
                let copy = copy.as_deref().unwrap_or_default().as_bytes();
                session.sql.clone_from(sql);
                let mut parts: Vec<&str> = sql.split(PIPELINED).collect();
                if refused {
                    parts.truncate(self.done.get(number).copied().unwrap_or_default().min(parts.len() - 1));
                    parts.push(REFUSED);
                }
                session.connection.send(protocol, &parts.join(PIPELINED), copy).await?;
                self.answer(step.session).await
            }
            Action::Start { sql } => {
                session.sql.clone_from(sql);
                if plain && self.waited.contains(&number) && !self.would_wait(sql).await? {
                    let session = self.open.get_mut(&step.session).ok_or("no such session")?;
                    session.late = true;
                    return Ok(Seen::Blocked);
                }
                let hasty = self.hasty.get(&number).cloned();
                if let Some(answer) = hasty
                    && self.would_wait(sql).await?
                {
                    let session = self.open.get_mut(&step.session).ok_or("no such session")?;
                    session.sql.clear();
                    return Ok(Seen::Answered(answer));
                }
                let session = self.open.get_mut(&step.session).ok_or("no such session")?;
                session.connection.send(protocol, sql, b"").await?;
                let blocked = self.guide.map(|guide| matches!(guide.seen.get(number), Some(Seen::Blocked)));
                self.started(step.session, blocked).await
            }
            // What was not blocked has been answered.
            Action::Finish if session.sql.is_empty() => Ok(Seen::Answered(Answer::default())),
            Action::Finish => {
                if std::mem::take(&mut session.late) {
                    let sql = session.sql.clone();
                    session.connection.send(protocol, &sql, b"").await?;
                }
                self.answer(step.session).await
            }
        }
    }

    /// Whether a statement would have to wait here for another session: it is tried, and undone.
    async fn would_wait(&mut self, sql: &str) -> Result<bool, String> {
        let mut aside = self.place.open().await?;
        aside.send(Protocol::Simple, "BEGIN", b"").await?;
        aside.answer_by(Instant::now() + PATIENCE).await?;
        aside.send(Protocol::Simple, sql, b"").await?;
        let watcher = self.watcher.ok_or("nobody watches")?;
        let (limit, pid) = (Instant::now() + PATIENCE, aside.pid);
        let waits = loop {
            if aside.answer_by(Instant::now() + Duration::from_millis(20)).await?.is_some() {
                break false;
            }
            let blocked = watcher.query_one("SELECT cardinality(pg_blocking_pids($1)) > 0", &[&pid]).await;
            if Instant::now() > limit || blocked.map_err(|error| error.to_string())?.get(0) {
                break true;
            }
        };
        watcher.execute("SELECT pg_terminate_backend($1, 5000)", &[&pid]).await.map_err(|error| error.to_string())?;
        Ok(waits)
    }

    /// See [`Sequences`].
    async fn align_sequences(&mut self, number: usize, failed: bool) -> Result<(), String> {
        let set: Vec<String> = match self.set.get(&number) {
            Some(values) => values.iter().map(|(name, value)| format!("setval('{name}', {value})")).collect(),
            None if self.plain || !failed => return Ok(()),
            None => self.place.sequences.iter().map(|name| format!("nextval('{name}')")).collect(),
        };
        for call in set {
            if self.aside.is_none() {
                self.aside = Some(self.place.open().await?);
            }
            let aside = self.aside.as_mut().ok_or("no session")?;
            aside.send(Protocol::Simple, &format!("SELECT {call}"), b"").await?;
            let answer = aside.answer_by(Instant::now() + PATIENCE).await?.ok_or("no answer")?;
            let value = answer.outcomes.first().and_then(|outcome| outcome.rows.first()?.first()?.clone());
            let value = value.ok_or_else(|| answer.describe())?.parse().map_err(|_| "not a number")?;
            if !self.plain {
                let name = call.split('\'').nth(1).unwrap_or_default().to_owned();
                self.drawn.entry(number).or_default().push((name, value));
            }
        }
        Ok(())
    }

    async fn answer(&mut self, session: u32) -> Result<Seen, String> {
        let patience = if self.place.schema.is_some() { SHORT_PATIENCE } else { PATIENCE };
        let answer = self.answer_by(session, Instant::now() + patience).await?;
        Ok(answer.map_or_else(|| Seen::Lost(format!("no answer after {patience:?}")), Seen::Answered))
    }

    async fn answer_by(&mut self, session: u32, limit: Instant) -> Result<Option<Answer>, String> {
        let session = self.open.get_mut(&session).ok_or("no such session")?;
        let answer = session.connection.answer_by(limit).await?;
        Ok(answer.map(|mut answer| {
            let sql = std::mem::take(&mut session.sql);
            answer.name_types(&self.place.types);
            answer.sort_rows(&are_ordered(&sql));
            answer
        }))
    }

    /// `expected` is whether it was blocked on the plain server; absent when this is the plain server.
    async fn started(&mut self, session: u32, expected: Option<bool>) -> Result<Seen, String> {
        match expected {
            Some(false) => {
                let answer = self.answer_by(session, Instant::now() + PATIENCE / 3).await?;
                Ok(answer.map_or(Seen::Blocked, Seen::Answered))
            }
            Some(true) => {
                let answer = self.answer_by(session, Instant::now() + WATCHED).await?;
                Ok(answer.map_or(Seen::Blocked, Seen::Answered))
            }
            None if !self.plain => {
                let answer = self.answer_by(session, Instant::now() + WATCHED_BLIND).await?;
                Ok(answer.map_or(Seen::Blocked, Seen::Answered))
            }
            None => {
                let pid = self.open.get(&session).ok_or("no such session")?.connection.pid;
                let limit = Instant::now() + PATIENCE;
                while Instant::now() < limit {
                    if let Some(answer) = self.answer_by(session, Instant::now() + Duration::from_millis(20)).await? {
                        return Ok(Seen::Answered(answer));
                    }
                    let watcher = self.watcher.ok_or("nobody watches")?;
                    let blocked = watcher.query_one("SELECT cardinality(pg_blocking_pids($1)) > 0", &[&pid]).await;
                    if blocked.map_err(|error| error.to_string())?.get(0) {
                        return Ok(Seen::Blocked);
                    }
                }
                Err("neither an answer nor a lock".to_owned())
            }
        }
    }
}

/// Tables of users (in that schema), quoted and with their schema.
pub async fn table_names(client: &Client, schema: Option<&str>) -> Vec<String> {
    let question =
        "SELECT format('%I.%I', nspname, relname) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
        WHERE relkind IN ('r', 'p') AND nspname NOT LIKE 'pg\\_%' AND nspname NOT IN ('information_schema', 'pgoutpost')
        AND ($1::text IS NULL OR nspname = $1) ORDER BY 1";
    client.query(question, &[&schema]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

/// What the tables hold, as a client of that place sees it.
pub async fn tables(place: &Place, names: &[String]) -> Tables {
    let mut tables = Tables::new();
    let mut connection = place.open().await;
    for name in names {
        let held = match &mut connection {
            Err(error) => Err(error.clone()),
            Ok(connection) => contents(connection, name).await,
        };
        tables.insert(name.clone(), held);
    }
    tables
}

async fn contents(connection: &mut Connection, table: &str) -> Result<Vec<String>, String> {
    connection.send(Protocol::Simple, &format!("SELECT * FROM {table}"), b"").await?;
    let answer = connection.answer_by(Instant::now() + PATIENCE).await?.ok_or("no answer")?;
    if let Some(error) = answer.error() {
        return Err(format!("{error:?}"));
    }
    let rows = answer.outcomes.iter().flat_map(|outcome| &outcome.rows);
    let mut rows: Vec<_> = rows.map(|row| format!("{row:?}").replace("Some(", "(")).collect();
    rows.sort();
    Ok(rows)
}
