//! Rows at two strides, given by a pointer.
#![allow(unsafe_code)]

#[cfg(feature = "ndarray")]
use crate::Error;

/// `shape[0]` runs of `shape[1]` rows: row `i` of run `o` starts `o * strides[0] + i * strides[1]` elements behind `p`.
///
/// It stands for the borrow of what it points to, of which [`Rows`](crate::Rows) and [`RowsMut`](crate::RowsMut) have
/// the lifetime.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grid {
    pub(crate) p: Ptr,
    pub(crate) holds: Holds,
    pub(crate) shape: [usize; 2],
    pub(crate) strides: [usize; 2],
}

/// What has been promised of the elements at the pointer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Holds {
    /// The number of elements from the pointer on.
    Elements(usize),
    /// The number of columns of each row. Elements between the rows may belong to others.
    Columns(usize),
    /// The axes of a view are not those of a grid: there is nothing.
    #[cfg(feature = "ndarray")]
    Nothing(Unfit),
}

/// Why the axes of a view are not those of a grid.
#[cfg(feature = "ndarray")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unfit {
    Column { axis: usize, stride: isize },
    Negative { axis: usize, stride: isize },
    Third { axis: usize, stride: usize, expected: usize },
}

#[cfg(feature = "ndarray")]
impl Unfit {
    pub(crate) fn of(self, what: &'static str) -> Error {
        match self {
            Self::Column { axis, stride } => Error::ColumnStride { what, axis, stride },
            Self::Negative { axis, stride } => Error::NegativeStride { what, axis, stride },
            Self::Third { axis, stride, expected } => Error::ThirdStride { what, axis, stride, expected },
        }
    }
}

impl Grid {
    /// The rows and their stride, if one stride is enough.
    pub(crate) fn even([outer, inner]: [usize; 2], [outer_stride, stride]: [usize; 2]) -> Option<(usize, usize)> {
        match (outer, inner) {
            (0, _) | (_, 0) => Some((0, stride)),
            (1, rows) => Some((rows, stride)),
            (rows, 1) => Some((rows, outer_stride)),
            _ if inner.checked_mul(stride) == Some(outer_stride) => Some((outer.checked_mul(inner)?, stride)),
            _ => None,
        }
    }
}

/// A pointer to elements of any type that whoever holds it has borrowed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ptr(pub(crate) *const ());

// SAFETY: it is an address. Who follows it has, beside it, the marker of a borrow, which is Send if that may be done.
unsafe impl Send for Ptr {}
// SAFETY: as above.
unsafe impl Sync for Ptr {}
