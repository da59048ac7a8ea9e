//! A client of the virtual database: the console, over the simple protocol and as much of the extended as psql and
//! drivers use for it. The words are `console`'s; here is only their way over the wire.

use std::collections::HashMap;

use bytes::BytesMut;

use super::cancel::Registered;
use super::failure::{End, malformed_report};
use super::startup::stopping;
use super::{Shared, failure};
use crate::console::{self, Operator, Reply};
use crate::report::Report;
use crate::sqlstate;
use crate::status::ClientGuard;
use crate::wire::error::{self, Severity};
use crate::wire::link::Link;
use crate::wire::read::{Bind, Execute, Named, Parse, query};
use crate::wire::{self, build};

/// Console statements are short. Bytes.
const STATEMENT_MAX: usize = 64 << 10;
/// Whoever comes this far has not said who he is: he gets only so much memory.
const STATEMENTS_MAX: usize = 64;
const PORTALS_MAX: usize = 16;

struct Console<'a> {
    link: Link,
    shared: &'a Shared,
    guard: &'a ClientGuard,
    operator: Operator<'a>,
    statements: HashMap<Vec<u8>, String>,
    /// A portal is run when it is described or executed, whichever comes first. Gone with the Sync, as Postgres' are outside
    /// of a transaction.
    portals: HashMap<Vec<u8>, Ran>,
    skipping: bool,
}

enum Ran {
    Not(String),
    Done(Reply),
}

/// Serves a console client until it leaves or the daemon stops.
pub(super) async fn serve(mut link: Link, registered: &Registered, shared: &Shared, guard: &ClientGuard, name: String) {
    let out = &mut link.output;
    build::authentication_ok(out);
    let version = format!("15.0 (pgoutpost {})", env!("CARGO_PKG_VERSION"));
    for (name, value) in [
        ("server_version", version.as_str()),
        ("server_encoding", "UTF8"),
        ("client_encoding", "UTF8"),
        ("DateStyle", "ISO, MDY"),
        ("integer_datetimes", "on"),
        ("standard_conforming_strings", "on"),
        ("TimeZone", "UTC"),
    ] {
        build::parameter_status(out, name, value);
    }
    build::backend_key(out, registered.key);
    build::ready(out, b'I');
    let operator = Operator { buffer: Some(&shared.buffer), name };
    let mut console =
        Console { link, shared, guard, operator, statements: HashMap::new(), portals: HashMap::new(), skipping: false };
    loop {
        let next = tokio::select! {
            message = console.link.next(STATEMENT_MAX) => message,
            () = shared.shutdown.cancelled() => {
                error::report(&mut console.link.output, Severity::Fatal, &stopping());
                let _ = console.link.drain().await;
                return;
            }
        };
        let Ok((kind, message)) = next else { return };
        if console.handle(kind, &message[wire::HEADER..]).await.is_err() {
            return;
        }
    }
}

impl Console<'_> {
    async fn handle(&mut self, kind: u8, body: &[u8]) -> Result<(), End> {
        match kind {
            b'X' => return Err(End::Client),
            b'S' => {
                self.skipping = false;
                self.portals.clear();
                build::ready(&mut self.link.output, b'I');
                return Ok(());
            }
            b'H' => return Ok(()),
            _ if self.skipping => return Ok(()),
            b'Q' => {
                let outcome = match query(body).map_err(malformed_report).and_then(text) {
                    Ok(sql) => self.simple(&sql).await,
                    Err(report) => Err(report),
                };
                if let Err(report) = outcome {
                    self.fail(&report);
                }
                build::ready(&mut self.link.output, b'I');
                return Ok(());
            }
            _ => {}
        }
        if let Err(report) = self.extended(kind, body).await {
            self.fail(&report);
            self.skipping = true;
        }
        Ok(())
    }

    fn fail(&mut self, report: &Report) {
        self.guard.error(report.code);
        error::report(&mut self.link.output, Severity::Error, report);
    }

    async fn simple(&mut self, sql: &str) -> Result<(), Report> {
        if sql.trim().trim_matches(';').trim().is_empty() {
            build::bare(&mut self.link.output, b'I');
            return Ok(());
        }
        let reply = console::run(sql, &self.shared.status, &self.operator).await?;
        if !reply.columns.is_empty() {
            describe(&mut self.link.output, &reply.columns);
        }
        answer(&mut self.link.output, &reply);
        Ok(())
    }

    async fn extended(&mut self, kind: u8, body: &[u8]) -> Result<(), Report> {
        let malformed = failure::malformed_report;
        match kind {
            b'P' => {
                let parse = Parse::read(body).map_err(malformed)?;
                let sql = text(parse.sql)?;
                put(&mut self.statements, STATEMENTS_MAX, parse.name, sql, "prepared statements")?;
                build::bare(&mut self.link.output, b'1');
            }
            b'B' => {
                let bind = Bind::read(body).map_err(malformed)?;
                let sql = self.statements.get(bind.statement).ok_or_else(no_statement)?;
                put(&mut self.portals, PORTALS_MAX, bind.portal, Ran::Not(sql.clone()), "portals")?;
                build::bare(&mut self.link.output, b'2');
            }
            b'D' => {
                let named = Named::read(body).map_err(malformed)?;
                if named.statement {
                    let sql = self.statements.get(named.name).ok_or_else(no_statement)?;
                    // What acts must not act when it is only described.
                    let columns = match console::columns(sql)? {
                        Some(columns) => columns.to_vec(),
                        None => console::run(sql, &self.shared.status, &self.operator).await?.columns,
                    };
                    build::message(&mut self.link.output, b't', |body| body.extend_from_slice(&[0, 0]));
                    describe(&mut self.link.output, &columns);
                } else {
                    let reply = Self::ran(&mut self.portals, self.shared, &self.operator, named.name).await?;
                    describe(&mut self.link.output, &reply.columns);
                }
            }
            b'E' => {
                let execute = Execute::read(body).map_err(malformed)?;
                let reply = Self::ran(&mut self.portals, self.shared, &self.operator, execute.portal).await?;
                answer(&mut self.link.output, reply);
            }
            b'C' => {
                let named = Named::read(body).map_err(malformed)?;
                match named.statement {
                    true => drop(self.statements.remove(named.name)),
                    false => drop(self.portals.remove(named.name)),
                }
                build::bare(&mut self.link.output, b'3');
            }
            _ => return Err(Report::new(sqlstate::PROTOCOL_VIOLATION, "the console does not know this message")),
        }
        Ok(())
    }

    async fn ran<'p>(
        portals: &'p mut HashMap<Vec<u8>, Ran>,
        shared: &Shared,
        operator: &Operator<'_>,
        name: &[u8],
    ) -> Result<&'p Reply, Report> {
        let missing = || Report::new(sqlstate::INVALID_CURSOR_NAME, "portal does not exist");
        let portal = portals.get_mut(name).ok_or_else(missing)?;
        if let Ran::Not(sql) = portal {
            *portal = Ran::Done(console::run(sql, &shared.status, operator).await?);
        }
        match portal {
            Ran::Done(reply) => Ok(reply),
            Ran::Not(_) => Err(missing()),
        }
    }
}

/// Keeps what the client has named, in place of what had the name before.
fn put<T>(of: &mut HashMap<Vec<u8>, T>, most: usize, name: &[u8], value: T, what: &str) -> Result<(), Report> {
    if of.len() >= most && !of.contains_key(name) {
        let message = format!("the console keeps {most} {what} of a connection");
        return Err(Report::new(sqlstate::CONFIGURATION_LIMIT_EXCEEDED, message).hint("Close some of them."));
    }
    of.insert(name.to_vec(), value);
    Ok(())
}

fn no_statement() -> Report {
    Report::new(sqlstate::INVALID_SQL_STATEMENT_NAME, "prepared statement does not exist")
}

fn text(sql: &[u8]) -> Result<String, Report> {
    String::from_utf8(sql.to_vec()).map_err(|_| Report::new(sqlstate::SqlState(*b"22021"), "invalid UTF-8"))
}

fn describe(out: &mut BytesMut, columns: &[&'static str]) {
    if columns.is_empty() {
        build::bare(out, b'n');
    } else {
        build::text_columns(out, columns.iter().copied());
    }
}

fn answer(out: &mut BytesMut, reply: &Reply) {
    for row in &reply.rows {
        build::data_row(out, row.iter().map(|value| value.as_deref().map(str::as_bytes)));
    }
    build::command_complete(out, &reply.tag);
}
