//! A night of observations, written by ordinary clients.

use anyhow::{Context, Result, ensure};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use uuid::Uuid;

use crate::measure::Latencies;
use crate::told::{Told, rows};

/// What the night is told and measures.
#[derive(Debug, Default)]
pub(crate) struct Night {
    pub(crate) told: Told,
    /// Single statements in autocommit.
    pub(crate) autocommits: Latencies,
    /// COMMIT of transactions of several statements.
    pub(crate) commits: Latencies,
    /// Statements inside of transactions.
    pub(crate) statements: Latencies,
    pub(crate) transactions: usize,
    observations: usize,
}

const OBSERVATION: &str = "id, unit_id, status, start_time, end_time, seeing";

impl Night {
    /// One observation: started (autocommit), its data packed and filed, then completed (one transaction).
    pub(crate) async fn observe(&mut self, client: &mut Client) -> Result<()> {
        let number = self.observations;
        self.observations += 1;
        let unit = 1 + number % 24;
        let id = self.start(client, unit).await?;
        if number % 10 == 9 { self.abort(client, &id).await } else { self.complete(client, &id, unit, number).await }
    }

    async fn start(&mut self, client: &Client, unit: usize) -> Result<String> {
        let sql = format!("INSERT INTO executed_observations (unit_id) VALUES ({unit}) RETURNING {OBSERVATION}");
        let told = self.autocommits.measure(rows(client, &sql)).await?;
        self.transactions += 1;
        let [row] = &told[..] else { anyhow::bail!("one row inserted, {} returned", told.len()) };
        self.told.note("executed_observations", row.clone())?;
        row[0].clone().context("the default made a key")
    }

    async fn abort(&mut self, client: &Client, id: &str) -> Result<()> {
        let sql = format!(
            "UPDATE executed_observations SET status = 'aborted', end_time = now() WHERE id = '{id}' RETURNING {OBSERVATION}"
        );
        let told = self.autocommits.measure(rows(client, &sql)).await?;
        self.transactions += 1;
        ensure!(told.len() == 1, "one row updated, {} returned", told.len());
        told.into_iter().try_for_each(|row| self.told.note("executed_observations", row))
    }

    /// The extended protocol with typed parameters for the bulk, plain text for the rest, as applications mix them.
    async fn complete(&mut self, client: &mut Client, id: &str, unit: usize, number: usize) -> Result<()> {
        let mut told = Told::default();
        let transaction = client.transaction().await?;
        let inner = transaction.client();
        let sql = format!(
            "INSERT INTO raw_data_packages (observation_id, name) VALUES ('{id}', 'night-1/{number:04}.tar')
             RETURNING id, observation_id, name, created_at"
        );
        let package = self.statements.measure(rows(inner, &sql)).await?;
        let package_id: Uuid = package[0][0].as_deref().context("the default made a key")?.parse()?;
        package.into_iter().try_for_each(|row| told.note("raw_data_packages", row))?;
        let insert = "INSERT INTO raw_data_files (package_id, name, size_bytes) VALUES ($1, $2, $3)
                      RETURNING id, package_id, name, size_bytes";
        for file in 0..3 + number % 3 {
            let (name, size) =
                (format!("{number:04}-{file}.fits"), 1_000_000 + (number * 7919 + file * 104_729) as i64);
            let row = self.statements.measure(transaction.query_one(insert, &[&package_id, &name, &size])).await?;
            let (id, package): (Uuid, Uuid) = (row.try_get(0)?, row.try_get(1)?);
            let (name, size): (String, i64) = (row.try_get(2)?, row.try_get(3)?);
            let texts = [id.to_string(), package.to_string(), name, size.to_string()];
            told.note("raw_data_files", texts.into_iter().map(Some).collect())?;
        }
        let updates = [
            ("executed_observations", format!(
                "UPDATE executed_observations SET status = 'completed', end_time = clock_timestamp(), seeing = 0.4 + {number} * 0.013
                 WHERE id = '{id}' RETURNING {OBSERVATION}"
            )),
            ("observation_units", format!(
                "UPDATE observation_units SET phase = 'observed' WHERE id = {unit} RETURNING id, instrument_id, target, phase"
            )),
        ];
        for (table, sql) in updates {
            let updated = self.statements.measure(rows(inner, &sql)).await?;
            ensure!(updated.len() == 1, "one row of {table} updated, {} returned", updated.len());
            updated.into_iter().try_for_each(|row| told.note(table, row))?;
        }
        self.commits.measure(transaction.commit()).await?;
        self.transactions += 1;
        self.told.extend(told);
        Ok(())
    }

    /// Begins new measurements; what was told stays.
    pub(crate) fn measure_anew(&mut self) {
        let (told, observations) = (std::mem::take(&mut self.told), self.observations);
        *self = Night { told, observations, ..Night::default() };
    }

    /// Rows inserted by acknowledged transactions.
    pub(crate) fn rows_inserted(&self) -> usize {
        ["executed_observations", "raw_data_packages", "raw_data_files"].map(|table| self.told.rows(table)).iter().sum()
    }

    /// Notes rows which were there before.
    pub(crate) async fn begin_with(&mut self, client: &Client) -> Result<()> {
        let units = rows(client, "SELECT id, instrument_id, target, phase FROM observation_units").await?;
        units.into_iter().try_for_each(|row| self.told.note("observation_units", row))
    }
}

/// A transaction that is rolled back, and a savepoint that is: nothing of either may be seen again.
pub(crate) async fn change_of_mind(client: &mut Client) -> Result<()> {
    let transaction = client.transaction().await?;
    transaction.batch_execute("INSERT INTO executed_observations (unit_id) VALUES (1), (2), (3)").await?;
    transaction.batch_execute("SAVEPOINT s; DELETE FROM raw_data_files; ROLLBACK TO SAVEPOINT s").await?;
    transaction.rollback().await?;
    Ok(())
}

/// Bad writes and the SQLSTATE that each must get at once. Returns how many there were.
pub(crate) async fn mistakes(client: &Client) -> Result<usize> {
    let mistakes = [
        ("INSERT INTO executed_observations (unit_id) VALUES (4711)", SqlState::FOREIGN_KEY_VIOLATION),
        ("INSERT INTO executed_observations (unit_id, status) VALUES (1, 'lost')", SqlState::CHECK_VIOLATION),
        ("INSERT INTO executed_observations (unit_id) VALUES (NULL)", SqlState::NOT_NULL_VIOLATION),
        (
            "INSERT INTO raw_data_packages (observation_id, name) SELECT observation_id, name FROM raw_data_packages LIMIT 1",
            SqlState::UNIQUE_VIOLATION,
        ),
        ("INSERT INTO executed_observations (unit_id) VALUES ('one')", SqlState::INVALID_TEXT_REPRESENTATION),
    ];
    for (sql, expected) in &mistakes {
        let outcome = client.simple_query(sql).await;
        let code = outcome.as_ref().err().and_then(tokio_postgres::Error::code);
        ensure!(code == Some(expected), "{sql}: expected {}, got {outcome:?}", expected.code());
    }
    Ok(mistakes.len())
}
