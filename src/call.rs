//! Calls that are described: what goes in, which parameters there are, and what comes out.
//!
//! [`Norm::call`] begins a description and [`Call::to`] runs it; in place, these are [`Norm::call_in_place`] and
//! [`Call::run`]. What is not named is absent.
//!
//! ```
//! use lanenorm::LayerNorm;
//!
//! let plan = LayerNorm::new(2, 0.0)?;
//! let (x, gamma, beta) = ([1.0f32, 3.0, 8.0, 4.0], [2.0, 2.0], [0.5, 0.5]);
//! let (mut y, mut mean) = ([0.0; 4], [0.0; 2]);
//! plan.call(&x).gamma(&gamma).beta(&beta).mean_to(&mut mean).to(&mut y)?;
//! assert_eq!((y, mean), ([-1.5, 2.5, 2.5, -1.5], [2.0, 6.0]));
//!
//! // x + residual, written over the residual, and normalized into y.
//! let mut residual = [1.0, 1.0, 0.0, 0.0];
//! plan.call(&x).residual_in_place(&mut residual).to(&mut y)?;
//! assert_eq!((y, residual), ([-1.0, 1.0, 1.0, -1.0], [2.0, 4.0, 8.0, 4.0]));
//! # Ok::<(), lanenorm::Error>(())
//! ```
//!
//! - What is normalized: x ([`call`](Norm::call), [`call_in_place`](Norm::call_in_place)), or x + residual, which is
//!   dropped ([`residual`](Call::residual)) or written ([`sum_to`](Call::sum_to),
//!   [`residual_in_place`](Call::residual_in_place)), with a row added to it ([`bias`](Call::bias)). All have one type,
//!   but that an x of 16 bits may be added to a residual of f32.
//! - Parameters: [`gamma`](Call::gamma) and [`beta`](Call::beta), of the type of x, of f32 beside 16 bits, or of 16
//!   bits beside f32. Moments of rows that are known: [`moments`](Call::moments).
//! - What else is kept: [`mean_to`](Call::mean_to), [`mean_lo_to`](Call::mean_lo_to), [`rstd_to`](Call::rstd_to), of
//!   f64 for rows of f64 and else of f32.
//! - The end: [`to`](Call::to) y, of the type of x (of a sum, if there is one), of f32 beside 16 bits, or of 16 bits
//!   beside f32, [`to_vec`](Call::to_vec) for a new vector, or [`run`](Call::run) in place.
//! - Before the end, last of all: a gate ([`gate`](Call::gate)), 8 bits ([`quantize`](Call::quantize)), channels that
//!   come first ([`channels_first`](Call::channels_first)), a second gamma and beta for a second output
//!   ([`second`](Call::second)), or the rest of longer rows ([`copy_rest`](Call::copy_rest)).
//!
//! [`Norm::backward`] and [`Norm::backward_in_place`] begin the description of a [`BackwardCall`] likewise.
//!
//! Which of these go together is a matter of types, so that what does not is refused by the compiler. Lengths are
//! checked when the call runs, before anything is written.

use std::marker::PhantomData;

use lanenorm_kernels::element::{Addend, Companion};
use lanenorm_kernels::rows::Vector;
use lanenorm_kernels::stats::{Moments, StatsMut};
use lanenorm_kernels::{Center, Centered, Element};

use crate::Error;
pub use crate::backward_call::BackwardCall;
use crate::input::sealed;
pub use crate::input::{
    Allows, AnyType, Apart, Dropped, Gives, GivesInPlace, InPlace, Kept, Known, Normalizes, Of, Over, Place, Plain, Sum,
};
use crate::norm::{Checked, Norm};
use crate::rows::{Rows, RowsMut};
use crate::slice::{Misgiven, Slice, SliceMut};

/// A call that is described, to be run by [`to`](Self::to) or, in place, by [`run`](Self::run).
///
/// `T` is the type of x and `M` whether rows have a mean. The other parameters say what has been described: `I` what is
/// normalized ([`Plain`] rows, a [`Sum`], or rows whose moments are [`Known`]), `D` where its result goes ([`Apart`] or
/// [`InPlace`]), and `P` the type of gamma and beta ([`AnyType`], or one [`Of`] them).
#[derive(Debug)]
#[must_use = "nothing happens before `to` or `run`"]
pub struct Call<'a, T: Element, M: Center, I = Plain, D: Place = Apart, P = AnyType> {
    norm: &'a Norm<M>,
    x: D::Rows<'a, T>,
    input: I,
    gamma: Option<Vector<'a, T>>,
    beta: Option<Vector<'a, T>>,
    stats: StatsMut<'a, T::Float>,
    misgiven: Misgiven,
    marker: PhantomData<P>,
}

impl<M: Center> Norm<M> {
    /// Describes a call that normalizes the rows of x into others.
    #[inline(always)]
    pub fn call<'a, T: Element>(&'a self, x: impl Into<Rows<'a, T>>) -> Call<'a, T, M> {
        Call::new(self, x.into())
    }

    /// Describes a call that normalizes rows where they lie.
    #[inline(always)]
    pub fn call_in_place<'a, T: Element>(&'a self, x: impl Into<RowsMut<'a, T>>) -> Call<'a, T, M, Plain, InPlace> {
        Call::new(self, x.into())
    }
}

impl<'a, T: Element, M: Center, D: Place> Call<'a, T, M, Plain, D> {
    #[inline(always)]
    fn new(norm: &'a Norm<M>, x: D::Rows<'a, T>) -> Self {
        let (stats, misgiven) = (StatsMut::default(), Misgiven::default());
        Self { norm, x, input: Plain, gamma: None, beta: None, stats, misgiven, marker: PhantomData }
    }
}

/// What is normalized.
impl<'a, T: Element, M: Center, D: Place, P> Call<'a, T, M, Plain, D, P> {
    /// Takes these as the moments of the rows of x, or of longer rows of which these are parts: one for each row. With
    /// those of [`Norm::moments`], taken again where [`Norm::rescale`] says so, y has the bits of a call on the whole
    /// rows. The call returns an error if no such row of x has these moments: see [`Moments::are_of`].
    ///
    /// A sum has no moments that could be known:
    ///
    /// ```compile_fail,E0599
    /// # use lanenorm::{Moments, RmsNorm};
    /// # let (x, mut y) = ([1.0f32; 4], [0.0f32; 4]);
    /// RmsNorm::new(4, 1e-6)?.call(&x).moments(&[Moments::EMPTY]).residual(&x).to(&mut y)?;
    /// # Ok::<(), lanenorm::Error>(())
    /// ```
    #[inline(always)]
    pub fn moments(self, moments: &'a [Moments]) -> Call<'a, T, M, Known<'a>, D, P> {
        self.with_input(Known(moments))
    }
}

impl<'a, T: Element, M: Center, P> Call<'a, T, M, Plain, Apart, P> {
    /// Normalizes x + residual, rounded to the type of the residual: the type of x, or f32 beside an x of 16
    /// bits. The bits are those of adding first (or what
    /// [`Sums`](crate::Sums) say), and rows are read no more often than without a residual. The sum is
    /// dropped, as it may be where nothing else reads it (post-norm), unless it goes [somewhere](Call::sum_to).
    ///
    /// ```
    /// use lanenorm::RmsNorm;
    ///
    /// let plan = RmsNorm::new(2, 0.0)?;
    /// let (x, h, mut y) = ([1.0, -1.0], [2.0, -2.0], [0.0; 2]);
    /// plan.call(&x).residual(&h).to(&mut y)?;
    /// assert_eq!(y, [1.0, -1.0]);
    /// # Ok::<(), lanenorm::Error>(())
    /// ```
    ///
    /// Where the sum is dropped, y has its type:
    ///
    /// ```compile_fail,E0277
    /// # use lanenorm::{RmsNorm, bf16};
    /// # let (x, mut y) = ([bf16::ONE; 4], [0.0f32; 4]);
    /// RmsNorm::new(4, 1e-6)?.call(&x).residual(&x).to(&mut y)?;
    /// # Ok::<(), lanenorm::Error>(())
    /// ```
    #[inline(always)]
    pub fn residual<R>(self, residual: impl Into<Rows<'a, R>>) -> Call<'a, T, M, Dropped<'a, R>, Apart, P>
    where
        T: Addend<R>,
    {
        self.with_input(Sum { residual: residual.into(), s: (), bias: None })
    }

    /// Normalizes x + residual, which is written over the residual: what a transformer does before each of its
    /// normalizations (pre-norm). x and the residual may be exchanged, so that the sum is written over x.
    ///
    /// ```
    /// use lanenorm::RmsNorm;
    ///
    /// let plan = RmsNorm::new(2, 0.0)?;
    /// let (x, mut residual, mut y) = ([1.0, -1.0], [2.0, -2.0], [0.0; 2]);
    /// plan.call(&x).residual_in_place(&mut residual).to(&mut y)?;
    /// assert_eq!((residual, y), ([3.0, -3.0], [1.0, -1.0]));
    /// # Ok::<(), lanenorm::Error>(())
    /// ```
    ///
    /// An x of 16 bits may be added to a residual of f32. Statistics and sums are f32 then:
    ///
    /// ```
    /// use lanenorm::{RmsNorm, bf16};
    ///
    /// let plan = RmsNorm::new(2, 0.0)?;
    /// let (x, mut residual, mut y) = ([bf16::ONE, -bf16::ONE], [1e4, -1e4], [bf16::ZERO; 2]);
    /// plan.call(&x).residual_in_place(&mut residual).to(&mut y)?;
    /// assert_eq!((residual, y), ([10001.0, -10001.0], [bf16::ONE, -bf16::ONE]));
    /// # Ok::<(), lanenorm::Error>(())
    /// ```
    #[inline(always)]
    pub fn residual_in_place<R>(self, residual: impl Into<RowsMut<'a, R>>) -> Call<'a, T, M, Over<'a, R>, Apart, P>
    where
        T: Addend<R>,
    {
        self.with_input(Sum { residual: residual.into(), s: (), bias: None })
    }
}

impl<'a, T: Element, M: Center, P> Call<'a, T, M, Plain, InPlace, P> {
    /// Normalizes x + residual, rounded to the type of x, where x lies. The residual has the type of x, or 16 bits
    /// beside an x of f32.
    ///
    /// ```
    /// use lanenorm::RmsNorm;
    ///
    /// let plan = RmsNorm::new(2, 0.0)?;
    /// let (x, mut h) = ([1.0, -1.0], [2.0, -2.0]);
    /// plan.call_in_place(&mut h).residual(&x).run()?;
    /// assert_eq!(h, [1.0, -1.0]);
    /// # Ok::<(), lanenorm::Error>(())
    /// ```
    #[inline(always)]
    pub fn residual<R: Addend<T>>(
        self,
        residual: impl Into<Rows<'a, R>>,
    ) -> Call<'a, T, M, Sum<'a, T, Rows<'a, R>>, InPlace, P> {
        self.with_input(Sum { residual: residual.into(), s: (), bias: None })
    }
}

impl<'a, T: Element, R, M: Center, P> Call<'a, T, M, Dropped<'a, R>, Apart, P> {
    /// Writes the sum too. y may have another type than the sum then: f32 beside 16 bits, or 16 bits beside f32.
    #[inline(always)]
    pub fn sum_to(self, s: impl Into<RowsMut<'a, R>>) -> Call<'a, T, M, Kept<'a, R>, Apart, P> {
        let Call { norm, x, input, gamma, beta, stats, misgiven, marker } = self;
        Call { norm, x, input: input.kept_in(s.into()), gamma, beta, stats, misgiven, marker }
    }
}

impl<'a, T: Element, M: Center, B, R, S, D: Place, P> Call<'a, T, M, Sum<'a, B, R, S>, D, P> {
    /// Adds a row of `cols` elements to each row of x + residual, before it is rounded.
    ///
    /// Without a residual there is no bias:
    ///
    /// ```compile_fail,E0599
    /// # let (x, mut y) = ([1.0f32; 4], [0.0f32; 4]);
    /// lanenorm::RmsNorm::new(4, 1e-6)?.call(&x).bias(&x).to(&mut y)?;
    /// # Ok::<(), lanenorm::Error>(())
    /// ```
    #[inline(always)]
    pub fn bias(mut self, bias: impl Into<Slice<'a, B>>) -> Self {
        self.input.bias = self.misgiven.slice("bias", bias.into().0);
        self
    }
}

/// Parameters and statistics.
impl<'a, T: Element, M: Center, I, D: Place, P> Call<'a, T, M, I, D, P> {
    /// The factor: `cols` elements (of each [group](Norm::with_groups)), of the type of x, of f32 beside an x of 16
    /// bits, or of 16 bits beside an x of f32. Without it, it is 1.
    #[doc(alias = "weight")]
    #[doc(alias = "elementwise_affine")]
    #[inline(always)]
    pub fn gamma<G: Companion<T>>(self, gamma: impl Into<Slice<'a, G>>) -> Call<'a, T, M, I, D, Of<G>>
    where
        P: Allows<G>,
    {
        let Call { norm, x, input, beta, stats, mut misgiven, .. } = self;
        let gamma = misgiven.slice("gamma", gamma.into().0).map(Vector::from);
        Call { norm, x, input, gamma, beta, stats, misgiven, marker: PhantomData }
    }

    /// Keeps rstd of each row: 1 / sqrt(var + eps), or in RMS normalization 1 / sqrt(mean(x^2) + eps). It is infinite
    /// beyond the range of its type, and for a constant row (RMS normalization: a row of zeros) with eps = 0.
    #[inline(always)]
    pub fn rstd_to(mut self, rstd: impl Into<SliceMut<'a, T::Float>>) -> Self {
        self.stats.rstd = self.misgiven.slice("rstd", rstd.into().0);
        self
    }

    #[inline(always)]
    fn with_input<J>(self, input: J) -> Call<'a, T, M, J, D, P> {
        let Call { norm, x, gamma, beta, stats, misgiven, marker, .. } = self;
        Call { norm, x, input, gamma, beta, stats, misgiven, marker }
    }
}

/// What layer normalization has beside these.
impl<'a, T: Element, I, D: Place, P> Call<'a, T, Centered, I, D, P> {
    /// The addend: `cols` elements (of each [group](Norm::with_groups)), of the type of gamma. Without it, it is 0.
    ///
    /// RMS normalization has none, and gamma and beta have one type:
    ///
    /// ```compile_fail,E0599
    /// # let (x, mut y) = ([1.0f32; 4], [0.0f32; 4]);
    /// lanenorm::RmsNorm::new(4, 1e-6)?.call(&x).beta(&x).to(&mut y)?;
    /// # Ok::<(), lanenorm::Error>(())
    /// ```
    ///
    /// ```compile_fail,E0277
    /// # use lanenorm::{LayerNorm, bf16};
    /// # let (x, gamma, mut y) = ([bf16::ONE; 4], [1.0f32; 4], [bf16::ONE; 4]);
    /// LayerNorm::new(4, 1e-6)?.call(&x).gamma(&gamma).beta(&x).to(&mut y)?;
    /// # Ok::<(), lanenorm::Error>(())
    /// ```
    #[doc(alias = "bias")]
    #[doc(alias = "elementwise_affine")]
    #[inline(always)]
    pub fn beta<G: Companion<T>>(self, beta: impl Into<Slice<'a, G>>) -> Call<'a, T, Centered, I, D, Of<G>>
    where
        P: Allows<G>,
    {
        let Call { norm, x, input, gamma, stats, mut misgiven, .. } = self;
        let beta = misgiven.slice("beta", beta.into().0).map(Vector::from);
        Call { norm, x, input, gamma, beta, stats, misgiven, marker: PhantomData }
    }

    /// Keeps the mean of each row, rounded.
    #[inline(always)]
    pub fn mean_to(mut self, mean: impl Into<SliceMut<'a, T::Float>>) -> Self {
        self.stats.mean = self.misgiven.slice("mean", mean.into().0);
        self
    }

    /// Keeps what rounding took from the mean: in f32, `mean + mean_lo` has 48 bits.
    #[inline(always)]
    pub fn mean_lo_to(mut self, mean_lo: impl Into<SliceMut<'a, T::Float>>) -> Self {
        self.stats.mean_lo = self.misgiven.slice("mean_lo", mean_lo.into().0);
        self
    }
}

/// For calls of which `gate` and the like make another type.
impl<'a, T: Element, M: Center, I, D: Place, P> Call<'a, T, M, I, D, P> {
    /// A slice that such a call writes. Keeps what is wrong with it.
    pub(crate) fn slice_mut<V>(&mut self, what: &'static str, vector: SliceMut<'a, V>) -> Option<&'a mut [V]> {
        self.misgiven.slice(what, vector.0)
    }

    /// All that has been described.
    #[expect(clippy::type_complexity, reason = "the parts of a call")]
    pub(crate) fn into_parts(
        self,
    ) -> Result<
        (&'a Norm<M>, D::Rows<'a, T>, I, Option<Vector<'a, T>>, Option<Vector<'a, T>>, StatsMut<'a, T::Float>),
        Error,
    > {
        let Self { norm, x, input, gamma, beta, stats, misgiven, .. } = self;
        misgiven.refuse()?;
        Ok((norm, x, input, gamma, beta, stats))
    }
}

/// The end of a call whose result goes to other rows.
impl<'a, T: Element, M: Center, I, P> Call<'a, T, M, I, Apart, P> {
    /// Runs the call; its result goes to y.
    ///
    /// ```
    /// use lanenorm::{RmsNorm, bf16};
    ///
    /// // gamma and y of 16 bits beside rows of f32.
    /// let (x, gamma, mut y) = ([3.0f32, -3.0], [bf16::ONE; 2], [bf16::ZERO; 2]);
    /// RmsNorm::new(2, 0.0)?.call(&x).gamma(&gamma).to(&mut y)?;
    /// assert_eq!(y, [bf16::ONE, -bf16::ONE]);
    /// # Ok::<(), lanenorm::Error>(())
    /// ```
    ///
    /// ```
    /// use lanenorm::{LayerNorm, bf16};
    ///
    /// let x = [1.0, 3.0].map(bf16::from_f32);
    /// let (gamma, beta, mut y) = ([2.0, 2.0], [0.5, 0.5], [0.0; 2]); // all f32
    /// LayerNorm::new(2, 0.0)?.call(&x).gamma(&gamma).beta(&beta).to(&mut y)?;
    /// assert_eq!(y, [-1.5, 2.5]);
    /// # Ok::<(), lanenorm::Error>(())
    /// ```
    ///
    /// # Errors
    /// If the lengths do not fit together, or if there are moments that no row of x has; nothing has been written then.
    // Inlined, so that no description is written to memory: it takes 8 ns to pass one.
    #[inline(always)]
    pub fn to<Y: 'a>(self, y: impl Into<RowsMut<'a, Y>>) -> Result<(), Error>
    where
        I: Gives<'a, T, Y>,
    {
        let Call { norm, x, input, gamma, beta, stats, misgiven, .. } = self;
        misgiven.refuse()?;
        norm.normalize(input, x, y.into(), gamma, beta, stats)
    }
}

/// The same with outputs that are new vectors, each of which is written once.
impl<'a, T: Element, M: Center, I, P> Call<'a, T, M, I, Apart, P> {
    /// Runs the call; its result is a new vector of contiguous rows.
    ///
    /// ```
    /// use lanenorm::{LayerNorm, bf16};
    ///
    /// let x = [1.0, 3.0].map(bf16::from_f32);
    /// let y: Vec<f32> = LayerNorm::new(2, 0.0)?.call(&x).to_vec()?;
    /// assert_eq!(y, [-1.0, 1.0]);
    /// # Ok::<(), lanenorm::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`to`](Self::to).
    pub fn to_vec<Y: 'a>(self) -> Result<Vec<Y>, Error>
    where
        I: Gives<'a, T, Y>,
    {
        let Call { norm, x, input, gamma, beta, stats, misgiven, .. } = self;
        misgiven.refuse()?;
        norm.normalize_to_vec(input, x, gamma, beta, stats)
    }
}

impl<'a, T, R: Element, M: Center, P> Call<'a, T, M, Dropped<'a, R>, Apart, P>
where
    T: Element<Float = R::Float> + Addend<R>,
{
    /// Runs the call; the sums and the result are new vectors of contiguous rows.
    ///
    /// ```
    /// let plan = lanenorm::RmsNorm::new(2, 0.0)?;
    /// let (s, y): (_, Vec<f32>) = plan.call(&[1.0, -1.0]).residual(&[2.0, -2.0]).to_vecs()?;
    /// assert_eq!((s, y), (vec![3.0, -3.0], vec![1.0, -1.0]));
    /// # Ok::<(), lanenorm::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`to`](Self::to).
    pub fn to_vecs<Y: Companion<R>>(self) -> Result<(Vec<R>, Vec<Y>), Error> {
        let Call { norm, x, input, gamma, beta, stats, misgiven, .. } = self;
        misgiven.refuse()?;
        norm.normalize_to_vecs(input, x, gamma, beta, stats)
    }
}

/// The end of a call in place.
impl<'a, T: Element, M: Center, I: GivesInPlace<'a, T>, P> Call<'a, T, M, I, InPlace, P> {
    /// Runs the call; its result goes where x lies.
    ///
    /// # Errors
    /// If the lengths do not fit together, or if there are moments that no row of x has; nothing has been written then.
    #[inline(always)]
    pub fn run(self) -> Result<(), Error> {
        let Call { norm, x, input, gamma, beta, stats, misgiven, .. } = self;
        misgiven.refuse()?;
        norm.normalize_in_place(input, x, gamma, beta, stats)
    }
}

/// Where all calls come together. Inlined, so that a call on slices has no branch for grids.
impl<M: Center> Norm<M> {
    /// Normalizes what the input makes of x into y.
    #[inline(always)]
    pub(crate) fn normalize<'a, T: Element, Y, I: Gives<'a, T, Y>>(
        &self,
        input: I,
        x: Rows<'a, T>,
        mut y: RowsMut<'a, Y>,
        gamma: Option<Vector<'a, T>>,
        beta: Option<Vector<'a, T>>,
        stats: StatsMut<'a, T::Float>,
    ) -> Result<(), Error> {
        if let Some(row) = input.one_row(&x, &mut y)
            && self.run_row(row, gamma.map(I::beside), beta.map(I::beside), &stats)
        {
            return Ok(());
        }
        if x.layout.is_grid() || y.layout.is_grid() || input.has_grid() {
            return self.normalize_in_runs(input, x, y, gamma, beta, stats);
        }
        let (bias, moments) = (input.bias(), input.moments());
        let (gamma, beta) = (gamma.map(I::beside), beta.map(I::beside));
        let io = input.rows(sealed::On(&self.plan), x, y)?;
        self.finish(io, bias, moments, gamma, beta, stats)
    }

    /// Normalizes what the input makes of x where x lies.
    #[inline(always)]
    pub(crate) fn normalize_in_place<'a, T: Element, I: GivesInPlace<'a, T>>(
        &self,
        input: I,
        mut x: RowsMut<'a, T>,
        gamma: Option<Vector<'a, T>>,
        beta: Option<Vector<'a, T>>,
        stats: StatsMut<'a, T::Float>,
    ) -> Result<(), Error> {
        if let Some(row) = input.one_row_in_place(&mut x)
            && self.run_row(row, gamma.map(I::beside), beta.map(I::beside), &stats)
        {
            return Ok(());
        }
        if x.layout.is_grid() || input.has_grid() {
            return self.normalize_runs_in_place(input, x, gamma, beta, stats);
        }
        let (bias, moments) = (input.bias(), input.moments());
        let io = input.rows_in_place(sealed::On(&self.plan), x)?;
        self.finish(io, bias, moments, gamma, beta, stats)
    }

    /// Out of line, so that the other ways stay short.
    #[cold]
    #[inline(never)]
    fn normalize_in_runs<'a, T: Element, Y, I: Gives<'a, T, Y>>(
        &self,
        input: I,
        x: Rows<'a, T>,
        y: RowsMut<'a, Y>,
        gamma: Option<Vector<'a, T>>,
        beta: Option<Vector<'a, T>>,
        stats: StatsMut<'a, T::Float>,
    ) -> Result<(), Error> {
        let (io, vectors) = self.check_in_runs(input, x, y, gamma, beta, stats)?;
        self.finish_in_runs(io, vectors);
        Ok(())
    }

    /// Checks a call as one of which a buffer is a grid.
    pub(crate) fn check_in_runs<'a, T: Element, Y, I: Gives<'a, T, Y>>(
        &self,
        input: I,
        x: Rows<'a, T>,
        y: RowsMut<'a, Y>,
        gamma: Option<Vector<'a, T>>,
        beta: Option<Vector<'a, T>>,
        stats: StatsMut<'a, T::Float>,
    ) -> Result<Checked<'a, 'a, I::Of>, Error> {
        let (bias, moments) = (input.bias(), input.moments());
        let (gamma, beta) = (gamma.map(I::beside), beta.map(I::beside));
        self.check_buffers(input.runs(x, y).0, bias, moments, gamma, beta, stats)
    }

    #[cold]
    #[inline(never)]
    fn normalize_runs_in_place<'a, T: Element, I: GivesInPlace<'a, T>>(
        &self,
        input: I,
        x: RowsMut<'a, T>,
        gamma: Option<Vector<'a, T>>,
        beta: Option<Vector<'a, T>>,
        stats: StatsMut<'a, T::Float>,
    ) -> Result<(), Error> {
        let (bias, moments) = (input.bias(), input.moments());
        let (io, vectors) = self.check_buffers(input.runs_in_place(x).0, bias, moments, gamma, beta, stats)?;
        self.finish_in_runs(io, vectors);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use lanenorm_kernels::element::Storage;
    use lanenorm_kernels::half::{bf16, f16};

    use super::*;
    use crate::{LayerNorm, Parallelism, RmsNorm};

    /// Numbers between -2 and 2 that all types have.
    fn numbers<T: Storage<Float = f32>>(len: usize, seed: usize) -> Vec<T> {
        (0..len).map(|i| T::from_computed(((i * 37 + seed * 11) % 129) as f32 / 32.0 - 2.0)).collect()
    }

    fn wide<T: Storage<Float = f32>>(v: &[T]) -> Vec<f32> {
        v.iter().map(|v| v.to_computed()).collect()
    }

    /// Each form of a call with buffers of 16 bits beside f32 gives what the call on f32 gives, rounded.
    fn types_mix<G>(rows: usize, cols: usize)
    where
        G: Element<Float = f32> + Addend<f32>,
        f32: Companion<G>,
    {
        let plan = LayerNorm::new(cols, 1e-5).expect("a plan").with_parallelism(Parallelism::tasks(3));
        let (x, x32) = (numbers::<G>(rows * cols, 1), numbers::<f32>(rows * cols, 1));
        let (gamma, gamma32) = (numbers::<G>(cols, 2), numbers::<f32>(cols, 2));
        let (beta, beta32) = (numbers::<G>(cols, 3), numbers::<f32>(cols, 3));
        let (h, bias) = (numbers::<f32>(rows * cols, 4), numbers::<f32>(cols, 5));
        let rounded = |v: &[f32]| v.iter().map(|&v| G::from_computed(v)).collect::<Vec<G>>();

        let plain: Vec<f32> = plan.call(&x32).gamma(&gamma32).beta(&beta32).to_vec().expect("y");
        let mut y32 = vec![0.0; rows * cols];
        plan.call(&x32).gamma(&gamma).beta(&beta).to(&mut y32).expect("y");
        assert_eq!(y32, plain);
        let y: Vec<G> = plan.call(&x32).gamma(&gamma).beta(&beta).to_vec().expect("y");
        assert_eq!(y, rounded(&plain));
        let mut y = rounded(&y32);
        let moments = &mut vec![Moments::EMPTY; rows];
        plan.moments(&x32, moments).expect("moments");
        plan.call(&x32).moments(moments).gamma(&gamma32).beta(&beta32).to(&mut y).expect("y");
        assert_eq!(y, rounded(&plain));

        let sums = plan.call(&x32).residual(&h).bias(&bias).gamma(&gamma32).to_vecs().expect("sums");
        let (s, plain): (Vec<f32>, Vec<f32>) = sums;
        let call = plan.call(&x).gamma(&gamma).residual(&h).bias(&bias);
        assert_eq!(call.to_vecs::<G>().expect("sums"), (s.clone(), rounded(&plain)));
        let mut over = h.clone();
        plan.call(&x).gamma(&gamma32).residual_in_place(&mut over).bias(&bias).to(&mut y32).expect("y");
        assert_eq!((&over, &y32), (&s, &plain));
        let call = plan.call(&x).residual(&h).bias(&bias).gamma(&gamma32);
        assert_eq!(call.to_vec::<f32>().expect("y"), plain);
        let mut over = h.clone();
        plan.call_in_place(&mut over).residual(&x).bias(&bias).gamma(&gamma).run().expect("y");
        assert_eq!(over, plain);
        // Rows at two strides.
        if rows.is_multiple_of(2) {
            let shape = [2, rows / 2];
            let strides = [cols, 2 * cols];
            let (mut s, mut y) = (vec![0.0; rows * cols], rounded(&vec![0.0; rows * cols]));
            let call = plan.call(Rows::strided_2d(&x, shape, strides)).residual(Rows::strided_2d(&h, shape, strides));
            let call = call.sum_to(RowsMut::strided_2d(&mut s, shape, strides)).bias(&bias).gamma(&gamma);
            call.to(RowsMut::strided_2d(&mut y, shape, strides)).expect("y");
            assert_eq!((s, wide(&y)), (sums_of(&x32, &h, &bias), wide(&rounded(&plain))));
        }
    }

    fn sums_of(x: &[f32], h: &[f32], bias: &[f32]) -> Vec<f32> {
        x.iter().zip(h).enumerate().map(|(i, (x, h))| x + h + bias[i % bias.len()]).collect()
    }

    #[test]
    fn types_of_16_bits_mix_with_f32() {
        for (rows, cols) in [(6, 40), (500, 130), (3, 3000), (1, 70_000)] {
            types_mix::<f16>(rows, cols);
            types_mix::<bf16>(rows, cols);
        }
    }

    #[test]
    fn gradients_take_a_gamma_of_16_bits() {
        let plan = RmsNorm::new(37, 1e-5).expect("a plan");
        let (x, dy) = (numbers::<f32>(5 * 37, 1), numbers::<f32>(5 * 37, 2));
        let (gamma, gamma32) = (numbers::<bf16>(37, 3), numbers::<f32>(37, 3));
        let dx = plan.backward(&dy, &x).gamma(&gamma).to_vec().expect("dx");
        assert_eq!(dx, plan.backward(&dy, &x).gamma(&gamma32).to_vec().expect("dx"));
    }

    /// Calls for rows of this many columns of f32 and of bf16, into outputs of both.
    #[cfg(not(debug_assertions))]
    type Calls = fn(lanenorm_kernels::Isa, usize, &[f32], &[bf16], (&mut [f32], &mut [bf16])) -> Result<(), Error>;

    /// Runs calls on every tier, for rows of several lengths, some of them for the slow path, on a stack of `kib` and
    /// some more for the thread and this test.
    #[cfg(not(debug_assertions))]
    fn fits_on_a_stack(kib: usize, run: Calls) {
        const OTHERS: usize = 12 << 10;
        const ROWS: usize = 9;
        for isa in lanenorm_kernels::Isa::available() {
            for cols in [7, 64, 768, 1024, 1536, 3000, 9000] {
                let mut x: Vec<f32> = (0..ROWS * cols).map(|i| (i * 37 % 101) as f32).collect();
                x[cols] = 1e30;
                x[3 * cols] = f32::NAN;
                let x16: Vec<bf16> = x.iter().copied().map(bf16::from_f32).collect();
                let thread = std::thread::Builder::new().stack_size((kib << 10) + OTHERS).spawn(move || {
                    let (mut y, mut y16) = (x.clone(), x16.clone());
                    run(isa, cols, &x, &x16, (&mut y, &mut y16))
                });
                assert_eq!(thread.expect("a thread").join().expect("no panic"), Ok(()), "{isa}, {cols}");
            }
        }
    }

    /// What the documentation promises of release builds: every form of a call that has stages of its own on the stack.
    #[cfg(not(debug_assertions))]
    #[test]
    fn calls_fit_on_a_stack_of_32_kib() {
        use crate::Rounding;

        fits_on_a_stack(32, |isa, cols, x, x16, (y, y16)| {
            let (gamma, gamma16) = (&x[..cols], &x16[..cols]);
            let layer_norm = LayerNorm::new(cols, 0.0)?.with_isa(isa).with_parallelism(Parallelism::Serial);
            let rms_norm = RmsNorm::new(cols, 0.0)?.with_isa(isa).with_parallelism(Parallelism::Serial);
            layer_norm.forward(x, Some(gamma), Some(gamma), &mut *y)?;
            layer_norm.call(x).gamma(gamma16).beta(gamma16).to(&mut *y)?;
            layer_norm.call(x).gamma(gamma16).to(&mut *y16)?;
            rms_norm.call(x16).residual(x16).gamma(gamma).to(&mut *y16)?;
            let rounds = rms_norm.with_offset(1.0).with_rounding(Rounding::STEPS_AND_GAMMA);
            rounds.call(x16).residual(x16).gamma(gamma16).to(&mut *y16)?;
            rounds.call(x16).gamma(gamma16).to(&mut *y)?;
            rounds.call(x).gamma(gamma16).to(&mut *y)?;
            rms_norm.call(x16).residual_in_place(&mut *y).bias(gamma).gamma(gamma16).to(y16)
        });
    }

    #[cfg(not(debug_assertions))]
    #[test]
    fn second_outputs_and_the_rest_of_rows_fit_on_a_stack_of_32_kib() {
        fits_on_a_stack(32, |isa, cols, x, x16, (y, y16)| {
            let (gamma, gamma16) = (&x[..cols], &x16[..cols]);
            let plan = LayerNorm::new(cols, 0.0)?.with_isa(isa).with_parallelism(Parallelism::Serial);
            plan.call(x16).gamma(gamma).second().gamma(gamma16).beta(gamma16).to(&mut *y, &mut *y16)?;
            plan.call(x).gamma(gamma).second().beta(gamma16).to(&mut *y, &mut *y16)?;
            plan.call(x16).gamma(gamma).copy_rest().to(y16)
        });
    }

    #[cfg(not(debug_assertions))]
    #[test]
    fn calls_with_a_room_of_their_own_fit_on_a_stack_of_64_kib() {
        use crate::{Gate, Rounding, Scheme};

        fits_on_a_stack(64, |isa, cols, x, x16, (y, y16)| {
            let (gamma, gamma16) = (&x[..cols], &x16[..cols]);
            let (mut q, mut scale) = (vec![0u8; x.len()], vec![0.0; x.len() / cols]);
            let plan = LayerNorm::new(cols, 0.0)?.with_isa(isa).with_parallelism(Parallelism::Serial);
            for gate in [Gate::SILU, Gate::SILU_BEFORE] {
                plan.call(x).gamma(gamma16).gate(x16, gate).to(&mut *y16)?;
                plan.call(x16).gamma(gamma).gate(x, gate).to(&mut *y)?;
                plan.call(x).gamma(gamma).gate(x, gate).to(&mut *y)?;
            }
            for rounding in [Rounding::SUM_STATISTICS, Rounding::UNROUNDED_SUMS] {
                plan.with_rounding(rounding).call(x16).residual(x16).gamma(gamma16).to(&mut *y16)?;
            }
            plan.call(x16).gamma(gamma).quantize(&Scheme::I8).scale_to(&mut scale).y_to(&mut *y16).to(&mut q)?;
            plan.call(x).gamma(gamma16).quantize(&Scheme::I8).scale_to(&mut scale).y_to(&mut *y16).to(&mut q)
        });
    }

    #[cfg(not(debug_assertions))]
    #[test]
    fn calls_on_channels_fit_on_a_stack_of_64_kib() {
        use crate::{Function, GroupNorm};

        fits_on_a_stack(64, |isa, cols, x, x16, (y, y16)| {
            let plan = LayerNorm::new(cols, 0.0)?.with_isa(isa).with_parallelism(Parallelism::Serial);
            plan.call(x).gamma(&x16[..cols]).channels_first(1).to(&mut *y)?;
            // Pixels, and channels, that are lanes.
            let pixels = vec![1.5f32; 32 * cols];
            let mut lanes = pixels.clone();
            plan.call(&pixels).gamma(&pixels[..cols]).channels_first(32).to(&mut lanes)?;
            let (images, mut lanes) = (vec![1.5f32; 32 * 1024], vec![0.0; 32 * 1024]);
            let groups = GroupNorm::new(32, 4, 1e-5)?.with_isa(isa).with_parallelism(Parallelism::Serial);
            groups.call(&images, 1024).channels_last().activation(Function::Silu).to(&mut lanes)?;
            // Each row of x is a channel, or all of them are one group, some with numbers of the slow path.
            let channels = x.len() / cols;
            let gamma = &x[..channels];
            let wide: Vec<f64> = x.iter().map(|&x| x.into()).collect();
            let (mut y64, dy) = (wide.clone(), wide.clone());
            for groups in [1, channels] {
                let plan = GroupNorm::new(channels, groups, 0.0)?.with_isa(isa).with_parallelism(Parallelism::Serial);
                plan.call(x16, cols).gamma(gamma).activation(Function::Silu).to(y16)?;
                plan.call(x, cols).gamma(gamma).channels_last().to(y)?;
                plan.call(&wide, cols).activation(Function::Silu).to(&mut y64)?;
                plan.backward(&dy, &wide, cols).activation(Function::Silu).to(&mut y64)?;
                plan.backward(x16, x16, cols).gamma(gamma).activation(Function::Silu).to(y16)?;
            }
            Ok(())
        });
    }
}
