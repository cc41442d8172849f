use candle_core::{
    CpuStorage, CustomOp2, CustomOp3, DType, Device, Error, Layout, Result, Shape, Tensor, WithDType, bail,
};
use candle_nn::VarBuilder;
use lanenorm::{Companion, Gate, Gateable, Rounding};

use crate::norm::{PARALLELISM, row};
use crate::ops;
use crate::twice;
use crate::view::{Real, View, read, read_if_given, rowwise};

/// RMS normalization of the last dimension of x, which is multiplied by a function of a tensor z of the same shape:
/// see [`Gate`]. Qwen3-Next, Kimi Linear, Mamba 2, Zamba 2 and others have such modules.
///
/// x and z are f32, f16 or bf16. z and the weight have the type of x, or are f32. Gradients are computed in f32 and
/// rounded once; they have no gradients themselves.
#[derive(Clone, Debug)]
pub struct RmsNormGated {
    weight: Option<Tensor>,
    gated: Gated,
}

/// The numbers of a module.
#[derive(Clone, Copy, Debug)]
struct Gated {
    eps: f64,
    gate: Gate,
    groups: usize,
    rounding: Rounding,
}

impl RmsNormGated {
    /// With a weight (gamma), one group, and [`Gate::SILU`]: norm(x) * silu(z).
    pub fn new(weight: Tensor, eps: f64) -> Self {
        Self::of(Some(weight), eps)
    }

    /// The same without a weight.
    pub fn new_no_weight(eps: f64) -> Self {
        Self::of(None, eps)
    }

    fn of(weight: Option<Tensor>, eps: f64) -> Self {
        Self { weight, gated: Gated { eps, gate: Gate::SILU, groups: 1, rounding: Rounding::ONCE } }
    }

    /// The same module with another gate: [`Gate::SILU_BEFORE`] for norm(x * silu(z)), as Mamba 2 has it.
    pub fn with_gate(self, gate: Gate) -> Self {
        Self { gated: Gated { gate, ..self.gated }, ..self }
    }

    /// The same module with groups: the last dimension is cut into `groups` parts, each of which is normalized by
    /// itself. The weight has the whole dimension.
    pub fn with_groups(self, groups: usize) -> Self {
        Self { gated: Gated { groups, ..self.gated }, ..self }
    }

    /// The same module, which rounds to 16 bits where the model does whose bits are wanted. Gradients do not round.
    pub fn with_rounding(self, rounding: Rounding) -> Self {
        Self { gated: Gated { rounding, ..self.gated }, ..self }
    }

    /// The weight, gamma.
    pub fn weight(&self) -> Option<&Tensor> {
        self.weight.as_ref()
    }

    /// The normalization of x with the gate of z, of the type of x.
    ///
    /// # Errors
    /// If shapes or types do not fit together, if the groups do not divide the last dimension, if eps is negative,
    /// infinite or NaN, or if a tensor is not on the CPU.
    pub fn forward(&self, x: &Tensor, z: &Tensor) -> Result<Tensor> {
        let (cols, groups) = (ops::cols(x)?, self.gated.groups);
        if z.dims() != x.dims() {
            bail!("z has shape {:?}, expected that of x: {:?}", z.dims(), x.dims());
        }
        if groups == 0 || !cols.is_multiple_of(groups) {
            bail!("the last dimension of x is {cols}, which is not a multiple of {groups} groups");
        }
        if let Some(weight) = self.weight.as_ref().filter(|weight| weight.dims() != [cols]) {
            bail!("gamma has shape {:?}, expected [{cols}]: the last dimension of x, {:?}", weight.dims(), x.dims());
        }
        let (x, z) = (rowwise(x)?, rowwise(z)?);
        match &self.weight {
            Some(weight) => {
                let weight = weight.contiguous()?;
                if x.track_op() || z.track_op() || weight.track_op() {
                    x.apply_op3(&z, &weight, self.gated)
                } else {
                    x.apply_op3_no_bwd(&z, &weight, &self.gated)
                }
            }
            None if x.track_op() || z.track_op() => x.apply_op2(&z, self.gated),
            None => x.apply_op2_no_bwd(&z, &self.gated),
        }
    }
}

/// Loads a module with [`Gate::SILU`], whose weight is named as that of [`candle_nn::rms_norm`], or makes it if the
/// variables are new.
///
/// # Errors
/// If there is no weight, or if it has another shape.
pub fn rms_norm_gated(size: usize, eps: f64, vb: VarBuilder<'_>) -> Result<RmsNormGated> {
    candle_nn::rms_norm(size, eps, vb).map(|norm| RmsNormGated::new(norm.weight().clone(), eps))
}

/// Calls a function for the types of x, z and gamma. Without a gamma its type is that of x.
macro_rules! by_type {
    ($x:expr, $z:expr, $gamma:expr, $function:ident($($argument:expr),*)) => {{
        use lanenorm::{bf16, f16};
        let x = $x.dtype();
        match (x, $z.dtype(), $gamma.as_ref().map_or(x, |gamma| gamma.dtype())) {
            (DType::F32, DType::F32, DType::F32) => $function::<f32, f32, f32>($($argument),*),
            (DType::F16, DType::F16, DType::F16) => $function::<f16, f16, f16>($($argument),*),
            (DType::F16, DType::F32, DType::F16) => $function::<f16, f32, f16>($($argument),*),
            (DType::F16, DType::F16, DType::F32) => $function::<f16, f16, f32>($($argument),*),
            (DType::F16, DType::F32, DType::F32) => $function::<f16, f32, f32>($($argument),*),
            (DType::BF16, DType::BF16, DType::BF16) => $function::<bf16, bf16, bf16>($($argument),*),
            (DType::BF16, DType::F32, DType::BF16) => $function::<bf16, f32, bf16>($($argument),*),
            (DType::BF16, DType::BF16, DType::F32) => $function::<bf16, bf16, f32>($($argument),*),
            (DType::BF16, DType::F32, DType::F32) => $function::<bf16, f32, f32>($($argument),*),
            (DType::F32 | DType::F16 | DType::BF16, z, gamma) => {
                bail!("z is {z:?} and gamma is {gamma:?}, expected {x:?} as x, or F32")
            }
            (x, ..) => bail!("x is {x:?}, expected F32, F16 or BF16"),
        }
    }};
}

impl Gated {
    /// The plan for rows of `cols` columns, each of which is a group.
    fn plan(&self, cols: usize) -> Result<lanenorm::RmsNorm> {
        let Self { eps, groups, rounding, .. } = *self;
        let plan = lanenorm::RmsNorm::new(cols / groups, eps).and_then(|plan| plan.with_groups(groups, 1));
        Ok(plan.map_err(Error::wrap)?.with_rounding(rounding).with_parallelism(PARALLELISM))
    }

    fn run(&self, x: View<'_>, z: View<'_>, gamma: Option<View<'_>>) -> Result<(CpuStorage, Shape)> {
        let y = by_type!(x, z, gamma, forward(self, x, z, gamma))?;
        Ok((y, x.shape().clone()))
    }

    fn gradients(&self, x: &Tensor, z: &Tensor, gamma: Option<&Tensor>, dy: &Tensor) -> Result<[Option<Tensor>; 3]> {
        if twice::is_asked_for(dy) {
            bail!("gradients of gated normalizations have no gradients");
        }
        by_type!(x, z, gamma, backward(self, x, z, gamma, &rowwise(dy)?))
    }
}

fn forward<T: Real + Gateable + Companion<T>, Z: Real + Companion<T>, G: Real + Companion<T>>(
    gated: &Gated,
    x: View<'_>,
    z: View<'_>,
    gamma: Option<View<'_>>,
) -> Result<CpuStorage> {
    let mut y = vec![<T as WithDType>::from_f64(0.0); x.shape().elem_count()];
    let plan = gated.plan(x.cols())?;
    let (x, z) = (x.groups::<T>(gated.groups)?, z.groups::<Z>(gated.groups)?);
    plan.call(x).gamma(row::<G>(gamma)?).gate(z, gated.gate).to(&mut y).map_err(Error::wrap)?;
    Ok(T::to_cpu_storage_owned(y))
}

fn backward<T: Real + Gateable, Z: Real + Companion<T> + Companion<f32>, G: Real + Companion<T>>(
    gated: &Gated,
    x: &Tensor,
    z: &Tensor,
    gamma: Option<&Tensor>,
    dy: &Tensor,
) -> Result<[Option<Tensor>; 3]> {
    let len = x.elem_count();
    let mut dx = x.track_op().then(|| vec![<T as WithDType>::from_f64(0.0); len]);
    let mut dz = z.track_op().then(|| vec![<Z as WithDType>::from_f64(0.0); len]);
    let mut dgamma = gamma.filter(|gamma| gamma.track_op()).map(|gamma| vec![0.0f32; gamma.elem_count()]);
    read(dy, |dy| {
        read(x, |x| {
            read(z, |z| {
                read_if_given(gamma, |gamma| {
                    let plan = gated.plan(x.cols())?;
                    let [dy, x] = [dy, x].map(|view| view.groups::<T>(gated.groups));
                    let call = plan.backward(dy?, x?).gamma(row::<G>(gamma)?).dgamma_to(dgamma.as_deref_mut());
                    let mut call = call.gate(z.groups::<Z>(gated.groups)?, gated.gate);
                    if let Some(dz) = &mut dz {
                        call = call.dz_to(dz);
                    }
                    match &mut dx {
                        Some(dx) => call.to(dx).map_err(Error::wrap),
                        None => call.run().map_err(Error::wrap),
                    }
                })
            })
        })
    })?;
    let dx = dx.map(|dx| Tensor::from_vec(dx, x.shape(), &Device::Cpu)).transpose()?;
    let dz = dz.map(|dz| Tensor::from_vec(dz, z.shape(), &Device::Cpu)).transpose()?;
    // candle adds this gradient to other gradients of the argument, in the type of the argument.
    let dgamma = match (gamma, dgamma) {
        (Some(gamma), Some(dgamma)) => {
            Some(Tensor::from_vec(dgamma, gamma.shape(), &Device::Cpu)?.to_dtype(gamma.dtype())?)
        }
        _ => None,
    };
    Ok([dx, dz, dgamma])
}

impl CustomOp2 for Gated {
    fn name(&self) -> &'static str {
        "lanenorm rms_norm_gated"
    }

    fn cpu_fwd(&self, x: &CpuStorage, x_at: &Layout, z: &CpuStorage, z_at: &Layout) -> Result<(CpuStorage, Shape)> {
        self.run(View::new(x, x_at), View::new(z, z_at), None)
    }

    fn bwd(&self, x: &Tensor, z: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [dx, dz, _] = self.gradients(x, z, None, grad)?;
        Ok((dx, dz))
    }
}

impl CustomOp3 for Gated {
    fn name(&self) -> &'static str {
        "lanenorm rms_norm_gated"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_at: &Layout,
        z: &CpuStorage,
        z_at: &Layout,
        gamma: &CpuStorage,
        gamma_at: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.run(View::new(x, x_at), View::new(z, z_at), Some(View::new(gamma, gamma_at)))
    }

    fn bwd(
        &self,
        x: &Tensor,
        z: &Tensor,
        gamma: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [dx, dz, dgamma] = self.gradients(x, z, Some(gamma), grad)?;
        Ok((dx, dz, dgamma))
    }
}
