//! The commands that act: about quarantined entries (looking at one, sending it again, giving it up, taking it along as
//! SQL), and about another main.

use super::Reply;
use crate::buffer::{Buffer, Quarantined, Which};
use crate::entry::Seq;
use crate::replay;
use crate::report::Report;
use crate::sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE;

/// Who gives the commands, and what they act on.
#[derive(Debug, Clone)]
pub struct Operator<'a> {
    /// `None`: a site without a buffer.
    pub buffer: Option<&'a Buffer>,
    /// As the audit trail says it.
    pub name: String,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Deed {
    Retry(Which),
    Skip(Seq),
    Export(Seq),
    Record(Seq),
    Audit,
    AcceptMain(Option<u64>),
}

/// The commands, for the help.
pub(super) const HELP: [(&str, &str); 8] = [
    ("SHOW QUARANTINE AFTER n", "those that follow the one with this seq in that list, which ends after 200"),
    ("SHOW QUARANTINE n", "one of them in full: main's error, statements, effects, the rows as main had them"),
    ("SHOW AUDIT", "who did what about quarantined transactions, and what happened to main"),
    ("RETRY n", "does: sends a quarantined transaction to main again, and those that wait for it"),
    ("RETRY ALL", "does: sends all of them again"),
    ("SKIP n", "does: gives a quarantined transaction up"),
    ("EXPORT n", "a quarantined transaction as SQL to run by hand on main"),
    ("ACCEPT MAIN [n]", "does: goes on with another main (of system identifier n), which replay has refused"),
];

impl Deed {
    pub(super) fn parse(words: &[&str]) -> Option<Deed> {
        let seq = |word: &str| word.parse().ok().map(Seq);
        Some(match words {
            ["retry", "all"] => Deed::Retry(Which::All),
            ["retry", number] => Deed::Retry(Which::One(seq(number)?)),
            ["skip", number] => Deed::Skip(seq(number)?),
            ["export", number] => Deed::Export(seq(number)?),
            ["show", "quarantine", number] => Deed::Record(seq(number)?),
            ["show", "audit"] => Deed::Audit,
            ["accept", "main"] => Deed::AcceptMain(None),
            ["accept", "main", identifier] => Deed::AcceptMain(Some(identifier.parse().ok()?)),
            _ => return None,
        })
    }

    /// Known without doing anything.
    pub(super) fn columns(self) -> &'static [&'static str] {
        match self {
            Deed::Retry(_) => &["seq", "sent_again_as_seq"],
            Deed::Skip(_) => &[],
            Deed::Export(_) => &["sql"],
            Deed::Record(_) => &["field", "value"],
            Deed::AcceptMain(_) => &["system_identifier"],
            Deed::Audit => &["at", "by", "what", "seq", "uuid", "state", "sent_again_as_seq"],
        }
    }

    /// # Errors
    /// What the buffer says, with a hint.
    pub(super) async fn run(self, operator: &Operator<'_>) -> Result<Reply, Report> {
        let none = || Report::new(OBJECT_NOT_IN_PREREQUISITE_STATE, "there is no buffer here to act on");
        let buffer = operator.buffer.ok_or_else(none)?;
        match self {
            Deed::Retry(which) => {
                let sent = buffer.retry(which, &operator.name).await.map_err(|error| error.report())?;
                let rows = sent.iter().map(|(old, new)| vec![Some(old.to_string()), Some(new.to_string())]).collect();
                Ok(Reply::rows("RETRY", self.columns(), rows))
            }
            Deed::AcceptMain(wanted) => {
                let accepted = buffer.accept_main(wanted, &operator.name).await.map_err(|error| error.report())?;
                Ok(Reply::rows("ACCEPT MAIN", self.columns(), vec![vec![Some(accepted.to_string())]]))
            }
            Deed::Skip(seq) => {
                buffer.skip(seq, &operator.name).await.map_err(|error| error.report())?;
                Ok(Reply::tag("SKIP"))
            }
            Deed::Export(seq) => {
                let sql = replay::export(&record(buffer, seq).await?, &buffer.catalog());
                Ok(Reply::rows("EXPORT", self.columns(), vec![vec![Some(sql)]]))
            }
            Deed::Record(seq) => Ok(Reply::rows("SHOW", self.columns(), fields(&record(buffer, seq).await?))),
            Deed::Audit => {
                let mut rows: Vec<_> = Vec::new();
                let mut pages = buffer.all_quarantine_pages().await.map_err(|error| unreadable(&error))?;
                while let Some(page) = pages.next().await.map_err(|error| unreadable(&error))? {
                    rows.extend(page.iter().flat_map(acts));
                }
                let record = buffer.known_main().record.unwrap_or_default();
                rows.extend(record.events.iter().map(|event| {
                    let told = [&event.at, &event.by, &event.what].map(|text| Some(text.clone()));
                    told.into_iter().chain([None, None, None, None]).collect()
                }));
                rows.sort();
                Ok(Reply::rows("SHOW", self.columns(), rows))
            }
        }
    }
}

async fn record(buffer: &Buffer, seq: Seq) -> Result<Quarantined, Report> {
    let record = buffer.quarantine_record(seq).await.map_err(|error| unreadable(&error))?;
    record.ok_or_else(|| crate::buffer::ActError::NotThere(seq).report())
}

fn acts(record: &Quarantined) -> impl Iterator<Item = Vec<Option<String>>> + '_ {
    record.acts.iter().map(|act| {
        vec![
            Some(act.at.clone()),
            Some(act.by.clone()),
            Some(act.what.clone()),
            Some(record.seq.to_string()),
            Some(record.entry.uuid.to_string()),
            Some(record.fate.as_str().to_owned()),
            record.fate.sent_again_as().map(|seq| seq.to_string()),
        ]
    })
}

/// One record, a row for each thing worth knowing.
fn fields(record: &Quarantined) -> Vec<Vec<Option<String>>> {
    let entry = &record.entry;
    let mut rows = vec![
        ("seq".to_owned(), record.seq.to_string()),
        ("state".to_owned(), record.fate.as_str().to_owned()),
        ("uuid".to_owned(), entry.uuid.to_string()),
        ("role".to_owned(), entry.role.clone()),
        ("application_name".to_owned(), entry.application_name.clone()),
        ("created_at".to_owned(), entry.created_at.clone()),
    ];
    rows.extend(record.waits_for.map(|seq| ("waits_for_seq".to_owned(), seq.to_string())));
    rows.extend(record.fate.sent_again_as().map(|seq| ("sent_again_as_seq".to_owned(), seq.to_string())));
    rows.extend(entry.retry_of.map(|retry| ("retry_of_seq".to_owned(), retry.seq.to_string())));
    for (name, value) in record.error.as_object().into_iter().flatten() {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        if !value.is_null() {
            rows.push((format!("error.{name}"), text));
        }
    }
    rows.extend(entry.statements.iter().map(|statement| ("statement".to_owned(), statement.clone())));
    let table = |place: usize| entry.tables.get(place).map_or_else(String::new, |table| table.name.to_string());
    for effect in &entry.effects {
        let json = serde_json::to_string(effect).unwrap_or_default();
        rows.push((format!("effect on {}", table(effect.table())), json));
    }
    rows.extend(record.rows_on_main.iter().map(|row| ("row_on_main".to_owned(), row.to_string())));
    rows.extend(record.acts.iter().map(|act| ("act".to_owned(), format!("{} {} {}", act.at, act.by, act.what))));
    rows.into_iter().map(|(name, value)| vec![Some(name), Some(value)]).collect()
}

fn unreadable(error: &crate::buffer::BufferError) -> Report {
    Report::new(OBJECT_NOT_IN_PREREQUISITE_STATE, "the buffer cannot be read").detail(error.to_string())
}
