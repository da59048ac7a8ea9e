//! The extended protocol within a straight transaction: messages go to main as they came.
//!
//! Main has not seen what the client prepared before the transaction became straight: a Parse goes ahead of the first
//! use. What the client prepares meanwhile is prepared on the replica too when the transaction is over.

use std::sync::Arc;

use bytes::BytesMut;

use super::failure::{End, Failure};
use super::ids::may_set_sequences;
use super::mirror::{REFUSED, deed, names};
use super::owed::Owed;
use super::statements::{Late, Parsed, Prepared};
use super::straight::Leaves;
use super::transaction::Phase;
use super::{Session, Wants};
use crate::report::Report;
use crate::sql::{Class, Statement, Unparsed};
use crate::status::StatementKind;
use crate::wire::read::{Bind, Execute, Named, Parse};
use crate::wire::{HEADER, build, error};

/// A statement of our own on main.
const OWN: &[u8] = b"pgoutpost_late";

impl Session {
    /// One message of the extended protocol while the transaction is straight.
    pub(super) async fn on_main(&mut self, kind: u8, message: BytesMut) -> Result<(), End> {
        if self.skipping && kind != b'S' {
            return Ok(());
        }
        self.batch = kind != b'S';
        if let Err(report) = self.not_overtaken() {
            return Err(End::Fatal(Box::new(report)));
        }
        let mut owed = Owed::default();
        match kind {
            b'P' => {
                if let Ok(parse) = Parse::read(&message[HEADER..]) {
                    let parsed = match std::str::from_utf8(parse.sql) {
                        Ok(text) => self.shared.statements.parse(text),
                        Err(_) => Arc::new(Parsed::unreadable(Unparsed { reason: "not UTF-8".into() })),
                    };
                    self.goes_to_main(&String::from_utf8_lossy(parse.sql), &parsed);
                    self.own_settings.extend(parsed.own_settings.iter().cloned());
                    if let Some(main) = &mut self.main {
                        main.has_names |= !parse.name.is_empty();
                    }
                    if let Some(name) = parsed.single().and_then(names) {
                        self.introduce_by_sql(&name).await?;
                    }
                    owed.refused = self.is_taken(parse.name).await?;
                    let prepared = Prepared { sql: parse.sql.to_vec().into(), types: parse.types, parsed };
                    owed.prepares = Some((parse.name.to_vec(), Arc::new(prepared)));
                }
            }
            b'B' => {
                if let Ok(bind) = Bind::read(&message[HEADER..]) {
                    let prepared = self.prepared_on_main(bind.statement);
                    let statement = prepared.as_ref().and_then(|prepared| prepared.parsed.single());
                    // It may have been named before the transaction was main's.
                    if let Some(name) = statement.and_then(names) {
                        self.introduce_by_sql(&name).await?;
                    }
                    self.introduce(bind.statement);
                    owed.refused = statement.and_then(|statement| self.may_run(statement).err());
                    self.pipeline.copies |= statement.is_some_and(|statement| statement.class == Class::CopyIn);
                    if owed.refused.is_none() {
                        owed.refused = self.alone_on_main(prepared.as_deref(), statement).await?;
                    }
                    if let Some(text) = prepared.as_ref().and_then(|prepared| std::str::from_utf8(&prepared.sql).ok())
                        && may_set_sequences(text)
                    {
                        self.pipeline.set_sequences.push(text.to_owned());
                    }
                    match statement.and_then(deed) {
                        Some(deed) => drop(self.pipeline.portals.insert(bind.portal.to_vec(), deed)),
                        None => drop(self.pipeline.portals.remove(bind.portal)),
                    }
                }
            }
            b'E' => {
                if let Ok(execute) = Execute::read(&message[HEADER..]) {
                    owed.deed = self.pipeline.portals.get(execute.portal).cloned();
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
                            self.names.late.remove(named.name);
                            self.pipeline.forget(named.name);
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
        if kind == b'S' && std::mem::take(&mut self.pipeline.copies) {
            // While it copies main ignores it, and when it fails before it has read any data it does not.
            let Some(main) = &mut self.main else { return Err(lost_main()) };
            build::flush(&mut main.raw.link.output);
            (self.batch, self.pipeline.copied) = (true, false);
            self.answers_of_main().await?;
            if self.pipeline.copied {
                return Ok(());
            }
            self.batch = false;
        }
        let Some(main) = &mut self.main else { return Err(lost_main()) };
        match &owed.refused {
            Some(_) => build::parse(&mut main.raw.link.output, b"", REFUSED.as_bytes(), &[]),
            None => main.raw.link.output.extend_from_slice(&message),
        }
        match kind {
            b'H' => self.answers_of_main().await.map(drop),
            b'S' => self.sync_on_main().await,
            _ => {
                self.pipeline.owed.push_back(owed);
                Ok(())
            }
        }
    }

    /// A message that was too long to be kept: main's transaction fails as the client's does.
    pub(super) fn too_long_for_main(&mut self, message: &[u8]) {
        let report = Report::new(error::code(&message[HEADER..]), error::text(&message[HEADER..]));
        if let Some(main) = &mut self.main {
            build::parse(&mut main.raw.link.output, b"", REFUSED.as_bytes(), &[]);
        }
        self.batch = true;
        self.pipeline.owed.push_back(Owed { refused: Some(report), ..Owed::default() });
    }

    /// A name that the client gave before main had the transaction: main does not know it, and would give it again.
    async fn is_taken(&mut self, name: &[u8]) -> Result<Option<Report>, End> {
        if name.is_empty()
            || self.transaction.phase == Phase::Failed
            || !self.names.statements.contains_key(name)
            || self.pipeline.known.contains(name)
        {
            return Ok(None);
        }
        let text = String::from_utf8_lossy(name);
        // It may have been taken away by SQL.
        let there = self.names.late.contains_key(name)
            || match self.find_named(&text).await {
                Ok(named) => named.is_some(),
                Err(Failure::End(end)) => return Err(end),
                Err(Failure::Inner(_) | Failure::Server(_) | Failure::Own(_) | Failure::Told) => false,
            };
        let message = format!("prepared statement \"{text}\" already exists");
        Ok(there.then(|| Report::new(crate::sqlstate::SqlState(*b"42P05"), message)))
    }

    /// Why a statement cannot be run: what it writes is written at the site.
    async fn alone_on_main(
        &mut self,
        prepared: Option<&Prepared>,
        statement: Option<&Statement>,
    ) -> Result<Option<Report>, End> {
        match self.may_begin_on_main(prepared, statement).await {
            Ok(()) | Err(Failure::Told) => Ok(None),
            Err(Failure::Own(report)) => Ok(Some(*report)),
            Err(Failure::End(end)) => Err(end),
            Err(Failure::Inner(why) | Failure::Server(why)) => {
                let report = Report::new(crate::sqlstate::INTERNAL_ERROR, error::text(&why[HEADER..]));
                Ok(Some(report))
            }
        }
    }

    async fn may_begin_on_main(
        &mut self,
        prepared: Option<&Prepared>,
        statement: Option<&Statement>,
    ) -> Result<(), Failure> {
        if self.transaction.phase == Phase::Idle {
            self.guard.statement(StatementKind::Straight);
            let settings = self.settings().await?;
            let leaves = prepared
                .map_or(Leaves::Definitions, |prepared| self.leaves_on_main(statement, &prepared.parsed, &settings));
            self.pipeline.leaves = self.pipeline.leaves.max(leaves);
            if !self.pipeline.drained && Session::looks_at_rows(statement.map_or(&[], std::slice::from_ref)) {
                self.drained().await?;
                self.pipeline.drained = true;
            }
        }
        self.have_alone(statement.map_or(&[], std::slice::from_ref)).await
    }

    /// What the client means by a statement's name, when all that is under way has been answered.
    fn prepared_on_main(&self, name: &[u8]) -> Option<Arc<Prepared>> {
        let under_way = self.pipeline.under_way(name).cloned();
        under_way.or_else(|| self.names.statements.get(name).cloned())
    }

    /// Main has taken what the client prepares.
    fn has_prepared(&mut self, name: Vec<u8>, prepared: Arc<Prepared>) {
        self.pipeline.known.insert(name.clone());
        self.pipeline.fresh.push((name.clone(), Arc::clone(&prepared)));
        self.names.statements.insert(name, prepared);
    }

    /// Prepares on main what it does not know yet.
    fn introduce(&mut self, name: &[u8]) {
        if let Some(prepared) = self.names.statements.get(name)
            && !self.pipeline.known.contains(name)
            && self.pipeline.under_way(name).is_none()
            && let Some(main) = &mut self.main
        {
            build::parse(&mut main.raw.link.output, name, &prepared.sql, &prepared.types);
            main.has_names = true;
            self.pipeline.owed.push_back(Owed { hidden: true, ..Owed::default() });
            self.pipeline.known.insert(name.to_vec());
        }
    }

    /// The same before a statement of SQL that names it.
    async fn introduce_by_sql(&mut self, name: &str) -> Result<(), End> {
        if self.pipeline.known.contains(name.as_bytes()) {
            return Ok(());
        }
        if let Some(Late::Prepare(prepare)) = self.names.late.get(name.as_bytes()) {
            let prepare = prepare.clone();
            self.introduce_late(name, &prepare);
            return Ok(());
        }
        let (text, types) = match self.find_named(name).await {
            Ok(Some(named)) => named.into_parse(),
            Err(Failure::End(end)) => return Err(end),
            Ok(None) | Err(Failure::Inner(_) | Failure::Server(_) | Failure::Own(_) | Failure::Told) => return Ok(()),
        };
        if let Some(main) = &mut self.main {
            build::parse(&mut main.raw.link.output, name.as_bytes(), text.as_bytes(), &types);
            main.has_names = true;
            self.pipeline.owed.push_back(Owed { hidden: true, ..Owed::default() });
            self.pipeline.known.insert(name.as_bytes().to_vec());
        }
        Ok(())
    }

    /// The same, of what SQL's PREPARE has named and the replica could not prepare.
    fn introduce_late(&mut self, name: &str, prepare: &str) {
        let Some(main) = &mut self.main else { return };
        let out = &mut main.raw.link.output;
        build::parse(out, OWN, prepare.as_bytes(), &[]);
        build::bind(out, OWN, OWN, &[], &[]);
        build::execute(out, OWN, 0);
        build::close_statement(out, OWN);
        main.has_names = true;
        for _ in 0..4 {
            self.pipeline.owed.push_back(Owed { hidden: true, ..Owed::default() });
        }
        self.pipeline.known.insert(name.as_bytes().to_vec());
    }

    async fn sync_on_main(&mut self) -> Result<(), End> {
        let Some(status) = self.answers_of_main().await? else {
            // This Sync was within a COPY, where main ignores it: the client sends another.
            return Ok(());
        };
        self.skipping = false;
        self.held = false;
        self.binds = 0;
        // The replica may have had the beginning of this pipeline.
        self.unsynced = true;
        self.sync().await?;
        let now = Phase::of_status(status);
        let done = std::mem::take(&mut self.pipeline.done);
        for text in std::mem::take(&mut self.pipeline.set_sequences) {
            if now == Phase::Open
                && let Err(failure) = self.sequences_were_set(&text).await
            {
                self.tell(failure, 0)?;
            }
        }
        let settled = match self.mirror(&done, now).await {
            Ok(()) if now == Phase::Idle => self.leave_main(self.pipeline.leaves).await,
            mirrored => mirrored,
        };
        let claimed = match settled {
            Ok(()) => self.claim_unseen().await,
            failed => failed,
        };
        if let Err(failure) = claimed {
            self.tell(failure, 0)?;
        }
        self.is_still_there()?;
        build::ready(&mut self.client.output, now.status());
        Ok(())
    }

    /// Relays main's answers: until it owes none (`None`), or up to ReadyForQuery (its status). A cancel request is main's
    /// meanwhile.
    async fn answers_of_main(&mut self) -> Result<Option<u8>, End> {
        self.aim_at_main();
        let answered = self.answers_of_main_inner().await;
        if self.main.is_some() {
            self.registered.running.settled().await;
        }
        self.aim_at_replica();
        answered
    }

    async fn answers_of_main_inner(&mut self) -> Result<Option<u8>, End> {
        let (mut copying, mut patience) = (false, self.patience(true));
        loop {
            let Some(main) = &mut self.main else { return Err(lost_main()) };
            let Some((kind, message)) = main.raw.link.take().map_err(super::relay::broken)? else {
                if main.raw.link.ended {
                    return Err(lost_main());
                }
                if copying && !self.copy_to_main()? {
                    // Main tells how it ended at the client's next Sync: one that came before, it has ignored.
                    self.batch = true;
                    return Ok(None);
                }
                if self.pipeline.owed.is_empty() && self.batch {
                    return Ok(None);
                }
                if copying {
                    self.pump(Wants::Main).await?;
                } else if let Some(report) = self.hear_main(&mut patience).await? {
                    self.lose_main();
                    return Err(End::Fatal(Box::new(report)));
                }
                continue;
            };
            let hidden = self.pipeline.owed.front().is_some_and(|owed| owed.hidden);
            match kind {
                b'Z' => {
                    main.counts_no_idle_time();
                    return Ok(message.last().copied());
                }
                b'S' => {
                    self.parameter(&message);
                    continue;
                }
                b'E' => {
                    let refused = self.pipeline.owed.front_mut().and_then(|owed| owed.refused.take());
                    self.pipeline.owed.clear();
                    self.skipping = true;
                    if error::is_fatal(&message[HEADER..]) {
                        self.client.output.extend_from_slice(&message);
                        return Err(End::ReplicaSaid);
                    }
                    match refused {
                        Some(report) => self.say(&report),
                        None => self.client.output.extend_from_slice(&message),
                    }
                    if self.transaction.phase != Phase::Idle {
                        self.transaction.phase = Phase::Failed;
                    }
                    if copying {
                        self.batch = true;
                        return Ok(None);
                    }
                    continue;
                }
                b'A' => {
                    self.notified(message);
                    continue;
                }
                b'G' => copying = true,
                b'1' | b'2' | b'3' | b'n' | b'T' | b'C' | b's' | b'I' => {
                    let Owed { deed, prepares, .. } = self.pipeline.owed.pop_front().unwrap_or_default();
                    if let Some((name, prepared)) = prepares {
                        self.has_prepared(name, prepared);
                    }
                    if let Some(deed) = deed.filter(|_| kind == b'C') {
                        let tag = String::from_utf8_lossy(super::control::tag(&message)).into_owned();
                        self.pipeline.done.push((deed, tag));
                    }
                }
                _ => {}
            }
            if !hidden {
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
