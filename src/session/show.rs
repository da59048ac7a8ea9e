//! Answers in the simple protocol: what a statement of a query string shows the client.

use bytes::BytesMut;

use super::Session;
use super::failure::Failure;
use super::read::{Again, Given, Passed, again, as_clients, changed};
use super::serve::TRIES;
use super::statements::Description;
use super::transaction::Phase;
use super::write::Written;
use super::write::no_parameter;
use crate::sql::{Isolation, Mode, Statement};
use crate::sqlstate;
use crate::wire::{HEADER, build, error};

impl Session {
    /// Runs a statement on the replica as it is, its answer shown.
    pub(super) async fn pass(&mut self, text: &str, last: bool) -> Result<(), Failure> {
        let tag = self.pass_alone(text).await?;
        self.simple_end(&tag, last).await
    }

    /// The same; CommandComplete is returned.
    async fn pass_alone(&mut self, text: &str) -> Result<BytesMut, Failure> {
        let out = self.ask();
        build::parse(out, b"", text.as_bytes(), &[]);
        build::bind(out, b"", b"", &[], &[]);
        build::describe_portal(out, b"");
        build::execute(out, b"", 0);
        build::flush(out);
        self.reads_first = true;
        let passed = self.pass_rows(None).await;
        self.reads_first = false;
        passed.map_err(|(failure, _)| as_clients(failure))
    }

    /// SHOW of a mode of the transaction.
    pub(super) async fn show_mode(&mut self, mode: Mode, text: &str, last: bool) -> Result<(), Failure> {
        let Some(value) = self.mode(mode).await? else { return self.pass(text, last).await };
        let name = match mode {
            Mode::ReadOnly => "transaction_read_only",
            Mode::Isolation => "transaction_isolation",
        };
        self.pass_alone(&format!("SELECT '{value}' AS {name}")).await?;
        self.simple_tag("SHOW", last).await
    }

    /// A mode as the client has asked for it; `None`: the replica knows it.
    pub(super) async fn mode(&mut self, mode: Mode) -> Result<Option<&'static str>, Failure> {
        Ok(match mode {
            Mode::ReadOnly => {
                let settings = self.settings().await?;
                Some(if self.is_read_only(&settings) { "on" } else { "off" })
            }
            Mode::Isolation => (self.transaction.isolation == Some(Isolation::Serializable)).then_some("serializable"),
        })
    }

    /// Answers a statement of a query string with rows that are ready. `last`: of the string.
    pub(super) async fn show(
        &mut self,
        description: &Description,
        (rows, tag): Written,
        last: bool,
    ) -> Result<(), Failure> {
        let out = &mut self.client.output;
        if let Some(columns) = &description.columns {
            out.extend_from_slice(columns);
        }
        rows.iter().for_each(|row| out.extend_from_slice(row));
        self.simple_tag(&tag, last).await
    }

    pub(super) async fn simple_tag(&mut self, tag: &str, last: bool) -> Result<(), Failure> {
        let mut message = BytesMut::new();
        build::command_complete(&mut message, tag);
        self.simple_end(&message, last).await
    }

    /// The CommandComplete of a statement in a query string. The last one's comes when the implicit transaction is
    /// committed.
    pub(super) async fn simple_end(&mut self, complete: &[u8], last: bool) -> Result<(), Failure> {
        if last && (self.transaction.phase == Phase::Idle || self.transaction.implicit) {
            if !self.transaction.implicit {
                self.judge_deferred().await?;
            }
            self.last_tag.extend_from_slice(complete);
        } else {
            self.client.output.extend_from_slice(complete);
        }
        Ok(())
    }

    /// A read in the simple protocol, by the unnamed statement and portal.
    pub(super) async fn simple_read(&mut self, statement: &Statement, last: bool) -> Result<(), Failure> {
        for _ in 0..TRIES {
            let description = self.describe_text(&statement.text).await?;
            if !description.types.is_empty() {
                return Err(no_parameter(&statement.text).into());
            }
            if self.is_whole(statement).await? {
                return self.simple_whole(statement, &description, last).await;
            }
            let given = Given::default();
            let rendered = self.render_read(statement, &given).await?;
            let out = self.ask();
            match &rendered {
                None => build::bind(out, b"", b"", &[], &[]),
                Some(rendered) => {
                    build::parse(out, b"", rendered.sql.as_bytes(), &given.types_with(rendered));
                    build::bind(out, b"", b"", &given.with(rendered), &[]);
                }
            }
            build::execute(out, b"", 0);
            build::flush(out);
            match self.pass_rows(description.columns.as_deref()).await {
                Ok(tag) => return self.simple_end(&tag, last).await,
                Err((Failure::Inner(error), Passed::Rows)) => return Err(Failure::Inner(error)),
                Err((Failure::Inner(error), passed)) => {
                    let refused = error::code(&error[HEADER..]) == sqlstate::READ_ONLY_SQL_TRANSACTION;
                    let own = rendered.is_none() && matches!(again(&error), Again::No | Again::Doubt);
                    let failure = match own {
                        true => Failure::Server(error),
                        false => match self.prepare_again(&error).await {
                            Ok(()) => continue,
                            Err(failure) => failure,
                        },
                    };
                    // A simple query has told its columns when it begins to run. What writes may still go to main.
                    if passed == Passed::Bound
                        && !refused
                        && let Some(columns) = &description.columns
                    {
                        self.client.output.extend_from_slice(columns);
                    }
                    return Err(failure);
                }
                Err((failure, _)) => return Err(failure),
            }
        }
        Err(changed().into())
    }
}
