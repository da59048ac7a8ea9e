//! Composite values and arrays as Postgres prints them, taken apart and put together again
//! (<https://www.postgresql.org/docs/15/rowtypes.html#ROWTYPES-IO-SYNTAX>, <https://www.postgresql.org/docs/15/arrays.html#ARRAYS-IO>).

/// What `isspace` says in the C locale, by which Postgres quotes.
fn is_space(character: char) -> bool {
    matches!(character, ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c')
}

/// The fields of a composite value; `None`: it is none.
pub(super) fn fields(text: &str) -> Option<Vec<Option<String>>> {
    let inner = text.strip_prefix('(')?.strip_suffix(')')?;
    let mut fields = vec![None];
    let mut quoted = false;
    let mut characters = inner.chars().peekable();
    while let Some(character) = characters.next() {
        let field = fields.last_mut()?;
        match character {
            ',' if !quoted => {
                fields.push(None);
                continue;
            }
            '(' | ')' if !quoted => return None,
            '"' if quoted && characters.peek() == Some(&'"') => {
                characters.next();
                field.get_or_insert_with(String::new).push('"');
            }
            '"' => {
                quoted = !quoted;
                field.get_or_insert_with(String::new);
            }
            '\\' => field.get_or_insert_with(String::new).push(characters.next()?),
            other => field.get_or_insert_with(String::new).push(other),
        }
    }
    (!quoted).then_some(fields)
}

/// A composite value, as `record_out` writes it.
pub(super) fn record(fields: &[Option<String>]) -> String {
    let field = |field: &Option<String>| {
        let Some(text) = field else { return String::new() };
        let plain = |c: char| !is_space(c) && !matches!(c, '"' | '\\' | '(' | ')' | ',');
        if !text.is_empty() && text.chars().all(plain) {
            return text.clone();
        }
        format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\"\""))
    };
    format!("({})", fields.iter().map(field).collect::<Vec<_>>().join(","))
}

/// The array with each of its elements put through this; NULL stays NULL. `None`: it is no array.
pub(super) fn each_element(
    text: &str,
    mut each: impl FnMut(&str) -> Result<String, String>,
) -> Result<Option<String>, String> {
    // Bounds that are not the usual ones: `[2:3]={…}`.
    let start = if text.starts_with('[') { text.find('=').map_or(0, |at| at + 1) } else { 0 };
    let (bounds, body) = text.split_at(start);
    let mut out = bounds.to_owned();
    let mut characters = body.chars().peekable();
    let mut depth = 0_usize;
    while let Some(character) = characters.next() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => return Ok(None),
            '}' => depth -= 1,
            ',' => {}
            '"' => {
                let mut element = String::new();
                loop {
                    match characters.next() {
                        Some('"') => break,
                        Some('\\') => element.extend(characters.next()),
                        Some(other) => element.push(other),
                        None => return Ok(None),
                    }
                }
                out.push_str(&quoted(&each(&element)?));
                continue;
            }
            first => {
                let mut element = first.to_string();
                while let Some(more) = characters.next_if(|c| !matches!(c, ',' | '{' | '}' | '"' | '\\')) {
                    element.push(more);
                }
                let is_null = element.eq_ignore_ascii_case("null");
                out.push_str(&if is_null { element } else { quoted(&each(&element)?) });
                continue;
            }
        }
        out.push(character);
    }
    Ok((depth == 0 && body.starts_with('{')).then_some(out))
}

/// An element, as `array_out` writes it.
fn quoted(element: &str) -> String {
    let plain = |c: char| !is_space(c) && !matches!(c, '"' | '\\' | '{' | '}' | ',');
    if !element.is_empty() && !element.eq_ignore_ascii_case("null") && element.chars().all(plain) {
        return element.to_owned();
    }
    format!("\"{}\"", element.replace('\\', "\\\\").replace('"', "\\\""))
}
