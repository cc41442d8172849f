//! The peers that have tensors of their own, and allocate their outputs. Their inputs lie where their allocators put
//! them.

use burn_backend::ops::{FloatTensorOps, ModuleOps};
use burn_backend::{Bytes, Shape};
use burn_flex::{Flex, FlexTensor, Layout};
use candle_core::{Device, Module, Tensor, Var};
use candle_nn::GroupNorm;
use lanenorm_harness::buffer::Buffer;
use lanenorm_harness::number::Widen;
use numr::ops::{ActivationOps, NormalizationOps};
use numr::runtime::cpu::{CpuClient, CpuDevice, CpuRuntime};

use crate::case::{Case, EPS, Inputs, Op};
use crate::contender::{About, Buffers, Contender, Note};
use crate::number::Number;
use crate::versions::version;

const VALID: &str = "the shapes fit";

pub(crate) fn all<T: Number>(case: Case, inputs: &Inputs<T>, is_wanted: impl Fn(&str) -> bool) -> Vec<Contender<T>> {
    let mut all = Vec::new();
    if is_wanted("numr") {
        all.extend(numr(case, inputs));
    }
    if is_wanted("candle-nn") {
        all.extend(candle(case, inputs));
    }
    if is_wanted("burn-flex") {
        all.extend(burn(case, inputs));
    }
    all
}

fn put<T: Copy + Default>(from: &[T], to: &mut Buffer<T>) {
    to.get_mut().copy_from_slice(from);
}

fn put_wide<T: Number>(from: &[T], to: &mut Buffer<f32>) {
    for (to, from) in to.get_mut().iter_mut().zip(from) {
        *to = Widen::widen(*from);
    }
}

/// numr could normalize channels that come first only between copies, as candle does.
fn numr<T: Number>(case: Case, inputs: &Inputs<T>) -> Option<Contender<T>> {
    type Numr = numr::tensor::Tensor<CpuRuntime>;
    let device = CpuDevice::new();
    let client = CpuClient::new(device.clone());
    let shape = case.shape.dims();
    let tensor = |v: &[T], shape: &[usize]| Numr::from_slice(v, shape, &device).expect(VALID);
    let x = tensor(&inputs.x, &shape);
    let [gamma, beta] = [&inputs.gamma, &inputs.beta].map(|v| tensor(v, &[v.len()]));
    let other = |v: &[T]| tensor(v, if v.is_empty() { &[0] } else { &shape });
    let (residual, dy) = (other(&inputs.residual), other(&inputs.dy));
    let about = About { name: "numr", version: version("numr"), threads: false, note: Note::Allocates };
    let keep_y = |y: Numr, b: &mut Buffers<T>| put(&y.to_vec::<T>(), &mut b.y);
    let keep_sum = |(y, s): (Numr, Numr), b: &mut Buffers<T>| {
        put(&y.to_vec::<T>(), &mut b.y);
        put(&s.to_vec::<T>(), &mut b.s);
    };
    let groups = case.shape.images.and_then(|images| images.groups).unwrap_or_default();
    Some(match case.op {
        Op::LayerNorm => {
            Contender::returning(about, move || client.layer_norm(&x, &gamma, &beta, EPS).expect(VALID), keep_y)
        }
        Op::RmsNorm => Contender::returning(about, move || client.rms_norm(&x, &gamma, EPS).expect(VALID), keep_y),
        Op::AddLayerNorm => Contender::returning(
            about,
            move || client.fused_add_layer_norm(&x, &residual, &gamma, &beta, EPS).expect(VALID),
            keep_sum,
        ),
        Op::AddRmsNorm => Contender::returning(
            about,
            move || client.fused_add_rms_norm(&x, &residual, &gamma, EPS).expect(VALID),
            keep_sum,
        ),
        Op::LayerNormBackward => Contender::returning(
            about,
            move || client.fused_add_layer_norm_bwd(&dy, &x, &gamma, &beta, EPS).expect(VALID),
            |(dx, dgamma, dbeta), b| {
                put(&dx.to_vec::<T>(), &mut b.y);
                put_wide(&dgamma.to_vec::<T>(), &mut b.dgamma);
                put_wide(&dbeta.to_vec::<T>(), &mut b.dbeta);
            },
        ),
        Op::RmsNormBackward => Contender::returning(
            about,
            move || client.fused_add_rms_norm_bwd(&dy, &x, &gamma, EPS).expect(VALID),
            |(dx, dgamma), b| {
                put(&dx.to_vec::<T>(), &mut b.y);
                put_wide(&dgamma.to_vec::<T>(), &mut b.dgamma);
            },
        ),
        Op::GroupNorm => {
            Contender::returning(about, move || client.group_norm(&x, &gamma, &beta, groups, EPS).expect(VALID), keep_y)
        }
        Op::GroupNormSilu => Contender::returning(
            about,
            move || client.silu(&client.group_norm(&x, &gamma, &beta, groups, EPS).expect(VALID)).expect(VALID),
            keep_y,
        ),
        Op::LayerNormChannels => return None,
    })
}

fn candle<T: Number>(case: Case, inputs: &Inputs<T>) -> Option<Contender<T>> {
    let shape = case.shape.dims();
    let vector = |v: &[T]| Tensor::from_slice(v, v.len(), &Device::Cpu).expect(VALID);
    let matrix = |v: &[T]| Tensor::from_slice(v, &shape[..], &Device::Cpu).expect(VALID);
    let (x, gamma, beta) = (matrix(&inputs.x), vector(&inputs.gamma), vector(&inputs.beta));
    let about = |note| About { name: "candle-nn", version: version("candle-nn"), threads: true, note };
    let values = |t: &Tensor| t.flatten_all().and_then(|t| t.to_vec1::<T>()).expect(VALID);
    let keep_y = move |y: Tensor, b: &mut Buffers<T>| put(&values(&y), &mut b.y);
    let keep_sum = move |(y, s): (Tensor, Tensor), b: &mut Buffers<T>| {
        put(&values(&y), &mut b.y);
        put(&values(&s), &mut b.s);
    };
    let layer_norm =
        |x: &Tensor, gamma: &Tensor, beta: &Tensor| candle_nn::ops::layer_norm(x, gamma, beta, EPS).expect(VALID);
    let rms_norm = |x: &Tensor, gamma: &Tensor| candle_nn::ops::rms_norm(x, gamma, EPS).expect(VALID);
    Some(match case.op {
        Op::LayerNorm => Contender::returning(about(Note::Allocates), move || layer_norm(&x, &gamma, &beta), keep_y),
        Op::RmsNorm => Contender::returning(about(Note::Allocates), move || rms_norm(&x, &gamma), keep_y),
        Op::AddLayerNorm | Op::AddRmsNorm => {
            let (residual, centered) = (matrix(&inputs.residual), case.op.is_centered());
            let call = move || {
                let s = (&x + &residual).expect(VALID);
                (if centered { layer_norm(&s, &gamma, &beta) } else { rms_norm(&s, &gamma) }, s)
            };
            Contender::returning(about(Note::TwoCalls), call, keep_sum)
        }
        Op::LayerNormBackward | Op::RmsNormBackward => {
            let [x, gamma, beta] = [x, gamma, beta].map(|t| Var::from_tensor(&t).expect(VALID));
            let y = if case.op.is_centered() {
                candle_nn::ops::layer_norm_slow(&x, &gamma, &beta, EPS)
            } else {
                candle_nn::ops::rms_norm_slow(&x, &gamma, EPS)
            };
            let product = (y.expect(VALID) * matrix(&inputs.dy)).expect(VALID);
            let keep = move |grads: candle_core::backprop::GradStore, b: &mut Buffers<T>| {
                put(&values(grads.get(&x).expect(VALID)), &mut b.y);
                put_wide(&values(grads.get(&gamma).expect(VALID)), &mut b.dgamma);
                if let Some(dbeta) = grads.get(&beta) {
                    put_wide(&values(dbeta), &mut b.dbeta);
                }
            };
            Contender::returning(about(Note::Autograd), move || product.backward().expect(VALID), keep)
        }
        Op::GroupNorm | Op::GroupNormSilu => {
            let images = case.shape.images?;
            let norm = GroupNorm::new(gamma, beta, images.channels, images.groups?, EPS.into()).expect(VALID);
            let call = move || {
                let y = norm.forward(&x).expect(VALID);
                if case.op.has_silu() { y.silu().expect(VALID) } else { y }
            };
            Contender::returning(about(Note::Allocates), call, keep_y)
        }
        Op::LayerNormChannels => {
            let transposed = |t: &Tensor| t.transpose(1, 2).and_then(|t| t.contiguous()).expect(VALID);
            let call = move || transposed(&layer_norm(&transposed(&x), &gamma, &beta));
            Contender::returning(about(Note::Copies), call, keep_y)
        }
    })
}

/// burn has no RMSNorm, no groups and no backward pass of its own.
fn burn<T: Number>(case: Case, inputs: &Inputs<T>) -> Option<Contender<T>> {
    let about = |note| About { name: "burn-flex", version: version("burn-flex"), threads: true, note };
    let shape = case.shape.dims();
    let tensor = |v: &[T], shape: Vec<usize>| {
        FlexTensor::new(Bytes::from_elems(v.to_vec()), Layout::contiguous(Shape::from(shape)), T::BURN)
    };
    let x = tensor(&inputs.x, shape.clone());
    let [gamma, beta] = [&inputs.gamma, &inputs.beta].map(|v| tensor(v, vec![v.len()]));
    let layer_norm = move |x: FlexTensor| -> FlexTensor {
        <Flex as ModuleOps<Flex>>::layer_norm(x, gamma.clone(), Some(beta.clone()), f64::from(EPS))
    };
    match case.op {
        Op::LayerNorm => {
            let keep = |y: FlexTensor, b: &mut Buffers<T>| put(y.storage(), &mut b.y);
            Some(Contender::returning(about(Note::Allocates), move || layer_norm(x.clone()), keep))
        }
        Op::AddLayerNorm => {
            let residual = tensor(&inputs.residual, shape);
            let call = move || {
                let s = <Flex as FloatTensorOps<Flex>>::float_add(x.clone(), residual.clone());
                (layer_norm(s.clone()), s)
            };
            let keep = |(y, s): (FlexTensor, FlexTensor), b: &mut Buffers<T>| {
                put(y.storage(), &mut b.y);
                put(s.storage(), &mut b.s);
            };
            Some(Contender::returning(about(Note::TwoCalls), call, keep))
        }
        _ => None,
    }
}
