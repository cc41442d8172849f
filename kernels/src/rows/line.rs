//! Cache lines.

/// The bytes of a cache line.
pub const LINE: usize = 64;

/// Whether all rows start on cache lines: the first starts at address `at`, and rows are `strides` bytes apart.
#[inline(always)]
pub fn start_on_lines(at: usize, strides: [usize; 2]) -> bool {
    (at | strides[0] | strides[1]).is_multiple_of(LINE)
}

/// Whether rows of `cols` elements, `stride` elements apart, follow one another without a gap and have more than two
/// cache lines each. Then rows share cache lines with one another alone, but for the first and the last.
#[inline(always)]
pub fn have_no_gaps(stride: usize, cols: usize, row_bytes: usize) -> bool {
    stride == cols && row_bytes > 2 * LINE
}

/// A cache line of elements of any type.
#[repr(align(64))]
pub(crate) struct CacheLine(pub(super) [u8; LINE]);

impl CacheLine {
    pub(crate) const ZERO: Self = Self([0; LINE]);

    #[inline(always)]
    pub(crate) fn as_mut_ptr(&mut self) -> *mut u8 {
        self.0.as_mut_ptr()
    }
}
