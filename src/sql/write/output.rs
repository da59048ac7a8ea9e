//! What the hidden columns of an evaluation say.

use crate::catalog::AttNum;
use crate::entry::Value;

/// What ON CONFLICT does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Conflict {
    Nothing,
    Update,
}

/// What becomes of one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Insert,
    /// By this one of the statement's SETs.
    Update(usize),
    Delete,
    Nothing,
}

/// What a hidden output column of the evaluation holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Output {
    /// A key column of the row as it was.
    Key,
    New(AttNum),
    Old(AttNum),
    /// `n<attnum>` (NOT NULL) or `c<place>` (CHECK) of the first rule the row breaks: as it is proposed (0), as an update
    /// makes it of a row found instead (1).
    RowRule(usize),
    /// The whole new row, for the detail of that error.
    FailingRow(usize),
    /// `i`, `u<place of the SET>`, `d`, `n`: what becomes of the row, where that is not the same for all.
    Action,
    /// The values of the index in this place and the key of the row that has them, when another one has.
    Taken(usize),
    /// Which rows of the statement have the same new values in the index in this place, and the values.
    Group(usize),
    /// The values of the deferrable index in this place, where it keeps them apart: a JSON array.
    Recheck(usize),
    /// The rows that the new one cannot stand beside, by the exclusion constraint in this place: JSON arrays of the values of
    /// both and the other's key.
    Excluded(usize),
    /// Which rows of the statement are proposed with the same values in the arbiter in this place.
    Arbiter(usize),
    /// Not NULL: an update changes the values by which ON CONFLICT finds the row.
    Moved,
    /// Type and text of a constant in what is computed from the row's own columns.
    Constant(usize),
    /// A column for an outer query only.
    Ignored,
    /// Not NULL: the replica has a row with this key. What is pending of it is looked up when the answer is read.
    UniqueKey(usize),
    /// The table that has the row before the statement, by OID, where there are several.
    OldMember,
    /// The table that the row belongs into.
    NewMember,
    /// A table without a partition for the row, the partition key and the row's values in it.
    NoPartition,
    /// The ledger value of the evaluation's snapshot.
    Ledger,
    /// The values that may have no parent row, of the foreign key in this place of `references`.
    Parent(usize),
    /// The values that a row may refer to, by the foreign key in this place of `referenced_by`, and what stands in their
    /// place after an UPDATE: JSON arrays, a line each.
    Child(usize),
    /// A hash of what the row takes or frees.
    Lock,
    /// A hash of what the row needs to stay.
    SharedLock,
    /// A hash of what must not be in anybody's hands while the row is judged.
    PassingLock,
}

/// A column as messages and effects name it.
pub(super) type Setting = (AttNum, Value);
