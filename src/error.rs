use std::fmt;

use lanenorm_kernels::{Count, Tier};

/// What is wrong with a call. A call that returns an error has written nothing.
///
/// What kernels refuse too, plans refuse with the error of the kernels:
///
/// ```
/// use lanenorm::{Error, LayerNorm, kernels};
///
/// let refused = LayerNorm::new(4, 1e-5)?.forward(&[1.0; 8], Some(&[1.0; 3]), None, &mut [0.0; 8]);
/// let gamma = kernels::Error::Length { what: "gamma", len: 3, expected: 4 };
/// assert_eq!(refused, Err(Error::Arguments(gamma)));
/// assert_eq!(gamma.to_string(), "gamma has 3 elements, expected 4");
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Arguments are refused for a reason for which kernels refuse them too: a length, rows that overlap, groups,
    /// moments, eps. The message is that of the reason.
    #[error(transparent)]
    Arguments(lanenorm_kernels::Error),
    /// A contiguous buffer does not hold a whole number of rows.
    #[error("{what} has {}, which is not a whole number of rows of {cols}", Count(*len, "element"))]
    Ragged {
        /// The buffer.
        what: &'static str,
        /// Its length.
        len: usize,
        /// The number of columns.
        cols: usize,
    },
    /// The rows of a buffer that has its own number of columns, an array say, are not those of the plan.
    #[error("{what} has {}, expected {expected}", Count(*cols, "column"))]
    Columns {
        /// The buffer.
        what: &'static str,
        /// The number of columns.
        cols: usize,
        /// The number of columns of the plan.
        expected: usize,
    },
    /// Rows at two strides cannot be, or do not fit the other buffers.
    #[error(fmt = fmt_runs)]
    Runs {
        /// The buffer.
        what: &'static str,
        /// The number of runs, and of the rows of each.
        shape: [usize; 2],
        /// The distances between the starts of two runs, and of two rows, in elements.
        strides: [usize; 2],
        /// What is wrong with them.
        misfit: Misfit,
    },
    /// A call whose result is quantized lacks an array that its scheme has.
    #[error("{what} is not given, expected {}: see `{what}_to`", Count(*expected, "element"))]
    NotGiven {
        /// The array: scale or `zero_point`.
        what: &'static str,
        /// Its length.
        expected: usize,
    },
    /// A call whose result is quantized is given an array that its scheme does not have.
    #[error("{what} has {}, but the scheme has no array of them", Count(*len, "element"))]
    NotOfScheme {
        /// The array: scale or `zero_point`.
        what: &'static str,
        /// Its length.
        len: usize,
    },
    /// The elements of a row of an array do not follow one another.
    #[cfg(feature = "ndarray")]
    #[error("axis {axis} of {what}, along which rows lie, has a stride of {stride}, expected 1")]
    ColumnStride {
        /// The buffer.
        what: &'static str,
        /// The last axis.
        axis: usize,
        /// Its stride, in elements.
        stride: isize,
    },
    /// An axis of an array runs backwards.
    #[cfg(feature = "ndarray")]
    #[error("axis {axis} of {what} has a stride of {stride}, expected one that is not below 0: copy the array first")]
    NegativeStride {
        /// The buffer.
        what: &'static str,
        /// The axis.
        axis: usize,
        /// Its stride, in elements.
        stride: isize,
    },
    /// The rows of an array lie at more than two strides.
    #[cfg(feature = "ndarray")]
    #[error(
        "axis {axis} of {what} has a stride of {stride}, expected {expected}: rows lie at two strides, and not at three. Copy the array first"
    )]
    ThirdStride {
        /// The buffer.
        what: &'static str,
        /// The axis.
        axis: usize,
        /// Its stride, in elements.
        stride: usize,
        /// The stride with which it would continue the axis behind it.
        expected: usize,
    },
    /// The elements of a vector, which is an array of `ndarray`, do not follow one another.
    #[error("{what} has a stride of {stride}, expected 1: copy the array first")]
    VectorStride {
        /// The vector.
        what: &'static str,
        /// The stride, in elements.
        stride: isize,
    },
    /// x and y differ in their number of rows.
    #[error("x has {}, but y has {y}", Count(*x, "row"))]
    Rows {
        /// The rows of x.
        x: usize,
        /// The rows of y.
        y: usize,
    },
    /// A call that copies the rest of each row has rows of x and of y at two different strides.
    #[error("the rest of each row is copied, but rows of x start {x} elements apart, and rows of y {y}")]
    RestStrides {
        /// The stride of x.
        x: usize,
        /// The stride of y.
        y: usize,
    },
    /// A call that copies the rest of each row has rows whose rest is not known.
    #[error("the rest of each row is copied, but the rows of {what} are those of an array, or at two strides")]
    NoRest {
        /// The buffer.
        what: &'static str,
    },
    /// A call over channels that come first has rows with strides.
    #[error("{what} has strides, but tensors whose channels come first are contiguous")]
    ChannelStrides {
        /// The buffer.
        what: &'static str,
    },
    /// A call over channels that come first has groups of rows.
    #[error("the plan has {} of {repeat}, but channels that come first have one gamma", Count(*groups, "group"))]
    ChannelGroups {
        /// The groups of the plan.
        groups: usize,
        /// The rows that follow one another in a group.
        repeat: usize,
    },
    /// x and another buffer of a sum differ in their number of rows.
    #[error("x has {}, but {what} has {rows}", Count(*x, "row"))]
    SumRows {
        /// The other buffer.
        what: &'static str,
        /// The rows of x.
        x: usize,
        /// The rows of the other buffer.
        rows: usize,
    },
    /// dy and another buffer of a backward call differ in their number of rows.
    #[error("dy has {}, but {what} has {rows}", Count(*dy, "row"))]
    GradRows {
        /// The other buffer.
        what: &'static str,
        /// The rows of dy.
        dy: usize,
        /// The rows of the other buffer.
        rows: usize,
    },
    /// The scratch memory of a backward call is too short.
    #[error(
        "scratch has {}, but {} of {cols} take at least {needed}",
        Count(*len, "element"),
        Count(*rows, "row")
    )]
    Scratch {
        /// Its length.
        len: usize,
        /// The length it must have at least.
        needed: usize,
        /// The number of rows.
        rows: usize,
        /// The number of columns.
        cols: usize,
    },
    /// The product of the normalized dimensions overflows `usize`.
    #[error("the normalized shape is too large: {cols} times {dim} overflows usize")]
    ShapeOverflow {
        /// The product of the dimensions before.
        cols: usize,
        /// The dimension with which the product overflows.
        dim: usize,
    },
    /// A shape has no such axis.
    #[error("axis is {axis}, but the shape has {}", Count(*rank, "dimension"))]
    Axis {
        /// The axis that was asked for.
        axis: isize,
        /// The number of dimensions.
        rank: usize,
    },
    /// The processor or the build lacks an instruction set.
    #[error("the {asked} tier is not available here; the widest that is: {widest}")]
    Isa {
        /// The tier that was asked for.
        asked: Tier,
        /// The widest tier that is available.
        widest: Tier,
    },
    /// `LANENORM_ISA` is set to something that is no tier.
    #[error("LANENORM_ISA is \"{0}\", expected scalar, neon, avx2 or avx512")]
    UnknownIsa(String),
}

/// What is wrong with rows at two strides. A run is all rows with one index of the first of their two axes: see
/// [`Rows::strided_2d`](crate::Rows::strided_2d).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Misfit {
    /// They overlap.
    #[error("they overlap, as each row has {}", Count(*cols, "column"))]
    Overlap {
        /// The number of columns.
        cols: usize,
    },
    /// Their extent or their number overflows `usize`.
    #[error("they overflow usize, as each row has {}", Count(*cols, "column"))]
    Overflow {
        /// The number of columns.
        cols: usize,
    },
    /// The buffer is too short for them.
    #[error("they take {}, but the buffer has {len}", Count(*needed, "element"))]
    TooShort {
        /// The length of the buffer.
        len: usize,
        /// The length it must have at least.
        needed: usize,
    },
    /// Another buffer of the call has runs of another length.
    #[error("expected runs of {}, as another buffer has", Count(*expected, "row"))]
    RunLen {
        /// The rows of each run of that buffer.
        expected: usize,
    },
}

fn fmt_runs(
    what: &str,
    &[runs, rows]: &[usize; 2],
    [outer_stride, stride]: &[usize; 2],
    misfit: &Misfit,
    f: &mut fmt::Formatter<'_>,
) -> fmt::Result {
    let (runs, rows) = (Count(runs, "run"), Count(rows, "row"));
    write!(f, "{what} has {runs} of {rows}; runs start {outer_stride} elements apart and rows {stride}: {misfit}")
}
