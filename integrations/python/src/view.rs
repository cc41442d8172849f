//! Tensors of whatever library, and how their rows lie in memory.

use std::ffi::c_void;

use lanenorm::capi::{lanenorm_rows, lanenorm_rows_mut};

use crate::dtype::Dtype;

/// A tensor in memory, which somebody else keeps alive. Its last axes are normalized.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View<'a> {
    pub(crate) data: *mut c_void,
    pub(crate) dtype: Dtype,
    pub(crate) shape: &'a [usize],
    /// The distances between elements along each axis, in steps of `step` bytes.
    pub(crate) strides: &'a [isize],
    pub(crate) step: usize,
}

impl View<'_> {
    /// The number of elements.
    pub(crate) fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// The distance along an axis in elements, if it is a number of these.
    fn stride(&self, axis: usize) -> Option<usize> {
        let bytes = usize::try_from(self.strides[axis]).ok()?.checked_mul(self.step)?;
        bytes.is_multiple_of(self.dtype.size()).then_some(bytes / self.dtype.size())
    }

    /// Whether the elements of the axes from `axis` on lie one after the other, in the order of C.
    pub(crate) fn is_contiguous_from(&self, axis: usize) -> bool {
        let mut expected = 1;
        for at in (axis..self.shape.len()).rev() {
            if self.shape[at] != 1 && self.stride(at) != Some(expected) {
                return false;
            }
            expected *= self.shape[at];
        }
        true
    }

    pub(crate) fn is_aligned(&self) -> bool {
        (self.data as usize).is_multiple_of(self.dtype.size())
    }
}

/// How rows lie that several tensors have in common: `rows` rows in runs of `inner`, with two strides for each tensor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout<const N: usize> {
    pub(crate) rows: usize,
    pub(crate) inner: usize,
    strides: [[usize; 2]; N],
}

/// Successive axes whose rows are evenly spaced in all tensors: `count` rows, at the distance `strides[i]` in tensor
/// `i`.
#[derive(Clone, Copy)]
struct Run<const N: usize> {
    count: usize,
    strides: [usize; N],
}

impl<const N: usize> Layout<N> {
    /// The layout of tensors that have the axes before `first` in common and whose axes from there on are rows. `None`
    /// if some rows are not contiguous, or if the rows are not evenly spaced in runs of the same length.
    pub(crate) fn new(views: [&View<'_>; N], first: usize) -> Option<Self> {
        let shape = &views[0].shape[..first];
        let rows = shape.iter().product();
        let mut layout = Self { rows, inner: rows, strides: [[0; 2]; N] };
        if views[0].len() == 0 {
            return Some(layout);
        }
        if !views.into_iter().all(|view| view.is_aligned() && view.is_contiguous_from(first)) {
            return None;
        }
        let mut runs: [Option<Run<N>>; 2] = [None; 2];
        for axis in (0..first).rev().filter(|&axis| shape[axis] != 1) {
            let mut strides = [0; N];
            for (stride, view) in strides.iter_mut().zip(views) {
                *stride = view.stride(axis).filter(|&stride| stride > 0)?;
            }
            let run = Run { count: shape[axis], strides };
            let last = if runs[1].is_some() { 1 } else { 0 };
            match &mut runs[last] {
                Some(before) if (0..N).all(|i| strides[i] == before.strides[i] * before.count) => {
                    before.count *= run.count;
                }
                None => runs[0] = Some(run),
                Some(_) if last == 0 => runs[1] = Some(run),
                Some(_) => return None,
            }
        }
        if let Some(run) = runs[0] {
            layout.inner = run.count;
            (0..N).for_each(|i| layout.strides[i][0] = run.strides[i]);
        }
        if let Some(run) = runs[1] {
            (0..N).for_each(|i| layout.strides[i][1] = run.strides[i]);
        }
        Some(layout)
    }

    /// The rows of tensor `i`.
    pub(crate) fn rows(&self, i: usize, view: &View<'_>) -> lanenorm_rows {
        let [row_stride, outer_stride] = self.strides[i];
        lanenorm_rows { data: view.data.cast_const(), row_stride, outer_stride }
    }

    /// The rows of tensor `i`, to be written.
    pub(crate) fn rows_mut(&self, i: usize, view: &View<'_>) -> lanenorm_rows_mut {
        let [row_stride, outer_stride] = self.strides[i];
        lanenorm_rows_mut { data: view.data, row_stride, outer_stride }
    }
}
