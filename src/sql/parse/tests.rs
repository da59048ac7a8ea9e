use super::*;

fn parses(text: &str) -> bool {
    with_tree(text, |_| ()).is_ok()
}

#[test]
fn hostile_texts_are_refused_not_crashed_on() {
    assert!(!parses(&"(".repeat(100_000)));
    assert!(!parses(&format!("SELECT {}1{}", "(".repeat(5_000), ")".repeat(5_000))));
    assert!(!parses(&format!("SELECT {}1", "NOT ".repeat(50_000))));
    assert!(!parses(&format!("SELECT 1{}", " || 1".repeat(50_000))));
    assert!(!parses(&format!("SELECT 1{}", " UNION ALL SELECT 1".repeat(50_000))));
}

#[test]
fn deep_but_honest_texts_are_parsed() {
    assert!(parses(&format!("SELECT {}1{}", "(".repeat(900), ")".repeat(900))));
    assert!(parses(&format!("SELECT {}1{}", "(SELECT ".repeat(900), ")".repeat(900))));
    assert!(parses(&format!("SELECT 1{}", " + 1".repeat(2_000))));
    assert!(parses(&format!("SELECT {}true", "NOT ".repeat(5_000))));
    assert!(parses(&format!("SELECT a IN (1{})", ",1".repeat(50_000))));
    assert!(parses(&format!("INSERT INTO t VALUES (1, 'x'){}", ", (1, 'x')".repeat(10_000))));
}

/// The condition's tree with its nodes in square brackets.
fn shape(text: &str) -> String {
    fn write(node: &SyntaxNode, out: &mut Vec<String>) {
        let several = node.children_with_tokens().filter(|child| !child.kind().is_trivia()).count() > 1;
        out.extend(several.then(|| "[".to_owned()));
        for child in node.children_with_tokens().filter(|child| !child.kind().is_trivia()) {
            match child {
                rowan::NodeOrToken::Node(node) => write(&node, out),
                rowan::NodeOrToken::Token(token) => out.push(token.text().to_owned()),
            }
        }
        out.extend(several.then(|| "]".to_owned()));
    }
    with_tree(text, |root| {
        let clause = root.descendants().find(|node| node.kind() == SyntaxKind::WHERE_CLAUSE);
        let mut out = Vec::new();
        write(&clause.and_then(|clause| clause.children().next()).unwrap_or_else(|| root.clone()), &mut out);
        out.join(" ")
    })
    .unwrap_or_else(|unparsed| unparsed.reason)
}

#[test]
fn between_ends_where_it_ends_in_postgres() {
    let is = |condition: &str, expected: &str| {
        assert_eq!(shape(&format!("SELECT * FROM t WHERE {condition}")), expected, "{condition}");
    };
    is("a BETWEEN 1 AND 2 OR b = 3 AND id = 5", "[ [ a ~ [ 1 ~ 2 ] ] OR [ [ b = 3 ] AND [ id = 5 ] ] ]");
    is("a BETWEEN 1 AND 2 OR b IS NOT DISTINCT FROM c", "[ [ a ~ [ 1 ~ 2 ] ] OR [ b [ IS NOT DISTINCT FROM ] c ] ]");
    is(
        "NOT a BETWEEN 1 AND b + 2 AND id IN (1, 2)",
        "[ [ NOT [ a ~ [ 1 ~ [ b + 2 ] ] ] ] AND [ id IN [ ( 1 , 2 ) ] ] ]",
    );
    is("a not between symmetric -1 and -$2 AND c", "[ [ a ~ [ [ - 1 ] ~ [ - $2 ] ] ] AND c ]");
    is(
        "a BETWEEN left(b, 1) AND (SELECT x AND y) OR c",
        "[ [ a ~ [ [ left [ ( b , 1 ) ] ] ~ [ ( [ SELECT [ x AND y ] ] ) ] ] ] OR c ]",
    );
    is(
        "a BETWEEN CASE WHEN b AND c THEN 1 END AND 3 OR d",
        "[ [ a ~ [ [ CASE [ WHEN [ b AND c ] THEN 1 ] END ] ~ 3 ] ] OR d ]",
    );
    is("(a)BETWEEN/* x AND */1 AND(2)OR d", "[ [ [ ( a ) ] ~ [ 1 ~ [ ( 2 ) ] ] ] OR d ]");
    is(
        "a IN (SELECT b FROM u WHERE b BETWEEN 1 AND 2 OR c) AND d",
        "[ [ a IN [ ( [ [ SELECT b ] [ FROM u ] [ WHERE [ [ b ~ [ 1 ~ 2 ] ] OR c ] ] ] ) ] ] AND d ]",
    );
    // As a name.
    is("t.between AND b OR c", "[ [ [ t . between ] AND b ] OR c ]");
    is("between AND b", "[ between AND b ]");
    is("NOT between AND b", "[ [ NOT between ] AND b ]");
    is("a OR NOT between AND b", "[ a OR [ [ NOT between ] AND b ] ]");
    is("\"between\" AND 'x between 1 AND 2' = c", "[ \"between\" AND [ 'x between 1 AND 2' = c ] ]");
    is("rows BETWEEN 1 AND 2 OR c IS NULL", "[ [ rows ~ [ 1 ~ 2 ] ] OR [ c IS NULL ] ]");
    assert!(parses("SELECT * FROM t between JOIN u ON a AND b WHERE c AND d"));
    assert!(parses("SELECT sum(a) OVER (ORDER BY b ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) FROM t"));
    assert!(parses("SELECT sum(a) OVER (RANGE BETWEEN 1 PRECEDING AND 2 FOLLOWING EXCLUDE TIES) FROM t"));
    // Not understood: not read at all.
    is("a BETWEEN set AND b OR id = 5", "a BETWEEN that is not understood");
}

#[test]
fn statements_are_told_apart_without_being_read() {
    let told = |text: &'static str| statements(text).into_iter().map(|place| &text[place]).collect::<Vec<_>>();
    assert_eq!(told(" a ';' ; ;-- ;\n b (c; d) ; "), ["a ';'", "b (c; d)"]);
    assert_eq!(told("CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; END").len(), 1);
    assert_eq!(told(" ; "), [""; 0]);
}

#[test]
fn only_loses_its_brackets_and_nothing_else() {
    let same = |text: &str| assert_eq!(without_brackets(text), text);
    assert_eq!(without_brackets("SELECT 1 FROM ONLY (t) z"), "SELECT 1 FROM ONLY  t  z");
    assert_eq!(without_brackets("only(\"a b\".t)as z, only /* ( */ ( u )"), "only \"a b\".t as z, only /* ( */   u  ");
    same("FETCH FIRST 1 ROW ONLY) x");
    same("SELECT only_(t), \"only\"(t), 'only (t)' -- only (t)");
    same("ONLY (t JOIN u) ONLY ((t)) ONLY () ONLY (t.)");
    same("ONLY (t");
    same("only");
}
