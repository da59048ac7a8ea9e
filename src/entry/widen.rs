//! Which changes of a column's type lose nothing, whatever the value. Pure.

/// Whether every value of one type (as `format_type` prints it) is the same value of the other.
pub fn widens(old: &str, new: &str) -> bool {
    if old == new {
        return true;
    }
    match (old.strip_suffix("[]"), new.strip_suffix("[]")) {
        (Some(old), Some(new)) => return widens(old, new),
        (None, None) => {}
        (Some(_), None) | (None, Some(_)) => return false,
    }
    let (old, new) = (Type::read(old), Type::read(new));
    let grows = || old.rest == new.rest && grows(old.first(), new.first());
    match (old.name, new.name) {
        ("smallint", "integer" | "bigint") | ("integer", "bigint") => true,
        ("smallint" | "integer" | "bigint", "numeric") => new.modifiers.is_empty(),
        ("character varying", "text") => true,
        ("text", "character varying") => new.modifiers.is_empty(),
        ("numeric", "numeric") => numeric(&old.modifiers, &new.modifiers),
        ("character varying", "character varying")
        | ("character", "character")
        | ("bit varying", "bit varying")
        | ("time" | "timestamp", "time" | "timestamp")
            if old.name == new.name =>
        {
            grows()
        }
        _ => false,
    }
}

/// Whether, besides, the canonical text of every value stays what it was: not that of `char(n)`, which is padded, nor that
/// of `numeric`, which shows its scale.
pub fn keeps_text(old: &str, new: &str) -> bool {
    let element = |name: &str| name.strip_suffix("[]").unwrap_or(name).to_owned();
    let (one, other) = (element(old), element(new));
    let (one, other) = (Type::read(&one), Type::read(&other));
    let scale = |of: &Type<'_>| of.modifiers.get(1).copied();
    let shown = match (one.name, other.name) {
        ("character", "character") => false,
        ("numeric", "numeric") => other.modifiers.is_empty() || scale(&one) == scale(&other),
        _ => true,
    };
    old == new || (shown && widens(old, new))
}

/// Whether operators and functions do the same over the values of both types: division is another one for `numeric`.
pub fn computes_alike(old: &str, new: &str) -> bool {
    let plain = ["integer", "bigint", "text", "character varying"].iter().any(|name| new.starts_with(name));
    old == new || (plain && widens(old, new))
}

/// More of a modifier; none is no limit.
fn grows(old: Option<i64>, new: Option<i64>) -> bool {
    match (old, new) {
        (_, None) => true,
        (None, Some(_)) => false,
        (Some(old), Some(new)) => old <= new,
    }
}

/// Neither digits before the point nor after it are lost.
fn numeric(old: &[i64], new: &[i64]) -> bool {
    match (old, new) {
        (_, []) => true,
        (&[precision, scale], &[new_precision, new_scale]) => {
            scale <= new_scale && precision - scale <= new_precision - new_scale
        }
        _ => false,
    }
}

/// `name(modifiers) rest`
struct Type<'a> {
    name: &'a str,
    modifiers: Vec<i64>,
    rest: &'a str,
}

impl<'a> Type<'a> {
    fn read(text: &'a str) -> Type<'a> {
        let (name, after) = text.split_once('(').unwrap_or_else(|| {
            // `timestamp without time zone`
            let zone = text.find(" with").unwrap_or(text.len());
            text.split_at(zone)
        });
        let (modifiers, rest) = after.split_once(')').unwrap_or(("", after));
        Type { name: name.trim_end(), modifiers: modifiers.split(',').filter_map(|n| n.parse().ok()).collect(), rest }
    }

    fn first(&self) -> Option<i64> {
        self.modifiers.first().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::{computes_alike, keeps_text, widens};

    #[test]
    fn a_key_is_found_by_its_text() {
        for (old, new) in [
            ("integer", "bigint"),
            ("bigint", "numeric"),
            ("character varying(3)", "text"),
            ("numeric(6,2)", "numeric(9,2)"),
            ("numeric(6,2)", "numeric"),
            ("character(3)", "character(3)"),
            ("timestamp(0) without time zone", "timestamp without time zone"),
        ] {
            assert!(keeps_text(old, new), "{old} -> {new}");
        }
        for (old, new) in [
            ("character(3)", "character(5)"),
            ("character(3)[]", "character(5)[]"),
            ("numeric(6,2)", "numeric(9,3)"),
            ("text", "integer"),
            ("bigint", "integer"),
        ] {
            assert!(!keeps_text(old, new), "{old} -> {new}");
        }
    }

    #[test]
    fn what_is_computed_stays_what_it_was() {
        for (old, new) in [("integer", "bigint"), ("character varying(3)", "text"), ("numeric", "numeric")] {
            assert!(computes_alike(old, new), "{old} -> {new}");
        }
        for (old, new) in [("integer", "numeric"), ("numeric(4,1)", "numeric"), ("bigint", "integer")] {
            assert!(!computes_alike(old, new), "{old} -> {new}");
        }
    }

    #[test]
    fn only_what_loses_nothing() {
        for (old, new) in [
            ("integer", "bigint"),
            ("smallint", "integer"),
            ("bigint", "numeric"),
            ("character varying(10)", "character varying(20)"),
            ("character varying(10)", "character varying"),
            ("character varying(10)", "text"),
            ("text", "character varying"),
            ("character(3)", "character(5)"),
            ("numeric(10,2)", "numeric(12,2)"),
            ("numeric(10,2)", "numeric(12,4)"),
            ("numeric(10,2)", "numeric"),
            ("bit varying(3)", "bit varying(5)"),
            ("timestamp(3) without time zone", "timestamp without time zone"),
            ("timestamp(3) with time zone", "timestamp(6) with time zone"),
            ("time(0) with time zone", "time(3) with time zone"),
            ("integer[]", "bigint[]"),
            ("public.mood", "public.mood"),
        ] {
            assert!(widens(old, new), "{old} -> {new}");
            assert!(old == new || old == "text" || !widens(new, old) || new == "text", "{new} -> {old}");
        }
        for (old, new) in [
            ("bigint", "integer"),
            ("integer", "smallint"),
            ("bigint", "double precision"),
            ("integer", "text"),
            ("text", "character varying(10)"),
            ("text", "integer"),
            ("character(3)", "text"),
            ("character varying(10)", "character(10)"),
            ("numeric", "numeric(10,2)"),
            ("numeric(10,2)", "numeric(10,4)"),
            ("integer", "numeric(5,2)"),
            ("real", "double precision"),
            ("timestamp without time zone", "timestamp(3) without time zone"),
            ("timestamp(3) without time zone", "timestamp with time zone"),
            ("timestamp without time zone", "timestamp with time zone"),
            ("bit(3)", "bit(5)"),
            ("json", "jsonb"),
            ("integer", "bigint[]"),
            ("public.mood", "public.feeling"),
        ] {
            assert!(!widens(old, new), "{old} -> {new}");
        }
    }
}
