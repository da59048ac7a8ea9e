//! One struct for the rows of each query, read by position.

use tokio_postgres::{Client, Error, Row};

/// The answers of all queries.
pub(super) struct Rows {
    pub(super) relations: Vec<RelationRow>,
    pub(super) columns: Vec<ColumnRow>,
    pub(super) indexes: Vec<IndexRow>,
    pub(super) constraints: Vec<ConstraintRow>,
    pub(super) parents: Vec<ParentRow>,
    pub(super) policies: Vec<PolicyRow>,
    pub(super) functions: Vec<FunctionRow>,
    pub(super) overloaded: Vec<OverloadedRow>,
    pub(super) indirect: Vec<IndirectRow>,
}

/// Runs a query and reads every row.
pub(super) async fn all<T: FromRow>(client: &Client, query: &str) -> Result<Vec<T>, Error> {
    client.query(query, &[]).await?.iter().map(T::from_row).collect()
}

pub(super) trait FromRow: Sized {
    fn from_row(row: &Row) -> Result<Self, Error>;
}

/// Declares a row's struct and reads its fields in order.
macro_rules! row {
    ($name:ident { $($field:ident: $type:ty),* $(,)? }) => {
        pub(super) struct $name { $(pub(super) $field: $type,)* }

        impl FromRow for $name {
            fn from_row(row: &Row) -> Result<Self, Error> {
                let mut place = 0..;
                let mut next = || place.next().unwrap_or_default();
                Ok($name { $($field: row.try_get::<usize, $type>(next())?,)* })
            }
        }
    };
}

row!(RelationRow {
    oid: u32,
    schema: String,
    name: String,
    kind: i8,
    row_security: bool,
    has_triggers: bool,
    view: Option<String>,
    security_invoker: bool,
    is_partition: bool,
    partition_constraint: Option<String>,
    partition_columns: Option<Vec<i16>>,
    partition_expressions: Option<String>,
    sequence: Option<String>,
    file: u32,
});

row!(ColumnRow {
    relation: u32,
    attnum: i16,
    name: String,
    type_oid: u32,
    typmod: i32,
    type_name: String,
    full_type_name: String,
    base_type_oid: u32,
    base_typmod: i32,
    base_type_name: String,
    is_domain: bool,
    is_composite: bool,
    is_enum: bool,
    is_array: bool,
    has_text_cast: bool,
    not_null: bool,
    expression: Option<String>,
    generated: bool,
    missing: Option<String>,
    identity: i8,
    sequence: Option<String>,
    collation: Option<String>,
    collates_by_default: bool,
});

row!(IndexRow {
    relation: u32,
    name: String,
    root: u32,
    attnums: Vec<i16>,
    expressions: Vec<Option<String>>,
    types: Vec<u32>,
    odd: Vec<bool>,
    shown: Vec<String>,
    predicate: Option<String>,
    nulls_not_distinct: bool,
    primary: bool,
    constraint: bool,
    deferrable: bool,
    initially_deferred: bool,
    valid: bool,
    exclusion: bool,
    operators: Option<Vec<String>>,
});

row!(ConstraintRow {
    relation: u32,
    name: String,
    kind: i8,
    expression: Option<String>,
    referenced: u32,
    columns: Option<Vec<i16>>,
    referenced_columns: Option<Vec<i16>>,
    on_delete: i8,
    on_update: i8,
    set_columns: Option<Vec<i16>>,
    match_full: bool,
    deferrable: bool,
    initially_deferred: bool,
    shadow: bool,
    repeated: bool,
    children_unchecked: bool,
    parents_unchecked: bool,
});

row!(ParentRow { child: u32, parent: u32 });

row!(PolicyRow {
    relation: u32,
    name: String,
    permissive: bool,
    command: i8,
    roles: Vec<u32>,
    using: Option<String>,
    check: Option<String>,
});

row!(OverloadedRow { name: String });

row!(IndirectRow { function: String, operator: bool, implicit: bool, assigned: bool, names: Vec<String>, types: Vec<String> });

row!(FunctionRow { name: String, schema: String, volatile: bool, opaque: bool });
