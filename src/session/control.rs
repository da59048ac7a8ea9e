//! Transaction control: BEGIN, COMMIT, ROLLBACK, savepoints, SET TRANSACTION.
//!
//! Every command runs on the replica too, so its tags, warnings and errors are Postgres' own; what it does to effects
//! and locks follows what the replica answered. COMMIT of a transaction with effects first makes them durable: when
//! the buffer refuses, the replica's transaction is rolled back and the client told why.

use bytes::BytesMut;

use super::Session;
use super::failure::{End, Failure};
use super::settings::Settings;
use super::transaction::{Phase, Route};
use crate::report::Report;
use crate::sql::{Isolation, TransactionCommand};
use crate::sqlstate;
use crate::status::StatementKind;
use crate::wire::{HEADER, build};

/// What a standby is told in place of a command that it would refuse; `None`: the client's own text.
pub(super) fn for_standby(command: &TransactionCommand) -> Option<String> {
    let (verb, isolation, read_only) = match command {
        TransactionCommand::Begin { isolation, read_only, start } => (begin(*start), isolation, read_only),
        TransactionCommand::Characteristics { isolation, read_only } => ("SET TRANSACTION", isolation, read_only),
        TransactionCommand::Commit { .. }
        | TransactionCommand::Rollback { .. }
        | TransactionCommand::Savepoint(_)
        | TransactionCommand::Release(_)
        | TransactionCommand::RollbackTo(_) => return None,
    };
    if *read_only != Some(false) && *isolation != Some(Isolation::Serializable) {
        return None;
    }
    let isolation = match isolation {
        Some(Isolation::Serializable) => level(&Some(Isolation::RepeatableRead)),
        other => level(other),
    };
    let read_only = if *read_only == Some(true) { " READ ONLY" } else { "" };
    match (verb, isolation, read_only) {
        // Something that changes nothing, has the same tag and may come at any place.
        ("SET TRANSACTION", "", "") => Some("SET LOCAL pgoutpost.nothing = ''".into()),
        _ => Some(format!("{verb}{isolation}{read_only}")),
    }
}

fn level(isolation: &Option<Isolation>) -> &'static str {
    match isolation {
        Some(Isolation::ReadUncommitted) => " ISOLATION LEVEL READ UNCOMMITTED",
        Some(Isolation::ReadCommitted) => " ISOLATION LEVEL READ COMMITTED",
        Some(Isolation::RepeatableRead) => " ISOLATION LEVEL REPEATABLE READ",
        Some(Isolation::Serializable) => " ISOLATION LEVEL SERIALIZABLE",
        None => "",
    }
}

fn begin(start: bool) -> &'static str {
    if start { "START TRANSACTION" } else { "BEGIN" }
}

/// The tag of a CommandComplete message.
pub(super) fn tag(message: &[u8]) -> &[u8] {
    let body = &message[HEADER..];
    body.strip_suffix(b"\0").unwrap_or(body)
}

impl Session {
    /// Runs a command. `execute`: the client's Execute message, whose portal the replica has; `None`: simple protocol,
    /// the text is run by [`Session::pass`].
    pub(super) async fn control(
        &mut self,
        command: &TransactionCommand,
        execute: Option<&BytesMut>,
    ) -> Result<(), Failure> {
        self.guard.statement(StatementKind::Transaction);
        if self.transaction.route == Route::Straight {
            return self.control_straight(command).await;
        }
        let answer = self.control_here(command, execute).await?;
        self.client.output.extend_from_slice(&answer);
        Ok(())
    }

    /// The same without the client's hearing of it: the CommandComplete is returned.
    async fn control_here(
        &mut self,
        command: &TransactionCommand,
        execute: Option<&BytesMut>,
    ) -> Result<BytesMut, Failure> {
        let durable = self.before(command).await?;
        let answer = match execute {
            Some(message) => {
                self.ask().extend_from_slice(message);
                build::flush(self.ask());
                self.reply_of(b'C').await
            }
            None => {
                let text = for_standby(command).unwrap_or_else(|| plain(command));
                self.run_unnamed(&text).await
            }
        };
        let answer = match answer {
            Ok(answer) => answer,
            // Whatever becomes of the replica's transaction: the client's is committed, and it must hear so.
            Err(failure) if durable => {
                self.after(command, false);
                let mut answer = BytesMut::new();
                build::command_complete(&mut answer, "COMMIT");
                if let Failure::End(end) = failure {
                    self.client.output.extend_from_slice(&answer);
                    return Err(end.into());
                }
                if self.replica_skips {
                    self.sync().await?;
                }
                return Ok(answer);
            }
            Err(Failure::Inner(message)) => return Err(Failure::Server(message)),
            Err(other) => return Err(other),
        };
        if matches!(command, TransactionCommand::Begin { .. }) && self.transaction.phase == Phase::Idle {
            self.keep_defaults().await?;
        }
        self.after(command, tag(&answer) == b"ROLLBACK");
        Ok(answer)
    }

    /// Begins the block that Postgres makes of a query string of several statements.
    pub(super) async fn begin_implicitly(&mut self) -> Result<(), Failure> {
        let begin = TransactionCommand::Begin { isolation: None, read_only: None, start: false };
        self.control_here(&begin, None).await?;
        self.transaction.implicit = true;
        Ok(())
    }

    /// Commits what [`Session::begin_implicitly`] has begun.
    pub(super) async fn commit_implicitly(&mut self) -> Result<(), Failure> {
        self.control_here(&TransactionCommand::Commit { chain: false }, None).await.map(drop)
    }

    /// Its string has failed: the block is over, and the client is outside of one again.
    pub(super) async fn roll_back_implicitly(&mut self) -> Result<(), End> {
        if self.transaction.phase == Phase::Idle {
            return Ok(());
        }
        if let Err(Failure::End(end)) = self.hidden("ROLLBACK").await {
            return Err(end);
        }
        self.end_transaction(false);
        Ok(())
    }

    /// Runs a short command on the replica by the unnamed statement and portal; returns its CommandComplete.
    pub(super) async fn run_unnamed(&mut self, text: &str) -> Result<BytesMut, Failure> {
        let out = self.ask();
        build::parse(out, b"", text.as_bytes(), &[]);
        build::bind(out, b"", b"", &[], &[]);
        build::execute(out, b"", 0);
        build::flush(out);
        self.reply_of(b'C').await
    }

    /// COMMIT makes the effects durable first. Returns whether there were any.
    async fn before(&mut self, command: &TransactionCommand) -> Result<bool, Failure> {
        let TransactionCommand::Commit { chain } = command else { return Ok(false) };
        // Outside of a block there is nothing to be chained to, as the replica will say.
        let refused = *chain && self.transaction.phase == Phase::Idle;
        if refused || self.transaction.phase == Phase::Failed || self.transaction.work.is_empty() {
            return Ok(false);
        }
        let committed = self.commit().await;
        if let Err(failure) = committed {
            if self.transaction.phase == Phase::Open && self.replica_skips {
                self.hidden("ROLLBACK").await?;
            } else if self.transaction.phase == Phase::Open {
                // Not by the unnamed portal: a client's Execute may still be about it.
                let out = self.ask();
                build::parse(out, b"pgoutpost_rollback", b"ROLLBACK", &[]);
                build::bind(out, b"pgoutpost_rollback", b"pgoutpost_rollback", &[], &[]);
                build::execute(out, b"pgoutpost_rollback", 0);
                build::close_statement(out, b"pgoutpost_rollback");
                build::flush(out);
                self.reply_of(b'3').await?;
            }
            self.transaction.phase = Phase::Idle;
            self.end_transaction(false);
            return Err(failure);
        }
        Ok(true)
    }

    fn after(&mut self, command: &TransactionCommand, rolled_back: bool) {
        match command {
            TransactionCommand::Begin { isolation, read_only, .. } => {
                if self.transaction.phase == Phase::Idle {
                    self.transaction.begin(*isolation, *read_only);
                    self.transaction.begun = self.shared.sides.moment();
                }
            }
            TransactionCommand::Commit { chain } | TransactionCommand::Rollback { chain } => {
                if rolled_back && self.settings_changed {
                    self.settings = None;
                }
                let open = self.transaction.phase != Phase::Idle;
                self.names.portals.clear();
                self.end_transaction(*chain && open);
            }
            TransactionCommand::Savepoint(name) => self.transaction.save(name, self.locks.mark()),
            TransactionCommand::Release(name) => self.transaction.release(name),
            TransactionCommand::RollbackTo(name) => {
                if let Some(mark) = self.transaction.roll_back_to(name) {
                    self.locks.release_to(mark);
                }
                if self.settings_changed {
                    self.settings = None;
                }
            }
            TransactionCommand::Characteristics { isolation, read_only } => {
                self.transaction.isolation = isolation.or(self.transaction.isolation);
                self.transaction.read_only = read_only.or(self.transaction.read_only);
            }
        }
    }

    /// Makes sure that one role writes the whole transaction, as which main is to do it.
    ///
    /// # Errors
    /// 0A000 when another one has begun.
    pub(super) fn writes_as_one(&mut self, settings: &Settings) -> Result<(), Report> {
        let work = &mut self.transaction.work;
        if work.is_empty() {
            work.role.clone_from(&settings.role);
        }
        if work.role == settings.role {
            return Ok(());
        }
        let message = format!("the transaction has buffered writes of role \"{}\" already", work.role);
        Err(Report::new(sqlstate::FEATURE_NOT_SUPPORTED, message)
            .detail("A buffered transaction is done on main as one role.")
            .hint("Commit before SET ROLE or RESET ROLE."))
    }

    /// The transaction is over: its effects, locks and local settings with it.
    pub(super) fn end_transaction(&mut self, chain: bool) {
        if self.transaction.is_touched() {
            self.transaction.end(chain);
            self.transaction.begun = self.shared.sides.moment();
        }
        // What main has of it the replica may not have yet.
        if !self.seat.has_handed_over() {
            self.locks.release(None);
        }
        self.seat.leave_here();
        if self.resident {
            self.transaction.route = Route::Straight;
        }
        self.local_settings = false;
        if std::mem::take(&mut self.settings_changed) {
            self.settings = None;
        }
    }
}

/// The command without comments and spelling of its own.
pub(super) fn plain(command: &TransactionCommand) -> String {
    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    let chained = |verb: &str, chain: bool| if chain { format!("{verb} AND CHAIN") } else { verb.to_owned() };
    let modes = |verb: &str, isolation: &Option<Isolation>, read_only: &Option<bool>| {
        let isolation = level(isolation);
        let access = match read_only {
            Some(true) => " READ ONLY",
            Some(false) => " READ WRITE",
            None => "",
        };
        format!("{verb}{isolation}{access}")
    };
    match command {
        TransactionCommand::Begin { isolation, read_only, start } => modes(begin(*start), isolation, read_only),
        TransactionCommand::Characteristics { isolation, read_only } => modes("SET TRANSACTION", isolation, read_only),
        TransactionCommand::Commit { chain } => chained("COMMIT", *chain),
        TransactionCommand::Rollback { chain } => chained("ROLLBACK", *chain),
        TransactionCommand::Savepoint(name) => format!("SAVEPOINT {}", quoted(name)),
        TransactionCommand::Release(name) => format!("RELEASE {}", quoted(name)),
        TransactionCommand::RollbackTo(name) => format!("ROLLBACK TO {}", quoted(name)),
    }
}
