//! Values of sequences in a session: what statements take from the site's leases, and what `currval` and `lastval` show.
//!
//! A counted statement says afterwards how many values it has taken. Had it too few, it is run again with more; what it
//! has left over goes back to the lease. As in Postgres, nothing of this is undone by a rollback. But a statement that is
//! evaluated again for reasons of ours takes the same values: otherwise there would be gaps that Postgres does not make.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::Session;
use super::failure::Failure;
use super::settings::Settings;
use super::transaction::Phase;
use crate::catalog::{Column, SequenceId};
use crate::report::Report;
use crate::sql::{Class, Ids, LAST, SequenceUse, Statement, Stock, counter};
use crate::sqlstate;

/// What the session has taken last.
#[derive(Debug, Default)]
pub(super) struct Remembered {
    current: HashMap<Arc<str>, i64>,
    last: Option<i64>,
}

/// Values that an evaluation has taken which does not count: the next one takes them first.
#[derive(Debug, Default)]
pub(super) struct Spare {
    renewals: u64,
    values: HashMap<Arc<str>, VecDeque<i64>>,
    /// The sequences that they were taken for: a name may stand for another by now.
    of: HashMap<Arc<str>, SequenceId>,
    /// What the parts of a statement have taken, which may all be evaluated once more.
    of_parts: Vec<(u64, Arc<str>, Vec<i64>)>,
}

impl Session {
    /// Values for one execution of a plan: as many as it surely takes.
    pub(super) async fn stock(&mut self, uses: &[SequenceUse], settings: &Settings) -> Result<Ids, Failure> {
        let renewals = self.shared.leases.renewals();
        let mut ids = Ids { renewals, last: self.remembered.last, ..Ids::default() };
        for sequence in uses {
            self.may_use(sequence, settings).await?;
            let values = self.take_ids(&sequence.name, sequence.values).await?;
            ids.sequences.push(Stock { current: self.remembered.current.get(&sequence.name).copied(), values });
        }
        Ok(ids)
    }

    /// Asks whether the role may use the sequence.
    async fn may_use(&mut self, sequence: &SequenceUse, settings: &Settings) -> Result<(), Failure> {
        let rights = match (sequence.takes, sequence.looks) {
            (true, true) => ["USAGE, UPDATE", "USAGE, SELECT"].as_slice(),
            (true, false) => &["USAGE, UPDATE"],
            (false, true) => &["USAGE, SELECT"],
            (false, false) => return Ok(()),
        };
        let name = sequence.name.replace('\'', "''");
        let has = |rights: &&str| format!("pg_catalog.has_sequence_privilege('{name}', '{rights}')");
        let question = format!("SELECT {}", rights.iter().map(has).collect::<Vec<_>>().join(" AND "));
        let refusal = || {
            let name = sequence.name.rsplit('.').next().unwrap_or_default().trim_matches('"');
            Report::new(sqlstate::INSUFFICIENT_PRIVILEGE, format!("permission denied for sequence {name}"))
        };
        self.permitted(&question, settings, refusal).await
    }

    pub(super) async fn take_ids(&mut self, sequence: &str, count: usize) -> Result<Vec<i64>, Failure> {
        // Not of the plan's catalog, which may be older: then the replica says so, and it is planned anew.
        let catalog = self.shared.catalog.current();
        let made = catalog.sequences.get_key_value(sequence);
        if let Some((name, made)) = made
            && self.spare.of.insert(Arc::clone(name), *made).is_some_and(|before| before != *made)
        {
            self.spare.values.remove(sequence);
        }
        let made = made.map(|(_, made)| *made);
        let mut taken = Vec::new();
        if self.spare.renewals == self.shared.leases.renewals()
            && let Some(values) = self.spare.values.get_mut(sequence)
        {
            taken.extend(values.drain(..count.min(values.len())));
        }
        if taken.len() < count {
            let more = self.shared.leases.take(sequence, made, count - taken.len()).await;
            taken.extend(more.map_err(|error| error.report())?);
        }
        Ok(taken)
    }

    /// The evaluation with these values did not count.
    pub(super) fn spare(&mut self, uses: &[SequenceUse], ids: Ids) {
        let stocks = uses.iter().zip(ids.sequences);
        let taken = stocks.map(|(sequence, stock)| (ids.renewals, Arc::clone(&sequence.name), stock.values));
        self.keep_spare(taken.collect());
    }

    /// Nor did those of the statement's parts.
    pub(super) fn spare_parts(&mut self) {
        let taken = std::mem::take(&mut self.spare.of_parts);
        self.keep_spare(taken);
    }

    fn keep_spare(&mut self, taken: Vec<(u64, Arc<str>, Vec<i64>)>) {
        // Those of a lease that was given up meanwhile must not come back.
        let renewals = self.shared.leases.renewals();
        if self.spare.renewals != renewals {
            (self.spare.renewals, self.spare.values) = (renewals, HashMap::new());
        }
        // From the last on, each before those that were taken after it.
        for (_, name, values) in taken.into_iter().rev().filter(|(of, _, _)| *of == renewals) {
            let spare = self.spare.values.entry(name).or_default();
            values.into_iter().rev().for_each(|value| spare.push_front(value));
        }
    }

    /// The statement is over: what it had to spare goes back to the leases.
    pub(super) fn give_back_spare(&mut self) {
        let spare = std::mem::take(&mut self.spare);
        for (name, values) in spare.values {
            let values: Vec<i64> = values.into();
            self.shared.leases.give_back(&name, &values, spare.renewals);
        }
    }

    /// Gives a counted statement its settings, before each run of it.
    pub(super) async fn set_registers(&mut self, registers: &[(String, String)]) -> Result<(), Failure> {
        if registers.is_empty() {
            return Ok(());
        }
        let set = |(name, value): &(String, String)| format!("pg_catalog.set_config('{name}', '{value}', true)");
        let question = format!("SELECT {}", registers.iter().map(set).collect::<Vec<_>>().join(", "));
        self.question(&question).await.map(drop)
    }

    /// What the settings hold after a run.
    pub(super) async fn registers(&mut self, names: &[(String, String)]) -> Result<HashMap<String, String>, Failure> {
        if names.is_empty() {
            return Ok(HashMap::new());
        }
        let get = |(name, _): &(String, String)| format!("pg_catalog.current_setting('{name}')");
        let question = format!("SELECT {}", names.iter().map(get).collect::<Vec<_>>().join(", "));
        let row = self.question(&question).await?.into_iter().next().unwrap_or_default();
        let text = |value: Option<bytes::Bytes>| String::from_utf8_lossy(&value.unwrap_or_default()).into_owned();
        Ok(names.iter().map(|(name, _)| name.clone()).zip(row.into_iter().map(text)).collect())
    }

    /// Whether a run of a counted statement had enough values; if not, there are more for the next run.
    pub(super) async fn had_enough(
        &mut self,
        uses: &[SequenceUse],
        ids: &mut Ids,
        registers: &HashMap<String, String>,
    ) -> Result<bool, Failure> {
        let mut enough = true;
        for (place, (sequence, stock)) in uses.iter().zip(&mut ids.sequences).enumerate() {
            let missing = taken(registers, place).saturating_sub(stock.values.len());
            if missing > 0 {
                enough = false;
                stock.values.extend(self.take_ids(&sequence.name, missing).await?);
            }
        }
        Ok(enough)
    }

    /// The statement is over: what it took is remembered, the rest goes back.
    pub(super) fn remember(
        &mut self,
        uses: &[SequenceUse],
        counted: bool,
        ids: Ids,
        registers: &HashMap<String, String>,
    ) {
        for (place, (sequence, mut stock)) in uses.iter().zip(ids.sequences).enumerate() {
            if counted {
                let unused = stock.values.split_off(taken(registers, place).min(stock.values.len()));
                self.shared.leases.give_back(&sequence.name, &unused, ids.renewals);
            }
            if let Some(last) = stock.values.last() {
                self.remembered.current.insert(Arc::clone(&sequence.name), *last);
                self.remembered.last = Some(*last);
            }
            if self.pinned.is_some() && !stock.values.is_empty() {
                self.spare.of_parts.push((ids.renewals, Arc::clone(&sequence.name), stock.values));
            }
        }
        if counted {
            self.remembered.last = registers.get(LAST).and_then(|last| last.parse().ok()).or(self.remembered.last);
        }
        if self.pinned.is_none() {
            self.give_back_spare();
        }
    }

    /// After a text that main has run: what is leased of sequences that it has set lies at the old place, and is given up.
    pub(super) async fn sequences_were_set(&mut self, text: &str) -> Result<(), Failure> {
        if names(text, "truncate") && names(text, "restart") {
            self.sequences_were_restarted(text).await?;
        }
        let has = |name: &str| names(text, name);
        if !has("setval") {
            return Ok(());
        }
        let catalog = self.shared.catalog.current();
        let all: Vec<String> = catalog.sequences.keys().map(ToString::to_string).collect();
        let bare = |name: &str| name.rsplit('.').next().unwrap_or(name).trim_matches('"').to_owned();
        let of_table = |sequence: &String| {
            let feeds = |column: &Column| column.sequence.as_deref() == Some(sequence);
            catalog.relations.values().any(|table| has(&table.name.name) && table.columns.iter().any(feeds))
        };
        let mut named: Vec<String> = all.iter().filter(|name| has(&bare(name)) || of_table(name)).cloned().collect();
        if named.is_empty() {
            named = all;
        }
        for sequence in named {
            self.shared.leases.renew(&sequence).await.map_err(|error| error.report())?;
            if self.transaction.phase == Phase::Idle {
                let question = format!("SELECT pg_catalog.currval('{}')", sequence.replace('\'', "''"));
                let current = self.ask_main(&question).await;
                if let Some(current) = current.ok().flatten().and_then(|text| text.parse().ok()) {
                    self.remembered.current.insert(sequence.into(), current);
                }
            }
        }
        Ok(())
    }

    /// After TRUNCATE … RESTART IDENTITY. Main has not committed it yet, perhaps: the leases are given up when it has.
    async fn sequences_were_restarted(&mut self, text: &str) -> Result<(), Failure> {
        let settings = self.settings().await?;
        let (parsed, catalog) = (self.shared.statements.parse(text), self.shared.catalog.current());
        let statements = parsed.script.as_ref().map_or(&[][..], |script| &script.statements);
        let restarted = statements.iter().flat_map(|statement| match &statement.class {
            Class::Truncate(truncate) => truncate.restarted(&catalog, &settings.schemas),
            _ => Vec::new(),
        });
        let restarted: Vec<Arc<str>> = restarted.collect();
        if !restarted.is_empty() {
            // No event trigger sees a TRUNCATE; by this the other sites do.
            self.ask_main("SELECT pgoutpost.definitions_changed()").await?;
            self.pipeline.restarted.extend(restarted);
        }
        Ok(())
    }

    /// DISCARD ALL and DISCARD SEQUENCES.
    pub(super) fn forget_ids(&mut self, statement: &Statement) {
        let mut words = statement.text.split_whitespace();
        if words.next().is_some_and(|word| word.eq_ignore_ascii_case("discard"))
            && words.next_back().is_some_and(|what| ["all", "sequences"].iter().any(|w| what.eq_ignore_ascii_case(w)))
        {
            self.remembered = Remembered::default();
        }
    }
}

/// Whether a text may set sequences.
pub(super) fn may_set_sequences(text: &str) -> bool {
    names(text, "setval") || names(text, "restart")
}

/// Whether the text has this name in it, as a whole word.
fn names(text: &str, name: &str) -> bool {
    let (text, name) = (text.to_lowercase(), name.to_lowercase());
    let goes_on = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(&name)
        .any(|(place, _)| !text[..place].ends_with(goes_on) && !text[place + name.len()..].starts_with(goes_on))
}

/// How many values a run has taken of the sequence in this place.
fn taken(registers: &HashMap<String, String>, place: usize) -> usize {
    let counter = registers.get(&counter(place)).and_then(|count| count.parse::<usize>().ok());
    counter.map_or(0, |count| count.saturating_sub(1))
}
