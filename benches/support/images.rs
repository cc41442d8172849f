//! Calls over images, and the scalar loops that they are compared with.

use std::time::Duration;

use lanenorm::gate::Function;
use lanenorm::kernels::simd::Float;
use lanenorm::{GroupNorm, Isa};
use lanenorm_harness::answer::transposed;
use lanenorm_harness::naive;
use lanenorm_harness::number::Number;

use super::case::{Case, Images};
use super::contender::repeat;
use super::placement::Call;
use super::plan::{self, VALID};
use super::variant::Variant;

/// The time of `repeats` runs of a plan for `GroupNorm`.
pub(crate) fn time_group_norm<T: Number>(
    case: &Case,
    isa: Isa,
    threads: bool,
    variant: Variant,
    calls: Vec<Call<'_, T>>,
    wake: Duration,
    repeats: u64,
) -> Duration {
    let Images { channels, pixels, groups } = case.images.expect("a case of images");
    let plan = GroupNorm::new(channels, groups.expect("a case of groups"), case.eps).expect(VALID);
    let plan = plan.with_isa(isa).with_parallelism(plan::parallelism(threads));
    repeat(calls, wake, repeats, |c| {
        let [gamma, beta] = c.affine;
        let call = plan.call(c.x, pixels).gamma(gamma).beta(beta);
        match variant {
            Variant::Activation => call.activation(Function::Silu).to(&mut *c.y),
            Variant::ChannelsLast => call.channels_last().to(&mut *c.y),
            _ => call.to(&mut *c.y),
        }
        .expect(VALID);
    })
}

/// Scalar loops over images.
pub(crate) fn naive<T: Number>(case: &Case, images: Images, variant: Variant, c: &mut Call<'_, T>) {
    let (Images { channels, pixels, groups }, eps) = (images, T::Float::from_f64(case.eps));
    let [gamma, beta] = c.affine;
    let Some(groups) = groups else {
        return naive::layer_norm_channels_first(c.x, pixels, gamma, beta, eps, c.y);
    };
    let group = channels / groups;
    match variant {
        Variant::ChannelsLast => naive::group_norm_channels_last(c.x, group, pixels, c.affine, eps, c.y),
        Variant::Activation => naive::group_norm(c.x, group, pixels, c.affine, eps, c.y, naive::silu),
        _ => naive::group_norm(c.x, group, pixels, c.affine, eps, c.y, |y| y),
    }
}

/// The rows of x or y, in their order: the channels of each pixel, or groups of channels.
pub(crate) fn rows<T: Copy>(case: &Case, variant: Variant, tensor: &[T]) -> Vec<T> {
    match (case.images, variant) {
        (Some(images), Variant::ChannelsFirst) => transposed(tensor, images.channels, images.pixels),
        (Some(images), Variant::ChannelsLast) => transposed(tensor, images.pixels, images.channels),
        _ => tensor.to_vec(),
    }
}
