//! The extended protocol within a straight transaction: messages go to main as they came.
//!
//! Main has not seen what the client prepared before the transaction became straight: a Parse goes ahead of the first
//! use. What the client prepares meanwhile is prepared on the replica too when the transaction is over.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use bytes::BytesMut;

use super::failure::{End, Failure};
use super::statements::{Parsed, Prepared};
use super::straight::Leaves;
use super::transaction::Phase;
use super::{Session, Wants};
use crate::sql::Unparsed;
use crate::wire::read::{Bind, Named, Parse};
use crate::wire::{HEADER, build, error};

/// What main owes, and what it knows.
#[derive(Debug, Default)]
pub(super) struct Pipeline {
    /// For each unanswered message, whether the client sees the answer.
    owed: VecDeque<bool>,
    /// Statements prepared on main by the client's names.
    known: HashSet<Vec<u8>>,
    /// Those that the replica does not have.
    fresh: Vec<(Vec<u8>, Arc<Prepared>)>,
}

impl Session {
    /// One message of the extended protocol while the transaction is straight.
    pub(super) async fn on_main(&mut self, kind: u8, message: BytesMut) -> Result<(), End> {
        if self.skipping && kind != b'S' {
            return Ok(());
        }
        self.batch = kind != b'S';
        match kind {
            b'P' => {
                if let Ok(parse) = Parse::read(&message[HEADER..]) {
                    let parsed = match std::str::from_utf8(parse.sql) {
                        Ok(text) => self.shared.statements.parse(text),
                        Err(_) => Arc::new(Parsed::unreadable(Unparsed { reason: "not UTF-8".into() })),
                    };
                    let prepared = Prepared { sql: parse.sql.to_vec().into(), types: parse.types, parsed };
                    let (name, prepared) = (parse.name.to_vec(), Arc::new(prepared));
                    self.pipeline.known.insert(name.clone());
                    self.pipeline.fresh.push((name.clone(), Arc::clone(&prepared)));
                    self.names.statements.insert(name, prepared);
                }
            }
            b'B' => {
                if let Ok(bind) = Bind::read(&message[HEADER..]) {
                    self.introduce(bind.statement);
                }
            }
            b'D' | b'C' => {
                if let Ok(named) = Named::read(&message[HEADER..])
                    && named.statement
                {
                    match kind {
                        b'D' => self.introduce(named.name),
                        _ => {
                            self.names.statements.remove(named.name);
                            self.pipeline.known.remove(named.name);
                            build::close_statement(self.ask(), named.name);
                            build::flush(self.ask());
                            if let Err(Failure::End(end)) = self.reply_of(b'3').await {
                                return Err(end);
                            }
                        }
                    }
                }
            }
            _ => {}
        }
        let Some(main) = &mut self.main else { return Err(lost_main()) };
        main.raw.link.output.extend_from_slice(&message);
        match kind {
            b'H' => self.answers_of_main().await.map(drop),
            b'S' => self.sync_on_main().await,
            _ => {
                self.pipeline.owed.push_back(true);
                Ok(())
            }
        }
    }

    /// Prepares on main what it does not know yet.
    fn introduce(&mut self, name: &[u8]) {
        if let Some(prepared) = self.names.statements.get(name)
            && !self.pipeline.known.contains(name)
            && let Some(main) = &mut self.main
        {
            build::parse(&mut main.raw.link.output, name, &prepared.sql, &prepared.types);
            self.pipeline.owed.push_back(false);
            self.pipeline.known.insert(name.to_vec());
        }
    }

    async fn sync_on_main(&mut self) -> Result<(), End> {
        let status = loop {
            if let Some(status) = self.answers_of_main().await? {
                break status;
            }
        };
        self.skipping = false;
        self.held = false;
        self.binds = 0;
        // The replica may have had the beginning of this pipeline.
        self.unsynced = true;
        self.sync().await?;
        let before = self.transaction.phase;
        let now = Phase::of_status(status);
        let followed = self.follow(before, now).await;
        let settled = match followed {
            Ok(()) if now == Phase::Idle => self.leave_main().await,
            followed => followed,
        };
        if let Err(failure) = settled {
            self.tell(failure, 0)?;
        }
        build::ready(&mut self.client.output, now.status());
        Ok(())
    }

    /// After the end of the transaction: the replica gets what it missed.
    async fn leave_main(&mut self) -> Result<(), Failure> {
        let pipeline = std::mem::take(&mut self.pipeline);
        if !pipeline.known.is_empty() {
            self.ask_main("DEALLOCATE ALL").await?;
        }
        self.settle_on_replica(Leaves::Definitions).await?;
        for (name, prepared) in pipeline.fresh {
            let current = self.names.statements.get(&name).is_some_and(|now| Arc::ptr_eq(now, &prepared));
            if current {
                build::close_statement(self.ask(), &name);
                build::parse(self.ask(), &name, &prepared.sql, &prepared.types);
                // Each by itself: one that is wrong by now does not keep the others away.
                self.sync().await?;
            }
        }
        Ok(())
    }

    /// Relays main's answers: until it owes none (`None`), or up to ReadyForQuery (its status).
    async fn answers_of_main(&mut self) -> Result<Option<u8>, End> {
        loop {
            let Some(main) = &mut self.main else { return Err(lost_main()) };
            let Some((kind, message)) = main.raw.link.take().map_err(super::relay::broken)? else {
                if main.raw.link.ended {
                    return Err(lost_main());
                }
                if self.pipeline.owed.is_empty() && self.batch {
                    return Ok(None);
                }
                self.pump(Wants::Main).await?;
                continue;
            };
            let shown = self.pipeline.owed.front().copied().unwrap_or(true);
            match kind {
                b'Z' => return Ok(message.last().copied()),
                b'S' => continue,
                b'E' => {
                    self.pipeline.owed.clear();
                    self.skipping = true;
                    if error::is_fatal(&message[HEADER..]) {
                        self.client.output.extend_from_slice(&message);
                        return Err(End::ReplicaSaid);
                    }
                    self.client.output.extend_from_slice(&message);
                    self.transaction.phase = Phase::Failed;
                    continue;
                }
                b'1' | b'2' | b'3' | b'n' | b'T' | b'C' | b's' | b'I' => drop(self.pipeline.owed.pop_front()),
                _ => {}
            }
            if shown {
                self.client.output.extend_from_slice(&message);
                if self.client.output.len() >= crate::wire::link::OUTPUT_HIGH {
                    self.pump(Wants::Main).await?;
                }
            }
        }
    }
}

fn lost_main() -> End {
    End::Fatal(Box::new(super::straight::lost()))
}
