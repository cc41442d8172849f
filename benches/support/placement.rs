//! The buffers of a case.

use lanenorm::kernels::table::Op;
use lanenorm::{Centered, Uncentered};
use lanenorm_harness::buffer::Buffer;
use lanenorm_harness::number::Number;
use rand::rngs::SmallRng;

use super::case::{Case, Tensor};
use super::contender::Contender;
use super::plan::{self, Operation, VALID};
use super::several;
use super::variant::{self, Variant, grouped};

/// The tensors that lie side by side where queries are normalized: query, key and value.
pub(crate) const PACKED: usize = 3;

/// The buffers of one tensor. Buffers that no contender needs are empty.
struct Buffers<T: Number> {
    x: Buffer<T>,
    affine: [Buffer<T>; 2],
    y: Buffer<T>,
    mean: Vec<T::Float>,
    mean_lo: Vec<T::Float>,
    rstd: Vec<T::Float>,
    residual: Buffer<T>,
    s: Buffer<T>,
    z: Buffer<T>,
    wide_residual: Buffer<T::Mixed>,
    wide_s: Buffer<T::Mixed>,
    mixed: [Buffer<T::Mixed>; 2],
    packed: Buffer<T>,
    heads: Buffer<T>,
    q: Buffer<u8>,
    scale: Vec<f32>,
    grouped: [Buffer<T>; 2],
    dy: Buffer<T>,
    params: [Buffer<T::Float>; 2],
    scratch: Buffer<T::Float>,
}

/// The buffers of all tensors of a case.
pub(crate) struct Placement<T: Number>(Vec<Buffers<T>>);

/// The arguments of one call.
pub(crate) struct Call<'a, T: Number> {
    pub(crate) x: &'a [T],
    /// gamma and beta.
    pub(crate) affine: [&'a [T]; 2],
    /// Where y or dx goes. It holds x or y at first, then what the last contender left there.
    pub(crate) y: &'a mut [T],
    /// The statistics. For the backward pass, forward has kept them.
    pub(crate) mean: &'a mut [T::Float],
    pub(crate) mean_lo: &'a mut [T::Float],
    pub(crate) rstd: &'a mut [T::Float],
    /// Negative zeros: x + residual is x, and dx + residual is dx, whose answers are known.
    pub(crate) residual: &'a [T],
    /// Where the sum goes, the second output, or what loops leave that multiply by a gate first.
    pub(crate) s: &'a mut [T],
    /// The rows of a gate, or a residual that changes x.
    pub(crate) z: &'a [T],
    /// A residual and a sum in the type of mixed calls.
    pub(crate) wide_residual: &'a [T::Mixed],
    pub(crate) wide_s: &'a mut [T::Mixed],
    /// gamma and beta in the type of mixed calls.
    pub(crate) mixed: [&'a [T::Mixed]; 2],
    /// Query, key and value for each row of x. Each of the three is that row at first.
    pub(crate) packed: &'a mut [T],
    /// Queries, keys and values for each token. Queries and keys are the rows of x at first.
    pub(crate) heads: &'a mut [T],
    /// Where quantized rows and their scales go, as many as any scheme has.
    pub(crate) q: &'a mut [u8],
    pub(crate) scale: &'a mut [f32],
    /// gamma and beta of all groups.
    pub(crate) grouped: [&'a [T]; 2],
    /// The buffers that only the backward pass has.
    pub(crate) dy: &'a [T],
    pub(crate) dgamma: &'a mut [T::Float],
    pub(crate) dbeta: &'a mut [T::Float],
    pub(crate) scratch: &'a mut [T::Float],
}

impl<T: Number> Call<'_, T> {
    /// Puts the input of a call in place into y.
    pub(crate) fn restore(&mut self, op: Op) {
        self.y.copy_from_slice(if op.is_backward() { self.dy } else { self.x });
    }
}

impl<T: Number> Placement<T> {
    /// New buffers at new offsets, for these contenders.
    pub(crate) fn new(case: &Case, tensors: &[Tensor<T>], contenders: &[Contender], rng: &mut SmallRng) -> Self {
        let has = |variant| contenders.iter().any(|c| c.variant() == variant);
        let place = |tensor| {
            let mut buffers = Buffers::new(tensor, has, rng);
            match case.op {
                Op::LayerNormBackward => buffers.prepare_backward::<Centered>(case, rng),
                Op::RmsNormBackward => buffers.prepare_backward::<Uncentered>(case, rng),
                _ => {}
            }
            buffers
        };
        Self(tensors.iter().map(place).collect())
    }

    /// One call for each tensor.
    pub(crate) fn calls<'a>(&'a mut self) -> Vec<Call<'a, T>> {
        self.0.iter_mut().map(Buffers::call).collect()
    }
}

impl<T: Number> Buffers<T> {
    fn call(&mut self) -> Call<'_, T> {
        let b = self;
        let [dgamma, dbeta] = &mut b.params;
        Call {
            x: b.x.get(),
            affine: b.affine.each_ref().map(Buffer::get),
            y: b.y.get_mut(),
            mean: &mut b.mean,
            mean_lo: &mut b.mean_lo,
            rstd: &mut b.rstd,
            residual: b.residual.get(),
            s: b.s.get_mut(),
            z: b.z.get(),
            wide_residual: b.wide_residual.get(),
            wide_s: b.wide_s.get_mut(),
            mixed: b.mixed.each_ref().map(Buffer::get),
            packed: b.packed.get_mut(),
            heads: b.heads.get_mut(),
            q: b.q.get_mut(),
            scale: &mut b.scale,
            grouped: b.grouped.each_ref().map(Buffer::get),
            dy: b.dy.get(),
            dgamma: dgamma.get_mut(),
            dbeta: dbeta.get_mut(),
            scratch: b.scratch.get_mut(),
        }
    }

    fn new(tensor: &Tensor<T>, has: impl Fn(Variant) -> bool, rng: &mut SmallRng) -> Self {
        let Tensor { x, gamma, beta, dy } = tensor;
        let (cols, affine) = (gamma.len(), [gamma, beta]);
        let zero = T::Float::default();
        let statistics = || vec![zero; x.len() / cols];
        let given = |variant, v: &[T]| if has(variant) { v.to_vec() } else { Vec::new() };
        let any = |is: fn(Variant) -> bool| Variant::ALL.into_iter().any(|v| has(v) && is(v));
        let has_residual = has(Variant::Sum) || has(Variant::Ds);
        let negative_zeros = vec![T::from_f64(-0.0); if has_residual { x.len() } else { 0 }];
        let negative_wide_zeros = vec![T::Mixed::from_f64(-0.0); if has(Variant::SumF32) { x.len() } else { 0 }];
        let schemes = Variant::ALL.into_iter().filter(|&v| has(v)).filter_map(Variant::scheme);
        let row_bytes = schemes.map(|scheme| scheme.row_bytes(cols)).max().unwrap_or(0);
        let packed = |x: &[T]| x.chunks(cols).flat_map(|row| [row; PACKED]).flatten().copied().collect::<Vec<_>>();
        Self {
            x: Buffer::new(x, rng),
            affine: affine.map(|v| Buffer::new(v, rng)),
            y: Buffer::new(x, rng),
            mean: statistics(),
            mean_lo: statistics(),
            rstd: statistics(),
            residual: Buffer::new(&negative_zeros, rng),
            s: Buffer::new(if any(Variant::has_s) { x } else { &[] }, rng),
            z: Buffer::new(&if any(Variant::has_z) { variant::z(x) } else { Vec::new() }, rng),
            wide_residual: Buffer::new(&negative_wide_zeros, rng),
            wide_s: Buffer::new(&negative_wide_zeros, rng),
            mixed: affine.map(|v| {
                let wide: Vec<_> = given(Variant::Mixed, v).into_iter().map(T::Mixed::from).collect();
                Buffer::new(&wide, rng)
            }),
            packed: Buffer::new(&packed(&given(Variant::Qk, x)), rng),
            heads: Buffer::new(&several::packed(if any(Variant::has_heads) { x } else { &[] }, cols), rng),
            q: Buffer::new(&vec![0; x.len() / cols * row_bytes], rng),
            scale: vec![0.0; x.len() / cols],
            grouped: affine.map(|v| Buffer::new(&grouped(if any(Variant::has_groups) { v } else { &[] }), rng)),
            dy: Buffer::new(dy, rng),
            params: [(); 2].map(|()| Buffer::new(&vec![zero; if dy.is_empty() { 0 } else { cols }], rng)),
            scratch: Buffer::new(&[], rng),
        }
    }

    /// Runs forward, which keeps its statistics, and makes room for as many tasks as there are threads.
    fn prepare_backward<M: Operation>(&mut self, case: &Case, rng: &mut SmallRng) {
        let isa = lanenorm::default_isa().expect("checked at the start");
        let plan = plan::plan::<M>(case, isa, true, Variant::Default);
        let scratch_len = plan.backward_scratch_len::<T>(case.rows).expect(VALID);
        self.scratch = Buffer::new(&vec![Default::default(); scratch_len], rng);
        let Call { x, y, affine: [gamma, beta], mean, mean_lo, rstd, .. } = self.call();
        let call = M::beta(plan.call(x).gamma(gamma), beta);
        M::mean_lo_to(M::mean_to(call, mean), mean_lo).rstd_to(rstd).to(y).expect(VALID);
    }
}
