//! The gradients of gated normalizations.
//!
//! With f the function of the gate, and dy the gradient of y,
//!
//! ```text
//! after:    n = norm(x)          dn = dy * f(z)     dz = dy * n * f'(z)     dx, dgamma, dbeta: those of norm(x) for dn
//! before:   u = x * f(z)         du, dgamma, dbeta: those of norm(u) for dy
//!                                dx = du * f(z)     dz = du * x * f'(z)
//! ```
//!
//! which is the chain rule. Rows are widened to f32, and all that is between is f32: dx and dz are rounded once. Of the
//! roundings of a call there is that of gamma + offset alone. A few rows of a leaf are taken at a time, so that the
//! caches keep them from step to step. The sums over the rows are those of [`backward`](super::super::backward).

use core::marker::PhantomData;

use half::{bf16, f16};

use super::super::backward::{Backward, LEAF_ROWS, Parts, RunBackward, Stats, assert_len, assert_len_at_least};
use super::super::forward::{Forward, RunForward};
use super::super::mixed::{self, Room};
use super::{GELU_TANH, Gates, SIGMOID, SILU, canonical};
use crate::element::Kind;
use crate::error::Error;
use crate::gate::{Function, Gate, Side};
use crate::isa::Isa;
use crate::mean::Center;
use crate::rounding::Rounding;
use crate::rows::{Convert, GateGradRows, GradRows, Groups, LINE, Params, RawRows, RowIo};
use crate::simd::{Functions, Kernel, Lanes};
use crate::stats::StatsMut;

/// The elements of a row that are widened at a time for the functions of z.
const WIDENED: usize = 512;

/// The bytes of the rows that are taken at a time, unless the least number of rows has more.
const TOGETHER_BYTES: usize = 256 << 10;

/// The job of taking the gradients of some gated rows, which are some parts of all rows: see [`Parts`].
#[derive(Debug)]
pub struct GatedBackward<'a, M: Center> {
    rows: GateGradRows<'a>,
    params: Params<'a, f32>,
    eps: f64,
    gate: Gate,
    sums: bool,
    parts: Parts,
    center: PhantomData<M>,
}

/// What runs the jobs that the gradients are made of.
type Runs<M> = (RunForward<f32, M>, RunBackward<f32, M>);

/// The rows that are taken at a time, which are rows of one leaf.
fn together(cols: usize) -> usize {
    let fit = TOGETHER_BYTES / (2 * size_of::<f32>()) / cols.max(1);
    // A power of two, which divides a leaf. Backward takes rows by two.
    1 << fit.clamp(2, LEAF_ROWS).ilog2()
}

impl Parts {
    /// The elements of memory that a thread takes to work on the gradients of gated rows. `None` on overflow.
    pub fn gate_work_len(&self, centered: bool) -> Option<usize> {
        let rooms = (2 * together(self.cols)).checked_mul(self.cols)?;
        // Whole cache lines, as all lengths are.
        self.work_len::<f32>(centered)?.checked_add(rooms.checked_next_multiple_of(LINE / size_of::<f32>())?)
    }
}

impl<'a, M: Center> GatedBackward<'a, M> {
    /// The job for all of `rows`, which make parts of their own: [`Parts::new`] of `rows.rows()`. The gradients of
    /// gamma and beta are taken if `sums`. The gamma and the beta of `params` are those of the rows' group; its groups
    /// are not looked at.
    ///
    /// # Errors
    /// If
    /// - gamma or beta does not have an element for each column, or they are of two types,
    /// - nothing is wanted, neither dx nor dz nor sums, or
    /// - eps is negative, infinite or NaN.
    pub fn new(
        rows: GateGradRows<'a>,
        params: Params<'a, f32>,
        eps: f64,
        gate: Gate,
        sums: bool,
    ) -> Result<Self, Error> {
        // Without gradients of roundings, all that is left is where gamma + offset is rounded.
        let rounding = Rounding { gamma: params.rounding.gamma, ..Rounding::ONCE };
        let params = Params { groups: Groups::ONE, rounding, ..params };
        params.fit(rows.rows(), rows.cols())?;
        if !rows.has_dx() && !rows.has_dz() && !sums {
            return Err(Error::NoGradient);
        }
        params.root(M::CENTERED, eps)?;
        let parts = Parts::new(rows.rows(), rows.cols());
        Ok(Self { rows, params, eps, gate, sums, parts, center: PhantomData })
    }

    /// The number of parts.
    pub fn parts(&self) -> usize {
        self.rows.rows().div_ceil(self.parts.part_rows())
    }

    /// The job for the first `parts` parts, and the job for the rest. If there are fewer parts, the first job has them
    /// all.
    pub fn split_at_part(self, parts: usize) -> (Self, Self) {
        let (a, b) = self.rows.split_at(parts.saturating_mul(self.parts.part_rows()));
        (Self { rows: a, ..self }, Self { rows: b, ..self })
    }

    /// Runs the job, unless it has no rows or no columns, by `runs` for the jobs that it is made of.
    // Not inlined: see `in_default_environment`.
    #[inline(never)]
    pub(crate) fn run_here(&mut self, isa: Isa, runs: Runs<M>, partials: &mut [f32], work: &mut [f32]) {
        let (rows, cols) = (self.rows.rows(), self.rows.cols());
        if rows == 0 || cols == 0 {
            return;
        }
        let len = self.parts.partial_len::<f32>(M::CENTERED);
        if self.sums {
            assert_len("partials", partials.len(), len.and_then(|len| len.checked_mul(self.parts())));
        }
        assert_len_at_least("work", work.len(), self.parts.gate_work_len(M::CENTERED));
        let (len, of_backward) = (len.unwrap_or(0), self.parts.work_len::<f32>(M::CENTERED).unwrap_or(0));
        let (work, rooms) = work.split_at_mut(of_backward);
        let together = together(cols);
        let (wide, gradients) = rooms.split_at_mut(together * cols);
        for r in (0..rows).step_by(together) {
            let n = together.min(rows - r);
            let partial = if self.sums { &mut partials[r / self.parts.part_rows() * len..][..len] } else { &mut [] };
            self.take((isa, runs), r, [&mut wide[..n * cols], &mut gradients[..n * cols]], partial, work);
        }
    }

    /// Takes the rows from `r` on that the rooms have place for: `wide` for what is normalized, and `gradients` for its
    /// gradients, before and behind the normalization.
    #[inline(never)]
    fn take(
        &mut self,
        (isa, (forward, backward)): (Isa, Runs<M>),
        r: usize,
        [wide, gradients]: [&mut [f32]; 2],
        partial: &mut [f32],
        work: &mut [f32],
    ) {
        let &mut Self { gate: Gate { function, side }, params, eps, sums, parts, .. } = self;
        let (all, cols) = (self.rows.rows(), self.rows.cols());
        let rows = wide.len() / cols;
        let (has_dx, has_dz) = (self.rows.has_dx(), self.rows.has_dz());
        let is_before = side == Side::Before;
        for (i, (x, g)) in wide.chunks_mut(cols).zip(gradients.chunks_mut(cols)).enumerate() {
            // SAFETY: there are these rows, and the rooms have place for one each.
            unsafe {
                let row = self.rows.row(r + i);
                widen(isa, row.x, x.as_mut_ptr(), cols);
                if is_before {
                    Gates { isa, function, z: row.z }.multiply(x.as_mut_ptr(), 0, 0, cols);
                    widen(isa, row.dy, g.as_mut_ptr(), cols);
                }
            }
        }
        let mut stats = [[0.0; LEAF_ROWS]; 3];
        let [mean, mean_lo, rstd] = stats.each_mut().map(|s| &mut s[..rows]);
        if !is_before {
            if has_dz {
                let stats = StatsMut { mean: Some(mean), mean_lo: Some(mean_lo), rstd: Some(rstd) };
                let io = RowIo::new(wide, cols, gradients, cols, rows, cols);
                match io.and_then(|io| Forward::<f32, M>::checked(io, params, eps, false, stats)) {
                    Ok(mut job) => forward(&mut job, isa),
                    Err(error) => unreachable!("the lengths have been checked: {error}"),
                }
            }
            for (i, g) in gradients.chunks_mut(cols).enumerate() {
                // SAFETY: there are these rows.
                unsafe {
                    let row = self.rows.row(r + i);
                    touch(isa, function, side, g, row.dy, row.z, row.dz);
                }
            }
        }
        let wants_dx = has_dx || is_before && has_dz;
        if wants_dx || sums {
            let [mean, mean_lo, rstd] = stats.each_ref().map(|s| &s[..rows]);
            let stats = match (!is_before && has_dz, M::CENTERED) {
                (false, _) => Stats::default(),
                (true, true) => Stats { mean: Some(mean), mean_lo: Some(mean_lo), rstd: Some(rstd) },
                (true, false) => Stats { rstd: Some(rstd), ..Stats::default() },
            };
            let x = (&*wide, cols);
            let grad_rows = if wants_dx {
                GradRows::in_place((&mut *gradients, cols), x, rows, cols)
            } else {
                GradRows::new((&*gradients, cols), x, rows, cols)
            };
            let job = grad_rows.and_then(|rows| Backward::<f32, M>::new(rows, stats, params, eps, sums, false));
            match job {
                Ok(job) => {
                    let is_open = r + rows < all && !(r + rows).is_multiple_of(parts.part_rows());
                    backward(&mut job.within(&parts, r % parts.part_rows(), is_open), partial, work, isa);
                }
                Err(error) => unreachable!("the lengths have been checked: {error}"),
            }
        }
        for (i, g) in gradients.chunks_mut(cols).enumerate() {
            // SAFETY: there are these rows.
            unsafe {
                let row = self.rows.row(r + i);
                if is_before && wants_dx {
                    touch(isa, function, side, g, row.x, row.z, row.dz);
                }
                if let Some(dx) = row.dx {
                    let wide = RawRows { p: g.as_mut_ptr(), stride: cols, kind: Kind::Own };
                    mixed::write(isa, dx, wide, 1, cols);
                }
            }
        }
    }
}

/// Widens a row to f32.
///
/// # Safety
/// - There are `n` elements, and as many at `to`, which is apart.
unsafe fn widen(isa: Isa, row: RawRows<f32>, to: *mut f32, n: usize) {
    match row.kind {
        Kind::F16 => isa.run(Convert::<f16>::of(row.p.cast(), to, n, true)),
        Kind::Bf16 => isa.run(Convert::<bf16>::of(row.p.cast(), to, n, true)),
        // SAFETY: the caller's duty.
        Kind::Own | Kind::F32 => unsafe { to.copy_from_nonoverlapping(row.p, n) },
    }
}

/// Goes over one row with [`Touch`]. After the normalization, `v` is n and the factors are dy; before it, `v` is du and
/// the factors are x.
///
/// # Safety
/// - There is such a row of each, with as many elements.
unsafe fn touch(
    isa: Isa,
    function: Function,
    side: Side,
    v: &mut [f32],
    factors: RawRows<f32>,
    z: RawRows<f32>,
    dz: Option<RawRows<f32>>,
) {
    let mut rooms = [const { Room::<WIDENED>::NEW }; 3];
    let [factors_room, z_room, dz_room] = rooms.each_mut().map(Room::as_mut_ptr);
    let from = |row: RawRows<f32>, at: usize| {
        // SAFETY: the caller's duty.
        RawRows { p: unsafe { row.kind.at(row.p, at) }.cast_mut(), ..row }
    };
    for (i, v) in v.chunks_mut(WIDENED).enumerate() {
        let (at, n) = (i * WIDENED, v.len());
        // SAFETY: the caller's duty; the rooms have place for `n` elements.
        unsafe {
            widen(isa, from(factors, at), factors_room, n);
            widen(isa, from(z, at), z_room, n);
            isa.run(Touch { v: v.as_mut_ptr(), factors: factors_room, z: z_room, dz: dz_room, n, function, side });
            if let Some(dz) = dz {
                let wide = RawRows { p: dz_room, stride: n, kind: Kind::Own };
                mixed::write(isa, from(dz, at), wide, 1, n);
            }
        }
    }
}

/// Takes the gradients of a product with a gate, with canonical NaNs: dz = v * factor * f'(z), and v becomes
/// factor * f(z) after the normalization, and v * f(z) before it. Whoever makes it knows that the elements are there.
struct Touch {
    v: *mut f32,
    factors: *const f32,
    z: *const f32,
    dz: *mut f32,
    n: usize,
    function: Function,
    side: Side,
}

impl Kernel for Touch {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) {
        match self.function {
            Function::Silu => self.by::<S, SILU>(simd),
            Function::Sigmoid => self.by::<S, SIGMOID>(simd),
            Function::GeluTanh => self.by::<S, GELU_TANH>(simd),
        }
    }
}

impl Touch {
    #[inline(always)]
    fn by<S: Lanes, const FUNCTION: u8>(self, simd: S) {
        let Self { v, factors, z, dz, n, side, .. } = self;
        let is_after = side == Side::After;
        let (lanes, zero) = (S::F32_LANES, simd.splat_f32s(0.0));
        // SAFETY: whoever made this knew that the elements are there.
        unsafe {
            let whole = if S::SPECIALIZES { n - n % lanes } else { 0 };
            for i in (0..whole).step_by(lanes) {
                let elements = [simd.load(v.add(i)), simd.load(factors.add(i)), simd.load(z.add(i))];
                let [v_i, dz_i] = step::<S, FUNCTION>(simd, elements, is_after);
                simd.store(v.add(i), v_i);
                simd.store(dz.add(i), dz_i);
            }
            for i in (whole..n).step_by(lanes) {
                let left = lanes.min(n - i);
                let (v, factors, z, dz) = (v.add(i), factors.add(i), z.add(i), dz.add(i));
                let elements =
                    [simd.load_tail(v, left, zero), simd.load_tail(factors, left, zero), simd.load_tail(z, left, zero)];
                let [v_i, dz_i] = step::<S, FUNCTION>(simd, elements, is_after);
                simd.store_tail(v, left, v_i);
                simd.store_tail(dz, left, dz_i);
            }
        }
    }
}

/// What becomes of v, and dz.
#[inline(always)]
fn step<S: Lanes, const FUNCTION: u8>(simd: S, [v, factor, z]: [S::f32s; 3], is_after: bool) -> [S::f32s; 2] {
    let [f, derivative] = with_derivative::<S, FUNCTION>(simd, z);
    let dz = simd.mul_f32s(simd.mul_f32s(v, factor), derivative);
    let v = simd.mul_f32s(if is_after { factor } else { v }, f);
    [canonical(simd, v), canonical(simd, dz)]
}

/// The function of z, and its derivative.
#[inline(always)]
fn with_derivative<S: Lanes, const FUNCTION: u8>(simd: S, z: S::f32s) -> [S::f32s; 2] {
    match FUNCTION {
        SILU => f32::silu_with_derivative(simd, z),
        SIGMOID => f32::sigmoid_with_derivative(simd, z),
        GELU_TANH => f32::gelu_tanh_with_derivative(simd, z),
        _ => unreachable!("there are three functions"),
    }
}
