//! Cache lines that two streamed rows share.

use super::epilogue::Epilogue;
use super::normalize::{KnownRow, NormRegs};
use crate::element::Storage;
use crate::mean::Center;
use crate::rows::{CacheLine, LINE};
use crate::simd::{Float, Lanes};

/// Carries the elements at the end of a row to the next row, which shares their cache line, so that the line is
/// streamed as a whole. To write a line to memory in part takes as long as dozens of whole lines.
///
/// It is for rows of y that follow one another without a gap, of more than two lines each.
pub(super) struct Carry {
    /// The line that fills now, and the line before it.
    lines: [CacheLine; 2],
    now: usize,
    /// The bytes that have been put at the start of the line that fills, and where they belong.
    held: usize,
    place: *mut u8,
    /// Where the line before is still to be streamed to. It waits for the row between: it has been stored in pieces,
    /// and cannot be loaded as a whole until these stores have left the core.
    complete: *mut u8,
}

impl Carry {
    #[inline(always)]
    pub(super) fn nothing() -> Self {
        let nowhere = core::ptr::null_mut();
        Self { lines: [CacheLine::ZERO; 2], now: 0, held: 0, place: nowhere, complete: nowhere }
    }

    /// Normalizes the elements of a row before the first cache line that is its own. Returns their number.
    ///
    /// # Safety
    /// - The row has `cols` elements, and is streamed. If elements are held, it is the row after theirs.
    #[inline(always)]
    pub(super) unsafe fn head<S: Lanes, T: Storage, M: Center, E: Epilogue<T>>(
        &mut self,
        simd: S,
        row: KnownRow<T, M, E>,
        norm: &NormRegs<S, T::Float, M>,
        cols: usize,
    ) -> usize {
        // SAFETY: the caller's duty. The row has all elements of the line that are not held.
        unsafe {
            if self.held == 0 {
                return row.normalize_head(simd, cols).0;
            }
            let y = row.epilogue.target();
            let n = y.misalignment();
            let line = self.lines[self.now].as_mut_ptr();
            row.moved(y.ordinary().at(line.add(self.held))).normalize_few(simd, norm, 0, n);
            self.complete = self.place;
            self.now ^= 1;
            self.held = 0;
            n
        }
    }

    /// Normalizes the elements from `from` on, where a cache line starts, less than a step. Holds those of the last
    /// line, if the row does not fill it.
    ///
    /// # Safety
    /// - The row has `cols` elements, and is streamed. Nothing is held.
    #[inline(always)]
    pub(super) unsafe fn rest<S: Lanes, T: Storage, M: Center, E: Epilogue<T>>(
        &mut self,
        simd: S,
        row: KnownRow<T, M, E>,
        norm: &NormRegs<S, T::Float, M>,
        from: usize,
        cols: usize,
    ) {
        let y = row.epilogue.target();
        let whole = cols - (cols - from) % y.line();
        // SAFETY: the caller's duty. Gamma and beta of rows that are streamed are not packed.
        unsafe {
            row.normalize_few(simd, norm, from, whole);
            if whole < cols {
                let line = self.lines[self.now].as_mut_ptr();
                let end = row.after(whole);
                self.place = end.epilogue.target().as_mut_ptr().cast();
                self.held = (cols - whole) * y.element();
                end.moved(y.ordinary().at(line)).normalize_few(simd, norm, 0, cols - whole);
            }
        }
    }

    /// Streams the line before.
    ///
    /// # Safety
    /// - The rows that the line belongs to may be written.
    #[inline(always)]
    pub(super) unsafe fn stream<S: Lanes>(&mut self, simd: S) {
        if self.complete.is_null() {
            return;
        }
        let from = self.lines[self.now ^ 1].as_mut_ptr().cast::<f32>();
        let to = self.complete.cast::<f32>();
        for k in 0..LINE / size_of::<f32>() / S::F32_LANES {
            // SAFETY: the caller's duty. Both are whole cache lines.
            unsafe { f32::stream(simd, to.add(k * S::F32_LANES), f32::load(simd, from.add(k * S::F32_LANES))) };
        }
        self.complete = core::ptr::null_mut();
    }

    /// Writes what is held with ordinary stores.
    ///
    /// # Safety
    /// - The row that it belongs to may be written.
    #[inline(always)]
    pub(super) unsafe fn flush(&mut self) {
        if self.held == 0 {
            return;
        }
        // SAFETY: the caller's duty.
        unsafe { self.place.copy_from_nonoverlapping(self.lines[self.now].as_mut_ptr(), self.held) };
        self.held = 0;
    }
}
