//! Normalization of gated rows, or gated normalization: see [`Gate`].
//!
//! ```text
//! after:    n = layer or RMS normalization of x, in f32,    y = n * function(z)
//! before:   u = x * function(z), in f32,                    y = layer or RMS normalization of u
//! ```
//!
//! What is between is in a room that an L1 cache keeps. The functions of z take longer than all else, so that rows are
//! not fused with their neighbours. Rows that are longer than the room are normalized piece by piece. A gate that
//! stands before is computed twice for these: for the moments, and again for what is normalized.

mod gradients;

use core::marker::PhantomData;

use half::{bf16, f16};

use super::forward::Forward;
use super::mixed::{self, Jobs, Room};
use super::unrounded::{self, PIECE, Rows, piece_len};
use crate::element::{Companion, Storage};
use crate::error::Error;
use crate::gate::{Function, Gate, Side};
use crate::isa::Isa;
use crate::loops::Epilogues;
use crate::mean::Center;
use crate::rows::{Convert, Params, RawRows, RowIo, check};
use crate::simd::{Functions, Kernel, Lanes};
use crate::stats::StatsMut;
use crate::table::Dtype;

pub use gradients::GatedBackward;

/// The elements of z that are widened at a time.
const WIDENED: usize = 1024;

/// The job of normalizing some rows with a gate.
#[derive(Debug)]
pub struct Gated<'a, T: Storage<Float = f32>, M: Center> {
    forward: Forward<'a, T, M>,
    gate: Gate,
    z: RawRows<T>,
    marker: PhantomData<&'a [T]>,
}

// SAFETY: Gated has a job and rows of z that are read, which are Send.
unsafe impl<T: Storage<Float = f32>, M: Center> Send for Gated<'_, T, M> {}

impl<'a, T: Storage<Float = f32>, M: Center> Gated<'a, T, M> {
    /// The job of normalizing `rows` with a gate that has as many rows of z, `stride` elements apart. z has any type
    /// that y may have.
    ///
    /// # Errors
    /// If
    /// - z does not have a row for each row, apart from the others,
    /// - the rows are sums that are yet to be taken, or
    /// - for the reasons of [`LayerNorm::new`](super::layer_norm::LayerNorm::new).
    pub fn new<Z: Companion<T>>(
        rows: RowIo<'a, T>,
        params: Params<'a, T>,
        eps: f64,
        stats: StatsMut<'a, f32>,
        gate: Gate,
        (z, stride): (&'a [Z], usize),
    ) -> Result<Self, Error> {
        check("z", z.len(), rows.rows(), rows.cols(), stride)?;
        let z = RawRows { p: z.as_ptr().cast_mut().cast(), stride, kind: Z::KIND };
        // SAFETY: the slice has these rows for 'a.
        unsafe { Self::from_raw(rows, params, eps, stats, gate, z) }
    }

    /// The same with a z that is given by a pointer.
    ///
    /// # Errors
    /// As for [`new`](Self::new), but for the rows of z.
    ///
    /// # Safety
    /// - z has a row for each row, valid for reads for `'a`, of the kind of a [`Companion`] of `T`. Nothing writes them
    ///   meanwhile.
    pub unsafe fn from_raw(
        rows: RowIo<'a, T>,
        params: Params<'a, T>,
        eps: f64,
        stats: StatsMut<'a, f32>,
        gate: Gate,
        z: RawRows<T>,
    ) -> Result<Self, Error> {
        if rows.is_sum() {
            return Err(Error::UntakenSum { what: "gate" });
        }
        let forward = Forward::checked(rows, params, eps, false, stats)?;
        Ok(Self { forward, gate, z, marker: PhantomData })
    }

    /// The job for the first `row` rows, and the job for the rest. If there are fewer rows, the first job has them all.
    pub fn split_at(self, row: usize) -> (Self, Self) {
        let Self { forward, gate, z, marker } = self;
        let moved = if row < forward.rows().rows() { row } else { 0 };
        let (a, b) = forward.split_at(row);
        // SAFETY: there is such a row, or nothing is moved.
        let rest = RawRows { p: unsafe { z.kind.at(z.p, moved * z.stride) }.cast_mut(), ..z };
        (Self { forward: a, gate, z, marker }, Self { forward: b, gate, z: rest, marker })
    }

    /// The rows.
    pub fn rows(&self) -> &RowIo<'a, T> {
        self.forward.rows()
    }

    /// Runs the job, which has rows and columns, through the loops for `L`.
    // Not inlined: see `in_default_environment`.
    #[inline(never)]
    pub(crate) fn run_here<L: Center>(&mut self, isa: Isa) {
        let &mut Self { ref mut forward, gate: Gate { function, side }, z, .. } = self;
        let job = forward.job();
        job.isa = isa;
        let loops = &const { unrounded::Loops::of_all::<L>() };
        let gates = Gates { isa, function, z };
        match side {
            Side::Before => unrounded::run_rows(job, isa, loops, &gates),
            Side::After if job.rows.cols() <= PIECE => after_short(job, loops.of_rows(), &gates),
            Side::After => after_long(job, loops.of_rows(), &gates),
        }
    }
}

/// The rows of a gate.
#[derive(Clone, Copy)]
struct Gates<T> {
    isa: Isa,
    function: Function,
    z: RawRows<T>,
}

impl<T: Storage> Gates<T> {
    /// Multiplies `n` elements in f32 by the function of the elements of z from element `at` of row `r` on.
    ///
    /// # Safety
    /// - Row `r` of z, or what follows it without a gap, has these elements, and `v` points to as many.
    unsafe fn multiply(&self, v: *mut f32, r: usize, at: usize, n: usize) {
        let &Self { isa, function, z } = self;
        let mut room = Room::<WIDENED>::NEW;
        let wide = room.as_mut_ptr();
        for i in (0..n).step_by(WIDENED) {
            let n = WIDENED.min(n - i);
            // SAFETY: the caller's duty; the room has place for these elements.
            unsafe {
                let p = z.kind.at(z.p, r * z.stride + at + i).cast_mut();
                let z = match z.kind.dtype::<T>() {
                    Dtype::F16 => {
                        isa.run(Convert::<f16>::of(p.cast(), wide, n, true));
                        wide.cast_const()
                    }
                    Dtype::Bf16 => {
                        isa.run(Convert::<bf16>::of(p.cast(), wide, n, true));
                        wide.cast_const()
                    }
                    Dtype::F32 | Dtype::F64 => p.cast_const().cast(),
                };
                isa.run(Multiply { v: v.add(i), z, n, function });
            }
        }
    }
}

impl<T: Storage> Rows<T> for Gates<T> {
    fn make(&self, job: &Jobs<'_, T>, r: usize, at: usize, room: &mut Room<PIECE>) {
        let (n, v) = (piece_len(job, at), room.as_mut_ptr());
        // SAFETY: there is such a row of x and of z, and the room has place for `n` elements.
        unsafe {
            let x = job.rows.source(r).after(at).as_ptr();
            if T::ROUNDS {
                self.isa.run(Convert::<T>::of(x.cast_mut(), v, n, true));
            } else {
                v.copy_from_nonoverlapping(x.cast(), n);
            }
            self.multiply(v, r, at, n);
        }
    }
}

/// Normalizes rows, as many at a time as the room has place for, and multiplies them by the gate.
#[inline(never)]
fn after_short<T: Storage<Float = f32>>(job: &mut Jobs<'_, T>, loops: &mixed::Loops<T>, gates: &Gates<T>) {
    let (mut room, isa) = (Room::<PIECE>::NEW, job.isa);
    let (rows, cols, z) = (job.rows.rows(), job.rows.cols(), gates.z);
    let together = (PIECE / cols).max(1);
    for at in (0..rows).step_by(together) {
        let n = together.min(rows - at);
        let mut part: Jobs<'_, T> = job.part(at, n);
        let (y, staged) = (part.rows.y(), mixed::staged(&mut room, cols));
        // SAFETY: the room has these rows, and nothing else uses it until they have been written.
        part.rows = unsafe { part.rows.with_y(staged) };
        mixed::run_any(&mut part, isa, loops);
        let p = staged.p.cast::<f32>();
        // SAFETY: there are these rows of z and of y.
        unsafe {
            if z.stride == cols {
                gates.multiply(p, at, 0, n * cols);
            } else {
                for r in 0..n {
                    gates.multiply(p.add(r * cols), at + r, 0, cols);
                }
            }
            mixed::write(isa, y, staged, n, cols);
        }
    }
}

/// Normalizes rows that are longer than the room.
#[inline(never)]
fn after_long<T: Storage<Float = f32>>(job: &mut Jobs<'_, T>, loops: &mixed::Loops<T>, gates: &Gates<T>) {
    let (mut room, isa, centered) = (Room::<PIECE>::NEW, job.isa, job.centered);
    for r in 0..job.rows.rows() {
        let known = mixed::know_row(job, isa, loops, r);
        let (mut params, mut at) = (job.epilogues.of_row(r, job.rows.cols()), 0);
        let mut row = job.rows.part(r, 1);
        while row.cols() > 0 {
            let all = row.cols();
            let (piece, rest) = row.split_at_col(PIECE);
            let cols = piece.cols();
            let (given, params_rest) = params.split_at_col(cols, all);
            (row, params) = (rest, params_rest);
            let (y, staged) = (piece.y(), mixed::staged(&mut room, cols));
            // SAFETY: the room has this piece, and nothing else uses it until it has been written. There are these
            // elements of z and of y.
            unsafe {
                mixed::finish(isa, centered, piece.with_y(staged), given, false, &known, Some(loops));
                gates.multiply(staged.p.cast(), r, at, cols);
                mixed::write(isa, y, staged, 1, cols);
            }
            at += cols;
        }
    }
}

/// Multiplies elements by a function of others, with canonical NaNs. Whoever makes it knows that the elements are
/// there.
struct Multiply {
    v: *mut f32,
    z: *const f32,
    n: usize,
    function: Function,
}

impl Kernel for Multiply {
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

// A number names the function: one that is handed over as a value would be compiled for no tier.
const SILU: u8 = 0;
const SIGMOID: u8 = 1;
const GELU_TANH: u8 = 2;

impl Multiply {
    #[inline(always)]
    fn by<S: Lanes, const FUNCTION: u8>(self, simd: S) {
        let Self { v, z, n, .. } = self;
        let (lanes, zero) = (S::F32_LANES, simd.splat_f32s(0.0));
        // Less code where speed is not the aim.
        let whole = if S::SPECIALIZES { n - n % (2 * lanes) } else { 0 };
        // SAFETY: whoever made this knew that the elements are there.
        unsafe {
            for i in (0..whole).step_by(2 * lanes) {
                let (a, b) = (v.add(i), v.add(i + lanes));
                let (z_a, z_b) = (simd.load(z.add(i)), simd.load(z.add(i + lanes)));
                let (y_a, y_b) =
                    (product::<S, FUNCTION>(simd, simd.load(a), z_a), product::<S, FUNCTION>(simd, simd.load(b), z_b));
                simd.store(a, y_a);
                simd.store(b, y_b);
            }
            for i in (whole..n).step_by(lanes) {
                let n = lanes.min(n - i);
                let (v_i, z_i) = (simd.load_tail(v.add(i), n, zero), simd.load_tail(z.add(i), n, zero));
                simd.store_tail(v.add(i), n, product::<S, FUNCTION>(simd, v_i, z_i));
            }
        }
    }
}

/// v times the function of z, with canonical NaNs.
#[inline(always)]
fn product<S: Lanes, const FUNCTION: u8>(simd: S, v: S::f32s, z: S::f32s) -> S::f32s {
    let factor = match FUNCTION {
        SILU => f32::silu(simd, z),
        SIGMOID => f32::sigmoid(simd, z),
        GELU_TANH => f32::gelu_tanh(simd, z),
        _ => unreachable!("there are three functions"),
    };
    canonical(simd, simd.mul_f32s(v, factor))
}

/// v, but the canonical NaN where it is a NaN.
#[inline(always)]
fn canonical<S: Lanes>(simd: S, v: S::f32s) -> S::f32s {
    simd.select_f32s(simd.equal_f32s(v, v), v, simd.splat_f32s(f32::NAN))
}
