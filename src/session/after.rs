//! What happens at the end of a statement, when its effects are there: foreign keys are judged, and act.
//!
//! Postgres queues an event for each row and constraint and fires them in order when the statement has done its work
//! (<https://www.postgresql.org/docs/15/trigger-definition.html>); what a referential action does queues more of them.

use super::Session;
use super::failure::Failure;
use crate::sql::Event;

impl Session {
    /// To be called once for each statement of the client, after [`Session::collect`] of all its parts.
    pub(super) async fn after_statement(&mut self, events: Vec<Event>) -> Result<(), Failure> {
        match events.into_iter().next() {
            None => Ok(()),
            Some(event) => match event {},
        }
    }
}
