//! A text's tokens without blanks and comments, for what is looked at before there is a tree.

use squawk_lexer::{Token, TokenKind, tokenize};

/// One token that is not a blank or a comment.
pub(super) struct Word<'t> {
    pub(super) kind: TokenKind,
    pub(super) start: usize,
    pub(super) text: &'t str,
}

impl Word<'_> {
    pub(super) fn is(&self, word: &str) -> bool {
        self.kind == TokenKind::Ident && self.text.eq_ignore_ascii_case(word)
    }

    pub(super) fn is_one(&self, words: &str) -> bool {
        words.split_ascii_whitespace().any(|word| self.is(word))
    }
}

pub(super) fn words(text: &str) -> Vec<Word<'_>> {
    let mut start = 0;
    let placed = tokenize(text).map(|Token { kind, len, .. }| {
        let begun = start;
        start += len as usize;
        Word { kind, start: begun, text: text.get(begun..start).unwrap_or_default() }
    });
    let blank = |word: &Word<'_>| {
        matches!(word.kind, TokenKind::Whitespace | TokenKind::LineComment | TokenKind::BlockComment { .. })
    };
    placed.filter(|word| !blank(word)).collect()
}
