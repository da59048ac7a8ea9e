//! Statements that notice what others did to a row: updates, deletes, and inserts that may find their place taken.
//!
//! First a plain attempt, under the condition that the row is still what the client's statement saw: that is nearly
//! always so, and costs little. Only when it finds no such row, `pgoutpost.settle_conflict` looks again within the same
//! statement, does what the table's policy says, and logs it: no round trip is needed to decide.
//!
//! Compared is the text that Postgres prints, since that is what entries hold and not every type has an equality.

use std::collections::HashSet;

use serde_json::{Value as Json, json};
use sha2::{Digest, Sha256};

use super::{MainTable, Parameters, Step, Way, bare_type, own_rows, relation};
use crate::entry::{EntryTable, Own, Value};
use crate::replay::Policy;
use crate::setup::{identifier, literal};

/// Old values longer than this are compared by their hash: they would double what goes over the link.
const LONG: usize = 200;

/// What happens to a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    /// Passed over when main has a row like it.
    Insert,
    Update,
    Delete,
}

/// The rows of the statement that others may still join, by their keys.
#[derive(Default)]
pub(super) struct Joined {
    /// How many steps there were with it.
    steps: usize,
    keys: HashSet<Vec<Value>>,
}

/// What happens to one row, where the table's policy has a say.
pub(super) struct Guarded<'a> {
    pub(super) site: &'a str,
    pub(super) table: &'a EntryTable,
    pub(super) main: Option<&'a MainTable>,
    pub(super) policy: Policy,
    pub(super) verb: Verb,
    /// Values of [`EntryTable::key`]; none, of an insert.
    pub(super) key: &'a [Value],
    /// The columns that it writes by value.
    pub(super) set: Vec<&'a (usize, Value)>,
    /// The columns that main computes from its own row.
    pub(super) own: Vec<&'a Own>,
    /// What the client's statement saw in the columns that count.
    pub(super) old: Vec<(usize, Value)>,
}

/// Where a statement has the values of a row from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    /// Parameters of its own.
    One,
    /// A line of the arrays that are its parameters.
    Several,
    /// A line of what the first attempt has passed on.
    Again,
}

impl Source {
    fn text(self, place: usize) -> String {
        match self {
            Source::One => format!("${}::text", place + 1),
            Source::Several => format!("r.c{place}"),
            Source::Again => format!("(r.v ->> {place})"),
        }
    }

    /// What follows FROM, or USING, to have it.
    fn relation(self) -> Option<&'static str> {
        match self {
            Source::One => None,
            Source::Several => Some("r"),
            Source::Again => Some("pg_catalog.jsonb_each($1) AS r(n, v)"),
        }
    }
}

const LINE: &str = "SELECT pg_catalog.jsonb_object_agg(done.n, done.theirs) FROM done";

impl Guarded<'_> {
    /// Adds the row: to the last step, if it may be `together` with others and that does the same to other rows of the
    /// same entry; else as a step of its own.
    pub(super) fn add(
        &self,
        steps: &mut Vec<Step>,
        (entry, effect): (usize, usize),
        seq: u64,
        together: Option<&mut Joined>,
    ) {
        let values = self.values(&format!("{seq}.{effect}"));
        // A rule on main takes no part in such statements: only how many rows there were is known then.
        let plain = self.main.is_some_and(|main| main.has_rules) && self.policy != Policy::Reject;
        let (Some(joined), Some(places), false) = (together, self.key_places(), plain) else {
            let sql = if plain { self.attempt(Source::One, None) } else { self.one() };
            let parameters = Parameters::Row(values);
            let way = if plain { Way::Counted } else { Way::Settles };
            steps.push(Step { entry, effect, rows: 1, sql, parameters, way });
            return;
        };
        if joined.steps != steps.len() {
            joined.keys.clear();
        }
        let sql = self.several(values.len());
        let key: Vec<Value> = places.iter().map(|&place| values[place].clone()).collect();
        if let Some(last) = steps.last_mut()
            && last.entry == entry
            && last.sql == sql
            && let Parameters::Columns(columns) = &mut last.parameters
            && joined.keys.insert(key.clone())
        {
            columns.iter_mut().zip(values).for_each(|(column, value)| column.push(value));
            last.rows += 1;
            return;
        }
        joined.keys = HashSet::from([key]);
        let parameters = Parameters::Columns(values.into_iter().map(|value| vec![value]).collect());
        steps.push(Step { entry, effect, rows: 1, sql, parameters, way: Way::Settles });
        joined.steps = steps.len();
    }

    /// Where from and which effect, the key, what it writes, what it expects.
    fn values(&self, origin: &str) -> Vec<Value> {
        let set = self.set.iter().map(|(_, value)| value.clone());
        let own = self.own.iter().flat_map(|own| own.expression.values()).map(|(_, text)| Some(text.clone()));
        let old = self.old.iter().map(|(_, value)| if is_long(value) { hashed(value) } else { value.clone() });
        std::iter::once(Some(origin.into())).chain(self.key.iter().cloned()).chain(set).chain(own).chain(old).collect()
    }

    fn set_place(&self, n: usize) -> usize {
        1 + self.key.len() + n
    }

    /// Where the first value in the expression of this one of `own` stands.
    fn own_place(&self, n: usize) -> usize {
        self.set_place(self.set.len()) + self.own[..n].iter().map(|own| own.expression.values().len()).sum::<usize>()
    }

    fn old_place(&self, n: usize) -> usize {
        self.own_place(self.own.len()) + n
    }

    /// A computed column's expression. `value`: the value in this place, of this type.
    fn computed(&self, n: usize, value: impl Fn(usize, &str) -> String) -> String {
        let mut place = self.own_place(n);
        let mut next = |type_name: &str, _: &str| {
            place += 1;
            value(place - 1, type_name)
        };
        self.own[n].expression.sql(&|column| format!("t.{}", self.name(column)), &mut next)
    }

    /// Where the values of the key's columns stand; `None`: nothing tells the row from others.
    fn key_places(&self) -> Option<Vec<usize>> {
        let places: Option<Vec<usize>> = match self.verb {
            Verb::Update | Verb::Delete => Some((1..=self.key.len()).collect()),
            Verb::Insert => {
                let of = |column: &usize| self.set.iter().position(|(set, _)| set == column);
                self.table.key.iter().map(|column| Some(self.set_place(of(column)?))).collect()
            }
        };
        places.filter(|places| !places.is_empty())
    }

    fn name(&self, column: usize) -> String {
        identifier(&self.table.columns[column].name)
    }

    /// A value in its column's type, without the type's modifier: an explicit cast to `varchar(5)` would cut a longer
    /// value, the assignment to such a column refuses it.
    fn typed(&self, source: Source, place: usize, column: usize) -> String {
        format!("{}::{}", source.text(place), bare_type(&self.table.columns[column].type_name))
    }

    fn matches_key(&self, source: Source) -> String {
        let Some(places) = self.key_places() else { return "false".to_owned() };
        let equal = |(&column, &place): (&usize, &usize)| {
            format!("t.{} = {}", self.name(column), self.typed(source, place, column))
        };
        self.table.key.iter().zip(&places).map(equal).collect::<Vec<_>>().join(" AND ")
    }

    /// Whether the row is as the client's statement saw it; `None`: whatever it is.
    fn same(&self, source: Source) -> Option<String> {
        let is = |(n, (column, value)): (usize, &(usize, Value))| {
            let mut theirs = self.printed(*column);
            if is_long(value) {
                theirs = format!(
                    "pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to({theirs}, 'UTF8')), 'hex'::text)"
                );
            }
            format!("{theirs} IS NOT DISTINCT FROM {}", source.text(self.old_place(n)))
        };
        let conditions: Vec<String> = self.old.iter().enumerate().map(is).collect();
        (!conditions.is_empty()).then(|| conditions.join(" AND "))
    }

    /// A column of main's row as text, by its type's output function. `IS NULL` would be true of a record of NULLs.
    fn printed(&self, column: usize) -> String {
        let name = self.name(column);
        format!("CASE pg_catalog.num_nulls(t.{name}) WHEN 0 THEN pg_catalog.concat(t.{name}) END")
    }

    /// The row on main, as far as it counts.
    fn theirs(&self) -> String {
        let columns: Vec<usize> = match self.verb {
            Verb::Insert => self.set.iter().map(|(column, _)| *column).collect(),
            Verb::Update | Verb::Delete => self.old.iter().map(|(column, _)| *column).collect(),
        };
        let names = list(columns.iter().map(|&column| literal(&self.table.columns[column].name)));
        let texts = list(columns.iter().map(|&column| self.printed(column)));
        format!("pg_catalog.jsonb_object(ARRAY[{names}]::text[], ARRAY[{texts}]::text[])")
    }

    /// The change itself. `returning`: what it yields of each row that it finds.
    fn change(&self, source: Source, guard: Option<&str>, returning: Option<&str>) -> String {
        let mut sql = match self.verb {
            Verb::Insert => {
                let names = list(self.set.iter().map(|(column, _)| self.name(*column)));
                let values = self.set.iter().enumerate();
                let values = list(values.map(|(n, (column, _))| self.typed(source, self.set_place(n), *column)));
                let from = source.relation().map(|from| format!(" FROM {from}")).unwrap_or_default();
                let columns = if self.set.is_empty() {
                    " DEFAULT VALUES".to_owned()
                } else {
                    format!(" ({names}) OVERRIDING SYSTEM VALUE SELECT {values}{from}")
                };
                format!("INSERT INTO {}{columns} ON CONFLICT DO NOTHING", relation(self.table))
            }
            Verb::Update if self.set.is_empty() && self.own.is_empty() => {
                // Only generated columns changed: the row must still be there.
                let from = source.relation().map(|from| format!("{from}, ")).unwrap_or_default();
                let rows = self.own_rows();
                let yields = returning.unwrap_or_default();
                return format!("SELECT {yields} FROM {from}{rows} AS t WHERE {}", self.matches_key(source));
            }
            Verb::Update => {
                let assign = |(n, (column, _)): (usize, &&(usize, Value))| {
                    format!("{} = {}", self.name(*column), self.typed(source, self.set_place(n), *column))
                };
                let compute = |(n, own): (usize, &&Own)| {
                    let value = |place: usize, kind: &str| format!("{}::{}", source.text(place), bare_type(kind));
                    format!("{} = {}", self.name(own.column), self.computed(n, value))
                };
                let assignments = self.set.iter().enumerate().map(assign);
                let assignments = list(assignments.chain(self.own.iter().enumerate().map(compute)));
                let from = source.relation().map(|from| format!(" FROM {from}")).unwrap_or_default();
                format!("UPDATE {} AS t SET {assignments}{from}", self.own_rows())
            }
            Verb::Delete => {
                let using = source.relation().map(|using| format!(" USING {using}")).unwrap_or_default();
                format!("DELETE FROM {} AS t{using}", self.own_rows())
            }
        };
        if self.verb != Verb::Insert {
            sql.push_str(&format!(" WHERE {}", self.matches_key(source)));
            guard.into_iter().for_each(|guard| sql.push_str(&format!(" AND {guard}")));
        }
        returning.into_iter().for_each(|yields| sql.push_str(&format!(" RETURNING {yields}")));
        sql
    }

    /// The first attempt.
    fn attempt(&self, source: Source, returning: Option<&str>) -> String {
        self.change(source, self.same(source).as_deref(), returning)
    }

    fn one(&self) -> String {
        let count = self.old_place(self.old.len());
        let line = list((0..count).map(|place| Source::One.text(place)));
        format!(
            "WITH done AS ({}) SELECT {} WHERE NOT EXISTS (SELECT FROM done)",
            self.attempt(Source::One, Some("1")),
            self.settled(&format!("pg_catalog.jsonb_build_object('1'::text, pg_catalog.to_jsonb(ARRAY[{line}]))")),
        )
    }

    fn several(&self, count: usize) -> String {
        let arrays = list((1..=count).map(|n| format!("${n}::text[]")));
        let names = list((0..count).map(|n| format!("c{n}")));
        let line = list((0..count).map(|place| Source::Several.text(place)));
        // An insert's RETURNING knows its own row only.
        let (yields, missing) = match self.verb {
            Verb::Update | Verb::Delete => ("r.n".to_owned(), "r.n NOT IN (SELECT done.n FROM done)".to_owned()),
            Verb::Insert => {
                let key = self.table.key.iter().zip(self.key_places().unwrap_or_default()).enumerate();
                let equal = |(n, (&column, place)): (usize, (&usize, usize))| {
                    format!("done.k{n} = {}", self.typed(Source::Several, place, column))
                };
                let equal = key.map(equal).collect::<Vec<_>>().join(" AND ");
                let key = self.table.key.iter().enumerate();
                let yields = list(key.map(|(n, &column)| format!("{} AS k{n}", self.name(column))));
                (yields, format!("NOT EXISTS (SELECT FROM done WHERE {equal})"))
            }
        };
        format!(
            "WITH r AS MATERIALIZED (SELECT * FROM unnest({arrays}) WITH ORDINALITY AS r({names}, n)), done AS ({}) \
             SELECT {} FROM (SELECT pg_catalog.jsonb_object_agg(r.n, pg_catalog.to_jsonb(ARRAY[{line}])) AS rows \
             FROM r WHERE {missing}) AS missed WHERE missed.rows IS NOT NULL",
            self.attempt(Source::Several, Some(&yields)),
            self.settled("missed.rows"),
        )
    }

    /// The second attempt, of these rows.
    fn settled(&self, rows: &str) -> String {
        let name = &self.table.name;
        let write = match (self.policy, self.verb) {
            (Policy::LastWriteWins, Verb::Update) => {
                let change = self.change(Source::Again, None, Some("r.n, true AS theirs"));
                literal(&format!("WITH done AS ({change}) {LINE}"))
            }
            (Policy::LastWriteWins, Verb::Delete) => {
                let change = self.change(Source::Again, None, Some(&format!("r.n, {} AS theirs", self.theirs())));
                literal(&format!("WITH done AS ({change}) {LINE}"))
            }
            (Policy::LastWriteWins, Verb::Insert) | (Policy::MainWins | Policy::Reject, _) => "NULL".to_owned(),
        };
        format!(
            "pgoutpost.settle_conflict({}, ARRAY[{}, {}], {}, {}, {}, {write}, {rows})",
            literal(self.site),
            literal(&name.schema),
            literal(&name.name),
            literal(self.policy.as_str()),
            literal(&self.shape().to_string()),
            literal(&self.look()),
        )
    }

    fn own_rows(&self) -> String {
        own_rows(self.table, self.main.is_some_and(|main| main.has_children))
    }

    /// What main has. Locks an update's row, so that it is still that when it is written; a delete may lack the right
    /// to lock, and tells itself what it has removed.
    fn look(&self) -> String {
        let lock = if self.verb == Verb::Update { " FOR NO KEY UPDATE OF t" } else { "" };
        format!(
            "SELECT pg_catalog.jsonb_object_agg(l.n, l.theirs), pg_catalog.jsonb_object_agg(l.n, l.same) FROM (\
             SELECT r.n, {} AS theirs, {} AS same FROM pg_catalog.jsonb_each($1) AS r(n, v) JOIN {} AS t ON {}{lock}) AS l",
            self.theirs(),
            self.same(Source::Again).unwrap_or_else(|| "true".to_owned()),
            self.own_rows(),
            self.matches_key(Source::Again),
        )
    }

    /// Which value stands where, for the log.
    fn shape(&self) -> Json {
        let named = |column: usize, place: Json| (self.table.columns[column].name.to_string(), place);
        let keys = self.table.key.iter().zip(self.key_places().unwrap_or_default());
        let key: serde_json::Map<String, Json> = keys.map(|(&column, place)| named(column, json!(place))).collect();
        let old = self.old.iter().enumerate().map(|(n, (column, value))| {
            let place = self.old_place(n);
            named(*column, if is_long(value) { json!({ "sha256": place }) } else { json!(place) })
        });
        let old: serde_json::Map<String, Json> = old.collect();
        let set = self.set.iter().enumerate();
        let own = self.own.iter().enumerate().map(|(n, own)| {
            let first = self.own_place(n);
            let text = self.computed(n, |place, kind| format!("${}::{}", place - first + 1, bare_type(kind)));
            named(own.column, json!({ "expression": text, "with": (first..self.own_place(n + 1)).collect::<Vec<_>>() }))
        });
        let mine: serde_json::Map<String, Json> =
            set.map(|(n, (column, _))| named(*column, json!(self.set_place(n)))).chain(own).collect();
        match self.verb {
            Verb::Insert => json!({ "verb": "insert", "key": key, "mine": mine }),
            Verb::Update => json!({ "verb": "update", "key": key, "old": old, "mine": mine }),
            Verb::Delete => json!({ "verb": "delete", "key": key, "old": old }),
        }
    }
}

fn is_long(value: &Value) -> bool {
    value.as_ref().is_some_and(|text| text.len() > LONG)
}

/// As Postgres' `encode(sha256(…), 'hex')` prints it.
fn hashed(value: &Value) -> Value {
    let text = value.as_deref()?;
    let digits = Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    Some(digits.into())
}

fn list(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join(", ")
}
