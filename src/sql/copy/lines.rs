//! The stream of a COPY, split into rows. It is fed pieces of any size, and keeps no more than the row at its head.
//!
//! Lines end, quotes nest and errors are worded as in Postgres' `CopyReadLineText`.

use bytes::{Buf, Bytes, BytesMut};

use super::super::Report;
use super::binary;
use super::fields;
use super::options::{Format, Header, Options};
use crate::sqlstate::{BAD_COPY_FILE_FORMAT, CHARACTER_NOT_IN_REPERTOIRE, PROGRAM_LIMIT_EXCEEDED};

/// Postgres inserts so many rows at once, and checks their unique values then; so do we, for the same error comes first.
pub(super) const ROWS_MAX: usize = 1000;
/// … or rows of so many bytes.
pub const BATCH_BYTES: usize = 65_535;
/// A longer row is refused. Bytes.
const ROW_MAX: usize = 128 << 20;
/// How much of a line an error shows. Bytes.
const SHOWN_MAX: usize = 100;

/// One row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// From 1, as Postgres counts.
    pub line: u64,
    /// As it came; empty for binary.
    pub raw: Bytes,
    pub fields: Vec<Option<Bytes>>,
}

impl Row {
    /// Bytes that it takes, roughly.
    pub fn size(&self) -> usize {
        self.raw.len().max(self.fields.iter().flatten().map(Bytes::len).sum())
    }
}

/// A row that cannot be read. Rows before it count; so do its own first fields, which Postgres has read before it found
/// the others missing.
#[derive(Debug)]
pub struct Broken {
    pub row: Option<Row>,
    pub report: Report,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LineEnd {
    Unknown,
    Newline,
    Return,
    Both,
}

/// Where the look at an unfinished line stopped.
#[derive(Debug, Default, Clone, Copy)]
struct Scan {
    place: usize,
    quoted: bool,
    escaped: bool,
}

/// Splits the stream.
#[derive(Debug)]
pub struct Reader {
    table: String,
    names: Vec<String>,
    options: Options,
    input: BytesMut,
    scan: Scan,
    line_end: LineEnd,
    line: u64,
    /// The end of the stream, or its marker, has come.
    over: bool,
    /// The line with names is still to come.
    header: bool,
    /// The header of a binary file has been read.
    begun: bool,
    ended: bool,
}

/// What looking for a line found.
enum Found {
    /// `length` bytes, followed by `end` bytes of line end.
    Line {
        length: usize,
        end: usize,
    },
    /// The marker `\.` after `length` bytes.
    Marker {
        length: usize,
    },
    More,
}

impl Reader {
    pub fn new(plan: &super::CopyPlan, options: &Options) -> Reader {
        let names = plan.columns.iter().map(|column| column.name.to_string()).collect();
        Reader::of(plan.target.name.name.to_string(), names, options.clone())
    }

    fn of(table: String, names: Vec<String>, options: Options) -> Reader {
        let header = options.header != Header::No;
        Reader {
            table,
            names,
            options,
            input: BytesMut::new(),
            scan: Scan::default(),
            line_end: LineEnd::Unknown,
            line: 0,
            over: false,
            header,
            begun: false,
            ended: false,
        }
    }

    /// The next piece of the stream.
    pub fn push(&mut self, piece: &[u8]) {
        if !self.over {
            self.input.extend_from_slice(piece);
        }
    }

    /// The stream has ended.
    pub fn end(&mut self) {
        self.ended = true;
    }

    /// What an error's context says before anything of a line: `COPY t, line 3`.
    pub fn context(&self, line: u64) -> String {
        format!("COPY {}, line {line}", self.table)
    }

    /// Where the stream stands.
    pub fn here(&self) -> String {
        self.context(self.line.max(1))
    }

    /// The context of an error in this row; `field`: in this one.
    pub fn context_of(&self, row: &Row, field: Option<usize>) -> String {
        let context = self.context(row.line);
        let binary = self.options.format == Format::Binary;
        match field {
            Some(place) => {
                let name = self.names.get(place).map_or("", String::as_str);
                match row.fields.get(place).cloned().flatten() {
                    _ if binary => format!("{context}, column {name}"),
                    Some(value) => format!("{context}, column {name}: \"{}\"", shown(&value)),
                    None => format!("{context}, column {name}: null input"),
                }
            }
            None if binary => context,
            None => format!("{context}: \"{}\"", shown(&row.raw)),
        }
    }

    /// The next row; `None`: more of the stream is needed, or it is over.
    ///
    /// # Errors
    /// 22P04 and 22021 as Postgres words them.
    pub fn next_row(&mut self) -> Result<Option<Row>, Box<Broken>> {
        if self.over {
            return Ok(None);
        }
        if self.options.format == Format::Binary {
            let row = self.binary_row()?;
            // What it says of the lengths to come is not believed.
            return if row.is_none() && self.input.len() > ROW_MAX { Err(self.too_long()) } else { Ok(row) };
        }
        if self.input.len() > ROW_MAX {
            return Err(self.too_long());
        }
        loop {
            let Some(raw) = self.take_line()? else { return Ok(None) };
            let row = Row { line: self.line, raw, fields: Vec::new() };
            let fields = match self.options.format {
                Format::Csv => fields::of_csv(&row.raw, &self.options),
                Format::Text | Format::Binary => Some(fields::of_text(&row.raw, &self.options)),
            };
            let Some(fields) = fields else {
                return Err(self.broken(Some(&row), bad("unterminated CSV quoted field")));
            };
            if std::mem::take(&mut self.header) {
                if self.options.header == Header::Match {
                    self.check_header(&row, &fields)?;
                }
                continue;
            }
            return self.row(row, fields).map(Some);
        }
    }

    fn too_long(&self) -> Box<Broken> {
        let message = format!("a row of COPY may not be longer than {} MiB", ROW_MAX >> 20);
        self.broken(None, Report::new(PROGRAM_LIMIT_EXCEEDED, message))
    }

    fn binary_row(&mut self) -> Result<Option<Row>, Box<Broken>> {
        if !binary::take_header(&mut self.input, &mut self.begun, self.ended)
            .map_err(|report| self.broken(None, report))?
        {
            return Ok(None);
        }
        match binary::take_row(&mut self.input, self.names.len(), self.ended) {
            Ok(binary::Taken::Row(fields)) => {
                self.line += 1;
                Ok(Some(Row { line: self.line, raw: Bytes::new(), fields }))
            }
            Ok(binary::Taken::More) => Ok(None),
            Ok(binary::Taken::End) => {
                self.over = true;
                Ok(None)
            }
            Err(report) => {
                self.line += 1;
                Err(self.broken(None, report))
            }
        }
    }

    fn row(&self, mut row: Row, fields: Vec<fields::Field>) -> Result<Row, Box<Broken>> {
        if fields.len() > self.names.len() {
            return Err(self.broken(Some(&row), bad("extra data after last expected column")));
        }
        let csv = self.options.format == Format::Csv;
        let forced = |(place, field): (usize, fields::Field)| match field {
            None if csv && self.options.force_not_null[place] => Some(self.options.null.clone()),
            Some(text) if csv && self.options.force_null[place] && text == self.options.null => None,
            field => field,
        };
        row.fields = fields.into_iter().enumerate().map(|field| forced(field).map(Bytes::from)).collect();
        if let Some(wrong) = row.fields.iter().flatten().find_map(|field| wrong_bytes(field)) {
            return Err(self.broken(Some(&row), wrong));
        }
        if row.fields.len() < self.names.len() {
            let report = bad(format!("missing data for column \"{}\"", self.names[row.fields.len()]));
            let mut broken = self.broken(Some(&row), report);
            broken.row = Some(row);
            return Err(broken);
        }
        Ok(row)
    }

    fn check_header(&self, row: &Row, fields: &[fields::Field]) -> Result<(), Box<Broken>> {
        if fields.len() != self.names.len() {
            let (got, expected) = (fields.len(), self.names.len());
            let message = format!("wrong number of fields in header line: got {got}, expected {expected}");
            return Err(self.broken(Some(row), bad(message)));
        }
        for (place, (field, name)) in fields.iter().zip(&self.names).enumerate() {
            let got = match field {
                Some(got) if got == name.as_bytes() => continue,
                Some(got) => format!("\"{}\"", String::from_utf8_lossy(got)),
                None => format!("null value (\"{}\")", String::from_utf8_lossy(&self.options.null)),
            };
            let message =
                format!("column name mismatch in header line field {}: got {got}, expected \"{name}\"", place + 1);
            return Err(self.broken(Some(row), bad(message)));
        }
        Ok(())
    }

    fn broken(&self, row: Option<&Row>, report: Report) -> Box<Broken> {
        let context = match row {
            Some(row) => self.context_of(row, None),
            None => self.context(self.line.max(1)),
        };
        Box::new(Broken { row: None, report: report.context(context) })
    }

    fn take_line(&mut self) -> Result<Option<Bytes>, Box<Broken>> {
        let first = self.line + 1;
        // While it reads the first line, Postgres does not know yet how lines end.
        let newlines = self.line_end == LineEnd::Newline;
        let found = self.look().map_err(|message| {
            // Of a broken line Postgres shows what it had read.
            self.line = first;
            let row = Row { line: first, raw: Bytes::copy_from_slice(&self.input[..self.scan.place]), fields: vec![] };
            self.broken(Some(&row), bad(message))
        })?;
        let (length, skip) = match found {
            Found::More => return Ok(None),
            Found::Line { length, end } => (length, length + end),
            Found::Marker { length } => {
                self.over = true;
                (length, self.input.len())
            }
        };
        self.scan = Scan::default();
        let line = self.input.split_to(length).freeze();
        self.input.advance(skip - length);
        if self.over {
            self.input.clear();
            if line.is_empty() {
                return Ok(None);
            }
        }
        self.line += 1;
        if self.options.format == Format::Csv {
            // Line ends within quotes count as lines.
            let end = if newlines { b'\n' } else { b'\r' };
            self.line += line.iter().filter(|&&byte| byte == end).count() as u64;
        }
        if let Some(report) = wrong_bytes(&line) {
            return Err(self.broken(None, report));
        }
        Ok(Some(line))
    }

    /// Looks for the end of the line at the head of the input, from where it stopped the last time.
    fn look(&mut self) -> Result<Found, &'static str> {
        let csv = self.options.format == Format::Csv;
        let (quote, escape) = (self.options.quote, self.options.escape);
        let escape = (escape != quote).then_some(escape);
        loop {
            let place = self.scan.place;
            let Some(&byte) = self.input.get(place) else {
                return Ok(match self.ended && !self.input.is_empty() {
                    true => Found::Line { length: place, end: 0 },
                    false => {
                        self.over |= self.ended;
                        Found::More
                    }
                });
            };
            // What follows these decides what they mean.
            if matches!(byte, b'\r' | b'\\') && self.input.len() - place < 4 && !self.ended {
                return Ok(Found::More);
            }
            if csv {
                if self.scan.quoted && Some(byte) == escape {
                    self.scan.escaped = !self.scan.escaped;
                }
                if byte == quote && !self.scan.escaped {
                    self.scan.quoted = !self.scan.quoted;
                }
                if Some(byte) != escape {
                    self.scan.escaped = false;
                }
            }
            let within = csv && self.scan.quoted;
            match byte {
                b'\r' if !within => return self.at_return(place, csv),
                b'\n' if !within => {
                    if matches!(self.line_end, LineEnd::Return | LineEnd::Both) {
                        return Err(if csv {
                            "unquoted newline found in data"
                        } else {
                            "literal newline found in data"
                        });
                    }
                    self.line_end = LineEnd::Newline;
                    return Ok(Found::Line { length: place, end: 1 });
                }
                b'\\' if !csv || place == 0 => match self.input.get(place + 1) {
                    Some(b'.') => {
                        if self.at_marker(place, csv)? {
                            return Ok(Found::Marker { length: place });
                        }
                        self.scan.place += 1;
                    }
                    _ => self.scan.place += if csv { 1 } else { 2 },
                },
                _ => self.scan.place += 1,
            }
            self.scan.place = self.scan.place.min(self.input.len());
        }
    }

    fn at_return(&mut self, place: usize, csv: bool) -> Result<Found, &'static str> {
        let wrong =
            if csv { "unquoted carriage return found in data" } else { "literal carriage return found in data" };
        let newline = self.input.get(place + 1) == Some(&b'\n');
        match self.line_end {
            LineEnd::Unknown | LineEnd::Both if newline => {
                self.line_end = LineEnd::Both;
                Ok(Found::Line { length: place, end: 2 })
            }
            LineEnd::Unknown => {
                self.line_end = LineEnd::Return;
                Ok(Found::Line { length: place, end: 1 })
            }
            LineEnd::Return => Ok(Found::Line { length: place, end: 1 }),
            LineEnd::Newline | LineEnd::Both => Err(wrong),
        }
    }

    /// Whether `\.` stands for the end: alone on its line.
    fn at_marker(&self, place: usize, csv: bool) -> Result<bool, &'static str> {
        const STYLE: &str = "end-of-copy marker does not match previous newline style";
        const CORRUPT: &str = "end-of-copy marker corrupt";
        let mut next = self.input.get(place + 2).copied();
        if self.line_end == LineEnd::Both {
            match next {
                Some(b'\r') => next = self.input.get(place + 3).copied(),
                _ if csv => return Ok(false),
                Some(b'\n') => return Err(STYLE),
                _ => return Err(CORRUPT),
            }
        }
        match (next, self.line_end) {
            (Some(b'\n'), LineEnd::Return) => Err(STYLE),
            (Some(b'\r'), LineEnd::Newline | LineEnd::Both) => Err(STYLE),
            (Some(b'\n' | b'\r'), _) => Ok(true),
            _ if csv => Ok(false),
            _ => Err(CORRUPT),
        }
    }
}

fn bad(message: impl Into<String>) -> Report {
    Report::new(BAD_COPY_FILE_FORMAT, message)
}

/// As much of a line or value as an error shows.
fn shown(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    if bytes.len() <= SHOWN_MAX {
        return text.into_owned();
    }
    let mut end = SHOWN_MAX.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}...", &text[..end])
}

/// What Postgres says of bytes that are not text in UTF-8.
fn wrong_bytes(bytes: &[u8]) -> Option<Report> {
    let place = match (std::str::from_utf8(bytes), bytes.iter().position(|&byte| byte == 0)) {
        (Ok(_), None) => return None,
        (Ok(_), Some(zero)) => zero,
        (Err(error), zero) => zero.map_or(error.valid_up_to(), |zero| zero.min(error.valid_up_to())),
    };
    let length = match bytes[place] {
        0xc0..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf7 => 4,
        _ => 1,
    };
    let shown: Vec<String> = bytes[place..].iter().take(length).map(|byte| format!("0x{byte:02x}")).collect();
    let message = format!("invalid byte sequence for encoding \"UTF8\": {}", shown.join(" "));
    Some(Report::new(CHARACTER_NOT_IN_REPERTOIRE, message))
}

/// A reader without a plan.
#[cfg(test)]
pub(super) fn testing(table: &str, names: &[&str], options: Options) -> Reader {
    let names = names.iter().map(|name| (*name).to_owned()).collect();
    Reader::of(table.to_owned(), names, options)
}
