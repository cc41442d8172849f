//! Tiles of tensors whose channels come first, turned into rows of channels and back.

use half::bf16;

use crate::isa::Isa;
use crate::simd::{Kernel, Lanes, QUAD};

/// The channels by which the tensor is prefetched. Hardware prefetchers follow lines, not channels.
const AHEAD: usize = 4 * QUAD;

/// A tile of `rows` pixels and `cols` channels: in a tensor where pixels lie side by side and channels `pixels`
/// elements apart, and in a room where the channels of a pixel lie side by side: a row. Whoever makes it knows that
/// both have the elements.
pub(crate) struct Tile<T> {
    pub(crate) tensor: *mut T,
    pub(crate) pixels: usize,
    pub(crate) room: *mut T,
    /// The distance between the starts of two rows of the room.
    pub(crate) stride: usize,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    /// Whether the room is filled, and not the tensor.
    pub(crate) gathers: bool,
}

impl<T: Copy> Kernel for Tile<T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) {
        // Squares in registers, of pixels and of channels. Where they do not divide the tile, the last ones overlap
        // others, and move the same elements again.
        let (pixels, channels) = match size_of::<T>() {
            2 if self.cols.is_multiple_of(2) && self.stride.is_multiple_of(2) => (2 * S::F32_LANES, 2 * QUAD),
            4 => (S::F32_LANES, QUAD),
            _ => (usize::MAX, usize::MAX),
        };
        // SAFETY: whoever made this knew that the elements are there. Those of 16 bits are moved as they are.
        unsafe {
            if !S::SPECIALIZES || self.rows < pixels || self.cols < channels {
                self.one_by_one();
            } else if self.gathers {
                self.gather(simd, pixels, channels);
            } else {
                self.scatter(simd, pixels, channels);
            }
        }
    }
}

impl<T: Copy> Tile<T> {
    /// Moves the tile. Elements are moved as they are: what counts is their size.
    pub(crate) fn move_on(self, isa: Isa) {
        match size_of::<T>() {
            2 => isa.run(self.cast::<u16>()),
            4 => isa.run(self.cast::<u32>()),
            _ => isa.run(self.cast::<u64>()),
        }
    }

    fn cast<U>(self) -> Tile<U> {
        let Self { tensor, pixels, room, stride, rows, cols, gathers } = self;
        Tile { tensor: tensor.cast(), pixels, room: room.cast(), stride, rows, cols, gathers }
    }

    /// Moves the elements one by one.
    ///
    /// # Safety
    /// - There are these elements.
    #[inline(always)]
    unsafe fn one_by_one(&self) {
        for c in 0..self.cols {
            for r in 0..self.rows {
                // SAFETY: the caller's duty.
                unsafe {
                    let (tensor, room) = (self.tensor.add(c * self.pixels + r), self.room.add(r * self.stride + c));
                    if self.gathers { room.write(tensor.read()) } else { tensor.write(room.read()) }
                }
            }
        }
    }

    /// Pixels by pixels, so that the rows of the room are at the same places for all channels.
    ///
    /// # Safety
    /// - There are these elements, and squares of `pixels` and `channels` among them.
    #[inline(always)]
    unsafe fn gather<S: Lanes>(&self, simd: S, pixels: usize, channels: usize) {
        let mut r = 0;
        while r < self.rows {
            r = r.min(self.rows - pixels);
            let mut c = 0;
            while c < self.cols {
                c = c.min(self.cols - channels);
                // SAFETY: the caller's duty.
                unsafe {
                    let (tensor, room) = (self.tensor.add(c * self.pixels + r), self.room.add(r * self.stride + c));
                    if const { size_of::<T>() == size_of::<u16>() } {
                        gather_halves(simd, tensor.cast(), self.pixels, room.cast(), self.stride);
                    } else {
                        gather_words(simd, tensor.cast(), self.pixels, room.cast(), self.stride);
                    }
                }
                c += channels;
            }
            r += pixels;
        }
    }

    /// Channels by channels, so that lines of the tensor are written as wholes.
    ///
    /// # Safety
    /// - As for [`gather`](Self::gather).
    #[inline(always)]
    unsafe fn scatter<S: Lanes>(&self, simd: S, pixels: usize, channels: usize) {
        let mut c = 0;
        while c < self.cols {
            c = c.min(self.cols - channels);
            let mut r = 0;
            while r < self.rows {
                r = r.min(self.rows - pixels);
                // SAFETY: the caller's duty.
                unsafe {
                    let (tensor, room) = (self.tensor.add(c * self.pixels + r), self.room.add(r * self.stride + c));
                    if const { size_of::<T>() == size_of::<u16>() } {
                        scatter_halves(simd, tensor.cast(), self.pixels, room.cast(), self.stride);
                    } else {
                        scatter_words(simd, tensor.cast(), self.pixels, room.cast(), self.stride);
                    }
                }
                r += pixels;
            }
            c += channels;
        }
    }
}

/// Moves a square of 32 bits from a tensor, whose channels are `pixels` elements apart, to a room, whose rows are
/// `stride` elements apart.
///
/// # Safety
/// - Both have such a square.
#[inline(always)]
unsafe fn gather_words<S: Lanes>(simd: S, tensor: *const f32, pixels: usize, room: *mut f32, stride: usize) {
    // SAFETY: the caller's duty.
    unsafe {
        let mut v = [simd.splat_f32s(0.0); QUAD];
        for (j, v) in v.iter_mut().enumerate() {
            *v = simd.load(tensor.add(j * pixels));
            simd.prefetch(tensor.wrapping_add((AHEAD + j) * pixels).cast());
        }
        simd.store_quad(room, stride, v);
    }
}

/// The inverse of [`gather_words`].
///
/// # Safety
/// - Both have such a square.
#[inline(always)]
unsafe fn scatter_words<S: Lanes>(simd: S, tensor: *mut f32, pixels: usize, room: *const f32, stride: usize) {
    // SAFETY: the caller's duty.
    unsafe {
        let v = simd.load_quad(room, stride);
        for (j, &v) in v.iter().enumerate() {
            simd.store(tensor.add(j * pixels), v);
            simd.prefetch(tensor.wrapping_add((AHEAD + j) * pixels).cast_const().cast());
        }
    }
}

/// The same for 16 bits, where `stride` is even. Two channels are a word. The words of even pixels and those of odd
/// ones are squares of their own.
///
/// # Safety
/// - Both have such a square.
#[inline(always)]
unsafe fn gather_halves<S: Lanes>(simd: S, tensor: *const bf16, pixels: usize, room: *mut bf16, stride: usize) {
    let half = simd.splat_u32s(16);
    // SAFETY: the caller's duty.
    unsafe {
        let mut words = [[simd.splat_f32s(0.0); QUAD]; 2];
        for j in 0..QUAD {
            let ahead = tensor.wrapping_add((AHEAD + 2 * j) * pixels);
            simd.prefetch(ahead.cast());
            simd.prefetch(ahead.wrapping_add(pixels).cast());
            let low: [S::f32s; 2] = simd.load(tensor.add(2 * j * pixels));
            let high: [S::f32s; 2] = simd.load(tensor.add((2 * j + 1) * pixels));
            for k in 0..2 {
                let low = simd.wrapping_dyn_shr_u32s(simd.transmute_u32s_f32s(low[k]), half);
                let word = simd.or_u32s(low, simd.transmute_u32s_f32s(high[k]));
                words[k][j] = simd.transmute_f32s_u32s(word);
            }
        }
        // Every second row, `stride` words apart.
        simd.store_quad(room.cast(), stride, words[0]);
        simd.store_quad(room.add(stride).cast(), stride, words[1]);
    }
}

/// The inverse of [`gather_halves`].
///
/// # Safety
/// - Both have such a square.
#[inline(always)]
unsafe fn scatter_halves<S: Lanes>(simd: S, tensor: *mut bf16, pixels: usize, room: *const bf16, stride: usize) {
    let (half, high) = (simd.splat_u32s(16), simd.splat_u32s(0xffff_0000));
    // SAFETY: as above.
    unsafe {
        let words = [simd.load_quad(room.cast(), stride), simd.load_quad(room.add(stride).cast(), stride)];
        for j in 0..QUAD {
            // What is below the upper half is zero, so that nothing is rounded.
            let (mut even, mut odd) = ([simd.splat_f32s(0.0); 2], [simd.splat_f32s(0.0); 2]);
            for k in 0..2 {
                let word = simd.transmute_u32s_f32s(words[k][j]);
                even[k] = simd.transmute_f32s_u32s(simd.wrapping_dyn_shl_u32s(word, half));
                odd[k] = simd.transmute_f32s_u32s(simd.and_u32s(word, high));
            }
            simd.store(tensor.add(2 * j * pixels), even);
            simd.store(tensor.add((2 * j + 1) * pixels), odd);
            let ahead = tensor.wrapping_add((AHEAD + 2 * j) * pixels).cast_const();
            simd.prefetch(ahead.cast());
            simd.prefetch(ahead.wrapping_add(pixels).cast());
        }
    }
}
