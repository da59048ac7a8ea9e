//! Constants of a statement as parameters of the extended protocol: those with a cast, and those in VALUES. Integers,
//! texts and truth values with a cast are sent in binary with their type, all others as text whose type Postgres finds.

use super::client::{message, zero_terminated};

/// A statement with its parameters.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Lifted {
    pub sql: String,
    values: Vec<Value>,
    binary_results: bool,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Value {
    /// 0 when it is Postgres' to find.
    oid: u32,
    /// None is NULL.
    bytes: Option<Vec<u8>>,
    binary: bool,
}

impl Lifted {
    pub fn nothing(sql: &str) -> Lifted {
        Lifted { sql: sql.to_owned(), ..Lifted::default() }
    }

    pub fn of(sql: &str) -> Lifted {
        let takes = ["SELECT", "INSERT", "UPDATE", "DELETE", "WITH", "MERGE"];
        // Whatever decides about the results, it must be the same for the same text.
        let mut lifted = Lifted { binary_results: sql.len().is_multiple_of(2), ..Lifted::default() };
        if !takes.iter().any(|word| sql.starts_with(word)) {
            return Lifted { sql: sql.to_owned(), ..lifted };
        }
        let mut rest = sql;
        // Within the rows of VALUES, and how deep.
        let mut rows: Option<u32> = None;
        while let Some(first) = rest.chars().next() {
            let before = lifted.sql.trim_end().chars().next_back();
            let word = lifted.sql.chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '.');
            if (first == '\'' || first.is_ascii_digit()) && !word {
                let (constant, tail) = rest.split_at(constant(rest));
                let list = rows == Some(1) && matches!(before, Some('(' | ',')) && tail.starts_with([',', ')']);
                let cast = tail.strip_prefix("::").map(type_name);
                match cast {
                    Some(cast) => lifted.push(constant, cast),
                    None if list => lifted.push(constant, ""),
                    None => lifted.sql.push_str(constant),
                }
                rest = tail;
                continue;
            }
            if first == '"' {
                let end = rest[1..].find('"').map_or(rest.len(), |end| end + 2);
                lifted.sql.push_str(&rest[..end]);
                rest = &rest[end..];
                continue;
            }
            match (first, rows) {
                ('V', _) if rest.starts_with("VALUES (") => rows = Some(0),
                ('(', Some(depth)) => rows = Some(depth + 1),
                (')', Some(1)) => rows = rest.starts_with("), (").then_some(0),
                (')', Some(depth)) => rows = depth.checked_sub(1),
                _ => {}
            }
            lifted.sql.push(first);
            rest = &rest[first.len_utf8()..];
        }
        lifted
    }

    fn push(&mut self, constant: &str, cast: &str) {
        let text = match constant.strip_prefix('\'') {
            Some(quoted) => quoted.strip_suffix('\'').unwrap_or_default().replace("''", "'"),
            None => constant.to_owned(),
        };
        let quoted = constant.starts_with('\'');
        let binary = |oid, bytes: Vec<u8>| Value { oid, bytes: Some(bytes), binary: true };
        let value = match cast {
            "smallint" => text.parse::<i16>().ok().map(|n| binary(21, n.to_be_bytes().to_vec())),
            "int" => text.parse::<i32>().ok().map(|n| binary(23, n.to_be_bytes().to_vec())),
            "bigint" => text.parse::<i64>().ok().map(|n| binary(20, n.to_be_bytes().to_vec())),
            "text" if quoted => Some(binary(25, text.clone().into_bytes())),
            _ => None,
        };
        let value = value.unwrap_or_else(|| Value { oid: 0, bytes: Some(text.into_bytes()), binary: false });
        self.values.push(value);
        self.sql.push_str(&format!("${}", self.values.len()));
    }

    /// Parse (unless the server has it), Bind, Describe, Execute.
    pub fn messages(&self, name: &str, parse: bool) -> Vec<u8> {
        let mut bytes = Vec::new();
        let count = (self.values.len() as u16).to_be_bytes();
        if parse {
            let mut body = [zero_terminated(name), zero_terminated(&self.sql), count.to_vec()].concat();
            self.values.iter().for_each(|value| body.extend(value.oid.to_be_bytes()));
            bytes.extend(message(b'P', &body));
        }
        let mut body = [b"\0".to_vec(), zero_terminated(name), count.to_vec()].concat();
        self.values.iter().for_each(|value| body.extend(u16::from(value.binary).to_be_bytes()));
        body.extend(count);
        for value in &self.values {
            let length = value.bytes.as_ref().map_or(-1, |bytes| bytes.len() as i32);
            body.extend(length.to_be_bytes());
            body.extend(value.bytes.iter().flatten());
        }
        body.extend(1u16.to_be_bytes());
        body.extend(u16::from(self.binary_results).to_be_bytes());
        bytes.extend(message(b'B', &body));
        bytes.extend(message(b'D', b"P\0"));
        bytes.extend(message(b'E', b"\0\0\0\0\0"));
        bytes
    }
}

/// How long the constant at the beginning is.
fn constant(text: &str) -> usize {
    if !text.starts_with('\'') {
        return text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    }
    let bytes = text.as_bytes();
    let mut end = 1;
    while end < bytes.len() {
        match (bytes[end], bytes.get(end + 1)) {
            (b'\'', Some(b'\'')) => end += 2,
            (b'\'', _) => return end + 1,
            _ => end += 1,
        }
    }
    end
}

fn type_name(text: &str) -> &str {
    // `int` is not `int4range` or `int[]`.
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '[' && c != ']').unwrap_or(text.len());
    &text[..end]
}

#[test]
fn constants_become_parameters() {
    let sql =
        "INSERT INTO \"f 1\" (id, t0) VALUES (1, 'it''s', DEFAULT), (2, f(3), 'a'::mood) RETURNING 4, 5::int + t1.id";
    let lifted = Lifted::of(sql);
    let expected =
        "INSERT INTO \"f 1\" (id, t0) VALUES ($1, $2, DEFAULT), ($3, f(3), $4::mood) RETURNING 4, $5::int + t1.id";
    assert_eq!(lifted.sql, expected);
    assert_eq!(lifted.values[1].bytes.as_deref(), Some(b"it's".as_slice()));
    assert!(lifted.values[4].binary);
    assert_eq!(Lifted::of("FETCH 1 FROM c").sql, "FETCH 1 FROM c");
}
