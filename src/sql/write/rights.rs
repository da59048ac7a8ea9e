//! What the session's role must be allowed to do, for a write and for its replay.

use super::{Conflict, WriteKind, WritePlan};
use crate::catalog::AttNum;

impl WritePlan {
    /// A query that tells whether the session's role may do this on the table: the rights are those of main, which the
    /// replica has too (<https://www.postgresql.org/docs/15/ddl-priv.html>). Evaluation by itself only needs SELECT.
    pub fn permission(&self) -> String {
        let asked = match (self.kind, self.conflict) {
            (WriteKind::Delete, _) => self.right("DELETE", &[]),
            (WriteKind::Merge, _) => {
                let rights = self.verbs.iter().map(|verb| match *verb {
                    "INSERT" => self.right(verb, &self.assigned),
                    "UPDATE" => self.right(verb, &self.updated),
                    _ => self.right(verb, &[]),
                });
                rights.chain(["true".to_owned()]).collect::<Vec<_>>().join(" AND ")
            }
            (WriteKind::Insert, Some(Conflict::Update)) => {
                format!("{} AND {}", self.right("INSERT", &self.assigned), self.right("UPDATE", &self.updated))
            }
            (kind, _) => self.right(kind.verb(), &self.assigned),
        };
        format!("SELECT {asked}")
    }

    /// The same for how new rows are replayed, as far as that asks for more: with all their columns, defaults as they were
    /// evaluated at the site. `None`: it asks for no more.
    pub fn permission_of_replay(&self) -> Option<String> {
        let inserts = self.kind == WriteKind::Insert || self.verbs.contains(&"INSERT");
        let columns = self.target.columns.iter().filter(|column| !column.generated);
        let columns: Vec<AttNum> = columns.map(|column| column.attnum).collect();
        inserts.then(|| format!("SELECT {}", self.right("INSERT", &columns)))
    }

    /// Whether the role has a right on the table, or on these columns of it.
    fn right(&self, verb: &str, columns: &[AttNum]) -> String {
        let oid = self.target.id.0;
        let table = format!("pg_catalog.has_table_privilege({oid}::pg_catalog.oid, '{verb}')");
        if columns.is_empty() {
            return table;
        }
        let columns = columns.iter().map(|attnum| {
            format!("pg_catalog.has_column_privilege({oid}::pg_catalog.oid, {}::pg_catalog.int2, '{verb}')", attnum.0)
        });
        format!("({table} OR ({}))", columns.collect::<Vec<_>>().join(" AND "))
    }
}
