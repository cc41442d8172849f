//! The contenders, and the buffers that they are given.

use std::hint::black_box;
use std::time::{Duration, Instant};

use lanenorm_harness::buffer::Buffer;
use rand::rngs::SmallRng;

use crate::case::{Case, Inputs, Op};
use crate::number::Number;
use crate::{ours, tensors};

/// How many threads there are, and from where calls come.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Mode {
    /// One thread, of a pool of one thread.
    One,
    /// All threads, called from a worker of the pool.
    Inside,
    /// All threads, called from a thread outside of the pool.
    Outside,
}

impl Mode {
    pub(crate) fn caller(self) -> &'static str {
        if self == Self::Outside { "outside" } else { "inside" }
    }

    pub(crate) fn threads(self) -> usize {
        if self == Self::One { 1 } else { rayon::current_num_threads() }
    }
}

/// Whose code it is, and how its call differs from a call that writes to given memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct About {
    pub(crate) name: &'static str,
    pub(crate) version: &'static str,
    /// Whether the contender spreads work over the pool.
    pub(crate) threads: bool,
    pub(crate) note: Note,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Note {
    Plain,
    Allocates,
    /// Normalizes between two copies that exchange pixels and channels, and allocates all three.
    Copies,
    /// Adds by one call and normalizes by another, and allocates both outputs.
    TwoCalls,
    /// Writes over its input.
    InPlace,
    /// Writes over its input, and does not keep the sum for the next layer.
    NoSum,
    /// The backward pass of automatic differentiation, which allocates.
    Autograd,
}

impl Note {
    pub(crate) fn mark(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Allocates => "[a]",
            Self::TwoCalls => "[b]",
            Self::InPlace => "[c]",
            Self::NoSum => "[d]",
            Self::Autograd => "[e]",
            Self::Copies => "[f]",
        }
    }

    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Allocates => "allocates its output",
            Self::TwoCalls => "two calls, an addition and a normalization; allocates both outputs",
            Self::InPlace => "in place: held against lanenorm in place",
            Self::NoSum => "in place, and the sum is not kept: held against lanenorm in place",
            Self::Copies => "between two copies that exchange pixels and channels; allocates all three",
            Self::Autograd => "a graph of elementary operations, whose outputs are allocated",
        }
    }
}

/// All buffers of a case at one place. Those that the operation does not use are empty.
pub(crate) struct Buffers<T> {
    pub(crate) x: Buffer<T>,
    pub(crate) residual: Buffer<T>,
    pub(crate) dy: Buffer<T>,
    pub(crate) gamma: Buffer<T>,
    pub(crate) beta: Buffer<T>,
    /// y or dx; calls in place find x here.
    pub(crate) y: Buffer<T>,
    pub(crate) s: Buffer<T>,
    pub(crate) dgamma: Buffer<f32>,
    pub(crate) dbeta: Buffer<f32>,
    pub(crate) scratch: Vec<f32>,
}

impl<T: Number> Buffers<T> {
    pub(crate) fn new(case: Case, inputs: &Inputs<T>, rng: &mut SmallRng) -> Self {
        let params = vec![0.0; if case.op.is_backward() { case.shape.cols } else { 0 }];
        Self {
            x: Buffer::new(&inputs.x, rng),
            residual: Buffer::new(&inputs.residual, rng),
            dy: Buffer::new(&inputs.dy, rng),
            gamma: Buffer::new(&inputs.gamma, rng),
            beta: Buffer::new(&inputs.beta, rng),
            y: Buffer::new(&inputs.x, rng),
            s: Buffer::new(&inputs.residual, rng),
            dgamma: Buffer::new(&params, rng),
            dbeta: Buffer::new(&params, rng),
            scratch: vec![0.0; ours::scratch_len::<T>(case)],
        }
    }

    /// Puts x where calls in place look for it, and overwrites what earlier calls have left in the other outputs.
    pub(crate) fn reset(&mut self) {
        self.y.get_mut().copy_from_slice(self.x.get());
        self.s.get_mut().fill(T::default());
        self.dgamma.get_mut().fill(f32::NAN);
        self.dbeta.get_mut().fill(f32::NAN);
    }
}

type Time<T> = Box<dyn FnMut(&mut Buffers<T>, u64) -> Duration + Send>;
type Answer<T> = Box<dyn FnMut(&mut Buffers<T>) + Send>;

/// Something that is timed.
pub(crate) struct Contender<T> {
    pub(crate) about: About,
    /// Takes the time of a number of calls.
    pub(crate) time: Time<T>,
    /// A call whose outputs end in the buffers.
    pub(crate) answer: Answer<T>,
}

impl<T: Number> Contender<T> {
    /// A contender whose calls write to given memory.
    pub(crate) fn new(about: About, call: impl FnMut(&mut Buffers<T>) + Clone + Send + 'static) -> Self {
        let mut timed = call.clone();
        let time = move |b: &mut Buffers<T>, repeats| {
            let start = Instant::now();
            for _ in 0..repeats {
                timed(black_box(b));
            }
            start.elapsed()
        };
        Self { about, time: Box::new(time), answer: Box::new(call) }
    }

    /// A contender whose calls return memory that they have allocated.
    pub(crate) fn returning<O>(
        about: About,
        call: impl Fn() -> O + Clone + Send + 'static,
        keep: impl Fn(O, &mut Buffers<T>) + Send + 'static,
    ) -> Self {
        let timed = call.clone();
        let time = move |_: &mut Buffers<T>, repeats| {
            let start = Instant::now();
            for _ in 0..repeats {
                black_box(timed());
            }
            start.elapsed()
        };
        Self { about, time: Box::new(time), answer: Box::new(move |b| keep(call(), b)) }
    }
}

/// The copy first, and the plain call of lanenorm after it; then the contenders that `wanted` names (all if it is
/// empty).
pub(crate) fn contenders<T: Number>(
    case: Case,
    mode: Mode,
    inputs: &Inputs<T>,
    wanted: &[String],
) -> Vec<Contender<T>> {
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|w| w == name);
    let mut all = ours::all(case, mode);
    let mut peers = T::peers_of_slices(case);
    if mode == Mode::One {
        peers.extend(T::baselines(case));
    }
    peers.extend(tensors::all(case, inputs, is_wanted));
    all.extend(peers.into_iter().filter(|c| is_wanted(c.about.name)));
    all
}

/// All names that `wanted` may have.
pub(crate) const PEERS: [&str; 8] =
    ["rten-vecmath", "numr", "candle-nn", "burn-flex", "aprender-compute", "lattice-compute", "naive", "welford"];

/// Whether lanenorm does the operation in place too: peers that work only in place are held against that.
pub(crate) fn has_in_place(op: Op) -> bool {
    !op.is_backward() && !op.is_of_images()
}
