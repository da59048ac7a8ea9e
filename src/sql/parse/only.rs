//! `ONLY (t)` as `ONLY  t `: the parser takes what stands in the brackets for a join. ONLY is reserved, so nothing else
//! begins like that. In as many bytes, so that places stay those of the client's text.

use std::borrow::Cow;

use squawk_lexer::TokenKind;

use super::words::{Word, words};

/// The text without the brackets that ONLY may have.
pub(in super::super) fn without_brackets(text: &str) -> Cow<'_, str> {
    if !text.as_bytes().windows(4).any(|word| word.eq_ignore_ascii_case(b"only")) {
        return Cow::Borrowed(text);
    }
    let words = words(text);
    let mut out = text.as_bytes().to_vec();
    for (place, _) in words.iter().enumerate().filter(|(_, word)| word.is("only")) {
        if let Some([open, close]) = brackets(&words[place + 1..]) {
            out[open] = b' ';
            out[close] = b' ';
        }
    }
    String::from_utf8(out).map_or(Cow::Borrowed(text), Cow::Owned)
}

/// Where the brackets around a dotted name stand, if one comes first.
fn brackets(words: &[Word<'_>]) -> Option<[usize; 2]> {
    let is_name = |word: &Word<'_>| matches!(word.kind, TokenKind::Ident | TokenKind::QuotedIdent { .. });
    let (open, rest) = words.split_first().filter(|(open, _)| open.kind == TokenKind::OpenParen)?;
    let close = rest.iter().enumerate().find_map(|(place, word)| match (place % 2, word.kind) {
        (0, _) if is_name(word) => None,
        (1, TokenKind::Dot) => None,
        (1, TokenKind::CloseParen) => Some(Some(word.start)),
        _ => Some(None),
    })??;
    Some([open.start, close])
}
