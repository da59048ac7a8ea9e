//! Scripts out of a seed: tables with rows, and sessions that write and read.
//!
//! Sessions are interleaved statement by statement. Only one of them holds locks at a time (the others read, in
//! transactions of their own, or commit at once what nobody holds), so that the outcome does not depend on speed. At most
//! one other waits, with one statement about one row, for the end of that transaction.

#[path = "generate/dice.rs"]
pub mod dice;
#[path = "generate/expression.rs"]
pub mod expression;
#[path = "generate/features.rs"]
pub mod features;
#[path = "generate/heirs.rs"]
pub mod heirs;
#[path = "generate/kind.rs"]
pub mod kind;
#[path = "generate/query.rs"]
pub mod query;
#[path = "generate/rights.rs"]
pub mod rights;
#[path = "generate/schema.rs"]
pub mod schema;
#[path = "generate/straight.rs"]
pub mod straight;
#[path = "generate/strings.rs"]
pub mod strings;
#[path = "generate/upsert.rs"]
pub mod upsert;
#[path = "generate/waits.rs"]
pub mod waits;
#[path = "generate/write.rs"]
pub mod write;

pub use features::Features;

use dice::Dice;
use schema::Table;

use super::client::{PIPELINED, Protocol};
use super::script::{Action, Judged, Links, Script, Step};

/// The script of a seed.
pub fn script(seed: u64, protocol: Protocol, features: &Features) -> Script {
    let mut dice = Dice::new(seed);
    let tag = dice.chance(features.straight).then(|| format!("_{seed}"));
    let features = &Features { tag, ..features.clone() };
    let (mut schema, mut tables) = schema::schema(&mut dice, features);
    let mut links = Links::Both;
    if let Some(tag) = &features.tag {
        straight::schema(tag, &mut tables, &mut schema);
        links = Links::Live;
    }
    let narrow = features.roles && dice.chance(15);
    if narrow {
        rights::grant(&mut dice, features, &tables, &mut schema);
    }
    let sessions: Vec<_> = (0..1 + dice.below(features.sessions)).map(|_| State::Idle).collect();
    // TRUNCATE would wait for everybody who reads.
    let features = &Features { truncate: features.truncate && sessions.len() == 1, ..features.clone() };
    let mut stage =
        Author { dice, features, tables, narrow, sessions, protocol, prepared: Vec::new(), steps: Vec::new() };
    for _ in 0..TRANSACTIONS {
        stage.transaction();
    }
    stage.end_all();
    Script { name: format!("seed {seed}"), schema, steps: stage.steps, links }
}

/// Settings by which values are printed, or read.
const SETTINGS: [&str; 7] = [
    "timezone TO 'Asia/Kolkata'",
    "datestyle TO 'SQL, DMY'",
    "datestyle TO 'German'",
    "bytea_output TO 'escape'",
    "extra_float_digits TO 0",
    "extra_float_digits TO -3",
    "intervalstyle TO 'sql_standard'",
];

/// Transactions of a script, about.
pub const TRANSACTIONS: usize = 12;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle,
    Reading,
    Waiting,
}

struct Author<'a> {
    dice: Dice,
    features: &'a Features,
    tables: Vec<Table>,
    /// There is a role with fewer rights.
    narrow: bool,
    sessions: Vec<State>,
    protocol: Protocol,
    /// By session and name, and how exactly the error is known.
    prepared: Vec<(usize, String, Judged)>,
    steps: Vec<Step>,
}

impl Author<'_> {
    /// What the one session does that may hold locks; others may look on in between.
    fn transaction(&mut self) {
        let session = self.dice.below(self.sessions.len());
        if self.sessions[session] == State::Idle && self.dice.chance(35) {
            self.write(session);
            return self.onlookers(session);
        }
        if self.features.strings && self.sessions[session] == State::Idle && self.dice.chance(12) {
            self.string(session);
            return self.onlookers(session);
        }
        if self.features.modes && self.sessions[session] == State::Idle && self.dice.chance(5) {
            let mode = strings::mode(&mut self.dice);
            self.say(session, mode);
        }
        if self.sessions[session] == State::Idle && self.dice.chance(15) {
            // An implicit transaction.
            let parts: Vec<_> = (0..2 + self.dice.below(2)).map(|_| self.text()).collect();
            self.step(session, Action::Run { sql: parts.join(PIPELINED), copy: None }, Judged::AnyError);
            return;
        }
        // Who has read goes on to write, perhaps with a snapshot that is older than what others have written.
        let goes_on = self.sessions[session] == State::Reading && self.dice.chance(50);
        if self.sessions[session] == State::Reading && !goes_on {
            self.say(session, "COMMIT".to_owned());
        }
        let mut local = false;
        if !goes_on {
            let begin = self.begin();
            self.say(session, begin);
            if self.narrow && self.dice.chance(50) {
                local = true;
                self.say(session, format!("SET LOCAL ROLE {}", rights::NARROW));
            }
            if self.features.settings && self.dice.chance(12) {
                local = true;
                let setting = *self.dice.one(&SETTINGS);
                self.say(session, format!("SET LOCAL {setting}"));
            }
        }
        let (mut savepoints, mut cursors) = (Vec::new(), Vec::new());
        for _ in 0..1 + self.dice.below(5) {
            match self.dice.below(10) {
                0 => {
                    let name = (*self.dice.one(&["s1", "s2", "\"S 3\""])).to_owned();
                    self.say(session, format!("SAVEPOINT {name}"));
                    savepoints.push(name);
                }
                1 if !savepoints.is_empty() => {
                    let name = self.dice.one(&savepoints).clone();
                    let what = self.dice.one(&["ROLLBACK TO SAVEPOINT", "ROLLBACK TO", "RELEASE"]);
                    let text = format!("{what} {name}");
                    self.say(session, text);
                }
                2 if self.features.cursors => self.cursor(session, &mut cursors),
                3 if self.features.set_constraints && self.dice.chance(40) => {
                    let when = *self.dice.one(&["DEFERRED", "DEFERRED", "IMMEDIATE"]);
                    self.say(session, format!("SET CONSTRAINTS ALL {when}"));
                }
                3 if self.features.row_locks && self.dice.chance(30) => {
                    if let Some(sql) = query::locked(&mut self.dice, &self.tables) {
                        self.say(session, sql);
                    }
                }
                4 if self.features.modes && self.dice.chance(12) => {
                    let mode = strings::mode(&mut self.dice);
                    self.say(session, mode);
                }
                3 if self.features.tag.is_some() && self.dice.chance(20) => {
                    let sql = straight::sets(&mut self.dice, self.features.tag.as_deref().unwrap_or_default());
                    self.say(session, sql);
                    self.probe(session);
                }
                2..=4 => self.read(session),
                _ => self.write(session),
            }
            self.onlookers(session);
        }
        // Nobody may do anything until it has waited: whether it is before or after that would be a race.
        let waiter = if self.features.waiting && self.dice.chance(25) { self.wait(session) } else { None };
        let ends = ["COMMIT", "COMMIT", "COMMIT", "END", "ROLLBACK", "COMMIT AND CHAIN"];
        // What was LOCAL before a transaction went to main is still in force there in the next one of a chain.
        let ends = if local && self.features.tag.is_some() { &ends[..5] } else { &ends };
        let end = (*self.dice.one(ends)).to_owned();
        let chained = end.ends_with("CHAIN");
        self.say(session, end);
        if let Some(waiter) = waiter {
            self.step(waiter, Action::Finish, Judged::Compared);
            self.sessions[waiter] = State::Idle;
        }
        if chained {
            self.read(session);
            self.say(session, "ROLLBACK".to_owned());
        }
        self.sessions[session] = State::Idle;
        self.onlookers(session);
    }

    /// The session writes a row, and another one, idle till then, does something about the same row.
    fn wait(&mut self, session: usize) -> Option<usize> {
        let idle = (0..self.sessions.len()).filter(|other| *other != session && self.sessions[*other] == State::Idle);
        let idle: Vec<usize> = idle.collect();
        if idle.is_empty() {
            return None;
        }
        let other = *self.dice.one(&idle);
        let (first, second) = match self.dice.chance(40) {
            true => waits::about_linked_rows(&mut self.dice, &self.tables),
            false => waits::about_one_row(&mut self.dice, &self.tables),
        }?;
        self.say(session, first);
        self.step(other, Action::Start { sql: second }, Judged::Compared);
        self.sessions[other] = State::Waiting;
        Some(other)
    }

    /// Opens a cursor, or goes on with one.
    fn cursor(&mut self, session: usize, cursors: &mut Vec<(String, bool)>) {
        if cursors.is_empty() || self.dice.chance(30) {
            let name = format!("c{}", cursors.len());
            let scroll = self.dice.chance(50);
            let query = query::in_order(&mut self.dice, &self.tables);
            let how = if scroll { "SCROLL" } else { "NO SCROLL" };
            self.say(session, format!("DECLARE {name} {how} CURSOR FOR {query}"));
            cursors.push((name, scroll));
        }
        let (name, scroll) = self.dice.one(cursors).clone();
        let text = match self.dice.below(6) {
            0 if scroll => format!("FETCH BACKWARD 2 FROM {name}"),
            1 if scroll => format!("FETCH ABSOLUTE 2 FROM {name}"),
            2 => format!("MOVE 1 IN {name}"),
            3 => format!("FETCH ALL FROM {name}"),
            4 => format!("FETCH {name}"),
            _ => format!("FETCH FORWARD 2 FROM {name}"),
        };
        self.say(session, text);
    }

    /// Another session reads: by itself, or in a transaction that stays open.
    fn onlookers(&mut self, writer: usize) {
        if self.sessions.len() == 1 || !self.dice.chance(40) {
            return;
        }
        let other = (writer + 1 + self.dice.below(self.sessions.len() - 1)) % self.sessions.len();
        match self.sessions[other] {
            State::Waiting => {}
            State::Idle if self.dice.chance(30) => {
                let begin = self.begin();
                self.say(other, begin);
                self.read(other);
                self.sessions[other] = State::Reading;
            }
            State::Reading if self.dice.chance(25) => {
                self.say(other, "COMMIT".to_owned());
                self.sessions[other] = State::Idle;
            }
            _ => self.read(other),
        }
    }

    fn begin(&mut self) -> String {
        if self.features.serializable && self.sessions.len() == 1 && self.dice.chance(15) {
            // Beside others Postgres finds anomalies that the site does not.
            return "BEGIN ISOLATION LEVEL SERIALIZABLE".to_owned();
        }
        let level = self.dice.one(&["", "", " ISOLATION LEVEL REPEATABLE READ", " ISOLATION LEVEL READ COMMITTED"]);
        format!("BEGIN{level}")
    }

    fn read(&mut self, session: usize) {
        let value = match self.features.sequences && self.dice.chance(6) {
            true => query::sequence(&mut self.dice, &self.tables),
            false => None,
        };
        let sql = match value {
            Some(sql) => sql,
            None if self.features.copy_out && self.dice.chance(8) => query::copied(&mut self.dice, &self.tables),
            None => query::query(&mut self.dice, &self.tables),
        };
        self.say(session, sql);
    }

    /// Statements that are prepared and run, at once and later on.
    fn execute(&mut self, session: usize) {
        let own: Vec<_> = self.prepared.iter().filter(|(of, ..)| *of == session).cloned().collect();
        if !own.is_empty() && self.dice.chance(50) {
            let (_, name, judged) = self.dice.one(&own).clone();
            return self.step(session, Action::Run { sql: format!("EXECUTE {name}"), copy: None }, judged);
        }
        let (sql, judged) = match self.dice.chance(40) {
            true => (query::query(&mut self.dice, &self.tables), Judged::Compared),
            false => {
                let write = write::write(&mut self.dice, self.features, &self.tables);
                (write.sql, write.judged)
            }
        };
        if ["COPY", "TRUNCATE"].iter().any(|word| sql.starts_with(word)) {
            return;
        }
        let name = format!("p{}", self.prepared.len());
        self.say(session, format!("PREPARE {name} AS {sql}"));
        self.step(session, Action::Run { sql: format!("EXECUTE {name}"), copy: None }, judged.clone());
        self.prepared.push((session, name, judged));
    }

    fn write(&mut self, session: usize) {
        if let Some(tag) = self.features.tag.as_ref().filter(|_| self.dice.chance(12)) {
            let sql = straight::about_log(&mut self.dice, tag);
            return self.say(session, sql);
        }
        if self.features.prepare && self.dice.chance(8) {
            return self.execute(session);
        }
        let write = write::write(&mut self.dice, self.features, &self.tables);
        // It fails before it has read anything: the Sync that came along would be answered, and the one behind the data as well.
        let of_view = self.tables.iter().any(|table| write.sql.starts_with(&format!("COPY {} ", table.through)));
        if of_view && self.features.tag.is_some() && self.protocol == Protocol::Extended {
            return self.read(session);
        }
        self.step(session, Action::Run { sql: write.sql, copy: write.copy }, write.judged);
    }

    /// A statement that needs nothing but its text.
    fn text(&mut self) -> String {
        if self.dice.chance(30) {
            return query::query(&mut self.dice, &self.tables);
        }
        let write = write::write(&mut self.dice, self.features, &self.tables);
        match write.copy {
            Some(_) => query::query(&mut self.dice, &self.tables),
            None => write.sql,
        }
    }

    fn say(&mut self, session: usize, sql: String) {
        self.step(session, Action::Run { sql, copy: None }, Judged::Compared);
    }

    fn step(&mut self, session: usize, action: Action, judged: Judged) {
        let line = self.steps.len() + 1;
        self.steps.push(Step { line, session: session as u32 + 1, action, judged });
    }

    fn end_all(&mut self) {
        for session in 0..self.sessions.len() {
            if self.sessions[session] != State::Idle {
                self.say(session, "COMMIT".to_owned());
            }
        }
        for number in 0..self.tables.len() {
            let sql = format!("SELECT * FROM {}", self.tables[number].name);
            self.say(0, sql);
        }
    }
}
