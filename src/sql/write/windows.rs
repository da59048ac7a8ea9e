//! What is known only when all rows of a statement are: which of them have the same values in an index.
//!
//! The evaluation becomes the subquery of another one, whose window functions compare the rows, in their order:
//! ```sql
//! SELECT <groups>, q.* FROM (SELECT <order> AS "pgoutpost.row", <index items>, <hidden outputs>, … ) AS q ORDER BY q."pgoutpost.row"
//! ```

use super::super::merge::list;
use super::Output;

/// Rows of the statement that have the same values in an index.
pub(super) struct Window {
    pub(super) output: Output,
    /// Whether the index keeps the row's values apart.
    pub(super) applies: String,
    pub(super) items: Vec<String>,
}

/// The order of rows of which nothing better is known: the one in which they come.
pub(super) const AS_FOUND: &str = "pg_catalog.row_number() OVER ()";

/// What goes before the SELECT, at the head of its list, and after it, so that rows are compared with each other in their
/// order; and the outputs then.
type Around = (String, String, String);

pub(super) fn over_all_rows(windows: &[Window], order: &str, outputs: Vec<Output>) -> (Option<Around>, Vec<Output>) {
    const ROW: &str = "\"pgoutpost.row\"";
    if windows.is_empty() {
        let after = if order == AS_FOUND { String::new() } else { format!(" ORDER BY {order}") };
        return (Some((String::new(), String::new(), after)), outputs);
    }
    let (mut before, mut inner) = (String::from("SELECT "), format!("{order} AS {ROW}, "));
    let (mut first, mut ignored) = (Vec::new(), vec![Output::Ignored]);
    for (place, window) in windows.iter().enumerate() {
        let names: Vec<String> = (0..window.items.len()).map(|n| format!("q.\"pgoutpost.i{place}_{n}\"")).collect();
        let applies = format!("q.\"pgoutpost.a{place}\"");
        let over = format!("(PARTITION BY {}, {applies})", list(names.clone()));
        before.push_str(&format!(
            "CASE WHEN {applies} AND pg_catalog.count(*) OVER {over} > 1 THEN \
             pg_catalog.json_build_array(pg_catalog.min(q.{ROW}) OVER {over}, {})::text END, ",
            super::verdict::printed(&names)
        ));
        inner.push_str(&format!("({}) AS \"pgoutpost.a{place}\", ", window.applies));
        for (n, item) in window.items.iter().enumerate() {
            inner.push_str(&format!("{item} AS \"pgoutpost.i{place}_{n}\", "));
        }
        first.push(window.output.clone());
        ignored.extend(std::iter::repeat_n(Output::Ignored, 1 + window.items.len()));
    }
    before.push_str("q.* FROM (");
    let outputs = first.into_iter().chain(ignored).chain(outputs).collect();
    (Some((before, inner, format!(") AS q ORDER BY q.{ROW}"))), outputs)
}
