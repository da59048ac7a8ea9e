//! The report: Markdown, printed part by part and written as a whole.

use std::fmt;
use std::time::Duration;

use anyhow::{Result, bail};

/// A table: a header and rows of cells.
#[derive(Debug)]
pub(crate) struct Table {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(header: &[&str]) -> Table {
        Table { header: header.iter().map(|&cell| cell.to_owned()).collect(), rows: Vec::new() }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let cells: Vec<String> = cells.into_iter().collect();
        eprintln!("    {}", cells.join(" | "));
        self.rows.push(cells);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| {} |", self.header.join(" | "))?;
        let rule: Vec<&str> = (0..self.header.len()).map(|place| if place == 0 { "---" } else { "---:" }).collect();
        writeln!(f, "|{}|", rule.join("|"))?;
        for row in &self.rows {
            writeln!(f, "| {} |", row.join(" | "))?;
        }
        Ok(())
    }
}

/// One part of the report.
#[derive(Debug)]
pub(crate) struct Section {
    title: String,
    blocks: Vec<String>,
    failures: usize,
}

impl Section {
    pub(crate) fn new(title: &str) -> Section {
        eprintln!("== {title}");
        Section { title: title.to_owned(), blocks: Vec::new(), failures: 0 }
    }

    pub(crate) fn text(&mut self, text: impl Into<String>) {
        self.blocks.push(format!("{}\n", text.into()));
    }

    pub(crate) fn table(&mut self, table: &Table) {
        self.blocks.push(table.to_string());
    }

    /// Says that what should stand here could not be measured.
    pub(crate) fn failed(&mut self, error: &anyhow::Error) {
        eprintln!("    not measured: {error:#}");
        self.failures += 1;
        self.blocks.push(format!("**Not measured:** {error:#}\n"));
    }
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "## {}\n\n{}", self.title, self.blocks.join("\n"))
    }
}

/// The whole report.
#[derive(Debug)]
pub(crate) struct Report {
    machine: Table,
    sections: Vec<Section>,
    elapsed: Duration,
}

const INTRODUCTION: &str = "\
# Benchmarks

Written by `make bench` (`benches/site/main.rs`), not by hand. Every figure stands beside its yardstick, measured in the same
run by the same client (`pgbench`); contenders take turns in short rounds, medians over the rounds are shown. Ratios are
*pgoutpost ÷ yardstick*: of rates, more is better; of times, less. Client, servers and daemon share the machine's cores,
so the ratios carry over to other machines better than the figures do.
";

impl Report {
    pub(crate) fn new(machine: Table) -> Report {
        Report { machine, sections: Vec::new(), elapsed: Duration::ZERO }
    }

    pub(crate) fn push(&mut self, section: Section) {
        self.sections.push(section);
    }

    pub(crate) fn finish(&mut self, elapsed: Duration) {
        self.elapsed = elapsed;
    }

    /// # Errors
    /// When something was not measured.
    pub(crate) fn complete(&self) -> Result<()> {
        let failures: usize = self.sections.iter().map(|section| section.failures).sum();
        if failures > 0 {
            bail!("{failures} measurements failed");
        }
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{INTRODUCTION}\n{}", self.machine)?;
        writeln!(f, "The run took {} s.\n", self.elapsed.as_secs())?;
        for (place, section) in self.sections.iter().enumerate() {
            let rule = if place == 0 { "" } else { "\n" };
            write!(f, "{rule}{section}")?;
        }
        Ok(())
    }
}
