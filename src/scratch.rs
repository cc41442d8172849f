//! The scratch memory of backward calls.

use lanenorm_kernels::Element;
use lanenorm_kernels::ops::backward::Parts;

use crate::Error;

/// How many elements of scratch memory go where.
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

/// Memory for the work of threads, for callers to whom it never fails.
pub(crate) fn allocate<T: Clone>(len: usize, of: T) -> Result<Vec<T>, Error> {
    Ok(vec![of; len])
}
