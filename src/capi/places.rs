//! Where buffers lie: the checks of pointers, strides and overlaps.

use std::ffi::c_void;

use lanenorm_kernels::rows::start_on_lines;
use lanenorm_kernels::{Count, Error as Refused};

use super::{lanenorm_status, refuse};
use crate::shape::{Crowded, extent, extent_of_runs};

/// The rows of a call: all its buffers have them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) rows: usize,
    /// The rows of a run. It divides the rows, and is not zero unless they are none.
    pub(super) inner_rows: usize,
    pub(super) cols: usize,
    /// Whether the runs are of one row each: then they are taken for the rows of one run.
    transposed: bool,
}

impl Shape {
    #[inline(always)]
    pub(super) fn new(rows: usize, inner_rows: usize, cols: usize) -> Result<Self, lanenorm_status> {
        let transposed = inner_rows == 1;
        let inner_rows = if transposed || inner_rows == 0 { rows } else { inner_rows };
        if inner_rows != rows && !rows.is_multiple_of(inner_rows) {
            let message = format_args!("rows is {rows}, expected a multiple of inner_rows, which is {inner_rows}");
            return Err(refuse(lanenorm_status::Size, message));
        }
        Ok(Self { rows, inner_rows, cols, transposed })
    }

    /// Whether there is nothing to read or write.
    #[inline(always)]
    pub(super) fn is_empty(&self) -> bool {
        self.rows == 0 || self.cols == 0
    }
}

/// Where rows start. Strides are in elements.
#[derive(Clone, Copy, Debug)]
pub(super) struct Strided {
    pub(super) data: *mut c_void,
    pub(super) stride: usize,
    pub(super) outer_stride: usize,
}

impl Strided {
    /// Whether all rows, of elements of `size` bytes, start on cache lines.
    #[inline(always)]
    pub(super) fn are_on_lines(&self, size: usize) -> bool {
        start_on_lines(self.data.addr(), [self.stride.wrapping_mul(size), self.outer_stride.wrapping_mul(size)])
    }
}

/// The rows of a buffer that has been checked. Strides are zero where there is but one row, or run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rows {
    pub(super) rows: Strided,
    pub(super) span: Span,
}

/// The bytes from the first of a buffer to the last. Of a buffer that is not there they are none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Span {
    start: usize,
    end: usize,
}

impl Span {
    #[inline(always)]
    pub(super) fn meets(self, other: Self) -> bool {
        self.start < other.end && other.start < self.end
    }
}

/// The alignment of elements of `size` bytes. That of f64 is not its size everywhere.
#[inline(always)]
const fn align(size: usize) -> usize {
    if size == size_of::<f64>() { align_of::<f64>() } else { size }
}

impl Rows {
    /// Rows of elements of `size` bytes, of which there are some: that there is a buffer, and that it can hold them
    /// apart from one another. A stride of zero stands for rows or runs that follow one another.
    #[inline(always)]
    pub(super) fn new(
        what: &'static str,
        data: *const c_void,
        (stride, outer_stride): (usize, usize),
        shape: &Shape,
        size: usize,
    ) -> Result<Self, lanenorm_status> {
        let &Shape { rows, inner_rows, cols, transposed } = shape;
        if inner_rows != rows || transposed {
            return Self::of_runs(what, data, (stride, outer_stride), shape, size);
        }
        let overflow = || overflows(what, rows, cols, stride, 0);
        let stride = if stride == 0 { cols } else { stride };
        if stride < cols && rows > 1 {
            return Err(overlap_one_another(what, cols, stride, 0));
        }
        let all = extent(rows, stride, cols).ok_or_else(overflow)?;
        let span = span(what, data, all, size, (rows, cols), (stride, 0))?;
        let rows = Strided { data: data.cast_mut(), stride: if rows == 1 { 0 } else { stride }, outer_stride: 0 };
        Ok(Self { rows, span })
    }

    /// The same for rows in several runs, or in runs of one row.
    #[cold]
    fn of_runs(
        what: &'static str,
        data: *const c_void,
        (stride, outer_stride): (usize, usize),
        shape: &Shape,
        size: usize,
    ) -> Result<Self, lanenorm_status> {
        let &Shape { rows, inner_rows, cols, transposed } = shape;
        let stride = if stride == 0 { cols } else { stride };
        if transposed {
            let strides = (if outer_stride == 0 { stride } else { outer_stride }, 0);
            return Self::new(what, data, strides, &Shape { transposed: false, ..*shape }, size);
        }
        let runs = rows / inner_rows;
        let overflow = || overflows(what, rows, cols, stride, outer_stride);
        let outer_stride =
            if outer_stride == 0 { inner_rows.checked_mul(stride).ok_or_else(overflow)? } else { outer_stride };
        let all = match extent_of_runs([runs, inner_rows], [outer_stride, stride], cols) {
            Ok(all) => all,
            Err(Crowded::Overflow) => return Err(overflow()),
            Err(Crowded::Overlap) => return Err(overlap_one_another(what, cols, stride, outer_stride)),
        };
        let span = span(what, data, all, size, (rows, cols), (stride, outer_stride))?;
        Ok(Self { rows: Strided { data: data.cast_mut(), stride, outer_stride }, span })
    }

    /// Whether all rows are evenly apart.
    #[inline(always)]
    pub(super) fn are_even(&self, shape: &Shape) -> bool {
        shape.inner_rows == shape.rows || Some(self.rows.outer_stride) == shape.inner_rows.checked_mul(self.rows.stride)
    }

    /// Whether the elements of both, which have some, are the same ones. Then they have one size.
    #[inline(always)]
    pub(super) fn are(&self, other: &Self) -> bool {
        self.span == other.span
            && self.rows.stride == other.rows.stride
            && self.rows.outer_stride == other.rows.outer_stride
    }

    /// [`Rows::new`], compiled once: for calls that have time.
    #[inline(never)]
    pub(super) fn checked(
        what: &'static str,
        data: *const c_void,
        strides: (usize, usize),
        shape: &Shape,
        size: usize,
    ) -> Result<Self, lanenorm_status> {
        Self::new(what, data, strides, shape, size)
    }
}

/// Writes zeros, which are floats too, to `bytes` bytes from byte `first` on of a buffer, if it is there.
///
/// # Safety
/// - It has these bytes, and nothing else touches them meanwhile.
#[inline(never)]
pub(super) unsafe fn fill_with_zeros(data: *mut c_void, first: usize, bytes: usize) {
    if !data.is_null() {
        // SAFETY: the caller's duty.
        unsafe { data.cast::<u8>().add(first).write_bytes(0, bytes) };
    }
}

/// Where a buffer lies, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    what: &'static str,
    span: Span,
    runs: usize,
    /// The rows of a run.
    inner_rows: usize,
    row_len: usize,
    run_len: usize,
    stride: usize,
    outer_stride: usize,
    /// May be written over, or writes over others.
    replaceable: bool,
}

/// A vector of elements of `size` bytes, if there is one.
#[inline(always)]
pub(super) fn vector(
    what: &'static str,
    data: *const c_void,
    len: usize,
    size: usize,
) -> Result<Span, lanenorm_status> {
    if data.is_null() || len == 0 { Ok(Span::default()) } else { span(what, data, len, size, (1, len), (len, 0)) }
}

/// Where elements begin and end.
#[inline(always)]
fn span(
    what: &'static str,
    data: *const c_void,
    elements: usize,
    size: usize,
    (rows, cols): (usize, usize),
    strides: (usize, usize),
) -> Result<Span, lanenorm_status> {
    let start = data.addr();
    if start == 0 || start & (align(size) - 1) != 0 {
        return Err(no_pointer(what, start, size, (rows, cols)));
    }
    let bytes = elements.checked_mul(size).filter(|&bytes| bytes <= isize::MAX as usize);
    match bytes.and_then(|bytes| start.checked_add(bytes)) {
        Some(end) => Ok(Span { start, end }),
        None => Err(overflows(what, rows, cols, strides.0, strides.1)),
    }
}

#[cold]
fn no_pointer(what: &str, start: usize, size: usize, (rows, cols): (usize, usize)) -> lanenorm_status {
    if start == 0 {
        return no_rows(what, rows, cols);
    }
    let message = format_args!("{what} is at {start:#x}, expected a multiple of {}", align(size));
    refuse(lanenorm_status::Misaligned, message)
}

#[cold]
pub(super) fn no_rows(what: &str, rows: usize, cols: usize) -> lanenorm_status {
    let message = format_args!("{what} is NULL, expected {} of {cols}", Count(rows, "row"));
    refuse(lanenorm_status::NullPointer, message)
}

#[cold]
fn overlap_one_another(what: &'static str, cols: usize, stride: usize, outer_stride: usize) -> lanenorm_status {
    let rows = Refused::Overlap { what, cols, stride };
    let status = lanenorm_status::Stride;
    // Rows of one run, or runs of one row each, have one stride.
    if outer_stride == 0 {
        refuse(status, format_args!("{rows}"))
    } else {
        refuse(status, format_args!("{rows}, runs {outer_stride}"))
    }
}

#[cold]
fn overflows(what: &str, rows: usize, cols: usize, stride: usize, outer_stride: usize) -> lanenorm_status {
    let message = format_args!(
        "{what} is too large: {} of {cols}, with strides of {stride} and {outer_stride}, overflow the address space",
        Count(rows, "row")
    );
    refuse(lanenorm_status::Overflow, message)
}

fn gcd(mut a: usize, mut b: usize) -> usize {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

impl Place {
    fn rows(what: &'static str, rows: &Rows, shape: &Shape, size: usize, replaceable: bool) -> Self {
        let bytes = |elements: usize| elements * size;
        let &Rows { rows: Strided { stride, outer_stride, .. }, span } = rows;
        Self {
            what,
            span,
            runs: shape.rows / shape.inner_rows,
            inner_rows: shape.inner_rows,
            row_len: bytes(shape.cols),
            run_len: bytes((shape.inner_rows - 1) * stride + shape.cols),
            stride: bytes(stride),
            outer_stride: bytes(outer_stride),
            replaceable,
        }
    }

    fn vector(what: &'static str, span: Span) -> Self {
        let len = span.end - span.start;
        Self {
            what,
            span,
            runs: 1,
            inner_rows: 1,
            row_len: len,
            run_len: len,
            stride: 0,
            outer_stride: 0,
            replaceable: false,
        }
    }

    /// Whether the elements of both are the same ones.
    fn is(&self, other: &Self) -> bool {
        let at = |p: &Self| (p.span, p.row_len, p.stride, p.outer_stride);
        at(self) == at(other)
    }

    /// Whether `self` and `other` share no element, though their spans meet: columns of the same rows, say. The answer
    /// is exact where both have the same strides and their runs follow one another. Elsewhere it is yes if both repeat
    /// with some period, and their rows (or runs) have different phases.
    fn is_interleaved_with(&self, other: &Self) -> bool {
        let strides = |place: &Self| (place.stride, place.outer_stride);
        let run_len = self.run_len.max(other.run_len);
        if strides(self) == strides(other) && (self.outer_stride == 0 || self.outer_stride >= run_len) {
            return !self.meets_with_same_strides(other);
        }
        let outer = gcd(self.outer_stride, other.outer_stride);
        let all = gcd(outer, gcd(self.stride, other.stride));
        let apart = |period: usize, len: usize, other_len: usize| {
            let phase = |place: &Self| place.span.start.checked_rem(period);
            match (phase(self), phase(other)) {
                (Some(a), Some(b)) => {
                    let ahead = if b >= a { b - a } else { period - (a - b) };
                    ahead >= len && other_len <= period - ahead
                }
                _ => false,
            }
        };
        apart(outer, self.run_len, other.run_len) || apart(all, self.row_len, other.row_len)
    }

    /// Whether some row of one meets some row of the other, whose strides are the same. No run of either reaches into
    /// the next.
    fn meets_with_same_strides(&self, other: &Self) -> bool {
        // Spans meet, so that this fits.
        let ahead = other.span.start.wrapping_sub(self.span.start) as isize;
        let within = |n: isize, of: usize| n.unsigned_abs() < of;
        meeting(ahead, self.outer_stride, self.run_len, other.run_len).filter(|&n| within(n, self.runs)).any(|n| {
            let ahead = moved(ahead, n, self.outer_stride as isize);
            meeting(ahead, self.stride, self.row_len, other.row_len).any(|n| within(n, self.inner_rows))
        })
    }
}

/// How often the period must be added to `ahead`, where `other_len` bytes start, for these to meet the `len` bytes from
/// 0 on. The period is 0, or not less than either length.
fn meeting(ahead: isize, period: usize, len: usize, other_len: usize) -> impl Iterator<Item = isize> {
    let period = period as isize;
    let last = if period == 0 { 0 } else { -ahead.div_euclid(period) };
    let first = if period == 0 { 0 } else { last - 1 };
    (first..=last).filter(move |&times| {
        let at = moved(ahead, times, period);
        -(other_len as isize) < at && at < len as isize
    })
}

/// The sum fits, and the product need not.
fn moved(ahead: isize, times: isize, period: isize) -> isize {
    ahead.wrapping_add(times.wrapping_mul(period))
}

/// The places of a call's buffers: first those that are read, then those that are written.
#[derive(Debug, Default)]
pub(super) struct Places {
    places: [Option<Place>; 15],
    len: usize,
}

impl Places {
    fn push(&mut self, place: Place) {
        self.places[self.len] = Some(place);
        self.len += 1;
    }

    /// Rows that are read, of a shape with which they were checked. With `replaceable`, an output may lie exactly
    /// there.
    #[inline(never)]
    pub(super) fn read_rows(&mut self, what: &'static str, rows: &Rows, shape: &Shape, size: usize, replaceable: bool) {
        self.push(Place::rows(what, rows, shape, size, replaceable));
    }

    /// A vector that is read, if there is one: this checks it too.
    #[inline(never)]
    pub(super) fn read_vector(
        &mut self,
        what: &'static str,
        data: *const c_void,
        len: usize,
        size: usize,
    ) -> Result<(), lanenorm_status> {
        let span = vector(what, data, len, size)?;
        if span != Span::default() {
            self.push(Place::vector(what, span));
        }
        Ok(())
    }

    /// Rows that are written: that they overlap no other buffer, but for a replaceable one if they may replace it.
    #[inline(never)]
    pub(super) fn write_rows(
        &mut self,
        what: &'static str,
        rows: &Rows,
        shape: &Shape,
        size: usize,
        replaces: bool,
    ) -> Result<(), lanenorm_status> {
        self.write(Place::rows(what, rows, shape, size, replaces))
    }

    /// A vector that is written, if there is one: this checks it too, and that it overlaps no other buffer.
    #[inline(never)]
    pub(super) fn write_vector(
        &mut self,
        what: &'static str,
        data: *const c_void,
        len: usize,
        size: usize,
    ) -> Result<(), lanenorm_status> {
        let span = vector(what, data, len, size)?;
        if span == Span::default() { Ok(()) } else { self.write(Place::vector(what, span)) }
    }

    #[inline(never)]
    fn write(&mut self, place: Place) -> Result<(), lanenorm_status> {
        for other in self.places[..self.len].iter().flatten() {
            let replaces = place.replaceable && other.replaceable && place.is(other);
            if place.span.meets(other.span) && !replaces && !place.is_interleaved_with(other) {
                let (a, b) = (&place, other);
                let message = format_args!(
                    "{} (bytes {:#x} to {:#x}) overlaps {} ({:#x} to {:#x})",
                    a.what, a.span.start, a.span.end, b.what, b.span.start, b.span.end
                );
                return Err(refuse(lanenorm_status::Overlap, message));
            }
        }
        self.push(Place { replaceable: false, ..place });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::ptr;

    use super::*;

    /// The addresses of all elements of `rows`.
    fn elements(rows: &Strided, shape: &Shape) -> Vec<usize> {
        let first = |r| (r / shape.inner_rows) * rows.outer_stride + (r % shape.inner_rows) * rows.stride;
        (0..shape.rows).flat_map(|r| (0..shape.cols).map(move |i| rows.data.addr() + first(r) + i)).collect()
    }

    #[test]
    fn rows_with_the_same_strides_may_lie_between_one_another_wherever_they_share_nothing() {
        let mut counts = [0, 0];
        let shapes = [(1, 0), (2, 0), (6, 0), (6, 3), (6, 2), (8, 4), (4, 1)];
        for (rows, inner_rows) in shapes {
            for (cols, other_cols) in [(1, 1), (2, 2), (2, 3), (3, 1)] {
                let shape = Shape::new(rows, inner_rows, cols).expect("a valid shape");
                let other_shape = Shape { cols: other_cols, ..shape };
                for (stride, outer_stride) in (3..9).flat_map(|a| (8..40).map(move |b| (a, b))) {
                    let of = |at, shape: &Shape| {
                        Rows::new("x", ptr::without_provenance(at), (stride, outer_stride), shape, 1)
                            .map(|rows| (Place::rows("x", &rows, shape, 1, false), elements(&rows.rows, shape)))
                    };
                    let Ok((a, of_a)) = of(1000, &shape) else { continue };
                    for at in 980..1020 {
                        let Ok((b, of_b)) = of(at, &other_shape) else { continue };
                        let meet = of_a.iter().any(|x| of_b.contains(x));
                        let may_meet = a.span.meets(b.span) && !a.is_interleaved_with(&b);
                        let context = (rows, inner_rows, cols, other_cols, stride, outer_stride, at);
                        assert!(may_meet || !meet, "{context:?}");
                        let is_exact = shape.inner_rows == rows || outer_stride >= a.run_len.max(b.run_len);
                        assert!(!may_meet || meet || !is_exact, "{context:?}");
                        counts[usize::from(meet)] += 1;
                    }
                }
            }
        }
        assert!(counts.iter().all(|&n| n > 10_000), "{counts:?}");
    }
}
