//! Calls with a gate, and the scalar loops that they are compared with. These have two steps, with the result of the
//! first in the type of x.

use lanenorm::gate::{Gate, Side};
use lanenorm::{Gateable, Norm, bf16, f16};
use lanenorm_harness::naive;
use lanenorm_harness::number::Number;

use super::placement::Call;
use super::plan::{Operation, VALID};
use super::quantized::of_type;

/// A call with a gate.
type Fused<M, T> = fn(&Norm<M>, Gate, &mut Call<'_, T>);

pub(crate) fn fused<M: Operation, T: Number>() -> Fused<M, T> {
    of_type([
        &(fused_of::<M, f32> as Fused<M, f32>),
        &(fused_of::<M, f16> as Fused<M, f16>),
        &(fused_of::<M, bf16> as Fused<M, bf16>),
    ])
}

fn fused_of<M: Operation, T: Number<Float = f32> + Gateable>(plan: &Norm<M>, gate: Gate, c: &mut Call<'_, T>) {
    let [gamma, beta] = c.affine;
    M::beta(plan.call(c.x).gamma(gamma), beta).gate(c.z, gate).to(&mut *c.y).expect(VALID);
}

/// The scalar loops, with those that normalize from the second argument to the third.
pub(crate) fn naive<T: Number>(gate: Gate, c: &mut Call<'_, T>, normalize: impl Fn(&[T], [&[T]; 2], &mut [T])) {
    match gate.side {
        Side::After => {
            normalize(c.x, c.affine, c.y);
            naive::multiply_by_silu(c.y, c.z);
        }
        Side::Before => {
            naive::times_silu(c.x, c.z, c.s);
            normalize(c.s, c.affine, c.y);
        }
    }
}
