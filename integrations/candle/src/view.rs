//! Tensors as rows of elements.

use std::cell::Cell;

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Tensor, WithDType, bail};
use lanenorm::{Element, Rows};

/// A type that both candle and lanenorm have.
pub(crate) trait Real: Element<Float: WithDType> + WithDType {
    /// The elements of a storage of this type, to be written where they lie.
    fn elements_mut(storage: &mut CpuStorage) -> Result<&mut [Self]>;
}

macro_rules! real {
    ($($type:ty: $name:ident),*) => {$(
        impl Real for $type {
            fn elements_mut(storage: &mut CpuStorage) -> Result<&mut [Self]> {
                match storage {
                    CpuStorage::$name(elements) => Ok(elements),
                    other => bail!("elements are {:?}, expected {:?}", other.dtype(), DType::$name),
                }
            }
        }
    )*};
}

real!(f32: F32, f64: F64, lanenorm::f16: F16, lanenorm::bf16: BF16);

/// The number of rows of a layout and the distance between their starts, if its last dimension is contiguous and the
/// others are evenly spaced and do not overlap.
pub(crate) fn rows(layout: &Layout) -> Option<(usize, usize)> {
    let (&cols, dims) = layout.dims().split_last()?;
    let (&step, strides) = layout.stride().split_last()?;
    if layout.shape().elem_count() == 0 {
        return Some((0, cols));
    }
    if cols > 1 && step != 1 {
        return None;
    }
    let (mut rows, mut stride) = (1, cols);
    for (&dim, &step) in dims.iter().zip(strides).rev().filter(|&(&dim, _)| dim > 1) {
        if rows == 1 {
            stride = step;
        } else if step != stride * rows {
            return None;
        }
        rows *= dim;
    }
    (stride >= cols).then_some((rows, stride))
}

/// The tensor itself if it is made of rows, else a contiguous copy.
pub(crate) fn rowwise(tensor: &Tensor) -> Result<Tensor> {
    if rows(tensor.layout()).is_some() { Ok(tensor.clone()) } else { tensor.contiguous() }
}

/// The elements of a tensor, which candle has locked for reading and lends.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    storage: &'a CpuStorage,
    layout: &'a Layout,
}

impl<'a> View<'a> {
    pub(crate) fn new(storage: &'a CpuStorage, layout: &'a Layout) -> Self {
        Self { storage, layout }
    }

    pub(crate) fn dtype(&self) -> DType {
        self.storage.dtype()
    }

    pub(crate) fn shape(&self) -> &'a Shape {
        self.layout.shape()
    }

    /// The elements from the first of the tensor on.
    fn elements<T: WithDType>(&self) -> Result<&'a [T]> {
        Ok(T::cpu_storage_as_slice(self.storage)?.get(self.layout.start_offset()..).unwrap_or_default())
    }

    pub(crate) fn rows<T: Real>(&self) -> Result<Rows<'a, T>> {
        match rows(self.layout) {
            Some((rows, stride)) => Ok(Rows::strided(self.elements()?, rows, stride)),
            None => bail!("{:?} is not made of rows", self.layout),
        }
    }

    /// The rows, each cut into `groups` rows, which divide them.
    pub(crate) fn groups<T: Real>(&self, groups: usize) -> Result<Rows<'a, T>> {
        match rows(self.layout) {
            _ if groups == 1 => self.rows(),
            Some((rows, stride)) => {
                Ok(Rows::strided_2d(self.elements()?, [rows, groups], [stride, self.cols() / groups]))
            }
            None => bail!("{:?} is not made of rows", self.layout),
        }
    }

    /// The last dimension.
    pub(crate) fn cols(&self) -> usize {
        self.layout.dims().last().copied().unwrap_or(0)
    }

    /// The elements of a contiguous tensor.
    pub(crate) fn row<T: WithDType>(&self) -> Result<&'a [T]> {
        let elements = self.elements()?;
        let len = self.layout.shape().elem_count();
        match elements.get(..len) {
            Some(row) if self.layout.is_contiguous() => Ok(row),
            _ => bail!("{:?} is not contiguous in {} elements", self.layout, elements.len()),
        }
    }
}

/// Lends the elements of a tensor to a function, locked for reading meanwhile.
///
/// A thread may read a buffer that it is reading already, as in a sum of two parts of one buffer. candle's public lock,
/// `storage_and_layout`, would then wait behind a thread that waits to write, and so for ever. The lock that candle's
/// operations take does not wait: this is such an operation, without a result.
pub(crate) fn read<R>(tensor: &Tensor, run: impl FnOnce(View<'_>) -> Result<R>) -> Result<R> {
    let read = Read { run: Cell::new(Some(run)), result: Cell::new(None) };
    tensor.apply_op1_no_bwd(&read)?;
    match read.result.into_inner() {
        Some(result) => Ok(result),
        None => bail!("{:?} was not read", tensor.layout()),
    }
}

/// [`read`] for a tensor that may be absent.
pub(crate) fn read_if_given<R>(tensor: Option<&Tensor>, run: impl FnOnce(Option<View<'_>>) -> Result<R>) -> Result<R> {
    match tensor {
        Some(tensor) => read(tensor, |view| run(Some(view))),
        None => run(None),
    }
}

struct Read<F, R> {
    run: Cell<Option<F>>,
    result: Cell<Option<R>>,
}

impl<R, F: FnOnce(View<'_>) -> Result<R>> CustomOp1 for Read<F, R> {
    fn name(&self) -> &'static str {
        "lanenorm"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        if let Some(run) = self.run.take() {
            self.result.set(Some(run(View::new(storage, layout))?));
        }
        Ok((CpuStorage::U8(Vec::new()), Shape::from(0)))
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{self, AssertUnwindSafe};

    use candle_core::{Device, InplaceOp1};

    use super::*;

    #[test]
    fn only_what_is_not_made_of_rows_is_copied() -> Result<()> {
        let x = Tensor::zeros((2, 3, 8), DType::F32, &Device::Cpu)?;
        let cases = [
            ("contiguous", x.clone(), Some((6, 8))),
            ("one row", x.get(1)?.get(1)?, Some((1, 8))),
            ("some columns", x.narrow(2, 2, 4)?, Some((6, 8))),
            ("some rows of one sample", x.get(1)?.narrow(0, 1, 2)?, Some((2, 8))),
            ("one row of each sample", x.narrow(1, 1, 1)?, Some((2, 24))),
            ("heads", x.reshape((2, 3, 2, 4))?, Some((12, 4))),
            ("one column", x.narrow(2, 0, 1)?, Some((6, 8))),
            ("no rows", x.narrow(0, 1, 0)?, Some((0, 8))),
            ("no columns", x.narrow(2, 8, 0)?, Some((0, 0))),
            ("some rows of each sample", x.narrow(1, 0, 2)?, None),
            ("exchanged dimensions", x.transpose(0, 1)?, None),
            ("columns apart", x.transpose(1, 2)?, None),
            ("one row again and again", x.get(0)?.get(0)?.expand((4, 8))?, None),
        ];
        for (what, x, expected) in cases {
            assert_eq!(rows(x.layout()), expected, "{what}");
            let copied = rowwise(&x)?;
            assert_eq!(copied.dims(), x.dims(), "{what}");
            assert!(rows(copied.layout()).is_some(), "{what}");
            assert_eq!(copied.id() == x.id(), expected.is_some(), "{what}");
        }
        Ok(())
    }

    #[test]
    fn what_is_overwritten_survives_a_panic() -> Result<()> {
        struct Panics;

        impl InplaceOp1 for Panics {
            fn name(&self) -> &'static str {
                "panics"
            }

            fn cpu_fwd(&self, storage: &mut CpuStorage, _: &Layout) -> Result<()> {
                f32::elements_mut(storage)?[0] = 7.0;
                panic!("planted");
            }
        }

        let x = Tensor::new(&[1f32, 2.0, 3.0], &Device::Cpu)?;
        let panic = panic::catch_unwind(AssertUnwindSafe(|| x.inplace_op1(&Panics)));
        assert_eq!(panic.expect_err("a panic").downcast_ref(), Some(&"planted"));
        assert_eq!(x.to_vec1::<f32>()?, [7.0, 2.0, 3.0]);
        // The elements are asked for in another type than they have.
        let error = f64::elements_mut(&mut CpuStorage::F32(Vec::new())).expect_err("an error").to_string();
        assert!(error.contains("elements are F32, expected F64"), "{error}");
        Ok(())
    }
}
