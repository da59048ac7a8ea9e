//! Tracker, leases and check against a real pair.

use std::time::Duration;

use pgoutpost::catalog::CatalogHandle;
use pgoutpost::catalog::load::load;
use pgoutpost::check::{self, Grade};
use pgoutpost::entry::Seq;
use pgoutpost::ids::LeaseSource;
use pgoutpost::ids::source::MainSequences;
use pgoutpost::tracker::{self, TrackerConfig, TrackerStatus};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::cluster::{Database, client, role};
use crate::harness::{Outpost, entry, insert, table};

#[tokio::test]
async fn confirms_what_the_replicas_ledger_says_and_follows_definitions() {
    let outpost = Outpost::start("tracked", "CREATE TABLE t(id int PRIMARY KEY)").await;
    let replica = outpost.database.replica().await;
    let catalog = CatalogHandle::open(outpost.database.replica.clone()).await.unwrap();
    let (stop, status) = (CancellationToken::new(), watch::Sender::new(TrackerStatus::default()));
    let mut seen = status.subscribe();
    let task = tokio::spawn(tracker::run(
        outpost.buffer.clone(),
        outpost.database.replica.clone(),
        "s".to_owned(),
        catalog.clone(),
        TrackerConfig::default(),
        stop.clone(),
        status,
    ));
    let replayer = outpost.replay();
    for n in 0..50 {
        outpost.commit(entry("postgres", vec![table("t", &["id integer"], 1)], vec![insert(&[&n.to_string()])])).await;
    }
    let mut progress = outpost.buffer.progress();
    let confirmed = progress.wait_for(|progress| progress.confirmed == Seq(50));
    tokio::time::timeout(Duration::from_secs(20), confirmed).await.unwrap().unwrap();
    let count: i64 = replica.query_one("SELECT count(*) FROM t", &[]).await.unwrap().get(0);
    assert_eq!(count, 50, "confirmed is visible");

    let mut versions = catalog.subscribe();
    outpost.database.main().await.batch_execute("ALTER TABLE t ADD extra text").await.unwrap();
    tokio::time::timeout(Duration::from_secs(20), versions.changed()).await.unwrap().unwrap();
    assert!(catalog.current().resolve(Some("public"), "t", &[]).unwrap().column("extra").is_some());

    let last = seen.wait_for(|status| status.ledger == Some(Seq(50))).await.unwrap().clone();
    assert!(last.replica_up && last.in_recovery && last.replay_lsn.is_some() && last.receive_lsn.is_some(), "{last:?}");
    // Its connection is killed: it comes back by itself.
    replica
        .batch_execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database()")
        .await
        .unwrap();
    outpost.commit(entry("postgres", vec![table("t", &["id integer"], 1)], vec![insert(&["99"])])).await;
    let confirmed = progress.wait_for(|progress| progress.confirmed == Seq(51));
    tokio::time::timeout(Duration::from_secs(20), confirmed).await.unwrap().unwrap();
    seen.wait_for(|status| status.replica_up && status.last_error.is_none()).await.unwrap();
    stop.cancel();
    task.await.unwrap();
    replayer.stop().await;
}

#[tokio::test]
async fn leases_come_from_main_and_its_absence_is_told() {
    let outpost = Outpost::start("leases", "CREATE SEQUENCE s INCREMENT 2").await;
    let mut main = tokio_postgres::Config::new();
    main.host("127.0.0.1").port(outpost.link.port()).user("postgres").dbname(&outpost.database.name);
    let source = MainSequences::new(main);
    assert_eq!(source.lease("public.s", 3).await.unwrap().values, [1, 3, 5]);
    outpost.link.cut().unwrap();
    assert!(source.lease("public.s", 3).await.is_err());
    outpost.link.heal().unwrap();
    assert_eq!(source.lease("public.s", 2).await.unwrap().values.len(), 2);
    assert!(source.lease("public.none", 1).await.unwrap_err().contains("does not exist"));
}

#[tokio::test]
async fn check_finds_a_good_site_good_and_says_what_is_missing() {
    let database = Database::set_up("checked").await;
    database.replica().await;
    let findings = check::run(&database.main, &database.replica, "s", Vec::new()).await;
    let bad: Vec<String> =
        findings.iter().filter(|finding| finding.grade != Grade::Ok).map(ToString::to_string).collect();
    assert!(bad.iter().all(|finding| finding.contains("hot_standby_feedback")), "{bad:#?}");
    assert!(findings.len() >= 13, "{findings:#?}");

    let grade = async |main: &tokio_postgres::Config, replica: &tokio_postgres::Config, site: &str, what: &str| {
        let findings = check::run(main, replica, site, Vec::new()).await;
        let found = findings.iter().find(|finding| finding.what == what);
        let found = found.unwrap_or_else(|| panic!("{what}: {findings:#?}"));
        assert!(found.grade == Grade::Ok || !found.mend.is_empty(), "{found}");
        found.grade
    };
    let (main, replica) = (&database.main, &database.replica);
    assert_eq!(grade(main, replica, "other", "ledger on main").await, Grade::Fail);
    assert_eq!(grade(main, replica, "other", "ledger on replica").await, Grade::Fail);
    assert_eq!(grade(main, main, "s", "replica is a standby").await, Grade::Fail);
    assert_eq!(grade(replica, replica, "s", "main writable").await, Grade::Fail);
    let mut away = main.clone();
    away = {
        let mut config = tokio_postgres::Config::new();
        config.host("127.0.0.1").port(1).user("postgres").dbname(away.get_dbname().unwrap());
        config
    };
    assert_eq!(grade(&away, replica, "s", "main reachable").await, Grade::Warn);
    assert_eq!(grade(main, &away, "s", "replica reachable").await, Grade::Fail);
    let bare = Database::new("unchecked").await;
    bare.replica().await;
    assert_eq!(grade(&bare.main, &bare.replica, "s", "schema on main").await, Grade::Fail);
    assert_eq!(grade(&bare.main, replica, "s", "same database").await, Grade::Fail);
    let client = database.main().await;
    role(&client, "feeble").await;
    let mut feeble = database.main.clone();
    feeble.user("feeble");
    assert_eq!(grade(&feeble, replica, "s", "may advance the ledger").await, Grade::Fail);
    client.batch_execute("ALTER EVENT TRIGGER pgoutpost_ddl DISABLE").await.unwrap();
    assert_eq!(grade(main, replica, "s", "changes of definitions are noticed").await, Grade::Warn);
}

#[tokio::test]
async fn a_policy_for_a_table_that_is_not_there_is_told() {
    let database = Database::set_up("policies").await;
    let main = client(&database.main).await;
    main.batch_execute("CREATE TABLE unit (id int); CREATE VIEW seen AS SELECT 1; CREATE SCHEMA \"o.x\"; CREATE TABLE \"o.x\".t (id int)")
        .await
        .unwrap();
    let names = ["public.unit", "public.seen", "public.nosuch", "o.x.t"];
    let catalog = load(&main).await.unwrap();
    assert_eq!(check::unknown(&catalog, names.into_iter()), ["public.seen", "public.nosuch"]);
    let found = check::policies(&database.main, names.map(str::to_owned).to_vec()).await.unwrap();
    assert_eq!((found.grade, &*found.detail), (Grade::Warn, "not there: public.nosuch, public.seen"));
    let found = check::policies(&database.main, vec!["public.unit".to_owned()]).await.unwrap();
    assert_eq!(found.grade, Grade::Ok);
    assert!(check::policies(&database.main, Vec::new()).await.is_none());
}
