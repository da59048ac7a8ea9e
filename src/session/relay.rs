//! Answers on their way from the replica to the client, as they come.
//!
//! Each message that was forwarded leaves an [`Expect`]; answers come in that order. Rows pass in pieces, unread. An error
//! makes the server skip what follows up to Sync, so the expectations up to it go too.
//!
//! Nothing hidden passes here: what a session asks for itself is read by `exchange`, after all that is expected has come.

use std::sync::Arc;

use bytes::{Buf, BytesMut};

use super::Session;
use super::failure::End;
use super::statements::{Lone, Prepared};
use super::transaction::Phase;
use crate::sqlstate;
use crate::wire::{self, build, error, read};

/// What a forwarded message will be answered with.
#[derive(Debug)]
pub(super) enum Expect {
    /// ParseComplete; then the statement has this name.
    Parse { name: Vec<u8>, prepared: Option<Arc<Prepared>> },
    /// BindComplete or CloseComplete.
    Bare,
    /// ParameterDescription and a row description.
    Statement,
    /// A row description.
    Portal,
    /// Rows up to CommandComplete, PortalSuspended or EmptyQueryResponse.
    Execute,
    /// ReadyForQuery.
    Sync,
    /// Everything up to ReadyForQuery. `again`: while no row has been passed on.
    Query { again: Option<Unanswered> },
}

/// A query that may be tried again: its message, and its RowDescription, which is kept back until the first row.
#[derive(Debug)]
pub(super) struct Unanswered {
    pub(super) message: BytesMut,
    pub(super) columns: BytesMut,
}

/// A query whose failure was kept from the client, to be tried otherwise.
#[derive(Debug)]
pub(super) enum Retry {
    /// It was cancelled in favour of replay.
    Again(BytesMut),
    /// It wanted to write.
    Straight { message: BytesMut, error: BytesMut },
    /// The same with the extended protocol: the client's portal.
    Portal { lone: Lone, error: BytesMut },
}

impl Session {
    /// Passes on what has come from the replica.
    pub(super) fn relay(&mut self) -> Result<(), End> {
        loop {
            if matches!(self.retry, Some(Retry::Portal { .. })) {
                // The answer to its Sync comes after its own.
                return Ok(());
            }
            if self.passing > 0 {
                let count = self.passing.min(self.replica.link.input.len());
                if count == 0 {
                    return Ok(());
                }
                self.client.output.extend_from_slice(&self.replica.link.input[..count]);
                self.replica.link.input.advance(count);
                self.passing -= count;
                continue;
            }
            let Some(header) = self.replica.link.header().map_err(broken)? else { return Ok(()) };
            if matches!(header.kind, b'D' | b'd') && !self.expected.is_empty() {
                self.answered();
                self.passing = header.length;
                continue;
            }
            if self.expected.is_empty() && !matches!(header.kind, b'N' | b'A' | b'S' | b'E') {
                // It answers a question of ours, however long it is.
                return Ok(());
            }
            if header.length > self.shared.limits.evaluation {
                return Err(End::Replica(format!("it sent a message of {} bytes", header.length)));
            }
            if self.replica.link.input.len() < header.length {
                return Ok(());
            }
            // Nobody is waited for: an error that does not end the connection answers a question of ours.
            let body = &self.replica.link.input[wire::HEADER..header.length];
            let anytime = matches!(header.kind, b'N' | b'A' | b'S') || (header.kind == b'E' && error::is_fatal(body));
            if self.expected.is_empty() && !anytime {
                return Ok(());
            }
            let message = self.replica.link.input.split_to(header.length);
            self.answer(header.kind, message)?;
        }
    }

    fn answer(&mut self, kind: u8, message: BytesMut) -> Result<(), End> {
        match kind {
            b'E' => return self.error(message),
            b'S' => {
                self.parameter(&message);
                return Ok(());
            }
            b'N' | b'A' => {}
            b'Z' => {
                self.ready(message.last().copied().unwrap_or(b'I'));
                return Ok(());
            }
            b'1' => {
                if let Some(Expect::Parse { name, prepared: Some(prepared) }) = self.expected.pop_front() {
                    self.names.statements.insert(name, prepared);
                }
            }
            b'2' | b'3' | b'n' => drop(self.expected.pop_front()),
            b'T' if self.keep_columns(&message) => return Ok(()),
            b'T' if matches!(self.expected.front(), Some(Expect::Statement | Expect::Portal)) => {
                self.expected.pop_front();
            }
            b'C' | b's' | b'I' if matches!(self.expected.front(), Some(Expect::Execute)) => {
                self.expected.pop_front();
            }
            _ => self.answered(),
        }
        self.client.output.extend_from_slice(&message);
        Ok(())
    }

    /// Keeps a RowDescription back while its query may still be tried again.
    fn keep_columns(&mut self, message: &BytesMut) -> bool {
        match self.expected.front_mut() {
            Some(Expect::Query { again: Some(again) }) if again.columns.is_empty() => {
                again.columns.extend_from_slice(message);
                true
            }
            Some(_) | None => false,
        }
    }

    /// Something of a query's answer goes to the client, so it cannot be tried again.
    fn answered(&mut self) {
        if let Some(Expect::Query { again }) = self.expected.front_mut()
            && let Some(again) = again.take()
        {
            self.client.output.extend_from_slice(&again.columns);
        }
    }

    /// ReadyForQuery, of a Sync or a Query of the client's.
    fn ready(&mut self, status: u8) {
        self.expected.pop_front();
        self.adopt(status);
        if self.retry.is_none() {
            build::ready(&mut self.client.output, self.transaction.phase.status());
        }
    }

    /// Takes over the replica's view of the transaction.
    pub(super) fn adopt(&mut self, status: u8) {
        self.unsynced = false;
        self.replica_skips = false;
        if self.transaction.route == super::transaction::Route::Straight {
            // Main's word counts.
            return;
        }
        let phase = Phase::of_status(status);
        match (self.transaction.phase, phase) {
            (Phase::Idle, Phase::Idle) if self.transaction.work.is_empty() => self.end_transaction(false),
            (Phase::Open | Phase::Failed, Phase::Idle) => self.end_transaction(false),
            (Phase::Idle, Phase::Idle) => {}
            (_, phase) => self.transaction.phase = phase,
        }
    }

    /// An error about a forwarded message, or one that ends the connection.
    fn error(&mut self, message: BytesMut) -> Result<(), End> {
        let body = &message[wire::HEADER..];
        if error::is_fatal(body) {
            self.client.output.extend_from_slice(&message);
            return Err(End::ReplicaSaid);
        }
        self.replica_skips = true;
        if let Some(Expect::Query { again }) = self.expected.front_mut() {
            if self.transaction.phase == Phase::Idle
                && let Some(query) = again.take()
            {
                let code = error::code(body);
                if is_recovery_conflict(body) {
                    self.retry = Some(Retry::Again(query.message));
                    return Ok(());
                }
                if code == sqlstate::READ_ONLY_SQL_TRANSACTION {
                    self.retry = Some(Retry::Straight { message: query.message, error: message });
                    return Ok(());
                }
                self.client.output.extend_from_slice(&query.columns);
            }
        } else {
            let Some(Expect::Parse { .. } | Expect::Bare | Expect::Statement | Expect::Portal | Expect::Execute) =
                self.expected.front()
            else {
                self.client.output.extend_from_slice(&message);
                self.failed();
                return Ok(());
            };
            let writes = error::code(body) == sqlstate::READ_ONLY_SQL_TRANSACTION;
            if writes
                && self.transaction.phase == Phase::Idle
                && matches!(self.expected.front(), Some(Expect::Execute))
                && let Some(lone) = self.only_bind.take()
            {
                self.retry = Some(Retry::Portal { lone, error: message });
                self.skip_to_sync();
                return Ok(());
            }
            if let Some(Expect::Parse { name, .. }) = self.expected.front()
                && name.is_empty()
            {
                self.names.statements.remove(&name[..]);
            }
            self.skip_to_sync();
        }
        self.client.output.extend_from_slice(&message);
        self.failed();
        Ok(())
    }

    /// The server skips what follows a failed message, up to Sync.
    fn skip_to_sync(&mut self) {
        while !matches!(self.expected.front(), None | Some(Expect::Sync)) {
            self.expected.pop_front();
        }
        self.skipping = self.expected.is_empty();
    }

    /// What an error does to the client's transaction.
    pub(super) fn failed(&mut self) {
        self.give_back_spare();
        match self.transaction.phase {
            Phase::Idle => self.end_transaction(false),
            Phase::Open | Phase::Failed => {
                // What it has locked since the last savepoint cannot be written any more: others need not wait.
                self.locks.release_to(self.transaction.savepoints.last().map_or(0, |savepoint| savepoint.locks));
                self.transaction.phase = Phase::Failed;
            }
        }
    }

    /// A ParameterStatus of the replica's, passed on.
    pub(super) fn parameter(&mut self, message: &[u8]) {
        match read::parameter_status(&message[wire::HEADER..]) {
            // Clients that look for a writable server find one here.
            Ok((b"in_hot_standby", _)) => {}
            Ok(_) | Err(_) => self.client.output.extend_from_slice(message),
        }
    }
}

/// The server broke the protocol.
pub(super) fn broken(malformed: wire::Malformed) -> End {
    End::Replica(malformed.to_string())
}

/// Whether the replica cancelled a query because replay needed what it was using. The message is not translated when
/// the server's `lc_messages` is English; otherwise the class alone decides, and repeating is harmless. A deadlock with
/// somebody who locks a table whole is one, too: on a standby only replay does (names of lock modes are not translated).
pub(super) fn is_recovery_conflict(body: &[u8]) -> bool {
    let locked_whole = |detail: &[u8]| String::from_utf8_lossy(detail).contains("AccessExclusiveLock");
    match error::code(body) {
        sqlstate::SERIALIZATION_FAILURE => true,
        sqlstate::DEADLOCK_DETECTED => error::field(body, b'D').is_some_and(locked_whole),
        _ => false,
    }
}
