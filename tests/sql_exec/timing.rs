//! Not a test: prints what rewritten statements cost on a table of a million rows.

use std::time::Instant;

use pgoutpost::catalog::AttNum;
use pgoutpost::overlay::{Change, Overlay, RowId};

use crate::site::Site;

const SCHEMA: &str = "
    CREATE TABLE unit(id int PRIMARY KEY, name text UNIQUE);
    INSERT INTO unit SELECT i, 'u' || i FROM generate_series(1, 1000) i;
    CREATE TABLE big(id int PRIMARY KEY, unit int REFERENCES unit, status text, at timestamptz DEFAULT now());
    CREATE INDEX ON big(at);
    INSERT INTO big SELECT i, 1 + i % 1000, 's' || i % 7, '2026-01-01'::timestamptz + i * interval '1 s' FROM generate_series(1, 1000000) i;
    CREATE TABLE uu(id uuid PRIMARY KEY DEFAULT gen_random_uuid(), n int);
    INSERT INTO uu SELECT gen_random_uuid(), i FROM generate_series(1, 1000000) i;
    ANALYZE";

#[test]
#[ignore = "prints timings"]
fn timings() {
    let mut site = Site::new("timing", SCHEMA);
    for pending in [0, 1, 100, 10_000] {
        site.overlay = Overlay::default();
        let (big, uu) = (site.table("big"), site.table("uu"));
        let patch = |id: i32| Change::Update {
            row: RowId::Key([id.to_string().into()].into()),
            set: vec![(AttNum(3), Some("p".into()))],
        };
        let insert = |id: i32| Change::Insert {
            row: RowId::Key([id.to_string().into()].into()),
            values: vec![
                (AttNum(1), Some(id.to_string().into())),
                (AttNum(2), Some("5".into())),
                (AttNum(3), None),
                (AttNum(4), Some("2026-03-03 00:00:00+00".into())),
            ],
        };
        let insert_uu = |n: i32| {
            let id: std::sync::Arc<str> = uuid::Uuid::from_u128(n as u128).to_string().into();
            Change::Insert {
                row: RowId::Key([id.clone()].into()),
                values: vec![(AttNum(1), Some(id)), (AttNum(2), Some("1".into()))],
            }
        };
        let mut changes: Vec<_> = (0..pending / 2).map(|n| (big, patch(1 + n * 3))).collect();
        changes.extend((0..pending - pending / 2).map(|n| (big, insert(2_000_000 + n))));
        changes.extend((0..pending).map(|n| (uu, insert_uu(n))));
        if pending > 0 {
            site.entry(&changes);
        }
        for statement in [
            "SELECT * FROM big WHERE id = 77",
            "SELECT * FROM big WHERE id = 4",
            "SELECT * FROM big WHERE unit = 5 AND id BETWEEN 1000 AND 2000",
            "SELECT * FROM big WHERE at BETWEEN '2026-01-02 00:00' AND '2026-01-02 00:05'",
            "SELECT * FROM big ORDER BY id LIMIT 10",
            "SELECT count(*) FROM big",
            "INSERT INTO big VALUES (3000000, 5, 'x')",
            "INSERT INTO uu(n) VALUES (5) RETURNING id",
            "UPDATE big SET status = 'y' WHERE id = 500 RETURNING *",
            "DELETE FROM big WHERE id = 501",
        ] {
            let before = site.overlay.clone();
            let mut best = std::time::Duration::MAX;
            for _ in 0..5 {
                site.overlay = before.clone();
                let start = Instant::now();
                site.client(statement, &[]).unwrap();
                best = best.min(start.elapsed());
            }
            let text = site.sent.clone();
            site.overlay = before;
            eprintln!("{pending:>6} pending {:>9.3} ms  {statement}  [{} bytes]", best.as_secs_f64() * 1e3, text.len());
        }
    }
}
