//! The plans. `LayerNorm` and `RmsNorm` are one type, but for a parameter that says whether rows have a mean.

use std::fmt;
use std::marker::PhantomData;

use lanenorm_kernels::divisor::Divisor;
use lanenorm_kernels::ops::backward::Stats;
use lanenorm_kernels::ops::{layer_norm, rms_norm};
use lanenorm_kernels::rounding::Rounding;
use lanenorm_kernels::rows::{OneRow, RowIo, Vector};
use lanenorm_kernels::stats::{Moments, StatsMut};
use lanenorm_kernels::{Center, Centered, Element, Isa, Uncentered};

use crate::gradients::{GradIo, ParamGrads};
use crate::jobs::Vectors;
use crate::plan::{Plan, Store};
use crate::rows::Rows;
use crate::runs::{Buffers, RunsIo};
use crate::{Error, Parallelism, shape};

/// The rows and the vectors of a call that has been checked.
pub(crate) type Checked<'a, 'm, T> = (RunsIo<'a, T>, Vectors<'a, 'm, T>);

/// A plan for normalizing rows of `cols` elements: [`LayerNorm`](crate::LayerNorm) or [`RmsNorm`](crate::RmsNorm).
///
/// A plan is a handful of numbers: cheap to make, to copy and to share between threads. Running it allocates nothing,
/// except to start a thread ([`Parallelism`]).
///
/// Elements are f32, f64, f16 or bf16. gamma (weight) and, in layer normalization, beta (bias) have `cols` elements
/// (for each [group](Self::with_groups)). An absent gamma counts as 1, an absent beta as 0. x and y are slices of whole
/// rows (row-major) or strided [`Rows`] and [`RowsMut`](crate::RowsMut). With zero rows or zero columns a call succeeds
/// and does nothing.
#[doc(alias = "layernorm")]
#[doc(alias = "rmsnorm")]
#[derive(Clone, Copy)]
pub struct Norm<M> {
    pub(crate) plan: Plan,
    center: PhantomData<M>,
}

impl<M: Center> fmt::Debug for Norm<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Plan { cols, eps, offset, rounding, divisor, groups, isa, parallelism, store } = self.plan;
        let name = if M::CENTERED { "LayerNorm" } else { "RmsNorm" };
        write!(f, "{name} {{ cols: {cols}, eps: {eps:?}, offset: {offset}, ")?;
        write!(f, "groups: {}, repeat: {}, ", groups.groups(), groups.repeat())?;
        if groups.last_repeat() != groups.repeat() {
            write!(f, "last_repeat: {}, ", groups.last_repeat())?;
        }
        if rounding != Rounding::ONCE {
            write!(f, "rounding: {rounding:?}, ")?;
        }
        if divisor != Divisor::RootMeanSquare {
            write!(f, "divisor: {divisor:?}, ")?;
        }
        write!(f, "isa: {isa}, parallelism: {parallelism:?}, store: {store:?} }}")
    }
}

impl<M: Center> Norm<M> {
    /// A plan for rows of `cols` elements, on the [default tier](crate::default_isa), which obeys the environment
    /// variable `LANENORM_ISA`.
    ///
    /// # Errors
    /// If eps is negative, infinite or NaN, or if `LANENORM_ISA` asks for a tier that is not there.
    pub fn new(cols: usize, eps: f64) -> Result<Self, Error> {
        Plan::new(cols, eps).map(Self::from)
    }

    pub(crate) fn from(plan: Plan) -> Self {
        Self { plan, center: PhantomData }
    }

    /// A plan for the last dimensions of a tensor, flattened into one row: `normalized_shape` as in `PyTorch`'s module.
    /// Without any dimensions, a row is one element.
    ///
    /// These are the dimensions that share statistics, and not the shape of the tensor. With `&[3, 8]`, 24 elements are
    /// one row; three rows of eight take `&[8]`. A plan cannot tell which is meant: both are valid calls.
    ///
    /// # Errors
    /// As [`new`](Self::new), and if the product of the dimensions overflows.
    pub fn with_normalized_shape(normalized_shape: &[usize], eps: f64) -> Result<Self, Error> {
        Self::new(shape::product(normalized_shape)?, eps)
    }

    /// A plan for the dimensions from `axis` on of tensors of a shape, flattened into one row: `axis` as in ONNX's
    /// operator, where a negative one counts from the end and -1 is the default.
    ///
    /// # Errors
    /// As [`new`](Self::new), if the shape has no such axis, and if the product of its dimensions overflows.
    pub fn with_axis(shape: &[usize], axis: isize, eps: f64) -> Result<Self, Error> {
        Self::with_normalized_shape(shape::from_axis(shape, axis)?, eps)
    }

    /// The same plan with another parallelism.
    pub fn with_parallelism(self, parallelism: Parallelism) -> Self {
        Self::from(Plan { parallelism, ..self.plan })
    }

    /// The same plan on another tier (see [`isa`](crate::isa())).
    pub fn with_isa(self, isa: Isa) -> Self {
        Self::from(Plan { isa, ..self.plan })
    }

    /// The same plan with another choice of stores.
    pub fn with_store(self, store: Store) -> Self {
        Self::from(Plan { store, ..self.plan })
    }

    /// The same plan with another offset: a number that is added to gamma, in the type that rows are computed in. It is
    /// 1 for adaptive normalization (`AdaLN`), where gamma enters as 1 + gamma, and for models that keep gamma - 1, as
    /// Gemma does. It has no effect where there is no gamma.
    pub fn with_offset(self, offset: f32) -> Self {
        Self::from(Plan { offset, ..self.plan })
    }

    /// The same plan, which rounds to 16 bits at other places: where the model does whose bits are wanted. Gradients
    /// are those of a function that does not round, but for the sum of gamma and offset.
    ///
    /// ```
    /// use lanenorm::{RmsNorm, Rounding, bf16};
    ///
    /// // transformers' `LlamaRMSNorm` rounds before it multiplies by the weight.
    /// let x = [1.0, 1.0, 1.0, 2.0].map(bf16::from_f32);
    /// let gamma = [bf16::from_f32(1.5); 4];
    /// let plan = RmsNorm::new(4, 1e-6)?;
    /// let once: Vec<bf16> = plan.call(&x).gamma(&gamma).to_vec()?;
    /// let llama: Vec<bf16> = plan.with_rounding(Rounding::STEPS).call(&x).gamma(&gamma).to_vec()?;
    /// assert_eq!((once[0].to_f32(), llama[0].to_f32()), (1.1328125, 1.140625));
    /// # Ok::<(), lanenorm::Error>(())
    /// ```
    pub fn with_rounding(self, rounding: Rounding) -> Self {
        Self::from(Plan { rounding, ..self.plan })
    }

    /// The same plan with a gamma and a beta for each of several groups of rows. Row r takes group
    /// (r / repeat) % groups. gamma and beta have `groups * cols` elements, group after group.
    ///
    /// With one group (the default) all rows share a gamma. With a group for each head or gate, and a repeat of 1, each
    /// head has its own. With a group for each sample, and the rows of a sample as the repeat, it is adaptive
    /// normalization. The last group may have [a repeat of its own](Self::with_last_repeat).
    ///
    /// ```text
    ///                                      row      0  1  2  3  4  5  6  7  8  9 10 11
    /// 1 group, repeat 1:      all rows     group    0  0  0  0  0  0  0  0  0  0  0  0
    /// 4 groups, repeat 1:     4 heads      group    0  1  2  3  0  1  2  3  0  1  2  3
    /// 3 groups, repeat 4:     3 samples    group    0  0  0  0  1  1  1  1  2  2  2  2
    /// ```
    ///
    /// # Errors
    /// If there are no groups, if the repeat is 0, or if their product overflows. A call returns an error if its rows
    /// are no multiple of `groups * repeat`.
    pub fn with_groups(self, groups: usize, repeat: usize) -> Result<Self, Error> {
        self.plan.with_groups(groups, repeat).map(Self::from)
    }

    /// The same plan, whose last group serves another number of successive rows than the others: `last`. So the heads
    /// of Q and of K, which have a gamma each, are normalized by one call. gamma and beta have `groups * cols` elements
    /// as before. To be called after [`with_groups`](Self::with_groups), which gives all groups one repeat again.
    ///
    /// ```
    /// use lanenorm::{RmsNorm, RowsMut};
    ///
    /// // Each of 2 tokens has 3 heads of Q, 1 of K and 1 of V, of 2 columns.
    /// let (tokens, q, k, v, cols) = (2, 3, 1, 1, 2);
    /// let (token, mut qkv) = ((q + k + v) * cols, vec![3.0f32; tokens * (q + k + v) * cols]);
    /// let gamma = [1.0f32, 1.0, 2.0, 2.0]; // of Q, and of K
    /// let plan = RmsNorm::new(cols, 0.0)?.with_groups(2, q)?.with_last_repeat(k)?;
    /// plan.call_in_place(RowsMut::strided_2d(&mut qkv, [tokens, q + k], [token, cols])).gamma(&gamma).run()?;
    /// assert_eq!(qkv[token..], [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 3.0, 3.0]);
    /// # Ok::<(), lanenorm::Error>(())
    /// ```
    ///
    /// # Errors
    /// If `last` is 0, or if the rows of all groups overflow. A call returns an error if its rows are no multiple of
    /// the rows of all groups.
    pub fn with_last_repeat(self, last: usize) -> Result<Self, Error> {
        self.plan.with_last_repeat(last).map(Self::from)
    }

    /// The number of elements in a row.
    pub fn cols(&self) -> usize {
        self.plan.cols
    }

    /// The number added to the variance, or in RMS normalization to the mean of squares.
    #[doc(alias = "variance_epsilon")]
    pub fn eps(&self) -> f64 {
        self.plan.eps
    }

    /// The number added to gamma.
    pub fn offset(&self) -> f32 {
        self.plan.offset
    }

    /// Where the operation rounds to 16 bits before its end.
    pub fn rounding(&self) -> Rounding {
        self.plan.rounding
    }

    /// What rows are divided by: see [`RmsNorm::with_divisor`](crate::RmsNorm::with_divisor).
    pub fn divisor(&self) -> Divisor {
        self.plan.divisor
    }

    /// The tier that runs.
    pub fn isa(&self) -> Isa {
        self.plan.isa
    }

    /// The moments of each row of x (about zero in RMS normalization). The rows may be some columns of longer rows: the
    /// parts that one of several processes has. [`Moments::merge_all`] merges the moments of the parts of a row into
    /// the moments of the whole row.
    ///
    /// # Errors
    /// If the lengths do not fit together; nothing has been written then.
    pub fn moments<'a, T: Element>(&self, x: impl Into<Rows<'a, T>>, moments: &mut [Moments]) -> Result<(), Error> {
        self.plan.moments(x.into(), M::CENTERED, None, moments)
    }

    /// `None` if the moments of a whole row can be trusted. Otherwise the row is of extreme range, or not finite: the
    /// moments of all its parts must be taken again, by [`moments_at_scale`](Self::moments_at_scale) with the scale
    /// returned.
    pub fn rescale<T: Element>(&self, moments: &Moments) -> Option<f64> {
        moments
            .rescale_for::<T>(self.plan.divisor, self.plan.eps)
            .unwrap_or_else(|_| unreachable!("the plan has checked eps"))
    }

    /// The moments of each row of x times a power of two, on the slow path, which is right for every finite element.
    ///
    /// The scale is one that [`rescale`](Self::rescale) gives for the type of x: 0.5 for f32, f16 and bf16, and one of
    /// three for f64. [`Call::moments`](crate::Call::moments) takes these moments and the fast ones, and no others.
    ///
    /// # Errors
    /// If the scale is another number, or if the lengths do not fit together; nothing has been written then.
    pub fn moments_at_scale<'a, T: Element>(
        &self,
        x: impl Into<Rows<'a, T>>,
        scale: f64,
        moments: &mut [Moments],
    ) -> Result<(), Error> {
        self.plan.moments(x.into(), M::CENTERED, Some(scale), moments)
    }

    /// The elements of scratch memory that a backward call for `rows` rows takes, with as many tasks as it would be cut
    /// into now. Without rows or columns there are none. Otherwise let n be the columns, rounded up to whole steps of
    /// 64 (32 for f64), times the number of parameters (2 with a beta, 1 without). Then there are 64 * n elements for
    /// the sums of 32 parts or fewer, n + `cols` elements for each task, and 64 bytes, so that all this can start on a
    /// cache line. Without those 64 bytes calls are slower, unless the memory starts on a cache line.
    ///
    /// # Errors
    /// If their number overflows.
    pub fn backward_scratch_len<T: Element>(&self, rows: usize) -> Result<usize, Error> {
        self.plan.backward_scratch_len::<T>(rows, M::CENTERED)
    }

    /// The plan without its type.
    pub(crate) fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Normalizes one row where that takes the shortest way: the row is not long, and nothing but y is wanted. Returns
    /// false if the row takes the way of all other rows, or if something does not fit. Then nothing has been done.
    #[inline(always)]
    pub(crate) fn run_row<T: Element>(
        &self,
        row: OneRow<'_, T>,
        gamma: Option<Vector<'_, T>>,
        beta: Option<Vector<'_, T>>,
        stats: &StatsMut<'_, T::Float>,
    ) -> bool {
        let no_stats = stats.mean.is_none() && stats.mean_lo.is_none() && stats.rstd.is_none();
        if !(no_stats && self.plan.takes_one_row(row.cols())) {
            false
        } else if M::CENTERED {
            self.plan.run_row::<T, Centered>(row, gamma, beta)
        } else {
            self.plan.run_row::<T, Uncentered>(row, gamma, beta)
        }
    }

    /// Normalizes rows, with moments if they are known. Each form of a call comes here with its rows, and not with an
    /// enum of forms: moving an enum takes as long as a short row.
    #[inline(always)]
    pub(crate) fn finish<'a, T: Element>(
        &self,
        io: RowIo<'a, T>,
        bias: Option<&'a [T]>,
        moments: Option<&[Moments]>,
        gamma: Option<Vector<'a, T>>,
        beta: Option<Vector<'a, T>>,
        stats: StatsMut<'a, T::Float>,
    ) -> Result<(), Error> {
        if let Some(moments) = moments {
            return self.finish_with(io, moments, gamma, beta, stats);
        }
        let plan = &self.plan;
        let params = plan.params(io.rows(), gamma, beta)?;
        Plan::check_stats(io.rows(), &stats)?;
        let eps = plan.eps;
        if M::CENTERED {
            plan.run(io, bias, |io, streaming| layer_norm::LayerNorm::new(io, params, eps, streaming, stats));
        } else {
            plan.run(io, bias, |io, streaming| rms_norm::RmsNorm::new(io, params, eps, streaming, stats.rstd));
        }
        Ok(())
    }

    /// Normalizes rows whose moments are known, which are no sums.
    fn finish_with<'a, T: Element>(
        &self,
        io: RowIo<'a, T>,
        moments: &[Moments],
        gamma: Option<Vector<'a, T>>,
        beta: Option<Vector<'a, T>>,
        stats: StatsMut<'a, T::Float>,
    ) -> Result<(), Error> {
        let plan = &self.plan;
        let params = plan.params(io.rows(), gamma, beta)?;
        Plan::check_stats(io.rows(), &stats)?;
        let eps = plan.eps;
        if M::CENTERED {
            plan.run_with(io, moments, |io, streaming| layer_norm::LayerNorm::new(io, params, eps, streaming, stats))
        } else {
            plan.run_with(io, moments, |io, streaming| rms_norm::RmsNorm::new(io, params, eps, streaming, stats.rstd))
        }
    }

    /// Checks a call of which a buffer has its rows in runs, or is given by a pointer.
    pub(crate) fn check_buffers<'a, 'm, T: Element>(
        &self,
        buffers: Buffers<'a, T>,
        bias: Option<&'a [T]>,
        moments: Option<&'m [Moments]>,
        gamma: Option<Vector<'a, T>>,
        beta: Option<Vector<'a, T>>,
        stats: StatsMut<'a, T::Float>,
    ) -> Result<Checked<'a, 'm, T>, Error> {
        let plan = &self.plan;
        shape::length("bias", bias, plan.cols)?;
        let io = buffers.check(plan.cols)?;
        let params = plan.params(io.rows(), gamma, beta)?;
        Plan::check_stats(io.rows(), &stats)?;
        shape::length("moments", moments, io.rows())?;
        if io.elements() > 0 {
            plan.check_moments::<T>(moments.unwrap_or_default())?;
        }
        Ok((io, Vectors { params, bias, stats, moments }))
    }

    /// Normalizes rows in runs, and rows given by pointers.
    #[inline(never)]
    pub(crate) fn finish_in_runs<'a, T: Element>(&self, io: RunsIo<'a, T>, vectors: Vectors<'a, '_, T>) {
        let (plan, eps) = (&self.plan, self.plan.eps);
        if M::CENTERED {
            plan.run_in_runs(io, vectors, |io, params, streaming, stats| {
                layer_norm::LayerNorm::new(io, params, eps, streaming, stats)
            });
        } else {
            plan.run_in_runs(io, vectors, |io, params, streaming, stats| {
                rms_norm::RmsNorm::new(io, params, eps, streaming, stats.rstd)
            });
        }
    }

    /// Takes gradients. `dx` makes memory for dx where it is a new vector, once the call has been checked.
    pub(crate) fn run_backward<T: Element>(
        &self,
        io: GradIo<'_, T>,
        gamma: Option<Vector<'_, T>>,
        stats: Stats<'_, T::Float>,
        grads: ParamGrads<'_, T::Float>,
        scratch: Option<&mut [T::Float]>,
        dx: Option<&mut dyn FnMut() -> *mut T>,
    ) -> Result<(), Error> {
        if M::CENTERED {
            self.plan.backward::<T, Centered>(io, gamma, stats, grads, scratch, dx)
        } else {
            self.plan.backward::<T, Uncentered>(io, gamma, stats, grads, scratch, dx)
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{Error, LayerNorm, Parallelism, RmsNorm, Store, Tier, isa};

    /// Calls for one row take a way of their own, and return the errors of all calls.
    #[test]
    fn one_row_is_a_call_like_others() -> Result<(), Error> {
        let (x, gamma) = ([1.0f32, 5.0, 1.0, 5.0], [2.0f32; 5]);
        let expected = [-2.0, 2.0, -2.0, 2.0];
        let plan = LayerNorm::new(4, 0.0)?;
        let error = |plan: LayerNorm, x: &[f32], gamma: &[f32], y: &mut [f32]| {
            let before = y.to_vec();
            let error = plan.forward(x, Some(gamma), None, &mut *y).expect_err("something does not fit").to_string();
            assert_eq!(y, before);
            error
        };
        let mut y = [7.0; 5];
        assert_eq!(error(plan, &x, &gamma, &mut y[..4]), "gamma has 5 elements, expected 4");
        assert_eq!(error(plan, &x, &gamma[..4], &mut y), "y has 5 elements, which is not a whole number of rows of 4");
        assert_eq!(error(plan, &x, &gamma[..4], &mut y[..0]), "x has 1 row, but y has 0");
        let rows = "x has 1 row, which is not a multiple of 1 group of 2";
        assert_eq!(error(plan.with_groups(1, 2)?, &x, &gamma[..4], &mut y[..4]), rows);
        let rows = "x has 1 row, which is not a multiple of 2 groups of 1";
        assert_eq!(error(plan.with_groups(2, 1)?, &x, &[1.0; 8], &mut y[..4]), rows);
        for parallelism in [Parallelism::Serial, Parallelism::Auto, Parallelism::tasks(3), Parallelism::at_most(2)] {
            for store in [Store::Auto, Store::Ordinary, Store::Streaming] {
                let plan = plan.with_parallelism(parallelism).with_store(store);
                let (mut y, mut rstd) = ([0.0; 4], [0.0]);
                plan.forward(&x, Some(&gamma[..4]), None, &mut y)?;
                assert_eq!(y, expected);
                y = x;
                plan.forward_in_place(&mut y, Some(&gamma[..4]), None)?;
                assert_eq!(y, expected);
                y.fill(0.0);
                plan.call(&x).gamma(&gamma[..4]).rstd_to(&mut rstd).to(&mut y)?;
                assert_eq!((y, rstd), (expected, [0.5]));
            }
        }
        // Without columns there may be rows that no slice counts, and nothing to do.
        LayerNorm::new(0, 0.0)?.forward(&x[..0], None, None, &mut y[..0])
    }

    #[test]
    fn plans_are_written_in_one_line() {
        let scalar = isa(Tier::Scalar).expect("every processor has it");
        let plan = LayerNorm::new(768, 1e-5).expect("a valid eps").with_isa(scalar);
        let expected = "LayerNorm { cols: 768, eps: 1e-5, offset: 0, groups: 1, repeat: 1, isa: scalar, \
                        parallelism: Auto, store: Auto }";
        assert_eq!(format!("{plan:?}"), expected);
        let plan = RmsNorm::new(8, 0.0).and_then(|plan| plan.with_groups(2, 3)).expect("a valid plan");
        let plan = plan.with_isa(scalar).with_offset(1.5).with_parallelism(Parallelism::at_most(0));
        let expected = "RmsNorm { cols: 8, eps: 0.0, offset: 1.5, groups: 2, repeat: 3, isa: scalar, \
                        parallelism: AtMost(1), store: Auto }";
        assert_eq!(format!("{plan:?}"), expected);
    }
}
