use super::super::contract::{Home, quarantined, record, records};
use super::super::log::LeaseRange;
use super::*;
use crate::catalog::SequenceId;

fn home_config(url: String) -> BufferConfig {
    BufferConfig { url, ..BufferConfig::default() }
}

/// Entries with a gap, something in quarantine, and leases.
async fn fill_some(log: &dyn Log) {
    log.claim(true, Seq(4)).await.unwrap();
    log.append(&records(5..=300)).await.unwrap();
    log.trim(Seq(9)).await.unwrap();
    log.claim(false, Seq(310)).await.unwrap();
    log.append(&records(311..=900)).await.unwrap();
    let error = serde_json::json!({"code": "23505", "message": "\"quoted\"\n"});
    for (seq, waits_for) in [(12, None), (700, Some(Seq(12)))] {
        let entry = record(seq).entry;
        log.quarantine(&Quarantined { waits_for, ..Quarantined::new(entry, error.clone()) }).await.unwrap();
    }
    let block = LeaseBlock {
        version: 3,
        ranges: vec![LeaseRange { start: 100, increment: 2, count: 7 }],
        leased_to: Some(7),
        of: Some(SequenceId { oid: 16400, file: 16401 }),
        before: vec![SequenceId { oid: 16400, file: 16400 }],
    };
    log.store_lease("public.\"S\"", &block).await.unwrap();
    log.claim(false, Seq(1000)).await.unwrap();
}

async fn contents(log: &dyn Log) -> (Vec<String>, Vec<Quarantined>, Vec<(String, LeaseBlock)>) {
    let records = log.read(Seq::ZERO, 10_000, u64::MAX).await.unwrap();
    (
        records.iter().map(|record| record.json.to_string()).collect(),
        quarantined(log).await,
        log.leases().await.unwrap().into_iter().collect(),
    )
}

#[tokio::test]
async fn everything_arrives_between_any_two_kinds() {
    for (from, to) in
        [(Home::redis().await, Home::file()), (Home::file(), Home::redis().await), (Home::file(), Home::file())]
    {
        let source = Place::of(&home_config(from.url()), "TEST").unwrap();
        fill_some(source.log()).await;
        let before = contents(source.log()).await;
        let mut file = Vec::new();
        let told = export(source.log(), "TEST", &mut file).await.unwrap();
        assert_eq!(told, Summary { entries: 881, last: Seq(1000), quarantined: 2, leases: 1 });
        assert_eq!(verify(&file[..], "TEST").unwrap(), told);

        let config = home_config(to.url());
        assert_eq!(import(&config, "TEST", &file[..]).await.unwrap(), told);
        let target = Place::of(&config, "TEST").unwrap();
        target.vacant().await.unwrap();
        assert_eq!(contents(target.log()).await, before);
        // The site goes on where it was.
        assert_eq!(target.log().claim(true, Seq::ZERO).await.unwrap().found, Seq(1000));
        target.log().append(&[record(1001)]).await.unwrap();
        assert!(target.vacant().await.is_ok() || matches!(target, Place::Redis(_)));

        // Never over something.
        drop(target);
        let error = import(&config, "TEST", &file[..]).await.unwrap_err();
        assert!(matches!(error, TransferError::NotEmpty(_)), "{error}");
        let target = Place::of(&config, "TEST").unwrap();
        assert_eq!(contents(target.log()).await.0.len(), before.0.len() + 1);
    }
}

#[tokio::test]
async fn what_is_damaged_or_of_another_site_is_not_imported() {
    let (from, to) = (Home::file(), Home::file());
    let source = Place::of(&home_config(from.url()), "TEST").unwrap();
    source.log().claim(true, Seq::ZERO).await.unwrap();
    source.log().append(&records(1..=3)).await.unwrap();
    let mut file = Vec::new();
    export(source.log(), "TEST", &mut file).await.unwrap();
    let config = home_config(to.url());
    let nothing = async || {
        let target = Place::of(&config, "TEST").unwrap();
        assert!(contents(target.log()).await.0.is_empty());
        assert!(contents(Place::of(&config, "TEST.importing").unwrap().log()).await.0.is_empty());
    };
    assert!(matches!(verify(&file[..], "OTHER"), Err(TransferError::OtherSite { .. })));
    for cut in (0..file.len()).step_by(97).chain([file.len() - 1]) {
        assert!(verify(&file[..cut], "TEST").is_err(), "cut at {cut}");
    }
    import(&config, "TEST", &file[..file.len() - 1]).await.unwrap_err();
    nothing().await;
    for at in (0..file.len()).step_by(13) {
        let mut spoilt = file.clone();
        spoilt[at] ^= 2;
        assert!(verify(&spoilt[..], "TEST").is_err(), "byte {at}");
    }
    let without_one: Vec<u8> = file
        .split_inclusive(|&byte| byte == b'\n')
        .enumerate()
        .filter(|(at, _)| *at != 2)
        .flat_map(|(_, line)| line.to_vec())
        .collect();
    import(&config, "TEST", &without_one[..]).await.unwrap_err();
    nothing().await;
    import(&config, "TEST", &file[..]).await.unwrap();
}

#[tokio::test]
async fn a_log_in_use_is_seen() {
    for home in [Home::redis().await, Home::file()] {
        let config = home_config(home.url());
        let owner = Place::of(&config, "TEST").unwrap();
        owner.vacant().await.unwrap();
        owner.log().claim(true, Seq::ZERO).await.unwrap();
        let error = Place::of(&config, "TEST").unwrap().vacant().await.unwrap_err();
        assert!(matches!(&error, LogError::Refused(why) if why.contains("stop that first")), "{error}");
        Place::of(&config, "TES").unwrap().vacant().await.unwrap();
        drop(owner);
        let vacant = Place::of(&config, "TEST").unwrap();
        let started = std::time::Instant::now();
        while vacant.vacant().await.is_err() {
            assert!(started.elapsed() < std::time::Duration::from_secs(10));
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }
}
