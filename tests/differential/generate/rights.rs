//! A role with fewer rights than the owner.

use super::Features;
use super::dice::Dice;
use super::schema::Table;

/// The role that reads everything, and writes some tables in some ways.
pub const NARROW: &str = "narrow";

/// Makes the role, if need be, and gives it its rights.
pub fn grant(dice: &mut Dice, features: &Features, tables: &[Table], out: &mut Vec<String>) {
    out.push(format!(
        "DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{NARROW}') THEN CREATE ROLE {NARROW}; END IF;
        EXECUTE format('GRANT USAGE ON SCHEMA %1$I TO {NARROW}; GRANT SELECT ON ALL TABLES IN SCHEMA %1$I TO {NARROW};
            GRANT USAGE ON ALL SEQUENCES IN SCHEMA %1$I TO {NARROW}', current_schema()); END $$"
    ));
    for table in tables.iter().filter(|table| !table.is_view) {
        let rights = dice.some(&["INSERT", "UPDATE", "DELETE", "TRUNCATE"]);
        let of_columns = features.column_rights && dice.chance(40);
        let rights = rights.into_iter().map(|right| match of_columns && right == "UPDATE" {
            true => {
                let places: Vec<usize> = dice.some(&(0..table.columns.len()).collect::<Vec<_>>());
                format!("{right} ({})", table.names(&places))
            }
            false => right.to_owned(),
        });
        let rights: Vec<_> = rights.collect();
        out.push(format!("GRANT {} ON {} TO {NARROW}", rights.join(", "), table.name));
    }
}
