//! The folded overlay against the entry-by-entry history, for every ledger value.
