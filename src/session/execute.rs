//! SQL's own EXECUTE: the statement that PREPARE named is run as one of the extended protocol would be.
//!
//! The replica has it under its name and knows its text and its types; it evaluates the arguments, too.

use std::sync::Arc;

use bytes::Bytes;

use super::Session;
use super::failure::Failure;
use super::read::{Given, as_clients};
use super::serve::TRIES;
use super::statements::{Description, Parsed};
use super::write::{By, Written, returning};
use crate::report::Report;
use crate::sql::{self, Class, Rendered, Statement};
use crate::sqlstate::{self, SqlState};
use crate::wire::build;

/// Between the types of a statement's parameters.
const SEPARATOR: char = '\u{1}';

/// A statement that SQL's PREPARE (or Parse) has named.
pub(super) struct Named {
    /// What PREPARE prepared.
    parsed: Arc<Parsed>,
    /// The PREPARE itself; `None`: it came by the protocol.
    prepare: Option<String>,
    types: Vec<u32>,
    type_names: Vec<String>,
}

impl Session {
    /// What the replica has under this name.
    async fn named(&mut self, name: &str) -> Result<Named, Failure> {
        let question = format!(
            "SELECT p.statement, p.from_sql, pg_catalog.array_to_string(p.parameter_types::pg_catalog.oid[], ' '), \
             pg_catalog.array_to_string(p.parameter_types, E'\\x01') \
             FROM pg_catalog.pg_prepared_statements p WHERE p.name = '{}'",
            name.replace('\'', "''")
        );
        let row = self.question(&question).await?.into_iter().next().ok_or_else(|| {
            let message = format!("prepared statement \"{name}\" does not exist");
            Report::new(SqlState(*b"26000"), message)
        })?;
        let text = |place: usize| -> String {
            let value: Option<&Bytes> = row.get(place).and_then(Option::as_ref);
            value.map_or_else(String::new, |value| String::from_utf8_lossy(value).into_owned())
        };
        let (whole, types, names) = (text(0), text(2), text(3));
        let prepare = (text(1) == "t").then(|| whole.clone());
        let inner = match &prepare {
            Some(prepare) => sql::prepared_text(prepare, name).ok_or_else(|| {
                let message = format!("the statement of PREPARE \"{name}\" cannot be read by pgoutpost");
                Report::new(sqlstate::FEATURE_NOT_SUPPORTED, message).hint("Write the statement itself.")
            })?,
            None => whole,
        };
        Ok(Named {
            parsed: self.shared.statements.parse(&inner),
            prepare,
            types: types.split_whitespace().filter_map(|oid| oid.parse().ok()).collect(),
            type_names: names.split(SEPARATOR).filter(|name| !name.is_empty()).map(str::to_owned).collect(),
        })
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
        let row = self.question(&question).await?.into_iter().next();
        Ok(row.unwrap_or_default())
    }

    /// Whether the replica may run the EXECUTE itself: it reads, and nothing is pending that it could see.
    pub(super) async fn execute_is_plain(&mut self, name: &str) -> Result<bool, Failure> {
        let named = self.named(name).await?;
        Ok(match named.parsed.single() {
            Some(inner) if inner.class == Class::Query => {
                self.nothing_pending() && !named.parsed.takes_ids && !named.parsed.locks
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
        let out = self.ask();
        build::parse(out, b"", inner.text.as_bytes(), &named.types);
        build::describe_statement(out, b"");
        build::flush(out);
        let description = Arc::new(self.description().await.map_err(as_clients)?);
        let formats = returning(&description, results)?;
        let written = match inner.class {
            Class::Write => self.write(inner, &given, formats, By::Name).await?,
            Class::With => self.with(inner, &given, formats).await?,
            _ if self.is_whole(inner).await? => self.whole(inner, &given, formats, By::Name).await?,
            _ => self.execute_named_read(inner, &given, formats).await?,
        };
        Ok((description, written))
    }

    async fn execute_named_read(
        &mut self,
        inner: &Statement,
        given: &Given<'_>,
        formats: Vec<i16>,
    ) -> Result<Written, Failure> {
        for _ in 0..TRIES {
            let rendered = self.render_read(inner, given).await?;
            let own = || Rendered { sql: inner.text.to_string(), extra: Vec::new(), registers: Vec::new() };
            match self.run_evaluation(&rendered.unwrap_or_else(own), given, &formats, By::Name).await {
                Ok(rows) => return Ok(super::whole::shown(&rows, formats.len())),
                Err(Failure::Inner(error)) => self.prepare_again(&error).await?,
                Err(failure) => return Err(failure),
            }
        }
        Err(super::read::changed().into())
    }

    /// EXECUTE in the simple protocol.
    pub(super) async fn simple_execute(&mut self, name: &str, execute: &Statement) -> Result<(), Failure> {
        if self.execute_is_plain(name).await? {
            return self.pass(&execute.text).await;
        }
        let (description, (rows, tag)) = self.execute_named(name, execute, &[]).await?;
        let out = &mut self.client.output;
        if let Some(columns) = &description.columns {
            out.extend_from_slice(columns);
        }
        rows.iter().for_each(|row| out.extend_from_slice(row));
        build::command_complete(out, &tag);
        Ok(())
    }

    /// Why an EXECUTE has to go to main: its statement writes what cannot be buffered.
    pub(super) async fn execute_not_bufferable(&mut self, name: &str) -> Result<Option<Report>, Failure> {
        let named = self.named(name).await?;
        match named.parsed.single() {
            Some(inner) if matches!(inner.class, Class::Straight { .. }) => {
                Ok(Some(Report::new(sqlstate::FEATURE_NOT_SUPPORTED, "this statement cannot be buffered")))
            }
            Some(inner) => self.not_bufferable(inner).await,
            None => Ok(None),
        }
    }

    /// Lets main know a statement that only the replica knows, before main runs its EXECUTE.
    pub(super) async fn introduce_named(&mut self, name: &str) -> Result<(), Failure> {
        let literal = name.replace('\'', "''");
        self.enter_main().await?;
        let known = format!("SELECT p.name FROM pg_catalog.pg_prepared_statements p WHERE p.name = '{literal}'");
        if self.ask_main(&known).await?.is_some() {
            return Ok(());
        }
        if let Some(prepare) = self.named(name).await?.prepare {
            self.ask_main(&prepare).await?;
        }
        Ok(())
    }
}
