//! SQL's own EXECUTE: the statement that PREPARE named is run as one of the extended protocol would be.
//!
//! The replica has it under its name and knows its text and its types; it evaluates the arguments, too.

use std::sync::Arc;

use bytes::Bytes;

use super::Session;
use super::failure::Failure;
use super::read::{Given, as_clients, values};
use super::statements::{Description, Late, Parsed};
use super::transaction::{Phase, Route};
use super::write::{By, PART, Written, returning};
use crate::report::Report;
use crate::setup::{identifier, literal};
use crate::sql::{self, Class, Rendered, Statement};
use crate::sqlstate::{self, SqlState};
use crate::wire::build;

/// Between the types of a statement's parameters.
const SEPARATOR: char = '\u{1}';

/// A statement that SQL's PREPARE (or Parse) has named.
pub(super) struct Named {
    /// The text of it.
    inner: String,
    /// What PREPARE prepared.
    parsed: Arc<Parsed>,
    /// The PREPARE itself, or what it would be.
    prepare: String,
    types: Vec<u32>,
    type_names: Vec<String>,
}

impl Named {
    /// What Parse would be given: text and types.
    pub(super) fn into_parse(self) -> (String, Vec<u32>) {
        (self.inner, self.types)
    }
}

impl Session {
    async fn named(&mut self, name: &str) -> Result<Named, Failure> {
        self.use_late(name.as_bytes()).await?;
        self.find_named(name).await?.ok_or_else(|| {
            let message = format!("prepared statement \"{name}\" does not exist");
            Report::new(SqlState(*b"26000"), message).into()
        })
    }

    /// What the replica has under this name.
    pub(super) async fn find_named(&mut self, name: &str) -> Result<Option<Named>, Failure> {
        let question = format!(
            "SELECT p.statement, p.from_sql, pg_catalog.array_to_string(p.parameter_types::pg_catalog.oid[], ' '), \
             pg_catalog.array_to_string(p.parameter_types, E'\\x01') \
             FROM pg_catalog.pg_prepared_statements p WHERE p.name = {}",
            literal(name)
        );
        let Some(row) = self.question(&question).await?.into_iter().next() else { return Ok(None) };
        let text = |place: usize| -> String {
            let value: Option<&Bytes> = row.get(place).and_then(Option::as_ref);
            value.map_or_else(String::new, |value| String::from_utf8_lossy(value).into_owned())
        };
        let (whole, types, names) = (text(0), text(2), text(3));
        let type_names: Vec<String> =
            names.split(SEPARATOR).filter(|name| !name.is_empty()).map(str::to_owned).collect();
        let inner = match text(1) == "t" {
            true => sql::prepared_text(&whole, name).ok_or_else(|| {
                let message = format!("the statement of PREPARE \"{name}\" cannot be read by pgoutpost");
                Report::new(sqlstate::FEATURE_NOT_SUPPORTED, message).hint("Write the statement itself.")
            })?,
            false => whole.clone(),
        };
        let prepare = match (text(1) == "t", type_names.as_slice()) {
            (true, _) => whole,
            (false, []) => format!("PREPARE {} AS {whole}", identifier(name)),
            (false, types) => format!("PREPARE {} ({}) AS {whole}", identifier(name), types.join(", ")),
        };
        Ok(Some(Named {
            parsed: self.shared.statements.parse(&inner),
            prepare,
            types: types.split_whitespace().filter_map(|oid| oid.parse().ok()).collect(),
            type_names,
            inner,
        }))
    }

    /// The arguments of an EXECUTE, as text of the parameters' types.
    async fn argument_values(
        &mut self,
        name: &str,
        execute: &Statement,
        named: &Named,
    ) -> Result<Vec<Option<Bytes>>, Failure> {
        // As Postgres: what is given to a statement without parameters is not even looked at.
        if named.types.is_empty() {
            return Ok(Vec::new());
        }
        let arguments = sql::execute_arguments(&execute.text);
        if arguments.len() != named.types.len() {
            let message = format!("wrong number of parameters for prepared statement \"{name}\"");
            let detail = format!("Expected {} parameters but got {}.", named.types.len(), arguments.len());
            return Err(Report::new(SqlState(*b"42601"), message).detail(detail).into());
        }
        let typed = arguments.iter().zip(&named.type_names).map(|(argument, name)| format!("({argument}\n)::{name}"));
        let question = format!("SELECT {}", typed.collect::<Vec<_>>().join(", "));
        let parsed = self.shared.statements.parse(&question);
        let Some(select) = parsed.single().filter(|select| select.class == Class::Query) else {
            self.refuse_blind("EXECUTE with these arguments")?;
            let row = self.question(&question).await?.into_iter().next();
            return Ok(row.unwrap_or_default());
        };
        let (given, formats) = (Given::default(), vec![0; arguments.len()]);
        let (mut rows, _) = match self.is_whole(select).await? {
            true => self.whole(select, &given, formats, By::Once).await?,
            false => self.execute_named_read(select, &given, formats, By::Once).await?,
        };
        rows.pop_front().map_or_else(|| Ok(Vec::new()), |row| Ok(values(row)?))
    }

    /// Whether the replica may run the EXECUTE itself: it reads, and nothing is pending that it could see.
    pub(super) async fn execute_is_plain(&mut self, name: &str, execute: &Statement) -> Result<bool, Failure> {
        let takes_ids = self.shared.statements.parse(&execute.text).takes_ids;
        let named = self.named(name).await?;
        self.may_set(&named.parsed);
        Ok(match named.parsed.single() {
            Some(inner) if inner.class == Class::Query => {
                self.nothing_pending() && !takes_ids && !named.parsed.takes_ids && !named.parsed.locks
            }
            Some(inner) => !matches!(inner.class, Class::Write | Class::With),
            None => self.nothing_pending(),
        })
    }

    /// Runs an EXECUTE. `results`: the formats that the client wants.
    pub(super) async fn execute_named(
        &mut self,
        name: &str,
        execute: &Statement,
        results: &[i16],
    ) -> Result<(Arc<Description>, Written), Failure> {
        let named = self.named(name).await?;
        let values = self.argument_values(name, execute, &named).await?;
        let Some(inner) = named.parsed.single() else {
            self.refuse_blind("EXECUTE")?;
            return Err(Report::new(sqlstate::FEATURE_NOT_SUPPORTED, "EXECUTE of this statement").into());
        };
        let given = Given {
            types: &named.types,
            binary: vec![false; values.len()],
            values: values.iter().map(Option::as_deref).collect(),
        };
        let description = Arc::new(self.describe_part(&inner.text, &named.types).await?);
        let formats = returning(&description, results)?;
        let written = match inner.class {
            Class::Write => self.write(inner, &given, formats, By::Name).await?,
            Class::With => self.with(inner, &given, formats).await?,
            _ if self.is_whole(inner).await? => self.whole(inner, &given, formats, By::Name).await?,
            _ => self.execute_named_read(inner, &given, formats, By::Name).await?,
        };
        self.may_set(&named.parsed);
        Ok((description, written))
    }

    async fn execute_named_read(
        &mut self,
        inner: &Statement,
        given: &Given<'_>,
        formats: Vec<i16>,
        by: By,
    ) -> Result<Written, Failure> {
        let mut tries = 0;
        loop {
            let rendered = self.render_read(inner, given).await?.unwrap_or_else(|| Rendered::plain(&inner.text));
            let rows = self.run_evaluation(&rendered, given, &formats, by).await;
            if let Some(rows) = self.or_again(rows, &mut tries).await? {
                return Ok(super::whole::shown(&rows, formats.len()));
            }
        }
    }

    /// EXECUTE in the simple protocol.
    pub(super) async fn simple_execute(&mut self, name: &str, execute: &Statement, last: bool) -> Result<(), Failure> {
        if self.execute_is_plain(name, execute).await? {
            return self.pass(&execute.text, last).await;
        }
        let (description, written) = self.execute_named(name, execute, &[]).await?;
        self.show(&description, written, last).await
    }

    /// Why an EXECUTE has to go to main: its statement writes what cannot be buffered.
    pub(super) async fn execute_not_bufferable(&mut self, name: &str) -> Result<Option<Report>, Failure> {
        let named = self.named(name).await?;
        match named.parsed.single() {
            Some(inner) if matches!(inner.class, Class::Straight { .. }) => {
                Ok(Some(Report::new(sqlstate::FEATURE_NOT_SUPPORTED, "this statement cannot be buffered")))
            }
            Some(inner) => {
                let why = self.not_bufferable(inner).await?;
                if why.is_some() {
                    // What is wrong with it by now is said here, whether or not main can be reached.
                    self.describe_part(&inner.text, &named.types).await?;
                }
                Ok(why)
            }
            None => Ok(None),
        }
    }

    /// What Postgres makes of a text with parameters of these types, as it is now.
    async fn describe_part(&mut self, text: &str, types: &[u32]) -> Result<Description, Failure> {
        let out = self.ask();
        build::close_statement(out, PART);
        build::parse(out, PART, text.as_bytes(), types);
        build::describe_statement(out, PART);
        build::flush(out);
        self.description().await.map_err(as_clients)
    }

    /// Lets main know a statement that only the replica knows, before main runs its EXECUTE, DEALLOCATE or another PREPARE.
    pub(super) async fn introduce_named(&mut self, name: &str) -> Result<(), Failure> {
        let literal = name.replace('\'', "''");
        // Within a straight transaction it is main that the client prepares and deallocates on.
        let within = self.transaction.route == Route::Straight;
        self.enter_main(&[]).await?;
        if self.transaction.phase == Phase::Failed {
            return Ok(());
        }
        let known = format!("SELECT p.statement FROM pg_catalog.pg_prepared_statements p WHERE p.name = '{literal}'");
        let known = match self.main.as_ref().is_some_and(|main| main.has_names) {
            true => self.ask_main(&known).await?,
            false => None,
        };
        if within && known.is_some() {
            return Ok(());
        }
        // Main may still know another statement by that name.
        let late = match self.names.late.get(name.as_bytes()) {
            Some(Late::Prepare(prepare)) => Some(prepare.clone()),
            _ => None,
        };
        let prepare = match late {
            Some(prepare) => Some(prepare),
            None => self.find_named(name).await?.map(|named| named.prepare),
        };
        if known == prepare {
            return Ok(());
        }
        if known.is_some() {
            self.ask_main(&format!("DEALLOCATE {}", identifier(name))).await?;
        }
        if let Some(prepare) = prepare {
            self.ask_main(&prepare).await?;
            self.pipeline.knows(name.as_bytes());
            if let Some(main) = &mut self.main {
                main.has_names = true;
            }
        }
        Ok(())
    }
}
