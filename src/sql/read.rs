//! Reads: a client's query with merged relations in place of tables that have pending rows.

use squawk_syntax::{SyntaxKind as K, SyntaxNode};

use super::readers::{By, Readers};
use super::resolve::{Findings, Names, Text, security};
use super::syntax::{child, path_of, quoted, range};
use super::template::{Rendering, Template};
use super::{Ids, LockedRelation, Parameters, Rendered, Report, SequenceUse, TableId, View, classify};
use crate::catalog::{PolicyCommand, RelationKind};
use crate::sqlstate::FEATURE_NOT_SUPPORTED;

/// The template of a read.
#[derive(Debug)]
pub struct ReadPlan {
    template: Template,
    tables: Vec<TableId>,
    secured: Vec<TableId>,
    readers: Readers,
    /// The query, without EXPLAIN, DECLARE or COPY around it, as the client wrote it.
    query: String,
    findings: Findings,
    gate: String,
    /// Must always be rendered: what the client wrote cannot run on a standby.
    always: bool,
    /// The statement takes no parameters.
    inline: bool,
    /// A query by itself: not EXPLAIN, DECLARE or COPY.
    select: bool,
    /// EXPLAIN of something else than a query.
    explains_write: bool,
    /// EXPLAIN EXECUTE: what is explained is only known on the replica.
    explains_execute: bool,
    /// EXPLAIN (VERBOSE) prints the pending rows, which the role may not be allowed to see.
    prints_rows: bool,
}

impl ReadPlan {
    pub(super) fn new(text: &str, root: &SyntaxNode, names: Names<'_>, gate: &str) -> Result<ReadPlan, Report> {
        let source = Text::read(text, root, names, 0)?;
        let statement = root.children().next();
        let copy = statement.as_ref().filter(|node| node.kind() == K::COPY);
        let copied = copy.map(|copy| copied(text, copy, names)).transpose()?.flatten();
        let (template, copied) = match copied {
            Some((template, query)) => (template, Some(query)),
            None => (source.cut(0..text.len()), None),
        };
        let explained = statement.as_ref().is_some_and(|node| {
            node.kind() == K::EXPLAIN && !node.children().any(|inner| classify::is_select(inner.kind()))
        });
        let template = if explained { Template::text(text) } else { template };
        let mut tables = Vec::new();
        template.tables(&mut tables);
        let mut secured = Vec::new();
        template.secured(&mut secured);
        let query = root.descendants().find(|node| classify::is_select(node.kind()));
        let query = copied.unwrap_or_else(|| query.map_or(text, |query| &text[range(&query)]).to_owned());
        let select = statement.as_ref().is_some_and(|node| classify::is_select(node.kind()));
        if source.findings.counted && statement.as_ref().is_some_and(|node| matches!(node.kind(), K::DECLARE | K::COPY))
        {
            let message = "values of sequences cannot be taken by a cursor or COPY";
            return Err(Report::new(FEATURE_NOT_SUPPORTED, message).hint("Run the query by itself."));
        }
        let always = source.findings.uses_sequences() || !source.findings.locking.is_empty();
        Ok(ReadPlan {
            readers: Readers::of(&template),
            template,
            tables,
            secured,
            query,
            findings: source.findings,
            gate: gate.into(),
            always,
            inline: copy.is_some(),
            select,
            explains_write: explained,
            prints_rows: statement.as_ref().is_some_and(prints_rows),
            explains_execute: statement.as_ref().is_some_and(|node| child(node, K::EXECUTE).is_some()),
        })
    }

    /// Whether it must have been run to its end before its rows can be shown.
    pub fn whole(&self) -> bool {
        self.select && (self.findings.uses_sequences() || !self.findings.locking.is_empty())
    }

    /// Whether no function in it can have written anything.
    pub fn only_reads(&self) -> bool {
        !self.explains_write && self.findings.opaque.is_empty() && !self.findings.uses_sequences()
    }

    /// Every table the statement reads, views expanded.
    pub fn tables(&self) -> &[TableId] {
        &self.tables
    }

    /// The tables with row security among them: whether it applies is the role's affair ([`Ids::secured`]).
    pub fn secured(&self) -> &[TableId] {
        &self.secured
    }

    /// By whose rights it reads.
    pub fn readers(&self) -> &Readers {
        &self.readers
    }

    /// The client's own query, of which Postgres tells what rights it needs.
    pub fn query(&self) -> &str {
        &self.query
    }

    /// Which sequences an execution takes values of: `SELECT nextval('s')`.
    pub fn sequences(&self) -> &[SequenceUse] {
        &self.findings.sequences
    }

    /// The relations whose rows are locked.
    pub fn locking(&self) -> &[LockedRelation] {
        &self.findings.locking
    }

    /// Whether only the execution tells how many values it takes.
    pub fn counted(&self) -> bool {
        self.findings.counted
    }

    /// The statement for one execution; `None`: no pending row can be seen by it, the client's own text will do.
    ///
    /// # Errors
    /// 0A000 when a table has pending rows and the statement does with it what cannot be merged.
    pub fn render(&self, view: View<'_>, parameters: Parameters<'_>) -> Result<Option<Rendered>, Report> {
        self.render_with_ids(view, parameters, &Ids::default())
    }

    /// [`ReadPlan::render`] for a statement that takes sequence values: `ids` holds values for each of
    /// [`ReadPlan::sequences`], in that order.
    ///
    /// # Errors
    /// As [`ReadPlan::render`]; 55000 when there are too few ids.
    pub fn render_with_ids(
        &self,
        view: View<'_>,
        parameters: Parameters<'_>,
        ids: &Ids,
    ) -> Result<Option<Rendered>, Report> {
        if view.is_empty() && !self.always {
            return Ok(None);
        }
        if self.explains_execute && !view.is_empty() {
            let message = "EXPLAIN EXECUTE cannot be used while rows are pending: the plan would be one without them";
            return Err(Report::new(FEATURE_NOT_SUPPORTED, message).hint("EXPLAIN the statement itself."));
        }
        self.findings.refuse_opaque(view)?;
        let mut rendering = Rendering::new(view, parameters, &self.gate, ids);
        rendering.inline = self.inline;
        rendering.correlates = self.findings.locking.is_empty();
        rendering.counted = self.findings.counted;
        rendering.noted = self.findings.locking.iter().any(|relation| !relation.own);
        rendering.fill(&self.template)?;
        if rendering.merged && self.prints_rows {
            let message = "EXPLAIN VERBOSE cannot be used while rows are pending: it would print them";
            return Err(Report::new(FEATURE_NOT_SUPPORTED, message).hint("Leave VERBOSE out."));
        }
        if rendering.merged {
            self.findings.refuse_system_column()?;
        }
        Ok((rendering.merged || self.always).then(|| rendering.finish()))
    }
}

fn prints_rows(statement: &SyntaxNode) -> bool {
    let words = statement.children_with_tokens().take_while(|part| !classify::is_select(part.kind()));
    statement.kind() == K::EXPLAIN
        && words.into_iter().any(|part| part.to_string().to_ascii_lowercase().contains("verbose"))
}

impl Findings {
    /// A function whose body we do not see could look at any table.
    pub(super) fn refuse_opaque(&self, view: View<'_>) -> Result<(), Report> {
        match self.opaque.first() {
            Some(function) if !view.is_empty() => Err(Report::new(
                FEATURE_NOT_SUPPORTED,
                format!("function {function} cannot be used while rows are pending: it may read them"),
            )
            .hint("Declare it IMMUTABLE if it reads no table, or wait until the pending rows have been replicated.")),
            Some(_) | None => Ok(()),
        }
    }

    /// A merged relation has no system columns, and an outer query's must not be taken for them.
    pub(super) fn refuse_system_column(&self) -> Result<(), Report> {
        match &self.system_column {
            Some(column) => Err(Report::new(
                FEATURE_NOT_SUPPORTED,
                format!("system column \"{column}\" cannot be read from a table while it has pending rows"),
            )
            .hint("Use the table's key.")),
            None => match &self.unclear_row {
                Some(name) => Err(Report::new(
                    FEATURE_NOT_SUPPORTED,
                    format!(
                        "\"{name}\" may be a row or a column, which cannot be told while the table has pending rows"
                    ),
                )
                .hint("Give the table another alias.")),
                None => Ok(()),
            },
        }
    }
}

/// `COPY t (a, b) TO STDOUT` as `COPY (SELECT a, b FROM t) TO STDOUT`, and its query; `None`: a query is copied.
fn copied(text: &str, copy: &SyntaxNode, names: Names<'_>) -> Result<Option<(Template, String)>, Report> {
    let table = child(copy, K::COPY_TABLE);
    let found = table.as_ref().and_then(|table| child(table, K::TABLE_NAME_REF)).and_then(|name| path_of(&name));
    let (Some(place), Some(found)) = (table, found.and_then(|path| names.relation(&path).cloned())) else {
        return Ok(None);
    };
    let list = child(&place, K::COLUMN_REF_LIST);
    let plain = |name: &SyntaxNode| {
        let column = super::copy::name_of_any(name).and_then(|name| found.column(&name).cloned());
        column.is_some_and(|column| !column.generated)
    };
    let wrong = list.as_ref().is_some_and(|list| !list.children().all(|name| plain(&name)));
    if wrong || found.kind == RelationKind::Partitioned {
        // Postgres says what is wrong with the list, or that only a query would do.
        return Ok(Some((Template::text(text), text.to_owned())));
    }
    let columns = match list {
        Some(list) => text[range(&list)].trim_start_matches('(').trim_end_matches(')').to_owned(),
        None => {
            let plain = found.columns.iter().filter(|column| !column.generated);
            plain.map(|column| quoted(&column.name)).collect::<Vec<_>>().join(", ")
        }
    };
    let mut template = Template::default();
    template.push(&text[..range(&place).start]).push(&format!("(SELECT {columns} FROM "));
    template.table_for(&found, None, security::of(&found, PolicyCommand::Select, names)?, By::Role);
    template.push(" AS t)").push(&text[range(&place).end..]);
    Ok(Some((template, format!("SELECT {columns} FROM {}", super::merge::qualified(&found)))))
}
