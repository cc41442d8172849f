//! Channels of f32 that lie side by side, as those of a tensor whose channels come last: a lane is a channel.
//!
//! A channel is a row here, and its elements are as far apart as pixels are. Chunks are whole channels, or parts of
//! one. Sums have the bits that they have where the elements of a channel lie side by side: the lanes of such a row are
//! 32 vectors of sums here, with an element for each channel, which are folded by halves.

use crate::simd::{Float, Kernel, Lanes, outline, rolled};
use crate::stats::CHUNK;

/// The sums of a row that lies by itself.
const LANES: usize = <f32 as Float>::LANES;

/// The pixels of which one after the other goes to the same sum, two by two.
const STEP: usize = 2 * LANES;

/// The length of a run of samples, and the distance between two runs.
const RUN: usize = STEP / 8;
const APART: usize = CHUNK / (STEP / RUN);

/// The fewest channels that may be lanes: those of the widest register.
pub(crate) const FEWEST_CHANNELS: usize = 16;

/// The elements of f32 that the sums of a chunk take, of `channels` channels.
pub(crate) fn sums_len(channels: usize) -> usize {
    2 * LANES * channels.next_multiple_of(FEWEST_CHANNELS)
}

/// Takes the shift, S and Q of each channel, of a chunk of pixels. Whoever makes it knows that the elements are there,
/// of as many channels as each of `to` has: [`FEWEST_CHANNELS`] or more.
pub(crate) struct ChannelSums<'s> {
    /// The first channel of the first pixel, and the distance between two pixels.
    pub(crate) x: *const f32,
    pub(crate) stride: usize,
    /// [`sums_len`] elements.
    pub(crate) room: &'s mut [f32],
    /// Where shift, S and Q go.
    pub(crate) to: [&'s mut [f32]; 3],
}

impl Kernel for ChannelSums<'_> {
    type Output = ();

    const PORTABLE: bool = false;

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) {
        let Self { x, stride, room, to: [c, s, q] } = self;
        let channels = c.len();
        assert!(s.len() == channels && q.len() == channels && channels >= FEWEST_CHANNELS);
        assert!(room.len() >= sums_len(channels));
        // Each register has a place of its own, also where the last has channels of the one before.
        let padded = channels.next_multiple_of(S::F32_LANES);
        let sums = room.as_mut_ptr();
        let squares = sums.wrapping_add(LANES * padded);
        let (c, s, q) = (c.as_mut_ptr(), s.as_mut_ptr(), q.as_mut_ptr());
        outline(simd, Samples { x, stride, channels, padded, sums, c });
        for i in (0..CHUNK).step_by(STEP) {
            let x = x.wrapping_add(i * stride);
            outline(simd, Step { x, stride, channels, padded, sums, squares, c, is_first: i == 0 });
        }
        outline(simd, FoldTo { sums, padded, channels, to: s });
        outline(simd, FoldTo { sums: squares, padded, channels, to: q });
    }
}

/// Where the register that begins at `i` of the padded channels begins.
#[inline(always)]
fn place<S: Lanes>(i: usize, channels: usize) -> usize {
    i.min(channels - S::F32_LANES)
}

/// Takes the shift of each channel. `sums` is room.
struct Samples {
    x: *const f32,
    stride: usize,
    channels: usize,
    padded: usize,
    sums: *mut f32,
    c: *mut f32,
}

impl Kernel for Samples {
    type Output = ();

    const PORTABLE: bool = false;

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) {
        let Self { x, stride, channels, padded, sums, c } = self;
        let inv_samples = simd.splat_f32s(1.0 / STEP as f32);
        // SAFETY: whoever made this knew that the elements are there.
        unsafe {
            for lane in 0..rolled(LANES) {
                let (of_a, of_b) = (lane, lane + LANES);
                let [a, b] = [of_a, of_b].map(|n| x.add((n / RUN * APART + n % RUN) * stride));
                for i in (0..padded).step_by(S::F32_LANES) {
                    let at = place::<S>(i, channels);
                    let (x0, a, b): (S::f32s, S::f32s, S::f32s) =
                        (simd.load(x.add(at)), simd.load(a.add(at)), simd.load(b.add(at)));
                    let pair = simd.add_f32s(simd.sub_f32s(a, x0), simd.sub_f32s(b, x0));
                    simd.store(sums.add(lane * padded + i), pair);
                }
            }
            outline(simd, FoldTo { sums, padded, channels, to: c });
            let mut i = 0;
            // Registers overlap here, and each is read from the folded sums.
            while i < padded {
                let at = place::<S>(i, channels);
                let (x0, sum): (S::f32s, S::f32s) = (simd.load(x.add(at)), simd.load(sums.add(i)));
                simd.store(c.add(at), simd.add_f32s(x0, simd.mul_f32s(sum, inv_samples)));
                i += S::F32_LANES;
            }
        }
    }
}

/// Adds a step of pixels to the sums.
struct Step {
    x: *const f32,
    stride: usize,
    channels: usize,
    padded: usize,
    sums: *mut f32,
    squares: *mut f32,
    c: *const f32,
    /// Whether there are no sums yet.
    is_first: bool,
}

impl Kernel for Step {
    type Output = ();

    const PORTABLE: bool = false;

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) {
        let Self { x, stride, channels, padded, sums, squares, c, is_first } = self;
        let zero = simd.splat_f32s(0.0);
        for lane in 0..rolled(LANES) {
            let (a, b) = (x.wrapping_add(lane * stride), x.wrapping_add((lane + LANES) * stride));
            let (sums, squares) = (sums.wrapping_add(lane * padded), squares.wrapping_add(lane * padded));
            for i in (0..padded).step_by(S::F32_LANES) {
                let at = place::<S>(i, channels);
                // SAFETY: whoever made this knew that the elements are there.
                unsafe {
                    let c: S::f32s = simd.load(c.add(at));
                    let (a, b) = (simd.sub_f32s(simd.load(a.add(at)), c), simd.sub_f32s(simd.load(b.add(at)), c));
                    let (s, q) =
                        if is_first { (zero, zero) } else { (simd.load(sums.add(i)), simd.load(squares.add(i))) };
                    simd.store(sums.add(i), simd.add_f32s(s, simd.add_f32s(a, b)));
                    simd.store(squares.add(i), simd.add_f32s(q, simd.fma(b, b, simd.mul_f32s(a, a))));
                }
            }
        }
    }
}

/// Folds the sums of all lanes by halves, and writes those of each channel.
struct FoldTo {
    sums: *mut f32,
    padded: usize,
    channels: usize,
    to: *mut f32,
}

impl Kernel for FoldTo {
    type Output = ();

    const PORTABLE: bool = false;

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) {
        let Self { sums, padded, channels, to } = self;
        let mut lanes = LANES;
        // SAFETY: whoever made this knew that the elements are there.
        unsafe {
            while lanes > 1 {
                lanes /= 2;
                for i in (0..lanes * padded).step_by(S::F32_LANES) {
                    let (a, b): (S::f32s, S::f32s) = (simd.load(sums.add(i)), simd.load(sums.add(lanes * padded + i)));
                    simd.store(sums.add(i), simd.add_f32s(a, b));
                }
            }
            for i in (0..padded).step_by(S::F32_LANES) {
                let v: S::f32s = simd.load(sums.add(i));
                simd.store(to.add(place::<S>(i, channels)), v);
            }
        }
    }
}

/// Normalizes pixels whose channels lie side by side, each channel with a mean, an rstd, a gamma and a beta of its own.
/// Whoever makes it knows that the elements are there.
pub(crate) struct ChannelsTouch<'n> {
    /// The first channel of the first pixel, and the distance between two pixels. y may be x.
    pub(crate) x: *const f32,
    pub(crate) y: *mut f32,
    pub(crate) stride: usize,
    /// A multiple of [`TOGETHER`].
    pub(crate) pixels: usize,
    /// [`FEWEST_CHANNELS`] or more.
    pub(crate) channels: usize,
    /// The mean of each channel, then what rounding took from it, rstd, gamma and beta.
    pub(crate) operands: &'n [f32],
}

/// The numbers of each channel.
const OPERANDS: usize = 5;

/// The pixels that are taken together, so that operands are loaded once for them.
const TOGETHER: usize = 4;

impl Kernel for ChannelsTouch<'_> {
    type Output = ();

    const PORTABLE: bool = false;

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) {
        let Self { x, y, stride, pixels, channels, operands } = self;
        let lanes = S::F32_LANES;
        assert!(operands.len() == OPERANDS * channels && channels >= FEWEST_CHANNELS);
        let operands = operands.as_ptr();
        assert!(pixels.is_multiple_of(TOGETHER));
        let last = channels - lanes;
        for p in (0..pixels).step_by(TOGETHER) {
            let (x, y) = (x.wrapping_add(p * stride), y.wrapping_add(p * stride));
            // SAFETY: whoever made this knew that the elements are there.
            unsafe {
                // The last register may have channels of the one before, and y may be x.
                let of_last = load_pixels(simd, x.add(last), stride);
                let mut i = 0;
                while i < last {
                    touch_pixels(
                        simd,
                        load_pixels(simd, x.add(i), stride),
                        y.add(i),
                        stride,
                        operands.add(i),
                        channels,
                    );
                    i += lanes;
                }
                touch_pixels(simd, of_last, y.add(last), stride, operands.add(last), channels);
            }
        }
    }
}

/// A register of channels of each of some pixels.
#[inline(always)]
unsafe fn load_pixels<S: Lanes>(simd: S, x: *const f32, stride: usize) -> [S::f32s; TOGETHER] {
    let mut v = [simd.splat_f32s(0.0); TOGETHER];
    for (k, v) in v.iter_mut().enumerate() {
        // SAFETY: the caller's duty.
        *v = unsafe { simd.load(x.add(k * stride)) };
    }
    v
}

/// Normalizes a register of channels of each of some pixels, with operands that are `channels` elements apart.
#[inline(always)]
unsafe fn touch_pixels<S: Lanes>(
    simd: S,
    x: [S::f32s; TOGETHER],
    y: *mut f32,
    stride: usize,
    operands: *const f32,
    channels: usize,
) {
    // SAFETY: the caller's duty.
    unsafe {
        let mut v = [simd.splat_f32s(0.0); OPERANDS];
        for (k, v) in v.iter_mut().enumerate() {
            *v = simd.load(operands.add(k * channels));
        }
        let [hi, lo, rstd, gamma, beta] = v;
        let offset = simd.mul_f32s(simd.neg_f32s(lo), rstd);
        for (k, &x) in x.iter().enumerate() {
            let xhat = simd.fma(simd.sub_f32s(x, hi), rstd, offset);
            simd.store(y.add(k * stride), simd.fma(xhat, gamma, beta));
        }
    }
}

const _: () = assert!(CHUNK.is_multiple_of(STEP) && APART.is_multiple_of(RUN));
