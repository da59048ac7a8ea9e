//! Query strings of several statements (pipelines, in the extended protocol), and what they leave of the session: settings,
//! roles and the modes of later transactions, whether they fail or not.

use super::super::client::PIPELINED;
use super::super::script::{Action, Judged};
use super::dice::Dice;
use super::{Author, SETTINGS, rights, straight, write};

/// Settings whose values are asked for.
const ASKED: [&str; 4] = ["work_mem", "timezone", "datestyle", "extra_float_digits"];

/// Modes of later transactions. SERIALIZABLE is taken for REPEATABLE READ here, and shown as that.
const MODES: [&str; 8] = [
    "SET default_transaction_isolation TO 'repeatable read'",
    "SET default_transaction_isolation TO 'read committed'",
    "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL REPEATABLE READ",
    "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED",
    "RESET default_transaction_isolation",
    "SET default_transaction_read_only TO on",
    "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
    "SET default_transaction_read_only TO off",
];

/// A statement that says how later transactions run.
pub fn mode(dice: &mut Dice) -> String {
    (*dice.one(&MODES)).to_owned()
}

impl Author<'_> {
    /// A string, and what the session is afterwards. The session is in no transaction before, and in none in the end.
    pub(super) fn string(&mut self, session: usize) {
        let mut ends = false;
        let parts = match self.dice.below(6) {
            0 | 1 => vec![self.setting(true), self.text(), self.failure()],
            2 => vec![self.setting(false), self.text(), self.text()],
            3 => {
                ends = true;
                let last = if self.dice.chance(50) { self.failure() } else { self.text() };
                vec!["BEGIN".to_owned(), self.setting(false), self.text(), last]
            }
            4 => {
                let last = if self.dice.chance(60) { self.failure() } else { self.text() };
                vec!["BEGIN".to_owned(), self.text(), "COMMIT".to_owned(), self.setting(false), last]
            }
            _ => {
                ends = true;
                self.say(session, "BEGIN".to_owned());
                self.write(session);
                let last = if self.dice.chance(60) { self.failure() } else { self.text() };
                let end = (*self.dice.one(&["COMMIT", "COMMIT", "ROLLBACK"])).to_owned();
                vec![self.text(), end, self.setting(false), last]
            }
        };
        self.step(session, Action::Run { sql: parts.join(PIPELINED), copy: None }, Judged::AnyError);
        if ends {
            if self.dice.chance(40) {
                self.read(session);
            }
            let end = *self.dice.one(&["COMMIT", "ROLLBACK"]);
            self.say(session, end.to_owned());
        }
        self.probe(session);
        if self.narrow {
            self.say(session, "RESET ROLE".to_owned());
        }
    }

    /// What the session is.
    pub(super) fn probe(&mut self, session: usize) {
        let sql = match self.dice.below(4) {
            0 => format!("SHOW {}", self.dice.one(&ASKED)),
            1 => "SELECT current_user, current_setting('default_transaction_isolation'), current_schemas(false)"
                .to_owned(),
            2 => "SHOW default_transaction_read_only".to_owned(),
            _ => {
                let all = ASKED.map(|name| format!("current_setting('{name}')"));
                format!("SELECT current_user, {}", all.join(", "))
            }
        };
        self.say(session, sql);
    }

    /// `undone`: the string is to fail.
    fn setting(&mut self, undone: bool) -> String {
        let has_functions = self.features.tag.is_some();
        match self.dice.below(8) {
            // The tables would not be found any more.
            0 if undone => "SET search_path TO nowhere".to_owned(),
            1 if self.narrow => format!("SET ROLE {}", rights::NARROW),
            2 => format!("SELECT set_config('work_mem', '{}MB', false)", self.dice.between(5, 9)),
            3 => mode(&mut self.dice),
            4 if has_functions => straight::sets(&mut self.dice, self.features.tag.as_deref().unwrap_or_default()),
            5 => format!("SET work_mem TO '{}MB'", self.dice.between(5, 9)),
            _ => format!("SET {}", self.dice.one(&SETTINGS)),
        }
    }

    /// A statement that fails.
    fn failure(&mut self) -> String {
        match self.dice.below(4) {
            0 => "SELECT 1 / 0".to_owned(),
            1 => "DELETE FROM nosuch".to_owned(),
            _ => {
                let table = write::target(&mut self.dice, &self.tables);
                let name = if !table.through.is_empty() && self.dice.chance(30) { &table.through } else { &table.name };
                format!("INSERT INTO {name} (id) VALUES (NULL)")
            }
        }
    }
}
