//! A column's default, for each row anew.

use super::super::Report;
use super::super::parse;
use super::super::resolve::{Names, Text, opaque_call};
use super::super::template::Template;
use super::build::Builder;
use crate::catalog::Column;
use crate::sqlstate::FEATURE_NOT_SUPPORTED;

impl Builder<'_> {
    /// What the column holds when nothing is said. `counted`: for rows whose number is not known before.
    pub(super) fn default_of(&mut self, column: &Column, counted: bool) -> Result<Template, Report> {
        if let Some(sequence) = &column.sequence {
            self.findings.counted |= counted;
            let mut template = Template::default();
            template.piece(self.findings.next_id(sequence, column.identity.is_some()));
            return Ok(template);
        }
        match &column.default {
            Some(_) if column.generated => Ok(Template::text("NULL")),
            Some(default) if takes_ids(default) => self.default_with_ids(column, default),
            Some(default) => {
                self.findings.opaque.extend(opaque_call(default, self.request.names));
                Ok(Template::text(default))
            }
            None if column.identity.is_some() => {
                let message = format!("the sequence of column \"{}\" is not known", column.name);
                Err(Report::new(FEATURE_NOT_SUPPORTED, message).hint("Give the column a value."))
            }
            None => Ok(Template::text("NULL")),
        }
    }

    /// A default with a sequence somewhere in it: `'A' || nextval('s')`.
    fn default_with_ids(&mut self, column: &Column, default: &str) -> Result<Template, Report> {
        let text = format!("SELECT ({default})");
        // As the catalog prints it: every name is qualified.
        let names = Names { search_path: &[], ..self.request.names };
        let findings = self.findings.clone();
        let read = parse::with_tree(&text, |root| {
            let source = Text::read_on(&text, root, names, 0, findings)?;
            Ok((source.cut("SELECT ".len()..text.len()), source.findings))
        });
        let (template, findings) = read.map_err(|error| {
            Report::new(FEATURE_NOT_SUPPORTED, format!("the default of column \"{}\" is not understood", column.name))
                .detail(error.reason)
        })??;
        self.findings = findings;
        Ok(template)
    }
}

fn takes_ids(default: &str) -> bool {
    ["nextval(", "currval(", "lastval(", "setval("].iter().any(|call| default.contains(call))
}
