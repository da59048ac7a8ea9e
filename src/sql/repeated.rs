//! Whether a query gives the same once more, over the same rows. By its words, and those of the views that it names: better
//! once too often.

use std::collections::HashSet;

use super::copy::words;
use super::resolve::Names;
use crate::catalog::Table;

/// Whose result may depend on the order in which rows are found: another one each time, of a large table.
const BY_ORDER: [&str; 16] = [
    "limit",
    "fetch",
    "offset",
    "distinct",
    "tablesample",
    "over",
    "sum",
    "avg",
    "array_agg",
    "string_agg",
    "json_agg",
    "jsonb_agg",
    "json_object_agg",
    "jsonb_object_agg",
    "xmlagg",
    "mode",
];

/// Whether it calls a volatile function.
pub(super) fn is_volatile(query: &str, names: Names<'_>) -> bool {
    any_word(query, names, &|word| names.catalog.volatile_functions.contains(word))
}

/// Whether other rows of the same may be first, or a function that may look at tables is called.
pub(super) fn is_by_order(query: &str, names: Names<'_>) -> bool {
    any_word(query, names, &|word| BY_ORDER.contains(&word) || names.catalog.opaque_functions.contains_key(word))
}

/// Whether a text has a name in it, of whatever that is.
pub(super) fn mentions(text: &str, name: &str) -> bool {
    has_all(&words_of(text), name)
}

fn any_word(query: &str, names: Names<'_>, is_meant: &dyn Fn(&str) -> bool) -> bool {
    let mut views: Vec<&Table> = names.catalog.relations.values().map(|table| &**table).collect();
    views.retain(|table| table.view.is_some());
    let mut texts = vec![query];
    while let Some(text) = texts.pop() {
        let found = words_of(text);
        if found.iter().any(|word| is_meant(word)) {
            return true;
        }
        // Each view once.
        views.retain(|view| {
            let named = has_all(&found, &view.name.name);
            texts.extend(view.view.as_deref().filter(|_| named));
            !named
        });
    }
    false
}

fn words_of(text: &str) -> HashSet<String> {
    words(text).map(str::to_lowercase).collect()
}

/// A quoted name may consist of several words.
fn has_all(found: &HashSet<String>, name: &str) -> bool {
    words(name).filter(|word| !word.is_empty()).all(|word| found.contains(&word.to_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::mentions;

    #[test]
    fn a_name_is_mentioned_however_it_is_written() {
        assert!(mentions("SELECT * FROM Batch", "batch") && mentions("SELECT \"a b\".x FROM \"a b\"", "a b"));
        assert!(!mentions("SELECT * FROM batches", "batch") && !mentions("SELECT a", "a b"));
    }
}
