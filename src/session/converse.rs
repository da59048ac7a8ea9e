//! Exchanges with main: what is sent there, and whose answers the client sees.

use bytes::BytesMut;

use super::cancel::Target;
use super::failure::{End, Failure};
use super::serve::TOO_LONG;
use super::straight::lost;
use super::{Session, Wants};
use crate::report::Report;
use crate::sqlstate;
use crate::wire::link::OUTPUT_HIGH;
use crate::wire::{HEADER, build, error};

/// How an exchange with main is shown to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Show {
    /// Everything but ReadyForQuery.
    Answers,
    /// Errors too are kept away.
    Nothing,
}

impl Session {
    /// A question of our own to main; its answer is not shown. Returns the first value.
    pub(super) async fn ask_main(&mut self, sql: &str) -> Result<Option<String>, Failure> {
        let Some(main) = &mut self.main else { return Err(lost().into()) };
        build::query(&mut main.raw.link.output, sql.as_bytes());
        self.asked = None;
        match self.converse(Show::Nothing, false).await? {
            (_, false) => Ok(self.asked.take()),
            (_, true) => {
                let why = self.asked.take().unwrap_or_default();
                let message = format!("main refused what has to go before the statement: {why}");
                Err(Report::new(sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE, message).into())
            }
        }
    }

    /// Relays an exchange with main up to ReadyForQuery; returns its status and whether there was an error. COPY data of
    /// the client goes to main meanwhile. `owes_sync`: the Sync is still to be sent, when the statement is over.
    pub(super) async fn converse(&mut self, show: Show, owes_sync: bool) -> Result<(u8, bool), Failure> {
        self.aim_at_main();
        let outcome = self.converse_inner(show, owes_sync).await;
        // One that is given up cannot be hit any more.
        if self.main.is_some() {
            self.registered.running.settled().await;
        }
        self.aim_at_replica();
        outcome
    }

    /// Cancel requests go to main from now on.
    pub(super) fn aim_at_main(&self) {
        if let Some(main) = &self.main {
            let target = main.raw.key.map(|key| Target { address: main.raw.address.clone(), key });
            self.registered.running.set(target);
        }
    }

    async fn converse_inner(&mut self, show: Show, mut owes_sync: bool) -> Result<(u8, bool), Failure> {
        let (mut failed, mut copying, mut patience) = (false, false, self.patience(show == Show::Answers));
        self.tags.clear();
        (self.pipeline.copied, self.pipeline.early_sync) = (false, false);
        loop {
            let Some(main) = &mut self.main else { return Err(lost().into()) };
            let taken = main.raw.link.take().ok().flatten();
            let Some((kind, message)) = taken else {
                if main.raw.link.ended {
                    self.lose_main();
                    return Err(lost().into());
                }
                if copying {
                    copying = self.copy_to_main()?;
                    // Main waits for the client.
                    self.pump(Wants::Main).await?;
                } else if let Some(report) = self.hear_main(&mut patience).await? {
                    self.lose_main();
                    return Err(report.into());
                }
                continue;
            };
            if matches!(kind, b'C' | b'E' | b'I' | b's') && std::mem::take(&mut owes_sync) {
                build::sync(&mut main.raw.link.output);
            }
            match kind {
                b'Z' => {
                    main.counts_no_idle_time();
                    return Ok((message.last().copied().unwrap_or(b'I'), failed));
                }
                b'S' if show == Show::Answers => {
                    self.parameter(&message);
                    continue;
                }
                // Whoever was asked.
                b'A' => {
                    self.notified(message);
                    continue;
                }
                b'S' | b'1' | b'2' | b'3' => continue,
                b'C' if show == Show::Answers => {
                    self.tags.push(String::from_utf8_lossy(super::control::tag(&message)).into_owned());
                }
                b'E' => {
                    failed = true;
                    if std::mem::take(&mut copying) && std::mem::take(&mut self.pipeline.early_sync) {
                        // Main has failed before it would have ignored the client's Sync.
                        let mut input = BytesMut::from(&b"S\0\0\0\x04"[..]);
                        input.extend_from_slice(&self.client.input);
                        self.client.input = input;
                    }
                    if error::is_fatal(&message[HEADER..]) {
                        self.lose_main();
                        return Err(lost().detail(error::text(&message[HEADER..])).into());
                    }
                    if show == Show::Nothing {
                        self.asked = Some(error::text(&message[HEADER..]));
                    }
                }
                b'D' if show == Show::Nothing => {
                    let row = super::read::values(message.clone())?;
                    let value = row.first().cloned().flatten();
                    self.asked = value.map(|value| String::from_utf8_lossy(&value).into_owned());
                }
                b'G' => copying = true,
                _ => {}
            }
            if show == Show::Answers {
                self.client.output.extend_from_slice(&message);
                if self.client.output.len() >= OUTPUT_HIGH {
                    self.pump(Wants::Main).await?;
                }
            }
        }
    }

    /// Hands the client's COPY data on; false: it has ended.
    pub(super) fn copy_to_main(&mut self) -> Result<bool, End> {
        while self.main.as_ref().is_some_and(|main| main.raw.link.output.len() < OUTPUT_HIGH)
            && let Some((kind, message)) = self.take()?
            && let Some(main) = &mut self.main
        {
            self.pipeline.copied |= matches!(kind, b'd' | b'c' | b'f');
            self.pipeline.early_sync = !self.pipeline.copied && (kind == b'S' || self.pipeline.early_sync);
            let out = &mut main.raw.link.output;
            match kind {
                b'd' => out.extend_from_slice(&message),
                b'c' | b'f' => {
                    out.extend_from_slice(&message);
                    // Main keeps what it says of the end to itself, and has ignored a Flush or Sync from before.
                    build::flush(out);
                    return Ok(false);
                }
                b'X' => return Err(End::Client),
                _ if kind >= TOO_LONG => {
                    build::copy_fail(out, &error::text(&message[HEADER..]));
                    return Ok(false);
                }
                // Flush and Sync during COPY are ignored, as in Postgres.
                _ => {}
            }
        }
        Ok(true)
    }
}
