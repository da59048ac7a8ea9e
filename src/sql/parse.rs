//! From text to a syntax tree, within bounds.
//!
//! The parser is recursive; hostile text could overflow its stack. So every text is scanned first, deep ones are
//! parsed on a thread with a large stack, and what is deeper still is left to Postgres. A tree never leaves
//! [`with_tree`], because dropping a deep tree is recursive as well.

use std::ops::Range;
use std::thread;

use squawk_lexer::{TokenKind, tokenize};
use squawk_syntax::{SourceFile, SyntaxKind, SyntaxNode};

use super::Unparsed;

mod between;
mod only;
mod words;

pub(super) use only::without_brackets;

/// Bytes of SQL text that we look into. Longer statements are Postgres' business alone.
const TEXT_BYTES_MAX: usize = 64 << 20;
/// Open brackets and CASEs that are parsed on the caller's stack, and at all.
const DEPTH_INLINE_MAX: usize = 32;
const DEPTH_MAX: usize = 1_000;
/// Tokens between two commas (or semicolons) of one bracket level: bounds chains of operators, which nest as well.
const CHAIN_INLINE_MAX: usize = 400;
const CHAIN_MAX: usize = 20_000;
/// Stack of the thread that parses deep texts, in bytes. Only what is touched becomes memory.
const STACK_BYTES: usize = 1 << 30;

/// How deep a tree of this text can become.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Shape {
    depth: usize,
    chain: usize,
}

/// Parses the text and hands the tree to `use_tree`. Places in the tree are those of the text; a node's own text is not
/// always the client's (`between`).
pub(super) fn with_tree<R: Send>(text: &str, use_tree: impl FnOnce(&SyntaxNode) -> R + Send) -> Result<R, Unparsed> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(Unparsed { reason: "the text is too long".into() });
    }
    let shape = measure(text);
    if shape.depth > DEPTH_MAX || shape.chain > CHAIN_MAX {
        return Err(Unparsed { reason: "the text is nested too deeply".into() });
    }
    if shape.depth <= DEPTH_INLINE_MAX && shape.chain <= CHAIN_INLINE_MAX {
        return parse_here(text, use_tree);
    }
    thread::scope(|scope| {
        let builder = thread::Builder::new().name("deep-parse".into()).stack_size(STACK_BYTES);
        let parsing = builder
            .spawn_scoped(scope, || parse_here(text, use_tree))
            .map_err(|error| Unparsed { reason: format!("no thread to parse on: {error}") })?;
        parsing.join().unwrap_or_else(|_| Err(Unparsed { reason: "the parser failed".into() }))
    })
}

/// Where the statements stand, by the semicolons between them; one, when it may have some within (`BEGIN ATOMIC`).
pub(super) fn statements(text: &str) -> Vec<Range<usize>> {
    let (mut found, mut depth, mut start) = (Vec::new(), 0_usize, 0);
    let mut open: Option<Range<usize>> = None;
    for token in tokenize(text) {
        let place = start..start + token.len as usize;
        start = place.end;
        match token.kind {
            TokenKind::Whitespace | TokenKind::LineComment | TokenKind::BlockComment { .. } => continue,
            TokenKind::Semi if depth == 0 => {
                found.extend(open.take());
                continue;
            }
            TokenKind::Ident if text[place.clone()].eq_ignore_ascii_case("atomic") => {
                return std::iter::once(0..text.len()).collect();
            }
            TokenKind::OpenParen => depth += 1,
            TokenKind::CloseParen => depth = depth.saturating_sub(1),
            _ => {}
        }
        open.get_or_insert(place.clone()).end = place.end;
    }
    found.extend(open);
    found
}

/// The first parameter of a text, and the character where it stands, from 1.
pub(super) fn first_parameter(text: &str) -> Option<(&str, usize)> {
    let word = words::words(text).into_iter().find(|word| matches!(word.kind, TokenKind::PositionalParam { .. }))?;
    Some((word.text, text[..word.start].chars().count() + 1))
}

/// The words of a text in capitals, as far as it begins with nothing else than words.
pub(super) fn first_words(text: &str) -> Vec<String> {
    let words = words::words(text).into_iter().take_while(|word| matches!(word.kind, TokenKind::Ident));
    words.map(|word| word.text.to_ascii_uppercase()).collect()
}

fn parse_here<R>(text: &str, use_tree: impl FnOnce(&SyntaxNode) -> R) -> Result<R, Unparsed> {
    let rewritten = between::as_operators(text);
    let parse = SourceFile::parse(rewritten.as_deref().unwrap_or(text));
    if let Some(error) = parse.errors().first() {
        return Err(Unparsed { reason: error.message().into() });
    }
    let tree = parse.syntax_node();
    if rewritten.is_some() && tree.descendants().any(|node| node.kind() == SyntaxKind::BETWEEN_EXPR) {
        return Err(Unparsed { reason: "a BETWEEN that is not understood".into() });
    }
    Ok(use_tree(&tree))
}

/// One pass over the tokens, without recursion.
fn measure(text: &str) -> Shape {
    let mut shape = Shape::default();
    let mut chains = vec![0usize];
    let mut start = 0;
    for token in tokenize(text) {
        let end = start + token.len as usize;
        let word = text.get(start..end).unwrap_or_default();
        start = end;
        match token.kind {
            TokenKind::Whitespace | TokenKind::LineComment | TokenKind::BlockComment { .. } => continue,
            TokenKind::OpenParen | TokenKind::OpenBracket => chains.push(0),
            TokenKind::Ident if word.eq_ignore_ascii_case("case") => chains.push(0),
            TokenKind::CloseParen | TokenKind::CloseBracket if chains.len() > 1 => drop(chains.pop()),
            TokenKind::Ident if word.eq_ignore_ascii_case("end") && chains.len() > 1 => drop(chains.pop()),
            TokenKind::Comma => restart(&mut chains),
            TokenKind::Semi if chains.len() == 1 => restart(&mut chains),
            _ => {}
        }
        if let Some(chain) = chains.last_mut() {
            *chain += 1;
            shape.chain = shape.chain.max(*chain);
        }
        shape.depth = shape.depth.max(chains.len() - 1);
        if shape.depth > DEPTH_MAX {
            break;
        }
    }
    shape
}

fn restart(chains: &mut [usize]) {
    if let Some(chain) = chains.last_mut() {
        *chain = 0;
    }
}

#[cfg(test)]
mod tests;
