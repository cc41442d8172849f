//! Why the arguments of a job are refused.

use core::fmt;

/// What is wrong with the arguments of a job. Where a constructor or a run returns an error, nothing has been written.
///
/// Plans refuse arguments with the same errors, within an error of their own.
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
    /// A buffer of [samples, channels, pixels] has no whole number of samples.
    Samples {
        /// The buffer.
        what: &'static str,
        /// Its number of elements.
        len: usize,
        /// The number of channels.
        cols: usize,
        /// The number of pixels of a channel.
        pixels: usize,
    },
    /// There are no groups of channels, or their number does not divide that of the channels.
    ChannelGroups {
        /// The number of channels.
        channels: usize,
        /// The number of groups.
        groups: usize,
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
    /// The last group of rows serves none, or too many.
    LastGroup {
        /// The number of groups.
        groups: usize,
        /// The number of successive rows that each group but the last serves.
        repeat: usize,
        /// The number of successive rows that the last group serves.
        last: usize,
    },
    /// The groups, of which the last serves another number of rows than the others, do not divide the rows.
    GroupPeriod {
        /// The number of rows.
        rows: usize,
        /// The number of successive rows that all groups together serve.
        period: usize,
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
    /// Moments are asked for at a scale that [`Moments::rescale`](crate::stats::Moments::rescale) does not give.
    Scale {
        /// The scale that was asked for.
        scale: f64,
        /// The type of x.
        dtype: &'static str,
    },
    /// eps is negative, infinite or NaN.
    Eps(f64),
    /// eps is the least norm of a row, and its square leaves the range of f64.
    LeastNorm(f64),
    /// Rows are without a y, but the job writes y.
    NoY {
        /// The number of rows.
        rows: usize,
    },
    /// A part of a scheme of quantization is out of range, or does not go with the others.
    Scheme {
        /// The part.
        what: &'static str,
        /// Its value.
        given: f64,
        /// What is expected.
        expected: &'static str,
    },
    /// Sums of 16 bits are to be quantized, but others than the rounded ones are normalized.
    QuantizedSums {
        /// Which sums are normalized: the name in [`Sums`](crate::rounding::Sums).
        sums: &'static str,
    },
    /// Blocks that share a scale do not divide the columns.
    Blocks {
        /// The number of elements of a block.
        block: usize,
        /// The number of columns.
        cols: usize,
    },
}

/// A number of things, for messages: "1 row", "2 rows".
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct Count<N>(pub N, pub &'static str);

impl<N: fmt::Display + PartialEq + From<u8>> fmt::Display for Count<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(number, what) = self;
        write!(f, "{number} {what}{}", if *number == N::from(1) { "" } else { "s" })
    }
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
        let elements = |n| Count(n, "element");
        let rows_of = |n| Count(n, "row");
        let columns = |n| Count(n, "column");
        let groups_of = |n| Count(n, "group");
        match *self {
            Self::Length { what, len, expected } => write!(f, "{what} has {}, expected {expected}", elements(len)),
            Self::TooShort { what, len, rows, cols, stride, needed } => write!(
                f,
                "{what} has {}, but {} of {cols}, {stride} apart, take {needed}",
                elements(len),
                rows_of(rows)
            ),
            Self::Samples { what, len, cols, pixels } => write!(
                f,
                "{what} has {}, which is not a whole number of samples of {} of {}",
                elements(len),
                Count(cols, "channel"),
                Count(pixels, "pixel")
            ),
            Self::ChannelGroups { channels, groups } => {
                write!(f, "{}, expected a divisor of the {}", groups_of(groups), Count(channels, "channel"))
            }
            Self::Overlap { what, cols, stride } => write!(
                f,
                "the rows of {what} overlap: they have {} and start {} apart",
                columns(cols),
                elements(stride)
            ),
            Self::Overflow { what, rows, stride } => {
                write!(f, "{what} is too large: {}, {} apart, overflow usize", rows_of(rows), elements(stride))
            }
            Self::Groups { groups, repeat } => write!(
                f,
                "{} of {}: expected at least one of each, and a product that does not overflow usize",
                groups_of(groups),
                rows_of(repeat)
            ),
            Self::GroupRows { rows, groups, repeat } => {
                write!(f, "x has {}, which is not a multiple of {} of {repeat}", rows_of(rows), groups_of(groups))
            }
            Self::LastGroup { groups, repeat, last } => write!(
                f,
                "{} of {}, the last of {last}: expected at least one for the last, and a sum that does not overflow usize",
                groups_of(groups),
                rows_of(repeat)
            ),
            Self::GroupPeriod { rows, period } => {
                write!(
                    f,
                    "x has {}, which is not a multiple of the {period} that all groups together serve",
                    rows_of(rows)
                )
            }
            Self::NoGroup { index, groups } => {
                write!(f, "the group has index {index}, but the number of groups is {groups}")
            }
            Self::Types { gamma, beta } => {
                write!(f, "gamma has elements of {gamma}, but beta has elements of {beta}: expected one type")
            }
            Self::NotInRms { what, len } => {
                write!(f, "{what} has {}, but RMS normalization has no {what}", elements(len))
            }
            Self::OneRow { rows } => write!(f, "x has {}, expected 1", rows_of(rows)),
            Self::UntakenSum { what } => {
                write!(f, "x is a sum that is yet to be taken: its {what} cannot be known")
            }
            Self::BiasWithoutSum { len } => {
                write!(f, "bias has {}, but x is no sum to add a bias to", elements(len))
            }
            Self::Twice { what } => write!(f, "{what} is given a second time"),
            Self::Part { what, rows, all } => {
                write!(f, "{what} is given for {rows} of the {} of the buffers, expected for all of them", rows_of(all))
            }
            Self::Statistics { rows, given, missing } => {
                write!(f, "{given} of {} is given without {missing}: expected both or neither", rows_of(rows))
            }
            Self::NoGradient => f.write_str("no gradient is wanted: none of dx, dgamma and dbeta is given"),
            Self::DsWithoutDx { rows } => write!(f, "ds has {}, but there is no dx to add ds to", rows_of(rows)),
            Self::Moments { row, count, scale, mean, m2, cols, dtype } => write!(
                f,
                "the moments of row {row} are of {} at a scale of {scale}, with a mean of {mean} and an m2 of {m2}, \
                 which no row of {} of {dtype} has",
                Count(count, "element"),
                columns(cols)
            ),
            Self::Scale { scale, dtype } => {
                write!(f, "scale is {scale}, expected one that rescale gives for rows of {dtype}")
            }
            Self::LeastNorm(eps) => {
                write!(f, "eps is {eps:e}, the least norm of a row: expected 0, or a number from 1e-150 to 1e150")
            }
            Self::Eps(eps) => write!(f, "eps is {eps}, expected a finite number not less than 0"),
            Self::NoY { rows } => write!(f, "y has 0 rows, expected {rows}: the job writes y"),
            Self::Scheme { what, given, expected } => {
                write!(f, "the {what} of the scheme is {given}, expected {expected}")
            }
            Self::QuantizedSums { sums } => {
                write!(f, "the sums that are normalized are {sums}, but those that are quantized must be Rounded")
            }
            Self::Blocks { block, cols } => {
                write!(f, "x has {}, which is not a multiple of the {} of a block", columns(cols), elements(block))
            }
        }
    }
}

impl core::error::Error for Error {}
