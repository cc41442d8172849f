use std::marker::PhantomData;

use lanenorm_kernels::element::Companion;
use lanenorm_kernels::ops::backward::Stats;
use lanenorm_kernels::rows::Vector;
use lanenorm_kernels::{Center, Centered, Element};

use crate::Error;
use crate::gradients::{GradIo, GradOut, ParamGrads};
use crate::input::{Apart, InPlace, Place};
use crate::norm::Norm;
use crate::rows::{Rows, RowsMut};
use crate::slice::{Misgiven, Slice, SliceMut};

/// A backward call that is described, to be run by [`to`](Self::to), or by [`run`](Self::run) in place and where dx is
/// not wanted.
///
/// dy is the gradient of y. dx, dgamma and dbeta are the gradients of x, gamma and beta: the derivatives of the sum of
/// y * dy. gamma must be the gamma of the forward call. The plan must have the eps, [offset](Norm::with_offset) and
/// [groups](Norm::with_groups) of the forward call.
///
/// The statistics are those that forward has kept. Without them they are computed again. dx, dgamma and dbeta have the
/// same bits either way, if `mean_lo` has been kept too: without `mean_lo` the mean has 24 bits only. The bits of
/// dgamma and dbeta depend on the order of the rows, and not on the number of threads. They are summed up in f32 (f64
/// for f64) whatever the type of x.
///
/// A row with a NaN or an infinity in x, dy or gamma has a dx of NaN; its neighbours are untouched. Of a row whose
/// elements are all equal (RMS normalization: zero), with eps 0, dx is defined to be 0. A call allocates its memory
/// unless it is given [scratch memory](Self::scratch).
///
/// ```
/// use lanenorm::LayerNorm;
///
/// let plan = LayerNorm::new(3, 1e-5)?;
/// let (x, gamma, dy) = ([1.0f32, 2.0, 4.0], [1.0, 0.5, 2.0], [0.1, -0.2, 0.3]);
/// let (mut y, mut mean, mut mean_lo, mut rstd) = ([0.0; 3], [0.0], [0.0], [0.0]);
/// plan.call(&x).gamma(&gamma).mean_to(&mut mean).mean_lo_to(&mut mean_lo).rstd_to(&mut rstd).to(&mut y)?;
///
/// let (mut dx, mut dgamma, mut dbeta) = ([0.0; 3], [0.0; 3], [0.0; 3]);
/// let call = plan.backward(&dy, &x).gamma(&gamma).mean(&mean).mean_lo(&mean_lo).rstd(&rstd);
/// call.dgamma_to(&mut dgamma).dbeta_to(&mut dbeta).to(&mut dx)?;
/// assert_eq!(dbeta, dy);
/// assert!(dx.iter().sum::<f32>().abs() < 1e-6); // y does not change with an offset of x
/// # Ok::<(), lanenorm::Error>(())
/// ```
///
/// `T` is the type of dy, x, ds and dx, and `M` whether rows have a mean. `D` says where dx goes ([`Apart`] or
/// [`InPlace`], over dy), and `S` whether there is a ds.
#[derive(Debug)]
#[must_use = "nothing happens before `to` or `run`"]
pub struct BackwardCall<'a, T: Element, M: Center, D: Place = Apart, S = ()> {
    norm: &'a Norm<M>,
    dy: D::Rows<'a, T>,
    x: Rows<'a, T>,
    ds: Option<Rows<'a, T>>,
    gamma: Option<Vector<'a, T>>,
    stats: Stats<'a, T::Float>,
    grads: ParamGrads<'a, T::Float>,
    scratch: Option<&'a mut [T::Float]>,
    misgiven: Misgiven,
    marker: PhantomData<S>,
}

/// A backward call has a ds.
#[derive(Clone, Copy, Debug)]
pub struct Ds;

impl<M: Center> Norm<M> {
    /// Describes a call that takes the gradients of x, gamma and beta from the gradient dy of y.
    #[inline(always)]
    pub fn backward<'a, T: Element>(
        &'a self,
        dy: impl Into<Rows<'a, T>>,
        x: impl Into<Rows<'a, T>>,
    ) -> BackwardCall<'a, T, M> {
        BackwardCall::new(self, dy.into(), x.into())
    }

    /// Describes a call that writes dx over dy.
    #[inline(always)]
    pub fn backward_in_place<'a, T: Element>(
        &'a self,
        dy: impl Into<RowsMut<'a, T>>,
        x: impl Into<Rows<'a, T>>,
    ) -> BackwardCall<'a, T, M, InPlace> {
        BackwardCall::new(self, dy.into(), x.into())
    }
}

impl<'a, T: Element, M: Center, D: Place> BackwardCall<'a, T, M, D> {
    #[inline(always)]
    fn new(norm: &'a Norm<M>, dy: D::Rows<'a, T>, x: Rows<'a, T>) -> Self {
        let (stats, grads, misgiven) = (Stats::default(), ParamGrads::default(), Misgiven::default());
        Self { norm, dy, x, ds: None, gamma: None, stats, grads, scratch: None, misgiven, marker: PhantomData }
    }

    /// All that has been described, but for the statistics.
    #[expect(clippy::type_complexity, reason = "the parts of a call")]
    pub(crate) fn into_parts(
        self,
    ) -> Result<
        (
            &'a Norm<M>,
            D::Rows<'a, T>,
            Rows<'a, T>,
            Option<Vector<'a, T>>,
            ParamGrads<'a, T::Float>,
            Option<&'a mut [T::Float]>,
        ),
        Error,
    > {
        let Self { norm, dy, x, gamma, grads, scratch, misgiven, .. } = self;
        misgiven.refuse()?;
        Ok((norm, dy, x, gamma, grads, scratch))
    }

    /// The statistics that are given.
    pub(crate) fn stats(&self) -> Stats<'a, T::Float> {
        self.stats
    }

    /// A gradient that reaches x by another way, to be added to dx. Where x is the sum of two addends, written by
    /// forward, ds is the gradient of the sum, and dx the gradient of either addend.
    ///
    /// A call without dx has no ds:
    ///
    /// ```compile_fail,E0599
    /// # let (x, mut dgamma) = ([1.0f32; 4], [0.0f32; 4]);
    /// lanenorm::RmsNorm::new(4, 1e-6)?.backward(&x, &x).dgamma_to(&mut dgamma).ds(&x).run()?;
    /// # Ok::<(), lanenorm::Error>(())
    /// ```
    #[inline(always)]
    pub fn ds(self, ds: impl Into<Rows<'a, T>>) -> BackwardCall<'a, T, M, D, Ds> {
        let Self { norm, dy, x, gamma, stats, grads, scratch, misgiven, .. } = self;
        let ds = Some(ds.into());
        BackwardCall { norm, dy, x, ds, gamma, stats, grads, scratch, misgiven, marker: PhantomData }
    }
}

impl<'a, T: Element, M: Center, D: Place, S> BackwardCall<'a, T, M, D, S> {
    /// The gamma of the forward call: of the type of x, of f32 beside 16 bits, or of 16 bits beside f32. An absent
    /// gamma counts as 1.
    #[doc(alias = "weight")]
    #[inline(always)]
    pub fn gamma<G: Companion<T>>(mut self, gamma: impl Into<Slice<'a, G>>) -> Self {
        self.gamma = self.misgiven.slice("gamma", gamma.into().0).map(Vector::from);
        self
    }

    /// The rstd of each row, as forward has kept it. In layer normalization, rstd and [mean](Self::mean) must be given
    /// together.
    #[inline(always)]
    pub fn rstd(mut self, rstd: impl Into<Slice<'a, T::Float>>) -> Self {
        self.stats.rstd = self.misgiven.slice("rstd", rstd.into().0);
        self
    }

    /// Where the gradient of gamma goes: `cols` elements (of each group), of f64 for rows of f64, else of f32. It is
    /// overwritten.
    #[inline(always)]
    pub fn dgamma_to(mut self, dgamma: impl Into<SliceMut<'a, T::Float>>) -> Self {
        self.grads.dgamma = self.misgiven.slice("dgamma", dgamma.into().0);
        self
    }

    /// Memory to work in, so that the call allocates nothing: [`backward_scratch_len`](Norm::backward_scratch_len)
    /// elements, or fewer for fewer tasks. Its contents do not matter. A call returns an error if the memory is too
    /// short even for one task.
    #[inline(always)]
    pub fn scratch(mut self, scratch: impl Into<SliceMut<'a, T::Float>>) -> Self {
        self.scratch = self.misgiven.slice("scratch", scratch.into().0);
        self
    }
}

/// The methods of layer normalization alone.
impl<'a, T: Element, D: Place, S> BackwardCall<'a, T, Centered, D, S> {
    /// The mean of each row, as forward has kept it.
    #[inline(always)]
    pub fn mean(mut self, mean: impl Into<Slice<'a, T::Float>>) -> Self {
        self.stats.mean = self.misgiven.slice("mean", mean.into().0);
        self
    }

    /// What rounding took from the mean of each row, as forward has kept it.
    #[inline(always)]
    pub fn mean_lo(mut self, mean_lo: impl Into<Slice<'a, T::Float>>) -> Self {
        self.stats.mean_lo = self.misgiven.slice("mean_lo", mean_lo.into().0);
        self
    }

    /// Where the gradient of beta goes: as many elements as the gradient of [gamma](Self::dgamma_to) has, of the same
    /// type.
    ///
    /// RMS normalization has none:
    ///
    /// ```compile_fail,E0599
    /// # let (x, mut dbeta, mut dx) = ([1.0f32; 4], [0.0f32; 4], [0.0f32; 4]);
    /// lanenorm::RmsNorm::new(4, 1e-6)?.backward(&x, &x).dbeta_to(&mut dbeta).to(&mut dx)?;
    /// # Ok::<(), lanenorm::Error>(())
    /// ```
    #[inline(always)]
    pub fn dbeta_to(mut self, dbeta: impl Into<SliceMut<'a, T::Float>>) -> Self {
        self.grads.dbeta = self.misgiven.slice("dbeta", dbeta.into().0);
        self
    }
}

impl<'a, T: Element, M: Center, S> BackwardCall<'a, T, M, Apart, S> {
    /// Runs the call. The gradient of x goes to dx.
    ///
    /// # Errors
    /// If the lengths do not fit together, or if mean comes without rstd or rstd without mean; nothing has been written
    /// then.
    pub fn to(self, dx: impl Into<RowsMut<'a, T>>) -> Result<(), Error> {
        let Self { norm, dy, x, ds, gamma, stats, grads, scratch, misgiven, .. } = self;
        misgiven.refuse()?;
        let io = GradIo { out: GradOut::Apart { dy, dx: dx.into() }, x, ds };
        norm.run_backward(io, gamma, stats, grads, scratch, None)
    }
}

impl<T: Element, M: Center, S> BackwardCall<'_, T, M, Apart, S> {
    /// Runs the call. The gradient of x is a new vector of contiguous rows.
    ///
    /// # Errors
    /// As [`to`](Self::to).
    pub fn to_vec(self) -> Result<Vec<T>, Error> {
        let Self { norm, dy, x, ds, gamma, stats, grads, scratch, misgiven, .. } = self;
        misgiven.refuse()?;
        norm.backward_to_vec([dy, x], ds, gamma, stats, grads, scratch)
    }
}

impl<T: Element, M: Center> BackwardCall<'_, T, M> {
    /// Runs the call without the gradient of x.
    ///
    /// # Errors
    /// As [`to`](Self::to), and if no other gradient is asked for.
    pub fn run(self) -> Result<(), Error> {
        let Self { norm, dy, x, ds, gamma, stats, grads, scratch, misgiven, .. } = self;
        misgiven.refuse()?;
        norm.run_backward(GradIo { out: GradOut::WithoutDx { dy }, x, ds }, gamma, stats, grads, scratch, None)
    }
}

impl<T: Element, M: Center, S> BackwardCall<'_, T, M, InPlace, S> {
    /// Runs the call. The gradient of x overwrites dy.
    ///
    /// # Errors
    /// If the lengths do not fit together, or if mean comes without rstd or rstd without mean; nothing has been written
    /// then.
    pub fn run(self) -> Result<(), Error> {
        let Self { norm, dy, x, ds, gamma, stats, grads, scratch, misgiven, .. } = self;
        misgiven.refuse()?;
        norm.run_backward(GradIo { out: GradOut::InPlace { dy }, x, ds }, gamma, stats, grads, scratch, None)
    }
}
