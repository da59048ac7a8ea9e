//! Sizes as people write them: `"1GiB"`, `"512MiB"`. For `#[serde(with = "crate::config::size")]`.
//!
//! A bare number is refused, as for durations.

use std::fmt;

use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserializer, Serializer};

/// Binary units first: they are what [`format()`] prints.
const UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

/// A whole number and a unit, in bytes.
pub fn parse(text: &str) -> Option<u64> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let unit = unit.trim_start();
    let (_, factor) = UNITS.into_iter().find(|(name, _)| name.eq_ignore_ascii_case(unit))?;
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// The size in the largest binary unit that holds it exactly.
pub fn format(bytes: u64) -> String {
    let exact = UNITS[..4].iter().find(|(_, factor)| bytes > 0 && bytes.is_multiple_of(*factor));
    exact.map_or_else(|| format!("{bytes}B"), |(name, factor)| format!("{}{name}", bytes / factor))
}

/// Writes what [`parse`] reads.
pub fn serialize<S: Serializer>(bytes: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format(*bytes))
}

/// Reads a string such as `"1GiB"`.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    deserializer.deserialize_str(Text)
}

struct Text;

impl Visitor<'_> for Text {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(r#"a size with its unit (B, KiB, MiB, GiB, TiB), such as "1GiB""#)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<u64, E> {
        parse(text.trim()).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
    }
}
