//! What a client is told when something fails: the fields of Postgres' ErrorResponse
//! (<https://www.postgresql.org/docs/15/protocol-error-fields.html>), as a plain value.
//!
//! Every module's error turns into one of these in one exhaustive place; errors of Postgres itself pass through the
//! wire as they came and never become a `Report`.

use crate::sqlstate::SqlState;

/// The fields of an error or notice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub code: SqlState,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
    /// Where it happened (`COPY t, line 3`).
    pub context: Option<Box<str>>,
    /// 1-based character position in the client's statement.
    pub position: Option<usize>,
    /// Apart, since most reports have none and all are handed about.
    pub about: Option<Box<About>>,
}

/// The object that an error is about, for programs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct About {
    pub schema: Option<String>,
    pub table: Option<String>,
    pub column: Option<String>,
    pub data_type: Option<String>,
    pub constraint: Option<String>,
}

impl Report {
    /// A report with nothing but a code and a message.
    pub fn new(code: SqlState, message: impl Into<String>) -> Report {
        Report { code, message: message.into(), detail: None, hint: None, context: None, position: None, about: None }
    }

    /// Says more about what happened.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Report {
        self.detail = Some(detail.into());
        self
    }

    /// Says what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Report {
        self.hint = Some(hint.into());
        self
    }

    /// Says where it happened, around what is said of that already.
    #[must_use]
    pub fn context(mut self, context: impl Into<Box<str>>) -> Report {
        let outer = context.into();
        self.context = Some(match self.context {
            Some(inner) => format!("{inner}\n{outer}").into(),
            None => outer,
        });
        self
    }

    /// Says which object it is about.
    #[must_use]
    pub fn about(mut self, about: About) -> Report {
        self.about = Some(Box::new(about));
        self
    }
}
