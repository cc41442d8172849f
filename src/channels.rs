//! Calls whose rows are the channels of pixels, where channels come first: see [`Call::channels_first`].

use lanenorm_kernels::ops::backward::Stats;
use lanenorm_kernels::ops::channels::{ChannelsBackward, ChannelsFirst};
use lanenorm_kernels::rows::{Params, Vector};
use lanenorm_kernels::simd::Float;
use lanenorm_kernels::stats::StatsMut;
use lanenorm_kernels::{Center, Centered, Compiled, Element, Error as Refused, Isa, Uncentered};

use crate::Error;
use crate::backward_call::BackwardCall;
use crate::call::Call;
use crate::gradients::ParamGrads;
use crate::input::{Apart, InPlace, Place, Plain};
use crate::norm::Norm;
use crate::parallel::{Tasks, Work, share};
use crate::plan::Plan;
use crate::rows::Layout;
use crate::scratch::allocate;

/// A call over channels that come first, to be run by [`to`](Self::to), or by [`run`](Self::run) in place.
#[derive(Debug)]
#[must_use = "nothing happens before `to` or `run`"]
pub struct ChannelsCall<'a, T: Element, M: Center, D: Place, P> {
    call: Call<'a, T, M, Plain, D, P>,
    pixels: usize,
}

/// A backward call over channels that come first, to be run by [`to`](Self::to), or by [`run`](Self::run) in place and
/// where dx is not wanted.
#[derive(Debug)]
#[must_use = "nothing happens before `to` or `run`"]
pub struct ChannelsBackwardCall<'a, T: Element, M: Center, D: Place> {
    call: BackwardCall<'a, T, M, D>,
    pixels: usize,
}

impl<'a, T: Element, M: Center, D: Place, P> Call<'a, T, M, Plain, D, P> {
    /// x is a tensor of [samples, channels, pixels], as images are in `PyTorch` (NCHW, with height * width pixels).
    /// Each pixel of each sample is a row: its channels, `pixels` elements apart. So are they in y. `ConvNeXt` and
    /// `SAM` have such a `LayerNorm2d`.
    ///
    /// The channels are the columns of the plan. y has the bits that it has where channels come last, without x having
    /// been transposed. Statistics have an element for each pixel: [samples, pixels]. x and y are contiguous, and the
    /// plan has one group.
    ///
    /// ```
    /// use lanenorm::LayerNorm;
    ///
    /// // A sample of two channels of three pixels.
    /// let (x, mut y) = ([1.0f32, 2.0, 3.0, 3.0, 6.0, 1.0], [0.0f32; 6]);
    /// LayerNorm::new(2, 0.0)?.call(&x).channels_first(3).to(&mut y)?;
    /// assert_eq!(y, [-1.0, -1.0, 1.0, 1.0, 1.0, -1.0]);
    /// # Ok::<(), lanenorm::Error>(())
    /// ```
    ///
    /// A call allocates memory for a tile of pixels for each thread.
    #[doc(alias = "nchw")]
    #[doc(alias = "layer_norm_2d")]
    pub fn channels_first(self, pixels: usize) -> ChannelsCall<'a, T, M, D, P> {
        ChannelsCall { call: self, pixels }
    }
}

impl<'a, T: Element, M: Center, P> ChannelsCall<'a, T, M, Apart, P> {
    /// Runs the call; its result goes to y, of [samples, channels, pixels].
    ///
    /// # Errors
    /// If the lengths do not fit together; nothing has been written then.
    pub fn to(self, y: &'a mut [T]) -> Result<(), Error> {
        let Self { call, pixels } = self;
        let (norm, x, _, gamma, beta, stats) = call.into_parts()?;
        check_contiguous("x", x.layout)?;
        let params = norm.channel_params(gamma, beta)?;
        norm.run_channels(Tensors::Apart { x: x.data, y }, pixels, params, stats)
    }
}

impl<T: Element, M: Center, P> ChannelsCall<'_, T, M, InPlace, P> {
    /// Runs the call; its result goes where x lies.
    ///
    /// # Errors
    /// If the lengths do not fit together; nothing has been written then.
    pub fn run(self) -> Result<(), Error> {
        let Self { call, pixels } = self;
        let (norm, x, _, gamma, beta, stats) = call.into_parts()?;
        check_contiguous("x", x.layout)?;
        let params = norm.channel_params(gamma, beta)?;
        norm.run_channels(Tensors::InPlace { x: x.data }, pixels, params, stats)
    }
}

impl<'a, T: Element, M: Center, D: Place> BackwardCall<'a, T, M, D> {
    /// dy, x and dx are tensors of [samples, channels, pixels]: see [`Call::channels_first`]. All gradients have the
    /// bits that they have where channels come last. [`scratch`](Self::scratch) takes
    /// [`channels_backward_scratch_len`](Norm::channels_backward_scratch_len) elements.
    ///
    /// ```
    /// use lanenorm::LayerNorm;
    ///
    /// let (dy, x, mut dx, mut dbeta) = ([1.0f32, 2.0, 0.5, 0.0], [1.0, 2.0, 3.0, 6.0], [0.0; 4], [0.0; 2]);
    /// LayerNorm::new(2, 1e-5)?.backward(&dy, &x).dbeta_to(&mut dbeta).channels_first(2).to(&mut dx)?;
    /// assert_eq!(dbeta, [3.0, 0.5]); // two channels of two pixels
    /// # Ok::<(), lanenorm::Error>(())
    /// ```
    pub fn channels_first(self, pixels: usize) -> ChannelsBackwardCall<'a, T, M, D> {
        ChannelsBackwardCall { call: self, pixels }
    }
}

impl<'a, T: Element, M: Center> ChannelsBackwardCall<'a, T, M, Apart> {
    /// Runs the call. The gradient of x goes to dx.
    ///
    /// # Errors
    /// If the lengths do not fit together, or if mean comes without rstd or rstd without mean; nothing has been written
    /// then.
    pub fn to(self, dx: &'a mut [T]) -> Result<(), Error> {
        self.run_to(Some(dx))
    }

    /// Runs the call without the gradient of x.
    ///
    /// # Errors
    /// As [`to`](Self::to), and if no other gradient is asked for.
    pub fn run(self) -> Result<(), Error> {
        self.run_to(None)
    }

    fn run_to(self, dx: Option<&'a mut [T]>) -> Result<(), Error> {
        let Self { call, pixels } = self;
        let stats = call.stats();
        let (norm, dy, x, gamma, grads, scratch) = call.into_parts()?;
        check_contiguous("dy", dy.layout)?;
        check_contiguous("x", x.layout)?;
        let params = norm.channel_params(gamma, None)?;
        let tensors = GradTensors::Apart { dy: dy.data, x: x.data, dx };
        norm.run_channels_backward(tensors, pixels, params, stats, grads, scratch)
    }
}

impl<T: Element, M: Center> ChannelsBackwardCall<'_, T, M, InPlace> {
    /// Runs the call. The gradient of x overwrites dy.
    ///
    /// # Errors
    /// If the lengths do not fit together, or if mean comes without rstd or rstd without mean; nothing has been written
    /// then.
    pub fn run(self) -> Result<(), Error> {
        let Self { call, pixels } = self;
        let stats = call.stats();
        let (norm, dy, x, gamma, grads, scratch) = call.into_parts()?;
        check_contiguous("dy", dy.layout)?;
        check_contiguous("x", x.layout)?;
        let params = norm.channel_params(gamma, None)?;
        let tensors = GradTensors::InPlace { dy: dy.data, x: x.data };
        norm.run_channels_backward(tensors, pixels, params, stats, grads, scratch)
    }
}

/// The tensors of a call.
enum Tensors<'a, T> {
    Apart { x: &'a [T], y: &'a mut [T] },
    InPlace { x: &'a mut [T] },
}

/// The tensors of a backward call.
pub(crate) enum GradTensors<'a, T> {
    Apart { dy: &'a [T], x: &'a [T], dx: Option<&'a mut [T]> },
    InPlace { dy: &'a mut [T], x: &'a [T] },
}

impl<'a, T: Element> GradTensors<'a, T> {
    /// The number of rows, if there is a whole number of samples: the job checks that.
    pub(crate) fn rows(&self, cols: usize) -> usize {
        let len = match self {
            Self::Apart { dy, .. } => dy.len(),
            Self::InPlace { dy, .. } => dy.len(),
        };
        len.checked_div(cols).unwrap_or(0)
    }

    /// Whether dx is wanted.
    pub(crate) fn has_dx(&self) -> bool {
        !matches!(self, Self::Apart { dx: None, .. })
    }

    pub(crate) fn into_job<M: Center>(
        self,
        size: (usize, usize),
        stats: Stats<'a, T::Float>,
        params: Params<'a, T>,
        eps: f64,
        sums: bool,
    ) -> Result<ChannelsBackward<'a, T, M>, Refused> {
        match self {
            Self::Apart { dy, x, dx } => ChannelsBackward::new((dy, x, dx), size, stats, params, eps, sums),
            Self::InPlace { dy, x } => ChannelsBackward::in_place((dy, x), size, stats, params, eps, sums),
        }
    }
}

fn check_contiguous(what: &'static str, layout: Layout) -> Result<(), Error> {
    if layout.is_contiguous() { Ok(()) } else { Err(Error::ChannelStrides { what }) }
}

impl<M: Center> Norm<M> {
    /// The elements of scratch memory that a backward call over channels that come first takes, for `rows` pixels of
    /// all samples, with as many tasks as it would be cut into now.
    ///
    /// # Errors
    /// If that is more than `usize` can count.
    pub fn channels_backward_scratch_len<T: Element>(&self, rows: usize) -> Result<usize, Error> {
        self.plan().channels_scratch_len::<T>(rows, M::CENTERED)
    }

    fn channel_params<'a, T: Element>(
        &self,
        gamma: Option<Vector<'a, T>>,
        beta: Option<Vector<'a, T>>,
    ) -> Result<Params<'a, T>, Error> {
        let &Plan { offset, rounding, divisor, groups, .. } = self.plan();
        if groups.period() != 1 {
            return Err(Error::ChannelGroups { groups: groups.groups(), repeat: groups.repeat() });
        }
        let offset = T::Float::from_f32(offset);
        Ok(Params { gamma, beta, offset, rounding, divisor, ..Params::default() })
    }

    fn run_channels<'a, T: Element>(
        &self,
        tensors: Tensors<'a, T>,
        pixels: usize,
        params: Params<'a, T>,
        stats: StatsMut<'a, T::Float>,
    ) -> Result<(), Error> {
        if M::CENTERED {
            self.plan().channels::<T, Centered>(tensors, pixels, params, stats)
        } else {
            self.plan().channels::<T, Uncentered>(tensors, pixels, params, stats)
        }
    }

    fn run_channels_backward<'a, T: Element>(
        &self,
        tensors: GradTensors<'a, T>,
        pixels: usize,
        params: Params<'a, T>,
        stats: Stats<'a, T::Float>,
        grads: ParamGrads<'_, T::Float>,
        scratch: Option<&mut [T::Float]>,
    ) -> Result<(), Error> {
        if M::CENTERED {
            self.plan().channels_backward::<T, Centered>(tensors, pixels, params, stats, grads, scratch)
        } else {
            self.plan().channels_backward::<T, Uncentered>(tensors, pixels, params, stats, grads, scratch)
        }
    }
}

impl Plan {
    fn channels<'a, T: Element + Compiled<M>, M: Center>(
        &self,
        tensors: Tensors<'a, T>,
        pixels: usize,
        params: Params<'a, T>,
        stats: StatsMut<'a, T::Float>,
    ) -> Result<(), Error> {
        let (size, eps) = ((self.cols, pixels), self.eps);
        let job = match tensors {
            Tensors::Apart { x, y } => ChannelsFirst::<T, M>::new(x, y, size, params, eps, stats),
            Tensors::InPlace { x } => ChannelsFirst::<T, M>::in_place(x, size, params, eps, stats),
        };
        self.run_channels::<T, M, _, true>(job, allocate)
    }

    /// Runs a job on as many threads as the plan has for it.
    pub(crate) fn run_channels<T: Element + Compiled<M>, M: Center, E: From<Error>, const POOLS: bool>(
        &self,
        job: Result<ChannelsFirst<'_, T, M>, Refused>,
        allocate: impl FnOnce(usize, T) -> Result<Vec<T>, E>,
    ) -> Result<(), E> {
        let job = job.map_err(Error::Arguments)?;
        let rows = job.rows();
        if rows == 0 {
            return Ok(());
        }
        let tasks: Tasks<POOLS> = self.parallelism.tasks_for(rows * self.cols).at_most(rows.div_ceil(ROWS));
        let tile = ChannelsFirst::<T, M>::work_len(self.cols);
        let (Some(tile), Some(total)) = (tile, tile.and_then(|tile| tile.checked_mul(tasks.count))) else {
            return Err(Error::Arguments(Refused::Overflow { what: "scratch", rows, stride: self.cols }).into());
        };
        let mut tiles = allocate(total, T::from_computed(T::Float::default()))?;
        share(Pixels { isa: self.isa, job, tile }, &mut tiles, tasks);
        Ok(())
    }
}

/// As many rows go to a thread at least, and threads write no cache line together.
const ROWS: usize = 64;

/// Pixels in pieces of [`ROWS`].
struct Pixels<'a, T: Element, M: Center> {
    isa: Isa,
    job: ChannelsFirst<'a, T, M>,
    /// The elements of a tile.
    tile: usize,
}

impl<T: Element + Compiled<M>, M: Center> Work for Pixels<'_, T, M> {
    type Memory = T;

    fn len(&self) -> usize {
        self.job.rows().div_ceil(ROWS)
    }

    fn split_at(self, at: usize) -> (Self, Self) {
        let (a, b) = self.job.split_at(at * ROWS);
        (Self { job: a, ..self }, Self { job: b, ..self })
    }

    fn memory(&self) -> usize {
        self.tile
    }

    fn run(mut self, work: &mut [T]) {
        self.job.run_on(self.isa, work);
    }
}
