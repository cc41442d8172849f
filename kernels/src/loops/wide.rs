//! Rows of 16 bits that have not been rounded: they lie in f32, and all beside them is that of rows of 16 bits.

use super::epilogue::Epilogue;
use super::normalize::NormRegs;
use crate::element::{Format, Storage};
use crate::mean::{Either, Mean};
use crate::rows::way;
use crate::simd::{Float, Kernel, Lanes};
use crate::stats::RowNorm;

/// Normalizes elements in f32, with ordinary stores. Whoever makes it knows that there are `cols` elements, here and
/// in the epilogue, which does not stream.
pub(crate) struct WideRow<T: Storage, E> {
    pub(crate) x: *const f32,
    pub(crate) cols: usize,
    /// Whether rows have a mean.
    pub(crate) centered: bool,
    pub(crate) norm: RowNorm<T::Float>,
    pub(crate) epilogue: E,
}

impl<T: Storage, E: Epilogue<T>> Kernel for WideRow<T, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) {
        let Self { x, cols, centered, norm, epilogue, .. } = self;
        let norm = NormRegs::new(simd, &norm, Mean::<Either>::new(centered));
        let (x, pair) = (x.cast::<T>(), 2 * T::Float::lanes::<S>());
        let whole = cols - cols % pair;
        // SAFETY: whoever made this knew that the elements are there.
        unsafe {
            for i in (0..whole).step_by(pair) {
                let operands = epilogue.operands::<S, Either, { way::STEPS_GENERAL }>(simd, i, 0);
                let x = T::simd_load_beside(simd, x, Format::Wide, i);
                let v = norm.apply::<T, E, { way::STEPS_GENERAL }>(simd, x, operands);
                epilogue.store::<S, { way::STEPS_GENERAL }>(simd, i, v);
            }
            if whole < cols {
                let n = cols - whole;
                let operands = epilogue.operands_tail::<S, Either, { way::ALL }>(simd, whole, n);
                let x = T::simd_load_beside_tail(simd, x, Format::Wide, whole, n);
                let v = norm.apply::<T, E, { way::STEPS_GENERAL }>(simd, x, operands);
                epilogue.store_tail(simd, whole, n, v);
            }
        }
    }
}
