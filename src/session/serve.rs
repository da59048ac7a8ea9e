//! A session's loop: relay answers, take the client's next message, wait.

use bytes::{Buf, BytesMut};

use super::failure::{End, Failure};
use super::relay::{Expect, Retry};
use super::statements::Lone;
use super::transaction::Route;
use super::{Session, Wants};
use crate::report::Report;
use crate::sqlstate;
use crate::status::ClientState;
use crate::wire::error::{self, Position, Severity};
use crate::wire::link::OUTPUT_HIGH;
use crate::wire::{self, build};

/// How many forwarded messages may be unanswered.
const PIPELINE_MAX: usize = 4096;
/// Marks the kind of a message that was too long; its bytes are the error instead. No kind has this bit.
pub(super) const TOO_LONG: u8 = 0x80;
/// How often a statement is tried again after the catalog changed under it or replay cancelled it.
pub(super) const TRIES: usize = 10;

impl Session {
    /// Serves until the session ends.
    pub(super) async fn serve(&mut self) -> End {
        loop {
            if let Err(end) = self.step().await {
                return end;
            }
        }
    }

    async fn step(&mut self) -> Result<(), End> {
        self.relay()?;
        self.hear_resident()?;
        let ready = self.expected.is_empty() || matches!(self.retry, Some(Retry::Portal { .. }));
        if ready && let Some(retry) = self.retry.take() {
            self.try_otherwise(retry).await?;
        }
        while self.may_take() {
            let Some((kind, message)) = self.take()? else { break };
            if self.expected.is_empty() {
                self.registered.running.settled().await;
                self.guard.state(ClientState::Active);
            }
            self.handle(kind, message).await?;
            self.relay()?;
        }
        if !self.may_take() || self.in_batch() {
            return self.pump(Wants::Both).await;
        }
        if self.is_idle().await? {
            return Ok(());
        }
        self.guard.state(match self.transaction.phase {
            super::transaction::Phase::Idle => ClientState::Idle,
            super::transaction::Phase::Open => ClientState::IdleInTransaction,
            super::transaction::Phase::Failed => ClientState::FailedTransaction,
        });
        self.pump_idly().await
    }

    /// Waits for the client, who may be long in coming: a connection to main in which nothing of the session lives is given
    /// back after a while.
    async fn pump_idly(&mut self) -> Result<(), End> {
        let spare = self.main.as_ref().filter(|_| !self.resident && self.transaction.route == Route::Here);
        let Some(until) = spare.map(|main| main.used + self.shared.limits.keep_main) else {
            return self.pump(Wants::All).await;
        };
        match tokio::time::timeout_at(until, self.pump(Wants::All)).await {
            Ok(pumped) => pumped,
            Err(_) => {
                self.give_main_back().await;
                Ok(())
            }
        }
    }

    /// Whether a statement is under way, or a pipeline not yet ended with Sync.
    fn in_batch(&self) -> bool {
        !self.expected.is_empty() || self.skipping || self.held || self.batch || !self.client.output.is_empty()
    }

    /// Whether there is room for another message's answer. A simple query may have to be tried again, so nothing
    /// follows it before its end.
    fn may_take(&self) -> bool {
        self.expected.len() < PIPELINE_MAX
            && self.client.output.len() < OUTPUT_HIGH
            && self.replica.link.output.len() < OUTPUT_HIGH
            && self.retry.is_none()
            && !matches!(self.expected.back(), Some(Expect::Query { .. }))
    }

    /// The client's next message. One that is too long is answered with an error and skipped, not kept.
    pub(super) fn take(&mut self) -> Result<Option<(u8, BytesMut)>, End> {
        if self.discarding > 0 {
            let count = self.discarding.min(self.client.input.len());
            self.client.input.advance(count);
            self.discarding -= count;
            if self.discarding > 0 {
                return Ok(None);
            }
        }
        let Some(header) = self.client.header()? else { return Ok(None) };
        let limit = self.shared.limits.message;
        if header.length <= limit {
            return Ok(self.client.take()?);
        }
        if !matches!(header.kind, b'Q' | b'P' | b'B' | b'd' | b'F') {
            return Err(End::Protocol(wire::Malformed::Length { kind: header.kind, length: -1 }));
        }
        if !self.expected.is_empty() {
            // Answers in order: what was forwarded comes first.
            return Ok(None);
        }
        self.discarding = header.length;
        let message = format!("a message of {} bytes is too long", header.length);
        let hint = format!("Messages of up to {} MiB are taken (listen.message_max).", limit >> 20);
        let report = Report::new(sqlstate::PROGRAM_LIMIT_EXCEEDED, message).hint(hint);
        Ok(Some((header.kind | TOO_LONG, too_long(&report))))
    }

    async fn handle(&mut self, kind: u8, message: BytesMut) -> Result<(), End> {
        match kind {
            b'X' => Err(End::Client),
            b'P' | b'B' | b'D' | b'E' | b'C' | b'H' | b'S' if self.transaction.route == Route::Straight => {
                self.on_main(kind, message).await
            }
            b'S' => self.client_sync(&message).await,
            _ if self.skipping => Ok(()),
            b'Q' => self.query(message).await,
            b'P' | b'B' | b'D' | b'E' | b'C' | b'H' => {
                self.batch = true;
                match self.extended(kind, message).await {
                    Ok(()) => Ok(()),
                    Err(failure) => self.trip(failure).await,
                }
            }
            // COPY data for a COPY that has failed or ended.
            b'd' | b'c' | b'f' => Ok(()),
            b'F' => self.function_call(&message).await,
            _ if kind & TOO_LONG != 0 => {
                if self.transaction.route == Route::Straight {
                    match kind & !TOO_LONG {
                        b'P' | b'B' => {
                            self.too_long_for_main(&message);
                            return Ok(());
                        }
                        _ => self.fail_main().await?,
                    }
                }
                self.client.output.extend_from_slice(&message);
                if self.transaction.route == Route::Here {
                    self.fail_replica().await?;
                }
                self.failed();
                match kind & !TOO_LONG {
                    b'P' | b'B' => self.skipping = true,
                    _ => {
                        self.sync().await?;
                        build::ready(&mut self.client.output, self.transaction.phase.status());
                    }
                }
                Ok(())
            }
            _ => {
                let message = format!("invalid frontend message type {kind}");
                Err(End::Fatal(Box::new(Report::new(sqlstate::PROTOCOL_VIOLATION, message))))
            }
        }
    }

    /// Tells the client of an error of our own.
    pub(super) fn say(&mut self, report: &Report) {
        self.guard.error(report.code);
        error::report(&mut self.client.output, Severity::Error, report);
    }

    /// Tells the client why a statement failed. `before`: characters of its query string before the statement.
    pub(super) fn tell(&mut self, failure: Failure, before: usize) -> Result<(), End> {
        let out = &mut self.client.output;
        match failure {
            Failure::End(end) => return Err(end),
            Failure::Told => {}
            Failure::Server(message) if before == 0 => out.extend_from_slice(&message),
            Failure::Server(message) => error::repositioned(out, &message[wire::HEADER..], Position::Shift(before)),
            Failure::Inner(message) => error::repositioned(out, &message[wire::HEADER..], Position::Drop),
            Failure::Own(mut report) => {
                report.position = report.position.map(|position| position + before);
                self.say(&report);
            }
        }
        Ok(())
    }

    async fn try_otherwise(&mut self, retry: Retry) -> Result<(), End> {
        match retry {
            Retry::Again(message) => {
                // `query` plans and forwards it as if it had just come.
                self.tries += 1;
                self.query(message).await
            }
            Retry::Straight { message, error } => self.query_refused_by_replica(message, error).await,
            Retry::Portal { lone, error } => self.try_portal_on_main(&lone, &error).await,
        }
    }

    /// The only portal of a pipeline wanted to write. The replica's answer to Sync is taken out of the way first, for
    /// main's comes before it.
    async fn try_portal_on_main(&mut self, lone: &Lone, refusal: &[u8]) -> Result<(), End> {
        let limit = lone.limit.unwrap_or(0);
        let synced = match self.expected.len() {
            0 if limit <= 0 => {
                self.skipping = false;
                self.unsynced = true;
                self.sync().await?;
                false
            }
            1 => {
                self.expected.pop_front();
                if let Err(Failure::End(end)) = self.reply_of(b'Z').await {
                    return Err(end);
                }
                true
            }
            // More pipelines have been sent behind it, or it may go on: its rows would be gone with main's transaction.
            _ => {
                self.client.output.extend_from_slice(refusal);
                self.failed();
                return Ok(());
            }
        };
        let ran = self.straight_refused(lone, limit, refusal).await;
        self.skipping = ran.is_err() && !synced;
        self.tell(ran.err().unwrap_or(Failure::Told), 0)?;
        if synced {
            self.sync().await?;
            build::ready(&mut self.client.output, self.transaction.phase.status());
        }
        Ok(())
    }
}

fn too_long(report: &Report) -> BytesMut {
    let mut message = BytesMut::new();
    error::report(&mut message, Severity::Error, report);
    message
}
