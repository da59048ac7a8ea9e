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
