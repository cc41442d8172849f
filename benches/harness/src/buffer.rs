//! Where buffers lie. Loads of x that are a few bytes behind stores of y modulo 4096 take up to twice as long: the
//! processor takes them for loads of what is being stored. An allocator deals out one offset, and a benchmark would
//! measure that one. Here offsets are drawn at random, several times for each case.

use rand::RngExt;
use rand::rngs::SmallRng;

const PAGE: usize = 4096;
const LINE: usize = 64;

/// Some elements that start at a random cache line of a page.
#[derive(Debug)]
pub struct Buffer<T> {
    memory: Vec<T>,
    start: usize,
    len: usize,
}

impl<T: Copy + Default> Buffer<T> {
    /// A buffer that holds `values`. Its pages have been touched.
    pub fn new(values: &[T], rng: &mut SmallRng) -> Self {
        let mut memory = vec![T::default(); values.len() + 2 * PAGE / size_of::<T>()];
        let start = Self::draw(&memory, rng);
        memory[start..start + values.len()].copy_from_slice(values);
        Self { memory, start, len: values.len() }
    }

    fn draw(memory: &[T], rng: &mut SmallRng) -> usize {
        let line = rng.random_range(0..PAGE / LINE);
        memory.as_ptr().align_offset(PAGE) + line * LINE / size_of::<T>()
    }

    /// The same values in the same pages, from another cache line on.
    pub fn shift(&mut self, rng: &mut SmallRng) {
        let start = Self::draw(&self.memory, rng);
        self.memory.copy_within(self.start..self.start + self.len, start);
        self.start = start;
    }

    /// The values.
    pub fn get(&self) -> &[T] {
        &self.memory[self.start..self.start + self.len]
    }

    /// The values.
    pub fn get_mut(&mut self) -> &mut [T] {
        &mut self.memory[self.start..self.start + self.len]
    }
}
