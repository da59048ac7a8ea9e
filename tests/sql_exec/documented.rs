//! `docs/SQL_SUPPORT.md` says what happens to each statement: its examples are parsed and planned, and must come to the
//! word that stands there.

use std::collections::BTreeSet;

use pgoutpost::sql::{self, Class, Plan};
use pgoutpost::sqlstate::{FEATURE_NOT_SUPPORTED, OBJECT_NOT_IN_PREREQUISITE_STATE};
use squawk_syntax::ast::{AstNode, Stmt};
use squawk_syntax::{SourceFile, SyntaxKind};

use crate::site::Site;

const DOCUMENT: &str = include_str!("../../docs/SQL_SUPPORT.md");
/// The first words of the second column.
const WORDS: [&str; 7] = ["merged", "buffered", "straight", "replica", "refused", "here", "as"];
/// Of these only later versions of Postgres know.
const LATER: [&str; 6] = [
    "CREATE PROPERTY",
    "ALTER PROPERTY",
    "DROP PROPERTY",
    "REPACK",
    "NOT MATCHED BY SOURCE",
    "DELETE RETURNING unit.id",
];

fn section(title: &str) -> &'static str {
    let start = DOCUMENT.find(&format!("\n## {title}\n")).unwrap_or_else(|| panic!("no section {title}")) + 1;
    let rest = &DOCUMENT[start..];
    rest.find("\n## ").map_or(rest, |end| &rest[..end])
}

fn block(title: &str) -> &'static str {
    section(title).split_once("```sql\n").and_then(|(_, rest)| rest.split_once("```")).map(|(block, _)| block).unwrap()
}

/// The code spans of a text that are statements.
fn spans(text: &str) -> Vec<String> {
    let spans = text.split('`').skip(1).step_by(2).map(|span| span.split_whitespace().collect::<Vec<_>>().join(" "));
    spans.filter(|span| sql::parse(span).is_ok_and(|script| script.statements.len() == 1)).collect()
}

/// Word and example.
fn examples() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let rows = section("Statements").lines().filter(|line| line.starts_with("| ")).skip(1);
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let [_, word, given] = cells[..] else { panic!("three cells: {row}") };
        let word = word.split([' ', ',', ';', ':']).next().unwrap();
        assert!(WORDS.contains(&word), "{word} of {row}");
        assert!(given == "–" || !spans(given).is_empty(), "no example: {row}");
        let all = given.split('`').skip(1).step_by(2).count();
        assert_eq!(spans(given).len(), all, "an example that is not read: {row}");
        found.extend(spans(given).into_iter().map(|example| (word.to_owned(), example)));
    }
    let (straight, _) = section("Writes that are not buffered").split_once("These are refused").unwrap();
    for line in straight.split("\n- ").skip(1) {
        assert!(!spans(line).is_empty(), "no example: {line}");
        found.extend(spans(line).into_iter().map(|example| ("straight".to_owned(), example)));
    }
    let others = block("All the others").lines().map(|line| line.trim_end_matches(';').to_owned());
    found.extend(others.map(|example| ("straight".to_owned(), example)));
    found
}

/// The word for what becomes of a statement: as the session goes by class and plan.
fn outcome(site: &Site, text: &str) -> &'static str {
    let script = sql::parse(text).unwrap();
    let statement = &script.statements[0];
    let planned = || sql::plan(statement, &site.catalog, &site.search_path, "s");
    match &statement.class {
        Class::Query => match planned() {
            Ok(Plan::Read(_)) => "merged",
            Err(_) if text.contains(" FOR ") => "straight",
            other => panic!("{text}: {other:?}"),
        },
        Class::Write | Class::Part | Class::With | Class::CopyIn => match planned() {
            Ok(_) => "buffered",
            Err(report) if [FEATURE_NOT_SUPPORTED, OBJECT_NOT_IN_PREREQUISITE_STATE].contains(&report.code) => {
                "straight"
            }
            other => panic!("{text}: {other:?}"),
        },
        Class::Truncate(truncate) => match truncate.plan(&site.catalog, &site.search_path) {
            Ok(plan) if plan.obstacle.is_some() => "straight",
            Ok(plan) if plan.refused.is_some() => "refused",
            Ok(_) => "buffered",
            Err(_) => "refused",
        },
        Class::Transaction(_) | Class::Settings { .. } | Class::Constraints(_) => "replica",
        Class::Replica | Class::Prepare { .. } => "replica",
        Class::OwnSetting { .. } | Class::ShowMode(_) => "here",
        Class::Execute { .. } => "as",
        Class::Straight { .. } => "straight",
        Class::Refused(_) => "refused",
    }
}

#[test]
fn every_example_is_what_the_table_says() {
    let mut site = Site::new("documented", block("The tables of the examples"));
    let mut wrong = Vec::new();
    for (word, example) in examples() {
        let found = outcome(&site, &example);
        if found != word {
            wrong.push(format!("{example}\n    documented: {word}, in fact: {found}"));
        }
        let ours = matches!(word.as_str(), "here" | "replica" | "as");
        if !ours
            && !LATER.iter().any(|words| example.contains(words))
            && let Err(failure) = site.wire.describe(&example, &[])
        {
            wrong.push(format!("{example}\n    Postgres: {failure:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_statement_that_the_parser_knows_has_an_example() {
    let mut shown = BTreeSet::new();
    for (_, example) in examples() {
        let parsed = SourceFile::parse(&example);
        shown.extend(parsed.syntax_node().children().map(|statement| statement.kind()));
    }
    let known = (0..SyntaxKind::__LAST as u16).map(SyntaxKind::from).filter(|kind| Stmt::can_cast(*kind));
    let missing: Vec<_> = known.filter(|kind| *kind != SyntaxKind::EMPTY_STMT && !shown.contains(kind)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
