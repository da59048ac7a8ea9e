//! What older versions of this program have written.

use super::*;
use crate::entry::Effect;

/// An entry as version 1 of the format has it, byte by byte. It must be readable for as long as a buffer may hold one.
const FORMAT_1: &str = concat!(
    r#"{"format":1,"seq":7,"uuid":"019364a2-7b1e-7c3d-9a55-0d6f1e2b3c4d","database":"app","role":"alice","#,
    r#""application_name":"psql","created_at":"2026-11-20T10:00:00.123456Z","statements":["UPDATE obs SET note = NULL"],"#,
    r#""tables":[{"schema":"public","name":"obs","columns":[{"name":"id","type":"integer"},"#,
    r#"{"name":"note","type":"character varying(20)"}],"key":[0],"fingerprint":13465987120983274},"#,
    r#"{"schema":"public","name":"day_2026","columns":[{"name":"d","type":"date"}],"#,
    r#""via":{"schema":"public","name":"day"},"key":[0],"fingerprint":1}],"#,
    r#""effects":[{"op":"insert","table":0,"row":["1","ü \"quoted\""]},"#,
    r#"{"op":"update","table":0,"key":["1"],"set":[[1,null]],"old":[[1,"a"]]},"#,
    r#"{"op":"update","table":0,"key":["1"],"set":[[0,"2"]],"old":[[0,"1"]],"row":["2",null]},"#,
    r#"{"op":"move","table":1,"key":["2026-01-01"],"set":[[0,"2026-01-02"]],"old":[[0,"2026-01-01"]],"to":1,"#,
    r#""row":["2026-01-02"]},"#,
    r#"{"op":"delete","table":0,"key":["2"],"old":["2",null]}]}"#,
);

#[test]
fn an_entry_of_the_first_format_is_read_and_written_as_it_was() {
    let record = Record::decode(Seq(7), FORMAT_1).unwrap();
    let entry = &record.entry;
    assert_eq!((entry.format, entry.role.as_str(), entry.actions.len()), (1, "alice", 0));
    assert_eq!(entry.tables[1].via.as_ref().map(ToString::to_string).as_deref(), Some("public.day"));
    assert_eq!(entry.tables[0].columns[1].type_name.as_ref(), "character varying(20)");
    let value = |text: &str| Some(text.into());
    let expected = [
        Effect::Insert { table: 0, row: vec![value("1"), value("ü \"quoted\"")] },
        Effect::Update {
            table: 0,
            key: vec![value("1")],
            set: vec![(1, None)],
            old: vec![(1, value("a"))],
            row: None,
            own: Vec::new(),
        },
        Effect::Update {
            table: 0,
            key: vec![value("1")],
            set: vec![(0, value("2"))],
            old: vec![(0, value("1"))],
            row: Some(vec![value("2"), None]),
            own: Vec::new(),
        },
        Effect::Move {
            table: 1,
            key: vec![value("2026-01-01")],
            set: vec![(0, value("2026-01-02"))],
            old: vec![(0, value("2026-01-01"))],
            to: 1,
            row: vec![value("2026-01-02")],
        },
        Effect::Delete { table: 0, key: vec![value("2")], old: vec![value("2"), None] },
    ];
    assert_eq!(entry.effects, expected);
    // Nothing that a newer program adds changes an old entry.
    assert_eq!(serde_json::to_string(&**entry).unwrap(), FORMAT_1);
}

#[test]
fn an_entry_of_a_later_format_is_refused() {
    let later = FORMAT_1.replacen("\"format\":1", &format!("\"format\":{}", FORMAT + 1), 1);
    let Err(LogError::Corrupt(why)) = Record::decode(Seq(7), &later) else { panic!("it was read") };
    assert!(why.contains("newer"), "{why}");
}
