//! One connection's server process, of main or of the replica: executes what it is sent, in order.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use pgoutpost::entry::Seq;
use uuid::Uuid;

use crate::main_db::{COLUMNS, Commit, Key, Lock, PARENT, REFERENCE, REFERRING, Row, TABLES, place_of};
use crate::statement::Statement;
use crate::wire::{self, Datum, Frame};
use crate::world::{Bug, World};

/// The highest there is: main is always set up for this program.
const SCHEMA_VERSION: i32 = i32::MAX;
/// Main's system identifier.
const SYSTEM: &str = "7000000000000000001";

#[path = "rows.rs"]
mod rows;

use rows::Guarded;

/// Which server a connection goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    Main,
    Replica,
}

pub struct Backend {
    world: Arc<World>,
    target: Target,
    id: u64,
    /// Which start of the server it belongs to.
    start: u64,
    prepared: HashMap<String, (Statement, Vec<u32>)>,
    bound: Option<(Statement, Vec<Option<Bytes>>)>,
    transaction: Option<Transaction>,
    /// An error: everything up to Sync is passed over.
    skipping: bool,
    greeted: bool,
    /// `default_transaction_read_only`
    read_only: bool,
}

#[derive(Default)]
struct Transaction {
    writes: BTreeMap<Key, Option<Row>>,
    ledger: Option<Advance>,
    /// It is to be the replayer.
    takes_over: bool,
    failed: bool,
    /// Refused at the end.
    refused_at_commit: bool,
}

#[derive(Clone, Copy)]
pub struct Advance {
    pub from: Seq,
    pub to: Seq,
    pub entry: Option<Uuid>,
}

/// An error, by code; or the end of the connection.
enum Trouble {
    Error(&'static str, String),
    Gone,
}

type Outcome<T> = Result<T, Trouble>;

struct Done {
    rows: Vec<Vec<Datum>>,
    tag: String,
}

fn refused<T>(code: &'static str, text: impl Into<String>) -> Outcome<T> {
    Err(Trouble::Error(code, text.into()))
}

impl Backend {
    pub fn new(world: &Arc<World>, target: Target) -> Backend {
        let mut main = world.main.lock().unwrap();
        let start = match target {
            Target::Main => main.starts,
            Target::Replica => world.replica.lock().unwrap().starts,
        };
        let id = main.backend();
        drop(main);
        Backend {
            world: Arc::clone(world),
            target,
            id,
            start,
            prepared: HashMap::new(),
            bound: None,
            transaction: None,
            skipping: false,
            greeted: false,
            read_only: false,
        }
    }

    pub fn greeted(&self) -> bool {
        self.greeted
    }

    /// Whether its server still runs.
    pub fn lives(&self) -> bool {
        match self.target {
            Target::Main => self.world.main.lock().unwrap().starts == self.start,
            Target::Replica => {
                let replica = self.world.replica.lock().unwrap();
                replica.up && replica.starts == self.start
            }
        }
    }

    /// Executes one message. `false`: the connection is at its end.
    pub async fn take(&mut self, frame: Frame, out: &mut BytesMut) -> bool {
        if !self.lives() {
            return false;
        }
        let outcome = match frame {
            Frame::Terminate => return false,
            Frame::Startup => {
                self.greeted = true;
                wire::greeting(out);
                Ok(())
            }
            Frame::Query(sql) => {
                let outcome = self.simple(&sql, out).await;
                let outcome = self.answer(outcome, out);
                self.ready(out);
                return outcome;
            }
            Frame::Sync => {
                self.skipping = false;
                self.ready(out);
                Ok(())
            }
            _ if self.skipping => Ok(()),
            Frame::Parse { name, sql, types } => {
                let statement = Statement::read(&sql);
                let types = if statement == Statement::Poll { vec![wire::TEXT] } else { types };
                self.prepared.insert(name, (statement, types));
                wire::message(out, b'1', |_| {});
                Ok(())
            }
            Frame::Describe { statement: true, name } => {
                let (statement, types) = &self.prepared[&name];
                wire::described(out, types, columns(statement).as_deref());
                Ok(())
            }
            Frame::Describe { statement: false, .. } => unreachable!("portals are not described"),
            Frame::Bind { statement, values } => {
                self.bound = Some((self.prepared[&statement].0.clone(), values));
                wire::message(out, b'2', |_| {});
                Ok(())
            }
            Frame::Execute => {
                let (statement, values) = self.bound.clone().expect("bound before");
                let outcome = self.execute(&statement, &values).await;
                outcome.map(|done| {
                    done.rows.iter().for_each(|row| wire::row(out, row));
                    wire::complete(out, &done.tag);
                })
            }
            Frame::Close => {
                wire::message(out, b'3', |_| {});
                Ok(())
            }
        };
        let failed = outcome.is_err();
        let goes_on = self.answer(outcome, out);
        self.skipping |= failed;
        goes_on
    }

    fn answer(&mut self, outcome: Outcome<()>, out: &mut BytesMut) -> bool {
        match outcome {
            Ok(()) => true,
            Err(Trouble::Gone) => false,
            Err(Trouble::Error(code, text)) => {
                self.world.note(|| format!("backend {} answers {code} {text}", self.id));
                if let Some(transaction) = &mut self.transaction {
                    transaction.failed = true;
                }
                wire::error(out, code, &text);
                // Shut down by an administrator.
                code != "57P01"
            }
        }
    }

    fn ready(&self, out: &mut BytesMut) {
        let state = match &self.transaction {
            None => b'I',
            Some(transaction) if transaction.failed => b'E',
            Some(_) => b'T',
        };
        wire::ready(out, state);
    }

    async fn simple(&mut self, sql: &str, out: &mut BytesMut) -> Outcome<()> {
        for command in sql.split(';').map(str::trim) {
            let tag = match command {
                _ if command.starts_with("SET LOCAL ROLE ") || command.starts_with("SET ") => {
                    self.usable()?;
                    self.read_only |= command == "SET default_transaction_read_only = on";
                    "SET"
                }
                _ if command.starts_with("BEGIN") => {
                    self.passing_trouble()?;
                    assert!(self.transaction.is_none(), "BEGIN in a transaction");
                    self.transaction = Some(Transaction::default());
                    "BEGIN"
                }
                "COMMIT" => self.commit()?,
                _ => panic!("the simulated server does not know {command}"),
            };
            wire::complete(out, tag);
        }
        Ok(())
    }

    fn usable(&self) -> Outcome<()> {
        match &self.transaction {
            Some(transaction) if transaction.failed => refused("25P02", "current transaction is aborted"),
            _ => Ok(()),
        }
    }

    /// What may pass.
    fn passing_trouble(&self) -> Outcome<()> {
        let world = &self.world;
        if self.target == Target::Main && world.main_dice.happens(world.weather().errors) {
            let codes = ["40001", "40P01", "53300", "55P03", "57014", "57P01", "58030", "25006"];
            return refused(codes[world.main_dice.below(codes.len())], "trouble that passes");
        }
        Ok(())
    }

    async fn execute(&mut self, statement: &Statement, values: &[Option<Bytes>]) -> Outcome<Done> {
        self.usable()?;
        self.passing_trouble()?;
        let changes = matches!(
            statement,
            Statement::Advance
                | Statement::TakeOver
                | Statement::LogRejected
                | Statement::Insert { .. }
                | Statement::Truncate(_)
                | Statement::Guarded { .. }
                | Statement::InsertUnless { .. }
        );
        if self.transaction.is_some() || !changes {
            return self.perform(statement, values).await;
        }
        // A transaction of its own.
        if self.read_only && !self.world.planted(Bug::WritesWithoutBegin) {
            return refused("25006", "cannot execute it in a read-only transaction");
        }
        self.transaction = Some(Transaction::default());
        let done = self.perform(statement, values).await;
        if let (Err(_), Some(transaction)) = (&done, &mut self.transaction) {
            transaction.failed = true;
        }
        self.commit()?;
        done
    }

    async fn perform(&mut self, statement: &Statement, values: &[Option<Bytes>]) -> Outcome<Done> {
        let shown = self.shown();
        let rows = match statement {
            Statement::Insert { table, columns, several } => {
                return self.insert(table, columns, *several, values).await;
            }
            Statement::Truncate(tables) => return self.truncate(tables).await,
            Statement::Guarded { policy, looks, table, set, key, old } => {
                let guarded = Guarded { policy: *policy, looks: *looks, table, set, key, old };
                self.settle(&guarded, values).await?
            }
            Statement::InsertUnless { table, set } => self.insert_unless(table, set, values).await?,
            Statement::Advance => {
                let advance = Advance {
                    from: Seq(wire::int8(&values[1]) as u64),
                    to: Seq(wire::int8(&values[2]) as u64),
                    entry: wire::uuid(&values[3]),
                };
                self.advance(advance).await?;
                vec![vec![Datum::Void]]
            }
            Statement::TakeOver => {
                self.lock(Lock::Ledger).await?;
                let Some(transaction) = &mut self.transaction else { return refused("25P01", "no transaction") };
                transaction.takes_over = true;
                let ledger = self.shown().ledger;
                vec![vec![Datum::Int8(ledger.0.as_i64()), ledger.1.map_or(Datum::Null(wire::UUID), Datum::Uuid)]]
            }
            Statement::Rows { table, by } => {
                let places = by.iter().map(|name| self.column(table, name)).collect::<Outcome<Vec<usize>>>()?;
                let found = shown.rows.iter().filter(|(key, row)| {
                    let equal = |(place, value): (&usize, &Option<Bytes>)| row[*place] == wire::text(value);
                    key.0 == *table && places.iter().zip(values).all(equal)
                });
                found.take(10).map(|(_, row)| vec![Datum::Text(serde_json::json!(row).to_string())]).collect()
            }
            Statement::WhoAmI => {
                vec![vec![Datum::Bool(self.target == Target::Replica), Datum::Text("replicator".into())]]
            }
            Statement::Identity => {
                let timeline = self.world.main.lock().unwrap().timeline;
                vec![vec![Datum::Text(SYSTEM.into()), Datum::Text(format!("{timeline:08X}")), Datum::Text(self.lsn())]]
            }
            Statement::Ledger => {
                let entry = shown.ledger.1.map_or(Datum::Null(wire::UUID), Datum::Uuid);
                vec![vec![Datum::Int8(shown.ledger.0.as_i64()), entry]]
            }
            Statement::Place => vec![vec![Datum::Text(self.lsn())]],
            Statement::SchemaVersion => vec![vec![Datum::Int4(SCHEMA_VERSION)]],
            Statement::Gate => {
                let (asked, is) = (wire::int8(&values[1]), shown.definitions.version);
                if asked != is && !self.world.planted(Bug::SilentDrift) {
                    return refused("PO002", format!("catalog version is {is}, not {asked}"));
                }
                vec![vec![Datum::Int8(shown.ledger.0.as_i64())]]
            }
            Statement::Definition => {
                let relation = wire::text(&values[0]).expect("a table is named");
                let table = place_of(relation.split('"').nth(3).expect("a name in quotes"));
                let told = shown.definitions.told(table, self.world.planted(Bug::RenumberedColumns));
                vec![vec![Datum::Int8(shown.definitions.version), Datum::Text(told), Datum::Bool(false)]]
            }
            Statement::Standby => {
                let unknown = || Datum::Null(wire::INT4);
                vec![vec![Datum::Text(SYSTEM.into()), unknown(), unknown(), Datum::Bool(false)]]
            }
            Statement::History => vec![vec![Datum::Null(wire::TEXT)]],
            Statement::LogRejected => vec![vec![Datum::Void]],
            Statement::Table => {
                let relation = wire::text(&values[0]).expect("a table is named");
                let knows = !self.world.planted(Bug::SecretForeignKeys);
                vec![vec![Datum::Text(told_of(relation.split('"').nth(3).expect("a name in quotes"), knows))]]
            }
            Statement::Poll => {
                let lsn = self.lsn();
                vec![vec![
                    Datum::Int8(shown.ledger.0.as_i64()),
                    Datum::Int8(1),
                    Datum::Bool(true),
                    Datum::Text(lsn.clone()),
                    Datum::Text(lsn),
                    Datum::Float8(0.5),
                    Datum::Text(self.start.to_string()),
                ]]
            }
        };
        Ok(Done { tag: format!("SELECT {}", rows.len()), rows })
    }

    fn shown(&self) -> Commit {
        match self.target {
            Target::Main => self.world.main.lock().unwrap().now().clone(),
            Target::Replica => self.world.replica.lock().unwrap().shown.clone(),
        }
    }

    fn lsn(&self) -> String {
        let commits = match self.target {
            Target::Main => self.world.main.lock().unwrap().commits.len(),
            Target::Replica => self.world.replica.lock().unwrap().at,
        };
        format!("0/{:X}", commits * 64)
    }

    async fn advance(&mut self, advance: Advance) -> Outcome<()> {
        self.lock(Lock::Ledger).await?;
        let Some(transaction) = &mut self.transaction else { return refused("25P01", "no transaction") };
        let (ledger, replayer) = {
            let main = self.world.main.lock().unwrap();
            (main.now().ledger.0, main.now().replayer)
        };
        if ![0, self.id].contains(&replayer) && !self.world.planted(Bug::NoTakeOver) {
            return refused("57PO5", format!("process {replayer} replays now"));
        }
        let at = transaction.ledger.map_or(ledger, |before| before.to);
        if (at != advance.from || advance.to <= advance.from) && !self.world.planted(Bug::BlindLedger) {
            return refused("PO001", format!("ledger is at {at}, not at {}", advance.from));
        }
        transaction.ledger = Some(advance);
        Ok(())
    }

    fn commit(&mut self) -> Outcome<&'static str> {
        let Some(transaction) = self.transaction.take() else { return Ok("COMMIT") };
        let outcome = if transaction.failed {
            Ok("ROLLBACK")
        } else if let Err(trouble) = self.passing_trouble() {
            Err(trouble)
        } else if transaction.refused_at_commit {
            refused("23514", "a deferred trigger")
        } else {
            let replayer = transaction.takes_over.then_some(self.id);
            self.world.apply(transaction.writes, transaction.ledger, replayer);
            Ok("COMMIT")
        };
        if !self.world.planted(Bug::StuckLedger) || self.world.main_dice.happens(800) {
            self.world.main.lock().unwrap().unlock(self.id);
        }
        outcome
    }

    /// The server notices that nobody is there any more.
    pub fn end(&mut self) {
        self.transaction = None;
        if self.lives() && !self.world.planted(Bug::StuckLedger) {
            self.world.main.lock().unwrap().unlock(self.id);
        }
    }
}

/// The columns of a statement's answer, by an example; none: it gives no rows.
fn columns(statement: &Statement) -> Option<Vec<Datum>> {
    let text = || Datum::Null(wire::TEXT);
    Some(match statement {
        Statement::Insert { .. } | Statement::Truncate(_) => return None,
        Statement::SchemaVersion => vec![Datum::Int4(0)],
        Statement::Gate => vec![Datum::Int8(0)],
        Statement::Definition => vec![Datum::Int8(0), text(), Datum::Bool(false)],
        Statement::Standby => vec![text(), Datum::Int4(0), Datum::Int4(0), Datum::Bool(false)],
        Statement::LogRejected => vec![Datum::Void],
        Statement::WhoAmI => vec![Datum::Bool(false), text()],
        Statement::Identity => vec![text(), text(), text()],
        Statement::Ledger | Statement::TakeOver => vec![Datum::Int8(0), Datum::Null(wire::UUID)],
        Statement::Advance => vec![Datum::Void],
        Statement::Place
        | Statement::Table
        | Statement::Rows { .. }
        | Statement::History
        | Statement::Guarded { .. }
        | Statement::InsertUnless { .. } => vec![text()],
        Statement::Poll => {
            vec![Datum::Int8(0), Datum::Int8(0), Datum::Bool(false), text(), text(), Datum::Float8(0.0), text()]
        }
    })
}

/// What main says about one of its tables.
fn told_of(name: &str, foreign_keys: bool) -> String {
    let to_parent = || serde_json::json!([{ "columns": [COLUMNS[REFERENCE]], "referenced": ["id"], "schema": "public", "name": TABLES[PARENT] }]);
    let references = if foreign_keys && name == TABLES[REFERRING] { to_parent() } else { serde_json::json!([]) };
    serde_json::json!({
        "generated": [], "has_triggers": false, "has_rules": false, "has_late_triggers": false, "has_children": false,
        "refers_to_itself": false, "unique": [["id"]], "references": references, "deferrable": [], "parents": [],
    })
    .to_string()
}
