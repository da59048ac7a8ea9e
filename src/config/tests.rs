use std::time::Duration;

use super::*;

const GOOD: &str = r#"
[site]
name = "kirkenes"
[main]
url = "postgres://postgres:geheim@main.example:5432/observatory"
[replica]
url = "postgres://postgres@127.0.0.1:5433/observatory"
[buffer]
url = "redis://127.0.0.1:6379"
"#;

/// Loads this file under these variables (`SECTION__KEY=value`, space-separated).
fn load(file: &str, dotenv: &str, environment: &str) -> Result<Config, ConfigErrors> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("proxy.toml");
    std::fs::write(&path, file).unwrap();
    let pairs = |text: &str| {
        let pair =
            |pair: &str| pair.split_once('=').map(|(key, value)| (format!("PGOUTPOST__{key}"), value.to_owned()));
        text.split_whitespace().filter_map(pair).collect()
    };
    Config::load(&Sources { file: Some(path), dotenv: pairs(dotenv), environment: pairs(environment) })
}

/// Exactly this one problem, as `key: reason` with all these words in its line.
fn refuses(file: &str, environment: &str, words: &[&str]) {
    let ConfigErrors(problems) = load(file, "", environment).unwrap_err();
    assert_eq!(problems.len(), 1, "{problems:?}");
    let line = problems[0].to_string();
    for word in words {
        assert!(line.contains(word), "{word:?} is not in {line:?}");
    }
}

fn good_and(more: &str) -> String {
    format!("{GOOD}{more}")
}

#[test]
fn a_short_file_is_enough() {
    let config = load(GOOD, "", "").unwrap();
    assert_eq!(config.site.name, "kirkenes");
    assert_eq!(config.site.kind, SiteKind::Secondary);
    assert_eq!(config.buffer.max_bytes, 1 << 30);
    assert_eq!(config.buffer.retention, Duration::from_secs(86_400));
    assert!(config.buffer.require_durable);
    assert_eq!(config.log.format, LogFormat::Text);
}

#[test]
fn environment_goes_over_dotenv_over_file_over_defaults() {
    let file = good_and("[ids]\nlease_size = 2\n");
    let lease_size = |dotenv, environment| load(&file, dotenv, environment).unwrap().ids.lease_size;
    assert_eq!(load(GOOD, "", "").unwrap().ids.lease_size, 10_000);
    assert_eq!(lease_size("", ""), 2);
    assert_eq!(lease_size("IDS__LEASE_SIZE=3", ""), 3);
    assert_eq!(lease_size("IDS__LEASE_SIZE=3", "IDS__LEASE_SIZE=4"), 4);
    assert_eq!(lease_size("", "IDS__LEASE_SIZE=4"), 4);
}

#[test]
fn a_variable_for_one_key_leaves_its_section_alone() {
    let config = load(GOOD, "BUFFER__RETENTION=3d", "BUFFER__REQUIRE_DURABLE=false BUFFER__MAX_BYTES=5MiB").unwrap();
    assert_eq!(config.buffer.url, "redis://127.0.0.1:6379");
    assert_eq!(config.buffer.retention, Duration::from_secs(3 * 86_400));
    assert_eq!(config.buffer.max_bytes, 5 << 20);
    assert!(!config.buffer.require_durable);
}

#[test]
fn the_environment_alone_is_enough() {
    let pairs = [("SITE__NAME", "17"), ("SITE__TYPE", "main"), ("MAIN__URL", "postgres://u@h/d")];
    let environment = pairs.map(|(key, value)| (format!("PGOUTPOST__{key}"), value.to_owned())).to_vec();
    let config = Config::load(&Sources { file: None, dotenv: Vec::new(), environment }).unwrap();
    assert_eq!((config.site.name.as_str(), config.site.kind), ("17", SiteKind::Main));
}

#[test]
fn libpq_variables_do_not_count() {
    let environment = vec![("PGHOST".to_owned(), "elsewhere".to_owned()), ("PGDATABASE".to_owned(), "x".to_owned())];
    let ConfigErrors(problems) = Config::load(&Sources { environment, ..Sources::default() }).unwrap_err();
    assert!(problems.iter().any(|problem| problem.key == "main.url" && problem.reason.contains("missing")));
}

#[test]
fn unknown_names_are_errors_wherever_they_stand() {
    refuses(
        &good_and("max_transaction = 5\n"),
        "",
        &["buffer.max_transaction = 5", "proxy.toml", "unknown key", "max_transactions"],
    );
    refuses(&good_and("[bufer]\nurl = \"x\"\n"), "", &["bufer", "unknown section", "buffer"]);
    refuses(GOOD, "SITE__NAMES=x", &["site.names", "PGOUTPOST__SITE__NAMES in environment", "unknown key"]);
    refuses(GOOD, "SIDE__NAME=x", &["side", "unknown section"]);
    refuses(GOOD, "NAME=x", &["name", "unknown section"]);
}

#[test]
fn bad_values_name_key_value_what_is_allowed_and_where_they_came_from() {
    refuses(
        &good_and("[replay]\nretry_delay = \"5 parsecs\"\n"),
        "",
        &["replay.retry_delay = \"5 parsecs\"", "proxy.toml", "100ms"],
    );
    refuses(
        GOOD,
        "TRACKER__TIMEOUT=5",
        &["tracker.timeout = \"5\"", "PGOUTPOST__TRACKER__TIMEOUT in environment", "unit"],
    );
    refuses(&good_and("[tracker]\ntimeout = 5\n"), "", &["tracker.timeout = 5", "expected a duration"]);
    refuses(GOOD, "BUFFER__MAX_BYTES=1GHz", &["buffer.max_bytes = \"1GHz\"", "1GiB"]);
    refuses(GOOD, "BUFFER__MAX_TRANSACTIONS=0", &["buffer.max_transactions = 0", "more than zero"]);
    refuses(GOOD, "BUFFER__MAX_TRANSACTIONS=-1", &["buffer.max_transactions = \"-1\"", "u64"]);
    refuses(GOOD, "BUFFER__REQUIRE_DURABLE=perhaps", &["buffer.require_durable = \"perhaps\"", "boolean"]);
    refuses(GOOD, "SITE__TYPE=primary", &["site.type = \"primary\"", "secondary, main"]);
    refuses(GOOD, "SITE__NAME=Bod%C3%B8!", &["site.name", "A-Z"]);
    refuses(GOOD, "LISTEN__ADDRESS=6432", &["listen.address = \"6432\"", "host:port"]);
    refuses(GOOD, "HTTP__ADDRESS=localhost:99999", &["http.address", "host:port"]);
    refuses(GOOD, "LOG__LEVEL=loud", &["log.level = \"loud\"", "debug"]);
    refuses(GOOD, "LOG__FORMAT=xml", &["log.format = \"xml\"", "text, json"]);
    refuses(GOOD, "REPLAY__RETRY_DELAY=1h", &["replay.retry_delay_max", "at least replay.retry_delay (1h)"]);
    refuses(GOOD, "BUFFER__URL=ftp://h", &["buffer.url", "redis://", "file:///"]);
    refuses(GOOD, "BUFFER__URL=file://buffer", &["buffer.url", "file:///"]);
    refuses(GOOD, "BUFFER__URL=file:///", &["buffer.url", "file:///"]);
    assert_eq!(load(GOOD, "", "BUFFER__URL=file:///var/lib/x").unwrap().buffer.url, "file:///var/lib/x");
    refuses(GOOD, "REPLICA__URL=mysql://h/d", &["replica.url", "postgres://"]);
    refuses(GOOD, "REPLICA__URL=postgres://u@h/other", &["replica.url", "\"observatory\"", "\"other\""]);
    refuses(GOOD, "REPLICA__URL=postgres://h/observatory", &["replica.url", "user, host and database"]);
    refuses(GOOD, "REPLICA__URL=postgres://u@h/pgoutpost", &["replica.url", "console"]);
}

#[test]
fn several_problems_are_reported_together() {
    let ConfigErrors(problems) =
        load(GOOD, "IDS__LEASE_SIZE=none", "SITE__NAME=a/b TRACKER__TIMEOUT=soon LOG__COLOUR=red MAIN__URL=http://x")
            .unwrap_err();
    let keys: Vec<&str> = problems.iter().map(|problem| problem.key.as_str()).collect();
    assert_eq!(keys, ["ids.lease_size", "log.colour", "main.url", "site.name", "tracker.timeout"]);
}

#[test]
fn a_file_that_is_missing_or_not_toml_says_so() {
    let missing = Sources { file: Some("/nowhere/proxy.toml".into()), ..Sources::default() };
    assert!(Config::load(&missing).unwrap_err().to_string().contains("/nowhere/proxy.toml: No such file"));
    let broken = load("[site\nname = 'x'", "", "").unwrap_err().to_string();
    assert!(broken.contains("proxy.toml: ") && broken.contains("line 1"), "{broken}");
    let line_with_a_password = load("[main]\nurl = \"postgres://u:geheim@h/d\n", "", "").unwrap_err().to_string();
    assert!(!line_with_a_password.contains("geheim"), "{line_with_a_password}");
}

#[test]
fn passwords_are_never_shown() {
    let config = load(GOOD, "", "BUFFER__URL=redis://:geheim@127.0.0.1").unwrap();
    let shown = format!("{config:?} {:?}", config.settings());
    assert!(!shown.contains("geheim"), "{shown}");
    assert!(shown.contains("postgres://postgres:***@main.example:5432/observatory"), "{shown}");
    for url in
        ["mysql://u:geheim@h/d", "postgres://u:geheim", "postgres://u:ge/heim@h/d", "postgres://u:geheim@h:port/d"]
    {
        let refused = load(GOOD, "", &format!("MAIN__URL={url}")).unwrap_err();
        assert!(!refused.to_string().contains("heim"), "{refused}");
    }
}

#[test]
fn masks_every_form_of_password() {
    for (text, masked) in [
        ("postgres://u:secret@h:5432/d", "postgres://u:***@h:5432/d"),
        ("postgres://h:5432/d", "postgres://h:5432/d"),
        ("http://[::1]:80/", "http://[::1]:80/"),
        ("postgres://u:a@b@h/d and redis://:x@h", "postgres://u:***@h/d and redis://:***@h"),
        ("host=h password=secret user=u", "host=h password=*** user=u"),
        ("host=h password='a secret' user=u", "host=h password=*** user=u"),
        ("PGPASSWORD=secret", "PGPASSWORD=***"),
        ("postgres://h/d?user=u&password=secret&x=y", "postgres://h/d?user=u&password=***&x=y"),
        ("no secrets: here", "no secrets: here"),
    ] {
        assert_eq!(mask(text), masked);
    }
}

#[test]
fn settings_say_where_they_came_from() {
    let config = load(GOOD, "LOG__LEVEL=debug", "").unwrap();
    let find = |key: &str| config.settings().into_iter().find(|setting| setting.key == key).unwrap();
    assert_eq!(find("log.level").origin, "PGOUTPOST__LOG__LEVEL in .env");
    assert_eq!(find("log.format").origin, "default");
    assert!(find("site.name").origin.ends_with("proxy.toml"));
    assert_eq!(find("buffer.max_bytes").value, "1GiB");
    assert_eq!(find("site.type").value, "secondary");
}

#[test]
fn the_digest_follows_the_values_and_not_their_origin() {
    let digest = |environment| load(GOOD, "", environment).unwrap().digest();
    assert_eq!(digest(""), digest("IDS__LEASE_SIZE=10000"));
    assert_ne!(digest(""), digest("IDS__LEASE_SIZE=10001"));
}

#[test]
fn durations_and_sizes_read_what_they_print() {
    for text in ["100ms", "5s", "1min", "36h", "7d", "0ms"] {
        assert_eq!(duration::format(duration::parse(text).unwrap()), text);
    }
    for text in ["0B", "1B", "1000B", "1KiB", "512MiB", "1GiB", "3TiB"] {
        assert_eq!(size::format(size::parse(text).unwrap()), text);
    }
    assert_eq!(duration::parse("60s"), duration::parse("1min"));
    assert_eq!(size::parse("1 MB"), Some(1_000_000));
    for text in ["", "5", "s", "-5s", "5.5s", "1h30min", "99999999999999999999s", "9999999999999999999d"] {
        assert_eq!(duration::parse(text), None, "{text:?}");
    }
}

#[test]
fn the_file_in_the_repository_states_the_defaults() {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("proxy.toml");
    let config = Config::load(&Sources { file: Some(file), ..Sources::default() }).unwrap();
    let sample = |setting: &Setting| setting.key == "site.name" || setting.key.ends_with(".url");
    let differing = |config: &Config| -> Vec<(String, String)> {
        let kept = config.settings().into_iter().filter(|setting| !sample(setting));
        kept.map(|setting| (setting.key, setting.value)).collect()
    };
    assert_eq!(differing(&config), differing(&Config::default()));
    let said = |setting: &Setting| setting.origin != "default";
    assert!(config.settings().iter().all(said), "it names every key");
}
