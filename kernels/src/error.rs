//! Why the arguments of a job are refused.

use core::fmt;

/// What is wrong with the arguments of a job. Where a constructor or a run returns an error, nothing has been written.
///
/// The variants and messages that plans have too are the same there.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Error {
    /// A buffer has the wrong length.
    Length {
        /// The buffer.
        what: &'static str,
        /// Its length.
        len: usize,
        /// The length it must have.
        expected: usize,
    },
    /// A buffer is too short for its rows.
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
    /// The rows of a buffer overlap.
    Overlap {
        /// The buffer.
        what: &'static str,
        /// The number of columns.
        cols: usize,
        /// The distance between the starts of two rows, in elements.
        stride: usize,
    },
    /// The extent of a buffer overflows `usize`.
    Overflow {
        /// The buffer.
        what: &'static str,
        /// The number of rows.
        rows: usize,
        /// The distance between the starts of two rows, in elements.
        stride: usize,
    },
    /// There are no groups of rows, or too many.
    Groups {
        /// The number of groups.
        groups: usize,
        /// The number of successive rows that each group serves.
        repeat: usize,
    },
    /// The groups do not divide the rows.
    GroupRows {
        /// The number of rows.
        rows: usize,
        /// The number of groups.
        groups: usize,
        /// The number of successive rows that each group serves.
        repeat: usize,
    },
    /// There is no such group of rows.
    NoGroup {
        /// The index of the group that was asked for.
        index: usize,
        /// The number of groups.
        groups: usize,
    },
    /// gamma and beta differ in type.
    Types {
        /// The type of gamma.
        gamma: &'static str,
        /// The type of beta.
        beta: &'static str,
    },
    /// RMS normalization is given something that only layer normalization has.
    NotInRms {
        /// What is given.
        what: &'static str,
        /// Its length.
        len: usize,
    },
    /// A job takes one row.
    OneRow {
        /// The number of rows that were given.
        rows: usize,
    },
    /// The rows are sums that are yet to be taken, of which nothing is known.
    UntakenSum {
        /// What is given, and cannot be known.
        what: &'static str,
    },
    /// A bias is given, but rows are no sums that it would be added to.
    BiasWithoutSum {
        /// The length of the bias.
        len: usize,
    },
    /// Something is given a second time.
    Twice {
        /// What is given.
        what: &'static str,
    },
    /// Something is given for a part of the rows of the buffers.
    Part {
        /// What is given.
        what: &'static str,
        /// The number of rows of the part.
        rows: usize,
        /// The number of all rows of the buffers.
        all: usize,
    },
    /// A statistic is given without another that belongs to it.
    Statistics {
        /// The number of rows.
        rows: usize,
        /// The statistic that is given.
        given: &'static str,
        /// The statistic that is missing.
        missing: &'static str,
    },
    /// A backward job has nothing to do.
    NoGradient,
    /// ds is given, but not the dx that it would be added to.
    DsWithoutDx {
        /// The rows of ds.
        rows: usize,
    },
    /// The moments given for a row cannot be the moments of that row: they are of fewer elements, of another type, or
    /// of no row.
    Moments {
        /// The row.
        row: usize,
        /// The number of elements that the moments count.
        count: f64,
        /// The scale of the moments.
        scale: f64,
        /// The [mean](crate::stats::Moments::mean) of the moments.
        mean: f64,
        /// The sum of squared deviations of the moments. It must not be negative.
        m2: f64,
        /// The number of columns.
        cols: usize,
        /// The type of x.
        dtype: &'static str,
    },
    /// eps is negative, infinite or NaN.
    Eps(f64),
}

impl Error {
    /// Refuses a buffer that has another length than it must have.
    #[inline(always)]
    pub(crate) const fn length(what: &'static str, len: usize, expected: usize) -> Result<(), Self> {
        if len == expected { Ok(()) } else { Err(Self::Length { what, len, expected }) }
    }

    /// Why `len` elements do not hold `rows` rows, at least one, that lie apart from one another.
    #[cold]
    #[inline]
    pub(crate) const fn of_rows(what: &'static str, len: usize, rows: usize, cols: usize, stride: usize) -> Self {
        if rows > 1 && stride < cols {
            return Self::Overlap { what, cols, stride };
        }
        if let Some(start) = (rows - 1).checked_mul(stride)
            && let Some(needed) = start.checked_add(cols)
        {
            return Self::TooShort { what, len, rows, cols, stride, needed };
        }
        Self::Overflow { what, rows, stride }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Length { what, len, expected } => write!(f, "{what} has {len} elements, expected {expected}"),
            Self::TooShort { what, len, rows, cols, stride, needed } => {
                write!(f, "{what} has {len} elements, but {rows} rows of {cols}, {stride} apart, take {needed}")
            }
            Self::Overlap { what, cols, stride } => {
                write!(f, "the rows of {what} overlap: they have {cols} columns and start {stride} elements apart")
            }
            Self::Overflow { what, rows, stride } => {
                write!(f, "{what} is too large: {rows} rows, {stride} elements apart, overflow usize")
            }
            Self::Groups { groups, repeat } => write!(
                f,
                "{groups} groups of {repeat} rows: expected at least one of each, and a product that does not \
                 overflow usize"
            ),
            Self::GroupRows { rows, groups, repeat } => {
                write!(f, "x has {rows} rows, which is not a multiple of {groups} groups of {repeat}")
            }
            Self::NoGroup { index, groups } => write!(f, "the group has index {index}, but there are {groups} groups"),
            Self::Types { gamma, beta } => {
                write!(f, "gamma has elements of {gamma}, but beta has elements of {beta}: expected one type")
            }
            Self::NotInRms { what, len } => {
                write!(f, "{what} has {len} elements, but RMS normalization has no {what}")
            }
            Self::OneRow { rows } => write!(f, "x has {rows} rows, expected 1"),
            Self::UntakenSum { what } => {
                write!(f, "x is a sum that is yet to be taken: its {what} cannot be known")
            }
            Self::BiasWithoutSum { len } => {
                write!(f, "bias has {len} elements, but x is no sum to add them to")
            }
            Self::Twice { what } => write!(f, "{what} is given a second time"),
            Self::Part { what, rows, all } => {
                write!(f, "{what} is given for {rows} of the {all} rows of the buffers, expected for all of them")
            }
            Self::Statistics { rows, given, missing } => {
                write!(f, "{given} of {rows} rows is given without {missing}: expected both or neither")
            }
            Self::NoGradient => f.write_str("no gradient is wanted: neither dx nor sums"),
            Self::DsWithoutDx { rows } => write!(f, "ds has {rows} rows, but there is no dx to add them to"),
            Self::Moments { row, count, scale, mean, m2, cols, dtype } => write!(
                f,
                "the moments of row {row} are of {count} elements at a scale of {scale}, with a mean of {mean} and an \
                 m2 of {m2}, which no row of {cols} columns of {dtype} has"
            ),
            Self::Eps(eps) => write!(f, "eps is {eps}, expected a finite number not less than 0"),
        }
    }
}

impl core::error::Error for Error {}
