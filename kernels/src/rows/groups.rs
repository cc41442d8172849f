//! Groups of rows, each with a gamma and a beta.

use crate::error::Error;

/// Groups of rows, each with a gamma and a beta. Row r belongs to group (r / repeat) % groups, unless the last group
/// serves [another number of rows](Self::with_last_repeat).
///
/// With one group, all rows share gamma and beta. With a group for each head, and a repeat of 1, each head has its own.
/// With a group for each sample, and the rows of a sample as repeat, each sample has its own: adaptive normalization.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Groups {
    groups: usize,
    repeat: usize,
    /// The repeat of the last group.
    last: usize,
    /// The number of rows of the job that precede these, modulo the period.
    before: usize,
    /// Whether these are all rows of the job. The groups must divide all rows, but not a part.
    all: bool,
}

impl Groups {
    /// One gamma and one beta for all rows.
    pub const ONE: Self = Self { groups: 1, repeat: 1, last: 1, before: 0, all: true };

    /// `groups` groups. Each serves `repeat` consecutive rows.
    ///
    /// # Errors
    /// If either is zero or their product overflows.
    #[inline]
    pub fn new(groups: usize, repeat: usize) -> Result<Self, Error> {
        match groups.checked_mul(repeat) {
            None | Some(0) => Err(Error::Groups { groups, repeat }),
            Some(_) => Ok(Self { groups, repeat, last: repeat, before: 0, all: true }),
        }
    }

    /// The same groups, but for the last, which serves `last` consecutive rows: the heads of Q and those of K, say, are
    /// two groups.
    ///
    /// # Errors
    /// If `last` is zero, or if the rows of all groups overflow.
    pub fn with_last_repeat(self, last: usize) -> Result<Self, Error> {
        let Self { groups, repeat, .. } = self;
        // The last of one group is the only one.
        let repeat_of_all = if groups == 1 { last } else { repeat };
        match repeat.checked_mul(groups - 1).and_then(|before| before.checked_add(last)) {
            Some(_) if last > 0 => Ok(Self { last, repeat: repeat_of_all, ..self }),
            _ => Err(Error::LastGroup { groups, repeat, last }),
        }
    }

    /// The number of groups.
    #[inline(always)]
    pub fn groups(self) -> usize {
        self.groups
    }

    /// The number of rows after which the groups begin anew.
    #[inline(always)]
    pub fn period(self) -> usize {
        self.start(self.groups - 1) + self.last
    }

    /// The number of consecutive rows that each group but the last serves.
    #[inline(always)]
    pub fn repeat(self) -> usize {
        self.repeat
    }

    /// The number of consecutive rows that the last group serves.
    #[inline(always)]
    pub fn last_repeat(self) -> usize {
        self.last
    }

    /// The number of consecutive rows that a group serves.
    #[inline(always)]
    pub fn repeat_of(self, group: usize) -> usize {
        if group + 1 == self.groups { self.last } else { self.repeat }
    }

    /// The first row of a group within a period.
    #[inline(always)]
    pub(crate) fn start(self, group: usize) -> usize {
        group * self.repeat
    }

    /// The number of `rows` rows, which are whole periods, that belong to a group.
    pub fn rows_of(self, group: usize, rows: usize) -> usize {
        rows / self.period() * self.repeat_of(group)
    }

    #[inline(always)]
    pub(crate) fn are_one(self) -> bool {
        self.groups == 1
    }

    #[inline(always)]
    pub(crate) fn of_row(self, r: usize) -> usize {
        // `before` is less than the period, which may be close to the largest number.
        let row = self.before.checked_add(r).unwrap_or_else(|| self.late_row(r));
        if self.last == self.repeat {
            return row / self.repeat % self.groups;
        }
        (row % self.period() / self.repeat).min(self.groups - 1)
    }

    /// The number of successive rows from row `r` on that one group serves.
    pub(crate) fn rows_from(self, r: usize) -> usize {
        if self.are_one() {
            return usize::MAX;
        }
        let (group, row) = (self.of_row(r), self.after(r).before);
        self.start(group) + self.repeat_of(group) - row
    }

    #[cold]
    #[inline(never)]
    fn late_row(self, r: usize) -> usize {
        self.after(r).before
    }

    /// The groups of the rows after the first `rows`. They need not divide these rows.
    pub fn after(self, rows: usize) -> Self {
        let period = self.period();
        let (rows, left) = (rows % period, period - self.before);
        let before = if rows < left { self.before + rows } else { rows - left };
        Self { before, all: false, ..self }
    }

    /// Refuses a number of rows that cannot have these groups.
    #[inline(always)]
    pub(crate) fn divide(self, rows: usize) -> Result<(), Error> {
        if !self.all || self.period() == 1 || rows.is_multiple_of(self.period()) {
            return Ok(());
        }
        Err(self.misfit(rows))
    }

    /// That `rows` rows cannot have these groups.
    #[cold]
    pub fn misfit(self, rows: usize) -> Error {
        let Self { groups, repeat, last, .. } = self;
        if last == repeat {
            Error::GroupRows { rows, groups, repeat }
        } else {
            Error::GroupPeriod { rows, period: self.period() }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_counted_on_beyond_the_largest_number() {
        let half = usize::MAX / 2;
        let groups = Groups::new(2, half).expect("a period that does not overflow");
        let late = groups.after(usize::MAX - 3);
        assert_eq!((0..5).map(|r| late.of_row(r)).collect::<std::vec::Vec<_>>(), [1, 1, 0, 0, 0]);
        assert_eq!((late.after(1).of_row(0), late.after(2).of_row(0), late.after(half).of_row(1)), (1, 0, 0));
        assert_eq!((late.after(half + 2).of_row(0), late.of_row(half + 2)), (1, 1));
        let unequal = Groups::new(3, 2).and_then(|groups| groups.with_last_repeat(3)).expect("groups");
        assert_eq!((0..8).map(|r| unequal.of_row(r)).collect::<std::vec::Vec<_>>(), [0, 0, 1, 1, 2, 2, 2, 0]);
        let late = unequal.after(12);
        assert_eq!((0..4).map(|r| late.of_row(r)).collect::<std::vec::Vec<_>>(), [2, 2, 0, 0]);
        assert_eq!((0..8).map(|r| unequal.rows_from(r)).collect::<std::vec::Vec<_>>(), [2, 1, 2, 1, 3, 2, 1, 2]);
        assert_eq!((0..3).map(|group| unequal.rows_of(group, 21)).collect::<std::vec::Vec<_>>(), [6, 6, 9]);
        let small = Groups::new(3, 2).expect("groups").after(7);
        assert_eq!((0..6).map(|r| small.of_row(r)).collect::<std::vec::Vec<_>>(), [0, 1, 1, 2, 2, 0]);
        assert_eq!((0..6).map(|r| small.rows_from(r)).collect::<std::vec::Vec<_>>(), [1, 2, 1, 2, 1, 2]);
    }
}
