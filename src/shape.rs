//! Every check of lengths and strides, each made once per call and before anything is written.

use crate::Error;
use crate::rows::Layout;

/// The number of rows and their stride, if `len` elements hold them.
#[inline]
pub(crate) fn rows(what: &'static str, len: usize, layout: Layout, cols: usize) -> Result<(usize, usize), Error> {
    match layout {
        Layout::Contiguous if cols == 0 && len == 0 => Ok((0, 0)),
        Layout::Contiguous if !len.is_multiple_of(cols) => Err(Error::Ragged { what, len, cols }),
        Layout::Contiguous => Ok((len / cols, cols)),
        Layout::Strided { rows, stride } if rows == 0 || cols == 0 => Ok((rows, stride)),
        Layout::Strided { rows, stride } => {
            if rows > 1 && stride < cols {
                return Err(Error::Overlap { what, cols, stride });
            }
            let needed = (rows - 1)
                .checked_mul(stride)
                .and_then(|start| start.checked_add(cols))
                .ok_or(Error::Overflow { what, rows, stride })?;
            if len < needed {
                return Err(Error::TooShort { what, len, rows, cols, stride, needed });
            }
            Ok((rows, stride))
        }
    }
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
        Some(len) if len != expected => Err(Error::Length { what, len, expected }),
        _ => Ok(()),
    }
}

/// Checks that eps is finite and not negative.
pub(crate) fn eps(eps: f64) -> Result<(), Error> {
    // By bits: a comparison raises flags. Where subnormal numbers count as zeros, it also takes negative ones for 0.
    let bits = std::hint::black_box(eps.to_bits());
    if bits < f64::INFINITY.to_bits() || bits == (-0.0_f64).to_bits() { Ok(()) } else { Err(Error::Eps(eps)) }
}
