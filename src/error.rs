use std::fmt;

use lanenorm_kernels::Tier;

/// What is wrong with a call. A call that returns an error has written nothing.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A contiguous buffer does not hold a whole number of rows.
    #[error("{what} has {len} elements, which is not a whole number of rows of {cols}")]
    Ragged {
        /// The buffer.
        what: &'static str,
        /// Its length.
        len: usize,
        /// The number of columns.
        cols: usize,
    },
    /// A buffer has the wrong length.
    #[error("{what} has {len} elements, expected {expected}")]
    Length {
        /// The buffer.
        what: &'static str,
        /// Its length.
        len: usize,
        /// The length it must have.
        expected: usize,
    },
    /// A strided buffer is too short for its rows.
    #[error("{what} has {len} elements, but {rows} rows of {cols}, {stride} apart, take {needed}")]
    TooShort {
        /// The buffer.
        what: &'static str,
        /// Its length.
        len: usize,
        /// The number of rows.
        rows: usize,
        /// The number of columns.
        cols: usize,
        /// The distance between the starts of two rows, in elements.
        stride: usize,
        /// The length it must have at least.
        needed: usize,
    },
    /// The rows of a strided buffer overlap.
    #[error("the rows of {what} overlap: they have {cols} columns and start {stride} elements apart")]
    Overlap {
        /// The buffer.
        what: &'static str,
        /// The number of columns.
        cols: usize,
        /// The distance between the starts of two rows, in elements.
        stride: usize,
    },
    /// The extent of a strided buffer overflows `usize`.
    #[error("{what} is too large: {rows} rows, {stride} elements apart, overflow usize")]
    Overflow {
        /// The buffer.
        what: &'static str,
        /// The number of rows.
        rows: usize,
        /// The distance between the starts of two rows, in elements.
        stride: usize,
    },
    /// Rows at two strides cannot be, or do not fit the plan or the other buffers.
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
    #[error("axis {axis} of {what} has a stride of {stride}, expected one that is not below 0")]
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
        "axis {axis} of {what} has a stride of {stride}, expected {expected}: rows lie at two strides, and not at three"
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
    /// x and y differ in their number of rows.
    #[error("x has {x} rows, but y has {y}")]
    Rows {
        /// The rows of x.
        x: usize,
        /// The rows of y.
        y: usize,
    },
    /// x and another buffer of a sum differ in their number of rows.
    #[error("x has {x} rows, but {what} has {rows}")]
    SumRows {
        /// The other buffer.
        what: &'static str,
        /// The rows of x.
        x: usize,
        /// The rows of the other buffer.
        rows: usize,
    },
    /// dy and another buffer of a backward call differ in their number of rows.
    #[error("dy has {dy} rows, but {what} has {rows}")]
    GradRows {
        /// The other buffer.
        what: &'static str,
        /// The rows of dy.
        dy: usize,
        /// The rows of the other buffer.
        rows: usize,
    },
    /// A backward call has nothing to do.
    #[error("no gradient is wanted: none of dx, dgamma and dbeta is given")]
    NoGradient,
    /// ds is given, but not the dx that it would be added to.
    #[error("ds has {rows} rows, but there is no dx to add them to")]
    DsWithoutDx {
        /// The rows of ds.
        rows: usize,
    },
    /// The scratch memory of a backward call is too short.
    #[error("scratch has {len} elements, but {rows} rows of {cols} take at least {needed}")]
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
    /// A backward call is given one statistic without another that belongs to it.
    #[error("{given} of {rows} rows is given without {missing}: expected both or neither")]
    Statistics {
        /// The number of rows.
        rows: usize,
        /// The statistic that is given.
        given: &'static str,
        /// The statistic that is missing.
        missing: &'static str,
    },
    /// There are no groups of gamma and beta, or too many.
    #[error(
        "{groups} groups of {repeat} rows: expected at least one of each, and a product that does not overflow usize"
    )]
    Groups {
        /// The number of groups.
        groups: usize,
        /// The number of successive rows that each group serves.
        repeat: usize,
    },
    /// The groups of gamma and beta do not divide the rows.
    #[error("x has {rows} rows, which is not a multiple of {groups} groups of {repeat}")]
    GroupRows {
        /// The rows of x.
        rows: usize,
        /// The number of groups.
        groups: usize,
        /// The number of successive rows that each group serves.
        repeat: usize,
    },
    /// The moments given for a row cannot be the moments of that row: they are of fewer elements, of another type, or
    /// of no row.
    #[error(
        "the moments of row {row} are of {count} elements at a scale of {scale}, with a mean of {mean} and an m2 of {m2}, \
         which no row of {cols} columns of {dtype} has"
    )]
    Moments {
        /// The row.
        row: usize,
        /// The number of elements that the moments count.
        count: f64,
        /// The scale of the moments.
        scale: f64,
        /// The [mean](lanenorm_kernels::stats::Moments::mean) of the moments.
        mean: f64,
        /// The sum of squared deviations of the moments. It must not be negative.
        m2: f64,
        /// The number of columns.
        cols: usize,
        /// The type of x.
        dtype: &'static str,
    },
    /// Moments are asked for at a scale that [`rescale`](crate::LayerNorm::rescale) does not give.
    #[error("scale is {scale}, expected one that rescale gives for rows of {dtype}")]
    Scale {
        /// The scale that was asked for.
        scale: f64,
        /// The type of x.
        dtype: &'static str,
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
    #[error("axis is {axis}, but the shape has {rank} dimensions")]
    Axis {
        /// The axis that was asked for.
        axis: isize,
        /// The number of dimensions.
        rank: usize,
    },
    /// eps is negative, infinite or NaN.
    #[error("eps is {0}, expected a finite number not less than 0")]
    Eps(f64),
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

/// What is wrong with rows at two strides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Misfit {
    /// They overlap.
    #[error("overlap: each has {cols} columns")]
    Overlap {
        /// The number of columns.
        cols: usize,
    },
    /// Their extent overflows `usize`.
    #[error("overflow usize: each has {cols} columns")]
    Overflow {
        /// The number of columns.
        cols: usize,
    },
    /// The buffer is too short for them.
    #[error("take {needed} elements, and there are {len}")]
    TooShort {
        /// The length of the buffer.
        len: usize,
        /// The length it must have at least.
        needed: usize,
    },
    /// The plan has another number of columns.
    #[error("have {cols} columns, expected {expected}")]
    Columns {
        /// The number of columns.
        cols: usize,
        /// That of the plan.
        expected: usize,
    },
    /// Another buffer of the call has runs of another length.
    #[error("do not go with the runs of {expected} rows that another buffer has")]
    RunLen {
        /// The rows of each run of that buffer.
        expected: usize,
    },
}

fn fmt_runs(
    what: &str,
    [runs, rows]: &[usize; 2],
    [outer_stride, stride]: &[usize; 2],
    misfit: &Misfit,
    f: &mut fmt::Formatter<'_>,
) -> fmt::Result {
    write!(f, "{what}: {runs} runs of {rows} rows, {outer_stride} and {stride} elements apart, {misfit}")
}
