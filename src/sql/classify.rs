//! Splits a query string and says of each statement what has to be done with it. Knows no catalog.

use std::sync::Arc;

use squawk_syntax::{SyntaxKind, SyntaxNode};

use super::syntax::{child, name_of, path_of, range, words};
use super::{Class, Isolation, Mode, Report, Script, SetConstraints, Statement, TransactionCommand, Unparsed, parse};
use crate::sqlstate::FEATURE_NOT_SUPPORTED;

use SyntaxKind as K;

/// See [`super::parse()`].
pub(super) fn script(text: &str) -> Result<Script, Unparsed> {
    parse::with_tree(text, |root| {
        let statements = root.children().filter(|node| node.kind() != K::EMPTY_STMT).map(|node| statement(text, &node));
        Script { statements: statements.collect(), guessed: false }
    })
}

/// A single definition that our parser cannot read, by its first word: all of these are main's, whatever follows. What
/// may not be within a transaction, or is refused, is not guessed at, nor what may hold several statements.
pub(super) fn definition(text: &str) -> Option<Script> {
    let (places, words) = (parse::statements(text), parse::first_words(text));
    let word = |place: usize| words.get(place).map(String::as_str).unwrap_or_default();
    let made = match word(0) {
        "ALTER" => !matches!(word(1), "SYSTEM" | "DATABASE" | "SUBSCRIPTION"),
        "CREATE" => {
            matches!(
                word(1),
                "TEMP"
                    | "TEMPORARY"
                    | "LOCAL"
                    | "GLOBAL"
                    | "TABLE"
                    | "INDEX"
                    | "UNIQUE"
                    | "TYPE"
                    | "DOMAIN"
                    | "POLICY"
                    | "TRIGGER"
                    | "STATISTICS"
            )
        }
        "COMMENT" => true,
        _ => false,
    };
    let [place] = places.as_slice() else { return None };
    let odd = words.iter().any(|word| matches!(word.as_str(), "CONCURRENTLY" | "ATOMIC"));
    let text = Arc::from(&text[place.clone()]);
    let class = Class::Straight { ddl: true, outside_transaction: false };
    (made && !odd).then(|| Script { statements: vec![Statement { text, class }], guessed: true })
}

/// Longer texts are dearer to plan than to parse. Bytes.
const GLANCE_MAX: usize = 4096;

/// What a query must hold, in any letters, to be more than a read: locks, writes, SELECT INTO, values of sequences,
/// changed settings, notifications, large objects. Found within another word or a string, it only sends the text the longer way.
const TELLTALES: [&[u8]; 15] = [
    b"for",
    b"into",
    b"insert",
    b"update",
    b"delete",
    b"merge",
    b"nextval",
    b"currval",
    b"lastval",
    b"setval",
    b"set_config",
    b"notify",
    b"lo_",
    b"loread",
    b"lowrite",
];

/// See [`super::plainly_reads`].
pub(super) fn plainly_reads(text: &str) -> bool {
    let text = text.trim_ascii();
    let text = text.strip_suffix(';').unwrap_or(text).as_bytes();
    let starts =
        |rest: &[u8], word: &[u8]| rest.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word));
    let tells = |at: usize| match text[at] | 0x20 {
        b'f' | b'i' | b'u' | b'd' | b'm' | b'n' | b'c' | b'l' | b's' => {
            TELLTALES.iter().any(|word| starts(&text[at..], word))
        }
        _ => text[at] == b';',
    };
    text.len() <= GLANCE_MAX
        && starts(text, b"select")
        && text.get(b"select".len()).is_some_and(u8::is_ascii_whitespace)
        && !(0..text.len()).any(tells)
}

fn statement(text: &str, node: &SyntaxNode) -> Statement {
    let text = text[range(node)].trim().trim_end_matches(';').trim_end();
    Statement { text: Arc::from(text), class: class(node) }
}

impl Statement {
    /// Whether it does, or says, something else outside of a transaction block.
    pub fn is_for_blocks(&self) -> bool {
        let starts = |words: &[&str]| {
            let first = parse::first_words(&self.text);
            first.iter().map(String::as_str).take(words.len()).eq(words.iter().copied())
        };
        match &self.class {
            Class::Query => starts(&["DECLARE"]),
            Class::Replica => starts(&["LOCK"]),
            Class::Settings { .. } | Class::OwnSetting { .. } => starts(&["SET", "LOCAL"]),
            Class::Transaction(TransactionCommand::Characteristics { .. }) | Class::Constraints(_) => true,
            _ => false,
        }
    }
}

/// See [`super::prepared_text`].
pub(super) fn prepared_text(text: &str, name: &str) -> Option<String> {
    let found = parse::with_tree(text, |root| {
        let mut all = root.children().filter(|node| node.kind() == K::PREPARE);
        let prepare = all.find(|node| {
            child(node, K::PREPARED_STATEMENT).and_then(|given| name_of(&given)).as_deref() == Some(name)
        })?;
        let inner = prepare.children().last()?;
        Some(text[range(&inner)].trim().trim_end_matches(';').to_owned())
    });
    found.ok().flatten()
}

/// See [`super::execute_arguments`].
pub(super) fn execute_arguments(text: &str) -> Vec<String> {
    let found = parse::with_tree(text, |root| {
        let list = root.children().next().and_then(|execute| child(&execute, K::ARG_LIST));
        let arguments = list.iter().flat_map(SyntaxNode::children).map(|argument| text[range(&argument)].to_owned());
        arguments.collect()
    });
    found.unwrap_or_default()
}

pub(super) fn is_select(kind: SyntaxKind) -> bool {
    matches!(kind, K::SELECT | K::COMPOUND_SELECT | K::PAREN_SELECT | K::VALUES | K::TABLE)
}

fn is_write(kind: SyntaxKind) -> bool {
    matches!(kind, K::INSERT | K::UPDATE | K::DELETE)
}

/// Writes rows, but cannot be evaluated on the replica yet: main does it when it can be reached.
const NOT_BUFFERED: Class = Class::Straight { ddl: false, outside_transaction: false };

fn class(node: &SyntaxNode) -> Class {
    match node.kind() {
        kind if (is_select(kind) || is_write(kind)) && writes_within(node) => with(node),
        kind if is_select(kind) => query(node),
        kind if is_write(kind) => write(node),
        K::EXPLAIN => query_or_plain(node),
        K::DECLARE => query(node),
        K::COPY => copy(node),
        K::MERGE if child(node, K::WITH_CLAUSE).is_some_and(|with| writes_within(&with)) => NOT_BUFFERED,
        K::MERGE => write(node),
        K::SHOW | K::SET | K::RESET => settings(node),
        K::DISCARD => Class::Settings { discard_all: child(node, K::DISCARD_ALL).is_some() },
        K::SET_ROLE | K::SET_SESSION_AUTH | K::RESET_ROLE | K::RESET_SESSION_AUTH | K::LOAD => {
            Class::Settings { discard_all: false }
        }
        K::TRUNCATE => Class::Truncate(super::Truncate::read(node)),
        K::SET_CONSTRAINTS => Class::Constraints(SetConstraints {
            names: node
                .descendants()
                .filter(|n| n.kind() == K::CONSTRAINT_NAME_REF)
                .filter_map(|n| path_of(&n))
                .collect(),
            deferred: child(node, K::DEFERRED).is_some(),
        }),
        K::FETCH | K::MOVE | K::CLOSE | K::DEALLOCATE => Class::Replica,
        K::PREPARE => named(node, K::PREPARED_STATEMENT, |name| Class::Prepare { name }),
        K::EXECUTE => named(node, K::PREPARED_STATEMENT_REF, |name| Class::Execute { name }),
        _ => transaction(node).map_or_else(|| straight(node), Class::Transaction),
    }
}

fn refused(message: &str, hint: &str) -> Class {
    Class::Refused(Report::new(FEATURE_NOT_SUPPORTED, message).hint(hint))
}

fn writes_within(node: &SyntaxNode) -> bool {
    node.descendants().skip(1).any(|inner| is_write(inner.kind()) || inner.kind() == K::MERGE)
}

fn with(node: &SyntaxNode) -> Class {
    if calls_of_main(node) { NOT_BUFFERED } else { Class::With }
}

fn query(node: &SyntaxNode) -> Class {
    if writes_within(node) || calls_of_main(node) {
        return NOT_BUFFERED;
    }
    if sets_access(node) {
        // A standby's transactions are read-only in any case, so nobody would notice.
        return refused("transaction_read_only cannot be set by set_config", "Use SET TRANSACTION READ ONLY.");
    }
    // A cursor would lock what it has not fetched, EXPLAIN ANALYZE what nobody sees: main does it.
    let locks = node.descendants().any(|inner| inner.kind() == K::LOCKING_CLAUSE);
    if locks && !is_select(node.kind()) {
        return NOT_BUFFERED;
    }
    Class::Query
}

/// What only main can do; those that open large objects give numbers that its session knows.
const OF_MAIN: [&str; 20] = [
    "setval",
    "pg_notify",
    "lo_open",
    "lo_close",
    "loread",
    "lowrite",
    "lo_lseek",
    "lo_lseek64",
    "lo_tell",
    "lo_tell64",
    "lo_truncate",
    "lo_truncate64",
    "lo_creat",
    "lo_create",
    "lo_unlink",
    "lo_import",
    "lo_export",
    "lo_from_bytea",
    "lo_put",
    "lo_get",
];

/// Whether it calls a function that only main can run.
fn calls_of_main(node: &SyntaxNode) -> bool {
    calls(node).any(|(name, _)| OF_MAIN.contains(&&*name))
}

/// Whether it calls `set_config` with the name of the transaction's access mode.
fn sets_access(node: &SyntaxNode) -> bool {
    let names_it = |(_, call): (String, SyntaxNode)| {
        let mut arguments = call.children().skip(1).flat_map(|list| list.descendants_with_tokens().collect::<Vec<_>>());
        let first = arguments.find_map(|part| part.into_token().filter(|token| token.kind() == K::STRING));
        first.and_then(|name| super::syntax::plain_string(name.text()))
    };
    calls(node)
        .filter(|(name, _)| name == "set_config")
        .filter_map(names_it)
        .any(|name| name.eq_ignore_ascii_case("transaction_read_only"))
}

fn calls(node: &SyntaxNode) -> impl Iterator<Item = (String, SyntaxNode)> {
    node.descendants().filter(|inner| inner.kind() == K::CALL_EXPR).filter_map(|call| {
        let name = super::syntax::dotted(&call.children().next()?)?.pop()?;
        Some((name, call))
    })
}

fn write(node: &SyntaxNode) -> Class {
    if calls_of_main(node) {
        return NOT_BUFFERED;
    }
    if child(node, K::WHERE_CURRENT_OF).is_some() {
        return refused("WHERE CURRENT OF is not available through pgoutpost", "Name the row by its key.");
    }
    Class::Write
}

/// EXPLAIN: of a query it is planned as the query, of EXECUTE it is refused while rows are pending; of anything else it is
/// the replica's.
fn query_or_plain(node: &SyntaxNode) -> Class {
    match node.children().find(|inner| is_select(inner.kind())) {
        Some(inner) if [K::EXPLAIN_ANALYZE, K::EXPLAIN_OPTION_LIST].iter().any(|mode| child(node, *mode).is_some()) => {
            match query(&inner) {
                Class::Query if inner.descendants().any(|part| part.kind() == K::LOCKING_CLAUSE) => NOT_BUFFERED,
                class => class,
            }
        }
        Some(inner) => query(&inner),
        None if child(node, K::EXECUTE).is_some() => Class::Query,
        None => Class::Replica,
    }
}

fn copy(node: &SyntaxNode) -> Class {
    let to = child(node, K::COPY_TO);
    match to.and_then(|to| child(&to, K::COPY_STDOUT)) {
        Some(_) => query(node),
        None if node.descendants().any(|inner| inner.kind() == K::COPY_STDIN) => Class::CopyIn,
        None => {
            let hint = "Use COPY … TO STDOUT or FROM STDIN.";
            refused("COPY to or from a file or program is not available through pgoutpost", hint)
        }
    }
}

/// LOCK TABLE: a standby grants the modes that readers and writers of rows take anyway.
fn lock(words: &[String]) -> Class {
    let mode = words.iter().rposition(|word| word == "IN").map_or(&[][..], |place| &words[place + 1..]);
    let mode: Vec<&str> = mode.iter().map(String::as_str).take_while(|word| *word != "MODE").collect();
    match mode.as_slice() {
        ["ACCESS" | "ROW", "SHARE"] | ["ROW", "EXCLUSIVE"] => Class::Replica,
        _ => refused(
            "LOCK TABLE in a mode that conflicts with writers is not available through pgoutpost",
            "Rows are locked by SELECT … FOR UPDATE and by writing them.",
        ),
    }
}

fn named(node: &SyntaxNode, kind: SyntaxKind, make: impl Fn(String) -> Class) -> Class {
    match child(node, kind).and_then(|name| name_of(&name)) {
        Some(name) => make(name),
        None => Class::Replica,
    }
}

fn settings(node: &SyntaxNode) -> Class {
    let show = node.kind() == K::SHOW;
    let parameter = node.descendants().find(|inner| inner.kind() == K::CONFIG_PARAMETER_REF);
    let path = parameter.as_ref().and_then(path_of).unwrap_or_default();
    if let [space, name] = path.as_slice()
        && space.eq_ignore_ascii_case("pgoutpost")
    {
        return Class::OwnSetting {
            name: name.to_ascii_lowercase(),
            value: if show { None } else { value(node) },
            show,
        };
    }
    if let [name] = path.as_slice()
        && !show
        && let Some(command) = value(node).and_then(|value| characteristic(name, &value))
    {
        return Class::Transaction(command);
    }
    let shows = |what: &str| show && matches!(path.as_slice(), [name] if name.eq_ignore_ascii_case(what));
    if shows("transaction_read_only") {
        return Class::ShowMode(Mode::ReadOnly);
    }
    if shows("transaction_isolation") || (show && child(node, K::TRANSACTION_ISOLATION_LEVEL).is_some()) {
        return Class::ShowMode(Mode::Isolation);
    }
    if show { Class::Replica } else { Class::Settings { discard_all: false } }
}

/// The settings that are the transaction's, as SET TRANSACTION would say it.
fn characteristic(name: &str, value: &str) -> Option<TransactionCommand> {
    let value = value.to_ascii_lowercase();
    let (isolation, read_only) = match (name.to_ascii_lowercase().as_str(), value.as_str()) {
        ("transaction_read_only", "on" | "true" | "yes" | "1") => (None, Some(true)),
        ("transaction_read_only", "off" | "false" | "no" | "0") => (None, Some(false)),
        ("transaction_isolation", "serializable") => (Some(Isolation::Serializable), None),
        ("transaction_isolation", "repeatable read") => (Some(Isolation::RepeatableRead), None),
        ("transaction_isolation", "read committed") => (Some(Isolation::ReadCommitted), None),
        ("transaction_isolation", "read uncommitted") => (Some(Isolation::ReadUncommitted), None),
        _ => return None,
    };
    Some(TransactionCommand::Characteristics { isolation, read_only })
}

/// The value in `SET name = value`; `None` for DEFAULT.
fn value(node: &SyntaxNode) -> Option<String> {
    let value = node.descendants().find(|inner| inner.kind() == K::TO_CONFIG_VALUE)?;
    let written = value.descendants_with_tokens().filter_map(rowan::NodeOrToken::into_token);
    let last = written.filter(|token| !token.kind().is_trivia()).last()?;
    match last.text() {
        text if text.eq_ignore_ascii_case("default") => None,
        text => super::syntax::plain_string(text).or_else(|| Some(text.trim_matches('"').to_ascii_lowercase())),
    }
}

fn transaction(node: &SyntaxNode) -> Option<TransactionCommand> {
    let savepoint = |kind| child(node, kind).and_then(|name| name_of(&name));
    let chain = || child(node, K::AND_CHAIN).is_some();
    Some(match node.kind() {
        K::BEGIN => {
            let (isolation, read_only) = modes(node);
            let first = node.first_token().map(|token| token.text().to_owned()).unwrap_or_default();
            TransactionCommand::Begin { isolation, read_only, start: first.eq_ignore_ascii_case("start") }
        }
        K::SET_TRANSACTION if child(node, K::TRANSACTION_MODES).is_some() => {
            let (isolation, read_only) = modes(node);
            TransactionCommand::Characteristics { isolation, read_only }
        }
        K::COMMIT_TRANSACTION => TransactionCommand::Commit { chain: chain() },
        K::ROLLBACK_TRANSACTION => TransactionCommand::Rollback { chain: chain() },
        K::SAVEPOINT_CREATE => TransactionCommand::Savepoint(savepoint(K::SAVEPOINT)?),
        K::RELEASE_SAVEPOINT => TransactionCommand::Release(savepoint(K::SAVEPOINT_REF)?),
        K::ROLLBACK_TO_SAVEPOINT => TransactionCommand::RollbackTo(savepoint(K::SAVEPOINT_REF)?),
        _ => return None,
    })
}

fn modes(node: &SyntaxNode) -> (Option<Isolation>, Option<bool>) {
    let (mut isolation, mut read_only) = (None, None);
    for inner in node.descendants() {
        match inner.kind() {
            K::SERIALIZABLE => isolation = Some(Isolation::Serializable),
            K::REPEATABLE_READ => isolation = Some(Isolation::RepeatableRead),
            K::READ_COMMITTED => isolation = Some(Isolation::ReadCommitted),
            K::READ_UNCOMMITTED => isolation = Some(Isolation::ReadUncommitted),
            K::READ_ONLY => read_only = Some(true),
            K::READ_WRITE => read_only = Some(false),
            _ => {}
        }
    }
    (isolation, read_only)
}

/// Everything else goes to main.
fn straight(node: &SyntaxNode) -> Class {
    match node.kind() {
        K::SET_TRANSACTION => return Class::Settings { discard_all: false },
        // Does nothing on a standby, and drivers send it when they give a connection back to their pool.
        K::UNLISTEN => return Class::Replica,
        K::PREPARE_TRANSACTION | K::COMMIT_PREPARED | K::ROLLBACK_PREPARED => {
            return refused("two-phase commit is not available through pgoutpost", "Use an ordinary COMMIT.");
        }
        _ => {}
    }
    let words = words(node);
    if node.kind() == K::LOCK {
        return lock(&words);
    }
    let word = |place: usize| words.get(place).map_or("", String::as_str);
    if word(0) == "CREATE" && node.descendants().any(|inner| inner.kind() == K::EXECUTE) {
        return refused("CREATE TABLE AS EXECUTE is not available through pgoutpost", "Write the query itself.");
    }
    let concurrently = words.iter().take(5).any(|word| word == "CONCURRENTLY");
    let outside_transaction = matches!(node.kind(), K::VACUUM | K::ALTER_SYSTEM)
        || matches!((word(0), word(1)), ("CREATE" | "DROP", "DATABASE" | "TABLESPACE" | "SUBSCRIPTION"))
        || (node.kind() == K::REINDEX && matches!(word(1), "DATABASE" | "SYSTEM" | "SCHEMA"))
        || (concurrently && matches!(word(0), "CREATE" | "DROP" | "REINDEX"));
    let ddl = !matches!(
        node.kind(),
        K::LISTEN | K::NOTIFY | K::VACUUM | K::ANALYZE | K::CHECKPOINT | K::CLUSTER | K::REINDEX | K::ALTER_SYSTEM
    );
    // `CALL` and `DO` may run DDL themselves; asking for the catalog again costs little.
    Class::Straight { ddl, outside_transaction }
}

#[cfg(test)]
mod tests;
