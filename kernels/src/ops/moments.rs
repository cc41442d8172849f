//! The moments of rows.

use super::{Compiled, Element};
use crate::isa::Isa;
use crate::loops::WholeRow;
use crate::mean::{Center, Centered, Mean, Uncentered};
use crate::rows::Source;
use crate::simd::in_default_environment;
use crate::stats::{Moments, exact};

/// The moments of a row, or of a part of it that starts at a multiple of [`CHUNK`] elements and that
/// [`split_point`] has cut off. Parts are merged in the order in which they were cut.
#[derive(Clone, Copy, Debug)]
pub struct RowMoments<'a, T> {
    /// The elements.
    pub x: &'a [T],
    /// Whether squares are those of the deviations from the mean, as layer normalization needs them. Else they are
    /// those of the elements, and origin and offset are zero.
    pub centered: bool,
    /// `None` for the fast sums. Else they are taken on the slow path, right for every finite element, of elements
    /// times a power of two that [`Moments::rescale`] has given. (Moments at any other scale belong to no row: see
    /// [`Moments::are_of`].)
    pub scale: Option<f64>,
}

impl<T: Element> RowMoments<'_, T> {
    /// Does the job on one tier, on the calling thread.
    #[inline(never)]
    pub fn run_on(self, isa: Isa) -> Moments {
        if self.x.is_empty() {
            return Moments::EMPTY;
        }
        if let Some(scale) = self.scale {
            // SAFETY: the slice has as many elements, and is not empty.
            return in_default_environment(|| unsafe {
                exact::moments(isa, Source::from(self.x), self.x.len(), scale, self.centered)
            });
        }
        if self.centered {
            <T as Compiled<Centered>>::moments(self, isa)
        } else {
            <T as Compiled<Uncentered>>::moments(self, isa)
        }
    }

    #[inline(never)]
    pub(crate) fn run_here<M: Center>(self, isa: Isa) -> Moments {
        let Self { x, centered, .. } = self;
        // SAFETY: the slice has as many elements, and is not empty.
        unsafe { isa.run(WholeRow::<T, M>::moments(&Source::from(x).into(), x.len(), Mean::new(centered))).0 }
    }
}
