//! Where buffers lie. Loads of x slow down when they are a few bytes behind stores of y modulo 4096 (the processor
//! takes them for loads of what is being stored), by up to a factor of two. An allocator deals out one such offset
//! and a benchmark measures it; here offsets are drawn at random, several times for each case.

use rand::RngExt;
use rand::rngs::SmallRng;

use super::case::Tensor;

const PAGE: usize = 4096;
const LINE: usize = 64;

/// Some f32 that start at a random cache line of a page.
struct Buffer {
    memory: Vec<f32>,
    start: usize,
    len: usize,
}

impl Buffer {
    /// A buffer that holds `values`. Its pages have been touched.
    fn new(values: &[f32], rng: &mut SmallRng) -> Self {
        let mut memory = vec![0.0; values.len() + 2 * PAGE / size_of::<f32>()];
        let line = rng.random_range(0..PAGE / LINE);
        let start = memory.as_ptr().align_offset(PAGE) + line * LINE / size_of::<f32>();
        memory[start..start + values.len()].copy_from_slice(values);
        Self { memory, start, len: values.len() }
    }

    fn get(&self) -> &[f32] {
        &self.memory[self.start..self.start + self.len]
    }

    fn get_mut(&mut self) -> &mut [f32] {
        &mut self.memory[self.start..self.start + self.len]
    }
}

/// The buffers of one tensor.
struct Buffers {
    x: Buffer,
    gamma: Buffer,
    beta: Buffer,
    y: Buffer,
    residual: Buffer,
    s: Buffer,
    mean: Vec<f32>,
    rstd: Vec<f32>,
}

/// The buffers of all tensors of a case.
pub(crate) struct Placement(Vec<Buffers>);

/// The arguments of one call.
pub(crate) struct Call<'a> {
    pub(crate) x: &'a [f32],
    pub(crate) gamma: &'a [f32],
    pub(crate) beta: &'a [f32],
    /// Holds x at first, then whatever the last contender left there.
    pub(crate) y: &'a mut [f32],
    /// Negative zeros: x + residual is x, whose answers are known.
    pub(crate) residual: &'a [f32],
    /// Where the sum goes.
    pub(crate) s: &'a mut [f32],
    pub(crate) mean: &'a mut [f32],
    pub(crate) rstd: &'a mut [f32],
}

impl Placement {
    /// New buffers at new offsets.
    pub(crate) fn new(tensors: &[Tensor], rng: &mut SmallRng) -> Self {
        let mut place = |t: &Tensor| {
            let rows = t.x.len() / t.gamma.len();
            Buffers {
                x: Buffer::new(&t.x, rng),
                gamma: Buffer::new(&t.gamma, rng),
                beta: Buffer::new(&t.beta, rng),
                y: Buffer::new(&t.x, rng),
                residual: Buffer::new(&vec![-0.0; t.x.len()], rng),
                s: Buffer::new(&t.x, rng),
                mean: vec![0.0; rows],
                rstd: vec![0.0; rows],
            }
        };
        Self(tensors.iter().map(&mut place).collect())
    }

    /// One call for each tensor.
    pub(crate) fn calls<'a>(&'a mut self) -> Vec<Call<'a>> {
        let call = |b: &'a mut Buffers| Call {
            x: b.x.get(),
            gamma: b.gamma.get(),
            beta: b.beta.get(),
            y: b.y.get_mut(),
            residual: b.residual.get(),
            s: b.s.get_mut(),
            mean: &mut b.mean,
            rstd: &mut b.rstd,
        };
        self.0.iter_mut().map(call).collect()
    }
}
