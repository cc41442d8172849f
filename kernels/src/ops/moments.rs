//! The moments of rows.

use crate::element::Storage;
use crate::error::Error;
use crate::isa::Isa;
use crate::loops::WholeRow;
use crate::mean::{Center, Mean};
use crate::rows::{Params, Source};
use crate::stats::{Moments, exact, is_slow_scale};

/// The moments of a row, or of a part of it that starts at a multiple of [`CHUNK`](crate::stats::CHUNK) elements and
/// that [`split_point`](crate::stats::split_point) has cut off. Parts are merged in the order in which they were cut.
#[derive(Clone, Copy, Debug)]
pub struct RowMoments<'a, T> {
    /// The elements.
    pub x: &'a [T],
    /// If true, deviations from the mean are squared, as layer normalization needs it. If false, the elements are
    /// squared, and origin and offset are zero.
    pub centered: bool,
    /// `None` for the fast sums. Otherwise the elements are multiplied by this power of two, and summed on the slow
    /// path.
    pub(crate) scale: Option<f64>,
}

impl<'a, T: Storage> RowMoments<'a, T> {
    /// The moments of these elements, by the fast sums.
    pub fn new(x: &'a [T], centered: bool) -> Self {
        Self { x, centered, scale: None }
    }

    /// The same on the slow path, which is right for every finite element: of the elements times a power of two that
    /// [`Moments::rescale`] has given for `T`.
    ///
    /// # Errors
    /// If the scale is another number. Moments at such a scale belong to no row: see [`Moments::are_of`].
    pub fn at_scale(self, scale: f64) -> Result<Self, Error> {
        if is_slow_scale::<T>(scale) {
            Ok(Self { scale: Some(scale), ..self })
        } else {
            Err(Error::Scale { scale, dtype: T::DTYPE.name() })
        }
    }

    /// The same of other elements: a part of these, say.
    pub fn of(self, x: &'a [T]) -> Self {
        Self { x, ..self }
    }

    #[inline(never)]
    pub(crate) fn run_here<M: Center>(self, isa: Isa) -> Moments {
        let Self { x, centered, .. } = self;
        // SAFETY: the slice has as many elements, and is not empty.
        unsafe {
            isa.run(WholeRow::<T, M, Params<'_, T>>::moments(&Source::from(x).into(), x.len(), Mean::new(centered))).0
        }
    }

    /// The moments at a scale, on the slow path.
    #[inline(always)]
    pub(crate) fn run_exactly(self, isa: Isa, scale: f64) -> Moments {
        // SAFETY: the slice has as many elements, and is not empty.
        unsafe { exact::moments(isa, Source::from(self.x), self.x.len(), scale, self.centered) }
    }
}
