//! Pending values as Postgres arrays in binary, one per column.
//!
//! Types whose text is read here exactly travel as themselves; all others travel as `text[]` and are cast by Postgres
//! where they are used. So do arrays and composites, because `unnest` flattens arrays of arrays.

use bytes::{BufMut, Bytes, BytesMut};

use super::{ExtraParameter, Report};
use crate::catalog::Column;
use crate::sqlstate::INTERNAL_ERROR;

/// What an array is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Element {
    Bool,
    Bytea,
    Int8,
    Int2,
    Int4,
    Oid,
    Float4,
    Float8,
    Uuid,
    Text,
}

impl Element {
    /// How a column's pending values travel.
    pub(super) fn of(column: &Column) -> Element {
        if column.is_array || column.is_composite {
            return Element::Text;
        }
        match column.base_type_oid {
            16 => Element::Bool,
            17 => Element::Bytea,
            20 => Element::Int8,
            21 => Element::Int2,
            23 => Element::Int4,
            26 => Element::Oid,
            700 => Element::Float4,
            701 => Element::Float8,
            2950 => Element::Uuid,
            _ => Element::Text,
        }
    }

    /// OIDs of the element type and of its array type.
    pub(super) fn oids(self) -> (u32, u32) {
        match self {
            Element::Bool => (16, 1000),
            Element::Bytea => (17, 1001),
            Element::Int8 => (20, 1016),
            Element::Int2 => (21, 1005),
            Element::Int4 => (23, 1007),
            Element::Oid => (26, 1028),
            Element::Float4 => (700, 1021),
            Element::Float8 => (701, 1022),
            Element::Uuid => (2950, 2951),
            Element::Text => (25, 1009),
        }
    }

    /// The array type's name in SQL.
    pub(super) fn array_name(self) -> &'static str {
        match self {
            Element::Bool => "pg_catalog.bool[]",
            Element::Bytea => "pg_catalog.bytea[]",
            Element::Int8 => "pg_catalog.int8[]",
            Element::Int2 => "pg_catalog.int2[]",
            Element::Int4 => "pg_catalog.int4[]",
            Element::Oid => "pg_catalog.oid[]",
            Element::Float4 => "pg_catalog.float4[]",
            Element::Float8 => "pg_catalog.float8[]",
            Element::Uuid => "pg_catalog.uuid[]",
            Element::Text => "pg_catalog.text[]",
        }
    }

    fn put(self, text: &str, out: &mut BytesMut) -> Option<()> {
        match self {
            Element::Bool => out.put_u8(u8::from(matches!(text, "t" | "true"))),
            Element::Bytea => put_hex(text.strip_prefix("\\x")?, out)?,
            Element::Int8 => out.put_i64(text.parse().ok()?),
            Element::Int2 => out.put_i16(text.parse().ok()?),
            Element::Int4 => out.put_i32(text.parse().ok()?),
            Element::Oid => out.put_u32(text.parse().ok()?),
            Element::Float4 => out.put_f32(text.parse().ok()?),
            Element::Float8 => out.put_f64(text.parse().ok()?),
            Element::Uuid => out.put_slice(uuid::Uuid::try_parse(text).ok()?.as_bytes()),
            Element::Text => out.put_slice(text.as_bytes()),
        }
        Some(())
    }
}

fn put_hex(digits: &str, out: &mut BytesMut) -> Option<()> {
    let digits = digits.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    let digit = |byte: u8| (byte as char).to_digit(16).map(|digit| digit as u8);
    for pair in digits.chunks_exact(2) {
        out.put_u8(digit(pair[0])? << 4 | digit(pair[1])?);
    }
    Some(())
}

/// An array of one dimension, before its elements; whether one of them is NULL is not said yet.
fn begun(element_oid: u32, count: usize) -> BytesMut {
    let mut out = BytesMut::with_capacity(20 + count * 12);
    out.put_i32(i32::from(count > 0));
    out.put_i32(0);
    out.put_u32(element_oid);
    if count > 0 {
        out.put_i32(count as i32);
        out.put_i32(1);
    }
    out
}

/// An array parameter in binary (`array_recv`).
///
/// # Errors
/// XX000 when a value is not the canonical text of its type: a corrupt buffer.
pub(super) fn parameter<'a>(
    element: Element,
    values: impl ExactSizeIterator<Item = Option<&'a str>>,
) -> Result<ExtraParameter, Report> {
    let (element_oid, type_oid) = element.oids();
    let count = values.len();
    let mut out = begun(element_oid, count);
    let mut has_null = false;
    for value in values {
        let start = out.len();
        out.put_i32(-1);
        let Some(value) = value else {
            has_null = true;
            continue;
        };
        element.put(value, &mut out).ok_or_else(|| {
            Report::new(INTERNAL_ERROR, format!("pending value {value:?} is not of type {}", element.array_name()))
        })?;
        let length = (out.len() - start - 4) as i32;
        out[start..start + 4].copy_from_slice(&length.to_be_bytes());
    }
    if has_null {
        out[4..8].copy_from_slice(&1i32.to_be_bytes());
    }
    Ok(ExtraParameter { type_oid, value: out.freeze() })
}

/// The same array as a literal, for statements that take no parameters (COPY).
pub(super) fn inline<'a>(element: Element, values: impl Iterator<Item = Option<&'a str>>) -> String {
    format!("{}::{}", super::syntax::literal(&text(values)), element.array_name())
}

/// The same array as text.
pub(super) fn text<'a>(values: impl Iterator<Item = Option<&'a str>>) -> String {
    let mut array = String::from("{");
    for value in values {
        if array.len() > 1 {
            array.push(',');
        }
        match value {
            None => array.push_str("NULL"),
            Some(value) => {
                array.push('"');
                array.push_str(&value.replace('\\', "\\\\").replace('"', "\\\""));
                array.push('"');
            }
        }
    }
    array.push('}');
    array
}

/// Reads a one-dimensional array of the given element types from its binary form, each element as its bytes.
pub(super) fn elements(value: &[u8], element_oids: &[u32]) -> Option<Vec<Option<Bytes>>> {
    let word =
        |place: usize| -> Option<i32> { Some(i32::from_be_bytes(value.get(place..place + 4)?.try_into().ok()?)) };
    if word(0)? == 0 {
        return Some(Vec::new());
    }
    if word(0)? != 1 || !element_oids.contains(&(word(8)? as u32)) {
        return None;
    }
    let count = usize::try_from(word(12)?).ok()?;
    let mut place = 20;
    let mut found = Vec::new();
    for _ in 0..count {
        let length = word(place)?;
        place += 4;
        if length < 0 {
            found.push(None);
            continue;
        }
        let end = place.checked_add(length as usize)?;
        found.push(Some(Bytes::copy_from_slice(value.get(place..end)?)));
        place = end;
    }
    Some(found)
}

/// An array of elements that are in their binary form already.
pub(super) fn of_elements(element_oid: u32, values: impl ExactSizeIterator<Item = Option<Bytes>>) -> Bytes {
    let count = values.len();
    let mut out = begun(element_oid, count);
    let mut has_null = false;
    for value in values {
        match value {
            Some(value) => {
                out.put_i32(value.len() as i32);
                out.put_slice(&value);
            }
            None => {
                has_null = true;
                out.put_i32(-1);
            }
        }
    }
    if has_null {
        out[4..8].copy_from_slice(&1i32.to_be_bytes());
    }
    out.freeze()
}
