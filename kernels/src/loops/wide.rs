//! Rows of 16 bits that have not been rounded: they lie in f32, and all beside them is that of rows of 16 bits.

use core::mem::MaybeUninit;

use super::epilogue::{Epilogue, Epilogues};
use super::normalize::NormRegs;
use super::slow::NormalizeRow;
use crate::element::{Format, Storage};
use crate::isa::Isa;
use crate::mean::{Either, Mean};
use crate::rows::{Params, RowIo, Target, way};
use crate::simd::{Float, Kernel, Lanes};
use crate::stats::exact::WideNorm;
use crate::stats::{CHUNK, RowNorm};

/// Normalizes elements in f32, with ordinary stores. One kernel is for rows with a mean and without one, for less code.
/// Whoever makes it knows that there are `cols` elements, here and in the epilogue, which does not stream.
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

/// Statistics that change nothing of an xhat.
pub(crate) fn unit_norm<F: Float>() -> RowNorm<F> {
    RowNorm { mean: F::ZERO, mean_lo: F::ZERO, rstd: F::from_f32(1.0) }
}

/// Normalizes the only row of `row` on the slow path, and rounds it [in steps](way::STEPS). xhat is rounded to f32
/// before.
#[cold]
#[inline(never)]
pub(super) fn finish_in_steps<T: Storage>(isa: Isa, mut params: Params<'_, T>, mut row: RowIo<'_, T>, norm: WideNorm) {
    let plain = Params::default().with_harmless_offset();
    let mut xhat = [MaybeUninit::<f32>::uninit(); CHUNK];
    let p = xhat.as_mut_ptr().cast::<f32>();
    while row.cols() > 0 {
        let all = row.cols();
        let (mut piece, rest) = row.split_at_col(CHUNK);
        let cols = piece.cols();
        let (given, params_rest) = params.split_at_col(cols, all);
        (row, params) = (rest, params_rest);
        // SAFETY: the piece has a row of `cols` elements, and there is room for as many.
        unsafe {
            isa.run(&NormalizeRow::new(piece.source(0), Target::wide(p.cast()), cols, norm, &plain));
            let epilogue = given.only_row(&mut piece, 0, false);
            isa.run(WideRow { x: p, cols, centered: true, norm: unit_norm(), epilogue });
        }
    }
}
