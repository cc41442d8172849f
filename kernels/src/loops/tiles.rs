//! Tiles of tensors whose channels come first, turned into rows of channels and back.

use half::bf16;

use crate::simd::{Kernel, Lanes, QUAD};

/// A tile of `rows` pixels and `cols` channels: in a tensor where pixels lie side by side and channels `pixels` elements
/// apart, and in a room where the channels of a pixel lie side by side. Whoever makes it knows that both have the
/// elements.
pub(crate) struct Tile<T> {
    pub(crate) tensor: *mut T,
    pub(crate) pixels: usize,
    pub(crate) room: *mut T,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    /// Whether the room is filled, and not the tensor.
    pub(crate) gathers: bool,
}

impl<T: Copy> Kernel for Tile<T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) {
        // Whole squares in registers, of pixels and of channels.
        let (rows, cols) = match size_of::<T>() {
            _ if !S::SPECIALIZES => (0, 0),
            2 if self.cols.is_multiple_of(2) => {
                (self.rows - self.rows % (2 * S::F32_LANES), self.cols - self.cols % (2 * QUAD))
            }
            4 => (self.rows - self.rows % S::F32_LANES, self.cols - self.cols % QUAD),
            _ => (0, 0),
        };
        // SAFETY: whoever made this knew that the elements are there. Those of 16 bits are moved as they are.
        unsafe {
            match size_of::<T>() {
                2 if self.gathers => self.gather_halves(simd, rows, cols),
                2 => self.scatter_halves(simd, rows, cols),
                4 if self.gathers => self.gather_words(simd, rows, cols),
                4 => self.scatter_words(simd, rows, cols),
                _ => {}
            }
            self.one_by_one(0..rows, cols);
            self.one_by_one(rows..self.rows, 0);
        }
    }
}

impl<T: Copy> Tile<T> {
    /// Moves the channels of some pixels from channel `from` on, one by one.
    ///
    /// # Safety
    /// - There are these elements.
    #[inline(always)]
    unsafe fn one_by_one(&self, rows: core::ops::Range<usize>, from: usize) {
        for c in from..self.cols {
            for r in rows.clone() {
                // SAFETY: the caller's duty.
                unsafe {
                    let (tensor, room) = (self.tensor.add(c * self.pixels + r), self.room.add(r * self.cols + c));
                    if self.gathers { room.write(tensor.read()) } else { tensor.write(room.read()) }
                }
            }
        }
    }

    /// # Safety
    /// - Elements have 32 bits. There are `rows` and `cols` of them, in whole squares.
    #[inline(always)]
    unsafe fn gather_words<S: Lanes>(&self, simd: S, rows: usize, cols: usize) {
        for r in (0..rows).step_by(S::F32_LANES) {
            for c in (0..cols).step_by(QUAD) {
                // SAFETY: the caller's duty.
                unsafe {
                    let from = self.tensor.cast::<f32>().add(c * self.pixels + r).cast_const();
                    let mut v = [simd.splat_f32s(0.0); QUAD];
                    for (j, v) in v.iter_mut().enumerate() {
                        *v = simd.load(from.add(j * self.pixels));
                    }
                    simd.store_quad(self.room.cast::<f32>().add(r * self.cols + c), self.cols, v);
                }
            }
        }
    }

    /// # Safety
    /// - As for [`gather_words`](Self::gather_words).
    #[inline(always)]
    unsafe fn scatter_words<S: Lanes>(&self, simd: S, rows: usize, cols: usize) {
        for c in (0..cols).step_by(QUAD) {
            for r in (0..rows).step_by(S::F32_LANES) {
                // SAFETY: the caller's duty.
                unsafe {
                    let v = simd.load_quad(self.room.cast::<f32>().add(r * self.cols + c).cast_const(), self.cols);
                    let to = self.tensor.cast::<f32>().add(c * self.pixels + r);
                    for (j, &v) in v.iter().enumerate() {
                        simd.store(to.add(j * self.pixels), v);
                    }
                }
            }
        }
    }

    /// Two channels are a word. The words of even pixels and those of odd ones are squares of their own.
    ///
    /// # Safety
    /// - Elements have 16 bits, and there is an even number of channels. There are `rows` and `cols` of them, in whole
    ///   squares.
    #[inline(always)]
    unsafe fn gather_halves<S: Lanes>(&self, simd: S, rows: usize, cols: usize) {
        let half = simd.splat_u32s(16);
        for r in (0..rows).step_by(2 * S::F32_LANES) {
            for c in (0..cols).step_by(2 * QUAD) {
                // SAFETY: the caller's duty. A row of the room has an even number of elements.
                unsafe {
                    let from = self.tensor.cast::<bf16>().add(c * self.pixels + r).cast_const();
                    let mut words = [[simd.splat_f32s(0.0); QUAD]; 2];
                    for j in 0..QUAD {
                        let low: [S::f32s; 2] = simd.load(from.add(2 * j * self.pixels));
                        let high: [S::f32s; 2] = simd.load(from.add((2 * j + 1) * self.pixels));
                        for k in 0..2 {
                            let low = simd.wrapping_dyn_shr_u32s(simd.transmute_u32s_f32s(low[k]), half);
                            let word = simd.or_u32s(low, simd.transmute_u32s_f32s(high[k]));
                            words[k][j] = simd.transmute_f32s_u32s(word);
                        }
                    }
                    for (k, &words) in words.iter().enumerate() {
                        let to = self.room.add((r + k) * self.cols + c).cast::<f32>();
                        // Every second row.
                        simd.store_quad(to, self.cols, words);
                    }
                }
            }
        }
    }

    /// # Safety
    /// - As for [`gather_halves`](Self::gather_halves).
    #[inline(always)]
    unsafe fn scatter_halves<S: Lanes>(&self, simd: S, rows: usize, cols: usize) {
        let (half, high) = (simd.splat_u32s(16), simd.splat_u32s(0xffff_0000));
        for c in (0..cols).step_by(2 * QUAD) {
            for r in (0..rows).step_by(2 * S::F32_LANES) {
                // SAFETY: as above.
                unsafe {
                    let row = |k: usize| self.room.add((r + k) * self.cols + c).cast::<f32>().cast_const();
                    let words = [simd.load_quad(row(0), self.cols), simd.load_quad(row(1), self.cols)];
                    let to = self.tensor.cast::<bf16>().add(c * self.pixels + r);
                    for j in 0..QUAD {
                        let words = [words[0][j], words[1][j]].map(|v| simd.transmute_u32s_f32s(v));
                        // What is below the upper half is zero, so that nothing is rounded.
                        let even = words.map(|v| simd.transmute_f32s_u32s(simd.wrapping_dyn_shl_u32s(v, half)));
                        let odd = words.map(|v| simd.transmute_f32s_u32s(simd.and_u32s(v, high)));
                        simd.store(to.add(2 * j * self.pixels), even);
                        simd.store(to.add((2 * j + 1) * self.pixels), odd);
                    }
                }
            }
        }
    }
}
