//! Statements and plans by text, shared by all sessions, and what one session has prepared.
//!
//! A text is parsed once for all sessions; a plan is made once for each catalog version and search path. Both caches are
//! bounded by count, and texts too long to be repeated are not kept.

use std::collections::{HashMap, VecDeque};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use lru::LruCache;

use crate::catalog::Catalog;
use crate::report::Report;
use crate::sql::{self, Class, Plan, Script, Statement, Unparsed};

/// Texts and plans kept.
const SHARED: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");
/// Longer texts are parsed each time. Bytes.
const TEXT_MAX: usize = 16 << 10;
/// Rendered statements a session keeps prepared on the replica, and descriptions it remembers.
const PER_SESSION: NonZeroUsize = NonZeroUsize::new(256).expect("not zero");

/// What our parser made of a text.
#[derive(Debug)]
pub struct Parsed {
    pub script: Result<Script, Unparsed>,
    /// Calls `set_config`, so the session's settings may change without a SET.
    pub sets_config: bool,
    /// Names with a dot that it may set.
    pub own_settings: Vec<String>,
    /// May take values of sequences, which a standby cannot.
    pub takes_ids: bool,
    /// May lock rows that it only reads.
    pub locks: bool,
    /// May call a function.
    pub calls: bool,
    /// By these names, if they are functions' ones.
    called: Box<[Box<str>]>,
    /// Postgres has read it, of several statements.
    readable: AtomicBool,
}

fn holds(text: &str, word: &[u8]) -> bool {
    text.as_bytes().windows(word.len()).any(|part| part.eq_ignore_ascii_case(word))
}

/// The settings of the application's own that a text names, as SET does or `set_config`.
fn own_settings(text: &str) -> Vec<String> {
    let text = text.to_ascii_lowercase();
    let mut words = text.split(|c: char| c.is_whitespace() || c == ';').filter(|word| !word.is_empty());
    let mut named = Vec::new();
    while let Some(word) = words.next() {
        if word == "set" {
            let name = words.by_ref().find(|word| !matches!(*word, "local" | "session")).unwrap_or_default();
            named.push(name.split('=').next().unwrap_or_default());
        }
    }
    named.extend(text.split("set_config").skip(1).filter_map(|rest| rest.split('\'').nth(1)));
    let plain = |name: &&str| {
        name.contains('.') && name.chars().all(|c| c.is_alphanumeric() || matches!(c, '.' | '_' | '"' | '$'))
    };
    named.into_iter().filter(plain).map(|name| name.replace('"', "")).collect()
}

impl Parsed {
    fn of(text: &str) -> Parsed {
        let has = |word: &[u8]| holds(text, word);
        Parsed {
            script: sql::parse(text),
            sets_config: has(b"set_config"),
            own_settings: if has(b"set") { own_settings(text) } else { Vec::new() },
            takes_ids: has(b"nextval") || has(b"currval") || has(b"lastval"),
            locks: Parsed::locks_rows(text),
            calls: text.contains('('),
            called: sql::called(text),
            readable: AtomicBool::new(false),
        }
    }

    /// Whether a query may lock rows that it only reads.
    pub fn locks_rows(text: &str) -> bool {
        holds(text, b"for") && (holds(text, b"update") || holds(text, b"share"))
    }

    /// Whether it may have values of which one is chosen.
    pub fn has_branches(text: &str) -> bool {
        holds(text, b"case") || holds(text, b"coalesce")
    }

    /// Whether it may call a function of somebody's own that does more than compute.
    pub fn calls_own(&self, catalog: &Catalog) -> bool {
        self.called.iter().any(|name| catalog.opaque_functions.contains_key(&**name))
    }

    /// A text that we cannot read at all.
    pub fn unreadable(why: Unparsed) -> Parsed {
        Parsed {
            script: Err(why),
            sets_config: false,
            own_settings: Vec::new(),
            takes_ids: false,
            locks: false,
            calls: false,
            called: Box::default(),
            readable: AtomicBool::new(false),
        }
    }

    /// Whether Postgres can read all of its statements, as far as is known.
    pub fn is_readable(&self) -> bool {
        self.readable.load(Ordering::Relaxed)
    }

    pub fn was_read(&self) {
        self.readable.store(true, Ordering::Relaxed);
    }

    /// The only statement of the text.
    pub fn single(&self) -> Option<&Statement> {
        match self.script.as_ref().map(|script| script.statements.as_slice()) {
            Ok([only]) => Some(only),
            Ok(_) | Err(_) => None,
        }
    }

    /// An empty query string.
    pub fn is_empty(&self) -> bool {
        self.script.as_ref().is_ok_and(|script| script.statements.is_empty())
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct PlanKey {
    text: Arc<str>,
    part: bool,
    catalog: i64,
    search_path: Arc<[Arc<str>]>,
}

/// The caches that all sessions share.
#[derive(Debug)]
pub struct Statements {
    parsed: Mutex<LruCache<Arc<str>, Arc<Parsed>>>,
    plans: Mutex<LruCache<PlanKey, Arc<Result<Plan, Report>>>>,
}

impl Default for Statements {
    fn default() -> Statements {
        Statements { parsed: Mutex::new(LruCache::new(SHARED)), plans: Mutex::new(LruCache::new(SHARED)) }
    }
}

/// A cache is never left half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Statements {
    /// Splits and classifies a text.
    pub fn parse(&self, text: &str) -> Arc<Parsed> {
        if text.len() > TEXT_MAX {
            return Arc::new(Parsed::of(text));
        }
        if let Some(parsed) = lock(&self.parsed).get(text) {
            return Arc::clone(parsed);
        }
        let parsed = Arc::new(Parsed::of(text));
        lock(&self.parsed).put(text.into(), Arc::clone(&parsed));
        parsed
    }

    /// The statement's plan under this catalog and search path.
    pub fn plan(
        &self,
        statement: &Statement,
        catalog: &Catalog,
        search_path: &Arc<[Arc<str>]>,
        site: &str,
    ) -> Arc<Result<Plan, Report>> {
        let make = || Arc::new(sql::plan(statement, catalog, search_path, site));
        if statement.text.len() > TEXT_MAX {
            return make();
        }
        let key = PlanKey {
            text: Arc::clone(&statement.text),
            part: statement.class == Class::Part,
            catalog: catalog.version,
            search_path: Arc::clone(search_path),
        };
        if let Some(plan) = lock(&self.plans).get(&key) {
            return Arc::clone(plan);
        }
        let plan = make();
        lock(&self.plans).put(key, Arc::clone(&plan));
        plan
    }
}

/// What Postgres says of a statement.
#[derive(Debug)]
pub struct Description {
    pub types: Vec<u32>,
    /// The RowDescription message, header included; `None`: returns no rows.
    pub columns: Option<Bytes>,
}

/// A statement that the client prepared with Parse.
#[derive(Debug)]
pub struct Prepared {
    pub parsed: Arc<Parsed>,
    pub sql: Bytes,
    pub types: Vec<u32>,
}

impl Prepared {
    /// The class of its statement; `None`: empty, or not SQL as we know it.
    pub fn class(&self) -> Option<&Class> {
        self.parsed.single().map(|statement| &statement.class)
    }
}

/// A portal that needs more than forwarding.
#[derive(Debug)]
pub struct Portal {
    pub statement: Arc<Prepared>,
    /// The client's Bind message, header included.
    pub bind: BytesMut,
    pub state: PortalState,
}

impl Portal {
    /// Whether the replica has none by its name.
    pub fn is_ours_alone(&self) -> bool {
        match &self.state {
            PortalState::Whole { .. } => true,
            PortalState::Rows { .. } => self.statement.parsed.locks || self.statement.parsed.takes_ids,
            PortalState::Ours | PortalState::Merged { .. } | PortalState::Straight { .. } | PortalState::Done => false,
        }
    }
}

/// The only portal of a pipeline, which the replica runs as it came.
#[derive(Debug)]
pub struct Lone {
    pub prepared: Arc<Prepared>,
    /// The client's Bind message.
    pub bind: BytesMut,
    /// How many rows its Execute wants, once that has come.
    pub limit: Option<i32>,
}

#[derive(Debug)]
pub enum PortalState {
    /// The replica has the client's own portal; its statement is run by us (or on main).
    Ours,
    /// The replica has a portal by this name, of a rewritten statement. `description`: of the client's own. `begun`: rows of
    /// it may have been handed out, so it is not bound again.
    Merged { description: Arc<Description>, begun: bool },
    /// Nothing of it is on the replica. `description`: of the client's own statement.
    Whole { description: Arc<Description> },
    /// A read that only main can answer. The replica has the client's own portal, for its description.
    Straight { why: Report },
    /// Run; these rows are left to be fetched. Then the tag.
    Rows { rows: VecDeque<BytesMut>, tag: String },
    /// Run, and it has no rows.
    Done,
}

/// What was prepared on main, and the replica could not prepare yet.
#[derive(Debug)]
pub enum Late {
    Parse(Arc<Prepared>),
    /// A PREPARE.
    Prepare(String),
}

/// What one session has prepared.
#[derive(Debug)]
pub struct Names {
    /// Prepared at its next use.
    pub late: HashMap<Vec<u8>, Late>,
    pub statements: HashMap<Vec<u8>, Arc<Prepared>>,
    pub portals: HashMap<Vec<u8>, Portal>,
    /// Rendered statements on the replica, by text.
    rendered: LruCache<(String, Vec<u32>), String>,
    descriptions: LruCache<(Bytes, Vec<u32>), Arc<Description>>,
    last: u64,
}

impl Default for Names {
    fn default() -> Names {
        Names {
            late: HashMap::new(),
            statements: HashMap::new(),
            portals: HashMap::new(),
            rendered: LruCache::new(PER_SESSION),
            descriptions: LruCache::new(PER_SESSION),
            last: 0,
        }
    }
}

/// Where a rendered statement is on the replica.
#[derive(Debug)]
pub enum Place {
    Known(String),
    /// To be prepared under this name. `evicted`: this one is to be closed first.
    New {
        name: String,
        evicted: Option<String>,
    },
}

impl Names {
    /// The name of a rendered statement on the replica.
    pub fn place(&mut self, sql: &str, types: &[u32]) -> Place {
        let key = (sql.to_owned(), types.to_vec());
        if let Some(name) = self.rendered.get(&key) {
            return Place::Known(name.clone());
        }
        self.last += 1;
        let name = format!("pgoutpost_{}", self.last);
        let evicted = self.rendered.push(key, name.clone()).map(|(_, evicted)| evicted);
        Place::New { name, evicted }
    }

    /// The statement could not be prepared.
    pub fn forget(&mut self, sql: &str, types: &[u32]) {
        self.rendered.pop(&(sql.to_owned(), types.to_vec()));
    }

    /// The replica has deallocated everything that has a name.
    pub fn forget_all(&mut self) {
        self.rendered.clear();
        self.statements.retain(|name, _| name.is_empty());
        self.late.clear();
    }

    pub fn description(&mut self, prepared: &Prepared) -> Option<Arc<Description>> {
        self.descriptions.get(&(prepared.sql.clone(), prepared.types.clone())).cloned()
    }

    pub fn describe(&mut self, prepared: &Prepared, description: Arc<Description>) {
        self.descriptions.put((prepared.sql.clone(), prepared.types.clone()), description);
    }

    /// Names may mean other tables now.
    pub fn forget_descriptions(&mut self) {
        self.descriptions.clear();
    }
}
