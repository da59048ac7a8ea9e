//! What a client's session is (its settings and rights), carried from the replica, where it lives, to main and back.
//!
//! Before main runs a statement its session is made like the replica's; what is different there when the transaction is
//! over, the transaction has left, and the replica's session gets it. So Postgres itself decides what SET LOCAL and
//! rollbacks mean. **A session that has given up rights never gets them back by a failure: it ends instead.**

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::Session;
use super::failure::{End, Failure};
use super::settings::Settings;
use crate::report::Report;
use crate::setup::{identifier, literal};
use crate::sqlstate;
use crate::wire::{HEADER, error};

/// Asks for a [`State`]. What is the transaction's, and what evaluations count with, is left out.
const STATE: &str = "pg_catalog.json_build_object('user', session_user, \
 'role', pg_catalog.current_setting('role'), 'settings', (SELECT pg_catalog.json_object_agg(s.name, s.setting) \
 FROM (SELECT s.name, s.setting FROM pg_catalog.pg_settings s WHERE s.source = 'session' \
 AND s.context IN ('user', 'superuser') \
 AND s.name NOT IN ('transaction_isolation', 'transaction_read_only', 'transaction_deferrable') \
 AND s.name NOT LIKE 'pgoutpost.%' OR s.name IN ('search_path', 'DateStyle', 'IntervalStyle', 'bytea_output', \
 'extra_float_digits', 'TimeZone', 'application_name', 'pgoutpost.commit', 'pgoutpost.read')";

/// The same, with settings whose names have a dot: Postgres lists those nowhere.
pub(super) fn state(own: &BTreeSet<String>) -> String {
    let named = own.iter().filter(|name| !name.starts_with("pgoutpost.")).map(|name| {
        let name = literal(name);
        format!(
            " UNION ALL SELECT {name}, pg_catalog.current_setting({name}, true) \
             WHERE pg_catalog.current_setting({name}, true) IS NOT NULL"
        )
    });
    format!("{STATE}{}) s))", named.collect::<String>())
}

/// A session's own settings and its rights.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct State {
    /// `session_user`.
    user: String,
    /// A role, or `none`.
    role: String,
    /// What SET has said, and what a statement's meaning hangs on most, wherever it comes from.
    settings: BTreeMap<String, Option<String>>,
}

fn set<'a>(settings: impl Iterator<Item = (&'a String, &'a Option<String>)>) -> String {
    let one = |(name, value): (&String, &Option<String>)| {
        let value = literal(value.as_deref().unwrap_or_default());
        format!("pg_catalog.set_config({}, {value}, false)", literal(name))
    };
    let all: Vec<String> = settings.map(one).collect();
    if all.is_empty() { String::new() } else { format!("SELECT {}; ", all.join(", ")) }
}

impl State {
    /// SQL that gives its settings to another session.
    pub(super) fn settings(&self) -> String {
        set(self.settings.iter())
    }

    /// SQL by which a session of the user `login` gets these rights.
    fn rights(&self, login: &str) -> String {
        let mut sql = String::new();
        if self.user != login {
            sql.push_str(&format!("SET SESSION AUTHORIZATION {}; ", identifier(&self.user)));
        }
        match self.role.as_str() {
            "none" => sql.push_str("SET ROLE NONE; "),
            role => sql.push_str(&format!("SET ROLE {}; ", identifier(role))),
        }
        sql
    }

    /// SQL that makes another session like this one. What only other rights can set is set with those of `login`.
    fn give(&self, login: &str) -> String {
        format!("RESET SESSION AUTHORIZATION; RESET ALL; {}{}", self.settings(), self.rights(login))
    }

    /// SQL that does to another session what was done to this one since it was `before`; empty: nothing.
    fn since(&self, before: &State, login: &str) -> String {
        let moved = (&self.user, &self.role) != (&before.user, &before.role);
        let mut sql = String::new();
        if moved {
            sql.push_str("RESET SESSION AUTHORIZATION; ");
        }
        for name in before.settings.keys().filter(|name| !self.settings.contains_key(*name)) {
            let parts: Vec<String> = name.split('.').map(identifier).collect();
            sql.push_str(&format!("RESET {}; ", parts.join(".")));
        }
        sql.push_str(&set(self.settings.iter().filter(|(name, value)| before.settings.get(*name) != Some(*value))));
        if moved {
            sql.push_str(&self.rights(login));
        }
        sql
    }
}

impl Session {
    /// Makes main's session what the replica's is.
    ///
    /// # Errors
    /// 55000 when main refuses one of its settings.
    pub(super) async fn give_session_to_main(&mut self) -> Result<(), Failure> {
        let state = state(&self.own_settings);
        let rows = self.question(&format!("SELECT {state}")).await?;
        let text = rows.first().and_then(|row| row.first().cloned().flatten()).unwrap_or_default();
        let here: State = serde_json::from_slice(&text).map_err(|error| unexpected(&error))?;
        let asked = self.ask_main(&format!("{}SELECT {state}", here.give(&self.who.user))).await?;
        let there: State = serde_json::from_str(&asked.unwrap_or_default()).map_err(|error| unexpected(&error))?;
        if let Some(main) = &mut self.main {
            main.state = Some(there);
        }
        Ok(())
    }

    /// Does to the replica's session what was done to main's.
    ///
    /// # Errors
    /// The session ends when the replica refuses: it would go on with other rights or settings than it has been told.
    pub(super) async fn take_session_back(&mut self, now: State) -> Result<(), Failure> {
        let Some(main) = &mut self.main else { return Ok(()) };
        let Some(before) = main.state.replace(now.clone()) else { return Ok(()) };
        let sql = now.since(&before, &self.who.user);
        if sql.is_empty() {
            return Ok(());
        }
        self.changes_settings(true);
        match self.hidden(&sql).await {
            Ok(_) => Ok(()),
            Err(Failure::End(end)) => Err(end.into()),
            Err(Failure::Inner(why) | Failure::Server(why)) => Err(session_lost(&error::text(&why[HEADER..])).into()),
            Err(Failure::Own(why)) => Err(session_lost(&why.message).into()),
            Err(Failure::Told) => Err(session_lost("it was skipped").into()),
        }
    }
}

/// SQL by which another connection of the user reads statements as a session with these settings does.
pub(super) fn carry_over(settings: &Settings, user: &str) -> String {
    let given = settings.to_carry_over().map(|(name, value)| (name.to_owned(), Some(value.to_owned())));
    let role = if settings.role == user { "NONE".to_owned() } else { identifier(&settings.role) };
    format!("{}SET ROLE {role}", set(given.iter().map(|(name, value)| (name, value))))
}

/// What was done on main stands, but the session cannot go on as the client believes it to be.
pub(super) fn session_lost(why: &str) -> End {
    let message = "what was done to the session on main cannot be done to the site's";
    End::Fatal(Box::new(
        Report::new(sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE, message)
            .detail(format!("{why}. A transaction that was committed is committed."))
            .hint("Connect again, and set what the session needs."),
    ))
}

pub(super) fn unexpected(error: &serde_json::Error) -> Report {
    Report::new(sqlstate::INTERNAL_ERROR, format!("unexpected state of a session: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(user: &str, role: &str, settings: &[(&str, &str)]) -> State {
        let settings = settings.iter().map(|(name, value)| (name.to_string(), Some(value.to_string())));
        State { user: user.into(), role: role.into(), settings: settings.collect() }
    }

    #[test]
    fn only_what_was_changed_is_carried_back() {
        let before = state("u", "none", &[("a.b", "1"), ("search_path", "x")]);
        assert_eq!(before.since(&before, "u"), "");
        let now = state("u", "none", &[("search_path", r"it's \"), ("work_mem", "64")]);
        assert_eq!(
            now.since(&before, "u"),
            r#"RESET "a"."b"; SELECT pg_catalog.set_config('search_path',  E'it''s \\', false), pg_catalog.set_config('work_mem', '64', false); "#
        );
    }

    #[test]
    fn rights_are_given_up_last() {
        let (before, now) = (state("u", "none", &[]), state("v", "w", &[("log_statement", "all")]));
        assert_eq!(
            now.since(&before, "u"),
            "RESET SESSION AUTHORIZATION; SELECT pg_catalog.set_config('log_statement', 'all', false); \
             SET SESSION AUTHORIZATION \"v\"; SET ROLE \"w\"; "
        );
        assert!(before.since(&now, "u").ends_with("SET ROLE NONE; "));
    }
}
