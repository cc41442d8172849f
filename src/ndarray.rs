//! Views of arrays of the crate `ndarray` as rows. What users read of it stands at the conversions into [`Rows`].
#![allow(unsafe_code)]

use ndarray::{ArrayBase, ArrayView, ArrayView1, ArrayViewMut, ArrayViewMut1, Data, DataMut, Dimension, Ix1};

use crate::grid::{Grid, Holds, Ptr, Unfit};
use crate::rows::{Rows, RowsMut};
use crate::slice::{MaybeSlice, Slice, SliceMut};

/// The axes of an array, joined to those of a grid.
#[derive(Debug, PartialEq, Eq)]
struct Axes {
    shape: [usize; 3],
    strides: [usize; 2],
}

impl Axes {
    fn join(shape: &[usize], strides: &[isize]) -> Result<Self, Unfit> {
        let Some((&cols, outer)) = shape.split_last() else {
            // One element.
            return Ok(Self { shape: [1, 1, 1], strides: [1, 1] });
        };
        if shape.contains(&0) {
            return Ok(Self { shape: [1, outer.iter().product(), cols], strides: [cols, cols] });
        }
        let last = outer.len();
        if cols > 1 && strides[last] != 1 {
            return Err(Unfit::Column { axis: last, stride: strides[last] });
        }
        // Lengths and strides, from the inside.
        let mut joined = [(1, cols), (1, 0)];
        let mut used = 0;
        for (axis, (&len, &stride)) in outer.iter().zip(strides).enumerate().rev().filter(|&(_, (&len, _))| len > 1) {
            let Ok(stride) = usize::try_from(stride) else { return Err(Unfit::Negative { axis, stride }) };
            if used > 0 {
                let (joined_len, joined_stride) = &mut joined[used - 1];
                // Without overflow: the array has an element there.
                let expected = joined_stride.wrapping_mul(*joined_len);
                if stride == expected {
                    *joined_len *= len;
                    continue;
                }
                if used == joined.len() {
                    return Err(Unfit::Third { axis, stride, expected });
                }
            }
            joined[used] = (len, stride);
            used += 1;
        }
        let [(inner, stride), (outer, outer_stride)] = joined;
        Ok(Self { shape: [outer, inner, cols], strides: [outer_stride, stride] })
    }

    /// A grid of which nothing is read, for axes that do not fit.
    fn nothing(unfit: Unfit) -> Grid {
        Grid { p: Ptr(std::ptr::null()), holds: Holds::Nothing(unfit), shape: [0; 2], strides: [0; 2] }
    }
}

/// The last axis of an array is a row, and its elements follow one another. There may be any number of axes before it.
/// Axes that continue one another are joined, and at most two strides may be left then. Axes may be sliced or
/// exchanged. An array of one axis is one row, and an array without axes is one row of one element.
///
/// ```
/// use lanenorm::RmsNorm;
/// use ndarray::{Array3, s};
///
/// let plan = RmsNorm::new(2, 0.0)?;
/// // Of 3 heads of each token, two are normalized where they lie.
/// let mut qkv = Array3::from_elem((4, 3, 2), 5.0);
/// plan.call_in_place(qkv.slice_mut(s![.., ..2, ..])).run()?;
/// assert_eq!(qkv.slice(s![3, .., 0]).to_vec(), [1.0, 1.0, 5.0]);
///
/// let x = Array3::from_elem((2, 3, 2), 7.0);
/// let mut y = Array3::<f64>::zeros((3, 2, 2)); // the first two axes of x exchanged
/// plan.call(&x).to(y.view_mut().permuted_axes([1, 0, 2]))?;
/// assert!(y.iter().all(|&v| v == 1.0));
/// # Ok::<(), lanenorm::Error>(())
/// ```
///
/// An array that does not fit becomes rows too, and the call returns an error that names axis and stride: if the last
/// axis is not contiguous, if a stride is negative, or if the axes before the last one lie at more than two strides.
/// The last axis must have the columns of the plan, also in an array without rows: on a plan of 4 columns, an array of
/// shape (0, 4) has no rows, and arrays of shape (0, 5), or of shape (0), which is one row of no columns, are refused.
///
/// ```
/// use lanenorm::{Error, RmsNorm};
/// use ndarray::{Array1, Array2};
///
/// let plan = RmsNorm::new(4, 0.0)?;
/// assert_eq!(plan.forward_to_vec(&Array2::<f32>::zeros((0, 4)), None)?, []);
/// let refused = plan.forward_to_vec(&Array2::<f32>::zeros((0, 5)), None);
/// assert_eq!(refused, Err(Error::Columns { what: "x", cols: 5, expected: 4 }));
/// let refused = plan.forward_to_vec(&Array1::<f32>::zeros(0), None);
/// assert_eq!(refused, Err(Error::Columns { what: "x", cols: 0, expected: 4 }));
/// # Ok::<(), Error>(())
/// ```
///
/// Vectors may be arrays of one axis: gamma, beta, bias, statistics and so on. Their elements must follow one another,
/// or the call returns an error.
///
/// ```
/// use lanenorm::{Error, RmsNorm};
/// use ndarray::{Array1, array, s};
///
/// let plan = RmsNorm::new(2, 0.0)?;
/// let (x, gamma, mut rstd) = (array![[3.0f32, -3.0], [2.0, 2.0]], array![1.0, 2.0], Array1::zeros(2));
/// let y: Vec<f32> = plan.call(&x).gamma(&gamma).rstd_to(&mut rstd).to_vec()?;
/// assert_eq!((y, rstd), (vec![1.0, -2.0, 1.0, 2.0], array![1.0 / 3.0, 0.5]));
///
/// let refused = plan.call(&x).gamma(x.slice(s![.., 0])).to_vec::<f32>();
/// assert_eq!(refused, Err(Error::VectorStride { what: "gamma", stride: 2 }));
/// # Ok::<(), Error>(())
/// ```
impl<'a, T, D: Dimension> From<ArrayView<'a, T, D>> for Rows<'a, T> {
    fn from(view: ArrayView<'a, T, D>) -> Self {
        match Axes::join(view.shape(), view.strides()) {
            // SAFETY: the rows are all elements of the view, which borrows them for 'a.
            Ok(Axes { shape, strides }) => unsafe { Self::from_raw_parts(view.as_ptr(), shape, strides) },
            Err(unfit) => Self::grid(Axes::nothing(unfit)),
        }
    }
}

/// As of a view.
impl<'a, T, S: Data<Elem = T>, D: Dimension> From<&'a ArrayBase<S, D>> for Rows<'a, T> {
    fn from(array: &'a ArrayBase<S, D>) -> Self {
        array.view().into()
    }
}

/// As of a view into [`Rows`]: the last axis of an array is a row.
impl<'a, T, D: Dimension> From<ArrayViewMut<'a, T, D>> for RowsMut<'a, T> {
    fn from(mut view: ArrayViewMut<'a, T, D>) -> Self {
        match Axes::join(view.shape(), view.strides()) {
            // SAFETY: the rows are all elements of the view, which borrows them for 'a, and nothing else does.
            Ok(Axes { shape, strides }) => unsafe { Self::from_raw_parts(view.as_mut_ptr(), shape, strides) },
            Err(unfit) => Self::grid(Axes::nothing(unfit)),
        }
    }
}

/// As of a view.
impl<'a, T, S: DataMut<Elem = T>, D: Dimension> From<&'a mut ArrayBase<S, D>> for RowsMut<'a, T> {
    fn from(array: &'a mut ArrayBase<S, D>) -> Self {
        array.view_mut().into()
    }
}

/// An array of one axis, whose elements follow one another.
impl<'a, T> From<ArrayView1<'a, T>> for Slice<'a, T> {
    fn from(view: ArrayView1<'a, T>) -> Self {
        let stride = view.strides()[0];
        Self(view.to_slice().map_or(MaybeSlice::Strided(stride), MaybeSlice::Slice))
    }
}

/// An array of one axis, whose elements follow one another.
impl<'a, T, S: Data<Elem = T>> From<&'a ArrayBase<S, Ix1>> for Slice<'a, T> {
    fn from(array: &'a ArrayBase<S, Ix1>) -> Self {
        array.view().into()
    }
}

/// An array of one axis, whose elements follow one another.
impl<'a, T> From<ArrayViewMut1<'a, T>> for SliceMut<'a, T> {
    fn from(view: ArrayViewMut1<'a, T>) -> Self {
        let stride = view.strides()[0];
        Self(view.into_slice().map_or(MaybeSlice::Strided(stride), MaybeSlice::Slice))
    }
}

/// An array of one axis, whose elements follow one another.
impl<'a, T, S: DataMut<Elem = T>> From<&'a mut ArrayBase<S, Ix1>> for SliceMut<'a, T> {
    fn from(array: &'a mut ArrayBase<S, Ix1>) -> Self {
        array.view_mut().into()
    }
}
