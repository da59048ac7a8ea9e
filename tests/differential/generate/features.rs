//! What the generator may draw.

/// What may be generated.
#[derive(Clone, Debug)]
pub struct Features {
    pub on_conflict: bool,
    pub merge: bool,
    pub writing_ctes: bool,
    pub truncate: bool,
    pub copy_in: bool,
    pub referential_actions: bool,
    pub deferrable: bool,
    pub set_row: bool,
    pub cursors: bool,
    pub views: bool,
    pub partitions: bool,
    pub exclusion: bool,
    pub inheritance: bool,
    pub waiting: bool,
    pub roles: bool,
    pub set_constraints: bool,
    pub column_rights: bool,
    pub copy_out: bool,
    pub csv: bool,
    pub serializable: bool,
    pub default_expressions: bool,
    pub row_locks: bool,
    pub sequences: bool,
    pub prepare: bool,
    pub settings: bool,
    pub arbiters: bool,
    pub strings: bool,
    pub modes: bool,
    /// Of a hundred scripts so many are performed with a replica that follows, and have statements that go straight to main.
    pub straight: u32,
    /// What tells the tables of such a script from others'; it is set for each of them.
    pub tag: Option<String>,
    pub sessions: usize,
}

impl Features {
    /// What the product has, changed by the words of `FEATURES`: `merge,truncate` adds, `-merge` takes away.
    pub fn from_environment() -> Features {
        let mut features = Features {
            on_conflict: true,
            merge: true,
            writing_ctes: true,
            truncate: true,
            copy_in: true,
            referential_actions: true,
            deferrable: true,
            set_row: true,
            cursors: true,
            views: true,
            partitions: true,
            exclusion: true,
            inheritance: true,
            waiting: true,
            roles: true,
            set_constraints: true,
            column_rights: true,
            copy_out: true,
            csv: true,
            serializable: true,
            default_expressions: true,
            row_locks: true,
            sequences: true,
            prepare: true,
            settings: true,
            arbiters: true,
            strings: true,
            modes: true,
            straight: 17,
            tag: None,
            sessions: 3,
        };
        let words = std::env::var("FEATURES").unwrap_or_default();
        for word in words.split(',').filter(|word| !word.is_empty()) {
            let (name, on) = word.strip_prefix('-').map_or((word, true), |name| (name, false));
            match name {
                "on_conflict" => features.on_conflict = on,
                "merge" => features.merge = on,
                "writing_ctes" => features.writing_ctes = on,
                "truncate" => features.truncate = on,
                "copy_in" => features.copy_in = on,
                "referential_actions" => features.referential_actions = on,
                "deferrable" => features.deferrable = on,
                "set_row" => features.set_row = on,
                "cursors" => features.cursors = on,
                "views" => features.views = on,
                "partitions" => features.partitions = on,
                "exclusion" => features.exclusion = on,
                "inheritance" => features.inheritance = on,
                "waiting" => features.waiting = on,
                "roles" => features.roles = on,
                "set_constraints" => features.set_constraints = on,
                "column_rights" => features.column_rights = on,
                "copy_out" => features.copy_out = on,
                "csv" => features.csv = on,
                "serializable" => features.serializable = on,
                "default_expressions" => features.default_expressions = on,
                "row_locks" => features.row_locks = on,
                "sequences" => features.sequences = on,
                "prepare" => features.prepare = on,
                "settings" => features.settings = on,
                "arbiters" => features.arbiters = on,
                "strings" => features.strings = on,
                "modes" => features.modes = on,
                "straight" => features.straight = if on { 100 } else { 0 },
                "sessions" => features.sessions = if on { 3 } else { 1 },
                other => panic!("FEATURES: there is no {other:?}"),
            }
        }
        features
    }
}
