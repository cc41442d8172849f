//! The gradients of calls with a gate: see [`BackwardCall::gate`].

use lanenorm_kernels::element::Companion;
use lanenorm_kernels::gate::Gate;
use lanenorm_kernels::rows::Vector;
use lanenorm_kernels::{Center, Centered, Element, Gateable, Uncentered};

use crate::Error;
use crate::backward_call::BackwardCall;
use crate::gradients::{GateGradIo, GradOut, ParamGrads};
use crate::input::{Apart, InPlace, Place};
use crate::norm::Norm;
use crate::rows::{Rows, RowsMut};
use crate::slice::{Misgiven, Slice};

/// A backward call of gated rows, to be run by [`to`](Self::to), or by [`run`](Self::run) in place and where dx is not
/// wanted.
#[derive(Debug)]
#[must_use = "nothing happens before `to` or `run`"]
pub struct GateBackwardCall<'a, T: Element, M: Center, D: Place, Z> {
    call: BackwardCall<'a, T, M, D>,
    gate: Gate,
    z: Rows<'a, Z>,
    dz: Option<RowsMut<'a, Z>>,
    beta: Option<Vector<'a, T>>,
    misgiven: Misgiven,
}

impl<'a, T: Gateable, M: Center, D: Place> BackwardCall<'a, T, M, D> {
    /// The call's rows have a gate: dy is the gradient of the y of a [call with this gate](crate::Call::gate), and z
    /// and `gate` are those of the forward call. The gradient of z goes to [`dz_to`](GateBackwardCall::dz_to).
    ///
    /// ```
    /// use lanenorm::{Gate, RmsNorm};
    ///
    /// let plan = RmsNorm::new(2, 1e-6)?;
    /// let (dy, x, z, gamma) = ([1.0f32, 0.5], [3.0f32, -3.0], [0.0f32, 1.0], [1.0, 2.0]);
    /// let (mut dx, mut dz, mut dgamma) = ([0.0; 2], [0.0; 2], [0.0; 2]);
    /// let call = plan.backward(&dy, &x).gamma(&gamma).dgamma_to(&mut dgamma);
    /// call.gate(&z, Gate::SILU).dz_to(&mut dz).to(&mut dx)?;
    /// // dz = dy * norm(x) * silu'(z): norm(x) is [1, -2], and silu' is [0.5, 0.9277].
    /// assert!((dz[0] - 0.5).abs() < 1e-6 && (dz[1] + 0.9277).abs() < 1e-4);
    /// # Ok::<(), lanenorm::Error>(())
    /// ```
    ///
    /// Rows are normalized again: statistics that are given are not looked at. All between the inputs and the gradients
    /// is f32; dx and dz are rounded once. [`scratch`](Self::scratch) takes
    /// [`gate_backward_scratch_len`](Norm::gate_backward_scratch_len) elements.
    pub fn gate<Z: Companion<T>>(self, z: impl Into<Rows<'a, Z>>, gate: Gate) -> GateBackwardCall<'a, T, M, D, Z> {
        GateBackwardCall { call: self, gate, z: z.into(), dz: None, beta: None, misgiven: Misgiven::default() }
    }
}

impl<'a, T: Gateable, M: Center, D: Place, Z: Companion<T> + Companion<f32>> GateBackwardCall<'a, T, M, D, Z> {
    /// Where the gradient of z goes: rows of the type of z, as many as x has.
    pub fn dz_to(self, dz: impl Into<RowsMut<'a, Z>>) -> Self {
        Self { dz: Some(dz.into()), ..self }
    }

    fn run_to(self, out: impl FnOnce(D::Rows<'a, T>) -> GradOut<'a, T>) -> Result<(), Error> {
        let Self { call, gate, z, dz, beta, misgiven } = self;
        let (norm, dy, x, gamma, grads, scratch) = call.into_parts()?;
        misgiven.refuse()?;
        let io = GateGradIo { out: out(dy), x, z, dz };
        norm.run_gate_backward(io, [gamma, beta], gate, grads, scratch)
    }
}

/// The methods of layer normalization alone.
impl<'a, T: Gateable, D: Place, Z> GateBackwardCall<'a, T, Centered, D, Z> {
    /// The beta of the forward call, of the type of gamma. The gradient of z depends on it where the gate comes after
    /// the normalization. An absent beta counts as 0.
    #[doc(alias = "bias")]
    pub fn beta<G: Companion<T>>(mut self, beta: impl Into<Slice<'a, G>>) -> Self {
        self.beta = self.misgiven.slice("beta", beta.into().0).map(Vector::from);
        self
    }
}

impl<'a, T: Gateable, M: Center, Z: Companion<T> + Companion<f32>> GateBackwardCall<'a, T, M, Apart, Z> {
    /// Runs the call. The gradient of x goes to dx.
    ///
    /// # Errors
    /// If the lengths do not fit together; nothing has been written then.
    pub fn to(self, dx: impl Into<RowsMut<'a, T>>) -> Result<(), Error> {
        self.run_to(|dy| GradOut::Apart { dy, dx: dx.into() })
    }

    /// Runs the call without the gradient of x.
    ///
    /// # Errors
    /// As [`to`](Self::to), and if no other gradient is asked for.
    pub fn run(self) -> Result<(), Error> {
        self.run_to(|dy| GradOut::WithoutDx { dy })
    }
}

impl<T: Gateable, M: Center, Z: Companion<T> + Companion<f32>> GateBackwardCall<'_, T, M, InPlace, Z> {
    /// Runs the call. The gradient of x overwrites dy.
    ///
    /// # Errors
    /// If the lengths do not fit together; nothing has been written then.
    pub fn run(self) -> Result<(), Error> {
        self.run_to(|dy| GradOut::InPlace { dy })
    }
}

impl<M: Center> Norm<M> {
    /// The elements of scratch memory that a backward call of gated rows takes for `rows` rows, with as many tasks as
    /// it would be cut into now.
    ///
    /// # Errors
    /// If that is more than `usize` can count.
    pub fn gate_backward_scratch_len(&self, rows: usize) -> Result<usize, Error> {
        self.plan().gate_scratch_len(rows, M::CENTERED)
    }

    fn run_gate_backward<T: Gateable, Z: Companion<f32>>(
        &self,
        io: GateGradIo<'_, T, Z>,
        params: [Option<Vector<'_, T>>; 2],
        gate: Gate,
        grads: ParamGrads<'_, f32>,
        scratch: Option<&mut [f32]>,
    ) -> Result<(), Error> {
        if M::CENTERED {
            self.plan().gate_backward::<T, Z, Centered>(io, params, gate, grads, scratch)
        } else {
            self.plan().gate_backward::<T, Z, Uncentered>(io, params, gate, grads, scratch)
        }
    }
}
