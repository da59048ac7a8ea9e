use super::*;
use crate::entry::{EntryColumn, Seq};

#[test]
fn types_lose_their_modifiers() {
    for (full, bare) in [
        ("integer", "integer"),
        ("character varying(5)", "character varying"),
        ("character(2)", "bpchar"),
        ("character(2)[]", "bpchar[]"),
        ("bpchar", "bpchar"),
        ("bit(3)", "\"bit\""),
        ("\"bit\"", "\"bit\""),
        ("bit varying(3)", "bit varying"),
        ("numeric(6,2)[]", "numeric[]"),
        ("timestamp(3) with time zone", "timestamp with time zone"),
        ("interval day to second(3)", "interval"),
        ("interval(3)", "interval"),
        ("public.\"odd(type)\"(3)", "public.\"odd(type)\""),
        ("public.geometry(Point,4326)", "public.geometry"),
        ("\"char\"", "\"char\""),
    ] {
        assert_eq!(bare_type(full), bare);
    }
}

fn table(name: &str) -> EntryTable {
    let column =
        |name: &str, type_name: &str| EntryColumn { name: name.into(), type_name: type_name.into(), shape: None };
    EntryTable {
        name: TableName { schema: "s".into(), name: name.into() },
        columns: vec![column("id", "integer"), column("a\"b", "character varying(5)"), column("twice", "integer")],
        via: None,
        key: vec![0],
        fingerprint: 0,
        origin: None,
    }
}

pub(super) fn entry(effects: Vec<Effect>) -> Entry {
    Entry {
        format: 1,
        seq: Seq(1),
        uuid: uuid::Uuid::nil(),
        database: String::new(),
        role: String::new(),
        application_name: String::new(),
        created_at: String::new(),
        statements: Vec::new(),
        tables: vec![table("t"), table("u")],
        effects,
        actions: Vec::new(),
        retry_of: None,
    }
}

fn value(text: &str) -> Value {
    Some(text.into())
}

pub(super) fn insert_of(table: usize, id: &str) -> Effect {
    Effect::Insert { table, row: vec![value(id), None, value("9")] }
}

fn main_tables(has_triggers: bool) -> HashMap<TableName, Arc<MainTable>> {
    let known = Arc::new(MainTable { generated: vec!["twice".into()], has_triggers, ..MainTable::default() });
    [table("t"), table("u")].map(|table| (table.name, Arc::clone(&known))).into()
}

fn sqls(effects: Vec<Effect>, has_triggers: bool) -> Vec<(String, u64)> {
    let mut steps = Vec::new();
    add(&mut steps, 0, &entry(effects), Ground { site: "s", main: &main_tables(has_triggers) }, true);
    steps.into_iter().map(|step| (step.sql, step.rows)).collect()
}

#[test]
fn effects_become_statements_by_key_without_generated_columns() {
    let update = Effect::Update {
        table: 0,
        key: vec![value("1")],
        set: vec![(1, value("x")), (2, value("2"))],
        old: Vec::new(),
        row: None,
        own: Vec::new(),
    };
    let delete = Effect::Delete { table: 1, key: vec![value("1")], old: Vec::new() };
    let sqls = sqls(vec![insert_of(0, "1"), update, delete], false);
    let expected = [
        "INSERT INTO \"s\".\"t\" (\"id\", \"a\"\"b\") OVERRIDING SYSTEM VALUE VALUES ($1::text::integer, $2::text::character varying)",
        "WITH done AS (UPDATE \"s\".\"t\" AS t SET \"a\"\"b\" = $3::text::character varying WHERE t.\"id\" = $2::text::integer RETURNING 1) SELECT ",
        "WITH done AS (DELETE FROM \"s\".\"u\" AS t WHERE t.\"id\" = $2::text::integer RETURNING 1) SELECT ",
    ];
    assert_eq!(sqls.len(), 3);
    sqls.iter().zip(expected).for_each(|((sql, _), begins)| assert!(sql.starts_with(begins), "{sql}"));
}

#[test]
fn inserts_in_a_row_become_one_and_keep_their_order() {
    let effects = vec![
        insert_of(0, "1"),
        insert_of(0, "2"),
        insert_of(1, "3"),
        insert_of(0, "4"),
        insert_of(0, "5"),
        insert_of(0, "6"),
    ];
    let mut steps = Vec::new();
    add(&mut steps, 0, &entry(effects.clone()), Ground { site: "s", main: &main_tables(false) }, true);
    assert_eq!(steps.iter().map(|step| step.rows).collect::<Vec<_>>(), [2, 1, 3]);
    assert!(
        steps[0].sql.ends_with(
            "SELECT r.c0::integer, r.c1::character varying FROM unnest($1::text[], $2::text[]) AS r(c0, c1)"
        )
    );
    let Parameters::Columns(columns) = &steps[2].parameters else { panic!("columns") };
    assert_eq!(columns[0], [value("4"), value("5"), value("6")]);
    assert_eq!(sqls(effects, true).len(), 6, "a trigger sees row after row");
}

/// Each row asked all those before it whether it is one of them: 60,000 rows, some minutes.
#[test]
fn many_rows_of_a_table_that_refers_to_itself_are_one_statement_soon() {
    let rows = 60_000;
    let update = |id: usize| Effect::Update {
        table: 0,
        key: vec![value(&id.to_string())],
        set: vec![(1, value("x"))],
        old: vec![(1, value("y"))],
        row: None,
        own: Vec::new(),
    };
    let mut tables = main_tables(false);
    let known = Arc::new(MainTable { refers_to_itself: true, ..MainTable::default() });
    tables.insert(table("t").name, known);
    // A row that is changed twice is changed by two statements, and the second takes the others with it.
    let entry = entry((0..rows).chain([7, 8, 7]).map(update).collect());
    let mut steps = Vec::new();
    let began = std::time::Instant::now();
    add(&mut steps, 0, &entry, Ground { site: "s", main: &tables }, true);
    assert!(began.elapsed() < std::time::Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!(steps.iter().map(|step| step.rows).collect::<Vec<_>>(), [rows as u64, 2, 1]);
}
