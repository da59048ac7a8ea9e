//! A site without daemon: a database whose tables are in the state of some ledger value, and an overlay.

use std::sync::Arc;

use bytes::Bytes;
use pgoutpost::catalog::{self, Catalog, TableId};
use pgoutpost::entry::Seq;
use pgoutpost::overlay::{Change, Overlay, RowId, View};
use pgoutpost::report::Report;
use pgoutpost::sql::{self, Class, Decoded, Event, Ids, Outcome, Parameters, Plan, Rendered, SequenceUse, Stock};

use crate::cluster;
use crate::wire::{Parameter, Row, Wire};

pub struct Site {
    pub wire: Wire,
    pub catalog: Arc<Catalog>,
    pub overlay: Overlay,
    pub own: Overlay,
    pub search_path: Vec<Arc<str>>,
    /// The text that was sent last.
    pub sent: String,
    /// Whether the connection prints values canonically.
    pub canonical: bool,
    ids: i64,
}

/// What a client sees: rows in text, or SQLSTATE, message and detail.
pub type Answer = Result<Vec<Vec<String>>, (String, String, String)>;

impl Site {
    pub fn new(label: &str, schema: &str) -> Site {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let (port, name, catalog) = runtime.block_on(async {
            let database = cluster::Database::set_up(label).await;
            database.main().await.batch_execute(schema).await.unwrap();
            let catalog = catalog::load::load(&database.main().await).await.unwrap();
            (database.main_port, database.name, catalog)
        });
        let search_path = vec!["pg_catalog".into(), "public".into()];
        Site {
            wire: Wire::connect(port, &name),
            catalog: Arc::new(catalog),
            overlay: Overlay::default(),
            own: Overlay::default(),
            search_path,
            sent: String::new(),
            canonical: true,
            ids: 1000,
        }
    }

    pub fn table(&self, name: &str) -> TableId {
        let table = self.catalog.resolve(None, name, &self.search_path);
        table.unwrap_or_else(|| panic!("no table {name}")).id
    }

    /// Folds one entry into the overlay.
    pub fn entry(&mut self, changes: &[(TableId, Change)]) {
        self.overlay.apply(self.overlay.last().next(), changes);
    }

    /// What a client of the daemon would be answered: writes land in the overlay.
    pub fn client(&mut self, sql: &str, parameters: &[&str]) -> Answer {
        match self.try_client(sql, parameters) {
            Ok(rows) => Ok(rows.into_iter().map(text_row).collect()),
            Err(report) => Err((report.code.to_string(), report.message, report.detail.unwrap_or_default())),
        }
    }

    /// The same statement on the bare server.
    pub fn bare(&mut self, sql: &str, parameters: &[&str]) -> Answer {
        let parameters = text_parameters(&[], parameters);
        match self.wire.run(sql, &parameters) {
            Ok(rows) => Ok(rows.into_iter().map(text_row).collect()),
            Err(failure) => Err(answer(&failure)),
        }
    }

    fn try_client(&mut self, sql: &str, parameters: &[&str]) -> Result<Vec<Row>, Report> {
        let script = sql::parse(sql).unwrap_or_else(|error| panic!("{error:?} in {sql}"));
        let [statement] = script.statements.as_slice() else { panic!("one statement: {sql}") };
        if let Class::Refused(report) = &statement.class {
            return Err(report.clone());
        }
        let (types, columns) = self.wire.describe(sql, &[]).map_err(|failure| to_report(&failure))?;
        let plan = sql::plan(statement, &self.catalog, &self.search_path, "s")?;
        let values: Vec<Option<&[u8]>> = parameters.iter().map(|text| Some(text.as_bytes())).collect();
        let binary = vec![false; values.len()];
        let bound = Parameters { types: &types, binary: &binary, values: &values };
        match plan {
            Plan::Copy(_) | Plan::With(_) => panic!("not a statement for these tests"),
            Plan::Read(read) => {
                let mut ids = self.stock(read.sequences());
                if read.counted() {
                    // More than any statement here takes.
                    for stock in &mut ids.sequences {
                        stock.values.extend(self.take(50));
                    }
                }
                let view = View { base: &self.overlay, own: &self.own };
                let rendered = read.render_with_ids(view, bound, &ids)?;
                let own = Rendered { sql: sql.to_owned(), extra: Vec::new(), registers: Vec::new() };
                self.send(&rendered.unwrap_or(own), &types, parameters)
            }
            Plan::Write(write) => {
                let mut ids = self.stock(write.sequences());
                if write.counted() {
                    // More than any statement here takes.
                    for stock in &mut ids.sequences {
                        stock.values.extend(self.take(50));
                    }
                }
                let view = View { base: &self.overlay, own: &self.own };
                let rendered = write.render(view, bound, &ids, self.canonical)?;
                let rows = self.send(&rendered, &types, parameters)?;
                let rows: Vec<Vec<Option<Bytes>>> =
                    rows.into_iter().map(|row| row.into_iter().map(|value| value.map(Bytes::from)).collect()).collect();
                let view = View { base: &self.overlay, own: &self.own };
                let judged = write.decode(view, &rows)?;
                let (decoded, events) = (judged.rows, judged.events);
                let before = self.overlay.clone();
                let seq = self.overlay.last().next();
                let changes: Vec<_> = decoded.iter().enumerate().flat_map(|(n, d)| changes(seq, n, d)).collect();
                self.overlay.apply(seq, &changes);
                let returning = decoded.into_iter().map(|row| {
                    row.returning.into_iter().map(|value| value.map(|value| value.to_vec())).collect::<Row>()
                });
                let returning: Vec<Row> = returning.collect();
                if let Err(report) = self.after(events) {
                    self.overlay = before;
                    return Err(report);
                }
                for row in &returning {
                    assert_eq!(row.len(), if write.returning { columns } else { 0 }, "columns of RETURNING");
                }
                Ok(if write.returning { returning } else { Vec::new() })
            }
        }
    }

    /// The end of the statement, event by event.
    fn after(&mut self, events: Vec<Event>) -> Result<(), Report> {
        for event in events {
            if event.rule.action().is_some() {
                let text = event.rule.statement(&self.catalog)?;
                let arguments = sql::arguments(std::slice::from_ref(&event));
                self.try_client(&text, &arguments.iter().map(String::as_str).collect::<Vec<_>>())?;
                continue;
            }
            let view = View { base: &self.overlay, own: &self.own };
            let question = sql::judge_events(std::slice::from_ref(&event), &self.catalog, view, "s")?;
            let rows = self.send(&question, &[], &[])?;
            if let Some(row) = rows.first() {
                let values = String::from_utf8(row[1].clone().unwrap()).unwrap();
                return Err(sql::violation(&event, &values, &self.catalog));
            }
        }
        Ok(())
    }

    fn stock(&mut self, uses: &[SequenceUse]) -> Ids {
        let stock = |sequence: &SequenceUse| Stock { current: None, values: self.take(sequence.values) };
        Ids { sequences: uses.iter().map(stock).collect(), ..Ids::default() }
    }

    fn take(&mut self, count: usize) -> Vec<i64> {
        let first = self.ids;
        self.ids += count as i64;
        (first..self.ids).collect()
    }

    fn send(&mut self, rendered: &Rendered, types: &[u32], parameters: &[&str]) -> Result<Vec<Row>, Report> {
        let text = &*rendered.sql;
        self.sent = text.to_owned();
        let mut all = text_parameters(types, parameters);
        all.extend(rendered.extra.iter().map(|p| Parameter {
            oid: p.type_oid,
            binary: true,
            value: Some(p.value.to_vec()),
        }));
        self.wire.script("BEGIN READ ONLY");
        for (name, value) in &rendered.registers {
            self.wire.script(&format!("SELECT set_config('{name}', '{value}', true)"));
        }
        let result = self.wire.run(text, &all);
        self.wire.script("ROLLBACK");
        result.map_err(|failure| {
            if failure[&'C'].starts_with("42") {
                eprintln!("{failure:?} in {text}");
            }
            to_report(&failure)
        })
    }
}

fn changes(seq: Seq, number: usize, decoded: &Decoded) -> Vec<(TableId, Change)> {
    let key = |values: &[Option<Arc<str>>]| RowId::Key(values.iter().map(|value| value.clone().unwrap()).collect());
    let table = &*decoded.table;
    let row_of = |table: &catalog::Table, row: &[Option<Arc<str>>]| {
        let id = match table.key.as_slice() {
            [] => RowId::Anonymous(seq, number as u32),
            columns => key(&columns.iter().map(|c| row[table.position(*c).unwrap()].clone()).collect::<Vec<_>>()),
        };
        let values = table.columns.iter().map(|column| column.attnum).zip(row.iter().cloned()).collect();
        Change::Insert { row: id, values }
    };
    let whole = |row: &[Option<Arc<str>>]| row_of(table, row);
    if let Outcome::Move { key: old, to, row, .. } = &decoded.outcome {
        return vec![(table.id, Change::Delete { row: key(old) }), (to.id, row_of(to, row))];
    }
    let changes = match &decoded.outcome {
        Outcome::Insert { row } => vec![whole(row)],
        Outcome::Update { key: old, row: Some(row), .. } => vec![Change::Delete { row: key(old) }, whole(row)],
        Outcome::Update { key: old, set, .. } => vec![Change::Update { row: key(old), set: set.clone() }],
        Outcome::Move { .. } => unreachable!(),
        Outcome::Delete { key: old, .. } => vec![Change::Delete { row: key(old) }],
    };
    changes.into_iter().map(|change| (table.id, change)).collect()
}

fn text_parameters(types: &[u32], parameters: &[&str]) -> Vec<Parameter> {
    let of = |(place, text): (usize, &&str)| Parameter {
        oid: types.get(place).copied().unwrap_or(0),
        binary: false,
        value: Some(text.as_bytes().to_vec()),
    };
    parameters.iter().enumerate().map(of).collect()
}

fn text_row(row: Row) -> Vec<String> {
    row.into_iter().map(|value| value.map_or("NULL".into(), |bytes| String::from_utf8(bytes).unwrap())).collect()
}

fn answer(failure: &crate::wire::Failure) -> (String, String, String) {
    (failure[&'C'].clone(), failure[&'M'].clone(), failure.get(&'D').cloned().unwrap_or_default())
}

fn to_report(failure: &crate::wire::Failure) -> Report {
    let (code, message, detail) = answer(failure);
    let mut report = Report::new(pgoutpost::sqlstate::SqlState::parse(&code), message);
    report.detail = (!detail.is_empty()).then_some(detail);
    report
}
