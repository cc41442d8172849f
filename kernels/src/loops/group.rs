//! Rows that are groups of channels: gamma and beta are those of a channel for as many elements as it has pixels.

use core::marker::PhantomData;

use super::affine::{AffineRow, Operands};
use super::gamma_beta::{ChannelRoom, GammaBeta};
use super::normalize::{KnownRow, NormRegs};
use crate::element::Storage;
use crate::gate::Function;
use crate::isa::Isa;
use crate::mean::{Center, Mean};
use crate::rows::{Source, Target, Vector, way};
use crate::simd::{Float, Functions, Kernel, Lanes};
use crate::stats::RowNorm;

/// Some elements of a group whose statistics are known, to be normalized. Whoever makes it knows that x, y and the
/// channels are there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GroupPiece<'a, T: Storage> {
    /// The first of these elements.
    pub(crate) x: *const T,
    pub(crate) y: *mut T,
    /// Whether y is f32 beside 16 bits.
    pub(crate) is_wide: bool,
    /// The elements of the group before these.
    pub(crate) at: usize,
    pub(crate) len: usize,
    /// The elements of a channel.
    pub(crate) pixels: usize,
    /// An element for each channel of the group.
    pub(crate) gamma: Option<Vector<'a, T>>,
    pub(crate) beta: Option<Vector<'a, T>>,
    pub(crate) norm: RowNorm<T::Float>,
    pub(crate) streaming: bool,
}

impl<T: Storage> GroupPiece<'_, T> {
    /// Writes gamma and beta of the channels from `channel` on.
    pub(crate) fn gammas_betas(&self, channel: usize, [gammas, betas]: [&mut [T::Float]; 2]) {
        match self.gamma {
            Some(gamma) => gamma.copy_to(channel, gammas),
            None => gammas.fill(T::Float::from_f64(1.0)),
        }
        match self.beta {
            Some(beta) => beta.copy_to(channel, betas),
            None => betas.fill(-T::Float::default()),
        }
    }
}

/// gamma and beta of as many channels are read at a time.
const CHANNELS: usize = 32;

/// Normalizes a piece, channel by channel.
pub(crate) fn run_group<T: Storage, M: Center>(piece: &mut GroupPiece<'_, T>, isa: Isa) {
    let mut gammas_betas = [[T::Float::default(); CHANNELS]; 2];
    let (mut channel, mut n) = (piece.at / piece.pixels, piece.pixels - piece.at % piece.pixels);
    let mut done = 0;
    while done < piece.len {
        let left = piece.len - done;
        n = n.min(left);
        let channels = 1 + (left - n).div_ceil(piece.pixels).min(CHANNELS - 1);
        let [gammas, betas] = &mut gammas_betas;
        let (gammas, betas) = (&mut gammas[..channels], &mut betas[..channels]);
        piece.gammas_betas(channel, [gammas, betas]);
        done = isa.run(Channels::<T, M> { piece, gammas, betas, done, n, center: PhantomData });
        channel += channels;
        n = piece.pixels;
    }
}

/// Normalizes some channels of a piece: the elements from `done` on, `n` of the first channel. Returns where they end.
struct Channels<'p, 'a, T: Storage, M> {
    piece: &'p GroupPiece<'a, T>,
    gammas: &'p [T::Float],
    betas: &'p [T::Float],
    done: usize,
    n: usize,
    center: PhantomData<M>,
}

impl<T: Storage, M: Center> Kernel for Channels<'_, '_, T, M> {
    type Output = usize;

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) -> usize {
        let Self { piece, gammas, betas, mut done, mut n, .. } = self;
        let &GroupPiece { x, y, is_wide, len, pixels, norm, streaming, .. } = piece;
        let mut room = ChannelRoom::<T>::new();
        let mean = Mean::<M>::new(true);
        let regs = NormRegs::new(simd, &norm, mean);
        for (&gamma, &beta) in gammas.iter().zip(betas) {
            // SAFETY: there are these elements. The room is not written while it is read.
            unsafe {
                let (x, y) = (Source::of(x).after(done), Target::new(y, is_wide, streaming).after(done));
                if streaming {
                    let epilogue = AffineRow::new(GammaBeta::of_channel(simd, gamma, beta, &mut room), y);
                    KnownRow { mean, x, norm, epilogue }.normalize(simd, n);
                } else if is_wide {
                    normalize_channel::<S, T, M, true>(simd, x, y, n, &regs, [gamma, beta]);
                } else {
                    normalize_channel::<S, T, M, false>(simd, x, y, n, &regs, [gamma, beta]);
                }
                // Nothing else makes a NaN of an xhat that is known to be finite. Rounding to 16 bits may lose one.
                let [gamma, beta]: [f64; 2] = [gamma.into(), beta.into()];
                if !(gamma.is_finite() && beta.is_finite()) {
                    let is_nan = gamma.is_nan() || beta.is_nan();
                    y.canonicalize(n, |_| is_nan);
                }
            }
            done += n;
            n = pixels.min(len - done);
        }
        if streaming {
            simd.fence();
        }
        done
    }
}

/// Normalizes `n` elements of one channel, with ordinary stores. y is f32 beside 16 bits if `WIDE`.
///
/// # Safety
/// - x and y have these elements.
#[inline(always)]
unsafe fn normalize_channel<S: Lanes, T: Storage, M: Center, const WIDE: bool>(
    simd: S,
    x: Source<T>,
    y: Target<T>,
    n: usize,
    norm: &NormRegs<S, T::Float, M>,
    gamma_beta: [T::Float; 2],
) {
    let [gamma, beta] = gamma_beta.map(|v| [T::Float::splat(simd, v); 2]);
    let apply = |x| {
        let operands = Operands::<S, T>::new(gamma, beta);
        norm.apply::<T, AffineRow<T>, { way::OFFSET }>(simd, x, operands)
    };
    let pair = 2 * T::Float::lanes::<S>();
    // A last pair may overlap others, but not where y is x, whose elements are needed.
    let overlaps = n >= pair && !core::ptr::eq(x.as_ptr(), y.as_mut_ptr());
    let mut i = 0;
    // SAFETY: the caller's duty.
    unsafe {
        loop {
            while i + pair <= n {
                let v = apply(x.load(simd, i));
                if WIDE {
                    y.store::<S, { way::GENERAL }>(simd, i, v);
                } else {
                    y.store::<S, { way::OFFSET }>(simd, i, v);
                }
                i += pair;
            }
            if i >= n {
                return;
            }
            if !overlaps {
                return y.store_tail(simd, i, n - i, apply(x.load_tail(simd, i, n - i, norm.hi)));
            }
            i = n - pair;
        }
    }
}

/// Puts `n` elements through a function. Whoever makes it knows that they are there.
pub(crate) struct Activate<F> {
    pub(crate) v: *mut F,
    pub(crate) n: usize,
    pub(crate) function: Function,
}

impl<F: Functions> Kernel for Activate<F> {
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

impl<F: Functions> Activate<F> {
    #[inline(always)]
    fn by<S: Lanes, const FUNCTION: u8>(self, simd: S) {
        let Self { v, n, .. } = self;
        let lanes = F::lanes::<S>();
        let mut pad = [F::default(); LANES];
        for i in (0..n).step_by(lanes) {
            let len = lanes.min(n - i);
            // SAFETY: whoever made this knew that the elements are there. The pad has place for a register.
            unsafe {
                let given = v.add(i);
                let p = padded(given, len, lanes, &mut pad);
                F::store(simd, p, activated::<S, F, FUNCTION>(simd, F::load(simd, p)));
                if len < lanes {
                    given.copy_from_nonoverlapping(p, len);
                }
            }
        }
    }
}

/// The elements of the widest register.
const LANES: usize = 16;

/// `len` elements, or a copy of them in a pad if they are fewer than a register. One way for both makes less code.
///
/// # Safety
/// - There are these elements.
#[inline(always)]
unsafe fn padded<F: Copy>(given: *mut F, len: usize, lanes: usize, pad: &mut [F; LANES]) -> *mut F {
    if len == lanes {
        return given;
    }
    // SAFETY: the caller's duty, and `len < lanes`.
    unsafe { pad.as_mut_ptr().copy_from_nonoverlapping(given, len) };
    pad.as_mut_ptr()
}

#[inline(always)]
fn activated<S: Lanes, F: Functions, const FUNCTION: u8>(simd: S, z: F::Reg<S>) -> F::Reg<S> {
    match FUNCTION {
        SILU => F::silu(simd, z),
        SIGMOID => F::sigmoid(simd, z),
        _ => F::gelu_tanh(simd, z),
    }
}

/// Multiplies numbers by the derivative of a function at others: dy becomes the gradient of n.
pub(crate) struct Derive<'a, F> {
    dy: &'a mut [F],
    n: &'a [F],
    function: Function,
}

impl<'a, F: Float> Derive<'a, F> {
    /// # Panics
    /// If there are not as many of both.
    pub(crate) fn new(dy: &'a mut [F], n: &'a [F], function: Function) -> Self {
        assert_eq!(dy.len(), n.len(), "dy and n");
        Self { dy, n, function }
    }

    /// Runs this for f32 or f64.
    pub(crate) fn run_on(self, isa: Isa) {
        let (dy, n, len, function) = (self.dy.as_mut_ptr(), self.n.as_ptr(), self.n.len(), self.function);
        if size_of::<F>() == size_of::<f64>() {
            isa.run(DeriveAt::<f64> { dy: dy.cast(), n: n.cast(), len, function });
        } else {
            isa.run(DeriveAt::<f32> { dy: dy.cast(), n: n.cast(), len, function });
        }
    }
}

/// The same by pointers. Whoever makes it knows that the elements are there.
struct DeriveAt<F> {
    dy: *mut F,
    n: *const F,
    len: usize,
    function: Function,
}

impl<F: Functions> Kernel for DeriveAt<F> {
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

impl<F: Functions> DeriveAt<F> {
    #[inline(always)]
    fn by<S: Lanes, const FUNCTION: u8>(self, simd: S) {
        let Self { dy, n, len: all, .. } = self;
        let lanes = F::lanes::<S>();
        let mut pads = [[F::default(); LANES]; 2];
        let [pad, n_pad] = &mut pads;
        for i in (0..all).step_by(lanes) {
            let len = lanes.min(all - i);
            // SAFETY: whoever made this knew that the elements are there. The pads have place for a register.
            unsafe {
                let given = dy.add(i);
                let (p, n) = (padded(given, len, lanes, pad), padded(n.add(i).cast_mut(), len, lanes, n_pad));
                F::store(simd, p, derived::<S, F, FUNCTION>(simd, F::load(simd, p), F::load(simd, n)));
                if len < lanes {
                    given.copy_from_nonoverlapping(p, len);
                }
            }
        }
    }
}

/// dy times the derivative of the function at n.
#[inline(always)]
fn derived<S: Lanes, F: Functions, const FUNCTION: u8>(simd: S, dy: F::Reg<S>, n: F::Reg<S>) -> F::Reg<S> {
    let [_, derivative] = match FUNCTION {
        SILU => F::silu_with_derivative(simd, n),
        SIGMOID => F::sigmoid_with_derivative(simd, n),
        _ => F::gelu_tanh_with_derivative(simd, n),
    };
    F::times(simd, dy, derivative)
}
