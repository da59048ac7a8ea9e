//! ErrorResponse and NoticeResponse: the one place where a [`Report`] becomes a message, and where Postgres' own are
//! looked into (<https://www.postgresql.org/docs/15/protocol-error-fields.html>).

use bytes::{BufMut, BytesMut};

use super::build::{message, string};
use super::read::Body;
use crate::report::{About, Report};
use crate::sqlstate::{INTERNAL_ERROR, SqlState};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    Error,
    /// The connection ends.
    Fatal,
    Warning,
    Notice,
}

impl Severity {
    fn name(self) -> &'static str {
        match self {
            Severity::Error => "ERROR",
            Severity::Fatal => "FATAL",
            Severity::Warning => "WARNING",
            Severity::Notice => "NOTICE",
        }
    }

    fn kind(self) -> u8 {
        match self {
            Severity::Error | Severity::Fatal => b'E',
            Severity::Warning | Severity::Notice => b'N',
        }
    }
}

/// Appends a report as a message.
pub fn report(out: &mut BytesMut, severity: Severity, report: &Report) {
    let position = report.position.map(|position| position.to_string());
    message(out, severity.kind(), |body| {
        let mut field = |code: u8, text: Option<&str>| {
            if let Some(text) = text {
                body.put_u8(code);
                string(body, text.as_bytes());
            }
        };
        field(b'S', Some(severity.name()));
        field(b'V', Some(severity.name()));
        field(b'C', Some(report.code.as_str()));
        field(b'M', Some(&report.message));
        field(b'D', report.detail.as_deref());
        field(b'H', report.hint.as_deref());
        field(b'P', position.as_deref());
        field(b'W', report.context.as_deref());
        if let Some(about) = &report.about {
            field(b's', about.schema.as_deref());
            field(b't', about.table.as_deref());
            field(b'c', about.column.as_deref());
            field(b'd', about.data_type.as_deref());
            field(b'n', about.constraint.as_deref());
        }
        body.put_u8(0);
    });
}

/// The fields of a server's error or notice; stops at the first malformed one.
pub fn fields(body: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    let mut body = Body::new(body);
    std::iter::from_fn(move || match body.u8() {
        Ok(0) | Err(_) => None,
        Ok(code) => body.string().ok().map(|text| (code, text)),
    })
}

/// One field.
pub fn field(body: &[u8], code: u8) -> Option<&[u8]> {
    fields(body).find(|(name, _)| *name == code).map(|(_, text)| text)
}

/// The SQLSTATE of a server's error.
pub fn code(body: &[u8]) -> SqlState {
    field(body, b'C').and_then(|text| std::str::from_utf8(text).ok()).map_or(INTERNAL_ERROR, SqlState::parse)
}

/// The primary message of a server's error, for logs and reports of our own.
pub fn text(body: &[u8]) -> String {
    field(body, b'M').map(String::from_utf8_lossy).unwrap_or_default().into_owned()
}

/// Whether a server ends the connection with this error. `V` is never translated.
pub fn is_fatal(body: &[u8]) -> bool {
    matches!(field(body, b'V'), Some(b"FATAL" | b"PANIC"))
}

/// A server's error as a report, without position: it would be one in text that the client never wrote.
pub fn to_report(body: &[u8]) -> Report {
    let text = |code: u8| field(body, code).map(|text| String::from_utf8_lossy(text).into_owned());
    let about = About {
        schema: text(b's'),
        table: text(b't'),
        column: text(b'c'),
        data_type: text(b'd'),
        constraint: text(b'n'),
    };
    Report {
        code: code(body),
        message: text(b'M').unwrap_or_default(),
        detail: text(b'D'),
        hint: text(b'H'),
        context: text(b'W').map(String::into_boxed_str),
        position: None,
        about: (about != About::default()).then(|| Box::new(about)),
    }
}

/// What becomes of the position in an error of a statement that is not just the client's own text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// It means a place in text that the client never wrote.
    Drop,
    /// The statement began after this many characters of the client's.
    Shift(usize),
}

/// Appends a server's error with its position set right.
pub fn repositioned(out: &mut BytesMut, body: &[u8], position: Position) {
    message(out, b'E', |new| {
        for (code, text) in fields(body) {
            let shifted = match (code, position) {
                // The text of an internal query would be ours as well.
                (b'P' | b'p' | b'q', Position::Drop) => continue,
                (b'P', Position::Shift(by)) => std::str::from_utf8(text)
                    .ok()
                    .and_then(|text| text.parse::<usize>().ok())
                    .map(|place| (place + by).to_string()),
                (_, Position::Drop | Position::Shift(_)) => None,
            };
            new.put_u8(code);
            string(new, shifted.as_deref().map_or(text, str::as_bytes));
        }
        new.put_u8(0);
    });
}
