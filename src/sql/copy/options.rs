//! The options of COPY … FROM, judged in Postgres' order and words
//! (<https://www.postgresql.org/docs/15/sql-copy.html>).

use squawk_syntax::unescape::decode_esc_string;
use squawk_syntax::{SyntaxKind as K, SyntaxNode, SyntaxToken, decoded_text::DecodedText};

use super::super::Report;
use super::super::syntax::{child, name_of_text, plain_string, range};
use crate::catalog::{Column, Table};
use crate::sqlstate::{FEATURE_NOT_SUPPORTED, INVALID_PARAMETER_VALUE, SYNTAX_ERROR, SqlState};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Text,
    Csv,
    Binary,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    No,
    Skip,
    /// Its names must be those of the columns.
    Match,
}

/// How the stream is to be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    pub format: Format,
    pub delimiter: u8,
    pub null: Vec<u8>,
    pub header: Header,
    pub quote: u8,
    pub escape: u8,
    /// For each column, in the order of the fields.
    pub force_null: Vec<bool>,
    pub force_not_null: Vec<bool>,
    /// FREEZE: of no consequence here, but only the transaction that has truncated the table may say it.
    pub freeze: bool,
}

/// Why options do not do.
pub(super) enum Wrong {
    /// Postgres refuses them.
    Option(Report),
    /// They cannot be followed at the site.
    NotHere(Report),
}

impl From<Report> for Wrong {
    fn from(report: Report) -> Wrong {
        Wrong::Option(report)
    }
}

/// An option as written.
struct Written {
    name: String,
    value: Value,
    /// 1-based, in characters.
    position: usize,
}

enum Value {
    None,
    Text(String),
    Names(Vec<String>),
}

impl Written {
    fn text(&self) -> Result<&str, Report> {
        match &self.value {
            Value::Text(text) => Ok(text),
            Value::None => Err(syntax(format!("{} requires a parameter", self.name))),
            Value::Names(_) => Err(syntax(format!("{} requires a parameter", self.name))),
        }
    }
}

fn syntax(message: impl Into<String>) -> Report {
    Report::new(SYNTAX_ERROR, message)
}

fn invalid(message: impl Into<String>) -> Report {
    Report::new(INVALID_PARAMETER_VALUE, message)
}

fn unsupported(message: impl Into<String>) -> Report {
    Report::new(FEATURE_NOT_SUPPORTED, message)
}

fn at(mut report: Report, option: &Written) -> Report {
    report.position = Some(option.position);
    report
}

pub(super) fn read(copy: &SyntaxNode, table: &Table, columns: &[Column]) -> Result<Options, Wrong> {
    let written = written(copy);
    for (place, option) in written.iter().enumerate() {
        if written[..place].iter().any(|earlier| earlier.name == option.name) {
            return Err(at(syntax("conflicting or redundant options"), option).into());
        }
    }
    let mut format = Format::Text;
    let mut header = Header::No;
    let mut freeze = false;
    for option in &written {
        match option.name.as_str() {
            "format" => {
                format = match option.text()? {
                    "text" => Format::Text,
                    "csv" => Format::Csv,
                    "binary" => Format::Binary,
                    other => {
                        return Err(at(invalid(format!("COPY format \"{other}\" not recognized")), option).into());
                    }
                }
            }
            "header" => header = header_of(option)?,
            "freeze" => freeze = truth(option).unwrap_or(false),
            "encoding" => {
                let name: String = option.text()?.chars().filter(char::is_ascii_alphanumeric).collect();
                if !matches!(name.to_ascii_lowercase().as_str(), "utf8" | "unicode") {
                    let message = format!("COPY with encoding {} cannot be buffered", option.text()?);
                    return Err(Wrong::NotHere(unsupported(message).hint("Send the data in UTF-8.")));
                }
            }
            "delimiter" | "null" | "quote" | "escape" | "force_null" | "force_not_null" | "force_quote" => {}
            other => return Err(at(syntax(format!("option \"{other}\" not recognized")), option).into()),
        }
    }
    let find = |name: &str| written.iter().find(|option| option.name == name);
    let text = |name: &str| find(name).map(Written::text).transpose();
    let (delimiter, null) = (text("delimiter")?, text("null")?);
    let (quote, escape) = (text("quote")?, text("escape")?);
    let csv = format == Format::Csv;
    if format == Format::Binary {
        if delimiter.is_some() {
            return Err(syntax("cannot specify DELIMITER in BINARY mode").into());
        }
        if null.is_some() {
            return Err(syntax("cannot specify NULL in BINARY mode").into());
        }
    }
    let delimiter = delimiter.unwrap_or(if csv { "," } else { "\t" });
    let null = null.unwrap_or(if csv { "" } else { "\\N" });
    if delimiter.len() != 1 {
        return Err(unsupported("COPY delimiter must be a single one-byte character").into());
    }
    if delimiter.contains(['\r', '\n']) {
        return Err(invalid("COPY delimiter cannot be newline or carriage return").into());
    }
    if null.contains(['\r', '\n']) {
        return Err(invalid("COPY null representation cannot use newline or carriage return").into());
    }
    if !csv && "\\.abcdefghijklmnopqrstuvwxyz0123456789".contains(delimiter) {
        return Err(invalid(format!("COPY delimiter cannot be \"{delimiter}\"")).into());
    }
    if format == Format::Binary && header != Header::No {
        return Err(unsupported("cannot specify HEADER in BINARY mode").into());
    }
    let only_csv = |name: &str| unsupported(format!("COPY {name} available only in CSV mode"));
    let one_byte = |name: &str| unsupported(format!("COPY {name} must be a single one-byte character"));
    if !csv && quote.is_some() {
        return Err(only_csv("quote").into());
    }
    let quote = quote.unwrap_or("\"");
    if csv && quote.len() != 1 {
        return Err(one_byte("quote").into());
    }
    if csv && delimiter == quote {
        return Err(invalid("COPY delimiter and quote must be different").into());
    }
    if !csv && escape.is_some() {
        return Err(only_csv("escape").into());
    }
    let escape = escape.unwrap_or(quote);
    if csv && escape.len() != 1 {
        return Err(one_byte("escape").into());
    }
    if find("force_quote").is_some() {
        return Err(match csv {
            false => only_csv("force quote"),
            true => unsupported("COPY force quote only available using COPY TO"),
        }
        .into());
    }
    for (name, words) in [("force_not_null", "force not null"), ("force_null", "force null")] {
        if !csv && find(name).is_some() {
            return Err(only_csv(words).into());
        }
    }
    if null.contains(delimiter) {
        return Err(unsupported("COPY delimiter must not appear in the NULL specification").into());
    }
    if csv && null.contains(quote) {
        return Err(unsupported("CSV quote character must not appear in the NULL specification").into());
    }
    Ok(Options {
        format,
        delimiter: delimiter.as_bytes()[0],
        null: null.as_bytes().to_vec(),
        header,
        quote: quote.as_bytes()[0],
        escape: escape.as_bytes().first().copied().unwrap_or(b'"'),
        force_not_null: forced(find("force_not_null"), table, columns)?,
        force_null: forced(find("force_null"), table, columns)?,
        freeze,
    })
}

/// The columns that FORCE_NULL and FORCE_NOT_NULL name.
fn forced(option: Option<&Written>, table: &Table, columns: &[Column]) -> Result<Vec<bool>, Report> {
    let mut flags = vec![false; columns.len()];
    let Some(option) = option else { return Ok(flags) };
    let Value::Names(names) = &option.value else {
        return Err(at(
            invalid(format!("argument to option \"{}\" must be a list of column names", option.name)),
            option,
        ));
    };
    for (place, name) in names.iter().enumerate() {
        let Some(column) = table.column(name) else {
            let message = format!("column \"{name}\" of relation \"{}\" does not exist", table.name.name);
            return Err(Report::new(SqlState(*b"42703"), message));
        };
        if names[..place].contains(name) {
            return Err(Report::new(SqlState(*b"42701"), format!("column \"{name}\" specified more than once")));
        }
        match columns.iter().position(|given| given.attnum == column.attnum) {
            Some(given) => flags[given] = true,
            None => {
                let option = option.name.to_ascii_uppercase();
                let message = format!("{option} column \"{name}\" not referenced by COPY");
                return Err(Report::new(SqlState(*b"42P10"), message));
            }
        }
    }
    Ok(flags)
}

fn truth(option: &Written) -> Option<bool> {
    match &option.value {
        Value::None => Some(true),
        Value::Text(text) => match text.to_ascii_lowercase().as_str() {
            "true" | "on" | "1" => Some(true),
            "false" | "off" | "0" => Some(false),
            _ => None,
        },
        Value::Names(_) => None,
    }
}

fn header_of(option: &Written) -> Result<Header, Report> {
    match truth(option) {
        Some(true) => Ok(Header::Skip),
        Some(false) => Ok(Header::No),
        None if matches!(&option.value, Value::Text(text) if text.eq_ignore_ascii_case("match")) => Ok(Header::Match),
        None => Err(syntax("header requires a Boolean value or \"match\"")),
    }
}

/// The options in the order of the text, in the names of the newer syntax.
fn written(copy: &SyntaxNode) -> Vec<Written> {
    let start = range(copy).start;
    let whole = copy.text().to_string();
    let position = |node: &SyntaxNode| whole[..range(node).start - start].chars().count() + 1;
    let mut options = Vec::new();
    if let Some(table) = child(copy, K::COPY_TABLE)
        && tokens(&table).first().is_some_and(|token| token.kind() == K::BINARY_KW)
    {
        options.push(Written { name: "format".into(), value: Value::Text("binary".into()), position: 1 });
    }
    for node in copy.descendants() {
        match node.kind() {
            K::COPY_OPTION => options.push(newer(&node, position(&node))),
            K::COPY_LEGACY_OPTION => options.push(older(&node, position(&node))),
            _ => {}
        }
    }
    options
}

fn tokens(node: &SyntaxNode) -> Vec<SyntaxToken> {
    let all = node.descendants_with_tokens().filter_map(rowan::NodeOrToken::into_token);
    all.filter(|token| !token.kind().is_trivia()).collect()
}

fn newer(node: &SyntaxNode, position: usize) -> Written {
    let all = tokens(node);
    let name = all.first().and_then(|token| name_of_text(token.text())).unwrap_or_default();
    let value = match &all[1.min(all.len())..] {
        [] => Value::None,
        [only] => Value::Text(meaning(only)),
        [sign, number] if matches!(sign.kind(), K::MINUS | K::PLUS) => {
            Value::Text(format!("{}{}", sign.text(), number.text()))
        }
        several => Value::Names(names(several)),
    };
    Written { name, value, position }
}

fn older(node: &SyntaxNode, position: usize) -> Written {
    let all = tokens(node);
    let word = all.first().map_or(String::new(), |token| token.text().to_ascii_lowercase());
    let text = |text: &str| Value::Text(text.to_owned());
    let (name, value) = match word.as_str() {
        "binary" | "csv" => ("format".to_owned(), text(&word)),
        "header" | "freeze" => (word, text("true")),
        "force" => {
            let kind = if all.iter().any(|token| token.kind() == K::QUOTE_KW) {
                "force_quote"
            } else if all.iter().any(|token| token.kind() == K::NOT_KW) {
                "force_not_null"
            } else {
                "force_null"
            };
            let skip = if kind == "force_not_null" { 3 } else { 2 };
            (kind.to_owned(), Value::Names(names(&all[skip.min(all.len())..])))
        }
        _ => (word, all.last().map_or(Value::None, |token| Value::Text(meaning(token)))),
    };
    Written { name, value, position }
}

fn names(tokens: &[SyntaxToken]) -> Vec<String> {
    let names = tokens.iter().filter(|token| !matches!(token.kind(), K::L_PAREN | K::R_PAREN | K::COMMA));
    names.map(meaning).collect()
}

/// What a word or a string literal means.
fn meaning(token: &SyntaxToken) -> String {
    let text = token.text();
    if let Some(escaped) = text.strip_prefix(['e', 'E']).and_then(|rest| rest.strip_prefix('\''))
        && let Some(inner) = escaped.strip_suffix('\'')
    {
        let mut out = DecodedText::new(0.into());
        decode_esc_string(inner, 0.into(), &mut out);
        return out.into_text();
    }
    if let Some(inner) = text.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\'')) {
        // Backslashes are themselves in a plain literal.
        return plain_string(text).unwrap_or_else(|| inner.replace("''", "'"));
    }
    name_of_text(text).unwrap_or_else(|| text.to_owned())
}
