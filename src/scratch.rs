//! The scratch memory of backward calls.

use lanenorm_kernels::Element;
use lanenorm_kernels::ops::backward::Parts;

/// How many elements of scratch memory go where.
pub(crate) struct Scratch {
    /// The sums of one part, and those of all.
    pub(crate) partial: usize,
    pub(crate) partials: usize,
    /// What a task needs beside them.
    pub(crate) work: usize,
}

impl Scratch {
    /// They depend on the type that is computed in alone.
    pub(crate) fn new<T: Element>(parts: &Parts, centered: bool) -> Option<Self> {
        let partial = parts.partial_len::<T>(centered)?;
        let partials = partial.checked_mul(parts.count())?;
        Some(Self { partial, partials, work: parts.work_len::<T>(centered)? })
    }

    /// The elements of all scratch memory, for `tasks` tasks.
    pub(crate) fn total(&self, tasks: usize) -> Option<usize> {
        self.work.checked_mul(tasks)?.checked_add(self.partials)
    }
}
