//! Tensors that are overwritten by their normalization, so that no memory is allocated.

use std::marker::PhantomData;

use candle_core::{CpuStorage, InplaceOp1, InplaceOp2, Layout, Result, Tensor, bail};
use lanenorm::{Companion, RowsMut};

use crate::norm::{Affine, Norm, run};
use crate::view::{Real, rows};

pub(crate) fn overwrite<T: Real, G: Real + Companion<T>>(
    norm: &Norm,
    x: &Tensor,
    residual: Option<&Tensor>,
    affine: Affine<'_>,
) -> Result<()> {
    // Copied: if gamma and beta are parts of the same buffer as x, they cannot be read while x is locked.
    let copy = |param: Option<&Tensor>| param.map(Tensor::to_vec1).transpose();
    let op = Overwrite::<T, G> { norm: *norm, gamma: copy(affine.gamma)?, beta: copy(affine.beta)?, x: PhantomData };
    match residual {
        Some(residual) => x.inplace_op2(&residual.contiguous()?, &op),
        None => x.inplace_op1(&op),
    }
}

struct Overwrite<T, G> {
    norm: Norm,
    gamma: Option<Vec<G>>,
    beta: Option<Vec<G>>,
    x: PhantomData<T>,
}

impl<T: Real, G: Real + Companion<T>> Overwrite<T, G> {
    /// gamma and beta.
    fn params(&self) -> (Option<&[G]>, Option<&[G]>) {
        (self.gamma.as_deref(), self.beta.as_deref())
    }
}

impl<T: Real, G: Real + Companion<T>> InplaceOp1 for Overwrite<T, G> {
    fn name(&self) -> &'static str {
        self.norm.name()
    }

    fn cpu_fwd(&self, x: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let Some((rows, stride)) = rows(layout) else {
            bail!(
                "x cannot be overwritten: it is not made of evenly spaced rows, but has strides {:?}",
                layout.stride()
            );
        };
        let x = T::elements_mut(x)?.get_mut(layout.start_offset()..).unwrap_or_default();
        let (x, (gamma, beta)) = (RowsMut::strided(x, rows, stride), self.params());
        run!(self.norm, plan => plan.call_in_place(x).gamma(gamma), beta(beta), run())
    }
}

impl<T: Real, G: Real + Companion<T>> InplaceOp2 for Overwrite<T, G> {
    fn name(&self) -> &'static str {
        self.norm.name()
    }

    fn cpu_fwd(&self, x: &mut CpuStorage, x_layout: &Layout, r: &CpuStorage, r_layout: &Layout) -> Result<()> {
        let (Some((x_from, x_to)), Some((from, to))) = (x_layout.contiguous_offsets(), r_layout.contiguous_offsets())
        else {
            bail!("x cannot be overwritten by a sum: it is not contiguous, but has strides {:?}", x_layout.stride());
        };
        let residual = T::cpu_storage_as_slice(r)?;
        match (T::elements_mut(x)?.get_mut(x_from..x_to), residual.get(from..to)) {
            (Some(x), Some(residual)) => {
                let (gamma, beta) = self.params();
                run!(self.norm, plan => plan.call_in_place(x).residual(residual).gamma(gamma), beta(beta), run())
            }
            _ => bail!("{x_layout:?} or {r_layout:?} is not within its memory"),
        }
    }
}
