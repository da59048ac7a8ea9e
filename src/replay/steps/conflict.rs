//! Where a table's policy asks for it: statements that change a row only if it is still what the client's statement saw.
//!
//! Compared is the text that Postgres prints, since that is what entries hold and not every type has an equality.

use super::{Parameters, identifier};
use crate::entry::{EntryTable, Value};
use crate::replay::Policy;

/// How main's error begins when a row was not what the client saw and the policy is to reject.
pub(in crate::replay) const REFUSED: &str = "conflict: the row on main is not what the client saw";

/// Adds the policy's condition to an UPDATE or DELETE of one row. `old`: places of columns, and what they held.
pub(super) fn guard(
    policy: Policy,
    table: &EntryTable,
    old: &[(usize, Value)],
    (mut sql, parameters): (String, Parameters),
) -> (String, Parameters) {
    let Parameters::Row(mut values) = parameters else { return (sql, parameters) };
    if policy == Policy::LastWriteWins || sql.starts_with("SELECT") {
        return (sql, Parameters::Row(values));
    }
    for (place, value) in old {
        values.push(value.clone());
        let column = identifier(&table.columns[*place].name);
        let condition = format!(" AND pgoutpost.canonical_text({column}) IS NOT DISTINCT FROM ${}::text", values.len());
        sql.push_str(&condition);
    }
    if policy == Policy::Reject {
        // An error, so that the transaction fails by itself although its COMMIT is on its way already.
        sql = format!(
            "WITH done AS ({sql} RETURNING 1) \
             SELECT (CASE pg_catalog.count(*) WHEN 1 THEN '1'::text ELSE '{REFUSED}'::text END)::integer FROM done"
        );
    }
    (sql, Parameters::Row(values))
}
