//! Habits of this repository that no lint knows. Each failure says what to do.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

/// A file that one can hold in one's head. The habit is 400; this is where habit ends.
const MAX_LINES: usize = 500;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// All Rust files of the workspace, as paths from its root, with their text.
fn sources() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders: Vec<_> = ["src", "lab", "tests", "benches"].map(|name| root().join(name)).into();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root()).unwrap().display().to_string();
                found.push((name, std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    assert!(found.len() > 10, "the sources must be found");
    found
}

fn complain(complaints: &[String]) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[test]
fn every_file_says_what_it_is_and_is_short() {
    let mut complaints = Vec::new();
    for (name, text) in sources() {
        let lines = text.lines().count();
        if lines > MAX_LINES {
            complaints.push(format!("{name}: {lines} lines; split it by what its parts do (at most {MAX_LINES})"));
        }
        let is_unit_test = name.ends_with("/tests.rs") || name.contains("/tests/");
        if !text.starts_with("//!") && !is_unit_test {
            complaints.push(format!("{name}: opens without `//!`; say what it does and what it must never do"));
        }
    }
    complain(&complaints);
}

#[test]
fn names_of_files_say_something() {
    let empty = ["mod.rs", "utils.rs", "util.rs", "common.rs", "types.rs", "helpers.rs", "misc.rs"];
    let named = |name: &str| empty.iter().any(|file| name.rsplit('/').next() == Some(file));
    let complaints = sources().into_iter().filter(|(name, _)| named(name));
    complain(&complaints.map(|(name, _)| format!("{name}: name it after what it holds")).collect::<Vec<_>>());
}

/// A foreign crate that has one owner can be replaced. Modules below `upstream` talk to servers in its words.
#[test]
fn foreign_crates_have_one_owner() {
    let owners: [(&str, &[&str]); 11] = [
        ("redis::", &["src/buffer"]),
        ("squawk_syntax::", &["src/sql"]),
        ("squawk_parser::", &["src/sql"]),
        ("postgres_protocol::", &["src/upstream", "src/wire"]),
        (
            "tokio_postgres::",
            &[
                "src/upstream",
                "src/catalog",
                "src/setup",
                "src/check",
                "src/replay",
                "src/tracker",
                "src/session",
                "src/ids/source.rs",
                "src/config/place.rs",
            ],
        ),
        ("figment::", &["src/config"]),
        ("dotenvy::", &["src/config"]),
        ("axum::", &["src/http"]),
        ("metrics_exporter_prometheus::", &["src/metrics.rs"]),
        ("tracing_subscriber::", &["src/logging.rs"]),
        ("clap::", &["src/cli"]),
    ];
    let mut complaints = Vec::new();
    for (name, text) in sources().into_iter().filter(|(name, _)| name.starts_with("src/")) {
        for (krate, homes) in owners {
            if !homes.iter().any(|home| name.starts_with(home)) && used(&text, krate) {
                complaints.push(format!("{name}: {krate} belongs to {}", homes.join(", ")));
            }
        }
        if !name.starts_with("src/cli") && used(&text, "anyhow::") {
            complaints
                .push(format!("{name}: anyhow is for the command line and tests; give the module an error of its own"));
        }
    }
    complain(&complaints);
}

/// What works on one machine only, and what was put off.
#[test]
fn nothing_is_tied_to_a_machine_or_put_off() {
    // In pieces, so that this file does not complain of itself.
    let machine = [["/wo", "rk/"], ["/ro", "ot/"], ["/ho", "me/"], ["/Us", "ers/"]].map(|parts| parts.concat());
    let later = [["to", "do!("], ["unimple", "mented!("], ["FIX", "ME"], ["TO", "DO"]].map(|parts| parts.concat());
    let mut complaints = Vec::new();
    for (name, text) in sources() {
        for word in machine.iter().filter(|word| text.contains(word.as_str())) {
            complaints.push(format!("{name}: {word:?} is a path of one machine; derive it or pass it in"));
        }
        for word in later.iter().filter(|word| text.contains(word.as_str())) {
            complaints.push(format!("{name}: {word:?}; do it now or open an issue"));
        }
    }
    complain(&complaints);
}

/// The core is tested with plain values: it does no I/O, waits for nothing and asks no clock.
#[test]
fn the_core_is_pure() {
    let pure = ["src/sql", "src/overlay", "src/entry.rs", "src/lsn.rs", "src/catalog.rs", "src/sqlstate.rs"];
    let impure = ["tokio::", "tokio_postgres::", "std::fs", "std::net", "SystemTime", "Instant::now", "async fn"];
    let mut complaints = Vec::new();
    for (name, text) in sources() {
        let is_pure = pure.iter().any(|start| name.starts_with(start)) && !name.contains("/tests");
        for word in impure.iter().filter(|word| is_pure && used(&text, word)) {
            complaints.push(format!("{name}: `{word}` in the pure core; do it at the rim and pass the value in"));
        }
    }
    complain(&complaints);
}

/// Whether code, and not only a comment, has that word; `redis::` is not in `crate::redis::`.
fn used(text: &str, word: &str) -> bool {
    let code = text.lines().map(|line| line.split("//").next().unwrap_or_default());
    code.into_iter().any(|line| {
        line.match_indices(word).any(|(at, _)| {
            let before = line[..at].chars().next_back();
            !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
        })
    })
}
