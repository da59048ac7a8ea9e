//! The SQLSTATEs this program raises itself, by the names Postgres gives them
//! (<https://www.postgresql.org/docs/15/errcodes-appendix.html>).

use std::fmt;

/// A five-character error code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SqlState(pub [u8; 5]);

impl SqlState {
    /// The code as text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or("XX000")
    }

    /// Reads a code as a server sends it; what is not five ASCII characters becomes `XX000`.
    pub fn parse(text: &str) -> SqlState {
        match text.as_bytes().try_into() {
            Ok(code) if text.is_ascii() => SqlState(code),
            Ok(_) | Err(_) => INTERNAL_ERROR,
        }
    }

    /// The first two characters.
    pub fn class(&self) -> &str {
        &self.as_str()[..2]
    }
}

impl fmt::Display for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

macro_rules! states {
    ($($name:ident = $code:literal;)*) => { $(pub const $name: SqlState = SqlState(*$code);)* };
}

states! {
    CONNECTION_FAILURE = b"08006";
    TRANSACTION_RESOLUTION_UNKNOWN = b"08007";
    PROTOCOL_VIOLATION = b"08P01";
    FEATURE_NOT_SUPPORTED = b"0A000";
    INVALID_COLUMN_REFERENCE = b"42P10";
    CARDINALITY_VIOLATION = b"21000";
    CHARACTER_NOT_IN_REPERTOIRE = b"22021";
    INVALID_PARAMETER_VALUE = b"22023";
    BAD_COPY_FILE_FORMAT = b"22P04";
    NONSTANDARD_ESCAPE = b"22P06";
    NOT_NULL_VIOLATION = b"23502";
    FOREIGN_KEY_VIOLATION = b"23503";
    UNIQUE_VIOLATION = b"23505";
    CHECK_VIOLATION = b"23514";
    EXCLUSION_VIOLATION = b"23P01";
    ACTIVE_SQL_TRANSACTION = b"25001";
    READ_ONLY_SQL_TRANSACTION = b"25006";
    NO_ACTIVE_SQL_TRANSACTION = b"25P01";
    IN_FAILED_SQL_TRANSACTION = b"25P02";
    INVALID_AUTHORIZATION_SPECIFICATION = b"28000";
    INVALID_SQL_STATEMENT_NAME = b"26000";
    INVALID_CURSOR_NAME = b"34000";
    INVALID_CATALOG_NAME = b"3D000";
    INVALID_SAVEPOINT_SPECIFICATION = b"3B001";
    SERIALIZATION_FAILURE = b"40001";
    DEADLOCK_DETECTED = b"40P01";
    SYNTAX_ERROR = b"42601";
    INSUFFICIENT_PRIVILEGE = b"42501";
    WRONG_OBJECT_TYPE = b"42809";
    DISK_FULL = b"53100";
    TOO_MANY_CONNECTIONS = b"53300";
    CONFIGURATION_LIMIT_EXCEEDED = b"53400";
    PROGRAM_LIMIT_EXCEEDED = b"54000";
    STATEMENT_TOO_COMPLEX = b"54001";
    OBJECT_NOT_IN_PREREQUISITE_STATE = b"55000";
    LOCK_NOT_AVAILABLE = b"55P03";
    QUERY_CANCELED = b"57014";
    ADMIN_SHUTDOWN = b"57P01";
    CANNOT_CONNECT_NOW = b"57P03";
    INTERNAL_ERROR = b"XX000";
}
