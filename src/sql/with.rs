//! Statements with writes in WITH: their parts, as statements of their own.
//!
//! Each part is evaluated over the state before the statement, and its RETURNING rows travel to later parts as array
//! parameters in place of its body: `a(x, y) AS (SELECT c1::int, c2::text FROM unnest($1::text[], $2::text[]) …)`. So do the
//! rows of a query that several parts read, if each of them might see others.
//! <https://www.postgresql.org/docs/15/queries-with.html#QUERIES-WITH-MODIFYING>

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use squawk_syntax::{SyntaxKind as K, SyntaxNode};

use super::copy::words;
use super::readers::Readers;
use super::resolve::Names;
use super::syntax::{child, has_token, leading_with, name_of, quoted, range, token};
use super::{Class, Report, Statement, TableId, WritePlan, parse, repeated};
use crate::sqlstate::FEATURE_NOT_SUPPORTED;

mod order;

/// The parts of a statement with writes in WITH.
#[derive(Debug)]
pub struct WithPlan {
    recursive: bool,
    tables: Vec<Cte>,
    main: Part,
    /// The places of the queries that are evaluated once, before the parts that read them.
    once: HashSet<usize>,
    /// The places of the writes (of the parts, then of the main statement) in the order in which their effects are collected.
    order: Vec<usize>,
    secured: Vec<TableId>,
    readers: Readers,
    /// Its writes by themselves, to tell what rights they need.
    planned: Vec<WritePlan>,
}

#[derive(Debug)]
struct Cte {
    name: String,
    /// The names that the client gave the columns, with brackets.
    columns: String,
    /// As the client wrote it.
    text: String,
    /// Of one that writes.
    part: Option<Part>,
}

#[derive(Debug)]
struct Part {
    /// The members of its own WITH, and their names.
    with: Option<String>,
    own: Vec<String>,
    /// What follows it.
    body: String,
    class: Class,
    returning: bool,
    verb: &'static str,
}

/// What a part has returned: names and types of its columns, and the number of the parameter that holds the first.
#[derive(Debug)]
pub struct Returned {
    pub names: Vec<String>,
    pub types: Vec<String>,
    pub first: usize,
}

fn unsupported(message: &str) -> Report {
    Report::new(FEATURE_NOT_SUPPORTED, message).hint("Use a statement for each write, in a transaction.")
}

impl WithPlan {
    pub(super) fn new(text: &str, root: &SyntaxNode, names: Names<'_>, gate: &str) -> Result<WithPlan, Report> {
        let statement = root.children().next().ok_or_else(|| unsupported("no statement"))?;
        let clause = leading_with(&statement).ok_or_else(|| unsupported("writes within a query cannot be buffered"))?;
        let reads = !matches!(statement.kind(), K::INSERT | K::UPDATE | K::DELETE | K::MERGE);
        let end = range(&clause).end;
        let main = Part {
            with: None,
            own: Vec::new(),
            body: text[end..].trim().trim_end_matches(';').to_owned(),
            class: if reads { Class::Query } else { Class::Part },
            returning: true,
            verb: verb(statement.kind()),
        };
        let tables = clause.children().filter(|inner| inner.kind() == K::WITH_TABLE);
        let tables = tables.map(|table| cte(text, &table)).collect::<Result<Vec<_>, _>>()?;
        let recursive = has_token(&clause, K::RECURSIVE_KW);
        let mut plan = WithPlan {
            recursive,
            tables,
            main,
            once: HashSet::new(),
            order: Vec::new(),
            secured: Vec::new(),
            readers: Readers::default(),
            planned: Vec::new(),
        };
        let elsewhere = |node: &SyntaxNode| {
            is_write(node.kind())
                && *node != statement
                && !node.parent().is_some_and(|above| above.parent() == Some(clause.clone()) || above == clause)
                && !node
                    .ancestors()
                    .any(|above| above.kind() == K::WITH_TABLE && above.parent() == Some(clause.clone()))
        };
        if statement.descendants().any(|node| elsewhere(&node)) {
            return Err(unsupported("writes within a query cannot be buffered"));
        }
        if statement.descendants().any(|node| node.kind() == K::LOCKING_CLAUSE) {
            return Err(unsupported("row locks in a statement with writes in WITH cannot be buffered"));
        }
        plan.check(names, gate)?;
        Ok(plan)
    }

    /// Whether all parts can be evaluated, by themselves and beside each other.
    fn check(&mut self, names: Names<'_>, gate: &str) -> Result<(), Report> {
        for place in self.shared() {
            let query = &self.tables[place].text;
            if repeated::is_volatile(query, names) {
                return Err(unsupported("a volatile query in WITH that several parts read cannot be buffered"));
            }
            if repeated::is_by_order(query, names) {
                self.once.insert(place);
            }
        }
        if self.recursive && !self.once.is_empty() {
            let what =
                "a query in WITH RECURSIVE that several parts read, and whose result depends on the order of rows,";
            return Err(unsupported(&format!("{what} cannot be buffered")));
        }
        if self.parts().any(|place| self.names_clash(place)) {
            return Err(unsupported("a name in WITH that means something else within a part cannot be buffered"));
        }
        let mut planned = Vec::new();
        let writes = self.parts().chain((self.main.class == Class::Part).then_some(self.tables.len()));
        for place in writes {
            let text = self.text(place, &HashMap::new());
            let part = parse::with_tree(&text, |root| WritePlan::of_part(&text, root, names, gate));
            let part = part.map_err(|error| unsupported(&error.reason))??;
            planned.push(part);
        }
        self.secured = planned.iter().flat_map(|part| part.secured().iter().copied()).collect();
        self.readers = planned.iter().fold(Readers::default(), |all, part| all.and(part.readers()));
        self.order = order::order(&planned, names.catalog)?;
        self.planned = planned;
        Ok(())
    }

    /// The tables with row security that writes in it are about.
    pub fn secured(&self) -> &[TableId] {
        &self.secured
    }

    /// Its writes, as they are planned without each other's rows.
    pub fn writes_planned(&self) -> &[WritePlan] {
        &self.planned
    }

    /// By whose rights its writes read.
    pub fn readers(&self) -> &Readers {
        &self.readers
    }

    /// The places of the queries that more than one of the writes and the main statement read, by way of others too: each of
    /// those would evaluate them anew.
    fn shared(&self) -> Vec<usize> {
        let writes = self.parts().map(|place| self.tables[place].text.as_str());
        let reached = writes.chain(std::iter::once(self.main.body.as_str())).map(|text| self.reached(text));
        let reached: Vec<HashSet<usize>> = reached.collect();
        let readers = |place: &usize| reached.iter().filter(|reached| reached.contains(place)).count();
        (0..self.tables.len()).filter(|place| readers(place) > 1).collect()
    }

    /// The queries that are evaluated for this text.
    fn reached(&self, text: &str) -> HashSet<usize> {
        let (mut reached, mut open) = (HashSet::new(), vec![text]);
        while let Some(text) = open.pop() {
            for (place, cte) in self.tables.iter().enumerate().filter(|(_, cte)| cte.part.is_none()) {
                if repeated::mentions(text, &cte.name) && reached.insert(place) {
                    open.push(&cte.text);
                }
            }
        }
        reached
    }

    /// Whether a member of a part's own WITH would mean something to others, or others to it, when they stand side by side.
    fn names_clash(&self, place: usize) -> bool {
        let part = self.part(place);
        let others = || self.tables.iter().enumerate().filter(move |(other, _)| *other != place).map(|(_, cte)| cte);
        part.own.iter().any(|name| {
            let collides = others().any(|cte| cte.name == *name);
            let inner = part.with.iter().flat_map(|with| words(with)).filter(|word| word.eq_ignore_ascii_case(name));
            let mentioned = others().any(|cte| cte.name != *name && repeated::mentions(&cte.text, name));
            (collides || self.recursive) && (mentioned || inner.count() != 1)
        })
    }

    /// Whether this member is a query whose rows are to be there before later parts are evaluated.
    pub fn is_once(&self, place: usize) -> bool {
        self.once.contains(&place)
    }

    /// Whether rows travel from part to part.
    pub fn hands_on(&self) -> bool {
        !self.once.is_empty() || self.parts().any(|place| self.returning(place))
    }

    /// Whether this member is a write.
    pub fn is_part(&self, place: usize) -> bool {
        self.tables.get(place).is_some_and(|cte| cte.part.is_some())
    }

    /// The places of the parts that write; the main statement has the place after the last.
    pub fn parts(&self) -> impl Iterator<Item = usize> {
        (0..self.tables.len()).filter(|&place| self.is_part(place))
    }

    /// The numbers of the writes (parts as they stand, the main statement last) in the order in which main is to get them.
    pub fn order(&self) -> &[usize] {
        &self.order
    }

    pub fn main(&self) -> usize {
        self.tables.len()
    }

    /// The same numbers in the order in which Postgres runs them: what the main statement reads comes before it, what nobody
    /// reads after it, the last first.
    pub fn as_run(&self) -> Vec<usize> {
        let mut run = Vec::new();
        self.run(self.main(), &mut run);
        (0..self.tables.len()).rev().for_each(|place| self.run(place, &mut run));
        let writes: Vec<usize> = self.parts().chain([self.main()]).collect();
        run.iter().filter_map(|place| writes.iter().position(|write| write == place)).collect()
    }

    fn run(&self, place: usize, run: &mut Vec<usize>) {
        if run.contains(&place) {
            return;
        }
        let text = self.tables.get(place).map_or(&self.main.body, |cte| &cte.text);
        for (other, _) in
            self.tables.iter().enumerate().take(place).filter(|(_, cte)| repeated::mentions(text, &cte.name))
        {
            self.run(other, run);
        }
        run.push(place);
    }

    /// The command, as the refusal in a read-only transaction names it.
    pub fn verb(&self) -> &'static str {
        self.main.verb
    }

    /// Whether the main statement is a write.
    pub fn writes(&self) -> bool {
        self.main.class == Class::Part
    }

    pub fn returning(&self, place: usize) -> bool {
        self.part(place).returning
    }

    fn part(&self, place: usize) -> &Part {
        self.tables.get(place).and_then(|cte| cte.part.as_ref()).unwrap_or(&self.main)
    }

    /// A part as a statement, with what earlier ones have returned.
    pub fn statement(&self, place: usize, returned: &HashMap<usize, Returned>) -> Statement {
        let class = if self.is_once(place) { Class::Query } else { self.part(place).class.clone() };
        Statement { text: Arc::from(self.text(place, returned)), class }
    }

    fn text(&self, place: usize, returned: &HashMap<usize, Returned>) -> String {
        let part = self.part(place);
        let once = self.tables.get(place).filter(|_| self.is_once(place));
        let body = once.map_or(part.body.clone(), |cte| format!("SELECT * FROM {}", quoted(&cte.name)));
        let before = |other: usize, cte: &Cte| other < place || (self.recursive && cte.part.is_none());
        let visible = self.tables.iter().enumerate().filter(|(other, cte)| *other != place && before(*other, cte));
        let visible = visible.filter(|(_, cte)| !part.own.contains(&cte.name));
        let mut members: Vec<String> = visible
            .filter_map(|(other, cte)| match (&cte.part, returned.get(&other)) {
                (None, None) => Some(cte.text.clone()),
                (Some(part), _) if !part.returning => None,
                (_, Some(returned)) => Some(rows(cte, returned)),
                // Only to see whether the part can be planned.
                (Some(_), None) => Some(format!("{} AS (SELECT NULL)", quoted(&cte.name))),
            })
            .collect();
        members.extend(once.map(|cte| cte.text.clone()));
        members.extend(part.with.clone());
        match members.is_empty() {
            true => body,
            false => {
                let recursive = if self.recursive { "RECURSIVE " } else { "" };
                format!("WITH {recursive}{} {body}", members.join(", "))
            }
        }
    }
}

fn is_write(kind: K) -> bool {
    matches!(kind, K::INSERT | K::UPDATE | K::DELETE | K::MERGE)
}

fn verb(kind: K) -> &'static str {
    match kind {
        K::INSERT => "INSERT",
        K::UPDATE => "UPDATE",
        K::DELETE => "DELETE",
        K::MERGE => "MERGE",
        _ => "SELECT",
    }
}

/// The rows that a part has returned, in its place.
fn rows(cte: &Cte, returned: &Returned) -> String {
    let columns = match cte.columns.is_empty() {
        true => format!("({})", returned.names.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", ")),
        // The client may have named only the first of them.
        false => cte.columns.clone(),
    };
    let place = |place: usize| returned.first + place;
    let arrays: Vec<String> =
        (0..returned.types.len()).map(|n| format!("pg_catalog.unnest(${}::pg_catalog.text[])", place(n))).collect();
    let values: Vec<String> = returned
        .types
        .iter()
        .zip(&returned.names)
        .enumerate()
        .map(|(n, (name, column))| format!("c{n}::{name} AS {}", quoted(column)))
        .collect();
    let given: Vec<String> = (0..returned.types.len()).map(|n| format!("c{n}")).collect();
    format!(
        "{}{columns} AS MATERIALIZED (SELECT {} FROM ROWS FROM ({}) AS \"pgoutpost.w\"({}))",
        quoted(&cte.name),
        values.join(", "),
        arrays.join(", "),
        given.join(", ")
    )
}

fn cte(text: &str, table: &SyntaxNode) -> Result<Cte, Report> {
    let name = child(table, K::CTE_NAME).and_then(|name| name_of(&name));
    let name = name.ok_or_else(|| unsupported("a name in WITH is not understood"))?;
    let columns = child(table, K::COLUMN_LIST).map_or(String::new(), |list| text[range(&list)].to_owned());
    let query = table.children().find(|inner| is_write(inner.kind()));
    let part = query.map(|query| part(text, &query)).transpose()?;
    Ok(Cte { name, columns, text: text[range(table)].to_owned(), part })
}

fn part(text: &str, query: &SyntaxNode) -> Result<Part, Report> {
    let inner = child(query, K::WITH_CLAUSE);
    let mut body = range(query);
    let (mut with, mut own) = (None, Vec::new());
    if let Some(clause) = &inner {
        if has_token(clause, K::RECURSIVE_KW) {
            return Err(unsupported("WITH RECURSIVE within a part of WITH cannot be buffered"));
        }
        let word = token(clause, K::WITH_KW).map_or(range(clause).start, |word| word.text_range().end().into());
        with = Some(text[word..range(clause).end].trim().to_owned());
        let members = clause.children().filter(|inner| inner.kind() == K::WITH_TABLE);
        own = members.filter_map(|member| name_of(&child(&member, K::CTE_NAME)?)).collect();
        body.start = range(clause).end;
    }
    Ok(Part {
        with,
        own,
        body: text[body].trim().to_owned(),
        class: Class::Part,
        returning: query.children().any(|inner| inner.kind() == K::RETURNING_CLAUSE),
        verb: verb(query.kind()),
    })
}
