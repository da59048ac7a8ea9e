//! BETWEEN in a form that the parser reads as Postgres does.
//!
//! The parser takes what follows BETWEEN's AND too far: `a BETWEEN 1 AND 2 OR b` becomes `a BETWEEN 1 AND (2 OR b)`, which
//! fails when an IS or IN follows, and else is another condition. Nothing here asks what BETWEEN means, only how it binds.
//! So it is written as operators that bind as it does, in as many bytes: `a  ~      1  ~  2 OR b`. Every place in the tree
//! is then the place in the client's text, of which the pieces are cut. What is not surely an operator stays as it is,
//! and a tree with a BETWEEN left in it is not used.

use squawk_lexer::TokenKind;

use super::words::{Word, words};

/// After these, at the same level of brackets, no AND belongs to a BETWEEN before them: that was a name.
const ENDS: &str = " as else except fetch for from group having intersect into join limit offset on or order returning select set \
    then union using when where ";
/// Reserved words after which an expression begins, or a name stands: none ends with them.
const BEFORE: &str = " all analyse analyze and any array as asc asymmetric both case check collate desc distinct else except for from \
    group having in intersect into lateral leading limit not offset on only or order placing returning select some symmetric \
    then to trailing union using when where window with ";

impl Word<'_> {
    /// Whether an expression can end with it.
    fn ends_value(&self) -> bool {
        match self.kind {
            TokenKind::Ident => !self.is_one(BEFORE),
            TokenKind::Literal { .. }
            | TokenKind::QuotedIdent { .. }
            | TokenKind::PositionalParam { .. }
            | TokenKind::CloseParen
            | TokenKind::CloseBracket => true,
            _ => false,
        }
    }
}

/// The text with its BETWEENs as operators; `None`: it has none.
pub(super) fn as_operators(text: &str) -> Option<String> {
    let found = text.as_bytes().windows(7).any(|word| word.eq_ignore_ascii_case(b"between"));
    if !found {
        return None;
    }
    let words = words(text);
    let mut out = text.as_bytes().to_vec();
    // For each open bracket (or CASE) the BETWEEN that has no AND yet.
    let mut open: Vec<Option<usize>> = vec![None];
    for (place, word) in words.iter().enumerate() {
        let last = open.len() - 1;
        match word.kind {
            TokenKind::OpenParen | TokenKind::OpenBracket => open.push(None),
            TokenKind::CloseParen | TokenKind::CloseBracket => close(&mut open),
            TokenKind::Comma | TokenKind::Semi => open[last] = None,
            TokenKind::Ident if word.is("case") => open.push(None),
            TokenKind::Ident if word.is("end") => close(&mut open),
            TokenKind::Ident if word.is("between") && is_operator(&words, place) => open[last] = Some(place),
            TokenKind::Ident if word.is("and") => {
                if let Some(between) = open[last].take()
                    && !is_frame(&words, between, place)
                {
                    write(&mut out, &words, between, place);
                }
            }
            TokenKind::Ident if word.is_one(ENDS) => open[last] = None,
            _ => {}
        }
    }
    String::from_utf8(out).ok()
}

fn close(open: &mut Vec<Option<usize>>) {
    if open.len() > 1 {
        open.pop();
    }
}

/// Whether a BETWEEN stands between two expressions, rather than being a name.
fn is_operator(words: &[Word<'_>], place: usize) -> bool {
    let before = |back: usize| place.checked_sub(back).and_then(|place| words.get(place));
    match before(1) {
        Some(not) if not.is("not") => before(2).is_some_and(Word::ends_value),
        Some(word) => word.ends_value(),
        None => false,
    }
}

/// `ROWS BETWEEN 1 PRECEDING AND …` of a window.
fn is_frame(words: &[Word<'_>], between: usize, and: usize) -> bool {
    let after_mode = between.checked_sub(1).is_some_and(|mode| words[mode].is_one("rows range groups"));
    let bound = &words[between + 1..and];
    let ends = bound.last().is_some_and(|last| last.is_one("preceding following row"));
    after_mode && bound.len() > 1 && ends
}

fn write(out: &mut [u8], words: &[Word<'_>], between: usize, and: usize) {
    let mut put = |word: &Word<'_>, with: &[u8]| out[word.start..word.start + with.len()].copy_from_slice(with);
    put(&words[between], b" ~     ");
    put(&words[and], b" ~ ");
    if let Some(not) = between.checked_sub(1).map(|place| &words[place])
        && not.is("not")
    {
        put(not, b"   ");
    }
    let how = &words[between + 1];
    if how.is_one("symmetric asymmetric") {
        put(how, &b"          "[..how.text.len()]);
    }
}
