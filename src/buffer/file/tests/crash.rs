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

/// The child of the test below: fills the disk, drops what it holds, and goes on.
#[test]
#[ignore = "run by `a_disk_that_is_full_in_earnest`"]
fn child_fills_its_disk() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let (store, claim) = claimed(Path::new(&folder));
    let mut last = claim.last.0;
    let error = loop {
        match append(&store, &records(last + 1..=last + 20)) {
            Ok(()) => last += 20,
            Err(error) => break error,
        }
    };
    assert!(matches!(&error, LogError::Refused(why) if why.contains("No space left")), "{error}");
    assert!(last > 1000, "{last}");
    assert!(append(&store, &records(last + 1..=last + 20)).is_err());
    drop(store);
    // A daemon that starts on a full disk can replay, and drop what is confirmed.
    let (store, claim) = claimed(Path::new(&folder));
    assert_eq!((claim.last, seqs(&store)), (Seq(last), (1..=last).collect()));
    store.trim(store.epoch(), Seq(last)).unwrap();
    for seq in last + 1..=last + 200 {
        append(&store, &records(seq..=seq)).unwrap();
    }
    assert_eq!(seqs(&store).len(), 200);
    writeln!(std::io::stdout(), "went on after {last}").unwrap();
}

#[test]
fn a_disk_that_is_full_in_earnest() {
    let place = tempfile::tempdir().unwrap();
    // A small file system of its own, which goes with the process.
    let script = r#"cd "$1" && mkdir disk && dd if=/dev/zero of=image bs=1M count=4 status=none \
        && mkfs.ext4 -q -O ^has_journal image && mount -o loop image disk && echo mounted && PGOUTPOST_TEST_FOLDER="$1/disk/site" \
        "$2" --exact buffer::file::tests::crash::child_fills_its_disk --ignored --nocapture"#;
    let run = Command::new("unshare")
        .args(["-m", "sh", "-c", script, "sh"])
        .arg(place.path())
        .arg(std::env::current_exe().unwrap())
        .output();
    let told = run.map_or_else(
        |error| error.to_string(),
        |output| String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned(),
    );
    if !told.contains("mounted") {
        eprintln!("this user may not mount a small disk here, so a full one was only simulated: {told}");
        return;
    }
    assert!(told.contains("went on after"), "{told}");
}
