//! Which gamma and beta a row has.

/// gamma and beta for groups of rows: row r has those of group (r / repeat) % groups.
///
/// With one group all rows share them; with as many groups as heads, and repeat 1, each head has its own; with a group for
/// each sample, and repeat the rows of a sample, gamma and beta are those of adaptive normalization.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Groups {
    groups: usize,
    repeat: usize,
    /// The rows of the job that came before these.
    before: usize,
    /// Whether these are all rows, which the groups must divide.
    all: bool,
}

impl Groups {
    /// One gamma and one beta for all rows.
    pub const ONE: Self = Self { groups: 1, repeat: 1, before: 0, all: true };

    /// `groups` groups of which each serves `repeat` rows in a row. `None` if either is zero or their product overflows.
    pub fn new(groups: usize, repeat: usize) -> Option<Self> {
        (groups.checked_mul(repeat)? > 0).then_some(Self { groups, repeat, before: 0, all: true })
    }

    /// The number of groups.
    pub fn groups(self) -> usize {
        self.groups
    }

    /// The number of rows after which the groups begin anew.
    pub fn period(self) -> usize {
        self.groups * self.repeat
    }

    /// The number of rows in a row that one group serves.
    #[inline(always)]
    pub(super) fn repeat(self) -> usize {
        self.repeat
    }

    #[inline(always)]
    pub(super) fn are_one(self) -> bool {
        self.groups == 1
    }

    #[inline(always)]
    pub(super) fn of_row(self, r: usize) -> usize {
        (self.before + r) / self.repeat % self.groups
    }

    /// The same groups for a part of the rows that begins after so many: any number of them.
    pub fn after(self, rows: usize) -> Self {
        let period = self.period();
        Self { before: (self.before + rows % period) % period, all: false, ..self }
    }

    /// Whether so many rows can have them.
    #[inline(always)]
    pub(super) fn divide(self, rows: usize) -> bool {
        !self.all || self.period() == 1 || rows.is_multiple_of(self.period())
    }
}
