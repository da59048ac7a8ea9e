//! One transaction on its way to main: its statements are sent at once, its answers come later.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{BufMut, BytesMut};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, TryStreamExt};
use tokio::time::Instant;
use tokio_postgres::types::{BorrowToSql, IsNull, ToSql, Type};
use tokio_postgres::{Client, Statement};
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use super::status::Outcome;
use super::steps::{DEFER, Parameters, Step, Way};
use super::verdict::StepKind;
use crate::entry::{Entry, Seq, Value};
use crate::lsn::Lsn;
use crate::setup::identifier;
use crate::upstream::own;

const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE";

/// The statements every transaction has.
pub(super) struct Frame {
    advance: Statement,
    gate: Statement,
    place: Statement,
}

impl Frame {
    pub(super) async fn prepare(client: &Client) -> Result<Frame, own::Error> {
        let advance = client.prepare_typed(
            "SELECT pgoutpost.advance($1, $2, $3, $4)",
            &[Type::TEXT, Type::INT8, Type::INT8, Type::UUID],
        );
        let gate = client.prepare_typed("SELECT pgoutpost.gate($1, $2)", &[Type::TEXT, Type::INT8]);
        let place = client.prepare("SELECT pg_catalog.pg_current_wal_insert_lsn()::text");
        let (advance, gate, place) = futures_util::future::try_join3(advance, gate, place).await?;
        Ok(Frame { advance, gate, place })
    }
}

/// The answer to one statement.
enum Answer {
    Done,
    Rows(u64),
    Settled(BTreeMap<Outcome, u64>),
    Place(Lsn),
}

type Waiting = BoxFuture<'static, Result<Answer, own::Error>>;

/// A transaction that has been sent.
pub(super) struct Flight {
    pub(super) entries: Vec<Arc<Entry>>,
    pub(super) last: Seq,
    pub(super) bytes: usize,
    pub(super) begun: Instant,
    /// Takes the answers as they come, whatever replay does meanwhile: tokio-postgres gives a later request nothing as long as
    /// an earlier one does not take its own. Ends with the flight.
    listener: AbortOnDropHandle<Result<Landed, Crashed>>,
    /// How many answers have come.
    answered: Arc<AtomicUsize>,
}

/// What a committed transaction did.
#[derive(Debug, Clone, Default)]
pub(super) struct Landed {
    /// Main's place in its log after the commit.
    pub(super) place: Option<Lsn>,
    /// Rows that were not as the client's statement saw them.
    pub(super) surprises: Vec<Surprise>,
}

#[derive(Debug, Clone)]
pub(super) struct Surprise {
    pub(super) entry: usize,
    pub(super) effect: usize,
    pub(super) outcomes: BTreeMap<Outcome, u64>,
}

/// The first step that failed. The transaction has no effect, unless the connection broke at COMMIT.
#[derive(Debug)]
pub(super) struct Crashed {
    pub(super) step: StepKind,
    pub(super) error: own::Error,
}

/// What is to be sent.
pub(super) struct Cargo<'a> {
    pub(super) entries: Vec<Arc<Entry>>,
    pub(super) steps: Vec<Step>,
    pub(super) bytes: usize,
    pub(super) from: Seq,
    pub(super) site: &'a str,
    /// The role that the connection has by itself.
    pub(super) own_role: &'a str,
    /// The catalog version that the steps were made for; `None`: it does not matter.
    pub(super) version: Option<i64>,
}

impl Flight {
    /// Sends a whole transaction, without waiting for anything. `find` gives the prepared statement of a text.
    pub(super) fn start<'a>(
        client: &Arc<Client>,
        frame: &Frame,
        cargo: Cargo<'_>,
        find: impl Fn(&str) -> Option<&'a Statement>,
    ) -> Flight {
        let Cargo { entries, steps, bytes, from, site, own_role, version } = cargo;
        let last = entries.last().map_or(from, |entry| entry.seq);
        let uuid = entries.last().map(|entry| entry.uuid);
        let mut waiting = Vec::with_capacity(steps.len() + 5);
        let mut send = |step: StepKind, request: Waiting| waiting.push((step, sent(request)));
        send(StepKind::Begin, command(client, format!("{BEGIN}; {DEFER}")));
        send(StepKind::Advance, advance(client, frame, site, from, last, uuid));
        let mut role = own_role.to_owned();
        for step in steps {
            let wanted = if step.way == Way::Own { own_role } else { &entries[step.entry].role };
            if *wanted != role {
                wanted.clone_into(&mut role);
                send(StepKind::Role, command(client, format!("SET LOCAL ROLE {}", identifier(&role))));
            }
            let kind = StepKind::Effect { entry: step.entry, effect: step.effect, rows: step.rows };
            match find(&step.sql) {
                Some(statement) => send(kind, execute(client, statement, step)),
                None => {
                    let error = own::Error::Unexpected(format!("not prepared: {}", step.sql));
                    send(kind, std::future::ready(Err(error)).boxed());
                }
            }
        }
        if let Some(version) = version {
            // Last: by now this transaction's own locks keep everybody from changing the tables that it wrote.
            send(StepKind::Definitions, gate(client, frame, site, version));
        }
        send(StepKind::Commit, command(client, "COMMIT".to_owned()));
        send(StepKind::Place, place(client, frame));
        let answered = Arc::new(AtomicUsize::new(0));
        let listener = AbortOnDropHandle::new(tokio::spawn(listen(waiting, Arc::clone(&answered))));
        Flight { entries, last, bytes, begun: Instant::now(), listener, answered }
    }

    /// Waits for the transaction's end, of which it tells once. May be dropped and called again before.
    pub(super) async fn landing(&mut self) -> Result<Landed, Crashed> {
        (&mut self.listener).await.unwrap_or_else(|ended| {
            // The ledger says what became of it.
            let error = own::Error::Connection(format!("nobody listened to main: {ended}"));
            Err(Crashed { step: StepKind::Begin, error })
        })
    }

    /// Its entries; what else it would hear is thrown away.
    pub(super) fn into_entries(self) -> Vec<Arc<Entry>> {
        self.entries
    }

    /// How many answers have come: grows while main works on it.
    pub(super) fn answered(&self) -> usize {
        self.answered.load(Ordering::Relaxed)
    }
}

/// tokio-postgres puts a request on the wire when its future is polled first: so the order of these calls is the order of the
/// statements.
fn sent(mut request: Waiting) -> Waiting {
    match (&mut request).now_or_never() {
        Some(answer) => std::future::ready(answer).boxed(),
        None => request,
    }
}

/// Takes the answers in their order, up to the first error.
async fn listen(waiting: Vec<(StepKind, Waiting)>, answered: Arc<AtomicUsize>) -> Result<Landed, Crashed> {
    let mut landed = Landed::default();
    for (step, request) in waiting {
        let answer = request.await;
        answered.fetch_add(1, Ordering::Relaxed);
        match (answer, step) {
            (Err(_), StepKind::Place) | (Ok(Answer::Done), _) => {}
            (Err(error), _) => return Err(Crashed { step, error }),
            (Ok(Answer::Rows(touched)), StepKind::Effect { entry, effect, rows }) if touched != rows => {
                let outcomes = BTreeMap::from([(Outcome::Gone, rows.abs_diff(touched))]);
                landed.surprises.push(Surprise { entry, effect, outcomes });
            }
            (Ok(Answer::Settled(outcomes)), StepKind::Effect { entry, effect, .. }) if !outcomes.is_empty() => {
                landed.surprises.push(Surprise { entry, effect, outcomes });
            }
            (Ok(Answer::Rows(_) | Answer::Settled(_)), _) => {}
            (Ok(Answer::Place(lsn)), _) => landed.place = Some(lsn),
        }
    }
    Ok(landed)
}

fn command(client: &Arc<Client>, sql: String) -> Waiting {
    let client = Arc::clone(client);
    async move {
        client.batch_execute(&sql).await?;
        Ok(Answer::Done)
    }
    .boxed()
}

fn advance(client: &Arc<Client>, frame: &Frame, site: &str, from: Seq, to: Seq, entry: Option<Uuid>) -> Waiting {
    let (client, statement, site) = (Arc::clone(client), frame.advance.clone(), site.to_owned());
    async move {
        client.execute(&statement, &[&site, &from.as_i64(), &to.as_i64(), &entry]).await?;
        Ok(Answer::Done)
    }
    .boxed()
}

/// Whether main's definitions are still of this version: an error, if not.
pub(super) async fn unchanged(client: &Arc<Client>, frame: &Frame, site: &str, version: i64) -> Result<(), own::Error> {
    gate(client, frame, site, version).await.map(drop)
}

fn gate(client: &Arc<Client>, frame: &Frame, site: &str, version: i64) -> Waiting {
    let (client, statement, site) = (Arc::clone(client), frame.gate.clone(), site.to_owned());
    async move {
        client.execute(&statement, &[&site, &version]).await?;
        Ok(Answer::Done)
    }
    .boxed()
}

fn place(client: &Arc<Client>, frame: &Frame) -> Waiting {
    let (client, statement) = (Arc::clone(client), frame.place.clone());
    async move {
        let row = client.query_one(&statement, &[]).await?;
        let text: &str = row.try_get(0)?;
        text.parse().map(Answer::Place).map_err(|_| own::Error::Unexpected(text.to_owned()))
    }
    .boxed()
}

fn execute(client: &Arc<Client>, statement: &Statement, step: Step) -> Waiting {
    let (client, statement) = (Arc::clone(client), statement.clone());
    let Step { parameters, way, .. } = step;
    async move {
        match parameters {
            Parameters::Row(values) => {
                let values: Vec<Text> = values.into_iter().map(Text).collect();
                answered(&client, &statement, way, &values).await
            }
            Parameters::Columns(columns) => {
                let columns: Vec<Vec<Text>> =
                    columns.into_iter().map(|column| column.into_iter().map(Text).collect()).collect();
                answered(&client, &statement, way, &columns).await
            }
        }
    }
    .boxed()
}

async fn answered<P: BorrowToSql + Sync>(
    client: &Client,
    statement: &Statement,
    way: Way,
    parameters: &[P],
) -> Result<Answer, own::Error>
where
    for<'p> &'p P: BorrowToSql,
{
    let parameters = parameters.iter();
    if way != Way::Settles {
        return Ok(Answer::Rows(client.execute_raw(statement, parameters).await?));
    }
    let mut outcomes = BTreeMap::new();
    let rows: Vec<_> = client.query_raw(statement, parameters).await?.try_collect().await?;
    for row in rows {
        // NULL: somebody set the row back before it was looked at again.
        if let Some(text) = row.try_get::<_, Option<&str>>(0)? {
            let told: BTreeMap<Outcome, u64> =
                serde_json::from_str(text).map_err(|error| own::Error::Unexpected(error.to_string()))?;
            told.into_iter().for_each(|(outcome, rows)| *outcomes.entry(outcome).or_default() += rows);
        }
    }
    Ok(Answer::Settled(outcomes))
}

/// A value as a `text` parameter.
#[derive(Debug)]
struct Text(Value);

impl ToSql for Text {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn StdError + Sync + Send>> {
        match &self.0 {
            Some(text) => {
                out.put_slice(text.as_bytes());
                Ok(IsNull::No)
            }
            None => Ok(IsNull::Yes),
        }
    }

    fn accepts(wanted: &Type) -> bool {
        *wanted == Type::TEXT
    }

    tokio_postgres::types::to_sql_checked!();
}
