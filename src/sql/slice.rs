//! Which pending rows a query can see at all: those whose key its WHERE names by equality.
//!
//! Only an optimisation: whoever is in doubt ships every pending row. A constant counts when its value in canonical
//! text is certain, so only types for which equal values have equal texts are looked at.

use squawk_syntax::{SyntaxKind as K, SyntaxNode};
use std::sync::Arc;

use super::syntax::{dotted, has_token, name_of, plain_string, tokens};
use super::{Parameters, arrays};
use crate::catalog::{Column, Table};
use crate::overlay::RowId;

/// Keys that are looked up one by one at most; more of them and all pending rows are shipped.
const KEYS_MAX: usize = 10_000;

/// For each key column the values it can have.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Slice {
    columns: Vec<Values>,
}

#[derive(Debug, Clone, PartialEq)]
struct Values {
    family: Family,
    constants: Vec<Constant>,
    /// Assignment may cut texts with more characters: those are not known.
    length_max: Option<usize>,
}

/// Types whose equal values have equal canonical texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    Int,
    Uuid,
    Text,
    Bool,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Constant {
    Known(Option<Arc<str>>),
    /// `$n`, from 1.
    Parameter(usize),
    /// An array parameter.
    Any(usize),
}

impl Family {
    fn of(column: &Column) -> Option<Family> {
        if column.is_domain || column.is_array || column.collation.is_some() {
            return None;
        }
        Family::of_type(column.type_oid)
    }

    fn of_type(oid: u32) -> Option<Family> {
        match oid {
            20 | 21 | 23 => Some(Family::Int),
            2950 => Some(Family::Uuid),
            25 | 1043 => Some(Family::Text),
            16 => Some(Family::Bool),
            _ => None,
        }
    }

    fn of_type_name(name: &str) -> Option<Family> {
        match name.to_ascii_lowercase().as_str() {
            "int" | "integer" | "int2" | "int4" | "int8" | "smallint" | "bigint" => Some(Family::Int),
            "uuid" => Some(Family::Uuid),
            "text" | "varchar" => Some(Family::Text),
            "bool" | "boolean" => Some(Family::Bool),
            _ => None,
        }
    }

    /// The canonical text of a value written as text.
    fn canonical(self, text: &str) -> Option<Arc<str>> {
        match self {
            Family::Int => text.trim_matches(' ').parse::<i64>().ok().map(|number| number.to_string().into()),
            Family::Uuid if text.len() == 36 => uuid::Uuid::try_parse(text).ok().map(|uuid| uuid.to_string().into()),
            Family::Uuid => None,
            // Other client encodings agree with ours on ASCII only.
            Family::Text => text.is_ascii().then(|| text.into()),
            Family::Bool => match text {
                "t" | "true" => Some("t".into()),
                "f" | "false" => Some("f".into()),
                _ => None,
            },
        }
    }

    fn canonical_binary(self, oid: u32, value: &[u8]) -> Option<Arc<str>> {
        match (self, oid) {
            (Family::Int, 21) => Some(i16::from_be_bytes(value.try_into().ok()?).to_string().into()),
            (Family::Int, 23) => Some(i32::from_be_bytes(value.try_into().ok()?).to_string().into()),
            (Family::Int, 20) => Some(i64::from_be_bytes(value.try_into().ok()?).to_string().into()),
            (Family::Uuid, 2950) => Some(uuid::Uuid::from_slice(value).ok()?.to_string().into()),
            (Family::Text, 25 | 1043) => self.canonical(std::str::from_utf8(value).ok()?),
            (Family::Bool, 16) => Some(if *value.first()? == 0 { "f".into() } else { "t".into() }),
            _ => None,
        }
    }
}

impl Slice {
    /// The keys for one execution; `None`: not known, every row may be seen.
    pub(super) fn keys(&self, parameters: Parameters<'_>) -> Option<Vec<RowId>> {
        let mut keys: Vec<Vec<Arc<str>>> = vec![Vec::new()];
        for Values { family, constants, length_max } in &self.columns {
            let mut values: Vec<Arc<str>> = Vec::new();
            for constant in constants {
                values.extend(constant.values(*family, parameters)?);
            }
            if length_max.is_some_and(|max| values.iter().any(|value| value.chars().count() > max)) {
                return None;
            }
            if keys.len().saturating_mul(values.len()) > KEYS_MAX {
                return None;
            }
            let with = |key: &Vec<Arc<str>>, value: &Arc<str>| {
                key.iter().cloned().chain([Arc::clone(value)]).collect::<Vec<_>>()
            };
            keys = keys.iter().flat_map(|key| values.iter().map(move |value| with(key, value))).collect();
        }
        keys.sort_unstable();
        keys.dedup();
        Some(keys.into_iter().map(|key| RowId::Key(key.into())).collect())
    }

    /// From what is assigned for each key column: to which column, and the value, if all are known.
    pub(super) fn of_key<'c>(
        table: &Table,
        value: impl Fn(&Column) -> Option<(&'c Column, Constant)>,
    ) -> Option<Slice> {
        let columns: Option<Vec<_>> = super::merge::key_columns(table)
            .into_iter()
            .map(|column| {
                let (assigned, constant) = value(column)?;
                // `varchar(n)`; blanks after n characters are dropped without a word.
                let length_max =
                    usize::try_from(assigned.base_typmod - 4).ok().filter(|_| assigned.base_type_oid == 1043);
                Some(Values { family: Family::of(column)?, constants: vec![constant], length_max })
            })
            .collect();
        columns.filter(|columns| !columns.is_empty()).map(|columns| Slice { columns })
    }

    /// Whether equal keys of this table have equal canonical texts, so that a key's text finds its pending row.
    pub(super) fn key_is_text(table: &Table) -> bool {
        let columns = super::merge::key_columns(table);
        !columns.is_empty() && columns.into_iter().all(|column| Family::of(column).is_some())
    }

    /// Rows that any of these see.
    pub(super) fn union(slices: Vec<Slice>) -> Option<Slice> {
        let mut slices = slices.into_iter();
        let mut all = slices.next()?;
        for slice in slices {
            for (mine, theirs) in all.columns.iter_mut().zip(slice.columns) {
                mine.constants.extend(theirs.constants);
            }
        }
        Some(all)
    }
}

impl Constant {
    /// The values it can have; NULL equals nothing.
    fn values(&self, family: Family, parameters: Parameters<'_>) -> Option<Vec<Arc<str>>> {
        let given = |number: usize| -> Option<(u32, bool, Option<&[u8]>)> {
            let place = number.checked_sub(1)?;
            Some((
                *parameters.types.get(place)?,
                parameters.binary.get(place).copied().unwrap_or(false),
                *parameters.values.get(place)?,
            ))
        };
        match self {
            Constant::Known(Some(text)) => Some(vec![family.canonical(text)?]),
            Constant::Known(None) => Some(Vec::new()),
            Constant::Parameter(number) => match given(*number)? {
                (_, _, None) => Some(Vec::new()),
                (oid, true, Some(value)) => Some(vec![family.canonical_binary(oid, value)?]),
                (oid, false, Some(value)) if Family::of_type(oid) == Some(family) => {
                    Some(vec![family.canonical(std::str::from_utf8(value).ok()?)?])
                }
                (_, false, Some(_)) => None,
            },
            Constant::Any(number) => match given(*number)? {
                (_, _, None) => Some(Vec::new()),
                (oid, true, Some(value)) => {
                    let element = match oid {
                        1005 => 21,
                        1007 => 23,
                        1016 => 20,
                        2951 => 2950,
                        1009 => 25,
                        1015 => 1043,
                        _ => return None,
                    };
                    let elements = arrays::elements(value, &[element])?;
                    elements.iter().flatten().map(|value| family.canonical_binary(element, value)).collect()
                }
                (_, false, Some(_)) => None,
            },
        }
    }

    /// A literal or parameter, possibly cast to a type of the column's own family.
    pub(super) fn read(node: &SyntaxNode, column: &Column) -> Option<Constant> {
        read(node, Family::of(column)?)
    }
}

fn read(node: &SyntaxNode, family: Family) -> Option<Constant> {
    match node.kind() {
        K::PAREN_EXPR => read(&node.children().next()?, family),
        K::CAST_EXPR => {
            let target = node.children().find(|child| child.kind() == K::PATH_TYPE)?;
            (Family::of_type_name(target.text().to_string().trim()) == Some(family)).then_some(())?;
            let inner = node.children().find(|child| matches!(child.kind(), K::LITERAL | K::PAREN_EXPR))?;
            read(&inner, family)
        }
        K::LITERAL => {
            let mut tokens = tokens(node);
            let token = tokens.next()?;
            if tokens.next().is_some() {
                return None;
            }
            let known = |text: &str| Some(Constant::Known(Some(family.canonical(text)?)));
            match (token.kind(), family) {
                (K::POSITIONAL_PARAM, _) => Some(Constant::Parameter(token.text().strip_prefix('$')?.parse().ok()?)),
                (K::INT_NUMBER, Family::Int) => known(token.text()),
                (K::STRING, _) => known(&plain_string(token.text())?),
                (K::TRUE_KW | K::FALSE_KW, Family::Bool) => known(&token.text().to_ascii_lowercase()),
                (K::NULL_KW, _) => Some(Constant::Known(None)),
                _ => None,
            }
        }
        K::PREFIX_EXPR if family == Family::Int && has_token(node, K::MINUS) => {
            match read(&node.children().next()?, family)? {
                Constant::Known(Some(text)) => Some(Constant::Known(Some(family.canonical(&format!("-{text}"))?))),
                Constant::Known(None) | Constant::Parameter(_) | Constant::Any(_) => None,
            }
        }
        _ => None,
    }
}

/// How a query refers to the relation.
pub(super) struct Reference<'a> {
    pub(super) table: &'a Table,
    pub(super) alias: &'a str,
    /// Whether a column name alone can only mean this relation's.
    pub(super) alone: bool,
}

/// What a row must fulfil, of what the clause says, as far as it is a comparison.
pub(super) fn conjuncts(clause: &SyntaxNode) -> Vec<SyntaxNode> {
    let mut found = Vec::new();
    let mut open: Vec<SyntaxNode> = clause.children().collect();
    while let Some(node) = open.pop() {
        match node.kind() {
            K::PAREN_EXPR => open.extend(node.children()),
            K::BIN_EXPR if has_token(&node, K::AND_KW) => open.extend(node.children()),
            K::BIN_EXPR => found.push(node),
            _ => {}
        }
    }
    found
}

/// What the WHERE clause says of the relation's key.
pub(super) fn of_where(clause: &SyntaxNode, reference: &Reference<'_>) -> Option<Slice> {
    let conjuncts = conjuncts(clause);
    let known: Vec<_> = conjuncts.iter().filter_map(|node| equality(node, reference)).collect();
    let columns: Option<Vec<_>> = super::merge::key_columns(reference.table)
        .into_iter()
        .map(|column| {
            let (_, constants) = known.iter().find(|(name, _)| **name == *column.name)?;
            Some(Values { family: Family::of(column)?, constants: constants.clone(), length_max: None })
        })
        .collect();
    columns.filter(|columns| !columns.is_empty()).map(|columns| Slice { columns })
}

/// `column = constant`, `constant = column`, `column IN (constants)`, `column = ANY ($n)`.
fn equality(node: &SyntaxNode, reference: &Reference<'_>) -> Option<(String, Vec<Constant>)> {
    let sides: Vec<_> = node.children().collect();
    let [left, right] = sides.as_slice() else { return None };
    let operators: Vec<_> = tokens(node).map(|token| token.kind()).collect();
    match operators.as_slice() {
        [K::EQ] => {
            let (column, other) = match column_of(left, reference) {
                Some(column) => (column, right),
                None => (column_of(right, reference)?, left),
            };
            let constant = match any_parameter(other) {
                Some(number) => Constant::Any(number),
                None => Constant::read(other, column)?,
            };
            Some((column.name.to_string(), vec![constant]))
        }
        [K::IN_KW] => {
            let column = column_of(left, reference)?;
            let items: Vec<_> = match right.kind() {
                K::TUPLE_EXPR | K::PAREN_EXPR => right.children().collect(),
                _ => return None,
            };
            let constants: Option<Vec<_>> = items.iter().map(|item| Constant::read(item, column)).collect();
            Some((column.name.to_string(), constants?))
        }
        _ => None,
    }
}

/// Whether values of the two are equal exactly when their texts are.
pub(super) fn has_one_text(one: &Column, other: &Column) -> bool {
    let families = (Family::of(one), Family::of(other));
    matches!(families, (Some(one), Some(other)) if one == other && one != Family::Bool)
}

pub(super) fn column_of<'t>(node: &SyntaxNode, reference: &Reference<'t>) -> Option<&'t Column> {
    let parts = dotted(node)?;
    match parts.as_slice() {
        [column] if reference.alone => reference.table.column(column),
        [alias, column] if alias == reference.alias => reference.table.column(column),
        _ => None,
    }
}

/// `ANY ($n)`, `ANY ($n::type[])`
fn any_parameter(node: &SyntaxNode) -> Option<usize> {
    // The call itself: one deeper down is about something else.
    let any = match node.kind() {
        K::ANY_FN => node.clone(),
        K::CALL_EXPR => node.children().find(|inner| inner.kind() == K::ANY_FN)?,
        _ => return None,
    };
    let mut argument = any.children().next()?;
    if argument.kind() == K::CAST_EXPR {
        argument = argument.children().find(|inner| inner.kind() == K::LITERAL)?;
    }
    let token = tokens(&argument).next().filter(|token| token.kind() == K::POSITIONAL_PARAM)?;
    token.text().strip_prefix('$')?.parse().ok()
}

/// The slice of a relation in FROM: what the WHERE of its own query level says.
pub(super) fn of_from_item(item: &SyntaxNode, table: &Table, alias: &str) -> Option<Slice> {
    let (_, clause, alone) = condition_of(item)?;
    of_where(&clause, &Reference { table, alias, alone })
}

/// The query that a relation in FROM belongs to, its WHERE, and whether it is the only one there.
pub(super) fn condition_of(item: &SyntaxNode) -> Option<(SyntaxNode, SyntaxNode, bool)> {
    let mut node = item.clone();
    let mut alone = true;
    let query = loop {
        let parent = node.parent()?;
        match parent.kind() {
            K::FROM_CLAUSE | K::USING_CLAUSE => {
                alone &= parent.kind() == K::FROM_CLAUSE && parent.children().count() == 1;
                break parent.parent()?;
            }
            K::JOIN | K::JOIN_EXPR | K::PAREN_EXPR | K::PAREN_FROM_ITEM => alone = false,
            _ => return None,
        }
        if parent.children().any(|child| child.kind() == K::FROM_ALIAS) {
            return None;
        }
        node = parent;
    };
    alone &= matches!(query.kind(), K::SELECT | K::SELECT_INTO);
    let clause = query.children().find(|child| child.kind() == K::WHERE_CLAUSE)?;
    let columns_renamed = item.descendants().any(|inner| inner.kind() == K::COLUMN_LIST);
    (!columns_renamed).then_some((query, clause, alone))
}

/// The alias written for a relation, if any.
pub(super) fn alias_of(item: &SyntaxNode) -> Option<String> {
    let alias = item
        .children()
        .find(|child| matches!(child.kind(), K::FROM_ALIAS | K::OPTIONAL_AS_ALIAS | K::REQUIRED_AS_ALIAS))?;
    name_of(&alias.children().find(|child| child.kind() == K::TABLE_ALIAS)?)
}
