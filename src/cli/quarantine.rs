//! `pgoutpost quarantine`, `conflicts` and `accept-main`: the console's commands, for shells.

use std::io;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Subcommand;
use pgoutpost::config::{CONSOLE_DATABASE, Config};
use pgoutpost::upstream::own;

#[derive(Subcommand)]
pub(super) enum Quarantine {
    /// What is in quarantine; with a number, one entry in full
    List { entry: Option<u64> },
    /// Send an entry to main again, and those that wait for it
    Retry {
        /// Its number, or "all"
        entry: String,
    },
    /// Give an entry up: it will never be applied
    Skip { entry: u64 },
    /// Print an entry as SQL, to be run by hand on main
    Export { entry: u64 },
    /// Who did what
    Audit,
}

/// Asks the running daemon, as this process's user.
pub(super) async fn run(config: &Config, command: &Quarantine) -> Result<ExitCode> {
    let sql = match command {
        Quarantine::List { entry: None } => "SHOW QUARANTINE".to_owned(),
        Quarantine::List { entry: Some(entry) } => format!("SHOW QUARANTINE {entry}"),
        Quarantine::Retry { entry } if entry.eq_ignore_ascii_case("all") => "RETRY ALL".to_owned(),
        Quarantine::Retry { entry } => {
            format!("RETRY {}", entry.parse::<u64>().context("expected the number of an entry, or all")?)
        }
        Quarantine::Skip { entry } => format!("SKIP {entry}"),
        Quarantine::Export { entry } => format!("EXPORT {entry}"),
        Quarantine::Audit => "SHOW AUDIT".to_owned(),
    };
    let table = ask(config, &sql).await?;
    let text = if matches!(command, Quarantine::Export { .. }) { table[1][0].clone() } else { aligned(&table) };
    super::say(&mut io::stdout(), &text);
    Ok(ExitCode::SUCCESS)
}

/// `pgoutpost accept-main`
pub(super) async fn accept_main(config: &Config, wanted: Option<u64>) -> Result<ExitCode> {
    let wanted = wanted.map(|identifier| format!(" {identifier}")).unwrap_or_default();
    let table = ask(config, &format!("ACCEPT MAIN{wanted}")).await?;
    let identifier = table.get(1).and_then(|row| row.first()).context("the daemon gave no answer")?;
    super::say(&mut io::stdout(), &format!("this site belongs to main {identifier} from now on"));
    Ok(ExitCode::SUCCESS)
}

/// `pgoutpost conflicts`
pub(super) async fn conflicts(config: &Config) -> Result<ExitCode> {
    super::say(&mut io::stdout(), &aligned(&ask(config, "SHOW CONFLICTS").await?));
    Ok(ExitCode::SUCCESS)
}

/// Header and rows of the console's answer.
pub(super) async fn ask(config: &Config, sql: &str) -> Result<Vec<Vec<String>>> {
    let address = config.listen.address.replace("0.0.0.0:", "127.0.0.1:").replace("[::]:", "[::1]:");
    let (host, port) = address.rsplit_once(':').context("listen.address has no port")?;
    let mut console = own::Config::new();
    let user = std::env::var("USER").unwrap_or_else(|_| "pgoutpost".to_owned());
    console.host(host.trim_matches(['[', ']'])).port(port.parse()?).user(user).dbname(CONSOLE_DATABASE);
    let client = own::connect(&console).await.with_context(|| format!("the daemon does not answer at {address}"))?;
    own::table(&client, sql).await.map_err(|error| match error {
        own::Error::Server(report) => {
            let hint = report.hint.map(|hint| format!("\n{hint}")).unwrap_or_default();
            anyhow::anyhow!("{}{hint}", report.message)
        }
        error @ (own::Error::Connection(_) | own::Error::Unexpected(_)) => error.into(),
    })
}

fn aligned(table: &[Vec<String>]) -> String {
    let columns = table.first().map_or(0, Vec::len);
    let width = |at: usize| table.iter().map(|row| row[at].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        cells.join("  ").trim_end().to_owned()
    };
    table.iter().map(line).collect::<Vec<_>>().join("\n")
}
