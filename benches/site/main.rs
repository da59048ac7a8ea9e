//! `make bench`: what a site costs, each figure beside its yardstick measured in the same run.
//!
//! Real servers (the lab's main, streaming replica, Redis and link; Debian's PgBouncer), the real daemon in a process
//! of its own, and pgbench as the client of all of them. The machine is shared and noisy, so contenders take turns in
//! short rounds and the medians are printed: ratios mean something, absolute figures belong to the machine.
//!
//! It must never print a figure that it did not measure: what fails is reported as not measured, with the reason.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program whose product is its output")]

mod backlog;
mod commits;
mod drain;
mod effort;
mod load;
mod machine;
mod merged;
mod process;
mod reads;
mod replay;
mod report;
mod sql;
mod stand;
mod stats;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Parser;

use crate::effort::Effort;
use crate::report::{Report, Section};
use crate::stand::Stand;

/// Measures a site against its yardsticks.
#[derive(Debug, Parser)]
struct Arguments {
    /// Some minutes with small tables, short rounds and a short backlog, instead of an hour or so.
    #[arg(long)]
    quick: bool,
    /// Write the report there, as Markdown; otherwise it is only printed.
    #[arg(long, value_name = "PATH")]
    report: Option<PathBuf>,
    /// Only these parts.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// Cargo says this to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    Reads,
    Commits,
    Replay,
    Merged,
    Drain,
    Backlog,
}

impl Part {
    const ALL: [Part; 6] = [Part::Reads, Part::Commits, Part::Replay, Part::Merged, Part::Drain, Part::Backlog];

    fn title(self) -> &'static str {
        match self {
            Part::Reads => "Untouched reads",
            Part::Commits => "Buffered commits",
            Part::Replay => "Replay",
            Part::Merged => "Merged reads",
            Part::Drain => "Commits while a backlog drains",
            Part::Backlog => "A long backlog",
        }
    }

    fn measure(self, stand: &mut Stand, effort: &Effort, section: &mut Section) -> Result<()> {
        match self {
            Part::Reads => reads::measure(stand, effort, section),
            Part::Commits => commits::measure(stand, effort, section),
            Part::Replay => replay::measure(stand, effort, section),
            Part::Merged => merged::measure(stand, effort, section),
            Part::Drain => drain::measure(stand, effort, section),
            Part::Backlog => backlog::measure(stand, effort, section),
        }
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let effort = if arguments.quick { Effort::quick() } else { Effort::full() };
    let started = Instant::now();
    let mut stand = Stand::start(&effort).context("the servers did not start")?;
    let mut report = Report::new(machine::describe(&stand, &effort)?);
    for part in Part::ALL {
        if !arguments.only.is_empty() && !arguments.only.contains(&part) {
            continue;
        }
        let mut section = Section::new(part.title());
        let outcome = stand.refresh().and_then(|()| part.measure(&mut stand, &effort, &mut section));
        if let Err(error) = outcome {
            section.failed(&error);
        }
        println!("{section}");
        report.push(section);
    }
    report.finish(started.elapsed());
    if let Some(path) = &arguments.report {
        std::fs::write(path, report.to_string()).with_context(|| format!("cannot write {}", path.display()))?;
        println!("Written to {}.", path.display());
    }
    report.complete()
}
