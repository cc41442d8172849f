//! Whole rows.

use core::slice::{from_raw_parts, from_raw_parts_mut};

use half::{bf16, f16};

use super::ahead::{Ahead, Below};
use super::elements::{self, Rule};
use super::places::{Places, Wide};
use super::{blocks, ranges};
use crate::reference;
use crate::rows::Convert;
use crate::scheme::{Format, Range, Scheme, Scope};
use crate::simd::{Kernel, Lanes, outline};

/// What becomes of rows of y as soon as each has been normalized, in f32: they are quantized, and rounded to 16 bits if
/// y is wanted so.
#[derive(Debug)]
pub(crate) struct Quantizer<'a> {
    pub(crate) scheme: &'a Scheme,
    pub(crate) places: Places,
    pub(crate) known: Option<Range>,
    /// The first row of y, in f32. The rows have a stride of 0 if they follow one another in one place.
    pub(crate) y: Wide,
    pub(crate) rounded: Option<Rounded>,
    /// The rows of x, if they come from memory.
    pub(crate) below: Option<Below>,
}

// SAFETY: through a shared Quantizer rows are written by one thread each: those of the job that it belongs to.
unsafe impl Sync for Quantizer<'_> {}

/// Rows of y of 16 bits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rounded {
    pub(crate) p: *mut u16,
    pub(crate) stride: usize,
    /// Whether the elements are f16, and not bf16.
    pub(crate) is_f16: bool,
}

/// Does what there is to do for row `r`. Whoever makes it knows that it is there.
pub(crate) struct RowIsDone<'a> {
    pub(crate) quantizer: &'a Quantizer<'a>,
    pub(crate) r: usize,
}

impl Kernel for RowIsDone<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) {
        let Self { quantizer: &Quantizer { scheme, places, known, ref y, rounded, below }, r } = self;
        // SAFETY: whoever made this knew it.
        unsafe {
            let p = y.p.add(r * y.stride);
            let row = Wide { p, stride: 0, rows: 1, cols: y.cols };
            let places = places.after(scheme, r, y.cols);
            let ahead = below.map_or(Ahead::NOTHING, |below| below.row(r));
            outline(simd, Rows { scheme, y: row, places, known, ahead });
            let Some(Rounded { p: to, stride, is_f16 }) = rounded else { return };
            if !ranges::symmetric(simd, p, y.cols).is_finite() {
                // Other NaNs than the canonical one cannot be rounded.
                let row = from_raw_parts_mut(p.cast_mut(), y.cols);
                row.iter_mut().filter(|v| v.is_nan()).for_each(|v| *v = f32::NAN);
            }
            let (to, from) = (to.add(r * stride), p.cast_mut());
            if is_f16 {
                outline(simd, Convert::<f16>::of(to.cast(), from, y.cols, false));
            } else {
                outline(simd, Convert::<bf16>::of(to.cast(), from, y.cols, false));
            }
        }
    }
}

/// The range of all elements of some rows. Whoever makes it knows that they are there.
pub(crate) struct RangeOf<'a>(pub(crate) &'a Wide);

impl Kernel for RangeOf<'_> {
    type Output = Range;

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) -> Range {
        let mut range = Range::EMPTY;
        for r in 0..self.0.rows {
            // SAFETY: whoever made this knew it.
            range = range.join(unsafe { ranges::range(simd, self.0.p.add(r * self.0.stride), self.0.cols) });
        }
        range
    }
}

/// Quantizes elements whose scale is known. Whoever makes it knows that y and q have `len` elements.
pub(crate) struct Elements<'a> {
    pub(crate) scheme: &'a Scheme,
    pub(crate) y: *const f32,
    pub(crate) q: *mut u8,
    pub(crate) len: usize,
    /// The scale and the zero point.
    pub(crate) scale: (f32, i32),
    /// The range of all elements that share the scale. It is not asked for where the scale is given.
    pub(crate) range: Range,
    pub(crate) ahead: Ahead,
}

impl Kernel for Elements<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) {
        let Self { scheme, y, q, len, scale: (scale, zero_point), range, ahead } = self;
        let amax = range.amax();
        if scale == 0.0 || scale.is_nan() {
            // SAFETY: whoever made this knew it.
            unsafe { q.write_bytes(0, len) };
            return;
        }
        match Rule::quick(scheme, scale, zero_point, amax) {
            // SAFETY: whoever made this knew it.
            Some(rule) => unsafe { elements::quantize(simd, &rule, y, q, len, ahead) },
            // SAFETY: as above.
            None => unsafe {
                let (y, q) = (from_raw_parts(y, len), from_raw_parts_mut(q, len));
                slowly(scheme, y, scale, zero_point, amax, q);
            },
        }
    }
}

#[cold]
#[inline(never)]
fn slowly(scheme: &Scheme, y: &[f32], scale: f32, zero_point: i32, amax: f32, q: &mut [u8]) {
    reference::quantize_with(scheme, y, scale, zero_point, amax, q);
}

/// Quantizes rows, or blocks that are some columns of a row. Whoever makes it knows that all rows are there, and that
/// blocks divide the columns. If the scope is the tensor, the range is known.
pub(crate) struct Rows<'a> {
    pub(crate) scheme: &'a Scheme,
    pub(crate) y: Wide,
    pub(crate) places: Places,
    /// The range of elements that share a scale, if it is known.
    pub(crate) known: Option<Range>,
    /// What is asked for while each row is quantized.
    pub(crate) ahead: Ahead,
}

impl Kernel for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Lanes>(self, simd: S) {
        let Self { scheme, y, places, known, ahead } = self;
        let Wide { p, stride, rows, cols } = y;
        for r in 0..rows {
            // SAFETY: whoever made this knew it.
            unsafe {
                let y = p.add(r * stride);
                let places = places.after(scheme, r, cols);
                if let Scope::Block(_) = scheme.scope {
                    blocks::quantize(simd, scheme, y, cols, places, ahead);
                    continue;
                }
                let range = match (known, scheme.scope) {
                    (Some(range), _) => range,
                    (None, Scope::Given { .. }) => Range::EMPTY,
                    _ if scheme.format == Format::U8 => ranges::range(simd, y, cols),
                    _ => ranges::symmetric(simd, y, cols),
                };
                let scale = places.set(scheme, range);
                Elements { scheme, y, q: places.q, len: cols, scale, range, ahead }.run(simd);
            }
        }
    }
}
