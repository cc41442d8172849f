//! Every check of lengths and strides, each made once per call and before anything is written.

use lanenorm_kernels::Error as Refused;

use crate::error::{Error, Misfit};
use crate::grid::{Grid, Holds};
use crate::rows::Layout;

/// The number of rows and their stride, if `len` elements hold them. They are no grid.
#[inline]
pub(crate) fn rows(what: &'static str, len: usize, layout: Layout, cols: usize) -> Result<(usize, usize), Error> {
    match layout {
        Layout::Contiguous if cols == 0 && len == 0 => Ok((0, 0)),
        Layout::Contiguous if !len.is_multiple_of(cols) => Err(Error::Ragged { what, len, cols }),
        Layout::Contiguous => Ok((len / cols, cols)),
        Layout::Strided { rows, stride } if rows == 0 || cols == 0 => Ok((rows, stride)),
        Layout::Strided { rows, stride } => {
            if rows > 1 && stride < cols {
                return Err(Error::Arguments(Refused::Overlap { what, cols, stride }));
            }
            let needed =
                extent(rows, stride, cols).ok_or(Error::Arguments(Refused::Overflow { what, rows, stride }))?;
            if len < needed {
                return Err(Error::Arguments(Refused::TooShort { what, len, rows, cols, stride, needed }));
            }
            Ok((rows, stride))
        }
        Layout::Grid(_) => unreachable!("calls with a grid come to `runs`"),
    }
}

/// How rows lie that may be a grid.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Runs {
    pub(crate) rows: usize,
    /// The rows of a run, where one stride is not enough.
    pub(crate) inner_rows: Option<usize>,
    /// The distance between the starts of two runs, if there are several, and of two rows.
    pub(crate) strides: [usize; 2],
}

/// How rows lie, if `len` elements, or what the pointer of a grid points to, hold them.
pub(crate) fn runs(what: &'static str, len: usize, layout: Layout, cols: usize) -> Result<Runs, Error> {
    let even = |len, layout: Layout| {
        let (rows, stride) = rows(what, len, layout, cols)?;
        Ok(Runs { rows, inner_rows: None, strides: [0, stride] })
    };
    let Layout::Grid(Grid { holds, shape, strides, .. }) = layout else { return even(len, layout) };
    let error = |misfit| Error::Runs { what, shape, strides, misfit };
    let len = match holds {
        Holds::Elements(len) => len,
        Holds::Columns(n) if n != cols => return Err(Error::Columns { what, cols: n, expected: cols }),
        // As many as there need be.
        Holds::Columns(_) => usize::MAX,
        #[cfg(feature = "ndarray")]
        Holds::Nothing(unfit) => return Err(unfit.of(what)),
    };
    if let Some((rows, stride)) = Grid::even(shape, strides) {
        return even(len, Layout::Strided { rows, stride });
    }
    let [outer, inner_rows] = shape;
    let overflow = || error(Misfit::Overflow { cols });
    let rows = outer.checked_mul(inner_rows).ok_or_else(overflow)?;
    // Without columns nothing is read or written, wherever the rows are.
    if cols > 0 {
        let needed = extent_of_runs(shape, strides, cols).map_err(|crowded| match crowded {
            Crowded::Overflow => overflow(),
            Crowded::Overlap => error(Misfit::Overlap { cols }),
        })?;
        if len < needed {
            return Err(error(Misfit::TooShort { len, needed }));
        }
    }
    Ok(Runs { rows, inner_rows: Some(inner_rows), strides })
}

/// The elements from the first of `rows` rows, or runs, to the last of the last one. There is one row at least.
#[inline(always)]
pub(crate) fn extent(rows: usize, stride: usize, len: usize) -> Option<usize> {
    (rows - 1).checked_mul(stride)?.checked_add(len)
}

/// Why runs do not lie apart from one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Crowded {
    Overflow,
    Overlap,
}

/// The elements from the first of several runs of several rows to the last, if they lie apart from one another.
pub(crate) fn extent_of_runs(
    [runs, inner_rows]: [usize; 2],
    [outer_stride, stride]: [usize; 2],
    cols: usize,
) -> Result<usize, Crowded> {
    let run = extent(inner_rows, stride, cols).ok_or(Crowded::Overflow)?;
    let all = extent(runs, outer_stride, run).ok_or(Crowded::Overflow)?;
    let apart_along_axes = stride >= cols && outer_stride >= cols;
    if apart_along_axes && (outer_stride >= run || are_apart((runs, outer_stride), (inner_rows, stride), cols)) {
        Ok(all)
    } else {
        Err(Crowded::Overlap)
    }
}

/// Whether rows whose runs may be woven into one another lie apart. (They do in a tensor whose dimensions have been
/// exchanged, say.) Each axis is given by its length and its stride, which is not less than the columns. There are
/// columns, and the extent of the rows does not overflow.
#[cold]
fn are_apart(a: (usize, usize), b: (usize, usize), cols: usize) -> bool {
    // The longer axis is divided by, so that this takes a fraction of the time in which all rows are read.
    let ((few, few_stride), (many, many_stride)) = if a.0 < b.0 { (a, b) } else { (b, a) };
    // Of two rows that overlap, one is ahead by `n` on one axis, and the other by about as many elements on the other
    // axis. There it is ahead by one row at least, since rows are apart along each axis.
    (1..few).all(|n| {
        let ahead = n * few_stride;
        let (steps, rest) = (ahead / many_stride, ahead % many_stride);
        let apart = |steps: usize, distance: usize| steps >= many || distance >= cols;
        apart(steps, rest) && apart(steps + 1, many_stride - rest)
    })
}

/// The number of elements of dimensions that are normalized together.
pub(crate) fn product(dims: &[usize]) -> Result<usize, Error> {
    // A dimension of zero makes the product zero, however large the other dimensions are.
    if dims.contains(&0) {
        return Ok(0);
    }
    let product = |cols: usize, &dim: &usize| cols.checked_mul(dim).ok_or(Error::ShapeOverflow { cols, dim });
    dims.iter().try_fold(1, product)
}

/// The last dimensions of a shape, from `axis` on; a negative one counts from the end.
pub(crate) fn from_axis(shape: &[usize], axis: isize) -> Result<&[usize], Error> {
    let rank = shape.len();
    let from = if axis < 0 { rank.checked_sub(axis.unsigned_abs()) } else { Some(axis.unsigned_abs()) };
    from.and_then(|from| shape.get(from..)).filter(|dims| !dims.is_empty()).ok_or(Error::Axis { axis, rank })
}

/// Checks that a buffer, if there is one, has the expected length.
pub(crate) fn length<T>(what: &'static str, buffer: Option<&[T]>, expected: usize) -> Result<(), Error> {
    len(what, buffer.map(<[T]>::len), expected)
}

/// Checks that a buffer of `len` elements has the expected length.
#[inline]
pub(crate) fn len(what: &'static str, len: Option<usize>, expected: usize) -> Result<(), Error> {
    match len {
        Some(len) if len != expected => Err(Error::Arguments(Refused::Length { what, len, expected })),
        _ => Ok(()),
    }
}

/// Checks that eps is finite and not negative.
pub(crate) fn eps(eps: f64) -> Result<(), Error> {
    // By bits: a comparison raises flags. Where subnormal numbers count as zeros, it also takes negative ones for 0.
    let bits = std::hint::black_box(eps.to_bits());
    if bits < f64::INFINITY.to_bits() || bits == (-0.0_f64).to_bits() {
        Ok(())
    } else {
        Err(Error::Arguments(Refused::Eps(eps)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All rows of small shapes, at all small strides: those that share no element are accepted, and no others.
    #[test]
    fn rows_at_two_strides_overlap_where_they_share_an_element() {
        let mut woven = 0;
        for [runs, inner_rows, cols] in [[2, 2, 1], [2, 3, 4], [3, 2, 4], [3, 3, 2], [2, 7, 3], [7, 2, 3], [5, 4, 3]] {
            for (outer_stride, stride) in (0..40).flat_map(|a| (0..40).map(move |b| (a, b))) {
                let starts = (0..runs).flat_map(|o| (0..inner_rows).map(move |i| o * outer_stride + i * stride));
                let mut starts = starts.collect::<Vec<_>>();
                starts.sort_unstable();
                let apart = starts.windows(2).all(|pair| pair[1] - pair[0] >= cols);
                let expected = if apart { Ok(starts[starts.len() - 1] + cols) } else { Err(Crowded::Overlap) };
                let got = extent_of_runs([runs, inner_rows], [outer_stride, stride], cols);
                assert_eq!(got, expected, "{runs} runs of {inner_rows} rows of {cols}: {outer_stride}, {stride}");
                let in_turn = outer_stride >= inner_rows * stride || stride >= runs * outer_stride;
                woven += usize::from(apart && !in_turn);
            }
        }
        assert!(woven > 100, "{woven}");
    }

    #[test]
    fn extents_that_overflow() {
        let max = usize::MAX;
        for (shape, strides, cols) in [
            ([2, 3], [max, 4], 4),
            ([2, 3], [20, max / 2], 4),
            ([max, 2], [8, 5], 4),
            ([2, 2], [max - 5, 4], 4),
            ([max / 2, max / 2], [max / 4, max / 8], 4),
            ([2, 2], [1, 1], max),
        ] {
            assert_eq!(extent_of_runs(shape, strides, cols), Err(Crowded::Overflow), "{shape:?}, {strides:?}");
        }
        // All but the last element that usize can count.
        assert_eq!(extent_of_runs([2, 2], [max - 9, 4], 4), Ok(max - 1));
    }
}
