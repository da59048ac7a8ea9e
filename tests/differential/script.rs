//! Scripts: statements for both sides, as text. How one is written stands at the top of `tests/differential.rs`.

use std::fmt;
use std::path::Path;

/// A script in pieces.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Script {
    pub name: String,
    /// Statements that make tables and rows, run before anything is compared.
    pub schema: Vec<String>,
    pub steps: Vec<Step>,
    /// The states of the link for which it is meant, with a reason when one is left out.
    pub links: Links,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Links {
    #[default]
    Both,
    Cut,
    Up,
    /// Up, and the replica is not frozen.
    Live,
}

/// One thing that a session does.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    pub line: usize,
    pub session: u32,
    pub action: Action,
    pub judged: Judged,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Runs it and waits.
    Run { sql: String, copy: Option<String> },
    /// Starts it: it may be blocked by another session.
    Start { sql: String },
    /// Waits for what was started.
    Finish,
}

impl Action {
    /// The statement; nothing when it waits for one.
    pub fn text(&self) -> &str {
        match self {
            Action::Run { sql, .. } | Action::Start { sql } => sql,
            Action::Finish => "",
        }
    }
}

/// What is asked of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judged {
    Compared,
    /// It differs, for a reason.
    Differs(String),
    /// Several rows may fail, and which is first is the plan's affair: any error of a value or a constraint is as good.
    AnyError,
    /// The same, but rows are written in their order: only what is wrong with a value of a later one may be told before
    /// what an earlier one breaks.
    ValueFirst,
    /// The daemon refuses it with this SQLSTATE, for a reason. The plain server gets a statement that fails instead.
    Refused(String, String),
}

impl Script {
    pub fn read(path: &Path) -> Result<Script, String> {
        let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Script::parse(&name, &text)
    }

    pub fn parse(name: &str, text: &str) -> Result<Script, String> {
        let mut script = Script { name: name.to_owned(), ..Script::default() };
        let (mut running, mut judged) = (false, Judged::Compared);
        let mut lines = text.lines().enumerate().map(|(number, line)| (number + 1, line)).peekable();
        while let Some((number, line)) = lines.next() {
            let complain = |what: &str| Err(format!("{name}.sql:{number}: {what}"));
            if let Some(directive) = line.strip_prefix("----") {
                let words: Vec<_> = directive.trim().splitn(2, [' ', ':']).map(str::trim).collect();
                let reason = words.get(1).copied().unwrap_or_default().trim_start_matches(':').trim();
                match words[0] {
                    "schema" => running = false,
                    "run" => running = true,
                    "only" if reason.starts_with("buffered") => script.links = Links::Cut,
                    "only" if reason.starts_with("up") => script.links = Links::Up,
                    "only" if reason.starts_with("live") => script.links = Links::Live,
                    "differs" if !reason.is_empty() => judged = Judged::Differs(reason.to_owned()),
                    "any" if reason.starts_with("error") => judged = Judged::AnyError,
                    "any" if reason.starts_with("value") => judged = Judged::ValueFirst,
                    "refused" if reason.len() > 6 => {
                        let (state, reason) = reason.split_once(':').unwrap_or((reason, ""));
                        judged = Judged::Refused(state.trim().to_owned(), reason.trim().to_owned());
                    }
                    _ => return complain("no such directive, or its reason is missing"),
                }
                continue;
            }
            if line.trim().is_empty() || line.starts_with("--") {
                continue;
            }
            let mut statement = line.trim_end().to_owned();
            // A dollar-quoted body has lines that end in a semicolon.
            while !statement.ends_with(';') || statement.matches("$$").count() % 2 == 1 {
                let Some((_, more)) = lines.next() else { return complain("the statement has no `;` at a line's end") };
                statement.push('\n');
                statement.push_str(more.trim_end());
            }
            statement.pop();
            if !running {
                script.schema.push(statement);
                continue;
            }
            let (session, rest) = match statement.strip_prefix('@') {
                None => (1, statement.as_str()),
                Some(rest) => {
                    let digits = rest.chars().take_while(char::is_ascii_digit).count();
                    (
                        rest[..digits].parse().map_err(|_| format!("{name}.sql:{number}: which session?"))?,
                        &rest[digits..],
                    )
                }
            };
            let action = match rest.chars().next() {
                Some('?') => Action::Finish,
                Some('&') => Action::Start { sql: rest[1..].trim().to_owned() },
                _ => {
                    let sql = rest.trim().to_owned();
                    let mut copy = None;
                    if copies_in(&sql) {
                        let data = copy.insert(String::new());
                        loop {
                            match lines.next() {
                                None => return complain("the data of COPY has no end"),
                                Some((_, "\\.")) => break,
                                Some((_, line)) => *data += &format!("{line}\n"),
                            }
                        }
                    }
                    Action::Run { sql, copy }
                }
            };
            let judged = std::mem::replace(&mut judged, Judged::Compared);
            script.steps.push(Step { line: number, session, action, judged });
        }
        Ok(script)
    }

    /// The sessions that it uses.
    pub fn sessions(&self) -> Vec<u32> {
        let mut sessions: Vec<_> = self.steps.iter().map(|step| step.session).collect();
        sessions.sort_unstable();
        sessions.dedup();
        sessions
    }
}

/// In the format that is read: what is printed can be pasted into a file of `scripts/`.
impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "---- schema")?;
        for statement in &self.schema {
            writeln!(f, "{statement};")?;
        }
        writeln!(f, "---- run")?;
        match self.links {
            Links::Both => {}
            Links::Cut => writeln!(f, "---- only buffered")?,
            Links::Up => writeln!(f, "---- only up: as generated")?,
            Links::Live => writeln!(f, "---- only live: as written")?,
        }
        for step in &self.steps {
            match &step.judged {
                Judged::Compared => {}
                Judged::AnyError => writeln!(f, "---- any error")?,
                Judged::ValueFirst => writeln!(f, "---- any value")?,
                Judged::Differs(reason) => writeln!(f, "---- differs: {reason}")?,
                Judged::Refused(state, reason) => writeln!(f, "---- refused {state}: {reason}")?,
            }
            let session = if step.session == 1 { String::new() } else { format!("@{} ", step.session) };
            match &step.action {
                Action::Run { sql, copy } => {
                    writeln!(f, "{session}{sql};")?;
                    if let Some(data) = copy {
                        write!(f, "{data}")?;
                        writeln!(f, "\\.")?;
                    }
                }
                Action::Start { sql } => writeln!(f, "@{}& {sql};", step.session)?,
                Action::Finish => writeln!(f, "@{}?;", step.session)?,
            }
        }
        Ok(())
    }
}

fn copies_in(sql: &str) -> bool {
    let upper = sql.to_uppercase();
    upper.starts_with("COPY") && upper.contains("FROM STDIN")
}

/// Whether the rows come in an order, for each statement of the text: a top-level ORDER BY, or a FETCH of some rows
/// (whose cursor should have one).
pub fn are_ordered(sql: &str) -> Vec<bool> {
    let ordered = |outside: &str| outside.contains("ORDER BY") || outside.trim_start().starts_with("FETCH");
    outsides(sql).iter().map(|outside| ordered(outside)).collect()
}

/// Each statement without what is quoted or in parentheses, in capitals.
fn outsides(sql: &str) -> Vec<String> {
    let (mut depth, mut quote) = (0, None);
    let mut outsides = vec![String::new()];
    for c in sql.to_uppercase().chars() {
        match (quote, c) {
            (Some(open), c) if open == c => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, '(') => depth += 1,
            (None, ')') => depth -= 1,
            (None, ';') if depth == 0 => outsides.push(String::new()),
            (None, c) if depth == 0 => {
                let last = outsides.len() - 1;
                outsides[last].push(if c.is_whitespace() { ' ' } else { c });
            }
            _ => {}
        }
    }
    outsides
}
