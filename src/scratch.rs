//! The scratch memory of backward calls.

use lanenorm_kernels::Element;
use lanenorm_kernels::ops::backward::Parts;
use lanenorm_kernels::rows::Groups;

use crate::Error;

/// How many elements of scratch memory go where.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scratch {
    /// The elements for the sums of one part, and for the sums of all parts.
    pub(crate) partial: usize,
    pub(crate) partials: usize,
    /// The elements that a task needs beside the sums.
    pub(crate) work: usize,
}

impl Scratch {
    /// Of `T`, the lengths depend on `T::Float` alone.
    pub(crate) fn new<T: Element>(parts: &Parts, centered: bool) -> Option<Self> {
        let partial = parts.partial_len::<T>(centered)?;
        let partials = partial.checked_mul(parts.count())?;
        Some(Self { partial, partials, work: parts.work_len::<T>(centered)? })
    }

    /// For the gradients of gated rows, which are computed in f32.
    pub(crate) fn gated(parts: &Parts, centered: bool) -> Option<Self> {
        Some(Self { work: parts.gate_work_len(centered)?, ..Self::new::<f32>(parts, centered)? })
    }

    /// For the gradients of rows whose channels come first.
    pub(crate) fn channels<T: Element>(parts: &Parts, centered: bool) -> Option<Self> {
        Some(Self { work: parts.channels_work_len::<T>(centered)?, ..Self::new::<T>(parts, centered)? })
    }

    /// The elements of all scratch memory, for `tasks` tasks.
    pub(crate) fn total(&self, tasks: usize) -> Option<usize> {
        self.work.checked_mul(tasks)?.checked_add(self.partials)
    }
}

/// The parts of the rows of each group, and the memory that they take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GroupParts {
    /// Of each group but the last.
    first: (Parts, Scratch),
    last: (Parts, Scratch),
}

impl GroupParts {
    /// Those of `rows` rows of `cols` columns, which the groups divide. `lens` gives the memory. `None` on overflow.
    pub(crate) fn new(
        groups: Groups,
        (rows, cols): (usize, usize),
        lens: impl Fn(&Parts) -> Option<Scratch>,
    ) -> Option<Self> {
        let of = |group| {
            let parts = Parts::new(groups.rows_of(group, rows), cols);
            lens(&parts).map(|lens| (parts, lens))
        };
        Some(Self { first: of(0)?, last: of(groups.groups() - 1)? })
    }

    /// Those of a group.
    pub(crate) fn of(&self, groups: Groups, group: usize) -> &(Parts, Scratch) {
        if group + 1 == groups.groups() { &self.last } else { &self.first }
    }

    /// Memory in which each group has room.
    pub(crate) fn room(&self) -> Scratch {
        let (Self { first: (_, a), last: (_, b) }, most) = (self, |a: usize, b: usize| a.max(b));
        Scratch {
            partial: most(a.partial, b.partial),
            partials: most(a.partials, b.partials),
            work: most(a.work, b.work),
        }
    }

    /// The most parts of a group.
    pub(crate) fn most(&self) -> usize {
        self.first.0.count().max(self.last.0.count())
    }
}

/// Memory for the work of threads, for callers to whom it never fails.
pub(crate) fn allocate<T: Clone>(len: usize, of: T) -> Result<Vec<T>, Error> {
    Ok(vec![of; len])
}
