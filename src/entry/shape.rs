//! What a value's text depends on besides its type's name: labels of enumerations, attributes of composite types. Pure.
//!
//! Both can be altered while values are kept as text: a label renamed, an attribute dropped and another one added. A shape
//! tells by their numbers in the catalog which label or attribute a text meant, so that it can be written as it would
//! stand there now, had it been stored before the change; or refused.

mod literal;

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Effect, EntryTable, Value, widens};

/// Domains are what they are made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// `pg_type.oid`, and its labels with their `pg_enum.oid`; in an entry only those that it has.
    Enum(u32, Vec<(u32, Arc<str>)>),
    /// `pg_type.oid` of a composite type, or of a table's rows, and its live attributes in order.
    Row(u32, Vec<Attribute>),
    Array(Arc<Shape>),
    /// Of a range or multirange: its bounds'.
    Range(Arc<Shape>),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attribute {
    pub attnum: i16,
    pub name: Arc<str>,
    /// As `format_type` prints it, with modifier.
    #[serde(rename = "type")]
    pub type_name: Arc<str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shape: Option<Arc<Shape>>,
}

/// A type by its name, with its shape when it has one.
#[derive(Debug, Clone, Copy)]
pub struct Typed<'a> {
    pub name: &'a str,
    pub shape: Option<&'a Arc<Shape>>,
}

/// By what labels and attributes are known again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Numbers mean the same: both shapes are of one cluster.
    pub same_cluster: bool,
    /// Attributes go by their names all the same, as an operator's RETRY does.
    pub by_name: bool,
}

impl Terms {
    /// By their numbers.
    pub const NUMBERS: Terms = Terms { same_cluster: true, by_name: false };

    fn numbered(self) -> bool {
        self.same_cluster && !self.by_name
    }
}

/// What is to become of values in attributes that are no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// They would be lost: refused.
    Refused,
    /// They are those of a row as it was, which has lost them.
    Dropped,
}

impl Typed<'_> {
    /// Whether any value's text means the same in the other type.
    pub fn stands_in(self, now: Typed<'_>, terms: Terms) -> bool {
        match (self.shape, now.shape) {
            (Some(then), Some(now)) => Arc::ptr_eq(then, now) || then.stands_in(now, terms),
            _ => widens(self.name, now.name),
        }
    }

    /// The text of the same value in the other type; or why there is none.
    ///
    /// # Errors
    /// What is different, to stand behind the name of the column and a blank.
    pub fn text_in<'t>(self, now: Typed<'_>, terms: Terms, lost: Lost, text: &'t str) -> Result<Cow<'t, str>, String> {
        match (self.shape, now.shape) {
            (Some(then), Some(now)) if Arc::ptr_eq(then, now) => Ok(Cow::Borrowed(text)),
            (Some(then), Some(shape)) => {
                let read = then.text_in(shape, &Path { above: None, name: "" }, terms, lost, text);
                read.map_err(|what| if what == REPLACED && self.name != now.name { self.other_than(now) } else { what })
            }
            _ if widens(self.name, now.name) => Ok(Cow::Borrowed(text)),
            _ => Err(self.other_than(now)),
        }
    }

    fn other_than(self, now: Typed<'_>) -> String {
        format!("was {} and is {}", self.name, now.name)
    }
}

/// Where in a column's type something is.
struct Path<'a> {
    above: Option<&'a Path<'a>>,
    name: &'a str,
}

impl Path<'_> {
    /// `attribute "a.b" of its type `, or nothing.
    fn shown(&self) -> String {
        let names = self.names();
        if names.is_empty() { String::new() } else { format!("attribute \"{names}\" of its type ") }
    }

    fn names(&self) -> String {
        let above = self.above.map(Path::names).unwrap_or_default();
        if above.is_empty() { self.name.to_owned() } else { format!("{above}.{}", self.name) }
    }

    fn below<'a>(&'a self, name: &'a str) -> Path<'a> {
        Path { above: Some(self), name }
    }
}

const REPLACED: &str = "is of a type that was dropped, and another one has its name";

impl Shape {
    fn stands_in(&self, now: &Shape, terms: Terms) -> bool {
        match (self, now) {
            (Shape::Enum(then_oid, then), Shape::Enum(oid, now)) if terms.same_cluster && then_oid == oid => {
                then.iter().all(|label| now.contains(label))
            }
            (Shape::Enum(_, then), Shape::Enum(_, now)) => {
                !terms.numbered() && then.iter().all(|(_, label)| now.iter().any(|(_, known)| known == label))
            }
            (Shape::Row(then_oid, then), Shape::Row(oid, now)) => {
                let same = |(then, now): (&Attribute, &Attribute)| {
                    then.is(now, terms) && then.typed().stands_in(now.typed(), terms)
                };
                let same_type = !terms.numbered() || then_oid == oid;
                same_type && then.len() == now.len() && then.iter().zip(now).all(same)
            }
            (Shape::Array(then), Shape::Array(now)) | (Shape::Range(then), Shape::Range(now)) => {
                then.stands_in(now, terms)
            }
            _ => false,
        }
    }

    fn text_in<'t>(
        &self,
        now: &Shape,
        at: &Path<'_>,
        terms: Terms,
        lost: Lost,
        text: &'t str,
    ) -> Result<Cow<'t, str>, String> {
        let unreadable = || format!("{}has a value that its type did not have: {text}", at.shown());
        let read = match (self, now) {
            (Shape::Enum(..), Shape::Enum(..)) => return self.label_in(now, at, terms, text).map(Cow::Owned),
            _ if self.stands_in(now, terms) => return Ok(Cow::Borrowed(text)),
            (Shape::Row(then_oid, _), Shape::Row(oid, _)) if terms.numbered() && then_oid != oid => {
                return Err(format!("{}{REPLACED}", at.shown()));
            }
            (Shape::Row(_, then), Shape::Row(_, now)) => {
                let fields = literal::fields(text).filter(|fields| fields.len() == then.len());
                let fields = fields_in(then, now, at, terms, lost, &fields.ok_or_else(unreadable)?)?;
                return Ok(Cow::Owned(literal::record(&fields)));
            }
            (Shape::Array(then), Shape::Array(now)) => {
                literal::each_element(text, |element| then.text_in(now, at, terms, lost, element).map(Cow::into_owned))?
            }
            _ => return Err(format!("{}was altered", at.shown())),
        };
        read.map(Cow::Owned).ok_or_else(unreadable)
    }

    fn label_in(&self, now: &Shape, at: &Path<'_>, terms: Terms, text: &str) -> Result<String, String> {
        let (Shape::Enum(then_oid, then), Shape::Enum(oid, now)) = (self, now) else { return Ok(text.to_owned()) };
        let Some((number, _)) = then.iter().find(|(_, label)| **label == *text) else {
            return Err(format!("{}has a label that its type did not have: {text}", at.shown()));
        };
        let found = if terms.same_cluster && then_oid == oid {
            now.iter().find(|(known, _)| known == number)
        } else if terms.numbered() {
            return Err(format!("{}{REPLACED}", at.shown()));
        } else {
            now.iter().find(|(_, label)| **label == *text)
        };
        let gone = || format!("{}is of a type that has no label \"{text}\"", at.shown());
        found.map(|(_, label)| label.to_string()).ok_or_else(gone)
    }
}

/// The attributes of a value: those that were added since are NULL, as in rows that main had before.
fn fields_in(
    then: &[Attribute],
    now: &[Attribute],
    at: &Path<'_>,
    terms: Terms,
    lost: Lost,
    fields: &[Option<String>],
) -> Result<Vec<Option<String>>, String> {
    for (was, value) in then.iter().zip(fields) {
        if value.is_some() && lost == Lost::Refused && !now.iter().any(|is| was.is(is, terms)) {
            let what = if terms.numbered() { "was dropped" } else { "is not there" };
            return Err(format!("has a value for {}which {what}", at.below(&was.name).shown()));
        }
    }
    let field = |is: &Attribute| {
        let Some(place) = then.iter().position(|was| was.is(is, terms)) else { return Ok(None) };
        let (was, Some(value)) = (&then[place], &fields[place]) else { return Ok(None) };
        let at = at.below(&was.name);
        match (&was.shape, &is.shape) {
            (Some(then), Some(now)) => then.text_in(now, &at, terms, lost, value).map(|text| Some(text.into_owned())),
            _ if widens(&was.type_name, &is.type_name) => Ok(Some(value.clone())),
            _ => Err(format!("has a value for {}which was {} and is {}", at.shown(), was.type_name, is.type_name)),
        }
    };
    now.iter().map(field).collect()
}

impl Attribute {
    fn is(&self, now: &Attribute, terms: Terms) -> bool {
        if terms.numbered() { self.attnum == now.attnum } else { self.name == now.name }
    }

    fn typed(&self) -> Typed<'_> {
        Typed { name: &self.type_name, shape: self.shape.as_ref() }
    }
}

/// Leaves of each enumeration only the labels that the effects have: there may be hundreds.
pub fn keep_used_labels(tables: &mut [EntryTable], effects: &[Effect]) {
    for (number, table) in tables.iter_mut().enumerate() {
        for place in 0..table.columns.len() {
            let Some(Shape::Enum(oid, labels)) = table.columns[place].shape.as_deref() else { continue };
            let used: HashSet<&str> = effects
                .iter()
                .flat_map(|effect| values_at(effect, number, table, place))
                .flatten()
                .map(|t| &**t)
                .collect();
            let labels = labels.iter().filter(|(_, label)| used.contains(&**label)).cloned().collect();
            table.columns[place].shape = Some(Arc::new(Shape::Enum(*oid, labels)));
        }
    }
}

/// The values that an effect has of a column.
fn values_at<'a>(effect: &'a Effect, number: usize, table: &EntryTable, place: usize) -> Vec<&'a Value> {
    let mut values: Vec<&Value> = Vec::new();
    let of_key = |key: &'a [Value]| table.key.iter().position(|part| *part == place).and_then(|at| key.get(at));
    let listed = |all: &'a [(usize, Value)]| all.iter().filter(move |(at, _)| *at == place).map(|(_, value)| value);
    match effect {
        Effect::Insert { table, row } if *table == number => values.extend(row.get(place)),
        Effect::Update { table, key, set, old, row, .. } if *table == number => {
            values.extend(of_key(key).into_iter().chain(listed(set)).chain(listed(old)));
            values.extend(row.as_ref().and_then(|row| row.get(place)));
        }
        Effect::Move { table, key, set, old, to, row } => {
            if *table == number {
                values.extend(of_key(key).into_iter().chain(listed(set)).chain(listed(old)));
            }
            if *to == number {
                values.extend(row.get(place));
            }
        }
        Effect::Delete { table, key, old } if *table == number => {
            values.extend(of_key(key).into_iter().chain(old.get(place)));
        }
        _ => {}
    }
    values
}

#[cfg(test)]
mod tests;
