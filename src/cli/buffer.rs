//! `pgoutpost fsck`, `export` and `import`: the buffer looked at and carried, without a daemon.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use pgoutpost::buffer::place::Place;
use pgoutpost::buffer::transfer::{self, Summary};
use pgoutpost::check::{self, Grade, fsck};
use pgoutpost::config::{Config, SiteKind};
use pgoutpost::upstream::own;

/// Exits with 1 when anything disagrees.
pub(super) async fn check(config: &Config) -> Result<ExitCode> {
    let place = place(config)?;
    let (main, replica) = (own::parse_url(&config.main.url)?, own::parse_url(&config.replica.url)?);
    let findings = fsck::run(&main, &replica, &config.site.name, place.log()).await;
    for finding in &findings {
        super::say(&mut io::stdout(), &finding.to_string());
    }
    Ok(match check::worst(&findings) {
        Grade::Ok | Grade::Warn => ExitCode::SUCCESS,
        Grade::Fail => ExitCode::FAILURE,
    })
}

/// Writes the buffer into a file that must not be there yet.
pub(super) async fn export(config: &Config, path: &Path) -> Result<ExitCode> {
    let place = vacant(config).await?;
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let file = made.with_context(|| format!("cannot make {}", path.display()))?;
    let mut out = BufWriter::new(&file);
    let written = async {
        let summary = transfer::export(place.log(), &config.site.name, &mut out).await?;
        out.flush()?;
        file.sync_all()?;
        anyhow::Ok(summary)
    };
    let summary = match written.await {
        Ok(summary) => summary,
        Err(error) => {
            // Half an export is none.
            drop(std::fs::remove_file(path));
            return Err(error);
        }
    };
    say("exported", summary);
    super::say(&mut io::stdout(), "do not start a daemon on this buffer again once the export is in use elsewhere");
    Ok(ExitCode::SUCCESS)
}

/// Fills an empty buffer.
pub(super) async fn import(config: &Config, path: &Path) -> Result<ExitCode> {
    vacant(config).await?;
    let open = || File::open(path).map(BufReader::new).with_context(|| format!("cannot open {}", path.display()));
    let found = transfer::verify(open()?, &config.site.name).with_context(|| path.display().to_string())?;
    let summary = transfer::import(&config.buffer, &config.site.name, open()?).await?;
    if summary != found {
        bail!("{} changed while it was read", path.display());
    }
    say("imported", summary);
    Ok(ExitCode::SUCCESS)
}

fn place(config: &Config) -> Result<Place> {
    if config.site.kind == SiteKind::Main {
        bail!("a site beside main has no buffer");
    }
    Ok(Place::of(&config.buffer, &config.site.name)?)
}

async fn vacant(config: &Config) -> Result<Place> {
    let place = place(config)?;
    place.vacant().await.context("the buffer is in use")?;
    Ok(place)
}

fn say(what: &str, summary: Summary) {
    let Summary { entries, last, quarantined, leases } = summary;
    let text = format!(
        "{what} {entries} entries, the last is {last}; {quarantined} in quarantine; leases of {leases} sequences"
    );
    super::say(&mut io::stdout(), &text);
}
