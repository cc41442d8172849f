#![allow(unsafe_code, reason = "two constructors are unsafe")]

use crate::grid::{Grid, Holds, Ptr};

/// Rows to be read: contiguous, or at one stride or two in a larger buffer.
///
/// A slice of whole rows converts into this, and with the feature `ndarray` a view of an array. The conversion from
/// `ArrayView` says which arrays fit.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a, T> {
    /// Those of a grid are not here.
    pub(crate) data: &'a [T],
    pub(crate) layout: Layout,
}

/// Rows to be written: contiguous, or at one stride or two in a larger buffer, whose other elements stay untouched.
///
/// A mutable slice of whole rows converts into this, and with the feature `ndarray` a mutable view of an array. The
/// conversion of an `ArrayView` into [`Rows`] says which arrays fit.
#[derive(Debug)]
pub struct RowsMut<'a, T> {
    /// Those of a grid are not here.
    pub(crate) data: &'a mut [T],
    pub(crate) layout: Layout,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Layout {
    Contiguous,
    Strided { rows: usize, stride: usize },
    Grid(Grid),
}

impl Layout {
    #[inline(always)]
    pub(crate) fn is_contiguous(&self) -> bool {
        matches!(self, Self::Contiguous)
    }

    #[inline(always)]
    pub(crate) fn is_grid(&self) -> bool {
        matches!(self, Self::Grid(_))
    }
}

impl<'a, T> Rows<'a, T> {
    /// `rows` rows of which row `r` starts at element `r * stride` of `data`.
    ///
    /// That they fit and do not overlap is checked when they are used, since the plan knows their length.
    pub fn strided(data: &'a [T], rows: usize, stride: usize) -> Self {
        Self { data, layout: Layout::Strided { rows, stride } }
    }

    /// The rows of an array of shape `[shape[0], shape[1], cols]`, whose first two axes have these strides in elements:
    /// row `(i, j)` starts at element `i * strides[0] + j * strides[1]` of `data`. Its number is `i * shape[1] + j`,
    /// for groups, statistics and the other buffers of a call. The rows with one `i` are a run: there are `shape[0]`
    /// runs of `shape[1]` rows.
    ///
    /// ```
    /// use lanenorm::{RmsNorm, RowsMut};
    ///
    /// // Each of 2 tokens has 3 heads of Q, 1 of K and 1 of V, of 2 columns. Q is normalized where it lies.
    /// let (tokens, heads, cols) = (2, 5, 2);
    /// let mut qkv = [3.0, -3.0].repeat(tokens * heads);
    /// let q = RowsMut::strided_2d(&mut qkv, [tokens, 3], [heads * cols, cols]);
    /// RmsNorm::new(cols, 0.0)?.forward_in_place(q, None)?;
    /// assert_eq!(qkv[..10], [1.0, -1.0, 1.0, -1.0, 1.0, -1.0, 3.0, -3.0, 3.0, -3.0]);
    /// # Ok::<(), lanenorm::Error>(())
    /// ```
    ///
    /// Either axis may have the larger stride: axes may have been exchanged, and runs may be woven into one another.
    /// Other buffers of the call have rows at one stride, or runs of as many rows (`shape[1]`). That rows fit, that
    /// they do not overlap, and that their number does not overflow, is checked when they are used, since the plan
    /// knows their length.
    pub fn strided_2d(data: &'a [T], shape: [usize; 2], strides: [usize; 2]) -> Self {
        match Grid::even(shape, strides) {
            Some((rows, stride)) => Self::strided(data, rows, stride),
            None => {
                Self::grid(Grid { p: Ptr(data.as_ptr().cast()), holds: Holds::Elements(data.len()), shape, strides })
            }
        }
    }

    /// The rows of an array of this shape, as [`strided_2d`](Self::strided_2d) has them, for arrays that no slice can
    /// name: others may write the elements between the rows. The plan must have `shape[2]` columns, or calls
    /// return an error.
    ///
    /// # Safety
    /// - Unless a dimension is zero: for `'a`, all elements of these rows are aligned, initialized and valid for reads,
    ///   lie in one allocation, and are written by nothing.
    pub unsafe fn from_raw_parts(data: *const T, shape: [usize; 3], strides: [usize; 2]) -> Self {
        let [outer, inner, cols] = shape;
        Self::grid(Grid { p: Ptr(data.cast()), holds: Holds::Columns(cols), shape: [outer, inner], strides })
    }

    /// The elements are those at the pointer.
    pub(crate) fn grid(grid: Grid) -> Self {
        Self { data: &[], layout: Layout::Grid(grid) }
    }
}

impl<'a, T> RowsMut<'a, T> {
    /// `rows` rows of which row `r` starts at element `r * stride` of `data`.
    ///
    /// That they fit and do not overlap is checked when they are used, since the plan knows their length.
    pub fn strided(data: &'a mut [T], rows: usize, stride: usize) -> Self {
        Self { data, layout: Layout::Strided { rows, stride } }
    }

    /// The rows of an array of shape `[shape[0], shape[1], cols]`, whose first two axes have these strides in elements:
    /// see [`Rows::strided_2d`].
    pub fn strided_2d(data: &'a mut [T], shape: [usize; 2], strides: [usize; 2]) -> Self {
        match Grid::even(shape, strides) {
            Some((rows, stride)) => Self::strided(data, rows, stride),
            None => {
                let holds = Holds::Elements(data.len());
                Self::grid(Grid { p: Ptr(data.as_mut_ptr().cast_const().cast()), holds, shape, strides })
            }
        }
    }

    /// The rows of an array of this shape, as [`Rows::strided_2d`] has them, for arrays that no slice can name:
    /// the elements between the rows may belong to others. The plan must have `shape[2]` columns, or calls return an
    /// error.
    ///
    /// # Safety
    /// - Unless a dimension is zero: for `'a`, all elements of these rows are aligned, initialized and valid for reads
    ///   and writes, lie in one allocation, and are read and written by nothing else.
    pub unsafe fn from_raw_parts(data: *mut T, shape: [usize; 3], strides: [usize; 2]) -> Self {
        let [outer, inner, cols] = shape;
        Self::grid(Grid {
            p: Ptr(data.cast_const().cast()),
            holds: Holds::Columns(cols),
            shape: [outer, inner],
            strides,
        })
    }

    /// Contiguous rows whose memory is yet to be allocated, for outputs alone: until then the pointer is null.
    pub(crate) fn room(rows: usize, cols: usize) -> Self {
        let holds = Holds::Elements(rows * cols);
        Self::grid(Grid { p: Ptr(std::ptr::null()), holds, shape: [1, rows], strides: [0, cols] })
    }

    pub(crate) fn grid(grid: Grid) -> Self {
        Self { data: &mut [], layout: Layout::Grid(grid) }
    }
}

impl<'a, T> From<&'a [T]> for Rows<'a, T> {
    fn from(data: &'a [T]) -> Self {
        Self { data, layout: Layout::Contiguous }
    }
}

impl<'a, T> From<&'a Vec<T>> for Rows<'a, T> {
    fn from(data: &'a Vec<T>) -> Self {
        Self::from(data.as_slice())
    }
}

impl<'a, T, const N: usize> From<&'a [T; N]> for Rows<'a, T> {
    fn from(data: &'a [T; N]) -> Self {
        Self::from(data.as_slice())
    }
}

impl<'a, T> From<&'a mut [T]> for RowsMut<'a, T> {
    fn from(data: &'a mut [T]) -> Self {
        Self { data, layout: Layout::Contiguous }
    }
}

impl<'a, T> From<&'a mut Vec<T>> for RowsMut<'a, T> {
    fn from(data: &'a mut Vec<T>) -> Self {
        Self::from(data.as_mut_slice())
    }
}

impl<'a, T, const N: usize> From<&'a mut [T; N]> for RowsMut<'a, T> {
    fn from(data: &'a mut [T; N]) -> Self {
        Self::from(data.as_mut_slice())
    }
}
