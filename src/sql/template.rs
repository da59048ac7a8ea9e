//! Statement templates: text as the client wrote it, with places that are filled for each execution.

use std::collections::HashMap;
use std::sync::Arc;

use super::arrays::{self, Element};
use super::readers::By;
use super::resolve::Correlation;
use super::slice::Slice;
use super::{ExtraParameter, Ids, LOCKED, Parameters, Rendered, Report, View, ids, merge};
use crate::catalog::{AttNum, PolicyCommand, RelationKind, Table, TableId};
use crate::sqlstate::FEATURE_NOT_SUPPORTED;

/// Text and places, in order.
#[derive(Debug, Clone, Default)]
pub(super) struct Template {
    pub(super) pieces: Vec<Piece>,
}

#[derive(Debug, Clone)]
pub(super) enum Piece {
    Text(String),
    Relation(Arc<Relation>),
    /// A value taken from a sequence: the place of the sequence and, where the statement is not counted, of the value
    /// among its values.
    Id {
        sequence: usize,
        place: usize,
    },
    /// The value taken last. `call`: the client's own, whose error tells that there is none.
    CurrentId {
        sequence: usize,
        call: String,
    },
    /// Hashes of what other sessions have locked, as `bigint[]`: all of it, or what cannot be shared.
    Busy {
        shared: bool,
    },
    /// The value taken last from any sequence.
    LastId {
        call: String,
    },
    /// Text that depends on whether this relation is merged.
    IfMerged {
        relation: Arc<Relation>,
        merged: String,
        otherwise: String,
    },
}

/// A place where a statement names a table or view.
#[derive(Debug, Clone)]
pub(super) struct Relation {
    pub(super) source: Source,
    /// What stands there when nothing has to be merged.
    pub(super) original: String,
    /// The alias a subquery needs in this place, when the client wrote none.
    pub(super) alias: Option<String>,
    pub(super) slice: Option<Slice>,
    /// It is read anew for each row of an outer query, by a value of that.
    pub(super) correlation: Option<Correlation>,
    /// Why pending rows cannot be merged here.
    pub(super) obstacle: Option<&'static str>,
    /// `ONLY`: without the tables below.
    pub(super) only: bool,
    /// The statement names `tableoid`, which a merged relation has as its last column.
    pub(super) tableoid: bool,
    /// Which pending rows the session's role may see.
    pub(super) security: Option<Security>,
    pub(super) by: By,
}

/// A table's row security, for one command.
#[derive(Debug, Clone)]
pub(super) struct Security {
    pub(super) command: PolicyCommand,
    /// A condition over the table's columns.
    pub(super) condition: Template,
    /// The columns that it may look at.
    pub(super) columns: Vec<AttNum>,
    /// A function in a policy that may read tables behind our back.
    pub(super) opaque: Option<String>,
}

#[derive(Debug, Clone)]
pub(super) enum Source {
    Table(Arc<Table>),
    /// A view's definition.
    View(Template),
}

impl Template {
    pub(super) fn text(text: impl Into<String>) -> Template {
        Template { pieces: vec![Piece::Text(text.into())] }
    }

    pub(super) fn push(&mut self, text: &str) -> &mut Template {
        match self.pieces.last_mut() {
            Some(Piece::Text(last)) => last.push_str(text),
            _ => self.pieces.push(Piece::Text(text.into())),
        }
        self
    }

    pub(super) fn piece(&mut self, piece: Piece) -> &mut Template {
        match piece {
            Piece::Text(text) => return self.push(&text),
            other => self.pieces.push(other),
        }
        self
    }

    pub(super) fn append(&mut self, other: &Template) -> &mut Template {
        for piece in &other.pieces {
            self.piece(piece.clone());
        }
        self
    }

    /// A table named by us, without alias and as constraints see it: without tables that inherit from it.
    pub(super) fn table(&mut self, table: &Arc<Table>, slice: Option<Slice>) -> &mut Template {
        self.table_for(table, slice, None, By::Server)
    }

    /// The same for a role to which row security may apply.
    pub(super) fn table_for(
        &mut self,
        table: &Arc<Table>,
        slice: Option<Slice>,
        security: Option<Security>,
        by: By,
    ) -> &mut Template {
        let only = if table.kind == RelationKind::Table && !table.family.is_empty() { "ONLY " } else { "" };
        let original = format!("{only}{}", merge::qualified(table));
        let source = Source::Table(Arc::clone(table));
        self.piece(Piece::Relation(Arc::new(Relation {
            source,
            original,
            alias: None,
            slice,
            correlation: None,
            obstacle: None,
            // <https://www.postgresql.org/docs/15/ddl-inherit.html#DDL-INHERIT-CAVEATS>
            only: table.kind != RelationKind::Partitioned,
            tableoid: false,
            security,
            by,
        })))
    }

    /// The tables in it that have row security, those that policies look at among them.
    pub(super) fn secured(&self, found: &mut Vec<TableId>) {
        for piece in &self.pieces {
            let Piece::Relation(relation) = piece else { continue };
            match (&relation.source, &relation.security) {
                (Source::Table(table), Some(security)) => {
                    found.push(table.id);
                    security.condition.secured(found);
                }
                (Source::Table(_), None) => {}
                (Source::View(template), _) => template.secured(found),
            }
        }
    }

    /// A table in it whose row security is that of a view's owner.
    fn owners_table(&self) -> Option<&Table> {
        self.pieces.iter().find_map(|piece| match piece {
            Piece::Relation(relation) => match &relation.source {
                Source::Table(table) => (relation.obstacle == Some(UNDER_VIEW)).then_some(&**table),
                Source::View(template) => template.owners_table(),
            },
            _ => None,
        })
    }

    /// Every table in it, views expanded.
    pub(super) fn tables(&self, found: &mut Vec<TableId>) {
        for piece in &self.pieces {
            let Piece::Relation(relation) = piece else { continue };
            match &relation.source {
                Source::Table(table) => {
                    let below: &[_] = if relation.only { &[] } else { &table.family };
                    for table in std::iter::once(table).chain(below) {
                        if !found.contains(&table.id) {
                            found.push(table.id);
                        }
                    }
                    if let Some(security) = &relation.security {
                        security.condition.tables(found);
                    }
                }
                Source::View(template) => template.tables(found),
            }
        }
    }
}

/// A view over it must not be expanded: other policies than the owner's would apply then.
pub(super) const UNDER_VIEW: &str = "row security under a view";

/// As many as the protocol can count.
const PARAMETERS_MAX: usize = u16::MAX as usize;

/// What makes two merged relations the same.
type Whole = (TableId, bool, bool, Option<PolicyCommand>);

/// One rendering under way.
pub(super) struct Rendering<'a> {
    pub(super) view: View<'a>,
    pub(super) parameters: Parameters<'a>,
    /// The ledger value within the query's own snapshot, as SQL.
    pub(super) gate: &'a str,
    /// Values taken from sequences.
    pub(super) ids: &'a Ids,
    /// Values go by a counter, not by place.
    pub(super) counted: bool,
    /// Sub-selects note what they have locked.
    pub(super) noted: bool,
    /// Rows may be looked up by a value of an outer query.
    pub(super) correlates: bool,
    /// Arrays become literals: the statement takes no parameters.
    pub(super) inline: bool,
    pub(super) sql: String,
    pub(super) extra: Vec<ExtraParameter>,
    /// Whether any relation had to be merged.
    pub(super) merged: bool,
    /// Whole merged relations already written, so that their arrays travel once.
    whole: HashMap<Whole, String>,
    pub(super) id_parameters: HashMap<usize, String>,
}

impl<'a> Rendering<'a> {
    pub(super) fn new(view: View<'a>, parameters: Parameters<'a>, gate: &'a str, ids: &'a Ids) -> Rendering<'a> {
        Rendering {
            view,
            parameters,
            gate,
            ids,
            counted: false,
            noted: false,
            correlates: false,
            inline: false,
            sql: String::new(),
            extra: Vec::new(),
            merged: false,
            whole: HashMap::new(),
            id_parameters: HashMap::new(),
        }
    }

    pub(super) fn finish(self) -> Rendered {
        let mut registers = if self.counted { self.ids.registers() } else { Vec::new() };
        if self.noted {
            registers.push((LOCKED.to_owned(), String::new()));
        }
        Rendered { sql: self.sql, extra: self.extra, registers }
    }

    /// Fills the template's places.
    pub(super) fn fill(&mut self, template: &'a Template) -> Result<(), Report> {
        for piece in &template.pieces {
            match piece {
                Piece::Text(text) => self.sql.push_str(text),
                Piece::Relation(relation) => self.relation(relation)?,
                Piece::IfMerged { relation, merged, otherwise } => {
                    let text = if self.sees(relation) { merged } else { otherwise };
                    self.sql.push_str(text);
                }
                Piece::Id { sequence, place } => {
                    let id = match self.counted {
                        true => ids::next(*sequence, &self.id_array(*sequence)?),
                        false => self.id(*sequence, *place)?,
                    };
                    self.sql.push_str(&id);
                }
                Piece::CurrentId { sequence, call } => {
                    let id = ids::current(*sequence, &self.id_array(*sequence)?, call);
                    self.sql.push_str(&id);
                }
                Piece::Busy { shared } => {
                    let busy = if *shared { &self.ids.busy.exclusive } else { &self.ids.busy.all };
                    let texts: Vec<String> = busy.iter().map(|hash| (*hash as i64).to_string()).collect();
                    let array = self.array(Element::Int8, texts.iter().map(|hash| Some(hash.as_str())))?;
                    self.sql.push_str(&array);
                }
                Piece::LastId { call } => self.sql.push_str(&ids::last(call)),
            }
        }
        Ok(())
    }

    /// Whether a pending row can be seen in this place.
    fn sees(&self, relation: &Relation) -> bool {
        match &relation.source {
            Source::Table(table) => {
                let target = merge::Target { table, only: relation.only, tableoid: false, filter: None };
                if !target.members().any(|member| self.view.has_pending(member.id)) {
                    return false;
                }
                let keys = relation.slice.as_ref().and_then(|slice| slice.keys(self.parameters));
                keys.is_none_or(|keys| target.shows(self.view, &target.rows(self.view, Some(&keys))))
            }
            Source::View(definition) => definition.pieces.iter().any(|piece| match piece {
                Piece::Relation(relation) => self.sees(relation),
                _ => false,
            }),
        }
    }

    fn relation(&mut self, relation: &'a Relation) -> Result<(), Report> {
        let merged = match &relation.source {
            Source::Table(table) => self.table(table, relation)?,
            Source::View(definition) => self.view(definition, relation.obstacle)?,
        };
        let Some(merged) = merged else {
            self.sql.push_str(&relation.original);
            return Ok(());
        };
        self.merged = true;
        self.sql.push_str(&merged);
        if let Some(alias) = &relation.alias {
            self.sql.push_str(" AS ");
            self.sql.push_str(&super::syntax::quoted(alias));
        }
        Ok(())
    }

    /// The merged subquery for a table; `None`: no pending row can be seen here.
    fn table(&mut self, table: &'a Table, relation: &'a Relation) -> Result<Option<String>, Report> {
        let applies = relation.obstacle == Some(UNDER_VIEW) || self.ids.secured.contains(&table.id);
        let security = relation.security.as_ref().filter(|_| applies);
        if let Some(security) = security {
            self.refuse_policy(table, security)?;
        }
        let target = merge::Target { table, only: relation.only, tableoid: relation.tableoid, filter: None };
        if !target.members().any(|member| self.view.has_pending(member.id)) {
            return Ok(None);
        }
        target.same_keys(self.view)?;
        let command = security.map(|security| security.command);
        let whole = (table.id, relation.only, relation.tableoid, command);
        let keys = relation.slice.as_ref().and_then(|slice| slice.keys(self.parameters));
        if let Some(correlation) = relation.correlation.as_ref().filter(|_| self.correlates && !self.inline)
            && keys.is_none()
            && security.is_none()
            && relation.obstacle.is_none()
            && let Some(merged) = merge::looked_up(self, target, &target.rows(self.view, None), correlation)?
        {
            return Ok(Some(merged));
        }
        if keys.is_none()
            && let Some(known) = self.whole.get(&whole)
        {
            return Ok(Some(known.clone()));
        }
        let rows = target.rows(self.view, keys.as_deref());
        if !target.shows(self.view, &rows) {
            return Ok(None);
        }
        if let Some(obstacle) = relation.obstacle {
            return Err(cannot_merge(table, obstacle));
        }
        let condition = security.map(|security| self.aside(&security.condition)).transpose()?;
        let filter = condition.as_deref().zip(security.map(|security| &*security.columns));
        let merged = merge::subquery(self, merge::Target { filter, ..target }, &rows)?;
        if keys.is_none() {
            self.whole.insert(whole, merged.clone());
        }
        Ok(Some(merged))
    }

    /// Postgres judges the replica's rows by what the replica has, so a policy must not look at what is pending.
    fn refuse_policy(&self, table: &Table, security: &Security) -> Result<(), Report> {
        let mut read = Vec::new();
        security.condition.tables(&mut read);
        let why = match &security.opaque {
            Some(function) => format!("calls {function}, which may read pending rows"),
            None if read.iter().any(|id| self.view.has_pending(*id)) => "reads a table with pending rows".to_owned(),
            None => return Ok(()),
        };
        let message = format!("table \"{}\" cannot be read: a row security policy of it {why}", table.name.name);
        Err(Report::new(FEATURE_NOT_SUPPORTED, message).hint("Wait until the pending rows have been replicated."))
    }

    /// The template as text of its own.
    fn aside(&mut self, template: &'a Template) -> Result<String, Report> {
        let outer = std::mem::take(&mut self.sql);
        let filled = self.fill(template);
        let sql = std::mem::replace(&mut self.sql, outer);
        filled.map(|()| sql)
    }

    fn view(&mut self, definition: &'a Template, obstacle: Option<&str>) -> Result<Option<String>, Report> {
        let outer_sql = std::mem::take(&mut self.sql);
        let outer_merged = std::mem::replace(&mut self.merged, false);
        let known = self.extra.len();
        let filled = self.fill(definition);
        let sql = std::mem::replace(&mut self.sql, outer_sql);
        let merged = std::mem::replace(&mut self.merged, outer_merged);
        filled?;
        if !merged {
            debug_assert_eq!(known, self.extra.len(), "nothing merged, nothing shipped");
            return Ok(None);
        }
        if let Some(table) = definition.owners_table() {
            return Err(cannot_merge(table, UNDER_VIEW));
        }
        match obstacle {
            Some(obstacle) => Err(Report::new(
                FEATURE_NOT_SUPPORTED,
                format!("{obstacle} cannot be used on a view while the tables under it have pending rows"),
            )
            .hint("Wait until the pending rows have been replicated.")),
            None => Ok(Some(format!("({sql})"))),
        }
    }

    /// An array as SQL: a parameter, or a literal where there can be no more of them.
    pub(super) fn array<'v>(
        &mut self,
        element: Element,
        values: impl ExactSizeIterator<Item = Option<&'v str>>,
    ) -> Result<String, Report> {
        if self.inline || self.parameters.types.len() + self.extra.len() >= PARAMETERS_MAX {
            return Ok(arrays::inline(element, values));
        }
        self.extra.push(arrays::parameter(element, values)?);
        Ok(format!("${}::{}", self.parameters.types.len() + self.extra.len(), element.array_name()))
    }
}

impl Rendering<'_> {
    /// A map as SQL; `None`: there can be no more parameters.
    pub(super) fn map(&mut self, json: &str) -> Option<String> {
        const JSONB: u32 = 3802;
        const VERSION: u8 = 1;
        if self.inline || self.parameters.types.len() + self.extra.len() >= PARAMETERS_MAX {
            return None;
        }
        let value = std::iter::once(VERSION).chain(json.bytes()).collect();
        self.extra.push(ExtraParameter { type_oid: JSONB, value });
        Some(format!("${}::pg_catalog.jsonb", self.parameters.types.len() + self.extra.len()))
    }
}

fn cannot_merge(table: &Table, obstacle: &str) -> Report {
    Report::new(
        FEATURE_NOT_SUPPORTED,
        format!("{obstacle} cannot be used on table \"{}\" while it has pending rows", table.name.name),
    )
    .hint("Wait until the pending rows have been replicated.")
}
