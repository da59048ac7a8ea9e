//! SIGKILL of a process that appends: nothing it acknowledged is lost.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use super::*;

const FOLDER: &str = "PGOUTPOST_TEST_FOLDER";

/// The child of the test below: appends for ever, and says what is durable.
#[test]
#[ignore = "run by `a_killed_process_loses_nothing_acknowledged`"]
fn child_appends_for_ever() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let store = store(Path::new(&folder));
    let mut last = store.claim(true, Seq::ZERO).unwrap().last.0;
    let mut out = std::io::stdout();
    for round in 1_u64.. {
        let count = 1 + round % 7;
        append(&store, &records(last + 1..=last + count)).unwrap();
        last += count;
        if round.is_multiple_of(50) {
            store.trim(store.epoch(), Seq(last.saturating_sub(100))).unwrap();
        }
        writeln!(out, "durable {last}").unwrap();
        out.flush().unwrap();
    }
}

#[test]
fn a_killed_process_loses_nothing_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let mut before = 0;
    for kill in 0..10_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "buffer::file::tests::crash::child_appends_for_ever", "--ignored", "--nocapture"])
            .env(FOLDER, folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut acknowledged = 0;
        let mut read = |lines: &mut dyn Iterator<Item = std::io::Result<String>>, count: u64| {
            let told = lines.map_while(Result::ok).filter_map(|line| line.strip_prefix("durable ")?.parse().ok());
            acknowledged = told.take(count as usize).last().unwrap_or(acknowledged);
        };
        read(&mut lines, 20 + kill * 7);
        child.kill().unwrap();
        // What it said before it died.
        read(&mut lines, u64::MAX);
        child.wait().unwrap();
        assert!(acknowledged > before, "kill {kill}: it did nothing");
        let (store, claim) = claimed(folder.path());
        assert!(claim.last.0 >= acknowledged, "kill {kill}: {} of {acknowledged}", claim.last);
        let there = seqs(&store);
        let first = there[0];
        assert_eq!(there, (first..=claim.last.0).collect::<Vec<_>>());
        assert!(first == 1 || first + 99 <= claim.last.0, "kill {kill}: trimmed too much");
        before = claim.last.0;
    }
}
