//! A standing lab, as `make up` and its companions use it.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Command, Output};

use lab::standing::client::{UpOptions, down, order, up_attached};
use lab::standing::{Order, Status};

fn lab(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lab")).args(arguments).arg("--folder").arg(folder).output().unwrap()
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Without a daemon: that one has tests of its own, and this crate must not depend on it.
#[tokio::test]
async fn orders_reach_a_standing_lab_from_any_shell() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    assert!(!lab(folder, &["status"]).status.success(), "nothing runs yet");
    let config = concat!(env!("CARGO_MANIFEST_DIR"), "/../proxy.toml");
    let options = UpOptions {
        folder: folder.to_owned(),
        lab: env!("CARGO_BIN_EXE_lab").into(),
        daemon: None,
        config: config.into(),
        port: lab::port::free_port().unwrap(),
        http_port: lab::port::free_port().unwrap(),
    };
    let (mut process, status): (_, Status) = up_attached(&options).await.unwrap();
    assert!(up_attached(&options).await.is_err(), "one lab in a folder");

    // The role and database that plain `psql` takes.
    let client = lab::postgres::connect(&status.url).await.unwrap();
    let user: String = client.query_one("SELECT current_user::text", &[]).await.unwrap().get(0);
    assert_eq!(user, status.role);

    assert!(text(&lab(folder, &["cut"])).contains("link    cut"));
    assert!(text(&lab(folder, &["heal"])).contains("link    open"));
    assert!(text(&lab(folder, &["delay", "--ms", "20"])).contains("20 ms round trip"));
    assert!(text(&lab(folder, &["freeze"])).contains("replica paused"));
    assert_eq!(order(folder, Order::Thaw).await.unwrap().replay, "not paused");
    assert!(text(&lab(folder, &["black-hole"])).contains("link    black hole"));

    down(folder).await.unwrap();
    assert!(!Path::new(&status.folder).exists());
    assert!(!folder.join("control").exists());
    assert!(lab::postgres::connect(&status.url).await.is_err(), "main must be gone");
    process.stop(rustix::process::Signal::TERM, std::time::Duration::from_secs(5)).unwrap();
    assert!(!lab(folder, &["down"]).status.success(), "nothing runs any more");
}

#[test]
fn orders_are_read_as_they_are_written() {
    let all = [Order::Status, Order::Cut, Order::Heal, Order::BlackHole, Order::Delay(150)];
    for order in all.into_iter().chain([Order::Freeze, Order::Thaw, Order::Down]) {
        assert_eq!(Order::parse(&order.to_string()), Some(order));
    }
    for wrong in ["", "cut now", "delay", "delay -1", "delay soon"] {
        assert_eq!(Order::parse(wrong), None, "{wrong:?}");
    }
}
