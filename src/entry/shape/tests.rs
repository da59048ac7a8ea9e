use super::literal::{each_element, fields, record};
use super::*;

fn mood(labels: &[(u32, &str)]) -> Arc<Shape> {
    Arc::new(Shape::Enum(1, labels.iter().map(|(oid, label)| (*oid, (*label).into())).collect()))
}

fn attribute(attnum: i16, name: &str, type_name: &str, shape: Option<&Arc<Shape>>) -> Attribute {
    Attribute { attnum, name: name.into(), type_name: type_name.into(), shape: shape.cloned() }
}

fn row(attributes: &[Attribute]) -> Arc<Shape> {
    Arc::new(Shape::Row(2, attributes.to_vec()))
}

fn array(of: &Arc<Shape>) -> Arc<Shape> {
    Arc::new(Shape::Array(Arc::clone(of)))
}

#[track_caller]
fn check(then: &Arc<Shape>, now: &Arc<Shape>, terms: Terms, text: &str, expect: Result<&str, &str>) {
    let typed = |shape| Typed { name: "t", shape: Some(shape) };
    let found = typed(then).text_in(typed(now), terms, Lost::Refused, text);
    assert_eq!(found.as_deref().map_err(String::as_str), expect, "{text}");
}

const RETRY: Terms = Terms { same_cluster: true, by_name: true };
const ELSEWHERE: Terms = Terms { same_cluster: false, by_name: false };

#[test]
fn labels_are_known_by_their_numbers() {
    let then = mood(&[(10, "open"), (11, "closed")]);
    let exchanged = mood(&[(10, "closed"), (11, "open"), (12, "new")]);
    for terms in [Terms::NUMBERS, RETRY] {
        check(&then, &exchanged, terms, "open", Ok("closed"));
        check(&array(&then), &array(&exchanged), terms, "{open,NULL,closed}", Ok("{closed,NULL,open}"));
    }
    // Where numbers mean nothing, names do.
    check(&then, &exchanged, ELSEWHERE, "open", Ok("open"));
    let more = Typed { name: "t", shape: Some(&mood(&[(9, "first"), (10, "open"), (11, "closed")])) };
    assert!(Typed { name: "t", shape: Some(&then) }.stands_in(more, Terms::NUMBERS), "a label was added");
    assert!(!more.stands_in(Typed { name: "t", shape: Some(&then) }, Terms::NUMBERS));
    let other = Arc::new(Shape::Enum(7, vec![(20, "open".into())]));
    check(&then, &other, Terms::NUMBERS, "open", Err(REPLACED));
    check(&then, &other, RETRY, "open", Ok("open"));
    check(&then, &other, RETRY, "closed", Err("is of a type that has no label \"closed\""));
}

#[test]
fn attributes_are_known_by_their_numbers() {
    let then = row(&[attribute(1, "price", "integer", None), attribute(2, "qty", "integer", None)]);
    let replaced = row(&[attribute(1, "price", "integer", None), attribute(3, "discount", "integer", None)]);
    let dropped = "has a value for attribute \"qty\" of its type which was dropped";
    check(&then, &replaced, Terms::NUMBERS, "(20,2)", Err(dropped));
    check(&then, &replaced, Terms::NUMBERS, "(20,)", Ok("(20,)"));
    check(&then, &replaced, RETRY, "(20,2)", Err("has a value for attribute \"qty\" of its type which is not there"));
    check(&array(&then), &array(&replaced), Terms::NUMBERS, "{\"(20,)\",\"(21,3)\"}", Err(dropped));
    let added = row(&[
        attribute(1, "cost", "bigint", None),
        attribute(2, "qty", "integer", None),
        attribute(3, "note", "text", None),
    ]);
    check(&then, &added, Terms::NUMBERS, "(20,2)", Ok("(20,2,)"));
    check(&array(&then), &array(&added), Terms::NUMBERS, "[2:3]={\"(20,2)\",NULL}", Ok("[2:3]={\"(20,2,)\",NULL}"));
    check(
        &added,
        &then,
        Terms::NUMBERS,
        "(1,2,)",
        Err("has a value for attribute \"cost\" of its type which was bigint and is integer"),
    );
    let back = row(&[attribute(2, "qty", "integer", None), attribute(4, "price", "integer", None)]);
    check(&then, &back, RETRY, "(20,2)", Ok("(2,20)"));
    let lost = Typed { name: "t", shape: Some(&then) }.text_in(
        Typed { name: "t", shape: Some(&replaced) },
        Terms::NUMBERS,
        Lost::Dropped,
        "(20,2)",
    );
    assert_eq!(lost.unwrap(), "(20,)", "as main shows a row that it had");
}

#[test]
fn what_is_nested_is_looked_into() {
    let (then, now) = (mood(&[(10, "a \"b\"")]), mood(&[(10, "it's, {so}")]));
    let inner = |mood: &Arc<Shape>| row(&[attribute(1, "m", "mood", Some(mood)), attribute(2, "n", "integer", None)]);
    let outer = |mood: &Arc<Shape>| row(&[attribute(1, "all", "inner[]", Some(&array(&inner(mood))))]);
    let text = record(&[Some(r#"{"(\"a \"\"b\"\"\",5)","(,)"}"#.to_owned())]);
    let expect = record(&[Some(r#"{"(\"it's, {so}\",5)","(,)"}"#.to_owned())]);
    check(&outer(&then), &outer(&now), Terms::NUMBERS, &text, Ok(&expect));
    let range = |mood: &Arc<Shape>| Arc::new(Shape::Range(Arc::clone(mood)));
    check(&range(&then), &range(&now), Terms::NUMBERS, "[a,b]", Err("was altered"));
    check(&range(&then), &range(&then), Terms::NUMBERS, "[a,b]", Ok("[a,b]"));
}

#[test]
fn what_is_taken_apart_is_put_together_as_it_was() {
    for text in ["()", "(,)", "(1,)", r#"("","a b","c""d","e\\f","(1,2)")"#, "(\"a,b\",ü)"] {
        assert_eq!(record(&fields(text).unwrap()), text);
    }
    for text in ["{}", "{1,2}", "{{a,NULL},{\"null\",\"\"}}", r#"[0:1]={"a \"b\"","c\\d"}"#, "{\"{x}\",y}"] {
        assert_eq!(each_element(text, |element| Ok(element.to_owned())).unwrap().unwrap(), text);
    }
    for text in ["", "x", "(1", "(\"1)", "(1)(2)"] {
        assert!(fields(text).is_none(), "{text}");
    }
    for text in ["", "1,2", "{1", "1}", "{\"1}"] {
        assert_eq!(each_element(text, |element| Ok(element.to_owned())), Ok(None), "{text}");
    }
}

#[test]
fn entries_of_before_are_read_and_shapes_come_back() {
    let before: crate::entry::EntryColumn = serde_json::from_str(r#"{"name":"n","type":"integer"}"#).unwrap();
    assert_eq!(before.shape, None);
    assert_eq!(serde_json::to_string(&before).unwrap(), r#"{"name":"n","type":"integer"}"#);
    let shape = row(&[attribute(1, "m", "mood[]", Some(&array(&mood(&[(10, "a")]))))]);
    let column = crate::entry::EntryColumn { shape: Some(shape), ..before };
    let json = serde_json::to_string(&column).unwrap();
    assert_eq!(serde_json::from_str::<crate::entry::EntryColumn>(&json).unwrap(), column, "{json}");
}

#[test]
fn only_labels_in_use_are_kept() {
    let column = crate::entry::EntryColumn {
        name: "m".into(),
        type_name: "mood".into(),
        shape: Some(mood(&[(10, "a"), (11, "b"), (12, "c"), (13, "d")])),
    };
    let mut tables = [EntryTable {
        name: crate::entry::TableName { schema: "public".into(), name: "t".into() },
        columns: vec![column],
        via: None,
        key: vec![0],
        fingerprint: 0,
        origin: None,
    }];
    let value = |text: &str| -> Value { Some(text.into()) };
    let effects = [
        Effect::Insert { table: 0, row: vec![value("a")] },
        Effect::Delete { table: 0, key: vec![value("b")], old: vec![value("b")] },
        Effect::Insert { table: 1, row: vec![value("d")] },
    ];
    keep_used_labels(&mut tables, &effects);
    assert_eq!(tables[0].columns[0].shape, Some(mood(&[(10, "a"), (11, "b")])));
}
