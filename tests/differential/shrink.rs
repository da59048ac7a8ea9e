//! Makes a script small while a difference of the same kind stays: steps, then statements of the schema, then parts of
//! each statement's text. What is no longer SQL fails alike on both sides, and so is put back.

use std::fmt::Write;

use super::arena::{Arena, Trial};
use super::compare::Difference;
use super::script::{Action, Script};

/// Candidates in one freeze of the replica.
const AT_ONCE: usize = 24;
/// Candidates altogether: a script that does not get smaller is printed as it is.
const LIMIT: usize = 1500;

struct Shrinker<'a> {
    arena: &'a mut Arena,
    trial: Trial,
    signature: String,
    text: String,
    tried: usize,
}

/// The smallest script found, for pasting, with the difference it shows.
pub async fn shrink(arena: &mut Arena, trial: Trial, difference: &Difference) -> String {
    let (signature, text) = (difference.signature(), difference.text.clone());
    let mut shrinker = Shrinker { arena, trial, signature, text, tried: 0 };
    shrinker.steps().await;
    shrinker.schema().await;
    shrinker.texts().await;
    shrinker.steps().await;
    shrinker.schema().await;
    let mut out = String::new();
    let _ = writeln!(out, "{}\n    {}", shrinker.signature, shrinker.text);
    let _ = write!(out, "{}", shrinker.trial.script);
    out
}

impl Shrinker<'_> {
    async fn steps(&mut self) {
        // What comes after the difference is not needed, mostly; then ever smaller pieces.
        let mut size = self.trial.script.steps.len().div_ceil(2);
        while size > 0 {
            let remove = |script: &Script, at: usize, size: usize| {
                let mut smaller = script.clone();
                let end = (at + size).min(smaller.steps.len());
                smaller.steps.drain(at..end);
                smaller
            };
            self.pieces(size, |script| script.steps.len(), remove).await;
            size /= 2;
        }
    }

    async fn schema(&mut self) {
        let mut size = self.trial.script.schema.len().div_ceil(2);
        while size > 0 {
            let remove = |script: &Script, at: usize, size: usize| {
                let mut smaller = script.clone();
                let end = (at + size).min(smaller.schema.len());
                smaller.schema.drain(at..end);
                smaller
            };
            self.pieces(size, |script| script.schema.len(), remove).await;
            size /= 2;
        }
    }

    async fn texts(&mut self) {
        for place in 0..self.trial.script.schema.len() + self.trial.script.steps.len() {
            let mut size = tokens(text(&self.trial.script, place)).len().div_ceil(2);
            while size > 0 {
                let remove = |script: &Script, at: usize, size: usize| {
                    let mut smaller = script.clone();
                    let words = tokens(text(script, place));
                    let end = (at + size).min(words.len());
                    let left: Vec<&str> = words[..at].iter().chain(&words[end..]).map(String::as_str).collect();
                    set_text(&mut smaller, place, left.concat().trim());
                    smaller
                };
                self.pieces(size, |script| tokens(text(script, place)).len(), remove).await;
                size = if size > 8 { size / 2 } else { size - 1 };
            }
        }
    }

    /// Tries to do without each piece of that size.
    async fn pieces(
        &mut self,
        size: usize,
        length: impl Fn(&Script) -> usize,
        remove: impl Fn(&Script, usize, usize) -> Script,
    ) {
        // From the end: what comes later depends on what comes before.
        let mut end = length(&self.trial.script);
        while end > 0 && self.tried < LIMIT {
            let mut starts = Vec::new();
            let mut at = end;
            while at > 0 && starts.len() < AT_ONCE {
                at = at.saturating_sub(size);
                starts.push(at);
            }
            let scripts: Vec<Script> = starts.iter().map(|at| remove(&self.trial.script, *at, size)).collect();
            match self.first_that_differs(scripts).await {
                Some((number, script)) => {
                    self.trial.script = script;
                    end = starts[number].min(length(&self.trial.script));
                }
                None => end = at,
            }
        }
    }

    async fn first_that_differs(&mut self, scripts: Vec<Script>) -> Option<(usize, Script)> {
        self.tried += scripts.len();
        let trials: Vec<_> =
            scripts.iter().map(|script| Trial { script: script.clone(), ..self.trial.clone() }).collect();
        let verdicts = self.arena.perform(trials).await;
        for (number, (script, verdict)) in scripts.into_iter().zip(verdicts).enumerate() {
            if let Some(same) = verdict.differences.iter().find(|difference| difference.signature() == self.signature) {
                self.text.clone_from(&same.text);
                return Some((number, script));
            }
        }
        None
    }
}

/// The schema's statements, then the steps'.
fn text(script: &Script, place: usize) -> &str {
    match place.checked_sub(script.schema.len()) {
        None => &script.schema[place],
        Some(step) => script.steps.get(step).map_or("", |step| step.action.text()),
    }
}

fn set_text(script: &mut Script, place: usize, text: &str) {
    match place.checked_sub(script.schema.len()) {
        None => text.clone_into(&mut script.schema[place]),
        Some(step) => {
            if let Action::Run { sql, .. } | Action::Start { sql } = &mut script.steps[step].action {
                text.clone_into(sql);
            }
        }
    }
}

/// Words, quoted things and signs, each with the white space before it.
fn tokens(text: &str) -> Vec<String> {
    let mut tokens: Vec<String> = Vec::new();
    let (mut current, mut quote) = (String::new(), None);
    for c in text.chars() {
        let word = |c: char| c.is_alphanumeric() || c == '_' || c == '.' || c == ':';
        match quote {
            Some(open) => {
                current.push(c);
                if c == open {
                    quote = None;
                }
                continue;
            }
            None if c == '\'' || c == '"' => quote = Some(c),
            None => {}
        }
        let last = current.chars().next_back();
        let joins =
            last.is_none_or(|last| last.is_whitespace() || (word(last) && word(c)) || (last == '.' && c == '"'));
        if !joins || (c.is_whitespace() && !current.trim().is_empty()) {
            tokens.push(std::mem::take(&mut current));
        }
        current.push(c);
    }
    tokens.push(current);
    tokens
}
