//! The commands: arguments to configuration to the part that does the work.
//!
//! The only module that writes to standard output. Exit codes: 0 done, 1 failed, 2 the arguments or the configuration
//! are not usable.

mod buffer;
mod quarantine;
mod run;
mod site_status;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use pgoutpost::buffer::LogError;
use pgoutpost::buffer::place::Place;
use pgoutpost::check::{self, Finding, Grade};
use pgoutpost::config::{Config, ConfigErrors, SiteKind, Sources};
use pgoutpost::upstream::own;
use pgoutpost::{logging, setup};

const USAGE_ERROR: u8 = 2;

/// Plain PostgreSQL at the far end of a bad link: durable local writes, exact merged reads, exactly-once replay.
#[derive(Parser)]
#[command(name = "pgoutpost", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve the clients of this site
    Run(Source),
    /// Make the ledger and its functions on main; safe to repeat
    Setup {
        #[command(flatten)]
        source: Source,
        /// Print the SQL instead of running it
        #[arg(long)]
        print: bool,
    },
    /// Look at everything the site needs, and say what is wrong and how to mend it
    Check(Source),
    /// Ask the running daemon how it is
    Status(Source),
    /// Hold buffer, main, replica, quarantine and leases against each other; exits with 1 when they disagree
    Fsck(Source),
    /// Write the buffer of a stopped daemon into a file
    Export {
        #[command(flatten)]
        source: Source,
        /// Must not be there yet
        file: PathBuf,
    },
    /// Fill an empty buffer from such a file
    Import {
        #[command(flatten)]
        source: Source,
        file: PathBuf,
    },
    /// Go on with another main, which replay has refused; asks the running daemon
    AcceptMain {
        #[command(flatten)]
        source: Source,
        /// Only if main has this system identifier
        system_identifier: Option<u64>,
    },
    /// Show the newest rows that main did not have as clients here saw them; asks the running daemon
    Conflicts(Source),
    /// Look at the transactions that main rejected, and decide about them; asks the running daemon
    Quarantine {
        #[command(subcommand)]
        command: quarantine::Quarantine,
        #[command(flatten)]
        source: Source,
    },
}

#[derive(Args)]
struct Source {
    /// The configuration file; PGOUTPOST__SECTION__KEY in the environment or in .env goes over it
    #[arg(long, value_name = "FILE", default_value = "proxy.toml", global = true)]
    config: PathBuf,
}

impl Source {
    fn load(&self) -> Result<Config, ConfigErrors> {
        Config::load(&Sources::of_process(&self.config)?)
    }
}

/// Runs the command that the process's arguments name.
pub(crate) fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let source = match &arguments.command {
        Command::Run(source)
        | Command::Setup { source, .. }
        | Command::Quarantine { source, .. }
        | Command::AcceptMain { source, .. }
        | Command::Check(source)
        | Command::Status(source)
        | Command::Fsck(source)
        | Command::Conflicts(source)
        | Command::Export { source, .. }
        | Command::Import { source, .. } => source,
    };
    let config = match source.load() {
        Ok(config) => config,
        Err(errors) => {
            say(&mut io::stderr(), &format!("pgoutpost: {errors}"));
            return ExitCode::from(USAGE_ERROR);
        }
    };
    logging::init(&config.log);
    match execute(&arguments.command, config) {
        Ok(code) => code,
        Err(error) => {
            say(&mut io::stderr(), &format!("pgoutpost: {}", pgoutpost::config::mask(&format!("{error:#}"))));
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn execute(command: &Command, config: Config) -> Result<ExitCode> {
    match command {
        Command::Run(_) => run::run(config).await,
        Command::Setup { print: true, .. } => {
            say(&mut io::stdout(), &setup::script(&config.site.name, None));
            Ok(ExitCode::SUCCESS)
        }
        Command::Setup { print: false, .. } => set_up(&config).await,
        Command::Check(_) => look(&config).await,
        Command::Status(_) => site_status::show(&config).await,
        Command::Fsck(_) => buffer::check(&config).await,
        Command::Export { file, .. } => buffer::export(&config, file).await,
        Command::Import { file, .. } => buffer::import(&config, file).await,
        Command::Conflicts(_) => quarantine::conflicts(&config).await,
        Command::Quarantine { command, .. } => quarantine::run(&config, command).await,
        Command::AcceptMain { system_identifier, .. } => quarantine::accept_main(&config, *system_identifier).await,
    }
}

async fn set_up(config: &Config) -> Result<ExitCode> {
    let main = own::parse_url(&config.main.url)?;
    let done = setup::run(&main, &config.site.name, None).await?;
    for warning in done.warnings {
        say(&mut io::stderr(), &format!("warning: {warning}"));
    }
    say(&mut io::stdout(), &format!("site {:?} is set up on main", config.site.name));
    Ok(ExitCode::SUCCESS)
}

async fn look(config: &Config) -> Result<ExitCode> {
    if config.site.kind == SiteKind::Main {
        let main = own::connect(&own::parse_url(&config.main.url)?).await;
        main.context("main does not answer")?;
        say(&mut io::stdout(), "ok    main answers; a site beside main needs nothing else");
        return Ok(ExitCode::SUCCESS);
    }
    let (main, replica) = (own::parse_url(&config.main.url)?, own::parse_url(&config.replica.url)?);
    let mut others = vec![look_at_buffer(config).await];
    others.extend(check::policies(&replica, config.replay.conflicts.keys().cloned().collect()).await);
    let findings = check::run(&main, &replica, &config.site.name, others).await;
    for finding in &findings {
        say(&mut io::stdout(), &finding.to_string());
    }
    Ok(match check::worst(&findings) {
        Grade::Ok | Grade::Warn => ExitCode::SUCCESS,
        Grade::Fail => ExitCode::FAILURE,
    })
}

async fn look_at_buffer(config: &Config) -> Finding {
    let (what, buffer) = ("buffer is durable", &config.buffer);
    let place = match Place::of(buffer, &config.site.name) {
        Ok(place) => place,
        Err(error) => return Finding::fail(what, error.to_string(), "Mend buffer.url."),
    };
    match place.look().await {
        Ok(()) if buffer.require_durable => Finding::ok(what, place.promise()),
        Ok(()) => Finding::warn(
            what,
            "it answers; whether it keeps what it acknowledges was not looked at",
            "Set buffer.require_durable = true.",
        ),
        Err(error @ LogError::NotDurable(_)) => Finding::fail(what, error.to_string(), place.mend()),
        Err(error) => {
            let url = pgoutpost::config::mask(&buffer.url);
            Finding::fail(what, format!("{url}: {error}"), place.advice())
        }
    }
}

/// A reader that has gone away (`pgoutpost status | head`) is no reason to panic.
fn say(to: &mut impl Write, text: &str) {
    let _ = writeln!(to, "{}", text.trim_end());
}
