//! Tensors as rows of elements.

use candle_core::{Layout, Result, Storage, StorageRef, Tensor, WithDType, bail};
use lanenorm::{Element, Rows};

/// A type that both candle and lanenorm have.
pub(crate) trait Real: Element<Float: WithDType> + WithDType {}

impl<T: Element<Float: WithDType> + WithDType> Real for T {}

/// The number of rows of a layout and the distance between their starts, if its last dimension is contiguous and the others
/// are evenly spaced and do not overlap.
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

/// A tensor whose memory is being read.
pub(crate) struct View<'a> {
    storage: StorageRef<'a>,
    layout: &'a Layout,
}

impl<'a> View<'a> {
    pub(crate) fn new(tensor: &'a Tensor) -> Self {
        let (storage, layout) = tensor.storage_and_layout();
        Self { storage, layout }
    }

    /// The elements from the first of the tensor on.
    fn elements<T: WithDType>(&self) -> Result<&[T]> {
        let Storage::Cpu(storage) = &*self.storage else {
            bail!("lanenorm runs on the CPU, and a tensor is on another device");
        };
        Ok(T::cpu_storage_as_slice(storage)?.get(self.layout.start_offset()..).unwrap_or_default())
    }

    pub(crate) fn rows<T: Real>(&self) -> Result<Rows<'_, T>> {
        match rows(self.layout) {
            Some((rows, stride)) => Ok(Rows::strided(self.elements()?, rows, stride)),
            None => bail!("{:?} is not made of rows", self.layout),
        }
    }

    /// The elements of a contiguous tensor.
    pub(crate) fn row<T: WithDType>(&self) -> Result<&[T]> {
        let elements = self.elements()?;
        let len = self.layout.shape().elem_count();
        match elements.get(..len) {
            Some(row) if self.layout.is_contiguous() => Ok(row),
            _ => bail!("{:?} is not contiguous in {} elements", self.layout, elements.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Tensor};

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
}
