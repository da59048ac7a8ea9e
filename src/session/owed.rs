//! What main owes for messages of the extended protocol that it was sent, and what it knows of the client's statements.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use super::mirror::Deed;
use super::statements::Prepared;
use super::straight::Leaves;
use crate::report::Report;

#[derive(Debug, Default)]
pub(super) struct Pipeline {
    pub(super) owed: VecDeque<Owed>,
    /// Statements prepared on main by the client's names.
    pub(super) known: HashSet<Vec<u8>>,
    /// Those that the replica does not have.
    pub(super) fresh: Vec<(Vec<u8>, Arc<Prepared>)>,
    /// Portals whose statements the replica must follow.
    pub(super) portals: HashMap<Vec<u8>, Deed>,
    /// What has been run of them, with its tag.
    pub(super) done: Vec<(Deed, String)>,
    /// Savepoints from before the transaction was main's.
    pub(super) early: Vec<String>,
    /// A transaction has been committed since main was entered.
    pub(super) committed: bool,
    /// Main's session may be another than before.
    pub(super) may_set: bool,
    /// What is run there may commit.
    pub(super) may_commit: bool,
    /// How long statements may take there is not known.
    pub(super) sets_timeout: bool,
    /// What has been run there may have changed the search path.
    pub(super) sets: bool,
    /// Sequences that begin anew when main has committed.
    pub(super) restarted: Vec<Arc<str>>,
    /// Texts under way that may set sequences.
    pub(super) set_sequences: Vec<String>,
    /// What has been run may have written tables that its text does not name.
    pub(super) unseen: bool,
    /// DISCARD ALL has been run.
    pub(super) discarded: bool,
    /// Main had what was buffered when the pipeline began outside of a block.
    pub(super) drained: bool,
    /// What the replica has to have of what the pipeline has run outside of a block.
    pub(super) leaves: Leaves,
    /// A COPY FROM STDIN has been bound since the last Sync that main has had.
    pub(super) copies: bool,
    /// It has been given data, or their end.
    pub(super) copied: bool,
    /// A Sync of the client came before those.
    pub(super) early_sync: bool,
}

/// A message that main has not answered yet.
#[derive(Debug, Default)]
pub(super) struct Owed {
    /// The client does not see the answer.
    pub(super) hidden: bool,
    pub(super) deed: Option<Deed>,
    /// What the client prepares by it, once main has taken it.
    pub(super) prepares: Option<(Vec<u8>, Arc<Prepared>)>,
    /// What the client is told instead of the error that this message is.
    pub(super) refused: Option<Report>,
}

impl Pipeline {
    pub(super) fn knows(&mut self, name: &[u8]) {
        self.known.insert(name.to_vec());
    }

    /// Whether something like it is under way.
    pub(super) fn runs(&self, like: impl Fn(&Deed) -> bool) -> bool {
        self.owed.iter().filter_map(|owed| owed.deed.as_ref()).any(like)
    }

    /// What a Parse that main has not answered gives this name.
    pub(super) fn under_way(&self, name: &[u8]) -> Option<&Arc<Prepared>> {
        let mut given = self.owed.iter().rev().filter_map(|owed| owed.prepares.as_ref());
        given.find_map(|(given, prepared)| (given == name).then_some(prepared))
    }

    /// A statement is there no more.
    pub(super) fn forget(&mut self, name: &[u8]) {
        self.known.remove(name);
        self.fresh.retain(|(fresh, _)| fresh != name);
    }

    /// Ends a transaction; what main has prepared stays.
    pub(super) fn end(&mut self) -> Pipeline {
        let mut ended = std::mem::take(self);
        (self.known, self.fresh) = (std::mem::take(&mut ended.known), std::mem::take(&mut ended.fresh));
        ended
    }

    /// Whether main owes nothing.
    pub(super) fn is_answered(&self) -> bool {
        self.owed.is_empty()
    }

    /// Returns what the replica does not have.
    pub(super) fn forget_all(&mut self) -> Vec<(Vec<u8>, Arc<Prepared>)> {
        self.known.clear();
        std::mem::take(&mut self.fresh)
    }
}
