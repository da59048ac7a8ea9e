//! The subquery for a table with many pending rows that is asked again and again by one of its columns.
//!
//! Pending rows travel as two maps (`jsonb`): the inserted ones by that column's value, the patches by the row's key; so
//! each run finds its own by a few comparisons, and the replica's rows by the table's own indexes.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value as Json, json};

use super::super::resolve::Correlation;
use super::super::slice;
use super::super::syntax::quoted;
use super::super::template::Rendering;
use super::altered::Altered;
use super::branches::{self, collated};
use super::{Group, Report, Row, Target, groups, key_columns, list};
use crate::catalog::Column;
use crate::overlay::RowId;
use crate::sabotage::{self, Sabotage};

/// Fewer are as soon looked at one by one.
const MANY: usize = 200;
/// Longer maps are not made. Bytes.
const MAP_MAX: usize = 64 << 20;

/// See the module; `None`: they are to be looked at one by one.
pub(in super::super) fn looked_up(
    rendering: &mut Rendering<'_>,
    target: Target<'_>,
    rows: &[Row<'_>],
    correlation: &Correlation,
) -> Result<Option<String>, Report> {
    let table = target.table;
    let altered = Altered::of(target, rendering.view);
    let unread = rendering.ids.unread.iter().any(|(unread, _)| *unread == table.id);
    let odd = target.members().nth(1).is_some() || target.tableoid || target.filter.is_some() || unread;
    let keys = key_columns(table);
    let ([key], Some(place)) =
        (keys.as_slice(), table.columns.iter().position(|column| column.attnum == correlation.column))
    else {
        return Ok(None);
    };
    if odd
        || rows.len() < MANY
        || !altered.is_none()
        || target.kept(rendering).is_some()
        || !slice::has_one_text(key, key)
        || table.columns.iter().any(|column| column.has_text_cast)
    {
        return Ok(None);
    }
    let groups = groups(target, rows)?;
    let [group] = groups.as_slice() else { return Ok(None) };
    let Some(inserted) = inserted_map(target, rows, place) else { return Ok(None) };
    let (patched, touched, moved) = patched_map(target, group, place);
    let (inserted, patched) = (Json::from(inserted).to_string(), Json::from(patched).to_string());
    if inserted.len() + patched.len() > MAP_MAX {
        return Ok(None);
    }
    let (Some(inserted), Some(patched)) = (rendering.map(&inserted), rendering.map(&patched)) else { return Ok(None) };
    let gate = rendering.gate;
    let names: Vec<String> = table.columns.iter().map(|column| quoted(&column.name)).collect();
    let own = list(names.iter().map(|name| format!("t.{name}")));
    let mut sql = format!(
        "(SELECT {} FROM (SELECT 0 AS \"pgoutpost.p\", {own} FROM {} t",
        list(names.iter().cloned()),
        target.from()
    );
    let values = table.columns.iter().enumerate().map(|(n, column)| read(column, &part("\"pgoutpost.r\".v", n + 1)));
    let _ = write!(
        sql,
        " UNION ALL SELECT 1, {} FROM pg_catalog.jsonb_array_elements({inserted} OPERATOR(pg_catalog.->) \
         ({})::pg_catalog.text) \"pgoutpost.r\"(v) WHERE ({})::pg_catalog.int8 > {gate}",
        list(values),
        correlation.outer,
        part("\"pgoutpost.r\".v", 0)
    );
    let values = table.columns.iter().zip(&names).enumerate().map(|(n, (column, name))| {
        match touched.iter().position(|touched| *touched == n) {
            None => format!("t.{name}"),
            Some(at) => format!(
                "CASE WHEN ({})::pg_catalog.int8 > {gate} THEN {} ELSE t.{name} END",
                part("o.v", 2 + 2 * at),
                read(column, &part("o.v", 3 + 2 * at))
            ),
        }
    });
    let _ = write!(
        sql,
        " UNION ALL SELECT 1, {} FROM {} t CROSS JOIN LATERAL (SELECT {patched} OPERATOR(pg_catalog.->) \
         (t.{})::pg_catalog.text AS v OFFSET 0) o WHERE ({})::pg_catalog.int8 > {gate} \
         AND ({})::pg_catalog.int8 <= {gate}",
        list(values),
        target.from(),
        quoted(&key.name),
        part("o.v", 0),
        part("o.v", 1)
    );
    if !moved.is_empty() {
        let branch = branches::patched_rows(rendering, target, group, &moved, &altered, (false, &[]))?;
        let _ = write!(sql, " UNION ALL {branch}");
    }
    sql.push_str(") m");
    let excluded = branches::exclusion(rendering, &groups)?;
    if !excluded.is_empty() && !sabotage::on(Sabotage::Rewrite) {
        let _ = write!(sql, " WHERE m.\"pgoutpost.p\" = 1 OR ({})", excluded.join(" AND "));
    }
    sql.push(')');
    Ok(Some(sql))
}

/// One text of a map's entry, as SQL.
fn part(entry: &str, place: usize) -> String {
    format!("{entry} OPERATOR(pg_catalog.->>) {place}")
}

/// A text as a value of the column's own type.
fn read(column: &Column, text: &str) -> String {
    let value = match column.is_domain {
        false => format!("({text})::{}", column.full_type_name),
        true => format!("({text})::{}::{}", column.base_type_name, column.full_type_name),
    };
    collated(column, value)
}

/// The inserted rows by the column's value: seq, and all values. `None`: one lacks some.
fn inserted_map(target: Target<'_>, rows: &[Row<'_>], place: usize) -> Option<serde_json::Map<String, Json>> {
    let mut map: BTreeMap<&str, Vec<Json>> = BTreeMap::new();
    for row in rows {
        let Some(seq) = branches::inserted(&row.state) else { continue };
        let values: Option<Vec<Option<&str>>> =
            target.table.columns.iter().enumerate().map(|(n, column)| row.value(n, column)).collect();
        let values = values?;
        // What is NULL is equal to nothing.
        if let Some(by) = values[place] {
            let entry = [json!(seq.as_i64().to_string())].into_iter().chain(values.iter().map(|value| json!(value)));
            map.entry(by).or_default().push(entry.collect());
        }
    }
    Some(map.into_iter().map(|(by, rows)| (by.to_owned(), Json::from(rows))).collect())
}

type Patched<'g, 'a> = (serde_json::Map<String, Json>, Vec<usize>, Vec<&'g Row<'a>>);

/// The patches by the row's key: its newest seq, that of its existence, and seq and value for each column that any of them
/// has, whose places are returned; and those that change the column that is looked for.
fn patched_map<'g, 'a>(target: Target<'_>, group: &Group<'g, 'a>, place: usize) -> Patched<'g, 'a> {
    let columns = &target.table.columns;
    let patches = group.rows.iter().copied().filter(|row| branches::patches(&row.state));
    let (moved, kept): (Vec<_>, Vec<_>) = patches.partition(|row| row.patch(place, &columns[place]).is_some());
    let is_touched = |n: &usize| kept.iter().any(|row| row.patch(*n, &columns[*n]).is_some());
    let touched: Vec<usize> = (0..columns.len()).filter(is_touched).collect();
    let mut map = serde_json::Map::new();
    for row in &kept {
        let RowId::Key(key) = &*row.id else { continue };
        let Some(key) = key.first() else { continue };
        let existence = row.state.existence.map(|(_, seq)| seq).unwrap_or_default();
        let mut entry = vec![json!(row.state.newest().as_i64().to_string()), json!(existence.as_i64().to_string())];
        for n in &touched {
            let (seq, value) = row.patch(*n, &columns[*n]).unwrap_or_default();
            entry.extend([json!(seq.as_i64().to_string()), json!(value)]);
        }
        map.insert(key.to_string(), Json::from(entry));
    }
    (map, touched, moved)
}
