//! The affine epilogue: y = xhat * (gamma + offset) + beta.

use core::marker::PhantomData;
use core::ops::Range;

use super::epilogue::{Body, ColumnOperands, Epilogue, Epilogues, Successive};
use super::gamma_beta::{GammaBeta, PACKED_COLS, Packed, Steps};
use super::slow::NormalizeRow;
use super::wide::finish_in_steps;
use crate::element::{Pair, Storage};
use crate::isa::Isa;
use crate::mean::{Center, Centered, Mean};
use crate::rows::{Params, RowIo, Target, Vector, way};
use crate::simd::{Float, Kernel, Lanes, outline};
use crate::stats::exact::WideNorm;

/// Packing pays if at least this many rows share gamma and beta.
const PACKED_ROWS: usize = 4;

/// The affine epilogue of one row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AffineRow<T: Storage> {
    gamma_beta: GammaBeta<T>,
    y: Target<T>,
}

impl<T: Storage> AffineRow<T> {
    /// A row with this gamma and beta, which is written to `y`.
    #[inline(always)]
    pub(super) fn new(gamma_beta: GammaBeta<T>, y: Target<T>) -> Self {
        Self { gamma_beta, y }
    }

    /// gamma, beta and the offset, which have been given for rows of `cols` elements, and where y is.
    ///
    /// # Safety
    /// - gamma and beta have `cols` elements for `'a`.
    pub(crate) unsafe fn parts<'a>(&self, cols: usize) -> (Params<'a, T>, Target<T>) {
        // SAFETY: the caller's duty.
        (unsafe { self.gamma_beta.params(cols) }, self.y)
    }
}

/// gamma plus offset, and beta, of a pair of registers, and what is rounded before the end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operands<S: Lanes, T: Storage> {
    gamma_beta: [Pair<S, T>; 2],
    steps: Steps,
}

impl<S: Lanes, T: Storage> Operands<S, T> {
    /// Nothing is rounded before the end.
    #[inline(always)]
    pub(super) fn new(gamma: Pair<S, T>, beta: Pair<S, T>) -> Self {
        Self { gamma_beta: [gamma, beta], steps: Steps::NONE }
    }
}

impl<T: Storage> Epilogue<T> for AffineRow<T> {
    type Operands<S: Lanes> = Operands<S, T>;

    #[inline(always)]
    fn by_way<S: Lanes, M: Center, B: Body>(&self, body: B) -> B::Output {
        const fn has<T: Storage, B: Body>(way: u8) -> bool {
            let of_16_bits = way >= way::STEPS;
            B::WAYS >> way & 1 != 0 && (T::ROUNDS || !of_16_bits)
        }
        match self.gamma_beta.way::<S>(self.y) {
            way::PLAIN if !T::ROUNDS => body.run::<{ way::PLAIN }>(),
            way::AFFINE => body.run::<{ way::AFFINE }>(),
            way::GENERAL if const { has::<T, B>(way::GENERAL) } => body.run::<{ way::GENERAL }>(),
            way::STEPS if const { has::<T, B>(way::STEPS) } => body.run::<{ way::STEPS }>(),
            way::STEPS_OWN if const { has::<T, B>(way::STEPS_OWN) } => body.run::<{ way::STEPS_OWN }>(),
            way::STEPS_GENERAL if const { has::<T, B>(way::STEPS_GENERAL) } => body.run::<{ way::STEPS_GENERAL }>(),
            _ => body.run::<{ way::OFFSET }>(),
        }
    }

    #[inline(always)]
    unsafe fn operands<S: Lanes, M: Center, const WAY: u8>(&self, simd: S, i: usize, j: usize) -> Self::Operands<S> {
        let steps = match WAY {
            way::STEPS => self.gamma_beta.steps.and(Steps::XHAT),
            way::STEPS_OWN | way::STEPS_GENERAL => self.gamma_beta.steps,
            _ => Steps::NONE,
        };
        // SAFETY: the caller's duty.
        Operands { gamma_beta: unsafe { self.gamma_beta.load::<S, M, WAY>(simd, i, j) }, steps }
    }

    #[inline(always)]
    unsafe fn operands_tail<S: Lanes, M: Center, const WAYS: u8>(
        &self,
        simd: S,
        i: usize,
        n: usize,
    ) -> Self::Operands<S> {
        let steps = if T::ROUNDS && WAYS & !way::ONCE != 0 { self.gamma_beta.steps } else { Steps::NONE };
        // SAFETY: the caller's duty.
        Operands { gamma_beta: unsafe { self.gamma_beta.load_tail::<S, M>(simd, i, n) }, steps }
    }

    #[inline(always)]
    fn apply<S: Lanes, M: Center, const WAY: u8>(
        simd: S,
        mean: Mean<M>,
        xhat: Pair<S, T>,
        operands: Self::Operands<S>,
    ) -> Pair<S, T> {
        if WAY == way::PLAIN {
            return xhat;
        }
        let Operands { gamma_beta: [gamma, beta], steps } = operands;
        let scale = |xhat: Pair<S, T>, k: usize| {
            if mean.is_computed::<S>() {
                T::Float::fma(simd, xhat[k], gamma[k], beta[k])
            } else {
                T::Float::times(simd, xhat[k], gamma[k])
            }
        };
        if !steps.has(Steps::XHAT) {
            return [scale(xhat, 0), scale(xhat, 1)];
        }
        // SAFETY: as in `outline`.
        let round = |v| unsafe { T::simd_round(simd, v) };
        let xhat = round(xhat);
        let product = [T::Float::times(simd, xhat[0], gamma[0]), T::Float::times(simd, xhat[1], gamma[1])];
        // Storing rounds too, unless y is f32.
        let is_last = !mean.is_computed::<S>();
        let y_rounds = WAY == way::STEPS || WAY == way::STEPS_OWN;
        let product = if steps.has(Steps::PRODUCT) && !(is_last && y_rounds) { round(product) } else { product };
        if is_last {
            return product;
        }
        let y = [T::Float::plus(simd, product[0], beta[0]), T::Float::plus(simd, product[1], beta[1])];
        if steps.has(Steps::PRODUCT) && !y_rounds { round(y) } else { y }
    }

    #[inline(always)]
    unsafe fn store<S: Lanes, const WAY: u8>(self, simd: S, i: usize, v: Pair<S, T>) {
        // SAFETY: the caller's duty.
        unsafe { self.y.store::<S, WAY>(simd, i, v) };
    }

    #[inline(always)]
    unsafe fn store_tail<S: Lanes>(self, simd: S, i: usize, n: usize, v: Pair<S, T>) {
        // SAFETY: the caller's duty.
        unsafe { self.y.store_tail(simd, i, n, v) };
    }

    #[inline(always)]
    fn is_in_order(&self) -> bool {
        self.gamma_beta.is_in_order()
    }

    #[inline(always)]
    fn target(&self) -> Target<T> {
        self.y
    }

    #[inline(always)]
    fn to(self, y: Target<T>) -> Self {
        Self { y, ..self }
    }

    #[inline(always)]
    fn has_steps(&self) -> bool {
        self.gamma_beta.has_steps()
    }

    #[inline(always)]
    fn is_among<S: Lanes>(&self, ways: u8) -> bool {
        ways >> self.gamma_beta.way::<S>(self.y) & 1 != 0
    }

    #[inline(always)]
    unsafe fn after(self, i: usize) -> Self {
        // SAFETY: the caller's duty.
        unsafe { Self { gamma_beta: self.gamma_beta.after(i), y: self.y.after(i) } }
    }
}

impl<'a, T: Storage> Epilogues<T> for Params<'a, T> {
    type Row = AffineRow<T>;
    type Successive<'p> = AffineRows<'p, T>;
    type Room = Packed;

    #[inline(always)]
    fn room() -> Packed {
        Packed::nothing()
    }

    #[inline(always)]
    fn after(&self, rows: usize) -> Self {
        Self { groups: self.groups.after(rows), ..*self }
    }

    fn split_at_col(self, col: usize, cols: usize) -> (Self, Self) {
        let cut = |v: Option<Vector<'a, T>>| v.map(|v| (v.part(0, col), v.part(col, cols - col))).unzip();
        let ((gamma_a, gamma_b), (beta_a, beta_b)) = (cut(self.gamma), cut(self.beta));
        (Self { gamma: gamma_a, beta: beta_a, ..self }, Self { gamma: gamma_b, beta: beta_b, ..self })
    }

    #[inline(always)]
    fn of_row(&self, r: usize, cols: usize) -> Self {
        Params::of_row(self, r, cols)
    }

    #[inline(always)]
    fn to(&self, y: Target<T>) -> AffineRow<T> {
        AffineRow { gamma_beta: GammaBeta::new(self), y }
    }

    #[inline(always)]
    fn successive<'p>(
        &self,
        rows: &RowIo<'_, T>,
        range: Range<usize>,
        streaming: bool,
        room: &'p Packed,
    ) -> AffineRows<'p, T> {
        let grouped = self.differ();
        let together = if grouped { self.groups.repeat().min(range.len()) } else { range.len() };
        let packs = T::ROUNDS && together >= PACKED_ROWS && rows.cols() <= PACKED_COLS && !streaming;
        // Rows without gamma and beta read this, and change nothing of it.
        let nothing = GammaBeta::new(&Self { gamma: None, beta: None, ..*self });
        AffineRows { changes_at: range.start, grouped, packs, given: nothing, read: nothing, packed: room }
    }

    #[inline(always)]
    fn by_column<S: Lanes>(&self, simd: S, cols: usize, [factors, addends]: &mut ColumnOperands) {
        let gamma_beta = GammaBeta::new(self);
        let pair = 2 * T::Float::lanes::<S>();
        for i in (0..cols).step_by(pair) {
            // SAFETY: gamma and beta have `cols` elements, and there is room for a pair behind the columns.
            unsafe {
                let [gamma, beta] = gamma_beta.load_tail::<S, Centered>(simd, i, pair.min(cols - i));
                T::simd_store_beside::<S, false>(simd, factors.as_mut_ptr().cast::<T>(), true, i, gamma);
                T::simd_store_beside::<S, false>(simd, addends.as_mut_ptr().cast::<T>(), true, i, beta);
            }
        }
    }

    #[inline(always)]
    fn differ(&self) -> bool {
        !self.groups.are_one()
    }

    fn same_from(&self, r: usize) -> usize {
        self.groups.rows_from(r)
    }

    #[inline(always)]
    unsafe fn finish_exactly(&self, isa: Isa, rows: &mut RowIo<'_, T>, r: usize, streaming: bool, norm: WideNorm) {
        if T::ROUNDS && self.rounding.steps {
            return finish_in_steps(isa, *self, rows.part(r, 1).summed(), norm);
        }
        // SAFETY: the caller's duty.
        let (x, y) = unsafe { (rows.source(r), rows.target(r, streaming)) };
        // All have cols elements; x and y are the same or apart, as RowIo promises.
        isa.run(&NormalizeRow::new(x, y, rows.cols(), norm, self));
    }

    unsafe fn finish_nan(&self, rows: &mut RowIo<'_, T>, r: usize) {
        // SAFETY: the caller's duty.
        unsafe { rows.canonicalize(r, |_| true) };
    }

    /// Rounding to 16 bits may have lost a NaN that comes from gamma or beta, so gamma and beta are checked for NaNs
    /// too.
    #[cold]
    #[inline(never)]
    unsafe fn canonicalize(&self, rows: &mut RowIo<'_, T>, r: usize) {
        // SAFETY: the caller's duty.
        unsafe { rows.canonicalize(r, |i| self.gamma(i).into().is_nan() || self.beta(i).into().is_nan()) };
    }

    fn are_finite(&self) -> bool {
        Params::are_finite(self)
    }

    #[inline(always)]
    fn has_steps(&self) -> bool {
        T::ROUNDS && (self.rounding.steps || self.rounds_gamma())
    }
}

/// gamma and beta of successive rows. Beside rows of 16 bits they are packed where that pays.
#[derive(Debug)]
pub(crate) struct AffineRows<'p, T: Storage> {
    /// The next row whose gamma and beta may differ from `given`.
    changes_at: usize,
    grouped: bool,
    packs: bool,
    /// gamma and beta of the last row, as they are given and as they are read.
    given: GammaBeta<T>,
    read: GammaBeta<T>,
    packed: &'p Packed,
}

/// Takes gamma and beta of row `r`. Whoever makes it knows that the row is there, that it has `cols` columns, and that
/// nothing uses what was packed before.
struct Change<'c, 'p, 'a, T: Storage, M> {
    affines: &'c mut AffineRows<'p, T>,
    params: &'c Params<'a, T>,
    r: usize,
    cols: usize,
    center: PhantomData<M>,
}

impl<T: Storage, M: Center> Kernel for Change<'_, '_, '_, T, M> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) {
        let Self { affines, params, r, cols, .. } = self;
        let params = params.of_row(r, cols);
        let given = GammaBeta::new(&params);
        affines.changes_at = if affines.grouped { r + 1 } else { usize::MAX };
        if given.same(&affines.given) {
            return;
        }
        affines.given = given;
        affines.read = if affines.packs && given.packs() {
            // SAFETY: the columns fit where `packs` is set, and gamma and beta have `cols` elements, checked by the
            // constructor.
            unsafe { affines.packed.pack::<S, T, M>(simd, &given, cols) }
        } else {
            given
        };
    }
}

impl<T: Storage> Successive<T, Params<'_, T>> for AffineRows<'_, T> {
    #[inline(always)]
    unsafe fn row<S: Lanes, M: Center>(
        &mut self,
        simd: S,
        of: &Params<'_, T>,
        rows: &mut RowIo<'_, T>,
        r: usize,
        streaming: bool,
    ) -> AffineRow<T> {
        // SAFETY: the caller's duty.
        unsafe {
            if r >= self.changes_at {
                let change = Change { affines: self, params: of, r, cols: rows.cols(), center: PhantomData::<M> };
                // Packing is more code than a loop should have twice.
                if T::ROUNDS { outline(simd, change) } else { change.run(simd) }
            }
            AffineRow { gamma_beta: self.read, y: rows.target(r, streaming) }
        }
    }

    #[inline(always)]
    unsafe fn two_rows<S: Lanes, M: Center>(
        &mut self,
        simd: S,
        of: &Params<'_, T>,
        rows: &mut RowIo<'_, T>,
        r: usize,
        streaming: bool,
    ) -> [AffineRow<T>; 2] {
        // SAFETY: the caller's duty.
        unsafe {
            let row = self.row::<S, M>(simd, of, rows, r, streaming);
            [row, row.to(rows.target(r + 1, streaming))]
        }
    }
}
