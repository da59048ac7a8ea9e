//! The line in main's log of conflicts about an entry that main rejected for what others had written.

use serde_json::{Value as Json, json};

use super::{Parameters, Step, Way};
use crate::buffer::Quarantined;
use crate::entry::{Effect, EntryTable, Value};
use crate::replay::verdict::CONFLICT;

/// What says that somebody else was first: a row changed, a value taken.
const CODES: [&str; 3] = [CONFLICT, "23505", "23P01"];

/// The table whose row was rejected in favour of another's, and the place of the effect.
pub(in crate::replay) fn loser(record: &Quarantined) -> Option<(&EntryTable, usize)> {
    let code = record.error.get("code")?.as_str()?;
    let effect = usize::try_from(record.error.get("effect")?.as_u64()?).ok()?;
    let table = record.entry.tables.get(record.entry.effects.get(effect)?.table())?;
    CODES.contains(&code).then_some((table, effect))
}

/// For the transaction in which the ledger goes past the entry: once, as that.
pub(in crate::replay) fn log(site: &str, place: usize, record: &Quarantined) -> Option<Step> {
    let (table, effect) = loser(record)?;
    let listed = |values: &[(usize, Value)]| -> Json {
        Json::Object(values.iter().map(|(column, value)| named(table, *column, value)).collect())
    };
    let whole = |row: &[Value]| -> Json {
        Json::Object(row.iter().enumerate().map(|(column, value)| named(table, column, value)).collect())
    };
    let by = |key: &[Value]| -> Json {
        Json::Object(table.key.iter().zip(key).map(|(&column, value)| named(table, column, value)).collect())
    };
    let (key, old, mine) = match record.entry.effects.get(effect)? {
        Effect::Insert { row, .. } => {
            let key: Vec<Value> = table.key.iter().filter_map(|&column| row.get(column).cloned()).collect();
            (by(&key), None, Some(whole(row)))
        }
        Effect::Update { key, set, old, .. } | Effect::Move { key, set, old, .. } => {
            (by(key), Some(listed(old)), Some(listed(set)))
        }
        Effect::Delete { key, old, .. } => (by(key), Some(whole(old)), None),
        Effect::Truncate { .. } => return None,
    };
    let text = |json: Option<Json>| -> Value { json.map(|json| json.to_string().into()) };
    let values = vec![
        Some(site.into()),
        Some(record.seq.to_string().into()),
        Some(effect.to_string().into()),
        Some(table.name.schema.clone()),
        Some(table.name.name.clone()),
        text(Some(key)),
        text(old),
        text(mine),
        text(theirs(record)),
        Some(record.entry.role.as_str().into()),
    ];
    let sql = "SELECT pgoutpost.log_rejected($1::text, $2::text::bigint, $3::text::integer, ARRAY[$4::text, $5::text], \
               $6::text::jsonb, $7::text::jsonb, $8::text::jsonb, $9::text::jsonb, $10::text)";
    let parameters = Parameters::Row(values);
    Some(Step { entry: place, effect, rows: 1, sql: sql.to_owned(), parameters, way: Way::Own })
}

fn named(table: &EntryTable, column: usize, value: &Value) -> (String, Json) {
    let name = table.columns.get(column).map_or_else(String::new, |column| column.name.to_string());
    (name, json!(value))
}

/// The row on main: what the policy has looked at, or one of those that are in the way.
fn theirs(record: &Quarantined) -> Option<Json> {
    let seen = record.error.get("theirs").filter(|theirs| !theirs.is_null()).cloned();
    seen.or_else(|| {
        let rows = record.rows_on_main.iter().filter_map(|found| found.get("rows")?.as_array()?.first());
        rows.into_iter().next().cloned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_others_wrote_is_a_conflict() {
        let entry = super::super::tests::entry(vec![super::super::tests::insert_of(0, "1")]);
        let record = |code: &str| {
            let error = json!({ "code": code, "effect": 0 });
            Quarantined { rows_on_main: Vec::new(), ..Quarantined::new(entry.clone().into(), error) }
        };
        assert!(log("s", 0, &record("23503")).is_none());
        assert!(log("s", 0, &record("42501")).is_none());
        let step = log("s", 3, &record("23505")).unwrap();
        let Parameters::Row(values) = step.parameters else { panic!("a row") };
        assert_eq!((step.entry, values[5].as_deref()), (3, Some(r#"{"id":"1"}"#)));
        let _: serde_json::Map<String, Json> = serde_json::from_str(values[7].as_deref().unwrap()).unwrap();
    }
}
