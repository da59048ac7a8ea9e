//! A session's own questions to the replica, between the client's.
//!
//! **No Sync of our own within the client's pipeline**, but to evaluate again what stands alone in it. Messages up to a Sync are one implicit transaction: `now()`
//! stands still in it, and a failed message skips the rest. So questions end with Flush: the replica answers and its
//! transaction stays as it is, explicit or implicit. When a question fails, the replica skips to the client's Sync, which
//! is what must happen to the client's messages too. When a statement fails here without the replica's knowledge,
//! the replica is made to fail as well ([`Session::fail_replica`]): so its state, its messages, its savepoints and what
//! was set since are always those of the client. In the simple protocol, where the client sends no
//! Sync, we send one at the end of the query string.
//!
//! Questions may be sent behind forwarded messages: their answers are read when all that is expected has come.

use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};

use super::failure::{End, Failure};
use super::read::{as_clients, values};
use super::relay::{Expect, Retry, broken};
use super::statements::{Description, Parsed, Prepared};
use super::transaction::Phase;
use super::write::no_parameter;
use super::{Session, Wants};
use crate::report::Report;
use crate::sqlstate::{self, SqlState};
use crate::wire::build::Argument;
use crate::wire::read::{Column, columns, parameter_types};
use crate::wire::{self, HEADER, build, error};

const INDETERMINATE_DATATYPE: SqlState = SqlState(*b"42P18");

/// Types without modifiers, of ordinary columns.
const UNMODIFIED: [u32; 13] = [16, 17, 20, 21, 23, 25, 26, 114, 700, 701, 1082, 2950, 3802];

/// Whether planning may find a type modifier that the statement by itself does not have: with a branch that cannot be
/// reached goes its type. What locks rows a standby does not even begin to run.
pub(super) fn planning_tells(text: &str, description: &Description) -> Result<bool, Failure> {
    let Some(message) = &description.columns else { return Ok(false) };
    let open =
        |column: &Column| column.table_oid == 0 && column.modifier == -1 && !UNMODIFIED.contains(&column.type_oid);
    Ok(columns(&message[HEADER..])?.iter().any(open) && Parsed::has_branches(text) && !Parsed::locks_rows(text))
}

/// One row that is more than may be kept.
fn row_too_long(length: usize, limit: usize) -> Report {
    let message = format!("a row of {} MiB is too long", length >> 20);
    Report::new(sqlstate::PROGRAM_LIMIT_EXCEEDED, message)
        .detail("Rows that are written, or merged with pending ones, are evaluated as text: a bytea is twice as long.")
        .hint(format!("Rows of up to {} MiB are taken.", limit >> 20))
}

impl Session {
    /// Where questions to the replica are written.
    pub(super) fn ask(&mut self) -> &mut BytesMut {
        self.freeze();
        self.unsynced = true;
        &mut self.replica.link.output
    }

    /// The session waits for somebody else than its client, and the replica is not to count that as the client's idle time
    /// (`idle_in_transaction_session_timeout`, `idle_session_timeout`): it does so from its ReadyForQuery to the next
    /// message, whichever that is. It begins anew with the Sync of [`Session::is_idle`].
    pub(super) fn at_work(&mut self) {
        if !self.unsynced && self.expected.is_empty() {
            build::flush(&mut self.replica.link.output);
            self.unsynced = true;
        }
    }

    /// The next message is the client's: Postgres counts from here on. True when the replica had to be told, and messages
    /// may have come meanwhile.
    pub(super) async fn is_idle(&mut self) -> Result<bool, End> {
        let told = self.unsynced;
        self.sync().await?;
        Ok(told)
    }

    /// Waits for the next answer to a question. What was forwarded before is relayed first.
    ///
    /// # Errors
    /// The replica's error; [`Failure::Told`] when something forwarded before has failed, so that the question is
    /// skipped.
    pub(super) async fn reply(&mut self) -> Result<(u8, BytesMut), Failure> {
        // A message that is too long to be kept: what is left of it, and what the client will be told.
        let (mut left, mut too_long) = (0, None);
        loop {
            if left > 0 {
                let count = left.min(self.replica.link.input.len());
                self.replica.link.input.advance(count);
                left -= count;
            }
            if left > 0 {
                self.pump(Wants::Replica).await?;
                continue;
            }
            if !self.expected.is_empty() {
                self.relay()?;
                self.no_retry();
                if self.skipping {
                    return Err(Failure::Told);
                }
            }
            if self.expected.is_empty()
                && let Some((kind, message)) = self.replica.link.take().map_err(broken)?
            {
                match kind {
                    b'E' if too_long.is_some() && !error::is_fatal(&message[wire::HEADER..]) => {
                        self.replica_skips = true;
                        return Err(too_long.map_or(Failure::Told, Failure::Own));
                    }
                    b'S' => self.parameter(&message),
                    b'N' if !self.reads_first && error::code(&message[HEADER..]) == sqlstate::NONSTANDARD_ESCAPE => {}
                    b'N' | b'A' => self.client.output.extend_from_slice(&message),
                    b'E' if error::is_fatal(&message[wire::HEADER..]) => {
                        self.client.output.extend_from_slice(&message);
                        return Err(End::ReplicaSaid.into());
                    }
                    b'E' => {
                        self.replica_skips = true;
                        return Err(Failure::Inner(message));
                    }
                    b'Z' if too_long.is_none() => {
                        self.replica_skips = false;
                        return Ok((kind, message));
                    }
                    _ if too_long.is_some() => {}
                    _ => return Ok((kind, message)),
                }
                continue;
            }
            let header = self.replica.link.header().map_err(broken)?;
            if let Some(header) = header.filter(|header| header.length > self.shared.limits.evaluation) {
                left = header.length;
                too_long.get_or_insert_with(|| Box::new(row_too_long(header.length, self.shared.limits.evaluation)));
                // What it answers behind it is not read: everything up to Sync fails, as the client's statement does.
                let out = self.ask();
                build::bind(out, b"", b"pgoutpost: failed here", &[], &[]);
                build::flush(out);
                continue;
            }
            self.pump(Wants::Replica).await?;
        }
    }

    /// Asks the replica a question of our own; results in text. An error leaves the statement there: it is closed before
    /// the next one is asked.
    pub(super) async fn question(&mut self, sql: &str) -> Result<Vec<Vec<Option<Bytes>>>, Failure> {
        let name: &[u8] = b"pgoutpost_question";
        let out = self.ask();
        build::close_statement(out, name);
        build::parse(out, name, sql.as_bytes(), &[]);
        build::bind(out, name, name, &[], &[]);
        build::execute(out, name, 0);
        build::close_portal(out, name);
        build::close_statement(out, name);
        build::flush(out);
        let (mut rows, mut closed) = (Vec::new(), 0);
        while closed < 3 {
            match self.reply().await? {
                (b'D', message) => rows.push(values(message)?),
                (b'3', _) => closed += 1,
                _ => {}
            }
        }
        Ok(rows)
    }

    /// What Postgres says of the client's statement with this name on the replica.
    pub(super) async fn describe(&mut self, prepared: &Prepared, name: &[u8]) -> Result<Arc<Description>, Failure> {
        let version = self.shared.catalog.current().version;
        if std::mem::replace(&mut self.described_at, version) != version {
            self.names.forget_descriptions();
        }
        if let Some(description) = self.names.description(prepared) {
            return Ok(description);
        }
        let out = self.ask();
        build::describe_statement(out, name);
        build::flush(out);
        let description = Arc::new(self.description().await?);
        self.names.describe(prepared, Arc::clone(&description));
        Ok(description)
    }

    /// Reads the answer to Describe of a statement.
    pub(super) async fn description(&mut self) -> Result<Description, Failure> {
        let types = self.reply_of(b't').await.map_err(as_clients)?;
        let types = parameter_types(&types[HEADER..])?;
        match self.reply().await? {
            (b'T', message) => Ok(Description { types, columns: Some(message.freeze()) }),
            _ => Ok(Description { types, columns: None }),
        }
    }

    /// Parses a client's text as the unnamed statement, and asks what Postgres makes of it.
    pub(super) async fn describe_text(&mut self, text: &str) -> Result<Description, Failure> {
        let out = self.ask();
        build::parse(out, b"", text.as_bytes(), &[]);
        build::describe_statement(out, b"");
        build::flush(out);
        self.reads_first = true;
        let described = self.description().await;
        self.reads_first = false;
        let mut description = described.map_err(|failure| match failure {
            // Of one that is not there: Parse lets types be found out, a query string has none.
            Failure::Server(error) if error::code(&error[HEADER..]) == INDETERMINATE_DATATYPE => {
                no_parameter(text).into()
            }
            failure => failure,
        })?;
        if description.types.is_empty() && planning_tells(text, &description)? {
            description.columns = self.planned(b"", &[], &[]).await?.or(description.columns);
        }
        Ok(description)
    }

    /// The columns of a client's statement as Postgres tells them once it is planned, which is what a portal says.
    pub(super) async fn planned(
        &mut self,
        statement: &[u8],
        values: &[Argument<'_>],
        results: &[i16],
    ) -> Result<Option<Bytes>, Failure> {
        let name: &[u8] = b"pgoutpost_planned";
        let out = self.ask();
        build::bind(out, name, statement, values, results);
        build::describe_portal(out, name);
        build::close_portal(out, name);
        build::flush(out);
        let mut columns = None;
        loop {
            match self.reply().await.map_err(as_clients)? {
                (b'T', message) => columns = Some(message.freeze()),
                (b'3', _) => return Ok(columns),
                _ => {}
            }
        }
    }

    /// Reads answers up to one of this kind.
    pub(super) async fn reply_of(&mut self, wanted: u8) -> Result<BytesMut, Failure> {
        loop {
            let (kind, message) = self.reply().await?;
            if kind == wanted {
                return Ok(message);
            }
        }
    }

    /// A portal that wanted to write is not alone in its pipeline: its error stands.
    fn no_retry(&mut self) {
        if let Some(Retry::Portal { error, .. }) = self.retry.take_if(|retry| matches!(retry, Retry::Portal { .. })) {
            self.client.output.extend_from_slice(&error);
            self.failed();
        }
    }

    /// Waits until everything forwarded has been answered.
    pub(super) async fn settle(&mut self) -> Result<(), Failure> {
        if matches!(self.expected.back(), None | Some(Expect::Sync | Expect::Query { .. })) {
            // Answered without being asked to.
        } else {
            build::flush(&mut self.replica.link.output);
        }
        while !self.expected.is_empty() {
            self.relay()?;
            self.no_retry();
            if !self.expected.is_empty() {
                self.pump(Wants::Replica).await?;
            }
        }
        if self.skipping { Err(Failure::Told) } else { Ok(()) }
    }

    /// Ends questions asked outside the client's own pipeline: Sync, and the status it brings.
    pub(super) async fn sync(&mut self) -> Result<(), End> {
        if !self.unsynced {
            return Ok(());
        }
        build::sync(&mut self.replica.link.output);
        self.synced().await
    }

    /// Waits for the answer to a Sync of ours.
    pub(super) async fn synced(&mut self) -> Result<(), End> {
        loop {
            match self.reply().await {
                Ok((b'Z', message)) => {
                    self.adopt(message.last().copied().unwrap_or(b'I'));
                    return Ok(());
                }
                Ok(_) | Err(Failure::Inner(_) | Failure::Server(_) | Failure::Own(_) | Failure::Told) => {}
                Err(Failure::End(end)) => return Err(end),
            }
        }
    }

    /// Ends the replica's implicit transaction, and what it skips after an error; the session's own goes on, with its locks.
    /// Returns the replica's status.
    pub(super) async fn end_on_replica(&mut self) -> Result<u8, Failure> {
        self.settle().await?;
        build::sync(self.ask());
        loop {
            match self.reply().await {
                Ok((b'Z', message)) => return Ok(message.last().copied().unwrap_or(b'I')),
                Ok(_) | Err(Failure::Inner(_) | Failure::Server(_) | Failure::Own(_) | Failure::Told) => {}
                Err(Failure::End(end)) => return Err(end.into()),
            }
        }
    }

    /// Makes the replica's transaction fail, as the client's has: a block, or an implicit transaction, in which settings
    /// and roles may have been set. It is left skipping to the next Sync.
    pub(super) async fn fail_replica(&mut self) -> Result<(), End> {
        let begun = match self.transaction.phase {
            Phase::Open => true,
            Phase::Idle => self.unsynced || self.settings_changed,
            Phase::Failed => false,
        };
        // One that has failed would not answer.
        if self.replica_skips || !begun {
            return Ok(());
        }
        let out = self.ask();
        build::bind(out, b"", b"pgoutpost: failed here", &[], &[]);
        build::flush(out);
        match self.reply().await {
            Err(Failure::End(end)) => Err(end),
            Ok(_) | Err(Failure::Inner(_) | Failure::Server(_) | Failure::Own(_) | Failure::Told) => Ok(()),
        }
    }

    /// Runs a command on the replica that the client must not see, in a query of its own; returns the status after it.
    pub(super) async fn hidden(&mut self, sql: &str) -> Result<u8, Failure> {
        self.sync().await?;
        build::query(&mut self.replica.link.output, sql.as_bytes());
        let mut failed = None;
        loop {
            match self.reply().await {
                Ok((b'Z', message)) => {
                    let status = message.last().copied().unwrap_or(b'I');
                    return failed.map_or(Ok(status), Err);
                }
                Ok(_) => {}
                Err(Failure::End(end)) => return Err(end.into()),
                Err(other) => failed = Some(other),
            }
        }
    }
}
