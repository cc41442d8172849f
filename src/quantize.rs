//! Calls whose result is quantized: see [`Call::quantize`].

use std::marker::PhantomData;
use std::sync::{Mutex, PoisonError};

use lanenorm_kernels::element::{Addend, Storage};
use lanenorm_kernels::ops::quantize::{Quantize, Quants};
use lanenorm_kernels::rows::{RowIo, Vector};
use lanenorm_kernels::scheme::{Byte, Range, Scheme, Scope};
use lanenorm_kernels::stats::StatsMut;
use lanenorm_kernels::{Center, Centered, Element, Isa, Quantizable, Quantizes, Uncentered};

use crate::Error;
use crate::call::Call;
use crate::input::{Apart, Gives, Kept, Normalizes, Over, Plain, sealed};
use crate::jobs::Vectors;
use crate::norm::Norm;
use crate::parallel::{Tasks, Work, share};
use crate::plan::Plan;
use crate::rows::{Rows, RowsMut};
use crate::runs::{Buffers, QuantsInRuns, RunsIo};
use crate::shape;
use crate::slice::SliceMut;

/// A call whose result is quantized, to be run by [`to`](Self::to).
///
/// `Y` says whether y is wanted too: `()`, or the rows that it goes to.
#[derive(Debug)]
#[must_use = "nothing happens before `to`"]
pub struct QuantizeCall<'a, T: Element, M: Center, I, P, Y = ()> {
    call: Call<'a, T, M, I, Apart, P>,
    scheme: Scheme,
    scale: Option<&'a mut [f32]>,
    zero_point: Option<&'a mut [u8]>,
    y: Y,
}

impl<'a, T: Element, M: Center, I, P> Call<'a, T, M, I, Apart, P> {
    /// Quantizes the result by a [`Scheme`]. Its bits are those of quantizing y in f32, not rounded to the type of x
    /// (unless [`Rounding::STEPS`](crate::Rounding::STEPS) rounds it): see
    /// [`reference::quantize`](crate::kernels::reference::quantize).
    ///
    /// ```
    /// use lanenorm::{RmsNorm, Scheme};
    ///
    /// let (x, mut q, mut scale) = ([3.0f32, -3.0, 3.0, 1.5], [0i8; 4], [0.0; 1]);
    /// RmsNorm::new(4, 0.0)?.call(&x).quantize(&Scheme::I8).scale_to(&mut scale).to(&mut q)?;
    /// assert_eq!(q, [127, -127, 127, 64]);
    /// # Ok::<(), lanenorm::Error>(())
    /// ```
    ///
    /// Rows of f64 are not quantized, nor are rows whose moments are given:
    ///
    /// ```compile_fail,E0277
    /// # use lanenorm::{RmsNorm, Scheme};
    /// # let (x, mut q, mut scale) = ([3.0f64; 4], [0i8; 4], [0.0; 1]);
    /// RmsNorm::new(4, 0.0)?.call(&x).quantize(&Scheme::I8).scale_to(&mut scale).to(&mut q)?;
    /// # Ok::<(), lanenorm::Error>(())
    /// ```
    #[inline]
    pub fn quantize(self, scheme: &Scheme) -> QuantizeCall<'a, T, M, I, P> {
        QuantizeCall { call: self, scheme: *scheme, scale: None, zero_point: None, y: () }
    }
}

impl<'a, T: Element, M: Center, I, P, Y> QuantizeCall<'a, T, M, I, P, Y> {
    /// Writes the scales: one for each row, for each block of each row, or one, as [`Scheme::scales`] says. Schemes
    /// whose scales are given, or lie beside the elements, have none. Elements that are none have the scale of zeros.
    pub fn scale_to(mut self, scale: impl Into<SliceMut<'a, f32>>) -> Self {
        self.scale = self.call.slice_mut("scale", scale.into());
        self
    }

    /// Writes the zero points: one for each row, or one, as [`Scheme::zero_points`] says. Schemes without them have
    /// none.
    pub fn zero_point_to(mut self, zero_point: impl Into<SliceMut<'a, u8>>) -> Self {
        self.zero_point = self.call.slice_mut("zero_point", zero_point.into());
        self
    }
}

impl<'a, T: Element, M: Center, I, P> QuantizeCall<'a, T, M, I, P> {
    /// Writes y too, with the bits of a call that is not quantized.
    pub fn y_to<Y>(self, y: impl Into<RowsMut<'a, Y>>) -> QuantizeCall<'a, T, M, I, P, RowsMut<'a, Y>> {
        let Self { call, scheme, scale, zero_point, y: () } = self;
        QuantizeCall { call, scheme, scale, zero_point, y: y.into() }
    }
}

impl<'a, T: Element, M: Center, I, P, Y> QuantizeCall<'a, T, M, I, P, Y> {
    /// Runs the call. Quantized rows go to q, of i8 or u8, which makes no difference to the bytes. A row has
    /// [`Scheme::row_bytes`] elements: as many as x, or the bytes of its blocks where these have scales beside their
    /// elements.
    ///
    /// # Errors
    /// If parts of the scheme are out of range, or its blocks do not divide the columns, if the lengths do not fit
    /// together, or if the sums that are normalized are not the rounded ones ([`Sums`](crate::Sums)); nothing has been
    /// written then.
    pub fn to<Q: Byte + 'a>(self, q: impl Into<RowsMut<'a, Q>>) -> Result<(), Error>
    where
        T: Element<Float = f32>,
        I: Normalizes<'a, T, Of: Quantizable>,
        Y: Wanted<'a, T, I>,
    {
        let Self { call, scheme, scale, zero_point, y } = self;
        let (norm, x, input, gamma, beta, stats) = call.into_parts()?;
        let q: RowsMut<'a, Q> = q.into();
        let (gamma, beta, bias) = (gamma.map(I::beside), beta.map(I::beside), input.bias());
        scheme.check(norm.cols()).map_err(Error::Arguments)?;
        norm.rounding().check_quantized(I::IS_SUM, <I::Of as Storage>::ROUNDS).map_err(Error::Arguments)?;
        if x.layout.is_grid() || input.has_grid() || y.is_grid() || q.layout.is_grid() {
            let buffers = y.runs(input, x).0;
            let arrays = (scale, zero_point);
            return norm.quantize_in_runs(buffers, bias, gamma, beta, stats, &scheme, q, arrays);
        }
        let io = y.rows(input, sealed::On(norm.plan()), x)?;
        let (rows, row_bytes) = (io.rows(), scheme.row_bytes(norm.cols()));
        let (q_rows, stride) = shape::rows("q", q.data.len(), q.layout, row_bytes)?;
        // Without columns, a contiguous buffer has no rows that could be counted.
        if q_rows != rows && row_bytes > 0 {
            return Err(Error::SumRows { what: "q", x: rows, rows: q_rows });
        }
        check_array("scale", scale.as_deref(), scheme.scales(rows, norm.cols()))?;
        check_array("zero_point", zero_point.as_deref(), scheme.zero_points(rows))?;
        let quants = Quants::new(q.data, stride, scale.unwrap_or_default(), zero_point.unwrap_or_default());
        norm.quantize_rows(io, bias, gamma, beta, stats, &scheme, quants)
    }
}

/// Refuses an array that is not there, or that the scheme does not have. Other lengths are refused by the kernels.
fn check_array<T>(what: &'static str, array: Option<&[T]>, expected: usize) -> Result<(), Error> {
    match array {
        None if expected > 0 => Err(Error::NotGiven { what, expected }),
        Some(array) if expected == 0 && !array.is_empty() => Err(Error::NotOfScheme { what, len: array.len() }),
        _ => Ok(()),
    }
}

/// Whether y is wanted beside quantized rows, of what `I` makes of rows of `T`: `()`, or rows of a type that y may
/// have.
pub trait Wanted<'a, T: Element, I: Normalizes<'a, T>>: sealed::MayBeGrid {
    #[doc(hidden)]
    fn rows(self, input: I, on: sealed::On<'_>, x: Rows<'a, T>) -> Result<RowIo<'a, I::Of>, Error>;

    /// The same rows, if a buffer is a grid.
    #[doc(hidden)]
    fn runs(self, input: I, x: Rows<'a, T>) -> sealed::InRuns<'a, I::Of>;
}

impl<'a, T: Element, I: GivesNoY<'a, T>> Wanted<'a, T, I> for () {
    fn rows(self, input: I, on: sealed::On<'_>, x: Rows<'a, T>) -> Result<RowIo<'a, I::Of>, Error> {
        input.rows_without_y(on, x)
    }

    fn runs(self, input: I, x: Rows<'a, T>) -> sealed::InRuns<'a, I::Of> {
        input.runs_without_y(x)
    }
}

impl<'a, T: Element, Y, I: Gives<'a, T, Y>> Wanted<'a, T, I> for RowsMut<'a, Y> {
    fn rows(self, input: I, on: sealed::On<'_>, x: Rows<'a, T>) -> Result<RowIo<'a, I::Of>, Error> {
        input.rows(on, x, self)
    }

    fn runs(self, input: I, x: Rows<'a, T>) -> sealed::InRuns<'a, I::Of> {
        input.runs(x, self)
    }
}

/// That y need not be written: a sum that is dropped would have no place.
#[diagnostic::on_unimplemented(
    message = "a sum that is dropped needs `y_to`, where it lies meanwhile",
    label = "keep it with `sum_to` or `residual_in_place`, or write y"
)]
pub trait GivesNoY<'a, T: Element>: Normalizes<'a, T> {
    #[doc(hidden)]
    fn rows_without_y(self, on: sealed::On<'_>, x: Rows<'a, T>) -> Result<RowIo<'a, Self::Of>, Error>;

    /// The same rows, if a buffer is a grid.
    #[doc(hidden)]
    fn runs_without_y(self, x: Rows<'a, T>) -> sealed::InRuns<'a, Self::Of>;
}

impl<'a, T: Element> GivesNoY<'a, T> for Plain {
    fn rows_without_y(self, on: sealed::On<'_>, x: Rows<'a, T>) -> Result<RowIo<'a, T>, Error> {
        on.0.rows_without_y(x)
    }

    fn runs_without_y(self, x: Rows<'a, T>) -> sealed::InRuns<'a, T> {
        sealed::InRuns(Buffers::without_y(x))
    }
}

impl<'a, T: Element<Float = R::Float> + Addend<R>, R: Element> GivesNoY<'a, T> for Kept<'a, R> {
    fn rows_without_y(self, on: sealed::On<'_>, x: Rows<'a, T>) -> Result<RowIo<'a, R>, Error> {
        on.0.rows_of_sum_alone(x, self.residual, self.bias, self.s)
    }

    fn runs_without_y(self, x: Rows<'a, T>) -> sealed::InRuns<'a, R> {
        sealed::InRuns(Buffers::kept_alone(x, self.residual, self.s))
    }
}

impl<'a, T: Element<Float = R::Float> + Addend<R>, R: Element> GivesNoY<'a, T> for Over<'a, R> {
    fn rows_without_y(self, on: sealed::On<'_>, x: Rows<'a, T>) -> Result<RowIo<'a, R>, Error> {
        on.0.rows_of_sum_alone_in_place(x, self.residual, self.bias)
    }

    fn runs_without_y(self, x: Rows<'a, T>) -> sealed::InRuns<'a, R> {
        sealed::InRuns(Buffers::over_alone(x, self.residual))
    }
}

impl<M: Center> Norm<M> {
    /// Normalizes and quantizes rows. The scheme has been checked.
    #[expect(clippy::too_many_arguments, reason = "a call has as many parts")]
    pub(crate) fn quantize_rows<'a, T: Quantizable>(
        &self,
        io: RowIo<'a, T>,
        bias: Option<&'a [T]>,
        gamma: Option<Vector<'a, T>>,
        beta: Option<Vector<'a, T>>,
        stats: StatsMut<'a, f32>,
        scheme: &Scheme,
        quants: Quants<'a>,
    ) -> Result<(), Error> {
        if M::CENTERED {
            self.plan().quantize::<T, Centered>(io, bias, gamma, beta, stats, scheme, quants)
        } else {
            self.plan().quantize::<T, Uncentered>(io, bias, gamma, beta, stats, scheme, quants)
        }
    }

    /// Normalizes and quantizes rows of which some are in runs, or given by a pointer. The scheme has been checked.
    #[cold]
    #[expect(clippy::too_many_arguments, reason = "a call has as many parts")]
    fn quantize_in_runs<'a, T: Quantizable, Q: Byte>(
        &self,
        buffers: Buffers<'a, T>,
        bias: Option<&'a [T]>,
        gamma: Option<Vector<'a, T>>,
        beta: Option<Vector<'a, T>>,
        stats: StatsMut<'a, f32>,
        scheme: &Scheme,
        q: RowsMut<'a, Q>,
        (scale, zero_point): (Option<&'a mut [f32]>, Option<&'a mut [u8]>),
    ) -> Result<(), Error> {
        let (plan, cols) = (self.plan(), self.cols());
        shape::length("bias", bias, cols)?;
        let (io, quants) = buffers.check_quantized(cols, q, scheme)?;
        let rows = io.rows();
        let params = plan.params(rows, gamma, beta)?;
        Plan::check_stats(rows, &stats)?;
        check_array("scale", scale.as_deref(), scheme.scales(rows, cols))?;
        check_array("zero_point", zero_point.as_deref(), scheme.zero_points(rows))?;
        let (scale, zero_point) = (scale.unwrap_or_default(), zero_point.unwrap_or_default());
        shape::length("scale", Some(&*scale), scheme.scales(rows, cols))?;
        shape::length("zero_point", Some(&*zero_point), scheme.zero_points(rows))?;
        let (vectors, quants) = (Vectors { params, bias, stats, moments: None }, quants.with_arrays(scale, zero_point));
        if M::CENTERED {
            plan.quantize_runs::<T, Centered>(io, vectors, scheme, quants);
        } else {
            plan.quantize_runs::<T, Uncentered>(io, vectors, scheme, quants);
        }
        Ok(())
    }
}

impl Plan {
    #[expect(clippy::too_many_arguments, reason = "a call has as many parts")]
    fn quantize<'a, T: Quantizable + Quantizes<M>, M: Center>(
        &self,
        io: RowIo<'a, T>,
        bias: Option<&'a [T]>,
        gamma: Option<Vector<'a, T>>,
        beta: Option<Vector<'a, T>>,
        stats: StatsMut<'a, f32>,
        scheme: &Scheme,
        quants: Quants<'a>,
    ) -> Result<(), Error> {
        let params = self.params(io.rows(), gamma, beta)?;
        Self::check_stats(io.rows(), &stats)?;
        // Rows lie in slices, so that this does not overflow.
        let elements = io.rows() * self.cols;
        let mut job = Quantize::<T, M>::new(io, params, self.eps, stats, scheme, quants).map_err(Error::Arguments)?;
        if let Some(bias) = bias {
            job = job.with_bias(bias).map_err(Error::Arguments)?;
        }
        run(self.isa, job, self.parallelism.tasks_for(elements));
        Ok(())
    }
}

impl Plan {
    /// Normalizes and quantizes rows in runs. All has been checked.
    fn quantize_runs<'a, T: Quantizable + Quantizes<M>, M: Center>(
        &self,
        mut io: RunsIo<'a, T>,
        mut vectors: Vectors<'a, 'a, T>,
        scheme: &Scheme,
        mut quants: QuantsInRuns<'a>,
    ) {
        let (isa, eps, elements, center) = (self.isa, self.eps, io.elements(), PhantomData::<M>);
        let tasks: Tasks = self.parallelism.tasks_for(elements);
        // Groups need not divide a run.
        vectors.params.groups = vectors.params.groups.after(0);
        let mut pass = Pass::Only;
        if scheme.scope == Scope::Tensor && elements > 0 {
            let all = Mutex::new(Range::EMPTY);
            let Vectors { params, bias, stats, .. } = vectors;
            let of_range = Vectors { params, bias, stats, moments: None };
            let (io, quants) = (io.reborrow(), quants.reborrow());
            let pass_of_range = Pass::First(&all);
            share(
                QuantizedRuns { isa, eps, io, vectors: of_range, scheme, quants, pass: pass_of_range, center },
                &mut [],
                tasks,
            );
            pass = Pass::Second(all.into_inner().unwrap_or_else(PoisonError::into_inner));
            // The first pass has written them.
            vectors = Vectors { params, bias, stats: StatsMut::default(), moments: None };
        }
        let work = QuantizedRuns { isa, eps, io, vectors, scheme, quants, pass, center };
        if elements == 0 { work.run(&mut []) } else { share(work, &mut [], tasks) }
    }
}

/// Rows in runs.
struct QuantizedRuns<'a, 'r, T: Element, M> {
    isa: Isa,
    eps: f64,
    io: RunsIo<'a, T>,
    vectors: Vectors<'a, 'a, T>,
    scheme: &'r Scheme,
    quants: QuantsInRuns<'a>,
    pass: Pass<'r>,
    center: PhantomData<M>,
}

impl<T: Quantizable + Quantizes<M>, M: Center> Work for QuantizedRuns<'_, '_, T, M> {
    type Memory = ();

    fn len(&self) -> usize {
        self.io.rows()
    }

    fn elements(&self) -> usize {
        self.io.elements()
    }

    fn split_at(self, row: usize) -> (Self, Self) {
        let ((io, other_io), (vectors, others)) = (self.io.split_at(row), self.vectors.split_at(row));
        let (quants, other_quants) = self.quants.split_at(row);
        let rest = Self { io: other_io, vectors: others, quants: other_quants, ..self };
        (Self { io, vectors, quants, ..self }, rest)
    }

    fn run(mut self, _: &mut [()]) {
        // Without rows there may be a scale all the same.
        loop {
            let rows = self.io.first_run();
            let (run, rest) = self.split_at(rows);
            let Self { isa, eps, io, vectors: Vectors { params, bias, stats, .. }, scheme, quants, pass, .. } = run;
            let job = Quantize::<T, M>::new(io.into_first_run(), params, eps, stats, scheme, quants.into_first_run());
            let job = match bias {
                Some(bias) => job.and_then(|job| job.with_bias(bias)),
                None => job,
            };
            let Ok(job) = job else { unreachable!("the plans have checked all lengths") };
            let mut job = if matches!(pass, Pass::Second(_)) { job.summed() } else { job };
            pass.run(&mut job, isa);
            if rest.len() == 0 {
                return;
            }
            self = rest;
        }
    }
}

/// Runs the job on up to `tasks` threads.
fn run<T: Quantizable + Quantizes<M>, M: Center>(isa: Isa, mut job: Quantize<'_, T, M>, tasks: Tasks) {
    // Without rows there is a scale all the same, if all share it.
    if tasks.count <= 1 || job.rows().rows() == 0 || job.rows().cols() == 0 {
        return job.run_on(isa);
    }
    let mut pass = Pass::Only;
    if job.needs_range() {
        let all = Mutex::new(Range::EMPTY);
        share(QuantizedRows { isa, job: job.reborrow(), pass: Pass::First(&all) }, &mut [], tasks);
        pass = Pass::Second(all.into_inner().unwrap_or_else(PoisonError::into_inner));
        job = job.summed();
    }
    share(QuantizedRows { isa, job, pass }, &mut [], tasks);
}

/// What is done with rows. Where all share a scale, this is done twice.
#[derive(Clone, Copy)]
pub(crate) enum Pass<'r> {
    Only,
    /// The range of the rows is taken, and merged into this one.
    First(&'r Mutex<Range>),
    /// The range of all rows is known.
    Second(Range),
}

impl Pass<'_> {
    /// Does this with the rows of a job.
    pub(crate) fn run<T: Quantizable + Quantizes<M>, M: Center>(self, job: &mut Quantize<'_, T, M>, isa: Isa) {
        match self {
            Self::Only => job.run_on(isa),
            Self::First(all) => {
                let range = job.range_on(isa);
                let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
                *all = all.merge(range);
            }
            Self::Second(range) => job.run_with(isa, range),
        }
    }
}

struct QuantizedRows<'a, 'r, T: Storage<Float = f32>, M: Center> {
    isa: Isa,
    job: Quantize<'a, T, M>,
    pass: Pass<'r>,
}

impl<T: Quantizable + Quantizes<M>, M: Center> Work for QuantizedRows<'_, '_, T, M> {
    type Memory = ();

    fn len(&self) -> usize {
        self.job.rows().rows()
    }

    fn elements(&self) -> usize {
        self.len() * self.job.rows().cols()
    }

    fn split_at(self, row: usize) -> (Self, Self) {
        let (a, b) = self.job.split_at(row);
        (Self { job: a, ..self }, Self { job: b, ..self })
    }

    fn run(mut self, _: &mut [()]) {
        self.pass.run(&mut self.job, self.isa);
    }
}
