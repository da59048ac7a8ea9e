//! A line's fields, as `CopyReadAttributesText` and `CopyReadAttributesCSV` would find them.

use super::options::Options;

/// A field: its bytes, or the null string.
pub(super) type Field = Option<Vec<u8>>;

pub(super) fn of_text(line: &[u8], options: &Options) -> Vec<Field> {
    let mut fields = Vec::new();
    let mut rest = line;
    loop {
        let mut place = 0;
        while place < rest.len() && rest[place] != options.delimiter {
            place += if rest[place] == b'\\' { 2 } else { 1 };
        }
        let end = place.min(rest.len());
        let raw = &rest[..end];
        fields.push((raw != options.null.as_slice()).then(|| unescaped(raw)));
        if end >= rest.len() {
            return fields;
        }
        rest = &rest[end + 1..];
    }
}

fn unescaped(raw: &[u8]) -> Vec<u8> {
    if !raw.contains(&b'\\') {
        return raw.to_vec();
    }
    let mut out = Vec::with_capacity(raw.len());
    let mut place = 0;
    while let Some(&byte) = raw.get(place) {
        place += 1;
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        // A backslash at the very end is dropped.
        let Some(&next) = raw.get(place) else { break };
        place += 1;
        let digits = |radix: u32, most: usize, from: usize| -> (u32, usize) {
            let found = raw[from..].iter().take(most).map_while(|&byte| (byte as char).to_digit(radix));
            found.fold((0, 0), |(value, count), digit| (value * radix + digit, count + 1))
        };
        match next {
            b'0'..=b'7' => {
                let (value, count) = digits(8, 3, place - 1);
                out.push((value & 0o377) as u8);
                place += count - 1;
            }
            b'x' => match digits(16, 2, place) {
                (_, 0) => out.push(b'x'),
                (value, count) => {
                    out.push(value as u8);
                    place += count;
                }
            },
            b'b' => out.push(8),
            b'f' => out.push(12),
            b'n' => out.push(b'\n'),
            b'r' => out.push(b'\r'),
            b't' => out.push(b'\t'),
            b'v' => out.push(11),
            other => out.push(other),
        }
    }
    out
}

/// `None`: a quoted field does not end.
pub(super) fn of_csv(line: &[u8], options: &Options) -> Option<Vec<Field>> {
    let mut fields = Vec::new();
    let mut place = 0;
    loop {
        let start = place;
        let (mut out, mut quoted, mut delimited) = (Vec::new(), false, false);
        let end = loop {
            let Some(&byte) = line.get(place) else { break place };
            place += 1;
            if byte == options.delimiter {
                delimited = true;
                break place - 1;
            }
            if byte != options.quote {
                out.push(byte);
                continue;
            }
            quoted = true;
            loop {
                let byte = *line.get(place)?;
                place += 1;
                let next = line.get(place).copied();
                if byte == options.escape
                    && let Some(next) = next.filter(|&next| next == options.escape || next == options.quote)
                {
                    out.push(next);
                    place += 1;
                } else if byte == options.quote {
                    break;
                } else {
                    out.push(byte);
                }
            }
        };
        let is_null = !quoted && &line[start..end] == options.null.as_slice();
        fields.push((!is_null).then_some(out));
        if !delimited {
            return Some(fields);
        }
    }
}
