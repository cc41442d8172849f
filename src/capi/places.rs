//! Where buffers lie: the checks of pointers, strides and overlaps.

use std::alloc::Layout;
use std::ffi::c_void;

use super::{lanenorm_status, refuse};

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
            let message = format_args!("{rows} rows are not a multiple of {inner_rows} inner_rows");
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

/// Where a buffer lies, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    what: &'static str,
    start: usize,
    end: usize,
    row_len: usize,
    run_len: usize,
    /// The distances between the starts of rows and of runs; zero where there is but one.
    stride: usize,
    outer_stride: usize,
    /// May be written over, or writes over others.
    replaceable: bool,
}

/// The rows of a buffer that has been checked.
#[derive(Clone, Copy, Debug)]
pub(super) struct PlacedRows {
    pub(super) place: Place,
    pub(super) data: *mut c_void,
    /// In elements, as in [`Place`].
    pub(super) stride: usize,
    pub(super) outer_stride: usize,
    /// Whether all rows are one run.
    pub(super) uniform: bool,
}

/// The elements from the first of the first run to the last of the last one.
#[inline(always)]
fn span(runs: usize, stride: usize, len: usize) -> Option<usize> {
    (runs - 1).checked_mul(stride)?.checked_add(len)
}

/// Rows of elements, of which there are some: that there is a buffer, and that it can hold them apart from one another. A
/// stride of zero stands for rows or runs that follow one another.
#[inline(always)]
pub(super) fn rows(
    what: &'static str,
    data: *const c_void,
    (stride, outer_stride): (usize, usize),
    shape: &Shape,
    element: Layout,
) -> Result<PlacedRows, lanenorm_status> {
    let &Shape { rows, inner_rows, cols, transposed } = shape;
    let runs = if inner_rows == rows { 1 } else { rows / inner_rows };
    let overflow = || overflows(what, rows, cols, stride, outer_stride);
    let stride = if stride == 0 { cols } else { stride };
    let (stride, outer_stride) = match (transposed, outer_stride) {
        (true, 0) => (stride, 0),
        (true, outer_stride) => (outer_stride, 0),
        (false, 0) if runs > 1 => (stride, inner_rows.checked_mul(stride).ok_or_else(overflow)?),
        (false, outer_stride) => (stride, outer_stride),
    };
    let (stride, outer_stride) = (if inner_rows == 1 { 0 } else { stride }, if runs == 1 { 0 } else { outer_stride });
    let run_len = span(inner_rows, stride, cols).ok_or_else(overflow)?;
    let all = span(runs, outer_stride, run_len).ok_or_else(overflow)?;
    let apart = (inner_rows == 1 || stride >= cols) && (runs == 1 || outer_stride >= run_len);
    if !apart {
        // Runs may be woven into one another instead: those of a tensor whose dimensions have been exchanged.
        let woven = span(runs, outer_stride, cols).ok_or_else(overflow)?;
        if runs == 1 || outer_stride < cols || stride < woven {
            let message = format_args!(
                "the rows of {what} overlap: they have {cols} columns and start {stride} elements apart, runs {outer_stride}"
            );
            return Err(refuse(lanenorm_status::Stride, message));
        }
    }
    let bytes = |elements: usize| elements * element.size();
    all.checked_mul(element.size()).filter(|&n| n <= isize::MAX as usize).ok_or_else(overflow)?;
    let (start, end) = extent(what, data, bytes(all), element, (rows, cols))?;
    let place = Place {
        what,
        start,
        end,
        row_len: bytes(cols),
        run_len: bytes(run_len),
        stride: bytes(stride),
        outer_stride: bytes(outer_stride),
        replaceable: false,
    };
    let uniform = runs == 1 || Some(outer_stride) == inner_rows.checked_mul(stride);
    Ok(PlacedRows { place, data: data.cast_mut(), stride, outer_stride, uniform })
}

/// A vector of elements, if there is one.
#[inline(always)]
pub(super) fn vector(
    what: &'static str,
    data: *const c_void,
    len: usize,
    element: Layout,
) -> Result<Option<Place>, lanenorm_status> {
    if data.is_null() || len == 0 {
        return Ok(None);
    }
    let bytes = len.checked_mul(element.size()).filter(|&n| n <= isize::MAX as usize);
    let bytes = bytes.ok_or_else(|| overflows(what, 1, len, len, 0))?;
    let (start, end) = extent(what, data, bytes, element, (1, len))?;
    let (row_len, run_len, stride, outer_stride) = (bytes, bytes, 0, 0);
    Ok(Some(Place { what, start, end, row_len, run_len, stride, outer_stride, replaceable: false }))
}

/// Where so many bytes begin and end.
#[inline(always)]
fn extent(
    what: &'static str,
    data: *const c_void,
    bytes: usize,
    element: Layout,
    (rows, cols): (usize, usize),
) -> Result<(usize, usize), lanenorm_status> {
    let start = data.addr();
    if data.is_null() {
        let message = format_args!("{what} is NULL, expected {rows} rows of {cols}");
        return Err(refuse(lanenorm_status::NullPointer, message));
    }
    if !start.is_multiple_of(element.align()) {
        let message = format_args!("{what} is at {start:#x}, expected a multiple of {}", element.align());
        return Err(refuse(lanenorm_status::Misaligned, message));
    }
    match start.checked_add(bytes) {
        Some(end) => Ok((start, end)),
        None => Err(overflows(what, rows, cols, 0, 0)),
    }
}

#[cold]
fn overflows(what: &str, rows: usize, cols: usize, stride: usize, outer_stride: usize) -> lanenorm_status {
    let message = format_args!(
        "{what} is too large: {rows} rows of {cols}, with strides of {stride} and {outer_stride}, overflow the address space"
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
    /// The same place, which may be written over by an output that lies exactly there; or such an output.
    #[inline(always)]
    pub(super) fn replaceable(self) -> Self {
        Self { replaceable: true, ..self }
    }

    /// Whether the elements of both are the same ones.
    #[inline(always)]
    pub(super) fn is(&self, other: &Self) -> bool {
        let at = |p: &Self| (p.start, p.end, p.row_len, p.stride, p.outer_stride);
        at(self) == at(other)
    }

    #[inline(always)]
    fn overlaps(&self, other: &Self) -> bool {
        self.start < other.end && other.start < self.end && !self.is_interleaved_with(other)
    }

    /// Whether no element belongs to both, though some of one lie between those of the other: columns of the same rows,
    /// say. If both repeat with some period, and the rows (or runs) have different phases, this is so.
    #[cold]
    fn is_interleaved_with(&self, other: &Self) -> bool {
        let outer = gcd(self.outer_stride, other.outer_stride);
        let all = gcd(outer, gcd(self.stride, other.stride));
        let apart = |period: usize, len: usize, other_len: usize| {
            let phase = |start: usize| start.checked_rem(period);
            match (phase(self.start), phase(other.start)) {
                (Some(a), Some(b)) => {
                    let ahead = if b >= a { b - a } else { period - (a - b) };
                    ahead >= len && other_len <= period - ahead
                }
                _ => false,
            }
        };
        apart(outer, self.run_len, other.run_len) || apart(all, self.row_len, other.row_len)
    }
}

/// The places of a call's buffers: first those that are read, then those that are written.
#[derive(Debug, Default)]
pub(super) struct Places {
    places: [Option<Place>; 12],
    len: usize,
}

impl Places {
    #[inline(always)]
    fn push(&mut self, place: Place) {
        self.places[self.len] = Some(place);
        self.len += 1;
    }

    /// A buffer that is read.
    #[inline(always)]
    pub(super) fn read(&mut self, place: impl Into<Option<Place>>) {
        if let Some(place) = place.into() {
            self.push(place);
        }
    }

    /// A buffer that is written: that it overlaps no other, but for one that it replaces.
    #[inline(always)]
    pub(super) fn write(&mut self, place: impl Into<Option<Place>>) -> Result<(), lanenorm_status> {
        let Some(place) = place.into() else { return Ok(()) };
        for other in self.places[..self.len].iter().flatten() {
            let replaces = place.replaceable && other.replaceable && place.is(other);
            if place.overlaps(other) && !replaces {
                let (a, b) = (&place, other);
                let message = format_args!(
                    "{} (bytes {:#x} to {:#x}) overlaps {} ({:#x} to {:#x})",
                    a.what, a.start, a.end, b.what, b.start, b.end
                );
                return Err(refuse(lanenorm_status::Overlap, message));
            }
        }
        self.push(Place { replaceable: false, ..place });
        Ok(())
    }
}
