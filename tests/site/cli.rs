//! The commands: `setup` can be repeated, `check` finds what is wrong, a bad configuration is explained.

use std::process::Output;

use lab::Lab;
use lab::port::free_port;
use lab::redis::Redis;

use super::stage::{Stage, binary, redis, repository, rows, succeeded};

/// Runs `pgoutpost` with these settings over the repository's `proxy.toml`.
async fn pgoutpost(arguments: &[&str], settings: &[(&str, &str)]) -> Output {
    let mut command = tokio::process::Command::new(binary());
    command.args(arguments).arg("--config").arg(repository("proxy.toml")).current_dir(std::env::temp_dir());
    command.env("PGOUTPOST__LISTEN__ADDRESS", "127.0.0.1:0").env("PGOUTPOST__HTTP__ADDRESS", "127.0.0.1:0");
    for (key, value) in settings {
        command.env(format!("PGOUTPOST__{key}"), value);
    }
    command.kill_on_drop(true);
    tokio::time::timeout(std::time::Duration::from_secs(60), command.output()).await.expect("it does not end").unwrap()
}

fn printed(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn of(site: &lab::Site) -> [(&str, &str); 4] {
    [
        ("SITE__NAME", &site.name),
        ("MAIN__URL", &site.main_url),
        ("REPLICA__URL", &site.replica_url),
        ("BUFFER__URL", &site.redis_url),
    ]
}

#[tokio::test]
async fn setup_can_be_repeated_and_printed() {
    let lab = Lab::shared().await.unwrap();
    let site = lab.database("cli_setup").await.unwrap();
    let main = site.main().await.unwrap();
    let schemas = "SELECT count(*) FROM pg_namespace WHERE nspname = 'pgoutpost'";

    let sql = succeeded(&pgoutpost(&["setup", "--print"], &of(&site)).await);
    assert!(sql.contains("pgoutpost.ledger"), "{sql}");
    assert_eq!(rows(&main, schemas).await[0][0].as_deref(), Some("0"), "--print changed something");

    succeeded(&pgoutpost(&["setup"], &of(&site)).await);
    main.batch_execute("UPDATE pgoutpost.ledger SET seq = 7").await.unwrap();
    let definition = "SELECT string_agg(p::text, ',' ORDER BY p::text) FROM (SELECT proname, prosrc FROM pg_proc
         WHERE pronamespace = 'pgoutpost'::regnamespace) p";
    let before = rows(&main, definition).await;
    succeeded(&pgoutpost(&["setup"], &of(&site)).await);
    assert_eq!(rows(&main, definition).await, before);
    assert_eq!(
        rows(&main, "SELECT seq FROM pgoutpost.ledger").await,
        [[Some("7".to_owned())]],
        "setup lost the ledger"
    );

    // What it prints is what it does: it works in psql, on another database, and again there.
    let other = lab.database("cli_setup_printed").await.unwrap();
    other.main().await.unwrap().batch_execute(&sql).await.unwrap();
    other.main().await.unwrap().batch_execute(&sql).await.unwrap();
    assert_eq!(rows(&other.main().await.unwrap(), definition).await, before);
}

#[tokio::test]
async fn check_is_content_with_a_good_site_and_finds_what_is_wrong_with_others() {
    let stage = Stage::shared("cli_check", "SELECT 1").await;
    let site = &stage.site;
    let good = pgoutpost(&["check"], &of(site)).await;
    assert!(good.status.success() && !printed(&good).contains("CHECKs"), "{}", printed(&good));
    let checks = "CREATE DOMAIN later AS timestamptz CHECK (value > now()); CREATE DOMAIN small AS int CHECK (value < 9);
        CREATE TABLE bought (id int CHECK (id > 0 AND id::text <> ''), at timestamptz, day date, CONSTRAINT same_day CHECK (at::date = day))";
    site.main().await.unwrap().batch_execute(checks).await.unwrap();
    let text = printed(&pgoutpost(&["check"], &of(site)).await);
    let told = "later_check of later, same_day of bought";
    assert!(text.contains("WARN  CHECKs that replay can judge") && text.contains(told), "{text}");

    let wrong = async |changes: &[(&str, &str)], words: &[&str]| {
        let settings: Vec<(&str, &str)> = of(site).into_iter().chain(changes.iter().copied()).collect();
        let output = pgoutpost(&["check"], &settings).await;
        let text = printed(&output);
        assert!(!output.status.success(), "{changes:?}: {text}");
        for word in words {
            assert!(text.to_lowercase().contains(word), "{changes:?}: nothing about {word:?} in:\n{text}");
        }
    };
    // The "replica" is main itself.
    wrong(&[("REPLICA__URL", &site.main_url)], &["replica", "standby"]).await;
    // A database where setup did not run.
    let bare = stage.lab().database("cli_check_bare").await.unwrap();
    wrong(&[("MAIN__URL", &bare.main_url), ("REPLICA__URL", &bare.replica_url)], &["ledger", "setup"]).await;
    // Nobody there.
    let nowhere = format!("postgres://postgres@127.0.0.1:{}/cli_check", free_port().unwrap());
    // Main being away is what a site is for: a warning.
    let settings: Vec<(&str, &str)> = of(site).into_iter().chain([("MAIN__URL", nowhere.as_str())]).collect();
    let text = printed(&pgoutpost(&["check"], &settings).await);
    assert!(text.contains("WARN  main reachable"), "{text}");
    wrong(&[("REPLICA__URL", &nowhere)], &["replica"]).await;
    wrong(&[("BUFFER__URL", &format!("redis://127.0.0.1:{}", free_port().unwrap()))], &["redis"]).await;
}

#[tokio::test]
async fn a_redis_that_may_forget_is_found_and_refused() {
    let stage = Stage::shared("cli_redis", "SELECT 1").await;
    let folder = stage.lab().folder().join("forgetful");
    let forgetful = Redis::start(&folder, free_port().unwrap(), stage.lab().run_as()).await.unwrap();
    let url = forgetful.url();
    for (setting, harmless, harmful) in [
        ("appendonly", "yes", "no"),
        ("appendfsync", "always", "everysec"),
        ("no-appendfsync-on-rewrite", "no", "yes"),
        ("maxmemory-policy", "noeviction", "allkeys-lru"),
    ] {
        redis(&url, &["CONFIG", "SET", setting, harmful]).await;
        let settings: Vec<(&str, &str)> = of(&stage.site).into_iter().chain([("BUFFER__URL", url.as_str())]).collect();
        let check = pgoutpost(&["check"], &settings).await;
        assert!(!check.status.success() && printed(&check).contains(setting), "{setting}: {}", printed(&check));
        // The daemon does not start on it, either.
        let run = pgoutpost(&["run"], &settings).await;
        assert!(!run.status.success() && printed(&run).contains(setting), "{setting}: {}", printed(&run));
        redis(&url, &["CONFIG", "SET", setting, harmless]).await;
    }
}

#[tokio::test]
async fn a_bad_configuration_names_key_value_and_what_is_allowed() {
    for (key, value, words) in [
        ("SITE__TYPE", "tertiary", &["site.type", "tertiary", "secondary", "main"][..]),
        ("BUFFER__MAX_BYTES", "lots", &["buffer.max_bytes", "lots", "GiB"][..]),
        ("TRACKER__POLL_INTERVAL", "soon", &["tracker.poll_interval", "soon", "100ms"][..]),
        ("LISTEN__ADDRESS", "nowhere", &["listen.address", "nowhere"][..]),
        ("MAIN__URL", "mysql://somewhere", &["main.url", "mysql"][..]),
        ("BUFFER__COLOUR", "blue", &["buffer.colour", "max_transactions"][..]),
    ] {
        for command in ["run", "check", "setup"] {
            let output = pgoutpost(&[command], &[(key, value)]).await;
            let text = printed(&output);
            assert_eq!(output.status.code(), Some(2), "{command} with {key}={value}: {text}");
            for word in words {
                assert!(text.to_lowercase().contains(&word.to_lowercase()), "{key}={value}: no {word:?} in:\n{text}");
            }
        }
    }
    let output = pgoutpost(&["run"], &[("MAIN__URL", "postgres://me:very-secret@127.0.0.1:70000/x")]).await;
    assert_eq!(output.status.code(), Some(2));
    assert!(!printed(&output).contains("very-secret"), "a password was printed");
}
