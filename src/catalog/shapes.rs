//! The shapes of types ([`Shape`]), as a server's catalog has them.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Deserialize;

use crate::entry::{Attribute, Shape};

/// A type that has a shape, or is made of one: a row of [`query`].
#[derive(Debug, Deserialize)]
pub struct TypeRow {
    oid: u32,
    /// `pg_type.typtype`; `a`: an array.
    kind: char,
    /// Of an array, a domain, a range: what it is made of.
    of: Option<u32>,
    labels: Vec<(u32, Arc<str>)>,
    attributes: Vec<AttributeRow>,
}

#[derive(Debug, Deserialize)]
struct AttributeRow {
    attnum: i16,
    name: Arc<str>,
    #[serde(rename = "type")]
    type_name: Arc<str>,
    of: u32,
}

/// All [`TypeRow`]s that types are made of, as JSON: an expression. `seed`: SELECT of the OIDs of types.
///
/// Types of the system keep their shapes. Names are printed by the `search_path`.
pub fn query(seed: &str) -> String {
    format!(
        "(WITH RECURSIVE reached(oid) AS (
            SELECT s.oid FROM ({seed}) s(oid) WHERE s.oid >= 16384
            UNION
            SELECT p.oid FROM reached r JOIN pg_catalog.pg_type t ON t.oid = r.oid CROSS JOIN LATERAL (
                SELECT t.typelem WHERE t.typlen = -1
                UNION ALL SELECT t.typbasetype WHERE t.typtype = 'd'
                UNION ALL SELECT g.rngsubtype FROM pg_catalog.pg_range g
                    WHERE t.typtype IN ('r', 'm') AND t.oid::text IN (g.rngtypid::text, pg_catalog.to_jsonb(g) ->> 'rngmultitypid')
                UNION ALL SELECT a.atttypid FROM pg_catalog.pg_attribute a
                    WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
            ) p(oid) WHERE p.oid >= 16384)
        SELECT coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
            'oid', t.oid::int8, 'kind', CASE WHEN t.typlen = -1 AND t.typelem <> 0 THEN 'a' ELSE t.typtype::text END,
            'of', CASE WHEN t.typlen = -1 AND t.typelem <> 0 THEN t.typelem::int8 WHEN t.typtype = 'd' THEN t.typbasetype::int8
                ELSE (SELECT g.rngsubtype::int8 FROM pg_catalog.pg_range g WHERE t.typtype IN ('r', 'm')
                    AND t.oid::text IN (g.rngtypid::text, pg_catalog.to_jsonb(g) ->> 'rngmultitypid')) END,
            'labels', coalesce((SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_array(e.oid::int8, e.enumlabel)
                ORDER BY e.enumsortorder) FROM pg_catalog.pg_enum e WHERE e.enumtypid = t.oid), '[]'),
            'attributes', coalesce((SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
                    'attnum', a.attnum, 'name', a.attname, 'type', pg_catalog.format_type(a.atttypid, a.atttypmod),
                    'of', a.atttypid::int8) ORDER BY a.attnum)
                FROM pg_catalog.pg_attribute a
                WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped), '[]'))), '[]')
        FROM reached r JOIN pg_catalog.pg_type t ON t.oid = r.oid)"
    )
}

/// The shapes by the OIDs of their types; a type that is not in it has none.
pub fn shapes(rows: Vec<TypeRow>) -> HashMap<u32, Arc<Shape>> {
    let mut open: HashMap<u32, TypeRow> = rows.into_iter().map(|row| (row.oid, row)).collect();
    let oids: Vec<u32> = open.keys().copied().collect();
    let mut done = HashMap::new();
    for oid in oids {
        shape(oid, &mut open, &mut done);
    }
    done
}

fn shape(oid: u32, open: &mut HashMap<u32, TypeRow>, done: &mut HashMap<u32, Arc<Shape>>) -> Option<Arc<Shape>> {
    if let Some(shape) = done.get(&oid) {
        return Some(Arc::clone(shape));
    }
    // Taken out: no type is made of itself.
    let TypeRow { kind, of, labels, attributes, .. } = open.remove(&oid)?;
    let mut inner = || shape(of?, open, done);
    let made = match kind {
        'e' => Arc::new(Shape::Enum(oid, labels)),
        'd' => inner()?,
        'a' => Arc::new(Shape::Array(inner()?)),
        'r' | 'm' => Arc::new(Shape::Range(inner()?)),
        'c' => {
            let attribute = |AttributeRow { attnum, name, type_name, of }| {
                let shape = shape(of, open, done);
                Attribute { attnum, name, type_name, shape }
            };
            Arc::new(Shape::Row(oid, attributes.into_iter().map(attribute).collect()))
        }
        _ => return None,
    };
    done.insert(oid, Arc::clone(&made));
    Some(made)
}
